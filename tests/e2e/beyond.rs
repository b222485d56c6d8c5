//! What proofs say beyond rows, on real servers: figures of `[[aggregate]]`, references and sequences at the target; and samples of rows.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crossfade::ledger::Event;
use crossfade::verify::beyond::Outcome;
use crossfade_harness::{Client, Database, MariaDb, MySql, PgVersion, Postgres};
use serde_json::Value;

use crate::common::{PATIENCE, code, folder, while_writing};
use crate::differences::at_ease;
use crate::ledger::Kept;
use crate::sqlite_to_parquet::sqlite;

/// A figure of the configuration.
fn aggregate(name: &str, source: &str, target: &str, bounds: &str) -> String {
    format!("[[aggregate]]\nname = \"{name}\"\nsource = \"{source}\"\ntarget = \"{target}\"\n{bounds}\n")
}

/// What a command printed as JSON, and its exit code.
fn told(kept: &Kept, command: &str, more: &[&str]) -> (Value, i32) {
    let ended = kept.ended(command, &[&["--json"], more].concat());
    let value = serde_json::from_str(&ended.stdout)
        .unwrap_or_else(|e| panic!("{command} printed no JSON ({e}): {}\n{}", ended.stdout, ended.stderr));
    (value, code(&ended))
}

/// Every table is the same on both sides, whatever is said beyond rows.
fn rows_are_equal(proof: &Value) {
    let tables = proof["tables"].as_array().expect("tables");
    assert!(!tables.is_empty() && tables.iter().all(|t| t["verdict"] == "equal"), "{proof:#}");
}

fn outcomes(proof: &Value) -> Vec<(&str, &str)> {
    let all = proof["aggregates"].as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().map(|a| (a["name"].as_str().expect("a name"), a["outcome"].as_str().expect("an outcome"))).collect()
}

/// What `check` says of figures: at which end, how bad, and what.
fn of_figures(kept: &Kept) -> Vec<(String, String, String)> {
    let (report, _) = told(kept, "check", &[]);
    let text = |f: &Value, key: &str| f[key].as_str().expect("text").to_owned();
    let findings = report["findings"].as_array().expect("findings").iter();
    let findings = findings.filter(|f| text(f, "setting").starts_with("aggregate "));
    findings.map(|f| (text(f, "end"), text(f, "level"), text(f, "actual"))).collect()
}

/// Figures of a table `deal` with 100 rows, at a source and at a target, by the names that it has there.
fn figures(folder: &Path, from: &str, to: &Database, ours: &str, theirs: &str) {
    let sum = |table: &str, more: &str| format!("SELECT sum(amount){more} FROM {table}");
    let figure = |name: &str, more: &str, bounds: &str| aggregate(name, &sum(ours, ""), &sum(theirs, more), bounds);
    let within = "warning = \"1.00\"\ncritical = \"1000\"";
    let nothing = |table: &str| format!("SELECT max(id) FROM {table} WHERE id < 0");
    let well = [
        figure("exact", "", ""),
        figure("near", " + 0.50", within),
        aggregate("text", &format!("SELECT max(name) FROM {ours};"), &format!("SELECT max(name) FROM {theirs}"), ""),
        aggregate("none", &nothing(ours), &nothing(theirs), ""),
    ]
    .concat();
    let kept = Kept::new(folder, from, &to.url(), &well);
    let before = of_figures(&kept);
    assert!(
        before.iter().all(|(end, level, actual)| (end == "source" && level == "ok")
            || (end == "target" && level == "warning" && actual.starts_with("not tried"))),
        "{before:?}"
    );
    assert_eq!(code(&kept.ended("run", &["--until-caught-up"])), 0);
    let after = of_figures(&kept);
    assert!(after.len() == 8 && after.iter().all(|(_, level, _)| level == "ok"), "{after:?}");
    let (proof, exit) = told(&kept, "verify", &[]);
    assert_eq!(outcomes(&proof), [("exact", "holds"), ("near", "holds"), ("text", "holds"), ("none", "holds")]);
    assert_eq!((exit, &proof["verdict"], &proof["aggregates"][1]["difference"]), (0, &"equal".into(), &"0.5".into()));
    assert_eq!(proof["aggregates"][3]["source"], Value::Null);
    // Where only some tables are compared, nothing else is held at the position.
    assert_eq!(outcomes(&told(&kept, "verify", &["--table", "deal"]).0), []);

    let off = [figure("off", " + 5", within), well.clone()].concat();
    let (proof, exit) = told(&Kept::new(folder, from, &to.url(), &off), "verify", &[]);
    assert_eq!((exit, &proof["verdict"], outcomes(&proof)[0]), (1, &"equal".into(), ("off", "warning")));

    let half = aggregate("half", &nothing(ours), "SELECT 0", "warning = \"1000000\"");
    let wrong = [figure("wrong", " - 5000", within), half, well.clone()].concat();
    let (proof, exit) = told(&Kept::new(folder, from, &to.url(), &wrong), "verify", &[]);
    assert_eq!(outcomes(&proof)[..3], [("wrong", "critical"), ("half", "critical"), ("exact", "holds")]);
    assert_eq!((exit, &proof["verdict"]), (2, &"different".into()), "{proof:#}");
    rows_are_equal(&proof);
    refused(folder, from, to, (ours, theirs), &well);
}

