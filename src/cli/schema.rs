//! `schema`: what a pipeline would make at its target, as text.

use std::sync::Arc;

use clap::Args;
use crossfade_core::{Details, Error, Result, TableSchema};

use super::Which;
use crate::pipeline::Pipeline;
use crate::transform::Transform;

/// Print the statements that make the target's tables, keys, indexes, foreign keys, defaults, checks and comments, without
/// running them.
///
/// They are what `crossfade run` runs in a database that has none of the tables. Whoever wants other types, partitions or
/// storage edits them and makes the tables beforehand: `run` then only looks whether every value fits. What cannot be carried
/// is named in comments. Only the source is asked.
#[derive(Debug, Args)]
pub struct Schema {
    #[command(flatten)]
    which: Which,
}

/// The tables as they arrive, with their details.
pub fn arriving(pipeline: &Pipeline, tables: &[Arc<TableSchema>]) -> Result<Vec<(Arc<TableSchema>, Details)>> {
    let details = pipeline.source.details(tables)?;
    let mapped = Transform::new(pipeline.rules.clone()).map_all(tables)?;
    Ok(mapped.iter().zip(&details).map(|(m, d)| (Arc::clone(&m.target), m.details(d))).collect())
}

pub fn schema(args: &Schema) -> Result<u8> {
    let (_config, _runtime, pipeline) = args.which.open()?;
    let tables = pipeline.source.tables(&pipeline.selection)?;
    if tables.is_empty() {
        return Err(Error::config("no table of the source matches").hint("look at `tables` and `exclude`"));
    }
    let tables = arriving(&pipeline, &tables)?;
    let mut printed = false;
    for spec in &pipeline.targets {
        // Targets of one kind get the same tables.
        if let Some(script) = spec.target.ddl(&tables)?.filter(|_| !printed) {
            print!("{script}");
            printed = true;
        }
    }
    match printed {
        true => Ok(0),
        false => Err(Error::usage("no target of the pipeline has tables that are made beforehand")
            .hint("a Parquet target's tables are described by schemas/athena-table.sql")),
    }
}
