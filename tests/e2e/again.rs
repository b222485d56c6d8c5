//! `snapshot`: tables copied again under load, taken in later, and as the way out of a change that stopped the pipeline.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crossfade_harness::{Client, Database, MariaDb, MySql, PgVersion, Postgres, Program};

use crate::common::{PATIENCE, Pipeline, StopOnDrop, code, folder};

const TABLES: &str = "\
    create table parent (id int primary key, code varchar(10) not null unique) charset utf8mb4;\n\
    create table child (id int primary key auto_increment, parent int, n int unique, t text, \
        foreign key (parent) references parent (id)) charset utf8mb4;\n\
    create table bag (a int, t varchar(10)) charset utf8mb4;\n\
    insert into parent values (1, 'one'), (2, 'two');\n\
    insert into child (parent, n, t) values (1, 1, 'x'), (2, 2, 'y'), (null, null, 'z');\n\
    insert into child (parent, t) select a.parent, concat(a.t, b.t) from child a, child b, child c, child d, child e, child f;\n\
    insert into bag values (1, 'x'), (1, 'x'), (null, null)";

fn snapshot(pipeline: &Pipeline, tables: &[&str]) -> String {
    let ended = pipeline.ended("snapshot", tables);
    assert!(ended.status.success(), "{}{}", ended.stdout, ended.stderr);
    ended.stdout
}

/// Swaps unique values, moves keys, lets rows come and go.
fn load(source: &Database, stop: &AtomicBool) {
    let mut n = 1000;
    while !stop.load(Ordering::SeqCst) {
        n += 1;
        source.sql(&format!(
            "insert into parent values ({n}, 'c{n}'); insert into late values ({n}, 'c{n}');\n\
             update parent set code = 'swap' where id = {n} - 1; update parent set code = 'c{n}b' where id = {n};\n\
             update parent set code = 'c{n}' where id = {n} - 1;\n\
             delete from parent where id = {n} - 7; update late set id = id + 100000 where id = {n} - 3;\n\
             update child set t = 'load {n}' where id = {n} % 500;\n\
             insert into bag values (1, 'x'), ({n} % 5, 'y'); delete from bag where a = 1 limit 1"
        ));
    }
}

fn out_of_a_stop_and_under_load(client: &Client) {
    let source = client.fresh_database("again");
    source.sql(TABLES);
    let target = Postgres::shared(PgVersion::V15).fresh_database("dst");
    let (_folder, path) = folder();
    let pipeline = Pipeline::in_short_steps("again", &path, &source, &target);
    let early = pipeline.ended("snapshot", &["child"]);
    assert_eq!(code(&early), 78, "nothing was begun: {}", early.stderr);
    pipeline.catch_up();
    assert_eq!(pipeline.verify_equal(), 6);

    // The key changes: no step at the target follows that.
    let mut daemon = pipeline.command("run", &[]).start();
    daemon.wait_for("starting", PATIENCE);
    assert!(pipeline.ended("catch-up", &["--timeout", "200s"]).status.success());
    source.sql(
        "update child set t = 'before' where id = 1;\n\
         alter table child modify id int not null, drop primary key, add primary key (id, t(20)), drop column n;\n\
         update child set t = 'after' where id = 2; insert into parent values (3, 'three')",
    );
    daemon.wait_for("key changed", PATIENCE);
    drop(daemon.kill());
    let told = snapshot(&pipeline, &["child"]);
    assert!(told.contains("the next run copies"), "{told}");
    pipeline.catch_up();
    assert_eq!(pipeline.verify_equal(), 6);
    let keys = "select count(*) from pg_constraint where contype = 'f' and convalidated and conrelid = \
                (select oid from pg_class where relname = 'child' and relkind = 'r')";
    assert_eq!(target.sql(keys), "1", "the foreign key is back");

    // Under load, with a daemon: again, and a table that came later.
    source.sql("create table late (id int primary key, t text); insert into late values (1, 'early bird')");
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stopped = StopOnDrop(&stop);
        scope.spawn(|| load(&source, &stop));
        let mut daemon = pipeline.command("run", &[]).start();
        daemon.wait_for("starting", PATIENCE);
        let caught_up = pipeline.ended("catch-up", &["--timeout", "200s"]);
        assert!(caught_up.status.success(), "{}", caught_up.stderr);
        for tables in [["late", "late"], ["parent", "bag"], ["child", "*"]] {
            let told = snapshot(&pipeline, &tables);
            assert!(told.contains("the daemon copies"), "{told}");
            thread::sleep(Duration::from_millis(300));
        }
        let unknown = pipeline.ended("snapshot", &["nowhere"]);
        assert_eq!(code(&unknown), 64, "{}", unknown.stderr);
        let caught_up = pipeline.ended("catch-up", &["--timeout", "200s"]);
        assert!(caught_up.status.success(), "{}\n{}", caught_up.stderr, daemon.stderr());
        assert_eq!(pipeline.verify_equal(), 8, "four tables at two targets");
        // Killed right after the tables were let go, and copied by the next run.
        snapshot(&pipeline, &["parent", "bag"]);
        daemon.kill();
        stop.store(true, Ordering::SeqCst);
    });
    pipeline.catch_up();
    assert_eq!(pipeline.verify_equal(), 8);
}

