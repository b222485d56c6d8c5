//! The rows of these benches: eleven mixed columns, written as row events the way a server writes them.
//!
//! Generated from a fixed seed, so that every run measures the same bytes. There is one generator only; whoever wants
//! columns takes what the decoder makes of the events.

use std::sync::Arc;

use crossfade_core::{Column, Logical, TableName, TableSchema};
use crossfade_mysql::binlog::table_map::{LogColumn, TableMap, Wire};

/// Rows of one batch: what the pipeline hands to a target under load.
pub const ROWS: usize = 50_000;

/// Bytes of an event, after which the server starts another (`binlog_row_event_max_size`).
const EVENT_BYTES: usize = 8_192;

/// utf8mb4_0900_ai_ci.
pub const COLLATION: u64 = 255;

/// A column of the table: name, declared type, logical type, place in the log.
fn columns() -> Vec<(&'static str, &'static str, Logical, Wire)> {
    vec![
        ("id", "bigint", Logical::Int64, Wire::LongLong),
        ("quantity", "int unsigned", Logical::UInt32, Wire::Long),
        ("warehouse", "smallint", Logical::Int16, Wire::Short),
        ("amount", "decimal(12,2)", decimal(), Wire::Decimal { precision: 12, scale: 2 }),
        ("weight", "double", Logical::Float64, Wire::Double),
        ("sku", "varchar(40)", Logical::Text, Wire::Varchar { max: 160 }),
        ("note", "varchar(200)", Logical::Text, Wire::Varchar { max: 800 }),
        ("changed", "datetime(6)", Logical::Timestamp, Wire::DateTime2(6)),
        ("due", "date", Logical::Date, Wire::Date),
        ("state", "tinyint", Logical::Int8, Wire::Tiny),
        ("payload", "blob", Logical::Bytes, Wire::Blob(2)),
    ]
}

fn decimal() -> Logical {
    Logical::Decimal { precision: 12, scale: 2 }
}

/// The table as the catalog tells it.
pub fn table() -> Arc<TableSchema> {
    let column = |(name, source_type, logical, _): (&str, &str, Logical, Wire)| Column {
        name: name.into(),
        source_type: source_type.into(),
        logical,
        nullable: name != "id",
        auto_increment: false,
        number: 0,
        policies: Default::default(),
    };
    Arc::new(TableSchema {
        name: TableName::new("shop", "order_line"),
        version: 1,
        columns: columns().into_iter().map(column).collect(),
        key: vec![0],
        indexes: vec![],
        foreign_keys: vec![],
        origin: None,
        pending: vec![],
        number: 0,
    })
}

/// The table as the log tells it, under `binlog_row_metadata=FULL`.
pub fn table_map() -> TableMap {
    let column = |(name, declared, logical, wire): (&str, &str, Logical, Wire)| LogColumn {
        name: Some(name.into()),
        wire,
        nullable: name != "id",
        unsigned: match logical {
            Logical::Text | Logical::Timestamp | Logical::Date | Logical::Bytes => None,
            _ => Some(declared.ends_with("unsigned")),
        },
        collation: (logical == Logical::Text).then_some(COLLATION),
        labels: None,
    };
    TableMap {
        id: 1,
        schema: "shop".into(),
        name: "order_line".into(),
        columns: columns().into_iter().map(column).collect(),
    }
}

/// splitmix64 (Steele, Lea and Flood 2014).
pub struct Random(pub u64);

