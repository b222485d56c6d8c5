//! What every source is held to: positions, snapshots, the stream and the two together.

use std::cmp::Ordering;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering as Memory};
use std::time::{Duration, Instant};

use super::changes::{Change, State, cells, collect, inserts, replay};
use super::{Check, SourceFixture, ensure};
use crate::batch::{Batch, Boundary};
use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;
use crate::position::Position;
use crate::schema::{TableName, TableSchema};
use crate::selection::Selection;
use crate::source::{Consistency, KeyRange, Limit, Snapshot, Source, Stream};

pub(super) fn checks<'a>() -> Vec<Check<dyn SourceFixture + 'a>> {
    vec![
        ("begin is idempotent", begin_is_idempotent),
        ("positions are ordered", positions_are_ordered),
        ("a snapshot sees what is committed", snapshots_see_committed_rows),
        ("ranges cover each row once", ranges_cover_each_row_once),
        ("the stream brings every change once, in order", stream_brings_every_change),
        ("an exact snapshot and the stream after it make the table", snapshot_and_stream_agree),
        ("exact snapshots under load stand at their position", exact_under_load),
        ("a restart at any commit brings the rest", restart_from_every_commit),
    ]
}

/// One table of a fresh source, its log begun.
pub(super) struct Bench {
    pub source: Arc<dyn Source>,
    pub session: Box<dyn super::Session>,
    pub tables: Vec<Arc<TableSchema>>,
    pub from: Position,
}

impl Bench {
    /// Makes `name`, fills it with `rows`, begins its log.
    pub fn new(fixture: &mut dyn SourceFixture, name: &str, rows: &[Change]) -> Result<Self> {
        let table = fixture.create(name)?;
        let mut session = fixture.session()?;
        if !rows.is_empty() {
            session.commit(rows)?;
        }
        let source = fixture.source()?;
        let tables = tables(source.as_ref(), &table)?;
        let from = source.begin(&tables)?;
        Ok(Bench { source, session, tables, from })
    }

    /// Commits each list as a transaction; the positions behind them.
    pub fn commit_each(&mut self, transactions: &[Vec<Change>]) -> Result<Vec<Position>> {
        transactions
            .iter()
            .map(|t| {
                self.session.commit(t)?;
                self.source.position()
            })
            .collect()
    }

    pub fn stream(&self, from: &Position) -> Result<Box<dyn Stream>> {
        self.source.stream(from, &self.tables)
    }

    pub fn is(&self, a: &Position, expected: Ordering, b: &Position) -> Result<()> {
        let found = self.source.order(a, b)?;
        ensure(found == expected, || format!("{a} against {b} is {found:?}, not {expected:?}"))
    }
}

fn tables(source: &dyn Source, name: &TableName) -> Result<Vec<Arc<TableSchema>>> {
    let selection = Selection { include: vec![name.to_string()], exclude: Vec::new() };
    let tables = source.tables(&selection)?;
    ensure(tables.len() == 1 && tables[0].name == *name, || format!("{name} is selected, {tables:?} are found"))?;
    Ok(tables)
}

/// A limit that hardly limits.
pub(super) fn wide() -> Limit {
    Limit { deadline: Instant::now() + Duration::from_secs(2), bytes: 64 << 20, rows: 1_000_000, until: None }
}

/// Everything up to `end`, in batches under `limit`; an error when it does not come within a minute.
pub(super) fn drain(
    source: &dyn Source,
    stream: &mut dyn Stream,
    end: &Position,
    limit: impl Fn() -> Limit,
) -> Result<Vec<Batch>> {
    let patience = Instant::now() + Duration::from_secs(60);
    let mut batches = Vec::new();
    while Instant::now() < patience {
        let Some(batch) = stream.next(&limit())? else { continue };
        let there = match &batch.end {
            Boundary::Commit(position) => source.order(position, end)?.is_ge(),
            Boundary::Open => false,
        };
        batches.push(batch);
        if there {
            return Ok(batches);
        }
    }
    Err(Error::corrupt(format!("the stream did not reach {end} within a minute, after {} batches", batches.len())))
}

pub(super) fn replay_all(batches: &[Batch], state: &mut State) -> Result<()> {
    batches.iter().try_for_each(|b| replay(b, state))
}

