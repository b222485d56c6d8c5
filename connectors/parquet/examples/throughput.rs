//! How many rows a second are written and committed: 11 columns of mixed types, batches of 10,000 rows, a commit every 50.
//!
//! `cargo run --release -p crossfade-parquet --example throughput -- file:///var/tmp/lake 2000000`

use std::sync::Arc;
use std::time::Instant;

use crossfade_core::{
    Batch, Boundary, Checkpoint, Column, ColumnBuilder, Endpoint, Fingerprint, Item, KeyRange, Logical, Op, Owner,
    Phase, Position, RowsBuilder, TableName, TableSchema,
};

const BATCH: u64 = 10_000;
const COMMIT: u64 = 50;

fn table() -> Arc<TableSchema> {
    let types = [
        ("id", Logical::Int64),
        ("customer", Logical::UInt32),
        ("serial", Logical::UInt64),
        ("amount", Logical::Decimal { precision: 12, scale: 2 }),
        ("name", Logical::Text),
        ("email", Logical::Text),
        ("note", Logical::Json),
        ("rate", Logical::Float64),
        ("paid", Logical::Bool),
        ("day", Logical::Date),
        ("at", Logical::Timestamp),
    ];
    let column = |(name, logical): (&str, Logical)| Column {
        name: name.into(),
        source_type: String::new(),
        logical,
        nullable: true,
        auto_increment: false,
        number: 0,
        policies: Default::default(),
    };
    Arc::new(TableSchema {
        name: TableName::new("bench", "orders"),
        version: 1,
        columns: types.into_iter().map(column).collect(),
        key: vec![0],
        indexes: vec![],
        foreign_keys: vec![],
        origin: None,
        pending: vec![],
        number: 0,
    })
}

fn batch(table: &Arc<TableSchema>, from: u64) -> crossfade_core::Result<Batch> {
    let mut b = RowsBuilder::new(Arc::clone(table));
    for i in from..from + BATCH {
        let mixed = i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for column in &mut b.columns {
            match column {
                ColumnBuilder::Int64(b) => b.append_value(i as i64),
                ColumnBuilder::UInt32(b) => b.append_value((mixed >> 40) as u32),
                ColumnBuilder::UInt64(b) => b.append_value(mixed),
                ColumnBuilder::Decimal128(b) => b.append_value(i128::from(mixed >> 36)),
                ColumnBuilder::Utf8(b) if i % 11 == 3 => b.append_null(),
                ColumnBuilder::Utf8(b) => b.append_value(format!("customer {:x}", mixed >> 44)),
                ColumnBuilder::Float64(b) => b.append_value((mixed >> 50) as f64 / 7.0),
                ColumnBuilder::Bool(b) => b.append_value(mixed & 1024 != 0),
                ColumnBuilder::Date(b) => b.append_value(19_000 + (i / 5000) as i32),
                ColumnBuilder::Timestamp(b) => b.append_value(1_700_000_000_000_000 + i as i64 * 1000),
                other => other.append_null(),
            }
        }
        b.end_row(Op::Insert, 1_700_000_000_000_000 + from as i64, (i - from) as u32);
    }
    let end = Boundary::Commit(Position::new((from + BATCH).to_string()));
    Ok(Batch { items: vec![Item::Rows(b.finish()?)], end, commit_micros: None })
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let url = args.next().ok_or("a URL")?;
    let rows: u64 = args.next().ok_or("a number of rows")?.parse()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let target = crossfade_parquet::open(&Endpoint::new(url, None), runtime.handle().clone())?;
    let table = table();
    // Made before the clock starts; every batch is written several times under other positions.
    let batches: Vec<Batch> = (0..COMMIT).map(|n| batch(&table, n * BATCH)).collect::<Result<_, _>>()?;
    let owner = Owner { pipeline: "bench".into(), host: "bench".into(), pid: std::process::id() };
    let mut writer = target.open(&owner)?;
    writer.prepare(std::slice::from_ref(&table))?;
    let epoch = writer.epoch();
    let started = Instant::now();
    let (mut written, mut seq, mut committing) = (0, writer.checkpoint().map_or(0, |c| c.seq), 0.0);
    while written < rows {
        for batch in &batches {
            writer.write(batch)?;
            written += BATCH;
        }
        seq += 1;
        let before = Instant::now();
        let position = Position::new(seq.to_string());
        writer.commit(&Checkpoint { seq, position, phase: Phase::Streaming, epoch, commit_micros: None })?;
        committing += before.elapsed().as_secs_f64();
    }
    let seconds = started.elapsed().as_secs_f64();
    println!("{written} rows in {seconds:.2} s: {:.0} rows/s, commits {committing:.2} s", written as f64 / seconds);

    let started = Instant::now();
    let mut fingerprint = Fingerprint::default();
    let mut snapshot = target.snapshot("bench", std::slice::from_ref(&table))?;
    snapshot.scan(&table, &KeyRange::ALL, &mut |batch| fingerprint.add(&batch))?;
    let seconds = started.elapsed().as_secs_f64();
    println!("latest state: {} rows out of {written} in {seconds:.2} s", fingerprint.rows);
    Ok(())
}
