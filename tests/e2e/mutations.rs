//! The verifier is verified by mutation, on real servers: each way in which data goes wrong unseen is done to the target behind the
//! pipeline's back while somebody writes, must be found by table, class, key and column, and be mended.
//!
//! From MariaDB and from Postgres, one table of mutations for both. The writer has rows of its own in each table, so the
//! figures of what a mutation did are exact. That it is mended, the next comparison shows too: nothing differs but by the next one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crossfade_harness::{Client, Database, MariaDb, PgVersion, Postgres};
use serde_json::Value;

use crate::common::{PATIENCE, Pipeline, code, while_writing};
use crate::differences::{SHOP, at_ease};

/// The shop of [`SHOP`] as Postgres makes it.
const POSTGRES_SHOP: &str = "
    create table customer (id int primary key, name varchar(40) not null, note varchar(40));
    create table purchase (
        id int primary key,
        customer_id int not null references customer (id) on delete cascade,
        amount numeric(12,2) not null,
        weight double precision,
        placed timestamp not null,
        seen timestamptz,
        payload bytea);
    create table event (what varchar(20) not null, n int);
    alter table event replica identity full;
    insert into customer select i, 'Name ' || i, case when i % 3 = 0 then '' end from generate_series(1, 300) i;
    insert into purchase select i, i % 300 + 1, i * 1.37, sqrt(i), timestamp '2024-02-29 10:00' + i * interval '1 minute',
        timestamptz '2024-06-01 00:00+00' + i * interval '1 second', decode(md5(i::text), 'hex') from generate_series(1, 3000) i;
    insert into event select 'kind ' || i % 5, i % 7 from generate_series(1, 500) i;";

/// What is done to the target, and what the comparison must say of it.
struct Mutation {
    name: &'static str,
    sql: &'static str,
    /// The only table in which it shows.
    table: &'static str,
    /// So many rows differ.
    rows: u64,
    /// Class and key of the first rows that are listed. One class alone: so are all of them, whatever their keys.
    listed: &'static [(&'static str, &'static str)],
    /// The columns in which each row differs; none where rows are missing, extra or repeated.
    columns: &'static str,
}

