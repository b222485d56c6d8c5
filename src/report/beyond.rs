//! What a report says of figures, references and sequences.

use crossfade_core::Result;

use super::{Finding, Report, Verdict};
use crate::cli::beyond::word;
use crate::cli::print::count;
use crate::ledger::{Event, Ledger};
use crate::verify::beyond::{Beyond, Outcome};

impl Report {
    /// Figures by the last comparison of all tables, references by the last that looked for them.
    pub(super) fn beyond(&mut self, ledger: &Ledger, last: &Beyond, from: i64) -> Result<()> {
        self.aggregates = last.aggregates.clone();
        let made = ledger.between(&["verification"], from, i64::MAX)?;
        let looked = made.into_iter().rev().find_map(|entry| match entry.event {
            Event::Verification(v) if v.whole && v.proof.beyond.references.is_some() => Some(*v.proof.beyond),
            _ => None,
        });
        let looked = looked.unwrap_or_default();
        let seen = Beyond { aggregates: last.aggregates.clone(), ..looked };
        (self.references, self.sequences) = (seen.references.clone(), seen.sequences.clone());
        let next = "crossfade verify shows both answers; where rows are equal, both statements do not ask for the same";
        let figures = seen.aggregates.iter().filter_map(|a| {
            let next = (a.outcome != Outcome::Unknown).then(|| next.to_owned());
            Some(Finding { level: level(a.outcome), what: a.wrong()?, next })
        });
        let broken = seen.references.iter().flat_map(|r| &r.broken);
        let broken = broken.map(|b| Finding { level: level(b.outcome), what: b.words(), next: b.next() });
        self.findings.extend(figures.chain(broken));
        Ok(())
    }

    /// Figures in rows: name, source, target, verdict.
    pub(super) fn figures(&self) -> Vec<[String; 4]> {
        let row = |a: &crate::verify::aggregates::AggregateProof| {
            let name = a.to.as_ref().map_or_else(|| a.name.clone(), |to| format!("{} -> {to}", a.name));
            let answer = |value: &Option<String>| match a.outcome {
                Outcome::Unknown if value.is_none() => "?".to_owned(),
                _ => value.clone().unwrap_or_else(|| "NULL".into()),
            };
            [name, answer(&a.source), answer(&a.target), word(a.outcome).to_owned()]
        };
        self.aggregates.iter().map(row).collect()
    }

    /// Of how many foreign keys how many rows refer to nothing, in words.
    pub(super) fn referring(&self) -> Option<String> {
        let references = self.references.as_ref()?;
        let rows: u64 = references.broken.iter().filter_map(|b| b.rows).sum();
        let unknown = references.broken.iter().filter(|b| b.outcome == Outcome::Unknown).count();
        let unknown = if unknown > 0 { format!("; {unknown} could not be looked at") } else { String::new() };
        let keys = count(references.foreign_keys);
        Some(format!("{keys} foreign keys looked at; {} rows refer to nothing{unknown}", count(rows)))
    }

    /// Sequences that are behind, with what sets them; no finding, since they are while rows stream in.
    pub(super) fn behind(&self) -> Option<String> {
        let sequences = self.sequences.as_ref()?;
        let errors = sequences.errors.iter().map(|e| format!("not known: {e}"));
        let behind = sequences.behind.iter().map(|b| format!("{}: {}", b.words(), b.fix));
        let all: Vec<String> = behind.chain(errors).collect();
        (!all.is_empty())
            .then(|| format!("to be set before a cutover, as crossfade catch-up does:\n{}", all.join("\n")))
    }

    /// How many figures and foreign keys do not hold, in half a line; none: all do.
    pub(super) fn not_holding(&self) -> Option<String> {
        let figures = self.aggregates.iter().filter(|a| a.outcome != Outcome::Holds).count();
        let keys = self.references.as_ref().map_or(0, |r| r.broken.len());
        let some = |n: usize, what: &str| (n > 0).then(|| format!("{n} {what}{}", if n == 1 { "" } else { "s" }));
        let parts: Vec<String> =
            [some(figures, "aggregate"), some(keys, "foreign key")].into_iter().flatten().collect();
        (!parts.is_empty()).then(|| format!("{} not holding", parts.join(" and ")))
    }

    /// Hides the answers to figures; keys of rows stay, as everywhere.
    pub(super) fn mask_figures(&mut self) {
        for a in &mut self.aggregates {
            for value in [&mut a.source, &mut a.target, &mut a.difference].into_iter().flatten() {
                *value = "***".into();
            }
        }
    }
}

/// How bad it is.
pub(super) fn level(outcome: Outcome) -> Verdict {
    match outcome {
        Outcome::Holds => Verdict::Ok,
        Outcome::Warning => Verdict::Warning,
        Outcome::Critical => Verdict::Critical,
        Outcome::Unknown => Verdict::Unknown,
    }
}
