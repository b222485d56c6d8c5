//! The control tables: how far each pipeline has come, who has it, and its initial copy (schemas/postgres-control.sql).
//!
//! Locks, in the order in which everybody takes them: the pipeline's session lock (writers only, held as long as the
//! writer lives), rows of the data, the checkpoint's row, the chunk's row. A commit updates the checkpoint's row without
//! its key (`FOR NO KEY UPDATE`), which a loader's `FOR KEY SHARE` admits, so loaders and writer never wait for one
//! another there. A commit that is not waited for takes it `FOR KEY SHARE`, too, and adds a row to `crossfade.commit`. A new
//! owner takes the row `FOR UPDATE`, which waits for both: a loader that saw its epoch confirmed has committed before the epoch
//! changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use crossfade_core::{
    Checkpoint, ChunkState, Error, KeyRange, Owner, Phase, Position, Result, Suspension, TableName, TableSchema,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Statement};

use crate::classify::classify;
use crate::original;
use crate::session::DURABLE;

/// What the target remembers of a pipeline.
#[derive(Debug, Clone)]
pub struct State {
    /// The last commit; `None` before the first.
    pub checkpoint: Option<Checkpoint>,
    /// The fencing token of the last owner.
    pub epoch: u64,
    /// The last owner.
    pub owner: Owner,
    /// Since when, roughly: the row's last change, as the server prints it.
    pub updated_at: String,
    /// The tables' shapes at the checkpoint.
    pub tables: Vec<Arc<TableSchema>>,
    /// Tables that were taken in, or anew, and the positions at or before which their changes are not wanted.
    pub since: BTreeMap<TableName, Position>,
    /// Tables that are left out from some position on, and why.
    pub suspended: BTreeMap<TableName, Suspension>,
}

/// A table as `crossfade.checkpoint.tables` holds it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Carried<T> {
    /// Its shape.
    #[serde(flatten)]
    pub table: T,
    /// See [`State::since`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Position>,
    /// See [`State::suspended`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspended: Option<Suspension>,
}

/// Where a pipeline's session lock lies among the server's advisory locks.
pub fn lock_key(pipeline: &str) -> i64 {
    let hash = Sha256::digest(format!("crossfade pipeline {pipeline}").as_bytes());
    i64::from_be_bytes(hash[..8].try_into().expect("SHA-256 has 32 bytes"))
}

/// Whether the control tables are there.
pub async fn exists(client: &Client) -> Result<bool> {
    let sql = "SELECT pg_catalog.to_regclass('crossfade.checkpoint') IS NOT NULL \
               AND pg_catalog.to_regclass('crossfade.commit') IS NOT NULL \
               AND pg_catalog.to_regclass('crossfade.chunk') IS NOT NULL";
    client.query_one(sql, &[]).await.and_then(|row| row.try_get(0)).map_err(classify)
}

/// Makes the control tables if they are missing. `CREATE .. IF NOT EXISTS` of two sessions at once can fail, hence the lock.
pub async fn ensure(client: &Client) -> Result<()> {
    if exists(client).await? && original::exists(client).await? {
        return Ok(());
    }
    let lock = lock_key("");
    let sql = format!("BEGIN; SELECT pg_catalog.pg_advisory_xact_lock({lock}); {}; COMMIT", crate::CONTROL_SQL);
    client.batch_execute(&sql).await.map_err(|e| classify(e).context("creating Crossfade's control tables"))
}

/// Where a pipeline's last commit is told of: its checkpoint `c`, and in `l` a later one that was not waited for, if there is one.
pub const LAST: &str = "\
    FROM crossfade.checkpoint c LEFT JOIN LATERAL ( \
        SELECT seq, position, commit_micros FROM crossfade.commit \
        WHERE pipeline = c.pipeline AND seq > c.seq ORDER BY seq DESC LIMIT 1) l ON true \
    WHERE c.pipeline = $1";

/// What is remembered of a pipeline. The caller has seen that the control tables are there.
pub async fn read(client: &Client, pipeline: &str) -> Result<Option<State>> {
    let sql = format!(
        "SELECT COALESCE(l.seq, c.seq), COALESCE(l.position, c.position), c.phase, c.epoch, \
             CASE WHEN l.seq IS NULL THEN c.commit_micros ELSE l.commit_micros END, \
             c.owner::text, c.tables::text, c.updated_at::text {LAST}"
    );
    let row = client.query_opt(&sql, &[&pipeline]).await.map_err(classify)?;
    row.map(|row| state(&row, pipeline)).transpose()
}

