//! Comparisons in chunks on real servers: while rows change and move from range to range, where a chunk differs, and through a kill.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use std::{process, thread};

use crossfade::ledger::{Event, Ledger};
use crossfade::verify::chunk::Settled;
use crossfade::verify::{TableProof, Verdict};
use crossfade_harness::{Database, MariaDb, MySql, PgVersion, Postgres, python};
use serde_json::Value;

use crate::common::{PATIENCE, code, folder, while_writing};
use crate::differences::at_ease;
use crate::ledger::Kept;

/// One range behind each fence: a fence takes longer than that.
const SHORT: &str = "[limits]\nchunk_rows = 250\n[proof]\nsnapshot = \"1ms\"\n";

/// Changes rows, and moves some from one range to another and back.
fn write(source: &Database, stop: &AtomicBool) -> usize {
    let mut n = 0;
    while !stop.load(Ordering::SeqCst) {
        n += 1;
        source.sql(&format!(
            "update t set v = 'n{n}' where id % 70 = {n} % 7 * 10;
             update t set id = id + 4005 where id % 10 = 0 and id % 30 = {n} % 3 * 10 and id < 5000;
             insert into t values (100000 + {n}, 'new'); delete from t where id = 100000 + {n} - 3;
             update t set id = id - 4005 where id % 10 = 5;"
        ));
    }
    n
}

fn verify(kept: &Kept, exit: i32) -> Value {
    serde_json::from_str(&kept.told(exit, "verify", &["--json"])).expect("JSON")
}

/// The proof of the table of this name.
fn of<'p>(proof: &'p Value, table: &str) -> &'p Value {
    let all = proof["tables"].as_array().expect("tables");
    all.iter().find(|t| t["table"].as_str().is_some_and(|n| n.ends_with(&format!(".{table}")))).expect("the table")
}

fn chunks(proof: &Value) -> &[Value] {
    proof["chunks"].as_array().map_or(&[], Vec::as_slice)
}

/// Equal in chunks while somebody writes, and then different where the target was changed.
fn proves(source: &Database, target: &Database, kept: &Kept) {
    let mut daemon = kept.command("run", &[]).start();
    daemon.wait_for("starting", PATIENCE);
    assert_eq!(code(&kept.ended("catch-up", &["--timeout", "200s"])), 0, "{}", daemon.stderr());
    while_writing(
        1,
        |_, stop| write(source, stop),
        |_| {
            let proof = verify(kept, 0);
            let t = of(&proof, "t");
            assert!(chunks(t).len() >= 4, "{proof:#}");
            assert_eq!((&t["verdict"], &t["source_fingerprint"]), (&"equal".into(), &Value::Null));
            assert_ne!(proof["through"], Value::Null, "it took several fences");
            assert_ne!(chunks(t)[0]["at_micros"], chunks(t)[3]["at_micros"]);
            assert_eq!(chunks(of(&proof, "named")).len(), 0, "collations differ, so it is read whole");
        },
    );
    assert_eq!(code(&kept.ended("catch-up", &["--timeout", "200s"])), 0, "{}", daemon.stderr());
    target.sql(
        "update t set v = 'wrong' where id = 4500; delete from t where id = 20; insert into t values (200000, 'x')",
    );
    let proof = verify(kept, 2);
    let t = of(&proof, "t");
    let listed = t["differences"]["listed"].as_array().expect("rows");
    let mut found: Vec<String> = listed.iter().map(|d| format!("{} {}", d["kind"], d["key"][0]["value"])).collect();
    found.sort();
    assert_eq!(found, ["\"different\" \"4500\"", "\"extra\" \"200000\"", "\"missing\" \"20\""], "{t:#}");
    assert!(listed.iter().all(|d| d["recheck"]["state"] == "lasting"), "{t:#}");
    assert_eq!(t["differences"]["recheck"]["extra"], 1, "all chunks together: {t:#}");
    assert_eq!(chunks(t).iter().filter(|c| c["verdict"] == "different").count(), 3, "one in each of three chunks");
    assert_eq!(of(&proof, "named")["verdict"], "equal");
    let text = kept.told(2, "verify", &[]);
    assert!(text.contains("chunks, each at its position") && text.contains("It took several fences"), "{text}");
    kept.told(0, "repair", &["--apply"]);
    verify(kept, 0);
    daemon.signal("TERM");
    assert_eq!(code(&daemon.wait(PATIENCE)), 0);
}

