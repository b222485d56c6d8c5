//! MODIFY, CHANGE and CONVERT rewrite the rows that are there, and no row event says so: they pass only where every value
//! stays as it is.
//!
//! The statement itself is judged ([`super::definition`] says why). What it leaves to the table's defaults, a character set,
//! must be utf8mb4 or the one that the log named for the column before.

use std::collections::HashMap;

use crossfade_core::{Column, Error, Logical, Result, TableSchema};

use super::alter::AlterStep;
use super::definition::{Definition, kind_of};
use super::live::{Live, Origin, same, through};
use super::widen::{is_wider, widened};

/// Character sets of text columns.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Charsets {
    /// By column, as the last table map named them.
    pub logged: HashMap<String, String>,
    /// By column, as the catalog has them now.
    pub present: HashMap<String, String>,
    /// The table's default, as the catalog has it now.
    pub default: Option<String>,
}

/// An error unless the statement keeps every value of the columns that are there: `live` as they are before it.
pub fn retyped(table: &TableSchema, live: &[Live], steps: &[AlterStep], charsets: &Charsets) -> Result<()> {
    let converts = steps.iter().find_map(|s| if let AlterStep::Convert(charset) = s { Some(charset) } else { None });
    for column in live {
        let Some((name, definition)) = through(&column.name, steps) else { continue };
        let known = Before::of(table, column);
        if known.known.is_some_and(|c| c.logical == Logical::Omitted) {
            continue;
        }
        let logged = known.known.map_or(column.name.as_str(), |c| &c.name);
        let refuse = |why: String| {
            let e = Error::data(&table.name, why).column(&name);
            Err(e.hint(
                "such a change is not followed: copy the table anew with `crossfade snapshot TABLE`, or exclude it",
            ))
        };
        if let Some(definition) = definition {
            let (was, is) = (&known.kind, &definition.kind);
            if !known.holds(definition) {
                return refuse(format!("its type {was} was changed to {is}, and with it perhaps its values"));
            }
            let kept = definition.charset.is_some() || converts.is_some() || charsets.keeps(logged, &name);
            if is_text(is) && (!kept || !charsets.admit(logged, definition.charset.as_deref())) {
                return refuse(format!("it became {is} in a character set that may not hold what the former one did"));
            }
        }
        if let Some(charset) = converts
            && is_text(&known.kind)
            && !charsets.names(logged, charset.as_deref())
        {
            return refuse("it was converted to a character set that may not hold what the former one did".into());
        }
    }
    Ok(())
}

impl Charsets {
    /// Whether a named character set holds all that the column held.
    fn names(&self, column: &str, charset: Option<&str>) -> bool {
        let one = |name: &str| if name == "utf8" { "utf8mb3".to_owned() } else { name.to_ascii_lowercase() };
        charset.is_some_and(|c| one(c) == "utf8mb4" || self.logged.get(column).is_some_and(|l| one(l) == one(c)))
    }

    /// As [`Charsets::names`]; what is not named is judged by [`Charsets::keeps`].
    fn admit(&self, column: &str, charset: Option<&str>) -> bool {
        charset.is_none() || self.names(column, charset)
    }

    /// Without a name it became the table's default of that time; column and default agree about it to this day.
    fn keeps(&self, column: &str, renamed: &str) -> bool {
        let present = self.present.iter().find(|(name, _)| same(name, renamed)).map(|(_, charset)| charset.as_str());
        present == self.default.as_deref() && self.names(column, present)
    }
}

/// A column before the statement.
struct Before<'a> {
    kind: String,
    nullable: bool,
    auto_increment: bool,
    known: Option<&'a Column>,
}

impl<'a> Before<'a> {
    fn of(table: &'a TableSchema, live: &Live) -> Self {
        let (mut before, key) = match &live.origin {
            Origin::Known(i) => {
                let c = &table.columns[*i];
                let (kind, nullable, auto_increment) = (kind_of(&c.source_type), c.nullable, c.auto_increment);
                (Before { kind, nullable, auto_increment, known: Some(c) }, table.key.contains(i))
            }
            Origin::Added(d) => {
                let nullable = d.nullable.unwrap_or(true);
                let auto_increment = d.auto_increment;
                (Before { kind: d.kind.clone(), nullable, auto_increment, known: None }, false)
            }
        };
        if let Some(d) = &live.retyped {
            before.kind.clone_from(&d.kind);
            before.nullable = !key && d.nullable.unwrap_or(true);
            before.auto_increment = d.auto_increment;
        }
        before
    }

    /// Whether no NULL became a value. A server that is not strict makes 0 or '' of them where the column becomes NOT NULL, and the log
    /// does not tell; but then a target's rows have them still, and it refuses to become NOT NULL, see [`crossfade_core::SchemaChange`]. Not so where a
    /// policy makes NULL of values that are none: such a column admits NULL at the target whatever the source does.
    fn keeps_nulls(&self, new: &Definition) -> bool {
        match new.nullable {
            // Back to NULL before a row has come: the target would never be asked.
            Some(true) | None if !self.nullable && self.known.is_some_and(|c| c.nullable) => false,
            _ if !self.nullable => true,
            Some(admits) => admits || self.known.is_some_and(|c| !c.policies.make_null()),
            // A TIMESTAMP without NULL may be NOT NULL, see explicit_defaults_for_timestamp.
            None => !new.kind.starts_with("timestamp"),
        }
    }

