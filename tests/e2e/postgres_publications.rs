//! What a publication leaves out, and partitions: refused before anything is lost, noticed while the log is read.

use crossfade_harness::{Database, PgVersion, Postgres};

use crate::common::{PATIENCE, Pipeline, code};

fn databases(version: PgVersion, ddl: &str) -> (Database, Database) {
    let source = Postgres::shared(version).fresh_database("pub");
    source.sql(ddl);
    (source, Postgres::shared(PgVersion::V15).fresh_database("dst"))
}

/// Partitioned, with a level between.
const PARTED: &str = "\
    create table p (id int, d int, v text, primary key (id, d)) partition by range (d);\n\
    create table p1 partition of p for values from (0) to (10);\n\
    create table p2 partition of p for values from (10) to (20) partition by list (d);\n\
    create table p2a partition of p2 for values in (10, 11); create table p2b partition of p2 default;\n\
    create table plain (id int primary key);\n\
    insert into p select i, i % 20, 'v' || i from generate_series(1, 200) i";

/// Every operation, moves between partitions among them.
const CHANGES: &str = "\
    insert into p values (1000, 3, 'x'), (1001, 12, 'y'); update p set v = 'u' where id % 7 = 0;\n\
    update p set d = 15 where id = 3; delete from p where id = 11; create table p3 partition of p for values from (20) to (30);\n\
    insert into plain values (1); update p set id = id + 5000 where d = 4";

fn partitions_by_root_and_by_leaf(version: PgVersion) {
    for (leaf, tables) in [(false, 2), (true, 4)] {
        let (source, target) = databases(version, PARTED);
        let url = format!("{}{}", source.url(), if leaf { "?partitions=leaf" } else { "" });
        let pipeline = Pipeline::new("parts", &url, &[&target.url()]);
        pipeline.catch_up();
        source.sql(CHANGES);
        if !leaf {
            // A partition that was made while nobody looked is part of the root.
            source.sql("insert into p values (2000, 25, 'new')");
        }
        pipeline.catch_up();
        let sum = "select count(*), sum(id), sum(d), count(distinct v) from";
        match leaf {
            false => {
                assert_eq!(pipeline.verify_equal(), tables);
                assert_eq!(target.sql(&format!("{sum} p")), source.sql(&format!("{sum} p")));
            }
            true => {
                for table in ["p1", "p2a", "p2b"] {
                    assert_eq!(target.sql(&format!("{sum} {table}")), source.sql(&format!("{sum} {table}")), "{table}");
                }
                assert_eq!(target.sql("select count(*) from pg_class where relname = 'p'"), "0");
            }
        }
        assert!(pipeline.ended("uninstall", &[]).status.success());
    }
}

#[test]
fn partitions_by_root_and_by_leaf_15() {
    partitions_by_root_and_by_leaf(PgVersion::V15);
}

#[test]
fn partitions_by_root_and_by_leaf_18() {
    partitions_by_root_and_by_leaf(PgVersion::V18);
}

/// Runs, lets something happen, and waits for the error that suspends the table or ends the daemon.
fn noticed(pipeline: &Pipeline, happens: impl Fn(), words: &[&str]) {
    let mut daemon = pipeline.command("run", &[]).start();
    daemon.wait_for("starting", PATIENCE);
    let caught_up = pipeline.ended("catch-up", &["--timeout", "200s"]);
    assert_eq!(code(&caught_up), 0, "{}", caught_up.stderr);
    happens();
    for word in words {
        daemon.wait_for(word, PATIENCE);
    }
    drop(daemon.kill());
}

fn partitions_that_come_with_rows_or_go(version: PgVersion) {
    let (source, target) = databases(version, PARTED);
    let pipeline = Pipeline::new("attach", &source.url(), &[&target.url()]);
    pipeline.catch_up();
    let cases = [
        (
            "create table loose (id int, d int, v text, primary key (id, d)); insert into loose values (1, 30, 'loose');\n\
             create table made partition of p for values from (40) to (50); insert into made values (1, 40, 'm');\n\
             alter table p attach partition loose for values from (30) to (40)",
            "loose was attached with rows",
            "select 1",
        ),
        ("alter table p detach partition p1", "p1 was detached", "drop table p1"),
        ("drop table p2a", "p2a was dropped", "select 1"),
    ];
    for (sql, what, then) in cases {
        noticed(&pipeline, || drop(source.sql(sql)), &[what, "crossfade snapshot public.p"]);
        assert!(pipeline.ended("snapshot", &["p"]).status.success());
        source.sql(then);
        pipeline.catch_up();
        assert_eq!(pipeline.verify_equal(), 2);
    }
}

