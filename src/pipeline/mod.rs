//! A pipeline: one source, a transform, one or more targets, and the will to go on.
//!
//! [`run`] opens both ends, brings targets that lag behind others level with them, and runs sessions. A transient error
//! drops both ends, waits with growing patience and jitter, and starts again through `recover`; start and restart are
//! the same code. A data error suspends its table, if it is not the only one (`suspend.rs`); a fatal error ends the run.

pub mod again;
pub mod applier;
pub mod budget;
mod copier;
pub mod errand;
pub mod fence;
mod gate;
pub mod halt;
pub mod meters;
pub mod progress;
pub mod pulse;
mod reader;
pub mod recent;
pub mod reins;
pub mod retention;
pub mod session;
mod shaper;
pub mod suspend;
pub mod throttle;
mod unindexed;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossfade_core::{
    Checkpoint, Error, Owner, Phase, Position, Result, Selection, Source, TableName, TableSchema, Target, Writer,
};

use self::applier::CommitPolicy;
use self::progress::{Progress, State, TargetProgress};
use self::pulse::Patience;
use self::retention::LogBudget;
use self::session::{Attempt, Goal, Member, Shared};
use crate::ledger::Event;
use crate::transform::{Mapped, Rules, Transform};
use crate::verify::aggregates::Aggregate;

/// Bounds of a pipeline. The worst case of memory held in batches is
/// `memory + 2 * batch_bytes + copy_workers * (one record batch of a snapshot)`, see ARCHITECTURE.md.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that may be on their way between source and targets.
    pub memory: usize,
    /// A batch is read up to so many bytes.
    pub read_bytes: usize,
    /// A batch is read up to so many rows.
    pub read_rows: usize,
    /// Waiting batches are joined up to so many bytes.
    pub batch_bytes: usize,
    /// Waiting batches are joined up to so many rows.
    pub batch_rows: usize,
    /// Batches that may wait between source and transform.
    pub queue: usize,
    /// Threads of the initial copy.
    pub copy_workers: usize,
    /// Rows per chunk of the initial copy.
    pub chunk_rows: u64,
    /// Bytes per second that all threads of the initial copy together may read; `None`: as fast as can be.
    pub copy_rate: Option<u64>,
    /// How long a comparison holds its snapshots, before it goes on with others.
    pub snapshot: Duration,
    /// Log that the source may keep for this pipeline; `None`: as much as it takes.
    pub log_budget: Option<LogBudget>,
    /// The wait after a first transient error; it doubles with each that follows, up to [`MAX_BACKOFF`].
    pub backoff: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            memory: 64 << 20,
            read_bytes: 2 << 20,
            read_rows: 8_192,
            batch_bytes: 32 << 20,
            batch_rows: 160_000,
            queue: 16,
            copy_workers: 2,
            chunk_rows: 100_000,
            copy_rate: None,
            snapshot: Duration::from_secs(600),
            log_budget: None,
            backoff: Duration::from_millis(200),
        }
    }
}

/// One target of a pipeline.
pub struct TargetSpec {
    /// For people: its URL without secrets.
    pub name: String,
    /// The target.
    pub target: Arc<dyn Target>,
    /// How often it commits.
    pub policy: CommitPolicy,
}

/// A configured pipeline.
pub struct Pipeline {
    /// The key of everything a target remembers of it.
    pub name: String,
    /// Where rows come from.
    pub source: Arc<dyn Source>,
    /// For people: the source's URL without secrets.
    pub source_name: String,
    /// Which tables.
    pub selection: Selection,
    /// What becomes of them.
    pub rules: Rules,
    /// Where rows go.
    pub targets: Vec<TargetSpec>,
    /// Figures that must hold on both sides.
    pub aggregates: Vec<Aggregate>,
    /// Bounds.
    pub limits: Limits,
    /// What people see.
    pub progress: Arc<Progress>,
    /// What may change while it runs.
    pub tuning: Arc<Tuning>,
}

/// Limits that were changed while the pipeline runs; until then its [`Limits`] count.
#[derive(Debug, Default)]
pub struct Tuning(Mutex<Option<(Option<u64>, Option<LogBudget>)>>);

impl Tuning {
    /// Changes them.
    pub fn set(&self, copy_rate: Option<u64>, log_budget: Option<LogBudget>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((copy_rate, log_budget));
    }

