//! What the end-to-end tests share: the built binary, its answers, sample databases under names of their own.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crossfade_harness::{Client, Database, Ended, Program, sample};
use serde_json::Value;

/// Long enough for the slowest machine; a test that needs it has failed.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// A pipeline that is run through the command line, as a user would.
pub struct Pipeline {
    args: Vec<String>,
}

impl Pipeline {
    /// A pipeline of two URLs; its name is unique to the test's process and the target's URL.
    pub fn new(name: &str, from: &str, to: &[&str]) -> Self {
        let mut args =
            vec!["--name".to_owned(), format!("{name}-{}", std::process::id()), "--from".into(), from.into()];
        for url in to {
            args.extend(["--to".to_owned(), (*url).to_owned()]);
        }
        Pipeline { args }
    }

    /// The pipeline of a configuration file.
    pub fn configured(path: &Path) -> Self {
        Pipeline { args: vec!["--config".to_owned(), path.to_str().expect("UTF-8").to_owned()] }
    }

    /// A pipeline to Postgres and, in the folder, to Parquet. A daemon commits to Parquet every ten seconds unless it is told
    /// otherwise, and whoever waits for it to catch up waits for that each time.
    pub fn in_short_steps(name: &str, folder: &Path, source: &Database, target: &Database) -> Self {
        let config = folder.join("pipeline.toml");
        let text = format!(
            "name = \"{name}-{}\"\n[source]\nurl = \"{}\"\n[[target]]\nurl = \"{}\"\n[[target]]\nurl = \"file://{}\"\n\
             commit_interval = \"1s\"\n",
            std::process::id(),
            source.url(),
            target.url(),
            folder.join("lake").display()
        );
        std::fs::write(&config, text).expect("cannot write the configuration");
        Pipeline::configured(&config)
    }

    /// Carries only these tables.
    pub fn tables(mut self, globs: &[&str]) -> Self {
        for glob in globs {
            self.args.extend(["--tables".to_owned(), (*glob).to_owned()]);
        }
        self
    }

    /// A command on this pipeline.
    pub fn command(&self, command: &str, more: &[&str]) -> Program {
        program().args([command]).args(&self.args).args(more)
    }

    /// Runs a command to its end.
    pub fn ended(&self, command: &str, more: &[&str]) -> Ended {
        self.command(command, more).start().wait(PATIENCE)
    }

    /// Runs a command that must succeed and prints JSON.
    pub fn json(&self, command: &str, more: &[&str]) -> Value {
        let ended = self.ended(command, &[&["--json"], more].concat());
        serde_json::from_str(&ended.stdout)
            .unwrap_or_else(|e| panic!("{command} printed no JSON ({e}): {}\n{}", ended.stdout, ended.stderr))
    }

    /// Copies and streams up to the source's present end.
    pub fn catch_up(&self) {
        let ended = self.ended("run", &["--until-caught-up"]);
        assert!(ended.status.success(), "run ended with {}:\n{}", ended.status, ended.stderr);
    }

    /// Copies and streams up to the source's present end, and compares so many tables.
    pub fn level(&self, tables: usize) {
        self.catch_up();
        assert_eq!(self.verify_equal(), tables);
    }

    /// A daemon catches up while others write, and is equal while they do. Then they are told to stop, and it drains.
    pub fn level_under_load(&self, tables: usize, stop: &AtomicBool) {
        let mut daemon = self.command("run", &[]).start();
        daemon.wait_for("starting", PATIENCE);
        let caught_up = self.ended("catch-up", &["--timeout", "200s"]);
        assert!(caught_up.status.success(), "{}\n{}", caught_up.stderr, daemon.stderr());
        assert_eq!(self.verify_equal(), tables, "under load");
        stop.store(true, Ordering::SeqCst);
        daemon.signal("TERM");
        let ended = daemon.wait(PATIENCE);
        assert_eq!(code(&ended), 0, "SIGTERM drains: {}", ended.stderr);
    }

    /// Starts the daemon so many times, and kills it each time at a moment that follows from `seed`: short lives first, so that
    /// the copy is hit, then ones that are longer by `step`, and reach the stream.
    pub fn killed(&self, times: u64, first: Duration, step: Duration, seed: u64) {
        for round in 0..times {
            let limit = first + step * u32::try_from(round).expect("a few rounds");
            let ended = self.command("run", &[]).start().kill_within(limit, seed * 100 + round);
            assert!(ended.status.code().is_none(), "round {round}: it ended by itself: {}", ended.stderr);
        }
    }

    /// Verifies, by the servers' own totals too, and returns the number of tables compared, all of which must be equal.
    pub fn verify_equal(&self) -> usize {
        let proof = self.json("verify", &["--totals"]);
        assert_eq!(proof["verdict"], "equal", "{proof:#}");
        proof["tables"].as_array().expect("tables").len()
    }
}

/// The built binary, with a runtime folder of its own.
pub fn program() -> Program {
    Program::new(env!("CARGO_BIN_EXE_crossfade"))
}

/// Loads a sample for MySQL or MariaDB under a database name of this test.
pub fn load_sample(client: &Client, files: &[&str], original: &str, database: &Database) {
    let mut script = String::from("SET SESSION sql_mode='';\n");
    for file in files {
        script.push_str(&std::fs::read_to_string(sample(file)).expect("the sample is text"));
    }
    let name = database.name();
    let drop_and_create = |line: &&str| {
        let upper = line.trim_start().to_ascii_uppercase();
        !(upper.starts_with("DROP DATABASE")
            || upper.starts_with("CREATE DATABASE")
            || upper.starts_with("DROP SCHEMA")
            || upper.starts_with("CREATE SCHEMA")
            || upper.starts_with("USE "))
    };
    let kept: Vec<&str> = script.lines().filter(drop_and_create).collect();
    let script = kept.join("\n");
    let script = script.replace(&format!("`{original}`"), &format!("`{name}`"));
    let script = script.replace(&format!("{original}."), &format!("{name}."));
    client.sql(name, &script);
}

/// A folder of this test, removed at its end.
pub fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().to_owned();
    (folder, path)
}

/// Pulls `{"verdict": …}` apart for messages.
pub fn code(ended: &Ended) -> i32 {
    ended.status.code().unwrap_or(-1)
}

/// Runs `play` while so many others write; `write` is given a writer's number, ends when it is told to stop, and tells how often it
/// wrote. Returns that of all of them: a test without writes would prove nothing.
pub fn while_writing(
    writers: usize,
    write: impl Fn(usize, &AtomicBool) -> usize + Sync,
    play: impl FnOnce(&AtomicBool),
) -> usize {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stopped = StopOnDrop(&stop);
        let (write, told) = (&write, &stop);
        let writing: Vec<_> = (0..writers).map(|n| scope.spawn(move || write(n, told))).collect();
        play(&stop);
        stop.store(true, Ordering::SeqCst);
        let written: Vec<usize> = writing.into_iter().map(|w| w.join().expect("a writer")).collect();
        assert!(written.iter().all(|n| *n > 0), "a writer did not write: {written:?}");
        written.into_iter().sum()
    })
}

/// Lets the writer of a test end when the test ends early: a scope waits for its threads, also when it panics.
pub struct StopOnDrop<'a>(pub &'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
