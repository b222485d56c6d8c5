//! `repair`: rows that differ are written again, from the source, through the ordinary path.
//!
//! A comparison names the rows by key (`verify/`). Some at a time, the pipeline is then held at a position S, both sides are read
//! there by those keys, and what still differs becomes changes: insert, update, delete. They are handed to the target's own
//! writer as an errand (`pipeline/errand.rs`), which commits them with a checkpoint at S, and only while the target stands at S.
//! So a repair is a batch like any other, whose rows come from a snapshot instead of the log: fenced by epoch, whole or not
//! there after a crash, and in order with the log, which brings whatever the source does after S. Nothing is remembered of a
//! repair that is under way: after a crash it is asked for again, and finds what is left.
//!
//! A history (Parquet) gets each row's present state appended, as a change at S: its latest state is mended, and what was appended
//! before stays, as ever.
//!
//! Rows of a table without a key cannot be told apart, and several rows under one key cannot be told apart either: both are
//! refused by name.

use std::collections::{HashMap, HashSet, VecDeque};

use arrow_array::{RecordBatch, UInt32Array};
use arrow_select::interleave::interleave_record_batch;
use arrow_select::take::take_record_batch;
use crossfade_core::buckets::RowHash;
use crossfade_core::unfit::settle;
use crossfade_core::{Batch, Boundary, Class, Error, Op, Position, Result, Rows};
use serde::{Deserialize, Serialize};

use crate::pipeline::fence::Fence;
use crate::pipeline::session::Shared;
use crate::pipeline::{Pipeline, TargetSpec, errand};
use crate::transform::Mapped;
use crate::verify::difference::{Kind, Named, named, words};
use crate::verify::narrow::{Both, paired};
use crate::verify::recheck::{kind, same_shape};
use crate::verify::side::{Side, beside};
use crate::verify::{self, Compared, Proof};

/// Rows for which the pipeline is held once: few enough that replication stands still for a moment only.
const ROWS: usize = 2_000;

/// Bytes of such rows that are held, of each side: where they are larger, fewer are taken at a time.
const HELD: usize = 16 << 20;

/// Rows of a table of which it is told what is done,
pub const LISTED: usize = 1_000;
/// and bytes of their statements.
const LISTED_BYTES: usize = 4 << 20;

/// What a repair came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Whether rows were written, or only told.
    pub applied: bool,
    /// The tables that differed.
    pub tables: Vec<TableRepair>,
    /// The comparison: after the rows were written, else before.
    pub proof: Proof,
}

/// What was, or would be, done to one table at one target.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TableRepair {
    /// As the source names it.
    pub table: String,
    /// Where the target is, if there are several.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub target: Option<String>,
    /// Rows written, or to be written.
    pub rows: u64,
    /// Rows that were the same on both sides when they were read again.
    pub settled: u64,
    /// Why nothing is done to the table, or to some of its rows.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub refused: Option<String>,
    /// The first of the rows.
    pub listed: Vec<Deed>,
}

/// One row that is repaired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deed {
    /// `insert`, `update` or `delete`.
    pub op: String,
    /// Its key, as it arrives at the target.
    pub key: Vec<Named>,
    /// The same as a statement of the target's language, where it has one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub statement: Option<String>,
}

/// A repair under way.
pub struct Repair {
    apply: bool,
    tables: Vec<TableRepair>,
    open: VecDeque<Piece>,
    /// The keys' hashes of the rows taken up last.
    last: HashSet<u128>,
}

/// Rows of one table at one target, by key.
struct Piece {
    /// The place in [`Repair::tables`].
    at: usize,
    target: usize,
    mapped: Mapped,
    keys: RecordBatch,
    hashes: Vec<u128>,
}

impl Repair {
    /// A repair that writes, or one that only tells.
    pub fn new(apply: bool) -> Repair {
        Repair { apply, tables: Vec::new(), open: VecDeque::new(), last: HashSet::new() }
    }

