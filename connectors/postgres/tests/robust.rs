//! What operators and applications do to a target's tables and servers, and what comes of it.

mod common;

use std::sync::Arc;

use common::*;
use crossfade_core::{
    Chunk, Class, Endpoint, Finding, Index, Item, KeyRange, Level, Loaded, Logical, Op, Phase, Position, TableSchema,
    Target, Writer,
};
use crossfade_harness::{Options, PgVersion, Postgres};
use crossfade_postgres::PostgresTarget;
use crossfade_postgres::connect::Server;
use crossfade_postgres::writer::PostgresWriter;
use tokio::runtime::Runtime;
use tokio_postgres::Client;

fn target(site: &Site) -> PostgresTarget {
    PostgresTarget::new(&site.endpoint(), site.runtime.handle().clone()).unwrap()
}

/// A key, a number that may have a unique index, a text.
fn simple(name: &str) -> Arc<TableSchema> {
    table(name, &[("id", Logical::Int32), ("u", Logical::Int32), ("v", Logical::Text)], &[0])
}

fn changes(table: &Arc<TableSchema>, op: Op, given: &[(i128, i128, &str)]) -> Item {
    let given: Vec<_> = given.iter().map(|(id, u, v)| (op, vec![V::I(*id), V::I(*u), t(v)])).collect();
    Item::Rows(rows(table, &given))
}

fn about<'a>(findings: &'a [Finding], setting: &str) -> Vec<&'a Finding> {
    findings.iter().filter(|f| f.setting == setting).collect()
}

#[test]
fn commits_are_durable_whatever_the_servers_default() {
    let pg = Postgres::start(PgVersion::V15, Options::new().set("synchronous_commit", "off"));
    let db = pg.fresh_database("durable");
    assert_eq!(db.sql("show synchronous_commit"), "off");
    let runtime = Runtime::new().unwrap();
    let endpoint = Endpoint::new(format!("{}?sslmode=disable", db.url()), None);
    let server = Server::new(&endpoint, runtime.handle().clone()).unwrap();
    let mut writer = PostgresWriter::open(&server, &owner("p")).unwrap();
    let table = simple("t");
    writer.prepare(&[Arc::clone(&table)]).unwrap();
    db.sql(
        "create table shop.seen (id int, setting text); \
         create function shop.look() returns trigger language plpgsql as \
         'begin insert into shop.seen values (new.id, current_setting(''synchronous_commit'')); return new; end'; \
         create trigger look before insert on shop.t for each row execute function shop.look(); \
         alter table shop.t enable always trigger look",
    );
    write(&mut writer, vec![changes(&table, Op::Insert, &[(1, 1, "a")])], Phase::Copying);
    writer.plan(&table.name, &[KeyRange::ALL]).unwrap();
    let target = PostgresTarget::new(&endpoint, runtime.handle().clone()).unwrap();
    let mut loader = target.loader("p", writer.epoch()).unwrap();
    let chunk = Chunk { table: Arc::clone(&table), index: 0, range: KeyRange::ALL, low: Position::new("at 1") };
    loader.begin(&chunk, false).unwrap();
    let Item::Rows(read) = changes(&table, Op::Insert, &[(2, 2, "b")]) else { unreachable!("rows are rows") };
    loader.write(&read.batch).unwrap();
    assert_eq!(loader.commit(&Position::new("at 1")).unwrap(), Loaded::Done);
    assert_eq!(db.sql("select id, setting from shop.seen order by id"), "1\ton\n2\ton");
}

#[test]
fn sequences_are_settled_behind_what_the_stream_brought() {
    let site = Site::new(PgVersion::V15);
    let target = target(&site);
    target.settle("p").unwrap();
    let mut table = TableSchema::clone(&simple("t"));
    table.columns[0].auto_increment = true;
    let table = Arc::new(table);
    let mut writer = site.writer();
    writer.prepare(&[Arc::clone(&table)]).unwrap();
    write(&mut writer, vec![changes(&table, Op::Insert, &[(1, 1, "copied")])], Phase::Copying);
    writer.finish_copy(&[Arc::clone(&table)]).unwrap();
    write(&mut writer, vec![changes(&table, Op::Insert, &[(2, 2, "streamed"), (70, 3, "streamed")])], Phase::Streaming);
    let insert = "insert into shop.t (u, v) values (9, 'application') returning id";
    let taken = site.db.try_sql(insert).unwrap_err();
    assert!(taken.contains("duplicate key"), "{taken}");
    target.settle("p").unwrap();
    target.settle("p").unwrap();
    assert_eq!(site.sql(insert), "71");
}

