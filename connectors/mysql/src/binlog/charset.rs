//! Character sets of text in rows: the log carries the column's own bytes.
//!
//! UTF-8 in its kinds, latin1 and Unicode's wider forms are read here. Every other character set is read by a [`Table`] that
//! the server itself has filled ([`crate::charsets`]), so that a code means here what it means there; a code that the server
//! knows no character for is refused, where the server's own conversion would make it a question mark.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use crossfade_core::Unfit;

use super::reader::{Fault, Read};
use super::temporal::CORRECT;

/// A character set that is carried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Charset {
    /// ascii, utf8mb3 and utf8mb4: UTF-8 as it is.
    Utf8,
    /// MySQL's latin1, which is Windows-1252 with its five holes filled by the code points of the same number.
    Latin1,
    /// No text but bytes.
    Binary,
    /// Two bytes a character, big-endian, without surrogates.
    Ucs2,
    /// UTF-16, big-endian.
    Utf16,
    /// UTF-16, little-endian.
    Utf16Le,
    /// Four bytes a character, big-endian.
    Utf32,
    /// Any other, by the server's own table.
    Table(Arc<Table>),
}

impl Charset {
    /// Those that need no table, by the server's name.
    pub fn by_name(name: &str) -> Option<Self> {
        Some(match name {
            "ascii" | "utf8" | "utf8mb3" | "utf8mb4" => Charset::Utf8,
            "latin1" => Charset::Latin1,
            "binary" => Charset::Binary,
            "ucs2" => Charset::Ucs2,
            "utf16" => Charset::Utf16,
            "utf16le" => Charset::Utf16Le,
            "utf32" => Charset::Utf32,
            _ => return None,
        })
    }
}

/// Codes of one to four bytes, and their characters.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Table {
    codes: HashMap<u32, char>,
    longest: usize,
}

impl Table {
    /// Adds a code.
    pub fn insert(&mut self, code: &[u8], character: char) {
        self.codes.insert(key(code), character);
        self.longest = self.longest.max(code.len());
    }

    /// How many codes there are.
    pub fn len(&self) -> usize {
        self.codes.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.codes.is_empty()
    }

    /// The first character and the bytes that it takes. No code begins with another one: a shorter one wins.
    fn first(&self, bytes: &[u8]) -> Option<(char, usize)> {
        (1..=self.longest.min(bytes.len())).find_map(|n| self.codes.get(&key(&bytes[..n])).map(|c| (*c, n)))
    }

    fn text(&self, bytes: &[u8]) -> Read<String> {
        let mut text = String::with_capacity(bytes.len() * 2);
        let mut at = 0;
        while at < bytes.len() {
            let (character, length) = self.first(&bytes[at..]).ok_or_else(|| broken(at))?;
            text.push(character);
            at += length;
        }
        Ok(text)
    }

    /// With U+FFFD for each byte that no code begins with.
    fn lossy(&self, mut bytes: &[u8]) -> String {
        let mut text = String::with_capacity(bytes.len() * 2);
        while !bytes.is_empty() {
            let (character, length) = self.first(bytes).unwrap_or((char::REPLACEMENT_CHARACTER, 1));
            text.push(character);
            bytes = &bytes[length..];
        }
        text
    }
}

/// A code of one to four bytes as a number; a byte of 0 in front makes it another code than without.
fn key(code: &[u8]) -> u32 {
    match code {
        [0, _, ..] => u32::MAX,
        _ => code.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte)),
    }
}

/// 0x80 to 0x9f of Windows-1252 (`to_uni` of latin1 in the server's `strings/ctype-latin1.cc`).
const CP1252: [char; 32] = [
    '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}', '\u{90}', '‘', '’',
    '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
];

/// Text of a column as UTF-8.
pub fn text<'b>(charset: &Charset, bytes: &'b [u8]) -> Read<Cow<'b, str>> {
    let unless = |fault: Fault| fault.unless(Unfit::Text { original: bytes.to_vec(), replaced: lossy(charset, bytes) });
    strict(charset, bytes).map_err(unless)
}

fn strict<'b>(charset: &Charset, bytes: &'b [u8]) -> Read<Cow<'b, str>> {
    match charset {
        Charset::Utf8 | Charset::Binary => {
            std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|e| broken(e.valid_up_to()))
        }
        Charset::Latin1 if bytes.is_ascii() => strict(&Charset::Utf8, bytes),
        Charset::Latin1 => {
            let wide = |&b: &u8| if (0x80..0xa0).contains(&b) { CP1252[usize::from(b) - 0x80] } else { char::from(b) };
            Ok(Cow::Owned(bytes.iter().map(wide).collect()))
        }
        Charset::Ucs2 => wide(bytes, |[a, b]: [u8; 2]| u32::from_be_bytes([0, 0, a, b])),
        Charset::Utf32 => wide(bytes, u32::from_be_bytes),
        Charset::Utf16 => utf16(bytes, u16::from_be_bytes),
        Charset::Utf16Le => utf16(bytes, u16::from_le_bytes),
        Charset::Table(table) => table.text(bytes).map(Cow::Owned),
    }
}

/// The fault of text of which trailing spaces are padding: they are no part of what takes its place.
pub fn unpadded(fault: Fault) -> Fault {
    match fault {
        Fault::Value(mut refusal) => {
            if let Some(Unfit::Text { replaced, .. }) = &mut refusal.unfit {
                replaced.truncate(replaced.trim_end_matches(' ').len());
            }
            Fault::Value(refusal)
        }
        other => other,
    }
}

