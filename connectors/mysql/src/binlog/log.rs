//! Events one after the other: off the wire or out of a compressed transaction, verified, with their place in the files.

use std::fmt;
use std::time::Instant;

use crossfade_core::{Class, Error, Exit, Result, TableName};

use super::dump::HEARTBEAT;
use super::event::{self, Checksums, HEADER, Header, Kind};
use super::payload::Payload;
use super::reader::{Fault, Read, Reader};
use super::wire::{Wait, Wire, error_parts};
use crate::classify;
use crate::position::FilePosition;

/// So many heartbeats may be missing before the connection counts as dead.
const MISSED: u32 = 3;

/// Where an event stands, for errors.
#[derive(Debug, Clone)]
pub struct Place {
    at: FilePosition,
    inside: bool,
    /// Whether a checksum has shown that its bytes are those that the server wrote.
    verified: bool,
}

impl Place {
    /// An event that its server wrote so, and in which one table's columns or rows cannot be read, is that table's trouble: whatever is
    /// new in it, no other table's event has it. Bytes that nothing vouches for may be damaged anywhere.
    pub fn blame(&self, error: Error, table: &TableName) -> Error {
        let strange = matches!(error.class(), Class::Fatal(Exit::Data)) && self.verified;
        let hint =
            "this version cannot read what the server wrote: see the release notes of both; or exclude the table";
        if strange { error.concerning(table).hint(hint) } else { error }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inside = if self.inside { " (inside a compressed transaction)" } else { "" };
        write!(f, "{}{inside}", self.at)
    }
}

/// The log as a sequence of events.
#[derive(Debug)]
pub struct Log {
    wire: Wire,
    checksums: Checksums,
    payload: Option<Payload>,
    event: Vec<u8>,
    /// Behind the last event.
    at: FilePosition,
    /// Where the last event begins.
    began: FilePosition,
    heard: Instant,
    /// When an event was last asked for: silence counts only while somebody listens.
    asked: Instant,
}

/// An event that has been read; its bytes are the log's [`Log::take`].
#[derive(Debug, Clone, Copy)]
pub struct Event {
    /// Its header.
    pub header: Header,
    /// Where its body ends: a checksum is not part of it.
    pub end: usize,
}

impl Log {
    /// Events that arrive on `wire`.
    pub fn new(wire: Wire, at: FilePosition) -> Self {
        Log {
            wire,
            checksums: Checksums::Unknown,
            payload: None,
            event: Vec::new(),
            began: at.clone(),
            at,
            heard: Instant::now(),
            asked: Instant::now(),
        }
    }

    /// Behind the last event.
    pub fn at(&self) -> &FilePosition {
        &self.at
    }

    /// Where the last event stands.
    pub fn place(&self) -> Place {
        let verified = self.checksums == Checksums::Crc32;
        Place { at: self.began.clone(), inside: self.payload.is_some(), verified }
    }

    /// Whether the last event came out of a compressed transaction.
    pub fn is_inside(&self) -> bool {
        self.payload.is_some()
    }

    /// The bytes of the last event, header included; hand them back with [`Log::put`].
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.event)
    }

    /// Hands the buffer back for the next event.
    pub fn put(&mut self, event: Vec<u8>) {
        self.event = event;
    }

    /// The following events come out of this one.
    pub fn enter(&mut self, body: &[u8]) -> Result<()> {
        if self.payload.is_some() {
            return Err(Error::corrupt(format!("{}: a compressed transaction within another", self.place())));
        }
        self.payload = Some(Payload::open(body).map_err(|f| f.at(self.place()))?);
        Ok(())
    }

    /// The next event, or `None` if none came in time; an error when the server has been silent for too long.
    pub fn next(&mut self, wait: Wait) -> Result<Option<Event>> {
        if let Some(payload) = &mut self.payload {
            let more = payload.next(&mut self.event);
            if more.map_err(|f| f.at(self.place()))? {
                let (header, _) = event::split(&self.event).map_err(|f| f.at(self.place()))?;
                return Ok(Some(Event { header, end: self.event.len() }));
            }
            self.payload = None;
        }
        if self.asked.elapsed() > HEARTBEAT {
            self.heard = Instant::now();
        }
        self.asked = Instant::now();
        let silence = self.heard + HEARTBEAT * MISSED;
        let wait = match wait {
            Wait::No => Wait::No,
            Wait::Until(deadline) => Wait::Until(deadline.min(silence)),
        };
        match self.wire.packet(wait)? {
            Some([0, event @ ..]) => {
                self.event.clear();
                self.event.extend_from_slice(event);
            }
            Some([0xff, error @ ..]) => return Err(refusal(error)),
            Some([0xfe, ..]) => return Err(Error::transient("the server ended the log")),
            Some(_) => return Err(Error::corrupt(format!("behind {}: a packet of unknown kind", self.at))),
            None if Instant::now() >= silence => {
                let seconds = (HEARTBEAT * MISSED).as_secs();
                return Err(Error::transient(format!(
                    "the server has been silent for {seconds} s, heartbeats included"
                )));
            }
            None => return Ok(None),
        }
        self.heard = Instant::now();
        self.read().map(Some)
    }

    /// Verifies the event in the buffer and moves the place behind it.
    fn read(&mut self) -> Result<Event> {
        self.began = self.at.clone();
        let place = Place { at: self.at.clone(), inside: false, verified: false };
        let (header, _) = event::split(&self.event).map_err(|f| f.at(&place))?;
        let body = event::verify(&self.event, &header, &mut self.checksums, &place)?;
        let end = HEADER + body.len();
        match Kind::of(header.kind) {
            Kind::Rotate => self.at = rotate(body).map_err(|f| f.at(&place))?,
            // It stands in no file; its end position is the server's, which may be far ahead of the last event sent.
            Kind::Heartbeat => {}
            _ if header.is_artificial() => {}
            _ => self.at.offset = extend(self.at.offset, header.end),
        }
        Ok(Event { header, end })
    }
}

