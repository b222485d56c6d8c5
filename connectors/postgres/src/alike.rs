//! Rows that a target would take for one: keys that the source tells apart, and a unique index of the target does not.
//!
//! Tables that Crossfade makes compare text as it stands. A table made beforehand may compare in another way: by a collation that
//! ignores case or accents (ICU, `deterministic = false`), or by an index over an expression such as `lower(name)`. Only the
//! server knows what is equal then. So the columns that such an index reads are put into a temporary table of the session, with
//! the collations that the target's have, and grouped by the index's own expressions. Every other table costs one question.

use std::collections::BTreeSet;

use arrow_array::RecordBatch;
use crossfade_core::{Error, Level, Result, TableSchema, Trouble};
use tokio_postgres::Client;

use crate::catalog;
use crate::classify::{classify, classify_in};
use crate::connect::Server;
use crate::copy::Encoders;
use crate::quote::{self, ident, literal};
use crate::session::{CopyError, Session};
use crate::types::PgType;

/// Where keys wait to be grouped.
const STAGE: &str = "pg_temp.crossfade_alike";

/// Groups that are told of each index.
const TOLD: usize = 5;

/// Unique indexes that compare in a way of their own: name, the columns that they read, their expressions with collations, and
/// the condition of a partial one. What the index of a constraint reads stands in `indkey` only, of an expression in `pg_depend`.
const LOOSE: &str = "\
SELECT x.relname::text,
       ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a WHERE a.attrelid = i.indrelid AND a.attnum > 0
             AND (a.attnum = ANY (i.indkey) OR EXISTS (SELECT FROM pg_catalog.pg_depend d
                  WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = i.indexrelid
                  AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = i.indrelid
                  AND d.refobjsubid = a.attnum)) ORDER BY a.attnum),
       ARRAY(SELECT '(' || pg_catalog.pg_get_indexdef(i.indexrelid, k + 1, false) || ')'
                 || COALESCE(' COLLATE ' || pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.collname), '')
             FROM pg_catalog.generate_series(0, i.indnkeyatts - 1) k
             LEFT JOIN pg_catalog.pg_collation c ON c.oid = i.indcollation[k]
             LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.collnamespace ORDER BY k),
       pg_catalog.pg_get_expr(i.indpred, i.indrelid)
FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid
      AND (i.indexprs IS NOT NULL OR EXISTS (SELECT FROM pg_catalog.pg_collation c
           WHERE c.oid = ANY (i.indcollation) AND NOT c.collisdeterministic))
ORDER BY x.relname";

const COLLATIONS: &str = "\
SELECT a.attname::text, pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.collname)
FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_collation c ON c.oid = a.attcollation
JOIN pg_catalog.pg_namespace n ON n.oid = c.collnamespace WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped";

/// A unique index that may take two rows for one.
struct Loose {
    name: String,
    expressions: Vec<String>,
    condition: Option<String>,
}

/// The keys of a table, for the server to compare.
pub struct Alike {
    server: Server,
    session: Session,
    indexes: Vec<Loose>,
    /// Ordinals of the columns that wait in the stage.
    ordinals: Vec<usize>,
    /// What tells a row to people, in SQL.
    key: String,
    copy: String,
}

impl Alike {
    /// `None` where every unique index of the target's table compares as the source's key does, or there is no table yet.
    pub fn open(server: &Server, table: &TableSchema) -> Result<Option<Alike>> {
        let server = server.alone()?;
        let opened = server.block_on(async {
            let client = server.client().await?;
            let Some(existing) = catalog::table(&client, &table.name).await? else { return Ok(None) };
            let (indexes, ordinals) = loose(&client, existing.oid, table).await?;
            if indexes.is_empty() {
                return Ok(None);
            }
            let stage = stage(&client, existing.oid, table, &ordinals).await?;
            client.batch_execute(&stage).await.map_err(classify)?;
            Ok::<_, Error>(Some((Session::new(client).await?, indexes, ordinals)))
        })?;
        let part = |name: &str| format!("{} || {}::pg_catalog.text", literal(&format!("{name}=")), ident(name));
        let key: Vec<String> = table.key_columns().map(|c| part(&c.name)).collect();
        Ok(opened.map(|(session, indexes, ordinals)| {
            let columns = quote::idents(ordinals.iter().map(|i| table.columns[*i].name.as_str()));
            let copy = format!("COPY {STAGE} ({columns}) FROM STDIN (FORMAT binary)");
            let key = if key.is_empty() { "'?'".to_owned() } else { key.join(" || ', ' || ") };
            Alike { server, session, indexes, ordinals, key, copy }
        }))
    }

