//! `snapshot`: tables taken in, or copied again, while all else goes on.
//!
//! A table's shape X is read from the source's catalog, between two readings that agree, with a position P in the middle:
//! after P the log speaks of the table in that shape. One commit at each target then empties the table, remembers X and
//! `since` P, and turns the phase back to copying, at the position C where the target stands.
//!
//! Between C and P the log may hold changes of the table in shapes that nobody knows any more, which may be the very reason
//! why it is copied again. None of them is wanted: the copy reads after P. So they are not skipped one by one, which would
//! mean to decode them; the pipeline runs from C to exactly P *without the table*, as if it were not carried
//! (`attempt` in the module above), and takes it in at P. It copies nothing on that way, so it cannot end the phase there, and a crash
//! anywhere finds `since` at the target and does the same. At P it is a copy like any other, in which only this table has
//! chunks to do; the others stream.
//!
//! Where every table is taken in anew, nothing is carried between C and P: the pipeline goes to P without reading the log that
//! lies between, which may no longer be there. So this is also the way on from a log that is lost.

use std::collections::BTreeSet;
use std::sync::Arc;

use crossbeam_channel::Sender;
use crossfade_core::selection::glob_matches;
use crossfade_core::{Checkpoint, Class, Error, Position, Result, TableName, TableSchema, Writer};

use super::{Opened, Pipeline, suspend};
use crate::transform::Transform;

/// Tables that somebody wants to have copied again.
pub struct Wish {
    /// Which: globs over the source's names.
    pub tables: Vec<String>,
    /// Told the tables' names once every target has let go of them.
    pub reply: Sender<Result<Vec<String>>>,
}

/// What is said of a wish that failed.
pub(super) const FAILED: &str = "the tables could not be taken in anew; the pipeline goes on";

/// For whoever asked. A target may have let go of a table before another failed: then [`agree`] carries it out at all.
pub(super) fn failed(error: Error) -> Error {
    let mend = "if `crossfade status` shows the phase copying, it was begun and is carried out; else ask again";
    let hint = error.hint_text().map_or_else(|| mend.to_owned(), |first| format!("{first}; {mend}"));
    error.context(FAILED).hint(hint)
}

/// Without a daemon: takes the pipeline and does what is told above; the next run copies.
pub fn reset(pipeline: &Pipeline, globs: &[String]) -> Result<Vec<String>> {
    let mut opened = super::open(pipeline)?;
    if let Some(fresh) = opened.iter().find(|o| o.writer.checkpoint().is_none()) {
        return Err(Error::config(format!("{}: nothing was copied yet", pipeline.targets[fresh.index].name))
            .hint("`crossfade run` begins the pipeline; its name comes from --name or the configuration"));
    }
    take_in(pipeline, &mut opened, globs)
}

