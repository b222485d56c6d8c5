//! SQLite to Parquet: Chinook in a folder and on S3, read back by pyarrow and DuckDB; the demo; crashes.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crossfade_harness::{S3, python, sample};

use crate::common::{Pipeline, folder, program, while_writing};

/// Statements by a stock SQLite (Python's), which knows nothing of Crossfade.
pub fn sqlite(database: &Path, script: &str) {
    let code = "import sqlite3, sys\n\
                c = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)\n\
                c.executescript(sys.argv[2])\n";
    python(code, &[database.to_str().expect("UTF-8"), script]);
}

fn chinook(folder: &Path) -> std::path::PathBuf {
    let path = folder.join("chinook.sqlite");
    std::fs::copy(sample("chinook.sqlite"), &path).expect("copying the sample");
    let mut permissions = std::fs::metadata(&path).expect("the copy").permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o644);
    std::fs::set_permissions(&path, permissions).expect("making the copy writable");
    path
}

fn write_until(database: &Path, stop: &AtomicBool) -> usize {
    let mut n = 0;
    while !stop.load(Ordering::SeqCst) {
        n += 1;
        sqlite(
            database,
            &format!(
                "BEGIN IMMEDIATE;
                 INSERT INTO Artist (ArtistId, Name) VALUES (5000 + {n}, 'Künstler {n}');
                 UPDATE Track SET UnitPrice = 1.25 WHERE TrackId % 101 = {n} % 101;
                 INSERT OR REPLACE INTO Genre (GenreId, Name) VALUES (1 + {n} % 25, 'g{n}');
                 DELETE FROM Artist WHERE ArtistId = 5000 + {n} - 4;
                 COMMIT;"
            ),
        );
        thread::sleep(Duration::from_millis(10));
    }
    n
}

/// Rows per table, by DuckDB over the files alone, against SQLite's own counts; and the money, to the cent.
const READ_BACK: &str = r#"
import duckdb, sqlite3, sys, glob, os
import pyarrow.parquet as pq
source = sqlite3.connect(sys.argv[1])
lake = sys.argv[2]
tables = [r[0] for r in source.execute("select name from sqlite_master where type='table' and name not like 'sqlite_%' and name not like '\\_crossfade%' escape '\\'")]
for t in tables:
    keys = [r[1] for r in source.execute(f'pragma table_info("{t}")') if r[5]]
    files = sorted(glob.glob(os.path.join(lake, 'main', t, '*.parquet')))
    n = source.execute(f'select count(*) from "{t}"').fetchone()[0]
    assert files or n == 0, t
    if not files: continue
    assert sum(pq.read_metadata(f).num_rows for f in files) >= n, t
    part = ', '.join(f'"{k}"' for k in keys)
    latest = f"""(select * from read_parquet({files!r}, union_by_name=true)
        qualify row_number() over (partition by {part} order by _seq desc, _ordinal desc) = 1)"""
    m = duckdb.sql(f"select count(*) from {latest} where _op <> 'd'").fetchall()[0][0]
    assert n == m, (t, n, m)
    if t == 'Track':
        ours = source.execute('select sum(cast(round(UnitPrice * 100) as integer)) from Track').fetchone()[0]
        theirs = duckdb.sql(f"select cast(sum(UnitPrice * 100) as bigint) from {latest} where _op <> 'd'").fetchall()[0][0]
        assert ours == theirs, (ours, theirs)
print('tables', len(tables))
"#;

fn read_back(database: &Path, lake: &Path) {
    let out = python(READ_BACK, &[database.to_str().expect("UTF-8"), lake.to_str().expect("UTF-8")]);
    assert_eq!(out.trim(), "tables 11");
}

#[test]
fn chinook_with_a_writer_running_and_read_back() {
    let (_keep, folder) = folder();
    let (database, lake) = (chinook(&folder), folder.join("lake"));
    let (from, to) = (format!("sqlite://{}", database.display()), format!("file://{}", lake.display()));
    let pipeline = Pipeline::new("lake", &from, &[&to]);
    while_writing(1, |_, stop| write_until(&database, stop), |stop| pipeline.level_under_load(11, stop));
    pipeline.level(11);
    read_back(&database, &lake);
}

#[test]
fn chinook_killed_ten_times() {
    let (_keep, folder) = folder();
    let (database, lake) = (chinook(&folder), folder.join("lake"));
    let (from, to) = (format!("sqlite://{}", database.display()), format!("file://{}", lake.display()));
    let pipeline = Pipeline::new("lakekill", &from, &[&to]);
    while_writing(
        1,
        |_, stop| write_until(&database, stop),
        |_| pipeline.killed(10, Duration::from_millis(100), Duration::from_millis(150), 0),
    );
    pipeline.level(11);
    read_back(&database, &lake);
}

#[test]
fn chinook_to_s3() {
    let (_keep, folder) = folder();
    let database = chinook(&folder);
    let bucket = S3::shared().fresh_bucket("lake");
    let from = format!("sqlite://{}", database.display());
    let pipeline = Pipeline::new("s3", &from, &[&s3_url(&bucket)]);
    pipeline.level(11);
    sqlite(
        &database,
        "UPDATE Track SET Name = Name || '!' WHERE TrackId < 100; DELETE FROM Artist WHERE ArtistId = 25;",
    );
    pipeline.level(11);
}

#[test]
fn the_demo_ends_equal_within_a_minute() {
    let (_keep, folder) = folder();
    let place = folder.join("demo");
    let ended =
        program().args(["demo", "--folder", place.to_str().expect("UTF-8")]).start().wait(Duration::from_secs(60));
    assert!(ended.status.success(), "{}\n{}", ended.stdout, ended.stderr);
    assert!(ended.stdout.contains("EQUAL: 4 tables"), "{}", ended.stdout);
    assert!(!ended.stderr.contains("INFO"), "warnings only: {}", ended.stderr);
    assert!(Command::new("ls").arg(place.join("lake/main/purchase")).status().expect("ls").success());
}

fn s3_url(bucket: &crossfade_harness::Bucket) -> String {
    format!(
        "s3://{}/raw?endpoint={}&allow_http=true&region=us-east-1&access_key_id=test&secret_access_key=test",
        bucket.name, bucket.endpoint
    )
}