impl Random {
    /// 64 random bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// WRITE_ROWS (version 2) bodies of [`ROWS`] rows.
pub fn writes() -> Vec<Vec<u8>> {
    let mut random = Random(0x0c05_5fad_e000_0001);
    events(&[0xff, 0x07], |id, out| row(id, &mut random, out))
}

/// UPDATE_ROWS bodies of [`ROWS`] rows: the image before, and one after it with the same key.
pub fn updates() -> Vec<Vec<u8>> {
    let mut random = Random(0x0c05_5fad_e000_0002);
    events(&[0xff, 0x07, 0xff, 0x07], |id, out| {
        row(id, &mut random, out);
        row(id, &mut random, out);
    })
}

/// `present` is one bitmap per image.
fn events(present: &[u8], mut row: impl FnMut(i64, &mut Vec<u8>)) -> Vec<Vec<u8>> {
    // table id, flags, no extra data, columns
    let mut head = vec![1, 0, 0, 0, 0, 0, 1, 0, 2, 0, columns().len() as u8];
    head.extend_from_slice(present);
    let mut events = Vec::new();
    let mut event = head.clone();
    for id in 0..ROWS as i64 {
        row(id, &mut event);
        if event.len() >= EVENT_BYTES {
            events.push(std::mem::replace(&mut event, head.clone()));
        }
    }
    if event.len() > head.len() {
        events.push(event);
    }
    events
}

/// One row image: NULL bitmap, then the values. One value in sixteen is NULL, the key and `state` never are.
fn row(id: i64, random: &mut Random, out: &mut Vec<u8>) {
    let nulls = (1..=10).filter(|c| *c != 9 && random.below(16) == 0).fold(0u16, |bits, c| bits | 1 << c);
    let there = |column: u32| nulls >> column & 1 == 0;
    out.extend(nulls.to_le_bytes());
    out.extend(id.to_le_bytes());
    if there(1) {
        out.extend((random.next() as u32).to_le_bytes());
    }
    if there(2) {
        out.extend((random.next() as u16).to_le_bytes());
    }
    if there(3) {
        out.extend(packed_decimal(random.below(1_000_000_000_000), random.below(8) == 0));
    }
    if there(4) {
        out.extend(((random.next() >> 11) as f64 / 1e12).to_le_bytes());
    }
    if there(5) {
        let sku = format!("SKU-{:05}-{:04x}", random.below(20_000), random.below(65_536));
        out.push(sku.len() as u8);
        out.extend(sku.as_bytes());
    }
    if there(6) {
        let note = words(random);
        out.extend((note.len() as u16).to_le_bytes());
        out.extend(note.as_bytes());
    }
    let (year, month, day) = (2000 + random.below(30), 1 + random.below(12), 1 + random.below(28));
    if there(7) {
        let date = (year * 13 + month) << 5 | day;
        let time = random.below(24) << 12 | random.below(60) << 6 | random.below(60);
        out.extend(&((date << 17 | time) + 0x80_0000_0000).to_be_bytes()[3..]);
        out.extend(&(random.below(1_000_000) as u32).to_be_bytes()[1..]);
    }
    if there(8) {
        out.extend(&(year << 9 | month << 5 | day).to_le_bytes()[..3]);
    }
    out.push(random.below(5) as u8);
    if there(10) {
        let length = random.below(64) as usize;
        out.extend((length as u16).to_le_bytes());
        out.extend((0..length).map(|_| random.next() as u8));
    }
}

/// A decimal(12,2) of so many hundredths: ten digits as 1 + 9, then two, each group in as few bytes as it needs; the
/// top bit is turned, a negative number is inverted besides.
fn packed_decimal(hundredths: u64, negative: bool) -> [u8; 6] {
    let (whole, fraction) = (hundredths / 100, hundredths % 100);
    let [a, b, c, d] = ((whole % 1_000_000_000) as u32).to_be_bytes();
    let mut bytes = [(whole / 1_000_000_000) as u8, a, b, c, d, fraction as u8];
    if negative {
        bytes = bytes.map(|byte| !byte);
    }
    bytes[0] ^= 0x80;
    bytes
}

/// Up to about 150 bytes; every ninth word or so is not ASCII.
fn words(random: &mut Random) -> String {
    const WORDS: [&str; 9] = ["left", "at", "gate", "fragile", "für", "call", "before", "delivery", "№"];
    let bytes = random.below(140) as usize;
    let mut text = String::with_capacity(160);
    while text.len() < bytes {
        text.push_str(WORDS[random.below(9) as usize]);
        text.push(' ');
    }
    text
}
