//! `COPY ... TO STDOUT (FORMAT binary)` to Arrow, by hand: no value is boxed, no row allocated.
//!
//! Format: a header, rows (field count, then per field its length, -1 for NULL, and its bytes), a trailer of -1
//! (documentation of COPY, "Binary Format"; values as the server's `*send` functions write them). Statements cast each
//! column to [`crate::types::PgType`]'s type, so the [`Logical`] type alone tells how to read a field.
//!
//! The server sends a row per message, but the protocol does not promise it: what ends in the middle of a row is kept.

use arrow_array::RecordBatch;
use crossfade_core::builder::{finish_columns, push_bytes, push_str};
use crossfade_core::policy::way_out;
use crossfade_core::{Column, ColumnBuilder, Error, Logical, Result, TableSchema, Unfit};

use crate::decimal::Numeric;
use crate::keytext::key_text;

const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";
/// From 1970-01-01 to 2000-01-01, where Postgres' dates begin.
const EPOCH_DAYS: i32 = 10_957;
const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// Rows and bytes after which a batch is handed on.
const BATCH_ROWS: usize = 8192;
const BATCH_BYTES: usize = 4 << 20;

/// Powers of ten, as far as 128 bits hold them: a decimal(p) is below the one of p.
const POW10: [u128; 39] = {
    let mut powers = [1; 39];
    let mut i = 1;
    while i < powers.len() {
        powers[i] = powers[i - 1] * 10;
        i += 1;
    }
    powers
};

/// Where in the stream we are.
#[derive(Debug, PartialEq, Eq)]
enum State {
    Header,
    Rows,
    Ended,
}

/// Decodes the rows of one table.
pub struct Decoder<'a> {
    table: &'a TableSchema,
    columns: Vec<ColumnBuilder>,
    state: State,
    /// The beginning of what the next piece continues.
    pending: Vec<u8>,
    /// Of the current row: where each field lies.
    fields: Vec<Option<(usize, usize)>>,
    rows: usize,
    bytes: usize,
}

impl<'a> Decoder<'a> {
    /// For rows with the table's columns, in order.
    pub fn new(table: &'a TableSchema) -> Self {
        Decoder {
            table,
            columns: table.columns.iter().map(|c| ColumnBuilder::new(&c.logical)).collect(),
            state: State::Header,
            pending: Vec::new(),
            fields: Vec::with_capacity(table.columns.len()),
            rows: 0,
            bytes: 0,
        }
    }

    /// Takes the next piece of the stream.
    pub fn feed(&mut self, piece: &[u8]) -> Result<()> {
        if self.pending.is_empty() {
            let used = self.consume(piece)?;
            self.pending.extend_from_slice(&piece[used..]);
        } else {
            let mut held = std::mem::take(&mut self.pending);
            held.extend_from_slice(piece);
            let used = self.consume(&held)?;
            held.drain(..used);
            self.pending = held;
        }
        Ok(())
    }

    /// Whether enough has come for a batch.
    pub fn is_full(&self) -> bool {
        self.rows >= BATCH_ROWS || self.bytes >= BATCH_BYTES
    }

    /// The rows so far; `None` if there are none.
    pub fn take(&mut self) -> Result<Option<RecordBatch>> {
        if self.rows == 0 {
            return Ok(None);
        }
        // The next batch will be much like this one.
        let (rows, bytes) = (self.rows, self.columns.iter().map(ColumnBuilder::bytes));
        let room = |(column, bytes): (&Column, usize)| ColumnBuilder::with_capacity(&column.logical, rows, bytes);
        let next = self.table.columns.iter().zip(bytes).map(room).collect();
        let mut full = std::mem::replace(&mut self.columns, next);
        self.rows = 0;
        self.bytes = 0;
        finish_columns(self.table, &mut full).map(Some)
    }

    /// Demands that the stream ended as it should: a cut stream must not pass for a short table.
    pub fn end(&self) -> Result<()> {
        match (&self.state, self.pending.is_empty()) {
            (State::Ended, true) => Ok(()),
            _ => Err(self.corrupt("the stream ended before its trailer")),
        }
    }

