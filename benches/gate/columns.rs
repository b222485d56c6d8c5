//! Shape A: the decoder appends straight into Arrow builders, and a batch is one `RecordBatch`.

use std::sync::Arc;

use arrow_array::builder::{
    ArrayBuilder, BinaryBuilder, Date32Builder, Decimal128Builder, Float64Builder, Int16Builder, Int64Builder,
    StringBuilder, TimestampMicrosecondBuilder,
};
use arrow_array::cast::AsArray;
use arrow_array::types::{Date32Type, Decimal128Type, Float64Type, Int16Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{
    ArrayAccessor, ArrayRef, BinaryArray, Date32Array, Decimal128Array, Float64Array, Int16Array, Int64Array,
    RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};

use crate::copy;
use crate::reader::{Malformed, Result, Sink};
use crate::table::Kind;

/// The Arrow schema of a table.
fn schema(columns: &[(&str, Kind)]) -> SchemaRef {
    let field = |&(name, kind): &(&str, Kind)| Field::new(name, data_type(kind), true);
    Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()))
}

fn data_type(kind: Kind) -> DataType {
    match kind {
        Kind::Int16 => DataType::Int16,
        Kind::Int64 => DataType::Int64,
        Kind::Float64 => DataType::Float64,
        Kind::Decimal { precision, scale } => DataType::Decimal128(precision, scale as i8),
        Kind::Text => DataType::Utf8,
        Kind::Bytes => DataType::Binary,
        Kind::Date => DataType::Date32,
        Kind::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
    }
}

/// The builder of one column.
enum Column {
    Int16(Int16Builder),
    Int64(Int64Builder),
    Float64(Float64Builder),
    Decimal(Decimal128Builder),
    Text(StringBuilder),
    Bytes(BinaryBuilder),
    Date(Date32Builder),
    Timestamp(TimestampMicrosecondBuilder),
}

impl Column {
    fn new(kind: Kind) -> Self {
        match kind {
            Kind::Int16 => Self::Int16(Int16Builder::new()),
            Kind::Int64 => Self::Int64(Int64Builder::new()),
            Kind::Float64 => Self::Float64(Float64Builder::new()),
            Kind::Decimal { .. } => Self::Decimal(Decimal128Builder::new().with_data_type(data_type(kind))),
            Kind::Text => Self::Text(StringBuilder::new()),
            Kind::Bytes => Self::Bytes(BinaryBuilder::new()),
            Kind::Date => Self::Date(Date32Builder::new()),
            Kind::Timestamp => Self::Timestamp(TimestampMicrosecondBuilder::new()),
        }
    }

    fn finish(&mut self) -> ArrayRef {
        let builder: &mut dyn ArrayBuilder = match self {
            Self::Int16(builder) => builder,
            Self::Int64(builder) => builder,
            Self::Float64(builder) => builder,
            Self::Decimal(builder) => builder,
            Self::Text(builder) => builder,
            Self::Bytes(builder) => builder,
            Self::Date(builder) => builder,
            Self::Timestamp(builder) => builder,
        };
        builder.finish()
    }
}

/// The builders of a table.
pub struct Columns {
    schema: SchemaRef,
    columns: Vec<Column>,
}

impl Columns {
    /// Empty builders that grow as they must: how many rows a batch will have is not known beforehand.
    pub fn new(columns: &[(&str, Kind)]) -> Self {
        Self { schema: schema(columns), columns: columns.iter().map(|&(_, kind)| Column::new(kind)).collect() }
    }

    /// The batch.
    pub fn finish(mut self) -> Result<RecordBatch> {
        let arrays = self.columns.iter_mut().map(Column::finish).collect();
        RecordBatch::try_new(self.schema, arrays).map_err(|_| Malformed("columns of unequal length"))
    }
}

const MISMATCH: Malformed = Malformed("value of another kind than its column");

impl Sink for Columns {
    fn begin(&mut self) {}

    fn null(&mut self, column: usize) -> Result<()> {
        match &mut self.columns[column] {
            Column::Int16(builder) => builder.append_null(),
            Column::Int64(builder) => builder.append_null(),
            Column::Float64(builder) => builder.append_null(),
            Column::Decimal(builder) => builder.append_null(),
            Column::Text(builder) => builder.append_null(),
            Column::Bytes(builder) => builder.append_null(),
            Column::Date(builder) => builder.append_null(),
            Column::Timestamp(builder) => builder.append_null(),
        }
        Ok(())
    }

