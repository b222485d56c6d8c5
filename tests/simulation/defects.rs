//! Ends with one defect each, to see that the oracle finds it. Each is what some mistake in a pipeline or a connector would
//! look like, and is as small as it can be: it happens once, at an occasion that the seed chooses.

use std::cmp::Ordering;
use std::sync::atomic::{AtomicU64, Ordering as Memory};
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::{BooleanArray, RecordBatch};
use arrow_buffer::BooleanBuffer;
use arrow_select::filter::{filter, filter_record_batch};
use crossfade_core::totals::Totals;
use crossfade_core::{
    Batch, Boundary, Checkpoint, Chunk, ChunkState, Consistency, Error, Finding, History, Item, KeyRange, Limit,
    Loaded, Loader, Op, Orphans, Owner, Phase, Position, Result, Retained, Rows, Selection, Snapshot, Source, Stream,
    Suspension, TableName, TableSchema, Target, Writer, figure,
};

use super::random::Random;

/// What an end does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defect {
    /// A batch is committed without its rows.
    LostBatch,
    /// One row of a batch is not written.
    LostRow,
    /// A batch is written twice.
    RepeatedBatch,
    /// A batch comes before the one that it follows.
    SwappedBatches,
    /// Half of a transaction is shown at the position before it.
    ShownInPart,
    /// The checkpoint is committed, the rows with the next one.
    CheckpointAhead,
    /// A row that was deleted stays.
    StaleRow,
    /// A truncation is not carried out.
    LostTruncation,
    /// A column that did not change is emptied.
    AbsentAsNull,
    /// The last row of a chunk is not copied.
    LostRowOfCopy,
    /// Chunks are read in a snapshot that is older than it says.
    StaleChunks,
    /// The source is told that more is safe than is.
    AcknowledgedEarly,
}

impl Defect {
    /// All of them.
    pub const ALL: [Defect; 12] = [
        Defect::LostBatch,
        Defect::LostRow,
        Defect::RepeatedBatch,
        Defect::SwappedBatches,
        Defect::ShownInPart,
        Defect::CheckpointAhead,
        Defect::StaleRow,
        Defect::LostTruncation,
        Defect::AbsentAsNull,
        Defect::LostRowOfCopy,
        Defect::StaleChunks,
        Defect::AcknowledgedEarly,
    ];
}

/// A world's defect, and when it happens.
pub struct Flaw {
    defect: Option<Defect>,
    /// Occasions to let pass.
    before: u64,
    occasions: AtomicU64,
}

impl Flaw {
    pub fn new(defect: Option<Defect>, seed: u64) -> Arc<Self> {
        let before = match defect {
            // Rare as it is, the first.
            Some(Defect::AcknowledgedEarly) => 0,
            _ => Random::new(seed, 10).between(0, 6),
        };
        Arc::new(Flaw { defect, before, occasions: AtomicU64::new(0) })
    }

    fn is(&self, defect: Defect) -> bool {
        self.defect == Some(defect)
    }

    /// Whether it happens now, on an occasion for `defect`.
    fn strikes(&self, defect: Defect) -> bool {
        self.is(defect) && self.occasions.fetch_add(1, Memory::SeqCst) == self.before
    }

    /// Whether it has happened.
    pub fn struck(&self) -> bool {
        self.occasions.load(Memory::SeqCst) > self.before
    }
}

/// The target, with its defect if it has one.
pub fn target(inner: impl Target + 'static, flaw: &Arc<Flaw>) -> FlawedTarget {
    FlawedTarget(Box::new(inner), Arc::clone(flaw))
}

/// The source, with its defect if it has one.
pub fn source(inner: impl Source + 'static, flaw: &Arc<Flaw>) -> FlawedSource {
    FlawedSource { inner: Arc::new(inner), flaw: Arc::clone(flaw), then: Mutex::new(None) }
}

/// The rows without one of them.
fn without(rows: &Rows, row: usize) -> Result<Rows> {
    let kept: BooleanArray = (0..rows.len()).map(|i| Some(i != row)).collect();
    let broken = |e| Error::corrupt("leaving out a row").caused_by(e);
    let bits = |b: &BooleanBuffer| {
        let array: BooleanArray = b.clone().into();
        filter(&array, &kept).map(|a| a.as_any().downcast_ref::<BooleanArray>().map(|a| a.values().clone()))
    };
    let mut absent = Vec::new();
    for column in &rows.absent {
        absent.push(column.as_ref().map(bits).transpose().map_err(broken)?.flatten());
    }
    let mut left = Rows { absent, batch: filter_record_batch(&rows.batch, &kept).map_err(broken)?, ..rows.clone() };
    left.ops.remove(row);
    left.commit_micros.remove(row);
    left.order.remove(row);
    Ok(left)
}

