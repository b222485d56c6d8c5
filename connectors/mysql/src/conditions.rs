//! Checks that mean the same in Postgres.
//!
//! Taken are comparisons of exact numbers (columns and constants), `IS [NOT] NULL`, and what AND, OR and parentheses make of
//! them: there three-valued logic and comparison are the standard's at both ends. Text is compared by a collation, floats and
//! arithmetic have rules of their own, and functions differ: a condition that holds anything else is not translated. The
//! servers print conditions anew, with names in backticks (`Item::print` in `sql/item.cc`).

use crossfade_core::{Logical, TableSchema};

/// The columns that a condition names, and the condition in Postgres' words; `None` if it may mean something else there.
pub fn translate(clause: &str, table: &TableSchema) -> Option<(Vec<String>, String)> {
    let mut parser = Parser { tokens: tokens(clause)?, at: 0, table, columns: Vec::new() };
    let condition = parser.any()?;
    (parser.at == parser.tokens.len() && !parser.columns.is_empty()).then_some((parser.columns, condition))
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// A name in backticks.
    Name(String),
    /// Digits, perhaps with a point.
    Number(String),
    /// A word, in lower case.
    Word(String),
    /// A comparison or a parenthesis.
    Sign(&'static str),
}

fn tokens(text: &str) -> Option<Vec<Token>> {
    const SIGNS: [&str; 9] = ["<>", "!=", "<=", ">=", "<", ">", "=", "(", ")"];
    let mut rest = text.trim_start();
    let mut out = Vec::new();
    while let Some(first) = rest.chars().next() {
        let run = |keep: fn(char) -> bool| rest.find(|c| !keep(c)).unwrap_or(rest.len());
        let length = if first == '`' {
            let end = 1 + rest.get(1..)?.find('`')?;
            let name = rest.get(1..end)?;
            // A backtick within a name is doubled: such names are not worth the trouble.
            if rest.get(end + 1..)?.starts_with('`') {
                return None;
            }
            out.push(Token::Name(name.to_owned()));
            end + 1
        } else if first.is_ascii_digit() {
            let end = run(|c| c.is_ascii_alphanumeric() || c == '.');
            let number = rest.get(..end)?;
            if !crate::constants::number(number) {
                return None;
            }
            out.push(Token::Number(number.to_owned()));
            end
        } else if first.is_ascii_alphabetic() {
            let end = run(|c| c.is_ascii_alphanumeric() || c == '_');
            out.push(Token::Word(rest.get(..end)?.to_ascii_lowercase()));
            end
        } else {
            let sign = SIGNS.into_iter().find(|s| rest.starts_with(s))?;
            out.push(Token::Sign(sign));
            sign.len()
        };
        rest = rest.get(length..)?.trim_start();
    }
    Some(out)
}

struct Parser<'a> {
    tokens: Vec<Token>,
    at: usize,
    table: &'a TableSchema,
    columns: Vec<String>,
}

/// Parentheses within parentheses: a server prints a few, a stack holds thousands.
const DEEPEST: usize = 200;

