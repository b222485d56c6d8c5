//! Changes of type that leave every value as it is are carried out at the targets: no table is suspended by them, and none has to be
//! copied again. What might have changed a value suspends the table, on its own.

use crossfade_harness::{Client, Database, MariaDb, MySql, PgVersion, Postgres};

use crate::common::{Pipeline, code, folder};
use crate::suspended::{follow, suspended};

/// What is done to the table, and a row that only its new shape holds.
type Step<'a> = (&'a str, &'a str);

/// Every change is followed by the row, level with it, and told of nobody.
fn followed(pipeline: &Pipeline, source: &Database, steps: &[Step<'_>], tables: usize) {
    for (change, row) in steps {
        source.sql(&format!("{change}; {row}"));
        let ended = pipeline.ended("run", &["--until-caught-up"]);
        assert_eq!(code(&ended), 0, "{change}: {}", ended.stderr);
        assert_eq!(pipeline.verify_equal(), tables, "{change}");
    }
}

/// A change suspends `t`, with these words, and `other` goes on.
fn suspends(pipeline: &Pipeline, source: &Database, change: &str, word: &str) {
    source.sql(&format!("{change}; insert into other values ((select * from (select max(id) + 1 from other) n))"));
    let ended = pipeline.ended("run", &["--until-caught-up"]);
    assert_eq!(code(&ended), 65, "{change}: {}", ended.stderr);
    let found = suspended(pipeline, 1);
    assert!(found[0].to_string().contains(word), "{change}: {word:?} is missing: {found:#?}");
    follow(pipeline, &found[0]);
    pipeline.catch_up();
    pipeline.verify_equal();
}

const OF_THE_FAMILY: &str = "\
    create table t (id int primary key auto_increment, s smallint, u int unsigned, v varchar(20), b varbinary(9), d decimal(6,2), \
        at datetime, ts timestamp(3) null, f float, e enum('a','b'), r int not null, g varchar(20) character set gbk, n smallint); \
    insert into t (s, u, v, b, d, at, ts, f, e, r, g, n) values (-32768, 4294967295, 'é', 'b', -9999.99, '2024-02-29 12:00:01', \
        '2024-02-29 12:00:01.123', 0.1, 'b', 1, '中', 1), (null, 7, null, null, null, null, null, null, null, 2, 'é', 2); \
    create table other (id int primary key); insert into other values (1);";

fn of_the_family(client: &Client) {
    let source = client.fresh_database("wider");
    source.sql(&format!("set names utf8mb4; {OF_THE_FAMILY}"));
    let target = Postgres::shared(PgVersion::V15).fresh_database("dst");
    let (_folder, path) = folder();
    let pipeline = Pipeline::new("wider", &source.url(), &[&target.url(), &format!("file://{}", path.display())]);
    pipeline.level(4);
    followed(
        &pipeline,
        &source,
        &[
            ("alter table t modify id bigint auto_increment", "insert into t (id, r) values (3000000000, 3)"),
            ("alter table t modify s mediumint", "insert into t (s, r) values (-8388608, 3)"),
            ("alter table t modify s bigint", "insert into t (s, r) values (-3000000000, 3)"),
            ("alter table t modify u bigint", "insert into t (u, r) values (-1, 3)"),
            ("alter table t modify v varchar(90)", "insert into t (v, r) values (repeat('v', 90), 3)"),
            ("alter table t modify v text", "insert into t (v, r) values (repeat('v', 900), 3)"),
            ("alter table t modify b blob", "insert into t (b, r) values (repeat('b', 900), 3)"),
            ("alter table t modify d decimal(12,3)", "insert into t (d, r) values (-123456789.125, 3)"),
            ("alter table t modify d decimal(48,3)", "insert into t (d, r) values (1e40, 3)"),
            ("alter table t modify at datetime(6)", "insert into t (at, r) values ('2024-02-29 12:00:01.123456', 3)"),
            (
                "alter table t modify ts timestamp(6) null",
                "insert into t (ts, r) values ('2024-02-29 12:00:01.1234', 3)",
            ),
            ("alter table t modify f double", "insert into t (f, r) values (0.1, 3)"),
            ("alter table t modify e enum('a','b','c')", "insert into t (e, r) values ('c', 3)"),
            ("alter table t modify r int null", "insert into t (r) values (null)"),
            ("alter table t convert to character set utf8mb4", "set names utf8mb4; insert into t (g) values ('🦀')"),
            // Two at once, and another before the next row.
            (
                "alter table t change n m mediumint, add x int; alter table t change m k bigint",
                "insert into t (k, x) values (3000000000, 1)",
            ),
        ],
        4,
    );
    let sql = format!(
        "select pg_catalog.format_type(atttypid, atttypmod) from pg_attribute \
        where attrelid = '{}.t'::regclass and attname in ('id', 'd', 'f') order by attname",
        source.schema()
    );
    assert_eq!(target.sql(&sql), "numeric(48,3)\ndouble precision\nbigint");
    for (change, word) in [
        ("alter table t modify s int", "was changed to int"),
        ("alter table t modify d decimal(48,2)", "was changed to decimal(48,2)"),
        ("alter table t modify e enum('c','b','a')", "was changed to enum"),
    ] {
        source.sql("delete from t");
        suspends(&pipeline, &source, &format!("{change}; insert into t (r) values (3)"), word);
    }
}

#[test]
fn wider_types_of_mysql() {
    of_the_family(MySql::shared());
}

#[test]
fn wider_types_of_mariadb() {
    of_the_family(MariaDb::shared());
}

/// NOT NULL comes and goes. Where a server that is not strict has made values of NULL, the target finds its own NULLs.
fn not_null(client: &Client) {
    let source = client.fresh_database("notnull");
    source.sql(
        "create table t (id int primary key, n int, m int); insert into t values (1, 1, 1), (2, 2, null); \
         create table other (id int primary key); insert into other values (1)",
    );
    let target = Postgres::shared(PgVersion::V18).fresh_database("dst");
    let pipeline = Pipeline::new("notnull", &source.url(), &[&target.url()]);
    pipeline.level(2);
    let steps = [
        ("alter table t modify n int not null", "insert into t values (3, 3, 3)"),
        ("alter table t modify n bigint null", "insert into t values (4, null, 4)"),
    ];
    followed(&pipeline, &source, &steps, 2);
    let lax = "set sql_mode = ''; alter table t modify m int not null";
    suspends(&pipeline, &source, &format!("{lax}; insert into t values (5, 5, 5)"), "null");
    let and_back = format!("{lax}; alter table t modify m int");
    source.sql("alter table t modify m int; update t set m = null where id = 1; insert into t values (6, 6, null)");
    pipeline.level(2);
    suspends(&pipeline, &source, &format!("{and_back}; insert into t values (7, 7, 7)"), "perhaps its values");
}

#[test]
fn not_null_of_mysql() {
    not_null(MySql::shared());
}

#[test]
fn not_null_of_mariadb() {
    not_null(MariaDb::shared());
}

fn of_postgres(version: PgVersion) {
    let source = Postgres::shared(version).fresh_database("wider");
    source.sql(
        "create table t (id int primary key, v varchar(20), d numeric(6,2), at timestamp(3), z time(0), r int not null, n int); \
         insert into t values (1, 'é', -9999.99, '2024-02-29 12:00:01.123', '12:00:01', 1, 1), (2, null, null, null, null, 2, 2); \
         create table other (id int primary key); insert into other values (1)",
    );
    let target = Postgres::shared(PgVersion::V15).fresh_database("dst");
    let (_folder, path) = folder();
    let pipeline = Pipeline::new("wider", &source.url(), &[&target.url(), &format!("file://{}", path.display())]);
    pipeline.level(4);
    followed(
        &pipeline,
        &source,
        &[
            (
                "alter table t alter v type varchar(90)",
                "insert into t values (3, repeat('v', 90), 1, now(), now(), 1, 1)",
            ),
            ("alter table t alter v type text", "insert into t values (4, repeat('v', 900), 1, now(), now(), 1, 1)"),
            (
                "alter table t alter d type numeric(12,2)",
                "insert into t values (5, '', -1234567890.12, now(), now(), 1, 1)",
            ),
            (
                "alter table t alter at type timestamp, alter z type time(6)",
                "insert into t values (6, '', 1, '2024-02-29 12:00:01.123456', '12:00:01.123456', 1, 1)",
            ),
            ("alter table t alter r drop not null", "insert into t (id, r) values (7, null)"),
        ],
        4,
    );
    let sql = "select pg_catalog.format_type(atttypid, atttypmod) from pg_attribute \
        where attrelid = 'public.t'::regclass and attname = 'd'";
    assert_eq!(target.sql(sql), "numeric(12,2)");
    // Rewritten rows: nobody knows what by.
    let change = "alter table t alter d type numeric(14,2) using d * 2; update t set r = 9 where id = 1";
    suspends(&pipeline, &source, change, "numeric(14,2)");
    suspends(&pipeline, &source, "alter table t alter n type bigint; update t set r = 8 where id = 1", "bigint");
    let again = "alter table t alter d type numeric(15,2); update t set r = 7 where id = 1";
    suspends(&pipeline, &source, again, "numeric(15,2)");
    assert!(pipeline.ended("uninstall", &[]).status.success());
}

#[test]
fn wider_types_of_postgres_15() {
    of_postgres(PgVersion::V15);
}

#[test]
fn wider_types_of_postgres_18() {
    of_postgres(PgVersion::V18);
}
