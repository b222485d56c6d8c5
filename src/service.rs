//! The daemon's side door: a control socket, systemd's notifications, and signals.
//!
//! `lag`, `status`, `catch-up`, `verify`, `sample`, `repair` and `snapshot` ask a running daemon over a Unix socket, one JSON line each way; without a
//! daemon they do their work on the databases themselves. The socket also makes a second run on the same machine stop at
//! once; across machines the target's own fencing does that.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use crossfade_core::{Error, Exit, Result};
use serde::{Deserialize, Serialize};

use crate::desk::Job;
use crate::ledger::Event;
use crate::ledger::entry::Asker;
use crate::pipeline::Pipeline;
use crate::pipeline::again::Wish;
use crate::pipeline::progress::{Keeping, View};
use crate::pipeline::recent::Sample;
use crate::repair::Report;
use crate::verify::{Options, Proof, sample};

/// What a command asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Request {
    /// Who are you and how far.
    Status,
    /// How far you were in the last hour.
    Samples,
    /// Compare both sides.
    Verify {
        /// Globs; empty means all.
        tables: Vec<String>,
        /// How much is compared.
        #[serde(default)]
        options: Options,
    },
    /// Show random rows.
    Sample {
        /// Globs; empty means all.
        tables: Vec<String>,
        /// Which.
        wanted: sample::Wanted,
    },
    /// Write rows that differ again.
    Repair {
        /// Globs; empty means all.
        tables: Vec<String>,
        /// Whether to write, or only to tell.
        apply: bool,
    },
    /// Copy tables again.
    Snapshot {
        /// Globs.
        tables: Vec<String>,
    },
}

/// What the daemon says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The pipeline.
    pub pipeline: String,
    /// The daemon's process; 0 if none runs.
    pub pid: u32,
    /// When it started, in microseconds since 1970 UTC.
    pub since_micros: i64,
    /// The source, without secrets.
    pub source: String,
    /// The picture.
    pub view: View,
    /// How the ledger does.
    #[serde(default)]
    pub keeping: Keeping,
}

/// What comes back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Status(Box<Status>),
    Samples(Vec<Sample>),
    Proof(Proof),
    Sample(Box<sample::Sample>),
    Repair(Box<Report>),
    Tables(Vec<String>),
    Error { message: String, hint: Option<String>, exit: i32 },
}

/// What somebody waits for.
pub enum Wanted {
    /// A comparison, a sample, or a repair.
    Job(Job),
    /// Tables to copy again.
    Again(Wish),
}

/// Where the socket of a pipeline may be: the unit's runtime directory, where such a unit would have it, the user's runtime
/// directory, one in /tmp. A daemon takes the first that it can write; a command asks them all.
fn socket_paths(pipeline: &str) -> Vec<PathBuf> {
    let file = format!("{pipeline}.sock");
    let mut folders = Vec::new();
    folders.extend(std::env::var_os("RUNTIME_DIRECTORY").map(PathBuf::from));
    folders.push(PathBuf::from("/run/crossfade").join(pipeline));
    folders.extend(std::env::var_os("XDG_RUNTIME_DIR").map(|d| PathBuf::from(d).join("crossfade")));
    folders.push(std::env::temp_dir().join(format!("crossfade-{}", user_id())));
    folders.into_iter().map(|f| f.join(&file)).collect()
}

fn user_id() -> u32 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").map_or(0, |m| m.uid())
}

/// The control socket of a running daemon; gone when dropped.
pub struct Server {
    path: PathBuf,
    listener: UnixListener,
    wanted_in: Sender<Wanted>,
    /// Requests to serve.
    pub wanted: Receiver<Wanted>,
    /// When the daemon started, in microseconds since 1970 UTC.
    pub since_micros: i64,
}

