//! The parts of the configuration that say when both sides are compared, and who is told of what: `[proof]`, `[mail]`, `[webhook]`.

use std::path::PathBuf;
use std::time::Duration;

use crossfade_core::Secret;
use lettre::message::Mailbox;
use schemars::JsonSchema;
use serde::Deserialize;
use url::Url;

use super::raw::RawConfig;
use super::{PASSWORD_KEYS, Resolver, duration};

/// When both sides are compared, and what counts as well.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawProof {
    /// How often the daemon compares all tables by itself, such as `1h`: counted from the beginning of the hour. It reads every table on
    /// both sides each time. `off` (the default): only when asked to.
    pub every: Option<String>,
    /// In which time each row of a large table is read once, such as `24h`; at least twice `every`. With it the comparisons of `every` read small
    /// tables whole, and of each larger one (of more rows than `snapshot` has milliseconds, with a key that can be cut) only the part that is due.
    /// `off` (the default): every comparison reads all.
    pub audit: Option<String>,
    /// How long a comparison holds its snapshots at both ends, such as `10m` (the default). A table that takes longer is read in ranges of its
    /// key, at several positions; one whose key is not made of integers or bytes (between two Postgres: or UUIDs) is read whole all the same.
    pub snapshot: Option<String>,
    /// The lag beyond which an hour is not clean, and a report warns; ten times of it is critical. `30s` if left out.
    pub max_lag: Option<String>,
    /// Clean hours without a break that are to be reached. 168, a week, if left out.
    pub goal_hours: Option<u32>,
}

/// Where reports are mailed to.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawMail {
    /// `smtps://user@host:465` (TLS from the start), `smtp://user@host:587` (STARTTLS, or nothing is sent), or
    /// `smtp://localhost:25?tls=none` (no encryption, and so no password).
    pub server: String,
    /// Who sends: `crossfade@example.org` or `Crossfade <crossfade@example.org>`.
    pub from: String,
    /// Who receives.
    pub to: Vec<String>,
    /// Name of an environment variable that holds the password.
    pub password_env: Option<String>,
    /// Path of a file that holds the password.
    pub password_file: Option<String>,
    /// Name of a systemd credential (`LoadCredential=`) that holds the password.
    pub password_credential: Option<String>,
    /// PEM file of the authority that signed the server's certificate. The public ones if left out.
    pub ca_file: Option<PathBuf>,
}

/// Who is told of a change of the verdict.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawWebhook {
    /// Receives JSON by POST: `https://…`.
    pub url: String,
    /// Name of an environment variable that holds a token, sent as `Authorization: Bearer`.
    pub password_env: Option<String>,
    /// Path of a file that holds the token.
    pub password_file: Option<String>,
    /// Name of a systemd credential (`LoadCredential=`) that holds the token.
    pub password_credential: Option<String>,
    /// PEM file of the authority that signed the server's certificate. The public ones if left out.
    pub ca_file: Option<PathBuf>,
}

/// When both sides are compared, and what counts as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProofConfig {
    /// How often the daemon compares all tables; `None`: only when asked to.
    pub every: Option<Duration>,
    /// In which time each row of a large table is read once; `None`: by each comparison.
    pub audit: Option<Duration>,
    /// The lag that is allowed.
    pub max_lag: Duration,
    /// Clean hours that are to be reached.
    pub goal_hours: u32,
}

impl Default for ProofConfig {
    fn default() -> Self {
        ProofConfig { every: None, audit: None, max_lag: Duration::from_secs(30), goal_hours: 168 }
    }
}

/// How a connection to a mail server is secured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MailTls {
    /// From its start.
    Implicit,
    /// By STARTTLS.
    StartTls,
    /// Not at all.
    None,
}

/// Where reports are mailed to.
#[derive(Debug, Clone)]
pub struct MailConfig {
    /// The server's name.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the connection is secured.
    pub tls: MailTls,
    /// Who logs in; without a user nobody does.
    pub login: Option<(String, Secret)>,
    /// PEM file of the authority that signed the server's certificate.
    pub ca_file: Option<PathBuf>,
    /// Who sends.
    pub from: Mailbox,
    /// Who receives.
    pub to: Vec<Mailbox>,
}

/// Who is told of a change of the verdict.
#[derive(Debug, Clone)]
pub struct WebhookConfig {
    /// Where to.
    pub url: Url,
    /// What the receiver knows us by.
    pub token: Option<Secret>,
    /// PEM file of the authority that signed the server's certificate.
    pub ca_file: Option<PathBuf>,
}

