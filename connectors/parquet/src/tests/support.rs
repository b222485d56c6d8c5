//! A table, its changes, and a model of what they make.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, UInt64Type};
use crossfade_core::{
    Batch, Boundary, Checkpoint, Column, ColumnBuilder, Item, KeyRange, Logical, Op, Owner, Phase, Position, Rows,
    RowsBuilder, TableName, TableSchema, Target,
};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::faults::{Death, Faulty};
use crate::store::Store;
use crate::target::ParquetTarget;

pub(super) fn column(name: &str, logical: Logical) -> Column {
    Column {
        name: name.into(),
        source_type: format!("{logical:?}"),
        logical,
        nullable: true,
        auto_increment: false,
        number: 0,
        policies: Default::default(),
    }
}

pub(super) fn table_of(name: &str, columns: Vec<Column>) -> Arc<TableSchema> {
    Arc::new(TableSchema {
        name: TableName::new("shop", name),
        version: 1,
        columns,
        key: vec![0],
        indexes: vec![],
        foreign_keys: vec![],
        origin: None,
        pending: vec![],
        number: 0,
    })
}

/// `id` and `n`.
pub(super) fn table(name: &str) -> Arc<TableSchema> {
    table_of(name, vec![column("id", Logical::Int64), column("n", Logical::UInt64)])
}

/// A change of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Put(Op, i64, u64),
    Delete(i64),
    Truncate,
}

/// What a table holds.
pub(super) type Model = BTreeMap<i64, u64>;

pub(super) fn apply(model: &mut Model, changes: &[Change]) {
    for change in changes {
        match *change {
            Change::Put(_, id, n) => drop(model.insert(id, n)),
            Change::Delete(id) => drop(model.remove(&id)),
            Change::Truncate => model.clear(),
        }
    }
}

/// The items of these changes; `order` counts over the batch.
pub(super) fn items(table: &Arc<TableSchema>, changes: &[Change], order: &mut u32) -> Vec<Item> {
    let mut items = Vec::new();
    let mut rows = RowsBuilder::new(Arc::clone(table));
    let flush = |rows: &mut RowsBuilder, items: &mut Vec<Item>| {
        if !rows.is_empty() {
            items.push(Item::Rows(rows.finish().unwrap()));
        }
    };
    for change in changes {
        let (op, id, n) = match *change {
            Change::Put(op, id, n) => (op, id, Some(n)),
            Change::Delete(id) => (Op::Delete, id, None),
            Change::Truncate => {
                flush(&mut rows, &mut items);
                items.push(Item::Truncate(Arc::clone(table)));
                continue;
            }
        };
        let ColumnBuilder::Int64(ids) = &mut rows.columns[0] else { unreachable!() };
        ids.append_value(id);
        let ColumnBuilder::UInt64(ns) = &mut rows.columns[1] else { unreachable!() };
        ns.append_option(n);
        rows.end_row(op, 1_700_000_000_000_000, *order);
        *order += 1;
    }
    flush(&mut rows, &mut items);
    items
}

pub(super) fn rows(table: &Arc<TableSchema>, changes: &[Change]) -> Rows {
    match items(table, changes, &mut 0).remove(0) {
        Item::Rows(rows) => rows,
        other => panic!("{other:?}"),
    }
}

pub(super) fn batch(items: Vec<Item>, position: u64) -> Batch {
    Batch { items, end: Boundary::Commit(at(position)), commit_micros: Some(1_700_000_000_000_000) }
}

pub(super) fn at(position: u64) -> Position {
    Position::new(position.to_string())
}

pub(super) fn checkpoint(seq: u64, epoch: u64, position: u64) -> Checkpoint {
    Checkpoint { seq, position: at(position), phase: Phase::Streaming, epoch, commit_micros: None }
}

pub(super) fn owner() -> Owner {
    Owner { pipeline: "p".into(), host: "here".into(), pid: std::process::id() }
}

/// A folder, and targets on it.
pub(super) struct Lab {
    pub(super) folder: TempDir,
    runtime: Runtime,
}

impl Lab {
    pub(super) fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        // In memory where there is such a place: every commit syncs, and a test makes thousands.
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        Lab { folder, runtime }
    }

    /// The store that [`Lab::target`] is on.
    pub(super) fn store(&self, death: Death) -> (Store, Arc<Faulty>) {
        let faulty = Faulty::new(Arc::new(LocalFileSystem::new()), death);
        let root = Path::from_absolute_path(self.folder.path()).unwrap();
        let local = Some(self.folder.path().to_path_buf());
        (Store::new(Arc::clone(&faulty) as _, self.runtime.handle().clone(), root, local), faulty)
    }

    /// A target whose store dies as told.
    pub(super) fn target(&self, death: Death) -> (ParquetTarget, Arc<Faulty>) {
        let (store, faulty) = self.store(death);
        (ParquetTarget::new(store), faulty)
    }

    pub(super) fn healthy_store(&self) -> Store {
        self.store(Death::Never).0
    }

    pub(super) fn healthy(&self) -> ParquetTarget {
        self.target(Death::Never).0
    }

    /// The files that a reader finds in a table's folder.
    pub(super) fn listed(&self, table: &TableSchema) -> Vec<std::path::PathBuf> {
        let folder = self.folder.path().join(&table.name.schema).join(&table.name.name);
        let mut files: Vec<_> = folder.read_dir().into_iter().flatten().map(|e| e.unwrap().path()).collect();
        files.sort();
        files
    }

    /// Rows of a table's folder as a reader finds them: (op, seq, ordinal, id), sorted by place.
    pub(super) fn rows(&self, table: &TableSchema) -> Vec<(i64, i64, String, Option<i64>)> {
        let mut found = Vec::new();
        for path in self.listed(table) {
            let file = std::fs::File::open(&path).unwrap();
            let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReader::try_new(file, 1024).unwrap();
            for batch in reader {
                let batch = batch.unwrap();
                let (op, id) = (batch.column(0).as_string::<i32>(), batch.column(4).as_primitive::<Int64Type>());
                let (seq, ordinal) = (batch.column(2).as_primitive::<Int64Type>(), batch.column(3));
                let ordinal = ordinal.as_primitive::<Int64Type>();
                for i in 0..batch.num_rows() {
                    let id = (!arrow_array::Array::is_null(id, i)).then(|| id.value(i));
                    found.push((seq.value(i), ordinal.value(i), op.value(i).to_owned(), id));
                }
            }
        }
        found.sort();
        found
    }
}

/// All batches of a table's snapshot, and its position.
pub(super) fn scan(target: &dyn Target, table: &Arc<TableSchema>) -> (Position, Vec<RecordBatch>) {
    let mut snapshot = target.snapshot("p", std::slice::from_ref(table)).unwrap();
    let mut batches = Vec::new();
    let ranges = snapshot.split(table, 1000).unwrap();
    assert_eq!(ranges, [KeyRange::ALL]);
    let mut sink = |batch| {
        batches.push(batch);
        Ok(())
    };
    snapshot.scan(table, &ranges[0], &mut sink).unwrap();
    (snapshot.position().clone(), batches)
}

/// The state of a table of [`table`]'s shape.
pub(super) fn state(target: &dyn Target, table: &Arc<TableSchema>) -> Model {
    let mut model = Model::new();
    for batch in scan(target, table).1 {
        let (ids, ns) = (batch.column(0).as_primitive::<Int64Type>(), batch.column(1).as_primitive::<UInt64Type>());
        for i in 0..batch.num_rows() {
            assert_eq!(model.insert(ids.value(i), ns.value(i)), None, "a key is there twice");
        }
    }
    model
}
