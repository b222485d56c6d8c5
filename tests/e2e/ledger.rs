//! The ledger on real servers: what the daemon keeps, through an outage, a kill and an edit; and that replication goes on without it.

use std::path::{Path, PathBuf};
use std::time::Instant;

use crossfade::ledger::entry::{Asker, Gravity};
use crossfade::ledger::{Entry, Event, Ledger};
use crossfade::verify::Verdict;
use crossfade_harness::{Ended, MariaDb, Options, PgVersion, Postgres, Program};

use crate::common::{PATIENCE, code, folder, program};
use crate::differences::at_ease;

/// A configured pipeline with a state folder of its own.
pub struct Kept {
    /// The pipeline's name.
    pub name: String,
    /// Where its ledger is.
    pub state: PathBuf,
    config: PathBuf,
}

impl Kept {
    /// Writes its configuration: two URLs, and `more`.
    pub fn new(folder: &Path, from: &str, to: &str, more: &str) -> Kept {
        let name = format!("kept-{}", std::process::id());
        let config = folder.join("pipeline.toml");
        let text = format!("name = \"{name}\"\n[source]\nurl = \"{from}\"\n[[target]]\nurl = \"{to}\"\n{more}\n");
        std::fs::write(&config, text).expect("a configuration");
        Kept { name, state: folder.join("state"), config }
    }

    /// A command on it.
    pub fn command(&self, command: &str, more: &[&str]) -> Program {
        let config = self.config.to_str().expect("UTF-8");
        let state = self.state.to_str().expect("UTF-8");
        program()
            .args([command, "--config", config])
            .args(more)
            .env("STATE_DIRECTORY", state)
            .env("MAIL_PASSWORD", "secret")
    }

    /// Runs a command to its end.
    pub fn ended(&self, command: &str, more: &[&str]) -> Ended {
        self.command(command, more).start().wait(PATIENCE)
    }

    /// Runs a command that must end with this code, and returns what it printed.
    pub fn told(&self, exit: i32, command: &str, more: &[&str]) -> String {
        let ended = self.ended(command, more);
        assert_eq!(code(&ended), exit, "{command} {more:?}: {}{}", ended.stdout, ended.stderr);
        ended.stdout
    }

    fn events(&self) -> Vec<Entry> {
        let ledger = Ledger::open_read_in(&self.state, &self.name).expect("a ledger that can be read");
        ledger.map(|l| l.events_since(0).expect("events")).unwrap_or_default()
    }

    /// Waits for an event.
    pub fn wait_for(&self, what: &str, is: impl Fn(&Event) -> bool) -> Entry {
        let began = Instant::now();
        loop {
            let events = self.events();
            if let Some(found) = events.iter().find(|e| is(&e.event)) {
                return found.clone();
            }
            assert!(began.elapsed() < PATIENCE, "no {what} in {events:?}");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
}

#[test]
fn the_daemon_keeps_a_ledger_and_reports_tell_of_it() {
    let source = MariaDb::shared().fresh_database("ledger");
    source.sql(
        "create table t (id int primary key, v varchar(20)); insert into t select seq, concat('v', seq) from seq_1_to_100;
         create table empty (id int primary key)",
    );
    let server = Postgres::start(PgVersion::V15, Options::new());
    let target = server.fresh_database("ledger");
    let (_folder, path) = folder();
    let kept = Kept::new(&path, &source.url(), &target.url(), "[proof]\nevery = \"1h\"");
    assert!(kept.told(3, "report", &[]).contains("there is no ledger"), "nothing is known yet");

    let daemon = kept.command("run", &[]).start();
    let proof = kept.wait_for("verification", |e| matches!(e, Event::Verification(_)));
    let Event::Verification(v) = proof.event else { unreachable!() };
    assert_eq!((v.by, v.whole, v.proof.verdict), (Asker::Schedule, true, Verdict::Equal));
    let canary = v.proof.canary.expect("a canary");
    assert_eq!((canary.tried, canary.missed), (1, vec![]), "in the table that has rows");
    assert!(kept.told(0, "report", &[]).starts_with("CROSSFADE OK - "), "all is well");
    assert_eq!(kept.told(0, "report", &["--quiet"]), "");
    assert!(kept.told(0, "status", &[]).contains("streak"));

    server.restart();
    source.sql("insert into t values (101, 'v101')");
    let outage = kept.wait_for("incident", |e| matches!(e, Event::Incident(_)));
    assert!(matches!(outage.event, Event::Incident(i) if i.class == Gravity::Transient));
    source.sql("alter table t add column w int");
    source.sql("insert into t values (102, 'v102', 1)");
    let shape = kept.wait_for("change of shape", |e| matches!(e, Event::Schema { .. }));
    assert!(matches!(shape.event, Event::Schema { change, .. } if change.contains("column w (int")), "told in words");

    // Killed in the middle of whatever it does, it leaves a chain that is whole, and the next one goes on with it.
    daemon.kill();
    assert_eq!(code(&kept.ended("run", &["--until-caught-up"])), 0);
    at_ease(&target, source.name());
    target.sql("update t set v = 'secret value' where id = 7");
    kept.told(2, "verify", &[]);
    let report = kept.told(2, "report", &[]);
    for part in
        ["1 row differs", "crossfade repair --table", "id = '7'", "secret value", "tried again", "its chain is whole"]
    {
        assert!(report.contains(part), "{part}: {report}");
    }
    assert!(!kept.told(2, "report", &["--mask"]).contains("secret value"));
    kept.told(0, "repair", &["--apply"]);
    let report = kept.told(1, "report", &["--format", "json"]);
    let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
    assert_eq!(
        (&report["verdict"], report["repairs"].as_array().map(Vec::len)),
        (&"warning".into(), Some(1)),
        "{report:#}"
    );

    let file = rusqlite::Connection::open(kept.state.join(format!("{}.ledger.sqlite", kept.name))).expect("the file");
    let hide = "drop trigger entry_stays; update entry set body = replace(body, 'different', 'equal') where kind = 'verification'";
    file.execute_batch(hide).expect("an edit");
    assert!(kept.told(2, "report", &[]).contains("the ledger was changed afterwards: entry"));
}

#[test]
fn a_ledger_that_cannot_be_written_is_told_and_stops_nothing() {
    let source = MariaDb::shared().fresh_database("noledger");
    source.sql("create table t (id int primary key); insert into t values (1)");
    let target = Postgres::shared(PgVersion::V15).fresh_database("noledger");
    let (_folder, path) = folder();
    let kept = Kept::new(&path, &source.url(), &target.url(), "");
    std::fs::write(&kept.state, "a file in the place of the folder").expect("a file");
    let mut daemon = kept.command("run", &[]).start();
    daemon.wait_for("the ledger cannot be written; replication goes on", PATIENCE);
    assert_eq!(code(&kept.ended("catch-up", &["--timeout", "200s"])), 0);
    assert!(kept.told(0, "status", &[]).contains("cannot be used, so hours are unknown"));
    kept.told(0, "verify", &[]);
    // As soon as it can be written it is, with what was noted meanwhile.
    std::fs::remove_file(&kept.state).expect("the file");
    kept.wait_for("verification", |e| matches!(e, Event::Verification(v) if v.by == Asker::Verify));
    daemon.signal("TERM");
    assert_eq!(code(&daemon.wait(PATIENCE)), 0);
    kept.wait_for("stop", |e| matches!(e, Event::Stop { error: None }));
}
