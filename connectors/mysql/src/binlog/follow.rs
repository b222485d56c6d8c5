//! A table's shape changed: follows added, dropped and renamed columns, and refuses everything else.
//!
//! The table map in front of the first row of the new shape tells the columns as they are now; the ALTER statements seen
//! before it tell what a comparison of names cannot: a rename from a drop and an add, a column dropped and added again
//! under the same name, what old rows hold in a new column. Where the two do not agree, the change is refused.
//!
//! The statements are part of the shape ([`TableSchema::pending`]) from the ALTER to the table's next row, so that the
//! target keeps them over a restart; what [`follow`] returns has none.

use std::sync::Arc;

use crossfade_core::batch::SchemaStep;
use crossfade_core::{Column, Error, ForeignKey, Index, Logical, Omissions, Result, SchemaChange, TableSchema};

use super::alter::AlterStep;
use super::definition::{Definition, kind_of};
use super::fill::fill;
use super::live::{self, Live, Origin, same};
use super::plan::METADATA_HINT;
use super::table_map::TableMap;
use super::widen::{is_wider, widened};

const ANEW: &str = "such a change is not followed: copy the table anew with `crossfade snapshot TABLE`, or exclude it";

/// The change from `table` to the shape that `map` shows after these statements, or `None` if it is the same. `fresh` reads
/// the table's columns as the catalog has them now.
pub fn follow(
    map: &TableMap,
    table: &Arc<TableSchema>,
    statements: &[Vec<AlterStep>],
    omissions: &Omissions,
    fresh: impl FnOnce() -> Result<Vec<Column>>,
) -> Result<Option<SchemaChange>> {
    if let Some(what) = statements.iter().flatten().find_map(unfollowed) {
        return Err(Error::data(&table.name, what).hint(ANEW));
    }
    let live = live::after(table, statements);
    let names: Vec<String> = match names(map) {
        Some(names) => names,
        None => {
            // Values are matched by their place then: a column that moved would be taken for its neighbour.
            let columns = |s: &AlterStep| {
                matches!(s, AlterStep::Add(..) | AlterStep::Drop(_) | AlterStep::Rename(..) | AlterStep::Move(_))
            };
            if statements.iter().flatten().any(columns) || map.columns.len() != table.columns.len() {
                let message = "its columns changed, and the log does not name columns";
                return Err(Error::data(&table.name, message).hint(METADATA_HINT));
            }
            table.columns.iter().map(|c| c.name.clone()).collect()
        }
    };
    let now = pair(table, &names, live)?;
    let unchanged = |l: &Live| matches!(l.origin, Origin::Known(i) if table.columns[i].name == l.name);
    if table.pending.is_empty() && now.len() == table.columns.len() && now.iter().all(unchanged) {
        return Ok(None);
    }
    let added = added(table, &now, omissions, fresh)?;
    let mut change = assemble(table, &now, added)?;
    // A column of another name or type may have other policies.
    omissions.mark_policies(Arc::make_mut(&mut change.to));
    Ok(Some(change))
}

/// The names of the columns that are carried: hidden ones belong to indexes.
fn names(map: &TableMap) -> Option<Vec<String>> {
    let names: Option<Vec<String>> = map.columns.iter().map(|c| c.name.clone()).collect();
    Some(names?.into_iter().filter(|n| !is_hidden(n)).collect())
}

/// Columns that the servers add for indexes of their own.
pub fn is_hidden(name: &str) -> bool {
    name.starts_with("!hidden!") || name.starts_with("DB_ROW_HASH_")
}

/// What a clause did, if it is not followed at all.
pub fn unfollowed(step: &AlterStep) -> Option<String> {
    match step {
        AlterStep::Key => Some("its primary key changed".to_owned()),
        AlterStep::RenameTable => Some("it was renamed".to_owned()),
        AlterStep::Unread(clause) => Some(format!("{clause}: a clause that is not understood")),
        AlterStep::Rows(clause) => Some(format!("{clause} changed its rows, and the log does not carry them")),
        AlterStep::Add(..)
        | AlterStep::Drop(_)
        | AlterStep::Rename(..)
        | AlterStep::Retype(..)
        | AlterStep::Move(_)
        | AlterStep::DropIndex
        | AlterStep::Convert(_) => None,
    }
}

