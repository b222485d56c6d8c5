//! The catalog, the preflight check and logins, on real servers.

use std::sync::{Arc, OnceLock};

use crossfade_core::{
    Endpoint, Error, Exit, Finding, Level, Logical, Omissions, Result, Secret, Selection, Source, TableName,
};
use crossfade_harness::{Database, MariaDb, MySql, MySqlServer, Options};

fn try_open(url: &str) -> Result<Arc<dyn Source>> {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| tokio::runtime::Runtime::new().unwrap());
    crossfade_mysql::open(&Endpoint::new(url, None), Omissions::default(), runtime.handle().clone())
}

fn open(url: &str) -> Arc<dyn Source> {
    try_open(url).unwrap()
}

fn refused(url: &str) -> Error {
    try_open(url).map(|_| ()).unwrap_err()
}

fn servers() -> [(&'static str, &'static MySqlServer); 2] {
    [("MySQL", MySql::shared()), ("MariaDB", MariaDb::shared())]
}

fn including(globs: &[&str]) -> Selection {
    Selection { include: globs.iter().map(|g| (*g).to_owned()).collect(), exclude: vec![] }
}

#[test]
fn shapes_keys_indexes_and_references() {
    for (name, server) in servers() {
        let db = server.fresh_database("cat");
        db.sql(
            "create table parent (a int, b varchar(20), primary key (b, a));\n\
             create table `select ``from` (`desc` bigint unsigned not null auto_increment primary key, `é ö` text, \
               `a``b` int default 3, unique key `my idx` (`a``b`), key prefixed (`é ö`(10)), fulltext key ft (`é ö`), \
               g point not null, spatial key sp (g), x int, y varchar(20), \
               constraint `f k` foreign key (y, x) references parent (b, a) on delete cascade on update set null);\n\
             create table only_unique (a int not null, b int not null, c int, n int generated always as (a + b) stored, \
               unique key wide (a, b), unique key nullable_ (c));\n\
             create table prefix_key (t varchar(500) character set utf8mb4, v int, primary key (t(10)));\n\
             create view v as select 1 as one",
        );
        let tables = open(&db.url()).tables(&Selection::default()).unwrap();
        let names: Vec<&str> = tables.iter().map(|t| t.name.name.as_str()).collect();
        assert_eq!(names, ["only_unique", "parent", "prefix_key", "select `from"], "{name}");
        let odd = &tables[3];
        assert_eq!(odd.name, TableName::new(db.name(), "select `from"));
        let columns: Vec<&str> = odd.columns.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(columns, ["desc", "é ö", "a`b", "g", "x", "y"]);
        assert!(odd.columns[0].auto_increment && !odd.columns[0].nullable && odd.columns[1].nullable);
        assert_eq!(odd.key, [0]);
        let indexes: Vec<_> = odd.indexes.iter().filter(|i| i.name != "f k").collect();
        assert_eq!(indexes.len(), 1, "{indexes:?}");
        assert_eq!(
            (indexes[0].name.as_str(), indexes[0].columns.as_slice(), indexes[0].unique),
            ("my idx", &[2][..], true)
        );
        let key = &odd.foreign_keys[0];
        assert_eq!((key.name.as_str(), key.columns.as_slice()), ("f k", &[5, 4][..]));
        assert_eq!((key.to.name.as_str(), key.to_columns.join(",")), ("parent", "b,a".to_owned()));
        assert_eq!((key.on_delete.as_str(), key.on_update.as_str()), ("CASCADE", "SET NULL"));
        assert_eq!(tables[1].key, [1, 0], "in key order");
        assert_eq!(tables[0].key, [0, 1], "a unique index without NULL stands in for a primary key");
        assert_eq!(tables[0].indexes.len(), 1);
        assert_eq!(tables[2].key, [0], "a prefix key identifies rows by the whole column");
        let findings = open(&db.url()).check(&Selection::default()).unwrap();
        let indexes: Vec<&Finding> = findings.iter().filter(|f| f.setting == "indexes").collect();
        assert!(indexes.len() == 1 && indexes[0].level == Level::Warning, "{name}: {indexes:?}");
        for index in ["prefixed", "ft", "sp"] {
            assert!(indexes[0].actual.contains(&format!(".select `from.{index} (")), "{name}: {index}");
        }
        let cascade =
            findings.iter().any(|f| f.setting == "foreign keys" && f.actual.contains("f k ON DELETE CASCADE"));
        assert_eq!(cascade, name == "MariaDB", "MySQL 9.6 and later log cascades");
    }
}

