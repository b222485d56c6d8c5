//! A column that the configuration leaves out is not read: its type may be one that nobody carries and its values may be ones
//! that no target holds, in the copy, in the stream and in the proof. Each test shows first that they stop the pipeline otherwise.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crossfade_harness::{Client, MariaDb, MySql, Options, PgVersion, Postgres};
use serde_json::Value;

use crate::common::{Pipeline, code, folder};

/// A pipeline to a Postgres database and a lake, without and with columns left out.
struct Scene {
    path: PathBuf,
    lake: PathBuf,
    from: String,
    to: String,
    _keep: tempfile::TempDir,
}

impl Scene {
    fn new(from: &str, to: &str) -> Scene {
        let (keep, folder) = folder();
        Scene { path: folder.join("p.toml"), lake: folder.join("lake"), from: from.into(), to: to.into(), _keep: keep }
    }

    /// The pipeline, with these columns left out of every table.
    fn without(&self, columns: &[&str]) -> Pipeline {
        let lake = format!("[[target]]\nurl = \"file://{}\"\ncommit_interval = \"0s\"\n", self.lake.display());
        self.to(&lake, columns)
    }

    /// As [`Scene::without`], to Postgres alone or also to other targets.
    fn to(&self, more: &str, columns: &[&str]) -> Pipeline {
        let mut text = format!(
            "name = \"left-out-{}\"\n[source]\nurl = {:?}\n[[target]]\nurl = {:?}\n{more}",
            std::process::id(),
            self.from,
            self.to,
        );
        if !columns.is_empty() {
            writeln!(text, "[[column]]\ntables = \"*\"\nexclude = {columns:?}").expect("a String takes any text");
        }
        std::fs::write(&self.path, text).expect("the configuration");
        Pipeline::configured(&self.path)
    }
}

/// What `check` finds critical.
fn critical(pipeline: &Pipeline) -> Vec<Value> {
    let report = pipeline.json("check", &[]);
    let findings = report["findings"].as_array().expect("findings").clone();
    findings.into_iter().filter(|f| f["level"] == "critical").collect()
}

fn hint(table: &str, column: &str) -> String {
    format!("leave the column out: [[column]] with tables = {table:?} and exclude = [{column:?}]")
}

/// It stops, and says why.
fn stops(pipeline: &Pipeline, says: &[&str]) {
    let ended = pipeline.ended("run", &["--until-caught-up"]);
    assert_ne!(code(&ended), 0, "{}", ended.stderr);
    for words in says {
        assert!(ended.stderr.contains(words), "{words:?} is missing in {}", ended.stderr);
    }
}

/// Rows of the lake's last state are compared by the proof; here only that no file has the columns.
fn lake_has_no(lake: &Path, table: &str, columns: &[&str]) {
    let script = "import glob, sys, pyarrow.parquet as pq\nfor f in glob.glob(sys.argv[1] + '/*.parquet'): print(pq.read_schema(f).names)";
    let names = crossfade_harness::python(script, &[lake.join(table).to_str().expect("UTF-8")]);
    assert!(names.contains("'id'"), "{names}");
    assert!(columns.iter().all(|c| !names.contains(&format!("'{c}'"))), "{names}");
}

