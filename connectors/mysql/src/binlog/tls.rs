//! The TLS configuration of the connection that reads the log: the same rules as [`crate::connect`] gives its driver.

use std::sync::Arc;

use crossfade_core::{Error, Result};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::url::{Options, SslMode};

/// What a URL's `ssl-` options ask for.
pub fn config(options: &Options) -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let failed = |what: &str, e: &dyn std::fmt::Display| Error::config(format!("{what}: {e}"));
    let mut roots = RootCertStore::empty();
    match &options.ssl_ca {
        Some(path) => {
            let place = path.display().to_string();
            for cert in CertificateDer::pem_file_iter(path).map_err(|e| failed(&place, &e))? {
                roots.add(cert.map_err(|e| failed(&place, &e))?).map_err(|e| failed(&place, &e))?;
            }
        }
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
    }
    let check = match options.ssl_mode {
        SslMode::VerifyIdentity => Check::Identity,
        SslMode::VerifyCa => Check::Authority,
        SslMode::Disabled | SslMode::Preferred | SslMode::Required => Check::Nothing,
    };
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .map_err(|e| failed("ssl-ca", &e))?;
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| failed("TLS", &e))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier { check, inner, provider }));
    match options.ssl_cert.as_ref().zip(options.ssl_key.as_ref()) {
        Some((cert, key)) => {
            let chain: Result<Vec<_>, _> =
                CertificateDer::pem_file_iter(cert).map_err(|e| failed("ssl-cert", &e))?.collect();
            let key = PrivateKeyDer::from_pem_file(key).map_err(|e| failed("ssl-key", &e))?;
            let chain = chain.map_err(|e| failed("ssl-cert", &e))?;
            builder.with_client_auth_cert(chain, key).map_err(|e| failed("ssl-cert and ssl-key", &e))
        }
        None => Ok(builder.with_no_client_auth()),
    }
}

/// What of a certificate is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    /// Encryption only.
    Nothing,
    /// Who signed it.
    Authority,
    /// Who signed it, and for which name.
    Identity,
}

#[derive(Debug)]
struct Verifier {
    check: Check,
    inner: Arc<WebPkiServerVerifier>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.check == Check::Nothing {
            return Ok(ServerCertVerified::assertion());
        }
        match self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is looked at last, so everything else was in order.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.check == Check::Authority => Ok(ServerCertVerified::assertion()),
            result => result,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