#[test]
fn rows_of_another_pipeline_are_not_ours() {
    let site = Site::new(PgVersion::V15);
    let (target, table) = (target(&site), simple("t"));
    let tables = [Arc::clone(&table)];
    let critical = |pipeline: &str| {
        let found = target.check(pipeline, &tables).unwrap();
        let found = found.into_iter().filter(|f| f.level == Level::Critical);
        found.map(|f| format!("{}: {}; {}", f.setting, f.actual, f.fix)).collect::<Vec<_>>().join("\n")
    };
    let mut writer = site.writer();
    writer.prepare(&tables).unwrap();
    writer.plan(&table.name, &[KeyRange::ALL]).unwrap();
    let mut loader = target.loader("p", writer.epoch()).unwrap();
    let chunk = Chunk { table: Arc::clone(&table), index: 0, range: KeyRange::ALL, low: Position::new("at 1") };
    loader.begin(&chunk, false).unwrap();
    let Item::Rows(read) = changes(&table, Op::Insert, &[(1, 1, "a")]) else { unreachable!("rows are rows") };
    loader.write(&read.batch).unwrap();
    loader.commit(&Position::new("at 1")).unwrap();
    // As after a kill: no checkpoint yet, a chunk is there.
    drop((loader, writer));
    assert_eq!(target.recover("p").unwrap(), None);
    assert_eq!(critical("p"), "");
    let strange = critical("q");
    assert!(
        strange.contains(
            "table shop.t: it holds rows, those of pipeline p; run the pipeline under the name p; or TRUNCATE"
        ),
        "{strange}"
    );
    // Shapes alone are enough to know a table by.
    site.sql("delete from crossfade.chunk");
    assert_eq!(critical("p"), "");
    site.sql("delete from crossfade.checkpoint");
    assert!(critical("p").contains("table shop.t: it holds rows; TRUNCATE TABLE"), "{}", critical("p"));
}

/// A small batch may go out with its commit.
fn refused(writer: &mut PostgresWriter, batch: &crossfade_core::Batch) -> crossfade_core::Error {
    let next = next(writer, Phase::Copying);
    writer.write(batch).and_then(|()| writer.commit(&next)).unwrap_err()
}

#[test]
fn unique_indexes_are_named_until_the_copy_has_ended() {
    let site = Site::new(PgVersion::V15);
    site.sql("create schema shop; create table shop.t (id int primary key, u int, v text); create unique index on shop.t (u)");
    let (target, table) = (target(&site), simple("t"));
    let setting = "table shop.t, unique indexes";
    let found = target.check("p", &[Arc::clone(&table)]).unwrap();
    let named = about(&found, setting);
    assert_eq!((named.len(), named[0].level), (1, Level::Warning));
    assert!(named[0].fix.contains("t_u_idx"), "{named:?}");
    let mut writer = site.writer();
    writer.prepare(&[Arc::clone(&table)]).unwrap();
    write(&mut writer, vec![changes(&table, Op::Insert, &[(1, 10, "a")])], Phase::Copying);
    let error = refused(&mut writer, &batch(vec![changes(&table, Op::Insert, &[(2, 10, "b")])]));
    assert!(matches!(error.class(), Class::Data(place) if place.table == "shop.t"), "{error:?}");
    assert!(error.hint_text().is_some_and(|h| h.contains("until it ends")), "{error:?}");
    drop(writer);
    let mut writer = site.writer();
    write(&mut writer, vec![], Phase::Streaming);
    let found = target.check("p", &[Arc::clone(&table)]).unwrap();
    assert!(about(&found, setting).is_empty(), "{found:?}");
}

#[test]
fn columns_of_the_target_alone_keep_their_values() {
    let site = Site::new(PgVersion::V15);
    site.sql(
        "create schema shop; create table shop.t (id int primary key, u int unique, v text, note text default 'new', \
         twice int generated always as (u * 2) stored)",
    );
    let mut table = TableSchema::clone(&simple("t"));
    table.indexes = vec![Index { name: "t_u_key".into(), columns: vec![1], unique: true }];
    let (target, table) = (target(&site), Arc::new(table));
    let mut writer = site.writer();
    writer.prepare(&[Arc::clone(&table)]).unwrap();
    write(&mut writer, vec![changes(&table, Op::Insert, &[(1, 10, "a"), (2, 20, "b")])], Phase::Streaming);
    site.sql("update shop.t set note = 'kept ' || id");
    write(&mut writer, vec![changes(&table, Op::Update, &[(1, 11, "A"), (2, 21, "B")])], Phase::Streaming);
    assert_eq!(
        site.sql("select id, u, v, note, twice from shop.t order by id"),
        "1\t11\tA\tkept 1\t22\n2\t21\tB\tkept 2\t42"
    );
    let found = target.check("p", &[Arc::clone(&table)]).unwrap();
    let named = about(&found, "table shop.t, unique indexes");
    assert!(named.len() == 1 && named[0].fix.contains("note") && !named[0].fix.contains("twice"), "{named:?}");
    // A swap would need the rows to go and come back: it stops instead, and nothing is lost.
    let error = writer.write(&batch(vec![changes(&table, Op::Update, &[(1, 21, "A"), (2, 11, "B")])])).unwrap_err();
    assert!(matches!(error.class(), Class::Data(_)) && error.hint_text().is_some(), "{error:?}");
    drop(writer);
    assert_eq!(site.sql("select note from shop.t order by id"), "kept 1\nkept 2");
}

