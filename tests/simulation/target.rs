//! A target in memory: committed rows, checkpoint, plan and chunks of one pipeline, behind one lock, so that a commit
//! is all or nothing.
//!
//! It is stricter than any database: what the pipeline promises is checked where it can be seen, and what is broken is
//! kept in [`TargetStore::violations`]. Every second time that it is opened it has crashed before: what was committed and
//! not durable is gone. While streaming, an insert must be of a new row and an update of one that is
//! there; a chunk must not be older than the last change of its table; unique indexes hold at every commit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossfade_core::{
    Batch, Boundary, Checkpoint, ChunkState, Error, Finding, History, Item, KeyRange, Loader, Owner, Phase, Position,
    Result, Snapshot, Suspension, TableName, TableSchema, Target, Writer,
};

use super::apply::{self, Change};
use super::codec::{self, Table};
use super::oracle::Sample;
use super::poison::{POISONED, Poison};
use super::source::{number, tick};
use super::target_parts::{MemoryLoader, MemorySnapshot};

/// All tables.
pub type Tables = BTreeMap<TableName, Arc<Table>>;

/// What is durable.
#[derive(Default)]
pub struct Inner {
    owner: Option<Owner>,
    /// Epoch of the writer that is open, or was last.
    pub epoch: u64,
    alive: bool,
    pub checkpoint: Option<Checkpoint>,
    /// Every checkpoint ever committed.
    pub checkpoints: Vec<Checkpoint>,
    /// When each of them was, by [`tick`].
    pub times: Vec<u64>,
    pub shapes: Vec<Arc<TableSchema>>,
    pub tables: Tables,
    pub chunks: Vec<ChunkState>,
    /// Whether the unique indexes are built.
    pub indexed: bool,
    /// Every change in the order of its arrival, and the position it was committed with.
    pub history: Vec<(u64, Change)>,
    /// The position of the last commit that changed the table.
    pub touched: BTreeMap<TableName, u64>,
    /// Tables that the open writer has written and not committed.
    pub pending: BTreeSet<TableName>,
    since: Vec<(TableName, Position)>,
    /// Tables that are left out, and why.
    pub suspended: Vec<(TableName, Suspension)>,
    /// Rows of this table, of these transactions, are refused.
    pub poison: Option<(TableName, Poison)>,
    /// Every time a table was copied again: where the target stood, and from where on its changes count.
    pub again: Vec<(TableName, u64, u64)>,
    /// Tables without a key that are not copied, and since when not.
    pub uncopied: BTreeMap<TableName, u64>,
    /// When they were not copied: after which position, up to which.
    pub lacking: Vec<(TableName, u64, u64)>,
    pub violations: Vec<String>,
    /// What every commit left to be seen, until somebody takes it.
    pub shown: Vec<Sample>,
    /// What a crash leaves; `None`: everything.
    durable: Option<Durable>,
    /// Commits that crashes have undone.
    pub undone: u64,
    /// Chunks that crashes have undone.
    pub undone_chunks: u64,
}

/// What was there before the first commit that is not durable.
struct Durable {
    checkpoint: Option<Checkpoint>,
    checkpoints: usize,
    shapes: Vec<Arc<TableSchema>>,
    tables: Tables,
    history: usize,
    touched: BTreeMap<TableName, u64>,
    chunks: Vec<ChunkState>,
    uncopied: BTreeMap<TableName, u64>,
    lacking: usize,
}

impl Durable {
    fn of(inner: &Inner) -> Durable {
        Durable {
            checkpoint: inner.checkpoint.clone(),
            checkpoints: inner.checkpoints.len(),
            shapes: inner.shapes.clone(),
            tables: inner.tables.clone(),
            history: inner.history.len(),
            touched: inner.touched.clone(),
            chunks: inner.chunks.clone(),
            uncopied: inner.uncopied.clone(),
            lacking: inner.lacking.len(),
        }
    }
}

/// The store of one pipeline.
pub struct TargetStore {
    pub history: History,
    inner: Mutex<Inner>,
}

impl TargetStore {
    pub fn new(history: History) -> Arc<Self> {
        Arc::new(TargetStore { history, inner: Mutex::default() })
    }

    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many chunks are done.
fn done(chunks: &[ChunkState]) -> usize {
    chunks.iter().filter(|c| c.done.is_some()).count()
}

fn fenced(epoch: u64, now: u64) -> Error {
    Error::owned(format!("epoch {epoch} was fenced out by {now}"))
}

impl Inner {
    pub fn guard(&self, epoch: u64) -> Result<()> {
        if self.epoch == epoch { Ok(()) } else { Err(fenced(epoch, self.epoch)) }
    }

