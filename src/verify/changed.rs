//! Values that policies changed, in a proof: compared with what the policy makes of them, counted, and their originals with them.
//!
//! A proof that said "equal" and no more would hide that a source's `0000-00-00` is NULL at the target. So the scan of the source
//! counts what the policies change, column by column, and the target says at the same position how many originals it keeps: for
//! each changed value one, or the table is different.

use std::collections::BTreeMap;

use crossfade_core::unfit::Changed;
use crossfade_core::{Kept, Policy, Result};
use serde::{Deserialize, Serialize};

use super::{TableProof, Verdict};
use crate::transform::Mapped;

/// How many values of a column a policy has changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedValues {
    /// Its name at the target.
    pub column: String,
    /// Under which policy.
    pub policy: Policy,
    /// So many rows.
    pub values: u64,
}

/// Counts while a table is read.
#[derive(Debug, Default)]
pub struct Tally(BTreeMap<(usize, Policy), u64>);

impl Tally {
    /// One more.
    pub fn add(&mut self, changed: &Changed) {
        *self.0.entry((changed.column, changed.policy)).or_default() += 1;
    }

    /// What was counted, under the names of the target.
    pub fn of(self, mapped: &Mapped) -> Vec<ChangedValues> {
        let one = |((column, policy), values): ((usize, Policy), u64)| {
            let column = mapped.target.columns[column].name.clone();
            ChangedValues { column, policy, values }
        };
        self.0.into_iter().map(one).collect()
    }
}

/// Notes what was changed in a table, and that for each value its original is there.
pub fn note(proof: &mut TableProof, mapped: &Mapped, changed: &[ChangedValues], kept: &Result<Option<Vec<Kept>>>) {
    proof.changed = changed.to_vec();
    if mapped.target.columns.iter().all(|c| c.policies.is_empty()) || proof.verdict != Verdict::Equal {
        return;
    }
    let kept = match kept {
        Ok(Some(kept)) => kept,
        Ok(None) => return,
        Err(e) => {
            proof.verdict = Verdict::Unknown;
            proof.error = Some(format!("the originals of changed values could not be counted: {e}"));
            return;
        }
    };
    let name = mapped.target.name.to_string();
    let there = |column: &str, policy: Policy| -> u64 {
        let of = kept.iter().filter(|k| k.table == name && k.column == column && k.policy == policy);
        of.map(|k| k.values).sum()
    };
    for column in &mapped.target.columns {
        for policy in Policy::ALL {
            let of = changed.iter().filter(|c| c.column == column.name && c.policy == policy);
            let (wanted, found) = (of.map(|c| c.values).sum::<u64>(), there(&column.name, policy));
            if wanted != found {
                proof.verdict = Verdict::Different;
                proof.error = Some(format!(
                    "column {}: {policy} has changed {wanted} values, and the target keeps {found} originals: \
                     `crossfade snapshot {}` brings them anew",
                    column.name, mapped.source.name
                ));
            }
        }
    }
}
