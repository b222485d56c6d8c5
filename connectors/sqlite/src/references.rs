//! References that another database would find broken, among the rows that are there.
//!
//! SQLite enforces foreign keys only for connections that ask for it (`PRAGMA foreign_keys`), so rows may refer to nothing; and a
//! key under NOCASE lets `'ABC'` refer to `'abc'`. Both show at the end of the copy only, when a target makes the foreign key.
//!
//! The same count, in the snapshot of a proof, tells orphans that a target has from the source from those that it has by itself.

use std::sync::Arc;

use crossfade_core::orphans::NAMED;
use crossfade_core::{Error, Finding, ForeignKey, Logical, Orphans, Result, TableSchema};
use rusqlite::Connection;

use crate::catalog::{quote, rows};
use crate::decode::key_text;

/// A finding for each foreign key between two of these tables that a row breaks.
pub fn check(conn: &Connection, tables: &[Arc<TableSchema>]) -> Result<Vec<Finding>> {
    let mut found = Vec::new();
    for table in tables {
        for (key, broken) in all(conn, table, tables)? {
            found.extend((broken.rows > 0).then(|| finding(table, key, &broken)));
        }
    }
    Ok(found)
}

/// How many rows break each foreign key of a table to one of these tables, letter by letter.
pub fn orphans(conn: &Connection, table: &TableSchema, tables: &[Arc<TableSchema>]) -> Result<Vec<Orphans>> {
    let told = |(key, Broken { rows, keys, .. }): (&ForeignKey, Broken)| Orphans {
        foreign_key: key.name.clone(),
        to: key.to.clone(),
        rows,
        keys,
    };
    Ok(all(conn, table, tables)?.into_iter().map(told).collect())
}

fn all<'t>(
    conn: &Connection,
    table: &'t TableSchema,
    tables: &[Arc<TableSchema>],
) -> Result<Vec<(&'t ForeignKey, Broken)>> {
    let mut found = Vec::new();
    for key in &table.foreign_keys {
        let parent = tables.iter().find(|t| t.name == key.to);
        // A reference to a column that is not there is no key at any target.
        if let Some(parent) = parent.filter(|p| key.to_columns.iter().all(|c| p.ordinal(c).is_some())) {
            found.extend(broken(conn, table, key, parent)?.map(|broken| (key, broken)));
        }
    }
    Ok(found)
}

/// Rows that break a foreign key.
struct Broken {
    rows: u64,
    /// Those of them that refer to a text in another spelling.
    alike: u64,
    /// Some of their keys.
    keys: Vec<String>,
    /// What selects them.
    from: String,
}

/// `None`: the key has a column that is not known.
fn broken(conn: &Connection, table: &TableSchema, key: &ForeignKey, parent: &TableSchema) -> Result<Option<Broken>> {
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
    let from = format!("{child} c WHERE {given} AND NOT EXISTS (SELECT 1 FROM {to} p WHERE {exact})");
    let sql = format!(
        "SELECT count(*), coalesce(sum(alike), 0) FROM \
         (SELECT EXISTS (SELECT 1 FROM {to} p WHERE {equal}) AS alike FROM {from})"
    );
    let counts = rows(conn, &sql, [], |r| Ok((r.get::<_, i64>(0)?, r.get::<_, i64>(1)?)))?;
    let number = |n: i64| {
        u64::try_from(n).map_err(|_| Error::corrupt(format!("table {}: its references are counted as {n}", table.name)))
    };
    let &(all, alike) = counts.first().ok_or_else(|| Error::corrupt("a count without a row"))?;
    let (count, alike) = (number(all)?, number(alike)?);
    let list = table.key_columns().map(|c| format!("c.{}", quote(&c.name))).collect::<Vec<_>>().join(", ");
    let sql = format!("SELECT {list} FROM {from} LIMIT {NAMED}");
    let key = |r: &rusqlite::Row<'_>| {
        let place = |ordinal| table.key.iter().position(|k| *k == ordinal).unwrap_or_default();
        Ok(key_text(table, |i| r.get_ref(place(i)).unwrap_or(rusqlite::types::ValueRef::Null)))
    };
    let keys = if count > 0 { rows(conn, &sql, [], key)? } else { Vec::new() };
    Ok(Some(Broken { rows: count, alike, keys, from }))
}

fn finding(table: &TableSchema, key: &ForeignKey, broken: &Broken) -> Finding {
    let sort = match (broken.rows - broken.alike, broken.alike) {
        (0, n) => format!("{n} refer to a text that differs in case or blanks only"),
        (n, 0) => format!("{n} refer to no row"),
        (n, m) => format!("{n} refer to no row, {m} to a text that differs in case or blanks only"),
    };
    Finding::critical(
        format!("table {}, foreign key {}", table.name, key.name),
        "rows that refer to rows that are there, letter by letter: a target makes the key at the end of the copy",
        format!("{sort}: {}", broken.keys.join("; ")),
        format!("delete such rows, or write the parent's own spelling into them: SELECT c.* FROM {}", broken.from),
    )
}
