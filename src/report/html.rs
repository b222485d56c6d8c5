//! A report as HTML that mail clients show well.
//!
//! Mail clients drop style sheets, scripts and most of what a browser can, and several show neither inline SVG nor images that they did
//! not fetch. So it is made of tables with widths, colours and sizes as attributes and inline styles, and the chart of lag is a table
//! too: a cell for each part of the time, as high as the lag was. It shows everywhere, also where pictures are blocked, and it needs
//! neither an attachment nor an encoder. The template is `report.html`; everything in it is escaped.

use std::borrow::Borrow;

use askama::Template;
use crossfade_core::{Error, Result};

use super::text::{differing, facts_of, summary};
use super::{Report, Told, Verdict};
use crate::cli::print;
use crate::verify::Verdict as Compared;

/// Height of the chart.
const HEIGHT: f64 = 46.0;
/// Rows of a table that are shown.
const SHOWN: usize = 20;

#[derive(Template)]
#[template(path = "report.html", config = "src/report/askama.toml")]
struct Page<'a> {
    r: &'a Report,
    summary: String,
    filled: u32,
    facts: Vec<(&'static str, String)>,
    bars: Vec<Column>,
    top: String,
    differences: Vec<Rows<'a>>,
    figures: Vec<[String; 4]>,
    lists: [(&'static str, &'a Vec<Told>); 5],
}

struct Column {
    height: u32,
    colour: &'static str,
}

struct Rows<'a> {
    table: &'a str,
    rows: Vec<[String; 3]>,
    more: bool,
}

/// All of it.
pub fn html(report: &Report) -> Result<String> {
    let worst = report.lag.worst_seconds;
    let page = Page {
        r: report,
        summary: summary(report),
        filled: report.streak.as_ref().map_or(0, |s| (s.hours * 100 / s.goal.max(1)).min(100)),
        facts: facts_of(report),
        bars: worst.map(|w| bars(report, w)).unwrap_or_default(),
        top: worst.map(print::seconds).unwrap_or_default(),
        differences: differences(report),
        figures: report.figures(),
        lists: report.lists(),
    };
    page.render().map_err(|e| Error::corrupt("the report cannot be shown as HTML").caused_by(e))
}

fn bars(report: &Report, worst: f64) -> Vec<Column> {
    let top = worst.max(0.001);
    let column = |seconds: Option<f64>| match seconds {
        None => Column { height: 2, colour: "#c9ced4" },
        Some(s) => Column {
            height: ((s / top * HEIGHT).round() as u32).max(2),
            colour: if s > report.lag.bound_seconds { "#b3261e" } else { "#2f6db5" },
        },
    };
    report.lag.chart.iter().map(|b| column(b.worst_seconds)).collect()
}

fn differences(report: &Report) -> Vec<Rows<'_>> {
    let found = report.tables.iter().map(|t| (t, differing(t, SHOWN)));
    let found = found.filter(|(_, (rows, _))| !rows.is_empty());
    found.map(|(t, (rows, more))| Rows { table: &t.table, rows, more }).collect()
}

/// What the template calls. It hands on some values and refers to others, and both will do.
impl Page<'_> {
    fn colour(&self, verdict: impl Borrow<Verdict>) -> &'static str {
        match verdict.borrow() {
            Verdict::Ok => "#1e7b45",
            Verdict::Warning => "#9a6200",
            Verdict::Unknown => "#6b3fa0",
            Verdict::Critical => "#b3261e",
        }
    }

    fn hue(&self, verdict: impl Borrow<Compared>) -> &'static str {
        match verdict.borrow() {
            Compared::Equal => "#1e7b45",
            Compared::Different => "#b3261e",
            Compared::Unknown => "#6b3fa0",
        }
    }

    fn word(&self, verdict: impl Borrow<Compared>) -> &'static str {
        match verdict.borrow() {
            Compared::Equal => "equal",
            Compared::Different => "DIFFERENT",
            Compared::Unknown => "UNKNOWN",
        }
    }

    fn rows(&self, n: impl Borrow<Option<u64>>) -> String {
        n.borrow().map_or_else(|| "?".to_owned(), print::count)
    }

    fn time(&self, micros: impl Borrow<i64>) -> String {
        print::time(*micros.borrow())
    }

    fn seconds(&self, seconds: impl Borrow<f64>) -> String {
        print::seconds(*seconds.borrow())
    }
}
