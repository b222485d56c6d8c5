//! Which rows of a table without a key remain: of equal rows, as many as came more often than they went.
//!
//! Rows are compared by the hash of their canonical bytes (the fingerprint's own). Equal rows cannot be told apart, so it
//! does not matter which of them are handed over: the first that came are. The files are read once to find the last
//! truncation, then twice for each share of the hashes: to count, and to mark.

use std::collections::HashMap;

use arrow_array::RecordBatch;
use arrow_buffer::{BooleanBuffer, BooleanBufferBuilder};
use crossfade_core::fingerprint::RowHasher;
use crossfade_core::{Error, Result, TableSchema};

use super::{LogSnapshot, Place, meta, no_bits, ops, passes};
use crate::decode::integers;
use crate::evolve::Evolution;
use crate::reader::read;
use crate::record::Committed;
use crate::types::META;

/// Per file, the rows that remain; `keys` hashes are held at once.
pub(super) fn remaining(log: &LogSnapshot, table: &TableSchema, keys: u64) -> Result<Vec<BooleanBuffer>> {
    let files: Vec<&Committed> = log.state.files_of(&table.name).collect();
    let mut bits = no_bits(&files)?;
    let mut truncated: Option<Place> = None;
    for file in &files {
        each(log, table, file, &[], &mut |place, op, _, _| {
            if op == "t" {
                truncated = Some(truncated.map_or(place, |t| t.max(place)));
            }
            Ok(())
        })?;
    }
    let all: Vec<usize> = (0..table.columns.len()).collect();
    let passes = passes(&files, keys);
    for pass in 0..passes {
        let counts = |place: Place, hash: u128| (hash >> 64) % passes == pass && truncated.is_none_or(|t| place > t);
        let mut left: HashMap<u128, i64> = HashMap::new();
        for file in &files {
            each(log, table, file, &all, &mut |place, op, hash, _| {
                if op != "t" && counts(place, hash) {
                    *left.entry(hash).or_default() += if op == "d" { -1 } else { 1 };
                }
                Ok(())
            })?;
        }
        if left.values().any(|n| *n < 0) {
            return Err(Error::data(&table.name, "a row went more often than it came (the table has no key)")
                .hint("copy the table again with `crossfade snapshot TABLE`"));
        }
        for (file, bits) in files.iter().zip(&mut bits) {
            each(log, table, file, &all, &mut |place, op, hash, row| {
                if matches!(op, "c" | "i")
                    && counts(place, hash)
                    && let Some(n) = left.get_mut(&hash).filter(|n| **n > 0)
                {
                    *n -= 1;
                    bits.set_bit(row, true);
                }
                Ok(())
            })?;
        }
    }
    Ok(bits.iter_mut().map(BooleanBufferBuilder::finish).collect())
}

/// Calls `visit` with place, operation, hash over the `wanted` columns and number of every row of a file.
fn each(
    log: &LogSnapshot,
    table: &TableSchema,
    file: &Committed,
    wanted: &[usize],
    visit: &mut dyn FnMut(Place, &str, u128, usize) -> Result<()>,
) -> Result<()> {
    let evolution = Evolution::new(&log.state, log.shape(file)?, table, wanted)?;
    let mut row = 0;
    let columns = evolution.reads().chain([META[0], META[2], META[3]]);
    read(&log.places, &table.name, file, columns, &mut |batch| {
        let (ops, seqs, ordinals) = (ops(&batch)?, meta(&batch, META[2])?, meta(&batch, META[3])?);
        let (seqs, ordinals) = (integers(seqs, META[2])?, integers(ordinals, META[3])?);
        let mut hasher = None;
        let values;
        if !wanted.is_empty() {
            values = RecordBatch::try_new(table.arrow(), evolution.apply(&batch)?)
                .map_err(|e| Error::corrupt(format!("table {}: rows form no batch", table.name)).caused_by(e))?;
            hasher = Some(RowHasher::new(&values)?);
        }
        for i in 0..batch.num_rows() {
            let op = ops.value(i);
            if !matches!(op, "t" | "d" | "c" | "i") {
                return Err(Error::corrupt(format!("table {} has no key, and a row's _op is {op:?}", table.name)));
            }
            let hash = hasher.as_mut().map_or(0, |h| h.hash(i));
            visit((seqs.value(i), ordinals.value(i)), op, hash, row)?;
            row += 1;
        }
        Ok(())
    })
}
