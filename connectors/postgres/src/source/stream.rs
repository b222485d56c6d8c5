//! The log as batches: transactions gathered up to a limit, positions counted.
//!
//! ```text
//! Between ──Begin──> Announced ──rows──> Within ──Commit──> Between
//! ```
//!
//! A transaction that the server sends while it is open waits in a spool (`spool.rs`), and takes the same way once it has
//! committed: Stream Commit is its Begin, the spool holds its rows, and the spool's end is its Commit.
//!
//! Invariants:
//! - The position is the end of a commit that has been handed on, or a place behind it up to which the server says that there
//!   is nothing more (keepalives, messages): it moves only between transactions.
//! - A batch that ends in a commit holds whole transactions.
//! - Nothing beyond `until` is handed on: Begin tells where its commit lies before any row comes.
//! - The server learns of durable positions only, never of what is in flight.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossfade_core::{Batch, Batcher, Boundary, Error, Item, Limit, Omissions, Position, Result, Stream, TableSchema};

use super::pgoutput::{Event, Scratch, decode};
use super::position::{Lsn, PgPosition};
use super::rows::{Plan, Sink};
use super::spool::{Replay, Spools};
use super::start;
use super::tables::{Describe, Tables};
use super::wire::{Frame, Replication, Status, Wait};
use crate::connect::Server;
use crate::options::Origin;

/// A batch without items, which only moves the position, comes at most this often.
const ADVANCE: Duration = Duration::from_secs(1);
/// While a position is awaited, the server is asked again this often where it is.
const ASK: Duration = Duration::from_millis(200);
/// Rows after which the clock is looked at inside a transaction.
const GLANCE: u32 = 256;

/// Where in a transaction the stream is.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// In none.
    Between,
    /// One is to come; nothing of it has been taken.
    Announced(Open),
    /// Inside of it.
    Within(Open),
}

/// A transaction that has begun.
#[derive(Debug, Clone, Copy)]
struct Open {
    /// Where its commit lies.
    commit: Lsn,
    commit_micros: i64,
}

/// A transaction that was sent while it was open.
struct Committed {
    changes: Replay,
    commit: Lsn,
    end: Lsn,
}

/// Reads the log of a slot from a position on.
pub struct PgStream {
    wire: Replication,
    slot: String,
    publication: String,
    origin: Origin,
    scratch: Scratch,
    /// Transactions that are open; none where the server sends each at its commit.
    spools: Option<Spools>,
    /// A transaction that has committed, and of which not all has been read.
    replay: Option<Committed>,
    /// What the server may discard the log before. Zero, which tells it nothing, until that is known: where this reader begins a
    /// target that lags behind may not be yet.
    durable: Lsn,
    follower: Follower,
}

/// What the log has told so far.
struct Follower {
    tables: Tables,
    batcher: Batcher,
    position: PgPosition,
    place: Place,
    /// Bytes held, at most.
    held: usize,
    /// Whether the position has moved since the last batch.
    advanced: bool,
    handed: Instant,
    hex: Vec<u8>,
}

impl PgStream {
    /// Asks the server for the log of a slot after `from`, with the tables in the shape they had there. `describe` reads the
    /// present shape of a table when the log shows another than known.
    pub fn start(
        server: &Server,
        slot: &str,
        publication: &str,
        from: &Position,
        tables: &[Arc<TableSchema>],
        describe: Describe,
        omissions: &Omissions,
    ) -> Result<Self> {
        let from = PgPosition::parse(from)?;
        let mut wire = Replication::open(server)?;
        let position = start::verify(&mut wire, slot, publication, &from, tables)?;
        let options = server.options();
        let plugin = start::plugin_options(wire.version(), options.streaming, options.origin)?;
        let spools = plugin.streams().then(|| Spools::new(&options.spool_dir)).transpose()?;
        wire.start(slot, from.lsn, publication, plugin.list())?;
        let follower = Follower {
            tables: Tables::new(server, tables, describe, omissions.clone()),
            batcher: Batcher::default(),
            position,
            place: Place::Between,
            held: 0,
            advanced: false,
            handed: Instant::now(),
            hex: Vec::new(),
        };
        Ok(PgStream {
            wire,
            slot: slot.to_owned(),
            publication: publication.to_owned(),
            origin: options.origin,
            scratch: Scratch::default(),
            spools,
            replay: None,
            durable: Lsn(0),
            follower,
        })
    }

