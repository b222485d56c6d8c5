//! SQLite as a source, by triggers and a change table.
//!
//! SQLite has no log that another program could read: its hooks and its session extension see their own connection
//! only. So Crossfade installs triggers in the application's database. They write a change table in the same
//! transaction as the application's own write, whatever program that is, and Crossfade polls it.
//!
//! ```text
//! application ──► table ──trigger──► _crossfade_change ──► stream ──► batch, Commit(last row seen)
//!                   └───────────────────────────────────► snapshot (one read transaction: table and position)
//! ```
//!
//! Read in this order: `triggers.rs` (what is logged, and why that is exact), `stream.rs`, `upgrade.rs` (schema changes),
//! `types.rs` (how untyped values travel).

use std::cmp::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use crossfade_core::{
    Column, Consistency, Details, Endpoint, Error, Finding, Omissions, Position, Result, Retained, Selection, Snapshot,
    Source, Stream, TableSchema,
};
use rusqlite::Connection;

mod catalog;
mod check;
mod decode;
mod details;
mod error;
#[cfg(test)]
mod fuzz;
mod index_sql;
mod install;
mod location;
mod mark;
mod notes;
mod prune;
mod references;
mod retype;
mod shape;
mod snapshot;
mod stream;
mod text;
mod triggers;
mod types;
mod upgrade;

use error::Doing;
use location::Location;
use mark::Mark;

/// Opens `sqlite:///path/to/file.db?busy_timeout=5s` as a source. The file is not touched before it is asked for.
pub fn open(endpoint: &Endpoint, omissions: Omissions) -> Result<Arc<dyn Source>> {
    Ok(Arc::new(Sqlite { location: Location::parse(endpoint)?, omissions, asked: Mutex::new(None) }))
}

/// Removes everything that Crossfade installed in the database: triggers, change table, control tables. Returns the names of
/// what it removed. A pipeline of this database cannot be continued afterwards, only begun anew.
pub fn uninstall(endpoint: &Endpoint) -> Result<Vec<String>> {
    install::remove(&Location::parse(endpoint)?)
}

struct Sqlite {
    location: Location,
    /// Columns that nobody wants.
    omissions: Omissions,
    /// The connection that [`Source::position`] asks, and the file that it opened: positions are asked for at every
    /// chunk of a copy, and opening a connection means parsing every trigger.
    asked: Mutex<Option<(Connection, (u64, u64))>>,
}

impl Sqlite {
    /// The admitted tables: as stored where there is a log, else as their values are. Where a stored shape no longer fits,
    /// what it decided is kept, and only new columns are looked at.
    fn table(&self, conn: &Connection, table: &catalog::Table, known: &[install::Known]) -> Result<TableSchema> {
        shape::refuse(table)?;
        let name = shape::name_of(&table.name);
        let stored = known.iter().find(|k| k.shape.name == name).map(|k| &k.shape);
        if let Some(stored) = stored.filter(|s| upgrade::same_columns(s, table)) {
            return Ok(TableSchema::clone(stored));
        }
        let kept = stored.filter(|s| {
            let pairs = s.columns.iter().zip(&table.columns);
            s.columns.len() <= table.columns.len() && pairs.into_iter().all(|(a, b)| a.source_type == b.declared)
        });
        let mut logical: Vec<_> = kept.iter().flat_map(|s| &s.columns).map(|c| c.logical.clone()).collect();
        logical.extend(shape::decide(conn, table, logical.len())?);
        let names = catalog::table_names(conn)?;
        let version = kept.map_or(1, |s| s.version + 1);
        let mut schema = shape::schema(table, logical, version, &catalog::spelling(&names));
        shape::complete_references(conn, &mut schema)?;
        Ok(schema)
    }
}

impl Source for Sqlite {
    fn check(&self, selection: &Selection) -> Result<Vec<Finding>> {
        check::run(&self.location, selection)
    }

    fn check_references(&self, tables: &[Arc<TableSchema>]) -> Result<Vec<Finding>> {
        references::check(&self.location.reader()?, tables)
    }

