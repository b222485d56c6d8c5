//! One simulated world: a source that somebody writes to, one or two targets, a pipeline between them, and the seed
//! that decides sizes, changes, faults and restarts. Threads are real, so the seed does not fix their interleaving.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossfade::pipeline::applier::CommitPolicy;
use crossfade::pipeline::{Limits, Pipeline, TargetSpec};
use crossfade_core::conformance::Change;
use crossfade_core::conformance::changes::{Cells, State};
use crossfade_core::{History, Phase, Selection, TableName};

use super::defects::{self, Defect, Flaw};
use super::faults::{self, Faults};
use super::lens::Lens;
use super::poison::{Place, Poison};
use super::random::Random;
use super::source::{Database, MemorySource, Store};
use super::target::{MemoryTarget, TargetStore};

/// The names of the tables; those that begin with `u` have a unique index on `n`.
const TABLES: [&str; 3] = ["a", "b", "u"];

/// A table without a key, in every second world; its values are few, so that equal rows are many.
pub const BAG: &str = "g";

/// Keys of rows are below this, so that they are met again and again.
const KEYS: u64 = 60;

/// Values of a unique index are below this: what a row lets go of is soon another's.
const VALUES: u64 = 90;

pub struct World {
    pub seed: u64,
    pub store: Arc<Store>,
    pub targets: Vec<Arc<TargetStore>>,
    pub faults: Arc<Faults>,
    pub flaw: Arc<Flaw>,
    pub lens: Lens,
    pub pipeline: Pipeline,
    pub tables: Vec<String>,
    /// The table of which some values cannot be carried.
    pub poisoned: Option<String>,
}

impl World {
    /// The world of a seed; in every eighth no call fails. With a defect, one of its ends does not do what it should.
    pub fn new(seed: u64, defect: Option<Defect>) -> Self {
        let faults = if seed.is_multiple_of(8) { Faults::none() } else { Faults::of(seed) };
        let mut world = World::of(seed, faults, Lens::random(Random::new(seed, 7)), defect);
        let poison = Poison::random(Random::new(seed, 11), world.tables.len());
        if let Some((table, place, poison)) = poison.filter(|_| defect.is_none()) {
            let name = world.tables[table].clone();
            match place {
                Place::Source => world.store.lock().poison = Some((name.clone(), poison)),
                Place::Target => world.targets[0].lock().poison = Some((world.lens.table(&name), poison)),
            }
            world.poisoned = Some(name);
        }
        world
    }

    /// Somebody mends the values that cannot be carried.
    pub fn mend(&self) {
        let end = self.store.end();
        self.store.lock().poison.iter_mut().for_each(|(_, poison)| poison.mend(end));
        self.targets.iter().for_each(|t| t.lock().poison.iter_mut().for_each(|(_, poison)| poison.mend(end)));
    }

    /// Tables that a target has left out.
    pub fn suspended(&self) -> Vec<TableName> {
        self.targets
            .iter()
            .flat_map(|t| t.lock().suspended.iter().map(|(table, _)| table.clone()).collect::<Vec<_>>())
            .collect()
    }

    /// Without faults and rules.
    pub fn plain(seed: u64) -> Self {
        World::of(seed, Faults::none(), Lens::default(), None)
    }

    fn of(seed: u64, faults: Arc<Faults>, lens: Lens, defect: Option<Defect>) -> Self {
        let mut random = Random::new(seed, 1);
        let store = Store::new();
        let tables = random.between(1, 4) as usize;
        let mut tables: Vec<String> = TABLES[TABLES.len() - tables..].iter().map(|t| (*t).to_owned()).collect();
        tables.iter().for_each(|t| drop(store.create(t, t.starts_with('u'))));
        if Random::new(seed, 6).one_in(2) {
            store.create_bag(BAG);
            tables.push(BAG.to_owned());
        }
        faults.slow.store([0, 500, 5000][random.between(0, 3) as usize], Ordering::SeqCst);
        let histories: &[History] = match random.between(0, 5) {
            0 => &[History::Net],
            1 => &[History::Full],
            2 => &[History::Net, History::Net],
            _ => &[History::Net, History::Full],
        };
        let flaw = Flaw::new(defect, seed);
        let targets: Vec<Arc<TargetStore>> = histories.iter().map(|&h| TargetStore::new(h)).collect();
        let specs = targets.iter().zip(histories).map(|(store, history)| {
            let interval = match history {
                History::Net => 0,
                History::Full => random.between(0, 40),
            };
            let policy = CommitPolicy {
                interval: Duration::from_millis(interval),
                bytes: random.between(100, 100_000) as usize,
            };
            let target = faults::target(defects::target(MemoryTarget(Arc::clone(store)), &flaw), &faults);
            TargetSpec { name: format!("{history:?}"), target, policy }
        });
        let specs: Vec<TargetSpec> = specs.collect();
        let source = MemorySource(Arc::clone(&store), lens.rules().omissions());
        let pipeline = Pipeline {
            name: "simulation".to_owned(),
            source: faults::source(defects::source(source, &flaw), &faults),
            source_name: "memory".to_owned(),
            selection: Selection::default(),
            rules: lens.rules(),
            targets: specs,
            aggregates: vec![],
            limits: limits(&mut random),
            progress: Arc::default(),
            tuning: Arc::default(),
        };
        World { seed, store, targets, faults, flaw, lens, pipeline, tables, poisoned: None }
    }

    /// Whether every target streams.
    pub fn streams(&self) -> bool {
        let streams = |t: &Arc<TargetStore>| t.lock().checkpoint.as_ref().is_some_and(|c| c.phase == Phase::Streaming);
        self.targets.iter().all(streams)
    }

