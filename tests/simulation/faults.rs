//! Both ends behind a wrapper that, from a seed, makes calls fail: before they did anything, or after they did it and
//! then told otherwise; that delays calls; and that kills a session, so that all later calls on the same object fail.

use std::cmp::Ordering;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering as Memory};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow_array::RecordBatch;
use crossfade_core::{
    Batch, Checkpoint, Chunk, ChunkState, Consistency, Error, Finding, History, KeyRange, Limit, Loaded, Loader, Owner,
    Position, Result, Retained, Selection, Snapshot, Source, Stream, TableName, TableSchema, Target, Writer,
};

use super::random::Random;

/// What becomes of a call.
enum Fault {
    Before,
    /// It is done, then reported as failed.
    After,
    /// It fails, and so does every later call on the same object.
    Kill,
    Delay(Duration),
}

/// The faults of one run, shared by both ends.
pub struct Faults {
    random: Mutex<Random>,
    /// One call in so many is hit; 0: none.
    every: u64,
    left: AtomicUsize,
    /// A target's write takes up to so many microseconds: batches wait behind it and are joined.
    pub slow: AtomicU64,
    /// The largest batch that a stream handed over.
    pub largest: AtomicUsize,
    /// Batches that a stream handed over.
    pub handed: AtomicUsize,
}

impl Faults {
    /// `left` faults at most, one call in `every` is hit.
    pub fn new(random: Random, every: u64, left: usize) -> Arc<Self> {
        Arc::new(Faults {
            random: Mutex::new(random),
            every,
            left: AtomicUsize::new(left),
            slow: AtomicU64::new(0),
            largest: AtomicUsize::new(0),
            handed: AtomicUsize::new(0),
        })
    }

    fn dawdle(&self) {
        let slow = self.slow.load(Memory::SeqCst);
        if slow > 0 {
            let micros = self.random.lock().unwrap_or_else(PoisonError::into_inner).between(0, slow);
            std::thread::sleep(Duration::from_micros(micros));
        }
    }

    fn draw(&self) -> Option<Fault> {
        if self.every == 0 {
            return None;
        }
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        if !random.one_in(self.every) {
            return None;
        }
        if random.one_in(3) {
            return Some(Fault::Delay(Duration::from_micros(random.between(1, 3000))));
        }
        let fewer = self.left.fetch_update(Memory::SeqCst, Memory::SeqCst, |n| n.checked_sub(1));
        fewer.ok()?;
        Some(match random.between(0, 5) {
            0 | 1 => Fault::Before,
            2 | 3 => Fault::After,
            _ => Fault::Kill,
        })
    }
}

/// An object that can be killed.
struct Line {
    faults: Arc<Faults>,
    dead: AtomicBool,
}

impl Line {
    fn new(faults: &Arc<Faults>) -> Self {
        Line { faults: Arc::clone(faults), dead: AtomicBool::new(false) }
    }

    fn call<T>(&self, what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.dead.load(Memory::SeqCst) {
            return Err(Error::transient(format!("{what}: the session was killed")));
        }
        match self.faults.draw() {
            None => work(),
            Some(Fault::Delay(time)) => {
                std::thread::sleep(time);
                work()
            }
            Some(Fault::Before) => Err(Error::transient(format!("{what}: failed before it was done"))),
            Some(Fault::After) => {
                work()?;
                Err(Error::transient(format!("{what}: done, and reported as failed")))
            }
            Some(Fault::Kill) => {
                self.dead.store(true, Memory::SeqCst);
                Err(Error::transient(format!("{what}: the session was killed just now")))
            }
        }
    }
}

/// An object and the line to it.
pub struct Faulty<T: ?Sized>(Line, Box<T>);

/// Wraps a source.
pub fn source(inner: impl Source + 'static, faults: &Arc<Faults>) -> Arc<dyn Source> {
    Arc::new(FaultySource(Line::new(faults), Box::new(inner)))
}

/// Wraps a target.
pub fn target(inner: impl Target + 'static, faults: &Arc<Faults>) -> Arc<dyn Target> {
    Arc::new(FaultyTarget(Line::new(faults), Box::new(inner)))
}

/// A fault without an object: an open end is killed, a handle opens another connection.
fn alone<T>(line: &Line, what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    Line::new(&line.faults).call(what, work)
}

struct FaultySource(Line, Box<dyn Source>);

impl Source for FaultySource {
    fn check(&self, selection: &Selection) -> Result<Vec<Finding>> {
        alone(&self.0, "check", || self.1.check(selection))
    }

    fn tables(&self, selection: &Selection) -> Result<Vec<Arc<TableSchema>>> {
        alone(&self.0, "source tables", || self.1.tables(selection))
    }

    fn begin(&self, tables: &[Arc<TableSchema>]) -> Result<Position> {
        alone(&self.0, "begin", || self.1.begin(tables))
    }

    fn position(&self) -> Result<Position> {
        alone(&self.0, "position", || self.1.position())
    }

    fn order(&self, a: &Position, b: &Position) -> Result<Ordering> {
        self.1.order(a, b)
    }

    fn distance(&self, from: &Position, to: &Position) -> Result<Option<u64>> {
        alone(&self.0, "distance", || self.1.distance(from, to))
    }

    fn retained(&self) -> Result<Option<Retained>> {
        alone(&self.0, "retained", || self.1.retained())
    }

