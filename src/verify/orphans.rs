//! Rows at a target that refer to nothing, foreign key by foreign key.
//!
//! The target's server counts them ([`crossfade_core::orphans`]); where it finds some, the source is asked for its own, at the same
//! position. As many at both ends are the source's, faithfully moved: a warning, since the target's foreign key cannot be made, or will
//! not survive a dump, until somebody deletes them at the source. Any other number is wrong: equal rows have equal orphans, so
//! something at the target differs, or the foreign key is one that the target has by itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use crossfade_core::{Orphans, Result, Snapshot, TableName, TableSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::beyond::{ByTable, Outcome};
use crate::cli::print::count;
use crate::transform::Mapped;

/// What the targets' references came to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct References {
    /// Foreign keys that were looked at, of all targets.
    pub foreign_keys: u64,
    /// Those with rows that refer to nothing, and those that could not be read.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub broken: Vec<Broken>,
}

/// A foreign key that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Broken {
    /// The table that refers, as the source names it.
    pub table: String,
    /// Where the target is, if there are several.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub target: Option<String>,
    /// The foreign key's name; none: those of the table could not be read.
    pub foreign_key: Option<String>,
    /// The table that it refers to, as the target names it.
    pub to: Option<String>,
    /// What it came to.
    pub outcome: Outcome,
    /// Rows at the target that refer to nothing.
    pub rows: Option<u64>,
    /// Rows at the source that do; none: the source has no such foreign key, or nobody can tell.
    pub source_rows: Option<u64>,
    /// The keys of some of the target's.
    pub keys: Vec<String>,
    /// Why it is unknown.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
}

/// Looks at one target.
pub fn look(snapshot: &mut dyn Snapshot, tables: &[Mapped]) -> ByTable<Orphans> {
    let all: Vec<Arc<TableSchema>> = tables.iter().map(|m| Arc::clone(&m.target)).collect();
    all.iter().map(|table| snapshot.orphans(table, &all)).collect()
}

/// What was found at the targets, beside the source, which is asked where something was.
pub fn judge(
    tables: &[Mapped],
    names: &[Option<String>],
    found: &[ByTable<Orphans>],
    drift: &BTreeMap<TableName, String>,
    source: &mut dyn Snapshot,
) -> References {
    let mut references = References::default();
    let sources: Vec<Arc<TableSchema>> = tables.iter().map(|m| Arc::clone(&m.source)).collect();
    for (i, mapped) in tables.iter().enumerate() {
        let mut ours: Option<Result<Option<Vec<Orphans>>>> = None;
        for (name, side) in names.iter().zip(found) {
            let of = |foreign_key: Option<&Orphans>| Broken {
                table: mapped.source.name.to_string(),
                target: name.clone(),
                foreign_key: foreign_key.map(|o| o.foreign_key.clone()),
                to: foreign_key.map(|o| o.to.to_string()),
                outcome: Outcome::Unknown,
                rows: foreign_key.map(|o| o.rows),
                source_rows: None,
                keys: foreign_key.map_or_else(Vec::new, |o| o.keys.clone()),
                error: None,
            };
            let theirs = match side.get(i) {
                Some(Ok(Some(theirs))) => theirs,
                Some(Ok(None)) | None => continue,
                Some(Err(e)) => {
                    references.broken.push(Broken { error: Some(e.to_string()), ..of(None) });
                    continue;
                }
            };
            references.foreign_keys += theirs.len() as u64;
            // Rows that refer to new rows of a table that is left out for now are as they must be; that table is unknown already.
            let is_adrift = |o: &Orphans| {
                mapped.source.foreign_keys.iter().any(|k| k.name == o.foreign_key && drift.contains_key(&k.to))
            };
            for orphans in theirs.iter().filter(|o| o.rows > 0 && !is_adrift(o)) {
                let ours = ours.get_or_insert_with(|| source.orphans(&mapped.source, &sources));
                references.broken.push(match beside(mapped, orphans, ours) {
                    Ok(source_rows) => {
                        let is_faithful = source_rows == Some(orphans.rows);
                        let outcome = if is_faithful { Outcome::Warning } else { Outcome::Critical };
                        Broken { outcome, source_rows, ..of(Some(orphans)) }
                    }
                    Err(error) => Broken { error: Some(error), ..of(Some(orphans)) },
                });
            }
        }
    }
    references
}

/// How many the source has of a foreign key; `None`: it has none of that name between these tables.
fn beside(
    mapped: &Mapped,
    orphans: &Orphans,
    ours: &Result<Option<Vec<Orphans>>>,
) -> std::result::Result<Option<u64>, String> {
    let comes_over = mapped.target.foreign_keys.iter().any(|k| k.name == orphans.foreign_key);
    match ours {
        _ if !comes_over => Ok(None),
        Ok(ours) => Ok(ours.iter().flatten().find(|o| o.foreign_key == orphans.foreign_key).map(|o| o.rows)),
        Err(e) => Err(format!("the source's own could not be counted: {e}")),
    }
}

impl Broken {
    /// In words: how many rows, and of whom.
    pub fn words(&self) -> String {
        let to = self.target.as_ref().map_or_else(String::new, |t| format!(" -> {t}"));
        let Some(rows) = self.rows else {
            return format!("references of {}{to} were not looked at: {}", self.table, self.why());
        };
        let (key, parent) = (self.foreign_key.as_deref().unwrap_or("?"), self.to.as_deref().unwrap_or("?"));
        let are = if rows == 1 { "1 row refers".to_owned() } else { format!("{} rows refer", count(rows)) };
        let of_the_source = match (self.outcome, self.source_rows) {
            (Outcome::Unknown, _) => format!("; {}", self.why()),
            (_, Some(n)) if n == rows => ", as at the source".to_owned(),
            (_, Some(n)) => format!(", {} at the source", count(n)),
            (_, None) => ", by a foreign key that the target has by itself".to_owned(),
        };
        let keys = if self.keys.is_empty() { String::new() } else { format!(": {}", self.keys.join("; ")) };
        format!("{}{to}: {are} to no row of {parent} (foreign key {key}){of_the_source}{keys}", self.table)
    }

    /// What to do about it.
    pub fn next(&self) -> Option<String> {
        match self.outcome {
            Outcome::Holds | Outcome::Unknown => None,
            Outcome::Warning => Some(format!(
                "delete these rows at the source, or bring back what they refer to; the deletion arrives like any change ({})",
                self.table
            )),
            Outcome::Critical if self.source_rows.is_none() => Some(
                "give the source the same foreign key, or mend these rows there; or drop it at the target: its own writers obey it, \
                 and rows that are replicated are not asked"
                    .into(),
            ),
            Outcome::Critical => Some(format!(
                "crossfade verify shows whether rows of {0} or of what it refers to differ, crossfade repair mends them",
                self.table
            )),
        }
    }

    fn why(&self) -> &str {
        self.error.as_deref().unwrap_or("not read")
    }
}
