//! Where the corpus comes from: each script is run on a real server, and what its log then holds is compared with the file
//! that is kept. `CROSSFADE_FUZZ_CAPTURE=1` writes the file anew instead.
//!
//! Bytes differ from run to run (times, ids, positions), so the kinds of messages and events are compared: a server that
//! sends another kind, or a script that grew, shows that the file is old.

use std::collections::BTreeSet;
use std::path::Path;

use crossfade_fuzz::corpus;
use crossfade_harness::{MariaDb, MySql, MySqlServer, Options, PgVersion, Postgres};

/// Compares, or writes.
fn keep(name: &str, captured: &[u8], kinds: impl Fn(&str) -> BTreeSet<u8>, now: &BTreeSet<u8>) {
    if std::env::var_os("CROSSFADE_FUZZ_CAPTURE").is_some() {
        std::fs::write(corpus::path(name), captured).unwrap();
    }
    assert_eq!(kinds(name), *now, "{name} is old: capture it anew with CROSSFADE_FUZZ_CAPTURE=1");
}

/// What makes the tables, and what changes them.
fn postgres_script() -> (String, String) {
    let script = std::fs::read_to_string(corpus::path("postgres.sql")).unwrap();
    let (tables, changes) = script.split_once("-- The slot is made here.").expect("a place for the slot");
    (tables.to_owned(), changes.to_owned())
}

#[test]
fn messages_of_pgoutput() {
    let database = Postgres::shared(PgVersion::V18).fresh_database("fuzz");
    let (tables, changes) = postgres_script();
    // Slots are named for the whole server, databases too.
    let slot = database.name();
    database.sql(&tables);
    database.sql(&format!("select pg_create_logical_replication_slot('{slot}', 'pgoutput')"));
    database.sql(&changes);
    let captured = database.sql(&format!(
        "select encode(data, 'hex') from pg_logical_slot_get_binary_changes('{slot}', null, null, 'proto_version', '1', \
         'publication_names', 'p', 'messages', 'true')"
    ));
    database.sql(&format!("select pg_drop_replication_slot('{slot}')"));
    let first = |line: &str| u8::from_str_radix(&line[..2], 16).unwrap();
    let now = captured.lines().map(first).collect();
    let kinds = |name: &str| corpus::lines(name).iter().map(|m| m[0]).collect();
    keep("pgoutput.hex", format!("{}\n", captured.trim_end()).as_bytes(), kinds, &now);
}

#[test]
fn rows_of_copy() {
    let database = Postgres::shared(PgVersion::V18).fresh_database("fuzz");
    let (tables, changes) = postgres_script();
    let (inserts, _) = changes.split_once("begin;").expect("a transaction behind the inserts");
    database.sql(&format!("{tables}{inserts}"));
    let file = Path::new("/tmp").join(format!("crossfade-copy-{}-{}", std::process::id(), database.name()));
    let captured = database.sql(&format!(
        "copy (select id, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, s::text, t::text from every) \
         to '{0}' (format binary); select encode(pg_read_binary_file('{0}'), 'hex')",
        file.display()
    ));
    let digits = captured.lines().rfind(|l| l.len() > 40).expect("the file as digits");
    let bytes = corpus::from_hex(digits).unwrap();
    let columns = |file: &[u8]| BTreeSet::from([file[20]]);
    keep("postgres.copy", &bytes, |name| columns(&corpus::bytes(name)), &columns(&bytes));
}

/// The binlog file that a script fills.
fn binlog(server: &MySqlServer, script: &str, status: &str) -> Vec<u8> {
    let database = server.fresh_database("fuzz");
    let current = || database.sql(status).split_whitespace().next().expect("a file's name").to_owned();
    database.sql("flush binary logs");
    let file = current();
    database.sql_file(&corpus::path(script));
    database.sql("flush binary logs");
    let base = database.sql("select @@global.log_bin_basename");
    let folder = Path::new(base.trim()).parent().expect("a folder").to_owned();
    std::fs::read(folder.join(file)).unwrap()
}

fn event_kinds(file: &[u8]) -> BTreeSet<u8> {
    corpus::split(file).iter().map(|e| e[4]).collect()
}

#[test]
fn events_of_mysql() {
    let file = binlog(MySql::shared(), "mysql.sql", "show binary log status");
    keep("mysql.binlog", &file, |name| event_kinds(&corpus::bytes(name)), &event_kinds(&file));
}

#[test]
fn events_of_mariadb() {
    let options = Options::new().set("log_bin_compress", "ON").set("log_bin_compress_min_len", 40);
    let file = binlog(&MariaDb::start(options), "mariadb.sql", "show master status");
    keep("mariadb.binlog", &file, |name| event_kinds(&corpus::bytes(name)), &event_kinds(&file));
}
