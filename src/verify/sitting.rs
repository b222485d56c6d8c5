//! What is read of tables while both sides are held at one position.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossfade_core::{KeyRange, Position, TableName};

use super::cut::Todo;
use super::part::{Lent, Pace, Part};
use super::recheck::Compared;
use super::{Canary, Fenced, Options, Verdict, overall};
use crate::transform::Mapped;

/// What was read of a table behind one fence.
pub struct Piece {
    /// The table.
    pub table: TableName,
    /// A mark of its shape.
    pub shape: String,
    /// The keys.
    pub range: KeyRange,
    /// Whether it is read once more.
    pub again: bool,
    /// How many of the comparison's proofs are its: one for each target.
    pub proofs: usize,
    /// How the comparison did with a change of its own.
    pub canary: Canary,
}

/// Both sides, held at one position for several comparisons.
pub struct Sitting {
    position: Position,
    at_micros: i64,
    options: Options,
    /// The tables, in their shape there.
    pub tables: Vec<Mapped>,
    /// Tables that cannot be compared as they are carried, and why.
    pub drift: BTreeMap<TableName, String>,
    source: Lent,
    targets: Vec<(Option<String>, Lent)>,
}

impl Sitting {
    /// Of both sides as the pipeline was held.
    pub fn new(fenced: Fenced) -> Sitting {
        let lent = |snapshot| Arc::new(Mutex::new(snapshot));
        Sitting {
            position: fenced.position,
            at_micros: fenced.at_micros,
            options: fenced.options,
            tables: fenced.tables,
            drift: fenced.drift,
            source: lent(fenced.source),
            targets: fenced.targets.into_iter().map(|(name, snapshot)| (name, lent(snapshot))).collect(),
        }
    }

    /// Compares what can be read of a table in time, and takes it from what is left to read.
    pub fn read(
        &mut self,
        mapped: &Mapped,
        todo: &mut Todo,
        until: Instant,
        time: Duration,
        all: &mut Compared,
    ) -> Piece {
        let began = Instant::now();
        let after = todo.ranges.first().and_then(|r| r.after.clone());
        let pace = Pace::new(todo.ranges.clone(), until);
        let part = |lent: &Lent, is_source| Part::side(lent, &self.position, &pace, is_source);
        let fenced = Fenced {
            position: self.position.clone(),
            at_micros: self.at_micros,
            held: Duration::ZERO,
            tables: vec![mapped.clone()],
            drift: self.drift.remove_entry(&mapped.source.name).into_iter().collect(),
            // What is beyond rows is asked once, of all tables.
            options: Options { references: false, ..self.options },
            aggregates: Vec::new(),
            source: part(&self.source, true),
            targets: self.targets.iter().map(|(name, lent)| (name.clone(), part(lent, false))).collect(),
        };
        let mut found = fenced.compare();
        let read = pace.read().clamp(1, todo.ranges.len());
        let mut to = todo.ranges[read - 1].to.clone();
        todo.ranges.drain(..read);
        // What could not be read now could not be a moment later, as a rule: the table is unknown, and the others go on.
        if overall(&found.proof.tables) == Verdict::Unknown {
            to = None;
        }
        let long = todo.uncut.as_ref().filter(|_| began.elapsed() > time);
        for proof in &mut found.proof.tables {
            proof.uncut = long.cloned();
        }
        let before = all.proof.tables.len();
        found.suspected.iter_mut().for_each(|s| s.at += before);
        all.suspected.append(&mut found.suspected);
        let proofs = found.proof.tables.len();
        all.proof.tables.append(&mut found.proof.tables);
        Piece {
            table: mapped.source.name.clone(),
            shape: todo.shape.clone(),
            range: KeyRange { after, to },
            again: todo.again,
            proofs,
            canary: found.proof.canary.unwrap_or_default(),
        }
    }
}
