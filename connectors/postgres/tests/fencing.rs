//! Who may write, and what is there after a connection died: owners, epochs, killed sessions, loaders.

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::*;
use crossfade_core::{
    Chunk, Error, Exit, Item, KeyRange, Loaded, Op, Owner, Phase, Position, TableSchema, Target, Writer,
};
use crossfade_core::{KeyPart, Logical};
use crossfade_harness::PgVersion;
use crossfade_postgres::PostgresTarget;
use crossfade_postgres::writer::PostgresWriter;

fn target(site: &Site) -> PostgresTarget {
    PostgresTarget::new(&site.endpoint(), site.runtime.handle().clone()).unwrap()
}

fn simple() -> Arc<TableSchema> {
    table("t", &[("id", Logical::Int32), ("v", Logical::Text)], &[0])
}

fn row(table: &Arc<TableSchema>, id: i128, v: &str) -> Item {
    Item::Rows(rows(table, &[(Op::Insert, vec![V::I(id), t(v)])]))
}

/// The error's consequence: somebody else has the pipeline.
#[track_caller]
fn assert_owned(result: Result<(), Error>) -> Error {
    let error = result.unwrap_err();
    assert_eq!(error.exit(), Exit::TryAgain, "{error:?}");
    assert!(!error.is_transient() && error.hint_text().is_some(), "{error:?}");
    error
}

fn prepared(site: &Site) -> (PostgresTarget, Arc<TableSchema>) {
    let (target, table) = (target(site), simple());
    let mut writer = target.open(&owner("p")).unwrap();
    writer.prepare(&[Arc::clone(&table)]).unwrap();
    (target, table)
}

/// With its key, as after the stream's first change of it.
fn keyed(site: &Site) {
    site.sql("alter table shop.t add primary key (id)");
}

fn ids(site: &Site) -> String {
    site.sql("select coalesce(string_agg(id::text, ' ' order by id), '') from shop.t")
}

#[test]
fn a_pipeline_has_one_owner() {
    let site = Site::new(PgVersion::V18);
    let target = target(&site);
    assert_eq!(target.recover("p").unwrap(), None, "no control tables");
    assert_eq!(target.owner("p").unwrap(), None);
    let first = target.open(&owner("p")).unwrap();
    assert_eq!((first.epoch(), target.owner("p").unwrap()), (1, Some(owner("p"))));
    assert_eq!(target.recover("p").unwrap(), None, "owned, and nothing committed");
    let elsewhere = Owner { pipeline: "p".into(), host: "there".into(), pid: 1 };
    let error = assert_owned(target.open(&elsewhere).map(drop));
    assert!(error.to_string().contains(&format!("process {} on here", std::process::id())), "{error}");
    target.open(&owner("q")).unwrap();
    drop(first);
    let start = Instant::now();
    while target.owner("p").unwrap().is_some() {
        assert!(start.elapsed() < Duration::from_secs(10), "the lock falls with the connection");
    }
    assert_eq!(target.open(&elsewhere).unwrap().epoch(), 2);
}

#[test]
fn the_lock_of_a_dead_process_is_waited_for_and_then_ended() {
    let site = Site::new(PgVersion::V15);
    let target = target(&site);
    // A process id that no process has.
    let dead = Owner { pid: 0x7fff_fff0, ..owner("p") };
    let left = target.open(&dead).unwrap();
    let start = Instant::now();
    let mut next = target.open(&owner("p")).unwrap();
    assert!(start.elapsed() >= Duration::from_secs(2), "it is given time to end by itself");
    assert_eq!(next.epoch(), 2);
    let mut left = left;
    assert!(left.chunks().unwrap_err().is_transient(), "its session is gone");
    assert!(next.chunks().unwrap().is_empty());
}

fn write_soon(writer: &mut PostgresWriter, items: Vec<Item>) {
    let next = next(writer, Phase::Streaming);
    writer.write(&batch(items)).unwrap();
    assert!(!writer.commit_soon(&next).unwrap());
}

