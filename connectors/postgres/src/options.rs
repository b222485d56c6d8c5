//! What a connection string means: options with their types, and defaults from the environment as libpq takes them.
//!
//! Precedence: the endpoint's own password, the URL, `PG*` variables, the password file. All that can be wrong is found
//! here, before anything connects.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crossfade_core::{Endpoint, Error, Result, Secret};
use tokio_postgres::Config;
use tokio_postgres::config::{ChannelBinding, SslNegotiation};

use crate::passfile::{self, Passfile};
use crate::url::{self, Settings};

/// Reads an environment variable.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Variables that stand in for options that the URL leaves out.
const VARIABLES: [(&str, &str); 17] = [
    ("PGHOST", "host"),
    ("PGHOSTADDR", "hostaddr"),
    ("PGPORT", "port"),
    ("PGUSER", "user"),
    ("PGPASSWORD", "password"),
    ("PGPASSFILE", "passfile"),
    ("PGDATABASE", "dbname"),
    ("PGSSLMODE", "sslmode"),
    ("PGSSLROOTCERT", "sslrootcert"),
    ("PGSSLCERT", "sslcert"),
    ("PGSSLKEY", "sslkey"),
    ("PGSSLNEGOTIATION", "sslnegotiation"),
    ("PGSSLMINPROTOCOLVERSION", "ssl_min_protocol_version"),
    ("PGCHANNELBINDING", "channel_binding"),
    ("PGCONNECT_TIMEOUT", "connect_timeout"),
    ("PGOPTIONS", "options"),
    ("PGTARGETSESSIONATTRS", "target_session_attrs"),
];

/// Whether and how a connection is encrypted, and how much of the server's certificate is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslMode {
    /// Never.
    Disable,
    /// Only if the server refuses an unencrypted connection.
    Allow,
    /// If the server offers it.
    Prefer,
    /// Always; the certificate is verified only if `sslrootcert` is there.
    Require,
    /// Always; the certificate must be signed by `sslrootcert`.
    VerifyCa,
    /// Always; it must bear the host's name as well.
    VerifyFull,
}

/// Which servers are acceptable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionAttrs {
    /// All.
    Any,
    /// Those where a transaction may write.
    ReadWrite,
    /// Those where it may not.
    ReadOnly,
    /// Those not in recovery.
    Primary,
    /// Those in recovery.
    Standby,
    /// Those in recovery, else all.
    PreferStandby,
}

/// How a source's partitioned tables arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Partitions {
    /// As one table, under the root's name.
    Root,
    /// Each partition as a table of its own.
    Leaf,
}

/// Which of a source's changes are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// All.
    Any,
    /// Those that were made there, and not those that were replicated to it from elsewhere (`pg_replication_origin`).
    None,
}

const ORIGINS: [(&str, Origin); 2] = [("any", Origin::Any), ("none", Origin::None)];

const SWITCH: [(&str, bool); 2] = [("on", true), ("off", false)];

const PARTITIONS: [(&str, Partitions); 2] = [("root", Partitions::Root), ("leaf", Partitions::Leaf)];

const SSL_MODES: [(&str, SslMode); 6] = [
    ("disable", SslMode::Disable),
    ("allow", SslMode::Allow),
    ("prefer", SslMode::Prefer),
    ("require", SslMode::Require),
    ("verify-ca", SslMode::VerifyCa),
    ("verify-full", SslMode::VerifyFull),
];

const SESSION_ATTRS: [(&str, SessionAttrs); 6] = [
    ("any", SessionAttrs::Any),
    ("read-write", SessionAttrs::ReadWrite),
    ("read-only", SessionAttrs::ReadOnly),
    ("primary", SessionAttrs::Primary),
    ("standby", SessionAttrs::Standby),
    ("prefer-standby", SessionAttrs::PreferStandby),
];

impl fmt::Display for SessionAttrs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SESSION_ATTRS.iter().find(|(_, v)| v == self).map_or("any", |(name, _)| name))
    }
}

/// Where trusted certificates come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Roots {
    /// Nowhere: nothing is verified.
    None,
    /// The operating system.
    System,
    /// A PEM file.
    File(PathBuf),
}

/// One server to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// A name, an address, or a socket's folder.
    pub name: String,
    /// The address to connect to in place of the name's.
    pub addr: Option<IpAddr>,
    /// TCP port, or the number in the socket's name.
    pub port: u16,
    password: Option<Secret>,
}

impl Host {
    /// The password for it.
    pub fn password(&self) -> Option<&Secret> {
        self.password.as_ref()
    }