    /// A writer of random transactions.
    pub fn writer(&self) -> Writer {
        Writer { store: Arc::clone(&self.store), random: Random::new(self.seed, 3), tables: self.tables.clone() }
    }
}

fn limits(random: &mut Random) -> Limits {
    Limits {
        memory: random.between(200, 40_000) as usize,
        read_bytes: random.between(100, 3000) as usize,
        read_rows: random.between(1, 30) as usize,
        batch_bytes: random.between(100, 10_000) as usize,
        batch_rows: random.between(1, 100) as usize,
        queue: random.between(1, 5) as usize,
        copy_workers: random.between(1, 4) as usize,
        chunk_rows: random.between(1, 20),
        snapshot: Limits::default().snapshot,
        copy_rate: None,
        log_budget: None,
        backoff: Duration::from_millis(1),
    }
}

/// Somebody who uses the source.
pub struct Writer {
    store: Arc<Store>,
    random: Random,
    tables: Vec<String>,
}

impl Writer {
    /// Rows that are there before the pipeline begins.
    pub fn fill(&mut self) {
        for table in self.tables.clone() {
            let rows = self.random.between(0, KEYS);
            let mut state = State::new();
            let mut changes = Vec::new();
            for id in 0..rows {
                let change = self.insert(&table, id as i64, &state);
                change.apply(&mut state);
                changes.push(change);
            }
            self.store.commit(&changes, || false);
        }
    }

    /// Commits `transactions`, with pauses, until `stop`.
    pub fn run(&mut self, transactions: u64, pause_micros: u64, stop: &AtomicBool) {
        for _ in 0..transactions {
            if stop.load(Ordering::SeqCst) {
                return;
            }
            self.transaction();
            if self.random.one_in(2) {
                std::thread::sleep(Duration::from_micros(self.random.between(0, pause_micros.max(1))));
            }
        }
    }

    /// Commits one transaction.
    pub fn transaction(&mut self) {
        if self.random.one_in(60) {
            let table = &self.tables[self.random.between(0, self.tables.len() as u64) as usize];
            if !self.store.rename(table, "t", "text") {
                self.store.rename(table, "text", "t");
            }
            return;
        }
        let mut state = (*self.store.now()).clone();
        let steps = match self.random.between(0, 400) {
            0 => self.random.between(300, 1000),
            1..20 => self.random.between(50, 200), // larger than a batch, as a rule
            20..120 => self.random.between(2, 12),
            120..140 => 0, // of tables that nobody carries
            _ => 1,
        };
        let mut changes = Vec::new();
        while (changes.len() as u64) < steps {
            let table = self.tables[self.random.between(0, self.tables.len() as u64) as usize].clone();
            for change in self.change(&table, &state) {
                if let Some(rows) = state.get_mut(&table) {
                    change.apply(Arc::make_mut(rows));
                }
                changes.push(change);
            }
        }
        let mut random = self.random.clone();
        self.random.number();
        self.store.commit(&changes, move || random.one_in(2));
    }

    /// A change that is legal in this state; two rows may swap their unique value in several steps, and a row may hand its
    /// value to another as it goes.
    fn change(&mut self, table: &str, state: &Database) -> Vec<Change> {
        let rows = &state[table];
        let id = self.random.between(0, KEYS) as i64;
        let t = || table.to_owned();
        if !rows.contains_key(&id) {
            return vec![self.insert(table, id, rows)];
        }
        let other = self.random.between(0, KEYS) as i64;
        match self.random.between(0, 44) {
            0 if self.random.one_in(4) => vec![Change::Clear(t())],
            0..=9 => vec![Change::Delete(t(), id)],
            10..=15 if !rows.contains_key(&other) => vec![Change::Rekey(t(), id, other)],
            16..=22 if other != id && rows.contains_key(&other) => {
                let (mine, theirs) = (&rows[&id], &rows[&other]);
                vec![
                    Change::Update(t(), id, (None, mine.1.clone())),
                    Change::Update(t(), other, (mine.0, theirs.1.clone())),
                    Change::Update(t(), id, (theirs.0, mine.1.clone())),
                ]
            }
            23..=27 => {
                let cells = (rows[&id].0, self.text(table));
                vec![Change::Update(t(), id, cells)]
            }
            28..=31 if other != id => {
                let heir = (rows[&id].0, self.text(table));
                let known = rows.contains_key(&other);
                let inherit = if known { Change::Update } else { Change::Insert };
                vec![Change::Delete(t(), id), inherit(t(), other, heir)]
            }
            _ => {
                let cells = self.cells(table, rows);
                vec![Change::Update(t(), id, cells)]
            }
        }
    }

    fn insert(&mut self, table: &str, id: i64, rows: &State) -> Change {
        Change::Insert(table.to_owned(), id, self.cells(table, rows))
    }

    fn cells(&mut self, table: &str, rows: &State) -> Cells {
        (self.value(table, rows), self.text(table))
    }

    /// NULL or a number: in a bag one of few, under a unique index one that no row has now.
    fn value(&mut self, table: &str, rows: &State) -> Option<i64> {
        if self.random.one_in(6) {
            return None;
        }
        if table == BAG {
            return Some(self.random.between(1, 4) as i64);
        }
        if !table.starts_with('u') {
            return Some((self.random.number() >> 1) as i64);
        }
        let value = self.random.between(0, VALUES) as i64;
        (!rows.values().any(|cells| cells.0 == Some(value))).then_some(value)
    }

    fn text(&mut self, table: &str) -> Option<String> {
        if table == BAG {
            return [None, Some("x"), Some("y")][self.random.between(0, 3) as usize].map(str::to_owned);
        }
        let length = self.random.between(0, 30) as usize;
        (!self.random.one_in(5)).then(|| format!("{}{}", "x".repeat(length), self.random.between(0, 100)))
    }
}
