//! The configuration: from text to a value that cannot be invalid.
//!
//! `RawConfig` is what is written, [`Config`] is what runs. On the way all problems are gathered and reported together,
//! each with line and column; an unknown key names the nearest known one. Secrets come from the environment, files or
//! systemd credentials and are read here, once.

pub mod aggregate;
mod credentials;
pub mod http;
mod keys;
pub mod raw;
pub mod reporting;
mod units;

use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crossfade_core::{Endpoint, Error, PolicyRule, PolicyRules, Result, Secret, Selection, TableName};

use self::keys::Spans;
pub use self::keys::schema;
use self::raw::{RawConfig, RawSource, RawTarget};
pub use self::reporting::{MailConfig, ProofConfig, WebhookConfig};
pub use self::units::{bytes, duration};
use crate::pipeline::Limits;
use crate::pipeline::applier::CommitPolicy;
use crate::pipeline::retention::LogBudget;
use crate::registry::{SourceKind, TargetKind};
use crate::transform::{ColumnRule, Route, Rules};
use crate::verify::aggregates::Aggregate;

/// A pipeline's configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The key of everything a target remembers.
    pub name: String,
    /// The source.
    pub source: Endpoint,
    /// The targets; at least one.
    pub targets: Vec<TargetConfig>,
    /// Which tables.
    pub selection: Selection,
    /// What becomes of them.
    pub rules: Rules,
    /// Figures that must hold on both sides.
    pub aggregates: Vec<Aggregate>,
    /// Bounds.
    pub limits: Limits,
    /// How long draining may take.
    pub drain: Duration,
    /// When both sides are compared, and what counts as well.
    pub proof: ProofConfig,
    /// Where reports are mailed to.
    pub mail: Option<MailConfig>,
    /// Who is told of a change of the verdict.
    pub webhook: Option<WebhookConfig>,
    /// What is logged, unless the command line says so.
    pub log: Option<String>,
    /// What is served over HTTP.
    pub http: Option<http::Http>,
}

/// One target.
#[derive(Debug, Clone)]
pub struct TargetConfig {
    /// Where it is.
    pub endpoint: Endpoint,
    /// How often it commits.
    pub policy: CommitPolicy,
}

/// Something wrong with the configuration, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Problem {
    line: usize,
    column: usize,
    message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: {}", self.line, self.column, self.message)
    }
}

/// Reads and resolves a configuration file.
pub fn load(path: &Path) -> Result<Config> {
    parse(&read(path)?).map_err(|e| e.context(path.display()))
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| {
        Error::config(format!("cannot read the configuration {}", path.display()))
            .hint(match e.kind() {
                ErrorKind::PermissionDenied => {
                    "whoever runs this must be able to read it; a systemd service runs as a user of its own: chmod 644, and keep \
                     passwords out of it (password_credential)"
                }
                _ => "give its path with --config, or run without one: crossfade run --from URL --to URL",
            })
            .caused_by(e)
    })
}

/// The name of a file's pipeline, for asking who runs it: neither passwords nor anything else of the file are needed for that.
pub fn name(path: &Path) -> Result<String> {
    #[derive(serde::Deserialize)]
    struct Named {
        name: String,
    }
    match toml::from_str::<Named>(&read(path)?) {
        Ok(Named { name }) if name_problem(&name).is_none() => Ok(name),
        // What is wrong with it is said with all else that is.
        Ok(_) | Err(_) => load(path).map(|config| config.name),
    }
}

/// Resolves a configuration from its text.
pub fn parse(text: &str) -> Result<Config> {
    let spans = Spans::new(text)?;
    let mut problems = spans.unknown_keys();
    let raw: RawConfig = match toml::from_str(text) {
        Ok(raw) => raw,
        Err(e) => {
            // serde stops at the first problem; one that is an unknown key is in the list already, in better words.
            if problems.is_empty() || !e.message().contains("unknown field") {
                let at = e.span().map_or(0, |s| s.start);
                problems.push(spans.problem_at(at, e.message().to_owned()));
            }
            return Err(refuse(problems));
        }
    };
    let mut resolver = Resolver { spans: &spans, pipeline: &raw.name, problems };
    let config = resolver.resolve(&raw);
    match config {
        Some(config) if resolver.problems.is_empty() => Ok(config),
        _ => Err(refuse(resolver.problems)),
    }
}

