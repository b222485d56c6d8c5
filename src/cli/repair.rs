//! `repair`: what would be done to rows that differ, and doing it.

use clap::Args;
use crossfade_core::Result;

use super::print::{Progressing, count};
use super::{Which, print_json, prove};
use crate::desk::{self, Job};
use crate::ledger::Event;
use crate::repair::{Report, TableRepair, key_text};
use crate::service::{self, Server};

/// Write rows that differ again, from the source. By default it only tells what would be done: for a Postgres target as SQL.
///
/// Both sides are compared first. The rows that differ are read again at the source, at a position where the pipeline is held, and
/// written by the pipeline's own writer in one commit with its checkpoint, so that later changes of the source come after them.
/// Then both sides are compared again; the exit code is that comparison's: 0 only if equal. The daemon does it while it streams;
/// without one it is done here.
#[derive(Debug, Args)]
pub struct Repair {
    #[command(flatten)]
    which: Which,
    /// Only these tables, such as 'shop.orders' or 'order_*'; may be given several times
    #[arg(long, value_name = "GLOB")]
    table: Vec<String>,
    /// Write, and compare again
    #[arg(long)]
    apply: bool,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

pub fn repair(args: &Repair) -> Result<u8> {
    let name = args.which.name()?;
    let progressing = Progressing::start();
    progressing.say(if args.apply { "comparing, repairing, comparing again" } else { "comparing both sides" });
    let report = match service::ask_repair(&name, &args.table, args.apply) {
        Some(answer) => answer?,
        None => {
            let (config, _runtime, pipeline) = args.which.open()?;
            let stop = service::stop_on_signals(config.drain, 75)?;
            prove::copied(&pipeline)?;
            let _server = Server::bind(&pipeline.name)?;
            let answer = desk::alone(&pipeline, stop, |reply| Job::repair(&args.table, args.apply, reply));
            prove::keep(&pipeline.name, &Event::repaired(&args.table, &answer));
            answer?
        }
    };
    drop(progressing);
    if args.json {
        print_json(&report)?;
    } else {
        show(&report);
    }
    Ok(prove::exit(&report.proof))
}

/// Statements alone on their lines, all else as SQL comments: what is printed can be read, kept, and run.
fn show(report: &Report) {
    for table in &report.tables {
        one(table, report.applied);
    }
    if report.tables.is_empty() {
        println!("-- no row differs");
    } else if !report.applied {
        println!("-- nothing was written; `crossfade repair --apply` reads the rows again and writes them");
    }
    println!();
    prove::show(&report.proof);
}

fn one(table: &TableRepair, applied: bool) {
    let target = table.target.as_ref().map_or_else(String::new, |t| format!(" -> {t}"));
    let did = if applied { "repaired" } else { "to repair" };
    let rows = if table.rows == 1 { "row" } else { "rows" };
    println!("-- {}{target}: {} {rows} {did}", table.table, count(table.rows));
    if table.settled > 0 {
        println!("-- {} more were the same on both sides when they were read again", count(table.settled));
    }
    if let Some(refused) = &table.refused {
        println!("-- not repaired: {}", refused.replace('\n', " "));
    }
    for deed in &table.listed {
        match &deed.statement {
            Some(statement) => println!("{statement}"),
            None => println!("-- {} {}", deed.op, key_text(&deed.key).escape_debug()),
        }
    }
    if table.rows > table.listed.len() as u64 {
        println!("-- and {} more", count(table.rows - table.listed.len() as u64));
    }
}
