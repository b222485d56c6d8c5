//! A readable state of tables, and the position in the log that belongs to it.
//!
//! Transactions become visible in another order than their commits stand in the log: a commit is inserted, flushed (and, with
//! synchronous replication, confirmed elsewhere), and only then does its transaction leave the list of those that run. So the
//! log's end says nothing about what a query sees.
//!
//! **Exact** (verification): a temporary replication slot, whose creation exports the snapshot that belongs to its starting
//! point. It waits for every transaction that is open when it is made; the wait is bounded.
//!
//! **At least** (the initial copy): the position L must have the property that every transaction which wrote to these tables and
//! committed at or before L is visible to the read. Taken in this order:
//! 1. L is where records are inserted now.
//! 2. *Then* the locks on the tables are looked at. Who writes to a table holds a lock of it (ROW EXCLUSIVE or stronger) until
//!    after its transaction has become visible: `CommitTransaction` in `src/backend/access/transam/xact.c` writes the commit
//!    record, calls `ProcArrayEndTransaction`, and releases locks last.
//! 3. Those that hold such locks are waited for, unless they are seen idle inside their transaction: then, after L was taken,
//!    they had not begun to commit.
//! 4. Then the read's own snapshot is taken, one per range (READ COMMITTED).
//!
//! A transaction that committed at or before L has either let its lock go before step 2, and was visible by then, or held it in
//! step 2, and was waited for. This is how `CREATE INDEX CONCURRENTLY` waits (`WaitForLockers`); nobody waits for us.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arrow_array::RecordBatch;
use crossfade_core::totals::Totals;
use crossfade_core::{
    Consistency, Error, KeyRange, Orphans, Position, Result, Snapshot, TableName, TableSchema, Trouble,
};

use super::position::{Lsn, PgPosition};
use super::prepared::Prepared;
use super::types::select;
use super::wire::Replication;
use super::{catalog, log_end, survey};
use crate::classify::classify;
use crate::connect::Server;
use crate::quote::{self, ident, literal};
use crate::ranges::{self, Relation};
use crate::{figure, orphans, totals};

/// How long open transactions are waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// Who may have written to a table (or a partition of it) and not be visible yet. A prepared transaction has no process.
const WRITERS: &str = "\
    WITH RECURSIVE parts (oid) AS ( \
        SELECT pg_catalog.unnest($1::pg_catalog.oid[]) \
        UNION SELECT i.inhrelid FROM parts p JOIN pg_catalog.pg_inherits i ON i.inhparent = p.oid) \
    SELECT DISTINCT l.virtualtransaction, COALESCE(a.state, ''), COALESCE(l.pid, 0), COALESCE(a.xact_start::text, '?') \
    FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid \
    WHERE l.locktype = 'relation' AND l.granted AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid() \
        AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()) \
        AND l.relation IN (SELECT oid FROM parts) \
        AND l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')";

/// Sessions that finished snapshots leave for the next, each with what drives it: a copy opens one for each chunk.
pub type Pool = Arc<Mutex<Vec<(Server, Prepared)>>>;

/// See the module's documentation.
pub struct SourceSnapshot {
    server: Server,
    /// None only while it is dropped.
    client: Option<Prepared>,
    position: Position,
    /// Tables that are partitioned.
    partitioned: HashSet<TableName>,
    /// Where the session goes when all went well: none for one that holds a transaction open.
    pool: Option<Pool>,
    /// All reads are of one transaction.
    exact: bool,
}