/// The batch with another item in the place of the first for which there is one.
fn replaced(batch: &Batch, mut by: impl FnMut(&Item) -> Result<Option<Option<Item>>>) -> Result<Option<Batch>> {
    for (i, item) in batch.items.iter().enumerate() {
        if let Some(other) = by(item)? {
            let mut batch = batch.clone();
            match other {
                Some(item) => batch.items[i] = item,
                None => drop(batch.items.remove(i)),
            }
            return Ok(Some(batch));
        }
    }
    Ok(None)
}

pub struct FlawedTarget(Box<dyn Target>, Arc<Flaw>);

impl Target for FlawedTarget {
    fn history(&self) -> History {
        self.0.history()
    }

    fn check(&self, pipeline: &str, tables: &[Arc<TableSchema>]) -> Result<Vec<Finding>> {
        self.0.check(pipeline, tables)
    }

    fn recover(&self, pipeline: &str) -> Result<Option<Checkpoint>> {
        self.0.recover(pipeline)
    }

    fn suspended(&self, pipeline: &str) -> Result<Vec<(TableName, Suspension)>> {
        self.0.suspended(pipeline)
    }

    fn owner(&self, pipeline: &str) -> Result<Option<Owner>> {
        self.0.owner(pipeline)
    }

    fn open(&self, owner: &Owner) -> Result<Box<dyn Writer>> {
        let inner = self.0.open(owner)?;
        Ok(Box::new(FlawedWriter { inner, flaw: Arc::clone(&self.1), written: Vec::new(), held: Vec::new() }))
    }

    fn loader(&self, pipeline: &str, epoch: u64) -> Result<Box<dyn Loader>> {
        Ok(Box::new(FlawedLoader(self.0.loader(pipeline, epoch)?, Arc::clone(&self.1))))
    }

    fn snapshot(&self, pipeline: &str, tables: &[Arc<TableSchema>]) -> Result<Box<dyn Snapshot>> {
        self.0.snapshot(pipeline, tables)
    }
}

struct FlawedWriter {
    inner: Box<dyn Writer>,
    flaw: Arc<Flaw>,
    /// Since the last commit; kept back for those defects that need all of it.
    written: Vec<Batch>,
    /// Of the commit before.
    held: Vec<Batch>,
}

impl FlawedWriter {
    fn streams(&self) -> bool {
        self.inner.checkpoint().is_some_and(|c| c.phase == Phase::Streaming)
    }

    /// Whether batches are kept until their commit.
    fn gathers(&self) -> bool {
        [Defect::ShownInPart, Defect::CheckpointAhead].iter().any(|&d| self.flaw.is(d))
    }

    /// What is written in the place of a batch.
    fn spoiled(&self, batch: &Batch) -> Result<Option<Batch>> {
        let flaw = &self.flaw;
        if !self.streams() {
            return Ok(None);
        }
        if batch.rows() > 0 && flaw.strikes(Defect::LostBatch) {
            return Ok(Some(Batch { items: Vec::new(), ..batch.clone() }));
        }
        replaced(batch, |item| match item {
            Item::Rows(rows) if flaw.strikes(Defect::LostRow) => {
                Ok(Some(Some(Item::Rows(without(rows, rows.len() - 1)?))))
            }
            Item::Rows(rows) => match rows.ops.iter().position(|op| *op == Op::Delete) {
                Some(row) if flaw.strikes(Defect::StaleRow) => Ok(Some(Some(Item::Rows(without(rows, row)?)))),
                _ if rows.absent.iter().any(Option::is_some) && flaw.strikes(Defect::AbsentAsNull) => {
                    Ok(Some(Some(Item::Rows(Rows { absent: Vec::new(), ..rows.clone() }))))
                }
                _ => Ok(None),
            },
            Item::Truncate(_) if flaw.strikes(Defect::LostTruncation) => Ok(Some(None)),
            Item::Truncate(_) | Item::Schema(_) => Ok(None),
        })
    }

    fn write_all(&mut self, batches: &[Batch], checkpoint: &Checkpoint) -> Result<()> {
        for batch in batches {
            // The target checks that a batch ends where it is committed.
            self.inner.write(&Batch { end: Boundary::Commit(checkpoint.position.clone()), ..batch.clone() })?;
        }
        Ok(())
    }

