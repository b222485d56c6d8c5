//! Who writes the ledger while a pipeline runs, and sees to the hourly comparison.
//!
//! A thread of its own beside the pipeline. It takes what was noted (`Progress::note`), looks at the picture of progress each second,
//! writes a sample of it each minute, judges hours that are over, and asks for a comparison of all tables when one is due. Nothing in the
//! pipeline waits for it: where the ledger cannot be written (a full disk, another process that holds it) entries wait here, so many at
//! most, and are written later. What had to be dropped is told by an entry of its own, which makes its hour unknown; and until the ledger
//! can be written again `crossfade status` says so.

use std::collections::VecDeque;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError, bounded};
use crossfade_core::{Error, Phase, Result, TableName};

use super::Ledger;
use super::entry::{Asker, Event, Sample};
use super::hours::{HOUR, hour_of, judge};
use crate::config::Config;
use crate::desk::Job;
use crate::pipeline::Pipeline;
use crate::pipeline::progress::{Keeping, State};
use crate::service::{Server, Wanted};
use crate::verify::Proof;
use crate::verify::audit::{Audit, Auditing};
use crate::verify::chunk::Settled;

/// How often it looks.
const LOOK: Duration = Duration::from_secs(1);
/// How often a sample is written.
const MINUTE: Duration = Duration::from_secs(60);
/// How long it waits before it tries again to write, or to compare.
const AGAIN: Duration = Duration::from_secs(30);
/// How long the parts of a comparison that was broken off count, in microseconds: a day.
const FRESH: i64 = 24 * HOUR;
/// Entries that wait at most while the ledger cannot be written.
const WAITING: usize = 10_000;

/// Writes the ledger of one pipeline.
pub struct Scribe<'a> {
    pipeline: &'a Pipeline,
    config: &'a Config,
    server: &'a Server,
    ledger: Option<Ledger>,
    waiting: VecDeque<(i64, Event)>,
    lost: u64,
    error: Option<String>,
    tried: Option<Instant>,
    sampled: Option<Instant>,
    worst: Option<f64>,
    /// A comparison that is under way, and the period of the schedule that it is for.
    proof: Option<(i64, Receiver<Result<Proof>>)>,
    /// The last period of the schedule that was seen to.
    period: Option<i64>,
    asked: Option<Instant>,
    /// Tables whose suspension was noted.
    suspended: Vec<TableName>,
    /// How far audits are; none: it was not asked yet.
    audits: Option<Vec<Auditing>>,
}

impl<'a> Scribe<'a> {
    /// For a pipeline that this process runs.
    pub fn new(pipeline: &'a Pipeline, config: &'a Config, server: &'a Server) -> Self {
        Scribe {
            pipeline,
            config,
            server,
            ledger: None,
            waiting: VecDeque::new(),
            lost: 0,
            error: None,
            tried: None,
            sampled: None,
            worst: None,
            proof: None,
            period: None,
            asked: None,
            suspended: Vec::new(),
            audits: None,
        }
    }

