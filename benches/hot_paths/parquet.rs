//! Arrow columns into a committed Parquet file: encoding, compression, staging, the commit's record, publication.
//!
//! Measured through the target's own interface, so the disk's syncs are part of it; `TMPDIR=/dev/shm` leaves them out.

use criterion::{BatchSize, Criterion, Throughput};
use crossfade_core::{Batch, Boundary, Checkpoint, Endpoint, Item, Owner, Phase, Position};

use crate::{binlog, data};

/// One batch a commit.
pub fn bench(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let endpoint = Endpoint::new(format!("file://{}", folder.path().display()), None);
    let target = crossfade_parquet::open(&endpoint, runtime.handle().clone()).expect("a folder as a target");
    let owner = Owner { pipeline: "bench".into(), host: "localhost".into(), pid: std::process::id() };
    let mut writer = target.open(&owner).expect("nobody else has it open");
    writer.prepare(&[data::table()]).expect("types that Parquet has");
    let mut checkpoint = Checkpoint {
        seq: 1,
        position: Position::new("1"),
        phase: Phase::Streaming,
        epoch: writer.epoch(),
        commit_micros: None,
    };
    writer.commit(&checkpoint).expect("a first checkpoint");
    let items = vec![Item::Rows(binlog::rows())];
    let mut group = criterion.benchmark_group("parquet");
    group.throughput(Throughput::Elements(data::ROWS as u64));
    group.bench_function("write and commit", |bencher| {
        bencher.iter_batched(
            || items.clone(),
            |items| {
                checkpoint.seq += 1;
                checkpoint.position = Position::new(checkpoint.seq.to_string());
                let end = Boundary::Commit(checkpoint.position.clone());
                writer.write(&Batch { items, end, commit_micros: None }).expect("a write");
                writer.commit(&checkpoint).expect("a commit");
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}
