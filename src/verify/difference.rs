//! What differs, for people: the row's key, what became of it, and the values of both sides.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Date32Type, TimestampMicrosecondType};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_cast::cast;
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_schema::{DataType, TimeUnit};
use crossfade_core::{Error, Result, TableSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A longer value is cut here, and says so.
const SHOWN: usize = 500;

/// What became of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The source has it, the target has not.
    Missing,
    /// The target has it, the source has not.
    Extra,
    /// Both have it, with other values.
    Different,
    /// Both have rows like it, not equally many: no key forbids that at the target.
    Repeated,
}

/// One row, told by its key, that is not the same on both sides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Difference {
    /// What became of it.
    pub kind: Kind,
    /// The key's columns and values, as they arrive at the target; of a table without a key, the whole row.
    pub key: Vec<Named>,
    /// The columns whose values differ.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub columns: Vec<Cell>,
    /// Rows with this key at the source.
    pub source_rows: u64,
    /// Rows with this key at the target.
    pub target_rows: u64,
    /// What a second look, at a later position, came to.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub recheck: Option<Recheck>,
}

/// A row that differed, at a later position.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase", tag = "state")]
pub enum Recheck {
    /// It differs there too.
    Lasting {
        /// In this way.
        kind: Kind,
        /// In these columns.
        #[serde(skip_serializing_if = "Vec::is_empty", default)]
        columns: Vec<Cell>,
    },
    /// Both sides hold the same there.
    Settled {
        /// Which side changed.
        by: Settler,
    },
}

/// How a difference went away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Settler {
    /// The source changed the row, and that change brought the target's row level: whatever had made it different is
    /// overwritten, and not explained.
    Source,
    /// The source's row is what it was, and the target's is not: somebody other than this pipeline changed it, or this
    /// pipeline's `repair`.
    Target,
}

/// What became of the rows that differed, at a later position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Classes {
    /// The source has them, the target has not.
    pub missing: u64,
    /// The target has them, the source has not.
    pub extra: u64,
    /// Both have them, with other values.
    pub different: u64,
    /// Both have rows like them, not equally many.
    pub repeated: u64,
    /// They are the same on both sides there.
    pub settled: u64,
}

/// A value with its column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Named {
    /// The column's name at the target.
    pub column: String,
    /// Its value as text; `None` is NULL.
    pub value: Option<String>,
}

/// A column that is not the same on both sides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Cell {
    /// Its name at the target.
    pub column: String,
    /// Its value at the source as text; `None` is NULL.
    pub source: Option<String>,
    /// Its value at the target as text; `None` is NULL.
    pub target: Option<String>,
}

/// What differs in a table.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Differences {
    /// How many rows differ, by their keys.
    pub rows: u64,
    /// Whether there are more: so many differ that not all were looked at.
    pub or_more: bool,
    /// Whether keys are whole rows: the table has none.
    #[serde(default)]
    pub whole_rows: bool,
    /// The first of them.
    pub listed: Vec<Difference>,
    /// What became of all of them, at a later position.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub recheck: Option<Classes>,
}

impl Difference {
    /// All values beside the key, also those of the second look.
    pub fn cells_mut(&mut self) -> impl Iterator<Item = &mut Cell> {
        let later = match &mut self.recheck {
            Some(Recheck::Lasting { columns, .. }) => Some(columns.iter_mut()),
            Some(Recheck::Settled { .. }) | None => None,
        };
        self.columns.iter_mut().chain(later.into_iter().flatten())
    }
}

/// A row in words.
pub type Words = Vec<Option<String>>;

/// The values of each row as text, whole.
pub fn words(batch: &RecordBatch) -> Result<Vec<Words>> {
    let wordless = |e| Error::corrupt("a value that has no text").caused_by(e);
    let options = FormatOptions::new().with_display_error(false);
    // The formatter knows zones as offsets only.
    let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()));
    let zoned = |array: &ArrayRef| match array.data_type() {
        DataType::Timestamp(_, Some(_)) => cast(array, &utc),
        _ => Ok(Arc::clone(array)),
    };
    let arrays = batch.columns().iter().map(zoned).collect::<std::result::Result<Vec<_>, _>>().map_err(wordless)?;
    let columns = arrays.iter().map(|array| ArrayFormatter::try_new(array.as_ref(), &options));
    let columns = columns.collect::<std::result::Result<Vec<_>, _>>().map_err(wordless)?;
    let cell = |column: usize, row: usize| -> Result<Option<String>> {
        if batch.column(column).is_null(row) {
            return Ok(None);
        }
        let text = columns[column].value(row).try_to_string();
        text.or_else(|e| out_of_calendar(&arrays[column], row).ok_or(e)).map(Some).map_err(wordless)
    };
    let row = |row| (0..columns.len()).map(|column| cell(column, row)).collect();
    (0..batch.num_rows()).map(row).collect()
}

