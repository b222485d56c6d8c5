//! Changes of type that leave every value what it is: wider integers, more digits, longer text, labels behind the others.
//!
//! Both servers convert values in one way only (`ALTER TABLE` has no `USING`), so the two types alone tell whether values may change.
//! The rules are those of the servers' assignments: <https://dev.mysql.com/doc/refman/9.4/en/data-types.html>,
//! <https://mariadb.com/docs/server/reference/data-types>. What is in none of them is a change that may touch values.

use crossfade_core::Logical;

use crate::types::parse_labels;

/// How values travel once a column of type `old` is one of type `new`, both as [`super::definition::kind_of`] spells them; `None`: some
/// value may become another.
pub fn widened(old: &str, new: &str, logical: &Logical) -> Option<Logical> {
    if old == new || is_wider(old, new) || more_fraction(old, new) {
        return Some(logical.clone());
    }
    match logical {
        Logical::Enum { .. } => more_labels("enum", old, new).map(|labels| Logical::Enum { labels }),
        Logical::Set { .. } => more_labels("set", old, new).map(|labels| Logical::Set { labels }),
        Logical::Float32 if (old, new) == ("float", "double") => Some(Logical::Float64),
        Logical::Decimal { .. } => more_digits(old, new),
        Logical::Int8
        | Logical::Int16
        | Logical::Int32
        | Logical::Int64
        | Logical::UInt8
        | Logical::UInt16
        | Logical::UInt32
        | Logical::UInt64 => greater(old, new),
        Logical::Bool
        | Logical::Float32
        | Logical::Float64
        | Logical::Numeric
        | Logical::Text
        | Logical::Json
        | Logical::Bytes
        | Logical::Bit { .. }
        | Logical::Uuid
        | Logical::Date
        | Logical::Time
        | Logical::Duration
        | Logical::Timestamp
        | Logical::TimestampTz
        | Logical::Postgres { .. }
        | Logical::Literal
        | Logical::Omitted => None,
    }
}

/// Whether every value of a text or bytes type is one of another, unchanged.
pub fn is_wider(old: &str, new: &str) -> bool {
    let length = |t: &str| {
        t.split_once('(').and_then(|(kind, n)| Some((kind.to_owned(), n.strip_suffix(')')?.parse::<u32>().ok()?)))
    };
    if let (Some((a, n)), Some((b, m))) = (length(old), length(new)) {
        return a == b && matches!(a.as_str(), "varchar" | "varbinary" | "char") && n <= m;
    }
    // A row has no room for a varchar that a text had not: both end before 65,536 bytes.
    let to_text = |from: &str, large: [&str; 3]| old.starts_with(from) && large.contains(&new);
    if to_text("varchar(", ["text", "mediumtext", "longtext"])
        || to_text("varbinary(", ["blob", "mediumblob", "longblob"])
    {
        return true;
    }
    [["tinytext", "text", "mediumtext", "longtext"], ["tinyblob", "blob", "mediumblob", "longblob"]].iter().any(
        |kinds| {
            let at = |t: &str| kinds.iter().position(|k| *k == t);
            matches!((at(old), at(new)), (Some(a), Some(b)) if a <= b)
        },
    )
}

/// Whether a time has more digits of its second now, and is otherwise of the same type.
fn more_fraction(old: &str, new: &str) -> bool {
    let read = |t: &str| {
        let (name, digits) = t.strip_suffix(')').and_then(|t| t.split_once('(')).unwrap_or((t, "0"));
        let digits = digits.parse::<u8>().ok().filter(|d| *d <= 6)?;
        matches!(name, "datetime" | "timestamp" | "time").then(|| (name.to_owned(), digits))
    };
    matches!((read(old), read(new)), (Some((a, n)), Some((b, m))) if a == b && n <= m)
}

/// The greater integer type.
fn greater(old: &str, new: &str) -> Option<Logical> {
    const RANKS: [&str; 5] = ["tinyint", "smallint", "mediumint", "int", "bigint"];
    let read = |t: &str| {
        let (name, unsigned) = t.strip_suffix(" unsigned").map_or((t, false), |name| (name, true));
        Some((RANKS.iter().position(|r| *r == name)?, unsigned))
    };
    let ((was, had_no_sign), (is, has_no_sign)) = (read(old)?, read(new)?);
    // Half of a type's unsigned numbers are none of the same type's signed ones.
    let holds = match (had_no_sign, has_no_sign) {
        (false, true) => false,
        (true, false) => is > was,
        (false, false) | (true, true) => is >= was,
    };
    let all = match has_no_sign {
        true => [Logical::UInt8, Logical::UInt16, Logical::UInt32, Logical::UInt32, Logical::UInt64],
        false => [Logical::Int8, Logical::Int16, Logical::Int32, Logical::Int32, Logical::Int64],
    };
    all.into_iter().nth(is).filter(|_| holds)
}

