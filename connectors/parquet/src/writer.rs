//! The writer: batches become files in the staging area, and a commit makes them part of the log.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow_array::builder::StringBuilder;
use crossfade_core::batch::SchemaStep;
use crossfade_core::{
    Batch, Checkpoint, ChunkState, Error, Item, KeyRange, Op, Phase, Position, Result, Rows, SchemaChange, Suspension,
    TableName, TableSchema, Writer,
};

use crate::check;
use crate::evolve;
use crate::file::{TableFile, Unfinished, complete};
use crate::lease::Lease;
use crate::log::{Log, Places};
use crate::record::{Entry, Shape, Staged, Step};
use crate::types::Meta;

/// Encoded rows that may be held in memory, of all tables together. Beyond, the largest file is ended early.
const MEMORY: usize = 96 << 20;

/// See [`Writer`].
pub(crate) struct ParquetWriter {
    places: Places,
    log: Arc<Mutex<Log>>,
    lease: Lease,
    epoch: u64,
    checkpoint: Option<Checkpoint>,
    open: Transaction,
    /// A write failed half way: what is staged is not whole and must not be committed.
    broken: bool,
}

/// What has been written since the last commit.
#[derive(Default)]
struct Transaction {
    /// One a table.
    files: HashMap<TableName, TableFile>,
    /// Files that take no more rows.
    ended: Vec<Staged>,
    /// Shapes of this transaction: the last of a table is its shape now.
    shapes: Vec<Shape>,
    /// The `_ordinal` from which the next batch counts: greater than all so far.
    ordinal: i64,
    /// The last `_ordinal` of each table.
    last: HashMap<TableName, i64>,
}

impl Transaction {
    /// Gives a table's next change its place: `wanted`, or what comes after the one before.
    ///
    /// Items stand in log order, and so do the rows of one; a place is therefore never less than the last, whatever the
    /// rows' own `order` says.
    fn places(&mut self, table: &TableName, wanted: impl Iterator<Item = i64>) -> Vec<i64> {
        let last = self.last.entry(table.clone()).or_insert(-1);
        let next = |wanted: i64| {
            *last = wanted.max(*last + 1);
            *last
        };
        let places: Vec<i64> = wanted.map(next).collect();
        self.ordinal = self.ordinal.max(*last + 1);
        places
    }
}

