//! An oracle that cannot fail proves nothing: worlds whose ends have a defect must be found out.

use std::sync::atomic::{AtomicU64, Ordering};

use super::defects::Defect;
use super::scenario::simulate;
use super::world::World;

/// Worlds of each defect. It does not happen in all of them, and a later change of the row, or a copy of the table anew, may
/// mend it before anybody can see it.
const SEEDS: u64 = 48;
/// Runs at a time: they mostly wait.
const THREADS: u64 = 16;

/// In how many worlds the defect happened, and in how many something was found.
fn found(defect: Defect) -> (u64, u64) {
    let (next, struck, found) = (AtomicU64::new(1), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed > SEEDS {
                        return;
                    }
                    let world = World::new(seed, Some(defect));
                    let failed = simulate(&world).is_err();
                    assert!(world.flaw.struck() || !failed, "seed {seed} failed before {defect:?} happened");
                    struck.fetch_add(u64::from(world.flaw.struck()), Ordering::SeqCst);
                    found.fetch_add(u64::from(failed), Ordering::SeqCst);
                }
            });
        }
    });
    (struck.into_inner(), found.into_inner())
}

#[test]
fn every_defect_is_found() {
    for defect in Defect::ALL {
        let (struck, found) = found(defect);
        eprintln!("{defect:?}: happened in {struck} of {SEEDS} worlds, found in {found}");
        assert!(found > 0, "{defect:?} happened in {struck} of {SEEDS} worlds and was never found");
    }
}
