//! Damaged bytes of a server through everything that reads them: no panic, no allocation beyond what is due. The examples are
//! `tests/fuzz/corpus/pgoutput.hex` and `postgres.copy`.

use std::sync::Arc;

use crossfade_core::{Column, ColumnBuilder, Logical, RowsBuilder, TableName, TableSchema};
use crossfade_fuzz::{Fuzz, corpus};

use super::pgoutput::{Event, Scratch, Value, decode};
use super::rows::{Plan, Sink};
use super::text::append;
use super::wire::{LONGEST, Wire, frame, query};
use crate::decimal::Numeric;
use crate::decode::Decoder;
use crate::numeric::put_text;

/// What the columns of the script's table `every` are, in its order.
fn logicals() -> Vec<Logical> {
    let decimal = |precision, scale| Logical::Decimal { precision, scale };
    let own = |name: &str| Logical::Postgres { name: name.into() };
    vec![
        Logical::Int32,
        Logical::Int16,
        Logical::Int64,
        Logical::Bool,
        Logical::Float32,
        Logical::Float64,
        Logical::Numeric,
        decimal(12, 3),
        decimal(60, 20),
        Logical::Bytes,
        Logical::Uuid,
        Logical::Date,
        Logical::Time,
        Logical::Timestamp,
        Logical::TimestampTz,
        Logical::Bit { len: 5 },
        Logical::Json,
        Logical::Text,
        Logical::Text,
        own("interval"),
        own("integer[]"),
        own("text[]"),
        own("inet"),
        own("int4range"),
        own("tsvector"),
        own("point"),
        Logical::Enum { labels: vec!["ok".into(), "not ok".into()] },
    ]
}

fn table(logicals: Vec<Logical>) -> Arc<TableSchema> {
    let column = |(i, logical): (usize, Logical)| Column {
        name: format!("c{i}"),
        source_type: "any".into(),
        logical,
        nullable: true,
        auto_increment: false,
        number: 0,
        policies: Default::default(),
    };
    Arc::new(TableSchema {
        name: TableName::new("s", "every"),
        version: 1,
        columns: logicals.into_iter().enumerate().map(column).collect(),
        key: vec![0],
        indexes: vec![],
        foreign_keys: vec![],
        origin: None,
        pending: vec![],
        number: 0,
    })
}

/// A message into a batch, as the stream does it.
fn apply(plan: &Plan, message: &[u8]) -> bool {
    let (mut scratch, mut builder) = (Scratch::default(), RowsBuilder::new(Arc::clone(&plan.schema)));
    let (mut order, mut hex) = (0, Vec::new());
    let mut sink = Sink { builder: &mut builder, order: &mut order, commit_micros: 0, hex: &mut hex };
    let done = match decode(message, &mut scratch) {
        Ok(Event::Insert { new, .. }) => plan.insert(&mut sink, new),
        Ok(Event::Update { old, new, .. }) => plan.update(&mut sink, old, new),
        Ok(Event::Delete { old, .. }) => plan.delete(&mut sink, old),
        Ok(_) => return true,
        Err(e) => Err(e),
    };
    done.is_ok() && builder.finish().is_ok()
}

#[test]
fn messages_into_rows() {
    let schema = table(logicals());
    let width = schema.columns.len();
    let plan = Plan { table: 0, schema, ordinals: (0..width).collect(), width, covers_key: true };
    let examples = corpus::lines("pgoutput.hex");
    let rows = examples.iter().filter(|m| b"IUD".contains(&m[0]) && apply(&plan, m)).count();
    assert!(rows >= 6, "the table of the script is no longer the table of this test: {rows} rows");
    Fuzz::default().run(&examples, |message| apply(&plan, message));
}

/// Every value of every row, as text.
fn values() -> Vec<Vec<u8>> {
    let mut values = Vec::new();
    for message in corpus::lines("pgoutput.hex") {
        let mut scratch = Scratch::default();
        if let Ok(Event::Insert { new, .. }) = decode(&message, &mut scratch) {
            values.extend((0..new.len()).filter_map(|i| match new.value(i) {
                Value::Text(text) => Some(text.to_vec()),
                Value::Null | Value::Unchanged => None,
            }));
        }
    }
    values
}

