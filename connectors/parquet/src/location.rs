//! From a URL to a store: `file:///abs/dir`, `file:rel/dir`, `s3://bucket/prefix?option=value`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crossfade_core::{Endpoint, Error, Result};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::client::ClientConfigKey;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{BackoffConfig, RetryConfig};
use tokio::runtime::Handle;
use url::Url;

use crate::store::Store;

/// Requests are repeated for so long before they fail.
const RETRY_FOR: Duration = Duration::from_secs(60);

/// Options of an `s3:` URL. The usual `AWS_*` variables of the environment stand behind them.
const OPTIONS: [(&str, AmazonS3ConfigKey); 13] = [
    ("region", AmazonS3ConfigKey::Region),
    ("endpoint", AmazonS3ConfigKey::Endpoint),
    ("access_key_id", AmazonS3ConfigKey::AccessKeyId),
    ("secret_access_key", AmazonS3ConfigKey::SecretAccessKey),
    ("token", AmazonS3ConfigKey::Token),
    ("allow_http", AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp)),
    ("allow_invalid_certificates", AmazonS3ConfigKey::Client(ClientConfigKey::AllowInvalidCertificates)),
    ("connect_timeout", AmazonS3ConfigKey::Client(ClientConfigKey::ConnectTimeout)),
    ("timeout", AmazonS3ConfigKey::Client(ClientConfigKey::Timeout)),
    ("proxy_url", AmazonS3ConfigKey::Client(ClientConfigKey::ProxyUrl)),
    ("virtual_hosted_style_request", AmazonS3ConfigKey::VirtualHostedStyleRequest),
    ("unsigned_payload", AmazonS3ConfigKey::UnsignedPayload),
    ("request_payer", AmazonS3ConfigKey::RequestPayer),
];

/// The store that an endpoint names. Connects to nothing.
pub(crate) fn store(endpoint: &Endpoint, runtime: Handle) -> Result<Store> {
    match endpoint.scheme() {
        "file" => file(endpoint, runtime),
        "s3" => s3(endpoint, runtime),
        other => Err(Error::config(format!("{endpoint}: no object store is known by {other}:"))
            .hint("file:///folder, file:folder or s3://bucket/prefix")),
    }
}

fn file(endpoint: &Endpoint, runtime: Handle) -> Result<Store> {
    let bad = || {
        Error::config(format!("{endpoint} names no folder"))
            .hint("file:///folder for an absolute path, file:folder for one from the working directory")
    };
    let rest = endpoint.url().strip_prefix("file:").ok_or_else(bad)?;
    let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
    if let Some(option) = query.and_then(|q| q.split(['=', '&']).next()).filter(|o| !o.is_empty()) {
        return Err(Error::config(format!("{endpoint}: file: has no option {option}")).hint("remove it"));
    }
    let (path, absolute) = match path.strip_prefix("//") {
        Some(path) => (path.strip_prefix("localhost").unwrap_or(path), true),
        None => (path, path.starts_with('/')),
    };
    if path.is_empty() || absolute && !path.starts_with('/') {
        return Err(bad());
    }
    // Through a URL, which undoes percent encoding.
    let url = Url::parse(&format!("file:///{}", path.trim_start_matches('/'))).map_err(|e| bad().caused_by(e))?;
    let mut folder: PathBuf = url.to_file_path().map_err(|()| bad())?;
    if !absolute {
        let relative = folder.strip_prefix("/").map_err(|e| bad().caused_by(e))?.to_path_buf();
        folder = std::env::current_dir().map_err(|e| bad().caused_by(e))?.join(relative);
    }
    let root = Path::from_absolute_path(&folder).map_err(|e| bad().caused_by(e))?;
    Ok(Store::new(Arc::new(LocalFileSystem::new()), runtime, root, Some(folder)))
}

