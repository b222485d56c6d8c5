//! What a column's type in a Postgres source means.
//!
//! Domains are what they are made of. Built-in types that only Postgres has (arrays, ranges, `inet`, `interval`) travel as
//! their text under their own name, so that a Postgres target makes the same column. Types of users (composite types, arrays of
//! enums) and of known extensions (`hstore`) travel as plain text: whether a target has them is not known here, and their text
//! is exact. Those of pgvector keep their own name, in the extension's schema. Whether the text of any other type is, nobody has said, so it is refused (`unnamed.rs`). Modifiers as the server
//! packs them: `numeric.c` (`make_numeric_typmod`), `varbit.c`.

use crossfade_core::Logical;

/// A column's type with domains resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared<'a> {
    /// `pg_type.typname`.
    pub typname: &'a str,
    /// Whether it, or the type of its elements, is one of `pg_catalog`'s.
    pub builtin: bool,
    /// Length or precision as the type packs it; -1 for none.
    pub typmod: i32,
    /// As `format_type` prints it.
    pub sql: &'a str,
    /// The labels of an enum.
    pub labels: Option<&'a [String]>,
    /// The extension that brought the type.
    pub extension: Option<&'a str>,
}

/// How its values travel.
pub fn logical(declared: &Declared<'_>) -> Logical {
    if let Some(labels) = declared.labels {
        return Logical::Enum { labels: labels.to_vec() };
    }
    if declared.extension == Some(crate::types::PGVECTOR) {
        // A database that holds such values is of use with the extension only, so a target has it, or gets it.
        return Logical::Postgres { name: declared.sql.to_owned() };
    }
    if !declared.builtin {
        return Logical::Text;
    }
    match declared.typname {
        "bool" => Logical::Bool,
        "int2" => Logical::Int16,
        "int4" => Logical::Int32,
        "int8" => Logical::Int64,
        "oid" => Logical::UInt32,
        "float4" => Logical::Float32,
        "float8" => Logical::Float64,
        "numeric" => numeric(declared.typmod),
        "text" | "varchar" | "bpchar" | "name" | "char" => Logical::Text,
        "json" | "jsonb" => Logical::Json,
        "bytea" => Logical::Bytes,
        "uuid" => Logical::Uuid,
        "date" => Logical::Date,
        "time" => Logical::Time,
        "timestamp" => Logical::Timestamp,
        "timestamptz" => Logical::TimestampTz,
        "bit" => match u32::try_from(declared.typmod) {
            Ok(len) if len > 0 => Logical::Bit { len },
            _ => Logical::Postgres { name: declared.sql.to_owned() },
        },
        // The name of an object, or what only its own server wrote: another database has no such object.
        kind if names_an_object(kind) => Logical::Text,
        // Every other built-in type, by its own name: nothing is lost by not knowing it.
        _ => Logical::Postgres { name: declared.sql.to_owned() },
    }
}

/// Types, and arrays of types, whose text is read only where the object that it names exists (`regproc.c`, `acl.c`), or is
/// not read at all (statistics and expression trees, whose input functions refuse).
fn names_an_object(typname: &str) -> bool {
    let element = typname.strip_prefix('_').unwrap_or(typname);
    let reg = ["class", "collation", "config", "database", "dictionary", "namespace", "oper", "operator", "proc"];
    let more = ["procedure", "role", "type"];
    match element.strip_prefix("reg") {
        Some(object) => reg.contains(&object) || more.contains(&object),
        None => matches!(
            element,
            "aclitem" | "pg_node_tree" | "pg_ndistinct" | "pg_dependencies" | "pg_mcv_list" | "gtsvector"
        ),
    }
}

/// A decimal where digits before and after the point are bounded as others bound them, else any number.
fn numeric(typmod: i32) -> Logical {
    /// What a 256-bit decimal holds.
    const MOST: i32 = 76;
    if typmod < 4 {
        return Logical::Numeric;
    }
    let packed = typmod - 4;
    let (precision, scale) = ((packed >> 16) & 0xFFFF, ((packed & 0x7FF) ^ 1024) - 1024);
    match (u8::try_from(precision), u8::try_from(scale)) {
        (Ok(precision), Ok(scale)) if i32::from(precision) <= MOST && scale <= precision => {
            Logical::Decimal { precision, scale }
        }
        _ => Logical::Numeric,
    }
}

