//! The proof that source and target hold the same rows, at the same position.
//!
//! Comparing two live databases read at different moments proves nothing, so both sides are read at one position:
//!
//! 1. hold the reader at a commit;
//! 2. open the source's snapshot, which says the position S that it stands for exactly;
//! 3. let the reader run up to S and hold it there; wait until every target has committed S;
//! 4. open the targets' snapshots, check that they stand at S, and let the reader go.
//!
//! Replication stalls for these four steps only, not for the scans. Then every table is scanned on both sides and the
//! fingerprints are compared. What could not be read is *unknown*, and unknown is never equal; so is a check that
//! compared no table.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossfade_core::{
    Error, Fingerprint, KeyRange, Phase, Position, Result, Snapshot, TableName, TableSchema, selection::glob_matches,
};
use serde::{Deserialize, Serialize};

use crate::pipeline::Pipeline;
use crate::pipeline::fence::Fence;
use crate::pipeline::session::Shared;
use crate::transform::Mapped;

/// What a comparison came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Same rows.
    Equal,
    /// Not the same rows.
    Different,
    /// One side could not be read, or nothing was compared.
    Unknown,
}

/// One table's comparison.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableProof {
    /// As the source names it.
    pub table: String,
    /// Where the target is, if there are several.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub target: Option<String>,
    /// Rows at the source.
    pub source_rows: Option<u64>,
    /// Rows at the target.
    pub target_rows: Option<u64>,
    /// 32 hexadecimal digits.
    pub source_fingerprint: Option<String>,
    /// 32 hexadecimal digits.
    pub target_fingerprint: Option<String>,
    /// What it came to.
    pub verdict: Verdict,
    /// Why it is unknown.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
}

/// A comparison of all tables asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Proof {
    /// Equal only if every table is.
    pub verdict: Verdict,
    /// Where both sides were read.
    pub position: Option<Position>,
    /// How long replication stood still.
    pub held_ms: u64,
    /// How long it all took.
    pub seconds: f64,
    /// Each table.
    pub tables: Vec<TableProof>,
}

/// Both sides opened at the same position; the comparison needs nothing else.
pub struct Fenced {
    position: Position,
    held: Duration,
    tables: Vec<Mapped>,
    drift: BTreeMap<TableName, String>,
    source: Box<dyn Snapshot>,
    targets: Vec<(Option<String>, Box<dyn Snapshot>)>,
}

/// How long the stream may take to reach the fence.
const PATIENCE: Duration = Duration::from_secs(120);

/// Holds the pipeline at one position and opens both sides there.
pub fn fence(shared: &Shared<'_>, pipeline: &Pipeline, globs: &[String]) -> Result<Fenced> {
    for (i, spec) in pipeline.targets.iter().enumerate() {
        if shared.checkpoint(i).phase == Phase::Copying {
            return Err(Error::transient(format!("{}: the initial copy is not complete", spec.name))
                .hint("run `crossfade catch-up` first, then verify"));
        }
    }
    if levelling(shared, pipeline) {
        return Err(Error::transient("a target that lags behind the others is being brought level with them")
            .hint("run `crossfade catch-up` first, then verify"));
    }
    let fenced = hold(shared, pipeline, globs);
    let mut fenced = fenced?;
    fenced.drift = drift(pipeline, &fenced.tables, globs);
    Ok(fenced)
}

/// Whether targets that stream are being brought level with others, so that the pipeline cannot be held at one position.
pub fn levelling(shared: &Shared<'_>, pipeline: &Pipeline) -> bool {
    let streams = |i| shared.checkpoint(i).phase == Phase::Streaming;
    shared.members.len() < pipeline.targets.len() && (0..pipeline.targets.len()).all(streams)
}

