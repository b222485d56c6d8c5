//! Text forms of values: SQL literals, decimals, dates.
//!
//! Literals carry any value exactly: an integer as digits, a real by the shortest digits that read back to the same double
//! and always with a point or an exponent, text in single quotes, a blob as `X'..'`. SQLite's `quote()` is not used:
//! before 3.43 it printed reals with 15 digits.

use arrow_buffer::i256;
use rusqlite::types::{Value, ValueRef};

/// Days from 0000-03-01 to 1970-01-01.
const EPOCH: i64 = 719_468;

/// A value as an SQL literal; `None` for text that is not UTF-8.
pub fn literal(value: ValueRef<'_>) -> Option<String> {
    Some(match value {
        ValueRef::Null => "NULL".into(),
        ValueRef::Integer(i) => i.to_string(),
        ValueRef::Real(f) if f.is_infinite() => if f > 0.0 { "9e999" } else { "-9e999" }.into(),
        ValueRef::Real(f) => format!("{f:?}"),
        ValueRef::Text(t) => format!("'{}'", std::str::from_utf8(t).ok()?.replace('\'', "''")),
        ValueRef::Blob(b) => {
            let mut out = String::with_capacity(b.len() * 2 + 3);
            out.push_str("X'");
            for byte in b {
                for nibble in [byte >> 4, byte & 15] {
                    out.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
                }
            }
            out.push('\'');
            out
        }
    })
}

/// Reads what [`literal`] wrote.
pub fn parse_literal(text: &str) -> Option<Value> {
    if text == "NULL" {
        return Some(Value::Null);
    }
    if let Some(inner) = text.strip_prefix('\'').and_then(|t| t.strip_suffix('\'')) {
        return Some(Value::Text(inner.replace("''", "'")));
    }
    if let Some(hex) = text.strip_prefix("X'").and_then(|t| t.strip_suffix('\'')) {
        let digits: Option<Vec<u8>> = hex.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect();
        let digits = digits.filter(|d| d.len() % 2 == 0)?;
        return Some(Value::Blob(digits.chunks_exact(2).map(|d| d[0] << 4 | d[1]).collect()));
    }
    if text.contains(['.', 'e']) {
        return text.parse().ok().map(Value::Real);
    }
    text.parse().ok().map(Value::Integer)
}

/// A number as decimal text without exponent, by the shortest digits that read back to the same double; infinities as
/// Postgres' `numeric` spells them. `None` if it is no number.
pub fn numeric(value: ValueRef<'_>) -> Option<String> {
    match value {
        ValueRef::Integer(i) => Some(i.to_string()),
        ValueRef::Real(f) if f.is_infinite() => Some(if f > 0.0 { "Infinity" } else { "-Infinity" }.into()),
        ValueRef::Real(0.0) => Some("0".into()), // matches -0.0 too
        ValueRef::Real(f) => Some(format!("{f}")),
        ValueRef::Null | ValueRef::Text(_) | ValueRef::Blob(_) => None,
    }
}

/// A number as the digits of a decimal of this precision and scale, if it is one without rounding.
pub fn decimal(value: ValueRef<'_>, precision: u8, scale: u8) -> Option<i256> {
    let text = numeric(value)?;
    let (digits, negative) = text.strip_prefix('-').map_or((&text[..], false), |t| (t, true));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let whole = whole.trim_start_matches('0');
    let (precision, scale) = (usize::from(precision), usize::from(scale));
    if fraction.len() > scale || whole.len() > precision.checked_sub(scale)? {
        return None;
    }
    let mut unscaled = format!("{}{whole}{fraction}", if negative { "-" } else { "" });
    unscaled.extend(std::iter::repeat_n('0', scale - fraction.len()));
    if unscaled.trim_start_matches('-').is_empty() {
        return Some(i256::ZERO);
    }
    i256::from_string(&unscaled)
}

/// Days since 1970-01-01 of `YYYY-MM-DD`, if that is a day of the calendar.
pub fn date(text: &[u8]) -> Option<i32> {
    let [y @ .., b'-', m1, m2, b'-', d1, d2] = text else { return None };
    if y.len() != 4 {
        return None;
    }
    let (y, m, d) = (digits(y)?, digits(&[*m1, *m2])?, digits(&[*d1, *d2])?);
    let leap = y % 4 == 0 && (y % 100 != 0 || y % 400 == 0);
    let days = match m {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 => 28 + i64::from(leap),
        _ => return None,
    };
    if !(1..=days).contains(&d) {
        return None;
    }
    // Years begin in March, so that the leap day is the last of its year.
    let (y, m) = if m > 2 { (y, m - 3) } else { (y - 1, m + 9) };
    let era = y.div_euclid(400);
    let of_era = y.rem_euclid(400);
    let of_year = (153 * m + 2) / 5 + d - 1;
    let total = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    i32::try_from(total - EPOCH).ok()
}

