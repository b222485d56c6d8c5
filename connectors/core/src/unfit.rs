//! Values that no target holds, on their way: stand-ins, and what becomes of them at the end.
//!
//! A decoder meets a value that its column's Arrow type has no equal for, and a policy lets it pass. What it appends then is a
//! *stand-in*: a value of the Arrow type that holds the original whole, and that no value of a database can be mistaken for:
//!
//! ```text
//! date, timestamp   numbers just above the least one, millions of years before any database's first day
//! decimal           the greatest number of the Arrow type, of more digits than a decimal may have
//! text, enum        U+10FFFF and a number that this process has drawn, then the original
//! ```
//!
//! So nothing on the way needs to know: fold, copy, gate and repair treat it as a value, equal to itself alone. [`settle`] ends the
//! way, at a target's writer or in a proof: it puts in its place what the policy says, and tells what it was. A stand-in is never
//! written, and never stored.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, LazyLock};

use arrow_array::builder::StringBuilder;
use arrow_array::cast::AsArray;
use arrow_array::types::{ArrowPrimitiveType, Date32Type, Decimal128Type, Decimal256Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, PrimitiveArray, RecordBatch, StringArray};
use arrow_buffer::{BooleanBufferBuilder, NullBuffer, i256};

use crate::builder::{ColumnBuilder, push_str};
use crate::error::{Error, Result};
use crate::policy::Policy;
use crate::schema::{Column, Logical, TableSchema};

/// A value without an equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unfit {
    /// A date that no calendar has, with a time of day where its column has one.
    ZeroDate(Moment),
    /// A time after the year 294246, in microseconds since 2000.
    Late(i64),
    /// Text that is not of its encoding.
    Text {
        /// Its bytes, as the source has them.
        original: Vec<u8>,
        /// The text with U+FFFD in the place of what is none.
        replaced: String,
    },
    /// The error value of an enum.
    Enum,
    /// Not a number.
    Nan,
}

/// A day by its numbers, whether there is such a day or not, and a time of day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// 0 to 9999.
    pub year: i32,
    /// 0 to 12.
    pub month: u8,
    /// 0 to 31.
    pub day: u8,
    /// Since midnight.
    pub micros: i64,
}

const DAY: i64 = 86_400_000_000;
/// As many numbers as [`Moment::number`] tells days apart, years up to 9999.
const DAYS: i64 = 10_000 * 16 * 32;
/// Stand-ins of timestamps: so many from the least number but one are zero dates, and behind them come late times.
const MOMENTS: i64 = DAYS * DAY;
/// From 1970 to 2000: as many times are too late to be counted from 1970, but not from 2000.
const LATE: i64 = 10_957 * DAY;

impl Moment {
    fn number(self) -> Option<i64> {
        let Moment { year, month, day, micros } = self;
        let fits = (0..10_000).contains(&year) && month < 16 && day < 32 && (0..DAY).contains(&micros);
        fits.then(|| (i64::from(year) * 16 + i64::from(month)) * 32 + i64::from(day))
    }

    fn of(number: i64, micros: i64) -> Moment {
        let (month, day) = (number / 32 % 16, number % 32);
        Moment { year: (number / 512) as i32, month: month as u8, day: day as u8, micros }
    }

    /// The day so many microseconds after 2000 (Howard Hinnant's `civil_from_days`, public domain algorithm).
    fn since_2000(micros: i64) -> Moment {
        let days = micros.div_euclid(DAY) + 10_957 + 719_468;
        let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year + year / 4 - year / 100);
        let month = (5 * of_year + 2) / 153;
        let day = of_year - (153 * month + 2) / 5 + 1;
        let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
        let year = (year + era * 400 + next) as i32;
        Moment { year, month: month as u8, day: day as u8, micros: micros.rem_euclid(DAY) }
    }

    /// As the source writes it, so that it can be written back.
    fn text(self, logical: &Logical) -> String {
        let date = format!("{:04}-{:02}-{:02}", self.year, self.month, self.day);
        let (seconds, micros) = (self.micros / 1_000_000, self.micros % 1_000_000);
        let clock = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
        match (logical, micros) {
            (Logical::Date, _) => date,
            (_, 0) => format!("{date} {clock}"),
            (_, micros) => format!("{date} {clock}.{micros:06}"),
        }
    }
}

/// What no value from outside begins with: nobody can know the number.
static MARK: LazyLock<String> = LazyLock::new(|| {
    let drawn = RandomState::new();
    let number = |n: u8| {
        let mut hasher = drawn.build_hasher();
        hasher.write_u8(n);
        hasher.finish()
    };
    format!("\u{10ffff}{:016x}{:016x}:", number(0), number(1))
});
/// Its first byte, by which batches without stand-ins are known at once.
const MARK_BYTE: u8 = 0xf4;

