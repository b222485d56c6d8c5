//! `slot`: the replication slots of a Postgres source, and how much log each makes its server keep.
//!
//! Removing a pipeline's own slot is `uninstall`, since a slot without its publication is of no use, and the other way round.

use clap::{Args, Subcommand};
use crossfade_core::Result;
use serde::Serialize;

use super::print::{size, table};
use super::{Which, print_json, runtime};
use crate::registry;

/// Replication slots at a Postgres source.
#[derive(Debug, Args)]
pub struct SlotArgs {
    #[command(subcommand)]
    command: SlotCommand,
}

#[derive(Debug, Subcommand)]
enum SlotCommand {
    /// All slots of the server, and the log that each holds back
    List {
        #[command(flatten)]
        which: Which,
        /// Print one line of JSON
        #[arg(long)]
        json: bool,
    },
    /// Drop the pipeline's slot and publication; the pipeline ends with it
    Drop {
        #[command(flatten)]
        which: Which,
    },
}

#[derive(Debug, Serialize)]
struct SlotLine {
    name: String,
    /// Whether it is this pipeline's.
    ours: bool,
    database: Option<String>,
    active_pid: Option<i32>,
    wal_status: Option<String>,
    held_bytes: Option<i64>,
    /// Bytes until it may be lost.
    room: Option<i64>,
    invalidated: Option<String>,
    failover: bool,
}

pub fn slot(args: &SlotArgs) -> Result<u8> {
    match &args.command {
        SlotCommand::Drop { which } => super::run::uninstall(which),
        SlotCommand::List { which, json } => list(which, *json),
    }
}

fn list(which: &Which, json: bool) -> Result<u8> {
    let config = which.config()?;
    let runtime = runtime()?;
    let (names, slots) = registry::slots(&config.source, &config.name, runtime.handle())?;
    let lines = slots.into_iter().map(|s| SlotLine {
        ours: s.name == names.slot,
        name: s.name,
        database: s.database,
        active_pid: s.active_pid,
        wal_status: s.wal_status,
        held_bytes: s.held_bytes,
        room: s.room,
        invalidated: s.invalidated,
        failover: s.failover,
    });
    let lines: Vec<SlotLine> = lines.collect();
    if json {
        print_json(&lines)?;
        return Ok(0);
    }
    if lines.is_empty() {
        println!("no slots; this pipeline's will be {}", names.slot);
        return Ok(0);
    }
    let mut t = table(&["slot", "pipeline", "database", "used by", "log", "held back", "until lost"]);
    let bytes = |b| size(u64::try_from(b).unwrap_or(0));
    for line in lines {
        t.add_row([
            line.name,
            if line.ours { config.name.clone() } else { "-".into() },
            line.database.unwrap_or_else(|| "(physical)".into()),
            line.active_pid.map_or_else(|| "nobody".into(), |pid| format!("process {pid}")),
            line.wal_status.unwrap_or_else(|| "-".into()),
            line.held_bytes.map_or_else(|| "-".into(), bytes),
            line.room.map_or_else(|| "no limit".into(), bytes),
        ]);
    }
    println!("{t}");
    Ok(0)
}