    /// Writes until `over` is set, and the error that the run ended with, if it did.
    pub fn write(mut self, over: &AtomicBool, error: &OnceLock<String>) {
        self.keep(crate::now_micros(), start());
        let mut looked: Option<Instant> = None;
        loop {
            let done = over.load(Ordering::SeqCst);
            if done || looked.is_none_or(|at| at.elapsed() >= LOOK) {
                looked = Some(Instant::now());
                self.look();
                if done {
                    break;
                }
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        self.keep(crate::now_micros(), Event::Stop { error: error.get().cloned() });
        self.tried = None;
        self.flush();
        if !self.waiting.is_empty() {
            let error = self.error.as_deref();
            tracing::error!(error, entries = self.waiting.len(), "the ledger could not be written to its end");
        }
    }

    fn look(&mut self) {
        let now = crate::now_micros();
        self.take_notes();
        self.prove(now);
        let view = self.pipeline.progress.picture();
        for s in view.suspended.iter().filter(|s| !self.suspended.contains(&s.table)) {
            self.waiting.push_back((now, Event::Suspended { table: s.table.to_string(), reason: s.reason.clone() }));
        }
        self.suspended = view.suspended.iter().map(|s| s.table.clone()).collect();
        self.worst = match (self.worst, view.lag_seconds) {
            (Some(a), Some(b)) => Some(a.max(b)),
            (one, other) => one.or(other),
        };
        if self.sampled.is_none_or(|at| at.elapsed() >= MINUTE) {
            self.sampled = Some(Instant::now());
            let sample = Sample {
                state: state(&view.state).to_owned(),
                phase: view.phase().map(|p| p.to_string()),
                lag_seconds: view.lag_seconds,
                worst_seconds: self.worst.take(),
                lag_bytes: view.lag_bytes,
                rows_per_second: view.rows_per_second,
                retained_bytes: view.retained.as_ref().map(|r| r.bytes),
            };
            self.keep(now, Event::Lag(sample));
        }
        self.flush();
    }

    fn take_notes(&mut self) {
        let notes = self.pipeline.progress.take_notes();
        self.lost += notes.dropped;
        notes.events.into_iter().for_each(|(at, event)| self.keep(at, event));
    }

    /// Asks for a comparison where one is due, and takes its answer.
    fn prove(&mut self, now: i64) {
        if let Some((period, answer)) = &self.proof {
            let answered = match answer.try_recv() {
                Err(TryRecvError::Empty) => return,
                Ok(answer) => answer,
                Err(TryRecvError::Disconnected) => Err(Error::corrupt("a thread that compared both sides panicked")),
            };
            // What could not be compared is tried again within the same period.
            self.period = answered.is_ok().then_some(*period);
            self.proof = None;
            if let Ok(proof) = &answered {
                self.pipeline.progress.recent.proved(proof, now);
            }
            // Its chunks stand before what ends it: by that they are known as its own.
            self.take_notes();
            let (at, event) = Event::compared(Asker::Schedule, &[], &answered);
            self.keep(at, event);
            self.audits = None;
        }
        let Some(every) = self.config.proof.every else { return };
        let period = now.div_euclid((every.as_micros() as i64).max(1));
        let streams = self.pipeline.progress.view().phase() == Some(Phase::Streaming);
        let patient = self.asked.is_some_and(|at| at.elapsed() < AGAIN);
        if !streams || patient || self.period == Some(period) {
            return;
        }
        self.asked = Some(Instant::now());
        let (reply, answer) = bounded(1);
        self.server.want(Wanted::Job(Job::scheduled(self.unfinished(now), self.audit(every, now), reply)));
        self.proof = Some((period, answer));
    }

    /// What a comparison that was broken off has settled: by another process, or by this one. What is not known is read anew.
    fn unfinished(&self, now: i64) -> Vec<Settled> {
        let read = || Ledger::open_read(&self.pipeline.name)?.map_or(Ok(Vec::new()), |l| l.unfinished(now - FRESH));
        read().unwrap_or_else(|e| {
            tracing::warn!(error = %e, hint = e.hint_text(), "the comparison begins anew");
            Vec::new()
        })
    }

    /// What an audit has to know. Where that cannot be read, large tables are read whole.
    fn audit(&self, every: Duration, now: i64) -> Option<Audit> {
        let period = self.config.proof.audit?;
        let since = now - 2 * period.as_micros() as i64;
        let read = || Ledger::open_read(&self.pipeline.name)?.map_or(Ok(Vec::new()), |l| l.chunks_since(since));
        let known = read().unwrap_or_else(|e| {
            tracing::warn!(error = %e, hint = e.hint_text(), "the audit begins anew");
            Vec::new()
        });
        Some(Audit::new(period, every, known))
    }

    fn keep(&mut self, at: i64, event: Event) {
        if self.waiting.len() >= WAITING {
            self.lost += 1;
            return;
        }
        self.waiting.push_back((at, event));
    }

    /// Writes what waits.
    fn flush(&mut self) {
        if self.waiting.is_empty() || self.error.is_some() && self.tried.is_some_and(|at| at.elapsed() < AGAIN) {
            return;
        }
        self.tried = Some(Instant::now());
        let written = self.write_out();
        let read = written.and_then(|()| {
            let standing = |l: &Ledger| l.standing(self.config.proof.goal_hours, crate::now_micros());
            if let (Some(ledger), None) = (&self.ledger, &self.audits) {
                self.audits = Some(ledger.audits()?);
            }
            self.ledger.as_ref().map(standing).transpose()
        });
        let (standing, wrong) = match read {
            Ok(standing) => (standing, None),
            Err(e) => (self.pipeline.progress.keeping().standing, Some(e)),
        };
        let audits = self.audits.clone().unwrap_or_default();
        if let Some(e) = &wrong {
            // Opened anew: its disk may be another one by then.
            self.ledger = None;
            if self.error.is_none() {
                tracing::error!(error = %e, hint = e.hint_text(), "the ledger cannot be written; replication goes on");
            }
        } else if self.error.is_some() {
            tracing::info!("the ledger is written again");
        }
        self.error = wrong.map(|e| e.to_string());
        self.pipeline.progress.set_keeping(Keeping { standing, audits, error: self.error.clone() });
    }

    fn write_out(&mut self) -> Result<()> {
        let ledger = match &mut self.ledger {
            Some(ledger) => ledger,
            none => none.insert(Ledger::open(&self.pipeline.name)?),
        };
        if self.lost > 0 {
            let error = self.error.clone().unwrap_or_else(|| "more happened at once than is kept".into());
            ledger.append(&[(crate::now_micros(), Event::Lost { entries: self.lost, error })])?;
            self.lost = 0;
        }
        ledger.append(self.waiting.make_contiguous())?;
        self.waiting.clear();
        let proving = self.proof.as_ref().map(|_| self.asked.map_or(0, |at| at.elapsed().as_micros() as i64));
        settle(ledger, self.config.proof.max_lag, crate::now_micros(), proving)
    }
}

/// Judges the hours that are over and were not judged. While a comparison is under way that began in an hour (so many microseconds ago),
/// that hour waits for it, an hour at most.
pub fn settle(ledger: &mut Ledger, max_lag: Duration, now: i64, proving: Option<i64>) -> Result<()> {
    let Some(began) = ledger.began()? else { return Ok(()) };
    let first = match ledger.hours(1)?.first() {
        Some(hour) => hour.start_micros + HOUR,
        None => hour_of(began),
    };
    let mut judged = Vec::new();
    let mut start = first;
    while start + HOUR <= now {
        let began_in_it = proving.is_some_and(|ago| (start..start + HOUR).contains(&(now - ago)));
        let waits = began_in_it && now < start + 2 * HOUR;
        if waits {
            break;
        }
        let kinds = ["lag", "incident", "verification", "unverified", "repair", "suspended", "lost"];
        let hour = judge(start, &ledger.between(&kinds, start, start + HOUR)?, max_lag);
        judged.push((start, Event::Hour(hour)));
        start += HOUR;
    }
    if judged.is_empty() { Ok(()) } else { ledger.append(&judged) }
}

fn start() -> Event {
    Event::Start { version: env!("CARGO_PKG_VERSION").into(), host: crate::host_name(), pid: std::process::id() }
}

fn state(state: &State) -> &'static str {
    match state {
        State::Starting => "starting",
        State::Running => "running",
        State::Retrying(_) => "retrying",
        State::Stopping => "stopping",
        State::Stopped => "stopped",
    }
}
