//! Trouble that comes to a table in the middle of its copy, or between that and the end of the whole copy: it suspends the table, alone.
//!
//! The copy is braked to a byte a second, so that it stands still behind its first chunk for as long as the test wants.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crossfade_harness::{Client, Database, MariaDb, MySql, PgVersion, Postgres, Running};

use crate::common::{PATIENCE, Pipeline, code, folder};
use crate::suspended::{follow, suspended};

/// Rows of `good`, in several chunks.
const ROWS: u32 = 60;

/// A daemon in the middle of a copy.
pub struct Held {
    pub source: Database,
    pub target: Database,
    pipeline: Pipeline,
    config: PathBuf,
    daemon: Option<Running>,
    _keep: tempfile::TempDir,
}

fn fill(source: &Database, table: &str, rows: u32) {
    let values: Vec<String> = (1..=rows).map(|n| format!("({n}, {n}, '{}')", "x".repeat(200))).collect();
    source.sql(&format!(
        "create table {table} (id int primary key, n int, t varchar(200)); create unique index {table}_n on {table} (n); \
         insert into {table} values {}",
        values.join(", ")
    ));
}

fn configure(config: &Path, source: &Database, target: &Database, rate: &str) {
    let text = format!(
        "name = \"half-{}\"\n[source]\nurl = {:?}\n[[target]]\nurl = {:?}\n\
         [limits]\nchunk_rows = 20\ncopy_workers = 1\n{rate}",
        target.name(),
        source.url(),
        target.url()
    );
    std::fs::write(config, text).expect("the configuration");
}

impl Held {
    /// A daemon that has copied the first chunk of `bad`, and waits.
    pub fn begin(client: &Client, rows: u32) -> Held {
        let source = client.fresh_database("half");
        fill(&source, "bad", rows);
        fill(&source, "good", ROWS);
        let target = Postgres::shared(PgVersion::V15).fresh_database("dst");
        let (keep, folder) = folder();
        let config = folder.join("p.toml");
        configure(&config, &source, &target, "copy_rate = \"1\"\n");
        let pipeline = Pipeline::configured(&config);
        let mut daemon = pipeline.command("run", &[]).start();
        daemon.wait_for("starting", PATIENCE);
        let until = Instant::now() + PATIENCE;
        loop {
            let status = pipeline.json("status", &[]);
            let copy = &status["view"]["copy"];
            assert!(copy["done"].as_u64().is_none_or(|done| done <= 1), "nothing holds the copy: {status:#}");
            if copy["done"] == 1 {
                assert!(copy["chunks"].as_u64() >= Some(4), "{status:#}");
                break;
            }
            assert!(Instant::now() < until, "{status:#}");
            std::thread::sleep(Duration::from_millis(50));
        }
        Held { source, target, pipeline, config, daemon: Some(daemon), _keep: keep }
    }

    /// The copy goes on.
    pub fn release(&self) {
        configure(&self.config, &self.source, &self.target, "");
        self.daemon.as_ref().expect("a daemon").signal("HUP");
    }

    /// The copy goes on: `bad` is suspended, with these words, and `good` arrives and is followed.
    fn alone(&self, words: &[&str]) {
        self.release();
        let found = suspended(&self.pipeline, 1);
        for word in [&[".bad"], words].concat() {
            assert!(found[0].to_string().contains(word), "{word:?} is missing: {found:#?}");
        }
        assert!(found[0]["hint"].as_str().is_some_and(|h| !h.is_empty()), "{found:#?}");
        self.good_goes_on(ROWS + 1);
    }

    fn good_goes_on(&self, next: u32) {
        self.source.sql(&format!("insert into good values ({next}, {next}, 'new')"));
        let late = self.pipeline.ended("catch-up", &["--timeout", "200s"]);
        assert_eq!(code(&late), 65, "{}{}", late.stderr, self.said());
        let count = self.target.sql(&format!("select count(*) from {}.good", self.source.schema()));
        assert_eq!(count, next.to_string());
    }

    /// What mends it, and the command of `status`, end it.
    fn mended(&self) {
        follow(&self.pipeline, &suspended(&self.pipeline, 1)[0]);
        self.level();
    }

    /// Everything has arrived, and is equal.
    pub fn level(&self) {
        let level = self.pipeline.ended("catch-up", &["--timeout", "200s"]);
        assert_eq!(code(&level), 0, "{}{}", level.stderr, self.said());
        assert_eq!(self.pipeline.verify_equal(), 2);
    }

    /// The daemon drains.
    pub fn end(&mut self) {
        let daemon = self.daemon.take().expect("a daemon");
        daemon.signal("TERM");
        assert_eq!(code(&daemon.wait(PATIENCE)), 0);
    }

    /// Leaves nothing behind at a Postgres source.
    pub fn uninstall(&self) {
        if self.source.schema() == "public" {
            assert!(self.pipeline.ended("uninstall", &[]).status.success());
        }
    }

    fn said(&self) -> String {
        self.daemon.as_ref().map(Running::stderr).unwrap_or_default()
    }
}

/// A table becomes one that nobody carries: while half of it is copied, and when it is to be copied again and has no plan yet.
fn altered(client: &Client, change: &str, back: &str, words: &[&str]) {
    let mut held = Held::begin(client, ROWS);
    held.source.sql(change);
    held.alone(words);
    held.source.sql(back);
    held.mended();
    held.end();
    let (pipeline, source) = (&held.pipeline, &held.source);
    assert_eq!(code(&pipeline.ended("snapshot", &["*.bad"])), 0);
    source.sql(change);
    let ended = pipeline.ended("run", &["--until-caught-up"]);
    assert_eq!(code(&ended), 65, "{}", ended.stderr);
    let found = suspended(pipeline, 1);
    for word in words {
        assert!(found[0].to_string().contains(word), "{word:?} is missing: {found:#?}");
    }
    source.sql(back);
    follow(pipeline, &found[0]);
    pipeline.level(2);
    held.uninstall();
}

#[test]
fn altered_half_copied_mysql() {
    let change = "set names utf8mb4; alter table bad add column e enum('\u{1F980}')";
    altered(
        MySql::shared(),
        change,
        "alter table bad drop column e",
        &["column e", "cannot show all labels", "MODIFY"],
    );
}

#[test]
fn altered_half_copied_mariadb() {
    let (change, back) = ("alter table bad modify t varchar(200) compressed", "alter table bad modify t varchar(200)");
    altered(MariaDb::shared(), change, back, &["column t", "compressed bytes", "MODIFY"]);
}

#[test]
fn altered_half_copied_postgres() {
    let change = "create extension if not exists seg; alter table bad add column s seg";
    let back = "alter table bad drop column s";
    altered(Postgres::shared(PgVersion::V18), change, back, &["column s", "extension seg", "TYPE text USING"]);
}

/// A table goes from the target: half copied, and when it is copied, but the copy has not ended.
fn dropped_at_the_target(client: &Client) {
    for rows in [ROWS, 10] {
        let mut held = Held::begin(client, rows);
        held.target.sql(&format!("drop table {}.bad", held.source.schema()));
        held.alone(&["gone from the target", "crossfade snapshot"]);
        held.mended();
        held.end();
        held.uninstall();
    }
}

#[test]
fn dropped_at_the_target_mariadb() {
    dropped_at_the_target(MariaDb::shared());
}

#[test]
fn dropped_at_the_target_postgres() {
    dropped_at_the_target(Postgres::shared(PgVersion::V15));
}
