//! What every target is held to with a table without a key: a bag, in which equal rows count.

use std::sync::Arc;

use super::target::{Bench, PIPELINE, at, sum};
use super::values;
use super::{Check, TargetFixture, ensure, refused};
use crate::batch::{Batch, Boundary, Item, Op};
use crate::error::Result;
use crate::fingerprint::Fingerprint;
use crate::position::Phase;
use crate::source::KeyRange;
use crate::target::{Chunk, History, Loaded};

pub(super) fn checks<'a>() -> Vec<Check<dyn TargetFixture + 'a>> {
    vec![
        ("a bag is copied whole", bags_are_copied),
        ("equal rows of a bag count", equal_rows_count),
        ("a bag loses no row that it does not have", missing_rows_are_told),
    ]
}

/// Id and version of each row.
type Content = Vec<(i64, u32)>;

fn copying(fixture: &mut dyn TargetFixture, name: &str) -> Result<Bench> {
    let table = values::bag(&fixture.schema(), name);
    let mut bench = Bench::copying(fixture, table)?;
    bench.writer.plan(&bench.table.name, &[KeyRange::ALL])?;
    Ok(bench)
}

fn load(bench: &Bench, rows: &Content) -> Result<()> {
    let mut loader = bench.target.loader(PIPELINE, bench.writer.epoch())?;
    let chunk = Chunk { table: Arc::clone(&bench.table), index: 0, range: KeyRange::ALL, low: at(1) };
    loader.begin(&chunk, true)?;
    let inserts: Vec<_> = rows.iter().map(|&(id, version)| (Op::Insert, id, version)).collect();
    loader.write(&values::bag_rows(&bench.table, &inserts)?.batch)?;
    ensure(loader.commit(&at(1))? == Loaded::Done, || "a bag collided".into())
}

fn write(bench: &mut Bench, n: u64, writes: &[(Op, i64, u32)]) -> Result<()> {
    let rows = values::bag_rows(&bench.table, writes)?;
    let batch = Batch { items: vec![Item::Rows(rows)], end: Boundary::Commit(at(n)), commit_micros: None };
    bench.writer.write(&batch)
}

fn stream(bench: &mut Bench, n: u64, writes: &[(Op, i64, u32)]) -> Result<()> {
    write(bench, n, writes)?;
    bench.commit(n, Phase::Streaming)
}

fn end_copy(bench: &mut Bench, n: u64) -> Result<()> {
    bench.writer.finish_copy(std::slice::from_ref(&bench.table))?;
    bench.commit(n, Phase::Streaming)
}

fn holds(fixture: &mut dyn TargetFixture, bench: &Bench, rows: &Content, what: &str) -> Result<()> {
    let mut snapshot = fixture.target()?.snapshot(PIPELINE, std::slice::from_ref(&bench.table))?;
    let found = sum(snapshot.as_mut(), &bench.table, &KeyRange::ALL)?;
    let mut expected = Fingerprint::default();
    let inserts: Vec<_> = rows.iter().map(|&(id, version)| (Op::Insert, id, version)).collect();
    expected.add(&values::bag_rows(&bench.table, &inserts)?.batch)?;
    ensure(found == expected, || format!("{what}: {} rows {found}, not {} rows {expected}", found.rows, expected.rows))
}

fn bags_are_copied(fixture: &mut (dyn TargetFixture + '_)) -> Result<()> {
    let mut bench = copying(fixture, "c_bag_copy")?;
    let rows: Content = (0..600).map(|n| (n % 100, 1)).collect();
    load(&bench, &rows)?;
    end_copy(&mut bench, 2)?;
    holds(fixture, &bench, &rows, "after the copy")
}

fn equal_rows_count(fixture: &mut (dyn TargetFixture + '_)) -> Result<()> {
    let mut bench = copying(fixture, "c_bag_count")?;
    load(&bench, &vec![(1, 1), (1, 1), (1, 1), (2, 1), (3, 1)])?;
    end_copy(&mut bench, 2)?;
    // Of three equal rows two go; a row is changed; equal ones come.
    let changes = [(Op::Delete, 1, 1), (Op::Delete, 1, 1), (Op::Delete, 2, 1), (Op::Insert, 2, 2), (Op::Insert, 2, 2)];
    stream(&mut bench, 3, &changes)?;
    holds(fixture, &bench, &vec![(1, 1), (2, 2), (2, 2), (3, 1)], "after some of the equal rows went")?;
    // Every row, of every type and with its NULLs, is found again: many at once, then the rest.
    let rows: Content = (10..700).map(|n| (n % 200, 3)).collect();
    let came: Vec<_> = rows.iter().map(|&(id, v)| (Op::Insert, id, v)).collect();
    stream(&mut bench, 4, &came)?;
    let gone: Vec<_> = rows[..600].iter().map(|&(id, v)| (Op::Delete, id, v)).collect();
    stream(&mut bench, 5, &gone)?;
    let mut left = rows[600..].to_vec();
    left.extend([(1, 1), (2, 2), (2, 2), (3, 1)]);
    holds(fixture, &bench, &left, "after most rows went")?;
    // In one transaction, in two batches: what comes may go.
    write(&mut bench, 6, &[(Op::Insert, 9, 9), (Op::Insert, 9, 9)])?;
    stream(&mut bench, 6, &[(Op::Delete, 9, 9)])?;
    left.push((9, 9));
    holds(fixture, &bench, &left, "after a row came and went in one transaction")
}

fn missing_rows_are_told(fixture: &mut (dyn TargetFixture + '_)) -> Result<()> {
    let mut bench = copying(fixture, "c_bag_miss")?;
    load(&bench, &vec![(1, 1)])?;
    end_copy(&mut bench, 2)?;
    if bench.target.history() == History::Full {
        return Ok(()); // it keeps what it is told
    }
    refused(
        stream(&mut bench, 3, &[(Op::Delete, 1, 1), (Op::Delete, 1, 1)]),
        "the deletion of a row that is not there",
    )?;
    let bench = bench.reopen(fixture)?;
    holds(fixture, &bench, &vec![(1, 1)], "after a refused deletion")
}
