//! `check`: what stands in the way, before anything is started.

use std::sync::Arc;

use clap::Args;
use crossfade_core::{Details, Finding, Level, Result, TableSchema};
use serde::Serialize;

use super::print::{size, table};
use super::schema::arriving;
use super::{Which, print_json};
use crate::pipeline::progress::SuspendedTable;
use crate::pipeline::{Pipeline, retention, suspend};

/// Look for trouble before a run.
#[derive(Debug, Args)]
pub struct Check {
    #[command(flatten)]
    which: Which,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    verdict: Level,
    findings: Vec<Entry>,
}

#[derive(Serialize)]
struct Entry {
    end: String,
    #[serde(flatten)]
    finding: Finding,
}

/// All findings, each with the end it was found at.
pub fn findings(pipeline: &Pipeline) -> Result<Vec<(String, Finding)>> {
    let mut out = Vec::new();
    let suspended = suspend::recover(pipeline)?;
    // What is wrong with a table that is left out stops nobody.
    let selection = suspend::selection(pipeline, &suspended, |_| false);
    let source = pipeline.source.check(&selection)?;
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
    let arriving = arriving(pipeline, &tables)?;
    // A target that makes no tables for an application has no use for what is left out of them.
    let makes =
        pipeline.targets.iter().map(|spec| Ok(spec.target.ddl(&[])?.is_some())).collect::<Result<Vec<bool>>>()?;
    if makes.contains(&true) {
        let found = arriving.iter().filter_map(|(table, details)| left_out(table, details));
        out.extend(found.map(|f| ("source".to_owned(), f)));
    }
    let arriving: Vec<Arc<TableSchema>> = arriving.into_iter().map(|(table, _)| table).collect();
    for (i, spec) in pipeline.targets.iter().enumerate() {
        let end = if pipeline.targets.len() == 1 { "target".to_owned() } else { format!("target {}", i + 1) };
        out.extend(spec.target.check(&pipeline.name, &arriving)?.into_iter().map(|f| (end.clone(), f)));
    }
    Ok(out)
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
    let found = findings(&pipeline)?;
    let verdict = found.iter().map(|(_, f)| f.level).max().unwrap_or(Level::Ok);
    if args.json {
        let findings = found.into_iter().map(|(end, finding)| Entry { end, finding }).collect();
        print_json(&Report { verdict, findings })?;
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