    fn retype(&self, tables: &[Arc<TableSchema>]) -> Result<()> {
        retype::run(&self.location, tables)
    }

    fn tables(&self, selection: &Selection) -> Result<Vec<Arc<TableSchema>>> {
        let conn = self.location.reader()?;
        let known = if install::id(&conn)?.is_some() { install::known(&conn)? } else { Vec::new() };
        let (mut tables, mut refused) = (Vec::new(), Vec::new());
        for (name, is_virtual) in catalog::table_names(&conn)? {
            if !selection.admits(&shape::name_of(&name)) {
                continue;
            }
            if is_virtual {
                refused.push(check::virtual_table(&name));
                continue;
            }
            let Some(table) = catalog::table(&conn, &name)? else { continue };
            match shape::obstacle(&table) {
                Some((why, fix)) => refused.push((name, why, fix)),
                None => {
                    let mut schema = self.table(&conn, &table, &known)?;
                    self.omissions.mark(&mut schema);
                    tables.push(Arc::new(schema));
                }
            }
        }
        if refused.is_empty() {
            return Ok(tables);
        }
        let list =
            |part: fn(&(String, String, String)) -> String| refused.iter().map(part).collect::<Vec<_>>().join("; ");
        Err(Error::data(
            shape::name_of(&refused[0].0),
            list(|(name, why, _)| format!("{name} cannot be carried: {why}")),
        )
        .hint(list(|(_, _, fix)| fix.clone())))
    }

    fn details(&self, tables: &[Arc<TableSchema>]) -> Result<Vec<Details>> {
        let conn = self.location.reader()?;
        let of = |table: &Arc<TableSchema>| match catalog::table(&conn, &table.name.name)? {
            Some(found) => details::of(&conn, &found, &table.columns),
            None => Ok(Details::default()),
        };
        tables.iter().map(of).collect()
    }

    fn begin(&self, tables: &[Arc<TableSchema>]) -> Result<Position> {
        let (id, mark) = install::begin(&self.location, tables)?;
        Ok(mark.position(&id))
    }

    fn position(&self) -> Result<Position> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let identity = self.location.identity()?;
        let conn = match asked.take().filter(|(_, opened)| *opened == identity) {
            Some((conn, _)) => conn,
            None => self.location.reader()?,
        };
        let position = notes::end(&conn, &self.location)?;
        conn.execute_batch("COMMIT").doing("reading the log's end")?;
        *asked = Some((conn, identity));
        Ok(position)
    }

    fn order(&self, a: &Position, b: &Position) -> Result<Ordering> {
        let ((a_id, a_mark), (b_id, b_mark)) = (Mark::parse_any(a)?, Mark::parse_any(b)?);
        if a_id != b_id {
            return Err(
                Error::unavailable(format!("{a} and {b} are positions of different installations")).hint(mark::RECOPY)
            );
        }
        Ok(a_mark.seq.cmp(&b_mark.seq))
    }

    fn distance(&self, _from: &Position, _to: &Position) -> Result<Option<u64>> {
        // The number of rows is known, their bytes only by reading them.
        Ok(None)
    }

    fn retained(&self) -> Result<Option<Retained>> {
        let conn = self.location.reader()?;
        install::retained(&conn)
    }

    fn snapshot(&self, _tables: &[Arc<TableSchema>], _consistency: Consistency) -> Result<Box<dyn Snapshot>> {
        Ok(Box::new(snapshot::View::open(&self.location)?))
    }

    fn peek(&self, _tables: &[Arc<TableSchema>]) -> Result<Box<dyn Snapshot>> {
        Ok(Box::new(snapshot::View::peek(&self.location)?))
    }

    fn orders_by_value(&self, key: &Column) -> bool {
        key.logical.has_one_order()
    }

    fn stream(&self, from: &Position, tables: &[Arc<TableSchema>]) -> Result<Box<dyn Stream>> {
        Ok(Box::new(stream::Log::open(&self.location, from, tables, &self.omissions)?))
    }
}
