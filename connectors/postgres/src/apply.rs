//! Net changes of a batch into statements, inside the open transaction.
//!
//! ```text
//! Rows ── split ──▶ deletes ─────────▶ DELETE .. USING feed
//!                   inserts ─────────▶ many: COPY under a savepoint; if a row is there already, as updates
//!                   updates ─────────▶ UPDATE .. FROM feed, and an upsert if rows are missing; while copying: upsert
//!                   without a key ───▶ DELETE of as many equal rows as asked for, by their place
//!                   absent columns ──▶ UPDATE of the columns that are there, one statement per set of them
//!                   unique swaps ────▶ staging, read absent values back, DELETE, INSERT
//! ```
//!
//! Each key occurs at most once in a `Rows` (the pipeline folds), so deletes may go first and the order of the rest does not
//! matter, but for one thing: two rows that swap a value of a secondary unique index collide whichever goes first. Tables
//! with such an index lose all touched rows before they get the new ones.
//!
//! Few rows (`FEW`) travel as array parameters, and statements of one batch are sent without waiting for one another's
//! answers, with the commit where none of their answers matters ([`Applier::commit`]): a small batch costs one round trip, or
//! two. Many rows travel by COPY. `UPDATE .. FROM` costs the
//! server less than `ON CONFLICT`, which locks each row first, with a log record of its own; but it finds only rows that are
//! there, and while the initial copy runs they often are not.

use std::collections::HashMap;
use std::sync::Arc;

use crossfade_core::{Error, Phase, Result, Rows, SchemaChange, TableName, TableSchema};
use futures::future::{join, join_all, join3};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Statement};

use crate::classify::{classify, classify_in};
use crate::copy::Encoders;
use crate::ddl;
use crate::session::{CopyError, Encoded, Session};
use crate::shape::{self, Shape};
use crate::split::{Partial, Split};
use crate::sql::{self, Fed, Feed};

/// Up to so many rows travel as arrays: above it COPY is faster, below it the round trips of COPY cost more.
const FEW: usize = 500;

/// Larger arrays are not made (the server refuses 1 GiB): their rows go through staging, however few they are.
const ARRAY_BYTES: usize = 8 << 20;

/// Statements wait for company up to so many bytes of parameters, and so many statements.
const PENDING_BYTES: usize = 1 << 20;
const PENDING_CALLS: usize = 16;

/// Writes rows through one session.
pub struct Applier {
    /// The session.
    pub session: Session,
    shapes: HashMap<TableName, Arc<Shape>>,
    pending: Vec<Call>,
    pending_bytes: usize,
    in_transaction: bool,
}

/// A statement on its way.
struct Call {
    table: Arc<TableSchema>,
    columns: Vec<usize>,
    statement: Statement,
    params: Vec<Encoded>,
    expect: Expect,
}

/// What the number of rows that a statement touched has to be.
enum Expect {
    Any,
    /// One for each of so many rows.
    Every(usize),
    /// As many as there are rows, else all of them go through an upsert.
    OrUpsert(usize),
}

/// The columns of a statement and the rows that it takes from a batch.
#[derive(Clone, Copy)]
struct Part<'a> {
    rows: &'a Rows,
    columns: &'a [usize],
    selected: &'a [usize],
}

/// One array per column; `None` if one of them would be too large to be a parameter.
fn arrays(encoders: &Encoders<'_>, part: &Part<'_>) -> Result<Option<Vec<Encoded>>> {
    let array = |at| Ok(encoders.array(at, part.selected, ARRAY_BYTES)?.map(Encoded));
    (0..part.columns.len()).map(array).collect()
}

impl Applier {
    /// Writes through this session.
    pub fn new(session: Session) -> Applier {
        Applier { session, shapes: HashMap::new(), pending: Vec::new(), pending_bytes: 0, in_transaction: false }
    }

    /// Forgets what it knows of the target's tables.
    pub fn forget(&mut self) {
        self.shapes.clear();
        self.session.forget_statements();
    }

    /// Whether something has been written since the last commit.
    pub fn in_transaction(&self) -> bool {
        self.in_transaction || !self.pending.is_empty()
    }