#[test]
fn columns_of_mariadb() {
    let source = MariaDb::shared().fresh_database("src");
    let target = Postgres::shared(PgVersion::V15).fresh_database("dst");
    let run = |sql: &str| source.sql(&format!("set session sql_mode = ''; {sql}"));
    run("create table t (id int primary key, z varchar(9) compressed, a varchar(20), d datetime, b text compressed, \
         e enum('x','y'), n int); \
         insert into t values (1, 'zip', 'one', '0000-00-00', repeat('b', 300), 'no label', 1), (2, null, 'two', '2024-02-00', null, 'x', 2)");
    let scene = Scene::new(&source.url(), &target.url());
    let table = format!("{}.t", source.name());
    let found = critical(&scene.without(&["d", "e"]));
    assert_eq!(found.len(), 2, "{found:#?}");
    for (f, column) in found.iter().zip(["z", "b"]) {
        let fix = f["fix"].as_str().expect("text");
        assert!(fix.contains(&hint(&table, column)), "{fix}");
    }
    stops(&scene.without(&["z", "b", "e"]), &["column d", "row id=1", "0000-00-00"]);
    let columns = ["z", "b", "d", "e", "later", "moved"];
    let p = scene.without(&columns);
    // The pipeline had begun: its tables are taken in anew, without the columns.
    assert!(p.ended("snapshot", &["*"]).status.success());
    assert!(critical(&p).is_empty());
    p.level(2);
    // Refused values in inserts, updates, a key that changes; a column that comes later, is retyped, renamed, and goes.
    run("insert into t values (3, 'zap', 'three', '0000-00-00', repeat('c', 500), 'no label', 3); \
         update t set d = '2024-00-00', a = 'uno' where id = 1; update t set id = 20, z = 'zop' where id = 2; \
         alter table t add column later varchar(300) compressed default 'x' after id; \
         insert into t (id, later, a, d) values (4, repeat('l', 300), 'four', '0000-00-00'); \
         alter table t modify d varchar(30); insert into t (id, a, d) values (5, 'five', 'any'); \
         alter table t change later moved int default 3; \
         alter table t drop column b; insert into t (id, a) values (6, 'six'); delete from t where id = 3");
    p.level(2);
    let rows = "1,uno,1|20,two,2|4,four,|5,five,|6,six,";
    let list = "select string_agg(concat_ws(',', id, a, coalesce(n::text, '')), '|' order by id::text) from";
    assert_eq!(target.sql(&format!("{list} {}.t", source.name())), rows);
    let there = target.sql("select string_agg(column_name, ',' order by ordinal_position) from information_schema.columns where table_name = 't'");
    // `d` was carried before; a table that still fits is emptied, and keeps it.
    assert_eq!(there, "id,a,d,n");
    assert_eq!(target.sql(&format!("select count(d) from {}.t", source.name())), "0");
    lake_has_no(&scene.lake, &format!("{}/t", source.name()), &columns);
    // With the rule gone nothing is guessed: there are no values. Nor does a column that was made for them help.
    target.sql(&format!("alter table {}.t add column e text", source.name()));
    stops(&scene.without(&["z", "b", "d", "later", "moved"]), &["column e was left out", "crossfade snapshot"]);
}

/// A log that names no columns and leaves out what it can.
#[test]
fn a_minimal_log() {
    let server = MariaDb::start(Options::new().set("binlog_row_image", "MINIMAL").set("binlog_row_metadata", "NO_LOG"));
    let source = server.fresh_database("src");
    let target = Postgres::shared(PgVersion::V18).fresh_database("dst");
    source.sql(
        "create table t (id int primary key, z text compressed, d date, a int); insert into t values (1, 'z', null, 1)",
    );
    let scene = Scene::new(&source.url(), &target.url());
    // A history needs whole rows.
    let p = scene.to("", &["z", "d"]);
    p.level(1);
    source.sql(
        "set session sql_mode = ''; insert into t (id, a) values (2, 2); insert into t values (3, 'zz', '0000-00-00', 3); \
         update t set d = '0000-00-00' where id = 1; update t set a = 22, z = 'y' where id = 2",
    );
    p.level(1);
    assert_eq!(target.sql(&format!("select sum(id), sum(a) from {}.t", source.name())), "6\t26");
}

#[test]
fn columns_of_mysql() {
    let source = MySql::shared().fresh_database("src");
    let target = Postgres::shared(PgVersion::V15).fresh_database("dst");
    let run = |sql: &str| source.sql(&format!("set names utf8mb4; set session sql_mode = ''; {sql}"));
    run("create table t (id int primary key, c enum('\u{1F980}', 'b'), d timestamp null, a json); \
         create table bag (a int, d date); \
         insert into t values (1, 'b', '0000-00-00', '[1]'); insert into bag values (1, '0000-00-00'), (1, '2024-01-01')");
    let scene = Scene::new(&source.url(), &target.url());
    let found = critical(&scene.without(&["d"]));
    assert!(
        found[0]["fix"].as_str().expect("text").contains(&hint(&format!("{}.t", source.name()), "c")),
        "{found:#?}"
    );
    let p = scene.without(&["c", "d"]);
    p.level(4);
    run("insert into t values (2, '\u{1F980}', '0000-00-00', '{}'); update t set c = '', a = '[2]' where id = 1; \
         delete from bag where d = '0000-00-00'; update bag set d = '0000-00-00'; insert into bag values (2, '2024-00-01')");
    p.level(4);
    assert_eq!(target.sql(&format!("select string_agg(a::text, ',' order by id) from {}.t", source.name())), "[2],{}");
    assert_eq!(target.sql(&format!("select string_agg(a::text, ',' order by a) from {}.bag", source.name())), "1,2");
}