fn state(row: &Row, pipeline: &str) -> Result<State> {
    let broken = |what: &str| Error::corrupt(format!("crossfade.checkpoint, pipeline {pipeline}: {what}"));
    let (seq, epoch): (i64, i64) = (get(row, 0)?, get(row, 3)?);
    let seq = u64::try_from(seq).map_err(|_| broken("seq is negative"))?;
    let epoch = u64::try_from(epoch).map_err(|_| broken("epoch is negative"))?;
    let phase = phase_of(&get::<String>(row, 2)?).ok_or_else(|| broken("the phase is unknown"))?;
    let checkpoint = match get::<Option<String>>(row, 1)? {
        Some(text) => {
            let position = Position::new(text);
            Some(Checkpoint { seq, position, phase, epoch, commit_micros: get(row, 4)? })
        }
        None if seq == 0 => None,
        None => return Err(broken("a position is missing")),
    };
    let carried = json::<Vec<Carried<TableSchema>>>(&get::<String>(row, 6)?, "tables")?;
    Ok(State {
        checkpoint,
        epoch,
        owner: json(&get::<String>(row, 5)?, "owner")?,
        since: carried.iter().filter_map(|c| Some((c.table.name.clone(), c.since.clone()?))).collect(),
        suspended: carried.iter().filter_map(|c| Some((c.table.name.clone(), c.suspended.clone()?))).collect(),
        tables: carried.into_iter().map(|c| Arc::new(c.table)).collect(),
        updated_at: get(row, 7)?,
    })
}

fn phase_of(text: &str) -> Option<Phase> {
    [Phase::Copying, Phase::Streaming].into_iter().find(|p| p.to_string() == text)
}

fn get<'a, T: tokio_postgres::types::FromSql<'a>>(row: &'a Row, column: usize) -> Result<T> {
    row.try_get(column).map_err(classify)
}

fn json<T: DeserializeOwned>(text: &str, column: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|e| {
        Error::corrupt(format!("crossfade.checkpoint, column {column}, is not what this version writes")).caused_by(e)
    })
}

/// What this crate writes into a `jsonb` column.
pub fn to_json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::corrupt("a value cannot be written as JSON").caused_by(e))
}

/// Who has the pipeline's session lock: the server's process id.
pub async fn lock_holder(client: &Client, pipeline: &str) -> Result<Option<i32>> {
    // pg_locks shows a 64-bit key in two halves, objsubid 1 (the server's lockfuncs.c).
    let sql = "SELECT pid FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1 \
               AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()) \
               AND (classid::bigint << 32 | objid::bigint) = $1 LIMIT 1";
    let row = client.query_opt(sql, &[&lock_key(pipeline)]).await.map_err(classify)?;
    row.map(|row| get(&row, 0)).transpose()
}

/// Makes `owner` the pipeline's owner under the next epoch, in a transaction of its own. The caller holds the session lock.
///
/// That transaction is durable, and with it what the owner before has committed without waiting: a commit that waits
/// flushes the log, of which all commits before it are a part.
pub async fn take_over(client: &Client, owner: &Owner) -> Result<State> {
    client.batch_execute(DURABLE).await.map_err(classify)?;
    client.batch_execute("BEGIN").await.map_err(classify)?;
    let json = to_json(owner)?;
    let insert = "INSERT INTO crossfade.checkpoint (pipeline, seq, phase, epoch, owner) \
                  VALUES ($1, 0, 'copying', 0, $2::text::jsonb) ON CONFLICT (pipeline) DO NOTHING";
    client.execute(insert, &[&owner.pipeline, &json]).await.map_err(classify)?;
    // Waits for loaders and for a commit of the owner before.
    let lock = "SELECT FROM crossfade.checkpoint WHERE pipeline = $1 FOR UPDATE";
    client.query_one(lock, &[&owner.pipeline]).await.map_err(classify)?;
    let update = "UPDATE crossfade.checkpoint SET epoch = epoch + 1, owner = $2::text::jsonb, \
                  updated_at = pg_catalog.clock_timestamp() WHERE pipeline = $1";
    client.execute(update, &[&owner.pipeline, &json]).await.map_err(classify)?;
    let last = "UPDATE crossfade.checkpoint c SET seq = l.seq, position = l.position, commit_micros = l.commit_micros \
                FROM (SELECT * FROM crossfade.commit WHERE pipeline = $1 ORDER BY seq DESC LIMIT 1) l \
                WHERE c.pipeline = $1 AND c.seq < l.seq";
    client.execute(last, &[&owner.pipeline]).await.map_err(classify)?;
    let told = "DELETE FROM crossfade.commit WHERE pipeline = $1";
    client.execute(told, &[&owner.pipeline]).await.map_err(classify)?;
    let state = read(client, &owner.pipeline).await?;
    client.batch_execute("COMMIT").await.map_err(classify)?;
    state.ok_or_else(|| Error::corrupt(format!("pipeline {}: its row has gone", owner.pipeline)))
}

