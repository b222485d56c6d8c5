//! A readable state of tables, and the position in the log that belongs to it.
//!
//! **At least** (the initial copy): the position is taken first, then each range is read by one consistent read of its
//! own. InnoDB makes the read's view when the statement starts, so it holds every transaction up to the position, and
//! any later position taken before that read. No transaction stays open between ranges: a view that is days old would
//! keep the server from purging old row versions.
//!
//! **Exact** (verification): a transaction whose view equals the log up to the position, no more and no less.
//! - MariaDB starts engine views and notes the log's end under the one lock that orders commits in both; `START
//!   TRANSACTION WITH CONSISTENT SNAPSHOT` followed by `SHOW STATUS LIKE 'binlog_snapshot_%'` is exact without any lock of
//!   ours.
//! - MySQL has no such pair: a commit shows in the engine before its GTID joins `gtid_executed`, and is in the log file
//!   before it shows in the engine. So a second connection takes `LOCK TABLES .. READ`. It is granted when no transaction
//!   that wrote to these tables is open, and metadata locks are released only after a commit has reached engine, log and
//!   `gtid_executed`; while it is held nobody changes the tables. A view made and a position read in between agree about
//!   these tables; transactions on other tables may fall on either side, and do not matter. The lock lasts for three
//!   statements. If it is not granted within five seconds, the attempt is given up (transient): a lock that waits
//!   makes the tables' writers wait behind it.

use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::RecordBatch;
use crossfade_core::totals::{Ask, Totals};
use crossfade_core::{Consistency, Error, KeyRange, Orphans, Position, Result, Snapshot, TableSchema, Trouble, figure};

use crate::catalog::{quote, quote_table};
use crate::connect::{Flavor, Server};
use crate::keys;
use crate::log_end;
use crate::references;
use crate::rows::{Decoder, select_list};
use crate::session::Session;

/// How long `LOCK TABLES` may wait.
const LOCK_SECONDS: u32 = 5;

/// Sessions that finished snapshots leave for the next: a copy opens one for each chunk, and a login takes longer than reading a
/// small table.
pub type Pool = Arc<Mutex<Vec<Session>>>;

/// See the module's documentation.
#[derive(Debug)]
pub struct ServerSnapshot {
    server: Server,
    /// None only while it is dropped.
    session: Option<Session>,
    position: Position,
    /// Where the session goes when all went well: none for one that holds a transaction open.
    pool: Option<Pool>,
}

impl ServerSnapshot {
    /// Opens a snapshot of these tables.
    pub fn open(server: &Server, tables: &[Arc<TableSchema>], consistency: Consistency, pool: &Pool) -> Result<Self> {
        if consistency == Consistency::AtLeast {
            let kept = pool.lock().unwrap_or_else(PoisonError::into_inner).pop();
            // The server may have ended it since (wait_timeout).
            let (session, position) = match kept.map(|session| at_least(server, session)) {
                Some(Err(e)) if e.is_transient() => at_least(server, server.session()?)?,
                Some(opened) => opened?,
                None => at_least(server, server.session()?)?,
            };
            return Ok(ServerSnapshot {
                server: server.clone(),
                session: Some(session),
                position,
                pool: Some(Arc::clone(pool)),
            });
        }
        let mut session = server.session()?;
        let position = match server.flavor {
            Flavor::MariaDb => {
                start(&mut session)?;
                log_end::of_snapshot(server, &mut session)?
            }
            Flavor::MySql => {
                let mut locker = server.session()?;
                lock(&mut locker, tables)?;
                start(&mut session)?;
                let position = log_end::position_under_lock(server, &mut locker)?;
                locker.run("UNLOCK TABLES")?;
                position
            }
        };
        Ok(ServerSnapshot {
            server: server.clone(),
            session: Some(session),
            position: position.to_position(),
            pool: None,
        })
    }

    fn session(&mut self) -> Result<&mut Session> {
        self.session.as_mut().ok_or_else(|| Error::corrupt("a snapshot without its session"))
    }

    fn sum(&mut self, table: &TableSchema) -> Result<Totals> {
        let one = |ask: Ask| match ask {
            Ask::Values(i) => format!(", COUNT({})", quote(&table.columns[i].name)),
            Ask::Sum(i) => format!(", SUM({})", quote(&table.columns[i].name)),
        };
        let asks: String = Ask::about(table).into_iter().map(one).collect();
        let query = format!("SELECT COUNT(*){asks} FROM {}", quote_table(&table.name));
        let doing = || format!("totals of table {}", table.name);
        let row = self.session()?.row(&query).map_err(|e| e.context(doing()))?;
        let mut row = row.unwrap_or_default().into_iter();
        let rows = row.next().flatten().ok_or_else(|| Error::corrupt(format!("{}: no answer", doing())))?;
        Totals::read(table, &rows, row.collect())
    }

