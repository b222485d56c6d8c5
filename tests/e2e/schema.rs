//! `schema`: what it prints makes the same database as `run`, from every source; and what tables have besides their shape.

use std::path::Path;
use std::process::Command;

use crossfade_harness::{Client, Database, MariaDb, MySql, PgVersion, Postgres, python, sample};
use serde_json::Value;

use crate::common::{Pipeline, code, folder, load_sample};
use crate::mysql_to_postgres;
use crate::postgres_samples;

/// The target's server: the one whose `pg_dump` a Debian has.
fn target() -> Database {
    Postgres::shared(PgVersion::V15).fresh_database("dst")
}

/// The catalog, as the server's own tool writes it.
fn dump(database: &Database) -> String {
    let output = Command::new("pg_dump").args(["-s", "-d", &database.url()]).output().expect("cannot run pg_dump");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    // A key that is drawn for each run, in releases that have it.
    text.lines().filter(|l| !l.contains("restrict ")).collect::<Vec<_>>().join("\n")
}

fn printed(pipeline: &Pipeline) -> String {
    let ended = pipeline.ended("schema", &[]);
    assert_eq!(code(&ended), 0, "{}", ended.stderr);
    ended.stdout
}

/// Makes one target by what `schema` prints and lets `run` fill it, and another by `run` alone.
fn the_same_either_way(from: [&str; 2], tables: usize) {
    let (made, plain) = (target(), target());
    let pipeline = Pipeline::new("made", from[0], &[&made.url()]);
    made.sql(&printed(&pipeline));
    let before = dump(&made);
    pipeline.level(tables);
    Pipeline::new("plain", from[1], &[&plain.url()]).level(tables);
    assert_eq!(dump(&made), dump(&plain));
    // Beyond what a pipeline remembers of itself, nothing was left to make.
    made.sql("drop schema crossfade cascade");
    assert_eq!(dump(&made), before);
}

fn from_mysql(client: &Client, sample: &mysql_to_postgres::Sample) {
    let source = client.fresh_database("src");
    load_sample(client, sample.files, sample.original, &source);
    the_same_either_way([&source.url(), &source.url()], sample.tables);
}

#[test]
fn chinook_from_mariadb() {
    from_mysql(MariaDb::shared(), &mysql_to_postgres::CHINOOK);
}

#[test]
fn sakila_from_mariadb() {
    from_mysql(MariaDb::shared(), &mysql_to_postgres::SAKILA);
}

#[test]
fn chinook_from_mysql() {
    from_mysql(MySql::shared(), &mysql_to_postgres::CHINOOK);
}

#[test]
fn sakila_from_mysql() {
    from_mysql(MySql::shared(), &mysql_to_postgres::SAKILA);
}

fn from_postgres(sample: &postgres_samples::Sample) {
    let source = sample.load(PgVersion::V18);
    let nowhere = target();
    sample.follow_the_findings(&Pipeline::new("findings", &source.url(), &[&nowhere.url()]), &source);
    the_same_either_way([&source.url(), &source.url()], sample.tables);
}

#[test]
fn chinook_from_postgres() {
    from_postgres(&postgres_samples::CHINOOK);
}

#[test]
fn sakila_from_postgres() {
    from_postgres(&postgres_samples::SAKILA);
}

fn sqlite(database: &Path, script: &str) -> String {
    let code = "import sqlite3, sys\n\
                c = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)\n\
                for s in sys.argv[2].split(';\\n'):\n    \
                    for r in c.execute(s).fetchall(): print('\\t'.join(str(v) for v in r))\n";
    python(code, &[database.to_str().expect("UTF-8"), script]).trim_end().to_owned()
}

#[test]
fn chinook_from_sqlite() {
    let (_kept, folder) = folder();
    let urls = ["a", "b"].map(|name| {
        let path = folder.join(format!("{name}.sqlite"));
        std::fs::write(&path, std::fs::read(sample("chinook.sqlite")).expect("the sample")).expect("a copy of it");
        format!("sqlite://{}", path.display())
    });
    the_same_either_way([&urls[0], &urls[1]], 11);
}

/// What `check` says is not carried of a table.
fn not_carried(pipeline: &Pipeline, table: &str) -> String {
    let report: Value = pipeline.json("check", &[]);
    let findings = report["findings"].as_array().expect("findings");
    let setting = format!("table {table}, not carried");
    let found: Vec<&Value> = findings.iter().filter(|f| f["setting"] == setting.as_str()).collect();
    assert_eq!(found.len(), 1, "{report:#}");
    assert_eq!(found[0]["level"], "warning");
    found[0]["actual"].as_str().expect("text").to_owned()
}

