//! One value of a row into one Arrow column.
//!
//! [`Decode::choose`] pairs, once for each table map, how a column lies in the log with how it travels; [`Decode::append`]
//! is the inner loop. A pair that is not in the table of `choose` is a change of type, never a guess.

use arrow_array::builder::StringBuilder;
use crossfade_core::builder::{push_bytes, push_str};
use crossfade_core::{ColumnBuilder, Logical, Unfit};

use super::charset::{self, Charset};
use super::reader::{Fault, Read, Reader};
use super::table_map::Wire;
use super::{decimal, jsonb, mariadb, temporal, vector};

/// How to append a column's values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decode {
    /// An integer as it lies there; its width and sign are the column's.
    Int,
    /// Three bytes, signed.
    Int24,
    /// Three bytes, unsigned.
    UInt24,
    /// An IEEE number.
    Float,
    /// A packed decimal.
    Decimal(u8, u8),
    /// YEAR.
    Year,
    /// DATE.
    Date,
    /// DATETIME2.
    DateTime2,
    /// TIMESTAMP2.
    Timestamp2,
    /// TIME2.
    Time2,
    /// DATETIME before 5.6.
    DateTime,
    /// TIMESTAMP before 5.6.
    Timestamp,
    /// TIME before 5.6.
    Time,
    /// Text; whether trailing spaces are padding.
    Text(Charset, bool),
    /// Bytes; of BINARY(n) the n, as the log strips zeros.
    Bytes(usize),
    /// The number of a label.
    Enum(Vec<String>),
    /// Bits of labels.
    Set(Vec<String>),
    /// So many bits.
    Bit(u32),
    /// Binary JSON.
    Json,
    /// MySQL's VECTOR.
    Vector,
    /// MariaDB's UUID.
    Uuid,
    /// MariaDB's INET4 and INET6: 4 or 16 bytes.
    Inet(usize),
    /// Nothing: the value is passed over.
    Omit,
}

/// What the log or the catalog says of a column beyond its wire type.
#[derive(Debug, Clone)]
pub struct Traits<'a> {
    /// Unsigned, if a number.
    pub unsigned: bool,
    /// The character set, if text.
    pub charset: Option<Charset>,
    /// `inet6`, `binary(4)`: as the catalog has it.
    pub source_type: &'a str,
}

impl Decode {
    /// The way from `wire` to `logical`, or `None` if the column has another type now.
    pub fn choose(wire: Wire, logical: &Logical, traits: &Traits<'_>) -> Option<Decode> {
        let text = |padded| traits.charset.clone().filter(|c| *c != Charset::Binary).map(|c| Decode::Text(c, padded));
        let kind = traits.source_type.split(['(', ' ']).next().unwrap_or_default();
        Some(match (wire, logical) {
            (_, Logical::Omitted) => Decode::Omit,
            (Wire::Tiny, Logical::Int8) | (Wire::Short, Logical::Int16) if !traits.unsigned => Decode::Int,
            (Wire::Long, Logical::Int32) | (Wire::LongLong, Logical::Int64) if !traits.unsigned => Decode::Int,
            (Wire::Tiny, Logical::UInt8) | (Wire::Short, Logical::UInt16) if traits.unsigned => Decode::Int,
            (Wire::Long, Logical::UInt32) | (Wire::LongLong, Logical::UInt64) if traits.unsigned => Decode::Int,
            (Wire::Int24, Logical::Int32) if !traits.unsigned => Decode::Int24,
            (Wire::Int24, Logical::UInt32) if traits.unsigned => Decode::UInt24,
            (Wire::Float, Logical::Float32) | (Wire::Double, Logical::Float64) => Decode::Float,
            (Wire::Decimal { precision: p, scale: s }, Logical::Decimal { precision, scale })
                if (p, s) == (*precision, *scale) =>
            {
                Decode::Decimal(p, s)
            }
            (Wire::Year, Logical::Int16) => Decode::Year,
            (Wire::Date, Logical::Date) => Decode::Date,
            (Wire::DateTime2(_), Logical::Timestamp) => Decode::DateTime2,
            (Wire::Timestamp2(_), Logical::TimestampTz) => Decode::Timestamp2,
            (Wire::Time2(_), Logical::Duration) => Decode::Time2,
            // The old types say nothing of a fraction, and MariaDB stored fractions in them too.
            (Wire::DateTime, Logical::Timestamp) if !traits.source_type.contains('(') => Decode::DateTime,
            (Wire::Timestamp, Logical::TimestampTz) if !traits.source_type.contains('(') => Decode::Timestamp,
            (Wire::Time, Logical::Duration) if !traits.source_type.contains('(') => Decode::Time,
            (Wire::String { max: 16 }, Logical::Uuid) => Decode::Uuid,
            (Wire::String { max }, Logical::Text) if matches!(kind, "inet4" | "inet6") => Decode::Inet(max.into()),
            (Wire::String { .. }, Logical::Text) => text(true)?,
            (Wire::Varchar { .. } | Wire::Blob(_), Logical::Text | Logical::Json) => text(false)?,
            (Wire::String { max }, Logical::Bytes) => Decode::Bytes(max.into()),
            (Wire::Varchar { .. } | Wire::Blob(_) | Wire::Geometry(_), Logical::Bytes) => Decode::Bytes(0),
            (Wire::Enum(_), Logical::Enum { labels }) => Decode::Enum(labels.clone()),
            (Wire::Set(_), Logical::Set { labels }) => Decode::Set(labels.clone()),
            (Wire::Bit(n), Logical::Bit { len }) if u32::from(n) == *len => Decode::Bit(*len),
            (Wire::Json(_), Logical::Json) => Decode::Json,
            (Wire::Vector(_), Logical::Postgres { name }) if name == vector::ARRAY => Decode::Vector,
            _ => return None,
        })
    }

