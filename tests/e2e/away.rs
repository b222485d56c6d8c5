//! What happens to the source's tables while the pipeline is stopped: the log brings it, and nothing is asked for before.

use crossfade_harness::{Client, MariaDb, MySql, PgVersion, Postgres};

use crate::common::{Pipeline, folder};

/// SQLite refuses it while a trigger names the column.
const DROP: &str = "alter table t drop column gone";

/// Columns are added, dropped and renamed while nobody looks, with rows in each shape. `schema` is where the tables arrive.
fn comes_back(from: &str, schema: &str, dropped: Option<&str>, run: &dyn Fn(&str)) {
    let target = Postgres::shared(PgVersion::V15).fresh_database("dst");
    run("create table t (id int primary key, a varchar(20), gone int)");
    run("insert into t values (1, 'one', 1), (2, 'two', 2)");
    let pipeline = Pipeline::new("away", from, &[&target.url()]);
    pipeline.level(1);
    for changes in [
        vec![
            "alter table t add column b int",
            "insert into t values (3, 'three', 3, 33)",
            "update t set b = 11 where id = 1",
        ],
        dropped.into_iter().chain(["insert into t (id, a, b) values (4, 'four', 44)"]).collect(),
        vec!["alter table t rename column a to c", "update t set c = 'zwei' where id = 2"],
    ] {
        changes.into_iter().for_each(run);
        let report = pipeline.json("check", &[]);
        assert_ne!(report["verdict"], "critical", "{report:#}");
        pipeline.level(1);
    }
    let rows = target.sql(&format!("select string_agg(concat_ws(',', id, c, b), ' ' order by id) from \"{schema}\".t"));
    assert_eq!(rows, "1,one,11 2,zwei 3,three,33 4,four,44");
}

fn of_server(server: &Client, schema: Option<&str>) {
    let source = server.fresh_database("away");
    comes_back(&source.url(), schema.unwrap_or(source.name()), Some(DROP), &|sql| drop(source.sql(sql)));
}

#[test]
fn changed_columns_mariadb() {
    of_server(MariaDb::shared(), None);
}

#[test]
fn changed_columns_mysql() {
    of_server(MySql::shared(), None);
}

#[test]
fn changed_columns_postgres() {
    of_server(Postgres::shared(PgVersion::V18), Some("public"));
}

#[test]
fn changed_columns_sqlite() {
    let (_keep, folder) = folder();
    let file = folder.join("s.db");
    let script = "import sqlite3, sys\nc = sqlite3.connect(sys.argv[1])\nc.executescript(sys.argv[2])\nc.close()";
    let path = file.to_str().expect("UTF-8");
    let run = |sql: &str| drop(crossfade_harness::python(script, &[path, sql]));
    comes_back(&format!("sqlite://{path}"), "public", None, &run);
}
