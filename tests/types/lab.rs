//! One table of many types, from a source to Postgres and to Parquet, and what all three ends print.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use crossfade_harness::{Database, python};

use crate::class::Class;
use crate::common::{Pipeline, folder};
use crate::kind::Kind;

/// Rows by id, each the printed values of the columns; NULL is `None`.
pub type Printed = BTreeMap<i64, Vec<Option<String>>>;

/// Where the rows of one value come from: the copy, inserts and updates of the stream.
const WAYS: [(&str, i64); 3] = [("copied", 0), ("inserted", 10_000), ("updated", 20_000)];

/// A source as this test sees it.
pub trait Site {
    /// Its URL.
    fn url(&self) -> String;
    /// Runs statements, in UTC and with the session's own quoting rules.
    fn run(&self, script: &str);
    /// The table `t` as its own client prints it.
    fn print(&self, kinds: &[Kind]) -> Printed;
    /// The table's schema at the target.
    fn schema(&self) -> String;
    /// Reads what arrived in a form of the source's own: SQLite's literals.
    fn read(&self, _kinds: &[Kind], _printed: &mut Printed) {}
}

/// Column of a kind.
pub fn column(i: usize) -> String {
    format!("c{i}")
}

/// Carries all kinds through copy and stream, and demands that each end prints the same.
pub fn round_trip(site: &dyn Site, kinds: &[Kind], target: &Database) {
    let rows = rows_of(kinds);
    site.run(&create(kinds));
    let (_keep, lake) = folder();
    let pipeline = Pipeline::new("types", &site.url(), &[&target.url(), &format!("file://{}", lake.display())]);
    pipeline.catch_up();
    site.run(&(insert(kinds, WAYS[1].1, rows) + &update(kinds, WAYS[2].1, rows)));
    pipeline.catch_up();
    assert_eq!(pipeline.verify_equal(), 2, "the table at both targets");
    let source = site.print(kinds);
    let mut arrived = [
        ("Postgres", of_postgres(target, &site.schema(), kinds)),
        ("Parquet", of_parquet(&lake.join(site.schema()).join("t"), kinds)),
    ];
    arrived.iter_mut().for_each(|(_, printed)| site.read(kinds, printed));
    assert_eq!(source.len() as i64, rows * 3);
    let mut wrong = String::new();
    for (end, printed) in &arrived {
        assert!(source.keys().eq(printed.keys()), "{end} has rows {:?}", printed.keys());
        for (id, ours) in &source {
            for ((kind, ours), theirs) in kinds.iter().zip(ours).zip(&printed[id]) {
                compare(kind, *id, end, ours.as_deref(), theirs.as_deref(), &mut wrong);
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    assert!(pipeline.ended("uninstall", &[]).status.success());
}

/// A row for each value, and one for NULL.
fn rows_of(kinds: &[Kind]) -> i64 {
    kinds.iter().map(|k| k.values.len()).max().unwrap_or_default() as i64 + 1
}

/// The statements that make the table, with the rows to copy and those to update later.
pub fn create(kinds: &[Kind]) -> String {
    let columns: Vec<String> = kinds.iter().enumerate().map(|(i, k)| format!("{} {}", column(i), k.declared)).collect();
    let rows = rows_of(kinds);
    let mut script = format!("CREATE TABLE t (id int PRIMARY KEY, {});\n", columns.join(", "));
    script += &insert(kinds, 0, rows);
    for row in 0..rows {
        writeln!(script, "INSERT INTO t (id) VALUES ({});", WAYS[2].1 + row).expect("a String takes any text");
    }
    script
}

fn compare(kind: &Kind, id: i64, end: &str, ours: Option<&str>, theirs: Option<&str>, wrong: &mut String) {
    let (way, base) = WAYS.iter().rev().find(|(_, base)| id >= *base).expect("the first is 0");
    let at = usize::try_from(id - base).expect("rows count from the base");
    let value = kind.values.get(at).map_or("NULL", String::as_str);
    let same = match (ours, theirs) {
        (Some(a), Some(b)) => kind.class.same(a, b),
        (a, b) => a == b,
    };
    // A value that the source itself made NULL would be no test.
    let tried = ours.is_some() == (value != "NULL");
    if !same || !tried {
        let shown = |v: Option<&str>| v.map_or("NULL".into(), |v| kind.class.shown(v));
        writeln!(wrong, "{} {value} {way}: {} became {} in {end}", kind.declared, shown(ours), shown(theirs))
            .expect("a String takes any text");
    }
}

fn insert(kinds: &[Kind], base: i64, rows: i64) -> String {
    let list: Vec<String> = (0..kinds.len()).map(column).collect();
    let mut script = String::new();
    for row in 0..rows {
        let values: Vec<&str> = kinds.iter().map(|k| value(k, row)).collect();
        writeln!(script, "INSERT INTO t (id, {}) VALUES ({}, {});", list.join(", "), base + row, values.join(", "))
            .expect("a String takes any text");
    }
    script
}

fn update(kinds: &[Kind], base: i64, rows: i64) -> String {
    let mut script = String::new();
    for row in 0..rows {
        let sets: Vec<String> =
            kinds.iter().enumerate().map(|(i, k)| format!("{} = {}", column(i), value(k, row))).collect();
        writeln!(script, "UPDATE t SET {} WHERE id = {};", sets.join(", "), base + row)
            .expect("a String takes any text");
    }
    script
}

fn value(kind: &Kind, row: i64) -> &str {
    usize::try_from(row).ok().and_then(|row| kind.values.get(row)).map_or("NULL", String::as_str)
}

/// Settings under which psql prints the forms of [`Class`], whatever the database's own are.
pub const PSQL: &str = "set client_encoding = 'UTF8'; set timezone = 'UTC'; set datestyle = 'ISO, YMD'; \
    set intervalstyle = 'postgres'; set extra_float_digits = 1; set bytea_output = 'hex'; \
    set standard_conforming_strings = on; set lc_monetary = 'C'; set xmloption = content; \
    set search_path = '';\n";

/// A table as psql prints it.
pub fn of_postgres(database: &Database, schema: &str, kinds: &[Kind]) -> Printed {
    let list: String = kinds.iter().enumerate().map(|(i, k)| format!(", {}", k.class.postgres(&column(i)))).collect();
    rows(&database.sql(&format!("{PSQL}select id{list} from \"{schema}\".t order by id")))
}

/// Lines of tab-separated values behind an id.
pub fn rows(text: &str) -> Printed {
    let row = |line: &str| {
        let mut values = line.split('\t');
        let id = values.next().and_then(|id| id.parse().ok()).unwrap_or_else(|| panic!("no id in {line:?}"));
        (id, values.map(|v| (v != "NULL").then(|| v.to_owned())).collect())
    };
    text.lines().map(row).collect()
}

/// Reads a table's files as they lie there, by pyarrow alone: the last state of each id, its values printed as [`Class`] has them.
const READ: &str = r#"
import glob, json, os, struct, sys
import pyarrow as pa, pyarrow.parquet as pq
folder, classes = sys.argv[1], sys.argv[2].split(',')
files = sorted(glob.glob(os.path.join(folder, '*.parquet')))
log = pa.concat_tables([pq.read_table(f) for f in files], promote_options='default')
log = log.sort_by([('_seq', 'ascending'), ('_ordinal', 'ascending')])
last = {}
for i, (key, op) in enumerate(zip(log['id'].to_pylist(), log['_op'].cast(pa.string()).to_pylist())):
    last[key] = None if op == 'd' else i
log = log.take(sorted(i for i in last.values() if i is not None))
def values(column, kind):
    t = column.type
    if pa.types.is_timestamp(t) or pa.types.is_date(t):
        bits = 64 if pa.types.is_timestamp(t) else 32
        ends = {2**(bits - 1) - 1: 'infinity', -2**(bits - 1): '-infinity'}
        return [v if v is None else ends.get(v, str(v)) for v in column.cast(pa.int64() if bits == 64 else pa.int32()).to_pylist()]
    if pa.types.is_boolean(t): one = lambda v: 'true' if v else 'false'
    elif pa.types.is_floating(t): one = lambda v: repr(float(v))
    elif pa.types.is_decimal(t): one = lambda v: format(v, 'f')
    elif pa.types.is_integer(t): one = str
    elif pa.types.is_binary(t): one = lambda v: v.hex().upper()
    elif kind == 'vector': one = lambda v: b''.join(struct.pack('<f', float(f)) for f in v[1:-1].split(',')).hex().upper()
    elif pa.types.is_string(t): one = (lambda v: v.encode().hex().upper()) if kind == 'text' else str
    else: raise TypeError(t)
    return [v if v is None else one(v) for v in column.to_pylist()]
columns = [values(log[f'c{i}'], kind) for i, kind in enumerate(classes)]
print(json.dumps([[key, list(row)] for key, row in zip(log['id'].to_pylist(), zip(*columns))]))
"#;

/// A table as pyarrow reads it.
pub fn of_parquet(folder: &Path, kinds: &[Kind]) -> Printed {
    let classes: Vec<&str> = kinds.iter().map(|k| Class::name(k.class)).collect();
    let json = python(READ, &[folder.to_str().expect("UTF-8"), &classes.join(",")]);
    let rows: Vec<(i64, Vec<Option<String>>)> = serde_json::from_str(&json).expect("the script prints JSON");
    rows.into_iter().collect()
}
