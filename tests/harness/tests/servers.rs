//! The harness against its own servers: each kind starts, serves, survives a kill with what it had committed, speaks TLS, and
//! is left behind by no test process.

use std::path::Path;
use std::process::Command;

use crossfade_harness::{
    Client, Database, MariaDb, MySql, MySqlServer, Options, PASSWORD, PgVersion, Postgres, S3, USER, python,
};

const ROUND_TRIP: &str =
    "create table t (id int primary key, word varchar(20)); insert into t values (1, 'grün'), (2, null)";

fn round_trip(database: &Database) {
    database.sql(ROUND_TRIP);
    assert_eq!(database.sql("select id, word from t order by id"), "1\tgrün\n2\tNULL");
    let refused = database.try_sql("insert into t values (1, 'again')").expect_err("a duplicate key was accepted");
    assert!(refused.to_lowercase().contains("duplicate"), "{refused}");
}

/// A fresh database exists while it is held, under a name of its own, and is gone afterwards.
fn fresh_databases(client: &Client, count: impl Fn(&str) -> String) {
    let (one, two) = (client.fresh_database("fresh"), client.fresh_database("fresh"));
    assert_ne!(one.name(), two.name());
    let name = one.name().to_owned();
    assert_eq!(count(&name), "1");
    drop(one);
    assert_eq!(count(&name), "0");
}

fn postgres_shared(version: PgVersion, major: &str) {
    let postgres = Postgres::shared(version);
    round_trip(&postgres.fresh_database("shared"));
    assert!(postgres.sql("postgres", "show server_version").starts_with(major));
    assert_eq!(postgres.sql("postgres", "show wal_level"), "logical");
    fresh_databases(postgres, |name| {
        postgres.sql("postgres", &format!("select count(*) from pg_database where datname = '{name}'"))
    });
    let database = postgres.fresh_database("slot");
    let make = "select slot_name from pg_create_logical_replication_slot(current_database(), 'pgoutput')";
    let slot = database.sql(make);
    drop(database);
    let left = format!("select count(*) from pg_replication_slots where slot_name = '{slot}'");
    assert_eq!(postgres.sql("postgres", &left), "0", "a dropped database leaves its slots behind");
}

#[test]
fn postgres_15_shared() {
    postgres_shared(PgVersion::V15, "15.");
}

#[test]
fn postgres_18_shared() {
    postgres_shared(PgVersion::V18, "18.");
}

