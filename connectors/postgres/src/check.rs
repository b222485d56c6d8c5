//! Preflight: what of the server, the user's privileges and the tables stands in the way. Changes nothing.
//!
//! Everything is looked up, nothing tried: privileges come from `has_*_privilege`, the right to set
//! `session_replication_role` from `has_parameter_privilege` (15 and later). Each finding carries the statement that mends
//! it. What can be told only by writing (a trigger that refuses, a full disk) is not told here.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crossfade_core::{Column, Finding, Result, TableName, TableSchema};
use tokio_postgres::types::FromSql;
use tokio_postgres::{Client, Row};

use crate::catalog::{self, Existing};
use crate::classify::classify;
use crate::control;
use crate::ddl;
use crate::finish;
use crate::missing;
use crate::quote;
use crate::shape;

/// The oldest version whose behaviour is known here.
const OLDEST: i32 = 130_000;

/// Below this the server checkpoints every few seconds during the copy.
const SMALL_WAL_MIB: i64 = 512;

/// What the server says about itself and the user.
struct Facts {
    version: i32,
    version_text: String,
    user: String,
    database: String,
    encoding: String,
    recovery: bool,
    max_wal_mib: i64,
    may_replicate: bool,
    may_create_schema: bool,
    may_stage: bool,
    has_control: bool,
    may_use_control: bool,
}

const FACTS: &str = "\
SELECT pg_catalog.current_setting('server_version_num')::int4, pg_catalog.current_setting('server_version'),
       current_user::text, pg_catalog.current_database()::text, pg_catalog.current_setting('server_encoding'),
       pg_catalog.pg_is_in_recovery(),
       (SELECT setting::int8 FROM pg_catalog.pg_settings WHERE name = 'max_wal_size'),
       pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE'),
       (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user),
       pg_catalog.has_database_privilege(pg_catalog.current_database(), 'TEMPORARY'), n.oid IS NOT NULL,
       n.oid IS NULL OR (pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND COALESCE(
           (SELECT pg_catalog.bool_and(pg_catalog.has_table_privilege(c.oid, 'SELECT')
                   AND pg_catalog.has_table_privilege(c.oid, 'INSERT')
                   AND pg_catalog.has_table_privilege(c.oid, 'UPDATE')
                   AND pg_catalog.has_table_privilege(c.oid, 'DELETE'))
            FROM pg_catalog.pg_class c WHERE c.relnamespace = n.oid AND c.relname IN ('checkpoint', 'chunk')),
           pg_catalog.has_schema_privilege(n.oid, 'CREATE')))
FROM (SELECT) one LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = 'crossfade'";

async fn facts(client: &Client) -> Result<Facts> {
    let row = client.query_one(FACTS, &[]).await.map_err(classify)?;
    let mut facts = read_facts(&row).map_err(classify)?;
    if !facts.may_replicate && facts.version >= 150_000 {
        let sql = "SELECT pg_catalog.has_parameter_privilege('session_replication_role', 'SET')";
        facts.may_replicate = client.query_one(sql, &[]).await.and_then(|row| row.try_get(0)).map_err(classify)?;
    }
    Ok(facts)
}

fn read_facts(row: &Row) -> Result<Facts, tokio_postgres::Error> {
    Ok(Facts {
        version: row.try_get(0)?,
        version_text: row.try_get(1)?,
        user: row.try_get(2)?,
        database: row.try_get(3)?,
        encoding: row.try_get(4)?,
        recovery: row.try_get(5)?,
        max_wal_mib: row.try_get(6)?,
        may_create_schema: row.try_get(7)?,
        may_replicate: row.try_get(8)?,
        may_stage: row.try_get(9)?,
        has_control: row.try_get(10)?,
        may_use_control: row.try_get(11)?,
    })
}

