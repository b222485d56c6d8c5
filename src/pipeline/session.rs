//! One attempt: both ends open, threads running, until a goal, a signal or an error ends it.
//!
//! ```text
//!            parcels                shaped (one queue per target)
//!  source ----------> transform ----------------------------------> target 0
//!  reader.rs          shaper.rs  \-------------------------------->  target 1    applier.rs
//!     ^                                                                |
//!     |  ack: the least position that every target has committed       |
//!     +----------------------------------------------------------------+
//!  copy 0..n: snapshot chunk -> loader, kept off the tables being written by gate.rs      copier.rs
//! ```
//!
//! The calling thread conducts: it watches signals, the goal and requests, and keeps the picture of progress. The first
//! error of any thread aborts all others; nothing is cleaned up, because recovery is the only path back.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Scope;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use crossfade_core::{
    Checkpoint, Error, Phase, Position, Result, Source, Stream, TableName, TableSchema, Target, Writer,
};

use super::again::Wish;
use super::applier::Applier;
use super::budget::Budget;
use super::copier::{Destination, Plan, copy, lacking};
use super::errand::Errands;
use super::fence;
use super::gate::Gate;
use super::halt::Halt;
use super::progress::{self, CopyProgress, Progress, State};
use super::pulse::{self, Patience};
use super::reader::read;
use super::reins::{Reins, Rule};
use super::shaper::{Outlet, shape};
use super::throttle::Throttle;
use super::{Limits, Pipeline, Tuning, retention};
use crate::ledger::entry::changes;
use crate::transform::{Mapped, Transform};

/// Waits re-check this often whether the session is over.
pub const TICK: Duration = Duration::from_millis(50);

/// What the threads of a session share.
pub struct Shared<'a> {
    /// The pipeline's name.
    pub pipeline: &'a str,
    /// The source.
    pub source: &'a dyn Source,
    /// Bounds.
    pub limits: &'a Limits,
    /// What may change of them.
    pub tuning: &'a Tuning,
    /// Whether to go on.
    pub halt: Halt,
    /// Bytes on their way.
    pub budget: Arc<Budget>,
    /// Keeps copy and stream apart.
    pub gate: Gate,
    /// Holds and drives the reader.
    pub reins: Reins,
    /// The targets that this session runs, by their place in the pipeline; others wait until these are level with them.
    pub members: Vec<usize>,
    /// What people see.
    pub progress: &'a Progress,
    /// Brakes the copy.
    pub throttle: Throttle,
    /// Held by whoever holds the reader at a position.
    pub fence: Mutex<()>,
    /// Rows of repairs, on their way to the targets' threads.
    pub errands: Errands,
    flush: AtomicBool,
    /// Tables without a key that a target (by its place in the pipeline) still lacks, see [`super::copier`].
    uncopied: Mutex<HashSet<(usize, TableName)>>,
    /// Set to end the session for tables that are to be copied again.
    wish: Mutex<Option<Wish>>,
    /// The tables that this session carries, in the shape of the last batch handed to the targets.
    carried: Mutex<Vec<Mapped>>,
    /// The checkpoints of all the pipeline's targets, also of those that this session does not run.
    checkpoints: Mutex<Vec<Checkpoint>>,
    /// Per target the last position that a crash of it cannot take back.
    durable: Mutex<Vec<Position>>,
    /// Set when the copy has ended: the last position after a read, if anything was read at all.
    copied: Mutex<Option<Option<Position>>>,
}

