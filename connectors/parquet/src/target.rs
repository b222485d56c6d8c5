//! The target itself: hands out the writer, its loaders and snapshots of one store.

use std::sync::{Arc, Mutex, PoisonError};

use crossfade_core::{
    Checkpoint, Error, Finding, History, Loader, Owner, Result, Snapshot, Surveyor, Suspension, TableName, TableSchema,
    Target, Writer,
};

use crate::check;
use crate::lease::{holder, vacant};
use crate::loader::ParquetLoader;
use crate::log::{Log, OpenLogs, Places};
use crate::snapshot::LogSnapshot;
use crate::store::Store;
use crate::survey::ParquetSurveyor;
use crate::writer::{ParquetWriter, lock};

/// See [`Target`].
pub(crate) struct ParquetTarget {
    store: Store,
    open: OpenLogs,
}

impl ParquetTarget {
    pub(crate) fn new(store: Store) -> Self {
        ParquetTarget { store, open: OpenLogs::default() }
    }

    fn places(&self, pipeline: &str) -> Result<Places> {
        if pipeline.is_empty() {
            return Err(Error::config("a pipeline's name is empty").hint("name = \"...\" in the configuration"));
        }
        Ok(Places { store: self.store.clone(), pipeline: pipeline.to_owned() })
    }
}

impl Target for ParquetTarget {
    fn history(&self) -> History {
        History::Full
    }

    fn check(&self, _: &str, tables: &[Arc<TableSchema>]) -> Result<Vec<Finding>> {
        check::findings(&self.store, tables)
    }

    fn recover(&self, pipeline: &str) -> Result<Option<Checkpoint>> {
        Ok(self.places(pipeline)?.load()?.checkpoint)
    }

    fn suspended(&self, pipeline: &str) -> Result<Vec<(TableName, Suspension)>> {
        Ok(self.places(pipeline)?.load()?.suspended)
    }

    fn owner(&self, pipeline: &str) -> Result<Option<Owner>> {
        holder(&self.places(pipeline)?)
    }

    fn open(&self, owner: &Owner) -> Result<Box<dyn Writer>> {
        let places = self.places(&owner.pipeline)?;
        let vacant = vacant(&places, owner)?;
        let log = Log::take(places, owner)?;
        let lease = vacant.claim(owner, log.epoch())?;
        let log = Arc::new(Mutex::new(log));
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(owner.pipeline.clone(), Arc::downgrade(&log));
        Ok(Box::new(ParquetWriter::new(log, lease)))
    }

    fn loader(&self, pipeline: &str, epoch: u64) -> Result<Box<dyn Loader>> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let log = open.get(pipeline).and_then(std::sync::Weak::upgrade);
        match log.filter(|log| lock(log).epoch() == epoch) {
            Some(log) => Ok(Box::new(ParquetLoader::new(log))),
            None => Err(Error::transient(format!("pipeline {pipeline} is not open here with epoch {epoch}"))),
        }
    }

    fn surveyor(&self, table: &Arc<TableSchema>) -> Result<Option<Box<dyn Surveyor>>> {
        Ok(Some(Box::new(ParquetSurveyor::new(table))))
    }

    fn snapshot(&self, pipeline: &str, tables: &[Arc<TableSchema>]) -> Result<Box<dyn Snapshot>> {
        Ok(Box::new(LogSnapshot::new(self.places(pipeline)?, tables)?))
    }
}