    /// Appends the value that `bytes` hold.
    #[inline]
    pub fn append(&self, bytes: &[u8], column: &mut ColumnBuilder) -> Read<()> {
        use ColumnBuilder as C;
        match (self, column) {
            (Decode::Int, C::Int32(b)) => b.append_value(i32::from_le_bytes(fixed(bytes)?)),
            (Decode::Int, C::Int64(b)) => b.append_value(i64::from_le_bytes(fixed(bytes)?)),
            (Decode::Int, C::UInt32(b)) => b.append_value(u32::from_le_bytes(fixed(bytes)?)),
            (Decode::Int, C::UInt64(b)) => b.append_value(u64::from_le_bytes(fixed(bytes)?)),
            (Decode::Int, C::Int8(b)) => b.append_value(i8::from_le_bytes(fixed(bytes)?)),
            (Decode::Int, C::Int16(b)) => b.append_value(i16::from_le_bytes(fixed(bytes)?)),
            (Decode::Int, C::UInt8(b)) => b.append_value(u8::from_le_bytes(fixed(bytes)?)),
            (Decode::Int, C::UInt16(b)) => b.append_value(u16::from_le_bytes(fixed(bytes)?)),
            (Decode::Int24, C::Int32(b)) => b.append_value((Reader(bytes).u24()? << 8) as i32 >> 8),
            (Decode::UInt24, C::UInt32(b)) => b.append_value(Reader(bytes).u24()?),
            (Decode::Float, C::Float32(b)) => b.append_value(f32::from_le_bytes(fixed(bytes)?)),
            (Decode::Float, C::Float64(b)) => b.append_value(f64::from_le_bytes(fixed(bytes)?)),
            (Decode::Decimal(p, s), C::Decimal128(b)) => b.append_value(decimal::decimal128(bytes, *p, *s)?),
            (Decode::Decimal(p, s), C::Decimal256(b)) => b.append_value(decimal::decimal256(bytes, *p, *s)?),
            (Decode::Year, C::Int16(b)) => b.append_value(temporal::year(bytes)?),
            (Decode::Date, C::Date(b)) => b.append_value(temporal::date(bytes)?),
            (Decode::DateTime2, C::Timestamp(b)) => b.append_value(temporal::datetime2(bytes)?),
            (Decode::Timestamp2, C::Timestamp(b)) => b.append_value(temporal::timestamp2(bytes)?),
            (Decode::Time2, C::Duration(b)) => b.append_value(temporal::time2(bytes)?),
            (Decode::DateTime, C::Timestamp(b)) => b.append_value(temporal::datetime(bytes)?),
            (Decode::Timestamp, C::Timestamp(b)) => b.append_value(temporal::timestamp(bytes)?),
            (Decode::Time, C::Duration(b)) => b.append_value(temporal::time(bytes)?),
            (Decode::Text(charset, padded), C::Utf8(b)) => {
                let text = charset::text(charset, bytes).map_err(|f| if *padded { charset::unpadded(f) } else { f })?;
                push_str(b, if *padded { text.trim_end_matches(' ') } else { &text })?;
            }
            (Decode::Bytes(pad), C::Binary(b)) if bytes.len() < *pad => {
                push_bytes(b, &padded(bytes, *pad)?)?;
            }
            (Decode::Bytes(_), C::Binary(b)) => push_bytes(b, bytes)?,
            (Decode::Enum(labels), C::Utf8(b)) => push_str(b, label(labels, bytes)?)?,
            (Decode::Set(labels), C::Utf8(b)) => set(labels, bytes, b)?,
            (Decode::Bit(n), C::Utf8(b)) => bits(*n, bytes, b)?,
            (Decode::Json, C::Utf8(b)) => {
                let mut text = String::with_capacity(bytes.len() * 2);
                jsonb::print(bytes, &mut text)?;
                push_str(b, &text)?;
            }
            (Decode::Vector, C::Utf8(b)) => push_str(b, &vector::text(bytes)?)?,
            (Decode::Uuid, C::Uuid(b)) => {
                let uuid = mariadb::uuid(&padded(bytes, 16)?)?;
                b.append_value(uuid).map_err(|_| Fault::Malformed("a UUID of other than 16 bytes"))?;
            }
            (Decode::Inet(n), C::Utf8(b)) => push_str(b, &mariadb::inet(&padded(bytes, *n)?)?)?,
            (Decode::Omit, C::Omitted(b)) => b.append_null(),
            _ => return Err(Fault::Malformed("the decoder does not fit the column")),
        }
        Ok(())
    }
}

