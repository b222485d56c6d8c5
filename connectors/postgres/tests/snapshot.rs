//! Every logical type, edges included, read back from real tables, with the server's own conversions as the judge.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::{Array, ArrayRef, RecordBatch};
use crossfade_core::{Class, Column, Endpoint, Error, KeyRange, Logical, Snapshot, TableName, TableSchema};
use crossfade_harness::{Database, PgVersion, Postgres, USER};
use crossfade_postgres::connect::Server;
use crossfade_postgres::ddl;
use crossfade_postgres::snapshot::TargetSnapshot;
use tokio::runtime::Runtime;

const BOTH: [PgVersion; 2] = [PgVersion::V15, PgVersion::V18];

fn column(name: &str, logical: Logical) -> Column {
    Column {
        name: name.into(),
        source_type: "x".into(),
        logical,
        nullable: true,
        auto_increment: false,
        number: 0,
        policies: Default::default(),
    }
}

fn table(name: &str, columns: Vec<Column>, key: Vec<usize>) -> Arc<TableSchema> {
    Arc::new(TableSchema {
        name: TableName::new("shop", name),
        version: 1,
        columns,
        key,
        indexes: vec![],
        foreign_keys: vec![],
        origin: None,
        pending: vec![],
        number: 0,
    })
}

/// A database with the control tables and a checkpoint of pipeline `p`, and a way in.
struct Lab {
    database: Database,
    server: Server,
    _runtime: Runtime,
}

impl Lab {
    fn new(version: PgVersion) -> Lab {
        let database = Postgres::shared(version).fresh_database("snapshot");
        database.sql(crossfade_postgres::CONTROL_SQL);
        database.sql(
            "insert into crossfade.checkpoint (pipeline, seq, position, phase, epoch, owner) \
             values ('p', 1, 'here', 'streaming', 1, '{}'), ('fresh', 0, null, 'copying', 1, '{}')",
        );
        let runtime = Runtime::new().unwrap();
        // Over the socket: logging in by password takes a while in a build without optimisation.
        let socket = Postgres::shared(version).socket().display().to_string().replace('/', "%2F");
        let url = format!("postgres://{USER}@{socket}:{}/{}", Postgres::shared(version).port(), database.name());
        let server = Server::new(&Endpoint::new(url, None), runtime.handle().clone()).unwrap();
        Lab { database, server, _runtime: runtime }
    }

    fn create(&self, table: &TableSchema) {
        self.server.block_on(async {
            let client = self.server.client().await.unwrap();
            ddl::prepare(&client, table, ddl::Key::There).await.unwrap();
        });
    }

    fn rows(&self, table: &TableSchema, range: &KeyRange) -> Result<Vec<RecordBatch>, Error> {
        read(&mut TargetSnapshot::open(&self.server, "p")?, table, range)
    }
}

