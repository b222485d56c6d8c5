//! Reads the change table.
//!
//! ```text
//! PRAGMA data_version ──► changed? ──► one read transaction: schema_version, last row = a commit boundary
//!                                        │
//! rows up to the boundary, in short reads ──► Decoder ──► Batch, Commit(boundary)
//! ```
//!
//! SQLite serialises writers, and a reader sees whole transactions only: the last row that a read transaction sees ends a
//! transaction. Boundaries between are not recorded (a trigger cannot know where its transaction ends), so what came
//! since the last look is one unit: it is committed as a whole, in open batches if it is large. Every look makes a
//! boundary, those while the pipeline is stalled too. The log only grows at its end, so a unit is read in many short
//! reads, which hold back neither WAL checkpoints nor, in rollback mode, writers.
//!
//! Rows are numbered without gaps. A missing number, another row under the number where the reader stands, or a log
//! that ends before it, is a restored or tampered database and stops the stream.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossfade_core::{Batch, Boundary, Error, Limit, Omissions, Position, Result, Stream, TableSchema};
use rusqlite::Connection;

use crate::decode::Decoder;
use crate::error::Doing;
use crate::install;
use crate::location::Location;
use crate::mark::{Mark, RECOPY};
use crate::notes;
use crate::prune::Pruner;
use crate::upgrade;

/// The pause between looks while changes come, and when none have come for long.
const PAUSE: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));
/// How often to make sure that the file is still the one that was opened.
const IDENTITY: Duration = Duration::from_secs(1);
/// Rows of one read.
const CHUNK: i64 = 2000;
/// How long one `ack` may prune.
const PRUNE: Duration = Duration::from_millis(100);

/// The reader of a change table.
pub struct Log {
    location: Location,
    conn: Connection,
    identity: (u64, u64),
    checked: Instant,
    id: String,
    decoder: Decoder,
    /// The last row decoded.
    cursor: Mark,
    /// Commit boundaries beyond the cursor, oldest first.
    boundaries: VecDeque<Mark>,
    data_version: Option<i64>,
    schema_version: Option<i64>,
    pause: Duration,
    pruner: Pruner,
}

impl Log {
    /// Reads behind `from`, with these tables in the shape they had there.
    pub fn open(
        location: &Location,
        from: &Position,
        tables: &[Arc<TableSchema>],
        omissions: &Omissions,
    ) -> Result<Self> {
        let conn = location.reader()?;
        let id = install::require_id(&conn)?;
        let cursor = Mark::parse(from, &id)?;
        install::verify(&conn, cursor)?;
        let known = install::known(&conn)?;
        let mut carried = Vec::with_capacity(tables.len());
        for table in tables {
            let found = known.iter().find(|k| k.shape.name == table.name).ok_or_else(|| {
                Error::unavailable(format!("table {} has no log", table.name)).hint("begin its log first")
            })?;
            if found.since > cursor.seq {
                return Err(install::begun_anew(&table.name, found.since, from));
            }
            carried.push((found.id, Arc::clone(table)));
        }
        let decoder = Decoder::new(carried, omissions.clone());
        let mut log = Log {
            identity: location.identity()?,
            checked: Instant::now(),
            pruner: Pruner::new(location, &decoder.ids())?,
            location: location.clone(),
            conn,
            id,
            decoder,
            cursor,
            boundaries: VecDeque::new(),
            data_version: None,
            schema_version: None,
            pause: PAUSE.0,
        };
        log.look()?;
        Ok(log)
    }

    /// Looks for new commits; a new one becomes a boundary.
    fn look(&mut self) -> Result<()> {
        let doing = "looking for changes";
        loop {
            let version: i64 = self
                .conn
                .prepare_cached("PRAGMA data_version")
                .and_then(|mut s| s.query_row([], |r| r.get(0)))
                .doing(doing)?;
            if self.data_version == Some(version) {
                return self.same_file();
            }
            let tx = self.conn.unchecked_transaction().doing(doing)?;
            let schema: i64 = tx.query_row("PRAGMA schema_version", [], |r| r.get(0)).doing(doing)?;
            if self.schema_version != Some(schema) {
                drop(tx);
                self.catch_up(schema)?;
                continue;
            }
            let unsettled = notes::unsettled(&tx)?;
            if !unsettled.is_empty() {
                drop(tx);
                notes::settle(&self.location, &unsettled)?;
                continue;
            }
            let end = install::last_mark(&tx)?;
            let latest = self.boundaries.back().copied().unwrap_or(self.cursor);
            install::verify(&tx, latest)?;
            tx.commit().doing(doing)?;
            self.data_version = Some(version);
            if end.seq > latest.seq {
                self.boundaries.push_back(end);
            }
            return Ok(());
        }
    }

