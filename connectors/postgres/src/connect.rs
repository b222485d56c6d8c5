//! Opens sessions on the server.
//!
//! [`Server`] is what the rest of the crate holds: options, TLS and the runtime, cheap to clone. Hosts are tried in order,
//! each in the ways that `sslmode` allows, as libpq does (`PQconnectPoll` in fe-connect.c), because the driver knows neither
//! `allow`, nor `prefer`'s second attempt, nor all of `target_session_attrs`.
//!
//! A session lives on the shared runtime's threads, or ([`Server::alone`]) on the thread that waits for it: where the log is
//! read, batches are written and chunks are copied, waking another thread for each answer would cost more than the answer.
//!
//! Every session gets the same settings, so that values mean the same whatever the server's defaults are. `row_security`
//! off turns a policy that would hide rows into an error.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crossfade_core::{Endpoint, Error, Result};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio_postgres::Client;
use tokio_postgres::config::SslMode as Negotiate;
use tokio_postgres::error::SqlState;

use crate::classify::classify;
use crate::options::{Host, Options, SessionAttrs, SslMode};
use crate::tls::Tls;

/// Settings of every session. `transaction_timeout` (17 and later) ends what may run long; older servers do not know it.
pub const SESSION: &str = "\
    SET client_encoding = 'UTF8'; SET TimeZone = 'UTC'; SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'postgres'; \
    SET extra_float_digits = 3; SET lc_monetary = 'C'; SET bytea_output = 'hex'; SET standard_conforming_strings = on; \
    SET xmloption = content; \
    SET row_security = off; SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0; \
    SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings \
        WHERE name IN ('transaction_timeout', 'idle_session_timeout'); \
    SET search_path = ''";

/// How long an attempt may take where the URL does not say. libpq waits for ever; a service must not.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// A Postgres server, and how to get in.
#[derive(Clone)]
pub struct Server {
    options: Arc<Options>,
    tls: Arc<Tls>,
    drive: Drive,
}

/// Who moves the sessions' bytes.
#[derive(Clone)]
enum Drive {
    /// The threads of the runtime that all share.
    Shared(Handle),
    /// Whoever waits for an answer; nobody else.
    Alone(Arc<Own>),
}

/// A runtime without threads. It is given up, not waited for: a name that is being looked up may take its time.
struct Own(Option<Runtime>);

impl Own {
    fn block_on<F: Future>(&self, future: F) -> F::Output {
        let runtime = self.0.as_ref().expect("it is taken by drop only");
        runtime.block_on(future)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Server {
    /// Reads the endpoint's options and certificates; connects to nothing yet.
    pub fn new(endpoint: &Endpoint, runtime: Handle) -> Result<Server> {
        let options = Options::parse(endpoint, &|name| std::env::var(name).ok())?;
        let tls = Tls::new(&options)?;
        Ok(Server { options: Arc::new(options), tls: Arc::new(tls), drive: Drive::Shared(runtime) })
    }

    /// The same server for sessions of one thread at a time: they live while somebody is in [`Server::block_on`] of this
    /// handle or a clone of it, and end with the last of them.
    pub fn alone(&self) -> Result<Server> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| Error::unavailable("cannot start the I/O of a session").caused_by(e))?;
        Ok(Server { drive: Drive::Alone(Arc::new(Own(Some(runtime)))), ..self.clone() })
    }

