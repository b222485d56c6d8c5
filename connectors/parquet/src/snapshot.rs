//! The latest state of the tables, out of the log of their changes.
//!
//! Of each key the row with the greatest (`_seq`, `_ordinal`) counts, unless it is a delete or lies before the last
//! truncation. Two steps find it with bounded memory:
//!
//! 1. *Which rows?* The key columns of all files are read, and of each key the place of its last row is kept; where a
//!    table has more rows than [`KEYS`], in several passes over those columns, each for the keys with some hashes. What
//!    remains is one bit per row of the files.
//! 2. *What do they hold?* Every file that holds such rows is read once.
//!
//! A table without a key is a bag of rows; which of them remain is told in [`bag`].
//!
//! Only files that the log names count; what else lies in a folder is not the table's.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{BooleanArray, RecordBatch, StringArray};
use arrow_buffer::{BooleanBuffer, BooleanBufferBuilder};
use arrow_schema::{Field, Schema};
use crossfade_core::fingerprint::RowHasher;
use crossfade_core::totals::Totals;
use crossfade_core::{Error, KeyRange, Orphans, Position, Result, Snapshot, TableSchema, figure};

use crate::decode::integers;
use crate::evolve::Evolution;
use crate::log::Places;
use crate::reader::read;
use crate::record::{Committed, Shape, State};
use crate::types::META;

mod bag;

/// Keys held at once: about 100 bytes each.
const KEYS: u64 = 2 << 20;

/// See [`Snapshot`].
pub(crate) struct LogSnapshot {
    places: Places,
    state: State,
    position: Position,
}

/// A row's place in the one order of changes of a table.
type Place = (i64, i64);

/// Where the last row of a key is.
struct Last {
    place: Place,
    file: u32,
    row: u32,
    deleted: bool,
}

impl LogSnapshot {
    pub(crate) fn new(places: Places, tables: &[Arc<TableSchema>]) -> Result<Self> {
        let state = places.load()?;
        let Some(checkpoint) = &state.checkpoint else {
            return Err(Error::unavailable(format!("pipeline {} has committed nothing yet", places.pipeline))
                .hint("wait for the first commit"));
        };
        let position = checkpoint.position.clone();
        for table in tables {
            if state.current(&table.name).is_none() {
                return Err(Error::unavailable(format!(
                    "table {} is not in the log of pipeline {}",
                    table.name, places.pipeline
                ))
                .hint("name a table that the pipeline carries"));
            }
        }
        Ok(LogSnapshot { places, state, position })
    }

    fn shape(&self, file: &Committed) -> Result<&Shape> {
        self.state
            .shapes
            .get(&file.shape)
            .ok_or_else(|| Error::corrupt(format!("log record {}: a file of unknown shape", file.record)))
    }

    /// Per file, the rows that are the table's state; `keys` are held at once.
    pub(crate) fn winners_of(&self, table: &TableSchema, keys: u64) -> Result<Vec<BooleanBuffer>> {
        let files: Vec<&Committed> = self.state.files_of(&table.name).collect();
        let mut bits = no_bits(&files)?;
        let passes = passes(&files, keys);
        for pass in 0..passes {
            let mut last: HashMap<u128, Last> = HashMap::new();
            let mut truncated: Option<Place> = None;
            for (at, file) in (0u32..).zip(&files) {
                self.last_rows(table, file, at, &|hash| (hash >> 64) % passes == pass, &mut last, &mut truncated)?;
            }
            for row in last.into_values().filter(|l| !l.deleted && truncated.is_none_or(|t| l.place > t)) {
                if let Some(bits) = bits.get_mut(row.file as usize) {
                    bits.set_bit(row.row as usize, true);
                }
            }
        }
        Ok(bits.iter_mut().map(BooleanBufferBuilder::finish).collect())
    }

    fn last_rows(
        &self,
        table: &TableSchema,
        file: &Committed,
        at: u32,
        mine: &dyn Fn(u128) -> bool,
        last: &mut HashMap<u128, Last>,
        truncated: &mut Option<Place>,
    ) -> Result<()> {
        let evolution = Evolution::new(&self.state, self.shape(file)?, table, &table.key)?;
        let fields: Vec<Field> = table.key_columns().map(|c| Field::new(&c.name, c.logical.arrow(), true)).collect();
        let schema = Arc::new(Schema::new(fields));
        let mut row = 0u32;
        let columns = evolution.reads().chain([META[0], META[2], META[3]]);
        read(&self.places, &table.name, file, columns, &mut |batch| {
            let (ops, seqs, ordinals) = (ops(&batch)?, meta(&batch, META[2])?, meta(&batch, META[3])?);
            let (seqs, ordinals) = (integers(seqs, META[2])?, integers(ordinals, META[3])?);
            let keys = RecordBatch::try_new(Arc::clone(&schema), evolution.apply(&batch)?)
                .map_err(|e| Error::corrupt(format!("table {}: keys form no batch", table.name)).caused_by(e))?;
            let mut hasher = RowHasher::new(&keys)?;
            for i in 0..batch.num_rows() {
                let place = (seqs.value(i), ordinals.value(i));
                let deleted = match ops.value(i) {
                    "t" => {
                        *truncated = Some(truncated.map_or(place, |t| t.max(place)));
                        row += 1;
                        continue;
                    }
                    "d" => true,
                    "c" | "i" | "u" => false,
                    other => return Err(Error::corrupt(format!("a row's _op is {other:?}"))),
                };
                let hash = hasher.hash(i);
                if mine(hash) {
                    let here = Last { place, file: at, row, deleted };
                    let known = last.entry(hash).or_insert(Last { place: (i64::MIN, i64::MIN), ..here });
                    if place >= known.place {
                        *known = Last { place, file: at, row, deleted };
                    }
                }
                row += 1;
            }
            Ok(())
        })
    }

