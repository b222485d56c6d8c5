//! What the source's tables have besides their shape: defaults, checks, comments, as the server prints them.
//!
//! Another Postgres reads such a text as this one does where it holds nothing but the server's own: the text is taken whole, or
//! not at all. What an expression is made of stands in `pg_depend`, which leaves out the objects of the server itself
//! (`isObjectPinned` in `src/backend/catalog/catalog.c`). And the columns must mean the same at both ends: enums are text at a
//! target, and `char(n)` compares without its blanks here only. A column's type says so by its text (`format_type`).

use std::collections::HashMap;
use std::sync::Arc;

use crossfade_core::{Check, Column, DefaultValue, Details, Logical, Result, Selection, TableSchema};
use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

use super::catalog::{self, Scope};
use super::prepared::Prepared;
use crate::classify::classify;

const COLUMNS: &str = "\
    SELECT a.attrelid, a.attname::text, pg_catalog.pg_get_expr(f.adbin, f.adrelid), \
        EXISTS (SELECT FROM pg_catalog.pg_depend d \
            WHERE d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND d.objid = f.oid \
            AND NOT (d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = a.attrelid)), \
        a.attgenerated <> '', t.typdefault, pg_catalog.col_description(a.attrelid, a.attnum::int4), \
        CASE WHEN a.attcollation <> t.typcollation THEN \
            (SELECT c.collname::text FROM pg_catalog.pg_collation c WHERE c.oid = a.attcollation) END \
    FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid \
    LEFT JOIN pg_catalog.pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum \
    WHERE a.attrelid = ANY ($1) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attrelid, a.attnum";

const CHECKS: &str = "\
    SELECT k.conrelid, k.conname::text, pg_catalog.pg_get_expr(k.conbin, k.conrelid), k.convalidated, \
        ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a \
            WHERE a.attrelid = k.conrelid AND a.attnum = ANY (k.conkey) ORDER BY a.attnum), \
        EXISTS (SELECT FROM pg_catalog.pg_depend d \
            WHERE d.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass AND d.objid = k.oid \
            AND NOT (d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = k.conrelid)) \
    FROM pg_catalog.pg_constraint k WHERE k.contype = 'c' AND k.conrelid = ANY ($1) ORDER BY k.conrelid, k.conname";

/// Those that foreign keys and partitions bring with them are no triggers of anybody's.
const TRIGGERS: &str = "\
    SELECT t.tgrelid, t.tgname::text, pg_catalog.concat_ws(' ', \
        CASE WHEN t.tgtype & 2 <> 0 THEN 'BEFORE' ELSE 'AFTER' END, \
        pg_catalog.concat_ws(' OR ', CASE WHEN t.tgtype & 4 <> 0 THEN 'INSERT' END, CASE WHEN t.tgtype & 16 <> 0 THEN 'UPDATE' END, \
            CASE WHEN t.tgtype & 8 <> 0 THEN 'DELETE' END, CASE WHEN t.tgtype & 32 <> 0 THEN 'TRUNCATE' END)) \
    FROM pg_catalog.pg_trigger t \
    WHERE t.tgrelid = ANY ($1) AND NOT t.tgisinternal AND t.tgenabled <> 'D' ORDER BY t.tgrelid, t.tgname";

const COMMENTS: &str = "\
    SELECT c.oid, pg_catalog.obj_description(c.oid, 'pg_class') FROM pg_catalog.pg_class c WHERE c.oid = ANY ($1)";

/// Why an expression is not carried that is made of more than the server's own objects.
const FOREIGN: &str = "it uses what the source's database alone has";