/// The new file, and where in it.
fn rotate(body: &[u8]) -> Read<FilePosition> {
    let mut r = Reader(body);
    let offset = r.u64()?;
    let n = r.len();
    let file = r.name(n)?;
    if file.is_empty() {
        return Err(Fault::Malformed("ROTATE to a file without a name"));
    }
    Ok(FilePosition { file, offset })
}

/// A file grows beyond 4 GiB within one transaction, but headers have 32 bits.
fn extend(before: u64, end: u32) -> u64 {
    let candidate = before & !0xffff_ffff | u64::from(end);
    if candidate < before { candidate + (1 << 32) } else { candidate }
}

/// Why the server does not send its log. 1236 stands for several reasons, told apart by their text only
/// (`Binlog_sender::set_fatal_error` in `sql/rpl_binlog_sender.cc`, `mysql_binlog_send` in MariaDB's `sql/sql_repl.cc`).
fn refusal(body: &[u8]) -> Error {
    let (code, state, message) = error_parts(body);
    if code != 1236 {
        return classify::server(code, &state, &message);
    }
    let lower = message.to_ascii_lowercase();
    let has = |text: &str| lower.contains(text);
    let text = format!("the server does not send its log: {message}");
    if has("same server_uuid") || has("same server_id") || has("same server-id") {
        return Error::transient(text);
    }
    if has("purged") || has("could not find first log file") || has("could not find gtid state") || has("too old") {
        return Error::unavailable(text).hint(
            "the binlog no longer reaches back to this position: copy anew, and raise binlog_expire_logs_seconds",
        );
    }
    if has("not in the master's binlog")
        || has("diverged")
        || has("more gtids")
        || has("greater than file size")
        || has("impossible position")
    {
        return Error::unavailable(text)
            .hint("the server does not know this position: it is another server, a replica that was promoted without the last \
                   transactions, or it lost transactions. Name the server that has them; where they are lost, begin anew under \
                   another --name, with the target's tables dropped");
    }
    if has("checksum") || has("corrupt") || has("truncated") || has("bogus data") {
        return Error::corrupt(text).hint(
            "a file of the binlog is damaged on the server: copy all tables anew, behind it: `crossfade snapshot '*'`",
        );
    }
    Error::unavailable(text).hint("see the server's error log")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_beyond_32_bits() {
        assert_eq!(extend(4, 126), 126);
        assert_eq!(extend(0xffff_fff0, 0x10), 0x1_0000_0010);
        assert_eq!(extend(0x1_0000_0010, 0x20), 0x1_0000_0020);
    }

    #[test]
    fn only_what_the_server_wrote_is_a_tables_trouble() {
        let table = TableName::new("shop", "orders");
        let at = FilePosition { file: "binlog.000001".into(), offset: 4 };
        let read = |verified| {
            let place = Place { at: at.clone(), inside: false, verified };
            place.blame(Fault::Malformed("a column of unknown type").at(&place), &table)
        };
        assert_eq!(read(false).class(), &Class::Fatal(Exit::Data), "no checksum: everything may be damaged");
        let told = read(true);
        assert!(matches!(told.class(), Class::Data(place) if place.table == "shop.orders"), "{told:?}");
        assert!(told.to_string().contains("a column of unknown type") && told.hint_text().is_some(), "{told:?}");
        let place = Place { at, inside: false, verified: true };
        assert!(place.blame(Error::transient("lost"), &table).is_transient());
    }

    #[test]
    fn refusals_by_reason() {
        let packet = |text: &str| [&1236u16.to_le_bytes()[..], b"#HY000", text.as_bytes()].concat();
        let purged = refusal(&packet("Cannot replicate because the source purged required binary logs."));
        assert!(purged.hint_text().unwrap().contains("binlog_expire_logs_seconds"), "{purged:?}");
        assert!(
            refusal(&packet("A replica with the same server_uuid/server_id as this replica has connected"))
                .is_transient()
        );
        assert!(!refusal(&packet("anything else")).is_transient());
    }
}