impl Shared<'_> {
    /// What every target holds.
    pub fn held(&self) -> Position {
        let all = self.checkpoints.lock().unwrap_or_else(PoisonError::into_inner);
        self.least(all.iter().map(|c| &c.position))
    }

    /// What every target holds, and keeps through a crash: the source may discard its log of that.
    pub fn durable(&self) -> Position {
        let all = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        self.least(all.iter())
    }

    fn least<'p>(&self, positions: impl Iterator<Item = &'p Position>) -> Position {
        // Positions of one log always compare; if they did not, acknowledging nothing new would be the safe answer.
        let less = |a: &'p Position, b: &'p Position| match self.source.order(b, a).is_ok_and(|o| o.is_lt()) {
            true => b,
            false => a,
        };
        positions.reduce(less).cloned().expect("a pipeline has a target")
    }

    /// What a target has committed up to this position is durable.
    pub fn hardened(&self, index: usize, position: &Position) {
        self.durable.lock().unwrap_or_else(PoisonError::into_inner)[index] = position.clone();
    }

    /// A target has committed; whether durably, [`Shared::hardened`] tells.
    pub fn committed(&self, index: usize, checkpoint: &Checkpoint, rows: u64) {
        self.checkpoints.lock().unwrap_or_else(PoisonError::into_inner)[index] = checkpoint.clone();
        self.progress.update(|v| {
            if let Some(t) = v.targets.get_mut(index) {
                t.checkpoint = Some(checkpoint.clone());
                t.rows += rows;
            }
            if v.phase() == Some(Phase::Streaming) {
                v.copy = None;
            }
        });
    }

    /// The checkpoint of a target.
    pub fn checkpoint(&self, index: usize) -> Checkpoint {
        self.checkpoints.lock().unwrap_or_else(PoisonError::into_inner)[index].clone()
    }

    /// The tables that this session carries, as they are for the batch last handed to the targets.
    pub fn carried(&self) -> Vec<Mapped> {
        self.carried.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A table has another shape from here on.
    pub fn reshaped(&self, tables: Vec<Mapped>) {
        let mut carried = self.carried.lock().unwrap_or_else(PoisonError::into_inner);
        changes(&carried, &tables).into_iter().for_each(|event| self.progress.note(event));
        *carried = tables;
    }

    /// Whether targets must commit what they can now.
    pub fn flushing(&self) -> bool {
        self.flush.load(Ordering::SeqCst)
    }

    /// Asks the targets to commit at every boundary, or no longer.
    pub fn set_flushing(&self, on: bool) {
        self.flush.store(on, Ordering::SeqCst);
    }

    /// Ends the session, to begin again with these tables taken anew. One wish at a time: false, if there is one.
    pub fn ask_again(&self, wish: Wish) -> std::result::Result<(), Wish> {
        let mut place = self.wish.lock().unwrap_or_else(PoisonError::into_inner);
        if place.is_some() {
            return Err(wish);
        }
        *place = Some(wish);
        Ok(())
    }

    fn wished(&self) -> Option<Wish> {
        self.wish.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Whether a target still lacks this table without a key: its changes so far are not for it.
    pub fn lacks(&self, target: usize, table: &TableName) -> bool {
        let uncopied = self.uncopied.lock().unwrap_or_else(PoisonError::into_inner);
        !uncopied.is_empty() && uncopied.contains(&(target, table.clone()))
    }

    /// A target has a table without a key from here on.
    pub fn has(&self, target: usize, table: &TableName) {
        self.uncopied.lock().unwrap_or_else(PoisonError::into_inner).remove(&(target, table.clone()));
    }

    /// `Some` when the copy has ended.
    pub fn copied(&self) -> Option<Option<Position>> {
        self.copied.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Why a session ended.
pub enum End {
    /// Its goal was reached.
    Reached,
    /// It was told to stop.
    Stopped,
    /// Tables are to be copied again.
    Wish(Wish),
}

/// When a session ends by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Goal {
    /// Never.
    Forever,
    /// When every target streams and holds all that the source held when the run began.
    Level,
    /// When every target streams and holds everything up to this position.
    Reach(Position),
    /// At exactly this position: a target that lags behind another catches up with it.
    Exactly(Position),
    /// When the initial copy is complete.
    Copied,
}

/// One target of a session.
pub struct Member<'a> {
    /// Its place among the pipeline's targets.
    pub index: usize,
    /// Opens loaders and snapshots.
    pub target: &'a dyn Target,
    /// Writes.
    pub writer: &'a mut (dyn Writer + 'static),
}

/// What a session needs besides its members.
pub struct Attempt<'a> {
    /// The pipeline.
    pub pipeline: &'a Pipeline,
    /// The source's tables in the shape they had at the members' checkpoint, and how they arrive.
    pub tables: Vec<Mapped>,
    /// Reads after the members' checkpoint.
    pub stream: Box<dyn Stream>,
    /// The checkpoints of all targets.
    pub checkpoints: Vec<Checkpoint>,
    /// When to end.
    pub goal: Goal,
    /// Set by a signal: drain and end.
    pub stop: &'a AtomicBool,
    /// Called about every 20 ms on the conducting thread: requests are served here.
    pub serve: &'a mut dyn FnMut(&Shared<'_>) -> Result<()>,
}

