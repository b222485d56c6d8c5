//! The log of real servers, read to its end and compared with what the server itself says.
//!
//! Every test writes through the server's own client, reads the log through [`Source::stream`], applies the rows to a map
//! and compares the map with SELECT: as text that the server makes, and through [`Source::snapshot`], so that both halves
//! of the connector are held to the same values.

mod keyless;
mod lab;
mod restart;

use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom, Write};
use std::time::{Duration, Instant};

use crossfade_core::batch::SchemaStep;
use crossfade_core::{Boundary, Item, Limit, Op, Selection};
use crossfade_harness::{MariaDb, MySql, Options};
use lab::{Lab, MARIADB_COLUMNS, MYSQL_COLUMNS, deadline, read_until, state_of};

/// Inserts, updates and deletes of every type arrive exactly, under these session settings.
fn types_round_trip(lab: &Lab, columns: &[lab::Type], settings: &str) {
    lab.create_types(columns);
    let tables = lab.tables();
    let from = lab.source.position().unwrap();
    lab.write_types(columns, settings);
    let until = lab.source.position().unwrap();
    let batches = read_until(&lab.source, &from, &until, &tables);
    lab.assert_types(columns, &state_of(&batches), &tables[0]);
}

#[test]
fn mysql_types_full_image() {
    types_round_trip(&Lab::new(MySql::shared()), MYSQL_COLUMNS, "");
}

#[test]
fn mysql_types_minimal_image() {
    types_round_trip(&Lab::new(MySql::shared()), MYSQL_COLUMNS, "SET SESSION binlog_row_image = MINIMAL;");
}

#[test]
fn mysql_types_noblob_image() {
    types_round_trip(&Lab::new(MySql::shared()), MYSQL_COLUMNS, "SET SESSION binlog_row_image = NOBLOB;");
}

#[test]
fn mysql_types_compressed() {
    types_round_trip(&Lab::new(MySql::shared()), MYSQL_COLUMNS, "SET SESSION binlog_transaction_compression = ON;");
}

#[test]
fn mysql_types_without_gtids() {
    let server = MySql::start(Options::new().set("gtid_mode", "OFF").set("enforce_gtid_consistency", "OFF"));
    let lab = Lab::new(&server);
    assert!(lab.source.position().unwrap().as_str().starts_with("file:"));
    types_round_trip(&lab, MYSQL_COLUMNS, "");
}

#[test]
fn mysql_types_without_column_names() {
    let server = MySql::start(Options::new().set("binlog_row_metadata", "MINIMAL"));
    types_round_trip(&Lab::new(&server), MYSQL_COLUMNS, "");
}

#[test]
fn mariadb_types_full_image() {
    types_round_trip(&Lab::new(MariaDb::shared()), MARIADB_COLUMNS, "");
}

#[test]
fn mariadb_types_minimal_image() {
    // A minimal image of a new row leaves its virtual columns out: see `refusals`.
    let columns: Vec<lab::Type> = MARIADB_COLUMNS.iter().filter(|c| c.0 != "gv").copied().collect();
    types_round_trip(&Lab::new(MariaDb::shared()), &columns, "SET SESSION binlog_row_image = MINIMAL;");
}

#[test]
fn mariadb_types_compressed() {
    let options = Options::new().set("log_bin_compress", "ON").set("log_bin_compress_min_len", "10");
    let server = MariaDb::start(options);
    let lab = Lab::new(&server);
    types_round_trip(&lab, MARIADB_COLUMNS, "");
    assert_ne!(lab.db.sql("show global status like 'Binlog_bytes_written'"), "");
}

#[test]
fn mariadb_types_without_metadata() {
    let server = MariaDb::start(Options::new().set("binlog_row_metadata", "NO_LOG"));
    types_round_trip(&Lab::new(&server), MARIADB_COLUMNS, "");
}

