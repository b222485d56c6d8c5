//! Something breaks right before or right after a commit at Postgres.

use std::thread;

use crossfade_harness::{Bait, Client, MariaDb, MySql, Options, PgVersion, Postgres, Proxy, Spring, Way};

use crate::stage::{Bank, Holder, Line, PATIENCE, stop, wait};

/// In a simple query's message to the server and in its command tag back alike.
const COMMIT: &[u8] = b"COMMIT\0";

/// A target whose traffic can be read on its way.
fn open(url: &str) -> String {
    format!("{url}?sslmode=disable")
}

/// Connections are cut around commits of one daemon, which goes on by itself.
fn cut_at_commits(source: &Client, way: Way) {
    let bank = Bank::on(source);
    let server = Postgres::shared(PgVersion::V15);
    let target = server.fresh_database("dst");
    let proxy = Proxy::before(server.port());
    let (line, from, to) = (Line::new("cut"), bank.url(), open(&target.url()));
    bank.watched(&target, || {
        bank.in_use(|| {
            let mut daemon = line.start(&from, &proxy.through(&to));
            // Early ones hit the control tables, the copy's chunks and its end; late ones the stream.
            for round in 0..12 {
                proxy.trap(way, Bait::Bytes(COMMIT.to_vec(), round % 4), Spring::Cut);
                assert!(proxy.wait_sprung(PATIENCE), "round {round}: {}", daemon.stderr());
            }
            daemon.wait_for("complete, streaming", PATIENCE);
            for round in 0..6 {
                proxy.trap(way, Bait::Bytes(COMMIT.to_vec(), round), Spring::Cut);
                assert!(proxy.wait_sprung(PATIENCE), "streaming, round {round}: {}", daemon.stderr());
            }
            bank.flows(&target);
            stop(daemon);
        });
        assert_eq!(line.ends_equal(&from, &to), 2);
    });
}

#[test]
fn commit_done_but_its_answer_is_lost() {
    cut_at_commits(MariaDb::shared(), Way::Down);
}

#[test]
fn commit_lost_on_its_way() {
    cut_at_commits(MySql::shared(), Way::Up);
}

/// The daemon is killed around commits, and started again each time.
fn killed_at_commits(source: &Client, way: Way) {
    let bank = Bank::on(source);
    let server = Postgres::shared(PgVersion::V18);
    let target = server.fresh_database("dst");
    let proxy = Proxy::before(server.port());
    let (line, from, to) = (Line::new("killed"), bank.url(), open(&target.url()));
    bank.watched(&target, || {
        bank.in_use(|| {
            for round in 0..8 {
                proxy.trap(way, Bait::Bytes(COMMIT.to_vec(), 2 + 3 * round), Spring::Stall);
                let daemon = line.start(&from, &proxy.through(&to));
                assert!(proxy.wait_sprung(PATIENCE), "round {round}: {}", daemon.stderr());
                let ended = daemon.kill();
                assert!(ended.status.code().is_none(), "round {round}: {}", ended.stderr);
                proxy.cut();
            }
        });
        assert_eq!(line.ends_equal(&from, &to), 2);
    });
}

#[test]
fn killed_right_before_a_commit() {
    killed_at_commits(MySql::shared(), Way::Up);
}

#[test]
fn killed_right_after_a_commit() {
    killed_at_commits(MariaDb::shared(), Way::Down);
}

#[test]
fn killed_while_indexes_are_built() {
    let bank = Bank::on(MariaDb::shared());
    let target = Postgres::shared(PgVersion::V15).fresh_database("dst");
    let (line, from, to) = (Line::new("index"), bank.url(), target.url());
    let schema = bank.schema();
    // The table is there beforehand, so that a session of somebody else can stand in the way of the index alone.
    target.sql(&format!(
        "create schema {schema}; create table {schema}.entry
         (id int primary key, account int, amount bigint, note varchar(200))"
    ));
    let building =
        "select count(*) from pg_stat_activity where query like 'CREATE%INDEX%' and wait_event_type = 'Lock'";
    bank.in_use(|| {
        thread::scope(|scope| {
            let holder = Holder::hold(scope, &target, &format!("lock table {schema}.entry in row exclusive mode"));
            for _ in 0..2 {
                let daemon = line.start(&from, &to);
                wait("the index is being built", || target.sql(building) != "0");
                daemon.kill();
            }
            drop(holder);
        });
    });
    assert_eq!(line.ends_equal(&from, &to), 2);
}

#[test]
fn killed_while_a_commit_waits_for_a_standby() {
    let bank = Bank::on(MariaDb::shared());
    let server = Postgres::start(PgVersion::V15, Options::new());
    let target = server.fresh_database("dst");
    let (line, from, to) = (Line::new("standby"), bank.url(), target.url());
    let standby = |name: &str| {
        server.sql("postgres", &format!("alter system set synchronous_standby_names = '{name}'"));
        server.sql("postgres", "select pg_reload_conf()");
    };
    let waiting = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'";
    bank.watched(&target, || {
        bank.in_use(|| {
            for after in ["starting", "complete, streaming"] {
                let mut daemon = line.start(&from, &to);
                daemon.wait_for(after, PATIENCE);
                standby("nobody");
                wait("a commit waits for the standby", || server.sql("postgres", waiting) != "0");
                daemon.kill();
                standby("");
            }
        });
        assert_eq!(line.ends_equal(&from, &to), 2);
    });
}

#[test]
fn target_killed_and_restarted_while_a_commit_waits() {
    let bank = Bank::on(MariaDb::shared());
    let server = Postgres::start(PgVersion::V15, Options::new());
    let target = server.fresh_database("dst");
    let (line, from, to) = (Line::new("restart"), bank.url(), target.url());
    let waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'
                   and query like '%UPDATE crossfade.checkpoint%'";
    bank.watched(&target, || {
        bank.in_use(|| {
            let mut daemon = line.start(&from, &to);
            daemon.wait_for("complete, streaming", PATIENCE);
            for hard in [true, false] {
                thread::scope(|scope| {
                    let holder = Holder::hold(scope, &target, "select from crossfade.checkpoint for update");
                    wait("a commit waits", || target.sql(waiting) != "0");
                    std::mem::forget(holder);
                    if hard {
                        server.kill();
                    }
                    server.restart();
                });
                bank.flows(&target);
            }
            stop(daemon);
        });
        assert_eq!(line.ends_equal(&from, &to), 2);
    });
}
