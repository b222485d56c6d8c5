//! A replica made of hashes: what a target would hold, and whether it equals the source.

#![allow(dead_code)] // each test binary uses its part

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::RecordBatch;
use crossfade_core::fingerprint::RowHasher;
use crossfade_core::{
    Batch, Boundary, Consistency, Endpoint, Item, KeyRange, Limit, Omissions, Op, Position, Selection, Source, Stream,
    TableName, TableSchema,
};
use rusqlite::Connection;

/// Rows by the hash of their key.
pub type Rows = BTreeMap<u128, u128>;

/// A database file in a temporary folder.
pub struct Db {
    pub dir: tempfile::TempDir,
    pub source: Arc<dyn Source>,
}

impl Db {
    /// A new database with these statements run in it.
    pub fn new(sql: &str) -> Db {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shop.db");
        Connection::open(&path).unwrap().execute_batch(sql).unwrap();
        let source = crossfade_sqlite::open(&endpoint(&path), Omissions::default()).unwrap();
        Db { dir, source }
    }

    pub fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("shop.db")
    }

    /// A connection as the application has one.
    pub fn app(&self) -> Connection {
        let conn = Connection::open(self.path()).unwrap();
        conn.busy_timeout(Duration::from_secs(5)).unwrap();
        conn
    }

    pub fn tables(&self) -> Vec<Arc<TableSchema>> {
        self.source.tables(&Selection::default()).unwrap()
    }
}

pub fn endpoint(path: &std::path::Path) -> Endpoint {
    Endpoint::new(format!("sqlite://{}", path.display()), None)
}

/// A limit that ends soon.
pub fn limit(bytes: usize, rows: usize) -> Limit {
    Limit { deadline: Instant::now() + Duration::from_millis(20), bytes, rows, until: None }
}

/// The hashes of rows: key and whole.
pub fn hashes(table: &TableSchema, batch: &RecordBatch) -> Vec<(u128, u128)> {
    let keys = batch.project(&table.key).unwrap();
    let (mut key, mut row) = (RowHasher::new(&keys).unwrap(), RowHasher::new(batch).unwrap());
    (0..batch.num_rows()).map(|i| (key.hash(i), row.hash(i))).collect()
}

/// Tables as a target would hold them.
#[derive(Default, Debug)]
pub struct Replica {
    pub rows: BTreeMap<TableName, Rows>,
    pub shapes: BTreeMap<TableName, Arc<TableSchema>>,
    pub at: Option<Position>,
    /// Tables in which an insert must be new and an update must not.
    pub strict: &'static str,
}

impl Replica {
    /// The tables as a snapshot has them.
    pub fn copy(source: &dyn Source, tables: &[Arc<TableSchema>]) -> Replica {
        let mut snapshot = source.snapshot(tables, Consistency::Exact).unwrap();
        let mut replica = Replica { at: Some(snapshot.position().clone()), ..Replica::default() };
        for table in tables {
            let rows = replica.rows.entry(table.name.clone()).or_default();
            let mut sink = |b: RecordBatch| {
                rows.extend(hashes(table, &b));
                Ok(())
            };
            snapshot.scan(table, &KeyRange::ALL, &mut sink).unwrap();
            replica.shapes.insert(table.name.clone(), Arc::clone(table));
        }
        replica
    }

    /// Applies a batch.
    pub fn apply(&mut self, batch: &Batch) {
        let mut seen = std::collections::BTreeSet::new();
        for item in &batch.items {
            match item {
                Item::Rows(rows) => {
                    let held = self.rows.get_mut(&rows.table.name).unwrap();
                    for (i, (key, row)) in hashes(&rows.table, &rows.batch).into_iter().enumerate() {
                        assert!(seen.insert(rows.order[i]), "an order stands twice");
                        match rows.ops[i] {
                            Op::Delete => {
                                held.remove(&key);
                            }
                            op => {
                                let before = held.insert(key, row);
                                if self.strict.contains(&*rows.table.name.name) {
                                    assert_eq!(before.is_some(), op == Op::Update, "{op:?} in {}", rows.table.name);
                                }
                            }
                        }
                    }
                }
                Item::Schema(change) => {
                    self.shapes.insert(change.to.name.clone(), Arc::clone(&change.to));
                }
                Item::Truncate(table) => self.rows.get_mut(&table.name).unwrap().clear(),
            }
        }
        if let Boundary::Commit(position) = &batch.end {
            self.at = Some(position.clone());
        }
    }

    /// Applies all there is up to a position.
    pub fn follow(&mut self, stream: &mut dyn Stream, until: &Position, bytes: usize, rows: usize) {
        let mut limit = Limit { until: Some(until.clone()), ..limit(bytes, rows) };
        loop {
            limit.deadline = Instant::now() + Duration::from_secs(5);
            let batch = stream.next(&limit).unwrap().expect("the stream reaches its end");
            self.apply(&batch);
            if batch.end == Boundary::Commit(until.clone()) {
                return;
            }
        }
    }
}
