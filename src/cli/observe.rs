//! `lag` and `status`: how far the target is, from the running daemon or from the databases themselves.

use std::time::Duration;

use clap::Args;
use crossfade_core::{Finding, Level, Phase, Position, Result, Retained};
use serde::Serialize;

use super::print::{count, left, seconds, size, table, time};
use super::{Which, parse_duration, print_json, watch};
use crate::config::Config;
use crate::ledger::Ledger;
use crate::pipeline::Pipeline;
use crate::pipeline::progress::{self, Keeping, Moment, State, SuspendedTable, TargetProgress, View};
use crate::pipeline::{retention, suspend};
use crate::service::{self, Status};

/// How far the target is behind.
#[derive(Debug, Args)]
pub struct Lag {
    #[command(flatten)]
    which: Which,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
    /// Show it live, with charts, until q is pressed
    #[arg(long, conflicts_with = "json")]
    watch: bool,
    /// Warn (exit code 1) when the target is further behind
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    warn: Duration,
    /// Critical (exit code 2) when the target is further behind
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = parse_duration)]
    crit: Duration,
}

/// One screen on the pipeline.
#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    which: Which,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warning,
    Critical,
    Unknown,
}

#[derive(Debug, Serialize)]
struct LagReport {
    verdict: Verdict,
    pipelines: Vec<LagLine>,
}

#[derive(Debug, Serialize)]
struct LagLine {
    name: String,
    state: &'static str,
    phase: Option<Phase>,
    source_position: Option<Position>,
    target_position: Option<Position>,
    lag_bytes: Option<u64>,
    lag_seconds: Option<f64>,
    rows_per_second: f64,
    /// Log that the source keeps for the pipeline, where it does so.
    retained: Option<Retained>,
    /// What is wrong with that.
    concern: Option<Finding>,
    /// Tables that are left out.
    suspended: Vec<SuspendedTable>,
}

pub fn lag(args: &Lag) -> Result<u8> {
    let (config, _runtime, pipeline) = args.which.open()?;
    if args.watch {
        // A daemon of another version may not tell of the past: then the charts begin now.
        let past = || service::ask_samples(&pipeline.name).and_then(Result::ok).unwrap_or_default();
        return watch::watch(|| picture(&pipeline, &config), past);
    }
    let status = picture(&pipeline, &config)?;
    let view = &status.view;
    let verdict = judge(view, args.warn, args.crit);
    let line = LagLine {
        name: pipeline.name.clone(),
        state: view.state.name(),
        phase: view.phase(),
        source_position: view.source_position.clone(),
        target_position: hindmost(&pipeline, view)?,
        lag_bytes: view.lag_bytes,
        lag_seconds: view.lag_seconds,
        rows_per_second: (view.rows_per_second * 10.0).round() / 10.0,
        retained: view.retained.clone(),
        concern: view.concern.clone(),
        suspended: view.suspended.clone(),
    };
    if args.json {
        print_json(&LagReport { verdict, pipelines: vec![line] })?;
    } else {
        let mut t = table(&["pipeline", "state", "phase", "behind", "bytes", "rows/s", "source", "target"]);
        let text = |p: &Option<Position>| p.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
        t.add_row([
            line.name,
            line.state.to_owned(),
            line.phase.map_or_else(|| "-".into(), |p| p.to_string()),
            line.lag_seconds.map_or_else(|| "unknown".into(), seconds),
            line.lag_bytes.map_or_else(|| "-".into(), size),
            count(line.rows_per_second.round() as u64),
            text(&line.source_position),
            text(&line.target_position),
        ]);
        println!("{t}");
        if let State::Retrying(error) = &view.state {
            println!("\nretrying: {error}");
        }
        troubles(view);
    }
    Ok(verdict as u8)
}

/// What has to be looked at, below the table: whole sentences would widen its columns beyond any screen.
fn troubles(view: &View) {
    for table in &view.suspended {
        println!("\nsuspended: {table}");
    }
    if let Some(f) = &view.concern {
        println!("\n{}: {}: {}, and should be: {}\n  mend: {}", f.level, f.setting, f.actual, f.expected, f.fix);
    }
}

