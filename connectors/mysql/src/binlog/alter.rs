//! The clauses of ALTER TABLE that change columns, key or rows.

use super::statement::{Cursor, Token};

/// One clause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AlterStep {
    /// ADD COLUMN, and what rows that were there hold in it.
    Add {
        /// Its name.
        column: String,
        /// Its default.
        default: Default,
    },
    /// DROP COLUMN.
    Drop(String),
    /// RENAME COLUMN or CHANGE to another name.
    Rename(String, String),
    /// MODIFY or CHANGE: type, nullability or character set may be another.
    Retype(String),
    /// CONVERT TO CHARACTER SET: as [`AlterStep::Retype`] for all text.
    Convert,
    /// The primary key is another.
    Key,
    /// The table has another name.
    RenameTable,
    /// Rows vanish or appear without row events: the clause.
    Rows(String),
}

/// The DEFAULT of an added column, as its ALTER has it.
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

/// Reads the clauses behind the table's name.
pub fn alter_steps(c: &mut Cursor<'_>) -> Vec<AlterStep> {
    let mut steps = Vec::new();
    for clause in clauses(c.rest) {
        step(clause, &mut steps);
    }
    steps
}

/// Cuts at commas outside of parentheses.
fn clauses(tokens: &[Token]) -> Vec<&[Token]> {
    let mut depth = 0i32;
    tokens
        .split(|t| {
            match t {
                Token::Mark('(') => depth += 1,
                Token::Mark(')') => depth -= 1,
                _ => {}
            }
            depth == 0 && *t == Token::Mark(',')
        })
        .collect()
}

fn step(clause: &[Token], steps: &mut Vec<AlterStep>) {
    let word = |i: usize, w: &str| clause.get(i).is_some_and(|t| t.is(w));
    let any = |i: usize, words: &[&str]| words.iter().any(|w| word(i, w));
    let named = |from: usize| {
        let at = from + usize::from(word(from, "COLUMN"));
        let at = at + if word(at, "IF") { if word(at + 1, "NOT") { 3 } else { 2 } } else { 0 };
        (at, clause.get(at).and_then(name))
    };
    match () {
        _ if any(0, &["TRUNCATE", "EXCHANGE", "DISCARD", "IMPORT"]) || word(0, "DROP") && word(1, "PARTITION") => {
            steps.push(AlterStep::Rows(words(clause)));
        }
        _ if word(0, "CONVERT") && word(1, "TO") => steps.push(AlterStep::Convert),
        _ if word(0, "CONVERT") => steps.push(AlterStep::Rows(words(clause))),
        _ if any(0, &["ADD", "DROP"]) && word(1, "PRIMARY") => steps.push(AlterStep::Key),
        _ if word(0, "ADD") && word(1, "CONSTRAINT") && clause.iter().any(|t| t.is("PRIMARY")) => {
            steps.push(AlterStep::Key);
        }
        _ if word(0, "ADD") && any(1, &NOT_COLUMNS) => {}
        _ if word(0, "ADD") => add(clause, named(1), steps),
        _ if word(0, "DROP") && any(1, &NOT_COLUMNS) => {}
        _ if word(0, "DROP") => steps.extend(named(1).1.map(AlterStep::Drop)),
        _ if word(0, "MODIFY") => steps.extend(named(1).1.map(AlterStep::Retype)),
        _ if word(0, "CHANGE") => {
            let (at, from) = named(1);
            if let (Some(from), Some(to)) = (from, clause.get(at + 1).and_then(name)) {
                steps.push(AlterStep::Retype(to.clone()));
                if from != to {
                    steps.push(AlterStep::Rename(from, to));
                }
            }
        }
        _ if word(0, "RENAME") && word(1, "COLUMN") => {
            let (at, from) = named(1);
            if let (Some(from), Some(to)) = (from, clause.get(at + 2).and_then(name)) {
                steps.push(AlterStep::Rename(from, to));
            }
        }
        _ if word(0, "RENAME") && any(1, &["INDEX", "KEY"]) => {}
        _ if word(0, "RENAME") => steps.push(AlterStep::RenameTable),
        _ => {}
    }
}

const NOT_COLUMNS: [&str; 11] = [
    "INDEX",
    "KEY",
    "UNIQUE",
    "FULLTEXT",
    "SPATIAL",
    "FOREIGN",
    "CHECK",
    "CONSTRAINT",
    "PARTITION",
    "PERIOD",
    "SYSTEM",
];

fn name(token: &Token) -> Option<String> {
    match token {
        Token::Text(t) => Some(t.clone()),
        other => other.name().map(str::to_owned),
    }
}

