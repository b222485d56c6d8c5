//! A session that writes: prepared statements, staging tables, COPY.
//!
//! Writer and loaders each have one. Invariants:
//! - A staging table is empty when [`Session::stage`] starts to fill it: it empties itself at commit, and a second use in one
//!   transaction truncates it first.
//! - A COPY that met an error of ours is given up (the driver sends CopyFail when its sink is dropped), so the transaction is
//!   aborted and nothing of it can be committed.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use crossfade_core::{Error, Result, TableName, TableSchema};
use futures::SinkExt;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, CopyInSink, Row, Statement};

use crate::classify::{LOCKED, classify, classify_in};
use crate::copy::{CHUNK, Encoders, HEADER, TRAILER};
use crate::sql::{STAGES, copy_stage, create_stage, stage_name};
use crate::types::PgType;

/// Plans must probe the target's key index for each row of the feed, however small the table looks: a plan that scans it
/// would be kept when it has grown. Compiling plans costs more than these statements do.
const PLANNER: &str = "SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; \
    SET enable_material = off; SET jit = off; SET plan_cache_mode = auto; SET max_parallel_workers_per_gather = 0";

/// The source is told to discard its log once a commit has returned: then the commit must survive a crash of this server,
/// whatever its default is. Stricter settings than `on` stay as they are. [`Session::may_hurry`] has the exception.
pub const DURABLE: &str = "SELECT pg_catalog.set_config('synchronous_commit', 'on', false) \
    WHERE pg_catalog.current_setting('synchronous_commit') = 'off'";

/// A wait for somebody else's lock that lasts longer is an error, not a standstill without a word. A limit that the operator
/// gave in the URL (`options=-c lock_timeout=5s`) stays.
const PATIENCE: &str = "SELECT pg_catalog.set_config('lock_timeout', '30s', false) \
    WHERE pg_catalog.current_setting('lock_timeout') = '0'";

/// Who holds locks on a table, the likeliest to stand in the way first: readers hinder only what changes its shape.
const HOLDERS: &str = "\
    SELECT l.pid, COALESCE(a.application_name, a.backend_type), COALESCE(a.state, '?'), pg_catalog.string_agg(l.mode, ', ') \
    FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid \
    WHERE l.granted AND l.pid <> pg_catalog.pg_backend_pid() \
        AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()) \
        AND l.relation = (SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n \
            ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2) \
    GROUP BY l.pid, a.application_name, a.backend_type, a.state, a.xact_start \
    ORDER BY pg_catalog.bool_and(l.mode = 'AccessShareLock'), a.xact_start LIMIT 3";

/// Statements and staging tables kept before the session forgets them all: sets of absent columns could be many.
const MAX_KEPT: usize = 500;

/// A session, and what it has prepared.
pub struct Session {
    /// The connection.
    pub client: Client,
    /// Whether triggers and foreign keys of the target keep still.
    pub replica: bool,
    /// Whether a commit may be left to become durable later, because another that waits comes soon. It may not where commits
    /// wait for standbys to show them: the operator wants to read there what is read here.
    pub may_hurry: bool,
    statements: HashMap<String, Statement>,
    /// By their columns' types, under which tables of one shape share them.
    stages: HashMap<Vec<PgType>, Stage>,
    next_stage: usize,
    spare: Arc<Spare>,
}

/// A staging table of this session.
#[derive(Debug, Clone, Copy)]
struct Stage {
    number: usize,
    /// It holds rows of the current transaction.
    used: bool,
    /// The transaction that made it has committed.
    settled: bool,
}

/// Why a COPY failed.
#[derive(Debug)]
pub enum CopyError {
    /// A row with this key, or with an equal value in a unique index, is there.
    Duplicate(Error),
    /// The copy had to wait for another session's rows longer than allowed, or would have waited for ever.
    Locked(Error),
    /// Anything else.
    Other(Error),
}

impl From<CopyError> for Error {
    fn from(e: CopyError) -> Error {
        match e {
            CopyError::Duplicate(e) | CopyError::Locked(e) | CopyError::Other(e) => e,
        }
    }
}

impl Session {
    /// Readies a connection for writing.
    pub async fn new(client: Client) -> Result<Session> {
        client.batch_execute(PLANNER).await.map_err(classify)?;
        client.batch_execute(DURABLE).await.map_err(classify)?;
        client.batch_execute(PATIENCE).await.map_err(classify)?;
        let replica = match client.batch_execute("SET session_replication_role = replica").await {
            Ok(()) => true,
            // `check` warns of it: triggers and foreign keys of the target then fire for replicated rows too.
            Err(e) if e.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => false,
            Err(e) => return Err(classify(e)),
        };
        let sql = "SELECT pg_catalog.current_setting('synchronous_commit') <> 'remote_apply'";
        let may_hurry = client.query_one(sql, &[]).await.and_then(|row| row.try_get(0)).map_err(classify)?;
        Ok(Session {
            client,
            replica,
            may_hurry,
            statements: HashMap::new(),
            stages: HashMap::new(),
            next_stage: 0,
            spare: Arc::default(),
        })
    }

