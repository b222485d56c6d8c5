//! Logs in for [`super::wire`]: greeting, TLS, authentication.
//!
//! Packets after MySQL's "Connection Phase" (`sql-common/client.cc`, `sql/auth/sql_authentication.cc`). The scrambles are
//! `mysql_common`'s. The rules about passwords and TLS are those of [`crate::connect`]: a password never crosses a network
//! in plain text, nor encrypted with a key that came over the same open line.

use std::io::ErrorKind;
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossfade_core::{Error, Result};
use mysql_common::packets::{AuthPlugin, AuthPluginData};
use mysql_common::proto::MySerialize;
use rustls::{ClientConnection, StreamOwned};

use super::reader::{Read, Reader};
use super::tls;
use super::wire::{Socket, Wire};
use crate::url::{Options, SslMode};

/// LONG_PASSWORD, LONG_FLAG, PROTOCOL_41, TRANSACTIONS, SECURE_CONNECTION, PLUGIN_AUTH, PLUGIN_AUTH_LENENC_DATA.
const CAPABILITIES: u32 = 1 | 4 | 0x200 | 0x2000 | 0x8000 | 0x8_0000 | 0x20_0000;
/// CLIENT_SSL.
const SSL: u32 = 0x800;
/// utf8mb4_general_ci.
const COLLATION: u8 = 45;

/// What the server says first.
struct Greeting {
    capabilities: u32,
    plugin: Vec<u8>,
    nonce: Vec<u8>,
}

/// A connection that is logged in.
pub fn login(options: &Options) -> Result<Wire> {
    let mut wire = Wire::new(connect(options)?);
    let limit = options.connect_timeout;
    let greeting = match wire.answer(limit)? {
        [10, rest @ ..] => parse_greeting(rest).map_err(|f| f.at("the server's greeting"))?,
        _ => return Err(Error::unavailable("the server speaks another protocol than MySQL's version 10")),
    };
    let mut capabilities = CAPABILITIES;
    if wants_tls(options, &greeting)? {
        capabilities |= SSL;
        wire.send(&response_head(capabilities))?;
        wire.upgrade(|socket| encrypt(socket, options))?;
    }
    let mut plugin = AuthPlugin::from_bytes(&greeting.plugin).into_owned();
    let password = options.password.as_ref().map(|p| p.expose());
    let mut response = response_head(capabilities);
    response.extend(options.user.as_bytes());
    response.push(0);
    let proof = proof(&plugin, password, &greeting.nonce, &wire)?;
    response.push(u8::try_from(proof.len()).map_err(|_| Error::config("the password is too long"))?);
    response.extend(&proof);
    response.extend(&greeting.plugin);
    response.push(0);
    wire.send(&response)?;
    converse(&mut wire, &mut plugin, password, greeting.nonce, limit)?;
    Ok(wire)
}

fn connect(options: &Options) -> Result<Socket> {
    let failed = |e: std::io::Error| Error::transient(format!("cannot reach {}", options.place())).caused_by(e);
    if let Some(path) = &options.socket {
        return UnixStream::connect(path).map(Socket::Unix).map_err(failed);
    }
    let mut last = std::io::Error::other("the name has no address");
    for address in (options.host.as_str(), options.port).to_socket_addrs().map_err(failed)? {
        match TcpStream::connect_timeout(&address, options.connect_timeout) {
            Ok(stream) => {
                stream.set_nodelay(true).map_err(failed)?;
                return Ok(Socket::Tcp(stream));
            }
            Err(e) => last = e,
        }
    }
    Err(failed(last))
}

fn parse_greeting(body: &[u8]) -> Read<Greeting> {
    let mut r = Reader(body);
    r.until_nul()?;
    r.take(4)?;
    let mut nonce = r.take(8)?.to_vec();
    r.take(1)?;
    let low = r.u16()?;
    r.take(3)?;
    let high = r.u16()?;
    let length = usize::from(r.u8()?);
    r.take(10)?;
    nonce.extend(r.take(length.saturating_sub(8).max(13).min(r.len()))?);
    nonce.truncate(20);
    let plugin = if r.is_empty() { b"mysql_native_password".to_vec() } else { r.until_nul()?.to_vec() };
    Ok(Greeting { capabilities: u32::from(high) << 16 | u32::from(low), plugin, nonce })
}

/// Whether the line is to be encrypted; an error if it has to be and cannot.
fn wants_tls(options: &Options, greeting: &Greeting) -> Result<bool> {
    let offered = greeting.capabilities & SSL != 0;
    match options.ssl_mode {
        _ if options.socket.is_some() => Ok(false),
        SslMode::Disabled => Ok(false),
        SslMode::Preferred => Ok(offered),
        SslMode::Required | SslMode::VerifyCa | SslMode::VerifyIdentity if offered => Ok(true),
        SslMode::Required | SslMode::VerifyCa | SslMode::VerifyIdentity => {
            Err(Error::config("the server offers no TLS").hint("give the server a certificate (ssl_cert, ssl_key)"))
        }
    }
}

/// The first 32 bytes of a login, which are also the request for TLS.
fn response_head(capabilities: u32) -> Vec<u8> {
    let mut head = capabilities.to_le_bytes().to_vec();
    head.extend((1u32 << 30).to_le_bytes());
    head.push(COLLATION);
    head.extend([0; 23]);
    head
}

