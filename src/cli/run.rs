//! `run` and `catch-up`: the daemon, and bringing the target level.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use clap::Args;
use crossfade_core::{Error, Level, Phase, Position, Result};
use sd_notify::NotifyState;

use super::check::{findings, report};
use super::print::{self, Progressing};
use super::{Which, logs, parse_duration};
use crate::config::Config;
use crate::desk::Desk;
use crate::herald::{Herald, Over};
use crate::http::{self, Site};
use crate::ledger::Event;
use crate::ledger::scribe::Scribe;
use crate::pipeline::again::{self, Wish};
use crate::pipeline::progress::{State, View};
use crate::pipeline::pulse::{self, Patience};
use crate::pipeline::session::{Goal, Shared};
use crate::pipeline::{self, Conduct, Ended, Pipeline, suspend};
use crate::registry;
use crate::reload::Reloader;
use crate::service::{self, Server, Wanted};

/// Copy, then follow the source.
#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    which: Which,
    /// End once the target holds all that the source held when this began
    #[arg(long)]
    until_caught_up: bool,
    /// Bytes per second that the initial copy may read, such as 20MiB, instead of the configuration's `copy_rate`
    #[arg(long, value_name = "BYTES", value_parser = parse_rate)]
    copy_rate: Option<u64>,
}

fn parse_rate(text: &str) -> std::result::Result<u64, String> {
    match crate::config::bytes(text)? {
        0 => Err("must be at least 1".into()),
        rate => Ok(rate as u64),
    }
}

/// Wait for, or bring about, that the target holds all that the source held when this began; then set the target's
/// sequences to what its tables hold, so that the application can write there.
#[derive(Debug, Args)]
pub struct CatchUp {
    #[command(flatten)]
    which: Which,
    /// Give up after this time, with exit code 75
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    timeout: Option<Duration>,
}

pub fn run(args: &Run) -> Result<u8> {
    let (config, runtime, mut pipeline) = args.which.open()?;
    logs::configured(config.log.as_deref())?;
    pipeline.limits.copy_rate = args.copy_rate.or(pipeline.limits.copy_rate);
    let stop = service::stop_on_signals(config.drain, if args.until_caught_up { 75 } else { 0 })?;
    let server = Server::bind(&pipeline.name)?;
    let site = Site {
        pipeline: pipeline.name.clone(),
        source: pipeline.source_name.clone(),
        since_micros: server.since_micros,
        progress: Arc::clone(&pipeline.progress),
    };
    let listening = config.http.as_ref().map(|http| http::listen(http, site, runtime.handle())).transpose()?;
    let reloader = Reloader::new(args.which.path(), &pipeline.tuning, listening.as_ref(), args.copy_rate)?;
    let herald = Herald::new(&pipeline.progress, reloader)?;
    let goal = match args.until_caught_up {
        true => Goal::Level,
        false => Goal::Forever,
    };
    let over = Over::default();
    let ended = std::thread::scope(|scope| {
        let _at_end = over.at_end();
        let over = over.flag();
        scope.spawn(move || herald.tell(over));
        let _enlisted = pipeline.progress.pulse.enlist("conductor");
        {
            let _asking = pulse::asking("the check before the start", Patience::Work);
            preflight(&pipeline)?;
        }
        // What a person must mend has failed the service's start by now; how far it is, the status line and `crossfade status` tell.
        service::notify(&[NotifyState::Ready]);
        tracing::info!(pipeline = pipeline.name, source = pipeline.source_name, pid = std::process::id(), "starting");
        drive(&config, &pipeline, &goal, stop, &server)
    })?;
    match &ended {
        Ended::Reached | Ended::Stopped => tracing::info!(pipeline = pipeline.name, "stopped; everything committed"),
        Ended::Interrupted(error) => tracing::warn!(
            pipeline = pipeline.name,
            error,
            "stopped while waiting to try again; the next run goes on from the last commit"
        ),
    }
    if args.until_caught_up && ended != Ended::Reached {
        return Err(Error::transient("stopped before it had caught up").hint("run it again; nothing is lost"));
    }
    if args.until_caught_up {
        suspend::none(&pipeline.progress.view().suspended)?;
    }
    Ok(0)
}

/// Refuses to start what cannot work.
fn preflight(pipeline: &Pipeline) -> Result<()> {
    let found = findings(pipeline)?;
    for (end, f) in &found {
        if f.level == Level::Warning {
            tracing::warn!(end, setting = f.setting, expected = f.expected, actual = f.actual, fix = f.fix, "check");
        }
    }
    let critical: Vec<_> = found.into_iter().filter(|(_, f)| f.level == Level::Critical).collect();
    if critical.is_empty() {
        return Ok(());
    }
    Err(Error::config(format!("the check found what must be mended first\n{}", report(&critical)))
        .hint("each line says what mends it; `crossfade check` repeats this without starting anything"))
}

