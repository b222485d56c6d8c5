//! The clauses of ALTER TABLE that change columns, key or rows.

use super::definition::{Definition, convert_charset, definition, is_key};
use super::statement::{Cursor, Token};

/// One clause. Columns are named as they were before the statement; only added ones, and new names, are of after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AlterStep {
    /// ADD COLUMN.
    Add(String, Definition),
    /// DROP COLUMN.
    Drop(String),
    /// RENAME COLUMN or CHANGE to another name.
    Rename(String, String),
    /// MODIFY or CHANGE: type, nullability or character set may be another.
    Retype(String, Definition),
    /// MODIFY or CHANGE with FIRST or AFTER: the order of columns is another.
    Move(String),
    /// A clause about columns that is not understood.
    Unread(String),
    /// CONVERT TO CHARACTER SET: the name, if it is told.
    Convert(Option<String>),
    /// The primary key is another.
    Key,
    /// DROP INDEX, or a constraint that may be one: perhaps of the index that tells rows apart where there is no primary key.
    DropIndex,
    /// The table has another name.
    RenameTable,
    /// Rows vanish or appear without row events: the clause.
    Rows(String),
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
    let defines = any(0, &["MODIFY", "CHANGE"]) || word(0, "ADD") && !of_other(clause) && !word(1, "PRIMARY");
    if defines && is_key(clause) {
        steps.push(AlterStep::Key);
    }
    match () {
        _ if any(0, &["TRUNCATE", "EXCHANGE", "DISCARD", "IMPORT"]) || word(0, "DROP") && word(1, "PARTITION") => {
            steps.push(AlterStep::Rows(words(clause)));
        }
        _ if word(0, "CONVERT") && word(1, "TO") => steps.push(AlterStep::Convert(convert_charset(clause))),
        _ if word(0, "CONVERT") => steps.push(AlterStep::Rows(words(clause))),
        _ if any(0, &["ADD", "DROP"]) && word(1, "PRIMARY") => steps.push(AlterStep::Key),
        _ if word(0, "ADD") && word(1, "CONSTRAINT") && clause.iter().any(|t| t.is("PRIMARY")) => {
            steps.push(AlterStep::Key);
        }
        _ if word(0, "ADD") && of_other(clause) => {}
        _ if word(0, "ADD") => add(clause, named(1), steps),
        _ if word(0, "DROP") && any(1, &["INDEX", "KEY", "CONSTRAINT"]) => steps.push(AlterStep::DropIndex),
        _ if word(0, "DROP") && of_other(clause) => {}
        _ if word(0, "DROP") => {
            steps.push(named(1).1.map_or_else(|| AlterStep::Unread(words(clause)), AlterStep::Drop))
        }
        _ if word(0, "MODIFY") => match named(1) {
            (at, Some(column)) => {
                steps.extend(moved(clause, &column));
                steps.push(AlterStep::Retype(column, definition(behind(clause, at))));
            }
            (_, None) => steps.push(AlterStep::Unread(words(clause))),
        },
        _ if word(0, "CHANGE") => {
            let (at, from) = named(1);
            let (Some(from), Some(to)) = (from, clause.get(at + 1).and_then(name)) else {
                return steps.push(AlterStep::Unread(words(clause)));
            };
            steps.extend(moved(clause, &from));
            steps.push(AlterStep::Retype(from.clone(), definition(behind(clause, at + 1))));
            if from != to {
                steps.push(AlterStep::Rename(from, to));
            }
        }
        _ if word(0, "RENAME") && word(1, "COLUMN") => {
            let (at, from) = named(1);
            match (from, clause.get(at + 2).and_then(name)) {
                (Some(from), Some(to)) => steps.push(AlterStep::Rename(from, to)),
                _ => steps.push(AlterStep::Unread(words(clause))),
            }
        }
        _ if word(0, "RENAME") && any(1, &["INDEX", "KEY"]) => {}
        _ if word(0, "RENAME") => steps.push(AlterStep::RenameTable),
        // Options of the table, partitions that keep their rows, defaults, indexes. Should one of them change columns after all,
        // they no longer agree with the next table map, which stops the table.
        _ => {}
    }
}

/// Whether the clause puts the column in another place.
fn moved(clause: &[Token], column: &str) -> Option<AlterStep> {
    let word = |back: usize, w: &str| clause.len().checked_sub(back).is_some_and(|i| clause[i].is(w));
    (word(1, "FIRST") || word(2, "AFTER")).then(|| AlterStep::Move(column.to_owned()))
}

/// Whether an ADD or DROP is of something else than a column: what is no reserved word may be a column's name too.
fn of_other(clause: &[Token]) -> bool {
    const RESERVED: [&str; 9] =
        ["INDEX", "KEY", "UNIQUE", "FULLTEXT", "SPATIAL", "FOREIGN", "CHECK", "CONSTRAINT", "PARTITION"];
    let word = |i: usize, w: &str| clause.get(i).is_some_and(|t| t.is(w));
    RESERVED.iter().any(|w| word(1, w))
        || word(1, "PERIOD") && word(2, "FOR")
        || word(1, "SYSTEM") && word(2, "VERSIONING")
}

