//! Values that no target holds, under policies that let them pass: by copy and by stream, on real servers. That each stops without
//! its policy, and that the hint names the policy, is in `refused.rs`.
//!
//! One table a source, a column for each case. What is at the target, what is kept of the originals, what `verify` and `status`
//! count: after the copy, after inserts, updates and deletes, after a table is copied again, after a repair.

use std::fmt::Write as _;
use std::path::Path;

use crossfade_harness::{Database, MariaDb, MySql, PgVersion, Postgres};
use serde_json::{Value, json};

use crate::common::{Pipeline, code, folder};
use crate::lab::{PSQL, Site, column};
use crate::{mysql, postgres, sqlite};

/// A column, and a value of it that a policy lets pass.
pub struct Case {
    declared: &'static str,
    /// The policy, as the configuration has it.
    policy: (&'static str, &'static str),
    /// An expression of the source's that gives the value.
    value: &'static str,
    /// One that gives a value that every target holds.
    fine: &'static str,
    /// What psql prints of it at the target.
    arrives: &'static str,
    /// What is kept: text, or bytes in hexadecimal.
    original: &'static str,
}

const ZERO_DATE: (&str, &str) = ("zero_date", "null");

const OF_THE_FAMILY: [Case; 7] = [
    Case {
        declared: "date NOT NULL",
        policy: ZERO_DATE,
        value: "'0000-00-00'",
        fine: "'2024-02-29'",
        arrives: "NULL",
        original: "0000-00-00",
    },
    Case {
        declared: "date",
        policy: ZERO_DATE,
        value: "'2024-00-10'",
        fine: "NULL",
        arrives: "NULL",
        original: "2024-00-10",
    },
    Case {
        declared: "datetime(3) NOT NULL",
        policy: ZERO_DATE,
        value: "'2024-02-00 10:00:00.125'",
        fine: "'2024-02-29 10:00:00.125'",
        arrives: "NULL",
        original: "2024-02-00 10:00:00.125000",
    },
    Case {
        declared: "timestamp NULL",
        policy: ZERO_DATE,
        value: "'0000-00-00 00:00:00'",
        fine: "'2024-02-29 10:00:00'",
        arrives: "NULL",
        original: "0000-00-00 00:00:00",
    },
    Case {
        declared: "enum('a','b') NOT NULL",
        policy: ("invalid_enum", "null"),
        value: "'no label'",
        fine: "'b'",
        arrives: "NULL",
        original: "",
    },
    Case {
        declared: "varchar(9) NOT NULL",
        policy: ("nul_byte", "remove"),
        value: "CONCAT('a', CHAR(0), 'b')",
        fine: "'ab'",
        arrives: "ab",
        original: "610062",
    },
    // Text in utf8mb4 the servers look at, whatever way it comes. In ucs2 they take halves of surrogate pairs for characters.
    Case {
        declared: "varchar(9) CHARACTER SET ucs2",
        policy: ("invalid_text", "replace"),
        value: "_ucs2 X'0041D800'",
        fine: "'A'",
        arrives: "A\u{fffd}",
        original: "0041d800",
    },
];

const OF_POSTGRES: [Case; 3] = [
    Case {
        declared: "numeric(10,2) NOT NULL",
        policy: ("nan", "null"),
        value: "'NaN'",
        fine: "1.5",
        arrives: "NULL",
        original: "NaN",
    },
    Case {
        declared: "timestamp",
        policy: ("out_of_range", "null"),
        value: "'294276-12-31 23:59:59.5'",
        fine: "'infinity'",
        arrives: "NULL",
        original: "294276-12-31 23:59:59.500000",
    },
    Case {
        declared: "timestamptz NOT NULL",
        policy: ("out_of_range", "null"),
        value: "'294276-12-31 00:00:00+00'",
        fine: "'-infinity'",
        arrives: "NULL",
        original: "294276-12-31 00:00:00+00",
    },
];

const OF_SQLITE: [Case; 2] = [
    Case {
        declared: "TEXT NOT NULL",
        policy: ("invalid_text", "replace"),
        value: "CAST(X'61ff' AS TEXT)",
        fine: "'a'",
        arrives: "a\u{fffd}",
        original: "61ff",
    },
    Case {
        declared: "TEXT",
        policy: ("nul_byte", "remove"),
        value: "'a' || char(0) || 'b'",
        fine: "'ab'",
        arrives: "ab",
        original: "610062",
    },
];

/// A table of a source, and where it goes.
struct Scene<'a> {
    site: &'a dyn Site,
    target: &'a Database,
    schema: &'a str,
    cases: &'a [Case],
    folder: &'a Path,
}

