//! Errors of the server and of its driver, by consequence.
//!
//! The server's SQLSTATE decides (errcodes.txt of its sources): what another attempt may mend is transient, a value that
//! will not go in is a data error of its table, everything else needs a person and carries the statement that mends it.
//! Errors without a SQLSTATE come from the driver; the I/O or TLS error beneath them decides.

use std::error::Error as StdError;
use std::io;

use crossfade_core::{Error, TableName};
use tokio_postgres::error::DbError;

use crate::quote;

/// An error as the server reports it ("Error and Notice Message Fields" of its documentation).
#[derive(Debug, Default)]
pub struct Reported<'a> {
    /// SQLSTATE.
    pub code: &'a str,
    /// In one line.
    pub message: &'a str,
    /// More about it.
    pub detail: Option<&'a str>,
    /// What the server advises.
    pub hint: Option<&'a str>,
    /// Where it happened: a function, a line of COPY.
    pub context: Option<&'a str>,
    /// The schema of what is to blame.
    pub schema: Option<&'a str>,
    /// The table.
    pub table: Option<&'a str>,
    /// The column.
    pub column: Option<&'a str>,
    /// The constraint.
    pub constraint: Option<&'a str>,
}

impl<'a> From<&'a DbError> for Reported<'a> {
    fn from(db: &'a DbError) -> Self {
        Reported {
            code: db.code().code(),
            message: db.message(),
            detail: db.detail(),
            hint: db.hint(),
            context: db.where_(),
            schema: db.schema(),
            table: db.table(),
            column: db.column(),
            constraint: db.constraint(),
        }
    }
}

/// The hint of a wait for a lock that lasted too long; [`crate::session::Session::explain`] knows more.
pub const LOCKED: &str = "another session holds a lock on the table; see pg_locks";

/// Of a value that another row has.
const DUPLICATE: &str = "another row of the target has this value, and the source's present indexes, where they could be asked, \
    forbid that too, or never did. While the initial copy runs, drop the target's unique indexes beside the key's until it ends; \
    afterwards, look for rows that somebody wrote at the target (`crossfade verify`), or for a unique index that the source lacks, \
    and drop it there";

/// What follows from an error of the driver.
pub fn classify(error: tokio_postgres::Error) -> Error {
    match error.as_db_error() {
        Some(db) => from_server(&db.into(), None),
        None => from_driver(error),
    }
}

/// As [`classify`], where the statement speaks of one table: the server names it only for constraints.
pub fn classify_in(table: &TableName, error: tokio_postgres::Error) -> Error {
    match error.as_db_error() {
        Some(db) => from_server(&db.into(), Some(table)),
        None => from_driver(error),
    }
}

/// What follows from an error that the server reported to a connection of our own.
pub fn classify_reported(reported: &Reported<'_>) -> Error {
    from_server(reported, None)
}

/// What follows from an I/O error of a connection of our own, TLS included.
pub fn classify_io(error: io::Error) -> Error {
    if let Some(tls) = find::<rustls::Error>(&error) {
        return Error::config(format!("TLS: {tls}")).hint(tls_hint(tls));
    }
    Error::transient("the connection to Postgres").caused_by(error)
}

/// The server has no TLS, and the URL demands it.
pub fn no_tls() -> Error {
    Error::config("the server does not offer TLS")
        .hint("set ssl = on in its postgresql.conf, or sslmode=prefer in the URL if the network is trusted")
}

/// The server asks for a password, and none is configured.
pub fn no_password() -> Error {
    Error::config("the server asks for a password and there is none")
        .hint("give it in the configuration, in PGPASSWORD or in ~/.pgpass")
}

/// Server and client do not agree on how to authenticate.
pub fn no_agreement(message: String) -> Error {
    Error::config(message).hint("see channel_binding in the URL, password_encryption and pg_hba.conf at the server")
}