impl Parser<'_> {
    fn eat(&mut self, token: &Token) -> bool {
        let is = self.tokens.get(self.at) == Some(token);
        self.at += usize::from(is);
        is
    }

    fn word(&mut self, word: &str) -> bool {
        self.eat(&Token::Word(word.to_owned()))
    }

    fn any(&mut self) -> Option<String> {
        let open = self.tokens[..self.at].iter().filter(|t| **t == Token::Sign("(")).count();
        if open > DEEPEST {
            return None;
        }
        let mut all = vec![self.all()?];
        while self.word("or") {
            all.push(self.all()?);
        }
        Some(joined(all, " OR "))
    }

    fn all(&mut self) -> Option<String> {
        let mut all = vec![self.one()?];
        while self.word("and") {
            all.push(self.one()?);
        }
        Some(joined(all, " AND "))
    }

    fn one(&mut self) -> Option<String> {
        if self.eat(&Token::Sign("(")) {
            let inner = self.any()?;
            return self.eat(&Token::Sign(")")).then_some(inner);
        }
        let left = self.operand()?;
        if self.word("is") {
            let not = if self.word("not") { "NOT " } else { "" };
            return self.word("null").then(|| format!("{left} IS {not}NULL"));
        }
        let Some(Token::Sign(sign)) = self.tokens.get(self.at).cloned() else { return None };
        if matches!(sign, "(" | ")") {
            return None;
        }
        self.at += 1;
        let right = self.operand()?;
        // Comparisons do not chain in Postgres; in MySQL they do, and mean something else than they seem to.
        Some(format!("{left} {} {right}", if sign == "!=" { "<>" } else { sign }))
    }

    /// A number, or a column of exact numbers.
    fn operand(&mut self) -> Option<String> {
        let token = self.tokens.get(self.at)?.clone();
        self.at += 1;
        match token {
            Token::Number(number) => Some(number),
            Token::Name(name) => {
                let column = &self.table.columns[self.table.ordinal(&name)?];
                // A YEAR takes a number of two digits for one of four.
                let exact = !column.source_type.starts_with("year")
                    && matches!(
                        &column.logical,
                        Logical::Int8
                            | Logical::Int16
                            | Logical::Int32
                            | Logical::Int64
                            | Logical::UInt8
                            | Logical::UInt16
                            | Logical::UInt32
                            | Logical::UInt64
                            | Logical::Decimal { .. }
                    );
                let quoted = format!("\"{}\"", name.replace('"', "\"\""));
                if !self.columns.contains(&name) {
                    self.columns.push(name);
                }
                exact.then_some(quoted)
            }
            Token::Word(_) | Token::Sign(_) => None,
        }
    }
}

fn joined(mut parts: Vec<String>, by: &str) -> String {
    match parts.len() {
        1 => parts.remove(0),
        _ => parts.iter().map(|p| format!("({p})")).collect::<Vec<_>>().join(by),
    }
}

#[cfg(test)]
mod tests {
    use crossfade_core::{Column, TableName};

    use super::*;

    fn table() -> TableSchema {
        let column = |name: &str, logical| Column {
            name: name.into(),
            source_type: "x".into(),
            logical,
            nullable: true,
            auto_increment: false,
            number: 0,
            policies: Default::default(),
        };
        TableSchema {
            name: TableName::new("s", "t"),
            version: 1,
            columns: vec![
                column("a", Logical::Int32),
                column("b\"", Logical::Decimal { precision: 9, scale: 2 }),
                column("t", Logical::Text),
                column("f", Logical::Float64),
                Column { source_type: "year(4)".into(), ..column("y", Logical::Int16) },
            ],
            key: vec![],
            indexes: vec![],
            foreign_keys: vec![],
            origin: None,
            pending: vec![],
            number: 0,
        }
    }

    #[test]
    fn only_what_means_the_same() {
        for (clause, want) in [
            ("(`a` > 0)", Some("\"a\" > 0")),
            (
                "`a` != 0 and `b\"` <= 9.50 or `a` is not null",
                Some("((\"a\" <> 0) AND (\"b\"\"\" <= 9.50)) OR (\"a\" IS NOT NULL)"),
            ),
            ("((`a` >= 1) and (`a` < `b\"`))", Some("(\"a\" >= 1) AND (\"a\" < \"b\"\"\")")),
            ("(`t` = 'x')", None),
            ("(`t` > 0)", None),
            ("(`f` > 0)", None),
            ("(`y` < 70)", None),
            ("(`a` > 0 > 1)", None),
            ("(`a` + 1 > 0)", None),
            ("abs(`a`) > 0", None),
            ("(`a` <=> 1)", None),
            ("(`a` > 0", None),
            ("`a`", None),
            ("1 = 1", None),
            ("(`a` > 0x10)", None),
            ("(`other` > 0)", None),
            ("(not (`a` > 0))", None),
        ] {
            assert_eq!(translate(clause, &table()).map(|(_, c)| c).as_deref(), want, "{clause}");
        }
        assert_eq!(translate(&"(".repeat(100_000), &table()), None);
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "[`a<>=()0-9. ö!]*|.*") {
            translate(&text, &table());
        }
    }
}
