//! From "these tables differ" to the rows: what differs, by key and column.
//!
//! Both snapshots are still open where they were compared, so they can be read again and again and say the same:
//!
//! 1. each side into buckets by the hash of the key (left out for a small table: there all buckets are looked into);
//! 2. of the buckets that differ, the hashes of each row: the keys whose rows are not the same;
//! 3. the rows of the first of those keys, with their values, and all of those keys, for a second look (`recheck.rs`) and for
//!    repair.
//!
//! Memory is bounded whatever differs: so many hashes, so many rows. Where more differs the count says "or more".

use std::collections::{HashMap, HashSet};

use arrow_array::RecordBatch;
use arrow_select::concat::concat_batches;
use crossfade_core::buckets::{Buckets, RowHash};
use crossfade_core::{Error, Fingerprint, Result, Snapshot};

use super::difference::{Difference, Differences, Words, difference, words};
use super::side::{Side, beside, pick};
use crate::transform::Mapped;

/// Rows whose hashes are held, of each side.
const HASHES: u64 = 200_000;
/// Rows of a table that are listed.
pub const LISTED: usize = 100;

/// Rows with one key, on each side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Both {
    /// At the source.
    pub source: Fingerprint,
    /// At the target.
    pub target: Fingerprint,
}

/// The keys whose rows were not the same, and what each side had.
pub struct Suspects {
    /// The columns of the key as they arrive at the target, a row for each key. A table without a key has none: its rows are
    /// found by a scan, and whole rows would not be bounded.
    pub keys: RecordBatch,
    /// For each row of `keys` the key's hash, and its rows' on each side.
    pub rows: Vec<(u128, Both)>,
    /// The hashes of the keys of [`Differences::listed`], in its order.
    pub listed: Vec<u128>,
}

/// Finds what differs in a table whose fingerprints differ: `rows` is the larger of both counts.
pub fn narrow(
    mapped: &Mapped,
    source: &mut dyn Snapshot,
    target: &mut dyn Snapshot,
    rows: u64,
) -> Result<(Differences, Suspects)> {
    within(mapped, source, target, rows, HASHES)
}

/// As [`narrow`], holding so many hashes at most (and of one bucket, whatever it has).
fn within(
    mapped: &Mapped,
    source: &mut dyn Snapshot,
    target: &mut dyn Snapshot,
    rows: u64,
    hashes: u64,
) -> Result<(Differences, Suspects)> {
    let mut source = Side { snapshot: source, mapped, is_source: true };
    let mut target = Side { snapshot: target, mapped, is_source: false };
    let (picked, or_more) = match rows > hashes {
        true => suspects(&mut source, &mut target, hashes).map(|(picked, more)| (Some(picked), more))?,
        false => (None, false),
    };
    let found = keys(&mut source, &mut target, picked.as_ref())?;
    let rows = found.len() as u64;
    let mut first: Vec<u128> = found.keys().copied().collect();
    first.sort_unstable();
    first.truncate(LISTED);
    let (listed, suspects) = list(mapped, &mut source, &mut target, &first.into_iter().collect(), &found)?;
    let whole_rows = mapped.target.key.is_empty();
    Ok((Differences { rows, or_more, whole_rows, listed, recheck: None }, suspects))
}

/// Buckets that differ, as many as may be looked into, and whether there are more.
fn suspects(source: &mut Side<'_>, target: &mut Side<'_>, hashes: u64) -> Result<(HashSet<usize>, bool)> {
    let (ours, theirs) = beside(source, target, |side| {
        let mut buckets = Buckets::default();
        side.scan(|_, hashes| {
            hashes.iter().for_each(|&row| buckets.add(row));
            Ok(())
        })?;
        Ok(buckets)
    })?;
    let differing = ours.differing(&theirs);
    let mut picked = HashSet::new();
    let mut rows = 0;
    for &bucket in &differing {
        rows += ours.rows(bucket).max(theirs.rows(bucket));
        if rows > hashes && !picked.is_empty() {
            break;
        }
        picked.insert(bucket);
    }
    let more = picked.len() < differing.len();
    Ok((picked, more))
}