impl Scene<'_> {
    /// The pipeline, with the policies of all cases or with none.
    fn pipeline(&self, passing: bool) -> Pipeline {
        let path = self.folder.join("pipeline.toml");
        let mut text = format!(
            "name = \"policies-{}\"\n[source]\nurl = {:?}\ntables = [\"t\"]\n[[target]]\nurl = {:?}\n",
            self.target.name(),
            self.site.url(),
            self.target.url()
        );
        for (i, case) in self.cases.iter().enumerate().filter(|_| passing) {
            let (policy, action) = case.policy;
            writeln!(text, "[[policy]]\ntables = \"*.t\"\ncolumns = [{:?}]\n{policy} = {action:?}", column(i))
                .expect("a String takes any text");
        }
        std::fs::write(&path, text).expect("the configuration");
        Pipeline::configured(&path)
    }

    fn list(&self, of: fn(&Case) -> &'static str) -> String {
        self.cases.iter().map(|c| format!(", {}", of(c))).collect()
    }

    fn insert(&self, id: u8, of: fn(&Case) -> &'static str) {
        let columns: String = (0..self.cases.len()).map(|i| format!(", {}", column(i))).collect();
        self.site.run(&format!("INSERT INTO t (id, n{columns}) VALUES ({id}, 0{});", self.list(of)));
    }

    fn update(&self, id: u8, of: fn(&Case) -> &'static str) {
        let sets: Vec<String> =
            self.cases.iter().enumerate().map(|(i, c)| format!("{} = {}", column(i), of(c))).collect();
        self.site.run(&format!("UPDATE t SET {} WHERE id = {id};", sets.join(", ")));
    }

    /// After a catch-up: these rows have the values that the policies change, those have others; everything counts that.
    fn holds(&self, pipeline: &Pipeline, changed: &[u8], fine: &[u8]) {
        let schema = self.schema;
        let rows = |query: &str| self.target.sql(&format!("{PSQL}{query}"));
        for (i, case) in self.cases.iter().enumerate() {
            let (c, (policy, action)) = (column(i), case.policy);
            let arrived = rows(&format!("select id, {c} from \"{schema}\".t order by id"));
            for id in changed {
                let line = format!("{id}\t{}", case.arrives);
                assert!(arrived.lines().any(|l| l == line), "{} {policy} = {action}: {arrived}", case.value);
            }
            for id in fine {
                assert!(arrived.lines().any(|l| l.starts_with(&format!("{id}\t"))), "{arrived}");
            }
            let kept = rows(&format!(
                "select key->>'id', policy, coalesce(original, encode(original_bytes, 'hex')) from crossfade.original \
                 where table_schema = '{schema}' and table_name = 't' and column_name = '{c}' and position <> '' order by 1"
            ));
            let wanted: Vec<String> = changed.iter().map(|id| format!("{id}\t{policy}\t{}", case.original)).collect();
            assert_eq!(kept.trim_end_matches('\n'), wanted.join("\n"), "{}", case.value);
        }
        let proof = pipeline.json("verify", &["--totals"]);
        assert_eq!(proof["verdict"], "equal", "{proof:#}");
        // Rows, id and n; of what the policies changed the source's server knows nothing.
        assert_eq!(proof["tables"][0]["totals"], json!({"compared": 5}), "{proof:#}");
        let status = pipeline.json("status", &[]);
        let counted: Vec<Value> = if changed.is_empty() { vec![] } else { self.counted(changed.len()) };
        let of_status: Vec<Value> = counted.iter().map(|c| with(c, "table", &format!("{schema}.t"))).collect();
        assert_eq!(*list(&proof["tables"][0], "changed"), counted, "{proof:#}");
        assert_eq!(*list(&status["view"]["targets"][0], "changed"), of_status, "{status:#}");
    }

    /// Tables and columns of which `check --scan` finds something critical.
    fn scanned(&self, passing: bool) -> Vec<String> {
        let report = self.pipeline(passing).json("check", &["--scan"]);
        let critical = list(&report, "findings").iter().filter(|f| f["level"] == "critical");
        critical.map(|f| f["setting"].as_str().expect("text").to_owned()).collect()
    }

    fn counted(&self, values: usize) -> Vec<Value> {
        let one = |(i, c): (usize, &Case)| json!({"column": column(i), "policy": c.policy.0, "values": values});
        self.cases.iter().enumerate().map(one).collect()
    }
}

fn list<'a>(of: &'a Value, key: &str) -> &'a Vec<Value> {
    static NONE: Vec<Value> = Vec::new();
    of.get(key).map_or(&NONE, |v| v.as_array().expect("a list"))
}

fn with(object: &Value, key: &str, text: &str) -> Value {
    let mut object = object.clone();
    object[key] = text.into();
    object
}

