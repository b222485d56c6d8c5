//! What a `mysql://` or `mariadb://` URL says, completed from the endpoint, the environment and `~/.my.cnf`.
//!
//! ```text
//! mysql://user:password@host:port/database?ssl-mode=VERIFY_IDENTITY&ssl-ca=/etc/ca.pem
//! mysql://user@/database?socket=/run/mysqld/mysqld.sock
//! ```
//!
//! Every part may be percent-encoded. The password comes from the first of: the endpoint, the URL, `MYSQL_PWD`,
//! `~/.my.cnf` (`[client]`), the order in which the server's own clients look, after what was said explicitly. An
//! option nobody knows is an error: a mistyped `ssl-mode` must not silently mean "no TLS".

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crossfade_core::{Endpoint, Error, Result, Secret};
use url::Url;

/// How far TLS is demanded, as MySQL's `--ssl-mode` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslMode {
    /// Never.
    Disabled,
    /// If the server offers it; the certificate is not looked at.
    Preferred,
    /// Always; the certificate is not looked at.
    Required,
    /// Always, and an authority in `ssl-ca` (or a public one) has signed the certificate.
    VerifyCa,
    /// As `VerifyCa`, and the certificate names the host.
    VerifyIdentity,
}

/// Where a server is and how to log in.
#[derive(Debug, Clone)]
pub struct Options {
    /// Host name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Unix socket; it wins over host and port.
    pub socket: Option<String>,
    /// User.
    pub user: String,
    /// Password; `None` logs in without.
    pub password: Option<Secret>,
    /// The database of the URL's path.
    pub database: Option<String>,
    /// How far TLS is demanded.
    pub ssl_mode: SslMode,
    /// Authorities that may sign the server's certificate, PEM.
    pub ssl_ca: Option<PathBuf>,
    /// The client's own certificate, PEM.
    pub ssl_cert: Option<PathBuf>,
    /// Its key, PEM.
    pub ssl_key: Option<PathBuf>,
    /// Longest time until a connection stands.
    pub connect_timeout: Duration,
}

impl Options {
    /// Reads an endpoint's URL, the environment and `~/.my.cnf`.
    pub fn parse(endpoint: &Endpoint) -> Result<Self> {
        let environment = |name: &str| std::env::var(name).ok();
        let file = environment("HOME").map(|home| PathBuf::from(home).join(".my.cnf"));
        let client = match file.map(std::fs::read_to_string) {
            Some(Ok(text)) => client_section(&text),
            // Most machines have none; one that cannot be read is as if it were not there, as for the server's clients.
            Some(Err(_)) | None => BTreeMap::new(),
        };
        Self::from_parts(endpoint, &environment, &client)
    }

    fn from_parts(
        endpoint: &Endpoint,
        environment: &dyn Fn(&str) -> Option<String>,
        client: &BTreeMap<String, String>,
    ) -> Result<Self> {
        let (text, no_host) = with_host(endpoint.url());
        let url = Url::parse(&text).map_err(|e| {
            Error::config(format!("{endpoint} is not a URL: {e}"))
                .hint("write mysql://user@host:3306/database; percent-encode special characters of the password")
        })?;
        if !matches!(url.scheme(), "mysql" | "mariadb") {
            return Err(Error::config(format!("{endpoint}: scheme {} is neither mysql nor mariadb", url.scheme())));
        }
        let from_file = |name: &str| client.get(name).cloned();
        let mut query = Query::new(&url)?;
        let host = url
            .host_str()
            .filter(|h| !h.is_empty() && !no_host)
            .map(|h| decode(h.trim_matches(['[', ']'])))
            .transpose()?;
        let socket = query.text(&["socket", "unix_socket"])?;
        let socket = if host.is_none() { socket.or_else(|| from_file("socket")) } else { socket };
        let port = match (url.port(), from_file("port")) {
            (Some(port), _) => port,
            (None, Some(text)) if host.is_none() => {
                text.parse().map_err(|_| Error::config(format!("port {text} in ~/.my.cnf is not a port")))?
            }
            (None, _) => 3306,
        };
        let user = Some(decode(url.username())?).filter(|u| !u.is_empty());
        let user = user.or_else(|| from_file("user")).or_else(|| environment("USER")).ok_or_else(|| {
            Error::config(format!("{endpoint} names no user")).hint("write mysql://user@host/database")
        })?;
        let in_url = url.password().map(decode).transpose()?;
        let password = endpoint
            .password
            .clone()
            .or_else(|| in_url.map(Secret::new))
            .or_else(|| environment("MYSQL_PWD").map(Secret::new))
            .or_else(|| from_file("password").map(Secret::new));
        let ssl_ca = query.text(&["ssl-ca"])?.map(PathBuf::from);
        let default_mode = if ssl_ca.is_some() { SslMode::VerifyCa } else { SslMode::Preferred };
        let options = Options {
            host: host.or_else(|| from_file("host")).unwrap_or_else(|| "localhost".into()),
            port,
            socket,
            user,
            password,
            database: database(&url)?,
            ssl_mode: query.text(&["ssl-mode", "sslmode"])?.map_or(Ok(default_mode), |m| ssl_mode(&m))?,
            ssl_ca,
            ssl_cert: query.text(&["ssl-cert"])?.map(PathBuf::from),
            ssl_key: query.text(&["ssl-key"])?.map(PathBuf::from),
            connect_timeout: query.seconds(&["connect_timeout"])?.unwrap_or(Duration::from_secs(10)),
        };
        query.finish()?;
        if options.ssl_cert.is_some() != options.ssl_key.is_some() {
            return Err(Error::config("ssl-cert and ssl-key must be given together"));
        }
        Ok(options)
    }

