//! The log as batches: transactions gathered up to a limit, positions counted.
//!
//! ```text
//! between ──GTID──> within ──rows, statements──> within ──XID, COMMIT, a lone statement──> between
//! ```
//!
//! Invariants:
//! - A position moves only when a transaction ends; a transaction that begins before another has ended is an error, so that
//!   no commit is ever missed (a compressed transaction included).
//! - A batch that ends in a commit holds whole transactions.
//! - What the stream is not told to carry still moves the position.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossfade_core::{Batch, Batcher, Boundary, Error, Limit, Position, Result, Stream, TableName, TableSchema};

use super::dump;
use super::event::{HEADER, Header, Kind};
use super::gtid::Gtid;
use super::gtid_event;
use super::gtid_list::MariaGtid;
use super::lineage;
use super::log::{Event, Log};
use super::mariadb;
use super::reader::{Fault, Read, Reader, utf8};
use super::rows::{Layout, Sink, decode_rows, head};
use super::statement::{self, Statement};
use super::tables::Tables;
use super::wire::Wait;
use crate::connect::Server;
use crate::position::MySqlPosition;

/// A batch without items, which only moves the position, comes at most this often.
const ADVANCE: Duration = Duration::from_secs(1);

/// How long the server may look for the place in its files.
const FIRST_WORD: Duration = Duration::from_secs(60);

/// Who a transaction is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Name {
    MySql(Gtid),
    MariaDb(MariaGtid),
    /// Its place in the files is its only name.
    Anonymous,
}

/// A transaction that has begun and not ended.
#[derive(Debug)]
struct Open {
    name: Name,
    commit_micros: i64,
    /// Whether it has an end of its own; else its only statement is its end.
    has_end: bool,
    /// The last carried table that it changed rows of.
    changed: Option<TableName>,
}

/// Reads the log from a position on.
#[derive(Debug)]
pub struct BinlogStream {
    log: Log,
    tables: Tables,
    batcher: Batcher,
    position: MySqlPosition,
    open: Option<Open>,
    /// Whether the position has moved since the last batch.
    advanced: bool,
    handed: Instant,
}

impl BinlogStream {
    /// Asks the server for its log after `from`, with the tables in the shape they had there.
    pub fn start(server: &Server, from: &Position, tables: &[Arc<TableSchema>]) -> Result<Self> {
        let position = MySqlPosition::parse(from)?;
        if let (MySqlPosition::File { server: made_by, .. }, Some(uuid)) = (&position, &server.server_uuid)
            && made_by != uuid
        {
            return Err(Error::unavailable(format!("position {from} is of another server: this one is {uuid}"))
                .hint("file positions hold on one server only; copy anew, or switch gtid_mode on"));
        }
        let tables = Tables::new(server, tables)?;
        let wire = dump::open(server, &position)?;
        let at = position.at().cloned().unwrap_or_default();
        let mut stream = BinlogStream {
            log: Log::new(wire, at),
            tables,
            batcher: Batcher::default(),
            position,
            open: None,
            advanced: false,
            handed: Instant::now(),
        };
        stream.first_word()?;
        if let MySqlPosition::Gtid { executed, .. } = &stream.position {
            lineage::verify(server, executed, &stream.log.at().file)
                .map_err(|e| e.context(format!("position {from}")))?;
        }
        Ok(stream)
    }

    /// The server begins with a rotation to the file that it reads, or with the reason why it sends nothing.
    fn first_word(&mut self) -> Result<()> {
        let Some(event) = self.log.next(Wait::Until(Instant::now() + FIRST_WORD))? else {
            return Err(Error::transient(format!(
                "the server did not begin its log within {} s",
                FIRST_WORD.as_secs()
            )));
        };
        let bytes = self.log.take();
        let applied = self.apply(event, &bytes, None);
        self.log.put(bytes);
        applied
    }

    fn finish(&mut self, end: Boundary) -> Result<Option<Batch>> {
        self.handed = Instant::now();
        self.advanced &= end == Boundary::Open;
        self.batcher.finish(end).map(Some)
    }

    fn commit(&mut self) -> Result<Option<Batch>> {
        let end = Boundary::Commit(self.position.to_position());
        self.finish(end)
    }

