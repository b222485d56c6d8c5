//! Whether a MySQL server's log goes on where a set of transactions ends.
//!
//! After a failover the server is another one, and its log was written by a replica. The server itself looks only for numbers of
//! its own UUID that it does not have (`Binlog_sender::check_start_file` in `sql/rpl_binlog_sender.cc`), and skips in silence
//! what the set holds. So two things are compared before anything is read:
//!
//! - The server has executed all that is in the set. One that was promoted without the last transactions would go on from a
//!   state that the target has left. What is missing may still be on its way, for a moment.
//! - In its log, nothing that is new to the set stands before something that is in it. A transaction of the replica alone (an
//!   errant one) stands where the replica was then: handed on afterwards, it would put its old rows over newer ones. Numbers of
//!   a source that the set knows go on in order; where a source is new to it, which is so once after a failover, the log is
//!   read from the file that the server begins in to the first new transaction.

use std::time::{Duration, Instant};

use crossfade_core::{Error, Result};

use super::dump;
use super::event::{HEADER, Kind};
use super::gtid::{Gtid, GtidSet};
use super::gtid_event;
use super::log::Log;
use super::wire::Wait;
use crate::catalog::literal;
use crate::connect::Server;
use crate::position::FilePosition;
use crate::session::Session;

/// How long a transaction may be in the log and not yet among those executed, or on its way to a replica.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the server may take for its next event while the log is looked through.
const SILENCE: Duration = Duration::from_secs(60);

/// The way on from a server whose log does not follow.
const ANEW: &str = "let the replica catch up before it is promoted, and name the server that has all transactions; where they are \
    lost, compare with the former primary what must not be, and begin anew under another --name, with the target's tables dropped";

/// Compares what `executed`, a position of the target, needs with what the server has. `file` is the one in which the server
/// begins to send.
pub fn verify(server: &Server, executed: &GtidSet, file: &str) -> Result<()> {
    let mut session = server.session()?;
    let deadline = Instant::now() + PATIENCE;
    let have = loop {
        let have = set(&mut session, "SELECT @@GLOBAL.gtid_executed")?;
        let missing = executed.without(&have);
        if missing.is_empty() {
            break have;
        }
        if Instant::now() >= deadline {
            let message = format!(
                "the target holds transactions that this server does not have: {missing} (a replica was promoted without them, or \
                 the server has lost the end of its log)"
            );
            return Err(Error::unavailable(message).hint(ANEW));
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    if !have.without(executed).has_more_sources(executed) {
        return Ok(());
    }
    let purged = set(&mut session, "SELECT @@GLOBAL.gtid_purged")?;
    let before = set_before(&mut session, file)?;
    let (first, passed) = first_new(server, executed, file)?;
    let later = executed.without(&passed).without(&before).without(&purged);
    if later.is_empty() {
        return Ok(());
    }
    let message = format!(
        "transaction {first} stands in this server's log before others that the target holds: {later}. It was executed on the \
         replica alone, before that was promoted (an errant transaction)"
    );
    Err(Error::unavailable(message).hint(ANEW))
}

fn set(session: &mut Session, query: &str) -> Result<GtidSet> {
    GtidSet::parse(&session.value(query)?.unwrap_or_default())
}

/// The transactions of all files before this one: its second event says so.
fn set_before(session: &mut Session, file: &str) -> Result<GtidSet> {
    let rows = session.rows(&format!("SHOW BINLOG EVENTS IN {} LIMIT 2", literal(file)))?;
    let kind = |row: &&Vec<Option<String>>| row.get(2).is_some_and(|k| k.as_deref() == Some("Previous_gtids"));
    match rows.iter().find(kind).and_then(|row| row.get(5).cloned().flatten()) {
        Some(text) => GtidSet::parse(&text),
        None => Err(Error::corrupt(format!("log {file} does not tell which transactions were before it"))),
    }
}

/// The first transaction from the beginning of `file` on that is not in the set, and those before it.
fn first_new(server: &Server, executed: &GtidSet, file: &str) -> Result<(Gtid, GtidSet)> {
    let mut log = Log::new(dump::open_file(server, file)?, FilePosition { file: file.to_owned(), offset: 4 });
    let mut passed = GtidSet::default();
    loop {
        let Some(event) = log.next(Wait::Until(Instant::now() + SILENCE))? else {
            let message = format!("behind {}: a transaction that was executed does not come", log.at());
            return Err(Error::transient(message));
        };
        let bytes = log.take();
        let body = bytes.get(HEADER..event.end).unwrap_or_default();
        let begin = match Kind::of(event.header.kind) {
            Kind::Gtid => Some(gtid_event::parse(body, false)),
            Kind::TaggedGtid => Some(gtid_event::parse_tagged(body)),
            _ => None,
        };
        let begin = begin.transpose().map_err(|f| f.at(log.place()))?;
        log.put(bytes);
        match begin {
            Some(begin) if !executed.contains(&begin.gtid) => return Ok((begin.gtid, passed)),
            Some(begin) => passed.add(&begin.gtid),
            None => {}
        }
    }
}
