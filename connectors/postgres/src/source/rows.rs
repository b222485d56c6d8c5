//! Rows of the log to rows of a batch, as core's invariants want them.
//!
//! A row is known by [`TableSchema::key`], which the replica identity covers. An update that changes it becomes a delete and an
//! insert. A table without a key (REPLICA IDENTITY FULL and no unique index) is a bag of rows: every update is a delete of the
//! whole old row and an insert of the new.
//!
//! A large value that an update did not touch is not in the log. It stays marked as absent in an update of the same row; in an
//! insert it comes from the old row where the log has that whole, else the table cannot go on.

use std::sync::Arc;

use crossfade_core::{Error, Logical, Op, Result, RowsBuilder, TableSchema};

use super::pgoutput::{Old, Row, Value};
use super::text::append;
use crate::decode::{Bad, CORRECT, refused};

/// How to read the rows of a relation.
#[derive(Debug)]
pub struct Plan {
    /// The carried table's number.
    pub table: usize,
    /// Its shape.
    pub schema: Arc<TableSchema>,
    /// Per column of the shape: its ordinal in the log's rows.
    pub ordinals: Vec<usize>,
    /// How many columns the log's rows have.
    pub width: usize,
    /// Whether old rows of the log hold the whole key.
    pub covers_key: bool,
}

/// Where rows go.
pub struct Sink<'a> {
    /// The table's builder.
    pub builder: &'a mut RowsBuilder,
    /// The next row's place in the batch.
    pub order: &'a mut u32,
    /// The transaction's commit time.
    pub commit_micros: i64,
    /// A buffer to use again.
    pub hex: &'a mut Vec<u8>,
}

const FULL: &str =
    "ALTER TABLE ... REPLICA IDENTITY FULL at the source, then copy the table again with `crossfade snapshot TABLE`";

impl Plan {
    /// A new row.
    pub fn insert(&self, sink: &mut Sink<'_>, new: Row<'_>) -> Result<()> {
        self.demand_width(new)?;
        self.put(sink, Op::Insert, |i| new.value(i))
    }

    /// A changed row.
    pub fn update(&self, sink: &mut Sink<'_>, old: Option<Old<'_>>, new: Row<'_>) -> Result<()> {
        self.demand_width(new)?;
        let (before, whole) = match old {
            None if self.schema.key.is_empty() => return Err(self.not_whole(new)),
            None if !self.covers_key => return Err(self.uncovered(new)),
            None => return self.put(sink, Op::Update, |i| new.value(i)),
            Some(Old::Key(_)) if self.schema.key.is_empty() => return Err(self.not_whole(new)),
            Some(Old::Key(_)) if !self.covers_key => return Err(self.uncovered(new)),
            Some(Old::Key(before)) => (before, false),
            Some(Old::Full(before)) => (before, true),
        };
        self.demand_width(before)?;
        let is_key = |i: usize| self.key().any(|k| k == i);
        let after = |i: usize| match new.value(i) {
            Value::Unchanged if whole || is_key(i) => before.value(i),
            value => value,
        };
        let same = !self.schema.key.is_empty() && self.key().all(|i| after(i) == before.value(i));
        if same {
            return self.put(sink, Op::Update, after);
        }
        self.put(sink, Op::Delete, |i| before.value(i))?;
        self.put(sink, Op::Insert, after)
    }

    /// A row that is gone.
    pub fn delete(&self, sink: &mut Sink<'_>, old: Old<'_>) -> Result<()> {
        let before = match old {
            Old::Key(before) if self.schema.key.is_empty() => return Err(self.not_whole(before)),
            Old::Key(before) if !self.covers_key => return Err(self.uncovered(before)),
            Old::Key(before) | Old::Full(before) => before,
        };
        self.demand_width(before)?;
        self.put(sink, Op::Delete, |i| before.value(i))
    }

    /// Ordinals of the key's columns in the log's rows.
    fn key(&self) -> impl Iterator<Item = usize> {
        self.schema.key.iter().filter_map(|k| self.ordinals.get(*k).copied())
    }

