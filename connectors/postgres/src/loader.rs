//! Writes chunks of the initial copy, on a connection of its own.
//!
//! A chunk is one transaction: its rows, then the check of the epoch and the chunk's completion. Rows go straight into the
//! table by one COPY, which is ended with the chunk, so that the server works on rows while the next are read; where they meet rows that the stream brought before, the chunk is given up and read again, to be merged
//! through staging. While a chunk is being written the pipeline keeps the stream off its table, so the locks that a chunk
//! waits for are those of strangers: it does so for a limited time.

use arrow_array::RecordBatch;
use crossfade_core::unfit::settle;
use crossfade_core::{Chunk, Error, Loaded, Loader, Position, Result};

use crate::classify::{classify, classify_in};
use crate::connect::Server;
use crate::control;
use crate::copy::Encoders;
use crate::ddl;
use crate::original::{self, Entry, Ledger};
use crate::session::{CopyError, Copying, Session};
use crate::shape;
use crate::sql::{self, Fed, Feed};

/// Commits without waiting for the disk. A crash of the server takes a chunk away whole, rows and completion, and with it all that
/// was committed after it; the commit that ends the copy waits, and flushes every commit before.
const COMMIT_SOON: &str = "SET LOCAL synchronous_commit = off; COMMIT";

/// A connection that writes chunks.
pub struct PostgresLoader {
    server: Server,
    session: Session,
    pipeline: String,
    epoch: u64,
    state: State,
    ledger: Ledger,
    /// Originals of the chunk's rows, to be written when its COPY has ended.
    kept: Vec<Entry>,
}

/// Where the loader is.
enum State {
    /// No transaction.
    Idle,
    /// In the chunk's transaction.
    Open { chunk: Chunk, way: Way },
    /// The chunk was given up; rows that still come are let go, and `commit` says so.
    Collided,
    /// An error left the transaction in an unknown state: the next chunk starts by rolling back.
    Failed,
}

/// How rows go in.
enum Way {
    /// COPY into the table: started by the first rows, ended by `commit`.
    Straight(Option<Copying>),
    /// Staging and INSERT, because types differ.
    Insert,
    /// Staging and upsert.
    Merge,
}

impl PostgresLoader {
    /// Connects.
    pub fn open(server: &Server, pipeline: &str, epoch: u64) -> Result<PostgresLoader> {
        let server = server.alone()?;
        let session = server.block_on(async { Session::new(server.client().await?).await })?;
        let (ledger, kept) = (Ledger::new(pipeline), Vec::new());
        Ok(PostgresLoader { server, session, pipeline: pipeline.to_owned(), epoch, state: State::Idle, ledger, kept })
    }

    async fn start(&mut self, chunk: &Chunk, merge: bool) -> Result<Way> {
        self.kept.clear();
        self.session.client.batch_execute("ROLLBACK").await.map_err(classify)?;
        self.session.rolled_back();
        self.session.client.batch_execute("BEGIN").await.map_err(classify)?;
        // Asked for each chunk: it costs nothing beside the chunk, and an operator may alter tables at any time.
        let shape = shape::load(&self.session.client, &chunk.table).await?;
        match (merge, chunk.table.key.is_empty()) {
            (true, false) => {
                // Not there yet where the chunk was given up for a lock, not for a row.
                if !shape.keyed {
                    ddl::make_key(&self.session.client, &chunk.table).await?;
                }
                return Ok(Way::Merge);
            }
            // The chunk is the whole table. Not by TRUNCATE, which readers would have to wait for.
            (true, true) => {
                let sql = format!("DELETE FROM {}", crate::quote::table(&chunk.table.name));
                let emptied = self.session.client.batch_execute(&sql).await;
                emptied.map_err(|e| classify_in(&chunk.table.name, e))?;
            }
            (false, _) => {}
        }
        Ok(if shape.cast { Way::Insert } else { Way::Straight(None) })
    }

