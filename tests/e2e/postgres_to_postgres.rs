//! Postgres 15 to Postgres 18: Chinook, with a writer running all along; what is made at the source is removed at the end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crossfade_harness::{Database, PgVersion, Postgres, sample};

use crate::common::{PATIENCE, Pipeline, StopOnDrop, code};

/// One transaction after another; `{n}` is a running number.
const WRITES: [&str; 6] = [
    "INSERT INTO artist (artist_id, name) VALUES (1000 + {n}, 'Künstler {n}');",
    "UPDATE track SET unit_price = unit_price + 0.01, composer = NULL WHERE track_id % 97 = {n} % 97;",
    "BEGIN; INSERT INTO playlist VALUES (100 + {n}, 'p{n}'); \
     INSERT INTO playlist_track SELECT 100 + {n}, track_id FROM track WHERE track_id % 500 = {n} % 500; COMMIT;",
    "DELETE FROM playlist_track WHERE playlist_id = 100 + {n} - 3;",
    "UPDATE artist SET artist_id = artist_id + 100000 WHERE artist_id = 1000 + {n} - 4;",
    "BEGIN; INSERT INTO genre VALUES (500 + {n}, 'g'); ROLLBACK;",
];

fn write_until(source: &Database, stop: &AtomicBool) {
    let mut n = 0;
    while !stop.load(Ordering::SeqCst) {
        let mut script = String::new();
        for _ in 0..12 {
            script.push_str(&WRITES[n % WRITES.len()].replace("{n}", &n.to_string()));
            script.push('\n');
            n += 1;
        }
        source.sql(&script);
        thread::sleep(Duration::from_millis(20));
    }
}

/// Chinook in a database of this test.
fn chinook() -> Database {
    let source = Postgres::shared(PgVersion::V15).fresh_database("src");
    let script = std::fs::read_to_string(sample("chinook-postgres.sql")).expect("the sample is text");
    let of_the_database = |line: &&str| {
        let upper = line.trim_start().to_ascii_uppercase();
        !(upper.starts_with("DROP DATABASE") || upper.starts_with("CREATE DATABASE") || upper.starts_with("\\C"))
    };
    source.sql(&script.lines().filter(of_the_database).collect::<Vec<_>>().join("\n"));
    source
}

#[test]
fn chinook_from_postgres_to_postgres_18() {
    let source = chinook();
    let target = Postgres::shared(PgVersion::V18).fresh_database("dst");
    let pipeline = Pipeline::new("pgpg", &source.url(), &[&target.url()]);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stopped = StopOnDrop(&stop);
        scope.spawn(|| write_until(&source, &stop));
        let mut daemon = pipeline.command("run", &[]).start();
        daemon.wait_for("starting", PATIENCE);
        let caught_up = pipeline.ended("catch-up", &["--timeout", "200s"]);
        assert!(caught_up.status.success(), "{}\n{}", caught_up.stderr, daemon.stderr());
        assert_eq!(pipeline.verify_equal(), 11, "every base table arrived");
        stop.store(true, Ordering::SeqCst);
        daemon.signal("TERM");
        let ended = daemon.wait(PATIENCE);
        assert_eq!(code(&ended), 0, "SIGTERM drains: {}", ended.stderr);
    });
    pipeline.catch_up();
    assert_eq!(pipeline.verify_equal(), 11);
    assert_eq!(source.sql("select count(*) from pg_replication_slots where database = current_database()"), "1");
    assert!(pipeline.ended("uninstall", &[]).status.success());
    assert_eq!(source.sql("select count(*) from pg_publication"), "0", "nothing is left behind");
}

#[test]
fn chinook_from_postgres_killed_ten_times() {
    let source = chinook();
    let target = Postgres::shared(PgVersion::V15).fresh_database("dst");
    let pipeline = Pipeline::new("pgkill", &source.url(), &[&target.url()]);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stopped = StopOnDrop(&stop);
        scope.spawn(|| write_until(&source, &stop));
        for round in 0..10u64 {
            let limit = Duration::from_millis(150 + round * 200);
            let ended = pipeline.command("run", &[]).start().kill_within(limit, 500 + round);
            assert!(ended.status.code().is_none(), "round {round}: {}: {}", ended.status, ended.stderr);
        }
        stop.store(true, Ordering::SeqCst);
    });
    pipeline.catch_up();
    assert_eq!(pipeline.verify_equal(), 11);
    assert!(pipeline.ended("uninstall", &[]).status.success());
}
