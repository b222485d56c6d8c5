//! Builders that decoders append to: one per column, one set per table.
//!
//! [`ColumnBuilder`] is an enum over Arrow's builders, its variants public, so that a decoder matches once on
//! `(column, wire type)` and appends without a detour. Text and bytes go through [`push_str`] and [`push_bytes`], which
//! refuse to pass Arrow's 2 GiB offset limit instead of panicking on it.

use std::sync::Arc;

use arrow_array::builder::*;
use arrow_array::{ArrayRef, RecordBatch};
use arrow_buffer::BooleanBufferBuilder;

use crate::batch::{Op, Rows};
use crate::error::{Error, Result};
use crate::schema::{Logical, TableSchema};

/// Builds the Arrow array of one column. The variant follows from the column's [`Logical`] type.
#[derive(Debug)]
#[allow(missing_docs)] // one variant per Arrow type, named as Arrow names it
pub enum ColumnBuilder {
    Bool(BooleanBuilder),
    Int8(Int8Builder),
    Int16(Int16Builder),
    Int32(Int32Builder),
    Int64(Int64Builder),
    UInt8(UInt8Builder),
    UInt16(UInt16Builder),
    UInt32(UInt32Builder),
    UInt64(UInt64Builder),
    Float32(Float32Builder),
    Float64(Float64Builder),
    Decimal128(Decimal128Builder),
    Decimal256(Decimal256Builder),
    Utf8(StringBuilder),
    Binary(BinaryBuilder),
    Uuid(FixedSizeBinaryBuilder),
    Date(Date32Builder),
    Time(Time64MicrosecondBuilder),
    Duration(DurationMicrosecondBuilder),
    Timestamp(TimestampMicrosecondBuilder),
    Omitted(NullBuilder),
}

/// Evaluates an expression for whichever builder it is.
macro_rules! each {
    ($self:expr, $b:ident => $e:expr) => {
        match $self {
            ColumnBuilder::Bool($b) => $e,
            ColumnBuilder::Int8($b) => $e,
            ColumnBuilder::Int16($b) => $e,
            ColumnBuilder::Int32($b) => $e,
            ColumnBuilder::Int64($b) => $e,
            ColumnBuilder::UInt8($b) => $e,
            ColumnBuilder::UInt16($b) => $e,
            ColumnBuilder::UInt32($b) => $e,
            ColumnBuilder::UInt64($b) => $e,
            ColumnBuilder::Float32($b) => $e,
            ColumnBuilder::Float64($b) => $e,
            ColumnBuilder::Decimal128($b) => $e,
            ColumnBuilder::Decimal256($b) => $e,
            ColumnBuilder::Utf8($b) => $e,
            ColumnBuilder::Binary($b) => $e,
            ColumnBuilder::Uuid($b) => $e,
            ColumnBuilder::Date($b) => $e,
            ColumnBuilder::Time($b) => $e,
            ColumnBuilder::Duration($b) => $e,
            ColumnBuilder::Timestamp($b) => $e,
            ColumnBuilder::Omitted($b) => $e,
        }
    };
}

impl ColumnBuilder {
    /// A builder for values of this type.
    pub fn new(logical: &Logical) -> Self {
        Self::with_capacity(logical, 1024, 1024)
    }

    /// A builder with room for so many values, and for so many bytes of text, so that it need not grow on the way.
    pub fn with_capacity(logical: &Logical, rows: usize, bytes: usize) -> Self {
        match logical {
            Logical::Bool => Self::Bool(BooleanBuilder::with_capacity(rows)),
            Logical::Int8 => Self::Int8(Int8Builder::with_capacity(rows)),
            Logical::Int16 => Self::Int16(Int16Builder::with_capacity(rows)),
            Logical::Int32 => Self::Int32(Int32Builder::with_capacity(rows)),
            Logical::Int64 => Self::Int64(Int64Builder::with_capacity(rows)),
            Logical::UInt8 => Self::UInt8(UInt8Builder::with_capacity(rows)),
            Logical::UInt16 => Self::UInt16(UInt16Builder::with_capacity(rows)),
            Logical::UInt32 => Self::UInt32(UInt32Builder::with_capacity(rows)),
            Logical::UInt64 => Self::UInt64(UInt64Builder::with_capacity(rows)),
            Logical::Float32 => Self::Float32(Float32Builder::with_capacity(rows)),
            Logical::Float64 => Self::Float64(Float64Builder::with_capacity(rows)),
            Logical::Decimal { precision, .. } if *precision <= 38 => {
                Self::Decimal128(Decimal128Builder::with_capacity(rows).with_data_type(logical.arrow()))
            }
            Logical::Decimal { .. } => {
                Self::Decimal256(Decimal256Builder::with_capacity(rows).with_data_type(logical.arrow()))
            }
            Logical::Numeric
            | Logical::Text
            | Logical::Enum { .. }
            | Logical::Set { .. }
            | Logical::Json
            | Logical::Bit { .. }
            | Logical::Postgres { .. }
            | Logical::Literal => Self::Utf8(StringBuilder::with_capacity(rows, bytes)),
            Logical::Bytes => Self::Binary(BinaryBuilder::with_capacity(rows, bytes)),
            Logical::Uuid => Self::Uuid(FixedSizeBinaryBuilder::with_capacity(rows, 16)),
            Logical::Date => Self::Date(Date32Builder::with_capacity(rows)),
            Logical::Time => Self::Time(Time64MicrosecondBuilder::with_capacity(rows)),
            Logical::Duration => Self::Duration(DurationMicrosecondBuilder::with_capacity(rows)),
            Logical::Timestamp | Logical::TimestampTz => {
                Self::Timestamp(TimestampMicrosecondBuilder::with_capacity(rows).with_data_type(logical.arrow()))
            }
            Logical::Omitted => Self::Omitted(NullBuilder::new()),
        }
    }

