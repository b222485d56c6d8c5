//! What every source is held to: the bounds of one read, the ends of batches, acknowledgement.

use std::cmp::Ordering;
use std::time::{Duration, Instant};

use super::changes::{Change, State, cells, inserts, replay};
use super::source::{Bench, after, drain, mixture, replay_all, same, wide};
use super::{Check, SourceFixture, ensure};
use crate::batch::Boundary;
use crate::error::{Error, Result};
use crate::source::Limit;

pub(super) fn checks<'a>() -> Vec<Check<dyn SourceFixture + 'a>> {
    vec![
        ("a batch ends at the first commit past the limits", limits_are_kept),
        ("nothing beyond `until` is handed over", until_is_exact),
        ("a large transaction comes in open batches", large_transactions_are_open),
        ("waiting ends at the deadline", deadlines_are_kept),
        ("the position goes on without changes of the tables", idle_log_advances),
        ("what is acknowledged is not needed again", acknowledged_is_safe),
    ]
}

fn limits_are_kept(fixture: &mut (dyn SourceFixture + '_)) -> Result<()> {
    let mut bench = Bench::new(fixture, "c_limit", &[])?;
    let by_rows = || Limit { rows: 10, ..wide() };
    let by_bytes = || Limit { bytes: 512, ..wide() };
    let mut from = bench.from.clone();
    let mut state = State::new();
    let limits: [(&str, &dyn Fn() -> Limit, i64); 2] = [("rows", &by_rows, 0), ("bytes", &by_bytes, 1000)];
    for (name, limit, first) in limits {
        let mut stream = bench.stream(&from)?;
        let transactions: Vec<Vec<Change>> =
            (0..40).map(|i| inserts("c_limit", first + i * 3..first + i * 3 + 3)).collect();
        // A source whose log does not mark commits knows those that it saw the log end at; `ack` is when it looks.
        for transaction in &transactions {
            bench.session.commit(transaction)?;
            stream.ack(&from)?;
        }
        let last = bench.source.position()?;
        let batches = drain(bench.source.as_ref(), stream.as_mut(), &last, limit)?;
        let expected = after(&transactions, &state);
        for batch in &batches {
            // Transactions of three rows: the commit that passes ten rows passes them by three at most.
            ensure(batch.rows() <= if name == "rows" { 12 } else { 60 }, || {
                format!("a batch limited by {name} has {} rows", batch.rows())
            })?;
            ensure(batch.end != Boundary::Open, || "a small transaction came in open batches".into())?;
            ensure(batch.rows() % 3 == 0, || format!("a batch of {} rows tears a transaction", batch.rows()))?;
            replay(batch, &mut state)?;
        }
        same(&state, &expected, &format!("read under a limit of {name}"))?;
        from = last;
    }
    Ok(())
}

fn until_is_exact(fixture: &mut (dyn SourceFixture + '_)) -> Result<()> {
    let rows = inserts("c_until", 1..=20);
    let mut bench = Bench::new(fixture, "c_until", &rows)?;
    let transactions = mixture("c_until");
    let ends = bench.commit_each(&transactions)?;
    let mut stream = bench.stream(&bench.from)?;
    let mut state = after(&[rows], &State::new());
    let mut done = 0;
    for stop in [0, 1, 5, 6, ends.len() - 2] {
        let limit = || Limit { until: Some(ends[stop].clone()), ..wide() };
        let batches = drain(bench.source.as_ref(), stream.as_mut(), &ends[stop], limit)?;
        let expected = after(&transactions[done..=stop], &state);
        replay_all(&batches, &mut state)?;
        same(&state, &expected, &format!("until {}", ends[stop]))?;
        if let Some(Boundary::Commit(end)) = batches.last().map(|b| &b.end) {
            bench.is(end, Ordering::Equal, &ends[stop])?;
        }
        // Asked again, it says that it is there, and hands over nothing.
        let again = stream.next(&limit())?;
        match again.map(|b| (b.rows(), b.end)) {
            Some((0, Boundary::Commit(end))) => bench.is(&end, Ordering::Equal, &ends[stop])?,
            other => return Err(Error::corrupt(format!("at {} already, `next` gave {other:?}", ends[stop]))),
        }
        done = stop + 1;
    }
    let batches = drain(bench.source.as_ref(), stream.as_mut(), &ends[ends.len() - 1], wide)?;
    let expected = after(&transactions[done..], &state);
    replay_all(&batches, &mut state)?;
    same(&state, &expected, "let go")?;
    // A new stream that starts where it has to end. A log may have one reader at a time.
    drop(stream);
    let last = &ends[ends.len() - 1];
    let mut stream = bench.stream(last)?;
    let limit = || Limit { until: Some(last.clone()), ..wide() };
    let batches = drain(bench.source.as_ref(), stream.as_mut(), last, limit)?;
    ensure(batches.iter().all(|b| b.items.is_empty()), || "changes came after the end of the log".into())
}

fn large_transactions_are_open(fixture: &mut (dyn SourceFixture + '_)) -> Result<()> {
    let mut bench = Bench::new(fixture, "c_large", &[])?;
    let large: Vec<Change> =
        (0..3000).map(|id| Change::Insert("c_large".to_owned(), id, (Some(id), Some("y".repeat(150))))).collect();
    let transactions = vec![inserts("c_large", [-1]), large, inserts("c_large", [-2])];
    let ends = bench.commit_each(&transactions)?;
    let limit = || Limit { bytes: 16 << 10, ..wide() };
    let mut stream = bench.stream(&bench.from)?;
    let batches = drain(bench.source.as_ref(), stream.as_mut(), &ends[2], limit)?;
    let mut state = State::new();
    let (mut open, mut most) = (0, 0);
    for batch in &batches {
        replay(batch, &mut state)?;
        open += usize::from(batch.end == Boundary::Open);
        most = most.max(batch.rows());
        if let Boundary::Commit(position) = &batch.end {
            // A position inside the large transaction would show a part of it.
            let part = state.len() > 1 && state.len() < 3001;
            ensure(!part, || format!("{} rows at the position {position}", state.len()))?;
        }
    }
    ensure(open >= 3, || format!("450 kB under a limit of 16 kB came with {open} open batches"))?;
    ensure(most <= 1500, || format!("a batch held {most} of 3000 rows"))?;
    same(&state, &after(&transactions, &State::new()), "after the large transaction")
}

fn deadlines_are_kept(fixture: &mut (dyn SourceFixture + '_)) -> Result<()> {
    let bench = Bench::new(fixture, "c_wait", &[])?;
    let mut stream = bench.stream(&bench.from)?;
    let wait = Duration::from_millis(100);
    let quiet = Instant::now() + Duration::from_secs(30);
    loop {
        let began = Instant::now();
        let batch = stream.next(&Limit { deadline: began + wait, ..wide() })?;
        let took = began.elapsed();
        ensure(took < Duration::from_secs(3), || format!("a deadline of 100 ms was kept after {took:?}"))?;
        match batch {
            Some(b) => ensure(b.items.is_empty(), || "changes that nobody made".into())?,
            None => return ensure(took >= wait / 2, || format!("it gave up after {took:?}, before its deadline")),
        }
        ensure(Instant::now() < quiet, || "an idle log never comes to rest".into())?;
    }
}

fn idle_log_advances(fixture: &mut (dyn SourceFixture + '_)) -> Result<()> {
    fixture.create("c_other")?;
    let mut bench = Bench::new(fixture, "c_idle", &[])?;
    let mut stream = bench.stream(&bench.from)?;
    let ends = bench.commit_each(&(0..5).map(|i| inserts("c_other", [i])).collect::<Vec<_>>())?;
    // Where the log holds nothing of other tables, the position has nowhere to go.
    if bench.source.order(&bench.from, &ends[4])?.is_lt() {
        let batches = drain(bench.source.as_ref(), stream.as_mut(), &ends[4], wide)?;
        ensure(batches.iter().all(|b| b.rows() == 0), || "rows of a table that was not asked for".into())?;
    }
    let ends = bench.commit_each(&[inserts("c_idle", [1])])?;
    let mut state = State::new();
    replay_all(&drain(bench.source.as_ref(), stream.as_mut(), &ends[0], wide)?, &mut state)?;
    same(&state, &State::from([(1, cells(1))]), "after an idle time")
}

fn acknowledged_is_safe(fixture: &mut (dyn SourceFixture + '_)) -> Result<()> {
    let rows = inserts("c_ack", 1..=20);
    let mut bench = Bench::new(fixture, "c_ack", &rows)?;
    let transactions = mixture("c_ack");
    let ends = bench.commit_each(&transactions)?;
    let last = &ends[ends.len() - 1];
    let mut state = after(std::slice::from_ref(&rows), &State::new());
    let mut stream = bench.stream(&bench.from)?;
    let limit = || Limit { until: Some(ends[3].clone()), ..wide() };
    let batches = drain(bench.source.as_ref(), stream.as_mut(), &ends[3], limit)?;
    replay_all(&batches, &mut state)?;
    stream.ack(&ends[3])?;
    stream.ack(&ends[3])?;
    stream.next(&Limit {
        deadline: Instant::now() + Duration::from_millis(50),
        until: Some(ends[3].clone()),
        ..wide()
    })?;
    drop(stream);
    let restarted = fixture.source()?;
    restarted.begin(&bench.tables)?;
    let mut stream = restarted.stream(&ends[3], &bench.tables)?;
    replay_all(&drain(restarted.as_ref(), stream.as_mut(), last, wide)?, &mut state)?;
    same(&state, &after(&transactions, &after(&[rows], &State::new())), "restarted at the acknowledged position")
}
