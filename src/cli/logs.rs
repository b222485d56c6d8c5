//! Logs: where they go, in what form, and how much of them.
//!
//! Two readers: standard error, for people on a terminal and as JSON elsewhere, as much as was asked for; and a short memory of the
//! last events, whatever was asked for, which the status page shows. How much goes to standard error can be changed while the
//! process runs (SIGHUP). A process has one subscriber, so what changes it is global, too.

use std::collections::VecDeque;
use std::fmt::Write;
use std::io::IsTerminal;
use std::sync::{Mutex, OnceLock, PoisonError};

use crossfade_core::{Error, Result};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use super::print;

/// Events that are remembered.
const KEPT: usize = 50;

/// Bytes of one event that are remembered.
const LENGTH: usize = 500;

/// Something that was logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    /// When, in microseconds since 1970 UTC.
    pub at: i64,
    /// How bad it is.
    pub level: Level,
    /// The message, and its fields.
    pub text: String,
}

struct SetUp {
    handle: reload::Handle<EnvFilter, Registry>,
    fixed: bool,
    otherwise: &'static str,
}

static SET_UP: OnceLock<SetUp> = OnceLock::new();
static EVENTS: Mutex<VecDeque<Logged>> = Mutex::new(VecDeque::new());

/// Parses how much to log: a level, or levels of parts of the program (`info,crossfade_mysql=debug`). A level that is spelled wrongly
/// would be taken for a part's name, and silence everything else.
pub fn filter(level: &str) -> Result<EnvFilter> {
    let wrong = || Error::usage(format!("{level:?} is not how much to log")).hint("error, warn, info, debug or trace");
    let known = |l: &str| !l.is_empty() && l.parse::<LevelFilter>().is_ok();
    let is_level = |part: &str| part.rsplit('=').next().is_some_and(|l| known(l.trim()));
    if !level.split(',').all(is_level) {
        return Err(wrong());
    }
    EnvFilter::try_new(level).map_err(|e| wrong().caused_by(e))
}

/// Begins to log. `asked`: what the command line says, which goes before a configuration; `otherwise`: where nobody says anything.
pub fn set_up(asked: Option<&str>, otherwise: &'static str, json: Option<bool>) -> Result<()> {
    let terminal = std::io::stderr().is_terminal();
    let (filter, handle) = reload::Layer::new(filter(asked.unwrap_or(otherwise))?);
    let lines = match json.unwrap_or(!terminal) {
        true => fmt::layer().with_writer(print::LogWriter).json().flatten_event(true).with_current_span(false).boxed(),
        false => fmt::layer().with_writer(print::LogWriter).with_target(false).with_ansi(terminal).boxed(),
    };
    tracing_subscriber::registry().with(lines.with_filter(filter)).with(Remember.with_filter(LevelFilter::INFO)).init();
    drop(SET_UP.set(SetUp { handle, fixed: asked.is_some(), otherwise })); // a process sets up once
    Ok(())
}

/// Logs as much as a configuration says from now on, unless the command line says otherwise.
pub fn configured(level: Option<&str>) -> Result<()> {
    let Some(set_up) = SET_UP.get().filter(|s| !s.fixed) else { return Ok(()) };
    let wrong = |e| Error::corrupt("the log's level cannot be changed").caused_by(e);
    set_up.handle.reload(filter(level.unwrap_or(set_up.otherwise))?).map_err(wrong)
}

/// The last events, oldest first.
pub fn recent() -> Vec<Logged> {
    EVENTS.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
}

struct Remember;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Remember {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut words = Words::default();
        event.record(&mut words);
        let mut text = words.message + &words.fields;
        if text.len() > LENGTH {
            let end = (0..=LENGTH).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
            text.truncate(end);
            text.push('…');
        }
        let logged = Logged { at: crate::now_micros(), level: *event.metadata().level(), text };
        let mut events = EVENTS.lock().unwrap_or_else(PoisonError::into_inner);
        if events.len() >= KEPT {
            events.pop_front();
        }
        events.push_back(logged);
    }
}

#[derive(Default)]
struct Words {
    message: String,
    fields: String,
}

impl Visit for Words {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing to a String cannot fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_logged_is_remembered_within_bounds() {
        let subscriber = tracing_subscriber::registry().with(Remember.with_filter(LevelFilter::INFO));
        tracing::subscriber::with_default(subscriber, || {
            tracing::debug!("not this");
            tracing::warn!(table = "s.t", rows = 3, "found");
            tracing::error!("{}", "é".repeat(2000));
        });
        let events = recent();
        assert_eq!(events[0].text, "found table=s.t rows=3");
        assert_eq!(events[0].level, Level::WARN);
        assert!(events[1].text.len() <= LENGTH + 3 && events[1].text.ends_with('…'));
    }

    #[test]
    fn a_level_that_is_none_is_refused() {
        for level in ["info", "WARN", "off", "info,crossfade_mysql=debug", "crossfade::pipeline=trace,error"] {
            assert!(filter(level).is_ok(), "{level}");
        }
        for level in ["loud", "inof", "", "info,inof", "crossfade=", "crossfade=loud"] {
            assert!(filter(level).is_err(), "{level}");
        }
    }
}
