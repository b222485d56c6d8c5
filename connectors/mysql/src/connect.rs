//! Connections to one server, and what kind of server it is.
//!
//! Every session starts with the same settings ([`SESSION`]), so that a value reads the same whatever the server's own
//! defaults are: UTC, utf8mb4, no SQL mode that changes how literals or quotes read, no limits on long reads.
//!
//! TLS is rustls with ring. `PREFERRED` (the default) falls back to plain text where the server has none. A password
//! never crosses a network in a form that a man in the middle can use: MySQL's `caching_sha2_password` without TLS asks
//! the server for its RSA key over the same open line, so plain text to a MySQL server is refused unless the line stays
//! on this machine (socket, loopback). MariaDB's plugins answer a challenge and need no such rule.

use std::sync::Arc;
use std::time::Duration;

use crossfade_core::{Error, Result};
use mysql_async::prelude::Queryable;
use mysql_async::{ClientIdentity, Conn, DriverError, IoError, OptsBuilder, SslOpts};
use tokio::runtime::Handle;

use crate::classify::{classify, first_contact};
use crate::url::{Options, SslMode};

/// The largest packet the protocol allows: the client must not be the one that refuses a row the server holds.
pub const MAX_PACKET: usize = 1 << 30;

/// What every session sets first.
pub const SESSION: &str = "SET NAMES utf8mb4, SESSION time_zone = '+00:00', SESSION sql_mode = '', \
     SESSION autocommit = 1, SESSION net_write_timeout = 3600, SESSION net_read_timeout = 3600, \
     SESSION wait_timeout = 86400, SESSION sql_select_limit = DEFAULT, SESSION innodb_lock_wait_timeout = 10, \
     SESSION lock_wait_timeout = 10";

/// Which of the two servers speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavor {
    /// Oracle MySQL, Percona Server and services built on them.
    MySql,
    /// MariaDB.
    MariaDb,
}

/// What a server said about itself.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Which of the two.
    pub flavor: Flavor,
    /// Major, minor, patch.
    pub version: (u16, u16, u16),
    /// As the server prints it.
    pub version_text: String,
    /// `@@server_id`; 0 cannot serve a log.
    pub server_id: u32,
    /// `@@server_uuid`; MariaDB has none.
    pub server_uuid: Option<String>,
}

/// A server that has answered once. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Server(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    options: Options,
    runtime: Handle,
    identity: Identity,
}

impl std::ops::Deref for Server {
    type Target = Identity;

    fn deref(&self) -> &Identity {
        &self.0.identity
    }
}

impl Server {
    /// Connects for the first time: a server that does not answer is an error to show, not one to wait for.
    pub fn open(options: Options, runtime: Handle) -> Result<Self> {
        install_ring();
        let identity = runtime
            .block_on(async {
                let mut conn = connect(&options).await?;
                let identity = identify(&mut conn).await;
                conn.disconnect().await.map_err(classify)?;
                identity
            })
            .map_err(|e| first_contact(e, &options.place()))?;
        Ok(Server(Arc::new(Inner { options, runtime, identity })))
    }

    /// A new connection with [`SESSION`] set.
    pub async fn conn(&self) -> Result<Conn> {
        connect(&self.0.options).await
    }

    /// Runs I/O to its end on this thread. Must not be called from a task of the runtime.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.0.runtime.block_on(future)
    }

    /// The runtime whose I/O driver connections use.
    pub fn runtime(&self) -> &Handle {
        &self.0.runtime
    }

    /// How to log in.
    pub fn options(&self) -> &Options {
        &self.0.options
    }

    /// Whether it is MariaDB.
    pub fn is_mariadb(&self) -> bool {
        self.flavor == Flavor::MariaDb
    }
}

/// Makes ring the process's provider of cryptography. Whoever was first stays: all of Crossfade links ring only.
fn install_ring() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // The error case is another thread that installed the same provider in between.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}

async fn connect(options: &Options) -> Result<Conn> {
    if options.socket.is_some() || options.ssl_mode == SslMode::Disabled {
        return plain(options).await;
    }
    match attempt(options, Some(ssl(options))).await {
        Err(e) if options.ssl_mode == SslMode::Preferred && lacks_tls(&e) => plain(options).await,
        result => result.map_err(classify),
    }
}

/// Whether TLS could not be agreed on; anything else (a wrong password) would fail in plain text too.
fn lacks_tls(error: &mysql_async::Error) -> bool {
    match error {
        mysql_async::Error::Driver(DriverError::NoClientSslFlagFromServer) => true,
        mysql_async::Error::Io(IoError::Tls(_)) => true,
        mysql_async::Error::Io(IoError::Io(e)) => e.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()),
        _ => false,
    }
}

