//! What a publication lets through, and what it would leave out in silence.
//!
//! A publication that somebody else made, or changed, may carry some operations only, some rows (`WHERE`), some columns, or not
//! all tables: whatever it leaves out never comes, and no message says so. Therefore it is compared with what is carried before
//! a log is read ([`Publication::faults`]), and again while it is read (`watch`).
//!
//! The statement answers in text, so that it can be asked over a replication connection as well.

use crossfade_core::{Error, Result, TableName, TableSchema};
use tokio_postgres::SimpleQueryMessage;

use super::prepared::Prepared;
use crate::classify::classify;
use crate::options::Partitions;
use crate::quote::{self, ident, literal};

/// A table in a publication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Its name.
    pub name: TableName,
    /// Its object id.
    oid: u32,
    /// The object id of its entry: another one if it left and came back. None where it is published with its schema or with all.
    entry: Option<String>,
    /// Rows for which this does not hold are left out.
    filter: Option<String>,
    /// Columns that are left out.
    left_out: Option<String>,
}

/// A publication as the server has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    name: String,
    oid: String,
    /// Whether it publishes inserts, updates, deletes and truncates.
    operations: bool,
    /// Whether partitions are published under their root's name.
    via_root: bool,
    /// Its tables.
    pub tables: Vec<Published>,
}

/// Something that a publication leaves out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The table, if it is about one.
    pub table: Option<TableName>,
    /// What.
    pub what: String,
    /// The statement that mends it.
    pub fix: String,
}

/// Rows of eight columns as [`Publication::of`] takes them. Filters and lists of columns exist from 15 on.
pub fn statement(publication: &str) -> String {
    format!(
        "SELECT p.oid::text, p.pubinsert AND p.pubupdate AND p.pubdelete AND p.pubtruncate, p.pubviaroot, \
             t.schemaname, t.tablename, c.oid::text, \
             (SELECT r.oid::text FROM pg_catalog.pg_publication_rel r WHERE r.prpubid = p.oid AND r.prrelid = c.oid), \
             pg_catalog.to_jsonb(t) ->> 'rowfilter', \
             (SELECT pg_catalog.string_agg(a.attname, ', ' ORDER BY a.attnum) FROM pg_catalog.pg_attribute a \
              WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' \
                 AND NOT pg_catalog.to_jsonb(t) -> 'attnames' ? a.attname) \
         FROM pg_catalog.pg_publication p LEFT JOIN pg_catalog.pg_publication_tables t ON t.pubname = p.pubname \
         LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = t.schemaname \
         LEFT JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename \
         WHERE p.pubname = {} ORDER BY t.schemaname, t.tablename",
        literal(publication)
    )
}

/// Reads a publication; `None` if there is none of that name.
pub async fn read(client: &Prepared, publication: &str) -> Result<Option<Publication>> {
    let messages = client.simple_query(&statement(publication)).await.map_err(classify)?;
    let row = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect()),
        _ => None,
    };
    let rows: Vec<Vec<Option<String>>> = messages.iter().filter_map(row).collect();
    Publication::of(publication, &rows)
}

impl Publication {
    /// From the answer to [`statement`].
    pub fn of(name: &str, rows: &[Vec<Option<String>>]) -> Result<Option<Publication>> {
        let cell = |row: &[Option<String>], i: usize| row.get(i).cloned().flatten();
        let Some(first) = rows.first() else { return Ok(None) };
        let strange = || Error::corrupt(format!("the server's answer about publication {name} cannot be read"));
        let mut tables = Vec::new();
        for row in rows {
            // A publication without tables has one row, of itself.
            let (Some(schema), Some(table)) = (cell(row, 3), cell(row, 4)) else { continue };
            tables.push(Published {
                name: TableName::new(schema, table),
                oid: cell(row, 5).and_then(|oid| oid.parse().ok()).ok_or_else(strange)?,
                entry: cell(row, 6),
                filter: cell(row, 7),
                left_out: cell(row, 8),
            });
        }
        Ok(Some(Publication {
            name: name.to_owned(),
            oid: cell(first, 0).ok_or_else(strange)?,
            operations: cell(first, 1).as_deref() == Some("t"),
            via_root: cell(first, 2).as_deref() == Some("t"),
            tables,
        }))
    }

    fn table(&self, name: &TableName) -> Option<&Published> {
        self.tables.iter().find(|t| t.name == *name)
    }

    /// A table's object id.
    pub fn oid(&self, name: &TableName) -> Option<u32> {
        self.table(name).map(|t| t.oid)
    }

    /// Whether a table is in it.
    pub fn has(&self, name: &TableName) -> bool {
        self.table(name).is_some()
    }