/// Dates and times that the formatter has no calendar for: it ends with the year 262142, Postgres with infinity.
fn out_of_calendar(array: &ArrayRef, row: usize) -> Option<String> {
    let told = |value: i64, last: i64, first: i64, unit: &str| match value {
        v if v == last => "infinity".to_owned(),
        v if v == first => "-infinity".to_owned(),
        v => format!("{v} {unit} since 1970"),
    };
    match array.data_type() {
        DataType::Date32 => {
            let days = array.as_primitive::<Date32Type>().value(row);
            Some(told(days.into(), i32::MAX.into(), i32::MIN.into(), "days"))
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            let micros = array.as_primitive::<TimestampMicrosecondType>().value(row);
            Some(told(micros, i64::MAX, i64::MIN, "microseconds"))
        }
        _ => None,
    }
}

/// What differs between the rows of one key.
pub fn difference(table: &TableSchema, source: &[Words], target: &[Words]) -> Option<Difference> {
    let any = source.first().or(target.first())?;
    let named = |i: usize| named(table, i, any);
    let key = match table.key.is_empty() {
        true => (0..table.columns.len()).map(named).collect(),
        false => table.key.iter().map(|&i| named(i)).collect(),
    };
    let (kind, columns) = match (source, target) {
        (_, []) => (Kind::Missing, Vec::new()),
        ([], _) => (Kind::Extra, Vec::new()),
        ([ours], [theirs]) => (Kind::Different, cells(table, ours, theirs)),
        _ => (Kind::Repeated, Vec::new()),
    };
    let (source_rows, target_rows) = (source.len() as u64, target.len() as u64);
    Some(Difference { kind, key, columns, source_rows, target_rows, recheck: None })
}

/// A value of a row with its column.
pub fn named(table: &TableSchema, column: usize, row: &Words) -> Named {
    Named { column: table.columns[column].name.clone(), value: row[column].as_deref().map(cut) }
}

/// A column of both sides' rows; of a side that has none, no value.
pub fn cell(table: &TableSchema, column: usize, ours: Option<&Words>, theirs: Option<&Words>) -> Cell {
    let value = |row: Option<&Words>| row.and_then(|row| row[column].as_deref().map(cut));
    Cell { column: table.columns[column].name.clone(), source: value(ours), target: value(theirs) }
}

fn cells(table: &TableSchema, ours: &Words, theirs: &Words) -> Vec<Cell> {
    let pairs = ours.iter().zip(theirs).enumerate().filter(|(_, (a, b))| a != b);
    let show = |text: &Option<String>| text.as_deref().map(cut);
    pairs.map(|(i, (a, b))| Cell { column: table.columns[i].name.clone(), source: show(a), target: show(b) }).collect()
}

/// The beginning of a long text.
fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}… ({} characters)", &text[..end], text.chars().count()),
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::{Date32Array, TimestampMicrosecondArray};

    use super::*;

    #[test]
    fn values_beyond_every_calendar_have_words() {
        let times = [i64::MAX, i64::MIN, 9_200_000_000_000_000_000, 0];
        let days: ArrayRef = Arc::new(Date32Array::from(vec![i32::MAX, i32::MIN, 100_000_000, 0]));
        let plain: ArrayRef = Arc::new(TimestampMicrosecondArray::from(times.to_vec()));
        let zoned: ArrayRef = Arc::new(TimestampMicrosecondArray::from(times.to_vec()).with_timezone("UTC"));
        let batch = RecordBatch::try_from_iter([("d", days), ("t", plain), ("z", zoned)]).unwrap();
        let all = words(&batch).unwrap();
        assert!(all[0].iter().all(|w| w.as_deref() == Some("infinity")), "{all:?}");
        assert!(all[1].iter().all(|w| w.as_deref() == Some("-infinity")), "{all:?}");
        let of = |column: usize| all[2][column].as_deref();
        assert_eq!(
            (of(0), of(1)),
            (Some("100000000 days since 1970"), Some("9200000000000000000 microseconds since 1970"))
        );
        assert_eq!(all[3][0].as_deref(), Some("1970-01-01"));
    }

    #[test]
    fn a_long_value_is_cut_and_says_so() {
        let long = "ü".repeat(SHOWN + 1);
        assert_eq!(cut(&long), format!("{}… (501 characters)", "ü".repeat(SHOWN)));
        assert_eq!(cut("short"), "short");
    }
}