const fn mutation(
    name: &'static str,
    sql: &'static str,
    (table, rows): (&'static str, u64),
    listed: &'static [(&'static str, &'static str)],
    columns: &'static str,
) -> Mutation {
    Mutation { name, sql, table, rows, listed, columns }
}

/// Some of a table are too many for the list, which then holds any of them.
const ANY: &[(&str, &str)] = &[("different", "")];

const TABLES: [&str; 3] = ["customer", "purchase", "event"];

static MUTATIONS: [Mutation; 24] = [
    mutation(
        "one value",
        "update purchase set amount = amount + 0.01 where id = 1700",
        ("purchase", 1),
        &[("different", "1700")],
        "amount",
    ),
    mutation(
        "+0.05 over a column",
        "update purchase set amount = amount + 0.05 where id <= 3000",
        ("purchase", 3000),
        ANY,
        "amount",
    ),
    mutation(
        "a year later, a column",
        "update purchase set placed = placed + interval '1 year' where id <= 3000",
        ("purchase", 3000),
        ANY,
        "placed",
    ),
    mutation(
        "two columns swapped",
        "update customer set name = note, note = name where note is not null",
        ("customer", 100),
        &[("different", "3"), ("different", "6"), ("different", "9"), ("different", "12")],
        "name, note",
    ),
    mutation(
        "NULL for ''",
        "update customer set note = null where id = 33",
        ("customer", 1),
        &[("different", "33")],
        "note",
    ),
    mutation(
        "'' for NULL",
        "update customer set note = '' where id = 34",
        ("customer", 1),
        &[("different", "34")],
        "note",
    ),
    mutation(
        "changed case, a column",
        "update customer set name = upper(name) where id <= 300",
        ("customer", 300),
        ANY,
        "name",
    ),
    mutation(
        "trailing blanks",
        "update customer set name = name || '  ' where id in (8, 9)",
        ("customer", 2),
        &[("different", "8"), ("different", "9")],
        "name",
    ),
    mutation("a lost row", "delete from purchase where id = 2999", ("purchase", 1), &[("missing", "2999")], ""),
    mutation(
        "an extra row",
        "insert into customer values (9000, 'nobody', null)",
        ("customer", 1),
        &[("extra", "9000")],
        "",
    ),
    mutation(
        "a repeated row without a key",
        "insert into event select * from event where what = 'kind 3' and n = 2 limit 1",
        ("event", 1),
        &[("repeated", "kind 3")],
        "",
    ),
    mutation(
        "two of one row for two of another, without a key: XOR and count are the same",
        "delete from event where ctid in (select ctid from event where what = 'kind 0' and n = 0 limit 2);
         insert into event values ('kind 1', 1), ('kind 1', 1)",
        ("event", 2),
        &[("repeated", "kind 0"), ("repeated", "kind 1")],
        "",
    ),
    mutation(
        "one flipped bit of a blob",
        "update purchase set payload = set_bit(payload, 9, 1 - get_bit(payload, 9)) where id = 41",
        ("purchase", 1),
        &[("different", "41")],
        "payload",
    ),
    mutation(
        "the same bit in two blobs: their XOR is the same",
        "update purchase set payload = set_bit(payload, 9, 1 - get_bit(payload, 9)) where id in (42, 43)",
        ("purchase", 2),
        &[("different", "42"), ("different", "43")],
        "payload",
    ),
    mutation(
        "a lost cascade: the children of a customer who is gone",
        "insert into purchase select 5000 + id, 9999, amount, weight, placed, seen, payload
         from purchase where customer_id = 300",
        ("purchase", 10),
        &[("extra", "5299"), ("extra", "5599")],
        "",
    ),
    mutation(
        "another key",
        "update customer set id = 9001 where id = 300",
        ("customer", 2),
        &[("missing", "300"), ("extra", "9001")],
        "",
    ),
    mutation(
        "local time taken for UTC, a column without a zone",
        "update purchase set placed = placed at time zone 'UTC' at time zone 'CET-1' where id <= 3000",
        ("purchase", 3000),
        ANY,
        "placed",
    ),
    mutation(
        "local time taken for UTC, a column with a zone",
        "update purchase set seen = seen at time zone 'CET-1' at time zone 'UTC' where id <= 3000",
        ("purchase", 3000),
        ANY,
        "seen",
    ),
    mutation(
        "floats rounded to four bytes, all but the 54 squares",
        "update purchase set weight = weight::real where id <= 3000",
        ("purchase", 2946),
        ANY,
        "weight",
    ),
    mutation(
        "a float rounded to 15 digits",
        "update purchase set weight = weight::numeric where id = 10",
        ("purchase", 1),
        &[("different", "10")],
        "weight",
    ),
    mutation(
        "1 more in one row and 1 less in another: their sum is the same",
        "update purchase set amount = amount + case id when 1 then 1 else -1 end where id in (1, 2)",
        ("purchase", 2),
        &[("different", "1"), ("different", "2")],
        "amount",
    ),
    mutation(
        "a value exchanged between two rows: each column's sum and XOR are the same",
        "update purchase p set amount = q.amount from purchase q where (p.id, q.id) in ((5, 6), (6, 5))",
        ("purchase", 2),
        &[("different", "5"), ("different", "6")],
        "amount",
    ),
    mutation(
        "keys exchanged",
        "update purchase set id = -id where id in (3, 4); update purchase set id = 7 + id where id in (-3, -4)",
        ("purchase", 2),
        &[("different", "3"), ("different", "4")],
        "customer_id, amount, weight, placed, seen, payload",
    ),
    mutation("an emptied table", "delete from customer where id <= 300", ("customer", 300), &[("missing", "")], ""),
];

/// Writes rows of its own into each table, and leaves those that are mutated alone. A server that is too busy for a login is asked again.
fn write(source: &Database, stop: &AtomicBool) -> usize {
    let (mut n, mut written) = (0, 0);
    while !stop.load(Ordering::SeqCst) {
        let id = 10_000 + n;
        let done = source.try_sql(&format!(
            "insert into customer values ({id}, 'written', null); delete from customer where id = {id} - 7;
             insert into purchase values ({id}, 5, 1.5, 2.5, '2025-01-01', null, null);
             update purchase set amount = amount + 1 where id in ({id}, {id} - 5);
             delete from purchase where id = {id} - 7;
             insert into event values ('written', {n}); delete from event where what = 'written' and n = {n} - 50"
        ));
        n += 1;
        written += usize::from(done.is_ok());
        // Clients that start without a pause would leave no processor to those whom this is about.
        thread::sleep(Duration::from_millis(20));
    }
    written
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// `verify` names the tables that were mutated and no others, each row's class, key and columns; a second look, later, sees the same.
fn are_found(pipeline: &Pipeline, round: &[&Mutation]) {
    let proof = pipeline.json("verify", &[]);
    assert_eq!(proof["verdict"], "different", "{proof:#}");
    let tables = proof["tables"].as_array().expect("tables");
    assert_eq!(tables.len(), TABLES.len(), "{proof:#}");
    for table in tables {
        match of(round, table) {
            Some(mutation) => {
                assert_eq!(table["verdict"], "different", "{}: {table:#}", mutation.name);
                is_told(&table["differences"], mutation);
            }
            None => assert_eq!(table["verdict"], "equal", "{table:#}"),
        }
    }
}

/// What was done to the table that a proof or a repair names.
fn of<'a>(round: &[&'a Mutation], table: &Value) -> Option<&'a Mutation> {
    round.iter().copied().find(|m| text(&table["table"]).ends_with(&format!(".{}", m.table)))
}

