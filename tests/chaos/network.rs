//! Connections that break or stand still in the middle of the stream of bytes, on either side.

use std::thread;
use std::time::Duration;

use crossfade_harness::{
    Bait, Client, MariaDb, Mode, MySql, Options, PgVersion, Postgres, Proxy, Running, Spring, Way,
};

use crate::stage::{Bank, Line, PATIENCE, stop};

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Source,
    Target,
}

/// A daemon behind a proxy on one side, started and streaming or still copying.
fn behind_a_proxy(source: &Client, side: Side, play: impl FnOnce(&Bank, &Proxy, &Running)) {
    let bank = Bank::on(source);
    let server = Postgres::shared(PgVersion::V15);
    let target = server.fresh_database("dst");
    let (line, from, to) = (Line::new("net"), bank.url(), target.url());
    bank.watched(&target, || {
        bank.in_use(|| {
            let (proxy, mut daemon) = match side {
                Side::Source => {
                    let proxy = Proxy::before(source.port());
                    let daemon = line.start(&proxy.through(&from), &to);
                    (proxy, daemon)
                }
                Side::Target => {
                    let proxy = Proxy::before(server.port());
                    let daemon = line.start(&from, &proxy.through(&to));
                    (proxy, daemon)
                }
            };
            // What the check cannot reach before the start is refused, not tried again.
            daemon.wait_for("\"starting\"", PATIENCE);
            play(&bank, &proxy, &daemon);
            daemon.wait_for("complete, streaming", PATIENCE);
            bank.flows(&target);
            stop(daemon);
        });
        assert_eq!(line.ends_equal(&from, &to), 2);
    });
}

/// Cuts after ever more bytes, so that every kind of message is cut somewhere. Questions are shorter than answers.
fn truncated(source: &Client, side: Side, way: Way) {
    let step = if (side, way) == (Side::Source, Way::Up) { 400 } else { 9000 };
    behind_a_proxy(source, side, |_, proxy, daemon| {
        for round in 0..6 {
            proxy.trap(way, Bait::Count(37 + step * round * round), Spring::Cut);
            assert!(proxy.wait_sprung(PATIENCE), "round {round}: {}", daemon.stderr());
        }
    });
}

#[test]
fn source_truncated_mariadb() {
    truncated(MariaDb::shared(), Side::Source, Way::Down);
}

#[test]
fn source_truncated_mysql() {
    truncated(MySql::shared(), Side::Source, Way::Down);
}

#[test]
fn source_truncated_postgres() {
    truncated(Postgres::shared(PgVersion::V15), Side::Source, Way::Down);
}

#[test]
fn source_truncated_on_the_way_there_postgres_18() {
    truncated(Postgres::shared(PgVersion::V18), Side::Source, Way::Up);
}

#[test]
fn target_truncated_on_the_way_there() {
    truncated(MariaDb::shared(), Side::Target, Way::Up);
}

#[test]
fn target_truncated_on_the_way_back() {
    truncated(Postgres::shared(PgVersion::V18), Side::Target, Way::Down);
}

fn stalled_and_slow(source: &Client, side: Side) {
    behind_a_proxy(source, side, |bank, proxy, _| {
        for way in [Way::Down, Way::Up, Way::Down] {
            thread::sleep(Duration::from_millis(400));
            proxy.set(way, Mode::Stall);
            bank.transact(200);
            thread::sleep(Duration::from_secs(1));
            if way == Way::Up {
                proxy.refuse(true);
                proxy.cut();
                thread::sleep(Duration::from_millis(500));
                proxy.refuse(false);
            }
            proxy.set(way, Mode::Delay(Duration::from_millis(20)));
            thread::sleep(Duration::from_millis(600));
            proxy.set(way, Mode::Pass);
        }
    });
}

#[test]
fn source_stalled_delayed_cut() {
    stalled_and_slow(MariaDb::shared(), Side::Source);
}

#[test]
fn source_stalled_delayed_cut_postgres() {
    stalled_and_slow(Postgres::shared(PgVersion::V15), Side::Source);
}

#[test]
fn target_stalled_delayed_cut() {
    stalled_and_slow(Postgres::shared(PgVersion::V18), Side::Target);
}

fn source_restarted(source: &Client, kill: impl Fn(), restart: impl Fn()) {
    let bank = Bank::on(source);
    let target = Postgres::shared(PgVersion::V15).fresh_database("dst");
    let (line, from, to) = (Line::new("source"), bank.url(), target.url());
    bank.watched(&target, || {
        bank.in_use(|| {
            let mut daemon = line.start(&from, &to);
            daemon.wait_for("starting", PATIENCE);
            kill();
            restart();
            daemon.wait_for("complete, streaming", PATIENCE);
            // Stopped in order, Postgres waits until the daemon has confirmed all that was written.
            restart();
            bank.flows(&target);
            kill();
            restart();
            bank.flows(&target);
            stop(daemon);
        });
        assert_eq!(line.ends_equal(&from, &to), 2);
    });
}

#[test]
fn source_killed_and_restarted_mariadb() {
    let server = MariaDb::start(Options::new());
    source_restarted(&server, || server.kill(), || server.restart());
}

#[test]
fn source_killed_and_restarted_mysql() {
    let server = MySql::start(Options::new());
    source_restarted(&server, || server.kill(), || server.restart());
}

#[test]
fn source_killed_and_restarted_postgres() {
    let server = Postgres::start(PgVersion::V15, Options::new());
    source_restarted(&server, || server.kill(), || server.restart());
}

#[test]
fn source_killed_and_restarted_postgres_18() {
    let server = Postgres::start(PgVersion::V18, Options::new());
    source_restarted(&server, || server.kill(), || server.restart());
}
