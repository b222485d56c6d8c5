//! A table that cannot be followed is suspended: left out from its targets' last checkpoint on, while all others go on.
//!
//! A value that would not arrive as it was, or a change of shape that no step at the target follows, is the trouble of one
//! table. It ends the session like every error, and with it whatever the transaction in which it came had brought so far. Then
//! one commit at each target, where it stands, remembers that the table is left out, and why ([`Writer::suspend`]). The next
//! session reads the log from there *without the table*, as if it were not carried: so the transaction's other tables arrive
//! whole, and neither the value nor any later shape of that table is looked at. It is what `snapshot` does on its way to the
//! position where a table comes in (`again.rs`), with that position unknown; and `snapshot TABLE` is what ends it.
//!
//! What the target holds of the table is as old as that checkpoint, so nothing that has to do with all tables is well while one
//! is suspended: a proof is unknown, `lag` and `status` warn, and to have caught up is an error.
//!
//! Several targets leave a table out together. A crash may come between them; `agree` carries it out at all.
//!
//! A row that a unique index refuses which the source has dropped is no such trouble: the index goes (`unindexed.rs`).
//!
//! An error that names no table, one that names a table of the source and another of the target, and one of the last table that
//! is left stop the pipeline as before.

use std::collections::{BTreeMap, BTreeSet};

use crossfade_core::{Class, Error, Result, Selection, Suspension, TableName, Writer};

use super::progress::SuspendedTable;
use super::{Opened, Pipeline, unindexed};

/// Suspends the table that the error is about, at every target; returns the error where that is not possible.
pub(super) fn suspend(pipeline: &Pipeline, error: Error) -> Result<()> {
    let Class::Data(place) = error.class() else { return Err(error) };
    let mut opened = super::open(pipeline)?;
    if opened.iter().any(|o| o.writer.checkpoint().is_none()) {
        return Err(error);
    }
    let carried = carried(opened[0].writer.as_mut())?;
    let named = |(target, source): &&(TableName, TableName)| {
        place.table == target.to_string() || place.table == source.to_string()
    };
    let found: Vec<_> = carried.iter().filter(named).collect();
    let [(table, source)] = found[..] else { return Err(error) };
    let error = match place.index {
        None => error,
        Some(_) => match unindexed::release(pipeline, &mut opened, table, source) {
            Ok(false) => error,
            Ok(true) => return tell(pipeline, &mut opened),
            Err(e) if matches!(e.class(), Class::Data(_)) => {
                opened = super::open(pipeline)?; // a writer that failed is broken
                e
            }
            Err(e) => return Err(e),
        },
    };
    if carried.len() < 2 {
        return Err(error);
    }
    let (reason, hint) = (error.to_string(), error.hint_text());
    tracing::error!(
        table = %source,
        reason,
        hint,
        "the table is suspended, all others go on; `crossfade snapshot {source}` takes it in anew",
    );
    for o in &mut opened {
        leave_out(o, table, source, (&reason, hint))?;
    }
    tell(pipeline, &mut opened)
}

/// The tables that a target carries and that are not suspended, each with its name at the source.
fn carried(writer: &mut dyn Writer) -> Result<Vec<(TableName, TableName)>> {
    let suspended: BTreeSet<TableName> = writer.suspended()?.into_iter().map(|(table, _)| table).collect();
    let carried = writer.tables()?.into_iter().filter(|t| !suspended.contains(&t.name));
    Ok(carried.filter_map(|t| Some((t.name.clone(), t.origin.as_ref()?.name.clone()))).collect())
}

fn leave_out(o: &mut Opened<'_>, table: &TableName, source: &TableName, why: (&str, Option<&str>)) -> Result<()> {
    let missing = || Error::corrupt("a target has no checkpoint after it was begun");
    let position = o.writer.checkpoint().map(|c| c.position.clone()).ok_or_else(missing)?;
    let (reason, hint) = (why.0.to_owned(), why.1.map(str::to_owned));
    o.writer.suspend(table, &Suspension { source: source.clone(), position, reason, hint })
}

/// Tables that are suspended at some target and neither suspended nor about to come in at another are suspended there, too.
/// Those that are about to come in somewhere are returned: they are taken in at all.
pub(super) fn agree(pipeline: &Pipeline, opened: &mut [Opened<'_>]) -> Result<BTreeSet<TableName>> {
    let mut all: BTreeMap<TableName, Suspension> = BTreeMap::new();
    let mut arriving = BTreeSet::new();
    for o in opened.iter_mut() {
        all.extend(o.writer.suspended()?);
        arriving.extend(o.writer.since()?.into_iter().map(|(table, _)| table));
    }
    arriving.retain(|table| all.contains_key(table));
    for o in opened.iter_mut() {
        let known: BTreeSet<TableName> = o.writer.suspended()?.into_iter().map(|(table, _)| table).collect();
        let lacking = all.iter().filter(|(table, _)| !known.contains(*table) && !arriving.contains(*table));
        for (table, why) in lacking {
            leave_out(o, table, &why.source, (&why.reason, why.hint.as_deref()))?;
        }
    }
    tell(pipeline, opened)?;
    Ok(arriving)
}

/// Brings the picture of progress up to date.
pub(super) fn tell(pipeline: &Pipeline, opened: &mut [Opened<'_>]) -> Result<()> {
    let mut all = Vec::new();
    for o in opened.iter_mut() {
        all.extend(o.writer.suspended()?);
    }
    let told = told(pipeline, all);
    pipeline.progress.update(|v| {
        v.suspended = told;
        for o in opened.iter() {
            v.targets[o.index].checkpoint = o.writer.checkpoint().cloned();
        }
    });
    Ok(())
}

/// The suspended tables as the targets remember them, without a daemon.
pub fn recover(pipeline: &Pipeline) -> Result<Vec<SuspendedTable>> {
    let mut all = Vec::new();
    for spec in &pipeline.targets {
        all.extend(spec.target.suspended(&pipeline.name)?);
    }
    Ok(told(pipeline, all))
}

/// Each table once. Those that the pipeline no longer wants are nobody's concern: they were dropped at the source, say.
fn told(pipeline: &Pipeline, all: Vec<(TableName, Suspension)>) -> Vec<SuspendedTable> {
    let wanted = all.into_iter().map(|(_, why)| why).filter(|why| pipeline.selection.admits(&why.source));
    let by_name: BTreeMap<TableName, Suspension> = wanted.map(|why| (why.source.clone(), why)).collect();
    by_name.into_values().map(SuspendedTable::from).collect()
}

/// What is asked of a source that may be unable to carry the tables that are suspended: `selection` without those, but for the
/// ones that `wanted` names.
pub fn selection(pipeline: &Pipeline, suspended: &[SuspendedTable], wanted: impl Fn(&TableName) -> bool) -> Selection {
    let mut selection = pipeline.selection.clone();
    selection.exclude.extend(suspended.iter().filter(|s| !wanted(&s.table)).map(|s| s.table.to_string()));
    selection
}

/// An error while a table is suspended, for whoever asks whether the target holds all that the source has.
pub fn none(suspended: &[SuspendedTable]) -> Result<()> {
    if suspended.is_empty() {
        return Ok(());
    }
    let list: Vec<String> = suspended.iter().map(ToString::to_string).collect();
    let all = suspended.iter().map(|s| s.table.to_string()).collect::<Vec<_>>().join(", ");
    Err(Error::corrupt(format!("everything else is level, but suspended: {}", list.join("; "))).hint(format!(
        "tables {all}: mend what is told of them, then `crossfade snapshot`; `crossfade status` lists them"
    )))
}
