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
//! compared no table, or one while a table is suspended. What cannot be read in time is read behind further fences
//! (`course.rs`). Figures and references are read in the first pair of snapshots (`beyond.rs`). Where a table differs,
//! the same snapshots are read again to find the rows (`narrow.rs`); these are looked at once more behind a second fence
//! (`recheck.rs`).

pub mod aggregates;
pub mod audit;
pub mod beyond;
pub mod canary;
pub mod changed;
pub mod chunk;
pub mod course;
mod cut;
pub mod decimal;
pub mod difference;
mod drift;
pub mod narrow;
pub mod orphans;
mod part;
pub mod recheck;
pub mod sample;
pub mod sequences;
pub mod side;
mod sitting;
pub mod totals;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::RecordBatch;
use crossfade_core::{
    Error, Fingerprint, KeyRange, Phase, Position, Result, Snapshot, TableName, TableSchema, selection::glob_matches,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::aggregates::Aggregate;
use self::audit::Audited;
use self::beyond::Beyond;
use self::canary::{Canary, Keeper};
use self::changed::{ChangedValues, Tally};
use self::chunk::Chunk;
use self::difference::Differences;
pub use self::drift::drift;
pub use self::narrow::LISTED;
use self::narrow::Suspects;
pub use self::recheck::Compared;
use self::recheck::Suspected;
use self::totals::TotalsProof;
use crate::pipeline::fence::Fence;
use crate::pipeline::session::Shared;
use crate::pipeline::{Pipeline, TargetSpec};
use crate::transform::Mapped;

/// What a comparison came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Same rows, and nothing else that was looked at is wrong.
    Equal,
    /// Not the same rows, or something beyond them is wrong.
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
    /// Values that a policy has changed, as the source's rows were read: they were compared with what the policy makes of them.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub changed: Vec<ChangedValues>,
    /// What both servers count and sum themselves, if that was asked and both can.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub totals: Option<TotalsProof>,
    /// Which rows differ.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub differences: Option<Differences>,
    /// Why it is unknown, or why the rows that differ could not be found.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
    /// The ranges of its key that were read behind several fences, if so: then its rows are a sum, and it has no fingerprint.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub chunks: Vec<Chunk>,
    /// Why it was read at one position although that took longer than snapshots are to be held.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub uncut: Option<String>,
    /// How far its audit is, if it is read bit by bit: then its chunks were read by several comparisons, and its rows counted by the last round.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub audit: Option<Audited>,
}

/// A comparison of all tables asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Proof {
    /// Equal only if every table is.
    pub verdict: Verdict,
    /// Where both sides were read: behind the first fence, if there were several.
    pub position: Option<Position>,
    /// Behind the last fence, if there were several.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub through: Option<Position>,
    /// When both sides were opened there.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub through_micros: Option<i64>,
    /// How long replication stood still.
    pub held_ms: u64,
    /// How long it all took.
    pub seconds: f64,
    /// Each table.
    pub tables: Vec<TableProof>,
    /// Where the rows that differ were read a second time.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rechecked: Option<Position>,
    /// Why they were not.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub recheck_error: Option<String>,
    /// When both sides were opened there: microseconds since 1970 UTC, by the clock of who compared.
    #[serde(default)]
    pub at_micros: i64,
    /// Whether the comparison found changes that it made itself, in memory.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub canary: Option<Canary>,
    /// What was looked at beyond rows.
    #[serde(flatten, default)]
    pub beyond: Box<Beyond>,
}

/// Both sides opened at the same position; the comparison needs nothing else.
pub struct Fenced {
    position: Position,
    at_micros: i64,
    held: Duration,
    tables: Vec<Mapped>,
    drift: BTreeMap<TableName, String>,
    options: Options,
    aggregates: Vec<Aggregate>,
    source: Box<dyn Snapshot>,
    targets: Vec<(Option<String>, Box<dyn Snapshot>)>,
}

/// How much is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Options {
    /// Also what both servers count and sum by their own SQL.
    #[serde(default)]
    pub totals: bool,
    /// Also rows at the targets that refer to nothing, and sequences there that are behind.
    #[serde(default)]
    pub references: bool,
}

/// Fingerprints by table.
type Sums = Vec<Result<Fingerprint>>;

/// How long the stream may take to reach the fence.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Holds the pipeline at one position and opens both sides there.
pub fn fence(shared: &Shared<'_>, pipeline: &Pipeline, globs: &[String]) -> Result<Fenced> {
    streams(shared, pipeline)?;
    let mut fenced = hold(shared, pipeline, &|| tables(shared, pipeline, globs))?;
    fenced.drift = drift(pipeline, &fenced.tables, globs);
    // A source may stand still at the position in the compared tables only, and a figure may be of any.
    if globs.is_empty() {
        fenced.aggregates = pipeline.aggregates.clone();
    }
    Ok(fenced)
}

