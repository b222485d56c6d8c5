//! What can be seen of a running pipeline: positions, phase, rates, the copy's progress, the last error.
//!
//! It is a view for people and for `lag`, kept by the threads that do the work. Nothing is decided from it but
//! how long to wait after an error: recovery and goals read the targets' checkpoints.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossfade_core::{Checkpoint, Finding, Phase, Position, Result, Retained};
use serde::{Deserialize, Serialize};

use super::session::Shared;

/// What a pipeline is up to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Opening both ends.
    #[default]
    Starting,
    /// Copying or streaming.
    Running,
    /// Waiting to try again after this error.
    Retrying(String),
    /// Draining after a signal.
    Stopping,
    /// No daemon runs it.
    Stopped,
}

/// How far one target is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TargetProgress {
    /// Where it writes, without secrets.
    pub name: String,
    /// Its last committed checkpoint.
    pub checkpoint: Option<Checkpoint>,
    /// Rows written by this process.
    pub rows: u64,
}

/// The initial copy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyProgress {
    /// Chunks planned.
    pub chunks: u64,
    /// Chunks that every target holds.
    pub done: u64,
    /// Rows copied by this process.
    pub rows: u64,
    /// Bytes copied by this process, as decoded.
    pub bytes: u64,
    /// Chunks that were done when the session began, and when that was, in microseconds since 1970 UTC.
    #[serde(default)]
    pub done_before: u64,
    /// See `done_before`.
    #[serde(default)]
    pub began_micros: i64,
    /// How long the rest will take if it goes on as since the session began; chunks are about equal, but for tables
    /// without a key, which are one each.
    #[serde(default)]
    pub seconds_left: Option<u64>,
}

impl CopyProgress {
    fn look_ahead(&mut self, now_micros: i64) {
        let done = self.done.saturating_sub(self.done_before);
        let passed = (now_micros - self.began_micros).max(0) as f64 / 1e6;
        let left = self.chunks.saturating_sub(self.done) as f64;
        self.seconds_left = (done > 0).then(|| (passed / done as f64 * left).round() as u64);
    }
}

/// A picture of a pipeline at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct View {
    /// What it is up to.
    pub state: State,
    /// The end of the source's log, as last seen.
    pub source_position: Option<Position>,
    /// Bytes of log between the hindmost target and the source.
    pub lag_bytes: Option<u64>,
    /// Seconds by which the hindmost target is behind; 0 when it holds all that the source had.
    pub lag_seconds: Option<f64>,
    /// When both ends were last compared, and when they were last found level, in microseconds since 1970 UTC; 0: never.
    pub looked_micros: i64,
    /// See `looked_micros`.
    pub level_micros: i64,
    /// Log that the source keeps for this pipeline, where it does so.
    #[serde(default)]
    pub retained: Option<Retained>,
    /// What is wrong with that, if something is.
    #[serde(default)]
    pub concern: Option<Finding>,
    /// When that was last looked at, in microseconds since 1970 UTC; 0: never.
    #[serde(default)]
    pub retained_micros: i64,
    /// Each target.
    pub targets: Vec<TargetProgress>,
    /// The initial copy, while it runs.
    pub copy: Option<CopyProgress>,
    /// Rows per second, over the last seconds.
    pub rows_per_second: f64,
    /// How often the pipeline was started again after a transient error.
    pub restarts: u64,
}

impl View {
    /// Takes in a comparison of the hindmost target with the source's log: whether it is behind the end, and when an end that
    /// it has reached was seen.
    fn looked(&mut self, behind: bool, reached: Option<i64>, end: Position, now: i64) {
        let level = if behind { reached } else { Some(now) };
        self.level_micros = self.level_micros.max(level.unwrap_or(0));
        let oldest = self.targets.iter().filter_map(|t| t.checkpoint.as_ref()?.commit_micros).min();
        // Behind since the last applied commit, or since both were last level: after quiet hours the first new
        // transaction is not hours late.
        self.lag_seconds = match (behind, oldest.unwrap_or(0).max(self.level_micros)) {
            (false, _) => Some(0.0),
            (true, 0) => None,
            (true, since) => Some((now - since).max(0) as f64 / 1e6),
        };
        self.looked_micros = now;
        self.source_position = Some(end);
    }

    /// The hindmost phase.
    pub fn phase(&self) -> Option<Phase> {
        let phases = || self.targets.iter().map(|t| t.checkpoint.as_ref().map(|c| c.phase));
        if phases().all(|p| p == Some(Phase::Streaming)) && !self.targets.is_empty() {
            Some(Phase::Streaming)
        } else {
            phases().flatten().next().map(|_| Phase::Copying)
        }
    }
}

/// An end of the source's log that was seen earlier, and when, in microseconds since 1970 UTC: who has reached it holds all that
/// was there then. On a server whose other databases are written to, the log's end moves on for ever, and nobody is seen level
/// with it.
#[derive(Debug, Clone)]
pub struct Mark {
    /// The end.
    pub end: Position,
    seen: i64,
}

