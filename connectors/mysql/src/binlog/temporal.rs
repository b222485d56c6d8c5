//! Dates and times as rows hold them (`mysys/my_time.cc`), and what of them has no exact equivalent.
//!
//! Types since MySQL 5.6 (`2` in their names) are big-endian with a bias, so that bytes sort as values do. The older ones,
//! which MariaDB writes with `mysql56_temporal_format=OFF`, are little-endian decimal digits or bit fields.

use crossfade_core::Unfit;
use crossfade_core::unfit::Moment;

use super::reader::{Fault, Read, Reader};

/// Days from 1970-01-01 to a civil date (Howard Hinnant's `days_from_civil`, public domain algorithm).
fn days_from_civil(year: i64, month: i64, day: i64) -> i32 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    let day_of_era = of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    (era * 146_097 + day_of_era - 719_468) as i32
}

fn month_days(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Days since 1970 of a date that the server holds; zero dates, zero parts and days beyond a month's end are refused.
pub fn days(year: i64, month: i64, day: i64) -> Read<i32> {
    if !(1..=12).contains(&month) || day < 1 || day > month_days(year, month) {
        if month > 12 || day > 31 || year > 9999 {
            return Err(Fault::Malformed("a date out of range"));
        }
        return Err(no_date(Moment { year: year as i32, month: month as u8, day: day as u8, micros: 0 }));
    }
    if year > 9999 {
        return Err(Fault::Malformed("a date out of range"));
    }
    Ok(days_from_civil(year, month, day))
}

/// The way out for a value: the log goes on holding it, but the table may be copied anew, and joins the log behind it.
pub const CORRECT: &str = "correct the value at the source with an UPDATE statement, then copy the table anew with \
    `crossfade snapshot TABLE`, as the log still holds the value; or exclude the column (unless it is of the key) or the table";

/// The fault of a date that no calendar has.
fn no_date(moment: Moment) -> Fault {
    let Moment { year, month, day, .. } = moment;
    Fault::value(format!("{year:04}-{month:02}-{day:02} is not a date of the calendar"), CORRECT)
        .unless(Unfit::ZeroDate(moment))
}

/// The fault of the date that the server puts in the place of none.
pub fn zero_date() -> Fault {
    no_date(Moment { year: 0, month: 0, day: 0, micros: 0 })
}

/// Days since 1970 as microseconds, and so many more; a date that no calendar has keeps its time of day.
pub fn at_time(date: Read<i32>, micros: i64) -> Read<i64> {
    match date {
        Ok(days) => Ok(i64::from(days) * 86_400_000_000 + micros),
        Err(Fault::Value(mut refusal)) => {
            if let Some(Unfit::ZeroDate(moment)) = &mut refusal.unfit {
                moment.micros = micros;
            }
            Err(Fault::Value(refusal))
        }
        Err(other) => Err(other),
    }
}

/// Microseconds since midnight.
fn time_of_day(hour: i64, minute: i64, second: i64, micros: i64) -> Read<i64> {
    if hour > 23 || minute > 59 || second > 59 || micros > 999_999 {
        return Err(Fault::Malformed("a time of day out of range"));
    }
    Ok(((hour * 60 + minute) * 60 + second) * 1_000_000 + micros)
}

/// Bytes of the fraction for 0 to 6 digits.
pub fn fraction_bytes(digits: u8) -> usize {
    usize::from(digits).div_ceil(2)
}

/// Microseconds of a fraction's stored number: 2, 4 or 6 digits are stored.
fn fraction_micros(stored: i64, bytes: usize) -> i64 {
    stored * [0, 10_000, 100, 1][bytes.min(3)]
}

/// DATE and NEWDATE: three bytes; day 5 bits, month 4, year 15.
pub fn date(bytes: &[u8]) -> Read<i32> {
    let packed = i64::from(Reader(bytes).u24()?);
    days(packed >> 9, packed >> 5 & 15, packed & 31)
}

/// DATETIME2: year*13+month 17 bits, day 5, hour 5, minute 6, second 6, behind the bias; then the fraction.
pub fn datetime2(bytes: &[u8]) -> Read<i64> {
    let mut r = Reader(bytes);
    let packed = r.uint_be(5)? as i64 - 0x80_0000_0000;
    let n = r.len();
    let micros = fraction_micros(r.uint_be(n)? as i64, n);
    unpack_datetime(packed, micros)
}

/// Date and time in one number, without the fraction.
fn unpack_datetime(packed: i64, micros: i64) -> Read<i64> {
    if packed < 0 {
        return Err(Fault::Malformed("a negative date"));
    }
    let (months, day) = (packed >> 22, packed >> 17 & 31);
    let (hour, minute, second) = (packed >> 12 & 31, packed >> 6 & 63, packed & 63);
    at_time(days(months / 13, months % 13, day), time_of_day(hour, minute, second, micros)?)
}

/// TIMESTAMP2: seconds since 1970 in four bytes, then the fraction. All zero is the zero date.
pub fn timestamp2(bytes: &[u8]) -> Read<i64> {
    let mut r = Reader(bytes);
    let seconds = r.uint_be(4)? as i64;
    let n = r.len();
    instant(seconds, fraction_micros(r.uint_be(n)? as i64, n))
}

/// TIMESTAMP before 5.6: four bytes little-endian.
pub fn timestamp(bytes: &[u8]) -> Read<i64> {
    instant(i64::from(Reader(bytes).u32()?), 0)
}

fn instant(seconds: i64, micros: i64) -> Read<i64> {
    if seconds == 0 && micros == 0 {
        return Err(zero_date());
    }
    Ok(seconds * 1_000_000 + micros)
}

/// TIME2: a signed length of time. Sign and magnitude behind a bias over all bytes, fraction included.
pub fn time2(bytes: &[u8]) -> Read<i64> {
    let fraction = bytes.len().saturating_sub(3);
    let bias = 0x80_0000_i64 << (8 * fraction.min(3));
    let value = Reader(bytes).uint_be(bytes.len())? as i64 - bias;
    let magnitude = value.abs();
    let (whole, stored) = (magnitude >> (8 * fraction), magnitude & ((1 << (8 * fraction)) - 1));
    let micros = length(whole >> 12 & 0x3ff, whole >> 6 & 63, whole & 63, fraction_micros(stored, fraction))?;
    Ok(if value < 0 { -micros } else { micros })
}

/// TIME before 5.6: three signed bytes, little-endian, of the digits `HHMMSS`.
pub fn time(bytes: &[u8]) -> Read<i64> {
    let value = (Reader(bytes).u24()? << 8) as i32 as i64 >> 8;
    let digits = value.abs();
    let micros = length(digits / 10_000, digits / 100 % 100, digits % 100, 0)?;
    Ok(if value < 0 { -micros } else { micros })
}

fn length(hours: i64, minutes: i64, seconds: i64, micros: i64) -> Read<i64> {
    if hours > 838 || minutes > 59 || seconds > 59 || micros > 999_999 {
        return Err(Fault::Malformed("a TIME out of range"));
    }
    Ok(((hours * 60 + minutes) * 60 + seconds) * 1_000_000 + micros)
}

/// DATETIME before 5.6: eight bytes, little-endian, of the digits `YYYYMMDDhhmmss`.
pub fn datetime(bytes: &[u8]) -> Read<i64> {
    let n = i64::try_from(Reader(bytes).u64()?).map_err(|_| Fault::Malformed("a date out of range"))?;
    let (d, t) = (n / 1_000_000, n % 1_000_000);
    at_time(days(d / 10_000, d / 100 % 100, d % 100), time_of_day(t / 10_000, t / 100 % 100, t % 100, 0)?)
}

/// YEAR: one byte; 0 is the year 0.
pub fn year(bytes: &[u8]) -> Read<i16> {
    Ok(match Reader(bytes).u8()? {
        0 => 0,
        n => 1900 + i16::from(n),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn civil_dates() {
        assert_eq!(days(1970, 1, 1).unwrap(), 0);
        assert_eq!(days(2000, 2, 29).unwrap(), 11_016);
        assert_eq!(days(1, 1, 1).unwrap(), -719_162);
        assert_eq!(days(9999, 12, 31).unwrap(), 2_932_896);
        for (y, m, d) in [(0, 0, 0), (2024, 0, 10), (2024, 1, 0), (2023, 2, 29)] {
            assert!(matches!(days(y, m, d), Err(Fault::Value(_))), "{y}-{m}-{d}");
        }
        assert!(matches!(days(2024, 13, 1), Err(Fault::Malformed(_))));
    }

    /// TIME(2) '-01:02:03.45': a fraction must not be subtracted as an unsigned number.
    #[test]
    fn negative_time_with_fraction() {
        let stored: i64 = (1 << 12 | 2 << 6 | 3) << 8 | 45;
        let bytes = (0x8000_0000_i64 - stored).to_be_bytes();
        assert_eq!(time2(&bytes[4..]).unwrap(), -3_723_450_000);
        assert_eq!(time2(&[0x80, 0, 0]).unwrap(), 0);
        assert_eq!(time(&(-10_203_i32).to_le_bytes()[..3]).unwrap(), -3_723_000_000);
    }

    #[test]
    fn year_zero_stays_zero() {
        assert_eq!(year(&[0]).unwrap(), 0);
        assert_eq!(year(&[255]).unwrap(), 2155);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..9)) {
            let _ = (date(&bytes), datetime2(&bytes), timestamp2(&bytes), time2(&bytes));
            let _ = (time(&bytes), datetime(&bytes), timestamp(&bytes), year(&bytes));
        }
    }
}
