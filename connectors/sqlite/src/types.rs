//! Decides how a column's values travel, and appends them.
//!
//! SQLite types values, not columns: a declared type is only a preference (<https://www.sqlite.org/datatype3.html>). So
//! the decision looks at the declaration *and* at every value there is, once, when the log begins; it is stored and kept.
//! A column whose values contradict its declaration travels as [`Logical::Literal`], which carries anything. A later
//! value that does not fit the decision stops the table: it is never coerced, rounded or replaced by NULL.

use arrow_array::builder::{BinaryBuilder, StringBuilder};
use crossfade_core::builder::{ColumnBuilder, push_bytes, push_str};
use crossfade_core::policy::way_out;
use crossfade_core::{Column, Error, Logical, Policy, Result, TableSchema, Unfit};
use rusqlite::types::ValueRef;

use crate::text;

/// What a declared type means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Declared {
    Integer,
    Real,
    Text,
    Blob,
    /// No type, or `ANY` of a STRICT table.
    Any,
    Decimal(u8, u8),
    /// `NUMERIC` or `DECIMAL` without precision.
    Number,
    Boolean,
    Date,
    Timestamp,
    /// Numeric affinity by default: `STRING`, `JSON`, `UUID`.
    Other,
}

/// SQLite's affinity rules in their order, and within numeric affinity the names that applications mean something by.
fn declared(text: &str) -> Declared {
    let upper = text.to_ascii_uppercase();
    let has = |part: &str| upper.contains(part);
    if has("INT") {
        return Declared::Integer;
    }
    if has("CHAR") || has("CLOB") || has("TEXT") {
        return Declared::Text;
    }
    if has("BLOB") {
        return Declared::Blob;
    }
    if upper.is_empty() || upper == "ANY" {
        return Declared::Any;
    }
    if has("REAL") || has("FLOA") || has("DOUB") {
        return Declared::Real;
    }
    let (name, arguments) = upper.split_once('(').unwrap_or((&upper, ""));
    match name.trim() {
        "DECIMAL" | "NUMERIC" | "DEC" | "NUMBER" | "MONEY" => decimal(arguments).unwrap_or(Declared::Number),
        "BOOLEAN" | "BOOL" => Declared::Boolean,
        "DATE" => Declared::Date,
        "DATETIME" | "TIMESTAMP" => Declared::Timestamp,
        _ => Declared::Other,
    }
}

fn decimal(arguments: &str) -> Option<Declared> {
    let mut numbers = arguments.trim().strip_suffix(')')?.split(',').map(|n| n.trim().parse::<u8>());
    let precision = numbers.next()?.ok()?;
    let scale = numbers.next().unwrap_or(Ok(0)).ok()?;
    ((1..=76).contains(&precision) && scale <= precision).then_some(Declared::Decimal(precision, scale))
}

/// What a column's values are, gathered in one pass.
#[derive(Debug, Clone)]
pub struct Profile {
    declared: Declared,
    /// Timestamps as keys stay text: two spellings of one instant are two keys in SQLite.
    key: bool,
    integer: bool,
    real: bool,
    text: bool,
    blob: bool,
    /// Every value so far fits the declared decimal, date or timestamp.
    fits: bool,
}

impl Profile {
    /// Nothing seen yet of a column of this declared type.
    pub fn new(declared_type: &str, strict: bool, key: bool) -> Self {
        let declared = match declared(declared_type) {
            // ANY has no affinity in STRICT tables only; elsewhere it is a name like any other.
            Declared::Any if !declared_type.is_empty() && !strict => Declared::Other,
            declared => declared,
        };
        Profile { declared, key, integer: false, real: false, text: false, blob: false, fits: true }
    }

    /// Whether values can still change the decision.
    pub fn open(&self) -> bool {
        !(self.text && self.blob && (self.integer || self.real))
    }

