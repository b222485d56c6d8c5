//! A unique index that the source drops: rows that it would have refused arrive, nobody is suspended for it, and where the target cannot
//! let go of the index, the table is, alone, with the statement that does it.

use crossfade_harness::{Client, Database, MariaDb, MySql, PgVersion, Postgres};

use crate::common::{Pipeline, code, folder};
use crate::half_copied::Held;
use crate::suspended::{follow, suspended};

/// Unique indexes of a table at the target, beside its key's.
fn unique(target: &Database, table: &str) -> String {
    target.sql(&format!(
        "select string_agg(c.relname, ' ' order by c.relname) from pg_index i join pg_class c on c.oid = i.indexrelid \
         where i.indrelid = '{table}'::regclass and i.indisunique and not i.indisprimary"
    ))
}

fn drop_index(source: &Database, index: &str, table: &str) -> String {
    if source.schema() == "public" { format!("drop index {index}") } else { format!("drop index {index} on {table}") }
}

fn followed(client: &Client) {
    let source = client.fresh_database("unindexed");
    source.sql(
        "create table t (id int primary key, n int, m int); create unique index un on t (n); create unique index um on t (m, n); \
         create table good (id int primary key); insert into t values (1, 1, 1), (2, 2, 2); insert into good values (1)",
    );
    let (target, second) = (database(), database());
    let (_keep, path) = folder();
    let lake = format!("file://{}", path.display());
    let pipeline = Pipeline::new("unindexed", &source.url(), &[&target.url(), &lake, &second.url()]);
    pipeline.level(6);
    let table = format!("{}.t", source.schema());
    assert_eq!(unique(&target, &table), "um un");
    source.sql(&drop_index(&source, "un", "t"));
    source
        .sql("insert into t values (3, 1, 3), (4, 1, 4); update t set n = 1 where id = 2; insert into good values (2)");
    pipeline.level(6);
    assert_eq!((unique(&target, &table), unique(&second, &table)), ("um".into(), "um".into()));
    // Nor does a table that is copied again get it back.
    assert_eq!(code(&pipeline.ended("snapshot", &["*.t"])), 0);
    pipeline.level(6);
    assert_eq!(unique(&target, &table), "um");
    // The other goes with a row that comes while another table is copied again.
    assert_eq!(code(&pipeline.ended("snapshot", &["*.good"])), 0);
    source.sql(&drop_index(&source, "um", "t"));
    source.sql("insert into t values (5, 1, 1)");
    pipeline.level(6);
    assert_eq!(unique(&target, &table), "NULL");
    uninstall(&pipeline, &source);
}

fn database() -> Database {
    Postgres::shared(PgVersion::V15).fresh_database("dst")
}

fn uninstall(pipeline: &Pipeline, source: &Database) {
    if source.schema() == "public" {
        assert!(pipeline.ended("uninstall", &[]).status.success());
    }
}

#[test]
fn a_dropped_unique_index_of_mysql() {
    followed(MySql::shared());
}

#[test]
fn a_dropped_unique_index_of_mariadb() {
    followed(MariaDb::shared());
}

#[test]
fn a_dropped_unique_index_of_postgres() {
    followed(Postgres::shared(PgVersion::V18));
}

/// Somebody's foreign key at the target needs the index.
fn held_by_a_reference(client: &Client) {
    let source = client.fresh_database("unindexed");
    source.sql(
        "create table t (id int primary key, n int); create unique index un on t (n); \
         create table good (id int primary key); insert into t values (1, 1); insert into good values (1)",
    );
    let target = database();
    let pipeline = Pipeline::new("needed", &source.url(), &[&target.url()]);
    pipeline.level(2);
    let table = format!("{}.t", source.schema());
    target.sql(&format!("create table mine (n int constraint needs_un references {table} (n))"));
    source.sql(&drop_index(&source, "un", "t"));
    source.sql("insert into t values (2, 1); insert into good values (2)");
    let ended = pipeline.ended("run", &["--until-caught-up"]);
    assert_eq!(code(&ended), 65, "{}", ended.stderr);
    let found = suspended(&pipeline, 1);
    let statement = format!("DROP INDEX \"{}\".\"un\"", source.schema());
    for word in ["un", "needs_un", &statement, "crossfade snapshot"] {
        assert!(found[0].to_string().replace("\\\"", "\"").contains(word), "{word:?} is missing: {found:#?}");
    }
    assert_eq!(target.sql(&format!("select count(*) from {}.good", source.schema())), "2", "the other goes on");
    target.sql(&format!("alter table mine drop constraint needs_un; {statement}"));
    follow(&pipeline, &found[0]);
    pipeline.level(2);
    uninstall(&pipeline, &source);
}