fn encrypt(socket: Socket, options: &Options) -> Result<Socket> {
    let Socket::Tcp(mut stream) = socket else {
        return Err(Error::config("TLS runs over TCP only"));
    };
    let failed = |e: Box<dyn std::error::Error + Send + Sync>| {
        Error::config("TLS with the server failed").caused_by(e).hint("check ssl-ca and ssl-mode")
    };
    let name = rustls::pki_types::ServerName::try_from(options.host.clone()).map_err(|e| failed(e.into()))?;
    let mut session = ClientConnection::new(Arc::new(tls::config(options)?), name).map_err(|e| failed(e.into()))?;
    stream.set_read_timeout(Some(options.connect_timeout)).map_err(|e| failed(e.into()))?;
    let deadline = Instant::now() + options.connect_timeout;
    while session.is_handshaking() {
        session.complete_io(&mut stream).map_err(|e| match e.kind() {
            // rustls wraps what it has against the server in this kind; all others are the network's.
            ErrorKind::InvalidData => failed(e.into()),
            _ => Error::transient("the TLS handshake was interrupted").caused_by(e),
        })?;
        if Instant::now() > deadline {
            return Err(Error::transient("the TLS handshake took too long"));
        }
    }
    Ok(Socket::Tls(Box::new(StreamOwned::new(session, stream))))
}

/// What proves the password to a plugin, as the first answer to its nonce.
fn proof(plugin: &AuthPlugin<'_>, password: Option<&str>, nonce: &[u8], wire: &Wire) -> Result<Vec<u8>> {
    let allowed = match plugin {
        AuthPlugin::CachingSha2Password | AuthPlugin::MysqlNativePassword | AuthPlugin::Ed25519 => true,
        AuthPlugin::MysqlClearPassword => wire.is_private(),
        // Its salt comes first: see `converse`.
        AuthPlugin::MariadbParsec { .. } => return Ok(Vec::new()),
        // A greeting names the server's default, which need not be the user's: an empty answer lets it switch.
        AuthPlugin::MysqlOldPassword | AuthPlugin::Other(_) => return Ok(Vec::new()),
    };
    if !allowed {
        return Err(Error::config("the server asks for the password in plain text").hint("set ssl-mode=REQUIRED"));
    }
    Ok(plugin.gen_data(password, nonce).map(|data| serialize(&data)).unwrap_or_default())
}

fn serialize(data: &AuthPluginData<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    data.serialize(&mut bytes);
    bytes
}

/// Answers until the server says yes or no.
fn converse(
    wire: &mut Wire,
    plugin: &mut AuthPlugin<'static>,
    password: Option<&str>,
    mut nonce: Vec<u8>,
    limit: Duration,
) -> Result<()> {
    // A plugin needs three rounds at most; a server that goes on is not one.
    for _ in 0..8 {
        let packet = wire.answer(limit)?.to_vec();
        match (packet.as_slice(), &mut *plugin) {
            ([0, ..], _) => return Ok(()),
            ([0xfe, switch @ ..], _) => {
                let mut r = Reader(switch);
                let name = r.until_nul().map_err(|f| f.at("a switch of the authentication plugin"))?;
                *plugin = AuthPlugin::from_bytes(name).into_owned();
                if let AuthPlugin::Other(_) | AuthPlugin::MysqlOldPassword = plugin {
                    return Err(unsupported(name));
                }
                nonce = r.0.strip_suffix(&[0]).unwrap_or(r.0).to_vec();
                let proof = proof(plugin, password, &nonce, wire)?;
                wire.send(&proof)?;
            }
            ([1, 3], AuthPlugin::CachingSha2Password) => {}
            ([1, 4], AuthPlugin::CachingSha2Password) => {
                if !wire.is_private() {
                    return Err(Error::config("the server wants the whole password, and the line is not encrypted")
                        .hint("set ssl-mode=REQUIRED, or use a Unix socket"));
                }
                let mut text = password.unwrap_or_default().as_bytes().to_vec();
                text.push(0);
                wire.send(&text)?;
            }
            (salt, AuthPlugin::MariadbParsec { .. }) => {
                let salt = salt.strip_prefix(&[1]).unwrap_or(salt);
                plugin.read_add_data(salt).ok_or_else(|| Error::corrupt("the server's parsec salt is not one"))?;
                let data = plugin.gen_data(password, &nonce).map(|d| serialize(&d)).unwrap_or_default();
                wire.send(&data)?;
            }
            (other, _) => {
                let first = other.first().copied().unwrap_or_default();
                return Err(Error::corrupt(format!("the login was answered with a packet of unknown kind {first}")));
            }
        }
    }
    Err(Error::corrupt("the login does not come to an end"))
}

fn unsupported(plugin: &[u8]) -> Error {
    Error::config(format!("authentication plugin {} is not supported", String::from_utf8_lossy(plugin))).hint(
        "ALTER USER ... IDENTIFIED WITH caching_sha2_password BY '...' (MySQL), or VIA ed25519 or mysql_native_password (MariaDB)",
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_greeting_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            let _ = parse_greeting(&bytes);
        }
    }
}