impl Server {
    /// Listens for a pipeline; refuses if a daemon answers there already.
    pub fn bind(pipeline: &str) -> Result<Server> {
        if let Some(Ok(status)) = ask_status(pipeline) {
            return Err(Error::owned(format!(
                "pipeline {pipeline} is owned by process {} on this machine, which runs it since {}",
                status.pid,
                crate::cli::print::time(status.since_micros)
            ))
            .hint(format!("ask it with `crossfade status`, or stop it first: kill {}", status.pid)));
        }
        let mut wrong = None;
        for path in socket_paths(pipeline) {
            match listen(&path) {
                Ok(listener) => {
                    let (wanted_in, wanted) = unbounded();
                    return Ok(Server { path, listener, wanted_in, wanted, since_micros: crate::now_micros() });
                }
                Err(e) => wrong = Some(e),
            }
        }
        let error = Error::unavailable("no folder for the control socket can be written");
        Err(match wrong {
            Some(e) => error.caused_by(e),
            None => error,
        }
        .hint("set RUNTIME_DIRECTORY or XDG_RUNTIME_DIR to a folder of yours"))
    }

    /// Answers until `over` is set.
    pub fn serve(&self, pipeline: &Pipeline, over: &AtomicBool) {
        std::thread::scope(|scope| {
            while !over.load(Ordering::SeqCst) {
                match self.listener.accept() {
                    Ok((stream, _)) => {
                        scope.spawn(move || {
                            if let Err(e) = self.answer(stream, pipeline, over) {
                                tracing::debug!(error = %e, "a control connection ended early");
                            }
                        });
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(50)),
                }
            }
        });
    }

    /// Hands something to the thread that conducts the session.
    pub fn want(&self, wanted: Wanted) {
        drop(self.wanted_in.send(wanted)); // the receiver is ours
    }

    fn answer(&self, mut stream: UnixStream, pipeline: &Pipeline, over: &AtomicBool) -> std::io::Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut line = String::new();
        BufReader::new(std::io::Read::take(&mut stream, 1 << 20)).read_line(&mut line)?;
        let answer = match serde_json::from_str(&line) {
            Ok(Request::Status) => Answer::Status(Box::new(self.status(pipeline))),
            Ok(Request::Samples) => Answer::Samples(pipeline.progress.recent.samples()),
            Ok(Request::Verify { tables, options }) => {
                let (reply, proof) = bounded(1);
                self.want(Wanted::Job(Job::verify(&tables, options, reply)));
                let answer = wait(&proof, over);
                let (at, event) = Event::compared(Asker::Verify, &tables, &answer);
                pipeline.progress.note_at(at, event);
                if let Ok(proof) = &answer {
                    pipeline.progress.recent.proved(proof, crate::now_micros());
                }
                answer.map_or_else(|e| refusal(&e), Answer::Proof)
            }
            Ok(Request::Sample { tables, wanted }) => {
                let (reply, sample) = bounded(1);
                self.want(Wanted::Job(Job::sample(&tables, wanted, reply)));
                wait(&sample, over).map_or_else(|e| refusal(&e), |sample| Answer::Sample(Box::new(sample)))
            }
            Ok(Request::Repair { tables, apply }) => {
                let (reply, report) = bounded(1);
                self.want(Wanted::Job(Job::repair(&tables, apply, reply)));
                let answer = wait(&report, over);
                let events = Event::repaired(&tables, &answer);
                events.into_iter().for_each(|(at, event)| pipeline.progress.note_at(at, event));
                if let Ok(report) = &answer {
                    pipeline.progress.recent.proved(&report.proof, crate::now_micros());
                }
                answer.map_or_else(|e| refusal(&e), |report| Answer::Repair(Box::new(report)))
            }
            Ok(Request::Snapshot { tables }) => {
                let (reply, names) = bounded(1);
                self.want(Wanted::Again(Wish { tables, reply }));
                let answer = wait(&names, over);
                if let Ok(tables) = &answer {
                    pipeline.progress.note(Event::Snapshot { tables: tables.clone() });
                }
                answer.map_or_else(|e| refusal(&e), Answer::Tables)
            }
            Err(e) => refusal(&Error::usage(format!("not a request: {e}"))),
        };
        let mut text = serde_json::to_string(&answer).map_err(std::io::Error::other)?;
        text.push('\n');
        stream.write_all(text.as_bytes())
    }

    fn status(&self, pipeline: &Pipeline) -> Status {
        Status {
            pipeline: pipeline.name.clone(),
            pid: std::process::id(),
            since_micros: self.since_micros,
            source: pipeline.source_name.clone(),
            view: pipeline.progress.picture(),
            keeping: pipeline.progress.keeping(),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The file may be gone with its folder; a stale one is replaced by the next daemon.
        if let Err(e) = std::fs::remove_file(&self.path) {
            tracing::debug!(error = %e, path = %self.path.display(), "removing the control socket");
        }
    }
}

