//! What the daemon tells systemd while it runs, and what it does at SIGHUP.
//!
//! A thread of its own, so that the supervisor hears of a pipeline that is stuck from somebody who is not. It feeds the watchdog
//! only while every thread of the pipeline gives signs of life (`pipeline/pulse.rs`): it looks four times in each watchdog period,
//! and a thread may be silent for half of one. A status line goes out each second, with lag and rate, or with what is waited for.
//! The protocol is sd_notify(3)'s.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossfade_core::Result;
use sd_notify::NotifyState;

use crate::cli::print;
use crate::http::HANGS;
use crate::pipeline::progress::{Progress, State};
use crate::pipeline::recent::Sample;
use crate::reload::Reloader;
use crate::service::notify;

/// A call that lasts longer is told in the status line.
const LONG: Duration = Duration::from_secs(10);

const TICK: Duration = Duration::from_millis(50);

/// Set when its owner is dropped, also by a panic: whoever waits for it ends.
#[derive(Debug, Default)]
pub struct Over(AtomicBool);

impl Over {
    /// The flag.
    pub fn flag(&self) -> &AtomicBool {
        &self.0
    }

    /// Sets the flag at the end of the caller's scope.
    pub fn at_end(&self) -> AtEnd<'_> {
        AtEnd(&self.0)
    }
}

/// See [`Over::at_end`].
#[derive(Debug)]
pub struct AtEnd<'a>(&'a AtomicBool);

impl Drop for AtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// What is told, and when.
pub struct Herald<'a> {
    progress: &'a Progress,
    reloader: Reloader<'a>,
    /// Set by SIGHUP.
    hang_up: &'static AtomicBool,
    watchdog: Option<Duration>,
    fed: Instant,
    told: Option<Instant>,
    /// A thread that hangs is logged once.
    hung: bool,
}

impl<'a> Herald<'a> {
    /// One that tells of this pipeline.
    pub fn new(progress: &'a Progress, reloader: Reloader<'a>) -> Result<Herald<'a>> {
        let watchdog = watchdog(std::env::var("WATCHDOG_USEC").ok(), std::env::var("WATCHDOG_PID").ok());
        let hang_up = crate::service::flag_on_hang_up()?;
        Ok(Herald { progress, reloader, hang_up, watchdog, fed: Instant::now(), told: None, hung: false })
    }

    /// Tells, until it is over.
    pub fn tell(mut self, over: &AtomicBool) {
        while !over.load(Ordering::SeqCst) {
            if self.hang_up.swap(false, Ordering::SeqCst) {
                self.reloader.reload();
            }
            if self.told.is_none_or(|at| at.elapsed() >= Duration::from_secs(1)) {
                self.told = Some(Instant::now());
                let view = self.progress.picture();
                self.progress.recent.sample(Sample::of(&view, crate::now_micros()));
                notify(&[NotifyState::Status(&self.line())]);
            }
            self.feed();
            std::thread::sleep(TICK);
        }
    }

    fn line(&self) -> String {
        let view = self.progress.picture();
        let mut line = match &view.state {
            State::Running => print::line(&view),
            State::Retrying(error) => format!("trying again: {error}"),
            other => other.name().to_owned(),
        };
        if let Some(waiting) = self.progress.pulse.longest(LONG) {
            line = format!("{line}; {waiting}");
        }
        // A status is one line.
        line.replace('\n', " ")
    }

    fn feed(&mut self) {
        let (every, window) = match self.watchdog {
            Some(period) => (period / 4, period / 2),
            None => (Duration::from_secs(1), HANGS),
        };
        if self.fed.elapsed() < every {
            return;
        }
        self.fed = Instant::now();
        match self.progress.pulse.hanging(window) {
            None if self.watchdog.is_some() => notify(&[NotifyState::Watchdog]),
            None => {}
            Some(waiting) if !self.hung => {
                let end =
                    if self.watchdog.is_some() { "systemd's watchdog will end the process" } else { "restart it" };
                tracing::error!(%waiting, end, "a thread of the pipeline hangs");
            }
            Some(_) => {}
        }
        self.hung = self.progress.pulse.hanging(window).is_some();
    }
}

/// How often systemd wants to be fed, if at all (sd_watchdog_enabled(3)): what it asks of another process is not asked of this one.
fn watchdog(micros: Option<String>, pid: Option<String>) -> Option<Duration> {
    let micros = micros?.parse().ok().filter(|m| *m > 0)?;
    let ours = pid.is_none_or(|pid| pid.parse() == Ok(std::process::id()));
    ours.then(|| Duration::from_micros(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watchdog_is_fed_if_it_is_ours() {
        let of = |micros: &str, pid: Option<u32>| watchdog(Some(micros.into()), pid.map(|p| p.to_string()));
        assert_eq!(watchdog(None, None), None);
        assert_eq!(of("240000000", None), Some(Duration::from_secs(240)));
        assert_eq!(of("240000000", Some(std::process::id())), Some(Duration::from_secs(240)));
        assert_eq!(of("240000000", Some(std::process::id() + 1)), None);
        assert_eq!((of("0", None), of("soon", None)), (None, None));
    }
}
