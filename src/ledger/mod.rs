//! What was seen of a pipeline, kept across restarts: verifications, lag, incidents, repairs, changes of shape, hours.
//!
//! One SQLite file per pipeline with one table, to which rows are only ever added. Each row's hash covers the row and the hash before
//! it, so whoever edits, inserts or removes an entry later breaks the chain from there on ([`Ledger::check`]). Who rewrites *all* that
//! follows, or cuts off the end, leaves a chain that is whole: against that helps the last hash, which each report prints, and which is
//! then in somebody's mailbox.
//!
//! Several processes may write (the daemon; a `verify` without one): the hash before is read inside the transaction that adds the row.
//! The daemon writes from a thread of its own ([`scribe`]), so that no disk of ours ever stops replication.
//!
//! An hour's judgement is in [`hours`], what a row may hold in [`entry`].

pub mod entry;
pub mod hours;
pub mod scribe;

use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crossfade_core::{Error, Result};
use rusqlite::{Connection, OpenFlags, OptionalExtension, TransactionBehavior, params};
use sha2::{Digest, Sha256};

pub use self::entry::{Entry, Event, Incident, Sample, Verification};
pub use self::hours::{Hour, HourVerdict, Standing};
use crate::verify::audit::Auditing;
use crate::verify::chunk::Settled;

/// Of the file's format, in `user_version`: a ledger of a later one is not touched.
const FORMAT: i32 = 1;
/// In `application_id`: "XFLG".
const APPLICATION: i32 = 0x5846_4c47;
/// How long another process may write.
const PATIENCE: Duration = Duration::from_secs(5);

const SCHEMA: &str = "
    CREATE TABLE entry (
        seq INTEGER PRIMARY KEY,
        at_micros INTEGER NOT NULL,
        kind TEXT NOT NULL,
        body TEXT NOT NULL,
        hash BLOB NOT NULL
    ) STRICT;
    CREATE INDEX entry_by_kind ON entry (kind, at_micros);
    CREATE TRIGGER entry_stays BEFORE UPDATE ON entry BEGIN SELECT RAISE(ABORT, 'entries are only ever added'); END;
    CREATE TRIGGER entry_stays_there BEFORE DELETE ON entry BEGIN SELECT RAISE(ABORT, 'entries are only ever added'); END;
";

/// An open ledger.
pub struct Ledger {
    connection: Connection,
    path: PathBuf,
    pipeline: String,
}

/// The end of the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Entries so far.
    pub seq: u64,
    /// The last one's hash, as hexadecimal digits.
    pub hash: String,
}

/// Where the chain breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// The first entry that does not follow from those before it.
    pub seq: u64,
    /// What is wrong with it.
    pub what: String,
}

/// The folder in which a process that runs the pipeline keeps what it has to remember.
pub fn folder() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    // systemd gives a list where a unit has several; the first is the pipeline's.
    if let Some(list) = std::env::var_os("STATE_DIRECTORY")
        && let Some(first) = std::env::split_paths(&list).find(|p| !p.as_os_str().is_empty())
    {
        return Ok(first);
    }
    let state = set("XDG_STATE_HOME").or_else(|| Some(set("HOME")?.join(".local/state")));
    state.map(|s| s.join("crossfade")).ok_or_else(|| {
        Error::config("there is no folder for the ledger").hint("set STATE_DIRECTORY, XDG_STATE_HOME or HOME")
    })
}

/// The file of a pipeline's ledger in a folder.
fn file(folder: &Path, pipeline: &str) -> PathBuf {
    folder.join(format!("{pipeline}.ledger.sqlite"))
}

/// A pipeline's ledger: where `STATE_DIRECTORY` leads to, else the one that a systemd unit of the pipeline's name keeps (to whom it is
/// visible), else this user's.
fn place(pipeline: &str) -> Result<PathBuf> {
    let own = file(&folder()?, pipeline);
    let unit = file(&Path::new("/var/lib/crossfade").join(pipeline), pipeline);
    let told = std::env::var_os("STATE_DIRECTORY").is_some_and(|v| !v.is_empty());
    Ok(if !told && unit.exists() { unit } else { own })
}

impl Ledger {
    /// Opens a pipeline's ledger to write; makes it if there is none.
    pub fn open(pipeline: &str) -> Result<Ledger> {
        Ledger::open_at(place(pipeline)?, pipeline)
    }

    /// As [`Ledger::open`], in this folder.
    pub fn open_in(folder: &Path, pipeline: &str) -> Result<Ledger> {
        Ledger::open_at(file(folder, pipeline), pipeline)
    }

