//! The verifier is verified on real servers: every kind of damage is done to the target, and found by key and column.
//!
//! MariaDB to Postgres. The damage is done with the target's own client behind the pipeline's back; then it is taken back from
//! a copy of the table, so that each damage is seen alone.

use crossfade_harness::{Database, MariaDb, PgVersion, Postgres};
use serde_json::Value;

use crate::common::{Pipeline, code};

pub const SHOP: &str = "
    create table customer (id int primary key, name varchar(40) not null, note varchar(40)) charset utf8mb4;
    create table purchase (
        id int primary key,
        customer_id int not null references customer (id) on delete cascade,
        amount decimal(12,2) not null,
        weight double,
        placed datetime not null,
        seen timestamp null,
        payload varbinary(40)) charset utf8mb4;
    create table event (what varchar(20) not null, n int) charset utf8mb4;
    insert into customer select seq, concat('Name ', seq), if(seq % 3 = 0, '', null) from seq_1_to_300;
    insert into purchase select seq, seq % 300 + 1, seq * 1.37, seq / 7, '2024-02-29 10:00:00' + interval seq minute,
        '2024-06-01 00:00:00' + interval seq second, unhex(md5(seq)) from seq_1_to_3000;
    insert into event select concat('kind ', seq % 5), seq % 7 from seq_1_to_500;";

