//! Many seeds, in parts that a test runner may run beside each other, and one seed again.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::faults::Call;
use super::random::Random;
use super::scenario::{Tally, simulate};
use super::world::World;

/// Seeds that run when nothing else is said.
const SEEDS: Range<u64> = 1..5001;
/// Tests that share them.
const PARTS: u64 = 10;
/// Runs at a time: they mostly wait.
const THREADS: usize = 16;

fn variable<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// `FIRST..END`.
fn seeds() -> Range<u64> {
    let Some(text) = variable::<String>("CROSSFADE_SEEDS") else { return SEEDS };
    let parsed = text.split_once("..").and_then(|(a, b)| Some(a.parse().ok()?..b.parse().ok()?));
    parsed.unwrap_or_else(|| panic!("CROSSFADE_SEEDS={text} is not FIRST..END"))
}

/// Runs seeds beside each other; returns what happened in all of them, and the failures.
fn simulate_all(seeds: impl Iterator<Item = u64>) -> (Tally, Vec<String>) {
    let seeds: Vec<u64> = seeds.collect();
    let next = AtomicU64::new(0);
    let outcome: Mutex<(Tally, Vec<String>)> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(&seed) = seeds.get(next.fetch_add(1, Ordering::SeqCst) as usize) {
                    let world = World::new(seed, None);
                    let result = simulate(&world);
                    let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
                    match result {
                        Ok(tally) => outcome.0.add(&tally),
                        Err(e) => {
                            let failure = failure(&world, &e);
                            eprintln!("{failure}");
                            outcome.1.push(failure);
                        }
                    }
                }
            });
        }
    });
    outcome.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn failure(world: &World, error: &crossfade_core::Error) -> String {
    format!(
        "seed {}: {error:?}\n  {:?}, faults planned: {:?}\n  again: CROSSFADE_SEED={} cargo nextest run --locked \
         --workspace --no-capture -E 'binary(simulation) & test(=seeds::replay)'",
        world.seed,
        world.lens,
        world.faults.plan(),
        world.seed
    )
}

/// One part of the seeds.
fn part(part: u64) {
    let all = seeds();
    let mine = all.clone().filter(|s| s % PARTS == part);
    let count = mine.clone().count();
    let (tally, failures) = simulate_all(mine);
    eprintln!("{count} runs: {tally:?}");
    assert!(failures.is_empty(), "{} of {count} runs failed:\n{}", failures.len(), failures.join("\n"));
    assert!(count == 0 || tally.transactions > 0 && tally.samples > 0, "nothing happened, so nothing is shown");
    if count >= 200 {
        let rare: Vec<Call> = Call::ALL.into_iter().filter(|c| tally.hits[*c as usize] == 0).collect();
        assert!(rare.is_empty(), "no fault of {rare:?} in {count} runs");
        let Tally { again, again_at_rest, suspended, undone, undone_chunks, restarts, stops, kills, equal, .. } = tally;
        let events = [again, again_at_rest, suspended, undone, undone_chunks, restarts, stops, kills, equal];
        assert!(!events.contains(&0), "something never happened in {count} runs: {tally:?}");
    }
}

macro_rules! parts {
    ($($name:ident: $number:literal),*) => {
        $(#[test]
        fn $name() {
            part($number);
        })*
    };
}

parts!(part_0: 0, part_1: 1, part_2: 2, part_3: 3, part_4: 4, part_5: 5, part_6: 6, part_7: 7, part_8: 8, part_9: 9);

/// The seed `CROSSFADE_SEED` a hundred times; without it, that a seed makes the same world each time.
#[test]
fn replay() {
    let Some(seed) = variable::<u64>("CROSSFADE_SEED") else {
        for seed in [1, 2, 3, Random::new(0, 9).number()] {
            let [a, b] = [(); 2].map(|()| {
                let world = World::new(seed, None);
                let mut writer = world.writer();
                writer.fill();
                (0..100).for_each(|_| writer.transaction());
                (world.lens, world.faults.plan(), world.store.log(0, world.store.end()), world.pipeline.limits)
            });
            assert!(a == b, "seed {seed} made two different worlds");
        }
        return;
    };
    let (tally, failures) = simulate_all(std::iter::repeat_n(seed, 100));
    eprintln!("{tally:?}");
    assert!(failures.is_empty(), "{} of 100 runs failed:\n{}", failures.len(), failures.join("\n"));
}
