//! Somebody else's locks and time limits at the target, and a reader that must wait while the source writes on.

use std::thread;
use std::time::Duration;

use crossfade_harness::{Client, Database, MySql, Options, PgVersion, Postgres};

use crate::stage::{Bank, Holder, Line, PATIENCE, stop, wait};

fn locked_for_long(source: &Client, time: Duration) {
    let bank = Bank::on(source);
    let target = Postgres::shared(PgVersion::V15).fresh_database("dst");
    let (line, from, to) = (Line::new("locked"), bank.url(), target.url());
    let lock = format!("lock table {}.account in access exclusive mode", bank.schema());
    let waiting =
        "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()";
    bank.in_use(|| {
        let mut daemon = line.start(&from, &to);
        daemon.wait_for("complete, streaming", PATIENCE);
        thread::scope(|scope| {
            let holder = Holder::hold(scope, &target, &lock);
            wait("the stream waits", || target.sql(waiting) != "0");
            (0..10).for_each(|_| assert!(bank.transact(400)));
            thread::sleep(time);
            drop(holder);
        });
        stop(daemon);
    });
    assert_eq!(line.ends_equal(&from, &to), 2);
}

#[test]
fn a_table_of_the_target_is_locked_for_long_while_the_source_writes_on() {
    locked_for_long(MySql::shared(), Duration::from_secs(4));
}

/// Nothing can be handed on for longer than the source waits for a sign of life.
#[test]
fn a_table_of_the_target_is_locked_for_longer_than_wal_sender_timeout() {
    let server = Postgres::start(PgVersion::V18, Options::new().set("wal_sender_timeout", "5s"));
    locked_for_long(&server, Duration::from_secs(8));
    let log = std::fs::read_to_string(server.data().with_file_name("server.log")).expect("the server's log");
    assert!(!log.contains("due to replication timeout"), "signs of life come in time:\n{log}");
}

/// Limits of 50 ms for whatever a session of this database does.
fn limit(database: &Database) {
    for setting in [
        "statement_timeout",
        "lock_timeout",
        "idle_in_transaction_session_timeout",
        "transaction_timeout",
        "idle_session_timeout",
    ] {
        database.sql(&format!("alter database {} set {setting} = '50ms'", database.name()));
    }
}

#[test]
fn time_limits_of_the_databases_do_not_stop_it() {
    let bank = Bank::on(Postgres::shared(PgVersion::V18));
    let target = Postgres::shared(PgVersion::V18).fresh_database("dst");
    limit(bank.database());
    limit(&target);
    let (line, from, to) = (Line::new("limits"), bank.url(), target.url());
    bank.in_use(|| {
        let mut daemon = line.start(&from, &to);
        daemon.wait_for("complete, streaming", PATIENCE);
        thread::sleep(Duration::from_millis(500));
        stop(daemon);
    });
    assert_eq!(line.ends_equal(&from, &to), 2);
}

/// The session that a comparison waits in ends under it. Whoever asked is answered by the next one.
#[test]
fn a_comparison_outlives_the_session_that_it_was_asked_in() {
    let bank = Bank::on(Postgres::shared(PgVersion::V18));
    let target = Postgres::shared(PgVersion::V15).fresh_database("dst");
    let (line, from, to) = (Line::new("outlives"), bank.url(), target.url());
    let blocked = "from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()";
    let daemon = thread::scope(|scope| {
        let mut daemon = line.start(&from, &to);
        daemon.wait_for("complete, streaming", PATIENCE);
        let lock = format!("lock table {}.account in access exclusive mode", bank.schema());
        let holder = Holder::hold(scope, &target, &lock);
        assert!(bank.transact(1));
        wait("the stream waits", || target.sql(&format!("select count(*) {blocked}")) != "0");
        let asked = line.command("verify", &from, &to).args(["--json"]).start();
        let open = "select count(*) from pg_stat_activity where state = 'idle in transaction' and datname = current_database()";
        wait("the source is open for the comparison", || bank.database().sql(open) == "1");
        target.sql(&format!("select pg_terminate_backend(pid) {blocked}"));
        daemon.wait_for("trying again", PATIENCE);
        drop(holder);
        let answer = asked.wait(PATIENCE);
        assert_eq!(answer.status.code(), Some(0), "{}{}\n{}", answer.stdout, answer.stderr, daemon.stderr());
        daemon
    });
    stop(daemon);
}
