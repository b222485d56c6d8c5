//! A comparison that takes as many fences as it needs.
//!
//! A snapshot that is held for hours costs its server: old versions of rows pile up, in MySQL's undo and in Postgres' tables. So both
//! sides are held for a bounded time ([`crate::pipeline::Limits::snapshot`]); what was read by then is settled as [`chunk`]s, the pipeline
//! is held at a later position, and the reading goes on where it ended. Tables are read in the order of the comparison, each in the
//! ranges of its key that the source's planner of the copy cuts. A small database is through before the time is up, and then all
//! tables were read at one position.
//!
//! A course is a small machine. Its [`Walk`] is at the desk (`desk.rs`) between two turns: there the pipeline can be held; what takes
//! long runs on a thread of its own. What is settled of a course that is kept goes to the ledger, and another process goes on with it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use crossfade_core::{Error, KeyRange, Position, Result, TableName};

use super::audit::Audit;
use super::beyond::Beyond;
use super::chunk::{self, Settled};
use super::cut::{Cutter, Todo};
use super::recheck::{Compared, same_shape};
use super::sitting::{Piece, Sitting};
use super::{Canary, Fenced, Options, Proof, TableProof, Verdict, drift, hold, overall, proof, streams, tables};
use crate::ledger::Event;
use crate::pipeline::Pipeline;
use crate::pipeline::progress::Progress;
use crate::pipeline::session::Shared;
use crate::transform::Mapped;

/// How often a fence that failed is tried again, and after how long, before what is left is unknown.
const RETRIES: (u32, Duration) = (6, Duration::from_secs(5));

/// A comparison under way.
pub struct Course {
    globs: Vec<String>,
    options: Options,
    reply: Sender<Result<Proof>>,
    /// By when it began.
    id: i64,
    began: Instant,
    /// Whether what is settled is noted, so that another process can go on.
    kept: bool,
    /// What another process has settled.
    known: Vec<Settled>,
    /// Where large tables are read bit by bit.
    audit: Option<Audit>,
    /// Those tables: a mark of their shape, and all ranges.
    audited: BTreeMap<TableName, (String, Vec<KeyRange>)>,
    /// Tables that were not cut yet.
    uncut: Option<Vec<Mapped>>,
    /// All tables, in the order of the proof.
    order: Vec<TableName>,
    todo: Vec<Todo>,
    settled: Vec<Settled>,
    /// Whether it was held once, and was told which tables nobody carries.
    fenced: bool,
    /// What was found beyond rows, in the first pair of snapshots.
    beyond: Option<Beyond>,
    /// Tables that could not be read.
    unread: Vec<TableProof>,
    held: Duration,
    rechecked: Option<Position>,
    recheck_error: Option<String>,
    failures: u32,
    not_before: Option<Instant>,
}

/// A course at the desk.
pub enum Walk {
    /// To be held, to read on.
    On(Box<Course>),
    /// To be held a second time, for the rows that differ.
    Look(Box<Look>),
}

/// A course with rows that differ.
pub struct Look {
    course: Box<Course>,
    compared: Compared,
    pieces: Vec<Piece>,
}

/// What takes long, and what comes after it.
pub type Work = Box<dyn FnOnce() -> Option<Walk> + Send>;

/// What comes of a turn at the desk.
pub enum Step {
    /// Come again.
    Later(Walk),
    /// Do this on a thread.
    Work(Work),
    /// It is over, and whoever asked was told.
    Over,
}

impl Course {
    /// A comparison of the tables that the globs pick; all, if there are none.
    pub fn new(globs: &[String], options: Options, reply: Sender<Result<Proof>>) -> Course {
        Course {
            globs: globs.to_vec(),
            options,
            reply,
            id: crate::now_micros(),
            began: Instant::now(),
            kept: false,
            known: Vec::new(),
            audit: None,
            audited: BTreeMap::new(),
            uncut: None,
            order: Vec::new(),
            todo: Vec::new(),
            settled: Vec::new(),
            fenced: false,
            beyond: None,
            unread: Vec::new(),
            held: Duration::ZERO,
            rechecked: None,
            recheck_error: None,
            failures: 0,
            not_before: None,
        }
    }