    fn put<'v>(&self, sink: &mut Sink<'_>, op: Op, value: impl Fn(usize) -> Value<'v>) -> Result<()> {
        for (i, (column, at)) in self.schema.columns.iter().zip(&self.ordinals).enumerate() {
            let Some(builder) = sink.builder.columns.get_mut(i) else {
                return Err(Error::corrupt(format!("table {}: a batch of another shape", self.schema.name)));
            };
            match value(*at) {
                Value::Null => builder.append_null(),
                Value::Text(text) => {
                    let appended = append(builder, &column.logical, text, sink.hex);
                    if let Err(bad) = appended.or_else(|bad| bad.pass(column, builder)) {
                        return Err(self.place(bad, i, &value));
                    }
                }
                // Nobody asks for it, so nobody misses it.
                Value::Unchanged if column.logical == Logical::Omitted => builder.append_null(),
                Value::Unchanged if op == Op::Update && !self.schema.key.contains(&i) => sink.builder.append_absent(i),
                Value::Unchanged => {
                    let message = "the log does not hold this value: it is stored apart (TOAST), and the update that \
                                   changed the row's key did not change it";
                    let error = Error::data(&self.schema.name, message).column(&column.name).hint(FULL);
                    return Err(self.with_key(error, &value));
                }
            }
        }
        sink.builder.end_row(op, sink.commit_micros, *sink.order);
        *sink.order += 1;
        Ok(())
    }

    fn demand_width(&self, row: Row<'_>) -> Result<()> {
        if row.len() == self.width {
            return Ok(());
        }
        let message = format!("the log has a row of {} values for {} columns", row.len(), self.width);
        Err(Error::corrupt(format!("table {}: {message}", self.schema.name)))
    }

    fn not_whole(&self, row: Row<'_>) -> Error {
        let message = "the table has no key, and the log does not hold the whole row as it was";
        let error = Error::data(&self.schema.name, message);
        self.with_key(error, &|i| row.value(i)).hint(FULL)
    }

    fn uncovered(&self, row: Row<'_>) -> Error {
        self.with_key(self.lost_key(), &|i| row.value(i))
    }

    /// The log does not tell rows apart by the key any more, and perhaps nothing does: two new rows of one key would be one at a target.
    pub fn lost_key(&self) -> Error {
        let names: Vec<&str> = self.schema.key_columns().map(|c| c.name.as_str()).collect();
        let message = format!("the replica identity no longer covers the key ({})", names.join(", "));
        Error::data(&self.schema.name, message)
            .hint("ALTER TABLE ... REPLICA IDENTITY DEFAULT (or USING INDEX the key's), then copy the table again with `crossfade snapshot TABLE`")
    }

    /// A value's fault as an error that names table, column and row.
    fn place<'v>(&self, bad: Bad, column: usize, value: &impl Fn(usize) -> Value<'v>) -> Error {
        let (name, source_type) =
            self.schema.columns.get(column).map_or(("?", "?"), |c| (c.name.as_str(), c.source_type.as_str()));
        let error = match bad {
            Bad::Full(error) => return error,
            Bad::Wire => Error::data(&self.schema.name, format!("the server sent no {source_type}")),
            Bad::Value(what) => Error::data(&self.schema.name, what).hint(CORRECT),
            Bad::Unfit(what, unfit) => refused(what, &unfit, &self.schema, column),
        };
        self.with_key(error.column(name), value)
    }

    /// Names the row of an error: by its key, as the log prints it.
    fn with_key<'v>(&self, error: Error, value: &impl Fn(usize) -> Value<'v>) -> Error {
        let shown = |(name, at): (&str, usize)| match value(at) {
            Value::Text(text) => format!("{name}={}", String::from_utf8_lossy(text)),
            Value::Null => format!("{name}=NULL"),
            Value::Unchanged => format!("{name}=?"),
        };
        let names = self.schema.key_columns().map(|c| c.name.as_str());
        let key: Vec<String> = names.zip(self.key()).map(shown).collect();
        if key.is_empty() { error } else { error.key(key.join(", ")) }
    }
}
