//! What a running pipeline serves over HTTP: `/metrics`, `/healthz`, `/readyz`, `/status.json`, and a page for people at `/`.
//!
//! hyper's HTTP/1 server on the runtime that the connectors use; hyper is there for object storage already, so this adds a feature
//! and no framework. Requests are answered from the picture of progress, never from a database: a scrape costs the pipeline a
//! lock for some microseconds, and an answer comes also when both ends are down.
//!
//! Who may ask: on an address of this machine everybody on it, elsewhere who shows the token or a certificate (`config/http.rs`).
//! `/healthz` and `/readyz` need no token, since load balancers have none, and say nothing but yes or no to whoever shows none.
//! A browser must not be led here by a name of somebody else's that resolves to this machine, so without a token `Host` must be an
//! address or `localhost`.

mod access;
mod chart;
mod metrics;
mod page;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossfade_core::{Error, Phase, Result};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use self::access::{Access, Admitted};
use crate::config::http::Http;
use crate::pipeline::progress::{Progress, State, View};
use crate::service::Status;

/// A thread that gives no sign for so long makes the daemon unhealthy.
pub const HANGS: Duration = Duration::from_secs(120);

/// A target further behind than this is not ready: where `lag` is critical by default.
const LATE: f64 = 300.0;

/// Connections at one time.
const CONNECTIONS: usize = 64;

/// For a handshake, and for a request's head to come.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is shown.
pub struct Site {
    /// The pipeline's name.
    pub pipeline: String,
    /// The source, without secrets.
    pub source: String,
    /// When the daemon started, in microseconds since 1970 UTC.
    pub since_micros: i64,
    /// The picture.
    pub progress: Arc<Progress>,
}

impl Site {
    fn status(&self) -> Status {
        Status {
            pipeline: self.pipeline.clone(),
            pid: std::process::id(),
            since_micros: self.since_micros,
            source: self.source.clone(),
            view: self.progress.picture(),
            keeping: self.progress.keeping(),
        }
    }
}

/// A port that is listened on, until this is dropped.
pub struct Listening {
    /// Where.
    pub address: SocketAddr,
    access: Arc<Mutex<Arc<Access>>>,
    task: JoinHandle<()>,
}

