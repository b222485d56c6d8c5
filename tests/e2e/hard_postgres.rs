//! Copies from Postgres that are hard to get right. Several sessions write at once, some of them without waiting for the log, in
//! short transactions with savepoints and row locks; unique values are exchanged, keys move, rows go and come back, and a table
//! without a key holds equal rows, large values, `json`, and numbers that `=` does not tell apart. All of it in small chunks,
//! while the copy is killed again and again.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crossfade_harness::{Database, PgVersion, Postgres};

use crate::common::{Pipeline, folder, while_writing};

/// Sessions that write.
const WRITERS: usize = 3;

const TABLES: &str = "\
    create table u (id int primary key, n int unique, t varchar(40) not null);\n\
    insert into u select g, g, 'row ' || g from generate_series(1, 20000) g;\n\
    create table v (a int, k text, n int, note text, primary key (k, a));\n\
    create unique index on v (n);\n\
    insert into v select g % 7, 'k' || g / 7, g, repeat(md5(g::text), g % 3) from generate_series(1, 8000) g;\n\
    create table g (a int, b text not null, c float8, r real, d numeric, e bytea, j json, jb jsonb, large text);\n\
    alter table g replica identity full; alter table g alter large set storage external;\n\
    insert into g select g % 5, 'x', case g % 6 when 0 then '-0' when 1 then 'NaN' when 2 then '-Infinity' when 3 then 0::float8 end, \
        case g % 3 when 0 then '-0'::real when 1 then 'NaN' end, case g % 4 when 0 then 1.50 when 1 then 1.5 when 2 then 'NaN' end, \
        '\\x00ff', case when g % 2 = 0 then json '{\"b\": 1, \"a\": [1.0, null],  \"a\": 2}' end, '{\"b\": 1.00}', \
        case when g % 100 = 0 then repeat('groß', 2500 + g % 3) end from generate_series(1, 3000) g";

/// One after another, by each writer; `{n}` is a running number, `{x}` one that is unique among the writers. One that fails (a
/// unique value that another has taken, a deadlock) is rolled back, as an application's would be.
const WRITES: [&str; 18] = [
    // Two rows exchange their unique values.
    "DO $$ DECLARE i int; j int; BEGIN \
     SELECT n INTO i FROM u WHERE id = 1 + {n} % 9000 FOR UPDATE; SELECT n INTO j FROM u WHERE id = 20000 - {n} % 9000 FOR UPDATE; \
     IF i IS NOT NULL AND j IS NOT NULL THEN \
     UPDATE u SET n = NULL WHERE id = 1 + {n} % 9000; UPDATE u SET n = i WHERE id = 20000 - {n} % 9000; \
     UPDATE u SET n = j WHERE id = 1 + {n} % 9000; END IF; EXCEPTION WHEN OTHERS THEN NULL; END $$;",
    "BEGIN; SELECT FROM u WHERE id % 3001 = {n} % 3001 FOR UPDATE; \
     UPDATE u SET t = 'changed {x}' WHERE id % 3001 = {n} % 3001; COMMIT;",
    "UPDATE u SET id = 1000000 + {x} WHERE id = 2 + 37 * {n} % 20000;",
    "DELETE FROM u WHERE id = 3 + 41 * {n} % 20000;",
    "INSERT INTO u VALUES (3 + 41 * ({n} - 1) % 20000, 500000 + {x}, 'back') ON CONFLICT DO NOTHING;",
    "BEGIN; INSERT INTO u VALUES (2000000 + {x}, 2000000 + {x}, 'kept'); SAVEPOINT a; \
     UPDATE u SET n = NULL WHERE id < 500; DELETE FROM u WHERE id % 900 = {n} % 900; ROLLBACK TO a; \
     UPDATE u SET id = 2000000 + {x} WHERE id = 2000000 + {x}; SAVEPOINT b; \
     DELETE FROM u WHERE id = 4 + 43 * {n} % 20000; RELEASE b; COMMIT;",
    "UPDATE u SET id = 2 + 37 * ({n} - 18) % 20000 WHERE id = 1000000 + {x} - 18;",
    "UPDATE v SET k = k || 'm' WHERE n = 5 + 31 * {n} % 8000 AND length(k) < 12;",
    "BEGIN; DELETE FROM v WHERE n % 2003 = {n} % 2003; \
     INSERT INTO v SELECT 9, 'z{x}', g * 2003 + {n} % 2003, NULL FROM generate_series(0, 6) g ON CONFLICT DO NOTHING; COMMIT;",
    "UPDATE v SET n = CASE WHEN n < 100000 THEN n + 100000 ELSE n - 100000 END WHERE a = 3 AND k = 'k' || {n} % 2000;",
    // Equal rows come, some of them go, some change; large values are left alone.
    "INSERT INTO g VALUES (7, 'x', 0, '-0', 1.5, NULL, '{}', NULL, repeat('y', 9000)), (7, 'x', 0, '-0', 1.5, NULL, '{}', NULL, repeat('y', 9000));",
    "DELETE FROM g WHERE ctid = ANY (ARRAY(SELECT ctid FROM g WHERE a = 7 LIMIT 1));",
    "UPDATE g SET c = '-0', j = '{ }' WHERE ctid = ANY (ARRAY(SELECT ctid FROM g WHERE a = 7 LIMIT 3));",
    "UPDATE g SET b = 'moved {n}', d = 1.50 WHERE ctid = ANY (ARRAY(SELECT ctid FROM g WHERE large IS NOT NULL LIMIT 2));",
    "DELETE FROM g WHERE ctid = ANY (ARRAY(SELECT ctid FROM g WHERE a IS NULL LIMIT 1));",
    "INSERT INTO g VALUES (NULL, '', NULL, NULL, NULL, NULL, NULL, NULL, NULL), (NULL, '', 'NaN', 'NaN', 'NaN', '', 'null', 'null', '');",
    "UPDATE g SET a = NULL WHERE ctid = ANY (ARRAY(SELECT ctid FROM g WHERE a = 2 AND c = 'NaN' LIMIT 2));",
    "BEGIN; INSERT INTO g SELECT * FROM g WHERE a = 4 LIMIT 2; SAVEPOINT a; DELETE FROM g WHERE a = 3; ROLLBACK TO a; COMMIT;",
];

