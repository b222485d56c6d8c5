//! Reports by mail.
//!
//! A message goes to the spool first, a folder beside the ledger, and is taken out when the server has accepted it: so none is lost when
//! the server is down, and the next report sends what waits, in order. Where a message was accepted and this process ended before
//! it was taken out, it is sent again under the same Message-ID, by which mail programs know it.
//!
//! A message that the server refuses for good (5xx) is put aside, so that it does not hold up the ones behind it; a server that refuses
//! *us* (login, TLS) is another matter: everything waits.

use std::fs;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crossfade_core::{Error, Result};
use lettre::address::Envelope;
use lettre::message::MultiPart;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, CertificateStore, Tls, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::{Address, Message, SmtpTransport, Transport};
use serde::{Deserialize, Serialize};

use super::{Report, html, text};
use crate::config::MailConfig;
use crate::config::reporting::MailTls;

/// How long the server may take for an answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// The waits between attempts to reach the server.
const WAITS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(4)];
/// Messages that wait at most: six weeks of hourly ones.
const WAITING: usize = 1_000;

/// A message that waits.
#[derive(Debug, Serialize, Deserialize)]
struct Waiting {
    from: String,
    to: Vec<String>,
    /// As it goes over the wire: 7-bit text.
    message: String,
}

/// What became of the messages.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Accepted.
    pub sent: usize,
    /// Left for the next report, and why.
    pub waiting: usize,
    /// Why they wait.
    pub error: Option<String>,
    /// Refused for good, and put aside.
    pub refused: Vec<String>,
}

/// The folder in which a pipeline's messages wait.
pub fn spool(state: &Path, pipeline: &str) -> PathBuf {
    state.join(format!("{pipeline}.spool"))
}

/// Puts a report into the spool, if there is one to send, and sends what is there.
pub fn send(config: &MailConfig, report: Option<&Report>, spool: &Path) -> Result<Sent> {
    let wrong = |what: &str, e: std::io::Error| {
        Error::transient(format!("cannot {what} {}", spool.display())).caused_by(e).hint("make room, or give rights")
    };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(spool).map_err(|e| wrong("make", e))?;
    let before = waiting(spool).map_err(|e| wrong("read", e))?.len();
    let Some(report) = report else {
        return if before == 0 { Ok(Sent::default()) } else { empty(config, spool).map_err(|e| wrong("empty", e))? };
    };
    if before >= WAITING {
        let hint = "the mail server has not accepted any for long: look at [mail], then remove what is not wanted";
        return Err(Error::unavailable(format!("{WAITING} messages wait in {}", spool.display())).hint(hint));
    }
    let message = message(config, report)?;
    let stem = format!("{:020}-{}", report.made_micros, std::process::id());
    store(spool, &stem, &message).map_err(|e| wrong("write to", e))?;
    empty(config, spool).map_err(|e| wrong("empty", e))?
}

fn message(config: &MailConfig, report: &Report) -> Result<Waiting> {
    let wrong = |e: lettre::error::Error| Error::corrupt("the report is no message").caused_by(e);
    let subject = format!("Crossfade {}: {}: {}", report.verdict.word(), report.pipeline, super::text::summary(report));
    let id =
        format!("<crossfade.{}.{}.{}@{}>", report.pipeline, report.made_micros, std::process::id(), crate::host_name());
    let mut builder = Message::builder().from(config.from.clone()).subject(subject).date_now().message_id(Some(id));
    for to in &config.to {
        builder = builder.to(to.clone());
    }
    // Programs that answer mail by themselves leave this one alone (RFC 3834).
    builder = builder.header(AutoSubmitted);
    let message = builder.multipart(MultiPart::alternative_plain_html(text(report), html(report)?)).map_err(wrong)?;
    let text =
        String::from_utf8(message.formatted()).map_err(|e| Error::corrupt("a message that is no text").caused_by(e))?;
    let to = config.to.iter().map(|m| m.email.to_string()).collect();
    Ok(Waiting { from: config.from.email.to_string(), to, message: text })
}

/// Whole or not there.
fn store(spool: &Path, stem: &str, message: &Waiting) -> std::io::Result<()> {
    let (new, path) = (spool.join(format!("{stem}.new")), spool.join(format!("{stem}.json")));
    let mut file = fs::File::create(&new)?;
    file.write_all(serde_json::to_string(message)?.as_bytes())?;
    file.sync_all()?;
    fs::rename(new, path)?;
    fs::File::open(spool)?.sync_all()
}