    /// Takes up the rows that a comparison found. After the first time only where so many differed that not all were looked at,
    /// and only if those that were are mended: a row that stays different would be written for ever. False: there is nothing to do.
    pub fn take(&mut self, compared: &Compared) -> Result<bool> {
        let found = || compared.suspected.iter().flat_map(|s| s.suspects.rows.iter().map(|(key, _)| *key));
        if !self.tables.is_empty() {
            let cut_short = |at: usize| compared.proof.tables[at].differences.as_ref().is_some_and(|d| d.or_more);
            let again = found().any(|key| self.last.contains(&key));
            if again || !compared.suspected.iter().any(|s| cut_short(s.at)) {
                return Ok(false);
            }
        }
        self.last = found().collect();
        for suspected in &compared.suspected {
            let proof = &compared.proof.tables[suspected.at];
            let (table, target) = (proof.table.clone(), proof.target.clone());
            let at = match self.tables.iter().position(|t| t.table == table && t.target == target) {
                Some(at) => at,
                None => {
                    self.tables.push(TableRepair { table, target, ..TableRepair::default() });
                    self.tables.len() - 1
                }
            };
            if suspected.mapped.target.key.is_empty() {
                let name = &self.tables[at].table;
                self.tables[at].refused =
                    Some(format!("rows of a table without a key cannot be told apart: `crossfade snapshot {name}`"));
                continue;
            }
            let pieces = pieces(at, suspected)?;
            self.open.extend(pieces);
        }
        Ok(!self.open.is_empty())
    }

    /// Mends the next rows, with the pipeline held meanwhile. False: none is left. After an error that may pass these rows are the
    /// next again; those of them whose commit came through, though its answer was lost, are found to be the same on both sides.
    pub fn step(&mut self, shared: &Shared<'_>, pipeline: &Pipeline) -> Result<bool> {
        let Some(piece) = self.open.pop_front() else { return Ok(false) };
        let table = &mut self.tables[piece.at];
        let bytes = |d: &Deed| d.statement.as_ref().map_or(0, String::len);
        let told: usize = table.listed.iter().map(bytes).sum();
        let list = if told < LISTED_BYTES { LISTED.saturating_sub(table.listed.len()) } else { 0 };
        match mend(shared, pipeline, &piece, self.apply, list) {
            Ok(None) => {
                let [first, second] = piece.halves();
                self.open.push_front(second);
                self.open.push_front(first);
            }
            Ok(Some(done)) => {
                table.rows += done.rows;
                table.settled += done.settled;
                table.listed.extend(done.listed);
                table.refused = done.refused.or(table.refused.take());
            }
            // The target refuses a row: the table's other rows are likely to fare no better.
            Err(e) if matches!(e.class(), Class::Data(_)) => {
                table.refused = Some(match e.hint_text() {
                    Some(hint) => format!("{e} ({hint})"),
                    None => e.to_string(),
                });
                self.open.retain(|p| p.at != piece.at);
            }
            Err(e) => {
                self.open.push_front(piece);
                return Err(e);
            }
        }
        Ok(!self.open.is_empty())
    }

    /// What it came to, with the last comparison.
    pub fn report(self, proof: Proof) -> Report {
        Report { applied: self.apply, tables: self.tables, proof }
    }

    /// Whether it writes.
    pub fn applies(&self) -> bool {
        self.apply
    }
}

impl Piece {
    fn halves(&self) -> [Piece; 2] {
        let half = self.hashes.len() / 2;
        let part = |from: usize, to: usize| Piece {
            keys: self.keys.slice(from, to - from),
            hashes: self.hashes[from..to].to_vec(),
            mapped: self.mapped.clone(),
            ..*self
        };
        [part(0, half), part(half, self.hashes.len())]
    }
}

/// Cuts the rows of a table. Those that go come first: they may hold values of a unique index that others need.
fn pieces(at: usize, suspected: &verify::recheck::Suspected) -> Result<Vec<Piece>> {
    let rows = &suspected.suspects.rows;
    let goes = |row: &usize| rows[*row].1.source.rows == 0;
    let (first, second): (Vec<usize>, Vec<usize>) = (0..rows.len()).partition(goes);
    let order: Vec<usize> = first.into_iter().chain(second).collect();
    let piece = |some: &[usize]| {
        let places: UInt32Array = some.iter().map(|&row| row as u32).collect();
        let keys = take_record_batch(&suspected.suspects.keys, &places)
            .map_err(|e| Error::corrupt("keys form no batch").caused_by(e))?;
        let hashes = some.iter().map(|&row| rows[row].0).collect();
        Ok(Piece { at, target: suspected.target, mapped: suspected.mapped.clone(), keys, hashes })
    };
    order.chunks(ROWS).map(piece).collect()
}

/// What was done to a piece.
#[derive(Default)]
struct Done {
    rows: u64,
    settled: u64,
    refused: Option<String>,
    listed: Vec<Deed>,
}

