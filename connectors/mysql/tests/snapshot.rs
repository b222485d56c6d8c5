//! Snapshots of real servers: every type as the server itself computes it, ranges that cover each row once, and
//! states that belong to their positions while a writer runs.

use std::sync::{Arc, OnceLock};

use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::{Array, RecordBatch};
use arrow_schema::{DataType, TimeUnit};
use crossfade_core::{
    Consistency, Endpoint, Error, Fingerprint, KeyRange, Omissions, Selection, Snapshot, Source, TableSchema,
};
use crossfade_harness::{Database, MariaDb, MySql, MySqlServer, Options};

fn open(url: &str) -> Arc<dyn Source> {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| tokio::runtime::Runtime::new().unwrap());
    crossfade_mysql::open(&Endpoint::new(url, None), Omissions::default(), runtime.handle().clone()).unwrap()
}

/// Both servers, with a name for messages.
fn servers() -> [(&'static str, &'static MySqlServer); 2] {
    [("MySQL", MySql::shared()), ("MariaDB", MariaDb::shared())]
}

fn table(source: &dyn Source, name: &str) -> Arc<TableSchema> {
    source.tables(&Selection { include: vec![name.into()], exclude: vec![] }).unwrap().pop().expect(name)
}

fn scan(snapshot: &mut dyn Snapshot, table: &TableSchema, range: &KeyRange) -> Result<Vec<RecordBatch>, Error> {
    let mut batches = Vec::new();
    snapshot.scan(table, range, &mut |batch| {
        batches.push(batch);
        Ok(())
    })?;
    Ok(batches)
}

fn fingerprint(batches: &[RecordBatch]) -> Fingerprint {
    let mut sum = Fingerprint::default();
    batches.iter().for_each(|b| sum.add(b).unwrap());
    sum
}

/// One value in a form that the server can compute too: integers as digits, text and bytes as hex, times as microseconds.
fn shown(array: &dyn Array, row: usize) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02X}")).collect::<String>();
    if array.is_null(row) {
        return "NULL".into();
    }
    match array.data_type() {
        DataType::Int8 => array.as_primitive::<Int8Type>().value(row).to_string(),
        DataType::Int16 => array.as_primitive::<Int16Type>().value(row).to_string(),
        DataType::Int32 => array.as_primitive::<Int32Type>().value(row).to_string(),
        DataType::Int64 => array.as_primitive::<Int64Type>().value(row).to_string(),
        DataType::UInt8 => array.as_primitive::<UInt8Type>().value(row).to_string(),
        DataType::UInt16 => array.as_primitive::<UInt16Type>().value(row).to_string(),
        DataType::UInt32 => array.as_primitive::<UInt32Type>().value(row).to_string(),
        DataType::UInt64 => array.as_primitive::<UInt64Type>().value(row).to_string(),
        DataType::Float32 => f64::from(array.as_primitive::<Float32Type>().value(row)).to_string(),
        DataType::Float64 => array.as_primitive::<Float64Type>().value(row).to_string(),
        DataType::Decimal128(..) => array.as_primitive::<Decimal128Type>().value_as_string(row),
        DataType::Decimal256(..) => array.as_primitive::<Decimal256Type>().value_as_string(row),
        DataType::Utf8 => hex(array.as_string::<i32>().value(row).as_bytes()),
        DataType::Binary => hex(array.as_binary::<i32>().value(row)),
        DataType::FixedSizeBinary(16) => hex(array.as_fixed_size_binary().value(row)),
        DataType::Date32 => array.as_primitive::<Date32Type>().value(row).to_string(),
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            array.as_primitive::<TimestampMicrosecondType>().value(row).to_string()
        }
        DataType::Duration(_) => array.as_primitive::<DurationMicrosecondType>().value(row).to_string(),
        other => panic!("no column of this source is {other}"),
    }
}

