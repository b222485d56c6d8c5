//! The net effect of a batch: at most one change per key.
//!
//! A target that keeps the latest state of each row need not write what a later change of the same batch overwrites.
//! `fold` keeps, per table and key, the last image, and what it means for a target that held the state before the batch:
//!
//! | first change | last change     | net effect                                       |
//! |--------------|-----------------|--------------------------------------------------|
//! | insert       | insert, update  | `Insert`: the key is new, COPY may bring it      |
//! | update       | insert, update  | `Update`: whole row, or with columns still absent |
//! | delete       | insert, update  | `Update`: whole row                              |
//! | any          | delete          | `Delete`                                         |
//!
//! Insert followed by delete stays a `Delete` rather than nothing: during the initial copy a chunk may have brought the
//! row before the stream did. Absent columns (minimal row images, unchanged TOAST) are filled from earlier images of
//! the same key in the batch; what no image carries stays absent.
//!
//! Keys are compared by their exact value, never by a collation: `a` and `A` are two keys here, as the decoder
//! turns an update of one into the other into a delete and an insert.
//!
//! A table without a key is a bag of rows; its net effect is told in `bag.rs`.
//!
//! Invariants: `apply(fold(b))` equals `apply(b)` (a property test holds it), and a change of shape or a truncation of
//! a table stays between the rows before and after it.

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch, new_null_array};
use arrow_buffer::BooleanBuffer;
use arrow_schema::ArrowError;
use arrow_select::interleave::interleave;
use crossfade_core::{Error, Item, Op, Result, Rows, TableName, TableSchema};
use hashbrown::HashMap;

use crate::bag::Bag;
use crate::gather;
use crate::numbering::Numbering;

/// Folds items in log order to their net effect.
pub fn fold(items: Vec<Item>) -> Result<Vec<Item>> {
    let mut out = Vec::new();
    let mut open: Vec<Open> = Vec::new();
    for item in items {
        match item {
            Item::Rows(rows) => match open.iter_mut().find(|n| n.table().name == rows.table.name) {
                Some(net) => net.add(rows)?,
                None => {
                    let mut net = Open::new(Arc::clone(&rows.table))?;
                    net.add(rows)?;
                    open.push(net);
                }
            },
            Item::Schema(change) => {
                close(&mut open, &change.from.name, &mut out)?;
                out.push(Item::Schema(change));
            }
            Item::Truncate(table) => {
                // What came before the truncation cannot be seen after it.
                open.retain(|n| n.table().name != table.name);
                out.push(Item::Truncate(table));
            }
        }
    }
    for net in open {
        out.extend(net.finish()?);
    }
    Ok(out)
}

fn close(open: &mut Vec<Open>, table: &TableName, out: &mut Vec<Item>) -> Result<()> {
    if let Some(at) = open.iter().position(|n| n.table().name == *table) {
        out.extend(open.swap_remove(at).finish()?);
    }
    Ok(())
}

/// The net effect on one table: by key, or by whole rows where there is none.
enum Open {
    Keyed(Net),
    Bag(Bag),
}

impl Open {
    fn new(table: Arc<TableSchema>) -> Result<Self> {
        Ok(if table.key.is_empty() { Open::Bag(Bag::new(table)?) } else { Open::Keyed(Net::new(table)?) })
    }

    fn table(&self) -> &TableSchema {
        match self {
            Open::Keyed(net) => &net.table,
            Open::Bag(bag) => &bag.table,
        }
    }

    fn add(&mut self, rows: Rows) -> Result<()> {
        if rows.table.version != self.table().version {
            return Err(Error::corrupt(format!(
                "table {}: rows of shape {} after rows of shape {} without a schema change between them",
                rows.table.name,
                rows.table.version,
                self.table().version
            )));
        }
        match self {
            Open::Keyed(net) => net.add(rows),
            Open::Bag(bag) => bag.add(rows),
        }
    }

    /// `None`: everything has cancelled.
    fn finish(self) -> Result<Option<Item>> {
        let rows = match self {
            Open::Keyed(net) => net.finish()?,
            Open::Bag(bag) => bag.finish()?,
        };
        Ok((!rows.is_empty()).then_some(Item::Rows(rows)))
    }
}