/// Compares the server and its tables with what this pipeline needs to bring these tables.
pub async fn check(client: &Client, pipeline: &str, tables: &[Arc<TableSchema>]) -> Result<Vec<Finding>> {
    let facts = facts(client).await?;
    let mut findings = server(&facts);
    findings.push(control(&facts));
    findings.extend(missing::types(client, tables).await?);
    let carried = carried(client, &facts, pipeline).await?;
    // Asked once for each schema, which may hold thousands of tables.
    let mut schemas: HashMap<&str, (HashSet<String>, Option<Finding>)> = HashMap::new();
    for table in tables {
        // One that is carried gets another shape with the log, which suspends it where there is no room for that.
        if let Err(error) = ddl::create(carried.shapes.get(&table.name).unwrap_or(table)) {
            let fix = error.hint_text().unwrap_or("exclude the table").to_owned();
            findings.push(Finding::critical(
                format!("table {}", table.name),
                "a shape that Postgres takes",
                error.to_string(),
                fix,
            ));
            continue;
        }
        let schema = table.name.schema.as_str();
        if !schemas.contains_key(schema) {
            let relations = catalog::relations(client, schema).await?;
            schemas.insert(schema, (relations, unfit(client, schema, &facts).await?));
        }
        let (relations, finding) = &schemas[schema];
        if relations.contains(&table.name.name)
            && let Some(existing) = catalog::table(client, &table.name).await?
        {
            findings.extend(there(client, table, &existing, &facts, &carried).await?);
        } else if finding.as_ref().is_some_and(|f| !findings.contains(f)) {
            findings.extend(finding.clone());
        }
        findings.extend(foreign_keys(table, tables));
    }
    Ok(findings)
}

fn server(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    found.push(match facts.version {
        OLDEST.. => Finding::ok("server version", &facts.version_text),
        _ => Finding::critical("server version", "13 or later", &facts.version_text, "upgrade the server"),
    });
    found.push(match facts.encoding.as_str() {
        "UTF8" => Finding::ok("server_encoding", "UTF8"),
        other => Finding::critical(
            "server_encoding",
            "UTF8",
            other,
            "CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0, and name that database in the URL",
        ),
    });
    found.push(match facts.recovery {
        false => Finding::ok("server role", "primary"),
        true => Finding::critical(
            "server role",
            "a primary",
            "a standby, which takes no writes",
            "name the primary in the URL, or all hosts with target_session_attrs=read-write",
        ),
    });
    found.push(match facts.may_replicate {
        true => Finding::ok("session_replication_role", "may be set"),
        false => Finding::warning(
            "session_replication_role",
            "may be set, so that triggers and foreign keys of the target do not act a second time",
            format!("user {} may not set it", facts.user),
            if facts.version >= 150_000 {
                format!("GRANT SET ON PARAMETER session_replication_role TO {}", quote::ident(&facts.user))
            } else {
                format!("ALTER ROLE {} SUPERUSER (before Postgres 15 nothing less will do)", quote::ident(&facts.user))
            },
        ),
    });
    if !facts.may_stage {
        found.push(Finding::critical(
            format!("database {}", facts.database),
            "temporary tables may be made in it, for staging",
            format!("user {} may not", facts.user),
            format!("GRANT TEMPORARY ON DATABASE {} TO {}", quote::ident(&facts.database), quote::ident(&facts.user)),
        ));
    }
    found.push(match facts.max_wal_mib {
        SMALL_WAL_MIB.. => Finding::ok("max_wal_size", format!("{} MB", facts.max_wal_mib)),
        mib => Finding::warning(
            "max_wal_size",
            format!("{SMALL_WAL_MIB} MB or more while the initial copy runs"),
            format!("{mib} MB: the copy will spend its time on checkpoints"),
            "ALTER SYSTEM SET max_wal_size = '4GB'; SELECT pg_reload_conf()",
        ),
    });
    found
}