/// Connects over TCP with a password and a verified certificate.
fn psql_verified(postgres: &Postgres, ca: &Path) -> Result<String, String> {
    let url = format!("{}?sslmode=verify-full&sslrootcert={}", postgres.url("postgres"), ca.display());
    let output =
        Command::new("psql").args(["-XAtc", "select ssl from pg_stat_ssl where pid = pg_backend_pid()", &url]).output();
    let output = output.expect("cannot run psql");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

#[test]
fn postgres_private_settings_kill_restart_tls() {
    for version in [PgVersion::V15, PgVersion::V18] {
        let mut postgres = Postgres::start(version, Options::new().set("wal_level", "replica"));
        assert_eq!(postgres.sql("postgres", "show wal_level"), "replica");
        let port = postgres.port();
        postgres.sql("postgres", ROUND_TRIP);
        postgres.kill();
        assert!(postgres.try_sql("postgres", "select 1").is_err(), "a killed server answers");
        postgres.restart();
        assert_eq!(postgres.sql("postgres", "select count(*) from t"), "2");
        postgres.restart_with(Options::new());
        assert_eq!(postgres.sql("postgres", "show wal_level"), "logical");
        assert_eq!(postgres.port(), port);
        assert_eq!(psql_verified(&postgres, &postgres.ca()), Ok("t".into()));
        let refused =
            psql_verified(&postgres, &postgres.ca().with_file_name("stranger.pem")).expect_err("a stranger vouched");
        assert!(refused.contains("certificate verify failed"), "{refused}");
    }
}

#[test]
fn private_postgres_servers_have_their_own_identity() {
    let identity = |p: &Postgres| p.sql("postgres", "select system_identifier from pg_control_system()");
    let (one, two) = (Postgres::start(PgVersion::V15, Options::new()), Postgres::start(PgVersion::V15, Options::new()));
    assert_ne!(identity(&one), identity(&two));
}

fn mysql_shared(server: &MySqlServer, version: &str) {
    round_trip(&server.fresh_database("shared"));
    let found = server.sql("mysql", "select version()");
    assert!(found.starts_with(version), "{found}");
    let settings =
        "select @@log_bin, @@binlog_format, @@binlog_row_image, @@binlog_row_metadata, @@character_set_server";
    assert_eq!(server.sql("mysql", settings), "1\tROW\tFULL\tFULL\tutf8mb4");
    fresh_databases(server, |name| {
        server.sql("mysql", &format!("select count(*) from information_schema.schemata where schema_name = '{name}'"))
    });
}

#[test]
fn mysql_shared_server() {
    mysql_shared(MySql::shared(), "9.7");
    assert_eq!(MySql::shared().sql("mysql", "select @@gtid_mode"), "ON");
}

#[test]
fn mariadb_shared_server() {
    mysql_shared(MariaDb::shared(), "10.11");
}

/// Connects over TCP with a password; the client verifies the certificate against `ca`.
fn mariadb_verified(server: &MySqlServer, ca: &Path) -> Result<String, String> {
    let mut client = Command::new("mariadb");
    client.args(["--no-defaults", "-BN", "--protocol=tcp", "--host=127.0.0.1", "--ssl-verify-server-cert"]);
    client.args([format!("--port={}", server.port()), format!("--ssl-ca={}", ca.display())]);
    client.args([
        format!("--user={USER}"),
        format!("--password={PASSWORD}"),
        "-e".into(),
        "show status like 'Ssl_version'".into(),
    ]);
    let output = client.output().expect("cannot run mariadb");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

fn mysql_private(mut server: MySqlServer) {
    assert_eq!(server.sql("mysql", "select @@binlog_format"), "STATEMENT");
    server.sql("mysql", &format!("create database kept; use kept; {ROUND_TRIP}"));
    server.kill();
    assert!(server.try_sql("kept", "select 1").is_err(), "a killed server answers");
    server.restart();
    assert_eq!(server.sql("kept", "select count(*) from t"), "2");
    server.restart_with(Options::new().unset("log-bin"));
    assert_eq!(server.sql("kept", "select @@log_bin"), "0");
    let version = mariadb_verified(&server, &server.ca()).expect("TLS with the right authority");
    assert!(version.contains("TLSv1."), "{version}");
    let refused =
        mariadb_verified(&server, &server.ca().with_file_name("stranger.pem")).expect_err("a stranger vouched");
    assert!(refused.contains("certificate"), "{refused}");
}

#[test]
fn mysql_private_settings_kill_restart_tls() {
    mysql_private(MySql::start(Options::new().set("binlog_format", "STATEMENT")));
}

#[test]
fn mariadb_private_settings_kill_restart_tls() {
    mysql_private(MariaDb::start(Options::new().set("binlog_format", "STATEMENT")));
}

#[test]
fn private_mysql_servers_have_their_own_identity() {
    let identity = |server: &MySqlServer| server.sql("mysql", "select @@server_uuid, @@server_id");
    let (one, two) = (MySql::start(Options::new()), MySql::start(Options::new()));
    assert_ne!(identity(&one), identity(&two));
}

#[test]
fn s3_conditional_put() {
    let s3 = S3::shared();
    let bucket = s3.fresh_bucket("conditional");
    let path = format!("/{}/key", bucket.name);
    let put = |body: &[u8]| s3.request("PUT", &path, &[("If-None-Match", "*")], body).status;
    assert_eq!(put(b"first"), 200);
    assert_eq!(put(b"second"), 412);
    assert_eq!(s3.request("GET", &path, &[], b"").body, b"first");
    let list = "import sys, boto3\n\
                s3 = boto3.client('s3', endpoint_url=sys.argv[1], region_name=sys.argv[2],\n\
                \x20                 aws_access_key_id=sys.argv[3], aws_secret_access_key=sys.argv[4])\n\
                print([o['Key'] for o in s3.list_objects_v2(Bucket=sys.argv[5])['Contents']])";
    let args = [&bucket.endpoint, S3::REGION, S3::ACCESS_KEY, S3::SECRET_KEY, &bucket.name];
    assert_eq!(python(list, &args), "['key']\n");
}

#[test]
fn s3_private_kill_and_restart() {
    let s3 = S3::start();
    let bucket = s3.fresh_bucket("gone");
    s3.kill();
    s3.restart();
    let status = s3.request("GET", &format!("/{}", bucket.name), &[], b"").status;
    assert_eq!(status, 404, "the endpoint keeps objects in memory");
}

#[test]
fn a_dropped_server_leaves_nothing() {
    let postgres = Postgres::start(PgVersion::V15, Options::new());
    let (pid, data) = (postgres.pid(), postgres.data());
    assert!(data.is_dir() && Path::new(&format!("/proc/{pid}")).exists());
    drop(postgres);
    assert!(!data.exists() && !Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
#[should_panic(expected = "no_such_setting")]
fn a_server_that_does_not_start_shows_its_log() {
    Postgres::start(PgVersion::V15, Options::new().set("no_such_setting", "1"));
}

#[test]
#[should_panic(expected = "does not exist")]
fn a_failing_statement_shows_the_message() {
    Postgres::shared(PgVersion::V15).sql("postgres", "select * from nowhere");
}
