//! `schemas/types.md`: every type that the round trips carry, as real servers declare it and the connectors map it.
//!
//! `UPDATE_SCHEMAS=1` writes the page anew; without it the test fails where the page says another thing than the code.

use std::fmt::Write as _;

use arrow_schema::{Field, Schema};
use crossfade::registry;
use crossfade_core::{Endpoint, Logical, Omissions, Selection};
use crossfade_harness::{Client, MariaDb, MySql, PgVersion, Postgres};
use parquet::arrow::ArrowSchemaConverter;
use parquet::schema::printer::print_schema;

use crate::common::folder;
use crate::kind::Kind;
use crate::lab::{Site, column};
use crate::{mysql, postgres, refused, sqlite};

const HEAD: &str = "\
# Types

What becomes of each type of a source: how its values travel (Arrow), and how they stand in a Postgres and in a Parquet target.
This page is written by `tests/types/`, which also carries every type of it through the initial copy and through the stream of
real servers (MySQL 9.7, MariaDB 10.11, Postgres 15 and 18, SQLite) into both targets, and compares what the servers' own clients
print. `UPDATE_SCHEMAS=1 cargo nextest run -E 'test(the_page_of_types)'` writes it anew.

A value arrives exactly as it was, or the pipeline stops and names table, column, row and the way out. NULL is NULL everywhere.
What is said of a type holds for its every length and precision. A table that is there already may have other types, where those
hold every value (`crossfade check` says so).

- **Postgres** has `text`, not `varchar(n)`: a limit that the source enforces need not be enforced twice. Unsigned integers
  take the next larger signed type.
- **Parquet** is written for readers that take types by the letter (Athena): no unsigned integers, no TIME, no UUID. Decimals of
  more than 38 digits are text. Infinite dates and timestamps are the type's greatest and least number.
- **JSON** is text everywhere, and `json` in Postgres: `jsonb` reorders keys, drops duplicates and changes numbers.
";

/// A row of the page.
struct Line {
    declared: String,
    logical: Logical,
    note: &'static str,
}

/// The types of a table `t` that has these kinds, as the source's connector maps them.
fn lines(url: &str, kinds: &[Kind]) -> Vec<Line> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let source =
        registry::source(&Endpoint::new(url, None), "types", Omissions::default(), runtime.handle()).expect("a source");
    let tables = source.tables(&Selection::default()).expect("its tables");
    drop(source);
    let table = tables.iter().find(|t| t.name.name == "t").expect("the table");
    let line = |(i, kind): (usize, &Kind)| {
        let c = table.columns.iter().find(|c| c.name == column(i)).expect("every column is carried");
        let declared = if kind.declared.trim().is_empty() { "(none)" } else { kind.declared.trim() };
        Line { declared: declared.to_owned(), logical: c.logical.clone(), note: kind.note }
    };
    kinds.iter().enumerate().map(line).collect()
}

/// The Parquet type as its own library prints it.
fn parquet(logical: &Logical) -> String {
    let schema = Schema::new(vec![Field::new("c", crossfade_parquet::stored(logical), true)]);
    let converted = ArrowSchemaConverter::new().convert(&schema).expect("a Parquet type");
    let mut text = Vec::new();
    print_schema(&mut text, converted.root_schema());
    let text = String::from_utf8(text).expect("text");
    let line = text.lines().find_map(|l| l.trim().strip_prefix("OPTIONAL ")).expect("one column");
    line.trim_end_matches(';').replacen(" c", "", 1)
}

fn section(page: &mut String, title: &str, lines: &[Line]) {
    let code = |text: &str| format!("`{}`", text.replace('|', "\\|"));
    writeln!(page, "\n## {title}\n").expect("a String takes any text");
    page.push_str("| type | Arrow | Postgres | Parquet | Athena | |\n|---|---|---|---|---|---|\n");
    for Line { declared, logical, note } in lines {
        let row = [
            code(declared),
            code(&logical.arrow().to_string()),
            code(&crossfade_postgres::types::sql(logical)),
            code(&parquet(logical)),
            code(&crossfade_parquet::athena(logical)),
            (*note).to_owned(),
        ];
        writeln!(page, "| {} |", row.join(" | ")).expect("a String takes any text");
    }
}

/// A table with these kinds and their values.
fn make(site: &dyn Site, kinds: &[Kind]) -> Vec<Line> {
    site.run(&crate::lab::create(kinds));
    lines(&site.url(), kinds)
}

fn of_the_family(client: &Client, kinds: &[Kind]) -> Vec<Line> {
    let database = client.fresh_database("types");
    make(&mysql::Server { database: &database }, kinds)
}

#[test]
fn the_page_of_types_is_current() {
    let mut page = HEAD.to_owned();
    let of_mysql = of_the_family(MySql::shared(), &mysql::of_mysql());
    let of_mariadb = of_the_family(MariaDb::shared(), &mysql::of_mariadb());
    let common = mysql::common().len();
    for (a, b) in of_mysql[..common].iter().zip(&of_mariadb) {
        assert_eq!(a.logical, b.logical, "{}", a.declared);
    }
    section(&mut page, "MySQL and MariaDB", &of_mysql[..common]);
    section(&mut page, "MySQL alone", &of_mysql[common..]);
    section(&mut page, "MariaDB alone", &of_mariadb[common..]);
    let database = Postgres::shared(PgVersion::V18).fresh_database("types");
    database.sql(postgres::DDL);
    section(&mut page, "Postgres", &make(&postgres::Server { database: &database }, &postgres::all()));
    let (_keep, folder) = folder();
    section(&mut page, "SQLite", &make(&sqlite::File::new(&folder), &sqlite::all()));
    page.push_str(&refused::section());
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/schemas/types.md");
    if std::env::var_os("UPDATE_SCHEMAS").is_some() {
        std::fs::write(path, &page).expect("writing the page");
    }
    assert_eq!(std::fs::read_to_string(path).unwrap_or_default(), page, "run the test with UPDATE_SCHEMAS=1");
}
