//! `/metrics`, in Prometheus' text format (version 0.0.4: "Exposition formats" of its documentation).
//!
//! Written by hand from the picture of progress: a registry of metrics would be a second, global copy of what the picture holds
//! already, to be kept in step with it. A value that is not known is left out, never 0: no alert takes it for well.

use std::fmt::{Display, Write};

use crossfade_core::{Level, Phase};

use super::{HANGS, Site};
use crate::pipeline::meters::Histogram;
use crate::pipeline::progress::{State, View};
use crate::verify::Verdict;

/// What the text is.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Every metric of a pipeline.
pub fn text(site: &Site) -> String {
    let view = site.progress.picture();
    let mut out = Exposition { text: String::new(), pipeline: escape(&site.pipeline), name: "" };
    state(&mut out, site, &view);
    lag(&mut out, site, &view);
    targets(&mut out, site, &view);
    copy(&mut out, &view);
    proofs(&mut out, site);
    process(&mut out, site);
    out.text
}

fn state(out: &mut Exposition, site: &Site, view: &View) {
    out.family("crossfade_info", "gauge", "What runs.");
    out.value(&[("version", env!("CARGO_PKG_VERSION")), ("source", &site.source)], 1);
    out.family("crossfade_state", "gauge", "1 for what the pipeline is up to, 0 for what it is not.");
    for name in State::NAMES {
        out.value(&[("state", name)], u8::from(view.state.name() == name));
    }
    out.family("crossfade_streaming", "gauge", "1 when every target streams, 0 during the initial copy and before.");
    out.value(&[], u8::from(view.phase() == Some(Phase::Streaming)));
    out.known(
        "crossfade_suspended_tables",
        "Tables that are left out until somebody mends them.",
        Some(view.suspended.len()),
    );
    out.family("crossfade_healthy", "gauge", "0 when a thread of the pipeline gives no sign of life.");
    out.value(&[], u8::from(site.progress.pulse.hanging(HANGS).is_none()));
    out.family(
        "crossfade_restarts_total",
        "counter",
        "How often the pipeline began again after an error that may pass.",
    );
    out.value(&[], view.restarts);
    if let Some(waiting) = site.progress.pulse.longest(std::time::Duration::from_secs(1)) {
        out.family(
            "crossfade_waiting_seconds",
            "gauge",
            "How long the thread that waits longest has been in one call.",
        );
        out.value(
            &[("thread", &waiting.thread), ("call", waiting.call.unwrap_or("none"))],
            waiting.since.as_secs_f64(),
        );
    }
}

fn lag(out: &mut Exposition, site: &Site, view: &View) {
    let lag = view.lag_seconds;
    out.known("crossfade_lag_seconds", "Seconds by which the hindmost target is behind the source.", lag);
    out.known("crossfade_lag_bytes", "Bytes of log between the hindmost target and the source.", view.lag_bytes);
    let age = site.progress.compared().map(|d| d.as_secs_f64());
    out.known("crossfade_lag_age_seconds", "How long ago both ends were last compared.", age);
    let Some(retained) = &view.retained else { return };
    out.known("crossfade_retained_bytes", "Log that the source keeps for this pipeline.", Some(retained.bytes));
    out.known("crossfade_retained_room_bytes", "Log that it may keep beyond that before it is lost.", retained.room);
    out.family(
        "crossfade_retained_concern",
        "gauge",
        "What the log that is kept amounts to: 0 well, 1 warning, 2 critical.",
    );
    let concern = match view.concern.as_ref().map(|c| c.level) {
        None | Some(Level::Ok) => 0,
        Some(Level::Warning) => 1,
        Some(Level::Critical) => 2,
    };
    out.value(&[("by", &retained.by)], concern);
}

fn targets(out: &mut Exposition, site: &Site, view: &View) {
    let commits: Vec<_> = (0..view.targets.len()).map(|i| site.progress.meters.of(i)).collect();
    let each = || view.targets.iter().map(|t| t.name.as_str()).zip(&commits);
    if view.targets.is_empty() {
        return;
    }
    out.family(
        "crossfade_rows_applied_total",
        "counter",
        "Rows of the stream that were committed, since the daemon started.",
    );
    for target in &view.targets {
        out.value(&[("target", &target.name)], target.rows);
    }
    if commits.iter().any(|c| c.last_micros.is_some()) {
        out.family(
            "crossfade_last_commit_timestamp_seconds",
            "gauge",
            "When the target last committed, if only a position.",
        );
        for (name, at) in each().filter_map(|(name, c)| Some((name, c.last_micros?))) {
            out.value(&[("target", name)], at as f64 / 1e6);
        }
    }
    out.family(
        "crossfade_commit_duration_seconds",
        "histogram",
        "How long commits that carried changes took at the target.",
    );
    each().for_each(|(name, c)| out.histogram(name, &c.took));
    out.family("crossfade_batch_rows", "histogram", "Rows of these commits.");
    each().for_each(|(name, c)| out.histogram(name, &c.rows));
    out.family(
        "crossfade_delivery_seconds",
        "histogram",
        "From the source's commit to the target's, by their machines' clocks.",
    );
    each().for_each(|(name, c)| out.histogram(name, &c.delay));
}