/// An error unless every target streams, beside the others.
pub fn streams(shared: &Shared<'_>, pipeline: &Pipeline) -> Result<()> {
    for (i, spec) in pipeline.targets.iter().enumerate() {
        if shared.checkpoint(i).phase == Phase::Copying {
            return Err(Error::transient(format!("{}: the initial copy is not complete", spec.name))
                .hint("run `crossfade catch-up` first, then ask again"));
        }
    }
    if levelling(shared, pipeline) {
        return Err(Error::transient("a target that lags behind the others is being brought level with them")
            .hint("run `crossfade catch-up` first, then ask again"));
    }
    Ok(())
}

/// Whether targets that stream are being brought level with others, so that the pipeline cannot be held at one position.
pub fn levelling(shared: &Shared<'_>, pipeline: &Pipeline) -> bool {
    let streams = |i| shared.checkpoint(i).phase == Phase::Streaming;
    shared.members.len() < pipeline.targets.len() && (0..pipeline.targets.len()).all(streams)
}

/// The carried tables that the globs pick, in their present shape.
fn tables(shared: &Shared<'_>, pipeline: &Pipeline, globs: &[String]) -> Result<Vec<Mapped>> {
    let mut all = shared.carried();
    if globs.is_empty() {
        return Ok(all);
    }
    let suspended = pipeline.progress.view().suspended;
    for glob in globs.iter().filter(|g| !suspended.iter().any(|s| glob_matches(g, &s.table))) {
        if !all.iter().any(|m| glob_matches(glob, &m.source.name)) {
            let names: Vec<String> = all.iter().map(|m| m.source.name.to_string()).collect();
            return Err(Error::usage(format!("no carried table matches {glob}"))
                .hint(format!("the tables are {}", names.join(", "))));
        }
    }
    all.retain(|m| globs.iter().any(|g| glob_matches(g, &m.source.name)));
    Ok(all)
}

fn hold(shared: &Shared<'_>, pipeline: &Pipeline, tables: &dyn Fn() -> Result<Vec<Mapped>>) -> Result<Fenced> {
    let began = Instant::now();
    let sources: Vec<Arc<TableSchema>> = tables()?.into_iter().map(|m| m.source).collect();
    let fence = Fence::hold(shared, &sources, PATIENCE)?;
    let position = fence.position.clone();
    // What came up to the fence may have changed a shape.
    let tables = tables()?;
    let arriving: Vec<Arc<TableSchema>> = tables.iter().map(|m| Arc::clone(&m.target)).collect();
    let mut targets = Vec::new();
    for spec in &pipeline.targets {
        let snapshot = at_fence(pipeline, spec, &arriving, &position)?;
        let name = (pipeline.targets.len() > 1).then(|| spec.name.clone());
        targets.push((name, snapshot));
    }
    let (position, source) = fence.release();
    Ok(Fenced {
        position,
        at_micros: crate::now_micros(),
        held: began.elapsed(),
        tables,
        drift: BTreeMap::new(),
        options: Options::default(),
        aggregates: Vec::new(),
        source,
        targets,
    })
}

/// A target's tables at the position where the pipeline is held.
pub fn at_fence(
    pipeline: &Pipeline,
    spec: &TargetSpec,
    tables: &[Arc<TableSchema>],
    position: &Position,
) -> Result<Box<dyn Snapshot>> {
    let snapshot = spec.target.snapshot(&pipeline.name, tables)?;
    if pipeline.source.order(snapshot.position(), position)?.is_eq() {
        return Ok(snapshot);
    }
    let stands = snapshot.position();
    Err(Error::corrupt(format!("{}: its snapshot stands at {stands}, not at the fence {position}", spec.name)))
}

impl Fenced {
    /// Compares so much.
    #[must_use]
    pub fn with(self, options: Options) -> Self {
        Fenced { options, ..self }
    }

    /// Scans both sides, compares, and finds the rows that differ.
    pub fn compare(mut self) -> Compared {
        let began = Instant::now();
        let mut changed = Vec::new();
        let (ours, canary, theirs) = self.scan_all(&mut changed);
        let sums = self.options.totals.then(|| self.total_all());
        let beyond = self.beyond();
        let Fenced { position, at_micros, held, tables, mut drift, mut source, mut targets, .. } = self;
        let kept: Vec<_> = targets.iter_mut().map(|(_, snapshot)| snapshot.kept()).collect();
        let (mut proofs, mut suspected) = (Vec::new(), Vec::new());
        for (i, mapped) in tables.iter().enumerate() {
            let wrong = drift.remove(&mapped.source.name);
            for (at, ((name, snapshot), side)) in targets.iter_mut().zip(&theirs).enumerate() {
                let mut proof = proof(&mapped.source.name, name.clone(), &ours[i], &side[i]);
                changed::note(&mut proof, mapped, &changed[i], &kept[at]);
                if let Some(wrong) = &wrong {
                    proof.verdict = Verdict::Unknown;
                    proof.error = Some(wrong.clone());
                } else if proof.verdict == Verdict::Different
                    && let Some(suspects) = explain(&mut proof, mapped, source.as_mut(), snapshot.as_mut())
                {
                    suspected.push(Suspected { at: proofs.len(), target: at, mapped: mapped.clone(), suspects });
                }
                if let Some((ours, theirs)) = &sums
                    && wrong.is_none()
                {
                    totals::judge(&mut proof, mapped, &ours[i], &theirs[at][i]);
                }
                proofs.push(proof);
            }
        }
        for (name, wrong) in drift {
            let unread = || Err(Error::config(wrong.clone()));
            proofs.push(proof(&name, None, &unread(), &unread()));
        }
        let proof = Proof {
            verdict: beyond.weigh(overall(&proofs)),
            position: Some(position),
            through: None,
            through_micros: None,
            held_ms: held.as_millis() as u64,
            seconds: (began.elapsed() + held).as_secs_f64(),
            tables: proofs,
            rechecked: None,
            recheck_error: None,
            at_micros,
            canary: Some(canary),
            beyond: Box::new(beyond),
        };
        Compared { proof, suspected }
    }

