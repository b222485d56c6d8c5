//! A table's shape changed: follows added, dropped and renamed columns, and refuses everything else.
//!
//! The table map in front of the first row of the new shape tells the columns as they are now; the ALTER statements seen
//! before it tell what a comparison of names cannot: a rename from a drop and an add, a column dropped and added again
//! under the same name, what old rows hold in a new column. Without both, a change that could be either is refused.

use std::sync::Arc;

use crossfade_core::batch::SchemaStep;
use crossfade_core::{Column, Error, Index, Logical, Result, SchemaChange, TableSchema};

use super::alter::{AlterStep, Default};
use super::facts::Fact;
use super::plan::METADATA_HINT;
use super::table_map::TableMap;

const ANEW: &str = "such a change is not followed: copy the table anew, or exclude it";

/// The change from `table` to the shape that `map` shows, or `None` if it is the same. `fresh` reads the table's columns as
/// the catalog has them now.
pub fn follow(
    map: &TableMap,
    table: &Arc<TableSchema>,
    steps: &[AlterStep],
    fresh: impl FnOnce() -> Result<Vec<Column>>,
) -> Result<Option<SchemaChange>> {
    refuse(table, steps)?;
    let Some(names) = names(map) else {
        if steps.is_empty() && map.columns.len() == table.columns.len() {
            return Ok(None);
        }
        let columns = steps.iter().any(|s| !matches!(s, AlterStep::Retype(_) | AlterStep::Convert));
        if !columns && map.columns.len() == table.columns.len() {
            return Ok(None);
        }
        return Err(
            Error::data(&table.name, "its columns changed, and the log does not name columns").hint(METADATA_HINT)
        );
    };
    let gone: Vec<&str> = table.columns.iter().map(|c| c.name.as_str()).filter(|n| !names.contains(n)).collect();
    let new: Vec<&str> = names.iter().copied().filter(|n| table.ordinal(n).is_none()).collect();
    again(table, &names, steps)?;
    if gone.is_empty() && new.is_empty() {
        return Ok(None);
    }
    let renames = renames(table, &names, steps)?;
    let gone: Vec<&str> = gone.into_iter().filter(|g| !renames.iter().any(|(from, _)| from == g)).collect();
    let new: Vec<&str> = new.into_iter().filter(|n| !renames.iter().any(|(_, to)| to == n)).collect();
    if !gone.is_empty() && !new.is_empty() && steps.is_empty() {
        let message =
            format!("columns {} became {}, by a statement that was not read", gone.join(", "), new.join(", "));
        return Err(Error::data(&table.name, message).hint(ANEW));
    }
    let added = added(table, &new, fresh)?;
    assemble(table, &names, &gone, &renames, added, steps).map(Some)
}

/// The names of the columns that are carried: hidden ones belong to indexes.
fn names(map: &TableMap) -> Option<Vec<&str>> {
    let names: Option<Vec<&str>> = map.columns.iter().map(|c| c.name.as_deref()).collect();
    Some(names?.into_iter().filter(|n| !is_hidden(n)).collect())
}

/// Columns that the servers add for indexes of their own.
pub fn is_hidden(name: &str) -> bool {
    name.starts_with("!hidden!") || name.starts_with("DB_ROW_HASH_")
}

/// Clauses that are not followed at all.
fn refuse(table: &TableSchema, steps: &[AlterStep]) -> Result<()> {
    for step in steps {
        let what = match step {
            AlterStep::Key => "its primary key changed".to_owned(),
            AlterStep::RenameTable => "it was renamed".to_owned(),
            AlterStep::Rows(clause) => format!("{clause} changed its rows, and the log does not carry them"),
            AlterStep::Add { .. }
            | AlterStep::Drop(_)
            | AlterStep::Rename(..)
            | AlterStep::Retype(_)
            | AlterStep::Convert => {
                continue;
            }
        };
        return Err(Error::data(&table.name, what).hint(ANEW));
    }
    Ok(())
}

