//! The one writer of a pipeline: data and checkpoint in one transaction.
//!
//! ```text
//! open   session lock ─▶ checkpoint row FOR UPDATE, epoch + 1, owner
//! write  BEGIN, statements of the batch                 none, or one round trip for a small batch
//! commit UPDATE checkpoint WHERE seq, epoch; COMMIT      one more
//! soon   INSERT commit, if the checkpoint is ours; COMMIT
//! harden UPDATE checkpoint, DELETE those commits; COMMIT
//! ```
//!
//! `commit_soon` sets `synchronous_commit = off` for its transaction, as the server's own subscriptions do for theirs. What is
//! lost in a crash of the server is then the log's end, and so the last commits, data and checkpoint together. `harden` is a
//! commit that waits; it makes those before it durable, because it is behind them in the one log that it flushes (and that
//! synchronous standbys get). See "Asynchronous Commit" in the server's documentation.
//!
//! The session lock keeps two processes from running at once; the epoch is what makes it safe when they do (the lock falls
//! with a connection that the server gives up, while its process still runs).
//!
//! Invariant: after an error a writer is broken and refuses every further call. Whether a commit that lost its connection
//! took place is told by `recover`, as after any crash.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossfade_core::{
    Batch, Checkpoint, ChunkState, Details, Error, Item, KeyRange, Owner, Phase, Position, Result, Rows, Suspension,
    TableName, TableSchema, Writer, unfit::settle,
};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;

use crate::apply::Applier;
use crate::classify::classify;
use crate::connect::Server;
use crate::control::{self, Carried, State};
use crate::original::{self, Ledger};
use crate::session::Session;
use crate::{again, ddl, details, finish, unindex};

/// How long to wait for the lock of an owner that is gone.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a session of an owner that is gone may take to end by itself before it is ended.
const GRACE: Duration = Duration::from_secs(3);

/// Tables that one transaction makes: each takes several of the locks of which a server has `max_locks_per_transaction` times
/// its connections.
const TABLES_AT_ONCE: usize = 100;

/// Moves the checkpoint's row from `$2` to `$4`, and forgets the commits between, which it tells of now. It fails by dividing by
/// zero when no row is this writer's, so that the COMMIT sent behind it, without waiting, rolls back.
const MOVE: &str = "\
    WITH moved AS (UPDATE crossfade.checkpoint SET seq = $4, position = $5, phase = $6, commit_micros = $7, \
        updated_at = pg_catalog.clock_timestamp() WHERE pipeline = $1 AND seq = $2 AND epoch = $3 RETURNING 1), \
    told AS (DELETE FROM crossfade.commit WHERE pipeline = $1 AND seq > $2 AND seq <= $4) \
    SELECT 1 / pg_catalog.count(*) FROM moved";

/// As [`MOVE`], with the tables' shapes.
const MOVE_WITH_TABLES: &str = "\
    WITH moved AS (UPDATE crossfade.checkpoint SET seq = $4, position = $5, phase = $6, commit_micros = $7, \
        updated_at = pg_catalog.clock_timestamp(), tables = $8::text::jsonb \
        WHERE pipeline = $1 AND seq = $2 AND epoch = $3 RETURNING 1), \
    told AS (DELETE FROM crossfade.commit WHERE pipeline = $1 AND seq > $2 AND seq <= $4) \
    SELECT 1 / pg_catalog.count(*) FROM moved";

/// Adds commit `$4` to those behind the checkpoint's row at `$2`, without a wait for the log's flush. The row is not written, only
/// kept from a new owner until the commit: see schemas/postgres-control.sql.
const ADD: &str = "\
    WITH mine AS (SELECT FROM crossfade.checkpoint \
        WHERE pipeline = $1 AND seq = $2 AND epoch = $3 AND phase = $6 FOR KEY SHARE), \
    added AS (INSERT INTO crossfade.commit (pipeline, seq, position, commit_micros) \
        SELECT $1, $4, $5, $7 FROM mine RETURNING 1) \
    SELECT 1 / pg_catalog.count(*), pg_catalog.set_config('synchronous_commit', 'off', true) FROM added";

