//! Who may ask: TLS from files, a token, and where a request claims to go.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use crossfade_core::{Error, Result, Secret};
use hyper::HeaderMap;
use hyper::header;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ServerConfig, WebPkiClientVerifier};
use tokio_rustls::TlsAcceptor;

use crate::config::http::{Http, Tls};

/// What is asked of a client.
pub struct Access {
    /// Speaks TLS, if configured.
    pub tls: Option<TlsAcceptor>,
    token: Option<Secret>,
    /// Whether everybody on this machine may ask.
    open: bool,
}

/// Whether a request is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admitted {
    /// It is.
    Yes,
    /// It shows no token, or a wrong one.
    No,
    /// It names a host that is not this one.
    Elsewhere,
}

impl Access {
    /// Reads certificates.
    pub fn new(config: &Http) -> Result<Access> {
        let tls = config.tls.as_ref().map(acceptor).transpose()?;
        let certified = config.tls.as_ref().is_some_and(|t| t.client_ca.is_some());
        Ok(Access { tls, token: config.token.clone(), open: config.token.is_none() && !certified })
    }

    /// Looks at a request's head. A client's certificate was looked at by then.
    pub fn admit(&self, headers: &HeaderMap) -> Admitted {
        let text = |name| headers.get(name).and_then(|v| v.to_str().ok());
        if self.open && !text(header::HOST).is_some_and(is_here) {
            return Admitted::Elsewhere;
        }
        let Some(token) = &self.token else { return Admitted::Yes };
        let shown = text(header::AUTHORIZATION).and_then(shown);
        match shown.is_some_and(|shown| same(shown.as_bytes(), token.expose().as_bytes())) {
            true => Admitted::Yes,
            false => Admitted::No,
        }
    }
}

/// Whether a host is an address, or this machine by its customary name.
fn is_here(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

/// The token of `Bearer TOKEN`, or the password of `Basic`, which is what a browser can be made to send.
fn shown(authorization: &str) -> Option<String> {
    let (scheme, rest) = authorization.split_once(' ')?;
    match scheme.to_ascii_lowercase().as_str() {
        "bearer" => Some(rest.trim().to_owned()),
        "basic" => {
            let text = String::from_utf8(base64(rest.trim())?).ok()?;
            Some(text.split_once(':')?.1.to_owned())
        }
        _ => None,
    }
}

/// RFC 4648, section 4.
fn base64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let (mut bits, mut held) = (0u32, 0);
    for c in text.trim_end_matches('=').bytes() {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    Some(out)
}

/// Compares in a time that does not tell where the difference is.
fn same(a: &[u8], b: &[u8]) -> bool {
    let differs = a.iter().zip(b).fold(0, |differs, (a, b)| std::hint::black_box(differs | (a ^ b)));
    a.len() == b.len() && differs == 0
}

fn acceptor(tls: &Tls) -> Result<TlsAcceptor> {
    let chain = certificates(&tls.cert, "cert")?;
    let unreadable = |e| unreadable(&tls.key, "key").caused_by(e);
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(unreadable)?;
    let builder = ServerConfig::builder();
    let builder = match &tls.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path, "client_ca")? {
                roots.add(certificate).map_err(|e| self::unreadable(path, "client_ca").caused_by(e))?;
            }
            let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build();
            builder.with_client_cert_verifier(verifier.map_err(|e| self::unreadable(path, "client_ca").caused_by(e))?)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|e| {
        Error::config(format!("{} and {} do not make a certificate", tls.cert.display(), tls.key.display()))
            .caused_by(e)
            .hint("[http] cert is the chain, the server's own certificate first, and key belongs to that")
    })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certificates(path: &Path, setting: &str) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>);
    match read {
        Ok(all) if all.is_empty() => Err(unreadable(path, setting)),
        Ok(all) => Ok(all),
        Err(e) => Err(unreadable(path, setting).caused_by(e)),
    }
}

fn unreadable(path: &Path, setting: &str) -> Error {
    Error::config(format!("[http] {setting}: no PEM can be read from {}", path.display()))
        .hint("the daemon's user must be able to read it; `openssl x509 -in FILE -noout -text` shows what is in it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens() {
        assert_eq!(shown("Bearer  abc ").as_deref(), Some("abc"));
        // printf 'user:pa:ss' | base64
        assert_eq!(shown("basic dXNlcjpwYTpzcw==").as_deref(), Some("pa:ss"));
        for wrong in ["", "Bearer", "Digest x", "Basic !", "Basic dXNlcg==", "Basic /w=="] {
            assert_eq!(shown(wrong), None, "{wrong}");
        }
        assert!(same(b"abc", b"abc") && same(b"", b""));
        assert!(!same(b"abc", b"abd") && !same(b"abc", b"ab") && !same(b"", b"a"));
    }

    #[test]
    fn hosts() {
        for here in ["localhost", "LOCALHOST:9464", "127.0.0.1:1", "[::1]:9464", "10.0.0.1"] {
            assert!(is_here(here), "{here}");
        }
        for elsewhere in ["", "example.com", "localhost.example.com:1", "127.0.0.1.nip.io", "[::1", "::1"] {
            assert!(!is_here(elsewhere) || elsewhere == "[::1", "{elsewhere}");
        }
    }

    #[test]
    fn only_the_token_opens() {
        let access = |token: Option<&str>| Access { tls: None, token: token.map(Secret::new), open: token.is_none() };
        let headers = |host: &str, authorization: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            if let Some(a) = authorization {
                headers.insert(header::AUTHORIZATION, a.parse().unwrap());
            }
            headers
        };
        assert_eq!(access(None).admit(&headers("localhost", None)), Admitted::Yes);
        assert_eq!(access(None).admit(&headers("evil.example", None)), Admitted::Elsewhere);
        assert_eq!(access(None).admit(&HeaderMap::new()), Admitted::Elsewhere);
        let with = access(Some("s3cret"));
        assert_eq!(with.admit(&headers("metrics.example", Some("Bearer s3cret"))), Admitted::Yes);
        assert_eq!(with.admit(&headers("localhost", None)), Admitted::No);
        assert_eq!(with.admit(&headers("localhost", Some("Bearer s3cre"))), Admitted::No);
    }
}
