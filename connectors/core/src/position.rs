//! Where we are in a source's log, and what a target remembers of it.
//!
//! A position is text: readable in a control table, in a report and at 3 in the morning. Only the source that made it
//! can interpret or order it; everybody else stores it and hands it back. It exists only at the end of a commit, so
//! "resume in the middle of a transaction" cannot be written down.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A point in a source's log between two transactions.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Position(String);

impl Position {
    /// Wraps a source's own notation.
    pub fn new(text: impl Into<String>) -> Self {
        Position(text.into())
    }

    /// The source's own notation.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a pipeline is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The initial copy runs beside the stream; the target is not consistent yet.
    Copying,
    /// The target equals the source as it was at the checkpoint's position.
    Streaming,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Copying => "copying",
            Phase::Streaming => "streaming",
        })
    }
}

/// What a target commits together with the data. Progress lives there and nowhere else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// One more than the checkpoint before. The first is 1.
    pub seq: u64,
    /// Everything up to here is in the target, and nothing beyond (but for chunks of the initial copy).
    pub position: Position,
    /// Whether the initial copy has ended.
    pub phase: Phase,
    /// The owner's fencing token: a target refuses a commit of an older epoch.
    pub epoch: u64,
    /// The source's commit time of the last transaction, in microseconds since 1970 UTC, where it is known.
    pub commit_micros: Option<i64>,
}

/// Who runs a pipeline: written beside the checkpoint, so that a second run can say who holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The pipeline's name: the key of everything the target remembers.
    pub pipeline: String,
    /// The machine.
    pub host: String,
    /// The process.
    pub pid: u32,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} on {}", self.pid, self.host)
    }
}
