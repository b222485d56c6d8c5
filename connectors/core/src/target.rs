//! The other end: where changes are written, exactly once.
//!
//! A target commits data and [`Checkpoint`] in one step, so that after any crash `recover` tells exactly what is there.
//! A [`Writer`] holds the pipeline's epoch; whoever opens a later one fences the earlier out.
//!
//! The initial copy writes beside the stream, on connections of its own ([`Loader`]), under one rule:
//!
//! > A chunk read at or after position `low` is committed only while the target's stream is at or before `low`.
//!
//! Then every change after `low` is still to come, and because changes are applied as whole-row upserts and deletes by
//! key, replaying them over the chunk ends in the source's state, whatever the chunk's read saw in between. This keeps
//! DBLog's freedom from locks without its in-memory set of changed keys. The pipeline enforces the rule.

use std::sync::Arc;

use arrow_array::RecordBatch;
use serde::{Deserialize, Serialize};

use crate::batch::{Batch, Op};
use crate::details::Details;
use crate::error::Result;
use crate::finding::Finding;
use crate::policy::Policy;
use crate::position::{Checkpoint, Owner, Position};
use crate::schema::{Column, TableName, TableSchema};
use crate::source::{KeyRange, Snapshot};
use crate::trouble::Trouble;

/// Whether a target keeps the latest state of each row or every change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum History {
    /// The latest state: batches are folded to their net effect per key before they are written; of a table without a
    /// key no equal rows are both deleted and inserted by one [`crate::Rows`].
    Net,
    /// Every change, in order.
    Full,
}

/// A database or a store to move to.
pub trait Target: Send + Sync {
    /// Whether it takes net effects or every change.
    fn history(&self) -> History;

    /// Compares settings, privileges and existing tables with what these tables of the pipeline need; what the pipeline
    /// itself has written so far is as it should be. Changes nothing.
    fn check(&self, pipeline: &str, tables: &[Arc<TableSchema>]) -> Result<Vec<Finding>>;

    /// The statements that make these tables where there are none, as [`Writer::prepare`], [`Writer::finish_copy`] and
    /// [`Writer::set_details`] would, for people and the database's own client; `None` for a target that makes nothing
    /// beforehand. Connects to nothing.
    fn ddl(&self, _tables: &[(Arc<TableSchema>, Details)]) -> Result<Option<String>> {
        Ok(None)
    }

    /// What the pipeline last committed. Changes nothing and takes no ownership.
    fn recover(&self, pipeline: &str) -> Result<Option<Checkpoint>>;

    /// The tables that are suspended, see [`Writer::suspend`]. Changes nothing and takes no ownership.
    fn suspended(&self, pipeline: &str) -> Result<Vec<(TableName, Suspension)>>;

    /// Who has the pipeline open now, where that can be told.
    fn owner(&self, pipeline: &str) -> Result<Option<Owner>>;

    /// Takes the pipeline: refuses while another owner is alive, completes what a dead one left half done, fences it out,
    /// and makes durable what is found.
    fn open(&self, owner: &Owner) -> Result<Box<dyn Writer>>;

    /// A further connection that writes chunks of the initial copy under the writer's epoch.
    fn loader(&self, pipeline: &str, epoch: u64) -> Result<Box<dyn Loader>>;

    /// Values that a policy has changed and whose originals the target keeps, as of the last checkpoint. Changes nothing.
    fn kept(&self, _pipeline: &str) -> Result<Vec<Kept>> {
        Ok(Vec::new())
    }

    /// Brings level what does not move while rows stream in: sequences, set to what their tables hold. Called when the
    /// pipeline has caught up, before a cutover. Idempotent; needs no ownership. A target without such things does nothing.
    fn settle(&self, _pipeline: &str) -> Result<()> {
        Ok(())
    }