    /// Notes what is settled, and goes on with what was settled of the same course before. With an audit it reads of large tables what
    /// is due.
    #[must_use]
    pub fn kept(mut self, known: Vec<Settled>, audit: Option<Audit>) -> Course {
        self.id = known.first().map_or(self.id, |s| s.course);
        Course { kept: true, known, audit, ..self }
    }

    fn turn(mut self: Box<Self>, shared: &Shared<'_>, pipeline: &Pipeline) -> Step {
        if self.not_before.is_some_and(|at| Instant::now() < at) {
            return Step::Later(Walk::On(self));
        }
        match self.work(shared, pipeline) {
            Ok(Turn::Cut(tables)) => {
                let cutter = Cutter::new(pipeline);
                Step::Work(Box::new(move || self.cut(&cutter, tables)))
            }
            Ok(Turn::Read(fenced)) => {
                let (progress, time) = (Arc::clone(&pipeline.progress), pipeline.limits.snapshot);
                Step::Work(Box::new(move || self.read(*fenced, time, &progress)))
            }
            Err(e) if crate::desk::cut_off(shared, &e) => Step::Later(Walk::On(self)),
            Err(e) => self.failed(e).map_or(Step::Over, Step::Later),
        }
    }

    /// A course that is kept is asked for anew, and goes on with what it has settled. Of any other all would be lost.
    fn failed(mut self: Box<Self>, error: Error) -> Option<Walk> {
        if self.kept || self.settled.is_empty() || !error.is_transient() {
            drop(self.reply.send(Err(error))); // whoever asked may have gone
            return None;
        }
        self.failures += 1;
        if self.failures <= RETRIES.0 {
            tracing::warn!(error = %error, hint = error.hint_text(), "the comparison waits, and goes on");
            self.not_before = Some(Instant::now() + RETRIES.1);
            return Some(Walk::On(self));
        }
        let left = std::mem::take(&mut self.todo).into_iter().map(|t| t.mapped);
        for mapped in left.chain(self.uncut.take().into_iter().flatten()) {
            self.unread.push(unknown(&mapped.source.name, &error.to_string()));
        }
        self.finish();
        None
    }

    fn work(&mut self, shared: &Shared<'_>, pipeline: &Pipeline) -> Result<Turn> {
        streams(shared, pipeline)?;
        if self.order.is_empty() && !self.fenced {
            let all = tables(shared, pipeline, &self.globs)?;
            self.order = all.iter().map(|m| m.source.name.clone()).collect();
            self.uncut = (!all.is_empty()).then_some(all);
        }
        if let Some(tables) = self.uncut.take() {
            return Ok(Turn::Cut(tables));
        }
        let names: Vec<TableName> = self.todo.iter().map(|t| t.mapped.source.name.clone()).collect();
        // References are of all tables, also of those that are settled already.
        let held = if self.fenced { &names } else { &self.order };
        let wanted = || Ok(shared.carried().into_iter().filter(|m| held.contains(&m.source.name)).collect());
        let mut fenced = hold(shared, pipeline, &wanted)?;
        if !self.fenced && self.globs.is_empty() {
            fenced.aggregates = pipeline.aggregates.clone();
        }
        // Only the first fence tells of tables that nobody carries.
        fenced.drift = drift(pipeline, &fenced.tables, &self.globs);
        fenced.drift.retain(|name, _| names.contains(name) || !self.order.contains(name) && !self.fenced);
        (self.failures, self.fenced) = (0, true);
        Ok(Turn::Read(Box::new(fenced.with(self.options))))
    }

