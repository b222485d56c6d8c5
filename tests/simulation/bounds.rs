//! What may be on its way: with a target that stands still, the reader stops after an exact number of batches, goes on
//! acknowledging, and resumes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossfade::pipeline::applier::CommitPolicy;
use crossfade::pipeline::session::Goal;
use crossfade::pipeline::{Conduct, Limits, Pipeline, TargetSpec, run};
use crossfade::transform::Rules;
use crossfade_core::conformance::changes::inserts;
use crossfade_core::{History, Omissions, Phase, Result, Selection};

use super::faults::{self, Faults};
use super::lens::Lens;
use super::oracle::Judge;
use super::source::{MemorySource, Store};
use super::target::{MemoryTarget, TargetStore};

/// Waits up to half a minute.
fn wait(what: &str, mut until: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !until() {
        assert!(Instant::now() < deadline, "{what}: waited in vain");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Batches of one row each that are read while the target stands still.
fn read_ahead(limits: Limits, transactions: i64) -> Result<usize> {
    let store = Store::new();
    store.create("t", false);
    let target = TargetStore::new(History::Net);
    let faults = Faults::none();
    let pipeline = Pipeline {
        name: "bounds".to_owned(),
        source: faults::source(MemorySource(Arc::clone(&store), Omissions::default()), &faults),
        source_name: "memory".to_owned(),
        selection: Selection::default(),
        rules: Rules::default(),
        targets: vec![TargetSpec {
            name: "memory".to_owned(),
            target: Arc::new(MemoryTarget(Arc::clone(&target))),
            policy: CommitPolicy { interval: Duration::ZERO, bytes: 1 },
        }],
        aggregates: vec![],
        limits,
        progress: Arc::default(),
        tuning: Arc::default(),
    };
    let stop = AtomicBool::new(false);
    let count = std::thread::scope(|scope| {
        let running =
            scope.spawn(|| run(&pipeline, &Goal::Forever, &mut Conduct { stop: &stop, serve: &mut |_| Ok(()) }));
        let phase = || target.lock().checkpoint.as_ref().map(|c| c.phase);
        wait("the copy of an empty table", || phase() == Some(Phase::Streaming));
        let standing_still = target.lock();
        let acknowledged = store.acknowledged().len();
        faults.handed.store(0, Ordering::SeqCst);
        (0..transactions).for_each(|id| store.commit(&inserts("t", [id]), || false));
        let handed = || faults.handed.load(Ordering::SeqCst);
        let mut last = (handed(), Instant::now());
        wait("the reader comes to rest", || {
            if handed() != last.0 {
                last = (handed(), Instant::now());
            }
            last.0 > 0 && last.1.elapsed() > Duration::from_secs(1)
        });
        let count = handed();
        wait("the connection is kept alive", || store.acknowledged().len() > acknowledged);
        assert_eq!(handed(), count, "it did not read on");
        drop(standing_still);
        wait("it resumes", || {
            target.lock().checkpoint.as_ref().is_some_and(|c| c.position == super::source::position(store.end()))
        });
        stop.store(true, Ordering::SeqCst);
        running.join().unwrap_or_else(|e| std::panic::resume_unwind(e)).map(|_| count)
    })?;
    Judge::new(&store, &target, Lens::default()).at_the_end()?;
    Ok(count)
}

fn one_row_each(queue: usize, memory: usize) -> Limits {
    Limits { queue, memory, read_rows: 1, batch_rows: 1, ..Limits::default() }
}

#[test]
fn read_ahead_is_bounded_in_batches() {
    for queue in [1, 5] {
        // One is being written, one waits for the target, one is in the transform's hand, one in the reader's.
        assert_eq!(read_ahead(one_row_each(queue, 1 << 30), 100).unwrap(), queue + 4);
    }
}

#[test]
fn read_ahead_is_bounded_in_bytes() {
    // One is let through however large it is, the next waits in the reader's hand.
    assert_eq!(read_ahead(one_row_each(5, 1), 100).unwrap(), 2);
}
