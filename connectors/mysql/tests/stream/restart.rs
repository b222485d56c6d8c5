//! An ALTER, a stop of the reader, and the next row: what the ALTER said must not be forgotten in between.
//!
//! The reader stops at every position from the ALTER on and starts again with the shapes as a target keeps them: what the
//! emitted changes led to, written out and read back.

use std::sync::Arc;

use crossfade_core::batch::SchemaStep;
use crossfade_core::{Batch, Boundary, Item, Limit, Position, Result, TableSchema};
use crossfade_harness::{MariaDb, MySql, MySqlServer};

use crate::lab::{Lab, deadline};

/// Reads between two positions; an error is the stream's own.
fn read(lab: &Lab, from: &Position, until: &Position, tables: &[Arc<TableSchema>]) -> Result<Vec<Batch>> {
    let mut stream = lab.source.stream(from, tables)?;
    let limit = Limit { deadline: deadline(), bytes: 1 << 20, rows: 10_000, until: Some(until.clone()) };
    let mut batches = Vec::new();
    loop {
        let batch = stream.next(&limit)?.expect("the log comes in time");
        let done = matches!(&batch.end, Boundary::Commit(p) if lab.source.order(p, until)?.is_eq());
        batches.push(batch);
        if done {
            return Ok(batches);
        }
    }
}

/// The shape as a target keeps it. Each change must begin where the one before it ended.
fn kept(table: &Arc<TableSchema>, batches: &[Batch]) -> Arc<TableSchema> {
    let mut shape = Arc::clone(table);
    for item in batches.iter().flat_map(|b| &b.items) {
        match item {
            Item::Schema(change) => {
                assert_eq!((&change.from, change.to.version), (&shape, shape.version + 1));
                shape = Arc::clone(&change.to);
            }
            Item::Rows(rows) => assert_eq!(rows.table, shape),
            Item::Truncate(table) => assert_eq!(*table, shape),
        }
    }
    let text = serde_json::to_string(&*shape).expect("a shape is written out");
    Arc::new(serde_json::from_str(&text).expect("a shape is read back"))
}

fn steps(batches: &[Batch]) -> Vec<SchemaStep> {
    let items = batches.iter().flat_map(|b| &b.items);
    items.flat_map(|i| if let Item::Schema(change) = i { change.steps.clone() } else { vec![] }).collect()
}

/// What becomes of these ALTERs, each followed by a stop: the steps, or why the table stops.
fn after_restarts(server: &MySqlServer, alters: &[&str], row: &str) -> Result<(Vec<SchemaStep>, Arc<TableSchema>)> {
    let lab = Lab::new(server);
    lab.db.sql(
        "create table t (id int primary key, a varchar(20), b varchar(20), d decimal(6,2)) charset utf8mb4; \
         insert into t values (1, 'a', 'b', 1.25)",
    );
    let mut tables = lab.tables();
    let mut here = lab.source.position()?;
    // All of them first: the catalog is ahead of the log, as it is for a reader that lags.
    let mut positions = Vec::new();
    for alter in alters {
        lab.db.sql(alter);
        positions.push(lab.source.position()?);
    }
    lab.db.sql(row);
    for position in positions {
        let batches = read(&lab, &here, &position, &tables)?;
        assert_eq!(steps(&batches), [], "nothing takes effect before the next row");
        tables = vec![kept(&tables[0], &batches)];
        here = position;
    }
    assert_eq!(tables[0].pending.len(), alters.len(), "{:?}", tables[0].pending);
    let end = lab.source.position()?;
    let batches = read(&lab, &here, &end, &tables)?;
    let shape = kept(&tables[0], &batches);
    assert!(shape.pending.is_empty());
    Ok((steps(&batches), shape))
}

fn an_alter_outlives_a_restart(server: &MySqlServer) {
    let add = |column: &str, fill: &str| SchemaStep::Add { column: column.into(), fill: Some(fill.into()) };
    let rename = |from: &str, to: &str| SchemaStep::Rename { from: from.into(), to: to.into() };
    let drop = |column: &str| SchemaStep::Drop { column: column.into() };
    for (alters, row, expected) in [
        (
            &["alter table t add c int not null default 7"][..],
            "insert into t (id, c) values (2, 8)",
            &[add("c", "7")][..],
        ),
        (&["alter table t rename column a to x"], "insert into t (id, x) values (2, 'y')", &[rename("a", "x")]),
        (
            &["alter table t change a x varchar(30)", "alter table t drop column b, add y varchar(9) default 'it''s'"],
            "delete from t",
            &[drop("b"), rename("a", "x"), add("y", "it's")],
        ),
        (
            &[
                r"set sql_mode = 'NO_BACKSLASH_ESCAPES'; alter table t add c varchar(9) default 'a\nb\', add e int default 2",
            ],
            "delete from t",
            &[add("c", r"a\nb\"), add("e", "2")],
        ),
        (&["alter table t add e int default 1", "alter table t drop e"], "update t set a = 'z'", &[]),
        (&["alter table t modify A varchar(200) character set utf8mb4"], "insert into t (id) values (2)", &[]),
    ] {
        let (steps, shape) = after_restarts(server, alters, row).unwrap_or_else(|e| panic!("{alters:?}: {e}"));
        let case: Vec<_> = steps.iter().filter(|s| **s != rename("a", "A")).cloned().collect();
        assert_eq!(case, expected, "{alters:?}");
        assert_eq!(usize::try_from(shape.version).unwrap(), alters.len() + 2);
    }
}

#[test]
fn mysql_an_alter_outlives_a_restart() {
    an_alter_outlives_a_restart(MySql::shared());
}

#[test]
fn mariadb_an_alter_outlives_a_restart() {
    an_alter_outlives_a_restart(MariaDb::shared());
}

/// Changes after which old rows hold other values, though names and types are as they were.
fn what_looks_unchanged_stops(server: &MySqlServer) {
    for (alters, row) in [
        (&["alter table t drop column a, add a varchar(20) after id"][..], "insert into t (id) values (2)"),
        (&["alter table t drop column A", "alter table t add a varchar(20)"], "insert into t (id) values (2)"),
        (&["alter table t rename column a to b, rename column b to a"], "update t set a = 'z'"),
        (&["alter table t change a b varchar(20), change b a varchar(20)"], "update t set a = 'z'"),
        (
            &[
                "alter table t rename column a to x",
                "alter table t rename column b to a",
                "alter table t rename column x to b",
            ],
            "update t set a = 'z'",
        ),
        // The catalog shows the old type again; the digits are gone.
        (
            &["alter table t modify d decimal(6,1)", "alter table t modify d decimal(6,2)"],
            "insert into t (id) values (2)",
        ),
        (
            &["alter table t rename column d to e", "alter table t modify e decimal(6,1)"],
            "insert into t (id) values (2)",
        ),
    ] {
        let error = after_restarts(server, alters, row).expect_err("old rows are others now");
        assert!(error.to_string().contains(".t, column") && error.hint_text().is_some(), "{alters:?}: {error}");
    }
}

#[test]
fn mysql_what_looks_unchanged_stops() {
    what_looks_unchanged_stops(MySql::shared());
}

#[test]
fn mariadb_what_looks_unchanged_stops() {
    what_looks_unchanged_stops(MariaDb::shared());
}
