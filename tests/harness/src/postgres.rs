//! Postgres 15 (of the system) and 18 (of Debian sid), each with `initdb` of its own: it takes half a second, and gives every
//! server the system identifier that positions are compared with.

use std::fs;
use std::ops::Deref;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::client::{Client, Dialect};
use crate::process as proc;
use crate::server::{Options, Recipe, Server, Site};
use crate::{PASSWORD, USER, tools};

/// The user that the server runs as when the tests run as root.
const SYSTEM_USER: &str = "postgres";

/// Fast, small, and able to do what replication needs. Commits survive a killed server (not a killed machine).
const SETTINGS: &[(&str, &str)] = &[
    ("listen_addresses", "127.0.0.1"),
    ("fsync", "off"),
    ("full_page_writes", "off"),
    ("wal_level", "logical"),
    ("max_replication_slots", "20"),
    ("max_wal_senders", "20"),
    ("max_connections", "200"),
    ("max_wal_size", "1GB"),
    ("shared_buffers", "64MB"),
    ("log_min_messages", "warning"),
    ("timezone", "UTC"),
    ("ssl", "on"),
];

/// What a standby's slot at its primary is called.
pub const STANDBY: &str = "standby";

/// Major version of a Postgres server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PgVersion {
    /// Postgres 15, Debian 12's.
    V15,
    /// Postgres 18.
    V18,
}

impl PgVersion {
    /// A command that runs one of this version's programs (`postgres`, `initdb`).
    fn program(self, name: &str, death: Option<&str>) -> Command {
        let path = match self {
            Self::V15 => tools::installed(format!("/usr/lib/postgresql/15/bin/{name}").into()),
            Self::V18 => tools::sid_program(&format!("lib/postgresql/18/bin/{name}")),
        };
        proc::command(&path, death, Some(SYSTEM_USER))
    }
}

/// A server of a version, from `initdb` or from the data of another.
#[derive(Clone, Debug)]
struct Kind {
    version: PgVersion,
    /// The data folder of the primary that it is to be a standby of.
    primary: Option<PathBuf>,
}

impl Kind {
    /// A standby's data: the primary's, which must be down, without its slots (as `pg_basebackup` leaves them out).
    fn copy(primary: &Path, site: &Site) {
        give(&site.dir);
        tools::must_run(Command::new("cp").arg("-a").arg(primary).arg(site.data()));
        let slots = site.data().join("pg_replslot");
        for slot in fs::read_dir(&slots).expect("a data folder has pg_replslot") {
            fs::remove_dir_all(slot.expect("an entry").path()).expect("cannot remove a copied slot");
        }
        let signal = site.data().join("standby.signal");
        fs::write(&signal, "").expect("cannot write standby.signal");
        give(&signal);
    }
}

impl Recipe for Kind {
    fn name(&self) -> String {
        match self.version {
            PgVersion::V15 => "postgres15".into(),
            PgVersion::V18 => "postgres18".into(),
        }
    }

    fn prepare(&self, site: &Site) {
        if let Some(primary) = &self.primary {
            return Self::copy(primary, site);
        }
        let data = site.data();
        let password = site.dir.join("password");
        fs::write(&password, PASSWORD).expect("cannot write the password file");
        give(&site.dir);
        let mut initdb = self.version.program("initdb", Some("KILL"));
        initdb.arg("-D").arg(&data).arg(format!("--pwfile={}", password.display()));
        initdb.args(["-U", USER, "--auth-local=trust", "--auth-host=scram-sha-256", "--no-sync"]);
        initdb.args(["-E", "UTF8", "--locale=C"]);
        tools::must_run(initdb.current_dir(&site.dir));
        let tls = tools::tls_folder();
        for (from, to, mode) in [("server.pem", "server.crt", 0o644), ("server.key", "server.key", 0o600)] {
            let to = data.join(to);
            fs::copy(tls.join(from), &to).expect("cannot copy the certificate");
            fs::set_permissions(&to, fs::Permissions::from_mode(mode)).expect("cannot protect the key");
            give(&to);
        }
        let conf = data.join("postgresql.conf");
        let text = fs::read_to_string(&conf).expect("initdb wrote postgresql.conf");
        fs::write(&conf, text + "\ninclude '../settings.conf'\n").expect("cannot write postgresql.conf");
    }