    fn corrupt(&self, what: &str) -> Error {
        Error::corrupt(format!("COPY of table {}: {what}", self.table.name))
    }

    /// Reads all that is complete; returns how many bytes that was.
    fn consume(&mut self, data: &[u8]) -> Result<usize> {
        let mut at = 0;
        loop {
            let rest = &data[at..];
            let used = match self.state {
                State::Header => self.header(rest)?,
                State::Rows => self.row(rest)?,
                State::Ended if rest.is_empty() => return Ok(at),
                State::Ended => return Err(self.corrupt("something follows the trailer")),
            };
            match used {
                Some(used) => at += used,
                None => return Ok(at),
            }
        }
    }

    /// Its length, if it is all there.
    fn header(&mut self, data: &[u8]) -> Result<Option<usize>> {
        let Some((head, _)) = data.split_first_chunk::<19>() else { return Ok(None) };
        let [flags, extension] = [11, 15].map(|i| i32::from_be_bytes([head[i], head[i + 1], head[i + 2], head[i + 3]]));
        // Bits 16 to 31 mark what a reader must understand.
        if &head[..11] != SIGNATURE || (flags as u32) >> 16 != 0 || extension < 0 {
            return Err(self.corrupt("this is not its binary format"));
        }
        let length = 19 + extension as usize;
        if data.len() < length {
            return Ok(None);
        }
        self.state = State::Rows;
        Ok(Some(length))
    }

    /// The length of the first row, if it is all there; its values are appended.
    fn row(&mut self, data: &[u8]) -> Result<Option<usize>> {
        let Some((count, _)) = data.split_first_chunk::<2>() else { return Ok(None) };
        let count = i16::from_be_bytes(*count);
        if count == -1 {
            self.state = State::Ended;
            return Ok(Some(2));
        }
        if usize::try_from(count).ok() != Some(self.columns.len()) {
            return Err(self.corrupt(&format!("{count} fields for {} columns", self.columns.len())));
        }
        let mut at = 2;
        self.fields.clear();
        for _ in 0..count {
            let Some((length, _)) = data[at..].split_first_chunk::<4>() else { return Ok(None) };
            at += 4;
            match i32::from_be_bytes(*length) {
                -1 => self.fields.push(None),
                length => {
                    let length = usize::try_from(length).map_err(|_| self.corrupt("a field of negative length"))?;
                    if data.len() - at < length {
                        return Ok(None);
                    }
                    self.fields.push(Some((at, at + length)));
                    at += length;
                }
            }
        }
        let columns = self.columns.iter_mut().zip(&self.table.columns).zip(&self.fields);
        for (i, ((builder, column), field)) in columns.enumerate() {
            match field {
                None => builder.append_null(),
                Some((from, to)) => {
                    let appended = append(builder, &column.logical, &data[*from..*to]);
                    if let Err(bad) = appended.or_else(|bad| bad.pass(column, builder)) {
                        return Err(self.place(bad, i, data));
                    }
                }
            }
        }
        self.rows += 1;
        self.bytes += at;
        Ok(Some(at))
    }

    /// A value's fault as an error that names table, column and row.
    fn place(&self, bad: Bad, at: usize, data: &[u8]) -> Error {
        let column = &self.table.columns[at];
        let error = match bad {
            Bad::Full(error) => return error,
            Bad::Wire => Error::data(&self.table.name, format!("the server sent no {}", column.source_type)),
            Bad::Value(what) => Error::data(&self.table.name, what).hint(CORRECT),
            Bad::Unfit(what, unfit) => refused(what, &unfit, self.table, at),
        };
        let error = error.column(&column.name);
        match self.key(data) {
            Some(key) => error.key(key),
            None => error,
        }
    }

