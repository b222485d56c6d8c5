//! What is refused: types by `check`, values by the run, each by table, column, row and value, with a way out that works.

use std::fmt::Write as _;

use crossfade_harness::{Database, MariaDb, MySql, PgVersion, Postgres};

use crate::common::{Pipeline, code, folder};
use crate::lab::Site;
use crate::{mysql, postgres, sqlite};

/// A type that no pipeline carries, and what says so.
struct Type {
    declared: &'static str,
    /// The source, for the page.
    of: &'static str,
    /// What `check` says of it.
    says: &'static str,
    /// What mends it.
    mend: &'static str,
}

/// Types that `check` refuses by name.
const TYPES: [Type; 6] = [
    Type {
        declared: "varchar(9) compressed",
        of: "MariaDB",
        says: "the log holds the compressed bytes",
        mend: "MODIFY `c` without COMPRESSED; or leave the column out",
    },
    Type {
        declared: "text compressed",
        of: "MariaDB",
        says: "the log holds the compressed bytes",
        mend: "MODIFY `c` without COMPRESSED; or leave the column out",
    },
    Type {
        declared: "enum('\u{1F980}')",
        of: "MySQL and MariaDB",
        says: "the catalog cannot show all labels",
        mend: "MODIFY `c` to labels without question marks and characters beyond U+FFFF, or with CHARACTER SET utf8mb3; or leave the column out",
    },
    Type {
        declared: "ext.seg",
        of: "Postgres",
        says: "type ext.seg of extension seg: whether its text holds the whole value is not known here",
        mend: AS_TEXT,
    },
    Type {
        declared: "ext.seg[]",
        of: "Postgres",
        says: "type ext.seg[] is made of type ext.seg of extension seg",
        mend: AS_TEXT,
    },
    Type {
        declared: "ext.made",
        of: "Postgres",
        says: "type ext.made is made of type ext.seg of extension seg",
        mend: AS_TEXT,
    },
];

/// A cast keeps the text, of which the owner of the type knows what it holds.
const AS_TEXT: &str = "ALTER COLUMN \"c\" TYPE text USING \"c\"::text; or leave the column out";

/// Types that cannot be tried here, as no server at hand has them.
const UNTRIED: [(&str, &str, &str); 2] = [
    (
        "vector (11.7 and later)",
        "MariaDB",
        "refused as any type that nobody named: MODIFY it to varbinary, or leave the column out",
    ),
    (
        "geometry of PostGIS",
        "Postgres",
        "refused as any type of an extension that is not on this page (those of pgvector are carried under their own names)",
    ),
];

/// The page's part on them.
pub fn section() -> String {
    let mut page = String::from(
        "\n## Refused\n\n`crossfade check` names table, column and type. A type that is not on this page is refused in the same way; of \
         Postgres that are the types of extensions, all others being built in or made of those. A column that no target wants may \
         have any type and any values: it is left out by a `[[column]]` rule's `exclude`, and not read.\n\n| type | source | why, and the way out |\n|---|---|---|\n",
    );
    for t in &TYPES {
        writeln!(page, "| `{}` | {} | {}: {} |", t.declared, t.of, t.says, t.mend).expect("a String takes any text");
    }
    for (declared, of, why) in UNTRIED {
        writeln!(page, "| {declared} | {of} | {why} |").expect("a String takes any text");
    }
    page += "\n## Values that stop the pipeline\n\nUnless a policy of the column lets them pass, and keeps the originals (README, \
         \"Values that the target cannot hold\"):\n\n| source | type | value | what it is called | policy |\n|---|---|---|---|---|\n";
    for (source, values) in
        [("MySQL and MariaDB", &OF_THE_FAMILY[..]), ("Postgres", &OF_POSTGRES), ("SQLite", &OF_SQLITE)]
    {
        for v in values {
            writeln!(
                page,
                "| {source} | `{}` | `{}` | {} | `{}` |",
                v.declared,
                v.value.replace('|', "\\|"),
                v.says,
                v.policy
            )
            .expect("a String takes any text");
        }
    }
    page
}

