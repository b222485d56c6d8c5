//! A line of up to an hour as SVG: no script, no library, readable at any width.

use std::fmt::Write;

use crate::pipeline::recent::Sample;

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 150.0;
/// Room for the numbers at the left, and for the times below.
const LEFT: f64 = 64.0;
const BELOW: f64 = 22.0;
const ABOVE: f64 = 8.0;

/// What a chart may span, in minutes: as little of these as holds all samples.
const SPANS: [i64; 4] = [10, 20, 40, 60];

/// Samples further apart than this, in microseconds, are not joined: nobody looked in between.
const GAP: i64 = 30_000_000;

/// One value over the last minutes; where it is unknown the line is broken.
pub struct Chart<'a> {
    /// For those who do not see it.
    pub title: &'a str,
    /// The samples, oldest first.
    pub samples: &'a [Sample],
    /// Which value.
    pub value: fn(&Sample) -> Option<f64>,
    /// How a value is told.
    pub told: fn(f64) -> String,
    /// The least height of the scale.
    pub least: f64,
}

impl Chart<'_> {
    /// The picture, up to this moment.
    pub fn svg(&self, now: i64) -> String {
        let peak = self.samples.iter().filter_map(self.value).fold(self.least, f64::max);
        let (top, step) = scale(peak);
        let y = |value: f64| ABOVE + (HEIGHT - ABOVE - BELOW) * (1.0 - value / top);
        let age = |at: i64| now.saturating_sub(at) as f64 / 60e6;
        let oldest = self.samples.first().map_or(0.0, |s| age(s.at));
        let span = SPANS.iter().find(|s| **s as f64 >= oldest).unwrap_or(&SPANS[3]);
        let span = *span as f64;
        let x = |at: i64| LEFT + (WIDTH - LEFT - 8.0) * (1.0 - age(at) / span);
        let mut out = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">", self.title);
        // Writing to a String cannot fail.
        for line in 0..=(top / step).round() as u32 {
            let value = f64::from(line) * step;
            let (y, told) = (y(value), (self.told)(value));
            let right = WIDTH - 8.0;
            let _ = write!(out, "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>");
            let (text_x, text_y) = (LEFT - 8.0, y + 4.0);
            let _ = write!(out, "<text x=\"{text_x}\" y=\"{text_y:.1}\" text-anchor=\"end\">{told}</text>");
        }
        for quarter in 0..=4 {
            let minutes = span * f64::from(quarter) / 4.0;
            let at = x(now.saturating_sub((minutes * 60e6) as i64));
            let (told, anchor) = match quarter {
                0 => ("now".to_owned(), "end"),
                4 => (format!("-{minutes} min"), "start"),
                _ => (format!("-{minutes}"), "middle"),
            };
            let y = HEIGHT - 5.0;
            let _ = write!(out, "<text x=\"{at:.1}\" y=\"{y}\" text-anchor=\"{anchor}\">{told}</text>");
        }
        for (line, area) in self.lines(x, y) {
            let base = y(0.0);
            let _ =
                write!(out, "<path class=\"area\" d=\"{line} L{:.1} {base:.1} L{:.1} {base:.1} Z\"/>", area.1, area.0);
            let _ = write!(out, "<path class=\"line\" d=\"{line}\"/>");
        }
        out.push_str("</svg>");
        out
    }

    /// Paths without gaps, each with its ends on the x axis.
    fn lines(&self, x: impl Fn(i64) -> f64, y: impl Fn(f64) -> f64) -> Vec<(String, (f64, f64))> {
        let mut lines: Vec<(String, (f64, f64))> = Vec::new();
        let mut last: Option<i64> = None;
        for sample in self.samples {
            let at = x(sample.at);
            let value = (self.value)(sample).filter(|_| (LEFT..=WIDTH).contains(&at));
            let Some(value) = value else {
                last = None;
                continue;
            };
            let joined = last.is_some_and(|l| (0..GAP).contains(&sample.at.saturating_sub(l)));
            let point = format!("{at:.1} {:.1}", y(value));
            match lines.last_mut().filter(|_| joined) {
                Some((line, (_, end))) => {
                    let _ = write!(line, " L{point}");
                    *end = at;
                }
                None => lines.push((format!("M{point}"), (at, at))),
            }
            last = Some(sample.at);
        }
        lines
    }
}

/// A scale's end and the distance of its lines: three to five of them, at round numbers.
fn scale(peak: f64) -> (f64, f64) {
    let rough = peak / 4.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].iter().map(|m| m * power).find(|s| *s >= rough).unwrap_or(power * 10.0);
    ((peak / step).ceil() * step, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_are_round() {
        for (peak, top) in [(1.0, 1.0), (1.1, 1.5), (7.0, 8.0), (59.0, 60.0), (1000.0, 1000.0), (86_400.0, 100_000.0)] {
            let (end, step) = scale(peak);
            assert!((end - top).abs() < 1e-9, "{peak}: {end} by {step}");
            assert!((2.0..=5.01).contains(&(end / step)), "{peak}: {end} by {step}");
        }
    }

    #[test]
    fn the_line_is_broken_where_nothing_is_known() {
        let minute = 60_000_000;
        let sample = |seconds: i64, lag| Sample {
            at: 100 * minute + seconds * 1_000_000,
            lag_seconds: lag,
            rows_per_second: 0.0,
        };
        let mut samples: Vec<_> = (0..10).map(|n| sample(n * 5, Some(n as f64))).collect();
        samples.push(sample(50, None));
        samples.extend((11..20).map(|n| sample(n * 5, Some(1.0))));
        samples.push(sample(300, Some(2.0)));
        samples.insert(0, Sample { at: 0, ..samples[0] });
        let chart =
            Chart { title: "lag", samples: &samples, value: |s| s.lag_seconds, told: |v| format!("{v} s"), least: 1.0 };
        let svg = chart.svg(106 * minute);
        assert_eq!(svg.matches("class=\"line\"").count(), 3, "{svg}");
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        let none = Chart { samples: &[], ..chart }.svg(0);
        assert!(!none.contains("class=\"line\"") && !none.contains("NaN"), "{none}");
    }
}
