//! `report`: all that is known of a pipeline, verdict first, for people and for monitoring.
//!
//! One value holds everything ([`Report`]); text, HTML, JSON and JUnit are renderings of it, so that none says what another hides. It is
//! made of the ledger, and of the daemon's present picture, or the databases' where no daemon runs (`build.rs`). Nothing is compared for
//! a report: it tells of the comparisons that were made, and *unknown* where there were none.

pub mod alert;
mod beyond;
pub mod build;
mod html;
mod junit;
pub mod mail;
mod text;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::html::html;
pub use self::junit::junit;
pub use self::text::{first_line, text};
use crate::cli::print;
use crate::ledger::Standing;
use crate::verify::Verdict as Compared;
use crate::verify::aggregates::AggregateProof;
use crate::verify::audit::Auditing;
use crate::verify::difference::Differences;
use crate::verify::orphans::References;
use crate::verify::sequences::Sequences;

/// What it all comes to. The exit code follows monitoring plugins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Nothing is wrong, and everything was looked at.
    Ok,
    /// Somebody should look.
    Warning,
    /// Something is not known; unknown is never well.
    Unknown,
    /// Something is wrong.
    Critical,
}

impl Verdict {
    /// 0, 1, 2 or 3.
    pub fn exit(self) -> u8 {
        match self {
            Verdict::Ok => 0,
            Verdict::Warning => 1,
            Verdict::Critical => 2,
            Verdict::Unknown => 3,
        }
    }

    /// In capital letters.
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Ok => "OK",
            Verdict::Warning => "WARNING",
            Verdict::Unknown => "UNKNOWN",
            Verdict::Critical => "CRITICAL",
        }
    }

    /// Known wrong outweighs unknown, which outweighs a warning.
    pub fn worst(self, other: Verdict) -> Verdict {
        let weight = |v| match v {
            Verdict::Ok => 0,
            Verdict::Warning => 1,
            Verdict::Unknown => 2,
            Verdict::Critical => 3,
        };
        if weight(self) >= weight(other) { self } else { other }
    }
}

/// All that is known of a pipeline.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Report {
    /// The worst of all that was found.
    pub verdict: Verdict,
    /// The pipeline.
    pub pipeline: String,
    /// When the report was made: microseconds since 1970 UTC, like all times here.
    pub made_micros: i64,
    /// From when on it tells.
    pub since_micros: i64,
    /// What was found that is not well, worst first.
    pub findings: Vec<Finding>,
    /// Clean hours without a break.
    pub streak: Option<Streak>,
    /// Who runs the pipeline, and what it is up to.
    pub state: Option<State>,
    /// How far behind the target was.
    pub lag: Lag,
    /// The last comparison of all tables.
    pub verification: Option<Verification>,
    /// Each table, as it was last compared.
    pub tables: Vec<Table>,
    /// How far the audits of large tables are.
    pub audits: Vec<Auditing>,
    /// Figures of the configuration, as they were last compared.
    pub aggregates: Vec<AggregateProof>,
    /// Rows at the targets that refer to nothing, as they were last looked for.
    pub references: Option<References>,
    /// Sequences at the targets, as they were last looked at: to be set before a cutover.
    pub sequences: Option<Sequences>,
    /// Errors, starts and stops.
    pub incidents: Vec<Told>,
    /// Changes of shape, and tables that were copied again.
    pub schema: Vec<Told>,
    /// Values that a policy of the configuration changed, at the last comparison of their table.
    pub policies: Vec<Told>,
    /// Rows that were written again.
    pub repairs: Vec<Told>,
    /// Hours that ended since then and were not clean.
    pub hours: Vec<Told>,
    /// The ledger behind all this.
    pub ledger: Option<Ledger>,
}

/// Something that is not well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Finding {
    /// How much so.
    pub level: Verdict,
    /// What.
    pub what: String,
    /// What to do.
    pub next: Option<String>,
}

/// Clean hours without a break, up to now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Streak {
    /// So many.
    pub hours: u32,
    /// How many there are to be.
    pub goal: u32,
    /// When the hour began that broke it last.
    pub broken_micros: Option<i64>,
    /// What broke it.
    pub broken_by: Option<String>,
}

impl From<Standing> for Streak {
    fn from(s: Standing) -> Self {
        Streak { hours: s.streak, goal: s.goal, broken_micros: s.broken_micros, broken_by: s.broken_by }
    }
}

/// Who runs the pipeline, and what it is up to.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct State {
    /// `running`, `retrying: …`, `stopped`.
    pub state: String,
    /// The process, if one runs on this machine.
    pub pid: Option<u32>,
    /// Since when.
    pub since_micros: Option<i64>,
    /// `copying` or `streaming`.
    pub phase: Option<String>,
    /// The source, and the end of its log.
    pub source: End,
    /// Each target, and what it holds.
    pub targets: Vec<End>,
    /// Rows per second.
    pub rows_per_second: f64,
    /// Bytes of log that the source keeps for the pipeline.
    pub retained_bytes: Option<u64>,
}

