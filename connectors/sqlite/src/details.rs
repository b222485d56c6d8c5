//! What the database's tables have besides their shape: defaults, and what no target gets.
//!
//! SQLite keeps a default as the text of an expression, and a check only within the statement that made its table. Comparisons
//! there follow affinities that no other database has, so checks are named, not carried. Constants are carried where they are
//! values of the column's type as it travels; a column of literals has none, since its values are no plain text.

use crossfade_core::{Column, DefaultValue, Details, Logical, Result};
use rusqlite::Connection;

use crate::catalog::{Table, rows};
use crate::index_sql;

/// The details of a table whose columns travel like this.
pub fn of(conn: &Connection, table: &Table, columns: &[Column]) -> Result<Details> {
    let mut details = Details::default();
    for index in &table.odd_indexes {
        details.note(format!("index {index}"), "it is partial, or over an expression");
    }
    for declared in &table.columns {
        let name = &declared.name;
        if declared.generated {
            let why = "it arrives as a plain column: after the cutover nobody computes it";
            details.leave_out(format!("generation of column {name}"), why);
            continue;
        }
        let Some(column) = columns.iter().find(|c| c.name == *name) else { continue };
        let Some(text) = declared.default.as_deref().filter(|t| !t.eq_ignore_ascii_case("null")) else { continue };
        match constant(&column.logical, text.trim()) {
            Some(default) => details.column(name).default = Some(default),
            None => {
                let why = "it is no constant of the column's type that means the same in another database";
                details.leave_out(format!("default {text} of column {name}"), why);
            }
        }
    }
    let folded: Vec<String> = table
        .uniques
        .iter()
        .flat_map(|u| &u.terms)
        .filter(|(_, collation)| !collation.eq_ignore_ascii_case("BINARY"))
        .map(|(_, collation)| collation.clone())
        .collect();
    if let Some(collation) = folded.first() {
        let why = "a target compares text as it stands: it admits texts that are one here";
        details.leave_out(format!("collation {collation} of a key or unique index"), why);
    }
    let statements: Vec<String> =
        rows(conn, "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?1", [&table.name], |r| r.get(0))?;
    if statements.iter().any(|sql| index_sql::mentions(sql, "CHECK")) {
        details.leave_out("its CHECK constraints", "SQLite compares by affinities, which Postgres has not");
    }
    let triggers = rows(
        conn,
        "SELECT name FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = ?1 COLLATE NOCASE \
         AND name NOT LIKE '\\_crossfade\\_%' ESCAPE '\\' ORDER BY name",
        [&table.name],
        |r| r.get::<_, String>(0),
    )?;
    for trigger in triggers {
        let why = "the log holds what it does at the source; after the cutover nobody does it";
        details.leave_out(format!("trigger {trigger}"), why);
    }
    Ok(details)
}

/// A constant, or the time, as a value of this type.
fn constant(logical: &Logical, text: &str) -> Option<DefaultValue> {
    let value = || Some(DefaultValue::Text(text.to_owned()));
    let is = |words: &[&str]| words.iter().any(|w| text.eq_ignore_ascii_case(w));
    match logical {
        Logical::Int8 | Logical::Int16 | Logical::Int32 | Logical::Int64 => {
            value().filter(|_| text.parse::<i64>().is_ok() && !text.starts_with('+'))
        }
        Logical::Decimal { .. } | Logical::Numeric | Logical::Float64 => value().filter(|_| number(text)),
        Logical::Bool if is(&["0", "false"]) => Some(DefaultValue::Text("false".into())),
        Logical::Bool if is(&["1", "true"]) => Some(DefaultValue::Text("true".into())),
        Logical::Text | Logical::Timestamp | Logical::TimestampTz if is(&["CURRENT_TIMESTAMP"]) => {
            Some(DefaultValue::NowUtc)
        }
        Logical::Text => {
            let inner = text.strip_prefix('\'')?.strip_suffix('\'')?;
            let plain = inner.replace("''", "");
            (!plain.contains(['\'', '\0'])).then(|| DefaultValue::Text(inner.replace("''", "'")))
        }
        Logical::Bytes => {
            let hex = text.strip_prefix(['x', 'X'])?.strip_prefix('\'')?.strip_suffix('\'')?;
            let byte = |i: usize| u8::from_str_radix(hex.get(i..i + 2)?, 16).ok();
            (0..hex.len()).step_by(2).map(byte).collect::<Option<_>>().map(DefaultValue::Bytes)
        }
        Logical::Bool
        | Logical::Omitted
        | Logical::UInt8
        | Logical::UInt16
        | Logical::UInt32
        | Logical::UInt64
        | Logical::Float32
        | Logical::Enum { .. }
        | Logical::Set { .. }
        | Logical::Json
        | Logical::Bit { .. }
        | Logical::Uuid
        | Logical::Date
        | Logical::Time
        | Logical::Duration
        | Logical::Timestamp
        | Logical::TimestampTz
        | Logical::Postgres { .. }
        | Logical::Literal => None,
    }
}

/// Digits, perhaps with a sign and a point.
fn number(text: &str) -> bool {
    let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    let text = text.strip_prefix('-').unwrap_or(text);
    text.split_once('.').map_or_else(|| digits(text), |(whole, fraction)| digits(whole) && digits(fraction))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants() {
        let text = |t: &str| Some(DefaultValue::Text(t.into()));
        let decimal = Logical::Decimal { precision: 9, scale: 2 };
        for (logical, written, want) in [
            (Logical::Int64, "-7", text("-7")),
            (Logical::Int64, "(1 + 2)", None),
            (Logical::Int64, "'7'", None),
            (decimal, "0.99", text("0.99")),
            (Logical::Float64, "1e3", None),
            (Logical::Bool, "TRUE", text("true")),
            (Logical::Text, "'it''s'", text("it's")),
            (Logical::Text, "'a' || 'b'", None),
            (Logical::Text, "'", None),
            (Logical::Text, "5", None),
            (Logical::Text, "CURRENT_TIMESTAMP", Some(DefaultValue::NowUtc)),
            (Logical::Timestamp, "current_timestamp", Some(DefaultValue::NowUtc)),
            (Logical::Date, "CURRENT_DATE", None),
            (Logical::Bytes, "X'00fF'", Some(DefaultValue::Bytes(vec![0, 255]))),
            (Logical::Bytes, "x'0'", None),
            (Logical::Literal, "1", None),
        ] {
            assert_eq!(constant(&logical, written), want, "{logical:?} {written}");
        }
    }
}