impl SourceSnapshot {
    /// Opens a snapshot of these tables; without a consistency its position says nothing, and nobody is waited for.
    pub fn open(
        server: &Server,
        tables: &[Arc<TableSchema>],
        consistency: Option<Consistency>,
        pool: &Pool,
    ) -> Result<Self> {
        let kept = pool.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let (server, client) = match kept.filter(|(_, client)| !client.is_closed()) {
            Some(kept) => kept,
            None => {
                let server = server.alone()?;
                let client = server.block_on(Prepared::open(&server))?;
                (server, client)
            }
        };
        let is_exact = consistency == Some(Consistency::Exact);
        let known = server.block_on(relations(&client, tables, is_exact))?;
        let partitioned = known.iter().filter(|r| r.partitioned).map(|r| r.name.clone()).collect();
        let (position, pool) = match consistency {
            None => (server.block_on(log_end::position(&client))?, Some(Arc::clone(pool))),
            Some(Consistency::AtLeast) => {
                let oids: Vec<u32> = known.iter().map(|r| r.oid).collect();
                (server.block_on(at_least(&client, &oids))?, Some(Arc::clone(pool)))
            }
            Some(Consistency::Exact) => (exact(&server, &client)?, None),
        };
        let position = position.to_position();
        Ok(SourceSnapshot { server, client: Some(client), position, partitioned, pool, exact: is_exact })
    }

    fn client(&self) -> Result<&Prepared> {
        self.client.as_ref().ok_or_else(|| Error::corrupt("a snapshot without its session"))
    }

    /// The end of a read. A session in an unknown state serves nobody else; one that is exact goes on for other tables.
    fn ended<T>(&mut self, read: Result<T>) -> Result<T> {
        if read.is_err() {
            self.pool = None;
            if let Some(client) = self.client.as_ref().filter(|_| self.exact) {
                ranges::go_on(&self.server, client);
            }
        }
        read
    }

    fn relation<'t>(&self, table: &'t TableSchema) -> Relation<'t> {
        let only = if self.partitioned.contains(&table.name) { "" } else { "ONLY " };
        Relation {
            table,
            from: format!("{only}{}", quote::table(&table.name)),
            select: table.columns.iter().map(|c| select(&ident(&c.name), &c.logical, &c.source_type)).collect(),
        }
    }
}

impl Drop for SourceSnapshot {
    fn drop(&mut self) {
        if let (Some(pool), Some(client)) = (self.pool.take(), self.client.take()) {
            pool.lock().unwrap_or_else(PoisonError::into_inner).push((self.server.clone(), client));
        }
    }
}

struct Known {
    name: TableName,
    oid: u32,
    partitioned: bool,
}

/// The tables that are there. One that is not is an error, or `may_lack`: then it is one when that table is read, and the others
/// can be read all the same.
async fn relations(client: &Prepared, tables: &[Arc<TableSchema>], may_lack: bool) -> Result<Vec<Known>> {
    let mut known = Vec::with_capacity(tables.len());
    for table in tables {
        let info = catalog::relation(client, &table.name).await?;
        if info.is_none() && may_lack {
            continue;
        }
        let (oid, partitioned) = info.ok_or_else(|| {
            Error::data(&table.name, "it is no longer there")
                .hint("exclude it, or put it back and copy it again with `crossfade snapshot TABLE`")
        })?;
        known.push(Known { name: table.name.clone(), oid, partitioned });
    }
    Ok(known)
}