#[test]
fn types_by_name() {
    let of = |brand: &str| TYPES.iter().filter(|t| t.of.contains(brand)).collect::<Vec<&Type>>();
    for (client, brand) in [(MariaDb::shared(), "MariaDB"), (MySql::shared(), "MySQL")] {
        let source = client.fresh_database("types");
        are_refused(&source, source.name(), "SET NAMES utf8mb4", '`', &of(brand));
    }
    for version in [PgVersion::V15, PgVersion::V18] {
        let source = Postgres::shared(version).fresh_database("types");
        // Made of what is known, and of what is not, over two steps.
        source.sql(
            "create schema ext; create extension seg schema ext; create domain ext.dom as ext.seg; \
             create type ext.made as (a int, b ext.dom[]); create type ext.fine as (a int, b text[])",
        );
        are_refused(
            &source,
            "public",
            "create table if not exists fine (id int primary key, c ext.fine[])",
            '"',
            &of("Postgres"),
        );
    }
}

fn are_refused(source: &Database, schema: &str, first: &str, quote: char, types: &[&Type]) {
    for (i, t) in types.iter().enumerate() {
        source.sql(&format!("{first}; CREATE TABLE t{i} (id int PRIMARY KEY, c {})", t.declared));
    }
    let (_keep, lake) = folder();
    let pipeline = Pipeline::new("refused", &source.url(), &[&format!("file://{}", lake.display())]);
    let findings = pipeline.json("check", &[]);
    for (i, t) in types.iter().enumerate() {
        let of = |f: &&serde_json::Value| f["setting"] == format!("table {schema}.t{i}");
        let found = findings["findings"].as_array().expect("findings").iter().find(of);
        let found = found.unwrap_or_else(|| panic!("nothing is said of {}: {findings:#}", t.declared));
        assert_eq!(found["level"], "critical");
        let (actual, fix) = (found["actual"].as_str().expect("text"), found["fix"].as_str().expect("text"));
        assert!(actual.contains("column c") && actual.contains(t.says), "{actual}");
        assert!(fix.contains(&format!("ALTER TABLE {quote}{schema}{quote}.{quote}t{i}{quote} {}", t.mend)), "{fix}");
    }
    let criticals = findings["findings"].as_array().expect("findings").iter().filter(|f| f["level"] == "critical");
    assert_eq!(criticals.count(), types.len(), "nothing else is refused: {findings:#}");
    let ended = pipeline.ended("run", &["--until-caught-up"]);
    assert_ne!(code(&ended), 0, "nor does it run");
}

/// A value that stops a pipeline.
struct Value {
    declared: &'static str,
    /// An expression of the source's that gives it.
    value: &'static str,
    /// What is said of it: the value among it.
    says: &'static str,
    /// A value that mends it.
    mended: &'static str,
    /// The policy that would let it pass.
    policy: &'static str,
}

const fn value(
    declared: &'static str,
    value: &'static str,
    says: &'static str,
    mended: &'static str,
    policy: &'static str,
) -> Value {
    Value { declared, value, says, mended, policy }
}

/// Each value stops the copy, and the stream; what the hint says leads on.
fn each(site: &dyn Site, target: &Database, schema: &str, values: &[Value]) {
    for (i, v) in values.iter().enumerate() {
        let table = format!("t{i}");
        site.run(&format!(
            "CREATE TABLE {table} (id int PRIMARY KEY, c {}); INSERT INTO {table} (id, c) VALUES (7, {});",
            v.declared, v.value
        ));
        let pipeline = Pipeline::new(&table, &site.url(), &[&target.url()]).tables(&[&table]);
        stops(&pipeline, &table, v, 7);
        site.run(&format!("UPDATE {table} SET c = {} WHERE id = 7;", v.mended));
        again(&pipeline, &table);
        site.run(&format!("INSERT INTO {table} (id, c) VALUES (8, {});", v.value));
        stops(&pipeline, &table, v, 8);
        site.run(&format!("UPDATE {table} SET c = {} WHERE id = 8;", v.mended));
        again(&pipeline, &table);
        assert_eq!(target.sql(&format!("select count(c) from \"{schema}\".\"{table}\"")), "2");
        assert!(pipeline.ended("uninstall", &[]).status.success());
    }
}