    /// The current row's key as text, where it can be read.
    fn key(&self, data: &[u8]) -> Option<String> {
        let mut columns: Vec<ColumnBuilder> =
            self.table.columns.iter().map(|c| ColumnBuilder::new(&c.logical)).collect();
        for (i, builder) in columns.iter_mut().enumerate() {
            match (self.table.key.contains(&i), self.fields.get(i)?) {
                (true, Some((from, to))) => {
                    append(builder, &self.table.columns.get(i)?.logical, data.get(*from..*to)?).ok()?
                }
                _ => builder.append_null(),
            }
        }
        let batch = finish_columns(self.table, &mut columns).ok()?;
        (!self.table.key.is_empty()).then(|| key_text(self.table, &batch, 0))
    }
}

/// The way out for a value: the log goes on holding it, but the table may be copied anew, and joins the log behind it.
pub(crate) const CORRECT: &str = "correct the value at the source with an UPDATE statement, then copy the table anew with \
    `crossfade snapshot TABLE`, as the log still holds the value; or exclude the column (unless it is of the key) or the table";

/// Why a field cannot be appended.
pub(crate) enum Bad {
    /// The bytes are no value of the type.
    Wire,
    /// The value does not fit the logical type.
    Value(String),
    /// As that, and this is what it travels as where a policy lets it pass.
    Unfit(String, Unfit),
    /// The column holds too much.
    Full(Error),
}

impl Bad {
    /// Appends what the value travels as, if a policy of its column lets it pass; else the fault stands, and nothing is appended.
    #[cold]
    pub(crate) fn pass(self, column: &Column, builder: &mut ColumnBuilder) -> Result<(), Bad> {
        match &self {
            Bad::Unfit(_, unfit) => match unfit.pass(column, builder) {
                Ok(true) => Ok(()),
                Ok(false) => Err(self),
                Err(e) => Err(Bad::Full(e)),
            },
            Bad::Wire | Bad::Value(_) | Bad::Full(_) => Err(self),
        }
    }
}

/// The error for a value that a policy would let pass.
pub(crate) fn refused(what: String, unfit: &Unfit, table: &TableSchema, column: usize) -> Error {
    let hint = match way_out(unfit.policy(), table, column) {
        Some(policy) => format!("{CORRECT}; or {policy}"),
        None => CORRECT.to_owned(),
    };
    Error::data(&table.name, what).hint(hint)
}

