//! Tables as they are in the database: what `check`, `prepare` and the end of the copy compare with.
//!
//! Read from `pg_catalog` rather than from `information_schema`, which hides what the user has no privilege for.

use std::collections::HashSet;

use crossfade_core::{Result, TableName};
use tokio_postgres::{GenericClient, Row};

use crate::classify::classify;
use crate::types::Actual;

/// A table that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Existing {
    /// Its object id.
    pub oid: u32,
    /// Whether the user may alter it.
    pub owned: bool,
    /// `pg_class.relkind`: `r` table, `p` partitioned, `v` view, `f` foreign table.
    pub kind: char,
    /// In order.
    pub columns: Vec<ExistingColumn>,
    /// All valid indexes, the primary key's among them.
    pub indexes: Vec<ExistingIndex>,
}

/// A column of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExistingColumn {
    /// Unquoted.
    pub name: String,
    /// Its type.
    pub actual: Actual,
    /// Whether it refuses NULL.
    pub not_null: bool,
    /// Whether a row that does not name it gets a value.
    pub has_default: bool,
    /// Whether it is computed, so that nobody may write it.
    pub generated: bool,
    /// Whether it is `GENERATED ALWAYS AS IDENTITY`, so that an `INSERT` may not write it.
    pub identity_always: bool,
}

/// An index of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExistingIndex {
    /// Unquoted.
    pub name: String,
    /// Column names in index order; empty where the index has expressions or a condition.
    pub columns: Vec<String>,
    /// Whether it forbids equal values, at once.
    pub unique: bool,
    /// Whether it is the primary key's.
    pub primary: bool,
}

/// A foreign key that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExistingForeignKey {
    /// Unquoted; unique within its table.
    pub name: String,
    /// Column names.
    pub columns: Vec<String>,
    /// The table referred to.
    pub to: TableName,
    /// Its columns, in the order of `columns`.
    pub to_columns: Vec<String>,
    /// Whether all rows have been found to obey it.
    pub valid: bool,
}

const COLUMNS: &str = "\
SELECT a.attname::text, t.typname::text, tn.nspname = 'pg_catalog',
       CASE WHEN d.typtype = 'd' THEN d.typtypmod ELSE a.atttypmod END,
       pg_catalog.format_type(a.atttypid, a.atttypmod),
       a.attnotnull OR d.typnotnull, a.atthasdef OR a.attidentity <> '', a.attgenerated <> '', a.attidentity = 'a'
FROM pg_catalog.pg_attribute a
JOIN pg_catalog.pg_type d ON d.oid = a.atttypid
JOIN pg_catalog.pg_type t ON t.oid = CASE WHEN d.typtype = 'd' THEN d.typbasetype ELSE d.oid END
JOIN pg_catalog.pg_namespace tn ON tn.oid = t.typnamespace
WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum";

const INDEXES: &str = "\
SELECT x.relname::text,
       CASE WHEN i.indpred IS NULL AND i.indexprs IS NULL THEN ARRAY(
           SELECT a.attname::text FROM pg_catalog.generate_series(0, i.indnkeyatts - 1) k
           JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k] ORDER BY k)
       ELSE '{}'::text[] END,
       i.indisunique AND i.indimmediate, i.indisprimary
FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
WHERE i.indrelid = $1 AND i.indisvalid
ORDER BY x.relname";

const FOREIGN_KEYS: &str = "\
SELECT c.conname::text, tn.nspname::text, t.relname::text, c.convalidated,
       ARRAY(SELECT a.attname::text FROM pg_catalog.unnest(c.conkey) WITH ORDINALITY k(n, o)
             JOIN pg_catalog.pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.n ORDER BY k.o),
       ARRAY(SELECT a.attname::text FROM pg_catalog.unnest(c.confkey) WITH ORDINALITY k(n, o)
             JOIN pg_catalog.pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.n ORDER BY k.o)
