//! Changes that a source's checks make, the state they lead to, and how both are read back from batches.

use std::collections::BTreeMap;
use std::fmt;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type};
use arrow_array::{Array, RecordBatch};
use arrow_schema::DataType;

use crate::batch::{Batch, Item, Op, Rows};
use crate::error::{Error, Result};
use crate::schema::TableSchema;

/// One statement about a table `(id, n, t)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A new row.
    Insert(String, i64, Cells),
    /// Both other columns of a row are set.
    Update(String, i64, Cells),
    /// The row gets another key.
    Rekey(String, i64, i64),
    /// The row goes.
    Delete(String, i64),
    /// All rows go: TRUNCATE where the source has it.
    Clear(String),
}

/// The columns `n` and `t`.
pub type Cells = (Option<i64>, Option<String>);

/// Rows of one table by key.
pub type State = BTreeMap<i64, Cells>;

impl fmt::Display for Change {
    /// As SQL that MySQL, SQLite and Postgres understand (SQLite has no TRUNCATE: there it is `DELETE FROM`).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = |c: &Cells| c.0.map_or("NULL".to_owned(), |n| n.to_string());
        let t = |c: &Cells| c.1.as_ref().map_or("NULL".to_owned(), |t| format!("'{}'", t.replace('\'', "''")));
        match self {
            Change::Insert(table, id, c) => {
                write!(f, "INSERT INTO {table} (id, n, t) VALUES ({id}, {}, {})", n(c), t(c))
            }
            Change::Update(table, id, c) => write!(f, "UPDATE {table} SET n = {}, t = {} WHERE id = {id}", n(c), t(c)),
            Change::Rekey(table, from, to) => write!(f, "UPDATE {table} SET id = {to} WHERE id = {from}"),
            Change::Delete(table, id) => write!(f, "DELETE FROM {table} WHERE id = {id}"),
            Change::Clear(table) => write!(f, "TRUNCATE TABLE {table}"),
        }
    }
}

impl Change {
    /// What it does to a state.
    pub fn apply(&self, state: &mut State) {
        match self {
            Change::Insert(_, id, cells) | Change::Update(_, id, cells) => {
                state.insert(*id, cells.clone());
            }
            Change::Rekey(_, from, to) => {
                if let Some(cells) = state.remove(from) {
                    state.insert(*to, cells);
                }
            }
            Change::Delete(_, id) => {
                state.remove(id);
            }
            Change::Clear(_) => state.clear(),
        }
    }
}

/// Inserts of rows with the keys `ids`.
pub fn inserts(table: &str, ids: impl IntoIterator<Item = i64>) -> Vec<Change> {
    ids.into_iter().map(|id| Change::Insert(table.to_owned(), id, cells(id))).collect()
}

/// Values that follow from a number; some are NULL, some hold what quoting must get right.
pub fn cells(number: i64) -> Cells {
    let n = (number % 5 != 0).then_some(number.wrapping_mul(1_000_003));
    let t = (number % 7 != 0)
        .then(|| format!("it's row {number} ü€ \"{}\"", "x".repeat((number % 11).unsigned_abs() as usize)));
    (n, t)
}

/// The state after a batch: `state` is changed as a target would.
pub fn replay(batch: &Batch, state: &mut State) -> Result<()> {
    for item in &batch.items {
        match item {
            Item::Rows(rows) => replay_rows(rows, state)?,
            Item::Truncate(_) => state.clear(),
            Item::Schema(change) => {
                return Err(Error::corrupt(format!("table {}: a schema change that nobody made", change.from.name)));
            }
        }
    }
    Ok(())
}

