//! Ways in: connection strings, password files, TLS in every mode, several hosts, and what a refusal says.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crossfade_core::{Class, Endpoint, Error, Exit, Secret, TableName};
use crossfade_harness::{PASSWORD, PgVersion, Postgres, USER};
use crossfade_postgres::connect::Server;
use crossfade_postgres::options::{Options, Roots, SessionAttrs, SslMode};
use crossfade_postgres::{classify, classify_in};
use tokio::runtime::Runtime;

const BOTH: [PgVersion; 2] = [PgVersion::V15, PgVersion::V18];

/// Opens a session and asks one thing.
fn ask(url: &str, sql: &str) -> Result<String, Error> {
    ask_with(Endpoint::new(url, None), sql)
}

fn ask_with(endpoint: Endpoint, sql: &str) -> Result<String, Error> {
    let runtime = Runtime::new().unwrap();
    let server = Server::new(&endpoint, runtime.handle().clone())?;
    let client = server.block_on(server.client())?;
    let row = server.block_on(client.query_one(&format!("SELECT ({sql})::text"), &[])).unwrap();
    Ok(row.get(0))
}

const ENCRYPTED: &str = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";

fn url(pg: &Postgres, options: &str) -> String {
    format!("{}?{options}", pg.url("postgres"))
}

#[test]
fn every_sslmode_does_as_libpq_does() {
    for version in BOTH {
        let pg = Postgres::shared(version);
        let (ca, tls) = (pg.ca(), pg.ca().parent().unwrap().to_owned());
        let file = |name: &str| tls.join(name).display().to_string();
        let (ca, stranger, own) = (ca.display().to_string(), file("stranger.pem"), file("server.pem"));
        let elsewhere = "host=db.example&hostaddr=127.0.0.1";
        for (options, want) in [
            ("sslmode=disable".to_owned(), Ok("false")),
            ("sslmode=allow".into(), Ok("false")),
            ("sslmode=prefer".into(), Ok("true")),
            ("".into(), Ok("true")),
            ("sslmode=require".into(), Ok("true")),
            (format!("sslmode=require&sslrootcert={ca}"), Ok("true")),
            (format!("sslmode=require&sslrootcert={stranger}"), Err("UnknownIssuer")),
            (format!("sslmode=prefer&sslrootcert={stranger}"), Ok("false")),
            (format!("sslmode=verify-ca&sslrootcert={ca}&{elsewhere}"), Ok("true")),
            (format!("sslmode=verify-ca&sslrootcert={stranger}"), Err("UnknownIssuer")),
            (format!("sslmode=verify-full&sslrootcert={ca}"), Ok("true")),
            (format!("sslmode=verify-full&sslrootcert={ca}&{elsewhere}"), Err("not valid for name")),
            (format!("sslmode=verify-full&sslrootcert={own}"), Ok("true")),
            (format!("sslmode=verify-full&sslrootcert={own}&{elsewhere}"), Err("not valid for name")),
            ("sslrootcert=system".into(), Err("UnknownIssuer")),
            ("sslmode=require&channel_binding=require".into(), Ok("true")),
            ("sslmode=disable&channel_binding=require".into(), Err("channel binding")),
            ("sslmode=require&ssl_min_protocol_version=TLSv1.3".into(), Ok("true")),
        ] {
            match (ask(&url(pg, &options), ENCRYPTED), want) {
                (Ok(got), Ok(want)) => assert_eq!(got, want, "{version:?} {options}"),
                (Err(e), Err(want)) => {
                    assert!(e.to_string().contains(want), "{version:?} {options}: {e}");
                    assert_eq!(e.class(), &Class::Fatal(Exit::Config), "{version:?} {options}: {e}");
                    assert!(e.hint_text().is_some(), "{options}: {e}");
                }
                (got, _) => panic!("{version:?} {options}: {got:?}"),
            }
        }
    }
    let pg = Postgres::shared(PgVersion::V18);
    assert_eq!(ask(&url(pg, "sslmode=require&sslnegotiation=direct"), ENCRYPTED).unwrap(), "true");
}

