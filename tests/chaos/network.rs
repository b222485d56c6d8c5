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
fn behind_a_proxy(source: &Client, port: u16, side: Side, play: impl FnOnce(&Bank, &Proxy, &Running)) {
    let bank = Bank::on(source);
    let server = Postgres::shared(PgVersion::V15);
    let target = server.fresh_database("dst");
    let (line, from, to) = (Line::new("net"), bank.url(), target.url());
    bank.watched(&target, || {
        bank.in_use(|| {
            let (proxy, daemon) = match side {
                Side::Source => {
                    let proxy = Proxy::before(port);
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
            let mut daemon = daemon;
            daemon.wait_for("\"starting\"", PATIENCE);
            play(&bank, &proxy, &daemon);
            daemon.wait_for("complete, streaming", PATIENCE);
            bank.flows(&target);
            stop(daemon);
        });
        assert_eq!(line.ends_equal(&from, &to), 2);
    });
}

/// Cuts after ever more bytes, so that every kind of message is cut somewhere.
fn truncated(source: &Client, port: u16, side: Side, way: Way) {
    behind_a_proxy(source, port, side, |_, proxy, daemon| {
        for round in 0..6u32 {
            proxy.trap(way, Bait::Count(37 + 9000 * usize::try_from(round * round).expect("small")), Spring::Cut);
            assert!(proxy.wait_sprung(PATIENCE), "round {round}: {}", daemon.stderr());
        }
    });
}

#[test]
fn source_truncated_mariadb() {
    truncated(MariaDb::shared(), MariaDb::shared().port(), Side::Source, Way::Down);
}

#[test]
fn source_truncated_mysql() {
    truncated(MySql::shared(), MySql::shared().port(), Side::Source, Way::Down);
}

#[test]
fn target_truncated_on_the_way_there() {
    truncated(MariaDb::shared(), MariaDb::shared().port(), Side::Target, Way::Up);
}

#[test]
fn target_truncated_on_the_way_back() {
    truncated(MariaDb::shared(), MariaDb::shared().port(), Side::Target, Way::Down);
}

fn stalled_and_slow(side: Side) {
    behind_a_proxy(MariaDb::shared(), MariaDb::shared().port(), side, |bank, proxy, _| {
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
    stalled_and_slow(Side::Source);
}

#[test]
fn target_stalled_delayed_cut() {
    stalled_and_slow(Side::Target);
}

fn source_restarted(start: impl Fn(Options) -> crossfade_harness::MySqlServer) {
    let server = start(Options::new());
    let bank = Bank::on(&server);
    let target = Postgres::shared(PgVersion::V15).fresh_database("dst");
    let (line, from, to) = (Line::new("source"), bank.url(), target.url());
    bank.watched(&target, || {
        bank.in_use(|| {
            let mut daemon = line.start(&from, &to);
            daemon.wait_for("starting", PATIENCE);
            server.kill();
            server.restart();
            daemon.wait_for("complete, streaming", PATIENCE);
            server.restart();
            bank.flows(&target);
            server.kill();
            server.restart();
            bank.flows(&target);
            stop(daemon);
        });
        assert_eq!(line.ends_equal(&from, &to), 2);
    });
}

#[test]
fn source_killed_and_restarted_mariadb() {
    source_restarted(MariaDb::start);
}

#[test]
fn source_killed_and_restarted_mysql() {
    source_restarted(MySql::start);
}
