//! The originals of values that a policy changed: `crossfade.original` (schemas/postgres-control.sql).
//!
//! They are written in the transaction of their rows, and by the row's key, so that what is kept follows the row: another such value
//! replaces the original, a value that arrives as it is removes it, and so does the row's end. A table that is emptied or copied
//! again loses its originals with its rows.
//!
//! Which columns have originals is asked once, and then known, since nobody else writes them: a table without any costs nothing,
//! whether or not it has policies. And one that has some is looked after when its policies have been taken back, too.

use std::collections::{BTreeSet, HashMap};

use arrow_array::cast::AsArray;
use arrow_array::{ArrayRef, RecordBatch};
use arrow_buffer::BooleanBuffer;
use crossfade_core::batch::SchemaStep;
use crossfade_core::unfit::{Changed, Original};
use crossfade_core::{Error, Kept, Logical, Op, Phase, Result, SchemaChange, TableName, TableSchema};
use sha2::{Digest, Sha256};
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

use crate::classify::classify;
use crate::statement;

/// Originals that one statement writes.
const AT_ONCE: usize = 5_000;

/// The values kept of one pipeline.
#[derive(Debug)]
pub struct Ledger {
    pipeline: String,
    /// The columns that have originals; `None`: to be asked.
    holds: Option<HashMap<TableName, BTreeSet<String>>>,
}

/// An original on its way.
#[derive(Debug)]
pub struct Entry {
    key: String,
    column: String,
    policy: &'static str,
    original: Original,
}

impl Ledger {
    /// Of this pipeline.
    pub fn new(pipeline: &str) -> Ledger {
        Ledger { pipeline: pipeline.to_owned(), holds: None }
    }

    /// The columns of the table of which rows may have originals that a change would have to remove. While the copy runs loaders write
    /// them, too.
    pub async fn may_hold(&mut self, client: &Client, table: &TableSchema, phase: Phase) -> Result<Vec<usize>> {
        let known = match self.holds.take() {
            Some(known) => known,
            None => self.ask(client).await?,
        };
        let held = known.get(&table.name);
        let may = |&i: &usize| {
            let column = &table.columns[i];
            held.is_some_and(|names| names.contains(&column.name))
                || (phase == Phase::Copying && !column.policies.is_empty())
        };
        let columns: Vec<usize> = (0..table.columns.len()).filter(may).collect();
        // What loaders write meanwhile is not known here.
        self.holds = Some(known).filter(|_| phase == Phase::Streaming || columns.is_empty());
        Ok(columns)
    }

    async fn ask(&self, client: &Client) -> Result<HashMap<TableName, BTreeSet<String>>> {
        let sql = "SELECT DISTINCT table_schema, table_name, column_name FROM crossfade.original WHERE pipeline = $1";
        let mut known: HashMap<TableName, BTreeSet<String>> = HashMap::new();
        for row in client.query(sql, &[&self.pipeline]).await.map_err(classify)? {
            let text = |i: usize| row.try_get::<_, String>(i).map_err(classify);
            known.entry(TableName::new(text(0)?, text(1)?)).or_default().insert(text(2)?);
        }
        Ok(known)
    }

    /// Removes what is kept of the values that these rows bring anew in these columns, and of rows that go. A chunk's rows have no
    /// `ops`, and all their values.
    pub async fn forget(
        &self,
        client: &Client,
        table: &TableSchema,
        columns: &[usize],
        batch: &RecordBatch,
        ops: &[Op],
        absent: &[Option<BooleanBuffer>],
    ) -> Result<()> {
        let stays = |i: usize, row: usize| {
            ops.get(row) != Some(&Op::Delete) && absent.get(i).and_then(Option::as_ref).is_some_and(|b| b.value(row))
        };
        let (mut names, mut hashes) = (Vec::new(), Vec::new());
        for row in 0..batch.num_rows() {
            let hash = hash(&key(table, batch, row)?);
            for &i in columns.iter().filter(|&&i| !stays(i, row)) {
                names.push(table.columns[i].name.as_str());
                hashes.push(hash.clone());
            }
        }
        let sql = "DELETE FROM crossfade.original o \
                   USING ROWS FROM (pg_catalog.unnest($4::text[]), pg_catalog.unnest($5::bytea[])) AS u (c, h) \
                   WHERE o.pipeline = $1 AND o.table_schema = $2 AND o.table_name = $3 \
                   AND o.column_name = u.c AND o.key_hash = u.h";
        let params: [&(dyn ToSql + Sync); 5] = [&self.pipeline, &table.name.schema, &table.name.name, &names, &hashes];
        client.execute(sql, &params).await.map(drop).map_err(classify)
    }

