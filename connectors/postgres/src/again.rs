//! A table made ready to be copied again, inside the transaction that turns the phase back to copying.
//!
//! A table whose shape still fits keeps its grants, views and extra indexes: only its rows go, and those unique indexes that
//! the end of the copy builds anew, because while chunks and stream overtake one another two rows may hold one value for a
//! moment. A table that does not fit is dropped and made anew. Foreign keys of other carried tables that stand in the way go;
//! the end of the copy brings them back. Nothing else that depends on the table is dropped (never `CASCADE`).

use std::sync::Arc;

use crossfade_core::{Result, TableName, TableSchema};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::catalog::{self, Existing};
use crate::classify::{classify, classify_in};
use crate::ddl::{self, Difference, Key};
use crate::quote::{self, ident};
use crate::shape;

/// Foreign keys that refer to a table: table and name of each.
const REFERRING: &str = "\
    SELECT n.nspname::text, c.relname::text, f.conname::text FROM pg_catalog.pg_constraint f \
    JOIN pg_catalog.pg_class c ON c.oid = f.conrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    WHERE f.confrelid = $1 AND f.contype = 'f' AND f.conparentid = 0 AND f.conrelid <> f.confrelid";

/// Leaves the table in this shape, without rows. `carried` are the pipeline's tables.
pub async fn empty(client: &Client, table: &TableSchema, carried: &[Arc<TableSchema>]) -> Result<()> {
    let Some(existing) = catalog::table(client, &table.name).await? else {
        return ddl::prepare(client, table, Key::There).await;
    };
    release(client, &existing, carried).await?;
    let name = quote::table(&table.name);
    let key = if carried.iter().any(|t| t.name == table.name) { Key::ToCome } else { Key::There };
    let mut differences = ddl::differences(table, &existing, key);
    let before = carried.iter().find(|t| t.name == table.name);
    differences.extend(before.filter(|t| !t.key.is_empty()).and_then(|_| former_key(table, &existing)));
    if differences.is_empty() {
        // Those that the source had when the table came the last time are no less its own.
        for shape in [Some(table), before.map(Arc::as_ref)].into_iter().flatten() {
            drop_unique_indexes(client, shape, &existing).await?;
        }
        // Not by TRUNCATE: see `Applier::truncate`.
        let emptied = client.batch_execute(&format!("DELETE FROM {name}")).await;
        emptied.map_err(|e| classify_in(&table.name, e))?;
        return ddl::admit_null(client, table, &existing).await;
    }
    let why: Vec<String> =
        differences.iter().map(|d| format!("{}: {}, not {}", d.what, d.actual, d.expected)).collect();
    tracing::warn!(table = %table.name, why = why.join("; "), "the target's table is dropped and made anew");
    client.batch_execute(&format!("DROP TABLE {name}")).await.map_err(|e| {
        classify_in(&table.name, e)
            .context("dropping it, to make it in its new shape")
            .hint("drop what depends on it first (views, foreign keys of tables that are not carried), then try again")
    })?;
    ddl::prepare(client, table, Key::There).await
}

/// The primary key of a table whose rows nothing tells apart any more: it would refuse some of them.
fn former_key(table: &TableSchema, existing: &Existing) -> Option<Difference> {
    let primary = existing.indexes.iter().find(|i| i.primary).filter(|_| table.key.is_empty())?;
    let fix = format!("ALTER TABLE {} DROP CONSTRAINT {}", quote::table(&table.name), ident(&primary.name));
    let actual = format!("primary key ({})", primary.columns.join(", "));
    Some(Difference { what: "key".into(), expected: "no key, as in the source".into(), actual, fix })
}

/// Drops the foreign keys of other carried tables that refer to this one.
async fn release(client: &Client, existing: &Existing, carried: &[Arc<TableSchema>]) -> Result<()> {
    for row in client.query(REFERRING, &[&existing.oid]).await.map_err(classify)? {
        let (schema, table, key): (String, String, String) =
            (row.try_get(0).map_err(classify)?, row.try_get(1).map_err(classify)?, row.try_get(2).map_err(classify)?);
        let name = TableName::new(schema, table);
        if carried.iter().any(|t| t.name == name) {
            let sql = format!("ALTER TABLE {} DROP CONSTRAINT {}", quote::table(&name), ident(&key));
            client.batch_execute(&sql).await.map_err(|e| classify_in(&name, e))?;
        }
    }
    Ok(())
}

/// Drops those secondary unique indexes that the source has, too. One that something depends on stays.
async fn drop_unique_indexes(client: &Client, table: &TableSchema, existing: &Existing) -> Result<()> {
    let ours = |columns: &[String]| {
        let same = |i: &&usize, name: &String| table.columns.get(**i).is_some_and(|c| c.name == *name);
        table
            .indexes
            .iter()
            .filter(|i| i.unique && i.columns.len() == columns.len())
            .any(|i| i.columns.iter().zip(columns).all(|(i, name)| same(&i, name)))
    };
    for index in shape::secondary_unique(table, existing).filter(|i| ours(&i.columns)) {
        let name = format!("{}.{}", ident(&table.name.schema), ident(&index.name));
        let sql = format!("SAVEPOINT crossfade_index; DROP INDEX IF EXISTS {name}; RELEASE SAVEPOINT crossfade_index");
        match client.batch_execute(&sql).await {
            Err(e) if e.code() == Some(&SqlState::DEPENDENT_OBJECTS_STILL_EXIST) => {
                tracing::warn!(table = %table.name, index = index.name, "a constraint needs the index: it stays during the copy");
                let back = "ROLLBACK TO SAVEPOINT crossfade_index; RELEASE SAVEPOINT crossfade_index";
                client.batch_execute(back).await.map_err(classify)?;
            }
            other => other.map_err(|e| classify_in(&table.name, e))?,
        }
    }
    Ok(())
}