    /// Takes a value into account.
    pub fn add(&mut self, value: ValueRef<'_>) {
        match value {
            ValueRef::Null => return,
            ValueRef::Integer(_) => self.integer = true,
            ValueRef::Real(_) => self.real = true,
            ValueRef::Text(_) => self.text = true,
            ValueRef::Blob(_) => self.blob = true,
        }
        if self.fits {
            self.fits = match (self.declared, value) {
                (Declared::Decimal(p, s), v) => text::decimal(v, p, s).is_some(),
                (Declared::Date, ValueRef::Text(t)) => text::date(t).is_some(),
                (Declared::Timestamp, ValueRef::Text(t)) => text::timestamp(t).is_some(),
                (Declared::Date | Declared::Timestamp, _) => false,
                _ => true,
            };
        }
    }

    /// The decision.
    pub fn logical(&self) -> Logical {
        let empty = !(self.integer || self.real || self.text || self.blob);
        let only = |kind: bool, others: [bool; 3]| (kind || empty) && others == [false; 3];
        let integers = only(self.integer, [self.real, self.text, self.blob]);
        let reals = only(self.real, [self.integer, self.text, self.blob]);
        let texts = only(self.text, [self.integer, self.real, self.blob]);
        let blobs = only(self.blob, [self.integer, self.real, self.text]);
        let numbers = !self.text && !self.blob;
        match self.declared {
            Declared::Integer | Declared::Boolean if integers => Logical::Int64,
            Declared::Real if reals => Logical::Float64,
            Declared::Text if texts => Logical::Text,
            Declared::Blob if blobs => Logical::Bytes,
            Declared::Any if blobs && !empty => Logical::Bytes,
            Declared::Decimal(precision, scale) if self.fits => Logical::Decimal { precision, scale },
            // Numeric affinity stores whole numbers as integers, so the decimal text tells both kinds apart.
            Declared::Decimal(..) | Declared::Number if numbers => Logical::Numeric,
            Declared::Date if self.fits => Logical::Date,
            Declared::Timestamp if self.fits && !self.key => Logical::Timestamp,
            Declared::Timestamp if texts => Logical::Text,
            Declared::Date | Declared::Other | Declared::Boolean if !empty && texts => Logical::Text,
            Declared::Date | Declared::Timestamp | Declared::Other if !empty && integers => Logical::Int64,
            Declared::Date | Declared::Timestamp | Declared::Other | Declared::Boolean if !empty && numbers => {
                Logical::Numeric
            }
            _ => Logical::Literal,
        }
    }
}

/// Appends a value to a column's builder and returns about how many bytes it took; `Err` says what does not fit.
pub fn append(builder: &mut ColumnBuilder, logical: &Logical, value: ValueRef<'_>) -> Result<Result<usize, String>> {
    let text = |b: &mut StringBuilder, t: &str| push_str(b, t).map(|()| Ok(t.len() + 4));
    let bytes = |b: &mut BinaryBuilder, v: &[u8]| push_bytes(b, v).map(|()| Ok(v.len() + 4));
    let misfit = || Ok(Err(describe(value)));
    match (builder, logical, value) {
        (builder, _, ValueRef::Null) => builder.append_null(),
        (ColumnBuilder::Omitted(b), Logical::Omitted, _) => b.append_null(),
        (ColumnBuilder::Int64(b), Logical::Int64, ValueRef::Integer(i)) => b.append_value(i),
        (ColumnBuilder::Float64(b), Logical::Float64, ValueRef::Real(f)) => b.append_value(f),
        (ColumnBuilder::Utf8(b), Logical::Text, ValueRef::Text(t)) => {
            return std::str::from_utf8(t).map_or_else(|_| misfit(), |t| text(b, t));
        }
        (ColumnBuilder::Binary(b), Logical::Bytes, ValueRef::Blob(v)) => return bytes(b, v),
        (ColumnBuilder::Utf8(b), Logical::Literal, v) => {
            return text::literal(v).map_or_else(misfit, |t| text(b, &t));
        }
        (ColumnBuilder::Utf8(b), Logical::Numeric, v) => {
            return text::numeric(v).map_or_else(misfit, |t| text(b, &t));
        }
        (ColumnBuilder::Decimal128(b), Logical::Decimal { precision, scale }, v) => {
            match text::decimal(v, *precision, *scale).and_then(|d| d.to_i128()) {
                Some(d) => b.append_value(d),
                None => return misfit(),
            }
        }
        (ColumnBuilder::Decimal256(b), Logical::Decimal { precision, scale }, v) => {
            match text::decimal(v, *precision, *scale) {
                Some(d) => b.append_value(d),
                None => return misfit(),
            }
        }
        (ColumnBuilder::Date(b), Logical::Date, ValueRef::Text(t)) => match text::date(t) {
            Some(days) => b.append_value(days),
            None => return misfit(),
        },
        (ColumnBuilder::Timestamp(b), Logical::Timestamp, ValueRef::Text(t)) => match text::timestamp(t) {
            Some(micros) => b.append_value(micros),
            None => return misfit(),
        },
        // Every other pair is a value of a kind that the decision did not foresee.
        _ => return misfit(),
    }
    Ok(Ok(8))
}

