//! References that another database would find broken, among the rows that are there.
//!
//! SQLite enforces foreign keys only for connections that ask for it (`PRAGMA foreign_keys`), so rows may refer to nothing; and a
//! key under NOCASE lets `'ABC'` refer to `'abc'`. Both show at the end of the copy only, when a target makes the foreign key.

use std::sync::Arc;

use crossfade_core::{Finding, ForeignKey, Logical, Result, TableSchema};
use rusqlite::Connection;

use crate::catalog::{quote, rows};
use crate::decode::key_text;

/// Keys that a finding names.
const KEYS: usize = 5;

/// A finding for each foreign key between two of these tables that a row breaks.
pub fn check(conn: &Connection, tables: &[Arc<TableSchema>]) -> Result<Vec<Finding>> {
    let mut found = Vec::new();
    for table in tables {
        for key in &table.foreign_keys {
            let parent = tables.iter().find(|t| t.name == key.to);
            // A reference to a column that is not there is no key at any target.
            if let Some(parent) = parent.filter(|p| key.to_columns.iter().all(|c| p.ordinal(c).is_some())) {
                found.extend(one(conn, table, key, parent)?);
            }
        }
    }
    Ok(found)
}

fn one(conn: &Connection, table: &TableSchema, key: &ForeignKey, parent: &TableSchema) -> Result<Option<Finding>> {
    let (mut given, mut equal, mut exact) = (Vec::new(), Vec::new(), Vec::new());
    for (child, to) in key.columns.iter().zip(&key.to_columns) {
        let Some(column) = table.columns.get(*child) else { return Ok(None) };
        let (c, p) = (format!("c.{}", quote(&column.name)), format!("p.{}", quote(to)));
        if matches!(column.logical, Logical::Text | Logical::Literal) {
            exact.push(format!("CAST({p} AS BLOB) = CAST({c} AS BLOB)"));
        }
        // The parent stands on the left: its collation decides, as for the foreign key.
        equal.push(format!("{p} = {c}"));
        given.push(format!("{c} IS NOT NULL"));
    }
    let (given, equal) = (given.join(" AND "), equal.join(" AND "));
    let exact = std::iter::once(&equal).chain(&exact).cloned().collect::<Vec<_>>().join(" AND ");
    let (child, to) = (quote(&table.name.name), quote(&parent.name.name));
    let broken = format!("{child} c WHERE {given} AND NOT EXISTS (SELECT 1 FROM {to} p WHERE {exact})");
    let sql = format!(
        "SELECT count(*), coalesce(sum(alike), 0) FROM \
         (SELECT EXISTS (SELECT 1 FROM {to} p WHERE {equal}) AS alike FROM {broken})"
    );
    let counts = rows(conn, &sql, [], |r| Ok((r.get::<_, i64>(0)?, r.get::<_, i64>(1)?)))?;
    let Some(&(all, alike)) = counts.first().filter(|(all, _)| *all > 0) else { return Ok(None) };
    let list = table.key_columns().map(|c| format!("c.{}", quote(&c.name))).collect::<Vec<_>>().join(", ");
    let sql = format!("SELECT {list} FROM {broken} LIMIT {KEYS}");
    let keys = rows(conn, &sql, [], |r| {
        let place = |ordinal| table.key.iter().position(|k| *k == ordinal).unwrap_or_default();
        Ok(key_text(table, |i| r.get_ref(place(i)).unwrap_or(rusqlite::types::ValueRef::Null)))
    })?;
    let sort = match (all - alike, alike) {
        (0, n) => format!("{n} refer to a text that differs in case or blanks only"),
        (n, 0) => format!("{n} refer to no row"),
        (n, m) => format!("{n} refer to no row, {m} to a text that differs in case or blanks only"),
    };
    Ok(Some(Finding::critical(
        format!("table {}, foreign key {}", table.name, key.name),
        "rows that refer to rows that are there, letter by letter: a target makes the key at the end of the copy",
        format!("{sort}: {}", keys.join("; ")),
        format!("delete such rows, or write the parent's own spelling into them: SELECT c.* FROM {broken}"),
    )))
}