/// Runs a pipeline with its control socket, its ledger and a line of progress.
fn drive(config: &Config, pipeline: &Pipeline, goal: &Goal, stop: &AtomicBool, server: &Server) -> Result<Ended> {
    let (over, error) = (Over::default(), OnceLock::new());
    std::thread::scope(|scope| {
        let _at_end = over.at_end();
        scope.spawn(|| server.serve(pipeline, over.flag()));
        scope.spawn(|| Scribe::new(pipeline, config, server).write(over.flag(), &error));
        let progressing = Progressing::start();
        let mut told: Option<Instant> = None;
        let mut desk = Desk::default();
        let mut serve = |shared: &Shared<'_>| -> Result<()> {
            while let Ok(wanted) = server.wanted.try_recv() {
                match wanted {
                    Wanted::Job(job) => desk.put(job),
                    Wanted::Again(wish) => copy_again(shared, pipeline, wish),
                }
            }
            // To hold the pipeline means to wait for others' transactions.
            let asking = pulse::asking("a comparison or a repair", Patience::Work);
            desk.serve(scope, shared, pipeline);
            drop(asking);
            if told.is_none_or(|at| at.elapsed() >= Duration::from_secs(1)) {
                told = Some(Instant::now());
                progressing.say(print::line(&pipeline.progress.view()));
            }
            Ok(())
        };
        let result = pipeline::run(pipeline, goal, &mut Conduct { stop, serve: &mut serve });
        if let Err(e) = &result {
            pipeline.progress.note(Event::incident(e));
            error.get_or_init(|| e.to_string());
        }
        result
    })
}

/// Ends the session for tables that are to be copied again, if there are such.
fn copy_again(shared: &Shared<'_>, pipeline: &Pipeline, wish: Wish) {
    if let Err(e) = again::pick(pipeline, &wish.tables) {
        drop(wish.reply.send(Err(e))); // who asked may have gone
        return;
    }
    if let Err(wish) = shared.ask_again(wish) {
        drop(wish.reply.send(Err(Error::transient("other tables are about to be copied again").hint("try again"))));
    }
}

pub fn catch_up(args: &CatchUp) -> Result<u8> {
    let (config, _runtime, pipeline) = args.which.open()?;
    let began = Instant::now();
    if service::ask_status(&pipeline.name).is_some() {
        wait_for_daemon(&pipeline, args.timeout)?;
    } else {
        bring_about(&config, &pipeline, args.timeout)?;
    }
    suspend::none(&suspend::recover(&pipeline)?)?;
    for spec in &pipeline.targets {
        spec.target.settle(&pipeline.name)?;
    }
    println!("caught up in {}; sequences are set", print::seconds(began.elapsed().as_secs_f64()));
    Ok(0)
}

fn late(timeout: Duration) -> Error {
    Error::transient(format!("not caught up within {}", print::seconds(timeout.as_secs_f64())))
        .hint("look at `crossfade lag`; run catch-up again with a longer --timeout")
}

/// Waits until the daemon has brought every target to where the source is now (or, if the pipeline is still being begun, to
/// where it is when it has begun).
fn wait_for_daemon(pipeline: &Pipeline, timeout: Option<Duration>) -> Result<()> {
    let began = Instant::now();
    let progressing = Progressing::start();
    let mut position: Option<Position> = None;
    loop {
        let Some(status) = service::ask_status(&pipeline.name) else {
            return Err(Error::transient("the daemon ended before it had caught up").hint("look at its log"));
        };
        let view = status?.view;
        let begun = !view.targets.is_empty() && view.targets.iter().all(|t| t.checkpoint.is_some());
        if begun && position.is_none() {
            position = Some(pipeline.source.position()?);
        }
        if let Some(position) = &position
            && holds(pipeline, &view, position)?
        {
            return Ok(());
        }
        if let Some(timeout) = timeout.filter(|t| began.elapsed() > *t) {
            return Err(late(timeout));
        }
        let line = match &view.state {
            State::Retrying(error) => format!("the daemon is retrying: {error}"),
            _ => print::line(&view),
        };
        progressing.say(line);
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Whether every target streams and holds everything up to the position.
fn holds(pipeline: &Pipeline, view: &View, position: &Position) -> Result<bool> {
    for target in &view.targets {
        let there = match &target.checkpoint {
            Some(c) => c.phase == Phase::Streaming && pipeline.source.order(&c.position, position)?.is_ge(),
            None => false,
        };
        if !there {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Without a daemon: run the pipeline here until it is level.
fn bring_about(config: &Config, pipeline: &Pipeline, timeout: Option<Duration>) -> Result<()> {
    let stop = service::stop_on_signals(config.drain, 75)?;
    let server = Server::bind(&pipeline.name)?;
    preflight(pipeline)?;
    let (done, drain) = (AtomicBool::new(false), config.drain);
    let ended = std::thread::scope(|scope| {
        if let Some(timeout) = timeout {
            let done = &done;
            scope.spawn(move || {
                let began = Instant::now();
                while began.elapsed() < timeout {
                    if done.load(Ordering::SeqCst) {
                        return;
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
                stop.store(true, Ordering::SeqCst);
                // What cannot be interrupted (an index build) must not hold the caller beyond the drain time.
                std::thread::spawn(move || service::end_after(drain, 75));
            });
        }
        let ended = drive(config, pipeline, &Goal::Level, stop, &server);
        done.store(true, Ordering::SeqCst);
        ended
    });
    match ended? {
        Ended::Reached => Ok(()),
        Ended::Stopped | Ended::Interrupted(_) => {
            Err(timeout.map_or_else(|| Error::transient("interrupted before it had caught up"), late))
        }
    }
}

/// Removes what is installed at the source, unless a daemon needs it.
pub fn uninstall(which: &Which) -> Result<u8> {
    let config = which.config()?;
    if let Some(Ok(status)) = service::ask_status(&config.name) {
        return Err(Error::owned(format!("process {} runs the pipeline {}", status.pid, config.name))
            .hint(format!("stop it first: kill {}", status.pid)));
    }
    let removed = registry::uninstall(&config.source, &config.name, super::runtime()?.handle())?;
    if removed.is_empty() {
        println!("nothing was installed at {}", config.source);
    }
    for name in removed {
        println!("removed {name}");
    }
    Ok(0)
}