    /// What these tables would lack, but for the tables that are not in it at all.
    pub fn faults<'t>(&self, tables: impl IntoIterator<Item = &'t TableName>) -> Vec<Fault> {
        let (publication, mut faults) = (ident(&self.name), Vec::new());
        if !self.operations {
            let fix = format!("ALTER PUBLICATION {publication} SET (publish = 'insert, update, delete, truncate')");
            faults.push(Fault { table: None, what: "it does not publish all operations".into(), fix });
        }
        for table in tables.into_iter().filter_map(|t| self.table(t)) {
            let name = quote::table(&table.name);
            let fix = format!(
                "ALTER PUBLICATION {publication} DROP TABLE {name}; ALTER PUBLICATION {publication} ADD TABLE {name}"
            );
            let mut fault =
                |what: String| faults.push(Fault { table: Some(table.name.clone()), what, fix: fix.clone() });
            if let Some(filter) = &table.filter {
                fault(format!("it leaves out rows of table {}: WHERE {filter}", table.name));
            }
            if let Some(columns) = &table.left_out {
                fault(format!("it leaves out columns of table {}: {columns}", table.name));
            }
        }
        faults
    }

    /// As [`Publication::faults`], and tables that are not in it: the first, as an error.
    pub fn verify<'t>(&self, tables: impl IntoIterator<Item = &'t TableName> + Clone) -> Result<()> {
        // What is wrong with one table is its trouble alone.
        let error = |table: Option<&TableName>, what: &str, fix: &str| {
            let what = format!("publication {}: {what}", self.name);
            table.map_or_else(|| Error::unavailable(&what), |table| Error::data(table, &what)).hint(fix)
        };
        if let Some(fault) = self.faults(tables.clone()).first() {
            let again = match &fault.table {
                Some(table) => format!("{}; then copy it again: crossfade snapshot {table}", fault.fix),
                None => format!("{}; then copy again what has changed: crossfade snapshot", fault.fix),
            };
            return Err(error(fault.table.as_ref(), &fault.what, &again));
        }
        match tables.into_iter().find(|t| !self.has(t)) {
            None => Ok(()),
            Some(table) => {
                let (publication, name) = (ident(&self.name), quote::table(table));
                let fix = format!(
                    "ALTER PUBLICATION {publication} ADD TABLE {name}; then copy it again: crossfade snapshot {table}"
                );
                Err(error(Some(table), &format!("table {table} is not in it"), &fix))
            }
        }
    }

    /// Whether partitions arrive under the name that is wanted.
    pub fn roots(&self, partitions: Partitions, any: bool) -> Option<Fault> {
        let (wrong, want) = match partitions {
            Partitions::Root => (!self.via_root && any, true),
            Partitions::Leaf => (self.via_root, false),
        };
        let under = if want { "their own names" } else { "their root's name" };
        wrong.then(|| Fault {
            table: None,
            what: format!("it publishes partitions under {under}"),
            fix: format!("ALTER PUBLICATION {} SET (publish_via_partition_root = {want})", ident(&self.name)),
        })
    }

    /// Whether a table has been in this publication all along since `before`.
    pub fn kept(&self, before: &Publication, table: &TableName) -> bool {
        let id = |p: &Publication| p.table(table).map(|t| (p.oid.clone(), t.oid, t.entry.clone()));
        id(self) == id(before)
    }

    /// The error for one that is gone.
    pub fn gone(name: &str) -> Error {
        Error::unavailable(format!("publication {name}: it is gone")).hint(
            "`crossfade slot drop`, then `crossfade snapshot '*'` (makes publication and slot anew) and `crossfade run` copy all \
             tables again",
        )
    }
}

/// Under which name a table is published: partitioned ones under their root's, others without what inherits from them.
pub fn clause(table: &TableSchema, partitioned: bool) -> String {
    let only = if partitioned { "" } else { "ONLY " };
    format!("TABLE {only}{}", quote::table(&table.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cells: [&str; 9]) -> Vec<Option<String>> {
        cells.iter().map(|c| (!c.is_empty()).then(|| (*c).to_owned())).collect()
    }

    #[test]
    fn what_is_left_out() {
        let t = TableName::new("s", "t");
        assert_eq!(Publication::of("p", &[]).unwrap(), None);
        let of = |rows: &[Vec<Option<String>>]| Publication::of("p", rows).unwrap().unwrap();
        let empty = of(&[row(["1", "t", "t", "", "", "", "", "", ""])]);
        assert!(empty.faults([&t]).is_empty() && empty.verify([&t]).unwrap_err().to_string().contains("not in it"));
        let whole = of(&[row(["1", "t", "t", "s", "t", "7", "8", "", ""])]);
        assert!(whole.verify([&t]).is_ok());
        let parts = of(&[row(["1", "f", "t", "s", "t", "7", "9", "(id > 5)", "a, b"])]);
        assert_eq!(parts.faults([&t]).len(), 3);
        assert!(!parts.kept(&whole, &t) && whole.kept(&whole, &t));
        assert!(Publication::of("p", &[vec![]]).is_err());
    }
}