/// Appends what a value that does not fit travels as, where a policy of its column lets it pass; false: nothing was appended.
pub fn pass(column: &Column, builder: &mut ColumnBuilder, value: ValueRef<'_>) -> Result<bool> {
    match value {
        ValueRef::Text(t) if std::str::from_utf8(t).is_err() => {
            let replaced = String::from_utf8_lossy(t).into_owned();
            Unfit::Text { original: t.to_vec(), replaced }.pass(column, builder)
        }
        _ => Ok(false),
    }
}

/// A value for a message: its kind, and what it is unless that is long.
pub fn describe(value: ValueRef<'_>) -> String {
    let kind = match value {
        ValueRef::Null => return "NULL".into(),
        ValueRef::Integer(_) => "integer",
        ValueRef::Real(_) => "real",
        ValueRef::Text(_) => "text",
        ValueRef::Blob(_) => "blob",
    };
    match text::literal(value) {
        None => format!("{kind} that is not UTF-8"),
        Some(shown) if shown.chars().count() <= 60 => format!("{kind} {shown}"),
        Some(shown) => format!("{kind} {}... ({} characters)", shown.chars().take(40).collect::<String>(), shown.len()),
    }
}

/// A decision, for a message.
fn words(logical: &Logical) -> String {
    match logical {
        Logical::Int64 => "integer".into(),
        Logical::Float64 => "real".into(),
        Logical::Text => "text".into(),
        Logical::Bytes => "blob".into(),
        Logical::Decimal { precision, scale } => format!("decimal({precision},{scale})"),
        Logical::Numeric => "number".into(),
        Logical::Date => "date".into(),
        Logical::Timestamp => "time".into(),
        other => format!("{other:?}").to_lowercase(),
    }
}