    fn open_at(path: PathBuf, pipeline: &str) -> Result<Ledger> {
        let open = || -> std::result::Result<Connection, Box<dyn std::error::Error + Send + Sync>> {
            // It holds values of rows that differ: nobody else's business.
            if let Some(folder) = path.parent() {
                std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            }
            std::fs::File::options().append(true).create(true).mode(0o600).open(&path)?;
            let mut connection = Connection::open(&path)?;
            connection.busy_timeout(PATIENCE)?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_update(None, "synchronous", "FULL")?;
            let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            if is_blank(&tx)? {
                tx.execute_batch(SCHEMA)?;
                tx.pragma_update(None, "application_id", APPLICATION)?;
                tx.pragma_update(None, "user_version", FORMAT)?;
            }
            tx.commit()?;
            Ok(connection)
        };
        let connection = open().map_err(|e| {
            Error::transient(format!("cannot write the ledger {}", path.display()))
                .caused_by(e)
                .hint("the folder must be writable and have room; STATE_DIRECTORY names another one")
        })?;
        Ledger { connection, path, pipeline: pipeline.to_owned() }.of_this_format()
    }

    /// Opens a pipeline's ledger to read; `None`: there is none yet.
    pub fn open_read(pipeline: &str) -> Result<Option<Ledger>> {
        Ledger::open_read_at(&place(pipeline)?, pipeline)
    }

    /// As [`Ledger::open_read`], in this folder.
    pub fn open_read_in(folder: &Path, pipeline: &str) -> Result<Option<Ledger>> {
        Ledger::open_read_at(&file(folder, pipeline), pipeline)
    }