/// Type, the server's own account of a value, and values.
const TYPES: &[(&str, &str, &[&str])] = &[
    ("tinyint", "c", &["-128", "127", "0"]),
    ("tinyint(1)", "c", &["1", "-7"]),
    ("tinyint unsigned", "c", &["255"]),
    ("smallint", "c", &["-32768"]),
    ("smallint unsigned", "c", &["65535"]),
    ("mediumint", "c", &["-8388608", "8388607"]),
    ("mediumint unsigned", "c", &["16777215"]),
    ("int", "c", &["-2147483648"]),
    ("int(5) unsigned zerofill", "c + 0", &["4294967295", "7"]),
    ("bigint", "c", &["-9223372036854775808"]),
    ("bigint unsigned", "c", &["18446744073709551615"]),
    ("decimal(5,2)", "c", &["-999.99", "0.05", "-0.05", "0"]),
    ("decimal(10,0)", "c", &["-1234567890"]),
    ("decimal(38,30)", "c", &["-12345678.901234567890123456789012345678"]),
    ("decimal(38,10)", "c", &["9999999999999999999999999999.9999999999"]),
    ("decimal(65,30)", "c", &["-99999999999999999999999999999999999.999999999999999999999999999999"]),
    ("float", "c + 0e0", &["16777215", "0.1", "-3.4e38", "1.17549435e-38"]),
    ("double", "c + 0e0", &["0.1", "-1.7976931348623157e308", "2.2250738585072014e-308", "3.141592653589793"]),
    ("bit(1)", "HEX(LPAD(BIN(c), 1, '0'))", &["b'1'", "b'0'"]),
    ("bit(13)", "HEX(LPAD(BIN(c), 13, '0'))", &["b'1000000000101'"]),
    ("bit(64)", "HEX(LPAD(BIN(c), 64, '0'))", &["b'1000000000000000000000000000000000000000000000000000000000000001'"]),
    ("char(5) character set utf8mb4", "HEX(c)", &["'é😀'", "''", "'a  '"]),
    ("varchar(10) character set latin1", "HEX(CONVERT(c USING utf8mb4))", &["'é€'", "X'80819fff'"]),
    ("varchar(10) character set ascii", "HEX(c)", &["'abc'"]),
    ("text character set utf8mb4", "HEX(c)", &["'a\\0b\\n\\t\\'\\\\'", "REPEAT('x', 300)", "REPEAT('ü', 20000)"]),
    ("mediumtext character set utf8mb4", "HEX(c)", &["REPEAT('y', 70000)"]),
    ("binary(4)", "HEX(c)", &["X'00ff'", "X'61'"]),
    ("varbinary(9)", "HEX(c)", &["''", "X'ff00'"]),
    ("blob", "HEX(c)", &["X'00c3'"]),
    ("longblob", "HEX(c)", &["REPEAT(X'ff', 70000)"]),
    ("enum('a','b''c','d\\\\e','','é')", "HEX(CONVERT(c USING utf8mb4))", &["'a'", "'b''c'", "'d\\\\e'", "''", "5"]),
    ("set('x','y','z')", "HEX(CONVERT(c USING utf8mb4))", &["'z,x'", "''", "7"]),
    ("year", "c + 0", &["0", "1901", "2155"]),
    ("date", "TO_DAYS(c) - 719528", &["'1000-01-01'", "'9999-12-31'", "'1969-12-31'", "'2024-02-29'"]),
    (
        "datetime(6)",
        "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', c)",
        &["'1000-01-01 00:00:00.000001'", "'9999-12-31 23:59:59.999999'", "'1969-12-31 23:59:59.5'"],
    ),
    ("datetime", "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', c)", &["'2024-02-29'", "'2024-02-29 01:02:03'"]),
    (
        "timestamp(6) null",
        "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', c)",
        &["'1970-01-01 00:00:01'", "'2038-01-19 03:14:07.999999'"],
    ),
    (
        "time(6)",
        "IF(c < 0, -1, 1) * ((HOUR(c) * 3600 + MINUTE(c) * 60 + SECOND(c)) * 1000000 + MICROSECOND(c))",
        &["'-838:59:59'", "'838:59:59'", "'-00:00:00.000001'", "'00:00:00'", "'-01:02:03.45'"],
    ),
    ("json", "HEX(CONVERT(c USING utf8mb4))", &["'{\"b\": [1, 2.50, null, \"é😀\"], \"a\": 1e300}'", "'\"x\"'"]),
    ("point", "HEX(c)", &["POINT(1, -2.5)"]),
    ("geometry", "HEX(c)", &["ST_GeomFromText('LINESTRING(0 0, 1 1)', 4326)"]),
];