async fn plain(options: &Options) -> Result<Conn> {
    if !options.is_local() && options.password.is_some() && !greets_as_mariadb(options).await? {
        return Err(Error::config(format!("the password would cross the network to {} without TLS", options.place()))
            .hint("set ssl-mode=REQUIRED (or VERIFY_IDENTITY with ssl-ca), or use a socket or an SSH tunnel"));
    }
    attempt(options, None).await.map_err(classify)
}

async fn attempt(options: &Options, ssl: Option<SslOpts>) -> mysql_async::Result<Conn> {
    let opts = OptsBuilder::default()
        .ip_or_hostname(options.host.clone())
        .tcp_port(options.port)
        .socket(options.socket.clone())
        .prefer_socket(false)
        .user(Some(options.user.clone()))
        .pass(options.password.as_ref().map(|p| p.expose().to_owned()))
        .db_name(options.database.clone())
        .max_allowed_packet(Some(MAX_PACKET))
        .wait_timeout(Some(86_400))
        .tcp_keepalive(Some(Duration::from_secs(30)))
        .compression(options.compression.then(mysql_async::Compression::fast))
        .connect_attribute("program_name", "crossfade")
        .init(vec![SESSION])
        .ssl_opts(ssl);
    match tokio::time::timeout(options.connect_timeout, Conn::new(opts)).await {
        Ok(result) => result,
        Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
    }
}

fn ssl(options: &Options) -> SslOpts {
    let verify_name = options.ssl_mode == SslMode::VerifyIdentity;
    let verify_ca = verify_name || options.ssl_mode == SslMode::VerifyCa;
    let identity = options.ssl_cert.clone().zip(options.ssl_key.clone());
    SslOpts::default()
        .with_root_certs(options.ssl_ca.iter().map(|path| path.clone().into()).collect())
        .with_disable_built_in_roots(options.ssl_ca.is_some())
        .with_client_identity(identity.map(|(cert, key)| ClientIdentity::new(cert.into(), key.into())))
        .with_danger_skip_domain_validation(!verify_name)
        .with_danger_accept_invalid_certs(!verify_ca)
}

/// Reads the server's greeting, which names MariaDB in its version, and hangs up.
async fn greets_as_mariadb(options: &Options) -> Result<bool> {
    use tokio::io::AsyncReadExt;
    let greeting = async {
        let mut stream = tokio::net::TcpStream::connect((options.host.as_str(), options.port)).await?;
        let mut head = [0; 4];
        stream.read_exact(&mut head).await?;
        let mut body = vec![0; usize::from(u16::from_le_bytes([head[0], head[1]]))];
        stream.read_exact(&mut body).await?;
        Ok::<_, std::io::Error>(body)
    };
    let body = match tokio::time::timeout(options.connect_timeout, greeting).await {
        Ok(result) => result.map_err(|e| classify(e.into()))?,
        Err(_) => return Err(Error::transient(format!("the server at {} did not greet in time", options.place()))),
    };
    Ok(body.windows(7).any(|w| w == b"MariaDB"))
}

async fn identify(conn: &mut Conn) -> Result<Identity> {
    let row: Option<(String, u32)> = conn.query_first("SELECT VERSION(), @@server_id").await.map_err(classify)?;
    let (version_text, server_id) = row.ok_or_else(|| Error::corrupt("SELECT VERSION() returned no row"))?;
    let flavor = if version_text.contains("MariaDB") { Flavor::MariaDb } else { Flavor::MySql };
    let server_uuid = match flavor {
        Flavor::MySql => conn.query_first("SELECT @@server_uuid").await.map_err(classify)?,
        Flavor::MariaDb => None,
    };
    let version = parse_version(&version_text)?;
    Ok(Identity { flavor, version, version_text, server_id, server_uuid })
}

fn parse_version(text: &str) -> Result<(u16, u16, u16)> {
    let numbers = text.split(['-', '+', '~']).next().unwrap_or_default();
    let mut parts = numbers.split('.').map(str::parse);
    match (parts.next(), parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor)), Some(Ok(patch))) => Ok((major, minor, patch)),
        (Some(Ok(major)), Some(Ok(minor)), None) => Ok((major, minor, 0)),
        _ => Err(Error::unavailable(format!("the server's version {text} cannot be read"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(parse_version("9.7.4-2").unwrap(), (9, 7, 4));
        assert_eq!(parse_version("8.0.36").unwrap(), (8, 0, 36));
        assert_eq!(parse_version("10.11.19-MariaDB-0+deb12u1-log").unwrap(), (10, 11, 19));
        assert!(parse_version("banana").is_err());
    }
}