const ROWS: &str =
    "create table t (id bigint primary key, v varchar(20)); create table named (k varchar(20) primary key, v int);";

#[test]
fn chunks_of_a_mariadb_table_that_is_written_to() {
    let source = MariaDb::shared().fresh_database("chunks");
    source.sql(&format!(
        "{ROWS} insert into t select seq * 10, 'v' from seq_1_to_1000; insert into named select concat('K', seq), seq from seq_1_to_300"
    ));
    let target = Postgres::shared(PgVersion::V15).fresh_database("chunks");
    let (_folder, path) = folder();
    let kept = Kept::new(&path, &source.url(), &target.url(), SHORT);
    at_ease(&target, source.name());
    proves(&source, &target, &kept);
}

#[test]
fn chunks_of_a_postgres_table_that_is_written_to() {
    let source = Postgres::shared(PgVersion::V18).fresh_database("chunks");
    source.sql(&format!(
        "{ROWS} insert into t select n * 10, 'v' from generate_series(1, 1000) n;
         insert into named select 'K' || n, n from generate_series(1, 300) n;
         create table ids (id uuid primary key, v int); insert into ids select gen_random_uuid(), n from generate_series(1, 450) n;
         create table parts (a int, b bytea, v int, primary key (a, b));
         insert into parts select n / 50, decode(md5(n::text), 'hex'), n from generate_series(1, 450) n"
    ));
    let target = Postgres::shared(PgVersion::V15).fresh_database("chunks");
    let (_folder, path) = folder();
    let kept = Kept::new(&path, &source.url(), &target.url(), SHORT);
    at_ease(&target, "public");
    proves(&source, &target, &kept);
    let proof = verify(&kept, 0);
    for table in ["ids", "parts"] {
        let table = of(&proof, table);
        assert!(chunks(table).len() >= 2, "{table:#}");
        assert_eq!((&table["source_rows"], &table["target_rows"]), (&450.into(), &450.into()));
    }
    assert_eq!(code(&kept.ended("uninstall", &[])), 0);
}

/// By a stock SQLite.
fn sqlite(database: &Path, script: &str) {
    let code = "import sqlite3, sys\nsqlite3.connect(sys.argv[1], isolation_level=None).executescript(sys.argv[2])\n";
    python(code, &[database.to_str().expect("UTF-8"), script]);
}

#[test]
fn chunks_of_a_sqlite_table_and_a_parquet_log_that_is_read_whole() {
    let (_folder, path) = folder();
    let file = path.join("shop.sqlite");
    sqlite(
        &file,
        "create table t (id integer primary key, v text);
         with recursive n(i) as (select 1 union all select i + 1 from n where i < 1000) insert into t select i, 'v' || i from n;",
    );
    let from = format!("sqlite://{}", file.display());
    let target = Postgres::shared(PgVersion::V15).fresh_database("chunks");
    let kept = Kept::new(&path, &from, &target.url(), SHORT);
    assert_eq!(code(&kept.ended("run", &["--until-caught-up"])), 0);
    let proof = verify(&kept, 0);
    assert!(chunks(of(&proof, "t")).len() >= 4, "{proof:#}");

    std::fs::create_dir(path.join("lake")).expect("a folder");
    let kept = Kept::new(&path.join("lake"), &from, &format!("file://{}", path.join("lake/out").display()), SHORT);
    assert_eq!(code(&kept.ended("run", &["--until-caught-up"])), 0);
    let proof = verify(&kept, 0);
    let t = of(&proof, "t");
    assert_eq!((chunks(t).len(), &t["source_rows"]), (0, &1000.into()), "files have no order: {proof:#}");
    assert!(t["uncut"].as_str().is_some_and(|why| why.contains("not ordered in the same way")), "{proof:#}");
}

