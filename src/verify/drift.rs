//! What stands between a table's carried shape and the one that the source has now: rows alone would not show it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crossfade_core::selection::glob_matches;
use crossfade_core::{Selection, TableName, TableSchema};

use crate::pipeline::progress::SuspendedTable;
use crate::pipeline::{Pipeline, suspend};
use crate::transform::Mapped;

/// Tables that the source has now and that cannot be compared as they are carried, and why. Rows alone would be equal
/// although a column or a whole table is missing at the target.
pub fn drift(pipeline: &Pipeline, carried: &[Mapped], globs: &[String]) -> BTreeMap<TableName, String> {
    let picked = |name: &TableName| globs.is_empty() || globs.iter().any(|g| glob_matches(g, name));
    let suspended = pipeline.progress.view().suspended;
    let told = |s: &SuspendedTable| {
        format!("suspended since {}; `crossfade status` tells why; then `{}`", s.position, s.command)
    };
    let mut out: BTreeMap<TableName, String> =
        suspended.iter().filter(|s| picked(&s.table)).map(|s| (s.table.clone(), told(s))).collect();
    let now = match pipeline.source.tables(&suspend::selection(pipeline, &suspended, |_| false)) {
        Ok(now) => now,
        Err(e) => {
            let mut refused = BTreeMap::new();
            let now = one_by_one(pipeline, carried, &mut refused);
            if e.is_transient() || refused.is_empty() {
                refused = carried.iter().map(|m| (m.source.name.clone(), e.to_string())).collect();
            }
            out.extend(refused);
            now
        }
    };
    let shape = |t: &TableSchema| -> Vec<_> { t.columns.iter().map(|c| (c.name.clone(), c.logical.clone())).collect() };
    for table in now.iter().filter(|t| picked(&t.name)) {
        let wrong = match carried.iter().find(|m| m.source.name == table.name) {
            None => {
                "it came after the pipeline began and is not carried: `crossfade snapshot` takes it in, or exclude it"
            }
            Some(m) if shape(&m.source) != shape(table) => {
                "it has other columns at the source now; the change arrives with the table's next row"
            }
            Some(_) => continue,
        };
        out.insert(table.name.clone(), wrong.to_owned());
    }
    let is_gone = |name: &&TableName| pipeline.selection.admits(name) && !now.iter().any(|t| t.name == **name);
    let gone = "it is no longer at the source: put it back, then `crossfade snapshot` takes it in anew, or exclude it";
    for name in carried.iter().map(|m| &m.source.name).filter(is_gone) {
        out.entry(name.clone()).or_insert_with(|| gone.to_owned());
    }
    out
}

/// The carried tables as the source has them now, each asked for alone: one that nobody can carry any more must not hide the others.
/// Of those that cannot, why.
fn one_by_one(
    pipeline: &Pipeline,
    carried: &[Mapped],
    wrong: &mut BTreeMap<TableName, String>,
) -> Vec<Arc<TableSchema>> {
    let mut now = Vec::new();
    for name in carried.iter().map(|m| &m.source.name) {
        match pipeline.source.tables(&Selection { include: vec![name.to_string()], exclude: vec![] }) {
            Ok(found) => now.extend(found),
            Err(e) if e.is_transient() => break,
            Err(e) => {
                let told = format!("{e}; the change arrives with the table's next row, and suspends it");
                wrong.insert(name.clone(), told);
            }
        }
    }
    now
}