    fn status(&self) -> Status {
        Status { written: self.follower.position.lsn, flushed: self.durable }
    }

    /// The server has failed inside of a segment. It reads its catalog as a transaction saw it that has not ended in the log, and
    /// errs where the session has gone on since: TRUNCATE, ROLLBACK TO SAVEPOINT, TRUNCATE of one table in one transaction
    /// that is read later ends in "could not open relation" or its like, for good (seen on 15 and 18). At
    /// the commit all that it needs is there. So the log is asked for again from our position, each transaction at its commit.
    fn begin_again_without_streaming(&mut self, e: &Error) -> Result<()> {
        tracing::warn!(error = %e, "the server cannot send this transaction while it is open: from here on each comes at its commit");
        let plugin = start::plugin_options(self.wire.version(), false, self.origin)?;
        self.spools = None;
        self.wire.start(&self.slot, self.follower.position.lsn, &self.publication, plugin.list())
    }

    /// Takes what comes next, if something does.
    fn advance(&mut self, wait: Wait, until: Option<Lsn>) -> Result<bool> {
        let status = self.status();
        let PgStream { wire, scratch, spools, replay, follower, .. } = self;
        if let Some(Committed { changes, commit, end }) = replay {
            match changes.next()? {
                Some(body) => follower.apply(decode(body, scratch)?, body.len(), *end, until)?,
                None => {
                    follower.end(*commit, *end, until)?;
                    *replay = None;
                }
            }
            return Ok(true);
        }
        let frame = match wire.next(wait, status) {
            Err(e) if !e.is_transient() && spools.as_ref().is_some_and(Spools::receives) => {
                self.begin_again_without_streaming(&e)?;
                return Ok(true);
            }
            frame => frame?,
        };
        match frame {
            None => return Ok(false),
            Some(Frame::Keepalive { end, reply }) => {
                follower.passed(end, until);
                if reply {
                    self.wire.status(self.status(), false)?;
                }
            }
            Some(Frame::Data { end, body }) => {
                let kept = match spools {
                    Some(spools) if spools.receives() => spools.keep(body)?,
                    Some(_) | None => false,
                };
                match (kept, spools) {
                    (true, _) => {}
                    (false, None) => follower.apply(decode(body, scratch)?, body.len(), end, until)?,
                    (false, Some(spools)) => {
                        *replay = segments(follower, spools, decode(body, scratch)?, body.len(), end, until)?;
                    }
                }
            }
        }
        Ok(true)
    }
}

/// A message from a server that may send open transactions. One that has committed is to be read next.
fn segments(
    follower: &mut Follower,
    spools: &mut Spools,
    event: Event<'_>,
    bytes: usize,
    at: Lsn,
    until: Option<Lsn>,
) -> Result<Option<Committed>> {
    match event {
        Event::StreamStart { xid, first } => {
            follower.demand_between(xid, at)?;
            spools.start(xid, first)?;
        }
        Event::StreamStop => spools.stop()?,
        Event::StreamAbort { xid, subxid } => spools.abort(xid, subxid)?,
        Event::StreamCommit { xid, commit, end, commit_micros } => {
            let changes = spools.commit(xid)?;
            follower.announce(xid, Open { commit, commit_micros }, at)?;
            return Ok(Some(Committed { changes, commit, end }));
        }
        event => follower.apply(event, bytes, at, until)?,
    }
    Ok(None)
}

impl Follower {
    fn finish(&mut self, end: Boundary) -> Result<Option<Batch>> {
        self.handed = Instant::now();
        self.advanced &= end == Boundary::Open;
        self.held = 0;
        self.batcher.finish(end).map(Some)
    }

    fn commit(&mut self) -> Result<Option<Batch>> {
        let end = Boundary::Commit(self.position.to_position());
        self.finish(end)
    }

    fn is_within(&self) -> bool {
        matches!(self.place, Place::Within(_))
    }

    /// Whether more bytes than this are held. Counting them takes a look at every column, so an upper bound comes first.
    fn holds(&mut self, bytes: usize) -> bool {
        if self.held >= bytes {
            self.held = self.batcher.bytes();
        }
        self.held >= bytes
    }

