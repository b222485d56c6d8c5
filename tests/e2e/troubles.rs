//! Trouble of one table suspends it alone, whoever makes it: somebody at the target, a rule of the configuration, a type that nobody
//! carries. What suspends a table beside a writer, and through SIGKILL, is in `suspended.rs`; here is what else does.

use std::path::Path;

use crossfade_harness::{Client, Database, MariaDb, MySql, PgVersion, Postgres};

use crate::common::{Pipeline, code, folder};
use crate::suspended::{follow, suspended};

const TABLES: &str = "\
    create table good (id int primary key, n int); create table bad (id int primary key, n int, t varchar(40));\n\
    insert into good values (1, 1); insert into bad values (1, 1, 'x')";

/// What happens to `bad`, what is said of it, and what mends it.
struct Trouble<'a> {
    cause: &'a dyn Fn(),
    words: &'a [&'a str],
    mend: &'a dyn Fn(),
}

/// One transaction in both tables, after the trouble: of `good` it arrives, `bad` is suspended, and comes in again once it is mended.
fn alone(pipeline: &Pipeline, source: &Database, target: &Database, trouble: &Trouble<'_>) {
    let good = format!("select max(id) from {}.good", source.schema());
    let last: u32 = target.sql(&good).parse().expect("a number");
    (trouble.cause)();
    let next = last + 1;
    source.sql(&format!("begin; insert into bad (id) values ({next}); insert into good values ({next}, 1); commit"));
    let ended = pipeline.ended("run", &["--until-caught-up"]);
    assert_eq!(code(&ended), 65, "{}", ended.stderr);
    let found = suspended(pipeline, 1);
    for word in [&[".bad"], trouble.words].concat() {
        assert!(found[0].to_string().contains(word), "{word:?} is missing: {found:#?}");
    }
    assert!(found[0]["hint"].as_str().is_some_and(|h| !h.is_empty()), "{found:#?}");
    assert_eq!(target.sql(&good), next.to_string(), "the transaction's other table arrives");
    let again = pipeline.ended("run", &["--until-caught-up"]);
    assert_eq!(code(&again), 65, "{}", again.stderr);
    (trouble.mend)();
    follow(pipeline, &found[0]);
    pipeline.level(2);
}

fn configured(folder: &Path, source: &Database, target: &Database) -> Pipeline {
    let path = folder.join("p.toml");
    let text = format!(
        "name = \"troubles-{}\"\n[source]\nurl = {:?}\n[[target]]\nurl = {:?}\n\
         [[column]]\ntables = \"*.bad\"\nexclude = [\"out\"]\nrename = {{ t = \"u\" }}\n",
        target.name(),
        source.url(),
        target.url()
    );
    std::fs::write(&path, text).expect("the configuration");
    Pipeline::configured(&path)
}

/// A change of the source's table for which the target, or a rule, has no room.
fn no_room(client: &Client) {
    let source = client.fresh_database("troubles");
    source.sql(TABLES);
    let target = Postgres::shared(PgVersion::V15).fresh_database("dst");
    let (_keep, folder) = folder();
    let pipeline = configured(&folder, &source, &target);
    pipeline.level(2);
    let bad = format!("{}.bad", source.schema());
    let at_source = |sql: &str| drop(source.sql(sql));
    let at_target = |sql: String| drop(target.sql(&sql));
    let troubles = [
        Trouble {
            cause: &|| {
                at_target(format!("create view seen as select n from {bad}"));
                at_source("alter table bad drop column n");
            },
            words: &["seen", "drop it there"],
            mend: &|| at_target("drop view seen".into()),
        },
        Trouble {
            cause: &|| {
                at_target(format!("alter table {bad} add column extra text"));
                at_source("alter table bad add column extra int");
            },
            words: &["extra", "already exists"],
            mend: &|| at_target(format!("alter table {bad} drop column extra")),
        },
        Trouble {
            cause: &|| at_source("alter table bad add column u int"),
            words: &["two columns would be named u", "rename rule"],
            mend: &|| at_source("alter table bad drop column u"),
        },
        Trouble { cause: &|| at_target(format!("drop table {bad}")), words: &["gone from the target"], mend: &|| {} },
    ];
    troubles.iter().for_each(|t| alone(&pipeline, &source, &target, t));
    if source.schema() == "public" {
        assert!(pipeline.ended("uninstall", &[]).status.success());
    } else {
        // A name that no table of Postgres may have for a column.
        let system = Trouble {
            cause: &|| at_source("alter table bad add column xmin int"),
            words: &["xmin", "another name"],
            mend: &|| at_source("alter table bad drop column xmin"),
        };
        alone(&pipeline, &source, &target, &system);
    }
}

#[test]
fn no_room_for_a_change_of_mysql() {
    no_room(MySql::shared());
}

#[test]
fn no_room_for_a_change_of_mariadb() {
    no_room(MariaDb::shared());
}

#[test]
fn no_room_for_a_change_of_postgres() {
    no_room(Postgres::shared(PgVersion::V18));
}

/// While nobody runs the pipeline, a table becomes one that nobody can carry: the start is not refused, the table is suspended with its
/// next row, and `verify` compares the others before that.
fn altered_while_away(client: &Client, change: &str, back: &str, says: &str) {
    let source = client.fresh_database("away");
    source.sql(TABLES);
    let target = Postgres::shared(PgVersion::V15).fresh_database("dst");
    let pipeline = Pipeline::new("away", &source.url(), &[&target.url()]);
    pipeline.level(2);
    source.sql(&format!("{}{change}", names(&source)));
    let check = pipeline.ended("check", &["--json"]);
    assert_eq!(code(&check), 1, "{}", check.stdout);
    assert!(check.stdout.contains(says) && check.stdout.contains("is suspended with its next row"), "{}", check.stdout);
    // A new pipeline cannot begin with it.
    let other = Postgres::shared(PgVersion::V15).fresh_database("dst");
    let fresh = Pipeline::new("fresh", &source.url(), &[&other.url()]);
    assert_eq!(code(&fresh.ended("run", &["--until-caught-up"])), 78);
    let nothing = || {};
    let mend = || drop(source.sql(back));
    alone(&pipeline, &source, &target, &Trouble { cause: &nothing, words: &[], mend: &mend });
    if source.schema() == "public" {
        assert!(pipeline.ended("uninstall", &[]).status.success());
    }
}

fn names(source: &Database) -> &'static str {
    if source.schema() == "public" { "" } else { "set names utf8mb4; " }
}

#[test]
fn altered_while_away_mysql() {
    let change = "alter table bad add column e enum('\u{1F980}')";
    altered_while_away(MySql::shared(), change, "alter table bad drop column e", "cannot show all labels");
}

#[test]
fn altered_while_away_mariadb() {
    let back = "alter table bad modify t varchar(40)";
    altered_while_away(MariaDb::shared(), "alter table bad modify t varchar(40) compressed", back, "compressed bytes");
}

#[test]
fn altered_while_away_postgres() {
    let change = "create extension seg; alter table bad add column s seg";
    altered_while_away(Postgres::shared(PgVersion::V18), change, "alter table bad drop column s", "extension seg");
}