    /// Starts a transaction. Where foreign keys of the target fire, they may do so at its end, since batches are ordered by
    /// table.
    pub fn begin(&self) -> &'static str {
        if self.replica { "BEGIN" } else { "BEGIN; SET CONSTRAINTS ALL DEFERRED" }
    }

    /// A statement that was prepared before.
    pub fn prepared(&self, sql: &str) -> Option<Statement> {
        self.statements.get(sql).cloned()
    }

    /// A prepared statement, from the cache if it was prepared before.
    pub async fn prepare(&mut self, sql: &str) -> Result<Statement> {
        if let Some(statement) = self.prepared(sql) {
            return Ok(statement);
        }
        if self.statements.len() >= MAX_KEPT {
            self.statements.clear();
        }
        let statement = self.client.prepare(sql).await.map_err(classify)?;
        self.statements.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }

    /// Forgets prepared statements: tables have another shape now.
    pub fn forget_statements(&mut self) {
        self.statements.clear();
    }

    /// The transaction has been committed: staging tables are empty again.
    pub fn committed(&mut self) {
        for stage in self.stages.values_mut() {
            (stage.used, stage.settled) = (false, true);
        }
    }

    /// The transaction has been rolled back, and with it what it made.
    pub fn rolled_back(&mut self) {
        self.stages.retain(|_, stage| stage.settled);
        self.stages.values_mut().for_each(|stage| stage.used = false);
        self.statements.retain(|sql, _| !sql.contains(STAGES));
    }

    /// Says of a wait for a lock that lasted too long, on which table it was and who is in the way. Ends the transaction,
    /// which the error has aborted. Other errors stay as they are.
    pub async fn explain(&self, table: &TableName, error: Error) -> Error {
        if !error.is_transient() || error.hint_text() != Some(LOCKED) {
            return error;
        }
        let error = error.context(format!("table {table}: waiting for a lock"));
        let asked = async {
            self.client.batch_execute("ROLLBACK").await?;
            self.client.query(HOLDERS, &[&table.schema, &table.name]).await?.iter().map(holder).collect()
        };
        let holders: Vec<String> = match asked.await {
            Ok(holders) => holders,
            // The error stands as it is; whoever goes on with this connection meets this one.
            Err(e) => {
                tracing::debug!(%table, "who holds the lock cannot be told: {e}");
                return error;
            }
        };
        match holders.is_empty() {
            true => error.hint("whoever held the lock has let it go by now"),
            false => error.hint(format!("{}: end that transaction, or wait for it", holders.join("; "))),
        }
    }

    /// Fills a staging table with rows, and returns its number.
    pub async fn stage(&mut self, encoders: &Encoders<'_>, rows: &[usize]) -> Result<usize> {
        let number = self.empty_stage(encoders.types()).await?;
        self.copy(&copy_stage(number), encoders, rows).await?;
        Ok(number)
    }

    /// An empty staging table with columns of these types.
    pub async fn empty_stage(&mut self, types: Vec<PgType>) -> Result<usize> {
        if let Some(stage) = self.stages.get_mut(&types) {
            let (number, used) = (stage.number, stage.used);
            stage.used = true;
            if used {
                let sql = format!("TRUNCATE {}", stage_name(number));
                self.client.batch_execute(&sql).await.map_err(classify)?;
            }
            return Ok(number);
        }
        if self.stages.len() >= MAX_KEPT {
            self.drop_stages().await?;
        }
        let number = self.next_stage;
        self.next_stage += 1;
        self.client.batch_execute(&create_stage(number, &types)).await.map_err(classify)?;
        self.stages.insert(types, Stage { number, used: true, settled: false });
        Ok(number)
    }

    async fn drop_stages(&mut self) -> Result<()> {
        let names: Vec<String> = self.stages.values().map(|s| stage_name(s.number)).collect();
        self.stages.clear();
        self.statements.clear();
        self.client.batch_execute(&format!("DROP TABLE {}", names.join(", "))).await.map_err(classify)
    }

    /// Sends rows through one COPY; returns how many the server took.
    pub async fn copy(&mut self, sql: &str, encoders: &Encoders<'_>, rows: &[usize]) -> Result<u64, CopyError> {
        let mut copying = self.start_copy(sql, encoders.table()).await?;
        copying.rows(encoders, rows.iter().copied()).await.map_err(CopyError::Other)?;
        copying.finish(encoders.table()).await
    }

    /// Starts a COPY into `table`, or into what stages its rows. Nothing else may be asked of the session until it is finished
    /// or dropped.
    pub async fn start_copy(&mut self, sql: &str, table: &TableSchema) -> Result<Copying, CopyError> {
        let statement = self.prepare(sql).await.map_err(CopyError::Other)?;
        let sink = self.client.copy_in(&statement).await.map_err(|e| copy_error(table, e))?;
        let mut buffer = self.spare.take();
        buffer.extend_from_slice(HEADER);
        Ok(Copying { sink: Box::pin(sink), buffer, spare: Arc::clone(&self.spare), over: false })
    }
}

