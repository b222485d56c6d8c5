//! What the target's own table looks like, as far as it decides how rows are written.

use std::sync::atomic::{AtomicBool, Ordering};

use crossfade_core::{Error, Result, TableName, TableSchema};
use tokio_postgres::Client;

use crate::catalog::{self, Existing, ExistingColumn, ExistingIndex};
use crate::classify::classify;
use crate::ddl;
use crate::types::{Fit, compatible};

/// A table at the target.
#[derive(Debug)]
pub struct Shape {
    /// A column has another type than the batch, so rows go through a statement that converts them.
    pub cast: bool,
    /// Rows can be found by their key: else it is still to be made, or there is none.
    pub keyed: bool,
    /// There is a unique index beside the key's that is checked row by row.
    pub unique: bool,
    /// It has columns that the source lacks: a row that is deleted and inserted anew would lose their values.
    pub extra: bool,
    /// The columns' types here, as `format_type` prints them, in the order of the source's columns.
    pub types: Vec<String>,
    /// Foreign keys of other tables refer to it.
    pub referenced: bool,
    /// Rows that should have been new were there already. It chooses the cheaper way, never what is written.
    collides: AtomicBool,
}

const REFERENCED: &str = "\
    SELECT EXISTS (SELECT FROM pg_catalog.pg_constraint f \
        JOIN pg_catalog.pg_class c ON c.oid = f.confrelid \
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
        WHERE n.nspname = $1 AND c.relname = $2 AND f.contype = 'f')";

/// Looks at the target's table.
pub async fn load(client: &Client, table: &TableSchema) -> Result<Shape> {
    let Some(existing) = catalog::table(client, &table.name).await? else {
        return Err(gone(&table.name));
    };
    let referenced = client.query_one(REFERENCED, &[&table.name.schema, &table.name.name]).await;
    let kind =
        |c: &crossfade_core::Column| existing.columns.iter().find(|e| e.name == c.name).map(|e| e.actual.sql.clone());
    Ok(Shape {
        cast: needs_cast(table, &existing)?,
        types: table.columns.iter().filter_map(kind).collect(),
        keyed: !table.key.is_empty() && ddl::is_keyed(table, &existing),
        unique: secondary_unique(table, &existing).next().is_some(),
        extra: extra_columns(table, &existing).next().is_some(),
        referenced: referenced.and_then(|row| row.try_get(0)).map_err(classify)?,
        collides: AtomicBool::new(false),
    })
}

/// A table that somebody has dropped or renamed at the target.
pub fn gone(table: &TableName) -> Error {
    let hint = "somebody has dropped or renamed it there: `crossfade snapshot TABLE` makes it anew and copies it";
    Error::data(table, "it is gone from the target").hint(hint)
}

fn needs_cast(table: &TableSchema, existing: &Existing) -> Result<bool> {
    let mut cast = false;
    for column in &table.columns {
        let wrong = |why: String| {
            Error::data(&table.name, why)
                .column(&column.name)
                .hint("somebody changed the target's table: `crossfade check` names the statement that mends it")
        };
        let found = existing.columns.iter().find(|c| c.name == column.name);
        let found = found.ok_or_else(|| wrong("the target's table lacks the column".into()))?;
        match compatible(column, &found.actual) {
            Fit::Same => {}
            Fit::Cast => cast = true,
            Fit::No(why) => return Err(wrong(why)),
        }
    }
    Ok(cast)
}

/// Unique indexes on other columns than the key's.
pub fn secondary_unique<'a>(
    table: &TableSchema,
    existing: &'a Existing,
) -> impl Iterator<Item = &'a ExistingIndex> + use<'a> {
    let mut key: Vec<String> = table.key_columns().map(|c| c.name.clone()).collect();
    key.sort_unstable();
    existing.indexes.iter().filter(move |index| {
        let mut columns = index.columns.clone();
        columns.sort_unstable();
        index.unique && columns != key
    })
}

/// Columns that only the target has, but for those that it computes.
pub fn extra_columns<'a>(table: &'a TableSchema, existing: &'a Existing) -> impl Iterator<Item = &'a ExistingColumn> {
    existing.columns.iter().filter(|c| !c.generated && table.ordinal(&c.name).is_none())
}

impl Shape {
    /// Remembers that rows which should have been new were there.
    pub fn collided(&self) {
        self.collides.store(true, Ordering::Relaxed);
    }

    /// Whether that has happened.
    pub fn collides(&self) -> bool {
        self.collides.load(Ordering::Relaxed)
    }
}
