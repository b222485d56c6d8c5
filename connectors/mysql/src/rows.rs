//! Binary rows of SELECT into Arrow columns, and the column list that makes both fit.
//!
//! A row is `0x00`, a NULL bitmap (offset two bits), then each value that is not NULL, after MySQL's "Binary Protocol
//! Resultset Row": integers and floats little-endian by the column's width, dates and times as a length and that many
//! bytes of parts, everything else length-encoded. Enums and sets are selected as numbers ([`select_list`]): the labels
//! then come from the catalog, exactly as for the log, and the empty text of an invalid enum value cannot pass for a
//! label.

use arrow_array::RecordBatch;
use arrow_buffer::i256;
use crossfade_core::builder::{finish_columns, push_bytes, push_str};
use crossfade_core::{Column, ColumnBuilder, Error, Logical, Result, TableSchema, Unfit};

use crate::binlog::charset::{self, Charset};
use crate::binlog::reader::{Fault, Read, Reader, bit, utf8};
use crate::binlog::{temporal, vector};
use crate::catalog::{quote, quote_table};
use crate::session::WireColumn;
use crate::types::raw_charset;

/// A batch is handed on at so many rows, or bytes on the wire.
const BATCH_ROWS: usize = 8192;
const BATCH_BYTES: usize = 4 << 20;

/// `MYSQL_TYPE_...` of the protocol.
mod kind {
    pub const TINY: u8 = 1;
    pub const SHORT: u8 = 2;
    pub const LONG: u8 = 3;
    pub const FLOAT: u8 = 4;
    pub const DOUBLE: u8 = 5;
    pub const NULL: u8 = 6;
    pub const TIMESTAMP: u8 = 7;
    pub const LONGLONG: u8 = 8;
    pub const INT24: u8 = 9;
    pub const DATE: u8 = 10;
    pub const TIME: u8 = 11;
    pub const DATETIME: u8 = 12;
    pub const YEAR: u8 = 13;
    pub const VARCHAR: u8 = 15;
    pub const BIT: u8 = 16;
    pub const VECTOR: u8 = 242;
    pub const JSON: u8 = 245;
    pub const NEWDECIMAL: u8 = 246;
    pub const TINY_BLOB: u8 = 249;
    pub const GEOMETRY: u8 = 255;
}

/// The columns of a table as a SELECT that [`Decoder`] can read.
pub fn select_list<'a>(columns: impl Iterator<Item = &'a Column>) -> String {
    let one = |column: &Column| match column.logical {
        Logical::Omitted => "NULL".to_owned(),
        Logical::Enum { .. } | Logical::Set { .. } => format!("CAST({} AS UNSIGNED)", quote(&column.name)),
        Logical::Text | Logical::Json if raw_charset(&column.source_type).is_some() => {
            format!("CAST({} AS BINARY)", quote(&column.name))
        }
        _ => quote(&column.name),
    };
    columns.map(one).collect::<Vec<_>>().join(", ")
}

/// Whether the protocol sends values of this type in the way that [`value`] reads them.
fn fits(logical: &Logical, kind: u8) -> bool {
    match logical {
        Logical::Int8 | Logical::UInt8 => kind == kind::TINY,
        Logical::Int16 | Logical::UInt16 => matches!(kind, kind::SHORT | kind::YEAR),
        Logical::Int32 | Logical::UInt32 => matches!(kind, kind::LONG | kind::INT24),
        Logical::Int64 | Logical::UInt64 => kind == kind::LONGLONG,
        // MariaDB sends a small number in four bytes.
        Logical::Enum { .. } | Logical::Set { .. } => matches!(kind, kind::LONG | kind::LONGLONG),
        Logical::Float32 => kind == kind::FLOAT,
        Logical::Float64 => kind == kind::DOUBLE,
        Logical::Decimal { .. } => kind == kind::NEWDECIMAL,
        Logical::Bit { .. } => kind == kind::BIT,
        Logical::Date => kind == kind::DATE,
        Logical::Timestamp => kind == kind::DATETIME,
        Logical::TimestampTz => kind == kind::TIMESTAMP,
        Logical::Duration => kind == kind::TIME,
        Logical::Text | Logical::Json | Logical::Bytes | Logical::Uuid => {
            kind == kind::VARCHAR || kind == kind::JSON || (kind::TINY_BLOB..=kind::GEOMETRY).contains(&kind)
        }
        // VECTOR.
        Logical::Postgres { .. } => kind == kind::VECTOR,
        Logical::Omitted => kind == kind::NULL,
        // No column of this source has these.
        Logical::Bool | Logical::Time | Logical::Numeric | Logical::Literal => false,
    }
}