/// Locks a log. A panic elsewhere while it was locked left it `failed`, which every use checks.
pub(crate) fn lock(log: &Mutex<Log>) -> MutexGuard<'_, Log> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ParquetWriter {
    pub(crate) fn new(log: Arc<Mutex<Log>>, lease: Lease) -> Self {
        let (places, epoch, checkpoint) = {
            let log = lock(&log);
            (log.places().clone(), log.epoch(), log.state().checkpoint.clone())
        };
        ParquetWriter { places, log, lease, epoch, checkpoint, open: Transaction::default(), broken: false }
    }

    /// The `_seq` of what is written now.
    fn seq(&self) -> Result<i64> {
        seq(self.checkpoint.as_ref().map_or(0, |c| c.seq))
    }

    /// The shape that a table has at this point of the transaction.
    fn shape(&self, table: &TableName) -> Option<Shape> {
        let here = self.open.shapes.iter().rev().find(|s| s.table.name == *table).cloned();
        here.or_else(|| lock(&self.log).state().current(table).cloned())
    }

    /// The file that takes the table's rows. Its shape must be the one in which rows come.
    fn file(&mut self, table: &TableSchema) -> Result<&mut TableFile> {
        let shape = self.shape(&table.name).ok_or_else(|| {
            Error::corrupt(format!("rows of table {} came before the table was prepared", table.name))
        })?;
        if !same_columns(&shape.table, table) {
            return Err(Error::corrupt(format!(
                "rows of table {} came in a shape that no schema change told",
                table.name
            ))
            .hint("start again; if it stays so, copy the table again with `crossfade snapshot TABLE`"));
        }
        let full = self.open.files.get(&table.name).is_some_and(|f| f.is_full() || f.shape() != shape.id);
        if full {
            self.end(&table.name)?;
        }
        if !self.open.files.contains_key(&table.name) {
            let file = TableFile::new(&self.places, &shape, lock(&self.log).owner())?;
            self.open.files.insert(table.name.clone(), file);
        }
        self.open
            .files
            .get_mut(&table.name)
            .ok_or_else(|| Error::corrupt(format!("table {} has no open file", table.name)))
    }

    /// Ends a table's file.
    fn end(&mut self, table: &TableName) -> Result<()> {
        if let Some(file) = self.open.files.remove(table) {
            self.open.ended.extend(complete(&self.places, vec![file.finish()?])?);
        }
        Ok(())
    }

    /// Ends the largest files until what is held is within bounds.
    fn trim(&mut self) -> Result<()> {
        while self.open.files.values().map(TableFile::held).sum::<usize>() > MEMORY {
            let largest = self.open.files.iter().max_by_key(|(_, f)| f.held()).map(|(name, _)| name.clone());
            match largest {
                Some(name) => self.end(&name)?,
                None => break,
            }
        }
        Ok(())
    }

    /// `base` is the ordinal of the rows whose `order` is 0.
    fn write_rows(&mut self, rows: &Rows, base: i64) -> Result<()> {
        refuse_absent(rows)?;
        let mut op = StringBuilder::with_capacity(rows.len(), rows.len());
        for o in &rows.ops {
            op.append_value(match o {
                Op::Insert => "i",
                Op::Update => "u",
                Op::Delete => "d",
            });
        }
        let meta = Meta {
            op,
            commit_time: rows.commit_micros.iter().map(|&t| Some(t)).collect(),
            seq: self.seq()?,
            ordinal: self.open.places(&rows.table.name, rows.order.iter().map(|&o| base + i64::from(o))),
        };
        let places = self.places.clone();
        self.file(&rows.table)?.write(&places, meta, &rows.batch)?;
        self.trim()
    }

    fn write_truncate(&mut self, table: &TableSchema, commit_micros: Option<i64>) -> Result<()> {
        let mut op = StringBuilder::new();
        op.append_value("t");
        let ordinal = self.open.places(&table.name, std::iter::once(self.open.ordinal));
        let meta = Meta { op, commit_time: vec![commit_micros], seq: self.seq()?, ordinal };
        let places = self.places.clone();
        self.file(table)?.write_bare(&places, meta)
    }

    fn write_schema(&mut self, change: &SchemaChange) -> Result<()> {
        check::refuse(&change.to).map_err(|e| e.concerning(&change.to.name))?;
        let before = self.shape(&change.to.name).ok_or_else(|| {
            Error::corrupt(format!("table {} changed its shape before it was prepared", change.to.name))
        })?;
        if change.from.name != change.to.name {
            return Err(Error::data(&change.from.name, format!("the table was renamed to {}", change.to.name))
                .hint("exclude the table, or start a new pipeline with it under its new name"));
        }
        evolve::refuse(change)?;
        self.end(&change.to.name)?;
        let id = self.next_shape();
        let steps = change.steps.iter().map(|s: &SchemaStep| Step::from(s)).collect();
        self.open.shapes.push(Shape { id, table: Arc::clone(&change.to), from: Some((before.id, steps)) });
        Ok(())
    }

    fn next_shape(&self) -> u32 {
        let committed = lock(&self.log).state().next_shape();
        self.open.shapes.last().map_or(committed, |s| committed.max(s.id + 1))
    }

    fn write_items(&mut self, batch: &Batch) -> Result<()> {
        let base = self.open.ordinal;
        for item in &batch.items {
            match item {
                Item::Rows(rows) => self.write_rows(rows, base)?,
                Item::Schema(change) => self.write_schema(change)?,
                Item::Truncate(table) => self.write_truncate(table, batch.commit_micros)?,
            }
        }
        Ok(())
    }

    fn refuse_broken(&self) -> Result<()> {
        if self.broken {
            return Err(Error::transient("an earlier write failed: the pipeline must be opened again"));
        }
        self.lease.check()
    }
}

