//! Rows in memory: one string of bytes per cell, in the order-preserving form of `arrow_row`. Equal cells are equal
//! bytes, whatever the type, and a row is put together again without knowing any type.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch, new_empty_array};
use arrow_row::{RowConverter, SortField};
use crossfade_core::{Error, Result, TableSchema};

/// A cell's bytes.
pub type Cell = Vec<u8>;
/// A row's cells, in the table's order.
pub type Row = Vec<Cell>;
/// A row's key columns.
pub type Key = Vec<Cell>;
/// A table's rows. Every commit copies the maps of the tables that it changes, but not what they hold.
pub type Table = BTreeMap<Arc<Key>, Arc<Row>>;

fn broken(e: arrow_schema::ArrowError) -> Error {
    Error::corrupt("a row in memory").caused_by(e)
}

/// The rows of a batch.
pub fn encode(batch: &RecordBatch) -> Result<Vec<Row>> {
    let mut rows = vec![Row::new(); batch.num_rows()];
    for column in batch.columns() {
        let cells = cells(column)?;
        rows.iter_mut().zip(cells).for_each(|(row, cell)| row.push(cell));
    }
    Ok(rows)
}

/// The cells of an array.
pub fn cells(column: &ArrayRef) -> Result<Vec<Cell>> {
    let converter = RowConverter::new(vec![SortField::new(column.data_type().clone())]).map_err(broken)?;
    let rows = converter.convert_columns(std::slice::from_ref(column)).map_err(broken)?;
    Ok(rows.iter().map(|r| r.as_ref().to_vec()).collect())
}

/// A batch of rows.
pub fn decode<'a>(table: &TableSchema, rows: impl Iterator<Item = &'a Arc<Row>> + Clone) -> Result<RecordBatch> {
    let mut arrays: Vec<ArrayRef> = Vec::new();
    for (i, column) in table.columns.iter().enumerate() {
        let kind = column.logical.arrow();
        let converter = RowConverter::new(vec![SortField::new(kind.clone())]).map_err(broken)?;
        let parser = converter.parser();
        let mut cells = rows.clone().map(|r| parser.parse(&r[i])).peekable();
        arrays.push(match cells.peek() {
            None => new_empty_array(&kind),
            Some(_) => converter.convert_rows(cells).map_err(broken)?.remove(0),
        });
    }
    RecordBatch::try_new(table.arrow(), arrays).map_err(broken)
}

/// The key of a row.
pub fn key(table: &TableSchema, row: &Row) -> Key {
    table.key.iter().map(|&i| row[i].clone()).collect()
}

/// Adds a row to a bag: equal rows are told apart by a number behind their cells.
pub fn put(bag: &mut Table, row: Row) {
    let key = |n: u32| row.iter().cloned().chain([n.to_be_bytes().to_vec()]).collect::<Key>();
    let n = (0..).find(|&n| !bag.contains_key(&key(n))).unwrap_or_default();
    bag.insert(Arc::new(key(n)), Arc::new(row));
}

/// Takes one such row out of a bag; false if there is none.
pub fn take(bag: &mut Table, row: &Row) -> bool {
    let found = bag.iter().find(|(_, there)| ***there == *row).map(|(key, _)| key.clone());
    found.is_some_and(|key| bag.remove(&key).is_some())
}

/// Whether a cell is NULL: `arrow_row` begins every value with a byte that is 0 for NULL only.
pub fn is_null(cell: &Cell) -> bool {
    cell.first() == Some(&0)
}

/// One integer as a cell.
pub fn integer(value: Option<i64>) -> Result<Cell> {
    let array: ArrayRef = Arc::new(arrow_array::Int64Array::from(vec![value]));
    Ok(cells(&array)?.remove(0))
}

#[test]
fn null_cells_are_known() -> Result<()> {
    assert!(is_null(&integer(None)?) && !is_null(&integer(Some(0))?) && !is_null(&integer(Some(i64::MIN))?));
    Ok(())
}
