//! Messages of the output plugin pgoutput, protocol versions 1 and 2 ("Logical Replication Message Formats" of the server's
//! documentation; `src/backend/replication/logical/proto.c`).
//!
//! Values come as text. Binary was measured and raised throughput by 7 % at most, while arrays, ranges, network addresses and
//! all other types that only Postgres has must travel as the server prints them in any case; and types whose binary form
//! differs between versions do not differ as text.
//!
//! Version 2 adds transactions that are sent while they are open, in segments: StreamStart, changes, StreamStop. Inside of a
//! segment each change carries the number of its (sub)transaction behind its tag; [`streamed`] takes that out again, so that
//! what is left is the message as version 1 has it. Version 3 (two-phase commit) is not asked for: a prepared transaction comes
//! at COMMIT PREPARED, like any other. Nor is 4, whose only addition serves appliers that work in parallel.
//!
//! Nothing is copied: rows are borrowed from the message, with the places of their values in buffers that are used again. A
//! message that is not known here is an error, not passed over.

use crossfade_core::{Error, Result};

use super::position::Lsn;
use super::wire_read::{Read, Reader, Short};

/// Microseconds from 1970 to 2000, from where Postgres counts.
const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// A value of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// NULL; of an old row's key, also every column outside of it.
    Null,
    /// A large value that was stored apart (TOAST) and did not change: it is not in the log.
    Unchanged,
    /// As the type's output function prints it.
    Text(&'a [u8]),
}

/// Where a value lies in its message.
#[derive(Debug, Clone, Copy)]
enum Place {
    Null,
    Unchanged,
    Text { from: u32, to: u32 },
}

/// Places of the values of a message's rows.
#[derive(Debug, Default)]
pub struct Scratch {
    old: Vec<Place>,
    new: Vec<Place>,
}

/// A row.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    body: &'a [u8],
    places: &'a [Place],
}

impl<'a> Row<'a> {
    /// How many columns it has.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The value of a column; NULL beyond the last one.
    pub fn value(&self, column: usize) -> Value<'a> {
        match self.places.get(column) {
            None | Some(Place::Null) => Value::Null,
            Some(Place::Unchanged) => Value::Unchanged,
            Some(Place::Text { from, to }) => {
                Value::Text(self.body.get(*from as usize..*to as usize).unwrap_or_default())
            }
        }
    }
}

/// What the log holds of a row as it was.
#[derive(Debug, Clone, Copy)]
pub enum Old<'a> {
    /// Columns of the replica identity; the others are NULL.
    Key(Row<'a>),
    /// All columns: REPLICA IDENTITY FULL.
    Full(Row<'a>),
}

/// A column of a relation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelationColumn {
    /// Its name.
    pub name: String,
    /// The type's OID.
    pub type_oid: u32,
    /// The type's modifier; -1 for none.
    pub modifier: i32,
    /// Whether it is of the replica identity.
    pub key: bool,
}

/// What rows of a relation look like from here on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// `pg_class.oid`.
    pub id: u32,
    /// The schema's name.
    pub schema: String,
    /// The table's name.
    pub name: String,
    /// `pg_class.relreplident`: d, n, f or i.
    pub identity: u8,
    /// Columns that are published, in order.
    pub columns: Vec<RelationColumn>,
}

