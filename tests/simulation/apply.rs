//! What a batch does to tables in memory.

use std::sync::Arc;

use crossfade_core::batch::SchemaStep;
use crossfade_core::{Batch, Error, History, Item, Logical, Op, Result, Rows, SchemaChange, TableName, TableSchema};

use super::codec::{self, Cell, Key, Row};
use super::target::Tables;

/// A change as a history keeps it. Cells that the log did not carry are `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Row(TableName, Op, Key, Vec<Option<Cell>>),
    Truncate(TableName),
    Rename(TableName, String),
}

/// The tables that a batch changes.
pub fn tables(batch: &Batch) -> Vec<TableName> {
    let name = |item: &Item| match item {
        Item::Rows(rows) => rows.table.name.clone(),
        Item::Schema(change) => change.from.name.clone(),
        Item::Truncate(table) => table.name.clone(),
    };
    batch.items.iter().map(name).collect()
}

/// Applies a batch. `strict`: the tables are the source's, so a change must fit what is there.
pub fn apply(
    batch: &Batch,
    strict: bool,
    history: History,
    shapes: &mut [Arc<TableSchema>],
    tables: &mut Tables,
    changes: &mut Vec<Change>,
) -> Result<()> {
    // Rows of several tables stand in one order, between truncations and changes of shape.
    let mut run: Vec<(u32, TableName, Change)> = Vec::new();
    for item in &batch.items {
        match item {
            Item::Rows(rows) => {
                let whole = apply_rows(rows, strict, history, tables)?;
                run.extend(rows.order.iter().zip(whole).map(|(&o, c)| (o, rows.table.name.clone(), c)));
            }
            Item::Truncate(table) => {
                settle(&mut run, changes);
                changes.push(Change::Truncate(table.name.clone()));
                tables.insert(table.name.clone(), Arc::default());
            }
            Item::Schema(change) => {
                settle(&mut run, changes);
                changes.extend(change.steps.iter().filter_map(|step| match step {
                    SchemaStep::Rename { to, .. } => Some(Change::Rename(change.from.name.clone(), to.clone())),
                    SchemaStep::Add { .. } | SchemaStep::Drop { .. } => None,
                }));
                reshape(change, tables)?;
                let from = shapes.iter_mut().find(|s| s.name == change.from.name);
                *from.ok_or_else(|| Error::corrupt(format!("no table {}", change.from.name)))? = Arc::clone(&change.to);
            }
        }
    }
    settle(&mut run, changes);
    Ok(())
}

fn settle(run: &mut Vec<(u32, TableName, Change)>, changes: &mut Vec<Change>) {
    run.sort_by_key(|(order, ..)| *order);
    changes.extend(run.drain(..).map(|(.., change)| change));
}

fn apply_rows(rows: &Rows, strict: bool, history: History, tables: &mut Tables) -> Result<Vec<Change>> {
    let table = &rows.table;
    let missing = || Error::corrupt(format!("no table {}", table.name));
    let state = Arc::make_mut(tables.get_mut(&table.name).ok_or_else(missing)?);
    let mut changes = Vec::new();
    if table.key.is_empty() {
        for (row, &op) in codec::encode(&rows.batch)?.into_iter().zip(&rows.ops) {
            changes.push(Change::Row(table.name.clone(), op, Vec::new(), row.iter().cloned().map(Some).collect()));
            match op {
                Op::Insert => codec::put(state, row),
                Op::Delete if codec::take(state, &row) => {}
                Op::Delete | Op::Update => return Err(Error::corrupt(format!("{}: {op:?} of {row:?}", table.name))),
            }
        }
        return Ok(changes);
    }
    for (i, (row, &op)) in codec::encode(&rows.batch)?.into_iter().zip(&rows.ops).enumerate() {
        let key = codec::key(table, &row);
        let known = state.get(&key);
        let fits = match op {
            Op::Insert => known.is_none(),
            Op::Update => known.is_some(),
            // A net deletion may be of a row that came and went in between.
            Op::Delete => known.is_some() || history == History::Net,
        };
        if strict && !fits {
            return Err(Error::corrupt(format!("{}: {op:?} does not fit: {key:?} is {known:?}", table.name)));
        }
        let carried = |c: usize| !rows.is_absent(c, i);
        let cells: Vec<Option<Cell>> =
            row.iter().enumerate().map(|(c, cell)| (carried(c) && op != Op::Delete).then(|| cell.clone())).collect();
        match (op, known.cloned()) {
            (Op::Delete, _) => {
                state.remove(&key);
            }
            (Op::Insert | Op::Update, Some(old)) => {
                let merged = row.into_iter().zip(old.iter()).enumerate();
                let merged: Row = merged.map(|(c, (new, old))| if carried(c) { new } else { old.clone() }).collect();
                state.insert(Arc::new(key.clone()), Arc::new(merged));
            }
            // The row is in a chunk that is still to come: half of it is worth nothing.
            (Op::Insert | Op::Update, None) if !(0..row.len()).all(carried) => {}
            (Op::Insert | Op::Update, None) => {
                state.insert(Arc::new(key.clone()), Arc::new(row));
            }
        }
        changes.push(Change::Row(table.name.clone(), op, key, cells));
    }
    Ok(changes)
}

fn reshape(change: &SchemaChange, tables: &mut Tables) -> Result<()> {
    let missing = || Error::corrupt(format!("no table {}", change.from.name));
    let state = Arc::make_mut(tables.get_mut(&change.from.name).ok_or_else(missing)?);
    let mut names: Vec<String> = change.from.columns.iter().map(|c| c.name.clone()).collect();
    let mut fills: Vec<(String, Cell)> = Vec::new();
    for step in &change.steps {
        match step {
            SchemaStep::Add { column, fill } => {
                let logical = change.to.ordinal(column).map(|i| change.to.columns[i].logical.clone());
                let value = fill.as_ref().map(|f| f.parse());
                let (Some(Logical::Int64), Ok(value)) = (logical, value.transpose()) else {
                    return Err(Error::corrupt(format!("{column}: only integers can be filled in here")));
                };
                fills.push((column.clone(), codec::integer(value)?));
            }
            // A column that is gone is left out below.
            SchemaStep::Drop { .. } => {}
            SchemaStep::Rename { from, to } => {
                names.iter_mut().filter(|n| *n == from).for_each(|n| n.clone_from(to));
            }
        }
    }
    for row in state.values_mut() {
        let cell = |name: &String| {
            let known = names.iter().position(|n| n == name).map(|i| row[i].clone());
            known.or_else(|| fills.iter().find(|(n, _)| n == name).map(|(_, c)| c.clone()))
        };
        let cells: Option<Row> = change.to.columns.iter().map(|c| cell(&c.name)).collect();
        *row = Arc::new(cells.ok_or_else(|| Error::corrupt(format!("{}: a column without a value", change.to.name)))?);
    }
    Ok(())
}
