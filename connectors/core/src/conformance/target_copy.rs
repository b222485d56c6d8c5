//! What every target is held to during the initial copy: plans, chunks, collisions, fencing, and the two writers together.

use std::sync::Arc;

use super::target::{Bench, PIPELINE, at};
use super::values::{self, Model, Write};
use super::{Check, TargetFixture, ensure, refused};
use crate::error::{Error, Result};
use crate::position::{Phase, Position};
use crate::source::{KeyPart, KeyRange};
use crate::target::{Chunk, Loaded, Loader, Suspension};

pub(super) fn checks<'a>() -> Vec<Check<dyn TargetFixture + 'a>> {
    vec![
        ("a plan is made once and remembered", plans_are_made_once),
        ("a chunk is done exactly once", chunks_are_done_once),
        ("a chunk without its commit leaves nothing", unfinished_chunks_leave_nothing),
        ("a chunk that meets the stream's rows is merged", collisions_are_merged),
        ("a chunk of an older epoch is refused", stale_chunks_are_refused),
        ("a table is copied again, in another shape", tables_are_copied_again),
        ("a suspended table is remembered, and comes back", tables_are_suspended),
        ("changes of rows that are still to come do no harm", copy_and_stream_converge),
    ]
}

/// Keys up to 100, up to 200, and the rest.
fn plan() -> Vec<KeyRange> {
    let cut = |n: i128| Some(vec![KeyPart::Int(n)]);
    vec![
        KeyRange { after: None, to: cut(100) },
        KeyRange { after: cut(100), to: cut(200) },
        KeyRange { after: cut(200), to: None },
    ]
}

/// Read when the stream stood at `at(2)` or before.
fn chunk(bench: &Bench, index: usize) -> Chunk {
    Chunk { table: Arc::clone(&bench.table), index: index as u32, range: plan()[index].clone(), low: at(2) }
}

/// The source's position after every read: the copy ends behind it.
fn high() -> Position {
    at(8)
}

/// Loads rows as a chunk; the rows may come in several batches.
fn load(bench: &Bench, loader: &mut dyn Loader, index: usize, rows: &Model, merge: bool) -> Result<Loaded> {
    loader.begin(&chunk(bench, index), merge)?;
    let all = values::content(&bench.table, rows)?;
    let half = all.num_rows() / 2;
    loader.write(&all.slice(0, half))?;
    loader.write(&all.slice(half, all.num_rows() - half))?;
    loader.commit(&high())
}

fn model(bench: &Bench, ids: std::ops::RangeInclusive<i64>, version: u32) -> Model {
    ids.map(|id| (id, vec![version; bench.table.columns.len()])).collect()
}

fn copying(fixture: &mut dyn TargetFixture, name: &str) -> Result<Bench> {
    let table = values::table(&fixture.schema(), name);
    let mut bench = Bench::copying(fixture, table)?;
    bench.writer.plan(&bench.table.name, &plan())?;
    Ok(bench)
}

fn end_copy(bench: &mut Bench, n: u64) -> Result<()> {
    bench.writer.finish_copy(std::slice::from_ref(&bench.table))?;
    bench.commit(n, Phase::Streaming)
}

fn done(bench: &mut Bench) -> Result<Vec<u32>> {
    let name = bench.table.name.clone();
    let mut chunks = bench.writer.chunks()?;
    chunks.sort_by_key(|c| c.index);
    let ranges: Vec<KeyRange> = chunks.iter().map(|c| c.range.clone()).collect();
    ensure(ranges == plan() && chunks.iter().all(|c| c.table == name), || format!("the plan is {chunks:?}"))?;
    let wrong = chunks.iter().find(|c| c.done.as_ref().is_some_and(|h| *h != high()));
    ensure(wrong.is_none(), || format!("a chunk's high position is {wrong:?}"))?;
    Ok(chunks.iter().filter(|c| c.done.is_some()).map(|c| c.index).collect())
}

fn expect_done(bench: &mut Bench, expected: &[u32], what: &str) -> Result<()> {
    let found = done(bench)?;
    ensure(found == expected, || format!("{what}: chunks {found:?} are done, not {expected:?}"))
}