/// Reading may stop and go on at any transaction.
fn restart_anywhere(lab: &Lab) {
    lab.db.sql("create table t (id int primary key, v varchar(20))");
    let tables = lab.tables();
    let from = lab.source.position().unwrap();
    let mut positions = Vec::new();
    for i in 0..6 {
        lab.db
            .sql(&format!("insert into t values ({i}, 'a{i}'), ({i} + 100, 'b'); update t set v = 'c' where id = {i}"));
        positions.push(lab.source.position().unwrap());
    }
    lab.db.sql("create table other (a int primary key); insert into other values (1); drop table other");
    let end = lab.source.position().unwrap();
    for until in &positions {
        let mut batches = read_until(&lab.source, &from, until, &tables);
        let Some(Boundary::Commit(here)) = batches.last().map(|b| b.end.clone()) else { panic!("no commit") };
        assert!(lab.source.order(&here, until).unwrap().is_eq());
        let rows: usize = batches.iter().map(|b| b.rows()).sum();
        assert_eq!(rows % 3, 0, "nothing beyond {until}");
        batches.extend(read_until(&lab.source, &here, &end, &tables));
        let state = state_of(&batches);
        assert_eq!(state.len(), 12);
        assert_eq!(state["3"][1].as_deref(), Some("63"), "hexadecimal of c");
    }
}

#[test]
fn mysql_restart_anywhere() {
    restart_anywhere(&Lab::new(MySql::shared()));
}

#[test]
fn mariadb_restart_anywhere() {
    restart_anywhere(&Lab::new(MariaDb::shared()));
}

#[test]
fn mysql_restart_anywhere_without_gtids() {
    let server = MySql::start(Options::new().set("gtid_mode", "OFF").set("enforce_gtid_consistency", "OFF"));
    restart_anywhere(&Lab::new(&server));
}

/// A large transaction comes in open batches; small ones are gathered; a key change is a delete and an insert.
fn boundaries(lab: &Lab) {
    lab.db.sql("create table t (id int primary key, v text)");
    let tables = lab.tables();
    let from = lab.source.position().unwrap();
    lab.db.sql(
        "insert into t select a.n * 100 + b.n, repeat('x', 200) from (with recursive s(n) as (select 0 union all select n + 1 \
         from s where n < 99) select n from s) a, (with recursive s(n) as (select 0 union all select n + 1 from s where n < 99) \
         select n from s) b; update t set id = id + 1000000 where id < 10; truncate table t; insert into t values (1, 'y')",
    );
    let until = lab.source.position().unwrap();
    let mut stream = lab.source.stream(&from, &tables).unwrap();
    let limit = Limit { deadline: deadline(), bytes: 200_000, rows: 100_000, until: Some(until.clone()) };
    let (mut open, mut batches) = (0, Vec::new());
    loop {
        let Some(batch) = stream.next(&limit).unwrap() else { panic!("not in time") };
        assert!(batch.bytes() < 1_500_000, "{} bytes", batch.bytes());
        open += usize::from(batch.end == Boundary::Open);
        let done = matches!(&batch.end, Boundary::Commit(p) if lab.source.order(p, &until).unwrap().is_eq());
        batches.push(batch);
        if done {
            break;
        }
    }
    assert!(open >= 3, "{open} open batches of 2 MB");
    let ops: Vec<Op> = batches
        .iter()
        .flat_map(|b| &b.items)
        .flat_map(|i| match i {
            Item::Rows(r) => r.ops.clone(),
            _ => vec![],
        })
        .collect();
    assert_eq!(ops.iter().filter(|o| **o == Op::Insert).count(), 10_000 + 10 + 1);
    assert_eq!(ops.iter().filter(|o| **o == Op::Delete).count(), 10);
    let truncates = batches.iter().flat_map(|b| &b.items).filter(|i| matches!(i, Item::Truncate(_))).count();
    assert_eq!((truncates, state_of(&batches).len()), (1, 1));
    assert!(batches.iter().all(|b| b.rows() == 0 || b.commit_micros.is_some() || b.end == Boundary::Open));
}

#[test]
fn mysql_boundaries() {
    boundaries(&Lab::new(MySql::shared()));
}

#[test]
fn mariadb_boundaries() {
    boundaries(&Lab::new(MariaDb::shared()));
}