#[test]
fn cascades_are_one_finding() {
    let db = MariaDb::shared().fresh_database("fk");
    db.sql("create table p (id int primary key)");
    for i in 10..22 {
        db.sql(&format!(
            "create table c{i} (id int primary key, r int, constraint f{i} foreign key (r) references p (id) on delete cascade)"
        ));
    }
    db.sql(
        "create table u (id int primary key, r int, constraint fu foreign key (r) references p (id) on update cascade); \
         create table n (id int primary key, r int, constraint fn foreign key (r) references p (id))",
    );
    let findings = open(&db.url()).check(&Selection::default()).unwrap();
    let [keys] = findings.iter().filter(|f| f.setting == "foreign keys").collect::<Vec<_>>()[..] else {
        panic!("{findings:?}")
    };
    let name = db.name();
    assert!(keys.actual.starts_with(&format!("{name}.c10.f10 ON DELETE CASCADE, {name}.c11.f11")), "{}", keys.actual);
    let end = format!("and 2 more; only when a parent's key is updated: {name}.u.fu ON UPDATE CASCADE");
    assert!(keys.actual.ends_with(&end), "{}", keys.actual);
}

#[test]
fn tables_that_cannot_be_carried_are_all_named() {
    for (name, server) in servers() {
        let db = server.fresh_database("no");
        db.sql(
            "create table fine (id int primary key);\n\
             create table keyless (id int, unique key (id));\n\
             create table crab (id int primary key, c enum('\u{1F980}'))",
        );
        let source = open(&db.url());
        let error = source.tables(&Selection::default()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("crab: column c: the catalog cannot show all labels"), "{name}: {text}");
        assert!(!text.contains("fine") && !text.contains("keyless"), "{name}: {text}");
        let selection = Selection { include: vec![], exclude: vec!["crab".into()] };
        let tables = source.tables(&selection).unwrap();
        assert_eq!(tables.iter().map(|t| t.key.len()).collect::<Vec<_>>(), [1, 0], "a bag is carried");
        let findings = source.check(&Selection::default()).unwrap();
        let critical: Vec<&Finding> = findings.iter().filter(|f| f.level == Level::Critical).collect();
        assert_eq!(critical.len(), 1, "{critical:?}");
        let keyless = |f: &&Finding| f.setting.ends_with(".keyless") && f.level == Level::Warning;
        assert_eq!(findings.iter().filter(keyless).count(), 1, "{findings:?}");
        let criticals = source.check(&including(&["nothing_*"])).unwrap();
        assert!(criticals.iter().any(|f| f.setting == "tables" && f.level == Level::Critical));
    }
}

#[test]
fn tables_without_a_key_need_whole_rows_in_the_log() {
    let server = MariaDb::start(Options::new().set("binlog_row_image", "MINIMAL"));
    let db = server.fresh_database("no");
    db.sql("create table fine (id int primary key); create table keyless (t text)");
    let source = open(&db.url());
    let error = source.tables(&Selection::default()).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("keyless: no primary key") && text.contains("binlog_row_image = MINIMAL"), "{text}");
    assert!(!text.contains("fine"), "{text}");
    let hint = error.hint_text().unwrap();
    assert!(hint.contains("SET GLOBAL binlog_row_image = FULL"), "{hint}");
    assert!(hint.contains(&format!("ALTER TABLE `{}`.`keyless` ADD PRIMARY KEY", db.name())), "{hint}");
    let findings = source.check(&Selection::default()).unwrap();
    let critical = |f: &&Finding| f.setting.ends_with(".keyless") && f.level == Level::Critical;
    assert_eq!(findings.iter().filter(critical).count(), 1, "{findings:?}");
}

