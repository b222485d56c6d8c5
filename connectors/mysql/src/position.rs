//! Positions in a binary log, and how they print.
//!
//! | kind | text | ordered by |
//! |---|---|---|
//! | MySQL with GTIDs | `gtid:<set>@<file>:<offset>` | inclusion of sets |
//! | MariaDB | `mariadb:<list>@<file>:<offset>` | sequence within each domain |
//! | MySQL without GTIDs | `file:<server>/<file>:<offset>` | number of the file, offset |
//!
//! Behind `@` stands where the server has the transaction in its own files: it tells bytes of lag and helps people to find
//! it, but never decides, because another server of the same group has other files.

use std::cmp::Ordering;
use std::fmt;

use crossfade_core::{Error, Position, Result};

use crate::binlog::gtid::GtidSet;
use crate::binlog::gtid_list::GtidList;

/// A place in a server's log files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FilePosition {
    /// The file's name without its folder: `binlog.000012`.
    pub file: String,
    /// Bytes before it.
    pub offset: u64,
}

impl FilePosition {
    /// The number at the end of the file's name, which counts up for ever.
    fn number(&self) -> Option<u64> {
        self.file.rsplit_once('.').and_then(|(_, n)| n.parse().ok())
    }

    /// By file number, then offset; `None` if a name carries no number.
    pub fn order(&self, other: &FilePosition) -> Option<Ordering> {
        if self.file == other.file {
            return Some(self.offset.cmp(&other.offset));
        }
        let by_file = self.number()?.cmp(&other.number()?);
        // The same number under another name is another log.
        (by_file != Ordering::Equal).then_some(by_file)
    }

    fn parse(text: &str) -> Option<Self> {
        let (file, offset) = text.rsplit_once(':')?;
        (!file.is_empty()).then_some(FilePosition { file: file.to_owned(), offset: offset.parse().ok()? })
    }
}

impl fmt::Display for FilePosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.offset)
    }
}

/// A position between two transactions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MySqlPosition {
    /// MySQL with `gtid_mode=ON`.
    Gtid {
        /// Every transaction up to here.
        executed: GtidSet,
        /// Where that is in the server's files, if known.
        at: Option<FilePosition>,
    },
    /// MariaDB.
    MariaDb {
        /// The last transaction of each domain.
        list: GtidList,
        /// Where that is in the server's files, if known.
        at: Option<FilePosition>,
    },
    /// MySQL without GTIDs.
    File {
        /// The server's UUID: files of another server mean nothing.
        server: String,
        /// Where in its files.
        at: FilePosition,
    },
}

impl MySqlPosition {
    /// Reads the notation of this module.
    pub fn parse(position: &Position) -> Result<Self> {
        let text = position.as_str();
        let bad = || {
            Error::config(format!("{text:?} is not a position in a MySQL or MariaDB log"))
                .hint("write gtid:<set>, mariadb:<domain-server-sequence>, or file:<server uuid>/<file>:<offset>")
        };
        let (kind, rest) = text.split_once(':').ok_or_else(bad)?;
        if kind == "file" {
            let (server, at) = rest.split_once('/').ok_or_else(bad)?;
            let at = FilePosition::parse(at).ok_or_else(bad)?;
            return Ok(MySqlPosition::File { server: server.to_owned(), at });
        }
        let (gtids, at) = match rest.split_once('@') {
            Some((gtids, at)) => (gtids, Some(FilePosition::parse(at).ok_or_else(bad)?)),
            None => (rest, None),
        };
        match kind {
            "gtid" => Ok(MySqlPosition::Gtid { executed: GtidSet::parse(gtids)?, at }),
            "mariadb" => Ok(MySqlPosition::MariaDb { list: GtidList::parse(gtids)?, at }),
            _ => Err(bad()),
        }
    }

    /// For the rest of the world.
    pub fn to_position(&self) -> Position {
        Position::new(self.to_string())
    }

    /// Where it is in the server's files, if known.
    pub fn at(&self) -> Option<&FilePosition> {
        match self {
            MySqlPosition::Gtid { at, .. } | MySqlPosition::MariaDb { at, .. } => at.as_ref(),
            MySqlPosition::File { at, .. } => Some(at),
        }
    }