/// The details of these tables, in their order; of a table that is gone there are none.
pub async fn details(client: &Prepared, tables: &[Arc<TableSchema>], scope: &Scope) -> Result<Vec<Details>> {
    if tables.is_empty() {
        return Ok(Vec::new());
    }
    let names = tables.iter().map(|t| t.name.to_string()).collect();
    let selection = Selection { include: names, ..Selection::default() };
    let inventory = catalog::inventory(client, &selection, scope).await?;
    let mut all = vec![Details::default(); tables.len()];
    let mut places: HashMap<u32, usize> = HashMap::new();
    for info in &inventory {
        let Some(i) = tables.iter().position(|t| t.name == info.schema.name) else { continue };
        places.insert(info.oid, i);
        for (index, why) in &info.left_out {
            all[i].note(format!("index {index}"), why);
        }
    }
    let oids: Vec<u32> = places.keys().copied().collect();
    for row in client.query(COMMENTS, &[&oids]).await.map_err(classify)? {
        all[places[&get::<u32>(&row, 0)?]].comment = get(&row, 1)?;
    }
    for row in client.query(COLUMNS, &[&oids]).await.map_err(classify)? {
        let i = places[&get::<u32>(&row, 0)?];
        column(&mut all[i], &tables[i], &row)?;
    }
    for row in client.query(CHECKS, &[&oids]).await.map_err(classify)? {
        let i = places[&get::<u32>(&row, 0)?];
        check(&mut all[i], &tables[i], &row)?;
    }
    for row in client.query(TRIGGERS, &[&oids]).await.map_err(classify)? {
        let (name, when): (String, String) = (get(&row, 1)?, get(&row, 2)?);
        let why = "the log holds what it does at the source; after the cutover nobody does it";
        all[places[&get::<u32>(&row, 0)?]].leave_out(format!("trigger {name} {when}"), why);
    }
    Ok(all)
}

fn get<'a, T: FromSql<'a>>(row: &'a Row, column: usize) -> Result<T> {
    row.try_get(column).map_err(classify)
}

fn column(details: &mut Details, table: &TableSchema, row: &Row) -> Result<()> {
    let (name, default, foreign): (String, Option<String>, bool) = (get(row, 1)?, get(row, 2)?, get(row, 3)?);
    if get(row, 4)? {
        let why = format!("the log does not hold it; here it is {}", default.unwrap_or_default());
        details.note(format!("generated column {name}"), why);
        return Ok(());
    }
    let Some(column) = table.ordinal(&name).map(|i| &table.columns[i]) else { return Ok(()) };
    if let Some(collation) = get::<Option<String>>(row, 7)? {
        let why = "a target orders and compares the column by its database's collation";
        details.note(format!("collation {collation} of column {name}"), why);
    }
    if let Some(comment) = get(row, 6)? {
        details.column(&name).comment = Some(comment);
    }
    // Identities and sequences have come with the table already.
    if column.auto_increment {
        return Ok(());
    }
    match default {
        Some(text) => match carried(column, &text, foreign) {
            Ok(default) => details.column(&name).default = Some(default),
            Err(why) => details.leave_out(format!("default {text} of column {name}"), why),
        },
        None => {
            if let Some(text) = get::<Option<String>>(row, 5)? {
                let why = format!("it is that of its type {}, and a target has no such type", column.source_type);
                details.leave_out(format!("default {text} of column {name}"), why);
            }
        }
    }
    Ok(())
}

/// A default as a target takes it, or why it does not.
fn carried(column: &Column, text: &str, foreign: bool) -> Result<DefaultValue, &'static str> {
    if let Logical::Enum { labels } = &column.logical {
        return match label(text).filter(|l| labels.contains(l)) {
            Some(label) => Ok(DefaultValue::Text(label)),
            None => Err("it is an expression of an enum, which is text at a target"),
        };
    }
    if foreign {
        return Err(FOREIGN);
    }
    if !means_the_same(column) {
        return Err("the column has another type at a target");
    }
    // Columns of fewer digits round here; a target's have all six.
    let rounds = matches!(column.logical, Logical::Time | Logical::Timestamp | Logical::TimestampTz);
    Ok(DefaultValue::Postgres(match rounds && column.source_type.contains('(') {
        true => format!("CAST({text} AS {})", column.source_type),
        false => text.to_owned(),
    }))
}