const MARIADB_TYPES: &[(&str, &str, &[&str])] = &[
    (
        "uuid",
        "UPPER(REPLACE(c, '-', ''))",
        &["'6ccd780c-baba-1026-9564-5b8c656024db'", "'00000000-0000-0000-0000-000000000000'"],
    ),
    ("inet6", "HEX(CAST(c AS CHAR))", &["'2001:db8::1'", "'::ffff:1.2.3.4'", "'::'"]),
    ("inet4", "HEX(CAST(c AS CHAR))", &["'10.0.0.255'"]),
];

#[test]
fn every_type_reads_as_the_server_computes_it() {
    for (name, server) in servers() {
        let db = server.fresh_database("types");
        let mut types = TYPES.to_vec();
        if name == "MariaDB" {
            types.extend(MARIADB_TYPES);
        }
        let mut ddl = String::from("set sql_mode = '';\nset time_zone = '+00:00';\n");
        for (i, (declared, _, values)) in types.iter().enumerate() {
            ddl +=
                &format!("create table t{i} (id int primary key, c {declared});\ninsert into t{i} values (0, null);\n");
            for (id, value) in values.iter().enumerate() {
                ddl += &format!("insert into t{i} values ({}, {value});\n", id + 1);
            }
        }
        db.sql(&ddl);
        let source = open(&db.url());
        let tables = source.tables(&Selection::default()).unwrap();
        assert_eq!(tables.len(), types.len());
        let mut snapshot = source.snapshot(&tables, Consistency::AtLeast).unwrap();
        for (i, (declared, oracle, values)) in types.iter().enumerate() {
            let table = tables.iter().find(|t| t.name.name == format!("t{i}")).unwrap();
            let batches = scan(&mut *snapshot, table, &KeyRange::ALL).unwrap();
            assert_eq!(batches.len(), 1);
            let column = batches[0].column(1);
            let ours: Vec<String> = (0..column.len()).map(|row| shown(column, row)).collect();
            let theirs = db.sql(&format!("set time_zone = '+00:00'; select {oracle} from t{i} order by id"));
            let float = declared.starts_with("float") || *declared == "double";
            let theirs: Vec<String> = theirs
                .lines()
                .map(|line| match line.parse::<f64>() {
                    Ok(n) if float => n.to_string(),
                    _ => line.to_owned(),
                })
                .collect();
            assert_eq!(ours.len(), values.len() + 1);
            assert_eq!(ours, theirs, "{name}: {declared}");
        }
    }
}

#[test]
fn hidden_and_generated_columns_are_read() {
    for (name, server) in servers() {
        let db = server.fresh_database("hidden");
        db.sql(
            "create table t (id int primary key, a int invisible, v int as (id * 2) virtual, s int as (id * 3) stored, \
             c varchar(400)) partition by hash (id) partitions 3;\n\
             insert into t (id, a, c) values (1, 7, repeat('q', 300)), (2, 8, 'w'), (3, 9, null)",
        );
        let source = open(&db.url());
        let t = table(&*source, "t");
        let mut snapshot = source.snapshot(std::slice::from_ref(&t), Consistency::Exact).unwrap();
        let mut rows = Vec::new();
        for batch in scan(&mut *snapshot, &t, &KeyRange::ALL).unwrap() {
            for row in 0..batch.num_rows() {
                rows.push(batch.columns().iter().map(|c| shown(c, row)).collect::<Vec<_>>().join(" "));
            }
        }
        rows.sort();
        assert_eq!(
            rows,
            [format!("1 7 2 3 {}", "71".repeat(300)), "2 8 4 6 77".into(), "3 9 6 9 NULL".into()],
            "{name}"
        );
    }
}

