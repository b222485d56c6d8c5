//! What stand-ins become, and what is told of them.

use super::*;
use crate::builder::finish_columns;
use crate::policy::Policies;
use crate::schema::TableName;

fn table(logical: &Logical, policies: &[Policy]) -> TableSchema {
    let column = |name: &str, logical: &Logical, policies: &[Policy]| Column {
        name: name.into(),
        source_type: String::new(),
        logical: logical.clone(),
        nullable: false,
        auto_increment: false,
        number: 0,
        policies: Policies::from(policies.to_vec()),
    };
    TableSchema {
        name: TableName::new("s", "t"),
        version: 1,
        columns: vec![column("id", &Logical::Int64, &[]), column("c", logical, policies)],
        key: vec![0],
        indexes: vec![],
        foreign_keys: vec![],
        origin: None,
        pending: vec![],
        number: 0,
    }
}

/// A row before, the value, a row after; what stands there then, as text, and what was changed.
fn settled(
    logical: Logical,
    policies: &[Policy],
    fill: impl Fn(&mut ColumnBuilder),
    unfit: &Unfit,
) -> (RecordBatch, Vec<Changed>) {
    let table = table(&logical, policies);
    let mut columns: Vec<_> = table.columns.iter().map(|c| ColumnBuilder::new(&c.logical)).collect();
    fill(&mut columns[1]);
    assert!(unfit.pass(&table.columns[1], &mut columns[1]).unwrap(), "{unfit:?}");
    fill(&mut columns[1]);
    columns[1].append_null();
    (0..columns[1].len()).for_each(|_| columns[0].append_null());
    settle(&table, &finish_columns(&table, &mut columns).unwrap()).unwrap().unwrap()
}

fn moment(year: i32, month: u8, day: u8, micros: i64) -> Moment {
    Moment { year, month, day, micros }
}

#[test]
fn moments_become_null_and_are_told() {
    let zero = [Policy::ZeroDate];
    for (m, date, time) in [
        (moment(0, 0, 0, 0), "0000-00-00", "0000-00-00 00:00:00"),
        (moment(2024, 0, 10, 36_000_000_001), "2024-00-10", "2024-00-10 10:00:00.000001"),
        (moment(9999, 11, 31, DAY - 1), "9999-11-31", "9999-11-31 23:59:59.999999"),
    ] {
        for (logical, text) in [(Logical::Date, date), (Logical::Timestamp, time), (Logical::TimestampTz, time)] {
            let fill = |b: &mut ColumnBuilder| match b {
                ColumnBuilder::Date(b) => b.append_value(-719_528),
                ColumnBuilder::Timestamp(b) => b.append_value(i64::MIN),
                _ => unreachable!(),
            };
            let (batch, changed) = settled(logical.clone(), &zero, fill, &Unfit::ZeroDate(m));
            let original = Original::Text(text.into());
            assert_eq!(changed, [Changed { row: 1, column: 1, policy: Policy::ZeroDate, original }]);
            let nulls: Vec<bool> = (0..4).map(|i| batch.column(1).is_null(i)).collect();
            assert_eq!(nulls, [false, true, false, true], "{logical:?}");
            assert_eq!(*batch.column(1).data_type(), logical.arrow());
        }
    }
}

#[test]
fn late_times_are_others_than_zero_dates() {
    for (micros, text) in [
        (0, "2000-01-01 00:00:00"),
        (-1, "1999-12-31 23:59:59.999999"),
        (60 * DAY - DAY / 2, "2000-02-29 12:00:00"),
        (i64::MAX, "294277-01-09 04:00:54.775807"),
    ] {
        assert_eq!(Moment::since_2000(micros).text(&Logical::Timestamp), text);
    }
    // The end of Postgres' range (`END_TIMESTAMP` in its timestamp.h), one microsecond before.
    let late = 9_223_371_331_199_999_999;
    let fill = |b: &mut ColumnBuilder| match b {
        ColumnBuilder::Timestamp(b) => b.append_value(i64::MAX),
        _ => unreachable!(),
    };
    let (_, changed) = settled(Logical::Timestamp, &[Policy::OutOfRange], fill, &Unfit::Late(late));
    assert_eq!(changed[0].original, Original::Text("294276-12-31 23:59:59.999999".into()));
    assert_eq!((changed.len(), changed[0].policy), (1, Policy::OutOfRange));
}

#[test]
fn decimals_and_labels_become_null() {
    for precision in [38, 39] {
        let logical = Logical::Decimal { precision, scale: 0 };
        let (batch, changed) = settled(logical, &[Policy::Nan], ColumnBuilder::append_null, &Unfit::Nan);
        assert_eq!((changed[0].row, batch.column(1).null_count()), (1, 4));
    }
    let labels = Logical::Enum { labels: vec!["\u{10ffff}".into()] };
    let fill = |b: &mut ColumnBuilder| match b {
        ColumnBuilder::Utf8(b) => b.append_value("\u{10ffff}"),
        _ => unreachable!(),
    };
    let (batch, changed) = settled(labels, &[Policy::InvalidEnum], fill, &Unfit::Enum);
    assert_eq!(changed[0].original, Original::Text(String::new()));
    assert_eq!(batch.column(1).as_string::<i32>().value(0), "\u{10ffff}");
    assert_eq!((changed.len(), batch.column(1).null_count()), (1, 2));
}

#[test]
fn text_is_changed_only_where_it_must_be() {
    let broken = Unfit::Text { original: b"a\0:\xff".to_vec(), replaced: "a\0:\u{fffd}".into() };
    let fill = |b: &mut ColumnBuilder| match b {
        ColumnBuilder::Utf8(b) => b.append_value("\0b\u{10ffff}\0"),
        _ => unreachable!(),
    };
    let both = [Policy::InvalidText, Policy::NulByte];
    let (batch, changed) = settled(Logical::Text, &both, fill, &broken);
    let texts: Vec<_> = batch.column(1).as_string::<i32>().iter().collect();
    assert_eq!(texts, [Some("b\u{10ffff}"), Some("a:\u{fffd}"), Some("b\u{10ffff}"), None]);
    let told: Vec<_> = changed.iter().map(|c| (c.row, c.policy)).collect();
    assert_eq!(told, [(0, Policy::NulByte), (1, Policy::InvalidText), (2, Policy::NulByte)]);
    assert_eq!(changed[1].original, Original::Bytes(b"a\0:\xff".to_vec()));
    let (batch, changed) = settled(Logical::Text, &both[..1], fill, &broken);
    assert_eq!(batch.column(1).as_string::<i32>().value(1), "a\0:\u{fffd}", "the target has its say");
    assert_eq!(changed.len(), 1);
}

#[test]
fn without_a_policy_nothing_passes() {
    let t = table(&Logical::Date, &[Policy::NulByte]);
    let mut builder = ColumnBuilder::new(&Logical::Date);
    assert!(!Unfit::ZeroDate(moment(0, 0, 0, 0)).pass(&t.columns[1], &mut builder).unwrap());
    assert!(builder.is_empty());
    let t = table(&Logical::Date, &[]);
    assert!(settle(&t, &RecordBatch::new_empty(t.arrow())).unwrap().is_none());
}