/// Appends one value that is not NULL.
fn append(builder: &mut ColumnBuilder, logical: &Logical, bytes: &[u8]) -> Result<(), Bad> {
    use ColumnBuilder as B;
    fn int<const N: usize>(bytes: &[u8]) -> Result<[u8; N], Bad> {
        bytes.try_into().map_err(|_| Bad::Wire)
    }
    fn narrow<T, U: TryFrom<T>>(value: T) -> Result<U, Bad>
    where
        T: Copy + std::fmt::Display,
    {
        U::try_from(value).map_err(|_| Bad::Value(format!("{value} is out of range")))
    }
    match builder {
        B::Bool(b) => match bytes {
            [0] => b.append_value(false),
            [1] => b.append_value(true),
            _ => return Err(Bad::Wire),
        },
        B::Int8(b) => b.append_value(narrow(i16::from_be_bytes(int(bytes)?))?),
        B::Int16(b) => b.append_value(i16::from_be_bytes(int(bytes)?)),
        B::UInt8(b) => b.append_value(narrow(i16::from_be_bytes(int(bytes)?))?),
        B::Int32(b) => b.append_value(i32::from_be_bytes(int(bytes)?)),
        B::UInt16(b) => b.append_value(narrow(i32::from_be_bytes(int(bytes)?))?),
        B::Int64(b) => b.append_value(i64::from_be_bytes(int(bytes)?)),
        B::UInt32(b) => b.append_value(narrow(i64::from_be_bytes(int(bytes)?))?),
        B::UInt64(b) => {
            let numeric = Numeric::parse(bytes).ok_or(Bad::Wire)?;
            let value = numeric.to_i128(0).and_then(|v| u64::try_from(v).ok());
            b.append_value(value.ok_or_else(|| unfit(numeric, "an unsigned 64-bit number"))?);
        }
        B::Float32(b) => b.append_value(f32::from_be_bytes(int(bytes)?)),
        B::Float64(b) => b.append_value(f64::from_be_bytes(int(bytes)?)),
        B::Decimal128(_) | B::Decimal256(_) => decimal(builder, logical, bytes)?,
        B::Utf8(b) => match logical {
            Logical::Numeric => {
                push_str(b, &Numeric::parse(bytes).ok_or(Bad::Wire)?.to_text()).map_err(Bad::Full)?;
            }
            Logical::Bit { len } => push_str(b, &bits(bytes, *len)?).map_err(Bad::Full)?,
            _ => push_str(b, std::str::from_utf8(bytes).map_err(|_| Bad::Wire)?).map_err(Bad::Full)?,
        },
        B::Binary(b) => push_bytes(b, bytes).map_err(Bad::Full)?,
        // NULL is read in its place.
        B::Omitted(_) => return Err(Bad::Wire),
        B::Uuid(b) => b.append_value(int::<16>(bytes)?).map_err(|_| Bad::Wire)?,
        B::Date(b) => b.append_value(match i32::from_be_bytes(int(bytes)?) {
            infinite @ (i32::MAX | i32::MIN) => infinite,
            days => days.checked_add(EPOCH_DAYS).ok_or(Bad::Wire)?,
        }),
        B::Time(b) => b.append_value(i64::from_be_bytes(int(bytes)?)),
        B::Duration(b) => b.append_value(interval(bytes)?),
        B::Timestamp(b) => b.append_value(match i64::from_be_bytes(int(bytes)?) {
            infinite @ (i64::MAX | i64::MIN) => infinite,
            micros => micros.checked_add(EPOCH_MICROS).filter(|m| *m != i64::MAX).ok_or_else(|| late(micros))?,
        }),
    }
    Ok(())
}

/// A time, in microseconds since 2000, that those since 1970 do not reach.
pub(crate) fn late(since_2000: i64) -> Bad {
    Bad::Unfit("a time after the year 294246 is out of range".into(), Unfit::Late(since_2000))
}

fn unfit(numeric: Numeric<'_>, what: &str) -> Bad {
    let text = numeric.to_text();
    let what = format!("{text} is not {what}");
    if text == "NaN" { Bad::Unfit(what, Unfit::Nan) } else { Bad::Value(what) }
}

fn decimal(builder: &mut ColumnBuilder, logical: &Logical, bytes: &[u8]) -> Result<(), Bad> {
    let Logical::Decimal { precision, scale } = logical else { return Err(Bad::Wire) };
    let numeric = Numeric::parse(bytes).ok_or(Bad::Wire)?;
    let bad = || unfit(numeric, &format!("a decimal({precision},{scale})"));
    match builder {
        ColumnBuilder::Decimal128(b) => {
            let limit = POW10.get(usize::from(*precision));
            let fits = |v: &i128| limit.is_none_or(|limit| v.unsigned_abs() < *limit);
            b.append_value(numeric.to_i128(*scale).filter(fits).ok_or_else(bad)?);
        }
        ColumnBuilder::Decimal256(b) => {
            let limit = arrow_buffer::i256::from_i128(10).checked_pow(u32::from(*precision)).ok_or(Bad::Wire)?;
            let fits = |v: &arrow_buffer::i256| *v < limit && v.wrapping_neg() < limit;
            b.append_value(numeric.to_i256(*scale).filter(fits).ok_or_else(bad)?);
        }
        _ => return Err(Bad::Wire),
    }
    Ok(())
}

