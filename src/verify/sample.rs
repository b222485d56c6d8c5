//! Random rows, value by value, from both sides at one position: for eyes that want to see, beside a proof that adds up hashes.
//!
//! Which rows: those whose keys' hashes, mixed with the seed, are the least. Each side keeps its least ones in one scan, and the least of
//! both are shown. That is a uniform sample of all keys that either side has, so rows that only the target has may come up as well; it
//! needs no random access, and the same seed picks the same rows as long as they are there.
//!
//! What it says is bounded: where `n` random rows are all equal, the share of rows that differ is below `1 - 0.05^(1/n)` with 95 %
//! confidence (about `3/n`: were the share greater, `n` equal rows would come up in fewer than 5 of 100 samples). It never says that
//! no row differs. The fingerprint of all rows does.

use std::collections::{BTreeMap, HashSet};

use crossfade_core::buckets::RowHash;
use crossfade_core::{Error, Fingerprint, Position, Result, Snapshot};
use serde::{Deserialize, Serialize};

use super::difference::{Cell, Named, Words, cell, named, words};
use super::narrow::Both;
use super::recheck::kind;
use super::side::{Side, beside, pick};
use super::{Fenced, Verdict};
use crate::transform::Mapped;
use crate::verify::difference::Kind;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Rows of each table.
    pub rows: u16,
    /// Which.
    pub seed: u64,
}

/// Random rows of some tables.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Equal only if every row is.
    pub verdict: Verdict,
    /// What picks these rows again.
    pub seed: u64,
    /// Where both sides were read.
    pub position: Position,
    /// Each table.
    pub tables: Vec<TableSample>,
}

/// Random rows of a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableSample {
    /// As the source names it.
    pub table: String,
    /// Where the target is, if there are several.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub target: Option<String>,
    /// What it came to: of a table without rows, or one that could not be read, nothing is known.
    pub verdict: Verdict,
    /// Rows at the source.
    pub source_rows: u64,
    /// Rows at the target.
    pub target_rows: u64,
    /// Whether keys are whole rows: the table has none.
    pub whole_rows: bool,
    /// Those that came up.
    pub rows: Vec<Shown>,
    /// Where all of them are equal, and are not all there are: with 95 % confidence the share of rows that differ is below this.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub differing_share_below: Option<f64>,
    /// Why it could not be read.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
}

/// A row that came up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// Its key; of a table without one, the whole row.
    pub key: Vec<Named>,
    /// How it differs; none: it does not.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub differs: Option<Kind>,
    /// Every column beside the key, from both sides. A side that has no such row, or several, shows none, or the first.
    pub columns: Vec<Cell>,
}

/// Rows with one key, on one side.
#[derive(Debug, Clone, Default)]
struct Found {
    sum: Fingerprint,
    first: Option<Words>,
}

/// The least keys of one side.
struct Least {
    limit: usize,
    seed: u64,
    rows: u64,
    found: BTreeMap<(u64, u128), Found>,
}

impl Least {
    fn new(wanted: Wanted) -> Least {
        Least { limit: usize::from(wanted.rows), seed: wanted.seed, rows: 0, found: BTreeMap::new() }
    }

    fn see(&mut self, batch: &arrow_array::RecordBatch, hashes: &[RowHash]) -> Result<()> {
        self.rows += hashes.len() as u64;
        for row in hashes {
            let place = (mixed(row.key, self.seed), row.key);
            let is_least =
                self.found.len() < self.limit || self.found.last_key_value().is_some_and(|(l, _)| place <= *l);
            if is_least {
                self.found.entry(place).or_default().sum.add_hash(row.row);
                if self.found.len() > self.limit {
                    self.found.pop_last();
                }
            }
        }
        let keys: HashSet<u128> = self.found.keys().map(|(_, key)| *key).collect();
        if !hashes.iter().any(|row| keys.contains(&row.key)) {
            return Ok(());
        }
        let (batch, hashes) = pick(batch, hashes, &keys)?;
        for (row, words) in hashes.iter().zip(words(&batch)?) {
            if let Some(found) = self.found.get_mut(&(mixed(row.key, self.seed), row.key)) {
                found.first.get_or_insert(words);
            }
        }
        Ok(())
    }
}