fn read(snapshot: &mut dyn Snapshot, table: &TableSchema, range: &KeyRange) -> Result<Vec<RecordBatch>, Error> {
    let mut batches = Vec::new();
    snapshot.scan(table, range, &mut |batch| {
        batches.push(batch);
        Ok(())
    })?;
    Ok(batches)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// An Arrow value in the form that [`oracle`] makes the server print.
fn shown(logical: &Logical, array: &ArrayRef, row: usize) -> String {
    macro_rules! number {
        ($kind:ty) => {
            array.as_primitive::<$kind>().value(row).to_string()
        };
    }
    if array.is_null(row) {
        return "NULL".into();
    }
    match logical {
        Logical::Bool => array.as_boolean().value(row).to_string(),
        Logical::Int8 => number!(Int8Type),
        Logical::Int16 => number!(Int16Type),
        Logical::Int32 => number!(Int32Type),
        Logical::Int64 => number!(Int64Type),
        Logical::UInt8 => number!(UInt8Type),
        Logical::UInt16 => number!(UInt16Type),
        Logical::UInt32 => number!(UInt32Type),
        Logical::UInt64 => number!(UInt64Type),
        Logical::Float32 => hex(&array.as_primitive::<Float32Type>().value(row).to_be_bytes()),
        Logical::Float64 => hex(&array.as_primitive::<Float64Type>().value(row).to_be_bytes()),
        Logical::Decimal { precision, .. } if *precision <= 38 => number!(Decimal128Type),
        Logical::Decimal { .. } => number!(Decimal256Type),
        Logical::Bytes => hex(array.as_binary::<i32>().value(row)),
        Logical::Uuid => hex(array.as_fixed_size_binary().value(row)),
        Logical::Date => number!(Date32Type),
        Logical::Time => number!(Time64MicrosecondType),
        Logical::Duration => number!(DurationMicrosecondType),
        Logical::Timestamp | Logical::TimestampTz => number!(TimestampMicrosecondType),
        _ => hex(array.as_string::<i32>().value(row).as_bytes()),
    }
}

/// The same of column `c`, computed by the server.
fn oracle(logical: &Logical) -> String {
    let infinite = |finite: &str, low: &str, high: &str| {
        format!("CASE WHEN c = 'infinity' THEN '{high}' WHEN c = '-infinity' THEN '{low}' ELSE ({finite})::text END")
    };
    let micros = "(extract(epoch from c) * 1000000)::bigint";
    match logical {
        Logical::Float32 => "encode(float4send(c), 'hex')".into(),
        Logical::Float64 => "encode(float8send(c), 'hex')".into(),
        Logical::Decimal { scale, .. } => format!("trim_scale(c * 10::numeric ^ {scale})::text"),
        Logical::Bytes => "encode(c, 'hex')".into(),
        Logical::Uuid => "replace(c::text, '-', '')".into(),
        Logical::Date => infinite("c - date '1970-01-01'", "-2147483648", "2147483647"),
        Logical::Time | Logical::Duration => format!("{micros}::text"),
        Logical::Bool
        | Logical::Int8
        | Logical::Int16
        | Logical::Int32
        | Logical::Int64
        | Logical::UInt8
        | Logical::UInt16
        | Logical::UInt32
        | Logical::UInt64 => "c::text".into(),
        Logical::Timestamp | Logical::TimestampTz => infinite(micros, "-9223372036854775808", "9223372036854775807"),
        _ => "encode(convert_to(c::text, 'UTF8'), 'hex')".into(),
    }
}

fn numbers() -> Vec<(Logical, &'static [&'static str])> {
    vec![
        (Logical::Bool, &["true", "false"]),
        (Logical::Int8, &["-128", "127", "0"]),
        (Logical::Int16, &["-32768", "32767"]),
        (Logical::Int32, &["-2147483648", "2147483647"]),
        (Logical::Int64, &["-9223372036854775808", "9223372036854775807"]),
        (Logical::UInt8, &["0", "255"]),
        (Logical::UInt16, &["0", "65535"]),
        (Logical::UInt32, &["0", "4294967295"]),
        (Logical::UInt64, &["0", "10000", "18446744073709551615", "9223372036854775808"]),
        (Logical::Float32, &["0", "-0", "NaN", "Infinity", "-Infinity", "3.4028235e38", "1e-45", "16777215"]),
        (Logical::Float64, &["0", "-0", "NaN", "Infinity", "1.7976931348623157e308", "5e-324", "0.1"]),
        (Logical::Decimal { precision: 10, scale: 2 }, &["0", "-12.5", "99999999.99", "0.01", "10000", "100000.1"]),
        (
            Logical::Decimal { precision: 38, scale: 38 },
            &["0.99999999999999999999999999999999999999", "-0.00000000000000000000000000000000000001"],
        ),
        (Logical::Decimal { precision: 38, scale: 0 }, &["99999999999999999999999999999999999999", "-1", "100000000"]),
        (
            Logical::Decimal { precision: 65, scale: 30 },
            &[
                "99999999999999999999999999999999999.999999999999999999999999999999",
                "-0.000000000000000000000000000001",
                "7",
            ],
        ),
        (
            Logical::Decimal { precision: 76, scale: 0 },
            &["-9999999999999999999999999999999999999999999999999999999999999999999999999999"],
        ),
        (
            Logical::Numeric,
            &[
                "0",
                "0.000",
                "-12.50",
                "NaN",
                "Infinity",
                "-Infinity",
                "1e300",
                "1e-300",
                "10000",
                "123456789012345.67890",
                "0.00010",
            ],
        ),
    ]
}

