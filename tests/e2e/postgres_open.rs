//! Large transactions of a Postgres source, which come while they are open: several at a time, with savepoints rolled back, and
//! Crossfade killed in the middle of them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crossfade_harness::{Database, PgVersion, Postgres};

use crate::common::{Pipeline, StopOnDrop};
use crate::postgres_to_postgres::same_contents;

/// The least that a server may be told to keep in memory.
const SMALL: &str = "options=-c%20logical_decoding_work_mem%3D64kB";
const AT_ONCE: &str = "options=-c%20debug_logical_replication_streaming%3Dimmediate";

/// One transaction after the other on rows of its own, whose numbers are a writer's number modulo two.
fn write(source: &Database, writer: u32, stop: &AtomicBool) {
    let mut round = 0;
    while !stop.load(Ordering::SeqCst) || round < 8 {
        let from = round * 2000;
        let rows = |value: &str| {
            format!(
                "insert into a select 2 * i + {writer}, {round}, '{value}' from generate_series({from}, {from} + 1999) i \
                 on conflict (id) do update set v = excluded.v;"
            )
        };
        let end = if round % 4 == 3 { "rollback" } else { "commit" };
        source.sql(&format!(
            "begin; {} savepoint s; {} update a set n = -1 where id % 2 = {writer} and id % 3 = 0; rollback to s; \
             savepoint r; delete from a where id % 2 = {writer} and id % 7 = {round} % 7; release r; \
             insert into b select i, {writer}, {round} from generate_series(1, 500) i on conflict (id, w) do update set n = {round}; \
             {end}",
            rows("kept"),
            rows("never"),
        ));
        round += 1;
    }
}

fn killed(from: PgVersion, query: &str, seed: u64) {
    let source = Postgres::shared(from).fresh_database("src");
    source.sql(
        "create table a (id bigint primary key, n int, v text); create table b (id int, w int, n int, primary key (id, w))",
    );
    let target = Postgres::shared(PgVersion::V18).fresh_database("dst");
    let pipeline = Pipeline::new("open", &format!("{}?{query}", source.url()), &[&target.url()]);
    pipeline.catch_up();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stopped = StopOnDrop(&stop);
        for writer in 0..2 {
            let (source, stop) = (&source, &stop);
            scope.spawn(move || write(source, writer, stop));
        }
        for round in 0..6u64 {
            let limit = Duration::from_millis(300 + round * 400);
            let ended = pipeline.command("run", &[]).start().kill_within(limit, seed * 100 + round);
            assert!(ended.status.code().is_none(), "round {round}: {}: {}", ended.status, ended.stderr);
        }
        stop.store(true, Ordering::SeqCst);
    });
    pipeline.catch_up();
    assert_eq!(pipeline.verify_equal(), 2);
    same_contents(&source, &target);
    assert_ne!(target.sql("select count(*) from a where v = 'kept'"), "0");
    assert_eq!(target.sql("select count(*) from a where v = 'never' or n = -1"), "0");
    let streamed = "select sum(stream_txns) > 0 from pg_stat_replication_slots join pg_replication_slots using (slot_name) \
                    where database = current_database()";
    assert_eq!(source.sql(streamed), "t", "they came while they were open");
    assert!(pipeline.ended("uninstall", &[]).status.success());
}

#[test]
fn killed_in_open_transactions_of_15() {
    killed(PgVersion::V15, SMALL, 11);
}

#[test]
fn killed_in_open_transactions_of_18() {
    killed(PgVersion::V18, SMALL, 12);
}

#[test]
fn killed_where_every_transaction_comes_while_it_is_open() {
    killed(PgVersion::V18, AT_ONCE, 13);
}
