//! Reads the tables back at exactly the pipeline's checkpoint.
//!
//! One `REPEATABLE READ, READ ONLY` transaction on a connection of its own. The checkpoint row is read in it, and since
//! every commit writes that row together with the data, the row's position is the position of all that the transaction
//! sees. Writers go on meanwhile.

use std::sync::Arc;

use arrow_array::RecordBatch;
use crossfade_core::sequence::Behind;
use crossfade_core::totals::Totals;
use crossfade_core::{Error, Kept, KeyRange, Orphans, Position, Result, Snapshot, TableSchema};
use tokio_postgres::Client;

use crate::classify::classify;
use crate::connect::Server;
use crate::quote::{self, ident};
use crate::ranges::{self, Relation};
use crate::sql::feed_value;
use crate::totals;
use crate::types::PgType;
use crate::{control, figure, original, orphans, sequences};

/// A readable state of the target's tables.
pub struct TargetSnapshot {
    server: Server,
    client: Client,
    pipeline: String,
    position: Position,
}

impl TargetSnapshot {
    /// Opens the state of now. An error if the pipeline has committed nothing yet.
    pub fn open(server: &Server, pipeline: &str) -> Result<TargetSnapshot> {
        let server = server.alone()?;
        let (client, row) = server.block_on(async {
            let client = server.client().await?;
            client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await.map_err(classify)?;
            // The snapshot is taken by the first statement: this one.
            let sql = format!("SELECT COALESCE(l.position, c.position) {} AND c.position IS NOT NULL", control::LAST);
            let row = client.query_opt(&sql, &[&pipeline]).await.map_err(classify)?;
            client.batch_execute(ranges::SAVEPOINT).await.map_err(classify)?;
            Ok::<_, Error>((client, row))
        })?;
        let row = row.ok_or_else(|| {
            Error::unavailable(format!("pipeline {pipeline} has committed nothing to this target yet"))
                .hint("start it first, or name the pipeline that wrote the target")
        })?;
        let position = Position::new(row.try_get::<_, String>(0).map_err(classify)?);
        Ok(TargetSnapshot { server, client, pipeline: pipeline.to_owned(), position })
    }
}

impl TargetSnapshot {
    fn ended<T>(&self, read: Result<T>) -> Result<T> {
        if read.is_err() {
            ranges::go_on(&self.server, &self.client);
        }
        read
    }
}

impl Snapshot for TargetSnapshot {
    fn position(&self) -> &Position {
        &self.position
    }

    fn split(&mut self, table: &TableSchema, rows: u64) -> Result<Vec<KeyRange>> {
        self.ended(ranges::split(&self.server, &self.client, &relation(table), rows))
    }

    fn scan(
        &mut self,
        table: &TableSchema,
        range: &KeyRange,
        sink: &mut dyn FnMut(RecordBatch) -> Result<()>,
    ) -> Result<()> {
        self.ended(ranges::scan(&self.server, &self.client, &relation(table), range, sink))
    }

    fn fetch(
        &mut self,
        table: &TableSchema,
        keys: &RecordBatch,
        sink: &mut dyn FnMut(RecordBatch) -> Result<()>,
    ) -> Result<()> {
        self.ended(ranges::fetch(&self.server, &self.client, &relation(table), keys, sink))
    }

    fn kept(&mut self) -> Result<Option<Vec<Kept>>> {
        self.ended(self.server.block_on(original::count(&self.client, &self.pipeline))).map(Some)
    }

    fn sequences(&mut self, table: &TableSchema) -> Result<Vec<Behind>> {
        self.ended(sequences::behind(&self.server, &self.client, table))
    }

    fn totals(&mut self, table: &TableSchema) -> Result<Option<Totals>> {
        self.ended(totals::totals(&self.server, &self.client, &relation(table))).map(Some)
    }

    fn ask(&mut self, statement: &str) -> Result<Option<String>> {
        self.ended(figure::ask(&self.server, &self.client, statement))
    }

    fn orphans(&mut self, table: &TableSchema, tables: &[Arc<TableSchema>]) -> Result<Option<Vec<Orphans>>> {
        self.ended(orphans::all(&self.server, &self.client, table, tables)).map(Some)
    }
}

/// The table with each column cast to the type that its decoder reads. Types have no modifiers in these casts:
/// `::numeric(10,2)` would round what it ought to show.
pub fn relation(table: &TableSchema) -> Relation<'_> {
    let select = |c: &crossfade_core::Column| match PgType::of(&c.logical) {
        // A cast to bit would pad or cut; bit and varbit have one binary form.
        PgType::Bit(_) => ident(&c.name),
        PgType::Other(_) => feed_value("t", c),
        kind => format!("{}::pg_catalog.{}", ident(&c.name), kind.typname()),
    };
    Relation { table, from: quote::table(&table.name), select: table.columns.iter().map(select).collect() }
}
