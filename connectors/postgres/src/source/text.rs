//! Values as the server prints them, to Arrow: nothing is boxed, nothing allocated per value.
//!
//! The session's settings make the text canonical ([`crate::connect::SESSION`]: ISO dates in UTC, hexadecimal `bytea`, shortest
//! exact floats). Values end up as [`crate::decode`] has them from the binary form: infinity is the greatest number of days or
//! microseconds, `-infinity` the least.
//!
//! Formats: `EncodeDateOnly`, `EncodeTimeOnly`, `EncodeDateTime` (`src/backend/utils/adt/datetime.c`) with USE_ISO_DATES, and
//! the types' output functions.

use arrow_buffer::i256;
use crossfade_core::builder::{push_bytes, push_str};
use crossfade_core::{ColumnBuilder, Logical, Unfit};

use crate::decode::{Bad, late};

/// Appends one value that is not NULL. `hex` is a buffer to use again.
pub fn append(builder: &mut ColumnBuilder, logical: &Logical, text: &[u8], hex: &mut Vec<u8>) -> Result<(), Bad> {
    use ColumnBuilder as B;
    match builder {
        B::Bool(b) => match text {
            b"t" => b.append_value(true),
            b"f" => b.append_value(false),
            _ => return Err(Bad::Wire),
        },
        B::Int8(b) => b.append_value(integer(text)?),
        B::Int16(b) => b.append_value(integer(text)?),
        B::Int32(b) => b.append_value(integer(text)?),
        B::Int64(b) => b.append_value(integer(text)?),
        B::UInt8(b) => b.append_value(integer(text)?),
        B::UInt16(b) => b.append_value(integer(text)?),
        B::UInt32(b) => b.append_value(integer(text)?),
        B::UInt64(b) => b.append_value(integer(text)?),
        B::Float32(b) => b.append_value(float(text)?),
        B::Float64(b) => b.append_value(float(text)?),
        B::Decimal128(_) | B::Decimal256(_) => decimal(builder, logical, text)?,
        B::Utf8(b) => {
            if let Logical::Bit { len } = logical {
                bits(text, *len)?;
            }
            push_str(b, utf8(text)?).map_err(Bad::Full)?;
        }
        B::Binary(b) => {
            unhex(text.strip_prefix(b"\\x").ok_or(Bad::Wire)?, hex)?;
            push_bytes(b, hex).map_err(Bad::Full)?;
        }
        B::Omitted(b) => b.append_null(),
        B::Uuid(b) => b.append_value(uuid(text)?).map_err(|_| Bad::Wire)?,
        B::Date(b) => b.append_value(date(text)?),
        B::Time(b) => b.append_value(time(text).filter(|t| *t <= DAY).ok_or(Bad::Wire)?),
        B::Duration(b) => b.append_value(duration(text)?),
        B::Timestamp(b) => {
            let zoned = *logical == Logical::TimestampTz;
            b.append_value(timestamp(text, zoned)?);
        }
    }
    Ok(())
}

const DAY: i64 = 86_400_000_000;
/// From 1970 to 2000, where Postgres' times begin.
const EPOCH_DAYS: i64 = 10_957;

fn utf8(text: &[u8]) -> Result<&str, Bad> {
    std::str::from_utf8(text).map_err(|_| Bad::Wire)
}

fn shown(text: &[u8]) -> String {
    String::from_utf8_lossy(text).chars().take(60).collect()
}

fn integer<T: TryFrom<i128>>(text: &[u8]) -> Result<T, Bad> {
    let (negative, digits) = signed(text);
    // 20 digits hold every 64-bit number.
    if digits.is_empty() || digits.len() > 20 {
        return Err(Bad::Wire);
    }
    let mut value = 0i128;
    for digit in digits {
        value = value * 10 + i128::from(number(*digit)?);
    }
    let value = if negative { -value } else { value };
    T::try_from(value).map_err(|_| Bad::Value(format!("{value} is out of range")))
}

fn signed(text: &[u8]) -> (bool, &[u8]) {
    match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    }
}

fn number(digit: u8) -> Result<u8, Bad> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        _ => Err(Bad::Wire),
    }
}

