//! The status page: one pipeline on one screen, for people who were not there when it was set up.
//!
//! HTML without anything that needs a script: it reloads itself, or where scripts run fetches its content anew every two seconds
//! and so keeps the reader's place. Written as well-formed XML, which a test checks; all text from outside goes through [`Text`].

use std::fmt::{self, Display, Write};
use std::time::Duration;

use crossfade_core::Level;

use super::chart::Chart;
use super::{HANGS, Site};
use crate::cli::logs;
use crate::cli::print::{count, left, seconds, size, tables, time};
use crate::pipeline::progress::{State, View};
use crate::verify::Verdict;

/// Keeps the page fresh.
pub const SCRIPT: &str = include_str!("live.js");

const STYLE: &str = include_str!("page.css");

/// Text as HTML shows it.
struct Text<'a>(&'a str);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '&' => f.write_str("&amp;"),
            '"' => f.write_str("&quot;"),
            // Control characters are not allowed in a document at all.
            c if c.is_control() => f.write_char(' '),
            c => f.write_char(c),
        })
    }
}

/// The page.
pub fn html(site: &Site) -> String {
    let view = site.progress.picture();
    let now = crate::now_micros();
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/><title>{name}: {behind}</title>\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\
         <noscript><meta http-equiv=\"refresh\" content=\"5\"/></noscript>\
         <style>{STYLE}</style><script src=\"/live.js\" defer=\"defer\"></script></head><body><main>",
        name = Text(&site.pipeline),
        behind = behind(&view),
    );
    head(&mut out, site, &view);
    tiles(&mut out, site, &view);
    notes(&mut out, site, &view);
    copy(&mut out, &view);
    charts(&mut out, site, now);
    targets(&mut out, site, &view, now);
    proofs(&mut out, site, &view, now);
    events(&mut out);
    let _ = writeln!(
        out,
        "<footer>Crossfade {} · process {} since {} · as of {} · <a href=\"/metrics\">metrics</a> · \
         <a href=\"/status.json\">JSON</a></footer></main></body></html>",
        env!("CARGO_PKG_VERSION"),
        std::process::id(),
        time(site.since_micros),
        time(now),
    );
    out
}

fn behind(view: &View) -> String {
    match view.lag_seconds {
        None => "lag unknown".into(),
        Some(0.0) => "level".into(),
        Some(s) => format!("{} behind", seconds(s)),
    }
}

fn head(out: &mut String, site: &Site, view: &View) {
    let differ = site.progress.recent.proofs().values().filter(|p| p.verdict == Verdict::Different).count();
    let class = match view.state {
        State::Running if differ > 0 || !view.suspended.is_empty() => "bad",
        State::Running => "good",
        State::Starting | State::Stopping => "warn",
        State::Retrying(_) | State::Stopped => "bad",
    };
    let phase = view.phase().map_or_else(|| "not begun".into(), |p| p.to_string());
    let mut doing = if view.state == State::Running { phase } else { view.state.name().to_owned() };
    for (count, what) in [(view.suspended.len(), "suspended"), (differ, "different")] {
        if count > 0 {
            let _ = write!(doing, ", {} {what}", tables(count));
        }
    }
    let _ = write!(
        out,
        "<header><h1>{}</h1><span class=\"badge {class}\">{doing}</span><code class=\"soft\">{}</code></header>\
         <p id=\"stale\" class=\"note bad\" hidden=\"hidden\">The daemon does not answer: what you see is old.</p>",
        Text(&site.pipeline),
        Text(&site.source),
    );
}

