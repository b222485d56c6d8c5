//! Rows of several parts as one batch.
//!
//! The parts are handed over, and a column of theirs goes as soon as the new one is made of it, so that while a batch is
//! gathered it is never held twice: a batch under load has 160,000 rows, and the parts of one wait in front of this stage
//! while the outcome of the one before waits behind it.

use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{ArrowError, Schema, SchemaRef};
use arrow_select::concat::concat;
use arrow_select::interleave::interleave;
use crossfade_core::Rows;

/// All rows, one part behind the other.
pub fn join(parts: Vec<Rows>) -> Result<RecordBatch, ArrowError> {
    each_column(parts, |_, sources| concat(sources))
}

/// The rows that are named by part and row, in this order.
pub fn pick(parts: Vec<Rows>, picks: &[(usize, usize)]) -> Result<RecordBatch, ArrowError> {
    each_column(parts, |_, sources| interleave(sources, picks))
}

/// Makes each column of the parts' columns; `make` is told which one it is. All parts have one shape.
pub fn each_column(
    parts: Vec<Rows>,
    mut make: impl FnMut(usize, &[&dyn Array]) -> Result<ArrayRef, ArrowError>,
) -> Result<RecordBatch, ArrowError> {
    let (schema, columns) = by_column(parts);
    let mut arrays = Vec::with_capacity(columns.len());
    for (i, column) in columns.into_iter().enumerate() {
        let sources: Vec<&dyn Array> = column.iter().map(AsRef::as_ref).collect();
        arrays.push(make(i, &sources)?);
    }
    RecordBatch::try_new(schema, arrays)
}

/// Everything but the columns is let go here.
fn by_column(parts: Vec<Rows>) -> (SchemaRef, Vec<Vec<ArrayRef>>) {
    let count = parts.len();
    let mut parts = parts.into_iter().map(|part| part.batch.into_parts());
    let Some((schema, first, _)) = parts.next() else { return (SchemaRef::new(Schema::empty()), vec![]) };
    let begin = |array| {
        let mut column = Vec::with_capacity(count);
        column.push(array);
        column
    };
    let mut columns: Vec<Vec<ArrayRef>> = first.into_iter().map(begin).collect();
    for (_, arrays, _) in parts {
        columns.iter_mut().zip(arrays).for_each(|(column, array)| column.push(array));
    }
    (schema, columns)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Weak};

    use crossfade_core::{Column, ColumnBuilder, Logical, Op, RowsBuilder, TableName, TableSchema};

    use super::*;

    fn part(first: i64) -> Rows {
        let column = |name: &str| Column {
            name: name.into(),
            source_type: "bigint".into(),
            logical: Logical::Int64,
            nullable: true,
            auto_increment: false,
            number: 0,
            policies: Default::default(),
        };
        let table = TableSchema {
            name: TableName::new("s", "t"),
            version: 1,
            columns: vec![column("id"), column("a"), column("b")],
            key: vec![0],
            indexes: vec![],
            foreign_keys: vec![],
            origin: None,
            pending: vec![],
            number: 0,
        };
        let mut builder = RowsBuilder::new(Arc::new(table));
        for row in 0..10 {
            for column in &mut builder.columns {
                let ColumnBuilder::Int64(column) = column else { unreachable!() };
                column.append_value(first + row);
            }
            builder.end_row(Op::Insert, 0, row as u32);
        }
        builder.finish().unwrap()
    }

    #[test]
    fn what_a_column_was_made_of_is_let_go_before_the_next_is_made() {
        let parts = vec![part(0), part(10)];
        let watch: Vec<Vec<Weak<dyn Array>>> =
            parts.iter().map(|p| p.batch.columns().iter().map(Arc::downgrade).collect()).collect();
        let held = || watch.iter().flatten().filter(|w| w.strong_count() > 0).count();
        let mut seen = Vec::new();
        let batch = each_column(parts, |_, sources| {
            seen.push(held());
            concat(sources)
        });
        assert_eq!(batch.unwrap().num_rows(), 20);
        assert_eq!(seen, [6, 4, 2]);
        assert_eq!(held(), 0);
    }
}
