//! Bad input: each is refused with a clear error, a hint that mends it, the right exit code, and nothing lost.

use crossfade_harness::{Client, MariaDb, MySql, Options, PgVersion, Postgres};

use crate::common::{Pipeline, code, folder, program};

/// Runs a command that must be refused; returns what it said.
fn refused(pipeline: &Pipeline, command: &str, exit: i32, words: &[&str]) {
    let ended = pipeline.ended(command, &[]);
    assert_eq!(code(&ended), exit, "{}{}", ended.stdout, ended.stderr);
    for word in words {
        assert!(ended.stderr.contains(word), "{word:?} is missing in: {}", ended.stderr);
    }
    assert!(ended.stderr.contains("hint"), "a refusal has a hint: {}", ended.stderr);
}

fn small_source(client: &Client) -> crossfade_harness::Database {
    let source = client.fresh_database("src");
    source.sql("create table t (id int primary key, a varchar(20)); insert into t values (1, 'x'), (2, 'y')");
    source
}

#[test]
fn a_url_of_another_kind() {
    let p = Pipeline::new("url", "oracle://db/shop", &["postgres://db/shop"]);
    refused(&p, "run", 78, &["\"oracle\" is not a source", "mysql:, mariadb:, postgres: or sqlite:"]);
    let p = Pipeline::new("url", "mysql://root@127.0.0.1/shop", &["ftp://db/shop"]);
    refused(&p, "run", 78, &["\"ftp\" is not a target"]);
}

#[test]
fn nobody_listens() {
    let p = Pipeline::new("port", "mysql://root@127.0.0.1:1/shop", &["postgres://127.0.0.1:1/shop"]);
    refused(&p, "run", 69, &["127.0.0.1:1"]);
}

#[test]
fn a_wrong_password() {
    let mysql: &Client = MySql::shared();
    let source = small_source(mysql);
    let target = Postgres::shared(PgVersion::V15).fresh_database("dst");
    let wrong = mysql.url_as("crossfade", "wr0ng-secret", source.name());
    let p = Pipeline::new("password", &wrong, &[&target.url()]);
    refused(&p, "run", 78, &["crossfade"]);
    let said = p.ended("run", &[]).stderr;
    assert!(!said.contains("wr0ng-secret"), "a password is never printed: {said}");
}

/// What a source's URL asks of the server's log, and cannot have: at `check` and at `run`.
#[test]
fn options_of_the_log() {
    let source = Postgres::shared(PgVersion::V15).fresh_database("src");
    source.sql("create table t (id int primary key)");
    let target = Postgres::shared(PgVersion::V15).fresh_database("dst");
    for (query, code, said) in
        [("origin=none", 78, ["origin", "version 16"]), ("spool_dir=/proc/none", 78, ["spool_dir", "/proc/none"])]
    {
        let url = format!("{}?{query}", source.url());
        let p = Pipeline::new("options", &url, &[&target.url()]);
        let check = p.ended("check", &[]);
        assert_eq!(crate::common::code(&check), 2, "{}{}", check.stdout, check.stderr);
        assert!(said.iter().all(|s| check.stdout.contains(s)), "{}", check.stdout);
        refused(&p, "run", code, &said[1..]);
    }
    let p = Pipeline::new("options", &format!("{}?origin=some", source.url()), &[&target.url()]);
    refused(&p, "run", 78, &["origin=some is not one of any, none"]);
}

#[test]
fn an_unknown_database() {
    let url = Client::url(MariaDb::shared(), "no_such_db");
    let target = Postgres::shared(PgVersion::V15).fresh_database("dst");
    refused(&Pipeline::new("db", &url, &[&target.url()]), "run", 69, &["no_such_db"]);
}

#[test]
fn missing_privileges() {
    let mariadb: &Client = MariaDb::shared();
    let source = small_source(mariadb);
    let user = format!("u{}", std::process::id());
    source.sql(&format!("create user {user}@'%' identified by 'p'; grant select on {}.* to {user}@'%'", source.name()));
    let target = Postgres::shared(PgVersion::V15).fresh_database("dst");
    let p = Pipeline::new("grant", &mariadb.url_as(&user, "p", source.name()), &[&target.url()]);
    refused(&p, "run", 78, &["GRANT", "REPLICATION SLAVE", &user]);
    source.sql(&format!("drop user {user}@'%'"));
}

#[test]
fn no_binlog() {
    let server = MariaDb::start(Options::new().unset("log-bin"));
    let source = small_source(&server);
    let target = Postgres::shared(PgVersion::V15).fresh_database("dst");
    refused(&Pipeline::new("nolog", &source.url(), &[&target.url()]), "run", 78, &["log_bin"]);
}

#[test]
fn statement_format() {
    let server = MariaDb::start(Options::new().set("binlog-format", "STATEMENT"));
    let source = small_source(&server);
    let target = Postgres::shared(PgVersion::V15).fresh_database("dst");
    refused(
        &Pipeline::new("stmt", &source.url(), &[&target.url()]),
        "run",
        78,
        &["binlog_format", "ROW", "STATEMENT", "SET GLOBAL binlog_format"],
    );
}

