//! A column's definition as an ALTER writes it: type, character set, NULL, default.
//!
//! What a statement did to rows that were there is judged by its own words. The present catalog would be the wrong judge:
//! a later statement may have put back the type that an earlier one took away, and with it digits and characters.

use super::statement::{Token, tokens};

/// A column's definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// The type in one spelling, see [`kind_of`]; a spelling that is not known stays as it is, and equals no other.
    pub kind: String,
    /// The character set that is named, or that the named collation belongs to.
    pub charset: Option<String>,
    /// Whether NULL or NOT NULL is written: whether it admits NULL.
    pub nullable: Option<bool>,
    /// Whether the server numbers rows by it.
    pub auto_increment: bool,
    /// Whether its values follow from others.
    pub generated: bool,
    /// Its default.
    pub default: Default,
}

/// The DEFAULT of a definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Default {
    /// None is written.
    Missing,
    /// NULL.
    Null,
    /// A constant, as text.
    Constant(String),
    /// Anything else.
    Expression,
}

/// Reads what stands behind a column's name.
pub fn definition(tokens: &[Token]) -> Definition {
    Definition {
        kind: kind(tokens),
        charset: charset(tokens),
        nullable: nullable(tokens),
        auto_increment: tokens.iter().any(|t| t.is("AUTO_INCREMENT") || t.is("SERIAL")),
        generated: tokens.iter().any(|t| t.is("AS") || t.is("GENERATED")),
        default: default(tokens),
    }
}

/// Whether a definition makes the column the primary key: `PRIMARY KEY`, or `KEY` alone.
pub fn is_key(tokens: &[Token]) -> bool {
    let unique = |i: usize| i.checked_sub(1).and_then(|i| tokens.get(i)).is_some_and(|t| t.is("UNIQUE"));
    tokens.iter().enumerate().any(|(i, t)| t.is("PRIMARY") || t.is("KEY") && !unique(i))
}

/// A type as information_schema spells it, in the spelling of [`Definition::kind`].
pub fn kind_of(source_type: &str) -> String {
    kind(&tokens(source_type))
}

/// `int unsigned`, `decimal(10,2)`, `varchar(40)`, `enum('a','b')`: one spelling for each set of values. The display width
/// of integers is none of it; what a missing length stands for is written out.
fn kind(tokens: &[Token]) -> String {
    let Some(first) = tokens.first().and_then(Token::name) else { return String::new() };
    let mut name = first.to_ascii_lowercase();
    let mut rest = &tokens[1..];
    for (word, second) in [("double", "PRECISION"), ("character", "VARYING"), ("char", "VARYING")] {
        if name == word && rest.first().is_some_and(|t| t.is(second)) {
            rest = &rest[1..];
            name = if word == "double" { "double".into() } else { "varchar".into() };
        }
    }
    let name = match name.as_str() {
        "int1" | "bool" | "boolean" => "tinyint",
        "int2" => "smallint",
        "int3" | "middleint" => "mediumint",
        "integer" | "int4" => "int",
        "int8" => "bigint",
        "dec" | "numeric" | "fixed" => "decimal",
        "float4" => "float",
        "float8" => "double",
        "character" => "char",
        "varcharacter" => "varchar",
        other => other,
    };
    let arguments = arguments(rest);
    let list = |given: &str| format!("{name}({given})");
    let sized = match (name, arguments.as_slice()) {
        ("tinyint" | "smallint" | "mediumint" | "int" | "bigint" | "year", _) => name.to_owned(),
        ("decimal", []) => list("10,0"),
        ("decimal", [digits]) => list(&format!("{digits},0")),
        ("char" | "binary" | "bit", []) => list("1"),
        ("datetime" | "timestamp" | "time", [zero]) if zero == "0" => name.to_owned(),
        ("float", [digits]) => match digits.parse::<u8>() {
            Ok(0..=24) => "float".to_owned(),
            _ => "double".to_owned(),
        },
        (_, []) => name.to_owned(),
        (_, given) => list(&given.join(",")),
    };
    let unsigned = tokens.iter().any(|t| t.is("UNSIGNED") || t.is("ZEROFILL"));
    // CHAR(n) BYTE is BINARY(n); which spelling information_schema would use does not matter, as long as it differs.
    let bytes = if tokens.iter().any(|t| t.is("BYTE")) { " byte" } else { "" };
    format!("{sized}{}{bytes}", if unsigned { " unsigned" } else { "" })
}

/// What stands in parentheses behind a type's name.
fn arguments(tokens: &[Token]) -> Vec<String> {
    let Some(Token::Mark('(')) = tokens.first() else { return Vec::new() };
    let inside = tokens[1..].iter().take_while(|t| **t != Token::Mark(')'));
    let text = |t: &Token| match t {
        Token::Text(text) => Some(format!("'{}'", text.replace('\'', "''"))),
        Token::Mark(',') => None,
        Token::Mark(other) => Some(other.to_string()),
        other => other.name().map(str::to_owned),
    };
    inside.filter_map(text).collect()
}