#[test]
fn values_without_an_equivalent_are_named() {
    for (name, server) in servers() {
        let db = server.fresh_database("bad");
        for (declared, value, word) in [
            ("date", "'0000-00-00'", "0000-00-00"),
            ("datetime", "'2024-00-10'", "2024-00-10"),
            ("timestamp null", "0", "0000-00-00"),
            ("enum('a','b')", "'nonsense'", "index 0"),
        ] {
            db.sql(&format!(
                "set sql_mode = ''; drop table if exists t; create table t (a int, `b c` datetime, c {declared}, primary \
                 key (a, `b c`)); insert ignore into t values (7, '2024-02-03 04:05:06', {value})"
            ));
            let source = open(&db.url());
            let t = table(&*source, "t");
            let mut snapshot = source.snapshot(std::slice::from_ref(&t), Consistency::AtLeast).unwrap();
            let error = scan(&mut *snapshot, &t, &KeyRange::ALL).unwrap_err();
            let text = error.to_string();
            for part in [
                format!("table {}.t", db.name()),
                "column c".into(),
                "row a=7, b c=2024-02-03 04:05:06".into(),
                word.into(),
            ] {
                assert!(text.contains(&part), "{name} {declared}: {text} lacks {part}");
            }
            assert!(error.hint_text().is_some());
            let after = scan(&mut *snapshot, &t, &KeyRange::ALL).unwrap_err();
            assert!(after.is_transient(), "a scan that failed leaves rows behind: {after}");
        }
    }
}

/// Key columns and the statement that fills the table with them.
const KEYS: &[(&str, &str, &str)] = &[
    ("dense", "k int primary key", "select n from seq"),
    ("sparse", "k bigint primary key", "select (n - 500) * 9007199254740993 from seq"),
    ("unsigned_", "k bigint unsigned primary key", "select 18446744073709551615 - n * n * n from seq"),
    (
        "text_ci",
        "k varchar(20) character set utf8mb4 collate utf8mb4_unicode_ci primary key",
        "select concat(if(n % 2, 'Ä', 'b'), char(97 + n % 26), n) from seq",
    ),
    ("text_latin1", "k varchar(20) character set latin1 primary key", "select concat('é', n, '''\\\\') from seq"),
    ("bytes", "k varbinary(16) primary key", "select unhex(left(sha2(n, 256), 32)) from seq"),
    ("decimals", "k decimal(40,20) primary key", "select n * 0.00000000000000000001 + 1234567890123456789 from seq"),
    ("floats", "k float primary key", "select n * 0.1 from seq"),
    ("times", "k datetime(6) primary key", "select '2024-01-01' + interval n * 37 microsecond from seq"),
    (
        "composite",
        "a varchar(5), b int, c date, primary key (a, b, c)",
        "select concat('x', n % 3), n % 7, '2024-01-01' + interval n day from seq",
    ),
    ("enumerated", "a enum('z','y','x') not null, b int not null, unique key (a, b)", "select 1 + n % 3, n from seq"),
    ("`odd``name é`", "`sel\"ect` int, `a``b` int, primary key (`a``b`, `sel\"ect`)", "select n % 10, n from seq"),
];

#[test]
fn ranges_cover_each_row_once() {
    for (name, server) in servers() {
        let db = server.fresh_database("split");
        let mut ddl = String::from(
            "set sql_mode = ''; create table seq (n int primary key);\n\
             insert into seq with recursive x as (select 1 n union all select n + 1 from x where n < 1000) select * from x;\n",
        );
        for (table, key, fill) in KEYS {
            ddl += &format!("create table {table} ({key});\ninsert into {table} {fill};\n");
        }
        db.sql(&ddl);
        let source = open(&db.url());
        let tables = source.tables(&Selection::default()).unwrap();
        assert_eq!(tables.len(), KEYS.len() + 1);
        for consistency in [Consistency::AtLeast, Consistency::Exact] {
            let mut snapshot = source.snapshot(&tables, consistency).unwrap();
            for table in &tables {
                let whole = fingerprint(&scan(&mut *snapshot, table, &KeyRange::ALL).unwrap());
                assert_eq!(whole.rows, 1000, "{name} {}", table.name);
                for rows in [1, 7, 100, 999, 1000, 5000] {
                    if rows == 1 && table.name.name != "composite" {
                        continue;
                    }
                    let ranges = snapshot.split(table, rows).unwrap();
                    assert_eq!(ranges.len() as u64, 1000u64.div_ceil(rows), "{name} {} by {rows}", table.name);
                    let mut sum = Fingerprint::default();
                    for range in &ranges {
                        let part = fingerprint(&scan(&mut *snapshot, table, range).unwrap());
                        assert!(part.rows <= rows, "{name} {} by {rows}: {} rows in {range:?}", table.name, part.rows);
                        sum.merge(&part);
                    }
                    assert_eq!(sum, whole, "{name} {} by {rows}", table.name);
                    assert_eq!(ranges[0].after, None);
                    assert!(ranges.last().unwrap().to.is_some(), "rows that come later are the stream's");
                }
            }
        }
    }
}

