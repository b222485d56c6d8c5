//! References that another database would find broken, among the rows that are there.
//!
//! Rows that came under `foreign_key_checks = 0` may refer to nothing. And a collation that ignores case lets `'ABC'` refer to
//! `'abc'`, where a target that compares text as it stands finds nothing. Both show at the end of the copy only, when a target
//! makes the foreign key. The server looks each row up by the parent's index.

use std::sync::Arc;

use crossfade_core::{Error, Finding, ForeignKey, Logical, Result, TableSchema};

use crate::catalog::{quote, quote_table};
use crate::session::Session;

/// Keys that a finding names.
const KEYS: usize = 5;

/// A finding for each foreign key between two of these tables that a row breaks.
pub fn check(session: &mut Session, tables: &[Arc<TableSchema>]) -> Result<Vec<Finding>> {
    let mut found = Vec::new();
    for table in tables {
        for key in &table.foreign_keys {
            if let Some(parent) = tables.iter().find(|t| t.name == key.to) {
                found.extend(one(session, table, key, parent)?);
            }
        }
    }
    Ok(found)
}

fn one(session: &mut Session, table: &TableSchema, key: &ForeignKey, parent: &TableSchema) -> Result<Option<Finding>> {
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
    let broken = format!("{child} c WHERE {given} AND COALESCE({spelled} = CONCAT_WS(',', {ours}), 0) = 0");
    let sql = format!("SELECT COUNT(*), COALESCE(SUM({spelled} IS NOT NULL), 0) FROM {broken}");
    let number = |rows: &[Vec<Option<String>>], at: usize| -> Result<u64> {
        let number = rows.first().and_then(|r| r.get(at)?.as_deref()?.parse().ok());
        number.ok_or_else(|| Error::corrupt(format!("table {}: the count of its references is no number", table.name)))
    };
    let counts = session.rows(&sql)?;
    let (all, alike) = (number(&counts, 0)?, number(&counts, 1)?);
    if all == 0 {
        return Ok(None);
    }
    let names: Vec<&str> = table.key_columns().map(|c| c.name.as_str()).collect();
    let mut keys = Vec::new();
    if !names.is_empty() {
        let list = names.iter().map(|n| format!("c.{}", quote(n))).collect::<Vec<_>>().join(", ");
        for row in session.rows(&format!("SELECT {list} FROM {broken} LIMIT {KEYS}"))? {
            let part = |(name, value): (&&str, Option<String>)| format!("{name}={}", value.as_deref().unwrap_or("?"));
            keys.push(names.iter().zip(row).map(part).collect::<Vec<_>>().join(", "));
        }
    }
    let sort = match (all - alike, alike) {
        (0, n) => format!("{n} refer to a text that differs in case, accents or blanks only"),
        (n, 0) => format!("{n} refer to no row"),
        (n, m) => format!("{n} refer to no row, {m} to a text that differs in case, accents or blanks only"),
    };
    Ok(Some(Finding::critical(
        format!("table {}, foreign key {}", table.name, key.name),
        "rows that refer to rows that are there, letter by letter: a target makes the key at the end of the copy",
        format!("{sort}: {}", keys.join("; ")),
        format!(
            "delete such rows, or write the parent's own spelling into them (SELECT c.* FROM {broken}); or ALTER TABLE \
             {child} DROP FOREIGN KEY {}",
            quote(&key.name)
        ),
    )))
}