/// The columns in the log's order, under the log's names. An error unless the statements lead to exactly these.
fn pair(table: &TableSchema, names: &[String], mut live: Vec<Live>) -> Result<Vec<Live>> {
    let mut now = Vec::new();
    let mut new: Vec<&str> = Vec::new();
    for name in names {
        match live.iter().position(|l| same(&l.name, name)) {
            Some(at) => now.push(Live { name: name.clone(), ..live.swap_remove(at) }),
            None => new.push(name),
        }
    }
    if !live.is_empty() || !new.is_empty() {
        let gone: Vec<&str> = live.iter().map(|l| l.name.as_str()).collect();
        let message =
            format!("columns [{}] became [{}], by a statement that was not read", gone.join(", "), new.join(", "));
        return Err(Error::data(&table.name, message).hint(ANEW));
    }
    // Under a name that was known stand other values now.
    for l in &now {
        let own = if let Origin::Known(i) = l.origin { Some(i) } else { None };
        if table.columns.iter().enumerate().any(|(i, c)| own != Some(i) && same(&c.name, &l.name)) {
            let message = "the column was dropped or renamed, and another took its name";
            return Err(Error::data(&table.name, message).column(&l.name).hint(ANEW));
        }
    }
    Ok(now)
}

/// The added columns: as the catalog has them now, if that is what the statement made.
fn added(
    table: &TableSchema,
    now: &[Live],
    omissions: &Omissions,
    fresh: impl FnOnce() -> Result<Vec<Column>>,
) -> Result<Vec<(Column, Definition)>> {
    let new = |l: &Live| if let Origin::Added(d) = &l.origin { Some((l.clone(), d.clone())) } else { None };
    let new: Vec<(Live, Definition)> = now.iter().filter_map(new).collect();
    if new.is_empty() {
        return Ok(Vec::new());
    }
    let present = fresh()?;
    let find = |(l, definition): (Live, Definition)| {
        let refuse = |what: String| Error::data(&table.name, what).column(&l.name).hint(ANEW);
        let last = l.retyped.as_ref().unwrap_or(&definition);
        // Nobody asks for its values, so nothing else of it matters, nor whether it is still there.
        if omissions.cover(&table.name, &l.name) {
            let (name, source_type, logical) = (l.name.clone(), last.kind.clone(), Logical::Omitted);
            let column = Column {
                name,
                source_type,
                logical,
                nullable: true,
                auto_increment: false,
                number: 0,
                policies: Default::default(),
            };
            return Ok((column, definition));
        }
        let found = present.iter().find(|c| same(&c.name, &l.name));
        let found = found
            .ok_or_else(|| refuse("the column was added, and is gone again or cannot be carried".to_owned()))?
            .clone();
        let (made, is) = (&last.kind, kind_of(&found.source_type));
        let json = found.logical == Logical::Json && made == "json";
        if *made != is && !is_wider(made, &is) && !json {
            return Err(refuse(format!("the column was added as {made}, and is {is} now")));
        }
        let source_type = if *made == is || json { found.source_type.clone() } else { made.clone() };
        let nullable = found.nullable || last.nullable == Some(true);
        Ok((Column { name: l.name.clone(), source_type, nullable, ..found }, definition))
    };
    new.into_iter().map(find).collect()
}

/// A known column under its present name and definition.
fn kept(table: &TableSchema, i: usize, live: &Live) -> Column {
    let mut column = Column { name: live.name.clone(), ..table.columns[i].clone() };
    if let Some(d) = &live.retyped {
        let was = kind_of(&column.source_type);
        if column.logical == Logical::Omitted {
            column.source_type.clone_from(&d.kind);
        } else if was != d.kind
            && let Some(logical) = widened(&was, &d.kind, &column.logical)
        {
            column.source_type.clone_from(&d.kind);
            column.logical = logical;
        }
        // Where nothing is written it admits NULL, but for a TIMESTAMP, perhaps: to admit it then is no harm.
        column.nullable = d.nullable != Some(false) && !d.auto_increment && !table.key.contains(&i);
    }
    column
}