    fn int(&mut self, column: usize, value: i64) -> Result<()> {
        match &mut self.columns[column] {
            Column::Int16(builder) => builder.append_value(i16::try_from(value).map_err(|_| MISMATCH)?),
            Column::Int64(builder) => builder.append_value(value),
            _ => return Err(MISMATCH),
        }
        Ok(())
    }

    fn float(&mut self, column: usize, value: f64) -> Result<()> {
        let Column::Float64(builder) = &mut self.columns[column] else { return Err(MISMATCH) };
        builder.append_value(value);
        Ok(())
    }

    fn decimal(&mut self, column: usize, unscaled: i128) -> Result<()> {
        let Column::Decimal(builder) = &mut self.columns[column] else { return Err(MISMATCH) };
        builder.append_value(unscaled);
        Ok(())
    }

    fn text(&mut self, column: usize, value: &str) -> Result<()> {
        let Column::Text(builder) = &mut self.columns[column] else { return Err(MISMATCH) };
        builder.append_value(value);
        Ok(())
    }

    fn bytes(&mut self, column: usize, value: &[u8]) -> Result<()> {
        let Column::Bytes(builder) = &mut self.columns[column] else { return Err(MISMATCH) };
        builder.append_value(value);
        Ok(())
    }

    fn date(&mut self, column: usize, days: i32) -> Result<()> {
        let Column::Date(builder) = &mut self.columns[column] else { return Err(MISMATCH) };
        builder.append_value(days);
        Ok(())
    }

    fn timestamp(&mut self, column: usize, micros: i64) -> Result<()> {
        let Column::Timestamp(builder) = &mut self.columns[column] else { return Err(MISMATCH) };
        builder.append_value(micros);
        Ok(())
    }
}

/// One column, its type resolved once for the batch and not once for each value.
enum View<'a> {
    Int16(&'a Int16Array),
    Int64(&'a Int64Array),
    Float64(&'a Float64Array),
    Decimal(&'a Decimal128Array, u8),
    Text(&'a StringArray),
    Bytes(&'a BinaryArray),
    Date(&'a Date32Array),
    Timestamp(&'a TimestampMicrosecondArray),
}

impl<'a> View<'a> {
    /// The array was built by [`Column::new`] for the same kind, so the downcast holds.
    fn new(kind: Kind, array: &'a ArrayRef) -> Self {
        match kind {
            Kind::Int16 => Self::Int16(array.as_primitive::<Int16Type>()),
            Kind::Int64 => Self::Int64(array.as_primitive::<Int64Type>()),
            Kind::Float64 => Self::Float64(array.as_primitive::<Float64Type>()),
            Kind::Decimal { scale, .. } => Self::Decimal(array.as_primitive::<Decimal128Type>(), scale),
            Kind::Text => Self::Text(array.as_string()),
            Kind::Bytes => Self::Bytes(array.as_binary()),
            Kind::Date => Self::Date(array.as_primitive::<Date32Type>()),
            Kind::Timestamp => Self::Timestamp(array.as_primitive::<TimestampMicrosecondType>()),
        }
    }

    fn copy(&self, row: usize, out: &mut Vec<u8>) {
        match self {
            Self::Int16(array) => field(*array, row, copy::int16, out),
            Self::Int64(array) => field(*array, row, copy::int64, out),
            Self::Float64(array) => field(*array, row, copy::float, out),
            Self::Decimal(array, scale) => field(*array, row, |value, out| copy::numeric(value, *scale, out), out),
            Self::Text(array) => field(*array, row, |value, out| copy::bytes(value.as_bytes(), out), out),
            Self::Bytes(array) => field(*array, row, copy::bytes, out),
            Self::Date(array) => field(*array, row, copy::date, out),
            Self::Timestamp(array) => field(*array, row, copy::timestamp, out),
        }
    }
}

/// One value, or NULL.
fn field<A: ArrayAccessor>(array: A, row: usize, encode: impl FnOnce(A::Item, &mut Vec<u8>), out: &mut Vec<u8>) {
    if array.is_valid(row) { encode(array.value(row), out) } else { copy::null(out) }
}

/// The batch as one binary COPY.
pub fn to_copy(batch: &RecordBatch, columns: &[(&str, Kind)], out: &mut Vec<u8>) {
    let views: Vec<_> = batch.columns().iter().zip(columns).map(|(array, &(_, kind))| View::new(kind, array)).collect();
    copy::header(out);
    for row in 0..batch.num_rows() {
        copy::tuple(views.len(), out);
        views.iter().for_each(|view| view.copy(row, out));
    }
    copy::trailer(out);
}