/// Lets every target take the tables in anew; returns their names at the source.
pub(super) fn take_in(pipeline: &Pipeline, opened: &mut [Opened<'_>], globs: &[String]) -> Result<Vec<String>> {
    take_in_which(pipeline, opened, &|| pick(pipeline, globs))
}

fn take_in_which(
    pipeline: &Pipeline,
    opened: &mut [Opened<'_>],
    which: &dyn Fn() -> Result<Vec<Arc<TableSchema>>>,
) -> Result<Vec<String>> {
    let asked = which()?;
    log_goes_on(pipeline, opened, &asked)?;
    pipeline.source.retype(&asked)?;
    let (wanted, since) = shapes_and_position(pipeline, which)?;
    for checkpoint in super::checkpoints(opened)? {
        // A standby that was promoted behind what the target holds: at such a position nothing could be taken in.
        if pipeline.source.order(&since, &checkpoint.position)?.is_lt() {
            let message = format!("the source's log ends at {since}, before the target's {}", checkpoint.position);
            return Err(Error::unavailable(message).hint(
                "the source has lost its newest changes. Try again when its log has passed that position; or begin anew under \
                 another --name, with the target's tables dropped",
            ));
        }
    }
    for o in opened.iter_mut() {
        // Together with what is carried: two tables must not arrive under one name.
        let carried = o.writer.tables()?.into_iter().filter_map(|t| t.origin.as_deref().cloned().map(Arc::new));
        let others = carried.filter(|t| wanted.iter().all(|w| w.name != t.name));
        let all: Vec<Arc<TableSchema>> = wanted.iter().cloned().chain(others).collect();
        let mapped = Transform::new(pipeline.rules.clone()).map_all(&all)?;
        for table in mapped.iter().take(wanted.len()) {
            o.writer.copy_again(&table.target, &since)?;
            let at = &pipeline.targets[o.index].name;
            tracing::info!(table = %table.source.name, %since, target = at, "the table is emptied, to be copied again");
        }
    }
    suspend::tell(pipeline, opened)?;
    Ok(wanted.iter().map(|t| t.name.to_string()).collect())
}

/// Tables that are not wanted anew go on from where the targets stand: an error, before anything is emptied or made at the
/// source, if its log no longer reaches back there.
fn log_goes_on(pipeline: &Pipeline, opened: &mut [Opened<'_>], wanted: &[Arc<TableSchema>]) -> Result<()> {
    let mut hindmost: Option<(Position, Vec<Arc<TableSchema>>)> = None;
    for (i, checkpoint) in super::checkpoints(opened)?.into_iter().enumerate() {
        let (left_out, _) = left_out(pipeline, opened[i].writer.as_mut(), &checkpoint.position)?;
        let carried = opened[i].writer.tables()?.into_iter().filter(|t| !left_out.contains(&t.name));
        let sources = carried.filter_map(|t| t.origin.as_deref().cloned().map(Arc::new));
        let staying: Vec<_> = sources.filter(|t| wanted.iter().all(|w| w.name != t.name)).collect();
        let before = |least: &Position| pipeline.source.order(&checkpoint.position, least).map(|o| o.is_lt());
        if !staying.is_empty() && hindmost.as_ref().map(|(least, _)| before(least)).transpose()?.unwrap_or(true) {
            hindmost = Some((checkpoint.position, staying));
        }
    }
    let Some((position, mut staying)) = hindmost else { return Ok(()) };
    loop {
        let Err(e) = pipeline.source.stream(&position, &staying) else { return Ok(()) };
        // The trouble of another table, which the session suspends, says nothing of the log.
        let Class::Data(place) = e.class() else { return Err(e) };
        let others: Vec<_> = staying.iter().filter(|t| t.name.to_string() != place.table).cloned().collect();
        match others.len() {
            0 => return Ok(()),
            n if n == staying.len() => return Err(e),
            _ => staying = others,
        }
    }
}

/// Takes targets to a position up to which they carry no table: the log up to there is of no use to them, and may be gone.
pub(super) fn skip(pipeline: &Pipeline, opened: &mut [Opened<'_>], group: &[usize], to: &Position) -> Result<()> {
    for o in opened.iter_mut().filter(|o| group.contains(&o.index)) {
        let missing = || Error::corrupt("a target has no checkpoint after it was begun");
        let last = o.writer.checkpoint().cloned().ok_or_else(missing)?;
        tracing::info!(from = %last.position, %to, "all tables are copied again: the log between is not read");
        let next = Checkpoint { seq: last.seq + 1, position: to.clone(), epoch: o.writer.epoch(), ..last };
        o.writer.commit(&next)?;
        pipeline.progress.update(|v| v.targets[o.index].checkpoint = Some(next));
    }
    Ok(())
}

/// Carries out at every target what was begun at some: a crash, or a target that failed, may have come in between.
///
/// Targets that run together leave a table out up to one position, or one of them would miss what the other has. So where
/// they disagree about a table, all take it in anew, from one new position. A target at or past the position and without
/// `since` has finished, which is no disagreement.
pub(super) fn agree(pipeline: &Pipeline, opened: &mut [Opened<'_>]) -> Result<()> {
    let mut arriving = suspend::agree(pipeline, opened)?;
    let mut sides = Vec::new();
    let checkpoints = super::checkpoints(opened)?;
    for (o, checkpoint) in opened.iter_mut().zip(checkpoints) {
        sides.push((checkpoint.position, o.writer.since()?));
    }
    for (name, since) in sides.iter().flat_map(|(_, since)| since) {
        for (position, others) in &sides {
            let agrees = match others.iter().find(|(n, _)| n == name) {
                Some((_, other)) => other == since,
                None => pipeline.source.order(position, since)?.is_ge(),
            };
            if !agrees {
                arriving.insert(name.clone());
            }
        }
    }
    let mut names = BTreeSet::new();
    for o in opened.iter_mut() {
        let carried = o.writer.tables()?.into_iter().filter(|t| arriving.contains(&t.name));
        names.extend(carried.filter_map(|t| Some(t.origin.as_ref()?.name.clone())));
    }
    // A table that was dropped in the meantime cannot be copied: the log tells of its end.
    let which = || {
        let all = admitted(pipeline, &|t| names.contains(t))?;
        Ok(all.into_iter().filter(|t| names.contains(&t.name)).collect())
    };
    if !names.is_empty() {
        take_in_which(pipeline, opened, &which)?;
    }
    Ok(())
}

/// The tables that the globs pick among those of the pipeline.
pub fn pick(pipeline: &Pipeline, globs: &[String]) -> Result<Vec<Arc<TableSchema>>> {
    let all = admitted(pipeline, &|t| globs.iter().any(|g| glob_matches(g, t)))?;
    for glob in globs {
        if !all.iter().any(|t| glob_matches(glob, &t.name)) {
            let names: Vec<String> = all.iter().map(|t| t.name.to_string()).collect();
            return Err(Error::usage(format!("no table of the pipeline matches {glob}"))
                .hint(format!("the source's tables that `tables` and `exclude` admit are {}", names.join(", "))));
        }
    }
    Ok(all.into_iter().filter(|t| globs.iter().any(|g| glob_matches(g, &t.name))).collect())
}

/// The source's tables. Among them are suspended ones that are wanted, but no other: one that can no longer be carried would keep
/// all others from being taken in.
fn admitted(pipeline: &Pipeline, wanted: &dyn Fn(&TableName) -> bool) -> Result<Vec<Arc<TableSchema>>> {
    let suspended = pipeline.progress.view().suspended;
    pipeline.source.tables(&suspend::selection(pipeline, &suspended, wanted))
}

/// The tables, and a position after which the log has them in this shape.
fn shapes_and_position(
    pipeline: &Pipeline,
    which: &dyn Fn() -> Result<Vec<Arc<TableSchema>>>,
) -> Result<(Vec<Arc<TableSchema>>, Position)> {
    // Tables that came later must be in the log before the position.
    let wanted = which()?;
    pipeline.source.begin(&admitted(pipeline, &|t| wanted.iter().any(|w| w.name == *t))?)?;
    let wanted = which()?;
    let since = pipeline.source.position()?;
    let again = which()?;
    let same = |a: &TableSchema, b: &TableSchema| {
        a.name == b.name && a.number == b.number && a.columns == b.columns && a.key == b.key
    };
    if wanted.len() != again.len() || !wanted.iter().zip(&again).all(|(a, b)| same(a, b)) {
        return Err(Error::transient("a table changed its shape while it was looked at").hint("try again"));
    }
    Ok((wanted, since))
}

/// Tables that a session from `from` on must leave out, and the first position where one of them comes in. Suspended ones do
/// not come in by themselves.
pub(super) fn left_out(
    pipeline: &Pipeline,
    writer: &mut dyn Writer,
    from: &Position,
) -> Result<(Vec<TableName>, Option<Position>)> {
    let mut names: Vec<TableName> = writer.suspended()?.into_iter().map(|(table, _)| table).collect();
    let mut first: Option<Position> = None;
    for (name, since) in writer.since()? {
        if pipeline.source.order(from, &since)?.is_ge() {
            continue;
        }
        names.push(name);
        if first.as_ref().map(|f| pipeline.source.order(&since, f)).transpose()?.is_none_or(|o| o.is_lt()) {
            first = Some(since);
        }
    }
    Ok((names, first))
}
