//! A look at rows before they are written: what files cannot hold, and what their readers will make something else of.
//!
//! A file holds every value exactly. Readers do not: infinite dates and times are the type's least and greatest number in a file,
//! and dates before the year 1 or after 9999 are beyond what Python, Athena and most clients show. Such values are warned of.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Date32Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, RecordBatch};
use crossfade_core::{Column, KeyPart, Level, Logical, Result, Surveyor, TableSchema, Trouble};

use crate::types::encode;

/// Microseconds of a day.
const DAY: i64 = 86_400_000_000;
/// 0001-01-01 and 10000-01-01, in days since 1970.
const YEARS: std::ops::Range<i64> = -719_162..2_932_897;

const MEND: &str = "read the column by its number where such values matter; or correct them at the source";

/// Looks at one table's rows.
pub(crate) struct ParquetSurveyor {
    table: Arc<TableSchema>,
}

impl ParquetSurveyor {
    pub(crate) fn new(table: &Arc<TableSchema>) -> Self {
        ParquetSurveyor { table: Arc::clone(table) }
    }

    /// The rows' keys, where they are of types that are told easily.
    fn keys(&self, rows: &RecordBatch) -> Option<Vec<Vec<KeyPart>>> {
        let key = rows.project(&self.table.key).ok()?;
        KeyPart::of_keys(&self.table, &key)
    }

    fn warn(&self, column: &Column, what: &str, at: &[usize], rows: &RecordBatch, trouble: &mut dyn FnMut(Trouble)) {
        let keys = self.keys(rows);
        for row in at {
            let shown = keys.as_ref().and_then(|k| k.get(*row)).map(|key| {
                let named = self.table.key_columns().zip(key);
                named.map(|(c, part)| format!("{}={}", c.name, shown(part))).collect::<Vec<_>>().join(", ")
            });
            trouble(Trouble {
                level: Level::Warning,
                column: Some(column.name.clone()),
                what: what.to_owned(),
                rows: 1,
                keys: shown.into_iter().collect(),
                mend: MEND.to_owned(),
            });
        }
    }
}

fn shown(part: &KeyPart) -> String {
    match part {
        KeyPart::Int(i) => i.to_string(),
        KeyPart::Text(text) => text.chars().take(60).collect(),
        KeyPart::Bytes(bytes) => bytes.iter().take(30).map(|b| format!("{b:02x}")).collect(),
    }
}

/// The days of a column of dates or times, with an infinity told apart; none for any other column.
fn days(column: &Column, array: &ArrayRef) -> Option<Vec<Option<Result<i64, &'static str>>>> {
    const INFINITE: &str = "an infinite date or time, which files hold as the type's greatest or least number";
    let rows = 0..array.len();
    match column.logical {
        Logical::Date => {
            let values = array.as_primitive_opt::<Date32Type>()?;
            let day = |row| match values.value(row) {
                i32::MIN | i32::MAX => Err(INFINITE),
                day => Ok(i64::from(day)),
            };
            Some(rows.map(|row| values.is_valid(row).then(|| day(row))).collect())
        }
        Logical::Timestamp | Logical::TimestampTz => {
            let values = array.as_primitive_opt::<TimestampMicrosecondType>()?;
            let day = |row| match values.value(row) {
                i64::MIN | i64::MAX => Err(INFINITE),
                micros => Ok(micros.div_euclid(DAY)),
            };
            Some(rows.map(|row| values.is_valid(row).then(|| day(row))).collect())
        }
        _ => None,
    }
}

impl Surveyor for ParquetSurveyor {
    fn look(&mut self, rows: &RecordBatch, trouble: &mut dyn FnMut(Trouble)) -> Result<()> {
        for (column, array) in self.table.columns.iter().zip(rows.columns()) {
            if let Err(e) = encode(&self.table, column, array) {
                trouble(Trouble::of(e)?);
            }
            let Some(days) = days(column, array) else { continue };
            let pick = |wanted: &dyn Fn(&Result<i64, &'static str>) -> bool| -> Vec<usize> {
                let rows = days.iter().enumerate();
                rows.filter(|(_, d)| d.as_ref().is_some_and(wanted)).map(|(row, _)| row).collect()
            };
            let infinite = days.iter().flatten().find_map(|d| d.err());
            if let Some(what) = infinite {
                self.warn(column, what, &pick(&|d| d.is_err()), rows, trouble);
            }
            let far = pick(&|d| d.is_ok_and(|day| !YEARS.contains(&day)));
            let what = "a date before the year 1 or after 9999, which most readers of Parquet cannot show";
            self.warn(column, what, &far, rows, trouble);
        }
        Ok(())
    }

    fn end(&mut self, _trouble: &mut dyn FnMut(Trouble)) -> Result<()> {
        Ok(())
    }
}
