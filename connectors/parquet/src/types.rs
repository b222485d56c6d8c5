//! How values stand in Parquet: each logical type's column type, and the way there.
//!
//! Readers decide the types, not Arrow. Athena (Trino) never looks at an integer's signedness, so an unsigned column
//! reads wrong past the signed maximum, without an error; and it shows a Parquet UUID declared as string as 16 raw bytes.
//! pyarrow, DuckDB and Polars read those same files right, which is why tests assert the Parquet schema itself.
//!
//! | logical | Parquet | Athena |
//! |---|---|---|
//! | bool | BOOLEAN | boolean |
//! | int8, int16 | INT32 (INT_8, INT_16) | tinyint, smallint |
//! | int32, int64 | INT32, INT64 | int, bigint |
//! | uint8, uint16 | INT32 | int |
//! | uint32 | INT64 | bigint |
//! | uint64 | DECIMAL(20,0) | decimal(20,0) |
//! | float32, float64 | FLOAT, DOUBLE | float, double |
//! | decimal up to 38 digits | DECIMAL(p,s) | decimal(p,s) |
//! | decimal of 39 to 76 digits, numeric | STRING, plain digits | string |
//! | text, enum, set, json, bit, literal | STRING | string |
//! | bytes | BYTE_ARRAY | binary |
//! | uuid | STRING, `8-4-4-4-12` in lower case | string |
//! | date | DATE | date |
//! | time | STRING, `HH:MM:SS.ffffff` (Athena reads no TIME) | string |
//! | duration | INT64, microseconds | bigint |
//! | timestamp | TIMESTAMP(MICROS), not adjusted to UTC | timestamp |
//! | timestamptz | TIMESTAMP(MICROS), adjusted to UTC | timestamp, in UTC |
//!
//! Every value stands in the file exactly. What a reader makes of extremes is its own: Athena shows milliseconds of a
//! timestamp's microseconds, and infinite dates and timestamps (the smallest and largest values of the type) lie beyond
//! what it can show.

use std::fmt::Write as _;
use std::sync::Arc;

use arrow_array::builder::StringBuilder;
use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::{Array, ArrayRef, Decimal128Array, Int32Array, Int64Array, PrimitiveArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use crossfade_core::{Column, Error, Logical, Result, TableSchema};

/// Columns in front of a table's own.
pub(crate) const META: [&str; 4] = ["_op", "_commit_time", "_seq", "_ordinal"];

/// The Arrow type that is written, from which the Parquet type follows.
pub fn stored(logical: &Logical) -> DataType {
    match logical {
        Logical::Bool
        | Logical::Int8
        | Logical::Int16
        | Logical::Int32
        | Logical::Int64
        | Logical::Float32
        | Logical::Float64
        | Logical::Bytes
        | Logical::Date
        | Logical::Timestamp
        | Logical::TimestampTz => logical.arrow(),
        Logical::UInt8 | Logical::UInt16 => DataType::Int32,
        Logical::UInt32 | Logical::Duration => DataType::Int64,
        Logical::UInt64 => DataType::Decimal128(20, 0),
        Logical::Decimal { precision, .. } if *precision <= 38 => logical.arrow(),
        Logical::Decimal { .. }
        | Logical::Numeric
        | Logical::Text
        | Logical::Enum { .. }
        | Logical::Set { .. }
        | Logical::Json
        | Logical::Bit { .. }
        | Logical::Uuid
        | Logical::Time
        | Logical::Postgres { .. }
        | Logical::Literal
        // No target has such a column.
        | Logical::Omitted => DataType::Utf8,
    }
}

/// The Athena (Hive) type of a column.
pub fn athena(logical: &Logical) -> String {
    match logical {
        Logical::Bool => "boolean".into(),
        Logical::Int8 => "tinyint".into(),
        Logical::Int16 => "smallint".into(),
        Logical::Int32 | Logical::UInt8 | Logical::UInt16 => "int".into(),
        Logical::Int64 | Logical::UInt32 | Logical::Duration => "bigint".into(),
        Logical::UInt64 => "decimal(20,0)".into(),
        Logical::Float32 => "float".into(),
        Logical::Float64 => "double".into(),
        Logical::Decimal { precision, scale } if *precision <= 38 => format!("decimal({precision},{scale})"),
        Logical::Bytes => "binary".into(),
        Logical::Date => "date".into(),
        Logical::Timestamp | Logical::TimestampTz => "timestamp".into(),
        Logical::Decimal { .. }
        | Logical::Numeric
        | Logical::Text
        | Logical::Enum { .. }
        | Logical::Set { .. }
        | Logical::Json
        | Logical::Bit { .. }
        | Logical::Uuid
        | Logical::Time
        | Logical::Postgres { .. }
        | Logical::Literal
        | Logical::Omitted => "string".into(),
    }
}

/// The Arrow schema of a table's files: the columns of [`META`], then the table's own.
pub(crate) fn file_schema(table: &TableSchema) -> SchemaRef {
    let mut fields = vec![
        Field::new(META[0], DataType::Utf8, false),
        Field::new(META[1], DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true),
        Field::new(META[2], DataType::Int64, false),
        Field::new(META[3], DataType::Int64, false),
    ];
    fields.extend(table.columns.iter().map(|c| Field::new(&c.name, stored(&c.logical), true)));
    Arc::new(Schema::new(fields))
}

/// Turns a column into the form in which it is stored.
pub(crate) fn encode(table: &TableSchema, column: &Column, array: &ArrayRef) -> Result<ArrayRef> {
    let wanted = column.logical.arrow();
    if *array.data_type() != wanted {
        return Err(Error::corrupt(format!(
            "table {}, column {}: values came as {}, its type {:?} has {wanted}",
            table.name,
            column.name,
            array.data_type(),
            column.logical
        )));
    }
    Ok(match &column.logical {
        Logical::UInt8 => Arc::new(array.as_primitive::<UInt8Type>().unary::<_, Int32Type>(i32::from)),
        Logical::UInt16 => Arc::new(array.as_primitive::<UInt16Type>().unary::<_, Int32Type>(i32::from)),
        Logical::UInt32 => Arc::new(array.as_primitive::<UInt32Type>().unary::<_, Int64Type>(i64::from)),
        Logical::UInt64 => {
            let wide: Decimal128Array = array.as_primitive::<UInt64Type>().unary(i128::from);
            Arc::new(wide.with_data_type(DataType::Decimal128(20, 0)))
        }
        Logical::Duration => Arc::new(array.as_primitive::<DurationMicrosecondType>().reinterpret_cast::<Int64Type>()),
        Logical::Decimal { precision, .. } if *precision > 38 => {
            let values = array.as_primitive::<Decimal256Type>();
            text(array, |row, out| out.push_str(&values.value_as_string(row)))
        }
        Logical::Uuid => {
            let values = array.as_fixed_size_binary();
            text(array, |row, out| write_uuid(values.value(row), out))
        }
        Logical::Time => times(table, column, array.as_primitive())?,
        Logical::Bool
        | Logical::Int8
        | Logical::Int16
        | Logical::Int32
        | Logical::Int64
        | Logical::Float32
        | Logical::Float64
        | Logical::Bytes
        | Logical::Date
        | Logical::Timestamp
        | Logical::TimestampTz
        | Logical::Decimal { .. }
        | Logical::Numeric
        | Logical::Text
        | Logical::Enum { .. }
        | Logical::Set { .. }
        | Logical::Json
        | Logical::Bit { .. }
        | Logical::Postgres { .. }
        | Logical::Literal
        | Logical::Omitted => Arc::clone(array),
    })
}

fn text(array: &ArrayRef, mut write: impl FnMut(usize, &mut String)) -> ArrayRef {
    let mut out = StringBuilder::with_capacity(array.len(), array.len() * 36);
    let mut value = String::new();
    for row in 0..array.len() {
        if array.is_null(row) {
            out.append_null();
        } else {
            value.clear();
            write(row, &mut value);
            out.append_value(&value);
        }
    }
    Arc::new(out.finish())
}

fn write_uuid(bytes: &[u8], out: &mut String) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    for (i, byte) in bytes.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            out.push('-');
        }
        out.push(HEX[usize::from(byte >> 4)] as char);
        out.push(HEX[usize::from(byte & 15)] as char);
    }
}