fn copy(out: &mut Exposition, view: &View) {
    let Some(copy) = view.copy else { return };
    out.known("crossfade_copy_chunks", "Chunks of the initial copy.", Some(copy.chunks));
    out.known("crossfade_copy_chunks_done", "Chunks that every target holds.", Some(copy.done));
    out.known("crossfade_copy_rows", "Rows copied since the daemon started.", Some(copy.rows));
    out.known("crossfade_copy_bytes", "Bytes copied since the daemon started, as decoded.", Some(copy.bytes));
    out.known("crossfade_copy_left_seconds", "How long the rest of the copy will take.", copy.seconds_left);
}

fn proofs(out: &mut Exposition, site: &Site) {
    let proofs = site.progress.recent.proofs();
    let (compared, equal) = site.progress.recent.last_proofs();
    let seconds = |at: Option<i64>| at.map(|at| at as f64 / 1e6);
    out.known("crossfade_last_verify_timestamp_seconds", "When both sides were last compared.", seconds(compared));
    let help = "When a comparison last found everything that it looked at equal.";
    out.known("crossfade_last_verify_success_timestamp_seconds", help, seconds(equal));
    let keeping = site.progress.keeping();
    out.known(
        "crossfade_ledger_failing",
        "1 while the ledger cannot be written.",
        Some(u8::from(keeping.error.is_some())),
    );
    if let Some(standing) = keeping.standing {
        out.known("crossfade_clean_hours", "Clean hours without a break, by the ledger.", Some(standing.streak));
        out.known("crossfade_clean_hours_goal", "How many there are to be.", Some(standing.goal));
    }
    if proofs.is_empty() {
        return;
    }
    out.family("crossfade_verify_tables", "gauge", "Tables by what their last comparison came to.");
    for (name, verdict) in [("equal", Verdict::Equal), ("different", Verdict::Different), ("unknown", Verdict::Unknown)]
    {
        out.value(&[("verdict", name)], proofs.values().filter(|p| p.verdict == verdict).count());
    }
    let differences = proofs.values().filter_map(|p| p.differences).sum::<u64>();
    let help = "Rows that differed in the last comparison of each table, as far as they were looked for.";
    out.known("crossfade_verify_differences", help, Some(differences));
}

fn process(out: &mut Exposition, site: &Site) {
    out.known("process_start_time_seconds", "When the daemon started.", Some(site.since_micros as f64 / 1e6));
    // Pages, of which the second is what is resident; pages of this program's platforms have 4 KiB, and /proc is there.
    let statm = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = statm.and_then(|s| s.split(' ').nth(1)?.parse::<u64>().ok());
    out.known("process_resident_memory_bytes", "Memory in use.", pages.map(|p| p * 4096));
}

/// The text, as it grows.
struct Exposition {
    text: String,
    pipeline: String,
    /// The metric whose values follow.
    name: &'static str,
}

impl Exposition {
    /// Begins a metric.
    fn family(&mut self, name: &'static str, kind: &str, help: &str) {
        self.put(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        self.name = name;
    }

    /// A value of the metric that was begun last.
    fn value(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.line("", labels, value);
    }

    /// A gauge of one value, if that is known.
    fn known(&mut self, name: &'static str, help: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.family(name, "gauge", help);
            self.value(&[], value);
        }
    }

    fn histogram(&mut self, target: &str, histogram: &Histogram) {
        let mut below = 0;
        for (bound, count) in histogram.bounds.iter().zip(&histogram.counts) {
            below += count;
            self.line("_bucket", &[("target", target), ("le", &bound.to_string())], below);
        }
        self.line("_bucket", &[("target", target), ("le", "+Inf")], histogram.count);
        self.line("_sum", &[("target", target)], histogram.sum);
        self.line("_count", &[("target", target)], histogram.count);
    }