    /// With `trouble` values that cannot be carried do not end it.
    fn read(
        &mut self,
        table: &TableSchema,
        condition: &str,
        sink: &mut dyn FnMut(RecordBatch) -> Result<()>,
        mut trouble: Option<&mut dyn FnMut(Trouble)>,
    ) -> Result<()> {
        let query = format!(
            "SELECT {} FROM {}.{} WHERE {condition}",
            select_list(table.columns.iter()),
            quote(&table.name.schema),
            quote(&table.name.name)
        );
        let server = self.server.clone();
        let session = self.session()?;
        let wire = session.open(&query).map_err(|e| e.context(format!("reading table {}", table.name)))?;
        let mut decoder = Decoder::new(table, wire, |name| server.charset(name))?;
        let mut push = |decoder: &mut Decoder<'_>, packet: &[u8]| {
            let Some(trouble) = &mut trouble else { return decoder.push(packet) };
            let mut refused = Vec::new();
            decoder.survey(packet, &mut |e| refused.push(e))?;
            refused.into_iter().try_for_each(|e| Trouble::of(e).map(&mut *trouble))
        };
        while let Some(row) = session.next(|packet| push(&mut decoder, packet))? {
            row?;
            if decoder.is_full() {
                sink(decoder.finish()?)?;
            }
        }
        if !decoder.is_empty() {
            sink(decoder.finish()?)?;
        }
        Ok(())
    }
}

impl Drop for ServerSnapshot {
    fn drop(&mut self) {
        if let (Some(pool), Some(session)) = (self.pool.take(), self.session.take()) {
            pool.lock().unwrap_or_else(PoisonError::into_inner).push(session);
        }
    }
}

/// The position of reads that begin after this.
fn at_least(server: &Server, mut session: Session) -> Result<(Session, Position)> {
    let position = log_end::position(server, &mut session)?.to_position();
    Ok((session, position))
}

fn start(session: &mut Session) -> Result<()> {
    session.run("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
}

fn lock(session: &mut Session, tables: &[Arc<TableSchema>]) -> Result<()> {
    if tables.is_empty() {
        return Ok(());
    }
    session.run(&format!("SET SESSION lock_wait_timeout = {LOCK_SECONDS}"))?;
    let locks: Vec<String> = tables.iter().map(|t| format!("{} READ", quote_table(&t.name))).collect();
    session.run(&format!("LOCK TABLES {}", locks.join(", "))).map_err(|e| {
        if !e.is_transient() {
            return e;
        }
        Error::transient("the tables could not be locked for the moment of an exact snapshot").caused_by(e).hint(
            "a transaction that wrote to them stays open: SELECT * FROM information_schema.innodb_trx ORDER BY trx_started",
        )
    })
}

impl Snapshot for ServerSnapshot {
    fn position(&self) -> &Position {
        &self.position
    }

    fn split(&mut self, table: &TableSchema, rows: u64) -> Result<Vec<KeyRange>> {
        let cut = keys::split(self.session()?, table, rows);
        if cut.is_err() {
            self.pool = None;
        }
        cut.map_err(|e| e.context(format!("cutting table {}", table.name)))
    }

    fn scan(
        &mut self,
        table: &TableSchema,
        range: &KeyRange,
        sink: &mut dyn FnMut(RecordBatch) -> Result<()>,
    ) -> Result<()> {
        let read = keys::condition(table, range).and_then(|all| self.read(table, &all, sink, None));
        if read.is_err() {
            self.pool = None;
        }
        read
    }

    fn survey(
        &mut self,
        table: &TableSchema,
        range: &KeyRange,
        sink: &mut dyn FnMut(RecordBatch) -> Result<()>,
        trouble: &mut dyn FnMut(Trouble),
    ) -> Result<()> {
        let read = keys::condition(table, range).and_then(|all| self.read(table, &all, sink, Some(trouble)));
        if read.is_err() {
            self.pool = None;
        }
        read
    }

    fn fetch(
        &mut self,
        table: &TableSchema,
        keys: &RecordBatch,
        sink: &mut dyn FnMut(RecordBatch) -> Result<()>,
    ) -> Result<()> {
        let Some(points) = keys::points(table, keys)? else { return self.scan(table, &KeyRange::ALL, sink) };
        let read = points.iter().try_for_each(|some| self.read(table, some, sink, None));
        if read.is_err() {
            self.pool = None;
        }
        read
    }

    fn totals(&mut self, table: &TableSchema) -> Result<Option<Totals>> {
        let totals = self.sum(table);
        if totals.is_err() {
            self.pool = None;
        }
        totals.map(Some)
    }

    fn ask(&mut self, statement: &str) -> Result<Option<String>> {
        let answer = self.session()?.rows(&figure::wrapped(statement));
        if answer.is_err() {
            self.pool = None;
        }
        figure::only(statement, answer.map_err(|e| figure::refused(statement, e))?)
    }

    fn orphans(&mut self, table: &TableSchema, tables: &[Arc<TableSchema>]) -> Result<Option<Vec<Orphans>>> {
        let found = references::orphans(self.session()?, table, tables);
        if found.is_err() {
            self.pool = None;
        }
        found.map(Some)
    }
}