    /// Bytes per second that the copy may read.
    pub fn copy_rate(&self, limits: &Limits) -> Option<u64> {
        self.get().map_or(limits.copy_rate, |(copy_rate, _)| copy_rate)
    }

    /// Log that the source may keep.
    pub fn log_budget(&self, limits: &Limits) -> Option<LogBudget> {
        self.get().map_or(limits.log_budget, |(_, log_budget)| log_budget)
    }

    fn get(&self) -> Option<(Option<u64>, Option<LogBudget>)> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What happens beside the running of a session.
pub struct Conduct<'a> {
    /// Set by a signal: drain and end.
    pub stop: &'a AtomicBool,
    /// Called about every 10 ms while a session runs.
    pub serve: &'a mut dyn FnMut(&Shared<'_>) -> Result<()>,
}

/// Longest wait between attempts.
pub const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// Why a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// Its goal was reached.
    Reached,
    /// It was told to stop, and what it had read is committed.
    Stopped,
    /// It was told to stop while it waited to try again after this error.
    Interrupted(String),
}

/// Runs a pipeline until its goal is reached or a signal stops it.
pub fn run(pipeline: &Pipeline, goal: &Goal, conduct: &mut Conduct<'_>) -> Result<Ended> {
    let mut failures = 0u32;
    let mut goal = goal.clone();
    loop {
        let before = committed(pipeline);
        pipeline.progress.update(|v| v.state = State::Starting);
        let error = match attempt(pipeline, &mut goal, conduct) {
            Ok(ended) => {
                pipeline.progress.update(|v| v.state = State::Stopping);
                return Ok(ended);
            }
            Err(e) if e.is_transient() && !conduct.stop.load(Ordering::SeqCst) => {
                // Patience grows only while nothing is achieved.
                if committed(pipeline) > before {
                    failures = 0;
                }
                failures += 1;
                let wait = backoff(pipeline.limits.backoff, failures);
                pipeline.progress.note(Event::incident(&e));
                tracing::warn!(error = %e, hint = e.hint_text(), wait_ms = wait.as_millis() as u64, "trying again");
                pipeline.progress.update(|v| {
                    v.state = State::Retrying(e.to_string());
                    v.restarts += 1;
                });
                let until = Instant::now() + wait;
                while Instant::now() < until && !conduct.stop.load(Ordering::SeqCst) {
                    pulse::turned();
                    std::thread::sleep(session::TICK.min(until.saturating_duration_since(Instant::now())));
                }
                e
            }
            // A data error that is not of one table among several comes back.
            Err(e) => match suspend::suspend(pipeline, e) {
                Err(e) if e.is_transient() => e,
                done => {
                    done?;
                    continue;
                }
            },
        };
        if conduct.stop.load(Ordering::SeqCst) {
            return Ok(Ended::Interrupted(error.to_string()));
        }
    }
}

/// Commits of all targets so far.
fn committed(pipeline: &Pipeline) -> u64 {
    pipeline.progress.view().targets.iter().filter_map(|t| Some(t.checkpoint.as_ref()?.seq)).sum()
}

/// `first`, doubling to 30 s, each between half and all of it, so that many pipelines do not knock together.
fn backoff(first: Duration, failures: u32) -> Duration {
    let full = first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(MAX_BACKOFF);
    let jitter = (crate::now_micros() % 1000) as f64 / 1000.0;
    full.mul_f64(0.5 + jitter / 2.0)
}

/// A target opened for this process.
struct Opened<'a> {
    index: usize,
    target: &'a dyn Target,
    writer: Box<dyn Writer>,
}

