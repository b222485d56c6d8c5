//! The ends in memory pass the suite that every connector passes: else the simulation would prove nothing.

use std::sync::Arc;

use crossfade_core::conformance::{Change, Session, SourceFixture, TargetFixture, run_source, run_target};
use crossfade_core::{History, Omissions, Result, Source, TableName, Target};

use super::source::{MemorySource, Store};
use super::target::{MemoryTarget, TargetStore};

struct Sources(Arc<Store>);

struct Client(Arc<Store>);

impl Session for Client {
    fn commit(&mut self, changes: &[Change]) -> Result<()> {
        self.0.commit(changes, || true);
        Ok(())
    }
}

impl SourceFixture for Sources {
    fn fresh(&mut self) -> Result<()> {
        self.0 = Store::new();
        Ok(())
    }

    fn create(&mut self, name: &str) -> Result<TableName> {
        Ok(self.0.create(name, false))
    }

    fn session(&mut self) -> Result<Box<dyn Session>> {
        Ok(Box::new(Client(Arc::clone(&self.0))))
    }

    fn source(&mut self) -> Result<Arc<dyn Source>> {
        Ok(Arc::new(MemorySource(Arc::clone(&self.0), Omissions::default())))
    }
}

struct Targets(History, Arc<TargetStore>);

impl TargetFixture for Targets {
    fn fresh(&mut self) -> Result<()> {
        self.1 = TargetStore::new(self.0);
        Ok(())
    }

    fn schema(&self) -> String {
        "mem".to_owned()
    }

    fn target(&mut self) -> Result<Arc<dyn Target>> {
        Ok(Arc::new(MemoryTarget(Arc::clone(&self.1))))
    }
}

#[test]
fn source_in_memory() {
    run_source(&mut Sources(Store::new()));
}

#[test]
fn target_in_memory() {
    for history in [History::Net, History::Full] {
        run_target(&mut Targets(history, TargetStore::new(history)));
    }
}
