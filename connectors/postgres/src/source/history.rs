//! What a target that keeps every change needs besides: values that an update leaves alone.
//!
//! A value that was moved out of its row (TOAST) is not in the log of an update that does not touch it, unless the table's
//! replica identity is FULL (`logicalrep_write_tuple` in `src/backend/replication/logical/proto.c`). A target that holds the
//! latest state keeps what it has; one that appends changes has nothing to append, and stops. Which update it will be nobody
//! knows beforehand: any of a column whose values may be moved out (`toast_helper.c`: storage extended or external) and are wide
//! enough for it, since the widest of a row go first.

use crossfade_core::{Finding, Logical, Result, Selection};

use super::catalog::{self, Scope};
use super::prepared::Prepared;
use crate::classify::classify;
use crate::quote;

/// Characters of a `varchar(n)` above which its values may be moved out: rows are cut down to about 2 KiB, the widest values
/// first, and a character has up to four bytes.
const WIDE: i32 = 500;

/// Columns whose values may be moved out, of tables whose log does not bring them along, and how much is moved out now. A
/// partitioned table's values are its leaves', and so is the identity.
const MOVED: &str = "\
    WITH RECURSIVE tree (root, oid) AS ( \
        SELECT c.oid, c.oid FROM pg_catalog.pg_class c WHERE c.oid = ANY ($1) \
        UNION ALL SELECT t.root, i.inhrelid FROM tree t JOIN pg_catalog.pg_inherits i ON i.inhparent = t.oid \
            JOIN pg_catalog.pg_class p ON p.oid = t.oid AND p.relkind = 'p'), \
    leaves AS (SELECT t.root, n.nspname::text AS schema, c.relname::text AS name, \
            pg_catalog.pg_relation_size(c.reltoastrelid) AS bytes \
        FROM tree t JOIN pg_catalog.pg_class c ON c.oid = t.oid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
        WHERE c.relkind = 'r' AND c.relreplident <> 'f' AND c.reltoastrelid <> 0) \
    SELECT l.root, pg_catalog.sum(l.bytes)::int8, pg_catalog.array_agg(l.schema ORDER BY l.schema, l.name), \
        pg_catalog.array_agg(l.name ORDER BY l.schema, l.name), \
        ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a WHERE a.attrelid = l.root AND a.attnum > 0 \
            AND NOT a.attisdropped AND a.attgenerated = '' AND a.attstorage IN ('x', 'e') \
            AND (a.atttypmod < 4 OR a.atttypmod - 4 > $2) ORDER BY a.attnum) \
    FROM leaves l GROUP BY l.root";

/// A warning for each table of which the log may leave values out.
pub async fn check(client: &Prepared, selection: &Selection, scope: &Scope) -> Result<Vec<Finding>> {
    let tables = catalog::inventory(client, selection, scope).await?;
    let oids: Vec<u32> = tables.iter().map(|t| t.oid).collect();
    let mut found = Vec::new();
    for row in client.query(MOVED, &[&oids, &WIDE]).await.map_err(classify)? {
        let read = || Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?, row.try_get(4)?));
        let (oid, bytes, schemas, names, columns): (u32, i64, Vec<String>, Vec<String>, Vec<String>) =
            read().map_err(classify)?;
        let Some(table) = tables.iter().find(|t| t.oid == oid) else { continue };
        let carried = |name: &&String| {
            let column = table.schema.ordinal(name).and_then(|i| table.schema.columns.get(i));
            column.is_some_and(|c| c.logical != Logical::Omitted)
        };
        let columns: Vec<&str> = columns.iter().filter(carried).map(String::as_str).collect();
        if columns.is_empty() {
            continue;
        }
        let alter = |(schema, name): (&String, &String)| {
            format!("ALTER TABLE {}.{} REPLICA IDENTITY FULL", quote::ident(schema), quote::ident(name))
        };
        let fix = schemas.iter().zip(&names).map(alter).collect::<Vec<_>>().join("; ");
        found.push(Finding::warning(
            format!("table {}, large values of {}", table.schema.name, columns.join(", ")),
            "REPLICA IDENTITY FULL, as a target that keeps every change needs values that an update leaves alone",
            format!("the log leaves them out where they stand outside of their row ({bytes} bytes do now), which stops the pipeline"),
            fix,
        ));
    }
    found.sort_by(|a, b| a.setting.cmp(&b.setting));
    Ok(found)
}