/// A column that went and came back under its name holds other values than the one that was known.
fn again(table: &TableSchema, names: &[&str], steps: &[AlterStep]) -> Result<()> {
    for step in steps {
        let (AlterStep::Drop(column) | AlterStep::Rename(column, _)) = step else { continue };
        if table.ordinal(column).is_some() && names.contains(&column.as_str()) {
            let message = "the column was dropped or renamed, and another took its name";
            return Err(Error::data(&table.name, message).column(column).hint(ANEW));
        }
    }
    Ok(())
}

/// Old and new names of columns that only changed their name, over any number of statements.
fn renames(table: &TableSchema, names: &[&str], steps: &[AlterStep]) -> Result<Vec<(String, String)>> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    for step in steps {
        let AlterStep::Rename(from, to) = step else { continue };
        match pairs.iter_mut().find(|(_, last)| last == from) {
            Some(pair) => pair.1.clone_from(to),
            None => pairs.push((from.clone(), to.clone())),
        }
    }
    // A renamed column may have been dropped later, or been added shortly before: then the names tell already.
    pairs.retain(|(from, to)| table.ordinal(from).is_some() && names.contains(&to.as_str()));
    for (from, to) in &pairs {
        if table.ordinal(to).is_some() {
            let message = format!("column {from} took this name, which another column had");
            return Err(Error::data(&table.name, message).column(to).hint(ANEW));
        }
    }
    Ok(pairs)
}

/// The new columns, as the catalog has them now.
fn added(table: &TableSchema, new: &[&str], fresh: impl FnOnce() -> Result<Vec<Column>>) -> Result<Vec<Column>> {
    if new.is_empty() {
        return Ok(Vec::new());
    }
    let present = fresh()?;
    let find = |name: &&str| {
        present.iter().find(|c| c.name == **name).cloned().ok_or_else(|| {
            Error::data(&table.name, "the column was added, and is gone again or cannot be carried")
                .column(*name)
                .hint(ANEW)
        })
    };
    new.iter().map(find).collect()
}

fn assemble(
    table: &Arc<TableSchema>,
    names: &[&str],
    gone: &[&str],
    renames: &[(String, String)],
    mut added: Vec<Column>,
    alters: &[AlterStep],
) -> Result<SchemaChange> {
    let mut steps = Vec::new();
    for column in gone {
        let ordinal = table.ordinal(column);
        if ordinal.is_some_and(|i| table.key.contains(&i)) {
            return Err(Error::data(&table.name, "a column of its key was dropped").column(*column).hint(ANEW));
        }
        steps.push(SchemaStep::Drop { column: (*column).to_owned() });
    }
    let mut columns = Vec::new();
    for name in names {
        let before = renames.iter().find(|(_, to)| to == name).map_or(*name, |(from, _)| from.as_str());
        if let Some(i) = table.ordinal(before) {
            if before != *name {
                steps.push(SchemaStep::Rename { from: before.to_owned(), to: (*name).to_owned() });
            }
            columns.push(Column { name: (*name).to_owned(), ..table.columns[i].clone() });
        } else if let Some(i) = added.iter().position(|c| c.name == *name) {
            let column = added.swap_remove(i);
            let fill = fill(table, &column, alters)?;
            steps.push(SchemaStep::Add { column: (*name).to_owned(), fill });
            columns.push(column);
        }
    }
    let renamed = |old: usize| {
        let old = table.columns[old].name.as_str();
        let now = renames.iter().find(|(from, _)| from == old).map_or(old, |(_, to)| to.as_str());
        columns.iter().position(|c| c.name == now)
    };
    let all = |ordinals: &[usize]| ordinals.iter().map(|&i| renamed(i)).collect::<Option<Vec<_>>>();
    let key = all(&table.key).ok_or_else(|| Error::data(&table.name, "its key changed").hint(ANEW))?;
    let index = |i: &Index| all(&i.columns).map(|columns| Index { columns, ..i.clone() });
    let indexes = table.indexes.iter().filter_map(index).collect();
    let foreign_keys = table
        .foreign_keys
        .iter()
        .filter_map(|f| all(&f.columns).map(|columns| crossfade_core::ForeignKey { columns, ..f.clone() }));
    let foreign_keys = foreign_keys.collect();
    let name = table.name.clone();
    let to = Arc::new(TableSchema {
        name,
        version: table.version + 1,
        columns,
        key,
        indexes,
        foreign_keys,
        origin: None,
        pending: vec![],
    });
    Ok(SchemaChange { from: Arc::clone(table), to, steps })
}

