//! A pipeline's calls on a target, shared by the tests that talk to servers and readers.

// Each test file is a program of its own and uses a part of this.
#![allow(dead_code)]

use std::sync::Arc;

use crossfade_core::{
    Batch, Boundary, Checkpoint, Chunk, Column, ColumnBuilder, Endpoint, Fingerprint, Item, KeyRange, Logical, Op,
    Owner, Phase, Position, Rows, RowsBuilder, TableName, TableSchema, Target, Writer,
};
use crossfade_harness::{Bucket, S3};
use tokio::runtime::Runtime;

pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

pub fn open(url: &str, runtime: &Runtime) -> Arc<dyn Target> {
    crossfade_parquet::open(&Endpoint::new(url, None), runtime.handle().clone()).unwrap()
}

/// A prefix of a bucket, reached through `endpoint`.
pub fn s3_url(bucket: &Bucket, endpoint: &str) -> String {
    format!(
        "s3://{}/lake/raw?endpoint={endpoint}&region={}&access_key_id={}&secret_access_key={}&allow_http=true",
        bucket.name,
        S3::REGION,
        S3::ACCESS_KEY,
        S3::SECRET_KEY
    )
}

pub fn owner(host: &str, pid: u32) -> Owner {
    Owner { pipeline: "shop".into(), host: host.into(), pid }
}

/// `id`, `total` (unsigned 64), `token` (uuid), `note`, `at`.
pub fn table() -> Arc<TableSchema> {
    let column = |name: &str, logical| Column {
        name: name.into(),
        source_type: String::new(),
        logical,
        nullable: true,
        auto_increment: false,
        number: 0,
        policies: Default::default(),
    };
    Arc::new(TableSchema {
        name: TableName::new("shop", "orders"),
        version: 1,
        columns: vec![
            column("id", Logical::Int64),
            column("total", Logical::UInt64),
            column("token", Logical::Uuid),
            column("note", Logical::Text),
            column("at", Logical::TimestampTz),
        ],
        key: vec![0],
        indexes: vec![],
        foreign_keys: vec![],
        origin: None,
        pending: vec![],
        number: 0,
    })
}

/// A row of each `(op, id, total)`; what else it holds follows from them.
pub fn rows(table: &Arc<TableSchema>, changes: &[(Op, i64, u64)], order: &mut u32) -> Rows {
    let mut b = RowsBuilder::new(Arc::clone(table));
    for &(op, id, total) in changes {
        let whole = op != Op::Delete;
        for column in &mut b.columns {
            match column {
                ColumnBuilder::Int64(b) => b.append_value(id),
                ColumnBuilder::UInt64(b) if whole => b.append_value(total),
                ColumnBuilder::Uuid(b) if whole => b.append_value(u128::from(total).to_be_bytes()).unwrap(),
                ColumnBuilder::Utf8(b) if whole => b.append_value(format!("größe {id} {}", hard(id, total))),
                ColumnBuilder::Timestamp(b) if whole => b.append_value(1_700_000_000_123_456 + id),
                other => other.append_null(),
            }
        }
        b.end_row(op, 1_700_000_000_000_000, *order);
        *order += 1;
    }
    b.finish().unwrap()
}

/// Text that does not compress, so that files grow.
fn hard(id: i64, total: u64) -> String {
    let mut x = (id as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ total;
    (0..4)
        .map(|_| {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            format!("{:016x}", x ^ (x >> 29))
        })
        .collect()
}

/// Writes and commits the next checkpoint, whose position is its number.
pub fn commit(writer: &mut dyn Writer, items: Vec<Item>) -> crossfade_core::Result<()> {
    let seq = writer.checkpoint().map_or(0, |c| c.seq) + 1;
    let position = Position::new(seq.to_string());
    writer.write(&Batch { items, end: Boundary::Commit(position.clone()), commit_micros: None })?;
    let epoch = writer.epoch();
    writer.commit(&Checkpoint { seq, position, phase: Phase::Streaming, epoch, commit_micros: None })
}

/// Copies these rows as the table's only chunk, then streams over it; returns the fingerprint of the state that results.
pub fn fill(target: &dyn Target, writer: &mut dyn Writer, table: &Arc<TableSchema>, copied: i64) -> Fingerprint {
    writer.prepare(std::slice::from_ref(table)).unwrap();
    writer.plan(&table.name, &[KeyRange::ALL]).unwrap();
    let mut loader = target.loader("shop", writer.epoch()).unwrap();
    let low = Position::new("0");
    loader.begin(&Chunk { table: Arc::clone(table), index: 0, range: KeyRange::ALL, low: low.clone() }, false).unwrap();
    let all: Vec<(Op, i64, u64)> = (0..copied).map(|id| (Op::Insert, id, id as u64)).collect();
    for part in all.chunks(10_000) {
        loader.write(&rows(table, part, &mut 0).batch).unwrap();
    }
    // The stream goes on while the chunk is under way: its rows win.
    let mut order = 0;
    let first = rows(table, &[(Op::Update, 1, u64::MAX), (Op::Delete, 2, 0)], &mut order);
    commit(writer, vec![Item::Rows(first)]).unwrap();
    loader.commit(&low).unwrap();
    let second = rows(table, &[(Op::Insert, -1, 5), (Op::Update, -1, 6), (Op::Delete, 3, 0)], &mut 0);
    commit(writer, vec![Item::Rows(second)]).unwrap();

    let mut state: Vec<(Op, i64, u64)> = all.into_iter().filter(|r| ![1, 2, 3].contains(&r.1)).collect();
    state.extend([(Op::Insert, 1, u64::MAX), (Op::Insert, -1, 6)]);
    let mut fingerprint = Fingerprint::default();
    fingerprint.add(&rows(table, &state, &mut 0).batch).unwrap();
    fingerprint
}

/// The fingerprint of the table's state as the target's snapshot has it.
pub fn fingerprint(target: &dyn Target, table: &Arc<TableSchema>) -> Fingerprint {
    let mut snapshot = target.snapshot("shop", std::slice::from_ref(table)).unwrap();
    let mut fingerprint = Fingerprint::default();
    let mut sink = |batch: arrow_array::RecordBatch| fingerprint.add(&batch);
    snapshot.scan(table, &KeyRange::ALL, &mut sink).unwrap();
    fingerprint
}