/// The expression that reads a column for the copy, so that its value is what the log would show: values of the listed
/// types in their own binary form, all others by their output function. A cast to text would not do: it strips the blanks
/// of `char(n)`, and gives `inet` a netmask.
pub fn select(quoted: &str, logical: &Logical, source_type: &str) -> String {
    let printed = || format!("CASE WHEN {quoted} IS DISTINCT FROM NULL THEN pg_catalog.format('%s', {quoted}) END");
    match logical {
        // The decoder reads unsigned 32-bit as bigint.
        Logical::UInt32 => format!("{quoted}::pg_catalog.int8"),
        Logical::Json => format!("{quoted}::pg_catalog.text"),
        Logical::Omitted => "NULL".to_owned(),
        Logical::Text if is_text(source_type) => quoted.to_owned(),
        Logical::Text | Logical::Postgres { .. } => printed(),
        Logical::Bool
        | Logical::Int8
        | Logical::Int16
        | Logical::Int32
        | Logical::Int64
        | Logical::UInt8
        | Logical::UInt16
        | Logical::UInt64
        | Logical::Float32
        | Logical::Float64
        | Logical::Decimal { .. }
        | Logical::Numeric
        | Logical::Enum { .. }
        | Logical::Set { .. }
        | Logical::Bytes
        | Logical::Bit { .. }
        | Logical::Uuid
        | Logical::Date
        | Logical::Time
        | Logical::Duration
        | Logical::Timestamp
        | Logical::TimestampTz
        | Logical::Literal => quoted.to_owned(),
    }
}

/// Types whose binary form is their text.
fn is_text(source_type: &str) -> bool {
    let name = source_type.split('(').next().unwrap_or_default();
    ["text", "character varying", "character", "bpchar", "name"].contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(typname: &str, typmod: i32, sql: &str) -> Logical {
        logical(&Declared { typname, builtin: true, typmod, sql, labels: None, extension: None })
    }

    #[test]
    fn numbers() {
        let packed = |p: i32, s: i32| ((p << 16) | (s & 0x7FF)) + 4;
        assert_eq!(of("numeric", packed(10, 2), ""), Logical::Decimal { precision: 10, scale: 2 });
        assert_eq!(of("numeric", packed(76, 76), ""), Logical::Decimal { precision: 76, scale: 76 });
        for other in [-1, packed(77, 0), packed(5, -2), packed(3, 5), packed(1000, 10)] {
            assert_eq!(of("numeric", other, ""), Logical::Numeric, "{other}");
        }
        assert_eq!(of("oid", -1, "oid"), Logical::UInt32);
    }

    #[test]
    fn types_that_nobody_else_has_keep_their_name() {
        assert_eq!(of("_text", -1, "text[]"), Logical::Postgres { name: "text[]".into() });
        assert_eq!(of("interval", -1, "interval"), Logical::Postgres { name: "interval".into() });
        for text in ["regclass", "_regtype", "aclitem", "_aclitem"] {
            assert_eq!(of(text, -1, text), Logical::Text, "{text}");
        }
        let own =
            |labels| Declared { typname: "mood", builtin: false, typmod: -1, sql: "s.mood", labels, extension: None };
        assert_eq!(logical(&own(None)), Logical::Text);
        let labels = ["sad".to_owned()];
        assert_eq!(logical(&own(Some(&labels))), Logical::Enum { labels: labels.to_vec() });
    }

    #[test]
    fn padded_text_is_read_as_it_is() {
        assert_eq!(select("\"a\"", &Logical::Text, "character(3)"), "\"a\"");
        assert!(select("\"a\"", &Logical::Text, "\"char\"").contains("format"));
        assert!(select("\"a\"", &Logical::Text, "public.year_text").contains("format"));
    }
}