/// Fails if the epoch is no longer the pipeline's; until the transaction ends nobody can change it.
pub async fn hold_epoch(client: &Client, pipeline: &str, epoch: u64) -> Result<()> {
    let sql = "SELECT FROM crossfade.checkpoint WHERE pipeline = $1 AND epoch = $2 FOR KEY SHARE";
    let epoch = i64::try_from(epoch).map_err(|_| Error::corrupt("an epoch beyond 63 bits"))?;
    match client.query_opt(sql, &[&pipeline, &epoch]).await.map_err(classify)? {
        Some(_) => Ok(()),
        None => Err(taken(pipeline)),
    }
}

/// The error of an owner that has been fenced out.
pub fn taken(pipeline: &str) -> Error {
    Error::owned(format!("another process has taken over pipeline {pipeline}"))
        .hint("see owner and epoch in crossfade.checkpoint; run one process per pipeline")
}

/// Forgets how a table's copy was cut.
pub async fn forget_plan(client: &Client, pipeline: &str, table: &TableName) -> Result<()> {
    let sql = "DELETE FROM crossfade.chunk WHERE pipeline = $1 AND table_schema = $2 AND table_name = $3";
    client.execute(sql, &[&pipeline, &table.schema, &table.name]).await.map(drop).map_err(classify)
}

/// Plans a table in one statement, which is a transaction of its own: there may be thousands of tables. The primary key refuses a
/// second plan, and no row is written under an epoch that has passed.
pub const PLAN: &str = "\
    WITH mine AS (SELECT FROM crossfade.checkpoint WHERE pipeline = $1 AND epoch = $5 FOR KEY SHARE) \
    INSERT INTO crossfade.chunk (pipeline, table_schema, table_name, index, range) \
    SELECT $1, $2, $3, n - 1, r::jsonb FROM mine, pg_catalog.unnest($4::text[]) WITH ORDINALITY AS u (r, n)";

/// Remembers how a table's copy is cut, by [`PLAN`].
pub async fn plan(
    client: &Client,
    statement: &Statement,
    pipeline: &str,
    epoch: u64,
    table: &TableName,
    ranges: &[KeyRange],
) -> Result<()> {
    let json: Vec<String> = ranges.iter().map(to_json).collect::<Result<_>>()?;
    let epoch = i64::try_from(epoch).map_err(|_| Error::corrupt("an epoch beyond 63 bits"))?;
    let params: [&(dyn ToSql + Sync); 5] = [&pipeline, &table.schema, &table.name, &json, &epoch];
    match client.execute(statement, &params).await {
        Ok(0) if !ranges.is_empty() => Err(taken(pipeline)),
        Ok(_) => Ok(()),
        Err(e) if e.code() == Some(&SqlState::UNIQUE_VIOLATION) => {
            Err(Error::corrupt(format!("pipeline {pipeline}: the copy of table {table} has a plan already")))
        }
        Err(e) => Err(classify(e)),
    }
}

/// All planned chunks of a pipeline.
pub async fn chunks(client: &Client, pipeline: &str) -> Result<Vec<ChunkState>> {
    let sql = "SELECT table_schema, table_name, index, range::text, done FROM crossfade.chunk \
               WHERE pipeline = $1 ORDER BY table_schema, table_name, index";
    let rows = client.query(sql, &[&pipeline]).await.map_err(classify)?;
    let chunk = |row: &Row| {
        let index: i32 = get(row, 2)?;
        Ok(ChunkState {
            table: TableName::new(get::<String>(row, 0)?, get::<String>(row, 1)?),
            index: u32::try_from(index).map_err(|_| Error::corrupt("crossfade.chunk: an index is negative"))?,
            range: json(&get::<String>(row, 3)?, "range")?,
            done: get::<Option<String>>(row, 4)?.map(Position::new),
        })
    };
    rows.iter().map(chunk).collect()
}
