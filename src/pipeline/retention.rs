//! The log that the source keeps because this pipeline has not read it yet, and how much that may be.
//!
//! A replication slot keeps its server's log until the pipeline has made it durable at every target. A target that is down for
//! a night, or a pipeline that nobody runs, may so fill the disk of the database that the business runs on. Therefore what is
//! kept is part of the picture (`status`, `lag`, `check`), and `log_budget` bounds it: beyond it somebody is told, or the
//! pipeline ends, as the operator chose. It never drops what is kept by itself: that log is the only way on without copying
//! everything again.

use std::time::Duration;

use crossfade_core::{Error, Finding, Keeping, Result, Retained, Source};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::progress::Progress;
use super::pulse::{self, Patience};
use crate::cli::print::size;

/// A session looks this often; measuring may mean to read it.
pub const EVERY: Duration = Duration::from_secs(30);

/// Log that a source may keep for a pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogBudget {
    /// So much.
    pub bytes: u64,
    /// And beyond it?
    pub action: BudgetAction,
}

/// What happens when a source keeps more log for a pipeline than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BudgetAction {
    /// A warning in the log, in `status`, and in the exit code of `lag`.
    #[default]
    Warn,
    /// The pipeline ends with an error.
    Stop,
}

/// How to go on from a log that is lost.
const ANEW: &str = "`crossfade slot drop` frees what is left of it; `crossfade snapshot '*'` and then `crossfade run` copy all tables \
    again; changes that came after the target's position are in the copy, not in a lake's history";

/// What is wrong with what a source keeps, if something is.
pub fn concern(retained: &Retained, budget: Option<&LogBudget>) -> Option<Finding> {
    let setting = &retained.by;
    let kept = size(retained.bytes);
    match retained.keeping {
        Keeping::Lost => {
            let actual = format!("the source has discarded log that the pipeline has not read; {kept} held");
            return Some(Finding::critical(setting, "its log is there", actual, ANEW));
        }
        Keeping::Endangered => {
            let actual = format!("{kept} held; the source may discard it at any moment");
            let fix = "raise max_slot_wal_keep_size at once, and let the pipeline catch up";
            return Some(Finding::critical(setting, "its log is safe", actual, fix));
        }
        Keeping::Safe => {}
    }
    if let Some(over) = budget.and_then(|b| over(retained, b)) {
        return Some(over);
    }
    // Three quarters of what the server allows are used up.
    if let Some(room) = retained.room.filter(|r| r.saturating_mul(3) < retained.bytes) {
        let actual = format!("{kept} held, {} until the source may discard it", size(room));
        let fix = "let the pipeline catch up, or raise max_slot_wal_keep_size";
        return Some(Finding::warning(setting, "far from max_slot_wal_keep_size", actual, fix));
    }
    None
}

/// More is kept than may be.
pub fn over(retained: &Retained, budget: &LogBudget) -> Option<Finding> {
    let actual = format!("{} held", size(retained.bytes));
    let expected = format!("at most {} held (log_budget)", size(budget.bytes));
    let fix = "let the pipeline catch up, or raise log_budget; or give the pipeline up and free the disk: `crossfade slot drop`";
    (retained.bytes > budget.bytes).then(|| Finding::warning(&retained.by, expected, actual, fix))
}

/// Asks the source what it keeps, unless somebody did within `every`, and tells whoever watches. An error if it is more than it
/// may be and the pipeline is to end then.
pub fn look(source: &dyn Source, budget: Option<LogBudget>, progress: &Progress, every: Duration) -> Result<()> {
    if !progress.retained_is_due(every) {
        return Ok(());
    }
    let _asking = pulse::asking("a look at the log that the source keeps", Patience::Answer);
    let before = progress.view();
    let retained = source.retained()?;
    let budget = budget.as_ref();
    let concern = retained.as_ref().and_then(|r| concern(r, budget));
    // Amounts differ at every look: said again only when it is about something else.
    let kind = |f: &Finding| (f.level, f.expected.clone());
    if let Some(f) = &concern
        && before.concern.as_ref().map(kind) != Some(kind(f))
    {
        tracing::warn!(
            kept_by = f.setting,
            expected = f.expected,
            actual = f.actual,
            fix = f.fix,
            "log kept at the source"
        );
    }
    progress.update(|v| (v.retained, v.concern) = (retained.clone(), concern));
    match (&retained, budget) {
        (Some(r), Some(b)) if r.bytes > b.bytes && b.action == BudgetAction::Stop => Err(stopped(r, b)),
        _ => Ok(()),
    }
}

fn stopped(retained: &Retained, budget: &LogBudget) -> Error {
    let Retained { by, bytes, .. } = retained;
    let message = format!(
        "{by}: the source keeps {} of log for this pipeline, more than its log_budget of {} (log_budget_action = \"stop\")",
        size(*bytes),
        size(budget.bytes)
    );
    Error::unavailable(message).hint(
        "nothing is lost, and the source goes on keeping it: raise log_budget and run again, and the pipeline catches up. Or free \
         the source's disk with `crossfade slot drop`: then the changes that the target does not hold yet can no longer be read, \
         and all tables must be copied again (`crossfade snapshot '*'`, then `crossfade run`)",
    )
}

#[cfg(test)]
mod tests {
    use crossfade_core::Level;

    use super::*;

    const GIB: u64 = 1 << 30;

    fn kept(bytes: u64, room: Option<u64>, keeping: Keeping) -> Retained {
        Retained { by: "slot s".into(), bytes, room, keeping }
    }

    #[test]
    fn concerns() {
        let budget = LogBudget { bytes: 20 * GIB, action: BudgetAction::Warn };
        let level = |r: Retained| concern(&r, Some(&budget)).map_or(Level::Ok, |f| f.level);
        assert_eq!(level(kept(20 * GIB, None, Keeping::Safe)), Level::Ok);
        assert_eq!(level(kept(20 * GIB + 1, None, Keeping::Safe)), Level::Warning);
        assert_eq!(level(kept(3 * GIB, Some(GIB), Keeping::Safe)), Level::Ok);
        assert_eq!(level(kept(3 * GIB + 1, Some(GIB), Keeping::Safe)), Level::Warning);
        assert_eq!(level(kept(1, Some(0), Keeping::Endangered)), Level::Critical);
        assert_eq!(level(kept(1, None, Keeping::Lost)), Level::Critical);
        assert!(concern(&kept(u64::MAX, None, Keeping::Safe), None).is_none());
    }
}