#[test]
fn copied_again_from_mariadb() {
    out_of_a_stop_and_under_load(MariaDb::shared());
}

#[test]
fn copied_again_from_mysql() {
    out_of_a_stop_and_under_load(MySql::shared());
}

#[test]
fn taken_in_from_sqlite() {
    let (_folder, path) = folder();
    let file = path.join("app.db");
    let sqlite = |sql: &str| {
        let ended = Program::new("sqlite3").args([file.to_str().expect("UTF-8"), sql]).start().wait(PATIENCE);
        assert!(ended.status.success(), "{}", ended.stderr);
    };
    sqlite("create table a (id integer primary key, t text); insert into a values (1, 'x')");
    let target = Postgres::shared(PgVersion::V15).fresh_database("dst");
    let pipeline = Pipeline::new("again", &format!("sqlite://{}", file.display()), &[&target.url()]);
    pipeline.catch_up();
    sqlite(
        "create table b (id integer primary key, t text); insert into b values (1, 'y'); insert into a values (2, 'z')",
    );
    snapshot(&pipeline, &["b", "a"]);
    sqlite("insert into b values (2, 'w'); delete from a where id = 1");
    pipeline.catch_up();
    assert_eq!(pipeline.verify_equal(), 2);
}

/// What migration tools do to a table of SQLite: a copy in another shape takes its place, and the triggers are gone.
#[test]
fn a_table_that_is_rebuilt_in_sqlite() {
    let (_folder, path) = folder();
    let file = path.join("app.db");
    let sqlite = |sql: &str| {
        let ended = Program::new("sqlite3").args([file.to_str().expect("UTF-8"), sql]).start().wait(PATIENCE);
        assert!(ended.status.success(), "{}", ended.stderr);
    };
    sqlite("create table a (id integer primary key, t text); create table b (id integer primary key, t text, n int)");
    sqlite("insert into a values (1, 'x'); insert into b values (1, 'y', 1)");
    let target = Postgres::shared(PgVersion::V15).fresh_database("dst");
    let pipeline = Pipeline::new("rebuilt", &format!("sqlite://{}", file.display()), &[&target.url()]);
    pipeline.catch_up();
    let rebuilt = [("id integer primary key, t text, n int", "id, t, n"), ("t text, id text primary key", "t, id")];
    for (n, (columns, kept)) in (2..).zip(rebuilt) {
        sqlite(&format!(
            "begin; create table b_new ({columns}); insert into b_new select {kept} from b; drop table b; \
             alter table b_new rename to b; insert into b (id, t) values ({n}, 'unlogged'); \
             insert into a values ({n}, 'z'); commit"
        ));
        let ended = pipeline.ended("run", &["--until-caught-up"]);
        assert_eq!(code(&ended), 65, "{}", ended.stderr);
        assert!(ended.stderr.contains("triggers are gone"), "{}", ended.stderr);
        assert_eq!(target.sql("select max(id) from a"), n.to_string(), "the other goes on");
        snapshot(&pipeline, &["b"]);
        sqlite(&format!("insert into b (id, t) values ({n} + 10, 'logged'); delete from b where id = 1"));
        pipeline.catch_up();
        assert_eq!(pipeline.verify_equal(), 2);
        sqlite("insert into b (id, t) values (1, 'back')");
    }
    pipeline.catch_up();
    assert_eq!(pipeline.verify_equal(), 2);
}
