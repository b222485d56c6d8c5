//! Sequences that would hand out a value that their column has already.
//!
//! Looked at are sequences of identity columns, those that a column owns (serial), and those that its default names without owning
//! them, which somebody has made at the target: these are not set at the end of a copy nor by a catch-up, but told.
//!
//! A sequence stands outside of transactions: what it is at now is compared with the rows of the snapshot. While rows stream in it is
//! behind all the time, since they bring their own numbers; that is why it is told before a cutover, and is no fault of an hour.

use crossfade_core::sequence::Behind;
use crossfade_core::{Result, TableSchema};
use tokio_postgres::Client;

use crate::classify::{classify, classify_in};
use crate::connect::Server;
use crate::quote::{self, ident, literal};

/// Columns of numbers and their sequences. `pg_depend`: a default depends on the sequence that it names; a sequence that is
/// owned, or an identity column's, on the column.
const SEQUENCES: &str = "\
    WITH filled (rel, num, seq) AS ( \
        SELECT f.adrelid, f.adnum, d.refobjid FROM pg_catalog.pg_attrdef f JOIN pg_catalog.pg_depend d \
            ON d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND d.objid = f.oid \
            AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass \
        UNION SELECT d.refobjid, d.refobjsubid, d.objid FROM pg_catalog.pg_depend d \
            WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass \
            AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.deptype IN ('a', 'i')) \
    SELECT a.attname::text, pg_catalog.format('%I.%I', n.nspname, s.relname), q.seqincrement > 0 FROM filled \
    JOIN pg_catalog.pg_class s ON s.oid = filled.seq AND s.relkind = 'S' \
    JOIN pg_catalog.pg_namespace n ON n.oid = s.relnamespace JOIN pg_catalog.pg_sequence q ON q.seqrelid = s.oid \
    JOIN pg_catalog.pg_attribute a ON a.attrelid = filled.rel AND a.attnum = filled.num AND NOT a.attisdropped \
        AND a.atttypid IN ('int2'::pg_catalog.regtype, 'int4'::pg_catalog.regtype, 'int8'::pg_catalog.regtype) \
    JOIN pg_catalog.pg_class t ON t.oid = filled.rel JOIN pg_catalog.pg_namespace m ON m.oid = t.relnamespace \
    WHERE m.nspname = $1 AND t.relname = $2 ORDER BY a.attnum, 2";

/// Those of a table that are behind.
pub fn behind(server: &Server, client: &Client, table: &TableSchema) -> Result<Vec<Behind>> {
    server.block_on(async {
        let known = client.query(SEQUENCES, &[&table.name.schema, &table.name.name]).await.map_err(classify)?;
        let mut found = Vec::new();
        for row in known {
            let text = |i: usize| row.try_get::<_, String>(i).map_err(classify);
            let (column, sequence, ascends): (_, _, bool) = (text(0)?, text(1)?, row.try_get(2).map_err(classify)?);
            found.extend(one(client, table, column, sequence, ascends).await?);
        }
        Ok(found)
    })
}

async fn one(
    client: &Client,
    table: &TableSchema,
    column: String,
    sequence: String,
    ascends: bool,
) -> Result<Option<Behind>> {
    let (furthest, is_behind) = if ascends { ("max", ">=") } else { ("min", "<=") };
    let (name, col, seq) = (quote::table(&table.name), ident(&column), literal(&sequence));
    let sql = format!(
        "SELECT upcoming::text, furthest::text FROM (SELECT \
         CASE WHEN s.is_called THEN s.last_value::pg_catalog.numeric + q.seqincrement ELSE s.last_value END AS upcoming, \
         (SELECT pg_catalog.{furthest}({col}) FROM {name}) AS furthest \
         FROM {sequence} AS s, pg_catalog.pg_sequence AS q WHERE q.seqrelid = {seq}::pg_catalog.regclass) AS state \
         WHERE furthest {is_behind} upcoming"
    );
    let row = client.query_opt(&sql, &[]).await.map_err(|e| {
        classify_in(&table.name, e).context(format!("looking at sequence {sequence} of column {column}"))
    })?;
    let Some(row) = row else { return Ok(None) };
    let text = |i: usize| row.try_get::<_, String>(i).map_err(classify);
    let fix = format!("SELECT pg_catalog.setval({seq}, (SELECT {furthest}({col}) FROM {name}))");
    Ok(Some(Behind { next: text(0)?, furthest: text(1)?, column, sequence, fix }))
}