    /// What writing a row comes to as a statement of the target's own language, for people who want to see it first. `row` is a
    /// batch of one row in the table's shape; of an update only the columns `changed` are named. `None`: it has no such language.
    fn statement(
        &self,
        _op: Op,
        _table: &TableSchema,
        _row: &RecordBatch,
        _changed: &[usize],
    ) -> Result<Option<String>> {
        Ok(None)
    }

    /// Looks at a table's rows as they would be written, and keeps none of them. `None`: it holds whatever comes.
    fn surveyor(&self, _table: &Arc<TableSchema>) -> Result<Option<Box<dyn Surveyor>>> {
        Ok(None)
    }

    /// Whether keys of this column are ordered by their values here: integers by size, bytes and UUIDs byte by byte. Then a range of
    /// them ([`KeyRange`]) holds the same rows in every other database that says so, too.
    fn orders_by_value(&self, _key: &Column) -> bool {
        false
    }

    /// The tables at the pipeline's last checkpoint, exactly; [`Snapshot::position`] is that checkpoint's.
    fn snapshot(&self, pipeline: &str, tables: &[Arc<TableSchema>]) -> Result<Box<dyn Snapshot>>;
}

/// How many values of a column a policy has changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The table, as it is named where it is counted.
    pub table: String,
    /// The column.
    pub column: String,
    /// Under which policy.
    pub policy: Policy,
    /// So many rows have such a value now.
    pub values: u64,
}

/// Looks at the rows of one table before they are written.
pub trait Surveyor: Send {
    /// Tells of every value in these rows that the target cannot hold, or not as people expect.
    fn look(&mut self, rows: &RecordBatch, trouble: &mut dyn FnMut(Trouble)) -> Result<()>;

    /// Tells what only all rows together show.
    fn end(&mut self, trouble: &mut dyn FnMut(Trouble)) -> Result<()>;
}

/// The one writer of a pipeline.
pub trait Writer: Send {
    /// The fencing token.
    fn epoch(&self) -> u64;

    /// The last committed checkpoint; `None` before the first.
    fn checkpoint(&self) -> Option<&Checkpoint>;

    /// The tables in the shape they had at the checkpoint, as stored by [`Writer::prepare`] and schema changes since.
    fn tables(&mut self) -> Result<Vec<Arc<TableSchema>>>;

    /// Creates tables that are missing and checks those that exist, and remembers their shapes. Indexes, foreign keys
    /// and sequences come with [`Writer::finish_copy`]. Idempotent.
    fn prepare(&mut self, tables: &[Arc<TableSchema>]) -> Result<()>;

    /// Remembers how a table's copy is cut, once. Planning again a table that has a plan is an error.
    fn plan(&mut self, table: &TableName, ranges: &[KeyRange]) -> Result<()>;

    /// All planned chunks and which of them are done.
    fn chunks(&mut self) -> Result<Vec<ChunkState>>;

    /// Writes a batch, inside the transaction that the next commit ends. What is wrong with it may show at that commit only.
    fn write(&mut self, batch: &Batch) -> Result<()>;

    /// Makes everything written since the last commit visible and durable together with the checkpoint, whose `seq` is
    /// one more than the last and whose `epoch` is this writer's. An error if another owner has taken over.
    fn commit(&mut self, checkpoint: &Checkpoint) -> Result<()>;

    /// As [`Writer::commit`], but the commit need not be durable yet, if waiting for that would cost time; returns whether it
    /// is. A crash of the target may undo such commits, the last ones first, each whole and with its checkpoint: until
    /// [`Writer::harden`], or a commit that is durable, the source must keep its log of them.
    fn commit_soon(&mut self, checkpoint: &Checkpoint) -> Result<bool> {
        self.commit(checkpoint).map(|()| true)
    }

    /// Makes every commit durable.
    fn harden(&mut self) -> Result<()> {
        Ok(())
    }

