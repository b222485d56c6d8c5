//! `kill -9` at random moments of copy and stream, and what is there afterwards.

use std::path::Path;
use std::time::Duration;

use crossfade_harness::{Client, MariaDb, MySql, PgVersion, Postgres};

use crate::common::{PATIENCE, Pipeline, folder, load_sample, while_writing};
use crate::mysql_to_postgres::{CHINOOK, SAKILA, Sample, write_until};

/// Kills the daemon ten times, the first ones within the copy, and ends in `verify`.
fn killed_ten_times(client: &Client, sample: &Sample, seed: u64) {
    let source = client.fresh_database("src");
    load_sample(client, sample.files, sample.original, &source);
    let target = Postgres::shared(PgVersion::V15).fresh_database("dst");
    let pipeline = Pipeline::new("kill", &source.url(), &[&target.url()]);
    while_writing(
        1,
        |_, stop| write_until(client, source.name(), sample, stop),
        |_| pipeline.killed(10, Duration::from_millis(150), Duration::from_millis(200), seed),
    );
    pipeline.level(sample.tables);
}

#[test]
fn mysql_sakila_killed_ten_times() {
    killed_ten_times(MySql::shared(), &SAKILA, 1);
}

#[test]
fn mariadb_sakila_killed_ten_times() {
    killed_ten_times(MariaDb::shared(), &SAKILA, 2);
}

#[test]
fn mysql_chinook_killed_ten_times() {
    killed_ten_times(MySql::shared(), &CHINOOK, 3);
}

#[test]
fn mariadb_chinook_killed_ten_times() {
    killed_ten_times(MariaDb::shared(), &CHINOOK, 4);
}

#[test]
fn a_second_run_stops_at_once_and_says_who_owns_it() {
    let client: &Client = MariaDb::shared();
    let source = client.fresh_database("src");
    source.sql("create table t (id int primary key); insert into t values (1)");
    let target = Postgres::shared(PgVersion::V15).fresh_database("dst");
    let pipeline = Pipeline::new("own", &source.url(), &[&target.url()]);
    let (here, elsewhere) = (folder(), folder());
    let run = |at: &Path| pipeline.command("run", &[]).env("RUNTIME_DIRECTORY", at.to_str().expect("UTF-8")).start();
    let mut first = run(&here.1);
    first.wait_for("complete, streaming", PATIENCE);
    let second = run(&here.1).wait(PATIENCE);
    assert_eq!(second.status.code(), Some(75), "{}", second.stderr);
    assert!(second.stderr.contains(&format!("process {} on this machine", first.pid())), "{}", second.stderr);
    // From another machine there is no control socket to ask: the target itself must refuse.
    let third = run(&elsewhere.1).wait(PATIENCE);
    assert_eq!(third.status.code(), Some(75), "{}", third.stderr);
    assert!(third.stderr.contains(&format!("process {}", first.pid())), "names the owner: {}", third.stderr);
    assert!(!third.stderr.contains("on this machine"), "the target said so: {}", third.stderr);
    first.signal("TERM");
    assert!(first.wait(PATIENCE).status.success());
    pipeline.catch_up();
    pipeline.verify_equal();
}
