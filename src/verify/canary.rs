//! Whether the comparison would find a change: it makes one itself, in memory, and looks for it.
//!
//! Of every table that is compared, a few rows that the source's snapshot gave are kept, just as they came. They
//! are compared with themselves after one bit of one value was flipped: in the target's shape, hashed, summed and narrowed
//! down by the same code as the whole table. The comparison must say *different*, and name that row.
//!
//! What this shows: for the types and values of this table, of this hour, a single wrong bit changes the fingerprint and leads to the row.
//! What it does not show: that both servers gave all of their rows, and truly. For that stand the counts, and that both fingerprints were
//! made of what two servers gave independently. Nothing is written at either side.

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch, make_array};
use arrow_buffer::{Buffer, MutableBuffer};
use arrow_schema::DataType;
use crossfade_core::totals::Totals;
use crossfade_core::{Error, Fingerprint, KeyRange, Orphans, Position, Result, Snapshot, TableSchema, figure};
use serde::{Deserialize, Serialize};

use super::difference::words;
use super::narrow;
use crate::transform::Mapped;

/// Rows of a table that are kept for it, and about how many bytes.
const KEPT: (usize, usize) = (100, 1 << 20);

/// How the comparison did with the changes that it made itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Canary {
    /// Tables in which a bit was flipped; others had no row.
    pub tried: u64,
    /// Those of them where it was not found, and why.
    pub missed: Vec<String>,
}

impl Canary {
    /// Tries the comparison on rows of a table as its source gave them.
    pub fn fly(&mut self, mapped: &Mapped, kept: &RecordBatch) {
        match flown(mapped, kept) {
            Ok(None) => {}
            Ok(Some(true)) => self.tried += 1,
            Ok(Some(false)) => self.miss(mapped, "a flipped bit was not found"),
            Err(e) => self.miss(mapped, &e.to_string()),
        }
    }

    fn miss(&mut self, mapped: &Mapped, why: &str) {
        self.tried += 1;
        self.missed.push(format!("{}: {why}", mapped.source.name));
    }
}

/// Whether the one changed row was found; `None`: no value can be changed.
fn flown(mapped: &Mapped, kept: &RecordBatch) -> Result<Option<bool>> {
    let arriving = mapped.arrives(kept, &mut |_| {})?;
    let Some((changed, row)) = changed(&arriving, &mapped.target.key)? else { return Ok(None) };
    let (mut before, mut after) = (Fingerprint::default(), Fingerprint::default());
    before.add(&arriving)?;
    after.add(&changed)?;
    if before == after {
        return Ok(Some(false));
    }
    let (mut source, mut target) = (Held::new(kept), Held::new(&changed));
    let (found, _) = narrow::narrow(mapped, &mut source, &mut target, kept.num_rows() as u64)?;
    let (old, new) = (words(&arriving.slice(row, 1))?.remove(0), words(&changed.slice(row, 1))?.remove(0));
    // Where the key itself was changed, or is the whole row, the old row is missing and a new one is there.
    let key = |row: &[Option<String>]| match mapped.target.key.as_slice() {
        [] => row.to_vec(),
        key => key.iter().map(|&i| row[i].clone()).collect(),
    };
    let mut expected = vec![key(&old), key(&new)];
    expected.dedup();
    // Differences cut long values: only the beginning of each is compared.
    let same = |found: &Option<String>, wanted: &Option<String>| match (found, wanted) {
        (Some(f), Some(w)) => f == w || w.chars().zip(f.chars()).take(400).all(|(a, b)| a == b),
        (f, w) => f == w,
    };
    let named = expected.iter().all(|wanted| {
        found
            .listed
            .iter()
            .any(|d| d.key.len() == wanted.len() && d.key.iter().zip(wanted).all(|(f, w)| same(&f.value, w)))
    });
    Ok(Some(named && found.rows == expected.len() as u64))
}

