//! The verifier is verified: it says equal in the middle of a running pipeline, and different after any corruption, which repair
//! then mends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::bounded;
use crossfade::desk::{Desk, Job};
use crossfade::pipeline::fence::Fence;
use crossfade::pipeline::session::{Goal, Shared};
use crossfade::pipeline::{Conduct, errand, run};
use crossfade::repair::Report;
use crossfade::verify::{Verdict, fence};
use crossfade_core::conformance::changes::inserts;
use crossfade_core::{Batch, Boundary, Phase, Position, Result, TableName};

use super::codec::Table;
use super::source::SCHEMA;
use super::world::World;

/// What it is called, and what it does.
type Corruption = (&'static str, fn(&mut Table));

const TWICE: &str = "a row is there under a second key";

/// Ways to spoil a table with rows.
const CORRUPTIONS: [Corruption; 5] = [
    ("a row is missing", |t| drop(t.pop_first())),
    (TWICE, |t| {
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
                    let told = repair(shared, &world, false)?;
                    assert_eq!((told.tables.len(), told.proof.verdict), (1, Verdict::Different), "seed {seed}: {name}");
                    assert_eq!(verdict()?, Verdict::Different, "seed {seed}: {name}: it only told");
                    let done = repair(shared, &world, true)?;
                    match done.tables[0].refused.as_deref() {
                        // Two rows that say the same key cannot be told apart.
                        Some(why) if name == TWICE => {
                            assert!(why.contains("crossfade snapshot"), "seed {seed}: {why}");
                            drop(target.lock().tables.insert(table, before));
                        }
                        refused => {
                            assert_eq!((refused, done.proof.verdict), (None, Verdict::Equal), "seed {seed}: {name}")
                        }
                    }
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

/// Repairs on this thread, as the conducting thread of a daemon does between its other looks.
fn repair(shared: &Shared<'_>, world: &World, apply: bool) -> Result<Report> {
    let (reply, answer) = bounded(1);
    let mut desk = Desk::default();
    desk.put(Job::repair(&[], apply, reply));
    std::thread::scope(|scope| {
        loop {
            desk.serve(scope, shared, &world.pipeline);
            if let Ok(answer) = answer.recv_timeout(Duration::from_millis(1)) {
                return answer;
            }
        }
    })
}

/// What was read at a position is written there or nowhere: behind it a row may have another value already.
#[test]
fn rows_read_where_the_target_no_longer_stands_are_refused() -> Result<()> {
    let world = World::plain(3);
    let write =
        |keys| world.store.commit(&inserts("u", keys).into_iter().filter(is_whole).collect::<Vec<_>>(), || false);
    write(1..=10);
    let stop = AtomicBool::new(false);
    let mut read_at: Option<Position> = None;
    let mut serve = |shared: &Shared<'_>| {
        if (0..world.targets.len()).any(|i| shared.checkpoint(i).phase == Phase::Copying) {
            return Ok(());
        }
        let batch = |position: &Position| Batch {
            items: Vec::new(),
            end: Boundary::Commit(position.clone()),
            commit_micros: None,
        };
        let Some(earlier) = &read_at else {
            let fence = Fence::hold(shared, &[], Duration::from_secs(60))?;
            let before = shared.checkpoint(0);
            let after = errand::send(shared, 0, batch(&fence.position))?;
            assert_eq!((after.seq, &after.position), (before.seq + 1, &before.position), "a commit where it stands");
            read_at = Some(fence.position.clone());
            drop(fence);
            write(11..=20);
            return Ok(());
        };
        if shared.source.order(&shared.checkpoint(0).position, earlier)?.is_gt() {
            let before = shared.checkpoint(0);
            let refused = errand::send(shared, 0, batch(earlier)).expect_err("it has moved on");
            assert!(refused.to_string().contains("moved on"), "{refused}");
            assert_eq!(shared.checkpoint(0).seq, before.seq, "nothing is committed");
            stop.store(true, Ordering::SeqCst);
        }
        Ok(())
    };
    run(&world.pipeline, &Goal::Forever, &mut Conduct { stop: &stop, serve: &mut serve })?;
    assert!(stop.load(Ordering::SeqCst));
    Ok(())
}

/// No value is NULL, and each number is another.
fn is_whole(change: &crossfade_core::conformance::Change) -> bool {
    matches!(change, crossfade_core::conformance::Change::Insert(_, _, (Some(_), Some(_))))
}