fn name(token: &Token) -> Option<String> {
    match token {
        Token::Text(t) => Some(t.clone()),
        other => other.name().map(str::to_owned),
    }
}

/// What stands behind the token at `at`.
fn behind(clause: &[Token], at: usize) -> &[Token] {
    clause.get(at + 1..).unwrap_or_default()
}

/// `ADD [COLUMN] a def` or `ADD [COLUMN] (a def, b def)`.
fn add(clause: &[Token], (at, column): (usize, Option<String>), steps: &mut Vec<AlterStep>) {
    match (column, clause.get(at)) {
        (Some(column), _) => steps.push(AlterStep::Add(column, definition(behind(clause, at)))),
        (None, Some(Token::Mark('('))) => {
            let inside = behind(clause, at);
            let inside = inside.strip_suffix(&[Token::Mark(')')]).unwrap_or(inside);
            for part in clauses(inside) {
                let add = |column| AlterStep::Add(column, definition(behind(part, 0)));
                steps.push(part.first().and_then(name).map_or_else(|| AlterStep::Unread(words(part)), add));
            }
        }
        (None, _) => steps.push(AlterStep::Unread("ADD".into())),
    }
}

fn words(clause: &[Token]) -> String {
    let text: Vec<&str> = clause.iter().take(3).filter_map(Token::name).collect();
    text.join(" ")
}

#[cfg(test)]
mod tests {
    use super::super::statement::{Statement, read, tokens};
    use super::*;

    fn steps(clauses: &str) -> Vec<AlterStep> {
        match read(&format!("ALTER TABLE t {clauses}"), "s") {
            Statement::Alter(_, steps) => steps,
            other => panic!("{other:?}"),
        }
    }

    fn def(text: &str) -> Definition {
        definition(&tokens(text))
    }

    #[test]
    fn columns() {
        assert_eq!(
            steps(
                "ADD COLUMN a decimal(10,2) NOT NULL DEFAULT -1.50 AFTER b, ADD `c d` text, DROP e, RENAME COLUMN f TO g"
            ),
            [
                AlterStep::Add("a".into(), def("decimal(10,2) NOT NULL DEFAULT -1.50")),
                AlterStep::Add("c d".into(), def("text")),
                AlterStep::Drop("e".into()),
                AlterStep::Rename("f".into(), "g".into()),
            ]
        );
        assert_eq!(
            steps("ADD (x int DEFAULT 'it''s', y datetime DEFAULT now()), ADD INDEX i (x), ALGORITHM=INSTANT"),
            [
                AlterStep::Add("x".into(), def("int DEFAULT 'it''s'")),
                AlterStep::Add("y".into(), def("datetime DEFAULT now()"))
            ]
        );
        assert_eq!(
            steps("CHANGE a b int, MODIFY c int, CHANGE COLUMN d d int"),
            [
                AlterStep::Retype("a".into(), def("int")),
                AlterStep::Rename("a".into(), "b".into()),
                AlterStep::Retype("c".into(), def("int")),
                AlterStep::Retype("d".into(), def("int")),
            ]
        );
        assert_eq!(
            steps("MODIFY c int AFTER d, CHANGE a b int FIRST, MODIFY e int COMMENT 'AFTER x'"),
            [
                AlterStep::Move("c".into()),
                AlterStep::Retype("c".into(), def("int AFTER d")),
                AlterStep::Move("a".into()),
                AlterStep::Retype("a".into(), def("int FIRST")),
                AlterStep::Rename("a".into(), "b".into()),
                AlterStep::Retype("e".into(), def("int COMMENT 'AFTER x'")),
            ]
        );
        assert_eq!(
            steps("DROP (a), CHANGE a, ADD"),
            ["DROP a", "CHANGE a", "ADD"].map(|c| AlterStep::Unread(c.into()))
        );
        assert_eq!(steps("DROP period, DROP PERIOD FOR p"), [AlterStep::Drop("period".into())]);
        assert_eq!(steps("ADD COLUMN IF NOT EXISTS a int"), [AlterStep::Add("a".into(), def("int"))]);
        assert_eq!(steps("CONVERT TO CHARACTER SET latin1"), [AlterStep::Convert(Some("latin1".into()))]);
    }

    #[test]
    fn rows_key_and_name() {
        assert_eq!(steps("TRUNCATE PARTITION p0"), [AlterStep::Rows("TRUNCATE PARTITION p0".into())]);
        assert_eq!(steps("DROP PARTITION p0, p1")[0], AlterStep::Rows("DROP PARTITION p0".into()));
        assert_eq!(steps("DROP PRIMARY KEY, ADD PRIMARY KEY (b)"), [AlterStep::Key, AlterStep::Key]);
        assert_eq!(steps("ADD x int NOT NULL PRIMARY KEY")[0], AlterStep::Key);
        assert_eq!(steps("RENAME TO u"), [AlterStep::RenameTable]);
        assert_eq!(steps("ENGINE=InnoDB, ADD CONSTRAINT c FOREIGN KEY (a) REFERENCES u (b)"), []);
    }
}
