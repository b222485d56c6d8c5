//! Chunks: what was read of a table behind one fence, and what all of them say of it.
//!
//! A chunk is a range of keys that both sides were asked for at one position. Chunks of one table stand at different positions, and
//! still prove: at every position at which the target holds what the source held, it does so in every range of keys. A row that moves
//! from a range that was read to one that was not, or the other way, does so at both sides between the same two positions, so it
//! makes no range different; it may be read twice, or not at all, and then it was written in between and stands under a later proof.
//!
//! Counts and fingerprints of ranges add up to those of the table where all were read at one position; only then they are given for
//! the table. Otherwise each chunk has its own, and the table's count is told as the sum that it is.

use std::cmp::Ordering;

use crossfade_core::{KeyPart, KeyRange, Position, Result, TableName};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::canary::Canary;
use super::difference::{Classes, Differences};
use super::narrow::LISTED;
use super::{Proof, TableProof, Verdict, overall};
use crate::transform::Mapped;

/// A range of a table's keys, as a proof tells of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// The keys.
    pub range: KeyRange,
    /// Where both sides were read.
    pub position: Position,
    /// When they were opened there: microseconds since 1970 UTC.
    pub at_micros: i64,
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
}

/// What was read of a table behind one fence, as a course remembers it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settled {
    /// The course, by when it began: microseconds since 1970 UTC.
    pub course: i64,
    /// As the source names it.
    pub table: TableName,
    /// The shape that it had, see [`shape`].
    pub shape: String,
    /// The keys; all of them, if the table was read whole.
    pub range: KeyRange,
    /// Where both sides were read.
    pub position: Position,
    /// When they were opened there: microseconds since 1970 UTC.
    pub at_micros: i64,
    /// Whether it is a chunk of an audit in which rows differed, read once more.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub again: bool,
    /// For each target.
    pub proofs: Vec<TableProof>,
    /// How the comparison did with the changes that it made itself.
    pub canary: Canary,
}

impl Settled {
    /// Whether nothing of the table is left to read.
    pub fn ends(&self) -> bool {
        self.range.to.is_none()
    }
}

impl Proof {
    /// Where both sides were read, in words.
    pub fn positions(&self) -> Option<String> {
        let first = self.position.as_ref()?;
        Some(match &self.through {
            Some(last) => format!("{first} to {last}"),
            None => first.to_string(),
        })
    }
}

/// A mark of a table's shape at both ends: other columns or another key give another one.
pub fn shape(mapped: &Mapped) -> Result<String> {
    let parts = [&mapped.source, &mapped.target].map(|t| (&t.name, &t.columns, &t.key));
    let text = serde_json::to_string(&parts)
        .map_err(|e| crossfade_core::Error::corrupt("a table's shape is no JSON").caused_by(e))?;
    Ok(Sha256::digest(text).iter().take(8).map(|b| format!("{b:02x}")).collect())
}

/// Of what was settled of a table in this shape, what follows without a gap from its first key: what comes behind it is left to read.
/// A chunk that is unknown is read again.
pub fn chain(settled: &[Settled], table: &TableName, shape: &str) -> Vec<Settled> {
    let mut chain: Vec<Settled> = Vec::new();
    for s in settled.iter().filter(|s| s.table == *table && s.shape == shape) {
        if s.proofs.is_empty() || overall(&s.proofs) == Verdict::Unknown {
            continue;
        }
        let follows = match chain.last() {
            None => s.range.after.is_none(),
            Some(last) => last.range.to.is_some() && last.range.to == s.range.after,
        };
        if follows {
            chain.push(s.clone());
        }
    }
    chain
}

/// Whether a range has no key behind `after`.
pub fn is_over(range: &KeyRange, after: Option<&Vec<KeyPart>>) -> bool {
    match (&range.to, after) {
        (Some(to), Some(after)) => order(to, after).is_le(),
        (None, _) | (_, None) => false,
    }
}

/// The ranges of a plan that cover every key behind `after`, the keys that come later included.
pub fn behind(plan: Vec<KeyRange>, after: Option<&Vec<KeyPart>>) -> Vec<KeyRange> {
    let mut left: Vec<KeyRange> = plan.into_iter().filter(|range| !is_over(range, after)).collect();
    match left.first_mut() {
        Some(first) => first.after = after.cloned(),
        None => left.push(KeyRange { after: after.cloned(), to: None }),
    }
    if let Some(last) = left.last_mut() {
        last.to = None;
    }
    left
}

/// The order of keys that are ordered by their values. Texts of such keys are digits of UUIDs and bytes.
fn order(a: &[KeyPart], b: &[KeyPart]) -> Ordering {
    let part = |(a, b): (&KeyPart, &KeyPart)| match (a, b) {
        (KeyPart::Int(a), KeyPart::Int(b)) => a.cmp(b),
        (KeyPart::Bytes(a), KeyPart::Bytes(b)) => a.cmp(b),
        (KeyPart::Text(a), KeyPart::Text(b)) => a.cmp(b),
        // Of one column all are of one kind. A range too many is read, not one too few.
        (KeyPart::Int(_) | KeyPart::Bytes(_) | KeyPart::Text(_), _) => Ordering::Greater,
    };
    a.iter().zip(b).map(part).find(|o| o.is_ne()).unwrap_or(Ordering::Equal)
}

/// What all that was settled of a table says of it, for each target.
pub fn whole(chunks: &[Settled]) -> Vec<TableProof> {
    match chunks {
        [] => Vec::new(),
        [one] => one.proofs.clone(),
        [first, ..] => (0..first.proofs.len()).map(|target| joined(chunks, target)).collect(),
    }
}