fn other_samples() -> Vec<(Logical, &'static [&'static str])> {
    let labels = || vec!["a".to_owned(), "b".to_owned()];
    let times: &[&str] = &[
        "-infinity",
        "infinity",
        "1970-01-01",
        "1999-12-31 23:59:59.999999",
        "4713-01-01 BC",
        "9999-12-31 23:59:59.999999",
        "294246-12-31",
    ];
    vec![
        (Logical::Text, &["", "it''s", "a\tb\nc\\d", "日本 🦀", "NULL"]),
        (Logical::Enum { labels: labels() }, &["a"]),
        (Logical::Set { labels: labels() }, &["a,b", ""]),
        (Logical::Literal, &["X''00''", "1.5"]),
        (Logical::Postgres { name: "inet".into() }, &["10.0.0.0/8"]),
        (Logical::Postgres { name: "text[]".into() }, &["{}", "[0:1]={a,NULL}", "{{\"\",b},{NULL,\"c d\"}}"]),
        (Logical::Json, &["{\"b\":1, \"a\" : 1.0, \"a\":2}", "null", "12345678901234567890.10"]),
        (Logical::Bytes, &["", "\\x00ff5c27"]),
        (Logical::Bit { len: 1 }, &["0", "1"]),
        (Logical::Bit { len: 11 }, &["10000000001"]),
        (Logical::Bit { len: 64 }, &["1000000000000000000000000000000000000000000000000000000000000001"]),
        (Logical::Uuid, &["00000000-0000-0000-0000-000000000000", "ffeeddcc-bbaa-9988-7766-554433221100"]),
        (Logical::Date, &["-infinity", "infinity", "1970-01-01", "2000-02-29", "4713-01-01 BC", "9999-12-31"]),
        (Logical::Time, &["00:00", "23:59:59.999999", "24:00"]),
        (Logical::Duration, &["0", "-838:59:59.000001", "838:59:59.999999"]),
        (Logical::Timestamp, times),
        (Logical::TimestampTz, times),
    ]
}

#[test]
fn every_type_comes_back() {
    for version in BOTH {
        let lab = Lab::new(version);
        let samples: Vec<_> = numbers().into_iter().chain(other_samples()).enumerate().collect();
        let shape = |n: usize, logical: &Logical| {
            table(&format!("t{n}"), vec![column("id", Logical::Int32), column("c", logical.clone())], vec![0])
        };
        let client = lab.server.block_on(lab.server.client()).unwrap();
        let mut inserts = String::new();
        for (n, (logical, values)) in &samples {
            lab.server.block_on(ddl::prepare(&client, &shape(*n, logical), ddl::Key::There)).unwrap();
            let rows: Vec<String> = values.iter().enumerate().map(|(i, v)| format!("({i}, '{v}')")).collect();
            inserts.push_str(&format!("insert into shop.t{n} values {}, (999, null);\n", rows.join(", ")));
        }
        lab.database.sql(&inserts);
        let mut snapshot = TargetSnapshot::open(&lab.server, "p").unwrap();
        for (n, (logical, values)) in &samples {
            let ask = format!("set timezone = 'UTC'; select id, {} from shop.t{n} order by id", oracle(logical));
            let judged = lab.database.sql(&ask);
            let judged: Vec<&str> = judged.lines().collect();
            let table = shape(*n, logical);
            let mut got: Vec<(i32, String)> = Vec::new();
            for batch in read(&mut snapshot, &table, &KeyRange::ALL).unwrap() {
                assert_eq!(batch.schema(), table.arrow());
                let ids = batch.column(0).as_primitive::<Int32Type>();
                got.extend((0..batch.num_rows()).map(|row| (ids.value(row), shown(logical, batch.column(1), row))));
            }
            got.sort();
            let got: Vec<String> = got.into_iter().map(|(id, value)| format!("{id}\t{value}")).collect();
            assert_eq!(got, judged, "{version:?} {logical:?}");
            assert_eq!(got.len(), values.len() + 1);
        }
    }
}

#[test]
fn what_does_not_fit_names_table_column_and_row() {
    let lab = Lab::new(PgVersion::V15);
    lab.database.sql("create schema shop");
    for (n, (logical, sql, value)) in [
        (Logical::Int8, "smallint", "128"),
        (Logical::UInt8, "smallint", "-1"),
        (Logical::UInt16, "integer", "65536"),
        (Logical::UInt32, "bigint", "-1"),
        (Logical::UInt64, "numeric", "18446744073709551616"),
        (Logical::UInt64, "numeric", "0.5"),
        (Logical::UInt64, "numeric", "NaN"),
        (Logical::Decimal { precision: 4, scale: 2 }, "numeric", "1.234"),
        (Logical::Decimal { precision: 4, scale: 2 }, "numeric", "100"),
        (Logical::Decimal { precision: 50, scale: 2 }, "numeric", "1e49"),
        (Logical::Decimal { precision: 4, scale: 2 }, "numeric", "Infinity"),
        (Logical::Duration, "interval", "1 day"),
        (Logical::Duration, "interval", "1 month"),
        (Logical::Timestamp, "timestamp", "294250-01-01"),
        (Logical::Bit { len: 3 }, "bit(4)", "1010"),
    ]
    .into_iter()
    .enumerate()
    {
        let table = table(&format!("t{n}"), vec![column("id", Logical::Text), column("c", logical)], vec![0]);
        lab.database.sql(&format!(
            "create table shop.t{n} (id text primary key, c {sql}); insert into shop.t{n} values ('k1', '{value}')"
        ));
        let error = lab.rows(&table, &KeyRange::ALL).unwrap_err();
        let Class::Data(place) = error.class() else { panic!("{error:?}") };
        assert_eq!(place.table, format!("shop.t{n}"));
        assert_eq!(place.column.as_deref(), Some("c"), "{error}");
        assert!(place.key.as_deref().is_some_and(|k| k.contains("k1")), "{error}");
    }
}

