//! Ranges of keys as SQL, and where to cut a table.
//!
//! A bound becomes a literal that compares exactly in the column's own order: numbers bare (a DECIMAL compared with a
//! string would be compared as a double), text as `_utf8mb4 X'..'` (no quoting rules, the column's collation wins) or, in
//! another character set, as its own bytes (`_gbk X'..'`: two codes may be one character), bytes as `X'..'`, enums and sets by number, as ORDER BY has them. Composite keys are compared column by column in OR form
//! behind a plain bound of the first column, because the optimizer uses an index for that and not for `(a, b) > (1, 2)`.

use arrow_array::RecordBatch;
use crossfade_core::{Column, Error, KeyPart, KeyRange, Logical, Result, TableSchema};

use crate::catalog::{quote, quote_table};
use crate::session::{Session, TextRow};
use crate::types::raw_charset;

/// Keys that one statement names: with the longest keys there are (3,072 bytes) it stays below the least `max_allowed_packet`.
const KEYS: usize = 200;

/// The condition of a range; `TRUE` for all keys.
pub fn condition(table: &TableSchema, range: &KeyRange) -> Result<String> {
    let mut parts = Vec::new();
    for (bound, strict, last) in [(&range.after, ">", ">"), (&range.to, "<", "<=")] {
        if let Some(bound) = bound {
            parts.push(compare(table, bound, strict, last)?);
        }
    }
    Ok(if parts.is_empty() { "TRUE".into() } else { parts.join(" AND ") })
}

/// Conditions that together hold for the rows with these keys, and perhaps for rows with keys that a collation calls equal.
/// `None` where a literal may not find its own row, or may not be compared: text that is not ASCII (a column's character set may
/// lack it), or is stored in a character set with two codes for one character.
pub fn points(table: &TableSchema, keys: &RecordBatch) -> Result<Option<Vec<String>>> {
    let Some(keys) = KeyPart::of_keys(table, keys) else { return Ok(None) };
    let is_plain = |part: &KeyPart| !matches!(part, KeyPart::Text(text) if !text.is_ascii());
    if table.key_columns().any(|c| raw_charset(&c.source_type).is_some()) || !keys.iter().flatten().all(is_plain) {
        return Ok(None);
    }
    let equal = |(column, part): (&Column, &KeyPart)| -> Result<String> {
        Ok(format!("{} = {}", quote(&column.name), literal(table, column, part)?))
    };
    let point = |key: &Vec<KeyPart>| -> Result<String> {
        let terms = table.key_columns().zip(key).map(equal).collect::<Result<Vec<_>>>()?;
        Ok(format!("({})", terms.join(" AND ")))
    };
    let some = |keys: &[Vec<KeyPart>]| -> Result<String> {
        Ok(keys.iter().map(point).collect::<Result<Vec<_>>>()?.join(" OR "))
    };
    keys.chunks(KEYS).map(some).collect::<Result<_>>().map(Some)
}

/// `key strict bound`, where `last` takes the place of `strict` for the last column.
fn compare(table: &TableSchema, bound: &[KeyPart], strict: &str, last: &str) -> Result<String> {
    let columns: Vec<&Column> = table.key_columns().collect();
    if columns.is_empty() || columns.len() != bound.len() {
        return Err(Error::config(format!(
            "table {}: a range of {} parts does not fit its key",
            table.name,
            bound.len()
        ))
        .hint("the key was changed after the copy was planned: copy the table anew with `crossfade snapshot TABLE`"));
    }
    let literals = columns.iter().zip(bound).map(|(c, p)| literal(table, c, p)).collect::<Result<Vec<_>>>()?;
    let names: Vec<String> = columns.iter().map(|c| quote(&c.name)).collect();
    if let ([name], [literal]) = (names.as_slice(), literals.as_slice()) {
        return Ok(format!("{name} {last} {literal}"));
    }
    let mut terms = Vec::new();
    for depth in 0..names.len() {
        let mut term: Vec<String> = (0..depth).map(|i| format!("{} = {}", names[i], literals[i])).collect();
        let operator = if depth + 1 == names.len() { last } else { strict };
        term.push(format!("{} {operator} {}", names[depth], literals[depth]));
        terms.push(format!("({})", term.join(" AND ")));
    }
    Ok(format!("{} {strict}= {} AND ({})", names[0], literals[0], terms.join(" OR ")))
}