/// `None`: the rows are too large to be held all at once.
fn mend(shared: &Shared<'_>, pipeline: &Pipeline, piece: &Piece, apply: bool, list: usize) -> Result<Option<Done>> {
    verify::streams(shared, pipeline)?;
    let name = &piece.mapped.source.name;
    let mut fence = Fence::hold(shared, std::slice::from_ref(&piece.mapped.source), verify::PATIENCE)?;
    let refused = |why: String| Ok(Some(Done { refused: Some(why), ..Done::default() }));
    // What came up to the fence may have changed the table's shape.
    let Some(mapped) = shared.carried().into_iter().find(|m| same_shape(m, &piece.mapped)) else {
        return refused("it has another shape by now: repair again".into());
    };
    if let Some(wrong) = verify::drift(pipeline, std::slice::from_ref(&mapped), &[]).remove(name) {
        return refused(wrong);
    }
    let spec = &pipeline.targets[piece.target];
    let mut target = verify::at_fence(pipeline, spec, std::slice::from_ref(&mapped.target), &fence.position)?;
    let Some(held) = Held::read(piece, fence.snapshot(), target.as_mut())? else { return Ok(None) };
    drop(target);
    let changes = held.changes(piece)?;
    let mut done = Done { settled: changes.settled, rows: changes.ops.len() as u64, ..Done::default() };
    if changes.repeated > 0 {
        done.refused = Some(format!(
            "{} keys have several rows, which cannot be told apart: `crossfade snapshot {name}`",
            changes.repeated
        ));
    }
    let Some(batch) = held.batch(&changes, &mapped)? else { return Ok(Some(done)) };
    let deeds = held.deeds(&changes, &batch, &mapped, spec, if apply { usize::MAX } else { list })?;
    if apply {
        let rows = rows(&changes, batch, &mapped);
        let end = Boundary::Commit(fence.position.clone());
        errand::send(
            shared,
            piece.target,
            Batch { items: vec![crossfade_core::Item::Rows(rows)], end, commit_micros: None },
        )?;
        tell(&deeds, &mapped, spec, &fence.position);
    }
    done.listed = deeds.into_iter().take(list).collect();
    Ok(Some(done))
}

/// One line for each row that was written: its key, and no value but at the level of debugging.
fn tell(deeds: &[Deed], mapped: &Mapped, spec: &TargetSpec, position: &Position) {
    for deed in deeds {
        let (table, target, op) = (&mapped.source.name, &spec.name, &deed.op);
        let key = key_text(&deed.key);
        tracing::info!(%table, target, key, op, %position, "row repaired");
        tracing::debug!(%table, key, statement = deed.statement, "row repaired");
    }
}

/// A key for people: `id = 5, part = 'x'` without the marks.
pub fn key_text(key: &[Named]) -> String {
    let part = |n: &Named| format!("{}={}", n.column, n.value.as_deref().unwrap_or("NULL"));
    key.iter().map(part).collect::<Vec<_>>().join(", ")
}

/// The rows of a piece on both sides, whole.
struct Held {
    /// The source's, then the target's.
    batches: Vec<RecordBatch>,
    both: HashMap<u128, Both>,
    source: HashMap<u128, (usize, usize)>,
    target: HashMap<u128, (usize, usize)>,
}

/// What has to happen, row by row.
#[derive(Default)]
struct Changes {
    ops: Vec<Op>,
    /// Where each row's values are.
    places: Vec<(usize, usize)>,
    /// Where the row is at the target, of an update.
    before: Vec<Option<(usize, usize)>>,
    settled: u64,
    repeated: u64,
}

