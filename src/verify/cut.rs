//! Which ranges of a table's key both sides can be asked for.
//!
//! Who says which rows a range holds? Each database by itself, so it must come to the same: a range of integers, bytes or UUIDs holds the
//! same rows wherever keys are ordered by their values ([`crossfade_core::Source::orders_by_value`]). Text is ordered by collations that
//! differ, files have no order at all: such tables are read whole behind one fence, however long that takes, and the proof says so.
//! So are those without a key, and those with policies, whose originals are counted for a whole table.

use std::sync::Arc;

use crossfade_core::{KeyRange, Result, Source, Target};

use super::audit::Audit;
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
    /// Whether it was read, and is read once more.
    pub again: bool,
    /// Why it was not cut.
    pub uncut: Option<String>,
}

/// A table, cut.
#[derive(Default)]
pub struct Cut {
    /// What was settled of it before.
    pub done: Vec<Settled>,
    /// What is to be read.
    pub todo: Vec<Todo>,
    /// Where it is audited: a mark of its shape, and all its ranges.
    pub audited: Option<(String, Vec<KeyRange>)>,
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

    /// What was settled of a table before, and what is left of it; of one that is audited: what is due.
    pub fn cut(&self, mapped: Mapped, course: i64, known: &[Settled], audit: Option<&Audit>) -> Result<Cut> {
        let shape = chunk::shape(&mapped)?;
        let done = chunk::chain(known, &mapped.source.name, &shape);
        let is_over = done.last().is_some_and(Settled::ends);
        if is_over && audit.is_none() {
            return Ok(Cut { done, ..Cut::default() });
        }
        let all = |uncut| {
            let (mapped, shape) = (mapped.clone(), shape.clone());
            Todo { mapped, shape, ranges: vec![KeyRange::ALL], again: false, uncut }
        };
        let whole = |uncut| Cut { todo: vec![all(uncut)], ..Cut::default() };
        let uncut = self.cannot(&mapped);
        if uncut.is_some() {
            return Ok(if is_over { Cut { done, ..Cut::default() } } else { whole(uncut) });
        }
        let plan = match self.plan(&mapped) {
            Ok(plan) => plan,
            Err(e) if e.is_transient() => return Err(e),
            // Reading it tells why.
            Err(e) => return Ok(whole(Some(e.to_string()))),
        };
        let is_small = plan.len() as u64 * self.rows <= self.few;
        if let Some(audit) = audit.filter(|_| !is_small) {
            let name = &mapped.source.name;
            let (due, again) = audit.due(name, &shape, plan.clone());
            let again = again.into_iter().map(|range| Todo { ranges: vec![range], again: true, ..all(None) });
            let todo = again.chain([Todo { ranges: due, ..all(None) }]).collect();
            return Ok(Cut { done: audit.of_course(course, name), todo, audited: Some((shape.clone(), plan)) });
        }
        if is_over {
            return Ok(Cut { done, ..Cut::default() });
        }
        if done.is_empty() && is_small {
            return Ok(whole(None));
        }
        let ranges = chunk::behind(plan, done.last().and_then(|last| last.range.to.as_ref()));
        Ok(Cut { done, todo: vec![Todo { ranges, ..all(None) }], audited: None })
    }

    fn plan(&self, mapped: &Mapped) -> Result<Vec<KeyRange>> {
        self.source.peek(std::slice::from_ref(&mapped.source))?.split(&mapped.source, self.rows)
    }
}
