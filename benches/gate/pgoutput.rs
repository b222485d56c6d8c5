//! Decodes pgoutput Insert messages (protocol 1, binary values) inside CopyData and XLogData frames into a [`Sink`].
//!
//! Layout after the PostgreSQL manual, "Logical Replication Message Formats" and "Streaming Replication Protocol":
//! `d` length `w` start end clock, then `I` relation `N` column count, and for each column `n`, `u`, `t` or `b`.

use crate::copy::{EPOCH_DAYS, EPOCH_MICROS};
use crate::reader::{Malformed, Reader, Result, Sink, text};
use crate::table::Kind;

/// Object id of the one table in the stream.
pub const RELATION: u32 = 16_401;

/// Decodes every frame of `stream`.
pub fn decode(stream: &[u8], columns: &[(&str, Kind)], sink: &mut impl Sink) -> Result<()> {
    let mut reader = Reader(stream);
    while !reader.0.is_empty() {
        if reader.byte()? != b'd' {
            return Err(Malformed("not CopyData"));
        }
        let length = u32::from_be_bytes(reader.array()?) as usize;
        let mut frame = Reader(reader.take(length.checked_sub(4).ok_or(Malformed("length under four"))?)?);
        if frame.byte()? != b'w' {
            return Err(Malformed("not XLogData"));
        }
        frame.take(24)?;
        insert(frame, columns, sink)?;
    }
    Ok(())
}

/// Decodes one Insert.
fn insert(mut reader: Reader<'_>, columns: &[(&str, Kind)], sink: &mut impl Sink) -> Result<()> {
    if reader.byte()? != b'I' || u32::from_be_bytes(reader.array()?) != RELATION || reader.byte()? != b'N' {
        return Err(Malformed("not an insert into the table"));
    }
    if usize::from(u16::from_be_bytes(reader.array()?)) != columns.len() {
        return Err(Malformed("column count differs from the relation"));
    }
    sink.begin();
    for (column, &(_, kind)) in columns.iter().enumerate() {
        match reader.byte()? {
            b'n' => sink.null(column)?,
            b'b' => {
                let length = u32::from_be_bytes(reader.array()?) as usize;
                value(reader.take(length)?, column, kind, sink)?;
            }
            _ => return Err(Malformed("column that is neither NULL nor binary")),
        }
    }
    if reader.0.is_empty() { Ok(()) } else { Err(Malformed("bytes after the last column")) }
}

/// Decodes one value that is not NULL.
fn value(bytes: &[u8], column: usize, kind: Kind, sink: &mut impl Sink) -> Result<()> {
    match kind {
        Kind::Int16 => sink.int(column, i16::from_be_bytes(whole(bytes)?).into()),
        Kind::Int64 => sink.int(column, i64::from_be_bytes(whole(bytes)?)),
        Kind::Float64 => sink.float(column, f64::from_be_bytes(whole(bytes)?)),
        Kind::Decimal { scale, .. } => sink.decimal(column, numeric(bytes, scale)?),
        Kind::Text => sink.text(column, text(bytes)?),
        Kind::Bytes => sink.bytes(column, bytes),
        Kind::Date => {
            let days = i32::from_be_bytes(whole(bytes)?).checked_add(EPOCH_DAYS);
            sink.date(column, days.ok_or(Malformed("date out of range"))?)
        }
        Kind::Timestamp => {
            let micros = i64::from_be_bytes(whole(bytes)?).checked_add(EPOCH_MICROS);
            sink.timestamp(column, micros.ok_or(Malformed("timestamp out of range"))?)
        }
    }
}

/// A value of exactly `N` bytes.
fn whole<const N: usize>(bytes: &[u8]) -> Result<[u8; N]> {
    bytes.try_into().map_err(|_| Malformed("value of the wrong length"))
}

/// A `numeric`, unscaled at the column's scale; refuses NaN, infinities, and digits beyond the scale.
pub fn numeric(bytes: &[u8], scale: u8) -> Result<i128> {
    const RANGE: Malformed = Malformed("numeric out of range");
    let mut reader = Reader(bytes);
    let count = u16::from_be_bytes(reader.array()?);
    let weight = i16::from_be_bytes(reader.array()?);
    let negative = match u16::from_be_bytes(reader.array()?) {
        0 => false,
        0x4000 => true,
        _ => return Err(Malformed("numeric that is not finite")),
    };
    reader.take(2)?;
    let mut unscaled = 0i128;
    for _ in 0..count {
        let digit = u16::from_be_bytes(reader.array()?);
        if digit > 9_999 {
            return Err(RANGE);
        }
        unscaled = unscaled.checked_mul(10_000).and_then(|sum| sum.checked_add(digit.into())).ok_or(RANGE)?;
    }
    if !reader.0.is_empty() {
        return Err(Malformed("value of the wrong length"));
    }
    // The last group counts units of 10000^(weight - count + 1); the result counts units of 10^-scale.
    let shift = 4 * (i32::from(weight) - i32::from(count) + 1) + i32::from(scale);
    let power = 10i128.checked_pow(shift.unsigned_abs()).ok_or(RANGE)?;
    let unscaled = if shift >= 0 {
        unscaled.checked_mul(power).ok_or(RANGE)?
    } else if power <= 10_000 && unscaled <= i64::MAX.into() {
        // 128-bit division is a library call; at most one group is cut, so that nearly every value ends here.
        exact(unscaled as i64, power as i64)?.into()
    } else {
        exact(unscaled, power)?
    };
    Ok(if negative { -unscaled } else { unscaled })
}

/// A division that leaves nothing over.
fn exact<T: Copy + Default + PartialEq + std::ops::Div<Output = T> + std::ops::Rem<Output = T>>(
    value: T,
    by: T,
) -> Result<T> {
    if value % by == T::default() { Ok(value / by) } else { Err(Malformed("digits beyond the scale")) }
}
