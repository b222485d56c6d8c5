//! Every type: the Parquet column that it becomes, asserted itself, and every value's way there and back.

use std::sync::Arc;

use arrow_buffer::i256;
use crossfade_core::{ColumnBuilder, Fingerprint, Item, Logical, Op, RowsBuilder, TableSchema, Target};
use parquet::file::reader::{FileReader, SerializedFileReader};

use super::support::*;

/// A column's name, its type, and the Parquet schema's line for it.
fn all() -> Vec<(&'static str, Logical, &'static str)> {
    use Logical::*;
    let decimal = |precision, scale| Decimal { precision, scale };
    let labels = || vec!["a".to_owned(), "b".to_owned()];
    vec![
        ("id", Int64, "OPTIONAL INT64 id"),
        ("bool", Bool, "OPTIONAL BOOLEAN bool"),
        ("i8", Int8, "OPTIONAL INT32 i8 (INTEGER(8,true))"),
        ("i16", Int16, "OPTIONAL INT32 i16 (INTEGER(16,true))"),
        ("i32", Int32, "OPTIONAL INT32 i32"),
        ("u8", UInt8, "OPTIONAL INT32 u8"),
        ("u16", UInt16, "OPTIONAL INT32 u16"),
        ("u32", UInt32, "OPTIONAL INT64 u32"),
        ("u64", UInt64, "OPTIONAL FIXED_LEN_BYTE_ARRAY (9) u64 (DECIMAL(20,0))"),
        ("f32", Float32, "OPTIONAL FLOAT f32"),
        ("f64", Float64, "OPTIONAL DOUBLE f64"),
        ("d9", decimal(9, 2), "OPTIONAL INT32 d9 (DECIMAL(9,2))"),
        ("d18", decimal(18, 4), "OPTIONAL INT64 d18 (DECIMAL(18,4))"),
        ("d38", decimal(38, 10), "OPTIONAL FIXED_LEN_BYTE_ARRAY (16) d38 (DECIMAL(38,10))"),
        ("d39", decimal(39, 1), "OPTIONAL BYTE_ARRAY d39 (STRING)"),
        ("d76", decimal(76, 0), "OPTIONAL BYTE_ARRAY d76 (STRING)"),
        ("numeric", Numeric, "OPTIONAL BYTE_ARRAY numeric (STRING)"),
        ("text", Text, "OPTIONAL BYTE_ARRAY text (STRING)"),
        ("enum", Enum { labels: labels() }, "OPTIONAL BYTE_ARRAY enum (STRING)"),
        ("set", Set { labels: labels() }, "OPTIONAL BYTE_ARRAY set (STRING)"),
        ("json", Json, "OPTIONAL BYTE_ARRAY json (STRING)"),
        ("bytes", Bytes, "OPTIONAL BYTE_ARRAY bytes"),
        ("bit", Bit { len: 3 }, "OPTIONAL BYTE_ARRAY bit (STRING)"),
        ("uuid", Uuid, "OPTIONAL BYTE_ARRAY uuid (STRING)"),
        ("date", Date, "OPTIONAL INT32 date (DATE)"),
        ("time", Time, "OPTIONAL BYTE_ARRAY time (STRING)"),
        ("duration", Duration, "OPTIONAL INT64 duration"),
        ("timestamp", Timestamp, "OPTIONAL INT64 timestamp (TIMESTAMP(MICROS,false))"),
        ("timestamptz", TimestampTz, "OPTIONAL INT64 timestamptz (TIMESTAMP(MICROS,true))"),
        ("literal", Literal, "OPTIONAL BYTE_ARRAY literal (STRING)"),
    ]
}

fn all_types() -> Arc<TableSchema> {
    table_of("types", all().into_iter().map(|(name, logical, _)| column(name, logical)).collect())
}