/// A bound's part as a literal for its column.
fn literal(table: &TableSchema, column: &Column, part: &KeyPart) -> Result<String> {
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    match (part, &column.logical) {
        (KeyPart::Int(n), _) if by_number(&column.logical) => Ok(n.to_string()),
        (KeyPart::Bytes(bytes), Logical::Bytes) => Ok(format!("X'{}'", hex(bytes))),
        (KeyPart::Bytes(bytes), Logical::Text) => match raw_charset(&column.source_type) {
            Some(name) if name.bytes().all(|b| b.is_ascii_alphanumeric()) => Ok(format!("_{name} X'{}'", hex(bytes))),
            _ => Err(unfit(table, column, part)),
        },
        (KeyPart::Text(text), Logical::Decimal { .. } | Logical::Float32 | Logical::Float64)
            if text.bytes().all(|b| b.is_ascii_digit() || b"+-.e".contains(&b)) && !text.is_empty() =>
        {
            Ok(text.clone())
        }
        (KeyPart::Text(text), Logical::Text) => Ok(format!("_utf8mb4 X'{}'", hex(text.as_bytes()))),
        (
            KeyPart::Text(text),
            Logical::Date | Logical::Timestamp | Logical::TimestampTz | Logical::Duration | Logical::Uuid,
        ) => Ok(crate::catalog::literal(text)),
        _ => Err(unfit(table, column, part)),
    }
}

fn unfit(table: &TableSchema, column: &Column, part: &KeyPart) -> Error {
    let what = format!("table {}: the range's bound {part:?} does not fit column {}", table.name, column.name);
    Error::config(what)
        .hint("the key was changed after the copy was planned: copy the table anew with `crossfade snapshot TABLE`")
}

/// Whether a key's bounds are bytes.
fn as_bytes(column: &Column) -> bool {
    column.logical == Logical::Bytes || raw_charset(&column.source_type).is_some()
}

/// Whether bounds of the column are integers.
fn by_number(logical: &Logical) -> bool {
    is_integer(logical) || matches!(logical, Logical::Enum { .. } | Logical::Set { .. } | Logical::Bit { .. })
}

fn is_integer(logical: &Logical) -> bool {
    use Logical::*;
    matches!(logical, Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32 | UInt64)
}

/// A key column as a text that [`part`] reads back exactly.
fn selected(column: &Column) -> String {
    let name = quote(&column.name);
    match column.logical {
        Logical::Enum { .. } | Logical::Set { .. } | Logical::Bit { .. } => format!("CAST({name} AS UNSIGNED)"),
        // As a double: a FLOAT by itself is printed with six digits.
        Logical::Float32 | Logical::Float64 => format!("{name} + 0e0"),
        _ if as_bytes(column) => format!("HEX({name})"),
        _ => name,
    }
}

fn part(table: &TableSchema, column: &Column, text: Option<String>) -> Result<KeyPart> {
    let unreadable =
        |text: &str| Error::corrupt(format!("table {}: key value {text} of column {}", table.name, column.name));
    let text = text.ok_or_else(|| unreadable("NULL"))?;
    if by_number(&column.logical) {
        return text.parse().map(KeyPart::Int).map_err(|_| unreadable(&text));
    }
    match column.logical {
        _ if as_bytes(column) => {
            let byte = |i: usize| u8::from_str_radix(text.get(i..i + 2)?, 16).ok();
            let bytes: Option<Vec<u8>> = (0..text.len()).step_by(2).map(byte).collect();
            bytes.map(KeyPart::Bytes).ok_or_else(|| unreadable(&text))
        }
        // An exponent makes the literal a double; without one it would be a decimal.
        Logical::Float32 | Logical::Float64 if !text.contains('e') => Ok(KeyPart::Text(format!("{text}e0"))),
        _ => Ok(KeyPart::Text(text)),
    }
}

