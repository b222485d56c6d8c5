//! Keeps the log complete while the application alters its tables.
//!
//! What SQLite itself does to our triggers: RENAME COLUMN rewrites them, ADD COLUMN leaves them without the new column,
//! DROP COLUMN is refused while a trigger names the column, and a table that is rebuilt (create, copy, drop, rename: what
//! migration tools do) loses them. So:
//!
//! - ADD COLUMN and RENAME COLUMN are carried: in one IMMEDIATE transaction the triggers are made anew, an entry with the
//!   new shape is logged, and behind it every row of the table that the unread log mentions is logged once more. Rows
//!   written between the ALTER and this moment were logged without the new column; all of them are among those.
//! - A new unique constraint is taken over if nothing was written since it came; otherwise a row that OR REPLACE took
//!   away under it may be missing, and the table stops.
//! - Anything else stops the table. Where it lost its triggers, `snapshot` begins its log anew (`install::begin`).

use crossfade_core::{Error, Logical, Result, TableSchema};
use rusqlite::types::Value;
use rusqlite::{Connection, TransactionBehavior, params};
use serde::{Deserialize, Serialize};

use crate::catalog::{self, Table, quote, rows};
use crate::error::Doing;
use crate::install::{self, Known, to_json};
use crate::mark::RECOPY;
use crate::shape;
use crate::text;
use crate::triggers::{self, SUFFIXES, op, trigger_name};

/// What old rows hold in each column that an entry of the log adds, as text; `None` is NULL.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Fills(pub Vec<Option<String>>);

/// Whether the table's columns are still those of the shape.
pub fn same_columns(shape: &TableSchema, table: &Table) -> bool {
    shape.columns.len() == table.columns.len()
        && shape.columns.iter().zip(&table.columns).all(|(a, b)| a.name == b.name && a.source_type == b.declared)
        && same_key(shape, table)
}

/// Whether the table's key is still that of the shape.
pub fn same_key(shape: &TableSchema, table: &Table) -> bool {
    shape.key.iter().eq(table.key.iter().map(|(i, _)| i))
}

/// The tables on which a table's triggers stand now.
pub fn trigger_tables(conn: &Connection, id: i64) -> Result<Vec<String>> {
    let names: Vec<String> = SUFFIXES.iter().map(|s| format!("'{}'", trigger_name(id, s))).collect();
    let sql = format!("SELECT tbl_name FROM sqlite_schema WHERE type = 'trigger' AND name IN ({})", names.join(", "));
    rows(conn, &sql, [], |r| r.get(0))
}

/// Brings the logs of these tables up to date with their shapes; `seen`: the last row of the change table that was read
/// under the schema before. Returns whether anything was written.
pub fn run(conn: &mut Connection, ids: &[i64], seen: i64) -> Result<()> {
    let doing = "comparing the tables with their log";
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate).doing(doing)?;
    for known in install::known(&tx)?.iter().filter(|k| ids.contains(&k.id)) {
        table(&tx, known, seen)?;
    }
    tx.commit().doing(doing)
}

/// Brings one table's log up to date.
pub fn table(tx: &Connection, known: &Known, seen: i64) -> Result<()> {
    let name = &known.shape.name;
    if known.since > seen {
        // For another pipeline, a moment ago.
        return Err(install::begun_anew(name, known.since, format!("row {seen}")));
    }
    let on = trigger_tables(tx, known.id)?;
    let table = catalog::table(tx, &name.name)?;
    if let Some(other) = on.iter().find(|t| **t != name.name) {
        return Err(Error::data(name, format!("the table was renamed to {other}"))
            .hint(format!("rename it back, or copy {other} as a table of its own")));
    }
    let Some(table) = table else {
        return Err(Error::data(name, "the table was dropped").hint("take it out of the pipeline"));
    };
    if on.len() != SUFFIXES.len() {
        return Err(Error::data(
            name,
            "its triggers are gone: the table was dropped and created anew, so its log has a gap",
        )
        .hint(format!("copy it again: `crossfade snapshot {name}` makes them anew")));
    }
    let uniques = install::uniques(&table);
    let fresh = !uniques.is_subset(&known.uniques);
    if fresh && mentions(tx, known.id, seen)? {
        return Err(Error::data(
            name,
            "it got a new unique constraint, and was written to before its triggers knew: rows that an OR REPLACE removed \
             under it may be missing from the log",
        )
        .hint(RECOPY));
    }
    let to = evolve(tx, &known.shape, &table)?;
    if let Some((to, fills, all)) = &to {
        log_schema(tx, known, &table, to, fills, *all)?;
    } else if fresh || uniques != known.uniques || !triggers_stand(tx, known.id, &table)? {
        install::create(tx, &table, known.id)?;
    }
    let shape = to.as_ref().map_or_else(|| to_json(&*known.shape), |(to, ..)| to_json(to))?;
    if to.is_some() || uniques != known.uniques {
        tx.execute(
            "UPDATE _crossfade_table SET shape = ?2, uniques = ?3 WHERE id = ?1",
            params![known.id, shape, to_json(&uniques)?],
        )
        .doing("storing a table's shape")?;
    }
    Ok(())
}

fn mentions(tx: &Connection, id: i64, after: i64) -> Result<bool> {
    tx.query_row("SELECT EXISTS (SELECT 1 FROM _crossfade_change WHERE seq > ?1 AND t = ?2)", [after, id], |r| r.get(0))
        .doing("reading the change table")
}