/// The schema that the checkpoints live in.
fn control(facts: &Facts) -> Finding {
    let user = quote::ident(&facts.user);
    match (facts.has_control, facts.may_use_control, facts.may_create_schema) {
        (true, true, _) => Finding::ok("schema crossfade", "there, and may be written"),
        (true, false, _) => Finding::critical(
            "schema crossfade",
            "may be written",
            format!("there, but user {} may not write it", facts.user),
            format!(
                "GRANT USAGE, CREATE ON SCHEMA crossfade TO {user}; \
                 GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA crossfade TO {user}"
            ),
        ),
        (false, _, true) => Finding::ok("schema crossfade", "will be created"),
        (false, _, false) => Finding::critical(
            "schema crossfade",
            "there, or may be created",
            format!("user {} may not create schemas in database {}", facts.user, facts.database),
            format!("CREATE SCHEMA crossfade AUTHORIZATION {user}"),
        ),
    }
}

/// What pipelines have prepared or begun to copy here.
struct Carried<'a> {
    /// The pipeline that asks.
    pipeline: &'a str,
    /// Its initial copy has ended.
    streaming: bool,
    /// The pipelines that have written to a table, or may have.
    by: HashMap<TableName, Vec<String>>,
    /// This pipeline's tables as they are at its checkpoint. The source may have given one another shape since: the log brings it.
    shapes: HashMap<TableName, Arc<TableSchema>>,
}

impl Carried<'_> {
    fn by_us(&self, table: &TableName) -> bool {
        self.all(table).iter().any(|p| p == self.pipeline)
    }

    fn all(&self, table: &TableName) -> &[String] {
        self.by.get(table).map_or(&[], Vec::as_slice)
    }
}

async fn carried<'a>(client: &Client, facts: &Facts, pipeline: &'a str) -> Result<Carried<'a>> {
    let mut carried = Carried { pipeline, streaming: false, by: HashMap::new(), shapes: HashMap::new() };
    let there = catalog::table(client, &TableName::new("crossfade", "checkpoint")).await?.is_some();
    if !there || !facts.may_use_control {
        return Ok(carried);
    }
    // Tables of an earlier build lack some that the next run makes; whose rows are here they tell all the same.
    if control::exists(client).await?
        && let Some(state) = control::read(client, pipeline).await?
    {
        carried.shapes = state.tables.into_iter().map(|t| (t.name.clone(), t)).collect();
    }
    let sql = "SELECT t #>> '{name,schema}', t #>> '{name,name}', pipeline, phase = 'streaming' AND pipeline = $1 \
                   FROM crossfade.checkpoint, pg_catalog.jsonb_array_elements(tables) t \
               UNION SELECT table_schema, table_name, pipeline, false FROM crossfade.chunk ORDER BY 3";
    for row in client.query(sql, &[&pipeline]).await.map_err(classify)? {
        let name = TableName::new(get::<String>(&row, 0)?, get::<String>(&row, 1)?);
        carried.by.entry(name).or_default().push(get(&row, 2)?);
        carried.streaming |= get::<bool>(&row, 3)?;
    }
    Ok(carried)
}

fn get<'a, T: FromSql<'a>>(row: &'a Row, column: usize) -> Result<T> {
    row.try_get(column).map_err(classify)
}

/// Why no table could be made in a schema.
async fn unfit(client: &Client, name: &str, facts: &Facts) -> Result<Option<Finding>> {
    let setting = format!("schema {name}");
    let (schema, user) = (quote::ident(name), quote::ident(&facts.user));
    if !catalog::has_schema(client, name).await? {
        return Ok((!facts.may_create_schema).then(|| {
            Finding::critical(
                setting,
                "there, or may be created",
                format!("missing, and user {} may not create schemas in database {}", facts.user, facts.database),
                format!("GRANT CREATE ON DATABASE {} TO {user}", quote::ident(&facts.database)),
            )
        }));
    }
    let sql = "SELECT pg_catalog.has_schema_privilege($1, 'CREATE') AND pg_catalog.has_schema_privilege($1, 'USAGE')";
    let may: bool = client.query_one(sql, &[&name]).await.and_then(|row| row.try_get(0)).map_err(classify)?;
    Ok((!may).then(|| {
        Finding::critical(
            setting,
            "tables may be created in it",
            format!("user {} may not", facts.user),
            format!("GRANT USAGE, CREATE ON SCHEMA {schema} TO {user}"),
        )
    }))
}

