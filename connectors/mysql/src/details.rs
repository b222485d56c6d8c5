//! What the source's tables have besides their shape: defaults, checks, comments, and what no target gets of them.
//!
//! The two servers show a default differently in `information_schema.COLUMNS`: MySQL as the bare text of a constant, or as an
//! expression where EXTRA has DEFAULT_GENERATED; MariaDB always as an expression, with constants in quotes. Both catalogs are
//! utf8mb3, so a question mark may stand for any character beyond U+FFFF: such a default is not carried. (Comments are
//! stored in that character set, so there is nothing more to them.)

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crossfade_core::{Check, Column, DefaultValue, Details, Logical, Result, Selection, TableSchema};

use crate::catalog::{self, literal, select};
use crate::conditions;
use crate::connect::Server;
use crate::constants::{constant, number, quoted};
use crate::session::Session;

/// The first MySQL that enforces checks, and lists them.
const CHECKS_SINCE: (u16, u16, u16) = (8, 0, 16);

/// The details of these tables, in their order; of a table that is gone there are none.
pub fn details(server: &Server, session: &mut Session, tables: &[Arc<TableSchema>]) -> Result<Vec<Details>> {
    let mut all = vec![Details::default(); tables.len()];
    if tables.is_empty() {
        return Ok(all);
    }
    let names = tables.iter().map(|t| t.name.to_string()).collect();
    let selection = Selection { include: names, ..Selection::default() };
    let places: HashMap<(&str, &str), usize> =
        tables.iter().enumerate().map(|(i, t)| ((t.name.schema.as_str(), t.name.name.as_str()), i)).collect();
    let place = |schema: &str, table: &str| places.get(&(schema, table)).copied();
    for info in catalog::inventory(server, session, &selection)? {
        if let Some(i) = place(&info.schema.name.schema, &info.schema.name.name) {
            info.left_out.iter().for_each(|(index, why)| all[i].note(format!("index {index}"), *why));
        }
    }
    let mut schemas: Vec<String> = tables.iter().map(|t| literal(&t.name.schema)).collect();
    schemas.sort_unstable();
    schemas.dedup();
    let within = format!("TABLE_SCHEMA IN ({})", schemas.join(", "));
    let sql = format!("SELECT TABLE_SCHEMA, TABLE_NAME, TABLE_COMMENT FROM information_schema.TABLES WHERE {within}");
    for [schema, table, comment] in select(session, &sql)? {
        if let Some(i) = place(&schema.unwrap_or_default(), &table.unwrap_or_default()) {
            all[i].comment = comment.filter(|c| !c.is_empty());
        }
    }
    let sql = format!(
        "SELECT TABLE_SCHEMA, TABLE_NAME, COLUMN_NAME, COLUMN_DEFAULT, EXTRA, COLUMN_COMMENT, COLLATION_NAME, \
         GENERATION_EXPRESSION FROM information_schema.COLUMNS WHERE {within} \
         ORDER BY TABLE_SCHEMA, TABLE_NAME, ORDINAL_POSITION"
    );
    let mut collations: BTreeMap<(usize, String), Vec<String>> = BTreeMap::new();
    for [schema, table, name, default, extra, comment, collation, generation] in select(session, &sql)? {
        let Some(i) = place(&schema.unwrap_or_default(), &table.unwrap_or_default()) else { continue };
        let name = name.unwrap_or_default();
        let Some(column) = tables[i].ordinal(&name).map(|at| &tables[i].columns[at]) else { continue };
        if let Some(collation) = collation.filter(|c| !matches!(c.as_str(), "utf8mb4_0900_bin" | "binary")) {
            collations.entry((i, collation)).or_default().push(name);
        }
        let found = Found { default, extra: extra.unwrap_or_default().to_ascii_lowercase(), generation };
        found.add(column, server.is_mariadb(), &mut all[i]);
        if let Some(comment) = comment.filter(|c| !c.is_empty()) {
            all[i].column(&column.name).comment = Some(comment);
        }
    }
    for ((i, collation), columns) in collations {
        let (unique, others): (Vec<String>, Vec<String>) =
            columns.into_iter().partition(|c| collation.ends_with("_ci") && is_unique(&tables[i], c));
        let of = |columns: Vec<String>| format!("collation {collation} of column {}", columns.join(", "));
        if !unique.is_empty() {
            let why = "the source takes texts for equal that a target tells apart: after the cutover nothing forbids both, but a unique \
                       index over lower(..), or a nondeterministic ICU collation";
            all[i].leave_out(of(unique), why);
        }
        if !others.is_empty() {
            let why = "a target orders and compares them by its database's collation, which tells more texts apart";
            all[i].note(of(others), why);
        }
    }
    triggers(session, &within, place, &mut all)?;
    checks(server, session, &within, |schema, table| place(schema, table).map(|i| (i, &*tables[i])), &mut all)?;
    Ok(all)
}

