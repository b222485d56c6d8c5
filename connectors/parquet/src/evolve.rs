//! Rows of an older shape as rows of the newest: which column of a file holds a column's values, or what stands for them.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::{ArrayRef, RecordBatch, UInt32Array, new_null_array};
use arrow_buffer::i256;
use crossfade_core::batch::SchemaStep;
use crossfade_core::{Column, ColumnBuilder, Error, Logical, Result, SchemaChange, TableName, TableSchema};

use crate::decode::{decode, unscaled};
use crate::record::{Shape, State, Step};

/// Refuses a change after which the rows of older files could not be read as rows of the new shape.
pub(crate) fn refuse(change: &SchemaChange) -> Result<()> {
    let mut names: HashMap<&str, &str> =
        change.from.columns.iter().map(|c| (c.name.as_str(), c.name.as_str())).collect();
    for step in &change.steps {
        match step {
            SchemaStep::Add { .. } => {}
            SchemaStep::Drop { column } => {
                names.remove(column.as_str());
            }
            SchemaStep::Rename { from, to } => {
                if let Some(was) = names.remove(from.as_str()) {
                    names.insert(to, was);
                }
            }
        }
    }
    for new in &change.to.columns {
        let was = names.get(new.name.as_str()).and_then(|name| change.from.columns.iter().find(|c| c.name == *name));
        let Some(old) = was else { continue };
        let none = new_null_array(&old.logical.arrow(), 0);
        let what = if widen(&none, &old.logical, &new.logical).is_none() {
            format!("its type changed from {:?}, of which older files are, to {:?}", old.logical, new.logical)
        } else if old.nullable && !new.nullable {
            // The source may have put values in the place of NULL; a database would find the NULLs, files are not asked.
            "it admits NULL no longer, and what became of NULL in the rows that were there is not in the log".to_owned()
        } else {
            continue;
        };
        return Err(Error::data(&change.to.name, what)
            .column(&new.name)
            .hint("copy the table again with `crossfade snapshot TABLE`"));
    }
    Ok(())
}

/// Where a column's values come from in the files of one shape.
#[derive(Debug, Clone)]
enum Origin {
    /// This column of the file's shape.
    File(Column),
    /// The column came later: rows of this shape have what the source filled in, as its text; `None` is NULL.
    Fill(Option<String>),
}

/// How a table's columns are had from the files of one shape.
#[derive(Debug)]
pub(crate) struct Evolution {
    table: TableName,
    /// One per wanted column.
    columns: Vec<(Column, Origin)>,
}

impl Evolution {
    /// For `wanted` columns of `table`, from files of the shape `from`.
    pub(crate) fn new(state: &State, from: &Shape, table: &TableSchema, wanted: &[usize]) -> Result<Self> {
        let origins = origins(state, from, &table.name)?;
        let columns = wanted.iter().filter_map(|&i| table.columns.get(i)).map(|column| {
            let origin = origins.get(&column.name).cloned().ok_or_else(|| {
                Error::corrupt(format!("table {}, column {}: no schema change brought it", table.name, column.name))
                    .hint("read the table in the shape it has at the checkpoint")
            })?;
            Ok((column.clone(), origin))
        });
        Ok(Evolution { table: table.name.clone(), columns: columns.collect::<Result<_>>()? })
    }

    /// The columns to read of a file, by the names they have there.
    pub(crate) fn reads(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().filter_map(|(_, origin)| match origin {
            Origin::File(column) => Some(column.name.as_str()),
            Origin::Fill(_) => None,
        })
    }

    /// The wanted columns from a batch of a file.
    pub(crate) fn apply(&self, batch: &RecordBatch) -> Result<Vec<ArrayRef>> {
        self.columns.iter().map(|(column, origin)| self.column(column, origin, batch)).collect()
    }

