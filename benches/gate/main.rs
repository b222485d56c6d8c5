//! The gate: which of two shapes a decoder's output should have, measured before anything was built on one of them.
//!
//! - **A**: the decoder appends straight into Arrow builders, a batch is one `RecordBatch` a table.
//! - **B**: the decoder builds rows of a value enum, `Vec<Vec<Value>>`.
//!
//! Both decode the same bytes with the same parsing code, and go on to both ends that Crossfade has: the bytes of a
//! binary COPY, which is row by row and so B's home ground, and a Parquet file, which is A's. The inputs are MySQL row
//! images and pgoutput Inserts in their real wire formats, written by small encoders from seeded records.
//!
//! It depends on no crate of Crossfade, so that it keeps answering the question whatever the connectors become. Run
//! `cargo bench --bench gate`: first the checks, then the paired table, then Criterion for comparison with earlier runs.
//! ARCHITECTURE.md has the figures and what follows from them.

mod check;
mod columns;
mod copy;
mod lake;
mod mysql;
mod mysql_wire;
mod paired;
mod pgoutput;
mod pgoutput_wire;
mod reader;
mod rows;
mod shapes;
mod table;

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};

use crate::shapes::{Case, ENDS, Shape, run};

/// The daemon's allocator. It is the kinder one to B, which lives by small allocations.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Rows of one batch.
const ROWS: usize = 100_000;

fn main() {
    // Cargo passes --bench for `cargo bench`, and nothing or --test when benches are run as tests: then a small batch,
    // checked and run once, is what is wanted; --list wants no work at all.
    let argument = |name: &str| std::env::args().any(|argument| argument == name);
    let measured = argument("--bench");
    let records = table::records(if measured { ROWS } else { 1_000 });
    let cases = Case::both(&records);
    if !argument("--list") {
        check::check(&cases, &records);
    }
    if measured {
        paired::print(&cases, records.len());
    }
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    for case in &cases {
        for (to, end) in ENDS {
            let mut group = criterion.benchmark_group(format!("gate/{}/{to}", case.name));
            group.throughput(Throughput::Elements(records.len() as u64));
            for (shape, name) in [(Shape::Columns, "columns"), (Shape::Rows, "rows")] {
                let mut copy = Vec::new();
                group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
                    bencher.iter(|| run(case, shape, end, &mut copy).expect("checked before"));
                });
            }
            group.finish();
        }
    }
    criterion.final_summary();
}