/// Shortest exact decimal form, so that parsing gives back every bit (`float8out_internal` with extra_float_digits 3).
fn float<T: std::str::FromStr>(text: &[u8]) -> Result<T, Bad> {
    utf8(text)?.parse().map_err(|_| Bad::Wire)
}

/// The digits of a number, point left out, and how many of them stand behind the point.
fn decimal(builder: &mut ColumnBuilder, logical: &Logical, text: &[u8]) -> Result<(), Bad> {
    let Logical::Decimal { precision, scale } = logical else { return Err(Bad::Wire) };
    let (precision, scale) = (usize::from(*precision), usize::from(*scale));
    let unfit = || Bad::Value(format!("{} is not a decimal({precision},{scale})", shown(text)));
    match text {
        b"NaN" => return Err(Bad::Unfit(format!("NaN is not a decimal({precision},{scale})"), Unfit::Nan)),
        b"Infinity" | b"-Infinity" => return Err(unfit()),
        _ => {}
    }
    let (negative, digits) = signed(text);
    let point = digits.iter().position(|b| *b == b'.').unwrap_or(digits.len());
    let (whole, fraction) = digits.split_at_checked(point).ok_or(Bad::Wire)?;
    let fraction = fraction.get(1..).unwrap_or_default();
    if whole.is_empty() {
        return Err(Bad::Wire);
    }
    let (kept, beyond) = fraction.split_at_checked(scale).unwrap_or((fraction, &[]));
    for digit in beyond {
        if number(*digit)? != 0 {
            return Err(unfit());
        }
    }
    let zeros = whole.iter().take_while(|b| **b == b'0').count();
    let whole = whole.get(zeros..).unwrap_or_default();
    if whole.len() + scale > precision {
        return Err(unfit());
    }
    let padding = std::iter::repeat_n(&b'0', scale - kept.len());
    let digits = whole.iter().chain(kept).chain(padding);
    match builder {
        ColumnBuilder::Decimal128(b) => {
            let mut value = 0i128;
            for digit in digits {
                // At most 38 digits: it fits.
                value = value.wrapping_mul(10).wrapping_add(i128::from(number(*digit)?));
            }
            b.append_value(if negative { -value } else { value });
        }
        ColumnBuilder::Decimal256(b) => {
            let mut value = i256::ZERO;
            let ten = i256::from_i128(10);
            for digit in digits {
                // At most 76 digits: it fits.
                value = value.wrapping_mul(ten).wrapping_add(i256::from_i128(i128::from(number(*digit)?)));
            }
            b.append_value(if negative { value.wrapping_neg() } else { value });
        }
        _ => return Err(Bad::Wire),
    }
    Ok(())
}

fn bits(text: &[u8], len: u32) -> Result<(), Bad> {
    if !text.iter().all(|b| matches!(b, b'0' | b'1')) {
        return Err(Bad::Wire);
    }
    if u32::try_from(text.len()).ok() != Some(len) {
        return Err(Bad::Value(format!("{} bits are not {len}", text.len())));
    }
    Ok(())
}

fn nibble(digit: u8) -> Result<u8, Bad> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(Bad::Wire),
    }
}

fn unhex(text: &[u8], out: &mut Vec<u8>) -> Result<(), Bad> {
    out.clear();
    let (pairs, rest) = text.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(Bad::Wire);
    }
    out.reserve(pairs.len());
    for [high, low] in pairs {
        out.push(nibble(*high)? << 4 | nibble(*low)?);
    }
    Ok(())
}

fn uuid(text: &[u8]) -> Result<[u8; 16], Bad> {
    let mut out = [0; 16];
    let mut digits = text.iter().enumerate().filter(|(i, _)| !matches!(i, 8 | 13 | 18 | 23)).map(|(_, b)| *b);
    let dashes = [8, 13, 18, 23].iter().all(|i| text.get(*i) == Some(&b'-'));
    if !dashes || text.len() != 36 {
        return Err(Bad::Wire);
    }
    for byte in &mut out {
        let (Some(high), Some(low)) = (digits.next(), digits.next()) else { return Err(Bad::Wire) };
        *byte = nibble(high)? << 4 | nibble(low)?;
    }
    Ok(out)
}