fn bound(table: &TableSchema, row: TextRow) -> Result<Vec<KeyPart>> {
    table.key_columns().zip(row).map(|(column, text)| part(table, column, text)).collect()
}

/// Cuts a table into ranges of about `rows` rows. The last one ends at the greatest key there is now.
///
/// A dense integer key is cut by arithmetic; any other key is walked in the server's index, which is right for every
/// type and every gap.
pub fn split(session: &mut Session, table: &TableSchema, rows: u64) -> Result<Vec<KeyRange>> {
    let rows = rows.max(1);
    let names: Vec<String> = table.key_columns().map(|c| quote(&c.name)).collect();
    let selected: Vec<String> = table.key_columns().map(selected).collect();
    let descending: Vec<String> = names.iter().map(|n| format!("{n} DESC")).collect();
    let (list, place) = (selected.join(", "), quote_table(&table.name));
    let last = session.row(&format!("SELECT {list} FROM {place} ORDER BY {} LIMIT 1", descending.join(", ")))?;
    let Some(last) = last else { return Ok(Vec::new()) };
    let last = bound(table, last)?;
    if let [KeyPart::Int(max)] = last.as_slice() {
        let min = session.value(&format!("SELECT {list} FROM {place} ORDER BY {} LIMIT 1", names[0]))?;
        if let Some(min) = min.and_then(|m| m.parse::<i128>().ok()) {
            let estimate = estimate(session, table)?;
            if let Some(ranges) = by_arithmetic(min, *max, i128::from(estimate), i128::from(rows)) {
                return Ok(ranges);
            }
        }
    }
    let mut ranges = Vec::new();
    let mut after: Option<Vec<KeyPart>> = None;
    loop {
        let range = KeyRange { after: after.clone(), to: Some(last.clone()) };
        let cut = session.row(&format!(
            "SELECT {list} FROM {place} WHERE {} ORDER BY {} LIMIT 1 OFFSET {}",
            condition(table, &range)?,
            names.join(", "),
            rows - 1
        ))?;
        let Some(cut) = cut.map(|row| bound(table, row)).transpose()?.filter(|cut| *cut != last) else {
            ranges.push(range);
            return Ok(ranges);
        };
        ranges.push(KeyRange { after, to: Some(cut.clone()) });
        after = Some(cut);
    }
}

/// The server's estimate of the number of rows.
fn estimate(session: &mut Session, table: &TableSchema) -> Result<u64> {
    let rows = session.value(&format!(
        "SELECT TABLE_ROWS FROM information_schema.TABLES WHERE TABLE_SCHEMA = {} AND TABLE_NAME = {}",
        crate::catalog::literal(&table.name.schema),
        crate::catalog::literal(&table.name.name)
    ))?;
    Ok(rows.and_then(|text| text.parse().ok()).unwrap_or(0))
}