#[test]
fn an_empty_table_has_no_ranges() {
    let db = MariaDb::shared().fresh_database("empty");
    db.sql("create table t (id int primary key)");
    let source = open(&db.url());
    let t = table(&*source, "t");
    let mut snapshot = source.snapshot(std::slice::from_ref(&t), Consistency::Exact).unwrap();
    assert_eq!(snapshot.split(&t, 10).unwrap(), []);
    assert_eq!(scan(&mut *snapshot, &t, &KeyRange::ALL).unwrap().len(), 0);
}

#[test]
fn ranges_use_the_index() {
    for (name, server) in servers() {
        let db = server.fresh_database("plan");
        db.sql(
            "create table t (a varchar(10) character set latin1, b int, c varchar(200), primary key (a, b));\n\
             insert into t with recursive x as (select 1 n union all select n + 1 from x where n < 900) \
             select concat('k', n % 30), n, repeat('x', 100) from x; analyze table t",
        );
        let source = open(&db.url());
        let t = table(&*source, "t");
        let mut snapshot = source.snapshot(std::slice::from_ref(&t), Consistency::AtLeast).unwrap();
        let ranges = snapshot.split(&t, 50).unwrap();
        let condition = crossfade_mysql::keys::condition(&t, &ranges[9]).unwrap();
        let plan = db.sql(&format!("explain select * from t where {condition}"));
        assert!(
            plan.contains("\trange\t") || plan.contains("Index range scan on t using PRIMARY"),
            "{name}: {condition}: {plan}"
        );
    }
}

/// The number of transactions that a position holds, on a server that no one else writes to.
fn transactions(position: &str) -> u64 {
    let gtids = position.split_once(':').unwrap().1.split('@').next().unwrap();
    gtids.rsplit('-').next().unwrap().parse().unwrap()
}

fn writers(db: &Database, transactions: usize) -> std::thread::JoinHandle<()> {
    db.sql("create table counter (id int primary key, n bigint); insert into counter values (1, 0), (2, 0)");
    let (client, name) = (db.client().clone(), db.name().to_owned());
    let script =
        "begin; update counter set n = n + 1 where id = 1; update counter set n = n - 1 where id = 2; commit;\n";
    std::thread::spawn(move || {
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| client.sql(&name, &script.repeat(transactions)));
            }
        });
    })
}

#[test]
fn states_belong_to_their_positions_while_a_writer_runs() {
    for (name, server) in [("MySQL", MySql::start(Options::new())), ("MariaDB", MariaDb::start(Options::new()))] {
        let db = server.fresh_database("exact");
        let writer = writers(&db, 4000);
        let source = open(&db.url());
        let t = table(&*source, "counter");
        let start = transactions(source.position().unwrap().as_str());
        let mut base = None;
        let (mut exact, mut moved) = (0, 0);
        while !writer.is_finished() || exact == 0 {
            for consistency in [Consistency::Exact, Consistency::AtLeast] {
                let mut snapshot = match source.snapshot(std::slice::from_ref(&t), consistency) {
                    Ok(snapshot) => snapshot,
                    Err(e) if e.is_transient() => continue,
                    Err(e) => panic!("{name}: {e:?}"),
                };
                let at = transactions(snapshot.position().as_str());
                let batches = scan(&mut *snapshot, &t, &KeyRange::ALL).unwrap();
                let n = batches[0].column(1).as_primitive::<Int64Type>();
                assert_eq!(n.value(0), -n.value(1), "{name}: half a transaction");
                let counted = n.value(0) as u64;
                if consistency == Consistency::Exact {
                    let before = *base.get_or_insert(at - counted);
                    assert_eq!(at - before, counted, "{name}: the state is not that of its position {at}");
                    exact += 1;
                    moved += usize::from(at > start);
                } else {
                    assert!(counted >= at - base.unwrap(), "{name}: the position runs ahead of the state");
                }
            }
        }
        writer.join().unwrap();
        assert!(exact > 3 && moved > 0, "{name}: only {exact} snapshots beside the writer");
        println!("{name}: {exact} exact snapshots beside the writer");
    }
}