/// A table that is there already: its shape, the privileges on it, its rows, its triggers.
async fn there(
    client: &Client,
    table: &TableSchema,
    existing: &Existing,
    facts: &Facts,
    carried: &Carried<'_>,
) -> Result<Vec<Finding>> {
    let setting = format!("table {}", table.name);
    let name = quote::table(&table.name);
    let ours = carried.by_us(&table.name) && !carried.streaming;
    let key = if ours { ddl::Key::ToCome } else { ddl::Key::There };
    let shape = carried.shapes.get(&table.name).map_or(table, Arc::as_ref);
    let mut found: Vec<Finding> = ddl::differences(shape, existing, key)
        .into_iter()
        .map(|d| Finding::critical(format!("{setting}, {}", d.what), d.expected, d.actual, d.fix))
        .collect();
    let (readable, privileges) = privileges(client, table, existing, facts).await?;
    found.extend(privileges);
    if readable && !carried.by_us(&table.name) && matches!(existing.kind, 'r' | 'p') {
        found.extend(strange_rows(client, &table.name, carried).await?);
    }
    found.extend(unnumbered(table, existing));
    found.extend(unique_indexes(table, existing, carried.streaming && carried.by_us(&table.name)));
    if !facts.may_replicate {
        let triggers = triggers(client, existing.oid).await?;
        if !triggers.is_empty() {
            found.push(Finding::warning(
                setting.clone(),
                "no triggers, as session_replication_role may not be set",
                format!("triggers that will fire for every change: {}", triggers.join(", ")),
                format!("ALTER TABLE {name} DISABLE TRIGGER USER, until the cutover"),
            ));
        }
    }
    if found.is_empty() {
        found.push(Finding::ok(setting, "there, in a shape that will do"));
    }
    Ok(found)
}

/// Rows of a table that this pipeline has not written to.
async fn strange_rows(client: &Client, table: &TableName, carried: &Carried<'_>) -> Result<Option<Finding>> {
    let name = quote::table(table);
    let sql = format!("SELECT EXISTS (SELECT FROM {name})");
    let rows: bool = client.query_one(&sql, &[]).await.and_then(|row| row.try_get(0)).map_err(classify)?;
    let (whose, fix) = match carried.all(table) {
        [] => (String::new(), String::new()),
        others => {
            let others = others.join(", ");
            (format!(", those of pipeline {others}"), format!("run the pipeline under the name {others}; or "))
        }
    };
    Ok(rows.then(|| {
        Finding::critical(
            format!("table {table}"),
            format!("empty, as pipeline {} has not written to it", carried.pipeline),
            format!("it holds rows{whose}"),
            format!("{fix}TRUNCATE TABLE {name}; or carry the table under another name"),
        )
    }))
}

/// Unique indexes beside the key's. While the copy runs chunks and stream bring rows from different times, so that two rows
/// may hold one value for a while.
fn unique_indexes(table: &TableSchema, existing: &Existing, copied: bool) -> Vec<Finding> {
    let names: Vec<&str> = shape::secondary_unique(table, existing).map(|i| i.name.as_str()).collect();
    let extra: Vec<&str> = shape::extra_columns(table, existing).map(|c| c.name.as_str()).collect();
    let (setting, list) = (format!("table {}, unique indexes", table.name), names.join(", "));
    let mut found = Vec::new();
    if !names.is_empty() && !copied {
        found.push(Finding::warning(
            setting.clone(),
            "none beside the key's until the copy has ended",
            format!("{list}: rows that exchange values while the copy runs would stop the pipeline"),
            format!("drop them until the copy ends, or expect a stop: {list}"),
        ));
    }
    if !names.is_empty() && !extra.is_empty() {
        let extra = extra.join(", ");
        found.push(Finding::warning(
            setting,
            "none beside the key's, as the table has columns that the source lacks",
            format!(
                "{list}: rows that exchange values of them cannot be written anew without losing {extra}, and would stop \
                 the pipeline"
            ),
            format!("drop the indexes {list} until the cutover, or move {extra} to a table of their own"),
        ));
    }
    found
}

