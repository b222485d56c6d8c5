//! Which ranges of a table's key both sides can be asked for.
//!
//! Who says which rows a range holds? Each database by itself, so it must come to the same: a range of integers, bytes or UUIDs holds the
//! same rows wherever keys are ordered by their values ([`crossfade_core::Source::orders_by_value`]). Text is ordered by collations that
//! differ, files have no order at all: such tables are read whole behind one fence, however long that takes, and the proof says so.
//! So are those without a key, and those with policies, whose originals are counted for a whole table.

use std::sync::Arc;

use crossfade_core::{KeyRange, Result, Source, Target};

use super::chunk::{self, Settled};
use crate::pipeline::Pipeline;
use crate::transform::Mapped;

/// Rows that any server reads in a second, wide ones too. A table that has no more than these for each second of the time is not cut: where
/// rows do not lie in the order of their key, ranges cost more than all at once.
const SLOWEST: f64 = 1000.0;

/// A table that is not read to its end.
pub struct Todo {
    /// The table.
    pub mapped: Mapped,
    /// A mark of its shape.
    pub shape: String,
    /// What is left of it.
    pub ranges: Vec<KeyRange>,
    /// Why it was not cut.
    pub uncut: Option<String>,
}

/// Cuts tables.
pub struct Cutter {
    source: Arc<dyn Source>,
    targets: Vec<Arc<dyn Target>>,
    /// Of a range.
    rows: u64,
    /// Of a table that is not cut.
    few: u64,
}

impl Cutter {
    /// Of this pipeline.
    pub fn new(pipeline: &Pipeline) -> Cutter {
        let targets = pipeline.targets.iter().map(|t| Arc::clone(&t.target)).collect();
        let few = (pipeline.limits.snapshot.as_secs_f64() * SLOWEST) as u64;
        Cutter { source: Arc::clone(&pipeline.source), targets, rows: pipeline.limits.chunk_rows, few }
    }

    /// Why a table is read whole.
    fn cannot(&self, mapped: &Mapped) -> Option<String> {
        if mapped.target.key.is_empty() {
            return Some("it has no key".into());
        }
        if mapped.target.columns.iter().any(|c| !c.policies.is_empty()) {
            return Some("originals of values that a policy changes are counted for the whole table".into());
        }
        let ours = mapped.source.key_columns().all(|c| self.source.orders_by_value(c));
        let theirs = |t: &Arc<dyn Target>| mapped.target.key_columns().all(|c| t.orders_by_value(c));
        (!ours || !self.targets.iter().all(theirs))
            .then(|| "its key is not ordered in the same way at both ends".to_owned())
    }

    /// What was settled of a table before, and what is left of it.
    pub fn todo(&self, mapped: Mapped, known: &[Settled]) -> Result<(Vec<Settled>, Option<Todo>)> {
        let shape = chunk::shape(&mapped)?;
        let done = chunk::chain(known, &mapped.source.name, &shape);
        if done.last().is_some_and(Settled::ends) {
            return Ok((done, None));
        }
        let uncut = self.cannot(&mapped);
        let all = |uncut| Todo { mapped: mapped.clone(), shape: shape.clone(), ranges: vec![KeyRange::ALL], uncut };
        if uncut.is_some() {
            return Ok((Vec::new(), Some(all(uncut))));
        }
        match self.plan(&mapped) {
            Ok(plan) if done.is_empty() && plan.len() as u64 * self.rows <= self.few => Ok((done, Some(all(None)))),
            Ok(plan) => {
                let ranges = chunk::behind(plan, done.last().and_then(|last| last.range.to.as_ref()));
                Ok((done, Some(Todo { ranges, ..all(None) })))
            }
            Err(e) if e.is_transient() => Err(e),
            // Reading it tells why.
            Err(e) => Ok((Vec::new(), Some(all(Some(e.to_string()))))),
        }
    }

    fn plan(&self, mapped: &Mapped) -> Result<Vec<KeyRange>> {
        self.source.peek(std::slice::from_ref(&mapped.source))?.split(&mapped.source, self.rows)
    }
}
