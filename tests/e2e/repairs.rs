//! `repair` on real servers: a dry run writes nothing, and its statements mend by hand; killed in the middle it loses nothing; what the
//! source changes meanwhile is not set back; a row that the target refuses is told. `mutations.rs` mends what can go wrong.

use std::sync::atomic::{AtomicBool, Ordering};

use crossfade_harness::{Database, MariaDb, PgVersion, Postgres};
use serde_json::Value;

use crate::common::{PATIENCE, Pipeline, code, folder, while_writing};
use crate::differences::{SHOP, at_ease};

/// Writes rows of its own, and leaves those that are damaged alone.
fn write(source: &Database, stop: &AtomicBool) -> usize {
    let mut n = 0;
    while !stop.load(Ordering::SeqCst) {
        source.sql(&format!(
            "insert into purchase select 10000 + {n}, 5, 1.5, 2.5, '2025-01-01', null, x'00';
             update purchase set amount = amount + 1 where id in (10000 + {n}, 10000 + {n} - 5);
             delete from purchase where id = 10000 + {n} - 7; insert into event values ('written', {n})"
        ));
        n += 1;
    }
    n
}

/// The only table that a repair touched.
fn only(report: &Value) -> &Value {
    let tables = report["tables"].as_array().expect("tables");
    assert_eq!(tables.len(), 1, "{report:#}");
    &tables[0]
}

fn statements(table: &Value) -> Vec<String> {
    let listed = table["listed"].as_array().expect("a list");
    listed.iter().map(|deed| deed["statement"].as_str().expect("a statement").to_owned()).collect()
}

#[test]
fn what_a_dry_run_prints_mends_by_hand_and_nothing_is_written_before() {
    let source = MariaDb::shared().fresh_database("by_hand");
    source.sql(SHOP);
    source.sql(
        "create table odd (a varchar(20), b bigint unsigned, t time(3), d date, j json, f float, u text, primary key (a, b));
         insert into odd values ('it''s', 18446744073709551615, '-838:59:58.5', '0044-03-15', '{\"a\": 1.50}', 0.1, 'a\\\\b'),
            ('é', 0, '00:00:01', '9999-12-31', null, -1e30, '')",
    );
    let target = Postgres::shared(PgVersion::V15).fresh_database("by_hand");
    let pipeline = Pipeline::new("by-hand", &source.url(), &[&target.url()]);
    pipeline.level(4);
    at_ease(&target, source.name());
    let damage =
        "update purchase set amount = 0, weight = 0, placed = now(), seen = now(), payload = null where id = 12;
         update purchase set seen = null where id = 14; delete from purchase where id = 13; delete from odd where b > 0;
         update odd set t = '1 s', d = null, j = '{}', f = 1, u = null; insert into customer values (9000, 'x', 'y')";
    target.sql(damage);
    let told = pipeline.json("repair", &[]);
    assert_eq!((&told["applied"], &told["proof"]["verdict"]), (&false.into(), &"different".into()));
    assert_eq!(pipeline.json("verify", &[])["verdict"], "different", "a dry run writes nothing");
    let all: Vec<String> = told["tables"].as_array().expect("tables").iter().flat_map(statements).collect();
    assert_eq!(all.len(), 6, "{told:#}");
    all.iter().for_each(|statement| drop(target.sql(statement)));
    pipeline.verify_equal();

    // The same for people, and without a daemon by the pipeline itself.
    target.sql(damage);
    let ended = pipeline.ended("repair", &["--table", "*.customer"]);
    assert_eq!(code(&ended), 2, "{}", ended.stderr);
    let delete = format!("DELETE FROM \"{}\".\"customer\" WHERE \"id\" = 9000;", source.name());
    assert!(ended.stdout.contains(&delete) && ended.stdout.contains("--apply"), "{}", ended.stdout);
    let ended = pipeline.ended("repair", &["--apply"]);
    assert_eq!(code(&ended), 0, "{}{}", ended.stdout, ended.stderr);
    pipeline.verify_equal();
}

#[test]
fn a_kill_in_the_middle_of_a_repair_loses_nothing() {
    let source = MariaDb::shared().fresh_database("killed");
    source.sql(SHOP);
    source.sql("insert into purchase select seq, 7, 1, 1, '2024-01-01', null, null from seq_20001_to_32000");
    let target = Postgres::shared(PgVersion::V15).fresh_database("killed");
    let pipeline = Pipeline::new("killed", &source.url(), &[&target.url()]);
    pipeline.level(3);
    at_ease(&target, source.name());
    while_writing(
        1,
        |_, stop| write(&source, stop),
        |_| {
            // Each moment is another: after the first rows, and a little later.
            for round in 0..4 {
                target.sql("update purchase set amount = amount + 1; delete from purchase where id % 3 = 0");
                let mut daemon = pipeline.command("run", &[]).start();
                daemon.wait_for("starting", PATIENCE);
                assert!(pipeline.ended("catch-up", &["--timeout", "200s"]).status.success(), "{}", daemon.stderr());
                let repair = pipeline.command("repair", &["--apply"]).start();
                daemon.wait_for("row repaired", PATIENCE);
                let killed = daemon.kill_within(std::time::Duration::from_millis(1 + 60 * round), round);
                assert!(killed.status.code().is_none(), "it ended by itself: {}", killed.stderr);
                assert_ne!(code(&repair.wait(PATIENCE)), 2, "nobody told it what it came to");
                let done = pipeline.json("repair", &["--apply"]);
                assert_eq!(done["proof"]["verdict"], "equal", "{done:#}");
            }
        },
    );
    pipeline.level(3);
}

