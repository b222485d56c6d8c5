//! Postgres to Parquet: Chinook and Sakila in a folder, read back by pyarrow and DuckDB, which know nothing of Crossfade; killed
//! ten times; a value that the log does not carry.

use std::path::Path;
use std::time::Duration;

use crossfade_harness::{Database, PgVersion, Postgres, python};

use crate::common::{Pipeline, code, folder, while_writing};
use crate::postgres_samples::{CHINOOK, SAKILA, Sample};

/// Rows per table, by DuckDB and by pyarrow over the files alone, against the server's own counts; and the money, to the cent.
/// A table without a key holds what was inserted less what was deleted.
const READ_BACK: &str = r#"
import duckdb, glob, os, sys
from decimal import Decimal
import pyarrow as pa, pyarrow.compute as pc, pyarrow.parquet as pq
lake = sys.argv[1]
tables = [line.split('\t') for line in sys.argv[2].splitlines()]
for name, keys, money, count, total in tables:
    files = sorted(glob.glob(os.path.join(lake, 'public', name, '*.parquet')))
    count = int(count)
    assert files or count == 0, name
    if not files: continue
    rows = f"read_parquet({files!r}, union_by_name=true)"
    if keys:
        part = ', '.join(f'"{k}"' for k in keys.split(','))
        state = f"""(select *, 1 as _sign from {rows}
            qualify row_number() over (partition by {part} order by _seq desc, _ordinal desc) = 1) where _op <> 'd'"""
    else:
        state = f"(select *, case _op when 'd' then -1 else 1 end as _sign from {rows})"
    value = f'"{money}" * _sign' if money else '0'
    n, s = duckdb.sql(f"select coalesce(sum(_sign), 0)::bigint, coalesce(sum({value}), 0)::text from {state}").fetchall()[0]
    assert n == count, ('DuckDB', name, count, n)
    assert Decimal(s) == Decimal(total), ('DuckDB', name, total, s)
    log = pa.concat_tables([pq.read_table(f) for f in files], promote_options='default')
    if keys:
        log = log.sort_by([('_seq', 'ascending'), ('_ordinal', 'ascending')])
        last = {}
        for i, key in enumerate(zip(*(log[k].to_pylist() for k in keys.split(',')))): last[key] = i
        log = log.take(sorted(last.values()))
        log = log.filter(pc.not_equal(log['_op'].cast(pa.string()), 'd'))
        signs = [1] * log.num_rows
    else:
        signs = [-1 if op == 'd' else 1 for op in log['_op'].cast(pa.string()).to_pylist()]
    assert sum(signs) == count, ('pyarrow', name, count, sum(signs))
    if money:
        s = sum((v * sign for v, sign in zip(log[money].to_pylist(), signs) if v is not None), Decimal(0))
        assert s == Decimal(total), ('pyarrow', name, total, s)
print('tables', len(tables))
"#;

/// The columns whose sums are compared.
const MONEY: [(&str, &str); 4] =
    [("track", "unit_price"), ("invoice", "total"), ("film", "rental_rate"), ("payment", "amount")];

fn read_back(source: &Database, lake: &Path, tables: usize) {
    let keys = source.sql(
        "select t.tablename, coalesce((select string_agg(a.attname, ',') from pg_index i \
             join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any (i.indkey) \
             where i.indrelid = t.tablename::regclass and i.indisprimary), '') from pg_tables t where schemaname = 'public'",
    );
    let fact = |line: &str| {
        let (table, _) = line.split_once('\t').expect("two columns");
        let of = |name: &str| table == name || table.starts_with("payment_p") && name == "payment";
        let money = MONEY.iter().find(|(name, _)| of(name)).map_or("", |(_, column)| column);
        let total = if money.is_empty() { "0".to_owned() } else { format!("coalesce(sum({money}), 0)") };
        format!("{line}\t{money}\t{}", source.sql(&format!("select count(*), {total} from only \"{table}\"")))
    };
    let facts: Vec<String> = keys.lines().map(fact).collect();
    let out = python(READ_BACK, &[lake.to_str().expect("UTF-8"), &facts.join("\n")]);
    assert_eq!(out.trim(), format!("tables {tables}"));
}