    /// The batch that ends here, between two transactions, if one does.
    fn due(&mut self, limit: &Limit, until: Option<&MySqlPosition>) -> Result<Option<Batch>> {
        if let Some(until) = until {
            match self.position.order(until)? {
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Equal => return self.commit(),
                std::cmp::Ordering::Greater => {
                    let message = format!("the stream is at {}, already beyond {until}", self.position);
                    return Err(Error::unavailable(message).hint("read up to a position that has not been passed"));
                }
            }
        }
        let full = self.batcher.bytes() >= limit.bytes || self.batcher.rows() >= limit.rows;
        let late = !self.batcher.is_empty() && Instant::now() >= limit.deadline;
        let only_moved = self.advanced && self.batcher.is_empty() && self.handed.elapsed() >= ADVANCE;
        if (full && !self.batcher.is_empty()) || late || only_moved { self.commit() } else { Ok(None) }
    }

    /// How long the next event may be waited for.
    fn patience(&self, limit: &Limit) -> Wait {
        if self.open.is_some() || self.batcher.is_empty() {
            let moved = self.advanced && self.open.is_none();
            let report = if moved { self.handed + ADVANCE } else { limit.deadline };
            return Wait::Until(limit.deadline.min(report));
        }
        Wait::No
    }

    fn apply(&mut self, event: Event, bytes: &[u8], until: Option<&MySqlPosition>) -> Result<()> {
        let header = event.header;
        let body = bytes.get(HEADER..event.end).unwrap_or_default();
        match Kind::of(header.kind) {
            Kind::Rows(layout) => self.rows(layout, body),
            Kind::TableMap => {
                let place = self.log.place();
                self.tables.map(body, &mut self.batcher, &place)
            }
            Kind::Gtid | Kind::AnonymousGtid | Kind::TaggedGtid | Kind::MariaGtid => self.begin(&header, body, until),
            Kind::Xid => self.end(),
            Kind::Query { compressed } => self.query(&header, body, compressed),
            Kind::TransactionPayload => self.log.enter(body),
            Kind::FormatDescription => {
                self.tables.forget_maps();
                Ok(())
            }
            Kind::Rotate => {
                self.advanced |= !header.is_artificial();
                self.file_moved();
                Ok(())
            }
            Kind::Heartbeat | Kind::Stop | Kind::Nothing | Kind::StatementPart => {
                self.file_moved();
                Ok(())
            }
            Kind::PartialUpdateRows => self.partial(body),
            Kind::XaPrepare => self.prepare(body),
            Kind::Unknown if header.is_ignorable() => Ok(()),
            kind @ (Kind::Incident | Kind::StartEncryption | Kind::Unknown) => Err(self.stop(kind, &header)),
        }
    }

    /// An event that the stream must not pass.
    fn stop(&self, kind: Kind, header: &Header) -> Error {
        let what = kind.name(header.kind);
        let error = Error::corrupt(format!("{}: event {what} cannot be passed", self.log.place()));
        match kind {
            Kind::Incident => error.hint("the server lost events of its log: copy anew"),
            Kind::StartEncryption => error.hint("the log is sent encrypted: set encrypt_binlog = OFF, and copy anew"),
            _ => error
                .hint("this version does not know the event: it may stem from a newer server; see its release notes"),
        }
    }

    fn corrupt(&self, fault: Fault) -> Error {
        fault.at(self.log.place())
    }

    /// Between transactions a position without GTIDs moves with the file.
    fn file_moved(&mut self) {
        if self.open.is_some() {
            return;
        }
        match &mut self.position {
            MySqlPosition::File { at, .. } => at.clone_from(self.log.at()),
            MySqlPosition::Gtid { at, .. } | MySqlPosition::MariaDb { at, .. } => *at = Some(self.log.at().clone()),
        }
    }

    fn begin(&mut self, header: &Header, body: &[u8], until: Option<&MySqlPosition>) -> Result<()> {
        if let Some(open) = &self.open {
            let message = format!("{}: a transaction begins, and {:?} has not ended", self.log.place(), open.name);
            return Err(Error::corrupt(message));
        }
        let seconds = i64::from(header.timestamp) * 1_000_000;
        let (name, commit_micros, has_end) = match Kind::of(header.kind) {
            Kind::MariaGtid => {
                let b = gtid_event::parse_maria(body, header.server).map_err(|f| self.corrupt(f))?;
                (Name::MariaDb(b.gtid), seconds, !b.standalone)
            }
            Kind::AnonymousGtid => {
                let b = gtid_event::parse(body, true).map_err(|f| self.corrupt(f))?;
                (Name::Anonymous, b.commit_micros.unwrap_or(seconds), false)
            }
            kind => {
                let tagged = kind == Kind::TaggedGtid;
                let b = if tagged { gtid_event::parse_tagged(body) } else { gtid_event::parse(body, false) };
                let b = b.map_err(|f| self.corrupt(f))?;
                (Name::MySql(b.gtid), b.commit_micros.unwrap_or(seconds), false)
            }
        };
        if let Some(until) = until.filter(|until| !within(&name, until)) {
            let message = format!("{}: transaction {name:?} comes before {until} is reached", self.log.place());
            return Err(
                Error::unavailable(message).hint("the position is of a server with another order of transactions")
            );
        }
        self.open = Some(Open { name, commit_micros, has_end, changed: None });
        Ok(())
    }

