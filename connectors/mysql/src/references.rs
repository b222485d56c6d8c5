//! References that another database would find broken, among the rows that are there.
//!
//! Rows that came under `foreign_key_checks = 0` may refer to nothing. And a collation that ignores case lets `'ABC'` refer to
//! `'abc'`, where a target that compares text as it stands finds nothing. Both show at the end of the copy only, when a target
//! makes the foreign key. The server looks each row up by the parent's index.
//!
//! The same count, in the snapshot of a proof, tells orphans that a target has from the source from those that it has by itself.

use std::sync::Arc;

use crossfade_core::orphans::NAMED;
use crossfade_core::{Error, Finding, ForeignKey, Logical, Orphans, Result, TableSchema};

use crate::catalog::{quote, quote_table};
use crate::session::Session;

/// A finding for each foreign key between two of these tables that a row breaks.
pub fn check(session: &mut Session, tables: &[Arc<TableSchema>]) -> Result<Vec<Finding>> {
    let mut found = Vec::new();
    for table in tables {
        for key in &table.foreign_keys {
            if let Some(parent) = tables.iter().find(|t| t.name == key.to) {
                found.extend(
                    broken(session, table, key, parent)?.filter(|b| b.rows > 0).map(|b| finding(table, key, &b)),
                );
            }
        }
    }
    Ok(found)
}

/// How many rows break each foreign key of a table to one of these tables, letter by letter.
pub fn orphans(session: &mut Session, table: &TableSchema, tables: &[Arc<TableSchema>]) -> Result<Vec<Orphans>> {
    let mut found = Vec::new();
    for key in &table.foreign_keys {
        if let Some(parent) = tables.iter().find(|t| t.name == key.to)
            && let Some(Broken { rows, keys, .. }) = broken(session, table, key, parent)?
        {
            found.push(Orphans { foreign_key: key.name.clone(), to: key.to.clone(), rows, keys });
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
fn broken(
    session: &mut Session,
    table: &TableSchema,
    key: &ForeignKey,
    parent: &TableSchema,
) -> Result<Option<Broken>> {
    let (mut given, mut equal) = (Vec::new(), Vec::new());
    // The spelling of what compares in ways of its own, at both ends.
    let (mut ours, mut theirs) = (vec!["''".to_owned()], vec!["''".to_owned()]);
    for (child, to) in key.columns.iter().zip(&key.to_columns) {
        let Some(column) = table.columns.get(*child) else { return Ok(None) };
        let (c, p) = (format!("c.{}", quote(&column.name)), format!("p.{}", quote(to)));
        if column.logical == Logical::Text {
            ours.push(format!("HEX({c})"));
            theirs.push(format!("HEX({p})"));
        }
        equal.push(format!("{p} = {c}"));
        given.push(format!("{c} IS NOT NULL"));
    }
    let (given, equal) = (given.join(" AND "), equal.join(" AND "));
    let (ours, theirs) = (ours.join(", "), theirs.join(", "));
    let (child, to) = (quote_table(&table.name), quote_table(&parent.name));
    // Compared outside of the question that knows both as equal: inside of it the optimizer takes one for the other.
    let spelled = format!("(SELECT MAX(CONCAT_WS(',', {theirs})) FROM {to} p WHERE {equal})");
    let from = format!("{child} c WHERE {given} AND COALESCE({spelled} = CONCAT_WS(',', {ours}), 0) = 0");
    let sql = format!("SELECT COUNT(*), COALESCE(SUM({spelled} IS NOT NULL), 0) FROM {from}");
    let number = |rows: &[Vec<Option<String>>], at: usize| -> Result<u64> {
        let number = rows.first().and_then(|r| r.get(at)?.as_deref()?.parse().ok());
        number.ok_or_else(|| Error::corrupt(format!("table {}: the count of its references is no number", table.name)))
    };
    let counts = session.rows(&sql)?;
    let (rows, alike) = (number(&counts, 0)?, number(&counts, 1)?);
    let names: Vec<&str> = table.key_columns().map(|c| c.name.as_str()).collect();
    let mut keys = Vec::new();
    if rows > 0 && !names.is_empty() {
        let list = names.iter().map(|n| format!("c.{}", quote(n))).collect::<Vec<_>>().join(", ");
        for row in session.rows(&format!("SELECT {list} FROM {from} LIMIT {NAMED}"))? {
            let part = |(name, value): (&&str, Option<String>)| format!("{name}={}", value.as_deref().unwrap_or("?"));
            keys.push(names.iter().zip(row).map(part).collect::<Vec<_>>().join(", "));
        }
    }
    Ok(Some(Broken { rows, alike, keys, from }))
}

fn finding(table: &TableSchema, key: &ForeignKey, broken: &Broken) -> Finding {
    let sort = match (broken.rows - broken.alike, broken.alike) {
        (0, n) => format!("{n} refer to a text that differs in case, accents or blanks only"),
        (n, 0) => format!("{n} refer to no row"),
        (n, m) => format!("{n} refer to no row, {m} to a text that differs in case, accents or blanks only"),
    };
    Finding::critical(
        format!("table {}, foreign key {}", table.name, key.name),
        "rows that refer to rows that are there, letter by letter: a target makes the key at the end of the copy",
        format!("{sort}: {}", broken.keys.join("; ")),
        format!(
            "delete such rows, or write the parent's own spelling into them (SELECT c.* FROM {}); or ALTER TABLE \
             {} DROP FOREIGN KEY {}",
            broken.from,
            quote_table(&table.name),
            quote(&key.name)
        ),
    )
}
