//! A report as text: for a terminal of 80 columns, a mail, a monitoring plugin's output.

use std::fmt::Write;

use comfy_table::Table as Grid;

use super::{Report, Told};
use crate::cli::print::{self, count, seconds, size, time};
use crate::verify::Verdict as Compared;
use crate::verify::difference::{Difference, Kind};

/// Columns that a line may have.
const WIDTH: u16 = 80;
/// Rows of a table that are shown.
const SHOWN: usize = 10;

/// How it stands, in half a line.
pub fn summary(report: &Report) -> String {
    let mut parts = Vec::new();
    let of = |verdict| report.count(verdict);
    let (equal, different, unknown) = (of(Compared::Equal), of(Compared::Different), of(Compared::Unknown));
    match &report.verification {
        None => parts.push("nothing compared".to_owned()),
        Some(_) if different + unknown == 0 => parts.push(format!("{} equal", print::tables(equal))),
        Some(_) => {
            let some = |n: usize, what: &str| (n > 0).then(|| format!("{n} {what}"));
            let counts = [some(different, "different"), some(unknown, "unknown"), some(equal, "equal")];
            parts.push(format!("tables: {}", counts.into_iter().flatten().collect::<Vec<_>>().join(", ")));
        }
    }
    parts.extend(report.not_holding());
    parts.push(match report.lag.seconds {
        Some(s) => format!("lag {}", seconds(s)),
        None => "lag unknown".into(),
    });
    if let Some(streak) = &report.streak {
        parts.push(format!("streak {}/{} h", streak.hours, streak.goal));
    }
    parts.join(", ")
}

/// The verdict in one line, with performance data as monitoring plugins give them.
pub fn first_line(report: &Report) -> String {
    let bound = report.lag.bound_seconds;
    let mut data = Vec::new();
    // A value that is not known is left out: 0 would be read as well.
    let lag = |name: &str, s: f64| format!("{name}={s:.3}s;{bound};{};0", bound * 10.0);
    data.extend(report.lag.seconds.map(|s| lag("lag", s)));
    data.extend(report.lag.worst_seconds.map(|s| lag("worst_lag", s)));
    data.extend(report.streak.as_ref().map(|s| format!("streak={};;;0;{}", s.hours, s.goal)));
    data.push(format!("tables={};;;0", report.tables.len()));
    data.push(format!("different={};;0;0", report.count(Compared::Different)));
    data.push(format!("unknown={};;;0", report.count(Compared::Unknown)));
    format!("CROSSFADE {} - {}: {} | {}", report.verdict.word(), report.pipeline, summary(report), data.join(" "))
}

/// All of it.
pub fn text(report: &Report) -> String {
    let mut out = first_line(report);
    // Writing to a String does not fail.
    let _ = writeln!(out);
    if !report.findings.is_empty() {
        let mut t = grid(&[]);
        for f in &report.findings {
            t.add_row([f.level.word().to_owned(), f.what.clone()]);
            if let Some(next) = &f.next {
                t.add_row([String::new(), format!("do: {next}")]);
            }
        }
        section(&mut out, "", &t);
    }
    section(&mut out, "", &facts(report));
    if let Some(chart) = chart(report) {
        let _ = writeln!(out, "\n{chart}");
    }
    if !report.tables.is_empty() {
        section(&mut out, "Tables", &tables(report));
    }
    let figures = report.figures();
    if !figures.is_empty() {
        let mut t = grid(&["aggregate", "source", "target", "verdict"]);
        t.add_rows(figures);
        section(&mut out, "Aggregates", &t);
    }
    differences(&mut out, report);
    for (title, told) in report.lists() {
        if !told.is_empty() {
            section(&mut out, title, &list(told));
        }
    }
    if let Some(ledger) = &report.ledger {
        let whole = ledger.broken.as_ref().map_or("its chain is whole".to_owned(), |b| format!("BROKEN at {b}"));
        let _ = writeln!(
            out,
            "\nLedger {}: {} entries, {whole}.\nLast hash {}",
            ledger.path,
            count(ledger.entries),
            ledger.hash
        );
    }
    out
}

