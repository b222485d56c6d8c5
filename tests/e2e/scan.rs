//! `check --scan`: one of each trouble, seeded on real servers, and each is found by table, column and key; a clean database has
//! none. What the scan finds is what `run` stops at.

use crossfade_harness::{Client, Database, MariaDb, MySql, PgVersion, Postgres, python};
use serde_json::Value;

use crate::common::{Pipeline, code, folder};

/// What `check --scan` says of a pipeline, and its exit code.
fn scan(pipeline: &Pipeline) -> (Value, i32) {
    let ended = pipeline.ended("check", &["--scan", "--json"]);
    let report = serde_json::from_str(&ended.stdout)
        .unwrap_or_else(|e| panic!("no JSON ({e}): {}\n{}", ended.stdout, ended.stderr));
    (report, code(&ended))
}

/// One finding: level, end, setting (its last part), and words of what is said, in any of its fields.
type Found<'a> = (&'a str, &'a str, &'a str, &'a [&'a str]);

fn assert_found(report: &Value, wanted: &[Found<'_>]) {
    let findings = report["findings"].as_array().expect("findings");
    let text = |f: &Value, field: &str| f[field].as_str().expect("text").to_owned();
    for (level, end, setting, words) in wanted {
        let fits = |f: &&Value| {
            let said = format!("{} {} {}", text(f, "expected"), text(f, "actual"), text(f, "fix"));
            text(f, "level") == *level
                && text(f, "end") == *end
                && text(f, "setting").ends_with(setting)
                && words.iter().all(|w| said.contains(w))
        };
        let found = findings.iter().filter(fits).count();
        assert_eq!(found, 1, "{level} at {end}, {setting}: {words:?} {found} times in {report:#}");
    }
}

/// Tables and columns with something critical to say of their values.
fn critical(report: &Value) -> Vec<String> {
    let findings = report["findings"].as_array().expect("findings").iter();
    let settings =
        findings.filter(|f| f["level"] == "critical").map(|f| f["setting"].as_str().expect("text").to_owned());
    settings.collect()
}

/// Nothing but what concerns servers, not tables.
fn assert_clean(report: &Value) {
    let findings = report["findings"].as_array().expect("findings").iter();
    let bad: Vec<&Value> = findings
        .filter(|f| f["level"] != "ok" && f["setting"].as_str().is_some_and(|s| s.starts_with("table")))
        .collect();
    assert!(bad.is_empty(), "{bad:#?}");
    assert!(critical(report).is_empty(), "{report:#}");
}

const OF_THE_FAMILY: &str = "
    set session sql_mode = '';
    create table dates (id int primary key, d date, at datetime(3), ts timestamp null);
    insert into dates values (1, '2024-02-29', now(), now()), (2, '0000-00-00', now(), now()), (3, '2024-00-10', now(), now()),
        (4, '2024-01-01', '2024-02-00 10:00:00', now()), (5, '2024-01-01', now(), '0000-00-00 00:00:00');
    create table texts (id int primary key, e enum('a','b'), u varchar(9) character set ucs2, n varchar(9), j int);
    insert into texts values (1, 'a', 'x', 'x', 1), (2, 'none', 'x', 'x', 1), (3, 'b', _ucs2 X'D800', 'x', 1),
        (4, 'b', 'x', concat('a', char(0), 'b'), 1), (5, 'none', _ucs2 X'0041D801', concat('a', char(0)), 1);
    create table wide (k varbinary(3000) primary key) charset latin1;
    insert into wide values (repeat('k', 2900)), ('k');
    create table fine (id int primary key, d date, t varchar(20));
    insert into fine values (1, '2024-02-29', 'x'), (2, null, null);";

fn of_the_family(source: &Database, target: &Database) {
    source.sql(OF_THE_FAMILY);
    let pipeline = Pipeline::new("scan", &source.url(), &[&target.url()]);
    let (report, exit) = scan(&pipeline);
    assert_eq!(exit, 2, "{report:#}");
    let correct = "correct the value at the source";
    assert_found(
        &report,
        &[
            (
                "critical",
                "source",
                ".dates, column d",
                &["0000-00-00 is not a date of the calendar: 2 rows of 5: id=2; id=3", correct],
            ),
            ("critical", "source", ".dates, column at", &["2024-02-00 is not a date", ": 1 row of 5: id=4", correct]),
            ("critical", "source", ".dates, column ts", &["0000-00-00", ": 1 row of 5: id=5", correct]),
            ("critical", "source", ".texts, column e", &["index 0", ": 2 rows of 5: id=2; id=5", correct]),
            ("critical", "source", ".texts, column u", &["not characters", ": 2 rows of 5: id=3; id=5", correct]),
            ("critical", "target", ".texts, column n", &["NUL character", ": 2 rows of 5: id=4; id=5", "REPLACE"]),
            ("warning", "target", ".wide, column k", &["2900 bytes in the key", ": 1 row of 2: "]),
            ("ok", "source", ".fine, values", &["2 rows, each can be carried"]),
        ],
    );
    let scanned = &report["scanned"];
    assert_eq!((scanned["tables"].as_u64(), scanned["rows"].as_u64()), (Some(4), Some(14)), "{scanned}");
    // What is not said is carried: the tables that have nothing critical run through.
    let rest = Pipeline::new("scan", &source.url(), &[&target.url()]).tables(&["fine", "wide"]);
    assert!(critical(&scan(&rest).0).is_empty());
    rest.level(2);
}

#[test]
fn values_of_mysql() {
    let source = MySql::shared().fresh_database("scan");
    of_the_family(&source, &Postgres::shared(PgVersion::V18).fresh_database("scan"));
}

#[test]
fn values_of_mariadb() {
    let source = MariaDb::shared().fresh_database("scan");
    of_the_family(&source, &Postgres::shared(PgVersion::V15).fresh_database("scan"));
}

#[test]
fn values_of_postgres() {
    let (_keep, lake) = folder();
    for version in [PgVersion::V15, PgVersion::V18] {
        let server: &Client = Postgres::shared(version);
        let (source, target) = (server.fresh_database("scan"), server.fresh_database("scan"));
        source.sql(
            "create table odd (id int primary key, n numeric(10,2), m numeric, t timestamp, z timestamptz, d date);
             insert into odd values (1, 1, 'NaN', '2024-01-01', '2024-01-01', '2024-01-01'),
                 (2, 'NaN', 1, '294276-12-31', '294276-12-31 00:00:00+00', '2024-01-01'),
                 (3, 'NaN', 1, 'infinity', '-infinity', 'infinity'), (4, 1, 1, '0044-03-15 BC', null, '10000-01-01');
             create table fine (id int primary key, d date); insert into fine values (1, '2024-01-01')",
        );
        let target_url = format!("file://{}", lake.join(source.name()).display());
        let pipeline = Pipeline::new("scan", &source.url(), &[&target.url(), &target_url]);
        let (report, exit) = scan(&pipeline);
        assert_eq!(exit, 2, "{report:#}");
        let late = "a time after the year 294246 is out of range: 1 row of 4: id=2";
        assert_found(
            &report,
            &[
                ("critical", "source", ".odd, column n", &["NaN is not a decimal(10,2): 2 rows of 4: id=2; id=3"]),
                ("critical", "source", ".odd, column t", &[late]),
                ("critical", "source", ".odd, column z", &[late]),
                ("warning", "target 2", ".odd, column d", &["infinite", ": 1 row of 4: id=3"]),
                ("warning", "target 2", ".odd, column d", &["after 9999", ": 1 row of 4: id=4"]),
                ("warning", "target 2", ".odd, column t", &["infinite", ": 1 row of 4: id=3"]),
                ("warning", "target 2", ".odd, column t", &["before the year 1", ": 1 row of 4: id=4"]),
                ("warning", "target 2", ".odd, column z", &["infinite", ": 1 row of 4: id=3"]),
                ("ok", "source", ".fine, values", &["1 rows, each can be carried"]),
            ],
        );
        source.sql("delete from odd where id in (2, 3, 4)");
        let (report, _) = scan(&Pipeline::new("scan", &source.url(), &[&target.url()]));
        assert_clean(&report);
    }
}

#[test]
fn values_of_sqlite() {
    let (_keep, folder) = folder();
    let path = folder.join("odd.sqlite");
    let script = "import sqlite3, sys\n\
        c = sqlite3.connect(sys.argv[1], isolation_level=None)\n\
        c.executescript('''\n\
            create table odd (id integer primary key, t text, n int);\n\
            insert into odd values (1, 'x', 1), (2, cast(x'61ff' as text), 2), (3, 'a' || char(0), 3), (4, 'y', 'four'),\n\
                (5, cast(x'ff' as text), 5);\n\
            create table fine (id integer primary key, t text);\n\
            insert into fine values (1, 'x');\n\
        ''')\n";
    python(script, &[path.to_str().expect("UTF-8")]);
    let target = Postgres::shared(PgVersion::V18).fresh_database("scan");
    let pipeline = Pipeline::new("scan", &format!("sqlite://{}", path.display()), &[&target.url()]);
    let (report, exit) = scan(&pipeline);
    assert_eq!(exit, 2, "{report:#}");
    assert_found(
        &report,
        &[
            ("critical", "source", "odd, column t", &["not UTF-8", ": 2 rows of 5: id=2; id=5", "AS BLOB"]),
            ("critical", "target", "odd, column t", &["NUL character", ": 1 row of 5: id=3"]),
            ("warning", "source", "odd.n", &["values of other types", "typeof"]),
            ("ok", "source", "fine, values", &["1 rows, each can be carried"]),
        ],
    );
    assert_clean(&scan(&pipeline.tables(&["fine"])).0);
}

/// What the target's own table, made beforehand, takes for one: by collation, by an index over an expression. And what it does not.
#[test]
fn keys_that_the_target_takes_for_one() {
    for version in [PgVersion::V15, PgVersion::V18] {
        let server: &Client = Postgres::shared(version);
        let (source, target) = (server.fresh_database("scan"), server.fresh_database("scan"));
        source.sql(
            "create table person (name text primary key, mail text not null unique, n int);
             insert into person values ('Anna', 'a@x', 1), ('ANNA', 'b@x', 2), ('Bert', 'B@x', 3), ('C', null_mail(), 4)"
                .replace("null_mail()", "'c@x'")
                .as_str(),
        );
        target.sql(
            "create collation alike (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
             create table person (name text collate alike primary key, mail text not null, n int);
             create unique index of_mail on person (lower(mail))",
        );
        let pipeline = Pipeline::new("scan", &source.url(), &[&target.url()]);
        let (report, exit) = scan(&pipeline);
        assert_eq!(exit, 2, "{report:#}");
        let rows = "takes these rows for equal: 2 rows of 4: ";
        assert_found(
            &report,
            &[
                (
                    "critical",
                    "target",
                    "table public.person",
                    &["index person_pkey", rows, "name=Anna and name=ANNA", "COLLATE"],
                ),
                ("critical", "target", "table public.person", &["index of_mail", rows, "name=ANNA and name=Bert"]),
            ],
        );
        source.sql("update person set name = 'Anne' where n = 2; update person set mail = 'd@x' where n = 3");
        assert!(critical(&scan(&pipeline).0).is_empty());
        assert_eq!(target.sql("select count(*) from person"), "0", "nothing was written");
        pipeline.level(1);
    }
}

const REFERENCES: &str = "
    create table parent (name varchar(20) primary key);
    create table child (id int primary key, parent varchar(20), constraint of_parent foreign key (parent) references parent (name));
    insert into parent values ('abc'), ('def');";

/// Rows that refer to nothing, or to another spelling, at which a target would stop at the end of the copy.
#[test]
fn references_that_break_of_mysql_and_mariadb() {
    for server in [&**MySql::shared() as &Client, &**MariaDb::shared()] {
        let (source, target) = (server.fresh_database("scan"), Postgres::shared(PgVersion::V18).fresh_database("scan"));
        source.sql(&format!(
            "{REFERENCES} insert into child values (1, 'abc'), (2, 'ABC'), (3, null);
             set session foreign_key_checks = 0; insert into child values (4, 'nobody')"
        ));
        broken_references(&Pipeline::new("scan", &source.url(), &[&target.url()]));
        source.sql("update child set parent = 'abc' where id = 2; delete from child where id = 4");
        let pipeline = Pipeline::new("mended", &source.url(), &[&target.url()]);
        assert!(critical(&scan(&pipeline).0).is_empty());
        pipeline.level(2);
    }
}

#[test]
fn references_that_break_of_sqlite() {
    let (_keep, folder) = folder();
    let path = folder.join("references.sqlite");
    let script = format!(
        "import sqlite3, sys\nc = sqlite3.connect(sys.argv[1], isolation_level=None)\nc.executescript('''{}\n\
         insert into child values (1, 'abc'), (2, 'ABC'), (3, null), (4, 'nobody');''')\n",
        REFERENCES.replace("primary key);", "collate nocase primary key);").replace("id int", "id integer")
    );
    python(&script, &[path.to_str().expect("UTF-8")]);
    let target = Postgres::shared(PgVersion::V15).fresh_database("scan");
    broken_references(&Pipeline::new("scan", &format!("sqlite://{}", path.display()), &[&target.url()]));
}

fn broken_references(pipeline: &Pipeline) {
    let (report, exit) = scan(pipeline);
    assert_eq!(exit, 2, "{report:#}");
    let findings = report["findings"].as_array().expect("findings").iter();
    let of_keys = |f: &&Value| f["setting"].as_str().is_some_and(|s| s.contains("child, foreign key "));
    let said: Vec<String> = findings.filter(of_keys).map(|f| format!("{} {}", f["level"], f["actual"])).collect();
    assert_eq!(said.len(), 1, "{report:#}");
    for words in ["critical", "1 refer to no row, 1 to a text that differs", "id=2; id=4"] {
        assert!(said[0].contains(words), "{words}: {}", said[0]);
    }
}

/// What is declared, and no value shows: names, triggers, generated columns, defaults, tables without a key, cascades.
#[test]
fn what_is_declared_at_mysql_and_mariadb() {
    let long = "n".repeat(64);
    for (server, mariadb) in [(&**MySql::shared() as &Client, false), (&**MariaDb::shared(), true)] {
        let (source, target) = (server.fresh_database("scan"), Postgres::shared(PgVersion::V18).fresh_database("scan"));
        source.sql(&format!(
            "create table t (id int primary key, a int, g int as (a + 1) stored, d varchar(40) default (concat('a', 'b')));
             create trigger noisy before insert on t for each row set new.a = 1;
             create table bag (a int); create table named (id int primary key, {long} int);
             create table c (id int primary key, t int, constraint away foreign key (t) references t (id) on delete cascade)"
        ));
        let report = scan(&Pipeline::new("scan", &source.url(), &[&target.url()])).0;
        assert_found(
            &report,
            &[
                (
                    "warning",
                    "source",
                    ".t, not carried",
                    &["trigger noisy BEFORE INSERT", "generation of column g", "default "],
                ),
                ("warning", "source", ".bag", &["no primary key", "ADD PRIMARY KEY"]),
                ("critical", "target", ".named", &["64 bytes; Postgres takes 1 to 63", "shorter name"]),
                ("ok", "source", "binlog_expire_logs_seconds", &[]),
            ],
        );
        let cascades =
            report["findings"].as_array().expect("findings").iter().filter(|f| f["setting"] == "foreign keys");
        assert_eq!(cascades.count(), usize::from(mariadb), "MySQL 9.6 and later log them: {report:#}");
    }
}

#[test]
fn what_is_declared_at_postgres() {
    for version in [PgVersion::V15, PgVersion::V18] {
        let server: &Client = Postgres::shared(version);
        let (source, target) = (server.fresh_database("scan"), server.fresh_database("scan"));
        let (_keep, lake) = folder();
        source.sql(
            "create table t (id int primary key, a int, g int generated always as (a + 1) stored, body text, short varchar(40));
             create function noisy() returns trigger language plpgsql as 'begin return new; end';
             create trigger \"too noisy\" before insert or update on t for each row execute function noisy();
             insert into t (id, body) select 1, string_agg(md5(i::text), '') from generate_series(1, 1000) i;
             create table whole (id int primary key, body text); alter table whole replica identity full;
             create table part (id int primary key, body jsonb) partition by range (id);
             create table part1 partition of part for values from (0) to (10)",
        );
        let lake = format!("file://{}", lake.join("lake").display());
        let report = scan(&Pipeline::new("scan", &source.url(), &[&target.url(), &lake])).0;
        let full = "REPLICA IDENTITY FULL";
        assert_found(
            &report,
            &[
                ("warning", "source", ".t, not carried", &["trigger too noisy BEFORE INSERT OR UPDATE"]),
                ("warning", "source", "table public.t", &["generated columns", "g"]),
                (
                    "warning",
                    "source",
                    "t, large values of body",
                    &["stops the pipeline", "ALTER TABLE \"public\".\"t\"", full],
                ),
                ("warning", "source", "part, large values of body", &["ALTER TABLE \"public\".\"part1\"", full]),
                ("ok", "source", "max_replication_slots", &["free"]),
                ("ok", "source", "max_wal_senders", &["free"]),
            ],
        );
        let large = |report: &Value| report.to_string().matches("large values of").count();
        assert_eq!(large(&report), 2, "{report:#}");
        // A target that holds the latest state keeps what an update leaves alone.
        assert_eq!(large(&scan(&Pipeline::new("scan", &source.url(), &[&target.url()])).0), 0);
    }
}

#[test]
fn a_history_needs_whole_rows_in_the_log() {
    let server = MySql::start(crossfade_harness::Options::new().set("binlog_row_image", "MINIMAL"));
    let source = server.fresh_database("scan");
    source.sql("create table t (id int primary key, a int)");
    let target = Postgres::shared(PgVersion::V18).fresh_database("scan");
    let (_keep, lake) = folder();
    let lake = format!("file://{}", lake.display());
    let image = "binlog_row_image";
    let (report, exit) = scan(&Pipeline::new("scan", &source.url(), &[&lake]));
    assert_eq!(exit, 2, "{report:#}");
    assert_found(&report, &[("critical", "source", image, &["MINIMAL", "SET PERSIST binlog_row_image = 'FULL'"])]);
    let report = scan(&Pipeline::new("scan", &source.url(), &[&target.url()])).0;
    assert_found(&report, &[("warning", "source", image, &["MINIMAL"])]);
    assert!(critical(&report).is_empty(), "{report:#}");
}

/// Routes and rules that leave no table its own name: all of them are told, and the rest is looked at all the same.
#[test]
fn names_that_collide_after_the_rules() {
    let source = MariaDb::shared().fresh_database("scan");
    source.sql(
        "create table a (id int primary key); create table b (id int primary key); \
         create table c (id int primary key, x int, y int); create table d (id int primary key)",
    );
    let target = Postgres::shared(PgVersion::V15).fresh_database("scan");
    let (_keep, folder) = folder();
    let (path, name) = (folder.join("collide.toml"), source.name());
    let text = format!(
        "name = \"collide-{name}\"\n[source]\nurl = \"{}\"\n[[target]]\nurl = \"{}\"\n\
         [[route]]\nfrom = \"{name}.b\"\nto = \"{name}.a\"\n[[column]]\ntables = \"{name}.c\"\nrename = {{ x = \"y\" }}\n",
        source.url(),
        target.url()
    );
    std::fs::write(&path, text).expect("writing");
    let (report, exit) = scan(&Pipeline::configured(&path));
    assert_eq!(exit, 2, "{report:#}");
    let rules = "routes and column rules";
    let both = format!("tables {name}.a and {name}.b would both become {name}.a");
    assert_found(
        &report,
        &[
            ("critical", "source", rules, &[&both, "[[route]] of its own"]),
            ("critical", "source", rules, &["two columns would be named y", "rename rule"]),
            ("ok", "source", ".d, values", &["0 rows"]),
        ],
    );
    // Names that only Athena cannot tell apart.
    let server: &Client = Postgres::shared(PgVersion::V15);
    let source = server.fresh_database("scan");
    source.sql("create table item (id int primary key); create table \"Item\" (id int primary key)");
    let lake = format!("file://{}", folder.join("lake").display());
    let report = scan(&Pipeline::new("scan", &source.url(), &[&lake])).0;
    assert_found(&report, &[("warning", "target", "table public.item", &["more than case", "[[route]]"])]);
}
