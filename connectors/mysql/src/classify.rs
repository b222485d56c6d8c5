//! The server's errors by consequence: one place decides whether the pipeline tries again, or a person must act.
//!
//! Codes are those of MySQL's `share/messages_to_clients.txt` and MariaDB's `sql/share/errmsg-utf8.txt`. A code that
//! stands in no list is fatal: repeating a statement that the server refuses for an unknown reason only hides it.

use crossfade_core::Error;
/// The same for the very first connection: a server that is not there is a mistake to tell, not to wait out.
pub fn first_contact(error: Error, place: &str) -> Error {
    if !error.is_transient() || error.hint_text().is_some() {
        return error;
    }
    Error::unavailable(format!("cannot reach the server at {place}")).caused_by(error).hint(format!(
        "is a server listening at {place}, and does a firewall or bind_address keep it from this machine?"
    ))
}

/// What follows from an error packet of the server.
pub fn server(code: u16, state: &str, message: &str) -> Error {
    let text = format!("the server says {code} ({state}): {message}");
    match code {
        // Access denied for user (also: account locked, password expired).
        1045 | 1698 => Error::config(text)
            .hint("check user and password; a password in a URL must be percent-encoded, or come from a file"),
        1862 | 1820 | 3118 | 4151 => Error::config(text).hint("ALTER USER ... IDENTIFIED BY '...' ACCOUNT UNLOCK"),
        1044 | 1142 | 1143 | 1227 | 1370 => Error::unavailable(text).hint(format!(
            "GRANT SELECT, LOCK TABLES ON `database`.* TO user; GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO \
             user (MariaDB: BINLOG MONITOR); missing here: {}",
            missing_privilege(message)
        )),
        1049 => Error::unavailable(text).hint("name an existing database in the URL's path: SHOW DATABASES lists them"),
        1146 => Error::unavailable(text).hint("the table was dropped or renamed: correct the selection of tables"),
        // Too many connections (also per user), host blocked by failed handshakes.
        1040 | 1203 | 1226 | 1129 => Error::transient(text),
        // A column that was there when the tables were listed: the log will tell of the change.
        1054 => Error::transient(text),
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
        let refused = || Error::transient("cannot reach db:3306").caused_by(std::io::Error::other("refused"));
        let first = first_contact(refused(), "db:3306");
        assert!(!first.is_transient());
        assert!(first.hint_text().unwrap().contains("db:3306"));
        assert!(first_contact(server(1040, "08004", "Too many connections"), "db").exit() as u8 == 69);
    }
}
