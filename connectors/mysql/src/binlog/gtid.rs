//! MySQL's sets of global transaction identifiers: `uuid:1-7:9:tag:1-3`.
//!
//! A set maps a source (server UUID and, since MySQL 8.3, an optional tag) to disjoint ranges of transaction numbers.
//! Text and its canonical form are those of `@@gtid_executed`; the binary form is the one of `COM_BINLOG_DUMP_GTID`
//! (`Gtid_set::encode` in the server's `sql/rpl_gtid_set.cc`).

use std::collections::BTreeMap;
use std::fmt;

use crossfade_core::{Error, Result};

/// Who numbers transactions: a server, and a tag, which is empty for most.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tsid {
    /// The server's UUID, big-endian.
    pub uuid: [u8; 16],
    /// At most 32 of `a-z`, `0-9` and `_`; empty: none.
    pub tag: String,
}

/// One transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gtid {
    /// Its source.
    pub tsid: Tsid,
    /// Its number, from 1.
    pub number: u64,
}

impl fmt::Display for Gtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_uuid(f, &self.tsid.uuid)?;
        if !self.tsid.tag.is_empty() {
            write!(f, ":{}", self.tsid.tag)?;
        }
        write!(f, ":{}", self.number)
    }
}

/// The largest transaction number (`GNO_END - 1`).
pub const MAX_NUMBER: u64 = i64::MAX as u64 - 1;

/// A set of transactions. Ranges are inclusive, sorted, disjoint and never adjacent, so equal sets compare equal.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GtidSet(BTreeMap<Tsid, Vec<(u64, u64)>>);

impl GtidSet {
    /// Whether it holds no transaction.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds one transaction.
    pub fn add(&mut self, gtid: &Gtid) {
        match self.0.get_mut(&gtid.tsid) {
            // A log numbers on: the last range grows.
            Some(ranges) => match ranges.last_mut() {
                Some(last) if last.1 + 1 == gtid.number => last.1 = gtid.number,
                _ => insert(ranges, gtid.number, gtid.number),
            },
            None => {
                self.0.insert(gtid.tsid.clone(), vec![(gtid.number, gtid.number)]);
            }
        }
    }

    /// Whether the transaction is in the set.
    pub fn contains(&self, gtid: &Gtid) -> bool {
        self.0.get(&gtid.tsid).is_some_and(|ranges| covers(ranges, gtid.number, gtid.number))
    }

    /// Whether every transaction of `other` is in this set.
    pub fn contains_all(&self, other: &GtidSet) -> bool {
        other.0.iter().all(|(tsid, ranges)| {
            self.0.get(tsid).is_some_and(|mine| ranges.iter().all(|&(first, last)| covers(mine, first, last)))
        })
    }

    /// What is in this set and not in `other`.
    pub fn without(&self, other: &GtidSet) -> GtidSet {
        let mut left = BTreeMap::new();
        for (tsid, ranges) in &self.0 {
            let taken = other.0.get(tsid).map_or(&[][..], Vec::as_slice);
            let rest: Vec<_> = ranges.iter().flat_map(|&range| outside(range, taken)).collect();
            if !rest.is_empty() {
                left.insert(tsid.clone(), rest);
            }
        }
        GtidSet(left)
    }

    /// Whether a source of this set is unknown to `other`.
    pub fn has_more_sources(&self, other: &GtidSet) -> bool {
        self.0.keys().any(|tsid| !other.0.contains_key(tsid))
    }

