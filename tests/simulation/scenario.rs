//! One run: copy and stream beside a writer, restarts, faults, proofs in the middle; then the oracle.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};

use std::time::{Duration, Instant};

use crossfade::pipeline::again::{self, Wish};
use crossfade::pipeline::session::{Goal, Shared};
use crossfade::pipeline::{Conduct, Pipeline, run};
use crossfade::verify::{self, Verdict};
use crossfade_core::{Error, Phase, Result};

use super::faults::Call;
use super::oracle::{Judge, ensure};
use super::random::Random;
use super::source::{SCHEMA, number, position};
use super::world::World;

/// What happened in a run, to see that a run was worth something.
#[derive(Debug, Default, Clone, Copy)]
pub struct Tally {
    pub transactions: u64,
    pub restarts: u64,
    pub stops: u64,
    pub kills: u64,
    /// Wishes to copy tables again that a session took.
    pub again: u64,
    /// The same while no pipeline ran.
    pub again_at_rest: u64,
    /// Tables that were suspended, and taken in anew at the end.
    pub suspended: u64,
    /// Commits that crashes of a target have undone.
    pub undone: u64,
    /// The same of chunks.
    pub undone_chunks: u64,
    pub equal: u64,
    pub unknown: u64,
    pub samples: u64,
    pub hits: [u64; Call::ALL.len()],
}

impl Tally {
    /// Adds another run's.
    pub fn add(&mut self, other: &Tally) {
        self.transactions += other.transactions;
        self.restarts += other.restarts;
        self.stops += other.stops;
        self.kills += other.kills;
        self.again += other.again;
        self.again_at_rest += other.again_at_rest;
        self.suspended += other.suspended;
        self.undone += other.undone;
        self.undone_chunks += other.undone_chunks;
        self.equal += other.equal;
        self.unknown += other.unknown;
        self.samples += other.samples;
        self.hits.iter_mut().zip(other.hits).for_each(|(mine, theirs)| *mine += theirs);
    }
}

/// Runs a world to its end.
pub fn simulate(world: &World) -> Result<Tally> {
    let mut random = Random::new(world.seed, 4);
    let mut writer = world.writer();
    writer.fill();
    (0..random.between(0, 30)).for_each(|_| writer.transaction());
    let over = AtomicBool::new(false);
    let pause = random.between(0, 1500);
    // Some come beside the copy, the others once it has ended, or as good as.
    let (beside, after) = (random.between(5, 150), random.between(5, 120));
    let mut judges: Vec<Judge<'_>> = world.targets.iter().map(|t| Judge::new(&world.store, t, world.lens)).collect();
    let mut tally = std::thread::scope(|scope| {
        let sampler = scope.spawn(|| sample(world.seed, &mut judges, &over));
        let user = scope.spawn(|| {
            writer.run(beside, pause, &over);
            let until = Instant::now() + COPIED;
            while !over.load(Ordering::SeqCst) && !world.streams() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(5));
            }
            writer.run(after, pause, &over);
        });
        let mut play = Play::new(world, random);
        let driven = play.drive(|| user.is_finished(), &over);
        over.store(true, Ordering::SeqCst);
        let sampled = sampler.join().map_err(|_| Error::corrupt("the sampler panicked"))?;
        // What was seen first says more than what followed from it.
        sampled.and(driven).map(|()| play.tally)
    })?;
    judges.iter_mut().try_for_each(Judge::at_the_end)?;
    tally.transactions = world.store.end();
    let undone = world.targets.iter().map(|t| t.lock()).map(|t| (t.undone, t.undone_chunks));
    (tally.undone, tally.undone_chunks) = undone.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1));
    tally.samples = judges.iter().map(|j| j.samples).sum();
    tally.restarts = world.pipeline.progress.view().restarts;
    tally.hits = world.faults.hits();
    Ok(tally)
}

/// Looks at the targets at random moments.
fn sample(seed: u64, judges: &mut [Judge<'_>], over: &AtomicBool) -> Result<()> {
    let mut random = Random::new(seed, 5);
    let mut look = || {
        while !over.load(Ordering::SeqCst) {
            judges.iter_mut().try_for_each(Judge::look)?;
            std::thread::sleep(Duration::from_micros(random.between(100, 5000)));
        }
        Ok(())
    };
    let looked = look();
    // Whatever is wrong will not mend itself.
    over.store(true, Ordering::SeqCst);
    looked
}

struct Play<'a> {
    world: &'a World,
    random: Random,
    tally: Tally,
    /// Wishes to copy tables again that no session has taken yet.
    wishes: VecDeque<Vec<String>>,
    /// What was found wrong while a session ran.
    wrong: Option<Error>,
    /// How often sessions were looked at.
    looks: u32,
}

/// How long somebody who writes waits for the end of the copy, so that the stream alone is seen too.
const COPIED: Duration = Duration::from_millis(400);
/// Looks at a session, about 10 ms apart, that no run needs. They are counted, rather than seconds, since a busy machine
/// makes both longer: the session and the time between two looks.
const PATIENCE: u32 = 6_000;

impl<'a> Play<'a> {
    fn new(world: &'a World, random: Random) -> Self {
        let (tally, wishes) = (Tally::default(), VecDeque::new());
        Play { world, random, tally, wishes, wrong: None, looks: 0 }
    }