/// Copy, stream, copy again, repair; with the policies taken back in between. `sparing` makes a session's log leave out what did not
/// change.
fn each(site: &dyn Site, target: &Database, schema: &str, cases: &[Case], sparing: &str) {
    let (_keep, folder) = folder();
    let s = Scene { site, target, schema, cases, folder: &folder };
    let columns: String = cases.iter().enumerate().map(|(i, c)| format!(", {} {}", column(i), c.declared)).collect();
    site.run(&format!("CREATE TABLE t (id int PRIMARY KEY, n int{columns});"));
    s.insert(1, |c| c.fine);
    s.insert(7, |c| c.value);
    // A scan finds all of them at once, and none where policies let them pass.
    let found = s.scanned(false);
    assert!(
        (0..cases.len()).all(|i| found.iter().any(|f| f.ends_with(&format!(".t, column {}", column(i))))),
        "{found:?}"
    );
    assert_eq!(s.scanned(true), [""; 0]);
    // The table is made as the source has it; then the policies come.
    assert_eq!(code(&s.pipeline(false).ended("run", &["--until-caught-up"])), 65);
    let p = s.pipeline(true);
    p.catch_up();
    s.holds(&p, &[7], &[1]);
    let told = p.ended("verify", &[]).stdout;
    assert!(told.contains("the originals are in crossfade.original"), "{told}");
    s.insert(8, |c| c.value);
    s.update(1, |c| c.value);
    s.update(7, |c| c.fine);
    p.catch_up();
    s.holds(&p, &[1, 8], &[7]);
    // Other columns, deletes, a key that moves.
    site.run(&format!("{sparing}UPDATE t SET n = n + 1 WHERE id = 1;"));
    site.run("UPDATE t SET id = 6 WHERE id = 8;");
    s.insert(5, |c| c.value);
    p.catch_up();
    s.holds(&p, &[1, 5, 6], &[7]);
    site.run("DELETE FROM t WHERE id = 5;");
    // Taken back, such a value stops the stream; set again, it passes.
    s.insert(4, |c| c.value);
    let stopped = s.pipeline(false).ended("run", &["--until-caught-up"]);
    assert_eq!(code(&stopped), 65, "{}", stopped.stderr);
    assert!(stopped.stderr.contains("[[policy]]"), "{}", stopped.stderr);
    let p = s.pipeline(true);
    p.catch_up();
    s.holds(&p, &[1, 4, 6], &[7]);
    // An original that is gone is a difference.
    target.sql("delete from crossfade.original where key->>'id' = '4'");
    let proof = p.json("verify", &[]);
    assert_eq!(proof["verdict"], "different", "{proof:#}");
    assert!(proof["tables"][0]["error"].as_str().expect("text").contains("originals"), "{proof:#}");
    let again = p.ended("snapshot", &["t"]);
    assert!(again.status.success(), "{}", again.stderr);
    p.catch_up();
    s.holds(&p, &[1, 4, 6], &[7]);
    // A repair writes rows with what they had.
    target.sql(&format!("update \"{schema}\".t set n = 99; delete from \"{schema}\".t where id = 4"));
    let told = p.json("repair", &["--apply"]);
    assert_eq!(told["proof"]["verdict"], "equal", "{told:#}");
    s.holds(&p, &[1, 4, 6], &[7]);
    site.run("DELETE FROM t WHERE id <> 7;");
    p.catch_up();
    s.holds(&p, &[], &[7]);
    assert!(p.ended("uninstall", &[]).status.success());
}

const MINIMAL: &str = "SET SESSION binlog_row_image = 'MINIMAL'; ";

#[test]
fn policies_of_mysql() {
    let source = MySql::shared().fresh_database("policies");
    let target = Postgres::shared(PgVersion::V15).fresh_database("policies");
    each(&mysql::Server { database: &source }, &target, source.name(), &OF_THE_FAMILY, MINIMAL);
}

#[test]
fn policies_of_mariadb() {
    let source = MariaDb::shared().fresh_database("policies");
    let target = Postgres::shared(PgVersion::V18).fresh_database("policies");
    each(&mysql::Server { database: &source }, &target, source.name(), &OF_THE_FAMILY, MINIMAL);
}

#[test]
fn policies_of_postgres() {
    let source = Postgres::shared(PgVersion::V18).fresh_database("policies");
    let target = Postgres::shared(PgVersion::V15).fresh_database("policies");
    each(&postgres::Server { database: &source }, &target, "public", &OF_POSTGRES, "");
}

#[test]
fn policies_of_sqlite() {
    let (_keep, folder) = folder();
    let target = Postgres::shared(PgVersion::V18).fresh_database("policies");
    each(&sqlite::File::new(&folder), &target, "public", &OF_SQLITE, "");
}