/// Statements that give no figure leave it unknown, change nothing, and keep none of the others from being asked.
fn refused(folder: &Path, from: &str, to: &Database, (ours, theirs): (&str, &str), well: &str) {
    let statements = [
        ("nowhere", "SELECT sum(x) FROM nowhere".to_owned()),
        ("wide", format!("SELECT id, amount FROM {theirs} WHERE id = 1")),
        ("long", format!("SELECT id FROM {theirs}")),
        ("empty", format!("SELECT id FROM {theirs} WHERE id < 0")),
        ("deletes", format!("DELETE FROM {theirs}")),
        ("ends", "COMMIT".to_owned()),
        ("two", format!("SELECT 1; DELETE FROM {theirs}")),
    ];
    // Each on both sides: the one's answer does not hang on the other's.
    let bad = statements.iter().map(|(name, s)| aggregate(name, &s.replace(theirs, ours), s, "")).collect::<String>();
    let kept = Kept::new(folder, from, &to.url(), &[bad.as_str(), well].concat());
    let (proof, exit) = told(&kept, "verify", &[]);
    assert_eq!((exit, &proof["verdict"]), (3, &"unknown".into()), "{proof:#}");
    rows_are_equal(&proof);
    assert_eq!(proof["tables"][0]["source_rows"], 100);
    for ((name, statement), told) in statements.iter().zip(proof["aggregates"].as_array().expect("aggregates")) {
        let error = told["error"].as_str().unwrap_or_default();
        let both = [statement.clone(), statement.replace(theirs, ours)];
        let names = both.iter().all(|s| error.contains(&format!("`{s}`")));
        assert!(
            told["outcome"] == "unknown" && names && error.contains("source: ") && error.contains("target: "),
            "{name}: {error}"
        );
    }
    assert_eq!(outcomes(&proof)[7], ("exact", "holds"), "asked after those that failed");
    let found = of_figures(&kept);
    assert!(found.iter().filter(|(_, level, _)| level == "warning").count() == 14, "{found:?}");
    assert_eq!(to.sql(&format!("select count(*) from {theirs}")).trim(), "100");
}

const HUNDRED: &str = "insert into deal with recursive s (n) as (select 1 union all select n + 1 from s where n < 100) \
                       select n, n * 1.01, concat('deal ', n) from s";

fn of_the_family(client: &'static Client, version: PgVersion) {
    let source = client.fresh_database("figures");
    source.sql("create table deal (id int primary key, amount decimal(12,2), name varchar(20))");
    source.sql(HUNDRED);
    let target = Postgres::shared(version).fresh_database("figures");
    let (_folder, path) = folder();
    let ours = format!("{}.deal", source.name());
    let theirs = format!("{}.deal", source.name());
    figures(&path, &source.url(), &target, &ours, &theirs);
}

#[test]
fn figures_of_mysql() {
    of_the_family(MySql::shared(), PgVersion::V18);
}

#[test]
fn figures_of_mariadb() {
    of_the_family(MariaDb::shared(), PgVersion::V15);
}