fn is_told(found: &Value, mutation: &Mutation) {
    let name = mutation.name;
    assert_eq!((&found["rows"], &found["or_more"]), (&mutation.rows.into(), &false.into()), "{name}: {found:#}");
    let listed = found["listed"].as_array().expect("a list");
    assert_eq!(listed.len() as u64, mutation.rows.min(100), "{name}: {found:#}");
    for (i, row) in listed.iter().enumerate() {
        let &(class, key) = mutation.listed.get(i).unwrap_or(&(mutation.listed[0].0, ""));
        assert_eq!(text(&row["kind"]), class, "{name}: {row:#}");
        assert!(key.is_empty() || text(&row["key"][0]["value"]) == key, "{name}: {key}: {row:#}");
        let columns: Vec<&str> =
            row["columns"].as_array().into_iter().flatten().map(|cell| text(&cell["column"])).collect();
        assert_eq!(columns.join(", "), mutation.columns, "{name}: {row:#}");
        assert_eq!(text(&row["recheck"]["state"]), "lasting", "{name}: {row:#}");
        assert_eq!((&row["recheck"]["kind"], &row["recheck"]["columns"]), (&row["kind"], &row["columns"]), "{name}");
    }
    let of = |class: &str| found["recheck"][class].as_u64().expect("a number");
    let lasting: u64 = ["missing", "extra", "different", "repeated"].map(of).iter().sum();
    assert_eq!((lasting, of("settled")), (mutation.rows, 0), "{name}: {found:#}");
    for (class, _) in mutation.listed {
        assert!(of(class) > 0, "{name}: {found:#}");
    }
}

/// `repair --apply` writes each of the rows, and these tables are equal then; one without a key is named with its way out, which works.
fn are_mended(pipeline: &Pipeline, round: &[&Mutation]) {
    let done = pipeline.json("repair", &["--apply"]);
    let tables = done["tables"].as_array().expect("tables");
    assert_eq!(tables.len(), round.len(), "{done:#}");
    let mut refused = None;
    for table in tables {
        let mutation = of(round, table).expect("a table that was mutated");
        let (name, rows, why) = (mutation.name, &table["rows"], text(&table["refused"]));
        if mutation.table == "event" {
            let table = text(&table["table"]);
            assert_eq!(rows, 0, "{name}: {done:#}");
            assert!(why.contains(&format!("crossfade snapshot {table}")), "{name}: {why}");
            refused = Some(table);
        } else {
            assert_eq!((rows, &table["settled"], why), (&mutation.rows.into(), &0.into(), ""), "{name}: {done:#}");
        }
    }
    for table in done["proof"]["tables"].as_array().expect("tables") {
        let verdict = if refused == table["table"].as_str() { "different" } else { "equal" };
        assert_eq!(table["verdict"], verdict, "{done:#}");
    }
    if let Some(table) = refused {
        assert!(pipeline.ended("snapshot", &[table]).status.success());
        assert!(pipeline.ended("catch-up", &["--timeout", "200s"]).status.success());
    }
}

/// The mutations in rounds, one of each table at once: all that differs in a table is what one of them did.
fn rounds() -> Vec<Vec<&'static Mutation>> {
    let nth = |n| TABLES.iter().filter_map(move |t| MUTATIONS.iter().filter(|m| m.table == *t).nth(n)).collect();
    (0..).map(nth).take_while(|round: &Vec<_>| !round.is_empty()).collect()
}

fn every_mutation(name: &str, client: &Client, shop: &str) {
    let source = client.fresh_database(name);
    source.sql(shop);
    let target = Postgres::shared(PgVersion::V15).fresh_database(name);
    let pipeline = Pipeline::new(name, &source.url(), &[&target.url()]);
    pipeline.level(TABLES.len());
    at_ease(&target, source.schema());
    while_writing(
        1,
        |_, stop| write(&source, stop),
        |_| {
            let mut daemon = pipeline.command("run", &[]).start();
            daemon.wait_for("starting", PATIENCE);
            assert!(pipeline.ended("catch-up", &["--timeout", "200s"]).status.success(), "{}", daemon.stderr());
            for round in rounds() {
                round.iter().for_each(|mutation| drop(target.sql(mutation.sql)));
                are_found(&pipeline, &round);
                are_mended(&pipeline, &round);
            }
            daemon.signal("TERM");
            let ended = daemon.wait(PATIENCE);
            assert_eq!(code(&ended), 0, "{}", ended.stderr);
            assert!(ended.stderr.contains("row repaired"), "{}", ended.stderr);
            assert!(!ended.stderr.contains("UPDATE"), "values are not logged");
        },
    );
    pipeline.level(TABLES.len());
    assert_eq!(code(&pipeline.ended("repair", &["--apply"])), 0, "nothing to do");
    assert!(pipeline.ended("uninstall", &[]).status.success());
}

#[test]
fn every_mutation_is_found_and_mended_from_mariadb() {
    every_mutation("mutated", MariaDb::shared(), SHOP);
}

#[test]
fn every_mutation_is_found_and_mended_from_postgres() {
    every_mutation("mutated_pg", Postgres::shared(PgVersion::V18), POSTGRES_SHOP);
}
