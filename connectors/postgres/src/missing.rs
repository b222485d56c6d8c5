//! Types that the source's columns have by name, and the target's database lacks: those of an extension, or of a later server.

use std::collections::BTreeMap;
use std::sync::Arc;

use crossfade_core::{Finding, Logical, Result, TableSchema};
use tokio_postgres::Client;

use crate::classify::classify;
use crate::types::PGVECTOR;

/// Types of pgvector, without their schema.
const VECTORS: [&str; 3] = ["vector", "halfvec", "sparsevec"];

/// A finding for each type that is not there, with a column that has it.
pub async fn types(client: &Client, tables: &[Arc<TableSchema>]) -> Result<Vec<Finding>> {
    let mut wanted: BTreeMap<&str, String> = BTreeMap::new();
    for table in tables {
        for column in &table.columns {
            if let Logical::Postgres { name } = &column.logical {
                wanted.entry(name).or_insert_with(|| format!("table {}, column {}", table.name, column.name));
            }
        }
    }
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<&str> = wanted.keys().copied().collect();
    let sql = "SELECT n FROM pg_catalog.unnest($1::text[]) n WHERE pg_catalog.to_regtype(n) IS NULL ORDER BY n";
    let mut found = Vec::new();
    for row in client.query(sql, &[&names]).await.map_err(classify)? {
        let name: String = row.try_get(0).map_err(classify)?;
        let of = wanted.get(name.as_str()).cloned().unwrap_or_default();
        found.push(Finding::critical(
            of,
            format!("type {name}, as at the source"),
            "the database has no such type",
            fix(&name),
        ));
    }
    Ok(found)
}

/// What brings a type that is named as `format_type` names it, in quotes where it must be.
fn fix(name: &str) -> String {
    let bare = name.split('(').next().unwrap_or(name);
    match bare.rsplit_once('.').filter(|(_, kind)| VECTORS.contains(kind)) {
        Some((schema, _)) => format!(
            "CREATE SCHEMA IF NOT EXISTS {schema}; CREATE EXTENSION {PGVECTOR} WITH SCHEMA {schema} (or, where it is in another one: \
             ALTER EXTENSION {PGVECTOR} SET SCHEMA {schema})"
        ),
        None => "upgrade the target's server; or make the column text at the source".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_brings_a_type() {
        let said = fix("\"My ext\".vector(3)");
        assert!(said.contains("CREATE EXTENSION vector WITH SCHEMA \"My ext\" "), "{said}");
        assert!(fix("public.sparsevec").contains("CREATE EXTENSION vector WITH SCHEMA public "));
        assert!(fix("int4multirange").starts_with("upgrade"));
    }
}
