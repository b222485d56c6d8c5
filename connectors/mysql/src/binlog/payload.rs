//! TRANSACTION_PAYLOAD: a whole transaction compressed into one event (`binlog_transaction_compression`).
//!
//! Format after MySQL's `libs/mysql/binlog/event/codecs/binary.cpp`: fields `type, length, value` (length-encoded) up to a
//! zero type, then the payload. It is decompressed event by event, so memory does not depend on the transaction's size; a
//! decompression error is an error, and the stream demands the commit inside.

use std::io::{BufReader, Cursor, Read as _};

use zstd::stream::read::Decoder;

use super::event::HEADER;
use super::reader::{Fault, Read, Reader};

/// Events inside a payload, one after the other.
pub struct Payload {
    events: Box<dyn std::io::Read + Send>,
    /// What it should hold.
    size: u64,
    read: u64,
}

/// No event is larger than a packet.
const MAX_EVENT: usize = 1 << 30;

impl Payload {
    /// Reads the fields; `body` is the event without header and checksum.
    pub fn open(body: &[u8]) -> Read<Payload> {
        let mut r = Reader(body);
        let (mut compression, mut length, mut size) = (None, None, None);
        loop {
            let kind = r.lenenc()?;
            if kind == 0 {
                break;
            }
            let mut value = Reader(r.lenenc_bytes()?);
            match kind {
                1 => length = Some(value.length()?),
                2 => compression = Some(value.lenenc()?),
                3 => size = Some(value.lenenc()?),
                _ => {}
            }
        }
        let packed = r.take(length.ok_or(Fault::Malformed("TRANSACTION_PAYLOAD without a size"))?)?.to_vec();
        let plain_size = packed.len() as u64;
        let events: Box<dyn std::io::Read + Send> = match compression {
            Some(0) => Box::new(
                Decoder::with_buffer(BufReader::new(Cursor::new(packed)))
                    .map_err(|_| Fault::Malformed("TRANSACTION_PAYLOAD: zstd cannot start"))?,
            ),
            Some(255) => Box::new(Cursor::new(packed)),
            _ => return Err(Fault::Malformed("TRANSACTION_PAYLOAD compressed by an unknown algorithm")),
        };
        let size = match compression {
            Some(0) => size.ok_or(Fault::Malformed("TRANSACTION_PAYLOAD without its uncompressed size"))?,
            _ => plain_size,
        };
        Ok(Payload { events: Box::new(BufReader::with_capacity(64 << 10, events)), size, read: 0 })
    }

    /// The next event into `event`; `false` after the last.
    pub fn next(&mut self, event: &mut Vec<u8>) -> Read<bool> {
        event.clear();
        let mut header = [0; HEADER];
        if self.read == self.size {
            return match self.events.read(&mut header[..1]) {
                Ok(0) => Ok(false),
                _ => Err(Fault::Malformed("TRANSACTION_PAYLOAD holds more than it says")),
            };
        }
        self.events.read_exact(&mut header).map_err(|_| damaged())?;
        let size = u32::from_le_bytes([header[9], header[10], header[11], header[12]]) as usize;
        let rest = size.checked_sub(HEADER).filter(|_| size <= MAX_EVENT).ok_or_else(damaged)?;
        self.read = self.read.saturating_add(size as u64);
        // Before it is unpacked: a few bytes can unpack to a gigabyte.
        if self.read > self.size {
            return Err(Fault::Malformed("TRANSACTION_PAYLOAD holds more than it says"));
        }
        event.extend_from_slice(&header);
        let read = (&mut self.events).take(rest as u64).read_to_end(event).map_err(|_| damaged())?;
        if read != rest {
            return Err(damaged());
        }
        Ok(true)
    }
}

fn damaged() -> Fault {
    Fault::Malformed("TRANSACTION_PAYLOAD is damaged: its events do not decompress")
}

impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Payload").field("size", &self.size).field("read", &self.read).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(body: &[u8]) -> Vec<u8> {
        let mut e = vec![0; HEADER];
        e[9..13].copy_from_slice(&((HEADER + body.len()) as u32).to_le_bytes());
        e.extend(body);
        e
    }

    fn payload(events: &[u8], said: u64) -> Vec<u8> {
        let packed = zstd::encode_all(events, 3).unwrap();
        let mut body = vec![2, 1, 0, 3, 9, 254];
        body.extend(said.to_le_bytes());
        body.extend([1, 9, 254]);
        body.extend((packed.len() as u64).to_le_bytes());
        body.push(0);
        body.extend(packed);
        body
    }

    #[test]
    fn an_event_beyond_what_was_announced_is_not_unpacked() {
        // 64 MiB of zeros pack to a few KiB; that they are not unpacked shows by the buffer.
        let mut large = vec![0; HEADER];
        large[9..13].copy_from_slice(&(64u32 << 20).to_le_bytes());
        large.resize(64 << 20, 0);
        let mut event = Vec::new();
        assert!(Payload::open(&payload(&large, 1000)).unwrap().next(&mut event).is_err());
        assert!(event.capacity() < 1 << 20, "{}", event.capacity());
    }

    #[test]
    fn events_come_out_one_by_one_and_damage_shows() {
        let events = [event(b"one"), event(b""), event(&[7; 300_000])].concat();
        let mut p = Payload::open(&payload(&events, events.len() as u64)).unwrap();
        let mut e = Vec::new();
        let mut all = Vec::new();
        while p.next(&mut e).unwrap() {
            all.extend_from_slice(&e);
        }
        assert!(all == events);
        for wrong in [payload(&events, events.len() as u64 - 1), payload(&events, events.len() as u64 + 1)] {
            let mut p = Payload::open(&wrong).unwrap();
            let mut outcome = Ok(true);
            while let Ok(true) = outcome {
                outcome = p.next(&mut e);
            }
            assert!(outcome.is_err());
        }
        let mut cut = payload(&events, events.len() as u64);
        let n = cut.len();
        cut[n - 8] ^= 0xff;
        let mut p = Payload::open(&cut).unwrap();
        let mut outcome = Ok(true);
        while let Ok(true) = outcome {
            outcome = p.next(&mut e);
        }
        assert!(outcome.is_err(), "damage is an error, not an empty transaction");
    }
}
