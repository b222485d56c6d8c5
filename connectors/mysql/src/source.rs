//! The server as a [`Source`].
//!
//! Nothing is installed on the server: [`Source::begin`] is the log's end. The log is kept by the server's own settings,
//! so a position too old is found out when the stream starts, and [`crate::check`] warns before.
//!
//! The end of the log is asked for every second, so one connection is kept for such questions: a login each time would fill
//! the server's audit log. It is not locked while a question is asked; who finds it taken opens one of its own.

use std::cmp::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossfade_core::{
    Column, Consistency, Details, Finding, Position, Result, Retained, Selection, Snapshot, Source, Stream, TableSchema,
};

use crate::binlog::stream::BinlogStream;
use crate::catalog;
use crate::check;
use crate::connect::Server;
use crate::details;
use crate::log_end;
use crate::position::MySqlPosition;
use crate::references;
use crate::session::Session;
use crate::snapshot::{Pool, ServerSnapshot};

/// A MySQL or MariaDB server whose log is read.
#[derive(Debug, Clone)]
pub struct MySqlSource {
    server: Server,
    /// The connection that the last question has left.
    kept: Arc<Mutex<Option<Session>>>,
    /// Sessions for snapshots.
    pool: Pool,
}

impl MySqlSource {
    /// A source that reads this server.
    pub fn new(server: Server) -> Self {
        MySqlSource { server, kept: Arc::default(), pool: Arc::default() }
    }

    /// Asks over the kept connection. It may have died unseen since the last question, so a passing error is followed by one
    /// more attempt on a new one; questions change nothing.
    fn ask<T>(&self, question: impl Fn(&mut Session) -> Result<T>) -> Result<T> {
        let kept = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let former = kept().take();
        let answer = |mut session: Session| -> Result<T> {
            let answer = question(&mut session)?;
            *kept() = Some(session);
            Ok(answer)
        };
        match former.map(answer) {
            Some(Err(e)) if e.is_transient() => answer(self.server.session()?),
            Some(answered) => answered,
            None => answer(self.server.session()?),
        }
    }
}

impl Source for MySqlSource {
    fn check(&self, selection: &Selection) -> Result<Vec<Finding>> {
        check::check(&self.server, selection)
    }

    fn check_history(&self, selection: &Selection) -> Result<Vec<Finding>> {
        self.ask(|session| check::whole_rows(&self.server, session, selection))
    }

    fn check_references(&self, tables: &[Arc<TableSchema>]) -> Result<Vec<Finding>> {
        self.ask(|session| references::check(session, tables))
    }

    fn tables(&self, selection: &Selection) -> Result<Vec<Arc<TableSchema>>> {
        self.ask(|session| catalog::tables(&self.server, session, selection))
    }

    fn details(&self, tables: &[Arc<TableSchema>]) -> Result<Vec<Details>> {
        self.ask(|session| details::details(&self.server, session, tables))
    }

    fn begin(&self, _tables: &[Arc<TableSchema>]) -> Result<Position> {
        self.position()
    }

    /// The engine's commit shows a transaction to queries; `gtid_executed` and the log's end follow it by microseconds, as a rule.
    fn settle(&self) -> Duration {
        Duration::from_millis(200)
    }

    fn position(&self) -> Result<Position> {
        self.ask(|session| Ok(log_end::position(&self.server, session)?.to_position()))
    }

    fn order(&self, a: &Position, b: &Position) -> Result<Ordering> {
        MySqlPosition::parse(a)?.order(&MySqlPosition::parse(b)?)
    }

    fn distance(&self, from: &Position, to: &Position) -> Result<Option<u64>> {
        let (from, to) = (MySqlPosition::parse(from)?, MySqlPosition::parse(to)?);
        match (from.at(), to.at()) {
            (Some(from), Some(to)) => self.ask(|session| log_end::distance(session, from, to)),
            _ => Ok(None),
        }
    }

    fn retained(&self) -> Result<Option<Retained>> {
        // The server discards its log by binlog_expire_logs_seconds, whoever reads it.
        Ok(None)
    }

    fn snapshot(&self, tables: &[Arc<TableSchema>], consistency: Consistency) -> Result<Box<dyn Snapshot>> {
        Ok(Box::new(ServerSnapshot::open(&self.server, tables, consistency, &self.pool)?))
    }

    /// A YEAR takes a number of two digits for one of four.
    fn orders_by_value(&self, key: &Column) -> bool {
        key.logical.has_one_order() && !key.source_type.starts_with("year")
    }

    fn stream(&self, from: &Position, tables: &[Arc<TableSchema>]) -> Result<Box<dyn Stream>> {
        Ok(Box::new(BinlogStream::start(&self.server, from, tables)?))
    }
}
