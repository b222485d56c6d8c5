//! The daemon's wall clock is set back and forth: by an operator, by NTP after a long sleep, in a machine that was moved.

use crossfade_harness::{Client, Clock, MariaDb, PgVersion, Postgres, S3};
use serde_json::Value;

use crate::stage::{Bank, Line, PATIENCE, stop, wait};

/// Off by so much, one after the other.
const OFF: [&str; 5] = ["-2h", "+3h", "-40d", "+400d", "+0"];

/// The daemon streams on whatever its clock says, says by how much it is late, and comes back after a crash.
fn set_back_and_forth(source: &Client, to: &str) {
    let bank = Bank::on(source);
    let (line, from) = (Line::new("clock"), bank.url());
    let clock = Clock::new(line.folder());
    let start = || line.command("run", &from, to).clock(&clock).start();
    let view = || -> Value {
        let ended = line.command("status", &from, to).args(["--json"]).start().wait(PATIENCE);
        serde_json::from_str(&ended.stdout).map_or(Value::Null, |mut said: Value| said["view"].take())
    };
    let flows = || {
        let seq = || view()["targets"][0]["checkpoint"]["seq"].as_u64();
        let before = seq();
        wait("the target commits again", || seq() > before.map(|n| n + 2));
    };
    bank.in_use(|| {
        let mut daemon = start();
        daemon.wait_for("complete, streaming", PATIENCE);
        for off in OFF {
            clock.set(off);
            flows();
            // A process that has not been level yet has only its clock to go by.
            wait("the lag is right", || {
                let late = view()["lag_seconds"].as_f64();
                assert!(late.is_none_or(|s| s >= 0.0), "{off}: {late:?}");
                late.is_some_and(|s| s < PATIENCE.as_secs_f64())
            });
            daemon.kill();
            daemon = start();
            daemon.wait_for("starting", PATIENCE);
            flows();
        }
        stop(daemon);
    });
    assert_eq!(line.ends_equal(&from, to), 2);
}

#[test]
fn the_clock_is_set_back_and_forth_postgres() {
    let target = Postgres::shared(PgVersion::V15).fresh_database("dst");
    set_back_and_forth(Postgres::shared(PgVersion::V18), &target.url());
}

#[test]
fn the_clock_is_set_back_and_forth_mariadb_to_s3() {
    let bucket = S3::shared().fresh_bucket("clock");
    let to = format!(
        "s3://{}/raw?endpoint={}&allow_http=true&region=us-east-1&access_key_id=test&secret_access_key=test",
        bucket.name, bucket.endpoint
    );
    set_back_and_forth(MariaDb::shared(), &to);
}