fn tiles(out: &mut String, site: &Site, view: &View) {
    let late = match view.lag_seconds {
        Some(s) if s <= 30.0 => "good",
        Some(s) if s <= 300.0 => "warn",
        Some(_) => "bad",
        None => "soft",
    };
    let mut tiles = vec![
        (late, behind(view), "by the last look at both ends"),
        ("", view.lag_bytes.map_or_else(|| "-".into(), size), "of log to go"),
        ("", count(view.rows_per_second.round() as u64), "rows a second"),
        ("", count(view.targets.iter().map(|t| t.rows).sum()), "rows streamed since the start"),
    ];
    if let Some(retained) = &view.retained {
        tiles.push(("", size(retained.bytes), "of log kept at the source"));
    }
    if let Some(standing) = site.progress.keeping().standing {
        let class = if standing.streak >= standing.goal { "good" } else { "" };
        tiles.push((class, format!("{} of {}", standing.streak, standing.goal), "clean hours without a break"));
    }
    let restarts = if view.restarts == 0 { "" } else { "warn" };
    tiles.push((restarts, count(view.restarts), "restarts after errors"));
    out.push_str("<div class=\"tiles\">");
    for (class, value, name) in tiles {
        let _ = write!(out, "<div class=\"tile\"><b class=\"{class}\">{}</b><span>{name}</span></div>", Text(&value));
    }
    out.push_str("</div>");
}

/// What somebody has to look at.
fn notes(out: &mut String, site: &Site, view: &View) {
    let mut note = |class: &str, text: &str| {
        let _ = write!(out, "<p class=\"note {class}\">{}</p>", Text(text));
    };
    if let State::Retrying(error) = &view.state {
        note("bad", &format!("Trying again: {error}"));
    }
    if let Some(f) = &view.concern {
        let class = if f.level == Level::Critical { "bad" } else { "warn" };
        note(class, &format!("{}: {}, and should be: {}. Mend: {}", f.setting, f.actual, f.expected, f.fix));
    }
    for table in &view.suspended {
        note("bad", &format!("Suspended: {table}"));
    }
    if let Some(error) = site.progress.keeping().error {
        note("bad", &format!("The ledger cannot be written: {error}"));
    }
    if let Some(hanging) = site.progress.pulse.hanging(HANGS) {
        note("bad", &hanging.to_string());
    } else if let Some(waiting) = site.progress.pulse.longest(Duration::from_secs(10)) {
        note("warn", &waiting.to_string());
    }
}

fn copy(out: &mut String, view: &View) {
    let Some(c) = view.copy else { return };
    let _ = write!(
        out,
        "<h2>Initial copy</h2><div class=\"card\"><progress max=\"{}\" value=\"{}\"></progress>{} of {} chunks, {} rows, {}{}</div>",
        c.chunks.max(1),
        c.done,
        count(c.done),
        count(c.chunks),
        count(c.rows),
        size(c.bytes),
        left(c.seconds_left),
    );
}

fn charts(out: &mut String, site: &Site, now: i64) {
    let samples = site.progress.recent.samples();
    let lag =
        Chart { title: "Seconds behind", samples: &samples, value: |s| s.lag_seconds, told: axis_seconds, least: 1.0 };
    let rate = Chart {
        title: "Rows a second",
        samples: &samples,
        value: |s| Some(s.rows_per_second),
        told: |rows| count(rows.round() as u64),
        least: 4.0,
    };
    for (name, chart) in [("Behind", lag), ("Rows a second", rate)] {
        let open = if name == "Behind" { "<div class=\"pair\">" } else { "" };
        let _ = write!(out, "{open}<section><h2>{name}</h2><div class=\"card\">{}</div></section>", chart.svg(now));
    }
    out.push_str("</div>");
}

fn axis_seconds(s: f64) -> String {
    match s {
        0.0 => "0".into(),
        s if s < 1.0 => format!("{:.0} ms", s * 1000.0),
        s if s < 120.0 => format!("{s} s"),
        s => seconds(s),
    }
}

fn targets(out: &mut String, site: &Site, view: &View, now: i64) {
    out.push_str(
        "<h2>Targets</h2><div class=\"card\"><table><tr><th>target</th><th>phase</th><th>position</th>\
         <th class=\"number\">commits</th><th class=\"number\">rows</th><th>last commit</th></tr>",
    );
    for (i, t) in view.targets.iter().enumerate() {
        let (phase, position, seq) = match &t.checkpoint {
            Some(c) => (c.phase.to_string(), c.position.to_string(), count(c.seq)),
            None => ("not begun".into(), "-".into(), "-".into()),
        };
        let last = site.progress.meters.of(i).last_micros.map_or_else(|| "-".into(), |at| ago(at, now));
        let _ = write!(
            out,
            "<tr><td><code>{}</code></td><td>{phase}</td><td><code>{}</code></td><td class=\"number\">{seq}</td>\
             <td class=\"number\">{}</td><td class=\"moment\">{last}</td></tr>",
            Text(&t.name),
            Text(&position),
            count(t.rows),
        );
    }
    let end = view.source_position.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
    let _ = write!(
        out,
        "<tr><td class=\"soft\">the source's end</td><td></td><td><code>{}</code></td><td></td><td></td><td></td></tr></table></div>",
        Text(&end),
    );
}

