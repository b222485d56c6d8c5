//! What commands ask of a running pipeline and what needs it held at a position: comparisons, samples and repairs.
//!
//! A fence is made on the thread that conducts the session, between two of its looks at everything else, and takes moments. What
//! takes long, to scan both sides, runs on a thread of its own. So the work goes to and fro as [`Job`]s: held here, scanned there,
//! and back for a second fence. It outlives sessions: a job that was scanned while the session ended waits for the next, and one that
//! was held when the session ended is held again by the next.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Scope;

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded, unbounded};
use crossfade_core::{Error, Result};

use crate::pipeline::session::{Goal, Shared};
use crate::pipeline::{self, Conduct, Pipeline};
use crate::repair::{Repair, Report};
use crate::verify::sample::{Sample, Wanted};
use crate::verify::{self, Compared, Options, Proof};

/// Something to be done while the pipeline is held.
pub enum Job {
    /// Open both sides, to compare them.
    Compare {
        /// Globs; empty means all.
        tables: Vec<String>,
        /// How much.
        options: Options,
        /// What for.
        purpose: Purpose,
    },
    /// Open both sides a second time, for the rows that differ.
    Recheck {
        /// Which.
        compared: Compared,
        /// What for.
        purpose: Purpose,
    },
    /// Open both sides, to show random rows.
    Sample {
        /// Globs; empty means all.
        tables: Vec<String>,
        /// Which rows.
        wanted: Wanted,
        /// Who waits for them.
        reply: Sender<Result<Sample>>,
    },
    /// Write some rows.
    Mend(Box<Mending>),
}

/// Why both sides are compared, and who waits for it.
pub enum Purpose {
    /// For its own sake.
    Proof(Sender<Result<Proof>>),
    /// To repair what differs, or to show that it is repaired.
    Repair(Box<Mending>),
}

/// A repair and who waits for it.
pub struct Mending {
    tables: Vec<String>,
    repair: Repair,
    /// The last comparison.
    compared: Option<Compared>,
    reply: Sender<Result<Report>>,
}

impl Job {
    /// A comparison.
    pub fn verify(tables: &[String], options: Options, reply: Sender<Result<Proof>>) -> Job {
        Job::Compare { tables: tables.to_vec(), options, purpose: Purpose::Proof(reply) }
    }

    /// Random rows.
    pub fn sample(tables: &[String], wanted: Wanted, reply: Sender<Result<Sample>>) -> Job {
        Job::Sample { tables: tables.to_vec(), wanted, reply }
    }

    /// A repair; `apply` is false where it only tells what it would do.
    pub fn repair(tables: &[String], apply: bool, reply: Sender<Result<Report>>) -> Job {
        let mending = Mending { tables: tables.to_vec(), repair: Repair::new(apply), compared: None, reply };
        let purpose = Purpose::Repair(Box::new(mending));
        Job::Compare { tables: tables.to_vec(), options: Options::default(), purpose }
    }
}

/// Whoever asked may have gone: then nobody needs the answer.
impl Purpose {
    fn fail(self, error: Error) {
        match self {
            Purpose::Proof(reply) => drop(reply.send(Err(error))),
            Purpose::Repair(mending) => drop(mending.reply.send(Err(error))),
        }
    }

    fn finish(self, compared: Compared) {
        match self {
            Purpose::Proof(reply) => drop(reply.send(Ok(compared.proof))),
            Purpose::Repair(m) => drop(m.reply.send(Ok(m.repair.report(compared.proof)))),
        }
    }

    /// What follows a comparison.
    fn follow(self, compared: Compared) -> Option<Job> {
        let purpose = match self {
            Purpose::Repair(mut mending) => match mending.repair.take(&compared) {
                Ok(true) => {
                    mending.compared = Some(compared);
                    return Some(Job::Mend(mending));
                }
                Ok(false) => Purpose::Repair(mending),
                Err(e) => {
                    Purpose::Repair(mending).fail(e);
                    return None;
                }
            },
            Purpose::Proof(reply) => Purpose::Proof(reply),
        };
        if compared.suspected.is_empty() {
            purpose.finish(compared);
            return None;
        }
        Some(Job::Recheck { compared, purpose })
    }
}

/// Jobs of one process.
pub struct Desk {
    open: VecDeque<Job>,
    back_in: Sender<Job>,
    back: Receiver<Job>,
}

impl Default for Desk {
    fn default() -> Self {
        let (back_in, back) = unbounded();
        Desk { open: VecDeque::new(), back_in, back }
    }
}

