//! The proof: a fingerprint of a set of rows that does not depend on their order.
//!
//! Each row is written as canonical bytes (per value a type tag, then the value; explicit NULL; length prefixes, so that
//! `('a','bc')` and `('ab','c')` differ), hashed to 128 bits with XXH3 under a fixed secret seed, and the hashes are
//! **added** modulo 2^128. Adding merges over chunks, threads and time, and a row that is there twice counts twice. XOR
//! and CRC are blind to paired changes: with `BIT_XOR(CRC32(...))`, +0.05 on every amount of a thousand rows gave the
//! same value.
//!
//! Floats are hashed by their IEEE bits, with -0 as 0 and one NaN: text forms differ between servers.

use std::fmt;

use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::{Array, RecordBatch};
use arrow_buffer::ArrowNativeType;
use arrow_schema::{DataType, TimeUnit};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The version of the canonical form, part of every row's bytes: fingerprints of different versions never agree.
const VERSION: u8 = 1;
/// Keys the hash, so that data made to collide under plain XXH3 does not.
const SEED: u64 = 0x6372_6f73_7366_6164;

/// How many rows, and the sum of their hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Rows counted.
    pub rows: u64,
    /// Sum of row hashes modulo 2^128.
    pub sum: u128,
}

impl Fingerprint {
    /// The fingerprint of both sets together.
    pub fn merge(&mut self, other: &Fingerprint) {
        self.rows += other.rows;
        self.sum = self.sum.wrapping_add(other.sum);
    }

    /// Adds every row of a batch. An error for an Arrow type that no [`crate::Logical`] maps to.
    pub fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        let mut hasher = RowHasher::new(batch)?;
        for row in 0..batch.num_rows() {
            self.add_hash(hasher.hash(row));
        }
        Ok(())
    }

    /// Adds a row by its hash.
    pub fn add_hash(&mut self, row: u128) {
        self.rows += 1;
        self.sum = self.sum.wrapping_add(row);
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.sum)
    }
}

/// Hashes single rows of a batch.
pub struct RowHasher<'a> {
    columns: Vec<Values<'a>>,
    buffer: Vec<u8>,
}