/// Columns come, go and change their names.
fn shapes(lab: &Lab) {
    lab.db.sql("create table t (id int primary key, a varchar(20), b int, key (b))");
    let tables = lab.tables();
    let from = lab.source.position().unwrap();
    lab.db.sql(
        "insert into t values (1, 'x', 5); alter table t add column c decimal(6,2) not null default 1.50 after id",
    );
    lab.db.sql("insert into t values (2, 2.25, 'y', 6); alter table t drop column b, change a name varchar(20)");
    lab.db.sql("insert into t (id, name) values (3, 'z'); create index i on t (name); insert into t (id, name) values (4, 'w')");
    let until = lab.source.position().unwrap();
    let batches = read_until(&lab.source, &from, &until, &tables);
    let steps: Vec<SchemaStep> = batches
        .iter()
        .flat_map(|b| &b.items)
        .flat_map(|i| match i {
            Item::Schema(change) => change.steps.clone(),
            _ => vec![],
        })
        .collect();
    assert_eq!(
        steps,
        [
            SchemaStep::Add { column: "c".into(), fill: Some("1.50".into()) },
            SchemaStep::Drop { column: "b".into() },
            SchemaStep::Rename { from: "a".into(), to: "name".into() },
        ]
    );
    let last = batches.iter().flat_map(|b| &b.items).rev().find_map(|i| match i {
        Item::Rows(r) => Some(r.table.clone()),
        _ => None,
    });
    let names: Vec<String> = last.unwrap().columns.iter().map(|c| c.name.clone()).collect();
    assert_eq!(names, ["id", "c", "name"]);
    // Wider text is no change; a column that loses digits rewrites rows, and no event says so.
    lab.db.sql("alter table t modify name varchar(200), convert to character set utf8mb4; insert into t (id, name) values (5, 'v')");
    let until = {
        let end = lab.source.position().unwrap();
        let last = batches.iter().flat_map(|b| &b.items).rev().find_map(|i| match i {
            Item::Rows(r) => Some(r.table.clone()),
            _ => None,
        });
        read_until(&lab.source, &until, &end, &[last.unwrap()]);
        end
    };
    lab.db.sql("alter table t modify c decimal(6,1) not null default 1");
    let e = lab.error_from(&until, &batches);
    assert!(e.to_string().contains("column c") && e.hint_text().is_some(), "{e}");
}

#[test]
fn mysql_shapes() {
    shapes(&Lab::new(MySql::shared()));
}

#[test]
fn mariadb_shapes() {
    shapes(&Lab::new(MariaDb::shared()));
}

/// What cannot be carried stops the stream with table, column, key and a way out.
fn refusals(lab: &Lab) {
    for (name, value, column) in [
        ("d1", "(7, '0000-00-00', null, null)", "d"),
        ("d2", "(7, '2024-00-10', null, null)", "d"),
        ("d3", "(7, null, '0000-00-00 00:00:00', null)", "s"),
        ("e1", "(7, null, null, 0)", "e"),
    ] {
        lab.db.sql(&format!("create table {name} (id int primary key, d date, s timestamp null, e enum('a','b'))"));
        let tables = lab.source.tables(&Selection { include: vec![name.into()], exclude: vec![] }).unwrap();
        let from = lab.source.position().unwrap();
        lab.db.sql(&format!("set sql_mode = ''; insert into {name} values {value}"));
        let e = lab.error(&from, &tables);
        let text = e.to_string();
        let place = format!("{}.{name}, column {column}, row id=7", lab.db.name());
        assert!(text.contains(&place) && e.hint_text().unwrap().contains("UPDATE"), "{text}");
    }
    lab.db.sql("create table st (id int primary key, v int)");
    let tables = lab.source.tables(&Selection { include: vec!["st".into()], exclude: vec![] }).unwrap();
    for (statement, hint) in [
        ("set session binlog_format = STATEMENT; insert into st values (1, 2)", "binlog_format"),
        ("alter table st rename to st2; alter table st2 rename to st", "copy"),
        (
            "set session binlog_row_image = MINIMAL; insert into st (id) values (5); update st set id = 6 where id = 5",
            "binlog_row_image",
        ),
        ("drop table st", "exclude"),
    ] {
        let from = lab.source.position().unwrap();
        lab.db.sql(statement);
        let e = lab.error(&from, &tables);
        assert!(e.to_string().contains(".st") && e.hint_text().unwrap().contains(hint), "{statement}: {e:?}");
    }
}

