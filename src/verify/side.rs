//! One side of a table that is compared: its rows in the target's shape, with their hashes.

use std::collections::HashSet;

use arrow_array::{BooleanArray, RecordBatch};
use arrow_select::filter::filter_record_batch;
use crossfade_core::buckets::{RowHash, row_hashes};
use crossfade_core::unfit::settle;
use crossfade_core::{Error, KeyRange, Result, Snapshot};

use crate::transform::Mapped;

/// One side of a table.
pub struct Side<'a> {
    /// Where it is read.
    pub snapshot: &'a mut dyn Snapshot,
    /// The table.
    pub mapped: &'a Mapped,
    /// Which side it is.
    pub is_source: bool,
}

impl Side<'_> {
    /// Reads all rows in the target's shape, with their hashes.
    pub fn scan(&mut self, sink: impl FnMut(&RecordBatch, &[RowHash]) -> Result<()>) -> Result<()> {
        self.read(None, false, sink)
    }

    /// Reads the rows with these keys, and no others. `wanted` are the keys' hashes.
    pub fn fetch(
        &mut self,
        keys: &RecordBatch,
        wanted: &HashSet<u128>,
        mut sink: impl FnMut(&RecordBatch, &[RowHash]) -> Result<()>,
    ) -> Result<()> {
        self.read(Some(keys), false, |batch, hashes| {
            let (batch, hashes) = pick(batch, hashes, wanted)?;
            sink(&batch, &hashes)
        })
    }

    /// As [`Side::fetch`], but rows of the source come as they are to be written: with the values that a policy changes at the
    /// target. Their hashes are of what it makes of them.
    pub fn fetch_to_write(
        &mut self,
        keys: &RecordBatch,
        wanted: &HashSet<u128>,
        mut sink: impl FnMut(&RecordBatch, &[RowHash]) -> Result<()>,
    ) -> Result<()> {
        self.read(Some(keys), true, |batch, hashes| {
            let (batch, hashes) = pick(batch, hashes, wanted)?;
            sink(&batch, &hashes)
        })
    }

    fn read(
        &mut self,
        keys: Option<&RecordBatch>,
        whole: bool,
        mut sink: impl FnMut(&RecordBatch, &[RowHash]) -> Result<()>,
    ) -> Result<()> {
        let mapped = self.mapped;
        let table = if self.is_source { &mapped.source } else { &mapped.target };
        let is_source = self.is_source;
        let mut shaped = |batch: RecordBatch| {
            let batch = if is_source { mapped.project(&batch)? } else { batch };
            let settled = if is_source { settle(&mapped.target, &batch)? } else { None };
            match settled {
                Some((settled, _)) => {
                    sink(if whole { &batch } else { &settled }, &row_hashes(&settled, &mapped.target.key)?)
                }
                None => sink(&batch, &row_hashes(&batch, &mapped.target.key)?),
            }
        };
        match keys {
            Some(keys) => self.snapshot.fetch(table, keys, &mut shaped),
            None => self.snapshot.scan(table, &KeyRange::ALL, &mut shaped),
        }
    }
}

/// The rows whose keys are wanted.
pub fn pick(batch: &RecordBatch, hashes: &[RowHash], wanted: &HashSet<u128>) -> Result<(RecordBatch, Vec<RowHash>)> {
    let mask: BooleanArray = hashes.iter().map(|row| Some(wanted.contains(&row.key))).collect();
    let picked =
        filter_record_batch(batch, &mask).map_err(|e| Error::corrupt("picking rows out of a snapshot").caused_by(e))?;
    Ok((picked, hashes.iter().filter(|row| wanted.contains(&row.key)).copied().collect()))
}

/// Does the same on both sides at once.
pub fn beside<T: Send>(
    source: &mut Side<'_>,
    target: &mut Side<'_>,
    work: impl Fn(&mut Side<'_>) -> Result<T> + Sync,
) -> Result<(T, T)> {
    let (ours, theirs) = std::thread::scope(|scope| {
        let theirs = scope.spawn(|| work(target));
        (work(source), theirs.join())
    });
    let theirs = theirs.unwrap_or_else(|_| Err(Error::corrupt("a thread that read the target panicked")));
    Ok((ours?, theirs?))
}