#[test]
fn an_unknown_configuration_key() {
    let (_keep, folder) = folder();
    let path = folder.join("shop.toml");
    std::fs::write(
        &path,
        "name = \"a\"\n[source]\nurl = \"mysql://h/d\"\ntabels = []\n[[target]]\nurl = \"file:///x\"\n",
    )
    .expect("writing");
    let ended =
        program().args(["run", "--config", path.to_str().expect("UTF-8")]).start().wait(crate::common::PATIENCE);
    assert_eq!(code(&ended), 78);
    assert!(ended.stderr.contains("line 4, column 1: unknown key tabels, did you mean tables?"), "{}", ended.stderr);
}

#[test]
fn a_target_table_of_another_shape() {
    let source = small_source(MariaDb::shared());
    let target = Postgres::shared(PgVersion::V15).fresh_database("dst");
    target.sql(&format!("create schema {0}; create table {0}.t (id int primary key, b date not null)", source.name()));
    let p = Pipeline::new("shape", &source.url(), &[&target.url()]);
    refused(&p, "run", 78, &[".t", "\"a\""]);
    assert_eq!(target.sql(&format!("select count(*) from {}.t", source.name())), "0", "nothing was touched");
}

#[test]
fn an_unwritable_folder() {
    let source = small_source(MariaDb::shared());
    let p = Pipeline::new("folder", &source.url(), &["file:///proc/lake"]);
    refused(&p, "run", 78, &["/proc/lake"]);
}

#[test]
fn a_table_without_a_key_whose_rows_are_not_logged_whole() {
    let server = MariaDb::start(Options::new().set("binlog_row_image", "MINIMAL"));
    let source = small_source(&server);
    source.sql("create table log (at datetime, line text)");
    let target = Postgres::shared(PgVersion::V15).fresh_database("dst");
    let p = Pipeline::new("nokey", &source.url(), &[&target.url()]);
    refused(&p, "run", 78, &[".log", "ADD PRIMARY KEY", "binlog_row_image = FULL"]);
    // Without that table it runs.
    let p = p.tables(&["t"]);
    p.catch_up();
    assert_eq!(p.verify_equal(), 1);
}

#[test]
fn a_corrupt_binlog_event_stops_and_loses_nothing() {
    let server = MariaDb::start(Options::new());
    let source = small_source(&server);
    let target = Postgres::shared(PgVersion::V15).fresh_database("dst");
    let p = Pipeline::new("corrupt", &source.url(), &[&target.url()]);
    p.catch_up();
    source.sql("insert into t values (3, 'corrupt-me-not'); insert into t values (4, 'z')");
    flip_a_byte(&server.data(), b"corrupt-me-not");
    let ended = p.ended("run", &["--until-caught-up"]);
    assert_eq!(code(&ended), 65, "{}", ended.stderr);
    assert!(ended.stderr.contains("checksum"), "{}", ended.stderr);
    assert!(ended.stderr.contains("hint"), "{}", ended.stderr);
    assert_eq!(target.sql(&format!("select count(*) from {}.t", source.name())), "2", "nothing of it was applied");
}

#[test]
fn a_truncated_binlog_stops_and_loses_nothing() {
    let server = MySql::start(Options::new());
    let source = small_source(&server);
    let target = Postgres::shared(PgVersion::V15).fresh_database("dst");
    let p = Pipeline::new("truncated", &source.url(), &[&target.url()]);
    p.catch_up();
    source.sql("insert into t values (3, 'cut-me-here')");
    let (path, at) = place_in_binlog(&server.data(), b"cut-me-here");
    source.sql("flush logs; insert into t values (4, 'behind the gap')");
    std::fs::OpenOptions::new().write(true).open(path).expect("the binlog").set_len(at as u64).expect("cutting");
    refused(&p, "run", 65, &["truncated", "crossfade snapshot '*'"]);
    assert_eq!(target.sql(&format!("select count(*) from {}.t", source.name())), "2", "nothing of it was applied");
    let again = p.ended("snapshot", &["*"]);
    assert!(again.status.success(), "{}", again.stderr);
    p.catch_up();
    assert_eq!(p.verify_equal(), 1, "the way out that the hint names");
}

#[test]
fn a_postgres_source_with_a_wrong_password_or_without_a_database() {
    let server: &Client = Postgres::shared(PgVersion::V15);
    let (source, target) = (small_source(server), server.fresh_database("dst"));
    let wrong = server.url_as("crossfade", "wr0ng-secret", source.name());
    let p = Pipeline::new("pgpassword", &wrong, &[&target.url()]);
    refused(&p, "run", 78, &["password authentication failed", "\"crossfade\"", "pg_hba.conf"]);
    let said = p.ended("run", &[]).stderr;
    assert!(!said.contains("wr0ng-secret"), "a password is never printed: {said}");
    let p = Pipeline::new("pgdb", &server.url("no_such_db"), &[&target.url()]);
    refused(&p, "run", 78, &["no_such_db"]);
}

