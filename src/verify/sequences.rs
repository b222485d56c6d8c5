//! Sequences at the targets that would hand out values that are taken.
//!
//! They are set at the end of the copy, and rows that stream in bring their own numbers: so while replication goes on nearly every
//! sequence of a busy table is behind, as it must be, and no verdict and no hour depends on it. It matters at one moment, the
//! cutover, when the target begins to hand out numbers itself. `catch-up` sets what the pipeline made; what is left shows here.

use crossfade_core::sequence::Behind as Found;
use crossfade_core::{Result, Snapshot};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::transform::Mapped;

/// What the targets' sequences came to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Sequences {
    /// Those that are behind.
    pub behind: Vec<Behind>,
    /// Why others are not known, by table.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub errors: Vec<String>,
}

/// A sequence behind the values of its column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Behind {
    /// The table, as the source names it.
    pub table: String,
    /// Where the target is, if there are several.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub target: Option<String>,
    /// The column, as the target names it.
    pub column: String,
    /// The sequence's name.
    pub sequence: String,
    /// What it would hand out.
    pub next: String,
    /// The furthest value there is.
    pub furthest: String,
    /// The statement that sets it.
    pub fix: String,
}

/// Looks at one target.
pub fn look(snapshot: &mut dyn Snapshot, tables: &[Mapped]) -> Vec<Result<Vec<Found>>> {
    tables.iter().map(|m| snapshot.sequences(&m.target)).collect()
}

impl Sequences {
    /// Adds what one target has.
    pub fn add(&mut self, tables: &[Mapped], target: Option<&String>, found: Vec<Result<Vec<Found>>>) {
        for (mapped, found) in tables.iter().zip(found) {
            let table = mapped.source.name.to_string();
            match found {
                Ok(found) => self.behind.extend(found.into_iter().map(|f| Behind {
                    table: table.clone(),
                    target: target.cloned(),
                    column: f.column,
                    sequence: f.sequence,
                    next: f.next,
                    furthest: f.furthest,
                    fix: f.fix,
                })),
                Err(e) => self.errors.push(format!("{table}: {e}")),
            }
        }
    }
}

impl Behind {
    /// In words.
    pub fn words(&self) -> String {
        let to = self.target.as_ref().map_or_else(String::new, |t| format!(" -> {t}"));
        let Behind { table, column, sequence, next, furthest, .. } = self;
        format!("{table}{to}, column {column}: {sequence} would hand out {next}, and {furthest} is there")
    }
}
