//! A Postgres source's log: how much may be kept, and the way on when it is lost.

use std::fs;
use std::path::{Path, PathBuf};

use crossfade_harness::{Database, Options, PgVersion, Postgres, python};
use serde_json::Value;

use crate::common::{PATIENCE, Pipeline, code, folder, program};

/// A configuration with these lines in its `[source]`.
fn config(folder: &Path, source: &str, target: &str, lines: &str) -> PathBuf {
    let path = folder.join("pipeline.toml");
    let name = folder.file_name().expect("a name").to_string_lossy().replace('.', "");
    let text = format!("name = \"b{name}\"\n[source]\nurl = \"{source}\"\n{lines}\n[[target]]\nurl = \"{target}\"\n");
    fs::write(&path, text).expect("writing");
    path
}

fn ended(command: &str, config: &Path, more: &[&str]) -> crossfade_harness::Ended {
    let config = config.to_str().expect("UTF-8");
    program().args([command, "--config", config]).args(more).start().wait(PATIENCE)
}

#[test]
fn a_budget_for_the_log_warns_and_stops() {
    let server = Postgres::start(PgVersion::V18, Options::new());
    let source = server.fresh_database("budget");
    source.sql("create table t (id int primary key, v text); insert into t values (1, 'x')");
    let target = Postgres::shared(PgVersion::V15).fresh_database("dst");
    let (_keep, folder) = folder();
    let with = |lines: &str| config(&folder, &source.url(), &target.url(), lines);
    let warning = with("log_budget = \"8MiB\"");
    let first = ended("run", &warning, &["--until-caught-up"]);
    assert_eq!(code(&first), 0, "{}", first.stderr);
    source.sql("insert into t values (2, 'y')");
    assert_eq!(code(&ended("run", &warning, &["--until-caught-up"])), 0);
    source.sql("insert into t select i, repeat(md5(i::text), 10) from generate_series(10, 60000) i; checkpoint");
    // Nobody runs it, and the slot holds back more than it may.
    let lag = ended("lag", &warning, &["--json", "--warn", "1h", "--crit", "2h"]);
    assert_eq!(code(&lag), 1, "{}{}", lag.stdout, lag.stderr);
    let said: Value = serde_json::from_str(&lag.stdout).expect("JSON");
    let line = &said["pipelines"][0];
    assert!(line["retained"]["bytes"].as_u64().is_some_and(|b| b > 8 << 20), "{said:#}");
    assert!(line["concern"]["expected"].as_str().is_some_and(|e| e.contains("log_budget")), "{said:#}");
    let check = ended("check", &warning, &[]);
    assert_eq!(code(&check), 1, "{}{}", check.stdout, check.stderr);
    assert!(check.stdout.contains("at most 8.0 MiB held (log_budget)"), "{}", check.stdout);
    let status = ended("status", &warning, &[]);
    assert!(status.stdout.contains("wal_status") && status.stdout.contains("log_budget"), "{}", status.stdout);
    // Told to stop, it does; nothing is lost.
    let stopping = with("log_budget = \"8MiB\"\nlog_budget_action = \"stop\"");
    let stopped = ended("run", &stopping, &["--until-caught-up"]);
    assert_eq!(code(&stopped), 69, "{}", stopped.stderr);
    for word in ["more than its log_budget of 8.0 MiB", "raise log_budget", "slot drop"] {
        assert!(stopped.stderr.contains(word), "{word:?} is missing: {}", stopped.stderr);
    }
    assert_eq!(target.sql("select count(*) from t"), "2");
    // Only warned, it catches up, and the slot lets go of the log.
    let run = ended("run", &with("log_budget = \"8MiB\""), &["--until-caught-up"]);
    assert_eq!(code(&run), 0, "{}", run.stderr);
    assert!(run.stderr.contains("log kept at the source"), "{}", run.stderr);
    assert_eq!(target.sql("select count(*) from t"), source.sql("select count(*) from t"));
}

#[test]
fn a_budget_for_a_change_table() {
    let (_keep, folder) = folder();
    let path = folder.join("shop.db");
    python(
        "import sqlite3, sys\nsqlite3.connect(sys.argv[1]).executescript('create table t (id integer primary key, v text)')",
        &[path.to_str().expect("UTF-8")],
    );
    let target = format!("file://{}/lake", folder.display());
    let config = config(&folder, &format!("sqlite://{}", path.display()), &target, "log_budget = \"1kB\"");
    let run = ended("run", &config, &["--until-caught-up"]);
    assert_eq!(code(&run), 0, "{}", run.stderr);
    // An empty table of SQLite takes a page.
    let lag = ended("lag", &config, &["--json"]);
    assert_eq!(code(&lag), 1, "{}{}", lag.stdout, lag.stderr);
    assert!(lag.stdout.contains("_crossfade_change"), "{}", lag.stdout);
}

