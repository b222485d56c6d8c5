//! Commits that are not waited for, and the key that is not made before it is needed.

mod common;

use std::sync::Arc;

use common::*;
use crossfade_core::{Chunk, Item, KeyRange, Level, Loaded, Logical, Op, Owner, Phase, Position, TableSchema};
use crossfade_core::{Snapshot, Target, Writer};
use crossfade_harness::{Options, PgVersion, Postgres};
use crossfade_postgres::PostgresTarget;
use crossfade_postgres::connect::Server;
use crossfade_postgres::snapshot::TargetSnapshot;
use crossfade_postgres::writer::PostgresWriter;
use tokio::runtime::Runtime;

fn simple(name: &str) -> Arc<TableSchema> {
    table(name, &[("id", Logical::Int32), ("v", Logical::Text)], &[0])
}

fn row(table: &Arc<TableSchema>, id: i128) -> Item {
    Item::Rows(rows(table, &[(Op::Insert, vec![V::I(id), t("v")])]))
}

/// The server is killed; what it had not written of its log is gone, and with each row the checkpoint that came with it.
#[test]
fn a_crash_undoes_the_last_commits_whole_and_none_before_a_durable_one() {
    let server = Postgres::start(PgVersion::V18, Options::new().set("wal_writer_delay", "10s"));
    let db = server.fresh_database("crash");
    let runtime = Runtime::new().unwrap();
    let way = Server::new(&endpoint(&db), runtime.handle().clone()).unwrap();
    let target = PostgresTarget::new(&endpoint(&db), runtime.handle().clone()).unwrap();
    let table = simple("t");
    let mut durable = 0;
    for round in 0..4 {
        let mut writer = PostgresWriter::open(&way, &owner("p")).unwrap();
        writer.prepare(&[Arc::clone(&table)]).unwrap();
        for n in 0..60 {
            let next = next(&writer, Phase::Streaming);
            writer.write(&batch(vec![row(&table, i128::from(next.seq))])).unwrap();
            // But for the one that turns the phase.
            assert_eq!(writer.commit_soon(&next).unwrap(), next.seq == 1, "it is not waited for");
            if n == 20 + round {
                writer.harden().unwrap();
                durable = next.seq;
            }
        }
        server.kill();
        server.restart();
        let left = target.recover("p").unwrap().unwrap().seq;
        assert!(left >= durable, "{left} of {durable} that were durable");
        assert_eq!(db.sql("select count(*) || ' ' || max(id) from shop.t"), format!("{left} {left}"));
    }
}

/// Whoever opens a pipeline reports its position as durable: then it has to be.
#[test]
fn what_is_found_at_the_opening_is_durable() {
    let server = Postgres::start(PgVersion::V15, Options::new().set("wal_writer_delay", "10s"));
    server.sql("postgres", "alter system set synchronous_commit = off; select pg_reload_conf()");
    let db = server.fresh_database("opened");
    let runtime = Runtime::new().unwrap();
    let way = Server::new(&endpoint(&db), runtime.handle().clone()).unwrap();
    let target = PostgresTarget::new(&endpoint(&db), runtime.handle().clone()).unwrap();
    let table = simple("t");
    let mut writer = PostgresWriter::open(&way, &owner("p")).unwrap();
    writer.prepare(&[Arc::clone(&table)]).unwrap();
    for _ in 0..40 {
        let next = next(&writer, Phase::Streaming);
        writer.write(&batch(vec![row(&table, i128::from(next.seq))])).unwrap();
        writer.commit_soon(&next).unwrap();
    }
    drop(writer);
    let writer = PostgresWriter::open(&way, &owner("p")).unwrap();
    let found = writer.checkpoint().unwrap().seq;
    server.kill();
    server.restart();
    assert_eq!((found, target.recover("p").unwrap().unwrap().seq), (40, 40));
}

/// A version of the checkpoint's row for each commit would stand in the way of the next commits, as long as any reader may want it.
#[test]
fn commits_that_are_not_waited_for_leave_the_checkpoints_row_alone() {
    for version in [PgVersion::V15, PgVersion::V18] {
        let site = Site::new(version);
        let table = simple("t");
        let target = PostgresTarget::new(&site.endpoint(), site.runtime.handle().clone()).unwrap();
        let server = Server::new(&site.endpoint(), site.runtime.handle().clone()).unwrap();
        let mut writer = site.writer();
        writer.prepare(&[Arc::clone(&table)]).unwrap();
        write(&mut writer, vec![row(&table, 1)], Phase::Streaming);
        let version = || site.sql("select xmin, ctid, seq from crossfade.checkpoint");
        let behind = || site.sql("select count(*) from crossfade.commit");
        for round in 0..3 {
            let before = version();
            for _ in 0..20 {
                let next = next(&writer, Phase::Streaming);
                writer.write(&batch(vec![row(&table, i128::from(next.seq))])).unwrap();
                assert!(!writer.commit_soon(&next).unwrap());
                assert_eq!(target.recover("p").unwrap().unwrap(), next);
            }
            assert_eq!((version(), behind().as_str()), (before, "20"));
            let last = writer.checkpoint().unwrap().clone();
            let seen = TargetSnapshot::open(&server, "p").unwrap();
            assert_eq!(seen.position(), &last.position, "a proof starts at the last commit");
            match round {
                0 => writer.harden().unwrap(),
                1 => write(&mut writer, vec![row(&table, 1000)], Phase::Streaming),
                _ => {
                    drop(writer);
                    writer = site.writer();
                }
            }
            let told = writer.checkpoint().unwrap().seq;
            assert_eq!((told, behind().as_str()), (last.seq + u64::from(round == 1), "0"));
            assert_eq!(site.sql("select seq from crossfade.checkpoint"), told.to_string());
        }
    }
}

