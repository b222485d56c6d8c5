//! A transaction that is larger than memory allows, and many tables.

use std::fs;

use crossfade_harness::{Database, MariaDb, PgVersion, Postgres};

use crate::stage::{Line, PATIENCE, stop, wait};

/// Rows of the large transaction.
const ROWS: u64 = 5_000_000;

/// The most memory that a process ever had, in MiB, see proc_pid_status(5).
fn peak(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).expect("VmHWM");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") >> 10
}

/// One transaction of many rows; `insert` makes it.
fn a_large_transaction(source: &Database, insert: &str) {
    source.sql("create table big (id int primary key, n bigint, s varchar(60))");
    let target = Postgres::shared(PgVersion::V15).fresh_database("dst");
    let (line, from, to) = (Line::new("big"), source.url(), target.url());
    let mut daemon = line.start(&from, &to);
    daemon.wait_for("complete, streaming", PATIENCE);
    let idle = peak(daemon.pid());
    source.sql(insert);
    let count = || target.sql(&format!("select count(*) from {}.big", source.schema()));
    let arrived = || target.sql(&format!("select exists (select from {}.big)", source.schema())) == "t";
    wait("the transaction arrives", arrived);
    assert_eq!(count(), ROWS.to_string(), "all of it at once");
    let most = peak(daemon.pid());
    eprintln!("peak memory: {idle} MiB idle, {most} MiB with a transaction of {ROWS} rows");
    // limits.memory is 64 MiB; decoders, encoders and the allocator take their share. A test build took 120 MiB, of which 16
    // are its own pages; a release build 111 to 130.
    assert!(most < 160, "{most} MiB for a transaction of {ROWS} rows");
    stop(daemon);
    assert_eq!(line.verify_equal(&from, &to), 1);
}

#[test]
fn a_transaction_of_millions_of_rows_stays_within_bounds() {
    let insert = format!("insert into big select seq, seq * 3, concat('row number ', seq) from seq_1_to_{ROWS}");
    a_large_transaction(&MariaDb::shared().fresh_database("big"), &insert);
}

#[test]
fn a_transaction_of_millions_of_rows_stays_within_bounds_postgres() {
    let insert = format!("insert into big select i, i * 3, 'row number ' || i from generate_series(1, {ROWS}) i");
    let source = Postgres::shared(PgVersion::V18).fresh_database("big");
    a_large_transaction(&source, &insert);
    let streamed = "select stream_txns > 0 from pg_stat_replication_slots join pg_replication_slots using (slot_name) \
                    where database = current_database()";
    assert_eq!(source.sql(streamed), "t", "it came while it was open");
}

/// Many tables.
const TABLES: usize = 2000;

#[test]
fn two_thousand_tables() {
    let source = MariaDb::shared().fresh_database("many");
    let each = |statement: &dyn Fn(usize) -> String| source.sql(&(0..TABLES).map(statement).collect::<String>());
    each(&|i| format!("create table t{i} (id int primary key, s varchar(20)); insert into t{i} values (1, 'one');\n"));
    let target = Postgres::shared(PgVersion::V15).fresh_database("dst");
    let (line, from, to) = (Line::new("many"), source.url(), target.url());
    let mut daemon = line.start(&from, &to);
    daemon.wait_for("complete, streaming", PATIENCE);
    each(&|i| format!("insert into t{i} values (2, 'two');\n"));
    stop(daemon);
    assert_eq!(line.ends_equal(&from, &to), TABLES);
}
