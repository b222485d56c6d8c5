//! Constants as the catalog shows them, in a form that is a value of the column's logical type.
//!
//! A date that is none (`0000-00-00`), a number that is written otherwise, or bytes are not taken: a default is carried only
//! where it is certain.

use crossfade_core::{Column, DefaultValue, Logical};

/// A constant for this column.
pub fn constant(column: &Column, text: &str) -> Result<DefaultValue, &'static str> {
    const ODD: &str = "it is no value of the column's type here";
    let take = |fits: bool| if fits { Ok(DefaultValue::Text(text.to_owned())) } else { Err(ODD) };
    match &column.logical {
        Logical::Int8
        | Logical::Int16
        | Logical::Int32
        | Logical::Int64
        | Logical::UInt8
        | Logical::UInt16
        | Logical::UInt32
        | Logical::UInt64 => take(number(text) && !text.contains('.')),
        Logical::Decimal { .. } => take(number(text)),
        Logical::Float32 | Logical::Float64 => take(text.parse::<f64>().is_ok_and(f64::is_finite)),
        Logical::Text | Logical::Enum { .. } | Logical::Set { .. } | Logical::Json if text.contains('?') => {
            Err("the catalog shows a question mark, which may stand for another character")
        }
        Logical::Text | Logical::Set { .. } | Logical::Json => take(true),
        Logical::Enum { labels } => take(labels.iter().any(|l| l == text)),
        Logical::Bit { len } => {
            let bits = text.strip_prefix("b'").and_then(|t| t.strip_suffix('\'')).unwrap_or_default();
            let len = usize::try_from(*len).unwrap_or(usize::MAX);
            let fits = !bits.is_empty() && bits.len() <= len && bits.bytes().all(|b| matches!(b, b'0' | b'1'));
            if fits { Ok(DefaultValue::Text(format!("{bits:0>len$}"))) } else { Err(ODD) }
        }
        Logical::Date => take(date(text)),
        Logical::Timestamp => take(text.split_once(' ').is_some_and(|(d, t)| date(d) && time(t, 23))),
        Logical::Duration => take(time(text.strip_prefix('-').unwrap_or(text), 838)),
        Logical::TimestampTz => Err("it is told in the time zone of whoever asks"),
        Logical::Bytes => Err("it is of bytes, which the catalog does not show for certain"),
        Logical::Bool
        | Logical::Numeric
        | Logical::Uuid
        | Logical::Time
        | Logical::Postgres { .. }
        | Logical::Literal
        | Logical::Omitted => Err("constants of its type are not known here"),
    }
}

/// Whether it is an integer or a decimal, as anybody reads it.
pub fn number(text: &str) -> bool {
    let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    let text = text.strip_prefix('-').unwrap_or(text);
    match text.split_once('.') {
        Some((whole, fraction)) => digits(whole) && digits(fraction),
        None => digits(text),
    }
}

/// The text in quotes, as MariaDB's `append_unescaped` (sql/sql_string.cc) writes it.
pub fn quoted(text: &str) -> Option<String> {
    let mut chars = text.strip_prefix('\'')?.chars();
    let mut out = String::new();
    loop {
        match chars.next()? {
            '\'' => match chars.next() {
                None => return Some(out),
                Some('\'') => out.push('\''),
                Some(_) => return None,
            },
            '\\' => out.push(match chars.next()? {
                'n' => '\n',
                'r' => '\r',
                '0' => return None, // NUL, which no target takes
                other @ ('\\' | '\'') => other,
                _ => return None,
            }),
            other => out.push(other),
        }
    }
}

/// `2024-02-29`: a day that there was.
fn date(text: &str) -> bool {
    let part = |range: std::ops::Range<usize>| text.get(range).filter(|t| t.bytes().all(|b| b.is_ascii_digit()));
    let number = |range| part(range).and_then(|t| t.parse::<u32>().ok()).unwrap_or_default();
    let (year, month, day) = (number(0..4), number(5..7), number(8..10));
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => 0,
    };
    text.len() == 10
        && text.get(4..5) == Some("-")
        && text.get(7..8) == Some("-")
        && year > 0
        && (1..=days).contains(&day)
}

/// `12:34:56.123456`, with up to so many hours.
fn time(text: &str, hours: u32) -> bool {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |t: &&str| !t.is_empty() && t.len() <= 6 && t.bytes().all(|b| b.is_ascii_digit());
    let parts: Option<Vec<u32>> = whole.split(':').map(|t| Some(t).filter(digits)?.parse().ok()).collect();
    let parts = parts.unwrap_or_default();
    digits(&fraction) && matches!(parts[..], [h, m, s] if h <= hours && m < 60 && s < 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_certain() {
        assert!(number("-12.50") && number("0") && !number("1e3") && !number(".5") && !number("") && !number("0x1"));
        assert_eq!(quoted(r"'it''s \\ \n'").as_deref(), Some("it's \\ \n"));
        for text in ["'a", "a'", "'a'b'", r"'\0'", r"'a\"] {
            assert_eq!(quoted(text), None, "{text}");
        }
        assert!(
            date("2024-02-29")
                && !date("2023-02-29")
                && !date("0000-00-00")
                && !date("2024-1-01")
                && !date("2024-ö9-1")
        );
        assert!(time("23:59:59.999999", 23) && time("838:59:59", 838) && !time("24:00:00", 23) && !time("1:2", 23));
    }
}
