//! Which Postgres type holds a value of each logical type, and whether a column that is there already will do.
//!
//! The rule is the house's: every value of the logical type arrives exactly. Unsigned integers take the next wider signed
//! type, unsigned 64-bit takes `numeric(20,0)`, JSON stays `json` because `jsonb` rewrites its text, text is `text` without
//! a length. Enums and sets are text: a label added in the source must not wait for DDL here.
//!
//! A table made by the operator may have other types. [`compatible`] admits those that hold every value ([`Fit::Same`] where
//! the binary form is the same, [`Fit::Cast`] where the server converts on the way in), and says why it refuses the others.
//! Source for sizes and casts: the server's `pg_type.dat`, `pg_cast.dat`, and `varchar`'s typmod (length + 4).

use crossfade_core::{Column, Logical};

/// A Postgres type that Crossfade writes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PgType {
    /// `boolean`
    Boolean,
    /// `smallint`
    SmallInt,
    /// `integer`
    Integer,
    /// `bigint`
    BigInt,
    /// `real`
    Real,
    /// `double precision`
    Double,
    /// `numeric(precision, scale)`
    Decimal {
        /// Digits in all.
        precision: u8,
        /// Digits after the point.
        scale: u8,
    },
    /// `numeric`
    Numeric,
    /// `text`
    Text,
    /// `json`
    Json,
    /// `bytea`
    Bytea,
    /// `bit(len)`
    Bit(u32),
    /// `uuid`
    Uuid,
    /// `date`
    Date,
    /// `time(6)`
    Time,
    /// `interval`
    Interval,
    /// `timestamp(6)`
    Timestamp,
    /// `timestamptz(6)`
    TimestampTz,
    /// Any other built-in type, by its name in SQL. Its values travel as text, and the server reads them.
    Other(String),
}

impl PgType {
    /// The type that holds every value of the logical type.
    pub fn of(logical: &Logical) -> PgType {
        match logical {
            Logical::Bool => PgType::Boolean,
            Logical::Int8 | Logical::Int16 | Logical::UInt8 => PgType::SmallInt,
            Logical::Int32 | Logical::UInt16 => PgType::Integer,
            Logical::Int64 | Logical::UInt32 => PgType::BigInt,
            Logical::UInt64 => PgType::Decimal { precision: 20, scale: 0 },
            Logical::Float32 => PgType::Real,
            Logical::Float64 => PgType::Double,
            Logical::Decimal { precision, scale } => PgType::Decimal { precision: *precision, scale: *scale },
            Logical::Numeric => PgType::Numeric,
            Logical::Text | Logical::Enum { .. } | Logical::Set { .. } | Logical::Literal => PgType::Text,
            // A source reads NULL in its place, and no target has such a column.
            Logical::Omitted => PgType::Text,
            Logical::Postgres { name } => PgType::Other(name.clone()),
            Logical::Json => PgType::Json,
            Logical::Bytes => PgType::Bytea,
            Logical::Bit { len } => PgType::Bit(*len),
            Logical::Uuid => PgType::Uuid,
            Logical::Date => PgType::Date,
            Logical::Time => PgType::Time,
            Logical::Duration => PgType::Interval,
            Logical::Timestamp => PgType::Timestamp,
            Logical::TimestampTz => PgType::TimestampTz,
        }
    }

    /// As in `CREATE TABLE`. Names are qualified where a user's type of the same name could stand in front; the session's
    /// search path is empty, in which `pg_catalog` comes first.
    pub fn sql(&self) -> String {
        match self {
            PgType::Boolean => "boolean".into(),
            PgType::SmallInt => "smallint".into(),
            PgType::Integer => "integer".into(),
            PgType::BigInt => "bigint".into(),
            PgType::Real => "real".into(),
            PgType::Double => "double precision".into(),
            PgType::Decimal { precision, scale } => format!("numeric({precision},{scale})"),
            PgType::Numeric => "numeric".into(),
            PgType::Text => "text".into(),
            PgType::Json => "json".into(),
            PgType::Bytea => "bytea".into(),
            PgType::Bit(len) => format!("bit({len})"),
            PgType::Uuid => "uuid".into(),
            PgType::Date => "date".into(),
            PgType::Time => "time(6)".into(),
            PgType::Interval => "interval".into(),
            PgType::Timestamp => "timestamp(6)".into(),
            PgType::TimestampTz => "timestamptz(6)".into(),
            PgType::Other(name) => name.clone(),
        }
    }

