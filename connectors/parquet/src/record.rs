//! What the log says: one record per commit, and the state that all of them together make.
//!
//! A record is a JSON object, readable at 3 in the morning. [`State`] is the fold of all records from the first; nothing
//! else remembers anything, so whoever reads the log knows what every other reader knows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crossfade_core::batch::SchemaStep;
use crossfade_core::{
    Checkpoint, ChunkState, Error, KeyRange, Owner, Phase, Position, Result, Suspension, TableName, TableSchema,
};
use serde::{Deserialize, Serialize};

/// The version of the record's form. A record of a later one is refused, not guessed at.
pub(crate) const FORMAT: u32 = 1;

/// One object of the log, `log/<number>.json`. Its existence is the commit.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    pub(crate) format: u32,
    /// One more than the record before; the first is 1.
    pub(crate) number: u64,
    /// Unlike that of any other attempt to write any record, so that a writer whose answer was lost knows its own.
    pub(crate) token: String,
    pub(crate) owner: Owner,
    /// The number of takeovers so far, this one included; never less than in the record before.
    pub(crate) epoch: u64,
    /// The files of all records up to this one are at their final names.
    pub(crate) published: u64,
    pub(crate) entry: Entry,
}

/// What a record says. Externally tagged on purpose: other forms cannot carry the 128-bit integers of key ranges.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Entry {
    /// A new owner has taken the pipeline: no older one can commit any more.
    Open,
    /// Tables and the shapes they have.
    Shapes(Vec<Shape>),
    /// How a table's copy is cut.
    Plan { table: TableName, ranges: Vec<KeyRange> },
    /// A chunk of the copy is here.
    Chunk { table: TableName, index: u32, high: Position, files: Vec<Staged> },
    /// A table is copied again, or taken in: in this shape, which no older one leads to. The files tell of the truncation;
    /// older files of the table count no longer. Changes at or before `since` are not wanted.
    Again { checkpoint: Checkpoint, shape: Shape, since: Position, files: Vec<Staged> },
    /// A table is left out from here on.
    Suspend { checkpoint: Checkpoint, table: TableName, why: Suspension },
    /// Everything of the stream up to a checkpoint is here.
    Commit { checkpoint: Checkpoint, shapes: Vec<Shape>, files: Vec<Staged> },
}

impl Entry {
    /// The files that the record commits.
    pub(crate) fn files(&self) -> &[Staged] {
        match self {
            Entry::Chunk { files, .. } | Entry::Again { files, .. } | Entry::Commit { files, .. } => files,
            Entry::Open | Entry::Shapes(_) | Entry::Plan { .. } | Entry::Suspend { .. } => &[],
        }
    }
}

/// A shape that a table has had since some point of the log.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Shape {
    /// Unlike that of any other shape of any table of the pipeline.
    pub(crate) id: u32,
    #[serde(with = "shared")]
    pub(crate) table: Arc<TableSchema>,
    /// The shape before, and how this one came from it.
    pub(crate) from: Option<(u32, Vec<Step>)>,
}

/// A shared table is stored as the table.
mod shared {
    use std::sync::Arc;

    use crossfade_core::TableSchema;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(table: &Arc<TableSchema>, out: S) -> Result<S::Ok, S::Error> {
        table.as_ref().serialize(out)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<TableSchema>, D::Error> {
        TableSchema::deserialize(from).map(Arc::new)
    }
}

/// Whether a shape comes from an older one, or from none: [`State::files_of`] follows them back to the first. The last id of
/// all is nobody's, or there would be none after it.
fn descends(shape: &Shape, known: impl Fn(u32) -> bool) -> bool {
    shape.id < u32::MAX && shape.from.as_ref().is_none_or(|(from, _)| *from < shape.id && known(*from))
}

/// [`SchemaStep`] as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Step {
    Add { column: String, fill: Option<String> },
    Drop { column: String },
    Rename { from: String, to: String },
}

impl From<&SchemaStep> for Step {
    fn from(step: &SchemaStep) -> Self {
        match step.clone() {
            SchemaStep::Add { column, fill } => Step::Add { column, fill },
            SchemaStep::Drop { column } => Step::Drop { column },
            SchemaStep::Rename { from, to } => Step::Rename { from, to },
        }
    }
}

/// A file of a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Staged {
    /// Its name in the staging area.
    pub(crate) stage: String,
    /// The shape of its rows.
    pub(crate) shape: u32,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
}

/// A committed file. Its final name follows from `shape`'s table, `record` and `n`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Committed {
    pub(crate) record: u64,
    /// Its place among the record's files.
    pub(crate) n: u32,
    pub(crate) shape: u32,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    /// Its name in the staging area, until it is known to be at its final name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) stage: Option<String>,
}