#[test]
fn an_index_that_the_target_needs_mariadb() {
    held_by_a_reference(MariaDb::shared());
}

#[test]
fn an_index_that_the_target_needs_postgres() {
    held_by_a_reference(Postgres::shared(PgVersion::V15));
}

/// The index goes while the table is copied, and with it the source's promise: none is made at the end.
fn dropped_half_copied(client: &Client) {
    let mut held = Held::begin(client, 60);
    held.source.sql(&format!("{}; insert into bad values (100, 1, 'x')", drop_index(&held.source, "bad_n", "bad")));
    held.release();
    held.level();
    assert_eq!(unique(&held.target, &format!("{}.bad", held.source.schema())), "NULL");
    held.end();
    held.uninstall();
}

#[test]
fn an_index_dropped_half_copied_mysql() {
    dropped_half_copied(MySql::shared());
}

#[test]
fn an_index_dropped_half_copied_postgres() {
    dropped_half_copied(Postgres::shared(PgVersion::V18));
}

/// An index that tells the rows of a table without a primary key apart: without it two of them may be equal in it, and none may be lost.
fn of_the_key(client: &Client) {
    let source = client.fresh_database("unindexed");
    source.sql(
        "create table t (n int not null, v int, unique index kn (n), unique index kv (v)); \
         create table good (id int primary key); insert into t values (1, 1); insert into good values (1)",
    );
    let target = database();
    let pipeline = Pipeline::new("keyed", &source.url(), &[&target.url()]);
    pipeline.level(2);
    // One beside the key may go.
    source.sql("alter table t drop index kv; insert into t values (2, 1)");
    pipeline.level(2);
    source.sql("alter table t drop key kn; insert into t values (1, 3); insert into good values (2)");
    let ended = pipeline.ended("run", &["--until-caught-up"]);
    assert_eq!(code(&ended), 65, "{}", ended.stderr);
    let found = suspended(&pipeline, 1);
    assert!(found[0].to_string().contains("its key"), "{found:#?}");
    assert_eq!(target.sql(&format!("select count(*) from {}.good", source.schema())), "2", "the other goes on");
    follow(&pipeline, &found[0]);
    pipeline.level(2);
    assert_eq!(target.sql(&format!("select count(*) from {}.t", source.schema())), "3");
}

#[test]
fn an_index_of_the_key_mysql() {
    of_the_key(MySql::shared());
}

#[test]
fn an_index_of_the_key_mariadb() {
    of_the_key(MariaDb::shared());
}

/// The same of a primary key: the log of Postgres shows with the next row that it tells rows apart no more.
#[test]
fn a_primary_key_dropped_postgres() {
    let source = Postgres::shared(PgVersion::V18).fresh_database("unindexed");
    source.sql(
        "create table t (n int primary key, v int); create table good (id int primary key); \
         insert into t values (1, 1); insert into good values (1)",
    );
    let target = database();
    let pipeline = Pipeline::new("keyed", &source.url(), &[&target.url()]);
    pipeline.level(2);
    source.sql("alter table t drop constraint t_pkey; insert into t values (1, 3); insert into good values (2)");
    let ended = pipeline.ended("run", &["--until-caught-up"]);
    assert_eq!(code(&ended), 65, "{}", ended.stderr);
    let found = suspended(&pipeline, 1);
    assert!(found[0].to_string().contains("no longer covers the key (n)"), "{found:#?}");
    assert_eq!(target.sql("select count(*) from good"), "2", "the other goes on");
    source.sql("alter table t replica identity full");
    follow(&pipeline, &found[0]);
    pipeline.level(2);
    assert_eq!(target.sql("select count(*) from t"), "2");
    uninstall(&pipeline, &source);
}