    /// The schema changed: the triggers may have to be made anew, before anything written since is read.
    fn catch_up(&mut self, schema: i64) -> Result<()> {
        let found = install::id(&self.conn)?;
        if found.as_deref() != Some(&self.id) {
            return Err(Error::unavailable(match found {
                None => "Crossfade's tables were removed from the database".to_owned(),
                Some(other) => format!("the database is another one now: its installation is {other}, not {}", self.id),
            })
            .hint(RECOPY));
        }
        let seen = self.boundaries.back().unwrap_or(&self.cursor).seq;
        let ids = self.decoder.ids();
        upgrade::run(&mut self.location.writer()?, &ids, seen)?;
        // If the schema changed again meanwhile, or by the upgrade itself, the next look finds another number and comes
        // back here; it ends when nothing was left to do.
        let now: i64 =
            self.conn.query_row("PRAGMA schema_version", [], |r| r.get(0)).doing("reading the schema's version")?;
        if now == schema {
            self.pruner = Pruner::new(&self.location, &ids)?;
            self.schema_version = Some(schema);
        } else {
            self.schema_version = None;
        }
        Ok(())
    }

    /// A file moved over the database's name leaves us with the old one, in which nothing ever happens again.
    fn same_file(&mut self) -> Result<()> {
        if self.checked.elapsed() >= IDENTITY {
            self.checked = Instant::now();
            if self.location.identity()? != self.identity {
                return Err(Error::transient(format!("{} was replaced by another file", self.location.path.display())));
            }
        }
        Ok(())
    }

    /// Reads towards `end` and makes a batch when it is time for one.
    fn read(&mut self, end: Mark, limit: &Limit) -> Result<Option<Batch>> {
        while self.cursor < end {
            while self.boundaries.front().is_some_and(|b| b.seq <= self.cursor.seq) {
                self.boundaries.pop_front();
            }
            let boundary = self.boundaries.front().copied().filter(|b| b.seq < end.seq).unwrap_or(end);
            let open = self.chunk(boundary.seq, limit.bytes.saturating_mul(2))?;
            if self.cursor.seq == boundary.seq {
                if self.cursor != boundary {
                    return Err(Error::corrupt(format!("row {} of the change table has changed", boundary.seq)));
                }
                if self.decoder.bytes() >= limit.bytes || self.decoder.rows() >= limit.rows {
                    break;
                }
            } else if open {
                return self.batch(Boundary::Open).map(Some);
            }
        }
        self.batch(Boundary::Commit(self.cursor.position(&self.id))).map(Some)
    }

    /// Decodes some rows behind the cursor, none behind `to`. Returns whether so many bytes are held now.
    fn chunk(&mut self, to: i64, bytes: usize) -> Result<bool> {
        let doing = "reading the change table";
        let mut statement = self
            .conn
            .prepare_cached("SELECT * FROM _crossfade_change WHERE seq > ?1 AND seq <= ?2 ORDER BY seq LIMIT ?3")
            .doing(doing)?;
        let mut rows = statement.query([self.cursor.seq, to, CHUNK]).doing(doing)?;
        let mut read = false;
        while let Some(row) = rows.next().doing(doing)? {
            let mark = self.decoder.entry(row)?;
            if mark.seq != self.cursor.seq + 1 {
                return Err(gap(self.cursor.seq + 1));
            }
            (self.cursor, read) = (mark, true);
            if self.decoder.bytes() > bytes {
                return Ok(true);
            }
        }
        if read { Ok(false) } else { Err(gap(self.cursor.seq + 1)) }
    }

    fn batch(&mut self, end: Boundary) -> Result<Batch> {
        let (items, commit_micros) = self.decoder.finish()?;
        Ok(Batch { items, end, commit_micros })
    }

    /// Where the next batches may end: at the last boundary, or at `until` if that comes first.
    fn end(&self, until: Option<Mark>) -> Result<Option<Mark>> {
        if let Some(until) = until.filter(|u| u.seq < self.cursor.seq) {
            return Err(Error::corrupt(format!(
                "asked to stop at row {}, but everything up to row {} was handed over",
                until.seq, self.cursor.seq
            )));
        }
        let end = self.boundaries.back().map(|&last| until.map_or(last, |u| u.min(last)));
        Ok(end.filter(|e| e.seq > self.cursor.seq))
    }
}

fn gap(seq: i64) -> Error {
    Error::unavailable(format!("row {seq} is missing from the change table: somebody deleted from it")).hint(RECOPY)
}

impl Stream for Log {
    fn next(&mut self, limit: &Limit) -> Result<Option<Batch>> {
        let until = limit.until.as_ref().map(|p| Mark::parse(p, &self.id)).transpose()?;
        loop {
            self.look()?;
            if until == Some(self.cursor) {
                return self.batch(Boundary::Commit(self.cursor.position(&self.id))).map(Some);
            }
            if let Some(end) = self.end(until)? {
                self.pause = PAUSE.0;
                return self.read(end, limit);
            }
            let now = Instant::now();
            if now >= limit.deadline {
                return Ok(None);
            }
            self.pruner.slice()?;
            std::thread::sleep(self.pause.min(limit.deadline - now));
            self.pause = (self.pause * 5 / 4).min(PAUSE.1);
        }
    }

    fn ack(&mut self, durable: &Position) -> Result<()> {
        let mark = Mark::parse(durable, &self.id)?;
        if mark.seq > self.cursor.seq {
            return Err(Error::corrupt(format!("{durable} was acknowledged, but never handed over")));
        }
        self.look()?;
        self.pruner.durable(mark.seq);
        self.pruner.run(Instant::now() + PRUNE)
    }
}