/// All records up to one, folded.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct State {
    /// The last record.
    pub(crate) number: u64,
    pub(crate) epoch: u64,
    pub(crate) owner: Option<Owner>,
    pub(crate) published: u64,
    pub(crate) checkpoint: Option<Checkpoint>,
    pub(crate) shapes: BTreeMap<u32, Shape>,
    pub(crate) chunks: Vec<ChunkState>,
    /// Of tables that were copied again.
    #[serde(default)]
    pub(crate) since: Vec<(TableName, Position)>,
    /// Tables that are left out, and why.
    #[serde(default)]
    pub(crate) suspended: Vec<(TableName, Suspension)>,
    /// In the order of commits.
    pub(crate) files: Vec<Committed>,
}

impl State {
    /// Whether the record follows. Asked before one is written, too: a log must never hold one that does not.
    pub(crate) fn check(&self, record: &Record) -> Result<()> {
        let broken = |what: &str| Err(Error::corrupt(format!("log record {}: {what}", record.number)));
        if record.format != FORMAT {
            return Err(Error::corrupt(format!("log record {} has form {}", record.number, record.format))
                .hint("a later version of this program wrote it: run that version"));
        }
        if record.number != self.number + 1 || record.epoch < self.epoch || record.published > self.number {
            return broken("it does not follow from the one before");
        }
        let mut new: &[Shape] = &[];
        match &record.entry {
            Entry::Open if record.epoch != self.epoch + 1 => return broken("a takeover raises the epoch by one"),
            Entry::Open => {}
            Entry::Plan { table, ranges } => {
                if self.chunks.iter().any(|c| c.table == *table) || u32::try_from(ranges.len()).is_err() {
                    return broken("a copy is planned a second time, or in too many chunks");
                }
            }
            Entry::Chunk { table, index, .. } => match self.chunk(table, *index) {
                Some(chunk) if chunk.done.is_none() => {}
                Some(_) => return broken("a chunk is done a second time"),
                None => return broken("a chunk is done that was not planned"),
            },
            Entry::Shapes(shapes) => new = shapes,
            Entry::Again { checkpoint, shape, .. } => {
                new = std::slice::from_ref(shape);
                if checkpoint.seq != self.seq() + 1 {
                    return broken("its checkpoint does not follow from the one before");
                }
            }
            Entry::Suspend { checkpoint, table, .. } => {
                if checkpoint.seq != self.seq() + 1 || self.current(table).is_none() {
                    return broken("its checkpoint does not follow from the one before, or its table is not there");
                }
            }
            Entry::Commit { checkpoint, shapes, .. } => {
                new = shapes;
                if checkpoint.seq != self.seq() + 1 {
                    return broken("its checkpoint does not follow from the one before");
                }
            }
        }
        let known = |id: u32| self.shapes.contains_key(&id) || new.iter().any(|s| s.id == id);
        if new.iter().any(|s| self.shapes.contains_key(&s.id)) {
            return broken("a shape has the id of another");
        }
        if !new.iter().all(|s| descends(s, known)) {
            return broken("a shape comes from none that was there before");
        }
        if record.entry.files().iter().any(|f| !known(f.shape)) || u32::try_from(record.entry.files().len()).is_err() {
            return broken("a file is of unknown shape, or there are too many");
        }
        Ok(())
    }

    /// A state that was read, if one can go on from it: nothing has counted to its end, and shapes come from older ones.
    pub(crate) fn sound(self) -> Result<Self> {
        let counted = [self.number, self.epoch, self.seq(), self.published].contains(&u64::MAX);
        let known = |id: u32| self.shapes.contains_key(&id);
        if counted || !self.shapes.iter().all(|(id, s)| *id == s.id && descends(s, known)) {
            return Err(Error::corrupt(format!("the summary of log record {} contradicts itself", self.number))
                .hint("delete it: the log's records tell the same"));
        }
        Ok(self)
    }

    fn chunk(&self, table: &TableName, index: u32) -> Option<&ChunkState> {
        self.chunks.iter().find(|c| c.table == *table && c.index == index)
    }

    /// Adds the next record.
    pub(crate) fn apply(&mut self, record: &Record) -> Result<()> {
        self.check(record)?;
        match &record.entry {
            Entry::Open => {}
            Entry::Shapes(shapes) => self.add_shapes(shapes),
            Entry::Plan { table, ranges } => {
                let planned = (0u32..).zip(ranges).map(|(index, range)| ChunkState {
                    table: table.clone(),
                    index,
                    range: range.clone(),
                    done: None,
                });
                self.chunks.extend(planned);
            }
            Entry::Chunk { table, index, high, .. } => {
                for chunk in self.chunks.iter_mut().filter(|c| c.table == *table && c.index == *index) {
                    chunk.done = Some(high.clone());
                }
            }
            Entry::Again { checkpoint, shape, since, .. } => {
                self.chunks.retain(|c| c.table != shape.table.name);
                self.since.retain(|(table, _)| *table != shape.table.name);
                self.since.push((shape.table.name.clone(), since.clone()));
                self.suspended.retain(|(table, _)| *table != shape.table.name);
                self.add_shapes(std::slice::from_ref(shape));
                self.checkpoint = Some(checkpoint.clone());
            }
            Entry::Suspend { checkpoint, table, why } => {
                self.chunks.retain(|c| c.table != *table);
                self.since.retain(|(name, _)| name != table);
                self.suspended.retain(|(name, _)| name != table);
                self.suspended.push((table.clone(), why.clone()));
                self.checkpoint = Some(checkpoint.clone());
            }
            Entry::Commit { checkpoint, shapes, .. } => {
                self.add_shapes(shapes);
                if checkpoint.phase == Phase::Streaming {
                    self.since.clear(); // the stream has passed them all
                }
                self.checkpoint = Some(checkpoint.clone());
            }
        }
        let committed = (0u32..).zip(record.entry.files()).map(|(n, file)| Committed {
            record: record.number,
            n,
            shape: file.shape,
            rows: file.rows,
            bytes: file.bytes,
            stage: Some(file.stage.clone()),
        });
        self.files.extend(committed);
        self.number = record.number;
        self.epoch = record.epoch;
        self.owner = Some(record.owner.clone());
        self.set_published(record.published);
        Ok(())
    }

