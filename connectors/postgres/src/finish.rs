//! What a table gets when its initial copy has ended: its primary key, secondary indexes, foreign keys, sequence values.
//!
//! Everything here may be run again: an index of the same columns, or of the name that Crossfade would give, is left as it
//! is, so an operator who wants another index (the source's was on a prefix, say) makes it under that name.
//!
//! Index names are the source's where that is possible. In Postgres they share one namespace per schema with tables and
//! sequences, so a name that two of the tables use, or that something else has, is prefixed with the table's name, and with
//! a hash where even that is taken or too long. The choice follows from the set of tables, not from their order.
//!
//! Foreign keys are `DEFERRABLE INITIALLY IMMEDIATE`: they act as the source's do, and a writer that may not set
//! `session_replication_role` can still `SET CONSTRAINTS ALL DEFERRED`, because batches are ordered by table.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crossfade_core::{ForeignKey, Index, Result, TableSchema};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::catalog::{self, Existing};
use crate::classify::{classify, classify_in};
use crate::ddl::{self, hashed, short};
use crate::quote::{self, MAX_NAME, ident, idents};
use crate::shape;
use crate::types::PgType;

/// Builds all that waits for the end of the copy. All tables get their indexes before any gets a foreign key, which needs
/// a unique index to refer to.
pub async fn finish_copy(client: &Client, tables: &[Arc<TableSchema>]) -> Result<()> {
    // Read once: a schema of thousands of tables has a multiple of that in names.
    let mut taken: HashMap<&str, HashSet<String>> = HashMap::new();
    for table in tables {
        let schema = table.name.schema.as_str();
        if !taken.contains_key(schema) {
            taken.insert(schema, catalog::relations(client, schema).await?);
        }
        let existing = keyed(client, table).await?;
        taken.entry(schema).or_default().extend(existing.indexes.iter().map(|i| i.name.clone()));
        for (name, statement) in indexes(table, tables, &existing, &taken[schema]) {
            taken.entry(schema).or_default().insert(name.clone());
            client.batch_execute(&statement).await.map_err(|e| {
                classify_in(&table.name, e).context(format!("creating index {name}")).hint(format!(
                    "mend the cause, or create an index {name} of your own on {}: it will be left as it is",
                    table.name
                ))
            })?;
        }
        for statement in sequences(table) {
            client.batch_execute(&statement).await.map_err(|e| classify_in(&table.name, e))?;
        }
    }
    for table in tables {
        add_foreign_keys(client, table, tables).await?;
    }
    Ok(())
}

/// The table, whose rows are found by a unique index now.
async fn keyed(client: &Client, table: &TableSchema) -> Result<Existing> {
    let look = async || catalog::table(client, &table.name).await?.ok_or_else(|| shape::gone(&table.name));
    let mut existing = look().await?;
    if !ddl::is_keyed(table, &existing) {
        ddl::make_key(client, table).await?;
        existing = look().await?;
    }
    if let Some(statement) = ddl::make_primary(table, &existing) {
        promote(client, table, &statement).await?;
        existing = look().await?;
    }
    Ok(existing)
}

/// How long one attempt may keep readers waiting, and how many are made.
const MOMENT: (&str, u32) = ("100ms", 10);

/// Makes the key's index the primary key's, unless somebody reads the table all the time. The index serves without that.
async fn promote(client: &Client, table: &TableSchema, statement: &str) -> Result<()> {
    let made = at_a_quiet_moment(client, table, statement).await.map_err(|e| e.context("making its primary key"))?;
    if !made {
        tracing::warn!(
            table = %table.name,
            hint = statement,
            "somebody reads the table all the time: its key is a unique index, and not its primary key"
        );
    }
    Ok(())
}

