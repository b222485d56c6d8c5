//! `verify`: both sides at one position, table by table.

use std::sync::atomic::AtomicBool;

use clap::Args;
use crossfade_core::{Error, Phase, Result};

use super::print::{self, Progressing, count, table};
use super::{Which, beyond, print_json};
use crate::desk::{self, Job};
use crate::ledger::entry::Asker;
use crate::ledger::{Event, Ledger};
use crate::pipeline::Pipeline;
use crate::service::{self, Server};
use crate::verify::difference::{Cell, Classes, Difference, Kind, Recheck, Settler};
use crate::verify::{self, Options, Proof, TableProof, Verdict};

/// Compare both sides at one position.
///
/// Row counts and fingerprints of all tables; where they differ, which rows. Without --table also the figures that the
/// configuration names. Exit code 0 if all is equal, 1 if a figure is beyond its `warning` or references are broken as at the source, 2 if
/// something differs, 3 if something could not be compared.
#[derive(Debug, Args)]
pub struct Verify {
    #[command(flatten)]
    which: Which,
    /// Only these tables, such as 'shop.orders' or 'order_*'; may be given several times
    #[arg(long, value_name = "GLOB")]
    table: Vec<String>,
    /// Also compare what both servers count and sum by their own SQL
    #[arg(long)]
    totals: bool,
    /// Also count rows at the target that refer to nothing, for each foreign key, and tell of sequences that are behind
    #[arg(long, conflicts_with = "table")]
    references: bool,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

pub fn verify(args: &Verify) -> Result<u8> {
    let name = args.which.name()?;
    let options = Options { totals: args.totals, references: args.references };
    let progressing = Progressing::start();
    progressing.say("comparing both sides");
    let proof = match service::ask_verify(&name, &args.table, options) {
        Some(answer) => answer?,
        None => {
            let (config, _runtime, pipeline) = args.which.open()?;
            let stop = service::stop_on_signals(config.drain, 75)?;
            let answer = alone(&pipeline, &args.table, options, stop);
            keep(&pipeline.name, &[Event::compared(Asker::Verify, &args.table, &answer)]);
            answer?
        }
    };
    drop(progressing);
    if args.json {
        print_json(&proof)?;
    } else {
        show(&proof);
    }
    Ok(exit(&proof))
}

/// Without a daemon: bring the target to the source's position here, and compare.
pub fn alone(pipeline: &Pipeline, tables: &[String], options: Options, stop: &AtomicBool) -> Result<Proof> {
    copied(pipeline)?;
    let _server = Server::bind(&pipeline.name)?;
    desk::alone(pipeline, stop, |reply| Job::verify(tables, options, reply))
}

/// Without a daemon: writes to the ledger what was done. What was found stands also where that fails, so it is told, and no more.
pub fn keep(pipeline: &str, events: &[(i64, Event)]) {
    if let Err(e) = Ledger::open(pipeline).and_then(|mut ledger| ledger.append(events)) {
        print::error(&e);
    }
}

/// An error while a target still lacks rows of the initial copy.
pub fn copied(pipeline: &Pipeline) -> Result<()> {
    for spec in &pipeline.targets {
        if spec.target.recover(&pipeline.name)?.is_none_or(|c| c.phase == Phase::Copying) {
            return Err(Error::transient(format!("{}: the initial copy is not complete, so there is nothing to compare yet", spec.name))
                .hint("run `crossfade catch-up` (or the daemon) first; pipelines are told apart by --name or the configuration's name"));
        }
    }
    Ok(())
}

/// The exit code that a proof is, also where rows were repaired before.
pub fn exit(proof: &Proof) -> u8 {
    match proof.verdict {
        Verdict::Equal => u8::from(proof.beyond.warns()),
        Verdict::Different => 2,
        Verdict::Unknown => 3,
    }
}

/// Prints a proof for people.
pub fn show(proof: &Proof) {
    let mut t = table(&["table", "source rows", "target rows", "fingerprint", "verdict"]);
    for p in &proof.tables {
        let rows = |n: Option<u64>| n.map_or_else(|| "?".to_owned(), count);
        let print = match (&p.error, &p.source_fingerprint, &p.target_fingerprint) {
            (Some(error), ..) => error.clone(),
            (None, ..) if !p.chunks.is_empty() => format!("{} chunks, each at its position", p.chunks.len()),
            (None, Some(a), Some(b)) if a == b => a[..16].to_owned(),
            (None, Some(a), Some(b)) => format!("{} / {}", &a[..12], &b[..12]),
            (None, ..) => "?".into(),
        };
        let name = match &p.target {
            Some(target) => format!("{} -> {target}", p.table),
            None => p.table.clone(),
        };
        let verdict = format!("{:?}", p.verdict).to_lowercase();
        t.add_row([name, rows(p.source_rows), rows(p.target_rows), print, verdict]);
    }
    println!("{t}");
    for p in &proof.tables {
        changed(p);
        differences(p);
        if let Some(why) = &p.uncut {
            println!("\n{} was read whole, longer than snapshots are to be held: {why}", p.table);
        }
    }
    totals(proof);
    beyond::show(&proof.beyond);
    let position = proof.positions().unwrap_or_else(|| "?".to_owned());
    match (&proof.rechecked, &proof.recheck_error) {
        (Some(position), _) => println!("\nThe rows that differ were read a second time at {position}."),
        (None, Some(error)) => println!("\nThe rows that differ were not read a second time: {error}"),
        (None, None) => {}
    }
    if proof.through.is_some() {
        println!(
            "\nIt took several fences: each table, or each chunk of its keys, was read on both sides behind one of them."
        );
    }
    println!(
        "\n{}: {}, both sides read at {position}; replication stood still for {} ms, the scan took {}.",
        format!("{:?}", proof.verdict).to_uppercase(),
        print::tables(proof.tables.len()),
        proof.held_ms,
        print::seconds(proof.seconds),
    );
}

/// Prints what policies changed in a table.
fn changed(proof: &TableProof) {
    for c in &proof.changed {
        let target = proof.target.as_ref().map_or_else(String::new, |t| format!(" -> {t}"));
        let values = if c.values == 1 { "1 value was".into() } else { format!("{} values were", count(c.values)) };
        println!(
            "{}{target}, column {}: {values} changed by {}, and compared so; the originals are in crossfade.original",
            proof.table, c.column, c.policy
        );
    }
}

/// Prints what the servers' own figures say.
fn totals(proof: &Proof) {
    let with = || proof.tables.iter().filter_map(|p| Some((p, p.totals.as_ref()?)));
    if with().next().is_none() {
        return;
    }
    let (tables, figures) = with().fold((0, 0), |(n, sum), (_, totals)| (n + 1, sum + totals.compared as u64));
    let differing: usize = with().map(|(_, totals)| totals.differing.len()).sum();
    match differing {
        0 => println!("\nTotals by the servers' own SQL: {} of {} agree.", count(figures), print::tables(tables)),
        n => {
            println!("\nTotals by the servers' own SQL: {n} of {} of {} differ.", count(figures), print::tables(tables))
        }
    }
    if differing == 0 {
        return;
    }
    let mut t = table(&["table", "figure", "source", "target"]);
    for (p, totals) in with() {
        for f in &totals.differing {
            let figure = f.column.as_ref().map_or_else(|| f.what.clone(), |c| format!("{} of {c}", f.what));
            t.add_row([p.table.clone(), figure, f.source.clone(), f.target.clone()]);
        }
    }
    println!("{t}");
}

/// Rows of a table that are printed; `--json` has more.
const PRINTED: usize = 20;

/// Prints which rows of a table differ.
fn differences(proof: &TableProof) {
    let Some(found) = &proof.differences else { return };
    let target = proof.target.as_ref().map_or_else(String::new, |t| format!(" -> {t}"));
    let or_more = if found.or_more { " or more" } else { "" };
    let rows = if found.rows == 1 && !found.or_more { "row differs" } else { "rows differ" };
    println!("\n{}{target}: {}{or_more} {rows}", proof.table, count(found.rows));
    let mut t = table(&["key", "what", "source", "target"]);
    for d in found.listed.iter().take(PRINTED) {
        let key = d.key.iter().map(|n| format!("{} = {}", n.column, value(&n.value)));
        let (source, target) = match d.kind {
            Kind::Different => {
                let side = |of: fn(&Cell) -> &Option<String>| {
                    let cells = d.columns.iter().map(|c| format!("{} = {}", c.column, value(of(c))));
                    cells.collect::<Vec<_>>().join("\n")
                };
                (side(|c| &c.source), side(|c| &c.target))
            }
            Kind::Missing | Kind::Extra | Kind::Repeated => (rows_of(d.source_rows), rows_of(d.target_rows)),
        };
        t.add_row([key.collect::<Vec<_>>().join("\n"), what(d), source, target]);
    }
    println!("{t}");
    if found.rows > PRINTED as u64 {
        println!("  the first {PRINTED} of them; --json lists up to {}", verify::LISTED);
    }
    if let Some(classes) = &found.recheck {
        println!("  a second time: {}", second_look(classes));
    }
    println!("  to mend the rows: crossfade repair --table {0}; the whole table: crossfade snapshot {0}", proof.table);
}

/// What became of a row, and of it since.
fn what(d: &Difference) -> String {
    let word = |kind: Kind| format!("{kind:?}").to_lowercase();
    match &d.recheck {
        None => word(d.kind),
        Some(Recheck::Lasting { kind, .. }) if *kind == d.kind => word(d.kind),
        Some(Recheck::Lasting { kind, .. }) => format!("{}, then {}", word(d.kind), word(*kind)),
        Some(Recheck::Settled { by: Settler::Source }) => {
            format!("{}\nsettled: overwritten by\na change at the source", word(d.kind))
        }
        Some(Recheck::Settled { by: Settler::Target }) => {
            format!("{}\nsettled: changed by\nsomebody at the target", word(d.kind))
        }
    }
}

fn second_look(classes: &Classes) -> String {
    let of = |n: u64, what: &str| (n > 0).then(|| format!("{} {what}", count(n)));
    let parts = [
        of(classes.missing, "missing"),
        of(classes.extra, "extra"),
        of(classes.different, "different"),
        of(classes.repeated, "repeated"),
        of(classes.settled, "settled since"),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn rows_of(n: u64) -> String {
    match n {
        0 => "no row".into(),
        1 => "1 row".into(),
        n => format!("{} rows", count(n)),
    }
}

/// A value so that NULL, an empty text and a trailing blank can be told apart.
pub fn value(text: &Option<String>) -> String {
    match text {
        None => "NULL".into(),
        Some(text) => format!("'{}'", text.escape_debug()),
    }
}