/// The shared picture.
#[derive(Debug, Default)]
pub struct Progress {
    view: Mutex<View>,
    meter: Mutex<Option<(Instant, u64)>>,
    mark: Mutex<Option<Mark>>,
}

impl Progress {
    /// A copy of the picture.
    pub fn view(&self) -> View {
        self.lock().clone()
    }

    /// The mark that a target has to reach; see [`Mark`].
    pub fn mark(&self) -> Option<Mark> {
        self.mark.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes in a comparison of the hindmost target with the source's log: whether it is behind the end, and whether it has
    /// reached the mark, which then moves to the end.
    pub fn looked(&self, behind: bool, reached_mark: bool, end: Position, now: i64) {
        let mut mark = self.mark.lock().unwrap_or_else(PoisonError::into_inner);
        let mut reached = None;
        if reached_mark || mark.is_none() {
            reached = mark.replace(Mark { end: end.clone(), seen: now }).map(|m| m.seen);
        }
        drop(mark);
        self.update(|v| v.looked(behind, reached, end, now));
    }

    /// Changes the picture.
    pub fn update(&self, change: impl FnOnce(&mut View)) {
        change(&mut self.lock());
    }

    /// Brings the rate up to date; called about once a second. Half the weight is on the last five seconds or so.
    pub fn tick(&self) {
        let mut meter = self.meter.lock().unwrap_or_else(PoisonError::into_inner);
        let mut view = self.lock();
        if let Some(copy) = &mut view.copy {
            copy.look_ahead(crate::now_micros());
        }
        let copied = view.copy.map_or(0, |c| c.rows);
        let rows = copied + view.targets.iter().map(|t| t.rows).max().unwrap_or(0);
        let now = Instant::now();
        if let Some((then, before)) = *meter {
            let passed = now.duration_since(then);
            if passed < Duration::from_millis(500) {
                return;
            }
            let rate = rows.saturating_sub(before) as f64 / passed.as_secs_f64();
            let keep = (-passed.as_secs_f64() / 5.0).exp();
            let smooth = view.rows_per_second * keep + rate * (1.0 - keep);
            view.rows_per_second = if smooth < 0.05 { 0.0 } else { smooth };
        }
        *meter = Some((now, rows));
    }

    fn lock(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Compares both ends for the picture of progress.
pub fn look(shared: &Shared<'_>) -> Result<()> {
    let end = shared.source.position()?;
    let held = shared.held();
    let behind = shared.source.order(&held, &end)?.is_lt();
    let bytes = if behind { shared.source.distance(&held, &end)? } else { Some(0) };
    let reached_mark = match shared.progress.mark() {
        Some(mark) => shared.source.order(&held, &mark.end)?.is_ge(),
        None => false,
    };
    shared.progress.tick();
    shared.progress.looked(behind, reached_mark, end, crate::now_micros());
    shared.progress.update(|v| v.lag_bytes = bytes);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_follows_from_the_chunks_of_this_session() {
        let mut copy =
            CopyProgress { chunks: 30, done: 10, done_before: 10, began_micros: 5_000_000, ..CopyProgress::default() };
        copy.look_ahead(15_000_000);
        assert_eq!(copy.seconds_left, None, "nothing to go by");
        copy.done = 15;
        copy.look_ahead(15_000_000);
        assert_eq!(copy.seconds_left, Some(30));
    }

    #[test]
    fn a_log_that_others_write_to_does_not_make_an_idle_pipeline_late() {
        let progress = Progress::default();
        let look = |n: i64, reached| {
            progress.looked(true, reached, Position::new(format!("{n:09}")), n * 1_000_000);
            progress.view().lag_seconds
        };
        assert_eq!(look(10, false), None, "nothing to go by");
        // Always behind the end, which moves, and at the mark at every other look.
        for n in 11..100 {
            let lag = look(n, n % 2 == 0);
            assert!(n < 12 || lag.is_some_and(|s| s <= 3.0), "{n}: {lag:?}");
        }
        // A target that stands still is late, and ever later.
        assert_eq!(look(200, false), Some(104.0));
    }

    #[test]
    fn the_hindmost_target_decides_the_phase() {
        let target = |phase: Option<Phase>| TargetProgress {
            checkpoint: phase.map(|phase| Checkpoint {
                seq: 1,
                position: Position::new("x"),
                phase,
                epoch: 1,
                commit_micros: None,
            }),
            ..TargetProgress::default()
        };
        let view = |targets| View { targets, ..View::default() };
        assert_eq!(view(vec![]).phase(), None);
        assert_eq!(view(vec![target(None)]).phase(), None);
        assert_eq!(view(vec![target(Some(Phase::Streaming)), target(None)]).phase(), Some(Phase::Copying));
        assert_eq!(view(vec![target(Some(Phase::Streaming))]).phase(), Some(Phase::Streaming));
    }
}