/// The key's place among all keys under this seed. Hashes of keys are even already; the last steps of SplitMix64 make an order of
/// its own for each seed.
fn mixed(key: u128, seed: u64) -> u64 {
    let mut z = (key as u64) ^ (key >> 64) as u64 ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Fenced {
    /// Shows random rows of each table, from both sides.
    pub fn sample(mut self, wanted: Wanted) -> Sample {
        let mut tables = Vec::new();
        for mapped in &self.tables {
            for (name, target) in &mut self.targets {
                let taken = match self.drift.get(&mapped.source.name) {
                    Some(wrong) => Err(Error::config(wrong.clone())),
                    None => one(mapped, self.source.as_mut(), target.as_mut(), wanted),
                };
                let mut sample = taken.unwrap_or_else(|e| nothing(mapped, &e));
                sample.target = name.clone();
                tables.push(sample);
            }
        }
        let any = |v| tables.iter().any(|t| t.verdict == v);
        let verdict = match (any(Verdict::Different), any(Verdict::Unknown) || tables.is_empty()) {
            (true, _) => Verdict::Different,
            (false, true) => Verdict::Unknown,
            (false, false) => Verdict::Equal,
        };
        Sample { verdict, seed: wanted.seed, position: self.position, tables }
    }
}

fn nothing(mapped: &Mapped, e: &Error) -> TableSample {
    TableSample {
        table: mapped.source.name.to_string(),
        target: None,
        verdict: Verdict::Unknown,
        source_rows: 0,
        target_rows: 0,
        whole_rows: mapped.target.key.is_empty(),
        rows: Vec::new(),
        differing_share_below: None,
        error: Some(e.to_string()),
    }
}

fn one(mapped: &Mapped, source: &mut dyn Snapshot, target: &mut dyn Snapshot, wanted: Wanted) -> Result<TableSample> {
    let mut source = Side { snapshot: source, mapped, is_source: true };
    let mut target = Side { snapshot: target, mapped, is_source: false };
    let (ours, theirs) = beside(&mut source, &mut target, |side| {
        let mut least = Least::new(wanted);
        side.scan(|batch, hashes| least.see(batch, hashes))?;
        Ok(least)
    })?;
    let rows = both(mapped, &ours, &theirs, usize::from(wanted.rows));
    let verdict = match rows.iter().any(|r| r.differs.is_some()) {
        true => Verdict::Different,
        false => Verdict::Equal,
    };
    // A table without a row has no row that differs, and the sample has seen all of it.
    let seen_all = rows.len() as u64 >= ours.rows.max(theirs.rows);
    let bounded = verdict == Verdict::Equal && !seen_all;
    Ok(TableSample {
        table: mapped.source.name.to_string(),
        target: None,
        verdict,
        source_rows: ours.rows,
        target_rows: theirs.rows,
        whole_rows: mapped.target.key.is_empty(),
        differing_share_below: bounded.then(|| below(rows.len())),
        rows,
        error: None,
    })
}

/// The greatest share of rows that differ of which so many random ones are all equal in at least 5 of 100 samples.
fn below(rows: usize) -> f64 {
    1.0 - 0.05_f64.powf(1.0 / rows as f64)
}

/// The least keys of both sides: each of them is among the least of every side that has it.
fn both(mapped: &Mapped, ours: &Least, theirs: &Least, limit: usize) -> Vec<Shown> {
    let mut keys: Vec<&(u64, u128)> = ours.found.keys().chain(theirs.found.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    keys.truncate(limit);
    let show = |key: &(u64, u128)| {
        let side = |least: &Least| least.found.get(key).cloned().unwrap_or_default();
        let (source, target) = (side(ours), side(theirs));
        let any = source.first.as_ref().or(target.first.as_ref())?;
        let table = &mapped.target;
        let name = |i: usize| named(table, i, any);
        let is_key = |i: &usize| table.key.is_empty() || table.key.contains(i);
        let all = 0..table.columns.len();
        let columns = all.clone().filter(|i| !is_key(i));
        let columns = columns.map(|i| cell(table, i, source.first.as_ref(), target.first.as_ref()));
        Some(Shown {
            key: if table.key.is_empty() {
                all.map(name).collect()
            } else {
                table.key.iter().map(|&i| name(i)).collect()
            },
            differs: kind(&Both { source: source.sum, target: target.sum }),
            columns: columns.collect(),
        })
    };
    let mut shown: Vec<Shown> = keys.into_iter().filter_map(show).collect();
    // Shorter texts first: then numbers stand in their order.
    shown.sort_by_cached_key(|s| {
        s.key.iter().map(|n| (n.value.as_ref().map(String::len), n.value.clone())).collect::<Vec<_>>()
    });
    shown
}

impl Sample {
    /// Hides all values; keys stay, but for tables without a key, where the key is the whole row.
    pub fn mask(&mut self) {
        let hide = |value: &mut Option<String>| {
            if value.is_some() {
                *value = Some("***".into());
            }
        };
        for table in &mut self.tables {
            for row in &mut table.rows {
                if table.whole_rows {
                    row.key.iter_mut().for_each(|n| hide(&mut n.value));
                }
                row.columns.iter_mut().for_each(|c| {
                    hide(&mut c.source);
                    hide(&mut c.target);
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
    use crossfade_core::buckets::row_hashes;
    use crossfade_core::{Column, Logical, TableName, TableSchema};

    use super::*;
    use crate::transform::{Rules, Transform};

    fn mapped(key: &[usize]) -> Mapped {
        let column = |name: &str, logical| Column {
            name: name.into(),
            source_type: "x".into(),
            logical,
            nullable: true,
            auto_increment: false,
            number: 0,
            policies: Default::default(),
        };
        let table = Arc::new(TableSchema {
            name: TableName::new("s", "t"),
            version: 1,
            columns: vec![column("id", Logical::Int64), column("t", Logical::Text)],
            key: key.to_vec(),
            indexes: vec![],
            foreign_keys: vec![],
            origin: None,
            pending: vec![],
            number: 0,
        });
        Transform::new(Rules::default()).map_all(&[table]).unwrap().remove(0)
    }

    /// One side, in batches of so many rows.
    fn side(rows: &[(i64, &str)], key: &[usize], wanted: Wanted, step: usize) -> Least {
        let mut least = Least::new(wanted);
        for some in rows.chunks(step) {
            let ids: ArrayRef = Arc::new(some.iter().map(|r| r.0).collect::<Int64Array>());
            let texts: ArrayRef = Arc::new(some.iter().map(|r| Some(r.1)).collect::<StringArray>());
            let batch = RecordBatch::try_from_iter([("id", ids), ("t", texts)]).unwrap();
            least.see(&batch, &row_hashes(&batch, key).unwrap()).unwrap();
        }
        least
    }

    fn sampled(ours: &[(i64, &str)], theirs: &[(i64, &str)], wanted: Wanted, step: usize) -> Vec<Shown> {
        let (ours, theirs) = (side(ours, &[0], wanted, step), side(theirs, &[0], wanted, 7));
        both(&mapped(&[0]), &ours, &theirs, usize::from(wanted.rows))
    }

    fn ids(rows: &[Shown]) -> Vec<i64> {
        rows.iter().map(|r| r.key[0].value.as_ref().unwrap().parse().unwrap()).collect()
    }

    #[test]
    fn a_seed_picks_the_same_rows_in_whatever_order_they_come() {
        let rows: Vec<(i64, &str)> = (0..1000).map(|i| (i, "x")).collect();
        let backwards: Vec<(i64, &str)> = rows.iter().rev().copied().collect();
        let wanted = Wanted { rows: 20, seed: 42 };
        let first = sampled(&rows, &backwards, wanted, 13);
        assert_eq!((first.len(), first.iter().filter(|r| r.differs.is_some()).count()), (20, 0));
        assert_eq!(first, sampled(&backwards, &rows, wanted, 1000));
        assert_ne!(ids(&first), ids(&sampled(&rows, &rows, Wanted { seed: 43, ..wanted }, 13)));
    }

    #[test]
    fn every_row_comes_up_as_often_as_any_other() {
        let rows: Vec<(i64, &str)> = (0..50).map(|i| (i, "x")).collect();
        let mut times = [0u32; 50];
        for seed in 0..2000 {
            for id in ids(&sampled(&rows, &rows, Wanted { rows: 5, seed }, 50)) {
                times[id as usize] += 1;
            }
        }
        // 200 are expected of each, with a standard deviation of 13.4.
        assert!(times.iter().all(|n| (130..=270).contains(n)), "{times:?}");
    }

    #[test]
    fn rows_of_either_side_come_up_and_what_differs_is_told() {
        let ours = [(1, "a"), (2, "b"), (3, "c")];
        let theirs = [(2, "b"), (3, "x"), (4, "d"), (4, "d")];
        let shown = sampled(&ours, &theirs, Wanted { rows: 10, seed: 1 }, 2);
        let told: Vec<_> = ids(&shown).into_iter().zip(shown.iter().map(|r| r.differs)).collect();
        let expected = [(1, Some(Kind::Missing)), (2, None), (3, Some(Kind::Different)), (4, Some(Kind::Extra))];
        assert_eq!(told, expected);
        let cells: Vec<_> =
            shown.iter().map(|r| (r.columns[0].source.as_deref(), r.columns[0].target.as_deref())).collect();
        let values = [(Some("a"), None), (Some("b"), Some("b")), (Some("c"), Some("x")), (None, Some("d"))];
        assert_eq!(cells, values);
    }

    #[test]
    fn without_a_key_whole_rows_are_told_apart() {
        let wanted = Wanted { rows: 10, seed: 1 };
        let (ours, theirs) = ([(1, "a"), (1, "a"), (2, "b")], [(1, "a"), (2, "b")]);
        let (ours, theirs) = (side(&ours, &[], wanted, 10), side(&theirs, &[], wanted, 10));
        let shown = both(&mapped(&[]), &ours, &theirs, 10);
        let told: Vec<_> = shown.iter().map(|r| (r.key.len(), r.columns.len(), r.differs)).collect();
        assert_eq!(told, [(2, 0, Some(Kind::Repeated)), (2, 0, None)]);
    }

    #[test]
    fn a_hundred_equal_rows_leave_three_of_a_hundred_open() {
        assert!((0.0295..0.0296).contains(&below(100)), "{}", below(100));
        assert!(below(1) == 0.95 && below(1_000) < 0.003);
    }
}