/// Text in which U+FFFD stands for what is no character.
fn lossy(charset: &Charset, bytes: &[u8]) -> String {
    fn points<const N: usize>(bytes: &[u8], point: impl Fn([u8; N]) -> u32) -> String {
        let one = |unit: &[u8]| unit.try_into().ok().and_then(|unit| char::from_u32(point(unit)));
        bytes.chunks(N).map(|unit| one(unit).unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
    }
    fn units(bytes: &[u8], unit: impl Fn([u8; 2]) -> u16) -> String {
        let (units, rest) = bytes.as_chunks::<2>();
        let characters = char::decode_utf16(units.iter().map(|u| unit(*u)));
        let odd = (!rest.is_empty()).then_some(char::REPLACEMENT_CHARACTER);
        characters.map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).chain(odd).collect()
    }
    match charset {
        // Every byte is a character of latin1.
        Charset::Utf8 | Charset::Binary | Charset::Latin1 => String::from_utf8_lossy(bytes).into_owned(),
        Charset::Ucs2 => points(bytes, |[a, b]: [u8; 2]| u32::from_be_bytes([0, 0, a, b])),
        Charset::Utf32 => points(bytes, u32::from_be_bytes),
        Charset::Utf16 => units(bytes, u16::from_be_bytes),
        Charset::Utf16Le => units(bytes, u16::from_le_bytes),
        Charset::Table(table) => table.lossy(bytes),
    }
}

/// Code points of `N` bytes each.
fn wide<'b, const N: usize>(bytes: &[u8], point: impl Fn([u8; N]) -> u32) -> Read<Cow<'b, str>> {
    let (units, rest) = bytes.as_chunks::<N>();
    let mut text = String::with_capacity(bytes.len());
    for (i, unit) in units.iter().enumerate() {
        text.push(char::from_u32(point(*unit)).ok_or_else(|| broken(i * N))?);
    }
    if rest.is_empty() { Ok(Cow::Owned(text)) } else { Err(broken(bytes.len() - rest.len())) }
}

fn utf16<'b>(bytes: &[u8], unit: impl Fn([u8; 2]) -> u16) -> Read<Cow<'b, str>> {
    let (units, rest) = bytes.as_chunks::<2>();
    let text: Result<String, _> = char::decode_utf16(units.iter().map(|u| unit(*u))).collect();
    match (text, rest) {
        (Ok(text), []) => Ok(Cow::Owned(text)),
        _ => Err(Fault::value("the text holds UTF-16 that is not characters", CORRECT)),
    }
}

fn broken(at: usize) -> Fault {
    Fault::value(format!("the text holds bytes that are not characters, from byte {at} on"), CORRECT)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn latin1_is_cp1252() {
        let all: Vec<u8> = (0..=255).collect();
        let text = text(&Charset::Latin1, &all).unwrap();
        assert_eq!(text.chars().count(), 256);
        assert_eq!(text.chars().nth(0x80), Some('€'));
        assert_eq!(text.chars().nth(0x81), Some('\u{81}'));
        assert_eq!(text.chars().nth(0xff), Some('ÿ'));
    }

    #[test]
    fn broken_text_is_refused() {
        let mut table = Table::default();
        table.insert(b"a", 'a');
        table.insert(b"\x81\x40", '丂');
        table.insert(b"\0", '\0');
        let table = Charset::Table(Arc::new(table));
        assert_eq!(text(&table, b"a\x81\x40a\0\0").unwrap(), "a丂a\0\0");
        for (charset, bytes, at) in [
            (&Charset::Utf8, &b"ab\xff"[..], "byte 2"),
            (&table, b"a\x81", "byte 1"),
            (&table, b"b", "byte 0"),
            (&Charset::Ucs2, b"\0a\xd8\0", "byte 2"),
            (&Charset::Ucs2, b"\0a\0", "byte 2"),
            (&Charset::Utf32, b"\0\x11\0\0", "byte 0"),
            (&Charset::Utf16, b"\xd8\0", "UTF-16"),
            (&Charset::Utf16Le, b"a", "UTF-16"),
        ] {
            assert!(
                matches!(text(charset, bytes), Err(Fault::Value(v)) if v.message.contains(at)),
                "{charset:?} {bytes:?}"
            );
        }
        for (charset, bytes, replaced) in [
            (&Charset::Utf8, &b"ab\xff"[..], "ab\u{fffd}"),
            (&table, b"\x81b\x81\x40", "\u{fffd}\u{fffd}丂"),
            (&Charset::Ucs2, b"\0a\xd8\0\0", "a\u{fffd}\u{fffd}"),
            (&Charset::Utf32, b"\0\x11\0\0\0\0\0a", "\u{fffd}a"),
            (&Charset::Utf16, b"\xd8\0\0aa", "\u{fffd}a\u{fffd}"),
        ] {
            let Err(Fault::Value(refusal)) = text(charset, bytes) else { panic!("{bytes:?}") };
            let passes = Unfit::Text { original: bytes.to_vec(), replaced: replaced.into() };
            assert_eq!(refusal.unfit, Some(passes), "{charset:?}");
        }
        assert_eq!(text(&Charset::Utf16, b"\xd8\x34\xdd\x1e").unwrap(), "𝄞");
        assert_eq!(text(&Charset::Utf16Le, b"a\0").unwrap(), "a");
        assert_eq!(text(&Charset::Utf32, b"\0\x01\xd1\x1e").unwrap(), "𝄞");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            for charset in ["utf8", "latin1", "ucs2", "utf16", "utf16le", "utf32"] {
                let _ = text(&Charset::by_name(charset).unwrap(), &bytes);
            }
        }
    }
}
