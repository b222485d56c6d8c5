//! Values, upserts, deletes, absent columns and unique indexes against real servers, with the server's own text and a map
//! in memory as oracles.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::*;
use crossfade_core::batch::SchemaStep;
use crossfade_core::{Class, Item, Logical, Op, Phase, SchemaChange, TableSchema, Writer};
use crossfade_harness::PgVersion;

/// More rows than travel as arrays.
const MANY: i128 = 700;

/// Every logical type with its edges, and the text that Postgres prints for them.
fn values() -> Vec<(Logical, Vec<(V, &'static str)>)> {
    let i = V::I;
    let labels = || vec!["a".to_owned(), "b".to_owned()];
    let dec = |precision, scale| Logical::Decimal { precision, scale };
    let big = "1234567890123456789012345678901234567890123456789012345678901234567890123456";
    vec![
        (Logical::Bool, vec![(i(0), "false"), (i(1), "true")]),
        (Logical::Int8, vec![(i(-128), "-128"), (i(127), "127")]),
        (Logical::Int16, vec![(i(-32768), "-32768"), (i(32767), "32767")]),
        (Logical::Int32, vec![(i(i32::MIN.into()), "-2147483648"), (i(i32::MAX.into()), "2147483647")]),
        (
            Logical::Int64,
            vec![(i(i64::MIN.into()), "-9223372036854775808"), (i(i64::MAX.into()), "9223372036854775807")],
        ),
        (Logical::UInt8, vec![(i(0), "0"), (i(255), "255")]),
        (Logical::UInt16, vec![(i(65535), "65535")]),
        (Logical::UInt32, vec![(i(u32::MAX.into()), "4294967295")]),
        (Logical::UInt64, vec![(i(0), "0"), (i(10_000), "10000"), (i(u64::MAX.into()), "18446744073709551615")]),
        (Logical::Float32, vec![(V::F(16_777_215.0), "1.6777215e+07"), (V::F(f64::NAN), "NaN"), (V::F(-0.0), "-0")]),
        (Logical::Float64, vec![(V::F(0.1), "0.1"), (V::F(f64::NEG_INFINITY), "-Infinity"), (V::F(5e-324), "5e-324")]),
        (dec(10, 2), vec![(i(-1250), "-12.50"), (i(0), "0.00"), (i(9_999_999_999), "99999999.99"), (i(1), "0.01")]),
        (dec(38, 0), vec![(i(10_i128.pow(38) - 1), "99999999999999999999999999999999999999")]),
        (dec(30, 30), vec![(i(-1), "-0.000000000000000000000000000001")]),
        (dec(76, 0), vec![(t(big), big), (t("-1"), "-1"), (t("0"), "0")]),
        (
            Logical::Numeric,
            vec![(t("NaN"), "NaN"), (t("-Infinity"), "-Infinity"), (t("12.500"), "12.500"), (t(big), big)],
        ),
        (Logical::Text, vec![(t(""), ""), (t("grüße 🦀 \\ ' \""), "grüße 🦀 \\ ' \""), (t("\\N"), "\\N")]),
        (Logical::Enum { labels: labels() }, vec![(t("b"), "b")]),
        (Logical::Set { labels: labels() }, vec![(t("a,b"), "a,b"), (t(""), "")]),
        (Logical::Json, vec![(t("{\"b\": 1.0, \"a\":[]}"), "{\"b\": 1.0, \"a\":[]}")]),
        (Logical::Bytes, vec![(V::B(vec![]), "\\x"), (V::B(vec![0, 255, 92]), "\\x00ff5c")]),
        (Logical::Bit { len: 10 }, vec![(t("1000000011"), "1000000011"), (t("0000000000"), "0000000000")]),
        (Logical::Bit { len: 1 }, vec![(t("1"), "1")]),
        (Logical::Uuid, vec![(V::B((0..16).collect()), "00010203-0405-0607-0809-0a0b0c0d0e0f")]),
        (Logical::Date, vec![(i(0), "1970-01-01"), (i(-719_162), "0001-01-01"), (i(2_932_896), "9999-12-31")]),
        (
            Logical::Time,
            vec![(i(0), "00:00:00"), (i(86_399_999_999), "23:59:59.999999"), (i(86_400_000_000), "24:00:00")],
        ),
        (Logical::Duration, vec![(i(-3_020_399_000_000), "-838:59:59"), (i(1), "00:00:00.000001")]),
        (
            Logical::Timestamp,
            vec![(i(-1), "1969-12-31 23:59:59.999999"), (i(253_402_300_799_999_999), "9999-12-31 23:59:59.999999")],
        ),
        (Logical::TimestampTz, vec![(i(946_684_800_000_000), "2000-01-01 00:00:00+00")]),
        (Logical::Literal, vec![(t("X'00ff'"), "X'00ff'")]),
    ]
}

/// A table with a column per type, its rows (edges in turn, NULL last) and what the server shall print.
fn everything(name: &str, count: i128) -> (Arc<TableSchema>, Vec<Vec<V>>, String) {
    let values = values();
    let names: Vec<String> = (0..values.len()).map(|n| format!("c{n}")).collect();
    let mut columns = vec![("id", Logical::Int64)];
    columns.extend(names.iter().map(String::as_str).zip(values.iter().map(|(l, _)| l.clone())));
    let (mut rows, mut lines) = (Vec::new(), Vec::new());
    for id in 0..count {
        let pick = |edges: &[(V, &str)]| {
            let at = id as usize % (edges.len() + 1);
            edges.get(at).map_or((V::Null, "NULL".to_owned()), |(v, text)| (v.clone(), (*text).to_owned()))
        };
        let (row, line): (Vec<V>, Vec<String>) = values.iter().map(|(_, edges)| pick(edges)).unzip();
        rows.push([vec![V::I(id)], row].concat());
        lines.push(format!("{id}\t{}", line.join("\t")));
    }
    (table(name, &columns, &[0]), rows, lines.join("\n"))
}

fn read(site: &Site, table: &TableSchema) -> String {
    let columns: Vec<String> = table.columns.iter().map(|c| format!("{}::text", c.name)).collect();
    site.sql(&format!("select {} from shop.{} t order by t.id", columns.join(", "), table.name.name))
}

fn with_op(op: Op, rows: &[Vec<V>]) -> Vec<(Op, Vec<V>)> {
    rows.iter().map(|r| (op, r.clone())).collect()
}

#[track_caller]
fn same(got: &str, expected: &str) {
    for (got, expected) in got.lines().zip(expected.lines()) {
        assert_eq!(got, expected);
    }
    assert_eq!(got.lines().count(), expected.lines().count());
}

fn every_value_by_every_way(version: PgVersion) {
    let site = Site::new(version);
    let mut writer = site.writer();
    let ways = [("by_copy", MANY, Op::Insert), ("by_arrays", 40, Op::Insert), ("by_staging", MANY, Op::Update)];
    for (name, count, op) in ways {
        let (table, values, expected) = everything(name, count);
        writer.prepare(&[Arc::clone(&table)]).unwrap();
        if op == Op::Update {
            // There already, with other values: only then an update does not end as an upsert.
            let others: Vec<Vec<V>> = values.iter().map(|r| [&r[..1], &vec![V::Null; r.len() - 1]].concat()).collect();
            write(&mut writer, vec![Item::Rows(rows(&table, &with_op(Op::Insert, &others)))], Phase::Streaming);
        }
        write(&mut writer, vec![Item::Rows(rows(&table, &with_op(op, &values)))], Phase::Streaming);
        same(&read(&site, &table), &expected);
        // Once more, now as upserts of what is there.
        write(&mut writer, vec![Item::Rows(rows(&table, &with_op(Op::Insert, &values)))], Phase::Streaming);
        same(&read(&site, &table), &expected);
    }
}

#[test]
fn every_value_by_every_way_15() {
    every_value_by_every_way(PgVersion::V15);
}

#[test]
fn every_value_by_every_way_18() {
    every_value_by_every_way(PgVersion::V18);
}

#[test]
fn types_that_postgres_alone_has_arrive_as_they_print() {
    let kinds: &[(&str, &[&str])] = &[
        ("inet", &["10.0.0.1", "10.0.0.0/8"]),
        ("text[]", &["{}", "[0:1]={a,NULL}", "{{\"\",b},{NULL,\"c d\"}}"]),
        ("interval", &["1 year 2 mons 3 days -04:05:06.000007"]),
        ("numeric(6,2)[]", &["{1.50,NaN}"]),
        ("int4range", &["[1,5)", "empty"]),
        ("tsvector", &["'a':1 'it''s':2A", ""]),
        ("bit varying(8)", &["", "1010"]),
        ("timestamp with time zone[]", &["{\"2026-01-02 03:04:05.000006+00\",infinity}"]),
        ("money", &["$1,234.50"]),
    ];
    let site = Site::new(PgVersion::V18);
    let mut writer = site.writer();
    let names: Vec<String> = (0..kinds.len()).map(|n| format!("c{n}")).collect();
    let mut columns = vec![("id", Logical::Int64)];
    let logical = kinds.iter().map(|(name, _)| Logical::Postgres { name: (*name).into() });
    columns.extend(names.iter().map(String::as_str).zip(logical));
    let table = table("alone", &columns, &[0]);
    writer.prepare(&[Arc::clone(&table)]).unwrap();
    let row = |id: i128| -> Vec<V> {
        let value = |edges: &&[&str]| edges.get(id as usize % (edges.len() + 1)).map_or(V::Null, |v| t(v));
        [vec![V::I(id)], kinds.iter().map(|(_, edges)| value(edges)).collect()].concat()
    };
    for (count, op) in [(5, Op::Insert), (5, Op::Update), (MANY, Op::Insert), (MANY, Op::Update)] {
        let values: Vec<Vec<V>> = (0..count).map(row).collect();
        write(&mut writer, vec![Item::Rows(rows(&table, &with_op(op, &values)))], Phase::Streaming);
        let columns: Vec<String> = names.iter().map(|n| format!("coalesce(format('%s', {n}), '')")).collect();
        let got = site.sql(&format!("select {} from shop.alone order by id limit {count}", columns.join(", ")));
        for (got, row) in got.split('\n').zip(&values) {
            let expected: Vec<&str> = row[1..].iter().map(|v| if let V::T(t) = v { t.as_str() } else { "" }).collect();
            assert_eq!(got, expected.join("\t"));
        }
    }
    let part: Vec<V> = [vec![V::I(1)], vec![V::Absent; kinds.len() - 1], vec![t("$2.00")]].concat();
    write(&mut writer, vec![Item::Rows(rows(&table, &[(Op::Update, part), (Op::Delete, row(2))]))], Phase::Streaming);
    assert_eq!(site.sql("select c8, format('%s', c0) from shop.alone where id in (1, 2)"), "$2.00\t10.0.0.0/8");
}

/// xorshift64: the same tests every time.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// Net changes of a table `(id, u, a, b)` against a map; `u` is unique when `unique`, so it moves by rotation.
fn against_a_map(site: &Site, name: &str, phase: Phase, unique: bool, sizes: &[usize]) {
    let table =
        table(name, &[("id", Logical::Int32), ("u", Logical::Int32), ("a", Logical::Text), ("b", Logical::Json)], &[0]);
    let mut writer = site.writer();
    writer.prepare(&[Arc::clone(&table)]).unwrap();
    write(&mut writer, vec![], phase);
    let mut model: BTreeMap<i128, [V; 3]> = BTreeMap::new();
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let mut fresh = 0;
    for (round, &size) in sizes.iter().enumerate() {
        let mut changes = Vec::new();
        let ids: Vec<i128> = model.keys().copied().filter(|_| random.below(3) > 0).take(size).collect();
        let (mut changed, mut freed) = (Vec::new(), Vec::new());
        for id in ids {
            if random.below(4) == 0 {
                freed.extend(model.remove(&id));
                changes.push((Op::Delete, vec![V::I(id), V::Null, V::Null, V::Null]));
            } else {
                changed.push(id);
            }
        }
        // Rotate `u` among the changed rows: every one takes the value of the next.
        let us: Vec<V> = changed.iter().map(|id| model[id][0].clone()).collect();
        for (n, id) in changed.iter().enumerate() {
            let row = model.get_mut(id).unwrap();
            row[0] = us[(n + 1) % us.len()].clone();
            row[1] = t(&format!("round {round} id {id}"));
            let b = if random.below(3) == 0 { V::Absent } else { t(&format!("{{\"r\":{round}}}")) };
            if b != V::Absent {
                row[2] = b.clone();
            }
            changes.push((Op::Update, vec![V::I(*id), row[0].clone(), row[1].clone(), b]));
        }
        for n in 0..size {
            let id = fresh;
            fresh += 1;
            // A freed value of `u` comes back with a new row.
            let u = freed.get(n).map_or(V::I(id), |row| row[0].clone());
            let row = [u, if id % 5 == 0 { V::Null } else { t("new") }, t("[]")];
            changes.push((Op::Insert, [vec![V::I(id)], row.to_vec()].concat()));
            model.insert(id, row);
        }
        write(&mut writer, vec![Item::Rows(rows(&table, &changes))], phase);
        let show = |v: &V| match v {
            V::I(n) => n.to_string(),
            V::T(text) => text.clone(),
            _ => "NULL".into(),
        };
        let expected: Vec<String> =
            model.iter().map(|(id, [u, a, b])| format!("{id}\t{}\t{}\t{}", show(u), show(a), show(b))).collect();
        same(&read(site, &table), &expected.join("\n"));
    }
    if unique {
        let count = site.sql(&format!("select count(*) - count(distinct u) from shop.{name}"));
        assert_eq!(count, "0");
    }
}

/// A few rows, then many, then a few.
const SIZES: [usize; 6] = [5, 40, 900, 1500, 700, 30];

#[test]
fn changes_in_every_phase_end_as_in_a_map() {
    let site = Site::new(PgVersion::V15);
    against_a_map(&site, "streaming", Phase::Streaming, false, &SIZES);
    against_a_map(&site, "copying", Phase::Copying, false, &SIZES);
    let site = Site::new(PgVersion::V18);
    against_a_map(&site, "streaming", Phase::Streaming, false, &SIZES);
}

#[test]
fn rows_swap_unique_values() {
    let site = Site::new(PgVersion::V15);
    site.sql("create schema shop; create table shop.x (id int primary key, u int unique, a text, b json)");
    against_a_map(&site, "x", Phase::Streaming, true, &SIZES);
    site.sql("create table shop.y (id int primary key, u int unique, a text, b json)");
    against_a_map(&site, "y", Phase::Copying, true, &SIZES);
}

#[test]
fn tables_of_the_operator_convert() {
    let site = Site::new(PgVersion::V15);
    site.sql("create schema shop; create table shop.x (b json, more int default 7, u bigint, a varchar, id numeric primary key)");
    against_a_map(&site, "x", Phase::Streaming, false, &SIZES);
    assert_eq!(site.sql("select count(*) from shop.x where more is distinct from 7"), "0");
    site.sql("create table shop.z (id int primary key, u smallint, a text, b json)");
    let (t, mut writer) = (table("z", &[("id", Logical::Int32), ("u", Logical::Int32)], &[0]), site.writer());
    let e = writer.prepare(&[t]).unwrap_err();
    assert!(e.to_string().contains("smallint") && e.hint_text().is_some(), "{e:?}");
}

fn small() -> Arc<TableSchema> {
    table("s", &[("id", Logical::Int32), ("v", Logical::Text), ("w", Logical::Text)], &[0])
}

#[test]
fn an_update_without_its_row_is_an_error_that_names_it() {
    let site = Site::new(PgVersion::V15);
    for count in [3, MANY] {
        let t = small();
        let mut writer = site.writer();
        writer.prepare(&[Arc::clone(&t)]).unwrap();
        let here: Vec<Vec<V>> =
            (0..count).filter(|id| *id != 2).map(|id| vec![V::I(id), common::t("v"), V::Null]).collect();
        write(&mut writer, vec![Item::Rows(rows(&t, &with_op(Op::Insert, &here)))], Phase::Streaming);
        let partial: Vec<Vec<V>> = (0..count).map(|id| vec![V::I(id), V::Absent, common::t("w")]).collect();
        let error = writer.write(&batch(vec![Item::Rows(rows(&t, &with_op(Op::Update, &partial)))])).unwrap_err();
        let Class::Data(place) = error.class() else { panic!("{error:?}") };
        assert_eq!((place.table.as_str(), place.key.as_deref()), ("shop.s", Some("id=2")));
        assert!(writer.write(&batch(vec![])).unwrap_err().is_transient(), "a broken writer refuses");
        drop(writer);
        assert_eq!(site.sql("select count(*) from shop.s where w is not null"), "0");
        site.sql("truncate shop.s");
        // While the copy runs the row's chunk is still to come.
        let mut writer = site.writer();
        write(&mut writer, vec![], Phase::Copying);
        write(&mut writer, vec![Item::Rows(rows(&t, &with_op(Op::Update, &partial)))], Phase::Copying);
        assert_eq!(site.sql("select count(*) from shop.s"), "0");
    }
}

#[test]
fn truncate_and_schema_changes_stand_in_their_place() {
    let site = Site::new(PgVersion::V15);
    let (t, mut writer) = (small(), site.writer());
    writer.prepare(&[Arc::clone(&t)]).unwrap();
    let row = |id| (Op::Insert, vec![V::I(id), common::t("v"), common::t("w")]);
    write(&mut writer, vec![Item::Rows(rows(&t, &[row(1), row(2)]))], Phase::Streaming);
    let mut to = (*t).clone();
    to.version = 2;
    to.columns.remove(2);
    let mut added = to.columns[1].clone();
    (added.name, added.logical) = ("n".into(), Logical::Int64);
    to.columns.push(added);
    let to = Arc::new(to);
    let change = SchemaChange {
        from: Arc::clone(&t),
        to: Arc::clone(&to),
        steps: vec![
            SchemaStep::Drop { column: "w".into() },
            SchemaStep::Add { column: "n".into(), fill: Some("42".into()) },
        ],
    };
    let after = (Op::Insert, vec![V::I(4), common::t("x"), V::I(5)]);
    let items = vec![
        Item::Truncate(Arc::clone(&t)),
        Item::Rows(rows(&t, &[row(3)])),
        Item::Schema(change),
        Item::Rows(rows(&to, &[after])),
    ];
    writer.write(&batch(items.clone())).unwrap();
    drop(writer);
    assert_eq!(
        site.sql("select * from shop.s order by id"),
        "1\tv\tw\n2\tv\tw",
        "nothing of it shows before the commit"
    );
    let mut writer = site.writer();
    assert_eq!(writer.tables().unwrap(), [Arc::clone(&t)]);
    write(&mut writer, items, Phase::Streaming);
    assert_eq!(site.sql("select * from shop.s order by id"), "3\tv\t42\n4\tx\t5");
    drop(writer);
    assert_eq!(site.writer().tables().unwrap(), [to]);
    // A table that others refer to is emptied as well.
    let mut writer = site.writer();
    let known = writer.tables().unwrap().remove(0);
    writer.finish_copy(&[Arc::clone(&known)]).unwrap();
    site.sql("create table shop.child (id int primary key, s int references shop.s)");
    write(&mut writer, vec![Item::Truncate(known)], Phase::Streaming);
    assert_eq!(site.sql("select count(*) from shop.s"), "0");
}

#[test]
fn a_refused_value_leaves_nothing() {
    let site = Site::new(PgVersion::V15);
    for count in [10, MANY] {
        let (t, mut writer) = (small(), site.writer());
        writer.prepare(&[Arc::clone(&t)]).unwrap();
        let mut given: Vec<Vec<V>> = (0..count).map(|id| vec![V::I(id), common::t("v"), V::Null]).collect();
        given[count as usize - 1][1] = common::t("a\0b");
        let error = writer.write(&batch(vec![Item::Rows(rows(&t, &with_op(Op::Insert, &given)))])).unwrap_err();
        let Class::Data(place) = error.class() else { panic!("{error:?}") };
        assert_eq!((place.column.as_deref(), place.key.clone()), (Some("v"), Some(format!("id={}", count - 1))));
        drop(writer);
        assert_eq!(site.sql("select count(*) from shop.s"), "0");
    }
}

#[test]
fn an_update_with_all_columns_brings_a_missing_row() {
    let site = Site::new(PgVersion::V15);
    let (t, mut writer) = (small(), site.writer());
    writer.prepare(&[Arc::clone(&t)]).unwrap();
    let row = |id, v: &str| vec![V::I(id), common::t(v), V::Null];
    for count in [4, MANY] {
        let half: Vec<Vec<V>> = (0..count / 2).map(|id| row(id, "old")).collect();
        let all: Vec<Vec<V>> = (0..count).map(|id| row(id, "new")).collect();
        write(&mut writer, vec![Item::Truncate(Arc::clone(&t))], Phase::Streaming);
        write(&mut writer, vec![Item::Rows(rows(&t, &with_op(Op::Insert, &half)))], Phase::Streaming);
        write(&mut writer, vec![Item::Rows(rows(&t, &with_op(Op::Update, &all)))], Phase::Streaming);
        assert_eq!(site.sql("select count(*), min(v), max(v) from shop.s"), format!("{count}\tnew\tnew"));
    }
}

#[test]
fn a_few_large_values_arrive() {
    let site = Site::new(PgVersion::V15);
    let (t, mut writer) = (small(), site.writer());
    writer.prepare(&[Arc::clone(&t)]).unwrap();
    let long = "x".repeat(6 << 20);
    for (op, v) in [(Op::Insert, "v"), (Op::Update, "w")] {
        let given: Vec<_> = (0..3).map(|id| (op, vec![V::I(id), common::t(v), common::t(&long)])).collect();
        write(&mut writer, vec![Item::Rows(rows(&t, &given))], Phase::Streaming);
        assert_eq!(site.sql("select count(*), sum(length(w)) from shop.s"), format!("3\t{}", 3 * long.len()));
        assert_eq!(site.sql("select distinct v from shop.s"), v);
    }
}
