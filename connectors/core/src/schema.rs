//! What a table is: its name, columns, key, indexes and references, as the source has them.
//!
//! A column carries two types: the source's own, word for word (for people and for type tables), and the *logical* type,
//! which fixes how its values travel. [`Logical`] is a closed enum rather than Arrow's `DataType`, because Arrow cannot
//! tell JSON from text or a MySQL `TIME` beyond 24 hours from an interval, and because an exhaustive `match` in every
//! connector is what makes "no default arm that drops a value" a fact that the compiler checks.

use std::fmt;
use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use serde::{Deserialize, Serialize};

use crate::policy::Policies;

/// A table's name. MySQL's databases, Postgres' schemas and SQLite's attached files are all `schema`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TableName {
    /// The namespace, unquoted.
    pub schema: String,
    /// The table, unquoted.
    pub name: String,
}

impl TableName {
    /// `schema.name`.
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> Self {
        TableName { schema: schema.into(), name: name.into() }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

/// How a value travels: its meaning, and with it its Arrow form. Every value of the type is carried exactly.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Logical {
    /// True or false.
    Bool,
    /// Signed, 8 bits.
    Int8,
    /// Signed, 16 bits.
    Int16,
    /// Signed, 32 bits.
    Int32,
    /// Signed, 64 bits.
    Int64,
    /// Unsigned, 8 bits.
    UInt8,
    /// Unsigned, 16 bits.
    UInt16,
    /// Unsigned, 32 bits.
    UInt32,
    /// Unsigned, 64 bits.
    UInt64,
    /// IEEE single, every bit pattern but one NaN.
    Float32,
    /// IEEE double, every bit pattern but one NaN.
    Float64,
    /// A decimal of at most 76 digits, `scale` of them after the point (0 <= scale <= precision).
    Decimal {
        /// Digits in all.
        precision: u8,
        /// Digits after the point.
        scale: u8,
    },
    /// A decimal of any size, NaN and infinities included, as Postgres prints `numeric`: `-12.50`, `NaN`, `-Infinity`.
    Numeric,
    /// Unicode text.
    Text,
    /// One of the labels, as text.
    Enum {
        /// The labels in declaration order.
        labels: Vec<String>,
    },
    /// Any of the labels, joined by commas in declaration order.
    Set {
        /// The labels in declaration order.
        labels: Vec<String>,
    },
    /// JSON as text, as the source prints it.
    Json,
    /// Bytes.
    Bytes,
    /// `len` bits as `0` and `1`, most significant first.
    Bit {
        /// How many bits a value has.
        len: u32,
    },
    /// 16 bytes, big-endian.
    Uuid,
    /// Days since 1970-01-01, proleptic Gregorian; the greatest and the least number are infinity and -infinity.
    Date,
    /// Microseconds since midnight, 0 to 24:00:00 inclusive.
    Time,
    /// A signed length of time in microseconds: MySQL's `TIME`, which reaches 838 hours.
    Duration,
    /// Microseconds since 1970-01-01 00:00:00 of a clock without a zone; the greatest and the least number are infinity and
    /// -infinity.
    Timestamp,
    /// Microseconds since 1970-01-01 00:00:00 UTC: an instant, or an infinity as above.
    TimestampTz,
    /// A value of a built-in Postgres type that no other database has, as that server prints it: arrays, ranges, `inet`,
    /// `interval`, `tsvector`.
    Postgres {
        /// The type as `format_type` prints it: `text[]`, `interval`, `bit varying(8)`.
        name: String,
    },
    /// A value of any type, written as an SQL literal: `12`, `1.5`, `'it''s'`, `X'00ff'`. SQLite's untyped columns.
    Literal,
    /// Nothing: no target wants the column, and its source passes its values over, whatever their type is. It keeps its
    /// place in the source's shape, by which logs find its neighbours; no target ever sees it. See [`crate::Omissions`].
    Omitted,
}

impl Logical {
    /// Whether every database at hand has keys of this type in one order, that of their values: integers by size, bytes one by one.
    /// Text is ordered by collations, a float's text differs, and MariaDB orders UUIDs by another of their parts first.
    pub fn has_one_order(&self) -> bool {
        use Logical::{Bytes, Int8, Int16, Int32, Int64, UInt8, UInt16, UInt32, UInt64};
        matches!(self, Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32 | UInt64 | Bytes)
    }

