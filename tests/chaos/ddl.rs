//! Random DDL and DML beside a running pipeline: it ends equal, or with a table that is suspended, whose hint leads to equal.
//!
//! Rounds of random statements (`shapes.rs`) run while a daemon streams, which is killed now and then. After each round the
//! scenario does what an operator would do, and nothing else: it asks `verify`, and follows what `verify` and `status` say of each
//! table, until all are equal. The seed is printed; `CROSSFADE_DDL_SEED=N` repeats its statements, `CROSSFADE_DDL_SECONDS=N` runs
//! longer.

use std::time::{Duration, Instant};

use crossfade_harness::{Client, Database, MariaDb, MySql, PgVersion, Postgres, Running};
use serde_json::Value;

use super::shapes::{Dialect, Dice, Shapes};
use super::stage::{Line, PATIENCE, seed, stop, variable};

/// Looks at a round's tables, each of which does one thing an operator is told; no round needs as many.
const LOOKS: usize = 40;

struct Play {
    line: Line,
    source: Database,
    target: Database,
    shapes: Shapes,
    dice: Dice,
    daemon: Option<Running>,
    /// Every statement so far, and what the scenario did: the way to what went wrong.
    diary: Vec<String>,
    suspended: usize,
}

impl Play {
    fn new(client: &Client, sql: Dialect, seed: u64) -> Self {
        let source = client.fresh_database("ddl");
        let target = Postgres::shared(PgVersion::V15).fresh_database("dst");
        let (line, shapes) = (Line::new("ddl"), Shapes::new(sql, seed));
        Play { line, source, target, shapes, dice: Dice(!seed), daemon: None, diary: Vec::new(), suspended: 0 }
    }

    fn sql(&mut self, statements: &[String]) {
        self.diary.extend_from_slice(statements);
        let done = self.source.try_sql(&format!("{};", statements.join(";\n")));
        done.unwrap_or_else(|e| self.fail(&format!("the source refuses: {e}")));
    }

    fn fail(&self, what: &str) -> ! {
        let from = self.diary.len().saturating_sub(120);
        let said = self.daemon.as_ref().map_or_else(String::new, Running::stderr);
        let said: Vec<&str> = said.lines().rev().take(20).collect();
        panic!("{what}\n{}\nthe daemon, last line first:\n{}", self.diary[from..].join(";\n"), said.join("\n"))
    }

    fn ask(&self, command: &str, more: &[&str]) -> (i32, String, String) {
        let (from, to) = (self.source.url(), self.target.url());
        let ended = self.line.command(command, &from, &to).args(more.iter()).start().wait(PATIENCE);
        (ended.status.code().unwrap_or(-1), ended.stdout, ended.stderr)
    }

    fn json(&self, command: &str) -> Value {
        let (_, stdout, stderr) = self.ask(command, &["--json"]);
        serde_json::from_str(&stdout).unwrap_or_else(|e| self.fail(&format!("{command}: {e}: {stdout}{stderr}")))
    }

    fn start(&mut self) {
        let mut daemon = self.line.start(&self.source.url(), &self.target.url());
        daemon.wait_for("starting", PATIENCE);
        self.daemon = Some(daemon);
    }

    fn round(&mut self) {
        for _ in 0..3 + self.dice.below(20) {
            let statements = self.shapes.step();
            self.sql(&statements);
            if self.dice.one_in(40) {
                self.diary.push("-- the daemon is killed".into());
                drop(self.daemon.take().map(Running::kill));
                self.start();
            }
        }
        self.settle();
    }

