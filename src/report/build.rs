//! What a report is made of, and what it comes to.

use std::time::Duration;

use crossfade_core::{Level, Result};

use super::{Bar, End, Finding, Lag, Report, State, Table, Told, Verdict, Verification};
use crate::cli::print;
use crate::config::Config;
use crate::ledger::entry::{Gravity, Incident};
use crate::ledger::{Entry, Event, HourVerdict, Ledger, Sample};
use crate::pipeline::progress::{self, View};
use crate::service::Status;
use crate::verify::Verdict as Compared;
use crate::verify::totals::Figure;

/// Parts of the chart of lag.
const BARS: i64 = 48;

/// Makes a report of what the ledger holds, and of how the pipeline stands; either may not be known.
pub fn build(
    config: &Config,
    now: i64,
    since: Duration,
    ledger: Result<Option<Ledger>>,
    status: Result<Status>,
) -> Report {
    let since_micros = now.saturating_sub(since.as_micros() as i64);
    let mut report = Report {
        verdict: Verdict::Ok,
        pipeline: config.name.clone(),
        made_micros: now,
        since_micros,
        findings: Vec::new(),
        streak: None,
        state: None,
        lag: Lag {
            seconds: None,
            bytes: None,
            worst_seconds: None,
            bound_seconds: config.proof.max_lag.as_secs_f64(),
            samples: 0,
            chart: Vec::new(),
        },
        verification: None,
        tables: Vec::new(),
        audits: Vec::new(),
        aggregates: Vec::new(),
        references: None,
        sequences: None,
        incidents: Vec::new(),
        schema: Vec::new(),
        policies: Vec::new(),
        repairs: Vec::new(),
        hours: Vec::new(),
        ledger: None,
    };
    match ledger {
        Ok(Some(ledger)) => {
            if let Err(e) = report.read(&ledger, config) {
                let next = "the file is damaged: keep it, and move it away to begin a new one";
                report.find(Verdict::Unknown, format!("the ledger cannot be read: {e}"), Some(next.into()));
            }
        }
        Ok(None) => {
            let next = "run the pipeline (`crossfade run`) as this user, or ask as the user that runs it";
            report.find(Verdict::Unknown, "there is no ledger: nothing is known of what was".into(), Some(next.into()));
        }
        Err(e) => report.find(Verdict::Unknown, e.to_string(), e.hint_text().map(str::to_owned)),
    }
    match status {
        Ok(status) => report.see(&status, config),
        Err(e) => {
            report.find(Verdict::Unknown, format!("how it stands is not known: {e}"), e.hint_text().map(str::to_owned))
        }
    }
    report.findings.sort_by_key(|f| match f.level {
        Verdict::Critical => 0,
        Verdict::Unknown => 1,
        Verdict::Warning => 2,
        Verdict::Ok => 3,
    });
    report.verdict = report.findings.iter().fold(Verdict::Ok, |worst, f| worst.worst(f.level));
    report
}

impl Report {
    fn find(&mut self, level: Verdict, what: String, next: Option<String>) {
        self.findings.push(Finding { level, what, next });
    }

    fn read(&mut self, ledger: &Ledger, config: &Config) -> Result<()> {
        let head = ledger.head()?;
        let broken = ledger.check()?.map(|b| format!("entry {}: {}", b.seq, b.what));
        if let Some(broken) = &broken {
            let next = "compare with the hashes that earlier reports end with; keep the file, and begin a new one by moving it away";
            self.find(Verdict::Critical, format!("the ledger was changed afterwards: {broken}"), Some(next.into()));
        }
        let path = ledger.path().display().to_string();
        self.ledger = Some(super::Ledger { path, entries: head.seq, hash: head.hash, broken });
        self.streak = Some(ledger.standing(config.proof.goal_hours, self.made_micros)?.into());
        self.sampled(&ledger.lag_since(self.since_micros)?);
        self.compared(ledger, config)?;
        self.happened(&ledger.events_since(self.since_micros)?);
        for hour in ledger.hours(200)?.into_iter().rev() {
            if hour.start_micros + crate::ledger::hours::HOUR > self.since_micros && hour.verdict != HourVerdict::Clean
            {
                let word = if hour.verdict == HourVerdict::Dirty { "dirty" } else { "unknown" };
                let what = format!("{word}: {}", hour.reasons.join("; "));
                self.hours.push(Told { at_micros: hour.start_micros, what });
            }
        }
        if self.hours.iter().any(|h| h.what.starts_with("dirty")) {
            self.find(Verdict::Warning, "an hour was dirty".into(), None);
        }
        Ok(())
    }

