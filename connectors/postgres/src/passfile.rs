//! Passwords from a password file, `~/.pgpass` unless told otherwise.
//!
//! Lines are `host:port:database:user:password`; each of the first four may be `*`, a backslash takes the meaning from a
//! colon or a backslash. The first line that matches wins. A file that others may read is not used, as in libpq
//! (`passwordFromFile` in fe-connect.c), but that is said.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crossfade_core::{Error, Result, Secret};

/// Folders in which servers put their sockets by default: the password file calls them `localhost`.
pub const SOCKET_FOLDERS: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// A password file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Passfile {
    /// Named by the operator: it must be there and closed to others.
    Named(PathBuf),
    /// The default: used if it is there and closed to others.
    Default(PathBuf),
}

impl Passfile {
    /// The lines, secret all of them. Empty where there is no usable default file.
    pub fn read(&self) -> Result<String> {
        match self {
            Passfile::Named(path) => open(path),
            Passfile::Default(path) if !path.is_file() => Ok(String::new()),
            Passfile::Default(path) => open(path).or_else(|error| {
                tracing::warn!(%error, "the password file is not used");
                Ok(String::new())
            }),
        }
    }
}

fn open(path: &Path) -> Result<String> {
    let shown = path.display();
    let unreadable = |e: std::io::Error| {
        Error::config(format!("password file {shown}")).caused_by(e).hint("correct passfile or PGPASSFILE")
    };
    let meta = fs::metadata(path).map_err(unreadable)?;
    let mode = meta.permissions().mode() & 0o777;
    if !meta.is_file() {
        return Err(Error::config(format!("password file {shown} is not a file")));
    }
    if mode & 0o077 != 0 {
        return Err(Error::config(format!("password file {shown} has mode {mode:04o}, open to others"))
            .hint(format!("chmod 0600 {shown}")));
    }
    fs::read_to_string(path).map_err(unreadable)
}

/// The password of the first line that matches. `host` as in the URL; a default socket folder is `localhost`.
pub fn find(lines: &str, host: &str, port: u16, dbname: &str, user: &str) -> Option<Secret> {
    let host = if SOCKET_FOLDERS.contains(&host) { "localhost" } else { host };
    let port = port.to_string();
    lines.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let fields = split(line);
        let [h, p, d, u, password] = fields.as_slice() else { return None };
        let fits = |field: &str, value: &str| field == "*" || unescape(field) == value;
        let all = fits(h, host) && fits(p, &port) && fits(d, dbname) && fits(u, user);
        (all && !password.is_empty()).then(|| Secret::new(unescape(password)))
    })
}

/// Cuts at the first four colons that no backslash precedes, keeping the backslashes: `\*` is not `*`.
fn split(line: &str) -> Vec<&str> {
    let (mut fields, mut from, mut escaped) = (Vec::new(), 0, false);
    for (at, byte) in line.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b':' if fields.len() < 4 => {
                fields.push(&line[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    fields.push(&line[from..]);
    fields
}

fn unescape(field: &str) -> String {
    let mut out = String::with_capacity(field.len());
    let mut chars = field.chars();
    while let Some(c) = chars.next() {
        out.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_match_wins() {
        let lines = "# comment:*:*:*:no\nshort:line\ndb1:5432:shop:ann:one\ndb1:*:*:ann:two\nlocalhost:*:*:*:sock\n\
                     [fe80\\:\\:1]:*:*:*:six\nesc:*:a\\:b:\\*:p\\:w\\\\:x\n*:*:*:bob:\n*:*:*:*:last";
        for (host, port, dbname, user, want) in [
            ("db1", 5432, "shop", "ann", "one"),
            ("db1", 5433, "shop", "ann", "two"),
            ("/tmp", 5432, "shop", "ann", "sock"),
            ("/var/run/postgresql", 1, "x", "y", "sock"),
            ("/srv", 1, "x", "y", "last"),
            ("[fe80::1]", 1, "x", "y", "six"),
            ("esc", 1, "a:b", "*", "p:w\\:x"),
            ("esc", 1, "a:b", "z", "last"),
            ("any", 1, "x", "bob", "last"),
        ] {
            let found = find(lines, host, port, dbname, user);
            assert_eq!(found.as_ref().map(Secret::expose), Some(want), "{host}:{port}:{dbname}:{user}");
        }
        assert!(find("a:b:c:d", "a", 1, "c", "d").is_none());
    }
}
