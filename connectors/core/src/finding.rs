//! What a preflight check found: setting, expected, actual, and the statement that mends it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, but an operator should know.
    Warning,
    /// The pipeline cannot run, or would lose data.
    Critical,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Critical => "critical",
        })
    }
}

/// One line of a preflight check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// The setting, privilege or object: `binlog_format`, `table shop.log`.
    pub setting: String,
    /// What Crossfade needs.
    pub expected: String,
    /// What is there.
    pub actual: String,
    /// The statement or the setting that mends it; empty when `level` is ok.
    pub fix: String,
}

impl Finding {
    /// A setting that is as it should be.
    pub fn ok(setting: impl Into<String>, actual: impl Into<String>) -> Self {
        let actual = actual.into();
        Finding { level: Level::Ok, setting: setting.into(), expected: actual.clone(), actual, fix: String::new() }
    }

    /// Something an operator should know.
    pub fn warning(
        setting: impl Into<String>,
        expected: impl Into<String>,
        actual: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        let (setting, expected, actual, fix) = (setting.into(), expected.into(), actual.into(), fix.into());
        Finding { level: Level::Warning, setting, expected, actual, fix }
    }

    /// Something without which the pipeline cannot run.
    pub fn critical(
        setting: impl Into<String>,
        expected: impl Into<String>,
        actual: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Finding { level: Level::Critical, ..Self::warning(setting, expected, actual, fix) }
    }
}
