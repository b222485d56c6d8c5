//! What every target is held to while it streams: ownership, checkpoints, changes, shapes, snapshots.

use std::sync::Arc;
use std::time::Instant;

use super::values::{self, Model, Write};
use super::{Check, TargetFixture, ensure, refused};
use crate::batch::{Batch, Boundary, Item, SchemaChange, SchemaStep};
use crate::builder::{ColumnBuilder, RowsBuilder};
use crate::error::{Error, Exit, Result};
use crate::fingerprint::Fingerprint;
use crate::position::{Checkpoint, Owner, Phase, Position};
use crate::schema::{Column, Index, Logical, TableSchema};
use crate::source::KeyRange;
use crate::target::{History, Target, Writer};
use crate::{Op, Snapshot};

pub(super) fn checks<'a>() -> Vec<Check<dyn TargetFixture + 'a>> {
    vec![
        ("nothing is there at first, and prepare is idempotent", prepare_is_idempotent),
        ("what is committed is recovered", commits_are_recovered),
        ("seq and epoch are enforced", seq_and_epoch_are_enforced),
        ("what is not committed leaves nothing", uncommitted_leaves_nothing),
        ("a second owner is refused or fences", second_owner),
        ("open batches show nothing before the commit", open_batches_are_invisible),
        ("changes take effect", changes_take_effect),
        ("truncation takes effect in its place", truncation),
        ("shapes change", shapes_change),
        ("every logical type arrives exactly", every_type_arrives),
        ("batches without items advance the position", empty_batches),
        ("finish_copy is idempotent", finish_copy_is_idempotent),
        ("a snapshot stays where it was opened", snapshots_stand_still),
    ]
}

/// The name of the pipeline under test.
pub(super) const PIPELINE: &str = "conformance";

pub(super) fn owner(pid: u32) -> Owner {
    Owner { pipeline: PIPELINE.to_owned(), host: "conformance".to_owned(), pid }
}

pub(super) fn at(n: u64) -> Position {
    Position::new(format!("log:{n:06}"))
}

/// A target with one table and an open writer.
pub(super) struct Bench {
    pub target: Arc<dyn Target>,
    pub writer: Box<dyn Writer>,
    pub table: Arc<TableSchema>,
    pub model: Model,
}

impl Bench {
    /// Prepared, with the first checkpoint at `at(1)`, copying.
    pub fn copying(fixture: &mut dyn TargetFixture, table: Arc<TableSchema>) -> Result<Self> {
        let target = fixture.target()?;
        let mut writer = target.open(&owner(1))?;
        writer.prepare(std::slice::from_ref(&table))?;
        let mut bench = Bench { target, writer, table, model: Model::new() };
        bench.commit(1, Phase::Copying)?;
        Ok(bench)
    }

    /// As [`Bench::copying`], the copy ended with the second checkpoint at `at(2)`.
    pub fn streaming(fixture: &mut dyn TargetFixture, table: Arc<TableSchema>) -> Result<Self> {
        let mut bench = Self::copying(fixture, table)?;
        bench.writer.finish_copy(std::slice::from_ref(&bench.table))?;
        bench.commit(2, Phase::Streaming)?;
        Ok(bench)
    }

    pub fn next(&self, n: u64, phase: Phase) -> Checkpoint {
        let seq = self.writer.checkpoint().map_or(0, |c| c.seq) + 1;
        Checkpoint { seq, position: at(n), phase, epoch: self.writer.epoch(), commit_micros: None }
    }

    pub fn commit(&mut self, n: u64, phase: Phase) -> Result<()> {
        let next = self.next(n, phase);
        self.writer.commit(&next)?;
        let known = self.writer.checkpoint();
        ensure(known == Some(&next), || format!("after the commit of {next:?} the writer knows {known:?}"))
    }

    /// Writes changes that end at `at(n)`.
    pub fn write(&mut self, n: u64, writes: &[Write]) -> Result<()> {
        self.writer.write(&values::batch(&self.table, writes, &at(n))?)?;
        values::apply(&self.table, writes, &mut self.model);
        Ok(())
    }