    pub fn violated(&mut self, what: String) {
        self.violations.push(what);
    }

    fn crash(&mut self) {
        let Some(durable) = self.durable.take() else { return };
        self.undone += (self.checkpoints.len() - durable.checkpoints) as u64;
        self.checkpoint = durable.checkpoint;
        self.checkpoints.truncate(durable.checkpoints);
        self.times.truncate(durable.checkpoints);
        (self.shapes, self.tables, self.touched) = (durable.shapes, durable.tables, durable.touched);
        self.history.truncate(durable.history);
        self.undone_chunks += (done(&self.chunks) - done(&durable.chunks)) as u64;
        (self.chunks, self.uncopied) = (durable.chunks, durable.uncopied);
        self.lacking.truncate(durable.lacking);
    }

    /// What is committed from here on is not durable, until a commit is.
    pub fn soften(&mut self) {
        let before = self.durable.take().unwrap_or_else(|| Durable::of(self));
        self.durable = Some(before);
    }

    fn is_suspended(&self, table: &TableName) -> bool {
        self.suspended.iter().any(|(name, _)| name == table)
    }

    /// An error if the target cannot hold one of these rows.
    fn swallow(&self, batch: &Batch) -> Result<()> {
        let Some((table, poison)) = &self.poison else { return Ok(()) };
        let refused = batch.items.iter().any(|item| match item {
            Item::Rows(rows) => {
                rows.table.name == *table && rows.commit_micros.iter().any(|n| poison.spoils(*n as u64))
            }
            Item::Schema(_) | Item::Truncate(_) => false,
        });
        if refused { Err(Error::data(table, POISONED)) } else { Ok(()) }
    }

    /// Unique indexes as the source has them. What is left of a table whose copy was broken off need not keep them.
    fn unique(&self) -> Result<()> {
        for shape in self.shapes.iter().filter(|s| !self.is_suspended(&s.name)) {
            let Some(table) = self.tables.get(&shape.name) else { continue };
            for index in shape.indexes.iter().filter(|i| i.unique) {
                let mut seen = BTreeSet::new();
                for row in table.values() {
                    let values: Vec<_> = index.columns.iter().map(|&i| &row[i]).collect();
                    if !values.iter().any(|cell| codec::is_null(cell)) && !seen.insert(values) {
                        return Err(Error::corrupt(format!(
                            "{}: index {} holds a value twice",
                            shape.name, index.name
                        )));
                    }
                }
            }
        }
        Ok(())
    }
}

/// A handle on a store.
pub struct MemoryTarget(pub Arc<TargetStore>);

impl Target for MemoryTarget {
    fn history(&self) -> History {
        self.0.history
    }

    fn check(&self, _: &str, _: &[Arc<TableSchema>]) -> Result<Vec<Finding>> {
        Ok(Vec::new())
    }

    fn recover(&self, pipeline: &str) -> Result<Option<Checkpoint>> {
        let inner = self.0.lock();
        let mine = inner.owner.as_ref().is_some_and(|o| o.pipeline == pipeline);
        Ok(if mine { inner.checkpoint.clone() } else { None })
    }

    fn suspended(&self, _: &str) -> Result<Vec<(TableName, Suspension)>> {
        Ok(self.0.lock().suspended.clone())
    }

    fn owner(&self, _: &str) -> Result<Option<Owner>> {
        let inner = self.0.lock();
        Ok(if inner.alive { inner.owner.clone() } else { None })
    }

    fn open(&self, owner: &Owner) -> Result<Box<dyn Writer>> {
        let mut inner = self.0.lock();
        if let Some(other) = inner.owner.as_ref().filter(|o| inner.alive && *o != owner) {
            return Err(Error::owned(format!("{other} has it")));
        }
        inner.owner = Some(owner.clone());
        inner.epoch += 1;
        if inner.epoch.is_multiple_of(2) {
            inner.crash();
        }
        inner.durable = None;
        inner.alive = true;
        inner.pending.clear();
        let (epoch, checkpoint) = (inner.epoch, inner.checkpoint.clone());
        Ok(Box::new(MemoryWriter { store: Arc::clone(&self.0), epoch, checkpoint, pending: Vec::new() }))
    }

    fn loader(&self, _: &str, epoch: u64) -> Result<Box<dyn Loader>> {
        self.0.lock().guard(epoch)?;
        Ok(Box::new(MemoryLoader { store: Arc::clone(&self.0), epoch, chunk: None }))
    }