    /// Cuts tables into ranges, those that were read in part into what is left.
    fn cut(mut self: Box<Self>, cutter: &Cutter, tables: Vec<Mapped>) -> Option<Walk> {
        let mut tables = tables.into_iter();
        while let Some(mapped) = tables.next() {
            match cutter.cut(mapped.clone(), self.id, &self.known, self.audit.as_ref()) {
                Ok(cut) => {
                    self.settled.extend(cut.done);
                    self.todo.extend(cut.todo);
                    self.audited.extend(cut.audited.map(|audited| (mapped.source.name.clone(), audited)));
                }
                Err(e) => {
                    self.uncut = Some([mapped].into_iter().chain(tables).collect());
                    return self.failed(e);
                }
            }
        }
        let place = |t: &Todo| self.order.iter().position(|name| *name == t.mapped.source.name);
        let mut todo = std::mem::take(&mut self.todo);
        todo.sort_by_key(place);
        self.todo = todo;
        self.go_on()
    }

    /// Reads until the time is up.
    fn read(mut self: Box<Self>, mut fenced: Fenced, time: Duration, progress: &Progress) -> Option<Walk> {
        // The snapshots were opened while it was held.
        let until = Instant::now() + time.saturating_sub(fenced.held);
        self.held += fenced.held;
        if self.beyond.is_none() {
            self.beyond = Some(fenced.beyond());
        }
        let mut compared = Compared { proof: blank(&fenced), suspected: Vec::new() };
        let mut sitting = Sitting::new(fenced);
        let mut pieces = Vec::new();
        let mut left = std::mem::take(&mut self.todo).into_iter();
        for mut todo in left.by_ref() {
            let name = todo.mapped.source.name.clone();
            match sitting.tables.iter().find(|m| m.source.name == name).cloned() {
                None if self.unread.iter().any(|p| p.table == name.to_string()) => {}
                None => {
                    let why = sitting.drift.remove(&name).unwrap_or_else(|| "it is carried no longer".into());
                    self.unread.push(unknown(&name, &why));
                }
                Some(now) if !same_shape(&now, &todo.mapped) => {
                    self.settled.retain(|s| s.table != name);
                    self.known.retain(|s| s.table != name);
                    self.audited.remove(&name);
                    let uncut = self.uncut.get_or_insert_default();
                    uncut.retain(|m| m.source.name != name);
                    uncut.push(now);
                }
                Some(now) => {
                    let piece = sitting.read(&now, &mut todo, until, time, &mut compared);
                    // The last range of what is due is not the table's last.
                    let over = piece.range.to.is_none() || todo.ranges.is_empty();
                    pieces.push(piece);
                    if !over {
                        self.todo.push(todo);
                    }
                }
            }
            if Instant::now() >= until {
                break;
            }
        }
        self.todo.extend(left);
        for (name, why) in sitting.drift {
            if !self.order.contains(&name) {
                self.unread.push(unknown(&name, &why));
            }
        }
        compared.proof.verdict = overall(&compared.proof.tables);
        if compared.suspected.is_empty() {
            return self.settle(compared, pieces, progress);
        }
        Some(Walk::Look(Box::new(Look { course: self, compared, pieces })))
    }

    /// Takes over what was read behind one fence.
    fn settle(mut self: Box<Self>, compared: Compared, pieces: Vec<Piece>, progress: &Progress) -> Option<Walk> {
        let Proof { position, at_micros, mut tables, rechecked, recheck_error, .. } = compared.proof;
        self.rechecked = rechecked.or(self.rechecked.take());
        self.recheck_error = recheck_error.or(self.recheck_error.take());
        let position = position.unwrap_or_else(|| Position::new("?"));
        let mut new = Vec::with_capacity(pieces.len());
        for Piece { table, shape, range, again, proofs, canary } in pieces {
            let rest = tables.split_off(proofs.min(tables.len()));
            let proofs = std::mem::replace(&mut tables, rest);
            let (course, position) = (self.id, position.clone());
            new.push(Settled { course, table, shape, range, position, at_micros, again, proofs, canary });
        }
        self.settled.extend(new.iter().cloned());
        if let Some(audit) = &mut self.audit {
            audit.settled(&new);
        }
        // What is over is told by the proof, but for tables of which the next comparison reads other parts.
        if self.is_over() {
            new.retain(|s| self.audited.contains_key(&s.table));
        }
        if self.kept && !new.is_empty() {
            progress.note_at(at_micros, Event::Chunks { settled: new });
        }
        self.go_on()
    }

