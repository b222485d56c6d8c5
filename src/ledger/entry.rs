//! What an entry of the ledger may hold.
//!
//! An entry's kind and body stand in columns of their own: a version that does not know a kind passes over it, since all reading asks
//! for kinds by name, and the chain is followed without looking into bodies.

use crossfade_core::{Class, Error, Result, TableSchema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::hours::Hour;
use crate::repair::{Report, TableRepair};
use crate::transform::Mapped;
use crate::verify::Proof;
use crate::verify::chunk::Settled;

/// One entry.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its place, from 1.
    pub seq: u64,
    /// What it tells of happened then: microseconds since 1970 UTC.
    pub at_micros: i64,
    /// What happened.
    pub event: Event,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "body", rename_all = "kebab-case")]
pub enum Event {
    /// A process began to run the pipeline.
    Start {
        /// Of crossfade.
        version: String,
        /// The machine.
        host: String,
        /// The process.
        pid: u32,
    },
    /// It ended.
    Stop {
        /// The error that ended it; none: it was told to stop, or done.
        error: Option<String>,
    },
    /// How far behind the hindmost target was; one a minute.
    Lag(Sample),
    /// A session, or the process, ended with an error.
    Incident(Incident),
    /// Both sides were compared.
    Verification(Box<Verification>),
    /// Parts of a comparison that goes on: what has been read so far.
    Chunks {
        /// Behind one fence.
        settled: Vec<Settled>,
    },
    /// They were to be, and could not be.
    Unverified {
        /// Who asked.
        by: Asker,
        /// Why.
        error: String,
    },
    /// Rows were written again.
    Repair {
        /// What was done, by table.
        tables: Vec<TableRepair>,
    },
    /// A table has another shape at the target from here on, or is new.
    Schema {
        /// As the source names it.
        table: String,
        /// In words.
        change: String,
    },
    /// A table cannot be followed and is left out, while the others go on.
    Suspended {
        /// As the source names it.
        table: String,
        /// With what mends it.
        reason: String,
    },
    /// Tables are copied again.
    Snapshot {
        /// As the source names them.
        tables: Vec<String>,
    },
    /// An hour was judged.
    Hour(Hour),
    /// The verdict has changed, and was told.
    Alert {
        /// The verdict.
        verdict: String,
    },
    /// Entries could not be written, and were dropped.
    Lost {
        /// How many.
        entries: u64,
        /// Why.
        error: String,
    },
}

/// The kinds that are told as events, beside samples and hours.
pub const EVENTS: [&str; 11] = [
    "start",
    "stop",
    "incident",
    "verification",
    "unverified",
    "repair",
    "schema",
    "suspended",
    "snapshot",
    "alert",
    "lost",
];

/// Repaired rows of a table that are kept.
const REPAIRS: usize = 20;

/// How far behind the hindmost target was.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Sample {
    /// Whether it ran, in one word.
    pub state: String,
    /// `copying` or `streaming`.
    pub phase: Option<String>,
    /// Seconds by which it was behind; none: unknown.
    pub lag_seconds: Option<f64>,
    /// The most since the sample before.
    pub worst_seconds: Option<f64>,
    /// Bytes of log by which it was behind.
    pub lag_bytes: Option<u64>,
    /// Rows per second.
    pub rows_per_second: f64,
    /// Bytes of log that the source kept for the pipeline.
    pub retained_bytes: Option<u64>,
}

/// An error that ended a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    /// What follows from it.
    pub class: Gravity,
    /// What went wrong.
    pub message: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hint: Option<String>,
}

/// What follows from an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Gravity {
    /// It is tried again.
    Transient,
    /// A value or a change cannot be carried.
    Data,
    /// Trying again cannot help.
    Fatal,
}

/// A comparison of both sides.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verification {
    /// Who asked for it.
    pub by: Asker,
    /// Whether all tables were asked for.
    pub whole: bool,
    /// What it came to.
    pub proof: Proof,
}

/// Who asks for a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Asker {
    /// The configuration, by `[proof]`.
    Schedule,
    /// `crossfade verify`.
    Verify,
    /// `crossfade repair`.
    Repair,
}

impl Event {
    /// Its kind and its body, as they are stored.
    pub fn stored(&self) -> Result<(String, String)> {
        let wrong = || Error::corrupt("an entry of the ledger that is no JSON");
        match serde_json::to_value(self).map_err(|e| wrong().caused_by(e))? {
            Value::Object(mut map) => match (map.remove("kind"), map.remove("body")) {
                (Some(Value::String(kind)), Some(body)) => Ok((kind, body.to_string())),
                _ => Err(wrong()),
            },
            _ => Err(wrong()),
        }
    }

