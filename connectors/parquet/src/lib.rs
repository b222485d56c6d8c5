//! Parquet on object storage as a target.
#![allow(dead_code)]
mod check;
mod decode;
mod evolve;
mod file;
mod lease;
mod loader;
mod location;
mod log;
mod reader;
mod record;
mod snapshot;
mod store;
mod target;
#[cfg(test)]
mod tests;
mod types;
mod writer;

use std::sync::Arc;

use crossfade_core::{Endpoint, Result, Target};

/// The target that a URL names. Connects to nothing yet.
pub fn open(endpoint: &Endpoint, runtime: tokio::runtime::Handle) -> Result<Arc<dyn Target>> {
    Ok(Arc::new(target::ParquetTarget::new(location::store(endpoint, runtime)?)))
}
