//! SQLite and Postgres to Parquet files in an S3 bucket while the way to the bucket breaks.

use crossfade_harness::{Bait, Client, PgVersion, Postgres, Proxy, S3, Spring, Way};

use crate::stage::{Bank, Line, PATIENCE};

const REQUEST: &[u8] = b"PUT /";
const ANSWER: &[u8] = b"HTTP/1.1 200";

struct Lake {
    line: Line,
    bank: Bank,
    proxy: Proxy,
    direct: String,
    broken: String,
}

/// From a file, or from a server.
fn lake(name: &str, source: Option<&Client>) -> Lake {
    let line = Line::new(name);
    let bank = source.map_or_else(|| Bank::file(line.folder()), Bank::on);
    let proxy = Proxy::before(S3::shared().port());
    let bucket = S3::shared().fresh_bucket(name);
    let direct = format!(
        "s3://{}/raw?endpoint={}&allow_http=true&region=us-east-1&access_key_id=test&secret_access_key=test",
        bucket.name, bucket.endpoint
    );
    let broken = proxy.through(&direct);
    Lake { line, bank, proxy, direct, broken }
}

/// Connections are cut around the storing of objects.
fn cut_at_puts(name: &str, source: Option<&Client>, way: Way, bait: &[u8]) {
    let Lake { line, bank, proxy, direct, broken } = lake(name, source);
    let from = bank.url();
    bank.in_use(|| {
        let mut daemon = line.start(&from, &broken);
        for round in 0..16 {
            proxy.trap(way, Bait::Bytes(bait.to_vec(), round % 5), Spring::Cut);
            assert!(proxy.wait_sprung(PATIENCE), "round {round}: {}", daemon.stderr());
        }
        daemon.wait_for("complete, streaming", PATIENCE);
        for round in 0..8 {
            proxy.trap(way, Bait::Bytes(bait.to_vec(), round), Spring::Cut);
            assert!(proxy.wait_sprung(PATIENCE), "streaming, round {round}: {}", daemon.stderr());
        }
        // Killed in the middle of whatever it does to mend the last cut.
        daemon.kill();
    });
    assert_eq!(line.ends_equal(&from, &direct), 2);
}

#[test]
fn object_stored_but_its_answer_is_lost() {
    cut_at_puts("answer", None, Way::Down, ANSWER);
}

#[test]
fn object_lost_on_its_way() {
    cut_at_puts("request", None, Way::Up, REQUEST);
}

/// The daemon is killed around the storing of objects.
fn killed_at_puts(name: &str, source: Option<&Client>, way: Way, bait: &[u8]) {
    let Lake { line, bank, proxy, direct, broken } = lake(name, source);
    let from = bank.url();
    bank.in_use(|| {
        for round in 0..8 {
            proxy.trap(way, Bait::Bytes(bait.to_vec(), 1 + 2 * round), Spring::Stall);
            let daemon = line.start(&from, &broken);
            assert!(proxy.wait_sprung(PATIENCE), "round {round}: {}", daemon.stderr());
            let ended = daemon.kill();
            assert!(ended.status.code().is_none(), "round {round}: {}", ended.stderr);
            proxy.cut();
        }
    });
    assert_eq!(line.ends_equal(&from, &direct), 2);
}

#[test]
fn killed_right_before_an_object_is_stored() {
    killed_at_puts("before", None, Way::Up, REQUEST);
}

#[test]
fn killed_right_after_an_object_is_stored() {
    killed_at_puts("after", None, Way::Down, ANSWER);
}

#[test]
fn object_stored_but_its_answer_is_lost_postgres() {
    cut_at_puts("pganswer", Some(Postgres::shared(PgVersion::V15)), Way::Down, ANSWER);
}

#[test]
fn killed_right_before_an_object_is_stored_postgres_18() {
    killed_at_puts("pgbefore", Some(Postgres::shared(PgVersion::V18)), Way::Up, REQUEST);
}