impl Held {
    fn read(
        piece: &Piece,
        source: &mut dyn crossfade_core::Snapshot,
        target: &mut dyn crossfade_core::Snapshot,
    ) -> Result<Option<Held>> {
        let mapped = &piece.mapped;
        let mut source = Side { snapshot: source, mapped, is_source: true };
        let mut target = Side { snapshot: target, mapped, is_source: false };
        let wanted: HashSet<u128> = piece.hashes.iter().copied().collect();
        let (ours, theirs) = beside(&mut source, &mut target, |side| {
            let (mut found, mut bytes): (Vec<(RecordBatch, Vec<RowHash>)>, usize) = (Vec::new(), 0);
            side.fetch_to_write(&piece.keys, &wanted, |batch, hashes| {
                bytes += batch.get_array_memory_size();
                match bytes > HELD && piece.hashes.len() > 1 {
                    true => found.clear(),
                    false if hashes.is_empty() => {}
                    false => found.push((batch.clone(), hashes.to_vec())),
                }
                Ok(())
            })?;
            Ok((bytes <= HELD || piece.hashes.len() == 1).then_some(found))
        })?;
        let (Some(ours), Some(theirs)) = (ours, theirs) else { return Ok(None) };
        let hashes = |side: &[(RecordBatch, Vec<RowHash>)]| side.iter().flat_map(|(_, h)| h.clone()).collect();
        let both = paired(hashes(&ours), hashes(&theirs));
        let places = |side: &[(RecordBatch, Vec<RowHash>)], base: usize| {
            let rows = side.iter().enumerate().flat_map(|(at, (_, hashes))| {
                hashes.iter().enumerate().map(move |(row, hash)| (hash.key, (base + at, row)))
            });
            rows.collect::<HashMap<_, _>>()
        };
        let (source, target) = (places(&ours, 0), places(&theirs, ours.len()));
        let batches = ours.into_iter().chain(theirs).map(|(batch, _)| batch).collect();
        Ok(Some(Held { batches, both, source, target }))
    }

    fn changes(&self, piece: &Piece) -> Result<Changes> {
        let mut changes = Changes::default();
        for key in &piece.hashes {
            let both = self.both.get(key).copied().unwrap_or_default();
            let lost = || Error::corrupt("a row that was read is not held");
            let (op, place, before) = match kind(&both) {
                None => {
                    changes.settled += 1;
                    continue;
                }
                _ if both.source.rows > 1 || both.target.rows > 1 => {
                    changes.repeated += 1;
                    continue;
                }
                Some(Kind::Missing) => (Op::Insert, self.source.get(key), None),
                Some(Kind::Extra) => (Op::Delete, self.target.get(key), None),
                Some(Kind::Different | Kind::Repeated) => (Op::Update, self.source.get(key), self.target.get(key)),
            };
            changes.ops.push(op);
            changes.places.push(*place.ok_or_else(lost)?);
            changes.before.push(before.copied());
        }
        Ok(changes)
    }

    /// The rows of the changes; `None`: there are none.
    fn batch(&self, changes: &Changes, mapped: &Mapped) -> Result<Option<RecordBatch>> {
        if changes.ops.is_empty() {
            return Ok(None);
        }
        let batches: Vec<&RecordBatch> = self.batches.iter().collect();
        let batch = interleave_record_batch(&batches, &changes.places);
        batch
            .map(Some)
            .map_err(|e| Error::corrupt(format!("table {}: rows of a repair", mapped.source.name)).caused_by(e))
    }

    /// The first of the changes, for people.
    fn deeds(
        &self,
        changes: &Changes,
        batch: &RecordBatch,
        mapped: &Mapped,
        spec: &TargetSpec,
        limit: usize,
    ) -> Result<Vec<Deed>> {
        let table = &mapped.target;
        let deed = |row: usize| -> Result<Deed> {
            let one = batch.slice(row, 1);
            let one = settle(table, &one)?.map_or(one, |(settled, _)| settled);
            let ours = words(&one)?.remove(0);
            let changed: Vec<usize> = match changes.before[row] {
                Some((at, place)) => {
                    let theirs = words(&self.batches[at].slice(place, 1))?.remove(0);
                    (0..ours.len()).filter(|&i| ours[i] != theirs[i]).collect()
                }
                None => Vec::new(),
            };
            let op = match changes.ops[row] {
                Op::Insert => "insert",
                Op::Update => "update",
                Op::Delete => "delete",
            };
            let statement = spec.target.statement(changes.ops[row], table, &one, &changed)?;
            Ok(Deed { op: op.into(), key: table.key.iter().map(|&i| named(table, i, &ours)).collect(), statement })
        };
        (0..changes.ops.len().min(limit)).map(deed).collect()
    }
}

/// The changes as the log would have brought them. Their time is now: no transaction of the source made them.
fn rows(changes: &Changes, batch: RecordBatch, mapped: &Mapped) -> Rows {
    let count = changes.ops.len();
    Rows {
        table: std::sync::Arc::clone(&mapped.target),
        ops: changes.ops.clone(),
        batch,
        absent: Vec::new(),
        commit_micros: vec![crate::now_micros(); count],
        order: (0..count as u32).collect(),
    }
}