#[test]
fn a_stale_epoch_commits_nothing() {
    let site = Site::new(PgVersion::V15);
    let (_, table) = prepared(&site);
    let mut old = site.writer();
    write(&mut old, vec![row(&table, 1, "old")], Phase::Streaming);
    old.write(&batch(vec![row(&table, 2, "old")])).unwrap();
    // As when the server has given up the old one's connection: the lock is free, its process still runs.
    site.sql("update crossfade.checkpoint set epoch = epoch + 1");
    let stale = next(&old, Phase::Streaming);
    assert_owned(old.commit(&stale));
    drop(old);
    assert_eq!(ids(&site), "1");
    let checkpoint = target(&site).recover("p").unwrap().unwrap();
    assert_eq!((checkpoint.seq, checkpoint.position.as_str()), (1, "at 1"));
    // Likewise if somebody else committed in between, and for what is done outside of batches.
    let mut old = site.writer();
    site.sql("update crossfade.checkpoint set seq = seq + 1");
    old.write(&batch(vec![row(&table, 3, "old")])).unwrap();
    let stale = next(&old, Phase::Streaming);
    assert_owned(old.commit(&stale));
    drop(old);
    // Nor by a commit that is not waited for, or by making durable what was.
    for other in ["epoch = epoch + 1", "seq = seq + 1"] {
        let mut old = site.writer();
        write_soon(&mut old, vec![row(&table, 4, "seen")]);
        site.sql(&format!("update crossfade.checkpoint set {other}"));
        old.write(&batch(vec![row(&table, 5, "old")])).unwrap();
        let stale = next(&old, Phase::Streaming);
        assert_owned(old.commit_soon(&stale).map(drop));
        drop(old);
        let mut old = site.writer();
        write_soon(&mut old, vec![Item::Truncate(Arc::clone(&table)), row(&table, 1, "seen")]);
        site.sql(&format!("update crossfade.checkpoint set {other}"));
        assert_owned(old.harden());
        drop(old);
        assert_eq!(ids(&site), "1");
    }
    let mut old = site.writer();
    site.sql("update crossfade.checkpoint set epoch = epoch + 1");
    assert_owned(old.plan(&table.name, &[KeyRange::ALL]));
    assert_eq!(ids(&site), "1");
}

#[test]
fn a_checkpoint_out_of_turn_is_refused() {
    let site = Site::new(PgVersion::V15);
    let (_, table) = prepared(&site);
    for (seq, epoch) in [(2, 0), (0, 0), (1, 1)] {
        let mut writer = site.writer();
        writer.write(&batch(vec![row(&table, 1, "x")])).unwrap();
        let mut wrong = next(&writer, Phase::Streaming);
        wrong.seq = seq;
        wrong.epoch += epoch;
        assert_eq!(writer.commit(&wrong).unwrap_err().exit(), Exit::Data);
        drop(writer);
        assert_eq!(ids(&site), "");
    }
}

/// Ends the sessions of all writers and loaders, without asking.
fn kill_sessions(site: &Site) {
    let me = "pid <> pg_backend_pid() and datname = current_database() and backend_type = 'client backend'";
    let killed = site.sql(&format!("select count(pg_terminate_backend(pid)) from pg_stat_activity where {me}"));
    assert_ne!(killed, "0");
    let start = Instant::now();
    while site.sql(&format!("select count(*) from pg_stat_activity where {me}")) != "0" {
        assert!(start.elapsed() < Duration::from_secs(10));
    }
}

#[test]
fn a_killed_session_is_transient_and_recover_tells_the_truth() {
    let site = Site::new(PgVersion::V15);
    let (target, table) = prepared(&site);
    // Before the commit.
    let mut writer = site.writer();
    write(&mut writer, vec![row(&table, 1, "a")], Phase::Streaming);
    writer.write(&batch(vec![row(&table, 2, "a")])).unwrap();
    kill_sessions(&site);
    let lost = next(&writer, Phase::Streaming);
    assert!(writer.commit(&lost).unwrap_err().is_transient());
    assert_eq!((target.recover("p").unwrap().unwrap().seq, ids(&site).as_str()), (1, "1"));
    // In a write.
    let mut writer = site.writer();
    kill_sessions(&site);
    assert!(writer.write(&batch(vec![row(&table, 2, "a")])).unwrap_err().is_transient());
    // After the commit.
    let mut writer = site.writer();
    write(&mut writer, vec![row(&table, 2, "a")], Phase::Streaming);
    kill_sessions(&site);
    let lost = next(&writer, Phase::Streaming);
    assert!(writer.commit(&lost).unwrap_err().is_transient());
    assert_eq!((target.recover("p").unwrap().unwrap().seq, ids(&site).as_str()), (2, "1 2"));
}

