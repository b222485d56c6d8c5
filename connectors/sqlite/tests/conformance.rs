//! The suite that every source runs, with a write-ahead log and with a rollback journal: with the latter a reader and the
//! application's writer keep each other out.

mod common;

use std::sync::Arc;

use common::Db;
use crossfade_core::conformance::{Change, Session, SourceFixture, run_source};
use crossfade_core::{Error, Omissions, Result, Selection, Source, TableName};
use rusqlite::{Connection, TransactionBehavior};

struct File {
    journal: &'static str,
    db: Db,
}

impl File {
    fn new(journal: &'static str) -> File {
        File { journal, db: empty(journal) }
    }
}

fn empty(journal: &str) -> Db {
    Db::new(&format!("PRAGMA journal_mode = {journal}"))
}

impl SourceFixture for File {
    fn fresh(&mut self) -> Result<()> {
        self.db = empty(self.journal);
        Ok(())
    }

    fn create(&mut self, name: &str) -> Result<TableName> {
        let sql = format!("CREATE TABLE {name} (id INTEGER PRIMARY KEY, n BIGINT, t VARCHAR(200))");
        self.db.app().execute_batch(&sql).map_err(failed)?;
        let tables = self.source()?.tables(&Selection::default())?;
        let made = tables.iter().find(|t| t.name.name == name);
        made.map(|t| t.name.clone()).ok_or_else(|| Error::corrupt(format!("{name} is not among the tables")))
    }

    fn session(&mut self) -> Result<Box<dyn Session>> {
        Ok(Box::new(App(self.db.app())))
    }

    fn source(&mut self) -> Result<Arc<dyn Source>> {
        crossfade_sqlite::open(&common::endpoint(&self.db.path()), Omissions::default())
    }

    fn readers_block_writers(&self) -> bool {
        self.journal != "wal"
    }
}

struct App(Connection);

impl Session for App {
    fn commit(&mut self, changes: &[Change]) -> Result<()> {
        let transaction = self.0.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        for change in changes {
            let sql = match change {
                Change::Clear(table) => format!("DELETE FROM {table}"),
                other => other.to_string(),
            };
            transaction.execute_batch(&sql).map_err(failed)?;
        }
        transaction.commit().map_err(failed)
    }
}

fn failed(e: rusqlite::Error) -> Error {
    Error::transient("the application").caused_by(e)
}

#[test]
fn a_write_ahead_log_conforms() {
    run_source(&mut File::new("wal"));
}

#[test]
fn a_rollback_journal_conforms() {
    run_source(&mut File::new("delete"));
}