fn from_driver(error: tokio_postgres::Error) -> Error {
    if let Some(tls) = find::<rustls::Error>(&error) {
        return Error::config(format!("TLS: {tls}")).hint(tls_hint(tls));
    }
    // The driver keeps its kinds to itself; its words (error/mod.rs, `Display`) tell them apart.
    let text = chain(&error);
    if text.contains("does not support TLS") {
        return no_tls();
    }
    if text.contains("password missing") {
        return no_password();
    }
    if text.starts_with("authentication error") {
        return no_agreement(text);
    }
    if error.is_closed() || text.starts_with("timeout") || find::<io::Error>(&error).is_some() {
        return Error::transient("the connection to Postgres").caused_by(error);
    }
    Error::corrupt("the server's answer").caused_by(error)
}

/// An error and its causes, as one line.
fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    text
}

/// The first error of a type among an error's causes. An `io::Error` keeps what it wraps out of `source()`.
fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(e) = next {
        if let Some(found) = e.downcast_ref::<T>() {
            return Some(found);
        }
        let inner = e.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match inner {
            Some(inner) => Some(inner as &(dyn StdError + 'static)),
            None => e.source(),
        };
    }
    None
}

fn tls_hint(error: &rustls::Error) -> &'static str {
    use rustls::{CertificateError as C, Error as E};
    match error {
        E::InvalidCertificate(C::UnknownIssuer) => {
            "give the certificate of the authority that signed the server's in sslrootcert (or sslrootcert=system)"
        }
        E::InvalidCertificate(C::NotValidForName | C::NotValidForNameContext { .. }) => {
            "connect by a name that stands in the certificate's subject alternative names, or set sslmode=verify-ca"
        }
        E::InvalidCertificate(C::Expired | C::ExpiredContext { .. }) => "renew the server's certificate",
        E::InvalidCertificate(_) => "the server's certificate must be X.509 version 3 with a subject alternative name",
        _ => "see sslmode, sslrootcert, sslcert and sslkey in the URL, and the server's log",
    }
}

fn from_server(db: &Reported<'_>, table: Option<&TableName>) -> Error {
    let code = db.code;
    let message = message_of(db);
    match (code.get(..2).unwrap_or_default(), code) {
        (_, "53100") => Error::transient(message).hint("disk full: free or add space where the server's data lies"),
        (_, "53300") => Error::transient(message).hint("raise max_connections, or end sessions that idle"),
        (_, "25006") => Error::transient(message)
            .hint("this server is a standby: name the primary, or set target_session_attrs=read-write"),
        (_, "55P03") => Error::transient(message).hint(LOCKED),
        ("08" | "53" | "40", _)
        | (_, "57P01" | "57P02" | "57P03" | "57P05" | "57014" | "55006" | "25P03" | "25P04" | "58030") => {
            Error::transient(message)
        }
        ("28", _) => Error::config(message)
            .hint("check user and password (configuration, PGPASSWORD or ~/.pgpass) and the server's pg_hba.conf"),
        (_, "3D000") => Error::config(message).hint("create it: CREATE DATABASE ...; or name another one in the URL"),
        (_, "42501") => Error::unavailable(message).hint(grant(db.message)),
        (_, "23505") => data(db, table, message).hint(DUPLICATE),
        (_, "23514") => data(db, table, message).hint(unmet(db)),
        ("22" | "23" | "54", _) => data(db, table, message),
        (_, "42P01" | "42703" | "3F000") => {
            let error = Error::unavailable(message).hint("somebody dropped or changed it: run `crossfade check`");
            if let Some(table) = table { error.concerning(table) } else { error }
        }
        _ => Error::unavailable(message),
    }
}

/// What lets rows pass that do not meet a check.
fn unmet(db: &Reported<'_>) -> String {
    let (Some(schema), Some(table), Some(check)) = (db.schema, db.table, db.constraint) else {
        return "look at the checks and partitions of the target's table".into();
    };
    let name = quote::table(&TableName::new(schema, table));
    format!(
        "the source has no such check any more, or does not enforce it; at the target: ALTER TABLE {name} DROP CONSTRAINT {}",
        quote::ident(check)
    )
}

