//! What `verify` and `check` say of figures and references.

use std::sync::Arc;

use crossfade_core::{Error, Finding, Result, Snapshot, TableSchema};

use super::print::{count, table};
use crate::pipeline::Pipeline;
use crate::scan::{self, Found};
use crate::transform::Mapped;
use crate::verify::aggregates::{Aggregate, AggregateProof};
use crate::verify::beyond::{Beyond, Outcome};
use crate::verify::orphans::References;
use crate::verify::sequences::Sequences;

/// Prints what a proof says beyond rows.
pub fn show(beyond: &Beyond) {
    if !beyond.aggregates.is_empty() {
        figures_of(&beyond.aggregates);
    }
    if let Some(references) = &beyond.references {
        references_of(references);
    }
    if let Some(sequences) = &beyond.sequences {
        sequences_of(sequences);
    }
}

fn figures_of(aggregates: &[AggregateProof]) {
    let mut t = table(&["aggregate", "source", "target", "apart by", "allowed", "verdict"]);
    for a in aggregates {
        let name = a.to.as_ref().map_or_else(|| a.name.clone(), |to| format!("{} -> {to}", a.name));
        let answer = |value: &Option<String>| match a.outcome {
            Outcome::Unknown if value.is_none() => "?".to_owned(),
            _ => value.clone().unwrap_or_else(|| "NULL".into()),
        };
        let apart = a.difference.clone().unwrap_or_else(|| "-".into());
        t.add_row([name, answer(&a.source), answer(&a.target), apart, allowed(a), word(a.outcome).to_owned()]);
    }
    println!("\n{t}");
    for error in aggregates.iter().filter_map(|a| Some(format!("{}: {}", a.name, a.error.as_ref()?))) {
        println!("  {error}");
    }
}

/// The bounds of a figure.
fn allowed(a: &AggregateProof) -> String {
    match a.warning == a.critical {
        true => a.warning.clone(),
        false => format!("{}, wrong beyond {}", a.warning, a.critical),
    }
}

fn references_of(references: &References) {
    let keys = match references.foreign_keys {
        1 => "1 foreign key".to_owned(),
        n => format!("{} foreign keys", count(n)),
    };
    if references.broken.is_empty() {
        println!("\nReferences at the target: of {keys} no row refers to nothing.");
        return;
    }
    println!("\nReferences at the target, {keys}:");
    for broken in &references.broken {
        println!("  {}: {}", word(broken.outcome), broken.words());
        broken.next().into_iter().for_each(|next| println!("    do: {next}"));
    }
}

/// Prints which sequences a cutover would trip over.
fn sequences_of(sequences: &Sequences) {
    if !sequences.behind.is_empty() {
        println!(
            "\nSequences at the target that are behind, as they are while rows stream in. `crossfade catch-up` sets those that the \
             pipeline made, before the cutover:"
        );
    }
    for behind in &sequences.behind {
        println!("  {}\n    do: {}", behind.words(), behind.fix);
    }
    sequences.errors.iter().for_each(|error| println!("  sequences are not known: {error}"));
}

/// The outcome in a word; in capital letters where it is wrong.
pub fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Holds => "holds",
        Outcome::Warning => "WARNING",
        Outcome::Critical => "CRITICAL",
        Outcome::Unknown => "UNKNOWN",
    }
}

/// Asks each figure once on each side, and tells what is wrong with its statement. None of that keeps a pipeline from running.
pub fn figures(pipeline: &Pipeline, tables: &[Mapped]) -> Result<Found> {
    let mut found = Found::new();
    if pipeline.aggregates.is_empty() {
        return Ok(found);
    }
    let sources: Vec<Arc<TableSchema>> = tables.iter().map(|m| Arc::clone(&m.source)).collect();
    let mut source = pipeline.source.peek(&sources)?;
    let findings = pipeline.aggregates.iter().map(|a| tried(a, &a.source, source.as_mut()));
    found.extend(findings.map(|f| ("source".to_owned(), f)));
    let arriving: Vec<Arc<TableSchema>> = tables.iter().map(|m| Arc::clone(&m.target)).collect();
    for (i, spec) in pipeline.targets.iter().enumerate() {
        let end = scan::end(pipeline, i);
        if spec.target.recover(&pipeline.name)?.is_none() {
            found.extend(pipeline.aggregates.iter().map(|a| (end.clone(), untried(a))));
            continue;
        }
        let mut target = spec.target.snapshot(&pipeline.name, &arriving)?;
        let findings = pipeline.aggregates.iter().map(|a| tried(a, &a.target, target.as_mut()));
        found.extend(findings.map(|f| (end.clone(), f)));
    }
    Ok(found)
}

const EXPECTED: &str = "a statement that gives one row of one column";

fn tried(aggregate: &Aggregate, statement: &str, side: &mut dyn Snapshot) -> Finding {
    let setting = format!("aggregate {}", aggregate.name);
    match side.ask(statement) {
        Ok(value) => Finding::ok(setting, format!("answers {}", value.as_deref().unwrap_or("NULL"))),
        Err(e) => refused(setting, &e),
    }
}

fn refused(setting: String, e: &Error) -> Finding {
    let actual = format!("{e}; until it is mended, every comparison of all tables is unknown");
    Finding::warning(setting, EXPECTED, actual, e.hint_text().unwrap_or("correct the statement"))
}

/// Before a run there is nothing at the target that could be asked.
fn untried(aggregate: &Aggregate) -> Finding {
    let actual = "not tried: its tables come with the pipeline's first run";
    Finding::warning(
        format!("aggregate {}", aggregate.name),
        EXPECTED,
        actual,
        "ask again when `crossfade run` has begun",
    )
}