fn charset(tokens: &[Token]) -> Option<String> {
    let mut found = None;
    for (i, token) in tokens.iter().enumerate() {
        let at = |n: usize| tokens.get(i + n).filter(|t| **t != Token::Mark('='));
        let word = |n: usize| at(n).or_else(|| at(n + 1));
        let text = |token: Option<&Token>| match token {
            Some(Token::Text(text)) => Some(text.to_ascii_lowercase()),
            Some(other) => other.name().map(str::to_ascii_lowercase),
            None => None,
        };
        if token.is("CHARSET") {
            return text(word(1));
        }
        if token.is("CHARACTER") && at(1).is_some_and(|t| t.is("SET")) {
            return text(word(2));
        }
        if token.is("ASCII") || token.is("UNICODE") || token.is("BYTE") {
            return text(Some(token));
        }
        if token.is("COLLATE") {
            found = text(word(1)).map(|c| of_collation(&c).to_owned());
        }
    }
    found
}

/// The character set that a collation's name begins with.
pub fn of_collation(collation: &str) -> &str {
    collation.split('_').next().unwrap_or(collation)
}

/// `CHARACTER SET x` of `CONVERT TO`.
pub fn convert_charset(tokens: &[Token]) -> Option<String> {
    charset(tokens)
}

fn nullable(tokens: &[Token]) -> Option<bool> {
    let before = |i: usize| i.checked_sub(1).and_then(|i| tokens.get(i));
    let written = |(i, t): (usize, &Token)| match before(i) {
        _ if !t.is("NULL") => None,
        Some(b) if b.is("NOT") => Some(false),
        Some(b) if b.is("DEFAULT") || b.is("SET") => None,
        _ => Some(true),
    };
    tokens.iter().enumerate().filter_map(written).next_back()
}

fn default(definition: &[Token]) -> Default {
    let Some(at) = definition.iter().position(|t| t.is("DEFAULT")) else { return Default::Missing };
    let rest = &definition[at + 1..];
    let (value, behind) = match rest {
        [Token::Text(text), behind @ ..] => (Default::Constant(text.clone()), behind),
        [t, behind @ ..] if t.is("NULL") => (Default::Null, behind),
        [t, behind @ ..] if t.is("TRUE") => (Default::Constant("1".into()), behind),
        [t, behind @ ..] if t.is("FALSE") => (Default::Constant("0".into()), behind),
        [Token::Mark(sign @ ('-' | '+')), behind @ ..] => match number(behind) {
            Some((n, behind)) if *sign == '-' => (Default::Constant(format!("-{n}")), behind),
            Some((n, behind)) => (Default::Constant(n), behind),
            None => return Default::Expression,
        },
        _ => match number(rest) {
            Some((n, behind)) => (Default::Constant(n), behind),
            None => return Default::Expression,
        },
    };
    // An operator or another string behind it: the constant is only a part of the default.
    match behind.first() {
        None | Some(Token::Word(_)) => value,
        Some(Token::Mark(_) | Token::Text(_) | Token::Quoted(_)) => Default::Expression,
    }
}

/// A number and what stands behind it: a fraction is a token of its own. One with an exponent is none.
fn number(tokens: &[Token]) -> Option<(String, &[Token])> {
    let digits = |t: Option<&Token>| match t {
        Some(Token::Word(w)) if w.bytes().all(|b| b.is_ascii_digit()) => Some(w.clone()),
        _ => None,
    };
    let whole = digits(tokens.first())?;
    if tokens.get(1) != Some(&Token::Mark('.')) {
        return Some((whole, &tokens[1..]));
    }
    digits(tokens.get(2)).map(|fraction| (format!("{whole}.{fraction}"), &tokens[3..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Definition {
        definition(&tokens(text))
    }

    #[test]
    fn one_spelling_for_each_set_of_values() {
        for (a, b) in [
            ("INTEGER(11) UNSIGNED NOT NULL", "int unsigned"),
            ("int(10) unsigned zerofill", "int unsigned"),
            ("bool", "tinyint(1)"),
            ("numeric(6)", "decimal(6,0)"),
            ("CHARACTER VARYING (40) CHARACTER SET latin1", "varchar(40)"),
            ("char", "char(1)"),
            ("datetime(0) DEFAULT now()", "datetime"),
            ("float(10)", "float"),
            ("ENUM ('a','it''s')", "enum('a','it''s')"),
            ("double precision", "double"),
        ] {
            assert_eq!(read(a).kind, kind_of(b), "{a}");
        }
        for (a, b) in [("datetime(3)", "datetime"), ("char(9) byte", "char(9)"), ("text(9)", "text"), ("int", "bigint")]
        {
            assert_ne!(read(a).kind, kind_of(b), "{a}");
        }
    }

    #[test]
    fn what_else_is_written() {
        let d = read("varchar(9) CHARSET = 'LATIN1' COLLATE latin1_bin NOT NULL DEFAULT 'x' COMMENT 'as null'");
        assert_eq!((d.charset.as_deref(), d.nullable, d.generated), (Some("latin1"), Some(false), false));
        assert_eq!(d.default, Default::Constant("x".into()));
        assert_eq!(read("text COLLATE utf8mb4_bin").charset.as_deref(), Some("utf8mb4"));
        assert_eq!(read("int DEFAULT NULL").nullable, None);
        assert_eq!(read("int NULL DEFAULT -1.50").default, Default::Constant("-1.50".into()));
        assert!(read("int AS (a + 1) STORED").generated && read("int AUTO_INCREMENT").auto_increment);
        for expression in ["1 + 1", "'a' 'b'", "now()", "1e3", "x'41'", "(1)", "_latin1'a'", "b'1'"] {
            assert_eq!(read(&format!("int DEFAULT {expression}")).default, Default::Expression, "{expression}");
        }
        assert!(is_key(&tokens("int PRIMARY KEY")) && is_key(&tokens("int KEY")) && !is_key(&tokens("int UNIQUE KEY")));
    }
}
