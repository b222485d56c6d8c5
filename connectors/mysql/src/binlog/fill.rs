//! What rows that were there hold in a column that was added: its default, as the new column holds it.
//!
//! The server converts a default to the column's type: pads it, cuts spaces, rounds, picks a label. Only constants that come
//! out as they were written are carried; of every other the table stops.

use crossfade_core::{Column, Error, Logical, Result, TableSchema};

use super::definition::{Default, Definition, kind_of};

/// The value as the source's text; `None` is NULL.
pub fn fill(table: &TableSchema, column: &Column, definition: &Definition) -> Result<Option<String>> {
    let unknown = |what: &str| {
        Error::data(&table.name, format!("rows that were there hold {what} in the new column"))
            .column(&column.name)
            .hint("copy the table anew with `crossfade snapshot TABLE`; or add columns with a constant DEFAULT")
    };
    if definition.generated {
        return Err(unknown("what an expression gave"));
    }
    if definition.auto_increment {
        return Err(unknown("numbers that the server gave"));
    }
    match &definition.default {
        Default::Constant(text) if is_kept(text, column) => Ok(Some(text.clone())),
        Default::Constant(_) => Err(unknown("what the server made of the default")),
        Default::Null => Ok(None),
        Default::Missing if column.nullable => Ok(None),
        Default::Missing => implicit(column).map(Some).ok_or_else(|| unknown("the type's own default")),
        Default::Expression => Err(unknown("what an expression gave")),
    }
}

/// Whether the column holds the constant as it is written.
fn is_kept(text: &str, column: &Column) -> bool {
    // A statement in another character set than UTF-8.
    if text.contains(char::REPLACEMENT_CHARACTER) {
        return false;
    }
    let kind = kind_of(&column.source_type);
    let shaped = |shape: &str| {
        text.len() == shape.len()
            && text.bytes().zip(shape.bytes()).all(|(t, s)| if s == b'0' { t.is_ascii_digit() } else { t == s })
    };
    match &column.logical {
        Logical::Int16 if kind == "year" => shaped("0000"),
        Logical::Int8 | Logical::Int16 | Logical::Int32 | Logical::Int64 => text.parse::<i64>().is_ok(),
        Logical::UInt8 | Logical::UInt16 | Logical::UInt32 | Logical::UInt64 => text.parse::<u64>().is_ok(),
        Logical::Decimal { scale, .. } => {
            let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
            whole.parse::<i128>().is_ok()
                && fraction.bytes().all(|b| b.is_ascii_digit())
                && fraction.len() <= usize::from(*scale)
        }
        // FLOAT(m,d) rounds.
        Logical::Float32 | Logical::Float64 => !kind.contains('(') && text.parse::<f64>().is_ok(),
        Logical::Text if kind.starts_with("inet") => false,
        Logical::Text => !kind.starts_with("char(") || !text.ends_with(' '),
        Logical::Enum { labels } => labels.iter().any(|l| l == text),
        Logical::Set { labels } => {
            let mut labels = labels.iter();
            text.is_empty() || text.split(',').all(|part| labels.any(|l| l == part))
        }
        Logical::Bytes => !kind.starts_with("binary(") && text.is_ascii(),
        Logical::Date => shaped("0000-00-00") && text != "0000-00-00",
        Logical::Timestamp => shaped("0000-00-00 00:00:00") && !text.starts_with("0000"),
        Logical::Bit { len: 1 } => matches!(text, "0" | "1"),
        // An instant depends on the session's time zone; the others have more than one spelling.
        Logical::TimestampTz | Logical::Duration | Logical::Time | Logical::Bit { .. } | Logical::Uuid => false,
        Logical::Bool | Logical::Numeric | Logical::Json | Logical::Postgres { .. } | Logical::Literal => false,
        Logical::Omitted => false,
    }
}

/// What the server puts into a NOT NULL column without a default.
fn implicit(column: &Column) -> Option<String> {
    match &column.logical {
        Logical::Int8 | Logical::Int16 | Logical::Int32 | Logical::Int64 => Some("0".into()),
        Logical::UInt8 | Logical::UInt16 | Logical::UInt32 | Logical::UInt64 => Some("0".into()),
        Logical::Float32 | Logical::Float64 | Logical::Decimal { .. } => Some("0".into()),
        Logical::Text if !column.source_type.starts_with("inet") => Some(String::new()),
        Logical::Enum { labels } => labels.first().cloned(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_that_the_server_converts_are_not_carried() {
        for (text, source_type, logical, kept) in [
            ("-7", "int", Logical::Int32, true),
            ("1.6", "int", Logical::Int32, false),
            ("24", "year", Logical::Int16, false),
            ("2024", "year", Logical::Int16, true),
            ("1.50", "decimal(6,2)", Logical::Decimal { precision: 6, scale: 2 }, true),
            ("-0.256", "decimal(6,2)", Logical::Decimal { precision: 6, scale: 2 }, false),
            ("0.1", "double", Logical::Float64, true),
            ("0.126", "float(7,2)", Logical::Float32, false),
            ("x ", "varchar(9)", Logical::Text, true),
            ("x ", "char(9)", Logical::Text, false),
            ("\u{fffd}", "varchar(9)", Logical::Text, false),
            ("B", "enum('b')", Logical::Enum { labels: vec!["b".into()] }, false),
            ("y,x", "set('x','y')", Logical::Set { labels: vec!["x".into(), "y".into()] }, false),
            ("x,y", "set('x','y')", Logical::Set { labels: vec!["x".into(), "y".into()] }, true),
            ("a", "binary(4)", Logical::Bytes, false),
            ("a", "varbinary(4)", Logical::Bytes, true),
            ("2024-01-31", "date", Logical::Date, true),
            ("24-1-31", "date", Logical::Date, false),
            ("2024-01-31 00:00:00", "datetime", Logical::Timestamp, true),
            ("2024-01-31 00:00:00", "timestamp", Logical::TimestampTz, false),
            ("10", "time", Logical::Duration, false),
        ] {
            let column = Column {
                name: "c".into(),
                source_type: source_type.into(),
                logical,
                nullable: true,
                auto_increment: false,
                number: 0,
                policies: crossfade_core::Policies::default(),
            };
            assert_eq!(is_kept(text, &column), kept, "{text} in {source_type}");
        }
    }
}