/// A column, downcast once.
enum Values<'a> {
    Bool(&'a arrow_array::BooleanArray),
    /// Tag, array, raw little-endian values and their width.
    Fixed(u8, &'a dyn Array, &'a [u8], usize),
    Float32(&'a arrow_array::Float32Array),
    Float64(&'a arrow_array::Float64Array),
    Text(&'a arrow_array::StringArray),
    Bytes(&'a arrow_array::BinaryArray),
    Uuid(&'a arrow_array::FixedSizeBinaryArray),
}

impl<'a> RowHasher<'a> {
    /// Prepares the columns of a batch.
    pub fn new(batch: &'a RecordBatch) -> Result<Self> {
        let columns = batch.columns().iter().map(|c| Values::new(c.as_ref())).collect::<Result<_>>()?;
        Ok(RowHasher { columns, buffer: Vec::with_capacity(256) })
    }

    /// The hash of one row.
    pub fn hash(&mut self, row: usize) -> u128 {
        self.buffer.clear();
        self.buffer.push(VERSION);
        for column in &self.columns {
            column.write(row, &mut self.buffer);
        }
        twox_hash::XxHash3_128::oneshot_with_seed(SEED, &self.buffer)
    }
}

impl<'a> Values<'a> {
    fn new(array: &'a dyn Array) -> Result<Self> {
        fn fixed<T: ArrowPrimitiveType>(tag: u8, array: &dyn Array) -> Values<'_> {
            let values = array.as_primitive::<T>();
            Values::Fixed(tag, array, values.values().inner().as_slice(), T::Native::get_byte_width())
        }
        Ok(match array.data_type() {
            DataType::Boolean => Values::Bool(array.as_boolean()),
            DataType::Int8 => fixed::<Int8Type>(2, array),
            DataType::Int16 => fixed::<Int16Type>(3, array),
            DataType::Int32 => fixed::<Int32Type>(4, array),
            DataType::Int64 => fixed::<Int64Type>(5, array),
            DataType::UInt8 => fixed::<UInt8Type>(6, array),
            DataType::UInt16 => fixed::<UInt16Type>(7, array),
            DataType::UInt32 => fixed::<UInt32Type>(8, array),
            DataType::UInt64 => fixed::<UInt64Type>(9, array),
            DataType::Float32 => Values::Float32(array.as_primitive()),
            DataType::Float64 => Values::Float64(array.as_primitive()),
            DataType::Decimal128(..) => fixed::<Decimal128Type>(12, array),
            DataType::Decimal256(..) => fixed::<Decimal256Type>(13, array),
            DataType::Utf8 => Values::Text(array.as_string()),
            DataType::Binary => Values::Bytes(array.as_binary()),
            DataType::FixedSizeBinary(16) => Values::Uuid(array.as_fixed_size_binary()),
            DataType::Date32 => fixed::<Date32Type>(17, array),
            DataType::Time64(TimeUnit::Microsecond) => fixed::<Time64MicrosecondType>(18, array),
            DataType::Duration(TimeUnit::Microsecond) => fixed::<DurationMicrosecondType>(19, array),
            DataType::Timestamp(TimeUnit::Microsecond, None) => fixed::<TimestampMicrosecondType>(20, array),
            DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => fixed::<TimestampMicrosecondType>(21, array),
            other => return Err(Error::corrupt(format!("no canonical form for the Arrow type {other}"))),
        })
    }

    fn is_null(&self, row: usize) -> bool {
        match self {
            Values::Bool(a) => a.is_null(row),
            Values::Fixed(_, a, ..) => a.is_null(row),
            Values::Float32(a) => a.is_null(row),
            Values::Float64(a) => a.is_null(row),
            Values::Text(a) => a.is_null(row),
            Values::Bytes(a) => a.is_null(row),
            Values::Uuid(a) => a.is_null(row),
        }
    }

    fn write(&self, row: usize, out: &mut Vec<u8>) {
        if self.is_null(row) {
            out.push(0);
            return;
        }
        match self {
            Values::Bool(a) => out.extend_from_slice(&[1, a.value(row) as u8]),
            Values::Fixed(tag, _, bytes, width) => {
                out.push(*tag);
                out.extend_from_slice(&bytes[row * width..(row + 1) * width]);
            }
            Values::Float32(a) => {
                out.push(10);
                let v = a.value(row);
                let v = if v == 0.0 {
                    0.0
                } else if v.is_nan() {
                    f32::NAN
                } else {
                    v
                };
                out.extend_from_slice(&v.to_bits().to_le_bytes());
            }
            Values::Float64(a) => {
                out.push(11);
                let v = a.value(row);
                let v = if v == 0.0 {
                    0.0
                } else if v.is_nan() {
                    f64::NAN
                } else {
                    v
                };
                out.extend_from_slice(&v.to_bits().to_le_bytes());
            }
            Values::Text(a) => write_sized(14, a.value(row).as_bytes(), out),
            Values::Bytes(a) => write_sized(15, a.value(row), out),
            Values::Uuid(a) => {
                out.push(16);
                out.extend_from_slice(a.value(row));
            }
        }
    }
}

fn write_sized(tag: u8, value: &[u8], out: &mut Vec<u8>) {
    out.push(tag);
    out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    out.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, Float64Array, Int64Array, StringArray};

    use super::*;

    fn of(columns: Vec<(&str, ArrayRef)>) -> Fingerprint {
        let mut f = Fingerprint::default();
        f.add(&RecordBatch::try_from_iter(columns).unwrap()).unwrap();
        f
    }

    fn text(values: &[Option<&str>]) -> ArrayRef {
        Arc::new(StringArray::from(values.to_vec()))
    }

    #[test]
    fn order_and_chunks_do_not_matter() {
        let whole = of(vec![("a", text(&[Some("x"), Some("y"), None]))]);
        let mut parts = of(vec![("a", text(&[None]))]);
        parts.merge(&of(vec![("a", text(&[Some("y"), Some("x")]))]));
        assert_eq!(whole, parts);
    }

    #[test]
    fn what_must_differ_differs() {
        let base = of(vec![("a", text(&[Some("a")])), ("b", text(&[Some("bc")]))]);
        for other in [
            vec![("a", text(&[Some("ab")])), ("b", text(&[Some("c")]))],
            vec![("a", text(&[Some("bc")])), ("b", text(&[Some("a")]))],
            vec![("a", text(&[Some("a")])), ("b", text(&[None]))],
            vec![("a", text(&[Some("a")])), ("b", text(&[Some("bc ")]))],
            vec![("a", text(&[Some("A")])), ("b", text(&[Some("bc")]))],
        ] {
            assert_ne!(base, of(other));
        }
        assert_ne!(of(vec![("a", text(&[Some("")]))]), of(vec![("a", text(&[None]))]));
        // A row that is there twice does not cancel, as it does under XOR.
        assert_ne!(of(vec![("a", text(&[Some("x"), Some("x")]))]).sum, 0);
    }

    #[test]
    fn a_sliced_batch_hashes_its_own_rows() {
        let array: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
        assert_eq!(of(vec![("a", array.slice(1, 2))]), of(vec![("a", Arc::new(Int64Array::from(vec![2, 3])))]));
    }

    #[test]
    fn floats_are_compared_by_value() {
        let f = |v: f64| of(vec![("a", Arc::new(Float64Array::from(vec![v])) as ArrayRef)]);
        assert_eq!(f(-0.0), f(0.0));
        assert_eq!(f(f64::NAN), f(f64::from_bits(0x7ff8_0000_0000_0001)));
        assert_ne!(f(0.1), f(0.1f32 as f64));
    }
}