/// Whether the text ends in ` BC`, and what stands before it.
fn era(text: &[u8]) -> (bool, &[u8]) {
    match text.strip_suffix(b" BC") {
        Some(rest) => (true, rest),
        None => (false, text),
    }
}

fn date(text: &[u8]) -> Result<i32, Bad> {
    match text {
        b"infinity" => return Ok(i32::MAX),
        b"-infinity" => return Ok(i32::MIN),
        _ => {}
    }
    let (bc, text) = era(text);
    days(text, bc).and_then(|d| i32::try_from(d).ok()).ok_or(Bad::Wire)
}

/// Digits as a number, of which there are so many.
fn digits(text: &[u8], least: usize, most: usize) -> Option<i64> {
    if text.len() < least || text.len() > most {
        return None;
    }
    text.iter().try_fold(0, |n, b| b.is_ascii_digit().then(|| n * 10 + i64::from(b - b'0')))
}

/// Days since 1970-01-01 of `YYYY-MM-DD`, in the proleptic Gregorian calendar; the year before 1 is 1 BC.
fn days(text: &[u8], bc: bool) -> Option<i64> {
    let (rest, [_, d1, d0]) = text.split_last_chunk::<3>()?;
    let (year, [dash, m1, m0]) = rest.split_last_chunk::<3>()?;
    if *dash != b'-' || text.get(text.len().checked_sub(3)?) != Some(&b'-') {
        return None;
    }
    let (year, month, day) = (digits(year, 4, 7)?, digits(&[*m1, *m0], 2, 2)?, digits(&[*d1, *d0], 2, 2)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || year == 0 {
        return None;
    }
    let year = if bc { 1 - year } else { year };
    // Years begin in March here, so that the leap day is the last.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    Some(era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468)
}

/// Microseconds of `HH:MM:SS[.ffffff]`.
fn time(text: &[u8]) -> Option<i64> {
    let (clock, fraction) = text.split_at_checked(8)?;
    let [h1, h0, b':', m1, m0, b':', s1, s0] = clock else { return None };
    let two = |a: &u8, b: &u8| digits(&[*a, *b], 2, 2);
    let (hours, minutes, seconds) = (two(h1, h0)?, two(m1, m0)?, two(s1, s0)?);
    if hours > 24 || minutes > 59 || seconds > 60 {
        return None;
    }
    let micros = match fraction {
        [] => 0,
        [b'.', fraction @ ..] => {
            let n = digits(fraction, 1, 6)?;
            n * 10i64.pow(6 - u32::try_from(fraction.len()).ok()?)
        }
        _ => return None,
    };
    Some(((hours * 60 + minutes) * 60 + seconds) * 1_000_000 + micros)
}

fn timestamp(text: &[u8], zoned: bool) -> Result<i64, Bad> {
    match text {
        b"infinity" => return Ok(i64::MAX),
        b"-infinity" => return Ok(i64::MIN),
        _ => {}
    }
    let parse = || {
        let (bc, text) = era(text);
        let text = if zoned { text.strip_suffix(b"+00")? } else { text };
        let (date, clock) = text.split_at_checked(text.iter().position(|b| *b == b' ')?)?;
        Some((days(date, bc)?, time(clock.get(1..)?)?))
    };
    let (days, micros) = parse().ok_or(Bad::Wire)?;
    days.checked_mul(DAY).and_then(|d| d.checked_add(micros)).filter(|m| *m != i64::MAX).ok_or_else(|| {
        let since_2000 = days.checked_sub(EPOCH_DAYS).and_then(|d| d.checked_mul(DAY)?.checked_add(micros));
        since_2000.map_or(Bad::Wire, late)
    })
}

/// `interval` as `HH:MM:SS`, of any number of hours. Days and months have no fixed length, so a length of time has none.
fn duration(text: &[u8]) -> Result<i64, Bad> {
    let (negative, rest) = signed(text);
    let parse = || {
        let at = rest.iter().position(|b| *b == b':')?;
        let (hours, rest) = rest.split_at_checked(at)?;
        let hours = digits(hours, 2, 10)?;
        // The rest as a time of the day's first hour.
        let mut clock = [0u8; 15];
        let length = rest.len() + 2;
        clock.get_mut(..2)?.copy_from_slice(b"00");
        clock.get_mut(2..length)?.copy_from_slice(rest);
        hours.checked_mul(3_600_000_000)?.checked_add(time(clock.get(..length)?)?)
    };
    let micros = parse().ok_or_else(|| Bad::Value(format!("the interval {} is no length of time", shown(text))))?;
    Ok(if negative { -micros } else { micros })
}

#[cfg(test)]
mod tests {
    use arrow_array::cast::AsArray;
    use arrow_array::types::{
        Date32Type, Decimal128Type, Decimal256Type, DurationMicrosecondType, Float64Type, Int64Type,
        Time64MicrosecondType, TimestampMicrosecondType,
    };
    use arrow_array::{Array, ArrayRef};
    use proptest::prelude::*;

    use super::*;

    const KINDS: [Logical; 21] = [
        Logical::Bool,
        Logical::Int8,
        Logical::Int16,
        Logical::Int32,
        Logical::Int64,
        Logical::UInt8,
        Logical::UInt64,
        Logical::Float32,
        Logical::Float64,
        Logical::Decimal { precision: 10, scale: 3 },
        Logical::Decimal { precision: 38, scale: 38 },
        Logical::Decimal { precision: 76, scale: 0 },
        Logical::Numeric,
        Logical::Text,
        Logical::Bytes,
        Logical::Bit { len: 3 },
        Logical::Uuid,
        Logical::Date,
        Logical::Time,
        Logical::Duration,
        Logical::TimestampTz,
    ];

    fn one(logical: &Logical, text: &str) -> Option<ArrayRef> {
        let mut builder = ColumnBuilder::new(logical);
        append(&mut builder, logical, text.as_bytes(), &mut Vec::new()).ok()?;
        Some(builder.finish())
    }

    fn date_of(text: &str) -> Option<i32> {
        one(&Logical::Date, text).map(|a| a.as_primitive::<Date32Type>().value(0))
    }

    fn stamp(text: &str) -> Option<i64> {
        one(&Logical::Timestamp, text).map(|a| a.as_primitive::<TimestampMicrosecondType>().value(0))
    }

    #[test]
    fn dates_and_times() {
        for (text, days) in [
            ("1970-01-01", 0),
            ("2000-02-29", 11_016),
            ("1969-12-31", -1),
            ("0001-01-01", -719_162),
            ("0001-12-31 BC", -719_163),
            ("4714-11-24 BC", -2_440_588),
            ("5874897-12-31", 2_145_042_905),
            ("infinity", i32::MAX),
            ("-infinity", i32::MIN),
        ] {
            assert_eq!(date_of(text), Some(days), "{text}");
        }
        assert_eq!(stamp("1970-01-02 00:00:00.000001"), Some(86_400_000_001));
        assert_eq!(stamp("0001-12-31 24:00:00 BC"), Some(-719_162 * DAY));
        assert_eq!((stamp("infinity"), stamp("-infinity")), (Some(i64::MAX), Some(i64::MIN)));
        let zoned = one(&Logical::TimestampTz, "1970-01-01 00:00:00.5+00").unwrap();
        assert_eq!(zoned.as_primitive::<TimestampMicrosecondType>().value(0), 500_000);
        let time = one(&Logical::Time, "24:00:00").unwrap();
        assert_eq!(time.as_primitive::<Time64MicrosecondType>().value(0), DAY);
        let long = one(&Logical::Duration, "-838:59:59.000001").unwrap();
        assert_eq!(long.as_primitive::<DurationMicrosecondType>().value(0), -3_020_399_000_001);
        for bad in ["", "1970-1-1", "1970-13-01", "0000-01-01", "1970-01-01 BC ", "70-01-01", "1970-01-01x"] {
            assert_eq!(date_of(bad), None, "{bad}");
        }
        assert!(one(&Logical::TimestampTz, "1970-01-01 00:00:00+01").is_none(), "only UTC is canonical");
        assert!(one(&Logical::Time, "24:00:00.1").is_none() && one(&Logical::Time, "10:00").is_none());
        assert!(one(&Logical::Duration, "1 day 00:00:00").is_none());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let small = Logical::Decimal { precision: 4, scale: 2 };
        for bad in ["NaN", "Infinity", "-Infinity", "100.00", "1.234", "", "-", "1e3", ".", "1.2.3"] {
            assert!(one(&small, bad).is_none(), "{bad}");
        }
        assert_eq!(one(&small, "-0.5000").unwrap().as_primitive::<Decimal128Type>().value(0), -50);
        assert_eq!(one(&small, "00099.99").unwrap().as_primitive::<Decimal128Type>().value(0), 9999);
        assert!(one(&Logical::Int16, "32768").is_none() && one(&Logical::Int16, "-32768").is_some());
        assert!(one(&Logical::Bytes, "\\x0").is_none() && one(&Logical::Bytes, "00").is_none());
        assert!(one(&Logical::Bit { len: 3 }, "10").is_none());
    }

    proptest! {
        #[test]
        fn numbers_come_back(n: i64, f: f64, d: i128, scale in 0u8..=38) {
            prop_assert_eq!(one(&Logical::Int64, &n.to_string()).unwrap().as_primitive::<Int64Type>().value(0), n);
            let back = one(&Logical::Float64, &f.to_string()).unwrap().as_primitive::<Float64Type>().value(0);
            prop_assert_eq!(back.to_bits(), f.to_bits());
            let d = d % 10i128.pow(38);
            let digits = format!("{:0>width$}", d.unsigned_abs(), width = usize::from(scale) + 1);
            let (whole, fraction) = digits.split_at(digits.len() - usize::from(scale));
            let sign = if d < 0 { "-" } else { "" };
            let text = if scale > 0 { format!("{sign}{whole}.{fraction}") } else { format!("{sign}{whole}") };
            let narrow = one(&Logical::Decimal { precision: 38, scale }, &text).unwrap();
            prop_assert_eq!(narrow.as_primitive::<Decimal128Type>().value(0), d);
            let wide = one(&Logical::Decimal { precision: 76, scale }, &text).unwrap();
            prop_assert_eq!(wide.as_primitive::<Decimal256Type>().value(0), i256::from_i128(d));
        }

        #[test]
        fn bytes_come_back(bytes: Vec<u8>, id: [u8; 16]) {
            let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
            let array = one(&Logical::Bytes, &format!("\\x{hex}")).unwrap();
            prop_assert_eq!(array.as_binary::<i32>().value(0), &bytes[..]);
            let h: String = id.iter().map(|b| format!("{b:02x}")).collect();
            let text = format!("{}-{}-{}-{}-{}", &h[..8], &h[8..12], &h[12..16], &h[16..20], &h[20..]);
            let array = one(&Logical::Uuid, &text).unwrap();
            prop_assert_eq!(array.as_fixed_size_binary().value(0), &id[..]);
        }

        #[test]
        fn days_follow_one_another(days in -2_440_588i32..2_000_000) {
            // Every day has a text, and the next day's is the next number.
            let (mut y, mut m, mut d) = (1970i64, 1i64, 1i64);
            let era = (i64::from(days) + 719_468).div_euclid(146_097);
            let of_era = (i64::from(days) + 719_468).rem_euclid(146_097);
            let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
            let of_year = of_era - (365 * year + year / 4 - year / 100);
            let month = (5 * of_year + 2) / 153;
            d += of_year - (153 * month + 2) / 5;
            m += (month + 2) % 12;
            y += year + era * 400 - 1970 + i64::from(month >= 10);
            let text = if y > 0 { format!("{y:04}-{m:02}-{d:02}") } else { format!("{:04}-{m:02}-{d:02} BC", 1 - y) };
            prop_assert_eq!(date_of(&text), Some(days), "{}", text);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>, text in "[-0-9:. +xINanfB/C]{0,40}") {
            for logical in &KINDS {
                for input in [&bytes[..], text.as_bytes()] {
                    let mut builder = ColumnBuilder::new(logical);
                    let read = append(&mut builder, logical, input, &mut Vec::new()).is_ok();
                    prop_assert_eq!(builder.finish().len(), usize::from(read));
                }
            }
        }
    }
}