#[test]
fn a_postgres_source_whose_log_is_not_logical() {
    let server = Postgres::start(PgVersion::V18, Options::new().set("wal_level", "replica"));
    let (source, target) = (small_source(&server), server.fresh_database("dst"));
    let p = Pipeline::new("pgwal", &source.url(), &[&target.url()]);
    refused(&p, "run", 78, &["wal_level", "replica", "ALTER SYSTEM SET wal_level = logical, and restart"]);
}

#[test]
fn a_postgres_user_without_rights() {
    let server: &Client = Postgres::shared(PgVersion::V18);
    let (source, target) = (small_source(server), server.fresh_database("dst"));
    source.sql("create table hidden (id int primary key); alter table hidden enable row level security");
    let user = format!("app{}", std::process::id());
    source.sql(&format!("create role {user} login password 'p'"));
    let p = Pipeline::new("pggrant", &server.url_as(&user, "p", source.name()), &[&target.url()]);
    refused(
        &p,
        "run",
        78,
        &[
            &format!("ALTER ROLE \"{user}\" REPLICATION"),
            &format!("GRANT CREATE ON DATABASE \"{}\" TO \"{user}\"", source.name()),
            &format!("GRANT SELECT ON TABLE \"public\".\"t\" TO \"{user}\""),
            &format!("ALTER ROLE \"{user}\" BYPASSRLS"),
            "is not its owner",
        ],
    );
    assert_eq!(source.sql("select count(*) from pg_publication"), "0", "nothing was made");
    // All that it said, done: the owner's role by making it the tables' owner.
    source.sql(&format!(
        "alter role {user} replication bypassrls; grant create on database {0} to {user}; \
         alter table t owner to {user}; alter table hidden owner to {user}",
        source.name()
    ));
    p.catch_up();
    assert_eq!(p.verify_equal(), 2);
    assert!(p.ended("uninstall", &[]).status.success());
    source.sql(&format!("drop owned by {user} cascade; drop role {user}"));
}

/// What is made at the source goes missing while nobody runs the pipeline: no run may go on over the gap.
#[test]
fn a_publication_or_a_slot_that_is_gone() {
    let server: &Client = Postgres::shared(PgVersion::V15);
    let (source, target) = (small_source(server), server.fresh_database("dst"));
    let p = Pipeline::new("pggone", &source.url(), &[&target.url()]);
    p.catch_up();
    let publication = source.sql("select pubname from pg_publication");
    source.sql(&format!("drop publication \"{publication}\"; insert into t values (3, 'unpublished')"));
    refused(&p, "run", 69, &[&publication, "it is gone", "crossfade slot drop"]);
    source.sql(&format!("create publication \"{publication}\" for table t with (publish = 'insert')"));
    refused(&p, "run", 78, &["does not publish all operations", "insert, update, delete, truncate"]);
    source.sql(&format!("drop publication \"{publication}\"; create publication \"{publication}\" for all tables"));
    let slot = source.sql("select slot_name from pg_replication_slots where database = current_database()");
    source.sql(&format!("select from pg_drop_replication_slot('{slot}')"));
    refused(&p, "run", 69, &[&slot, "it is gone", "crossfade slot drop", "another --name"]);
    // Made again, it begins behind the gap.
    source.sql(&format!("select from pg_create_logical_replication_slot('{slot}', 'pgoutput')"));
    refused(&p, "run", 69, &[&slot, "the log between them is gone", "crossfade slot drop"]);
    assert_eq!(target.sql("select count(*) from t"), "2", "nothing was applied over the gap");
    assert!(p.ended("uninstall", &[]).status.success());
}

/// The newest binlog, and the last place in it where these bytes stand.
fn place_in_binlog(data: &std::path::Path, needle: &[u8]) -> (std::path::PathBuf, usize) {
    let mut files: Vec<_> = std::fs::read_dir(data)
        .expect("the data folder")
        .map(|e| e.expect("an entry").path())
        .filter(|p| {
            let name = p.file_name().expect("a name").to_string_lossy().into_owned();
            name.contains("bin") && name.rsplit('.').next().is_some_and(|e| e.chars().all(|c| c.is_ascii_digit()))
        })
        .collect();
    files.sort();
    let path = files.pop().expect("a binlog file");
    let bytes = std::fs::read(&path).expect("the binlog");
    let at = bytes.windows(needle.len()).rposition(|w| w == needle).expect("the row is in the newest binlog");
    (path, at)
}

/// Flips a bit of the last place in the newest binlog where these bytes stand.
fn flip_a_byte(data: &std::path::Path, needle: &[u8]) {
    let (path, at) = place_in_binlog(data, needle);
    let file = std::fs::OpenOptions::new().write(true).open(path).expect("opening the binlog");
    std::os::unix::fs::FileExt::write_all_at(&file, &[needle[0] ^ 1], at as u64).expect("flipping");
}