/// Collects rows of one table (or of some of its columns) into batches.
#[derive(Debug)]
pub struct Decoder<'a> {
    table: &'a TableSchema,
    wire: Vec<WireColumn>,
    /// By what text that comes as bytes is read.
    charsets: Vec<Charset>,
    columns: Vec<ColumnBuilder>,
    rows: usize,
    bytes: usize,
}

impl<'a> Decoder<'a> {
    /// For the rows of a SELECT over [`select_list`] of the table. An error if the server's types have changed.
    pub fn new(
        table: &'a TableSchema,
        wire: Vec<WireColumn>,
        charset: impl Fn(&str) -> Result<Option<Charset>>,
    ) -> Result<Self> {
        if wire.len() != table.columns.len() {
            return Err(changed(table));
        }
        for (column, wire) in table.columns.iter().zip(&wire) {
            let signs_agree = match column.logical {
                Logical::Int8 | Logical::Int16 | Logical::Int32 | Logical::Int64 => {
                    !wire.unsigned || wire.kind == kind::YEAR
                }
                Logical::UInt8 | Logical::UInt16 | Logical::UInt32 | Logical::UInt64 => wire.unsigned,
                _ => true,
            };
            if !signs_agree || !fits(&column.logical, wire.kind) {
                return Err(changed(table).context(format!("column {} is sent as type {}", column.name, wire.kind)));
            }
        }
        let columns = table.columns.iter().map(|c| ColumnBuilder::new(&c.logical)).collect();
        let of = |c: &Column| match raw_charset(&c.source_type) {
            Some(name) => Ok(charset(name)?.ok_or_else(|| changed(table).context(format!("character set {name}")))?),
            None => Ok(Charset::Utf8),
        };
        let charsets = table.columns.iter().map(of).collect::<Result<_>>()?;
        Ok(Decoder { table, wire, charsets, columns, rows: 0, bytes: 0 })
    }

    /// Appends a row.
    pub fn push(&mut self, packet: &[u8]) -> Result<()> {
        let mut at = 0;
        let result = self.row(packet, &mut at);
        self.rows += 1;
        self.bytes += packet.len();
        result.map_err(|fault| self.error(fault, at, packet))
    }

    fn row(&mut self, packet: &[u8], at: &mut usize) -> Read<()> {
        let mut r = Reader(packet);
        if r.u8()? != 0 {
            return Err(Fault::Malformed("not a binary row"));
        }
        let nulls = r.take((self.wire.len() + 2).div_ceil(8))?;
        for (i, builder) in self.columns.iter_mut().enumerate() {
            *at = i;
            if bit(nulls, i + 2) {
                builder.append_null();
            } else {
                let read = value(&mut r, &self.table.columns[i].logical, self.wire[i].kind, &self.charsets[i], builder);
                read.or_else(|fault| fault.pass(self.table, i, builder))?;
            }
        }
        if r.is_empty() { Ok(()) } else { Err(Fault::Malformed("a row goes on behind its last column")) }
    }

    /// Appends a row as [`Decoder::push`] does, with NULL for each value that cannot be carried: `refused` gets its error.
    pub fn survey(&mut self, packet: &[u8], refused: &mut dyn FnMut(Error)) -> Result<()> {
        self.rows += 1;
        self.bytes += packet.len();
        let mut at = 0;
        let mut told = Vec::new();
        let result = self.each(packet, &mut at, &mut told);
        told.into_iter().for_each(|(i, fault)| refused(self.error(fault, i, packet)));
        result.map_err(|fault| self.error(fault, at, packet))
    }

    /// The row's values; those that cannot be carried are stepped over by their wire type.
    fn each(&mut self, packet: &[u8], at: &mut usize, refused: &mut Vec<(usize, Fault)>) -> Read<()> {
        let mut r = Reader(packet);
        r.u8()?;
        let nulls = r.take((self.wire.len() + 2).div_ceil(8))?;
        for (i, builder) in self.columns.iter_mut().enumerate() {
            *at = i;
            if bit(nulls, i + 2) {
                builder.append_null();
                continue;
            }
            let before = r;
            let read = value(&mut r, &self.table.columns[i].logical, self.wire[i].kind, &self.charsets[i], builder);
            match read.or_else(|fault| fault.pass(self.table, i, builder)) {
                Err(fault @ Fault::Value(_)) => {
                    refused.push((i, fault));
                    r = before;
                    display(&mut r, self.wire[i])?;
                    builder.append_null();
                }
                read => read?,
            }
        }
        if r.is_empty() { Ok(()) } else { Err(Fault::Malformed("a row goes on behind its last column")) }
    }

