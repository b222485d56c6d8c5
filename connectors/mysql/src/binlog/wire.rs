//! The client protocol's packets over a blocking connection of our own.
//!
//! ```text
//! packet = length 3 bytes, sequence 1 byte, payload; a payload of 2^24-1 bytes goes on in the next packet
//! ```
//!
//! The log is read over this and not over the driver that everything else uses: that one hides the bytes its checksum
//! covers, drops errors inside compressed transactions, panics on an event shorter than it claims and has no time limit.
//! Reading blocks because a [`crossfade_core::Stream`] lives on a thread of its own; a socket's time limits then give
//! deadlines, and a read that does not wait tells whether the server has anything more at hand.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crossfade_core::{Error, Result};
use rustls::{ClientConnection, StreamOwned};

use crate::classify;

/// The transport.
#[derive(Debug)]
pub enum Socket {
    /// Plain TCP.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
    /// TLS over TCP.
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// Evaluates an expression for the stream beneath.
macro_rules! socket {
    ($self:expr, $s:ident => $e:expr) => {
        match $self {
            Socket::Tcp($s) => $e,
            Socket::Unix($s) => $e,
            Socket::Tls(tls) => {
                let $s = tls.get_ref();
                $e
            }
        }
    };
}

impl Socket {
    /// Whether a password may be sent as it is.
    pub fn is_private(&self) -> bool {
        matches!(self, Socket::Unix(_) | Socket::Tls(_))
    }

    /// `None`: reads do not wait at all.
    fn patience(&self, patience: Option<Duration>) -> std::io::Result<()> {
        socket!(self, s => {
            s.set_nonblocking(patience.is_none())?;
            match patience {
                // A limit of zero would mean "for ever".
                Some(p) => s.set_read_timeout(Some(p.max(Duration::from_millis(1)))),
                None => Ok(()),
            }
        })
    }

    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Socket::Tcp(s) => s.read(buffer),
            Socket::Unix(s) => s.read(buffer),
            Socket::Tls(s) => s.read(buffer),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Socket::Tcp(s) => s.write_all(bytes),
            Socket::Unix(s) => s.write_all(bytes),
            Socket::Tls(s) => s.write_all(bytes).and_then(|()| s.flush()),
        }
    }
}

/// How long to wait for a packet.
#[derive(Debug, Clone, Copy)]
pub enum Wait {
    /// Take what is at hand.
    No,
    /// Until then.
    Until(Instant),
}

/// Bytes of a packet's head.
const HEAD: usize = 4;
/// The payload length that says "more follows".
const FULL: usize = 0xff_ffff;
/// The largest event the server sends (`max_allowed_packet` of a replication connection), and room for its status byte.
const MAX_PAYLOAD: usize = (1 << 30) + 1024;
/// What one read asks for.
const CHUNK: usize = 256 << 10;

/// Packets of one connection.
#[derive(Debug)]
pub struct Wire {
    /// `None` once an error left it in an unknown state.
    socket: Option<Socket>,
    buffer: Vec<u8>,
    /// Unread bytes are `buffer[start..end]`.
    start: usize,
    end: usize,
    /// Parts of a payload longer than one packet.
    long: Vec<u8>,
    /// Whether `long` awaits its next part.
    goes_on: bool,
    sequence: u8,
}

impl Wire {
    /// Packets over a connected socket.
    pub fn new(socket: Socket) -> Self {
        Wire {
            socket: Some(socket),
            buffer: vec![0; CHUNK],
            start: 0,
            end: 0,
            long: Vec::new(),
            goes_on: false,
            sequence: 0,
        }
    }

    /// The same conversation over another transport: TLS begins in the middle of the handshake.
    pub fn upgrade(&mut self, with: impl FnOnce(Socket) -> Result<Socket>) -> Result<()> {
        let socket = self.socket.take().ok_or_else(lost)?;
        self.socket = Some(with(socket)?);
        Ok(())
    }

    /// Whether a password may be sent as it is.
    pub fn is_private(&self) -> bool {
        self.socket.as_ref().is_some_and(Socket::is_private)
    }