/// A pipeline's writer. The session lock falls with its connection.
pub struct PostgresWriter {
    server: Server,
    applier: Applier,
    pipeline: String,
    epoch: u64,
    checkpoint: Option<Checkpoint>,
    /// The checkpoint that its row tells of: those after it are rows of `crossfade.commit`.
    told: u64,
    tables: Vec<Arc<TableSchema>>,
    since: BTreeMap<TableName, Position>,
    suspended: BTreeMap<TableName, Suspension>,
    /// The stored shapes are older than `tables`.
    reshaped: bool,
    broken: bool,
    /// The originals of values that policies changed.
    ledger: Ledger,
}

impl PostgresWriter {
    /// Takes the pipeline.
    pub fn open(server: &Server, owner: &Owner) -> Result<PostgresWriter> {
        let server = server.alone()?;
        let (session, state) = server.block_on(async {
            let client = server.client().await?;
            control::ensure(&client).await?;
            lock(&client, owner).await?;
            let state = control::take_over(&client, owner).await?;
            Ok::<_, Error>((Session::new(client).await?, state))
        })?;
        let State { checkpoint, epoch, tables, since, suspended, .. } = state;
        Ok(PostgresWriter {
            server,
            applier: Applier::new(session),
            pipeline: owner.pipeline.clone(),
            epoch,
            told: checkpoint.as_ref().map_or(0, |c| c.seq),
            checkpoint,
            tables,
            since,
            suspended,
            reshaped: false,
            broken: false,
            ledger: Ledger::new(&owner.pipeline),
        })
    }

    /// Runs one call; an error breaks the writer.
    fn guarded<T>(&mut self, call: impl AsyncFnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.broken {
            return Err(Error::transient(format!(
                "pipeline {}: its writer failed before and must be opened anew",
                self.pipeline
            )));
        }
        self.broken = true;
        let server = self.server.clone();
        let result = server.block_on(call(self));
        self.broken = result.is_err();
        result
    }

    fn phase(&self) -> Phase {
        self.checkpoint.as_ref().map_or(Phase::Copying, |c| c.phase)
    }

    /// Runs something in a transaction of its own under this writer's epoch.
    async fn apart<T>(&mut self, work: impl AsyncFnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.between_batches()?;
        self.applier.flush().await?;
        control::hold_epoch(&self.applier.session.client, &self.pipeline, self.epoch).await?;
        let result = work(self).await?;
        self.applier.session.client.batch_execute("COMMIT").await.map_err(classify)?;
        self.applier.committed();
        Ok(result)
    }

    fn between_batches(&self) -> Result<()> {
        match self.applier.in_transaction() {
            false => Ok(()),
            true => Err(Error::transient(format!("pipeline {}: a batch is written and not committed", self.pipeline))),
        }
    }

    async fn save_tables(&mut self) -> Result<()> {
        let sql = "UPDATE crossfade.checkpoint SET tables = $2::text::jsonb WHERE pipeline = $1";
        let json = control::to_json(&self.shapes())?;
        self.applier.session.client.execute(sql, &[&self.pipeline, &json]).await.map_err(classify)?;
        Ok(())
    }

    fn shapes(&self) -> Vec<Carried<&TableSchema>> {
        let stored = |table: &'_ Arc<TableSchema>| (self.since.get(&table.name), self.suspended.get(&table.name));
        let carried = self.tables.iter().map(|t| (t.as_ref(), stored(t)));
        carried.map(|(table, (since, why))| Carried { table, since: since.cloned(), suspended: why.cloned() }).collect()
    }

    /// Remembers a table's shape.
    fn reshape(&mut self, table: &Arc<TableSchema>) {
        match self.tables.iter_mut().find(|t| t.name == table.name) {
            Some(known) => *known = Arc::clone(table),
            None => self.tables.push(Arc::clone(table)),
        }
    }

    /// Writes rows, and with them the originals of values that a policy changes.
    async fn write_rows(&mut self, rows: &Rows, phase: Phase) -> Result<()> {
        let (ledger, name) = (&mut self.ledger, &rows.table.name);
        let held = ledger.may_hold(&self.applier.session.client, &rows.table, phase).await?;
        let settled;
        let (rows, entries) = match settle(&rows.table, &rows.batch)? {
            None => (rows, Vec::new()),
            Some((batch, changed)) => {
                let entries = original::entries(&rows.table, &batch, changed, &rows.ops)?;
                settled = Rows { batch, ..rows.clone() };
                (&settled, entries)
            }
        };
        self.applier.rows(rows, phase).await?;
        if held.is_empty() && entries.is_empty() {
            return Ok(());
        }
        self.applier.flush().await?;
        let client = &self.applier.session.client;
        if !held.is_empty() {
            ledger.forget(client, &rows.table, &held, &rows.batch, &rows.ops, &rows.absent).await?;
        }
        let position = self.checkpoint.as_ref().map(|c| c.position.as_str());
        ledger.keep(client, name, &entries, position).await
    }