    fn snapshot(&self, _: &str, _: &[Arc<TableSchema>]) -> Result<Box<dyn Snapshot>> {
        let inner = self.0.lock();
        let checkpoint = inner.checkpoint.as_ref().ok_or_else(|| Error::unavailable("nothing was committed"))?;
        Ok(Box::new(MemorySnapshot { position: checkpoint.position.clone(), tables: inner.tables.clone() }))
    }
}

struct MemoryWriter {
    store: Arc<TargetStore>,
    epoch: u64,
    checkpoint: Option<Checkpoint>,
    pending: Vec<Batch>,
}

impl Drop for MemoryWriter {
    fn drop(&mut self) {
        let mut inner = self.store.lock();
        if inner.epoch == self.epoch {
            inner.alive = false;
            inner.pending.clear();
        }
    }
}

impl Writer for MemoryWriter {
    fn epoch(&self) -> u64 {
        self.epoch
    }

    fn checkpoint(&self) -> Option<&Checkpoint> {
        self.checkpoint.as_ref()
    }

    fn tables(&mut self) -> Result<Vec<Arc<TableSchema>>> {
        Ok(self.store.lock().shapes.clone())
    }

    fn prepare(&mut self, tables: &[Arc<TableSchema>]) -> Result<()> {
        let mut inner = self.store.lock();
        inner.guard(self.epoch)?;
        for table in tables {
            if inner.checkpoint.is_none() {
                inner.shapes.retain(|t| t.name != table.name);
            }
            if !inner.shapes.iter().any(|t| t.name == table.name) {
                inner.shapes.push(Arc::clone(table));
                inner.tables.insert(table.name.clone(), Arc::default());
                if table.key.is_empty() {
                    inner.uncopied.insert(table.name.clone(), 0);
                }
            }
        }
        Ok(())
    }

    fn plan(&mut self, table: &TableName, ranges: &[KeyRange]) -> Result<()> {
        let mut inner = self.store.lock();
        inner.guard(self.epoch)?;
        if inner.chunks.iter().any(|c| c.table == *table) {
            return Err(Error::corrupt(format!("{table} has a plan")));
        }
        let state = |(i, range): (usize, &KeyRange)| ChunkState {
            table: table.clone(),
            index: i as u32,
            range: range.clone(),
            done: None,
        };
        inner.chunks.extend(ranges.iter().enumerate().map(state));
        inner.durable = None;
        Ok(())
    }

    fn chunks(&mut self) -> Result<Vec<ChunkState>> {
        Ok(self.store.lock().chunks.clone())
    }

    fn write(&mut self, batch: &Batch) -> Result<()> {
        let mut inner = self.store.lock();
        inner.guard(self.epoch)?;
        inner.swallow(batch)?;
        for table in apply::tables(batch).iter().filter(|t| inner.is_suspended(t)).cloned().collect::<Vec<_>>() {
            inner.violated(format!("{table} is written while it is suspended"));
        }
        if self.store.history == History::Net {
            // The rows' locks would be held from here to the commit.
            inner.pending.extend(apply::tables(batch));
        }
        self.pending.push(batch.clone());
        Ok(())
    }

    fn commit(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        let mut inner = self.store.lock();
        inner.guard(self.epoch)?;
        let last = inner.checkpoint.as_ref().map_or(0, |c| c.seq);
        if checkpoint.seq != last + 1 || checkpoint.epoch != self.epoch {
            return Err(Error::owned(format!("{checkpoint:?} does not follow seq {last} of epoch {}", self.epoch)));
        }
        if let Some(batch) = self.pending.last()
            && batch.end != Boundary::Commit(checkpoint.position.clone())
        {
            inner.violated(format!("{checkpoint:?} commits what ends at {:?}", batch.end));
        }
        let strict = inner.checkpoint.as_ref().is_some_and(|c| c.phase == Phase::Streaming);
        let at = number(&checkpoint.position)?;
        let (mut shapes, mut tables) = (inner.shapes.clone(), inner.tables.clone());
        let mut changes = Vec::new();
        for batch in &self.pending {
            apply::apply(batch, strict, self.store.history, &mut shapes, &mut tables, &mut changes)?;
        }
        let before = (std::mem::replace(&mut inner.shapes, shapes), std::mem::replace(&mut inner.tables, tables));
        if inner.indexed
            && let Err(e) = inner.unique()
        {
            (inner.shapes, inner.tables) = before;
            return Err(e);
        }
        for name in self.pending.drain(..).flat_map(|b| apply::tables(&b)) {
            inner.touched.insert(name, at);
        }
        if self.store.history == History::Full {
            inner.history.extend(changes.into_iter().map(|c| (at, c)));
        }
        inner.pending.clear();
        if checkpoint.phase == Phase::Streaming {
            inner.since.clear();
        }
        inner.checkpoint = Some(checkpoint.clone());
        inner.checkpoints.push(checkpoint.clone());
        inner.times.push(tick());
        let shown = Sample::of(&inner);
        inner.shown.push(shown);
        inner.durable = None;
        self.checkpoint = Some(checkpoint.clone());
        Ok(())
    }