#[test]
fn columns_of_postgres() {
    for version in [PgVersion::V15, PgVersion::V18] {
        let server: &Client = Postgres::shared(version);
        let (source, target) = (server.fresh_database("src"), Postgres::shared(PgVersion::V15).fresh_database("dst"));
        source.sql(
            "create extension seg; create table t (id int primary key, s seg, v text, n numeric(6,2), w timestamp, a int); \
             alter table t alter column v set storage external; \
             insert into t values (1, '1..2', repeat('v', 5000), 'NaN', '294276-12-31'), (2, null, 'two', 2, null)",
        );
        let scene = Scene::new(&source.url(), &target.url());
        let found = critical(&scene.without(&["n", "w"]));
        assert!(found[0]["actual"].as_str().expect("text").contains("type public.seg of extension seg"), "{found:#?}");
        assert!(found[0]["fix"].as_str().expect("text").contains(&hint("public.t", "s")), "{found:#?}");
        stops(&scene.without(&["n", "w"]), &["public.t", "column s", "public.seg"]);
        let p = scene.without(&["s", "v", "n", "m", "w", "later"]);
        assert!(critical(&p).is_empty());
        p.level(2);
        // `v` of a row whose key changes is stored apart, and not in the log; `later` holds what nobody can tell.
        source.sql(
            "insert into t values (3, '3..4', repeat('w', 5000), 'NaN', '294276-12-31'); update t set id = 10 where id = 1",
        );
        source.sql("alter table t add column later seg; alter table t alter column later set default '1'");
        source.sql("insert into t (id, s, later, a) values (4, '5', '6', 4)");
        p.level(2);
        source.sql("alter table t alter column v type varchar; alter table t rename column n to m");
        source.sql("update t set a = 1, m = 'NaN' where id = 2; delete from t where id = 3");
        p.level(2);
        assert_eq!(target.sql("select string_agg(concat_ws(',', id, a), '|' order by id) from t"), "2,1|4,4|10");
        // An added column of such a type stops, says so, and may be left out without anything being copied again.
        source.sql("alter table t add column extra seg; insert into t (id, extra) values (5, '1')");
        stops(&p, &["column extra", "public.seg", &hint("public.t", "extra")]);
        let p = scene.without(&["s", "v", "n", "m", "w", "later", "extra"]);
        p.level(2);
        assert!(p.ended("uninstall", &[]).status.success());
    }
}

#[test]
fn columns_of_sqlite() {
    let (_keep, folder) = folder();
    let file = folder.join("s.db");
    let run = |sql: &str| {
        let script = "import sqlite3, sys\nc = sqlite3.connect(sys.argv[1])\nc.executescript(sys.argv[2])\nc.close()";
        crossfade_harness::python(script, &[file.to_str().expect("UTF-8"), sql]);
    };
    run(
        "create table t (id integer primary key, a text, b text, n integer); insert into t values (1, 'x', cast(X'61ff' as text), 1)",
    );
    let target = Postgres::shared(PgVersion::V18).fresh_database("dst");
    let scene = Scene::new(&format!("sqlite://{}", file.display()), &target.url());
    stops(&scene.without(&["n"]), &["column b", "row id=1", "not UTF-8"]);
    let p = scene.without(&["b", "n", "later"]);
    assert!(p.ended("snapshot", &["*"]).status.success());
    p.level(2);
    run("insert into t values (2, 'y', X'00', 'not a number'); update t set n = 1.5 where id = 1; \
         alter table t add column later integer; insert into t (id, a, later) values (3, 'z', 3)");
    p.catch_up();
    run("update t set later = 'text' where id = 3");
    p.level(2);
    assert_eq!(target.sql("select string_agg(a, ',' order by id) from main.t"), "x,y,z");
}
