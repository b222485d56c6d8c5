//! MySQL 9.7 (of Debian sid) and MariaDB 10.11 (of the system).
//!
//! Initialising a data folder takes seconds, so it happens once per server version, and every server starts from a copy. The
//! copy gets a server UUID and a server id of its own, as positions are compared with them.

use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use crate::client::{Client, Dialect};
use crate::process as proc;
use crate::server::{Options, Recipe, Server, Site};
use crate::{PASSWORD, USER, tools};

/// Settings of both: small, fast, row binlog with all metadata. Commits survive a killed server (not a killed machine).
const SETTINGS: &[(&str, &str)] = &[
    ("bind_address", "127.0.0.1"),
    ("skip_name_resolve", "ON"),
    ("character_set_server", "utf8mb4"),
    ("local_infile", "ON"),
    ("secure_file_priv", ""),
    ("max_connections", "300"),
    ("innodb_buffer_pool_size", "64M"),
    ("innodb_flush_log_at_trx_commit", "2"),
    ("innodb_flush_method", "nosync"),
    ("sync_binlog", "0"),
    ("log_bin", "binlog"),
    ("binlog_format", "ROW"),
    ("binlog_row_image", "FULL"),
    ("binlog_row_metadata", "FULL"),
];

const MYSQL_ONLY: &[(&str, &str)] = &[
    ("mysqlx", "OFF"),
    ("gtid_mode", "ON"),
    ("enforce_gtid_consistency", "ON"),
    ("innodb_redo_log_capacity", "64M"),
    ("log_error_verbosity", "2"),
];

const MARIADB_ONLY: &[(&str, &str)] =
    &[("innodb_log_file_size", "64M"), ("log_slave_updates", "ON"), ("gtid_strict_mode", "ON")];

/// Which server of the family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Brand {
    MySql,
    MariaDb,
}

impl Brand {
    /// A command that runs the server program.
    fn program(self, death: Option<&str>) -> Command {
        let path = match self {
            Self::MySql => tools::sid_program("sbin/mysqld"),
            Self::MariaDb => tools::installed("/usr/sbin/mariadbd".into()),
        };
        let mut command = proc::command(&path, death, None);
        command.arg("--no-defaults");
        if proc::is_root() {
            // Both refuse to run as root by accident; tests do it on purpose.
            command.arg("--user=root");
        }
        command
    }

    /// Name of the initialised data folder: the version is part of it, so that an upgrade makes a new one.
    fn template_name(self) -> String {
        let output = self.program(Some("KILL")).arg("--version").output().expect("cannot run the server");
        let text = String::from_utf8_lossy(&output.stdout);
        let (_, after) = text.split_once("Ver ").unwrap_or_else(|| panic!("no version in {text:?}"));
        let version = after.split_whitespace().next().unwrap_or_default();
        format!("templates/{}-{version}", self.name())
    }

    /// Initialises a data folder with the all-powerful user.
    fn initialise(self, data: &Path) {
        let script = tools::beside(data, "sql");
        let users = format!(
            "create user '{USER}'@'%' identified by '{PASSWORD}';\ngrant all on *.* to '{USER}'@'%' with grant option;\n"
        );
        let datadir = format!("--datadir={}", data.display());
        match self {
            Self::MySql => {
                fs::write(&script, users).expect("cannot write the users' script");
                let mut init = self.program(Some("KILL"));
                init.args(["--initialize-insecure", "--skip-log-bin", "--innodb-redo-log-capacity=64M", &datadir]);
                tools::must_run(init.arg(format!("--init-file={}", script.display())));
                // Else every copy would carry the same server UUID.
                fs::remove_file(data.join("auto.cnf")).expect("MySQL wrote its server UUID");
            }
            Self::MariaDb => {
                // A bootstrapping server does not load the grant tables, and so refuses statements about users, until told.
                fs::write(&script, format!("flush privileges;\n{users}")).expect("cannot write the users' script");
                let mut install = Command::new("mariadb-install-db");
                install.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db", &datadir]);
                if proc::is_root() {
                    install.arg("--user=root");
                }
                tools::must_run(install.arg("--innodb-log-file-size=64M"));
                let mut bootstrap = self.program(Some("KILL"));
                bootstrap.args(["--bootstrap", "--innodb-log-file-size=64M", &datadir]);
                tools::must_run(bootstrap.stdin(fs::File::open(&script).expect("it was just written")));
            }
        }
        fs::remove_file(&script).expect("it was written above");
    }
}

impl Recipe for Brand {
    fn name(&self) -> String {
        match self {
            Self::MySql => "mysql".into(),
            Self::MariaDb => "mariadb".into(),
        }
    }

    fn prepare(&self, site: &Site) {
        let template = tools::once(&self.template_name(), |data| self.initialise(data));
        let mut copy = Command::new("cp");
        tools::must_run(copy.args(["-a", "--sparse=always", "--reflink=auto"]).arg(template).arg(site.data()));
    }

