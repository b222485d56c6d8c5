//! What a proof says beyond rows: figures that an operator named, rows at a target that refer to nothing, sequences there.
//!
//! All are read in the snapshots that are compared, so at the same position. They weigh in the proof's verdict: what is wrong makes it
//! *different*, what could not be read *unknown*. A warning is told, in every report, and changes no verdict: the bounds are the operator's
//! own, and so is what to do about it.

use crossfade_core::sequence::Behind;
use crossfade_core::{Error, Orphans, Result, Snapshot};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::aggregates::{self, AggregateProof, Answers};
use super::orphans::{self, References};
use super::sequences::{self, Sequences};
use super::{Fenced, Verdict};

/// What one thing beyond rows came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It is as it should be.
    Holds,
    /// Somebody should look.
    Warning,
    /// It is wrong.
    Critical,
    /// It could not be read.
    Unknown,
}

/// All that was looked at beyond rows.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Beyond {
    /// The figures of the configuration; none in a comparison of some tables only.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub aggregates: Vec<AggregateProof>,
    /// Rows that refer to nothing; none: they were not looked for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub references: Option<References>,
    /// Sequences at the targets; none: they were not looked at. They weigh nothing.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sequences: Option<Sequences>,
}

impl Beyond {
    /// Each thing that does not hold: what it came to, and in words.
    pub fn wrong(&self) -> Vec<(Outcome, String)> {
        let figures = self.aggregates.iter().filter_map(|a| Some((a.outcome, a.wrong()?)));
        let broken = self.references.iter().flat_map(|r| &r.broken);
        figures.chain(broken.map(|b| (b.outcome, b.words()))).collect()
    }

    /// Whether something is to be looked at, and nothing worse.
    pub fn warns(&self) -> bool {
        self.wrong().iter().any(|(outcome, _)| *outcome == Outcome::Warning)
    }

    /// What a proof comes to whose rows came to this.
    pub fn weigh(&self, rows: Verdict) -> Verdict {
        let any = |outcome| self.wrong().iter().any(|(o, _)| *o == outcome);
        match rows {
            Verdict::Equal if any(Outcome::Critical) => Verdict::Different,
            Verdict::Equal if any(Outcome::Unknown) => Verdict::Unknown,
            Verdict::Unknown if any(Outcome::Critical) => Verdict::Different,
            rows => rows,
        }
    }
}

/// What one target says.
struct Seen {
    answers: Answers,
    references: Option<(ByTable<Orphans>, BehindByTable)>,
}

impl Fenced {
    /// Reads all of it; all sides at once.
    pub(super) fn beyond(&mut self) -> Beyond {
        let (figures, tables, looks) = (&self.aggregates, &self.tables, self.options.references);
        let (ours, theirs) = std::thread::scope(|scope| {
            let see = |snapshot: &mut dyn Snapshot| Seen {
                answers: aggregates::ask(snapshot, figures, false),
                references: looks.then(|| (orphans::look(snapshot, tables), sequences::look(snapshot, tables))),
            };
            let theirs = self.targets.iter_mut();
            let theirs: Vec<_> = theirs.map(|(_, snapshot)| scope.spawn(move || see(snapshot.as_mut()))).collect();
            let ours = aggregates::ask(self.source.as_mut(), figures, true);
            let panicked = || Error::corrupt("a thread that looked beyond rows at the target panicked");
            let unseen = |_| Seen {
                answers: figures.iter().map(|_| Err(panicked())).collect(),
                references: looks.then(|| (tables.iter().map(|_| Err(panicked())).collect(), vec![])),
            };
            (ours, theirs.into_iter().map(|t| t.join().unwrap_or_else(unseen)).collect::<Vec<_>>())
        });
        let mut beyond = Beyond::default();
        let names: Vec<Option<String>> = self.targets.iter().map(|(name, _)| name.clone()).collect();
        let (mut found, mut behind) = (Vec::new(), Sequences::default());
        for (name, Seen { answers, references }) in names.iter().zip(theirs) {
            let each = figures.iter().zip(ours.iter().zip(&answers));
            beyond.aggregates.extend(each.map(|(a, (ours, theirs))| aggregates::judge(a, name.clone(), ours, theirs)));
            if let Some((orphans, sequences)) = references {
                found.push(orphans);
                behind.add(tables, name.as_ref(), sequences);
            }
        }
        if looks {
            beyond.references = Some(orphans::judge(tables, &names, &found, &self.drift, self.source.as_mut()));
            beyond.sequences = Some(behind);
        }
        beyond
    }
}

/// What was found of each table.
pub(super) type ByTable<T> = Vec<Result<Option<Vec<T>>>>;

/// The sequences that are behind, of each table.
type BehindByTable = Vec<Result<Vec<Behind>>>;

#[cfg(test)]
mod tests {
    use super::*;

    fn with(outcome: Outcome) -> Beyond {
        let aggregate = AggregateProof {
            name: "revenue".into(),
            to: None,
            outcome,
            source: None,
            target: None,
            difference: None,
            warning: "0".into(),
            critical: "0".into(),
            error: None,
        };
        Beyond { aggregates: vec![aggregate], ..Beyond::default() }
    }

    #[test]
    fn wrong_outweighs_unknown_and_a_warning_weighs_nothing() {
        use Verdict::{Different, Equal, Unknown};
        for (outcome, rows, verdict) in [
            (Outcome::Holds, Equal, Equal),
            (Outcome::Warning, Equal, Equal),
            (Outcome::Critical, Equal, Different),
            (Outcome::Critical, Unknown, Different),
            (Outcome::Unknown, Equal, Unknown),
            (Outcome::Unknown, Different, Different),
            (Outcome::Holds, Unknown, Unknown),
        ] {
            assert_eq!(with(outcome).weigh(rows), verdict, "{outcome:?} {rows:?}");
        }
        assert!(with(Outcome::Warning).warns() && !with(Outcome::Holds).warns());
    }
}
