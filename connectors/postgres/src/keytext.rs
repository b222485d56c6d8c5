//! A row's key as people read it, for errors: `a=1, b=x`.

use std::fmt::Write as _;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Decimal128Type, Decimal256Type, DurationMicrosecondType, Float32Type, Float64Type, Int8Type, Int16Type,
    Int32Type, Int64Type, Time64MicrosecondType, TimestampMicrosecondType, UInt8Type, UInt16Type, UInt32Type,
    UInt64Type,
};
use arrow_array::{Array, ArrayRef, RecordBatch};
use crossfade_core::{Logical, TableSchema};

/// The key of a row of a batch that has the table's shape. Only errors ask for it, so it may be slow.
pub fn key_text(table: &TableSchema, batch: &RecordBatch, row: usize) -> String {
    let mut text = String::new();
    for (place, &i) in table.key.iter().enumerate() {
        let column = &table.columns[i];
        let comma = if place > 0 { ", " } else { "" };
        let value = batch.columns().get(i).map_or_else(|| "?".to_owned(), |a| value_text(&column.logical, a, row));
        write!(text, "{comma}{}={value}", column.name).expect("a String takes any text");
    }
    text
}

fn value_text(logical: &Logical, array: &ArrayRef, row: usize) -> String {
    if *array.data_type() != logical.arrow() || row >= array.len() {
        return "?".into();
    }
    if array.is_null(row) {
        return "NULL".into();
    }
    match logical {
        Logical::Bool => array.as_boolean().value(row).to_string(),
        Logical::Int8 => array.as_primitive::<Int8Type>().value(row).to_string(),
        Logical::Int16 => array.as_primitive::<Int16Type>().value(row).to_string(),
        Logical::Int32 => array.as_primitive::<Int32Type>().value(row).to_string(),
        Logical::Int64 => array.as_primitive::<Int64Type>().value(row).to_string(),
        Logical::UInt8 => array.as_primitive::<UInt8Type>().value(row).to_string(),
        Logical::UInt16 => array.as_primitive::<UInt16Type>().value(row).to_string(),
        Logical::UInt32 => array.as_primitive::<UInt32Type>().value(row).to_string(),
        Logical::UInt64 => array.as_primitive::<UInt64Type>().value(row).to_string(),
        Logical::Float32 => array.as_primitive::<Float32Type>().value(row).to_string(),
        Logical::Float64 => array.as_primitive::<Float64Type>().value(row).to_string(),
        Logical::Decimal { precision, .. } if *precision <= 38 => {
            array.as_primitive::<Decimal128Type>().value_as_string(row)
        }
        Logical::Decimal { .. } => array.as_primitive::<Decimal256Type>().value_as_string(row),
        Logical::Numeric
        | Logical::Text
        | Logical::Enum { .. }
        | Logical::Set { .. }
        | Logical::Json
        | Logical::Bit { .. }
        | Logical::Postgres { .. }
        | Logical::Literal => array.as_string::<i32>().value(row).to_owned(),
        Logical::Omitted => "?".to_owned(),
        Logical::Bytes => hex(array.as_binary::<i32>().value(row)),
        Logical::Uuid => hex(array.as_fixed_size_binary().value(row)),
        Logical::Date => format!("{} days", array.as_primitive::<Date32Type>().value(row)),
        Logical::Time => format!("{} us", array.as_primitive::<Time64MicrosecondType>().value(row)),
        Logical::Duration => format!("{} us", array.as_primitive::<DurationMicrosecondType>().value(row)),
        Logical::Timestamp | Logical::TimestampTz => {
            format!("{} us", array.as_primitive::<TimestampMicrosecondType>().value(row))
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold("0x".to_owned(), |mut text, b| {
        write!(text, "{b:02x}").expect("a String takes any text");
        text
    })
}