/// MODIFY, CHANGE and CONVERT rewrite the rows that are there, and no row event says so: an error unless the column is as it
/// was, or wider. `fresh` and `now` are the catalog's columns and character sets of the present.
pub fn retyped(table: &TableSchema, then: &[Fact], fresh: &[Column], now: &[Fact], steps: &[AlterStep]) -> Result<()> {
    let all = steps.contains(&AlterStep::Convert);
    for known in &table.columns {
        let renamed = steps.iter().find_map(|s| match s {
            AlterStep::Rename(from, to) if *from == known.name => Some(to),
            _ => None,
        });
        let name = renamed.unwrap_or(&known.name);
        if !all && !steps.iter().any(|s| matches!(s, AlterStep::Retype(n) if n == name)) {
            continue;
        }
        let charset =
            |facts: &[Fact], name: &str| facts.iter().find(|f| f.name == name).and_then(|f| f.charset.clone());
        let (before, after) = (charset(then, &known.name), charset(now, name));
        let same = fresh.iter().find(|c| c.name == *name).is_some_and(|c| {
            (c.source_type == known.source_type || is_wider(&known.source_type, &c.source_type))
                && (c.nullable || !known.nullable)
                && (before == after || after.as_deref() == Some("utf8mb4"))
        });
        if !same {
            let message = format!("its type {} was changed, and with it perhaps its values", known.source_type);
            return Err(Error::data(&table.name, message).column(name).hint(ANEW));
        }
    }
    Ok(())
}

/// Whether every value of a text or bytes type is one of another, unchanged.
fn is_wider(old: &str, new: &str) -> bool {
    let length = |t: &str| {
        t.split_once('(').and_then(|(kind, n)| Some((kind.to_owned(), n.strip_suffix(')')?.parse::<u32>().ok()?)))
    };
    if let (Some((a, n)), Some((b, m))) = (length(old), length(new)) {
        return a == b && matches!(a.as_str(), "varchar" | "varbinary" | "char") && n <= m;
    }
    [["tinytext", "text", "mediumtext", "longtext"], ["tinyblob", "blob", "mediumblob", "longblob"]].iter().any(
        |kinds| {
            let at = |t: &str| kinds.iter().position(|k| *k == t);
            matches!((at(old), at(new)), (Some(a), Some(b)) if a <= b)
        },
    )
}

/// What rows that were there hold in an added column.
fn fill(table: &TableSchema, column: &Column, alters: &[AlterStep]) -> Result<Option<String>> {
    let unknown = |what: &str| {
        Error::data(&table.name, format!("rows that were there hold {what} in the new column"))
            .column(&column.name)
            .hint("copy the table anew; or add columns with a constant DEFAULT")
    };
    // A column may have been added, dropped and added again: the last one counts, under its last name.
    let mut name = column.name.as_str();
    for step in alters.iter().rev() {
        match step {
            AlterStep::Rename(from, to) if to == name => name = from,
            AlterStep::Add { column: added, default } if added == name => {
                return match default {
                    Default::Constant(text) => Ok(Some(text.clone())),
                    Default::Null => Ok(None),
                    Default::Missing if column.nullable => Ok(None),
                    Default::Missing => {
                        implicit(&column.logical).map(Some).ok_or_else(|| unknown("the type's own default"))
                    }
                    Default::Expression => Err(unknown("what an expression gave")),
                };
            }
            _ => {}
        }
    }
    Err(unknown("what a statement that was not read gave"))
}

