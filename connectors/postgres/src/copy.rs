//! Arrow to Postgres' binary forms: rows for `COPY .. FROM STDIN (FORMAT binary)`, columns for array parameters.
//!
//! ```text
//! RecordBatch ── Encoders::new ── one Encoder per column, chosen once ── row(i) ─▶ 16-bit count, then per value
//!                                                     └── array(j, rows) ─▶ array header, then per value
//! per value: 32-bit length (-1 is NULL), then the bytes that the type's receive function reads
//! ```
//!
//! A value has the same form in a row of COPY and in an array, so both share one encoder. The row loop allocates nothing:
//! it appends to a buffer that the caller sends off whenever it has passed [`CHUNK`] bytes (small pieces cost a third of
//! the throughput).
//!
//! Invariant: what Postgres cannot hold exactly (NUL in text, dates out of its range) is an error before the value's
//! bytes are in the buffer; the caller then gives up the COPY, so nothing of it is kept.

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Decimal128Type, Decimal256Type, DurationMicrosecondType, Float32Type, Float64Type, Int8Type, Int16Type,
    Int32Type, Int64Type, Time64MicrosecondType, TimestampMicrosecondType, UInt8Type, UInt16Type, UInt32Type,
    UInt64Type,
};
use arrow_array::{
    Array, ArrayRef, BinaryArray, BooleanArray, FixedSizeBinaryArray, PrimitiveArray, RecordBatch, StringArray,
};
use arrow_buffer::NullBuffer;
use crossfade_core::policy::way_out;
use crossfade_core::{Error, Logical, Policy, Result, TableSchema};

use crate::decode::CORRECT;
use crate::keytext::key_text;
use crate::numeric::{self, NotNumeric};
use crate::types::{self, PgType};

/// Send the buffer off when it holds this much. Pieces of 64 to 256 KiB reached the same speed.
pub const CHUNK: usize = 128 * 1024;

/// What starts a binary COPY: signature, no flags, no extension (documentation of COPY, "Binary Format").
pub const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// What ends it.
pub const TRAILER: &[u8] = &[0xff, 0xff];

/// Days from 1970-01-01 to 2000-01-01, where Postgres counts from.
const EPOCH_DAYS: i32 = 10_957;
/// The same in microseconds.
const EPOCH_MICROS: i64 = EPOCH_DAYS as i64 * 86_400_000_000;
/// Bounds from the server's `datatype/timestamp.h`, relative to 2000-01-01; the upper ones are exclusive.
const MIN_DATE: i32 = -2_451_545;
const END_DATE: i32 = 2_147_483_494 - 2_451_545;
const MIN_TIMESTAMP: i64 = -211_813_488_000_000_000;
const END_TIMESTAMP: i64 = 9_223_371_331_200_000_000;

/// Encodes chosen columns of one batch.
#[derive(Debug)]
pub struct Encoders<'a> {
    table: &'a TableSchema,
    batch: &'a RecordBatch,
    /// Ordinals of the columns, in the order in which they are written.
    ordinals: &'a [usize],
    columns: Vec<Encoder<'a>>,
    /// A constant smallint behind the columns of each row: which group a staged row belongs to.
    tag: Option<i16>,
}

impl<'a> Encoders<'a> {
    /// Chooses an encoder for each of these columns. An error if the batch is not of the table's shape.
    pub fn new(table: &'a TableSchema, batch: &'a RecordBatch, ordinals: &'a [usize]) -> Result<Self> {
        let columns: Result<Vec<_>> = ordinals
            .iter()
            .map(|&i| {
                let (column, array) = (&table.columns[i], batch.columns().get(i));
                array.and_then(|array| Encoder::new(&column.logical, array)).ok_or_else(|| {
                    let (name, found) = (&column.name, array.map(|a| a.data_type()));
                    let table = &table.name;
                    Error::corrupt(format!("table {table}: column {name} came as {found:?}, not {:?}", column.logical))
                })
            })
            .collect();
        Ok(Encoders { table, batch, ordinals, columns: columns?, tag: None })
    }

    /// With a constant smallint as the last column of each row.
    #[must_use]
    pub fn tagged(self, tag: i16) -> Self {
        Encoders { tag: Some(tag), ..self }
    }

