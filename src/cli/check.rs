//! `check`: what stands in the way, before anything is started.

use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use crossfade_core::{Details, Error, Finding, History, Level, Result, Selection, TableSchema};
use serde::Serialize;

use super::print::{Progressing, count, seconds, size, table, tables};
use super::{Which, beyond, print_json};
use crate::pipeline::progress::SuspendedTable;
use crate::pipeline::{Pipeline, retention, suspend};
use crate::scan::{self, Found, Scanned};
use crate::transform::{Mapped, Transform};

/// Look for trouble before a run.
///
/// Settings, privileges and declared types of both ends; with --scan every value of the tables as well, read as the copy reads
/// them: each kind that cannot be carried is told by table and column, with the number of rows and the keys of the first.
#[derive(Debug, Args)]
pub struct Check {
    #[command(flatten)]
    which: Which,
    /// Read every value of the tables too, and tell of all that a copy would stop at
    #[arg(long)]
    scan: bool,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    verdict: Level,
    findings: Vec<Entry>,
    /// What was read, with --scan.
    #[serde(skip_serializing_if = "Option::is_none")]
    scanned: Option<Scanned>,
}

#[derive(Serialize)]
struct Entry {
    end: String,
    #[serde(flatten)]
    finding: Finding,
}

/// All findings, each with the end it was found at.
pub fn findings(pipeline: &Pipeline) -> Result<Found> {
    Ok(look(pipeline)?.0)
}

/// All findings, and how the tables arrive that can.
fn look(pipeline: &Pipeline) -> Result<(Found, Vec<Mapped>)> {
    let mut out = Vec::new();
    let suspended = suspend::recover(pipeline)?;
    // What is wrong with a table that is left out stops nobody.
    let mut selection = suspend::selection(pipeline, &suspended, |_| false);
    let mut source = pipeline.source.check(&selection)?;
    let begun = has_begun(pipeline)?;
    if begun {
        do_without(&mut source, &mut selection);
    }
    if pipeline.targets.iter().any(|t| t.target.history() == History::Full) {
        source.extend(pipeline.source.check_history(&selection)?);
    }
    let broken = source.iter().any(|f| f.level == Level::Critical);
    out.extend(source.into_iter().map(|f| ("source".to_owned(), f)));
    if let Some(budget) = &pipeline.limits.log_budget
        && let Some(retained) = pipeline.source.retained()?
    {
        let held = || Finding::ok("log_budget", format!("{} held by {}", size(retained.bytes), retained.by));
        out.push(("source".to_owned(), retention::over(&retained, budget).unwrap_or_else(held)));
    }
    out.extend(suspended.iter().map(|s| ("source".to_owned(), left_alone(s))));
    let tables = match pipeline.source.tables(&selection) {
        Ok(tables) => tables,
        // The findings have told what is wrong already; the target can still be looked at without tables.
        Err(_) if broken => Vec::new(),
        Err(e) => return Err(e),
    };
    let (mapped, wrong) = Transform::new(pipeline.rules.clone()).map_each(&tables);
    let wrong = wrong.iter().map(unmapped).map(|f| if begun && !mapped.is_empty() { passed_over(f) } else { f });
    out.extend(wrong.map(|f| ("source".to_owned(), f)));
    let sources: Vec<Arc<TableSchema>> = mapped.iter().map(|m| Arc::clone(&m.source)).collect();
    let details = pipeline.source.details(&sources)?;
    let arriving: Vec<(Arc<TableSchema>, Details)> =
        mapped.iter().zip(&details).map(|(m, d)| (Arc::clone(&m.target), m.details(d))).collect();
    // A target that makes no tables for an application has no use for what is left out of them.
    let makes =
        pipeline.targets.iter().map(|spec| Ok(spec.target.ddl(&[])?.is_some())).collect::<Result<Vec<bool>>>()?;
    if makes.contains(&true) {
        let found = arriving.iter().filter_map(|(table, details)| left_out(table, details));
        out.extend(found.map(|f| ("source".to_owned(), f)));
    }
    let arriving: Vec<Arc<TableSchema>> = arriving.into_iter().map(|(table, _)| table).collect();
    for (i, spec) in pipeline.targets.iter().enumerate() {
        let end = scan::end(pipeline, i);
        out.extend(spec.target.check(&pipeline.name, &arriving)?.into_iter().map(|f| (end.clone(), f)));
    }
    Ok((out, mapped))
}

/// Whether every target remembers the tables' shapes.
fn has_begun(pipeline: &Pipeline) -> Result<bool> {
    let checkpoints = pipeline.targets.iter().map(|spec| Ok(spec.target.recover(&pipeline.name)?.is_some()));
    Ok(checkpoints.collect::<Result<Vec<bool>>>()?.iter().all(|begun| *begun))
}