    /// Keeps originals. `position` is where the source's log stood before them.
    pub async fn keep(
        &mut self,
        client: &Client,
        table: &TableName,
        entries: &[Entry],
        position: Option<&str>,
    ) -> Result<()> {
        if let Some(known) = self.holds.as_mut().filter(|_| !entries.is_empty()) {
            known.entry(table.clone()).or_default().extend(entries.iter().map(|e| e.column.clone()));
        }
        for some in entries.chunks(AT_ONCE) {
            let columns: Vec<&str> = some.iter().map(|e| e.column.as_str()).collect();
            let hashes: Vec<Vec<u8>> = some.iter().map(|e| hash(&e.key)).collect();
            let keys: Vec<&str> = some.iter().map(|e| e.key.as_str()).collect();
            let policies: Vec<&str> = some.iter().map(|e| e.policy).collect();
            let texts: Vec<Option<&str>> = some.iter().map(|e| e.original.text()).collect();
            let bytes: Vec<Option<&[u8]>> = some.iter().map(|e| e.original.bytes()).collect();
            let params: [&(dyn ToSql + Sync); 10] = [
                &self.pipeline,
                &table.schema,
                &table.name,
                &position,
                &columns,
                &hashes,
                &keys,
                &policies,
                &texts,
                &bytes,
            ];
            client.execute(KEEP, &params).await.map_err(|e| classify(e).context("keeping originals"))?;
        }
        Ok(())
    }

    /// Forgets a table's originals: its rows are gone.
    pub async fn forget_table(&mut self, client: &Client, table: &TableName) -> Result<()> {
        self.holds.as_mut().and_then(|known| known.remove(table));
        let sql = "DELETE FROM crossfade.original WHERE pipeline = $1 AND table_schema = $2 AND table_name = $3";
        client.execute(sql, &[&self.pipeline, &table.schema, &table.name]).await.map(drop).map_err(classify)
    }

    /// Follows a change of shape: of a column that goes nothing is kept, one that is renamed keeps its originals.
    pub async fn follow(&mut self, client: &Client, change: &SchemaChange) -> Result<()> {
        let of = "WHERE pipeline = $1 AND table_schema = $2 AND table_name = $3 AND column_name = $4";
        let TableName { schema, name } = &change.to.name;
        self.holds = None;
        for step in &change.steps {
            let done = match step {
                SchemaStep::Add { .. } => continue,
                SchemaStep::Drop { column } => {
                    let sql = format!("DELETE FROM crossfade.original {of}");
                    client.execute(&sql, &[&self.pipeline, schema, name, column]).await
                }
                SchemaStep::Rename { from, to } => {
                    let sql = format!("UPDATE crossfade.original SET column_name = $5 {of}");
                    client.execute(&sql, &[&self.pipeline, schema, name, from, to]).await
                }
            };
            done.map_err(classify)?;
        }
        Ok(())
    }
}

