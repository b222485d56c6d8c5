//! Tables as Crossfade makes them, and how a table that is there already differs from that.
//!
//! A table is made without any index: to build one of rows that are there costs the server a fraction of what it costs to
//! keep it while they come. The key's index comes when the initial copy has ended, or ([`make_key`]) when the stream
//! brings the first change of its rows, which are told apart by it. All else comes at the end of the copy: that it is the
//! primary key's ([`make_primary`]), secondary indexes, foreign keys, sequence values (see [`crate::finish`]). Until then no
//! row can come twice: chunks hold disjoint ranges of the key, and each is committed once. Names longer than 63 bytes are
//! refused: the server would cut them, and two could become one.

use crossfade_core::batch::SchemaStep;
use crossfade_core::{Column, Error, Logical, Result, SchemaChange, TableSchema};
use tokio_postgres::GenericClient;
use tokio_postgres::error::SqlState;

use crate::catalog::{self, Existing, ExistingColumn};
use crate::classify::classify_in;
use crate::quote::{self, MAX_NAME, ident};
use crate::types::{self, Actual, Fit, PgType};

/// One way in which a table is not what it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// `column total`, `key`.
    pub what: String,
    /// What Crossfade needs.
    pub expected: String,
    /// What is there.
    pub actual: String,
    /// The statement that mends it.
    pub fix: String,
}

/// Whether a table that is there must have its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// It must.
    There,
    /// The pipeline has made the table and not ended its copy: the key may be still to come.
    ToCome,
}

/// Makes the table if it is missing; if it is there, an error lists every way in which it will not do. `key` tells whether
/// its key may be still to come.
pub async fn prepare(client: &impl GenericClient, table: &TableSchema, key: Key) -> Result<()> {
    check_names(table)?;
    let failed = |e| classify_in(&table.name, e).context(format!("creating table {}", table.name));
    let Some(existing) = catalog::table(client, &table.name).await? else {
        let statements = create(table)?;
        if !catalog::has_schema(client, &table.name.schema).await? {
            client.batch_execute(&create_schema(&table.name.schema)).await.map_err(failed)?;
        }
        return client.batch_execute(&statements.join("; ")).await.map_err(failed);
    };
    let differences = differences(table, &existing, key);
    if differences.is_empty() {
        return admit_null(client, table, &existing).await;
    }
    let list = |f: fn(&Difference) -> String| differences.iter().map(f).collect::<Vec<_>>().join("; ");
    Err(Error::config(format!(
        "table {} is there already in another shape: {}",
        table.name,
        list(|d| format!("{}: expected {}, found {}", d.what, d.expected, d.actual))
    ))
    .hint(list(|d| d.fix.clone())))
}

/// A policy may have come that makes NULL of values of columns that the source wants to be NOT NULL.
pub async fn admit_null(client: &impl GenericClient, table: &TableSchema, existing: &Existing) -> Result<()> {
    for column in table.columns.iter().filter(|c| c.policies.make_null()) {
        if existing.columns.iter().any(|e| e.name == column.name && e.not_null) {
            let (name, column) = (quote::table(&table.name), ident(&column.name));
            let sql = format!("ALTER TABLE {name} ALTER COLUMN {column} DROP NOT NULL");
            client.batch_execute(&sql).await.map_err(|e| classify_in(&table.name, e))?;
        }
    }
    Ok(())
}

/// `CREATE SCHEMA IF NOT EXISTS`.
pub fn create_schema(schema: &str) -> String {
    format!("CREATE SCHEMA IF NOT EXISTS {}", ident(schema))
}

/// The statements that make a table, its schema being there. They fail if the table exists.
pub fn create(table: &TableSchema) -> Result<Vec<String>> {
    check_names(table)?;
    let name = quote::table(&table.name);
    let mut parts = Vec::with_capacity(table.columns.len() + 1);
    let mut after = Vec::new();
    for (ordinal, column) in table.columns.iter().enumerate() {
        let not_null = if column.nullable && !table.key.contains(&ordinal) { "" } else { " NOT NULL" };
        let numbered = if column.auto_increment { numbering(table, column, &mut after)? } else { "" };
        parts.push(format!("{} {}{not_null}{numbered}", ident(&column.name), types::sql(&column.logical)));
    }
    let mut statements = vec![format!("CREATE TABLE {name} ({})", parts.join(", "))];
    statements.append(&mut after);
    Ok(statements)
}

