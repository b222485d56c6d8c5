//! Tables without a key: their log holds whole rows, or reading it ends.

use crossfade_core::{Item, Op};
use crossfade_harness::{Client, MariaDb, MySql};

use crate::lab::{Lab, read_until, show};

fn whole_rows_or_none(server: &Client) {
    let lab = Lab::new(server);
    lab.db.sql("create table bag (a int, b varchar(10), c text)");
    let tables = lab.tables();
    assert!(tables[0].key.is_empty());
    // Sessions of smaller images log rows whole all the same, since nothing less tells them apart.
    for image in ["FULL", "NOBLOB", "MINIMAL"] {
        lab.db.sql("delete from bag");
        let from = lab.source.position().unwrap();
        lab.db.sql(&format!(
            "set session binlog_row_image = {image};\n\
             insert into bag values (1, 'x', 'long'), (1, 'x', 'long'), (2, null, null);\n\
             update bag set b = 'y' where a = 1 limit 1;\n\
             delete from bag where a = 2"
        ));
        let until = lab.source.position().unwrap();
        let mut changes = Vec::new();
        for item in read_until(&lab.source, &from, &until, &tables).into_iter().flat_map(|b| b.items) {
            let Item::Rows(rows) = item else { panic!("{item:?}") };
            assert!(rows.absent.iter().all(Option::is_none), "{image}");
            for (i, op) in rows.ops.iter().enumerate() {
                changes.push((*op, rows.batch.columns().iter().map(|c| show(c, i)).collect::<Vec<_>>()));
            }
        }
        let row = |values: [Option<&str>; 3]| values.map(|v| v.map(String::from)).to_vec();
        let x = row([Some("1"), Some("78"), Some("6C6F6E67")]);
        let y = row([Some("1"), Some("79"), Some("6C6F6E67")]);
        let two = row([Some("2"), None, None]);
        let inserts = [(Op::Insert, x.clone()), (Op::Insert, x.clone()), (Op::Insert, two.clone())];
        let rest = [(Op::Delete, x), (Op::Insert, y), (Op::Delete, two)];
        assert_eq!(changes, [inserts, rest].concat(), "{image}");
    }
}

#[test]
fn mysql_logs_whole_rows_without_a_key() {
    whole_rows_or_none(MySql::shared());
}

#[test]
fn mariadb_logs_whole_rows_without_a_key() {
    whole_rows_or_none(MariaDb::shared());
}