    /// Where this leads, for messages: `db.example:3306` or the socket's path.
    pub fn place(&self) -> String {
        match &self.socket {
            Some(path) => path.clone(),
            None if self.host.contains(':') => format!("[{}]:{}", self.host, self.port),
            None => format!("{}:{}", self.host, self.port),
        }
    }

    /// Whether packets stay on this machine: nobody in between can read or change them.
    pub fn is_local(&self) -> bool {
        self.socket.is_some()
            || self.host == "localhost"
            || self.host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

/// Names a host where a URL with a user names none (`mysql://user@/database`, for a socket), which a URL may not; whether
/// that was so.
fn with_host(url: &str) -> (String, bool) {
    let start = url.find("://").map_or(0, |at| at + 3);
    let end = url[start..].find(['/', '?']).map_or(url.len(), |at| start + at);
    if url[start..end].ends_with('@') {
        return (format!("{}localhost{}", &url[..end], &url[end..]), true);
    }
    (url.to_owned(), false)
}

fn database(url: &Url) -> Result<Option<String>> {
    let path = decode(url.path().trim_start_matches('/'))?;
    Ok(Some(path).filter(|p| !p.is_empty()))
}

fn ssl_mode(text: &str) -> Result<SslMode> {
    Ok(match text.to_ascii_uppercase().replace('-', "_").as_str() {
        "DISABLED" | "DISABLE" => SslMode::Disabled,
        "PREFERRED" | "PREFER" => SslMode::Preferred,
        "REQUIRED" | "REQUIRE" => SslMode::Required,
        "VERIFY_CA" => SslMode::VerifyCa,
        "VERIFY_IDENTITY" => SslMode::VerifyIdentity,
        _ => {
            return Err(Error::config(format!("ssl-mode {text} is unknown"))
                .hint("it is one of DISABLED, PREFERRED, REQUIRED, VERIFY_CA, VERIFY_IDENTITY"));
        }
    })
}

/// Percent-decodes one part of a URL.
fn decode(text: &str) -> Result<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|h| std::str::from_utf8(h).ok()).and_then(|h| u8::from_str_radix(h, 16).ok());
        match (byte, hex) {
            (b'%', Some(value)) => {
                out.push(value);
                rest = &tail[2..];
            }
            _ => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8(out).map_err(|_| Error::config("the URL's percent-encoding is not UTF-8"))
}

/// All options that a URL may carry.
const KNOWN: [&str; 8] =
    ["socket", "unix_socket", "ssl-mode", "sslmode", "ssl-ca", "ssl-cert", "ssl-key", "connect_timeout"];

/// The URL's options, taken out one by one; `-` and `_` are the same.
struct Query(BTreeMap<String, String>);

impl Query {
    fn new(url: &Url) -> Result<Self> {
        let mut options = BTreeMap::new();
        for (name, value) in url.query_pairs() {
            if options.insert(normal(&name), value.into_owned()).is_some() {
                return Err(Error::config(format!("option {name} stands twice in the URL")));
            }
        }
        Ok(Query(options))
    }

    fn text(&mut self, names: &[&str]) -> Result<Option<String>> {
        let mut found = None;
        for name in names {
            if let Some(value) = self.0.remove(&normal(name)) {
                if found.is_some() {
                    return Err(Error::config(format!("the options {} mean the same: give one", names.join(" and "))));
                }
                found = Some(value);
            }
        }
        Ok(found)
    }

    fn seconds(&mut self, names: &[&str]) -> Result<Option<Duration>> {
        let parse = |text: String| {
            let seconds: Option<u64> = text.parse().ok().filter(|s| (1..=3600).contains(s));
            seconds
                .map(Duration::from_secs)
                .ok_or_else(|| Error::config(format!("{} is {text}, not 1 to 3600 seconds", names[0])))
        };
        self.text(names)?.map(parse).transpose()
    }