    async fn write_items(&mut self, batch: &Batch) -> Result<()> {
        let phase = self.phase();
        for item in &batch.items {
            match item {
                Item::Rows(rows) => self.write_rows(rows, phase).await?,
                Item::Truncate(table) => {
                    self.applier.truncate(table).await?;
                    self.ledger.forget_table(&self.applier.session.client, &table.name).await?;
                }
                Item::Schema(change) => {
                    self.applier.alter(change).await?;
                    self.ledger.follow(&self.applier.session.client, change).await?;
                    self.reshape(&change.to);
                    self.reshaped = true;
                }
            }
        }
        self.applier.settle().await
    }

    /// Commits what is written under this checkpoint.
    async fn commit_at(&mut self, next: &Checkpoint, wait: Wait) -> Result<()> {
        let previous = self.checkpoint.as_ref().map_or(0, |c| c.seq);
        if next.seq != previous + 1 || next.epoch != self.epoch {
            return Err(Error::corrupt(format!(
                "pipeline {}: checkpoint {} of epoch {} cannot follow {previous} of epoch {}",
                self.pipeline, next.seq, next.epoch, self.epoch
            )));
        }
        self.move_checkpoint(next, wait).await?;
        self.reshaped = false;
        self.checkpoint = Some(next.clone());
        Ok(())
    }

    /// Commits, and remembers `next` in the checkpoint's row or behind it.
    async fn move_checkpoint(&mut self, next: &Checkpoint, wait: Wait) -> Result<()> {
        let tables = if self.reshaped { Some(control::to_json(&self.shapes())?) } else { None };
        let sql = match (&tables, wait) {
            (Some(_), _) => MOVE_WITH_TABLES,
            (None, Wait::Flush) => MOVE,
            (None, Wait::No) => ADD,
        };
        let statement = self.applier.session.prepare(sql).await?;
        let numbers = (i64::try_from(self.told), i64::try_from(self.epoch), i64::try_from(next.seq));
        let (Ok(told), Ok(epoch), Ok(seq)) = numbers else { return Err(Error::corrupt("a checkpoint beyond 63 bits")) };
        let (position, phase) = (next.position.as_str(), next.phase.to_string());
        let mut params: Vec<&(dyn ToSql + Sync)> =
            vec![&self.pipeline, &told, &epoch, &seq, &position, &phase, &next.commit_micros];
        if let Some(tables) = &tables {
            params.push(tables);
        }
        match self.applier.commit(&statement, &params).await? {
            Err(e) if e.code() == Some(&SqlState::DIVISION_BY_ZERO) => return Err(control::taken(&self.pipeline)),
            moved => moved.map_err(classify)?,
        }
        if tables.is_some() || wait == Wait::Flush {
            self.told = next.seq;
        }
        Ok(())
    }
}

/// What a commit waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// For what the session's `synchronous_commit` asks for: at least that this server has flushed it.
    Flush,
    /// For nothing.
    No,
}

impl Writer for PostgresWriter {
    fn epoch(&self) -> u64 {
        self.epoch
    }

    fn checkpoint(&self) -> Option<&Checkpoint> {
        self.checkpoint.as_ref()
    }

    fn tables(&mut self) -> Result<Vec<Arc<TableSchema>>> {
        Ok(self.tables.clone())
    }

    fn prepare(&mut self, tables: &[Arc<TableSchema>]) -> Result<()> {
        self.guarded(async |w| {
            for some in tables.chunks(TABLES_AT_ONCE) {
                w.apart(async |w| {
                    for table in some {
                        let ours = w.phase() == Phase::Copying && w.tables.iter().any(|t| t.name == table.name);
                        let key = if ours { ddl::Key::ToCome } else { ddl::Key::There };
                        ddl::prepare(&w.applier.session.client, table, key).await?;
                        w.reshape(table);
                    }
                    w.applier.forget();
                    w.save_tables().await
                })
                .await?;
            }
            Ok(())
        })
    }