    /// Whether it is the folder of a Unix socket.
    pub fn is_socket(&self) -> bool {
        self.name.starts_with('/') && self.addr.is_none()
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (open, close) = if self.name.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "{open}{}{close}:{}", self.name, self.port)
    }
}

/// TCP keepalives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Keepalives {
    on: bool,
    idle: Duration,
    interval: Duration,
    count: u32,
}

/// All that a connection string says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// In the order in which they are tried. Never empty.
    pub hosts: Vec<Host>,
    /// The role.
    pub user: String,
    /// The database.
    pub dbname: String,
    /// How connections are encrypted.
    pub ssl_mode: SslMode,
    /// Whom to trust.
    pub roots: Roots,
    /// Certificate and key that prove who we are.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Refuse TLS 1.2.
    pub only_tls13: bool,
    /// Limit of one attempt.
    pub connect_timeout: Option<Duration>,
    /// Which servers will do.
    pub session_attrs: SessionAttrs,
    /// Whether TLS is asked for, or begins with the first byte.
    pub negotiation: SslNegotiation,
    /// Whether SCRAM must be bound to the TLS session.
    pub channel_binding: ChannelBinding,
    /// How the server shows our sessions.
    pub application_name: String,
    /// A source's replication slot, where it is not named after the pipeline.
    pub slot: Option<String>,
    /// A source's publication, likewise.
    pub publication: Option<String>,
    /// How a source's partitioned tables arrive.
    pub partitions: Partitions,
    /// Which of a source's changes are read.
    pub origin: Origin,
    /// Whether a source may send large transactions while they are open.
    pub streaming: bool,
    /// Where such transactions wait for their commit.
    pub spool_dir: PathBuf,
    /// Settings that the server takes with the startup message.
    pub startup_options: Option<String>,
    keepalives: Keepalives,
    tcp_user_timeout: Option<Duration>,
}

impl Options {
    /// Reads an endpoint, and the environment for what it leaves out.
    pub fn parse(endpoint: &Endpoint, env: Env<'_>) -> Result<Options> {
        let mut set = url::parse(endpoint.url())?;
        for (variable, key) in VARIABLES {
            if let Some(value) = env(variable).filter(|v| !v.is_empty()) {
                set.entry(key).or_insert(value);
            }
        }
        if let Some(password) = &endpoint.password {
            set.insert("password", password.expose().to_owned());
        }
        only(&set, "client_encoding", &["auto", "UTF8", "UTF-8", "utf8", "utf-8"])?;
        only(&set, "gssencmode", &["disable", "prefer"])?;
        let user = set.get("user").cloned().or_else(|| env("USER")).or_else(|| env("LOGNAME")).ok_or_else(|| {
            Error::config("the URL names no user").hint("write postgres://user@host/dbname, or set PGUSER")
        })?;
        let dbname = set.get("dbname").unwrap_or(&user).clone();
        let home = env("HOME").map(|home| PathBuf::from(home).join(".postgresql"));
        let (ssl_mode, roots) = trust(&set, home.as_deref())?;
        Ok(Options {
            hosts: hosts(&set, env, &dbname, &user)?,
            ssl_mode,
            roots,
            identity: identity(&set, home.as_deref())?,
            only_tls13: choice(&set, "ssl_min_protocol_version", &TLS_VERSIONS)?.unwrap_or(false),
            connect_timeout: connect_timeout(&set)?,
            session_attrs: choice(&set, "target_session_attrs", &SESSION_ATTRS)?.unwrap_or(SessionAttrs::Any),
            negotiation: negotiation(&set, ssl_mode)?,
            channel_binding: choice(&set, "channel_binding", &CHANNEL_BINDINGS)?.unwrap_or(ChannelBinding::Prefer),
            application_name: ["application_name", "fallback_application_name"]
                .iter()
                .find_map(|key| set.get(key).cloned())
                .unwrap_or_else(|| "crossfade".into()),
            slot: set.get("slot").cloned(),
            publication: set.get("publication").cloned(),
            partitions: choice(&set, "partitions", &PARTITIONS)?.unwrap_or(Partitions::Root),
            origin: choice(&set, "origin", &ORIGINS)?.unwrap_or(Origin::Any),
            streaming: choice(&set, "streaming", &SWITCH)?.unwrap_or(true),
            spool_dir: set.get("spool_dir").cloned().or_else(|| env("TMPDIR")).unwrap_or_else(|| "/tmp".into()).into(),
            startup_options: set.get("options").cloned(),
            keepalives: keepalives(&set)?,
            tcp_user_timeout: number::<u64>(&set, "tcp_user_timeout")?.filter(|n| *n > 0).map(Duration::from_millis),
            user,
            dbname,
        })
    }

