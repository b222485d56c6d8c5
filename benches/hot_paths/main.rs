//! The paths that every change or every copied row goes through, each alone, in rows a second.
//!
//! ```text
//! binlog       row events of a binlog -> Arrow columns          what reads the log
//! fold         changes -> at most one per key                   before a target that keeps the latest state
//! copy         Arrow columns -> binary COPY                     what Postgres receives
//! parquet      Arrow columns -> a committed Parquet file        what a lake receives
//! fingerprint  Arrow columns -> row hashes and their sum        the proof, on both sides
//! ```
//!
//! All but `fold` work on the same rows: those that the decoder makes of the generated events. `cargo bench --bench
//! hot_paths` measures all of it, `-- fold` a part.

mod binlog;
mod copy;
mod data;
mod fingerprint;
mod fold;
mod parquet;

use std::time::Duration;

use criterion::Criterion;

/// The program's own allocator: with another one, growing columns would cost several times as much.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(4))
        .configure_from_args();
    binlog::bench(&mut criterion);
    fold::bench(&mut criterion);
    copy::bench(&mut criterion);
    parquet::bench(&mut criterion);
    fingerprint::bench(&mut criterion);
    criterion.final_summary();
}