/// Whether rows are told apart by the column, alone or with others.
fn is_unique(table: &TableSchema, column: &str) -> bool {
    let unique = table.indexes.iter().filter(|i| i.unique).flat_map(|i| &i.columns);
    let at = table.ordinal(column);
    table.key.iter().chain(unique).any(|i| Some(*i) == at)
}

/// What the catalog says of a column.
struct Found {
    default: Option<String>,
    /// In lower case.
    extra: String,
    generation: Option<String>,
}

impl Found {
    fn add(self, column: &Column, mariadb: bool, details: &mut Details) {
        let name = &column.name;
        if let Some(expression) = self.generation.filter(|g| !g.is_empty()) {
            let why = "it arrives as a plain column: after the cutover nobody computes it";
            details.leave_out(format!("generation of column {name} as {expression}"), why);
            return;
        }
        if self.extra.contains("on update") {
            let why = "Postgres has no such clause: a trigger BEFORE UPDATE does the same";
            details.leave_out(format!("ON UPDATE CURRENT_TIMESTAMP of column {name}"), why);
        }
        let Some(text) = self.default else { return };
        let read = match mariadb {
            true => of_mariadb(column, &text),
            false => of_mysql(column, &text, self.extra.contains("default_generated")),
        };
        match read {
            Ok(None) => {}
            Ok(default) => details.column(name).default = default,
            Err(why) => details.leave_out(format!("default {text} of column {name}"), why),
        }
    }
}

type Read = Result<Option<DefaultValue>, &'static str>;

const EXPRESSION: &str = "it is an expression, which is not known to mean the same in Postgres";

fn of_mysql(column: &Column, text: &str, expression: bool) -> Read {
    match clock(column, text) {
        Some(now) => now,
        None if expression => Err(EXPRESSION),
        None => constant(column, text).map(Some),
    }
}

fn of_mariadb(column: &Column, text: &str) -> Read {
    if text.eq_ignore_ascii_case("null") {
        return Ok(None);
    }
    if let Some(now) = clock(column, text) {
        return now;
    }
    match quoted(text) {
        Some(text) => constant(column, &text).map(Some),
        None if number(text) || text.starts_with("b'") => constant(column, text).map(Some),
        None => Err(EXPRESSION),
    }
}

/// `CURRENT_TIMESTAMP(3)`, where it is one and the column is a date with a time.
fn clock(column: &Column, text: &str) -> Option<Read> {
    let lower = text.to_ascii_lowercase();
    let rest = lower.strip_prefix("current_timestamp")?;
    if !matches!(column.logical, Logical::Timestamp | Logical::TimestampTz) {
        return None;
    }
    Some(match rest {
        "" | "()" | "(0)" => Ok(Some(DefaultValue::Now { digits: 0 })),
        "(3)" => Ok(Some(DefaultValue::Now { digits: 3 })),
        "(6)" => Ok(Some(DefaultValue::Now { digits: 6 })),
        _ => Err("Postgres cuts a time to 0, 3 or 6 digits, and rounds to others"),
    })
}

/// Triggers, as far as the user may see them (privilege TRIGGER).
fn triggers(
    session: &mut Session,
    within: &str,
    place: impl Fn(&str, &str) -> Option<usize>,
    all: &mut [Details],
) -> Result<()> {
    let sql = format!(
        "SELECT EVENT_OBJECT_SCHEMA, EVENT_OBJECT_TABLE, TRIGGER_NAME, ACTION_TIMING, EVENT_MANIPULATION \
         FROM information_schema.TRIGGERS WHERE {} ORDER BY TRIGGER_NAME",
        within.replace("TABLE_SCHEMA", "EVENT_OBJECT_SCHEMA")
    );
    for row in select(session, &sql)? {
        let [schema, table, name, timing, event] = row.map(Option::unwrap_or_default);
        if let Some(i) = place(&schema, &table) {
            let why = "the log holds what it does at the source; after the cutover nobody does it";
            all[i].leave_out(format!("trigger {name} {timing} {event}"), why);
        }
    }
    Ok(())
}