    /// The name in `pg_type` of the type in which values travel.
    pub fn typname(&self) -> &'static str {
        match self {
            PgType::Boolean => "bool",
            PgType::SmallInt => "int2",
            PgType::Integer => "int4",
            PgType::BigInt => "int8",
            PgType::Real => "float4",
            PgType::Double => "float8",
            PgType::Decimal { .. } | PgType::Numeric => "numeric",
            PgType::Text | PgType::Other(_) => "text",
            PgType::Json => "json",
            PgType::Bytea => "bytea",
            PgType::Bit(_) => "bit",
            PgType::Uuid => "uuid",
            PgType::Date => "date",
            PgType::Time => "time",
            PgType::Interval => "interval",
            PgType::Timestamp => "timestamp",
            PgType::TimestampTz => "timestamptz",
        }
    }

    /// The object id of the type in which values travel, fixed in every server (`pg_type.dat`).
    pub fn oid(&self) -> u32 {
        match self {
            PgType::Boolean => 16,
            PgType::Bytea => 17,
            PgType::BigInt => 20,
            PgType::SmallInt => 21,
            PgType::Integer => 23,
            PgType::Text | PgType::Other(_) => 25,
            PgType::Json => 114,
            PgType::Real => 700,
            PgType::Double => 701,
            PgType::Date => 1082,
            PgType::Time => 1083,
            PgType::Timestamp => 1114,
            PgType::TimestampTz => 1184,
            PgType::Interval => 1186,
            PgType::Bit(_) => 1560,
            PgType::Decimal { .. } | PgType::Numeric => 1700,
            PgType::Uuid => 2950,
        }
    }
}

/// The type of a column that holds the logical type, as in `CREATE TABLE`.
pub fn sql(logical: &Logical) -> String {
    PgType::of(logical).sql()
}

/// The object id of the type that holds the logical type.
pub fn oid(logical: &Logical) -> u32 {
    PgType::of(logical).oid()
}

/// The type of a column that is there already, domains resolved to what they are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actual {
    /// Its name in `pg_type`: `int4`, `varchar`.
    pub typname: String,
    /// Whether the type is one of `pg_catalog`'s.
    pub builtin: bool,
    /// `atttypmod`: length or precision as the type encodes it, -1 for none.
    pub typmod: i32,
    /// As `format_type` prints it: `character varying(40)`.
    pub sql: String,
}

/// Whether a column's type holds every value of a logical type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fit {
    /// The same binary form: values go in as for a table that Crossfade made.
    Same,
    /// The server converts each value, and loses nothing by it.
    Cast,
    /// It does not, because of this.
    No(String),
}

/// The extension whose types are carried under their own names.
pub const PGVECTOR: &str = "vector";

/// Whether `actual` holds every value of a source's column.
pub fn compatible(column: &Column, actual: &Actual) -> Fit {
    let want = PgType::of(&column.logical);
    let refuse = |why: &str| Fit::No(format!("{} is not {}: {why}", actual.sql, want.sql()));
    if !actual.builtin && !matches!(&want, PgType::Other(name) if *name == actual.sql) {
        return refuse("a type of the database's own may refuse or change values");
    }
    let got = actual.typname.as_str();
    match &want {
        PgType::SmallInt | PgType::Integer | PgType::BigInt => integer(&want, actual, refuse),
        PgType::Decimal { precision, scale } => decimal(*precision, *scale, actual, refuse),
        PgType::Text => text(column, actual, refuse),
        // The server reads the text as the column's own type.
        PgType::Other(name) if actual.sql == *name => Fit::Cast,
        PgType::Other(_) => refuse("another type"),
        PgType::Json if got == "jsonb" => Fit::Cast,
        PgType::Json if matches!(got, "text" | "varchar") && actual.typmod < 0 => Fit::Cast,
        PgType::Real if got == "float8" => Fit::Cast,
        PgType::Bit(len) if got == "bit" && i64::from(actual.typmod) == i64::from(*len) => Fit::Same,
        PgType::Bit(len) if got == "varbit" && (actual.typmod < 0 || i64::from(actual.typmod) >= i64::from(*len)) => {
            Fit::Cast
        }
        PgType::Bit(_) => refuse("another length"),
        PgType::Time | PgType::Timestamp | PgType::TimestampTz | PgType::Interval if got == want.typname() => {
            if fraction_digits(&want, actual.typmod) < 6 {
                refuse("it rounds microseconds")
            } else {
                Fit::Same
            }
        }
        PgType::Numeric if got == "numeric" && actual.typmod >= 0 => refuse("it holds fewer digits"),
        _ if got == want.typname() => Fit::Same,
        _ => refuse("another type"),
    }
}