#[test]
fn keys_with_a_collation_of_their_own() {
    let site = Site::new(PgVersion::V15);
    site.sql(
        "create schema shop; create domain shop.code as text collate \"POSIX\"; \
         create table shop.t (a text collate \"C\", b shop.code, v text collate \"C\", primary key (a, b))",
    );
    let table = table("t", &[("a", Logical::Text), ("b", Logical::Text), ("v", Logical::Text)], &[0, 1]);
    let target = target(&site);
    let mut writer = site.writer();
    writer.prepare(&[Arc::clone(&table)]).unwrap();
    let mut expected = 0;
    for count in [5, 700] {
        let all = |op, v: V| {
            let row = |n: i128| (op, vec![t(&format!("Ä{n}")), t(&format!("b{n}")), v.clone()]);
            Item::Rows(rows(&table, &(0..count).map(row).collect::<Vec<_>>()))
        };
        let partial = |v: &str| {
            let row = |n: i128| (Op::Update, vec![t(&format!("Ä{n}")), t(&format!("b{n}")), t(v)]);
            Item::Rows(rows(&table, &(0..count).map(row).collect::<Vec<_>>()))
        };
        write(&mut writer, vec![all(Op::Insert, t("one"))], Phase::Copying);
        write(&mut writer, vec![partial("two")], Phase::Copying);
        write(&mut writer, vec![all(Op::Update, t("three"))], Phase::Streaming);
        write(&mut writer, vec![all(Op::Update, V::Absent)], Phase::Streaming);
        expected = expected.max(count);
        assert_eq!(site.sql("select count(*), min(v), max(v) from shop.t"), format!("{expected}\tthree\tthree"));
        let mut snapshot = target.snapshot("p", &[Arc::clone(&table)]).unwrap();
        let mut read = 0;
        for range in snapshot.split(&table, 3).unwrap() {
            snapshot
                .scan(&table, &range, &mut |b| {
                    read += b.num_rows();
                    Ok(())
                })
                .unwrap();
        }
        assert_eq!(read as i128, expected);
        write(&mut writer, vec![all(Op::Delete, V::Null)], Phase::Streaming);
        assert_eq!(site.sql("select count(*) from shop.t"), "0");
        expected = 0;
    }
}

/// An application's session with a transaction that is left open, and its number at the server.
fn application(site: &Site, sql: &str) -> (Client, i32) {
    let client = site.server.block_on(site.server.client()).unwrap();
    site.server.block_on(client.batch_execute(&format!("begin; {sql}"))).unwrap();
    let row = site.server.block_on(client.query_one("select pg_backend_pid()", &[])).unwrap();
    (client, row.get(0))
}

#[test]
fn a_lock_that_lasts_is_told_with_its_holder() {
    let site = Site::new(PgVersion::V15);
    let endpoint = Endpoint::new(format!("{}&options=-c%20lock_timeout%3D300ms", site.endpoint().url()), None);
    let server = Server::new(&endpoint, site.runtime.handle().clone()).unwrap();
    let target = PostgresTarget::new(&endpoint, site.runtime.handle().clone()).unwrap();
    let table = simple("t");
    let mut writer = site.writer();
    writer.prepare(&[Arc::clone(&table)]).unwrap();
    write(&mut writer, vec![changes(&table, Op::Insert, &[(1, 1, "a")])], Phase::Copying);
    writer.plan(&table.name, &[KeyRange::ALL]).unwrap();
    let default = site.server.block_on(async {
        let session = crossfade_postgres::session::Session::new(site.server.client().await.unwrap()).await.unwrap();
        session.client.query_one("select current_setting('lock_timeout')", &[]).await.unwrap().get::<_, String>(0)
    });
    assert_eq!(default, "30s");
    drop(writer);
    for lock in ["lock table shop.t in access exclusive mode", "select from shop.t where id = 1 for update"] {
        let mut writer = PostgresWriter::open(&server, &owner("p")).unwrap();
        let (held, pid) = application(&site, lock);
        let told = |error: crossfade_core::Error| {
            assert!(error.is_transient() && error.to_string().contains("shop.t"), "{lock}: {error:?}");
            let hint = error.hint_text().unwrap_or_default().to_owned();
            assert!(hint.contains(&format!("pg_terminate_backend({pid})")), "{lock}: {error:?}");
        };
        let update = || batch(vec![changes(&table, Op::Update, &[(1, 1, "b")])]);
        told(refused(&mut writer, &update()));
        drop(writer);
        let mut writer = PostgresWriter::open(&server, &owner("p")).unwrap();
        let mut loader = target.loader("p", writer.epoch()).unwrap();
        let chunk = Chunk { table: Arc::clone(&table), index: 0, range: KeyRange::ALL, low: Position::new("at 1") };
        loader.begin(&chunk, true).unwrap();
        let Item::Rows(read) = changes(&table, Op::Insert, &[(1, 1, "a")]) else { unreachable!("rows are rows") };
        told(loader.write(&read.batch).unwrap_err());
        // Once the application is done all goes on.
        site.server.block_on(held.batch_execute("rollback")).unwrap();
        writer.write(&update()).unwrap();
        let next = next(&writer, Phase::Copying);
        writer.commit(&next).unwrap();
    }
}
