//! A session that prepares each question once.
//!
//! The driver prepares a statement for every query that is given as text, and the server then parses and plans it anew: for questions
//! about catalogs, which join a handful of tables and find a few rows, that is most of the work. A copy asks them with every
//! chunk.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Mutex, PoisonError};

use crossfade_core::Result;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, Row, Statement};

use crate::connect::Server;

/// A session, and what it has prepared.
pub struct Prepared {
    client: Client,
    /// By their text. Texts are constants, so they are as many as the program has.
    statements: Mutex<HashMap<&'static str, Statement>>,
}

impl Prepared {
    /// A new session.
    pub async fn open(server: &Server) -> Result<Self> {
        Ok(Prepared { client: server.client().await?, statements: Mutex::default() })
    }

    /// All rows of an answer.
    pub async fn query(&self, sql: &'static str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Error> {
        self.client.query(&self.statement(sql).await?, params).await
    }

    /// The one row of an answer.
    pub async fn query_one(&self, sql: &'static str, params: &[&(dyn ToSql + Sync)]) -> Result<Row, Error> {
        self.client.query_one(&self.statement(sql).await?, params).await
    }

    /// The row of an answer that may have none.
    pub async fn query_opt(&self, sql: &'static str, params: &[&(dyn ToSql + Sync)]) -> Result<Option<Row>, Error> {
        self.client.query_opt(&self.statement(sql).await?, params).await
    }

    async fn statement(&self, sql: &'static str) -> Result<Statement, Error> {
        let statements = || self.statements.lock().unwrap_or_else(PoisonError::into_inner);
        let known = statements().get(sql).cloned();
        if let Some(statement) = known {
            return Ok(statement);
        }
        let statement = self.client.prepare(sql).await?;
        statements().insert(sql, statement.clone());
        Ok(statement)
    }
}

impl Deref for Prepared {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}