/// Digits after the point of seconds; an interval's typmod has them in its low 16 bits, its fields above.
fn fraction_digits(kind: &PgType, typmod: i32) -> i32 {
    const FULL_PRECISION: i32 = 0xFFFF;
    const FULL_RANGE: i32 = 0x7FFF;
    match (kind, typmod) {
        (_, ..0) => 6,
        (PgType::Interval, t) if (t >> 16) & FULL_RANGE != FULL_RANGE => 0,
        (PgType::Interval, t) if t & 0xFFFF == FULL_PRECISION => 6,
        (PgType::Interval, t) => t & 0xFFFF,
        (_, t) => t,
    }
}

fn integer(want: &PgType, actual: &Actual, refuse: impl Fn(&str) -> Fit) -> Fit {
    let digits = match want {
        PgType::SmallInt => 5,
        PgType::Integer => 10,
        _ => 19,
    };
    let rank = |name: &str| ["int2", "int4", "int8"].iter().position(|n| *n == name);
    match rank(&actual.typname) {
        Some(r) if Some(r) == rank(want.typname()) => Fit::Same,
        Some(r) if Some(r) > rank(want.typname()) => Fit::Cast,
        Some(_) => refuse("it holds smaller numbers"),
        None if actual.typname == "numeric" => decimal_cast(digits, 0, actual, refuse),
        None => refuse("another type"),
    }
}

fn decimal(precision: u8, scale: u8, actual: &Actual, refuse: impl Fn(&str) -> Fit) -> Fit {
    match actual.typname.as_str() {
        "numeric" if actual.typmod < 0 => Fit::Same,
        "numeric" if numeric_typmod(actual.typmod) == (i32::from(precision), i32::from(scale)) => Fit::Same,
        "numeric" => decimal_cast(i32::from(precision), i32::from(scale), actual, refuse),
        "int8" if scale == 0 && precision <= 18 => Fit::Cast,
        "int4" if scale == 0 && precision <= 9 => Fit::Cast,
        "int2" if scale == 0 && precision <= 4 => Fit::Cast,
        _ => refuse("it does not hold every value"),
    }
}

fn decimal_cast(precision: i32, scale: i32, actual: &Actual, refuse: impl Fn(&str) -> Fit) -> Fit {
    if actual.typmod < 0 {
        return Fit::Cast;
    }
    let (p, s) = numeric_typmod(actual.typmod);
    if s >= scale && p - s >= precision - scale { Fit::Cast } else { refuse("it holds fewer digits") }
}

/// Precision and scale; the scale is a signed 11-bit number since Postgres 15 (numeric.c).
fn numeric_typmod(typmod: i32) -> (i32, i32) {
    let t = typmod - 4;
    ((t >> 16) & 0xFFFF, ((t & 0x7FF) ^ 1024) - 1024)
}

fn text(column: &Column, actual: &Actual, refuse: impl Fn(&str) -> Fit) -> Fit {
    match actual.typname.as_str() {
        "text" => Fit::Same,
        "varchar" if actual.typmod < 0 => Fit::Same,
        "varchar" => match longest(column) {
            Some(longest) if i64::from(actual.typmod - 4) >= longest => Fit::Same,
            Some(_) => refuse("it is too short for the longest value"),
            None => refuse("the source's text has no such limit"),
        },
        "bpchar" => refuse("it pads with blanks, and takes trailing blanks for nothing"),
        "name" => refuse("it cuts at 63 bytes"),
        _ => refuse("another type"),
    }
}

/// The most characters that a value can have, where the source tells. A declared length that the source does not enforce
/// (SQLite) ends in the server's error 22001, not in a cut value.
fn longest(column: &Column) -> Option<i64> {
    match &column.logical {
        Logical::Enum { labels } => labels.iter().map(|l| l.chars().count() as i64).max(),
        Logical::Set { labels } => {
            Some(labels.iter().map(|l| l.chars().count() as i64 + 1).sum::<i64>().saturating_sub(1).max(0))
        }
        Logical::Text => declared_length(&column.source_type),
        _ => None,
    }
}

