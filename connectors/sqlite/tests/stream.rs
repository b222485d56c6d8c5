//! The stream's promises: bounds, restarts, gaps, schema changes, values.

mod common;

use std::cmp::Ordering;
use std::time::{Duration, Instant};

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use common::{Db, Replica, limit};
use crossfade_core::batch::SchemaStep;
use crossfade_core::{Boundary, Item, Level, Limit, Logical, Op, Selection};

const T: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT);";

fn fill(n: usize) -> String {
    format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {n}) INSERT INTO t SELECT i, 'value ' || i FROM n"
    )
}

#[test]
fn limits_are_kept() {
    let db = Db::new(&format!("PRAGMA journal_mode = wal; {T}"));
    let tables = db.tables();
    let start = db.source.begin(&tables).unwrap();
    let mut stream = db.source.stream(&start, &tables).unwrap();
    // Nothing comes: the deadline is kept.
    let before = Instant::now();
    assert!(stream.next(&limit(1000, 10)).unwrap().is_none());
    assert!(before.elapsed() >= Duration::from_millis(20) && before.elapsed() < Duration::from_secs(2));
    // A transaction past twice the bytes comes in open batches, and only the last one commits.
    let app = db.app();
    app.execute_batch(&fill(5000)).unwrap();
    let middle = db.source.position().unwrap();
    let (mut rows, mut open) = (0, 0);
    loop {
        let batch = stream.next(&limit(20_000, 10)).unwrap().unwrap();
        rows += batch.rows();
        assert!(batch.bytes() < 200_000, "a batch holds {}", batch.bytes());
        match batch.end {
            Boundary::Open => open += 1,
            Boundary::Commit(p) => {
                assert_eq!(db.source.order(&p, &middle).unwrap(), Ordering::Equal);
                break;
            }
        }
    }
    assert_eq!(rows, 5000);
    assert!(open > 2, "{open}");
    // Boundaries that were seen are used: every look of ack makes one.
    for i in 0..4 {
        app.execute_batch(&format!("UPDATE t SET v = 'x{i}' WHERE id <= 20")).unwrap();
        stream.ack(&middle).unwrap();
    }
    for _ in 0..4 {
        let batch = stream.next(&limit(1 << 20, 20)).unwrap().unwrap();
        assert_eq!(batch.rows(), 20);
        assert!(matches!(batch.end, Boundary::Commit(_)));
    }
    // `until` is not passed, and is reported again and again.
    app.execute_batch("DELETE FROM t WHERE id <= 10").unwrap();
    let until = db.source.position().unwrap();
    app.execute_batch("DELETE FROM t WHERE id <= 30").unwrap();
    let bounded = Limit { until: Some(until.clone()), ..limit(1 << 20, 1000) };
    let batch = stream.next(&bounded).unwrap().unwrap();
    assert_eq!((batch.rows(), batch.end), (10, Boundary::Commit(until.clone())));
    for _ in 0..2 {
        let batch = stream.next(&bounded).unwrap().unwrap();
        assert_eq!((batch.items.len(), batch.end), (0, Boundary::Commit(until.clone())));
    }
    assert_eq!(stream.next(&limit(1 << 20, 1000)).unwrap().unwrap().rows(), 20);
    assert!(stream.next(&bounded).is_err(), "what was handed over cannot be taken back");
}

#[test]
fn commits_of_other_tables_move_the_position() {
    let db = Db::new(&format!("{T} CREATE TABLE other (id INTEGER PRIMARY KEY);"));
    let tables = db.tables();
    let start = db.source.begin(&tables).unwrap();
    let only: Vec<_> = tables.iter().filter(|t| t.name.name == "t").cloned().collect();
    let mut stream = db.source.stream(&start, &only).unwrap();
    db.app().execute_batch("INSERT INTO other VALUES (1)").unwrap();
    let batch = stream.next(&limit(1000, 10)).unwrap().unwrap();
    assert!(batch.items.is_empty());
    assert_eq!(batch.end, Boundary::Commit(db.source.position().unwrap()));
}