fn s3(endpoint: &Endpoint, runtime: Handle) -> Result<Store> {
    let wrong = |what: String| Error::config(format!("{endpoint}: {what}"));
    let url = Url::parse(endpoint.url())
        .map_err(|e| wrong("not a URL".into()).caused_by(e).hint("s3://bucket/prefix?region=eu-central-1"))?;
    let bucket = url.host_str().filter(|b| !b.is_empty());
    let bucket = bucket.ok_or_else(|| wrong("no bucket".into()).hint("s3://bucket/prefix"))?;
    if !url.username().is_empty() || url.password().is_some() || url.port().is_some() {
        return Err(wrong("user, password and port have no place here".into())
            .hint("s3://bucket/prefix?endpoint=...&access_key_id=... and the secret from the environment"));
    }
    let retry = RetryConfig { retry_timeout: RETRY_FOR, max_retries: 8, backoff: BackoffConfig::default() };
    let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(retry);
    for (name, value) in url.query_pairs() {
        match OPTIONS.iter().find(|(option, _)| *option == name) {
            Some((_, key)) => builder = builder.with_config(*key, value),
            None => {
                return Err(
                    wrong(format!("unknown option {name}")).hint(format!("the nearest option is {}", nearest(&name)))
                );
            }
        }
    }
    if let Some(secret) = &endpoint.password {
        builder = builder.with_secret_access_key(secret.expose());
    }
    let root = Path::from_url_path(url.path()).map_err(|e| wrong("not a prefix".into()).caused_by(e))?;
    let store = builder.build().map_err(|e| wrong("not a store".into()).caused_by(e))?;
    Ok(Store::new(Arc::new(store), runtime, root, None))
}

/// The option whose name is the fewest edits away.
fn nearest(name: &str) -> &'static str {
    let distance = |option: &str| -> usize {
        let mut row: Vec<usize> = (0..=option.len()).collect();
        for (i, a) in name.bytes().enumerate() {
            let mut diagonal = row[0];
            row[0] = i + 1;
            for (j, b) in option.bytes().enumerate() {
                let replaced = diagonal + usize::from(a != b);
                diagonal = row[j + 1];
                row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
            }
        }
        row[option.len()]
    };
    OPTIONS.iter().map(|(option, _)| *option).min_by_key(|option| distance(option)).unwrap_or("region")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(url: &str) -> Result<Store> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        store(&Endpoint::new(url, None), runtime.handle().clone())
    }

    #[test]
    fn folders() {
        let here = std::env::current_dir().unwrap();
        for (url, folder) in [
            ("file:///var/lake", PathBuf::from("/var/lake")),
            ("file:/var/lake", PathBuf::from("/var/lake")),
            ("file://localhost/var/lake/", PathBuf::from("/var/lake")),
            ("file:///var/my%20lake", PathBuf::from("/var/my lake")),
            ("file:lake/raw", here.join("lake/raw")),
            ("file:./lake", here.join("lake")),
        ] {
            let store = open(url).unwrap();
            assert_eq!(store.local().unwrap(), folder, "{url}");
            let path = store.path(["a b", "c/d"]);
            assert_eq!(store.file(&path).unwrap(), folder.join("a b").join("c%2Fd"), "{url}");
        }
        for url in ["file:", "file://", "file://host/x", "gs://b/x", "file:///x?region=y", "s3:///x", "s3://b:9000/x"] {
            let e = open(url).unwrap_err();
            assert!(e.hint_text().is_some(), "{e:?}");
        }
    }

    #[test]
    fn unknown_options_name_the_nearest() {
        let e = open("s3://b/x?regio=eu").unwrap_err();
        assert_eq!(e.hint_text(), Some("the nearest option is region"));
        let e = open("s3://b/x?secret_key=abc").unwrap_err();
        assert!(e.hint_text().unwrap().contains("secret_access_key"), "{e:?}");
        assert!(open("s3://b/x?region=eu&endpoint=http://127.0.0.1:1&allow_http=true").is_ok());
    }
}
