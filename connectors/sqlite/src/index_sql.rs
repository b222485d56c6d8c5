//! Takes the expressions and the predicate out of a `CREATE INDEX` statement.
//!
//! SQLite's pragmas tell an index's columns and collations, but neither the text of an indexed expression nor the `WHERE`
//! of a partial index: those stand only in the statement, as `sqlite_schema` keeps it. Its grammar:
//! <https://www.sqlite.org/lang_createindex.html>.

/// The terms of an index in order, without `ASC` or `DESC`, and its predicate.
#[derive(Debug, PartialEq, Eq)]
pub struct IndexText {
    /// Each indexed column or expression, as written.
    pub terms: Vec<String>,
    /// The text behind `WHERE`.
    pub filter: Option<String>,
}

/// Parses `CREATE [UNIQUE] INDEX ... ON table (terms) [WHERE filter]`. `None` if it is something else.
pub fn parse(sql: &str) -> Option<IndexText> {
    let tokens = tokens(sql);
    let word = |i: usize, w: &str| tokens.get(i).is_some_and(|&(a, b)| sql[a..b].eq_ignore_ascii_case(w));
    let on = (0..tokens.len()).find(|&i| word(i, "ON"))?;
    if !word(0, "CREATE") || !word(on + 2, "(") {
        return None;
    }
    let (mut terms, mut depth, mut at, mut from) = (Vec::new(), 1, on + 3, on + 3);
    while depth > 0 {
        let &(a, b) = tokens.get(at)?;
        match &sql[a..b] {
            "(" => depth += 1,
            ")" => depth -= 1,
            _ => {}
        }
        if depth == 0 || (depth == 1 && &sql[a..b] == ",") {
            let mut last = at.checked_sub(1).filter(|&l| l >= from)?;
            if last > from && (word(last, "ASC") || word(last, "DESC")) {
                last -= 1;
            }
            terms.push(sql[tokens[from].0..tokens[last].1].to_owned());
            from = at + 1;
        }
        at += 1;
    }
    let filter = match tokens.get(at) {
        None => None,
        Some(_) if word(at, "WHERE") => Some(sql[tokens.get(at + 1)?.0..tokens.last()?.1].to_owned()),
        Some(_) => return None,
    };
    Some(IndexText { terms, filter })
}

/// Whether a word stands in a statement, outside of quotes and comments.
pub fn mentions(sql: &str, word: &str) -> bool {
    tokens(sql).into_iter().any(|(a, b)| sql[a..b].eq_ignore_ascii_case(word))
}

/// Byte ranges of the tokens: words, quoted things, single other characters. Comments and blanks fall away.
fn tokens(sql: &str) -> Vec<(usize, usize)> {
    let bytes = sql.as_bytes();
    let mut out = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let from = at;
        at = match bytes[at] {
            b if b.is_ascii_whitespace() => {
                at += 1;
                continue;
            }
            b'-' if bytes.get(at + 1) == Some(&b'-') => {
                at = find(bytes, at, b"\n");
                continue;
            }
            b'/' if bytes.get(at + 1) == Some(&b'*') => {
                at = find(bytes, at + 2, b"*/");
                continue;
            }
            quote @ (b'\'' | b'"' | b'`') => quoted(bytes, at + 1, quote),
            b'[' => find(bytes, at + 1, b"]"),
            b if is_word(b) => bytes[at..].iter().position(|&b| !is_word(b)).map_or(bytes.len(), |n| at + n),
            _ => at + 1,
        };
        out.push((from, at));
    }
    out
}

fn is_word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_' || b == b'$' || b >= 0x80
}

/// Behind the next occurrence of `what`, or the end.
fn find(bytes: &[u8], from: usize, what: &[u8]) -> usize {
    let rest = bytes.get(from..).unwrap_or_default();
    rest.windows(what.len()).position(|w| w == what).map_or(bytes.len(), |n| from + n + what.len())
}

/// Behind the closing quote; a doubled quote stands for itself.
fn quoted(bytes: &[u8], mut at: usize, quote: u8) -> usize {
    while at < bytes.len() {
        if bytes[at] == quote {
            if bytes.get(at + 1) != Some(&quote) {
                return at + 1;
            }
            at += 1;
        }
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_and_filters() {
        let cases: [(&str, &[&str], Option<&str>); 4] = [
            ("CREATE UNIQUE INDEX i ON t(a, b DESC)", &["a", "b"], None),
            (
                "create unique index \"on\" on [t (x)] (lower(a || ',)') COLLATE NOCASE ASC, coalesce(b, 0)) -- c\n WHERE (a > 1) and b is null",
                &["lower(a || ',)') COLLATE NOCASE", "coalesce(b, 0)"],
                Some("(a > 1) and b is null"),
            ),
            ("CREATE INDEX x ON \"a\"\"b\"/* ( */(\"de,sc\" desc)", &["\"de,sc\""], None),
            ("CREATE INDEX x ON t(é)", &["é"], None),
        ];
        for (sql, terms, filter) in cases {
            let parsed = parse(sql).unwrap_or_else(|| panic!("{sql}"));
            assert_eq!(parsed.terms, terms, "{sql}");
            assert_eq!(parsed.filter.as_deref(), filter, "{sql}");
        }
        for bad in
            ["", "CREATE TABLE t(a)", "CREATE INDEX i ON t(", "CREATE INDEX i ON t()", "CREATE INDEX i ON t(a) x"]
        {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn words() {
        assert!(mentions("CREATE TABLE t (a INT check(a>0))", "CHECK"));
        assert!(!mentions("CREATE TABLE t (\"check\" INT, b TEXT DEFAULT 'CHECK') -- check", "CHECK"));
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in ".*", tail in "[-'\"`\\[(),a/*]*") {
            parse(&text);
            parse(&format!("CREATE INDEX i ON t{tail}"));
        }
    }
}
