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

#[test]
fn commit_done_but_its_answer_is_lost_postgres_18() {
    cut_at_commits(Postgres::shared(PgVersion::V18), Way::Down);
}

#[test]
fn commit_lost_on_its_way_postgres() {
    cut_at_commits(Postgres::shared(PgVersion::V15), Way::Up);
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
fn killed_right_before_a_commit_postgres() {
    killed_at_commits(Postgres::shared(PgVersion::V15), Way::Up);
}

#[test]
fn killed_right_after_a_commit_postgres_18() {
    killed_at_commits(Postgres::shared(PgVersion::V18), Way::Down);
}

/// What a daemon says to a Postgres source, or hears from it, one step after another; how often that is let pass first.
const STEPS: [(Way, &[u8], usize); 9] = [
    (Way::Up, b"CREATE PUBLICATION", 0),
    (Way::Down, b"CREATE PUBLICATION\0", 0),
    (Way::Up, b"pg_create_logical_replication_slot", 0),
    // Sent when the slot has been made.
    (Way::Up, b"SET statement_timeout = 0", 0),
    (Way::Up, b"START_REPLICATION", 0),
    (Way::Up, b"COPY (SELECT", 1),
    (Way::Down, b"COPY 400\0", 2),
    (Way::Down, b"transfer", 40),
    (Way::Down, b"transfer", 300),
];

/// The daemon is killed at each step, and the next start goes on.
fn killed_at_the_steps_of_a_source(version: PgVersion) {
    let source = Postgres::shared(version);
    let bank = Bank::on(source);
    let target = Postgres::shared(PgVersion::V15).fresh_database("dst");
    let proxy = Proxy::before(source.port());
    let (line, from, to) = (Line::new("steps"), open(&bank.url()), target.url());
    bank.watched(&target, || {
        bank.in_use(|| {
            for (way, bytes, passing) in STEPS {
                let step = String::from_utf8_lossy(bytes);
                proxy.trap(way, Bait::Bytes(bytes.to_vec(), passing), Spring::Stall);
                let daemon = line.start(&proxy.through(&from), &to);
                assert!(proxy.wait_sprung(PATIENCE), "{way:?} {step}: {}", daemon.stderr());
                let ended = daemon.kill();
                assert!(ended.status.code().is_none(), "{way:?} {step}: {}", ended.stderr);
                proxy.cut();
            }
        });
        assert_eq!(line.ends_equal(&from, &to), 2);
    });
    let made = "select (select count(*) from pg_replication_slots where database = current_database()), count(*) from pg_publication";
    assert_eq!(bank.database().sql(made), "1\t1", "one slot and one publication");
}

#[test]
fn killed_at_the_steps_of_a_postgres_source() {
    killed_at_the_steps_of_a_source(PgVersion::V15);
}

#[test]
fn killed_at_the_steps_of_a_postgres_18_source() {
    killed_at_the_steps_of_a_source(PgVersion::V18);
}

#[test]
fn killed_while_indexes_are_built() {
    let bank = Bank::on(Postgres::shared(PgVersion::V18));
    let target = Postgres::shared(PgVersion::V15).fresh_database("dst");
    let (line, from, to) = (Line::new("index"), bank.url(), target.url());
    let schema = bank.schema();
    // The table is there beforehand, so that a session of somebody else can stand in the way of the index alone.
    target.sql(&format!(
        "create schema if not exists {schema}; create table {schema}.entry
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

fn target_restarted_while_a_commit_waits(source: &Client) {
    let bank = Bank::on(source);
    let server = Postgres::start(PgVersion::V15, Options::new());
    let target = server.fresh_database("dst");
    let (line, from, to) = (Line::new("restart"), bank.url(), target.url());
    let waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'
                   and query like '%crossfade.checkpoint%'";
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

#[test]
fn target_killed_and_restarted_while_a_commit_waits() {
    target_restarted_while_a_commit_waits(MariaDb::shared());
}

#[test]
fn target_killed_and_restarted_while_a_commit_waits_postgres() {
    target_restarted_while_a_commit_waits(Postgres::shared(PgVersion::V15));
}
