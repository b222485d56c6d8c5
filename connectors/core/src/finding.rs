//! What a preflight check found: setting, expected, actual, and the statement that mends it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::schema::TableName;

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
    /// The table of the source that cannot be carried in its present shape, if it is this. It keeps a pipeline from beginning; one that
    /// has begun is told of the change by the log, and can do without the table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<TableName>,
}

impl Finding {
    /// A setting that is as it should be.
    pub fn ok(setting: impl Into<String>, actual: impl Into<String>) -> Self {
        let actual = actual.into();
        let (setting, expected, fix) = (setting.into(), actual.clone(), String::new());
        Finding { level: Level::Ok, setting, expected, actual, fix, table: None }
    }

    /// Something an operator should know.
    pub fn warning(
        setting: impl Into<String>,
        expected: impl Into<String>,
        actual: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        let (setting, expected, actual, fix) = (setting.into(), expected.into(), actual.into(), fix.into());
        Finding { level: Level::Warning, setting, expected, actual, fix, table: None }
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

    /// A table that cannot be carried as it is.
    pub fn refused(
        table: &TableName,
        expected: impl Into<String>,
        actual: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Finding { table: Some(table.clone()), ..Self::critical(format!("table {table}"), expected, actual, fix) }
    }
}
