//! The suite that every target runs, on the oldest and the newest server at hand.

use std::sync::Arc;

use crossfade_core::conformance::{TargetFixture, run_target};
use crossfade_core::{Endpoint, Result, Target};
use crossfade_harness::{Database, PgVersion, Postgres};
use tokio::runtime::{Builder, Runtime};

struct Server {
    version: PgVersion,
    runtime: Runtime,
    database: Database,
}

impl Server {
    fn new(version: PgVersion) -> Server {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        Server { version, runtime, database: empty(version) }
    }
}

fn empty(version: PgVersion) -> Database {
    Postgres::shared(version).fresh_database("conformance")
}

impl TargetFixture for Server {
    fn fresh(&mut self) -> Result<()> {
        self.database = empty(self.version);
        Ok(())
    }

    fn schema(&self) -> String {
        "shop".into()
    }

    fn target(&mut self) -> Result<Arc<dyn Target>> {
        let url = format!("{}?sslmode=disable", self.database.url());
        crossfade_postgres::open(&Endpoint::new(url, None), self.runtime.handle().clone())
    }
}

#[test]
fn postgres_15_conforms() {
    run_target(&mut Server::new(PgVersion::V15));
}

#[test]
fn postgres_18_conforms() {
    run_target(&mut Server::new(PgVersion::V18));
}
