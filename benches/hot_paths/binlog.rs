//! Row events into Arrow columns, as the stream does it after TABLE_MAP has been understood.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use crossfade_core::{Result, Rows, RowsBuilder};
use crossfade_mysql::binlog::charset::Charset;
use crossfade_mysql::binlog::plan::{Collations, Plan};
use crossfade_mysql::binlog::rows::{Change, Layout, Sink, decode_rows, head};

use crate::data;

/// How rows of the generated table map become columns.
pub fn plan() -> Plan {
    let collations = Collations::from([(data::COLLATION, "utf8mb4".to_owned())]);
    let charset = |name: &str| Ok(Charset::by_name(name));
    Plan::new(&data::table_map(), &data::table(), &[], &collations, &charset).expect("the map is that of the table")
}

/// The rows of these events.
pub fn decode(plan: &Plan, change: Change, events: &[Vec<u8>]) -> Result<Rows> {
    let layout = Layout { change, extra: true, compressed: false };
    let mut builder = RowsBuilder::new(plan.table.clone());
    let mut order = 0;
    for event in events {
        let (_, _, rest) = head(event, layout).map_err(|fault| fault.at("a generated event"))?;
        let mut sink = Sink { builder: &mut builder, commit_micros: 1_700_000_000_000_000, order: &mut order };
        decode_rows(rest, layout, plan, &mut sink, &"a generated event")?;
    }
    builder.finish()
}

/// The rows that the other benches take.
pub fn rows() -> Rows {
    let rows = decode(&plan(), Change::Write, &data::writes()).expect("the events are well formed");
    assert_eq!(rows.len(), data::ROWS);
    rows
}

/// WRITE_ROWS and UPDATE_ROWS.
pub fn bench(criterion: &mut Criterion) {
    let plan = plan();
    let mut group = criterion.benchmark_group("binlog");
    group.throughput(Throughput::Elements(data::ROWS as u64));
    for (name, change, events) in
        [("writes", Change::Write, data::writes()), ("updates", Change::Update, data::updates())]
    {
        group.bench_function(name, |bencher| {
            bencher.iter(|| decode(&plan, change, black_box(&events)).expect("the events are well formed"));
        });
    }
    group.finish();
}
