//! A row's change as a statement that a person can read, and run in `psql`: what `crossfade repair` would do.
//!
//! Values are literals without a type, which take their column's. Dates and timestamps outside of what has an ordinary spelling
//! (before the year 1, beyond the calendar of the library) are written as a sum, which the server computes.

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Decimal128Type, Decimal256Type, DurationMicrosecondType, Float32Type, Float64Type, Int8Type, Int16Type,
    Int32Type, Int64Type, Time64MicrosecondType, TimestampMicrosecondType, UInt8Type, UInt16Type, UInt32Type,
    UInt64Type,
};
use arrow_array::{Array, ArrayRef, RecordBatch, temporal_conversions};
use crossfade_core::{Error, Logical, Op, Result, TableSchema};

use crate::quote::{self, ident, idents, literal};

/// See [`crossfade_core::Target::statement`].
pub fn statement(op: Op, table: &TableSchema, row: &RecordBatch, changed: &[usize]) -> Result<String> {
    let value = |i: usize| -> Result<String> {
        let (column, array) = (&table.columns[i], row.columns().get(i));
        let array = array.filter(|a| *a.data_type() == column.logical.arrow() && a.len() == 1);
        array.map(|a| value(&column.logical, a)).ok_or_else(|| {
            Error::corrupt(format!("table {}: a row without a value of column {}", table.name, column.name))
        })
    };
    let equal = |i: &usize| Ok(format!("{} = {}", ident(&table.columns[*i].name), value(*i)?));
    let key = || Ok::<_, Error>(table.key.iter().map(equal).collect::<Result<Vec<_>>>()?.join(" AND "));
    let name = quote::table(&table.name);
    Ok(match op {
        Op::Insert => {
            let values = (0..table.columns.len()).map(value).collect::<Result<Vec<_>>>()?.join(", ");
            format!("INSERT INTO {name} ({}) VALUES ({values});", idents(table.columns.iter().map(|c| c.name.as_str())))
        }
        Op::Update => {
            let set = changed.iter().map(equal).collect::<Result<Vec<_>>>()?.join(", ");
            format!("UPDATE {name} SET {set} WHERE {};", key()?)
        }
        Op::Delete => format!("DELETE FROM {name} WHERE {};", key()?),
    })
}

/// The only value of an array, as a literal.
pub fn value(logical: &Logical, array: &ArrayRef) -> String {
    if array.is_null(0) {
        return "NULL".into();
    }
    let quoted = |text: String| format!("'{text}'");
    match logical {
        Logical::Omitted => "NULL".into(), // no target has such a column
        Logical::Bool => array.as_boolean().value(0).to_string(),
        Logical::Int8 => array.as_primitive::<Int8Type>().value(0).to_string(),
        Logical::Int16 => array.as_primitive::<Int16Type>().value(0).to_string(),
        Logical::Int32 => array.as_primitive::<Int32Type>().value(0).to_string(),
        Logical::Int64 => array.as_primitive::<Int64Type>().value(0).to_string(),
        Logical::UInt8 => array.as_primitive::<UInt8Type>().value(0).to_string(),
        Logical::UInt16 => array.as_primitive::<UInt16Type>().value(0).to_string(),
        Logical::UInt32 => array.as_primitive::<UInt32Type>().value(0).to_string(),
        Logical::UInt64 => array.as_primitive::<UInt64Type>().value(0).to_string(),
        Logical::Float32 => quoted(array.as_primitive::<Float32Type>().value(0).to_string()),
        Logical::Float64 => quoted(array.as_primitive::<Float64Type>().value(0).to_string()),
        Logical::Decimal { precision, .. } if *precision <= 38 => {
            array.as_primitive::<Decimal128Type>().value_as_string(0)
        }
        Logical::Decimal { .. } => array.as_primitive::<Decimal256Type>().value_as_string(0),
        Logical::Numeric
        | Logical::Text
        | Logical::Enum { .. }
        | Logical::Set { .. }
        | Logical::Json
        | Logical::Bit { .. }
        | Logical::Postgres { .. }
        | Logical::Literal => literal(array.as_string::<i32>().value(0)),
        Logical::Bytes => literal(&format!("\\x{}", hex(array.as_binary::<i32>().value(0)))),
        Logical::Uuid => quoted(hex(array.as_fixed_size_binary().value(0))),
        Logical::Date => date(array.as_primitive::<Date32Type>().value(0)),
        Logical::Time => quoted(clock(array.as_primitive::<Time64MicrosecondType>().value(0))),
        Logical::Duration => quoted(clock(array.as_primitive::<DurationMicrosecondType>().value(0))),
        Logical::Timestamp => timestamp(array.as_primitive::<TimestampMicrosecondType>().value(0), "timestamp", ""),
        Logical::TimestampTz => {
            timestamp(array.as_primitive::<TimestampMicrosecondType>().value(0), "timestamptz", "+00")
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn date(days: i32) -> String {
    match days {
        i32::MAX => "'infinity'".into(),
        i32::MIN => "'-infinity'".into(),
        _ => match temporal_conversions::date32_to_datetime(days).map(|d| d.date().to_string()) {
            Some(text) if is_ordinary(&text) => format!("'{text}'"),
            _ => format!("(date '1970-01-01' + {days})"),
        },
    }
}

fn timestamp(micros: i64, kind: &str, zone: &str) -> String {
    match micros {
        i64::MAX => "'infinity'".into(),
        i64::MIN => "'-infinity'".into(),
        _ => match temporal_conversions::timestamp_us_to_datetime(micros).map(|t| t.to_string()) {
            Some(text) if is_ordinary(&text) => format!("'{text}{zone}'"),
            _ => format!("({kind} '1970-01-01 00:00:00{zone}' + interval '{micros} microseconds')"),
        },
    }
}

/// Whether the year has four digits and no sign, and is not 0.
fn is_ordinary(text: &str) -> bool {
    text.as_bytes().get(4) == Some(&b'-') && !text.starts_with(['-', '+']) && !text.starts_with("0000")
}

/// `[-]hours:minutes:seconds[.micros]`, of any number of hours.
fn clock(micros: i64) -> String {
    let sign = if micros < 0 { "-" } else { "" };
    let (seconds, rest) = (micros.unsigned_abs() / 1_000_000, micros.unsigned_abs() % 1_000_000);
    let rest = if rest == 0 { String::new() } else { format!(".{rest:06}") };
    format!("{sign}{:02}:{:02}:{:02}{rest}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_spelt_as_the_server_reads_them() {
        assert_eq!(date(19_782), "'2024-02-29'");
        assert_eq!(date(-800_000), "(date '1970-01-01' + -800000)");
        assert_eq!(date(i32::MIN), "'-infinity'");
        assert_eq!(timestamp(1_500_000, "timestamptz", "+00"), "'1970-01-01 00:00:01.500+00'");
        assert_eq!(
            timestamp(i64::MAX - 1, "timestamp", ""),
            format!("(timestamp '1970-01-01 00:00:00' + interval '{} microseconds')", i64::MAX - 1)
        );
        assert_eq!(clock(-3_020_399_000_001), "-838:59:59.000001");
        assert_eq!(clock(86_400_000_000), "24:00:00");
    }
}
