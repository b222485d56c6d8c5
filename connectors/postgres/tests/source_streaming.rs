//! Transactions that real servers send while they are open: in segments, interleaved, rolled back in part, prepared, restarted.
//!
//! 64 kB of `logical_decoding_work_mem` (the least) make the server send what is larger; from 16 on a setting for developers makes
//! it send everything at once.

mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crossfade_core::{Boundary, Limit, Stream, TableSchema};
use crossfade_harness::{Options, PgVersion, Postgres};
use crossfade_postgres::source::position::PgPosition;
use source::{Session, Site, changes, limit, read};

const SMALL: &str = "options=-c%20logical_decoding_work_mem%3D64kB";
const AT_ONCE: &str = "options=-c%20debug_logical_replication_streaming%3Dimmediate";
const WAYS: [(PgVersion, &str); 3] = [(PgVersion::V15, SMALL), (PgVersion::V18, SMALL), (PgVersion::V18, AT_ONCE)];

fn each_way(ddl: &str, test: impl Fn(&Site)) {
    for (version, query) in WAYS {
        test(&Site::with(Postgres::shared(version), ddl, query));
    }
}

/// Waits until the server says that it has sent so many transactions while they were open.
fn demand_streamed(site: &Site, slot: &str, transactions: u32) {
    let sql = format!("select stream_txns >= {transactions} from pg_stat_replication_slots where slot_name = '{slot}'");
    while site.sql(&sql) != "t" {}
}

fn inserted(table: &str, ids: std::ops::RangeInclusive<i32>, value: &str) -> Vec<String> {
    ids.map(|i| format!("+{table} {i},{value}")).collect()
}

fn insert(table: &str, from: i32, to: i32, value: &str) -> String {
    format!("insert into {table} select i, '{value}' from generate_series({from}, {to}) i;")
}

const TWO: &str = "create table t (id int primary key, v text); create table u (id int primary key, v text)";

#[test]
fn interleaved_transactions_come_whole_in_the_order_of_their_commits() {
    each_way(TWO, |site| {
        let from = site.begin();
        let mut stream = site.stream(&from, &[site.table("t", &["id"]), site.table("u", &["id"])]).unwrap();
        let (a, b, c) = (site.session(), site.session(), site.session());
        a.sql(&format!("begin; {} savepoint s; {}", insert("t", 1, 2000, "a"), insert("u", 1, 1000, "never")));
        b.sql(&format!("begin; {}", insert("t", 10_001, 12_000, "b")));
        c.sql(&format!("begin; {}", insert("t", 20_001, 22_000, "never")));
        a.sql(&format!(
            "rollback to s; savepoint r; {} savepoint q; {}",
            insert("u", 1, 2, "in"),
            insert("u", 3, 900, "never")
        ));
        site.sql("insert into t values (0, 'small')");
        let before = site.now();
        assert_eq!(changes(&read(&mut stream, &before)), ["+t 0,small"], "nothing of what is open");
        demand_streamed(site, &site.slot(), 2);
        // What is open holds up neither the position nor what the server may discard behind it.
        stream.ack(&before).unwrap();
        a.sql("rollback to q; release r; select pg_logical_emit_message(true, 'x', repeat('y', 100000))");
        c.sql("rollback");
        b.sql("delete from t where id = 10002; update t set v = 'bb' where id = 10001; commit");
        a.sql("update t set id = -1 where id = 1; truncate u; insert into u values (7, 'last'); commit");
        let b = [inserted("t", 10_001..=12_000, "b"), vec!["-t 10002,NULL".into(), "~t 10001,bb".into()]].concat();
        let end = ["-t 1,NULL", "+t -1,a", "truncate u", "+u 7,last"].map(String::from).to_vec();
        let a = [inserted("t", 1..=2000, "a"), inserted("u", 1..=2, "in"), end].concat();
        let after = site.now();
        let batches = read(&mut stream, &after);
        assert_eq!(changes(&batches), [b, a].concat());
        assert!(batches.iter().all(|b| b.commit_micros.is_some_and(|m| m > 1_600_000_000_000_000)));
        // And it goes on as before.
        site.sql("insert into u values (8, 'x'); delete from t");
        assert_eq!(changes(&read(&mut stream, &site.now())).len(), 1 + 2000 + 1999 + 1);
    });
}

