//! The log of real servers as batches: every operation, identity, boundary and restart.

mod source;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crossfade_core::{Boundary, Class, Exit, Limit, Position, Stream};
use crossfade_harness::{Options, PgVersion, Postgres};
use crossfade_postgres::source::position::PgPosition;
use source::{Site, changes, failure, limit, read, try_read};

const BOTH: [PgVersion; 2] = [PgVersion::V15, PgVersion::V18];

/// A value that is stored apart, and not compressed.
const LARGE: &str = "(select string_agg(md5(i::text), '') from generate_series(1, 400) i)";

fn both(ddl: &str, test: impl Fn(&Site)) {
    for version in BOTH {
        test(&Site::new(Postgres::shared(version), ddl));
    }
}

#[test]
fn every_operation_in_log_order() {
    both("create table t (id int primary key, v text); create table u (id int primary key)", |site| {
        let from = site.begin();
        let tables = [site.table("t", &["id"]), site.table("u", &["id"])];
        let mut stream = site.stream(&from, &tables).unwrap();
        site.sql("insert into t values (1, 'a'), (2, null)");
        site.sql(
            "begin; insert into u values (7); update t set v = 'b' where id = 1; insert into u values (8); commit",
        );
        site.sql("update t set id = 3 where id = 1; delete from t where id = 2");
        site.sql(
            "begin; insert into t values (9, 'x'); savepoint s; insert into t values (10, 'y'); \
                  rollback to s; insert into t values (11, 'z'); commit",
        );
        site.sql("begin; insert into t values (99, 'never'); rollback");
        site.sql("truncate t, u");
        site.sql("insert into u values (1)");
        let until = site.now();
        let batches = read(&mut stream, &until);
        let want = [
            "+t 1,a",
            "+t 2,NULL",
            "+u 7",
            "~t 1,b",
            "+u 8",
            "-t 1,NULL",
            "+t 3,b",
            "-t 2,NULL",
            "+t 9,x",
            "+t 11,z",
            "truncate t",
            "truncate u",
            "+u 1",
        ];
        assert_eq!(changes(&batches), want);
        assert!(batches.iter().any(|b| b.commit_micros.is_some_and(|m| m > 1_600_000_000_000_000)));
        // Tables that are not carried, and tables of none.
        site.sql("create table w (id int primary key); insert into w values (1)");
        assert!(changes(&read(&mut stream, &site.now())).is_empty());
    });
}

#[test]
fn large_values_that_did_not_change() {
    let ddl = "create table t (id int primary key, n int, v text); alter table t alter v set storage external; \
               create table f (id int primary key, n int, v text); alter table f alter v set storage external; \
               alter table f replica identity full";
    both(ddl, |site| {
        let from = site.begin();
        let tables = [site.table("t", &["id"]), site.table("f", &["id"])];
        let mut stream = site.stream(&from, &tables).unwrap();
        site.sql(&format!("insert into t values (1, 1, {LARGE}); insert into f values (1, 1, {LARGE})"));
        site.sql("update t set n = 2; update f set n = 2; update f set id = 2; delete from f");
        let text = "c4ca4238a0b923820dcc";
        let want = [
            format!("+t 1,1,{text}"),
            format!("+f 1,1,{text}"),
            "~t 1,2,…".into(),
            format!("~f 1,2,{text}"),
            format!("-f 1,2,{text}"),
            format!("+f 2,2,{text}"),
            format!("-f 2,2,{text}"),
        ];
        assert_eq!(changes(&read(&mut stream, &site.now())), want);
        site.sql("update t set id = 5");
        let error = failure(&mut stream);
        let Class::Data(place) = error.class() else { panic!("{error:?}") };
        assert_eq!((place.column.as_deref(), place.key.as_deref()), (Some("v"), Some("id=5")), "{error:?}");
        assert!(error.hint_text().unwrap().contains("REPLICA IDENTITY FULL"));
    });
}