/// What a file format needs beside what the findings say: rows whose large values are in the log of each update.
fn pipeline(sample: &Sample, name: &str, source: &Database, lake: &Path) -> Pipeline {
    let pipeline = Pipeline::new(name, &source.url(), &[&format!("file://{}", lake.display())]);
    sample.follow_the_findings(&pipeline, source);
    source.sql("alter table if exists staff replica identity full");
    pipeline
}

fn with_a_writer_running(sample: &Sample, version: PgVersion) {
    let (_keep, folder) = folder();
    let source = sample.load(version);
    let pipeline = pipeline(sample, "pglake", &source, &folder);
    while_writing(
        1,
        |_, stop| sample.write_until(&source, stop),
        |stop| pipeline.level_under_load(sample.tables, stop),
    );
    pipeline.level(sample.tables);
    read_back(&source, &folder, sample.tables);
    assert!(pipeline.ended("uninstall", &[]).status.success());
}

fn killed_ten_times(sample: &Sample, version: PgVersion, seed: u64) {
    let (_keep, folder) = folder();
    let source = sample.load(version);
    let pipeline = pipeline(sample, "pglakekill", &source, &folder);
    while_writing(
        1,
        |_, stop| sample.write_until(&source, stop),
        |_| pipeline.killed(10, Duration::from_millis(150), Duration::from_millis(150), seed),
    );
    pipeline.level(sample.tables);
    read_back(&source, &folder, sample.tables);
    assert!(pipeline.ended("uninstall", &[]).status.success());
}

#[test]
fn chinook_from_postgres_to_parquet() {
    with_a_writer_running(&CHINOOK, PgVersion::V15);
}

#[test]
fn sakila_from_postgres_to_parquet() {
    with_a_writer_running(&SAKILA, PgVersion::V18);
}

#[test]
fn chinook_from_postgres_to_parquet_killed_ten_times() {
    killed_ten_times(&CHINOOK, PgVersion::V18, 8);
}

#[test]
fn sakila_from_postgres_to_parquet_killed_ten_times() {
    killed_ten_times(&SAKILA, PgVersion::V15, 9);
}

/// A large value that an update does not touch is not in the log. Postgres keeps the one that it has; a file has none.
#[test]
fn a_large_value_that_an_update_leaves_alone() {
    let source = Postgres::shared(PgVersion::V15).fresh_database("src");
    source.sql(
        "create table t (id int primary key, n int, large text);\n\
         alter table t alter large set storage external;\n\
         insert into t values (1, 1, repeat('läßt ', 4000)), (2, 2, repeat('x', 9000)), (3, 3, null)",
    );
    let target = Postgres::shared(PgVersion::V15).fresh_database("dst");
    let (_keep, folder) = folder();
    let rows = Pipeline::new("toast", &source.url(), &[&target.url()]);
    let files = Pipeline::new("toastlake", &source.url(), &[&format!("file://{}", folder.display())]);
    for pipeline in [&rows, &files] {
        pipeline.catch_up();
        assert_eq!(pipeline.verify_equal(), 1);
    }
    source.sql("update t set n = n + 10; update t set n = n + 100, large = large || '!' where id = 2; update t set n = 7 where id = 2");
    rows.catch_up();
    assert_eq!(rows.verify_equal(), 1);
    assert_eq!(target.sql("select id, n, length(large) from t order by id"), "1\t11\t20000\n2\t7\t9001\n3\t13\tNULL");

    let refused = files.ended("run", &["--until-caught-up"]);
    assert_eq!(code(&refused), 65, "{}", refused.stderr);
    for word in
        ["public.t", "large", "the log does not carry the whole row", "REPLICA IDENTITY FULL", "crossfade snapshot"]
    {
        assert!(refused.stderr.contains(word), "{word:?} is missing in: {}", refused.stderr);
    }
    // What the hint says is the way out.
    source.sql("alter table t replica identity full");
    assert!(files.ended("snapshot", &["t"]).status.success());
    files.catch_up();
    source.sql("update t set n = n + 1000; update t set id = 11 where id = 1");
    files.catch_up();
    assert_eq!(files.verify_equal(), 1);
    for pipeline in [&rows, &files] {
        assert!(pipeline.ended("uninstall", &[]).status.success());
    }
}
