//! Names and literals as SQL text.
//!
//! Every statement names every object in full and in quotes (the session's search path is empty), so that reserved words,
//! capitals, emoji and quotation marks in names need no case of their own. Source: the server's `quote_identifier` and
//! `quote_literal` (ruleutils.c, quote.c); here every identifier is quoted, needed or not.

use crossfade_core::TableName;

/// Longest name in bytes (`NAMEDATALEN - 1`); the server cuts longer ones, which would make two names one.
pub const MAX_NAME: usize = 63;

/// An identifier: `"it""s"`.
pub fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A table with its schema: `"shop"."orders"`.
pub fn table(name: &TableName) -> String {
    format!("{}.{}", ident(&name.schema), ident(&name.name))
}

/// Identifiers with commas between them.
pub fn idents<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(ident).collect::<Vec<_>>().join(", ")
}

/// A string literal: `'it''s'`, with a leading `E` where it holds a backslash, so that it means the same whatever
/// `standard_conforming_strings` says.
pub fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

/// The first `bytes` bytes of a name, less what would cut a character in two.
pub fn cut(name: &str, bytes: usize) -> &str {
    &name[..name.floor_char_boundary(bytes)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting() {
        assert_eq!(ident("order"), "\"order\"");
        assert_eq!(table(&TableName::new("My \"shop\"", "🦀")), "\"My \"\"shop\"\"\".\"🦀\"");
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal("a\\'b"), "E'a\\\\''b'");
        assert_eq!(idents(["a", "b"]), "\"a\", \"b\"");
        assert_eq!(cut("aé", 2), "a");
        assert_eq!(cut("ab", 9), "ab");
    }
}