#[test]
fn values_as_text() {
    let logicals = logicals();
    let mut hex = Vec::new();
    // Every value is tried as each type, not only as its own.
    Fuzz::default().iterations(4_000).run(&values(), |text| {
        logicals.iter().fold(false, |some, logical| {
            let mut builder = ColumnBuilder::new(logical);
            some | append(&mut builder, logical, text, &mut hex).is_ok()
        })
    });
}

#[test]
fn numerics() {
    Fuzz::default().run(&values(), |text| {
        // To the binary form and back.
        let Ok(text) = std::str::from_utf8(text) else { return false };
        let mut binary = Vec::new();
        put_text(&mut binary, text).is_ok() && Numeric::parse(&binary).is_some()
    });
    let binary: Vec<Vec<u8>> = values()
        .iter()
        .filter_map(|text| {
            let mut binary = Vec::new();
            put_text(&mut binary, std::str::from_utf8(text).ok()?).ok().map(|()| binary)
        })
        .collect();
    Fuzz::default().run(&binary, |bytes| {
        let Some(numeric) = Numeric::parse(bytes) else { return false };
        let _ = (numeric.to_i128(3), numeric.to_i256(20));
        !numeric.to_text().is_empty()
    });
}

#[test]
fn rows_of_copy() {
    let mut of_copy = logicals();
    of_copy.truncate(20);
    of_copy.remove(18);
    of_copy.extend([Logical::Postgres { name: "integer[]".into() }]);
    let table = table(of_copy);
    let example = corpus::bytes("postgres.copy");
    Fuzz::default().run(&[example], |stream| {
        let mut decoder = Decoder::new(&table);
        let (a, b) = stream.split_at(stream.len() / 2);
        decoder.feed(a).and_then(|()| decoder.feed(b)).and_then(|()| decoder.end()).is_ok() && decoder.take().is_ok()
    });
}

/// A server that says `bytes` and hears nothing.
fn wire(bytes: &[u8]) -> Wire {
    Wire::new(Box::new(tokio::io::join(std::io::Cursor::new(bytes.to_vec()), tokio::io::sink())))
}

/// Every frame of a stream; true if one could be read.
async fn frames(bytes: &[u8]) -> bool {
    let (mut wire, mut some) = (wire(bytes), false);
    loop {
        match wire.peek(LONGEST) {
            Err(_) => return some,
            Ok(None) => {
                if wire.fill().await.is_err() {
                    return some;
                }
            }
            Ok(Some(_)) => match wire.message(LONGEST) {
                Ok(Some((b'd', body))) => some |= frame(body).is_ok(),
                _ => return some,
            },
        }
    }
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag][..], &(body.len() as u32 + 4).to_be_bytes(), body].concat()
}

#[test]
fn frames_of_the_connection() {
    let data = |m: &Vec<u8>| message(b'd', &[&b"w"[..], &[0; 24], m].concat());
    let stream: Vec<Vec<u8>> = corpus::lines("pgoutput.hex").iter().map(data).collect();
    let keepalive = message(b'd', &[&b"k"[..], &[0; 16], &[1]].concat());
    let examples = [vec![stream.concat(), keepalive], stream].concat();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    Fuzz::default().run(&examples, |bytes| runtime.block_on(frames(bytes)));
}

#[test]
fn answers_of_the_connection() {
    let names = message(b'T', b"\0\x01setting\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0");
    let rows = message(b'D', b"\0\x03\0\0\0\x01t\xff\xff\xff\xff\0\0\0\0");
    let end = [message(b'C', b"SELECT 1\0"), message(b'Z', b"I")].concat();
    let error = message(b'E', b"SERROR\0C42P01\0Mno table\0Hmake one\0st\0\0");
    let notice = message(b'N', b"SNOTICE\0Mx\0\0");
    let examples = [[names.clone(), rows, end.clone()].concat(), [notice, names, error, end].concat()];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    Fuzz::default()
        .run(&examples, |bytes| runtime.block_on(async { query(&mut wire(bytes), "select 1").await.is_ok() }));
}