    /// Appends NULL.
    pub fn append_null(&mut self) {
        each!(self, b => b.append_null());
    }

    /// Values appended so far.
    pub fn len(&self) -> usize {
        each!(self, b => b.len())
    }

    /// Whether nothing has been appended.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// About how many bytes the values take.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Utf8(b) => b.values_slice().len() + b.len() * 4,
            Self::Binary(b) => b.values_slice().len() + b.len() * 4,
            Self::Decimal128(_) | Self::Uuid(_) => self.len() * 16,
            Self::Decimal256(_) => self.len() * 32,
            Self::Omitted(_) => 0,
            _ => self.len() * 8,
        }
    }

    /// The array; the builder is empty again.
    pub fn finish(&mut self) -> ArrayRef {
        match self {
            // Arrow's builder of nothing keeps its length.
            Self::Omitted(b) => Arc::new(std::mem::take(b).finish()),
            builder => each!(builder, b => Arc::new(b.finish()) as ArrayRef),
        }
    }
}

/// Arrow's offsets are 32 bits wide: more text than this in one column of one batch cannot be held.
const MAX_COLUMN_BYTES: usize = i32::MAX as usize;

/// Appends text; an error instead of a panic when the column would pass 2 GiB.
pub fn push_str(b: &mut StringBuilder, value: &str) -> Result<()> {
    room(b.values_slice().len(), value.len())?;
    b.append_value(value);
    Ok(())
}

/// Appends bytes; an error instead of a panic when the column would pass 2 GiB.
pub fn push_bytes(b: &mut BinaryBuilder, value: &[u8]) -> Result<()> {
    room(b.values_slice().len(), value.len())?;
    b.append_value(value);
    Ok(())
}

fn room(held: usize, more: usize) -> Result<()> {
    if held.saturating_add(more) <= MAX_COLUMN_BYTES {
        return Ok(());
    }
    Err(Error::unavailable(format!("a column of one batch would hold {held} + {more} bytes, more than 2 GiB"))
        .hint("set a smaller batch_bytes, so that values of this size travel in batches of their own"))
}

/// Collects the changes of one table.
///
/// A decoder appends one value to every column (or [`RowsBuilder::append_absent`]), then calls [`RowsBuilder::end_row`].
#[derive(Debug)]
pub struct RowsBuilder {
    table: Arc<TableSchema>,
    /// One per column of the table, in order.
    pub columns: Vec<ColumnBuilder>,
    absent: Vec<Option<BooleanBufferBuilder>>,
    ops: Vec<Op>,
    commit_micros: Vec<i64>,
    order: Vec<u32>,
}

impl RowsBuilder {
    /// An empty builder for the table.
    pub fn new(table: Arc<TableSchema>) -> Self {
        let columns: Vec<_> = table.columns.iter().map(|c| ColumnBuilder::new(&c.logical)).collect();
        let absent = columns.iter().map(|_| None).collect();
        RowsBuilder { table, columns, absent, ops: Vec::new(), commit_micros: Vec::new(), order: Vec::new() }
    }

    /// The table.
    pub fn table(&self) -> &Arc<TableSchema> {
        &self.table
    }

