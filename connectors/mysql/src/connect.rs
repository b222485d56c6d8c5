//! Connections to one server, and what kind of server it is.
//!
//! Every session starts with the same settings ([`SESSION`]), so that a value reads the same whatever the server's own
//! defaults are: UTC, utf8mb4, no SQL mode that changes how literals or quotes read, no limit that ends a long read, and
//! REPEATABLE READ, without which a consistent snapshot would be none.
//!
//! Connections block: [`crate::session`] runs statements over the same small wire that reads the log
//! ([`crate::binlog::wire`]), so TLS, authentication and the rule that no password crosses a network unprotected exist
//! once. What a value costs between socket and Arrow column decided that too: a driver that makes an enum of each value
//! allocates once for every text.

use std::sync::Arc;

use crossfade_core::{Error, Omissions, Result};
use tokio::runtime::Handle;

use crate::binlog::charset::Charset;
use crate::binlog::login::login;
use crate::catalog::quote;
use crate::charsets::Charsets;
use crate::classify::first_contact;
use crate::session::Session;
use crate::url::Options;

/// What every session sets first.
pub const SESSION: [&str; 3] = [
    "SET NAMES utf8mb4",
    "SET SESSION time_zone = '+00:00', SESSION sql_mode = '', SESSION autocommit = 1, SESSION net_write_timeout = 3600, \
     SESSION net_read_timeout = 3600, SESSION wait_timeout = 86400, SESSION sql_select_limit = DEFAULT, \
     SESSION innodb_lock_wait_timeout = 10, SESSION lock_wait_timeout = 10",
    "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
];

/// Which of the two servers speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavor {
    /// Oracle MySQL, Percona Server and services built on them.
    MySql,
    /// MariaDB.
    MariaDb,
}

/// What a server said about itself.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Which of the two.
    pub flavor: Flavor,
    /// Major, minor, patch.
    pub version: (u16, u16, u16),
    /// As the server prints it.
    pub version_text: String,
    /// `@@server_id`; 0 cannot serve a log.
    pub server_id: u32,
    /// `@@server_uuid`; MariaDB has none.
    pub server_uuid: Option<String>,
}

/// A server that has answered once. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Server(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    options: Options,
    runtime: Handle,
    identity: Identity,
    charsets: Charsets,
    omissions: Omissions,
}

impl std::ops::Deref for Server {
    type Target = Identity;

    fn deref(&self) -> &Identity {
        &self.0.identity
    }
}

impl Server {
    /// Connects for the first time: a server that does not answer is an error to show, not one to wait for.
    pub fn open(options: Options, omissions: Omissions, runtime: Handle) -> Result<Self> {
        let contact = || {
            let mut session = Session::new(login(&options)?);
            if let Some(database) = &options.database {
                // Tables are always named in full; this only finds out whether the database is there and open to us.
                session.run(&format!("USE {}", quote(database)))?;
            }
            identify(&mut session)
        };
        let identity = contact().map_err(|e| first_contact(e, &options.place()))?;
        Ok(Server(Arc::new(Inner { options, runtime, identity, charsets: Charsets::default(), omissions })))
    }

    /// A new connection with [`SESSION`] set. The server has answered before, so its absence is transient.
    pub fn session(&self) -> Result<Session> {
        let mut session = Session::new(login(self.options())?);
        for statement in SESSION {
            session.run(statement)?;
        }
        // Statements of administrators' making must not be ended by a limit meant for a web site's queries.
        session.run(match self.flavor {
            Flavor::MySql => "SET SESSION max_execution_time = 0, SESSION information_schema_stats_expiry = 0",
            Flavor::MariaDb => "SET SESSION max_statement_time = 0",
        })?;
        Ok(session)
    }

    /// How text in a character set is read; `None` for one that is not carried.
    pub fn charset(&self, name: &str) -> Result<Option<Charset>> {
        self.0.charsets.get(name, || self.session())
    }

    /// The runtime of the process, for who needs one.
    pub fn runtime(&self) -> &Handle {
        &self.0.runtime
    }

    /// How to log in.
    pub fn options(&self) -> &Options {
        &self.0.options
    }

    /// Columns that nobody wants.
    pub fn omissions(&self) -> &Omissions {
        &self.0.omissions
    }

    /// Whether it is MariaDB.
    pub fn is_mariadb(&self) -> bool {
        self.flavor == Flavor::MariaDb
    }
}

fn identify(session: &mut Session) -> Result<Identity> {
    let row = session.row("SELECT VERSION(), @@server_id")?.unwrap_or_default();
    let [Some(version_text), Some(server_id)] = row.as_slice() else {
        return Err(Error::corrupt("the server does not tell its version"));
    };
    let version_text = version_text.clone();
    let server_id = server_id.parse().map_err(|_| Error::corrupt(format!("server_id {server_id} is not a number")))?;
    let flavor = if version_text.contains("MariaDB") { Flavor::MariaDb } else { Flavor::MySql };
    let server_uuid = match flavor {
        Flavor::MySql => session.value("SELECT @@server_uuid")?,
        Flavor::MariaDb => None,
    };
    let version = parse_version(&version_text)?;
    Ok(Identity { flavor, version, version_text, server_id, server_uuid })
}

fn parse_version(text: &str) -> Result<(u16, u16, u16)> {
    let numbers = text.split(['-', '+', '~']).next().unwrap_or_default();
    let mut parts = numbers.split('.').map(str::parse);
    match (parts.next(), parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor)), Some(Ok(patch))) => Ok((major, minor, patch)),
        (Some(Ok(major)), Some(Ok(minor)), None) => Ok((major, minor, 0)),
        _ => Err(Error::unavailable(format!("the server's version {text} cannot be read"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(parse_version("9.7.4-2").unwrap(), (9, 7, 4));
        assert_eq!(parse_version("8.0.36").unwrap(), (8, 0, 36));
        assert_eq!(parse_version("10.11.19-MariaDB-0+deb12u1-log").unwrap(), (10, 11, 19));
        assert!(parse_version("banana").is_err());
    }
}