#[test]
fn figures_of_postgres() {
    let server = Postgres::shared(PgVersion::V15);
    let (source, target) = (server.fresh_database("figures"), server.fresh_database("figures"));
    source.sql("create table deal (id int primary key, amount numeric(12,2), name text)");
    source
        .sql(&HUNDRED.replace("insert into deal with", "with").replace("select n, n", "insert into deal select n, n"));
    let (_folder, path) = folder();
    figures(&path, &source.url(), &target, "public.deal", "public.deal");
}

#[test]
fn figures_of_sqlite() {
    let (_folder, path) = folder();
    let file = path.join("shop.db");
    sqlite(
        &file,
        "create table deal (id integer primary key, amount integer, name text);
        insert into deal with recursive s (n) as (select 1 union all select n + 1 from s where n < 100)
            select n, n * 7, 'deal ' || n from s",
    );
    let target = Postgres::shared(PgVersion::V18).fresh_database("figures");
    figures(&path, &format!("sqlite://{}", file.display()), &target, "deal", "public.deal");
}

#[test]
fn figures_of_files_are_refused() {
    let (_folder, path) = folder();
    let lake = format!("file://{}", path.join("lake").display());
    let one = aggregate("revenue", "SELECT 1", "SELECT 1", "");
    let ended = Kept::new(&path, "sqlite:///nowhere.db", &lake, &one).ended("check", &[]);
    assert_eq!(code(&ended), 78, "{}", ended.stderr);
    assert!(ended.stderr.contains("[[aggregate]]: a Parquet target (target 1) has no SQL"), "{}", ended.stderr);
}

/// Adds deals, each a transaction, so that no two positions have the same sum.
fn deal(source: &Database, stop: &AtomicBool) -> usize {
    let mut n = 0;
    while !stop.load(Ordering::SeqCst) {
        n += 1;
        source.sql(&format!("insert into deal values (1000 + {n}, {n}.37, 'new'); update deal set amount = amount + 0.01 where id = {n} % 100"));
    }
    n
}

#[test]
fn figures_hold_at_one_position_while_others_write_and_are_kept_and_reported() {
    let source = MariaDb::shared().fresh_database("figures");
    source.sql("create table deal (id int primary key, amount decimal(12,2), name varchar(20))");
    source.sql(HUNDRED);
    let target = Postgres::shared(PgVersion::V15).fresh_database("figures");
    let (_folder, path) = folder();
    let table = format!("{}.deal", source.name());
    let sum = |more: &str| format!("SELECT sum(amount){more} FROM {table}");
    let off = aggregate("off", &sum(""), &sum(" + 5"), "warning = \"1.00\"\ncritical = \"1000\"");
    let config = [aggregate("revenue", &sum(""), &sum(""), ""), off, "[proof]\nevery = \"1h\"\n".into()].concat();
    let kept = Kept::new(&path, &source.url(), &target.url(), &config);
    let mut daemon = kept.command("run", &[]).start();
    daemon.wait_for("starting", PATIENCE);
    assert_eq!(code(&kept.ended("catch-up", &["--timeout", "200s"])), 0);
    let written = while_writing(
        1,
        |_, stop| deal(&source, stop),
        |_| {
            let mut sums: Vec<Value> = Vec::new();
            for _ in 0..4 {
                let (proof, exit) = told(&kept, "verify", &[]);
                assert_eq!(outcomes(&proof), [("revenue", "holds"), ("off", "warning")], "{proof:#}");
                assert_eq!((exit, &proof["verdict"]), (1, &"equal".into()));
                sums.push(proof["aggregates"][0]["source"].clone());
            }
            assert!(sums.iter().all(Value::is_string), "{sums:?}");
        },
    );
    assert!(written > 0);
    // What the daemon compares by itself has figures and references; both stand in the ledger.
    let scheduled = |e: &Event| matches!(e, Event::Verification(v) if v.proof.beyond.references.is_some());
    let Event::Verification(v) = kept.wait_for("scheduled verification", scheduled).event else { unreachable!() };
    let outcomes: Vec<Outcome> = v.proof.beyond.aggregates.iter().map(|a| a.outcome).collect();
    assert_eq!(outcomes, [Outcome::Holds, Outcome::Warning]);
    let finding = "aggregate off is apart by more than 1";
    let text = kept.told(1, "report", &[]);
    assert!(
        text.contains(finding) && text.contains("Aggregates") && text.contains("0 foreign keys looked at"),
        "{text}"
    );
    let json: Value = serde_json::from_str(&kept.told(1, "report", &["--format", "json"])).expect("JSON");
    assert_eq!(json["aggregates"][1]["difference"], "5", "{json:#}");
    assert!(kept.told(1, "report", &["--format", "html"]).contains(finding));
    assert!(kept.told(1, "report", &["--format", "junit"]).contains("name=\"off\" classname"));
    let sum = json["aggregates"][0]["source"].as_str().expect("a sum").to_owned();
    assert!(text.contains(&sum) && !kept.told(1, "report", &["--mask"]).contains(&sum), "{text}");
    daemon.signal("TERM");
    assert_eq!(code(&daemon.wait(PATIENCE)), 0);
}

