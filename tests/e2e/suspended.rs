//! A table that cannot be followed is suspended, alone: the others go on, also through SIGKILL, and what its hint says ends it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossfade_harness::{Client, Database, MariaDb, MySql, PgVersion, Postgres, Program};
use serde_json::Value;

use crate::common::{PATIENCE, Pipeline, code, folder, while_writing};

const TABLES: &str = "\
    create table good (id int primary key, n int not null);\n\
    create table other (id int primary key, n int not null);\n\
    create table bad (id int primary key, n int not null, t varchar(40));\n\
    insert into good values (1, 1); insert into other values (1, 1); insert into bad values (1, 1, 'x')";

/// Writes all three tables, the bad one in the middle of each transaction. What `good` and `other` hold is the same at every
/// commit.
fn write(source: &Database, stop: &AtomicBool) -> usize {
    let first: usize = source.sql("select max(id) + 10 from good").parse().expect("a number");
    let mut n = 0;
    while !stop.load(Ordering::SeqCst) {
        n += 1;
        let id = first + n;
        source.sql(&format!(
            "begin; insert into good values ({id}, {n}); update good set n = n + 1 where id = {id} - 3;\n\
             insert into bad (id, n) values ({id}, {n}); delete from bad where id = {id} - 5;\n\
             insert into other values ({id}, {n}); update other set n = n + 1 where id = {id} - 3; commit"
        ));
        // As in `mutations.rs`: clients without a pause would take the processor from those whom this is about.
        std::thread::sleep(Duration::from_millis(20));
    }
    n
}