    fn plan(&mut self, table: &TableName, ranges: &[KeyRange]) -> Result<()> {
        self.guarded(async |w| {
            w.between_batches()?;
            let statement = w.applier.session.prepare(control::PLAN).await?;
            control::plan(&w.applier.session.client, &statement, &w.pipeline, w.epoch, table, ranges).await
        })
    }

    fn chunks(&mut self) -> Result<Vec<ChunkState>> {
        self.guarded(async |w| control::chunks(&w.applier.session.client, &w.pipeline).await)
    }

    fn write(&mut self, batch: &Batch) -> Result<()> {
        self.guarded(async |w| w.write_items(batch).await)
    }

    fn commit(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        self.guarded(async |w| {
            if checkpoint.phase == Phase::Streaming && !w.since.is_empty() {
                w.since.clear(); // the stream has passed them all
                w.reshaped = true;
            }
            w.commit_at(checkpoint, Wait::Flush).await
        })
    }

    fn commit_soon(&mut self, checkpoint: &Checkpoint) -> Result<bool> {
        let turns = self.checkpoint.as_ref().is_none_or(|c| c.phase != checkpoint.phase);
        // A change of shape is rare, and may be what the next owner depends on.
        if !self.applier.session.may_hurry || self.reshaped || turns || !self.since.is_empty() {
            return self.commit(checkpoint).map(|()| true);
        }
        self.guarded(async |w| w.commit_at(checkpoint, Wait::No).await)?;
        Ok(false)
    }

    fn harden(&mut self) -> Result<()> {
        self.guarded(async |w| {
            w.between_batches()?;
            // Written even if it tells of the last commit already: so that there is something to wait for.
            match w.checkpoint.clone() {
                Some(last) => w.move_checkpoint(&last, Wait::Flush).await,
                None => Ok(()),
            }
        })
    }

    fn copy_again(&mut self, table: &Arc<TableSchema>, since: &Position) -> Result<()> {
        self.guarded(async |w| {
            w.between_batches()?;
            let Some(last) = w.checkpoint.clone() else {
                return Err(Error::corrupt("a table is to be copied again before the first checkpoint"));
            };
            w.applier.flush().await?;
            again::empty(&w.applier.session.client, table, &w.tables).await?;
            w.ledger.forget_table(&w.applier.session.client, &table.name).await?;
            control::forget_plan(&w.applier.session.client, &w.pipeline, &table.name).await?;
            w.reshape(table);
            w.since.insert(table.name.clone(), since.clone());
            w.suspended.remove(&table.name);
            w.reshaped = true;
            w.applier.forget();
            let next = Checkpoint { seq: last.seq + 1, phase: Phase::Copying, epoch: w.epoch, ..last };
            w.commit_at(&next, Wait::Flush).await
        })
    }

    fn since(&mut self) -> Result<Vec<(TableName, Position)>> {
        Ok(self.since.iter().map(|(table, position)| (table.clone(), position.clone())).collect())
    }

    fn suspend(&mut self, table: &TableName, why: &Suspension) -> Result<()> {
        self.guarded(async |w| {
            w.between_batches()?;
            let Some(last) = w.checkpoint.clone().filter(|_| w.tables.iter().any(|t| t.name == *table)) else {
                return Err(Error::corrupt(format!("table {table} is to be suspended, and is not carried")));
            };
            w.applier.flush().await?;
            control::forget_plan(&w.applier.session.client, &w.pipeline, table).await?;
            w.since.remove(table);
            w.suspended.insert(table.clone(), why.clone());
            w.reshaped = true;
            w.applier.forget();
            let next = Checkpoint { seq: last.seq + 1, epoch: w.epoch, ..last };
            w.commit_at(&next, Wait::Flush).await
        })
    }

    fn suspended(&mut self) -> Result<Vec<(TableName, Suspension)>> {
        Ok(self.suspended.iter().map(|(table, why)| (table.clone(), why.clone())).collect())
    }