/// A COPY that runs. Dropped, it is given up: the driver sends CopyFail, and the transaction is aborted.
pub struct Copying {
    sink: Pin<Box<CopyInSink<Bytes>>>,
    buffer: Vec<u8>,
    spare: Arc<Spare>,
    /// The connection takes no more: `finish` tells why.
    over: bool,
}

/// A buffer is sent when it has passed [`CHUNK`]: room for the row that does it.
const ROOM: usize = CHUNK + CHUNK / 8;

impl Copying {
    /// Sends rows. What the server says of them shows in [`Copying::finish`].
    pub async fn rows(&mut self, encoders: &Encoders<'_>, rows: impl Iterator<Item = usize>) -> Result<()> {
        for row in rows {
            encoders.row(row, &mut self.buffer)?;
            if self.buffer.len() >= CHUNK {
                self.send().await;
            }
        }
        Ok(())
    }

    async fn send(&mut self) {
        let full = std::mem::replace(&mut self.buffer, self.spare.take());
        let piece = Bytes::from_owner(Piece { bytes: full, home: Arc::clone(&self.spare) });
        self.over = self.over || self.sink.send(piece).await.is_err();
    }

    /// Ends the COPY; returns how many rows the server took.
    pub async fn finish(mut self, table: &TableSchema) -> Result<u64, CopyError> {
        self.buffer.extend_from_slice(TRAILER);
        self.send().await;
        let taken = self.sink.as_mut().finish().await.map_err(|e| copy_error(table, e))?;
        match self.over {
            false => Ok(taken),
            // A failed send means a lost connection or an error of the server, which `finish` has told.
            true => Err(CopyError::Other(Error::transient("the connection took no more of a COPY, and then ended it"))),
        }
    }
}

/// Buffers that the driver has written and given back. A fresh one for each piece would be memory that no cache holds.
#[derive(Default)]
struct Spare(Mutex<Vec<Vec<u8>>>);

impl Spare {
    fn take(&self) -> Vec<u8> {
        let spare = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        spare.unwrap_or_else(|| Vec::with_capacity(ROOM))
    }

    /// A buffer that a long row has made large is not kept.
    fn put(&self, mut buffer: Vec<u8>) {
        if buffer.capacity() <= 2 * ROOM {
            buffer.clear();
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
        }
    }
}

/// A buffer on its way to the server.
struct Piece {
    bytes: Vec<u8>,
    home: Arc<Spare>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.home.put(std::mem::take(&mut self.bytes));
    }
}

/// One of [`HOLDERS`], as text.
fn holder(row: &Row) -> Result<String, tokio_postgres::Error> {
    let (pid, name): (i32, String) = (row.try_get(0)?, row.try_get(1)?);
    let (state, modes): (String, String) = (row.try_get(2)?, row.try_get(3)?);
    Ok(format!("session {pid} ({name:?}, {state}) holds {modes} (SELECT pg_terminate_backend({pid}) ends it)"))
}

/// Sorts out the errors that a caller can answer by another way of writing.
pub fn copy_error(table: &TableSchema, e: tokio_postgres::Error) -> CopyError {
    let code = e.code().cloned();
    let error = classify_in(&table.name, e);
    match code {
        Some(SqlState::UNIQUE_VIOLATION) => CopyError::Duplicate(error),
        Some(SqlState::LOCK_NOT_AVAILABLE | SqlState::T_R_DEADLOCK_DETECTED) => CopyError::Locked(error),
        _ => CopyError::Other(error),
    }
}

/// A parameter that is in its binary form already.
#[derive(Debug)]
pub struct Encoded(pub Vec<u8>);

impl ToSql for Encoded {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> std::result::Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.extend_from_slice(&self.0);
        Ok(IsNull::No)
    }

    /// The statement's text fixes the types; see [`crate::sql::Fed`].
    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}