    fn sampled(&mut self, samples: &[(i64, Sample)]) {
        let lag = |s: &Sample| s.worst_seconds.or(s.lag_seconds);
        let worst = |of: &mut dyn Iterator<Item = &(i64, Sample)>| of.filter_map(|(_, s)| lag(s)).reduce(f64::max);
        self.lag.worst_seconds = worst(&mut samples.iter());
        self.lag.samples = samples.len() as u64;
        let step = ((self.made_micros - self.since_micros) / BARS).max(1);
        let bar = |n: i64| {
            let at = self.since_micros + n * step;
            let mut within = samples.iter().filter(|(t, _)| (at..at + step).contains(t));
            Bar { at_micros: at, worst_seconds: worst(&mut within) }
        };
        self.lag.chart = (0..BARS).map(bar).collect();
        if self.lag.worst_seconds.is_some_and(|s| s > self.lag.bound_seconds) {
            let worst = print::seconds(self.lag.worst_seconds.unwrap_or_default());
            let bound = print::seconds(self.lag.bound_seconds);
            self.find(Verdict::Warning, format!("the target was up to {worst} behind, and {bound} are allowed"), None);
        }
    }

    /// Each table by its last comparison: that of all tables, or a later one of some.
    fn compared(&mut self, ledger: &Ledger, config: &Config) -> Result<()> {
        let every = config.proof.every.unwrap_or_default().saturating_mul(2).as_micros() as i64;
        let oldest = self.since_micros.min(self.made_micros.saturating_sub(every));
        let Some((at, last)) = ledger.last_verification()? else {
            self.find(Verdict::Unknown, "both sides were never compared".into(), Some(COMPARE.into()));
            return Ok(());
        };
        let later = ledger.between(&["verification"], at, i64::MAX)?;
        for entry in later {
            let Event::Verification(v) = entry.event else { continue };
            for t in v.proof.tables {
                self.policies.retain(|told| !told.what.starts_with(&format!("{}: ", t.table)));
                self.policies.extend(t.changed.iter().map(|c| {
                    let what =
                        format!("{}: {} of {} under {}", t.table, print::count(c.values), c.column, c.policy.name());
                    Told { at_micros: entry.at_micros, what }
                }));
                let table = Table {
                    table: t.table,
                    target: t.target,
                    at_micros: entry.at_micros,
                    verdict: t.verdict,
                    source_rows: t.source_rows,
                    target_rows: t.target_rows,
                    differences: t.differences,
                    error: t.error,
                    sums_compared: t.totals.as_ref().map(|sums| sums.compared as u64),
                    sums_differing: t
                        .totals
                        .map(|sums| sums.differing.iter().map(figure).collect())
                        .unwrap_or_default(),
                };
                match self.tables.iter_mut().find(|o| o.table == table.table && o.target == table.target) {
                    Some(older) => *older = table,
                    None => self.tables.push(table),
                }
            }
        }
        if at < oldest {
            let what = format!("all tables were compared at {} for the last time", print::time(at));
            self.find(Verdict::Unknown, what, Some(COMPARE.into()));
        }
        self.audits = ledger.audits()?;
        self.judge_tables();
        self.beyond(ledger, &last.proof.beyond, oldest)?;
        let canary = last.proof.canary.clone().unwrap_or_default();
        if !canary.missed.is_empty() {
            let what =
                format!("the comparison did not find a change that it made itself: {}", canary.missed.join(", "));
            self.find(
                Verdict::Critical,
                what,
                Some("its word cannot be trusted: report this as a fault of crossfade".into()),
            );
        }
        let made = ledger.between(&["verification"], self.since_micros, i64::MAX)?;
        let whole = |e: &&Entry| matches!(&e.event, Event::Verification(v) if v.whole);
        self.verification = Some(Verification {
            at_micros: at,
            position: last.proof.positions(),
            verdict: last.proof.verdict,
            held_ms: last.proof.held_ms,
            seconds: last.proof.seconds,
            canaries: canary.tried,
            canaries_missed: canary.missed,
            made: made.iter().filter(whole).count() as u64,
        });
        Ok(())
    }

    fn judge_tables(&mut self) {
        let mut found = Vec::new();
        for t in &self.tables {
            let to = t.target.as_ref().map_or_else(String::new, |target| format!(" -> {target}"));
            let (level, what, next) = match t.verdict {
                Compared::Equal => continue,
                Compared::Different => {
                    let next =
                        format!("crossfade repair --table {0}; the whole table anew: crossfade snapshot {0}", t.table);
                    (Verdict::Critical, format!("{}{to}: {}", t.table, t.differing()), Some(next))
                }
                Compared::Unknown => {
                    let why = t.error.clone().unwrap_or_else(|| "it was not read".into());
                    (Verdict::Unknown, format!("{}{to} was not compared: {why}", t.table), None)
                }
            };
            found.push(Finding { level, what, next });
        }
        self.findings.append(&mut found);
    }

