//! What people see: errors with hints, tables, amounts, times, progress.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use comfy_table::{ContentArrangement, Table, presets};
use crossfade_core::Error;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tracing_subscriber::fmt::MakeWriter;

use crate::pipeline::progress::View;

/// Prints an error and its hint to standard error.
pub fn error(e: &Error) {
    let mut err = std::io::stderr();
    let (bold, red, off) = if err.is_terminal() { ("\x1b[1m", "\x1b[31m", "\x1b[0m") } else { ("", "", "") };
    // Standard error may be closed; there is nowhere left to say so.
    let _ = writeln!(err, "{red}{bold}error{off}: {e}");
    if let Some(hint) = e.hint_text() {
        let _ = writeln!(err, " {bold}hint{off}: {hint}");
    }
}

/// A table for the terminal.
pub fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_header(header);
    table
}

/// `1,234,567`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// `1 table`, `2 tables`.
pub fn tables(n: usize) -> String {
    format!("{} table{}", count(n as u64), if n == 1 { "" } else { "s" })
}

/// `12.3 MiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit < UNITS.len() - 1 {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// `350 ms`, `12.3 s`, `4 min`, `3 h 20 min`.
pub fn seconds(s: f64) -> String {
    match s {
        s if s < 1.0 => format!("{:.0} ms", s * 1000.0),
        s if s < 120.0 => format!("{s:.1} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.0} h {:.0} min", (s / 3600.0).floor(), (s % 3600.0) / 60.0),
    }
}

/// A moment, in UTC.
pub fn time(micros: i64) -> String {
    jiff::Timestamp::from_microsecond(micros).map_or_else(|_| "?".into(), |t| t.strftime("%F %T UTC").to_string())
}

/// `, about 3 min left`.
pub fn left(seconds_left: Option<u64>) -> String {
    seconds_left.map_or_else(String::new, |s| format!(", about {} left", seconds(s as f64)))
}

/// One line on how a pipeline does.
pub fn line(view: &View) -> String {
    let rate = if view.rows_per_second >= 0.5 {
        format!(", {} rows/s", count(view.rows_per_second.round() as u64))
    } else {
        String::new()
    };
    match view.copy {
        Some(c) => format!(
            "copying: {} of {} chunks, {} rows, {}{rate}{}",
            count(c.done),
            count(c.chunks),
            count(c.rows),
            size(c.bytes),
            left(c.seconds_left)
        ),
        None => {
            let behind = match (view.lag_seconds, view.lag_bytes) {
                (Some(0.0), _) => "caught up".to_owned(),
                (Some(s), Some(b)) => format!("{} and {} behind", seconds(s), size(b)),
                (Some(s), None) => format!("{} behind", seconds(s)),
                (None, _) => "behind".to_owned(),
            };
            let suspended = match view.suspended.len() {
                0 => String::new(),
                n => format!(", {} suspended", tables(n)),
            };
            format!("streaming: {behind}{rate}{suspended}")
        }
    }
}

/// A line that is redrawn while something long runs; invisible where nobody looks.
pub struct Progressing {
    bar: Option<ProgressBar>,
}

static BARS: std::sync::LazyLock<MultiProgress> = std::sync::LazyLock::new(MultiProgress::new);

impl Progressing {
    /// Starts to show, if standard error is a terminal.
    pub fn start() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = BARS.add(ProgressBar::new_spinner());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {msg}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Progressing { bar }
    }

    /// Says how far it is.
    pub fn say(&self, text: impl Into<String>) {
        if let Some(bar) = &self.bar {
            bar.set_message(text.into());
        }
    }
}

impl Drop for Progressing {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Writes log lines to standard error without tearing a progress line.
#[derive(Debug, Clone, Copy)]
pub struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        BARS.suspend(|| std::io::stderr().write(bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

impl MakeWriter<'_> for LogWriter {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        LogWriter
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts() {
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(count(999), "999");
        assert_eq!((tables(0), tables(1), tables(2000)), ("0 tables".into(), "1 table".into(), "2,000 tables".into()));
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(5 << 20), "5.0 MiB");
        assert_eq!(seconds(0.25), "250 ms");
        assert_eq!(seconds(12_000.0), "3 h 20 min");
        assert_eq!(time(0), "1970-01-01 00:00:00 UTC");
    }
}
