//! The initial copy's threads: read chunks at the source, write them beside the stream.
//!
//! Each chunk is read in a snapshot of its own, so that no long transaction burdens the source, and committed with its
//! completion, so that a restart goes on with the chunks that are missing. A chunk whose rows meet rows that the stream
//! brought before is read once more and merged. What keeps chunk and stream apart is told in [`super::gate`].
//!
//! A chunk is read and written in the shape that the target's table has. When the source has moved on to another shape,
//! a read may fail, or worse, succeed with another column under an old name; so the source's shape is looked at after
//! each read, and what does not fit is not committed. The stream is about to bring the change, which starts the session
//! again in the new shape; until then the copy of such a table waits.
//!
//! **A table without a key** is a bag of rows, and replaying changes over a later read of a bag counts rows twice. So it is
//! one chunk, read at an exact position S: the pipeline is held there for a moment ([`super::fence`]), the chunk enters the
//! gate while every target stands at S, and the pipeline goes on. Changes of that table before S never reach the target
//! ([`Shared::lacks`]), those after S wait at the gate until the chunk is committed, and with them all that comes behind
//! them in the log. A restart reads the whole table anew. Such tables come first: their long reads then run beside all
//! others.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossfade_core::{
    Chunk, ChunkState, Consistency, Error, KeyRange, Loaded, Loader, Position, Result, Selection, Snapshot, Source,
    TableName, TableSchema, Target, Writer,
};

use super::fence::Fence;
use super::pulse::{self, Patience};
use super::session::{Member, Shared, TICK};
use crate::transform::Mapped;

/// A chunk that some targets still lack.
#[derive(Debug)]
struct Job {
    table: Mapped,
    index: u32,
    range: KeyRange,
    /// Indexes into the copy's targets.
    missing: Vec<usize>,
}

/// The chunks to copy, shared by the copy's threads.
#[derive(Debug)]
pub struct Plan {
    jobs: Mutex<VecDeque<Job>>,
    /// The positions after the reads of chunks that were done before.
    pub highs: Vec<Position>,
    /// Chunks in all, done or not.
    pub chunks: u64,
}

/// A target as the copy sees it.
pub struct Destination<'a> {
    /// Its place among the pipeline's targets.
    pub index: usize,
    /// Opens loaders.
    pub target: &'a dyn Target,
    /// The writer's token.
    pub epoch: u64,
}

impl Plan {
    /// Plans every table that has no plan yet, and finds what is still to do.
    ///
    /// Targets that lack a plan get the same one. A plan that another target has is not theirs: it may be as old as that
    /// target's first copy, and rows with keys beyond its last range, which were the stream's then, would be nobody's now.
    pub fn make(
        source: &dyn Source,
        tables: &[Mapped],
        writers: &mut [&mut (dyn Writer + 'static)],
        chunk_rows: u64,
    ) -> Result<Plan> {
        let mut states: Vec<Planned> = Vec::new();
        for writer in writers.iter_mut() {
            let mut state = Planned::new();
            for chunk in writer.chunks()? {
                state.entry(chunk.table.clone()).or_default().push(chunk);
            }
            states.push(state);
        }
        let unknown = |m: &&Mapped| states.iter().any(|s| !s.contains_key(&m.target.name));
        let keyed = tables.iter().filter(unknown).filter(|m| !m.target.key.is_empty());
        let keyed: Vec<&TableSchema> = keyed.map(|m| m.source.as_ref()).collect();
        let present = present(source, &keyed)?;
        let unplanned: Vec<&Mapped> = tables.iter().filter(unknown).collect();
        for mapped in unplanned {
            let name = &mapped.target.name;
            let ranges = match mapped.target.key.is_empty() {
                true => vec![KeyRange::ALL],
                false => {
                    let table = present.get(&mapped.source.name).unwrap_or(&mapped.source);
                    split(source, table, chunk_rows).map(or_all)?
                }
            };
            for (writer, state) in writers.iter_mut().zip(&mut states) {
                if !state.contains_key(name) {
                    writer.plan(name, &ranges)?;
                    state.insert(name.clone(), planned(mapped, &ranges));
                }
            }
        }
        Plan::remaining(tables, states)
    }

    fn remaining(tables: &[Mapped], states: Vec<Planned>) -> Result<Plan> {
        let mut plan = Plan { jobs: Mutex::default(), highs: Vec::new(), chunks: 0 };
        let by_name: HashMap<&TableName, &Mapped> = tables.iter().map(|m| (&m.target.name, m)).collect();
        let mut jobs: Vec<Job> = Vec::new();
        // Targets may have cut a table differently: only what is the same chunk to both is read once for both.
        let mut places: HashMap<(TableName, u32), Vec<usize>> = HashMap::new();
        for (target, chunk) in
            states.into_iter().enumerate().flat_map(|(i, s)| s.into_values().flatten().map(move |c| (i, c)))
        {
            let Some(mapped) = by_name.get(&chunk.table) else {
                return Err(Error::config(format!(
                    "table {} is half copied, but the configuration no longer carries it",
                    chunk.table
                ))
                .hint("let the copy end first, or start afresh under another pipeline name"));
            };
            let cut = places.entry((chunk.table, chunk.index)).or_default();
            let place = cut.iter().copied().find(|&i: &usize| jobs[i].range == chunk.range).unwrap_or_else(|| {
                let (table, index, range) = ((*mapped).clone(), chunk.index, chunk.range);
                jobs.push(Job { table, index, range, missing: Vec::new() });
                cut.push(jobs.len() - 1);
                jobs.len() - 1
            });
            match chunk.done {
                Some(high) => plan.highs.push(high),
                None => jobs[place].missing.push(target),
            }
        }
        plan.chunks = jobs.len() as u64;
        jobs.retain(|j| !j.missing.is_empty());
        jobs.sort_by_key(|j| !j.table.target.key.is_empty());
        plan.jobs = Mutex::new(jobs.into());
        Ok(plan)
    }

    /// Chunks still to copy.
    pub fn open(&self) -> u64 {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).len() as u64
    }

    fn put_back(&self, job: Job) {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).push_front(job);
    }

