//! Turns rows of the change table into a batch's items.

use std::collections::HashMap;
use std::sync::Arc;

use crossfade_core::{Error, Item, Omissions, Op, Result, RowsBuilder, SchemaChange, TableSchema};
use rusqlite::Row;
use rusqlite::types::ValueRef;

use crate::error::Doing;
use crate::mark::{Mark, millis};
use crate::triggers::op;
use crate::types::{self, append, misfit};
use crate::upgrade::{self, Fills};

/// The change table's columns before `c0`.
const FIRST: usize = 4;

/// A table that the stream carries.
struct Carried {
    shape: Arc<TableSchema>,
    builder: RowsBuilder,
}

/// Collects the changes of a batch.
pub struct Decoder {
    tables: HashMap<i64, Carried>,
    omissions: Omissions,
    /// Items finished by a schema change in the middle of the batch.
    items: Vec<Item>,
    rows: usize,
    bytes: usize,
    last_micros: Option<i64>,
}

impl Decoder {
    /// Carries these tables, by their numbers in the change table.
    pub fn new(tables: impl IntoIterator<Item = (i64, Arc<TableSchema>)>, omissions: Omissions) -> Self {
        let carried = |shape: Arc<TableSchema>| Carried { builder: RowsBuilder::new(Arc::clone(&shape)), shape };
        Decoder {
            tables: tables.into_iter().map(|(id, shape)| (id, carried(shape))).collect(),
            omissions,
            items: Vec::new(),
            rows: 0,
            bytes: 0,
            last_micros: None,
        }
    }

    /// The numbers of the tables carried.
    pub fn ids(&self) -> Vec<i64> {
        self.tables.keys().copied().collect()
    }

    /// Rows collected.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// About how many bytes are held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes a row of the change table and returns its mark.
    pub fn entry(&mut self, row: &Row<'_>) -> Result<Mark> {
        let doing = "reading the change table";
        let mark = Mark { seq: row.get(0).doing(doing)?, millis: millis(row.get(3).doing(doing)?) };
        let (id, op): (i64, i64) = (row.get(1).doing(doing)?, row.get(2).doing(doing)?);
        let micros = mark.micros()?;
        self.last_micros = Some(micros);
        let Some(carried) = self.tables.get_mut(&id) else { return Ok(mark) };
        let op = match op {
            op::INSERT => Op::Insert,
            op::UPDATE => Op::Update,
            op::DELETE => Op::Delete,
            op::SCHEMA => {
                self.schema(id, row)?;
                return Ok(mark);
            }
            other => {
                return Err(Error::corrupt(format!("row {} of the change table has the unknown op {other}", mark.seq)));
            }
        };
        let order = u32::try_from(self.rows).map_err(|_| Error::corrupt("a batch of more than 2^32 rows"))?;
        self.bytes += carried.append(row, op, micros, order)?;
        self.rows += 1;
        Ok(mark)
    }

    /// Another shape: what was collected in the old one goes first.
    fn schema(&mut self, id: i64, row: &Row<'_>) -> Result<()> {
        let doing = "reading a schema change from the change table";
        let (to, fills): (String, String) = (row.get(FIRST).doing(doing)?, row.get(FIRST + 1).doing(doing)?);
        let broken = |e| Error::corrupt(doing).caused_by(e);
        let mut to: TableSchema = serde_json::from_str(&to).map_err(broken)?;
        self.omissions.mark(&mut to);
        let fills: Fills = serde_json::from_str(&fills).map_err(broken)?;
        self.flush()?;
        let Some(carried) = self.tables.get_mut(&id) else { return Ok(()) };
        if carried.shape.version >= to.version {
            // The reader began with the later shape: rows before this entry were decoded in it already.
            return Ok(());
        }
        let (from, to) = (Arc::clone(&carried.shape), Arc::new(to));
        let steps = upgrade::steps(&from, &to, &fills);
        *carried = Carried { builder: RowsBuilder::new(Arc::clone(&to)), shape: Arc::clone(&to) };
        self.items.push(Item::Schema(SchemaChange { from, to, steps }));
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let mut filled: Vec<_> = self.tables.iter_mut().filter(|(_, c)| !c.builder.is_empty()).collect();
        filled.sort_by_key(|(id, _)| **id);
        for (_, carried) in filled {
            self.items.push(Item::Rows(carried.builder.finish()?));
        }
        Ok(())
    }

    /// The items collected and the time of the last entry, in microseconds; the decoder is empty again.
    pub fn finish(&mut self) -> Result<(Vec<Item>, Option<i64>)> {
        self.flush()?;
        (self.rows, self.bytes) = (0, 0);
        Ok((std::mem::take(&mut self.items), self.last_micros.take()))
    }
}

impl Carried {
    /// Appends an entry and returns about how many bytes it took.
    fn append(&mut self, row: &Row<'_>, op: Op, micros: i64, order: u32) -> Result<usize> {
        let mut bytes = 16;
        for (i, column) in self.shape.columns.iter().enumerate() {
            let builder = &mut self.builder.columns[i];
            let key = self.shape.key.contains(&i);
            if op == Op::Delete && !key {
                builder.append_null();
                bytes += 1;
                continue;
            }
            let value = row.get_ref(FIRST + i).doing("reading the change table")?;
            if key && value == ValueRef::Null {
                return Err(null_key(&self.shape, i));
            }
            match append(builder, &column.logical, value)? {
                Ok(n) => bytes += n,
                Err(_) if types::pass(column, builder, value)? => bytes += 8,
                Err(found) => return Err(misfit(&self.shape, i, self.key_text(row), &found)),
            }
        }
        self.builder.end_row(op, micros, order);
        Ok(bytes)
    }

    fn key_text(&self, row: &Row<'_>) -> String {
        key_text(&self.shape, |i| row.get_ref(FIRST + i).unwrap_or(ValueRef::Null))
    }
}

/// A row's key for a message: `a=1, b='x'`.
pub fn key_text<'a>(shape: &TableSchema, value: impl Fn(usize) -> ValueRef<'a>) -> String {
    let part = |&i: &usize| {
        let described = types::describe(value(i));
        let bare = described.split_once(' ').map_or(described.as_str(), |(_, v)| v).to_owned();
        format!("{}={bare}", shape.columns[i].name)
    };
    shape.key.iter().map(part).collect::<Vec<_>>().join(", ")
}

/// The error for a key column that holds NULL, which SQLite admits outside of INTEGER PRIMARY KEY and WITHOUT ROWID.
pub fn null_key(shape: &TableSchema, column: usize) -> Error {
    let name = &shape.columns[column].name;
    Error::data(&shape.name, "a row has NULL in its key, so nothing tells it from others")
        .column(name)
        .hint(format!("give the row a value, or exclude {}", shape.name))
}