#[test]
fn the_other_way_is_tried_where_the_server_wants_it() {
    let pg = Postgres::start(PgVersion::V15, crossfade_harness::Options::new());
    let hba = pg.data().join("pg_hba.conf");
    let rules = |lines: &str| {
        fs::write(&hba, format!("local all all trust\n{lines}\n")).unwrap();
        pg.sql("postgres", "select pg_reload_conf(); select pg_sleep(0.3)");
    };
    rules("hostnossl all all 127.0.0.1/32 scram-sha-256");
    assert_eq!(ask(&url(&pg, "sslmode=prefer"), ENCRYPTED).unwrap(), "false");
    let refused = ask(&url(&pg, "sslmode=require"), ENCRYPTED).unwrap_err();
    assert!(refused.to_string().contains("pg_hba.conf") && refused.exit() == Exit::Config, "{refused:?}");
    rules("hostssl all all 127.0.0.1/32 scram-sha-256");
    assert_eq!(ask(&url(&pg, "sslmode=allow"), ENCRYPTED).unwrap(), "true");

    // Who we are, by certificate.
    let (ca, folder) = (pg.ca(), tempfile::tempdir().unwrap());
    let openssl = |args: &str| {
        let output = Command::new("openssl").current_dir(&folder).args(args.split(' ')).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    openssl("req -newkey rsa:2048 -nodes -keyout client.key -out client.csr -subj /CN=visitor");
    let sign = format!("-CA {} -CAkey {} -set_serial 7", ca.display(), ca.with_file_name("ca.key").display());
    fs::write(folder.path().join("v3"), "basicConstraints=CA:FALSE\n").unwrap();
    openssl(&format!("x509 -req -in client.csr -out client.pem -days 9 -extfile v3 {sign}"));
    let key = folder.path().join("client.key");
    pg.sql("postgres", "create role visitor login");
    fs::copy(&ca, pg.data().join("clients.pem")).unwrap();
    fs::set_permissions(pg.data().join("clients.pem"), fs::Permissions::from_mode(0o644)).unwrap();
    pg.sql("postgres", "alter system set ssl_ca_file = 'clients.pem'");
    rules("hostssl all all 127.0.0.1/32 cert");
    let with_key = format!(
        "postgres://visitor@127.0.0.1:{}/postgres?sslmode=require&sslcert={}&sslkey={}",
        pg.port(),
        folder.path().join("client.pem").display(),
        key.display()
    );
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(ask(&with_key, "1").unwrap_err().to_string().contains("open to others"));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(ask(&with_key, "current_user").unwrap(), "visitor");
}

#[test]
fn a_server_without_tls() {
    let pg = Postgres::start(PgVersion::V18, crossfade_harness::Options::new().set("ssl", "off"));
    assert_eq!(ask(&url(&pg, "sslmode=prefer"), ENCRYPTED).unwrap(), "false");
    let refused = ask(&url(&pg, "sslmode=require"), ENCRYPTED).unwrap_err();
    assert!(refused.to_string().contains("does not offer TLS") && refused.exit() == Exit::Config, "{refused:?}");
}

#[test]
fn sockets_hosts_and_session_settings() {
    let pg = Postgres::shared(PgVersion::V15);
    let socket = pg.socket().display().to_string();
    let escaped = socket.replace('/', "%2F");
    let port = pg.port();
    for text in [
        format!("postgres://{USER}@{escaped}:{port}/postgres"),
        format!("postgres:///postgres?host={socket}&port={port}&user={USER}&sslmode=verify-full&sslrootcert=system"),
        format!("postgres:host={socket} port={port} user={USER} dbname=postgres"),
        // Nothing listens at the first.
        format!("postgres://{USER}:{PASSWORD}@127.0.0.1:1,127.0.0.1:{port}/postgres?target_session_attrs=read-write"),
        format!("postgres://{USER}:{PASSWORD}@127.0.0.1:{port}/postgres?target_session_attrs=prefer-standby"),
    ] {
        assert_eq!(ask(&text, "current_database()").unwrap(), "postgres", "{text}");
    }
    let standby = ask(&url(pg, "target_session_attrs=standby"), "1").unwrap_err();
    assert!(standby.is_transient() && standby.to_string().contains("standby"), "{standby}");

    let shown = "concat_ws(' ', current_setting('application_name'), current_setting('TimeZone'), \
                 current_setting('lock_timeout'), current_setting('statement_timeout'), \
                 current_setting('search_path'), current_setting('row_security'))";
    let strange = url(
        pg,
        "options=-c lock_timeout=5s -c statement_timeout=7s -c timezone=Asia/Tokyo".replace(' ', "%20").as_str(),
    );
    assert_eq!(ask(&strange, shown).unwrap(), "crossfade UTC 5s 0 \"\" off");
}

#[test]
fn refusals_by_consequence() {
    let pg = Postgres::shared(PgVersion::V18);
    let port = pg.port();
    for (text, exit, message) in [
        (format!("postgres://{USER}:wrong@127.0.0.1:{port}/postgres"), Exit::Config, "password authentication failed"),
        (format!("postgres://{USER}@127.0.0.1:{port}/postgres"), Exit::Config, "there is none"),
        (pg.url("no_such_database"), Exit::Config, "no_such_database"),
        (format!("postgres://{USER}@127.0.0.1:1/postgres?sslmode=disable"), Exit::TryAgain, "127.0.0.1:1"),
        (format!("postgres://{USER}@no-such-host.invalid/postgres"), Exit::TryAgain, "no-such-host.invalid"),
    ] {
        let error = ask(&text, "1").unwrap_err();
        assert_eq!(error.exit(), exit, "{error:?}");
        assert!(error.to_string().contains(message), "{error:?}");
        assert!(!error.to_string().contains("wrong"), "{error:?}");
    }
    // A host that takes the connection and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = silent.local_addr().unwrap();
    let error = ask(&format!("postgres://u:p@{at}/d?connect_timeout=1"), "1").unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("within 1 s"), "{error:?}");
}

