//! `[http]`: where metrics and the status page are served, and to whom.
//!
//! Nothing is served unless `listen` is configured. On an address of this machine alone nothing else is needed; any other needs
//! TLS, and a token or client certificates, because table names, positions and errors are nobody's business.

use std::net::SocketAddr;
use std::path::PathBuf;

use crossfade_core::Secret;
use schemars::JsonSchema;
use serde::Deserialize;

use super::Resolver;

/// Metrics, health and the status page over HTTP.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawHttp {
    /// Address and port, such as `127.0.0.1:9464`. Nothing is served if left out.
    pub listen: Option<String>,
    /// Name of an environment variable that holds the token which a client must show (`Authorization: Bearer …`, or as password).
    pub token_env: Option<String>,
    /// Path of a file that holds the token.
    pub token_file: Option<String>,
    /// Name of a systemd credential (`LoadCredential=`) that holds the token.
    pub token_credential: Option<String>,
    /// Path of the server's certificate chain, PEM. With it only TLS is spoken.
    pub cert: Option<PathBuf>,
    /// Path of its private key, PEM.
    pub key: Option<PathBuf>,
    /// Path of the authorities, PEM, one of which must have signed a client's certificate.
    pub client_ca: Option<PathBuf>,
}

/// What is served, and to whom.
#[derive(Debug, Clone)]
pub struct Http {
    /// Where.
    pub listen: SocketAddr,
    /// What a client must show.
    pub token: Option<Secret>,
    /// Its certificates.
    pub tls: Option<Tls>,
}

/// Files of certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The server's chain.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Who signs clients' certificates.
    pub client_ca: Option<PathBuf>,
}

impl Resolver<'_> {
    pub(super) fn http(&mut self, raw: &RawHttp) -> Option<Http> {
        let token = self.password(
            &["http"],
            [&raw.token_env, &raw.token_file, &raw.token_credential],
            ["token_env", "token_file", "token_credential"],
        );
        let wants_token = raw.token_env.is_some() || raw.token_file.is_some() || raw.token_credential.is_some();
        if wants_token && token.as_ref().is_some_and(|t| t.expose().is_empty()) {
            self.problem(&["http"], "the token is empty".into());
        }
        let tls = match (&raw.cert, &raw.key) {
            (Some(cert), Some(key)) => {
                Some(Tls { cert: cert.clone(), key: key.clone(), client_ca: raw.client_ca.clone() })
            }
            (None, None) => None,
            _ => {
                self.problem(&["http"], "cert and key belong together: give both".into());
                None
            }
        };
        if tls.is_none() && raw.client_ca.is_some() {
            self.problem(&["http", "client_ca"], "client_ca is of no use without cert and key".into());
        }
        let Some(listen) = &raw.listen else {
            if *raw != RawHttp::default() {
                self.problem(&["http"], "listen is missing: listen = \"127.0.0.1:9464\"".into());
            }
            return None;
        };
        let Ok(listen) = listen.parse::<SocketAddr>() else {
            let wrong = format!("{listen:?} is not an address with a port, such as 127.0.0.1:9464 or [::]:9464");
            self.problem(&["http", "listen"], wrong);
            return None;
        };
        if !listen.ip().is_loopback() {
            if raw.cert.is_none() && raw.key.is_none() {
                let wrong =
                    format!("{listen} can be reached from other machines: set cert and key, or listen on 127.0.0.1");
                self.problem(&["http", "listen"], wrong);
            }
            if !wants_token && raw.client_ca.is_none() {
                let wrong = format!(
                    "{listen} can be reached from other machines: set token_file (or token_env, token_credential) or \
                     client_ca, or listen on 127.0.0.1"
                );
                self.problem(&["http", "listen"], wrong);
            }
        }
        Some(Http { listen, token, tls })
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;

    fn with(http: &str) -> Result<super::super::Config, String> {
        let text =
            format!("name = \"a\"\n[source]\nurl = \"sqlite:///a\"\n[[target]]\nurl = \"file:///b\"\n[http]\n{http}\n");
        parse(&text).map_err(|e| e.to_string())
    }

    #[test]
    fn this_machine_needs_nothing_any_other_address_does() {
        let http = with("listen = \"127.0.0.1:9464\"").unwrap().http.unwrap();
        assert!(http.token.is_none() && http.tls.is_none());
        assert!(with("listen = \"[::1]:0\"").is_ok());
        assert!(with("").unwrap().http.is_none(), "off unless configured");
        let e = with("listen = \"0.0.0.0:9464\"").unwrap_err();
        assert!(e.contains("set cert and key, or listen on 127.0.0.1") && e.contains("set token_file"), "{e}");
        let e = with("listen = \"[::]:1\"\ntoken_env = \"PATH\"").unwrap_err();
        assert!(e.contains("set cert and key") && !e.contains("set token_file"), "{e}");
        assert!(with("listen = \"0.0.0.0:1\"\ntoken_env = \"PATH\"\ncert = \"c\"\nkey = \"k\"").is_ok());
        assert!(with("listen = \"0.0.0.0:1\"\nclient_ca = \"a\"\ncert = \"c\"\nkey = \"k\"").is_ok());
    }

    #[test]
    fn halves_are_refused() {
        for (http, word) in [
            ("cert = \"c\"\nlisten = \"127.0.0.1:1\"", "give both"),
            ("client_ca = \"c\"\nlisten = \"127.0.0.1:1\"", "of no use"),
            ("token_env = \"PATH\"", "listen is missing"),
            ("listen = \"9464\"", "is not an address"),
            ("listen = \"localhost:9464\"", "is not an address"),
            ("listen = \"127.0.0.1:1\"\ntoken_env = \"CROSSFADE_NOT_SET\"", "(token_env) is not set"),
            ("listen = \"127.0.0.1:1\"\ntoken_env = \"PATH\"\ntoken_file = \"x\"", "in one place"),
        ] {
            let e = with(http).unwrap_err();
            assert!(e.contains(word), "{http}: {e}");
        }
    }
}