/// A child of the parent 99, which is not there, comes to the source; `act` runs statements there, and the tables stand in `schema`
/// of the target.
fn orphans(kept: &Kept, act: &dyn Fn(&str), orphan: &str, target: &Database, schema: &str) {
    act(
        "create table parent (id int primary key, n int); insert into parent values (1, 1), (2, 2), (3, 3);
         create table child (id int primary key, parent_id int, other int, constraint child_parent foreign key (parent_id) references parent (id));
         insert into child values (1, 1, 1), (2, 2, 2), (3, null, 77)",
    );
    let caught_up = || assert_eq!(code(&kept.ended("run", &["--until-caught-up"])), 0);
    let look = || told(kept, "verify", &["--references"]);
    caught_up();
    at_ease(target, schema);
    let (proof, exit) = look();
    assert_eq!((exit, &proof["references"]), (0, &serde_json::json!({ "foreign_keys": 1 })), "{proof:#}");
    assert_eq!(told(kept, "verify", &[]).0["references"], Value::Null, "only when asked to");

    // What the source has came over with its rows: told, and no fault of the move.
    act(orphan);
    caught_up();
    let (proof, exit) = look();
    rows_are_equal(&proof);
    assert_eq!((exit, &proof["verdict"]), (1, &"equal".into()), "{proof:#}");
    let one = &proof["references"]["broken"][0];
    assert_eq!((&one["rows"], &one["source_rows"], &one["keys"][0]), (&1.into(), &1.into(), &"id=7".into()), "{one:#}");
    let shown = kept.told(1, "verify", &["--references"]);
    assert!(shown.contains("1 row refers to no row of") && shown.contains("as at the source: id=7"), "{shown}");

    // What only the target has is wrong, also where its foreign key has been dropped.
    target.sql("alter table child drop constraint if exists child_parent cascade; create table saved as table parent; delete from parent where id = 2");
    let (proof, exit) = look();
    let one = &proof["references"]["broken"][0];
    assert_eq!((exit, &one["outcome"], &one["rows"]), (2, &"critical".into(), &2.into()), "{proof:#}");
    target.sql("insert into parent select * from saved where id = 2; drop table saved");

    // A foreign key that the target has by itself, over rows that are equal.
    target.sql("alter table child add constraint ours foreign key (other) references parent (id) not valid");
    let (proof, exit) = look();
    rows_are_equal(&proof);
    let broken = proof["references"]["broken"].as_array().expect("broken");
    let ours = broken.iter().find(|b| b["foreign_key"] == "ours").expect("the target's own");
    assert_eq!((exit, &proof["verdict"], &ours["outcome"]), (2, &"different".into(), &"critical".into()), "{proof:#}");
    assert_eq!((&ours["rows"], &ours["source_rows"], &ours["keys"][0]), (&1.into(), &Value::Null, &"id=3".into()));
    assert_eq!((broken.len(), &proof["references"]["foreign_keys"]), (2, &2.into()));
    let report: Value = serde_json::from_str(&kept.told(2, "report", &["--format", "json"])).expect("JSON");
    let what = report["findings"][0]["what"].as_str().expect("a finding");
    assert!(what.ends_with("(foreign key ours), by a foreign key that the target has by itself: id=3"), "{report:#}");
}