/// Tables that the source has now and that cannot be compared as they are carried, and why. Rows alone would be equal
/// although a column or a whole table is missing at the target.
fn drift(pipeline: &Pipeline, carried: &[Mapped], globs: &[String]) -> BTreeMap<TableName, String> {
    let now = match pipeline.source.tables(&pipeline.selection) {
        Ok(now) => now,
        Err(e) => return carried.iter().map(|m| (m.source.name.clone(), e.to_string())).collect(),
    };
    let shape = |t: &TableSchema| -> Vec<_> { t.columns.iter().map(|c| (c.name.clone(), c.logical.clone())).collect() };
    let picked = |t: &&Arc<TableSchema>| globs.is_empty() || globs.iter().any(|g| glob_matches(g, &t.name));
    let mut out = BTreeMap::new();
    for table in now.iter().filter(picked) {
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
    out
}

/// The carried tables that the globs pick, in their present shape.
fn tables(shared: &Shared<'_>, globs: &[String]) -> Result<Vec<Mapped>> {
    let mut all = shared.carried();
    if globs.is_empty() {
        return Ok(all);
    }
    for glob in globs {
        if !all.iter().any(|m| glob_matches(glob, &m.source.name)) {
            let names: Vec<String> = all.iter().map(|m| m.source.name.to_string()).collect();
            return Err(Error::usage(format!("no carried table matches {glob}"))
                .hint(format!("the tables are {}", names.join(", "))));
        }
    }
    all.retain(|m| globs.iter().any(|g| glob_matches(g, &m.source.name)));
    Ok(all)
}

fn hold(shared: &Shared<'_>, pipeline: &Pipeline, globs: &[String]) -> Result<Fenced> {
    let began = Instant::now();
    let sources: Vec<Arc<TableSchema>> = tables(shared, globs)?.into_iter().map(|m| m.source).collect();
    let fence = Fence::hold(shared, &sources, PATIENCE)?;
    let position = fence.position.clone();
    // What came up to the fence may have changed a shape.
    let tables = tables(shared, globs)?;
    let arriving: Vec<Arc<TableSchema>> = tables.iter().map(|m| Arc::clone(&m.target)).collect();
    let mut targets = Vec::new();
    for spec in &pipeline.targets {
        let snapshot = spec.target.snapshot(&pipeline.name, &arriving)?;
        if !pipeline.source.order(snapshot.position(), &position)?.is_eq() {
            return Err(Error::corrupt(format!(
                "{}: its snapshot stands at {}, not at the fence {position}",
                spec.name,
                snapshot.position()
            )));
        }
        let name = (pipeline.targets.len() > 1).then(|| spec.name.clone());
        targets.push((name, snapshot));
    }
    let (position, source) = fence.release();
    Ok(Fenced { position, held: began.elapsed(), tables, drift: BTreeMap::new(), source, targets })
}

impl Fenced {
    /// Scans both sides and compares.
    pub fn compare(mut self) -> Proof {
        let began = Instant::now();
        let tables = self.tables;
        let (source, targets) = std::thread::scope(|scope| {
            let others: Vec<_> = self
                .targets
                .iter_mut()
                .map(|(_, snapshot)| {
                    let tables = &tables;
                    scope.spawn(move || each(tables, |m| scan(snapshot.as_mut(), &m.target, Ok)))
                })
                .collect();
            let source = &mut self.source;
            let ours = each(&tables, |m| scan(source.as_mut(), &m.source, |b| m.project(&b)));
            let joined = others.into_iter().map(|t| t.join().unwrap_or_else(|_| Vec::new()));
            (ours, joined.collect::<Vec<_>>())
        });
        let mut proofs = Vec::new();
        let mut drift = self.drift;
        for (i, mapped) in tables.iter().enumerate() {
            for ((name, _), side) in self.targets.iter().zip(&targets) {
                let ours = source.get(i).and_then(|r| r.as_ref().ok());
                let theirs = side.get(i).and_then(|r| r.as_ref().ok());
                let error = [source.get(i), side.get(i)].into_iter().flatten().find_map(|r| r.as_ref().err());
                let mut proof = proof(&mapped.source.name, name.clone(), ours, theirs, error);
                if let Some(wrong) = drift.get(&mapped.source.name) {
                    proof.verdict = Verdict::Unknown;
                    proof.error = Some(wrong.clone());
                }
                proofs.push(proof);
            }
            drift.remove(&mapped.source.name);
        }
        for (name, wrong) in drift {
            proofs.push(TableProof { error: Some(wrong), ..proof(&name, None, None, None, None) });
        }
        Proof {
            verdict: overall(&proofs),
            position: Some(self.position),
            held_ms: self.held.as_millis() as u64,
            seconds: (began.elapsed() + self.held).as_secs_f64(),
            tables: proofs,
        }
    }
}

fn each(tables: &[Mapped], read: impl FnMut(&Mapped) -> Result<Fingerprint>) -> Vec<Result<Fingerprint>> {
    tables.iter().map(read).collect()
}

fn scan(
    snapshot: &mut dyn Snapshot,
    table: &TableSchema,
    shape: impl Fn(arrow_array::RecordBatch) -> Result<arrow_array::RecordBatch>,
) -> Result<Fingerprint> {
    let mut sum = Fingerprint::default();
    snapshot.scan(table, &KeyRange::ALL, &mut |batch| sum.add(&shape(batch)?))?;
    Ok(sum)
}

fn proof(
    table: &TableName,
    target: Option<String>,
    ours: Option<&Fingerprint>,
    theirs: Option<&Fingerprint>,
    error: Option<&Error>,
) -> TableProof {
    let verdict = match (ours, theirs) {
        (Some(a), Some(b)) if a == b => Verdict::Equal,
        (Some(_), Some(_)) => Verdict::Different,
        (None, _) | (_, None) => Verdict::Unknown,
    };
    TableProof {
        table: table.to_string(),
        target,
        source_rows: ours.map(|f| f.rows),
        target_rows: theirs.map(|f| f.rows),
        source_fingerprint: ours.map(Fingerprint::to_string),
        target_fingerprint: theirs.map(Fingerprint::to_string),
        verdict,
        error: error.map(Error::to_string),
    }
}

/// A difference outweighs what is unknown; both outweigh equality; nothing compared is unknown.
fn overall(proofs: &[TableProof]) -> Verdict {
    let any = |v| proofs.iter().any(|p| p.verdict == v);
    if any(Verdict::Different) {
        Verdict::Different
    } else if any(Verdict::Unknown) || proofs.is_empty() {
        Verdict::Unknown
    } else {
        Verdict::Equal
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(verdicts: &[(Option<u128>, Option<u128>)]) -> Verdict {
        let f = |sum: Option<u128>| sum.map(|sum| Fingerprint { rows: 1, sum });
        let proofs: Vec<TableProof> = verdicts
            .iter()
            .map(|&(a, b)| proof(&TableName::new("s", "t"), None, f(a).as_ref(), f(b).as_ref(), None))
            .collect();
        overall(&proofs)
    }

    #[test]
    fn unknown_is_never_equal() {
        assert_eq!(with(&[(Some(1), Some(1))]), Verdict::Equal);
        assert_eq!(with(&[]), Verdict::Unknown);
        assert_eq!(with(&[(Some(1), Some(1)), (Some(1), None)]), Verdict::Unknown);
        assert_eq!(with(&[(None, None)]), Verdict::Unknown);
        assert_eq!(with(&[(Some(1), None), (Some(1), Some(2))]), Verdict::Different);
    }

    #[test]
    fn equal_sums_of_different_counts_differ() {
        let (a, b) = (Fingerprint { rows: 1, sum: 7 }, Fingerprint { rows: 2, sum: 7 });
        assert_eq!(proof(&TableName::new("s", "t"), None, Some(&a), Some(&b), None).verdict, Verdict::Different);
    }
}