#[test]
fn password_files_and_precedence() {
    let pg = Postgres::shared(PgVersion::V15);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pass");
    fs::write(&file, format!("# all\n127.0.0.1:{}:*:{USER}:{PASSWORD}\n*:*:*:*:no\n", pg.port())).unwrap();
    let with_file = format!("postgres://{USER}@127.0.0.1:{}/postgres?passfile={}", pg.port(), file.display());
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let open = ask(&with_file, "1").unwrap_err();
    assert!(open.to_string().contains("open to others") && open.hint_text().unwrap().starts_with("chmod 0600"));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(ask(&with_file, "1").unwrap(), "1");
    // The endpoint's own password wins over all.
    let wrong = format!("postgres://{USER}:wrong@127.0.0.1:{}/postgres", pg.port());
    assert_eq!(ask_with(Endpoint::new(wrong, Some(Secret::new(PASSWORD))), "1").unwrap(), "1");

    let home = folder.path().display().to_string();
    fs::write(folder.path().join(".pgpass"), "*:*:*:*:from-file").unwrap();
    let set_mode = |mode| {
        fs::set_permissions(folder.path().join(".pgpass"), fs::Permissions::from_mode(mode)).unwrap();
    };
    set_mode(0o600);
    let password = |url: &str, own: Option<&str>, env: &dyn Fn(&str) -> Option<String>| {
        let options = Options::parse(&Endpoint::new(url, own.map(Secret::new)), env).unwrap();
        options.config(&options.hosts[0]).get_password().map(|p| String::from_utf8(p.to_vec()).unwrap())
    };
    let home_only = |name: &str| (name == "HOME").then(|| home.clone());
    let with_env = |name: &str| if name == "PGPASSWORD" { Some("from-env".into()) } else { home_only(name) };
    assert_eq!(password("postgres://u:url@h", Some("own"), &with_env).unwrap(), "own");
    assert_eq!(password("postgres://u:url@h", None, &with_env).unwrap(), "url");
    assert_eq!(password("postgres://u@h", None, &with_env).unwrap(), "from-env");
    assert_eq!(password("postgres://u@h", None, &home_only).unwrap(), "from-file");
    set_mode(0o604);
    assert_eq!(password("postgres://u@h", None, &home_only), None);
}