/// Where a value stands: (index into [`Net::parts`], row). Half the bytes of a `usize` count: there is one for each row.
type At = (u32, u32);

/// Per column, where its value stands; `None`: no image carried it.
type Images = Box<[Option<At>]>;

/// What is known of one key.
struct Entry {
    op: Op,
    /// Whether the key existed before the batch's first change of it.
    existed: bool,
    last: At,
}

/// The net effect on one table, as it grows.
struct Net {
    table: Arc<TableSchema>,
    parts: Vec<Rows>,
    keys: Numbering,
    /// By the key's number.
    entries: Vec<Entry>,
    /// By the key's number, for rows of which the last change lacked a column.
    partly: HashMap<u32, Images>,
}

impl Net {
    fn new(table: Arc<TableSchema>) -> Result<Self> {
        let keys = Numbering::new(table.key_columns().map(|c| c.logical.arrow())).map_err(|e| broken(&table, e))?;
        Ok(Net { table, parts: Vec::new(), keys, entries: Vec::new(), partly: HashMap::new() })
    }

    fn add(&mut self, rows: Rows) -> Result<()> {
        let key_arrays: Vec<ArrayRef> = self.table.key.iter().map(|&i| Arc::clone(rows.batch.column(i))).collect();
        let keys = self.keys.add(&key_arrays).map_err(|e| broken(&self.table, e))?;
        let part = self.parts.len() as u32;
        for ((row, &op), key) in rows.ops.iter().enumerate().zip(keys) {
            let at = (part, row as u32);
            let absent = if rows.absent.is_empty() { None } else { absent_columns(&rows, row) };
            match self.entries.get_mut(key as usize) {
                Some(entry) => {
                    let before = if self.partly.is_empty() { None } else { self.partly.remove(&key) };
                    if let Some(absent) = absent {
                        self.partly.insert(key, entry.images(op, at, &absent, before));
                    }
                    (entry.op, entry.last) = (op, at);
                }
                None => {
                    if let Some(absent) = absent {
                        self.partly.insert(key, carried(&absent, at));
                    }
                    self.entries.push(Entry { op, existed: op != Op::Insert, last: at });
                }
            }
        }
        self.parts.push(rows);
        Ok(())
    }

    /// What is no longer needed goes before the rows are gathered: only then do they exist twice, column by column.
    fn finish(self) -> Result<Rows> {
        let Net { table, parts, keys, entries, partly } = self;
        drop(keys);
        let order = (0..entries.len() as u32).collect();
        let whole = partly.is_empty();
        let changes: usize = parts.iter().map(Rows::len).sum();
        if whole && entries.len() == changes {
            // No key came twice: each change is its own net effect.
            drop(entries);
            let ops = parts.iter().map(|p| p.ops.as_slice()).collect::<Vec<_>>().concat();
            let commit_micros = parts.iter().map(|p| p.commit_micros.as_slice()).collect::<Vec<_>>().concat();
            let batch = gather::join(parts).map_err(|e| broken(&table, e))?;
            return Ok(Rows { table, ops, batch, absent: Vec::new(), commit_micros, order });
        }
        let ops = entries.iter().map(Entry::net_op).collect();
        let time = |e: &Entry| parts[e.last.0 as usize].commit_micros[e.last.1 as usize];
        let commit_micros = entries.iter().map(time).collect();
        let (batch, absent) = if whole {
            let picks: Vec<(usize, usize)> = entries.iter().map(|e| wide(e.last)).collect();
            drop(entries);
            (gather::pick(parts, &picks), Vec::new())
        } else {
            take_columns(&table, parts, &entries, &partly)
        };
        Ok(Rows { batch: batch.map_err(|e| broken(&table, e))?, table, ops, absent, commit_micros, order })
    }
}

