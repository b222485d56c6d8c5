//! What a target in memory hands out beside its writer: loaders of chunks, and snapshots.

use std::sync::Arc;

use arrow_array::RecordBatch;
use crossfade_core::totals::Totals;
use crossfade_core::{
    Chunk, Error, KeyRange, Loaded, Loader, Orphans, Position, Result, Snapshot, TableSchema, figure,
};

use super::codec::{self, Row};
use super::poison::POISONED;
use super::source::number;
use super::target::{Tables, TargetStore};

/// Writes chunks.
pub struct MemoryLoader {
    pub store: Arc<TargetStore>,
    pub epoch: u64,
    pub chunk: Option<(Chunk, bool, Vec<Row>)>,
}

impl Loader for MemoryLoader {
    fn begin(&mut self, chunk: &Chunk, merge: bool) -> Result<()> {
        let inner = self.store.lock();
        inner.guard(self.epoch)?;
        let planned = inner.chunks.iter().find(|c| c.table == chunk.table.name && c.index == chunk.index);
        match planned {
            Some(c) if c.done.is_none() && c.range == chunk.range => {}
            other => return Err(Error::corrupt(format!("chunk {chunk:?} is not open: {other:?}"))),
        }
        self.chunk = Some((chunk.clone(), merge, Vec::new()));
        Ok(())
    }

    fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        self.store.lock().guard(self.epoch)?;
        let (_, _, held) = self.chunk.as_mut().ok_or_else(|| Error::corrupt("no chunk was begun"))?;
        held.extend(codec::encode(rows)?);
        Ok(())
    }

    fn commit(&mut self, high: &Position) -> Result<Loaded> {
        let (chunk, merge, rows) = self.chunk.take().ok_or_else(|| Error::corrupt("no chunk was begun"))?;
        let mut inner = self.store.lock();
        inner.guard(self.epoch)?;
        let name = &chunk.table.name;
        if inner.pending.contains(name) {
            inner.violated(format!("chunk {} of {name} commits while the stream writes there", chunk.index));
        }
        if let Some((_, poison)) = inner.poison.as_ref().filter(|(table, _)| table == name)
            && (number(&chunk.low)?..=number(high)?).any(|n| poison.spoils(n))
        {
            return Err(Error::data(name, POISONED));
        }
        let (low, touched) = (number(&chunk.low)?, inner.touched.get(name).copied().unwrap_or(0));
        if low < touched {
            inner.violated(format!("chunk {} of {name}, read at {low}, commits after {touched}", chunk.index));
        }
        if !inner.shapes.iter().any(|s| s.name == *name && s.columns == chunk.table.columns) {
            inner.violated(format!("chunk {} of {name} commits in a shape that the table has not", chunk.index));
        }
        let mut table = inner.tables.get(name).map(|t| (**t).clone()).unwrap_or_default();
        if chunk.table.key.is_empty() {
            table.clear();
            if !merge || low != number(high)? {
                inner.violated(format!("{name}, without a key, is copied from {low} to {high}"));
            }
        }
        for row in rows {
            if chunk.table.key.is_empty() {
                codec::put(&mut table, row);
                continue;
            }
            if table.insert(Arc::new(codec::key(&chunk.table, &row)), Arc::new(row)).is_some() && !merge {
                return Ok(Loaded::Collided);
            }
        }
        inner.soften();
        inner.tables.insert(name.clone(), Arc::new(table));
        if let Some(after) = inner.uncopied.remove(name) {
            inner.lacking.push((name.clone(), after, low));
        }
        let mut chunks = inner.chunks.iter_mut();
        if let Some(c) = chunks.find(|c| c.table == *name && c.index == chunk.index) {
            c.done = Some(high.clone());
        }
        Ok(Loaded::Done)
    }
}

/// What the store held at one moment.
pub struct MemorySnapshot {
    pub position: Position,
    pub tables: Tables,
}

impl Snapshot for MemorySnapshot {
    fn position(&self) -> &Position {
        &self.position
    }

    fn totals(&mut self, _: &TableSchema) -> Result<Option<Totals>> {
        Ok(None)
    }

    fn ask(&mut self, _: &str) -> Result<Option<String>> {
        Err(figure::mute("memory"))
    }

    fn orphans(&mut self, _: &TableSchema, _: &[Arc<TableSchema>]) -> Result<Option<Vec<Orphans>>> {
        Ok(None)
    }

    fn split(&mut self, _: &TableSchema, _: u64) -> Result<Vec<KeyRange>> {
        Ok(vec![KeyRange::ALL])
    }

    fn scan(
        &mut self,
        table: &TableSchema,
        range: &KeyRange,
        sink: &mut dyn FnMut(RecordBatch) -> Result<()>,
    ) -> Result<()> {
        if *range != KeyRange::ALL {
            return Err(Error::corrupt(format!("{range:?} was not made here")));
        }
        let missing = || Error::corrupt(format!("no table {}", table.name));
        let rows = self.tables.get(&table.name).ok_or_else(missing)?;
        sink(codec::decode(table, rows.values())?)
    }
}
