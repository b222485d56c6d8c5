//! The table that both inputs carry, and the seeded records in it.
//!
//! Eleven mixed columns, as an order line of a shop would have them. One list of [`Record`]s is the origin of the MySQL
//! images and of the pgoutput messages, so every path through the bench has to end in the same COPY bytes.

/// What a column is to everything behind the decoder; the COPY field and the Arrow type follow from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `smallint`; MySQL's `tinyint` too, for Postgres has nothing narrower.
    Int16,
    /// `bigint`; MySQL's `int unsigned` too, whose upper half does not fit Postgres' `integer`.
    Int64,
    /// IEEE 754 binary64.
    Float64,
    /// Exact decimal, held unscaled in an `i128`.
    Decimal {
        /// All digits.
        precision: u8,
        /// Digits after the point.
        scale: u8,
    },
    /// UTF-8.
    Text,
    /// Any bytes.
    Bytes,
    /// Days since 1970-01-01.
    Date,
    /// Microseconds since 1970-01-01T00:00:00, without a zone.
    Timestamp,
}

/// Digits and scale of the `amount` column.
pub const AMOUNT: (u8, u8) = (12, 2);

/// Name and kind of every column, in ordinal order.
pub const COLUMNS: [(&str, Kind); 11] = [
    ("id", Kind::Int64),
    ("quantity", Kind::Int64),
    ("warehouse", Kind::Int16),
    ("amount", Kind::Decimal { precision: AMOUNT.0, scale: AMOUNT.1 }),
    ("weight", Kind::Float64),
    ("sku", Kind::Text),
    ("note", Kind::Text),
    ("changed", Kind::Timestamp),
    ("due", Kind::Date),
    ("state", Kind::Int16),
    ("payload", Kind::Bytes),
];

/// One row before it is put on either wire. Everything but the key and `state` may be NULL.
pub struct Record {
    /// `bigint`, ascending with gaps.
    pub id: i64,
    /// `int unsigned`, over its whole range.
    pub quantity: Option<u32>,
    /// `smallint`.
    pub warehouse: Option<i16>,
    /// `decimal(12,2)`, in hundredths.
    pub amount: Option<i64>,
    /// `double`.
    pub weight: Option<f64>,
    /// `varchar(40)`.
    pub sku: Option<String>,
    /// `varchar(200)`.
    pub note: Option<String>,
    /// `datetime(6)`, microseconds since 1970.
    pub changed: Option<i64>,
    /// `date`, days since 1970.
    pub due: Option<i32>,
    /// `tinyint`.
    pub state: i8,
    /// `blob`.
    pub payload: Option<Vec<u8>>,
}

/// splitmix64 (Steele, Lea and Flood 2014): a seeded generator in three lines, so that every run measures the same bytes.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// One value in sixteen is NULL.
    fn nullable<T>(&mut self, value: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (self.below(16) != 0).then(|| value(self))
    }

    /// Words until `bytes` are reached; every ninth or so is not ASCII.
    fn words(&mut self, bytes: usize) -> String {
        const WORDS: [&str; 9] = ["left", "at", "gate", "fragile", "für", "call", "before", "delivery", "№"];
        let mut text = String::with_capacity(bytes + 10);
        while text.len() < bytes {
            text.push_str(WORDS[self.below(9) as usize]);
            text.push(' ');
        }
        text
    }
}

/// `count` records, the same ones in every run.
pub fn records(count: usize) -> Vec<Record> {
    let mut random = Random(0x0c05_5fad_e000_0001);
    let mut id = 1 << 33;
    let mut record = || {
        id += 1 + random.below(3) as i64;
        Record {
            id,
            quantity: random.nullable(|r| r.next() as u32),
            warehouse: random.nullable(|r| r.next() as i16),
            amount: random.nullable(|r| r.below(2_000_000_000_000) as i64 - 1_000_000_000_000 + 1),
            weight: random.nullable(|r| (r.next() >> 11) as f64 / 1e12),
            sku: random.nullable(|r| format!("SKU-{:05}-{:04x}", r.below(20_000), r.below(65_536))),
            note: random.nullable(|r| {
                let bytes = r.below(150) as usize;
                r.words(bytes)
            }),
            changed: random.nullable(|r| r.below(1 << 50) as i64 + 978_307_200_000_000),
            due: random.nullable(|r| r.below(22_000) as i32 - 1_000),
            state: random.next() as i8,
            payload: random.nullable(|r| {
                let bytes = r.below(64) as usize;
                (0..bytes).map(|_| r.next() as u8).collect()
            }),
        }
    };
    (0..count).map(|_| record()).collect()
}