/// The position of reads that begin after this.
async fn at_least(client: &Prepared, oids: &[u32]) -> Result<PgPosition> {
    let position = log_end::position(client).await?;
    let deadline = Instant::now() + PATIENCE;
    let mut waited_for: Option<HashSet<String>> = None;
    loop {
        let rows = client.query(WRITERS, &[&oids]).await.map_err(classify)?;
        let mut busy = Vec::new();
        for row in &rows {
            let text = |i: usize| row.try_get::<_, String>(i).map_err(classify);
            let (transaction, state, pid): (_, _, i32) = (text(0)?, text(1)?, row.try_get(2).map_err(classify)?);
            // Seen idle after the position was taken: its commit, if one comes, lies behind. (One that failed never commits.)
            let is_idle = state.starts_with("idle in transaction");
            // It took its lock after the first look, so its commit lies behind, too.
            let is_new = waited_for.as_ref().is_some_and(|w| !w.contains(&transaction));
            if !is_idle && !is_new {
                busy.push((transaction, pid, text(3)?));
            }
        }
        let Some((transaction, pid, since)) = busy.first() else { return Ok(position) };
        if Instant::now() > deadline {
            return Err(Error::transient(format!(
                "a transaction that writes to the table has not ended within {} s: {transaction}, process {pid}, since {since}",
                PATIENCE.as_secs()
            ))
            .hint(format!("wait for it, or end it: SELECT pg_terminate_backend({pid}); process 0 is a prepared transaction")));
        }
        waited_for = Some(busy.into_iter().map(|(transaction, ..)| transaction).collect());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Puts the session into the state of a new slot's starting point.
fn exact(server: &Server, client: &Prepared) -> Result<PgPosition> {
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
    let end = server.block_on(log_end::position(client))?;
    let mut wire = Replication::open(server)?;
    let options = if wire.version() >= 150_000 { "(SNAPSHOT 'export')" } else { "EXPORT_SNAPSHOT" };
    let slot = format!("crossfade_verify_{}_{}", std::process::id(), end.lsn.0);
    let sql = format!("CREATE_REPLICATION_SLOT {} TEMPORARY LOGICAL pgoutput {options}", ident(&slot));
    let rows = wire.simple_within(&sql, PATIENCE)?;
    let cell = |i: usize| rows.first().and_then(|row| row.get(i)?.as_deref());
    let (Some(lsn), Some(snapshot)) = (cell(1), cell(2)) else {
        return Err(Error::corrupt("the server's answer to CREATE_REPLICATION_SLOT cannot be read"));
    };
    let lsn: Lsn = lsn.parse()?;
    // The snapshot lives as long as the connection that exported it does nothing else.
    let set = format!("{begin}; SET TRANSACTION SNAPSHOT {}; {}", literal(snapshot), ranges::SAVEPOINT);
    server.block_on(client.batch_execute(&set)).map_err(classify)?;
    drop(wire);
    Ok(PgPosition { lsn, ..end })
}

impl Snapshot for SourceSnapshot {
    fn position(&self) -> &Position {
        &self.position
    }

    fn split(&mut self, table: &TableSchema, rows: u64) -> Result<Vec<KeyRange>> {
        ranges::split(&self.server, self.client()?, &self.relation(table), rows)
    }

    fn scan(
        &mut self,
        table: &TableSchema,
        range: &KeyRange,
        sink: &mut dyn FnMut(RecordBatch) -> Result<()>,
    ) -> Result<()> {
        let scanned = ranges::scan(&self.server, self.client()?, &self.relation(table), range, sink);
        self.ended(scanned)
    }

    fn survey(
        &mut self,
        table: &TableSchema,
        range: &KeyRange,
        sink: &mut dyn FnMut(RecordBatch) -> Result<()>,
        trouble: &mut dyn FnMut(Trouble),
    ) -> Result<()> {
        let read = survey::survey(&self.server, self.client()?, self.relation(table), range, sink, trouble);
        self.ended(read)
    }

    fn fetch(
        &mut self,
        table: &TableSchema,
        keys: &RecordBatch,
        sink: &mut dyn FnMut(RecordBatch) -> Result<()>,
    ) -> Result<()> {
        let fetched = ranges::fetch(&self.server, self.client()?, &self.relation(table), keys, sink);
        self.ended(fetched)
    }

    fn totals(&mut self, table: &TableSchema) -> Result<Option<Totals>> {
        let totals = totals::totals(&self.server, self.client()?, &self.relation(table));
        self.ended(totals).map(Some)
    }

    fn ask(&mut self, statement: &str) -> Result<Option<String>> {
        let answer = figure::ask(&self.server, self.client()?, statement);
        self.ended(answer)
    }

    fn orphans(&mut self, table: &TableSchema, tables: &[Arc<TableSchema>]) -> Result<Option<Vec<Orphans>>> {
        let from = |t: &TableSchema| self.relation(t).from;
        let found = orphans::declared(&self.server, self.client()?, table, tables, &from);
        self.ended(found).map(Some)
    }
}
