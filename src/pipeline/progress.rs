//! What can be seen of a running pipeline: positions, phase, rates, the copy's progress, the last error.
//!
//! It is a view for people and for `lag`, kept by the threads that do the work. Nothing is decided from it but how long to
//! wait after an error, and which tables the source is not asked about: recovery and goals read the targets' checkpoints.
//!
//! How long something took, or is ago, is told by the clock that only goes forward. The wall clock, which somebody may set, is
//! compared with the time of a commit alone, and believed only as far as the other clock agrees ([`behind`]).

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossfade_core::{Checkpoint, Error, Finding, Kept, Phase, Position, Result, Retained, Suspension, TableName};
use serde::{Deserialize, Serialize};

use super::meters::Meters;
use super::pulse::{self, Patience, Pulse};
use super::recent::Recent;
use super::session::Shared;
use crate::ledger::{Event, Standing};
use crate::verify::audit::Auditing;

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

impl State {
    /// Every name.
    pub const NAMES: [&str; 5] = ["starting", "running", "retrying", "stopping", "stopped"];

    /// In a word.
    pub fn name(&self) -> &'static str {
        match self {
            State::Starting => "starting",
            State::Running => "running",
            State::Retrying(_) => "retrying",
            State::Stopping => "stopping",
            State::Stopped => "stopped",
        }
    }
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
    /// Values that policies have changed there; of `status` alone, and only where there are some.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<Kept>,
    /// Why they could not be counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_error: Option<String>,
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
    /// Chunks that were done when the session began, and when that was.
    #[serde(default)]
    pub done_before: u64,
    /// See `done_before`.
    #[serde(skip)]
    pub began: Option<Instant>,
    /// How long the rest will take if it goes on as since the session began; chunks are about equal, but for tables
    /// without a key, which are one each.
    #[serde(default)]
    pub seconds_left: Option<u64>,
}

impl CopyProgress {
    fn look_ahead(&mut self, now: Instant) {
        let done = self.done.saturating_sub(self.done_before);
        let left = self.chunks.saturating_sub(self.done) as f64;
        let took = self.began.filter(|_| done > 0).map(|began| now.saturating_duration_since(began).as_secs_f64());
        self.seconds_left = took.map(|took| (took / done as f64 * left).round() as u64);
    }
}

/// A table that is left out, see `suspend.rs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuspendedTable {
    /// Its name at the source.
    pub table: TableName,
    /// Since which position.
    pub position: Position,
    /// What could not be carried.
    pub reason: String,
    /// What can be done about that.
    pub hint: Option<String>,
    /// What takes the table in anew, when that is done.
    pub command: String,
}

impl From<Suspension> for SuspendedTable {
    fn from(why: Suspension) -> Self {
        let name = why.source.to_string();
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        let quoted = if plain { name } else { format!("'{}'", name.replace('\'', "'\\''")) };
        SuspendedTable {
            command: format!("crossfade snapshot {quoted}"),
            table: why.source,
            position: why.position,
            reason: why.reason,
            hint: why.hint,
        }
    }
}

impl fmt::Display for SuspendedTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} since {}: {}", self.table, self.position, self.reason)?;
        if let Some(hint) = &self.hint {
            write!(f, "; {hint}")?;
        }
        match &self.hint {
            Some(hint) if hint.contains("crossfade snapshot") => Ok(()),
            _ => write!(f, "; then `{}`", self.command),
        }
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
    /// Log that the source keeps for this pipeline, where it does so.
    #[serde(default)]
    pub retained: Option<Retained>,
    /// What is wrong with that, if something is.
    #[serde(default)]
    pub concern: Option<Finding>,
    /// Tables that are left out until somebody has them taken in anew.
    #[serde(default)]
    pub suspended: Vec<SuspendedTable>,
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

/// A moment by both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// By the clock that only goes forward.
    pub steady: Instant,
    /// By the wall clock: microseconds since 1970 UTC.
    pub micros: i64,
}

impl Moment {
    /// This one.
    pub fn now() -> Moment {
        Moment { steady: Instant::now(), micros: crate::now_micros() }
    }
}