/// Shapes that were never committed are not those of other transactions, nor of the same one after a savepoint.
#[test]
fn shapes_that_roll_back_disturb_nobody() {
    each_way(TWO, |site| {
        let from = site.begin();
        let tables = [site.table("t", &["id"]), site.table("u", &["id"])];
        let mut stream = site.stream(&from, &tables).unwrap();
        let (a, b) = (site.session(), site.session());
        a.sql(&format!(
            "begin; {} savepoint s; alter table t add w int default 5; alter table t drop v",
            insert("t", 1, 900, "a")
        ));
        a.sql("insert into t select i, i from generate_series(901, 3000) i");
        b.sql(&format!("begin; {}", insert("u", 1, 1000, "b")));
        a.sql(&format!("rollback to s; {}", insert("t", 3001, 4000, "c")));
        assert!(changes(&read(&mut stream, &site.now())).is_empty());
        b.sql("alter table u add w int; insert into u values (0, 'x', 1); rollback");
        site.sql("insert into u values (1, 'y')");
        assert_eq!(changes(&read(&mut stream, &site.now())), ["+u 1,y"]);
        a.sql("commit");
        let want = [inserted("t", 1..=900, "a"), inserted("t", 3001..=4000, "c")].concat();
        assert_eq!(changes(&read(&mut stream, &site.now())), want);
    });
}

/// A table changes its shape inside of a transaction that is sent while it is open: with its commit, for those after it too.
#[test]
fn shapes_that_commit_are_followed() {
    each_way(TWO, |site| {
        let from = site.begin();
        let mut stream = site.stream(&from, &[site.table("t", &["id"]), site.table("u", &["id"])]).unwrap();
        let a = site.session();
        a.sql(&format!("begin; {} alter table t add w int default 5", insert("t", 1, 1000, "a")));
        a.sql("insert into t select i, 'b', 6 from generate_series(1001, 2000) i");
        site.sql("insert into u values (1, 'x')");
        assert_eq!(changes(&read(&mut stream, &site.now())), ["+u 1,x"]);
        a.sql("commit");
        site.sql("insert into t values (0, 'c', 7)");
        let second = (1001..=2000).map(|i| format!("+t {i},b,6")).collect();
        let first = inserted("t", 1..=1000, "a");
        let want = [first, vec!["alter t: add w=Some(\"5\")".into()], second, vec!["+t 0,c,7".into()]].concat();
        assert_eq!(changes(&read(&mut stream, &site.now())), want);
    });
}

#[test]
fn a_restart_gets_open_transactions_from_their_beginning() {
    each_way(TWO, |site| {
        let from = site.begin();
        let tables = [site.table("t", &["id"]), site.table("u", &["id"])];
        let mut stream = site.stream(&from, &tables).unwrap();
        let a = site.session();
        a.sql(&format!("begin; {} savepoint s; {}", insert("t", 1, 2000, "a"), insert("u", 1, 2000, "never")));
        site.sql("insert into u values (-1, 'x')");
        let middle = site.now();
        assert_eq!(changes(&read(&mut stream, &middle)), ["+u -1,x"]);
        demand_streamed(site, &site.slot(), 1);
        stream.ack(&middle).unwrap();
        drop(stream);
        a.sql(&format!("rollback to s; {}", insert("t", 2001, 4000, "a")));
        let mut stream = site.restart(&middle, &tables);
        assert!(changes(&read(&mut stream, &site.now())).is_empty());
        drop(stream);
        a.sql("commit");
        let mut stream = site.restart(&middle, &tables);
        assert_eq!(changes(&read(&mut stream, &site.now())), inserted("t", 1..=4000, "a"));
    });
}

/// Everything ends at a fence, also where it falls between the segments of a transaction, or right before its commit.
#[test]
fn fences_beside_open_transactions() {
    each_way(TWO, |site| {
        let from = site.begin();
        let tables = [site.table("t", &["id"]), site.table("u", &["id"])];
        let mut stream = site.stream(&from, &tables).unwrap();
        let a = site.session();
        let mut marks = Vec::new();
        for i in 0..3 {
            a.sql(&format!("begin; {}", insert("t", i * 2000, i * 2000 + 1999, "a")));
            site.sql(&format!("insert into u values ({i}, 'x')"));
            marks.push((site.now(), vec![format!("+u {i},x")]));
            a.sql("commit");
            marks.push((site.now(), inserted("t", i * 2000..=i * 2000 + 1999, "a")));
        }
        for (mark, want) in &marks {
            assert_eq!(changes(&read(&mut stream, mark)), *want, "{mark}");
            let again = stream.next(&limit(Some(mark.clone()))).unwrap().unwrap();
            assert_eq!((again.items.len(), again.end), (0, Boundary::Commit(mark.clone())));
        }
    });
}