    /// The transaction has been committed.
    pub fn committed(&mut self) {
        self.in_transaction = false;
        self.session.committed();
    }

    /// Writes the rows. Some statements may still be on their way until [`Applier::flush`].
    pub async fn rows(&mut self, rows: &Rows, phase: Phase) -> Result<()> {
        let written = self.write_rows(rows, phase).await;
        self.explained(&rows.table.name, written).await
    }

    async fn explained<T>(&self, table: &TableName, result: Result<T>) -> Result<T> {
        match result {
            Err(e) => Err(self.session.explain(table, e).await),
            done => done,
        }
    }

    async fn write_rows(&mut self, rows: &Rows, phase: Phase) -> Result<()> {
        // A statement of the same table on its way may still want its upsert, which must not overtake what comes now.
        if self.pending.iter().any(|call| call.table.name == rows.table.name) {
            self.flush().await?;
        }
        let mut shape = self.shape(&rows.table).await?;
        if !shape.keyed && !rows.table.key.is_empty() {
            shape = self.make_key(&rows.table).await?;
        }
        let split = Split::new(rows)?;
        let all: Vec<usize> = (0..rows.table.columns.len()).collect();
        if rows.table.key.is_empty() {
            self.delete_rows(&Part { rows, columns: &all, selected: &split.deletes }, &shape).await?;
        } else if !split.deletes.is_empty() {
            self.delete(&Part { rows, columns: &rows.table.key, selected: &split.deletes }).await?;
        }
        // Deleting rows that others refer to would delete those, too, where foreign keys fire; and values of columns that
        // the source lacks would be lost: then a swap meets the index, and stops.
        let may_delete = (self.session.replica || !shape.referenced) && !shape.extra;
        if shape.unique && may_delete && split.may_swap() {
            return self.replace(rows, &all, &split, phase).await;
        }
        self.update(&Part { rows, columns: &all, selected: &split.updates }, phase).await?;
        let new = Part { rows, columns: &all, selected: &split.inserts };
        if new.selected.len() > FEW {
            self.insert_many(&new, &shape).await?
        } else {
            self.upsert(&new).await?
        }
        for partial in &split.partials {
            self.update_partial(rows, partial, phase).await?;
        }
        Ok(())
    }

    async fn shape(&mut self, table: &Arc<TableSchema>) -> Result<Arc<Shape>> {
        if let Some(shape) = self.shapes.get(&table.name) {
            return Ok(Arc::clone(shape));
        }
        self.flush().await?;
        let shape = Arc::new(shape::load(&self.session.client, table).await?);
        self.shapes.insert(table.name.clone(), Arc::clone(&shape));
        Ok(shape)
    }

    /// The copy has made do without the key so far; from here on rows are found by it. No chunk of the table is on its way:
    /// the pipeline sees to that.
    async fn make_key(&mut self, table: &Arc<TableSchema>) -> Result<Arc<Shape>> {
        self.flush().await?;
        ddl::make_key(&self.session.client, table).await?;
        self.shapes.remove(&table.name);
        self.shape(table).await
    }

    async fn delete(&mut self, part: &Part<'_>) -> Result<()> {
        self.feed(part, Expect::Any, |fed| fed.delete()).await?;
        Ok(())
    }

    /// Rows of a table without a key: of equal ones as many go as are asked for.
    async fn delete_rows(&mut self, part: &Part<'_>, shape: &Shape) -> Result<()> {
        if part.selected.is_empty() {
            return Ok(());
        }
        self.flush().await?;
        let table = &part.rows.table;
        let encoders = Encoders::new(table, &part.rows.batch, part.columns)?;
        let feed = Feed::Stage(self.session.stage(&encoders, part.selected).await?);
        let fed = Fed { table, columns: part.columns, feed: &feed };
        self.execute(sql::SCAN).await?;
        let touched = self.run(table, &fed.delete_rows(&shape.types)).await?;
        self.execute(sql::PROBE).await?;
        match touched == part.selected.len() as u64 {
            true => Ok(()),
            false => Err(Error::data(&table.name, "deletion of a row that the target lacks (the table has no key)")
                .hint("somebody changed the table at the target: copy it again with `crossfade snapshot TABLE`")),
        }
    }

