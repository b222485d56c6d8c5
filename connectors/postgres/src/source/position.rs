//! Where in a server's log: system identifier, timeline, LSN.
//!
//! An LSN alone is a number that any server has. The system identifier (made by `initdb`, kept by base backups) says whose
//! log it is; the timeline says on which of its branches, since a promoted standby goes on with another. Written as
//! `7418362054914123456/1/0/16B3748`, the LSN last, as Postgres prints it.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use crossfade_core::{Error, Position, Result};

/// A place in the log, in bytes from its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = Error;

    fn from_str(text: &str) -> Result<Lsn> {
        let half = |s: &str| {
            let hex = (1..=8).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_hexdigit());
            hex.then(|| u64::from_str_radix(s, 16).ok()).flatten()
        };
        text.split_once('/')
            .and_then(|(high, low)| Some(Lsn(half(high)? << 32 | half(low)?)))
            .ok_or_else(|| Error::corrupt(format!("{text:?} is no LSN")))
    }
}

/// The end of a commit in the log of one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PgPosition {
    /// The system identifier.
    pub system: u64,
    /// The branch of the log.
    pub timeline: u32,
    /// Everything before it has been handed over.
    pub lsn: Lsn,
}

impl fmt::Display for PgPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.system, self.timeline, self.lsn)
    }
}

impl PgPosition {
    /// Reads what [`PgPosition::to_position`] wrote.
    pub fn parse(position: &Position) -> Result<Self> {
        let parse = || {
            let mut parts = position.as_str().splitn(3, '/');
            let system = parts.next()?.parse().ok()?;
            let timeline = parts.next()?.parse().ok()?;
            Some(PgPosition { system, timeline, lsn: parts.next()?.parse().ok()? })
        };
        parse().ok_or_else(|| {
            Error::unavailable(format!("{:?} is no position of a Postgres log", position.as_str()))
                .hint("the pipeline's checkpoint is of another kind of source: give this one a name of its own")
        })
    }

    /// As core's text.
    pub fn to_position(self) -> Position {
        Position::new(self.to_string())
    }

    /// Which comes first. Timelines of one server share their past, so LSNs order them too.
    pub fn order(&self, other: &PgPosition) -> Result<Ordering> {
        if self.system != other.system {
            let message = format!("positions {self} and {other} are of different servers");
            return Err(Error::unavailable(message)
                .hint("a log position holds on one server and its standbys only: copy anew from the other"));
        }
        Ok(self.lsn.cmp(&other.lsn))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn positions_of_other_servers_do_not_compare() {
        let a = PgPosition { system: 7, timeline: 1, lsn: Lsn(0x1_0000_00FF) };
        assert_eq!(a.to_string(), "7/1/1/FF");
        assert_eq!(a.order(&PgPosition { lsn: Lsn(0xFFFF_FFFF), timeline: 2, ..a }).unwrap(), Ordering::Greater);
        assert!(a.order(&PgPosition { system: 8, ..a }).unwrap_err().hint_text().is_some());
        for bad in ["", "7/1", "7/1/0", "7/1/0/0/0", "x/1/0/0", "7/1/+1/0", "7/1/0/123456789"] {
            assert!(PgPosition::parse(&Position::new(bad)).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn text_holds_all(system: u64, timeline: u32, lsn: u64) {
            let position = PgPosition { system, timeline, lsn: Lsn(lsn) };
            prop_assert_eq!(PgPosition::parse(&position.to_position()).unwrap(), position);
        }

        #[test]
        fn any_text_is_read_or_refused(text: String) {
            let _ = PgPosition::parse(&Position::new(text));
        }
    }
}