    /// The table.
    pub fn table(&self) -> &'a TableSchema {
        self.table
    }

    /// The types of the chosen columns.
    pub fn types(&self) -> Vec<PgType> {
        let tag = self.tag.map(|_| PgType::SmallInt);
        self.ordinals.iter().map(|&i| PgType::of(&self.table.columns[i].logical)).chain(tag).collect()
    }

    /// Appends one row of a COPY.
    pub fn row(&self, row: usize, out: &mut Vec<u8>) -> Result<()> {
        out.extend_from_slice(&((self.columns.len() + usize::from(self.tag.is_some())) as i16).to_be_bytes());
        for (at, column) in self.columns.iter().enumerate() {
            if let Err(refusal) = column.put(row, out) {
                return Err(self.refuse(at, row, refusal));
            }
        }
        if let Some(tag) = self.tag {
            fixed(out, tag.to_be_bytes());
        }
        Ok(())
    }

    /// A one-dimensional array of the `at`-th chosen column's values in these rows, as `array_recv` in the server's
    /// `utils/adt/arrayfuncs.c` reads it; `None` if it would be longer than `limit` bytes.
    pub fn array(&self, at: usize, rows: &[usize], limit: usize) -> Result<Option<Vec<u8>>> {
        let mut out = Vec::with_capacity(20 + rows.len() * 12);
        let element = types::oid(&self.table.columns[self.ordinals[at]].logical);
        for word in [1, 1, element as i32, rows.len() as i32, 1] {
            out.extend_from_slice(&word.to_be_bytes());
        }
        for &row in rows {
            self.columns[at].put(row, &mut out).map_err(|refusal| self.refuse(at, row, refusal))?;
            if out.len() > limit {
                return Ok(None);
            }
        }
        Ok(Some(out))
    }

    #[cold]
    fn refuse(&self, at: usize, row: usize, refusal: Refusal) -> Error {
        let (message, hint) = refusal.explain();
        let policy = match refusal {
            Refusal::Nul => way_out(Policy::NulByte, self.table, self.ordinals[at]),
            Refusal::Date(_)
            | Refusal::Timestamp(_)
            | Refusal::Time(_)
            | Refusal::Bits { .. }
            | Refusal::Numeric(_) => None,
        };
        let hint = policy.map_or_else(|| hint.to_owned(), |policy| format!("{hint}; or {policy}"));
        Error::data(&self.table.name, message)
            .column(&self.table.columns[self.ordinals[at]].name)
            .key(key_text(self.table, self.batch, row))
            .hint(hint)
    }
}

/// Why Postgres cannot hold a value.
#[derive(Debug, Clone, Copy)]
enum Refusal {
    Nul,
    Date(i32),
    Timestamp(i64),
    Time(i64),
    Bits { len: u32 },
    Numeric(NotNumeric),
}

impl Refusal {
    fn explain(self) -> (String, &'static str) {
        match self {
            Refusal::Nul => (
                "the text holds a NUL character, which Postgres' text cannot".into(),
                "remove it at the source (UPDATE .. SET col = REPLACE(col, CHAR(0), '')), then copy the table anew with \
                 `crossfade snapshot TABLE`, as the log still holds the value; or exclude the table",
            ),
            Refusal::Date(days) => (
                format!("the date {days} days from 1970-01-01 is outside of Postgres' range (4713 BC to 5874897 AD)"),
                CORRECT,
            ),
            Refusal::Timestamp(us) => (
                format!(
                    "the time {us} microseconds from 1970-01-01 is outside of Postgres' range (4713 BC to 294276 AD)"
                ),
                CORRECT,
            ),
            Refusal::Time(us) => {
                (format!("the time of day {us} microseconds is not between 00:00:00 and 24:00:00"), CORRECT)
            }
            Refusal::Bits { len } => {
                (format!("the value is not {len} bits of 0 and 1"), "report this as a defect of the source's connector")
            }
            Refusal::Numeric(NotNumeric::Syntax) => ("the value is not a decimal number".into(), CORRECT),
            Refusal::Numeric(NotNumeric::TooLong) => (
                "the number has more digits than a Postgres numeric (131072 before, 16383 after the point)".into(),
                CORRECT,
            ),
        }
    }
}

/// How a column's values are written.
#[derive(Debug)]
struct Encoder<'a> {
    nulls: Option<&'a NullBuffer>,
    values: Values<'a>,
}