/// Whether the table may be read, and what the user may not do with it.
async fn privileges(
    client: &Client,
    table: &TableSchema,
    existing: &Existing,
    facts: &Facts,
) -> Result<(bool, Vec<Finding>)> {
    let setting = format!("table {}", table.name);
    let (name, user) = (quote::table(&table.name), quote::ident(&facts.user));
    let mut found = Vec::new();
    let sql = "SELECT pg_catalog.has_schema_privilege($1, 'USAGE')";
    let usable: bool =
        client.query_one(sql, &[&table.name.schema]).await.and_then(|r| r.try_get(0)).map_err(classify)?;
    if !usable {
        found.push(Finding::critical(
            format!("schema {}", table.name.schema),
            "may be used",
            format!("user {} may not", facts.user),
            format!("GRANT USAGE ON SCHEMA {} TO {user}", quote::ident(&table.name.schema)),
        ));
    }
    let lacking = lacking_privileges(client, existing.oid).await?;
    if !lacking.is_empty() {
        let list = lacking.join(", ");
        found.push(Finding::critical(
            setting.clone(),
            "SELECT, INSERT, UPDATE, DELETE",
            format!("user {} lacks {list}", facts.user),
            format!("GRANT {list} ON TABLE {name} TO {user}"),
        ));
    }
    if !existing.owned {
        found.push(Finding::warning(
            setting,
            "owned by the user, so that indexes, foreign keys and the source's schema changes can be made",
            format!("user {} does not own it", facts.user),
            format!("ALTER TABLE {name} OWNER TO {user}"),
        ));
    }
    Ok((usable && !lacking.iter().any(|p| p == "SELECT"), found))
}

/// Columns that number rows in the source and will not here.
fn unnumbered(table: &TableSchema, existing: &Existing) -> Vec<Finding> {
    let bare = |column: &&Column| existing.columns.iter().any(|e| e.name == column.name && !e.has_default);
    let finding = |column: &Column| {
        Finding::warning(
            format!("table {}, column {}", table.name, column.name),
            "a default that numbers new rows, as in the source",
            "none: after the cutover each row must bring its own number",
            format!(
                "ALTER TABLE {} ALTER COLUMN {} ADD GENERATED BY DEFAULT AS IDENTITY",
                quote::table(&table.name),
                quote::ident(&column.name)
            ),
        )
    };
    table.columns.iter().filter(|c| c.auto_increment).filter(bare).map(finding).collect()
}

/// Privileges on a table that the writer needs and the user has not.
async fn lacking_privileges(client: &Client, oid: u32) -> Result<Vec<String>> {
    let sql = "SELECT p FROM pg_catalog.unnest('{SELECT,INSERT,UPDATE,DELETE}'::text[]) WITH ORDINALITY u(p, o) \
               WHERE NOT pg_catalog.has_table_privilege($1::oid, p) ORDER BY o";
    let rows = client.query(sql, &[&oid]).await.map_err(classify)?;
    rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(classify)
}

/// Enabled triggers of a table, those of its foreign keys left out.
async fn triggers(client: &Client, oid: u32) -> Result<Vec<String>> {
    let sql = "SELECT tgname::text FROM pg_catalog.pg_trigger \
               WHERE tgrelid = $1 AND NOT tgisinternal AND tgenabled IN ('O', 'A') ORDER BY 1";
    let rows = client.query(sql, &[&oid]).await.map_err(classify)?;
    rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(classify)
}

/// Foreign keys that will not be there after the cutover.
fn foreign_keys<'a>(table: &'a TableSchema, tables: &'a [Arc<TableSchema>]) -> impl Iterator<Item = Finding> + 'a {
    table.foreign_keys.iter().filter_map(move |key| {
        let why = finish::foreign_key(table, key, tables).err()?;
        Some(Finding::warning(
            format!("table {}, foreign key {}", table.name, key.name),
            "both ends carried, and the columns referred to unique",
            format!("it will not be created: {why}"),
            "create it by hand at the cutover, if it is wanted",
        ))
    })
}