#[test]
fn times_are_those_of_the_statements() {
    let db = Db::new(T);
    let tables = db.tables();
    let start = db.source.begin(&tables).unwrap();
    let mut stream = db.source.stream(&start, &tables).unwrap();
    db.app().execute_batch(&fill(1)).unwrap();
    let batch = stream.next(&limit(1000, 10)).unwrap().unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_micros() as i64;
    let age = now - batch.commit_micros.unwrap();
    assert!((-1000..5_000_000).contains(&age), "{age}");
}

#[test]
fn a_gap_is_never_skipped() {
    let db = Db::new(T);
    let tables = db.tables();
    let start = db.source.begin(&tables).unwrap();
    let app = db.app();
    app.execute_batch(&fill(10)).unwrap();
    let path = db.path();
    let backup = db.dir.path().join("backup.db");
    app.execute("VACUUM INTO ?1", [backup.to_str().unwrap()]).unwrap();
    app.execute_batch("DELETE FROM t WHERE id < 4").unwrap();
    let end = db.source.position().unwrap();
    // A row of the log that somebody deletes.
    app.execute_batch("DELETE FROM _crossfade_change WHERE seq = 5").unwrap();
    let mut stream = db.source.stream(&start, &tables).unwrap();
    let e = stream.next(&limit(1000, 100)).unwrap_err();
    assert!(e.to_string().contains("row 5 is missing"), "{e}");
    drop(stream);
    // A pruned position cannot be continued from; the acknowledged one can.
    let mut stream = db.source.stream(&end, &tables).unwrap();
    stream.ack(&end).unwrap();
    drop(stream);
    assert!(db.source.stream(&end, &tables).is_ok());
    let e = db.source.stream(&start, &tables).err().unwrap();
    assert!(e.to_string().contains("no longer holds row 1"), "{e}");
    // The backup ends before our position, and stays another log when it has grown past it.
    drop(app);
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", path.display()));
    }
    std::fs::copy(&backup, &path).unwrap();
    assert!(db.source.stream(&end, &tables).is_err());
    std::thread::sleep(Duration::from_millis(5));
    db.app().execute_batch("INSERT INTO t SELECT id + 100, v FROM t").unwrap();
    let e = db.source.stream(&end, &tables).err().unwrap();
    assert!(e.to_string().contains("is another one"), "{e}");
    // Another installation.
    crossfade_sqlite::uninstall(&common::endpoint(&path)).unwrap();
    assert!(db.source.stream(&end, &tables).is_err());
    db.source.begin(&tables).unwrap();
    let e = db.source.stream(&end, &tables).err().unwrap();
    assert!(e.to_string().contains("installation"), "{e}");
}

/// A table that was rebuilt without its triggers, as migrations do, was written unlogged. Installing again heals the triggers,
/// but no position from before may be continued from.
#[test]
fn a_table_that_was_without_triggers_cannot_be_continued() {
    let db = Db::new(T);
    let tables = db.tables();
    db.source.begin(&tables).unwrap();
    db.app().execute_batch(&fill(3)).unwrap();
    let level = db.source.position().unwrap();
    let rebuild = "ALTER TABLE t RENAME TO old; CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT); \
                   INSERT INTO t SELECT id, v FROM old; DROP TABLE old; INSERT INTO t VALUES (50, 'unlogged')";
    db.app().execute_batch(rebuild).unwrap();
    db.source.begin(&tables).unwrap();
    let e = db.source.stream(&level, &tables).err().expect("the unlogged row would be lost");
    assert!(e.hint_text().is_some(), "{e}");
    assert!(db.source.stream(&db.source.position().unwrap(), &tables).is_ok());
}

#[test]
fn uninstall_leaves_nothing_behind() {
    let db =
        Db::new("CREATE TABLE t (a TEXT, b TEXT NOT NULL, PRIMARY KEY (a, b)); CREATE UNIQUE INDEX u ON t (lower(a))");
    db.source.begin(&db.tables()).unwrap();
    let removed = crossfade_sqlite::uninstall(&common::endpoint(&db.path())).unwrap();
    assert!(removed.iter().any(|n| n == "_crossfade_change"), "{removed:?}");
    let left: i64 = db
        .app()
        .query_row(
            "SELECT count(*) FROM sqlite_schema WHERE name LIKE '%crossfade%' OR sql LIKE '%crossfade%'",
            [],
            |r| r.get(0),
        )
        .unwrap();
    assert_eq!(left, 0);
}

