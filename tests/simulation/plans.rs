//! Two targets, of which one takes a table in anew and the other does not, as a crash between the two leaves it: what
//! the other has planned long ago must not be taken for a plan of the table as it is now.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crossfade::pipeline::applier::CommitPolicy;
use crossfade::pipeline::session::Goal;
use crossfade::pipeline::{Conduct, Limits, Pipeline, TargetSpec, run};
use crossfade::transform::Rules;
use crossfade_core::conformance::changes::inserts;
use crossfade_core::{History, Omissions, Owner, Phase, Result, Selection, Target};

use super::lens::Lens;
use super::oracle::Judge;
use super::poison::{POISONED, Poison};
use super::source::{MemorySource, Store, position};
use super::target::{MemoryTarget, TargetStore};

/// Both targets, streaming, with a plan of `b` from when it ended at key 10; it ends at 40 now.
fn begun(store: &Arc<Store>, targets: &[Arc<TargetStore>]) -> Result<Pipeline> {
    store.create("a", false);
    store.create("b", false);
    store.commit(&inserts("b", 1..=10), || false);
    let spec = |t: &Arc<TargetStore>| TargetSpec {
        name: "memory".to_owned(),
        target: Arc::new(MemoryTarget(Arc::clone(t))),
        policy: CommitPolicy { interval: Duration::ZERO, bytes: 1 },
    };
    let pipeline = Pipeline {
        name: "plans".to_owned(),
        source: Arc::new(MemorySource(Arc::clone(store), Omissions::default())),
        source_name: "memory".to_owned(),
        selection: Selection::default(),
        rules: Rules::default(),
        targets: targets.iter().map(spec).collect(),
        aggregates: vec![],
        limits: Limits { chunk_rows: 4, ..Limits::default() },
        progress: Arc::default(),
        tuning: Arc::default(),
    };
    reach_the_end(store, &pipeline)?;
    store.commit(&inserts("b", 11..=40), || false);
    reach_the_end(store, &pipeline)?;
    Ok(pipeline)
}

fn reach_the_end(store: &Store, pipeline: &Pipeline) -> Result<()> {
    let stop = AtomicBool::new(false);
    let goal = Goal::Reach(position(store.end()));
    run(pipeline, &goal, &mut Conduct { stop: &stop, serve: &mut |_| Ok(()) }).map(drop)
}

/// What `snapshot` does to one target.
fn take_in(target: &Arc<TargetStore>, tables: &[&str], since: u64) -> Result<()> {
    let owner = Owner { pipeline: "plans".to_owned(), host: "elsewhere".to_owned(), pid: 1 };
    let mut writer = MemoryTarget(Arc::clone(target)).open(&owner)?;
    for table in writer.tables()?.iter().filter(|t| tables.contains(&t.name.name.as_str())) {
        writer.copy_again(table, &position(since))?;
    }
    Ok(())
}

#[test]
fn a_plan_of_another_target_is_not_followed() -> Result<()> {
    for anew in [0, 1] {
        let store = Store::new();
        let targets = [TargetStore::new(History::Net), TargetStore::new(History::Net)];
        let pipeline = begun(&store, &targets)?;
        take_in(&targets[anew], &["a", "b"], store.end())?;
        take_in(&targets[1 - anew], &["a"], store.end())?;
        assert!(targets.iter().all(|t| t.lock().checkpoint.as_ref().is_some_and(|c| c.phase == Phase::Copying)));
        reach_the_end(&store, &pipeline)?;
        for target in &targets {
            Judge::new(&store, target, Lens::default()).at_the_end()?;
        }
    }
    Ok(())
}

/// The first target takes a chunk, the second refuses its rows. It is asked once more, as rows may have had another shape for a moment;
/// the first, which holds the chunk, must not be.
#[test]
fn a_chunk_is_asked_again_of_those_that_lack_it() -> Result<()> {
    let store = Store::new();
    let targets = [TargetStore::new(History::Net), TargetStore::new(History::Net)];
    let pipeline = begun(&store, &targets)?;
    targets.iter().try_for_each(|target| take_in(target, &["b"], store.end()))?;
    let table = targets[1].lock().shapes.iter().find(|t| t.name.name == "b").map(|t| t.name.clone());
    targets[1].lock().poison = table.map(|table| (table, Poison::ALWAYS));
    reach_the_end(&store, &pipeline)?;
    for target in &targets {
        let suspended = target.lock().suspended.clone();
        let told = suspended.iter().any(|(t, why)| t.name == "b" && why.reason.contains(POISONED));
        assert!(told, "{suspended:?}");
    }
    Ok(())
}
