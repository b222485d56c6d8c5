//! Decodes WRITE_ROWS_EVENTv2 bodies, full row image, into a [`Sink`].
//!
//! Layout after MySQL's `libs/mysql/binlog/event/rows_event.h` and, for packed values, `strings/decimal.cc` and
//! `mysys/my_time.cc`: table id 6, flags 2, extra length 2 (itself included), column count (length-encoded), bitmap of
//! columns present, then rows: NULL bitmap, then the values that are not NULL.

use crate::reader::{Malformed, Reader, Result, Sink, days, text};
use crate::table::AMOUNT;

/// How a column lies in a row image; TABLE_MAP says it once for each table.
#[derive(Clone, Copy)]
pub enum Wire {
    /// TINY, signed.
    Tiny,
    /// SHORT, signed.
    Short,
    /// LONG, unsigned.
    UnsignedLong,
    /// LONGLONG, signed.
    LongLong,
    /// DOUBLE.
    Double,
    /// NEWDECIMAL with precision and scale.
    Decimal(u8, u8),
    /// VARCHAR; whether its length takes two bytes (declared for more than 255).
    Varchar(bool),
    /// BLOB: its length takes two bytes.
    Blob,
    /// DATE, also called NEWDATE: three bytes.
    Date,
    /// DATETIME2 with six fractional digits.
    Datetime6,
}

/// The table of [`crate::table`] as TABLE_MAP describes it; varchar lengths are those of utf8mb4.
pub const WIRE: [Wire; 11] = [
    Wire::LongLong,
    Wire::UnsignedLong,
    Wire::Short,
    Wire::Decimal(AMOUNT.0, AMOUNT.1),
    Wire::Double,
    Wire::Varchar(false),
    Wire::Varchar(true),
    Wire::Datetime6,
    Wire::Date,
    Wire::Tiny,
    Wire::Blob,
];

/// Decodes every row of one event body.
pub fn decode(event: &[u8], wire: &[Wire], sink: &mut impl Sink) -> Result<()> {
    let mut reader = Reader(event);
    reader.take(8)?;
    let extra = u16::from_le_bytes(reader.array()?);
    reader.take(usize::from(extra).checked_sub(2).ok_or(Malformed("extra length under two"))?)?;
    // Below 251 a length-encoded integer is the byte itself; this table has eleven columns.
    if usize::from(reader.byte()?) != wire.len() {
        return Err(Malformed("column count differs from the table map"));
    }
    let bitmap = wire.len().div_ceil(8);
    let present = reader.take(bitmap)?;
    if (0..wire.len()).any(|column| present[column / 8] >> (column % 8) & 1 == 0) {
        return Err(Malformed("not a full row image"));
    }
    while !reader.0.is_empty() {
        let nulls = reader.take(bitmap)?;
        sink.begin();
        for (column, &wire) in wire.iter().enumerate() {
            if nulls[column / 8] >> (column % 8) & 1 == 1 {
                sink.null(column)?;
            } else {
                value(&mut reader, column, wire, sink)?;
            }
        }
    }
    Ok(())
}

/// Decodes one value that is not NULL.
fn value(reader: &mut Reader<'_>, column: usize, wire: Wire, sink: &mut impl Sink) -> Result<()> {
    match wire {
        Wire::Tiny => sink.int(column, i8::from_le_bytes(reader.array()?).into()),
        Wire::Short => sink.int(column, i16::from_le_bytes(reader.array()?).into()),
        Wire::UnsignedLong => sink.int(column, u32::from_le_bytes(reader.array()?).into()),
        Wire::LongLong => sink.int(column, i64::from_le_bytes(reader.array()?)),
        Wire::Double => sink.float(column, f64::from_le_bytes(reader.array()?)),
        Wire::Decimal(precision, scale) => sink.decimal(column, decimal(reader, precision, scale)?),
        Wire::Varchar(wide) => {
            let length = if wide { u16::from_le_bytes(reader.array()?) } else { reader.byte()?.into() };
            sink.text(column, text(reader.take(length.into())?)?)
        }
        Wire::Blob => {
            let length = u16::from_le_bytes(reader.array()?);
            sink.bytes(column, reader.take(length.into())?)
        }
        Wire::Date => {
            let [low, middle, high] = reader.array()?;
            let packed = u32::from_le_bytes([low, middle, high, 0]);
            sink.date(column, days((packed >> 9) as i32, packed >> 5 & 15, packed & 31)?)
        }
        Wire::Datetime6 => sink.timestamp(column, datetime6(reader)?),
    }
}

/// Bytes that 0 to 9 decimal digits take in a packed decimal.
pub const DIGIT_BYTES: [usize; 10] = [0, 1, 1, 2, 2, 3, 3, 4, 4, 4];

/// A packed decimal, unscaled: groups of nine digits in four bytes, big-endian, leftovers at both outer ends; the
/// top bit is inverted so that bytes sort as numbers do, and a negative number has all bits inverted.
pub fn decimal(reader: &mut Reader<'_>, precision: u8, scale: u8) -> Result<i128> {
    let (whole, scale) = (usize::from(precision - scale), usize::from(scale));
    let length = whole / 9 * 4 + DIGIT_BYTES[whole % 9] + scale / 9 * 4 + DIGIT_BYTES[scale % 9];
    let source = reader.take(length)?;
    let mut packed = [0; 32];
    packed.get_mut(..length).ok_or(Malformed("decimal too long"))?.copy_from_slice(source);
    let negative = packed[0] & 0x80 == 0;
    packed[0] ^= 0x80;
    let mask = if negative { 0xff } else { 0 };
    let mut at = 0;
    let mut unscaled = 0i128;
    let mut group = |digits: usize| {
        let bytes = DIGIT_BYTES[digits];
        let group = packed[at..at + bytes].iter().fold(0u32, |sum, byte| sum << 8 | u32::from(byte ^ mask));
        at += bytes;
        let limit = 10u32.pow(digits as u32);
        if group >= limit {
            return Err(Malformed("decimal group out of range"));
        }
        // At most 38 digits fit; the precision of the column was checked when the table map was read.
        unscaled = unscaled * i128::from(limit) + i128::from(group);
        Ok(())
    };
    group(whole % 9)?;
    for _ in 0..whole / 9 + scale / 9 {
        group(9)?;
    }
    group(scale % 9)?;
    Ok(if negative { -unscaled } else { unscaled })
}

/// DATETIME2(6), microseconds since 1970: five bytes big-endian (bias, year*13+month 17 bits, day 5, hour 5, minute 6,
/// second 6), then three bytes of microseconds.
pub fn datetime6(reader: &mut Reader<'_>) -> Result<i64> {
    let [a, b, c, d, e, f, g, h] = reader.array()?;
    let packed = i64::from_be_bytes([0, 0, 0, a, b, c, d, e]) - 0x80_0000_0000;
    if packed < 0 {
        return Err(Malformed("negative datetime"));
    }
    let months = packed >> 22;
    let day = days((months / 13) as i32, (months % 13) as u32, (packed >> 17 & 31) as u32)?;
    let (hour, minute, second) = (packed >> 12 & 31, packed >> 6 & 63, packed & 63);
    let micros = i64::from(u32::from_be_bytes([0, f, g, h]));
    if hour > 23 || minute > 59 || second > 59 || micros > 999_999 {
        return Err(Malformed("time of day out of range"));
    }
    Ok((i64::from(day) * 86_400 + hour * 3_600 + minute * 60 + second) * 1_000_000 + micros)
}
