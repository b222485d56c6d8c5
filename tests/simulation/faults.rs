//! Both ends behind a wrapper that, by a plan drawn from a seed, makes calls fail: before they did anything, or after they
//! did it and then told otherwise; that delays calls; and that kills a session, so that all later calls on the same object
//! fail.
//!
//! The plan says "the third commit", not "the 217th call": calls that are rare get as many faults as those that are
//! frequent, and the same seed hits the same calls however its threads interleave.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering as Memory};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow_array::RecordBatch;
use crossfade_core::totals::Totals;
use crossfade_core::{
    Batch, Checkpoint, Chunk, ChunkState, Consistency, Error, Finding, History, KeyRange, Limit, Loaded, Loader,
    Orphans, Owner, Position, Result, Retained, Selection, Snapshot, Source, Stream, Suspension, TableName,
    TableSchema, Target, Writer,
};

use super::random::Random;

/// The calls that a pipeline makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    SourceTables,
    SourceBegin,
    SourcePosition,
    SourceDistance,
    SourceRetained,
    SourceSnapshot,
    Stream,
    Next,
    Ack,
    Split,
    Scan,
    TargetSnapshot,
    Open,
    OpenLoader,
    TargetTables,
    Prepare,
    Plan,
    Chunks,
    CopyAgain,
    Since,
    Suspend,
    Suspended,
    Write,
    Commit,
    CommitSoon,
    Harden,
    FinishCopy,
    BeginChunk,
    WriteChunk,
    CommitChunk,
}

impl Call {
    /// All of them.
    pub const ALL: [Call; 30] = [
        Call::SourceTables,
        Call::SourceBegin,
        Call::SourcePosition,
        Call::SourceDistance,
        Call::SourceRetained,
        Call::SourceSnapshot,
        Call::Stream,
        Call::Next,
        Call::Ack,
        Call::Split,
        Call::Scan,
        Call::TargetSnapshot,
        Call::Open,
        Call::OpenLoader,
        Call::TargetTables,
        Call::Prepare,
        Call::Plan,
        Call::Chunks,
        Call::CopyAgain,
        Call::Since,
        Call::Suspend,
        Call::Suspended,
        Call::Write,
        Call::Commit,
        Call::CommitSoon,
        Call::Harden,
        Call::FinishCopy,
        Call::BeginChunk,
        Call::WriteChunk,
        Call::CommitChunk,
    ];
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails, and nothing was done.
    Before,
    /// It is done, then reported as failed.
    After,
    /// It fails, and so does every later call on the same object.
    Kill,
    /// It is done, so many microseconds later.
    Delay(u64),
}

/// Faults by call and how many calls of that name came before.
pub type Plan = BTreeMap<(Call, u64), Fault>;

/// A plan of up to a dozen faults, some of them several calls in a row, and more delays.
fn plan(mut random: Random) -> Plan {
    let mut plan = Plan::new();
    for _ in 0..random.between(0, 60) {
        let call = Call::ALL[random.between(0, Call::ALL.len() as u64) as usize];
        plan.insert((call, random.between(0, 300)), Fault::Delay(random.between(1, 3000)));
    }
    for _ in 0..random.between(0, 12) {
        let call = Call::ALL[random.between(0, Call::ALL.len() as u64) as usize];
        let among = [1, 4, 16, 64][random.between(0, 4) as usize];
        let first = random.between(0, among);
        let row = if random.one_in(6) { random.between(2, 5) } else { 1 };
        let fault = [Fault::Before, Fault::Before, Fault::After, Fault::After, Fault::Kill];
        let fault = fault[random.between(0, 5) as usize];
        plan.extend((first..first + row).map(|n| ((call, n), fault)));
    }
    plan
}

/// The faults of one run, shared by both ends.
pub struct Faults {
    plan: Plan,
    /// Calls so far, by [`Call`].
    calls: [AtomicU64; Call::ALL.len()],
    /// Faults so far, delays not among them, by [`Call`].
    hits: [AtomicU64; Call::ALL.len()],
    random: Mutex<Random>,
    /// A target's write takes up to so many microseconds: batches wait behind it and are joined.
    pub slow: AtomicU64,
    /// The largest batch that a stream handed over.
    pub largest: AtomicUsize,
    /// Batches that a stream handed over.
    pub handed: AtomicUsize,
}

impl Faults {
    /// Faults as they follow from a seed.
    pub fn of(seed: u64) -> Arc<Self> {
        Faults::planned(plan(Random::new(seed, 2)), seed)
    }

    /// No call fails.
    pub fn none() -> Arc<Self> {
        Faults::planned(Plan::new(), 0)
    }