    async fn upsert(&mut self, part: &Part<'_>) -> Result<()> {
        let keyless = part.rows.table.key.is_empty();
        self.feed(part, Expect::Any, |fed| if keyless { fed.insert() } else { fed.upsert() }).await?;
        Ok(())
    }

    /// New rows: straight into the table if its types are those of the batch. A savepoint keeps the transaction alive when
    /// a row is there already (a chunk of the initial copy brought it).
    async fn insert_many(&mut self, part: &Part<'_>, shape: &Shape) -> Result<()> {
        if shape.cast || shape.collides() {
            return self.upsert(part).await;
        }
        self.flush().await?;
        let table = &part.rows.table;
        let encoders = Encoders::new(table, &part.rows.batch, part.columns)?;
        self.execute("SAVEPOINT crossfade_insert").await?;
        match self.session.copy(&sql::copy_table(table, part.columns), &encoders, part.selected).await {
            Ok(_) => self.execute("RELEASE SAVEPOINT crossfade_insert").await,
            Err(CopyError::Duplicate(e)) if table.key.is_empty() => Err(e),
            Err(CopyError::Duplicate(_)) => {
                // Not lost: whatever is wrong with these rows the upsert meets again.
                self.execute("ROLLBACK TO SAVEPOINT crossfade_insert; RELEASE SAVEPOINT crossfade_insert").await?;
                shape.collided();
                self.upsert(part).await
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Rows with all their columns, which should be there.
    async fn update(&mut self, part: &Part<'_>, phase: Phase) -> Result<()> {
        let whole_row_is_key = part.columns.len() == part.rows.table.key.len();
        if phase == Phase::Copying || whole_row_is_key {
            return self.upsert(part).await;
        }
        let expect = Expect::OrUpsert(part.selected.len());
        self.feed(part, expect, |fed| fed.update().unwrap_or_default()).await
    }

    /// Rows of which the log carried some columns only.
    async fn update_partial(&mut self, rows: &Rows, partial: &Partial, phase: Phase) -> Result<()> {
        let table = &rows.table;
        let part = Part { rows, columns: &partial.present, selected: &partial.rows };
        if partial.present.len() == table.key.len() {
            return Ok(()); // the key is all that came: nothing changed
        }
        let expect = match phase {
            // The row's chunk has not come yet, and brings these values itself.
            Phase::Copying => Expect::Any,
            Phase::Streaming => Expect::Every(partial.rows.len()),
        };
        self.feed(&part, expect, |fed| fed.update().unwrap_or_default()).await
    }

    /// Sends a statement with its rows: as arrays, together with others, or through staging, at once.
    async fn feed(&mut self, part: &Part<'_>, expect: Expect, text: impl Fn(&Fed<'_>) -> String) -> Result<()> {
        if part.selected.is_empty() {
            return Ok(());
        }
        let table = &part.rows.table;
        let encoders = Encoders::new(table, &part.rows.batch, part.columns)?;
        let params = if part.selected.len() <= FEW { arrays(&encoders, part)? } else { None };
        let Some(params) = params else {
            self.flush().await?;
            let feed = Feed::Stage(self.session.stage(&encoders, part.selected).await?);
            let fed = Fed { table, columns: part.columns, feed: &feed };
            let touched = self.run(table, &text(&fed)).await?;
            return self.answer(&fed, &[], &expect, touched).await;
        };
        let sql = text(&Fed { table, columns: part.columns, feed: &Feed::Arrays });
        let statement = match self.session.prepared(&sql) {
            Some(statement) => statement,
            None => {
                self.flush().await?;
                self.session.prepare(&sql).await?
            }
        };
        self.pending_bytes += params.iter().map(|p| p.0.len()).sum::<usize>();
        let columns = part.columns.to_vec();
        self.pending.push(Call { table: Arc::clone(table), columns, statement, params, expect });
        if self.pending_bytes > PENDING_BYTES || self.pending.len() >= PENDING_CALLS {
            self.flush().await?;
        }
        Ok(())
    }

    /// Rows of a table with secondary unique indexes: all touched keys go, then all rows come. Absent values are read back
    /// before; a tag tells the rows of one set of absent columns from the others.
    async fn replace(&mut self, rows: &Rows, all: &[usize], split: &Split, phase: Phase) -> Result<()> {
        let full = split.full();
        let table = &rows.table;
        if split.partials.is_empty() && full.len() <= FEW {
            let keys = Part { rows, columns: &table.key, selected: &full };
            self.feed(&keys, Expect::Any, |fed| fed.delete()).await?;
            return self.feed(&Part { columns: all, ..keys }, Expect::Any, |fed| fed.insert()).await;
        }
        self.flush().await?;
        let encoders = |tag| Ok::<_, Error>(Encoders::new(table, &rows.batch, all)?.tagged(tag));
        let number = self.session.empty_stage(encoders(0)?.types()).await?;
        let copy = sql::copy_stage(number);
        self.session.copy(&copy, &encoders(0)?, &full).await?;
        let feed = Feed::Stage(number);
        let fed = Fed { table, columns: all, feed: &feed };
        for (n, partial) in split.partials.iter().enumerate() {
            let tag = i16::try_from(n + 1);
            let tag = tag.map_err(|_| Error::unavailable("one batch has more than 32767 sets of absent columns"))?;
            self.session.copy(&copy, &encoders(tag)?, &partial.rows).await?;
            let absent: Vec<usize> = all.iter().copied().filter(|i| !partial.present.contains(i)).collect();
            let Some(fill) = fed.fill(&absent, tag) else { continue };
            let filled = self.run(table, &fill).await?;
            if phase == Phase::Streaming && filled < partial.rows.len() as u64 {
                return Err(self.lacking(&fed, &[]).await);
            }
        }
        if let (Phase::Copying, Some(forget)) = (phase, fed.forget_missing()) {
            self.run(table, &forget).await?;
        }
        self.run(table, &fed.delete()).await?;
        self.run(table, &fed.insert()).await?;
        Ok(())
    }

    /// Sends what waits, unless the commit may send it along: a statement whose answer may ask for another may not wait.
    pub async fn settle(&mut self) -> Result<()> {
        match self.pending.iter().all(|call| matches!(call.expect, Expect::Any)) {
            true => Ok(()),
            false => self.flush().await,
        }
    }

    /// Starts the transaction if there is none, and waits for all statements on their way.
    pub async fn flush(&mut self) -> Result<()> {
        let calls = self.take_calls();
        let (begun, results) = join(self.begin(), Self::send(&self.session.client, &calls)).await;
        self.in_transaction = true;
        begun.map_err(classify)?;
        self.judge(calls, results).await
    }

    /// Sends what waits, one more statement and COMMIT at once. What counts is that statement, which fails where nothing may be
    /// committed: COMMIT then rolls back. Its error is the inner one.
    pub async fn commit(
        &mut self,
        last: &Statement,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<std::result::Result<(), tokio_postgres::Error>> {
        self.settle().await?;
        let calls = self.take_calls();
        let client = &self.session.client;
        let ended = join(client.query_one(last, params), client.batch_execute("COMMIT"));
        let (begun, results, (moved, commit)) = join3(self.begin(), Self::send(client, &calls), ended).await;
        begun.map_err(classify)?;
        self.judge(calls, results).await?;
        if let Err(e) = moved {
            return Ok(Err(e));
        }
        commit.map_err(classify)?;
        self.in_transaction = false;
        self.session.committed();
        Ok(Ok(()))
    }

    fn take_calls(&mut self) -> Vec<Call> {
        self.pending_bytes = 0;
        std::mem::take(&mut self.pending)
    }

    /// Starts the transaction if there is none. A request goes out when its future is first polled, and so in the order in
    /// which futures are joined.
    async fn begin(&self) -> std::result::Result<(), tokio_postgres::Error> {
        match self.in_transaction {
            true => Ok(()),
            false => self.session.client.batch_execute(self.session.begin()).await,
        }
    }

    async fn send(client: &Client, calls: &[Call]) -> Vec<std::result::Result<u64, tokio_postgres::Error>> {
        join_all(calls.iter().map(|call| client.execute_raw(&call.statement, call.params.iter()))).await
    }

    /// The first error in the order of sending is the cause of those behind it.
    async fn judge(
        &mut self,
        calls: Vec<Call>,
        results: Vec<std::result::Result<u64, tokio_postgres::Error>>,
    ) -> Result<()> {
        for (call, result) in calls.iter().zip(results) {
            let touched = result.map_err(|e| classify_in(&call.table.name, e));
            let touched = self.explained(&call.table.name, touched).await?;
            let fed = Fed { table: &call.table, columns: &call.columns, feed: &Feed::Arrays };
            self.answer(&fed, &call.params, &call.expect, touched).await?;
        }
        Ok(())
    }

    /// Makes good, or refuses, what a statement left out.
    async fn answer(&mut self, fed: &Fed<'_>, params: &[Encoded], expect: &Expect, touched: u64) -> Result<()> {
        match expect {
            Expect::OrUpsert(rows) if touched < *rows as u64 => {
                let statement = self.session.prepare(&fed.upsert()).await?;
                let done = self.session.client.execute_raw(&statement, params).await;
                done.map(drop).map_err(|e| classify_in(&fed.table.name, e))
            }
            Expect::Every(rows) if touched < *rows as u64 => Err(self.lacking(fed, params).await),
            Expect::Any | Expect::Every(_) | Expect::OrUpsert(_) => Ok(()),
        }
    }

    /// The error of an update whose row is not there, with the key of one such row.
    async fn lacking(&self, fed: &Fed<'_>, params: &[Encoded]) -> Error {
        let error = Error::data(&fed.table.name, "update of a row that the target lacks")
            .hint("somebody deleted it at the target: put the row back from the source, then start again");
        let client = &self.session.client;
        let row = match client.prepare(&fed.missing()).await {
            Ok(statement) => {
                let params: Vec<&(dyn ToSql + Sync)> = params.iter().map(|p| p as _).collect();
                client.query_opt(&statement, &params).await
            }
            Err(e) => Err(e),
        };
        match row {
            Ok(row) => {
                let text = |n| row.as_ref().and_then(|r| r.try_get::<_, Option<String>>(n).ok().flatten());
                let parts: Vec<String> = fed
                    .table
                    .key_columns()
                    .enumerate()
                    .map(|(n, c)| format!("{}={}", c.name, text(n).unwrap_or_else(|| "?".into())))
                    .collect();
                error.key(parts.join(", "))
            }
            Err(e) => error.caused_by(e),
        }
    }

    async fn run(&mut self, table: &TableSchema, sql: &str) -> Result<u64> {
        let statement = self.session.prepare(sql).await?;
        self.session.client.execute(&statement, &[]).await.map_err(|e| classify_in(&table.name, e))
    }

    async fn execute(&mut self, sql: &str) -> Result<()> {
        self.session.client.batch_execute(sql).await.map_err(classify)
    }

    /// Removes all rows of a table. Not by `TRUNCATE`, which is not transactional for others: readers wait for its commit,
    /// and a snapshot that was opened before it finds the table empty (documentation of TRUNCATE, "Notes").
    pub async fn truncate(&mut self, table: &Arc<TableSchema>) -> Result<()> {
        self.flush().await?;
        let sql = format!("DELETE FROM {}", crate::quote::table(&table.name));
        let emptied = self.session.client.batch_execute(&sql).await.map_err(|e| classify_in(&table.name, e));
        self.explained(&table.name, emptied).await
    }

    /// Changes a table's shape.
    pub async fn alter(&mut self, change: &SchemaChange) -> Result<()> {
        self.flush().await?;
        let altered = ddl::alter(&self.session.client, change).await;
        self.explained(&change.to.name, altered).await?;
        self.forget();
        Ok(())
    }
}
