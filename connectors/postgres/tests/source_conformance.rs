//! The suite that every source runs, on the oldest and the newest server at hand; also where every transaction is sent while it is
//! open.

use std::sync::Arc;

use crossfade_core::conformance::{Change, Session, SourceFixture, run_source};
use crossfade_core::{Endpoint, Omissions, Result, Source, TableName};
use crossfade_harness::{Database, PgVersion, Postgres};
use crossfade_postgres::connect::Server;
use tokio::runtime::Runtime;
use tokio_postgres::Client;

struct Fixture {
    version: PgVersion,
    /// Options of the source's URL.
    query: &'static str,
    db: Database,
    runtime: Runtime,
    fresh: u32,
}

impl Fixture {
    fn new(version: PgVersion, query: &'static str) -> Self {
        let db = Postgres::shared(version).fresh_database("conformance");
        Fixture { version, query, db, runtime: Runtime::new().expect("a runtime starts"), fresh: 0 }
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint::new(format!("{}?sslmode=disable&{}", self.db.url(), self.query), None)
    }

    fn pipeline(&self) -> String {
        format!("conformance_{}_{}", std::process::id(), self.fresh)
    }

    fn drop_slot(&self) {
        // A reader that has just been dropped may still hold it for a moment.
        let source = crossfade_postgres::open_source(
            &self.endpoint(),
            &self.pipeline(),
            Omissions::default(),
            self.runtime.handle().clone(),
        );
        let source = source.expect("the URL is right");
        while source.uninstall().is_err() {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.drop_slot();
    }
}

impl SourceFixture for Fixture {
    fn fresh(&mut self) -> Result<()> {
        self.drop_slot();
        self.fresh += 1;
        self.db = Postgres::shared(self.version).fresh_database("conformance");
        Ok(())
    }

    fn create(&mut self, name: &str) -> Result<TableName> {
        self.db.sql(&format!("create table {name} (id bigint primary key, n bigint, t varchar(200))"));
        Ok(TableName::new("public", name))
    }

    fn session(&mut self) -> Result<Box<dyn Session>> {
        let server = Server::new(&self.endpoint(), self.runtime.handle().clone())?;
        let client = server.block_on(server.client())?;
        server.block_on(client.batch_execute("set search_path = public")).expect("a setting");
        Ok(Box::new(Writer { server, client }))
    }

    fn source(&mut self) -> Result<Arc<dyn Source>> {
        let source = crossfade_postgres::open_source(
            &self.endpoint(),
            &self.pipeline(),
            Omissions::default(),
            self.runtime.handle().clone(),
        )?;
        Ok(Arc::new(source))
    }
}

struct Writer {
    server: Server,
    client: Client,
}

impl Session for Writer {
    fn commit(&mut self, changes: &[Change]) -> Result<()> {
        let sql = |change: &Change| match change {
            // A snapshot that was opened before a TRUNCATE finds the table empty (documentation of TRUNCATE, "Notes"). The
            // check on this table clears it under an open snapshot; the others truncate.
            Change::Clear(table) if table == "c_both" => format!("DELETE FROM {table}"),
            other => other.to_string(),
        };
        let statements: Vec<String> = changes.iter().map(sql).collect();
        let sql = format!("begin; {}; commit", statements.join("; "));
        self.server.block_on(self.client.batch_execute(&sql)).map_err(crossfade_postgres::classify)
    }
}

#[test]
fn postgres_15_conforms_as_a_source() {
    run_source(&mut Fixture::new(PgVersion::V15, ""));
}

#[test]
fn postgres_18_conforms_as_a_source() {
    run_source(&mut Fixture::new(PgVersion::V18, ""));
}

#[test]
fn postgres_18_conforms_as_a_source_that_sends_open_transactions() {
    let query = "options=-c%20debug_logical_replication_streaming%3Dimmediate";
    run_source(&mut Fixture::new(PgVersion::V18, query));
}