/// What the pipeline's thread answers.
fn wait<T>(reply: &Receiver<Result<T>>, over: &AtomicBool) -> Result<T> {
    loop {
        match reply.recv_timeout(Duration::from_millis(100)) {
            Ok(answer) => return answer,
            Err(RecvTimeoutError::Timeout) if !over.load(Ordering::SeqCst) => {}
            Err(_) => {
                return Err(
                    Error::transient("the daemon stopped, or began again, before it was done").hint("try again")
                );
            }
        }
    }
}

/// Whether a folder belongs to this user or to root and nobody else can write it: anyone could answer from another one. Root
/// also asks the daemons of others.
fn is_ours(folder: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let me = user_id();
    std::fs::metadata(folder).is_ok_and(|m| (me == 0 || m.uid() == me || m.uid() == 0) && m.mode() & 0o022 == 0)
}

fn listen(path: &Path) -> std::io::Result<UnixListener> {
    let folder = path.parent().ok_or_else(|| std::io::Error::other("no folder"))?;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    if !is_ours(folder) {
        return Err(std::io::Error::other(format!("{} can be written by others", folder.display())));
    }
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn refusal(e: &Error) -> Answer {
    Answer::Error { message: e.to_string(), hint: e.hint_text().map(str::to_owned), exit: e.exit() as i32 }
}

/// Asks a running daemon how far it is. `None`: no daemon answers.
pub fn ask_status(pipeline: &str) -> Option<Result<Status>> {
    Some(match ask(pipeline, &Request::Status)? {
        Ok(Answer::Status(status)) => Ok(*status),
        Ok(_) => Err(odd()),
        Err(e) => Err(e),
    })
}

/// Asks a running daemon for the last hour. `None`: no daemon answers.
pub fn ask_samples(pipeline: &str) -> Option<Result<Vec<Sample>>> {
    Some(match ask(pipeline, &Request::Samples)? {
        Ok(Answer::Samples(samples)) => Ok(samples),
        Ok(_) => Err(odd()),
        Err(e) => Err(e),
    })
}

/// Asks a running daemon to verify. `None`: no daemon answers.
pub fn ask_verify(pipeline: &str, tables: &[String], options: Options) -> Option<Result<Proof>> {
    Some(match ask(pipeline, &Request::Verify { tables: tables.to_vec(), options })? {
        Ok(Answer::Proof(proof)) => Ok(proof),
        Ok(_) => Err(odd()),
        Err(e) => Err(e),
    })
}

/// Asks a running daemon for random rows. `None`: no daemon answers.
pub fn ask_sample(pipeline: &str, tables: &[String], wanted: sample::Wanted) -> Option<Result<sample::Sample>> {
    Some(match ask(pipeline, &Request::Sample { tables: tables.to_vec(), wanted })? {
        Ok(Answer::Sample(sample)) => Ok(*sample),
        Ok(_) => Err(odd()),
        Err(e) => Err(e),
    })
}

/// Asks a running daemon to repair. `None`: no daemon answers.
pub fn ask_repair(pipeline: &str, tables: &[String], apply: bool) -> Option<Result<Report>> {
    Some(match ask(pipeline, &Request::Repair { tables: tables.to_vec(), apply })? {
        Ok(Answer::Repair(report)) => Ok(*report),
        Ok(_) => Err(odd()),
        Err(e) => Err(e),
    })
}

/// Asks a running daemon to copy tables again. `None`: no daemon answers.
pub fn ask_snapshot(pipeline: &str, tables: &[String]) -> Option<Result<Vec<String>>> {
    Some(match ask(pipeline, &Request::Snapshot { tables: tables.to_vec() })? {
        Ok(Answer::Tables(names)) => Ok(names),
        Ok(_) => Err(odd()),
        Err(e) => Err(e),
    })
}

fn odd() -> Error {
    Error::unavailable("the daemon gave an answer of another kind").hint("daemon and command must be of one version")
}

fn ask(pipeline: &str, request: &Request) -> Option<Result<Answer>> {
    let ours = |p: &&PathBuf| p.parent().is_some_and(is_ours);
    let mut stream = socket_paths(pipeline).iter().filter(ours).find_map(|p| UnixStream::connect(p).ok())?;
    // A daemon that is stopped must not hang a monitor; a comparison takes as long as it takes.
    let quick = matches!(request, Request::Status | Request::Samples);
    let patience = quick.then_some(Duration::from_secs(10));
    let exchange = || -> std::io::Result<Answer> {
        stream.set_read_timeout(patience)?;
        stream.write_all(format!("{}\n", serde_json::to_string(request)?).as_bytes())?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    };
    Some(match exchange() {
        Ok(Answer::Error { message, hint, exit }) => Err(restore(message, hint, exit)),
        Ok(answer) => Ok(answer),
        Err(e) => Err(Error::transient("the daemon did not answer").caused_by(e)),
    })
}

fn restore(message: String, hint: Option<String>, exit: i32) -> Error {
    let e = match exit {
        x if x == Exit::Usage as i32 => Error::usage(message),
        x if x == Exit::Config as i32 => Error::config(message),
        x if x == Exit::Data as i32 => Error::corrupt(message),
        x if x == Exit::TryAgain as i32 => Error::transient(message),
        _ => Error::unavailable(message),
    };
    match hint {
        Some(hint) => e.hint(hint),
        None => e,
    }
}

/// Sets `stop` on SIGTERM and SIGINT; past `drain`, or on a second signal, the process ends, which is safe. `late` is the exit
/// code then: 0 for a daemon, which has nothing to prove; 75 for a command whose 0 means that something holds.
pub fn stop_on_signals(drain: Duration, late: u8) -> Result<&'static AtomicBool> {
    let stop: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
    let mut signals = signal_hook::iterator::Signals::new([libc::SIGTERM, libc::SIGINT])
        .map_err(|e| Error::unavailable("cannot wait for signals").caused_by(e))?;
    let wait = move || {
        for signal in signals.forever() {
            if stop.swap(true, Ordering::SeqCst) {
                std::process::exit(128 + signal);
            }
            notify(&[sd_notify::NotifyState::Stopping]);
            std::thread::spawn(move || end_after(drain, late));
        }
    };
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(wait)
        .map_err(|e| Error::unavailable("cannot start a thread").caused_by(e))?;
    Ok(stop)
}

/// A flag that SIGHUP sets.
pub fn flag_on_hang_up() -> Result<&'static AtomicBool> {
    static HANG_UP: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);
    signal_hook::flag::register(libc::SIGHUP, Arc::clone(&HANG_UP))
        .map_err(|e| Error::unavailable("cannot wait for SIGHUP").caused_by(e))?;
    Ok(&HANG_UP)
}

/// Ends the process when draining takes too long. Whatever is not committed is read again by the next run.
pub fn end_after(drain: Duration, code: u8) {
    std::thread::sleep(drain);
    tracing::warn!(after_s = drain.as_secs(), "not drained in time; ending here is safe");
    std::process::exit(i32::from(code));
}

/// Tells systemd, if it asked to be told.
pub fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(false, states) {
        tracing::debug!(error = %e, "systemd was not notified");
    }
}
