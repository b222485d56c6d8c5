//! Notes that no trigger settled: rows that a statement replaced in silence, and never came to say so.
//!
//! The triggers note what a statement may replace, and settle the notes when it has (`triggers.rs`). A statement that ends without
//! any of them firing again leaves its notes behind: an ignored row does, harmlessly, and so does one that takes away the very row
//! it was to update on a way that the triggers do not follow. So whoever looks for the log's end, or opens a snapshot, first looks
//! whether a noted row is gone. If one is, its deletion is logged now, under the write lock, under which no statement is under way:
//! a key's last entry is then its state, whatever the application's triggers and cascades did. At worst the deletion is logged
//! twice, or one transaction late.
//!
//! The notes are a handful at most times, none at all at nearly all times.

use rusqlite::{Connection, TransactionBehavior};

use crossfade_core::{Position, Result};

use crate::catalog::{self, Table};
use crate::error::Doing;
use crate::install::{self, Known};
use crate::location::Location;
use crate::triggers;
use crate::upgrade;

/// Begins a read transaction in which no note is unsettled, and returns the log's end in it.
pub fn end(conn: &Connection, location: &Location) -> Result<Position> {
    let doing = "looking for the log's end";
    loop {
        conn.execute_batch("BEGIN").doing(doing)?;
        let id = install::require_id(conn)?;
        let unsettled = unsettled(conn)?;
        if unsettled.is_empty() {
            return Ok(install::last_mark(conn)?.position(&id));
        }
        conn.execute_batch("COMMIT").doing(doing)?;
        settle(location, &unsettled)?;
    }
}

/// Of the tables that have a log, those with a noted row that is gone; to be asked inside a transaction.
pub fn unsettled(conn: &Connection) -> Result<Vec<i64>> {
    let mut noted = Vec::new();
    for (id, helpers) in install::note_tables(conn)? {
        for helper in &helpers {
            if !is_empty(conn, helper)? {
                noted.push((id, helpers));
                break;
            }
        }
    }
    if noted.is_empty() {
        return Ok(Vec::new());
    }
    let known = install::known(conn)?;
    let mut found = Vec::new();
    for (id, helpers) in noted {
        let Some(known) = known.iter().find(|k| k.id == id) else { continue };
        let Some(table) = table(conn, known)? else { continue };
        let sql = format!("SELECT EXISTS ({})", triggers::gone(&table, id, &helpers));
        if conn.query_row(&sql, [], |r| r.get(0)).doing("looking for rows that were replaced")? {
            found.push(id);
        }
    }
    Ok(found)
}

/// Logs the noted rows of these tables that are gone, in one transaction.
pub fn settle(location: &Location, ids: &[i64]) -> Result<()> {
    let doing = "logging rows that were replaced";
    let mut conn = location.writer()?;
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate).doing(doing)?;
    let notes = install::note_tables(&tx)?;
    for known in install::known(&tx)?.iter().filter(|k| ids.contains(&k.id)) {
        if let (Some(table), Some(helpers)) = (table(&tx, known)?, notes.get(&known.id)) {
            tx.execute_batch(&sql(&table, known.id, helpers)).doing(doing)?;
        }
    }
    tx.commit().doing(doing)
}

/// The statements that log the noted rows of a table that are gone, and throw all its notes away. Whoever runs them holds the
/// write lock: no statement is under way that may still need a note.
pub fn sql(table: &Table, id: i64, helpers: &[String]) -> String {
    let mut out = triggers::log_replaced(table, id, helpers);
    for helper in helpers {
        out.push_str(&format!("; DELETE FROM {helper}"));
    }
    out
}

/// The table as it stands, unless its key is another one than the log's: then the stream stops at it.
pub fn table(conn: &Connection, known: &Known) -> Result<Option<Table>> {
    Ok(catalog::table(conn, &known.shape.name.name)?.filter(|t| upgrade::same_key(&known.shape, t)))
}

fn is_empty(conn: &Connection, helper: &str) -> Result<bool> {
    let doing = "looking for notes";
    let mut statement = conn.prepare_cached(&format!("SELECT NOT EXISTS (SELECT 1 FROM {helper})")).doing(doing)?;
    statement.query_row([], |r| r.get(0)).doing(doing)
}