    fn command(&self, site: &Site) -> Command {
        let own = match self {
            Self::MySql => MYSQL_ONLY,
            Self::MariaDb => MARIADB_ONLY,
        };
        let mut settings = site.options.over(&[SETTINGS, own].concat());
        let tls = tools::tls_folder();
        for (name, value) in [
            ("datadir", site.data().display().to_string()),
            ("socket", site.dir.join("m.sock").display().to_string()),
            ("pid_file", site.dir.join("m.pid").display().to_string()),
            ("tmpdir", site.dir.display().to_string()),
            ("port", site.port.to_string()),
            ("server_id", site.port.to_string()),
            ("ssl_ca", tls.join("ca.pem").display().to_string()),
            ("ssl_cert", tls.join("server.pem").display().to_string()),
            ("ssl_key", tls.join("server.key").display().to_string()),
        ] {
            settings.entry(name.into()).or_insert(value);
        }
        let mut server = self.program(site.death(self));
        if !settings.contains_key("log_bin") {
            server.arg("--skip-log-bin");
        }
        server.args(settings.iter().map(|(name, value)| format!("--{name}={value}"))).current_dir(&site.dir);
        server
    }

    fn is_ready(&self, site: &Site) -> bool {
        client(site).try_sql("mysql", "select 1").is_ok()
    }

    fn stop_signal(&self) -> &'static str {
        "TERM"
    }

    fn end_signal(&self) -> &'static str {
        "KILL"
    }
}

fn client(site: &Site) -> Client {
    Client { dialect: Dialect::MySql, socket: site.dir.join("m.sock"), port: site.port }
}

/// A running MySQL or MariaDB. Statements, URLs and fresh databases come from [`Client`], which it derefs to.
#[derive(Debug)]
pub struct MySqlServer {
    server: Server<Brand>,
    client: Client,
}

impl MySqlServer {
    fn new(server: Server<Brand>) -> Self {
        let client = client(server.site());
        Self { server, client }
    }

    /// Makes this server, which nobody has written to, a replica of another of its kind.
    pub fn follow(&self, primary: &MySqlServer) {
        let port = primary.port();
        let statements = match self.server.recipe() {
            Brand::MySql => format!(
                "change replication source to source_host = '127.0.0.1', source_port = {port}, source_user = '{USER}',
                 source_password = '{PASSWORD}', source_auto_position = 1, source_ssl = 1, source_connect_retry = 1;
                 start replica"
            ),
            Brand::MariaDb => format!(
                "change master to master_host = '127.0.0.1', master_port = {port}, master_user = '{USER}',
                 master_password = '{PASSWORD}', master_use_gtid = slave_pos, master_connect_retry = 1; start slave"
            ),
        };
        self.sql("mysql", &statements);
    }

    /// Until it has all that a primary has committed.
    pub fn level(&self, primary: &MySqlServer) {
        let question = match self.server.recipe() {
            Brand::MySql => "select @@global.gtid_executed",
            Brand::MariaDb => "select @@gtid_binlog_pos",
        };
        let there = primary.sql("mysql", question);
        let level = proc::wait_until(Duration::from_secs(90), || self.sql("mysql", question) == there);
        assert!(level, "the replica does not come level with {there}:\n{}", self.log_tail());
    }

    /// Ends a replica's dependence: it is a primary of its own.
    pub fn promote(&self) {
        let statements = match self.server.recipe() {
            Brand::MySql => "stop replica; reset replica all",
            Brand::MariaDb => "stop slave; reset slave all",
        };
        self.sql("mysql", statements);
    }

    /// The certificate authority that signed the server's certificate (for `localhost` and `127.0.0.1`).
    pub fn ca(&self) -> PathBuf {
        tools::tls_folder().join("ca.pem")
    }

    /// The Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.client.socket.clone()
    }
}

impl Deref for MySqlServer {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

crate::server::lifecycle!(MySqlServer);

/// MySQL 9.7.
#[derive(Debug)]
pub struct MySql;

impl MySql {
    /// The server that all tests share.
    pub fn shared() -> &'static MySqlServer {
        static SHARED: OnceLock<MySqlServer> = OnceLock::new();
        SHARED.get_or_init(|| MySqlServer::new(Server::shared(Brand::MySql)))
    }

    /// A server of this test's own.
    pub fn start(options: Options) -> MySqlServer {
        MySqlServer::new(Server::start(Brand::MySql, options))
    }
}

/// MariaDB 10.11.
#[derive(Debug)]
pub struct MariaDb;

impl MariaDb {
    /// The server that all tests share.
    pub fn shared() -> &'static MySqlServer {
        static SHARED: OnceLock<MySqlServer> = OnceLock::new();
        SHARED.get_or_init(|| MySqlServer::new(Server::shared(Brand::MariaDb)))
    }

    /// A server of this test's own.
    pub fn start(options: Options) -> MySqlServer {
        MySqlServer::new(Server::start(Brand::MariaDb, options))
    }
}