#[test]
fn identities_and_bags() {
    let ddl = "create table i (a int, code text not null unique, v text); alter table i replica identity using index i_code_key; \
               create table bag (a int, v text); alter table bag replica identity full; \
               create table lost (id int primary key, other int not null unique)";
    both(ddl, |site| {
        let from = site.begin();
        let tables = [site.table("i", &["code"]), site.table("bag", &[]), site.table("lost", &["id"])];
        let mut stream = site.stream(&from, &tables).unwrap();
        site.sql("insert into i values (1, 'x', 'a'); update i set v = 'b'; update i set code = 'y'; delete from i");
        site.sql(
            "insert into bag values (1, 'x'), (1, 'x'); update bag set v = 'y' where ctid = '(0,1)'; delete from bag",
        );
        let want = [
            "+i 1,x,a",
            "~i 1,x,b",
            "-i NULL,x,NULL",
            "+i 1,y,b",
            "-i NULL,y,NULL",
            "+bag 1,x",
            "+bag 1,x",
            "-bag 1,x",
            "+bag 1,y",
            "-bag 1,x",
            "-bag 1,y",
        ];
        assert_eq!(changes(&read(&mut stream, &site.now())), want);
        // The identity moves away from the key.
        site.sql("insert into lost values (1, 1); alter table lost replica identity using index lost_other_key; delete from lost");
        let error = failure(&mut stream);
        assert!(error.to_string().contains("no longer covers"), "{error:?}");
        assert!(matches!(error.class(), Class::Data(_)) && error.hint_text().is_some());
    });
}

#[test]
fn a_bag_whose_old_rows_are_not_whole_stops() {
    both(
        "create table bag (a int not null unique, v text); alter table bag replica identity using index bag_a_key",
        |site| {
            let from = site.begin();
            let mut stream = site.stream(&from, &[site.table("bag", &[])]).unwrap();
            site.sql("insert into bag values (1, 'x'); update bag set v = 'y'");
            let error = failure(&mut stream);
            assert!(
                error.to_string().contains("whole row") && error.hint_text().unwrap().contains("FULL"),
                "{error:?}"
            );
        },
    );
}

#[test]
fn prepared_transactions_come_with_their_commit() {
    for version in BOTH {
        let pg = Postgres::start(version, Options::new().set("max_prepared_transactions", 5));
        let site = Site::new(&pg, "create table t (id int primary key)");
        let from = site.begin();
        let mut stream = site.stream(&from, &[site.table("t", &["id"])]).unwrap();
        site.sql("begin; insert into t values (1); prepare transaction 'x'");
        site.sql("begin; insert into t values (2); prepare transaction 'y'");
        site.sql("insert into t values (3)");
        assert_eq!(changes(&read(&mut stream, &site.now())), ["+t 3"]);
        site.sql("commit prepared 'x'; ");
        site.sql("rollback prepared 'y'");
        assert_eq!(changes(&read(&mut stream, &site.now())), ["+t 1"]);
    }
}

#[test]
fn a_large_transaction_comes_in_open_batches() {
    both("create table t (id int primary key, v text)", |site| {
        let from = site.begin();
        let mut stream = site.stream(&from, &[site.table("t", &["id"])]).unwrap();
        site.sql("insert into t select i, repeat('x', 50) from generate_series(1, 20000) i");
        site.sql("insert into t values (0, 'after')");
        let small = Limit { bytes: 100_000, ..limit(Some(site.now())) };
        let (mut open, mut rows, mut committed) = (0, 0, 0);
        loop {
            let batch = stream.next(&small).unwrap().expect("within the time limit");
            assert!(batch.bytes() < 2_000_000, "{}", batch.bytes());
            rows += batch.rows();
            match batch.end {
                Boundary::Open => open += 1,
                Boundary::Commit(end) => {
                    committed += batch.items.len();
                    if Some(end) == small.until {
                        break;
                    }
                }
            }
        }
        assert!(open > 5 && committed > 0, "{open} open batches");
        assert_eq!(rows, 20_001);
    });
}