    fn is_over(&self) -> bool {
        self.todo.is_empty() && self.uncut.is_none() && self.fenced
    }

    fn go_on(self: Box<Self>) -> Option<Walk> {
        if !self.is_over() {
            return Some(Walk::On(self));
        }
        self.finish();
        None
    }

    /// Tells whoever asked.
    fn finish(mut self) {
        let mut proofs = Vec::new();
        let mut canary = Canary::default();
        for name in &self.order {
            let chunks: Vec<Settled> = self.settled.iter().filter(|s| s.table == *name).cloned().collect();
            canary.tried += u64::from(chunks.iter().any(|s| s.canary.tried > 0));
            canary.missed.extend(chunks.iter().flat_map(|s| s.canary.missed.clone()));
            let whole = match (&self.audit, self.audited.get(name)) {
                (Some(audit), Some((shape, plan))) => audit.proofs(name, shape, plan, &chunks),
                (None, _) | (_, None) => chunk::whole(&chunks),
            };
            // One that could not be read to its end is unknown, unless what was read differs.
            match self.unread.iter().position(|p| p.table == name.to_string()).map(|at| self.unread.remove(at)) {
                Some(unread) if overall(&whole) != Verdict::Different => proofs.push(unread),
                Some(_) | None => proofs.extend(whole),
            }
        }
        proofs.append(&mut self.unread);
        self.settled.sort_by_key(|s| s.at_micros);
        let first = self.settled.first();
        let began = first.map(|s| s.at_micros);
        let last = self.settled.last().filter(|s| Some(s.at_micros) != began);
        let position = first.map(|s| s.position.clone());
        let beyond = self.beyond.unwrap_or_default();
        let proof = Proof {
            verdict: beyond.weigh(overall(&proofs)),
            through: last.map(|s| s.position.clone()),
            through_micros: last.map(|s| s.at_micros),
            position,
            held_ms: self.held.as_millis() as u64,
            seconds: self.began.elapsed().as_secs_f64(),
            tables: proofs,
            rechecked: self.rechecked,
            recheck_error: self.recheck_error,
            at_micros: began.unwrap_or(self.id),
            canary: Some(canary),
            beyond: Box::new(beyond),
        };
        drop(self.reply.send(Ok(proof))); // whoever asked may have gone
    }
}

/// What a course needs the pipeline for.
enum Turn {
    /// Nothing: these tables are to be cut.
    Cut(Vec<Mapped>),
    /// It is held.
    Read(Box<Fenced>),
}

impl Walk {
    /// A turn at the desk, on the thread that conducts the session.
    pub fn step(self, shared: &Shared<'_>, pipeline: &Pipeline) -> Step {
        let mut look = match self {
            Walk::On(course) => return course.turn(shared, pipeline),
            Walk::Look(look) => look,
        };
        let progress = Arc::clone(&pipeline.progress);
        match look.compared.fence(shared, pipeline) {
            Ok(fenced) => Step::Work(Box::new(move || {
                look.compared.recheck(fenced);
                look.course.settle(look.compared, look.pieces, &progress)
            })),
            Err(e) if crate::desk::cut_off(shared, &e) => Step::Later(Walk::Look(look)),
            Err(e) => {
                look.compared.unchecked(&e);
                Step::Work(Box::new(move || look.course.settle(look.compared, look.pieces, &progress)))
            }
        }
    }
}

/// A proof of no table yet.
fn blank(fenced: &Fenced) -> Proof {
    Proof {
        verdict: Verdict::Unknown,
        position: Some(fenced.position.clone()),
        through: None,
        through_micros: None,
        held_ms: fenced.held.as_millis() as u64,
        seconds: 0.0,
        tables: Vec::new(),
        rechecked: None,
        recheck_error: None,
        at_micros: fenced.at_micros,
        canary: None,
        beyond: Box::default(),
    }
}

fn unknown(name: &TableName, why: &str) -> TableProof {
    let unread = || Err(Error::config(why));
    proof(name, None, &unread(), &unread())
}