/// Seconds by which a target that is behind is late, if that can be told: since its last applied commit, by the source's clock,
/// or since it was last known to be level, whichever is less. After quiet hours the first new transaction is not hours late, and
/// neither is it while a clock is hours ahead. A commit that lies in the future tells nothing: the clocks do not agree, and no
/// target looks level for that.
pub fn behind(committed: Option<i64>, level: Option<Instant>, now: Moment) -> Option<f64> {
    let by_commit = committed.map(|micros| now.micros.saturating_sub(micros)).filter(|age| *age >= 0);
    let by_commit = by_commit.map(|age| age as f64 / 1e6);
    let by_level = level.map(|level| now.steady.saturating_duration_since(level).as_secs_f64());
    match (by_commit, by_level) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, other) => one.or(other),
    }
}

/// An end of the source's log that was seen earlier, and when: who has reached it holds all that was there then. On a server whose other databases are written to, the log's end moves on for ever, and nobody is seen level
/// with it.
#[derive(Debug, Clone)]
pub struct Mark {
    /// The end.
    pub end: Position,
    seen: Instant,
}

/// What was looked at, and when.
#[derive(Debug, Default)]
struct Looks {
    /// The mark that a target has to reach.
    mark: Option<Mark>,
    /// When all targets were last known to hold what the source had.
    level: Option<Instant>,
    /// When both ends were last compared.
    compared: Option<Instant>,
    /// When the source was last asked what it keeps.
    retained: Option<Instant>,
}

/// What happened and is not written down yet, with its time, and how much was dropped because nobody took it.
#[derive(Debug, Default)]
pub struct Notes {
    /// Oldest first.
    pub events: VecDeque<(i64, Event)>,
    /// Dropped.
    pub dropped: u64,
}

/// Both ends are compared about once a second: beyond this something holds that up.
const STALE: Duration = Duration::from_secs(10);

/// Notes that wait at most.
const NOTES: usize = 1_000;

/// How the ledger does.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Keeping {
    /// The streak of clean hours.
    pub standing: Option<Standing>,
    /// How far the audits of large tables are.
    #[serde(default)]
    pub audits: Vec<Auditing>,
    /// Why it is not written.
    pub error: Option<String>,
}

/// The shared picture.
#[derive(Debug, Default)]
pub struct Progress {
    notes: Mutex<Notes>,
    keeping: Mutex<Keeping>,
    /// Whether its threads go on.
    pub pulse: Pulse,
    /// What commits were like.
    pub meters: Meters,
    /// The last hour.
    pub recent: Recent,
    view: Mutex<View>,
    meter: Mutex<Option<(Instant, u64)>>,
    looks: Mutex<Looks>,
}

impl Progress {
    /// A copy of the picture.
    pub fn view(&self) -> View {
        self.lock().clone()
    }

    /// Notes what happened just now, for whoever keeps a ledger.
    pub fn note(&self, event: Event) {
        self.note_at(crate::now_micros(), event);
    }

    /// Notes what happened then.
    pub fn note_at(&self, at_micros: i64, event: Event) {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        if notes.events.len() == NOTES {
            notes.dropped += 1;
            return;
        }
        notes.events.push_back((at_micros, event));
    }