/// The checks that mean the same in Postgres, and the names of the others.
fn checks<'t>(
    server: &Server,
    session: &mut Session,
    within: &str,
    place: impl Fn(&str, &str) -> Option<(usize, &'t TableSchema)>,
    all: &mut [Details],
) -> Result<()> {
    let sql = match server.is_mariadb() {
        true => format!(
            "SELECT CONSTRAINT_SCHEMA, TABLE_NAME, CONSTRAINT_NAME, CHECK_CLAUSE, 'YES' \
             FROM information_schema.CHECK_CONSTRAINTS WHERE {}",
            within.replace("TABLE_SCHEMA", "CONSTRAINT_SCHEMA")
        ),
        false if server.version >= CHECKS_SINCE => format!(
            "SELECT t.TABLE_SCHEMA, t.TABLE_NAME, c.CONSTRAINT_NAME, c.CHECK_CLAUSE, t.ENFORCED \
             FROM information_schema.TABLE_CONSTRAINTS t JOIN information_schema.CHECK_CONSTRAINTS c \
             ON c.CONSTRAINT_SCHEMA = t.CONSTRAINT_SCHEMA AND c.CONSTRAINT_NAME = t.CONSTRAINT_NAME \
             WHERE t.CONSTRAINT_TYPE = 'CHECK' AND t.{within}"
        ),
        false => return Ok(()),
    };
    let mut rows: Vec<[String; 5]> =
        select(session, &sql)?.into_iter().map(|row| row.map(Option::unwrap_or_default)).collect();
    rows.sort_unstable();
    for [schema, table, name, clause, enforced] in rows {
        let Some((i, table)) = place(&schema, &table) else { continue };
        // What makes JSON of a MariaDB column; a target's column is json by itself.
        if server.is_mariadb() && clause.to_ascii_lowercase().starts_with("json_valid(") {
            continue;
        }
        let what = format!("check {name} {clause}");
        match conditions::translate(&clause, table) {
            _ if !enforced.eq_ignore_ascii_case("yes") => all[i].leave_out(what, "it is not enforced"),
            Some((columns, condition)) => all[i].checks.push(Check { name, columns, condition }),
            None => all[i].leave_out(what, "only comparisons of exact numbers are known to mean the same in Postgres"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(logical: Logical) -> Column {
        Column {
            name: "c".into(),
            source_type: "x".into(),
            logical,
            nullable: true,
            auto_increment: false,
            number: 0,
            policies: Default::default(),
        }
    }

    #[test]
    fn defaults_of_both() {
        let text = |t: &str| Ok(Some(DefaultValue::Text(t.into())));
        let now = |digits| Ok(Some(DefaultValue::Now { digits }));
        assert_eq!(of_mysql(&column(Logical::Text), "it's", false), text("it's"));
        assert_eq!(of_mysql(&column(Logical::Text), "NULL", false), text("NULL"));
        assert_eq!(of_mysql(&column(Logical::Text), "uuid()", true), Err(EXPRESSION));
        assert_eq!(of_mysql(&column(Logical::Text), "CURRENT_TIMESTAMP", false), text("CURRENT_TIMESTAMP"));
        assert_eq!(of_mysql(&column(Logical::Timestamp), "CURRENT_TIMESTAMP(6)", true), now(6));
        assert!(of_mysql(&column(Logical::Timestamp), "CURRENT_TIMESTAMP(2)", true).is_err());
        assert_eq!(of_mariadb(&column(Logical::Text), "NULL"), Ok(None));
        assert_eq!(of_mariadb(&column(Logical::Text), "'NULL'"), text("NULL"));
        assert_eq!(of_mariadb(&column(Logical::Int32), "0"), text("0"));
        assert_eq!(of_mariadb(&column(Logical::TimestampTz), "current_timestamp()"), now(0));
        assert_eq!(of_mariadb(&column(Logical::Text), "uuid()"), Err(EXPRESSION));
        assert_eq!(of_mariadb(&column(Logical::Bit { len: 3 }), "b'1'"), text("001"));
    }
}