    async fn rows(&mut self, chunk: &Chunk, way: &mut Way, batch: &RecordBatch) -> Result<(), CopyError> {
        let table = &chunk.table;
        let settled;
        let batch = match settle(table, batch).map_err(CopyError::Other)? {
            Some((holds, changed)) => {
                settled = holds;
                self.kept.extend(original::entries(table, &settled, changed, &[]).map_err(CopyError::Other)?);
                if let Way::Merge = way {
                    let policed = (0..table.columns.len()).filter(|&i| !table.columns[i].policies.is_empty());
                    let policed: Vec<usize> = policed.collect();
                    let forgotten = self.ledger.forget(&self.session.client, table, &policed, &settled, &[], &[]).await;
                    forgotten.map_err(CopyError::Other)?;
                }
                &settled
            }
            None => batch,
        };
        let columns: Vec<usize> = (0..table.columns.len()).collect();
        let encoders = Encoders::new(table, batch, &columns).map_err(CopyError::Other)?;
        if let Way::Straight(copying) = way {
            let copying = match copying {
                Some(running) => running,
                None => copying.insert(self.session.start_copy(&sql::copy_table(table, &columns), table).await?),
            };
            return copying.rows(&encoders, 0..batch.num_rows()).await.map_err(CopyError::Other);
        }
        let all: Vec<usize> = (0..batch.num_rows()).collect();
        let feed = Feed::Stage(self.session.stage(&encoders, &all).await.map_err(CopyError::Other)?);
        let fed = Fed { table, columns: &columns, feed: &feed };
        let text = if let Way::Merge = way { fed.upsert() } else { fed.insert() };
        let statement = self.session.prepare(&text).await.map_err(CopyError::Other)?;
        let run = self.session.client.execute(&statement, &[]).await;
        run.map(drop).map_err(|e| crate::session::copy_error(table, e))
    }

    /// What becomes of a chunk whose rows were refused: `Collided`, or an error.
    fn refused(&mut self, chunk: &Chunk, merging: bool, refused: CopyError) -> Result<()> {
        match refused {
            CopyError::Duplicate(_) | CopyError::Locked(_) if !merging => {
                self.state = State::Collided;
                Ok(())
            }
            // A value of a secondary unique index that another row still has: the stream, once further, takes it away.
            CopyError::Duplicate(e) => {
                let hint = "if it comes again: drop the target's secondary unique indexes until the copy has ended";
                Err(Error::transient(format!("chunk {} meets another row's value", chunk.index))
                    .caused_by(e)
                    .hint(hint))
            }
            e => Err(self.server.block_on(self.session.explain(&chunk.table.name, e.into()))),
        }
    }

    async fn complete(&mut self, chunk: &Chunk, high: &Position) -> Result<()> {
        let client = &self.session.client;
        let kept = std::mem::take(&mut self.kept);
        self.ledger.keep(client, &chunk.table.name, &kept, Some(chunk.low.as_str())).await?;
        control::hold_epoch(client, &self.pipeline, self.epoch).await?;
        let sql = "UPDATE crossfade.chunk SET done = $5 WHERE pipeline = $1 AND table_schema = $2 AND table_name = $3 \
                   AND index = $4 AND done IS NULL";
        let name = &chunk.table.name;
        let index = i32::try_from(chunk.index).map_err(|_| Error::corrupt("a chunk's index beyond 31 bits"))?;
        let done = high.as_str();
        let params: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
            [&self.pipeline, &name.schema, &name.name, &index, &done];
        let marked = client.execute(sql, &params).await.map_err(classify)?;
        if marked != 1 {
            return Err(Error::corrupt(format!("table {name}: chunk {index} is not planned, or done already")));
        }
        client.batch_execute(if self.session.may_hurry { COMMIT_SOON } else { "COMMIT" }).await.map_err(classify)
    }
}

impl Loader for PostgresLoader {
    fn begin(&mut self, chunk: &Chunk, merge: bool) -> Result<()> {
        self.state = State::Failed;
        let server = self.server.clone();
        let way = server.block_on(self.start(chunk, merge))?;
        self.state = State::Open { chunk: chunk.clone(), way };
        Ok(())
    }

    fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        let (chunk, mut way) = match std::mem::replace(&mut self.state, State::Failed) {
            State::Open { chunk, way } => (chunk, way),
            State::Collided => {
                self.state = State::Collided;
                return Ok(());
            }
            State::Idle | State::Failed => return Err(Error::corrupt("rows of no chunk")),
        };
        let server = self.server.clone();
        if let Err(e) = server.block_on(self.rows(&chunk, &mut way, rows)) {
            return self.refused(&chunk, matches!(way, Way::Merge), e);
        }
        self.state = State::Open { chunk, way };
        Ok(())
    }

    fn commit(&mut self, high: &Position) -> Result<Loaded> {
        let server = self.server.clone();
        let mut state = std::mem::replace(&mut self.state, State::Failed);
        if let State::Open { chunk, way: Way::Straight(copying) } = &mut state
            && let Some(copying) = copying.take()
            && let Err(e) = server.block_on(copying.finish(&chunk.table))
        {
            self.refused(chunk, false, e)?;
            state = State::Collided;
        }
        match state {
            State::Open { chunk, .. } => {
                server.block_on(self.complete(&chunk, high))?;
                self.session.committed();
                self.state = State::Idle;
                Ok(Loaded::Done)
            }
            State::Collided => {
                server.block_on(self.session.client.batch_execute("ROLLBACK")).map_err(classify)?;
                self.session.rolled_back();
                self.state = State::Idle;
                Ok(Loaded::Collided)
            }
            State::Idle | State::Failed => Err(Error::corrupt("a commit of no chunk")),
        }
    }
}