/// Asks until so many tables are suspended; returns them.
pub fn suspended(pipeline: &Pipeline, count: usize) -> Vec<Value> {
    let until = Instant::now() + PATIENCE;
    loop {
        let status = pipeline.json("status", &[]);
        let found = status["view"]["suspended"].as_array().expect("a list").clone();
        if found.len() == count {
            return found;
        }
        assert!(Instant::now() < until, "{status:#}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Runs what `status` says, which ends the state.
pub fn follow(pipeline: &Pipeline, table: &Value) {
    let command = table["command"].as_str().expect("a command");
    let words: Vec<&str> = command.split(' ').collect();
    let ["crossfade", "snapshot", name] = words[..] else { panic!("{command}") };
    let ended = pipeline.ended("snapshot", &[name]);
    assert_eq!(code(&ended), 0, "{command}: {}", ended.stderr);
}

/// Only `bad` is not equal, and it is unknown.
fn all_but_one_equal(pipeline: &Pipeline) {
    let ended = pipeline.ended("verify", &["--json"]);
    assert_eq!(code(&ended), 3, "{}{}", ended.stdout, ended.stderr);
    let proof: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    assert_eq!(proof["verdict"], "unknown");
    for table in proof["tables"].as_array().expect("tables") {
        let bad = table["table"].as_str().expect("a name").ends_with(".bad");
        assert_eq!(table["verdict"], if bad { "unknown" } else { "equal" }, "{table:#}");
        assert!(!bad || table["error"].as_str().is_some_and(|e| e.contains("crossfade snapshot")), "{table:#}");
    }
}

/// The two that are written together, at the target, at any moment.
fn together(target: &Database, schema: &str) {
    let of = |table: &str| format!("(select (count(*), sum(n), max(id)) from {schema}.{table})");
    let seen = target.sql(&format!("select {} = {}", of("good"), of("other")));
    assert_eq!(seen, "t", "a transaction is shown in part");
}

/// A daemon that streams.
fn daemon(pipeline: &Pipeline) -> crossfade_harness::Running {
    let mut daemon = pipeline.command("run", &[]).start();
    daemon.wait_for("starting", PATIENCE);
    daemon
}

/// What happens to `bad`, with the words of the reason and what mends it.
struct Trouble<'a> {
    cause: &'a dyn Fn(),
    words: &'a [&'a str],
    mend: &'a dyn Fn(),
}

/// A writer writes all the while; the daemon is killed when the table is suspended.
fn alone(pipeline: &Pipeline, source: &Database, target: &Database, trouble: &Trouble<'_>) {
    let written = while_writing(
        1,
        |_, stop| write(source, stop),
        |stop| {
            let first = daemon(pipeline);
            assert_eq!(code(&pipeline.ended("catch-up", &["--timeout", "200s"])), 0, "{}", first.stderr());
            (trouble.cause)();
            let found = suspended(pipeline, 1);
            for word in trouble.words {
                assert!(found[0].to_string().contains(word), "{word:?} is missing: {found:#?}");
            }
            together(target, source.schema());
            drop(first.kill());
            assert_eq!(suspended(pipeline, 1)[0]["reason"], found[0]["reason"], "without a daemon");
            let second = daemon(pipeline);
            let late = pipeline.ended("catch-up", &["--timeout", "200s"]);
            assert_eq!(code(&late), 65, "{}", late.stderr);
            assert!(late.stderr.contains("suspended") && late.stderr.contains(".bad"), "{}", late.stderr);
            let lag = pipeline.ended("lag", &["--warn", "200s", "--crit", "300s"]);
            assert_eq!(code(&lag), 1, "{}{}", lag.stdout, lag.stderr);
            assert!(lag.stdout.contains("suspended"), "{}", lag.stdout);
            all_but_one_equal(pipeline);
            together(target, source.schema());
            drop(second.kill());
            (trouble.mend)();
            let third = daemon(pipeline);
            follow(pipeline, &found[0]);
            suspended(pipeline, 0);
            assert_eq!(code(&pipeline.ended("catch-up", &["--timeout", "200s"])), 0, "{}", third.stderr());
            pipeline.verify_equal();
            stop.store(true, Ordering::SeqCst);
            third.signal("TERM");
            assert_eq!(code(&third.wait(PATIENCE)), 0);
        },
    );
    assert!(written > 10, "{written} transactions");
    pipeline.catch_up();
    pipeline.verify_equal();
    together(target, source.schema());
}

/// A value that a target refuses, and a change that no step follows; to Postgres and to Parquet.
fn a_value_and_a_change(client: &Client, change: &str) {
    let source = client.fresh_database("alone");
    source.sql(TABLES);
    let target = Postgres::shared(PgVersion::V15).fresh_database("dst");
    let (_folder, path) = folder();
    let pipeline = Pipeline::in_short_steps("alone", &path, &source, &target);
    pipeline.catch_up();
    assert_eq!(pipeline.verify_equal(), 6);
    let bad = format!("{}.bad", source.schema());
    target.sql(&format!("alter table {bad} add constraint no_devil check (n <> -666)"));
    let refused = Trouble {
        cause: &|| drop(source.sql("insert into bad values (-1, -666, 'devil')")),
        words: &["no_devil", ".bad"],
        mend: &|| drop(source.sql("delete from bad where id = -1")),
    };
    alone(&pipeline, &source, &target, &refused);
    let changed = Trouble {
        cause: &|| drop(source.sql(&format!("{change}; update bad set n = n + 1 where id = 1"))),
        words: &[".bad"],
        mend: &|| {},
    };
    alone(&pipeline, &source, &target, &changed);
    if source.schema() == "public" {
        assert!(pipeline.ended("uninstall", &[]).status.success());
    }
}

#[test]
fn suspended_alone_from_mariadb() {
    a_value_and_a_change(MariaDb::shared(), "alter table bad modify n varchar(20) not null");
}

#[test]
fn suspended_alone_from_mysql() {
    a_value_and_a_change(MySql::shared(), "alter table bad modify n varchar(20) not null");
}

#[test]
fn suspended_alone_from_postgres_15() {
    a_value_and_a_change(Postgres::shared(PgVersion::V15), "alter table bad alter n type bigint");
}

#[test]
fn suspended_alone_from_postgres_18() {
    a_value_and_a_change(Postgres::shared(PgVersion::V18), "alter table bad alter n type bigint");
}

/// A value that cannot be read, met by the initial copy and by the log; the only table that is left stops the pipeline.
fn a_value_in_the_copy(client: &Client) {
    let source = client.fresh_database("copy");
    source.sql(
        "set sql_mode = ''; create table a (id int primary key, d date); create table b (id int primary key, d date);\n\
         insert into a values (1, '2024-02-29'); insert into b values (1, '2024-02-29'), (2, '0000-00-00')",
    );
    let target = Postgres::shared(PgVersion::V15).fresh_database("dst");
    let pipeline = Pipeline::new("copy", &source.url(), &[&target.url()]);
    let ended = pipeline.ended("run", &["--until-caught-up"]);
    assert_eq!(code(&ended), 65, "{}", ended.stderr);
    let found = suspended(&pipeline, 1);
    assert!(found[0]["table"].to_string().contains("\"b\""), "{found:#?}");
    source.sql("set sql_mode = ''; insert into a values (3, '2024-03-01'); insert into b values (3, '0000-00-00')");
    assert_eq!(code(&pipeline.ended("run", &["--until-caught-up"])), 65);
    assert_eq!(target.sql(&format!("select count(*) from {}.a", source.name())), "2", "the other goes on");
    // Now both: nothing would be left to go on.
    source.sql("set sql_mode = ''; insert into a values (4, '0000-00-00')");
    let ended = pipeline.ended("run", &["--until-caught-up"]);
    assert_eq!(code(&ended), 65, "{}", ended.stderr);
    assert!(ended.stderr.contains(".a, column d"), "{}", ended.stderr);
    suspended(&pipeline, 1);
    source.sql("set sql_mode = ''; update a set d = null where d = 0; update b set d = null where d = 0");
    assert_eq!(code(&pipeline.ended("snapshot", &["*"])), 0);
    pipeline.level(2);
}

#[test]
fn suspended_in_the_copy_from_mariadb() {
    a_value_in_the_copy(MariaDb::shared());
}

#[test]
fn suspended_in_the_copy_from_mysql() {
    a_value_in_the_copy(MySql::shared());
}

/// A value that contradicts how a column of SQLite travels stops its table; to copy that again is to decide anew, by all values.
#[test]
fn a_type_that_a_value_of_sqlite_contradicts() {
    let (_folder, path) = folder();
    let file = path.join("app.db");
    let sqlite = |sql: &str| {
        let ended = Program::new("sqlite3").args([file.to_str().expect("UTF-8"), sql]).start().wait(PATIENCE);
        assert!(ended.status.success(), "{}", ended.stderr);
    };
    sqlite("create table good (id integer primary key); insert into good values (1)");
    sqlite("create table sale (id integer primary key, amount numeric(10,2), note text)");
    sqlite("insert into sale values (1, 10.25, 'a'), (2, 3, 'b')");
    let target = Postgres::shared(PgVersion::V15).fresh_database("dst");
    let amount = || {
        let of = "attrelid = 'sale'::regclass and attname = 'amount'";
        let kind = target.sql(&format!("select format_type(atttypid, atttypmod) from pg_attribute where {of}"));
        let values = target.sql("select string_agg(amount::text, ' ' order by id) from sale");
        (kind, values)
    };
    let pipeline = Pipeline::new("contradicted", &format!("sqlite://{}", file.display()), &[&target.url()]);
    pipeline.catch_up();
    assert_eq!(amount(), ("numeric(10,2)".into(), "10.25 3.00".into()));
    sqlite("update sale set amount = 0.1 + 0.2 where id = 2; insert into good values (2)");
    assert_eq!(code(&pipeline.ended("run", &["--until-caught-up"])), 65);
    let found = suspended(&pipeline, 1);
    let reason = found[0]["reason"].as_str().expect("a reason");
    let told = "column amount, row id=2: real 0.30000000000000004 is no decimal(10,2)";
    assert!(reason.contains(told), "{reason}");
    assert_eq!(target.sql("select count(*) from good"), "2", "the other goes on");
    follow(&pipeline, &found[0]);
    sqlite("insert into sale values (3, 7.5 + 1e-9, 'c'); update sale set note = 'd' where id = 1");
    pipeline.catch_up();
    assert_eq!(amount(), ("numeric".into(), "10.25 0.30000000000000004 7.500000001".into()));
    assert_eq!(pipeline.verify_equal(), 2);
    // Nothing contradicts what is decided now, so it stands, though the declaration would do.
    sqlite("update sale set amount = 1");
    follow(&pipeline, &found[0]);
    pipeline.catch_up();
    assert_eq!(amount(), ("numeric".into(), "1 1 1".into()));
    assert_eq!(pipeline.verify_equal(), 2);
}
