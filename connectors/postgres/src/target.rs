//! A Postgres database as a target: the handle from which everything else is opened.

use std::sync::Arc;

use arrow_array::RecordBatch;
use crossfade_core::{
    Checkpoint, Column, Details, Endpoint, Finding, History, Kept, Loader, Logical, Op, Owner, Result, Snapshot,
    Surveyor, Suspension, TableName, TableSchema, Target, Writer,
};
use tokio::runtime::Handle;
use tokio_postgres::Client;

use crate::check;
use crate::connect::Server;
use crate::control::{self, State};
use crate::finish;
use crate::loader::PostgresLoader;
use crate::original;
use crate::script;
use crate::snapshot::TargetSnapshot;
use crate::statement::statement;
use crate::survey::PostgresSurveyor;
use crate::writer::PostgresWriter;

/// A target from its URL; see [`PostgresTarget::new`].
pub fn open(endpoint: &Endpoint, runtime: Handle) -> Result<Arc<dyn Target>> {
    Ok(Arc::new(PostgresTarget::new(endpoint, runtime)?))
}

/// A database that keeps the latest state of each row.
#[derive(Clone)]
pub struct PostgresTarget {
    server: Server,
}

impl PostgresTarget {
    /// Reads the endpoint's options; connects to nothing yet. Connections live on `runtime`.
    pub fn new(endpoint: &Endpoint, runtime: Handle) -> Result<PostgresTarget> {
        Ok(PostgresTarget { server: Server::new(endpoint, runtime)? })
    }

    /// What is remembered of a pipeline, and the session it was read through.
    async fn state(&self, pipeline: &str) -> Result<(Client, Option<State>)> {
        let client = self.server.client().await?;
        let state = if control::exists(&client).await? { control::read(&client, pipeline).await? } else { None };
        Ok((client, state))
    }
}

impl Target for PostgresTarget {
    fn history(&self) -> History {
        History::Net
    }

    fn check(&self, pipeline: &str, tables: &[Arc<TableSchema>]) -> Result<Vec<Finding>> {
        self.server.block_on(async { check::check(&self.server.client().await?, pipeline, tables).await })
    }

    fn ddl(&self, tables: &[(Arc<TableSchema>, Details)]) -> Result<Option<String>> {
        script::script(tables).map(Some)
    }

    fn recover(&self, pipeline: &str) -> Result<Option<Checkpoint>> {
        let (_, state) = self.server.block_on(self.state(pipeline))?;
        Ok(state.and_then(|s| s.checkpoint))
    }

    fn suspended(&self, pipeline: &str) -> Result<Vec<(TableName, Suspension)>> {
        let (_, state) = self.server.block_on(self.state(pipeline))?;
        Ok(state.map_or_else(Vec::new, |s| s.suspended.into_iter().collect()))
    }

    /// The owner is whoever holds the session lock: a row alone tells only who had it last.
    fn owner(&self, pipeline: &str) -> Result<Option<Owner>> {
        self.server.block_on(async {
            let (client, state) = self.state(pipeline).await?;
            let held = control::lock_holder(&client, pipeline).await?.is_some();
            Ok(state.filter(|_| held).map(|s| s.owner))
        })
    }

    fn open(&self, owner: &Owner) -> Result<Box<dyn Writer>> {
        Ok(Box::new(PostgresWriter::open(&self.server, owner)?))
    }

    fn loader(&self, pipeline: &str, epoch: u64) -> Result<Box<dyn Loader>> {
        Ok(Box::new(PostgresLoader::open(&self.server, pipeline, epoch)?))
    }

    fn kept(&self, pipeline: &str) -> Result<Vec<Kept>> {
        self.server.block_on(async { original::count(&self.server.client().await?, pipeline).await })
    }

    fn settle(&self, pipeline: &str) -> Result<()> {
        self.server.block_on(async {
            let (client, state) = self.state(pipeline).await?;
            match state {
                Some(state) => finish::set_sequences(&client, &state.tables).await,
                None => Ok(()),
            }
        })
    }

    fn statement(&self, op: Op, table: &TableSchema, row: &RecordBatch, changed: &[usize]) -> Result<Option<String>> {
        statement(op, table, row, changed).map(Some)
    }

    fn surveyor(&self, table: &Arc<TableSchema>) -> Result<Option<Box<dyn Surveyor>>> {
        Ok(Some(Box::new(PostgresSurveyor::open(&self.server, table)?)))
    }

    fn orders_by_value(&self, key: &Column) -> bool {
        key.logical.has_one_order() || key.logical == Logical::Uuid
    }

    fn snapshot(&self, pipeline: &str, _: &[Arc<TableSchema>]) -> Result<Box<dyn Snapshot>> {
        Ok(Box::new(TargetSnapshot::open(&self.server, pipeline)?))
    }
}
