//! One end: a database whose log is read.
//!
//! A [`Source`] is a cheap, shareable handle; what it opens ([`Stream`], [`Snapshot`]) lives on one thread each. All
//! calls block: connectors use the runtime's handle for their I/O inside. That keeps back-pressure a full channel and
//! cancellation a dropped value.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::cast::AsArray;
use arrow_array::types::{Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type};
use arrow_array::{Array, ArrayRef, RecordBatch};
use serde::{Deserialize, Serialize};

use crate::batch::Batch;
use crate::details::Details;
use crate::error::Result;
use crate::finding::Finding;
use crate::orphans::Orphans;
use crate::position::Position;
use crate::schema::{Column, Logical, TableSchema};
use crate::selection::Selection;
use crate::sequence::Behind;
use crate::target::Kept;
use crate::totals::Totals;
use crate::trouble::Trouble;

/// A database to move away from.
pub trait Source: Send + Sync {
    /// Compares settings, privileges and tables with what a lossless pipeline needs. Changes nothing.
    fn check(&self, selection: &Selection) -> Result<Vec<Finding>>;

    /// Looks for what besides stands in the way of a target that keeps every change ([`crate::History::Full`]), and needs rows
    /// that the log shows whole. Changes nothing.
    fn check_history(&self, _selection: &Selection) -> Result<Vec<Finding>> {
        Ok(Vec::new())
    }

    /// Looks for what rows of these tables together have wrong, and none of them alone: references that a target would find
    /// broken. Reads them all; changes nothing.
    fn check_references(&self, _tables: &[Arc<TableSchema>]) -> Result<Vec<Finding>> {
        Ok(Vec::new())
    }

    /// These tables are about to be copied again: what was decided once about their columns, and is contradicted by values that they
    /// hold now, is decided anew, and their log begins anew with it. A source whose catalog types its columns has decided nothing.
    fn retype(&self, _tables: &[Arc<TableSchema>]) -> Result<()> {
        Ok(())
    }

    /// The tables of the database that `selection` admits, as they are now. An error names every admitted table that
    /// cannot be carried, and why.
    fn tables(&self, selection: &Selection) -> Result<Vec<Arc<TableSchema>>>;

    /// What these tables have now besides their shape, one for each in the same order. A source that knows of nothing says so.
    fn details(&self, tables: &[Arc<TableSchema>]) -> Result<Vec<Details>> {
        Ok(vec![Details::default(); tables.len()])
    }

    /// Makes the log of these tables available from now on (installs triggers, creates a slot) and returns where it
    /// starts. Idempotent: what is there already is kept and adopted.
    fn begin(&self, tables: &[Arc<TableSchema>]) -> Result<Position>;

    /// The end of the log now: everything committed before this call lies at or before it.
    fn position(&self) -> Result<Position>;

    /// For how long a query may have shown a transaction before [`Source::position`] covers it: no time at all, unless the server
    /// shows what it has committed before its log's position tells of it.
    fn settle(&self) -> Duration {
        Duration::ZERO
    }

    /// Which of two positions of this log comes first. An error if one of them is not of this log.
    fn order(&self, a: &Position, b: &Position) -> Result<Ordering>;

    /// Bytes of log between two positions (`from` at or before `to`), where the source can tell.
    fn distance(&self, from: &Position, to: &Position) -> Result<Option<u64>>;

    /// Log that the source keeps because this pipeline has not read it yet; `None` where it keeps its log by its own settings,
    /// whoever reads it, or keeps nothing yet.
    fn retained(&self) -> Result<Option<Retained>>;

    /// A readable state of the tables at a known position.
    fn snapshot(&self, tables: &[Arc<TableSchema>], consistency: Consistency) -> Result<Box<dyn Snapshot>>;

    /// A state of the tables whose position nobody asks for, to look at before a log begins: it waits for nobody, and needs no
    /// log. By default it is as good as the copy's.
    fn peek(&self, tables: &[Arc<TableSchema>]) -> Result<Box<dyn Snapshot>> {
        self.snapshot(tables, Consistency::AtLeast)
    }

    /// Whether keys of this column are ordered by their values here: integers by size, bytes and UUIDs byte by byte. Then a range of
    /// them ([`KeyRange`]) holds the same rows in every other database that says so, too.
    fn orders_by_value(&self, _key: &Column) -> bool {
        false
    }

