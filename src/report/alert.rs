//! A webhook that is told when the verdict changes.
//!
//! Each report compares its verdict with the one that was told last, which the ledger remembers; where they differ the receiver gets
//! `{"pipeline", "verdict", "before", "at", "text", "findings"}` by POST, and what was told is remembered only when it has answered 2xx.
//! So a receiver that is down is told by the next report, and a change is told once.

use std::time::Duration;

use crossfade_core::{Error, Result};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use reqwest::{Certificate, Client, redirect};
use serde_json::json;

use super::{Report, first_line};
use crate::config::WebhookConfig;
use crate::ledger::{Event, Ledger};

/// How long the receiver may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Tells a change of the verdict, if there is one. True: it was told.
pub fn tell(
    config: &WebhookConfig,
    report: &Report,
    ledger: &mut Ledger,
    runtime: &tokio::runtime::Handle,
) -> Result<bool> {
    let before = match ledger.last_of("alert")?.map(|e| e.event) {
        Some(Event::Alert { verdict }) => Some(verdict),
        _ => None,
    };
    let verdict = report.verdict.word().to_lowercase();
    if before.as_ref() == Some(&verdict) {
        return Ok(false);
    }
    let at = jiff::Timestamp::from_microsecond(report.made_micros).map_or_else(|_| String::new(), |t| t.to_string());
    let body = json!({
        "pipeline": report.pipeline,
        "verdict": verdict,
        "before": before,
        "at": at,
        "text": first_line(report).split(" | ").next(),
        "findings": report.findings,
    });
    runtime.block_on(post(config, body.to_string()))?;
    ledger.append(&[(crate::now_micros(), Event::Alert { verdict })])?;
    Ok(true)
}

async fn post(config: &WebhookConfig, body: String) -> Result<()> {
    let client = client(config)?;
    let mut request = client.post(config.url.clone()).header(CONTENT_TYPE, "application/json").body(body);
    if let Some(token) = &config.token {
        request = request.header(AUTHORIZATION, format!("Bearer {}", token.expose()));
    }
    // The URL's path may be a secret of its own, so errors name its host alone.
    let host = config.url.host_str().unwrap_or_default().to_owned();
    let failed = |what: String| {
        Error::transient(format!("the webhook at {host} was not told: {what}")).hint("the next report tries again")
    };
    let answer = request.send().await.map_err(|e| failed("no answer".into()).caused_by(e.without_url()))?;
    match answer.status() {
        status if status.is_success() => Ok(()),
        status => Err(failed(format!("it answered {status}"))),
    }
}

fn client(config: &WebhookConfig) -> Result<Client> {
    let wrong = |e: reqwest::Error| Error::config("ca_file of [webhook] cannot be used").caused_by(e);
    let mut builder = Client::builder().timeout(PATIENCE).redirect(redirect::Policy::none()).https_only(true);
    if let Some(path) = &config.ca_file {
        let pem = std::fs::read(path)
            .map_err(|e| Error::config(format!("cannot read ca_file {} of [webhook]", path.display())).caused_by(e))?;
        builder = builder.tls_built_in_root_certs(false);
        for certificate in Certificate::from_pem_bundle(&pem).map_err(wrong)? {
            builder = builder.add_root_certificate(certificate);
        }
    }
    builder.build().map_err(|e| Error::config("the webhook cannot be used").caused_by(e))
}
