//! What a table gets besides rows and indexes at the end of its copy: defaults, checks, comments.
//!
//! What is there is left as it is: a column with a default, a check of the same name, a comment. So an operator may have made
//! another one, and all of this may be run again. An `ALTER TABLE` waits for every reader, and whoever comes after waits for
//! it; so a table's alterations are one statement, tried for moments (see [`crate::finish::at_a_quiet_moment`]).

use std::collections::HashMap;
use std::sync::Arc;

use crossfade_core::{Check, Column, DefaultValue, Details, Logical, Result, TableSchema};
use tokio_postgres::Client;

use crate::catalog::{self, Existing};
use crate::classify::{classify, classify_in};
use crate::finish::at_a_quiet_moment;
use crate::quote::{self, ident, literal};

/// A default as SQL; `None` if a column of this type cannot hold it.
pub fn default_sql(logical: &Logical, default: &DefaultValue) -> Option<String> {
    const INSTANT: &str = "CURRENT_TIMESTAMP";
    const UTC: &str = "(CURRENT_TIMESTAMP AT TIME ZONE 'UTC')";
    // `CURRENT_TIMESTAMP(0)` would round, half a second into the future.
    let cut = |clock: &str, digits: u8| match digits {
        0 => Some(format!("pg_catalog.date_trunc('second', {clock})")),
        3 => Some(format!("pg_catalog.date_trunc('milliseconds', {clock})")),
        6 => Some(clock.to_owned()),
        _ => None,
    };
    match (default, logical) {
        (DefaultValue::Text(_), Logical::Bytes) => None,
        (DefaultValue::Text(text), _) => Some(literal(text)),
        (DefaultValue::Bytes(bytes), Logical::Bytes) => {
            let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
            Some(literal(&format!("\\x{hex}")))
        }
        (DefaultValue::Bytes(_), _) => None,
        (DefaultValue::Now { digits }, Logical::TimestampTz) => cut(INSTANT, *digits),
        (DefaultValue::Now { digits }, Logical::Timestamp) => cut("LOCALTIMESTAMP", *digits),
        (DefaultValue::NowUtc, Logical::TimestampTz) => cut(INSTANT, 0),
        (DefaultValue::NowUtc, Logical::Timestamp) => cut(UTC, 0),
        (DefaultValue::NowUtc, Logical::Text) => Some(format!("pg_catalog.to_char({UTC}, 'YYYY-MM-DD HH24:MI:SS')")),
        (DefaultValue::Now { .. } | DefaultValue::NowUtc, _) => None,
        (DefaultValue::Postgres(expression), _) => Some(expression.clone()),
    }
}

/// Columns with the default that each is to get.
fn defaults<'a>(table: &'a TableSchema, details: &'a Details) -> impl Iterator<Item = (&'a Column, String)> {
    details.columns.iter().filter_map(|c| {
        let column = &table.columns[table.ordinal(&c.name)?];
        Some((column, default_sql(&column.logical, c.default.as_ref()?)?))
    })
}

fn set_default(column: &Column, default: &str) -> String {
    format!("ALTER COLUMN {} SET DEFAULT {default}", ident(&column.name))
}

fn add_check(check: &Check) -> String {
    format!("ADD CONSTRAINT {} CHECK ({})", ident(&check.name), check.condition)
}

fn comment_on_table(table: &TableSchema, comment: &str) -> String {
    format!("COMMENT ON TABLE {} IS {}", quote::table(&table.name), literal(comment))
}

fn comment_on_column(table: &TableSchema, column: &str, comment: &str) -> String {
    format!("COMMENT ON COLUMN {}.{} IS {}", quote::table(&table.name), ident(column), literal(comment))
}

/// The statements that give a table without details all of them.
pub fn statements(table: &TableSchema, details: &Details) -> Vec<String> {
    let alter = |action: String| format!("ALTER TABLE {} {action}", quote::table(&table.name));
    let defaults = defaults(table, details).map(|(c, d)| alter(set_default(c, &d)));
    let checks = details.checks.iter().map(|c| alter(add_check(c)));
    let comment = details.comment.iter().map(|text| comment_on_table(table, text));
    let of_column = |c: &crossfade_core::ColumnDetails| Some(comment_on_column(table, &c.name, c.comment.as_ref()?));
    defaults.chain(checks).chain(comment).chain(details.columns.iter().filter_map(of_column)).collect()
}

/// What a table has already.
struct There {
    comment: bool,
    /// Commented columns.
    columns: Vec<String>,
    /// Checks, and whether all rows were found to meet each.
    checks: HashMap<String, bool>,
}

const COMMENTS: &str = "\
    SELECT a.attname::text FROM pg_catalog.pg_attribute a WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped \
        AND pg_catalog.col_description(a.attrelid, a.attnum::int4) IS NOT NULL";

const CHECKS: &str = "SELECT conname::text, convalidated FROM pg_catalog.pg_constraint WHERE conrelid = $1";

