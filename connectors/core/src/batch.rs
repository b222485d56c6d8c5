//! What moves: changes of tables, columnar, ending at a position.
//!
//! Decoders append straight into Arrow builders, so that Parquet takes a batch as it is, COPY encodes from it,
//! fingerprints hash from it and memory is counted from it; there is no per-value enum and no per-row allocation
//! (ARCHITECTURE.md has the figures that decided this).
//!
//! Invariants:
//! - Items stand in log order. Within one [`Rows`] the rows stand in log order too.
//! - A table without a key is a bag of whole rows: inserts and deletes only, each of one row with all its columns.
//! - An update never changes a row's key: the decoder turns that into a delete of the old key and an insert of the new.
//! - A batch with [`Boundary::Commit`] holds whole transactions only; several [`Boundary::Open`] batches may come before
//!   it when one transaction is larger than a batch.
//! - Old and new shapes of a table are never mixed: a [`SchemaChange`] stands between them.

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_buffer::BooleanBuffer;

use crate::position::Position;
use crate::schema::TableSchema;

/// What happened to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// It is new. All columns are there.
    Insert,
    /// It has these values now. Columns marked absent are unchanged.
    Update,
    /// It is gone. Key columns are there; others hold the before image where the log has one, else NULL. Of a table without
    /// a key all columns are there: one row with these values is gone.
    Delete,
}

/// Changes of one table. Row `i` of `batch` is what `ops[i]` says.
#[derive(Debug, Clone)]
pub struct Rows {
    /// The table's shape at this point of the log.
    pub table: Arc<TableSchema>,
    /// One per row.
    pub ops: Vec<Op>,
    /// One row per change; its schema is `table.arrow()`.
    pub batch: RecordBatch,
    /// Per column: the rows whose value the log did not carry (minimal row images, unchanged TOAST). The array holds
    /// NULL there, which means nothing. Empty: nothing is absent in any column.
    pub absent: Vec<Option<BooleanBuffer>>,
    /// Per row: the commit time of its transaction, in microseconds since 1970 UTC.
    pub commit_micros: Vec<i64>,
    /// Per row: its place among all rows of the [`Batch`], so that order across tables is kept.
    pub order: Vec<u32>,
}

impl Rows {
    /// The number of rows.
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Whether the log did not carry this value.
    pub fn is_absent(&self, column: usize, row: usize) -> bool {
        self.absent.get(column).and_then(Option::as_ref).is_some_and(|bits| bits.value(row))
    }

    /// Bytes held in memory.
    pub fn bytes(&self) -> usize {
        self.batch.get_array_memory_size() + self.ops.len() * (1 + 8 + 4)
    }
}

/// One step by which a table's shape changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SchemaStep {
    /// A column of the new shape that the old one lacks.
    Add {
        /// Its name in the new shape.
        column: String,
        /// What rows that were already there hold in it, as the source's text of the value; `None` is NULL.
        fill: Option<String>,
    },
    /// A column of the old shape that the new one lacks.
    Drop {
        /// Its name in the old shape.
        column: String,
    },
    /// The same column under another name.
    Rename {
        /// Its name in the old shape.
        from: String,
        /// Its name in the new shape.
        to: String,
    },
}

/// A table's shape changed between two transactions.
#[derive(Debug, Clone)]
pub struct SchemaChange {
    /// Before.
    pub from: Arc<TableSchema>,
    /// After; its version is one more.
    pub to: Arc<TableSchema>,
    /// What a target has to do, in order.
    pub steps: Vec<SchemaStep>,
}

/// Something that happened, in log order.
#[derive(Debug, Clone)]
pub enum Item {
    /// Rows of one table.
    Rows(Rows),
    /// A table has another shape from here on.
    Schema(SchemaChange),
    /// All rows of a table are gone.
    Truncate(Arc<TableSchema>),
}

/// Whether a target may commit at the end of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Boundary {
    /// Inside a transaction too large for one batch: write, but do not commit.
    Open,
    /// At the end of a transaction: everything up to this position has been handed over.
    Commit(Position),
}

/// What a stream hands on: items in log order, and where they end. It may hold no item and only advance the position.
#[derive(Debug, Clone)]
pub struct Batch {
    /// In log order.
    pub items: Vec<Item>,
    /// Where it ends.
    pub end: Boundary,
    /// The commit time of its last transaction, in microseconds since 1970 UTC, where there is one.
    pub commit_micros: Option<i64>,
}

impl Batch {
    /// The rows it holds.
    pub fn rows(&self) -> usize {
        self.items.iter().map(|i| if let Item::Rows(r) = i { r.len() } else { 0 }).sum()
    }

    /// Bytes held in memory.
    pub fn bytes(&self) -> usize {
        self.items.iter().map(|i| if let Item::Rows(r) = i { r.bytes() } else { 0 }).sum()
    }
}