/// From every position that a batch ended at, the rest comes, once.
#[test]
fn restarts_repeat_and_lose_nothing() {
    both("create table t (id int primary key, v text)", |site| {
        let from = site.begin();
        let tables = [site.table("t", &["id"])];
        let mut stream = site.stream(&from, &tables).unwrap();
        for i in 0..12 {
            site.sql(&format!("begin; insert into t values ({i}, 'a'); update t set v = 'b' where id = {i}; commit"));
        }
        let until = site.now();
        let one = || Limit { rows: 1, ..limit(Some(until.clone())) };
        let mut ends: Vec<Position> = vec![from];
        let mut all = Vec::new();
        while ends.last() != Some(&until) {
            let batch = stream.next(&one()).unwrap().expect("within the time limit");
            let Boundary::Commit(end) = batch.end.clone() else { panic!("an open batch") };
            let of_batch = changes(&[batch]);
            assert!(matches!(of_batch.len(), 0 | 2), "{of_batch:?}");
            all.push(of_batch);
            ends.push(end);
        }
        assert_eq!(all.concat().len(), 24);
        drop(stream);
        for (i, end) in ends.iter().enumerate() {
            let mut stream = site.restart(end, &tables);
            assert_eq!(changes(&read(&mut stream, &until)), all[i..].concat(), "from {end}");
        }
        // The slot keeps what was not acknowledged, and gives up what was.
        let confirmed = |op: &str, end: &Position| {
            let (lsn, slot) = (PgPosition::parse(end).unwrap().lsn, site.slot());
            site.sql(&format!(
                "select confirmed_flush_lsn {op} '{lsn}' from pg_replication_slots where slot_name = '{slot}'"
            ))
        };
        site.sql("insert into t values (100, 'a')");
        let mut stream = site.restart(&until, &tables);
        let end = site.now();
        assert_eq!(changes(&read(&mut stream, &end)), ["+t 100,a"]);
        assert_eq!(confirmed("<=", &until), "t");
        stream.ack(&end).unwrap();
        while confirmed("=", &end) != "t" {}
    });
}

#[test]
fn until_ends_between_commits() {
    both("create table t (id int primary key)", |site| {
        let from = site.begin();
        let tables = [site.table("t", &["id"])];
        let mut stream = site.stream(&from, &tables).unwrap();
        let mut marks = Vec::new();
        for i in 0..6 {
            site.sql(&format!("insert into t values ({i})"));
            // Between two commits lies what is none.
            site.sql("select pg_switch_wal(); create temp table x (i int)");
            marks.push(site.now());
        }
        for (i, mark) in marks.iter().enumerate() {
            assert_eq!(changes(&read(&mut stream, mark)), [format!("+t {i}")], "{mark}");
        }
        // Again the same position: at once. One that has been passed: an error.
        let again = stream.next(&limit(marks.last().cloned())).unwrap().unwrap();
        assert_eq!((again.items.len(), again.end), (0, Boundary::Commit(marks[5].clone())));
        assert!(stream.next(&limit(Some(marks[2].clone()))).unwrap_err().hint_text().is_some());
        // A position of an idle log, and of another server.
        let start = Instant::now();
        let deadline = start + Duration::from_secs(30);
        read(&mut stream, &site.now());
        assert!(Instant::now() < deadline);
        let other = Position::new("7/1/0/1");
        assert!(try_read(&mut stream, &other).unwrap_err().to_string().contains("different servers"));
    });
}

#[test]
fn positions_move_beside_a_busy_table() {
    for version in BOTH {
        let site =
            Site::new(Postgres::shared(version), "create table idle (id int primary key); create table busy (id int)");
        site.sql("drop publication p; create publication p for table idle");
        let from = site.begin();
        let mut stream = site.stream(&from, &[site.table("idle", &["id"])]).unwrap();
        let mut last = from;
        for _ in 0..3 {
            site.sql("insert into busy select i from generate_series(1, 1000) i");
            site.sql("select pg_logical_emit_message(false, 'x', 'y')");
            let target = site.now();
            let batch = loop {
                let batch = stream.next(&limit(None)).unwrap().expect("the position moves");
                let Boundary::Commit(end) = &batch.end else { panic!("an open batch") };
                let (end_at, target_at) = (PgPosition::parse(end).unwrap(), PgPosition::parse(&target).unwrap());
                if end_at.lsn >= target_at.lsn || site.sql("select 1").is_empty() {
                    break batch;
                }
                stream.ack(end).unwrap();
            };
            assert!(batch.items.is_empty());
            let Boundary::Commit(end) = batch.end else { panic!("an open batch") };
            stream.ack(&end).unwrap();
            assert_ne!(end, last);
            last = end;
        }
        // What the slot keeps moves with it, and nothing is lost.
        site.sql("insert into idle values (1)");
        assert_eq!(changes(&read(&mut stream, &site.now())), ["+idle 1"]);
    }
}