#[test]
fn columns_that_come_and_are_renamed_are_followed() {
    for running in [true, false] {
        let db = Db::new(&format!("PRAGMA journal_mode = wal; {T}"));
        let tables = db.tables();
        let start = db.source.begin(&tables).unwrap();
        let app = db.app();
        app.execute_batch(&fill(3)).unwrap();
        let mut stream = running.then(|| db.source.stream(&start, &tables).unwrap());
        app.execute_batch(
            "ALTER TABLE t ADD COLUMN n INT DEFAULT 7; INSERT INTO t VALUES (4, 'new', 8); UPDATE t SET n = 9 WHERE id = 2;
             ALTER TABLE t RENAME COLUMN v TO w; UPDATE t SET w = 'renamed' WHERE id = 1",
        )
        .unwrap();
        let mut stream = stream.take().unwrap_or_else(|| db.source.stream(&start, &tables).unwrap());
        let mut items = Vec::new();
        while let Some(batch) = stream.next(&limit(1 << 20, 1000)).unwrap() {
            items.extend(batch.items);
        }
        let at = items.iter().position(|i| matches!(i, Item::Schema(_))).expect("a schema change");
        let Item::Schema(change) = &items[at] else { unreachable!() };
        assert_eq!(
            change.steps,
            [
                SchemaStep::Rename { from: "v".into(), to: "w".into() },
                SchemaStep::Add { column: "n".into(), fill: Some("7".into()) }
            ]
        );
        assert_eq!((change.from.version, change.to.version), (1, 2));
        // What was written between the ALTER and the upgrade follows with the new column's values.
        let mut seen = std::collections::BTreeMap::new();
        for item in &items[at + 1..] {
            let Item::Rows(rows) = item else { panic!("{item:?}") };
            assert_eq!(rows.table.version, 2);
            let (ids, n) =
                (rows.batch.column(0).as_primitive::<Int64Type>(), rows.batch.column(2).as_primitive::<Int64Type>());
            seen.extend((0..rows.len()).map(|i| (ids.value(i), n.value(i))));
        }
        assert_eq!((seen[&2], seen[&4]), (9, 8));
        // The same holds for the next start, from before and from behind the change.
        let now = db.tables();
        assert_eq!(*now[0], *change.to);
        let mut replica = Replica::copy(&*db.source, &now);
        app.execute_batch("INSERT INTO t VALUES (5, 'five', 5); DELETE FROM t WHERE id = 1").unwrap();
        let end = db.source.position().unwrap();
        let mut again = db.source.stream(replica.at.as_ref().unwrap(), &now).unwrap();
        replica.follow(&mut *again, &end, 1000, 1000);
        assert_eq!(replica.rows, Replica::copy(&*db.source, &now).rows);
        let mut old = db.source.stream(&start, &tables).unwrap();
        let mut from_start = Replica { rows: Default::default(), ..Default::default() };
        from_start.rows.insert(tables[0].name.clone(), Default::default());
        from_start.follow(&mut *old, &end, 1000, 1000);
        assert_eq!(from_start.shapes[&tables[0].name], now[0]);
    }
}