    fn open_read_at(path: &Path, pipeline: &str) -> Result<Option<Ledger>> {
        match path.try_exists() {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(e) => return Err(unreadable(path, e)),
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(|e| unreadable(path, e))?;
        connection.busy_timeout(PATIENCE).map_err(|e| unreadable(path, e))?;
        // Somebody is about to make it.
        if is_blank(&connection).map_err(|e| unreadable(path, e))? {
            return Ok(None);
        }
        Ledger { connection, path: path.to_owned(), pipeline: pipeline.to_owned() }.of_this_format().map(Some)
    }

    fn of_this_format(self) -> Result<Ledger> {
        let number = |name| self.connection.pragma_query_value(None, name, |r| r.get::<_, i32>(0));
        let (format, application) = (number("user_version"), number("application_id"));
        match (format.map_err(|e| self.wrong(e))?, application.map_err(|e| self.wrong(e))?) {
            (FORMAT, APPLICATION) => Ok(self),
            (format, APPLICATION) => Err(Error::config(format!(
                "the ledger {} is of format {format}, this version knows {FORMAT}",
                self.path.display()
            ))
            .hint("use the version of crossfade that wrote it, or move the file away to begin a new one")),
            _ => {
                Err(Error::config(format!("{} is no ledger of crossfade", self.path.display()))
                    .hint("move the file away"))
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds entries, all or none.
    pub fn append(&mut self, events: &[(i64, Event)]) -> Result<()> {
        let wrong = |e| cannot_write(&self.path, e);
        let tx = self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(wrong)?;
        let (mut seq, mut hash) = last(&tx, &self.pipeline).map_err(wrong)?;
        for (at, event) in events {
            let (kind, body) = event.stored()?;
            seq += 1;
            hash = link(&hash, seq, *at, &kind, &body);
            tx.execute("INSERT INTO entry VALUES (?1, ?2, ?3, ?4, ?5)", params![seq, at, kind, body, hash])
                .map_err(wrong)?;
        }
        tx.commit().map_err(wrong)
    }

    /// The end of the chain.
    pub fn head(&self) -> Result<Head> {
        let (seq, hash) = last(&self.connection, &self.pipeline).map_err(|e| self.wrong(e))?;
        Ok(Head { seq: seq as u64, hash: hex(&hash) })
    }

    /// Follows the chain from its beginning. `None`: it is whole.
    pub fn check(&self) -> Result<Option<Broken>> {
        let run = || -> rusqlite::Result<Option<Broken>> {
            let mut rows =
                self.connection.prepare("SELECT seq, at_micros, kind, body, hash FROM entry ORDER BY seq")?;
            let mut rows = rows.query([])?;
            let (mut seq, mut hash) = (0, genesis(&self.pipeline));
            while let Some(row) = rows.next()? {
                let (found, at): (i64, i64) = (row.get(0)?, row.get(1)?);
                let (kind, body): (String, String) = (row.get(2)?, row.get(3)?);
                let stored: Vec<u8> = row.get(4)?;
                seq += 1;
                if found != seq {
                    return Ok(Some(Broken { seq: seq as u64, what: format!("it is missing; entry {found} follows") }));
                }
                hash = link(&hash, seq, at, &kind, &body);
                if stored != hash {
                    let what = format!("its hash does not follow from it and from those before ({kind})");
                    return Ok(Some(Broken { seq: seq as u64, what }));
                }
            }
            Ok(None)
        };
        run().map_err(|e| self.wrong(e))
    }

    /// Entries of these kinds with `from <= at < to`, oldest first.
    pub fn between(&self, kinds: &[&str], from: i64, to: i64) -> Result<Vec<Entry>> {
        let list = kinds.iter().map(|k| format!("'{k}'")).collect::<Vec<_>>().join(", ");
        let sql = format!(
            "SELECT seq, at_micros, kind, body FROM entry WHERE kind IN ({list}) AND at_micros >= ?1 AND at_micros < ?2
             ORDER BY at_micros, seq"
        );
        self.select(&sql, params![from, to])
    }

    /// Samples of lag since then, oldest first.
    pub fn lag_since(&self, from: i64) -> Result<Vec<(i64, Sample)>> {
        let entries = self.between(&["lag"], from, i64::MAX)?;
        Ok(entries
            .into_iter()
            .filter_map(|e| if let Event::Lag(s) = e.event { Some((e.at_micros, s)) } else { None })
            .collect())
    }

    /// All since then but samples of lag and hours, oldest first.
    pub fn events_since(&self, from: i64) -> Result<Vec<Entry>> {
        self.between(&entry::EVENTS, from, i64::MAX)
    }

    /// The last verification of all tables.
    pub fn last_verification(&self) -> Result<Option<(i64, Verification)>> {
        let sql = "SELECT seq, at_micros, kind, body FROM entry WHERE kind = 'verification' AND body ->> '$.whole'
                   ORDER BY at_micros DESC, seq DESC LIMIT 1";
        let found = self.select(sql, [])?.pop();
        Ok(found.and_then(|e| if let Event::Verification(v) = e.event { Some((e.at_micros, *v)) } else { None }))
    }

    /// What was settled of the scheduled comparison that was broken off last, if that was since then and none has ended after it.
    pub fn unfinished(&self, since: i64) -> Result<Vec<Settled>> {
        let sql = "SELECT seq, at_micros, kind, body FROM entry WHERE kind = 'chunks' AND at_micros >= ?1 AND seq >
                   (SELECT coalesce(max(seq), 0) FROM entry WHERE kind = 'verification' AND body ->> '$.by' = 'schedule')
                   ORDER BY seq";
        let entries = self.select(sql, [since])?.into_iter();
        let mut all: Vec<Settled> =
            entries.flat_map(|e| if let Event::Chunks { settled } = e.event { settled } else { Vec::new() }).collect();
        let last = all.last().map(|s| s.course);
        all.retain(|s| Some(s.course) == last);
        Ok(all)
    }

    /// Chunks that comparisons on schedule have settled since then, in the order in which they did.
    pub fn chunks_since(&self, since: i64) -> Result<Vec<Settled>> {
        let sql = "SELECT seq, at_micros, kind, body FROM entry WHERE kind = 'chunks' AND at_micros >= ?1 ORDER BY seq";
        let entries = self.select(sql, [since])?.into_iter();
        Ok(entries.flat_map(|e| if let Event::Chunks { settled } = e.event { settled } else { Vec::new() }).collect())
    }

    /// How far the audits of tables were by the last comparison on schedule.
    pub fn audits(&self) -> Result<Vec<Auditing>> {
        let sql =
            "SELECT seq, at_micros, kind, body FROM entry WHERE kind = 'verification' AND body ->> '$.by' = 'schedule'
                   ORDER BY seq DESC LIMIT 1";
        let Some(Event::Verification(v)) = self.select(sql, [])?.pop().map(|e| e.event) else { return Ok(Vec::new()) };
        Ok(v.proof.tables.into_iter().filter_map(Auditing::of).collect())
    }

    /// The hours judged so far, newest first, at most so many.
    pub fn hours(&self, limit: u32) -> Result<Vec<Hour>> {
        let sql = "SELECT seq, at_micros, kind, body FROM entry WHERE kind = 'hour' ORDER BY at_micros DESC, seq DESC LIMIT ?1";
        let entries = self.select(sql, [limit])?;
        Ok(entries.into_iter().filter_map(|e| if let Event::Hour(h) = e.event { Some(h) } else { None }).collect())
    }

    /// The streak of clean hours, as of now.
    pub fn standing(&self, goal: u32, now: i64) -> Result<Standing> {
        let broken = "SELECT seq, at_micros, kind, body FROM entry
                      WHERE kind = 'hour' AND body ->> '$.verdict' <> 'clean' ORDER BY at_micros DESC LIMIT 1";
        let broken = self.select(broken, [])?.pop();
        let broken = broken.and_then(|e| if let Event::Hour(h) = e.event { Some(h) } else { None });
        let since = broken.as_ref().map_or(i64::MIN, |h| h.start_micros);
        let clean = self.between(&["hour"], since.saturating_add(1), i64::MAX)?;
        let clean = clean.into_iter().filter_map(|e| if let Event::Hour(h) = e.event { Some(h) } else { None });
        Ok(hours::standing(&clean.collect::<Vec<_>>(), broken, goal, now))
    }

    /// The last entry of this kind.
    pub fn last_of(&self, kind: &str) -> Result<Option<Entry>> {
        let sql =
            "SELECT seq, at_micros, kind, body FROM entry WHERE kind = ?1 ORDER BY at_micros DESC, seq DESC LIMIT 1";
        Ok(self.select(sql, [kind])?.pop())
    }

    /// When the first entry was made.
    pub fn began(&self) -> Result<Option<i64>> {
        let sql = "SELECT at_micros FROM entry ORDER BY seq LIMIT 1";
        self.connection.query_row(sql, [], |r| r.get(0)).optional().map_err(|e| self.wrong(e))
    }

    fn select(&self, sql: &str, params: impl rusqlite::Params) -> Result<Vec<Entry>> {
        let read = || -> rusqlite::Result<Vec<(i64, i64, String, String)>> {
            let mut statement = self.connection.prepare_cached(sql)?;
            statement.query_map(params, |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?)))?.collect()
        };
        let rows = read().map_err(|e| self.wrong(e))?;
        rows.into_iter().map(|(seq, at, kind, body)| Entry::read(seq as u64, at, &kind, &body)).collect()
    }

    fn wrong(&self, e: rusqlite::Error) -> Error {
        unreadable(&self.path, e)
    }
}

/// Whether nothing was ever put into the file.
fn is_blank(connection: &Connection) -> rusqlite::Result<bool> {
    let marked = ["user_version", "application_id"].iter().try_fold(false, |any, name| {
        Ok::<_, rusqlite::Error>(any || connection.pragma_query_value(None, name, |r| r.get::<_, i32>(0))? != 0)
    })?;
    Ok(!marked && connection.query_row("SELECT count(*) = 0 FROM sqlite_schema", [], |r| r.get(0))?)
}

fn unreadable(path: &Path, e: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::unavailable(format!("cannot read the ledger {}", path.display()))
        .caused_by(e)
        .hint("ask as the user that runs the pipeline, or as root")
}

fn cannot_write(path: &Path, e: rusqlite::Error) -> Error {
    Error::transient(format!("cannot write the ledger {}", path.display()))
        .caused_by(e)
        .hint("make room on its disk; what is not written makes its hour unknown")
}

/// The place and hash of the last entry.
fn last(connection: &Connection, pipeline: &str) -> rusqlite::Result<(i64, Vec<u8>)> {
    let sql = "SELECT seq, hash FROM entry ORDER BY seq DESC LIMIT 1";
    let last = connection.query_row(sql, [], |r| Ok((r.get(0)?, r.get(1)?))).optional()?;
    Ok(last.unwrap_or_else(|| (0, genesis(pipeline))))
}

/// What the first entry follows: another pipeline's ledger does not fit.
fn genesis(pipeline: &str) -> Vec<u8> {
    Sha256::digest(format!("crossfade ledger {FORMAT} {pipeline}")).to_vec()
}

/// The hash of an entry. Lengths stand before texts, so no byte can pass from one to the other.
fn link(before: &[u8], seq: i64, at: i64, kind: &str, body: &str) -> Vec<u8> {
    let mut hash = Sha256::new();
    hash.update(before);
    hash.update(seq.to_be_bytes());
    hash.update(at.to_be_bytes());
    for text in [kind, body] {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    }
    hash.finalize().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests;