/// Each of these is named by `check` and by what `schema` prints.
fn named(pipeline: &Pipeline, table: &str, what: &[&str]) {
    let (check, script) = (not_carried(pipeline, table), printed(pipeline));
    for what in what {
        assert!(check.contains(what), "check does not name {what}: {check}");
        let comments = script.lines().filter(|l| l.starts_with("-- Not carried: "));
        assert!(comments.clone().any(|l| l.contains(what)), "schema does not name {what}: {script}");
    }
}

/// By what collation rows are told apart at the source, `check` says; by what others are ordered, only `schema`.
fn collations(client: &Client) {
    let source = client.fresh_database("src");
    source.sql(
        "create table t (code varchar(9) collate utf8mb4_unicode_ci primary key, mail varchar(40) collate utf8mb4_general_ci unique, \
         exact varchar(40) collate utf8mb4_bin unique, note text collate utf8mb4_general_ci, n int not null default 3)",
    );
    let target = target();
    let pipeline = Pipeline::new("collations", &source.url(), &[&target.url()]);
    let told = not_carried(&pipeline, &format!("{}.t", source.name()));
    for collation in ["utf8mb4_unicode_ci of column code", "utf8mb4_general_ci of column mail:"] {
        assert!(told.contains(collation), "{told}");
    }
    assert!(!told.contains("note") && !told.contains("exact"), "{told}");
    assert!(printed(&pipeline).contains("collation utf8mb4_general_ci of column note"), "{told}");
}

#[test]
fn collations_of_unique_columns_mysql() {
    collations(MySql::shared());
}

#[test]
fn collations_of_unique_columns_mariadb() {
    collations(MariaDb::shared());
}

/// The statements are what the target was given, and a column that an operator has set is left as it is, also when all is
/// copied again.
fn set_once(pipeline: &Pipeline, target: &Database, table: &str) {
    target.sql(&format!("alter table {table} alter n set default 77"));
    target.sql(&format!("comment on table {table} is 'theirs'"));
    let again = pipeline.ended("snapshot", &["*"]);
    assert_eq!(code(&again), 0, "{}", again.stderr);
    pipeline.level(1);
    let default = format!(
        "select column_default from information_schema.columns where column_name = 'n' and \
                           table_schema || '.' || table_name = '{table}'"
    );
    assert_eq!(target.sql(&default), "77");
    assert_eq!(target.sql(&format!("select obj_description('{table}'::regclass)")), "theirs");
}

const OF_MYSQL: &str = "create table t (\
    id int auto_increment primary key, \
    n int not null default 42 comment 'how ''many''', \
    d decimal(9,2) default -1.50, u bigint unsigned default 18446744073709551615, f double default 0.1, \
    s varchar(40) not null default 'it''s \\\\ \"so\"', blank varchar(9) not null default '', \
    e enum('a','b') default 'b', k set('x','y','z') default 'x,z', b bit(4) default b'101', \
    day date default '2024-02-29', dt datetime(3) default '2024-02-29 23:59:59.125', tm time default '-01:02:03', \
    now0 datetime default current_timestamp, now6 timestamp(6) not null default current_timestamp(6), \
    none int default null, \
    ex varchar(40) default (concat('a', 'b')), two datetime(2) default current_timestamp(2), \
    up timestamp null default null on update current_timestamp, \
    raw varbinary(4) default 'ab', gen int as (n + 1) stored, \
    constraint positive check (n > 0 and (d < 100 or d is null)), constraint words check (s <> 'no')\
    ) comment 'things; they''re';";

/// What a row of defaults holds, as text that both servers print alike.
const OF_BOTH: &str = "n, d, u, f, s, blank, e, k, day, none";

fn from_mysql_with_details(client: &Client) {
    let source = client.fresh_database("src");
    source.sql(OF_MYSQL);
    source.sql("insert into t (id, n) values (1, 1)");
    let target = target();
    let pipeline = Pipeline::new("details", &source.url(), &[&target.url()]);
    let (schema, name) = (source.name(), format!("{}.t", source.name()));
    let left_out =
        ["default", "column ex", "column two", "column raw", "ON UPDATE", "generation of column gen", "words"];
    named(&pipeline, &name, &left_out);
    let script = printed(&pipeline);
    assert!(script.contains(&format!("Not carried: table {name}, collation ")), "{script}");
    pipeline.level(1);
    source.sql("insert into t (id) values (7)");
    target.sql(&format!("insert into {name} (id) values (7)"));
    let of =
        |database: &Database, columns: &str| database.sql(&format!("select {columns} from {schema}.t where id = 7"));
    assert_eq!(of(&target, OF_BOTH), of(&source, OF_BOTH).replace("\\\\", "\\"));
    let theirs = "b::text, dt::text, tm::text, ex, two, raw, gen, now6 - now() < interval '1 minute', \
                  extract(microseconds from now0)::int8 % 1000000";
    assert_eq!(of(&target, theirs), "0101\t2024-02-29 23:59:59.125\t-01:02:03\tNULL\tNULL\tNULL\tNULL\tt\t0");
    let comments = format!("select obj_description('{name}'::regclass), col_description('{name}'::regclass, 2)");
    assert_eq!(target.sql(&comments), "things; they're\thow 'many'");
    for refused in ["n = 0", "d = 100"] {
        let error = target.try_sql(&format!("update {name} set {refused} where id = 7")).unwrap_err();
        assert!(error.contains("violates check constraint \"positive\""), "{error}");
    }
    set_once(&pipeline, &target, &name);
}

