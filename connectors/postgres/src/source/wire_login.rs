//! Gets a replication connection in: socket, TLS, authentication.
//!
//! Hosts, ways (`sslmode`), certificates, passwords and channel binding are those of [`crate::connect`]; only the messages
//! are written here ("Message Flow: Start-up" of the server's documentation). SCRAM and MD5 are `postgres-protocol`'s.

use std::io;

use bytes::BytesMut;
use crossfade_core::{Error, Result};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{self, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::config::{ChannelBinding, SslMode as Negotiate, SslNegotiation};
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};

use super::wire::{Duplex, Wire, misplaced};
use super::wire_read::{Reader, Short};
use crate::classify::{classify_io, no_agreement, no_password, no_tls};
use crate::connect::Server;
use crate::options::Host;

/// Why one way in failed, and whether the next of `sslmode`'s ways may help.
struct Refused {
    error: Error,
    other_way: bool,
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Refused { error, other_way: false }
    }
}

/// A connection to this host that is logged in and ready for commands.
pub async fn login(server: &Server, host: &Host) -> Result<Wire> {
    let mut first: Option<Error> = None;
    for way in server.ways(host) {
        match attempt(server, host, *way).await {
            Ok(wire) => return Ok(wire),
            Err(refused) => {
                first = Some(first.unwrap_or(refused.error));
                if !refused.other_way {
                    break;
                }
            }
        }
    }
    Err(first.unwrap_or_else(|| Error::config("sslmode leaves no way to connect")))
}

async fn attempt(server: &Server, host: &Host, way: Negotiate) -> Result<Wire, Refused> {
    let (stream, end_point) = match host.is_socket() {
        true => {
            let path = format!("{}/.s.PGSQL.{}", host.name.trim_end_matches('/'), host.port);
            let stream = UnixStream::connect(path).await.map_err(classify_io)?;
            (Box::new(stream) as Box<dyn Duplex>, None)
        }
        false => encrypt(server, host, way, tcp(host).await.map_err(classify_io)?).await?,
    };
    let mut wire = Wire::new(stream);
    startup(server, &mut wire).await?;
    authenticate(server, host, end_point, &mut wire).await?;
    loop {
        let (tag, _) = wire.login_message().await.map_err(other_way_may_help)?;
        match tag {
            // ReadyForQuery.
            b'Z' => return Ok(wire),
            // BackendKeyData, a protocol version that was not asked for.
            b'K' | b'v' => {}
            tag => return Err(misplaced(tag, "the login").into()),
        }
    }
}