    /// Reads the text of `@@gtid_executed`: line breaks, blanks and capital letters are allowed, order and overlaps too.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |part: &str| Error::config(format!("{part:?} is not part of a GTID set such as uuid:1-7,uuid:9"));
        let mut set = GtidSet::default();
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let mut pieces = part.split(':').map(str::trim);
            let uuid = pieces.next().and_then(parse_uuid).ok_or_else(|| bad(part))?;
            let mut tsid = Tsid { uuid, tag: String::new() };
            let mut ranges = 0;
            for piece in pieces {
                if piece.starts_with(|c: char| c.is_ascii_digit()) {
                    let (first, last) = parse_range(piece).ok_or_else(|| bad(part))?;
                    insert(set.0.entry(tsid.clone()).or_default(), first, last);
                } else {
                    tsid.tag = parse_tag(piece).ok_or_else(|| bad(part))?;
                }
                ranges += 1;
            }
            if ranges == 0 {
                return Err(bad(part));
            }
        }
        Ok(set)
    }

    /// The form that `COM_BINLOG_DUMP_GTID` carries. Ranges end before their second number there; a set with tags has a
    /// format byte at both ends of its count and a length (doubled: a variable-length integer) before each tag.
    pub fn encode(&self) -> Vec<u8> {
        let tagged = self.0.keys().any(|tsid| !tsid.tag.is_empty());
        let count = self.0.len() as u64;
        let head = if tagged { 1 << 56 | count << 8 | 1 } else { count };
        let mut out = head.to_le_bytes().to_vec();
        for (tsid, ranges) in &self.0 {
            out.extend(tsid.uuid);
            if tagged {
                out.push((tsid.tag.len() as u8) << 1);
                out.extend(tsid.tag.as_bytes());
            }
            out.extend((ranges.len() as u64).to_le_bytes());
            for (first, last) in ranges {
                out.extend(first.to_le_bytes());
                out.extend((last + 1).to_le_bytes());
            }
        }
        out
    }
}

/// Adds a range and joins what touches it.
fn insert(ranges: &mut Vec<(u64, u64)>, mut first: u64, mut last: u64) {
    let from = ranges.partition_point(|r| r.1 + 1 < first);
    let to = ranges.partition_point(|r| r.0 <= last + 1);
    if let Some(touched) = ranges.get(from..to).filter(|t| !t.is_empty()) {
        first = first.min(touched[0].0);
        last = last.max(touched[touched.len() - 1].1);
    }
    ranges.splice(from..to.max(from), [(first, last)]);
}

/// The parts of a range that lie in none of `taken`.
fn outside((first, last): (u64, u64), taken: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut parts = Vec::new();
    let mut next = first;
    for &(from, to) in taken.iter().filter(|(from, to)| *to >= first && *from <= last) {
        if from > next {
            parts.push((next, from - 1));
        }
        next = next.max(to + 1);
    }
    if next <= last {
        parts.push((next, last));
    }
    parts
}

fn covers(ranges: &[(u64, u64)], first: u64, last: u64) -> bool {
    let at = ranges.partition_point(|r| r.1 < first);
    ranges.get(at).is_some_and(|r| r.0 <= first && last <= r.1)
}

fn parse_range(text: &str) -> Option<(u64, u64)> {
    let number = |t: &str| t.trim().parse::<u64>().ok().filter(|n| (1..=MAX_NUMBER).contains(n));
    match text.split_once('-') {
        Some((a, b)) => Some((number(a)?, number(b)?)).filter(|(a, b)| a <= b),
        None => number(text).map(|n| (n, n)),
    }
}

/// A tag in its normal form: lower case, 1 to 32 of `a-z`, `0-9`, `_`, no digit first.
pub fn parse_tag(text: &str) -> Option<String> {
    let tag = text.to_ascii_lowercase();
    let ok = (1..=32).contains(&tag.len())
        && tag.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        && !tag.as_bytes()[0].is_ascii_digit();
    ok.then_some(tag)
}

fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let mut uuid = [0; 16];
    let mut digits = text.bytes().filter(|&b| b != b'-').map(|b| (b as char).to_digit(16));
    for byte in &mut uuid {
        *byte = (digits.next()?? << 4 | digits.next()??) as u8;
    }
    // Dashes stand after the 8th, 12th, 16th and 20th digit, or nowhere.
    let dashes: Vec<usize> = text.bytes().enumerate().filter(|(_, b)| *b == b'-').map(|(i, _)| i).collect();
    (digits.next().is_none() && (dashes.is_empty() || dashes == [8, 13, 18, 23])).then_some(uuid)
}