    /// The fingerprints of all tables, of the source and of each target; all sides are read at once. On the way the comparison is tried
    /// out on rows of the source. `changed` gets what policies changed in each table, as the source was read.
    fn scan_all(&mut self, changed: &mut Vec<Vec<ChangedValues>>) -> (Sums, Canary, Vec<Sums>) {
        let tables = &self.tables;
        std::thread::scope(|scope| {
            let theirs = self
                .targets
                .iter_mut()
                .map(|(_, snapshot)| scope.spawn(|| each(tables, |m| scan(snapshot.as_mut(), &m.target, Ok))));
            let theirs: Vec<_> = theirs.collect();
            let source = &mut self.source;
            let mut canary = Canary::default();
            let ours = each(tables, |m| {
                let (mut keeper, mut tally) = (Keeper::default(), Tally::default());
                let sum = scan(source.as_mut(), &m.source, |b| {
                    keeper.see(&b);
                    m.arrives(&b, &mut |c| tally.add(c))
                });
                changed.push(tally.of(m));
                if let Some(kept) = keeper.kept() {
                    canary.fly(m, &kept);
                }
                sum
            });
            let panicked = |_| each(tables, |_| Err(Error::corrupt("a thread that read the target panicked")));
            (ours, canary, theirs.into_iter().map(|t| t.join().unwrap_or_else(panicked)).collect())
        })
    }
}

/// Says which rows differ. That they do stands also where they cannot be found.
fn explain(
    proof: &mut TableProof,
    mapped: &Mapped,
    source: &mut dyn Snapshot,
    target: &mut dyn Snapshot,
) -> Option<Suspects> {
    let rows = proof.source_rows.max(proof.target_rows).unwrap_or(u64::MAX);
    match narrow::narrow(mapped, source, target, rows) {
        Ok((differences, suspects)) => {
            proof.differences = Some(differences);
            Some(suspects)
        }
        Err(e) => {
            proof.error = Some(format!("the rows that differ could not be found: {e}"));
            None
        }
    }
}

fn each(tables: &[Mapped], read: impl FnMut(&Mapped) -> Result<Fingerprint>) -> Vec<Result<Fingerprint>> {
    tables.iter().map(read).collect()
}

fn scan(
    snapshot: &mut dyn Snapshot,
    table: &TableSchema,
    mut shape: impl FnMut(RecordBatch) -> Result<RecordBatch>,
) -> Result<Fingerprint> {
    let mut sum = Fingerprint::default();
    snapshot.scan(table, &KeyRange::ALL, &mut |batch| sum.add(&shape(batch)?))?;
    Ok(sum)
}

fn proof(
    table: &TableName,
    target: Option<String>,
    ours: &Result<Fingerprint>,
    theirs: &Result<Fingerprint>,
) -> TableProof {
    let verdict = match (ours, theirs) {
        (Ok(a), Ok(b)) if a == b => Verdict::Equal,
        (Ok(_), Ok(_)) => Verdict::Different,
        (Err(_), _) | (_, Err(_)) => Verdict::Unknown,
    };
    let error = ours.as_ref().err().or(theirs.as_ref().err());
    let (ours, theirs) = (ours.as_ref().ok(), theirs.as_ref().ok());
    TableProof {
        table: table.to_string(),
        target,
        source_rows: ours.map(|f| f.rows),
        target_rows: theirs.map(|f| f.rows),
        source_fingerprint: ours.map(Fingerprint::to_string),
        target_fingerprint: theirs.map(Fingerprint::to_string),
        verdict,
        changed: Vec::new(),
        differences: None,
        error: error.map(Error::to_string),
        totals: None,
        chunks: Vec::new(),
        uncut: None,
        audit: None,
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

    fn sum(sum: Option<u128>, rows: u64) -> Result<Fingerprint> {
        sum.map(|sum| Fingerprint { rows, sum }).ok_or_else(|| Error::transient("not read"))
    }

    fn with(verdicts: &[(Option<u128>, Option<u128>)]) -> Verdict {
        let one =
            |&(a, b): &(Option<u128>, Option<u128>)| proof(&TableName::new("s", "t"), None, &sum(a, 1), &sum(b, 1));
        overall(&verdicts.iter().map(one).collect::<Vec<_>>())
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
        let proof = proof(&TableName::new("s", "t"), None, &sum(Some(7), 1), &sum(Some(7), 2));
        assert_eq!(proof.verdict, Verdict::Different);
    }
}