/// A configuration of nothing but two URLs.
pub fn from_urls(name: Option<&str>, from: &str, to: &[String], tables: &[String]) -> Result<Config> {
    crate::registry::source_scheme(from)?;
    for url in to {
        crate::registry::target_scheme(url)?;
    }
    let source = Endpoint::new(from, None);
    let targets = to.iter().map(|url| TargetConfig::new(Endpoint::new(url, None))).collect::<Vec<_>>();
    if targets.is_empty() {
        return Err(Error::usage("--from needs --to").hint("crossfade run --from mysql://… --to postgres://…"));
    }
    let name = name.map_or_else(|| derived_name(from, &to[0]), str::to_owned);
    if let Some(wrong) = name_problem(&name) {
        return Err(Error::usage(wrong));
    }
    let rules = default_rules(&source, &targets);
    Ok(Config {
        name,
        source,
        targets,
        selection: Selection { include: tables.to_vec(), exclude: Vec::new() },
        rules,
        aggregates: Vec::new(),
        limits: Limits::default(),
        drain: DRAIN,
        proof: ProofConfig::default(),
        mail: None,
        webhook: None,
        log: None,
        http: None,
    })
}

const PASSWORD_KEYS: [&str; 3] = ["password_env", "password_file", "password_credential"];

const DRAIN: Duration = Duration::from_secs(30);

fn refuse(mut problems: Vec<Problem>) -> Error {
    problems.sort_by_key(|p| (p.line, p.column));
    let lines: Vec<String> = problems.iter().map(|p| format!("\n  {p}")).collect();
    let count = match problems.len() {
        1 => "one problem".to_owned(),
        n => format!("{n} problems"),
    };
    Error::config(format!("{count} in the configuration:{}", lines.concat()))
        .hint("every key is described in schemas/config.schema.json and in systemd/example.toml")
}

/// A readable name from the databases' names: `shop-to-warehouse`.
fn derived_name(from: &str, to: &str) -> String {
    let last = |url: &str| -> String {
        let path = url.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
        let last = path.rsplit(['/', ':']).next().unwrap_or_default();
        let stem = last.split('@').next_back().unwrap_or_default().split('.').next().unwrap_or_default();
        let clean = stem.chars().filter(|c| c.is_ascii_alphanumeric() || "-_".contains(*c));
        clean.take(24).collect::<String>().to_ascii_lowercase()
    };
    let part = |s: String, otherwise: &str| if s.is_empty() { otherwise.to_owned() } else { s };
    format!("{}-to-{}", part(last(from), "source"), part(last(to), "target"))
}

fn name_problem(name: &str) -> Option<String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || name.len() > 63 || !name.chars().all(fine) {
        return Some(format!("the name {name:?} must be 1 to 63 letters, digits, - and _"));
    }
    None
}

/// SQLite has no schemas: its `main` becomes Postgres' `public` unless a route says otherwise.
fn default_rules(source: &Endpoint, targets: &[TargetConfig]) -> Rules {
    let postgres = |t: &TargetConfig| t.endpoint.scheme().starts_with("postgres");
    let mut rules = Rules::default();
    if source.scheme() == "sqlite" && targets.iter().all(postgres) {
        rules.routes.push(Route { from: "main.*".into(), to: TableName::new("public", "*") });
    }
    rules
}

impl TargetConfig {
    fn new(endpoint: Endpoint) -> Self {
        let interval = if endpoint.scheme().starts_with("postgres") { 0 } else { 10 };
        let policy = CommitPolicy { interval: Duration::from_secs(interval), bytes: 64 << 20 };
        TargetConfig { endpoint, policy }
    }
}

struct Resolver<'a> {
    spans: &'a Spans<'a>,
    /// The pipeline's name, which is its service's instance.
    pipeline: &'a str,
    problems: Vec<Problem>,
}