    /// The next payload, or `None` if it has not come in time; nothing is lost then.
    pub fn packet(&mut self, wait: Wait) -> Result<Option<&[u8]>> {
        if !self.goes_on {
            self.long.clear();
        }
        loop {
            let Some(length) = self.whole_packet(wait)? else { return Ok(None) };
            let sequence = self.buffer[self.start + 3];
            if sequence != self.sequence {
                self.socket = None;
                return Err(Error::transient(format!("packet {sequence} came where {} was due", self.sequence)));
            }
            self.sequence = sequence.wrapping_add(1);
            let payload = self.start + HEAD..self.start + HEAD + length;
            self.start = payload.end;
            if length < FULL && !self.goes_on {
                return Ok(Some(&self.buffer[payload]));
            }
            if self.long.len() + length > MAX_PAYLOAD {
                return Err(Error::unavailable("a packet is larger than 1 GiB"));
            }
            self.long.extend_from_slice(&self.buffer[payload]);
            self.goes_on = length == FULL;
            if !self.goes_on {
                return Ok(Some(&self.long));
            }
        }
    }

    /// Waits until a whole packet is in the buffer; its payload's length.
    fn whole_packet(&mut self, wait: Wait) -> Result<Option<usize>> {
        loop {
            let unread = &self.buffer[self.start..self.end];
            let mut need = HEAD;
            if let [a, b, c, _, ..] = *unread {
                let length = u32::from_le_bytes([a, b, c, 0]) as usize;
                need += length;
                if unread.len() >= need {
                    return Ok(Some(length));
                }
            }
            self.make_room(need);
            if !self.fill(wait)? {
                return Ok(None);
            }
        }
    }

    /// Moves unread bytes to the front, and grows the buffer towards `need` bytes: by what has come, since four bytes can
    /// announce sixteen million.
    fn make_room(&mut self, need: usize) {
        if self.start > 0 && self.start + need.max(CHUNK / 4) > self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if need > self.buffer.len() && self.end == self.buffer.len() {
            self.buffer.resize(need.min(2 * self.buffer.len()), 0);
        }
    }

    /// Reads once; `false` if nothing came in time.
    fn fill(&mut self, wait: Wait) -> Result<bool> {
        let socket = self.socket.as_mut().ok_or_else(lost)?;
        let patience = match wait {
            Wait::No => None,
            Wait::Until(deadline) => Some(deadline.saturating_duration_since(Instant::now())),
        };
        let read = socket.patience(patience).and_then(|()| socket.read(&mut self.buffer[self.end..]));
        match read {
            Ok(0) => {
                self.socket = None;
                Err(Error::transient("the server closed the connection"))
            }
            Ok(n) => {
                self.end += n;
                Ok(true)
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(false),
            Err(e) if e.kind() == ErrorKind::Interrupted => Ok(true),
            Err(e) => {
                self.socket = None;
                Err(lost().caused_by(e))
            }
        }
    }

    /// Sends a payload as the next packet of this exchange. Only commands and logins are sent: they are short.
    pub fn send(&mut self, payload: &[u8]) -> Result<()> {
        if payload.len() >= FULL {
            return Err(Error::config(format!("a command of {} bytes is too long", payload.len())));
        }
        let mut packet = (payload.len() as u32).to_le_bytes();
        packet[3] = self.sequence;
        self.sequence = self.sequence.wrapping_add(1);
        let socket = self.socket.as_mut().ok_or_else(lost)?;
        let sent = socket.patience(Some(Duration::from_secs(30)));
        sent.and_then(|()| socket.write_all(&[&packet[..], payload].concat())).map_err(|e| lost().caused_by(e))
    }

    /// Starts a new exchange with a command.
    pub fn command(&mut self, command: u8, body: &[u8]) -> Result<()> {
        self.sequence = 0;
        self.send(&[&[command], body].concat())
    }

    /// The next payload within the time that an answer may take; the server's error packet is an error.
    pub fn answer(&mut self, limit: Duration) -> Result<&[u8]> {
        match self.packet(Wait::Until(Instant::now() + limit))? {
            Some([0xff, error @ ..]) => Err(error_packet(error)),
            Some(payload) => Ok(payload),
            None => Err(Error::transient(format!("the server did not answer within {} s", limit.as_secs()))),
        }
    }

    /// Runs a statement that returns no rows.
    pub fn run(&mut self, statement: &str) -> Result<()> {
        self.command(COM_QUERY, statement.as_bytes())?;
        match self.answer(Duration::from_secs(60)).map_err(|e| e.context(statement))? {
            [0, ..] => Ok(()),
            _ => Err(Error::corrupt(format!("{statement}: the server answered with rows"))),
        }
    }
}

const COM_QUERY: u8 = 3;

fn lost() -> Error {
    Error::transient("the connection to the server's log was lost")
}

/// Code and message of an error packet, behind its first byte.
pub fn error_parts(body: &[u8]) -> (u16, String, String) {
    let code = body.first_chunk().map_or(0, |c| u16::from_le_bytes(*c));
    let text = body.get(2..).unwrap_or_default();
    let (state, message) = match text {
        [b'#', rest @ ..] if rest.len() >= 5 => rest.split_at(5),
        _ => (&b"HY000"[..], text),
    };
    (code, String::from_utf8_lossy(state).into_owned(), String::from_utf8_lossy(message).into_owned())
}

fn error_packet(body: &[u8]) -> Error {
    let (code, state, message) = error_parts(body);
    classify::server(code, &state, &message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Wire, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Wire::new(Socket::Unix(ours)), theirs)
    }

