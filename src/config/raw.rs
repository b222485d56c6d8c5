//! The configuration as it is written: every key, optional where it may be left out, nothing interpreted.
//!
//! The JSON Schema in `schemas/config.schema.json` is generated from these types, and the same schema tells the loader
//! which keys exist.

use std::collections::BTreeMap;

use crossfade_core::Policy;
use schemars::JsonSchema;
use serde::Deserialize;

use super::aggregate::RawAggregate;
use super::http::RawHttp;
use super::reporting::{RawMail, RawProof, RawWebhook};
use crate::pipeline::retention::BudgetAction;

/// One pipeline: a source, one or more targets, and what happens between them.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawConfig {
    /// The pipeline's name, by which targets remember its progress. Letters, digits, `-` and `_`.
    pub name: String,
    /// The database to move away from.
    pub source: RawSource,
    /// Where to. Several targets receive the same changes.
    pub target: Vec<RawTarget>,
    /// Where tables go; the first route that matches a table wins. Without one a table keeps its name.
    #[serde(default)]
    pub route: Vec<RawRoute>,
    /// What becomes of columns; all rules that match a table apply.
    #[serde(default)]
    pub column: Vec<RawColumn>,
    /// What may become of values that no target can hold. Without a policy such a value stops the pipeline. Of the rules that match a
    /// column, the first that names a policy decides on it.
    #[serde(default)]
    pub policy: Vec<RawPolicy>,
    /// Figures that must hold on both sides, by the servers' own SQL.
    #[serde(default)]
    pub aggregate: Vec<RawAggregate>,
    /// Bounds of memory and of the initial copy.
    #[serde(default)]
    pub limits: RawLimits,
    /// How the daemon behaves.
    #[serde(default)]
    pub service: RawService,
    /// When both sides are compared, and what counts as well.
    #[serde(default)]
    pub proof: RawProof,
    /// Where reports are mailed to.
    pub mail: Option<RawMail>,
    /// Who is told of a change of the verdict.
    pub webhook: Option<RawWebhook>,
    /// Metrics, health and the status page over HTTP.
    #[serde(default)]
    pub http: RawHttp,
}

/// The database to move away from.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawSource {
    /// `mysql://user@host:3306/db`, `mariadb://…`, `sqlite:///path/to/file.db`.
    pub url: String,
    /// Name of an environment variable that holds the password.
    pub password_env: Option<String>,
    /// Path of a file that holds the password.
    pub password_file: Option<String>,
    /// Name of a systemd credential (`LoadCredential=`) that holds the password.
    pub password_credential: Option<String>,
    /// Log that the source may keep for this pipeline before somebody is told, such as `20GiB`: the WAL that a Postgres slot
    /// holds back, the change table of SQLite. No limit if left out.
    pub log_budget: Option<String>,
    /// What happens beyond `log_budget`: `warn` (the default) or `stop`.
    pub log_budget_action: Option<BudgetAction>,
    /// Globs of the tables to carry, such as `shop.*` or `order_*`. All tables of the database if left out.
    #[serde(default)]
    pub tables: Vec<String>,
    /// Globs of tables to leave out.
    #[serde(default)]
    pub exclude: Vec<String>,
}

/// Where to.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawTarget {
    /// `postgres://user@host:5432/db`, `s3://bucket/prefix`, `file:///path/to/folder`.
    pub url: String,
    /// Name of an environment variable that holds the password.
    pub password_env: Option<String>,
    /// Path of a file that holds the password.
    pub password_file: Option<String>,
    /// Name of a systemd credential (`LoadCredential=`) that holds the password.
    pub password_credential: Option<String>,
    /// How long rows may wait for their commit, such as `10s`. Postgres commits at once (`0s`), Parquet every `10s`.
    pub commit_interval: Option<String>,
    /// Commit at the latest after so many bytes, such as `64MiB`.
    pub commit_bytes: Option<String>,
}