/// Runs a statement that waits for every reader of a table, a moment at a time: the stream must not wait for a reader, nor
/// other readers for us. False if there was no moment without one.
pub async fn at_a_quiet_moment(client: &Client, table: &TableSchema, statement: &str) -> Result<bool> {
    let sql = format!("BEGIN; SET LOCAL lock_timeout = '{}'; {statement}; COMMIT", MOMENT.0);
    for _ in 0..MOMENT.1 {
        let Err(e) = client.batch_execute(&sql).await else { return Ok(true) };
        let locked = e.code() == Some(&SqlState::LOCK_NOT_AVAILABLE);
        client.batch_execute("ROLLBACK").await.map_err(classify)?;
        if !locked {
            return Err(classify_in(&table.name, e));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(false)
}

/// Names and statements of the indexes that a table lacks. `tables` are all that the pipeline carries, `taken` the names of
/// all relations in the table's schema.
pub fn indexes(
    table: &TableSchema,
    tables: &[Arc<TableSchema>],
    existing: &Existing,
    taken: &HashSet<String>,
) -> Vec<(String, String)> {
    let mut statements = Vec::new();
    for index in &table.indexes {
        let columns: Vec<&str> =
            index.columns.iter().filter_map(|i| table.columns.get(*i)).map(|c| c.name.as_str()).collect();
        let same = |e: &&catalog::ExistingIndex| e.columns == columns && (e.unique || !index.unique);
        if existing.indexes.iter().any(|e| same(&e)) {
            continue;
        }
        let free = |name: &String| !taken.contains(name) || existing.indexes.iter().any(|e| e.name == *name);
        let candidates = candidates(table, index, tables);
        let name = candidates.iter().find(|n| free(n)).or(candidates.last()).cloned().unwrap_or_default();
        if existing.indexes.iter().any(|e| e.name == name) {
            continue;
        }
        let unique = if index.unique { "UNIQUE " } else { "" };
        statements.push((
            name.clone(),
            format!(
                "CREATE {unique}INDEX {} ON {} ({})",
                ident(&name),
                quote::table(&table.name),
                idents(columns.iter().copied())
            ),
        ));
    }
    statements
}

/// Names for an index, best first. The last is unique by its hash.
fn candidates(table: &TableSchema, index: &Index, tables: &[Arc<TableSchema>]) -> Vec<String> {
    let schema = &table.name.schema;
    let neighbours = || tables.iter().filter(|t| t.name.schema == *schema);
    // Names that others ask for are left to nobody, so that the outcome does not depend on who comes first.
    let contested = |name: &str| {
        neighbours().any(|t| t.name.name == name)
            || neighbours().filter(|t| t.name != table.name).flat_map(|t| &t.indexes).any(|i| i.name == name)
    };
    let prefixed = format!("{}_{}", table.name.name, index.name);
    let identity = format!("{:?}", (&table.name.schema, &table.name.name, &index.name));
    let mut names: Vec<String> = [index.name.clone(), prefixed.clone()]
        .into_iter()
        .filter(|n| !n.is_empty() && n.len() <= MAX_NAME && !contested(n))
        .collect();
    names.push(hashed(&prefixed, &identity));
    names
}

/// Makes the foreign keys whose both ends are carried, without and then with a look at the rows: the lock that stops
/// writers is held only for the first.
async fn add_foreign_keys(client: &Client, table: &TableSchema, tables: &[Arc<TableSchema>]) -> Result<()> {
    let existing = catalog::foreign_keys(client, &table.name).await?;
    let name = quote::table(&table.name);
    for key in &table.foreign_keys {
        let add = match foreign_key(table, key, tables) {
            Ok(add) => add,
            Err(why) => {
                tracing::warn!(table = %table.name, foreign_key = key.name, "not created: {why}");
                continue;
            }
        };
        let columns: Vec<&str> = columns_of(table, key).collect();
        let constraint = short(&key.name, &key.name);
        let there = existing.iter().find(|e| {
            e.name == constraint || (e.columns == columns && e.to == key.to && e.to_columns == key.to_columns)
        });
        let named = ident(there.map_or(&constraint, |e| &e.name));
        let failed = |e| classify_in(&table.name, e).context(format!("foreign key {constraint}"));
        if there.is_none() {
            client.batch_execute(&format!("{add} NOT VALID")).await.map_err(failed)?;
        }
        if !there.is_some_and(|e| e.valid) {
            let statement = format!("ALTER TABLE {name} VALIDATE CONSTRAINT {named}");
            client.batch_execute(&statement).await.map_err(|e| {
                failed(e).hint(format!(
                    "the source holds rows that refer to nothing: delete them there, or drop the foreign key {constraint}"
                ))
            })?;
        }
    }
    Ok(())
}

fn columns_of<'a>(table: &'a TableSchema, key: &'a ForeignKey) -> impl Iterator<Item = &'a str> {
    key.columns.iter().filter_map(|i| table.columns.get(*i)).map(|c| c.name.as_str())
}

/// Why Postgres will not have a foreign key: it demands a unique index on the columns referred to, and types that compare.
pub fn unfit(table: &TableSchema, key: &ForeignKey, parent: &TableSchema) -> Option<String> {
    let target: Option<Vec<usize>> = key.to_columns.iter().map(|c| parent.ordinal(c)).collect();
    let Some(target) = target else { return Some(format!("{} lacks a column that it refers to", key.to)) };
    let set = |ordinals: &[usize]| ordinals.iter().copied().collect::<HashSet<_>>();
    let unique = parent.indexes.iter().filter(|i| i.unique).map(|i| &i.columns).chain([&parent.key]);
    if !unique.into_iter().any(|columns| set(columns) == set(&target)) {
        return Some(format!("the columns it refers to, {} ({}), are not unique", key.to, key.to_columns.join(", ")));
    }
    let family = |kind: PgType| match kind {
        PgType::SmallInt | PgType::Integer | PgType::BigInt | PgType::Decimal { .. } | PgType::Numeric => "number",
        PgType::Real | PgType::Double => "float",
        other => other.typname(),
    };
    let differs = key.columns.iter().zip(&target).find(|(mine, theirs)| {
        let kind = |t: &TableSchema, i: usize| t.columns.get(i).map(|c| family(PgType::of(&c.logical)));
        kind(table, **mine) != kind(parent, **theirs)
    });
    differs.map(|_| format!("its types differ from those of {}", key.to))
}

/// The statement that makes a foreign key; an error says why Postgres will not have it.
pub fn foreign_key(table: &TableSchema, key: &ForeignKey, tables: &[Arc<TableSchema>]) -> Result<String, String> {
    let Some(parent) = tables.iter().find(|t| t.name == key.to) else {
        return Err(format!("{} is not carried", key.to));
    };
    match unfit(table, key, parent) {
        Some(why) => Err(why),
        None => {
            let (name, constraint) = (quote::table(&table.name), ident(&short(&key.name, &key.name)));
            Ok(format!("ALTER TABLE {name} ADD CONSTRAINT {constraint} {}", clause(table, key)))
        }
    }
}

fn clause(table: &TableSchema, key: &ForeignKey) -> String {
    format!(
        "FOREIGN KEY ({}) REFERENCES {} ({}) ON DELETE {} ON UPDATE {} DEFERRABLE INITIALLY IMMEDIATE",
        idents(columns_of(table, key)),
        quote::table(&key.to),
        idents(key.to_columns.iter().map(String::as_str)),
        action(&key.on_delete),
        action(&key.on_update),
    )
}

/// A referential action; anything that is none refers to the standard's default.
fn action(text: &str) -> &'static str {
    ["CASCADE", "SET NULL", "RESTRICT", "SET DEFAULT"]
        .into_iter()
        .find(|a| a.eq_ignore_ascii_case(text))
        .unwrap_or("NO ACTION")
}

/// Statements after which the next number is one more than the largest there is. A sequence is 64 bits wide: past its end
/// it is left used up, and says so when asked for a number. A column without a sequence is left alone.
pub fn sequences(table: &TableSchema) -> Vec<String> {
    let name = quote::table(&table.name);
    let set = |column: &str| {
        let c = ident(column);
        format!(
            "SELECT pg_catalog.setval(pg_catalog.pg_get_serial_sequence({}, {})::regclass, \
             LEAST(GREATEST(pg_catalog.max({c}), 1), 9223372036854775807)::bigint, COALESCE(pg_catalog.max({c}) >= 1, false)) FROM {name}",
            quote::literal(&name),
            quote::literal(column),
        )
    };
    table.columns.iter().filter(|c| c.auto_increment).map(|c| set(&c.name)).collect()
}

/// Sets the sequences of tables to what the tables hold: at the cutover, after the last change.
pub async fn set_sequences(client: &Client, tables: &[Arc<TableSchema>]) -> Result<()> {
    for statement in tables.iter().flat_map(|t| sequences(t)) {
        client.batch_execute(&statement).await.map_err(classify)?;
    }
    Ok(())
}

/// Statistics of what the stream's statements ask for: keys, or whole rows. Those of other columns are left to the server's
/// autovacuum, whose count of new rows a partial ANALYZE does not set back (`do_analyze_rel` in the server's `commands/analyze.c`): a copy
/// does not wait for what it does not need.
pub async fn analyze(client: &Client, tables: &[Arc<TableSchema>]) -> Result<()> {
    for table in tables {
        let keys = idents(table.key_columns().map(|c| c.name.as_str()));
        let columns = if keys.is_empty() { keys } else { format!(" ({keys})") };
        let sql = format!("ANALYZE {}{columns}", quote::table(&table.name));
        client.batch_execute(&sql).await.map_err(|e| classify_in(&table.name, e))?;
    }
    Ok(())
}