#[test]
fn rows_that_the_source_changes_meanwhile_are_not_set_back() {
    let source = MariaDb::shared().fresh_database("hot");
    source.sql("create table t (id int primary key, n int not null); insert into t select seq, 0 from seq_1_to_50");
    let target = Postgres::shared(PgVersion::V15).fresh_database("hot");
    let pipeline = Pipeline::new("hot", &source.url(), &[&target.url()]);
    pipeline.level(1);
    at_ease(&target, source.name());
    let hot = |stop: &AtomicBool| {
        let mut n = 0;
        while !stop.load(Ordering::SeqCst) {
            n += 1;
            source.sql(&format!("update t set n = n + 1 where id % 10 = {n} % 10; delete from t where id = {n} % 50; insert ignore into t values ({n} % 50, {n})"));
        }
        n
    };
    while_writing(
        1,
        |_, stop| hot(stop),
        |_| {
            let mut daemon = pipeline.command("run", &[]).start();
            daemon.wait_for("starting", PATIENCE);
            for _ in 0..10 {
                target.sql("update t set n = -1; insert into t values (1000, 1)");
                let ended = pipeline.ended("repair", &["--apply"]);
                assert_eq!(code(&ended), 0, "{}{}\n{}", ended.stdout, ended.stderr, daemon.stderr());
            }
            daemon.signal("TERM");
            assert_eq!(code(&daemon.wait(PATIENCE)), 0);
        },
    );
    pipeline.level(1);
}

#[test]
fn what_never_was_in_the_log_is_brought_to_every_target() {
    let source = MariaDb::shared().fresh_database("unlogged");
    source.sql("create table t (id int primary key, v varchar(20)); insert into t select seq, 'v' from seq_1_to_100");
    let target = Postgres::shared(PgVersion::V15).fresh_database("unlogged");
    let (_folder, path) = folder();
    let pipeline = Pipeline::new("unlogged", &source.url(), &[&target.url(), &format!("file://{}", path.display())]);
    pipeline.level(2);
    source.sql("set sql_log_bin = 0; update t set v = 'x' where id = 5; delete from t where id = 6; insert into t values (101, 'new')");
    let told = pipeline.json("repair", &[]);
    let tables = told["tables"].as_array().expect("tables");
    assert_eq!(tables.len(), 2, "one at each target: {told:#}");
    for table in tables {
        let mut ops: Vec<_> = table["listed"].as_array().expect("a list").iter().map(|d| d["op"].clone()).collect();
        ops.sort_by_key(ToString::to_string);
        assert_eq!(ops, ["delete", "insert", "update"], "{told:#}");
    }
    // A history has no statements: it gets the row's present state appended.
    assert!(tables[1]["listed"][0].get("statement").is_none(), "{told:#}");
    let done = pipeline.json("repair", &["--apply"]);
    assert_eq!(done["proof"]["verdict"], "equal", "{done:#}");
    source.sql("update t set v = 'later' where id in (5, 101)");
    pipeline.level(2);
}

#[test]
fn a_row_that_the_target_refuses_is_told_and_the_pipeline_goes_on() {
    let source = MariaDb::shared().fresh_database("refusing");
    source.sql("create table t (id int primary key, v varchar(20)); insert into t select seq, 'v' from seq_1_to_10");
    let target = Postgres::shared(PgVersion::V15).fresh_database("refusing");
    let pipeline = Pipeline::new("refusing", &source.url(), &[&target.url()]);
    pipeline.level(1);
    at_ease(&target, source.name());
    let mut daemon = pipeline.command("run", &[]).start();
    daemon.wait_for("starting", PATIENCE);
    target.sql("update t set v = 'w' where id = 3; alter table t add constraint only_w check (v = 'w') not valid");
    let done = pipeline.json("repair", &["--apply"]);
    assert_eq!(done["proof"]["verdict"], "different", "{done:#}");
    assert!(only(&done)["refused"].as_str().expect("a reason").contains("only_w"), "{done:#}");
    target.sql("alter table t drop constraint only_w");
    let done = pipeline.json("repair", &["--apply"]);
    assert_eq!(done["proof"]["verdict"], "equal", "{done:#}");
    daemon.signal("TERM");
    assert_eq!(code(&daemon.wait(PATIENCE)), 0);
    pipeline.level(1);
}
