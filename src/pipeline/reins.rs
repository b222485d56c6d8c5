//! How the source's thread is held, driven to a position, and stopped.
//!
//! Verification needs both ends at the same position: the reader is held at a commit, the source's snapshot is taken,
//! the reader runs up to exactly that position and is held again until the target's snapshot is open. All of it takes
//! milliseconds; the scans happen afterwards, while replication goes on.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossfade_core::{Error, Position, Result};

/// What the reader may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// Read on.
    Free,
    /// Read up to this position, then hold.
    Until(Position),
    /// Stay at the commit where it is.
    Hold,
    /// End at the next commit, and let everything drain.
    Stop,
}

#[derive(Debug)]
struct Inner {
    rule: Rule,
    /// The reader is at a commit and obeys `Hold`.
    parked: bool,
    /// The last commit that the reader handed on.
    handed: Position,
}

/// Shared between the reader and whoever drives it.
#[derive(Debug)]
pub struct Reins {
    inner: Mutex<Inner>,
    changed: Condvar,
}

impl Reins {
    /// Reins of a reader that starts after `from`.
    pub fn new(from: Position, rule: Rule) -> Self {
        Reins { inner: Mutex::new(Inner { rule, parked: false, handed: from }), changed: Condvar::new() }
    }

    /// The rule in force. `at_commit`: the reader is between transactions; only then does it count as parked.
    pub fn rule(&self, at_commit: bool) -> Rule {
        let mut inner = self.lock();
        let parked = at_commit && inner.rule == Rule::Hold;
        if parked != inner.parked {
            inner.parked = parked;
            self.changed.notify_all();
        }
        inner.rule.clone()
    }

    /// A parked reader waits here for a new rule, or a moment.
    pub fn wait_parked(&self, moment: Duration) {
        let inner = self.lock();
        let parked = |i: &mut Inner| i.rule == Rule::Hold;
        drop(self.changed.wait_timeout_while(inner, moment, parked).unwrap_or_else(PoisonError::into_inner));
    }

    /// The reader handed on everything up to here. `reached`: this is where `Until` ends.
    pub fn handed(&self, position: &Position, reached: bool) {
        let mut inner = self.lock();
        inner.handed = position.clone();
        if reached && matches!(inner.rule, Rule::Until(_)) {
            inner.rule = Rule::Hold;
        }
    }

    /// The last commit handed on.
    pub fn last_handed(&self) -> Position {
        self.lock().handed.clone()
    }

    /// Sets a rule. `Stop` is final.
    pub fn set(&self, rule: Rule) {
        let mut inner = self.lock();
        if inner.rule != Rule::Stop {
            inner.rule = rule;
            inner.parked = false;
            self.changed.notify_all();
        }
    }

    /// Waits until the reader is parked, and returns the position where it is.
    pub fn wait_until_parked(&self, patience: Duration, over: impl Fn() -> bool) -> Result<Position> {
        let deadline = Instant::now() + patience;
        let mut inner = self.lock();
        while !inner.parked {
            if over() || inner.rule == Rule::Stop {
                return Err(Error::transient("the pipeline stopped while it was being held at a position"));
            }
            if Instant::now() > deadline {
                return Err(Error::transient(format!(
                    "the stream did not reach the position within {} s",
                    patience.as_secs()
                ))
                .hint("the pipeline lags too far behind: look at `crossfade lag`, run `crossfade catch-up` first"));
            }
            let tick = Duration::from_millis(20);
            inner = self.changed.wait_timeout(inner, tick).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(inner.handed.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
