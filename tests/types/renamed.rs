//! A column of which a policy lets values pass, under another name: what it has made of them stays, and so do the originals, whether or
//! not a policy goes with the new name.

use std::path::Path;

use crossfade_harness::{Client, Database, MariaDb, MySql, PgVersion, Postgres};
use serde_json::json;

use crate::common::{Pipeline, code, folder};

const ZERO_DATE: &str = "zero_date = \"null\"";

/// A pipeline whose policy names these columns; none: all.
fn pipeline(folder: &Path, source: &Database, target: &Database, policy: &str, columns: &[&str]) -> Pipeline {
    let path = folder.join("p.toml");
    let only = if columns.is_empty() { String::new() } else { format!("columns = {columns:?}\n") };
    let text = format!(
        "name = \"renamed-{}\"\n[source]\nurl = {:?}\n[[target]]\nurl = {:?}\n[[policy]]\n{only}{policy}\n",
        target.name(),
        source.url(),
        target.url()
    );
    std::fs::write(&path, text).expect("the configuration");
    Pipeline::configured(&path)
}

fn renamed(client: &Client) {
    let source = client.fresh_database("renamed");
    let target = Postgres::shared(PgVersion::V15).fresh_database("renamed");
    let (_keep, folder) = folder();
    let lax = |sql: &str| drop(source.sql(&format!("set sql_mode = ''; {sql}")));
    lax(
        "create table t (id int primary key, a date not null, b date not null); create table other (id int primary key); \
         insert into t values (1, '0000-00-00', '2024-02-29'), (2, '2024-02-29', '0000-00-00')",
    );
    let kept = || target.sql("select column_name, key->>'id', original from crossfade.original order by 1, 2");
    let all = pipeline(&folder, &source, &target, ZERO_DATE, &[]);
    all.level(2);
    // All columns have the policy: it goes with the new name.
    lax("alter table t rename column a to c; insert into t values (3, '0000-00-00', '2024-02-29')");
    all.level(2);
    assert_eq!(kept(), "b\t2\t0000-00-00\nc\t1\t0000-00-00\nc\t3\t0000-00-00");
    // The policy names the column, and not the new one: rows that there are stay as they are, so the target admits NULL there still.
    let named = pipeline(&folder, &source, &target, ZERO_DATE, &["b", "c"]);
    lax("alter table t rename column b to d; insert into t values (4, '0000-00-00', '2024-03-01')");
    named.catch_up();
    assert_eq!(kept(), "c\t1\t0000-00-00\nc\t3\t0000-00-00\nc\t4\t0000-00-00\nd\t2\t0000-00-00");
    let values = format!("select id, c is null, d is null from {}.t order by id", source.schema());
    assert_eq!(target.sql(&values), "1\tt\tf\n2\tf\tt\n3\tt\tf\n4\tt\tf");
    // What the policy made of the old value cannot be told from another NULL without it: not equal, and it is said why.
    let proof = named.ended("verify", &[]);
    assert_ne!(code(&proof), 0, "{}", proof.stdout);
    assert!(proof.stdout.contains("0000-00-00"), "{}{}", proof.stdout, proof.stderr);
    // Under its new name it passes again.
    let both = pipeline(&folder, &source, &target, ZERO_DATE, &["b", "c", "d"]);
    lax("insert into t values (5, '2024-03-01', '0000-00-00')");
    both.level(2);
    let counted = json!([
        {"column": "c", "policy": "zero_date", "values": 3},
        {"column": "d", "policy": "zero_date", "values": 2},
    ]);
    let proof = both.json("verify", &[]);
    let t = proof["tables"].as_array().expect("tables").iter().find(|t| t["changed"].is_array());
    assert_eq!(t.expect("a table with changed values")["changed"], counted, "{proof:#}");
}

#[test]
fn a_renamed_column_of_mysql_keeps_its_originals() {
    renamed(MySql::shared());
}

#[test]
fn a_renamed_column_of_mariadb_keeps_its_originals() {
    renamed(MariaDb::shared());
}

/// The log of Postgres tells of a new name with the next row: its policies count from that row on.
fn of_postgres(version: PgVersion) {
    let source = Postgres::shared(version).fresh_database("renamed");
    let target = Postgres::shared(PgVersion::V15).fresh_database("renamed");
    let (_keep, folder) = folder();
    source.sql(
        "create table t (id int primary key, a numeric(10,2) not null, b numeric(10,2) not null); \
         create table other (id int primary key); insert into t values (1, 'NaN', 1), (2, 2, 2)",
    );
    let named = pipeline(&folder, &source, &target, "nan = \"null\"", &["a", "d"]);
    named.level(2);
    // To a name that has the policy: the target admits NULL from there on.
    source.sql("alter table t rename column b to d; insert into t values (3, 'NaN', 'NaN')");
    named.level(2);
    let kept = || target.sql("select column_name, key->>'id', original from crossfade.original order by 1, 2");
    assert_eq!(kept(), "a\t1\tNaN\na\t3\tNaN\nd\t3\tNaN");
    // To one that has none: it stops, and not what it was called before decides.
    source.sql("alter table t rename column a to c; insert into t values (4, 4, 4)");
    let fine = named.ended("run", &["--until-caught-up"]);
    assert_eq!(code(&fine), 0, "{}", fine.stderr);
    let warned = "a policy does not go with the column's new name";
    assert!(fine.stderr.contains(warned), "{}", fine.stderr);
    source.sql("insert into t values (5, 'NaN', 5); insert into other values (1)");
    let ended = named.ended("run", &["--until-caught-up"]);
    assert_eq!(code(&ended), 65, "{}", ended.stderr);
    assert!(ended.stderr.contains("column c, row id=5"), "{}", ended.stderr);
    assert_eq!(target.sql("select count(*) from other"), "1", "the other table goes on");
    // Under the new name it passes.
    let both = pipeline(&folder, &source, &target, "nan = \"null\"", &["c", "d"]);
    assert_eq!(code(&both.ended("snapshot", &["t"])), 0);
    both.level(2);
    assert_eq!(kept(), "c\t1\tNaN\nc\t3\tNaN\nc\t5\tNaN\nd\t3\tNaN");
    assert!(both.ended("uninstall", &[]).status.success());
}

#[test]
fn a_renamed_column_of_postgres_15() {
    of_postgres(PgVersion::V15);
}

#[test]
fn a_renamed_column_of_postgres_18() {
    of_postgres(PgVersion::V18);
}