/// One end of the pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct End {
    /// Its URL, without secrets.
    pub name: String,
    /// A position in the source's log.
    pub position: Option<String>,
    /// Commits so far.
    pub commits: Option<u64>,
}

/// How far behind the target was.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Lag {
    /// Seconds, now.
    pub seconds: Option<f64>,
    /// Bytes of log, now.
    pub bytes: Option<u64>,
    /// The most since then, in seconds.
    pub worst_seconds: Option<f64>,
    /// What is allowed, in seconds.
    pub bound_seconds: f64,
    /// Samples since then.
    pub samples: u64,
    /// The time since then in equal parts, and the most of each; none: nothing was seen.
    pub chart: Vec<Bar>,
}

/// A part of the chart.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Bar {
    /// When it begins.
    pub at_micros: i64,
    /// The most, in seconds.
    pub worst_seconds: Option<f64>,
}

/// A comparison of all tables.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Verification {
    /// When both sides were opened.
    pub at_micros: i64,
    /// At this position, or at several, from one to another.
    pub position: Option<String>,
    /// What it came to.
    pub verdict: Compared,
    /// How long replication stood still.
    pub held_ms: u64,
    /// How long it took.
    pub seconds: f64,
    /// Tables in which the comparison tried itself out on a change that it made in memory.
    pub canaries: u64,
    /// Where it did not find that.
    pub canaries_missed: Vec<String>,
    /// Comparisons of all tables since then.
    pub made: u64,
}

/// A table, as it was last compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Table {
    /// As the source names it.
    pub table: String,
    /// Where the target is, if there are several.
    pub target: Option<String>,
    /// When.
    pub at_micros: i64,
    /// What it came to.
    pub verdict: Compared,
    /// Rows at the source.
    pub source_rows: Option<u64>,
    /// Rows at the target.
    pub target_rows: Option<u64>,
    /// Which rows differ.
    pub differences: Option<Differences>,
    /// Why it is unknown.
    pub error: Option<String>,
    /// Counts and sums that both servers gave by their own SQL; none: they were not asked.
    pub sums_compared: Option<u64>,
    /// Those that differ.
    pub sums_differing: Vec<String>,
}

impl Table {
    /// How many rows differ, in words.
    pub fn differing(&self) -> String {
        let sums: Vec<&str> = self.sums_differing.iter().filter_map(|s| s.split(':').next()).collect();
        match &self.differences {
            None if !sums.is_empty() => format!("not the same on both servers: {}", sums.join(", ")),
            None => "rows differ".into(),
            Some(d) if d.rows == 1 && !d.or_more => "1 row differs".into(),
            Some(d) => format!("{}{} rows differ", print::count(d.rows), if d.or_more { " or more" } else { "" }),
        }
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Told {
    /// When.
    pub at_micros: i64,
    /// What.
    pub what: String,
}

/// The ledger behind a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Ledger {
    /// Its file.
    pub path: String,
    /// Entries.
    pub entries: u64,
    /// The last one's hash: whoever rewrites what came before cannot give it again.
    pub hash: String,
    /// Where the chain breaks, if it does.
    pub broken: Option<String>,
}

impl Report {
    /// Tables with this verdict.
    pub fn count(&self, verdict: Compared) -> usize {
        self.tables.iter().filter(|t| t.verdict == verdict).count()
    }

    /// What happened, by title.
    pub fn lists(&self) -> [(&'static str, &Vec<Told>); 5] {
        [
            ("Hours that were not clean", &self.hours),
            ("Changes of shape", &self.schema),
            ("Values that a policy changed", &self.policies),
            ("Repairs", &self.repairs),
            ("Incidents", &self.incidents),
        ]
    }

    /// Hides the values of rows that differ and of figures; the rows' keys stay, but for tables without a key, where the key is the whole row.
    pub fn mask(&mut self) {
        let hide = |value: &mut Option<String>| {
            if value.is_some() {
                *value = Some("***".into());
            }
        };
        self.mask_figures();
        for sums in self.tables.iter_mut().map(|t| &mut t.sums_differing) {
            sums.iter_mut().for_each(|text| *text = text.split(':').next().unwrap_or_default().to_owned() + ": ***");
        }
        for found in self.tables.iter_mut().filter_map(|t| t.differences.as_mut()) {
            for d in &mut found.listed {
                if found.whole_rows {
                    d.key.iter_mut().for_each(|n| hide(&mut n.value));
                }
                for cell in d.cells_mut() {
                    hide(&mut cell.source);
                    hide(&mut cell.target);
                }
            }
        }
    }
}

/// The JSON Schema of `report --format json`.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(Report).to_value()
}

#[cfg(test)]
mod tests;
