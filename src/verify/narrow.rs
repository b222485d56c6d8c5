//! From "these tables differ" to the rows: what differs, by key and column.
//!
//! Both snapshots are still open where they were compared, so they can be read again and again and say the same:
//!
//! 1. each side into buckets by the hash of the key (left out for a small table: there all buckets are looked into);
//! 2. of the buckets that differ, the hashes of each row: the keys whose rows are not the same;
//! 3. the rows of the first of those keys, with their values.
//!
//! Memory is bounded whatever differs: so many hashes, so many rows. Where more differs the count says "or more".

use std::collections::{HashMap, HashSet};

use arrow_array::{BooleanArray, RecordBatch};
use arrow_select::filter::filter_record_batch;
use crossfade_core::buckets::{Buckets, RowHash, row_hashes};
use crossfade_core::{Error, Fingerprint, KeyRange, Result, Snapshot};

use super::difference::{Difference, Differences, Words, difference, words};
use crate::transform::Mapped;

/// Rows whose hashes are held, of each side.
const HASHES: u64 = 200_000;
/// Rows of a table that are listed.
pub const LISTED: usize = 100;

/// One side of a table.
struct Side<'a> {
    snapshot: &'a mut dyn Snapshot,
    mapped: &'a Mapped,
    is_source: bool,
}

/// Rows with one key, on each side.
#[derive(Default)]
struct Both {
    source: Fingerprint,
    target: Fingerprint,
}

/// Finds what differs in a table whose fingerprints differ: `rows` is the larger of both counts.
pub fn narrow(mapped: &Mapped, source: &mut dyn Snapshot, target: &mut dyn Snapshot, rows: u64) -> Result<Differences> {
    within(mapped, source, target, rows, HASHES)
}

/// As [`narrow`], holding so many hashes at most (and of one bucket, whatever it has).
fn within(
    mapped: &Mapped,
    source: &mut dyn Snapshot,
    target: &mut dyn Snapshot,
    rows: u64,
    hashes: u64,
) -> Result<Differences> {
    let mut source = Side { snapshot: source, mapped, is_source: true };
    let mut target = Side { snapshot: target, mapped, is_source: false };
    let (picked, or_more) = match rows > hashes {
        true => suspects(&mut source, &mut target, hashes).map(|(picked, more)| (Some(picked), more))?,
        false => (None, false),
    };
    let mut found = keys(&mut source, &mut target, picked.as_ref())?;
    let rows = found.len() as u64;
    found.sort_unstable();
    found.truncate(LISTED);
    let listed = list(mapped, &mut source, &mut target, &found.into_iter().collect())?;
    Ok(Differences { rows, or_more, listed })
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
fn keys(source: &mut Side<'_>, target: &mut Side<'_>, within: Option<&HashSet<usize>>) -> Result<Vec<u128>> {
    let (ours, theirs) = beside(source, target, |side| {
        let mut found: Vec<RowHash> = Vec::new();
        side.scan(|_, hashes| {
            found.extend(hashes.iter().filter(|row| within.is_none_or(|w| w.contains(&row.bucket()))));
            Ok(())
        })?;
        Ok(found)
    })?;
    let mut both: HashMap<u128, Both> = HashMap::new();
    for row in ours {
        both.entry(row.key).or_default().source.add_hash(row.row);
    }
    for row in theirs {
        both.entry(row.key).or_default().target.add_hash(row.row);
    }
    Ok(both.into_iter().filter(|(_, b)| b.source != b.target).map(|(key, _)| key).collect())
}

/// The rows with these keys, compared value by value.
fn list(
    mapped: &Mapped,
    source: &mut Side<'_>,
    target: &mut Side<'_>,
    wanted: &HashSet<u128>,
) -> Result<Vec<Difference>> {
    let (ours, theirs) = beside(source, target, |side| {
        let mut found: HashMap<u128, Vec<Words>> = HashMap::new();
        side.scan(|batch, hashes| {
            let mask: BooleanArray = hashes.iter().map(|row| Some(wanted.contains(&row.key))).collect();
            let picked = filter_record_batch(batch, &mask)
                .map_err(|e| Error::corrupt("picking rows out of a snapshot").caused_by(e))?;
            let keys = hashes.iter().filter(|row| wanted.contains(&row.key));
            keys.zip(words(&picked)?).for_each(|(row, words)| found.entry(row.key).or_default().push(words));
            Ok(())
        })?;
        Ok(found)
    })?;
    let of = |side: &HashMap<u128, Vec<Words>>, key| side.get(key).cloned().unwrap_or_default();
    let listed = wanted.iter().filter_map(|key| difference(&mapped.target, &of(&ours, key), &of(&theirs, key)));
    let mut listed: Vec<Difference> = listed.collect();
    // Shorter texts first: then numbers stand in their order.
    listed.sort_by_cached_key(|d| {
        d.key.iter().map(|n| (n.value.as_ref().map(String::len), n.value.clone())).collect::<Vec<_>>()
    });
    Ok(listed)
}

/// Does the same on both sides at once.
fn beside<T: Send>(
    source: &mut Side<'_>,
    target: &mut Side<'_>,
    work: impl Fn(&mut Side<'_>) -> Result<T> + Sync,
) -> Result<(T, T)> {
    let (ours, theirs) = std::thread::scope(|scope| {
        let theirs = scope.spawn(|| work(target));
        (work(source), theirs.join())
    });
    let theirs = theirs.unwrap_or_else(|_| Err(Error::corrupt("a thread that read the target panicked")));
    Ok((ours?, theirs?))
}

impl Side<'_> {
    /// Reads all rows in the target's shape, with their hashes.
    fn scan(&mut self, mut sink: impl FnMut(&RecordBatch, &[RowHash]) -> Result<()>) -> Result<()> {
        let mapped = self.mapped;
        let table = if self.is_source { &mapped.source } else { &mapped.target };
        let is_source = self.is_source;
        self.snapshot.scan(table, &KeyRange::ALL, &mut |batch| {
            let batch = if is_source { mapped.project(&batch)? } else { batch };
            sink(&batch, &row_hashes(&batch, &mapped.target.key)?)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, Int64Array, StringArray};
    use crossfade_core::{Column, Logical, Position, TableName, TableSchema};

    use super::super::difference::Kind;
    use super::*;
    use crate::transform::{Rules, Transform};

    /// A table that stands still.
    struct Still(Vec<(i64, &'static str)>, Position);

    impl Snapshot for Still {
        fn position(&self) -> &Position {
            &self.1
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
        within(&mapped, &mut ours, &mut theirs, rows, hashes).unwrap()
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