#[test]
fn databases_by_glob_or_by_path() {
    let server = MariaDb::shared();
    let (one, two) = (server.fresh_database("glob"), server.fresh_database("glob"));
    one.sql("create table t (id int primary key, j json, u uuid, e enum('a','ü'))");
    two.sql("create table t (id int primary key); create sequence s");
    let source = open(&server.url(""));
    let globs = [format!("{}.*", one.name()), format!("{}.t", two.name())];
    let tables = source.tables(&including(&[&globs[0], &globs[1]])).unwrap();
    assert_eq!(tables.len(), 2);
    let logical: Vec<&Logical> = tables[0].columns.iter().map(|c| &c.logical).collect();
    let labels = vec!["a".to_owned(), "ü".to_owned()];
    assert_eq!(logical, [&Logical::Int32, &Logical::Json, &Logical::Uuid, &Logical::Enum { labels }]);
    let error = source.tables(&Selection::default()).unwrap_err();
    assert_eq!(error.exit(), Exit::Config);
    let error = refused(&server.url("no_such_database")).to_string();
    assert!(error.contains("no_such_database"), "{error}");
}

fn finding<'a>(findings: &'a [Finding], setting: &str) -> &'a Finding {
    findings.iter().find(|f| f.setting == setting).unwrap_or_else(|| panic!("no finding of {setting}: {findings:?}"))
}

#[test]
fn a_good_server_has_nothing_critical() {
    for (name, server) in servers() {
        let db = server.fresh_database("good");
        db.sql("create table t (id int primary key)");
        let findings = open(&db.url()).check(&Selection::default()).unwrap();
        let bad: Vec<&Finding> = findings.iter().filter(|f| f.level != Level::Ok).collect();
        assert!(bad.is_empty(), "{name}: {bad:?}");
        assert_eq!(finding(&findings, "tables").actual, "1");
    }
}

#[test]
fn each_bad_setting_is_found() {
    let mysql = MySql::start(
        Options::new()
            .set("binlog_format", "STATEMENT")
            .set("binlog_row_image", "MINIMAL")
            .set("binlog_row_metadata", "MINIMAL")
            .set("binlog_row_value_options", "PARTIAL_JSON")
            .set("binlog_expire_logs_seconds", "3600")
            .set("gtid_mode", "OFF")
            .set("enforce_gtid_consistency", "OFF")
            .set("binlog_ignore_db", "other"),
    );
    let mariadb = MariaDb::start(
        Options::new()
            .set("binlog_format", "MIXED")
            .set("binlog_row_image", "NOBLOB")
            .set("binlog_row_metadata", "NO_LOG")
            .set("expire_logs_days", "0.5")
            .set("binlog_do_db", "shop"),
    );
    let bad_mysql = [
        ("binlog_format", Level::Critical),
        ("binlog_row_image", Level::Warning),
        ("binlog_row_metadata", Level::Warning),
        ("binlog_row_value_options", Level::Critical),
        ("binlog_expire_logs_seconds", Level::Warning),
        ("gtid_mode", Level::Warning),
        ("binlog_ignore_db", Level::Critical),
        ("table shop.logged", Level::Warning),
    ];
    let bad_mariadb = [
        ("binlog_format", Level::Critical),
        ("binlog_row_image", Level::Warning),
        ("binlog_row_metadata", Level::Warning),
        ("binlog_expire_logs_seconds", Level::Warning),
        ("binlog_do_db", Level::Critical),
        ("table shop.logged", Level::Warning),
    ];
    for (server, bad) in [(&mysql, &bad_mysql[..]), (&mariadb, &bad_mariadb[..])] {
        server.sql("mysql", "create database shop; create table shop.logged (id int primary key) engine = MyISAM");
        let findings = open(&server.url("shop")).check(&Selection::default()).unwrap();
        for (setting, level) in bad {
            let found = finding(&findings, setting);
            assert_eq!(found.level, *level, "{found:?}");
            assert!(!found.fix.is_empty() && !found.actual.is_empty(), "{found:?}");
        }
        let found = findings.iter().filter(|f| f.level != Level::Ok).count();
        assert_eq!(found, bad.len(), "{findings:?}");
    }
}