    /// Takes a table in, or anew, in one commit that leaves the position where it is: its rows at the target are gone (a
    /// history tells of it by a truncation), it has this shape, no plan, the phase is copying, and it is not suspended. `since` is a position
    /// of the source after which the table has this shape; it is remembered until the phase is streaming again. Called
    /// between commits only.
    fn copy_again(&mut self, table: &Arc<TableSchema>, since: &Position) -> Result<()>;

    /// Tables of which changes at or before a position are not wanted, see [`Writer::copy_again`].
    fn since(&mut self) -> Result<Vec<(TableName, Position)>>;

    /// Leaves a table out from here on, in one commit that leaves position and phase where they are: its rows and its shape
    /// stay as they are at the checkpoint, its plan and its `since` are forgotten, and why is remembered, until
    /// [`Writer::copy_again`] takes it in anew. Called between commits only.
    fn suspend(&mut self, table: &TableName, why: &Suspension) -> Result<()>;

    /// The tables that are suspended, and why.
    fn suspended(&mut self) -> Result<Vec<(TableName, Suspension)>>;

    /// Lets go of unique indexes, by their names at the source, which has them no more: they are dropped, and the table's shape
    /// forgets them, in one commit that leaves position and phase. True if the shape had any. Called between commits only. A
    /// target without indexes does nothing.
    fn drop_indexes(&mut self, _table: &TableName, _names: &[String]) -> Result<bool> {
        Ok(false)
    }

    /// Builds what waits for the end of the initial copy: secondary indexes, foreign keys, sequence values. Idempotent;
    /// not part of the current transaction.
    fn finish_copy(&mut self, tables: &[Arc<TableSchema>]) -> Result<()>;

    /// Gives tables their details, as far as nobody else has given them others: after [`Writer::finish_copy`], when the copy
    /// is about to end. Idempotent; not part of the current transaction. A target without such things does nothing.
    fn set_details(&mut self, _tables: &[(Arc<TableSchema>, Details)]) -> Result<()> {
        Ok(())
    }
}

/// Why a table is left out from a checkpoint on, and since when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspension {
    /// The table's name at the source.
    pub source: TableName,
    /// The checkpoint's position. If the table's copy had ended, the target holds its rows as they were there.
    pub position: Position,
    /// What could not be carried, and where.
    pub reason: String,
    /// What an operator can do about that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// A chunk of the initial copy.
#[derive(Debug, Clone)]
pub struct Chunk {
    /// The table.
    pub table: Arc<TableSchema>,
    /// Its place in the table's plan.
    pub index: u32,
    /// The keys it covers.
    pub range: KeyRange,
    /// The source's position from before the chunk was read.
    pub low: Position,
}

/// A planned chunk as the target remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkState {
    /// The table.
    pub table: TableName,
    /// Its place in the table's plan.
    pub index: u32,
    /// The keys it covers.
    pub range: KeyRange,
    /// For a chunk that is done, the source's position from after it was read: the table equals the source only once
    /// the stream has passed it.
    pub done: Option<Position>,
}

/// What became of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loaded {
    /// It is in the target, and remembered as done, in one commit.
    Done,
    /// Nothing was written: its rows met rows that the stream brought before. Read it again (at a new `low`) with
    /// `merge` set.
    Collided,
}

/// Writes chunks of the initial copy, one at a time.
pub trait Loader: Send {
    /// Starts a chunk. `merge`: rows may exist already and are replaced; without it the fastest way is taken. A table
    /// without a key is one chunk, always merged: all rows that the table has are replaced by the chunk's.
    fn begin(&mut self, chunk: &Chunk, merge: bool) -> Result<()>;

    /// Writes rows of the chunk.
    fn write(&mut self, rows: &RecordBatch) -> Result<()>;

    /// Commits the chunk's rows and its completion in one step. `high` is the source's position after the read. An
    /// error if the epoch is no longer the pipeline's. It need not be durable before the writer's next commit that is: until then
    /// a crash of the target may undo it whole, with every commit after it.
    fn commit(&mut self, high: &Position) -> Result<Loaded>;
}