/// Messages that wait, oldest first.
fn waiting(spool: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(spool)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "json") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn empty(config: &MailConfig, spool: &Path) -> std::io::Result<Result<Sent>> {
    let mut left = waiting(spool)?;
    let mut sent = Sent::default();
    let transport = match transport(config) {
        Ok(transport) => transport,
        Err(e) => return Ok(Err(e)),
    };
    if let Err(error) = reach(&transport) {
        (sent.waiting, sent.error) = (left.len(), Some(error));
        return Ok(Ok(sent));
    }
    left.reverse();
    while let Some(path) = left.pop() {
        let aside = path.with_extension("refused");
        let text = fs::read_to_string(&path)?;
        let answer = match serde_json::from_str::<Waiting>(&text) {
            Ok(message) => deliver(&transport, &message),
            Err(e) => Err((true, format!("it is damaged: {e}"))),
        };
        match answer {
            Ok(()) => {
                fs::remove_file(&path)?;
                sent.sent += 1;
            }
            Err((true, why)) => {
                fs::rename(&path, &aside)?;
                sent.refused.push(format!("{}: {why}", aside.display()));
            }
            Err((false, why)) => {
                (sent.waiting, sent.error) = (left.len() + 1, Some(why));
                break;
            }
        }
    }
    Ok(Ok(sent))
}

/// Connects and logs in, three times at most.
fn reach(transport: &SmtpTransport) -> std::result::Result<(), String> {
    let mut waits = WAITS.iter();
    loop {
        let wrong = match transport.test_connection() {
            Ok(true) => return Ok(()),
            Ok(false) => "it does not answer".to_owned(),
            Err(e) if e.is_permanent() => return Err(said(&e)),
            Err(e) => said(&e),
        };
        match waits.next() {
            Some(wait) => std::thread::sleep(*wait),
            None => return Err(wrong),
        }
    }
}

/// On an error: whether it is for good, and what was said.
fn deliver(transport: &SmtpTransport, message: &Waiting) -> std::result::Result<(), (bool, String)> {
    let address = |text: &String| text.parse::<Address>().map_err(|e| (true, format!("{text}: {e}")));
    let to = message.to.iter().map(address).collect::<std::result::Result<Vec<_>, _>>()?;
    let envelope = Envelope::new(Some(address(&message.from)?), to).map_err(|e| (true, e.to_string()))?;
    match transport.send_raw(&envelope, message.message.as_bytes()) {
        Ok(answer) if answer.is_positive() => Ok(()),
        Ok(answer) => Err((false, answer.message().collect::<Vec<_>>().join(" "))),
        Err(e) => Err((e.is_permanent(), said(&e))),
    }
}

/// An error with what caused it.
fn said(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut cause = e.source();
    while let Some(c) = cause {
        let c_text = c.to_string();
        if !text.contains(&c_text) {
            text = format!("{text}: {c_text}");
        }
        cause = c.source();
    }
    text
}

fn transport(config: &MailConfig) -> Result<SmtpTransport> {
    let tls = match config.tls {
        MailTls::None => Tls::None,
        MailTls::Implicit => Tls::Wrapper(parameters(config)?),
        MailTls::StartTls => Tls::Required(parameters(config)?),
    };
    let mut builder = SmtpTransport::builder_dangerous(&config.host)
        .port(config.port)
        .tls(tls)
        .timeout(Some(PATIENCE))
        .hello_name(ClientId::Domain(crate::host_name()));
    if let Some((user, password)) = &config.login {
        builder = builder.credentials(Credentials::new(user.clone(), password.expose().to_owned()));
    }
    Ok(builder.build())
}

fn parameters(config: &MailConfig) -> Result<TlsParameters> {
    let wrong = |e: lettre::transport::smtp::Error| Error::config("ca_file of [mail] cannot be used").caused_by(e);
    let mut builder = TlsParameters::builder(config.host.clone());
    if let Some(path) = &config.ca_file {
        let pem = fs::read(path)
            .map_err(|e| Error::config(format!("cannot read ca_file {} of [mail]", path.display())).caused_by(e))?;
        let certificate = Certificate::from_pem(&pem).map_err(wrong)?;
        builder = builder.certificate_store(CertificateStore::None).add_root_certificate(certificate);
    }
    builder.build().map_err(wrong)
}

/// `Auto-Submitted: auto-generated`.
#[derive(Debug, Clone, Copy)]
struct AutoSubmitted;

impl lettre::message::header::Header for AutoSubmitted {
    fn name() -> lettre::message::header::HeaderName {
        lettre::message::header::HeaderName::new_from_ascii_str("Auto-Submitted")
    }

    fn parse(_: &str) -> std::result::Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(AutoSubmitted)
    }

    fn display(&self) -> lettre::message::header::HeaderValue {
        lettre::message::header::HeaderValue::new(Self::name(), "auto-generated".to_owned())
    }
}