#[test]
fn slots_that_do_not_go_on() {
    both("create table t (id int primary key)", |site| {
        let from = site.begin();
        let tables = [site.table("t", &["id"])];
        let slot = site.slot();
        let refused = |from: &Position, want: &str, transient: bool| {
            let error = site.stream(from, &tables).err().expect(want);
            assert!(format!("{error:?}").contains(want), "{want}: {error:?}");
            assert!(error.hint_text().is_some(), "{error:?}");
            assert_eq!(error.is_transient(), transient, "{error:?}");
            // What is wrong with one table is its own trouble.
            let of_a_table = matches!(want, "not in it" | "leaves out rows");
            if !transient {
                assert_eq!(error.exit(), if of_a_table { Exit::Data } else { Exit::Unavailable }, "{want}");
            }
        };
        let running = site.stream(&from, &tables).unwrap();
        refused(&from, "uses it", true);
        drop(running);
        let at = PgPosition::parse(&from).unwrap();
        refused(&PgPosition { system: 7, ..at }.to_position(), "another server", false);
        refused(&PgPosition { timeline: 9, ..at }.to_position(), "timeline", false);
        drop(site.restart(&from, &tables));
        while site.sql("select count(*) from pg_replication_slots where active and database = current_database()")
            != "0"
        {}
        site.sql("insert into t values (1)");
        site.sql(&format!("select pg_replication_slot_advance('{slot}', pg_current_wal_insert_lsn())"));
        refused(&from, "between them is gone", false);
        site.sql(&format!("select pg_drop_replication_slot('{slot}')"));
        refused(&from, "it is gone", false);
        site.sql(&format!("select pg_create_logical_replication_slot('{slot}', 'pgoutput')"));
        refused(&from, "created again", false);
        let fresh = site.now();
        site.sql("drop publication p");
        refused(&fresh, "publication p: it is gone", false);
        site.sql("create publication p");
        refused(&fresh, "not in it", false);
        site.sql("drop publication p; create publication p for table t with (publish = 'insert')");
        refused(&fresh, "all operations", false);
        site.sql("drop publication p; create publication p for table t where (id > 5)");
        refused(&fresh, "leaves out rows", false);
        site.sql(&format!("select pg_drop_replication_slot('{slot}'); select pg_create_logical_replication_slot('{slot}', 'test_decoding')"));
        refused(&fresh, "plugin", false);
        site.sql(&format!("select pg_drop_replication_slot('{slot}'); select pg_create_logical_replication_slot('{slot}', 'pgoutput', false, true)"));
        refused(&fresh, "two_phase", false);
    });
}

#[test]
fn alters_are_followed() {
    both("create table t (id int primary key, a int, b text)", |site| {
        let from = site.begin();
        let mut stream = site.stream(&from, &[site.table("t", &["id"])]).unwrap();
        site.sql("insert into t values (1, 1, 'x')");
        site.sql("alter table t add c int; insert into t values (2, 2, 'x', 3)");
        assert_eq!(changes(&read(&mut stream, &site.now())), ["+t 1,1,x", "alter t: add c=None", "+t 2,2,x,3"]);
        site.sql("alter table t add d text default 'it''s, {\"so\"}'; insert into t values (3, 3, 'x', 3, 'y')");
        let filled = "alter t: add d=Some(\"it's, {\\\"so\\\"}\")";
        assert_eq!(changes(&read(&mut stream, &site.now())), [filled, "+t 3,3,x,3,y"]);
        site.sql("alter table t drop c; alter table t rename b to z; update t set a = 9 where id = 3");
        assert_eq!(changes(&read(&mut stream, &site.now())), ["alter t: drop c, rename b to z", "~t 3,9,x,y"]);
        site.sql("alter table t alter a type bigint; update t set a = 10 where id = 3");
        let error = failure(&mut stream);
        assert!(error.to_string().contains("bigint") && matches!(error.class(), Class::Data(_)), "{error:?}");
        assert!(error.hint_text().is_some());
    });
}

#[test]
fn alters_that_cannot_be_told_stop() {
    for (ddl, want) in [
        ("alter table t drop a; alter table t add a int", "another took its name"),
        ("alter table t add c int; alter table t drop c; alter table t add d int", "came and went"),
        (
            "alter table t add x int; insert into t values (9); alter table t drop x; alter table t add x int",
            "came and went",
        ),
        ("alter table t add c text default clock_timestamp()::text", "not to be told"),
        ("alter table t rename a to y; alter table t rename b to a", "another took its name"),
        (
            "alter table t add x int; insert into t values (9); alter table t rename x to y; alter table t add x int",
            "was renamed",
        ),
        ("alter table t rename to was; create table t (id int primary key, a int, b int)", "renamed"),
        ("alter table t drop a", ""),
    ] {
        let site = Site::new(Postgres::shared(PgVersion::V18), "create table t (id int primary key, a int, b int)");
        let from = site.begin();
        let mut stream = site.stream(&from, &[site.table("t", &["id"])]).unwrap();
        site.sql("insert into t values (1)");
        read(&mut stream, &site.now());
        site.sql(ddl);
        site.sql("insert into t values (2)");
        match try_read(&mut stream, &site.now()) {
            Err(e) => {
                assert!(!want.is_empty() && e.to_string().contains(want) && e.hint_text().is_some(), "{ddl}: {e:?}")
            }
            Ok(batches) => assert!(want.is_empty(), "{ddl}: {:?}", changes(&batches)),
        }
    }
}

