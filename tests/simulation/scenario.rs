//! One run: copy and stream beside a writer, restarts, faults, proofs in the middle; then the oracle.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossfade::pipeline::again::Wish;
use crossfade::pipeline::session::{Goal, Shared};
use crossfade::pipeline::{Conduct, Pipeline, run};
use crossfade::verify::{self, Verdict};
use crossfade_core::{Error, Phase, Result};

use super::oracle::{Sample, at_the_end, ensure};
use super::random::Random;
use super::source::{SCHEMA, number, position};
use super::world::World;

/// What happened in a run, to see that a run was worth something.
#[derive(Debug, Default, Clone, Copy)]
pub struct Tally {
    pub transactions: u64,
    pub restarts: u64,
    pub stops: u64,
    pub again: u64,
    pub undone: u64,
    pub equal: u64,
    pub unknown: u64,
    pub samples: u64,
}

impl Tally {
    /// Adds another run's.
    pub fn add(&mut self, other: Tally) {
        self.transactions += other.transactions;
        self.restarts += other.restarts;
        self.stops += other.stops;
        self.again += other.again;
        self.undone += other.undone;
        self.equal += other.equal;
        self.unknown += other.unknown;
        self.samples += other.samples;
    }
}

/// Runs the world of a seed to its end.
pub fn simulate(seed: u64) -> Result<Tally> {
    let world = World::new(seed, !seed.is_multiple_of(8));
    let mut random = Random::new(seed, 4);
    let mut writer = world.writer();
    writer.fill();
    (0..random.between(0, 30)).for_each(|_| writer.transaction());
    let over = AtomicBool::new(false);
    let samples = AtomicU64::new(0);
    let (transactions, pause) = (random.between(10, 250), random.between(0, 1500));
    let mut tally = std::thread::scope(|scope| {
        let sampler = scope.spawn(|| sample(&world, &over, &samples));
        let user = scope.spawn(|| writer.run(transactions, pause, &over));
        let mut play = Play { world: &world, random, tally: Tally::default(), acknowledged: 0 };
        let driven = play.drive(|| user.is_finished());
        over.store(true, Ordering::SeqCst);
        let sampled = sampler.join().map_err(|_| Error::corrupt("the sampler panicked"))?;
        driven.and(sampled).map(|()| play.tally)
    })?;
    for target in &world.targets {
        at_the_end(&world.store, target)?;
    }
    tally.transactions = world.store.end();
    tally.undone = world.targets.iter().map(|t| t.lock().undone).sum();
    tally.samples = samples.load(Ordering::SeqCst);
    tally.restarts = world.pipeline.progress.view().restarts;
    Ok(tally)
}

/// Looks at the targets at random moments.
fn sample(world: &World, over: &AtomicBool, samples: &AtomicU64) -> Result<()> {
    let mut random = Random::new(world.seed, 5);
    let mut seen = vec![0; world.targets.len()];
    while !over.load(Ordering::SeqCst) {
        for (target, seen) in world.targets.iter().zip(&mut seen) {
            let sample = Sample::take(target);
            if std::mem::replace(seen, sample.seq()) != sample.seq() {
                sample.judge(&world.store)?;
                samples.fetch_add(1, Ordering::SeqCst);
            }
        }
        std::thread::sleep(Duration::from_micros(random.between(100, 5000)));
    }
    Ok(())
}

struct Play<'a> {
    world: &'a World,
    random: Random,
    tally: Tally,
    /// Acknowledgements looked at so far.
    acknowledged: usize,
}

/// Longer than any run may take.
const PATIENCE: Duration = Duration::from_secs(60);