    /// The transaction has ended: the position moves.
    fn end(&mut self) -> Result<()> {
        let Some(open) = self.open.take() else {
            return Err(Error::corrupt(format!("{}: a commit without a transaction", self.log.place())));
        };
        match (open.name, &mut self.position) {
            (Name::MySql(gtid), MySqlPosition::Gtid { executed, .. }) => executed.add(&gtid),
            (Name::MariaDb(gtid), MySqlPosition::MariaDb { list, .. }) => list.set(gtid),
            (Name::MySql(_) | Name::Anonymous, MySqlPosition::File { .. }) => {}
            (name, _) => {
                let message = format!("{}: transaction {name:?} has no GTID of this position's kind", self.log.place());
                return Err(Error::corrupt(message).hint("gtid_mode was changed on the source: copy anew"));
            }
        }
        self.advanced = true;
        self.batcher.commit_micros = Some(open.commit_micros);
        self.file_moved();
        Ok(())
    }

    fn rows(&mut self, layout: Layout, body: &[u8]) -> Result<()> {
        /// The id of rows that only end a statement.
        const DUMMY: u64 = 0xff_ffff;
        let (id, _, rest) = head(body, layout).map_err(|f| self.corrupt(f))?;
        if id == DUMMY {
            return Ok(());
        }
        let place = self.log.place();
        let Some(open) = &mut self.open else {
            return Err(Error::corrupt(format!("{place}: rows outside of a transaction")));
        };
        let Some((table, plan)) = self.tables.by_id(id, &place)? else { return Ok(()) };
        if open.changed.as_ref() != Some(&plan.table.name) {
            open.changed = Some(plan.table.name.clone());
        }
        let (builder, order) = self.batcher.builder(table, &plan.table);
        let mut sink = Sink { builder, commit_micros: open.commit_micros, order };
        decode_rows(rest, layout, &plan, &mut sink, &place).map_err(|e| place.blame(e, &plan.table.name))
    }

    fn partial(&mut self, body: &[u8]) -> Result<()> {
        let layout = Layout { change: super::rows::Change::Update, extra: true, compressed: false };
        let (id, _, _) = head(body, layout).map_err(|f| self.corrupt(f))?;
        let place = self.log.place();
        match self.tables.by_id(id, &place)? {
            None => Ok(()),
            Some((table, _)) => {
                Err(Error::data(self.tables.name(table), format!("{place}: the log carries parts of JSON documents"))
                    .hint("SET GLOBAL binlog_row_value_options = '' on the source, reconnect its clients, and copy the table anew with `crossfade snapshot TABLE`"))
            }
        }
    }

    /// XA_PREPARE: with one phase a commit, with two the changes hang until a later XA COMMIT.
    fn prepare(&mut self, body: &[u8]) -> Result<()> {
        let one_phase = Reader(body).u8().map_err(|f| self.corrupt(f))? != 0;
        if !one_phase {
            self.undo("an XA transaction was prepared, which may be rolled back later")?;
        }
        self.end()
    }

    /// An error if the open transaction changed carried rows, which then need not stay.
    fn undo(&self, what: &str) -> Result<()> {
        match self.open.as_ref().and_then(|o| o.changed.as_ref()) {
            None => Ok(()),
            Some(table) => Err(Error::data(table, format!("{}: {what}", self.log.place()))
                .hint("such a transaction is not followed: copy the table anew with `crossfade snapshot TABLE` once it has ended")),
        }
    }

