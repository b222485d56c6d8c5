//! The source's log is gone, or two owners want the same pipeline.

use crossfade_harness::{Client, MariaDb, MySql, MySqlServer, Options, PgVersion, Postgres};

use crate::stage::{Bank, Line, PATIENCE, stop, wait};

/// A clear error, and a way out that works: a pipeline of another name copies anew.
fn purged(server: &MySqlServer, purge: &str) {
    let bank = Bank::on(server);
    let target = Postgres::shared(PgVersion::V15).fresh_database("dst");
    let (line, from, to) = (Line::new("purged"), bank.url(), target.url());
    assert_eq!(line.ends_equal(&from, &to), 2);
    bank.transact(20);
    bank.sql("flush binary logs");
    bank.transact(20);
    bank.sql("flush binary logs");
    let kept = bank_log(server);
    // A log that a session of the source still reads, or that its engine needs for a recovery, stays without an error.
    wait("the logs before are gone", || {
        bank.sql(&purge.replace("{log}", &kept));
        server.sql("mysql", "show binary logs").lines().count() == 1
    });
    let ended = line.command("run", &from, &to).args(["--until-caught-up"]).start().wait(PATIENCE);
    assert!(!ended.status.success(), "{}", ended.stderr);
    assert!(ended.stderr.contains("purged"), "says what happened: {}", ended.stderr);
    assert!(ended.stderr.contains("hint"), "says what to do: {}", ended.stderr);
    let fresh = Postgres::shared(PgVersion::V15).fresh_database("dst");
    assert_eq!(line.renamed("again").ends_equal(&from, &fresh.url()), 2);
}

/// The log that is being written.
fn bank_log(server: &MySqlServer) -> String {
    let logs = server.sql("mysql", "show binary logs");
    logs.lines().last().and_then(|l| l.split('\t').next()).expect("a log").to_owned()
}

#[test]
fn binlog_purged_mariadb() {
    purged(&MariaDb::start(Options::new()), "purge binary logs to '{log}'");
}

#[test]
fn binlog_purged_mysql() {
    purged(&MySql::start(Options::new()), "purge binary logs to '{log}'");
}

/// The first owner sleeps, its session at the target is ended, a second one takes over, the first wakes.
fn taken_while_asleep(source: &Client) {
    let bank = Bank::on(source);
    let target = Postgres::shared(PgVersion::V15).fresh_database("dst");
    let (line, from, to) = (Line::new("owners"), bank.url(), target.url());
    let elsewhere = tempfile::tempdir().expect("a folder");
    let elsewhere = elsewhere.path().to_str().expect("UTF-8");
    bank.watched(&target, || {
        bank.in_use(|| {
            let mut first = line.start(&from, &to);
            first.wait_for("complete, streaming", PATIENCE);
            first.signal("STOP");
            // Its session is given up by the server, as after a network outage; its process knows nothing of it.
            target.sql("select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())");
            let mut second = line.command("run", &from, &to).env("RUNTIME_DIRECTORY", elsewhere).start();
            second.wait_for("starting", PATIENCE);
            let epoch = || target.sql("select epoch, seq from crossfade.checkpoint");
            let before = epoch();
            wait("the second one commits", || epoch() != before);
            first.signal("CONT");
            let ended = first.wait(PATIENCE);
            assert_eq!(ended.status.code(), Some(75), "{}", ended.stderr);
            assert!(ended.stderr.contains(&format!("process {}", second.pid())), "names it: {}", ended.stderr);
            bank.flows(&target);
            stop(second);
        });
        assert_eq!(line.ends_equal(&from, &to), 2);
    });
}

#[test]
fn an_owner_that_slept_finds_the_pipeline_taken() {
    taken_while_asleep(MariaDb::shared());
}

/// The sleeper's slot is free once the source has given its reader up.
#[test]
fn an_owner_that_slept_finds_the_pipeline_taken_postgres() {
    taken_while_asleep(&Postgres::start(PgVersion::V15, Options::new().set("wal_sender_timeout", "3s")));
}
