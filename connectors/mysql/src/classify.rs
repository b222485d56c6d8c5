//! The driver's errors by consequence: one place decides whether the pipeline tries again, or a person must act.
//!
//! Codes are those of MySQL's `share/messages_to_clients.txt` and MariaDB's `sql/share/errmsg-utf8.txt`. A code that
//! stands in no list is fatal: repeating a statement that the server refuses for an unknown reason only hides it.

use crossfade_core::Error;
use mysql_async::{DriverError, IoError};

/// What follows from an error of an established connection. Lost connections are transient; see [`first_contact`].
pub fn classify(error: mysql_async::Error) -> Error {
    match error {
        mysql_async::Error::Server(e) => server(e.code, &e.state, &e.message),
        mysql_async::Error::Io(IoError::Tls(e)) => Error::config("TLS with the server failed").caused_by(e).hint(
            "check ssl-ca and ssl-mode; VERIFY_IDENTITY needs the host name in the certificate, ssl-mode=REQUIRED encrypts \
             without verifying",
        ),
        mysql_async::Error::Io(IoError::Io(e)) if tls_failure(&e) => classify_tls(e),
        mysql_async::Error::Io(e) => Error::transient("the connection to the server was lost").caused_by(e),
        mysql_async::Error::Driver(e) => driver(e),
        mysql_async::Error::Url(e) => Error::config("the URL is not usable").caused_by(e),
        mysql_async::Error::Other(e) => Error::corrupt("the server's answer could not be read").caused_by(e),
    }
}

/// The same for the very first connection: a server that is not there is a mistake to tell, not to wait out.
pub fn first_contact(error: Error, place: &str) -> Error {
    if !error.is_transient() || error.hint_text().is_some() {
        return error;
    }
    Error::unavailable(format!("cannot reach the server at {place}")).caused_by(error).hint(format!(
        "is a server listening at {place}, and does a firewall or bind_address keep it from this machine?"
    ))
}

/// rustls reports a refused certificate as an I/O error that wraps its own.
fn tls_failure(error: &std::io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
}

fn classify_tls(error: std::io::Error) -> Error {
    Error::config("TLS with the server failed").caused_by(error).hint(
        "give the signing authority as ssl-ca=/path/ca.pem; VERIFY_IDENTITY needs the host name in the certificate, \
         ssl-mode=REQUIRED encrypts without verifying",
    )
}

fn driver(error: DriverError) -> Error {
    match error {
        DriverError::ConnectionClosed | DriverError::PoolDisconnected => {
            Error::transient("the connection to the server was closed").caused_by(error)
        }
        DriverError::NoClientSslFlagFromServer => Error::config("the server offers no TLS").hint(
            "give the server a certificate (ssl_cert, ssl_key), or set ssl-mode=DISABLED where the network is trusted",
        ),
        DriverError::UnknownAuthPlugin { .. }
        | DriverError::MysqlOldPasswordDisabled
        | DriverError::CleartextPluginDisabled => {
            Error::config("the user's authentication plugin is not supported").caused_by(error).hint(
                "ALTER USER ... IDENTIFIED WITH caching_sha2_password BY '...' (MySQL), or VIA ed25519 or \
                 mysql_native_password (MariaDB)",
            )
        }
        DriverError::PacketTooLarge => Error::unavailable("a packet is larger than 1 GiB").caused_by(error),
        other => Error::corrupt("the server's answer could not be read").caused_by(other),
    }
}

/// What follows from an error packet of the server.
pub fn server(code: u16, state: &str, message: &str) -> Error {
    let text = format!("the server says {code} ({state}): {message}");
    match code {
        // Access denied for user (also: account locked, password expired).
        1045 | 1698 => Error::unavailable(text)
            .hint("check user and password; a password in a URL must be percent-encoded, or come from a file"),
        1862 | 1820 | 3118 | 4151 => Error::unavailable(text).hint("ALTER USER ... IDENTIFIED BY '...' ACCOUNT UNLOCK"),
        1044 | 1142 | 1143 | 1227 | 1370 => Error::unavailable(text).hint(format!(
            "GRANT SELECT, LOCK TABLES ON `database`.* TO user; GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO \
             user (MariaDB: BINLOG MONITOR); missing here: {}",
            missing_privilege(message)
        )),
        1049 => Error::unavailable(text).hint("name an existing database in the URL's path: SHOW DATABASES lists them"),
        1146 => Error::unavailable(text).hint("the table was dropped or renamed: correct the selection of tables"),
        // Too many connections (also per user), host blocked by failed handshakes.
        1040 | 1203 | 1226 | 1129 => Error::transient(text),
        // Lock wait timeout, deadlock, table definition changed under a snapshot, lock interrupted.
        1205 | 1213 | 1412 | 3572 => Error::transient(text),
        // Server shutdown, query killed, timeouts on the net, malformed or out-of-order packets, connection killed.
        1053 | 1077..=1080 | 1152..=1161 | 1184 | 1317 | 1927 | 3024 | 3032 | 3168 | 3169 | 4031 | 1969 => {
            Error::transient(text)
        }
        // Out of memory, too many open files: the machine's state, which may pass.
        1037 | 1038 | 1041 | 1135 => Error::transient(text),
        // Binlog: purged, or a position that is not there. Never skipped.
        1236 | 1789 => Error::unavailable(text)
            .hint("the binlog no longer reaches back to this position: copy anew; raise binlog_expire_logs_seconds"),
        3159 => Error::config(text).hint("the server has require_secure_transport: set ssl-mode=REQUIRED"),
        2061 => Error::config(text).hint("set ssl-mode=REQUIRED"),
        _ => Error::unavailable(text),
    }
}

/// The privilege in `Access denied; you need (at least one of) the X privilege(s) for this operation` and its like.
fn missing_privilege(message: &str) -> &str {
    let after = message.split_once("of) the ").map(|(_, rest)| rest);
    match after.and_then(|rest| rest.split_once(" privilege")) {
        Some((privilege, _)) => privilege,
        None => message.split_whitespace().next().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_consequence() {
        for code in [1040, 1053, 1205, 1213, 1317, 1927] {
            assert!(server(code, "HY000", "x").is_transient(), "{code}");
        }
        for code in [1044, 1045, 1049, 1064, 1142, 1227, 1236, 9999] {
            assert!(!server(code, "HY000", "x").is_transient(), "{code}");
        }
        let e = server(
            1227,
            "42000",
            "Access denied; you need (at least one of) the REPLICATION SLAVE privilege(s) for this",
        );
        assert!(e.hint_text().unwrap().contains("missing here: REPLICATION SLAVE"), "{e:?}");
        assert!(e.hint_text().unwrap().contains("GRANT"));
    }

    #[test]
    fn a_refused_connection_waits_only_while_running() {
        let io = || mysql_async::Error::from(std::io::Error::from(std::io::ErrorKind::ConnectionRefused));
        assert!(classify(io()).is_transient());
        let first = first_contact(classify(io()), "db:3306");
        assert!(!first.is_transient());
        assert!(first.hint_text().unwrap().contains("db:3306"));
        assert!(first_contact(server(1040, "08004", "Too many connections"), "db").exit() as u8 == 69);
    }
}