    fn column(&self, column: &Column, origin: &Origin, batch: &RecordBatch) -> Result<ArrayRef> {
        match origin {
            Origin::File(stored) => {
                let array = batch.column_by_name(&stored.name).ok_or_else(|| {
                    Error::corrupt(format!("table {}: a file has no column {}", self.table, stored.name))
                        .hint("a file of this table was changed by something else; restore it, or copy the table again with `crossfade snapshot TABLE`")
                })?;
                let array = decode(&self.table, stored, array)?;
                widen(&array, &stored.logical, &column.logical).ok_or_else(|| {
                    Error::data(&self.table, format!("its type changed from {:?}", stored.logical))
                        .column(&column.name)
                        .hint("copy the table again with `crossfade snapshot TABLE`: rows from before the change are of the old type")
                })
            }
            Origin::Fill(None) => Ok(new_null_array(&column.logical.arrow(), batch.num_rows())),
            Origin::Fill(Some(text)) => fill(text, &column.logical, batch.num_rows()).ok_or_else(|| {
                Error::data(&self.table, format!("the value {text} that older rows were given is not understood"))
                    .column(&column.name)
                    .hint("copy the table again with `crossfade snapshot TABLE`")
            }),
        }
    }
}

/// Per column of the table's newest shape, by name.
fn origins(state: &State, from: &Shape, table: &TableName) -> Result<HashMap<String, Origin>> {
    let gap = || Error::corrupt(format!("table {table}: its shapes do not follow from one another"));
    let mut steps: Vec<&Step> = Vec::new();
    let mut at = state.current(table).ok_or_else(gap)?;
    while at.id != from.id {
        let (before, change) = at.from.as_ref().ok_or_else(gap)?;
        steps.extend(change.iter().rev());
        at = state.shapes.get(before).ok_or_else(gap)?;
    }
    let file = |c: &Column| (c.name.clone(), Origin::File(c.clone()));
    let mut origins: HashMap<String, Origin> = from.table.columns.iter().map(file).collect();
    for step in steps.into_iter().rev() {
        match step {
            Step::Add { column, fill } => {
                origins.insert(column.clone(), Origin::Fill(fill.clone()));
            }
            Step::Drop { column } => {
                origins.remove(column);
            }
            Step::Rename { from, to } => {
                let origin = origins.remove(from).ok_or_else(gap)?;
                origins.insert(to.clone(), origin);
            }
        }
    }
    Ok(origins)
}

/// Values of one type as another that holds all of them, exactly. `None` for any other pair.
fn widen(array: &ArrayRef, from: &Logical, to: &Logical) -> Option<ArrayRef> {
    if from.arrow() == to.arrow() {
        return Some(Arc::clone(array));
    }
    macro_rules! cast {
        ($from:ty, $to:ty) => {
            Some(Arc::new(array.as_primitive::<$from>().unary::<_, $to>(<$to as ArrowPrimitiveType>::Native::from))
                as ArrayRef)
        };
    }
    match (from, to) {
        (Logical::Int8, Logical::Int16) => cast!(Int8Type, Int16Type),
        (Logical::Int8, Logical::Int32) => cast!(Int8Type, Int32Type),
        (Logical::Int8, Logical::Int64) => cast!(Int8Type, Int64Type),
        (Logical::Int16, Logical::Int32) => cast!(Int16Type, Int32Type),
        (Logical::Int16, Logical::Int64) => cast!(Int16Type, Int64Type),
        (Logical::Int32, Logical::Int64) => cast!(Int32Type, Int64Type),
        (Logical::UInt8, Logical::UInt16) => cast!(UInt8Type, UInt16Type),
        (Logical::UInt8, Logical::UInt32) => cast!(UInt8Type, UInt32Type),
        (Logical::UInt8, Logical::UInt64) => cast!(UInt8Type, UInt64Type),
        (Logical::UInt16, Logical::UInt32) => cast!(UInt16Type, UInt32Type),
        (Logical::UInt16, Logical::UInt64) => cast!(UInt16Type, UInt64Type),
        (Logical::UInt32, Logical::UInt64) => cast!(UInt32Type, UInt64Type),
        (Logical::UInt8, Logical::Int16) => cast!(UInt8Type, Int16Type),
        (Logical::UInt8, Logical::Int32) => cast!(UInt8Type, Int32Type),
        (Logical::UInt8, Logical::Int64) => cast!(UInt8Type, Int64Type),
        (Logical::UInt16, Logical::Int32) => cast!(UInt16Type, Int32Type),
        (Logical::UInt16, Logical::Int64) => cast!(UInt16Type, Int64Type),
        (Logical::UInt32, Logical::Int64) => cast!(UInt32Type, Int64Type),
        (Logical::Float32, Logical::Float64) => cast!(Float32Type, Float64Type),
        (Logical::Decimal { precision: p, scale: s }, Logical::Decimal { precision, scale })
            if s <= scale && precision - scale >= p - s =>
        {
            decimals(array, *p, scale - s, *precision, to)
        }
        _ => None,
    }
}

