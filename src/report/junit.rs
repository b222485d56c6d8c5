//! A report as JUnit's XML, for tools that show test results: a case for each table and each figure, and one for everything else.

use super::{Report, Verdict};
use crate::verify::Verdict as Compared;
use crate::verify::beyond::Outcome;

/// All of it.
pub fn junit(report: &Report) -> String {
    let mut cases = String::new();
    let (mut failures, mut errors) = (0, 0);
    let mut case = |name: &str, class: &str, seconds: f64, wrong: Option<(bool, String)>| {
        let head =
            format!("    <testcase name=\"{}\" classname=\"{}\" time=\"{seconds:.3}\"", escape(name), escape(class));
        cases += &match wrong {
            None => format!("{head}/>\n"),
            Some((is_failure, message)) => {
                let element = if is_failure { "failure" } else { "error" };
                *if is_failure { &mut failures } else { &mut errors } += 1;
                format!("{head}>\n      <{element} message=\"{}\"/>\n    </testcase>\n", escape(&message))
            }
        };
    };
    let class = format!("crossfade.{}", report.pipeline);
    for t in &report.tables {
        let name = t.target.as_ref().map_or_else(|| t.table.clone(), |to| format!("{} -> {to}", t.table));
        let wrong = match t.verdict {
            Compared::Equal => None,
            Compared::Different => Some((true, t.differing())),
            Compared::Unknown => Some((false, t.error.clone().unwrap_or_else(|| "not read".into()))),
        };
        case(&name, &format!("{class}.tables"), 0.0, wrong);
    }
    for a in &report.aggregates {
        let name = a.to.as_ref().map_or_else(|| a.name.clone(), |to| format!("{} -> {to}", a.name));
        let wrong = match a.outcome {
            Outcome::Holds => None,
            Outcome::Unknown => Some((false, a.wrong().unwrap_or_default())),
            Outcome::Warning | Outcome::Critical => Some((true, a.wrong().unwrap_or_default())),
        };
        case(&name, &format!("{class}.aggregates"), 0.0, wrong);
    }
    // Differences stand at their tables; a finding is a case of its own, so that none is hidden.
    let took = report.verification.as_ref().map_or(0.0, |v| v.seconds);
    case("pipeline", &class, took, None);
    for f in report.findings.iter().filter(|f| f.level != Verdict::Ok) {
        let next = f.next.as_ref().map_or_else(String::new, |n| format!("; do: {n}"));
        case(
            &f.what,
            &class,
            0.0,
            Some((f.level != Verdict::Unknown, format!("{}: {}{next}", f.level.word(), f.what))),
        );
    }
    let tests = cases.matches("<testcase ").count();
    let at = jiff::Timestamp::from_microsecond(report.made_micros)
        .map_or_else(|_| String::new(), |t| t.strftime("%FT%T").to_string());
    let name = escape(&report.pipeline);
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n  <testsuite name=\"{name}\" tests=\"{tests}\" \
         failures=\"{failures}\" errors=\"{errors}\" skipped=\"0\" timestamp=\"{at}\" time=\"{took:.3}\">\n{cases}  </testsuite>\n</testsuites>\n"
    )
}

/// XML knows no control characters at all, not even escaped.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\n' | '\t' | '\r' => out += &format!("&#{};", c as u32),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}