#[test]
fn positions_without_gtids_do_not_run_ahead() {
    // The delay lies between the log file and the engine: a position that does not wait runs ahead of what is seen.
    let server = MySql::start(
        Options::new()
            .set("gtid_mode", "OFF")
            .set("enforce_gtid_consistency", "OFF")
            .set("sync_binlog", "1")
            .set("binlog_group_commit_sync_delay", "20000"),
    );
    let db = server.fresh_database("files");
    let writer = writers(&db, 150);
    let source = open(&db.url());
    let t = table(&*source, "counter");
    let (mut last, mut rounds) = (source.position().unwrap(), 0);
    assert!(last.as_str().starts_with("file:"), "{last}");
    while !writer.is_finished() {
        let position = source.position().unwrap();
        assert!(source.order(&last, &position).unwrap().is_le());
        let mut snapshot = source.snapshot(std::slice::from_ref(&t), Consistency::AtLeast).unwrap();
        let batches = scan(&mut *snapshot, &t, &KeyRange::ALL).unwrap();
        let counted = batches[0].column(1).as_primitive::<Int64Type>().value(0);
        // The log up to the position, read by the server itself.
        let at = position.as_str().rsplit(':').next().unwrap().parse::<u64>().unwrap();
        let file = position.as_str().rsplit('/').next().unwrap().split(':').next().unwrap();
        if rounds % 10 == 0 {
            let events = db.sql(&format!("show binlog events in '{file}'"));
            let commits = events
                .lines()
                .filter(|line| line.split('\t').nth(2) == Some("Xid"))
                .filter(|line| line.split('\t').nth(4).unwrap().parse::<u64>().unwrap() <= at)
                .count();
            // The harness and the table's own two rows committed before the writer.
            assert!(counted >= commits as i64 - 1, "{commits} commits up to {position}, {counted} seen");
        }
        (last, rounds) = (position, rounds + 1);
    }
    writer.join().unwrap();
    assert!(rounds > 5);
}

#[test]
fn an_exact_snapshot_does_not_wait_for_ever() {
    let server = MySql::shared();
    let db = server.fresh_database("held");
    db.sql("create table t (id int primary key)");
    let source = open(&db.url());
    let t = table(&*source, "t");
    let (client, name) = (db.client().clone(), db.name().to_owned());
    let holder =
        std::thread::spawn(move || client.sql(&name, "begin; insert into t values (1); select sleep(9); commit"));
    std::thread::sleep(std::time::Duration::from_secs(1));
    let error = source.snapshot(std::slice::from_ref(&t), Consistency::Exact).map(|_| ()).unwrap_err();
    assert!(error.is_transient() && error.hint_text().unwrap().contains("innodb_trx"), "{error:?}");
    let mut snapshot = source.snapshot(std::slice::from_ref(&t), Consistency::AtLeast).unwrap();
    assert_eq!(scan(&mut *snapshot, &t, &KeyRange::ALL).unwrap().len(), 0, "uncommitted rows are not seen");
    holder.join().unwrap();
    assert!(source.snapshot(std::slice::from_ref(&t), Consistency::Exact).is_ok());
}

#[test]
fn distance_in_bytes_over_rotated_files() {
    for (name, server) in [("MySQL", MySql::start(Options::new())), ("MariaDB", MariaDb::start(Options::new()))] {
        let db = server.fresh_database("far");
        db.sql("create table t (id int primary key, v varbinary(20000))");
        let source = open(&db.url());
        let before = source.position().unwrap();
        db.sql("insert into t values (1, repeat('x', 10000)); flush binary logs; insert into t values (2, repeat('x', 5000))");
        let after = source.position().unwrap();
        let far = source.distance(&before, &after).unwrap().unwrap();
        assert!((15_000..18_000).contains(&far), "{name}: {far} bytes from {before} to {after}");
        assert_eq!(source.distance(&after, &after).unwrap(), Some(0));
        assert!(source.order(&before, &after).unwrap().is_lt());
    }
}