    /// The driver's configuration for one host. It does not say whether TLS is used: see [`crate::connect`].
    pub fn config(&self, host: &Host) -> Config {
        let mut config = Config::new();
        config
            .host(&host.name)
            .port(host.port)
            .user(&self.user)
            .dbname(&self.dbname)
            .application_name(&self.application_name)
            .ssl_negotiation(self.negotiation)
            .channel_binding(self.channel_binding)
            .keepalives(self.keepalives.on)
            .keepalives_idle(self.keepalives.idle)
            .keepalives_interval(self.keepalives.interval)
            .keepalives_retries(self.keepalives.count);
        if let Some(addr) = host.addr {
            config.hostaddr(addr);
        }
        if let Some(password) = &host.password {
            config.password(password.expose());
        }
        if let Some(options) = &self.startup_options {
            config.options(options);
        }
        if let Some(timeout) = self.tcp_user_timeout {
            config.tcp_user_timeout(timeout);
        }
        config
    }
}

const TLS_VERSIONS: [(&str, bool); 4] = [("TLSv1", false), ("TLSv1.1", false), ("TLSv1.2", false), ("TLSv1.3", true)];

const CHANNEL_BINDINGS: [(&str, ChannelBinding); 3] =
    [("disable", ChannelBinding::Disable), ("prefer", ChannelBinding::Prefer), ("require", ChannelBinding::Require)];

const NEGOTIATIONS: [(&str, SslNegotiation); 2] =
    [("postgres", SslNegotiation::Postgres), ("direct", SslNegotiation::Direct)];

/// Mode and trusted certificates, which depend on one another (fe-connect.c, fe-secure-openssl.c).
fn trust(set: &Settings, home: Option<&Path>) -> Result<(SslMode, Roots)> {
    let mode = choice(set, "sslmode", &SSL_MODES)?;
    let roots = match set.get("sslrootcert").map(String::as_str) {
        Some("system") => Roots::System,
        Some(file) => Roots::File(file.into()),
        None => match home.map(|h| h.join("root.crt")).filter(|f| f.is_file()) {
            Some(file) => Roots::File(file),
            None => Roots::None,
        },
    };
    match (mode, &roots) {
        (None | Some(SslMode::VerifyFull), Roots::System) => Ok((SslMode::VerifyFull, roots)),
        (Some(_), Roots::System) => Err(Error::config("sslrootcert=system needs sslmode=verify-full")
            .hint("anybody can have a certificate signed by a public authority: only the name tells servers apart")),
        (Some(SslMode::VerifyCa | SslMode::VerifyFull), Roots::None) => {
            Err(Error::config("sslmode asks to verify the server, and there is no trusted certificate")
                .hint("set sslrootcert to a PEM file, or sslrootcert=system with sslmode=verify-full"))
        }
        (mode, _) => Ok((mode.unwrap_or(SslMode::Prefer), roots)),
    }
}

fn identity(set: &Settings, home: Option<&Path>) -> Result<Option<(PathBuf, PathBuf)>> {
    let file = |key: &str, default: &str| {
        let there = home.map(|h| h.join(default)).filter(|f| f.is_file());
        set.get(key).map(PathBuf::from).or(there)
    };
    match (file("sslcert", "postgresql.crt"), file("sslkey", "postgresql.key")) {
        (Some(cert), Some(key)) => Ok(Some((cert, key))),
        (None, _) => Ok(None),
        (Some(cert), None) => Err(Error::config(format!("there is no key for the certificate {}", cert.display()))
            .hint("set sslkey to a PEM file")),
    }
}

fn negotiation(set: &Settings, mode: SslMode) -> Result<SslNegotiation> {
    let chosen = choice(set, "sslnegotiation", &NEGOTIATIONS)?.unwrap_or(SslNegotiation::Postgres);
    if chosen == SslNegotiation::Direct && matches!(mode, SslMode::Disable | SslMode::Allow | SslMode::Prefer) {
        return Err(Error::config("sslnegotiation=direct needs sslmode=require or stronger"));
    }
    Ok(chosen)
}

