//! An oracle that cannot fail proves nothing: worlds whose ends have a defect must be found out.

use super::defects::Defect;
use super::scenario::simulate;
use super::world::World;

/// Worlds of each defect.
const SEEDS: u64 = 24;

/// Of the worlds in which a defect happened, those that the oracle found.
fn found(defect: Defect) -> (u64, u64, Vec<String>) {
    let (mut struck, mut found, mut words) = (0, 0, Vec::new());
    for seed in 1..=SEEDS {
        let world = World::new(seed, Some(defect));
        let result = simulate(&world);
        struck += u64::from(world.flaw.struck());
        found += u64::from(result.is_err());
        words.extend(result.err().map(|e| format!("seed {seed}: {e}")));
    }
    (struck, found, words)
}

#[test]
fn every_defect_is_found() {
    for defect in Defect::ALL {
        let t = std::time::Instant::now();
        let (struck, found, words) = found(defect);
        eprintln!("{defect:?}: {found} of {struck} {:?} \n{}", t.elapsed(), words.join("\n").chars().take(600).collect::<String>());
    }
}