/// `varchar(40)` -> 40, for types whose length counts characters.
fn declared_length(source_type: &str) -> Option<i64> {
    let (name, rest) = source_type.split_once('(')?;
    let name = name.trim().to_ascii_lowercase();
    let counts_characters =
        ["char", "varchar", "character", "character varying", "nchar", "nvarchar"].contains(&name.as_str());
    if counts_characters { rest.split(')').next()?.trim().parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(logical: Logical, source_type: &str) -> Column {
        Column {
            name: "c".into(),
            source_type: source_type.into(),
            logical,
            nullable: true,
            auto_increment: false,
            number: 0,
            policies: Default::default(),
        }
    }

    fn actual(typname: &str, typmod: i32) -> Actual {
        Actual { typname: typname.into(), builtin: true, typmod, sql: format!("{typname}[{typmod}]") }
    }

    #[test]
    fn fits() {
        use Fit::{Cast, Same};
        let numeric = |p: i32, s: i32| ((p << 16) | (s & 0x7FF)) + 4;
        let dec = Logical::Decimal { precision: 10, scale: 2 };
        let labels = || vec!["ab".to_owned(), "cde".to_owned()];
        for (logical, source, typname, typmod, want) in [
            (Logical::Int32, "int", "int4", -1, Some(Same)),
            (Logical::Int32, "int", "int8", -1, Some(Cast)),
            (Logical::Int32, "int", "int2", -1, None),
            (Logical::Int64, "bigint", "numeric", -1, Some(Cast)),
            (Logical::Int64, "bigint", "numeric", numeric(18, 0), None),
            (Logical::UInt64, "bigint unsigned", "numeric", numeric(20, 0), Some(Same)),
            (Logical::UInt64, "bigint unsigned", "int8", -1, None),
            (dec.clone(), "decimal(10,2)", "numeric", numeric(10, 2), Some(Same)),
            (dec.clone(), "decimal(10,2)", "numeric", numeric(12, 4), Some(Cast)),
            (dec.clone(), "decimal(10,2)", "numeric", numeric(11, 4), None),
            (dec.clone(), "decimal(10,2)", "numeric", numeric(20, -2), None),
            (dec, "decimal(10,2)", "numeric", -1, Some(Same)),
            (Logical::Text, "varchar(40)", "varchar", 44, Some(Same)),
            (Logical::Text, "varchar(40)", "varchar", 43, None),
            (Logical::Text, "text", "varchar", 1004, None),
            (Logical::Text, "varchar(4)", "bpchar", 44, None),
            (Logical::Enum { labels: labels() }, "enum", "varchar", 7, Some(Same)),
            (Logical::Enum { labels: labels() }, "enum", "varchar", 6, None),
            (Logical::Set { labels: labels() }, "set", "varchar", 10, Some(Same)),
            (Logical::Set { labels: labels() }, "set", "varchar", 9, None),
            (Logical::Json, "json", "jsonb", -1, Some(Cast)),
            (Logical::Json, "json", "text", -1, Some(Cast)),
            (Logical::Float32, "float", "float8", -1, Some(Cast)),
            (Logical::Float64, "double", "float4", -1, None),
            (Logical::Timestamp, "datetime", "timestamp", -1, Some(Same)),
            (Logical::Timestamp, "datetime", "timestamp", 3, None),
            (Logical::Timestamp, "datetime", "timestamptz", -1, None),
            (Logical::Duration, "time", "interval", -1, Some(Same)),
            (Logical::Duration, "time", "interval", 0x7FFF_0003, None),
            (Logical::Bit { len: 3 }, "bit(3)", "bit", 3, Some(Same)),
            (Logical::Bit { len: 3 }, "bit(3)", "varbit", 3, Some(Cast)),
            (Logical::Bit { len: 3 }, "bit(3)", "bit", 4, None),
            (Logical::Numeric, "numeric", "numeric", numeric(10, 0), None),
        ] {
            let fit = compatible(&column(logical.clone(), source), &actual(typname, typmod));
            match want {
                Some(want) => assert_eq!(fit, want, "{logical:?} in {typname}[{typmod}]"),
                None => assert!(matches!(fit, Fit::No(_)), "{logical:?} in {typname}[{typmod}]: {fit:?}"),
            }
        }
        let own = Actual { builtin: false, ..actual("text", -1) };
        assert!(matches!(compatible(&column(Logical::Text, "text"), &own), Fit::No(_)));
    }
}