async fn there(client: &Client, existing: &Existing) -> Result<There> {
    let sql = "SELECT pg_catalog.obj_description($1::oid, 'pg_class') IS NOT NULL";
    let comment = client.query_one(sql, &[&existing.oid]).await.and_then(|row| row.try_get(0)).map_err(classify)?;
    let columns = client.query(COMMENTS, &[&existing.oid]).await.map_err(classify)?;
    let checks = client.query(CHECKS, &[&existing.oid]).await.map_err(classify)?;
    Ok(There {
        comment,
        columns: columns.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(classify)?,
        checks: checks
            .iter()
            .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
            .collect::<Result<_, tokio_postgres::Error>>()
            .map_err(classify)?,
    })
}

/// Gives tables what they lack of their details. One that is somebody else's is left alone, with a warning that names the
/// statements.
pub async fn set(client: &Client, tables: &[(Arc<TableSchema>, Details)]) -> Result<()> {
    for (table, details) in tables {
        if statements(table, details).is_empty() {
            continue;
        }
        let Some(existing) = catalog::table(client, &table.name).await? else { continue };
        if !existing.owned {
            let hint = statements(table, details).join("; ");
            tracing::warn!(table = %table.name, hint, "it has another owner: defaults, checks and comments are not set");
            continue;
        }
        let there = there(client, &existing).await?;
        alter(client, table, details, &existing, &there).await?;
        comment(client, table, details, &there).await?;
    }
    Ok(())
}

async fn alter(
    client: &Client,
    table: &TableSchema,
    details: &Details,
    existing: &Existing,
    there: &There,
) -> Result<()> {
    let bare = |c: &Column| existing.columns.iter().any(|e| e.name == c.name && !e.has_default && !e.generated);
    let defaults = defaults(table, details).filter(|(c, _)| bare(c)).map(|(c, d)| set_default(c, &d));
    let missing = details.checks.iter().filter(|c| !there.checks.contains_key(&c.name));
    let actions: Vec<String> = defaults.chain(missing.map(|c| format!("{} NOT VALID", add_check(c)))).collect();
    let name = quote::table(&table.name);
    if !actions.is_empty() {
        let statement = format!("ALTER TABLE {name} {}", actions.join(", "));
        let made = at_a_quiet_moment(client, table, &statement).await.map_err(|e| {
            e.context("setting its defaults and checks").hint(format!(
                "make them by hand in a form that this server takes; what is there is left as it is: {statement}"
            ))
        })?;
        if !made {
            let why = "somebody reads the table all the time: its defaults and checks are not set";
            tracing::warn!(table = %table.name, hint = statement, "{why}");
            return Ok(());
        }
    }
    for check in details.checks.iter().filter(|c| there.checks.get(&c.name) != Some(&true)) {
        let statement = format!("ALTER TABLE {name} VALIDATE CONSTRAINT {}", ident(&check.name));
        client.batch_execute(&statement).await.map_err(|e| {
            classify_in(&table.name, e).context(format!("check {}", check.name)).hint(
                "the source holds rows that do not meet its own check: mend them there, or drop the check at both ends",
            )
        })?;
    }
    Ok(())
}

async fn comment(client: &Client, table: &TableSchema, details: &Details, there: &There) -> Result<()> {
    let on_table = details.comment.iter().filter(|_| !there.comment).map(|text| comment_on_table(table, text));
    let on_columns = details.columns.iter().filter(|c| !there.columns.contains(&c.name)).filter_map(|c| {
        table.ordinal(&c.name)?;
        Some(comment_on_column(table, &c.name, c.comment.as_ref()?))
    });
    let statements: Vec<String> = on_table.chain(on_columns).collect();
    let made = client.batch_execute(&statements.join("; ")).await;
    made.map_err(|e| classify_in(&table.name, e).context("setting its comments"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_as_sql() {
        let now = |digits| DefaultValue::Now { digits };
        for (logical, default, sql) in [
            (Logical::Int32, DefaultValue::Text("0".into()), Some("'0'")),
            (Logical::Text, DefaultValue::Text("it's \\n".into()), Some("E'it''s \\\\n'")),
            (Logical::Bytes, DefaultValue::Bytes(vec![0, 255]), Some("E'\\\\x00ff'")),
            (Logical::Text, DefaultValue::Bytes(vec![0]), None),
            (Logical::Bytes, DefaultValue::Text("a".into()), None),
            (Logical::Timestamp, now(6), Some("LOCALTIMESTAMP")),
            (Logical::TimestampTz, now(0), Some("pg_catalog.date_trunc('second', CURRENT_TIMESTAMP)")),
            (Logical::Timestamp, now(1), None),
            (Logical::Text, now(6), None),
            (Logical::Date, DefaultValue::NowUtc, None),
        ] {
            assert_eq!(default_sql(&logical, &default).as_deref(), sql, "{logical:?} {default:?}");
        }
    }
}