/// The keys, by their hash, whose rows are not the same.
fn keys(source: &mut Side<'_>, target: &mut Side<'_>, within: Option<&HashSet<usize>>) -> Result<HashMap<u128, Both>> {
    let (ours, theirs) = beside(source, target, |side| {
        let mut found: Vec<RowHash> = Vec::new();
        side.scan(|_, hashes| {
            found.extend(hashes.iter().filter(|row| within.is_none_or(|w| w.contains(&row.bucket()))));
            Ok(())
        })?;
        Ok(found)
    })?;
    let mut both = paired(ours, theirs);
    both.retain(|_, b| b.source != b.target);
    Ok(both)
}

/// The rows of both sides, by their key's hash.
pub fn paired(ours: Vec<RowHash>, theirs: Vec<RowHash>) -> HashMap<u128, Both> {
    let mut both: HashMap<u128, Both> = HashMap::new();
    for row in ours {
        both.entry(row.key).or_default().source.add_hash(row.row);
    }
    for row in theirs {
        both.entry(row.key).or_default().target.add_hash(row.row);
    }
    both
}

/// What one side has of the rows that differ.
#[derive(Default)]
struct Found {
    /// Of those that are listed, all values.
    words: HashMap<u128, Vec<Words>>,
    /// The keys of all.
    keys: Vec<(RecordBatch, Vec<RowHash>)>,
}

/// The first of the rows, compared value by value, and the keys of all.
fn list(
    mapped: &Mapped,
    source: &mut Side<'_>,
    target: &mut Side<'_>,
    wanted: &HashSet<u128>,
    all: &HashMap<u128, Both>,
) -> Result<(Vec<Difference>, Suspects)> {
    let key_columns = &mapped.target.key;
    let every: HashSet<u128> = all.keys().copied().collect();
    let (ours, theirs) = beside(source, target, |side| {
        let mut found = Found::default();
        side.scan(|batch, hashes| {
            let (differing, hashes) = pick(batch, hashes, &every)?;
            if hashes.is_empty() {
                return Ok(());
            }
            let (picked, of) = pick(&differing, &hashes, wanted)?;
            of.iter().zip(words(&picked)?).for_each(|(row, words)| found.words.entry(row.key).or_default().push(words));
            found.keys.push((project(&differing, key_columns)?, hashes));
            Ok(())
        })?;
        Ok(found)
    })?;
    let of = |side: &Found, key: &u128| side.words.get(key).cloned().unwrap_or_default();
    let one = |key: &u128| Some((*key, difference(&mapped.target, &of(&ours, key), &of(&theirs, key))?));
    let mut listed: Vec<(u128, Difference)> = wanted.iter().filter_map(one).collect();
    // Shorter texts first: then numbers stand in their order.
    listed.sort_by_cached_key(|(_, d)| {
        d.key.iter().map(|n| (n.value.as_ref().map(String::len), n.value.clone())).collect::<Vec<_>>()
    });
    let (hashes, listed) = listed.into_iter().unzip();
    let suspects = suspects_of(mapped, key_columns, ours.keys.into_iter().chain(theirs.keys), all, hashes)?;
    Ok((listed, suspects))
}

fn project(batch: &RecordBatch, columns: &[usize]) -> Result<RecordBatch> {
    batch.project(columns).map_err(|e| Error::corrupt("a key beyond its table's columns").caused_by(e))
}

