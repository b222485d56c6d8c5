//! Chinook and Sakila on Postgres, and an application that writes to them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crossfade_harness::{Database, PgVersion, Postgres, sample};
use serde_json::Value;

use crate::common::{Pipeline, code};

/// Which sample, and what its application does while it is moved.
pub struct Sample {
    files: &'static [&'static str],
    /// Run after the files.
    more: &'static str,
    pub tables: usize,
    /// Statements that [`follow_the_findings`] must be told of: tables without a key.
    bags: usize,
    /// One transaction after another; `{n}` is a running number.
    writes: &'static [&'static str],
}

pub const CHINOOK: Sample = Sample {
    files: &["chinook-postgres.sql"],
    more: "",
    tables: 11,
    bags: 0,
    writes: &[
        "INSERT INTO artist (artist_id, name) VALUES (1000 + {n}, 'Künstler {n}');",
        "UPDATE track SET unit_price = unit_price + 0.01, composer = NULL WHERE track_id % 97 = {n} % 97;",
        "BEGIN; INSERT INTO playlist VALUES (100 + {n}, 'p{n}'); \
         INSERT INTO playlist_track SELECT 100 + {n}, track_id FROM track WHERE track_id % 500 = {n} % 500; COMMIT;",
        "DELETE FROM playlist_track WHERE playlist_id = 100 + {n} - 3;",
        "UPDATE artist SET artist_id = artist_id + 100000 WHERE artist_id = 1000 + {n} - 4;",
        "BEGIN; INSERT INTO genre VALUES (500 + {n}, 'g'); ROLLBACK;",
    ],
};

/// Its payments inherit: the children have no key, and rules send new rows to them.
pub const SAKILA: Sample = Sample {
    files: &["sakila-postgres-schema.sql", "sakila-postgres-data.sql"],
    more: "INSERT INTO payment_p2007_01 SELECT payment_id, customer_id, staff_id, rental_id, amount, '2007-01-10' \
               FROM ONLY payment WHERE payment_id % 4 = 0;\n\
           INSERT INTO payment_p2007_02 SELECT 7, 1 + payment_id % 3, 1, 1, 2.99, '2007-02-02' \
               FROM ONLY payment WHERE payment_id < 900;\n\
           UPDATE staff SET picture = (SELECT decode(string_agg(md5(g::text), ''), 'hex') FROM generate_series(1, 900) g);",
    tables: 21,
    bags: 6,
    writes: &[
        "UPDATE film SET rental_rate = rental_rate + 0.01, special_features = '{Trailers,\"Deleted, Scenes\",NULL}', \
         rating = 'NC-17', description = 'Größe {n}', release_year = NULL WHERE film_id = 1 + {n} % 1000;",
        "INSERT INTO rental (rental_date, inventory_id, customer_id, staff_id) \
         VALUES (timestamp '2026-01-01' + {n} * interval '1 minute', 1 + {n} % 4000, 1 + {n} % 500, 1);",
        // Not every number is a rental's.
        "INSERT INTO payment (customer_id, staff_id, rental_id, amount, payment_date) \
         SELECT 1 + {n} % 500, 1, min(rental_id), 1.99, timestamp '2007-01-15' + {n} % 150 * interval '1 day' \
         FROM rental WHERE rental_id > {n} % 10000;",
        "UPDATE payment SET amount = amount + 1.00 WHERE payment_id % 1000 = {n} % 1000 AND amount < 900;",
        "INSERT INTO payment_p2007_02 SELECT * FROM payment_p2007_02 LIMIT 3;",
        "DELETE FROM payment_p2007_02 WHERE ctid = ANY (ARRAY(SELECT ctid FROM payment_p2007_02 LIMIT 2));",
        "BEGIN; INSERT INTO category (name) VALUES ('c{n}'); SAVEPOINT s; \
         UPDATE category SET name = 'never'; ROLLBACK TO s; COMMIT;",
        "UPDATE category SET category_id = category_id + 100000 WHERE category_id BETWEEN 17 AND 99999;",
        "DELETE FROM film_actor WHERE actor_id = 1 + {n} % 200 AND film_id % 10 = {n} % 10;",
        // Its picture is stored apart, and is not in the log of this update.
        "UPDATE staff SET username = 'u{n}' WHERE staff_id = 1;",
        "UPDATE customer SET email = NULL, active = {n} WHERE customer_id = 1 + {n} % 599;",
    ],
};

impl Sample {
    /// The sample in a database of this test.
    pub fn load(&self, version: PgVersion) -> Database {
        let source = Postgres::shared(version).fresh_database("src");
        let theirs = |line: &&str| {
            let line = line.trim_start();
            ["DROP DATABASE", "CREATE DATABASE", "\\c ", "REVOKE", "GRANT"].iter().any(|word| line.starts_with(word))
                || line.ends_with("OWNER TO postgres;")
        };
        for file in self.files {
            let script = std::fs::read_to_string(sample(file)).expect("the sample is text");
            source.sql(&script.lines().filter(|line| !theirs(line)).collect::<Vec<_>>().join("\n"));
        }
        source.sql(self.more);
        source
    }

    /// Writes to the sample until told to stop; returns the number of statements.
    pub fn write_until(&self, source: &Database, stop: &AtomicBool) -> usize {
        let mut n = 0;
        while !stop.load(Ordering::SeqCst) {
            let mut script = String::new();
            for _ in 0..12 {
                script.push_str(&self.writes[n % self.writes.len()].replace("{n}", &n.to_string()));
                script.push('\n');
                n += 1;
            }
            source.sql(&script);
            thread::sleep(Duration::from_millis(20));
        }
        n
    }

    /// Does for each table without a key what `check` says: it offers two statements, and the second needs no thought.
    pub fn follow_the_findings(&self, pipeline: &Pipeline, source: &Database) {
        let critical = |report: &Value| -> Vec<String> {
            let findings = report["findings"].as_array().expect("findings");
            let critical = findings.iter().filter(|f| f["level"] == "critical");
            critical.map(|f| f["fix"].as_str().expect("a fix").to_owned()).collect()
        };
        let fixes = critical(&pipeline.json("check", &[]));
        assert_eq!(fixes.len(), self.bags, "{fixes:#?}");
        if self.bags > 0 {
            let early = pipeline.ended("run", &["--until-caught-up"]);
            assert_eq!(code(&early), 78, "{}", early.stderr);
        }
        for fix in &fixes {
            let statement = fix.split("; ").next().and_then(|both| both.split(", or ").nth(1)).expect("two statements");
            assert!(statement.ends_with("REPLICA IDENTITY FULL"), "{fix}");
            source.sql(statement);
        }
        assert!(critical(&pipeline.json("check", &[])).is_empty());
    }
}
