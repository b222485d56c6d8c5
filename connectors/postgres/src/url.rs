//! How an operator writes down a Postgres server: the two forms of connection string that libpq takes.
//!
//! ```text
//! postgres://user:password@host1:5432,host2/dbname?sslmode=verify-full      (also postgresql://)
//! postgres:host=/run/postgresql dbname=shop password='it\'s'                (the scheme may be left out)
//! ```
//!
//! Both become [`Settings`], keyword by keyword; what the keywords mean is [`crate::options`]'s. Source: libpq's
//! documentation (34.1.1) and `conninfo_uri_parse_options`, `conninfo_parse` in fe-connect.c. One liberty: a password may
//! hold an unescaped `@`, because nothing else can be meant.

use std::collections::BTreeMap;

use crossfade_core::{Error, Result};

/// Keywords that mean something here.
pub const KNOWN: [&str; 32] = [
    "application_name",
    "channel_binding",
    "client_encoding",
    "connect_timeout",
    "dbname",
    "fallback_application_name",
    "gssencmode",
    "host",
    "hostaddr",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "options",
    "origin",
    "passfile",
    "password",
    "port",
    "partitions",
    "publication",
    "slot",
    "spool_dir",
    "ssl_min_protocol_version",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslnegotiation",
    "sslrootcert",
    "streaming",
    "target_session_attrs",
    "tcp_user_timeout",
    "user",
];

/// Keywords that libpq knows and Crossfade does not follow: to ignore one could weaken what its author relies on.
const REFUSED: [(&str, &str); 16] = [
    ("gssdelegation", "Kerberos is not supported"),
    ("gsslib", "Kerberos is not supported"),
    ("krbsrvname", "Kerberos is not supported"),
    ("load_balance_hosts", "hosts are tried in order"),
    ("replication", "Crossfade opens replication connections itself"),
    ("require_auth", "set channel_binding=require or sslmode=verify-full to be sure of the server"),
    ("requirepeer", "the owner of a socket is not checked"),
    ("requiressl", "write sslmode=require"),
    ("service", "write the service's options into the URL"),
    ("ssl_max_protocol_version", "the newest protocol that both sides know is taken"),
    ("sslcertmode", "a certificate is sent if sslcert names one"),
    ("sslcompression", "TLS compression is not supported by anybody"),
    ("sslcrl", "revocation lists are not supported"),
    ("sslcrldir", "revocation lists are not supported"),
    ("sslpassword", "the key in sslkey must not be encrypted: decrypt it with `openssl pkey`"),
    ("sslsni", "the server's name is always sent"),
];

/// Values by keyword, as written; the last of several wins.
pub type Settings = BTreeMap<&'static str, String>;

/// Reads either form. Errors name the keyword, never a value: it may be secret.
pub fn parse(text: &str) -> Result<Settings> {
    let rest = ["postgresql:", "postgres:"].iter().find_map(|scheme| text.strip_prefix(scheme)).unwrap_or(text);
    match rest.strip_prefix("//") {
        Some(rest) => uri(rest),
        None => keywords(rest),
    }
}

fn uri(rest: &str) -> Result<Settings> {
    let mut settings = Settings::new();
    let (front, query) = rest.split_once('?').map_or((rest, None), |(f, q)| (f, Some(q)));
    let (authority, dbname) = front.split_once('/').map_or((front, None), |(a, d)| (a, Some(d)));
    let hosts = match authority.rsplit_once('@') {
        Some((user, hosts)) => {
            let (user, password) = user.split_once(':').map_or((user, None), |(u, p)| (u, Some(p)));
            put(&mut settings, "user", &decode("user", user)?)?;
            put(&mut settings, "password", &decode("password", password.unwrap_or_default())?)?;
            hosts
        }
        None => authority,
    };
    host_list(hosts, &mut settings)?;
    put(&mut settings, "dbname", &decode("dbname", dbname.unwrap_or_default())?)?;
    for pair in query.into_iter().flat_map(|q| q.split('&')).filter(|p| !p.is_empty()) {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(Error::config(format!("option {pair} of the URL has no value")).hint("write name=value"));
        };
        let key = decode("an option's name", key)?;
        let value = decode(&key, value)?;
        match (key.as_str(), value.as_str()) {
            // As JDBC writes it; libpq takes it too.
            ("ssl", "true") => put(&mut settings, "sslmode", "require")?,
            (key, value) => put(&mut settings, key, value)?,
        }
    }
    Ok(settings)
}

/// `host[:port][,...]`; a host may be an IPv6 address in brackets, or a socket's folder with its slashes escaped.
fn host_list(text: &str, settings: &mut Settings) -> Result<()> {
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    for part in text.split(',') {
        let (host, port) = match part.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest
                    .split_once(']')
                    .ok_or_else(|| Error::config("an IPv6 address of the URL lacks its closing bracket"))?;
                match rest.strip_prefix(':') {
                    Some(port) => (host, port),
                    None if rest.is_empty() => (host, ""),
                    None => {
                        return Err(Error::config(
                            "an IPv6 address of the URL is followed by something else than :port",
                        ));
                    }
                }
            }
            None => part.split_once(':').unwrap_or((part, "")),
        };
        hosts.push(decode("host", host)?);
        ports.push(decode("port", port)?);
    }
    if hosts.iter().any(|h| !h.is_empty()) {
        put(settings, "host", &hosts.join(","))?;
    }
    if ports.iter().any(|p| !p.is_empty()) {
        put(settings, "port", &ports.join(","))?;
    }
    Ok(())
}

