//! Postgres 15 and 18 to Postgres 15 and 18: Chinook and Sakila, with a writer running all along; killed ten times; what is made
//! at the source is removed at the end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crossfade_harness::{Database, PgVersion, Postgres};

use crate::common::{PATIENCE, Pipeline, StopOnDrop, code};
use crate::postgres_samples::{CHINOOK, SAKILA, Sample};

fn with_a_writer_running(sample: &Sample, from: PgVersion, to: PgVersion) {
    let source = sample.load(from);
    let target = Postgres::shared(to).fresh_database("dst");
    let pipeline = Pipeline::new("pgpg", &source.url(), &[&target.url()]);
    sample.follow_the_findings(&pipeline, &source);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stopped = StopOnDrop(&stop);
        scope.spawn(|| sample.write_until(&source, &stop));
        let mut daemon = pipeline.command("run", &[]).start();
        daemon.wait_for("starting", PATIENCE);
        let caught_up = pipeline.ended("catch-up", &["--timeout", "200s"]);
        assert!(caught_up.status.success(), "{}\n{}", caught_up.stderr, daemon.stderr());
        assert_eq!(pipeline.verify_equal(), sample.tables, "every base table arrived");
        stop.store(true, Ordering::SeqCst);
        daemon.signal("TERM");
        let ended = daemon.wait(PATIENCE);
        assert_eq!(code(&ended), 0, "SIGTERM drains: {}", ended.stderr);
    });
    pipeline.catch_up();
    assert_eq!(pipeline.verify_equal(), sample.tables);
    same_contents(&source, &target);
    let slots = "select count(*) from pg_replication_slots where database = current_database()";
    assert_eq!(source.sql(slots), "1");
    assert!(pipeline.ended("uninstall", &[]).status.success());
    assert_eq!(source.sql("select count(*) from pg_publication"), "0", "nothing is left behind");
    assert_eq!(source.sql(slots), "0", "nor the slot");
}

/// The servers' own counts and hashes of the rows' text, beside the fingerprints.
pub fn same_contents(source: &Database, target: &Database) {
    let tables = source.sql("select tablename from pg_tables where schemaname = 'public'");
    for table in tables.lines() {
        let sql = format!(
            "set datestyle = iso; select count(*), sum(hashtextextended(t::text, 0)::numeric) from only public.\"{table}\" t"
        );
        assert_eq!(source.sql(&sql), target.sql(&sql), "{table}");
    }
}

fn killed_ten_times(sample: &Sample, from: PgVersion, to: PgVersion, seed: u64) {
    let source = sample.load(from);
    let target = Postgres::shared(to).fresh_database("dst");
    let pipeline = Pipeline::new("pgkill", &source.url(), &[&target.url()]);
    sample.follow_the_findings(&pipeline, &source);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stopped = StopOnDrop(&stop);
        scope.spawn(|| sample.write_until(&source, &stop));
        for round in 0..10u64 {
            let limit = Duration::from_millis(150 + round * 200);
            let ended = pipeline.command("run", &[]).start().kill_within(limit, seed * 100 + round);
            assert!(ended.status.code().is_none(), "round {round}: {}: {}", ended.status, ended.stderr);
        }
        stop.store(true, Ordering::SeqCst);
    });
    pipeline.catch_up();
    assert_eq!(pipeline.verify_equal(), sample.tables);
    same_contents(&source, &target);
    assert!(pipeline.ended("uninstall", &[]).status.success());
}

#[test]
fn chinook_from_postgres_to_postgres_18() {
    with_a_writer_running(&CHINOOK, PgVersion::V15, PgVersion::V18);
}

#[test]
fn sakila_from_postgres_to_postgres_18() {
    with_a_writer_running(&SAKILA, PgVersion::V15, PgVersion::V18);
}

#[test]
fn sakila_from_postgres_18_to_postgres_18() {
    with_a_writer_running(&SAKILA, PgVersion::V18, PgVersion::V18);
}

#[test]
fn chinook_from_postgres_killed_ten_times() {
    killed_ten_times(&CHINOOK, PgVersion::V15, PgVersion::V15, 5);
}

#[test]
fn sakila_from_postgres_killed_ten_times() {
    killed_ten_times(&SAKILA, PgVersion::V15, PgVersion::V18, 6);
}

#[test]
fn sakila_from_postgres_18_killed_ten_times() {
    killed_ten_times(&SAKILA, PgVersion::V18, PgVersion::V18, 7);
}