/// The smallest, the largest and a plain value of each type.
fn append(builder: &mut ColumnBuilder, logical: &Logical, which: usize) {
    fn pick<T: Copy>(which: usize, values: [T; 3]) -> T {
        values[which]
    }
    let nines = |n: u8| i256::from_string(&"9".repeat(n.into())).unwrap();
    match builder {
        ColumnBuilder::Omitted(b) => b.append_null(),
        ColumnBuilder::Bool(b) => b.append_value(pick(which, [false, true, true])),
        ColumnBuilder::Int8(b) => b.append_value(pick(which, [i8::MIN, i8::MAX, 1])),
        ColumnBuilder::Int16(b) => b.append_value(pick(which, [i16::MIN, i16::MAX, 1])),
        ColumnBuilder::Int32(b) => b.append_value(pick(which, [i32::MIN, i32::MAX, 1])),
        ColumnBuilder::Int64(b) => b.append_value(pick(which, [i64::MIN, i64::MAX, 1])),
        ColumnBuilder::UInt8(b) => b.append_value(pick(which, [0, u8::MAX, 1])),
        ColumnBuilder::UInt16(b) => b.append_value(pick(which, [0, u16::MAX, 1])),
        ColumnBuilder::UInt32(b) => b.append_value(pick(which, [0, u32::MAX, 1])),
        ColumnBuilder::UInt64(b) => b.append_value(pick(which, [0, u64::MAX, 1])),
        ColumnBuilder::Float32(b) => b.append_value(pick(which, [f32::NEG_INFINITY, f32::NAN, -1.5])),
        ColumnBuilder::Float64(b) => b.append_value(pick(which, [f64::MIN_POSITIVE, f64::NAN, 0.1])),
        ColumnBuilder::Decimal128(b) => {
            let Logical::Decimal { precision, .. } = logical else { unreachable!() };
            let most = nines(*precision).to_i128().unwrap();
            b.append_value(pick(which, [-most, most, -5]));
        }
        ColumnBuilder::Decimal256(b) => {
            let Logical::Decimal { precision, .. } = logical else { unreachable!() };
            b.append_value(pick(which, [-nines(*precision), nines(*precision), i256::from(-5)]));
        }
        ColumnBuilder::Utf8(b) => b.append_value(pick(which, ["", "größer 𝄞 \u{0}", "0.05"])),
        ColumnBuilder::Binary(b) => b.append_value(pick(which, [&b""[..], b"\x00\xff", b"abc"])),
        ColumnBuilder::Uuid(b) => b.append_value(pick(which, [[0u8; 16], [0xff; 16], *b"0123456789abcdef"])).unwrap(),
        ColumnBuilder::Date(b) => b.append_value(pick(which, [i32::MIN, i32::MAX, 20_000])),
        ColumnBuilder::Time(b) => b.append_value(pick(which, [0, 86_400_000_000, 3_723_000_004])),
        ColumnBuilder::Duration(b) => b.append_value(pick(which, [i64::MIN, i64::MAX, -3_020_399_000_000])),
        ColumnBuilder::Timestamp(b) => b.append_value(pick(which, [i64::MIN, i64::MAX, 1_700_000_000_123_456])),
    }
}

#[test]
fn each_type_is_what_athena_reads_and_comes_back_as_it_was() {
    let lab = Lab::new();
    let target = lab.healthy();
    let table = all_types();
    let mut b = RowsBuilder::new(Arc::clone(&table));
    for row in 0..4u32 {
        for (column, builder) in table.columns.iter().zip(&mut b.columns) {
            // The last row is NULL but for its key.
            match row {
                3 if column.name != "id" => builder.append_null(),
                3 => append_key(builder),
                _ => append(builder, &column.logical, row as usize),
            }
        }
        b.end_row(Op::Insert, 0, row);
    }
    let rows = b.finish().unwrap();
    let mut came = Fingerprint::default();
    came.add(&rows.batch).unwrap();
    let mut writer = target.open(&owner()).unwrap();
    writer.prepare(&[Arc::clone(&table)]).unwrap();
    writer.write(&batch(vec![Item::Rows(rows)], 1)).unwrap();
    writer.commit(&checkpoint(1, 1, 1)).unwrap();

    let mut there = Fingerprint::default();
    for batch in scan(&target, &table).1 {
        assert_eq!(batch.schema(), table.arrow());
        there.add(&batch).unwrap();
    }
    assert_eq!(there, came);

    let file = std::fs::File::open(&lab.listed(&table)[0]).unwrap();
    let metadata = SerializedFileReader::new(file).unwrap();
    let metadata = metadata.metadata().file_metadata();
    let mut printed = Vec::new();
    parquet::schema::printer::print_schema(&mut printed, metadata.schema());
    let printed = String::from_utf8(printed).unwrap();
    let lines: Vec<&str> = printed.lines().map(|l| l.trim().trim_end_matches(';')).collect();
    let mut wanted = vec![
        "REQUIRED BYTE_ARRAY _op (STRING)",
        "OPTIONAL INT64 _commit_time (TIMESTAMP(MICROS,true))",
        "REQUIRED INT64 _seq",
        "REQUIRED INT64 _ordinal",
    ];
    wanted.extend(all().into_iter().map(|(_, _, line)| line));
    assert_eq!(lines[1..lines.len() - 1], wanted);
    let kept = metadata.key_value_metadata().map_or(0, Vec::len);
    assert_eq!(kept, 0, "no Arrow schema that hides what other readers see");
}

fn append_key(builder: &mut ColumnBuilder) {
    let ColumnBuilder::Int64(b) = builder else { unreachable!() };
    b.append_value(7);
}

#[test]
fn a_time_that_is_none_stops_the_table() {
    let lab = Lab::new();
    let target = lab.healthy();
    let table = table_of("times", vec![column("id", Logical::Int64), column("at", Logical::Time)]);
    let mut b = RowsBuilder::new(Arc::clone(&table));
    append_key(&mut b.columns[0]);
    let ColumnBuilder::Time(t) = &mut b.columns[1] else { unreachable!() };
    t.append_value(86_400_000_001);
    b.end_row(Op::Insert, 0, 0);
    let mut writer = target.open(&owner()).unwrap();
    writer.prepare(&[Arc::clone(&table)]).unwrap();
    let e = writer.write(&batch(vec![Item::Rows(b.finish().unwrap())], 1)).unwrap_err();
    assert!(matches!(e.class(), crossfade_core::Class::Data(p) if p.column.as_deref() == Some("at")), "{e:?}");
}
