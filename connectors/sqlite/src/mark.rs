//! A place in the change table, and its text form as a [`Position`].
//!
//! `sqlite:<install id>:<seq>:<time>`: the id is drawn at random when Crossfade is installed, so that a position is never
//! taken for one of another installation. `seq` is the number of a row of the change table, `time` that row's own, in
//! milliseconds since 1970. A database restored from a backup keeps the id and may even have grown past `seq` again;
//! that its row `seq` was written at the very same millisecond is what the time rules out.

use crossfade_core::{Error, Position, Result};

/// A row of the change table: everything up to it lies before the mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// The row's number; rows are numbered without gaps in commit order.
    pub seq: i64,
    /// When it was written, in milliseconds since 1970 UTC.
    pub millis: i64,
}

impl Mark {
    /// The mark as a position of the installation `id`.
    pub fn position(&self, id: &str) -> Position {
        Position::new(format!("sqlite:{id}:{}:{}", self.seq, self.millis))
    }

    /// Its time in microseconds since 1970 UTC.
    pub fn micros(&self) -> Result<i64> {
        let far =
            || Error::corrupt(format!("row {} of the change table has the impossible time {}", self.seq, self.millis));
        self.millis.checked_mul(1000).ok_or_else(far)
    }

    /// Reads a position of the installation `id`.
    pub fn parse(position: &Position, id: &str) -> Result<Mark> {
        let (found, mark) = parse(position.as_str())
            .ok_or_else(|| Error::corrupt(format!("{position} is no position of a SQLite change table")))?;
        if found != id {
            return Err(Error::unavailable(format!(
                "{position} belongs to the installation {found}, but the database holds {id}"
            ))
            .hint(RECOPY));
        }
        Ok(mark)
    }

    /// Reads a position of whichever installation: its id and mark.
    pub fn parse_any(position: &Position) -> Result<(String, Mark)> {
        parse(position.as_str())
            .map(|(id, mark)| (id.to_owned(), mark))
            .ok_or_else(|| Error::corrupt(format!("{position} is no position of a SQLite change table")))
    }
}

/// What to do about a gap.
pub const RECOPY: &str = "the log cannot be continued from there: copy the tables anew";

fn parse(text: &str) -> Option<(&str, Mark)> {
    let mut parts = text.strip_prefix("sqlite:")?.split(':');
    let id = parts.next().filter(|id| !id.is_empty())?;
    let mark = Mark { seq: parts.next()?.parse().ok()?, millis: parts.next()?.parse().ok()? };
    parts.next().is_none().then_some((id, mark))
}

/// Milliseconds since 1970 of a Julian day, as `julianday('now')` gives it: whole milliseconds, rounded back exactly.
pub fn millis(julian_day: f64) -> i64 {
    ((julian_day - 2_440_587.5) * 86_400_000.0).round() as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_round_trip() {
        let mark = Mark { seq: 17, millis: 1_700_000_000_123 };
        let position = mark.position("ab12");
        assert_eq!(position.as_str(), "sqlite:ab12:17:1700000000123");
        assert_eq!(Mark::parse(&position, "ab12").unwrap(), mark);
        assert!(Mark::parse(&position, "ab13").unwrap_err().to_string().contains("belongs to the installation ab12"));
        for bad in ["", "sqlite:a:1", "sqlite::1:2", "sqlite:a:b:2", "sqlite:a:1:2:3", "mysql:a:1:2"] {
            assert!(Mark::parse_any(&Position::new(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn julian_days_are_exact_to_the_millisecond() {
        let db = rusqlite::Connection::open_in_memory().unwrap();
        for ms in [0i64, 1, 999, 1_700_000_000_123, 1_900_000_000_999] {
            let jd: f64 =
                db.query_row("SELECT julianday(?1 / 1000.0, 'unixepoch')", [ms as f64], |r| r.get(0)).unwrap();
            assert_eq!(millis(jd), ms);
        }
    }
}