/// Some values come from other images of the row, or from none.
fn take_columns(
    table: &TableSchema,
    parts: Vec<Rows>,
    entries: &[Entry],
    partly: &HashMap<u32, Images>,
) -> (Result<RecordBatch, ArrowError>, Vec<Option<BooleanBuffer>>) {
    let mut absent = Vec::with_capacity(table.columns.len());
    let nowhere = (parts.len(), 0);
    let batch = gather::each_column(parts, |i, sources| {
        let null = new_null_array(sources[0].data_type(), 1);
        let sources: Vec<&dyn Array> = sources.iter().copied().chain([null.as_ref()]).collect();
        let pick = |(key, entry): (usize, &Entry)| match partly.get(&(key as u32)) {
            Some(images) => images[i].map_or(nowhere, wide),
            None => wide(entry.last),
        };
        let picks: Vec<(usize, usize)> = entries.iter().enumerate().map(pick).collect();
        let gone: BooleanBuffer = picks.iter().map(|&p| p == nowhere).collect();
        absent.push((gone.count_set_bits() > 0).then_some(gone));
        interleave(&sources, &picks)
    });
    if absent.iter().all(Option::is_none) {
        absent.clear();
    }
    (batch, absent)
}

/// As Arrow wants it.
fn wide((part, row): At) -> (usize, usize) {
    (part as usize, row as usize)
}

/// An image of the row that lacks columns, and nothing before it that could fill them.
fn carried(absent: &[bool], at: At) -> Images {
    absent.iter().map(|&gone| (!gone).then_some(at)).collect()
}

impl Entry {
    /// The images of the row after a further change that lacks columns; `before` it there were these, or the last one alone.
    fn images(&self, op: Op, at: At, absent: &[bool], before: Option<Images>) -> Images {
        if op != Op::Update || self.op == Op::Delete {
            return carried(absent, at);
        }
        let earlier = |i: usize| before.as_ref().map_or(Some(self.last), |images| images[i]);
        absent.iter().enumerate().map(|(i, &gone)| if gone { earlier(i) } else { Some(at) }).collect()
    }

    fn net_op(&self) -> Op {
        match (self.existed, self.op) {
            (_, Op::Delete) => Op::Delete,
            (false, Op::Insert | Op::Update) => Op::Insert,
            (true, Op::Insert | Op::Update) => Op::Update,
        }
    }
}

fn absent_columns(rows: &Rows, row: usize) -> Option<Vec<bool>> {
    let flags: Vec<bool> = (0..rows.table.columns.len()).map(|c| rows.is_absent(c, row)).collect();
    flags.contains(&true).then_some(flags)
}