/// Equal steps, where at least half of the numbers between `min` and `max` are about there; `None` for sparser keys.
fn by_arithmetic(min: i128, max: i128, estimate: i128, rows: i128) -> Option<Vec<KeyRange>> {
    let span = max - min + 1;
    if span > rows && estimate * 2 < span {
        return None;
    }
    let mut ranges = Vec::new();
    let mut after = None;
    let mut cut = min - 1 + rows;
    while cut < max {
        let to = Some(vec![KeyPart::Int(cut)]);
        ranges.push(KeyRange { after: after.take(), to: to.clone() });
        after = to;
        cut += rows;
    }
    ranges.push(KeyRange { after, to: Some(vec![KeyPart::Int(max)]) });
    Some(ranges)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, Int64Array, StringArray};
    use crossfade_core::TableName;

    use super::*;

    fn table(key: &[(&str, Logical)]) -> TableSchema {
        let column = |(name, logical): &(&str, Logical)| Column {
            name: (*name).into(),
            source_type: String::new(),
            logical: logical.clone(),
            nullable: false,
            auto_increment: false,
            number: 0,
            policies: Default::default(),
        };
        TableSchema {
            name: TableName::new("s", "t"),
            version: 1,
            columns: key.iter().map(column).collect(),
            key: (0..key.len()).collect(),
            indexes: vec![],
            foreign_keys: vec![],
            origin: None,
            pending: vec![],
            number: 0,
        }
    }

    #[test]
    fn conditions() {
        let one = table(&[("id", Logical::Int64)]);
        let range = KeyRange { after: Some(vec![KeyPart::Int(-3)]), to: Some(vec![KeyPart::Int(5)]) };
        assert_eq!(condition(&one, &range).unwrap(), "`id` > -3 AND `id` <= 5");
        assert_eq!(condition(&one, &KeyRange::ALL).unwrap(), "TRUE");
        let two = table(&[("a`", Logical::Text), ("b", Logical::Decimal { precision: 4, scale: 1 })]);
        let range = KeyRange { after: Some(vec![KeyPart::Text("é'".into()), KeyPart::Text("-1.5".into())]), to: None };
        assert_eq!(
            condition(&two, &range).unwrap(),
            "`a``` >= _utf8mb4 X'c3a927' AND ((`a``` > _utf8mb4 X'c3a927') OR (`a``` = _utf8mb4 X'c3a927' AND `b` > -1.5))"
        );
        let forged =
            KeyRange { after: Some(vec![KeyPart::Text(String::new()), KeyPart::Text("1 or 1".into())]), to: None };
        assert!(condition(&two, &forged).is_err());
        assert!(condition(&one, &forged).is_err());
    }

    #[test]
    fn keys_are_named_where_their_literals_find_them() {
        let column = |values: Vec<i64>| Arc::new(Int64Array::from(values)) as ArrayRef;
        let keys = RecordBatch::try_from_iter([("id", column(vec![7, -8]))]).unwrap();
        let one = table(&[("id", Logical::Int64)]);
        assert_eq!(points(&one, &keys).unwrap().unwrap(), ["(`id` = 7) OR (`id` = -8)"]);
        let many = RecordBatch::try_from_iter([("id", column((0..450).collect()))]).unwrap();
        assert_eq!(points(&one, &many).unwrap().unwrap().len(), 3);
        let of = |text: &str| {
            RecordBatch::try_from_iter([("a", Arc::new(StringArray::from(vec![text])) as ArrayRef)]).unwrap()
        };
        let mut text = table(&[("a", Logical::Text)]);
        assert_eq!(points(&text, &of("e'")).unwrap().unwrap(), ["(`a` = _utf8mb4 X'6527')"]);
        assert_eq!(points(&text, &of("é")).unwrap(), None);
        text.columns[0].source_type = "varchar(20) character set gbk".into();
        assert_eq!(points(&text, &of("e'")).unwrap(), None);
        assert_eq!(points(&table(&[("d", Logical::Date)]), &keys).unwrap(), None);
    }

    #[test]
    fn arithmetic_covers_every_number_once() {
        let ranges = by_arithmetic(-5, 17, 23, 10).unwrap();
        for n in -5..=17 {
            let holds = |r: &&KeyRange| {
                let int = |b: &Option<Vec<KeyPart>>| b.as_ref().map(|b| if let KeyPart::Int(n) = b[0] { n } else { 0 });
                int(&r.after).is_none_or(|a| n > a) && int(&r.to).is_none_or(|t| n <= t)
            };
            assert_eq!(ranges.iter().filter(holds).count(), 1, "{n}");
        }
        assert_eq!(ranges.len(), 3);
        assert_eq!(ranges.last().unwrap().to, Some(vec![KeyPart::Int(17)]));
        assert!(by_arithmetic(1, 1_000_000_000, 1000, 10).is_none(), "sparse keys are walked");
        let extremes = by_arithmetic(i128::from(i64::MIN), i128::from(u64::MAX), 1, i128::from(u64::MAX) * 2).unwrap();
        assert_eq!(extremes.len(), 1);
    }
}
