//! What an hour was: clean, dirty, or unknown; and the streak of clean ones.
//!
//! An hour of the wall clock in UTC is *dirty* if something was seen that must not be, *unknown* if something was not seen, and *clean*
//! only if neither: unknown never counts. It is clean if, within it,
//!
//! - a sample of lag was taken at least every two minutes, from its first minute to its last: somebody ran the pipeline all the while;
//! - each sample knows the lag, at its worst within `max_lag`, and the initial copy was done;
//! - all tables were compared at a fence (or at several, all within the hour), and every comparison of that hour was equal: its rows, the servers' sums, the figures of the
//!   configuration within their `critical` bound, and references at the target as at the source;
//! - each of these comparisons found the changes that it made itself, to try itself out (`verify/canary.rs`), and there was at least one;
//! - the pipeline was not ended by an error. Errors that are tried again do not break an hour: what they cost is lag, and that is bounded;
//! - no rows were repaired, and no entry of the ledger was lost.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::entry::{Entry, Event, Gravity, Sample};
use crate::cli::print;
use crate::verify::Verdict;
use crate::verify::beyond::Outcome;

/// Microseconds of an hour.
pub const HOUR: i64 = 3_600_000_000;
/// The longest time without a sample: one is taken each minute.
const GAP: i64 = 120_000_000;

/// What an hour was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HourVerdict {
    /// Everything was looked at, and nothing was wrong.
    Clean,
    /// Something was wrong.
    Dirty,
    /// Something was not looked at.
    Unknown,
}

/// An hour that is over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hour {
    /// When it began.
    pub start_micros: i64,
    /// What it was.
    pub verdict: HourVerdict,
    /// What was wrong, or not looked at.
    pub reasons: Vec<String>,
    /// The greatest lag.
    pub worst_seconds: Option<f64>,
    /// Tables that were compared, by the last comparison of all.
    pub tables: u64,
}

/// Where the pipeline stands on the way to its goal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Clean hours without a break, up to now.
    pub streak: u32,
    /// How many there are to be.
    pub goal: u32,
    /// When the hour began that broke it last.
    pub broken_micros: Option<i64>,
    /// What broke it, in words.
    pub broken_by: Option<String>,
}

/// The beginning of the hour that a moment lies in.
pub fn hour_of(micros: i64) -> i64 {
    micros.div_euclid(HOUR) * HOUR
}

/// Judges the hour that begins at `start` by its entries.
pub fn judge(start: i64, entries: &[Entry], max_lag: Duration) -> Hour {
    let within: Vec<&Entry> = entries.iter().filter(|e| (start..start + HOUR).contains(&e.at_micros)).collect();
    let mut found = Found::default();
    let worst = samples(start, &within, max_lag, &mut found);
    let tables = comparisons(start, &within, &mut found);
    for entry in &within {
        match &entry.event {
            Event::Incident(i) if i.class != Gravity::Transient => {
                found.wrong.push(format!("an error ended the pipeline: {}", i.message));
            }
            Event::Repair { tables } => {
                let rows: u64 = tables.iter().map(|t| t.rows).sum();
                found.wrong.push(format!("{} rows were repaired", print::count(rows)));
            }
            Event::Suspended { table, .. } => found.unseen.push(format!("{table} was suspended")),
            Event::Lost { entries, error } => {
                found.unseen.push(format!("{entries} entries of the ledger were lost: {error}"));
            }
            // Looked at elsewhere, or what passes by itself; that costs lag, which is.
            Event::Incident(_) | Event::Lag(_) | Event::Verification(_) | Event::Unverified { .. } => {}
            Event::Chunks { .. } => {}
            Event::Start { .. } | Event::Stop { .. } | Event::Schema { .. } | Event::Snapshot { .. } => {}
            Event::Hour(_) | Event::Alert { .. } => {}
        }
    }
    let Found { mut wrong, unseen } = found;
    let verdict = match (wrong.is_empty(), unseen.is_empty()) {
        (false, _) => HourVerdict::Dirty,
        (true, false) => HourVerdict::Unknown,
        (true, true) => HourVerdict::Clean,
    };
    wrong.extend(unseen);
    Hour { start_micros: start, verdict, reasons: wrong, worst_seconds: worst, tables }
}

#[derive(Default)]
struct Found {
    wrong: Vec<String>,
    unseen: Vec<String>,
}