/// Runs until the log is lost; what is said then, and the way on.
fn lost(source: &Database, target: &Database, pipeline: &Pipeline, lose: impl Fn(), words: &[&str]) {
    source.sql("create table t (id int primary key, v text); insert into t values (1, 'x'), (2, 'y')");
    source.sql("create table u (id int primary key)");
    pipeline.catch_up();
    source.sql("update t set v = 'z' where id = 1; delete from t where id = 2");
    lose();
    source.sql("insert into u values (7)");
    let run = pipeline.ended("run", &["--until-caught-up"]);
    assert!([69, 78].contains(&code(&run)), "{}", run.stderr);
    for word in words.iter().chain(&["snapshot '*'"]) {
        assert!(run.stderr.contains(word), "{word:?} is missing: {}", run.stderr);
    }
    // One table alone is no way on: the others would lack what the log held. Nothing is touched.
    let alone = pipeline.ended("snapshot", &["t"]);
    assert!([69, 78].contains(&code(&alone)), "{}", alone.stderr);
    assert!(alone.stderr.contains("snapshot '*'"), "{}", alone.stderr);
    assert_eq!(target.sql("select count(*) from t"), "2", "nothing was touched");
    let dropped = pipeline.ended("uninstall", &[]);
    assert_eq!(code(&dropped), 0, "{}", dropped.stderr);
    let again = pipeline.ended("snapshot", &["*"]);
    assert_eq!(code(&again), 0, "{}", again.stderr);
    pipeline.catch_up();
    assert_eq!(pipeline.verify_equal(), 2);
    source.sql("insert into t values (3, 'after')");
    pipeline.catch_up();
    assert_eq!(target.sql("select string_agg(id || v, ',' order by id) from t"), "1z,3after");
}

#[test]
fn a_slot_that_lost_its_log() {
    for version in [PgVersion::V15, PgVersion::V18] {
        let server = Postgres::start(version, Options::new().set("max_slot_wal_keep_size", "1MB"));
        let source = server.fresh_database("lost");
        let target = Postgres::shared(PgVersion::V15).fresh_database("dst");
        let pipeline = Pipeline::new("lost", &source.url(), &[&target.url()]);
        let lose = || {
            for _ in 0..4 {
                source.sql("select pg_logical_emit_message(true, '', 'x'), pg_switch_wal()");
            }
            source.sql("checkpoint");
            let status = source.sql("select wal_status from pg_replication_slots");
            assert_eq!(status, "lost");
            let lag = pipeline.ended("lag", &[]);
            assert_eq!(code(&lag), 2, "{}{}", lag.stdout, lag.stderr);
            assert!(lag.stdout.contains("has discarded log"), "{}", lag.stdout);
        };
        lost(&source, &target, &pipeline, lose, &["lost"]);
    }
}

#[test]
fn a_slot_that_nobody_used() {
    let server = Postgres::start(PgVersion::V18, Options::new().set("idle_replication_slot_timeout", "1s"));
    let source = server.fresh_database("idle");
    let target = Postgres::shared(PgVersion::V15).fresh_database("dst");
    let pipeline = Pipeline::new("idle", &source.url(), &[&target.url()]);
    let lose = || {
        // The server looks at each checkpoint.
        while source.sql("checkpoint; select wal_status from pg_replication_slots") != "lost" {
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    };
    lost(&source, &target, &pipeline, lose, &["idle_timeout"]);
}

#[test]
fn a_slot_that_was_dropped_or_made_again() {
    for made_again in [false, true] {
        let source = Postgres::shared(PgVersion::V18).fresh_database("gone");
        let target = Postgres::shared(PgVersion::V15).fresh_database("dst");
        let pipeline = Pipeline::new("gone", &source.url(), &[&target.url()]);
        let lose = || {
            let ours = "from pg_replication_slots where database = current_database()";
            let name = source.sql(&format!("select slot_name {ours}"));
            source.sql(&format!("select pg_drop_replication_slot('{name}')"));
            if made_again {
                source.sql(&format!("select pg_create_logical_replication_slot('{name}', 'pgoutput')"));
            }
        };
        let words = if made_again { ["created again", "is gone"] } else { ["it is gone", "somebody dropped it"] };
        lost(&source, &target, &pipeline, lose, &words);
    }
}