    fn commit_gathered(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        let mut written = std::mem::take(&mut self.held);
        written.append(&mut self.written);
        let items: Vec<Item> = written.iter().flat_map(|b| b.items.clone()).collect();
        if self.streams() && !items.is_empty() && self.flaw.strikes(Defect::CheckpointAhead) {
            self.held = written;
            return self.inner.commit(checkpoint);
        }
        let halves = items.len() > 1 && self.streams() && self.flaw.strikes(Defect::ShownInPart);
        if let (true, Some(last)) = (halves, self.inner.checkpoint().cloned()) {
            let (some, rest) = items.split_at(items.len() / 2);
            let early = Checkpoint { seq: last.seq + 1, epoch: checkpoint.epoch, ..last };
            let part = |items: &[Item]| vec![Batch { items: items.to_vec(), ..written[0].clone() }];
            self.write_all(&part(some), &early)?;
            self.inner.commit(&early)?;
            self.write_all(&part(rest), checkpoint)?;
            return self.inner.commit(&Checkpoint { seq: early.seq + 1, ..checkpoint.clone() });
        }
        self.write_all(&written, checkpoint)?;
        self.inner.commit(checkpoint)
    }
}

impl Writer for FlawedWriter {
    fn epoch(&self) -> u64 {
        self.inner.epoch()
    }

    fn checkpoint(&self) -> Option<&Checkpoint> {
        self.inner.checkpoint()
    }

    fn tables(&mut self) -> Result<Vec<Arc<TableSchema>>> {
        self.inner.tables()
    }

    fn prepare(&mut self, tables: &[Arc<TableSchema>]) -> Result<()> {
        self.inner.prepare(tables)
    }

    fn plan(&mut self, table: &TableName, ranges: &[KeyRange]) -> Result<()> {
        self.inner.plan(table, ranges)
    }

    fn chunks(&mut self) -> Result<Vec<ChunkState>> {
        self.inner.chunks()
    }

    fn copy_again(&mut self, table: &Arc<TableSchema>, since: &Position) -> Result<()> {
        self.inner.copy_again(table, since)
    }

    fn since(&mut self) -> Result<Vec<(TableName, Position)>> {
        self.inner.since()
    }

    fn suspend(&mut self, table: &TableName, why: &Suspension) -> Result<()> {
        self.inner.suspend(table, why)
    }

    fn suspended(&mut self) -> Result<Vec<(TableName, Suspension)>> {
        self.inner.suspended()
    }

    fn write(&mut self, batch: &Batch) -> Result<()> {
        if self.gathers() {
            self.written.push(batch.clone());
            return Ok(());
        }
        match self.spoiled(batch)? {
            Some(spoiled) => self.inner.write(&spoiled),
            None => self.inner.write(batch),
        }?;
        if self.streams() && batch.rows() > 0 && self.flaw.strikes(Defect::RepeatedBatch) {
            self.inner.write(batch)?;
        }
        Ok(())
    }

    fn commit(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        if self.gathers() { self.commit_gathered(checkpoint) } else { self.inner.commit(checkpoint) }
    }

    fn commit_soon(&mut self, checkpoint: &Checkpoint) -> Result<bool> {
        match self.gathers() {
            true => self.commit_gathered(checkpoint).map(|()| true),
            false => self.inner.commit_soon(checkpoint),
        }
    }

    fn harden(&mut self) -> Result<()> {
        self.inner.harden()
    }

    fn finish_copy(&mut self, tables: &[Arc<TableSchema>]) -> Result<()> {
        self.inner.finish_copy(tables)
    }
}

struct FlawedLoader(Box<dyn Loader>, Arc<Flaw>);

impl Loader for FlawedLoader {
    fn begin(&mut self, chunk: &Chunk, merge: bool) -> Result<()> {
        self.0.begin(chunk, merge)
    }

    fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        if rows.num_rows() > 0 && self.1.strikes(Defect::LostRowOfCopy) {
            return self.0.write(&rows.slice(0, rows.num_rows() - 1));
        }
        self.0.write(rows)
    }

    fn commit(&mut self, high: &Position) -> Result<Loaded> {
        self.0.commit(high)
    }
}

type SharedSnapshot = Arc<Mutex<Box<dyn Snapshot>>>;

pub struct FlawedSource {
    inner: Arc<dyn Source>,
    flaw: Arc<Flaw>,
    /// The first snapshot of all.
    then: Mutex<Option<SharedSnapshot>>,
}

impl Source for FlawedSource {
    fn check(&self, selection: &Selection) -> Result<Vec<Finding>> {
        self.inner.check(selection)
    }