fn judge(view: &View, warn: Duration, crit: Duration) -> Verdict {
    match view.concern.as_ref().map(|f| f.level) {
        None | Some(Level::Ok) if view.suspended.is_empty() => behind(view, warn, crit),
        None | Some(Level::Ok | Level::Warning) => behind(view, warn, crit).max(Verdict::Warning),
        // Also where the lag is unknown.
        Some(Level::Critical) => Verdict::Critical,
    }
}

fn behind(view: &View, warn: Duration, crit: Duration) -> Verdict {
    match view.lag_seconds {
        None => Verdict::Unknown,
        Some(s) if s > crit.as_secs_f64() => Verdict::Critical,
        Some(s) if s > warn.as_secs_f64() => Verdict::Warning,
        Some(_) if view.phase() != Some(Phase::Streaming) => Verdict::Warning,
        Some(_) if view.state != State::Running => Verdict::Warning,
        Some(_) => Verdict::Ok,
    }
}

fn hindmost(pipeline: &Pipeline, view: &View) -> Result<Option<Position>> {
    let mut least: Option<Position> = None;
    for target in &view.targets {
        let Some(c) = &target.checkpoint else { return Ok(None) };
        if least.as_ref().map(|l| pipeline.source.order(&c.position, l)).transpose()?.is_none_or(|o| o.is_lt()) {
            least = Some(c.position.clone());
        }
    }
    Ok(least)
}

/// From the daemon if one answers, else from both ends.
pub fn picture(pipeline: &Pipeline, config: &Config) -> Result<Status> {
    match service::ask_status(&pipeline.name) {
        Some(status) => status,
        None => from_databases(pipeline, config.proof.goal_hours),
    }
}

/// What the ledger says, without a daemon.
fn kept(pipeline: &str, goal: u32) -> Keeping {
    let read = || -> Result<Keeping> {
        let Some(ledger) = Ledger::open_read(pipeline)? else { return Ok(Keeping::default()) };
        let standing = Some(ledger.standing(goal, crate::now_micros())?);
        Ok(Keeping { standing, audits: ledger.audits()?, error: None })
    };
    read().unwrap_or_else(|e| Keeping { error: Some(e.to_string()), ..Keeping::default() })
}

fn from_databases(pipeline: &Pipeline, goal: u32) -> Result<Status> {
    let end = pipeline.source.position()?;
    let mut view = View { state: State::Stopped, source_position: Some(end.clone()), ..View::default() };
    view.retained = pipeline.source.retained()?;
    let budget = pipeline.limits.log_budget.as_ref();
    view.concern = view.retained.as_ref().and_then(|r| retention::concern(r, budget));
    for spec in &pipeline.targets {
        let checkpoint = spec.target.recover(&pipeline.name)?;
        view.targets.push(TargetProgress { name: spec.name.clone(), checkpoint, ..TargetProgress::default() });
    }
    view.suspended = suspend::recover(pipeline)?;
    if let Some(durable) = hindmost(pipeline, &view)? {
        let behind = pipeline.source.order(&durable, &end)?.is_lt();
        view.lag_bytes = if behind { pipeline.source.distance(&durable, &end)? } else { Some(0) };
        let oldest = view.targets.iter().filter_map(|t| t.checkpoint.as_ref()?.commit_micros).min();
        view.lag_seconds = match behind {
            false => Some(0.0),
            true => progress::behind(oldest, None, Moment::now()),
        };
    }
    let keeping = kept(&pipeline.name, goal);
    let (pipeline, source) = (pipeline.name.clone(), pipeline.source_name.clone());
    Ok(Status { pipeline, pid: 0, since_micros: 0, source, view, keeping })
}

/// Asks the targets how many values policies have changed there. One that is down is no reason to tell nothing of the pipeline.
fn count_changed(pipeline: &Pipeline, view: &mut View) {
    for target in &mut view.targets {
        match pipeline.targets.iter().find(|s| s.name == target.name).map(|s| s.target.kept(&pipeline.name)) {
            Some(Ok(changed)) => target.changed = changed,
            Some(Err(e)) => target.changed_error = Some(e.to_string()),
            None => {}
        }
    }
}