/// Makes the unique index by which rows are found, of the rows that are there. Readers go on meanwhile; nobody else may be
/// writing to the table. [`make_primary`] makes it the primary key.
pub async fn make_key(client: &impl GenericClient, table: &TableSchema) -> Result<()> {
    let failed = |e: tokio_postgres::Error| {
        let equal = e.code() == Some(&SqlState::UNIQUE_VIOLATION);
        let error = classify_in(&table.name, e).context("making its primary key");
        match equal {
            true => error.hint(
                "the source tells these keys apart, and Postgres does not, or somebody has written to the table at the target",
            ),
            false => error,
        }
    };
    let [wanted, other] = key_names(table);
    let place = format!("{}.{}", ident(&table.name.schema), ident(&wanted));
    let sql = "SELECT pg_catalog.to_regclass($1) IS NULL";
    let free: bool = client.query_one(sql, &[&place]).await.and_then(|row| row.try_get(0)).map_err(failed)?;
    let (name, key) = (if free { wanted } else { other }, quote::idents(table.key_columns().map(|c| c.name.as_str())));
    let sql = format!("CREATE UNIQUE INDEX {} ON {} ({key})", ident(&name), quote::table(&table.name));
    client.batch_execute(&sql).await.map_err(failed)
}

/// Names of the index that [`make_key`] makes: the server's own for a primary key, and one that nobody else has.
pub fn key_names(table: &TableSchema) -> [String; 2] {
    let name = format!("{}_pkey", table.name.name);
    let identity = format!("{:?}", (&table.name.schema, &table.name.name));
    [short(&name, &identity), hashed(&name, &identity)]
}

/// The statement that makes [`make_key`]'s index the primary key, if it is not. It waits for all who read the table, and
/// whoever comes after waits for it: to be run with little patience.
pub fn make_primary(table: &TableSchema, existing: &Existing) -> Option<String> {
    let ours = existing.indexes.iter().find(|i| i.unique && key_names(table).contains(&i.name))?;
    let primary = existing.indexes.iter().any(|i| i.primary);
    let key: Vec<&str> = table.key_columns().map(|c| c.name.as_str()).collect();
    (!primary && !key.is_empty() && ours.columns == key)
        .then(|| format!("ALTER TABLE {} ADD PRIMARY KEY USING INDEX {}", quote::table(&table.name), ident(&ours.name)))
}

/// How new rows are numbered after the cutover. Identity columns must be integers; a `bigint unsigned` is a `numeric` here
/// and gets a sequence as its default.
fn numbering(table: &TableSchema, column: &Column, after: &mut Vec<String>) -> Result<&'static str> {
    match PgType::of(&column.logical) {
        PgType::SmallInt | PgType::Integer | PgType::BigInt => Ok(" GENERATED BY DEFAULT AS IDENTITY"),
        PgType::Decimal { .. } | PgType::Numeric | PgType::Real | PgType::Double => {
            let (name, c) = (quote::table(&table.name), ident(&column.name));
            let wanted = format!("{}_{}_seq", table.name.name, column.name);
            let seq = format!("{}.{}", ident(&table.name.schema), ident(&short(&wanted, &wanted)));
            after.push(format!("CREATE SEQUENCE {seq} OWNED BY {name}.{c}"));
            let seq = quote::literal(&seq);
            after.push(format!("ALTER TABLE {name} ALTER COLUMN {c} SET DEFAULT pg_catalog.nextval({seq})"));
            Ok("")
        }
        other => Err(Error::config(format!(
            "table {}, column {}: rows are numbered by it, and a {} takes no numbers",
            table.name,
            column.name,
            other.sql()
        ))),
    }
}

/// A name that fits: itself, or its beginning with a hash of `identity`, which makes it unique.
pub fn short(name: &str, identity: &str) -> String {
    if name.len() <= MAX_NAME { name.to_owned() } else { hashed(name, identity) }
}