    /// The batch that ends here, between two transactions, if one does.
    fn due(&mut self, limit: &Limit, until: Option<Lsn>) -> Result<Option<Batch>> {
        if let Some(until) = until {
            if let Place::Announced(open) = self.place
                && open.commit >= until
            {
                self.position.lsn = self.position.lsn.max(until);
            }
            match self.position.lsn.cmp(&until) {
                Ordering::Less => {}
                Ordering::Equal => return self.commit(),
                Ordering::Greater => {
                    let message = format!("the stream is at {}, already beyond {until}", self.position.lsn);
                    return Err(Error::unavailable(message).hint("read up to a position that has not been passed"));
                }
            }
        }
        let full = self.batcher.rows() >= limit.rows || self.holds(limit.bytes);
        let late = !self.batcher.is_empty() && Instant::now() >= limit.deadline;
        let only_moved = self.advanced && self.batcher.is_empty() && self.handed.elapsed() >= ADVANCE;
        if (full && !self.batcher.is_empty()) || late || only_moved { self.commit() } else { Ok(None) }
    }

    /// How long the next message may be waited for.
    fn patience(&self, limit: &Limit, until: Option<Lsn>) -> Wait {
        if !self.is_within() && !self.batcher.is_empty() {
            return Wait::No;
        }
        let mut end = limit.deadline;
        if self.advanced && !self.is_within() {
            end = end.min(self.handed + ADVANCE);
        }
        if until.is_some() {
            end = end.min(Instant::now() + ASK);
        }
        Wait::Until(end)
    }

    /// The server has sent all that lies before `end`.
    fn passed(&mut self, end: Lsn, until: Option<Lsn>) {
        if !matches!(self.place, Place::Between) {
            return;
        }
        let to = match until {
            Some(until) if reaches(end, until) => until,
            _ => end,
        };
        if to > self.position.lsn {
            self.position.lsn = to;
            self.advanced = true;
        }
    }

    /// The open transaction, of which something comes.
    fn open(&mut self) -> Result<Open> {
        match self.place {
            Place::Announced(open) | Place::Within(open) => {
                self.place = Place::Within(open);
                Ok(open)
            }
            Place::Between => {
                Err(Error::corrupt(format!("the log has rows outside of a transaction after {}", self.position)))
            }
        }
    }

    fn demand_between(&self, xid: u32, at: Lsn) -> Result<()> {
        match self.place {
            Place::Between => Ok(()),
            Place::Announced(_) | Place::Within(_) => {
                let message = format!("transaction {xid} begins or goes on at {at}, and the one before has not ended");
                Err(Error::corrupt(message))
            }
        }
    }

    /// All that a committed transaction did is to come.
    fn announce(&mut self, xid: u32, open: Open, at: Lsn) -> Result<()> {
        self.demand_between(xid, at)?;
        self.place = Place::Announced(open);
        Ok(())
    }

    fn apply(&mut self, event: Event<'_>, bytes: usize, end: Lsn, until: Option<Lsn>) -> Result<()> {
        match event {
            Event::Begin { commit, commit_micros, xid } => self.announce(xid, Open { commit, commit_micros }, end)?,
            Event::Commit { commit, end } => return self.end(commit, end, until),
            Event::Message { transactional: false } => self.passed(end, until),
            Event::Message { transactional: true } | Event::Origin | Event::Type => {}
            Event::Relation(relation) => {
                self.open()?;
                self.tables.relation(&relation, &mut self.batcher)?;
            }
            Event::Truncate(relations) => {
                self.open()?;
                for relation in relations {
                    if let Some(plan) = self.tables.plan(relation)? {
                        self.batcher.push(Item::Truncate(Arc::clone(&plan.schema)), plan.table)?;
                    }
                }
            }
            Event::Insert { relation, new } => self.row(relation, bytes, |plan, sink| plan.insert(sink, new))?,
            Event::Update { relation, old, new } => {
                self.row(relation, bytes, |plan, sink| plan.update(sink, old, new))?;
            }
            Event::Delete { relation, old } => self.row(relation, bytes, |plan, sink| plan.delete(sink, old))?,
            Event::StreamStart { .. } | Event::StreamStop | Event::StreamCommit { .. } | Event::StreamAbort { .. } => {
                let message = format!("at {end} the log has a part of an open transaction, which nobody asked for");
                return Err(Error::corrupt(message));
            }
        }
        Ok(())
    }