/// More than memory holds goes to a file, and from there in open batches of bounded size.
#[test]
fn a_large_transaction_is_spooled_and_handed_on_in_parts() {
    each_way(TWO, |site| {
        let from = site.begin();
        let mut stream = site.stream(&from, &[site.table("t", &["id"])]).unwrap();
        site.sql("insert into t select i, repeat('x', 500) from generate_series(1, 40000) i");
        site.sql("insert into t values (0, repeat('y', 20000000))");
        let small = Limit { bytes: 100_000, ..limit(Some(site.now())) };
        let (mut open, mut rows) = (0, 0);
        loop {
            let batch = stream.next(&small).unwrap().expect("within the time limit");
            assert!(batch.bytes() < 2_000_000 || batch.rows() == 1, "{}", batch.bytes());
            rows += batch.rows();
            match batch.end {
                Boundary::Open => open += 1,
                Boundary::Commit(end) if Some(&end) == small.until.as_ref() => break,
                Boundary::Commit(_) => {}
            }
        }
        assert!(open > 50, "{open} open batches");
        assert_eq!(rows, 40_001);
        demand_streamed(site, &site.slot(), 1);
    });
}

#[test]
fn large_prepared_transactions_come_with_their_commit() {
    for (version, query) in WAYS {
        let pg = Postgres::start(version, Options::new().set("max_prepared_transactions", 5));
        let site = Site::with(&pg, TWO, query);
        let from = site.begin();
        let tables = [site.table("t", &["id"]), site.table("u", &["id"])];
        let mut stream = site.stream(&from, &tables).unwrap();
        site.sql(&format!("begin; {} prepare transaction 'x'", insert("t", 1, 2000, "a")));
        site.sql(&format!("begin; {} prepare transaction 'y'", insert("t", 2001, 4000, "never")));
        site.sql(&format!("begin; {} prepare transaction 'z'", insert("u", 1, 2000, "z")));
        site.sql("insert into t values (0, 'small')");
        let middle = site.now();
        assert_eq!(changes(&read(&mut stream, &middle)), ["+t 0,small"]);
        demand_streamed(&site, &site.slot(), 2);
        stream.ack(&middle).unwrap();
        site.sql("commit prepared 'x'");
        assert_eq!(changes(&read(&mut stream, &site.now())), inserted("t", 1..=2000, "a"));
        // Prepared before, committed after a restart of the reader, and of the server.
        drop(stream);
        pg.restart();
        let mut stream = site.restart(&middle, &tables);
        site.sql("rollback prepared 'y'");
        assert_eq!(changes(&read(&mut stream, &site.now())), inserted("t", 1..=2000, "a"));
        site.sql("commit prepared 'z'");
        assert_eq!(changes(&read(&mut stream, &site.now())), inserted("u", 1..=2000, "z"));
    }
}

/// A server that fails while it sends an open transaction is asked for whole ones: it does when a savepoint with a TRUNCATE, or
/// another change of the catalog, was rolled back, and the same table was truncated again before the segment was sent.
#[test]
fn a_server_that_cannot_send_an_open_transaction() {
    each_way(TWO, |site| {
        let from = site.begin();
        let mut stream = site.stream(&from, &[site.table("t", &["id"]), site.table("u", &["id"])]).unwrap();
        site.sql("insert into u values (1, 'x')");
        site.sql(&format!(
            "begin; {} savepoint s; truncate t; rollback to s; {} truncate t; insert into t values (0, 'last'); commit",
            insert("t", 1, 2000, "a"),
            insert("t", 2001, 4000, "b")
        ));
        site.sql("insert into u values (2, 'y')");
        let end = ["truncate t", "+t 0,last", "+u 2,y"].map(String::from).to_vec();
        let rows = [inserted("t", 1..=2000, "a"), inserted("t", 2001..=4000, "b")].concat();
        let want = [vec!["+u 1,x".into()], rows, end].concat();
        assert_eq!(changes(&read(&mut stream, &site.now())), want);
        site.sql("insert into t values (1, 'x')");
        assert_eq!(changes(&read(&mut stream, &site.now())), ["+t 1,x"]);
    });
}