impl Play<'_> {
    /// Runs the pipeline, stops it and starts it again, until the writer has finished and everything has arrived.
    fn drive(&mut self, finished: impl Fn() -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let last = finished();
            let goal = if last { Goal::Reach(position(self.world.store.end())) } else { Goal::Forever };
            self.once(&goal, &finished, deadline)?;
            ensure(Instant::now() < deadline, || {
                format!("not caught up after {PATIENCE:?}: {:?}", self.world.pipeline.progress.view())
            })?;
            if last && self.arrived()? {
                return Ok(());
            }
        }
    }

    fn arrived(&self) -> Result<bool> {
        let end = self.world.store.end();
        for target in &self.world.targets {
            let checkpoint = target.lock().checkpoint.clone();
            let there = checkpoint.as_ref().is_some_and(|c| c.phase == Phase::Streaming);
            if !there || number(&checkpoint.map_or_else(|| position(0), |c| c.position))? < end {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn once(&mut self, goal: &Goal, finished: &impl Fn() -> bool, deadline: Instant) -> Result<()> {
        let stop = AtomicBool::new(false);
        let pipeline = &self.world.pipeline;
        let wrong: Mutex<Option<Error>> = Mutex::new(None);
        let mut serve = |shared: &Shared<'_>| {
            if let Err(e) = self.look(shared) {
                wrong.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
                stop.store(true, Ordering::SeqCst);
            }
            if (*goal == Goal::Forever && finished()) || Instant::now() > deadline {
                stop.store(true, Ordering::SeqCst);
            }
            // Every fourth world is left alone: what waits for a restart in vain must not be saved by one.
            let alone = self.world.seed % 4 == 1;
            match self.random.between(0, 60) {
                0 if !alone => {
                    self.tally.stops += 1;
                    stop.store(true, Ordering::SeqCst);
                }
                // As if the process had been killed: nothing is drained.
                1 if !alone => return Err(Error::transient("killed")),
                7 if self.tally.again < 3 => {
                    let table = &self.world.tables[self.random.between(0, self.world.tables.len() as u64) as usize];
                    let (reply, _nobody) = crossbeam_channel::bounded(1);
                    let wish = Wish { tables: vec![format!("{SCHEMA}.{table}")], reply };
                    self.tally.again += u64::from(shared.ask_again(wish).is_ok());
                }
                2..=6 if streaming(shared, pipeline) => {
                    let proved = self.prove(shared, pipeline);
                    if let Some(e) = proved.err().filter(|e| !e.is_transient()) {
                        wrong.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
                        stop.store(true, Ordering::SeqCst);
                    }
                }
                _ => {}
            }
            Ok(())
        };
        let ran = run(pipeline, goal, &mut Conduct { stop: &stop, serve: &mut serve });
        let wrong = wrong.into_inner().unwrap_or_else(PoisonError::into_inner);
        match (wrong, ran) {
            (Some(e), _) => Err(e),
            (None, Err(e)) if e.is_transient() => Ok(()),
            (None, ran) => ran.map(drop),
        }
    }

    /// What holds at every moment.
    fn look(&mut self, shared: &Shared<'_>) -> Result<()> {
        let largest = self.world.faults.largest.load(Ordering::SeqCst);
        let bound = self.world.pipeline.limits.memory.max(largest);
        let peak = shared.budget.peak();
        ensure(peak <= bound, || format!("{peak} bytes on their way, {bound} allowed"))?;
        let acknowledged = self.world.store.acknowledged();
        for &n in &acknowledged[self.acknowledged..] {
            for target in &self.world.targets {
                let held = target.lock().checkpoint.as_ref().map(|c| number(&c.position)).transpose()?;
                ensure(held.is_some_and(|h| n <= h), || format!("{n} was acknowledged, a target holds {held:?}"))?;
            }
        }
        self.acknowledged = acknowledged.len();
        Ok(())
    }

    fn prove(&mut self, shared: &Shared<'_>, pipeline: &Pipeline) -> Result<()> {
        let proof = verify::fence(shared, pipeline, &[])?.compare();
        match proof.verdict {
            Verdict::Equal => self.tally.equal += 1,
            // A scan failed by a fault.
            Verdict::Unknown => self.tally.unknown += 1,
            Verdict::Different => return Err(Error::corrupt(format!("{proof:?}"))),
        }
        Ok(())
    }
}

fn streaming(shared: &Shared<'_>, pipeline: &Pipeline) -> bool {
    (0..pipeline.targets.len()).all(|i| shared.checkpoint(i).phase == Phase::Streaming)
}
