//! A database of one test, its tables of every type, and rows as comparable text.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::{Array, RecordBatch};
use arrow_schema::{DataType, TimeUnit};
use crossfade_core::{
    Batch, Boundary, Consistency, Endpoint, Error, Item, KeyRange, Limit, Omissions, Op, Position, Selection, Source,
    TableSchema,
};
use crossfade_harness::{Client, Database};
use tokio::runtime::Runtime;

/// A column: its name, its type, the server's expression for what [`show`] prints, and values as SQL.
pub type Type = (&'static str, &'static str, &'static str, &'static [&'static str]);

/// Rows by key: what [`show`] prints of each column.
pub type State = BTreeMap<String, Vec<Option<String>>>;

const TEXT: &str = "hex(convert({} using utf8mb4))";
const DAYS: &str = "datediff({}, '1970-01-01')";
const MICROS: &str = "timestampdiff(microsecond, '1970-01-01', {})";
const LENGTH: &str =
    "cast(round(truncate(time_to_sec({}), 0) * 1000000 + if({} < 0, -1, 1) * microsecond({})) as signed)";

macro_rules! shared_columns {
    ($($more:expr),* $(,)?) => {
        &[
            ("i8", "tinyint", "{}", &["-128", "127", "0"]),
            ("u8", "tinyint unsigned", "{}", &["255", "0"]),
            ("i16", "smallint", "{}", &["-32768", "32767"]),
            ("u16", "smallint unsigned", "{}", &["65535"]),
            ("i24", "mediumint", "{}", &["-8388608", "8388607", "-1"]),
            ("u24", "mediumint unsigned", "{}", &["16777215"]),
            ("i32", "int", "{}", &["-2147483648", "2147483647"]),
            ("u32", "int(10) unsigned zerofill", "{} + 0", &["4294967295", "7"]),
            ("y", "year", "{} + 0", &["1901", "2155", "0"]),
            ("i64", "bigint", "{}", &["-9223372036854775808", "9223372036854775807"]),
            ("u64", "bigint unsigned", "{}", &["18446744073709551615"]),
            ("f32", "float", "cast({} as double)", &["0.1", "-3.402823466e38", "16777216", "1.17549435e-38"]),
            ("f64", "double", "{}", &["0.1", "-1.7976931348623157e308", "5e-300", "0"]),
            ("d", "decimal(10,2)", "{}", &["12345678.90", "-0.01", "0", "-99999999.99"]),
            ("d38", "decimal(38,10)", "{}", &["-1234567890123456789012345678.0123456789", "0.0000000001"]),
            ("d65", "decimal(65,30)", "{}", &["99999999999999999999999999999999999.999999999999999999999999999999", "-1"]),
            ("d0", "decimal(9,9)", "{}", &["0.123456789", "-0.999999999"]),
            ("b1", "bit(1)", "hex(lpad(bin({}), 1, '0'))", &["b'1'", "b'0'"]),
            ("b13", "bit(13)", "hex(lpad(bin({}), 13, '0'))", &["b'1010101010101'", "b'1'"]),
            ("b64", "bit(64)", "hex(lpad(bin({}), 64, '0'))", &["18446744073709551615", "9223372036854775809"]),
            ("c", "char(10)", TEXT, &["'abc   '", "''", "'日本語'", "repeat('ü', 10)"]),
            ("clong", "char(255)", TEXT, &["repeat('€', 255)", "'x'"]),
            ("vc", "varchar(40)", TEXT, &["'it''s \\\\ \"q\" \\n\\t'", "'trailing  '", "repeat('😀', 40)", "''"]),
            ("vcl", "varchar(3000)", TEXT, &["repeat('ab', 1500)", "'x'"]),
            ("l1", "varchar(40) character set latin1", TEXT, &["'€uro ÿ é'", "x'8081'"]),
            ("u3", "varchar(40) character set utf8mb3 collate utf8mb3_bin", TEXT, &["'日本'"]),
            ("asci", "char(9) character set ascii", TEXT, &["'plain'"]),
            ("tt", "tinytext", TEXT, &["repeat('t', 255)", "''"]),
            ("tx", "text", TEXT, &["repeat('ß', 20000)"]),
            ("mt", "mediumtext", TEXT, &["repeat('m', 100000)", "'x'"]),
            ("lt", "longtext character set latin1", TEXT, &["repeat('ä', 70000)"]),
            ("bn", "binary(6)", "hex({})", &["x'0102'", "x'000000000000'", "x'ff0000000020'"]),
            ("vb", "varbinary(300)", "hex({})", &["x'00ff2000'", "x''", "repeat(x'ab', 300)"]),
            ("tb", "tinyblob", "hex({})", &["x'00'"]),
            ("bl", "blob", "hex({})", &["repeat(x'00ff', 3000)"]),
            ("lb", "longblob", "hex({})", &["repeat(x'0d0a', 50000)", "x''"]),
            ("e", "enum('','b','c''d','é')", TEXT, &["'b'", "'c''d'", "'é'", "''"]),
            ("s", "set('x','y','z')", TEXT, &["'x,z'", "''", "'z,y,x'"]),
            ("da", "date", DAYS, &["'1000-01-01'", "'9999-12-31'", "'2024-02-29'", "'1969-12-31'"]),
            ("dt0", "datetime", MICROS, &["'1000-01-01 00:00:00'", "'9999-12-31 23:59:59'"]),
            ("dt3", "datetime(3)", MICROS, &["'1969-12-31 23:59:59.999'", "'2024-02-29 12:00:00.001'"]),
            ("dt6", "datetime(6)", MICROS, &["'9999-12-31 23:59:59.999999'", "'2024-01-01 00:00:00.000001'"]),
            ("ts0", "timestamp null", MICROS, &["'1970-01-01 00:00:01'", "'2038-01-19 03:14:07'"]),
            ("ts6", "timestamp(6) null", MICROS, &["'2024-01-01 00:00:00.000001'"]),
            ("ti0", "time", LENGTH, &["'-838:59:59'", "'838:59:59'", "'00:00:00'", "'-00:00:01'"]),
            ("ti2", "time(2)", LENGTH, &["'-01:02:03.45'", "'-00:00:00.01'", "'100:00:00.99'"]),
            ("ti5", "time(5)", LENGTH, &["'-12:34:56.78901'", "'00:00:00.00001'"]),
            ("ti6", "time(6)", LENGTH, &["'-838:59:58.999999'", "'00:00:00.000001'"]),
            ("g", "geometry", "hex({})", &["st_geomfromtext('POINT(1 2)')", "st_geomfromtext('LINESTRING(0 0,1 1)', 4326)"]),
            ("gs", "int generated always as (id * 2) stored", "{}", &[]),
            ("gv", "varchar(20) generated always as (concat('v', id)) virtual", TEXT, &[]),
            $($more),*
        ]
    };
}

const JSON_TEXT: &str = "hex(cast({} as char character set utf8mb4))";

/// Every type of MySQL.
pub const MYSQL_COLUMNS: &[Type] = shared_columns![
    (
        "j",
        "json",
        JSON_TEXT,
        &[
            r#"'{"b": [1, -2, 3.5, "x\\"y\\\\z/", null, true, false], "a": {}, "é": "日本😀", "": []}'"#,
            "json_object('dec', cast(-12.50 as decimal(10,2)), 'date', date'2024-02-29', 'dt', timestamp'2024-01-01 01:02:03.5', 't', time'-101:02:03.25')",
            "json_array(x'00ff', repeat(x'ab', 100), b'1', 1e20, 1e15, 1e14, 1e-15, 1e-16, 123456789.125e0, -0e0, 18446744073709551615, -9223372036854775808, 65535, -32769, 4294967295)",
            "json_object('big', repeat('x', 70000), 'n', json_array(1, 70000, 5000000000, 2.5e0, json_object('k', 'v')))",
            "cast('null' as json)",
            r#"cast('"a\\u0001\\b\\f\\n\\r\\t\\u007f"' as json)"#,
            "json_array(st_geomfromtext('POINT(1 2)'))",
        ]
    ),
    (
        "jd",
        "json",
        JSON_TEXT,
        &["'[1.0, 1e2, 0.1, 1.7976931348623157e308, 2.2250738585072014e-308, 123456789012345680000, 0.00001]'"]
    ),
];

/// Every type of MariaDB 10.11.
pub const MARIADB_COLUMNS: &[Type] = shared_columns![
    ("j", "json", TEXT, &[r#"'{"b":  [1, 2.50,"x"]}'"#, "'null'"]),
    (
        "uu",
        "uuid",
        "replace({}, '-', '')",
        &[
            "'123e4567-e89b-12d3-a456-426655440000'",
            "'00000000-0000-0000-0000-000000000000'",
            "'ffffffff-ffff-4fff-bfff-ffffffffffff'",
            "'01890a5d-ac96-774b-bcce-b302099a8057'",
            "'6ccd780c-baba-1026-9564-5b8c656024db'"
        ]
    ),
    (
        "i6",
        "inet6",
        "hex(cast({} as char))",
        &[
            "'2001:db8::ff00:42:8329'",
            "'::'",
            "'::1'",
            "'::ffff:192.0.2.128'",
            "'::192.0.2.128'",
            "'1:0:0:2::'",
            "'fe80::1:0:0'"
        ]
    ),
    ("i4", "inet4", "hex(cast({} as char))", &["'192.0.2.128'", "'0.0.0.0'"]),
    ("zl", "varchar(10) character set latin1", TEXT, &["'€'"]),
    ("zu", "varchar(10) character set utf8mb3", TEXT, &["'日'"]),
];

/// One test's database on a server, opened as a source.
pub struct Lab {
    pub db: Database,
    pub source: Arc<dyn Source>,
    _runtime: Runtime,
}

impl Lab {
    pub fn new(server: &Client) -> Self {
        let db = server.fresh_database("stream");
        let runtime = Runtime::new().expect("a runtime starts");
        let source =
            crossfade_mysql::open(&Endpoint::new(db.url(), None), Omissions::default(), runtime.handle().clone())
                .expect("the source opens");
        Lab { db, source, _runtime: runtime }
    }

    pub fn tables(&self) -> Vec<Arc<TableSchema>> {
        self.source.tables(&Selection::default()).expect("every table can be carried")
    }

    /// The error with which reading after `from` ends.
    pub fn error(&self, from: &Position, tables: &[Arc<TableSchema>]) -> Error {
        let mut stream = match self.source.stream(from, tables) {
            Ok(stream) => stream,
            Err(e) => return e,
        };
        let limit = Limit { deadline: deadline(), bytes: 1 << 20, rows: 10_000, until: None };
        loop {
            match stream.next(&limit) {
                Ok(Some(_)) => {}
                Ok(None) => panic!("no error came"),
                Err(e) => return e,
            }
        }
    }

    /// As [`Lab::error`], with the tables in the shape that `batches` left them in.
    pub fn error_from(&self, from: &Position, batches: &[Batch]) -> Error {
        let last = batches.iter().flat_map(|b| &b.items).rev().find_map(|i| match i {
            Item::Rows(r) => Some(r.table.clone()),
            _ => None,
        });
        self.error(from, &[last.expect("there were rows")])
    }

    pub fn create_types(&self, columns: &[Type]) {
        let list: String = columns.iter().map(|(name, kind, ..)| format!(", {name} {kind}")).collect();
        self.db.sql(&format!("create table types (id int not null primary key{list}) charset utf8mb4"));
    }

    /// Inserts a row for every value, one of NULLs; changes each value to the next one; deletes some.
    pub fn write_types(&self, columns: &[Type], settings: &str) {
        let settable: Vec<&Type> = columns.iter().filter(|c| !c.3.is_empty()).collect();
        let names: String = settable.iter().map(|c| format!(", {}", c.0)).collect();
        let most = settable.iter().map(|c| c.3.len()).max().unwrap_or_default();
        let value = |c: &Type, i: usize| c.3[i % c.3.len()];
        let mut sql = format!("set names utf8mb4; set time_zone = '+00:00'; {settings} begin;\n");
        for i in 0..most {
            let values: String = settable.iter().map(|c| format!(", {}", value(c, i))).collect();
            sql += &format!("insert into types (id{names}) values ({i}{values});\n");
        }
        let nulls: String = settable.iter().map(|_| ", null").collect();
        sql += &format!("insert into types (id{names}) values (1000{nulls});\ncommit;\n");
        for i in 0..most {
            let sets: Vec<String> =
                settable.iter().skip(i % 2).step_by(2).map(|c| format!("{} = {}", c.0, value(c, i + 1))).collect();
            sql += &format!("update types set {} where id = {i};\n", sets.join(", "));
        }
        let (first, second) = (settable[0], settable[1]);
        sql += &format!("update types set {} = {}, {} = null where id = 1000;\n", first.0, value(first, 0), second.0);
        sql += "delete from types where id = 1;\n";
        self.db.sql(&sql);
    }

    /// Compares with SELECT, and SELECT with the snapshot.
    pub fn assert_types(&self, columns: &[Type], state: &State, table: &Arc<TableSchema>) {
        let list: String = columns.iter().map(|c| format!(", {}", c.2.replace("{}", c.0))).collect();
        let rows = self.db.sql(&format!("set time_zone = '+00:00'; select id{list} from types order by id"));
        let mut checked = 0;
        for line in rows.lines() {
            let values: Vec<&str> = line.split('\t').collect();
            let seen = state.get(values[0]).unwrap_or_else(|| panic!("row {} did not come", values[0]));
            for (i, (name, ..)) in columns.iter().enumerate() {
                let seen = seen[i + 1].as_deref().unwrap_or("NULL");
                assert!(
                    same(seen, values[i + 1]),
                    "row {}, column {name}: log {seen}, server {}",
                    values[0],
                    values[i + 1]
                );
                checked += 1;
            }
        }
        assert_eq!(state.len(), rows.lines().count());
        assert!(checked > 200);
        let mut snapshot = self.source.snapshot(std::slice::from_ref(table), Consistency::AtLeast).expect("a snapshot");
        let mut scanned = State::new();
        let mut sink = |batch: RecordBatch| {
            for row in 0..batch.num_rows() {
                let values: Vec<_> = batch.columns().iter().map(|c| show(c, row)).collect();
                scanned.insert(values[0].clone().unwrap_or_default(), values);
            }
            Ok(())
        };
        snapshot.scan(table, &KeyRange::ALL, &mut sink).expect("a scan");
        for (key, row) in &scanned {
            for (i, value) in row.iter().enumerate() {
                assert_eq!(&state[key][i], value, "row {key}, column {}: log, snapshot", table.columns[i].name);
            }
        }
        assert_eq!(scanned.len(), state.len());
    }
}

/// Numbers may be written in several ways; everything else is exact.
fn same(a: &str, b: &str) -> bool {
    a == b
        || a.eq_ignore_ascii_case(b)
        || matches!((a.parse::<f64>(), b.parse::<f64>()), (Ok(x), Ok(y)) if x.to_bits() == y.to_bits() && (a.contains(['.', 'e']) || b.contains(['.', 'e'])))
}

pub fn deadline() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

/// Everything between two positions.
pub fn read_until(
    source: &Arc<dyn Source>,
    from: &Position,
    until: &Position,
    tables: &[Arc<TableSchema>],
) -> Vec<Batch> {
    let mut stream = source.stream(from, tables).expect("the stream starts");
    let limit = Limit { deadline: deadline(), bytes: 1 << 20, rows: 10_000, until: Some(until.clone()) };
    let mut batches = Vec::new();
    loop {
        let batch = stream.next(&limit).expect("the log is read").expect("the log comes in time");
        let done = matches!(&batch.end, Boundary::Commit(p) if source.order(p, until).expect("one log").is_eq());
        batches.push(batch);
        if done {
            return batches;
        }
    }
}

/// The rows that are there after all batches; absent values keep what they were. Keyed by the first column.
pub fn state_of(batches: &[Batch]) -> State {
    let mut state = State::new();
    for item in batches.iter().flat_map(|b| &b.items) {
        match item {
            Item::Truncate(_) => state.clear(),
            Item::Schema(_) => {}
            Item::Rows(rows) => {
                for (i, op) in rows.ops.iter().enumerate() {
                    let mut values: Vec<_> = rows.batch.columns().iter().map(|c| show(c, i)).collect();
                    let key = values[0].clone().expect("a key is never NULL");
                    match op {
                        Op::Delete => assert!(state.remove(&key).is_some(), "delete of {key}, which is not there"),
                        Op::Insert => assert!(state.insert(key, values).is_none(), "a row is inserted twice"),
                        Op::Update => {
                            let old = state.get(&key).unwrap_or_else(|| panic!("update of {key}, which is not there"));
                            for (c, value) in values.iter_mut().enumerate().filter(|(c, _)| rows.is_absent(*c, i)) {
                                value.clone_from(&old[c]);
                            }
                            state.insert(key, values);
                        }
                    }
                }
            }
        }
    }
    state
}

/// A value as text: numbers in decimal, dates in days, times in microseconds, everything else in hexadecimal.
pub fn show(array: &dyn Array, row: usize) -> Option<String> {
    if array.is_null(row) {
        return None;
    }
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02X}")).collect::<String>();
    Some(match array.data_type() {
        DataType::Int8 => array.as_primitive::<Int8Type>().value(row).to_string(),
        DataType::Int16 => array.as_primitive::<Int16Type>().value(row).to_string(),
        DataType::Int32 => array.as_primitive::<Int32Type>().value(row).to_string(),
        DataType::Int64 => array.as_primitive::<Int64Type>().value(row).to_string(),
        DataType::UInt8 => array.as_primitive::<UInt8Type>().value(row).to_string(),
        DataType::UInt16 => array.as_primitive::<UInt16Type>().value(row).to_string(),
        DataType::UInt32 => array.as_primitive::<UInt32Type>().value(row).to_string(),
        DataType::UInt64 => array.as_primitive::<UInt64Type>().value(row).to_string(),
        DataType::Float32 => format!("{:e}", f64::from(array.as_primitive::<Float32Type>().value(row))),
        DataType::Float64 => format!("{:e}", array.as_primitive::<Float64Type>().value(row)),
        DataType::Decimal128(..) => array.as_primitive::<Decimal128Type>().value_as_string(row),
        DataType::Decimal256(..) => array.as_primitive::<Decimal256Type>().value_as_string(row),
        DataType::Utf8 => hex(array.as_string::<i32>().value(row).as_bytes()),
        DataType::Binary => hex(array.as_binary::<i32>().value(row)),
        DataType::FixedSizeBinary(16) => hex(array.as_fixed_size_binary().value(row)),
        DataType::Date32 => array.as_primitive::<Date32Type>().value(row).to_string(),
        DataType::Duration(TimeUnit::Microsecond) => {
            array.as_primitive::<DurationMicrosecondType>().value(row).to_string()
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            array.as_primitive::<TimestampMicrosecondType>().value(row).to_string()
        }
        other => panic!("no text for {other}"),
    })
}