/// The batch with one bit of one value flipped, and the value's row: outside of the key where that can be.
fn changed(batch: &RecordBatch, key: &[usize]) -> Result<Option<(RecordBatch, usize)>> {
    let mut columns: Vec<usize> = (0..batch.num_columns()).collect();
    columns.sort_by_key(|i| key.contains(i));
    for column in columns {
        for row in 0..batch.num_rows() {
            let Some(array) = flipped(batch.column(column), row) else { continue };
            let mut arrays = batch.columns().to_vec();
            arrays[column] = array;
            let changed = RecordBatch::try_new(batch.schema(), arrays)
                .map_err(|e| Error::corrupt("a changed value does not fit its column").caused_by(e))?;
            // Another form of NaN is no other value.
            if words(&changed.slice(row, 1))? != words(&batch.slice(row, 1))? {
                return Ok(Some((changed, row)));
            }
        }
    }
    Ok(None)
}

/// The array with the lowest bit flipped of the value's first byte (the last one of a text). `None`: there is no such bit, or what comes
/// of it is no value of the type.
fn flipped(array: &ArrayRef, row: usize) -> Option<ArrayRef> {
    if array.is_null(row) {
        return None;
    }
    let data = array.to_data();
    let at = data.offset() + row;
    let (values, bit) = match data.data_type() {
        DataType::Boolean => (0, at),
        DataType::Utf8 | DataType::Binary => {
            let offsets = data.buffer::<i32>(0);
            (1, if offsets[row] < offsets[row + 1] { (offsets[row + 1] as usize - 1) * 8 } else { return None })
        }
        DataType::FixedSizeBinary(width) => (0, at * *width as usize * 8),
        other => (0, at * other.primitive_width()? * 8),
    };
    let mut buffers: Vec<Buffer> = data.buffers().to_vec();
    let mut bytes = MutableBuffer::from_len_zeroed(buffers[values].len());
    bytes.as_slice_mut().copy_from_slice(buffers[values].as_slice());
    *bytes.as_slice_mut().get_mut(bit / 8)? ^= 1 << (bit % 8);
    buffers[values] = bytes.into();
    // Checks the text's encoding, among others.
    let data = data.into_builder().buffers(buffers).build().ok()?;
    data.validate_full().ok()?;
    Some(make_array(data))
}

/// A snapshot of one batch.
struct Held {
    batch: RecordBatch,
    position: Position,
}

impl Held {
    fn new(batch: &RecordBatch) -> Held {
        Held { batch: batch.clone(), position: Position::new("memory") }
    }
}

impl Snapshot for Held {
    fn position(&self) -> &Position {
        &self.position
    }

    fn totals(&mut self, _: &TableSchema) -> Result<Option<Totals>> {
        Ok(None)
    }

    fn ask(&mut self, _: &str) -> Result<Option<String>> {
        Err(figure::mute("a batch in memory"))
    }

    fn orphans(&mut self, _: &TableSchema, _: &[Arc<TableSchema>]) -> Result<Option<Vec<Orphans>>> {
        Ok(None)
    }

    fn split(&mut self, _: &TableSchema, _: u64) -> Result<Vec<KeyRange>> {
        Ok(vec![KeyRange::ALL])
    }

    fn scan(&mut self, _: &TableSchema, _: &KeyRange, sink: &mut dyn FnMut(RecordBatch) -> Result<()>) -> Result<()> {
        sink(self.batch.clone())
    }
}

/// The first rows of a table, kept while it is scanned.
#[derive(Default)]
pub struct Keeper(Option<RecordBatch>);

impl Keeper {
    /// Sees a batch pass.
    pub fn see(&mut self, batch: &RecordBatch) {
        if self.0.is_none() && batch.num_rows() > 0 {
            let bytes = batch.get_array_memory_size() / batch.num_rows();
            let rows = batch.num_rows().min(KEPT.0).min((KEPT.1 / bytes.max(1)).max(1));
            self.0 = Some(own(&batch.slice(0, rows)));
        }
    }

    /// What was kept.
    pub fn kept(self) -> Option<RecordBatch> {
        self.0
    }
}