    /// Takes what was noted.
    pub fn take_notes(&self) -> Notes {
        std::mem::take(&mut *self.notes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How the ledger does, as last told.
    pub fn keeping(&self) -> Keeping {
        self.keeping.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells how the ledger does.
    pub fn set_keeping(&self, keeping: Keeping) {
        *self.keeping.lock().unwrap_or_else(PoisonError::into_inner) = keeping;
    }

    /// A copy of the picture as it is to be told: what was behind when it was last looked at has only grown older since.
    pub fn picture(&self) -> View {
        let mut view = self.view();
        let since = self.compared().unwrap_or_default();
        if view.state != State::Running || since > STALE {
            view.lag_seconds = view.lag_seconds.map(|s| s + since.as_secs_f64());
        }
        view
    }

    /// The mark that a target has to reach; see [`Mark`].
    pub fn mark(&self) -> Option<Mark> {
        self.looks().mark.clone()
    }

    /// Takes in a comparison of the hindmost target with the source's log: whether it is behind the end, and whether it has
    /// reached the mark, which then moves to the end.
    pub fn looked(&self, is_behind: bool, reached_mark: bool, end: Position, now: Moment) {
        let mut looks = self.looks();
        if reached_mark || looks.mark.is_none() {
            let reached = looks.mark.replace(Mark { end: end.clone(), seen: now.steady });
            looks.level = looks.level.max(reached.map(|m| m.seen));
        }
        if !is_behind {
            looks.level = Some(now.steady);
        }
        looks.compared = Some(now.steady);
        let level = looks.level;
        drop(looks);
        self.update(|v| {
            let oldest = v.targets.iter().filter_map(|t| t.checkpoint.as_ref()?.commit_micros).min();
            v.lag_seconds = if is_behind { behind(oldest, level, now) } else { Some(0.0) };
            v.source_position = Some(end);
        });
    }

    /// How long ago both ends were last compared.
    pub fn compared(&self) -> Option<Duration> {
        self.looks().compared.map(|at| at.elapsed())
    }

    /// Whether the source was not asked within `every` what it keeps. Whoever is told so asks.
    pub fn retained_is_due(&self, every: Duration) -> bool {
        let mut looks = self.looks();
        let due = looks.retained.is_none_or(|at| at.elapsed() >= every);
        if due {
            looks.retained = Some(Instant::now());
        }
        due
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
            copy.look_ahead(Instant::now());
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

    fn looks(&self) -> MutexGuard<'_, Looks> {
        self.looks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Compares both ends for the picture of progress.
pub fn look(shared: &Shared<'_>) -> Result<()> {
    let _asking = pulse::asking("a look at both ends", Patience::Answer);
    let end = shared.source.position()?;
    let held = shared.held();
    // Another server may answer now than the one whose log is read: opening its log anew tells what is wrong with it.
    let other = |e| Error::transient("the source's log is not the one that is read").caused_by(e);
    let behind = shared.source.order(&held, &end).map_err(other)?.is_lt();
    let bytes = if behind { shared.source.distance(&held, &end)? } else { Some(0) };
    let reached_mark = match shared.progress.mark() {
        Some(mark) => shared.source.order(&held, &mark.end)?.is_ge(),
        None => false,
    };
    shared.progress.tick();
    shared.progress.looked(behind, reached_mark, end, Moment::now());
    shared.progress.update(|v| v.lag_bytes = bytes);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_follows_from_the_chunks_of_this_session() {
        let began = Instant::now();
        let now = began + Duration::from_secs(10);
        let mut copy =
            CopyProgress { chunks: 30, done: 10, done_before: 10, began: Some(began), ..CopyProgress::default() };
        copy.look_ahead(now);
        assert_eq!(copy.seconds_left, None, "nothing to go by");
        copy.done = 15;
        copy.look_ahead(now);
        assert_eq!(copy.seconds_left, Some(30));
    }

    #[test]
    fn a_log_that_others_write_to_does_not_make_an_idle_pipeline_late() {
        let (progress, began) = (Progress::default(), Instant::now());
        let look = |n: u64, reached| {
            let now = Moment { steady: began + Duration::from_secs(n), micros: n as i64 * 1_000_000 };
            progress.looked(true, reached, Position::new(format!("{n:09}")), now);
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
    fn a_clock_that_was_set_neither_hides_nor_invents_a_lag() {
        let level = Instant::now();
        let now = |micros| Moment { steady: level + Duration::from_secs(7), micros };
        let (second, hour) = (1_000_000, 3_600_000_000);
        let committed = Some(100 * hour);
        assert_eq!(behind(committed, Some(level), now(100 * hour + 3 * second)), Some(3.0));
        assert_eq!(behind(committed, Some(level), now(101 * hour)), Some(7.0), "set forward");
        assert_eq!(behind(committed, Some(level), now(99 * hour)), Some(7.0), "set back");
        assert_eq!(behind(committed, None, now(99 * hour)), None, "nothing to go by");
        assert_eq!(behind(Some(i64::MIN), None, now(i64::MAX)), Some(i64::MAX as f64 / 1e6));
        assert_eq!(behind(None, None, now(0)), None);
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