#[test]
fn other_changes_of_a_table_stop_it() {
    for (alter, says) in [
        ("DROP TABLE t", "was dropped"),
        ("ALTER TABLE t RENAME TO t2", "renamed to t2"),
        (
            "CREATE TABLE n (id INTEGER PRIMARY KEY, v TEXT); DROP TABLE t; ALTER TABLE n RENAME TO t",
            "triggers are gone",
        ),
        ("DROP TRIGGER _crossfade_1_ai", "triggers are gone"),
        ("CREATE UNIQUE INDEX u ON t (v); INSERT OR REPLACE INTO t VALUES (77, 'value 1')", "new unique constraint"),
    ] {
        let db = Db::new(T);
        let tables = db.tables();
        let start = db.source.begin(&tables).unwrap();
        let app = db.app();
        app.execute_batch(&fill(3)).unwrap();
        let mut stream = db.source.stream(&start, &tables).unwrap();
        app.execute_batch(alter).unwrap();
        let e = stream.next(&limit(1000, 1000)).unwrap_err();
        assert!(e.to_string().contains(says) && e.hint_text().is_some(), "{alter}: {e:?}");
    }
    // A column that a trigger names cannot be dropped: the application's migration says so.
    let db = Db::new(T);
    db.source.begin(&db.tables()).unwrap();
    let e = db.app().execute_batch("ALTER TABLE t DROP COLUMN v").unwrap_err();
    assert!(e.to_string().contains("_crossfade_"), "{e}");
}

#[test]
fn a_new_unique_index_is_taken_over() {
    let db = Db::new(T);
    let tables = db.tables();
    let start = db.source.begin(&tables).unwrap();
    let app = db.app();
    let mut stream = db.source.stream(&start, &tables).unwrap();
    app.execute_batch(&fill(3)).unwrap();
    assert_eq!(stream.next(&limit(1000, 1000)).unwrap().unwrap().rows(), 3);
    app.execute_batch("CREATE UNIQUE INDEX u ON t (v)").unwrap();
    assert!(stream.next(&limit(1000, 1000)).unwrap().is_none_or(|b| b.items.is_empty()));
    app.execute_batch("INSERT OR REPLACE INTO t VALUES (77, 'value 1')").unwrap();
    let batch = stream.next(&limit(1000, 1000)).unwrap().unwrap();
    let Item::Rows(rows) = &batch.items[0] else { panic!() };
    assert_eq!(rows.ops, [Op::Delete, Op::Insert]);
}

#[test]
fn a_value_of_another_kind_stops_the_table() {
    let db = Db::new("CREATE TABLE t (id INTEGER PRIMARY KEY, n INT, d DECIMAL(10,2), s TEXT)");
    let tables = db.tables();
    assert_eq!(tables[0].columns[2].logical, Logical::Decimal { precision: 10, scale: 2 });
    for (values, column) in [
        ("1, 'x', 1, 'x'", "n"),
        ("2, 1, 1.005, 'x'", "d"),
        ("3, 1, 1.05, X'00'", "s"),
        ("4, 1, 1.05, CAST(X'ff' AS TEXT)", "s"),
    ] {
        let start = db.source.begin(&tables).unwrap();
        let mut stream = db.source.stream(&start, &tables).unwrap();
        db.app().execute_batch(&format!("DELETE FROM t; INSERT INTO t VALUES ({values})")).unwrap();
        let e = stream.next(&limit(1000, 1000)).unwrap_err();
        let crossfade_core::Class::Data(place) = e.class() else { panic!("{e:?}") };
        assert_eq!((place.table.as_str(), place.column.as_deref()), ("main.t", Some(column)), "{e}");
        assert!(place.key.as_deref().unwrap().starts_with("id=") && e.hint_text().is_some(), "{e:?}");
    }
}

#[test]
fn tables_without_key_are_named() {
    let db = Db::new(
        "CREATE TABLE a (x); CREATE VIRTUAL TABLE f USING fts5(x); CREATE TABLE k (x TEXT PRIMARY KEY); INSERT INTO k VALUES (NULL)",
    );
    let e = db.source.tables(&Selection::default()).unwrap_err();
    assert!(e.to_string().contains("a cannot be carried") && e.to_string().contains("f cannot be carried"), "{e}");
    let findings = db.source.check(&Selection::default()).unwrap();
    let critical: Vec<&str> =
        findings.iter().filter(|f| f.level == Level::Critical).map(|f| f.setting.as_str()).collect();
    assert_eq!(critical, ["table main.a", "table main.f", "table main.k"]);
    assert!(findings.iter().any(|f| f.setting == "journal_mode" && f.level == Level::Warning));
}