    fn planned(plan: Plan, seed: u64) -> Arc<Self> {
        Arc::new(Faults {
            plan,
            calls: Default::default(),
            hits: Default::default(),
            random: Mutex::new(Random::new(seed, 8)),
            slow: AtomicU64::new(0),
            largest: AtomicUsize::new(0),
            handed: AtomicUsize::new(0),
        })
    }

    /// The faults of the plan, without delays.
    pub fn plan(&self) -> Plan {
        self.plan.iter().filter(|(_, f)| !matches!(f, Fault::Delay(_))).map(|(k, f)| (*k, *f)).collect()
    }

    /// How often each call failed.
    pub fn hits(&self) -> [u64; Call::ALL.len()] {
        std::array::from_fn(|i| self.hits[i].load(Memory::SeqCst))
    }

    fn dawdle(&self) {
        let slow = self.slow.load(Memory::SeqCst);
        if slow > 0 {
            let micros = self.random.lock().unwrap_or_else(PoisonError::into_inner).between(0, slow);
            std::thread::sleep(Duration::from_micros(micros));
        }
    }

    fn draw(&self, call: Call) -> Option<Fault> {
        let before = self.calls[call as usize].fetch_add(1, Memory::SeqCst);
        let fault = self.plan.get(&(call, before)).copied();
        if fault.is_some_and(|f| !matches!(f, Fault::Delay(_))) {
            self.hits[call as usize].fetch_add(1, Memory::SeqCst);
        }
        fault
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

    fn call<T>(&self, what: Call, work: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.dead.load(Memory::SeqCst) {
            return Err(Error::transient(format!("{what:?}: the session was killed")));
        }
        match self.faults.draw(what) {
            None => work(),
            Some(Fault::Delay(micros)) => {
                std::thread::sleep(Duration::from_micros(micros));
                work()
            }
            Some(Fault::Before) => Err(Error::transient(format!("{what:?}: failed before it was done"))),
            Some(Fault::After) => {
                work()?;
                Err(Error::transient(format!("{what:?}: done, and reported as failed")))
            }
            Some(Fault::Kill) => {
                self.dead.store(true, Memory::SeqCst);
                Err(Error::transient(format!("{what:?}: the session was killed just now")))
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
fn alone<T>(line: &Line, what: Call, work: impl FnOnce() -> Result<T>) -> Result<T> {
    Line::new(&line.faults).call(what, work)
}

struct FaultySource(Line, Box<dyn Source>);

impl Source for FaultySource {
    fn check(&self, selection: &Selection) -> Result<Vec<Finding>> {
        self.1.check(selection)
    }

    fn tables(&self, selection: &Selection) -> Result<Vec<Arc<TableSchema>>> {
        alone(&self.0, Call::SourceTables, || self.1.tables(selection))
    }

    fn begin(&self, tables: &[Arc<TableSchema>]) -> Result<Position> {
        alone(&self.0, Call::SourceBegin, || self.1.begin(tables))
    }

    fn position(&self) -> Result<Position> {
        alone(&self.0, Call::SourcePosition, || self.1.position())
    }

    fn order(&self, a: &Position, b: &Position) -> Result<Ordering> {
        self.1.order(a, b)
    }

    fn distance(&self, from: &Position, to: &Position) -> Result<Option<u64>> {
        alone(&self.0, Call::SourceDistance, || self.1.distance(from, to))
    }

    fn retained(&self) -> Result<Option<Retained>> {
        alone(&self.0, Call::SourceRetained, || self.1.retained())
    }

    fn snapshot(&self, tables: &[Arc<TableSchema>], consistency: Consistency) -> Result<Box<dyn Snapshot>> {
        let inner = alone(&self.0, Call::SourceSnapshot, || self.1.snapshot(tables, consistency))?;
        Ok(Box::new(Faulty(Line::new(&self.0.faults), inner)))
    }

    fn stream(&self, from: &Position, tables: &[Arc<TableSchema>]) -> Result<Box<dyn Stream>> {
        let inner = alone(&self.0, Call::Stream, || self.1.stream(from, tables))?;
        Ok(Box::new(Faulty(Line::new(&self.0.faults), inner)))
    }
}

impl Stream for Faulty<dyn Stream> {
    fn next(&mut self, limit: &Limit) -> Result<Option<Batch>> {
        let batch = self.0.call(Call::Next, || self.1.next(limit))?;
        if let Some(batch) = &batch {
            self.0.faults.largest.fetch_max(batch.bytes(), Memory::SeqCst);
            self.0.faults.handed.fetch_add(1, Memory::SeqCst);
        }
        Ok(batch)
    }

    fn ack(&mut self, durable: &Position) -> Result<()> {
        self.0.call(Call::Ack, || self.1.ack(durable))
    }
}

impl Snapshot for Faulty<dyn Snapshot> {
    fn position(&self) -> &Position {
        self.1.position()
    }

    fn totals(&mut self, table: &TableSchema) -> Result<Option<Totals>> {
        self.1.totals(table)
    }

    fn ask(&mut self, statement: &str) -> Result<Option<String>> {
        self.1.ask(statement)
    }

    fn orphans(&mut self, table: &TableSchema, tables: &[Arc<TableSchema>]) -> Result<Option<Vec<Orphans>>> {
        self.1.orphans(table, tables)
    }

    fn split(&mut self, table: &TableSchema, rows: u64) -> Result<Vec<KeyRange>> {
        self.0.call(Call::Split, || self.1.split(table, rows))
    }

    fn scan(
        &mut self,
        table: &TableSchema,
        range: &KeyRange,
        sink: &mut dyn FnMut(RecordBatch) -> Result<()>,
    ) -> Result<()> {
        self.0.call(Call::Scan, || self.1.scan(table, range, sink))
    }
}

struct FaultyTarget(Line, Box<dyn Target>);

impl Target for FaultyTarget {
    fn history(&self) -> History {
        self.1.history()
    }

    fn check(&self, pipeline: &str, tables: &[Arc<TableSchema>]) -> Result<Vec<Finding>> {
        self.1.check(pipeline, tables)
    }

    fn recover(&self, pipeline: &str) -> Result<Option<Checkpoint>> {
        self.1.recover(pipeline)
    }

    fn suspended(&self, pipeline: &str) -> Result<Vec<(TableName, Suspension)>> {
        self.1.suspended(pipeline)
    }

    fn owner(&self, pipeline: &str) -> Result<Option<Owner>> {
        self.1.owner(pipeline)
    }

    fn open(&self, owner: &Owner) -> Result<Box<dyn Writer>> {
        let inner = alone(&self.0, Call::Open, || self.1.open(owner))?;
        Ok(Box::new(Faulty(Line::new(&self.0.faults), inner)))
    }

    fn loader(&self, pipeline: &str, epoch: u64) -> Result<Box<dyn Loader>> {
        let inner = alone(&self.0, Call::OpenLoader, || self.1.loader(pipeline, epoch))?;
        Ok(Box::new(Faulty(Line::new(&self.0.faults), inner)))
    }

    fn snapshot(&self, pipeline: &str, tables: &[Arc<TableSchema>]) -> Result<Box<dyn Snapshot>> {
        let inner = alone(&self.0, Call::TargetSnapshot, || self.1.snapshot(pipeline, tables))?;
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
        self.0.call(Call::TargetTables, || self.1.tables())
    }

    fn prepare(&mut self, tables: &[Arc<TableSchema>]) -> Result<()> {
        self.0.call(Call::Prepare, || self.1.prepare(tables))
    }

    fn plan(&mut self, table: &TableName, ranges: &[KeyRange]) -> Result<()> {
        self.0.call(Call::Plan, || self.1.plan(table, ranges))
    }

    fn chunks(&mut self) -> Result<Vec<ChunkState>> {
        self.0.call(Call::Chunks, || self.1.chunks())
    }

    fn copy_again(&mut self, table: &Arc<TableSchema>, since: &Position) -> Result<()> {
        self.0.call(Call::CopyAgain, || self.1.copy_again(table, since))
    }

    fn since(&mut self) -> Result<Vec<(TableName, Position)>> {
        self.0.call(Call::Since, || self.1.since())
    }

    fn suspend(&mut self, table: &TableName, why: &Suspension) -> Result<()> {
        self.0.call(Call::Suspend, || self.1.suspend(table, why))
    }

    fn suspended(&mut self) -> Result<Vec<(TableName, Suspension)>> {
        self.0.call(Call::Suspended, || self.1.suspended())
    }

    fn write(&mut self, batch: &Batch) -> Result<()> {
        self.0.faults.dawdle();
        self.0.call(Call::Write, || self.1.write(batch))
    }

    fn commit(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        self.0.call(Call::Commit, || self.1.commit(checkpoint))
    }

    fn commit_soon(&mut self, checkpoint: &Checkpoint) -> Result<bool> {
        self.0.call(Call::CommitSoon, || self.1.commit_soon(checkpoint))
    }

    fn harden(&mut self) -> Result<()> {
        self.0.call(Call::Harden, || self.1.harden())
    }

    fn finish_copy(&mut self, tables: &[Arc<TableSchema>]) -> Result<()> {
        self.0.call(Call::FinishCopy, || self.1.finish_copy(tables))
    }
}

impl Loader for Faulty<dyn Loader> {
    fn begin(&mut self, chunk: &Chunk, merge: bool) -> Result<()> {
        self.0.call(Call::BeginChunk, || self.1.begin(chunk, merge))
    }

    fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        self.0.call(Call::WriteChunk, || self.1.write(rows))
    }

    fn commit(&mut self, high: &Position) -> Result<Loaded> {
        self.0.call(Call::CommitChunk, || self.1.commit(high))
    }
}