/// The beginning of a name with eight hexadecimal digits that follow from `identity`.
pub fn hashed(name: &str, identity: &str) -> String {
    use sha2::{Digest, Sha256};
    let hash = Sha256::digest(identity.as_bytes());
    let hex: String = hash.iter().take(4).map(|b| format!("{b:02x}")).collect();
    format!("{}_{hex}", quote::cut(name, MAX_NAME - 9))
}

/// Refuses names that the server would cut or does not take.
pub fn check_names(table: &TableSchema) -> Result<()> {
    let columns = table.columns.iter().map(|c| ("column", &c.name));
    for (what, name) in [("schema", &table.name.schema), ("table", &table.name.name)].into_iter().chain(columns) {
        if name.len() > MAX_NAME || name.is_empty() || name.contains('\0') {
            return Err(Error::config(format!(
                "table {}: the name of {what} {name:?} has {} bytes; Postgres takes 1 to {MAX_NAME}",
                table.name,
                name.len()
            ))
            .hint("carry it under a shorter name"));
        }
    }
    // Names of the system's columns are taken in every table (heap.c, SysAtt).
    let system = ["tableoid", "cmax", "xmax", "cmin", "xmin", "ctid"];
    match table.columns.iter().find(|c| system.contains(&c.name.as_str())) {
        Some(c) => Err(Error::config(format!("table {}: Postgres has a column {} of its own", table.name, c.name))
            .hint("carry it under another name")),
        None => Ok(()),
    }
}

/// Every way in which a table that is there will not hold the source's rows.
pub fn differences(table: &TableSchema, existing: &Existing, key: Key) -> Vec<Difference> {
    let alter = format!("ALTER TABLE {}", quote::table(&table.name));
    let mut found = Vec::new();
    let mut add = |what: String, expected: &str, actual: &str, fix: String| {
        found.push(Difference { what, expected: expected.into(), actual: actual.into(), fix });
    };
    if !matches!(existing.kind, 'r' | 'p') {
        add("relation".into(), "a table", &format!("relkind {}", existing.kind), "name another table".into());
    }
    for (ordinal, column) in table.columns.iter().enumerate() {
        let what = format!("column {}", column.name);
        let sql = types::sql(&column.logical);
        match existing.columns.iter().find(|e| e.name == column.name) {
            None => add(what, &sql, "no such column", format!("{alter} ADD COLUMN {} {sql}", ident(&column.name))),
            Some(there) => {
                let in_key = table.key.contains(&ordinal);
                for (expected, actual, fix) in column_differences(column, there, in_key) {
                    add(
                        what.clone(),
                        &expected,
                        &actual,
                        format!("{alter} ALTER COLUMN {} {fix}", ident(&column.name)),
                    );
                }
            }
        }
    }
    let to_come = key == Key::ToCome && !existing.indexes.iter().any(|i| i.primary);
    if let Some((expected, actual)) = key_difference(table, existing).filter(|_| !to_come) {
        let drop = existing.indexes.iter().find(|i| i.primary).map(|i| format!("DROP CONSTRAINT {}, ", ident(&i.name)));
        let key = quote::idents(table.key_columns().map(|c| c.name.as_str()));
        let fix = format!("{alter} {}ADD PRIMARY KEY ({key})", drop.unwrap_or_default());
        add("key".into(), &expected, &actual, fix);
    }
    for extra in existing.columns.iter().filter(|e| table.ordinal(&e.name).is_none()) {
        if extra.not_null && !extra.has_default && !extra.generated {
            let fix = format!("{alter} ALTER COLUMN {} DROP NOT NULL", ident(&extra.name));
            add(
                format!("column {}", extra.name),
                "a default, as the source has no such column",
                "NOT NULL without one",
                fix,
            );
        }
    }
    found
}

