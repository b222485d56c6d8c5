//! What has to hold before a figure means anything: both shapes of both inputs end in the same bytes, and the codecs
//! agree with values written down outside this bench.

use crate::reader::Reader;
use crate::shapes::{Case, Input, to_columns};
use crate::table::{COLUMNS, Record};
use crate::{columns, copy, lake, mysql, mysql_wire, pgoutput, rows};

/// All checks.
///
/// # Panics
/// When one does not hold.
pub fn check(cases: &[Case], records: &[Record]) {
    decimals();
    datetimes();
    numerics();
    server_image();
    let mut first: Option<Vec<u8>> = None;
    for Case { name, whole: input, .. } in cases {
        let batch = input.columns().unwrap();
        let rows = input.rows().unwrap();
        assert_eq!((batch.num_rows(), rows.len()), (records.len(), records.len()), "{name}: rows");
        let (mut from_columns, mut from_rows) = (Vec::new(), Vec::new());
        columns::to_copy(&batch, &COLUMNS, &mut from_columns);
        rows::to_copy(&rows, &COLUMNS, &mut from_rows).unwrap();
        assert!(from_columns == from_rows, "{name}: the shapes differ in COPY bytes");
        let converted = to_columns(&rows).unwrap();
        assert!(batch == converted, "{name}: the shapes differ in their batch");
        assert!(
            lake::to_parquet(&batch).unwrap() == lake::to_parquet(&converted).unwrap(),
            "{name}: the shapes differ in Parquet bytes"
        );
        assert!(
            *first.get_or_insert_with(|| from_rows.clone()) == from_rows,
            "{name}: the inputs differ in COPY bytes"
        );
    }
}

/// The example in MySQL's `strings/decimal.cc`, `decimal2bin`: 1234567890.1234 as DECIMAL(14,4), and its negative.
fn decimals() {
    let positive = [0x81, 0x0d, 0xfb, 0x38, 0xd2, 0x04, 0xd2];
    for (unscaled, packed) in [(12_345_678_901_234, positive), (-12_345_678_901_234, positive.map(|byte| !byte))] {
        let mut out = Vec::new();
        mysql_wire::decimal(unscaled, 14, 4, &mut out);
        assert_eq!(out, packed);
        assert_eq!(mysql::decimal(&mut Reader(&packed), 14, 4), Ok(unscaled));
    }
}

/// 2012-12-31 23:59:59.000001, as a server packs it, and a date that does not exist.
fn datetimes() {
    let packed = [0x99, 0x8e, 0x3f, 0x7e, 0xfb, 0x00, 0x00, 0x01];
    let micros = 1_356_998_399_000_001;
    let mut out = Vec::new();
    mysql_wire::datetime6(micros, &mut out);
    assert_eq!(out, packed);
    assert_eq!(mysql::datetime6(&mut Reader(&packed)), Ok(micros));
    assert!(mysql::datetime6(&mut Reader(&[0x80, 0, 0, 0, 0, 0, 0, 0])).is_err(), "zero date");
}

/// Two rows as MariaDB 10.11 wrote them to its binlog, one full and one of NULLs, against the same rows by our encoder.
/// (The server sets the bits of the bitmap that belong to no column; ours does not, and no decoder may look at them.)
fn server_image() {
    const SERVER: &[u8] = b"\x00\xf8\x07\0\0\0\x02\0\0\0\xff\xff\xff\xff\xfe\xff\x7e\xf2\x04\xc7\x2d\xf3\
        \0\0\0\0\0\0\xf8\x3f\x03SKU\x04\0f\xc3\xbcr\x99\x8e\x3f\x7e\xfb\0\0\x01\x5d\x60\x0f\xfb\x02\0\0\xff\
        \xfe\xfd\x08\0\0\0\x02\0\0\0\x07";
    let full = Record {
        id: 8_589_934_599,
        quantity: Some(u32::MAX),
        warehouse: Some(-2),
        amount: Some(-123_456_789_012),
        weight: Some(1.5),
        sku: Some("SKU".into()),
        note: Some("für".into()),
        changed: Some(1_356_998_399_000_001),
        due: Some(-672),
        state: -5,
        payload: Some(vec![0, 255]),
    };
    let empty = Record {
        id: 8_589_934_600,
        quantity: None,
        warehouse: None,
        amount: None,
        weight: None,
        sku: None,
        note: None,
        changed: None,
        due: None,
        state: 7,
        payload: None,
    };
    let ours = mysql_wire::events(&[full, empty]).remove(0);
    let header = ours.len() - SERVER.len();
    let server = [&ours[..header], SERVER].concat();
    let batch = |event| Input::MySql(vec![event]).columns().unwrap();
    assert_eq!(batch(server), batch(ours));
}

/// Binary `numeric` as `SELECT numeric_send(...)` prints it, over zero, sign, short fractions and 38 digits.
fn numerics() {
    let cases: [(i128, u8, &[u8]); 5] = [
        (0, 2, &[0, 0, 0, 0, 0, 0, 0, 2]),
        (-50, 2, &[0, 1, 0xff, 0xff, 0x40, 0, 0, 2, 0x13, 0x88]),
        (1_234_567, 2, &[0, 3, 0, 1, 0, 0, 0, 2, 0, 1, 0x09, 0x29, 0x1a, 0x2c]),
        (1_000_000, 2, &[0, 1, 0, 1, 0, 0, 0, 2, 0, 1]),
        (-(10i128.pow(38)) + 1, 0, &NINES),
    ];
    for (unscaled, scale, expected) in cases {
        let mut out = Vec::new();
        copy::numeric(unscaled, scale, &mut out);
        assert_eq!(out[4..], *expected, "{unscaled} at scale {scale}");
        assert_eq!(pgoutput::numeric(expected, scale), Ok(unscaled));
    }
    assert!(pgoutput::numeric(&[0, 1, 0xff, 0xff, 0, 0, 0, 3, 0, 1], 2).is_err(), "0.0001 at scale 2");
}

/// -99999999999999999999999999999999999999: a group of 99, then nine of 9999.
const NINES: [u8; 28] = [
    0, 10, 0, 9, 0x40, 0, 0, 0, 0, 99, 0x27, 0x0f, 0x27, 0x0f, 0x27, 0x0f, 0x27, 0x0f, 0x27, 0x0f, 0x27, 0x0f, 0x27,
    0x0f, 0x27, 0x0f, 0x27, 0x0f,
];
