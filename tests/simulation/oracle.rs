//! What must hold, whatever the faults were.
//!
//! Every commit of a target leaves a [`Sample`] of what it shows; another is taken now and then, at any moment. While the
//! target streams, each must be what the source was at the checkpoint's position, under the world's rules, but for tables that
//! are suspended there. Tables are
//! shared between samples as long as they do not change, so what was compared once is not compared again.

use std::collections::HashMap;
use std::sync::Arc;

use crossfade_core::conformance::changes::{Cells, State};
use crossfade_core::{Checkpoint, Error, History, Op, Phase, Result, TableName, TableSchema};

use super::apply::Change;
use super::codec::{self, Cell, Row, Table};
use super::lens::Lens;
use super::source::{Entry, Store, names, number};
use super::target::{Inner, Tables, TargetStore};
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
    suspended: Vec<TableName>,
}

impl Sample {
    pub fn of(inner: &Inner) -> Self {
        let suspended = inner.suspended.iter().map(|(table, _)| table.clone()).collect();
        let (shapes, tables) = (inner.shapes.clone(), inner.tables.clone());
        Sample { checkpoint: inner.checkpoint.clone(), shapes, tables, suspended }
    }
}

/// Compares one target's samples with one source.
pub struct Judge<'a> {
    store: &'a Store,
    target: &'a TargetStore,
    lens: Lens,
    /// What was found equal last, by table.
    equal: HashMap<TableName, (Arc<Table>, Arc<State>)>,
    cells: Encoder,
    /// Samples of a target that streams.
    pub samples: u64,
}

impl<'a> Judge<'a> {
    pub fn new(store: &'a Store, target: &'a TargetStore, lens: Lens) -> Self {
        Judge { store, target, lens, equal: HashMap::new(), cells: Encoder::default(), samples: 0 }
    }

    /// Every commit since the last time, and this moment.
    pub fn look(&mut self) -> Result<()> {
        let samples = {
            let mut inner = self.target.lock();
            let mut shown = std::mem::take(&mut inner.shown);
            shown.push(Sample::of(&inner));
            shown
        };
        samples.iter().try_for_each(|s| self.judge(s))
    }

    /// While streaming, it is what the source was at the checkpoint's position.
    fn judge(&mut self, sample: &Sample) -> Result<()> {
        let Some(checkpoint) = sample.checkpoint.as_ref().filter(|c| c.phase == Phase::Streaming) else {
            return Ok(());
        };
        self.samples += 1;
        self.same(sample, number(&checkpoint.position)?)
            .map_err(|e| e.context(format!("at {}, seq {}", checkpoint.position, checkpoint.seq)))
    }

    fn same(&mut self, sample: &Sample, at: u64) -> Result<()> {
        let database = self.store.at(at)?;
        ensure(sample.shapes.len() == database.len(), || {
            format!("{} of {} tables", sample.shapes.len(), database.len())
        })?;
        for (name, expected) in database.iter() {
            let arrives = self.lens.table(name);
            if sample.suspended.contains(&arrives) {
                continue;
            }
            let shape = sample.shapes.iter().find(|s| s.name == arrives);
            let (Some(shape), Some(found)) = (shape, sample.tables.get(&arrives)) else {
                return Err(Error::corrupt(format!("there is no table {arrives}")));
            };
            let columns = self.store.columns(name, at);
            let columns: Vec<&str> = columns.iter().filter_map(|c| self.lens.column(c)).collect();
            ensure(names(shape) == columns, || format!("{arrives} has columns {:?}, not {columns:?}", names(shape)))?;
            let known = self.equal.get(&arrives);
            if known.is_some_and(|(f, e)| Arc::ptr_eq(f, found) && Arc::ptr_eq(e, expected)) {
                continue;
            }
            match shape.key.is_empty() {
                true => self.same_bag(&arrives, found, expected)?,
                false => self.same_rows(&arrives, found, expected)?,
            }
            self.equal.insert(arrives, (Arc::clone(found), Arc::clone(expected)));
        }
        Ok(())
    }

    /// Row by row: cells are ordered as their values are.
    fn same_rows(&mut self, name: &TableName, found: &Table, expected: &State) -> Result<()> {
        let mut rows = found.iter();
        for (&id, cells) in expected {
            let id_cell = self.cells.integer(Some(id))?;
            let row: Row = std::iter::once(id_cell).chain(self.cells.row(self.lens, cells)?).collect();
            match rows.next() {
                Some((key, there)) if key[..] == row[..1] && **there == row => {}
                other => return Err(Error::corrupt(format!("{name}: {other:?} instead of {id}: {cells:?}, {row:?}"))),
            }
        }
        match rows.next() {
            None => Ok(()),
            more => Err(Error::corrupt(format!("{name}: {more:?} should not be there"))),
        }
    }

    /// Equal rows, and of each as many.
    fn same_bag(&mut self, name: &TableName, found: &Table, expected: &State) -> Result<()> {
        let mut found: Vec<&Row> = found.values().map(Arc::as_ref).collect();
        let mut expected = expected.values().map(|c| self.cells.row(self.lens, c)).collect::<Result<Vec<_>>>()?;
        found.sort();
        expected.sort();
        ensure(found.iter().copied().eq(&expected), || {
            format!("{name}: {} rows {found:?}, not {expected:?}", found.len())
        })
    }