/// The error for a value that does not fit the decision.
pub fn misfit(table: &TableSchema, column: usize, key: String, found: &str) -> Error {
    let c = &table.columns[column];
    let name = &table.name.name;
    let hint = if found.ends_with("not UTF-8") {
        let policy = way_out(Policy::InvalidText, table, column).filter(|_| c.logical == Logical::Text);
        let policy = policy.map_or_else(String::new, |policy| format!("; or {policy}"));
        format!(
            "mend the text, or store it as a blob: UPDATE {0} SET {1} = CAST({1} AS BLOB) WHERE ...; then copy the table anew with `crossfade snapshot TABLE`{policy}",
            crate::catalog::quote(name),
            crate::catalog::quote(&c.name)
        )
    } else {
        format!(
            "mend the value or leave it, then copy the table anew with `crossfade snapshot {0}`, which decides again by all values \
             there are how the column travels; or exclude {0}",
            table.name
        )
    };
    let carried = words(&c.logical);
    let declared = if c.source_type.is_empty() { "without a type" } else { c.source_type.as_str() };
    let what =
        format!("{found} is no {carried}; the column (declared {declared}) held nothing else when its log began");
    Error::data(&table.name, what).column(&c.name).key(key).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decide(declared: &str, values: &[ValueRef<'_>]) -> Logical {
        let mut p = Profile::new(declared, false, false);
        values.iter().for_each(|v| p.add(*v));
        p.logical()
    }

    #[test]
    fn declarations_and_values() {
        use ValueRef::*;
        let dec = Logical::Decimal { precision: 10, scale: 2 };
        let cases: &[(&str, &[ValueRef<'_>], Logical)] = &[
            ("INTEGER", &[], Logical::Int64),
            ("bigint unsigned", &[Integer(1), Null], Logical::Int64),
            ("INT", &[Real(1.5)], Logical::Literal),
            ("VARCHAR(10)", &[Text(b"x")], Logical::Text),
            ("TEXT", &[Text(b"x"), Blob(b"x")], Logical::Literal),
            ("BLOB", &[], Logical::Bytes),
            ("BLOB", &[Text(b"x")], Logical::Literal),
            ("", &[], Logical::Literal),
            ("", &[Blob(b"x")], Logical::Bytes),
            ("", &[Integer(1)], Logical::Literal),
            ("DOUBLE", &[Real(0.5)], Logical::Float64),
            ("REAL", &[Text(b"n/a")], Logical::Literal),
            ("DECIMAL(10,2)", &[Real(0.99), Integer(3)], dec.clone()),
            ("NUMERIC(10, 2)", &[], dec),
            ("DECIMAL(10,2)", &[Real(0.999)], Logical::Numeric),
            ("DECIMAL(10,2)", &[Text(b"x")], Logical::Literal),
            ("DECIMAL(99,2)", &[], Logical::Numeric),
            ("NUMERIC", &[Integer(1), Real(1.5)], Logical::Numeric),
            ("BOOLEAN", &[Integer(1)], Logical::Int64),
            ("BOOLEAN", &[Text(b"t")], Logical::Text),
            ("DATE", &[Text(b"2024-02-29")], Logical::Date),
            ("DATE", &[Text(b"2023-02-29")], Logical::Text),
            ("DATE", &[Integer(5)], Logical::Int64),
            ("DATETIME", &[Text(b"2024-02-29 10:00:00")], Logical::Timestamp),
            ("DATETIME", &[], Logical::Timestamp),
            ("TIMESTAMP", &[Text(b"2024-02-29T10:00:00Z")], Logical::Text),
            ("DATETIME", &[Text(b"2024-02-29 10:00:00"), Integer(5)], Logical::Literal),
            ("STRING", &[Text(b"x"), Integer(5)], Logical::Literal),
            ("JSON", &[Text(b"{}")], Logical::Text),
            ("UUID", &[], Logical::Literal),
        ];
        for (declared, values, expected) in cases {
            assert_eq!(decide(declared, values), *expected, "{declared} {values:?}");
        }
        let mut key = Profile::new("DATETIME", false, true);
        key.add(Text(b"2024-02-29 10:00:00"));
        assert_eq!(key.logical(), Logical::Text, "a key keeps its spelling");
    }

    #[test]
    fn what_does_not_fit_is_described() {
        let mut b = ColumnBuilder::new(&Logical::Int64);
        let r = append(&mut b, &Logical::Int64, ValueRef::Text(b"x")).unwrap();
        assert_eq!(r, Err("text 'x'".into()));
        assert_eq!(b.len(), 0);
        let mut b = ColumnBuilder::new(&Logical::Literal);
        let r = append(&mut b, &Logical::Literal, ValueRef::Text(&[0xff])).unwrap();
        assert_eq!(r, Err("text that is not UTF-8".into()));
    }
}