#[test]
fn mysql_refusals() {
    refusals(&Lab::new(MySql::shared()));
}

#[test]
fn mariadb_refusals() {
    refusals(&Lab::new(MariaDb::shared()));
}

#[test]
fn mysql_partial_json_is_refused() {
    let lab = Lab::new(MySql::shared());
    lab.db.sql("create table j (id int primary key, v json); insert into j values (1, json_object('a', repeat('x', 2000), 'b', 1))");
    let tables = lab.tables();
    let from = lab.source.position().unwrap();
    lab.db.sql(
        "set session binlog_row_value_options = PARTIAL_JSON, session binlog_row_image = MINIMAL; \
         update j set v = json_set(v, '$.b', 2)",
    );
    let e = lab.error(&from, &tables);
    assert!(e.hint_text().unwrap().contains("binlog_row_value_options"), "{e:?}");
}

#[test]
fn mysql_tagged_gtids() {
    let lab = Lab::new(MySql::shared());
    lab.db.sql("create table t (id int primary key)");
    let tables = lab.tables();
    let from = lab.source.position().unwrap();
    lab.db.sql("set gtid_next = 'AUTOMATIC:blue'; insert into t values (1); set gtid_next = 'AUTOMATIC'; insert into t values (2)");
    let until = lab.source.position().unwrap();
    assert!(until.as_str().contains(":blue:"), "{until}");
    let batches = read_until(&lab.source, &from, &until, &tables);
    assert_eq!(state_of(&batches).len(), 2);
    lab.db.sql("insert into t values (3)");
    let end = lab.source.position().unwrap();
    assert_eq!(state_of(&read_until(&lab.source, &until, &end, &tables)).len(), 1, "a start with tags");
}

/// XA and savepoints of tables that nobody carries do no harm; those of carried ones stop.
#[test]
fn mysql_xa() {
    let lab = Lab::new(MySql::shared());
    lab.db.sql("create table t (id int primary key); create table u (id int primary key)");
    let tables = lab.source.tables(&Selection { include: vec!["t".into()], exclude: vec![] }).unwrap();
    let from = lab.source.position().unwrap();
    let xa = |name: &str, table: &str| {
        format!(
            "xa start '{name}'; insert into {table} values (1); xa end '{name}'; xa prepare '{name}'; xa commit '{name}'"
        )
    };
    lab.db.sql(&xa(&format!("{}1", lab.db.name()), "u"));
    lab.db.sql("insert into t values (5)");
    let until = lab.source.position().unwrap();
    assert_eq!(state_of(&read_until(&lab.source, &from, &until, &tables)).len(), 1);
    lab.db.sql(&xa(&format!("{}2", lab.db.name()), "t"));
    assert!(lab.error(&until, &tables).to_string().contains("XA"));
}

/// Transactions elsewhere move the position without items, and soon.
#[test]
fn mysql_an_idle_table_moves_on() {
    let lab = Lab::new(MySql::shared());
    lab.db.sql("create table t (id int primary key); create table u (id int primary key)");
    let tables = lab.source.tables(&Selection { include: vec!["t".into()], exclude: vec![] }).unwrap();
    let from = lab.source.position().unwrap();
    let mut stream = lab.source.stream(&from, &tables).unwrap();
    lab.db.sql("insert into u values (1)");
    let limit = Limit { deadline: deadline(), bytes: 1 << 20, rows: 1000, until: None };
    let batch = stream.next(&limit).unwrap().expect("the position moves");
    assert!(batch.items.is_empty());
    let Boundary::Commit(here) = batch.end else { panic!("open") };
    assert!(lab.source.order(&from, &here).unwrap().is_lt());
    let started = Instant::now();
    let soon = Limit { deadline: Instant::now() + Duration::from_millis(300), ..limit };
    while stream.next(&soon).unwrap().is_some() {}
    assert!(started.elapsed() < Duration::from_secs(5));
}