impl Resolver<'_> {
    fn resolve(&mut self, raw: &RawConfig) -> Option<Config> {
        if let Some(wrong) = name_problem(&raw.name) {
            self.problem(&["name"], wrong);
        }
        if raw.target.is_empty() {
            self.problem(&["target"], "at least one [[target]] is needed".into());
        }
        let source = self.source(&raw.source);
        let targets: Vec<TargetConfig> = raw.target.iter().enumerate().map(|(i, t)| self.target(i, t)).collect();
        let mut rules = Rules { routes: self.routes(raw), columns: Vec::new(), policies: self.policies(raw) };
        rules.routes.extend(default_rules(&source, &targets).routes);
        rules.columns.extend(raw.column.iter().map(|c| ColumnRule {
            tables: c.tables.clone(),
            exclude: c.exclude.clone(),
            rename: c.rename.clone(),
        }));
        if let Some(Err(wrong)) = raw.service.log.as_deref().map(crate::cli::logs::filter) {
            self.problem(&["service", "log"], said(&wrong));
        }
        let drain = self.unit(&["service", "drain_timeout"], raw.service.drain_timeout.as_deref(), duration);
        Some(Config {
            name: raw.name.clone(),
            source,
            targets,
            selection: Selection { include: raw.source.tables.clone(), exclude: raw.source.exclude.clone() },
            rules,
            limits: self.limits(raw),
            aggregates: self.aggregates(raw),
            drain: drain.unwrap_or(DRAIN),
            proof: self.proof(raw),
            mail: self.mail(raw),
            webhook: self.webhook(raw),
            log: raw.service.log.clone(),
            http: self.http(&raw.http),
        })
    }

    fn source(&mut self, raw: &RawSource) -> Endpoint {
        let passwords = [&raw.password_env, &raw.password_file, &raw.password_credential];
        let password = self.password(&["source"], passwords, PASSWORD_KEYS);
        if let Err(e) = crate::registry::source_scheme(&raw.url) {
            self.problem(&["source", "url"], said(&e));
        }
        Endpoint::new(&raw.url, password)
    }

    fn log_budget(&mut self, raw: &RawSource) -> Option<LogBudget> {
        let budget = self.unit(&["source", "log_budget"], raw.log_budget.as_deref(), bytes);
        if raw.log_budget.is_none() && raw.log_budget_action.is_some() {
            self.problem(&["source", "log_budget_action"], "log_budget_action is of no use without log_budget".into());
        }
        if raw.log_budget.is_some() && matches!(crate::registry::source_scheme(&raw.url), Ok(SourceKind::MySql)) {
            let wrong = "log_budget: MySQL and MariaDB keep no log for a pipeline, they discard it by their own \
                         binlog_expire_logs_seconds";
            self.problem(&["source", "log_budget"], wrong.into());
        }
        Some(LogBudget { bytes: budget? as u64, action: raw.log_budget_action.unwrap_or_default() })
    }

    fn target(&mut self, i: usize, raw: &RawTarget) -> TargetConfig {
        let at = i.to_string();
        let passwords = [&raw.password_env, &raw.password_file, &raw.password_credential];
        let password = self.password(&["target", &at], passwords, PASSWORD_KEYS);
        if let Err(e) = crate::registry::target_scheme(&raw.url) {
            self.problem(&["target", &at, "url"], said(&e));
        }
        let mut config = TargetConfig::new(Endpoint::new(&raw.url, password));
        if let Some(d) = self.unit(&["target", &at, "commit_interval"], raw.commit_interval.as_deref(), duration) {
            config.policy.interval = d;
        }
        if let Some(b) = self.unit(&["target", &at, "commit_bytes"], raw.commit_bytes.as_deref(), bytes) {
            config.policy.bytes = b;
        }
        config
    }

    /// A secret from an environment variable, a file or a credential; `keys` are named in the same order.
    fn password(
        &mut self,
        at: &[&str],
        [env, file, credential]: [&Option<String>; 3],
        [env_key, file_key, credential_key]: [&str; 3],
    ) -> Option<Secret> {
        if [env, file, credential].iter().filter(|o| o.is_some()).count() > 1 {
            self.problem(at, format!("give it in one place: {env_key}, {file_key} or {credential_key}"));
        }
        let read = if let Some(name) = env {
            std::env::var(name).map_err(|_| format!("the environment variable {name} ({env_key}) is not set"))
        } else if let Some(path) = file {
            std::fs::read_to_string(path).map_err(|e| format!("cannot read {file_key} {path}: {e}"))
        } else if let Some(name) = credential {
            let given = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
            credentials::read(given, self.pipeline, name).map_err(|e| format!("{credential_key} {name}: {e}"))
        } else {
            return None;
        };
        match read {
            Ok(text) => Some(Secret::new(text.trim_end_matches(['\n', '\r']))),
            Err(wrong) => {
                self.problem(at, wrong);
                None
            }
        }
    }

    fn routes(&mut self, raw: &RawConfig) -> Vec<Route> {
        let mut routes = Vec::new();
        for (i, route) in raw.route.iter().enumerate() {
            match route.to.split_once('.') {
                Some((schema, name)) if !schema.is_empty() && !name.is_empty() => {
                    routes.push(Route { from: route.from.clone(), to: TableName::new(schema, name) });
                }
                _ => self.problem(
                    &["route", &i.to_string(), "to"],
                    format!("{:?} is not of the form schema.table; to keep a name, write * in its place", route.to),
                ),
            }
        }
        routes
    }

    fn policies(&mut self, raw: &RawConfig) -> PolicyRules {
        let parquet = |t: &RawTarget| matches!(crate::registry::target_scheme(&t.url), Ok(TargetKind::Parquet));
        let lake = raw.target.iter().any(parquet);
        let rules = raw.policy.iter().enumerate().map(|(i, rule)| {
            let (at, decides) = (i.to_string(), rule.decides());
            if decides.is_empty() {
                self.problem(&["policy", &at], "the rule names no policy, such as zero_date = \"null\"".into());
            }
            if let Some((policy, _)) = decides.iter().find(|(_, passes)| *passes && lake) {
                let wrong =
                    format!("{policy}: a Parquet target keeps no originals, so policies need Postgres targets alone");
                self.problem(&["policy", &at, policy.name()], wrong);
            }
            PolicyRule { tables: rule.tables.clone(), columns: rule.columns.clone(), decides }
        });
        PolicyRules(rules.collect())
    }

    fn limits(&mut self, all: &RawConfig) -> Limits {
        let raw = &all.limits;
        let mut limits = Limits { log_budget: self.log_budget(&all.source), ..Limits::default() };
        if let Some(time) = self.snapshot(&all.proof) {
            limits.snapshot = time;
        }
        if let Some(b) = self.unit(&["limits", "memory"], raw.memory.as_deref(), bytes) {
            limits.memory = b;
        }
        if let Some(b) = self.unit(&["limits", "batch_bytes"], raw.batch_bytes.as_deref(), bytes) {
            limits.batch_bytes = b;
            limits.read_bytes = limits.read_bytes.min(b);
        }
        match self.unit(&["limits", "copy_rate"], raw.copy_rate.as_deref(), bytes) {
            Some(0) => self.problem(&["limits", "copy_rate"], "copy_rate must be at least 1".into()),
            rate => limits.copy_rate = rate.map(|r| r as u64),
        }
        let mut positive = |key: &str, value: Option<u64>| match value {
            Some(0) => {
                self.problem(&["limits", key], format!("{key} must be at least 1"));
                None
            }
            other => other,
        };
        if let Some(n) = positive("batch_rows", raw.batch_rows.map(u64::from)) {
            limits.batch_rows = n as usize;
            limits.read_rows = limits.read_rows.min(n as usize);
        }
        if let Some(n) = positive("copy_workers", raw.copy_workers.map(u64::from)) {
            limits.copy_workers = n as usize;
        }
        if let Some(n) = positive("chunk_rows", raw.chunk_rows.map(u64::from)) {
            limits.chunk_rows = n;
        }
        if limits.batch_bytes > limits.memory {
            self.problem(&["limits"], "batch_bytes must not be greater than memory".into());
        }
        limits
    }

    fn unit<T>(&mut self, at: &[&str], text: Option<&str>, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        match parse(text?) {
            Ok(value) => Some(value),
            Err(wrong) => {
                self.problem(at, wrong);
                None
            }
        }
    }

    fn problem(&mut self, at: &[&str], message: String) {
        self.problems.push(self.spans.problem(at, message));
    }
}

fn said(e: &Error) -> String {
    match e.hint_text() {
        Some(hint) => format!("{e}; {hint}"),
        None => e.to_string(),
    }
}
