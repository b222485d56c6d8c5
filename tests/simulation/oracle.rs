//! What must hold, whatever the faults were.

use std::sync::Arc;

use crossfade_core::conformance::changes::{Cells, State, collect};
use crossfade_core::{Checkpoint, Error, History, Op, Phase, Result, TableSchema, Target};

use super::apply::Change;
use super::codec::{self, Cell};
use super::source::{Database, Entry, Store, names, number};
use super::target::{MemoryTarget, Tables, TargetStore};
use super::world::BAG;

/// An error unless the condition holds.
pub fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::corrupt(otherwise())) }
}

/// What a target shows at one moment.
pub struct Sample {
    checkpoint: Option<Checkpoint>,
    shapes: Vec<Arc<TableSchema>>,
    tables: Tables,
}

impl Sample {
    pub fn take(target: &TargetStore) -> Self {
        let inner = target.lock();
        Sample { checkpoint: inner.checkpoint.clone(), shapes: inner.shapes.clone(), tables: inner.tables.clone() }
    }

    /// The checkpoint's number; 0 before the first.
    pub fn seq(&self) -> u64 {
        self.checkpoint.as_ref().map_or(0, |c| c.seq)
    }

    /// While streaming, it is what the source was at the checkpoint's position.
    pub fn judge(&self, store: &Store) -> Result<()> {
        let Some(checkpoint) = self.checkpoint.as_ref().filter(|c| c.phase == Phase::Streaming) else { return Ok(()) };
        let at = number(&checkpoint.position)?;
        for shape in &self.shapes {
            let (found, expected) = (names(shape), store.columns(&shape.name.name, at));
            ensure(found == expected, || format!("{} has columns {found:?}, not {expected:?}", shape.name))?;
        }
        same(&self.shapes, &self.tables, &*store.at(&checkpoint.position)?)
            .map_err(|e| e.context(format!("at {}, seq {}", checkpoint.position, checkpoint.seq)))
    }
}

fn same(shapes: &[Arc<TableSchema>], tables: &Tables, database: &Database) -> Result<()> {
    ensure(shapes.len() == database.len(), || format!("{} of {} tables", shapes.len(), database.len()))?;
    for shape in shapes {
        if shape.key.is_empty() {
            let rows = tables.get(&shape.name).map(|t| t.values().cloned().collect()).unwrap_or_default();
            same_bag(shape, rows, &database[&shape.name.name])?;
            continue;
        }
        let mut state = State::new();
        let none = Arc::default();
        let rows = tables.get(&shape.name).unwrap_or(&none);
        // The rows are read by the names that the columns had at first.
        let mut shape = (**shape).clone();
        shape.columns.iter_mut().zip(["id", "n", "t"]).for_each(|(c, name)| name.clone_into(&mut c.name));
        collect(&shape, &codec::decode(&shape, rows.values())?, &mut state)?;
        let expected = &database[&shape.name.name];
        let ids = state.keys().chain(expected.keys());
        if let Some(id) = ids.into_iter().find(|id| state.get(id) != expected.get(id)) {
            let (found, expected) = (state.get(id), expected.get(id));
            return Err(Error::corrupt(format!("{} row {id} is {found:?}, not {expected:?}", shape.name)));
        }
    }
    Ok(())
}

/// Equal rows, and of each as many.
fn same_bag(shape: &TableSchema, mut found: Vec<codec::Row>, expected: &State) -> Result<()> {
    let mut expected = expected.values().map(|c| row(c).map(Vec::from)).collect::<Result<Vec<_>>>()?;
    found.sort();
    expected.sort();
    ensure(found == expected, || format!("{}: {} rows {found:?}, not {expected:?}", shape.name, found.len()))
}

/// The columns `n` and `t`.
fn row(cells: &Cells) -> Result<[Cell; 2]> {
    let text: arrow_array::ArrayRef = Arc::new(arrow_array::StringArray::from(vec![cells.1.clone()]));
    Ok([codec::integer(cells.0)?, codec::cells(&text)?.remove(0)])
}