fn attempt(pipeline: &Pipeline, goal: &mut Goal, conduct: &mut Conduct<'_>) -> Result<Ended> {
    // Until a session conducts: tables are made or emptied, locks waited for.
    let _asking = pulse::asking("the opening of both ends", Patience::Work);
    // First: a target that cannot be opened is why a source's disk fills up.
    let budget = pipeline.tuning.log_budget(&pipeline.limits);
    retention::look(pipeline.source.as_ref(), budget, &pipeline.progress, Duration::ZERO)?;
    let mut opened = open(pipeline)?;
    loop {
        begin_fresh(pipeline, &mut opened)?;
        if *goal == Goal::Level {
            // Only now has every kind of source a log that can be asked.
            *goal = Goal::Reach(pipeline.source.position()?);
        }
        again::agree(pipeline, &mut opened)?;
        let checkpoints = checkpoints(&opened)?;
        let (group, level) = hindmost(pipeline.source.as_ref(), &checkpoints)?;
        let everyone = group.len() == opened.len();
        let from = &checkpoints[group[0]].position;
        // Suspended tables, and those that begin further on in the log: up to there the pipeline goes without them.
        let (left_out, first) = again::left_out(pipeline, opened[group[0]].writer.as_mut(), from)?;
        let tables = shapes(pipeline, &mut opened, &group, &left_out)?;
        if let Some(position) = first.as_ref().filter(|_| tables.is_empty()) {
            again::skip(pipeline, &mut opened, &group, position)?;
            continue;
        }
        let whole = everyone && first.is_none();
        let goal = match first {
            Some(position) => Goal::Exactly(position),
            None if everyone => goal.clone(),
            None => level,
        };
        let sources: Vec<Arc<TableSchema>> = tables.iter().map(|m| Arc::clone(&m.source)).collect();
        let stream = pipeline.source.stream(from, &sources)?;
        let members = opened.iter_mut().filter(|o| group.contains(&o.index));
        let members = members.map(|o| Member { index: o.index, target: o.target, writer: o.writer.as_mut() }).collect();
        let attempt = Attempt { pipeline, tables, stream, checkpoints, goal, stop: conduct.stop, serve: conduct.serve };
        match session::run(attempt, members)? {
            session::End::Wish(wish) => {
                let taken = again::take_in(pipeline, &mut opened, &wish.tables);
                // A target that failed is opened anew; whoever asked is told.
                let failed = taken.as_ref().err().map(|e| format!("{}: {e}", again::FAILED));
                drop(wish.reply.send(taken.map_err(again::failed))); // who asked may have gone
                if let Some(message) = failed {
                    return Err(Error::transient(message));
                }
            }
            session::End::Stopped => return Ok(Ended::Stopped),
            session::End::Reached if whole => return Ok(Ended::Reached),
            session::End::Reached => {}
        }
    }
}

/// Opens every target for this process.
fn open(pipeline: &Pipeline) -> Result<Vec<Opened<'_>>> {
    let owner = Owner { pipeline: pipeline.name.clone(), host: crate::host_name(), pid: std::process::id() };
    let mut opened = Vec::new();
    for (index, spec) in pipeline.targets.iter().enumerate() {
        let writer = spec.target.open(&owner)?;
        opened.push(Opened { index, target: spec.target.as_ref(), writer });
    }
    pipeline.progress.update(|v| {
        let rows = |i: usize| v.targets.get(i).map_or(0, |t: &TargetProgress| t.rows);
        let target = |o: &Opened<'_>| TargetProgress {
            name: pipeline.targets[o.index].name.clone(),
            checkpoint: o.writer.checkpoint().cloned(),
            rows: rows(o.index),
            ..TargetProgress::default()
        };
        v.targets = opened.iter().map(target).collect();
    });
    suspend::tell(pipeline, &mut opened)?;
    Ok(opened)
}

