//! The source's column types and how their values travel.
//!
//! | MySQL, MariaDB | travels as |
//! |---|---|
//! | tinyint .. bigint | Int8/16/32/64, UInt8/16/32/64; mediumint as 32 bits, tinyint(1) stays Int8 |
//! | decimal(p,s) | Decimal, up to 65 digits |
//! | float, double | Float32, Float64, every bit |
//! | bit(n) | Bit |
//! | char, varchar, text kinds in any character set | Text |
//! | binary, varbinary, blob kinds, geometry kinds | Bytes (geometry: 4 bytes SRID, then WKB) |
//! | enum, set | Enum, Set |
//! | year, date, datetime, timestamp, time | Int16, Date, Timestamp, TimestampTz, Duration |
//! | json (MariaDB: longtext checked by json_valid) | Json |
//! | MySQL vector | a Postgres array of reals, as text |
//! | MariaDB uuid, inet4, inet6 | Uuid, Text, Text |
//!
//! SELECT converts text and the log does not: it holds the column's own bytes. Both ways must give the same value, so text in
//! other character sets than UTF-8 and latin1 is selected as bytes ([`raw_charset`]) and read by the same table.

use crossfade_core::Logical;

use crate::binlog::vector;

/// What information_schema says about a column's type.
#[derive(Debug, Clone)]
pub struct Declared<'a> {
    /// `int`, `varchar`.
    pub data_type: &'a str,
    /// `int(10) unsigned`, `enum('a','b')`.
    pub column_type: &'a str,
    /// The character set of text, enum and set.
    pub charset: Option<&'a str>,
    /// Digits of a decimal, bits of a bit.
    pub precision: Option<u64>,
    /// Digits after the point.
    pub scale: Option<u64>,
    /// Whether MariaDB checks it with json_valid.
    pub json_checked: bool,
    /// Whether the server is MariaDB.
    pub mariadb: bool,
}

/// Why a column cannot be carried, and what mends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub why: String,
    /// The change that makes it carriable, behind `ALTER TABLE ... MODIFY ...`.
    pub mend: String,
}

/// Character sets that SELECT converts to the letter. (`utf8` is what older servers call utf8mb3.)
const CONVERTED: [&str; 4] = ["latin1", "utf8", "utf8mb3", "utf8mb4"];

/// A column's type as it is stored: with its character set, where values must be read by it.
pub fn source_type(column: &Declared<'_>) -> String {
    match column.charset {
        Some(charset) if !CONVERTED.contains(&charset) && is_text(column.data_type) => {
            format!("{}{CHARACTER_SET}{charset}", column.column_type)
        }
        _ => column.column_type.to_owned(),
    }
}

/// A stored type of text with another character set than it was stored with.
pub fn with_charset(stored: &str, charset: &str) -> String {
    let column_type = stored.split_once(CHARACTER_SET).map_or(stored, |(before, _)| before);
    let data_type = column_type.split('(').next().unwrap_or(column_type);
    let declared = Declared {
        data_type,
        column_type,
        charset: Some(charset),
        precision: None,
        scale: None,
        json_checked: false,
        mariadb: false,
    };
    source_type(&declared)
}

const CHARACTER_SET: &str = " character set ";

/// The character set by which a column's bytes must be read, of a type that [`source_type`] wrote.
pub fn raw_charset(source_type: &str) -> Option<&str> {
    source_type.rsplit_once(CHARACTER_SET).map(|(_, name)| name).filter(|name| !name.contains(['\'', ')']))
}

fn is_text(data_type: &str) -> bool {
    matches!(data_type, "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext")
}

