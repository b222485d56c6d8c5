//! MySQL 9.7 and MariaDB 10.11 to Postgres 15: Chinook and Sakila, with a writer running all along.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crossfade_harness::{Client, Database, MariaDb, MySql, PgVersion, Postgres};

use crate::common::{Pipeline, load_sample, while_writing};

/// Which sample, and what its application does while it is moved.
pub struct Sample {
    pub original: &'static str,
    pub files: &'static [&'static str],
    pub tables: usize,
    /// One transaction after another; `{n}` is a running number.
    pub writes: &'static [&'static str],
}

pub const CHINOOK: Sample = Sample {
    original: "Chinook",
    files: &["chinook-mysql.sql"],
    tables: 11,
    writes: &[
        "INSERT INTO Artist (ArtistId, Name) VALUES (1000 + {n}, 'Künstler {n} \u{1F3B8}');",
        "UPDATE Track SET UnitPrice = UnitPrice + 0.01, Composer = NULL WHERE TrackId % 97 = {n} % 97;",
        "BEGIN; INSERT INTO Playlist VALUES (100 + {n}, 'p{n}'); \
         INSERT INTO PlaylistTrack SELECT 100 + {n}, TrackId FROM Track WHERE TrackId % 500 = {n} % 500; COMMIT;",
        "DELETE FROM PlaylistTrack WHERE PlaylistId = 100 + {n} - 3;",
        "UPDATE Artist SET ArtistId = ArtistId + 100000 WHERE ArtistId = 1000 + {n} - 5;",
        "DELETE FROM Artist WHERE ArtistId = 101000 + {n} - 11;",
        "UPDATE Customer SET SupportRepId = 3 + {n} % 3 WHERE CustomerId = 1 + {n} % 59;",
    ],
};

pub const SAKILA: Sample = Sample {
    original: "sakila",
    files: &["sakila-mysql-schema.sql", "sakila-mysql-data.sql"],
    tables: 16,
    writes: &[
        "UPDATE film SET rental_rate = rental_rate + 0.01, special_features = 'Trailers,Deleted Scenes' WHERE film_id = 1 + {n} % 1000;",
        "INSERT INTO rental (rental_date, inventory_id, customer_id, staff_id) VALUES ('2026-01-01 00:00:00' + INTERVAL {n} MINUTE, 1 + {n} % 4000, 1 + {n} % 500, 1);",
        "UPDATE payment SET amount = amount + 1.00 WHERE payment_id % 1000 = {n} % 1000;",
        "UPDATE address SET phone = '{n}' /*!50705 , location = ST_GeomFromText('POINT({n} 7)') */ WHERE address_id = 1 + {n} % 600;",
        "DELETE FROM payment WHERE payment_id = {n};",
        "INSERT INTO category (name) VALUES ('c{n}');",
        "UPDATE staff SET picture = UNHEX('00FF{n}0') WHERE staff_id = 1 AND {n} > 99 AND {n} < 1000;",
    ],
};

/// Writes to the sample until told to stop; returns the number of statements.
pub fn write_until(client: &Client, database: &str, sample: &Sample, stop: &AtomicBool) -> usize {
    let mut n = 0;
    while !stop.load(Ordering::SeqCst) {
        let mut script = String::from("SET SESSION sql_mode='', foreign_key_checks=0;\n");
        for _ in 0..20 {
            let write = sample.writes[n % sample.writes.len()];
            script.push_str(&write.replace("{n}", &n.to_string()));
            script.push('\n');
            n += 1;
        }
        client.sql(database, &script);
        thread::sleep(Duration::from_millis(20));
    }
    n
}

fn with_a_writer_running(client: &Client, sample: &Sample, target: &Postgres) {
    let source: Database = client.fresh_database("src");
    load_sample(client, sample.files, sample.original, &source);
    let database = target.fresh_database("dst");
    let pipeline = Pipeline::new("e2e", &source.url(), &[&database.url()]);
    let written = while_writing(
        1,
        |_, stop| write_until(client, source.name(), sample, stop),
        |stop| pipeline.level_under_load(sample.tables, stop),
    );
    assert!(written > 20, "{written} statements");
    pipeline.level(sample.tables);
    counts_agree(&source, &database);
}

/// The servers' own counts, beside the fingerprints.
fn counts_agree(source: &Database, target: &Database) {
    let tables = source.sql(&format!(
        "select table_name from information_schema.tables where table_schema = '{}' and table_type = 'BASE TABLE'",
        source.name()
    ));
    for table in tables.lines() {
        let ours = source.sql(&format!("select count(*) from `{table}`"));
        let theirs = target.sql(&format!("select count(*) from \"{}\".\"{table}\"", source.name()));
        assert_eq!(ours, theirs, "{table}");
    }
    let keys = target.sql(&format!(
        "select count(*) filter (where contype = 'p'), count(*) filter (where contype = 'f' and convalidated) \
         from pg_constraint where connamespace = '{}'::regnamespace",
        source.name()
    ));
    let fks = source.sql(&format!(
        "select count(*) from information_schema.referential_constraints where constraint_schema = '{}'",
        source.name()
    ));
    assert_eq!(keys, format!("{}\t{fks}", tables.lines().count()), "primary keys and valid foreign keys");
}

#[test]
fn chinook_from_mariadb() {
    with_a_writer_running(MariaDb::shared(), &CHINOOK, Postgres::shared(PgVersion::V15));
}

#[test]
fn chinook_from_mysql() {
    with_a_writer_running(MySql::shared(), &CHINOOK, Postgres::shared(PgVersion::V15));
}

#[test]
fn sakila_from_mariadb() {
    with_a_writer_running(MariaDb::shared(), &SAKILA, Postgres::shared(PgVersion::V15));
}

#[test]
fn sakila_from_mysql() {
    with_a_writer_running(MySql::shared(), &SAKILA, Postgres::shared(PgVersion::V15));
}

#[test]
fn chinook_from_mysql_to_postgres_18() {
    with_a_writer_running(MySql::shared(), &CHINOOK, Postgres::shared(PgVersion::V18));
}