#[test]
fn an_operators_own_types_are_cast() {
    let lab = Lab::new(PgVersion::V18);
    lab.database.sql(
        "create schema shop; create table shop.t (id bigint primary key, j jsonb, v varchar(9), r float8, n numeric(30,5), b varbit); \
         insert into shop.t values (7, '{\"a\":1}', 'x', 0.5, 12.5, b'101')",
    );
    let columns = vec![
        column("id", Logical::Int32),
        column("j", Logical::Json),
        Column { source_type: "varchar(9)".into(), ..column("v", Logical::Text) },
        column("r", Logical::Float32),
        column("n", Logical::Decimal { precision: 10, scale: 2 }),
        column("b", Logical::Bit { len: 3 }),
    ];
    let table = table("t", columns, vec![0]);
    lab.create(&table);
    let batch = lab.rows(&table, &KeyRange::ALL).unwrap().remove(0);
    let got: Vec<String> =
        table.columns.iter().zip(batch.columns()).map(|(c, array)| shown(&c.logical, array, 0)).collect();
    assert_eq!(got, ["7", &hex(b"{\"a\": 1}"), &hex(b"x"), "3f000000", "1250", &hex(b"101")]);
}

#[test]
fn ranges_cover_every_key_once() {
    for version in BOTH {
        let lab = Lab::new(version);
        let columns = || vec![column("a", Logical::Text), column("b", Logical::Int64), column("c", Logical::Text)];
        let wide = table("odd \"name\"", columns(), vec![0, 1]);
        let empty = table("empty", columns(), vec![1]);
        let keyless = table("keyless", columns(), vec![]);
        for t in [&wide, &empty, &keyless] {
            lab.create(t);
        }
        lab.database.sql(
            "insert into shop.\"odd \"\"name\"\"\" select chr(40 + i % 90) || E'\\\\''', i, 'x' from generate_series(1, 1000) i; \
             insert into shop.keyless values ('a', 1, null), ('a', 1, null)",
        );
        let mut snapshot = TargetSnapshot::open(&lab.server, "p").unwrap();
        assert_eq!(snapshot.position().as_str(), "here");
        // Rows of later transactions are not seen.
        lab.database.sql("insert into shop.\"odd \"\"name\"\"\" values ('zzz', 0, 'late'); update crossfade.checkpoint set position = 'there' where seq = 1");
        for rows in [1, 7, 100, 999, 1000, 1001, 5000] {
            let ranges = snapshot.split(&wide, rows).unwrap();
            assert_eq!(ranges.len() as u64, 1000u64.div_ceil(rows), "{rows}");
            if rows < 7 {
                continue;
            }
            let mut seen: Vec<i64> = Vec::new();
            for range in &ranges {
                for batch in read(&mut snapshot, &wide, range).unwrap() {
                    seen.extend(batch.column(1).as_primitive::<Int64Type>().values());
                }
            }
            seen.sort_unstable();
            assert!(seen.iter().copied().eq(1..=1000), "{rows}: {} rows", seen.len());
        }
        assert_eq!(snapshot.split(&empty, 10).unwrap(), []);
        assert!(read(&mut snapshot, &empty, &KeyRange::ALL).unwrap().is_empty());
        assert_eq!(snapshot.split(&keyless, 1).unwrap(), [KeyRange::ALL]);
        let twice = read(&mut snapshot, &keyless, &KeyRange::ALL).unwrap();
        assert_eq!(twice[0].num_rows(), 2);
    }
}

#[test]
fn without_a_checkpoint_there_is_no_position() {
    let lab = Lab::new(PgVersion::V15);
    for pipeline in ["fresh", "unknown"] {
        let error = TargetSnapshot::open(&lab.server, pipeline).err().unwrap();
        assert!(error.to_string().contains("has committed nothing"), "{error}");
    }
    let gone = table("gone", vec![column("id", Logical::Int32)], vec![0]);
    let error = lab.rows(&gone, &KeyRange::ALL).unwrap_err();
    assert!(error.to_string().contains("shop.gone") && error.hint_text().is_some(), "{error:?}");
}