fn hosts(set: &Settings, env: Env<'_>, dbname: &str, user: &str) -> Result<Vec<Host>> {
    let list = |key: &str| -> Vec<String> {
        set.get(key).map(|v| v.split(',').map(|s| s.trim().to_owned()).collect()).unwrap_or_default()
    };
    let (mut names, addrs, ports) = (list("host"), list("hostaddr"), list("port"));
    if names.is_empty() {
        names = if addrs.is_empty() { vec![String::new()] } else { addrs.clone() };
    }
    if !addrs.is_empty() && addrs.len() != names.len() {
        return Err(Error::config(format!("the URL names {} hosts and {} addresses", names.len(), addrs.len())));
    }
    if ports.len() > 1 && ports.len() != names.len() {
        return Err(Error::config(format!("the URL names {} hosts and {} ports", names.len(), ports.len())));
    }
    let passwords = match set.get("password") {
        Some(_) => String::new(),
        None => match (set.get("passfile"), env("HOME")) {
            (Some(path), _) => Passfile::Named(path.into()).read()?,
            (None, Some(home)) => Passfile::Default(Path::new(&home).join(".pgpass")).read()?,
            (None, None) => String::new(),
        },
    };
    let mut hosts = Vec::with_capacity(names.len());
    for (i, name) in names.into_iter().enumerate() {
        let addr = match addrs.get(i).filter(|a| !a.is_empty()) {
            Some(a) => Some(a.parse().map_err(|_| Error::config(format!("hostaddr {a} is not an IP address")))?),
            None => None,
        };
        let port = match ports.get(i).or(ports.first()).filter(|p| !p.is_empty()) {
            Some(p) => {
                p.parse().ok().filter(|p| *p > 0).ok_or_else(|| Error::config(format!("port {p} is not one")))?
            }
            None => 5432,
        };
        let name = if name.is_empty() { default_host(port) } else { name };
        let password = match set.get("password") {
            Some(password) => Some(Secret::new(password)),
            None => passfile::find(&passwords, &name, port, dbname, user),
        };
        hosts.push(Host { name, addr, port, password });
    }
    Ok(hosts)
}

/// The first default folder that holds the port's socket, else this machine over TCP.
fn default_host(port: u16) -> String {
    let socket = format!(".s.PGSQL.{port}");
    let found = passfile::SOCKET_FOLDERS.iter().find(|f| Path::new(f).join(&socket).exists());
    found.map_or("localhost", |f| f).to_owned()
}

fn keepalives(set: &Settings) -> Result<Keepalives> {
    // A dead peer is noticed within two minutes where the URL does not say; the kernel's default is two hours.
    let seconds =
        |key, default| Ok::<_, Error>(Duration::from_secs(number(set, key)?.filter(|n| *n > 0).unwrap_or(default)));
    Ok(Keepalives {
        on: number::<u8>(set, "keepalives")?.unwrap_or(1) != 0,
        idle: seconds("keepalives_idle", 60)?,
        interval: seconds("keepalives_interval", 10)?,
        count: number(set, "keepalives_count")?.filter(|n| *n > 0).unwrap_or(6),
    })
}

/// Zero and below mean no limit, as with libpq.
fn connect_timeout(set: &Settings) -> Result<Option<Duration>> {
    let seconds = number::<i32>(set, "connect_timeout")?;
    Ok(seconds.map(|s| Duration::from_secs(u64::try_from(s).ok().filter(|s| *s > 0).unwrap_or(u64::from(u32::MAX)))))
}

fn number<T: std::str::FromStr>(set: &Settings, key: &str) -> Result<Option<T>> {
    let Some(text) = set.get(key) else { return Ok(None) };
    match text.trim().parse() {
        Ok(value) => Ok(Some(value)),
        Err(_) => Err(Error::config(format!("connection option {key}={text} is not a number it can be"))),
    }
}

fn choice<T: Copy>(set: &Settings, key: &str, values: &[(&str, T)]) -> Result<Option<T>> {
    let Some(text) = set.get(key) else { return Ok(None) };
    match values.iter().find(|(name, _)| name == text) {
        Some((_, value)) => Ok(Some(*value)),
        None => {
            let names: Vec<&str> = values.iter().map(|(name, _)| *name).collect();
            Err(Error::config(format!("connection option {key}={text} is not one of {}", names.join(", ")))
                .hint(format!("write {key}=... with one of these, or leave it out")))
        }
    }
}

fn only(set: &Settings, key: &str, values: &[&str]) -> Result<()> {
    let values: Vec<(&str, ())> = values.iter().map(|v| (*v, ())).collect();
    choice(set, key, &values).map(|_| ())
}
