//! Events: header, checksum, type.
//!
//! ```text
//! event = timestamp 4, type 1, server id 4, size 4, end position 4, flags 2, body, [CRC32 4]
//! ```
//!
//! Types after MySQL's `libs/mysql/binlog/event/binlog_event.h` and MariaDB's `sql/log_event.h`. A type that stands in
//! neither list stops the stream unless the server itself marked it as one that may be ignored: what an unknown event
//! changed, nobody knows.

use std::fmt;

use crossfade_core::{Error, Result};

use super::reader::{Fault, Read, Reader};
use super::rows::{Change, Layout};

/// Bytes of a header.
pub const HEADER: usize = 19;
/// Bytes of a checksum.
const CRC: usize = 4;

/// LOG_EVENT_BINLOG_IN_USE_F: set in a file's first event while the file is open; not covered by the checksum.
const IN_USE: u16 = 1;
/// LOG_EVENT_ARTIFICIAL_F: made up by the sender, stands in no file.
const ARTIFICIAL: u16 = 0x20;
/// LOG_EVENT_IGNORABLE_F.
const IGNORABLE: u16 = 0x80;

/// An event's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Seconds since 1970.
    pub timestamp: u32,
    /// The type's number.
    pub kind: u8,
    /// The server that executed it first.
    pub server: u32,
    /// Bytes, this header included.
    pub size: u32,
    /// Where the next event begins, modulo 2^32; 0 for events that stand in no file.
    pub end: u32,
    flags: u16,
}

impl Header {
    /// Whether the sender made it up.
    pub fn is_artificial(&self) -> bool {
        self.flags & ARTIFICIAL != 0 || self.end == 0
    }

    /// Whether the server says that it may be ignored.
    pub fn is_ignorable(&self) -> bool {
        self.flags & IGNORABLE != 0
    }
}

/// Header and body of one event; its size must be that of the bytes.
pub fn split(event: &[u8]) -> Read<(Header, &[u8])> {
    let mut r = Reader(event);
    let timestamp = r.u32()?;
    let kind = r.u8()?;
    let server = r.u32()?;
    let (size, end, flags) = (r.u32()?, r.u32()?, r.u16()?);
    if size as usize != event.len() {
        return Err(Fault::Malformed("an event of another size than it says"));
    }
    Ok((Header { timestamp, kind, server, size, end, flags }, r.0))
}

/// Whether events end in a checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksums {
    /// Not known: before the first FORMAT_DESCRIPTION.
    Unknown,
    /// They do not.
    Off,
    /// CRC-32 of everything before it.
    Crc32,
}

/// The body without its checksum, which is verified; an error says what was expected and found.
pub fn verify<'a>(
    event: &'a [u8],
    header: &Header,
    checksums: &mut Checksums,
    place: &dyn fmt::Display,
) -> Result<&'a [u8]> {
    let body = &event[HEADER..];
    let kind = Kind::of(header.kind);
    if kind == Kind::FormatDescription {
        // Algorithm 1 byte and CRC stand at its end whatever the algorithm is.
        let Some((rest, [algorithm, crc @ ..])) = body.split_last_chunk::<{ CRC + 1 }>() else {
            return Err(Error::corrupt(format!("{place}: FORMAT_DESCRIPTION ends too early")));
        };
        *checksums = match algorithm {
            0 => Checksums::Off,
            1 => Checksums::Crc32,
            other => return Err(Error::corrupt(format!("{place}: checksum algorithm {other} is not known"))),
        };
        if *checksums == Checksums::Crc32 {
            compare(event, u32::from_le_bytes(*crc), header, place)?;
        }
        return Ok(rest);
    }
    let tail = body.split_last_chunk::<CRC>();
    match (*checksums, tail) {
        (Checksums::Off, _) => Ok(body),
        (Checksums::Crc32, Some((rest, crc))) if kind != Kind::Rotate || !header.is_artificial() => {
            compare(event, u32::from_le_bytes(*crc), header, place)?;
            Ok(rest)
        }
        // A made-up ROTATE comes before it is known how the file that it announces is checked.
        (_, Some((rest, crc))) if u32::from_le_bytes(*crc) == crc32(&event[..event.len() - CRC], header) => Ok(rest),
        (Checksums::Unknown, _) => Ok(body),
        (Checksums::Crc32, Some(_)) => Ok(body),
        (Checksums::Crc32, None) => Err(Error::corrupt(format!("{place}: an event without room for its checksum"))),
    }
}

fn compare(event: &[u8], expected: u32, header: &Header, place: &dyn fmt::Display) -> Result<()> {
    let found = crc32(&event[..event.len() - CRC], header);
    if found == expected {
        return Ok(());
    }
    let name = Kind::of(header.kind).name(header.kind);
    Err(Error::corrupt(format!(
        "{place}: event {name} is damaged: its checksum is {expected:#010x}, of its bytes {found:#010x}"
    ))
    .hint(
        "compare with mysqlbinlog --verify-binlog-checksum on the server; if the file is damaged, copy all tables anew: `crossfade snapshot '*'`",
    ))
}

fn crc32(covered: &[u8], header: &Header) -> u32 {
    let mut crc = flate2::Crc::new();
    if header.flags & IN_USE != 0 && covered.len() >= HEADER {
        crc.update(&covered[..HEADER - 2]);
        crc.update(&(header.flags & !IN_USE).to_le_bytes());
        crc.update(&covered[HEADER..]);
    } else {
        crc.update(covered);
    }
    crc.sum()
}

