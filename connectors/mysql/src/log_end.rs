//! Where the log ends now.
//!
//! A position that a reader takes before it reads must not run ahead of what reading shows: the stream would start behind
//! a change that the read did not see. A commit passes three stations: the log file, the engine (from here on it is
//! seen), the set of executed GTIDs. Hence:
//!
//! - MySQL with GTIDs: `gtid_executed` comes last, so all of it is seen.
//! - MySQL without: the file's end comes first. After it has been read, every commit that is under way (it holds the
//!   global COMMIT metadata lock from before the log to behind the engine) is waited for.
//! - MariaDB: `@@gtid_binlog_pos` and the file's end come first. A consistent snapshot tells how far the engine has come in
//!   terms of the log; it is taken until it has reached the file's end that was read.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::time::{Duration, Instant};

use crossfade_core::{Error, Result};

use crate::binlog::gtid::GtidSet;
use crate::binlog::gtid_list::GtidList;
use crate::catalog::literal;
use crate::connect::{Flavor, Server};
use crate::position::{FilePosition, MySqlPosition};
use crate::session::{Session, TextRow};

/// How long a commit under way may take between the log and the engine.
const PATIENCE: Duration = Duration::from_secs(30);

/// The end of the log. All of it can be seen by reads that start after this call.
pub fn position(server: &Server, session: &mut Session) -> Result<MySqlPosition> {
    match server.flavor {
        Flavor::MySql => {
            let position = position_under_lock(server, session)?;
            if let MySqlPosition::File { .. } = position {
                wait_for_commits(session)?;
            }
            Ok(position)
        }
        Flavor::MariaDb => {
            let gtids = session.value("SELECT @@gtid_binlog_pos")?.unwrap_or_default();
            let (at, _) = status(server, session)?;
            wait_for_engine(session, &at)?;
            Ok(MySqlPosition::MariaDb { list: GtidList::parse(&gtids)?, at: Some(at) })
        }
    }
}

/// The end of MySQL's log while no commit can be under way on the tables that matter.
pub fn position_under_lock(server: &Server, session: &mut Session) -> Result<MySqlPosition> {
    let mode = session.value("SELECT @@gtid_mode")?.unwrap_or_default();
    let (at, row) = status(server, session)?;
    if mode != "ON" {
        let server = server.server_uuid.clone().unwrap_or_default();
        return Ok(MySqlPosition::File { server, at });
    }
    let gtids = row.get(4).cloned().flatten().unwrap_or_default().replace('\n', "");
    Ok(MySqlPosition::Gtid { executed: GtidSet::parse(&gtids)?, at: Some(at) })
}

/// The end of MariaDB's log as the transaction's consistent snapshot has it.
pub fn of_snapshot(server: &Server, session: &mut Session) -> Result<MySqlPosition> {
    let at = snapshot_file(session)?;
    // The server finds the GTIDs of a place by reading the file up to it. Where nothing has been written since, its
    // current GTIDs are those: the log's end is read under the lock that a commit holds while it writes, so two equal
    // ends admit no commit in between.
    let (before, _) = status(server, session)?;
    let gtids = session.value("SELECT @@gtid_binlog_pos")?.unwrap_or_default();
    let (after, _) = status(server, session)?;
    if before == at && after == at {
        return Ok(MySqlPosition::MariaDb { list: GtidList::parse(&gtids)?, at: Some(at) });
    }
    let query = format!("SELECT BINLOG_GTID_POS({}, {})", literal(&at.file), at.offset);
    let gtids = session.value(&query)?.ok_or_else(|| {
        Error::transient(format!("the server cannot tell the GTIDs at {at}: the file has been purged meanwhile"))
    })?;
    Ok(MySqlPosition::MariaDb { list: GtidList::parse(&gtids)?, at: Some(at) })
}

/// `SHOW BINARY LOG STATUS`, under the name that this version knows: the place, and the whole row.
pub fn status(server: &Server, session: &mut Session) -> Result<(FilePosition, TextRow)> {
    let renamed = server.flavor == Flavor::MySql && server.version >= (8, 2, 0);
    let row = session.row(if renamed { "SHOW BINARY LOG STATUS" } else { "SHOW MASTER STATUS" })?;
    let row = row.ok_or_else(no_log)?;
    let at = file_position(row.first().cloned().flatten(), row.get(1).cloned().flatten())?;
    Ok((at, row))
}

fn no_log() -> Error {
    Error::config("the server writes no binlog")
        .hint("set log_bin and server_id in the server's configuration, and restart it")
}