    fn drop_indexes(&mut self, table: &TableName, names: &[String]) -> Result<bool> {
        self.guarded(async |w| {
            w.between_batches()?;
            let known = w.tables.iter().find(|t| t.name == *table).cloned();
            let (Some(last), Some(known)) = (w.checkpoint.clone(), known) else { return Ok(false) };
            let released = unindex::release(&w.applier.session.client, &known, names).await?;
            let Some(without) = released else { return Ok(false) };
            w.applier.flush().await?;
            w.reshape(&without);
            w.reshaped = true;
            let next = Checkpoint { seq: last.seq + 1, epoch: w.epoch, ..last };
            w.commit_at(&next, Wait::Flush).await.map(|()| true)
        })
    }

    fn finish_copy(&mut self, tables: &[Arc<TableSchema>]) -> Result<()> {
        self.guarded(async |w| {
            w.between_batches()?;
            // A session of its own: the writer's has a planner that builds would suffer from.
            let client = w.server.client().await?;
            client.batch_execute(BUILDING).await.map_err(classify)?;
            finish::finish_copy(&client, tables).await?;
            finish::analyze(&client, tables).await?;
            w.applier.forget();
            Ok(())
        })
    }

    fn set_details(&mut self, tables: &[(Arc<TableSchema>, Details)]) -> Result<()> {
        self.guarded(async |w| {
            w.between_batches()?;
            let client = w.server.client().await?;
            client.batch_execute(BUILDING).await.map_err(classify)?;
            details::set(&client, tables).await
        })
    }
}

/// Memory and helpers for index builds: at least what a small server can spare, more if it is configured so. Waiting for
/// ever for a lock would stop the stream without a word.
const BUILDING: &str = "\
    SET lock_timeout = '60s'; \
    SELECT pg_catalog.set_config('maintenance_work_mem', GREATEST(setting::bigint, 262144)::text, false) \
        FROM pg_catalog.pg_settings WHERE name = 'maintenance_work_mem'; \
    SELECT pg_catalog.set_config('max_parallel_maintenance_workers', GREATEST(setting::int, 2)::text, false) \
        FROM pg_catalog.pg_settings WHERE name = 'max_parallel_maintenance_workers'";

/// Takes the session lock, waiting only for an owner that is gone.
async fn lock(client: &Client, owner: &Owner) -> Result<()> {
    let started = Instant::now();
    let key = control::lock_key(&owner.pipeline);
    loop {
        let sql = "SELECT pg_catalog.pg_try_advisory_lock($1)";
        let row = client.query_one(sql, &[&key]).await;
        if row.and_then(|row| row.try_get(0)).map_err(classify)? {
            return Ok(());
        }
        let state = control::read(client, &owner.pipeline).await?;
        if let Some(State { owner: holder, updated_at, .. }) = &state
            && (!is_gone(holder, owner) || started.elapsed() >= PATIENCE)
        {
            return Err(Error::owned(format!("pipeline {} is owned by {holder}, last seen {updated_at}", owner.pipeline))
                .hint("stop that process first; if it is gone, its session ends when the server notices (tcp_keepalives_idle), or by pg_terminate_backend"));
        }
        if started.elapsed() >= PATIENCE {
            return Err(Error::owned(format!("pipeline {} is being opened by another process", owner.pipeline))
                .hint("try again later; pg_locks shows who holds the advisory lock"));
        }
        if started.elapsed() >= GRACE && state.is_some() {
            end_session_of_the_dead(client, &owner.pipeline).await?;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Whether the holder can only be a session whose process is no more: a process of this machine that has ended, or this very
/// process, which opens the pipeline anew after it lost the connection.
fn is_gone(holder: &Owner, me: &Owner) -> bool {
    let proc = std::path::Path::new("/proc");
    holder.host == me.host
        && (holder.pid == me.pid || proc.join("self").exists() && !proc.join(holder.pid.to_string()).exists())
}

/// A session whose connection was cut without a word can hold its lock for hours.
async fn end_session_of_the_dead(client: &Client, pipeline: &str) -> Result<()> {
    if let Some(pid) = control::lock_holder(client, pipeline).await? {
        tracing::warn!(pipeline, pid, "ending the session of an owner that is gone");
        match client.execute("SELECT pg_catalog.pg_terminate_backend($1)", &[&pid]).await {
            // Another user's session: what remains is to wait.
            Err(e) if e.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {}
            other => drop(other.map_err(classify)?),
        }
    }
    Ok(())
}