/// The label in `'it''s'::mood`.
fn label(text: &str) -> Option<String> {
    let mut chars = text.strip_prefix('\'')?.chars().peekable();
    let mut label = String::new();
    loop {
        match chars.next()? {
            '\'' if chars.peek() == Some(&'\'') => label.push(chars.next()?),
            '\'' => break,
            other => label.push(other),
        }
    }
    let kind: String = chars.collect();
    let name = kind.strip_prefix("::")?;
    // More than a type's name behind it would be an operator.
    let quoted = name.split('"').skip(1).step_by(2).collect::<String>();
    let bare = name.split('"').step_by(2).collect::<String>();
    let plain = bare.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '$' | '.'));
    (plain && (!bare.is_empty() || !quoted.is_empty())).then_some(label)
}

/// Whether a target's column takes part in expressions as this one does.
fn means_the_same(column: &Column) -> bool {
    let kind = column.source_type.as_str();
    match &column.logical {
        Logical::Text => kind == "text" || kind.starts_with("character varying"),
        Logical::Json => kind == "json",
        Logical::Postgres { name } => name == kind,
        Logical::Enum { .. } | Logical::Set { .. } | Logical::Literal => false,
        _ => true,
    }
}

fn check(details: &mut Details, table: &TableSchema, row: &Row) -> Result<()> {
    let (name, condition, columns): (String, String, Vec<String>) = (get(row, 1)?, get(row, 2)?, get(row, 4)?);
    let same = |c: &String| table.ordinal(c).is_some_and(|i| means_the_same(&table.columns[i]));
    let why = match (get(row, 3)?, get(row, 5)?) {
        (false, _) => "it is NOT VALID: rows may be there that do not meet it",
        (true, true) => FOREIGN,
        (true, false) if !columns.iter().all(same) => "a column has another type at a target, or is not carried",
        (true, false) => {
            details.checks.push(Check { name, columns, condition });
            return Ok(());
        }
    };
    details.leave_out(format!("check {name} ({condition})"), why);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_enums() {
        for (text, want) in [
            ("'G'::public.mpaa_rating", Some("G")),
            ("'it''s'::\"odd \"\"name\"", Some("it's")),
            ("'a'::mood || 'b'", None),
            ("E'a\\\\b'::mood", None),
            ("'a'", None),
            ("'a'::", None),
            ("pick()", None),
            ("'a", None),
        ] {
            assert_eq!(label(text).as_deref(), want, "{text}");
        }
    }

    #[test]
    fn what_is_carried() {
        let column = |logical: Logical, source_type: &str| Column {
            name: "c".into(),
            source_type: source_type.into(),
            logical,
            nullable: true,
            auto_increment: false,
            number: 0,
            policies: Default::default(),
        };
        let of = |logical, kind, text, foreign| match carried(&column(logical, kind), text, foreign) {
            Ok(DefaultValue::Postgres(text) | DefaultValue::Text(text)) => Some(text),
            Ok(_) | Err(_) => None,
        };
        let mood = Logical::Enum { labels: vec!["ok".into()] };
        assert_eq!(of(Logical::Int32, "integer", "(1 + 2)", false).as_deref(), Some("(1 + 2)"));
        assert_eq!(of(Logical::Int32, "integer", "pick()", true), None);
        let whole = "timestamp(0) without time zone";
        let cast = "CAST(now() AS timestamp(0) without time zone)";
        assert_eq!(of(Logical::Timestamp, whole, "now()", false).as_deref(), Some(cast));
        assert_eq!(of(mood.clone(), "mood", "'ok'::mood", true).as_deref(), Some("ok"));
        assert_eq!(of(mood, "mood", "'other'::mood", true), None);
        assert_eq!(of(Logical::Text, "character(3)", "'a'::bpchar", false), None);
        assert_eq!(of(Logical::Json, "jsonb", "'{}'::jsonb", false), None);
    }
}
