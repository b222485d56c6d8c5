//! A replication connection: commands, then the log as a stream of messages both ways.
//!
//! The driver has no replication mode, so the connection is our own ("Streaming Replication Protocol" of the server's
//! documentation, `src/backend/replication/walsender.c`). Messages are read into one buffer, in large pieces, and handed out
//! as slices of it: a row is copied once, from the socket, before it becomes Arrow.
//!
//! Invariants:
//! - A length is checked before it is believed, and the buffer grows with what has come, not with what is promised.
//! - Every wait ends: commands by their limit, the log by the server's own `wal_sender_timeout`. Time counts only while we
//!   wait for bytes, so that a pipeline that is busy elsewhere takes no server for dead.

use std::io;
use std::time::{Duration, Instant};

use bytes::{BufMut, BytesMut};
use crossfade_core::{Error, Result};
use futures::FutureExt;
use postgres_protocol::message::frontend;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::position::Lsn;
use super::wire_login;
use super::wire_read::{Read, Reader, Short};
use crate::classify::{Reported, classify_io, classify_reported};
use crate::connect::{SESSION, STATE, Server, accept};

/// The buffer at first, and again after a large message.
const BUFFER: usize = 256 << 10;
/// A buffer that grew beyond this shrinks again.
const LARGE: usize = 8 << 20;
/// No message of the server is longer: its own limit of an allocation (MaxAllocSize), and the message's head.
pub(super) const LONGEST: usize = (1 << 30) + 64;
/// Before we know who speaks.
const LONGEST_OF_LOGIN: usize = 64 << 10;
/// Answers of quick commands.
const ANSWER: Duration = Duration::from_secs(60);
/// A message of ours that the server does not take.
const WRITE: Duration = Duration::from_secs(60);

/// A byte stream.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

/// An error, and the SQLSTATE if the server reported it.
type Failed = (Error, Option<String>);

/// Messages over a stream.
pub struct Wire {
    stream: Box<dyn Duplex>,
    buffer: Vec<u8>,
    /// What has been read and not handed out: `buffer[from..to]`.
    from: usize,
    to: usize,
    out: BytesMut,
}

/// How long bytes may be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Only what is there.
    No,
    /// Until then.
    Until(Instant),
}

impl Wire {
    /// Nothing has been sent.
    pub fn new(stream: Box<dyn Duplex>) -> Self {
        Wire { stream, buffer: vec![0; BUFFER], from: 0, to: 0, out: BytesMut::new() }
    }

    /// Sends a message.
    pub async fn write(&mut self, message: impl FnOnce(&mut BytesMut) -> io::Result<()>) -> Result<()> {
        self.out.clear();
        // Only a NUL in a name or a password is refused.
        message(&mut self.out).map_err(|e| Error::config("a message to the server").caused_by(e))?;
        match tokio::time::timeout(WRITE, self.send()).await {
            Ok(sent) => sent.map_err(classify_io),
            Err(_) => Err(Error::transient(format!("Postgres took no message for {} s", WRITE.as_secs()))),
        }
    }

    async fn send(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.out).await?;
        self.stream.flush().await
    }

    /// The next message of a login, notices and settings passed over. The caller limits the time.
    pub async fn login_message(&mut self) -> Result<(u8, Vec<u8>), Failed> {
        loop {
            while self.peek(LONGEST_OF_LOGIN).map_err(|e| (e, None))?.is_none() {
                self.fill().await.map_err(|e| (e, None))?;
            }
            match self.message(LONGEST_OF_LOGIN).map_err(|e| (e, None))? {
                None | Some((b'N' | b'S', _)) => {}
                Some((b'E', body)) => return Err(reported(body)),
                Some((tag, body)) => return Ok((tag, body.to_vec())),
            }
        }
    }

    /// Reads once. An error at the end of the stream.
    pub(super) async fn fill(&mut self) -> Result<()> {
        self.room();
        let space = self.buffer.get_mut(self.to..).unwrap_or_default();
        match self.stream.read(space).await.map_err(classify_io)? {
            0 => Err(Error::transient("Postgres closed the connection")),
            n => {
                self.to += n;
                Ok(())
            }
        }
    }

    /// Makes room behind what has been read: by moving it, and only then by growing.
    fn room(&mut self) {
        if self.from == self.to {
            (self.from, self.to) = (0, 0);
            if self.buffer.len() > LARGE {
                self.buffer = vec![0; BUFFER];
            }
        }
        if self.buffer.len() - self.to >= BUFFER / 4 {
            return;
        }
        self.buffer.copy_within(self.from..self.to, 0);
        (self.from, self.to) = (0, self.to - self.from);
        if self.buffer.len() - self.to < BUFFER / 4 {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
    }

    /// Tag and length of the first message, if it is there as a whole.
    pub(super) fn peek(&self, longest: usize) -> Result<Option<(u8, usize)>> {
        let held = self.buffer.get(self.from..self.to).unwrap_or_default();
        let Some((&[tag, a, b, c, d], _)) = held.split_first_chunk::<5>() else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if length < 4 || length > longest {
            return Err(Error::corrupt(format!("Postgres announced a message of {length} bytes"))
                .hint("is it Postgres that listens there, and nothing between that changes what passes?"));
        }
        Ok((held.len() > length).then_some((tag, length + 1)))
    }

    /// The first message, if it is there as a whole. It is over when the next one is asked for.
    pub(super) fn message(&mut self, longest: usize) -> Result<Option<(u8, &[u8])>> {
        let Some((tag, whole)) = self.peek(longest)? else { return Ok(None) };
        let body = self.buffer.get(self.from + 5..self.from + whole).unwrap_or_default();
        self.from += whole;
        Ok(Some((tag, body)))
    }
}