    fn tables(&self, selection: &Selection) -> Result<Vec<Arc<TableSchema>>> {
        self.inner.tables(selection)
    }

    fn begin(&self, tables: &[Arc<TableSchema>]) -> Result<Position> {
        self.inner.begin(tables)
    }

    fn position(&self) -> Result<Position> {
        self.inner.position()
    }

    fn order(&self, a: &Position, b: &Position) -> Result<Ordering> {
        self.inner.order(a, b)
    }

    fn distance(&self, from: &Position, to: &Position) -> Result<Option<u64>> {
        self.inner.distance(from, to)
    }

    fn retained(&self) -> Result<Option<Retained>> {
        self.inner.retained()
    }

    fn snapshot(&self, tables: &[Arc<TableSchema>], consistency: Consistency) -> Result<Box<dyn Snapshot>> {
        let snapshot = self.inner.snapshot(tables, consistency)?;
        if !self.flaw.is(Defect::StaleChunks) || consistency == Consistency::Exact {
            return Ok(snapshot);
        }
        let mut tables_then = self.then.lock().unwrap_or_else(PoisonError::into_inner);
        let then = match &*tables_then {
            Some(then) => Arc::clone(then),
            None => Arc::new(Mutex::new(self.inner.snapshot(tables, Consistency::Exact)?)),
        };
        *tables_then = Some(Arc::clone(&then));
        // Once it has begun it goes on.
        self.flaw.strikes(Defect::StaleChunks);
        if !self.flaw.struck() {
            return Ok(snapshot);
        }
        Ok(Box::new(Stale { then, said: snapshot.position().clone() }))
    }

    fn stream(&self, from: &Position, tables: &[Arc<TableSchema>]) -> Result<Box<dyn Stream>> {
        let inner = self.inner.stream(from, tables)?;
        let (source, flaw) = (Arc::clone(&self.inner), Arc::clone(&self.flaw));
        Ok(Box::new(FlawedStream { inner, source, flaw, behind: None }))
    }
}

/// A snapshot that says it is newer than it is.
struct Stale {
    then: SharedSnapshot,
    said: Position,
}

impl Snapshot for Stale {
    fn position(&self) -> &Position {
        &self.said
    }

    fn totals(&mut self, _: &TableSchema) -> Result<Option<Totals>> {
        Ok(None)
    }

    fn ask(&mut self, _: &str) -> Result<Option<String>> {
        Err(figure::mute("memory"))
    }

    fn orphans(&mut self, _: &TableSchema, _: &[Arc<TableSchema>]) -> Result<Option<Vec<Orphans>>> {
        Ok(None)
    }

    fn split(&mut self, table: &TableSchema, rows: u64) -> Result<Vec<KeyRange>> {
        self.then.lock().unwrap_or_else(PoisonError::into_inner).split(table, rows)
    }

    fn scan(
        &mut self,
        table: &TableSchema,
        range: &KeyRange,
        sink: &mut dyn FnMut(RecordBatch) -> Result<()>,
    ) -> Result<()> {
        self.then.lock().unwrap_or_else(PoisonError::into_inner).scan(table, range, sink)
    }
}

struct FlawedStream {
    inner: Box<dyn Stream>,
    source: Arc<dyn Source>,
    flaw: Arc<Flaw>,
    /// To be handed over next.
    behind: Option<Batch>,
}

impl Stream for FlawedStream {
    fn next(&mut self, limit: &Limit) -> Result<Option<Batch>> {
        if let Some(behind) = self.behind.take() {
            return Ok(Some(behind));
        }
        let is_whole = |b: &Batch| b.rows() > 0 && b.end != Boundary::Open;
        let Some(first) = self.inner.next(limit)? else { return Ok(None) };
        if !is_whole(&first) || !self.flaw.is(Defect::SwappedBatches) {
            return Ok(Some(first));
        }
        let Some(second) = self.inner.next(limit)? else { return Ok(Some(first)) };
        let swapped = is_whole(&second) && self.flaw.strikes(Defect::SwappedBatches);
        let [first, second] = match swapped {
            false => [first, second],
            true => [Batch { items: second.items, ..first.clone() }, Batch { items: first.items, ..second }],
        };
        self.behind = Some(second);
        Ok(Some(first))
    }

    fn ack(&mut self, durable: &Position) -> Result<()> {
        let end = self.source.position()?;
        let early = end != *durable && self.flaw.strikes(Defect::AcknowledgedEarly);
        self.inner.ack(if early { &end } else { durable })
    }
}