/// Writes a UUID in its usual notation.
pub fn write_uuid(f: &mut impl fmt::Write, uuid: &[u8; 16]) -> fmt::Result {
    for (i, byte) in uuid.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            f.write_char('-')?;
        }
        write!(f, "{byte:02x}")?;
    }
    Ok(())
}

impl fmt::Display for GtidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last: Option<&[u8; 16]> = None;
        for (tsid, ranges) in &self.0 {
            if last != Some(&tsid.uuid) {
                if last.is_some() {
                    f.write_str(",")?;
                }
                write_uuid(f, &tsid.uuid)?;
                last = Some(&tsid.uuid);
            }
            if !tsid.tag.is_empty() {
                write!(f, ":{}", tsid.tag)?;
            }
            for (first, last) in ranges {
                if first == last {
                    write!(f, ":{first}")?;
                } else {
                    write!(f, ":{first}-{last}")?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const A: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

    #[test]
    fn canonical_text() {
        for (text, canonical) in [
            (format!("{A}:1-3:4:9,\n{A}:6"), format!("{A}:1-4:6:9")),
            (A.to_uppercase() + ":5", format!("{A}:5")),
            (format!("{A}:Blue:2:1,{A}:7"), format!("{A}:7:blue:1-2")),
            (format!(" {A}:1:a:1-2:b:3 , "), format!("{A}:1:a:1-2:b:3")),
            (String::new(), String::new()),
        ] {
            assert_eq!(GtidSet::parse(&text).unwrap().to_string(), canonical);
        }
        for bad in ["x", A, &format!("{A}:0"), &format!("{A}:3-2"), &format!("{A}:9t:1"), "3e11:1", &format!("{A}:1-")]
        {
            assert!(GtidSet::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn binary_form() {
        let plain = GtidSet::parse(&format!("{A}:1-3")).unwrap().encode();
        assert_eq!((plain.len(), plain[0], plain[7]), (8 + 16 + 8 + 16, 1, 0));
        assert_eq!(plain[40..], 4u64.to_le_bytes(), "ranges end before their second number");
        let tagged = GtidSet::parse(&format!("{A}:1:ab:2")).unwrap().encode();
        assert_eq!(tagged[..8], [1, 2, 0, 0, 0, 0, 0, 1]);
        assert_eq!(tagged[8 + 16], 0);
        assert_eq!(&tagged[8 + 16 + 1 + 8 + 16 + 16..][..3], b"\x04ab");
    }

    fn gtid(server: u8, number: u64) -> Gtid {
        Gtid { tsid: Tsid { uuid: [server; 16], tag: String::new() }, number }
    }

    proptest! {
        #[test]
        fn behaves_as_a_set(a in prop::collection::vec((0u8..3, 1u64..40), 0..60), b in prop::collection::vec((0u8..3, 1u64..40), 0..20)) {
            let build = |v: &[(u8, u64)]| {
                let mut set = GtidSet::default();
                v.iter().for_each(|&(s, n)| set.add(&gtid(s, n)));
                set
            };
            let (x, y) = (build(&a), build(&b));
            let (model, other): (BTreeSet<_>, BTreeSet<_>) = (a.iter().collect(), b.iter().collect());
            for s in 0..3 {
                for n in 1..41 {
                    prop_assert_eq!(x.contains(&gtid(s, n)), model.contains(&(s, n)));
                }
            }
            prop_assert_eq!(x.contains_all(&y), model.is_superset(&other));
            let rest: Vec<(u8, u64)> = model.difference(&other).map(|r| **r).collect();
            prop_assert_eq!(&x.without(&y), &build(&rest));
            prop_assert_eq!(x.has_more_sources(&y), a.iter().any(|(s, _)| b.iter().all(|(t, _)| s != t)));
            prop_assert_eq!(&GtidSet::parse(&x.to_string()).unwrap(), &x);
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in "[0-9a-f:,_ \\n-]{0,80}|\\PC{0,40}") {
            if let Ok(set) = GtidSet::parse(&text) {
                prop_assert_eq!(GtidSet::parse(&set.to_string()).unwrap(), set);
            }
        }
    }
}