    /// Which of two positions of one log comes first.
    pub fn order(&self, other: &Self) -> Result<Ordering> {
        let order = match (self, other) {
            (MySqlPosition::Gtid { executed: a, .. }, MySqlPosition::Gtid { executed: b, .. }) => {
                match (a.contains_all(b), b.contains_all(a)) {
                    (true, true) => Some(Ordering::Equal),
                    (true, false) => Some(Ordering::Greater),
                    (false, true) => Some(Ordering::Less),
                    (false, false) => None,
                }
            }
            (MySqlPosition::MariaDb { list: a, .. }, MySqlPosition::MariaDb { list: b, .. }) => a.order(b),
            (MySqlPosition::File { server: s, at: a }, MySqlPosition::File { server: t, at: b }) if s == t => {
                a.order(b)
            }
            _ => None,
        };
        order.ok_or_else(|| {
            Error::config(format!("positions {self} and {other} are not of one log: neither comes before the other"))
                .hint("compare positions of the same server, or of servers of the same replication group")
        })
    }
}

impl fmt::Display for MySqlPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = match self {
            MySqlPosition::Gtid { executed, at } => {
                write!(f, "gtid:{executed}")?;
                at
            }
            MySqlPosition::MariaDb { list, at } => {
                write!(f, "mariadb:{list}")?;
                at
            }
            MySqlPosition::File { server, at } => return write!(f, "file:{server}/{at}"),
        };
        match at {
            Some(at) => write!(f, "@{at}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

    fn parse(text: &str) -> Result<MySqlPosition> {
        MySqlPosition::parse(&Position::new(text))
    }

    fn order(a: &str, b: &str) -> Option<Ordering> {
        parse(a).unwrap().order(&parse(b).unwrap()).ok()
    }

    #[test]
    fn text_round_trip() {
        for text in [
            format!("gtid:{A}:1-5@binlog.000003:154"),
            format!("gtid:{A}:1-5"),
            "gtid:@binlog.000001:4".into(),
            "mariadb:0-1-5,7-1-9@mysql-bin.000003:154".into(),
            "mariadb:".into(),
            format!("file:{A}/binlog.000003:154"),
        ] {
            assert_eq!(parse(&text).unwrap().to_string(), text);
        }
        for bad in ["", "gtid", "lsn:0/1", "gtid:@", "gtid:@x:y", "file:x", "file:a/b", "mariadb:0-1"] {
            assert!(parse(bad).unwrap_err().hint_text().is_some() || bad.starts_with("mariadb"), "{bad}");
        }
    }

    #[test]
    fn gtids_decide_and_files_do_not() {
        let (one, two) = (format!("gtid:{A}:1-5@binlog.000009:4"), format!("gtid:{A}:1-6@binlog.000001:4"));
        assert_eq!(order(&one, &two), Some(Ordering::Less));
        assert_eq!(order(&one, &format!("gtid:{A}:1-5")), Some(Ordering::Equal));
        assert_eq!(order(&format!("gtid:{A}:1"), &format!("gtid:{A}:2")), None);
        assert_eq!(order(&one, "mariadb:0-1-1"), None);
    }

    #[test]
    fn files_by_number_then_offset() {
        assert_eq!(order("file:s/binlog.000002:900", "file:s/binlog.000010:4"), Some(Ordering::Less));
        assert_eq!(order("file:s/b.999999:4", "file:s/b.1000000:4"), Some(Ordering::Less));
        assert_eq!(order("file:s/b.000001:9", "file:s/b.000001:10"), Some(Ordering::Less));
        assert_eq!(order("file:s/b.000001:9", "file:t/b.000001:9"), None);
        assert_eq!(order("file:s/a.000001:9", "file:s/b.000001:9"), None);
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "(gtid|mariadb|file):[0-9a-f:@/.-]{0,60}|\\PC{0,40}") {
            if let Ok(p) = parse(&text) {
                prop_assert_eq!(parse(&p.to_string()).unwrap(), p);
            }
        }
    }
}
