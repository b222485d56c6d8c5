//! MariaDB's global transaction identifiers: `domain-server-sequence`, one per domain in a position.
//!
//! Within a domain the log is one sequence, so a position needs only the last identifier of each domain, as
//! `@@gtid_binlog_pos` prints it.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

use crossfade_core::{Error, Result};

/// One transaction of MariaDB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MariaGtid {
    /// The replication domain: an independent sequence.
    pub domain: u32,
    /// The server that first executed it.
    pub server: u32,
    /// Its number within the domain.
    pub sequence: u64,
}

impl fmt::Display for MariaGtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.domain, self.server, self.sequence)
    }
}

/// The last transaction of each domain.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GtidList(BTreeMap<u32, (u32, u64)>);

impl GtidList {
    /// Makes `gtid` the last of its domain.
    pub fn set(&mut self, gtid: MariaGtid) {
        self.0.insert(gtid.domain, (gtid.server, gtid.sequence));
    }

    /// Whether `gtid` lies at or before this position.
    pub fn reaches(&self, gtid: MariaGtid) -> bool {
        self.0.get(&gtid.domain).is_some_and(|&(_, sequence)| gtid.sequence <= sequence)
    }

    /// Whether every domain of `other` has come at least as far here.
    pub fn contains_all(&self, other: &GtidList) -> bool {
        other.0.iter().all(|(domain, (_, theirs))| self.0.get(domain).is_some_and(|(_, mine)| theirs <= mine))
    }

    /// Which of two positions comes first; `None` if each is ahead in some domain.
    pub fn order(&self, other: &GtidList) -> Option<Ordering> {
        match (self.contains_all(other), other.contains_all(self)) {
            (true, true) => Some(Ordering::Equal),
            (true, false) => Some(Ordering::Greater),
            (false, true) => Some(Ordering::Less),
            (false, false) => None,
        }
    }

    /// Reads `0-1-5,2-1-7`.
    pub fn parse(text: &str) -> Result<Self> {
        let mut list = GtidList::default();
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let gtid = parse_one(part).ok_or_else(|| {
                Error::config(format!("{part:?} is not a MariaDB GTID such as 0-1-5 (domain-server-sequence)"))
            })?;
            if list.0.insert(gtid.domain, (gtid.server, gtid.sequence)).is_some() {
                return Err(Error::config(format!("domain {} stands twice in {text:?}", gtid.domain))
                    .hint("use the value of @@gtid_binlog_pos"));
            }
        }
        Ok(list)
    }
}

fn parse_one(text: &str) -> Option<MariaGtid> {
    let mut parts = text.split('-');
    let gtid = MariaGtid {
        domain: parts.next()?.parse().ok()?,
        server: parts.next()?.parse().ok()?,
        sequence: parts.next()?.parse().ok()?,
    };
    parts.next().is_none().then_some(gtid)
}

impl fmt::Display for GtidList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (domain, (server, sequence))) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{domain}-{server}-{sequence}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn order_by_domain() {
        let p = |t| GtidList::parse(t).unwrap();
        assert_eq!(p("0-1-5").order(&p("0-2-5")), Some(Ordering::Equal), "the sequence decides");
        assert_eq!(p("").order(&p("0-1-5")), Some(Ordering::Less));
        assert_eq!(p("0-1-5,1-1-2").order(&p("0-1-5")), Some(Ordering::Greater));
        assert_eq!(p("0-1-5,1-1-2").order(&p("0-1-6")), None);
        assert!(
            GtidList::parse("0-1-5,0-2-6").is_err()
                && GtidList::parse("0-1").is_err()
                && GtidList::parse("0-1-2-3").is_err()
        );
    }

    proptest! {
        #[test]
        fn text_round_trip(gtids in prop::collection::vec((any::<u32>(), any::<u32>(), any::<u64>()), 0..6)) {
            let mut list = GtidList::default();
            for (domain, server, sequence) in gtids {
                list.set(MariaGtid { domain, server, sequence });
            }
            prop_assert_eq!(GtidList::parse(&list.to_string()).unwrap(), list);
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in "[0-9,-]{0,40}|\\PC{0,40}") {
            let _ = GtidList::parse(&text);
        }
    }
}