fn orphans_of_the_family(client: &'static Client) {
    let source = client.fresh_database("orphans");
    let target = Postgres::shared(PgVersion::V15).fresh_database("orphans");
    let (_folder, path) = folder();
    let kept = Kept::new(&path, &source.url(), &target.url(), "");
    let orphan = "set foreign_key_checks = 0; insert into child values (7, 99, 1)";
    let schema = source.name().to_owned();
    orphans(&kept, &|sql| drop(source.sql(sql)), orphan, &target, &schema);
}

#[test]
fn orphans_of_mysql() {
    orphans_of_the_family(MySql::shared());
}

#[test]
fn orphans_of_mariadb() {
    orphans_of_the_family(MariaDb::shared());
}

#[test]
fn orphans_of_postgres() {
    let server = Postgres::shared(PgVersion::V18);
    let (source, target) = (server.fresh_database("orphans"), server.fresh_database("orphans"));
    let (_folder, path) = folder();
    let kept = Kept::new(&path, &source.url(), &target.url(), "");
    let orphan = "set session_replication_role = replica; insert into child values (7, 99, 1)";
    orphans(&kept, &|sql| drop(source.sql(sql)), orphan, &target, "public");
}

#[test]
fn orphans_of_sqlite() {
    let (_folder, path) = folder();
    let file = path.join("shop.db");
    let target = Postgres::shared(PgVersion::V18).fresh_database("orphans");
    let kept = Kept::new(&path, &format!("sqlite://{}", file.display()), &target.url(), "");
    let orphan = "pragma foreign_keys = off; insert into child values (7, 99, 1)";
    orphans(&kept, &|sql| sqlite(&file, sql), orphan, &target, "public");
}

#[test]
fn sequences_that_are_behind_are_told_with_what_sets_them_and_catch_up_sets_them() {
    let source = MariaDb::shared().fresh_database("sequences");
    source.sql("create table t (id int auto_increment primary key, n int); insert into t values (1, 1), (2, 2)");
    let target = Postgres::shared(PgVersion::V15).fresh_database("sequences");
    let (_folder, path) = folder();
    let kept = Kept::new(&path, &source.url(), &target.url(), "");
    let caught_up = || assert_eq!(code(&kept.ended("run", &["--until-caught-up"])), 0);
    let behind = || {
        let (proof, exit) = told(&kept, "verify", &["--references"]);
        assert_eq!((exit, &proof["verdict"]), (0, &"equal".into()), "no alarm: {proof:#}");
        proof["sequences"]["behind"].as_array().expect("sequences").clone()
    };
    caught_up();
    assert_eq!(behind(), Vec::<Value>::new(), "set at the end of the copy");
    // One that somebody has made at the target, for a column that has no sequence of its own.
    at_ease(&target, source.name());
    target.sql("create sequence by_hand; alter table t alter n set default nextval('by_hand')");
    source.sql("insert into t values (7, 9)");
    caught_up();
    let found = behind();
    let words: Vec<_> = found.iter().map(|b| (&b["column"], &b["next"], &b["furthest"])).collect();
    assert_eq!(words, [(&"id".into(), &"3".into(), &"7".into()), (&"n".into(), &"1".into(), &"9".into())]);
    // Nobody runs the pipeline, which is a warning.
    let report = kept.told(1, "report", &[]);
    assert!(report.contains("to be set before a cutover") && report.contains("setval"), "{report}");

    assert_eq!(code(&kept.ended("catch-up", &["--timeout", "200s"])), 0);
    let found = behind();
    assert_eq!((found.len(), &found[0]["column"]), (1, &"n".into()), "what the pipeline made is set: {found:?}");
    target.sql(found[0]["fix"].as_str().expect("a statement"));
    assert_eq!(behind(), Vec::<Value>::new());
    target.sql("insert into t default values");
    assert_eq!(target.sql("select id, n from t order by id desc limit 1").trim(), "8\t10");
}

