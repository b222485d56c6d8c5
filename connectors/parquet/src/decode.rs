//! Back from Parquet to the logical type, exactly: the inverse of [`crate::types::encode`].
//!
//! Fingerprints compare a source's rows with these, so a value must come back as the same Arrow value of the same type.
//! A value that does not (somebody else rewrote a file) is an error that names the column, never a NULL.

use std::sync::Arc;

use arrow_array::builder::{Decimal256Builder, FixedSizeBinaryBuilder, Time64MicrosecondBuilder};
use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::{Array, ArrayRef, PrimitiveArray, StringArray, UInt32Array, UInt64Array};
use arrow_buffer::i256;
use crossfade_core::{Column, Error, Logical, Result, TableName};

use crate::types::{DAY, narrow, stored};

/// A stored column as its logical type's Arrow array.
pub(crate) fn decode(table: &TableName, column: &Column, array: &ArrayRef) -> Result<ArrayRef> {
    let bad = |what: String| {
        Error::corrupt(format!("table {table}, column {}: {what}", column.name))
            .hint("a file of this table was changed by something else; restore it, or copy the table again with `crossfade snapshot TABLE`")
    };
    if *array.data_type() != stored(&column.logical) {
        return Err(bad(format!("a file holds {} where {} was written", array.data_type(), stored(&column.logical))));
    }
    let out_of_range = || bad(format!("a file holds a value that {:?} has not", column.logical));
    Ok(match &column.logical {
        Logical::UInt8 => Arc::new(narrow::<UInt8Type>(array.as_primitive()).ok_or_else(out_of_range)?),
        Logical::UInt16 => Arc::new(narrow::<UInt16Type>(array.as_primitive()).ok_or_else(out_of_range)?),
        Logical::UInt32 => {
            let back: Result<UInt32Array, ()> =
                array.as_primitive::<Int64Type>().try_unary(|v| u32::try_from(v).map_err(|_| ()));
            Arc::new(back.map_err(|()| out_of_range())?)
        }
        Logical::UInt64 => {
            let back: Result<UInt64Array, ()> =
                array.as_primitive::<Decimal128Type>().try_unary(|v| u64::try_from(v).map_err(|_| ()));
            Arc::new(back.map_err(|()| out_of_range())?)
        }
        Logical::Duration => Arc::new(array.as_primitive::<Int64Type>().reinterpret_cast::<DurationMicrosecondType>()),
        Logical::Decimal { precision, scale } if *precision > 38 => {
            wide_decimals(array.as_string(), *precision, *scale).ok_or_else(out_of_range)?
        }
        Logical::Uuid => uuids(array.as_string()).ok_or_else(out_of_range)?,
        Logical::Time => times(array.as_string()).ok_or_else(out_of_range)?,
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

fn wide_decimals(values: &StringArray, precision: u8, scale: u8) -> Option<ArrayRef> {
    let kind = Logical::Decimal { precision, scale }.arrow();
    let mut out = Decimal256Builder::with_capacity(values.len()).with_data_type(kind);
    for value in values {
        match value {
            Some(v) => out.append_value(unscaled(v, scale)?),
            None => out.append_null(),
        }
    }
    Some(Arc::new(out.finish()))
}

/// `-12.50` at scale 2 as -1250. `None` for anything that is not written with exactly this scale.
pub(crate) fn unscaled(text: &str, scale: u8) -> Option<i256> {
    let digits = match (text.split_once('.'), scale) {
        (None, 0) => text.to_owned(),
        (Some((whole, fraction)), 1..) if fraction.len() == usize::from(scale) => format!("{whole}{fraction}"),
        _ => return None,
    };
    i256::from_string(&digits)
}

fn uuids(values: &StringArray) -> Option<ArrayRef> {
    let mut out = FixedSizeBinaryBuilder::with_capacity(values.len(), 16);
    for value in values {
        match value {
            Some(v) => out.append_value(uuid(v)?).ok()?,
            None => out.append_null(),
        }
    }
    Some(Arc::new(out.finish()))
}

fn uuid(text: &str) -> Option<[u8; 16]> {
    let mut out = [0u8; 16];
    let mut nibbles = 0;
    for (i, c) in text.bytes().enumerate() {
        if matches!(i, 8 | 13 | 18 | 23) {
            if c != b'-' {
                return None;
            }
            continue;
        }
        let value = u8::try_from((c as char).to_digit(16)?).ok()?;
        let byte = out.get_mut(nibbles / 2)?;
        *byte = *byte << 4 | value;
        nibbles += 1;
    }
    (nibbles == 32).then_some(out)
}

fn times(values: &StringArray) -> Option<ArrayRef> {
    let mut out = Time64MicrosecondBuilder::with_capacity(values.len());
    for value in values {
        match value {
            Some(v) => out.append_value(time(v)?),
            None => out.append_null(),
        }
    }
    Some(Arc::new(out.finish()))
}

fn time(text: &str) -> Option<i64> {
    let b = text.as_bytes();
    if b.len() != 15 || b[2] != b':' || b[5] != b':' || b[8] != b'.' {
        return None;
    }
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = text.get(from..to)?;
        digits.bytes().all(|c| c.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let (h, m, s, micros) = (number(0, 2)?, number(3, 5)?, number(6, 8)?, number(9, 15)?);
    let t = (h * 3600 + m * 60 + s) * 1_000_000 + micros;
    (m < 60 && s < 60 && t <= DAY).then_some(t)
}

/// The integers of a column that is one of ours.
pub(crate) fn integers<'a>(array: &'a ArrayRef, name: &str) -> Result<&'a PrimitiveArray<Int64Type>> {
    array
        .as_primitive_opt::<Int64Type>()
        .filter(|a| a.null_count() == 0)
        .ok_or_else(|| Error::corrupt(format!("a file's column {name} does not hold the integers that were written")))
}
