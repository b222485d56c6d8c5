//! `lag --watch`: the pipeline live in a terminal, with a chart of the lag and one of the rate.
//!
//! The picture is lines of styled text made by a pure function ([`frame`]) and drawn with the few escape sequences that every
//! terminal has; a library for windows and widgets would be a hundred times of that. Pictures are fetched on a thread of their
//! own: a daemon or a database that does not answer makes the view old, which it says, not deaf to keys. Whatever ends it (a key,
//! a signal, a panic), the terminal is put back first.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossfade_core::{Error, Level, Result};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::termios::{OptionalActions, Termios};

use super::print::{count, left, seconds, size, time};
use crate::pipeline::progress::State;
use crate::pipeline::recent::Sample;
use crate::service::Status;

/// How long one column of the charts may be; keys + and - choose.
const STEPS: [i64; 5] = [1, 5, 15, 30, 60];

/// A sample stands for the time up to the next one, but no longer than this, in microseconds.
const HOLDS: i64 = 6_000_000;

/// Samples kept here: an hour of one each second.
const KEPT: usize = 3600;

/// What was fetched.
#[derive(Default)]
struct Seen {
    status: Option<Status>,
    /// Why the last look failed.
    error: Option<String>,
    samples: Vec<Sample>,
    looked: Option<Instant>,
}

/// Shows a pipeline until somebody presses q. `fetch` gets a picture, `past` the samples of before.
pub fn watch(fetch: impl Fn() -> Result<Status> + Send, past: impl Fn() -> Vec<Sample> + Send) -> Result<u8> {
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        return Err(Error::usage("--watch needs a terminal").hint("for scripts: crossfade lag --json"));
    }
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|e| Error::unavailable("cannot wait for signals").caused_by(e))?;
    }
    let seen = Mutex::new(Seen::default());
    std::thread::scope(|scope| {
        scope.spawn(|| look(&seen, &stop, fetch, past));
        let screen = Screen::open()?;
        let shown = show(&seen, &stop);
        drop(screen);
        // Without waiting for a look that is under way: whoever quits wants his terminal.
        match shown {
            Ok(()) => std::process::exit(0),
            Err(e) => Err(Error::unavailable("the terminal").caused_by(e)),
        }
    })
}