fn grid(header: &[&str]) -> Grid {
    let mut t = print::table(header);
    t.set_width(WIDTH);
    t
}

fn section(out: &mut String, title: &str, table: &Grid) {
    let title = if title.is_empty() { String::new() } else { format!("{title}\n") };
    let lines = table.to_string();
    let lines = lines.lines().map(str::trim_end).filter(|l| !l.is_empty()).collect::<Vec<_>>().join("\n");
    let _ = writeln!(out, "\n{title}{lines}");
}

fn facts(report: &Report) -> Grid {
    let mut t = grid(&[]);
    if let Some(streak) = &report.streak {
        let broken = match (streak.broken_micros, &streak.broken_by) {
            (Some(at), Some(by)) => format!("; last broken {}: {by}", time(at)),
            _ => String::new(),
        };
        t.add_row(["streak".to_owned(), format!("{} of {} clean hours{broken}", streak.hours, streak.goal)]);
    }
    facts_of(report).into_iter().for_each(|(name, value)| {
        t.add_row([name.to_owned(), value]);
    });
    t
}

/// What is known of the pipeline, by name.
pub fn facts_of(report: &Report) -> Vec<(&'static str, String)> {
    let span = seconds((report.made_micros - report.since_micros) as f64 / 1e6);
    let mut facts = vec![("report of", format!("{}, on the last {span}", time(report.made_micros)))];
    if let Some(state) = &report.state {
        let by = match (state.pid, state.since_micros) {
            (Some(pid), Some(since)) => format!(", process {pid} since {}", time(since)),
            _ => String::new(),
        };
        facts.push(("state", format!("{}{by}", state.state)));
        facts.push(("phase", state.phase.clone().unwrap_or_else(|| "not begun".into())));
        for (what, end) in [("source", &state.source)].into_iter().chain(state.targets.iter().map(|t| ("target", t))) {
            let commits = end.commits.map_or_else(String::new, |n| format!(", {} commits", count(n)));
            let position = end.position.as_ref().map_or_else(|| "not begun".to_owned(), |p| format!("at {p}"));
            facts.push((what, format!("{}\n{position}{commits}", end.name)));
        }
    }
    let lag = report.lag.seconds.map_or_else(|| "unknown".to_owned(), seconds);
    let bytes = report.lag.bytes.map_or_else(String::new, |b| format!(" and {}", size(b)));
    let worst =
        report.lag.worst_seconds.map_or_else(|| "not sampled".to_owned(), |s| format!("at most {}", seconds(s)));
    let bound = seconds(report.lag.bound_seconds);
    facts.push((
        "behind",
        format!("{lag}{bytes} now; {worst} ({bound} allowed, {} samples)", count(report.lag.samples)),
    ));
    if let Some(v) = &report.verification {
        let position = v.position.as_deref().unwrap_or("?");
        let found = v.canaries - v.canaries_missed.len() as u64;
        facts.push((
            "compared",
            format!(
                "{} at {position}, in {}; replication stood still for {} ms; it found the changes that it made itself in {found} of {}",
                time(v.at_micros),
                seconds(v.seconds),
                v.held_ms,
                print::tables(v.canaries as usize),
            ),
        ));
    }
    let sums: Vec<u64> = report.tables.iter().filter_map(|t| t.sums_compared).collect();
    if !sums.is_empty() {
        let differing = report.tables.iter().map(|t| t.sums_differing.len()).sum::<usize>();
        let tables = print::tables(sums.len());
        let figures = count(sums.iter().sum());
        facts.push((
            "sums",
            format!("{figures} counts and sums of {tables}, by both servers' own SQL; {differing} differ"),
        ));
    }
    facts.extend(report.audits.iter().map(|auditing| ("audit", auditing.to_string())));
    facts.extend(report.referring().map(|words| ("references", words)));
    facts.extend(report.behind().map(|words| ("sequences", words)));
    facts
}