/// Decimals of `digits` digits as such of `precision`, with so many zeros more behind.
fn decimals(array: &ArrayRef, digits: u8, zeros: u8, precision: u8, to: &Logical) -> Option<ArrayRef> {
    let ten = |n: u8| (0..n).fold(i256::ONE, |power, _| power.wrapping_mul(i256::from_i128(10)));
    let factor = ten(zeros);
    Some(match (digits <= 38, precision <= 38) {
        (true, true) => {
            let factor = factor.to_i128()?;
            let all = array
                .as_primitive::<Decimal128Type>()
                .try_unary::<_, Decimal128Type, _>(|v| v.checked_mul(factor).ok_or(()));
            Arc::new(all.ok()?.with_data_type(to.arrow()))
        }
        (true, false) => {
            let wide = |v: i128| i256::from_i128(v).checked_mul(factor).ok_or(());
            let all = array.as_primitive::<Decimal128Type>().try_unary::<_, Decimal256Type, _>(wide);
            Arc::new(all.ok()?.with_data_type(to.arrow()))
        }
        (false, _) => {
            let all = array
                .as_primitive::<Decimal256Type>()
                .try_unary::<_, Decimal256Type, _>(|v| v.checked_mul(factor).ok_or(()));
            Arc::new(all.ok()?.with_data_type(to.arrow()))
        }
    })
}

/// A value's text, so many times over. `None` where the text of that type is not understood.
fn fill(text: &str, logical: &Logical, rows: usize) -> Option<ArrayRef> {
    let mut builder = ColumnBuilder::new(logical);
    match &mut builder {
        ColumnBuilder::Bool(b) => b.append_value(match text.to_ascii_lowercase().as_str() {
            "1" | "t" | "true" => true,
            "0" | "f" | "false" => false,
            _ => return None,
        }),
        ColumnBuilder::Int8(b) => b.append_value(text.parse().ok()?),
        ColumnBuilder::Int16(b) => b.append_value(text.parse().ok()?),
        ColumnBuilder::Int32(b) => b.append_value(text.parse().ok()?),
        ColumnBuilder::Int64(b) => b.append_value(text.parse().ok()?),
        ColumnBuilder::UInt8(b) => b.append_value(text.parse().ok()?),
        ColumnBuilder::UInt16(b) => b.append_value(text.parse().ok()?),
        ColumnBuilder::UInt32(b) => b.append_value(text.parse().ok()?),
        ColumnBuilder::UInt64(b) => b.append_value(text.parse().ok()?),
        ColumnBuilder::Float32(b) => b.append_value(text.parse().ok()?),
        ColumnBuilder::Float64(b) => b.append_value(text.parse().ok()?),
        ColumnBuilder::Decimal128(b) => b.append_value(decimal(text, logical)?.to_i128()?),
        ColumnBuilder::Decimal256(b) => b.append_value(decimal(text, logical)?),
        ColumnBuilder::Utf8(b) => b.append_value(text),
        ColumnBuilder::Binary(_)
        | ColumnBuilder::Uuid(_)
        | ColumnBuilder::Date(_)
        | ColumnBuilder::Time(_)
        | ColumnBuilder::Duration(_)
        | ColumnBuilder::Timestamp(_)
        | ColumnBuilder::Omitted(_) => return None,
    }
    let one = builder.finish();
    arrow_select::take::take(&one, &UInt32Array::from(vec![0; rows]), None).ok()
}

/// `1.5` at scale 2 as 150. A fraction longer than the scale is not cut: `None`.
fn decimal(text: &str, logical: &Logical) -> Option<i256> {
    let Logical::Decimal { scale, .. } = logical else { return None };
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let missing = usize::from(*scale).checked_sub(fraction.len())?;
    match scale {
        0 => unscaled(whole, 0),
        _ => unscaled(&format!("{whole}.{fraction}{}", "0".repeat(missing)), *scale),
    }
}