    /// Whether every value of the column is one of the new definition, unchanged.
    fn holds(&self, new: &Definition) -> bool {
        let json = self.known.is_some_and(|c| c.logical == Logical::Json) && new.kind == "json";
        let wider = match self.known {
            Some(c) => widened(&self.kind, &new.kind, &c.logical).is_some(),
            None => is_wider(&self.kind, &new.kind),
        };
        let kind = self.kind == new.kind || wider || json;
        kind && self.keeps_nulls(new) && !new.generated && (self.auto_increment || !new.auto_increment)
    }
}

/// Whether values have a character set.
fn is_text(kind: &str) -> bool {
    let base = kind.split('(').next().unwrap_or(kind);
    matches!(base, "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" | "enum" | "set")
}

#[cfg(test)]
mod tests {
    use crossfade_core::TableName;

    use super::super::live::after;
    use super::super::statement::{Statement, read};
    use super::*;

    fn steps(alter: &str) -> Vec<AlterStep> {
        match read(&format!("ALTER TABLE t {alter}"), "s") {
            Statement::Alter(_, steps) => steps,
            other => panic!("{other:?}"),
        }
    }

    /// `id int, v varchar(20) latin1, d decimal(6,2), n varchar(9) NOT NULL`; the present says utf8mb4 for n, latin1 for v.
    fn judge(alters: &[&str]) -> Result<()> {
        let column = |name: &str, source_type: &str, nullable| Column {
            name: name.into(),
            source_type: source_type.into(),
            logical: match name {
                "id" => Logical::Int32,
                "d" => Logical::Decimal { precision: 6, scale: 2 },
                _ => Logical::Text,
            },
            nullable,
            auto_increment: false,
            number: 0,
            policies: Default::default(),
        };
        let table = TableSchema {
            name: TableName::new("s", "t"),
            version: 1,
            columns: vec![
                column("id", "int(11)", false),
                column("v", "varchar(20)", true),
                column("d", "decimal(6,2)", true),
                column("n", "varchar(9)", false),
            ],
            key: vec![0],
            indexes: vec![],
            foreign_keys: vec![],
            origin: None,
            pending: vec![],
            number: 0,
        };
        let set = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        let charsets = Charsets {
            logged: set(&[("v", "latin1")]),
            present: set(&[("v", "latin1"), ("n", "utf8mb4"), ("m", "utf8mb4")]),
            default: Some("utf8mb4".into()),
        };
        let (last, before) = alters.split_last().unwrap();
        let before: Vec<_> = before.iter().map(|a| steps(a)).collect();
        retyped(&table, &after(&table, &before), &steps(last), &charsets)
    }

    #[test]
    fn a_statement_is_judged_by_its_own_words() {
        for alter in [
            "MODIFY id int NOT NULL",
            "MODIFY V varchar(20) CHARACTER SET latin1",
            "MODIFY v varchar(40) CHARACTER SET utf8mb4",
            "CHANGE n m varchar(9)",
            "MODIFY d numeric(6,2) DEFAULT 1",
            "CONVERT TO CHARACTER SET utf8mb4",
            "ADD x int, DROP v",
            "MODIFY id bigint",
            "MODIFY d decimal(8,3)",
            "MODIFY d decimal(6,2) NOT NULL",
        ] {
            judge(&[alter]).unwrap();
        }
        for alter in [
            "MODIFY d decimal(6,1)",
            "MODIFY id tinyint",
            "MODIFY id int NOT NULL AUTO_INCREMENT",
            "MODIFY v varchar(20) CHARACTER SET latin2",
            "MODIFY v varchar(20)",
            "MODIFY n varchar(9) CHARACTER SET ascii",
            "MODIFY n varchar(9) AS (v)",
            "CONVERT TO CHARACTER SET latin1",
            "CONVERT TO CHARACTER SET DEFAULT",
        ] {
            assert!(judge(&[alter]).unwrap_err().hint_text().is_some(), "{alter}");
        }
        // Names and types as earlier statements left them.
        judge(&["RENAME COLUMN d TO e", "ADD d int"]).unwrap();
        assert!(judge(&["RENAME COLUMN d TO e", "MODIFY e decimal(6,1)"]).is_err());
        assert!(judge(&["ADD x decimal(6,2) DEFAULT 1.25", "MODIFY x decimal(6,1)"]).is_err());
        judge(&["ADD x decimal(6,2) DEFAULT 1.25", "MODIFY x decimal(6,2)"]).unwrap();
        judge(&["MODIFY d decimal(6,2) NOT NULL", "MODIFY d decimal(8,2) NOT NULL"]).unwrap();
        assert!(judge(&["MODIFY d decimal(6,2) NOT NULL", "MODIFY d decimal(6,2)"]).is_err(), "0 may have been NULL");
        assert!(judge(&["ADD x int", "MODIFY x int NOT NULL"]).is_err());
    }
}