/// A message that has no place where it came.
pub fn misplaced(tag: u8, place: &str) -> Error {
    Error::corrupt(format!("Postgres sent message {:?} in {place}", char::from(tag)))
        .hint("is it Postgres that listens there, and nothing between that changes what passes?")
}

/// ErrorResponse.
fn reported(body: &[u8]) -> Failed {
    match fields(body) {
        Ok(reported) => (classify_reported(&reported), Some(reported.code.to_owned())),
        Err(short) => (short.of("the server's error"), None),
    }
}

fn fields(body: &[u8]) -> Read<Reported<'_>> {
    let mut reported = Reported::default();
    let mut r = Reader(body);
    loop {
        let kind = r.u8()?;
        if kind == 0 {
            return Ok(reported);
        }
        // Words in the server's own encoding may come before the client's is in force.
        let value = std::str::from_utf8(r.until_nul()?).unwrap_or("(not in UTF-8)");
        match kind {
            b'C' => reported.code = value,
            b'M' => reported.message = value,
            b'D' => reported.detail = Some(value),
            b'H' => reported.hint = Some(value),
            b'W' => reported.context = Some(value),
            b's' => reported.schema = Some(value),
            b't' => reported.table = Some(value),
            b'c' => reported.column = Some(value),
            b'n' => reported.constraint = Some(value),
            // Severity, place in the server's sources, data type: "frontends should silently ignore" others too.
            _ => {}
        }
    }
}

/// A row of a command's answer.
pub type Row = Vec<Option<String>>;

/// What came over a connection that streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A message of the output plugin.
    Data {
        /// Where the server has read its log up to, as far as it tells here.
        end: Lsn,
        /// The message.
        body: &'a [u8],
    },
    /// A sign of life.
    Keepalive {
        /// Everything before it has been sent.
        end: Lsn,
        /// Whether the server wants an answer at once.
        reply: bool,
    },
}

/// What we tell the server about our progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// What we have got.
    pub written: Lsn,
    /// What is durable: the server may discard the log before it.
    pub flushed: Lsn,
}

/// A replication connection with Crossfade's session settings.
pub struct Replication {
    server: Server,
    wire: Wire,
    version: u32,
    /// After so much waiting without a byte the connection is dead.
    patience: Duration,
    /// Waited without a byte.
    silent: Duration,
    /// Whether the server has been asked for a sign of life since the last byte.
    asked: bool,
}

impl Replication {
    /// Connects to the first host that will do, as [`Server::client`] does.
    pub fn open(server: &Server) -> Result<Self> {
        let opened = server.first_host(async |host, attrs| {
            let mut wire = wire_login::login(server, host).await?;
            query(&mut wire, SESSION).await?;
            let state = query(&mut wire, STATE).await?;
            let is = |i: usize| state.first().and_then(|row| row.get(i)?.as_deref()) == Some("t");
            accept(attrs, is(0), is(1))?;
            let sql = "SELECT (SELECT setting FROM pg_catalog.pg_settings WHERE name = 'wal_sender_timeout'), \
                pg_catalog.current_setting('server_version_num')";
            let settings = query(&mut wire, sql).await?;
            let number = |i: usize| settings.first().and_then(|row| row.get(i)?.as_deref()?.parse::<u64>().ok());
            let version = number(1).and_then(|v| u32::try_from(v).ok());
            let version = version.ok_or_else(|| Error::corrupt("the server does not tell its version"))?;
            Ok((wire, version, patience(number(0).unwrap_or(0))))
        });
        let (wire, version, patience) = server.block_on(opened)?;
        Ok(Replication { server: server.clone(), wire, version, patience, silent: Duration::ZERO, asked: false })
    }