#[test]
fn details_from_mysql() {
    from_mysql_with_details(MySql::shared());
}

#[test]
fn details_from_mariadb() {
    from_mysql_with_details(MariaDb::shared());
}

#[test]
fn details_from_postgres() {
    let source = Postgres::shared(PgVersion::V18).fresh_database("src");
    source.sql(
        "create type mood as enum ('it''s', 'ok');\n\
         create function pick() returns int language sql as 'select 4';\n\
         create domain tall as int default 9;\n\
         create table t (id int primary key, n int default 42, s text default 'it''s \\', m mood default 'it''s',\n\
             a int[] default '{1,2}', x uuid default gen_random_uuid(), at timestamptz default now(),\n\
             whole timestamp(0) default localtimestamp, j jsonb default '{\"a\": 1}', p int default pick(), h tall,\n\
             c char(3) default 'a', cs text collate \"C\", gen int generated always as (n * 2) stored,\n\
             constraint positive check (n > 0 or n is null), constraint odd check (p <> pick() + 1),\n\
             constraint moods check (m <> 'ok'));\n\
         alter table t add constraint later check (id < 1000) not valid;\n\
         comment on table t is 'things'; comment on column t.n is 'how \"many\"';\n\
         insert into t (id) values (1)",
    );
    let target = target();
    let pipeline = Pipeline::new("details", &source.url(), &[&target.url()]);
    let left_out =
        ["column j", "pick() of column p", "column h", "column c", "check odd", "check moods", "check later"];
    named(&pipeline, "public.t", &left_out);
    let script = printed(&pipeline);
    assert!(script.contains("collation C of column cs") && script.contains("generated column gen"), "{script}");
    pipeline.level(1);
    target.sql("insert into t (id) values (7)");
    source.sql("insert into t (id) values (7)");
    let both = "select n, s, m, a from t where id = 7";
    assert_eq!(target.sql(both), source.sql(both));
    let more = "select x is not null, now() - at < interval '1 minute', extract(microseconds from whole)::int8 % 1000000, \
                j, p, h, c from t where id = 7";
    assert_eq!(target.sql(more), "t\tt\t0\tNULL\tNULL\tNULL\tNULL");
    let comments = "select obj_description('t'::regclass), col_description('t'::regclass, 2)";
    assert_eq!(target.sql(comments), "things\thow \"many\"");
    let checks = "select string_agg(conname, ' ') from pg_constraint where contype = 'c' and conrelid = 't'::regclass and convalidated";
    assert_eq!(target.sql(checks), "positive");
    set_once(&pipeline, &target, "public.t");
    // A check that the source drops is not followed: the stop names the statement.
    source.sql("alter table t drop constraint positive; insert into t (id, n) values (8, -1)");
    let stopped = pipeline.ended("run", &["--until-caught-up"]);
    assert_eq!(code(&stopped), 65, "{}", stopped.stderr);
    let statement = stopped.stderr.lines().find_map(|l| Some(&l[l.find("ALTER TABLE")?..])).expect("a statement");
    target.sql(statement);
    pipeline.level(1);
}

#[test]
fn details_from_sqlite() {
    let (_kept, folder) = folder();
    let path = folder.join("source.sqlite");
    sqlite(
        &path,
        "create table t (id integer primary key, n integer default 42, s text default 'it''s', d decimal(9,2) default 1.5, \
             b blob default x'00ff', at timestamp default current_timestamp, words text default ('a' || 'b'), \
             gen integer generated always as (n + 1) stored, check (n > 0));\n\
         insert into t (id) values (1)",
    );
    let target = target();
    let pipeline = Pipeline::new("details", &format!("sqlite://{}", path.display()), &[&target.url()]);
    named(&pipeline, "main.t", &["of column words", "generation of column gen", "CHECK constraints"]);
    pipeline.level(1);
    target.sql("insert into t (id) values (7)");
    let row =
        "select n, s, d, b::text, words, gen, now() at time zone 'UTC' - at < interval '1 minute' from t where id = 7";
    assert_eq!(target.sql(row), "42\tit's\t1.50\t\\x00ff\tNULL\tNULL\tt");
    set_once(&pipeline, &target, "public.t");
}