    fn packet(sequence: u8, payload: &[u8]) -> Vec<u8> {
        let mut head = (payload.len() as u32).to_le_bytes();
        head[3] = sequence;
        [&head[..], payload].concat()
    }

    #[test]
    fn a_packet_in_pieces_loses_nothing() {
        let (mut wire, mut server) = pair();
        let bytes = packet(0, b"hello");
        for half in [&bytes[..3], &bytes[3..7]] {
            server.write_all(half).unwrap();
            assert!(wire.packet(Wait::No).unwrap().is_none());
            assert!(wire.packet(Wait::Until(Instant::now() + Duration::from_millis(5))).unwrap().is_none());
        }
        server.write_all(&bytes[7..]).unwrap();
        assert_eq!(wire.packet(Wait::No).unwrap().unwrap(), b"hello");
        assert!(wire.packet(Wait::No).unwrap().is_none());
    }

    #[test]
    fn a_long_payload_is_joined() {
        let (mut wire, mut server) = pair();
        let payload: Vec<u8> = (0..FULL + 5).map(|i| i as u8).collect();
        let bytes = [packet(0, &payload[..FULL]), packet(1, &payload[FULL..]), packet(2, b"x")].concat();
        let writer = std::thread::spawn(move || server.write_all(&bytes).map(|()| server));
        let limit = Wait::Until(Instant::now() + Duration::from_secs(10));
        assert!(wire.packet(limit).unwrap().unwrap() == payload);
        assert_eq!(wire.packet(limit).unwrap().unwrap(), b"x");
        let _open = writer.join().unwrap().unwrap();
    }

    #[test]
    fn what_is_only_announced_takes_no_room() {
        let (mut wire, mut server) = pair();
        server.write_all(&[0xfe, 0xff, 0xff, 0]).unwrap();
        assert!(wire.packet(Wait::Until(Instant::now() + Duration::from_millis(5))).unwrap().is_none());
        assert_eq!(wire.buffer.len(), CHUNK);
    }

    #[test]
    fn order_and_end_are_watched() {
        let (mut wire, mut server) = pair();
        server.write_all(&packet(7, b"x")).unwrap();
        assert!(wire.packet(Wait::No).unwrap_err().is_transient());
        let (mut wire, server) = pair();
        drop(server);
        assert!(wire.packet(Wait::No).unwrap_err().is_transient());
    }
}
