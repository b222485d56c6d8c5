//! The one file that names concrete connectors.

use std::sync::Arc;

use crossfade_core::{Endpoint, Error, Result, Source, Target};
use tokio::runtime::Handle;

use crate::config::Config;
use crate::pipeline::progress::Progress;
use crate::pipeline::{Pipeline, TargetSpec};

/// The connectors that can be a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceKind {
    /// MySQL or MariaDB.
    MySql,
    /// SQLite.
    Sqlite,
}

/// The connectors that can be a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetKind {
    /// Postgres.
    Postgres,
    /// Parquet on object storage.
    Parquet,
}

/// Which source a URL means.
pub fn source_scheme(url: &str) -> Result<SourceKind> {
    match url.split(':').next().unwrap_or_default() {
        "mysql" | "mariadb" => Ok(SourceKind::MySql),
        "sqlite" => Ok(SourceKind::Sqlite),
        other => Err(Error::config(format!("{other:?} is not a source"))
            .hint("a source's URL begins with mysql:, mariadb: or sqlite:")),
    }
}

/// Which target a URL means.
pub fn target_scheme(url: &str) -> Result<TargetKind> {
    match url.split(':').next().unwrap_or_default() {
        "postgres" | "postgresql" => Ok(TargetKind::Postgres),
        "file" | "s3" => Ok(TargetKind::Parquet),
        other => Err(Error::config(format!("{other:?} is not a target"))
            .hint("a target's URL begins with postgres:, s3: or file:")),
    }
}

/// Opens a source. Connects when it is first used.
pub fn source(endpoint: &Endpoint, runtime: &Handle) -> Result<Arc<dyn Source>> {
    match source_scheme(endpoint.url())? {
        SourceKind::MySql => crossfade_mysql::open(endpoint, runtime.clone()),
        SourceKind::Sqlite => crossfade_sqlite::open(endpoint),
    }
}

/// Opens a target. Connects when it is first used.
pub fn target(endpoint: &Endpoint, runtime: &Handle) -> Result<Arc<dyn Target>> {
    match target_scheme(endpoint.url())? {
        TargetKind::Postgres => crossfade_postgres::open(endpoint, runtime.clone()),
        TargetKind::Parquet => crossfade_parquet::open(endpoint, runtime.clone()),
    }
}

/// Removes what a source had installed for its log, and names it. Only SQLite has something installed.
pub fn uninstall(endpoint: &Endpoint) -> Result<Vec<String>> {
    match source_scheme(endpoint.url())? {
        SourceKind::MySql => Ok(Vec::new()),
        SourceKind::Sqlite => crossfade_sqlite::uninstall(endpoint),
    }
}

/// A pipeline as configured.
pub fn pipeline(config: &Config, runtime: &Handle) -> Result<Pipeline> {
    let targets = config.targets.iter().map(|t| {
        let target = target(&t.endpoint, runtime)?;
        Ok(TargetSpec { name: t.endpoint.to_string(), target, policy: t.policy })
    });
    Ok(Pipeline {
        name: config.name.clone(),
        source: source(&config.source, runtime)?,
        source_name: config.source.to_string(),
        selection: config.selection.clone(),
        rules: config.rules.clone(),
        targets: targets.collect::<Result<_>>()?,
        limits: config.limits.clone(),
        progress: Progress::default(),
    })
}
