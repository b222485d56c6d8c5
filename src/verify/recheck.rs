//! The second look: rows that differed are read again by their key, behind a second fence.
//!
//! Both sides were read at one position, so a difference is no race: at that position they did not hold the same. Where they do at a
//! later one, somebody has changed the row in between, and which side it was tells what: the source, whose change overwrote whatever
//! was wrong, or the target, where somebody mended it. Such a row is *settled*; the table's verdict stays *different*, since that is
//! what was seen. All others are what they are at the later position: missing, extra, different, or repeated.
//!
//! There is no class "the same value in another form" (`1.5` and `1.50` of a `numeric`): fingerprints and differences are of what a
//! value prints as, which a move must keep, and only its server could say what its `=` calls equal.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crossfade_core::buckets::RowHash;
use crossfade_core::{Error, Result, TableSchema};

use super::difference::{Classes, Kind, Recheck, Settler, Words, difference, words};
use super::narrow::{Both, Suspects, paired};
use super::side::{Side, beside};
use super::{Fenced, Proof, hold, streams};
use crate::pipeline::Pipeline;
use crate::pipeline::session::Shared;
use crate::transform::Mapped;

/// A comparison, and the rows that differed.
pub struct Compared {
    /// What it came to.
    pub proof: Proof,
    /// By table and target.
    pub suspected: Vec<Suspected>,
}

/// The rows of one table at one target that differed.
pub struct Suspected {
    /// The place in the proof.
    pub at: usize,
    /// The target, by its place in the pipeline.
    pub target: usize,
    /// The table as it was compared.
    pub mapped: Mapped,
    /// The rows.
    pub suspects: Suspects,
}

impl Compared {
    /// Holds the pipeline a second time, for the tables that differ.
    pub fn fence(&self, shared: &Shared<'_>, pipeline: &Pipeline) -> Result<Fenced> {
        streams(shared, pipeline)?;
        let wanted: HashSet<_> = self.suspected.iter().map(|s| &s.mapped.source.name).collect();
        hold(shared, pipeline, &|| {
            Ok(shared.carried().into_iter().filter(|m| wanted.contains(&m.source.name)).collect())
        })
    }

    /// Notes that there was no second look.
    pub fn unchecked(&mut self, error: &Error) {
        self.proof.recheck_error = Some(error.to_string());
    }

    /// Reads the rows again, and says what became of them.
    pub fn recheck(&mut self, mut fenced: Fenced) {
        self.proof.rechecked = Some(fenced.position.clone());
        for suspected in &self.suspected {
            let now = fenced.tables.iter().find(|m| m.source.name == suspected.mapped.source.name);
            let (_, target) = &mut fenced.targets[suspected.target];
            let looked = match now.filter(|now| same_shape(now, &suspected.mapped)) {
                Some(_) => look(suspected, &mut *fenced.source, &mut **target),
                None => Err(Error::transient("the table has another shape by now").hint("verify again")),
            };
            let proof = &mut self.proof.tables[suspected.at];
            match (looked, &mut proof.differences) {
                (Ok((classes, rows)), Some(found)) => {
                    found.recheck = Some(classes);
                    found.listed.iter_mut().zip(rows).for_each(|(d, row)| d.recheck = row);
                }
                (Err(e), _) => {
                    proof.error = Some(format!("the rows that differ could not be read a second time: {e}"));
                }
                (Ok(_), None) => {}
            }
        }
    }
}

/// Whether keys and rows of the one table are those of the other.
pub fn same_shape(a: &Mapped, b: &Mapped) -> bool {
    let shape = |t: &Arc<TableSchema>| (t.name.clone(), t.columns.clone(), t.key.clone());
    shape(&a.source) == shape(&b.source) && shape(&a.target) == shape(&b.target)
}

/// What one side has of the rows now.
#[derive(Default)]
struct Now {
    hashes: Vec<RowHash>,
    /// Of those that are listed, all values.
    words: HashMap<u128, Vec<Words>>,
}

fn look(
    suspected: &Suspected,
    source: &mut dyn crossfade_core::Snapshot,
    target: &mut dyn crossfade_core::Snapshot,
) -> Result<(Classes, Vec<Option<Recheck>>)> {
    let Suspected { mapped, suspects, .. } = suspected;
    let mut source = Side { snapshot: source, mapped, is_source: true };
    let mut target = Side { snapshot: target, mapped, is_source: false };
    let wanted: HashSet<u128> = suspects.rows.iter().map(|(key, _)| *key).collect();
    let listed: HashSet<u128> = suspects.listed.iter().copied().collect();
    let (ours, theirs) = beside(&mut source, &mut target, |side| {
        let mut now = Now::default();
        side.fetch(&suspects.keys, &wanted, |batch, hashes| {
            now.hashes.extend_from_slice(hashes);
            let (shown, of) = super::side::pick(batch, hashes, &listed)?;
            of.iter().zip(words(&shown)?).for_each(|(row, words)| now.words.entry(row.key).or_default().push(words));
            Ok(())
        })?;
        Ok(now)
    })?;
    let both = paired(ours.hashes, theirs.hashes);
    let now = |key: &u128| both.get(key).copied().unwrap_or_default();
    let mut classes = Classes::default();
    suspects.rows.iter().for_each(|(key, _)| *classes.of(kind(&now(key))) += 1);
    let before: HashMap<u128, Both> = suspects.rows.iter().copied().collect();
    let listed = suspects.listed.iter().map(|key| {
        let (then, now) = (before.get(key)?, now(key));
        let Some(kind) = kind(&now) else {
            let by = if then.source == now.source { Settler::Target } else { Settler::Source };
            return Some(Recheck::Settled { by });
        };
        let of = |side: &HashMap<u128, Vec<Words>>| side.get(key).cloned().unwrap_or_default();
        let found = difference(&mapped.target, &of(&ours.words), &of(&theirs.words));
        Some(Recheck::Lasting { kind, columns: found.map(|d| d.columns).unwrap_or_default() })
    });
    Ok((classes, listed.collect()))
}

/// How the rows with one key differ; `None`: not at all.
pub fn kind(both: &Both) -> Option<Kind> {
    match (both.source.rows, both.target.rows) {
        _ if both.source == both.target => None,
        (_, 0) => Some(Kind::Missing),
        (0, _) => Some(Kind::Extra),
        (1, 1) => Some(Kind::Different),
        _ => Some(Kind::Repeated),
    }
}

impl Classes {
    fn of(&mut self, kind: Option<Kind>) -> &mut u64 {
        match kind {
            Some(Kind::Missing) => &mut self.missing,
            Some(Kind::Extra) => &mut self.extra,
            Some(Kind::Different) => &mut self.different,
            Some(Kind::Repeated) => &mut self.repeated,
            None => &mut self.settled,
        }
    }
}