impl Resolver<'_> {
    /// `[proof]`.
    pub fn proof(&mut self, raw: &RawConfig) -> ProofConfig {
        let mut config = ProofConfig::default();
        let every = raw.proof.every.as_deref().filter(|e| *e != "off");
        config.every = self.unit(&["proof", "every"], every, |text| match duration(text)? {
            short if short < Duration::from_secs(60) => {
                Err("every: at most once a minute, since all tables are read; \"off\" for never".to_owned())
            }
            every => Ok(every),
        });
        let audit = raw.proof.audit.as_deref().filter(|a| *a != "off");
        config.audit = self.unit(&["proof", "audit"], audit, |text| match (duration(text)?, config.every) {
            (_, None) => Err("audit is of no use without every: comparisons on schedule read what is due".to_owned()),
            (audit, Some(every)) if audit < every * 2 => {
                Err("audit: at least twice `every`, since each comparison reads a part".to_owned())
            }
            (audit, Some(_)) => Ok(audit),
        });
        if let Some(lag) = self.unit(&["proof", "max_lag"], raw.proof.max_lag.as_deref(), duration) {
            config.max_lag = lag;
        }
        match raw.proof.goal_hours {
            Some(0) => self.problem(&["proof", "goal_hours"], "goal_hours must be at least 1".into()),
            Some(hours) => config.goal_hours = hours,
            None => {}
        }
        config
    }

    /// How long a comparison holds its snapshots.
    pub fn snapshot(&mut self, raw: &RawProof) -> Option<Duration> {
        self.unit(&["proof", "snapshot"], raw.snapshot.as_deref(), |text| match duration(text)? {
            Duration::ZERO => Err("snapshot must be longer than nothing".to_owned()),
            time => Ok(time),
        })
    }

    /// `[mail]`.
    pub fn mail(&mut self, raw: &RawConfig) -> Option<MailConfig> {
        let mail = raw.mail.as_ref()?;
        let password = self.password(
            &["mail"],
            [&mail.password_env, &mail.password_file, &mail.password_credential],
            PASSWORD_KEYS,
        );
        let mut address = |at: &[&str], text: &str| match text.parse::<Mailbox>() {
            Ok(mailbox) => Some(mailbox),
            Err(e) => {
                self.problem(at, format!("{text:?} is no address: {e}"));
                None
            }
        };
        let from = address(&["mail", "from"], &mail.from);
        let to: Vec<Mailbox> = mail.to.iter().filter_map(|text| address(&["mail", "to"], text)).collect();
        if mail.to.is_empty() {
            self.problem(&["mail", "to"], "to: at least one address is needed".into());
        }
        let (host, port, tls, user) = match mail_server(&mail.server) {
            Ok(server) => server,
            Err(wrong) => {
                self.problem(&["mail", "server"], wrong);
                return None;
            }
        };
        let login = match (user, password) {
            (Some(_), _) if tls == MailTls::None => {
                self.problem(&["mail", "server"], "a user logs in over TLS only: leave out ?tls=none".into());
                None
            }
            (Some(user), Some(password)) => Some((user, password)),
            (None, None) => None,
            (Some(_), None) => {
                let wrong = "the server's URL names a user: give password_env, password_file or password_credential";
                self.problem(&["mail", "server"], wrong.into());
                None
            }
            (None, Some(_)) => {
                self.problem(&["mail", "server"], "there is a password, but no user: smtps://user@host".into());
                None
            }
        };
        Some(MailConfig { host, port, tls, login, ca_file: mail.ca_file.clone(), from: from?, to })
    }

    /// `[webhook]`.
    pub fn webhook(&mut self, raw: &RawConfig) -> Option<WebhookConfig> {
        let hook = raw.webhook.as_ref()?;
        let token = self.password(
            &["webhook"],
            [&hook.password_env, &hook.password_file, &hook.password_credential],
            PASSWORD_KEYS,
        );
        match Url::parse(&hook.url) {
            Ok(url) if url.scheme() == "https" => Some(WebhookConfig { url, token, ca_file: hook.ca_file.clone() }),
            _ => {
                self.problem(&["webhook", "url"], "url must be of the form https://host/path".into());
                None
            }
        }
    }
}

type MailServer = (String, u16, MailTls, Option<String>);

