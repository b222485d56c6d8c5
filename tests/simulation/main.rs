//! The production pipeline over ends in memory, under seeded faults.
//!
//! `crossfade::pipeline::run` copies and streams beside somebody who writes, while calls of both ends fail before or
//! after they were done, sessions are killed and the pipeline is stopped and started again. [`oracle`] says what must
//! hold in spite of it. A run that fails prints its seed; `CROSSFADE_SEED=n` runs that seed alone (a hundred times,
//! since threads are real and a seed does not fix their interleaving), `CROSSFADE_SEEDS=n` sets how many seeds run.

mod apply;
mod bounds;
mod codec;
mod conformance;
mod faults;
mod oracle;
mod proof;
mod random;
mod scenario;
mod source;
mod stream;
mod target;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use scenario::{Tally, simulate};

/// Seeds that run when nothing else is said.
const SEEDS: u64 = 300;
/// Runs at a time: they mostly wait.
const THREADS: u64 = 8;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

#[test]
fn every_transaction_arrives_once_and_whole() {
    let (first, count, step) = match number("CROSSFADE_SEED") {
        Some(seed) => (seed, 100, 0),
        None => (1, number("CROSSFADE_SEEDS").unwrap_or(SEEDS), 1),
    };
    let next = AtomicU64::new(0);
    let failures: Mutex<Vec<String>> = Mutex::default();
    let total: Mutex<Tally> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::SeqCst);
                    if n >= count {
                        return;
                    }
                    let seed = first + n * step;
                    match simulate(seed) {
                        Ok(tally) => total.lock().unwrap_or_else(PoisonError::into_inner).add(tally),
                        Err(e) => {
                            let failure = format!("CROSSFADE_SEED={seed}: {e:?}");
                            eprintln!("{failure}");
                            failures.lock().unwrap_or_else(PoisonError::into_inner).push(failure);
                        }
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    let total = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    eprintln!("{count} runs: {total:?}");
    assert!(failures.is_empty(), "{} of {count} runs failed:\n{}", failures.len(), failures.join("\n"));
    assert!(count < 100 || total.again > 0, "no table was copied again");
    assert!(count < 100 || total.undone > 0, "no crash of a target undid a commit");
    assert!(total.transactions > 0 && total.samples > 0, "a simulation without changes proves nothing: {total:?}");
}
