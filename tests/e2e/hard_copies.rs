//! Copies that are hard to get right: unique values that rows exchange, keys that move, rows that go and come back, tables
//! without a key that hold equal rows, all of it written to while the copy is killed again and again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crossfade_harness::{Client, Database, MariaDb, MySql, PgVersion, Postgres};

use crate::common::{Pipeline, folder, while_writing};

/// 2^ROWS rows in the table with a key, half as many in the one without.
const ROWS: u32 = 16;

fn fill(source: &Database) {
    source.sql(
        "create table u (id int primary key, n int unique, t varchar(40) not null) charset utf8mb4;\n\
         create table g (a int, b varchar(20) not null, c double, d decimal(12,3), e blob, f datetime(3)) charset utf8mb4;\n\
         insert into u values (1, 1, 'one');\n\
         insert into g values (1, 'x', 0.1, 1.500, x'00ff', '2024-02-29 12:00:00.123'), (null, '', null, null, null, null)",
    );
    for k in 0..ROWS {
        let step = 1 << k;
        source
            .sql(&format!("insert into u select id + {step}, n + {step}, concat(t, {k}) from u where length(t) < 40"));
        if k > 1 {
            source.sql(&format!("insert into g select a + {k} % 3, b, c * 3, d, e, f from g"));
        }
    }
}

/// One after another; `{n}` is a running number.
const WRITES: [&str; 12] = [
    // Two rows exchange their unique values.
    "BEGIN; SET @a = (SELECT n FROM u WHERE id = 1 + {n}), @b = (SELECT n FROM u WHERE id = 60000 - {n}); \
     UPDATE u SET n = NULL WHERE id = 1 + {n} AND @a IS NOT NULL AND @b IS NOT NULL; \
     UPDATE u SET n = @a WHERE id = 60000 - {n} AND @a IS NOT NULL AND @b IS NOT NULL; \
     UPDATE u SET n = @b WHERE id = 1 + {n} AND @a IS NOT NULL AND @b IS NOT NULL; COMMIT;",
    "UPDATE u SET id = 1000000 + {n} WHERE id = 2 + 37 * {n} % 60000;",
    "DELETE FROM u WHERE id = 3 + 41 * {n} % 60000;",
    "INSERT IGNORE INTO u SELECT 3 + 41 * ({n} - 1) % 60000, 500000 + {n}, 'back';",
    "UPDATE u SET id = 2 + 37 * ({n} - 12) % 60000 WHERE id = 1000000 + {n} - 12 \
     AND NOT EXISTS (SELECT * FROM (SELECT id FROM u) AS o WHERE o.id = 2 + 37 * ({n} - 12) % 60000);",
    "UPDATE u SET t = 'changed {n}' WHERE id % 5000 = {n} % 5000;",
    // Equal rows come, some of them go, some change.
    "INSERT INTO g VALUES (7, 'x', 0.1, 1.500, NULL, NULL), (7, 'x', 0.1, 1.500, NULL, NULL);",
    "DELETE FROM g WHERE a = 7 LIMIT 1;",
    "UPDATE g SET c = -0.0 WHERE a = 7 LIMIT 3;",
    "DELETE FROM g WHERE a IS NULL LIMIT 2;",
    "INSERT INTO g VALUES (NULL, '', NULL, NULL, NULL, NULL);",
    "UPDATE g SET b = 'moved {n}', f = NOW(3) WHERE a = 2 LIMIT 5;",
];

fn write_until(source: &Database, stop: &AtomicBool) -> usize {
    let mut n = 0;
    while !stop.load(Ordering::SeqCst) {
        let mut script = String::from("SET SESSION sql_mode='';\n");
        for write in WRITES {
            script.push_str(&write.replace("{n}", &n.to_string()));
            script.push('\n');
            n += 1;
        }
        source.sql(&script);
        thread::sleep(Duration::from_millis(10));
    }
    n
}

/// Kills the daemon within the copy, lets it end, and compares; then without a writer.
fn killed_within_the_copy(client: &Client, seed: u64) {
    let source = client.fresh_database("hard");
    fill(&source);
    let target = Postgres::shared(PgVersion::V15).fresh_database("dst");
    let (_folder, path) = folder();
    let files = format!("file://{}", path.display());
    let pipeline = Pipeline::new("hard", &source.url(), &[&target.url(), &files]);
    while_writing(
        1,
        |_, stop| write_until(&source, stop),
        |stop| {
            pipeline.killed(8, Duration::from_millis(300), Duration::from_millis(250), seed);
            pipeline.level_under_load(4, stop);
        },
    );
    pipeline.level(4);
    let count = |database: &Database, table: &str| database.sql(&format!("select count(*) from {table}"));
    assert_eq!(count(&source, "g"), count(&target, &format!("\"{}\".g", source.name())));
}

#[test]
fn hard_copy_from_mariadb() {
    killed_within_the_copy(MariaDb::shared(), 1);
}

#[test]
fn hard_copy_from_mysql() {
    killed_within_the_copy(MySql::shared(), 2);
}