fn proofs(out: &mut String, site: &Site, view: &View, now: i64) {
    let is_suspended = |name: &str| view.suspended.iter().any(|s| s.table.to_string() == name);
    let proofs = site.progress.recent.proofs();
    out.push_str("<h2>Last proof of each table</h2><div class=\"card\">");
    if proofs.is_empty() {
        out.push_str("<span class=\"soft\">None since the daemon started: <code>crossfade verify</code> compares both sides.</span></div>");
        return;
    }
    out.push_str(
        "<table><tr><th>table</th><th>verdict</th><th class=\"number\">rows</th><th class=\"number\">differ</th>\
         <th>compared</th></tr>",
    );
    let known = |n: Option<u64>| n.map_or_else(|| "-".into(), count);
    // What needs a look comes first.
    let mut sorted: Vec<_> = proofs.iter().collect();
    sorted.sort_by_key(|(_, p)| p.verdict == Verdict::Equal);
    for ((table, target), p) in sorted {
        let (class, verdict) = match p.verdict {
            Verdict::Equal => ("good", "equal"),
            Verdict::Different => ("bad", "different"),
            Verdict::Unknown => ("warn", "unknown"),
        };
        let target = target.as_ref().map_or_else(String::new, |t| format!(" at {t}"));
        let why = match &p.error {
            // Why it is, stands above.
            Some(_) if is_suspended(table) => ": suspended".to_owned(),
            Some(e) => format!(": {e}"),
            None => String::new(),
        };
        let _ = write!(
            out,
            "<tr><td class=\"name\">{}{}</td><td class=\"text {class}\">{verdict}{}</td><td class=\"number\">{}</td>\
             <td class=\"number\">{}</td><td class=\"moment\">{}</td></tr>",
            Text(table),
            Text(&target),
            Text(&why),
            known(p.rows),
            known(p.differences),
            ago(p.at, now),
        );
    }
    out.push_str("</table></div>");
}

fn events(out: &mut String) {
    out.push_str("<h2>Recent events</h2><div class=\"card\"><table>");
    let events = logs::recent();
    if events.is_empty() {
        out.push_str("<tr><td class=\"soft\">none</td></tr>");
    }
    for event in events.iter().rev() {
        let class = match event.level {
            tracing::Level::ERROR => "bad",
            tracing::Level::WARN => "warn",
            _ => "soft",
        };
        let _ = write!(
            out,
            "<tr><td class=\"moment\">{}</td><td class=\"{class}\">{}</td><td class=\"text\">{}</td></tr>",
            time(event.at),
            event.level.as_str().to_ascii_lowercase(),
            Text(&event.text),
        );
    }
    out.push_str("</table></div>");
}

/// `12 s ago`.
fn ago(at: i64, now: i64) -> String {
    match now.saturating_sub(at) / 1_000_000 {
        passed if passed < 1 => "just now".into(),
        passed if passed < 120 => format!("{passed} s ago"),
        passed => format!("{} ago", seconds(passed as f64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_become_markup() {
        let bad = "<script>alert(\"1\")</script> & \u{1b}[0m\u{0}";
        assert_eq!(Text(bad).to_string(), "&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt; &amp;  [0m ");
    }

    #[test]
    fn moments() {
        assert_eq!(ago(0, 500_000), "just now");
        assert_eq!(ago(5, 0), "just now", "a clock that was set back");
        assert_eq!(ago(0, 12_000_000), "12 s ago");
        assert_eq!(ago(0, 600_000_000), "10 min ago");
    }
}
