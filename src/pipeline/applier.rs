//! A target's thread: writes batches and commits them with their position.
//!
//! A target that keeps the latest state commits at every commit boundary it is handed (the thread before it joins what
//! waits, so commits get larger under load by themselves). A target that keeps history commits every so often, since
//! files want size. A batch that only advances the position is committed at most once a second.
//!
//! While streaming, commits are not waited for to become durable: changes show as soon as they are committed, and
//! [`Writer::harden`], or a commit that does wait, makes them durable twice a second and at the end. Only then is the source
//! told; if the target crashes before, it comes back at an earlier checkpoint, and the log of what it lost is still there.
//!
//! Between two commits it carries out the errands of repairs (`errand.rs`).
//!
//! At the end of the initial copy this thread builds indexes, foreign keys and sequences and turns the phase to
//! streaming, once its checkpoint has passed everything that the copy's reads may have seen. A change of shape before
//! that ends the session once it is committed, since the copy's chunks are cut for the old shape.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use crossfade_core::{
    Batch, Boundary, Checkpoint, Class, Error, History, Item, Phase, Position, Result, TableSchema, Writer,
};

use super::errand::Errand;
use super::gate::Closed;
use super::pulse::{self, Patience};
use super::session::Shared;
use super::shaper::Shaped;

/// How often a target commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitPolicy {
    /// At the latest so long after the first uncommitted row.
    pub interval: Duration,
    /// Or once so many bytes are uncommitted.
    pub bytes: usize,
}

/// How often positions without changes are committed.
const IDLE_COMMIT: Duration = Duration::from_secs(1);

/// How long a commit may stay in danger of a crash of the target.
const HARDEN: Duration = Duration::from_millis(500);

/// One target at work.
pub struct Applier<'a> {
    shared: &'a Shared<'a>,
    /// Its place among the pipeline's targets.
    index: usize,
    history: History,
    policy: CommitPolicy,
    writer: &'a mut dyn Writer,
    tables: Vec<Arc<TableSchema>>,
    closed: Closed<'a>,
    pending: Option<Pending>,
    /// Since when there have been commits that a crash of the target would undo.
    soft: Option<Instant>,
}

/// Written, not committed.
struct Pending {
    /// `None` inside a transaction.
    position: Option<Position>,
    commit_micros: Option<i64>,
    /// Whether there is anything but a position: rows, a truncation, a change of shape.
    changes: bool,
    /// A table that changed its shape during the initial copy.
    reshaped: Option<String>,
    rows: u64,
    bytes: usize,
    since: Instant,
}

impl<'a> Applier<'a> {
    /// A target's thread state. `tables` are those of the copy, as they arrive.
    pub fn new(
        shared: &'a Shared<'a>,
        index: usize,
        history: History,
        policy: CommitPolicy,
        writer: &'a mut dyn Writer,
        tables: Vec<Arc<TableSchema>>,
    ) -> Self {
        let closed = shared.gate.closer();
        Applier { shared, index, history, policy, writer, tables, closed, pending: None, soft: None }
    }

    /// Writes until the queue ends; then commits what is whole.
    pub fn run(mut self, queue: &Receiver<Arc<Shaped>>) -> Result<()> {
        let result = self.work(queue);
        if result.is_err() {
            // Before the gate opens: a chunk that came in now could wait for ever for what the writer has locked.
            self.shared.halt.abort();
        }
        result
    }

