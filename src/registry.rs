//! The one file that names concrete connectors.

use std::sync::Arc;

use crossfade_core::{Endpoint, Error, Omissions, Result, Source, Target};
use crossfade_postgres::source::slot::{Names, Slot};
use tokio::runtime::Handle;

use crate::config::Config;
use crate::pipeline::{Pipeline, TargetSpec};

/// The connectors that can be a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceKind {
    /// MySQL or MariaDB.
    MySql,
    /// Postgres.
    Postgres,
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
        "postgres" | "postgresql" => Ok(SourceKind::Postgres),
        "sqlite" => Ok(SourceKind::Sqlite),
        other => Err(Error::config(format!("{other:?} is not a source"))
            .hint("a source's URL begins with mysql:, mariadb:, postgres: or sqlite:")),
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

/// Opens a pipeline's source, which need not read what is omitted. Connects when it is first used.
pub fn source(endpoint: &Endpoint, pipeline: &str, omissions: Omissions, runtime: &Handle) -> Result<Arc<dyn Source>> {
    match source_scheme(endpoint.url())? {
        SourceKind::MySql => crossfade_mysql::open(endpoint, omissions, runtime.clone()),
        SourceKind::Postgres => {
            Ok(Arc::new(crossfade_postgres::open_source(endpoint, pipeline, omissions, runtime.clone())?))
        }
        SourceKind::Sqlite => crossfade_sqlite::open(endpoint, omissions),
    }
}

/// Opens a target. Connects when it is first used.
pub fn target(endpoint: &Endpoint, runtime: &Handle) -> Result<Arc<dyn Target>> {
    match target_scheme(endpoint.url())? {
        TargetKind::Postgres => crossfade_postgres::open(endpoint, runtime.clone()),
        TargetKind::Parquet => crossfade_parquet::open(endpoint, runtime.clone()),
    }
}

/// Removes what a pipeline had installed at its source, and names it: triggers in SQLite, a slot and a publication in
/// Postgres, nothing in MySQL.
pub fn uninstall(endpoint: &Endpoint, pipeline: &str, runtime: &Handle) -> Result<Vec<String>> {
    match source_scheme(endpoint.url())? {
        SourceKind::MySql => Ok(Vec::new()),
        SourceKind::Postgres => {
            crossfade_postgres::open_source(endpoint, pipeline, Omissions::default(), runtime.clone())?.uninstall()
        }
        SourceKind::Sqlite => crossfade_sqlite::uninstall(endpoint),
    }
}

/// A Postgres source's slots, and what this pipeline calls its own.
pub fn slots(endpoint: &Endpoint, pipeline: &str, runtime: &Handle) -> Result<(Names, Vec<Slot>)> {
    match source_scheme(endpoint.url())? {
        SourceKind::Postgres => {
            let omissions = Omissions::default();
            let source = crossfade_postgres::open_source(endpoint, pipeline, omissions, runtime.clone())?;
            Ok((source.names().clone(), source.slots()?))
        }
        SourceKind::MySql | SourceKind::Sqlite => Err(Error::usage(format!("{endpoint} is a source without slots"))
            .hint("only Postgres keeps its log by slots: see `crossfade status`")),
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
        source: source(&config.source, &config.name, config.rules.omissions(), runtime)?,
        source_name: config.source.to_string(),
        selection: config.selection.clone(),
        rules: config.rules.clone(),
        targets: targets.collect::<Result<_>>()?,
        aggregates: config.aggregates.clone(),
        limits: config.limits.clone(),
        progress: Arc::default(),
        tuning: Arc::default(),
    })
}
