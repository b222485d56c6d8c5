//! Tables of character sets, asked of the server.
//!
//! The log holds text as its column does. Which character a code of gbk or sjis stands for differs between libraries, and the
//! server's own answer is the one that its clients have always seen: so each code that a character set may have is converted
//! by the server, once for a process. A code that it answers with NULL, a question mark or two characters is none.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crossfade_core::{Error, Result};

use crate::binlog::charset::{Charset, Table};
use crate::catalog::quote;
use crate::session::Session;

/// Bytes from and to, for each place of a code.
type Codes = &'static [(u8, u8)];

const ONE: Codes = &[(0, 255)];
/// The two-byte codes of the servers' East Asian character sets lie in here (`strings/ctype-*.cc`).
const TWO: Codes = &[(0x81, 0xfe), (0x30, 0xfe)];
/// The second set of characters of EUC-JP.
const THREE: Codes = &[(0x8f, 0x8f), (0xa1, 0xfe), (0xa1, 0xfe)];
/// What GB 18030 has of U+0080 to U+FFFF in four bytes.
const FOUR: Codes = &[(0x81, 0x84), (0x30, 0x39), (0x81, 0xfe), (0x30, 0x39)];

/// Character sets that are read by a table, and the shapes of their codes.
const KNOWN: [(&str, &[Codes]); 32] = [
    ("big5", &[ONE, TWO]),
    ("dec8", &[ONE]),
    ("cp850", &[ONE]),
    ("hp8", &[ONE]),
    ("koi8r", &[ONE]),
    ("latin2", &[ONE]),
    ("swe7", &[ONE]),
    ("ujis", &[ONE, TWO, THREE]),
    ("sjis", &[ONE, TWO]),
    ("hebrew", &[ONE]),
    ("tis620", &[ONE]),
    ("euckr", &[ONE, TWO]),
    ("koi8u", &[ONE]),
    ("gb2312", &[ONE, TWO]),
    ("greek", &[ONE]),
    ("cp1250", &[ONE]),
    ("gbk", &[ONE, TWO]),
    ("latin5", &[ONE]),
    ("armscii8", &[ONE]),
    ("cp866", &[ONE]),
    ("keybcs2", &[ONE]),
    ("macce", &[ONE]),
    ("macroman", &[ONE]),
    ("cp852", &[ONE]),
    ("latin7", &[ONE]),
    ("cp1251", &[ONE]),
    ("cp1256", &[ONE]),
    ("cp1257", &[ONE]),
    ("geostd8", &[ONE]),
    ("cp932", &[ONE, TWO]),
    ("eucjpms", &[ONE, TWO, THREE]),
    ("gb18030", &[ONE, TWO, FOUR]),
];

/// Whether text in a character set can be read.
pub fn is_known(name: &str) -> bool {
    Charset::by_name(name).is_some_and(|c| c != Charset::Binary) || shapes(name).is_some()
}

fn shapes(name: &str) -> Option<&'static [Codes]> {
    KNOWN.iter().find(|(known, _)| *known == name).map(|(_, shapes)| *shapes)
}

/// Character sets of one server, as far as they have been asked for.
#[derive(Debug, Default)]
pub struct Charsets(Mutex<HashMap<String, Charset>>);

impl Charsets {
    /// A character set; `None` for one that is not carried. `session` opens a connection for a table not yet asked for.
    pub fn get(&self, name: &str, session: impl FnOnce() -> Result<Session>) -> Result<Option<Charset>> {
        if let Some(charset) = Charset::by_name(name) {
            return Ok(Some(charset));
        }
        let Some(shapes) = shapes(name) else { return Ok(None) };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(charset) = known.get(name) {
            return Ok(Some(charset.clone()));
        }
        let charset = Charset::Table(Arc::new(load(&mut session()?, name, shapes)?));
        known.insert(name.to_owned(), charset.clone());
        Ok(Some(charset))
    }
}

/// Asks for every code of these shapes.
fn load(session: &mut Session, name: &str, shapes: &[Codes]) -> Result<Table> {
    let mut table = Table::default();
    for codes in shapes {
        for row in session.rows(&question(name, codes))? {
            if let [Some(code), Some(text)] = row.as_slice()
                && let Some((code, character)) = answer(code, text)
            {
                table.insert(&code, character);
            }
        }
    }
    if shapes.contains(&FOUR) {
        // GB 18030 counts the planes beyond the first through, from 0x90308130 on.
        for (n, character) in ('\u{10000}'..='\u{10ffff}').enumerate() {
            let digit = |n: usize, from: u8, radix: usize| from + (n % radix) as u8;
            let code =
                [digit(n / 12_600, 0x90, 256), digit(n / 1260, 0x30, 10), digit(n / 10, 0x81, 126), digit(n, 0x30, 10)];
            table.insert(&code, character);
        }
    }
    if table.is_empty() {
        return Err(Error::corrupt(format!("the server converts no code of character set {name}")));
    }
    Ok(table)
}

/// A query for code and character, both in hexadecimal, of each code; `CONVERT` makes NULL or `?` of what is none.
fn question(name: &str, codes: Codes) -> String {
    let place = |i: usize| format!("n{i}.i");
    let bytes: Vec<String> = (0..codes.len()).map(|i| format!("CHAR({})", place(i))).collect();
    let from: Vec<String> = (0..codes.len()).map(|i| format!("n AS n{i}")).collect();
    let within: Vec<String> =
        codes.iter().enumerate().map(|(i, (a, b))| format!("{} BETWEEN {a} AND {b}", place(i))).collect();
    let code = format!("CAST(CONCAT({}) AS BINARY)", bytes.join(", "));
    format!(
        "WITH RECURSIVE n AS (SELECT 0 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 255) \
         SELECT HEX({code}), HEX(CONVERT(CONVERT({code} USING {}) USING utf8mb4)) FROM {} WHERE {}",
        quote(name),
        from.join(" JOIN "),
        within.join(" AND ")
    )
}

/// A code and its one character, from hexadecimal.
fn answer(code: &str, text: &str) -> Option<(Vec<u8>, char)> {
    let bytes = |hex: &str| -> Option<Vec<u8>> {
        (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(hex.get(i..i + 2)?, 16).ok()).collect()
    };
    let (code, text) = (bytes(code)?, String::from_utf8(bytes(text)?).ok()?);
    let mut characters = text.chars();
    let character = characters.next()?;
    (characters.next().is_none() && (character != '?' || code == b"?")).then_some((code, character))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_one_character() {
        assert_eq!(answer("8140", "E4B882"), Some((vec![0x81, 0x40], '丂')));
        assert_eq!(answer("3F", "3F"), Some((vec![0x3f], '?')));
        for none in ["", "3F", "6162", "zz"] {
            assert_eq!(answer("8141", none), None, "{none}");
        }
    }
}