#[test]
fn partitions_that_come_with_rows_or_go_15() {
    partitions_that_come_with_rows_or_go(PgVersion::V15);
}

#[test]
fn partitions_that_come_with_rows_or_go_18() {
    partitions_that_come_with_rows_or_go(PgVersion::V18);
}

fn tables_that_leave_a_publication(version: PgVersion) {
    let ddl = "create table t (id int primary key); create table u (id int primary key); create publication all_of_it";
    let (source, target) = databases(version, ddl);
    let pipeline = Pipeline::new("leave", &format!("{}?publication=all_of_it", source.url()), &[&target.url()]);
    pipeline.catch_up();
    let leave = || drop(source.sql("alter publication all_of_it drop table t; insert into t values (1)"));
    noticed(&pipeline, leave, &["table public.t is not in it", "ADD TABLE", "crossfade snapshot public.t"]);
    // Taken in again, copied again.
    assert!(pipeline.ended("snapshot", &["t"]).status.success());
    let back = || {
        source.sql(
            "alter publication all_of_it drop table t; insert into t values (2); alter publication all_of_it add table t",
        );
    };
    noticed(&pipeline, back, &["left the publication for a while"]);
    assert!(pipeline.ended("snapshot", &["t"]).status.success());
    // Tables that are not carried may come and go; one that is dropped has no more changes.
    source.sql("create table more (id int primary key); alter publication all_of_it add table more; insert into more values (1)");
    pipeline.catch_up();
    assert_eq!(target.sql("select count(*) from t"), "2");
}

#[test]
fn tables_that_leave_a_publication_15() {
    tables_that_leave_a_publication(PgVersion::V15);
}

#[test]
fn tables_that_leave_a_publication_18() {
    tables_that_leave_a_publication(PgVersion::V18);
}

#[test]
fn publications_that_leave_something_out() {
    for (made, words) in [
        ("for all tables with (publish = 'insert, update')", ["all operations", "insert, update, delete, truncate"]),
        ("for table t where (id > 5), u", ["leaves out rows of table public.t: WHERE", "DROP TABLE"]),
        ("for table t (id), u", ["leaves out columns of table public.t: v", "DROP TABLE"]),
    ] {
        let (source, target) = databases(
            PgVersion::V18,
            "create table t (id int primary key, v text); create table u (id int primary key); insert into t values (1, 'x')",
        );
        source.sql(&format!("create publication odd {made}"));
        let pipeline = Pipeline::new("odd", &format!("{}?publication=odd", source.url()), &[&target.url()]);
        let check = pipeline.ended("check", &[]);
        assert_eq!(code(&check), 2, "{}", check.stdout);
        for word in words {
            assert!(check.stdout.contains(word), "{word:?} is missing: {}", check.stdout);
        }
        assert_eq!(code(&pipeline.ended("run", &["--until-caught-up"])), 78);
        // Without that table it is fine, where it is about a table.
        if made.contains("for table") {
            let others = pipeline.tables(&["u"]);
            others.catch_up();
            assert_eq!(others.verify_equal(), 1);
        }
    }
}

#[test]
fn for_all_tables_is_adopted() {
    let (source, target) = databases(PgVersion::V15, PARTED);
    source.sql("create publication everything for all tables");
    let pipeline = Pipeline::new("all", &format!("{}?publication=everything", source.url()), &[&target.url()]);
    let check = pipeline.ended("check", &[]);
    assert!(check.stdout.contains("publish_via_partition_root = true"), "{}", check.stdout);
    source.sql("alter publication everything set (publish_via_partition_root = true)");
    pipeline.catch_up();
    source.sql(CHANGES);
    pipeline.catch_up();
    assert_eq!(pipeline.verify_equal(), 2);
}

#[test]
fn a_partition_of_another_identity() {
    let (source, target) = databases(PgVersion::V18, PARTED);
    source.sql("alter table p1 replica identity nothing");
    let pipeline = Pipeline::new("ident", &source.url(), &[&target.url()]);
    let check = pipeline.ended("check", &[]);
    assert_eq!(code(&check), 2, "{}", check.stdout);
    assert!(check.stdout.contains("public.p1 has another REPLICA IDENTITY"), "{}", check.stdout);
}