    fn query(&mut self, header: &Header, body: &[u8], compressed: bool) -> Result<()> {
        let (database, sql) = query_text(body, compressed).map_err(|f| self.corrupt(f))?;
        if self.open.is_none() {
            // A server without GTID events (or a log from before an upgrade) just begins.
            let MySqlPosition::File { .. } = self.position else {
                return Err(Error::corrupt(format!("{}: a statement outside of a transaction", self.log.place())));
            };
            let commit_micros = i64::from(header.timestamp) * 1_000_000;
            self.open = Some(Open { name: Name::Anonymous, commit_micros, has_end: false, changed: None });
        }
        let statement = statement::read(&sql, &database);
        match statement {
            Statement::Begin => {
                self.set_has_end();
                Ok(())
            }
            Statement::Commit => self.end(),
            Statement::Rollback => {
                self.undo("a transaction with changed rows was rolled back")?;
                self.end()
            }
            Statement::RollbackTo => self.undo("a transaction with changed rows was rolled back to a savepoint"),
            Statement::Savepoint => Ok(()),
            Statement::Xa => {
                let begins = sql.trim_start().get(3..).is_some_and(|rest| {
                    let rest = rest.trim_start().to_ascii_uppercase();
                    rest.starts_with("START") || rest.starts_with("BEGIN") || rest.starts_with("END")
                });
                if begins {
                    self.set_has_end();
                    return Ok(());
                }
                // COMMIT and ROLLBACK of what has been refused, or touched nothing, when it was prepared.
                self.end()
            }
            other => {
                let place = self.log.place();
                self.tables.statement(other, &sql, &mut self.batcher, &place)?;
                let lone = self.open.as_ref().is_some_and(|o| !o.has_end);
                if lone { self.end() } else { Ok(()) }
            }
        }
    }

    fn set_has_end(&mut self) {
        if let Some(open) = &mut self.open {
            open.has_end = true;
        }
    }
}

/// Whether a transaction lies at or before a position; one without a name is judged by its place alone.
fn within(name: &Name, until: &MySqlPosition) -> bool {
    match (name, until) {
        (Name::MySql(gtid), MySqlPosition::Gtid { executed, .. }) => executed.contains(gtid),
        (Name::MariaDb(gtid), MySqlPosition::MariaDb { list, .. }) => list.reaches(*gtid),
        (_, MySqlPosition::File { .. }) => true,
        _ => false,
    }
}

/// Database and text of a QUERY: thread 4, seconds 4, database length 1, error 2, length of variables 2, variables,
/// database, NUL, text. What is not UTF-8 in the text is in a string or comment, where it says nothing about tables.
fn query_text(body: &[u8], compressed: bool) -> Read<(String, String)> {
    let mut r = Reader(body);
    r.take(8)?;
    let database = usize::from(r.u8()?);
    r.take(2)?;
    let variables = r.u16()?.into();
    let mode = sql_mode(r.take(variables)?)?;
    let database = utf8(r.take(database)?)?.to_owned();
    r.take(1)?;
    let unpacked;
    let text = if compressed {
        unpacked = mariadb::decompress(r.0)?;
        &unpacked
    } else {
        r.0
    };
    let text = String::from_utf8_lossy(text);
    // Strings are read with backslashes as escapes; where they were none, they are made to stand for themselves.
    let text = if mode & NO_BACKSLASH_ESCAPES == 0 { text.into_owned() } else { text.replace('\\', "\\\\") };
    Ok((database, text))
}

/// `MODE_NO_BACKSLASH_ESCAPES` in `sql/sql_const.h` (MariaDB: `sql/sql_class.h`).
const NO_BACKSLASH_ESCAPES: u64 = 1 << 20;

/// The session's SQL mode among a QUERY's variables: code 1 and 8 bytes, before it at most code 0 and 4 bytes of flags.
fn sql_mode(variables: &[u8]) -> Read<u64> {
    let mut r = Reader(variables);
    if let [0, ..] = r.0 {
        r.take(5)?;
    }
    match r.0 {
        [1, ..] => {
            r.take(1)?;
            r.u64()
        }
        _ => Ok(0),
    }
}

impl Stream for BinlogStream {
    fn next(&mut self, limit: &Limit) -> Result<Option<Batch>> {
        let until = limit.until.as_ref().map(MySqlPosition::parse).transpose()?;
        loop {
            if self.open.is_none() {
                if let Some(batch) = self.due(limit, until.as_ref())? {
                    return Ok(Some(batch));
                }
            } else if self.batcher.bytes() > limit.bytes.saturating_mul(2) {
                return self.finish(Boundary::Open);
            }
            let Some(event) = self.log.next(self.patience(limit))? else {
                let between = self.open.is_none();
                if between && !self.batcher.is_empty() {
                    return self.commit();
                }
                if Instant::now() >= limit.deadline {
                    return Ok(None);
                }
                continue;
            };
            let bytes = self.log.take();
            let applied = self.apply(event, &bytes, until.as_ref());
            self.log.put(bytes);
            applied?;
            // Inside a long transaction nothing can be handed on: the caller gets its thread back, and asks again.
            if self.open.is_some() && Instant::now() >= limit.deadline {
                return Ok(None);
            }
        }
    }

    /// Nothing to tell: the server keeps its log by its own settings, and TCP and a write time limit of a day keep the
    /// connection while nothing is read.
    fn ack(&mut self, _durable: &Position) -> Result<()> {
        Ok(())
    }
}
