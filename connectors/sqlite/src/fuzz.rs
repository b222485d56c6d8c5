//! Damaged rows of the change table, and values of a database whose columns hold anything: read or refused, without a panic
//! and without allocating more than is due.

use std::sync::Arc;

use crossfade_core::{Column, ColumnBuilder, Logical, Omissions, Position, TableName, TableSchema};
use crossfade_fuzz::Fuzz;
use rusqlite::Connection;
use rusqlite::types::{Value, ValueRef};

use crate::decode::Decoder;
use crate::mark::Mark;
use crate::{index_sql, text, types};

fn logicals() -> Vec<Logical> {
    vec![
        Logical::Int64,
        Logical::Float64,
        Logical::Text,
        Logical::Bytes,
        Logical::Literal,
        Logical::Decimal { precision: 12, scale: 2 },
        Logical::Decimal { precision: 60, scale: 20 },
        Logical::Date,
        Logical::Timestamp,
        Logical::Bool,
    ]
}

fn table(logicals: Vec<Logical>) -> TableSchema {
    let column = |(i, logical): (usize, Logical)| Column {
        name: format!("c{i}"),
        source_type: "any".into(),
        logical,
        nullable: true,
        auto_increment: false,
        number: i as u32,
        policies: Default::default(),
    };
    TableSchema {
        name: TableName::new("main", "t"),
        version: 1,
        columns: logicals.into_iter().enumerate().map(column).collect(),
        key: vec![0],
        indexes: vec![],
        foreign_keys: vec![],
        origin: None,
        pending: vec![],
        number: 0,
    }
}

fn examples() -> Vec<Vec<u8>> {
    let texts = [
        "2024-02-29",
        "2024-02-29 23:59:59.123456",
        "2024-02-29T23:59:59Z",
        "-12345678.90",
        "1e300",
        "X'00ff'",
        "'it''s'",
        "NULL",
        "9223372036854775807",
        "0.1",
        "grün",
        "",
    ];
    texts.map(|t| t.as_bytes().to_vec()).to_vec()
}

#[test]
fn values() {
    Fuzz::default().iterations(6_000).run(&examples(), |bytes| {
        let number = bytes.first_chunk::<8>().map_or(0, |b| i64::from_le_bytes(*b));
        let values = [
            ValueRef::Text(bytes),
            ValueRef::Blob(bytes),
            ValueRef::Integer(number),
            ValueRef::Real(f64::from_bits(number as u64)),
            ValueRef::Null,
        ];
        let mut some = false;
        for value in values {
            let _ = (types::describe(value), text::numeric(value));
            for logical in logicals() {
                some |=
                    types::append(&mut ColumnBuilder::new(&logical), &logical, value).is_ok_and(|fits| fits.is_ok());
            }
        }
        let printed = text::literal(ValueRef::Text(bytes));
        if let Some(printed) = printed {
            let back = text::parse_literal(&printed);
            assert!(matches!(back, Some(Value::Text(t)) if t.as_bytes() == bytes), "{printed} is read back as another");
        }
        let _ = (text::date(bytes), text::timestamp(bytes), std::str::from_utf8(bytes).map(text::parse_literal));
        some
    });
}

#[test]
fn entries_of_the_change_table() {
    let conn = Connection::open_in_memory().unwrap();
    let shape = Arc::new(table(logicals()));
    let to = serde_json::to_vec(&TableSchema { version: 2, ..table(vec![Logical::Int64, Logical::Text]) }).unwrap();
    let examples = [examples(), vec![to, br#"["0",null]"#.to_vec()]].concat();
    // seq, table, op, time, then a value of each column. Each input is one of the values, and decides over the others.
    let select = "SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?5, ?6, ?5, ?6, ?5, ?6, ?5, ?6";
    let mut statement = conn.prepare(select).unwrap();
    Fuzz::default().iterations(8_000).run(&examples, |bytes| {
        let n = |i: usize| bytes.get(i).map_or(0, |b| i64::from(*b));
        let text = String::from_utf8_lossy(bytes).into_owned();
        let fills = String::from_utf8_lossy(bytes.rsplit(|b| *b == b'|').next().unwrap_or_default()).into_owned();
        let value = match n(0) % 5 {
            0 => Value::Integer(n(1) << (n(2) % 56)),
            1 => Value::Real(n(1) as f64 / n(2) as f64),
            2 => Value::Blob(bytes.to_vec()),
            3 => Value::Null,
            _ => Value::Text(text.clone()),
        };
        let mut accepted = false;
        for op in 0..6 {
            let (first, second) = if op == 4 {
                (Value::Text(text.clone()), Value::Text(fills.clone()))
            } else {
                (value.clone(), Value::Text(text.clone()))
            };
            let mut rows = statement.query(rusqlite::params![n(3), 1, op, n(4) << 40, first, second]).unwrap();
            let row = rows.next().unwrap().unwrap();
            let mut decoder = Decoder::new([(1, Arc::clone(&shape))], Omissions::default());
            accepted |= decoder.entry(row).is_ok() && decoder.finish().is_ok();
        }
        accepted
    });
}

#[test]
fn statements_and_positions() {
    let examples = [
        "CREATE UNIQUE INDEX \"i\" ON t (a COLLATE NOCASE, lower(b) DESC) WHERE c > 'x'",
        "CREATE INDEX i ON [t] (`a`)",
        "sqlite:0123456789abcdef:12:1700000000000",
    ]
    .map(|t| t.as_bytes().to_vec());
    Fuzz::default().run(&examples, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        index_sql::parse(&text).is_some() | Mark::parse_any(&Position::new(&*text)).is_ok()
    });
}