/// What is done to the target, the table in which it shows, how many rows differ, and what the first of them must say.
pub struct Damage {
    pub name: &'static str,
    pub sql: &'static str,
    pub table: &'static str,
    pub rows: u64,
    /// Kind, key and column of the first row that is listed.
    first: (&'static str, &'static str, &'static str),
}

const fn damage(
    name: &'static str,
    sql: &'static str,
    table: &'static str,
    rows: u64,
    first: (&'static str, &'static str, &'static str),
) -> Damage {
    Damage { name, sql, table, rows, first }
}

pub const DAMAGES: [Damage; 17] = [
    damage(
        "one value",
        "update purchase set amount = amount + 0.01 where id = 1700",
        "purchase",
        1,
        ("different", "1700", "amount"),
    ),
    damage(
        "+0.05 everywhere",
        "update purchase set amount = amount + 0.05",
        "purchase",
        3000,
        ("different", "", "amount"),
    ),
    damage(
        "a year later",
        "update purchase set placed = placed + interval '1 year'",
        "purchase",
        3000,
        ("different", "", "placed"),
    ),
    damage(
        "swapped columns",
        "update customer set name = note, note = name where id = 30",
        "customer",
        1,
        ("different", "30", "name"),
    ),
    damage("NULL for ''", "update customer set note = null where id = 33", "customer", 1, ("different", "33", "note")),
    damage("'' for NULL", "update customer set note = '' where id = 34", "customer", 1, ("different", "34", "note")),
    damage("case", "update customer set name = upper(name) where id = 7", "customer", 1, ("different", "7", "name")),
    damage(
        "a trailing blank",
        "update customer set name = name || ' ' where id = 8",
        "customer",
        1,
        ("different", "8", "name"),
    ),
    damage("a lost row", "delete from purchase where id = 2999", "purchase", 1, ("missing", "2999", "")),
    damage("an extra row", "insert into customer values (9000, 'nobody', null)", "customer", 1, ("extra", "9000", "")),
    damage(
        "a repeated row without a key",
        "insert into event select * from event where what = 'kind 3' and n = 2 limit 1",
        "event",
        1,
        ("repeated", "kind 3", ""),
    ),
    damage(
        "one bit",
        "update purchase set payload = set_bit(payload, 9, 1 - get_bit(payload, 9)) where id = 41",
        "purchase",
        1,
        ("different", "41", "payload"),
    ),
    damage("a lost cascade", "update customer set id = 9001 where id = 300", "customer", 2, ("missing", "300", "")),
    damage(
        "another time zone",
        "update purchase set seen = seen + interval '2 hours' where id = 5",
        "purchase",
        1,
        ("different", "5", "seen"),
    ),
    damage(
        "a float rounded",
        "update purchase set weight = weight::real where id = 10",
        "purchase",
        1,
        ("different", "10", "weight"),
    ),
    damage(
        "paired changes",
        "update purchase set amount = amount + case id when 1 then 5 else -5 end where id in (1, 2)",
        "purchase",
        2,
        ("different", "1", "amount"),
    ),
    damage(
        "keys exchanged",
        "update purchase set id = -id where id in (3, 4); update purchase set id = 7 + id where id in (-3, -4)",
        "purchase",
        2,
        ("different", "3", "customer_id"),
    ),
];

#[test]
fn every_damage_is_found_by_key_and_column() {
    let source = MariaDb::shared().fresh_database("damaged");
    source.sql(SHOP);
    let target = Postgres::shared(PgVersion::V15).fresh_database("damaged");
    let pipeline = Pipeline::new("damaged", &source.url(), &[&target.url()]);
    pipeline.catch_up();
    assert_eq!(pipeline.verify_equal(), 3);
    at_ease(&target, source.name());
    for damage in &DAMAGES {
        target.sql(&format!("create table kept as table {0}; {1}", damage.table, damage.sql));
        shows(&pipeline, damage);
        target.sql(&format!("delete from {0}; insert into {0} table kept; drop table kept", damage.table));
    }
    assert_eq!(pipeline.verify_equal(), 3);
    is_readable(&pipeline, &target);
}

/// Lets sessions of the target's client find the tables, and do what constraints and triggers would not let them.
pub fn at_ease(target: &Database, schema: &str) {
    let name = target.name();
    target.sql(&format!(
        "alter database \"{name}\" set search_path = \"{schema}\"; alter database \"{name}\" set session_replication_role = replica"
    ));
}

fn shows(pipeline: &Pipeline, damage: &Damage) {
    let name = damage.name;
    let proof = pipeline.json("verify", &[]);
    assert_eq!(proof["verdict"], "different", "{name}: {proof:#}");
    for table in proof["tables"].as_array().expect("tables") {
        let is_damaged = table["table"].as_str().expect("a name").ends_with(&format!(".{}", damage.table));
        assert_eq!(table["verdict"], if is_damaged { "different" } else { "equal" }, "{name}: {table:#}");
        if !is_damaged {
            continue;
        }
        let found = &table["differences"];
        assert_eq!(found["rows"], damage.rows, "{name}: {table:#}");
        assert_eq!(found["or_more"], false, "{name}");
        let listed = found["listed"].as_array().expect("a list");
        assert_eq!(listed.len() as u64, damage.rows.min(100), "{name}");
        let (kind, key, column) = damage.first;
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        assert_eq!(text(&listed[0]["kind"]), kind, "{name}: {table:#}");
        if !key.is_empty() {
            assert_eq!(text(&listed[0]["key"][0]["value"]), key, "{name}: {table:#}");
        }
        assert_eq!(text(&listed[0]["columns"][0]["column"]), column, "{name}: {table:#}");
        // Nobody writes, so a second look sees the same.
        let (again, classes) = (&listed[0]["recheck"], &found["recheck"]);
        assert_eq!((text(&again["state"]), text(&again["kind"])), ("lasting".into(), kind.into()), "{name}: {table:#}");
        assert_eq!(again["columns"], listed[0]["columns"], "{name}");
        let of = |kind: &str| classes[kind].as_u64().expect("a number");
        let lasting: u64 = ["missing", "extra", "different", "repeated"].map(of).iter().sum();
        assert_eq!((lasting, of("settled")), (damage.rows, 0), "{name}: {table:#}");
        assert!(of(kind) > 0, "{name}: {table:#}");
    }
}

/// What an operator reads.
fn is_readable(pipeline: &Pipeline, target: &Database) {
    target.sql("update purchase set amount = 1, weight = null where id = 12; delete from purchase where id = 13");
    let ended = pipeline.ended("verify", &["--table", "*.purchase", "--totals"]);
    assert_eq!(code(&ended), 2, "{}", ended.stderr);
    for words in [
        "2 rows differ",
        "id = '12'",
        "amount = '16.44'",
        "amount = '1.00'",
        "weight = NULL",
        "missing",
        "a second time: 1 missing, 1 different",
        "crossfade repair",
        "crossfade snapshot",
        "values of weight",
        "sum of amount",
        "6167055",
    ] {
        assert!(ended.stdout.contains(words), "{words} is not in\n{}", ended.stdout);
    }
}
