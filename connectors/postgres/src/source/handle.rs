//! The server as a [`Source`].
//!
//! The end of the log is asked for every second, so one session is kept for such questions. It is not locked while a question
//! is asked; who finds it taken opens one of its own.

use std::cmp::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossfade_core::{
    Column, Consistency, Details, Endpoint, Error, Finding, Logical, Omissions, Position, Result, Retained, Selection,
    Snapshot, Source, Stream, TableName, TableSchema,
};
use tokio::runtime::Handle;

use super::catalog::{self, Scope};
use super::position::PgPosition;
use super::prepared::Prepared;
use super::slot::{self, Names, Slot};
use super::snapshot::{Pool, SourceSnapshot};
use super::stream::PgStream;
use super::watch::{self, Picture, Watched};
use super::{check, details, history, log_end};
use crate::connect::Server;

/// How long a reader that has just ended may still hold the slot.
const RELEASE: Duration = Duration::from_secs(3);

/// A source from its URL. `pipeline` names slot and publication, unless the URL does.
pub fn open_source(endpoint: &Endpoint, pipeline: &str, omissions: Omissions, runtime: Handle) -> Result<PgSource> {
    let server = Server::new(endpoint, runtime)?;
    let names = Names::new(pipeline, server.options());
    let scope = Scope { partitions: server.options().partitions, omissions };
    Ok(PgSource { server, names, scope, kept: Arc::default(), pool: Arc::default() })
}

/// A Postgres database whose log is read.
#[derive(Clone)]
pub struct PgSource {
    server: Server,
    names: Names,
    scope: Scope,
    /// Sessions that former questions have left.
    kept: Arc<Mutex<Vec<Prepared>>>,
    /// Sessions for snapshots.
    pool: Pool,
}

/// Sessions that are kept: the copy's threads and whoever watches over them ask at once, and a new session costs several times as
/// much as most questions.
const KEPT: usize = 3;

impl PgSource {
    /// What its slot and publication are called.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// The slots of the server.
    pub fn slots(&self) -> Result<Vec<Slot>> {
        self.ask(async |client| slot::list(client).await)
    }

    /// Removes slot and publication. A pipeline of this source cannot be continued afterwards, only begun anew.
    pub fn uninstall(&self) -> Result<Vec<String>> {
        self.ask(async |client| slot::remove(client, &self.names).await)
    }

    fn watched(&self, stream: PgStream, tables: &[Arc<TableSchema>]) -> Result<Box<dyn Stream>> {
        let names: Vec<TableName> = tables.iter().map(|t| t.name.clone()).collect();
        let picture = self.ask(async |client| watch::look(client, &self.names.publication, &names).await)?;
        let source = self.clone();
        let again = move |before: &Picture| {
            source.ask(async |client| watch::look_again(client, &source.names.publication, &names, before).await)
        };
        Ok(Box::new(Watched::new(stream, picture, Box::new(again))))
    }

    /// Asks over a kept session. It may have died unseen since its last question, so a passing error is followed by one
    /// more attempt on a new one.
    fn ask<T>(&self, question: impl AsyncFn(&Prepared) -> Result<T>) -> Result<T> {
        let kept = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let former = kept().pop();
        let answer = async |client: Prepared| {
            let answer = question(&client).await?;
            let mut kept = kept();
            if kept.len() < KEPT {
                kept.push(client);
            }
            Ok::<T, Error>(answer)
        };
        self.server.block_on(async {
            match former {
                Some(client) => match answer(client).await {
                    Err(e) if e.is_transient() => answer(Prepared::open(&self.server).await?).await,
                    answered => answered,
                },
                None => answer(Prepared::open(&self.server).await?).await,
            }
        })
    }
}

impl Source for PgSource {
    fn check(&self, selection: &Selection) -> Result<Vec<Finding>> {
        self.ask(async |client| check::check(client, &self.names, selection, &self.scope, self.server.options()).await)
    }

    fn check_history(&self, selection: &Selection) -> Result<Vec<Finding>> {
        self.ask(async |client| history::check(client, selection, &self.scope).await)
    }

    fn tables(&self, selection: &Selection) -> Result<Vec<Arc<TableSchema>>> {
        self.ask(async |client| {
            Ok(catalog::tables(client, selection, &self.scope).await?.into_iter().map(Arc::new).collect())
        })
    }

    fn details(&self, tables: &[Arc<TableSchema>]) -> Result<Vec<Details>> {
        self.ask(async |client| details::details(client, tables, &self.scope).await)
    }

    fn begin(&self, tables: &[Arc<TableSchema>]) -> Result<Position> {
        self.ask(async |client| {
            let mut known = Vec::with_capacity(tables.len());
            for table in tables {
                let relation = catalog::relation(client, &table.name).await?;
                known.push((table.as_ref(), relation.is_some_and(|(_, partitioned)| partitioned)));
            }
            slot::begin(client, &self.names, &known, self.scope.partitions).await?;
            Ok(log_end::position(client).await?.to_position())
        })
    }

    fn position(&self) -> Result<Position> {
        self.ask(async |client| Ok(log_end::position(client).await?.to_position()))
    }

    fn order(&self, a: &Position, b: &Position) -> Result<Ordering> {
        PgPosition::parse(a)?.order(&PgPosition::parse(b)?)
    }

    fn distance(&self, from: &Position, to: &Position) -> Result<Option<u64>> {
        Ok(PgPosition::parse(to)?.lsn.0.checked_sub(PgPosition::parse(from)?.lsn.0))
    }

    fn retained(&self) -> Result<Option<Retained>> {
        let ours = self.slots()?.into_iter().find(|s| s.name == self.names.slot);
        Ok(ours.map(|s| s.retained()))
    }

    fn snapshot(&self, tables: &[Arc<TableSchema>], consistency: Consistency) -> Result<Box<dyn Snapshot>> {
        Ok(Box::new(SourceSnapshot::open(&self.server, tables, Some(consistency), &self.pool)?))
    }

    fn peek(&self, tables: &[Arc<TableSchema>]) -> Result<Box<dyn Snapshot>> {
        Ok(Box::new(SourceSnapshot::open(&self.server, tables, None, &self.pool)?))
    }

    fn orders_by_value(&self, key: &Column) -> bool {
        key.logical.has_one_order() || key.logical == Logical::Uuid
    }

    fn stream(&self, from: &Position, tables: &[Arc<TableSchema>]) -> Result<Box<dyn Stream>> {
        let source = self.clone();
        let describe =
            move |name: &TableName| source.ask(async |client| catalog::columns(client, name, &source.scope).await);
        let Names { slot, publication } = &self.names;
        let deadline = Instant::now() + RELEASE;
        let server = self.server.alone()?;
        loop {
            let (describe, omissions) = (Box::new(describe.clone()), &self.scope.omissions);
            match PgStream::start(&server, slot, publication, from, tables, describe, omissions) {
                // The server lets a slot go a moment after its reader has said goodbye.
                Err(e) if e.is_transient() && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(50))
                }
                started => return self.watched(started?, tables),
            }
        }
    }
}