    /// Does what `status` and `verify` say until all is equal.
    fn settle(&mut self) {
        for _ in 0..LOOKS {
            let (code, _, stderr) = self.ask("catch-up", &["--timeout", "120s"]);
            if code != 0 && code != 65 {
                self.fail(&format!("catch-up ended with {code}: {stderr}"));
            }
            let suspended = self.json("status")["view"]["suspended"].as_array().cloned().unwrap_or_default();
            if !suspended.is_empty() {
                self.suspended += suspended.len();
                suspended.iter().for_each(|s| self.follow(s));
                continue;
            }
            let (code, stdout, stderr) = self.ask("verify", &["--json"]);
            if code == 75 {
                continue; // a table is on its way again
            }
            let Ok(proof) = serde_json::from_str::<Value>(&stdout) else {
                self.fail(&format!("verify ended with {code}: {stderr}"))
            };
            if proof["verdict"] == "equal" {
                return;
            }
            self.diary.push(format!("-- verify: {}", proof["verdict"]));
            for table in proof["tables"].as_array().cloned().unwrap_or_default() {
                self.mend(&table);
            }
        }
        let (verify, status) = (self.json("verify"), self.json("status"));
        self.fail(&format!("not equal after {LOOKS} looks: {verify:#}\n{status:#}"));
    }

    /// Runs a suspended table's command. A table that is gone from the source is brought back first, as its hint has it.
    fn follow(&mut self, suspended: &Value) {
        self.diary.push(format!("-- suspended: {}: {}", suspended["table"], suspended["reason"]));
        let command = suspended["command"].as_str().unwrap_or_default().to_owned();
        let name = command.strip_prefix("crossfade snapshot ").unwrap_or_else(|| self.fail(&command)).to_owned();
        self.snapshot(&name);
    }

    fn snapshot(&mut self, table: &str) {
        let bare = table.rsplit('.').next().unwrap_or_default().to_owned();
        if !self.shapes.tables().contains(&bare) {
            let statements = self.shapes.create(&bare);
            self.sql(&statements);
        }
        let (code, _, stderr) = self.ask("snapshot", &[table]);
        self.diary.push(format!("-- crossfade snapshot {table}: {code} {}", stderr.trim()));
        // 75: asked while another is on its way, or the pipeline began again: the next look asks again.
        if code != 0 && code != 75 {
            self.fail(&format!("snapshot {table} ended with {code}: {stderr}"));
        }
    }

    /// Does what `verify` says of a table.
    fn mend(&mut self, proof: &Value) {
        let name = proof["table"].as_str().unwrap_or_default().to_owned();
        let table = name.rsplit('.').next().unwrap_or_default().to_owned();
        match (proof["verdict"].as_str(), proof["error"].as_str()) {
            (Some("equal"), _) => {}
            (Some("unknown"), Some(e)) if e.contains("next row") => {
                let statements: Vec<String> = self.shapes.touch(&table).into_iter().collect();
                self.sql(&statements);
            }
            (Some("unknown"), Some(e)) if e.contains("crossfade snapshot") => self.snapshot(&name),
            _ => self.fail(&format!("{proof:#}")),
        }
    }
}

fn random_ddl(client: &Client, sql: Dialect) {
    let seed = seed("CROSSFADE_DDL_SEED");
    let time = Duration::from_secs(variable("CROSSFADE_DDL_SECONDS").unwrap_or(20));
    let mut play = Play::new(client, sql, seed);
    let statements = play.shapes.begin();
    play.sql(&statements);
    play.start();
    play.settle();
    let began = Instant::now();
    let mut rounds = 0;
    while began.elapsed() < time {
        play.round();
        rounds += 1;
    }
    eprintln!("{rounds} rounds, {} times a table was suspended", play.suspended);
    if let Some(daemon) = play.daemon.take() {
        stop(daemon);
    }
    if sql == Dialect::Postgres {
        assert_eq!(play.ask("uninstall", &[]).0, 0);
    }
}

#[test]
fn random_ddl_from_mysql() {
    random_ddl(MySql::shared(), Dialect::MySql);
}

#[test]
fn random_ddl_from_mariadb() {
    random_ddl(MariaDb::shared(), Dialect::MariaDb);
}

#[test]
fn random_ddl_from_postgres_15() {
    random_ddl(Postgres::shared(PgVersion::V15), Dialect::Postgres);
}

#[test]
fn random_ddl_from_postgres_18() {
    random_ddl(Postgres::shared(PgVersion::V18), Dialect::Postgres);
}