/// A commit that is killed while it runs: a deferred trigger keeps it busy, so that the kill hits COMMIT itself.
#[test]
fn a_session_killed_in_its_commit_is_transient() {
    let site = Site::new(PgVersion::V15);
    let (target, table) = prepared(&site);
    site.sql(
        "create function shop.slow() returns trigger language plpgsql as 'begin perform pg_sleep(30); return null; end';
         create constraint trigger slow after insert on shop.t deferrable initially deferred
             for each row execute function shop.slow();
         alter table shop.t enable always trigger slow",
    );
    let mut writer = site.writer();
    writer.write(&batch(vec![row(&table, 1, "a")])).unwrap();
    let lost = next(&writer, Phase::Streaming);
    let commit = std::thread::spawn(move || writer.commit(&lost));
    let start = Instant::now();
    while site.sql("select count(*) from pg_stat_activity where query = 'COMMIT' and wait_event = 'PgSleep'") == "0" {
        assert!(start.elapsed() < Duration::from_secs(20), "the commit never ran");
    }
    kill_sessions(&site);
    assert!(commit.join().unwrap().unwrap_err().is_transient());
    assert_eq!((target.recover("p").unwrap(), ids(&site).as_str()), (None, ""));
}

fn chunk(table: &Arc<TableSchema>, index: u32) -> Chunk {
    Chunk { table: Arc::clone(table), index, range: KeyRange::ALL, low: Position::new("low") }
}

fn loaded(table: &Arc<TableSchema>, ids: std::ops::Range<i128>, v: &str) -> arrow_array::RecordBatch {
    let given: Vec<_> = ids.map(|id| (Op::Insert, vec![V::I(id), t(v)])).collect();
    rows(table, &given).batch
}