/// The server's words: message, detail, SQLSTATE.
fn message_of(db: &Reported<'_>) -> String {
    let mut text = db.message.to_owned();
    for (name, part) in [("detail", db.detail), ("hint", db.hint), ("context", db.context)] {
        if let Some(part) = part {
            text.push_str(&format!("; {name}: {}", part.replace('\n', " ")));
        }
    }
    format!("{text} (SQLSTATE {})", db.code)
}

/// A value that the table refuses. The table comes from the error, from its context (`COPY orders, line 3, column total`),
/// or from the caller.
fn data(db: &Reported<'_>, table: Option<&TableName>, message: String) -> Error {
    let copy = db.context.and_then(copy_place);
    let name = match (table, db.schema, db.table, copy) {
        (Some(table), ..) => table.to_string(),
        (None, Some(schema), Some(table), _) => format!("{schema}.{table}"),
        (None, _, Some(table), _) | (None, _, None, Some((table, _))) => table.to_owned(),
        (None, _, None, None) => return Error::corrupt(message),
    };
    let message = match db.constraint {
        Some(constraint) => format!("constraint {constraint}: {message}"),
        None => message,
    };
    let error = Error::data(name, message);
    let error = match db.constraint.filter(|_| db.code == "23505") {
        Some(index) => error.index(index),
        None => error,
    };
    match db.column.or(copy.and_then(|(_, column)| column)) {
        Some(column) => error.column(column),
        None => error,
    }
}

/// Table and column of `COPY orders, line 3, column total: "..."`. A name with a comma in it is cut there, which only
/// shortens what is shown.
fn copy_place(context: &str) -> Option<(&str, Option<&str>)> {
    let rest = context.strip_prefix("COPY ")?;
    let (table, rest) = rest.split_once(", line ")?;
    let column = rest.split_once(", column ").map(|(_, c)| c.split([':', '\n']).next().unwrap_or(c));
    Some((table, column))
}

/// The statement that gives what was refused, from words such as `permission denied for table orders`.
fn grant(message: &str) -> String {
    let object = message.rsplit(' ').next().unwrap_or_default();
    if message.contains("session_replication_role") {
        return "as a superuser: GRANT SET ON PARAMETER session_replication_role TO the user (Postgres 15 or later)"
            .into();
    }
    if message.starts_with("must be owner of") {
        return format!("as a superuser: make the user the owner of {object}: ALTER TABLE {object} OWNER TO the user");
    }
    for (kind, privileges) in [
        ("table", "SELECT, INSERT, UPDATE, DELETE ON TABLE"),
        ("schema", "USAGE, CREATE ON SCHEMA"),
        ("database", "CONNECT, CREATE, TEMPORARY ON DATABASE"),
        ("sequence", "USAGE, UPDATE ON SEQUENCE"),
        ("function", "EXECUTE ON FUNCTION"),
    ] {
        if message.contains(&format!("permission denied for {kind} ")) {
            return format!("GRANT {privileges} {object} TO the user");
        }
    }
    "grant the user what the message names; `crossfade check` lists all that is needed".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_copy_errors() {
        assert_eq!(copy_place("COPY orders, line 3, column total: \"x\""), Some(("orders", Some("total"))));
        assert_eq!(copy_place("COPY orders, line 3"), Some(("orders", None)));
        assert_eq!(copy_place("SQL function f"), None);
    }

    #[test]
    fn grants_name_the_object() {
        assert_eq!(
            grant("permission denied for table orders"),
            "GRANT SELECT, INSERT, UPDATE, DELETE ON TABLE orders TO the user"
        );
        assert!(grant("permission denied to set parameter \"session_replication_role\"").contains("ON PARAMETER"));
    }

    #[test]
    fn wrapped_io_errors_are_searched() {
        let tls = rustls::Error::General("x".into());
        let outer = io::Error::new(io::ErrorKind::InvalidData, tls);
        assert!(find::<rustls::Error>(&outer).is_some());
        assert!(find::<rustls::Error>(&io::Error::other("plain")).is_none());
    }
}