/// Whether the triggers are those that would be written now, and younger than the application's own on this table.
fn triggers_stand(tx: &Connection, id: i64, table: &Table) -> Result<bool> {
    let there = rows(
        tx,
        "SELECT name, sql, rowid FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = ?1",
        [&table.name],
        |r| Ok((r.get::<_, String>(0)?, r.get::<_, String>(1)?, r.get::<_, i64>(2)?)),
    )?;
    let script = triggers::script(table, id);
    let of = |name: &str| there.iter().find(|(n, ..)| n == name);
    let equal = script.triggers.iter().all(|(name, sql)| of(name).is_some_and(|(_, s, _)| s == sql));
    let ours = script.triggers.iter().filter_map(|(name, _)| of(name)).map(|t| t.2).min();
    let theirs = there.iter().filter(|(n, ..)| !n.starts_with(catalog::PREFIX)).map(|t| t.2).max();
    Ok(equal && theirs < ours)
}

/// The shape that the table has now, what old rows hold in its new columns, and whether all rows have to be read again;
/// `None` if it is the same.
fn evolve(tx: &Connection, from: &TableSchema, table: &Table) -> Result<Option<(TableSchema, Fills, bool)>> {
    if same_columns(from, table) {
        return Ok(None);
    }
    let stop = |what: String| {
        Err(Error::data(&from.name, what)
            .hint("undo the change, or run `crossfade uninstall` and copy the tables anew"))
    };
    let count = from.columns.len();
    if table.columns.len() < count {
        return stop("the table lost a column".into());
    }
    for (old, new) in from.columns.iter().zip(&table.columns) {
        if old.source_type != new.declared {
            return stop(format!("column {} was {:?} and is {:?} now", old.name, old.source_type, new.declared));
        }
    }
    if !same_key(from, table) {
        return stop("the table has another key".into());
    }
    let mut logical: Vec<Logical> = from.columns.iter().map(|c| c.logical.clone()).collect();
    logical.extend(shape::decide(tx, table, count)?);
    let names = catalog::table_names(tx)?;
    let mut to = shape::schema(table, logical, from.version + 1, &catalog::spelling(&names));
    shape::complete_references(tx, &mut to)?;
    let mut fills = Vec::new();
    for (column, shape) in table.columns.iter().zip(&to.columns).skip(count) {
        fills.push(fill(tx, column, &shape.logical)?);
    }
    let all = table.columns.iter().skip(count).any(|c| c.generated);
    Ok(Some((to, Fills(fills), all)))
}

/// What rows that were there before the column hold in it: its default under its affinity.
fn fill(tx: &Connection, column: &catalog::Col, logical: &Logical) -> Result<Option<String>> {
    let Some(default) = column.default.as_ref().filter(|_| !column.generated) else { return Ok(None) };
    let doing = format!("reading the default of column {}", column.name);
    let scratch = "_crossfade_fill";
    let sql = format!(
        "CREATE TABLE {scratch} (x {}); INSERT INTO {scratch} VALUES ({default});",
        if column.declared.is_empty() { String::new() } else { quote(&column.declared) }
    );
    tx.execute_batch(&sql).doing(&doing)?;
    let value: Value = tx.query_row(&format!("SELECT x FROM {scratch}"), [], |r| r.get(0)).doing(&doing)?;
    tx.execute_batch(&format!("DROP TABLE {scratch}")).doing(&doing)?;
    Ok(match (logical, &value) {
        (_, Value::Null) => None,
        (Logical::Literal, v) => text::literal(v.into()),
        (_, Value::Text(t)) => Some(t.clone()),
        (Logical::Numeric | Logical::Decimal { .. }, v) => text::numeric(v.into()),
        (_, v) => text::literal(v.into()),
    })
}

/// Logs the new shape, and behind it once more every row whose entry may lack a new column.
fn log_schema(tx: &Connection, known: &Known, table: &Table, to: &TableSchema, fills: &Fills, all: bool) -> Result<()> {
    let doing = format!("logging the new shape of {}", to.name);
    install::create(tx, table, known.id)?;
    tx.execute(
        "INSERT INTO _crossfade_change(t, op, at, c0, c1) VALUES (?1, ?2, julianday('now'), ?3, ?4)",
        params![known.id, op::SCHEMA, to_json(to)?, to_json(fills)?],
    )
    .doing(&doing)?;
    if to.columns.len() > known.shape.columns.len() {
        tx.execute_batch(&triggers::reread(table, known.id, all)).doing(&doing)?;
    }
    Ok(())
}

/// The steps from one shape to the next, as [`evolve`] admits them: columns keep their places.
pub fn steps(from: &TableSchema, to: &TableSchema, fills: &Fills) -> Vec<crossfade_core::batch::SchemaStep> {
    use crossfade_core::batch::SchemaStep::{Add, Rename};
    let renamed = from.columns.iter().zip(&to.columns).filter(|(a, b)| a.name != b.name);
    let mut steps: Vec<_> = renamed.map(|(a, b)| Rename { from: a.name.clone(), to: b.name.clone() }).collect();
    let added = to.columns.iter().skip(from.columns.len()).enumerate();
    steps.extend(added.map(|(i, c)| Add { column: c.name.clone(), fill: fills.0.get(i).cloned().flatten() }));
    steps
}
