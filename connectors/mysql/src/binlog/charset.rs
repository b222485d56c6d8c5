//! Character sets of text in rows: the log carries the column's own bytes.

use std::borrow::Cow;

use super::reader::{Fault, Read};

/// A character set that is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Charset {
    /// ascii, utf8mb3 and utf8mb4: UTF-8 as it is.
    Utf8,
    /// MySQL's latin1, which is Windows-1252 with its five holes filled by the code points of the same number.
    Latin1,
    /// No text but bytes.
    Binary,
}

impl Charset {
    /// By the server's name; `None` if it is not carried.
    pub fn by_name(name: &str) -> Option<Self> {
        match name {
            "ascii" | "utf8" | "utf8mb3" | "utf8mb4" => Some(Charset::Utf8),
            "latin1" => Some(Charset::Latin1),
            "binary" => Some(Charset::Binary),
            _ => None,
        }
    }
}

/// 0x80 to 0x9f of Windows-1252 (`to_uni` of latin1 in the server's `strings/ctype-latin1.cc`).
const CP1252: [char; 32] = [
    '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}', '\u{90}', '‘', '’',
    '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
];

/// Text of a column as UTF-8.
pub fn text(charset: Charset, bytes: &[u8]) -> Read<Cow<'_, str>> {
    if charset == Charset::Latin1 && !bytes.is_ascii() {
        let wide = |&b: &u8| if (0x80..0xa0).contains(&b) { CP1252[usize::from(b) - 0x80] } else { char::from(b) };
        return Ok(Cow::Owned(bytes.iter().map(wide).collect()));
    }
    std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|e| {
        Fault::value(
            format!("the text holds bytes that are not characters, from byte {} on", e.valid_up_to()),
            "correct the value at the source with an UPDATE statement, or exclude the column",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latin1_is_cp1252() {
        let all: Vec<u8> = (0..=255).collect();
        let text = text(Charset::Latin1, &all).unwrap();
        assert_eq!(text.chars().count(), 256);
        assert_eq!(text.chars().nth(0x80), Some('€'));
        assert_eq!(text.chars().nth(0x81), Some('\u{81}'));
        assert_eq!(text.chars().nth(0xff), Some('ÿ'));
    }

    #[test]
    fn broken_utf8_is_refused() {
        assert!(matches!(text(Charset::Utf8, b"ab\xff"), Err(Fault::Value(v)) if v.0.contains("byte 2")));
    }
}