    fn command(&self, site: &Site) -> Command {
        let mut settings = site.options.over(SETTINGS);
        settings.insert("port".into(), site.port.to_string());
        settings.insert("unix_socket_directories".into(), site.dir.display().to_string());
        let text: String = settings.iter().map(|(name, value)| format!("{name} = '{value}'\n")).collect();
        fs::write(site.dir.join("settings.conf"), text).expect("cannot write the settings");
        let mut postgres = self.version.program("postgres", site.death(self));
        postgres.arg("-D").arg(site.data()).current_dir(&site.dir);
        postgres
    }

    fn is_ready(&self, site: &Site) -> bool {
        client(site).try_sql("postgres", "select 1").is_ok()
    }

    fn stop_signal(&self) -> &'static str {
        "INT"
    }

    fn end_signal(&self) -> &'static str {
        // A killed postmaster leaves its System V segment behind, and the machine's number of segments is limited.
        "QUIT"
    }
}

/// Gives a file to the server's user when this process is root.
fn give(path: &Path) {
    if proc::is_root() {
        let (user, group) = proc::ids_of(SYSTEM_USER);
        chown(path, Some(user), Some(group)).unwrap_or_else(|e| panic!("cannot give away {}: {e}", path.display()));
    }
}

fn client(site: &Site) -> Client {
    Client { dialect: Dialect::Postgres, socket: site.dir.clone(), port: site.port }
}

/// A running Postgres. Statements, URLs and fresh databases come from [`Client`], which it derefs to.
#[derive(Debug)]
pub struct Postgres {
    server: Server<Kind>,
    client: Client,
}

impl Postgres {
    fn new(server: Server<Kind>) -> Self {
        let client = client(server.site());
        Self { server, client }
    }

    /// The server that all tests share.
    pub fn shared(version: PgVersion) -> &'static Self {
        static V15: OnceLock<Postgres> = OnceLock::new();
        static V18: OnceLock<Postgres> = OnceLock::new();
        let cell = match version {
            PgVersion::V15 => &V15,
            PgVersion::V18 => &V18,
        };
        cell.get_or_init(|| Self::new(Server::shared(Kind { version, primary: None })))
    }

    /// A server of this test's own.
    pub fn start(version: PgVersion, options: Options) -> Self {
        Self::new(Server::start(Kind { version, primary: None }, options))
    }

    /// A standby of this private server, which is stopped for a moment: so that its data can be copied without a version's own
    /// `pg_basebackup`. It streams by the physical slot [`STANDBY`].
    pub fn standby(&self, options: Options) -> Self {
        let version = self.server.recipe().version;
        self.stop();
        let Client { socket, port, .. } = &self.client;
        let from =
            format!("host={} port={port} user={USER} dbname=postgres application_name={STANDBY}", socket.display());
        let options = options
            .set("primary_conninfo", from)
            .set("primary_slot_name", STANDBY)
            .set("hot_standby_feedback", "on")
            .set("wal_retrieve_retry_interval", "200ms");
        let standby = Self::new(Server::start(Kind { version, primary: Some(self.data()) }, options));
        self.restart();
        self.sql("postgres", &format!("select pg_create_physical_replication_slot('{STANDBY}', true)"));
        standby
    }

    /// Makes a standby the primary.
    pub fn promote(&self) {
        assert_eq!(self.sql("postgres", "select pg_promote()"), "t", "{}", self.log_tail());
    }

    /// The certificate authority that signed the server's certificate (for `localhost` and `127.0.0.1`).
    pub fn ca(&self) -> PathBuf {
        tools::tls_folder().join("ca.pem")
    }

    /// The folder that holds the Unix socket: the `host` of a socket connection.
    pub fn socket(&self) -> PathBuf {
        self.client.socket.clone()
    }
}

impl Deref for Postgres {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

crate::server::lifecycle!(Postgres);