fn replay_rows(rows: &Rows, state: &mut State) -> Result<()> {
    let read = Reader::new(&rows.table)?;
    for (row, op) in rows.ops.iter().enumerate() {
        let id = read.id(&rows.batch, row)?;
        let known = state.get(&id).cloned();
        match (op, known) {
            (Op::Insert, Some(_)) => return Err(Error::corrupt(format!("row {id} is inserted though it is there"))),
            (Op::Update | Op::Delete, None) => {
                return Err(Error::corrupt(format!("row {id} is changed ({op:?}) though it is not there")));
            }
            (Op::Delete, Some(_)) => {
                state.remove(&id);
            }
            (Op::Insert, None) => {
                state.insert(id, read.cells(&rows.batch, row)?);
            }
            (Op::Update, Some(old)) => {
                let (n, t) = read.cells(&rows.batch, row)?;
                let n = if rows.is_absent(read.n, row) { old.0 } else { n };
                let t = if rows.is_absent(read.t, row) { old.1 } else { t };
                state.insert(id, (n, t));
            }
        }
    }
    Ok(())
}

/// Adds the rows of a snapshot; a row that is there already is an error.
pub fn collect(table: &TableSchema, batch: &RecordBatch, state: &mut State) -> Result<()> {
    if batch.schema() != table.arrow() {
        return Err(Error::corrupt(format!("a scan's batch has the schema {:?}, not the table's", batch.schema())));
    }
    let read = Reader::new(table)?;
    for row in 0..batch.num_rows() {
        let id = read.id(batch, row)?;
        if state.insert(id, read.cells(batch, row)?).is_some() {
            return Err(Error::corrupt(format!("row {id} is read twice")));
        }
    }
    Ok(())
}

/// Where the columns stand.
struct Reader {
    id: usize,
    n: usize,
    t: usize,
}

impl Reader {
    fn new(table: &TableSchema) -> Result<Self> {
        let at = |name: &str| {
            table.ordinal(name).ok_or_else(|| Error::corrupt(format!("table {} has no column {name}", table.name)))
        };
        let read = Reader { id: at("id")?, n: at("n")?, t: at("t")? };
        if table.key != [read.id] {
            return Err(Error::corrupt(format!("table {}: its key is {:?}, not id", table.name, table.key)));
        }
        Ok(read)
    }

    fn id(&self, batch: &RecordBatch, row: usize) -> Result<i64> {
        integer(batch.column(self.id), row)?.ok_or_else(|| Error::corrupt("a key is NULL"))
    }

    fn cells(&self, batch: &RecordBatch, row: usize) -> Result<Cells> {
        Ok((integer(batch.column(self.n), row)?, text(batch.column(self.t), row)?))
    }
}

fn integer(array: &dyn Array, row: usize) -> Result<Option<i64>> {
    if array.is_null(row) {
        return Ok(None);
    }
    Ok(Some(match array.data_type() {
        DataType::Int8 => array.as_primitive::<Int8Type>().value(row).into(),
        DataType::Int16 => array.as_primitive::<Int16Type>().value(row).into(),
        DataType::Int32 => array.as_primitive::<Int32Type>().value(row).into(),
        DataType::Int64 => array.as_primitive::<Int64Type>().value(row),
        DataType::UInt8 => array.as_primitive::<UInt8Type>().value(row).into(),
        DataType::UInt16 => array.as_primitive::<UInt16Type>().value(row).into(),
        DataType::UInt32 => array.as_primitive::<UInt32Type>().value(row).into(),
        DataType::UInt64 => array.as_primitive::<UInt64Type>().value(row) as i64,
        DataType::Utf8 => {
            let literal = array.as_string::<i32>().value(row);
            literal.parse().map_err(|_| Error::corrupt(format!("{literal} is not an integer")))?
        }
        other => return Err(Error::corrupt(format!("an integer column travels as {other}"))),
    }))
}

fn text(array: &dyn Array, row: usize) -> Result<Option<String>> {
    if array.is_null(row) {
        return Ok(None);
    }
    match array.data_type() {
        DataType::Utf8 => {
            let value = array.as_string::<i32>().value(row);
            // An untyped column carries literals.
            let literal = value.strip_prefix('\'').and_then(|v| v.strip_suffix('\''));
            Ok(Some(literal.map_or_else(|| value.to_owned(), |v| v.replace("''", "'"))))
        }
        other => Err(Error::corrupt(format!("a text column travels as {other}"))),
    }
}