    /// Rows of a carried table, out of a message of so many bytes.
    fn row(
        &mut self,
        relation: u32,
        bytes: usize,
        append: impl FnOnce(&Plan, &mut Sink<'_>) -> Result<()>,
    ) -> Result<()> {
        let commit_micros = self.open()?.commit_micros;
        let Some(plan) = self.tables.plan(relation)? else { return Ok(()) };
        let (builder, order) = self.batcher.builder(plan.table, &plan.schema);
        let before = *order;
        let mut sink = Sink { builder, order, commit_micros, hex: &mut self.hex };
        append(plan, &mut sink)?;
        // The widest fixed type takes 32 bytes.
        let rows = (*sink.order - before) as usize;
        self.held += bytes + rows * (13 + 32 * plan.schema.columns.len());
        Ok(())
    }

    /// The transaction has ended: the position moves.
    fn end(&mut self, commit: Lsn, end: Lsn, until: Option<Lsn>) -> Result<()> {
        let open = match self.place {
            Place::Announced(open) | Place::Within(open) if open.commit == commit => open,
            place => {
                let message = format!("the log has a commit at {commit} that did not begin: {place:?}");
                return Err(Error::corrupt(message));
            }
        };
        if until.is_some_and(|until| end > until) {
            let message = format!("{} lies inside of the commit that ends at {end}", until.unwrap_or(end));
            return Err(Error::unavailable(message).hint("read up to the end of a record of the log"));
        }
        self.place = Place::Between;
        // Never back: a server repeats what was not acknowledged, and that begins at our position.
        if end < self.position.lsn {
            return Err(Error::corrupt(format!("a commit ends at {end}, before {}", self.position)));
        }
        self.position.lsn = end;
        self.advanced = true;
        self.batcher.commit_micros = Some(open.commit_micros);
        Ok(())
    }
}

/// Whether everything that ends at or before `until` lies before `end`. A position may point behind the head of a page that
/// has not been written yet; no record fits between.
fn reaches(end: Lsn, until: Lsn) -> bool {
    /// XLOG_BLCKSZ, which divides every page of the log that may be configured but the smallest.
    const PAGE: u64 = 8192;
    /// SizeOfXLogLongPHD.
    const HEAD: u64 = 40;
    end >= until || (end.0.is_multiple_of(PAGE) && until.0 - end.0 <= HEAD)
}

impl Stream for PgStream {
    fn next(&mut self, limit: &Limit) -> Result<Option<Batch>> {
        let until = match &limit.until {
            Some(until) => {
                let until = PgPosition::parse(until)?;
                self.follower.position.order(&until)?;
                Some(until.lsn)
            }
            None => None,
        };
        let (mut asked, mut taken) = (false, 0u32);
        loop {
            if !self.follower.is_within() {
                if let Some(batch) = self.follower.due(limit, until)? {
                    return Ok(Some(batch));
                }
            } else if self.follower.holds(limit.bytes.saturating_mul(2)) {
                return self.follower.finish(Boundary::Open);
            }
            // What is there comes first; then a server that has nothing to send is asked where it is.
            let ask = until.is_some() && !asked;
            let wait = if ask { Wait::No } else { self.follower.patience(limit, until) };
            if self.advance(wait, until)? {
                taken = taken.wrapping_add(1);
                // Inside a long transaction, or while open ones come, nothing can be handed on: the caller gets its thread
                // back, and asks again.
                let nothing = self.follower.is_within() || self.follower.batcher.is_empty();
                if taken.is_multiple_of(GLANCE) && nothing && Instant::now() >= limit.deadline {
                    return Ok(None);
                }
                continue;
            }
            if ask {
                self.wire.status(self.status(), true)?;
                asked = true;
                continue;
            }
            asked = false;
            if !self.follower.is_within() && !self.follower.batcher.is_empty() {
                return self.follower.commit();
            }
            if Instant::now() >= limit.deadline {
                return Ok(None);
            }
        }
    }

    fn ack(&mut self, durable: &Position) -> Result<()> {
        let durable = PgPosition::parse(durable)?;
        self.follower.position.order(&durable)?;
        self.durable = self.durable.max(durable.lsn);
        self.wire.status(self.status(), false)
    }
}