/// Each key once.
fn suspects_of(
    mapped: &Mapped,
    key_columns: &[usize],
    found: impl Iterator<Item = (RecordBatch, Vec<RowHash>)>,
    all: &HashMap<u128, Both>,
    listed: Vec<u128>,
) -> Result<Suspects> {
    let mut left: HashSet<u128> = all.keys().copied().collect();
    let mut batches = vec![project(&RecordBatch::new_empty(mapped.target.arrow()), key_columns)?];
    let mut rows = Vec::with_capacity(all.len());
    for (batch, hashes) in found {
        let first = |row: &RowHash| left.remove(&row.key);
        let mask: Vec<bool> = hashes.iter().map(first).collect();
        let new = arrow_array::BooleanArray::from(mask);
        let kept = arrow_select::filter::filter_record_batch(&batch, &new)
            .map_err(|e| Error::corrupt("picking keys out of a snapshot").caused_by(e))?;
        rows.extend(hashes.iter().zip(new.values()).filter(|(_, new)| *new).map(|(row, _)| (row.key, all[&row.key])));
        batches.push(kept);
    }
    let schema = batches[0].schema();
    let keys = concat_batches(&schema, &batches).map_err(|e| Error::corrupt("keys form no batch").caused_by(e))?;
    Ok(Suspects { keys, rows, listed })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, Int64Array, StringArray};
    use crossfade_core::totals::Totals;
    use crossfade_core::{Column, KeyRange, Logical, Orphans, Position, TableName, TableSchema, figure};

    use super::super::difference::Kind;
    use super::*;
    use crate::transform::{Rules, Transform};

    /// A table that stands still.
    struct Still(Vec<(i64, &'static str)>, Position);

    impl Snapshot for Still {
        fn position(&self) -> &Position {
            &self.1
        }

        fn totals(&mut self, _: &TableSchema) -> Result<Option<Totals>> {
            Ok(None)
        }

        fn ask(&mut self, _: &str) -> Result<Option<String>> {
            Err(figure::mute("a table that stands still"))
        }

        fn orphans(&mut self, _: &TableSchema, _: &[Arc<TableSchema>]) -> Result<Option<Vec<Orphans>>> {
            Ok(None)
        }

        fn split(&mut self, _: &TableSchema, _: u64) -> Result<Vec<KeyRange>> {
            Ok(vec![KeyRange::ALL])
        }

        fn scan(
            &mut self,
            table: &TableSchema,
            _: &KeyRange,
            sink: &mut dyn FnMut(RecordBatch) -> Result<()>,
        ) -> Result<()> {
            self.0.chunks(100).try_for_each(|rows| {
                let ids: ArrayRef = Arc::new(rows.iter().map(|r| r.0).collect::<Int64Array>());
                let texts: ArrayRef = Arc::new(rows.iter().map(|r| Some(r.1)).collect::<StringArray>());
                sink(RecordBatch::try_new(table.arrow(), vec![ids, texts]).expect("two columns"))
            })
        }
    }

    fn found(
        key: &[usize],
        ours: Vec<(i64, &'static str)>,
        theirs: Vec<(i64, &'static str)>,
        hashes: u64,
    ) -> Differences {
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
        let mapped = Transform::new(Rules::default()).map_all(&[table]).unwrap().remove(0);
        let rows = ours.len().max(theirs.len()) as u64;
        let (mut ours, mut theirs) = (Still(ours, Position::new("1")), Still(theirs, Position::new("1")));
        let (found, suspects) = within(&mapped, &mut ours, &mut theirs, rows, hashes).unwrap();
        assert_eq!((suspects.rows.len() as u64, suspects.keys.num_rows() as u64), (found.rows, found.rows));
        found
    }

    fn many(n: i64) -> Vec<(i64, &'static str)> {
        (0..n).map(|i| (i, "x")).collect()
    }

    #[test]
    fn few_rows_of_a_large_table_are_found_through_buckets() {
        let mut theirs = many(3000);
        theirs[17].1 = "y";
        theirs.remove(2900);
        theirs.push((5000, "x"));
        for hashes in [50, 100_000] {
            let d = found(&[0], many(3000), theirs.clone(), hashes);
            assert_eq!((d.rows, d.or_more), (3, false), "{hashes} hashes");
            let kinds: Vec<_> = d.listed.iter().map(|d| (d.key[0].value.as_deref().unwrap(), d.kind)).collect();
            assert_eq!(kinds, [("17", Kind::Different), ("2900", Kind::Missing), ("5000", Kind::Extra)]);
        }
    }

    #[test]
    fn where_everything_differs_memory_is_bounded_and_it_says_so() {
        let theirs = (0..3000).map(|i| (i, "y")).collect::<Vec<_>>();
        let d = found(&[0], many(3000), theirs.clone(), 50);
        assert!(d.or_more && (1..=50).contains(&d.rows), "{} rows", d.rows);
        let d = found(&[0], many(3000), theirs, 3000);
        assert_eq!((d.rows, d.or_more, d.listed.len()), (3000, false, LISTED));
    }

    #[test]
    fn rows_without_a_key_are_counted() {
        let d = found(&[], vec![(1, "a"), (1, "a"), (2, "b")], vec![(1, "a"), (3, "c")], 100);
        let kinds: Vec<_> = d.listed.iter().map(|d| (d.kind, d.source_rows, d.target_rows)).collect();
        assert_eq!(kinds, [(Kind::Repeated, 2, 1), (Kind::Missing, 1, 0), (Kind::Extra, 0, 1)]);
    }
}