    fn next(&self) -> Option<Job> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

/// An empty table has a plan, too: without one it would be planned again when another table is copied again.
fn or_all(ranges: Vec<KeyRange>) -> Vec<KeyRange> {
    if ranges.is_empty() { vec![KeyRange::ALL] } else { ranges }
}

/// A target's chunks, by table. In order, so that every run copies in the same one.
type Planned = BTreeMap<TableName, Vec<ChunkState>>;

fn planned(mapped: &Mapped, ranges: &[KeyRange]) -> Vec<ChunkState> {
    let state = |(i, range): (usize, &KeyRange)| ChunkState {
        table: mapped.target.name.clone(),
        index: i as u32,
        range: range.clone(),
        done: None,
    };
    ranges.iter().enumerate().map(state).collect()
}

/// Copies chunks until none is left. Returns the source's positions after the reads.
pub fn copy(shared: &Shared<'_>, plan: &Plan, destinations: &[Destination<'_>]) -> Result<Vec<Position>> {
    let mut loaders: Vec<Option<Box<dyn Loader>>> = destinations.iter().map(|_| None).collect();
    let mut highs = Vec::new();
    let mut failed = false;
    while let Some(mut job) = plan.next() {
        shared.throttle.wait(|| shared.halt.over());
        // Its reads turn with every record batch; a snapshot may have to wait for whoever writes to the table.
        let _asking = pulse::asking("a chunk of the copy", Patience::Work);
        for &i in &job.missing {
            if loaders[i].is_none() {
                let d = &destinations[i];
                loaders[i] = Some(d.target.loader(shared.pipeline, d.epoch)?);
            }
        }
        let copied = match job.table.target.key.is_empty() {
            true => copy_bag(shared, &mut job, destinations, &mut loaders),
            false => copy_chunk(shared, &mut job, destinations, &mut loaders),
        };
        match copied {
            Ok(Some(high)) => {
                highs.push(high);
                failed = false;
            }
            Ok(None) => return Ok(highs),
            Err(e) if !e.is_transient() && is_outdated(shared.source, &job.table.source)? => {
                // What the loaders hold open must not stand in the way of the change.
                drop(loaders);
                tracing::warn!(table = %job.table.source.name, "changed its shape; its copy waits for the stream");
                while !shared.halt.over() {
                    std::thread::sleep(TICK);
                }
                return Ok(highs);
            }
            Err(e) if !e.is_transient() && !failed => {
                // The table may have had another shape only for the moment of the read: what is wrong with the data
                // fails again.
                failed = true;
                loaders.iter_mut().for_each(|l| *l = None);
                plan.put_back(job);
                continue;
            }
            Err(e) => return Err(e),
        }
        shared.progress.update(|v| {
            if let Some(c) = &mut v.copy {
                c.done += 1;
            }
        });
    }
    Ok(highs)
}