impl Writer for ParquetWriter {
    fn epoch(&self) -> u64 {
        self.epoch
    }

    fn checkpoint(&self) -> Option<&Checkpoint> {
        self.checkpoint.as_ref()
    }

    fn tables(&mut self) -> Result<Vec<Arc<TableSchema>>> {
        Ok(lock(&self.log).state().tables())
    }

    fn prepare(&mut self, tables: &[Arc<TableSchema>]) -> Result<()> {
        self.refuse_broken()?;
        let mut shapes: Vec<Shape> = Vec::new();
        for table in tables {
            check::refuse(table)?;
            let from = match self.shape(&table.name) {
                Some(known) if *known.table == **table => continue,
                Some(known) if same_columns(&known.table, table) && known.table.key == table.key => {
                    Some((known.id, Vec::new()))
                }
                Some(_) => {
                    return Err(Error::data(&table.name, "its columns or key are not those that were copied").hint(
                        "empty the target's folder and copy again: a change of shape passes only while the stream runs",
                    ));
                }
                None => {
                    self.refuse_foreign_files(&table.name)?;
                    None
                }
            };
            let id = shapes.last().map_or_else(|| self.next_shape(), |s| s.id + 1);
            shapes.push(Shape { id, table: Arc::clone(table), from });
        }
        match shapes.is_empty() {
            true => Ok(()),
            false => lock(&self.log).append(Entry::Shapes(shapes)),
        }
    }

    fn plan(&mut self, table: &TableName, ranges: &[KeyRange]) -> Result<()> {
        self.refuse_broken()?;
        let mut log = lock(&self.log);
        if log.state().chunks.iter().any(|c| c.table == *table) {
            return Err(Error::corrupt(format!("the copy of table {table} is planned already")));
        }
        log.append(Entry::Plan { table: table.clone(), ranges: ranges.to_vec() })
    }

    fn chunks(&mut self) -> Result<Vec<ChunkState>> {
        Ok(lock(&self.log).state().chunks.clone())
    }

    fn write(&mut self, batch: &Batch) -> Result<()> {
        self.refuse_broken()?;
        self.broken = true;
        self.write_items(batch)?;
        self.broken = false;
        Ok(())
    }

    fn commit(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        self.refuse_broken()?;
        let next = self.checkpoint.as_ref().map_or(0, |c| c.seq) + 1;
        if (checkpoint.seq, checkpoint.epoch) != (next, self.epoch) {
            return Err(Error::corrupt(format!(
                "checkpoint {} of epoch {} was to be committed where {next} of epoch {} follows",
                checkpoint.seq, checkpoint.epoch, self.epoch
            )));
        }
        self.broken = true;
        let open = std::mem::take(&mut self.open);
        let last: Vec<Unfinished> = open.files.into_values().map(TableFile::finish).collect::<Result<_>>()?;
        let mut files = open.ended;
        files.extend(complete(&self.places, last)?);
        lock(&self.log).append(Entry::Commit { checkpoint: checkpoint.clone(), shapes: open.shapes, files })?;
        self.checkpoint = Some(checkpoint.clone());
        self.broken = false;
        Ok(())
    }