/// What the server puts into a NOT NULL column without a default.
fn implicit(logical: &Logical) -> Option<String> {
    match logical {
        Logical::Int8 | Logical::Int16 | Logical::Int32 | Logical::Int64 => Some("0".into()),
        Logical::UInt8 | Logical::UInt16 | Logical::UInt32 | Logical::UInt64 => Some("0".into()),
        Logical::Float32 | Logical::Float64 | Logical::Decimal { .. } => Some("0".into()),
        Logical::Text => Some(String::new()),
        Logical::Enum { labels } => labels.first().cloned(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use crossfade_core::TableName;

    use super::super::table_map::{LogColumn, Wire};
    use super::*;

    fn column(name: &str) -> Column {
        Column {
            name: name.into(),
            source_type: "int".into(),
            logical: Logical::Int32,
            nullable: true,
            auto_increment: false,
        }
    }

    fn table(names: &[&str]) -> Arc<TableSchema> {
        Arc::new(TableSchema {
            name: TableName::new("s", "t"),
            version: 3,
            columns: names.iter().map(|n| column(n)).collect(),
            key: vec![0],
            indexes: vec![Index { name: "i".into(), columns: vec![1], unique: false }],
            foreign_keys: vec![],
            origin: None,
            pending: vec![],
        })
    }

    fn map(names: &[&str]) -> TableMap {
        let column = |n: &&str| LogColumn {
            name: Some((*n).to_owned()),
            wire: Wire::Long,
            nullable: true,
            unsigned: None,
            collation: None,
            labels: None,
        };
        TableMap { id: 1, schema: "s".into(), name: "t".into(), columns: names.iter().map(column).collect() }
    }

    fn go(now: &[&str], alter: &str) -> Result<Option<SchemaChange>> {
        let steps = match super::super::statement::read(&format!("ALTER TABLE t {alter}"), "s") {
            super::super::statement::Statement::Alter(_, steps) => steps,
            other => panic!("{other:?}"),
        };
        follow(&map(now), &table(&["id", "a", "b"]), &steps, || Ok(now.iter().map(|n| column(n)).collect()))
    }

    fn kinds(change: &SchemaChange) -> Vec<SchemaStep> {
        change.steps.clone()
    }

    #[test]
    fn followed() {
        let c = go(&["id", "x", "a", "b"], "ADD x int DEFAULT 7 AFTER id").unwrap().unwrap();
        assert_eq!(kinds(&c), [SchemaStep::Add { column: "x".into(), fill: Some("7".into()) }]);
        assert_eq!((c.to.version, c.to.indexes[0].columns.as_slice()), (4, &[2][..]));
        let c = go(&["pk", "b"], "DROP a, RENAME COLUMN id TO pk").unwrap().unwrap();
        let want = [SchemaStep::Drop { column: "a".into() }, SchemaStep::Rename { from: "id".into(), to: "pk".into() }];
        assert_eq!(kinds(&c), want);
        assert_eq!((c.to.key.as_slice(), c.to.indexes.len()), (&[0][..], 0));
        assert!(go(&["id", "b", "a"], "MODIFY a int AFTER b").unwrap().is_none(), "order alone is no change");
    }

    #[test]
    fn types_may_grow_and_nothing_else() {
        for (old, new, wider) in [
            ("varchar(20)", "varchar(40)", true),
            ("varchar(40)", "varchar(20)", false),
            ("text", "longtext", true),
            ("longblob", "blob", false),
            ("datetime(6)", "datetime", false),
            ("datetime(3)", "datetime(6)", false),
            ("varchar(20)", "char(40)", false),
        ] {
            assert_eq!(is_wider(old, new), wider, "{old} {new}");
        }
    }

    #[test]
    fn refused() {
        for (now, alter) in [
            (&["id", "a", "b"][..], "DROP a, ADD a int"),
            (&["id", "a", "b"], "RENAME COLUMN a TO b, RENAME COLUMN b TO a"),
            (&["id", "b"], "DROP b, RENAME COLUMN a TO b"),
            (&["a", "b"], "DROP id"),
            (&["id", "a", "b"], "DROP PRIMARY KEY, ADD PRIMARY KEY (a)"),
            (&["id", "a", "b"], "DROP PARTITION p0"),
            (&["id", "a", "b", "c"], "ADD c datetime DEFAULT now()"),
        ] {
            let e = go(now, alter).unwrap_err();
            assert!(e.to_string().contains("s.t") && e.hint_text().is_some(), "{alter}: {e}");
        }
        // After a restart the statement is not known: an add and a drop could be a rename.
        let e = follow(&map(&["id", "c", "b"]), &table(&["id", "a", "b"]), &[], || Ok(vec![column("c")]));
        assert!(e.is_err());
    }
}