impl Listening {
    /// Takes a new token and new certificates; connections that stand keep what they came with. Not the address.
    pub fn renew(&self, config: &Http) -> Result<()> {
        let new = Arc::new(Access::new(config)?);
        *self.access.lock().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Listens, and answers until what is returned is dropped.
pub fn listen(config: &Http, site: Site, runtime: &Handle) -> Result<Listening> {
    let wrong = |e: std::io::Error| {
        Error::config(format!("cannot listen on {} ([http] listen)", config.listen))
            .caused_by(e)
            .hint("choose another port, one for each pipeline of this machine; `ss -ltnp` shows who has it")
    };
    let access = Arc::new(Mutex::new(Arc::new(Access::new(config)?)));
    let listener = std::net::TcpListener::bind(config.listen).map_err(wrong)?;
    listener.set_nonblocking(true).map_err(wrong)?;
    let address = listener.local_addr().map_err(wrong)?;
    let listener = {
        let _inside = runtime.enter();
        TcpListener::from_std(listener).map_err(wrong)?
    };
    let task = runtime.spawn(accept(listener, Arc::clone(&access), Arc::new(site)));
    tracing::info!(%address, tls = config.tls.is_some(), "serving metrics and the status page");
    Ok(Listening { address, access, task })
}

async fn accept(listener: TcpListener, access: Arc<Mutex<Arc<Access>>>, site: Arc<Site>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let (stream, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(e) => {
                // Out of descriptors, say: others may give some back.
                tracing::debug!(error = %e, "accepting a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let access = Arc::clone(&access.lock().unwrap_or_else(PoisonError::into_inner));
        let site = Arc::clone(&site);
        tokio::spawn(async move {
            let _permit = permit;
            let Some(acceptor) = access.tls.clone() else { return converse(stream, access, site).await };
            match tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => converse(stream, access, site).await,
                Ok(Err(e)) => tracing::debug!(error = %e, "a TLS handshake failed"),
                Err(_) => tracing::debug!("a TLS handshake took too long"),
            }
        });
    }
}

async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin, access: Arc<Access>, site: Arc<Site>) {
    let service = service_fn(|request: Request<Incoming>| {
        let response = answer(&request, &access, &site);
        async move { Ok::<_, Infallible>(response) }
    });
    let mut server = hyper::server::conn::http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(16 << 10);
    if let Err(e) = server.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(error = %e, "a connection ended early");
    }
}

type Answer = Response<Full<Bytes>>;

fn answer(request: &Request<Incoming>, access: &Access, site: &Site) -> Answer {
    let path = request.uri().path();
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
    }
    let admitted = access.admit(request.headers());
    match (path, &admitted) {
        ("/healthz" | "/readyz", _) => probe(path, &admitted, site),
        (_, Admitted::Elsewhere) => {
            plain(StatusCode::MISDIRECTED_REQUEST, "ask by address or as localhost, or configure a token\n")
        }
        (_, Admitted::No) => {
            let mut refused = plain(StatusCode::UNAUTHORIZED, "a token is needed\n");
            let how = HeaderValue::from_static("Basic realm=\"crossfade\", charset=\"UTF-8\"");
            refused.headers_mut().insert(header::WWW_AUTHENTICATE, how);
            refused
        }
        ("/metrics", Admitted::Yes) => respond(StatusCode::OK, metrics::CONTENT_TYPE, metrics::text(site)),
        ("/status.json", Admitted::Yes) => match serde_json::to_string(&site.status()) {
            Ok(text) => respond(StatusCode::OK, "application/json", text),
            Err(e) => plain(StatusCode::INTERNAL_SERVER_ERROR, &format!("{e}\n")),
        },
        ("/", Admitted::Yes) => respond(StatusCode::OK, "text/html; charset=utf-8", page::html(site)),
        ("/live.js", Admitted::Yes) => respond(StatusCode::OK, "text/javascript", page::SCRIPT.to_owned()),
        (_, Admitted::Yes) => {
            plain(StatusCode::NOT_FOUND, "there are /, /metrics, /status.json, /healthz and /readyz\n")
        }
    }
}

/// Yes or no; the reason only for those who are admitted.
fn probe(path: &str, admitted: &Admitted, site: &Site) -> Answer {
    let wrong = match path {
        "/healthz" => site.progress.pulse.hanging(HANGS).map(|w| w.to_string()),
        _ => not_ready(&site.progress.picture()),
    };
    match (wrong, admitted) {
        (None, _) => plain(StatusCode::OK, "ok\n"),
        (Some(wrong), Admitted::Yes) => plain(StatusCode::SERVICE_UNAVAILABLE, &format!("{wrong}\n")),
        (Some(_), _) => plain(StatusCode::SERVICE_UNAVAILABLE, "no\n"),
    }
}

/// Why readers of the target are not served well: ready is what streams and is not far behind.
fn not_ready(view: &View) -> Option<String> {
    match &view.state {
        State::Running => {}
        State::Retrying(error) => return Some(format!("trying again: {error}")),
        other => return Some(format!("{} is not running", other.name())),
    }
    if view.phase() != Some(Phase::Streaming) {
        return Some("the initial copy is not complete".into());
    }
    match view.lag_seconds {
        None => Some("the lag is not known yet".into()),
        Some(lag) if lag > LATE => Some(format!("{lag:.0} s behind")),
        Some(_) => None,
    }
}

fn plain(status: StatusCode, text: &str) -> Answer {
    respond(status, "text/plain; charset=utf-8", text.to_owned())
}

fn respond(status: StatusCode, kind: &'static str, text: String) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'; script-src 'self'; connect-src 'self'; base-uri 'none'; \
             form-action 'none'; frame-ancestors 'none'",
        ),
    ];
    for (name, value) in headers {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