impl Desk {
    /// Takes a job.
    pub fn put(&mut self, job: Job) {
        self.open.push_back(job);
    }

    /// Does what can be done now, on the thread that conducts the session; scans run on threads of `scope`.
    pub fn serve<'scope>(&mut self, scope: &'scope Scope<'scope, '_>, shared: &Shared<'_>, pipeline: &Pipeline) {
        self.open.extend(self.back.try_iter());
        // After a crash one target may be a commit behind another: moments later all run together.
        if verify::levelling(shared, pipeline) {
            return;
        }
        for job in std::mem::take(&mut self.open) {
            match job {
                Job::Compare { tables, options, purpose } => match verify::fence(shared, pipeline, &tables) {
                    Ok(fenced) => {
                        let back = self.back_in.clone();
                        scope.spawn(move || {
                            if let Some(job) = purpose.follow(fenced.with(options).compare()) {
                                drop(back.send(job)); // the desk is gone only with all that it was asked
                            }
                        });
                    }
                    Err(e) if cut_off(shared, &e) => self.put(Job::Compare { tables, options, purpose }),
                    Err(e) => purpose.fail(e),
                },
                Job::Recheck { mut compared, purpose } => match compared.fence(shared, pipeline) {
                    Ok(fenced) => {
                        scope.spawn(move || {
                            compared.recheck(fenced);
                            purpose.finish(compared);
                        });
                    }
                    Err(e) if cut_off(shared, &e) => self.put(Job::Recheck { compared, purpose }),
                    Err(e) => {
                        compared.unchecked(&e);
                        purpose.finish(compared);
                    }
                },
                Job::Sample { tables, wanted, reply } => match verify::fence(shared, pipeline, &tables) {
                    Ok(fenced) => {
                        scope.spawn(move || drop(reply.send(Ok(fenced.sample(wanted)))));
                    }
                    Err(e) if cut_off(shared, &e) => self.put(Job::Sample { tables, wanted, reply }),
                    Err(e) => drop(reply.send(Err(e))),
                },
                Job::Mend(mending) => self.mend(mending, shared, pipeline),
            }
        }
    }

    fn mend(&mut self, mut mending: Box<Mending>, shared: &Shared<'_>, pipeline: &Pipeline) {
        match mending.repair.step(shared, pipeline) {
            Ok(true) => self.put(Job::Mend(mending)),
            Ok(false) if mending.repair.applies() => {
                let tables = mending.tables.clone();
                let purpose = Purpose::Repair(mending);
                self.put(Job::Compare { tables, options: Options::default(), purpose });
            }
            Ok(false) => match mending.compared.take() {
                Some(compared) => Purpose::Repair(mending).finish(compared),
                None => Purpose::Repair(mending).fail(Error::corrupt("a repair without its comparison")),
            },
            Err(e) if cut_off(shared, &e) => self.put(Job::Mend(mending)),
            Err(e) => Purpose::Repair(mending).fail(e),
        }
    }
}

/// Whether the session ended under a job: for that nobody has to ask again, the next session goes on with it.
fn cut_off(shared: &Shared<'_>, error: &Error) -> bool {
    error.is_transient() && shared.halt.over()
}

/// Without a daemon: runs the pipeline here until the job is done. What may pass is tried again, like everything in a run.
pub fn alone<T>(pipeline: &Pipeline, stop: &AtomicBool, job: impl Fn(Sender<Result<T>>) -> Job) -> Result<T> {
    let mut desk = Desk::default();
    let ask = |desk: &mut Desk| {
        let (reply, answer) = bounded(1);
        desk.put(job(reply));
        answer
    };
    let mut answer: Receiver<Result<T>> = ask(&mut desk);
    let mut done: Option<Result<T>> = None;
    std::thread::scope(|scope| {
        let mut serve = |shared: &Shared<'_>| -> Result<()> {
            desk.serve(scope, shared, pipeline);
            match answer.try_recv() {
                Ok(Err(e)) if e.is_transient() => {
                    answer = ask(&mut desk);
                    return Err(e);
                }
                Ok(answer) => {
                    done = Some(answer);
                    stop.store(true, Ordering::SeqCst);
                }
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) if done.is_some() => {}
                Err(TryRecvError::Disconnected) => {
                    return Err(Error::corrupt("a thread that compared both sides panicked"));
                }
            }
            Ok(())
        };
        pipeline::run(pipeline, &Goal::Forever, &mut Conduct { stop, serve: &mut serve }).map(drop)
    })?;
    done.unwrap_or_else(|| Err(Error::transient("interrupted before both sides could be read")))
}
