//! The server as a [`Source`].
//!
//! Nothing is installed on the server: [`Source::begin`] is the log's end. The log is kept by the server's own settings,
//! so a position too old is found out when the stream starts, and [`crate::check`] warns before.

use std::cmp::Ordering;
use std::sync::Arc;

use crossfade_core::{Consistency, Finding, Position, Result, Selection, Snapshot, Source, Stream, TableSchema};

use crate::binlog::stream::BinlogStream;
use crate::catalog;
use crate::check;
use crate::connect::Server;
use crate::log_end;
use crate::position::MySqlPosition;
use crate::snapshot::ServerSnapshot;

/// A MySQL or MariaDB server whose log is read.
#[derive(Debug, Clone)]
pub struct MySqlSource {
    server: Server,
}

impl MySqlSource {
    /// A source that reads this server.
    pub fn new(server: Server) -> Self {
        MySqlSource { server }
    }
}

impl Source for MySqlSource {
    fn check(&self, selection: &Selection) -> Result<Vec<Finding>> {
        check::check(&self.server, selection)
    }

    fn tables(&self, selection: &Selection) -> Result<Vec<Arc<TableSchema>>> {
        catalog::tables(&self.server, &mut self.server.session()?, selection)
    }

    fn begin(&self, _tables: &[Arc<TableSchema>]) -> Result<Position> {
        self.position()
    }

    fn position(&self) -> Result<Position> {
        Ok(log_end::position(&self.server, &mut self.server.session()?)?.to_position())
    }

    fn order(&self, a: &Position, b: &Position) -> Result<Ordering> {
        MySqlPosition::parse(a)?.order(&MySqlPosition::parse(b)?)
    }

    fn distance(&self, from: &Position, to: &Position) -> Result<Option<u64>> {
        let (from, to) = (MySqlPosition::parse(from)?, MySqlPosition::parse(to)?);
        match (from.at(), to.at()) {
            (Some(from), Some(to)) => log_end::distance(&mut self.server.session()?, from, to),
            _ => Ok(None),
        }
    }

    fn snapshot(&self, tables: &[Arc<TableSchema>], consistency: Consistency) -> Result<Box<dyn Snapshot>> {
        Ok(Box::new(ServerSnapshot::open(&self.server, tables, consistency)?))
    }

    fn stream(&self, from: &Position, tables: &[Arc<TableSchema>]) -> Result<Box<dyn Stream>> {
        Ok(Box::new(BinlogStream::start(&self.server, from, tables)?))
    }
}