/// `bit` and `varbit`: the number of bits, then bytes, the first bit highest.
fn bits(bytes: &[u8], len: u32) -> Result<String, Bad> {
    let (count, data) = bytes.split_first_chunk::<4>().ok_or(Bad::Wire)?;
    let count = u32::try_from(i32::from_be_bytes(*count)).map_err(|_| Bad::Wire)?;
    if count != len {
        return Err(Bad::Value(format!("{count} bits are not {len}")));
    }
    if data.len() != (len as usize).div_ceil(8) {
        return Err(Bad::Wire);
    }
    let bit = |i: usize| data.get(i / 8).is_some_and(|byte| byte & (0x80 >> (i % 8)) != 0);
    Ok((0..len as usize).map(|i| if bit(i) { '1' } else { '0' }).collect())
}

/// An interval in microseconds. Days and months have no fixed length, so a length of time has none of them.
fn interval(bytes: &[u8]) -> Result<i64, Bad> {
    let bytes: &[u8; 16] = bytes.try_into().map_err(|_| Bad::Wire)?;
    let (micros, rest) = bytes.split_first_chunk::<8>().ok_or(Bad::Wire)?;
    let micros = i64::from_be_bytes(*micros);
    match rest.iter().all(|b| *b == 0) {
        true => Ok(micros),
        false => Err(Bad::Value("an interval with days or months, or an infinite one, is no length of time".into())),
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::cast::AsArray;
    use arrow_array::types::Int64Type;
    use crossfade_core::{Class, TableName};
    use proptest::prelude::*;

    use super::*;

    fn table() -> TableSchema {
        let column = |name: &str, logical| Column {
            name: name.into(),
            source_type: name.into(),
            logical,
            nullable: true,
            auto_increment: false,
            number: 0,
            policies: Default::default(),
        };
        TableSchema {
            name: TableName::new("s", "t"),
            version: 1,
            columns: vec![column("id", Logical::Int64), column("d", Logical::Decimal { precision: 3, scale: 1 })],
            key: vec![0],
            indexes: vec![],
            foreign_keys: vec![],
            origin: None,
            pending: vec![],
            number: 0,
        }
    }

    fn stream(rows: &[(i64, Option<&str>)]) -> Vec<u8> {
        let mut out = SIGNATURE.to_vec();
        out.extend([0; 8]);
        for (id, value) in rows {
            out.extend(2i16.to_be_bytes());
            out.extend(8i32.to_be_bytes());
            out.extend(id.to_be_bytes());
            match value {
                None => out.extend((-1i32).to_be_bytes()),
                Some(text) => {
                    let mut bytes = Vec::new();
                    crate::numeric::put_text(&mut bytes, text).unwrap();
                    out.extend((bytes.len() as i32).to_be_bytes());
                    out.extend(bytes);
                }
            }
        }
        out.extend((-1i16).to_be_bytes());
        out
    }

    #[test]
    fn pieces_of_any_size_make_the_same_rows() {
        let (table, bytes) = (table(), stream(&[(1, None), (2, Some("12.3")), (3, Some("-0.1"))]));
        for size in 1..=bytes.len() {
            let mut decoder = Decoder::new(&table);
            bytes.chunks(size).for_each(|piece| decoder.feed(piece).unwrap());
            decoder.end().unwrap();
            let batch = decoder.take().unwrap().unwrap();
            assert_eq!(batch.column(0).as_primitive::<Int64Type>().values(), &[1, 2, 3]);
        }
        let mut cut = Decoder::new(&table);
        cut.feed(&bytes[..bytes.len() - 2]).unwrap();
        assert!(cut.end().is_err(), "a cut stream is no short table");
    }

    #[test]
    fn what_does_not_fit_names_its_row() {
        let (table, bytes) = (table(), stream(&[(7, Some("100.0"))]));
        let error = Decoder::new(&table).feed(&bytes).unwrap_err();
        let Class::Data(place) = error.class() else { panic!("{error}") };
        assert_eq!((place.column.as_deref(), place.key.as_deref()), (Some("d"), Some("id=7")));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(tail: Vec<u8>, cut in 0usize..60) {
            let table = table();
            let mut bytes = stream(&[(1, Some("1.5")), (2, None)]);
            bytes.truncate(cut);
            bytes.extend(tail);
            let _ = Decoder::new(&table).feed(&bytes);
        }
    }
}