#[test]
fn a_server_without_a_log() {
    for server in [MySql::start(Options::new().unset("log_bin")), MariaDb::start(Options::new().unset("log_bin"))] {
        server.sql("mysql", "create database shop; create table shop.t (id int primary key)");
        let source = open(&server.url("shop"));
        let findings = source.check(&Selection::default()).unwrap();
        let log = finding(&findings, "log_bin");
        assert_eq!((log.level, log.actual.as_str()), (Level::Critical, "OFF"));
        let error = source.position().unwrap_err();
        assert!(error.hint_text().unwrap().contains("log_bin"), "{error:?}");
    }
}

fn user(db: &Database, grants: &[&str]) -> String {
    let name = format!("u{}", db.name().rsplit('_').next().unwrap());
    db.sql(&format!("create user {name}@'%' identified by 'p@ss/w:rd'"));
    for grant in grants {
        db.sql(&format!("grant {grant} to {name}@'%'"));
    }
    name
}

#[test]
fn missing_privileges_come_with_their_grant() {
    for (name, server) in servers() {
        let db = server.fresh_database("priv");
        db.sql("create table t (id int primary key, secret int); create table hidden (id int primary key)");
        let user = user(&db, &[&format!("select (id) on {}.t", db.name())]);
        let url = server.url_as(&user, "p%40ss%2Fw%3Ard", db.name());
        let source = open(&url);
        let mut findings = source.check(&Selection::default()).unwrap();
        // Statements that the findings give are run until nothing is left to say.
        let mut rounds = 0;
        while findings.iter().any(|f| f.level != Level::Ok) {
            rounds += 1;
            assert!(rounds < 4, "{name}: {findings:?}");
            for bad in findings.iter().filter(|f| f.level != Level::Ok) {
                assert!(bad.fix.starts_with("GRANT "), "{name}: {bad:?}");
                db.sql(&bad.fix);
            }
            findings = source.check(&Selection::default()).unwrap();
        }
        assert!(rounds > 0);
        let tables = source.tables(&Selection::default()).unwrap();
        assert_eq!(tables.len(), 1, "a table without any privilege is not shown");
        source.position().unwrap();
        source.snapshot(&tables, crossfade_core::Consistency::Exact).unwrap();
        db.sql(&format!("drop user {user}@'%'"));
    }
}

#[test]
fn logins_that_fail_say_why() {
    for (name, server) in servers() {
        let db = server.fresh_database("login");
        let user = user(&db, &[]);
        let wrong = refused(&server.url_as(&user, "wrong", "mysql"));
        assert!(!wrong.is_transient() && wrong.exit() == Exit::Config, "{name}: {wrong:?}");
        assert!(wrong.to_string().contains("1045") && wrong.hint_text().unwrap().contains("password"), "{wrong:?}");
        let missing = refused(&server.url("not_there"));
        assert!(!missing.is_transient() && missing.to_string().contains("not_there"), "{name}: {missing:?}");
        db.sql(&format!("drop user {user}@'%'"));
    }
    let gone = refused("mysql://u:p@127.0.0.1:1/x");
    assert!(!gone.is_transient() && gone.hint_text().unwrap().contains("127.0.0.1:1"), "{gone:?}");
}

#[test]
fn tls_as_the_url_demands() {
    for (name, server) in servers() {
        let db = server.fresh_database("tls");
        let ca = server.ca().display().to_string();
        let cipher = |url: &str| open(url).tables(&Selection::default()).map(|t| t.len());
        db.sql("create table t (id int primary key)");
        for options in [
            "ssl-mode=REQUIRED".to_owned(),
            format!("ssl-mode=VERIFY_CA&ssl-ca={ca}"),
            format!("sslmode=verify_identity&ssl_ca={ca}"),
            format!("ssl-ca={ca}"),
        ] {
            assert_eq!(cipher(&format!("{}?{options}", db.url())).unwrap(), 1, "{name}: {options}");
        }
        // An address that the certificate does not name, though the server listens there.
        let unnamed = db.url().replace("127.0.0.1", "[::ffff:127.0.0.1]");
        assert_eq!(cipher(&format!("{unnamed}?ssl-mode=VERIFY_CA&ssl-ca={ca}")).unwrap(), 1, "{name}");
        let error = refused(&format!("{unnamed}?ssl-mode=VERIFY_IDENTITY&ssl-ca={ca}"));
        assert_eq!(error.exit(), Exit::Config, "{name}: {error:?}");
        // The public authorities did not sign the certificate.
        for options in ["ssl-mode=VERIFY_CA".to_owned(), "ssl-mode=VERIFY_IDENTITY".to_owned()] {
            let error = refused(&format!("{}?{options}", db.url()));
            assert_eq!(error.exit(), Exit::Config, "{name}: {options}: {error:?}");
        }
    }
}

