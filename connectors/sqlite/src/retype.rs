//! The types of a table's columns decided anew, when it is copied again.
//!
//! How a column travels is decided once, by its declaration and all values there are, and kept (`types.rs`): targets could not follow
//! a decision that changes with the next value. So a value that contradicts it stops the table, `0.1 + 0.2` in a NUMERIC(10,2) say. Whoever then
//! copies the table again wants that value carried; but only where there is such a value, since the target's table is made anew with
//! another type. All values are read without a lock; what comes while they are read, and fits neither, stops the table once more.

use std::sync::Arc;

use crossfade_core::{Error, KeyRange, Logical, Result, Snapshot, TableSchema};
use rusqlite::TransactionBehavior;

use crate::catalog;
use crate::error::Doing;
use crate::install::{self, Known, to_json};
use crate::location::Location;
use crate::shape;
use crate::snapshot::View;
use crate::upgrade;

/// Decides anew about those of the tables whose values contradict what was decided.
pub fn run(location: &Location, tables: &[Arc<TableSchema>]) -> Result<()> {
    let conn = location.reader()?;
    if install::id(&conn)?.is_none() {
        return Ok(());
    }
    for known in install::known(&conn)?.iter().filter(|k| tables.iter().any(|t| t.name == k.shape.name)) {
        let table = catalog::table(&conn, &known.shape.name.name)?;
        // A table of other columns gets another shape anyway, when its log begins anew.
        let Some(table) = table.filter(|t| upgrade::same_columns(&known.shape, t)) else { continue };
        if !is_contradicted(location, &known.shape)? {
            continue;
        }
        let logical = shape::decide(&conn, &table, 0)?;
        if !known.shape.columns.iter().map(|c| &c.logical).eq(&logical) {
            store(location, known, logical)?;
        }
    }
    Ok(())
}

/// Whether the table holds a value that its shape does not carry.
fn is_contradicted(location: &Location, shape: &TableSchema) -> Result<bool> {
    let mut found = false;
    View::peek(location)?.survey(shape, &KeyRange::ALL, &mut |_| Ok(()), &mut |_| found = true)?;
    Ok(found)
}

/// Begins the log anew with these types, unless somebody has altered the table since they were decided.
fn store(location: &Location, known: &Known, logical: Vec<Logical>) -> Result<()> {
    let doing = "storing the types of a table's columns";
    let mut conn = location.writer()?;
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate).doing(doing)?;
    let name = &known.shape.name;
    let table = catalog::table(&tx, &name.name)?.filter(|t| upgrade::same_columns(&known.shape, t));
    let stands = install::known(&tx)?.iter().any(|k| k.id == known.id && k.shape == known.shape);
    let Some(table) = table.filter(|_| stands) else {
        return Err(Error::transient(format!("table {name} was altered just now")));
    };
    let mut shape = TableSchema::clone(&known.shape);
    shape.version += 1;
    shape.columns.iter_mut().zip(logical).for_each(|(column, logical)| column.logical = logical);
    install::begin_anew(&tx, known.id, &to_json(&shape)?, &to_json(&install::uniques(&table))?)?;
    tx.commit().doing(doing)
}