fn assemble(table: &Arc<TableSchema>, now: &[Live], added: Vec<(Column, Definition)>) -> Result<SchemaChange> {
    let mut steps = Vec::new();
    let place = |old: usize| now.iter().position(|l| matches!(l.origin, Origin::Known(i) if i == old));
    for (i, column) in table.columns.iter().enumerate().filter(|(i, _)| place(*i).is_none()) {
        if table.key.contains(&i) {
            return Err(Error::data(&table.name, "a column of its key was dropped").column(&column.name).hint(ANEW));
        }
        steps.push(SchemaStep::Drop { column: column.name.clone() });
    }
    let mut columns = Vec::new();
    let mut added = added.into_iter();
    for l in now {
        match l.origin {
            Origin::Known(i) => {
                let before = &table.columns[i].name;
                if *before != l.name {
                    steps.push(SchemaStep::Rename { from: before.clone(), to: l.name.clone() });
                }
                columns.push(kept(table, i, l));
            }
            Origin::Added(_) => {
                let Some((column, definition)) = added.next() else {
                    return Err(Error::corrupt(format!("table {}: column {} is in no order", table.name, l.name)));
                };
                let omitted = column.logical == Logical::Omitted;
                let fill = if omitted { None } else { fill(table, &column, &definition)? };
                steps.push(SchemaStep::Add { column: column.name.clone(), fill });
                columns.push(column);
            }
        }
    }
    let all = |ordinals: &[usize]| ordinals.iter().map(|&i| place(i)).collect::<Option<Vec<_>>>();
    let key = all(&table.key).ok_or_else(|| Error::data(&table.name, "its key changed").hint(ANEW))?;
    let index = |i: &Index| all(&i.columns).map(|columns| Index { columns, ..i.clone() });
    let reference = |f: &ForeignKey| all(&f.columns).map(|columns| ForeignKey { columns, ..f.clone() });
    let to = Arc::new(TableSchema {
        name: table.name.clone(),
        version: table.version + 1,
        columns,
        key,
        indexes: table.indexes.iter().filter_map(index).collect(),
        foreign_keys: table.foreign_keys.iter().filter_map(reference).collect(),
        origin: None,
        pending: vec![],
        number: 0,
    });
    Ok(SchemaChange { from: Arc::clone(table), to, steps })
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
            number: 0,
            policies: Default::default(),
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
            number: 0,
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

    fn steps(alter: &str) -> Vec<AlterStep> {
        match super::super::statement::read(&format!("ALTER TABLE t {alter}"), "s") {
            super::super::statement::Statement::Alter(_, steps) => steps,
            other => panic!("{other:?}"),
        }
    }

    fn go(now: &[&str], alters: &[&str]) -> Result<Option<SchemaChange>> {
        let statements: Vec<_> = alters.iter().map(|a| steps(a)).collect();
        let mut table = table(&["id", "a", "b"]);
        Arc::make_mut(&mut table).pending = alters.iter().map(|a| (*a).to_owned()).collect();
        let out = Omissions::new([("s.*".to_owned(), vec!["out".to_owned()])]);
        follow(&map(now), &table, &statements, &out, || Ok(now.iter().map(|n| column(n)).collect()))
    }

    fn kinds(change: &SchemaChange) -> Vec<SchemaStep> {
        change.steps.clone()
    }

    #[test]
    fn followed() {
        let c = go(&["id", "x", "a", "b"], &["ADD x int DEFAULT 7 AFTER id"]).unwrap().unwrap();
        assert_eq!(kinds(&c), [SchemaStep::Add { column: "x".into(), fill: Some("7".into()) }]);
        assert_eq!((c.to.version, c.to.indexes[0].columns.as_slice()), (4, &[2][..]));
        assert!(c.to.pending.is_empty());
        let c = go(&["pk", "b"], &["DROP A, RENAME COLUMN Id TO pk"]).unwrap().unwrap();
        let want = [SchemaStep::Drop { column: "a".into() }, SchemaStep::Rename { from: "id".into(), to: "pk".into() }];
        assert_eq!(kinds(&c), want);
        assert_eq!((c.to.key.as_slice(), c.to.indexes.len()), (&[0][..], 0));
        let c = go(&["id", "b", "a"], &["MODIFY a int NULL AFTER b"]).unwrap().unwrap();
        assert!(c.steps.is_empty() && c.to.pending.is_empty(), "order alone takes no step: {c:?}");
        assert!(go(&["id", "a", "b"], &[]).unwrap().is_none());
        let c = go(&["id", "y", "b"], &["RENAME COLUMN a TO x", "RENAME COLUMN x TO y"]).unwrap().unwrap();
        assert_eq!(kinds(&c), [SchemaStep::Rename { from: "a".into(), to: "y".into() }]);
        let c = go(
            &["id", "a", "b"],
            &["RENAME COLUMN a TO b, RENAME COLUMN b TO a", "RENAME COLUMN a TO b, RENAME COLUMN b TO a"],
        );
        assert!(kinds(&c.unwrap().unwrap()).is_empty(), "two swaps are none");
        let c = go(&["id", "A", "b"], &["CHANGE a A int"]).unwrap().unwrap();
        assert_eq!(kinds(&c), [SchemaStep::Rename { from: "a".into(), to: "A".into() }]);
        let c = go(&["id", "a", "b", "out"], &["ADD out datetime DEFAULT now()"]).unwrap().unwrap();
        assert_eq!(kinds(&c), [SchemaStep::Add { column: "out".into(), fill: None }], "nobody asks for its values");
        assert_eq!(c.to.columns[3].logical, Logical::Omitted);
        let c = go(&["id", "a", "b", "x"], &["ADD x int DEFAULT 1", "DROP x", "ADD x int DEFAULT 2"]).unwrap().unwrap();
        assert_eq!(kinds(&c), [SchemaStep::Add { column: "x".into(), fill: Some("2".into()) }]);
    }

    #[test]
    fn without_names_nothing_moves() {
        let nameless = |alter: &str| {
            let mut map = map(&["id", "a", "b"]);
            map.columns.iter_mut().for_each(|c| c.name = None);
            let mut table = table(&["id", "a", "b"]);
            Arc::make_mut(&mut table).pending = vec![alter.to_owned()];
            follow(&map, &table, &[steps(alter)], &Omissions::default(), || Ok(Vec::new()))
        };
        for alter in ["MODIFY a int AFTER b", "CHANGE b b int FIRST", "MODIFY b int FIRST"] {
            let e = nameless(alter).unwrap_err();
            assert!(e.hint_text().is_some_and(|h| h.contains("binlog_row_metadata")), "{alter}: {e:?}");
        }
        assert!(nameless("MODIFY a int NOT NULL").unwrap().is_some());
    }

    #[test]
    fn refused() {
        for (now, alters) in [
            (&["id", "a", "b"][..], &["DROP a, ADD a int"][..]),
            (&["id", "a", "b"], &["DROP `A`, ADD a int"]),
            (&["id", "a", "b"], &["DROP a", "ADD a int"]),
            (&["id", "a", "b"], &["RENAME COLUMN a TO x", "ADD a int", "DROP x"]),
            (&["id", "a", "b"], &["RENAME COLUMN a TO b, RENAME COLUMN b TO a"]),
            (&["id", "a", "b"], &["CHANGE a b int, CHANGE b a int"]),
            (&["id", "b"], &["DROP b, RENAME COLUMN a TO b"]),
            (&["a", "b"], &["DROP id"]),
            (&["id", "a", "b"], &["DROP PRIMARY KEY, ADD PRIMARY KEY (a)"]),
            (&["id", "a", "b"], &["DROP PARTITION p0"]),
            (&["id", "a", "b", "c"], &["ADD c datetime DEFAULT now()"]),
            (&["id", "a", "b", "c"], &["ADD c bigint"]),
            // The log and the statements do not agree, or there is none.
            (&["id", "a", "b"], &["ADD c int"]),
            (&["id", "c", "b"], &[]),
            (&["id", "a"], &[]),
            (&["id", "a", "b", "c"], &[]),
        ] {
            let e = go(now, alters).unwrap_err();
            assert!(e.to_string().contains("s.t") && e.hint_text().is_some(), "{alters:?}: {e}");
        }
    }
}
