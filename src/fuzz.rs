//! Damaged configurations, URLs and requests of the control socket: accepted or refused with words, never with a panic.

use crossfade_core::endpoint::redact;
use crossfade_core::{Endpoint, Omissions};
use crossfade_fuzz::Fuzz;

use crate::config;
use crate::registry::{self, source_scheme};
use crate::service::Request;

const CONFIGURATION: &str = include_str!("../systemd/example.toml");

#[test]
fn configurations() {
    let small =
        "[source]\nurl = \"mysql://u@h/d\"\n[[target]]\nurl = \"postgres://h/d\"\n[limits]\nmemory = \"64 MiB\"\n";
    let examples = [CONFIGURATION, small].map(|t| t.as_bytes().to_vec());
    // The TOML reader keeps a tree with the place of every key.
    Fuzz::default().iterations(3_000).factor(512).run(&examples, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        config::parse(&text).is_ok() | toml::from_str::<toml::Table>(&text).is_ok()
    });
}

#[test]
fn urls() {
    let examples = [
        "mysql://root:s%40cret@[::1]:3306/shop?tls=required&server_id=7",
        "mariadb://u@h/d?ca=/etc/ca.pem",
        "postgres://u:p@a,b:5433/d?sslmode=verify-full&target_session_attrs=read-write&options=-c%20a%3Db",
        "host=h port=5432 dbname='a b' password=x",
        "sqlite:/var/lib/a.db?mode=ro",
        "file:///var/lake",
        "s3://bucket/path?region=eu-west-1&endpoint=http://localhost:9000",
    ]
    .map(|t| t.as_bytes().to_vec());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // Slow: certificates are loaded for each.
    Fuzz::default().iterations(600).run(&examples, |bytes| {
        let url = String::from_utf8_lossy(bytes).into_owned();
        let endpoint = Endpoint::new(url.clone(), None);
        let _ = (redact(&url), endpoint.to_string());
        // Neither connects before it is used. A folder would be made at once, so none is opened here.
        let source = source_scheme(&url)
            .is_ok_and(|_| registry::source(&endpoint, "p", Omissions::default(), runtime.handle()).is_ok());
        let is_folder = url.starts_with("file:");
        let target = is_folder || registry::target(&endpoint, runtime.handle()).is_ok();
        let to = "file:///tmp/x".to_owned();
        let whole = config::from_urls(None, &url, &[to], &[]).is_ok()
            | config::from_urls(Some("n"), "mysql://h/d", &[url], &["*".to_owned()]).is_ok();
        source | target | whole
    });
}

#[test]
fn requests_of_the_control_socket() {
    let examples =
        [r#"{"do":"status"}"#, r#"{"do":"verify","tables":["shop.*"]}"#, r#"{"do":"snapshot","tables":["a.b","c.d"]}"#]
            .map(|t| t.as_bytes().to_vec());
    Fuzz::default().run(&examples, |line| serde_json::from_slice::<Request>(line).is_ok());
}