fn write_until(source: &Database, writer: usize, stop: &AtomicBool) -> usize {
    let start = 1 + writer * 977;
    let mut n = start;
    while !stop.load(Ordering::SeqCst) {
        let mut script = String::from("\\set ON_ERROR_STOP 0\nSET deadlock_timeout = '20ms';\n");
        if writer % 2 == 1 {
            script.push_str("SET synchronous_commit = off;\n");
        }
        for write in WRITES {
            let unique = n * WRITERS + writer;
            script.push_str(&write.replace("{n}", &n.to_string()).replace("{x}", &unique.to_string()));
            script.push_str("\nROLLBACK;\n");
            n += 1;
        }
        source.sql(&script);
        thread::sleep(Duration::from_millis(100));
    }
    n - start
}

/// A pipeline with small chunks, each an occasion for a wrong position.
fn pipeline(folder: &Path, source: &Database, targets: &[&str]) -> Pipeline {
    let mut text = format!("name = \"hardpg-{}\"\n[source]\nurl = \"{}\"\n", std::process::id(), source.url());
    for target in targets {
        text.push_str(&format!("[[target]]\nurl = \"{target}\"\n"));
    }
    text.push_str("[limits]\nchunk_rows = 1000\n");
    let path = folder.join("hard.toml");
    std::fs::write(&path, text).expect("writing the configuration");
    Pipeline::configured(&path)
}

/// The servers' own hashes of rows as text, beside the fingerprints.
fn same_contents(source: &Database, target: &Database) {
    for table in ["u", "v", "g"] {
        let sql = format!("select count(*), sum(hashtextextended(t::text, 0)::numeric) from {table} t");
        assert_eq!(source.sql(&sql), target.sql(&sql), "{table}");
    }
}

/// Kills the daemon within the copy, lets it end, and compares; then without writers.
fn killed_within_the_copy(version: PgVersion, seed: u64) {
    let source = Postgres::shared(version).fresh_database("hard");
    source.sql(TABLES);
    let target = Postgres::shared(PgVersion::V15).fresh_database("dst");
    let (_keep, folder) = folder();
    let lake = folder.join("lake");
    let pipeline = pipeline(&folder, &source, &[&target.url(), &format!("file://{}", lake.display())]);
    while_writing(
        WRITERS,
        |writer, stop| write_until(&source, writer, stop),
        |stop| {
            pipeline.killed(6, Duration::from_millis(200), Duration::from_millis(200), seed);
            pipeline.level_under_load(6, stop);
        },
    );
    pipeline.level(6);
    same_contents(&source, &target);
    assert!(pipeline.ended("uninstall", &[]).status.success());
}

#[test]
fn hard_copy_from_postgres() {
    killed_within_the_copy(PgVersion::V15, 3);
}

#[test]
fn hard_copy_from_postgres_18() {
    killed_within_the_copy(PgVersion::V18, 4);
}