fn checkpoints(opened: &[Opened<'_>]) -> Result<Vec<Checkpoint>> {
    let missing = || Error::corrupt("a target has no checkpoint after it was begun");
    opened.iter().map(|o| o.writer.checkpoint().cloned().ok_or_else(missing)).collect()
}

/// Gives every target that has none its first checkpoint: tables created, phase copying, at the log's present end.
fn begin_fresh(pipeline: &Pipeline, opened: &mut [Opened<'_>]) -> Result<()> {
    if opened.iter().all(|o| o.writer.checkpoint().is_some()) {
        return Ok(());
    }
    let tables = pipeline.source.tables(&pipeline.selection)?;
    if tables.is_empty() {
        return Err(Error::config("no table of the source matches").hint("look at `tables` and `exclude`"));
    }
    let mapped = Transform::new(pipeline.rules.clone()).map_all(&tables)?;
    let arriving: Vec<Arc<TableSchema>> = mapped.iter().map(|m| Arc::clone(&m.target)).collect();
    pipeline.source.begin(&tables)?;
    // The log may have begun in an earlier attempt, at a time when tables had other shapes: begin where they have these.
    let position = pipeline.source.position()?;
    let again = pipeline.source.tables(&pipeline.selection)?;
    let same = |a: &TableSchema, b: &TableSchema| {
        a.name == b.name && a.number == b.number && a.columns == b.columns && a.key == b.key
    };
    if !tables.iter().all(|t| again.iter().any(|a| same(a, t))) {
        return Err(Error::transient("a table changed its shape while the pipeline began"));
    }
    for o in opened.iter_mut().filter(|o| o.writer.checkpoint().is_none()) {
        o.writer.prepare(&arriving)?;
        let first = Checkpoint {
            seq: 1,
            position: position.clone(),
            phase: Phase::Copying,
            epoch: o.writer.epoch(),
            commit_micros: None,
        };
        o.writer.commit(&first)?;
        pipeline.progress.update(|v| v.targets[o.index].checkpoint = Some(first));
    }
    Ok(())
}

/// The targets that are furthest behind, and how far they must come to be level with the next. Usually all of them.
fn hindmost(source: &dyn Source, checkpoints: &[Checkpoint]) -> Result<(Vec<usize>, Goal)> {
    if let Some(copying) = checkpoints.iter().position(|c| c.phase == Phase::Copying) {
        // Targets begun together copy together; others wait until the copy is done.
        let same = |c: &Checkpoint| c.phase == Phase::Copying && c.position == checkpoints[copying].position;
        return Ok((indexes(checkpoints, same), Goal::Copied));
    }
    let mut least = &checkpoints[0].position;
    for c in checkpoints {
        if source.order(&c.position, least)?.is_lt() {
            least = &c.position;
        }
    }
    let mut next: Option<&Position> = None;
    let mut group = Vec::new();
    for (i, c) in checkpoints.iter().enumerate() {
        if source.order(&c.position, least)?.is_eq() {
            group.push(i);
        } else if next.map(|n| source.order(&c.position, n)).transpose()?.is_none_or(|o| o.is_lt()) {
            next = Some(&c.position);
        }
    }
    Ok((group, next.map_or(Goal::Forever, |p| Goal::Exactly(p.clone()))))
}

fn indexes(checkpoints: &[Checkpoint], which: impl Fn(&Checkpoint) -> bool) -> Vec<usize> {
    checkpoints.iter().enumerate().filter(|(_, c)| which(c)).map(|(i, _)| i).collect()
}

/// The source's tables in the shape that they had at a target's checkpoint, and how they arrive. The target remembers both,
/// so a table that was created, changed or dropped at the source since does not matter here: the log tells of it. Nor do those
/// that are left out: nobody knows their shape at the source any more.
///
/// Targets that receive the same batches must carry the same tables: else one would silently miss a table of the other.
fn shapes(
    pipeline: &Pipeline,
    opened: &mut [Opened<'_>],
    group: &[usize],
    left_out: &[TableName],
) -> Result<Vec<Mapped>> {
    let mut transform = Transform::new(pipeline.rules.clone());
    let mut first: Option<Vec<Mapped>> = None;
    for &index in group {
        let mut carried = opened[index].writer.tables()?;
        carried.retain(|t| !left_out.contains(&t.name));
        let mut tables = transform.restore(&carried)?;
        let altered = tables.iter().zip(&carried).filter(|(now, before)| now.target.columns != before.columns);
        let altered: Vec<Arc<TableSchema>> = altered.map(|(now, _)| Arc::clone(&now.target)).collect();
        if !altered.is_empty() {
            // A policy came or went; NULL may have to be admitted for it.
            opened[index].writer.prepare(&altered)?;
        }
        tables.sort_by(|a, b| a.source.name.cmp(&b.source.name));
        let Some(first) = &first else {
            first = Some(tables);
            continue;
        };
        let shape = |m: &Mapped| (m.source.name.clone(), m.source.columns.clone(), m.source.key.clone());
        if !first.iter().map(shape).eq(tables.iter().map(shape)) {
            return Err(Error::config(format!(
                "{} and {} carry different tables, or the same in different shapes",
                pipeline.targets[group[0]].name, pipeline.targets[index].name
            ))
            .hint(
                "tables came between the start of one target and the other: run each as a pipeline of its own name",
            ));
        }
    }
    first.ok_or_else(|| Error::corrupt("a session without targets"))
}