fn file_position(file: Option<String>, offset: Option<String>) -> Result<FilePosition> {
    let offset = offset.and_then(|o| o.parse().ok());
    match (file, offset) {
        (Some(file), Some(offset)) if !file.is_empty() => Ok(FilePosition { file, offset }),
        _ => Err(no_log()),
    }
}

fn snapshot_file(session: &mut Session) -> Result<FilePosition> {
    let rows = session.rows("SHOW STATUS LIKE 'binlog_snapshot_%'")?;
    let find = |name: &str| {
        let row =
            rows.iter().find(|r| r.first().is_some_and(|n| n.as_deref().is_some_and(|n| n.eq_ignore_ascii_case(name))));
        row.and_then(|r| r.get(1).cloned().flatten())
    };
    file_position(find("Binlog_snapshot_file"), find("Binlog_snapshot_position"))
}

/// Waits until MariaDB's engines show everything up to this place in the log.
fn wait_for_engine(session: &mut Session, at: &FilePosition) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        session.run("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")?;
        let seen = snapshot_file(session);
        session.run("ROLLBACK")?;
        match seen?.order(at) {
            Some(Ordering::Less) => pause(deadline)?,
            Some(Ordering::Equal | Ordering::Greater) => return Ok(()),
            None => return Err(Error::transient("the log was reset while its end was read")),
        }
    }
}

/// Waits until every commit that is under way on MySQL now has reached the engine.
fn wait_for_commits(session: &mut Session) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut waited_for: Option<HashSet<TextRow>> = None;
    loop {
        let rows = session
            .rows(
                "SELECT OWNER_THREAD_ID, OWNER_EVENT_ID FROM performance_schema.metadata_locks \
                 WHERE OBJECT_TYPE = 'COMMIT' AND LOCK_STATUS = 'GRANTED' AND OWNER_THREAD_ID <> PS_CURRENT_THREAD_ID()",
            )
            .map_err(|e| {
                Error::unavailable("without GTIDs, commits under way are read from performance_schema.metadata_locks")
                    .caused_by(e)
                    .hint("set gtid_mode = ON, or GRANT SELECT ON performance_schema.metadata_locks TO the user")
            })?;
        let now: HashSet<TextRow> = rows.into_iter().collect();
        let waiting = match &waited_for {
            None => now,
            Some(before) => before.intersection(&now).cloned().collect(),
        };
        if waiting.is_empty() {
            return Ok(());
        }
        waited_for = Some(waiting);
        pause(deadline)?;
    }
}

fn pause(deadline: Instant) -> Result<()> {
    if Instant::now() > deadline {
        return Err(Error::transient(format!("a commit has been under way for {} s", PATIENCE.as_secs()))
            .hint("look for it with SHOW PROCESSLIST; a semi-synchronous replica may be missing"));
    }
    std::thread::sleep(Duration::from_millis(1));
    Ok(())
}

/// Bytes of log between two places, from the sizes that the server lists; `None` if it no longer has one of them.
pub fn distance(session: &mut Session, from: &FilePosition, to: &FilePosition) -> Result<Option<u64>> {
    let rows = session.rows("SHOW BINARY LOGS")?;
    let mut sizes = Vec::new();
    for row in rows {
        if let [Some(file), Some(size), ..] = row.as_slice() {
            let size: u64 = size.parse().map_err(|_| Error::corrupt(format!("the size of log {file} is {size}")))?;
            sizes.push((file.clone(), size));
        }
    }
    Ok(sum(&sizes, from, to))
}

fn sum(sizes: &[(String, u64)], from: &FilePosition, to: &FilePosition) -> Option<u64> {
    let first = sizes.iter().position(|(file, _)| *file == from.file)?;
    let last = sizes.iter().position(|(file, _)| *file == to.file)?;
    if first > last {
        return None;
    }
    let before: u64 = sizes[first..last].iter().map(|(_, size)| size).sum();
    (before + to.offset).checked_sub(from.offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_over_files() {
        let sizes = [("b.1".to_owned(), 100), ("b.2".to_owned(), 50), ("b.3".to_owned(), 70)];
        let at = |file: &str, offset| FilePosition { file: file.into(), offset };
        assert_eq!(sum(&sizes, &at("b.1", 90), &at("b.3", 4)), Some(10 + 50 + 4));
        assert_eq!(sum(&sizes, &at("b.2", 10), &at("b.2", 30)), Some(20));
        assert_eq!(sum(&sizes, &at("b.0", 10), &at("b.2", 30)), None, "purged");
        assert_eq!(sum(&sizes, &at("b.3", 10), &at("b.2", 30)), None);
    }
}