async fn tcp(host: &Host) -> io::Result<TcpStream> {
    let stream = match host.addr {
        Some(addr) => TcpStream::connect((addr, host.port)).await?,
        None => TcpStream::connect((host.name.as_str(), host.port)).await?,
    };
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The stream as this way has it, and what channel binding binds to.
async fn encrypt(
    server: &Server,
    host: &Host,
    way: Negotiate,
    mut stream: TcpStream,
) -> Result<(Box<dyn Duplex>, Option<Vec<u8>>), Refused> {
    if way == Negotiate::Disable {
        return Ok((Box::new(stream), None));
    }
    if server.options().negotiation == SslNegotiation::Postgres {
        let mut request = BytesMut::new();
        frontend::ssl_request(&mut request);
        stream.write_all(&request).await.map_err(classify_io)?;
        // One byte and no more: what follows it in the clear would be taken for the session's.
        match stream.read_u8().await.map_err(classify_io)? {
            b'S' => {}
            b'N' if way == Negotiate::Prefer => return Ok((Box::new(stream), None)),
            b'N' => return Err(Refused { error: no_tls(), other_way: true }),
            _ => return Err(Error::transient("the server did not answer whether it speaks TLS").into()),
        }
    }
    let failed = |e| Refused { error: classify_io(e), other_way: true };
    let mut tls = server.tls().clone();
    let connect = MakeTlsConnect::<TcpStream>::make_tls_connect(&mut tls, &host.name).map_err(failed)?;
    let stream = connect.connect(stream).await.map_err(failed)?;
    let end_point = stream.end_point();
    Ok((Box::new(stream), end_point))
}

async fn startup(server: &Server, wire: &mut Wire) -> Result<()> {
    let options = server.options();
    let mut parameters = vec![
        ("client_encoding", "UTF8"),
        ("user", options.user.as_str()),
        ("database", options.dbname.as_str()),
        ("replication", "database"),
        ("application_name", options.application_name.as_str()),
    ];
    if let Some(options) = &options.startup_options {
        parameters.push(("options", options));
    }
    wire.write(|out| frontend::startup_message(parameters, out)).await
}

/// The server's refusal of a rule in pg_hba.conf may not hold for the other way.
fn other_way_may_help(error: (Error, Option<String>)) -> Refused {
    let (error, code) = error;
    Refused { error, other_way: code.as_deref() == Some("28000") }
}

/// AuthenticationRequest's kinds (`src/include/libpq/protocol.h`).
mod kind {
    pub const OK: u32 = 0;
    pub const PASSWORD: u32 = 3;
    pub const MD5: u32 = 5;
    pub const SASL: u32 = 10;
    pub const SASL_CONTINUE: u32 = 11;
    pub const SASL_FINAL: u32 = 12;
}

/// The next authentication request: its kind, and what comes with it.
async fn request(wire: &mut Wire) -> Result<(u32, Vec<u8>), Refused> {
    let (tag, body) = wire.login_message().await.map_err(other_way_may_help)?;
    if tag != b'R' {
        return Err(misplaced(tag, "the authentication").into());
    }
    let mut r = Reader(&body);
    let kind = r.u32().map_err(|f| f.of("the server's authentication request"))?;
    Ok((kind, r.0.to_vec()))
}

async fn authenticate(
    server: &Server,
    host: &Host,
    end_point: Option<Vec<u8>>,
    wire: &mut Wire,
) -> Result<(), Refused> {
    let options = server.options();
    let unbound = || match options.channel_binding {
        ChannelBinding::Require => Err(no_agreement("the server did not use channel binding".into())),
        _ => Ok(()),
    };
    let password = || host.password().map(|p| p.expose().as_bytes()).ok_or_else(no_password);
    match request(wire).await? {
        (kind::OK, _) => {
            unbound()?;
            return Ok(());
        }
        (kind::PASSWORD, _) => {
            unbound()?;
            let password = password()?;
            wire.write(|out| frontend::password_message(password, out)).await?;
        }
        (kind::MD5, salt) => {
            unbound()?;
            let salt = salt.try_into().map_err(|_| Short.of("the server's salt"))?;
            let hash = md5_hash(options.user.as_bytes(), password()?, salt);
            wire.write(|out| frontend::password_message(hash.as_bytes(), out)).await?;
        }
        (kind::SASL, mechanisms) => {
            let bound = end_point.filter(|_| options.channel_binding != ChannelBinding::Disable);
            let (mechanism, binding) = mechanism(&mechanisms, bound)?;
            if mechanism != SCRAM_SHA_256_PLUS {
                unbound()?;
            }
            scram(wire, mechanism, ScramSha256::new(password()?, binding)).await?;
        }
        (kind, _) => {
            let message = format!("the server asks for authentication of kind {kind}, which is not supported");
            return Err(no_agreement(message).into());
        }
    }
    match request(wire).await? {
        (kind::OK, _) => Ok(()),
        (kind, _) => Err(Error::corrupt(format!("the login goes on with request {kind} where it should end")).into()),
    }
}

/// The strongest mechanism that both sides know. A client that could bind, and is not offered to, says so: then a server
/// that did offer it knows that somebody stands between (RFC 5802, section 6).
fn mechanism(list: &[u8], end_point: Option<Vec<u8>>) -> Result<(&'static str, sasl::ChannelBinding)> {
    let offered = |name: &str| list.split(|b| *b == 0).any(|m| m == name.as_bytes());
    match (offered(SCRAM_SHA_256_PLUS), offered(SCRAM_SHA_256), end_point) {
        (true, _, Some(hash)) => Ok((SCRAM_SHA_256_PLUS, sasl::ChannelBinding::tls_server_end_point(hash))),
        (false, true, Some(_)) => Ok((SCRAM_SHA_256, sasl::ChannelBinding::unrequested())),
        (_, true, None) => Ok((SCRAM_SHA_256, sasl::ChannelBinding::unsupported())),
        _ => Err(no_agreement("the server offers no SASL mechanism that is known here".into())),
    }
}

async fn scram(wire: &mut Wire, mechanism: &str, mut scram: ScramSha256) -> Result<(), Refused> {
    wire.write(|out| frontend::sasl_initial_response(mechanism, scram.message(), out)).await?;
    let (kind::SASL_CONTINUE, challenge) = request(wire).await? else {
        return Err(Error::corrupt("the server did not go on with SCRAM").into());
    };
    scram.update(&challenge).map_err(failed)?;
    wire.write(|out| frontend::sasl_response(scram.message(), out)).await?;
    let (kind::SASL_FINAL, proof) = request(wire).await? else {
        return Err(Error::corrupt("the server did not end SCRAM").into());
    };
    scram.finish(&proof).map_err(failed)?;
    Ok(())
}

fn failed(error: io::Error) -> Error {
    let text = error.to_string();
    if text.contains("iteration count") {
        return Error::config(format!("SCRAM: {text}, which is 100000"))
            .hint("SET scram_iterations = 4096; then set the user's password again: the count is stored with it");
    }
    no_agreement(format!("SCRAM: {text}"))
}