    /// An update of which the log carries a part; of the whole row where the target keeps every change and so has no row
    /// to complete it from.
    pub fn partial(&self, id: i64, version: u32) -> Write {
        match self.target.history() {
            History::Net => Write::Partial(id, version),
            History::Full => Write::Update(id, version),
        }
    }

    pub fn stream(&mut self, n: u64, writes: &[Write]) -> Result<()> {
        self.write(n, writes)?;
        self.commit(n, Phase::Streaming)
    }

    /// What a process that starts now finds.
    pub fn holds(&self, fixture: &mut dyn TargetFixture, n: u64, what: &str) -> Result<()> {
        holds(fixture, &self.table, &self.model, n, what)
    }

    /// Lets the writer go and opens it anew, as after a crash.
    pub fn reopen(self, fixture: &mut dyn TargetFixture) -> Result<Self> {
        let Bench { target, writer, table, model } = self;
        drop((writer, target));
        let target = fixture.target()?;
        let writer = open_again(fixture, target.as_ref(), &owner(1))?;
        Ok(Bench { target, writer, table, model })
    }
}

/// Opens as soon as the target lets it.
fn open_again(fixture: &dyn TargetFixture, target: &dyn Target, owner: &Owner) -> Result<Box<dyn Writer>> {
    let until = Instant::now() + fixture.patience();
    loop {
        match target.open(owner) {
            Err(e) if e.exit() == Exit::TryAgain && Instant::now() < until => {
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            other => return other,
        }
    }
}

/// The rows and the position that a new process sees.
pub(super) fn holds(
    fixture: &mut dyn TargetFixture,
    table: &Arc<TableSchema>,
    model: &Model,
    n: u64,
    what: &str,
) -> Result<()> {
    let target = fixture.target()?;
    let recovered = target.recover(PIPELINE)?;
    let found = recovered.as_ref().map(|c| &c.position);
    ensure(found == Some(&at(n)), || format!("{what}: the checkpoint stands at {found:?}, not at {}", at(n)))?;
    let mut snapshot = target.snapshot(PIPELINE, std::slice::from_ref(table))?;
    ensure(*snapshot.position() == at(n), || format!("{what}: the snapshot stands at {}", snapshot.position()))?;
    let sum = sum(snapshot.as_mut(), table, &KeyRange::ALL)?;
    let expected = values::fingerprint(table, model)?;
    ensure(sum == expected, || format!("{what}: {} rows {sum}, not {} rows {expected}", sum.rows, expected.rows))
}

pub(super) fn sum(snapshot: &mut dyn Snapshot, table: &TableSchema, range: &KeyRange) -> Result<Fingerprint> {
    let mut sum = Fingerprint::default();
    snapshot.scan(table, range, &mut |rows| {
        ensure(rows.schema() == table.arrow(), || format!("a scan's batch has the schema {:?}", rows.schema()))?;
        sum.add(&rows)
    })?;
    Ok(sum)
}

fn prepare_is_idempotent(fixture: &mut (dyn TargetFixture + '_)) -> Result<()> {
    let table = values::table(&fixture.schema(), "c_prepare");
    let target = fixture.target()?;
    ensure(target.recover(PIPELINE)?.is_none(), || "a checkpoint in an empty store".into())?;
    target.check(PIPELINE, std::slice::from_ref(&table))?;
    ensure(target.recover(PIPELINE)?.is_none(), || "check changed something".into())?;
    let mut writer = target.open(&owner(1))?;
    ensure(writer.checkpoint().is_none(), || "a new pipeline has a checkpoint".into())?;
    writer.prepare(std::slice::from_ref(&table))?;
    writer.prepare(std::slice::from_ref(&table))?;
    drop(writer);
    // As after a crash before the first checkpoint.
    let mut writer = open_again(fixture, target.as_ref(), &owner(1))?;
    writer.prepare(std::slice::from_ref(&table))?;
    let mut bench = Bench { target, writer, table, model: Model::new() };
    bench.commit(1, Phase::Copying)?;
    bench.writer.prepare(std::slice::from_ref(&bench.table))?;
    let tables = bench.writer.tables()?;
    ensure(tables.len() == 1 && tables[0].columns == bench.table.columns && tables[0].key == bench.table.key, || {
        format!("the shape is remembered as {tables:?}")
    })?;
    bench.holds(fixture, 1, "after the first checkpoint")
}

fn commits_are_recovered(fixture: &mut (dyn TargetFixture + '_)) -> Result<()> {
    let table = values::table(&fixture.schema(), "c_commit");
    let mut bench = Bench::streaming(fixture, table)?;
    bench.stream(3, &(1..=50).map(|id| Write::Insert(id, 1)).collect::<Vec<_>>())?;
    bench.holds(fixture, 3, "after a commit")?;
    let before = bench.writer.checkpoint().cloned();
    ensure(fixture.target()?.recover(PIPELINE)? == before, || "recover tells something else than the writer".into())?;
    ensure(fixture.target()?.recover("another")?.is_none(), || "another pipeline has this one's checkpoint".into())?;
    let epoch = bench.writer.epoch();
    let mut bench = bench.reopen(fixture)?;
    ensure(bench.writer.epoch() > epoch, || format!("epoch {} follows {epoch}", bench.writer.epoch()))?;
    // The epoch may be that of the commit or already that of the new owner: a checkpoint tells it for fencing only.
    let owned = bench.writer.epoch();
    let fenced = |c: &Checkpoint| Checkpoint { epoch: if c.epoch == owned { epoch } else { c.epoch }, ..c.clone() };
    ensure(bench.writer.checkpoint().map(fenced) == before, || {
        format!("reopened, the writer knows {:?}, not {before:?}", bench.writer.checkpoint())
    })?;
    bench.stream(4, &[Write::Update(1, 2), Write::Delete(2)])?;
    bench.holds(fixture, 4, "after a restart")
}

fn seq_and_epoch_are_enforced(fixture: &mut (dyn TargetFixture + '_)) -> Result<()> {
    let table = values::table(&fixture.schema(), "c_seq");
    let mut bench = Bench::streaming(fixture, table)?;
    bench.stream(3, &[Write::Insert(1, 1)])?;
    let wrong: [fn(&mut Checkpoint); 3] = [|c| c.seq += 1, |c| c.seq -= 1, |c| c.epoch += 1];
    for spoil in wrong {
        bench = bench.reopen(fixture)?;
        let mut next = bench.next(4, Phase::Streaming);
        spoil(&mut next);
        bench.writer.write(&values::batch(&bench.table, &[Write::Insert(2, 1)], &at(4))?)?;
        refused(bench.writer.commit(&next), &format!("{next:?} after seq {}", next.seq))?;
        bench.holds(fixture, 3, "after a refused commit")?;
    }
    bench = bench.reopen(fixture)?;
    bench.stream(4, &[Write::Insert(2, 1)])?;
    bench.holds(fixture, 4, "after refused commits")
}

fn uncommitted_leaves_nothing(fixture: &mut (dyn TargetFixture + '_)) -> Result<()> {
    let table = values::table(&fixture.schema(), "c_drop");
    let mut bench = Bench::streaming(fixture, table)?;
    bench.stream(3, &[Write::Insert(1, 1), Write::Insert(2, 1)])?;
    let lost = [Write::Insert(3, 1), Write::Update(1, 2), Write::Delete(2)];
    bench.writer.write(&values::batch(&bench.table, &lost, &at(4))?)?;
    bench.holds(fixture, 3, "beside an open transaction")?;
    let mut bench = bench.reopen(fixture)?;
    bench.holds(fixture, 3, "after a crash before the commit")?;
    bench.stream(5, &[Write::Insert(3, 7)])?;
    bench.holds(fixture, 5, "after the crash")
}

fn second_owner(fixture: &mut (dyn TargetFixture + '_)) -> Result<()> {
    let table = values::table(&fixture.schema(), "c_owner");
    let mut first = Bench::streaming(fixture, table)?;
    first.stream(3, &[Write::Insert(1, 1)])?;
    let holder = first.target.owner(PIPELINE)?;
    ensure(holder.as_ref().is_none_or(|o| *o == owner(1)), || format!("the owner is {holder:?}"))?;
    let mut other = owner(2);
    other.host = "elsewhere".to_owned();
    match fixture.target()?.open(&other) {
        Err(e) => {
            ensure(e.exit() == Exit::TryAgain, || format!("a second owner is refused with {e:?}"))?;
            first.stream(4, &[Write::Insert(2, 1)])?;
            first.holds(fixture, 4, "after a second owner was refused")
        }
        Ok(mut writer) => {
            ensure(writer.epoch() > first.writer.epoch(), || "a second owner has no later epoch".into())?;
            let next = first.next(4, Phase::Streaming);
            let lost = values::batch(&first.table, &[Write::Insert(9, 9)], &at(4))?;
            let commit = first.writer.write(&lost).and_then(|()| first.writer.commit(&next));
            let e = refused(commit, "a commit of the owner that was fenced out")?;
            ensure(e.exit() == Exit::TryAgain && !e.is_transient(), || format!("fenced out with {e:?}"))?;
            let next = Checkpoint { epoch: writer.epoch(), ..next };
            writer.write(&values::batch(&first.table, &[Write::Insert(2, 1)], &at(4))?)?;
            writer.commit(&next)?;
            values::apply(&first.table, &[Write::Insert(2, 1)], &mut first.model);
            first.holds(fixture, 4, "after a second owner took over")
        }
    }
}

fn open_batches_are_invisible(fixture: &mut (dyn TargetFixture + '_)) -> Result<()> {
    let table = values::table(&fixture.schema(), "c_open");
    let mut bench = Bench::streaming(fixture, table)?;
    bench.stream(3, &[Write::Insert(0, 1)])?;
    let mut whole = bench.model.clone();
    for part in 0..5i64 {
        let mut writes: Vec<Write> = (1..=40).map(|i| Write::Insert(part * 100 + i, 1)).collect();
        writes.push(Write::Update(0, 2 + part as u32));
        let batch = values::batch(&bench.table, &writes, &at(4))?;
        let end = if part < 4 { Boundary::Open } else { batch.end };
        bench.writer.write(&Batch { end, ..batch })?;
        values::apply(&bench.table, &writes, &mut whole);
        bench.holds(fixture, 3, &format!("after {} parts of a transaction", part + 1))?;
    }
    bench.model = whole;
    bench.commit(4, Phase::Streaming)?;
    bench.holds(fixture, 4, "after the whole transaction")
}

fn changes_take_effect(fixture: &mut (dyn TargetFixture + '_)) -> Result<()> {
    let table = values::table(&fixture.schema(), "c_changes");
    let mut bench = Bench::streaming(fixture, table)?;
    let mut n = 2;
    for round in 0..30u32 {
        n += 1;
        // One change per key: what a fold leaves. Small and large batches may take different paths in a target.
        let size = if round % 5 == 4 { 400 } else { 6 };
        let mut writes = Vec::new();
        for i in 0..size {
            let id = (i * 17 + i64::from(round) * 5) % 512;
            let there = bench.model.contains_key(&id);
            writes.push(match (there, (round as i64 + i) % 4) {
                (false, _) => Write::Insert(id, round),
                (true, 0) => Write::Delete(id),
                (true, 1) => bench.partial(id, round),
                (true, _) => Write::Update(id, round),
            });
        }
        bench.stream(n, &writes)?;
        if round % 7 == 3 {
            bench = bench.reopen(fixture)?;
        }
        if round % 3 == 0 || size > 6 {
            bench.holds(fixture, n, &format!("round {round}"))?;
        }
    }
    bench.holds(fixture, n, "at the end")
}

fn truncation(fixture: &mut (dyn TargetFixture + '_)) -> Result<()> {
    let table = values::table(&fixture.schema(), "c_truncate");
    let mut bench = Bench::streaming(fixture, table)?;
    bench.stream(3, &(1..=20).map(|id| Write::Insert(id, 1)).collect::<Vec<_>>())?;
    let again = [Write::Insert(5, 2), Write::Insert(30, 2)];
    let mut batch = values::batch(&bench.table, &again, &at(4))?;
    let before = values::rows(&bench.table, &[Write::Insert(21, 1), Write::Delete(1)])?;
    batch.items.splice(0..0, [Item::Rows(before), Item::Truncate(Arc::clone(&bench.table))]);
    bench.writer.write(&batch)?;
    bench.holds(fixture, 3, "before the truncation is committed")?;
    bench.model.clear();
    values::apply(&bench.table, &again, &mut bench.model);
    bench.commit(4, Phase::Streaming)?;
    bench.holds(fixture, 4, "after the truncation")
}

/// The table `(id, a, b)` of 64-bit integers.
fn numbers(schema: &str, version: u32, columns: &[&str]) -> Arc<TableSchema> {
    let column = |name: &&str| Column {
        name: (*name).to_owned(),
        source_type: "bigint".into(),
        logical: Logical::Int64,
        nullable: *name != "id",
        auto_increment: false,
        number: 0,
        policies: Default::default(),
    };
    let mut table = (*values::table(schema, "c_shape")).clone();
    table.version = version;
    table.columns = columns.iter().map(column).collect();
    Arc::new(table)
}

fn number_rows(table: &Arc<TableSchema>, rows: &[&[i64]]) -> Result<Item> {
    let mut builder = RowsBuilder::new(Arc::clone(table));
    for (order, row) in rows.iter().enumerate() {
        for (column, value) in builder.columns.iter_mut().zip(*row) {
            if let ColumnBuilder::Int64(b) = column {
                b.append_value(*value);
            }
        }
        builder.end_row(Op::Insert, 0, order as u32);
    }
    Ok(Item::Rows(builder.finish()?))
}

fn shapes_change(fixture: &mut (dyn TargetFixture + '_)) -> Result<()> {
    let schema = fixture.schema();
    let shapes = [
        numbers(&schema, 1, &["id", "a", "b"]),
        numbers(&schema, 2, &["id", "a", "b", "c"]),
        numbers(&schema, 3, &["id", "b", "c"]),
        numbers(&schema, 4, &["id", "bb", "c"]),
    ];
    let steps = [
        SchemaStep::Add { column: "c".into(), fill: Some("7".into()) },
        SchemaStep::Drop { column: "a".into() },
        SchemaStep::Rename { from: "b".into(), to: "bb".into() },
    ];
    let mut bench = Bench::streaming(fixture, Arc::clone(&shapes[0]))?;
    let mut expected: Vec<Vec<i64>> = vec![vec![1, 10, 100]];
    let first = number_rows(&shapes[0], &[&[1, 10, 100]])?;
    let batch = |items, n| Batch { items, end: Boundary::Commit(at(n)), commit_micros: None };
    bench.writer.write(&batch(vec![first], 3))?;
    bench.commit(3, Phase::Streaming)?;
    for (i, step) in steps.into_iter().enumerate() {
        let (from, to) = (Arc::clone(&shapes[i]), Arc::clone(&shapes[i + 1]));
        match step {
            SchemaStep::Add { .. } => expected.iter_mut().for_each(|r| r.push(7)),
            SchemaStep::Drop { .. } => expected.iter_mut().for_each(|r| {
                r.remove(1);
            }),
            SchemaStep::Rename { .. } => {}
        }
        let n = 4 + i as u64;
        let row: Vec<i64> = (0..to.columns.len() as i64).map(|c| (n as i64) * 10 + c).collect();
        let change = Item::Schema(SchemaChange { from, to: Arc::clone(&to), steps: vec![step] });
        bench.writer.write(&batch(vec![change, number_rows(&to, &[row.as_slice()])?], n))?;
        bench.commit(n, Phase::Streaming)?;
        expected.push(row);
        bench = bench.reopen(fixture)?;
        let tables = bench.writer.tables()?;
        ensure(tables.len() == 1 && tables[0].columns == to.columns, || format!("remembered as {tables:?}"))?;
        let mut snapshot = fixture.target()?.snapshot(PIPELINE, std::slice::from_ref(&to))?;
        let found = sum(snapshot.as_mut(), &to, &KeyRange::ALL)?;
        let rows: Vec<&[i64]> = expected.iter().map(Vec::as_slice).collect();
        let Item::Rows(rows) = number_rows(&to, &rows)? else { return Err(Error::corrupt("rows are rows")) };
        let mut wanted = Fingerprint::default();
        wanted.add(&rows.batch)?;
        ensure(found == wanted, || format!("shape {}: {} rows {found}, not {wanted}", to.version, found.rows))?;
    }
    Ok(())
}

fn every_type_arrives(fixture: &mut (dyn TargetFixture + '_)) -> Result<()> {
    let table = values::every_type(&fixture.schema(), "c_types");
    let mut bench = Bench::streaming(fixture, table)?;
    bench.stream(3, &(1..=60).map(|id| Write::Insert(id, 1)).collect::<Vec<_>>())?;
    bench.holds(fixture, 3, "inserted")?;
    bench.stream(4, &(1..=60).map(|id| Write::Update(id, 2)).collect::<Vec<_>>())?;
    bench.holds(fixture, 4, "updated")?;
    bench.stream(5, &(1..=60).map(|id| bench.partial(id, 3)).collect::<Vec<_>>())?;
    bench.holds(fixture, 5, "updated in part")
}

fn empty_batches(fixture: &mut (dyn TargetFixture + '_)) -> Result<()> {
    let table = values::table(&fixture.schema(), "c_empty");
    let mut bench = Bench::streaming(fixture, table)?;
    for n in 3..6 {
        bench.writer.write(&Batch { items: Vec::new(), end: Boundary::Commit(at(n)), commit_micros: None })?;
        bench.commit(n, Phase::Streaming)?;
        bench.holds(fixture, n, "after a batch without items")?;
    }
    let bench = bench.reopen(fixture)?;
    bench.holds(fixture, 5, "after a restart")
}

fn finish_copy_is_idempotent(fixture: &mut (dyn TargetFixture + '_)) -> Result<()> {
    let mut table = (*values::table(&fixture.schema(), "c_finish")).clone();
    table.indexes = vec![
        Index { name: "c_finish_number".into(), columns: vec![3], unique: false },
        Index { name: "c_finish_two".into(), columns: vec![0, 2], unique: true },
    ];
    let mut bench = Bench::copying(fixture, Arc::new(table))?;
    let tables = [Arc::clone(&bench.table)];
    bench.writer.finish_copy(&tables)?;
    bench.writer.finish_copy(&tables)?;
    let mut bench = bench.reopen(fixture)?;
    bench.writer.finish_copy(&tables)?;
    bench.commit(2, Phase::Streaming)?;
    bench.stream(3, &[Write::Insert(1, 1), Write::Insert(2, 1)])?;
    bench.stream(4, &[Write::Update(1, 2)])?;
    bench.holds(fixture, 4, "after the copy's end was repeated")
}

fn snapshots_stand_still(fixture: &mut (dyn TargetFixture + '_)) -> Result<()> {
    let table = values::table(&fixture.schema(), "c_still");
    let mut bench = Bench::streaming(fixture, table)?;
    bench.stream(3, &(1..=200).map(|id| Write::Insert(id, 1)).collect::<Vec<_>>())?;
    let before = values::fingerprint(&bench.table, &bench.model)?;
    let mut snapshot = fixture.target()?.snapshot(PIPELINE, std::slice::from_ref(&bench.table))?;
    bench.stream(4, &[Write::Delete(1), Write::Update(2, 2), Write::Insert(300, 1)])?;
    ensure(*snapshot.position() == at(3), || format!("opened at {}, now at {}", at(3), snapshot.position()))?;
    let whole = sum(snapshot.as_mut(), &bench.table, &KeyRange::ALL)?;
    ensure(whole == before, || format!("{} rows {whole}, not {} rows {before}", whole.rows, before.rows))?;
    let mut parts = Fingerprint::default();
    for range in snapshot.split(&bench.table, 30)? {
        parts.merge(&sum(snapshot.as_mut(), &bench.table, &range)?);
    }
    ensure(parts == whole, || format!("its ranges hold {} rows {parts}, not {}", parts.rows, whole.rows))?;
    drop(snapshot);
    bench.holds(fixture, 4, "after the snapshot")
}