    /// Puts rows aside.
    pub fn take(&mut self, table: &TableSchema, rows: &RecordBatch, which: &[usize]) -> Result<()> {
        let encoders = Encoders::new(table, rows, &self.ordinals)?;
        let copied = self.server.block_on(self.session.copy(&self.copy, &encoders, which));
        match copied {
            Ok(_) => Ok(()),
            Err(CopyError::Duplicate(e) | CopyError::Locked(e) | CopyError::Other(e)) => Err(e),
        }
    }

    /// Tells of the rows that the server takes for one.
    pub fn tell(&mut self, trouble: &mut dyn FnMut(Trouble)) -> Result<()> {
        for Loose { name, expressions, condition } in &self.indexes {
            let list = expressions.join(", ");
            let mut conditions: Vec<String> = expressions.iter().map(|e| format!("{e} IS NOT NULL")).collect();
            conditions.extend(condition.iter().map(|c| format!("({c})")));
            let sql = format!(
                "SELECT COALESCE(pg_catalog.sum(n), 0)::int8, (pg_catalog.array_agg(k))[1:{TOLD}] FROM ( \
                 SELECT pg_catalog.count(*) AS n, \
                     pg_catalog.array_to_string((pg_catalog.array_agg({}))[1:3], ' and ') AS k \
                 FROM {STAGE} WHERE {} GROUP BY {list} HAVING pg_catalog.count(*) > 1) AS g",
                self.key,
                conditions.join(" AND ")
            );
            let row = self.server.block_on(self.session.client.query_one(&sql, &[])).map_err(classify)?;
            let read = || Ok((row.try_get(0)?, row.try_get(1)?));
            let (rows, keys): (i64, Option<Vec<String>>) = read().map_err(classify)?;
            if rows > 0 {
                trouble(Trouble {
                    level: Level::Critical,
                    column: None,
                    what: format!("the target's unique index {name} on {list} takes these rows for equal"),
                    rows: rows.unsigned_abs(),
                    keys: keys.unwrap_or_default(),
                    mend: format!(
                        "make the index {name} over what tells them apart (ALTER TABLE .. ALTER COLUMN .. TYPE text COLLATE \"C\"), or \
                         drop it until the cutover; or mend the values at the source"
                    ),
                });
            }
        }
        Ok(())
    }
}

/// The indexes, and the ordinals of the columns that they read, with those of the key.
async fn loose(client: &Client, oid: u32, table: &TableSchema) -> Result<(Vec<Loose>, Vec<usize>)> {
    let mut indexes = Vec::new();
    let mut read: BTreeSet<usize> = table.key.iter().copied().collect();
    for row in client.query(LOOSE, &[&oid]).await.map_err(classify)? {
        let get = || Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?));
        let (name, columns, expressions, condition): (_, Vec<String>, _, _) = get().map_err(classify)?;
        // A column that the source lacks holds its default in every row: what that makes of the index is not known here.
        if let Some(ordinals) = columns.iter().map(|c| table.ordinal(c)).collect::<Option<Vec<_>>>() {
            read.extend(ordinals);
            indexes.push(Loose { name, expressions, condition });
        }
    }
    Ok((indexes, read.into_iter().collect()))
}

/// The statement that makes the stage: columns in the types in which values travel, with the target's collations.
async fn stage(client: &Client, oid: u32, table: &TableSchema, ordinals: &[usize]) -> Result<String> {
    let failed = |e| classify_in(&table.name, e);
    let rows = client.query(COLLATIONS, &[&oid]).await.map_err(failed)?;
    let read = |row: &tokio_postgres::Row| Ok((row.try_get(0)?, row.try_get(1)?));
    let collations: Vec<(String, String)> = rows.iter().map(read).collect::<Result<_, _>>().map_err(failed)?;
    let column = |i: &usize| {
        let column = &table.columns[*i];
        let kind = match PgType::of(&column.logical) {
            PgType::Other(_) => PgType::Text,
            kind => kind,
        };
        let collation = collations.iter().find(|(name, _)| *name == column.name && kind == PgType::Text);
        let collation = collation.map_or_else(String::new, |(_, c)| format!(" COLLATE {c}"));
        format!("{} {}{collation}", ident(&column.name), kind.sql())
    };
    let columns = ordinals.iter().map(column).collect::<Vec<_>>().join(", ");
    Ok(format!("CREATE TEMPORARY TABLE crossfade_alike ({columns})"))
}