/// Microseconds since 1970 of `YYYY-MM-DD HH:MM:SS[.f{1,6}]`, with a blank or a `T` between.
pub fn timestamp(text: &[u8]) -> Option<i64> {
    let days = i64::from(date(text.get(..10)?)?);
    let clock = text.get(10..)?;
    let [b' ' | b'T', h1, h2, b':', m1, m2, b':', s1, s2, fraction @ ..] = clock else { return None };
    let (h, m, s) = (digits(&[*h1, *h2])?, digits(&[*m1, *m2])?, digits(&[*s1, *s2])?);
    if h > 23 || m > 59 || s > 59 {
        return None;
    }
    let micros = match fraction {
        [] => 0,
        [b'.', f @ ..] if (1..=6).contains(&f.len()) => digits(f)? * 10i64.pow(6 - f.len() as u32),
        _ => return None,
    };
    Some(((days * 24 + h) * 60 + m) * 60_000_000 + s * 1_000_000 + micros)
}

fn digits(text: &[u8]) -> Option<i64> {
    text.iter().try_fold(0i64, |n, b| b.is_ascii_digit().then(|| n * 10 + i64::from(b - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_read_back() {
        let cases = [
            (Value::Integer(i64::MIN), "-9223372036854775808"),
            (Value::Real(1.5), "1.5"),
            (Value::Real(1.0), "1.0"),
            (Value::Real(1e300), "1e300"),
            (Value::Real(0.1 + 0.2), "0.30000000000000004"),
            (Value::Real(f64::INFINITY), "9e999"),
            (Value::Real(f64::NEG_INFINITY), "-9e999"),
            (Value::Text("it's".into()), "'it''s'"),
            (Value::Blob(vec![0, 255]), "X'00ff'"),
            (Value::Null, "NULL"),
        ];
        let db = rusqlite::Connection::open_in_memory().unwrap();
        for (value, text) in cases {
            assert_eq!(literal((&value).into()).as_deref(), Some(text));
            assert_eq!(parse_literal(text), Some(value.clone()));
            let back: Value = db.query_row(&format!("SELECT {text}"), [], |r| r.get(0)).unwrap();
            assert_eq!(back, value, "SQLite reads {text}");
        }
        assert_eq!(literal(ValueRef::Text(&[0xff])), None);
        for bad in ["", "x", "X'0'", "X'gg'", "1.x"] {
            assert_eq!(parse_literal(bad), None, "{bad}");
        }
    }

    #[test]
    fn decimals_never_round() {
        let real = |f| ValueRef::Real(f);
        for (value, p, s, expected) in [
            (real(12.5), 10, 2, Some(1250)),
            (real(-0.99), 10, 2, Some(-99)),
            (real(0.1 + 0.2), 10, 2, None),
            (real(1.005), 10, 2, None),
            (ValueRef::Integer(7), 10, 2, Some(700)),
            (ValueRef::Integer(100), 4, 2, None),
            (ValueRef::Integer(-99), 4, 2, Some(-9900)),
            (ValueRef::Integer(0), 1, 0, Some(0)),
            (real(f64::INFINITY), 10, 2, None),
            (ValueRef::Text(b"1"), 10, 2, None),
        ] {
            assert_eq!(decimal(value, p, s), expected.map(i256::from_i128), "{value:?}");
        }
        assert_eq!(numeric(real(1e21)).as_deref(), Some("1000000000000000000000"));
        assert_eq!(numeric(real(-1.5e-7)).as_deref(), Some("-0.00000015"));
    }

    #[test]
    fn dates_agree_with_sqlite() {
        let db = rusqlite::Connection::open_in_memory().unwrap();
        for day in ["1970-01-01", "2000-02-29", "1999-12-31", "0000-01-01", "9999-12-31", "1600-03-01", "1900-02-28"] {
            let expected: i64 =
                db.query_row("SELECT CAST(julianday(?1) - 2440587.5 AS INTEGER)", [day], |r| r.get(0)).unwrap();
            assert_eq!(date(day.as_bytes()).map(i64::from), Some(expected), "{day}");
        }
        for bad in
            ["1900-02-29", "2000-13-01", "2000-00-01", "2000-01-00", "2000-1-01", "02000-01-01", "2000-01-01 ", ""]
        {
            assert_eq!(date(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(timestamp(b"1970-01-01 00:00:01.5"), Some(1_500_000));
        assert_eq!(timestamp(b"1970-01-02T00:00:00"), Some(86_400_000_000));
        assert_eq!(timestamp(b"1969-12-31 23:59:59.000001"), Some(-999_999));
        for bad in [
            "1970-01-01",
            "1970-01-01 24:00:00",
            "1970-01-01 00:00:60",
            "1970-01-01 00:00:00.",
            "1970-01-01 00:00:00Z",
            "1970-01-01 00:00:00.1234567",
        ] {
            assert_eq!(timestamp(bad.as_bytes()), None, "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn parsers_never_panic(bytes: Vec<u8>, text in ".*") {
            date(&bytes);
            timestamp(&bytes);
            parse_literal(&text);
        }

        #[test]
        fn reals_read_back(bits: u64) {
            let f = f64::from_bits(bits);
            if !f.is_nan() {
                let text = literal(ValueRef::Real(f)).unwrap();
                proptest::prop_assert_eq!(parse_literal(&text), Some(Value::Real(f)));
            }
        }
    }
}