#[test]
fn options_and_environment() {
    let env = |pairs: &'static [(&'static str, &'static str)]| {
        move |name: &str| pairs.iter().find(|(k, _)| *k == name).map(|(_, v)| (*v).to_owned())
    };
    let parse = |url: &str, env: &dyn Fn(&str) -> Option<String>| Options::parse(&Endpoint::new(url, None), env);
    let variables = env(&[
        ("PGHOST", "a,b"),
        ("PGPORT", "1,2"),
        ("PGUSER", "ann"),
        ("PGSSLMODE", "require"),
        ("PGTARGETSESSIONATTRS", "primary"),
        ("USER", "nobody"),
    ]);
    let options = parse("postgres://", &variables).unwrap();
    let hosts: Vec<String> = options.hosts.iter().map(ToString::to_string).collect();
    assert_eq!(hosts, ["a:1", "b:2"]);
    assert_eq!((options.user.as_str(), options.dbname.as_str()), ("ann", "ann"));
    assert_eq!((options.ssl_mode, options.session_attrs), (SslMode::Require, SessionAttrs::Primary));
    let options = parse("postgres://bob@c/shop?sslmode=disable&port=7", &variables).unwrap();
    assert_eq!(options.hosts[0].to_string(), "c:7");
    assert_eq!((options.user.as_str(), options.dbname.as_str()), ("bob", "shop"));
    let options = parse("postgres://[::1]:6/x?sslrootcert=system", &env(&[("USER", "eve")])).unwrap();
    assert_eq!(options.hosts[0].to_string(), "[::1]:6");
    assert_eq!((options.user.as_str(), options.ssl_mode, options.roots), ("eve", SslMode::VerifyFull, Roots::System));
    for (url, message) in [
        ("postgres://h/x", "names no user"),
        ("postgres://u@h/x?sslmode=maybe", "sslmode=maybe is not one of disable, allow"),
        ("postgres://u@h/x?sslmode=verify-full", "no trusted certificate"),
        ("postgres://u@h/x?sslmode=require&sslrootcert=system", "needs sslmode=verify-full"),
        ("postgres://u@h/x?sslnegotiation=direct", "needs sslmode=require"),
        ("postgres://u@h:99999/x", "port 99999"),
        ("postgres://u@h:0/x", "port 0"),
        ("postgres://u@a,b,c/x?port=1,2", "3 hosts and 2 ports"),
        ("postgres://u@h/x?hostaddr=nowhere", "not an IP address"),
        ("postgres://u@h/x?keepalives_idle=soon", "not a number"),
        ("postgres://u@h/x?client_encoding=LATIN1", "client_encoding=LATIN1"),
        ("postgres://u@h/x?passfile=/no/such/file", "password file /no/such/file"),
    ] {
        let error = parse(url, &env(&[])).unwrap_err();
        assert!(error.to_string().contains(message) && error.exit() == Exit::Config, "{url}: {error:?}");
    }
}

#[test]
fn errors_of_statements_by_consequence() {
    for version in BOTH {
        let database = Postgres::shared(version).fresh_database("errors");
        database.sql("create schema s; create table s.t (id int primary key, v varchar(3) not null, c int check (c > 0)); insert into s.t values (1, 'a')");
        let runtime = Runtime::new().unwrap();
        let open = || Server::new(&Endpoint::new(database.url(), None), runtime.handle().clone()).unwrap();
        let (one, two) = (open(), open());
        let (client, other) = (one.block_on(one.client()).unwrap(), two.block_on(two.client()).unwrap());
        let fail = |sql: &str| classify(one.block_on(client.batch_execute(sql)).unwrap_err());
        for (sql, column) in [
            ("INSERT INTO s.t VALUES (1, 'b')", None),
            ("INSERT INTO s.t VALUES (2, NULL)", Some("v")),
            ("INSERT INTO s.t VALUES (2, 'b', -1)", None),
        ] {
            let error = fail(sql);
            let Class::Data(place) = error.class() else { panic!("{sql}: {error:?}") };
            assert_eq!((place.table.as_str(), place.column.as_deref()), ("s.t", column), "{error:?}");
        }
        // Length errors do not name their table: the caller does.
        let long = one.block_on(client.batch_execute("INSERT INTO s.t VALUES (3, 'long')")).unwrap_err();
        let error = classify_in(&TableName::new("s", "t"), long);
        assert!(matches!(error.class(), Class::Data(place) if place.table == "s.t"), "{error:?}");
        assert_eq!(fail("SELECT * FROM s.gone").exit(), Exit::Unavailable);

        two.block_on(other.batch_execute("BEGIN; LOCK TABLE s.t")).unwrap();
        let locked = fail("SET lock_timeout = '50ms'; SELECT * FROM s.t");
        assert!(locked.is_transient() && locked.hint_text().unwrap().contains("pg_locks"), "{locked:?}");
        let cancelled = fail("SET statement_timeout = '50ms'; SELECT pg_sleep(9)");
        assert!(cancelled.is_transient(), "{cancelled:?}");
        let killed = fail("SELECT pg_terminate_backend(pg_backend_pid())");
        assert!(killed.is_transient(), "{killed:?}");
        let gone = fail("SELECT 1");
        assert!(gone.is_transient(), "{gone:?}");
    }
}
