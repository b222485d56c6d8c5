//! The verifier is verified: it says equal in the middle of a running pipeline, and different after any corruption.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossfade::pipeline::session::{Goal, Shared};
use crossfade::pipeline::{Conduct, run};
use crossfade::verify::{Verdict, fence};
use crossfade_core::conformance::changes::inserts;
use crossfade_core::{Phase, Result, TableName};

use super::codec::Table;
use super::source::SCHEMA;
use super::world::World;

/// What it is called, and what it does.
type Corruption = (&'static str, fn(&mut Table));

/// Ways to spoil a table with rows.
const CORRUPTIONS: [Corruption; 5] = [
    ("a row is missing", |t| drop(t.pop_first())),
    ("a row is there under a second key", |t| {
        if let Some((mut key, row)) = t.last_key_value().map(|(k, r)| (k.clone(), r.clone())) {
            Arc::make_mut(&mut key).iter_mut().flatten().for_each(|byte| *byte ^= 1);
            t.insert(key, row);
        }
    }),
    ("a value differs in one bit", |t| {
        if let Some(last) = t.values_mut().next().and_then(|row| Arc::make_mut(row)[1].last_mut()) {
            *last ^= 1;
        }
    }),
    ("two rows have swapped a value", |t| {
        let mut rows = t.values_mut();
        if let (Some(a), Some(b)) = (rows.next(), rows.next()) {
            std::mem::swap(&mut Arc::make_mut(a)[1], &mut Arc::make_mut(b)[1]);
        }
    }),
    ("the same bit differs in two rows", |t| {
        t.values_mut().take(2).filter_map(|row| Arc::make_mut(row)[1].last_mut()).for_each(|byte| *byte ^= 1);
    }),
];

#[test]
fn every_corruption_is_found() -> Result<()> {
    // Seeds differ in the number and kind of targets.
    for seed in 1..=8 {
        let world = World::plain(seed);
        // The last table, `u`, is there in every world.
        world.store.commit(&inserts("u", 1..=10).into_iter().filter(is_whole).collect::<Vec<_>>(), || false);
        let stop = AtomicBool::new(false);
        let mut proofs = 0;
        let mut serve = |shared: &Shared<'_>| {
            if (0..world.targets.len()).any(|i| shared.checkpoint(i).phase == Phase::Copying) {
                return Ok(());
            }
            let verdict = || -> Result<Verdict> { Ok(fence(shared, &world.pipeline, &[])?.compare().proof.verdict) };
            for target in &world.targets {
                for (name, corrupt) in CORRUPTIONS {
                    assert_eq!(verdict()?, Verdict::Equal, "seed {seed}, before: {name}");
                    let table = TableName::new(SCHEMA, "u");
                    let spoil = |by: fn(&mut Table)| {
                        let mut inner = target.lock();
                        inner.tables.get_mut(&table).map(|t| {
                            let before = Arc::clone(t);
                            by(Arc::make_mut(t));
                            before
                        })
                    };
                    let before = spoil(corrupt).expect("the table is there");
                    assert_eq!(verdict()?, Verdict::Different, "seed {seed}: {name}");
                    target.lock().tables.insert(table, before);
                    proofs += 1;
                }
            }
            stop.store(true, Ordering::SeqCst);
            Ok(())
        };
        run(&world.pipeline, &Goal::Forever, &mut Conduct { stop: &stop, serve: &mut serve })?;
        assert_eq!(proofs, CORRUPTIONS.len() * world.targets.len());
    }
    Ok(())
}

/// No value is NULL, and each number is another.
fn is_whole(change: &crossfade_core::conformance::Change) -> bool {
    matches!(change, crossfade_core::conformance::Change::Insert(_, _, (Some(_), Some(_))))
}
