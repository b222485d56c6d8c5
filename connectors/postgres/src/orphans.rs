//! Rows that refer to nothing, see [`crossfade_core::orphans`].
//!
//! Of a target two kinds of foreign keys are looked at: those that come from the source, whether or not the catalog has them yet, and those
//! that somebody has made at the target. A row counts as the standard has it for `MATCH SIMPLE`: with a NULL in any of the key's
//! columns it refers to nothing and need not.

use std::sync::Arc;

use crossfade_core::orphans::NAMED;
use crossfade_core::{Error, ForeignKey, Orphans, Result, TableName, TableSchema};
use tokio_postgres::Client;

use crate::catalog::{self, ExistingForeignKey};
use crate::classify::{classify, classify_in};
use crate::connect::Server;
use crate::ddl::short;
use crate::finish::unfit;
use crate::quote::{self, ident};

/// A foreign key, by the names of its columns.
struct Key {
    name: String,
    columns: Vec<String>,
    to: TableName,
    to_columns: Vec<String>,
}

/// Of the foreign keys that a table's shape has; `from` names a table for a query.
pub fn declared(
    server: &Server,
    client: &Client,
    table: &TableSchema,
    tables: &[Arc<TableSchema>],
    from: &dyn Fn(&TableSchema) -> String,
) -> Result<Vec<Orphans>> {
    let mut found = Vec::new();
    for key in &table.foreign_keys {
        let Some(parent) = tables.iter().find(|t| t.name == key.to) else { continue };
        // What Postgres will not have as a foreign key is none at the target, and may compare what cannot be compared.
        if unfit(table, key, parent).is_some() {
            continue;
        }
        found.push(server.block_on(count(client, table, &of_shape(table, key), &from(table), &from(parent)))?);
    }
    Ok(found)
}

/// Of those, and of all others that the catalog has.
pub fn all(server: &Server, client: &Client, table: &TableSchema, tables: &[Arc<TableSchema>]) -> Result<Vec<Orphans>> {
    let plain = |t: &TableSchema| quote::table(&t.name);
    let mut found = declared(server, client, table, tables, &plain)?;
    let is_declared = |there: &ExistingForeignKey| {
        let keys = table.foreign_keys.iter().filter(|k| tables.iter().any(|t| t.name == k.to));
        keys.map(|k| (short(&k.name, &k.name), of_shape(table, k))).any(|(name, k)| {
            name == there.name || (k.columns == there.columns && k.to == there.to && k.to_columns == there.to_columns)
        })
    };
    for there in server.block_on(catalog::foreign_keys(client, &table.name))? {
        if is_declared(&there) {
            continue;
        }
        let ExistingForeignKey { name, columns, to, to_columns, .. } = there;
        let key = Key { name, columns, to, to_columns };
        found.push(server.block_on(count(client, table, &key, &plain(table), &quote::table(&key.to)))?);
    }
    Ok(found)
}

fn of_shape(table: &TableSchema, key: &ForeignKey) -> Key {
    let columns = key.columns.iter().filter_map(|i| table.columns.get(*i)).map(|c| c.name.clone()).collect();
    Key { name: key.name.clone(), columns, to: key.to.clone(), to_columns: key.to_columns.clone() }
}

async fn count(client: &Client, table: &TableSchema, key: &Key, child: &str, parent: &str) -> Result<Orphans> {
    let given = key.columns.iter().map(|c| format!("c.{} IS NOT NULL", ident(c))).collect::<Vec<_>>();
    let equal = key.to_columns.iter().zip(&key.columns).map(|(p, c)| format!("p.{} = c.{}", ident(p), ident(c)));
    let equal = equal.collect::<Vec<_>>().join(" AND ");
    let broken = format!(
        "{child} AS c WHERE {} AND NOT EXISTS (SELECT 1 FROM {parent} AS p WHERE {equal})",
        given.join(" AND ")
    );
    let failed = |e| {
        let doing = format!("looking for rows of {} that refer to nothing (foreign key {})", table.name, key.name);
        classify_in(&table.name, e).context(doing)
    };
    let row = client.query_one(&format!("SELECT pg_catalog.count(*) FROM {broken}"), &[]).await.map_err(failed)?;
    let rows: i64 = row.try_get(0).map_err(classify)?;
    let rows = u64::try_from(rows).map_err(|_| Error::corrupt(format!("orphans are counted as {rows}")))?;
    let mut keys = Vec::new();
    let names: Vec<&str> = table.key_columns().map(|c| c.name.as_str()).collect();
    if rows > 0 && !names.is_empty() {
        let list = names.iter().map(|n| format!("c.{}::text", ident(n))).collect::<Vec<_>>().join(", ");
        for row in client.query(&format!("SELECT {list} FROM {broken} LIMIT {NAMED}"), &[]).await.map_err(failed)? {
            let part = |(i, name): (usize, &&str)| -> Result<String> {
                let value: Option<String> = row.try_get(i).map_err(classify)?;
                Ok(format!("{name}={}", value.as_deref().unwrap_or("?")))
            };
            keys.push(names.iter().enumerate().map(part).collect::<Result<Vec<_>>>()?.join(", "));
        }
    }
    Ok(Orphans { foreign_key: key.name.clone(), to: key.to.clone(), rows, keys })
}