/// How values of a column travel.
pub fn logical(column: &Declared<'_>) -> Result<Logical, Refusal> {
    if column.column_type.contains("COMPRESSED*/") {
        return Err(Refusal {
            why: format!("{}: the log holds the compressed bytes", column.column_type),
            mend: "without COMPRESSED".into(),
        });
    }
    let unsigned = column.column_type.split_whitespace().any(|word| word == "unsigned");
    Ok(match column.data_type {
        "tinyint" => {
            if unsigned {
                Logical::UInt8
            } else {
                Logical::Int8
            }
        }
        "smallint" => {
            if unsigned {
                Logical::UInt16
            } else {
                Logical::Int16
            }
        }
        "mediumint" | "int" => {
            if unsigned {
                Logical::UInt32
            } else {
                Logical::Int32
            }
        }
        "bigint" => {
            if unsigned {
                Logical::UInt64
            } else {
                Logical::Int64
            }
        }
        "decimal" => decimal(column)?,
        "float" => Logical::Float32,
        "double" => Logical::Float64,
        "bit" => match column.precision.map(u32::try_from) {
            Some(Ok(len @ 1..=64)) => Logical::Bit { len },
            _ => return Err(unreadable(column)),
        },
        "longtext" if column.json_checked => text(column, Logical::Json)?,
        "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" => text(column, Logical::Text)?,
        "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" => Logical::Bytes,
        "enum" => text(column, Logical::Enum { labels: labels(column)? })?,
        "set" => text(column, Logical::Set { labels: labels(column)? })?,
        "year" => Logical::Int16,
        "date" => Logical::Date,
        "datetime" => Logical::Timestamp,
        "timestamp" => Logical::TimestampTz,
        "time" => Logical::Duration,
        "json" => Logical::Json,
        "uuid" => Logical::Uuid,
        "inet4" | "inet6" => Logical::Text,
        "geometry" | "point" | "linestring" | "polygon" | "multipoint" | "multilinestring" | "multipolygon"
        | "geomcollection" | "geometrycollection" => Logical::Bytes,
        "vector" if !column.mariadb => Logical::Postgres { name: vector::ARRAY.into() },
        _ => {
            return Err(Refusal {
                why: format!("type {} is not supported", column.column_type),
                mend: "to a supported type, such as varbinary".into(),
            });
        }
    })
}

fn decimal(column: &Declared<'_>) -> Result<Logical, Refusal> {
    match (column.precision, column.scale) {
        (Some(precision @ 1..=65), Some(scale)) if scale <= precision => {
            Ok(Logical::Decimal { precision: precision as u8, scale: scale as u8 })
        }
        _ => Err(unreadable(column)),
    }
}

fn text(column: &Declared<'_>, logical: Logical) -> Result<Logical, Refusal> {
    match column.charset {
        Some(charset) if crate::charsets::is_known(charset) => Ok(logical),
        Some(charset) => Err(Refusal {
            why: format!("character set {charset} is not known here"),
            mend: "with CHARACTER SET utf8mb4".into(),
        }),
        None => Err(unreadable(column)),
    }
}

fn unreadable(column: &Declared<'_>) -> Refusal {
    Refusal {
        why: format!("type {} is not written as this server version is known to write it", column.column_type),
        mend: "to a supported type".into(),
    }
}

/// The labels in `enum('a','b''c')`, written as the server's `append_unescaped` (sql/unireg or sql_string) writes them:
/// quotes doubled, and backslash, line feed, carriage return and NUL behind a backslash.
fn labels(column: &Declared<'_>) -> Result<Vec<String>, Refusal> {
    let labels = parse_labels(column.column_type).ok_or_else(|| unreadable(column))?;
    // The catalog is utf8mb3: a character of four bytes stands there as a question mark, and might be any.
    let beyond = ["utf8mb4", "utf16", "utf16le", "utf32", "gb18030"];
    if column.charset.is_some_and(|c| beyond.contains(&c)) && labels.iter().any(|label| label.contains('?')) {
        return Err(Refusal {
            why: format!("the catalog cannot show all labels of {}", column.column_type),
            mend: "to labels without question marks and characters beyond U+FFFF, or with CHARACTER SET utf8mb3".into(),
        });
    }
    Ok(labels)
}