    /// The end of a run: everything that the source has, nothing twice, nothing out of order.
    pub fn at_the_end(&mut self) -> Result<()> {
        self.look()?;
        let end = self.store.end();
        let inner = self.target.lock();
        ensure(inner.violations.is_empty(), || inner.violations.join("; "))?;
        let last = inner.checkpoint.clone().ok_or_else(|| Error::corrupt("no checkpoint"))?;
        ensure(last.phase == Phase::Streaming && number(&last.position)? == end, || format!("{last:?}, not {end}"))?;
        ensure(inner.suspended.is_empty(), || format!("{:?} at the end", inner.suspended))?;
        ensure(inner.indexed, || "the copy was never finished".to_owned())?;
        for pair in inner.checkpoints.windows(2) {
            let forward = number(&pair[0].position)? <= number(&pair[1].position)?;
            let fair = pair[1].seq == pair[0].seq + 1 && pair[1].epoch >= pair[0].epoch && forward;
            // Back to copying only in a commit of its own, which does not move.
            let still = number(&pair[0].position)? == number(&pair[1].position)?;
            let phases = pair[0].phase == Phase::Copying || pair[1].phase == Phase::Streaming;
            ensure(fair && (phases || still), || format!("{:?} follows {:?}", pair[1], pair[0]))?;
        }
        for (time, n) in self.store.acknowledged() {
            let before = inner.times.partition_point(|t| *t < time).checked_sub(1);
            let held = before.map(|i| number(&inner.checkpoints[i].position)).transpose()?;
            ensure(held.is_some_and(|h| n <= h), || format!("{n} was acknowledged when the target held {held:?}"))?;
        }
        match self.target.history {
            History::Net => Ok(()),
            History::Full => self.history(&inner),
        }
    }

    /// A history holds every change after the first checkpoint once, in the order of the log.
    fn history(&mut self, inner: &Inner) -> Result<()> {
        let from = match inner.checkpoints.first() {
            Some(first) => number(&first.position)?,
            None => return Err(Error::corrupt("no first checkpoint")),
        };
        let mut found = inner.history.iter();
        for (i, transaction) in self.store.log(from, self.store.end()).iter().enumerate() {
            let at = from + i as u64 + 1;
            for (table, entry) in transaction.iter() {
                let inside = |spans: &[(TableName, u64, u64)]| {
                    spans.iter().any(|(name, after, to)| name.name == *table && at > *after && at <= *to)
                };
                // What came while a table was taken anew is in the copy; so is what came before the copy of one
                // without a key.
                if inside(&inner.again) || (inside(&inner.lacking) && !matches!(entry, Entry::Rename(..))) {
                    continue;
                }
                let Some(as_logged) = self.changed(table, entry)? else { continue };
                let Some((committed, change)) = found.next() else {
                    return Err(Error::corrupt(format!("the history ends before {entry:?} of transaction {at}")));
                };
                ensure(as_logged == *change, || format!("transaction {at}: {change:?} instead of {as_logged:?}"))?;
                ensure(*committed >= at, || format!("transaction {at} is shown at {committed}"))?;
            }
        }
        ensure(found.next().is_none(), || "the history holds more than the log".to_owned())
    }

    /// The change that a target is told of, if any.
    fn changed(&mut self, table: &str, entry: &Entry) -> Result<Option<Change>> {
        let name = self.lens.table(table);
        let (op, id, cells, absent) = match entry {
            Entry::Truncate => return Ok(Some(Change::Truncate(name))),
            Entry::Rename(from, to) => {
                let to = self.lens.column(to).filter(|to| Some(*to) != self.lens.column(from));
                return Ok(to.map(|to| Change::Rename(name, to.to_owned())));
            }
            Entry::Row(op, id, cells, absent) => (op, id, cells, absent),
        };
        let row = self.cells.row(self.lens, cells)?;
        if table == BAG {
            return Ok(Some(Change::Row(name, *op, vec![], row.into_iter().map(Some).collect())));
        }
        let key = self.cells.integer(Some(*id))?;
        if *op == Op::Delete {
            return Ok(Some(Change::Row(name, *op, vec![key], vec![None; 1 + row.len()])));
        }
        let carried = row.into_iter().zip(self.lens.carried(*absent)).map(|(cell, gone)| (!gone).then_some(cell));
        Ok(Some(Change::Row(name, *op, vec![key.clone()], std::iter::once(Some(key)).chain(carried).collect())))
    }
}

/// Values as cells. Most are met again and again.
#[derive(Default)]
struct Encoder {
    integers: HashMap<Option<i64>, Cell>,
    texts: HashMap<Option<String>, Cell>,
}

impl Encoder {
    fn integer(&mut self, value: Option<i64>) -> Result<Cell> {
        if let Some(known) = self.integers.get(&value) {
            return Ok(known.clone());
        }
        let cell = codec::integer(value)?;
        self.integers.insert(value, cell.clone());
        Ok(cell)
    }

    fn text(&mut self, value: &Option<String>) -> Result<Cell> {
        if let Some(known) = self.texts.get(value) {
            return Ok(known.clone());
        }
        let array: arrow_array::ArrayRef = Arc::new(arrow_array::StringArray::from(vec![value.clone()]));
        let cell = codec::cells(&array)?.remove(0);
        self.texts.insert(value.clone(), cell.clone());
        Ok(cell)
    }

    /// Of the columns `n` and `t` those that arrive.
    fn row(&mut self, lens: Lens, cells: &Cells) -> Result<Row> {
        Ok(lens.carried([self.integer(cells.0)?, self.text(&cells.1)?]).collect())
    }
}
