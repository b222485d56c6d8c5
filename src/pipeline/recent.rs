//! What a daemon remembers of the last hour, in memory: samples of the lag for a chart, and each table's last proof.
//!
//! Bounded, and gone with the process: nothing is decided from it. It is for the status page, `lag --watch` and `/metrics`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::progress::View;
use crate::verify::{Proof, Verdict};

/// Samples kept: an hour of one each five seconds.
const SAMPLES: usize = 720;

/// Microseconds between two samples that are kept.
const EVERY: i64 = 5_000_000;

/// How it was at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// When, in microseconds since 1970 UTC.
    pub at: i64,
    /// Seconds behind, if known.
    pub lag_seconds: Option<f64>,
    /// Rows per second.
    pub rows_per_second: f64,
}

impl Sample {
    /// A picture's.
    pub fn of(view: &View, at: i64) -> Sample {
        Sample { at, lag_seconds: view.lag_seconds, rows_per_second: view.rows_per_second }
    }
}

/// What a table's last comparison came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Proved {
    /// When it ended, in microseconds since 1970 UTC.
    pub at: i64,
    /// What it came to.
    pub verdict: Verdict,
    /// Rows at the source.
    pub rows: Option<u64>,
    /// Rows that differed, as far as they were looked for; `None` if unknown.
    pub differences: Option<u64>,
    /// Why it is unknown.
    pub error: Option<String>,
}

/// By table and, where there are several, target.
pub type Proofs = BTreeMap<(String, Option<String>), Proved>;

#[derive(Debug, Default)]
struct Inner {
    samples: VecDeque<Sample>,
    proofs: Proofs,
    /// When the last comparison of any tables ended, and the last one that found all it looked at equal.
    compared: Option<i64>,
    equal: Option<i64>,
}

/// The memory.
#[derive(Debug, Default)]
pub struct Recent(Mutex<Inner>);

impl Recent {
    /// Takes a sample, unless the last one is young.
    pub fn sample(&self, sample: Sample) {
        let mut inner = self.lock();
        // A clock that was set back begins anew.
        if inner.samples.back().is_some_and(|last| (0..EVERY).contains(&sample.at.saturating_sub(last.at))) {
            return;
        }
        if inner.samples.len() >= SAMPLES {
            inner.samples.pop_front();
        }
        inner.samples.push_back(sample);
    }

    /// The samples, oldest first.
    pub fn samples(&self) -> Vec<Sample> {
        self.lock().samples.iter().copied().collect()
    }

    /// A comparison ended at this moment.
    pub fn proved(&self, proof: &Proof, at: i64) {
        let mut inner = self.lock();
        for t in &proof.tables {
            let differences = match t.verdict {
                Verdict::Equal => Some(0),
                Verdict::Different => t.differences.as_ref().map(|d| d.rows),
                Verdict::Unknown => None,
            };
            let proved = Proved { at, verdict: t.verdict, rows: t.source_rows, differences, error: t.error.clone() };
            inner.proofs.insert((t.table.clone(), t.target.clone()), proved);
        }
        inner.compared = Some(at);
        if proof.verdict == Verdict::Equal {
            inner.equal = Some(at);
        }
    }

    /// Each table's last proof.
    pub fn proofs(&self) -> Proofs {
        self.lock().proofs.clone()
    }

    /// When the last comparison ended, and the last one that found everything equal.
    pub fn last_proofs(&self) -> (Option<i64>, Option<i64>) {
        let inner = self.lock();
        (inner.compared, inner.equal)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_an_hour_at_most_and_not_too_close() {
        let recent = Recent::default();
        let at = |at| Sample { at, lag_seconds: None, rows_per_second: 0.0 };
        for second in 0..7200 {
            recent.sample(at(second * 1_000_000));
        }
        let samples = recent.samples();
        assert_eq!(samples.len(), SAMPLES);
        assert_eq!(samples.last().unwrap().at - samples[0].at, 3595 * 1_000_000);
        recent.sample(at(0));
        assert_eq!(recent.samples().last().unwrap().at, 0, "the clock was set back");
        recent.sample(at(i64::MIN));
        recent.sample(at(i64::MAX));
    }
}