/// A damaged file stops the stream, and the error says where.
fn corruption(server: &crossfade_harness::MySqlServer) {
    let lab = Lab::new(server);
    lab.db.sql("create table t (id int primary key, v varchar(100))");
    let tables = lab.tables();
    let from = lab.source.position().unwrap();
    lab.db.sql("insert into t values (1, 'the quick brown fox jumps over the lazy dog')");
    lab.db.sql("flush logs");
    let file = from.as_str().rsplit(['@', '/']).next().unwrap().split(':').next().unwrap();
    let mut log = OpenOptions::new().read(true).write(true).open(server.data().join(file)).unwrap();
    let mut bytes = Vec::new();
    log.read_to_end(&mut bytes).unwrap();
    let at = bytes.windows(9).rposition(|w| w == b"brown fox").expect("the row stands in the log");
    log.seek(SeekFrom::Start(at as u64)).unwrap();
    log.write_all(b"B").unwrap();
    drop(log);
    let e = lab.error(&from, &tables);
    let text = e.to_string();
    assert!(text.contains(file) && text.contains("checksum"), "{e:?}");
}

#[test]
fn mysql_corruption() {
    // Else the server finds the damage itself, and says less.
    corruption(&MySql::start(Options::new().set("source_verify_checksum", "OFF")));
}

#[test]
fn mariadb_corruption() {
    corruption(&MariaDb::start(Options::new().set("master_verify_checksum", "OFF")));
}

/// A binlog file that ends inside an event, as a full or failing disk leaves it: nothing behind the gap is handed on.
fn truncation(server: &crossfade_harness::MySqlServer) {
    let lab = Lab::new(server);
    lab.db.sql("create table t (id int primary key, v varchar(100))");
    let tables = lab.tables();
    let from = lab.source.position().unwrap();
    lab.db.sql("insert into t values (1, 'cut in the middle'); flush logs; insert into t values (2, 'behind the gap')");
    let file = from.as_str().rsplit(['@', '/']).next().unwrap().split(':').next().unwrap();
    let path = server.data().join(file);
    let bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(10).rposition(|w| w == b"the middle").expect("the row stands in the log");
    OpenOptions::new().write(true).open(&path).unwrap().set_len(at as u64).unwrap();
    let e = lab.error(&from, &tables);
    assert!(!e.is_transient(), "trying again would not help: {e:?}");
    assert!(e.to_string().contains("truncated"), "{e:?}");
    assert!(e.hint_text().is_some_and(|h| h.contains("crossfade snapshot '*'")), "{e:?}");
}

#[test]
fn mysql_truncation() {
    truncation(&MySql::start(Options::new()));
}

#[test]
fn mariadb_truncation() {
    truncation(&MariaDb::start(Options::new()));
}

/// A log that no longer reaches back is never skipped over.
fn purged(server: &crossfade_harness::MySqlServer) {
    let lab = Lab::new(server);
    lab.db.sql("create table t (id int primary key)");
    let tables = lab.tables();
    let from = lab.source.position().unwrap();
    lab.db.sql("insert into t values (1); flush logs; insert into t values (2); flush logs; insert into t values (3)");
    let logs =
        || lab.db.sql("show binary logs").lines().map(|l| l.split('\t').next().unwrap().to_owned()).collect::<Vec<_>>();
    let (first, last) = (logs()[0].clone(), logs().pop().unwrap());
    // MariaDB keeps a file in silence for as long as a crash might need it.
    let patience = deadline();
    while logs().contains(&first) {
        assert!(Instant::now() < patience, "{first} is not purged");
        lab.db.sql(&format!("purge binary logs to '{last}'"));
        std::thread::sleep(Duration::from_millis(100));
    }
    let e = lab.error(&from, &tables);
    assert_eq!(e.exit(), crossfade_core::Exit::Unavailable, "{e:?}");
    assert!(e.hint_text().unwrap().contains("copy anew"), "{e:?}");
}

#[test]
fn mysql_purged() {
    purged(&MySql::start(Options::new()));
}

#[test]
fn mysql_purged_without_gtids() {
    purged(&MySql::start(Options::new().set("gtid_mode", "OFF").set("enforce_gtid_consistency", "OFF")));
}

#[test]
fn mariadb_purged() {
    purged(&MariaDb::start(Options::new()));
}