    /// Runs the pipeline, stops it and starts it again, until the writer has finished and everything has arrived.
    fn drive(&mut self, finished: impl Fn() -> bool, over: &AtomicBool) -> Result<()> {
        loop {
            let last = finished();
            let goal = if last { Goal::Reach(position(self.world.store.end())) } else { Goal::Forever };
            self.once(&goal, || over.load(Ordering::SeqCst) || (!last && finished()))?;
            ensure(self.looks < PATIENCE, || {
                format!("not caught up after {PATIENCE} looks: {:?}", self.world.pipeline.progress.view())
            })?;
            self.only_the_poisoned()?;
            if over.load(Ordering::SeqCst) || (last && self.arrived()? && self.world.suspended().is_empty()) {
                return Ok(());
            }
            if last && !self.world.suspended().is_empty() {
                self.follow_the_hint()?;
            } else if self.random.one_in(12) {
                self.reset()?;
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

    /// Globs of one table, of several, of all.
    fn some_tables(&mut self) -> Vec<String> {
        if self.random.one_in(4) {
            return vec!["*".to_owned()];
        }
        let tables = &self.world.tables;
        let count = self.random.between(1, 3);
        (0..count)
            .map(|_| self.random.between(0, tables.len() as u64) as usize)
            .map(|i| format!("{SCHEMA}.{}", tables[i]))
            .collect()
    }

    /// Nothing else may be left out.
    fn only_the_poisoned(&self) -> Result<()> {
        let poisoned = self.world.poisoned.as_ref().map(|table| self.world.lens.table(table));
        let suspended = self.world.suspended();
        ensure(suspended.iter().all(|t| Some(t) == poisoned.as_ref()), || {
            format!("suspended: {:?}, poisoned: {poisoned:?}", self.world.pipeline.progress.view().suspended)
        })
    }

    /// Does with suspended tables what the hint says.
    fn follow_the_hint(&mut self) -> Result<()> {
        self.world.mend();
        let tables: Vec<String> = self.world.poisoned.iter().map(|table| format!("{SCHEMA}.{table}")).collect();
        match again::reset(&self.world.pipeline, &tables) {
            Ok(_) => self.tally.suspended += 1,
            Err(e) if e.is_transient() => {}
            Err(e) => return Err(e),
        }
        Ok(())
    }

    /// `snapshot` while no daemon runs.
    fn reset(&mut self) -> Result<()> {
        let begun = self.world.targets.iter().all(|t| t.lock().checkpoint.is_some());
        let tables = self.some_tables();
        match again::reset(&self.world.pipeline, &tables) {
            Ok(_) => self.tally.again_at_rest += 1,
            Err(e) if e.is_transient() || !begun => {}
            Err(e) => return Err(e),
        }
        Ok(())
    }

    fn once(&mut self, goal: &Goal, enough: impl Fn() -> bool) -> Result<()> {
        let stop = AtomicBool::new(false);
        let pipeline = &self.world.pipeline;
        let mut serve = |shared: &Shared<'_>| {
            if let Err(e) = self.look(shared) {
                self.wrong.get_or_insert(e);
            }
            let served = self.serve(shared, &stop);
            self.looks += 1;
            if self.wrong.is_some() || self.looks >= PATIENCE || enough() {
                stop.store(true, Ordering::SeqCst);
            }
            served
        };
        let ran = run(pipeline, goal, &mut Conduct { stop: &stop, serve: &mut serve });
        match (self.wrong.take(), ran) {
            (Some(e), _) => Err(e),
            (None, Err(e)) if e.is_transient() => Ok(()),
            (None, ran) => ran.map(drop),
        }
    }

    /// What people and signals do to a session.
    fn serve(&mut self, shared: &Shared<'_>, stop: &AtomicBool) -> Result<()> {
        // Every fourth world is left alone: what waits for a restart in vain must not be saved by one.
        let alone = self.world.seed % 4 == 1;
        match self.random.between(0, 60) {
            0 if !alone => {
                self.tally.stops += 1;
                stop.store(true, Ordering::SeqCst);
            }
            // As if the process had been killed: nothing is drained.
            1 if !alone => {
                self.tally.kills += 1;
                return Err(Error::transient("killed"));
            }
            // Up to three, one right behind the other: a later one meets the copy that the earlier one began.
            7 if self.tally.again < 3 => {
                for _ in 0..self.random.between(1, 4) {
                    let tables = self.some_tables();
                    self.wishes.push_back(tables);
                }
            }
            2..=6 if streaming(shared, &self.world.pipeline) => {
                if let Err(e) = self.prove(shared).or_else(|e| if e.is_transient() { Ok(()) } else { Err(e) }) {
                    self.wrong.get_or_insert(e);
                }
            }
            _ => {}
        }
        if let Some(tables) = self.wishes.front().cloned() {
            let (reply, _nobody) = crossbeam_channel::bounded(1);
            if shared.ask_again(Wish { tables, reply }).is_ok() {
                self.wishes.pop_front();
                self.tally.again += 1;
            }
        }
        Ok(())
    }

    /// What holds at every moment.
    fn look(&mut self, shared: &Shared<'_>) -> Result<()> {
        // In this order: a batch is known to the faults before its bytes are taken.
        let peak = shared.budget.peak();
        let largest = self.world.faults.largest.load(Ordering::SeqCst);
        let bound = self.world.pipeline.limits.memory.max(largest);
        ensure(peak <= bound, || format!("{peak} bytes on their way, {bound} allowed"))?;
        Ok(())
    }

    fn prove(&mut self, shared: &Shared<'_>) -> Result<()> {
        let proof = verify::fence(shared, &self.world.pipeline, &[])?.compare().proof;
        let all = self.world.suspended().is_empty();
        match proof.verdict {
            Verdict::Equal if !all => {
                return Err(Error::corrupt(format!("equal without {:?}", self.world.suspended())));
            }
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
