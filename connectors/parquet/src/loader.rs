//! Chunks of the initial copy, beside the stream.
//!
//! A chunk is encoded as it comes, before its place in the log is known. That is right because its rows need a place
//! only in the order of the *stream*, and that is known when the chunk begins: behind everything committed so far,
//! before everything else. The crate's documentation has the proof.

use std::sync::{Arc, Mutex};

use arrow_array::RecordBatch;
use arrow_array::builder::StringBuilder;
use crossfade_core::{Chunk, Error, Loaded, Loader, Position, Result};

use crate::file::{TableFile, complete};
use crate::log::{Log, Places};
use crate::record::{Entry, Shape, Staged};
use crate::types::Meta;
use crate::writer::{lock, same_columns, seq};

/// The `_ordinal` of copied rows: they come before the rows of the commit whose `_seq` they carry.
const BEFORE_THE_COMMIT: i64 = -1;

/// See [`Loader`].
pub(crate) struct ParquetLoader {
    places: Places,
    log: Arc<Mutex<Log>>,
    chunk: Option<Open>,
}

struct Open {
    chunk: Chunk,
    shape: Shape,
    seq: i64,
    file: TableFile,
    /// Files of this chunk that take no more rows.
    ended: Vec<Staged>,
}

impl ParquetLoader {
    pub(crate) fn new(log: Arc<Mutex<Log>>) -> Self {
        let places = lock(&log).places().clone();
        ParquetLoader { places, log, chunk: None }
    }
}

impl Loader for ParquetLoader {
    /// `merge` changes nothing: rows never meet, every one is kept.
    fn begin(&mut self, chunk: &Chunk, _merge: bool) -> Result<()> {
        let log = lock(&self.log);
        let table = &chunk.table.name;
        let shape = log.state().current(table).cloned().filter(|s| same_columns(&s.table, &chunk.table));
        let Some(shape) = shape else {
            return Err(Error::transient(format!("table {table} has another shape than when its chunk was read")));
        };
        let file = TableFile::new(&self.places, &shape, log.owner())?;
        let seq = seq(log.state().seq())?;
        drop(log);
        self.chunk = Some(Open { chunk: chunk.clone(), shape, seq, file, ended: Vec::new() });
        Ok(())
    }

    fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        // Taken, so that a chunk that failed half way cannot be committed.
        let mut open = self.chunk.take().ok_or_else(no_chunk)?;
        if open.file.is_full() {
            let next = TableFile::new(&self.places, &open.shape, lock(&self.log).owner())?;
            let full = std::mem::replace(&mut open.file, next);
            open.ended.extend(complete(&self.places, vec![full.finish()?])?);
        }
        let count = rows.num_rows();
        let mut op = StringBuilder::with_capacity(count, count);
        (0..count).for_each(|_| op.append_value("c"));
        let ordinal = vec![BEFORE_THE_COMMIT; count];
        open.file.write(&self.places, Meta { op, commit_time: vec![None; count], seq: open.seq, ordinal }, rows)?;
        self.chunk = Some(open);
        Ok(())
    }

    fn commit(&mut self, high: &Position) -> Result<Loaded> {
        let open = self.chunk.take().ok_or_else(no_chunk)?;
        let mut files = open.ended;
        if !open.file.is_empty() {
            files.extend(complete(&self.places, vec![open.file.finish()?])?);
        }
        let table = open.chunk.table.name.clone();
        lock(&self.log).append(Entry::Chunk { table, index: open.chunk.index, high: high.clone(), files })?;
        Ok(Loaded::Done)
    }
}

fn no_chunk() -> Error {
    Error::corrupt("rows of a chunk came before it was begun, or after it failed")
}
