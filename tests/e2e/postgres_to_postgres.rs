//! Postgres 15 and 18 to Postgres 15 and 18: Chinook and Sakila, with a writer running all along; killed ten times; what is made
//! at the source is removed at the end.

use std::time::Duration;

use crossfade_harness::{Database, PgVersion, Postgres};

use crate::common::{Pipeline, while_writing};
use crate::postgres_samples::{CHINOOK, SAKILA, Sample};

fn with_a_writer_running(sample: &Sample, from: PgVersion, to: PgVersion) {
    let source = sample.load(from);
    let target = Postgres::shared(to).fresh_database("dst");
    let pipeline = Pipeline::new("pgpg", &source.url(), &[&target.url()]);
    sample.follow_the_findings(&pipeline, &source);
    while_writing(
        1,
        |_, stop| sample.write_until(&source, stop),
        |stop| pipeline.level_under_load(sample.tables, stop),
    );
    pipeline.level(sample.tables);
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
    while_writing(
        1,
        |_, stop| sample.write_until(&source, stop),
        |_| pipeline.killed(10, Duration::from_millis(150), Duration::from_millis(200), seed),
    );
    pipeline.level(sample.tables);
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