    fn work(&mut self, queue: &Receiver<Arc<Shaped>>) -> Result<()> {
        loop {
            if self.shared.halt.aborted() {
                return Ok(());
            }
            match queue.recv_timeout(self.patience()) {
                Ok(shaped) => {
                    if !self.write(&shaped)? {
                        return Ok(());
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    if !self.shared.halt.aborted() {
                        self.commit_if(|_| true)?;
                        self.harden_after(Duration::ZERO)?;
                    }
                    return Ok(());
                }
            }
            let (interval, bytes) = (self.policy.interval, self.policy.bytes);
            let flush = self.shared.flushing();
            self.commit_if(|p| {
                let due = if p.changes { interval } else { IDLE_COMMIT };
                flush || p.since.elapsed() >= due || p.bytes >= bytes
            })?;
            self.harden_after(HARDEN)?;
            if let Some(errand) = self.shared.errands.take(self.index) {
                self.carry_out(errand)?;
            }
            self.finish_copy()?;
        }
    }

    /// How long to wait for the next batch: until the next commit is due.
    fn patience(&self) -> Duration {
        let tick = Duration::from_millis(20);
        match &self.pending {
            // Inside a transaction there is nothing to commit: no haste.
            Some(p) if p.changes && p.position.is_some() => {
                self.policy.interval.saturating_sub(p.since.elapsed()).min(tick)
            }
            _ => tick,
        }
    }

    /// False: the session is over.
    fn write(&mut self, shaped: &Shaped) -> Result<bool> {
        let batch = &shaped.batch;
        let copying = self.copying();
        if copying && !self.close_tables(&batch.items) {
            return Ok(false);
        }
        // After the tables are closed: a copy whose outcome nobody knows ends the session before it lets them go.
        if self.shared.halt.aborted() {
            return Ok(false);
        }
        // While copying, a table's key may have to be built first.
        let patience = if copying { Patience::Work } else { Patience::Answer };
        let asking = pulse::asking("a write", patience);
        if copying && batch.items.iter().any(|i| self.is_early(i)) {
            let items = batch.items.iter().filter(|i| !self.is_early(i)).cloned().collect();
            self.writer.write(&Batch { items, ..batch.clone() })?;
        } else {
            self.writer.write(batch)?;
        }
        drop(asking);
        let position = match &batch.end {
            Boundary::Commit(position) => Some(position.clone()),
            Boundary::Open => None,
        };
        let pending = self.pending.get_or_insert_with(|| Pending {
            position: None,
            commit_micros: None,
            changes: false,
            reshaped: None,
            rows: 0,
            bytes: 0,
            since: Instant::now(),
        });
        pending.position = position;
        pending.commit_micros = batch.commit_micros.or(pending.commit_micros);
        if !pending.changes && !batch.items.is_empty() {
            pending.changes = true;
            pending.since = Instant::now();
        }
        let reshaped = batch.items.iter().find_map(|i| if let Item::Schema(c) = i { Some(c) } else { None });
        if let Some(change) = reshaped.filter(|_| copying) {
            pending.reshaped = Some(change.from.name.to_string());
        }
        pending.rows += batch.rows() as u64;
        pending.bytes += batch.bytes();
        Ok(true)
    }

    /// Keeps chunks off the tables that are about to change. A history's rows become visible at the commit only, see
    /// there; but whether a change of a table without a key counts is known only when no chunk of it is on its way.
    fn close_tables(&mut self, items: &[Item]) -> bool {
        items.iter().all(|item| {
            let table = match item {
                Item::Rows(rows) => &rows.table,
                Item::Schema(change) => &change.from,
                Item::Truncate(table) => table,
            };
            let visible = self.history == History::Net || table.key.is_empty();
            !visible || self.closed.close(&table.name, || self.shared.halt.aborted())
        })
    }

    /// Whether it is a change of a table without a key from before that table's copy.
    fn is_early(&self, item: &Item) -> bool {
        let table = match item {
            Item::Rows(rows) => &rows.table,
            Item::Truncate(table) => table,
            Item::Schema(_) => return false,
        };
        table.key.is_empty() && self.shared.lacks(self.index, &table.name)
    }

    fn copying(&self) -> bool {
        self.writer.checkpoint().is_some_and(|c| c.phase == Phase::Copying)
    }

    /// Commits what is pending, if it ends at a commit and `due` says so.
    fn commit_if(&mut self, due: impl Fn(&Pending) -> bool) -> Result<()> {
        let ready = self.pending.as_ref().is_some_and(|p| p.position.is_some() && due(p));
        if !ready {
            return Ok(());
        }
        // A history's rows become visible at the commit, so it is the commit that must not overlap a chunk.
        if self.copying() && self.history == History::Full {
            for table in &self.tables {
                if !self.closed.close(&table.name, || self.shared.halt.aborted()) {
                    return Ok(());
                }
            }
        }
        let Some(pending) = self.pending.take() else { return Ok(()) };
        let Pending { position: Some(position), commit_micros: source_micros, rows, changes, reshaped, .. } = pending
        else {
            return Ok(());
        };
        let last = self.checkpoint()?;
        let commit_micros = source_micros.or(last.commit_micros);
        let next = Checkpoint { seq: last.seq + 1, position, commit_micros, ..last };
        let asking = pulse::asking("a commit", Patience::Answer);
        let began = Instant::now();
        let durable = match self.soft {
            _ if self.copying() => self.writer.commit(&next).map(|()| true)?,
            Some(since) if since.elapsed() >= HARDEN => self.writer.commit(&next).map(|()| true)?,
            _ => self.writer.commit_soon(&next)?,
        };
        drop(asking);
        let took = began.elapsed();
        self.shared.progress.meters.committed(self.index, took, changes.then_some(rows), source_micros);
        self.shared.committed(self.index, &next, rows);
        match durable {
            true => self.hardened(&next.position),
            false => self.soft = self.soft.or(Some(Instant::now())),
        }
        if let Some(table) = reshaped {
            // The copy holds the old shape; a new session plans the rest of it in the new one.
            return Err(Error::transient(format!("table {table} changed its shape during the initial copy")));
        }
        self.closed.open();
        Ok(())
    }

    /// Commits the rows of a repair, if the target stands where they were read; tells whoever waits.
    ///
    /// A row that the target refuses is that one's news: the writer, which it has broken, is opened anew with the next session,
    /// and the pipeline goes on without it.
    fn carry_out(&mut self, errand: Errand) -> Result<()> {
        self.commit_if(|_| true)?;
        let _asking = pulse::asking("a repair", Patience::Answer);
        let last = self.checkpoint()?;
        let stands = match &errand.batch.end {
            Boundary::Commit(read_at) => self.shared.source.order(&last.position, read_at)?.is_eq(),
            Boundary::Open => false,
        };
        if !stands || self.pending.is_some() || self.copying() {
            let moved = Error::transient("the target has moved on from where the rows were read; none was written");
            drop(errand.reply.send(Err(moved.hint("ask again")))); // who asked may have gone
            return Ok(());
        }
        let next = Checkpoint { seq: last.seq + 1, ..last };
        let written = self.writer.write(&errand.batch).and_then(|()| self.writer.commit(&next));
        let (told, result) = match written {
            Ok(()) => {
                self.shared.committed(self.index, &next, errand.batch.rows() as u64);
                self.hardened(&next.position);
                (Ok(next), Ok(()))
            }
            Err(e) if matches!(e.class(), Class::Data(_)) => {
                let again = Error::transient(format!("rows of a repair were refused, the pipeline goes on: {e}"));
                (Err(e), Err(again))
            }
            Err(e) => {
                let told = Error::transient(format!("the commit of the repaired rows was interrupted: {e}"));
                (Err(told.hint("they are there, all of them, or none is; ask again")), Err(e))
            }
        };
        drop(errand.reply.send(told)); // who asked may have gone
        result
    }

    /// Makes durable what has been in danger for so long. Inside a transaction that is left to its commit.
    fn harden_after(&mut self, time: Duration) -> Result<()> {
        let written = self.pending.as_ref().is_some_and(|p| p.changes);
        if !written && self.soft.is_some_and(|since| since.elapsed() >= time) {
            let asking = pulse::asking("a wait for the target's disk", Patience::Answer);
            self.writer.harden()?;
            drop(asking);
            let position = self.checkpoint()?.position;
            self.hardened(&position);
        }
        Ok(())
    }

    fn hardened(&mut self, position: &Position) {
        self.soft = None;
        self.shared.hardened(self.index, position);
    }

    fn checkpoint(&self) -> Result<Checkpoint> {
        let epoch = self.writer.epoch();
        match self.writer.checkpoint() {
            Some(c) => Ok(Checkpoint { epoch, ..c.clone() }),
            None => Err(Error::corrupt("a target was handed changes before its first checkpoint")),
        }
    }

    /// Turns the phase once the stream has passed the copy's reads.
    fn finish_copy(&mut self) -> Result<()> {
        if !self.copying() || self.pending.as_ref().is_some_and(|p| p.changes) {
            return Ok(());
        }
        let Some(high) = self.shared.copied() else { return Ok(()) };
        let last = self.checkpoint()?;
        let passed = match &self.pending {
            Some(Pending { position: Some(position), .. }) => position.clone(),
            Some(_) => return Ok(()),
            None => last.position.clone(),
        };
        if let Some(high) = &high
            && self.shared.source.order(&passed, high)?.is_lt()
        {
            return Ok(());
        }
        let _asking = pulse::asking("the end of the copy: indexes, keys, sequences", Patience::Work);
        self.writer.finish_copy(&self.tables)?;
        // What is set now was not there while rows came: a default would have hidden that a value was missing.
        let carried = self.shared.carried();
        let sources: Vec<Arc<TableSchema>> = carried.iter().map(|m| Arc::clone(&m.source)).collect();
        let details = self.shared.source.details(&sources)?;
        let details: Vec<_> =
            carried.iter().zip(&details).map(|(m, d)| (Arc::clone(&m.target), m.details(d))).collect();
        self.writer.set_details(&details)?;
        self.pending = None;
        let next = Checkpoint { seq: last.seq + 1, position: passed, phase: Phase::Streaming, ..last };
        self.writer.commit(&next)?;
        self.shared.committed(self.index, &next, 0);
        self.hardened(&next.position);
        tracing::info!(destination = self.index, position = %next.position, "initial copy complete, streaming");
        Ok(())
    }
}