/// A table that was changed into what nobody can carry while no pipeline ran is suspended where the log tells of the change, as it would
/// have been by a running one: it stops nobody. Nothing is asked of it until then.
fn do_without(findings: &mut [Finding], selection: &mut Selection) {
    for finding in findings {
        if let Some(table) = finding.table.clone() {
            selection.exclude.push(table.to_string());
            *finding = passed_over(finding.clone());
        }
    }
}

/// What is wrong with one table's shape, where the pipeline goes on.
fn passed_over(f: Finding) -> Finding {
    let fix = format!("{}; else the table is suspended with its next row, and the others go on", f.fix);
    Finding { level: Level::Warning, fix, ..f }
}

/// A table that the rules give no place at the targets.
fn unmapped(e: &Error) -> Finding {
    let expected = "a name of its own for every table and column, and a place for every column of a key";
    Finding::critical("routes and column rules", expected, e.to_string(), e.hint_text().unwrap_or_default())
}

/// A table that reaches no target for now.
fn left_alone(s: &SuspendedTable) -> Finding {
    let actual = format!("suspended since {}: {}", s.position, s.reason);
    let fix = s.hint.as_ref().map_or_else(String::new, |hint| format!("{hint}; then "));
    Finding::warning(format!("table {}", s.table), "carried", actual, format!("{fix}`{}`", s.command))
}

/// What of a table reaches no target.
fn left_out(table: &TableSchema, details: &Details) -> Option<Finding> {
    let list: Vec<String> = details.left_out.iter().map(|l| format!("{}: {}", l.what, l.why)).collect();
    let name = &table.origin.as_ref().map_or(&table.name, |origin| &origin.name);
    let fix =
        "make at the target by hand what the application needs of it; `crossfade schema` prints all that is carried";
    let expected = "defaults, checks and columns that mean the same in Postgres";
    (!list.is_empty()).then(|| Finding::warning(format!("table {name}, not carried"), expected, list.join("; "), fix))
}

/// Findings that are not as they should be, as text.
pub fn report(findings: &[(String, Finding)]) -> String {
    let mut out = String::new();
    for (end, f) in findings.iter().filter(|(_, f)| f.level != Level::Ok) {
        out.push_str(&format!("  {}: {end}: {}\n", f.level, f.setting));
        out.push_str(&format!("      expected  {}\n", f.expected));
        out.push_str(&format!("      actual    {}\n", f.actual));
        out.push_str(&format!("      mend      {}\n", f.fix.replace('\n', "\n                ")));
    }
    out.trim_end().to_owned()
}

pub fn check(args: &Check) -> Result<u8> {
    let (_config, _runtime, pipeline) = args.which.open()?;
    let (mut found, mapped) = look(&pipeline)?;
    let scanned = match args.scan {
        true => Some(values(&pipeline, &mapped, &mut found)?),
        false => None,
    };
    found.extend(beyond::figures(&pipeline, &mapped)?);
    let verdict = found.iter().map(|(_, f)| f.level).max().unwrap_or(Level::Ok);
    if args.json {
        let findings = found.into_iter().map(|(end, finding)| Entry { end, finding }).collect();
        print_json(&Report { verdict, findings, scanned })?;
    } else {
        let mut fine = table(&["", "setting", "actual"]);
        for (end, f) in found.iter().filter(|(_, f)| f.level == Level::Ok) {
            fine.add_row([&format!("ok: {end}"), &f.setting, &f.actual]);
        }
        println!("{fine}");
        let trouble = report(&found);
        if !trouble.is_empty() {
            println!("\n{trouble}");
        }
        if let Some(s) = scanned {
            let read = format!("{} rows, {} in {}", count(s.rows), size(s.bytes), seconds(s.seconds));
            println!("\nEvery value of {} was read: {read}.", tables(s.tables as usize));
        }
        println!(
            "\n{}",
            match verdict {
                Level::Ok => "Everything is as it should be.",
                Level::Warning => "It will work; look at the warnings.",
                Level::Critical => "It cannot run yet: mend what is critical.",
            }
        );
    }
    Ok(match verdict {
        Level::Ok => 0,
        Level::Warning => 1,
        Level::Critical => 2,
    })
}

/// Reads all values, with a line of progress.
fn values(pipeline: &Pipeline, tables: &[Mapped], found: &mut Found) -> Result<Scanned> {
    let progressing = Progressing::start();
    let mut told: Option<Instant> = None;
    let (more, scanned) = scan::scan(pipeline, tables, &mut |table, s| {
        if told.is_none_or(|at| at.elapsed() >= Duration::from_millis(200)) {
            told = Some(Instant::now());
            progressing.say(format!(
                "reading {table}, {} of {} tables done: {} rows, {}, {}/s",
                count(s.tables),
                count(tables.len() as u64),
                count(s.rows),
                size(s.bytes),
                size((s.bytes as f64 / s.seconds.max(0.001)) as u64)
            ));
        }
    })?;
    found.extend(more);
    Ok(scanned)
}