impl Unfit {
    /// The policy that lets it pass.
    pub fn policy(&self) -> Policy {
        match self {
            Unfit::ZeroDate(_) => Policy::ZeroDate,
            Unfit::Late(_) => Policy::OutOfRange,
            Unfit::Text { .. } => Policy::InvalidText,
            Unfit::Enum => Policy::InvalidEnum,
            Unfit::Nan => Policy::Nan,
        }
    }

    /// Appends its stand-in, if the column has the policy; false: nothing was appended, and the value is refused.
    pub fn pass(&self, column: &Column, builder: &mut ColumnBuilder) -> Result<bool> {
        if !column.policies.has(self.policy()) {
            return Ok(false);
        }
        match (self, builder) {
            (Unfit::ZeroDate(moment), ColumnBuilder::Date(b)) => match moment.number() {
                Some(number) => b.append_value(i32::MIN + 1 + number as i32),
                None => return Ok(false),
            },
            (Unfit::ZeroDate(moment), ColumnBuilder::Timestamp(b)) => match moment.number() {
                Some(number) => b.append_value(i64::MIN + 1 + number * DAY + moment.micros),
                None => return Ok(false),
            },
            // The last of them is infinity, here as there.
            (Unfit::Late(micros), ColumnBuilder::Timestamp(b)) if *micros >= i64::MAX - LATE && *micros < i64::MAX => {
                b.append_value(i64::MIN + 1 + MOMENTS + (micros - (i64::MAX - LATE)));
            }
            (Unfit::Text { original, replaced }, ColumnBuilder::Utf8(b)) => {
                let hex: String = original.iter().map(|b| format!("{b:02x}")).collect();
                push_str(b, &format!("{}{hex}:{replaced}", *MARK))?;
            }
            (Unfit::Enum, ColumnBuilder::Utf8(b)) => push_str(b, &MARK)?,
            (Unfit::Nan, ColumnBuilder::Decimal128(b)) => b.append_value(i128::MAX),
            (Unfit::Nan, ColumnBuilder::Decimal256(b)) => b.append_value(i256::MAX),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// A value that was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// Its row in the batch.
    pub row: usize,
    /// Its column's ordinal.
    pub column: usize,
    /// Why.
    pub policy: Policy,
    /// What it was.
    pub original: Original,
}

/// A value as it was at the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Original {
    /// As the source writes it.
    Text(String),
    /// Bytes that are no text.
    Bytes(Vec<u8>),
}

impl Original {
    /// As text without U+0000, which not every database holds.
    pub fn text(&self) -> Option<&str> {
        match self {
            Original::Text(text) if !text.contains('\0') => Some(text),
            Original::Text(_) | Original::Bytes(_) => None,
        }
    }