    /// Reads the log after `from`, with the tables in the shape they had there. Fails if the log no longer reaches back
    /// to `from`: a gap is never skipped.
    fn stream(&self, from: &Position, tables: &[Arc<TableSchema>]) -> Result<Box<dyn Stream>>;
}

/// Log that a source would have discarded but for one pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retained {
    /// What keeps it, and in which state, in the source's own words.
    pub by: String,
    /// Bytes of it, on the source's disk.
    pub bytes: u64,
    /// Bytes that may still be written before the source may discard what the pipeline has not read; `None`: no limit.
    pub room: Option<u64>,
    /// Whether the pipeline can go on from it.
    pub keeping: Keeping,
}

/// Whether a log is still whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keeping {
    /// It is.
    Safe,
    /// It is, and the source may discard it at any moment.
    Endangered,
    /// The source has discarded what the pipeline has not read.
    Lost,
}

/// How a snapshot's state relates to its position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// Exactly the transactions up to the position: for verification.
    Exact,
    /// At least the transactions up to the position, and each read sees whole transactions: for the initial copy, whose
    /// chunks are overtaken by the stream. Never waits for, nor blocks, a writer.
    AtLeast,
}

/// Bounds of one [`Stream::next`] call.
#[derive(Debug, Clone)]
pub struct Limit {
    /// Return `None` when nothing has come by then.
    pub deadline: Instant,
    /// End a batch at the first commit past so many bytes; a transaction past twice as many is handed on in open batches.
    pub bytes: usize,
    /// End a batch at the first commit past so many rows.
    pub rows: usize,
    /// Hand over nothing beyond this position; once everything up to it has been handed over, return a batch (it may
    /// hold no item) whose end compares equal to it.
    pub until: Option<Position>,
}

/// A reader of the log.
pub trait Stream: Send {
    /// The next changes. Returns as soon as something has come and nothing more is at hand; waits no longer than the
    /// deadline. A batch without items reports that the log went on without touching these tables.
    fn next(&mut self, limit: &Limit) -> Result<Option<Batch>>;

    /// Tells the source that everything up to `durable` is safe at every target, so it may be discarded. Called at
    /// least every few seconds, also while nothing comes and while nothing can be handed on: it keeps the connection
    /// alive too.
    fn ack(&mut self, durable: &Position) -> Result<()>;
}

/// A readable state of some tables, of a source or of a target.
pub trait Snapshot: Send {
    /// The position of the state, as [`Consistency`] has it.
    fn position(&self) -> &Position;

    /// Cuts a table into ranges of about `rows` rows each that cover every key there is now. Rows with keys beyond the
    /// last range came later and are the stream's.
    fn split(&mut self, table: &TableSchema, rows: u64) -> Result<Vec<KeyRange>>;

    /// Reads the rows of a range, in no particular order, in batches of the table's Arrow schema.
    fn scan(
        &mut self,
        table: &TableSchema,
        range: &KeyRange,
        sink: &mut dyn FnMut(RecordBatch) -> Result<()>,
    ) -> Result<()>;

    /// Reads as [`Snapshot::scan`] does, and goes on where a value cannot be carried: `trouble` is told of it, and NULL stands
    /// in its place. By default the first such value ends it, as an error.
    fn survey(
        &mut self,
        table: &TableSchema,
        range: &KeyRange,
        sink: &mut dyn FnMut(RecordBatch) -> Result<()>,
        _trouble: &mut dyn FnMut(Trouble),
    ) -> Result<()> {
        self.scan(table, range, sink)
    }

    /// Reads the rows that have one of these keys: a batch of the key's columns, in the key's order. Never fewer than those;
    /// others may come along, so whoever asks picks by the exact value. By default the whole table is read, which is right
    /// for every type; a database that finds rows by their key does better where its `=` holds for equal values.
    fn fetch(
        &mut self,
        table: &TableSchema,
        _keys: &RecordBatch,
        sink: &mut dyn FnMut(RecordBatch) -> Result<()>,
    ) -> Result<()> {
        self.scan(table, &KeyRange::ALL, sink)
    }

    /// Of a target: how many originals of changed values it keeps in this state. `None`: it keeps none.
    fn kept(&mut self) -> Result<Option<Vec<Kept>>> {
        Ok(None)
    }

