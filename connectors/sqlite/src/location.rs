//! Where the database file is: `sqlite:///var/lib/shop.db`, `sqlite:shop.db?busy_timeout=5s`.
//!
//! Percent escapes are decoded, so that a path may hold `?` (`%3F`) and `%` (`%25`).

use std::path::PathBuf;
use std::time::Duration;

use crossfade_core::{Endpoint, Error, Result};
use rusqlite::{Connection, OpenFlags};

use crate::error::Doing;

/// How long to wait for another program's lock, unless the URL says otherwise.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// A database file and how to open it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// The file.
    pub path: PathBuf,
    /// How long to wait for another program's lock.
    pub busy_timeout: Duration,
}

impl Location {
    /// Reads a URL. Unknown options are errors.
    pub fn parse(endpoint: &Endpoint) -> Result<Location> {
        let shape = "write sqlite:///absolute/path.db or sqlite:relative/path.db";
        let rest = endpoint
            .url()
            .strip_prefix("sqlite:")
            .ok_or_else(|| Error::config(format!("{endpoint} is not a sqlite: URL")).hint(shape))?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = unescape(path.strip_prefix("//").unwrap_or(path)).ok_or_else(|| {
            Error::config(format!("{endpoint}: a % must begin an escape of two digits")).hint("write %25")
        })?;
        if path.is_empty() || path == ":memory:" {
            return Err(Error::config(format!("{endpoint} names no file")).hint(shape));
        }
        let mut location = Location { path: path.into(), busy_timeout: BUSY_TIMEOUT };
        for option in query.split('&').filter(|o| !o.is_empty()) {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            match name {
                "busy_timeout" => {
                    location.busy_timeout = duration(value).ok_or_else(|| {
                        Error::config(format!("busy_timeout={value} is no length of time")).hint("write 500ms or 5s")
                    })?
                }
                _ => {
                    return Err(
                        Error::config(format!("sqlite: has no option {name}")).hint("the only option is busy_timeout")
                    );
                }
            }
        }
        Ok(location)
    }

    /// Opens the file for reading only, though with the rights that WAL recovery needs.
    pub fn reader(&self) -> Result<Connection> {
        let conn = self.open()?;
        conn.pragma_update(None, "query_only", true).doing("opening the database for reading")?;
        Ok(conn)
    }

    /// Opens the file for Crossfade's own small transactions.
    pub fn writer(&self) -> Result<Connection> {
        let conn = self.open()?;
        // Triggers of the application must not fire on, and its foreign keys not matter to, what is written here:
        // only tables of Crossfade's own are.
        conn.pragma_update(None, "foreign_keys", false).doing("opening the database for writing")?;
        let wal = journal_mode(&conn)? == "wal";
        if wal {
            // A prune that a power failure undoes is done again; integrity does not need the fsync in WAL mode.
            conn.pragma_update(None, "synchronous", "NORMAL").doing("opening the database for writing")?;
        }
        Ok(conn)
    }

    fn open(&self) -> Result<Connection> {
        let doing = format!("opening {}", self.path.display());
        if !self.path.is_file() {
            return Err(Error::unavailable(format!("{doing}: there is no such file"))
                .hint("name an existing database file; Crossfade does not create one"));
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags(&self.path, flags).doing(&doing)?;
        conn.busy_timeout(self.busy_timeout).doing(&doing)?;
        conn.set_prepared_statement_cache_capacity(64);
        // The file is read only now: this tells whether it is a database.
        conn.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())).doing(&doing)?;
        Ok(conn)
    }

    /// The file's identity on its file system, to notice that another file took its place.
    pub fn identity(&self) -> Result<(u64, u64)> {
        use std::os::unix::fs::MetadataExt;
        let meta = std::fs::metadata(&self.path)
            .map_err(|e| Error::unavailable(format!("{} is gone", self.path.display())).caused_by(e))?;
        Ok((meta.dev(), meta.ino()))
    }
}

/// The database's journal mode: `wal`, `delete`, `truncate`, `persist`, `memory`, `off`.
pub fn journal_mode(conn: &Connection) -> Result<String> {
    conn.query_row("PRAGMA journal_mode", [], |r| r.get(0)).doing("reading the journal mode")
}

fn duration(text: &str) -> Option<Duration> {
    if let Some(ms) = text.strip_suffix("ms") {
        return ms.parse().ok().map(Duration::from_millis);
    }
    text.strip_suffix('s')?.parse().ok().map(Duration::from_secs)
}

fn unescape(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        if b == b'%' {
            let digit = |b: u8| (b as char).to_digit(16);
            let (high, low) = (digit(bytes.next()?)?, digit(bytes.next()?)?);
            out.push((high * 16 + low) as u8);
        } else {
            out.push(b);
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Location> {
        Location::parse(&Endpoint::new(url, None))
    }

    #[test]
    fn urls() {
        for (url, path) in [
            ("sqlite:///var/lib/shop.db", "/var/lib/shop.db"),
            ("sqlite:/var/lib/shop.db", "/var/lib/shop.db"),
            ("sqlite:data/shop.db", "data/shop.db"),
            ("sqlite://shop.db?busy_timeout=250ms", "shop.db"),
            ("sqlite:what%3F%25.db", "what?%.db"),
        ] {
            assert_eq!(parse(url).unwrap().path, PathBuf::from(path), "{url}");
        }
        assert_eq!(parse("sqlite:a.db?busy_timeout=250ms").unwrap().busy_timeout, Duration::from_millis(250));
        for bad in
            ["sqlite:", "sqlite::memory:", "sqlite:a.db?busy=1", "sqlite:a.db?busy_timeout=5", "mysql:x", "sqlite:%4"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_no_database_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.db");
        let location = Location { path: path.clone(), busy_timeout: BUSY_TIMEOUT };
        assert!(location.reader().unwrap_err().to_string().contains("no such file"));
        std::fs::write(&path, vec![7u8; 5000]).unwrap();
        let e = location.reader().unwrap_err();
        assert!(e.hint_text().unwrap().contains("encrypted"), "{e:?}");
        assert_eq!(e.exit(), crossfade_core::Exit::Unavailable);
    }
}