/// The end of a run: everything that the source has, nothing twice, nothing out of order.
pub fn at_the_end(store: &Store, target: &Arc<TargetStore>) -> Result<()> {
    let end = store.end();
    {
        let inner = target.lock();
        ensure(inner.violations.is_empty(), || inner.violations.join("; "))?;
        let last = inner.checkpoint.clone().ok_or_else(|| Error::corrupt("no checkpoint"))?;
        ensure(last.phase == Phase::Streaming && number(&last.position)? == end, || format!("{last:?}, not {end}"))?;
        ensure(inner.indexed, || "the copy was never finished".to_owned())?;
        for pair in inner.checkpoints.windows(2) {
            let forward = number(&pair[0].position)? <= number(&pair[1].position)?;
            let fair = pair[1].seq == pair[0].seq + 1 && pair[1].epoch >= pair[0].epoch && forward;
            // Back to copying only in a commit of its own, which does not move.
            let still = number(&pair[0].position)? == number(&pair[1].position)?;
            let phases = pair[0].phase == Phase::Copying || pair[1].phase == Phase::Streaming;
            ensure(fair && (phases || still), || format!("{:?} follows {:?}", pair[1], pair[0]))?;
        }
    }
    Sample::take(target).judge(store)?;
    if MemoryTarget(Arc::clone(target)).history() == History::Full {
        history(store, target)?;
    }
    Ok(())
}

/// A history holds every change after the first checkpoint once, in the order of the log.
fn history(store: &Store, target: &TargetStore) -> Result<()> {
    let inner = target.lock();
    let from = match inner.checkpoints.first() {
        Some(first) => number(&first.position)?,
        None => return Err(Error::corrupt("no first checkpoint")),
    };
    let mut found = inner.history.iter();
    for (i, transaction) in store.log(from, store.end()).iter().enumerate() {
        let at = from + i as u64 + 1;
        for (table, entry) in transaction.iter() {
            let inside = |spans: &[(crossfade_core::TableName, u64, u64)]| {
                spans.iter().any(|(name, after, to)| name.name == *table && at > *after && at <= *to)
            };
            // What came while a table was taken anew is in the copy; so is what came before the copy of one without a key.
            if inside(&inner.again) || (inside(&inner.lacking) && !matches!(entry, Entry::Rename(..))) {
                continue;
            }
            let Some((committed, change)) = found.next() else {
                return Err(Error::corrupt(format!("the history ends before {entry:?} of transaction {at}")));
            };
            let as_logged = changed(table, entry)?;
            ensure(as_logged == *change, || format!("transaction {at}: {change:?} instead of {as_logged:?}"))?;
            ensure(*committed >= at, || format!("transaction {at} is shown at {committed}"))?;
        }
    }
    ensure(found.next().is_none(), || "the history holds more than the log".to_owned())
}

fn changed(table: &str, entry: &Entry) -> Result<Change> {
    let name = crossfade_core::TableName::new(super::source::SCHEMA, table);
    let (op, id, cells, absent) = match entry {
        Entry::Truncate => return Ok(Change::Truncate(name)),
        Entry::Rename(_, to) => return Ok(Change::Rename(name, to.clone())),
        Entry::Row(op, id, cells, absent) => (op, id, cells, absent),
    };
    if table == BAG {
        return Ok(Change::Row(name, *op, vec![], row(cells)?.map(Some).to_vec()));
    }
    let key = codec::integer(Some(*id))?;
    if *op == Op::Delete {
        return Ok(Change::Row(name, *op, vec![key], vec![None; 3]));
    }
    let carried = row(cells)?.into_iter().zip(absent).map(|(cell, gone)| (!gone).then_some(cell));
    Ok(Change::Row(name, *op, vec![key.clone()], std::iter::once(Some(key)).chain(carried).collect()))
}