fn plans_are_made_once(fixture: &mut (dyn TargetFixture + '_)) -> Result<()> {
    let bench = copying(fixture, "c_plan")?;
    let mut bench = bench.reopen(fixture)?;
    expect_done(&mut bench, &[], "after a restart")?;
    let name = bench.table.name.clone();
    refused(bench.writer.plan(&name, &[KeyRange::ALL]), "a second plan for a table")?;
    let mut bench = bench.reopen(fixture)?;
    expect_done(&mut bench, &[], "after a second plan was refused")
}

fn chunks_are_done_once(fixture: &mut (dyn TargetFixture + '_)) -> Result<()> {
    let mut bench = copying(fixture, "c_chunk")?;
    let parts = [model(&bench, 1..=100, 1), model(&bench, 101..=200, 1), model(&bench, 201..=205, 1)];
    let mut loader = bench.target.loader(PIPELINE, bench.writer.epoch())?;
    ensure(load(&bench, loader.as_mut(), 1, &parts[1], false)? == Loaded::Done, || "an empty table collided".into())?;
    expect_done(&mut bench, &[1], "after one chunk")?;
    drop(loader);
    // Until then a crash of the target may take it away.
    bench.writer.harden()?;
    bench = bench.reopen(fixture)?;
    expect_done(&mut bench, &[1], "after a restart")?;
    let mut loader = bench.target.loader(PIPELINE, bench.writer.epoch())?;
    for index in [0, 2] {
        let loaded = load(&bench, loader.as_mut(), index, &parts[index], false)?;
        ensure(loaded == Loaded::Done, || format!("chunk {index} collided with other chunks"))?;
    }
    expect_done(&mut bench, &[0, 1, 2], "after all chunks")?;
    // A worker that did it but was told that it failed comes again: nothing may be there twice.
    match loader.begin(&chunk(&bench, 0), true) {
        Err(_) => {}
        Ok(()) => {
            loader.write(&values::content(&bench.table, &parts[0])?)?;
            let _either_is_right = loader.commit(&high());
        }
    }
    drop(loader);
    bench.writer.harden()?;
    bench = bench.reopen(fixture)?;
    bench.model = parts.into_iter().flatten().collect();
    end_copy(&mut bench, 9)?;
    bench.holds(fixture, 9, "after the copy")
}

fn unfinished_chunks_leave_nothing(fixture: &mut (dyn TargetFixture + '_)) -> Result<()> {
    let mut bench = copying(fixture, "c_half")?;
    let rows = model(&bench, 1..=100, 1);
    let mut loader = bench.target.loader(PIPELINE, bench.writer.epoch())?;
    loader.begin(&chunk(&bench, 0), false)?;
    loader.write(&values::content(&bench.table, &rows)?)?;
    drop(loader);
    bench = bench.reopen(fixture)?;
    expect_done(&mut bench, &[], "after a crash inside a chunk")?;
    let mut loader = bench.target.loader(PIPELINE, bench.writer.epoch())?;
    for (index, rows) in [(0, &rows), (1, &Model::new()), (2, &Model::new())] {
        let loaded = load(&bench, loader.as_mut(), index, rows, false)?;
        ensure(loaded == Loaded::Done, || format!("chunk {index} met rows of a chunk that was not committed"))?;
    }
    bench.model = rows;
    end_copy(&mut bench, 9)?;
    bench.holds(fixture, 9, "after the chunk was read again")
}

fn collisions_are_merged(fixture: &mut (dyn TargetFixture + '_)) -> Result<()> {
    let mut bench = copying(fixture, "c_collide")?;
    // The stream inserted 50; the chunk's read saw it, and row 51 in a later version than the stream brought so far.
    bench.write(2, &[Write::Insert(50, 1), Write::Insert(51, 1)])?;
    bench.commit(2, Phase::Copying)?;
    let mut rows = model(&bench, 1..=100, 1);
    rows.insert(51, vec![5; bench.table.columns.len()]);
    let mut loader = bench.target.loader(PIPELINE, bench.writer.epoch())?;
    if load(&bench, loader.as_mut(), 0, &rows, false)? == Loaded::Collided {
        expect_done(&mut bench, &[], "after a collision")?;
        let merged = load(&bench, loader.as_mut(), 0, &rows, true)?;
        ensure(merged == Loaded::Done, || "a merged chunk collided".into())?;
    }
    for index in [1, 2] {
        load(&bench, loader.as_mut(), index, &Model::new(), false)?;
    }
    expect_done(&mut bench, &[0, 1, 2], "after the merge")?;
    // The stream comes to what the chunk had seen.
    let late = [Write::Update(51, 5), Write::Delete(52)];
    bench.write(3, &late)?;
    bench.commit(3, Phase::Copying)?;
    rows.remove(&52);
    bench.model = rows;
    drop(loader);
    end_copy(&mut bench, 9)?;
    bench.holds(fixture, 9, "after chunk and stream met")
}

fn stale_chunks_are_refused(fixture: &mut (dyn TargetFixture + '_)) -> Result<()> {
    let mut bench = copying(fixture, "c_stale")?;
    let rows = model(&bench, 1..=100, 1);
    let mut stale = bench.target.loader(PIPELINE, bench.writer.epoch())?;
    stale.begin(&chunk(&bench, 0), false)?;
    let written = stale.write(&values::content(&bench.table, &rows)?);
    let epoch = bench.writer.epoch();
    bench = bench.reopen(fixture)?;
    refused(written.and_then(|()| stale.commit(&high())), "a chunk of an older epoch")?;
    drop(stale);
    expect_done(&mut bench, &[], "after a stale chunk")?;
    let late = bench.target.loader(PIPELINE, epoch);
    refused(late.and_then(|mut l| load(&bench, l.as_mut(), 0, &rows, false)), "a loader of an older epoch")?;
    let mut loader = bench.target.loader(PIPELINE, bench.writer.epoch())?;
    for index in [0, 1, 2] {
        let rows = if index == 0 { rows.clone() } else { Model::new() };
        let loaded = load(&bench, loader.as_mut(), index, &rows, false)?;
        ensure(loaded == Loaded::Done, || format!("chunk {index} met rows of a stale chunk"))?;
    }
    bench.model = rows;
    end_copy(&mut bench, 9)?;
    bench.holds(fixture, 9, "after stale chunks were refused")
}

/// The rows go, the plan goes, the shape is another; the position stays, and `since` is known until the copy has ended.
fn tables_are_copied_again(fixture: &mut (dyn TargetFixture + '_)) -> Result<()> {
    let mut bench = copying(fixture, "c_again")?;
    let old = model(&bench, 1..=5, 1);
    let mut loader = bench.target.loader(PIPELINE, bench.writer.epoch())?;
    for (index, rows) in [(0, &old), (1, &Model::new()), (2, &Model::new())] {
        load(&bench, loader.as_mut(), index, rows, false)?;
    }
    drop(loader);
    end_copy(&mut bench, 9)?;
    let mut shape = (*bench.table).clone();
    shape.columns.truncate(shape.columns.len() - 2);
    bench.table = Arc::new(shape);
    bench.writer.copy_again(&bench.table, &at(12))?;
    bench = bench.reopen(fixture)?;
    bench.model = Model::new();
    bench.holds(fixture, 9, "after the rows went")?;
    expect_since(&mut bench, Some(&at(12)), "before the table's copy")?;
    let phase = bench.writer.checkpoint().map(|c| c.phase);
    ensure(phase == Some(Phase::Copying), || format!("the phase is {phase:?}"))?;
    ensure(bench.writer.chunks()?.is_empty(), || "the old plan is still there".into())?;
    let shapes = bench.writer.tables()?;
    ensure(shapes.iter().any(|t| t.columns == bench.table.columns), || format!("the shapes are {shapes:?}"))?;
    bench.commit(12, Phase::Copying)?;
    expect_since(&mut bench, Some(&at(12)), "where the table begins")?;
    bench.writer.plan(&bench.table.name, &plan())?;
    let mut loader = bench.target.loader(PIPELINE, bench.writer.epoch())?;
    let rows = model(&bench, 4..=8, 2);
    for (index, rows) in [(0, &rows), (1, &Model::new()), (2, &Model::new())] {
        load(&bench, loader.as_mut(), index, rows, false)?;
    }
    drop(loader);
    bench.model = rows;
    end_copy(&mut bench, 13)?;
    bench.stream(14, &[Write::Delete(4), Write::Insert(1, 3)])?;
    let mut bench = bench.reopen(fixture)?;
    expect_since(&mut bench, None, "after the copy")?;
    bench.holds(fixture, 14, "after the table was copied again")
}

fn tables_are_suspended(fixture: &mut (dyn TargetFixture + '_)) -> Result<()> {
    let mut bench = copying(fixture, "c_suspend")?;
    let rows = model(&bench, 1..=5, 1);
    let mut loader = bench.target.loader(PIPELINE, bench.writer.epoch())?;
    load(&bench, loader.as_mut(), 0, &rows, false)?;
    drop(loader);
    let name = bench.table.name.clone();
    let source = crate::TableName::new("there", "t");
    let why = Suspension { source, position: at(1), reason: "a row".into(), hint: Some("mend it".into()) };
    bench.writer.suspend(&name, &why)?;
    bench = bench.reopen(fixture)?;
    let known = [bench.writer.suspended()?, bench.target.suspended(PIPELINE)?];
    let expected = vec![(name.clone(), why)];
    ensure(known.iter().all(|k| *k == expected), || format!("suspended: {known:?}"))?;
    ensure(bench.writer.chunks()?.is_empty(), || "its plan is still there".into())?;
    let checkpoint = bench.writer.checkpoint().map(|c| (c.phase, c.position.clone()));
    ensure(checkpoint == Some((Phase::Copying, at(1))), || format!("it is at {checkpoint:?}"))?;
    // The others' copy ends, the log goes on.
    bench.writer.finish_copy(&[])?;
    bench.commit(9, Phase::Streaming)?;
    bench = bench.reopen(fixture)?;
    ensure(bench.writer.suspended()? == expected, || "it was forgotten when the copy ended".into())?;
    bench.model = rows;
    bench.holds(fixture, 9, "while it is suspended")?;
    bench.writer.copy_again(&bench.table, &at(12))?;
    bench = bench.reopen(fixture)?;
    let left = (bench.writer.suspended()?, bench.target.suspended(PIPELINE)?);
    ensure(left.0.is_empty() && left.1.is_empty(), || format!("still suspended: {left:?}"))?;
    expect_since(&mut bench, Some(&at(12)), "before its copy")?;
    // Suspended again before it has come in.
    let position = at(9);
    bench.writer.suspend(&name, &Suspension { position, hint: None, ..expected[0].1.clone() })?;
    bench = bench.reopen(fixture)?;
    expect_since(&mut bench, None, "while it is suspended")
}

fn expect_since(bench: &mut Bench, expected: Option<&Position>, when: &str) -> Result<()> {
    let found = bench.writer.since()?;
    let of = |name: &crate::TableName| found.iter().find(|(n, _)| n == name).map(|(_, position)| position);
    ensure(of(&bench.table.name) == expected, || format!("{when}: since is {found:?}"))
}

/// The stream goes over changes that a chunk's read already holds: from the state before to the state after them.
fn copy_and_stream_converge(fixture: &mut (dyn TargetFixture + '_)) -> Result<()> {
    let mut bench = copying(fixture, "c_converge")?;
    // Not copied yet: row 1 changes in part, 2 goes, 3 is new. Only 3 may be there afterwards.
    let part = bench.partial(1, 2);
    bench.write(2, &[part, Write::Delete(2), Write::Insert(3, 2)])?;
    bench.commit(2, Phase::Copying)?;
    // The chunk's read saw all that, and changes still to come: 4 new, 5 gone, 6 in version 4.
    let mut rows = model(&bench, 1..=100, 1);
    values::apply(&bench.table, &[part, Write::Delete(2), Write::Update(3, 2)], &mut rows);
    values::apply(&bench.table, &[Write::Update(4, 3), Write::Delete(5), Write::Update(6, 4)], &mut rows);
    let mut loader = bench.target.loader(PIPELINE, bench.writer.epoch())?;
    for (index, rows) in [(0, &rows), (1, &Model::new()), (2, &Model::new())] {
        if load(&bench, loader.as_mut(), index, rows, false)? == Loaded::Collided {
            let merged = load(&bench, loader.as_mut(), index, rows, true)?;
            ensure(merged == Loaded::Done, || "a merged chunk collided".into())?;
        }
    }
    drop(loader);
    let late = [Write::Insert(4, 3), bench.partial(5, 3), Write::Delete(5), bench.partial(6, 3), Write::Update(6, 4)];
    for (i, write) in late.into_iter().enumerate() {
        let n = 3 + i as u64;
        bench.writer.write(&values::batch(&bench.table, &[write], &at(n))?)?;
        bench.commit(n, Phase::Copying)?;
    }
    bench.model = rows;
    end_copy(&mut bench, 9)?;
    bench.holds(fixture, 9, "after the stream went over the chunk's reads")?;
    let state = fixture.target()?.recover(PIPELINE)?.map(|c| c.phase);
    if state == Some(Phase::Streaming) { Ok(()) } else { Err(Error::corrupt(format!("the phase is {state:?}"))) }
}
