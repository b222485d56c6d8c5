//! What both decoders stand on: a cursor whose every read is checked, the one error, and the civil calendar.
//!
//! Both shapes are fed by the same parsing code through [`Sink`], monomorphised for each of them. So the bench compares
//! where values go, and nothing else.

use std::hint::black_box;

/// Bytes that are not what the format promises.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// Result of every decoding step.
pub type Result<T> = std::result::Result<T, Malformed>;

/// Where a decoder puts values. `column` is the ordinal; values of a row arrive in ordinal order.
pub trait Sink {
    /// A row begins.
    fn begin(&mut self);
    /// NULL.
    fn null(&mut self, column: usize) -> Result<()>;
    /// Any integer that fits 64 bits with sign.
    fn int(&mut self, column: usize, value: i64) -> Result<()>;
    /// Binary64.
    fn float(&mut self, column: usize, value: f64) -> Result<()>;
    /// Unscaled decimal.
    fn decimal(&mut self, column: usize, unscaled: i128) -> Result<()>;
    /// Text.
    fn text(&mut self, column: usize, value: &str) -> Result<()>;
    /// Bytes.
    fn bytes(&mut self, column: usize, value: &[u8]) -> Result<()>;
    /// Days since 1970-01-01.
    fn date(&mut self, column: usize, days: i32) -> Result<()>;
    /// Microseconds since 1970-01-01T00:00:00.
    fn timestamp(&mut self, column: usize, micros: i64) -> Result<()>;
}

/// Values that go nowhere: what parsing alone costs, and both shapes pay.
pub struct Discard;

impl Sink for Discard {
    fn begin(&mut self) {}

    fn null(&mut self, column: usize) -> Result<()> {
        black_box(column);
        Ok(())
    }

    fn int(&mut self, _: usize, value: i64) -> Result<()> {
        black_box(value);
        Ok(())
    }

    fn float(&mut self, _: usize, value: f64) -> Result<()> {
        black_box(value);
        Ok(())
    }

    fn decimal(&mut self, _: usize, unscaled: i128) -> Result<()> {
        black_box(unscaled);
        Ok(())
    }

    fn text(&mut self, _: usize, value: &str) -> Result<()> {
        black_box(value);
        Ok(())
    }

    fn bytes(&mut self, _: usize, value: &[u8]) -> Result<()> {
        black_box(value);
        Ok(())
    }

    fn date(&mut self, _: usize, days: i32) -> Result<()> {
        black_box(days);
        Ok(())
    }

    fn timestamp(&mut self, _: usize, micros: i64) -> Result<()> {
        black_box(micros);
        Ok(())
    }
}

/// Text of a row: UTF-8 is checked here and nowhere else.
pub fn text(value: &[u8]) -> Result<&str> {
    std::str::from_utf8(value).map_err(|_| Malformed("not UTF-8"))
}

/// A cursor over bytes from outside.
#[derive(Clone, Copy)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// The next `count` bytes.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(count).ok_or(Malformed("ends early"))?;
        self.0 = tail;
        Ok(head)
    }

    /// The next `N` bytes as an array, for `from_le_bytes` and `from_be_bytes`.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk().ok_or(Malformed("ends early"))?;
        self.0 = tail;
        Ok(*head)
    }

    /// The next byte.
    pub fn byte(&mut self) -> Result<u8> {
        self.array::<1>().map(|[byte]| byte)
    }
}

/// Days from 1970-01-01 to a proleptic Gregorian date (Howard Hinnant, "chrono-compatible low-level date algorithms").
/// Refuses dates that do not exist, MySQL's zero dates among them.
pub fn days(year: i32, month: u32, day: u32) -> Result<i32> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 => 28 + u32::from(leap),
        _ => return Err(Malformed("month out of range")),
    };
    if day == 0 || day > last {
        return Err(Malformed("day out of range"));
    }
    let shifted = year - i32::from(month <= 2);
    let era = shifted.div_euclid(400);
    let year_of_era = shifted.rem_euclid(400);
    let day_of_year = (153 * ((month as i32 + 9) % 12) + 2) / 5 + day as i32 - 1;
    Ok(era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468)
}

/// Year, month and day of a day since 1970-01-01: the inverse of [`days`], needed by the MySQL encoder.
pub fn civil(days: i32) -> (i32, u32, u32) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = (day_of_year - (153 * month_index + 2) / 5 + 1) as u32;
    let month = (if month_index < 10 { month_index + 3 } else { month_index - 9 }) as u32;
    (year_of_era + era * 400 + i32::from(month <= 2), month, day)
}