#[test]
fn chunks_are_done_once_and_under_their_epoch() {
    let site = Site::new(PgVersion::V18);
    let (target, table) = prepared(&site);
    let mut writer = site.writer();
    let to = |n| KeyRange { after: None, to: Some(vec![KeyPart::Int(n), KeyPart::Text("x".into())]) };
    let ranges = [to(9), to(99), KeyRange::ALL];
    writer.plan(&table.name, &ranges).unwrap();
    let done = |writer: &mut dyn Writer| -> Vec<Option<String>> {
        let chunks = writer.chunks().unwrap();
        assert!(chunks.iter().zip(&ranges).enumerate().all(|(n, (c, r))| c.index == n as u32 && c.range == *r));
        chunks.into_iter().map(|c| c.done.map(|p| p.to_string())).collect()
    };
    keyed(&site);
    let mut loader = target.loader("p", writer.epoch()).unwrap();
    loader.begin(&chunk(&table, 0), false).unwrap();
    loader.write(&loaded(&table, 0..5, "copy")).unwrap();
    loader.write(&loaded(&table, 5..10, "copy")).unwrap();
    assert_eq!(ids(&site), "");
    assert_eq!(loader.commit(&Position::new("high")).unwrap(), Loaded::Done);
    assert_eq!(done(&mut writer), [Some("high".into()), None, None]);
    // A chunk that is done is not done again.
    loader.begin(&chunk(&table, 0), true).unwrap();
    loader.write(&loaded(&table, 0..1, "again")).unwrap();
    assert_eq!(loader.commit(&Position::new("x")).unwrap_err().exit(), Exit::Data);
    // Rows that the stream brought: given up, read again, merged.
    write(&mut writer, vec![row(&table, 12, "stream")], Phase::Copying);
    loader.begin(&chunk(&table, 1), false).unwrap();
    loader.write(&loaded(&table, 10..15, "copy")).unwrap();
    loader.write(&loaded(&table, 15..16, "copy")).unwrap();
    assert_eq!(loader.commit(&Position::new("x")).unwrap(), Loaded::Collided);
    assert_eq!(ids(&site), "0 1 2 3 4 5 6 7 8 9 12");
    loader.begin(&chunk(&table, 1), true).unwrap();
    loader.write(&loaded(&table, 10..15, "copy")).unwrap();
    loader.write(&loaded(&table, 15..16, "copy")).unwrap();
    assert_eq!(loader.commit(&Position::new("high 2")).unwrap(), Loaded::Done);
    assert_eq!(site.sql("select count(*) from shop.t where v = 'copy'"), "16");
    // A chunk that is begun and left leaves nothing, and a fenced loader neither.
    loader.begin(&chunk(&table, 2), false).unwrap();
    loader.write(&loaded(&table, 16..20, "copy")).unwrap();
    loader.begin(&chunk(&table, 2), false).unwrap();
    loader.write(&loaded(&table, 20..21, "copy")).unwrap();
    drop(writer);
    let mut writer = site.writer();
    assert_owned(loader.commit(&Position::new("x")).map(drop));
    drop(loader);
    assert_eq!(site.sql("select max(id) from shop.t"), "15");
    assert_eq!(done(&mut writer), [Some("high".into()), Some("high 2".into()), None]);
    assert_eq!(writer.plan(&table.name, &ranges).unwrap_err().exit(), Exit::Data, "planned twice");
}

#[test]
fn a_loader_in_flight_holds_back_a_new_owner_not_the_writer() {
    let site = Site::new(PgVersion::V15);
    let (target, table) = prepared(&site);
    let mut writer = site.writer();
    writer.plan(&table.name, &[KeyRange::ALL]).unwrap();
    keyed(&site);
    let mut loader = target.loader("p", writer.epoch()).unwrap();
    loader.begin(&chunk(&table, 0), false).unwrap();
    loader.write(&loaded(&table, 0..5, "copy")).unwrap();
    write(&mut writer, vec![row(&table, 7, "stream")], Phase::Copying);
    assert_eq!(loader.commit(&Position::new("high")).unwrap(), Loaded::Done);
    assert_eq!(ids(&site), "0 1 2 3 4 7");
}

#[test]
fn the_end_of_the_copy_builds_what_is_missing() {
    let site = Site::new(PgVersion::V15);
    let target = target(&site);
    let mut table = (*simple()).clone();
    table.indexes.push(crossfade_core::Index { name: "by_v".into(), columns: vec![1], unique: true });
    let table = Arc::new(table);
    let mut writer = target.open(&owner("p")).unwrap();
    writer.prepare(&[Arc::clone(&table)]).unwrap();
    writer.prepare(&[Arc::clone(&table)]).unwrap();
    assert_eq!(writer.tables().unwrap(), [Arc::clone(&table)]);
    for _ in 0..2 {
        writer.finish_copy(&[Arc::clone(&table)]).unwrap();
    }
    assert_eq!(site.sql("select count(*) from pg_indexes where indexname = 'by_v'"), "1");
    // The writer knows of the unique index: two rows swap their values.
    let two = |a: &str, b: &str, op| Item::Rows(rows(&table, &[(op, vec![V::I(1), t(a)]), (op, vec![V::I(2), t(b)])]));
    let epoch = writer.epoch();
    for (seq, item) in [(1, two("x", "y", Op::Insert)), (2, two("y", "x", Op::Update))] {
        writer.write(&batch(vec![item])).unwrap();
        let position = Position::new("p");
        let phase = Phase::Streaming;
        writer.commit(&crossfade_core::Checkpoint { seq, position, phase, epoch, commit_micros: None }).unwrap();
    }
    assert_eq!(site.sql("select v from shop.t order by id"), "y\nx");
}