fn mail_server(text: &str) -> Result<MailServer, String> {
    let form = || {
        format!(
            "{text:?} is not of the form smtps://user@host:465, smtp://user@host:587 or smtp://localhost:25?tls=none"
        )
    };
    let url = Url::parse(text).map_err(|_| form())?;
    if url.password().is_some() {
        return Err("a password has no place in a URL: use password_env, password_file or password_credential".into());
    }
    let (tls, port) = match (url.scheme(), url.query()) {
        ("smtps", None) => (MailTls::Implicit, 465),
        ("smtp", None) => (MailTls::StartTls, 587),
        ("smtp", Some("tls=none")) => (MailTls::None, 25),
        _ => return Err(form()),
    };
    let host = url.host_str().filter(|h| !h.is_empty()).ok_or_else(form)?;
    let user = percent_decoded(url.username());
    Ok((host.to_owned(), url.port().unwrap_or(port), tls, (!user.is_empty()).then_some(user)))
}

/// A user may be a whole address, its `@` written as `%40`.
fn percent_decoded(text: &str) -> String {
    url::form_urlencoded::parse(text.replace('+', "%2B").as_bytes()).map(|(k, _)| k.into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    const HEAD: &str =
        "name = \"shop\"\n[source]\nurl = \"mysql://r@db/shop\"\n[[target]]\nurl = \"postgres://a@new/shop\"\n";

    #[test]
    fn a_proof_a_mail_and_a_webhook() {
        let config = parse(&format!(
            "{HEAD}[proof]\nevery = \"1h\"\naudit = \"24h\"\nsnapshot = \"90s\"\nmax_lag = \"10s\"\ngoal_hours = 24\n\
             [mail]\nserver = \"smtps://me%40here@mail:4650\"\nfrom = \"Crossfade <c@x.org>\"\nto = [\"a@x.org\"]\n\
             password_env = \"PATH\"\n[webhook]\nurl = \"https://x/y\"\n"
        ));
        let config = config.unwrap();
        let (every, audit) = (Some(Duration::from_secs(3600)), Some(Duration::from_secs(24 * 3600)));
        let proof = ProofConfig { every, audit, max_lag: Duration::from_secs(10), goal_hours: 24 };
        assert_eq!((config.proof, config.limits.snapshot), (proof, Duration::from_secs(90)));
        let mail = config.mail.unwrap();
        assert_eq!((mail.host.as_str(), mail.port, mail.tls), ("mail", 4650, MailTls::Implicit));
        assert_eq!(mail.login.unwrap().0, "me@here");
        assert_eq!(config.webhook.unwrap().url.as_str(), "https://x/y");
        assert_eq!(parse(HEAD).unwrap().proof, ProofConfig::default());
        assert_eq!(parse(&format!("{HEAD}[proof]\nevery = \"off\"\n")).unwrap().proof.every, None);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let wrong = |more: &str| parse(&format!("{HEAD}{more}")).unwrap_err().to_string();
        let mail = |server: &str, more: &str| {
            wrong(&format!("[mail]\nserver = \"{server}\"\nfrom = \"c@x.org\"\nto = [\"a@x.org\"]\n{more}"))
        };
        assert!(wrong("[proof]\nsnapshot = \"0s\"").contains("line 7, column 1: snapshot must be longer"));
        assert!(wrong("[proof]\nevery = \"1s\"").contains("line 7, column 1: every: at most once a minute"));
        assert!(wrong("[proof]\naudit = \"24h\"").contains("line 7, column 1: audit is of no use without every"));
        let short = wrong("[proof]\nevery = \"1h\"\naudit = \"90m\"");
        assert!(short.contains("line 8, column 1: audit: at least twice `every`"), "{short}");
        assert!(wrong("[webhook]\nurl = \"http://x\"").contains("must be of the form https://"));
        assert!(mail("smtp://u@h?tls=none", "password_env = \"PATH\"").contains("over TLS only"));
        assert!(mail("smtps://u@h", "").contains("give password_env"));
        assert!(mail("smtps://h", "password_env = \"PATH\"").contains("no user"));
        assert!(mail("smtps://u:p@h", "").contains("no place in a URL"));
        assert!(mail("imap://h", "").contains("not of the form"));
        assert!(wrong("[mail]\nserver = \"smtps://h\"\nfrom = \"x\"\nto = []").starts_with("2 problems"));
    }
}