/// `ADD [COLUMN] a def` or `ADD [COLUMN] (a def, b def)`.
fn add(clause: &[Token], (at, column): (usize, Option<String>), steps: &mut Vec<AlterStep>) {
    let definition = clause.get(at + 1..).unwrap_or_default();
    match (column, clause.get(at)) {
        (Some(column), _) => steps.push(AlterStep::Add { column, default: default(definition) }),
        (None, Some(Token::Mark('('))) => {
            let inside = definition.strip_suffix(&[Token::Mark(')')]).unwrap_or(definition);
            for part in clauses(inside) {
                let column = part.first().and_then(name);
                let definition = part.get(1..).unwrap_or_default();
                steps.extend(column.map(|column| AlterStep::Add { column, default: default(definition) }));
            }
        }
        _ => {}
    }
}

/// The DEFAULT in a column's definition.
fn default(definition: &[Token]) -> Default {
    let generated = |t: &Token| t.is("AS") || t.is("AUTO_INCREMENT") || t.is("SERIAL");
    if definition.iter().any(generated) {
        return Default::Expression;
    }
    let Some(at) = definition.iter().position(|t| t.is("DEFAULT")) else { return Default::Missing };
    let rest = &definition[at + 1..];
    // A sign, a fraction and an exponent are tokens of their own.
    match rest {
        [Token::Text(text), ..] => Default::Constant(text.clone()),
        [t, ..] if t.is("NULL") => Default::Null,
        [t, ..] if t.is("TRUE") => Default::Constant("1".into()),
        [t, ..] if t.is("FALSE") => Default::Constant("0".into()),
        [Token::Mark('-' | '+'), ..] => match number(&rest[1..]) {
            Some(n) if rest[0] == Token::Mark('-') => Default::Constant(format!("-{n}")),
            Some(n) => Default::Constant(n),
            None => Default::Expression,
        },
        _ => number(rest).map_or(Default::Expression, Default::Constant),
    }
}

fn number(tokens: &[Token]) -> Option<String> {
    let digits = |t: Option<&Token>| match t {
        Some(Token::Word(w)) if w.bytes().all(|b| b.is_ascii_digit()) => Some(w.clone()),
        _ => None,
    };
    let whole = digits(tokens.first())?;
    if tokens.get(1) != Some(&Token::Mark('.')) {
        return Some(whole);
    }
    digits(tokens.get(2)).map(|fraction| format!("{whole}.{fraction}"))
}

fn words(clause: &[Token]) -> String {
    let text: Vec<&str> = clause.iter().take(3).filter_map(Token::name).collect();
    text.join(" ")
}

#[cfg(test)]
mod tests {
    use super::super::statement::{Statement, read};
    use super::*;

    fn steps(clauses: &str) -> Vec<AlterStep> {
        match read(&format!("ALTER TABLE t {clauses}"), "s") {
            Statement::Alter(_, steps) => steps,
            other => panic!("{other:?}"),
        }
    }

    fn add(column: &str, default: Default) -> AlterStep {
        AlterStep::Add { column: column.into(), default }
    }

    #[test]
    fn columns() {
        assert_eq!(
            steps(
                "ADD COLUMN a decimal(10,2) NOT NULL DEFAULT -1.50 AFTER b, ADD `c d` text, DROP e, RENAME COLUMN f TO g"
            ),
            [
                add("a", Default::Constant("-1.50".into())),
                add("c d", Default::Missing),
                AlterStep::Drop("e".into()),
                AlterStep::Rename("f".into(), "g".into()),
            ]
        );
        assert_eq!(
            steps("ADD (x int DEFAULT 'it''s', y datetime DEFAULT now()), ADD INDEX i (x), ALGORITHM=INSTANT"),
            [add("x", Default::Constant("it's".into())), add("y", Default::Expression)]
        );
        assert_eq!(
            steps("CHANGE a b int, MODIFY c int, CHANGE COLUMN d d int"),
            [
                AlterStep::Retype("b".into()),
                AlterStep::Rename("a".into(), "b".into()),
                AlterStep::Retype("c".into()),
                AlterStep::Retype("d".into()),
            ]
        );
        assert_eq!(steps("ADD COLUMN IF NOT EXISTS a int DEFAULT NULL"), [add("a", Default::Null)]);
    }

    #[test]
    fn rows_key_and_name() {
        assert_eq!(steps("TRUNCATE PARTITION p0"), [AlterStep::Rows("TRUNCATE PARTITION p0".into())]);
        assert_eq!(steps("DROP PARTITION p0, p1")[0], AlterStep::Rows("DROP PARTITION p0".into()));
        assert_eq!(steps("DROP PRIMARY KEY, ADD PRIMARY KEY (b)"), [AlterStep::Key, AlterStep::Key]);
        assert_eq!(steps("RENAME TO u"), [AlterStep::RenameTable]);
        assert_eq!(steps("ENGINE=InnoDB, ADD CONSTRAINT c FOREIGN KEY (a) REFERENCES u (b)"), []);
    }
}