    /// A session, or the process, ended with this error.
    pub fn incident(error: &Error) -> Event {
        let class = match error.class() {
            Class::Transient => Gravity::Transient,
            Class::Data(_) => Gravity::Data,
            Class::Fatal(_) => Gravity::Fatal,
        };
        Event::Incident(Incident { class, message: error.to_string(), hint: error.hint_text().map(str::to_owned) })
    }

    /// Both sides were compared, or could not be, for the tables that these globs pick; and when.
    pub fn compared(by: Asker, globs: &[String], answer: &Result<Proof>) -> (i64, Event) {
        match answer {
            Ok(proof) => (proof.at_micros, Event::verified(by, globs, proof)),
            Err(e) => (crate::now_micros(), Event::Unverified { by, error: e.to_string() }),
        }
    }

    fn verified(by: Asker, globs: &[String], proof: &Proof) -> Event {
        Event::Verification(Box::new(Verification { by, whole: globs.is_empty(), proof: proof.clone() }))
    }

    /// Rows were repaired, or were to be, of the tables that these globs pick; and both sides were compared.
    pub fn repaired(globs: &[String], answer: &Result<Report>) -> Vec<(i64, Event)> {
        let report = match answer {
            Ok(report) => report,
            Err(e) => {
                return vec![(crate::now_micros(), Event::Unverified { by: Asker::Repair, error: e.to_string() })];
            }
        };
        let mut events = Vec::new();
        if report.applied && !report.tables.is_empty() {
            let mut tables = report.tables.clone();
            tables.iter_mut().for_each(|t| t.listed.truncate(REPAIRS));
            events.push((crate::now_micros(), Event::Repair { tables }));
        }
        events.push((report.proof.at_micros, Event::verified(Asker::Repair, globs, &report.proof)));
        events
    }
}

impl Entry {
    /// From its columns.
    pub fn read(seq: u64, at_micros: i64, kind: &str, body: &str) -> Result<Entry> {
        // The kind stands first: a body that comes before it is held in a form that knows no numbers of 128 bits, which keys are.
        let read = || -> serde_json::Result<Event> {
            let kind = serde_json::to_string(kind)?;
            serde_json::from_str(&format!(r#"{{"kind":{kind},"body":{body}}}"#))
        };
        let event = read()
            .map_err(|e| Error::corrupt(format!("entry {seq} of the ledger ({kind}) cannot be read")).caused_by(e))?;
        Ok(Entry { seq, at_micros, event })
    }
}

/// What changed from the one list of carried tables to the other.
pub fn changes(before: &[Mapped], after: &[Mapped]) -> Vec<Event> {
    let change = |now: &Mapped| {
        let change = match before.iter().find(|m| m.source.name == now.source.name) {
            None => "it is new".to_owned(),
            Some(then) => reshaped(&then.target, &now.target)?,
        };
        Some(Event::Schema { table: now.source.name.to_string(), change })
    };
    let gone = before.iter().filter(|m| !after.iter().any(|n| n.source.name == m.source.name));
    let gone =
        gone.map(|m| Event::Schema { table: m.source.name.to_string(), change: "it is carried no longer".into() });
    after.iter().filter_map(change).chain(gone).collect()
}

/// How the one shape of a table differs from the other, in words.
fn reshaped(before: &TableSchema, after: &TableSchema) -> Option<String> {
    let named = |t: &TableSchema, name: &str| t.columns.iter().find(|c| c.name == name).cloned();
    let mut parts = Vec::new();
    for c in &after.columns {
        match named(before, &c.name) {
            None => parts.push(format!("column {} ({}) came", c.name, c.source_type)),
            Some(b) if b.logical != c.logical || b.source_type != c.source_type => {
                parts.push(format!("column {} was {} and is {}", c.name, b.source_type, c.source_type));
            }
            Some(b) if b.nullable != c.nullable => {
                let now = if c.nullable { "may be NULL now" } else { "may no longer be NULL" };
                parts.push(format!("column {} {now}", c.name));
            }
            Some(_) => {}
        }
    }
    let gone = before.columns.iter().filter(|c| named(after, &c.name).is_none());
    parts.extend(gone.map(|c| format!("column {} went", c.name)));
    if before.name != after.name {
        parts.push(format!("its name was {} and is {}", before.name, after.name));
    }
    let key = |t: &TableSchema| t.key.iter().map(|&i| t.columns[i].name.clone()).collect::<Vec<_>>().join(", ");
    if key(before) != key(after) {
        parts.push(format!("its key was ({}) and is ({})", key(before), key(after)));
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}