/// Undoes percent-encoding. `+` stays what it is.
fn decode(what: &str, text: &str) -> Result<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let byte = tail
            .get(..2)
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok())
            .filter(|b| *b != 0)
            .ok_or_else(|| {
                Error::config(format!("{what} in the URL holds a % that two hexadecimal digits (not 00) do not follow"))
                    .hint("write % itself as %25")
            })?;
        bytes.push(byte);
        rest = &tail[2..];
    }
    String::from_utf8(bytes).map_err(|_| Error::config(format!("{what} in the URL is not UTF-8")))
}

/// `name = value 'quoted value'`, backslashes escaping one character.
fn keywords(text: &str) -> Result<Settings> {
    let mut settings = Settings::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.peek().is_none() {
            return Ok(settings);
        }
        let mut key = String::new();
        while let Some(c) = chars.next_if(|c| *c != '=' && !c.is_whitespace()) {
            key.push(c);
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.next() != Some('=') {
            return Err(Error::config(format!("connection option {key} has no value"))
                .hint("write postgres://user@host/dbname, or name=value pairs with blanks between them"));
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        let quoted = chars.next_if_eq(&'\'').is_some();
        let mut value = String::new();
        loop {
            match chars.next() {
                Some('\\') => value.extend(chars.next()),
                Some('\'') if quoted => break,
                Some(c) if !quoted && c.is_whitespace() => break,
                Some(c) => value.push(c),
                None if quoted => return Err(Error::config(format!("the quoted value of {key} does not end"))),
                None => break,
            }
        }
        put(&mut settings, &key, &value)?;
    }
}

/// Notes a value; an empty one means the default, as with libpq.
fn put(settings: &mut Settings, key: &str, value: &str) -> Result<()> {
    if let Some(known) = KNOWN.iter().find(|k| **k == key) {
        if !value.is_empty() {
            settings.insert(known, value.to_owned());
        }
        return Ok(());
    }
    if let Some((_, why)) = REFUSED.iter().find(|(k, _)| *k == key) {
        return Err(Error::config(format!("connection option {key} is not supported: {why}")));
    }
    let nearest = KNOWN.iter().min_by_key(|k| distance(k, key)).copied().unwrap_or_default();
    Err(Error::config(format!("unknown connection option {key}")).hint(format!("did you mean {nearest}?")))
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        match parse(text) {
            Ok(settings) => settings.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" | "),
            Err(e) => format!("{e} ({})", e.hint_text().unwrap_or_default()),
        }
    }

    #[test]
    fn both_forms() {
        for (text, want) in [
            ("postgresql://", ""),
            ("postgres://localhost", "host=localhost"),
            ("postgres://h:5433/shop", "dbname=shop | host=h | port=5433"),
            ("postgres://u:p%40w@h/db?sslmode=require", "dbname=db | host=h | password=p@w | sslmode=require | user=u"),
            ("postgres://u:p@w@h/db", "dbname=db | host=h | password=p@w | user=u"),
            ("postgres://a:1,b,[::1]:3/db", "dbname=db | host=a,b,::1 | port=1,,3"),
            ("postgres://%2Ftmp/db", "dbname=db | host=/tmp"),
            ("postgres:///db?host=/tmp&port=5434", "dbname=db | host=/tmp | port=5434"),
            ("postgres://h/db?host=other&ssl=true", "dbname=db | host=other | sslmode=require"),
            ("postgres://h/a+b%25", "dbname=a+b% | host=h"),
            ("postgres://?user=a@b", "user=a@b"),
            ("host=/tmp dbname=x", "dbname=x | host=/tmp"),
            ("postgres:host=/tmp dbname = 'a b'", "dbname=a b | host=/tmp"),
            (r"password='it\'s \\' user=a\ b", r"password=it's \ | user=a b"),
            ("user= host=h", "user=host=h"),
            ("options='-c lock_timeout=5s'", "options=-c lock_timeout=5s"),
        ] {
            assert_eq!(shown(text), want, "{text}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (text, want) in [
            ("postgres://h/db?sslmod=require", "unknown connection option sslmod (did you mean sslmode?)"),
            (
                "postgres://h/db?conect_timeout=1",
                "unknown connection option conect_timeout (did you mean connect_timeout?)",
            ),
            (
                "postgres://h/db?sslcrl=x",
                "connection option sslcrl is not supported: revocation lists are not supported ()",
            ),
            ("postgres://h/db?sslmode", "option sslmode of the URL has no value (write name=value)"),
            ("postgres://[::1/db", "an IPv6 address of the URL lacks its closing bracket ()"),
            ("password='x", "the quoted value of password does not end ()"),
        ] {
            assert_eq!(shown(text), want, "{text}");
        }
        for bad in ["postgres://u:a%zz@h/", "postgres://u:a%0@h/", "postgres://u:%00@h/", "postgres://u:%ff@h/"] {
            let e = parse(bad).unwrap_err().to_string();
            assert!(e.starts_with("password in the URL") && !e.contains("a%"), "{e}");
        }
        assert!(shown("nonsense").contains("has no value"));
    }
}