fn joined(chunks: &[Settled], target: usize) -> TableProof {
    let parts: Vec<(&Settled, &TableProof)> = chunks.iter().filter_map(|s| Some((s, s.proofs.get(target)?))).collect();
    let sum = |of: fn(&TableProof) -> Option<u64>| parts.iter().map(|(_, p)| of(p)).sum::<Option<u64>>();
    let proofs: Vec<TableProof> = parts.iter().map(|(_, p)| (*p).clone()).collect();
    let chunk = |(s, p): &(&Settled, &TableProof)| Chunk {
        range: s.range.clone(),
        position: s.position.clone(),
        at_micros: s.at_micros,
        source_rows: p.source_rows,
        target_rows: p.target_rows,
        source_fingerprint: p.source_fingerprint.clone(),
        target_fingerprint: p.target_fingerprint.clone(),
        verdict: p.verdict,
    };
    TableProof {
        verdict: overall(&proofs),
        source_rows: sum(|p| p.source_rows),
        target_rows: sum(|p| p.target_rows),
        source_fingerprint: None,
        target_fingerprint: None,
        differences: differences(proofs.iter().filter_map(|p| p.differences.as_ref())),
        error: proofs.iter().find_map(|p| p.error.clone()),
        chunks: parts.iter().map(chunk).collect(),
        ..proofs[0].clone()
    }
}

/// What differs in all chunks together.
fn differences<'a>(all: impl Iterator<Item = &'a Differences>) -> Option<Differences> {
    all.cloned().reduce(|mut sum, next| {
        sum.rows += next.rows;
        sum.or_more |= next.or_more;
        sum.listed.extend(next.listed);
        sum.listed.truncate(LISTED);
        sum.recheck = sum.recheck.zip(next.recheck).map(|(a, b)| Classes {
            missing: a.missing + b.missing,
            extra: a.extra + b.extra,
            different: a.different + b.different,
            repeated: a.repeated + b.repeated,
            settled: a.settled + b.settled,
        });
        sum
    })
}

#[cfg(test)]
mod tests {
    use crossfade_core::{Error, Fingerprint};

    use super::*;

    fn key(n: i128) -> Option<Vec<KeyPart>> {
        Some(vec![KeyPart::Int(n)])
    }

    fn range(after: Option<i128>, to: Option<i128>) -> KeyRange {
        KeyRange { after: after.and_then(key), to: to.and_then(key) }
    }

    /// A chunk of `t`: equal, different, or unknown.
    fn settled(after: Option<i128>, to: Option<i128>, rows: (Option<u64>, Option<u64>)) -> Settled {
        let table = TableName::new("s", "t");
        let side = |rows: Option<u64>| {
            rows.map(|rows| Fingerprint { rows, sum: 7 }).ok_or_else(|| Error::transient("not read"))
        };
        let proofs = vec![super::super::proof(&table, None, &side(rows.0), &side(rows.1))];
        let (position, canary) = (Position::new(format!("at {after:?}")), Canary::default());
        let (shape, range) = ("x".into(), range(after, to));
        Settled { course: 1, table, shape, range, position, at_micros: 5, again: false, proofs, canary }
    }

    #[test]
    fn a_table_is_what_its_chunks_are() {
        let of = |chunks: &[Settled]| whole(chunks).remove(0);
        let equal = || settled(None, Some(5), (Some(3), Some(3)));
        let proof = of(&[equal(), settled(Some(5), None, (Some(2), Some(2)))]);
        assert_eq!((proof.verdict, proof.source_rows, proof.chunks.len()), (Verdict::Equal, Some(5), 2));
        assert_eq!(proof.source_fingerprint, None, "a sum over two positions is no position's");
        let unknown = || settled(Some(5), None, (None, Some(2)));
        let proof = of(&[equal(), unknown()]);
        assert_eq!((proof.verdict, proof.source_rows), (Verdict::Unknown, None), "unknown is never equal");
        let proof = of(&[settled(None, Some(5), (Some(3), Some(2))), unknown()]);
        assert_eq!(proof.verdict, Verdict::Different);
        let whole = settled(None, None, (Some(3), Some(3)));
        assert!(of(std::slice::from_ref(&whole)).source_fingerprint.is_some());
    }

    #[test]
    fn what_was_settled_is_gone_on_with_where_it_ends() {
        let all = [
            settled(None, Some(5), (Some(3), Some(3))),
            settled(Some(5), Some(9), (None, Some(3))),
            settled(Some(5), Some(7), (Some(3), Some(2))),
            settled(Some(9), Some(12), (Some(3), Some(3))),
        ];
        let table = TableName::new("s", "t");
        let ends: Vec<_> = chain(&all, &table, "x").iter().map(|s| s.range.to.clone()).collect();
        assert_eq!(ends, [key(5), key(7)], "neither over a gap nor over what is unknown");
        assert!(chain(&all, &table, "another shape").is_empty());
    }

    #[test]
    fn a_plan_covers_what_is_left_and_what_comes_later() {
        let plan = || vec![range(None, Some(5)), range(Some(5), Some(9)), range(Some(9), Some(12))];
        assert_eq!(behind(plan(), None), [range(None, Some(5)), range(Some(5), Some(9)), range(Some(9), None)]);
        assert_eq!(behind(plan(), key(7).as_ref()), [range(Some(7), Some(9)), range(Some(9), None)]);
        assert_eq!(behind(plan(), key(9).as_ref()), [range(Some(9), None)]);
        assert_eq!(behind(plan(), key(12).as_ref()), [range(Some(12), None)]);
        assert_eq!(behind(vec![], None), [KeyRange::ALL]);
    }
}