    /// Hands over the marked rows of a file.
    fn emit(
        &self,
        table: &TableSchema,
        file: &Committed,
        rows: &BooleanBuffer,
        sink: &mut dyn FnMut(RecordBatch) -> Result<()>,
    ) -> Result<()> {
        let all: Vec<usize> = (0..table.columns.len()).collect();
        let evolution = Evolution::new(&self.state, self.shape(file)?, table, &all)?;
        let mut from = 0;
        read(&self.places, &table.name, file, evolution.reads().chain([META[0]]), &mut |batch| {
            let here = BooleanArray::new(rows.slice(from, batch.num_rows()), None);
            from += batch.num_rows();
            if here.true_count() == 0 {
                return Ok(());
            }
            let kept = arrow_select::filter::filter_record_batch(&batch, &here)
                .map_err(|e| Error::corrupt(format!("table {}: rows of a file", table.name)).caused_by(e))?;
            let batch = RecordBatch::try_new(table.arrow(), evolution.apply(&kept)?)
                .map_err(|e| Error::corrupt(format!("table {}: columns form no batch", table.name)).caused_by(e))?;
            sink(batch)
        })
    }
}

impl Snapshot for LogSnapshot {
    fn position(&self) -> &Position {
        &self.position
    }

    /// Files have no server that could be asked.
    fn totals(&mut self, _: &TableSchema) -> Result<Option<Totals>> {
        Ok(None)
    }

    fn ask(&mut self, _: &str) -> Result<Option<String>> {
        Err(figure::mute("a Parquet target"))
    }

    /// Foreign keys are no part of files.
    fn orphans(&mut self, _: &TableSchema, _: &[Arc<TableSchema>]) -> Result<Option<Vec<Orphans>>> {
        Ok(None)
    }

    /// One range: files are not sorted by key, so a part of a table costs as much as all of it.
    fn split(&mut self, _table: &TableSchema, _rows: u64) -> Result<Vec<KeyRange>> {
        Ok(vec![KeyRange::ALL])
    }

    fn scan(
        &mut self,
        table: &TableSchema,
        range: &KeyRange,
        sink: &mut dyn FnMut(RecordBatch) -> Result<()>,
    ) -> Result<()> {
        if *range != KeyRange::ALL {
            return Err(Error::corrupt(format!("table {}: a range of keys that no split of files made", table.name)));
        }
        let files: Vec<&Committed> = self.state.files_of(&table.name).collect();
        let winners = match table.key.is_empty() {
            true => bag::remaining(self, table, KEYS)?,
            false => self.winners_of(table, KEYS)?,
        };
        for (file, rows) in files.into_iter().zip(&winners) {
            if rows.count_set_bits() > 0 {
                self.emit(table, file, rows, sink)?;
            }
        }
        Ok(())
    }
}

/// One bit per row of each file, none set.
fn no_bits(files: &[&Committed]) -> Result<Vec<BooleanBufferBuilder>> {
    let none = |file: &&Committed| {
        let rows = u32::try_from(file.rows).map_err(|e| Error::corrupt("a file of 2^32 rows").caused_by(e))?;
        let mut bits = BooleanBufferBuilder::new(rows as usize);
        bits.append_n(rows as usize, false);
        Ok(bits)
    };
    files.iter().map(none).collect()
}

/// How often the files are read, when so many hashes are held at once.
fn passes(files: &[&Committed], keys: u64) -> u128 {
    u128::from(files.iter().map(|f| f.rows).sum::<u64>().div_ceil(keys).max(1))
}

fn meta<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a arrow_array::ArrayRef> {
    batch.column_by_name(name).ok_or_else(|| Error::corrupt(format!("a file has no column {name}")))
}

fn ops(batch: &RecordBatch) -> Result<&StringArray> {
    let ops = meta(batch, META[0])?.as_string_opt::<i32>();
    ops.ok_or_else(|| Error::corrupt(format!("a file's column {} is not text", META[0])))
}