    fn finish(self) -> Result<()> {
        let Some(unknown) = self.0.into_keys().next() else { return Ok(()) };
        let nearest = KNOWN.iter().min_by_key(|known| distance(&unknown, &normal(known))).unwrap_or(&KNOWN[0]);
        Err(Error::config(format!("option {unknown} of the URL is unknown"))
            .hint(format!("the nearest known one is {nearest}; all are: {}", KNOWN.join(", "))))
    }
}

fn normal(name: &str) -> String {
    name.to_ascii_lowercase().replace('_', "-")
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// The `[client]` section of an option file, after MySQL's "Using Option Files".
fn client_section(text: &str) -> BTreeMap<String, String> {
    let mut inside = false;
    let mut out = BTreeMap::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with(['#', ';', '!']) {
            continue;
        }
        if let Some(section) = line.strip_prefix('[') {
            inside = section.trim_end_matches(']').trim() == "client";
        } else if let (true, Some((name, value))) = (inside, line.split_once('=')) {
            out.insert(name.trim().replace('-', "_"), unquote(value.trim()));
        }
    }
    out
}

fn unquote(value: &str) -> String {
    for quote in ['"', '\''] {
        if let Some(inner) = value.strip_prefix(quote).and_then(|v| v.strip_suffix(quote)) {
            return inner.to_owned();
        }
    }
    value.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str, env: &[(&str, &str)], cnf: &str) -> Result<Options> {
        let lookup = |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        Options::from_parts(&Endpoint::new(url, None), &lookup, &client_section(cnf))
    }

    #[test]
    fn parts_of_a_url() {
        let o = parse("mysql://re%40pl:p%2Fw%3F@[::1]:3307/my%20shop?ssl-mode=required&connect-timeout=3", &[], "")
            .unwrap();
        assert_eq!((o.host.as_str(), o.port, o.user.as_str()), ("::1", 3307, "re@pl"));
        assert_eq!(o.password.as_ref().unwrap().expose(), "p/w?");
        assert_eq!(o.database.as_deref(), Some("my shop"));
        assert_eq!(o.ssl_mode, SslMode::Required);
        assert_eq!(o.connect_timeout, Duration::from_secs(3));
        assert_eq!(o.place(), "[::1]:3307");
        assert!(o.is_local());
        assert!(!parse("mysql://u@db.example/s", &[], "").unwrap().is_local());
        let o = parse("mysql://u@h/s?ssl_ca=/x.pem", &[], "").unwrap();
        assert_eq!(o.ssl_mode, SslMode::VerifyCa, "as --ssl-ca does");
        assert_eq!(parse("mysql://u@h", &[], "").unwrap().database, None);
    }

    #[test]
    fn passwords_in_order_of_precedence() {
        let env = [("MYSQL_PWD", "env")];
        let cnf = "[mysql]\npassword=no\n[client]\n# c\npassword = \"f#ile\"\nuser=joe\nsocket=/s\n";
        let pw = |o: Options| o.password.unwrap().expose().to_owned();
        assert_eq!(pw(parse("mysql://u:url@h/s", &env, cnf).unwrap()), "url");
        assert_eq!(pw(parse("mysql://u@h/s", &env, cnf).unwrap()), "env");
        assert_eq!(pw(parse("mysql://u@h/s", &[], cnf).unwrap()), "f#ile");
        let o = parse("mysql:///s", &[], cnf).unwrap();
        assert_eq!((o.user.as_str(), o.socket.as_deref()), ("joe", Some("/s")));
        let o = parse("mysql://ann@/s", &[], cnf).unwrap();
        assert_eq!((o.user.as_str(), o.socket.as_deref()), ("ann", Some("/s")));
        let o = parse("mysql://h/s", &[], cnf).unwrap();
        assert_eq!(o.socket, None, "a host that was named is not replaced by the file's socket");
        let endpoint = Endpoint::new("mysql://u:url@h/s", Some(Secret::new("given")));
        assert_eq!(pw(Options::from_parts(&endpoint, &|_| None, &BTreeMap::new()).unwrap()), "given");
    }

    #[test]
    fn mistakes_are_named() {
        for (url, word) in [
            ("mysql://u@h/s?ssl-mod=REQUIRED", "ssl-mode"),
            ("mysql://u@h/s?ssl-mode=on", "VERIFY_CA"),
            ("mysql://u@h/s?ssl-cert=/c", "ssl-key"),
            ("mysql://u@h/s?sslmode=required&ssl-mode=required", "give one"),
            ("mysql://u@h/s?connect_timeout=soon", "seconds"),
            ("postgres://u@h/s", "scheme"),
            ("mysql://h/s", "user"),
        ] {
            let e = parse(url, &[], "").unwrap_err();
            assert!(format!("{e:?}").contains(word), "{url}: {e:?}");
            assert_eq!(e.exit(), crossfade_core::Exit::Config);
        }
    }
}