/// Runs a session to its end. All members have the same checkpoint position and phase.
pub fn run(attempt: Attempt<'_>, mut members: Vec<Member<'_>>) -> Result<End> {
    let Attempt { pipeline, tables, stream, checkpoints, goal, stop, serve } = attempt;
    let from = checkpoints[members[0].index].clone();
    let plan = match from.phase {
        // On the way to a position nothing is copied: what is not carried yet may have chunks to come.
        Phase::Copying if matches!(goal, Goal::Exactly(_)) => None,
        Phase::Copying => {
            let mut writers: Vec<&mut (dyn Writer + 'static)> = members.iter_mut().map(|m| &mut *m.writer).collect();
            Some(Plan::make(pipeline.source.as_ref(), &tables, &mut writers, pipeline.limits.chunk_rows)?)
        }
        Phase::Streaming => None,
    };
    let uncopied = match from.phase {
        Phase::Copying => lacking(&tables, &mut members)?,
        Phase::Streaming => HashSet::new(),
    };
    let rule = match &goal {
        Goal::Exactly(position) => Rule::Until(position.clone()),
        Goal::Forever | Goal::Level | Goal::Reach(_) | Goal::Copied => Rule::Free,
    };
    let shared = Shared {
        pipeline: &pipeline.name,
        source: pipeline.source.as_ref(),
        limits: &pipeline.limits,
        tuning: &pipeline.tuning,
        halt: Halt::default(),
        budget: Budget::new(pipeline.limits.memory),
        gate: Gate::default(),
        reins: Reins::new(from.position.clone(), rule),
        members: members.iter().map(|m| m.index).collect(),
        carried: Mutex::new(tables.clone()),
        progress: &pipeline.progress,
        throttle: Throttle::new(pipeline.tuning.copy_rate(&pipeline.limits)),
        fence: Mutex::new(()),
        errands: Errands::default(),
        uncopied: Mutex::new(uncopied),
        wish: Mutex::new(None),
        flush: AtomicBool::new(goal != Goal::Forever),
        // To open a target makes durable what is found there, and a session that ends in order what it has committed.
        durable: Mutex::new(checkpoints.iter().map(|c| c.position.clone()).collect()),
        checkpoints: Mutex::new(checkpoints),
        copied: Mutex::new(None),
    };
    pipeline.progress.update(|v| {
        v.state = State::Running;
        v.copy = plan.as_ref().map(|p| CopyProgress {
            chunks: p.chunks,
            done: p.chunks - p.open(),
            done_before: p.chunks - p.open(),
            began: Some(Instant::now()),
            seconds_left: None,
            ..v.copy.unwrap_or_default()
        });
    });
    start(&shared, pipeline, tables, stream, plan, members, |indexes| conduct(&shared, &indexes, &goal, stop, serve))
}

/// Starts the threads, lets `conduct` run on this one, and gathers the first error of all.
fn start<T>(
    shared: &Shared<'_>,
    pipeline: &Pipeline,
    tables: Vec<Mapped>,
    stream: Box<dyn Stream>,
    plan: Option<Plan>,
    members: Vec<Member<'_>>,
    conduct: impl FnOnce(Vec<usize>) -> Result<T>,
) -> Result<T> {
    let first_error: Mutex<Option<Error>> = Mutex::new(None);
    let fail = |e: Error| {
        shared.halt.abort();
        let mut first = first_error.lock().unwrap_or_else(PoisonError::into_inner);
        // A thread that was interrupted may report before the one whose error it was: what cannot pass comes first.
        if first.as_ref().is_none_or(|f| f.is_transient() && !e.is_transient()) {
            *first = Some(e);
        }
    };
    let fail = &fail;
    let indexes: Vec<usize> = members.iter().map(|m| m.index).collect();
    let arriving: Vec<Arc<TableSchema>> = tables.iter().map(|m| Arc::clone(&m.target)).collect();
    let conducted = std::thread::scope(|scope| {
        let spawner = Spawner { scope, fail, progress: shared.progress };
        let (parcels_in, parcels) = bounded(shared.limits.queue);
        spawner.spawn("source", move || read(shared, stream, &parcels_in));
        let mut outlets = Vec::new();
        let mut destinations = Vec::new();
        for member in members {
            let (out, queue) = bounded(1);
            let history = member.target.history();
            outlets.push(Outlet { history, out });
            destinations.push(Destination { index: member.index, target: member.target, epoch: member.writer.epoch() });
            let policy = pipeline.targets[member.index].policy;
            let applier = Applier::new(shared, member.index, history, policy, member.writer, arriving.clone());
            spawner.spawn(&format!("target-{}", member.index), move || applier.run(&queue));
        }
        let mut transform = Transform::new(pipeline.rules.clone());
        spawner.spawn("transform", move || {
            let sources: Vec<_> = tables.iter().map(|m| Arc::clone(&m.source)).collect();
            transform.map_all(&sources)?;
            shape(shared, transform, &parcels, &outlets)
        });
        if let Some(plan) = plan {
            spawner.spawn("copy", move || copy_all(shared, plan, &destinations));
        }
        let panicked = |_| Err(Error::corrupt("the conducting thread panicked"));
        let conducted = catch_unwind(AssertUnwindSafe(|| conduct(indexes))).unwrap_or_else(panicked);
        match &conducted {
            Ok(_) => shared.halt.drain(),
            Err(_) => shared.halt.abort(),
        }
        shared.reins.set(Rule::Stop);
        conducted
    });
    match first_error.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(e) => Err(e),
        None => conducted,
    }
}