/// Adds originals; a row's former one in the same column gives way.
const KEEP: &str = "\
    INSERT INTO crossfade.original AS o (pipeline, table_schema, table_name, position, column_name, key_hash, key, policy, \
        original, original_bytes) \
    SELECT $1, $2, $3, $4, u.c, u.h, u.k::jsonb, u.p, u.t, u.b \
    FROM ROWS FROM (pg_catalog.unnest($5::text[]), pg_catalog.unnest($6::bytea[]), pg_catalog.unnest($7::text[]), \
        pg_catalog.unnest($8::text[]), pg_catalog.unnest($9::text[]), pg_catalog.unnest($10::bytea[])) AS u (c, h, k, p, t, b) \
    ON CONFLICT (pipeline, table_schema, table_name, column_name, key_hash) DO UPDATE \
    SET position = excluded.position, policy = excluded.policy, original = excluded.original, \
        original_bytes = excluded.original_bytes";

/// The originals of a batch of this table, with the keys of their rows. Rows that go leave nothing to keep.
pub fn entries(table: &TableSchema, batch: &RecordBatch, changed: Vec<Changed>, ops: &[Op]) -> Result<Vec<Entry>> {
    let stays = |c: &Changed| ops.get(c.row) != Some(&Op::Delete);
    let entry = |c: Changed| {
        let (column, policy) = (table.columns[c.column].name.clone(), c.policy.name());
        Ok(Entry { key: key(table, batch, c.row)?, column, policy, original: c.original })
    };
    changed.into_iter().filter(stays).map(entry).collect()
}

/// A row's key as a JSON object: integers as numbers, everything else as text.
fn key(table: &TableSchema, batch: &RecordBatch, row: usize) -> Result<String> {
    let missing = || Error::corrupt(format!("table {}: a row without its key", table.name));
    let mut object = serde_json::Map::new();
    for &i in &table.key {
        let (column, array) = (&table.columns[i], batch.columns().get(i).ok_or_else(missing)?);
        object.insert(column.name.clone(), key_value(&column.logical, &array.slice(row, 1)));
    }
    serde_json::to_string(&object).map_err(|e| missing().caused_by(e))
}

/// The only value of an array.
fn key_value(logical: &Logical, array: &ArrayRef) -> serde_json::Value {
    if let Some(text) = array.as_string_opt::<i32>() {
        return text.value(0).into();
    }
    let literal = statement::value(logical, array);
    match literal.parse::<i64>() {
        Ok(number) => number.into(),
        Err(_) => literal.trim_matches('\'').into(),
    }
}

/// Keys may be longer than an index takes.
fn hash(key: &str) -> Vec<u8> {
    Sha256::digest(key.as_bytes()).to_vec()
}

/// How many originals are kept, by table, column and policy. None where an earlier build made the control tables.
pub async fn count(client: &Client, pipeline: &str) -> Result<Vec<Kept>> {
    if !exists(client).await? {
        return Ok(Vec::new());
    }
    let sql = "SELECT table_schema, table_name, column_name, policy, pg_catalog.count(*) FROM crossfade.original \
               WHERE pipeline = $1 GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4";
    let rows = client.query(sql, &[&pipeline]).await.map_err(classify)?;
    let kept = |row: &tokio_postgres::Row| {
        let text = |i: usize| row.try_get::<_, String>(i).map_err(classify);
        let policy = text(3)?;
        let unknown = |e| Error::corrupt(format!("crossfade.original has a policy {policy:?}")).caused_by(e);
        let values: i64 = row.try_get(4).map_err(classify)?;
        Ok(Kept {
            table: TableName::new(text(0)?, text(1)?).to_string(),
            column: text(2)?,
            policy: serde_json::from_value(policy.clone().into()).map_err(unknown)?,
            values: u64::try_from(values).unwrap_or(0),
        })
    };
    rows.iter().map(kept).collect()
}

/// Whether the table of originals is there.
pub async fn exists(client: &Client) -> Result<bool> {
    let sql = "SELECT pg_catalog.to_regclass('crossfade.original') IS NOT NULL";
    client.query_one(sql, &[]).await.and_then(|row| row.try_get(0)).map_err(classify)
}