    fn commit_soon(&mut self, checkpoint: &Checkpoint) -> Result<bool> {
        let mut inner = self.store.lock();
        let before = inner.durable.take().unwrap_or_else(|| Durable::of(&inner));
        drop(inner);
        let committed = self.commit(checkpoint);
        self.store.lock().durable = Some(before);
        committed.map(|()| false)
    }

    fn harden(&mut self) -> Result<()> {
        let mut inner = self.store.lock();
        inner.guard(self.epoch)?;
        inner.durable = None;
        Ok(())
    }

    fn copy_again(&mut self, table: &Arc<TableSchema>, since: &Position) -> Result<()> {
        let mut inner = self.store.lock();
        inner.guard(self.epoch)?;
        let last = inner.checkpoint.clone().ok_or_else(|| Error::corrupt("no checkpoint"))?;
        if !self.pending.is_empty() {
            inner.violated(format!("{} is copied again inside a transaction", table.name));
        }
        let suspended = inner.suspended.iter().find(|(name, _)| *name == table.name).map(|(_, why)| &why.position);
        let from = number(suspended.unwrap_or(&last.position))?;
        inner.again.push((table.name.clone(), from, number(since)?));
        inner.suspended.retain(|(name, _)| *name != table.name);
        if let Some(after) = inner.uncopied.remove(&table.name) {
            inner.lacking.push((table.name.clone(), after, number(&last.position)?));
        }
        if table.key.is_empty() {
            inner.uncopied.insert(table.name.clone(), number(since)?);
        }
        inner.since.retain(|(name, _)| *name != table.name);
        inner.since.push((table.name.clone(), since.clone()));
        inner.chunks.retain(|c| c.table != table.name);
        inner.shapes.retain(|t| t.name != table.name);
        inner.shapes.push(Arc::clone(table));
        inner.tables.insert(table.name.clone(), Arc::default());
        inner.indexed = false;
        let next = Checkpoint { seq: last.seq + 1, phase: Phase::Copying, epoch: self.epoch, ..last };
        inner.checkpoint = Some(next.clone());
        inner.checkpoints.push(next.clone());
        inner.times.push(tick());
        inner.durable = None;
        self.checkpoint = Some(next);
        Ok(())
    }

    fn since(&mut self) -> Result<Vec<(TableName, Position)>> {
        Ok(self.store.lock().since.clone())
    }

    fn suspend(&mut self, table: &TableName, why: &Suspension) -> Result<()> {
        let mut inner = self.store.lock();
        inner.guard(self.epoch)?;
        let last = inner.checkpoint.clone().ok_or_else(|| Error::corrupt("no checkpoint"))?;
        if !self.pending.is_empty() || inner.is_suspended(table) || why.position != last.position {
            inner.violated(format!("{table} is suspended inside a transaction, twice, or elsewhere: {why:?}"));
        }
        inner.suspended.push((table.clone(), why.clone()));
        inner.chunks.retain(|c| c.table != *table);
        inner.since.retain(|(name, _)| name != table);
        let next = Checkpoint { seq: last.seq + 1, epoch: self.epoch, ..last };
        inner.checkpoint = Some(next.clone());
        inner.checkpoints.push(next.clone());
        inner.times.push(tick());
        let shown = Sample::of(&inner);
        inner.shown.push(shown);
        inner.durable = None;
        self.checkpoint = Some(next);
        Ok(())
    }

    fn suspended(&mut self) -> Result<Vec<(TableName, Suspension)>> {
        Ok(self.store.lock().suspended.clone())
    }

    fn finish_copy(&mut self, _: &[Arc<TableSchema>]) -> Result<()> {
        let mut inner = self.store.lock();
        inner.guard(self.epoch)?;
        if !self.pending.iter().all(|b| b.items.is_empty()) {
            inner.violated("the copy is finished inside a transaction".to_owned());
        }
        if inner.chunks.iter().any(|c| c.done.is_none()) {
            inner.violated("the copy is finished before its last chunk".to_owned());
        }
        inner.unique()?;
        inner.indexed = true;
        inner.durable = None;
        Ok(())
    }
}
