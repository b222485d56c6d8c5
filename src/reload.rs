//! SIGHUP: the configuration is read again, and what can change while a pipeline runs is changed.
//!
//! Only what no position, table or connection depends on: how much is logged, the copy's brake, the log budget, and who may ask
//! over HTTP (tokens and certificates are read again even where no key changed, since that is how they are renewed). Everything
//! else that differs from what runs is named in the log, with the word that it needs a restart, which is safe at any moment. A
//! configuration that cannot be read, or has a problem anywhere, changes nothing.

use std::path::PathBuf;

use crossfade_core::{Error, Result};
use sd_notify::NotifyState;
use toml::{Table, Value};

use crate::cli::logs;
use crate::config::{self, Config};
use crate::http::Listening;
use crate::pipeline::Tuning;
use crate::service::notify;

/// Keys that are taken in while the pipeline runs.
const LIVE: &[&str] = &[
    "http.cert",
    "http.client_ca",
    "http.key",
    "http.token_credential",
    "http.token_env",
    "http.token_file",
    "limits.copy_rate",
    "service.log",
    "source.log_budget",
    "source.log_budget_action",
];

/// Reads the configuration again.
pub struct Reloader<'a> {
    /// Where from; `None`: the pipeline came from URLs.
    path: Option<PathBuf>,
    /// What runs.
    running: Table,
    tuning: &'a Tuning,
    http: Option<&'a Listening>,
    /// `--copy-rate`, which goes before the configuration's.
    copy_rate: Option<u64>,
}

impl<'a> Reloader<'a> {
    /// For what runs by the configuration at `path`.
    pub fn new(
        path: Option<PathBuf>,
        tuning: &'a Tuning,
        http: Option<&'a Listening>,
        copy_rate: Option<u64>,
    ) -> Result<Reloader<'a>> {
        let running = match &path {
            Some(path) => table(&read(path)?)?,
            None => Table::new(),
        };
        Ok(Reloader { path, running, tuning, http, copy_rate })
    }

    /// Reads it again, tells systemd and the log.
    pub fn reload(&mut self) {
        let mut reloading = vec![NotifyState::Reloading];
        // Only Linux' monotonic clock can fail here, and it does not.
        reloading.extend(NotifyState::monotonic_usec_now());
        notify(&reloading);
        if let Err(e) = self.take_in() {
            tracing::error!(error = %e, hint = e.hint_text(), "the configuration was not reloaded; nothing has changed");
        }
        notify(&[NotifyState::Ready]);
    }

    fn take_in(&mut self) -> Result<()> {
        let Some(path) = &self.path else {
            tracing::info!("there is no configuration file to reload; the pipeline runs by its command line");
            return Ok(());
        };
        let text = read(path)?;
        let config = config::parse(&text).map_err(|e| e.context(path.display()))?;
        let new = table(&text)?;
        let changed = differences(&self.running, &new);
        let (live, others): (Vec<_>, Vec<_>) = changed.into_iter().partition(|key| LIVE.contains(&key.as_str()));
        self.apply(&config)?;
        for key in &live {
            put(&mut self.running, key, get(&new, key).cloned());
        }
        tracing::info!(changed = live.join(", "), "the configuration is reloaded");
        if !others.is_empty() {
            tracing::warn!(
                keys = others.join(", "),
                "these settings differ from what runs and take effect with a restart, which is safe at any moment"
            );
        }
        Ok(())
    }

    /// What can fail comes first.
    fn apply(&self, config: &Config) -> Result<()> {
        if let (Some(listening), Some(http)) = (self.http, &config.http) {
            listening.renew(http)?;
        }
        logs::configured(config.log.as_deref())?;
        self.tuning.set(self.copy_rate.or(config.limits.copy_rate), config.limits.log_budget);
        Ok(())
    }
}

fn read(path: &PathBuf) -> Result<String> {
    std::fs::read_to_string(path)
        .map_err(|e| Error::config(format!("cannot read the configuration {}", path.display())).caused_by(e))
}

fn table(text: &str) -> Result<Table> {
    text.parse::<Table>().map_err(|e| Error::config("not valid TOML").caused_by(e))
}

/// The keys whose values are not the same; of a list, or of a table that only one has, its own name.
fn differences(old: &Table, new: &Table) -> Vec<String> {
    let mut keys: Vec<&String> = old.keys().chain(new.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    let empty = Value::Table(Table::new());
    let mut found = Vec::new();
    for key in keys {
        match (old.get(key), new.get(key)) {
            (a, b) if a == b => {}
            (a @ (None | Some(Value::Table(_))), b @ (None | Some(Value::Table(_)))) => {
                if let (Value::Table(a), Value::Table(b)) = (a.unwrap_or(&empty), b.unwrap_or(&empty)) {
                    found.extend(differences(a, b).into_iter().map(|inner| format!("{key}.{inner}")));
                }
            }
            _ => found.push(key.clone()),
        }
    }
    found
}

fn get<'t>(table: &'t Table, key: &str) -> Option<&'t Value> {
    let (section, name) = key.split_once('.')?;
    table.get(section)?.get(name)
}

fn put(table: &mut Table, key: &str, value: Option<Value>) {
    let Some((section, name)) = key.split_once('.') else { return };
    let section = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
    match (section.as_table_mut(), value) {
        (Some(section), Some(value)) => drop(section.insert(name.to_owned(), value)),
        (Some(section), None) => drop(section.remove(name)),
        (None, _) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_named_by_their_keys() {
        let old = table("name = \"a\"\n[source]\nurl = \"x\"\ntables = [\"a\"]\n[limits]\nmemory = \"1MiB\"").unwrap();
        let mut new = table(
            "name = \"a\"\n[source]\nurl = \"x\"\ntables = [\"b\"]\n[service]\nlog = \"debug\"\n[[target]]\nurl = \"y\"",
        )
        .unwrap();
        assert_eq!(differences(&old, &new), ["limits.memory", "service.log", "source.tables", "target"]);
        assert!(differences(&old, &old).is_empty());
        put(&mut new, "service.log", None);
        put(&mut new, "limits.memory", get(&old, "limits.memory").cloned());
        assert_eq!(differences(&old, &new), ["source.tables", "target"]);
    }

    #[test]
    fn every_live_key_is_a_key() {
        let schema = config::schema();
        for key in LIVE {
            let (section, name) = key.split_once('.').unwrap();
            let section = &schema["properties"][section];
            let reference = section["$ref"].as_str().or_else(|| section["allOf"][0]["$ref"].as_str()).unwrap();
            let section = schema.pointer(reference.trim_start_matches('#')).unwrap();
            assert!(section["properties"].get(name).is_some(), "{key}");
        }
    }
}
