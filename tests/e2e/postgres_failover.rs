//! A Postgres source that fails over to a standby: the pipeline goes on where nothing is missing, and stops where something is.

use std::time::{Duration, Instant};

use crossfade_harness::{Client, Database, Options, PASSWORD, PgVersion, Postgres, STANDBY, USER};

use crate::common::{PATIENCE, Pipeline, code};

/// A primary with a database, and its standby.
struct Pair {
    primary: Postgres,
    standby: Postgres,
    database: Database,
}

impl Pair {
    fn new(version: PgVersion, standby: Options) -> Pair {
        let primary = Postgres::start(version, Options::new());
        let standby = primary.standby(standby);
        let database = primary.fresh_database("shop");
        database.sql("create table t (id int primary key, v text); insert into t values (1, 'x'), (2, 'y')");
        Pair { primary, standby, database }
    }

    /// Both hosts, whichever is the primary.
    fn url(&self) -> String {
        let (a, b, database) = (self.primary.port(), self.standby.port(), self.database.name());
        format!("postgres://{USER}:{PASSWORD}@127.0.0.1:{a},127.0.0.1:{b}/{database}?target_session_attrs=read-write")
    }

    fn on_standby(&self, sql: &str) -> String {
        self.standby.sql(self.database.name(), sql)
    }

    /// Until the standby has replayed what the primary has written.
    fn level(&self) {
        let end = self.primary.sql("postgres", "select pg_current_wal_insert_lsn()");
        until("the standby is level", || {
            self.standby.sql("postgres", &format!("select pg_last_wal_replay_lsn() >= '{end}'")) == "t"
        });
    }
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "not within {} s: {what}", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn target() -> Database {
    let client: &Client = Postgres::shared(PgVersion::V15);
    client.fresh_database("dst")
}

#[test]
fn a_slot_that_survives_a_failover() {
    let pair = Pair::new(PgVersion::V18, Options::new().set("sync_replication_slots", "on"));
    let target = target();
    let pipeline = Pipeline::new("failover", &pair.url(), &[&target.url()]);
    pipeline.catch_up();
    // Without it the pipeline may be told what the standby does not have.
    let check = pipeline.ended("check", &[]);
    assert!(check.stdout.contains("synchronized_standby_slots"), "{}", check.stdout);
    let set = format!("alter system set synchronized_standby_slots = '{STANDBY}'");
    pair.primary.sql("postgres", &set);
    pair.primary.sql("postgres", "select pg_reload_conf()");
    let check = pipeline.ended("check", &[]);
    assert_eq!(code(&check), 0, "{}{}", check.stdout, check.stderr);
    let mut daemon = pipeline.command("run", &[]).start();
    daemon.wait_for("starting", PATIENCE);
    let mut id = 10;
    until("the slot is on the standby", || {
        // A slot is copied once it has moved past what the standby can decode from.
        pair.database.sql("insert into t select max(id) + 1, 'moves' from t; select pg_log_standby_snapshot()");
        let ready = "select count(*) from pg_replication_slots where synced and not temporary and failover";
        pair.on_standby(ready) == "1"
    });
    for _ in 0..20 {
        id += 1000;
        pair.database.sql(&format!("insert into t select i, 'before' from generate_series({id}, {id} + 50) i"));
    }
    pair.primary.kill();
    pair.standby.promote();
    pair.on_standby("insert into t values (-1, 'after'); update t set v = 'z' where id = 1");
    let caught_up = pipeline.ended("catch-up", &["--timeout", "200s"]);
    assert_eq!(code(&caught_up), 0, "{}{}", caught_up.stderr, daemon.stderr());
    assert_eq!(pipeline.verify_equal(), 1);
    assert_eq!(target.sql("select count(*) from t where id = -1"), "1");
    daemon.signal("TERM");
    let ended = daemon.wait(PATIENCE);
    assert_eq!(code(&ended), 0, "{}", ended.stderr);
}

/// Refused with these words; then everything is copied again, and goes on.
fn refused_and_copied_again(pair: &Pair, pipeline: &Pipeline, words: &[&str]) {
    let run = pipeline.ended("run", &["--until-caught-up"]);
    assert_eq!(code(&run), 69, "{}", run.stderr);
    for word in words.iter().chain(&["snapshot '*'"]) {
        assert!(run.stderr.contains(word), "{word:?} is missing: {}", run.stderr);
    }
    let dropped = pipeline.ended("uninstall", &[]);
    assert_eq!(code(&dropped), 0, "{}", dropped.stderr);
    pair.on_standby("select pg_switch_wal(); insert into t values (-1, 'after')");
    let again = pipeline.ended("snapshot", &["*"]);
    assert_eq!(code(&again), 0, "{}", again.stderr);
    pipeline.catch_up();
    assert_eq!(pipeline.verify_equal(), 1);
}

#[test]
fn a_standby_without_the_slot() {
    let pair = Pair::new(PgVersion::V15, Options::new());
    let target = target();
    let pipeline = Pipeline::new("noslot", &pair.url(), &[&target.url()]);
    pipeline.catch_up();
    pair.level();
    pair.primary.kill();
    pair.standby.promote();
    pair.on_standby("insert into t values (3, 'unseen')");
    refused_and_copied_again(&pair, &pipeline, &["it is gone", "no copy of it"]);
}

#[test]
fn a_standby_that_was_promoted_behind_the_target() {
    for version in [PgVersion::V15, PgVersion::V18] {
        let pair = Pair::new(version, Options::new());
        let target = target();
        let pipeline = Pipeline::new("behind", &pair.url(), &[&target.url()]);
        pipeline.catch_up();
        pair.level();
        pair.standby.stop();
        pair.database.sql("insert into t values (3, 'lost with the primary')");
        pipeline.catch_up();
        assert_eq!(target.sql("select count(*) from t"), "3");
        pair.primary.kill();
        pair.standby.restart();
        pair.standby.promote();
        refused_and_copied_again(&pair, &pipeline, &["left timeline 1 at", "changes that this server lost"]);
        assert_eq!(target.sql("select string_agg(id::text, ',' order by id) from t"), "-1,1,2");
    }
}