/// Another table under the name of a carried one, of the same shape: made while nobody reads, or noticed in the log only.
#[test]
fn a_table_that_took_the_place_of_another_stops() {
    for swap in [
        "drop table t; create table t (id int primary key)",
        "create table n (id int primary key); alter table t rename to o; alter table n rename to t",
    ] {
        both("create table t (id int primary key)", |site| {
            let from = site.begin();
            let tables = [site.table("t", &["id"])];
            let replaced = |error: crossfade_core::Error| {
                assert!(error.to_string().contains("took its name"), "{swap}: {error:?}");
                assert!(matches!(error.class(), Class::Data(place) if place.table == "public.t"), "{error:?}");
                assert!(error.hint_text().unwrap().contains("crossfade snapshot public.t"));
            };
            let mut reader = site.stream(&from, &tables).unwrap();
            site.sql(&format!("{swap}; insert into t values (1)"));
            replaced(try_read(&mut reader, &site.now()).unwrap_err());
            drop(reader);
            loop {
                match site.stream(&from, &tables) {
                    Err(e) if e.is_transient() => {}
                    started => break replaced(started.err().expect("another table")),
                }
            }
            // As it is now, it is carried on; and what keeps a table the same passes.
            let now = site.now();
            let mut stream = site.restart(&now, &[site.table("t", &["id"])]);
            site.sql("truncate t; insert into t values (2)");
            site.sql("vacuum full t");
            site.sql("insert into t values (3)");
            assert_eq!(changes(&read(&mut stream, &site.now())), ["truncate t", "+t 2", "+t 3"]);
        });
    }
}

#[test]
fn a_paused_reader_keeps_its_connection() {
    for version in BOTH {
        let pg = Postgres::start(version, Options::new().set("wal_sender_timeout", "2s"));
        let site = Site::new(&pg, "create table t (id int primary key, v text)");
        let from = site.begin();
        let mut stream = site.stream(&from, &[site.table("t", &["id"])]).unwrap();
        site.sql("insert into t select i, repeat(md5(i::text), 30) from generate_series(1, 20000) i");
        // More than sockets hold is on its way; nobody reads it for a while.
        let end = Instant::now() + Duration::from_secs(6);
        while Instant::now() < end {
            stream.ack(&from).unwrap();
            std::thread::sleep(Duration::from_millis(500));
        }
        let ids: BTreeSet<String> = changes(&read(&mut stream, &site.now())).into_iter().collect();
        assert_eq!(ids.len(), 20_000);
        // Idle: the server asks for signs of life, and gets them while we wait.
        let until = Instant::now() + Duration::from_secs(5);
        let idle = Limit { deadline: until, ..limit(None) };
        while Instant::now() < until {
            stream.next(&idle).unwrap();
        }
        site.sql("insert into t values (0, 'x')");
        assert_eq!(changes(&read(&mut stream, &site.now())), ["+t 0,x"]);
    }
}

#[test]
fn a_server_that_restarts_is_a_transient_error() {
    let pg = Postgres::start(PgVersion::V18, Options::new());
    let site = Site::new(&pg, "create table t (id int primary key)");
    let from = site.begin();
    let mut stream = site.stream(&from, &[site.table("t", &["id"])]).unwrap();
    site.sql("insert into t values (1)");
    let end = site.now();
    read(&mut stream, &end);
    site.sql("select pg_terminate_backend(pid) from pg_stat_replication");
    assert!(failure(&mut stream).is_transient());
    site.sql("insert into t values (2)");
    let mut stream = site.restart(&end, &[site.table("t", &["id"])]);
    assert_eq!(changes(&read(&mut stream, &site.now())), ["+t 2"]);
}
