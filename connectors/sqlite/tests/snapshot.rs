//! Snapshots: exact, and whole when read in ranges; and other programs as writers.

mod common;

use std::collections::BTreeSet;
use std::process::Command;

use arrow_array::RecordBatch;
use common::{Db, Replica, endpoint, hashes};
use crossfade_core::{Consistency, KeyRange, Logical, Omissions, Selection};

#[test]
fn ranges_cover_every_row_once() {
    let db = Db::new(
        "CREATE TABLE i (id INTEGER PRIMARY KEY, v);
         CREATE TABLE c (a TEXT NOT NULL COLLATE NOCASE, b INT NOT NULL, PRIMARY KEY (a, b));
         CREATE TABLE x (k NOT NULL PRIMARY KEY) WITHOUT ROWID;
         CREATE TABLE r (k REAL NOT NULL PRIMARY KEY);
         CREATE TABLE e (k BLOB NOT NULL PRIMARY KEY);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)
         INSERT INTO i SELECT i * 3, 'v' FROM n;
         INSERT INTO c SELECT char(65 + id % 7 + 32 * (id % 2)), id FROM i;
         INSERT INTO r SELECT id / 7.0 FROM i;
         INSERT INTO x SELECT CASE id % 4 WHEN 0 THEN id WHEN 1 THEN id / 8.0 WHEN 2 THEN 'it''s ' || id ELSE CAST(id AS BLOB) END FROM i;",
    );
    let tables = db.tables();
    db.source.begin(&tables).unwrap();
    let whole = Replica::copy(&*db.source, &tables);
    for rows in [1, 7, 100, 999, 1000, 5000] {
        let mut snapshot = db.source.snapshot(&tables, Consistency::AtLeast).unwrap();
        for table in &tables {
            let ranges = snapshot.split(table, rows).unwrap();
            // Bounds are remembered as text by a target.
            let ranges: Vec<KeyRange> =
                ranges.iter().map(|r| serde_json::from_str(&serde_json::to_string(r).unwrap()).unwrap()).collect();
            let mut seen = Vec::new();
            for range in &ranges {
                let before = seen.len();
                let mut sink = |b: RecordBatch| {
                    seen.extend(hashes(table, &b));
                    Ok(())
                };
                snapshot.scan(table, range, &mut sink).unwrap();
                assert!(seen.len() - before <= rows as usize);
            }
            let set: BTreeSet<(u128, u128)> = seen.iter().copied().collect();
            assert_eq!(set.len(), seen.len(), "no row twice in {}", table.name);
            assert_eq!(
                set,
                whole.rows[&table.name].iter().map(|(k, v)| (*k, *v)).collect(),
                "{} by {rows}",
                table.name
            );
            assert_eq!(ranges.is_empty(), table.name.name == "e");
        }
    }
}

#[test]
fn a_snapshot_stays_at_its_position() {
    let db = Db::new(
        "PRAGMA journal_mode = wal; CREATE TABLE t (id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES (1, 1), (2, 'x')",
    );
    let tables = db.tables();
    let start = db.source.begin(&tables).unwrap();
    let mut snapshot = db.source.snapshot(&tables, Consistency::Exact).unwrap();
    db.app().execute_batch("DELETE FROM t").unwrap();
    assert_eq!(*snapshot.position(), start);
    let mut rows = 0;
    let mut sink = |b: RecordBatch| {
        rows += b.num_rows();
        Ok(())
    };
    snapshot.scan(&tables[0], &KeyRange::ALL, &mut sink).unwrap();
    assert_eq!(rows, 2);
}

/// Debian's `sqlite3` is another version of SQLite than ours, with its own settings.
#[test]
fn a_foreign_program_writes() {
    for mode in ["wal", "delete"] {
        let db = Db::new(&format!(
            "PRAGMA journal_mode = {mode}; CREATE TABLE t (id INTEGER PRIMARY KEY, u TEXT UNIQUE COLLATE NOCASE, v); INSERT INTO t VALUES (1, 'a', 'x'), (2, 'b', 5)"
        ));
        let tables = db.tables();
        let start = db.source.begin(&tables).unwrap();
        let mut replica = Replica::copy(&*db.source, &tables);
        let script = "PRAGMA trusted_schema = OFF; PRAGMA foreign_keys = ON;
            BEGIN; INSERT OR REPLACE INTO t VALUES (3, 'A', 0.1); INSERT OR IGNORE INTO t VALUES (4, 'B', 1); COMMIT;
            INSERT INTO t(u, v) VALUES ('c', X'00ff') ON CONFLICT DO NOTHING;
            INSERT INTO t VALUES (3, 'z', 1) ON CONFLICT (id) DO UPDATE SET v = 1e300 * 1e300;
            UPDATE t SET u = 'C' WHERE u = 'c'; UPDATE OR REPLACE t SET id = 9, u = 'b' WHERE id = 3;";
        let out =
            Command::new("sqlite3").arg(db.path()).arg(script).output().expect("the sqlite3 program is installed");
        assert!(out.status.success() && out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
        let mut stream = db.source.stream(&start, &tables).unwrap();
        let end = db.source.position().unwrap();
        replica.follow(&mut *stream, &end, 1000, 1000);
        let truth = Replica::copy(&*db.source, &tables);
        assert_eq!(replica.rows, truth.rows);
        assert_eq!(truth.rows[&tables[0].name].len(), 2);
    }
}

#[test]
fn chinook() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("chinook.db");
    std::fs::copy(crossfade_harness::sample("chinook.sqlite"), &path).unwrap();
    let mut permissions = std::fs::metadata(&path).unwrap().permissions();
    #[allow(clippy::permissions_set_readonly_false)]
    permissions.set_readonly(false);
    std::fs::set_permissions(&path, permissions).unwrap();
    let source = crossfade_sqlite::open(&endpoint(&path), Omissions::default()).unwrap();
    let tables = source.tables(&Selection::default()).unwrap();
    assert_eq!(tables.len(), 11);
    let logical = |table: &str, column: &str| {
        let table = tables.iter().find(|t| t.name.name == table).unwrap();
        table.columns[table.ordinal(column).unwrap()].logical.clone()
    };
    assert_eq!(logical("Track", "UnitPrice"), Logical::Decimal { precision: 10, scale: 2 });
    assert_eq!(logical("Invoice", "InvoiceDate"), Logical::Timestamp);
    assert_eq!(logical("Artist", "Name"), Logical::Text);
    let line = tables.iter().find(|t| t.name.name == "InvoiceLine").unwrap();
    assert_eq!(line.foreign_keys.len(), 2);
    assert!(line.columns[0].auto_increment);
    source.begin(&tables).unwrap();
    let mut replica = Replica::copy(&*source, &tables);
    assert_eq!(replica.rows.values().map(|r| r.len()).sum::<usize>(), 15607);
    let app = rusqlite::Connection::open(&path).unwrap();
    app.execute_batch("UPDATE Track SET UnitPrice = UnitPrice + 1; DELETE FROM PlaylistTrack WHERE TrackId % 2; INSERT INTO Genre(Name) VALUES ('Gqom')").unwrap();
    let mut stream = source.stream(replica.at.as_ref().unwrap(), &tables).unwrap();
    replica.follow(&mut *stream, &source.position().unwrap(), 100_000, 1000);
    assert_eq!(replica.rows, Replica::copy(&*source, &tables).rows);
}