    fn line(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        let name = self.name;
        let pipeline = std::mem::take(&mut self.pipeline);
        self.put(format_args!("{name}{suffix}{{pipeline=\"{pipeline}\""));
        self.pipeline = pipeline;
        for (label, text) in labels {
            self.put(format_args!(",{label}=\"{}\"", escape(text)));
        }
        self.put(format_args!("}} {value}\n"));
    }

    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = self.text.write_fmt(text);
    }
}

/// A label's value.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crossfade_core::{Keeping as Kept, Retained};

    use super::*;
    use crate::ledger::hours::Standing;
    use crate::pipeline::progress::{CopyProgress, Keeping, Progress, TargetProgress};

    #[test]
    fn labels_are_escaped_and_what_is_unknown_is_left_out() {
        let mut out = Exposition { text: String::new(), pipeline: escape("a\"b"), name: "" };
        out.known("x_bytes", "X.", None::<u64>);
        out.known("y_seconds", "Y.", Some(0.5));
        out.value(&[("to", "c\\d\ne")], 7);
        let expected = "# HELP y_seconds Y.\n# TYPE y_seconds gauge\ny_seconds{pipeline=\"a\\\"b\"} 0.5\n\
            y_seconds{pipeline=\"a\\\"b\",to=\"c\\\\d\\ne\"} 7\n";
        assert_eq!(out.text, expected);
    }

    #[test]
    fn a_whole_picture_is_told() {
        let progress = Arc::new(Progress::default());
        progress.update(|v| {
            v.targets = vec![TargetProgress::default()];
            v.copy = Some(CopyProgress { chunks: 7, done: 3, seconds_left: Some(9), ..CopyProgress::default() });
            v.retained = Some(Retained { by: "slot s".into(), bytes: 5, room: Some(6), keeping: Kept::Safe });
        });
        let standing = Standing { streak: 12, goal: 72, broken_micros: None, broken_by: None };
        progress.set_keeping(Keeping { standing: Some(standing), audits: Vec::new(), error: Some("no room".into()) });
        let site = Site { pipeline: "p".into(), source: "s".into(), since_micros: 0, progress };
        let text = text(&site);
        for line in [
            "crossfade_copy_chunks_done{pipeline=\"p\"} 3",
            "crossfade_copy_left_seconds{pipeline=\"p\"} 9",
            "crossfade_retained_bytes{pipeline=\"p\"} 5",
            "crossfade_retained_room_bytes{pipeline=\"p\"} 6",
            "crossfade_retained_concern{pipeline=\"p\",by=\"slot s\"} 0",
            "crossfade_state{pipeline=\"p\",state=\"starting\"} 1",
            "crossfade_streaming{pipeline=\"p\"} 0",
            "crossfade_suspended_tables{pipeline=\"p\"} 0",
            "crossfade_ledger_failing{pipeline=\"p\"} 1",
            "crossfade_clean_hours{pipeline=\"p\"} 12",
            "crossfade_clean_hours_goal{pipeline=\"p\"} 72",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}:\n{text}");
        }
        assert!(!text.contains("crossfade_lag_seconds{"), "what is not known is absent");
    }

    /// Metrics that a text names.
    fn named(text: &str) -> std::collections::BTreeSet<&str> {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let ours = words.filter(|w| w.starts_with("crossfade_") || w.starts_with("process_"));
        ours.map(|w| ["_bucket", "_sum", "_count"].iter().find_map(|s| w.strip_suffix(s)).unwrap_or(w)).collect()
    }

    #[test]
    fn alert_rules_and_dashboard_ask_for_what_is_there() {
        let source = include_str!("metrics.rs");
        let there = named(source.split("#[cfg(test)]").next().unwrap());
        for text in [include_str!("../../systemd/alerts.yml"), include_str!("../../systemd/dashboard.json")] {
            let wanted = named(text);
            assert!(wanted.len() > 5 && wanted.is_subset(&there), "{:?}", wanted.difference(&there));
        }
        serde_json::from_str::<serde_json::Value>(include_str!("../../systemd/dashboard.json")).unwrap();
    }

    #[test]
    fn buckets_add_up() {
        let mut out = Exposition { text: String::new(), pipeline: "p".into(), name: "h" };
        let histogram = Histogram { bounds: &[0.5, 1.0], counts: vec![2, 1], count: 4, sum: 9.5 };
        out.histogram("t", &histogram);
        let value = |line: &str| line.rsplit(' ').next().unwrap().to_owned();
        assert_eq!(out.text.lines().map(value).collect::<Vec<_>>(), ["2", "3", "4", "9.5", "4"]);
        assert!(out.text.contains("h_bucket{pipeline=\"p\",target=\"t\",le=\"0.5\"} 2\n"), "{}", out.text);
    }
}