/// The decimal of more digits, on both sides of the point.
fn more_digits(old: &str, new: &str) -> Option<Logical> {
    let read = |t: &str| {
        let (t, unsigned) = t.strip_suffix(" unsigned").map_or((t, false), |t| (t, true));
        let (precision, scale) = t.strip_prefix("decimal(")?.strip_suffix(')')?.split_once(',')?;
        let (precision, scale) = (precision.trim().parse::<u8>().ok()?, scale.trim().parse::<u8>().ok()?);
        (scale <= precision && precision <= 65).then_some((precision - scale, scale, unsigned))
    };
    let ((whole, scale, had_no_sign), (more, finer, has_no_sign)) = (read(old)?, read(new)?);
    let holds = more >= whole && finer >= scale && (had_no_sign || !has_no_sign);
    holds.then_some(Logical::Decimal { precision: more + finer, scale: finer })
}

/// All labels, if those that were there stand first: a value is the number of its label.
fn more_labels(kind: &str, old: &str, new: &str) -> Option<Vec<String>> {
    let read = |t: &str| if t.strip_prefix(kind)?.starts_with('(') { parse_labels(t) } else { None };
    // What the server strips, folds or shows in another way might be another label than the one that is written.
    let plain = |label: &String| {
        !label.ends_with(' ')
            && label
                .chars()
                .all(|c| !c.is_control() && !matches!(c, '\\' | '?' | '\u{fffd}') && u32::from(c) < 0x1_0000)
    };
    let (before, now) = (read(old)?, read(new)?);
    (now.starts_with(&before) && now.iter().all(plain)).then_some(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_may_grow_and_nothing_else() {
        let decimal = |precision, scale| Logical::Decimal { precision, scale };
        let labels = |all: &[&str]| all.iter().map(|l| (*l).to_owned()).collect::<Vec<_>>();
        let a = Logical::Enum { labels: labels(&["a"]) };
        for (old, new, from, to) in [
            ("varchar(20)", "varchar(40)", Logical::Text, Some(Logical::Text)),
            ("varchar(40)", "varchar(20)", Logical::Text, None),
            ("text", "longtext", Logical::Text, Some(Logical::Text)),
            ("varchar(20)", "text", Logical::Text, Some(Logical::Text)),
            ("varchar(20)", "tinytext", Logical::Text, None),
            ("char(20)", "text", Logical::Text, None),
            ("text", "varchar(20)", Logical::Text, None),
            ("longblob", "blob", Logical::Bytes, None),
            ("varchar(20)", "char(40)", Logical::Text, None),
            ("datetime(6)", "datetime", Logical::Timestamp, None),
            ("datetime", "datetime(6)", Logical::Timestamp, Some(Logical::Timestamp)),
            ("time(2)", "time(3)", Logical::Duration, Some(Logical::Duration)),
            ("datetime", "timestamp", Logical::Timestamp, None),
            ("date", "datetime", Logical::Date, None),
            ("int", "bigint", Logical::Int32, Some(Logical::Int64)),
            ("mediumint", "int", Logical::Int32, Some(Logical::Int32)),
            ("bigint", "int", Logical::Int64, None),
            ("int unsigned", "bigint", Logical::UInt32, Some(Logical::Int64)),
            ("int unsigned", "int", Logical::UInt32, None),
            ("int", "bigint unsigned", Logical::Int32, None),
            ("tinyint unsigned", "smallint unsigned", Logical::UInt8, Some(Logical::UInt16)),
            ("year", "smallint", Logical::Int16, None),
            ("decimal(6,2)", "decimal(8,2)", decimal(6, 2), Some(decimal(8, 2))),
            ("decimal(6,2)", "decimal(7,3)", decimal(6, 2), Some(decimal(7, 3))),
            ("decimal(6,2)", "decimal(6,3)", decimal(6, 2), None),
            ("decimal(6,2)", "decimal(8,1)", decimal(6, 2), None),
            ("decimal(6,2)", "decimal(8,2) unsigned", decimal(6, 2), None),
            ("float", "double", Logical::Float32, Some(Logical::Float64)),
            ("float(7,3)", "double", Logical::Float32, None),
            ("enum('a')", "enum('a','b')", a.clone(), Some(Logical::Enum { labels: labels(&["a", "b"]) })),
            ("enum('a')", "enum('b','a')", a.clone(), None),
            ("enum('a')", "enum('a','b ')", a.clone(), None),
            ("enum('a')", "enum('a','\u{1F980}')", a, None),
        ] {
            assert_eq!(widened(old, new, &from), to, "{old} {new}");
        }
    }
}