/// A message.
#[derive(Debug)]
pub enum Event<'a> {
    /// A transaction begins: all that it did follows.
    Begin {
        /// Where its commit lies.
        commit: Lsn,
        /// When it committed, in microseconds since 1970 UTC.
        commit_micros: i64,
        /// Its number.
        xid: u32,
    },
    /// It ends.
    Commit {
        /// Where its commit lies.
        commit: Lsn,
        /// The end of the commit: where to go on after it.
        end: Lsn,
    },
    /// The transaction came from another server, by replication. Nothing follows from that.
    Origin,
    /// A table's columns; comes before its first row, and after each change of them.
    Relation(Relation),
    /// A type's name. Rows need none: values are text.
    Type,
    /// A new row.
    Insert {
        /// Its relation.
        relation: u32,
        /// The row.
        new: Row<'a>,
    },
    /// A changed row.
    Update {
        /// Its relation.
        relation: u32,
        /// As it was, if the identity changed or is FULL.
        old: Option<Old<'a>>,
        /// As it is.
        new: Row<'a>,
    },
    /// A row is gone.
    Delete {
        /// Its relation.
        relation: u32,
        /// As it was.
        old: Old<'a>,
    },
    /// All rows of these relations are gone.
    Truncate(Vec<u32>),
    /// Bytes that somebody wrote to the log with `pg_logical_emit_message`.
    Message {
        /// Whether it belongs to the transaction that is open.
        transactional: bool,
    },
    /// A segment of an open transaction begins.
    StreamStart {
        /// The transaction's number.
        xid: u32,
        /// Whether it is its first.
        first: bool,
    },
    /// The segment ends.
    StreamStop,
    /// A transaction that came in segments has committed.
    StreamCommit {
        /// The transaction's number.
        xid: u32,
        /// Where its commit lies.
        commit: Lsn,
        /// The end of the commit.
        end: Lsn,
        /// When it committed, in microseconds since 1970 UTC.
        commit_micros: i64,
    },
    /// A transaction that came in segments, or a subtransaction of it, has rolled back.
    StreamAbort {
        /// The transaction's number.
        xid: u32,
        /// The subtransaction's; the same number where all of it has rolled back.
        subxid: u32,
    },
}

/// A change inside of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Streamed<'a> {
    /// The (sub)transaction that made it.
    pub xid: u32,
    /// Its tag.
    pub tag: u8,
    /// What follows tag and number, as version 1 has it.
    pub rest: &'a [u8],
}

/// Takes a change inside of a segment apart; `None` for a message that is no change: the segment's end, and the name of the
/// server that a transaction came from, which carries no number.
pub fn streamed(body: &[u8]) -> Result<Option<Streamed<'_>>> {
    let mut r = Reader(body);
    let read = |r: &mut Reader<'_>| Ok((r.u8()?, r.u32()?));
    match body.first() {
        Some(b'E' | b'O') => Ok(None),
        Some(b'I' | b'U' | b'D' | b'T' | b'R' | b'Y' | b'M') => match read(&mut r) {
            Ok((tag, xid)) => Ok(Some(Streamed { xid, tag, rest: r.0 })),
            Err(short) => Err(short_message(short, body)),
        },
        Some(tag) => {
            let message = format!("the log has message {:?} inside of a streamed transaction", char::from(*tag));
            Err(Error::corrupt(message).hint(
                "set streaming=off in the source's URL; and look for a proxy that changes what passes through it",
            ))
        }
        None => Err(short_message(Short, body)),
    }
}

fn short_message(short: Short, body: &[u8]) -> Error {
    match body.first() {
        Some(tag) => short.of(&format!("message {:?} of the log", char::from(*tag))),
        None => short.of("an empty message of the log"),
    }
}

/// Reads a message.
pub fn decode<'a>(body: &'a [u8], scratch: &'a mut Scratch) -> Result<Event<'a>> {
    let Some(&tag) = body.first() else { return Err(short_message(Short, body)) };
    match event(tag, body, scratch) {
        Ok(Some(event)) => Ok(event),
        Ok(None) => Err(Error::corrupt(format!("the log has a message of unknown kind {:?}", char::from(tag)))
            .hint("this version does not know it: it may stem from a newer server; see its release notes")),
        Err(short) => Err(short_message(short, body)),
    }
}