/// The log strips zeros from the end of what has a fixed length.
fn padded(bytes: &[u8], length: usize) -> Read<Vec<u8>> {
    if bytes.len() > length {
        return Err(Fault::Malformed("more bytes than its column holds"));
    }
    let mut padded = bytes.to_vec();
    padded.resize(length, 0);
    Ok(padded)
}

#[inline]
fn fixed<const N: usize>(bytes: &[u8]) -> Read<[u8; N]> {
    bytes.try_into().map_err(|_| Fault::Malformed("a number of another width than its column"))
}

fn label<'a>(labels: &'a [String], bytes: &[u8]) -> Read<&'a str> {
    let number = Reader(bytes).uint(bytes.len())? as usize;
    match number.checked_sub(1) {
        None => {
            let what = "the enum's error value '' (index 0) is none of its labels";
            Err(Fault::value(what, temporal::CORRECT).unless(Unfit::Enum))
        }
        Some(i) => labels.get(i).map(String::as_str).ok_or(Fault::Malformed("an enum index beyond its labels")),
    }
}

fn set(labels: &[String], bytes: &[u8], b: &mut StringBuilder) -> Read<()> {
    let bits = Reader(bytes).uint(bytes.len())?;
    if labels.len() < 64 && bits >> labels.len() != 0 {
        return Err(Fault::Malformed("a set bit beyond its labels"));
    }
    let mut text = String::new();
    for (i, label) in labels.iter().enumerate().filter(|(i, _)| bits >> i & 1 == 1) {
        if bits & ((1 << i) - 1) != 0 {
            text.push(',');
        }
        text.push_str(label);
    }
    push_str(b, &text)?;
    Ok(())
}

fn bits(n: u32, bytes: &[u8], b: &mut StringBuilder) -> Read<()> {
    let value = Reader(bytes).uint_be(bytes.len())?;
    let mut text = [0u8; 64];
    let Some(digits) = text.get_mut(..n as usize) else {
        return Err(Fault::Malformed("a BIT of more than 64 bits"));
    };
    for (i, digit) in digits.iter_mut().rev().enumerate() {
        *digit = b'0' + (value >> i & 1) as u8;
    }
    push_str(b, super::reader::utf8(digits)?)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use arrow_array::cast::AsArray;

    use super::*;

    fn one(decode: &Decode, logical: &Logical, bytes: &[u8]) -> Read<String> {
        let mut column = ColumnBuilder::new(logical);
        decode.append(bytes, &mut column)?;
        Ok(column.finish().as_string::<i32>().value(0).to_owned())
    }

    #[test]
    fn labels_and_bits() {
        let labels: Vec<String> = ["", "b", "c"].map(String::from).into();
        let enumeration = Logical::Enum { labels: labels.clone() };
        assert_eq!(one(&Decode::Enum(labels.clone()), &enumeration, &[2]).unwrap(), "b");
        assert!(matches!(one(&Decode::Enum(labels.clone()), &enumeration, &[0]), Err(Fault::Value(_))));
        assert!(matches!(one(&Decode::Enum(labels.clone()), &enumeration, &[4]), Err(Fault::Malformed(_))));
        let set = Logical::Set { labels: labels.clone() };
        assert_eq!(one(&Decode::Set(labels.clone()), &set, &[0b111]).unwrap(), ",b,c");
        assert_eq!(one(&Decode::Set(labels.clone()), &set, &[0]).unwrap(), "");
        assert!(one(&Decode::Set(labels), &set, &[0b1000]).is_err());
        assert_eq!(one(&Decode::Bit(10), &Logical::Bit { len: 10 }, &[2, 1]).unwrap(), "1000000001");
    }

    #[test]
    fn another_type_is_no_guess() {
        let traits = Traits { unsigned: false, charset: Some(Charset::Utf8), source_type: "int" };
        assert_eq!(Decode::choose(Wire::Long, &Logical::Int32, &traits), Some(Decode::Int));
        assert_eq!(Decode::choose(Wire::Long, &Logical::UInt32, &traits), None);
        assert_eq!(Decode::choose(Wire::LongLong, &Logical::Int32, &traits), None);
        assert_eq!(Decode::choose(Wire::Blob(2), &Logical::Text, &Traits { charset: None, ..traits }), None);
    }
}
