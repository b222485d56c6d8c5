//! The replication connection: ways in, commands, and the log of a slot.

use std::time::{Duration, Instant};

use crossfade_core::{Class, Endpoint, Error, Exit};
use crossfade_harness::{PASSWORD, PgVersion, Postgres, USER};
use crossfade_postgres::connect::Server;
use crossfade_postgres::source::position::Lsn;
use crossfade_postgres::source::wire::{Frame, Replication, Status, Wait};
use tokio::runtime::Runtime;

const BOTH: [PgVersion; 2] = [PgVersion::V15, PgVersion::V18];

fn open(runtime: &Runtime, url: &str) -> Result<Replication, Error> {
    Replication::open(&Server::new(&Endpoint::new(url, None), runtime.handle().clone())?)
}

#[test]
fn every_way_in() {
    let runtime = Runtime::new().unwrap();
    for version in BOTH {
        let pg = Postgres::shared(version);
        let (port, ca) = (pg.port(), pg.ca().display().to_string());
        let socket = pg.socket().display().to_string().replace('/', "%2F");
        let tls = |options: &str| format!("{}?{options}", pg.url("postgres"));
        for (url, encrypted) in [
            (tls("sslmode=disable"), "f"),
            (tls("sslmode=prefer"), "t"),
            (tls(&format!("sslmode=verify-full&sslrootcert={ca}&channel_binding=require")), "t"),
            (tls("sslmode=require&channel_binding=disable"), "t"),
            (format!("postgres://{USER}@{socket}:{port}/postgres"), "f"),
            (
                format!(
                    "postgres://{USER}:{PASSWORD}@127.0.0.1:1,127.0.0.1:{port}/postgres?target_session_attrs=primary"
                ),
                "t",
            ),
        ] {
            let mut connection = open(&runtime, &url).unwrap();
            let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
            assert_eq!(connection.simple(sql).unwrap(), [[Some(encrypted.to_owned())]], "{version:?} {url}");
            let identity = connection.simple("IDENTIFY_SYSTEM").unwrap();
            assert_eq!(identity[0].len(), 4, "{identity:?}");
            let settings = "SELECT current_setting('DateStyle'), current_setting('TimeZone'), NULL";
            let settings = connection.simple(settings).unwrap();
            assert_eq!(settings, [[Some("ISO, YMD".into()), Some("UTC".into()), None]]);
        }
        for (url, want) in [
            (tls("sslmode=disable&channel_binding=require"), "channel binding"),
            (format!("postgres://{USER}:wrong@127.0.0.1:{port}/postgres"), "28P01"),
            (format!("postgres://{USER}@127.0.0.1:{port}/postgres"), "there is none"),
            (format!("postgres://{USER}:{PASSWORD}@127.0.0.1:{port}/nowhere"), "3D000"),
            (tls(&format!("sslmode=verify-full&sslrootcert={ca}&host=db.example&hostaddr=127.0.0.1")), "not valid for"),
        ] {
            let error = open(&runtime, &url).err().expect(want);
            assert!(error.to_string().contains(want) && !error.to_string().contains("wrong"), "{error:?}");
            assert!(matches!(error.class(), Class::Fatal(Exit::Config)) && error.hint_text().is_some(), "{error:?}");
        }
    }
}

#[test]
fn md5_passwords_and_servers_without_tls() {
    let options = crossfade_harness::Options::new().set("ssl", "off").set("password_encryption", "md5");
    let pg = Postgres::start(PgVersion::V15, options);
    let runtime = Runtime::new().unwrap();
    pg.sql("postgres", "create role old superuser login password 'secret'");
    let hba = pg.data().join("pg_hba.conf");
    std::fs::write(&hba, "local all all trust\nhost all all 127.0.0.1/32 md5\n").unwrap();
    pg.sql("postgres", "select pg_reload_conf(); select pg_sleep(0.3)");
    let url = pg.url_as("old", "secret", "postgres");
    open(&runtime, &url).unwrap();
    let error = open(&runtime, &format!("{url}?sslmode=require")).err().unwrap();
    assert!(error.to_string().contains("does not offer TLS"), "{error:?}");
}

#[test]
fn many_iterations_are_refused_in_words() {
    let pg = Postgres::shared(PgVersion::V18);
    let runtime = Runtime::new().unwrap();
    pg.sql("postgres", "set scram_iterations = 200000; drop role if exists slow; create role slow login password 'x'");
    let error = open(&runtime, &pg.url_as("slow", "x", "postgres")).err().unwrap();
    assert!(error.to_string().contains("iteration") && error.hint_text().unwrap().contains("4096"), "{error:?}");
}

#[test]
fn errors_of_commands_leave_the_connection_usable() {
    let runtime = Runtime::new().unwrap();
    let mut connection = open(&runtime, &Postgres::shared(PgVersion::V15).url("postgres")).unwrap();
    let error = connection.simple("SELECT 1/0").unwrap_err();
    assert!(error.to_string().contains("22012"), "{error}");
    assert_eq!(connection.simple("SELECT 1; SELECT 2").unwrap().len(), 2);
    let slow = connection.simple_within("SELECT pg_sleep(20)", Duration::from_millis(50)).unwrap_err();
    assert!(slow.is_transient(), "{slow:?}");
}

#[test]
fn the_log_of_a_slot_comes_as_frames() {
    let runtime = Runtime::new().unwrap();
    for version in BOTH {
        let db = Postgres::shared(version).fresh_database("wire");
        db.sql("create table t (id int primary key, v text); create publication \"p'\" for table t");
        let mut connection = open(&runtime, &db.url()).unwrap();
        let slot = format!("slot_{}", db.name());
        let made = connection.simple(&format!("CREATE_REPLICATION_SLOT {slot} TEMPORARY LOGICAL pgoutput")).unwrap();
        let from: Lsn = made[0][1].as_ref().unwrap().parse().unwrap();
        connection.start(&slot, from, "p'", &[("proto_version", "1"), ("messages", "true")]).unwrap();
        let long = 3_000_000;
        db.sql(&format!(
            "insert into t select 1, string_agg(md5(i::text), '') from generate_series(1, {}) i",
            long / 32
        ));
        let (mut kinds, mut longest) = (Vec::new(), 0);
        let status = Status { written: from, flushed: from };
        while kinds.last() != Some(&b'C') {
            let until = Wait::Until(Instant::now() + Duration::from_secs(30));
            match connection.next(until, status).unwrap().expect("the log goes on") {
                Frame::Data { body, .. } => {
                    kinds.push(body[0]);
                    longest = longest.max(body.len());
                }
                Frame::Keepalive { end, .. } => assert!(end >= from),
            }
        }
        assert_eq!(kinds, b"BRIC");
        assert!(longest > long - 64);
        // A sign of life on demand.
        connection.status(status, true).unwrap();
        let until = Wait::Until(Instant::now() + Duration::from_secs(30));
        assert!(matches!(connection.next(until, status).unwrap(), Some(Frame::Keepalive { .. })));
    }
}