/// Expected, actual and the action that mends it.
fn column_differences(column: &Column, there: &ExistingColumn, in_key: bool) -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    let sql = types::sql(&column.logical);
    if let Fit::No(why) = types::compatible(column, &there.actual) {
        found.push((sql.clone(), format!("{} ({why})", there.actual.sql), format!("TYPE {sql}")));
    }
    if there.generated {
        found.push(("a column that can be written".into(), "a generated one".into(), "DROP EXPRESSION".into()));
    }
    if there.identity_always {
        found.push((
            "GENERATED BY DEFAULT".into(),
            "GENERATED ALWAYS AS IDENTITY".into(),
            "SET GENERATED BY DEFAULT".into(),
        ));
    }
    // Where only a policy makes NULL of values, the table is altered when the policy comes.
    if column.nullable && there.not_null && !in_key && !column.policies.make_null() {
        found.push(("NULL admitted, as in the source".into(), "NOT NULL".into(), "DROP NOT NULL".into()));
    }
    found
}

/// Whether rows can be found, and told apart, by the table's key.
pub fn is_keyed(table: &TableSchema, existing: &Existing) -> bool {
    key_difference(table, existing).is_none()
}

/// Upserts need a unique index on exactly the key's columns, in any order.
fn key_difference(table: &TableSchema, existing: &Existing) -> Option<(String, String)> {
    let key: Vec<&str> = table.key_columns().map(|c| c.name.as_str()).collect();
    // A column stands in a key once: same number and each of one among the other means the same set.
    let fits = |columns: &[String]| columns.len() == key.len() && columns.iter().all(|c| key.contains(&c.as_str()));
    if key.is_empty() || existing.indexes.iter().any(|i| i.unique && fits(&i.columns)) {
        return None;
    }
    let actual = match existing.indexes.iter().find(|i| i.primary) {
        Some(primary) => format!("primary key ({})", primary.columns.join(", ")),
        None => "no primary key".into(),
    };
    Some((format!("a primary key or unique index on ({})", key.join(", ")), actual))
}

/// Gives a table its new shape, inside the caller's transaction. Whatever the server refuses of it is this table's trouble alone: a
/// view that reads the column, a column of that name that somebody has added, an owner who is somebody else.
pub async fn alter(client: &impl GenericClient, change: &SchemaChange) -> Result<()> {
    let name = &change.to.name;
    let existing = catalog::table(client, &change.from.name).await?;
    let statements = alterations(change, existing.as_ref())?.join("; ");
    client.batch_execute(&statements).await.map_err(|e| {
        let error = classify_in(name, e).context("changing it as the source did").concerning(name);
        let told = error.is_transient() || error.hint_text().is_some();
        let mend = "what stands in the way was made at the target: drop it there, and make it anew afterwards";
        if told { error } else { error.hint(mend) }
    })
}

/// The statements that give a table its new shape, in order. `existing` is what is there: a column whose type holds the values of its
/// new shape too keeps it.
///
/// An error where the log does not say what the rows hold afterwards: then the table has to be copied again.
pub fn alterations(change: &SchemaChange, existing: Option<&Existing>) -> Result<Vec<String>> {
    let (from, to) = (&change.from, &change.to);
    check_names(to).map_err(|e| e.concerning(&to.name))?;
    let again =
        |why: String| Err(Error::data(&to.name, why).hint("copy the table again with `crossfade snapshot TABLE`"));
    if from.name != to.name {
        return again(format!("it was {} before, and renamed tables are not followed", from.name));
    }
    let table = quote::table(&to.name);
    let mut statements = Vec::new();
    // Old name and present name of each column that stays.
    let mut kept: Vec<(&Column, String)> = from.columns.iter().map(|c| (c, c.name.clone())).collect();
    for step in &change.steps {
        match step {
            SchemaStep::Add { column, fill } => statements.extend(add_column(change, column, fill.as_deref())?),
            SchemaStep::Drop { column } => {
                kept.retain(|(_, name)| name != column);
                statements.push(format!("ALTER TABLE {table} DROP COLUMN {}", ident(column)));
            }
            SchemaStep::Rename { from, to } => {
                kept.iter_mut().filter(|(_, name)| name == from).for_each(|(_, name)| name.clone_from(to));
                statements.push(format!("ALTER TABLE {table} RENAME COLUMN {} TO {}", ident(from), ident(to)));
            }
        }
    }
    let now = |old: &Column| kept.iter().find(|(c, _)| c.name == old.name).map(|(_, name)| name.as_str());
    let old_key: Option<Vec<&str>> = from.key_columns().map(now).collect();
    if old_key != Some(to.key_columns().map(|c| c.name.as_str()).collect()) {
        return again("its key changed".into());
    }
    for (old, name) in &kept {
        match to.columns.iter().find(|c| c.name == *name) {
            Some(new) => {
                let there = existing.and_then(|e| e.columns.iter().find(|c| c.name == old.name));
                statements.extend(change_column(change, old, new, there)?);
            }
            None => return again(format!("column {name} is gone, and no step says so")),
        }
    }
    Ok(statements)
}