pub(super) fn after(transactions: &[Vec<Change>], state: &State) -> State {
    let mut state = state.clone();
    transactions.iter().flatten().for_each(|c| c.apply(&mut state));
    state
}

pub(super) fn same(found: &State, expected: &State, what: &str) -> Result<()> {
    let wrong = |id: &&i64| found.get(*id) != expected.get(*id);
    match found.keys().chain(expected.keys()).find(wrong) {
        None => Ok(()),
        Some(id) => Err(Error::corrupt(format!(
            "{what}: row {id} is {:?}, not {:?} ({} rows found, {} expected)",
            found.get(id),
            expected.get(id),
            found.len(),
            expected.len()
        ))),
    }
}

fn read(snapshot: &mut dyn Snapshot, table: &TableSchema, range: &KeyRange) -> Result<(State, Fingerprint)> {
    let (mut state, mut sum) = (State::new(), Fingerprint::default());
    snapshot.scan(table, range, &mut |batch| {
        sum.add(&batch)?;
        collect(table, &batch, &mut state)
    })?;
    Ok((state, sum))
}

/// Transactions of all kinds on the rows 1 to 20.
pub(super) fn mixture(table: &str) -> Vec<Vec<Change>> {
    let t = || table.to_owned();
    let mut all = vec![
        inserts(table, 21..=30),
        vec![Change::Update(t(), 3, cells(300)), Change::Update(t(), 3, (None, None))],
        vec![Change::Delete(t(), 4), Change::Insert(t(), 4, cells(400))],
        vec![Change::Rekey(t(), 5, 500), Change::Update(t(), 500, cells(501))],
        vec![Change::Insert(t(), 40, cells(40)), Change::Delete(t(), 40)],
        vec![Change::Delete(t(), 6)],
        vec![Change::Rekey(t(), 7, 6), Change::Insert(t(), 7, cells(77))],
        vec![Change::Clear(t())],
        inserts(table, 1..=5),
    ];
    all.extend((0..20).map(|i| vec![Change::Update(t(), 1 + i % 5, cells(1000 + i))]));
    all
}