/// What was replicated to the source by others is left out, whether it comes whole or while it is open.
#[test]
fn the_origin_of_changes() {
    for query in [SMALL, AT_ONCE, "streaming=off"] {
        let site = Site::with(Postgres::shared(PgVersion::V18), TWO, query);
        let (from, tables) = (site.begin(), [site.table("t", &["id"])]);
        let origin = format!("elsewhere_{}", site.db.name());
        site.sql(&format!("select pg_replication_origin_create('{origin}')"));
        let theirs = site.session();
        theirs.sql(&format!("select pg_replication_origin_session_setup('{origin}')"));
        theirs.sql(&insert("t", 1, 2000, "theirs"));
        theirs.sql("insert into t values (-1, 'theirs')");
        site.sql(&insert("t", 10_001, 12_000, "ours"));
        let end = site.now();
        let read_by = |origin: &str| {
            let server = site.server(&format!("{query}&origin={origin}"));
            let mut stream = loop {
                match site.stream_of(&server, &site.slot(), &from, &tables) {
                    Ok(stream) => break stream,
                    Err(e) => assert!(e.is_transient(), "{e:?}"),
                }
            };
            changes(&read(&mut stream, &end))
        };
        let (theirs, ours) = (inserted("t", 1..=2000, "theirs"), inserted("t", 10_001..=12_000, "ours"));
        assert_eq!(read_by("none"), ours);
        assert_eq!(read_by("any"), [theirs, vec!["+t -1,theirs".into()], ours].concat());
    }
    let old = Site::with(Postgres::shared(PgVersion::V15), TWO, "origin=none");
    let from = old.begin();
    let refused = old.stream(&from, &[old.table("t", &["id"])]).err().expect("15 has no origins");
    assert!(refused.to_string().contains("version 16") && refused.hint_text().is_some(), "{refused:?}");
}

/// A stream of numbers that only depends on its beginning (xorshift64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

const WRITERS: usize = 3;

/// One session's transactions, on a table of its own and on one that all share.
struct Writer {
    session: Session,
    table: String,
    open: bool,
    savepoints: u32,
}

impl Writer {
    fn step(&mut self, dice: &mut Dice) {
        let (t, n) = (&self.table, dice.roll(1000));
        if !self.open {
            self.session.sql("begin");
            self.open = true;
        }
        let size = if dice.roll(3) == 0 { 800 } else { 5 };
        let sql = match dice.roll(14) {
            0..=2 => format!(
                "insert into {t} select i, {n}, 'v{n}', case when i % 50 = 0 then {LARGE} end from generate_series({n}, {n} + {size}) i \
                 on conflict (id) do update set n = excluded.n"
            ),
            3 => format!("insert into shared select nextval('numbers'), {n} from generate_series(1, {size})"),
            4 | 5 => format!("update {t} set n = n + 1 where id % 3 = {n} % 3"),
            6 => format!("update {t} set id = id + 10000 where big is null and id between {n} and {n} + 20"),
            7 => format!("delete from {t} where id % 5 = {n} % 5"),
            8 => format!("truncate {t}"),
            9 => "select pg_logical_emit_message(true, 'x', repeat('y', 5000))".into(),
            10 => {
                self.savepoints += 1;
                format!("savepoint s{}", self.savepoints)
            }
            11 if self.savepoints > 0 => {
                self.savepoints -= 1;
                format!("release s{}", self.savepoints + 1)
            }
            12 if self.savepoints > 0 => {
                self.savepoints -= 1;
                let s = self.savepoints + 1;
                let shape = format!(
                    "alter table {t} add w int; insert into {t} select -i, i, 'w', null, i from generate_series(1, {size}) i"
                );
                format!("{}; rollback to s{s}; release s{s}", if n % 2 == 0 { shape.as_str() } else { "" })
            }
            _ if n % 3 == 0 => {
                (self.open, self.savepoints) = (false, 0);
                if n % 2 == 0 { "rollback" } else { "commit" }.into()
            }
            _ => format!("update {t} set v = 'w{n}' where id = {n}"),
        };
        self.session.sql(&sql);
    }
}