/// The table is copied anew, as the hint says.
fn again(pipeline: &Pipeline, table: &str) {
    let ended = pipeline.ended("snapshot", &[table]);
    assert!(ended.status.success(), "{}", ended.stderr);
    pipeline.catch_up();
    assert_eq!(pipeline.verify_equal(), 1);
}

fn stops(pipeline: &Pipeline, table: &str, v: &Value, id: u8) {
    let ended = pipeline.ended("run", &["--until-caught-up"]);
    let said = &ended.stderr;
    assert_eq!(code(&ended), 65, "{} {}: {said}", v.declared, v.value);
    let place = format!(".{table}, column c, row id={id}: ");
    let policy = format!(".{table}\", columns = [\"c\"] and {}", v.policy);
    for words in [place.as_str(), v.says, "hint", "`crossfade snapshot TABLE`", policy.as_str()] {
        assert!(said.contains(words), "{} {}: no {words:?} in {said}", v.declared, v.value);
    }
}

const ZERO_DATE: &str = "zero_date = \"null\"";
const NUL_BYTE: &str = "nul_byte = \"remove\"";
const INVALID_TEXT: &str = "invalid_text = \"replace\"";
const OUT_OF_RANGE: &str = "out_of_range = \"null\"";

/// What neither server's dates and labels have an equal for.
const OF_THE_FAMILY: [Value; 8] = [
    value("date", "'0000-00-00'", "0000-00-00 is not a date of the calendar", "'2024-01-01'", ZERO_DATE),
    value("date", "'2024-00-10'", "2024-00-10 is not a date of the calendar", "NOW()", ZERO_DATE),
    value("datetime(3)", "'0000-00-00'", "0000-00-00 is not a date of the calendar", "NOW()", ZERO_DATE),
    value("datetime", "'2024-02-00 10:00:00'", "2024-02-00 is not a date of the calendar", "NOW()", ZERO_DATE),
    value("timestamp null", "'0000-00-00 00:00:00'", "0000-00-00", "NOW()", ZERO_DATE),
    value("enum('a','b')", "'no label'", "index 0", "'a'", "invalid_enum = \"null\""),
    value("varchar(9)", "CONCAT('a', CHAR(0), 'b')", "the text holds a NUL character", "'ab'", NUL_BYTE),
    value("varchar(9) character set ucs2", "_ucs2 X'D800'", "not characters", "'a'", INVALID_TEXT),
];

const OF_POSTGRES: [Value; 3] = [
    value("numeric(10,2)", "'NaN'", "NaN is not a decimal(10,2)", "0", "nan = \"null\""),
    value("timestamp", "'294276-12-31 00:00:00'", "after the year 294246", "'2024-01-01'", OUT_OF_RANGE),
    value("timestamptz", "'294276-12-31 00:00:00+00'", "after the year 294246", "'2024-01-01'", OUT_OF_RANGE),
];

const OF_SQLITE: [Value; 2] = [
    value("TEXT", "CAST(X'61ff' AS TEXT)", "text that is not UTF-8", "'a'", INVALID_TEXT),
    value("TEXT", "'a' || char(0) || 'b'", "the text holds a NUL character", "'ab'", NUL_BYTE),
];

#[test]
fn values_of_mysql() {
    let source = MySql::shared().fresh_database("refused");
    let target = Postgres::shared(PgVersion::V15).fresh_database("refused");
    each(&mysql::Server { database: &source }, &target, source.name(), &OF_THE_FAMILY);
}

#[test]
fn values_of_mariadb() {
    let source = MariaDb::shared().fresh_database("refused");
    let target = Postgres::shared(PgVersion::V18).fresh_database("refused");
    each(&mysql::Server { database: &source }, &target, source.name(), &OF_THE_FAMILY);
}

#[test]
fn values_of_postgres() {
    let source = Postgres::shared(PgVersion::V18).fresh_database("refused");
    let target = Postgres::shared(PgVersion::V15).fresh_database("refused");
    each(&postgres::Server { database: &source }, &target, "public", &OF_POSTGRES);
}

#[test]
fn values_of_sqlite() {
    let (_keep, folder) = folder();
    let target = Postgres::shared(PgVersion::V18).fresh_database("refused");
    each(&sqlite::File::new(&folder), &target, "public", &OF_SQLITE);
}