/// What a comparison on schedule has settled so far.
fn unfinished(kept: &Kept) -> Vec<Settled> {
    let ledger = Ledger::open_read_in(&kept.state, &kept.name).expect("a ledger that can be read");
    ledger.map(|l| l.unfinished(0).expect("chunks")).unwrap_or_default()
}

fn wait_until(what: &str, is: impl Fn() -> bool) {
    let began = Instant::now();
    while !is() {
        assert!(began.elapsed() < PATIENCE, "{what}");
        thread::sleep(std::time::Duration::from_millis(50));
    }
}

/// A comparison on schedule reads all of `a` and stands before `z`, which is locked, when the daemon is killed. Then something is done,
/// and another daemon goes on. Returns what was settled before, and the proof.
fn broken_off(prefix: &str, meanwhile: impl Fn(&Database)) -> (Vec<Settled>, TableProof) {
    let source = MySql::shared().fresh_database(prefix);
    source.sql(
        "create table a (id int primary key, v int); create table z (id int primary key);
         insert into a with recursive n(i) as (select 1 union all select i + 1 from n where i < 500) select i, i from n;
         insert into z values (1)",
    );
    let target = Postgres::shared(PgVersion::V15).fresh_database(prefix);
    let (_folder, path) = folder();
    // The copy is done by a process that compares nothing by itself.
    let kept = Kept::new(&path, &source.url(), &target.url(), SHORT);
    assert_eq!(code(&kept.ended("catch-up", &["--timeout", "200s"])), 0);
    let kept = Kept::new(&path, &source.url(), &target.url(), &format!("{SHORT}every = \"1h\"\n"));
    let mark = format!("crossfade-lock-{}", process::id());
    let schema = source.name();
    let lock = format!(
        "set application_name = '{mark}'; begin; lock table \"{schema}\".z in access exclusive mode; select pg_sleep(200)"
    );
    let before = thread::scope(|scope| {
        let locker = scope.spawn(|| target.try_sql(&lock));
        let held = format!(
            "select count(*) from pg_stat_activity where application_name = '{mark}' and query like '%pg_sleep%' and wait_event = 'PgSleep'"
        );
        wait_until("z is locked", || target.sql(&held) == "1");
        let daemon = kept.command("run", &[]).start();
        wait_until("a is read", || unfinished(&kept).last().is_some_and(|s| s.table.name == "a" && s.ends()));
        let before = unfinished(&kept);
        daemon.kill();
        target
            .sql(&format!("select pg_terminate_backend(pid) from pg_stat_activity where application_name = '{mark}'"));
        drop(locker.join().expect("a thread"));
        before
    });
    meanwhile(&source);
    let daemon = kept.command("run", &[]).start();
    let proof = kept.wait_for("verification", |e| matches!(e, Event::Verification(_)));
    let Event::Verification(v) = proof.event else { unreachable!() };
    daemon.kill();
    assert_eq!((v.proof.verdict, v.whole), (Verdict::Equal, true), "{:#?}", v.proof);
    assert!(unfinished(&kept).is_empty(), "it has ended");
    let a = v.proof.tables.into_iter().find(|t| t.table.ends_with(".a")).expect("a");
    (before, a)
}

#[test]
fn a_comparison_that_was_killed_goes_on_where_it_was() {
    let (before, a) = broken_off("goeson", |_| {});
    assert_eq!(before.len(), 2, "{before:#?}");
    let then: Vec<_> = before.iter().map(|s| (s.range.clone(), s.position.clone(), s.at_micros)).collect();
    let now: Vec<_> = a.chunks.iter().map(|c| (c.range.clone(), c.position.clone(), c.at_micros)).collect();
    assert_eq!(now, then, "nothing was read twice");
    assert_eq!((a.source_rows, a.target_rows), (Some(500), Some(500)));
}

#[test]
fn a_table_whose_shape_has_changed_is_compared_anew() {
    let (before, a) = broken_off("anew", |source| {
        source.sql("alter table a add column w int; insert into a values (501, 1, 1)");
    });
    let last = before.last().expect("chunks").at_micros;
    assert!(a.chunks.iter().all(|c| c.at_micros > last), "{a:#?}");
    assert_eq!((a.source_rows, a.chunks.len()), (Some(501), 3));
}