    /// The Arrow form of a value. Fields are always nullable: a deleted row carries its key only.
    pub fn arrow(&self) -> DataType {
        match self {
            Logical::Bool => DataType::Boolean,
            Logical::Int8 => DataType::Int8,
            Logical::Int16 => DataType::Int16,
            Logical::Int32 => DataType::Int32,
            Logical::Int64 => DataType::Int64,
            Logical::UInt8 => DataType::UInt8,
            Logical::UInt16 => DataType::UInt16,
            Logical::UInt32 => DataType::UInt32,
            Logical::UInt64 => DataType::UInt64,
            Logical::Float32 => DataType::Float32,
            Logical::Float64 => DataType::Float64,
            Logical::Decimal { precision, scale } if *precision <= 38 => DataType::Decimal128(*precision, *scale as i8),
            Logical::Decimal { precision, scale } => DataType::Decimal256(*precision, *scale as i8),
            Logical::Bytes => DataType::Binary,
            Logical::Omitted => DataType::Null,
            Logical::Uuid => DataType::FixedSizeBinary(16),
            Logical::Date => DataType::Date32,
            Logical::Time => DataType::Time64(TimeUnit::Microsecond),
            Logical::Duration => DataType::Duration(TimeUnit::Microsecond),
            Logical::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            Logical::TimestampTz => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Logical::Numeric
            | Logical::Text
            | Logical::Enum { .. }
            | Logical::Set { .. }
            | Logical::Json
            | Logical::Bit { .. }
            | Logical::Postgres { .. }
            | Logical::Literal => DataType::Utf8,
        }
    }
}

/// A column of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Unquoted.
    pub name: String,
    /// The source's own type, word for word: `int(10) unsigned`, `varchar(40)`.
    pub source_type: String,
    /// How its values travel.
    pub logical: Logical,
    /// Whether the source admits NULL.
    pub nullable: bool,
    /// Whether the source numbers rows by it (auto_increment, identity, INTEGER PRIMARY KEY).
    #[serde(default)]
    pub auto_increment: bool,
    /// The source's own number of the column, where it has one that outlives renames (Postgres' `attnum`); else 0.
    #[serde(default)]
    pub number: u32,
    /// What may become of values that no target can hold.
    #[serde(default, skip_serializing_if = "Policies::is_empty")]
    pub policies: Policies,
}

/// A secondary index. The key is not one of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// As the source names it.
    pub name: String,
    /// Ordinals into [`TableSchema::columns`], in index order.
    pub columns: Vec<usize>,
    /// Whether it forbids equal values.
    pub unique: bool,
}

/// A reference to another table's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignKey {
    /// As the source names it.
    pub name: String,
    /// Ordinals into [`TableSchema::columns`].
    pub columns: Vec<usize>,
    /// The table referred to, as the source names it.
    pub to: TableName,
    /// Its columns, in the order of `columns`.
    pub to_columns: Vec<String>,
    /// `CASCADE`, `SET NULL`, `RESTRICT`, `NO ACTION` or `SET DEFAULT`.
    pub on_delete: String,
    /// As `on_delete`.
    pub on_update: String,
}

/// A table as it was at some point of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableSchema {
    /// Its name.
    pub name: TableName,
    /// 1 at first; one more with each schema change seen in the log.
    pub version: u32,
    /// In the source's order.
    pub columns: Vec<Column>,
    /// Ordinals of the columns that identify a row: the primary key, else a unique index without NULLs. Empty: none.
    pub key: Vec<usize>,
    /// Secondary indexes.
    #[serde(default)]
    pub indexes: Vec<Index>,
    /// References to other tables.
    #[serde(default)]
    pub foreign_keys: Vec<ForeignKey>,
    /// For a table as it arrives at a target: its shape at the source, before routes and column rules. Targets store it
    /// with the rest, so that a restart knows the shape that the log had at the checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Box<TableSchema>>,
    /// Statements seen in the log that changed this table and take effect with its next row; a source that needs them
    /// across a restart keeps them here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending: Vec<String>,
    /// The source's own number of the table, where it has one that outlives renames and that no other table gets (Postgres'
    /// OID): a table that took another's name and shape is told from it. Else 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub number: u32,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl TableSchema {
    /// The Arrow schema of this table's record batches: one nullable field per column, in order.
    pub fn arrow(&self) -> SchemaRef {
        let fields: Vec<Field> = self.columns.iter().map(|c| Field::new(&c.name, c.logical.arrow(), true)).collect();
        Arc::new(Schema::new(fields))
    }

    /// The ordinal of the column of this name.
    pub fn ordinal(&self, column: &str) -> Option<usize> {
        self.columns.iter().position(|c| c.name == column)
    }

    /// The key's columns, in key order.
    pub fn key_columns(&self) -> impl Iterator<Item = &Column> {
        self.key.iter().map(|&i| &self.columns[i])
    }
}
