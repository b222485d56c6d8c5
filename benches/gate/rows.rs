//! Shape B: the decoder builds rows of an enum, as most change-data-capture tools do.
//!
//! Built as well as the shape allows: a row is allocated once at its full width, text and bytes are boxed at their exact
//! size, and the decimal is held as two words, so that a value takes 24 bytes and not 32. Nothing is cloned on the way out.

use crate::copy;
use crate::reader::{Malformed, Result, Sink};
use crate::table::Kind;

/// One value.
pub enum Value {
    /// NULL.
    Null,
    /// Any integer; its width is the column's.
    Int(i64),
    /// Binary64.
    Float(f64),
    /// Unscaled decimal: high word, low word. An `i128` would align the enum to 16 and make it 32 bytes.
    Decimal(i64, u64),
    /// UTF-8.
    Text(Box<str>),
    /// Any bytes.
    Bytes(Box<[u8]>),
    /// Days since 1970-01-01.
    Date(i32),
    /// Microseconds since 1970-01-01T00:00:00.
    Timestamp(i64),
}

const _: () = assert!(size_of::<Value>() == 24);

/// The value of a [`Value::Decimal`].
fn unscaled(high: i64, low: u64) -> i128 {
    i128::from(high) << 64 | i128::from(low)
}

/// Rows of a table with `width` columns.
pub struct Rows {
    width: usize,
    rows: Vec<Vec<Value>>,
}

impl Rows {
    /// No rows yet.
    pub fn new(width: usize) -> Self {
        Self { width, rows: Vec::new() }
    }

    /// The batch.
    pub fn finish(self) -> Vec<Vec<Value>> {
        self.rows
    }

    fn push(&mut self, value: Value) -> Result<()> {
        self.rows.last_mut().ok_or(Malformed("value before the first row"))?.push(value);
        Ok(())
    }
}

impl Sink for Rows {
    fn begin(&mut self) {
        self.rows.push(Vec::with_capacity(self.width));
    }

    fn null(&mut self, _: usize) -> Result<()> {
        self.push(Value::Null)
    }

    fn int(&mut self, _: usize, value: i64) -> Result<()> {
        self.push(Value::Int(value))
    }

    fn float(&mut self, _: usize, value: f64) -> Result<()> {
        self.push(Value::Float(value))
    }

    fn decimal(&mut self, _: usize, unscaled: i128) -> Result<()> {
        self.push(Value::Decimal((unscaled >> 64) as i64, unscaled as u64))
    }

    fn text(&mut self, _: usize, value: &str) -> Result<()> {
        self.push(Value::Text(value.into()))
    }

    fn bytes(&mut self, _: usize, value: &[u8]) -> Result<()> {
        self.push(Value::Bytes(value.into()))
    }

    fn date(&mut self, _: usize, days: i32) -> Result<()> {
        self.push(Value::Date(days))
    }

    fn timestamp(&mut self, _: usize, micros: i64) -> Result<()> {
        self.push(Value::Timestamp(micros))
    }
}

/// The rows as one binary COPY.
pub fn to_copy(rows: &[Vec<Value>], columns: &[(&str, Kind)], out: &mut Vec<u8>) -> Result<()> {
    copy::header(out);
    for row in rows {
        copy::tuple(row.len(), out);
        for (value, &(_, kind)) in row.iter().zip(columns) {
            match (value, kind) {
                (Value::Null, _) => copy::null(out),
                (Value::Int(value), Kind::Int16) => copy::int16((*value).try_into().map_err(|_| MISMATCH)?, out),
                (Value::Int(value), Kind::Int64) => copy::int64(*value, out),
                (Value::Float(value), Kind::Float64) => copy::float(*value, out),
                (&Value::Decimal(high, low), Kind::Decimal { scale, .. }) => {
                    copy::numeric(unscaled(high, low), scale, out);
                }
                (Value::Text(value), Kind::Text) => copy::bytes(value.as_bytes(), out),
                (Value::Bytes(value), Kind::Bytes) => copy::bytes(value, out),
                (Value::Date(days), Kind::Date) => copy::date(*days, out),
                (Value::Timestamp(micros), Kind::Timestamp) => copy::timestamp(*micros, out),
                _ => return Err(MISMATCH),
            }
        }
    }
    copy::trailer(out);
    Ok(())
}

const MISMATCH: Malformed = Malformed("value of another kind than its column");

/// Hands the rows on to another sink: the way into Arrow builders, which Parquet demands of this shape too.
pub fn replay(rows: &[Vec<Value>], sink: &mut impl Sink) -> Result<()> {
    for row in rows {
        sink.begin();
        for (column, value) in row.iter().enumerate() {
            match value {
                Value::Null => sink.null(column)?,
                Value::Int(value) => sink.int(column, *value)?,
                Value::Float(value) => sink.float(column, *value)?,
                &Value::Decimal(high, low) => sink.decimal(column, unscaled(high, low))?,
                Value::Text(value) => sink.text(column, value)?,
                Value::Bytes(value) => sink.bytes(column, value)?,
                Value::Date(days) => sink.date(column, *days)?,
                Value::Timestamp(micros) => sink.timestamp(column, *micros)?,
            }
        }
    }
    Ok(())
}

/// Bytes that the rows hold: every box, every row and the outer vector at its capacity; what the allocator adds to each
/// of these many small pieces is not in it.
pub fn held(rows: &Vec<Vec<Value>>) -> usize {
    let boxed = |value: &Value| match value {
        Value::Text(text) => text.len(),
        Value::Bytes(bytes) => bytes.len(),
        Value::Null | Value::Int(_) | Value::Float(_) | Value::Decimal(..) | Value::Date(_) | Value::Timestamp(_) => 0,
    };
    let row = |row: &Vec<Value>| row.capacity() * size_of::<Value>() + row.iter().map(boxed).sum::<usize>();
    rows.capacity() * size_of::<Vec<Value>>() + rows.iter().map(row).sum::<usize>()
}