/// The labels of an enum or a set, of whatever character set.
pub fn parse_labels(column_type: &str) -> Option<Vec<String>> {
    let open = column_type.find('(')?;
    let mut chars = column_type.get(open + 1..)?.chars().peekable();
    let mut labels = Vec::new();
    loop {
        if chars.next()? != '\'' {
            return None;
        }
        let mut label = String::new();
        loop {
            match chars.next()? {
                '\'' if chars.peek() == Some(&'\'') => {
                    chars.next();
                    label.push('\'');
                }
                '\'' => break,
                '\\' => label.push(match chars.next()? {
                    'n' => '\n',
                    'r' => '\r',
                    '0' => '\0',
                    other => other,
                }),
                other => label.push(other),
            }
        }
        labels.push(label);
        match chars.next()? {
            ',' => {}
            ')' => return Some(labels),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared<'a>(data_type: &'a str, column_type: &'a str) -> Declared<'a> {
        let charset = Some("utf8mb4");
        Declared { data_type, column_type, charset, precision: None, scale: None, json_checked: false, mariadb: false }
    }

    #[test]
    fn integers_by_sign_and_width() {
        assert_eq!(logical(&declared("tinyint", "tinyint(1)")), Ok(Logical::Int8));
        assert_eq!(logical(&declared("int", "int(5) unsigned zerofill")), Ok(Logical::UInt32));
        assert_eq!(logical(&declared("mediumint", "mediumint")), Ok(Logical::Int32));
        assert_eq!(logical(&declared("bigint", "bigint unsigned")), Ok(Logical::UInt64));
    }

    #[test]
    fn labels_are_unescaped() {
        let written = r"enum('a','b''c','d\\e','n\nl','é','x,)')";
        let labels: Vec<String> = ["a", "b'c", "d\\e", "n\nl", "é", "x,)"].map(String::from).into();
        assert_eq!(logical(&declared("enum", written)), Ok(Logical::Enum { labels }));
        assert!(parse_labels("enum('a'").is_none());
        assert!(parse_labels("enum(a)").is_none());
        assert!(logical(&declared("enum", "enum('a?')")).unwrap_err().why.contains("labels"));
        let narrow = Declared { charset: Some("utf8mb3"), ..declared("enum", "enum('a?')") };
        assert_eq!(logical(&narrow), Ok(Logical::Enum { labels: vec!["a?".into()] }));
    }

    #[test]
    fn a_character_set_gives_way_to_another() {
        assert_eq!(with_charset("varchar(3) character set gbk", "utf8mb4"), "varchar(3)");
        assert_eq!(with_charset("varchar(3) character set gbk", "sjis"), "varchar(3) character set sjis");
        assert_eq!(with_charset("text", "gbk"), "text character set gbk");
        assert_eq!(with_charset("enum('a','b')", "gbk"), "enum('a','b')");
    }

    #[test]
    fn what_is_read_as_bytes_says_by_what() {
        let of = |charset| Declared { charset: Some(charset), ..declared("varchar", "varchar(3)") };
        assert_eq!(source_type(&of("utf8mb4")), "varchar(3)");
        let gbk = source_type(&of("gbk"));
        assert_eq!((gbk.as_str(), raw_charset(&gbk)), ("varchar(3) character set gbk", Some("gbk")));
        assert_eq!(logical(&of("gbk")), Ok(Logical::Text));
        assert_eq!(raw_charset("enum('a character set b')"), None);
        assert_eq!(source_type(&Declared { charset: Some("gbk"), ..declared("enum", "enum('a')") }), "enum('a')");
    }

    #[test]
    fn refusals_name_the_type() {
        assert_eq!(logical(&declared("vector", "vector(3)")), Ok(Logical::Postgres { name: "real[]".into() }));
        let of_mariadb = Declared { mariadb: true, ..declared("vector", "vector(3)") };
        assert!(logical(&of_mariadb).unwrap_err().why.contains("vector(3)"));
        let compressed = declared("varchar", "varchar(9) /*M!100301 COMPRESSED*/");
        assert!(logical(&compressed).unwrap_err().why.contains("compressed bytes"));
        let odd = Declared { charset: Some("ebcdic"), ..declared("varchar", "varchar(3)") };
        assert!(logical(&odd).unwrap_err().why.contains("ebcdic"));
        let wide = Declared { precision: Some(65), scale: Some(30), ..declared("decimal", "decimal(65,30)") };
        assert_eq!(logical(&wide), Ok(Logical::Decimal { precision: 65, scale: 30 }));
    }
}