struct Spawner<'scope, 'env, F> {
    scope: &'scope Scope<'scope, 'env>,
    fail: &'scope F,
    progress: &'scope Progress,
}

impl<'scope, F: Fn(Error) + Sync> Spawner<'scope, '_, F> {
    fn spawn(&self, name: &str, work: impl FnOnce() -> Result<()> + Send + 'scope) {
        let (fail, progress) = (self.fail, self.progress);
        let doing = name.to_owned();
        let spawned = std::thread::Builder::new().name(name.to_owned()).spawn_scoped(self.scope, move || {
            let _enlisted = progress.pulse.enlist(&doing);
            // A thread that died in silence would leave the others waiting for it; what it held is dropped with them.
            let panicked = |_| Err(Error::corrupt(format!("the thread {doing} panicked")));
            if let Err(e) = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(panicked) {
                fail(e);
            }
        });
        if let Err(e) = spawned {
            fail(Error::transient(format!("starting the thread {name}")).caused_by(e));
        }
    }
}

fn copy_all(shared: &Shared<'_>, plan: Plan, destinations: &[Destination<'_>]) -> Result<()> {
    let workers = shared.limits.copy_workers.clamp(1, plan.open().max(1) as usize);
    let waiting = pulse::asking("the wait for the threads of the copy", Patience::Work);
    let plan_ref = &plan;
    let results: Vec<Result<Vec<Position>>> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..workers)
            .map(|n| {
                scope.spawn(move || {
                    let _enlisted = shared.progress.pulse.enlist(&format!("copy-{n}"));
                    let result = copy(shared, plan_ref, destinations);
                    if result.is_err() {
                        shared.halt.drain(); // the other workers end after their chunk; the error is returned below
                    }
                    result
                })
            })
            .collect();
        let panicked = |_| Err(Error::corrupt("a copy thread panicked"));
        handles.into_iter().map(|h| h.join().unwrap_or_else(panicked)).collect()
    });
    drop(waiting);
    let mut highs = plan.highs.clone();
    for result in results {
        highs.extend(result?);
    }
    // A source may show a transaction to a query a moment before its position covers it: what the reads saw is covered by a
    // position taken a moment after the last of them.
    let settled = Instant::now() + shared.source.settle();
    while plan.chunks > 0 && Instant::now() < settled && !shared.halt.over() {
        std::thread::sleep(TICK);
    }
    if shared.halt.over() {
        return Ok(());
    }
    highs.push(shared.source.position()?);
    let mut high: Option<Position> = None;
    for h in highs {
        if high.is_none() || high.as_ref().map(|x| shared.source.order(&h, x)).transpose()?.is_some_and(|o| o.is_gt()) {
            high = Some(h);
        }
    }
    *shared.copied.lock().unwrap_or_else(PoisonError::into_inner) = Some(high);
    // On a quiet log the stream would tell of having passed it a second later.
    fence::pass(shared)
}

/// Watches over the session until it has to end.
fn conduct(
    shared: &Shared<'_>,
    members: &[usize],
    goal: &Goal,
    stop: &AtomicBool,
    serve: &mut dyn FnMut(&Shared<'_>) -> Result<()>,
) -> Result<End> {
    let _turning = pulse::turning();
    let mut looked: Option<Instant> = None;
    loop {
        if shared.halt.over() || stop.load(Ordering::SeqCst) {
            return Ok(End::Stopped);
        }
        if let Some(wish) = shared.wished() {
            return Ok(End::Wish(wish));
        }
        if reached(shared, members, goal)? {
            return Ok(End::Reached);
        }
        if looked.is_none_or(|at| at.elapsed() >= Duration::from_secs(1)) {
            progress::look(shared)?;
            let budget = shared.tuning.log_budget(shared.limits);
            retention::look(shared.source, budget, shared.progress, retention::EVERY)?;
            shared.throttle.set_rate(shared.tuning.copy_rate(shared.limits));
            looked = Some(Instant::now());
        }
        serve(shared)?;
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn reached(shared: &Shared<'_>, members: &[usize], goal: &Goal) -> Result<bool> {
    for &i in members {
        let checkpoint = shared.checkpoint(i);
        let there = match goal {
            // A run replaces `Level` by the position as soon as the source has a log.
            Goal::Forever | Goal::Level => false,
            Goal::Copied => checkpoint.phase == Phase::Streaming,
            Goal::Reach(p) => {
                checkpoint.phase == Phase::Streaming && shared.source.order(&checkpoint.position, p)?.is_ge()
            }
            Goal::Exactly(p) => shared.source.order(&checkpoint.position, p)?.is_ge(),
        };
        if !there {
            return Ok(false);
        }
    }
    Ok(true)
}