/// A value that is stored apart, and not compressed.
const LARGE: &str = "(select string_agg(md5(j::text), '') from generate_series(1, 100) j)";

/// Sessions at random, with savepoints rolled back: whether the server sends transactions while they are open or at their commit,
/// the same changes come in the same order; and they lead to the rows that are there.
#[test]
fn open_or_whole_the_same_changes_come() {
    for (version, query) in WAYS {
        for seed in 1..=3 {
            same_changes(version, query, seed * 7919);
        }
    }
}

fn same_changes(version: PgVersion, query: &str, seed: u64) {
    let table = |i: usize| format!("t{i}");
    let ddl: Vec<String> = (0..WRITERS)
        .map(|i| format!("create table t{i} (id int primary key, n int, v text, big text); alter table t{i} alter big set storage external;"))
        .collect();
    let shared = "create table shared (id int primary key, n int); create sequence numbers;";
    let site = Site::with(Postgres::shared(version), &(ddl.concat() + shared), query);
    let mut names: Vec<String> = (0..WRITERS).map(table).collect();
    names.push("shared".into());
    let tables: Vec<Arc<TableSchema>> = names.iter().map(|t| site.table(t, &["id"])).collect();
    let from = site.begin();
    let whole = format!("whole_{}", site.db.name());
    site.sql(&format!("select pg_create_logical_replication_slot('{whole}', 'pgoutput')"));
    let mut dice = Dice(seed);
    let writer = |i| Writer { session: site.session(), table: table(i), open: false, savepoints: 0 };
    let mut writers: Vec<Writer> = (0..WRITERS).map(writer).collect();
    for _ in 0..150 {
        let turn = dice.roll(WRITERS as u64) as usize;
        writers[turn].step(&mut dice);
    }
    writers.iter().filter(|w| w.open).for_each(|w| w.session.sql("commit"));
    let end = site.now();
    let mut stream = site.stream(&from, &tables).unwrap();
    let streamed = changes(&read(&mut stream, &end));
    demand_streamed(&site, &site.slot(), 1);
    // The other slot was made a moment later, when nothing had been written.
    let other = site
        .at(&site.sql(&format!("select confirmed_flush_lsn from pg_replication_slots where slot_name = '{whole}'")));
    assert!(PgPosition::parse(&other).unwrap().lsn >= PgPosition::parse(&from).unwrap().lsn);
    let server = site.server("streaming=off");
    let mut stream = site.stream_of(&server, &whole, &other, &tables).unwrap();
    let at_commit = changes(&read(&mut stream, &end));
    let differs = streamed.iter().zip(&at_commit).position(|(a, b)| a != b);
    let around =
        |list: &[String]| differs.map(|i| list[i.saturating_sub(3)..].iter().take(7).cloned().collect::<Vec<_>>());
    assert_eq!(around(&streamed), around(&at_commit), "{version:?} {query} seed {seed}, change {differs:?}");
    assert_eq!(streamed.len(), at_commit.len(), "{version:?} {query} seed {seed}");
    let mut state: BTreeMap<&str, BTreeSet<i32>> = BTreeMap::new();
    for change in &streamed {
        let (what, rest) = change.split_once(' ').unwrap();
        let id = || rest.split(',').next().unwrap().parse().unwrap();
        match what.split_at(1) {
            ("+", table) => assert!(state.entry(table).or_default().insert(id()), "{change}"),
            ("-", table) => assert!(state.entry(table).or_default().remove(&id()), "{change}"),
            ("~", table) => assert!(state.entry(table).or_default().contains(&id()), "{change}"),
            _ => state.entry(rest).or_default().clear(),
        }
    }
    for name in &names {
        let there = site.sql(&format!("select id from {name} order by id"));
        let there: BTreeSet<i32> = there.lines().map(|l| l.parse().unwrap()).collect();
        assert_eq!(state.get(name.as_str()).cloned().unwrap_or_default(), there, "{name}");
    }
    drop(stream);
    while site.sql(&format!("select count(*) from pg_replication_slots where active and slot_name = '{whole}'")) != "0"
    {
    }
    site.sql(&format!("select pg_drop_replication_slot('{whole}')"));
}