/// The rows in memory of their own: a slice would hold all of its batch.
fn own(batch: &RecordBatch) -> RecordBatch {
    arrow_select::concat::concat_batches(&batch.schema(), [batch]).unwrap_or_else(|_| batch.clone())
}

#[cfg(test)]
mod tests {
    use arrow_array::{
        BinaryArray, BooleanArray, Decimal128Array, FixedSizeBinaryArray, Float64Array, Int64Array, StringArray,
    };
    use crossfade_core::{Column, Logical, TableName};

    use super::*;
    use crate::transform::{Rules, Transform};

    fn mapped(columns: &[Logical], key: &[usize]) -> Mapped {
        let column = |(i, logical): (usize, &Logical)| Column {
            name: format!("c{i}"),
            source_type: "x".into(),
            logical: logical.clone(),
            nullable: true,
            auto_increment: false,
            number: 0,
            policies: Default::default(),
        };
        let table = Arc::new(TableSchema {
            name: TableName::new("s", "t"),
            version: 1,
            columns: columns.iter().enumerate().map(column).collect(),
            key: key.to_vec(),
            indexes: vec![],
            foreign_keys: vec![],
            origin: None,
            pending: vec![],
            number: 0,
        });
        Transform::new(Rules::default()).map_all(&[table]).unwrap().remove(0)
    }

    fn fly(columns: &[(Logical, ArrayRef)], key: &[usize]) -> Canary {
        let (logical, arrays): (Vec<_>, Vec<_>) = columns.iter().cloned().unzip();
        let mapped = mapped(&logical, key);
        let mut canary = Canary::default();
        canary.fly(&mapped, &RecordBatch::try_new(mapped.source.arrow(), arrays).unwrap());
        canary
    }

    #[test]
    fn a_flipped_bit_is_found_in_values_of_every_kind() {
        let ids = || (Logical::Int64, Arc::new(Int64Array::from(vec![1, 2, 3])) as ArrayRef);
        let found = Canary { tried: 1, missed: vec![] };
        let decimal = Decimal128Array::from(vec![None, Some(150), Some(0)]).with_precision_and_scale(10, 2).unwrap();
        let fixed = FixedSizeBinaryArray::try_from_iter([[7u8; 16], [8; 16], [9; 16]].iter()).unwrap();
        let kinds: Vec<(Logical, ArrayRef)> = vec![
            (Logical::Text, Arc::new(StringArray::from(vec![None, Some(""), Some("smør")]))),
            (Logical::Text, Arc::new(StringArray::from(vec!["x".repeat(900), "y".repeat(900), String::new()]))),
            (Logical::Bytes, Arc::new(BinaryArray::from(vec![Some(&b"\xff"[..]), None, Some(b"")]))),
            (Logical::Bool, Arc::new(BooleanArray::from(vec![None, Some(true), Some(false)]))),
            (Logical::Float64, Arc::new(Float64Array::from(vec![f64::NAN, -0.0, 1.5]))),
            (Logical::Decimal { precision: 10, scale: 2 }, Arc::new(decimal)),
            (Logical::Uuid, Arc::new(fixed)),
        ];
        for kind in kinds {
            assert_eq!(fly(&[ids(), kind.clone()], &[0]), found, "{kind:?}");
            // A slice of a larger array.
            let sliced = (kind.0.clone(), kind.1.slice(1, 2));
            let two = (Logical::Int64, ids().1.slice(1, 2));
            assert_eq!(fly(&[two, sliced], &[0]), found, "a slice of {kind:?}");
            assert_eq!(fly(&[ids(), kind.clone()], &[]), found, "without a key: {kind:?}");
        }
        assert_eq!(fly(&[ids()], &[0]), found, "nothing but a key");
    }

    #[test]
    fn where_there_is_no_value_nothing_was_tried() {
        let nothing: ArrayRef = Arc::new(StringArray::from(vec![None::<&str>, Some("")]));
        assert_eq!(fly(&[(Logical::Text, nothing)], &[]), Canary::default());
    }
}