    /// Whether it is time to hand the rows on.
    pub fn is_full(&self) -> bool {
        self.rows >= BATCH_ROWS || self.bytes >= BATCH_BYTES
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// The rows; the decoder is empty again.
    pub fn finish(&mut self) -> Result<RecordBatch> {
        self.rows = 0;
        self.bytes = 0;
        finish_columns(self.table, &mut self.columns)
    }

    fn error(&self, fault: Fault, at: usize, packet: &[u8]) -> Error {
        let column = &self.table.columns[at].name;
        match fault {
            Fault::Value(refusal) => {
                let (message, hint) = refusal.explain(self.table, at);
                Error::data(&self.table.name, message).column(column).key(self.key_text(packet)).hint(hint)
            }
            other => other.at(format!("table {}, column {column}", self.table.name)),
        }
    }

    /// The row's key, as `a=1, b=x`, read from its bytes once more.
    fn key_text(&self, packet: &[u8]) -> String {
        let mut r = Reader(packet);
        let mut shown = vec![String::from("?"); self.wire.len()];
        let _ = r.take(1);
        let nulls = r.take((self.wire.len() + 2).div_ceil(8)).unwrap_or_default();
        for (i, wire) in self.wire.iter().enumerate() {
            if bit(nulls, i + 2) {
                shown[i] = "NULL".into();
                continue;
            }
            match display(&mut r, *wire) {
                Ok(text) => shown[i] = text,
                Err(_) => break,
            }
        }
        let part = |&i: &usize| format!("{}={}", self.table.columns[i].name, shown[i]);
        self.table.key.iter().map(part).collect::<Vec<_>>().join(", ")
    }
}

fn changed(table: &TableSchema) -> Error {
    Error::transient(format!("table {} ({}) has another shape than before", table.name, quote_table(&table.name)))
}

/// Appends one value that is not NULL.
#[inline]
fn value(r: &mut Reader<'_>, logical: &Logical, kind: u8, charset: &Charset, builder: &mut ColumnBuilder) -> Read<()> {
    match builder {
        ColumnBuilder::Int8(b) => b.append_value(i8::from_le_bytes(r.array()?)),
        ColumnBuilder::Int16(b) => b.append_value(i16::from_le_bytes(r.array()?)),
        ColumnBuilder::Int32(b) => b.append_value(i32::from_le_bytes(r.array()?)),
        ColumnBuilder::Int64(b) => b.append_value(i64::from_le_bytes(r.array()?)),
        ColumnBuilder::UInt8(b) => b.append_value(r.u8()?),
        ColumnBuilder::UInt16(b) => b.append_value(r.u16()?),
        ColumnBuilder::UInt32(b) => b.append_value(r.u32()?),
        ColumnBuilder::UInt64(b) => b.append_value(r.u64()?),
        ColumnBuilder::Float32(b) => b.append_value(f32::from_le_bytes(r.array()?)),
        ColumnBuilder::Float64(b) => b.append_value(f64::from_le_bytes(r.array()?)),
        ColumnBuilder::Decimal128(b) => b.append_value(decimal128(r.lenenc_bytes()?, scale(logical))?),
        ColumnBuilder::Decimal256(b) => b.append_value(decimal256(r.lenenc_bytes()?, scale(logical))?),
        ColumnBuilder::Binary(b) => push_bytes(b, r.lenenc_bytes()?)?,
        ColumnBuilder::Uuid(b) => {
            let uuid = uuid(r.lenenc_bytes()?)?;
            b.append_value(uuid).map_err(|_| Fault::Malformed("a UUID is not 16 bytes"))?;
        }
        ColumnBuilder::Date(b) => b.append_value(date(r)?),
        ColumnBuilder::Timestamp(b) => b.append_value(datetime(r)?),
        ColumnBuilder::Duration(b) => b.append_value(duration(r)?),
        ColumnBuilder::Utf8(b) => match logical {
            Logical::Enum { labels } => push_str(b, enum_label(labels, number(r, kind)?)?)?,
            Logical::Set { labels } => push_str(b, &set_labels(labels, number(r, kind)?)?)?,
            Logical::Bit { len } => push_str(b, &bits(r.lenenc_bytes()?, *len)?)?,
            Logical::Postgres { .. } => push_str(b, &vector::text(r.lenenc_bytes()?)?)?,
            _ => push_str(b, &charset::text(charset, r.lenenc_bytes()?)?)?,
        },
        ColumnBuilder::Bool(_) | ColumnBuilder::Time(_) | ColumnBuilder::Omitted(_) => {
            return Err(Fault::Malformed("a type this source has not"));
        }
    }
    Ok(())
}

/// The number of an enum's or set's value.
fn number(r: &mut Reader<'_>, kind: u8) -> Read<u64> {
    if kind == kind::LONG { r.u32().map(u64::from) } else { r.u64() }
}

fn scale(logical: &Logical) -> usize {
    if let Logical::Decimal { scale, .. } = logical { usize::from(*scale) } else { 0 }
}

/// Sign and digits of a decimal as the server prints it, with exactly `scale` digits behind the point.
fn digits(text: &[u8], scale: usize, mut digit: impl FnMut(u8)) -> Read<bool> {
    let malformed = || Fault::Malformed("a decimal is not written as expected");
    let (negative, text) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    let (whole, fraction) = match text.iter().position(|&b| b == b'.') {
        Some(point) => (&text[..point], &text[point + 1..]),
        None => (text, &text[..0]),
    };
    if fraction.len() != scale || whole.len() + scale > 80 {
        return Err(malformed());
    }
    for &byte in whole.iter().chain(fraction) {
        digit(byte.checked_sub(b'0').filter(|d| *d < 10).ok_or_else(malformed)?);
    }
    Ok(negative)
}

fn decimal128(text: &[u8], scale: usize) -> Read<i128> {
    let mut sum = 0i128;
    let mut overflow = false;
    let negative = digits(text, scale, |d| match sum.checked_mul(10).and_then(|s| s.checked_add(d.into())) {
        Some(s) => sum = s,
        None => overflow = true,
    })?;
    if overflow {
        return Err(Fault::Malformed("a decimal has more digits than its type"));
    }
    Ok(if negative { -sum } else { sum })
}

fn decimal256(text: &[u8], scale: usize) -> Read<i256> {
    let mut sum = i256::ZERO;
    let mut overflow = false;
    let ten = i256::from_i128(10);
    let negative =
        digits(text, scale, |d| match sum.checked_mul(ten).and_then(|s| s.checked_add(i256::from_i128(d.into()))) {
            Some(s) => sum = s,
            None => overflow = true,
        })?;
    if overflow {
        return Err(Fault::Malformed("a decimal has more digits than its type"));
    }
    Ok(if negative { sum.wrapping_neg() } else { sum })
}

/// 36 characters, hyphens between the groups.
fn uuid(text: &[u8]) -> Read<[u8; 16]> {
    let mut out = [0; 16];
    let mut nibbles = 0;
    for &byte in text.iter().filter(|&&b| b != b'-') {
        let nibble = (byte as char).to_digit(16).ok_or(Fault::Malformed("not a UUID"))? as u8;
        let slot = out.get_mut(nibbles / 2).ok_or(Fault::Malformed("a UUID is too long"))?;
        *slot = *slot << 4 | nibble;
        nibbles += 1;
    }
    if nibbles == 32 { Ok(out) } else { Err(Fault::Malformed("a UUID is too short")) }
}

/// A length of 0, 4, 7 or 11 bytes: year 2, month, day; hour, minute, second; microseconds 4. The date, and microseconds behind it;
/// all bytes are read, whatever the date is.
fn date_parts(r: &mut Reader<'_>) -> Read<(Read<i32>, i64)> {
    let length = r.u8()?;
    if length == 0 {
        return Ok((Err(temporal::zero_date()), 0));
    }
    let (year, month, day) = (i64::from(r.u16()?), i64::from(r.u8()?), i64::from(r.u8()?));
    let mut micros = 0;
    match length {
        4 => {}
        7 | 11 => {
            let seconds = i64::from(r.u8()?) * 3600 + i64::from(r.u8()?) * 60 + i64::from(r.u8()?);
            let fraction = if length == 11 { i64::from(r.u32()?) } else { 0 };
            if seconds >= 86_400 || fraction >= 1_000_000 {
                return Err(Fault::Malformed("a time of day out of range"));
            }
            micros = seconds * 1_000_000 + fraction;
        }
        _ => return Err(Fault::Malformed("a date of unknown length")),
    }
    Ok((temporal::days(year, month, day), micros))
}

fn date(r: &mut Reader<'_>) -> Read<i32> {
    match date_parts(r)? {
        (date, 0) => date,
        _ => Err(Fault::Malformed("a date with a time of day")),
    }
}

fn datetime(r: &mut Reader<'_>) -> Read<i64> {
    let (date, micros) = date_parts(r)?;
    temporal::at_time(date, micros)
}

/// A length of 0, 8 or 12 bytes: sign, days 4, hour, minute, second; microseconds 4.
fn duration(r: &mut Reader<'_>) -> Read<i64> {
    let length = r.u8()?;
    if length == 0 {
        return Ok(0);
    }
    let negative = r.u8()? != 0;
    let days = i64::from(r.u32()?);
    let (hour, minute, second) = (i64::from(r.u8()?), i64::from(r.u8()?), i64::from(r.u8()?));
    let micros = match length {
        8 => 0,
        12 => i64::from(r.u32()?),
        _ => return Err(Fault::Malformed("a time of unknown length")),
    };
    let length = (((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000_000 + micros;
    Ok(if negative { -length } else { length })
}

fn enum_label(labels: &[String], index: u64) -> Read<&str> {
    let label = index.checked_sub(1).and_then(|i| labels.get(usize::try_from(i).ok()?));
    match (label, index) {
        (Some(label), _) => Ok(label),
        (None, 0) => {
            let what = "the enum holds the empty value of an invalid insert (index 0), which is none of its labels";
            Err(Fault::value(what, temporal::CORRECT).unless(Unfit::Enum))
        }
        (None, _) => Err(Fault::Malformed("an enum index beyond its labels")),
    }
}

fn set_labels(labels: &[String], mask: u64) -> Read<String> {
    if labels.len() < 64 && mask >> labels.len() != 0 {
        return Err(Fault::Malformed("a set bit beyond its labels"));
    }
    let chosen = labels.iter().enumerate().filter(|(i, _)| mask >> i & 1 == 1).map(|(_, label)| label.as_str());
    Ok(chosen.collect::<Vec<_>>().join(","))
}

/// `len` bits as text, from big-endian bytes.
fn bits(bytes: &[u8], len: u32) -> Read<String> {
    let len = len as usize;
    if bytes.len() != len.div_ceil(8) {
        return Err(Fault::Malformed("a bit value of another length than its type"));
    }
    let bit = |i: usize| bytes[bytes.len() - 1 - i / 8] >> (i % 8) & 1 == 1;
    Ok((0..len).rev().map(|i| if bit(i) { '1' } else { '0' }).collect())
}

/// A value for people, by its wire type alone.
fn display(r: &mut Reader<'_>, wire: WireColumn) -> Read<String> {
    let integer = |n: u64, bits: u32| {
        if wire.unsigned { n.to_string() } else { ((n << (64 - bits)) as i64 >> (64 - bits)).to_string() }
    };
    Ok(match wire.kind {
        kind::TINY => integer(r.u8()?.into(), 8),
        kind::SHORT | kind::YEAR => integer(r.u16()?.into(), 16),
        kind::LONG | kind::INT24 => integer(r.u32()?.into(), 32),
        kind::LONGLONG => integer(r.u64()?, 64),
        kind::FLOAT => f32::from_le_bytes(r.array()?).to_string(),
        kind::DOUBLE => f64::from_le_bytes(r.array()?).to_string(),
        kind::DATE | kind::DATETIME | kind::TIMESTAMP => {
            let length = r.u8()?;
            let mut parts = Reader(r.take(length.into())?);
            let mut text = match length {
                0 => String::from("0000-00-00"),
                _ => format!("{:04}-{:02}-{:02}", parts.u16()?, parts.u8()?, parts.u8()?),
            };
            if length > 4 {
                text += &format!(" {:02}:{:02}:{:02}", parts.u8()?, parts.u8()?, parts.u8()?);
            }
            if length > 7 {
                text += &format!(".{:06}", parts.u32()?);
            }
            text
        }
        kind::TIME => format!("{} microseconds", duration(r)?),
        _ => {
            let bytes = r.lenenc_bytes()?;
            utf8(bytes).map(str::to_owned).unwrap_or_else(|_| bytes.iter().map(|b| format!("{b:02x}")).collect())
        }
    })
}