/// Copies one chunk to every target that lacks it, and notes which of them do no longer, also where another then fails. `None`:
/// the session is over.
fn copy_chunk(
    shared: &Shared<'_>,
    job: &mut Job,
    destinations: &[Destination<'_>],
    loaders: &mut [Option<Box<dyn Loader>>],
) -> Result<Option<Position>> {
    let mut merge = false;
    loop {
        if shared.halt.over() {
            return Ok(None);
        }
        let Some(_inside) = shared.gate.enter(&job.table.target.name, || shared.halt.over()) else {
            return Ok(None);
        };
        if shared.halt.over() {
            return Ok(None); // a writer that failed may have opened the gate
        }
        let applied: Vec<Position> =
            job.missing.iter().map(|&i| shared.checkpoint(destinations[i].index).position).collect();
        let Some(snapshot) = snapshot_after(shared, job, &applied)? else { return Ok(None) };
        let mut active: Vec<(usize, &mut Box<dyn Loader>)> = loaders
            .iter_mut()
            .enumerate()
            .filter(|(i, _)| job.missing.contains(i))
            .filter_map(|(i, l)| l.as_mut().map(|l| (i, l)))
            .collect();
        debug_assert_eq!(active.len(), job.missing.len(), "every missing target has a loader");
        read_chunk(shared, job, snapshot, &mut active, merge)?;
        if is_outdated(shared.source, &job.table.source)? {
            return Err(Error::data(&job.table.source.name, "its shape changed while a chunk of it was read"));
        }
        let high = shared.source.position()?;
        for (i, loader) in active {
            match loader.commit(&high)? {
                Loaded::Done => job.missing.retain(|m| *m != i),
                Loaded::Collided if merge => {
                    return Err(Error::corrupt(format!(
                        "table {}: chunk {} collided although it was merged",
                        job.table.target.name, job.index
                    )));
                }
                Loaded::Collided => {}
            }
        }
        if job.missing.is_empty() {
            return Ok(Some(high));
        }
        merge = true;
    }
}

/// The tables without a key that a member lacks, by the member's place in the pipeline.
pub fn lacking(tables: &[Mapped], members: &mut [Member<'_>]) -> Result<HashSet<(usize, TableName)>> {
    let mut lacking = HashSet::new();
    for member in members {
        let chunks = member.writer.chunks()?;
        let done = |t: &TableName| chunks.iter().any(|c| c.table == *t && c.done.is_some());
        let bags = tables.iter().map(|m| &m.target).filter(|t| t.key.is_empty() && !done(&t.name));
        lacking.extend(bags.map(|t| (member.index, t.name.clone())));
    }
    Ok(lacking)
}

/// As long as the stream needs to come to the fence: a copy has all the time there is.
const PATIENCE: Duration = Duration::from_secs(365 * 24 * 3600);

/// Copies a table without a key, whole, as it is at a fence. `None`: the session is over.
fn copy_bag(
    shared: &Shared<'_>,
    job: &mut Job,
    destinations: &[Destination<'_>],
    loaders: &mut [Option<Box<dyn Loader>>],
) -> Result<Option<Position>> {
    let table = &job.table.target.name;
    if shared.halt.over() {
        return Ok(None);
    }
    let fence = match Fence::hold(shared, std::slice::from_ref(&job.table.source), PATIENCE) {
        Err(e) if shared.halt.over() && e.is_transient() => return Ok(None),
        held => held?,
    };
    // Every target stands at the fence and nothing is on its way: whoever wants the table now waits for this chunk.
    let Some(_inside) = shared.gate.enter(table, || shared.halt.over()) else { return Ok(None) };
    let (position, snapshot) = fence.release();
    tracing::info!(%table, %position, "reading a table without a key; from its next change on the stream waits for it");
    let mut active: Vec<(usize, &mut Box<dyn Loader>)> = loaders
        .iter_mut()
        .enumerate()
        .filter(|(i, _)| job.missing.contains(i))
        .filter_map(|(i, l)| l.as_mut().map(|l| (i, l)))
        .collect();
    read_chunk(shared, job, snapshot, &mut active, true)?;
    if is_outdated(shared.source, &job.table.source)? {
        return Err(Error::data(&job.table.source.name, "its shape changed while it was read"));
    }
    for (i, loader) in active {
        let loaded = loader.commit(&position).inspect_err(|e| {
            // It may have been done all the same. Nobody knows then whether the next changes of this table count, so the
            // session must be over before the gate opens: the next one asks the target. (Refused is refused.)
            if e.is_transient() {
                shared.halt.abort();
            }
        })?;
        if loaded == Loaded::Collided {
            return Err(Error::data(table, "a row of the source is refused by a unique index of the target")
                .hint("drop the target's unique indexes of this table until the copy has ended"));
        }
        shared.has(destinations[i].index, table);
        job.missing.retain(|m| *m != i);
    }
    tracing::info!(%table, "the table is copied");
    Ok(Some(position))
}

/// Cuts a table by its keys. Only values of the key matter, so the table's present shape serves, whichever it is.
fn split(source: &dyn Source, table: &Arc<TableSchema>, rows: u64) -> Result<Vec<KeyRange>> {
    let snapshot = source.snapshot(std::slice::from_ref(table), Consistency::AtLeast);
    match snapshot.and_then(|mut s| s.split(table, rows)) {
        Err(e) if !e.is_transient() && is_outdated(source, table)? => {
            Err(Error::transient(format!("table {} changed its shape while its copy was planned", table.name))
                .caused_by(e))
        }
        other => other,
    }
}

/// Those of the source's tables that are still there, as they are now. One question for all of them; where the source refuses
/// it, the first table that cannot be carried any more is the one in trouble, and no other.
fn present(source: &dyn Source, tables: &[&TableSchema]) -> Result<HashMap<TableName, Arc<TableSchema>>> {
    if tables.is_empty() {
        return Ok(HashMap::new());
    }
    match now(source, tables) {
        Ok(found) => Ok(found.into_iter().map(|t| (t.name.clone(), t)).collect()),
        Err(e) if e.is_transient() => Err(e),
        Err(e) => Err(tables.iter().find_map(|t| now(source, &[t]).err().map(|e| altered(source, t, e))).unwrap_or(e)),
    }
}

fn now(source: &dyn Source, tables: &[&TableSchema]) -> Result<Vec<Arc<TableSchema>>> {
    let include = tables.iter().map(|t| t.name.to_string()).collect();
    source.tables(&Selection { include, exclude: Vec::new() })
}

/// What the source says of a table that it could carry when the copy began. Where it still answers other questions, the table was
/// altered, which is its own trouble.
fn altered(source: &dyn Source, table: &TableSchema, error: Error) -> Error {
    match source.position() {
        Ok(_) => error.concerning(&table.name).context("it was altered before its copy had ended"),
        Err(_) => error,
    }
}

/// Whether the source's table no longer has this shape.
fn is_outdated(source: &dyn Source, table: &TableSchema) -> Result<bool> {
    let columns = |t: &TableSchema| t.columns.iter().map(|c| (c.name.clone(), c.logical.clone())).collect::<Vec<_>>();
    let shape = |t: &TableSchema| (t.number, columns(t));
    Ok(present(source, &[table])?.get(&table.name).is_none_or(|now| shape(now) != shape(table)))
}

/// A snapshot at or after everything that the targets hold of the stream. A source may send a transaction to its log's
/// readers before its own queries show it (MySQL, between the sync of the binlog and the engine's commit), so a snapshot
/// can lie before what was applied; then another is taken. `None`: the session is over.
fn snapshot_after(shared: &Shared<'_>, job: &Job, applied: &[Position]) -> Result<Option<Box<dyn Snapshot>>> {
    while !shared.halt.over() {
        let snapshot = shared.source.snapshot(std::slice::from_ref(&job.table.source), Consistency::AtLeast)?;
        let mut after = true;
        for position in applied {
            after &= shared.source.order(snapshot.position(), position)?.is_ge();
        }
        if after {
            return Ok(Some(snapshot));
        }
        drop(snapshot);
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(None)
}

fn read_chunk(
    shared: &Shared<'_>,
    job: &Job,
    mut snapshot: Box<dyn Snapshot>,
    loaders: &mut [(usize, &mut Box<dyn Loader>)],
    merge: bool,
) -> Result<()> {
    let source_table: &Arc<TableSchema> = &job.table.source;
    let chunk = Chunk {
        table: Arc::clone(&job.table.target),
        index: job.index,
        range: job.range.clone(),
        low: snapshot.position().clone(),
    };
    for (_, loader) in loaders.iter_mut() {
        loader.begin(&chunk, merge)?;
    }
    snapshot.scan(source_table, &job.range, &mut |batch| {
        if shared.halt.aborted() {
            return Err(Error::transient("the copy was interrupted"));
        }
        let batch = job.table.project(&batch)?;
        for (_, loader) in loaders.iter_mut() {
            loader.write(&batch)?;
        }
        shared.throttle.spend(batch.get_array_memory_size() as u64);
        if source_table.key.is_empty() {
            shared.throttle.wait(|| shared.halt.aborted());
        }
        shared.progress.update(|v| {
            if let Some(c) = &mut v.copy {
                c.rows += batch.num_rows() as u64;
                c.bytes += batch.get_array_memory_size() as u64;
            }
        });
        Ok(())
    })
}
