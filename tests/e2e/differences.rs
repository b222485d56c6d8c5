//! What an operator reads where rows differ; and the shop that is damaged in other tests.

use crossfade_harness::{Database, MariaDb, PgVersion, Postgres};

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
        payload blob) charset utf8mb4;
    create table event (what varchar(20) not null, n int) charset utf8mb4;
    insert into customer select seq, concat('Name ', seq), if(seq % 3 = 0, '', null) from seq_1_to_300;
    insert into purchase select seq, seq % 300 + 1, seq * 1.37, sqrt(seq), '2024-02-29 10:00:00' + interval seq minute,
        '2024-06-01 00:00:00' + interval seq second, unhex(md5(seq)) from seq_1_to_3000;
    insert into event select concat('kind ', seq % 5), seq % 7 from seq_1_to_500;";

/// Lets sessions of the target's client find the tables, and do what constraints and triggers would not let them.
pub fn at_ease(target: &Database, schema: &str) {
    let name = target.name();
    target.sql(&format!(
        "alter database \"{name}\" set search_path = \"{schema}\"; alter database \"{name}\" set session_replication_role = replica"
    ));
}

#[test]
fn what_differs_is_readable() {
    let source = MariaDb::shared().fresh_database("readable");
    source.sql(SHOP);
    let target = Postgres::shared(PgVersion::V15).fresh_database("readable");
    let pipeline = Pipeline::new("readable", &source.url(), &[&target.url()]);
    pipeline.level(3);
    at_ease(&target, source.schema());
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
