//! 50,000 changes of 20,000 keys folded to their net effect, as the pipeline meets them under load.
//!
//! The table is sysbench's: a key, an integer, two texts. Changes come in parts of 8,192 rows, as the reader hands them
//! on: of four changes two are updates, one a delete and one the insert that brings the key back.

use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput};
use crossfade::fold::fold;
use crossfade_core::builder::push_str;
use crossfade_core::{Column, ColumnBuilder, Item, Logical, Op, RowsBuilder, TableName, TableSchema};

use crate::data::Random;

const CHANGES: usize = 50_000;
const KEYS: u64 = 20_000;
const PART: usize = 8_192;

fn table(key: Logical) -> Arc<TableSchema> {
    let column = |name: &str, logical| Column {
        name: name.into(),
        source_type: String::new(),
        logical,
        nullable: false,
        auto_increment: false,
        number: 0,
        policies: Default::default(),
    };
    Arc::new(TableSchema {
        name: TableName::new("sbtest", "sbtest1"),
        version: 1,
        columns: vec![
            column("id", key),
            column("k", Logical::Int32),
            column("c", Logical::Text),
            column("pad", Logical::Text),
        ],
        key: vec![0],
        indexes: vec![],
        foreign_keys: vec![],
        origin: None,
        pending: vec![],
        number: 0,
    })
}

/// The value of a key, or of a text that is made of it.
fn append(builder: &mut ColumnBuilder, number: u64, width: usize) {
    match builder {
        ColumnBuilder::Int64(b) => b.append_value(number as i64),
        ColumnBuilder::Int32(b) => b.append_value(number as i32),
        ColumnBuilder::Utf8(b) => push_str(b, &format!("{number:0width$}")).expect("a short text"),
        other => panic!("no value for {other:?}"),
    }
}

fn changes(key: Logical) -> Vec<Item> {
    let mut random = Random(7);
    let mut builder = RowsBuilder::new(table(key));
    let mut items = Vec::new();
    let mut change = |op, id: u64, salt: u64| {
        for (column, (number, width)) in
            builder.columns.iter_mut().zip([(id, 24), (salt % 100_000, 0), (salt, 120), (salt, 60)])
        {
            append(column, number, width);
        }
        builder.end_row(op, 1_700_000_000_000_000, builder.len() as u32);
        if builder.len() == PART {
            items.push(Item::Rows(builder.finish().expect("columns of one length")));
        }
    };
    for _ in 0..CHANGES / 4 {
        change(Op::Update, random.below(KEYS), random.next());
        change(Op::Update, random.below(KEYS), random.next());
        let id = random.below(KEYS);
        change(Op::Delete, id, random.next());
        change(Op::Insert, id, random.next());
    }
    items.push(Item::Rows(builder.finish().expect("columns of one length")));
    items
}

/// An integer as the key, and a text.
pub fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fold");
    group.throughput(Throughput::Elements(CHANGES as u64));
    for (name, key) in [("integer key", Logical::Int64), ("text key", Logical::Text)] {
        let items = changes(key);
        group.bench_function(name, |bencher| {
            bencher.iter_batched(|| items.clone(), |items| fold(items).expect("one shape"), BatchSize::LargeInput);
        });
    }
    group.finish();
}
