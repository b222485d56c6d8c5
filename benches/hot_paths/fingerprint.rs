//! The hash of every row and their sum, as `verify` takes it on both sides.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use crossfade_core::Fingerprint;

use crate::{binlog, data};

/// All columns of one batch.
pub fn bench(criterion: &mut Criterion) {
    let rows = binlog::rows();
    let mut group = criterion.benchmark_group("fingerprint");
    group.throughput(Throughput::Elements(data::ROWS as u64));
    group.bench_function("add", |bencher| {
        bencher.iter(|| {
            let mut fingerprint = Fingerprint::default();
            fingerprint.add(black_box(&rows.batch)).expect("types that have a canonical form");
            fingerprint
        });
    });
    group.finish();
}