    fn add_shapes(&mut self, shapes: &[Shape]) {
        self.shapes.extend(shapes.iter().map(|s| (s.id, s.clone())));
    }

    /// The files of all records up to `number` are at their final names.
    pub(crate) fn set_published(&mut self, number: u64) {
        self.published = self.published.max(number);
        // Published files come first: walk back over the few that were not.
        for file in self.files.iter_mut().rev().take_while(|f| f.stage.is_some()) {
            if file.record <= self.published {
                file.stage = None;
            }
        }
    }

    /// The `seq` of the last checkpoint; 0 before the first.
    pub(crate) fn seq(&self) -> u64 {
        self.checkpoint.as_ref().map_or(0, |c| c.seq)
    }

    /// The shape that a table has now.
    pub(crate) fn current(&self, table: &TableName) -> Option<&Shape> {
        self.shapes.values().rev().find(|s| s.table.name == *table)
    }

    /// Every table's shape now.
    pub(crate) fn tables(&self) -> Vec<Arc<TableSchema>> {
        let mut seen = BTreeSet::new();
        let newest = self.shapes.values().rev().filter(|s| seen.insert(s.table.name.clone()));
        let mut tables: Vec<_> = newest.map(|s| Arc::clone(&s.table)).collect();
        tables.sort_by(|a, b| a.name.cmp(&b.name));
        tables
    }

    /// An id that no shape has.
    pub(crate) fn next_shape(&self) -> u32 {
        self.shapes.keys().next_back().map_or(1, |id| id + 1)
    }

    /// The files of a table since it was last begun anew, in the order of commits.
    pub(crate) fn files_of(&self, table: &TableName) -> impl Iterator<Item = &Committed> {
        // Shapes since then lead to the present one.
        let before = |s: &&Shape| self.shapes.get(&s.from.as_ref()?.0);
        let shapes: BTreeSet<u32> = std::iter::successors(self.current(table), |s| before(s)).map(|s| s.id).collect();
        self.files.iter().filter(move |f| shapes.contains(&f.shape))
    }
}

#[cfg(test)]
mod tests {
    use crossfade_core::KeyRange;
    use crossfade_core::source::KeyPart;

    use super::*;

    #[test]
    fn wide_integers_of_key_ranges_survive() {
        let to = Some(vec![KeyPart::Int(i128::MIN), KeyPart::Int(i128::from(u64::MAX)), KeyPart::Bytes(vec![0, 255])]);
        let entry = Entry::Plan { table: TableName::new("a", "b"), ranges: vec![KeyRange { after: None, to }] };
        let text = serde_json::to_string(&entry).unwrap();
        let Entry::Plan { ranges, .. } = serde_json::from_str(&text).unwrap() else { panic!("{text}") };
        let Entry::Plan { ranges: before, .. } = entry else { unreachable!() };
        assert_eq!(ranges, before);
    }

    fn record(number: u64, epoch: u64, entry: Entry) -> Record {
        let owner = Owner { pipeline: "p".into(), host: "h".into(), pid: 1 };
        Record { format: FORMAT, number, token: String::new(), owner, epoch, published: 0, entry }
    }

    #[test]
    fn a_log_with_a_gap_or_a_repeated_chunk_is_refused() {
        let mut state = State::default();
        state.apply(&record(1, 1, Entry::Open)).unwrap();
        assert!(state.clone().apply(&record(3, 1, Entry::Shapes(vec![]))).is_err());
        assert!(state.clone().apply(&record(2, 0, Entry::Shapes(vec![]))).is_err(), "an older epoch");
        let table = TableName::new("a", "b");
        let plan = Entry::Plan { table: table.clone(), ranges: vec![KeyRange::ALL] };
        state.apply(&record(2, 1, plan)).unwrap();
        let chunk = Entry::Chunk { table, index: 0, high: Position::new("x"), files: vec![] };
        state.apply(&record(3, 1, chunk.clone())).unwrap();
        assert!(state.apply(&record(4, 1, chunk)).is_err());
    }
}