/// The unique indexes of all tables.
fn unique(site: &Site, more: &str) -> String {
    let name = "indexrelid::regclass::text";
    site.sql(&format!(
        "select coalesce(string_agg({name}, ' ' order by {name}), '') from pg_index where indisunique {more} and indrelid::regclass::text like 'shop.%'"
    ))
}

/// A reader that never ends holds up neither the stream's first change nor the end of the copy.
#[test]
fn a_reader_at_the_target_holds_nothing_up() {
    for version in [PgVersion::V15, PgVersion::V18] {
        let site = Site::new(version);
        let tables = [simple("first"), simple("second")];
        let mut writer = site.writer();
        writer.prepare(&tables).unwrap();
        let server = Server::new(&site.endpoint(), site.runtime.handle().clone()).unwrap();
        let reader = server.block_on(server.client()).unwrap();
        server.block_on(reader.batch_execute("begin; select from shop.first; select from shop.second")).unwrap();
        write(&mut writer, vec![row(&tables[0], 1)], Phase::Copying);
        writer.finish_copy(&tables).unwrap();
        write(&mut writer, vec![row(&tables[0], 2), row(&tables[1], 1)], Phase::Streaming);
        assert_eq!(unique(&site, "and indisprimary"), "");
        assert_eq!(unique(&site, ""), "shop.first_pkey shop.second_pkey");
        assert_eq!(site.sql("select (select count(*) from shop.first), (select count(*) from shop.second)"), "2\t1");
        server.block_on(reader.batch_execute("commit")).unwrap();
        writer.finish_copy(&tables).unwrap();
        assert_eq!(unique(&site, "and indisprimary"), "shop.first_pkey shop.second_pkey");
    }
}

#[test]
fn the_key_comes_with_the_streams_first_change_or_at_the_end_of_the_copy() {
    for version in [PgVersion::V15, PgVersion::V18] {
        let site = Site::new(version);
        let target = PostgresTarget::new(&site.endpoint(), site.runtime.handle().clone()).unwrap();
        let (quiet, busy) = (simple("quiet"), simple("busy"));
        let tables = [Arc::clone(&quiet), Arc::clone(&busy)];
        let mut writer = site.writer();
        writer.prepare(&tables).unwrap();
        write(&mut writer, vec![], Phase::Copying);
        let keys = || unique(&site, "");
        for table in &tables {
            writer.plan(&table.name, &[KeyRange::ALL]).unwrap();
            let mut loader = target.loader("p", writer.epoch()).unwrap();
            let chunk = Chunk { table: Arc::clone(table), index: 0, range: KeyRange::ALL, low: Position::new("at 1") };
            loader.begin(&chunk, false).unwrap();
            let Item::Rows(read) = row(table, 1) else { unreachable!("rows are rows") };
            loader.write(&read.batch).unwrap();
            assert_eq!(loader.commit(&Position::new("high")).unwrap(), Loaded::Done);
        }
        assert_eq!(keys(), "");
        // A restart finds tables without their key, and nothing wrong with them.
        drop(writer);
        let found = target.check("p", &tables).unwrap();
        assert!(found.iter().all(|f| f.level != Level::Critical), "{found:?}");
        let mut writer = site.writer();
        writer.prepare(&tables).unwrap();
        write(&mut writer, vec![row(&busy, 1), row(&busy, 2)], Phase::Copying);
        assert_eq!((keys().as_str(), site.sql("select count(*) from shop.busy").as_str()), ("shop.busy_pkey", "2"));
        writer.finish_copy(&tables).unwrap();
        assert_eq!(keys(), "shop.busy_pkey shop.quiet_pkey");
        assert_eq!(unique(&site, "and indisprimary"), keys(), "both are primary keys");
        // Of another pipeline's name, a table without a key is nobody's.
        site.sql("alter table shop.quiet drop constraint quiet_pkey");
        let strange = Owner { pipeline: "q".into(), ..owner("q") };
        let mut writer = target.open(&strange).unwrap();
        let error = writer.prepare(&tables).unwrap_err();
        assert!(error.to_string().contains("a primary key or unique index on (id)"), "{error}");
    }
}
