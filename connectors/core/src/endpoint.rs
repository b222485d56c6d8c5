//! Where a database is, and the secret that opens it.
//!
//! A secret never shows in a log, an error or a process list: [`Secret`] prints as `[secret]`, and [`redact`] hides what
//! a URL carries.

use std::fmt;

/// A password or key. Its text leaves only through [`Secret::expose`].
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// The secret itself: for handing to a server, never for printing.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// One end of a pipeline.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// `scheme://user@host:port/database?option=value`. It may carry a password.
    url: Secret,
    /// A password from elsewhere (environment, file, credential); it wins over the URL's.
    pub password: Option<Secret>,
}

impl Endpoint {
    /// An end of a pipeline.
    pub fn new(url: impl Into<String>, password: Option<Secret>) -> Self {
        Endpoint { url: Secret::new(url), password }
    }

    /// The URL, which may carry a password.
    pub fn url(&self) -> &str {
        self.url.expose()
    }

    /// The part before `:`.
    pub fn scheme(&self) -> &str {
        self.url().split(':').next().unwrap_or_default()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redact(self.url()))
    }
}

/// Options of a URL whose values are secret.
const SECRET_OPTIONS: [&str; 5] = ["password", "sslpassword", "secret", "secret_access_key", "token"];

/// The URL without its password: `mysql://root:***@db/shop`.
pub fn redact(url: &str) -> String {
    if !url.contains("://") {
        // Pairs of name and value, whose quoting differs: nothing is shown from the first secret on.
        let lower = url.to_ascii_lowercase();
        let secrets = SECRET_OPTIONS.iter().flat_map(|o| lower.match_indices(o).map(|(at, o)| at + o.len()));
        return match secrets.filter(|end| lower[*end..].trim_start().starts_with('=')).min() {
            Some(end) => format!("{}=***", &url[..end]),
            None => url.to_owned(),
        };
    }
    let (front, query) = match url.split_once('?') {
        Some((front, query)) => (front, Some(query)),
        None => (url, None),
    };
    let mut out = match front.split_once("://") {
        Some((scheme, rest)) => {
            // The last @ before the path ends the user's part: a password may itself hold an unescaped @.
            let end = rest.find('/').unwrap_or(rest.len());
            match rest[..end].rfind('@') {
                Some(at) => {
                    let user = rest[..at].split(':').next().unwrap_or_default();
                    let stars = if rest[..at].contains(':') { ":***" } else { "" };
                    format!("{scheme}://{user}{stars}{}", &rest[at..])
                }
                // A password with a slash in it moves the @ behind the "path": hide all up to it.
                None => match rest.rfind('@') {
                    Some(at) if rest[..end].contains(':') => {
                        format!("{scheme}://{}:***{}", rest.split(':').next().unwrap_or_default(), &rest[at..])
                    }
                    _ => front.to_owned(),
                },
            }
        }
        None => front.to_owned(),
    };
    if let Some(query) = query {
        out.push('?');
        let hidden: Vec<String> = query
            .split('&')
            .map(|option| match option.split_once('=') {
                Some((k, _)) if SECRET_OPTIONS.contains(&k.to_ascii_lowercase().as_str()) => format!("{k}=***"),
                _ => option.to_owned(),
            })
            .collect();
        out.push_str(&hidden.join("&"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_hidden() {
        for (url, shown) in [
            ("mysql://root:pw@db:3306/shop", "mysql://root:***@db:3306/shop"),
            ("mysql://root:p@w@db/shop", "mysql://root:***@db/shop"),
            ("mysql://root:p/w@db/shop", "mysql://root:***@db/shop"),
            ("postgres://u@h/db?sslmode=require&password=x", "postgres://u@h/db?sslmode=require&password=***"),
            ("sqlite:///var/lib/shop.db", "sqlite:///var/lib/shop.db"),
            ("file:///var/a@b/c", "file:///var/a@b/c"),
            ("postgres:host=/tmp password = 'a b?c' user=u", "postgres:host=/tmp password=***"),
            ("postgres:host=/tmp user=u", "postgres:host=/tmp user=u"),
            ("sqlite:/var/secret.db", "sqlite:/var/secret.db"),
            ("s3://bucket/x?secret_access_key=abc", "s3://bucket/x?secret_access_key=***"),
        ] {
            assert_eq!(redact(url), shown);
        }
        let e = Endpoint::new("mysql://root:pw@db/shop", Some(Secret::new("other")));
        assert!(!format!("{e} {e:?}").contains("pw") && !format!("{e:?}").contains("other"));
        assert_eq!(e.scheme(), "mysql");
    }
}