    /// Of a target: sequences of the table that would hand out values that it has. By default there are none.
    fn sequences(&mut self, _table: &TableSchema) -> Result<Vec<Behind>> {
        Ok(Vec::new())
    }

    /// What the database itself counts and sums over the table, in the state that [`Snapshot::scan`] reads; `None` where nobody
    /// but us could.
    fn totals(&mut self, table: &TableSchema) -> Result<Option<Totals>>;

    /// The one value that the database's own SQL gives for an operator's statement, as text, in the state that [`Snapshot::scan`]
    /// reads; NULL is `None`. See [`crate::figure`]. An error where there is nobody to ask.
    fn ask(&mut self, statement: &str) -> Result<Option<String>>;

    /// Rows of the table that refer to nothing, for each of its foreign keys to one of `tables`, in the state that [`Snapshot::scan`]
    /// reads; of a target also for those that it has by itself. `None` where nobody but us could tell.
    fn orphans(&mut self, table: &TableSchema, tables: &[Arc<TableSchema>]) -> Result<Option<Vec<Orphans>>>;
}

/// A value of a key column, as a bound of a range.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyPart {
    /// An integer of any width and sign.
    Int(i128),
    /// Anything that the database compares by its text.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
}

impl KeyPart {
    /// The parts of each key of a batch of the key's columns, where all are of types whose equal values are equal to every
    /// database, and have one spelling: integers, text, bytes, UUIDs. `None` where one is not, or is NULL.
    pub fn of_keys(table: &TableSchema, keys: &RecordBatch) -> Option<Vec<Vec<KeyPart>>> {
        let columns: Vec<(&Logical, &ArrayRef)> = table.key_columns().map(|c| &c.logical).zip(keys.columns()).collect();
        if columns.is_empty() || columns.len() != table.key.len() {
            return None;
        }
        let key = |row| columns.iter().map(|(logical, array)| KeyPart::of(logical, array, row)).collect();
        (0..keys.num_rows()).map(key).collect()
    }

    fn of(logical: &Logical, array: &ArrayRef, row: usize) -> Option<KeyPart> {
        if array.is_null(row) || *array.data_type() != logical.arrow() {
            return None;
        }
        macro_rules! int {
            ($kind:ty) => {
                Some(KeyPart::Int(array.as_primitive::<$kind>().value(row).into()))
            };
        }
        match logical {
            Logical::Int8 => int!(Int8Type),
            Logical::Int16 => int!(Int16Type),
            Logical::Int32 => int!(Int32Type),
            Logical::Int64 => int!(Int64Type),
            Logical::UInt8 => int!(UInt8Type),
            Logical::UInt16 => int!(UInt16Type),
            Logical::UInt32 => int!(UInt32Type),
            Logical::UInt64 => int!(UInt64Type),
            Logical::Text => Some(KeyPart::Text(array.as_string::<i32>().value(row).to_owned())),
            Logical::Bytes => Some(KeyPart::Bytes(array.as_binary::<i32>().value(row).to_vec())),
            Logical::Uuid => {
                let hex: String = array.as_fixed_size_binary().value(row).iter().map(|b| format!("{b:02x}")).collect();
                Some(KeyPart::Text([&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")))
            }
            Logical::Bool
            | Logical::Float32
            | Logical::Float64
            | Logical::Decimal { .. }
            | Logical::Numeric
            | Logical::Enum { .. }
            | Logical::Set { .. }
            | Logical::Json
            | Logical::Bit { .. }
            | Logical::Date
            | Logical::Time
            | Logical::Duration
            | Logical::Timestamp
            | Logical::TimestampTz
            | Logical::Postgres { .. }
            | Logical::Literal
            | Logical::Omitted => None,
        }
    }
}

/// A range of keys in the order of the database that made it; no other may interpret it, but for keys that both order by their
/// values ([`Source::orders_by_value`]).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct KeyRange {
    /// Keys greater than this; `None` from the first.
    pub after: Option<Vec<KeyPart>>,
    /// Keys up to and including this; `None` to the last.
    pub to: Option<Vec<KeyPart>>,
}

impl KeyRange {
    /// All keys.
    pub const ALL: KeyRange = KeyRange { after: None, to: None };
}