fn add_column(change: &SchemaChange, name: &str, fill: Option<&str>) -> Result<Vec<String>> {
    let to = &change.to;
    let Some(column) = to.ordinal(name).and_then(|i| to.columns.get(i)) else {
        return Err(Error::corrupt(format!("table {}: the new shape lacks the added column {name}", to.name)));
    };
    if column.auto_increment {
        return Err(Error::data(&to.name, "rows that were there have been numbered, and the log does not say how")
            .column(name)
            .hint("copy the table again with `crossfade snapshot TABLE`"));
    }
    let alter = format!("ALTER TABLE {}", quote::table(&to.name));
    let not_null = if column.nullable { "" } else { " NOT NULL" };
    let sql = types::sql(&column.logical);
    let c = ident(name);
    Ok(match fill {
        None => vec![format!("{alter} ADD COLUMN {c} {sql}{not_null}")],
        Some(text) => vec![
            format!("{alter} ADD COLUMN {c} {sql}{not_null} DEFAULT {}", fill_literal(&column.logical, text)),
            format!("{alter} ALTER COLUMN {c} DROP DEFAULT"),
        ],
    })
}

/// The source's text of a value as a literal; the bytes of a binary column's are its text's.
fn fill_literal(logical: &Logical, text: &str) -> String {
    match logical {
        Logical::Bytes => {
            let hex: String = text.bytes().map(|b| format!("{b:02x}")).collect();
            format!("pg_catalog.decode('{hex}', 'hex')")
        }
        _ => quote::literal(text),
    }
}

/// A column that stays, in its new shape: wider type, other nullability.
fn change_column(
    change: &SchemaChange,
    old: &Column,
    new: &Column,
    there: Option<&ExistingColumn>,
) -> Result<Vec<String>> {
    let alter = format!("ALTER TABLE {} ALTER COLUMN {}", quote::table(&change.to.name), ident(&new.name));
    let (was, is) = (PgType::of(&old.logical), PgType::of(&new.logical));
    let mut statements = Vec::new();
    let holds = there.is_some_and(|e| !matches!(types::compatible(new, &e.actual), Fit::No(_)));
    if was != is && !holds {
        let actual = Actual { typname: is.typname().into(), builtin: true, typmod: typmod(&is), sql: is.sql() };
        if let Fit::No(why) = types::compatible(old, &actual) {
            return Err(Error::data(&change.to.name, format!("its type changed, and values might: {why}"))
                .column(&new.name)
                .hint("copy the table again with `crossfade snapshot TABLE`"));
        }
        statements.push(format!("{alter} TYPE {}", is.sql()));
    }
    match (old.nullable, new.nullable) {
        // What a policy has made NULL of stays NULL, also where the column has another name now, and no policy.
        (true, false) if old.policies.make_null() => {}
        (true, false) => statements.push(format!("{alter} SET NOT NULL")),
        (false, true) => statements.push(format!("{alter} DROP NOT NULL")),
        _ => {}
    }
    Ok(statements)
}

/// `atttypmod` of a column of this type (numeric.c, varbit.c).
fn typmod(kind: &PgType) -> i32 {
    match kind {
        PgType::Decimal { precision, scale } => ((i32::from(*precision) << 16) | i32::from(*scale)) + 4,
        PgType::Bit(len) => i32::try_from(*len).unwrap_or(i32::MAX),
        _ => -1,
    }
}
