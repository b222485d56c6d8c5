//! What is counted of commits, for `/metrics`: how long they took, how many rows they carried, how old those were.
//!
//! Histograms of fixed bounds, kept per target under one lock that is taken once a commit. There is no registry and no global
//! state: the numbers live beside the picture of progress and end with the process, as a scraper expects of counters.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Bounds in seconds: from a commit on a local disk to one that waited for a lock.
pub const SECONDS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// Bounds in rows: from one transaction of one row to what `limits.batch_rows` lets through.
pub const ROWS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 1e3, 2.5e3, 1e4, 2.5e4, 1e5, 2.5e5, 1e6];

/// How often a value lay where.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    /// Upper bounds, rising; what lies beyond the last is counted in `count` alone.
    pub bounds: &'static [f64],
    /// Values up to each bound, and not up to the one before.
    pub counts: Vec<u64>,
    /// All values.
    pub count: u64,
    /// Their sum.
    pub sum: f64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        Histogram { bounds, counts: vec![0; bounds.len()], count: 0, sum: 0.0 }
    }

    /// Counts a value.
    pub fn add(&mut self, value: f64) {
        if let Some(at) = self.bounds.iter().position(|b| value <= *b) {
            self.counts[at] += 1;
        }
        self.count += 1;
        self.sum += value;
    }
}

/// A target's commits.
#[derive(Debug, Clone, PartialEq)]
pub struct Commits {
    /// Seconds that the target took for each commit that carried changes.
    pub took: Histogram,
    /// Rows of each.
    pub rows: Histogram,
    /// Seconds from the commit at the source to the one at the target, by both machines' clocks.
    pub delay: Histogram,
    /// When the last of all was done, in microseconds since 1970 UTC; also one that moved nothing but the position.
    pub last_micros: Option<i64>,
}

impl Default for Commits {
    fn default() -> Self {
        let (took, delay) = (Histogram::new(SECONDS), Histogram::new(SECONDS));
        Commits { took, delay, rows: Histogram::new(ROWS), last_micros: None }
    }
}

/// All targets' commits, by their place in the pipeline.
#[derive(Debug, Default)]
pub struct Meters(Mutex<Vec<Commits>>);

impl Meters {
    /// A commit was done, just now. `rows`: of one that carried changes; `source_micros`: when the source committed the last of them.
    pub fn committed(&self, target: usize, took: Duration, rows: Option<u64>, source_micros: Option<i64>) {
        let now = crate::now_micros();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() <= target {
            all.resize_with(target + 1, Commits::default);
        }
        let commits = &mut all[target];
        commits.last_micros = Some(now);
        let Some(rows) = rows else { return };
        commits.took.add(took.as_secs_f64());
        commits.rows.add(rows as f64);
        // A clock that is ahead makes it negative: no time passed then, as far as can be told.
        if let Some(delay) = source_micros.map(|at| now.saturating_sub(at).max(0)) {
            commits.delay.add(delay as f64 / 1e6);
        }
    }

    /// A copy of a target's numbers.
    pub fn of(&self, target: usize) -> Commits {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(target).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_counts_at_the_first_bound_that_holds_it() {
        let mut h = Histogram::new(&[1.0, 10.0]);
        for value in [0.0, 1.0, 1.5, 10.0, 11.0] {
            h.add(value);
        }
        assert_eq!((h.counts.as_slice(), h.count, h.sum), ([2, 2].as_slice(), 5, 23.5));
        assert!(SECONDS.is_sorted() && ROWS.is_sorted());
    }

    #[test]
    fn commits_that_only_move_the_position_count_as_life_not_as_work() {
        let meters = Meters::default();
        meters.committed(1, Duration::from_millis(2), None, Some(0));
        assert_eq!(meters.of(1).took.count, 0);
        assert!(meters.of(1).last_micros.is_some());
        assert_eq!(meters.of(0), Commits::default());
        // A clock that is ahead.
        meters.committed(0, Duration::from_millis(2), Some(3), Some(i64::MAX));
        let commits = meters.of(0);
        assert_eq!((commits.took.count, commits.rows.sum, commits.delay.sum), (1, 3.0, 0.0));
        meters.committed(0, Duration::ZERO, Some(1), Some(i64::MIN));
        assert!(meters.of(0).delay.sum.is_finite());
    }
}