    /// As bytes, where it is no such text.
    pub fn bytes(&self) -> Option<&[u8]> {
        match self {
            Original::Text(text) => text.contains('\0').then_some(text.as_bytes()),
            Original::Bytes(bytes) => Some(bytes),
        }
    }
}

/// Ends the way of stand-ins: the batch as its target holds it, and what was changed in it, row by row within each column. `None`:
/// no column of the table has a policy. `batch` has the table's shape, as it arrives.
pub fn settle(table: &TableSchema, batch: &RecordBatch) -> Result<Option<(RecordBatch, Vec<Changed>)>> {
    if table.columns.iter().all(|c| c.policies.is_empty()) {
        return Ok(None);
    }
    let mut changed = Vec::new();
    let mut arrays = batch.columns().to_vec();
    for (i, (column, array)) in table.columns.iter().zip(&mut arrays).enumerate() {
        if !column.policies.is_empty() && *array.data_type() == column.logical.arrow() {
            let mut note = |row, policy, original| changed.push(Changed { row, column: i, policy, original });
            if let Some(settled) = settle_column(column, array, &mut note)? {
                *array = settled;
            }
        }
    }
    if changed.is_empty() {
        return Ok(Some((batch.clone(), changed)));
    }
    let settled = RecordBatch::try_new(batch.schema(), arrays)
        .map_err(|e| Error::corrupt(format!("table {}: values changed by a policy", table.name)).caused_by(e))?;
    Ok(Some((settled, changed)))
}

type Note<'a> = &'a mut dyn FnMut(usize, Policy, Original);

/// A column without stand-ins; `None`: it has none.
fn settle_column(column: &Column, array: &ArrayRef, note: Note<'_>) -> Result<Option<ArrayRef>> {
    let logical = &column.logical;
    let moment = |m: Moment, policy| Some((policy, m.text(logical)));
    Ok(match logical {
        Logical::Date => nulled::<Date32Type>(array, note, |days| {
            let number = i64::from(days) - i64::from(i32::MIN) - 1;
            let zero = (0..DAYS).contains(&number);
            if zero { moment(Moment::of(number, 0), Policy::ZeroDate) } else { None }
        }),
        Logical::Timestamp | Logical::TimestampTz => nulled::<TimestampMicrosecondType>(array, note, |micros| {
            // Wraps for infinity, which is the least number, to a negative one.
            let number = micros.wrapping_sub(i64::MIN + 1);
            match number {
                0..MOMENTS => moment(Moment::of(number / DAY, number % DAY), Policy::ZeroDate),
                MOMENTS.. if number < MOMENTS + LATE => {
                    let late = Moment::since_2000(number - MOMENTS + (i64::MAX - LATE)).text(logical);
                    let zone = if *logical == Logical::TimestampTz { "+00" } else { "" };
                    Some((Policy::OutOfRange, late + zone))
                }
                _ => None,
            }
        }),
        Logical::Decimal { precision, .. } if *precision <= 38 => {
            nulled::<Decimal128Type>(array, note, |v| nan(v == i128::MAX))
        }
        Logical::Decimal { .. } => nulled::<Decimal256Type>(array, note, |v| nan(v == i256::MAX)),
        Logical::Text | Logical::Json | Logical::Literal | Logical::Enum { .. } => {
            text(column, array.as_string(), note)?.map(|a| Arc::new(a) as ArrayRef)
        }
        Logical::Bool
        | Logical::Int8
        | Logical::Int16
        | Logical::Int32
        | Logical::Int64
        | Logical::UInt8
        | Logical::UInt16
        | Logical::UInt32
        | Logical::UInt64
        | Logical::Float32
        | Logical::Float64
        | Logical::Numeric
        | Logical::Set { .. }
        | Logical::Bytes
        | Logical::Bit { .. }
        | Logical::Uuid
        | Logical::Time
        | Logical::Duration
        | Logical::Postgres { .. }
        | Logical::Omitted => None,
    })
}

fn nan(is: bool) -> Option<(Policy, String)> {
    is.then(|| (Policy::Nan, "NaN".to_owned()))
}

/// NULL in the place of every value that `unfit` knows.
fn nulled<T: ArrowPrimitiveType>(
    array: &ArrayRef,
    note: Note<'_>,
    unfit: impl Fn(T::Native) -> Option<(Policy, String)>,
) -> Option<ArrayRef> {
    let array: &PrimitiveArray<T> = array.as_primitive();
    let mut nulls: Option<BooleanBufferBuilder> = None;
    for row in (0..array.len()).filter(|&row| array.is_valid(row)) {
        let Some((policy, original)) = unfit(array.value(row)) else { continue };
        let valid = nulls.get_or_insert_with(|| {
            let mut all = BooleanBufferBuilder::new(array.len());
            (0..array.len()).for_each(|row| all.append(array.is_valid(row)));
            all
        });
        valid.set_bit(row, false);
        note(row, policy, Original::Text(original));
    }
    let nulls = NullBuffer::new(nulls?.finish());
    let settled =
        PrimitiveArray::<T>::new(array.values().clone(), Some(nulls)).with_data_type(array.data_type().clone());
    Some(Arc::new(settled))
}

/// Text as the policies leave it.
fn text(column: &Column, array: &StringArray, note: Note<'_>) -> Result<Option<StringArray>> {
    let suspects = |byte: u8| array.value_data().contains(&byte);
    let nul = column.policies.has(Policy::NulByte) && suspects(0);
    let marked =
        (column.policies.has(Policy::InvalidText) || column.policies.has(Policy::InvalidEnum)) && suspects(MARK_BYTE);
    if !nul && !marked {
        return Ok(None);
    }
    let mut out = StringBuilder::with_capacity(array.len(), array.value_data().len());
    for (row, value) in array.iter().enumerate() {
        let Some(value) = value else {
            out.append_null();
            continue;
        };
        let value = match value.strip_prefix(MARK.as_str()).filter(|_| marked) {
            Some("") => {
                out.append_null();
                note(row, Policy::InvalidEnum, Original::Text(String::new()));
                continue;
            }
            Some(text) => {
                let broken = || Error::corrupt(format!("column {}: a broken stand-in", column.name));
                let (hex, replaced) = text.split_once(':').ok_or_else(broken)?;
                note(row, Policy::InvalidText, Original::Bytes(bytes(hex).ok_or_else(broken)?));
                replaced
            }
            None if nul && value.contains('\0') => {
                note(row, Policy::NulByte, Original::Text(value.to_owned()));
                value
            }
            None => value,
        };
        match nul && value.contains('\0') {
            true => push_str(&mut out, &value.replace('\0', ""))?,
            false => push_str(&mut out, value)?,
        }
    }
    Ok(Some(out.finish()))
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let (pairs, []) = hex.as_bytes().as_chunks::<2>() else { return None };
    let digit = |b: u8| char::from(b).to_digit(16).map(|d| d as u8);
    pairs.iter().map(|[a, b]| Some(digit(*a)? << 4 | digit(*b)?)).collect()
}

#[cfg(test)]
mod tests;