    /// The server's version, as `server_version_num` has it.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Runs one command over the simple protocol: SQL, or one of the replication protocol's. The rows of its answer.
    pub fn simple(&mut self, sql: &str) -> Result<Vec<Row>> {
        self.simple_within(sql, ANSWER)
    }

    /// As [`Replication::simple`], for commands that wait: making a slot waits for every transaction that is open.
    pub fn simple_within(&mut self, sql: &str, limit: Duration) -> Result<Vec<Row>> {
        let Replication { server, wire, .. } = self;
        match server.block_on(async { tokio::time::timeout(limit, query(wire, sql)).await }) {
            Ok(result) => result,
            Err(_) => Err(Error::transient(format!("Postgres gave no answer within {} s to {sql}", limit.as_secs()))
                .hint("a slot waits for transactions that began before it: see pg_stat_activity, pg_prepared_xacts")),
        }
    }

    /// Starts to stream the log of a slot after `from`, for the tables of a publication. `options` are pgoutput's others.
    pub fn start(&mut self, slot: &str, from: Lsn, publication: &str, options: &[(&str, &str)]) -> Result<()> {
        let sql = start_command(slot, from, publication, options);
        let Replication { server, wire, .. } = self;
        let begun = async {
            wire.write(|out| frontend::query(&sql, out)).await?;
            loop {
                match answer(wire).await? {
                    // CopyBothResponse.
                    (b'W', _) => return Ok(()),
                    // ReadyForQuery, behind an error that ended the log.
                    (b'Z', _) => {}
                    (tag, _) => return Err(misplaced(tag, "the answer to START_REPLICATION")),
                }
            }
        };
        match server.block_on(async { tokio::time::timeout(ANSWER, begun).await }) {
            Ok(result) => result,
            Err(_) => Err(Error::transient("Postgres did not start to send its log")),
        }
    }

    /// The next message of the log. `None`: nothing has come by then.
    pub fn next(&mut self, wait: Wait, status: Status) -> Result<Option<Frame<'_>>> {
        loop {
            match self.wire.peek(LONGEST)? {
                None if self.fill(wait, status)? => {}
                None => return Ok(None),
                // Notices and settings: a reload of the server's configuration sends them at any time.
                Some((b'N' | b'S' | b'A', _)) => {
                    self.wire.message(LONGEST)?;
                }
                Some(_) => break,
            }
        }
        match self.wire.message(LONGEST)? {
            None => Ok(None),
            // CopyData.
            Some((b'd', body)) => frame(body).map(Some),
            Some((b'E', body)) => Err(reported(body).0),
            // CopyDone, CommandComplete: the server shuts down, after it has sent all.
            Some((b'c' | b'C' | b'Z', _)) => Err(Error::transient("Postgres ended the stream of its log")),
            Some((tag, _)) => Err(misplaced(tag, "the log")),
        }
    }

    /// Reads what is there; whether something was. A server that has long been silent is asked, and then given up.
    fn fill(&mut self, wait: Wait, status: Status) -> Result<bool> {
        loop {
            let now = Instant::now();
            let Replication { server, wire, .. } = self;
            let read = match wait {
                // The runtime's clock counts milliseconds: a time limit that has passed would still cost one.
                Wait::No => wire.fill().now_or_never(),
                Wait::Until(until) => {
                    let until = until.min(now + self.patience / 3);
                    server.block_on(async { tokio::time::timeout_at(until.into(), wire.fill()).await.ok() })
                }
            };
            if let Some(read) = read {
                (self.silent, self.asked) = (Duration::ZERO, false);
                return read.map(|()| true);
            }
            self.silent += now.elapsed();
            if self.silent >= self.patience {
                let seconds = self.patience.as_secs();
                return Err(Error::transient(format!(
                    "Postgres has sent nothing for {seconds} s, though it was asked"
                )));
            }
            if self.silent >= self.patience / 3 && !self.asked {
                self.status(status, true)?;
            }
            match wait {
                // Only a piece of the wait is over.
                Wait::Until(until) if Instant::now() < until => {}
                Wait::Until(_) | Wait::No => return Ok(false),
            }
        }
    }

    /// Tells the server how far we are. With `reply` it answers at once with how far it is.
    pub fn status(&mut self, status: Status, reply: bool) -> Result<()> {
        self.asked |= reply;
        let Replication { server, wire, .. } = self;
        server.block_on(wire.write(|out| {
            out.put_slice(b"d\0\0\0\x26r");
            for lsn in [status.written, status.flushed, status.flushed] {
                out.put_u64(lsn.0);
            }
            out.put_i64(now_micros());
            out.put_u8(u8::from(reply));
            Ok(())
        }))
    }
}