fn look(seen: &Mutex<Seen>, stop: &AtomicBool, fetch: impl Fn() -> Result<Status>, past: impl Fn() -> Vec<Sample>) {
    seen.lock().unwrap_or_else(PoisonError::into_inner).samples = past();
    while !stop.load(Ordering::SeqCst) {
        let got = fetch();
        {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            match got {
                Ok(status) => {
                    if seen.samples.len() >= KEPT {
                        seen.samples.remove(0);
                    }
                    seen.samples.push(Sample::of(&status.view, crate::now_micros()));
                    seen.status = Some(status);
                    seen.error = None;
                    seen.looked = Some(Instant::now());
                }
                Err(e) => seen.error = Some(e.to_string()),
            }
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn show(seen: &Mutex<Seen>, stop: &AtomicBool) -> std::io::Result<()> {
    let mut step = 1;
    while !stop.load(Ordering::SeqCst) {
        let window = rustix::termios::tcgetwinsize(std::io::stdout())?;
        // A terminal that does not tell its size has the customary one.
        let told = |n: u16, otherwise| if n == 0 { otherwise } else { usize::from(n) };
        let (width, height) = (told(window.ws_col, 80), told(window.ws_row, 24));
        let lines = frame(
            &seen.lock().unwrap_or_else(PoisonError::into_inner),
            width,
            height,
            STEPS[step],
            crate::now_micros(),
        );
        let mut out = std::io::stdout().lock();
        write!(out, "\x1b[H{}\x1b[J", lines.join("\x1b[K\r\n"))?;
        out.flush()?;
        match key(Duration::from_millis(250))? {
            Some(b'q' | b'Q' | 3 | 27) => return Ok(()),
            Some(b'+') => step = step.saturating_sub(1),
            Some(b'-') => step = (step + 1).min(STEPS.len() - 1),
            Some(_) | None => {}
        }
    }
    Ok(())
}

/// The next key, if one comes in time. Keys that send a sequence (arrows) mean nothing here; Esc alone quits.
fn key(patience: Duration) -> std::io::Result<Option<u8>> {
    let stdin = std::io::stdin();
    let mut polled = [PollFd::new(&stdin, PollFlags::IN)];
    let limit = Timespec { tv_sec: 0, tv_nsec: i64::from(patience.subsec_nanos()) };
    match rustix::event::poll(&mut polled, Some(&limit)) {
        Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(None),
        Ok(_) => {}
        Err(e) => return Err(e.into()),
    }
    let mut bytes = [0; 32];
    match rustix::io::read(&stdin, &mut bytes) {
        // Nobody is there any more.
        Ok(0) => Ok(Some(b'q')),
        Ok(n) if n > 1 && bytes[0] == 27 => Ok(None),
        Ok(_) => Ok(Some(bytes[0])),
        Err(rustix::io::Errno::INTR) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// The terminal as it was; put back when dropped, and before a panic is told.
struct Screen(Termios);

impl Screen {
    fn open() -> Result<Screen> {
        let wrong = |e: rustix::io::Errno| Error::unavailable("the terminal").caused_by(e);
        let before = rustix::termios::tcgetattr(std::io::stdin()).map_err(wrong)?;
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(std::io::stdin(), OptionalActions::Now, &raw).map_err(wrong)?;
        let (kept, tell) = (before.clone(), std::panic::take_hook());
        std::panic::set_hook(Box::new(move |panic| {
            put_back(&kept);
            tell(panic);
        }));
        // The other screen, so that what was there comes back; without a cursor.
        print!("\x1b[?1049h\x1b[?25l\x1b[2J");
        Ok(Screen(before))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        put_back(&self.0);
    }
}

fn put_back(before: &Termios) {
    // There is nobody to tell if the terminal is gone.
    let mut out = std::io::stdout();
    let _ = out.write_all(b"\x1b[0m\x1b[?25h\x1b[?1049l").and_then(|()| out.flush());
    let _ = rustix::termios::tcsetattr(std::io::stdin(), OptionalActions::Now, before);
}

const PLAIN: &str = "0";
const BOLD: &str = "1";
const SOFT: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const BLUE: &str = "34";

/// A line: pieces of text, each with its style. Cut at the terminal's edge.
fn line(width: usize, pieces: &[(&str, &str)]) -> String {
    let (mut out, mut room) = (String::new(), width);
    for (style, text) in pieces {
        // Text from outside must not steer the terminal.
        let shown: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(room).collect();
        room -= shown.chars().count();
        // Writing to a String cannot fail.
        let _ = write!(out, "\x1b[{style}m{shown}");
    }
    out + "\x1b[0m"
}

/// The picture, as lines for a terminal of this size.
fn frame(seen: &Seen, width: usize, height: usize, step: i64, now: i64) -> Vec<String> {
    let Some(status) = &seen.status else {
        let text = seen.error.as_deref().unwrap_or("looking …");
        return vec![line(width, &[(PLAIN, text)]), line(width, &[(SOFT, "q quits")])];
    };
    let mut lines = head(seen, status, width, now);
    let mut foot = targets(status, width);
    foot.push(String::new());
    let span = seconds((step * (width.saturating_sub(GUTTER) as i64)) as f64);
    foot.push(line(width, &[(SOFT, &format!("q quits   + and - change the time shown: {span}"))]));
    // What is left is for the charts; two thirds of it for the lag.
    let room = height.saturating_sub(lines.len() + foot.len() + 3);
    let (lag_rows, rate_rows) = (room - room / 3, room / 3);
    let bins = |value: fn(&Sample) -> Option<f64>| bins(&seen.samples, value, width.saturating_sub(GUTTER), step, now);
    if lag_rows >= 2 {
        lines.push(line(width, &[(SOFT, "seconds behind")]));
        let colour = |v: f64| {
            if v <= 30.0 {
                GREEN
            } else if v <= 300.0 {
                YELLOW
            } else {
                RED
            }
        };
        lines.extend(chart(&bins(|s| s.lag_seconds), lag_rows, width, 1.0, seconds, colour));
    }
    if rate_rows >= 2 {
        lines.push(line(width, &[(SOFT, "rows a second")]));
        lines.extend(chart(&bins(|s| Some(s.rows_per_second)), rate_rows, width, 4.0, |v| count(v as u64), |_| BLUE));
    }
    lines.push(String::new());
    lines.extend(foot);
    lines.truncate(height);
    lines
}

fn head(seen: &Seen, status: &Status, width: usize, now: i64) -> Vec<String> {
    let view = &status.view;
    let phase = view.phase().map_or_else(|| "not begun".into(), |p| p.to_string());
    let (style, doing) = match &view.state {
        State::Running => (GREEN, phase.as_str()),
        State::Starting | State::Stopping => (YELLOW, view.state.name()),
        State::Retrying(_) => (RED, view.state.name()),
        State::Stopped => (RED, "no daemon runs it"),
    };
    let moment = time(now);
    let used = status.pipeline.chars().count() + doing.chars().count() + moment.chars().count() + 2;
    let gap = " ".repeat(width.saturating_sub(used).max(2));
    let title = [(BOLD, status.pipeline.as_str()), (PLAIN, "  "), (style, doing), (PLAIN, &gap), (SOFT, &moment)];
    let behind = match view.lag_seconds {
        None => (YELLOW, "lag unknown".to_owned()),
        Some(0.0) => (GREEN, "level".to_owned()),
        Some(s) => (
            if s <= 30.0 {
                GREEN
            } else if s <= 300.0 {
                YELLOW
            } else {
                RED
            },
            format!("{} behind", seconds(s)),
        ),
    };
    let bytes = view.lag_bytes.filter(|b| *b > 0).map_or_else(String::new, |b| format!("   {} of log to go", size(b)));
    let rate = format!("   {} rows/s", count(view.rows_per_second.round() as u64));
    let kept = view.retained.as_ref().map_or_else(String::new, |r| format!("   {} of log kept", size(r.bytes)));
    let numbers = [(behind.0, behind.1.as_str()), (PLAIN, &bytes), (PLAIN, &rate), (PLAIN, &kept)];
    let mut lines =
        vec![line(width, &title), line(width, &[(SOFT, &status.source)]), String::new(), line(width, &numbers)];
    if let Some(c) = view.copy {
        let text = format!(
            "copy: {} of {} chunks, {} rows, {}{}",
            count(c.done),
            count(c.chunks),
            count(c.rows),
            size(c.bytes),
            left(c.seconds_left)
        );
        lines.push(line(width, &[(PLAIN, &text)]));
    }
    if let State::Retrying(error) = &view.state {
        lines.push(line(width, &[(RED, &format!("trying again: {error}"))]));
    }
    for table in &view.suspended {
        lines.push(line(width, &[(RED, &format!("suspended: {table}"))]));
    }
    if let Some(f) = &view.concern {
        let style = if f.level == Level::Critical { RED } else { YELLOW };
        lines.push(line(width, &[(style, &format!("{}: {}", f.setting, f.actual))]));
    }
    let old = seen.looked.map(|at| at.elapsed()).filter(|age| *age > Duration::from_secs(4));
    if seen.error.is_some() || old.is_some() {
        let age = old.map_or_else(String::new, |age| format!("{} old: ", seconds(age.as_secs_f64())));
        let why = seen.error.as_deref().unwrap_or("no answer yet");
        lines.push(line(width, &[(RED, &format!("{age}{why}"))]));
    }
    lines
}

fn targets(status: &Status, width: usize) -> Vec<String> {
    let row = |name: &str, phase: &str, commits: &str, rows: &str| {
        let room = width.saturating_sub(40).max(16);
        let name: String = name.chars().take(room).collect();
        format!("{name:<room$} {phase:<10} {commits:>12} {rows:>14}")
    };
    let mut lines = vec![line(width, &[(SOFT, &row("target", "phase", "commits", "rows streamed"))])];
    for t in &status.view.targets {
        let (phase, commits) = match &t.checkpoint {
            Some(c) => (c.phase.to_string(), count(c.seq)),
            None => ("not begun".into(), "-".into()),
        };
        lines.push(line(width, &[(PLAIN, &row(&t.name, &phase, &commits, &count(t.rows)))]));
    }
    lines
}

/// Columns left of a chart, for its scale.
const GUTTER: usize = 11;

/// The largest value of each column, the last of which ends now. `None`: nothing is known of that time.
fn bins(
    samples: &[Sample],
    value: fn(&Sample) -> Option<f64>,
    columns: usize,
    step: i64,
    now: i64,
) -> Vec<Option<f64>> {
    let width = step * 1_000_000;
    // Columns begin at multiples of their length, so that a sample stays in its column while time passes.
    let end = now.div_euclid(width) * width + width;
    let begin = end - width * columns as i64;
    let mut bins = vec![None; columns];
    let holds = |i: usize| {
        let until = samples.get(i + 1).map_or(now, |next| next.at);
        until.min(samples[i].at.saturating_add(HOLDS)).max(samples[i].at)
    };
    for (i, sample) in samples.iter().enumerate() {
        let (Some(value), until) = (value(sample), holds(i)) else { continue };
        if until < begin || sample.at >= end {
            continue;
        }
        let column = |at: i64| ((at - begin).div_euclid(width)).clamp(0, columns as i64 - 1) as usize;
        for bin in &mut bins[column(sample.at)..=column(until.min(end - 1))] {
            *bin = Some(bin.map_or(value, |b: f64| b.max(value)));
        }
    }
    bins
}

/// A chart of bars. `least`: the least height of its scale.
fn chart(
    bins: &[Option<f64>],
    rows: usize,
    width: usize,
    least: f64,
    told: impl Fn(f64) -> String,
    colour: impl Fn(f64) -> &'static str,
) -> Vec<String> {
    const EIGHTHS: [&str; 9] = [" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"];
    let top = bins.iter().flatten().fold(least, |a, b| a.max(*b));
    let mut lines = Vec::new();
    for row in (0..rows).rev() {
        let label = match row {
            0 => "0".to_owned(),
            r if r == rows - 1 => told(top),
            _ => String::new(),
        };
        let mut out = format!("\x1b[{SOFT}m{label:>9} \x1b[0m\x1b[{SOFT}m│\x1b[0m");
        let mut style = "";
        for bin in bins {
            let (wanted, cell) = match bin {
                None if row == 0 => (SOFT, "·"),
                None => (PLAIN, " "),
                Some(value) => {
                    let eighths = (value / top * (rows * 8) as f64).round() as usize;
                    // What is not quite nothing is seen.
                    let eighths = if *value > 0.0 { eighths.max(1) } else { 0 };
                    let here = eighths.saturating_sub(row * 8).min(8);
                    let ground = row == 0 && here == 0;
                    if ground { (SOFT, "_") } else { (colour(*value), EIGHTHS[here]) }
                }
            };
            if wanted != style {
                let _ = write!(out, "\x1b[0;{wanted}m");
                style = wanted;
            }
            out.push_str(cell);
        }
        lines.push(if width > GUTTER { out + "\x1b[0m" } else { String::new() });
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::progress::{Keeping, TargetProgress, View};

    /// Without styles, and without what fills lines up.
    fn bare(lines: &[String]) -> Vec<String> {
        let unstyled = |l: &String| {
            let mut out = String::new();
            for (i, piece) in l.split('\u{1b}').enumerate() {
                out.push_str(if i == 0 { piece } else { piece.split_once('m').map_or("", |(_, text)| text) });
            }
            out
        };
        lines.iter().map(unstyled).collect()
    }

    fn seen(lag: Option<f64>) -> Seen {
        let target = TargetProgress {
            name: "postgres://new-db/shop\u{1b}[2J".into(),
            checkpoint: None,
            rows: 1_234_567,
            ..TargetProgress::default()
        };
        let view = View { state: State::Running, lag_seconds: lag, targets: vec![target], ..View::default() };
        let status = Status {
            pipeline: "shop".into(),
            pid: 1,
            since_micros: 0,
            source: "mysql://old-db/shop".into(),
            view,
            keeping: Keeping::default(),
        };
        Seen { status: Some(status), looked: Some(Instant::now()), ..Seen::default() }
    }

    #[test]
    fn the_picture_fits_its_terminal() {
        let mut seen = seen(Some(12.5));
        seen.samples =
            (0..600).map(|n| Sample { at: n * 1_000_000, lag_seconds: Some(n as f64), rows_per_second: 5.0 }).collect();
        for (width, height) in [(80, 24), (200, 60), (40, 10), (12, 3), (1, 1)] {
            let lines = bare(&frame(&seen, width, height, 5, 600_000_000));
            assert!(lines.len() <= height, "{width}x{height}: {lines:#?}");
            assert!(lines.iter().all(|l| l.chars().count() <= width.max(GUTTER)), "{width}x{height}: {lines:#?}");
        }
        let lines = bare(&frame(&seen, 80, 24, 5, 600_000_000));
        assert_eq!(lines.len(), 24);
        let all = lines.join("\n");
        for word in ["12.5 s behind", "10 min", "1,234,567", "█", "q quits", "not begun"] {
            assert!(all.contains(word), "{word}: {all}");
        }
        assert!(!all.contains('\u{1b}'), "text from outside does not steer the terminal");
    }

    #[test]
    fn what_is_not_known_is_not_drawn_as_nothing() {
        let at = |second: i64, lag| Sample { at: second * 1_000_000, lag_seconds: lag, rows_per_second: 0.0 };
        let samples = [at(100, Some(3.0)), at(101, Some(9.0)), at(102, None), at(103, Some(0.0))];
        let all = bins(&samples, |s| s.lag_seconds, 12, 1, 109_500_000);
        // 98 to 109; a sample holds until the next, for six seconds at most.
        let known: Vec<_> = (98..110).zip(all).filter_map(|(second, bin)| Some((second, bin?))).collect();
        assert_eq!(
            known,
            [
                (100, 3.0),
                (101, 9.0),
                (102, 9.0),
                (103, 0.0),
                (104, 0.0),
                (105, 0.0),
                (106, 0.0),
                (107, 0.0),
                (108, 0.0),
                (109, 0.0)
            ]
        );
        let lines = bare(&chart(&[None, Some(0.0), Some(0.1), Some(8.0)], 2, 40, 1.0, seconds, |_| GREEN));
        assert_eq!(lines, ["    8.0 s │   █", "        0 │·_▁█"]);
    }

    #[test]
    fn an_answer_that_fails_is_told_beside_the_old_picture() {
        let mut seen = seen(None);
        seen.error = Some("the daemon did not answer".into());
        let all = bare(&frame(&seen, 80, 24, 5, 0)).join("\n");
        assert!(all.contains("the daemon did not answer") && all.contains("lag unknown"), "{all}");
        let nothing = Seen { error: Some("no connection".into()), ..Seen::default() };
        assert!(bare(&frame(&nothing, 80, 24, 5, 0))[0].contains("no connection"));
    }
}