fn begin_is_idempotent(fixture: &mut (dyn SourceFixture + '_)) -> Result<()> {
    let mut bench = Bench::new(fixture, "c_begin", &inserts("c_begin", 1..=3))?;
    let again = bench.source.begin(&bench.tables)?;
    ensure(bench.source.order(&bench.from, &again)?.is_le(), || format!("{again} is before {}", bench.from))?;
    let ends = bench.commit_each(&[inserts("c_begin", 4..=6)])?;
    let restarted = fixture.source()?;
    restarted.begin(&bench.tables)?;
    for from in [&bench.from, &again] {
        let mut state = after(&[inserts("c_begin", 1..=3)], &State::new());
        let mut stream = restarted.stream(from, &bench.tables)?;
        replay_all(&drain(restarted.as_ref(), stream.as_mut(), &ends[0], wide)?, &mut state)?;
        same(&state, &after(&[inserts("c_begin", 1..=6)], &State::new()), "after beginning twice")?;
    }
    Ok(())
}

fn positions_are_ordered(fixture: &mut (dyn SourceFixture + '_)) -> Result<()> {
    let mut bench = Bench::new(fixture, "c_order", &[])?;
    let transactions: Vec<Vec<Change>> = (1..=12).map(|id| inserts("c_order", [id])).collect();
    let mut ends = vec![bench.from.clone()];
    ends.extend(bench.commit_each(&transactions)?);
    for (i, a) in ends.iter().enumerate() {
        for (j, b) in ends.iter().enumerate() {
            bench.is(a, i.cmp(&j), b)?;
        }
    }
    let (first, last) = (&ends[0], &ends[ends.len() - 1]);
    let far = bench.source.distance(first, last)?;
    let near = bench.source.distance(last, last)?;
    ensure(far.is_none_or(|d| d > 0) && near.is_none_or(|d| d == 0), || format!("distances are {far:?} and {near:?}"))?;
    super::refused(bench.source.order(first, &Position::new("not a position")), "ordering a position of no log")?;
    Ok(())
}

fn snapshots_see_committed_rows(fixture: &mut (dyn SourceFixture + '_)) -> Result<()> {
    let rows = inserts("c_snap", 1..=50);
    let bench = Bench::new(fixture, "c_snap", &rows)?;
    let before = bench.source.position()?;
    for consistency in [Consistency::AtLeast, Consistency::Exact] {
        let mut snapshot = bench.source.snapshot(&bench.tables, consistency)?;
        ensure(bench.source.order(snapshot.position(), &before)?.is_ge(), || {
            format!("a snapshot at {} was taken after {before}", snapshot.position())
        })?;
        let (state, _) = read(snapshot.as_mut(), &bench.tables[0], &KeyRange::ALL)?;
        same(&state, &after(std::slice::from_ref(&rows), &State::new()), &format!("{consistency:?}"))?;
    }
    Ok(())
}

fn ranges_cover_each_row_once(fixture: &mut (dyn SourceFixture + '_)) -> Result<()> {
    let ids: Vec<i64> = (-20..60).map(|i| i * 7).chain([i64::MIN, i64::MAX]).collect();
    let rows = inserts("c_split", ids);
    let bench = Bench::new(fixture, "c_split", &rows)?;
    let table = &bench.tables[0];
    let mut snapshot = bench.source.snapshot(&bench.tables, Consistency::AtLeast)?;
    let (all, sum) = read(snapshot.as_mut(), table, &KeyRange::ALL)?;
    same(&all, &after(&[rows], &State::new()), "the whole table")?;
    let (mut surveyed, mut troubles) = (Fingerprint::default(), Vec::new());
    bench.source.peek(&bench.tables)?.survey(table, &KeyRange::ALL, &mut |batch| surveyed.add(&batch), &mut |t| {
        troubles.push(t);
    })?;
    ensure(surveyed == sum && troubles.is_empty(), || format!("a survey saw {surveyed} of {sum}, and {troubles:?}"))?;
    for size in [1, 7, 1000] {
        let ranges = snapshot.split(table, size)?;
        let (mut union, mut total) = (State::new(), Fingerprint::default());
        for range in &ranges {
            let (part, part_sum) = read(snapshot.as_mut(), table, range)?;
            let overlap = part.keys().find(|id| union.contains_key(id));
            ensure(overlap.is_none(), || format!("row {overlap:?} is in two ranges of {size}"))?;
            union.extend(part);
            total.merge(&part_sum);
        }
        same(&union, &all, &format!("{} ranges of {size}", ranges.len()))?;
        ensure(total == sum, || format!("the fingerprint of ranges of {size} is {total}, of the whole {sum}"))?;
    }
    Ok(())
}

fn stream_brings_every_change(fixture: &mut (dyn SourceFixture + '_)) -> Result<()> {
    let rows = inserts("c_stream", 1..=20);
    let mut bench = Bench::new(fixture, "c_stream", &rows)?;
    let transactions = mixture("c_stream");
    let mut stream = bench.stream(&bench.from)?;
    let mut state = after(&[rows], &State::new());
    // One at a time first: each must come when it is committed, and say so with a position at or behind it.
    for transaction in &transactions[..6] {
        let end = bench.commit_each(std::slice::from_ref(transaction))?;
        let expected = after(std::slice::from_ref(transaction), &state);
        replay_all(&drain(bench.source.as_ref(), stream.as_mut(), &end[0], wide)?, &mut state)?;
        same(&state, &expected, &format!("after {transaction:?}"))?;
    }
    let ends = bench.commit_each(&transactions[6..])?;
    let expected = after(&transactions[6..], &state);
    let last = &ends[ends.len() - 1];
    replay_all(&drain(bench.source.as_ref(), stream.as_mut(), last, wide)?, &mut state)?;
    same(&state, &expected, "after all transactions")
}

fn snapshot_and_stream_agree(fixture: &mut (dyn SourceFixture + '_)) -> Result<()> {
    let rows = inserts("c_both", 1..=20);
    let mut bench = Bench::new(fixture, "c_both", &rows)?;
    let transactions = mixture("c_both");
    bench.commit_each(&transactions[..4])?;
    let mut snapshot = bench.source.snapshot(&bench.tables, Consistency::Exact)?;
    let at = snapshot.position().clone();
    let (mut state, ends) = if fixture.readers_block_writers() {
        let (state, _) = read(snapshot.as_mut(), &bench.tables[0], &KeyRange::ALL)?;
        drop(snapshot);
        (state, bench.commit_each(&transactions[4..])?)
    } else {
        // What is committed after it was opened is not in it, however late it is read.
        let ends = bench.commit_each(&transactions[4..])?;
        (read(snapshot.as_mut(), &bench.tables[0], &KeyRange::ALL)?.0, ends)
    };
    same(&state, &after(&transactions[..4], &after(std::slice::from_ref(&rows), &State::new())), "the snapshot")?;
    let mut stream = bench.stream(&at)?;
    replay_all(&drain(bench.source.as_ref(), stream.as_mut(), &ends[ends.len() - 1], wide)?, &mut state)?;
    same(&state, &after(&transactions, &after(&[rows], &State::new())), "snapshot and stream")
}

fn exact_under_load(fixture: &mut (dyn SourceFixture + '_)) -> Result<()> {
    let rows = inserts("c_load", 1..=20);
    let bench = Bench::new(fixture, "c_load", &rows)?;
    let mut session = fixture.session()?;
    // An application that never pauses leaves readers no gap where only one of them may be at the file.
    let pause = if fixture.readers_block_writers() { Duration::from_millis(5) } else { Duration::ZERO };
    let stop = AtomicBool::new(false);
    let snapshots = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut number = 1000;
            while !stop.load(Memory::SeqCst) {
                number += 1;
                // Two rows in one transaction: a snapshot that tears it shows different numbers.
                let change = |id| Change::Update("c_load".to_owned(), id, (Some(number), None));
                session.commit(&[change(1), change(2)])?;
                std::thread::sleep(pause);
            }
            Ok::<i64, Error>(number)
        });
        let taken = (0..8).map(|_| {
            std::thread::sleep(Duration::from_millis(20));
            let mut snapshot = bench.source.snapshot(&bench.tables, Consistency::Exact)?;
            let (state, _) = read(snapshot.as_mut(), &bench.tables[0], &KeyRange::ALL)?;
            Ok((snapshot.position().clone(), state))
        });
        let taken: Result<Vec<(Position, State)>> = taken.collect();
        stop.store(true, Memory::SeqCst);
        writer.join().map_err(|_| Error::corrupt("the writer panicked"))??;
        taken
    })?;
    let mut stream = bench.stream(&bench.from)?;
    let mut state = after(&[rows], &State::new());
    let mut reached = bench.from.clone();
    for (position, seen) in &snapshots {
        if bench.source.order(&reached, position)?.is_lt() {
            let limit = || Limit { until: Some(position.clone()), ..wide() };
            replay_all(&drain(bench.source.as_ref(), stream.as_mut(), position, limit)?, &mut state)?;
            reached = position.clone();
        }
        same(seen, &state, &format!("the snapshot at {position}"))?;
    }
    Ok(())
}

fn restart_from_every_commit(fixture: &mut (dyn SourceFixture + '_)) -> Result<()> {
    let rows = inserts("c_again", 1..=20);
    let mut bench = Bench::new(fixture, "c_again", &rows)?;
    let transactions = mixture("c_again");
    let ends = bench.commit_each(&transactions)?;
    let (last, expected) =
        (&ends[ends.len() - 1], after(&transactions, &after(std::slice::from_ref(&rows), &State::new())));
    let one = || Limit { rows: 1, ..wide() };
    let mut stream = bench.stream(&bench.from)?;
    let batches = drain(bench.source.as_ref(), stream.as_mut(), last, one)?;
    drop(stream);
    let mut state = after(&[rows], &State::new());
    for batch in &batches {
        replay(batch, &mut state)?;
        let Boundary::Commit(position) = &batch.end else { continue };
        let mut rest = state.clone();
        if bench.source.order(position, last)?.is_lt() {
            let restarted = fixture.source()?;
            let mut stream = restarted.stream(position, &bench.tables)?;
            replay_all(&drain(restarted.as_ref(), stream.as_mut(), last, wide)?, &mut rest)?;
        }
        same(&rest, &expected, &format!("restarted at {position}"))?;
    }
    Ok(())
}