fn broken(table: &TableSchema, e: ArrowError) -> Error {
    Error::corrupt(format!("table {}: folding its changes", table.name)).caused_by(e)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use arrow_array::cast::AsArray;
    use arrow_array::types::Int64Type;
    use crossfade_core::{Column, ColumnBuilder, Logical, RowsBuilder};
    use proptest::prelude::*;

    use super::*;

    fn table() -> Arc<TableSchema> {
        let column = |name: &str| Column {
            name: name.into(),
            source_type: "bigint".into(),
            logical: Logical::Int64,
            nullable: true,
            auto_increment: false,
            number: 0,
            policies: Default::default(),
        };
        Arc::new(TableSchema {
            name: TableName::new("s", "t"),
            version: 1,
            columns: vec![column("id"), column("a"), column("b")],
            key: vec![0],
            indexes: vec![],
            foreign_keys: vec![],
            origin: None,
            pending: vec![],
            number: 0,
        })
    }

    /// A change: op, key, and per column a value, NULL or absent.
    #[derive(Debug, Clone)]
    struct Change(Op, i64, [Option<Option<i64>>; 2]);

    fn rows(changes: &[Change]) -> Rows {
        let mut b = RowsBuilder::new(table());
        for (i, Change(op, id, values)) in changes.iter().enumerate() {
            let ColumnBuilder::Int64(key) = &mut b.columns[0] else { unreachable!() };
            key.append_value(*id);
            for (c, value) in values.iter().enumerate() {
                match value {
                    None => b.append_absent(c + 1),
                    Some(v) => {
                        let ColumnBuilder::Int64(column) = &mut b.columns[c + 1] else { unreachable!() };
                        column.append_option(*v);
                    }
                }
            }
            b.end_row(*op, 0, i as u32);
        }
        b.finish().unwrap()
    }

    /// A raw choice: what to do, to which key, with which values.
    type Choice = (u8, i64, [Option<Option<i64>>; 2]);
    type State = BTreeMap<i64, [Option<i64>; 2]>;

    /// What a target does with rows, without regard to speed.
    fn apply(state: &mut State, rows: &Rows) {
        let column = |c: usize| rows.batch.column(c).as_primitive::<Int64Type>();
        for (i, op) in rows.ops.iter().enumerate() {
            let id = column(0).value(i);
            if *op == Op::Delete {
                state.remove(&id);
                continue;
            }
            let row = state.entry(id).or_default();
            for (c, value) in row.iter_mut().enumerate() {
                if !rows.is_absent(c + 1, i) {
                    *value = column(c + 1).is_valid(i).then(|| column(c + 1).value(i));
                }
            }
        }
    }

    /// Makes a legal history of raw choices: inserts only of keys that are not there, updates and deletes only of keys that are.
    fn history(choices: Vec<Choice>, before: &State) -> Vec<Change> {
        let mut there: std::collections::BTreeSet<i64> = before.keys().copied().collect();
        let mut out = Vec::new();
        for (choice, id, values) in choices {
            let op = match (there.contains(&id), choice) {
                (false, _) => Op::Insert,
                (true, 0) => Op::Delete,
                (true, _) => Op::Update,
            };
            let values = match op {
                Op::Update => values,
                Op::Insert | Op::Delete => values.map(|v| Some(v.flatten())),
            };
            if op == Op::Delete {
                there.remove(&id)
            } else {
                there.insert(id)
            };
            out.push(Change(op, id, values));
        }
        out
    }

    proptest! {
        #[test]
        fn folding_changes_nothing(
            before in proptest::collection::btree_map(0i64..6, any::<[Option<i64>; 2]>(), 0..6),
            choices in proptest::collection::vec((0u8..3, 0i64..6, any::<[Option<Option<i64>>; 2]>()), 0..40),
            cut in 0usize..40,
        ) {
            let changes = history(choices, &before);
            let cut = cut.min(changes.len());
            let parts: Vec<Rows> = [&changes[..cut], &changes[cut..]].iter().filter(|p| !p.is_empty()).map(|p| rows(p)).collect();
            let mut plain = before.clone();
            parts.iter().for_each(|p| apply(&mut plain, p));
            let mut folded = before.clone();
            for item in fold(parts.into_iter().map(Item::Rows).collect()).unwrap() {
                let Item::Rows(net) = item else { unreachable!() };
                let mut seen = std::collections::BTreeSet::new();
                for (i, op) in net.ops.iter().enumerate() {
                    let id = net.batch.column(0).as_primitive::<Int64Type>().value(i);
                    prop_assert!(seen.insert(id), "one change per key");
                    prop_assert_eq!(*op == Op::Insert, *op != Op::Delete && !before.contains_key(&id), "insert means new");
                    prop_assert!(*op != Op::Insert || (!net.is_absent(1, i) && !net.is_absent(2, i)), "a new row is whole");
                }
                apply(&mut folded, &net);
            }
            prop_assert_eq!(plain, folded);
        }
    }

    #[test]
    fn truncation_keeps_its_place() {
        let change = |id| rows(&[Change(Op::Insert, id, [Some(None), Some(None)])]);
        let items = vec![Item::Rows(change(1)), Item::Truncate(table()), Item::Rows(change(2))];
        let out = fold(items).unwrap();
        assert!(matches!(out.as_slice(), [Item::Truncate(_), Item::Rows(r)] if r.len() == 1));
    }

    #[test]
    fn shapes_are_never_mixed() {
        let mut newer = (*table()).clone();
        newer.version = 2;
        let mut second = rows(&[Change(Op::Insert, 2, [Some(None), Some(None)])]);
        second.table = Arc::new(newer);
        let first = rows(&[Change(Op::Insert, 1, [Some(None), Some(None)])]);
        let e = fold(vec![Item::Rows(first), Item::Rows(second)]).unwrap_err();
        assert!(e.to_string().contains("without a schema change"), "{e}");
    }
}