/// Keys and verdicts of what a sample of one table showed.
fn shown(sample: &Value, table: &str) -> Vec<(String, Value)> {
    let tables = sample["tables"].as_array().expect("tables");
    let one = tables.iter().find(|t| t["table"].as_str().is_some_and(|n| n.ends_with(table))).expect("the table");
    let rows = one["rows"].as_array().expect("rows");
    rows.iter().map(|r| (r["key"].to_string(), r["differs"].clone())).collect()
}

#[test]
fn a_sample_shows_rows_of_both_sides_at_one_position() {
    let source = MariaDb::shared().fresh_database("sample");
    source.sql("create table deal (id int primary key, amount decimal(12,2), name varchar(20))");
    source.sql(HUNDRED);
    source.sql("create table nothing (id int primary key); create table bag (v varchar(20)); insert into bag values ('a'), ('a'), ('b')");
    let target = Postgres::shared(PgVersion::V15).fresh_database("sample");
    let (_folder, path) = folder();
    let kept = Kept::new(&path, &source.url(), &target.url(), "");
    let mut daemon = kept.command("run", &[]).start();
    daemon.wait_for("starting", PATIENCE);
    assert_eq!(code(&kept.ended("catch-up", &["--timeout", "200s"])), 0);
    while_writing(
        1,
        |_, stop| deal(&source, stop),
        |_| {
            for seed in ["1", "2", "3"] {
                let (sample, exit) = told(&kept, "sample", &["--table", "deal", "--rows", "50", "--seed", seed]);
                assert_eq!((exit, shown(&sample, ".deal").len()), (0, 50), "{sample:#}");
            }
        },
    );
    daemon.signal("TERM");
    assert_eq!(code(&daemon.wait(PATIENCE)), 0);

    // Without a daemon, and at rest: a seed picks the same rows.
    let take = |seed: &str| told(&kept, "sample", &["--rows", "20", "--seed", seed]);
    let (first, exit) = take("42");
    assert_eq!((exit, &first["verdict"], &first["seed"]), (0, &"equal".into(), &42.into()), "{first:#}");
    assert_eq!(
        (shown(&first, ".deal").len(), shown(&first, ".nothing").len(), shown(&first, ".bag").len()),
        (20, 0, 2)
    );
    assert_eq!(first["tables"], take("42").0["tables"]);
    assert_ne!(shown(&first, ".deal"), shown(&take("43").0, ".deal"));
    let text = kept.told(0, "sample", &["--table", "deal", "--rows", "100", "--seed", "42"]);
    for part in [
        "rows, all equal: with 95 % confidence fewer than 3.0 % of",
        "--seed 42 shows the same rows",
        "crossfade verify",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }

    at_ease(&target, source.name());
    target.sql("update deal set name = 'secret value'; delete from bag where v = 'b'");
    let (sample, exit) = take("42");
    assert_eq!((exit, &sample["verdict"]), (2, &"different".into()), "{sample:#}");
    assert!(shown(&sample, ".deal").iter().all(|(_, differs)| differs == "different"), "{sample:#}");
    let bag: Vec<Value> = shown(&sample, ".bag").into_iter().map(|(_, differs)| differs).collect();
    assert_eq!(bag, [Value::Null, "missing".into()]);
    let args = ["--rows", "5", "--seed", "42"];
    assert!(kept.told(2, "sample", &args).contains("'secret value'"));
    let masked = kept.told(2, "sample", &[&args[..], &["--mask"]].concat());
    assert!(masked.contains("***") && masked.contains("DIFFERENT") && !masked.contains("secret value"), "{masked}");
}

#[test]
fn a_sample_of_files_shows_both_sides() {
    let (_folder, path) = folder();
    let file = path.join("shop.db");
    sqlite(&file, "create table t (id integer primary key, v text); insert into t values (1, 'a'), (2, 'b')");
    let lake = format!("file://{}", path.join("lake").display());
    let kept = Kept::new(&path, &format!("sqlite://{}", file.display()), &lake, "");
    assert_eq!(code(&kept.ended("run", &["--until-caught-up"])), 0);
    let text = kept.told(0, "sample", &[]);
    assert!(text.contains("2 of 2 rows, all equal: these are all there are."), "{text}");
    // Files have no references that could be looked at.
    assert_eq!(told(&kept, "verify", &["--references"]).0["references"], serde_json::json!({ "foreign_keys": 0 }));
}