/// One variant per wire form and Arrow array.
#[derive(Debug)]
enum Values<'a> {
    Bool(&'a BooleanArray),
    /// smallint
    I8(&'a [i8]),
    U8(&'a [u8]),
    I16(&'a [i16]),
    /// integer
    U16(&'a [u16]),
    I32(&'a [i32]),
    /// bigint
    U32(&'a [u32]),
    I64(&'a [i64]),
    /// numeric
    U64(&'a [u64]),
    F32(&'a [f32]),
    F64(&'a [f64]),
    Decimal128(&'a [i128], u8),
    Decimal256(&'a [arrow_buffer::i256], u8),
    Numeric(&'a StringArray),
    /// text, json
    Text(&'a StringArray),
    /// text with a NUL somewhere in the batch: each value is looked at.
    SuspectText(&'a StringArray),
    Bytes(&'a BinaryArray),
    Bit(&'a StringArray, u32),
    Uuid(&'a FixedSizeBinaryArray),
    Date(&'a [i32]),
    Time(&'a [i64]),
    /// interval
    Duration(&'a [i64]),
    /// timestamp and timestamptz
    Timestamp(&'a [i64]),
}

impl<'a> Encoder<'a> {
    /// `None` if the array is not of the logical type's Arrow form.
    fn new(logical: &Logical, array: &'a ArrayRef) -> Option<Self> {
        if *array.data_type() != logical.arrow() {
            return None;
        }
        let values = match logical {
            Logical::Bool => Values::Bool(array.as_boolean()),
            Logical::Int8 => Values::I8(array.as_primitive::<Int8Type>().values()),
            Logical::Int16 => Values::I16(array.as_primitive::<Int16Type>().values()),
            Logical::Int32 => Values::I32(array.as_primitive::<Int32Type>().values()),
            Logical::Int64 => Values::I64(array.as_primitive::<Int64Type>().values()),
            Logical::UInt8 => Values::U8(array.as_primitive::<UInt8Type>().values()),
            Logical::UInt16 => Values::U16(array.as_primitive::<UInt16Type>().values()),
            Logical::UInt32 => Values::U32(array.as_primitive::<UInt32Type>().values()),
            Logical::UInt64 => Values::U64(array.as_primitive::<UInt64Type>().values()),
            Logical::Float32 => Values::F32(array.as_primitive::<Float32Type>().values()),
            Logical::Float64 => Values::F64(array.as_primitive::<Float64Type>().values()),
            Logical::Decimal { precision, scale } if *precision <= 38 => {
                Values::Decimal128(array.as_primitive::<Decimal128Type>().values(), *scale)
            }
            Logical::Decimal { scale, .. } => {
                Values::Decimal256(array.as_primitive::<Decimal256Type>().values(), *scale)
            }
            Logical::Numeric => Values::Numeric(array.as_string()),
            Logical::Text
            | Logical::Enum { .. }
            | Logical::Set { .. }
            | Logical::Json
            | Logical::Postgres { .. }
            | Logical::Literal => text(array.as_string()),
            // No target has such a column.
            Logical::Omitted => return None,
            Logical::Bytes => Values::Bytes(array.as_binary()),
            Logical::Bit { len } => Values::Bit(array.as_string(), *len),
            Logical::Uuid => Values::Uuid(array.as_fixed_size_binary()),
            Logical::Date => Values::Date(array.as_primitive::<Date32Type>().values()),
            Logical::Time => Values::Time(array.as_primitive::<Time64MicrosecondType>().values()),
            Logical::Duration => Values::Duration(array.as_primitive::<DurationMicrosecondType>().values()),
            Logical::Timestamp | Logical::TimestampTz => {
                let array: &PrimitiveArray<TimestampMicrosecondType> = array.as_primitive();
                Values::Timestamp(array.values())
            }
        };
        Some(Encoder { nulls: array.nulls(), values })
    }

    /// Appends length and value.
    #[inline]
    fn put(&self, row: usize, out: &mut Vec<u8>) -> Result<(), Refusal> {
        if self.nulls.is_some_and(|n| n.is_null(row)) {
            out.extend_from_slice(&(-1i32).to_be_bytes());
            return Ok(());
        }
        match &self.values {
            Values::Bool(a) => fixed(out, [u8::from(a.value(row))]),
            Values::I8(v) => fixed(out, i16::from(v[row]).to_be_bytes()),
            Values::U8(v) => fixed(out, i16::from(v[row]).to_be_bytes()),
            Values::I16(v) => fixed(out, v[row].to_be_bytes()),
            Values::U16(v) => fixed(out, i32::from(v[row]).to_be_bytes()),
            Values::I32(v) => fixed(out, v[row].to_be_bytes()),
            Values::U32(v) => fixed(out, i64::from(v[row]).to_be_bytes()),
            Values::I64(v) => fixed(out, v[row].to_be_bytes()),
            Values::U64(v) => measured(out, |out| numeric::put_i128(out, v[row].into(), 0)),
            Values::F32(v) => fixed(out, v[row].to_bits().to_be_bytes()),
            Values::F64(v) => fixed(out, v[row].to_bits().to_be_bytes()),
            Values::Decimal128(v, scale) => measured(out, |out| numeric::put_i128(out, v[row], *scale)),
            Values::Decimal256(v, scale) => measured(out, |out| numeric::put_i256(out, v[row], *scale)),
            Values::Numeric(a) => {
                let mut result = Ok(());
                measured(out, |out| result = numeric::put_text(out, a.value(row)));
                return result.map_err(Refusal::Numeric);
            }
            Values::Text(a) => bytes(out, a.value(row).as_bytes()),
            Values::SuspectText(a) => {
                let value = a.value(row).as_bytes();
                if value.contains(&0) {
                    return Err(Refusal::Nul);
                }
                bytes(out, value);
            }
            Values::Bytes(a) => bytes(out, a.value(row)),
            Values::Bit(a, len) => return put_bits(out, a.value(row).as_bytes(), *len),
            Values::Uuid(a) => bytes(out, a.value(row)),
            Values::Date(v) => fixed(out, date(v[row])?.to_be_bytes()),
            Values::Time(v) => match v[row] {
                us @ 0..=86_400_000_000 => fixed(out, us.to_be_bytes()),
                us => return Err(Refusal::Time(us)),
            },
            Values::Duration(v) => {
                // microseconds, days, months; the latter two stay zero so that the server does not normalise
                let mut interval = [0; 16];
                interval[..8].copy_from_slice(&v[row].to_be_bytes());
                fixed(out, interval);
            }
            Values::Timestamp(v) => fixed(out, timestamp(v[row])?.to_be_bytes()),
        }
        Ok(())
    }
}

/// Looks for NUL over the whole column at once, so that rows need not be looked at.
fn text(array: &StringArray) -> Values<'_> {
    let offsets = array.value_offsets();
    let (from, to) = (offsets.first().copied().unwrap_or(0), offsets.last().copied().unwrap_or(0));
    // Offsets are non-negative and within the values: Arrow checked that when the array was made.
    match array.value_data()[from as usize..to as usize].contains(&0) {
        false => Values::Text(array),
        true => Values::SuspectText(array),
    }
}

#[inline]
fn fixed<const N: usize>(out: &mut Vec<u8>, value: [u8; N]) {
    out.extend_from_slice(&(N as i32).to_be_bytes());
    out.extend_from_slice(&value);
}

/// The length fits: an Arrow column holds at most 2 GiB.
#[inline]
fn bytes(out: &mut Vec<u8>, value: &[u8]) {
    out.extend_from_slice(&(value.len() as i32).to_be_bytes());
    out.extend_from_slice(value);
}

/// Writes a value whose length shows only afterwards.
#[inline]
fn measured(out: &mut Vec<u8>, put: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    put(out);
    let len = (out.len() - start - 4) as i32;
    out[start..start + 4].copy_from_slice(&len.to_be_bytes());
}

fn put_bits(out: &mut Vec<u8>, digits: &[u8], len: u32) -> Result<(), Refusal> {
    if digits.len() != len as usize || !digits.iter().all(|d| matches!(d, b'0' | b'1')) {
        return Err(Refusal::Bits { len });
    }
    measured(out, |out| {
        out.extend_from_slice(&(len as i32).to_be_bytes());
        out.extend(digits.chunks(8).map(|octet| {
            let filled = octet.iter().fold(0u8, |byte, d| byte << 1 | (d - b'0'));
            filled << (8 - octet.len())
        }));
    });
    Ok(())
}

fn date(days: i32) -> Result<i32, Refusal> {
    // Infinity and -infinity, there as here; counted from another day they would be a date.
    if matches!(days, i32::MAX | i32::MIN) {
        return Ok(days);
    }
    let moved = days.checked_sub(EPOCH_DAYS).ok_or(Refusal::Date(days))?;
    if (MIN_DATE..END_DATE).contains(&moved) { Ok(moved) } else { Err(Refusal::Date(days)) }
}

fn timestamp(micros: i64) -> Result<i64, Refusal> {
    if matches!(micros, i64::MAX | i64::MIN) {
        return Ok(micros);
    }
    let moved = micros.checked_sub(EPOCH_MICROS).ok_or(Refusal::Timestamp(micros))?;
    if (MIN_TIMESTAMP..END_TIMESTAMP).contains(&moved) { Ok(moved) } else { Err(Refusal::Timestamp(micros)) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{Date32Array, Int64Array, Time64MicrosecondArray, TimestampMicrosecondArray};
    use crossfade_core::{Column, TableName};

    use super::*;

    /// Encodes one column of one row; the key is `id`.
    fn encode(logical: Logical, array: ArrayRef) -> Result<Vec<u8>> {
        let column = |name: &str, logical| Column {
            name: name.into(),
            source_type: "x".into(),
            logical,
            nullable: true,
            auto_increment: false,
            number: 0,
            policies: Default::default(),
        };
        let table = TableSchema {
            name: TableName::new("s", "t"),
            version: 1,
            columns: vec![column("id", Logical::Int64), column("v", logical)],
            key: vec![0],
            indexes: vec![],
            foreign_keys: vec![],
            origin: None,
            pending: vec![],
            number: 0,
        };
        let batch = RecordBatch::try_new(table.arrow(), vec![Arc::new(Int64Array::from(vec![7])), array]).unwrap();
        let mut out = Vec::new();
        Encoders::new(&table, &batch, &[1])?.row(0, &mut out)?;
        assert_eq!(out[..2], [0, 1], "one column");
        Ok(out.split_off(2))
    }

    #[test]
    fn infinity_stays_infinity() {
        for days in [i32::MAX, i32::MIN] {
            let bytes = encode(Logical::Date, Arc::new(Date32Array::from(vec![days]))).unwrap();
            assert_eq!(bytes[4..], days.to_be_bytes());
        }
        for micros in [i64::MAX, i64::MIN] {
            let bytes = encode(Logical::Timestamp, Arc::new(TimestampMicrosecondArray::from(vec![micros]))).unwrap();
            assert_eq!(bytes[4..], micros.to_be_bytes());
        }
    }

    #[test]
    fn what_postgres_cannot_hold_is_refused_with_its_place() {
        let date = |d| Arc::new(Date32Array::from(vec![d])) as ArrayRef;
        let time = |t| Arc::new(Time64MicrosecondArray::from(vec![t])) as ArrayRef;
        let stamp = |t| Arc::new(TimestampMicrosecondArray::from(vec![t])) as ArrayRef;
        let text = |t: &str| Arc::new(StringArray::from(vec![t])) as ArrayRef;
        let first_date = MIN_DATE + EPOCH_DAYS;
        // Counted from 1970, no 64-bit microsecond lies past the upper bound.
        let first_time = MIN_TIMESTAMP + EPOCH_MICROS;
        for (micros, fits) in [(first_time, true), (first_time - 1, false), (i64::MAX - 1, true), (i64::MIN + 1, false)]
        {
            assert_eq!(encode(Logical::Timestamp, stamp(micros)).is_ok(), fits, "{micros}");
        }
        for (logical, array, fits) in [
            (Logical::Text, text("a\0b"), false),
            (Logical::Text, text("ab"), true),
            (Logical::Json, text("\"\0\""), false),
            (Logical::Date, date(first_date), true),
            (Logical::Date, date(first_date - 1), false),
            (Logical::Date, date(END_DATE - 1 + EPOCH_DAYS), true),
            (Logical::Date, date(END_DATE + EPOCH_DAYS), false),
            (Logical::Date, date(i32::MIN + 1), false),
            (Logical::Date, date(i32::MAX - 1), false),
            (Logical::Time, time(86_400_000_000), true),
            (Logical::Time, time(86_400_000_001), false),
            (Logical::Time, time(-1), false),
            (Logical::Bit { len: 2 }, text("10"), true),
            (Logical::Bit { len: 2 }, text("1"), false),
            (Logical::Bit { len: 2 }, text("12"), false),
            (Logical::Numeric, text("1e5"), false),
        ] {
            match encode(logical.clone(), array) {
                Ok(_) => assert!(fits, "{logical:?}"),
                Err(e) => {
                    assert!(!fits, "{e}");
                    assert!(e.to_string().starts_with("table s.t, column v, row id=7: "), "{e}");
                    assert!(e.hint_text().is_some());
                }
            }
        }
    }
}