#[test]
fn accounts_that_demand_tls_and_modern_plugins() {
    let mysql = MySql::shared();
    let db = mysql.fresh_database("sha");
    db.sql(
        "create table t (id int primary key); drop user if exists tls_only@'%', native_@'%';\n\
         create user tls_only@'%' identified with caching_sha2_password by 'secret' require ssl;\n\
         grant all on *.* to tls_only@'%'",
    );
    let url = mysql.url_as("tls_only", "secret", db.name());
    assert_eq!(open(&format!("{url}?ssl-mode=REQUIRED")).tables(&Selection::default()).unwrap().len(), 1);
    assert_eq!(open(&url).tables(&Selection::default()).unwrap().len(), 1, "PREFERRED takes TLS where it is offered");
    let plain = refused(&format!("{url}?ssl-mode=DISABLED"));
    assert!(!plain.is_transient() && plain.hint_text().is_some(), "{plain:?}");
    db.sql("drop user tls_only@'%'");

    let mariadb = MariaDb::start(Options::new().set("plugin_load_add", "auth_ed25519"));
    mariadb.sql(
        "mysql",
        "create database shop; create table shop.t (id int primary key);\n\
         create user ed@'%' identified via ed25519 using password('secret'); grant all on *.* to ed@'%'",
    );
    for mode in ["REQUIRED", "DISABLED"] {
        let url = format!("{}?ssl-mode={mode}", mariadb.url_as("ed", "secret", "shop"));
        assert_eq!(open(&url).tables(&Selection::default()).unwrap().len(), 1, "{mode}");
        assert!(refused(&url.replace("secret", "wrong")).to_string().contains("1045"));
    }
}

#[test]
fn a_socket_and_a_password_from_elsewhere() {
    for (name, server) in servers() {
        let db = server.fresh_database("sock");
        db.sql("create table t (id int primary key)");
        let url = format!("mysql://root@/{}?socket={}", db.name(), server.socket().display());
        assert_eq!(open(&url).tables(&Selection::default()).unwrap().len(), 1, "{name}");
        let url = server.url(db.name()).replace(":crossfade@", ":wrong@");
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let endpoint = Endpoint::new(url, Some(Secret::new("crossfade")));
        assert!(
            crossfade_mysql::open(&endpoint, Omissions::default(), runtime.handle().clone()).is_ok(),
            "{name}: the endpoint's password wins"
        );
    }
}

#[test]
fn questions_share_a_connection_and_survive_its_end() {
    for server in [MySql::start(Options::new()), MariaDb::start(Options::new())] {
        let db = server.fresh_database("ask");
        db.sql("create table t (id int primary key)");
        let source = open(&db.url());
        let logins =
            || db.sql("show global status like 'Connections'").split_whitespace().last().unwrap().parse::<u64>();
        let ask = || {
            let here = source.position().unwrap();
            source.distance(&here, &source.position().unwrap()).unwrap();
            source.tables(&Selection::default()).unwrap();
        };
        ask();
        let before = logins().unwrap();
        (0..10).for_each(|_| ask());
        assert_eq!(logins().unwrap(), before + 1, "the one is the client that counts");
        let ids =
            db.sql("select id from information_schema.processlist where user = 'crossfade' and command = 'Sleep'");
        assert!(!ids.is_empty());
        ids.lines().for_each(|id| drop(db.sql(&format!("kill {id}"))));
        ask();
    }
}
