//! Arrow columns into the bytes of `COPY .. FROM STDIN (FORMAT binary)`, in pieces as the connection takes them.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use crossfade_postgres::copy::{CHUNK, Encoders};

use crate::{binlog, data};

/// All rows and columns of one batch.
pub fn bench(criterion: &mut Criterion) {
    let rows = binlog::rows();
    let all: Vec<usize> = (0..rows.table.columns.len()).collect();
    let mut group = criterion.benchmark_group("copy");
    group.throughput(Throughput::Elements(data::ROWS as u64));
    let mut piece = Vec::with_capacity(2 * CHUNK);
    group.bench_function("encode", |bencher| {
        bencher.iter(|| {
            let encoders = Encoders::new(&rows.table, black_box(&rows.batch), &all).expect("a batch of the table");
            for row in 0..rows.len() {
                encoders.row(row, &mut piece).expect("values that Postgres can hold");
                if piece.len() >= CHUNK {
                    black_box(&piece);
                    piece.clear();
                }
            }
        });
    });
    group.finish();
}