/// Sends tables to another schema or name.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawRoute {
    /// A glob over `schema.table` at the source.
    pub from: String,
    /// `schema.table` at the target; `*` keeps the source's name in that place.
    pub to: String,
}

/// Leaves out or renames columns.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawColumn {
    /// A glob over `schema.table` at the source.
    pub tables: String,
    /// Columns that are not carried, nor read: whatever they hold stops nothing. Key columns cannot be left out.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// Source name to target name.
    #[serde(default)]
    pub rename: BTreeMap<String, String>,
}

/// What may become of values that no target can hold. The original is kept at the target, in the table `crossfade.original`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawPolicy {
    /// A glob over `schema.table` at the source. All tables if left out.
    pub tables: Option<String>,
    /// Columns by their names at the source. All columns if left out; those of a key are never changed.
    #[serde(default)]
    pub columns: Vec<String>,
    /// MySQL's dates that no calendar has, such as `0000-00-00` and `2024-00-10`.
    pub zero_date: Option<OrNull>,
    /// The character U+0000 in text, which Postgres cannot hold.
    pub nul_byte: Option<OrRemove>,
    /// Text whose bytes are not characters of its encoding; U+FFFD takes their place.
    pub invalid_text: Option<OrReplace>,
    /// The error value of MySQL's enums: index 0, none of the labels.
    pub invalid_enum: Option<OrNull>,
    /// NaN in a Postgres `numeric` of a given precision.
    pub nan: Option<OrNull>,
    /// Times of Postgres after the year 294246.
    pub out_of_range: Option<OrNull>,
}

/// The pipeline stops, or the value becomes NULL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OrNull {
    /// The pipeline stops.
    Stop,
    /// NULL takes its place.
    Null,
}

/// The pipeline stops, or the character is taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OrRemove {
    /// The pipeline stops.
    Stop,
    /// The text arrives without it.
    Remove,
}

/// The pipeline stops, or U+FFFD takes the place of what is no character.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OrReplace {
    /// The pipeline stops.
    Stop,
    /// The text arrives with U+FFFD in these places.
    Replace,
}

impl RawPolicy {
    /// The policies that are named, and whether their values pass.
    pub fn decides(&self) -> Vec<(Policy, bool)> {
        let null = |value: Option<OrNull>| value.map(|v| v == OrNull::Null);
        let all = [
            (Policy::ZeroDate, null(self.zero_date)),
            (Policy::NulByte, self.nul_byte.map(|v| v == OrRemove::Remove)),
            (Policy::InvalidText, self.invalid_text.map(|v| v == OrReplace::Replace)),
            (Policy::InvalidEnum, null(self.invalid_enum)),
            (Policy::Nan, null(self.nan)),
            (Policy::OutOfRange, null(self.out_of_range)),
        ];
        all.into_iter().filter_map(|(policy, passes)| Some((policy, passes?))).collect()
    }
}

/// Bounds.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawLimits {
    /// Decoded changes that may be on their way at once, such as `48MiB`.
    pub memory: Option<String>,
    /// Changes are joined into one write up to this size, such as `12MiB`.
    pub batch_bytes: Option<String>,
    /// Changes are joined into one write up to so many rows.
    pub batch_rows: Option<u32>,
    /// Connections of the initial copy.
    pub copy_workers: Option<u8>,
    /// Rows per chunk of the initial copy.
    pub chunk_rows: Option<u32>,
    /// Bytes per second that the initial copy may read, as decoded, such as `20MiB`. By default as fast as can be.
    pub copy_rate: Option<String>,
}

/// How the daemon behaves.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawService {
    /// After SIGTERM, how long what is on its way may take to be committed, such as `30s`. Ending earlier is safe too.
    pub drain_timeout: Option<String>,
    /// How much to log: `error`, `warn`, `info` (the default), `debug`, `trace`, unless `--log` or CROSSFADE_LOG says so.
    pub log: Option<String>,
}