    fn copy_again(&mut self, table: &Arc<TableSchema>, since: &Position) -> Result<()> {
        self.refuse_broken()?;
        check::refuse(table)?;
        let Some(last) = self.checkpoint.clone().filter(|_| self.open.files.is_empty() && self.open.ended.is_empty())
        else {
            return Err(Error::corrupt("a table is to be copied again before the first checkpoint, or inside a batch"));
        };
        if self.shape(&table.name).is_none() {
            self.refuse_foreign_files(&table.name)?;
        }
        self.broken = true;
        let shape = Shape { id: self.next_shape(), table: Arc::clone(table), from: None };
        let mut op = StringBuilder::new();
        op.append_value("t");
        let mut file = TableFile::new(&self.places, &shape, lock(&self.log).owner())?;
        file.write_bare(&self.places, Meta { op, commit_time: vec![None], seq: self.seq()?, ordinal: vec![0] })?;
        let files = complete(&self.places, vec![file.finish()?])?;
        let checkpoint = Checkpoint { seq: last.seq + 1, phase: Phase::Copying, epoch: self.epoch, ..last };
        let (again, since) = (checkpoint.clone(), since.clone());
        lock(&self.log).append(Entry::Again { checkpoint: again, shape, since, files })?;
        self.open = Transaction::default();
        self.checkpoint = Some(checkpoint);
        self.broken = false;
        Ok(())
    }

    fn since(&mut self) -> Result<Vec<(TableName, Position)>> {
        Ok(lock(&self.log).state().since.clone())
    }

    fn suspend(&mut self, table: &TableName, why: &Suspension) -> Result<()> {
        self.refuse_broken()?;
        let Some(last) = self.checkpoint.clone().filter(|_| self.open.files.is_empty() && self.open.ended.is_empty())
        else {
            return Err(Error::corrupt("a table is to be suspended before the first checkpoint, or inside a batch"));
        };
        self.broken = true;
        let checkpoint = Checkpoint { seq: last.seq + 1, epoch: self.epoch, ..last };
        let (table, why) = (table.clone(), why.clone());
        lock(&self.log).append(Entry::Suspend { checkpoint: checkpoint.clone(), table, why })?;
        self.open = Transaction::default();
        self.checkpoint = Some(checkpoint);
        self.broken = false;
        Ok(())
    }

    fn suspended(&mut self) -> Result<Vec<(TableName, Suspension)>> {
        Ok(lock(&self.log).state().suspended.clone())
    }

    /// Files have no indexes, keys or sequences to build.
    fn finish_copy(&mut self, _tables: &[Arc<TableSchema>]) -> Result<()> {
        Ok(())
    }
}

impl ParquetWriter {
    /// A table's folder must hold nothing before the table's first file: readers read all that is in it.
    fn refuse_foreign_files(&self, table: &TableName) -> Result<()> {
        let folder = self.places.table(table);
        match self.places.store.list(&folder, None)?.first() {
            None => Ok(()),
            Some(found) => Err(Error::config(format!(
                "the folder of table {table} holds files that pipeline {} did not write, such as {}",
                self.places.pipeline, found.location
            ))
            .hint("name another folder in the target's URL, or empty this one")),
        }
    }
}

/// A checkpoint's successor as the column `_seq` holds it.
pub(crate) fn seq(last: u64) -> Result<i64> {
    i64::try_from(last + 1).map_err(|e| Error::corrupt("a checkpoint's seq is past 63 bits").caused_by(e))
}

/// Whether rows of one shape are rows of the other.
pub(crate) fn same_columns(a: &TableSchema, b: &TableSchema) -> bool {
    a.columns.len() == b.columns.len()
        && a.columns.iter().zip(&b.columns).all(|(a, b)| a.name == b.name && a.logical == b.logical)
}

/// A row is written whole: there is nothing to merge it with. Of a deleted row the key will do.
fn refuse_absent(rows: &Rows) -> Result<()> {
    for (i, column) in rows.table.columns.iter().enumerate() {
        let Some(Some(bits)) = rows.absent.get(i) else { continue };
        let needed = |row: usize| rows.ops.get(row) != Some(&Op::Delete) || rows.table.key.contains(&i);
        if bits.set_indices().any(needed) {
            return Err(Error::data(&rows.table.name, "the log does not carry the whole row")
                .column(&column.name)
                .hint(
                    "Postgres: ALTER TABLE ... REPLICA IDENTITY FULL; MySQL, MariaDB: SET GLOBAL binlog_row_image = FULL; \
                     then copy the table again with `crossfade snapshot`",
                ));
        }
    }
    Ok(())
}