FROM pg_catalog.pg_constraint c
JOIN pg_catalog.pg_class t ON t.oid = c.confrelid JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace
WHERE c.conrelid = $1 AND c.contype = 'f'";

/// The table of this name, if there is a relation of that name.
pub async fn table(client: &impl GenericClient, name: &TableName) -> Result<Option<Existing>> {
    let Some((oid, kind, owned)) = relation(client, name).await? else { return Ok(None) };
    let columns = client.query(COLUMNS, &[&oid]).await.map_err(classify)?;
    let indexes = client.query(INDEXES, &[&oid]).await.map_err(classify)?;
    Ok(Some(Existing {
        oid,
        owned,
        kind,
        columns: columns.iter().map(column).collect::<Result<_, _>>().map_err(classify)?,
        indexes: indexes.iter().map(index).collect::<Result<_, _>>().map_err(classify)?,
    }))
}

fn column(row: &Row) -> Result<ExistingColumn, tokio_postgres::Error> {
    Ok(ExistingColumn {
        name: row.try_get(0)?,
        actual: Actual {
            typname: row.try_get(1)?,
            builtin: row.try_get(2)?,
            typmod: row.try_get(3)?,
            sql: row.try_get(4)?,
        },
        not_null: row.try_get(5)?,
        has_default: row.try_get(6)?,
        generated: row.try_get(7)?,
        identity_always: row.try_get(8)?,
    })
}

fn index(row: &Row) -> Result<ExistingIndex, tokio_postgres::Error> {
    Ok(ExistingIndex {
        name: row.try_get(0)?,
        columns: row.try_get(1)?,
        unique: row.try_get(2)?,
        primary: row.try_get(3)?,
    })
}

/// Object id and kind of a relation, and whether the user owns it.
async fn relation(client: &impl GenericClient, name: &TableName) -> Result<Option<(u32, char, bool)>> {
    let row = client
        .query_opt(
            "SELECT c.oid, c.relkind::text, pg_catalog.pg_has_role(c.relowner, 'USAGE') FROM pg_catalog.pg_class c \
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2",
            &[&name.schema, &name.name],
        )
        .await
        .map_err(classify)?;
    let Some(row) = row else { return Ok(None) };
    let kind: String = row.try_get(1).map_err(classify)?;
    Ok(Some((row.try_get(0).map_err(classify)?, kind.chars().next().unwrap_or('?'), row.try_get(2).map_err(classify)?)))
}

/// The foreign keys of a table; none where there is no table.
pub async fn foreign_keys(client: &impl GenericClient, name: &TableName) -> Result<Vec<ExistingForeignKey>> {
    let Some((oid, ..)) = relation(client, name).await? else { return Ok(Vec::new()) };
    let rows = client.query(FOREIGN_KEYS, &[&oid]).await.map_err(classify)?;
    let read = |row: &Row| {
        let (schema, table): (String, String) = (row.try_get(1)?, row.try_get(2)?);
        Ok(ExistingForeignKey {
            name: row.try_get(0)?,
            to: TableName::new(schema, table),
            valid: row.try_get(3)?,
            columns: row.try_get(4)?,
            to_columns: row.try_get(5)?,
        })
    };
    rows.iter().map(read).collect::<Result<_, tokio_postgres::Error>>().map_err(classify)
}

/// The names of all relations of a schema (tables, indexes, sequences, views share one namespace).
pub async fn relations(client: &impl GenericClient, schema: &str) -> Result<HashSet<String>> {
    let sql = "SELECT c.relname::text FROM pg_catalog.pg_class c \
               JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1";
    let rows = client.query(sql, &[&schema]).await.map_err(classify)?;
    rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(classify)
}

/// Whether a schema is there. `CREATE SCHEMA IF NOT EXISTS` asks for the privilege to create it even then.
pub async fn has_schema(client: &impl GenericClient, schema: &str) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1)";
    client.query_one(sql, &[&schema]).await.and_then(|row| row.try_get(0)).map_err(classify)
}