fn event<'a>(tag: u8, body: &'a [u8], scratch: &'a mut Scratch) -> Read<Option<Event<'a>>> {
    let mut r = Reader(body);
    r.u8()?;
    let event = match tag {
        b'B' => {
            let (commit, commit_micros, xid) = (Lsn(r.u64()?), micros(&mut r)?, r.u32()?);
            Event::Begin { commit, commit_micros, xid }
        }
        b'C' => {
            let _flags = r.u8()?;
            let (commit, end) = (Lsn(r.u64()?), Lsn(r.u64()?));
            let _micros = r.i64()?;
            Event::Commit { commit, end }
        }
        b'O' => {
            let _commit = r.u64()?;
            r.until_nul()?;
            Event::Origin
        }
        b'R' => Event::Relation(relation(&mut r)?),
        b'Y' => {
            r.u32()?;
            r.until_nul()?;
            r.until_nul()?;
            Event::Type
        }
        b'I' => {
            let relation = r.u32()?;
            marked(&mut r, b'N')?;
            places(&mut r, body, &mut scratch.new)?;
            Event::Insert { relation, new: Row { body, places: &scratch.new } }
        }
        b'U' => {
            let relation = r.u32()?;
            let kind = r.u8()?;
            if kind != b'N' {
                places(&mut r, body, &mut scratch.old)?;
                marked(&mut r, b'N')?;
            }
            places(&mut r, body, &mut scratch.new)?;
            let old = match kind {
                b'N' => None,
                kind => Some(old(kind, body, &scratch.old)?),
            };
            Event::Update { relation, old, new: Row { body, places: &scratch.new } }
        }
        b'D' => {
            let relation = r.u32()?;
            let kind = r.u8()?;
            places(&mut r, body, &mut scratch.old)?;
            Event::Delete { relation, old: old(kind, body, &scratch.old)? }
        }
        b'T' => Event::Truncate(truncated(&mut r)?),
        b'M' => Event::Message { transactional: message(&mut r)? },
        b'S' => Event::StreamStart { xid: r.u32()?, first: r.u8()? == 1 },
        b'E' => Event::StreamStop,
        b'c' => {
            let xid = r.u32()?;
            let _flags = r.u8()?;
            let (commit, end) = (Lsn(r.u64()?), Lsn(r.u64()?));
            Event::StreamCommit { xid, commit, end, commit_micros: micros(&mut r)? }
        }
        b'A' => Event::StreamAbort { xid: r.u32()?, subxid: r.u32()? },
        _ => return Ok(None),
    };
    r.end()?;
    Ok(Some(event))
}

/// A time, in microseconds since 1970 UTC.
fn micros(r: &mut Reader<'_>) -> Read<i64> {
    Ok(r.i64()?.saturating_add(EPOCH_MICROS))
}

fn marked(r: &mut Reader<'_>, mark: u8) -> Read<()> {
    if r.u8()? == mark { Ok(()) } else { Err(Short) }
}

fn old<'a>(kind: u8, body: &'a [u8], places: &'a [Place]) -> Read<Old<'a>> {
    let row = Row { body, places };
    match kind {
        b'K' => Ok(Old::Key(row)),
        b'O' => Ok(Old::Full(row)),
        _ => Err(Short),
    }
}

fn relation(r: &mut Reader<'_>) -> Read<Relation> {
    let (id, schema, name, identity) = (r.u32()?, r.text()?.to_owned(), r.text()?.to_owned(), r.u8()?);
    let mut columns = Vec::new();
    for _ in 0..r.u16()? {
        let key = r.u8()? & 1 != 0;
        let name = r.text()?.to_owned();
        columns.push(RelationColumn { name, type_oid: r.u32()?, modifier: r.i32()?, key });
    }
    // pg_catalog is written as an empty name.
    let schema = if schema.is_empty() { "pg_catalog".to_owned() } else { schema };
    Ok(Relation { id, schema, name, identity, columns })
}

/// Whether a message belongs to the open transaction.
fn message(r: &mut Reader<'_>) -> Read<bool> {
    let transactional = r.u8()? & 1 != 0;
    let _at = r.u64()?;
    r.until_nul()?;
    let length = r.u32()?;
    r.take(usize::try_from(length).map_err(|_| Short)?)?;
    Ok(transactional)
}

fn truncated(r: &mut Reader<'_>) -> Read<Vec<u32>> {
    let count = r.u32()?;
    // CASCADE, RESTART IDENTITY: all relations are named in any case, and sequences are not replicated.
    let _options = r.u8()?;
    let mut relations = Vec::new();
    for _ in 0..count {
        relations.push(r.u32()?);
    }
    Ok(relations)
}