/// What an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // named as the servers name them
pub enum Kind {
    Query {
        compressed: bool,
    },
    Stop,
    Rotate,
    FormatDescription,
    Xid,
    TableMap,
    Rows(Layout),
    Incident,
    Heartbeat,
    Gtid,
    AnonymousGtid,
    TaggedGtid,
    MariaGtid,
    TransactionPayload,
    PartialUpdateRows,
    XaPrepare,
    StartEncryption,
    /// Says nothing about data.
    Nothing,
    /// A statement's variables, or a file to load: only statement-based logs have them.
    StatementPart,
    Unknown,
}

impl Kind {
    /// By its number.
    pub fn of(kind: u8) -> Kind {
        use Change::*;
        let rows = |change, extra, compressed| Kind::Rows(Layout { change, extra, compressed });
        match kind {
            2 => Kind::Query { compressed: false },
            165 => Kind::Query { compressed: true },
            3 => Kind::Stop,
            4 => Kind::Rotate,
            15 => Kind::FormatDescription,
            16 => Kind::Xid,
            19 => Kind::TableMap,
            23 => rows(Write, false, false),
            24 => rows(Update, false, false),
            25 => rows(Delete, false, false),
            30 => rows(Write, true, false),
            31 => rows(Update, true, false),
            32 => rows(Delete, true, false),
            166 => rows(Write, false, true),
            167 => rows(Update, false, true),
            168 => rows(Delete, false, true),
            169 => rows(Write, true, true),
            170 => rows(Update, true, true),
            171 => rows(Delete, true, true),
            26 => Kind::Incident,
            27 | 41 => Kind::Heartbeat,
            33 => Kind::Gtid,
            34 => Kind::AnonymousGtid,
            38 => Kind::XaPrepare,
            39 => Kind::PartialUpdateRows,
            40 => Kind::TransactionPayload,
            42 => Kind::TaggedGtid,
            162 => Kind::MariaGtid,
            164 => Kind::StartEncryption,
            // IGNORABLE, ROWS_QUERY, PREVIOUS_GTIDS, TRANSACTION_CONTEXT, VIEW_CHANGE; ANNOTATE_ROWS, BINLOG_CHECKPOINT,
            // GTID_LIST.
            28 | 29 | 35 | 36 | 37 | 160 | 161 | 163 => Kind::Nothing,
            // INTVAR, RAND, USER_VAR; BEGIN_LOAD_QUERY, APPEND_BLOCK, DELETE_FILE.
            5 | 13 | 14 | 17 | 9 | 11 => Kind::StatementPart,
            // EXECUTE_LOAD_QUERY is a statement whose text stands behind more numbers.
            _ => Kind::Unknown,
        }
    }

    /// For people.
    pub fn name(self, kind: u8) -> String {
        match self {
            Kind::Rows(l) => format!(
                "{}{}_ROWS{}",
                if l.compressed { "compressed " } else { "" },
                match l.change {
                    Change::Write => "WRITE",
                    Change::Update => "UPDATE",
                    Change::Delete => "DELETE",
                },
                if l.extra { "" } else { "_V1" }
            ),
            Kind::Nothing | Kind::StatementPart | Kind::Unknown => format!("of type {kind}"),
            other => format!("{other:?} (type {kind})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(kind: u8, flags: u16, body: &[u8], crc: bool) -> Vec<u8> {
        let size = HEADER + body.len() + if crc { CRC } else { 0 };
        let mut e = vec![0, 0, 0, 0, kind, 1, 0, 0, 0];
        e.extend((size as u32).to_le_bytes());
        e.extend(100u32.to_le_bytes());
        e.extend(flags.to_le_bytes());
        e.extend(body);
        if crc {
            let mut sum = flate2::Crc::new();
            sum.update(&e);
            e.extend(sum.sum().to_le_bytes());
        }
        e
    }

    #[test]
    fn a_flipped_bit_is_found() {
        let good = event(16, 0, &[1, 2, 3, 4, 5, 6, 7, 8], true);
        let (header, _) = split(&good).unwrap();
        assert_eq!(verify(&good, &header, &mut Checksums::Crc32, &"f:4").unwrap(), [1, 2, 3, 4, 5, 6, 7, 8]);
        for at in [0, 20, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 4;
            let e = verify(&bad, &header, &mut Checksums::Crc32, &"binlog.000001:4").unwrap_err().to_string();
            assert!(e.starts_with("binlog.000001:4") && e.contains("Xid") && e.contains("0x"), "{e}");
        }
    }

    #[test]
    fn the_first_rotate_may_or_may_not_be_checked() {
        for crc in [true, false] {
            let rotate = event(4, ARTIFICIAL, b"\x04\0\0\0\0\0\0\0binlog.000001", crc);
            let (header, _) = split(&rotate).unwrap();
            let body = verify(&rotate, &header, &mut Checksums::Unknown, &"").unwrap();
            assert!(body.ends_with(b"binlog.000001"));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_event_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..60), known: bool) {
            let mut bytes = bytes;
            if known && bytes.len() >= HEADER {
                let n = (bytes.len() as u32).to_le_bytes();
                bytes[9..13].copy_from_slice(&n);
            }
            if let Ok((header, _)) = split(&bytes) {
                let _ = verify(&bytes, &header, &mut Checksums::Crc32, &"");
                let _ = verify(&bytes, &header, &mut Checksums::Unknown, &"");
            }
        }
    }
}
