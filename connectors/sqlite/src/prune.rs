//! Takes acknowledged rows out of the change table, in transactions so small that the application hardly notices.

use std::time::{Duration, Instant};

use crossfade_core::Result;
use rusqlite::{Connection, ErrorCode, TransactionBehavior};

use crate::error::{Doing, classify};
use crate::install;
use crate::location::Location;
use crate::notes;

/// Rows deleted in one transaction: a millisecond or less of the database's write lock.
const ROWS: i64 = 500;

/// Deletes rows of the change table that lie before a durable position. The row of that position stays: it proves on the
/// next start that the log is the same one, and keeps the numbering going.
pub struct Pruner {
    conn: Connection,
    /// Rows below this may go.
    durable: i64,
    /// The first row that may still be there.
    first: Option<i64>,
    /// Settles what is still noted, under the schema of this number.
    settling: Vec<String>,
    schema: i64,
}

/// What a slice of pruning came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slice {
    /// Some rows went, and there are more.
    More,
    /// Nothing is left to do.
    Done,
    /// The application is writing: later.
    Busy,
}

impl Pruner {
    /// Prunes the log that these tables feed.
    pub fn new(location: &Location, ids: &[i64]) -> Result<Self> {
        let conn = location.writer()?;
        // Never queue for the lock: the application goes first.
        conn.busy_timeout(Duration::ZERO).doing("opening the database for pruning")?;
        let schema = schema_version(&conn).doing("preparing to prune")?;
        let noted = install::note_tables(&conn)?;
        let mut settling = Vec::new();
        for known in install::known(&conn)?.iter().filter(|k| ids.contains(&k.id)) {
            if let (Some(table), Some(helpers)) = (notes::table(&conn, known)?, noted.get(&known.id)) {
                settling.push(notes::sql(&table, known.id, helpers));
            }
        }
        Ok(Pruner { conn, durable: 0, first: None, settling, schema })
    }

    /// Everything before this row is safe at every target.
    pub fn durable(&mut self, seq: i64) {
        self.durable = self.durable.max(seq);
    }

    /// Prunes until nothing is left, the application writes, or the time is up.
    pub fn run(&mut self, until: Instant) -> Result<()> {
        while self.slice()? == Slice::More && Instant::now() < until {
            // An application that waits for the lock sleeps between its tries: leave it room.
            std::thread::yield_now();
        }
        Ok(())
    }

    /// Deletes some rows in one transaction.
    pub fn slice(&mut self) -> Result<Slice> {
        if self.first.is_some_and(|f| f >= self.durable) {
            return Ok(Slice::Done);
        }
        match self.delete() {
            Ok(slice) => Ok(slice),
            Err(rusqlite::Error::SqliteFailure(code, _))
                if matches!(code.code, ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) =>
            {
                Ok(Slice::Busy)
            }
            Err(e) => Err(classify("pruning the change table", e)),
        }
    }

    fn delete(&mut self) -> rusqlite::Result<Slice> {
        let tx = self.conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if schema_version(&tx)? != self.schema {
            // The reader will notice, and come with another pruner.
            return Ok(Slice::Busy);
        }
        let first: i64 = match self.first {
            Some(first) => first,
            None => tx.query_row("SELECT coalesce(min(seq), 0) FROM _crossfade_change", [], |r| r.get(0))?,
        };
        let end = self.durable.min(first + ROWS);
        tx.prepare_cached("DELETE FROM _crossfade_change WHERE seq < ?1")?.execute([end])?;
        for sql in &self.settling {
            tx.execute_batch(sql)?;
        }
        tx.commit()?;
        self.first = Some(end);
        Ok(if end < self.durable { Slice::More } else { Slice::Done })
    }
}

fn schema_version(conn: &Connection) -> rusqlite::Result<i64> {
    conn.query_row("PRAGMA schema_version", [], |r| r.get(0))
}
