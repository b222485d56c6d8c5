//! Names and values that look like SQL: nothing happens but an exact copy; names that a target would cut are refused.

use crossfade_harness::{Database, MariaDb, MySql, PgVersion, Postgres, python};
use serde_json::Value;

use crate::common::{Pipeline, folder};
use crate::lab::Site;
use crate::{mysql, postgres, sqlite};

/// Names of tables, and of the columns of each. SQLite and MySQL compare names without case; MySQL's end at U+FFFF.
const TABLES: [&str; 7] = [
    "order",
    "UPPER",
    "a\"b'c`d\\e",
    "x; DROP TABLE t; --",
    "$1 %s {0} {table} ?",
    "größe. 日本/..",
    "select * from t",
];
const COLUMNS: [&str; 10] =
    ["id", "user", "Upper", "a\"b", "c'd", "e\\f", "; DROP TABLE t; --", "$1", "%s {0}", "ünï 日本"];
/// Beyond U+FFFF.
const EMOJI: &str = "🦀 👩‍👩‍👧";

/// Values, each to stand in every column but the key.
const VALUES: [&str; 6] = ["it's", "\"; DROP TABLE t; --", "\\", "$1 %s {0}", "NULL", "\\N\\.\n"];

/// Prints the columns of each table's files.
const SHAPES: &str = r#"
import glob, json, sys
import pyarrow.parquet as pq
from urllib.parse import unquote
out = {}
for path in sorted(glob.glob(sys.argv[1] + '/*/*.parquet')):
    out[unquote(path.split('/')[-2])] = [n for n in pq.read_schema(path).names if n not in ('_op', '_commit_time', '_seq', '_ordinal')]
print(json.dumps(out))
"#;

/// How a source writes names and text.
struct Dialect {
    name: fn(&str) -> String,
    text: fn(&str) -> String,
    kind: &'static str,
}

fn double(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn plain(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn carried(site: &dyn Site, dialect: &Dialect, more: &[&str], target: &Database) {
    let Dialect { name, text, kind } = dialect;
    let columns: Vec<&str> = COLUMNS.iter().chain(more).copied().collect();
    let tables: Vec<&str> = TABLES.iter().chain(more).copied().collect();
    let list: Vec<String> = columns[1..].iter().map(|c| format!("{} {kind}", name(c))).collect();
    let rows = |from: usize| -> String {
        let row = |(i, v): (usize, &&str)| {
            let values = vec![text(v); columns.len() - 1].join(", ");
            tables
                .iter()
                .map(|t| format!("INSERT INTO {} VALUES ({}, {values});\n", name(t), from + i))
                .collect::<String>()
        };
        VALUES.iter().enumerate().map(row).collect()
    };
    let create: String = tables
        .iter()
        .map(|t| format!("CREATE TABLE {} ({} int PRIMARY KEY, {});\n", name(t), name("id"), list.join(", ")))
        .collect();
    site.run(&(create + &rows(0)));
    let (_keep, lake) = folder();
    let pipeline = Pipeline::new("names", &site.url(), &[&target.url(), &format!("file://{}", lake.display())]);
    pipeline.catch_up();
    site.run(&rows(100));
    pipeline.catch_up();
    assert_eq!(pipeline.verify_equal(), tables.len() * 2);
    let schema = double(&site.schema());
    for table in &tables {
        let full = format!("{schema}.{}", double(table));
        let all: Vec<String> = columns[1..].iter().map(|c| double(c)).collect();
        let differ: Vec<String> = all.iter().map(|c| format!("{c} is distinct from {}", all[0])).collect();
        let counted =
            target.sql(&format!("select count(*), count(*) filter (where {}) from {full}", differ.join(" or ")));
        assert_eq!(counted, format!("{}\t0", VALUES.len() * 2), "{table}");
        for value in VALUES {
            let sql = format!(
                "select count(*) from {full} where {} = convert_from('\\x{}', 'UTF8')",
                all[0],
                crate::kind::hex(value)
            );
            assert_eq!(target.sql(&sql), "2", "{value:?} in {table}");
        }
    }
    let shapes: Value =
        serde_json::from_str(&python(SHAPES, &[lake.join(site.schema()).to_str().expect("UTF-8")])).expect("JSON");
    for table in &tables {
        assert_eq!(shapes[table], serde_json::json!(columns), "{table}: {shapes}");
    }
    assert!(pipeline.ended("uninstall", &[]).status.success());
}

const FAMILY: Dialect = Dialect {
    name: |name| format!("`{}`", name.replace('`', "``")),
    text: |text| format!("_utf8mb4 X'{}'", crate::kind::hex(text)),
    kind: "varchar(60)",
};

#[test]
fn odd_names_of_mysql() {
    let source = MySql::shared().fresh_database("names");
    let target = Postgres::shared(PgVersion::V18).fresh_database("names");
    carried(&mysql::Server { database: &source }, &FAMILY, &[], &target);
}

#[test]
fn odd_names_of_mariadb() {
    let source = MariaDb::shared().fresh_database("names");
    let target = Postgres::shared(PgVersion::V15).fresh_database("names");
    carried(&mysql::Server { database: &source }, &FAMILY, &[], &target);
}

#[test]
fn odd_names_of_postgres() {
    let source = Postgres::shared(PgVersion::V15).fresh_database("names");
    let target = Postgres::shared(PgVersion::V18).fresh_database("names");
    let dialect = Dialect { name: double, text: plain, kind: "text" };
    let longest = "ä".repeat(31);
    carried(&postgres::Server { database: &source }, &dialect, &[EMOJI, &longest], &target);
}

#[test]
fn odd_names_of_sqlite() {
    let (_keep, folder) = folder();
    let target = Postgres::shared(PgVersion::V15).fresh_database("names");
    let dialect = Dialect { name: double, text: plain, kind: "text" };
    carried(&sqlite::File::new(&folder), &dialect, &[EMOJI], &target);
}

/// Postgres would cut both names to one: neither is carried until it is given another.
#[test]
fn names_that_postgres_would_cut_are_refused() {
    let source = MySql::shared().fresh_database("names");
    let (a, b) = ("x".repeat(63) + "a", "x".repeat(63) + "b");
    source.sql(&format!("CREATE TABLE t (id int PRIMARY KEY, `{a}` int, `{b}` int); INSERT INTO t VALUES (1, 2, 3)"));
    let target = Postgres::shared(PgVersion::V18).fresh_database("names");
    let pipeline = Pipeline::new("long", &source.url(), &[&target.url()]);
    let findings = pipeline.json("check", &[]);
    let found = findings["findings"].as_array().expect("findings").iter().find(|f| f["level"] == "critical");
    let actual = found.expect("a critical finding")["actual"].as_str().expect("text");
    assert!(actual.contains(&a) && actual.contains("64 bytes; Postgres takes 1 to 63"), "{actual}");
    let ended = pipeline.ended("run", &["--until-caught-up"]);
    assert!(ended.stderr.contains("64 bytes") && !ended.status.success(), "{}", ended.stderr);
    assert_eq!(target.sql("select count(*) from pg_class where relname = 't'"), "0");
}