impl Drop for Replication {
    /// Says goodbye, as far as the socket takes it at once, so that the slot is free soon and the server's log has no
    /// complaint.
    fn drop(&mut self) {
        self.wire.out.clear();
        frontend::terminate(&mut self.wire.out);
        let _ = self.wire.send().now_or_never();
    }
}

/// How long a server may say nothing, by its own `wal_sender_timeout` (milliseconds; 0: none).
fn patience(timeout: u64) -> Duration {
    match timeout {
        0 => Duration::from_secs(60),
        ms => Duration::from_millis(ms).clamp(Duration::from_secs(10), Duration::from_secs(300)),
    }
}

/// Microseconds since 2000, as the protocol has times.
fn now_micros() -> i64 {
    const EPOCH: Duration = Duration::from_secs(946_684_800);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or(EPOCH);
    i64::try_from(now.saturating_sub(EPOCH).as_micros()).unwrap_or(i64::MAX)
}

fn start_command(slot: &str, from: Lsn, publication: &str, options: &[(&str, &str)]) -> String {
    let name = |n: &str| format!("\"{}\"", n.replace('"', "\"\""));
    let literal = |n: &str| format!("'{}'", n.replace('\'', "''"));
    let mut list = format!("publication_names {}", literal(&name(publication)));
    for (option, value) in options {
        list.push_str(&format!(", {option} {}", literal(value)));
    }
    format!("START_REPLICATION SLOT {} LOGICAL {from} ({list})", name(slot))
}

/// The next message of an answer, notices and settings passed over.
async fn answer(wire: &mut Wire) -> Result<(u8, Vec<u8>)> {
    loop {
        while wire.peek(LONGEST)?.is_none() {
            wire.fill().await?;
        }
        match wire.message(LONGEST)? {
            None | Some((b'N' | b'S' | b'A', _)) => {}
            Some((b'E', body)) => return Err(reported(body).0),
            Some((tag, body)) => return Ok((tag, body.to_vec())),
        }
    }
}

/// The rows of all statements, up to ReadyForQuery.
pub(super) async fn query(wire: &mut Wire, sql: &str) -> Result<Vec<Row>> {
    wire.write(|out| frontend::query(sql, out)).await?;
    let mut rows = Vec::new();
    let mut failed = None;
    loop {
        let (tag, body) = match answer(wire).await {
            Ok(message) => message,
            // The server goes on after an error of a statement, and closes after others.
            Err(e) if failed.is_none() => {
                failed = Some(e);
                continue;
            }
            Err(e) => return Err(failed.unwrap_or(e)),
        };
        match tag {
            // DataRow.
            b'D' => rows.push(row(&body).map_err(|f| f.of("a row of the server's answer"))?),
            // RowDescription, CommandComplete, EmptyQueryResponse.
            b'T' | b'C' | b'I' => {}
            // ReadyForQuery.
            b'Z' => return failed.map_or(Ok(rows), Err),
            tag => return Err(misplaced(tag, "the answer to a command")),
        }
    }
}

fn row(body: &[u8]) -> Read<Row> {
    let mut r = Reader(body);
    let count = r.u16()?;
    let mut row = Vec::new();
    for _ in 0..count {
        let value = match r.i32()? {
            -1 => None,
            length => {
                let bytes = r.take(usize::try_from(length).map_err(|_| Short)?)?;
                Some(std::str::from_utf8(bytes).map_err(|_| Short)?.to_owned())
            }
        };
        row.push(value);
    }
    r.end()?;
    Ok(row)
}

pub(super) fn frame(body: &[u8]) -> Result<Frame<'_>> {
    let read = || -> Read<Option<Frame<'_>>> {
        let mut r = Reader(body);
        match r.u8()? {
            b'w' => {
                let _start = r.u64()?;
                let end = Lsn(r.u64()?);
                let _sent_at = r.i64()?;
                Ok(Some(Frame::Data { end, body: r.0 }))
            }
            b'k' => {
                let end = Lsn(r.u64()?);
                let _sent_at = r.i64()?;
                let reply = r.u8()? != 0;
                r.end()?;
                Ok(Some(Frame::Keepalive { end, reply }))
            }
            _ => Ok(None),
        }
    };
    read().map_err(|f| f.of("a message of the log"))?.ok_or_else(|| {
        let tag = body.first().copied().map_or(' ', char::from);
        Error::corrupt(format!("the log has a message of unknown kind {tag:?}"))
            .hint("this version does not know it: it may stem from a newer server; see its release notes")
    })
}