    /// Runs I/O to its end on this thread.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        match &self.drive {
            Drive::Shared(runtime) => runtime.block_on(future),
            Drive::Alone(own) => own.block_on(future),
        }
    }

    /// Where and how to connect.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Makes TLS sessions.
    pub fn tls(&self) -> &Tls {
        &self.tls
    }

    /// A new session with Crossfade's settings. Its connection runs as a task until the client is dropped.
    pub async fn client(&self) -> Result<Client> {
        self.first_host(async |host, attrs| {
            let client = self.attempts(host).await?;
            client.batch_execute(SESSION).await.map_err(classify)?;
            demand(&client, attrs).await?;
            Ok(client)
        })
        .await
    }

    /// What `open` makes of the first host that lets us in and is what `target_session_attrs` asks for.
    pub async fn first_host<T>(&self, open: impl AsyncFn(&Host, SessionAttrs) -> Result<T>) -> Result<T> {
        let passes: &[SessionAttrs] = match self.options.session_attrs {
            SessionAttrs::PreferStandby => &[SessionAttrs::Standby, SessionAttrs::Any],
            ref other => std::slice::from_ref(other),
        };
        let mut failed: Option<Error> = None;
        for attrs in passes {
            for host in &self.options.hosts {
                match self.within_limit(host, open(host, *attrs)).await {
                    Ok(opened) => return Ok(opened),
                    // A fatal error of one host must not be hidden by "connection refused" of the next.
                    Err(e) => failed = Some(failed.filter(|f| !f.is_transient()).unwrap_or(e)),
                }
            }
        }
        Err(failed.unwrap_or_else(|| Error::config("the URL names no host")))
    }

    async fn within_limit<T>(&self, host: &Host, attempt: impl Future<Output = Result<T>>) -> Result<T> {
        let limit = self.options.connect_timeout.unwrap_or(CONNECT_TIMEOUT);
        let doing = || format!("Postgres at {host}");
        match tokio::time::timeout(limit, attempt).await {
            Ok(result) => result.map_err(|e: Error| e.context(doing())),
            Err(_) => Err(Error::transient(format!("no session within {} s", limit.as_secs()))
                .context(doing())
                .hint("check host, port and firewall; connect_timeout in the URL sets the limit")),
        }
    }

    /// The ways in that `sslmode` allows, in its order. Sockets of this machine never use TLS.
    pub fn ways(&self, host: &Host) -> &'static [Negotiate] {
        match self.options.ssl_mode {
            _ if host.is_socket() => &[Negotiate::Disable],
            SslMode::Disable => &[Negotiate::Disable],
            SslMode::Allow => &[Negotiate::Disable, Negotiate::Require],
            SslMode::Prefer => &[Negotiate::Prefer, Negotiate::Disable],
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => &[Negotiate::Require],
        }
    }

    async fn attempts(&self, host: &Host) -> Result<Client> {
        let mut first: Option<Error> = None;
        for way in self.ways(host) {
            match self.attempt(host, *way).await {
                Ok(client) => return Ok(client),
                Err(e) => {
                    let again = other_way_may_help(&e);
                    first = Some(first.unwrap_or(classify(e)));
                    if !again {
                        break;
                    }
                }
            }
        }
        Err(first.unwrap_or_else(|| Error::config("sslmode leaves no way to connect")))
    }

    async fn attempt(&self, host: &Host, way: Negotiate) -> Result<Client, tokio_postgres::Error> {
        let mut config = self.options.config(host);
        config.ssl_mode(way);
        let (client, connection) = config.connect((*self.tls).clone()).await?;
        // Inside of `block_on`: on the runtime that it drives.
        tokio::spawn(async move {
            // Whoever waits for an answer gets this error too; a session that idles has nobody to hand it to.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a Postgres session ended");
            }
        });
        Ok(client)
    }
}

/// Whether the server may take us with TLS where it did not without, or the other way round: pg_hba.conf knows such rules
/// (SQLSTATE 28000), and handshakes fail. A wrong password stays wrong, and is not sent again in the clear.
fn other_way_may_help(error: &tokio_postgres::Error) -> bool {
    match error.code() {
        Some(code) => *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
        None => error.to_string().contains("TLS"),
    }
}

/// Refuses a session that is not what `target_session_attrs` asks for.
async fn demand(client: &Client, attrs: SessionAttrs) -> Result<()> {
    if attrs == SessionAttrs::Any {
        return Ok(());
    }
    let row = client.query_one(STATE, &[]).await.map_err(classify)?;
    accept(attrs, row.try_get(0).map_err(classify)?, row.try_get(1).map_err(classify)?)
}

/// Asks what a server is: whether in recovery, whether read-only.
pub const STATE: &str =
    "SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('transaction_read_only') = 'on'";

/// Refuses a server of another kind than `target_session_attrs` asks for.
pub fn accept(attrs: SessionAttrs, standby: bool, read_only: bool) -> Result<()> {
    let ok = match attrs {
        SessionAttrs::Any | SessionAttrs::PreferStandby => true,
        SessionAttrs::ReadWrite => !read_only,
        SessionAttrs::ReadOnly => read_only,
        SessionAttrs::Primary => !standby,
        SessionAttrs::Standby => standby,
    };
    if ok {
        return Ok(());
    }
    let is = if standby { "a standby" } else { "a primary" };
    let mode = if read_only { "read-only" } else { "read-write" };
    Err(Error::transient(format!("the server is {is}, {mode}, and target_session_attrs={attrs} asks for another")))
}