    fn snapshot(&self, tables: &[Arc<TableSchema>], consistency: Consistency) -> Result<Box<dyn Snapshot>> {
        let inner = alone(&self.0, "source snapshot", || self.1.snapshot(tables, consistency))?;
        Ok(Box::new(Faulty(Line::new(&self.0.faults), inner)))
    }

    fn stream(&self, from: &Position, tables: &[Arc<TableSchema>]) -> Result<Box<dyn Stream>> {
        let inner = alone(&self.0, "stream", || self.1.stream(from, tables))?;
        Ok(Box::new(Faulty(Line::new(&self.0.faults), inner)))
    }
}

impl Stream for Faulty<dyn Stream> {
    fn next(&mut self, limit: &Limit) -> Result<Option<Batch>> {
        let batch = self.0.call("next", || self.1.next(limit))?;
        if let Some(batch) = &batch {
            self.0.faults.largest.fetch_max(batch.bytes(), Memory::SeqCst);
            self.0.faults.handed.fetch_add(1, Memory::SeqCst);
        }
        Ok(batch)
    }

    fn ack(&mut self, durable: &Position) -> Result<()> {
        self.0.call("ack", || self.1.ack(durable))
    }
}

impl Snapshot for Faulty<dyn Snapshot> {
    fn position(&self) -> &Position {
        self.1.position()
    }

    fn split(&mut self, table: &TableSchema, rows: u64) -> Result<Vec<KeyRange>> {
        self.0.call("split", || self.1.split(table, rows))
    }

    fn scan(
        &mut self,
        table: &TableSchema,
        range: &KeyRange,
        sink: &mut dyn FnMut(RecordBatch) -> Result<()>,
    ) -> Result<()> {
        self.0.call("scan", || self.1.scan(table, range, sink))
    }
}

struct FaultyTarget(Line, Box<dyn Target>);

impl Target for FaultyTarget {
    fn history(&self) -> History {
        self.1.history()
    }

    fn check(&self, pipeline: &str, tables: &[Arc<TableSchema>]) -> Result<Vec<Finding>> {
        alone(&self.0, "check", || self.1.check(pipeline, tables))
    }

    fn recover(&self, pipeline: &str) -> Result<Option<Checkpoint>> {
        alone(&self.0, "recover", || self.1.recover(pipeline))
    }

    fn owner(&self, pipeline: &str) -> Result<Option<Owner>> {
        alone(&self.0, "owner", || self.1.owner(pipeline))
    }

    fn open(&self, owner: &Owner) -> Result<Box<dyn Writer>> {
        let inner = alone(&self.0, "open", || self.1.open(owner))?;
        Ok(Box::new(Faulty(Line::new(&self.0.faults), inner)))
    }

    fn loader(&self, pipeline: &str, epoch: u64) -> Result<Box<dyn Loader>> {
        let inner = alone(&self.0, "loader", || self.1.loader(pipeline, epoch))?;
        Ok(Box::new(Faulty(Line::new(&self.0.faults), inner)))
    }

    fn snapshot(&self, pipeline: &str, tables: &[Arc<TableSchema>]) -> Result<Box<dyn Snapshot>> {
        let inner = alone(&self.0, "target snapshot", || self.1.snapshot(pipeline, tables))?;
        Ok(Box::new(Faulty(Line::new(&self.0.faults), inner)))
    }
}

impl Writer for Faulty<dyn Writer> {
    fn epoch(&self) -> u64 {
        self.1.epoch()
    }

    fn checkpoint(&self) -> Option<&Checkpoint> {
        self.1.checkpoint()
    }

    fn tables(&mut self) -> Result<Vec<Arc<TableSchema>>> {
        self.0.call("target tables", || self.1.tables())
    }

    fn prepare(&mut self, tables: &[Arc<TableSchema>]) -> Result<()> {
        self.0.call("prepare", || self.1.prepare(tables))
    }

    fn plan(&mut self, table: &TableName, ranges: &[KeyRange]) -> Result<()> {
        self.0.call("plan", || self.1.plan(table, ranges))
    }

    fn chunks(&mut self) -> Result<Vec<ChunkState>> {
        self.0.call("chunks", || self.1.chunks())
    }

    fn copy_again(&mut self, table: &Arc<TableSchema>, since: &Position) -> Result<()> {
        self.0.call("copy again", || self.1.copy_again(table, since))
    }

    fn since(&mut self) -> Result<Vec<(TableName, Position)>> {
        self.0.call("since", || self.1.since())
    }

    fn write(&mut self, batch: &Batch) -> Result<()> {
        self.0.faults.dawdle();
        self.0.call("write", || self.1.write(batch))
    }

    fn commit(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        self.0.call("commit", || self.1.commit(checkpoint))
    }

    fn commit_soon(&mut self, checkpoint: &Checkpoint) -> Result<bool> {
        self.0.call("commit soon", || self.1.commit_soon(checkpoint))
    }

    fn harden(&mut self) -> Result<()> {
        self.0.call("harden", || self.1.harden())
    }

    fn finish_copy(&mut self, tables: &[Arc<TableSchema>]) -> Result<()> {
        self.0.call("finish_copy", || self.1.finish_copy(tables))
    }
}

impl Loader for Faulty<dyn Loader> {
    fn begin(&mut self, chunk: &Chunk, merge: bool) -> Result<()> {
        self.0.call("begin chunk", || self.1.begin(chunk, merge))
    }

    fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        self.0.call("write chunk", || self.1.write(rows))
    }

    fn commit(&mut self, high: &Position) -> Result<Loaded> {
        self.0.call("commit chunk", || self.1.commit(high))
    }
}