fn of_target(t: &mut comfy_table::Table, target: &TargetProgress) {
    t.add_row(["target", &target.name]);
    let (position, seq) = match &target.checkpoint {
        Some(c) => (c.position.to_string(), format!("{} (epoch {})", count(c.seq), c.epoch)),
        None => ("-".into(), "-".into()),
    };
    t.add_row(["  position", &position]);
    t.add_row(["  commits", &seq]);
    t.add_row(["  rows streamed", &count(target.rows)]);
    for k in &target.changed {
        let values = format!("{} of {}, column {}, by {}", count(k.values), k.table, k.column, k.policy);
        t.add_row(["  values changed", &values]);
    }
    if let Some(error) = &target.changed_error {
        t.add_row(["  values changed", &format!("unknown: {error}")]);
    }
}

pub fn status(args: &StatusArgs) -> Result<u8> {
    let (config, _runtime, pipeline) = args.which.open()?;
    let mut status = picture(&pipeline, &config)?;
    count_changed(&pipeline, &mut status.view);
    let verdict = judge(&status.view, Duration::from_secs(30), Duration::from_secs(300));
    if args.json {
        print_json(&status)?;
        return Ok(verdict as u8);
    }
    let view = &status.view;
    let mut t = table(&["pipeline", &status.pipeline]);
    let state = match &view.state {
        State::Retrying(error) => format!("retrying: {error}"),
        other => other.name().to_owned(),
    };
    let owner = match status.pid {
        0 => match pipeline.targets.iter().find_map(|s| s.target.owner(&pipeline.name).ok().flatten()) {
            Some(owner) => format!("{owner}"),
            None => "nobody runs it".into(),
        },
        pid => format!("process {pid} since {}", time(status.since_micros)),
    };
    t.add_row(["state", &state]);
    t.add_row(["run by", &owner]);
    t.add_row(["phase", &view.phase().map_or_else(|| "not begun".into(), |p| p.to_string())]);
    t.add_row(["source", &status.source]);
    t.add_row(["  position", &view.source_position.as_ref().map_or_else(|| "-".into(), ToString::to_string)]);
    view.targets.iter().for_each(|target| of_target(&mut t, target));
    let behind = view.lag_seconds.map_or_else(|| "unknown".into(), seconds);
    let bytes = view.lag_bytes.map_or_else(String::new, |b| format!(", {}", size(b)));
    t.add_row(["behind", &format!("{behind}{bytes}")]);
    t.add_row(["rows/s", &count(view.rows_per_second.round() as u64)]);
    if let Some(r) = &view.retained {
        let room = r.room.map_or_else(String::new, |b| format!(", {} until it may be lost", size(b)));
        t.add_row(["log kept", &format!("{} by {}{room}", size(r.bytes), r.by)]);
    }
    if !view.suspended.is_empty() {
        let names: Vec<String> = view.suspended.iter().map(|s| s.table.to_string()).collect();
        t.add_row(["suspended", &names.join(", ")]);
    }
    if let Some(c) = view.copy {
        t.add_row([
            "copy",
            &format!(
                "{} of {} chunks, {} rows, {}{}",
                count(c.done),
                count(c.chunks),
                count(c.rows),
                size(c.bytes),
                left(c.seconds_left)
            ),
        ]);
    }
    if let Some(standing) = &status.keeping.standing {
        t.add_row(["streak", &standing.line()]);
    }
    for auditing in &status.keeping.audits {
        t.add_row(["audit", &auditing.to_string()]);
    }
    if let Some(error) = &status.keeping.error {
        t.add_row(["ledger", &format!("cannot be used, so hours are unknown: {error}")]);
    }
    if view.restarts > 0 {
        t.add_row(["restarts", &count(view.restarts)]);
    }
    println!("{t}");
    troubles(view);
    Ok(verdict as u8)
}