    fn happened(&mut self, events: &[Entry]) {
        let (mut ended, mut failed) = (None, None);
        for entry in events {
            let told = |what: String| Told { at_micros: entry.at_micros, what };
            match &entry.event {
                Event::Start { version, host, pid } => {
                    ended = None;
                    self.incidents.push(told(format!("started: crossfade {version}, process {pid} on {host}")));
                }
                Event::Stop { error: None } => self.incidents.push(told("stopped".into())),
                // The incident before has told it.
                Event::Stop { error: Some(_) } => {}
                Event::Incident(incident) => {
                    let word = match incident.class {
                        Gravity::Transient => "tried again",
                        Gravity::Data | Gravity::Fatal => {
                            ended = Some(incident.clone());
                            "ended"
                        }
                    };
                    self.incidents.push(told(format!("{word}: {}", incident.message)));
                }
                Event::Unverified { error, .. } => {
                    failed = Some(error.clone());
                    self.incidents.push(told(format!("not compared: {error}")));
                }
                Event::Verification(_) => failed = None,
                Event::Suspended { table, reason } => {
                    self.incidents.push(told(format!("{table} was suspended: {reason}")));
                }
                Event::Lost { entries, error } => {
                    self.incidents.push(told(format!("{entries} entries of the ledger were lost: {error}")));
                    self.find(Verdict::Unknown, format!("{entries} entries of the ledger were lost: {error}"), None);
                }
                Event::Repair { tables } => {
                    self.repairs.extend(
                        tables.iter().map(|t| told(format!("{}: {} rows written", t.table, print::count(t.rows)))),
                    );
                }
                Event::Schema { table, change } => self.schema.push(told(format!("{table}: {change}"))),
                Event::Snapshot { tables } => self.schema.push(told(format!("copied again: {}", tables.join(", ")))),
                Event::Lag(_) | Event::Hour(_) | Event::Alert { .. } | Event::Chunks { .. } => {}
            }
        }
        if let Some(Incident { message, hint, .. }) = ended {
            self.find(Verdict::Critical, format!("an error ended the pipeline: {message}"), hint);
        }
        if let Some(error) = failed {
            self.find(Verdict::Unknown, format!("both sides could not be compared: {error}"), None);
        }
    }

    fn see_lag(&mut self, view: &View, config: &Config) {
        (self.lag.seconds, self.lag.bytes) = (view.lag_seconds, view.lag_bytes);
        let (warn, crit) = (config.proof.max_lag, config.proof.max_lag.saturating_mul(10));
        let behind = view.lag_seconds.map(print::seconds);
        match view.lag_seconds {
            None => self.find(Verdict::Unknown, "how far the target is behind is not known".into(), None),
            Some(s) if s > warn.as_secs_f64() => {
                let level = if s > crit.as_secs_f64() { Verdict::Critical } else { Verdict::Warning };
                let what = format!("the target is {} behind", behind.unwrap_or_default());
                self.find(level, what, Some("crossfade status shows where it stands, its log why".into()));
            }
            Some(_) => {}
        }
    }

    fn see(&mut self, status: &Status, config: &Config) {
        let view = &status.view;
        self.see_lag(view, config);
        let state = match &view.state {
            progress::State::Starting => "starting".to_owned(),
            progress::State::Running => "running".to_owned(),
            progress::State::Retrying(error) => format!("retrying: {error}"),
            progress::State::Stopping => "stopping".to_owned(),
            progress::State::Stopped => "stopped".to_owned(),
        };
        match &view.state {
            progress::State::Retrying(error) => {
                self.find(Verdict::Warning, format!("the pipeline is being tried again: {error}"), None);
            }
            progress::State::Stopped => {
                let next = "systemctl start crossfade@NAME, or crossfade run";
                self.find(Verdict::Warning, "nobody runs the pipeline on this machine".into(), Some(next.into()));
            }
            progress::State::Starting | progress::State::Running | progress::State::Stopping => {}
        }
        let phase = view.phase().map(|p| p.to_string());
        if phase.as_deref() != Some("streaming") {
            self.find(Verdict::Warning, "the initial copy is not complete".into(), None);
        }
        for s in &view.suspended {
            let next = s.hint.iter().chain([&s.command]).cloned().collect::<Vec<_>>().join("; then ");
            self.find(Verdict::Warning, format!("{} is suspended: {}", s.table, s.reason), Some(next));
        }
        if let Some(f) = &view.concern {
            let level = if f.level == Level::Critical { Verdict::Critical } else { Verdict::Warning };
            self.find(
                level,
                format!("{}: {}, and should be: {}", f.setting, f.actual, f.expected),
                Some(f.fix.clone()),
            );
        }
        if let Some(error) = &status.keeping.error {
            self.find(Verdict::Unknown, format!("the ledger is not written: {error}"), None);
        }
        let target = |t: &progress::TargetProgress| End {
            name: t.name.clone(),
            position: t.checkpoint.as_ref().map(|c| c.position.to_string()),
            commits: t.checkpoint.as_ref().map(|c| c.seq),
        };
        self.state = Some(State {
            state,
            pid: (status.pid != 0).then_some(status.pid),
            since_micros: (status.pid != 0).then_some(status.since_micros),
            phase,
            source: End {
                name: status.source.clone(),
                position: view.source_position.as_ref().map(ToString::to_string),
                commits: None,
            },
            targets: view.targets.iter().map(target).collect(),
            rows_per_second: view.rows_per_second,
            retained_bytes: view.retained.as_ref().map(|r| r.bytes),
        });
    }
}

/// A sum or count that differs, in words.
fn figure(f: &Figure) -> String {
    let of = f.column.as_ref().map_or_else(String::new, |c| format!(" of {c}"));
    format!("{}{of}: {} at the source, {} at the target", f.what, f.source, f.target)
}

const COMPARE: &str = "crossfade verify, or every = \"1h\" under [proof] of the configuration";