fn samples(start: i64, within: &[&Entry], max_lag: Duration, found: &mut Found) -> Option<f64> {
    let of = |e: &&Entry| if let Event::Lag(s) = &e.event { Some((e.at_micros, s.clone())) } else { None };
    let samples: Vec<(i64, Sample)> = within.iter().filter_map(of).collect();
    if samples.is_empty() {
        found.unseen.push("nobody ran the pipeline".into());
        return None;
    }
    let moments = [start].into_iter().chain(samples.iter().map(|(at, _)| *at)).chain([start + HOUR]);
    let moments: Vec<i64> = moments.collect();
    if let Some(gap) = moments.windows(2).find(|w| w[1] - w[0] > GAP) {
        let length = print::seconds((gap[1] - gap[0]) as f64 / 1e6);
        found.unseen.push(format!("nothing was seen for {length} from {}", print::time(gap[0])));
    }
    if let Some((at, _)) = samples.iter().find(|(_, s)| s.lag_seconds.is_none()) {
        found.unseen.push(format!("the lag was not known at {}", print::time(*at)));
    }
    if samples.iter().any(|(_, s)| s.phase.as_deref() != Some("streaming")) {
        found.unseen.push("the initial copy was under way".into());
    }
    let lag = |s: &Sample| s.worst_seconds.or(s.lag_seconds).unwrap_or(0.0);
    let worst = samples.iter().map(|(_, s)| lag(s)).fold(0.0, f64::max);
    if worst > max_lag.as_secs_f64() {
        let bound = print::seconds(max_lag.as_secs_f64());
        found.wrong.push(format!("the target was {} behind, and {bound} are allowed", print::seconds(worst)));
    }
    Some(worst)
}

fn comparisons(start: i64, within: &[&Entry], found: &mut Found) -> u64 {
    let of = |e: &&Entry| if let Event::Verification(v) = &e.event { Some((**v).clone()) } else { None };
    let made: Vec<_> = within.iter().filter_map(of).collect();
    let (mut tried, mut tables, mut late) = (false, None, false);
    for v in &made {
        let of = |verdict| v.proof.tables.iter().filter(|t| t.verdict == verdict).map(|t| t.table.as_str()).collect();
        let (different, unknown): (Vec<&str>, Vec<&str>) = (of(Verdict::Different), of(Verdict::Unknown));
        if !different.is_empty() {
            found.wrong.push(format!("rows differed in {}", different.join(", ")));
        }
        if !unknown.is_empty() {
            found.unseen.push(format!("not compared: {}", unknown.join(", ")));
        }
        for (outcome, what) in v.proof.beyond.wrong() {
            match outcome {
                Outcome::Critical => found.wrong.push(what),
                Outcome::Unknown => found.unseen.push(what),
                // A bound of the operator's own, or what the source has as well: told, and no reason to distrust the move.
                Outcome::Warning | Outcome::Holds => {}
            }
        }
        if let Some(canary) = &v.proof.canary {
            tried |= canary.tried > 0;
            if !canary.missed.is_empty() {
                let missed = canary.missed.join(", ");
                found.wrong.push(format!("the verifier did not find the change that it made itself: {missed}"));
            }
        }
        match v.proof.through_micros {
            Some(last) if v.whole && last >= start + HOUR => late = true,
            _ if v.whole => tables = Some(v.proof.tables.len() as u64),
            _ => {}
        }
    }
    if tables.is_none() && late {
        found.unseen.push("the comparison of all tables went on beyond the hour".into());
    } else if tables.is_none() {
        let why = within.iter().rev().find_map(|e| match &e.event {
            Event::Unverified { error, .. } => Some(format!(": {error}")),
            _ => None,
        });
        found.unseen.push(format!("both sides were not compared{}", why.unwrap_or_default()));
    } else if !tried {
        found.unseen.push("no table had a row on which the verifier could try itself out".into());
    }
    tables.unwrap_or(0)
}

/// The streak, from the clean hours (oldest first) after the last one that was not.
pub fn standing(clean: &[Hour], broken: Option<Hour>, goal: u32, now: i64) -> Standing {
    let mut streak = 0;
    let mut expected = None;
    let mut gap = None;
    for hour in clean.iter().rev() {
        if expected.is_some_and(|e| e != hour.start_micros) {
            gap = Some(hour.start_micros + HOUR);
            break;
        }
        streak += 1;
        expected = Some(hour.start_micros - HOUR);
    }
    // An hour is judged soon after its end, and at most an hour later: where none was, nobody keeps watch.
    if let Some(last) = clean.last().or(broken.as_ref()).map(|h| h.start_micros)
        && now - (last + HOUR) > 2 * HOUR
    {
        (streak, gap) = (0, Some(last + HOUR));
    }
    let reason = |h: &Hour| {
        let word = if h.verdict == HourVerdict::Dirty { "" } else { "unknown: " };
        format!("{word}{}", h.reasons.join("; "))
    };
    let (broken_micros, broken_by) = match gap {
        Some(at) => (Some(at), Some("unknown: nobody kept watch from then on".to_owned())),
        None => (broken.as_ref().map(|h| h.start_micros), broken.as_ref().map(reason)),
    };
    Standing { streak, goal, broken_micros, broken_by }
}

impl Standing {
    /// In a line.
    pub fn line(&self) -> String {
        let broken = match (self.broken_micros, &self.broken_by) {
            (Some(at), Some(by)) => format!(", last broken {}: {by}", print::time(at)),
            _ => String::new(),
        };
        format!("{}/{} h{broken}", self.streak, self.goal)
    }
}