fn places(r: &mut Reader<'_>, body: &[u8], places: &mut Vec<Place>) -> Read<()> {
    places.clear();
    for _ in 0..r.u16()? {
        places.push(match r.u8()? {
            b'n' => Place::Null,
            b'u' => Place::Unchanged,
            b't' => {
                let length = r.u32()?;
                let from = u32::try_from(body.len() - r.0.len()).map_err(|_| Short)?;
                r.take(usize::try_from(length).map_err(|_| Short)?)?;
                Place::Text { from, to: from.checked_add(length).ok_or(Short)? }
            }
            _ => return Err(Short),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn row(values: &[Option<&str>]) -> Vec<u8> {
        let mut out = u16::try_from(values.len()).unwrap().to_be_bytes().to_vec();
        for value in values {
            match value {
                None => out.push(b'n'),
                Some(text) => {
                    out.push(b't');
                    out.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
                    out.extend(text.as_bytes());
                }
            }
        }
        out
    }

    #[test]
    fn rows_are_borrowed() {
        let body = [&b"U\0\0\0\x07O"[..], &row(&[Some("1"), None]), b"N", &row(&[Some("1"), Some("xyz")])].concat();
        let mut scratch = Scratch::default();
        let Event::Update { relation: 7, old: Some(Old::Full(old)), new } = decode(&body, &mut scratch).unwrap() else {
            panic!("an update")
        };
        assert_eq!((old.value(0), old.value(1)), (Value::Text(b"1"), Value::Null));
        assert_eq!((new.len(), new.value(1), new.value(9)), (2, Value::Text(b"xyz"), Value::Null));
        let longer = [&body[..], b"x"].concat();
        assert!(decode(&longer, &mut Scratch::default()).is_err(), "a message holds nothing else");
        assert!(decode(b"b\0\0", &mut Scratch::default()).unwrap_err().hint_text().is_some());
    }

    #[test]
    fn segments() {
        let mut scratch = Scratch::default();
        let mut event = |body: &[u8]| format!("{:?}", decode(body, &mut scratch).unwrap());
        assert_eq!(event(b"S\0\0\0\x07\x01"), "StreamStart { xid: 7, first: true }");
        assert_eq!(event(b"S\0\0\0\x07\0"), "StreamStart { xid: 7, first: false }");
        assert_eq!(event(b"E"), "StreamStop");
        assert_eq!(event(b"A\0\0\0\x07\0\0\0\x09"), "StreamAbort { xid: 7, subxid: 9 }");
        let commit = b"c\0\0\0\x07\0\0\0\0\0\0\0\0\x10\0\0\0\0\0\0\0\x20\0\0\0\0\0\0\0\x05";
        let want = "StreamCommit { xid: 7, commit: Lsn(16), end: Lsn(32), commit_micros: 946684800000005 }";
        assert_eq!(event(commit), want);
        for whole in [&b"S\0\0\0\x07\x01"[..], b"A\0\0\0\x07\0\0\0\x09", commit] {
            for cut in 1..whole.len() {
                assert!(decode(&whole[..cut], &mut Scratch::default()).is_err(), "{cut} bytes of {whole:?}");
            }
        }
    }

    #[test]
    fn changes_of_segments_lose_their_number() {
        let change = Streamed { xid: 9, tag: b'I', rest: b"abc" };
        assert_eq!(streamed(b"I\0\0\0\x09abc").unwrap(), Some(change));
        assert_eq!(streamed(b"E").unwrap(), None);
        for bad in [&b""[..], b"I\0\0\0", b"B\0\0\0\x09", b"c\0\0\0\x09", b"?"] {
            assert!(streamed(bad).unwrap_err().hint_text().is_some(), "{bad:?}");
        }
    }

    proptest! {
        /// Lengths and counts that promise more than there is allocate nothing for the promise.
        #[test]
        fn any_bytes_are_read_or_refused(tag in "[BCORYIUDTMSEcA]", rest: Vec<u8>) {
            let body = [tag.as_bytes(), &rest].concat();
            let _ = streamed(&body);
            let mut scratch = Scratch::default();
            match decode(&body, &mut scratch) {
                Ok(Event::Truncate(relations)) => prop_assert!(relations.len() * 4 <= body.len()),
                Ok(Event::Relation(relation)) => prop_assert!(relation.columns.len() * 10 <= body.len()),
                _ => {}
            }
            prop_assert!(scratch.old.capacity().max(scratch.new.capacity()) <= 2 * body.len().max(4));
        }

        #[test]
        fn damaged_rows_are_read_or_refused(at in 0usize..40, byte: u8, cut in 0usize..40) {
            let mut body = [&b"U\0\0\0\x07K"[..], &row(&[Some("1"), None]), b"N", &row(&[Some("1"), Some("xyz")])].concat();
            if let Some(b) = body.get_mut(at) {
                *b = byte;
            }
            body.truncate(cut);
            let mut scratch = Scratch::default();
            if let Ok(Event::Update { new, .. }) = decode(&body, &mut scratch) {
                prop_assert!((0..new.len()).all(|i| new.value(i) == new.value(i)));
            }
        }
    }
}