/// The lag as a row of blocks: `▁` to `█` up to the greatest, a blank where nothing was seen.
fn chart(report: &Report) -> Option<String> {
    let worst = report.lag.worst_seconds?;
    let top = worst.max(0.001);
    let block = |s: f64| ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'][((s / top * 7.0).round() as usize).min(7)];
    let bars: String = report.lag.chart.iter().map(|b| b.worst_seconds.map_or(' ', block)).collect();
    let ends = (time(report.since_micros), time(report.made_micros));
    Some(format!("lag  |{bars}|  up to {}\n      {} to {}", seconds(worst), ends.0, ends.1))
}

fn tables(report: &Report) -> Grid {
    let mut t = grid(&["table", "source rows", "target rows", "verdict"]);
    for p in &report.tables {
        let rows = |n: Option<u64>| n.map_or_else(|| "?".to_owned(), count);
        let name = p.target.as_ref().map_or_else(|| p.table.clone(), |to| format!("{} -> {to}", p.table));
        let verdict = match p.verdict {
            Compared::Equal => "equal".to_owned(),
            Compared::Different => "DIFFERENT".to_owned(),
            Compared::Unknown => format!("UNKNOWN: {}", p.error.as_deref().unwrap_or("not read")),
        };
        t.add_row([name, rows(p.source_rows), rows(p.target_rows), verdict]);
    }
    t
}

/// What a row that differs is, in three texts: its key, what became of it, and its values.
fn row(d: &Difference) -> [String; 3] {
    let value =
        |v: &Option<String>| v.as_ref().map_or_else(|| "NULL".to_owned(), |v| format!("'{}'", v.escape_debug()));
    let key = d.key.iter().map(|n| format!("{} = {}", n.column, value(&n.value))).collect::<Vec<_>>().join(", ");
    let kind = format!("{:?}", d.kind).to_lowercase();
    let what = match &d.recheck {
        Some(crate::verify::difference::Recheck::Settled { .. }) => format!("{kind}, settled since"),
        _ => kind,
    };
    let values = match d.kind {
        Kind::Different => {
            let cell = |c: &crate::verify::difference::Cell| {
                format!("{}: {} at the source, {} at the target", c.column, value(&c.source), value(&c.target))
            };
            d.columns.iter().map(cell).collect::<Vec<_>>().join("\n")
        }
        Kind::Missing | Kind::Extra | Kind::Repeated => {
            format!("{} at the source, {} at the target", count(d.source_rows), count(d.target_rows))
        }
    };
    [key, what, values]
}

/// What differs in a table, as rows of three texts: sums first, then at most so many rows; and whether there are more.
pub fn differing(t: &super::Table, limit: usize) -> (Vec<[String; 3]>, bool) {
    let sums = t.sums_differing.iter().map(|s| s.split_once(": ").unwrap_or((s, "")));
    let mut rows: Vec<_> =
        sums.map(|(what, values)| [what.to_owned(), "different".into(), values.to_owned()]).collect();
    let Some(found) = &t.differences else { return (rows, false) };
    rows.extend(found.listed.iter().take(limit).map(row));
    (rows, found.or_more || found.rows > limit as u64)
}

fn differences(out: &mut String, report: &Report) {
    for t in &report.tables {
        let (rows, more) = differing(t, SHOWN);
        if rows.is_empty() {
            continue;
        }
        let mut g = grid(&["key", "what", "values"]);
        g.add_rows(rows);
        section(out, &format!("What differs in {}", t.table), &g);
        if more {
            let _ = writeln!(out, " and more: crossfade report --format json lists up to 100");
        }
    }
}

fn list(told: &[Told]) -> Grid {
    let mut t = grid(&[]);
    told.iter().for_each(|e| {
        t.add_row([time(e.at_micros), e.what.clone()]);
    });
    t
}