    /// Appends "the log did not carry this value" to a column of the current row.
    pub fn append_absent(&mut self, column: usize) {
        let row = self.ops.len();
        self.columns[column].append_null();
        let bits = self.absent[column].get_or_insert_with(|| BooleanBufferBuilder::new(row + 1));
        bits.append_n(row - bits.len(), false);
        bits.append(true);
    }

    /// Ends a row of which every column has been appended.
    pub fn end_row(&mut self, op: Op, commit_micros: i64, order: u32) {
        self.ops.push(op);
        self.commit_micros.push(commit_micros);
        self.order.push(order);
        debug_assert!(self.columns.iter().all(|c| c.len() == self.ops.len()), "every column got one value");
    }

    /// Sets the commit time of the rows from `row` on: logs that tell it only at the end of a transaction need this.
    pub fn set_commit_micros(&mut self, row: usize, commit_micros: i64) {
        self.commit_micros[row..].fill(commit_micros);
    }

    /// The number of ended rows.
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Whether no row has ended.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// About how many bytes are held.
    pub fn bytes(&self) -> usize {
        self.columns.iter().map(ColumnBuilder::bytes).sum::<usize>() + self.ops.len() * 13
    }

    /// The changes collected; the builder is empty again. An error if columns differ in length (a decoder's defect).
    pub fn finish(&mut self) -> Result<Rows> {
        let rows = self.ops.len();
        let absent = if self.absent.iter().all(Option::is_none) {
            Vec::new()
        } else {
            self.absent.iter_mut().map(|bits| bits.take().map(|b| pad(b, rows))).collect()
        };
        Ok(Rows {
            batch: finish_columns(&self.table, &mut self.columns)?,
            table: Arc::clone(&self.table),
            ops: std::mem::take(&mut self.ops),
            absent,
            commit_micros: std::mem::take(&mut self.commit_micros),
            order: std::mem::take(&mut self.order),
        })
    }
}

fn pad(mut bits: BooleanBufferBuilder, rows: usize) -> arrow_buffer::BooleanBuffer {
    bits.append_n(rows - bits.len(), false);
    bits.finish()
}

/// Makes a record batch of a table's columns; snapshots use it without the operations of [`RowsBuilder`].
pub fn finish_columns(table: &TableSchema, columns: &mut [ColumnBuilder]) -> Result<RecordBatch> {
    let arrays: Vec<ArrayRef> = columns.iter_mut().map(ColumnBuilder::finish).collect();
    RecordBatch::try_new(table.arrow(), arrays)
        .map_err(|e| Error::corrupt(format!("table {}: columns do not form a batch", table.name)).caused_by(e))
}

#[cfg(test)]
mod tests {
    use arrow_array::Array;

    use super::*;
    use crate::schema::{Column, TableName};

    fn table() -> Arc<TableSchema> {
        let column = |name: &str, logical| Column {
            name: name.into(),
            source_type: String::new(),
            logical,
            nullable: true,
            auto_increment: false,
            number: 0,
            policies: Default::default(),
        };
        Arc::new(TableSchema {
            name: TableName::new("s", "t"),
            version: 1,
            columns: vec![column("id", Logical::Int64), column("a", Logical::Text)],
            key: vec![0],
            indexes: vec![],
            foreign_keys: vec![],
            origin: None,
            pending: vec![],
            number: 0,
        })
    }

    #[test]
    fn absent_values_are_marked_by_row() {
        let mut b = RowsBuilder::new(table());
        for i in 0..4 {
            let ColumnBuilder::Int64(id) = &mut b.columns[0] else { unreachable!() };
            id.append_value(i);
            if i == 2 {
                b.append_absent(1);
            } else {
                b.columns[1].append_null();
            }
            b.end_row(Op::Update, 0, i as u32);
        }
        let rows = b.finish().unwrap();
        let seen: Vec<bool> = (0..4).map(|r| rows.is_absent(1, r)).collect();
        assert_eq!(seen, [false, false, true, false]);
        assert!(!rows.is_absent(0, 2));
        assert!(b.is_empty(), "the builder starts again");
        assert!(b.finish().unwrap().absent.is_empty());
    }

    #[test]
    fn every_builder_starts_again() {
        for logical in [Logical::Omitted, Logical::Text, Logical::Int64] {
            let mut b = ColumnBuilder::new(&logical);
            b.append_null();
            assert_eq!((b.finish().len(), b.len()), (1, 0), "{logical:?}");
        }
    }

    #[test]
    fn two_gib_of_text_is_an_error() {
        assert!(room(i32::MAX as usize, 0).is_ok());
        let e = room(i32::MAX as usize, 1).unwrap_err();
        assert!(e.hint_text().unwrap().contains("batch_bytes"));
    }
}