/// Microseconds of a day, 24:00:00 included.
pub(crate) const DAY: i64 = 86_400_000_000;

fn times(table: &TableSchema, column: &Column, values: &PrimitiveArray<Time64MicrosecondType>) -> Result<ArrayRef> {
    let mut out = StringBuilder::with_capacity(values.len(), values.len() * 15);
    let mut value = String::new();
    for time in values {
        let Some(t) = time else {
            out.append_null();
            continue;
        };
        if !(0..=DAY).contains(&t) {
            return Err(Error::data(&table.name, format!("{t} microseconds are no time of day"))
                .column(&column.name)
                .hint("map the column to text, or to a duration"));
        }
        value.clear();
        let (seconds, micros) = (t / 1_000_000, t % 1_000_000);
        let (h, m, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        write!(value, "{h:02}:{m:02}:{s:02}.{micros:06}")
            .map_err(|e| Error::corrupt("writing a time of day").caused_by(e))?;
        out.append_value(&value);
    }
    Ok(Arc::new(out.finish()))
}

/// The columns in front: what happened, when, in which commit, and in which place within it.
pub(crate) struct Meta {
    pub(crate) op: StringBuilder,
    pub(crate) commit_time: Vec<Option<i64>>,
    pub(crate) seq: i64,
    pub(crate) ordinal: Vec<i64>,
}

impl Meta {
    pub(crate) fn finish(mut self) -> [ArrayRef; 4] {
        let rows = self.ordinal.len();
        let times = PrimitiveArray::<TimestampMicrosecondType>::from(self.commit_time).with_timezone("UTC");
        [
            Arc::new(self.op.finish()),
            Arc::new(times),
            Arc::new(Int64Array::from_value(self.seq, rows)),
            Arc::new(Int64Array::from(self.ordinal)),
        ]
    }
}

/// Whether a table's column bears a name that ours have. Athena and DuckDB compare names without case.
pub(crate) fn reserved(column: &str) -> bool {
    META.iter().any(|m| m.eq_ignore_ascii_case(column))
}

/// Integers as they are read back from a column of type INT32.
pub(crate) fn narrow<T: ArrowPrimitiveType>(values: &Int32Array) -> Option<PrimitiveArray<T>>
where
    T::Native: TryFrom<i32>,
{
    values.try_unary(|v| T::Native::try_from(v).map_err(|_| ())).ok()
}
