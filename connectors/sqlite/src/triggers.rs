//! The SQL that makes an application's own writes log themselves.
//!
//! ```text
//! INSERT ──► _bi  rows in conflict with NEW ──► _crossfade_touched_<id>_<n>
//!            (REPLACE deletes them without firing a delete trigger)
//!        ──► _ai  touched rows that are gone now: D;  the row as it stands: I ──► _crossfade_change
//! UPDATE ──► _bu  as _bi, but for the row itself; only where a unique value changes
//!        ──► _au  where a unique value changes: touched rows that are gone: D;  key changed: D(old), I(new);  else U
//!        ──► _av  elsewhere: U
//! DELETE ──► _ad  rows touched on behalf of this one that are gone: D;  D, if the row is gone
//! ```
//!
//! **Entries are observations.** A trigger logs what the table holds when the trigger runs, not what `NEW` and `OLD` say:
//! SQLite does not promise in which order triggers fire, so the application's own `AFTER INSERT` may have updated the
//! row, or deleted it, before ours runs. Every change of a key is followed by an entry that read the table after it, so
//! a key's last entry is its state, whatever nests in whatever. An entry that would contradict the table is not written.
//!
//! **`OR REPLACE`** removes rows in silence, under any unique constraint, and a `BEFORE` trigger cannot know whether the
//! statement will replace, ignore or fail. So the before-trigger only notes the rows in conflict, and the after-trigger,
//! which runs only if the row was written, logs those that are gone. What an ignored row leaves behind is harmless (it is
//! still there, so it is not logged) and swept up by the next prune (`notes.rs`). Notes are matched to their row by the constraint's
//! values, so nested statements do not take each other's.
//!
//! A replaced row may take the very row that is being updated with it: by `ON DELETE CASCADE`, or by a trigger on what the cascade
//! deletes. Then there is no update, and no after-trigger. So a note of an update also holds the key of the row it was made
//! for (`b0, b1, ..`), and whoever deletes that row settles it. And while notes are open, a row that is written is noted too: a
//! trigger on what the cascade deletes may bring one behind the look for conflicts, and the statement then replaces it.
//!
//! Trigger bodies use no conflict clause (the outer statement's would override it), no function but the built-in
//! `julianday`, `typeof` and `coalesce`, and nothing newer than SQLite 3.24, because the application's library runs them.

mod touched;

use crate::catalog::{PREFIX, Table, Term, quote};

/// The change table.
pub const CHANGE: &str = "_crossfade_change";

/// What an entry of the change table says.
pub mod op {
    /// A mark without meaning for any table.
    pub const MARK: i64 = 0;
    /// A row is new.
    pub const INSERT: i64 = 1;
    /// A row has these values.
    pub const UPDATE: i64 = 2;
    /// A row is gone.
    pub const DELETE: i64 = 3;
    /// The table has another shape: `c0` holds it as JSON, `c1` what the new columns hold in old rows.
    pub const SCHEMA: i64 = 4;
}

/// The triggers' suffixes.
pub const SUFFIXES: [&str; 6] = ["bi", "ai", "bu", "au", "av", "ad"];

/// A trigger's name.
pub fn trigger_name(id: i64, suffix: &str) -> String {
    format!("{PREFIX}{id}_{suffix}")
}

/// What a table needs: its helper tables and its triggers.
#[derive(Debug, PartialEq, Eq)]
pub struct Script {
    /// Name and definition.
    pub helpers: Vec<(String, String)>,
    /// Name and definition.
    pub triggers: Vec<(String, String)>,
}

/// Writes the SQL for a table that has a key.
pub fn script(table: &Table, id: i64) -> Script {
    Writer { table, id, name: quote(&table.name) }.script()
}

/// The entries that re-read rows of a table: those that the log mentions, or all.
pub fn reread(table: &Table, id: i64, all: bool) -> String {
    let w = Writer { table, id, name: quote(&table.name) };
    let from = if all {
        format!("{} AS _r", w.name)
    } else {
        let keys = join(0..table.key.len(), ", ", |i| format!("c{} AS k{i}", table.key[i].0));
        format!(
            "(SELECT DISTINCT {keys} FROM {CHANGE} WHERE t = {id} AND op IN (1, 2)) AS _x JOIN {} AS _r ON {}",
            w.name,
            w.same_key("_r", |i| format!("_x.k{i}"))
        )
    };
    format!("INSERT INTO {CHANGE}(t, op, at, {}) SELECT {id}, 2, julianday('now'), {} FROM {from}", w.slots(), w.row())
}

/// Selects the keys of noted rows that are gone.
pub fn gone(table: &Table, id: i64, helpers: &[String]) -> String {
    Writer { table, id, name: quote(&table.name) }.gone(helpers)
}

/// The statement that logs the noted rows that are gone.
pub fn log_replaced(table: &Table, id: i64, helpers: &[String]) -> String {
    let w = Writer { table, id, name: quote(&table.name) };
    w.log_keys(&w.gone(helpers))
}

struct Writer<'a> {
    table: &'a Table,
    id: i64,
    name: String,
}

fn join(items: impl IntoIterator<Item = usize>, between: &str, each: impl FnMut(usize) -> String) -> String {
    items.into_iter().map(each).collect::<Vec<_>>().join(between)
}

impl Writer<'_> {
    fn script(&self) -> Script {
        let mut helpers: Vec<(String, String)> =
            self.table.uniques.iter().enumerate().flat_map(|(n, u)| self.touched_table(n, u)).collect();
        if self.needs_probe() {
            let name = format!("{PREFIX}probe_{}", self.id);
            helpers.push((name.clone(), format!("CREATE TABLE {name} AS SELECT * FROM {} LIMIT 0", self.name)));
        }
        let body = |suffix: &str, event: &str, when: String, statements: Vec<String>| {
            let name = trigger_name(self.id, suffix);
            let sql = format!(
                "CREATE TRIGGER {name} {event} ON {} {when}BEGIN\n  {};\nEND",
                self.name,
                statements.join(";\n  ")
            );
            (name, sql)
        };
        let changes = self.unique_changes();
        let when = |condition: &str| format!("WHEN {condition} ");
        let triggers = vec![
            body("bi", "BEFORE INSERT", String::new(), self.note("", None)),
            body("ai", "AFTER INSERT", String::new(), self.after_insert()),
            body("bu", "BEFORE UPDATE", when(&changes), self.note(&self.other_than_old(), Some("OLD"))),
            body("au", "AFTER UPDATE", when(&changes), self.after_update()),
            body("av", "AFTER UPDATE", when(&format!("NOT ({changes})")), vec![self.log_row("2")]),
            body("ad", "AFTER DELETE", String::new(), self.after_delete()),
        ];
        Script { helpers, triggers }
    }

    /// `c0, c1, ...`: the change table's columns for a whole row.
    fn slots(&self) -> String {
        join(0..self.table.columns.len(), ", ", |i| format!("c{i}"))
    }

    /// The row as it stands.
    fn row(&self) -> String {
        join(0..self.table.columns.len(), ", ", |i| format!("_r.{}", self.column(i)))
    }

    fn column(&self, ordinal: usize) -> String {
        quote(&self.table.columns[ordinal].name)
    }

    /// The change table's columns for the key.
    fn key_slots(&self) -> String {
        join(0..self.table.key.len(), ", ", |i| format!("c{}", self.table.key[i].0))
    }

    /// The key's columns of `of`.
    fn key_of(&self, of: &str) -> String {
        join(0..self.table.key.len(), ", ", |i| format!("{of}.{}", self.column(self.table.key[i].0)))
    }

    /// That the key of `row` is `other`, byte for byte: the index's collation finds it, the rest makes sure.
    fn same_key(&self, row: &str, other: impl Fn(usize) -> String) -> String {
        join(0..self.table.key.len(), " AND ", |i| {
            let (ordinal, collation) = &self.table.key[i];
            let (a, b) = (format!("{row}.{}", self.column(*ordinal)), other(i));
            if self.table.alias == Some(*ordinal) {
                return format!("{a} = {b}");
            }
            format!("{a} = {b} COLLATE {collation} AND {}", self.identical_to(*ordinal, &a, &b))
        })
    }

    /// Whether an update leaves the key as it is, byte for byte.
    fn key_stays(&self) -> String {
        join(0..self.table.key.len(), " AND ", |i| self.identical(self.table.key[i].0, "OLD", "NEW"))
    }

    /// Finds the row that `NEW` became.
    fn is_new(&self) -> String {
        match (self.table.alias, self.table.rowid) {
            (None, Some(rowid)) => format!("_r.{rowid} = NEW.{rowid}"),
            _ => self.same_key("_r", |i| format!("NEW.{}", self.column(self.table.key[i].0))),
        }
    }

    fn other_than_old(&self) -> String {
        match (self.table.alias, self.table.rowid) {
            (Some(alias), _) => format!(" AND _r.{0} <> OLD.{0}", self.column(alias)),
            (None, Some(rowid)) => format!(" AND _r.{rowid} <> OLD.{rowid}"),
            (None, None) => {
                format!(" AND NOT ({})", self.same_key("_r", |i| format!("OLD.{}", self.column(self.table.key[i].0))))
            }
        }
    }

    /// Logs that the rows with the key of `of` are gone, if they are.
    fn log_gone(&self, of: &str, and: &str) -> String {
        let here = self.same_key("_e", |i| format!("{of}.{}", self.column(self.table.key[i].0)));
        format!(
            "INSERT INTO {CHANGE}(t, op, at, {}) SELECT {}, 3, julianday('now'), {} WHERE {and}NOT EXISTS (SELECT 1 FROM {} AS _e WHERE {here})",
            self.key_slots(),
            self.id,
            self.key_of(of),
            self.name
        )
    }

    fn after_insert(&self) -> Vec<String> {
        let mut out = self.settle("1");
        out.push(self.log_row("1"));
        out.extend(self.note_itself());
        out
    }

    fn after_update(&self) -> Vec<String> {
        let stays = self.key_stays();
        let mut out = self.settle(&format!("NOT ({stays})"));
        out.push(self.log_gone("OLD", &format!("NOT ({stays}) AND ")));
        out.push(self.log_row(&format!("CASE WHEN {stays} THEN 2 ELSE 1 END")));
        out.extend(self.note_itself());
        out
    }

    fn after_delete(&self) -> Vec<String> {
        let mut out = self.settle_owned();
        out.push(self.log_gone("OLD", ""));
        out
    }

    /// Whether an update changes a unique value, so that a look for conflicts is due. Predicates and expressions may
    /// depend on any column.
    fn unique_changes(&self) -> String {
        let mut terms = Vec::new();
        for (unique, (term, _)) in self.table.uniques.iter().flat_map(|u| u.terms.iter().map(move |t| (u, t))) {
            let term = match term {
                _ if unique.filter.is_some() => return "1".into(),
                Term::Expression(_) => return "1".into(),
                Term::Column(i) if self.table.columns[*i].generated => return "1".into(),
                Term::Column(i) => format!("NOT ({})", self.identical(*i, "NEW", "OLD")),
                Term::Rowid => format!("NEW.{0} <> OLD.{0}", self.table.rowid.unwrap_or("rowid")),
            };
            if !terms.contains(&term) {
                terms.push(term);
            }
        }
        terms.join(" OR ")
    }

    /// That a column is the same byte for byte in two rows, so of the same type as well.
    fn identical(&self, ordinal: usize, a: &str, b: &str) -> String {
        let c = self.column(ordinal);
        self.identical_to(ordinal, &format!("{a}.{c}"), &format!("{b}.{c}"))
    }

    fn identical_to(&self, ordinal: usize, a: &str, b: &str) -> String {
        if self.table.alias == Some(ordinal) {
            return format!("{a} IS {b}");
        }
        format!("{a} IS {b} COLLATE BINARY AND typeof({a}) = typeof({b})")
    }

    /// Logs the row that `NEW` became, as it stands.
    fn log_row(&self, op: &str) -> String {
        format!(
            "INSERT INTO {CHANGE}(t, op, at, {}) SELECT {}, {op}, julianday('now'), {} FROM {} AS _r WHERE {}",
            self.slots(),
            self.id,
            self.row(),
            self.name,
            self.is_new()
        )
    }

    fn needs_probe(&self) -> bool {
        self.table.uniques.iter().any(|u| u.terms.iter().any(|(t, _)| matches!(t, Term::Expression(_))))
    }

    /// Puts `NEW` into the probe table, where expressions can be asked about it under the columns' affinities.
    fn probe(&self) -> Vec<String> {
        if !self.needs_probe() {
            return Vec::new();
        }
        let values = join(0..self.table.columns.len(), ", ", |i| self.incoming(i));
        vec![
            format!("DELETE FROM {PREFIX}probe_{}", self.id),
            format!("INSERT INTO {PREFIX}probe_{} VALUES ({values})", self.id),
        ]
    }

    /// A column of `NEW` as the statement will store it: OR REPLACE puts the default in place of a NULL that NOT NULL
    /// forbids, but only behind the before-trigger.
    fn incoming(&self, ordinal: usize) -> String {
        let c = &self.table.columns[ordinal];
        match &c.default {
            Some(default) if c.not_null && !c.generated => format!("coalesce(NEW.{}, ({default}))", quote(&c.name)),
            _ => format!("NEW.{}", quote(&c.name)),
        }
    }

    /// A term's value in `_r`, and in the incoming row.
    fn term(&self, term: &Term) -> (String, String) {
        match term {
            Term::Column(i) => (format!("_r.{}", self.column(*i)), self.incoming(*i)),
            Term::Rowid => {
                let rowid = self.table.rowid.unwrap_or("rowid");
                (format!("_r.{rowid}"), format!("NEW.{rowid}"))
            }
            Term::Expression(e) => (format!("({e})"), format!("(SELECT {e} FROM {PREFIX}probe_{})", self.id)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog;

    /// The example that people read is what the code writes. `UPDATE_SCHEMAS=1` writes it anew.
    #[test]
    fn the_example_in_schemas_is_current() {
        let db = rusqlite::Connection::open_in_memory().unwrap();
        let create = "CREATE TABLE orders (\n    id INTEGER PRIMARY KEY,\n    number TEXT NOT NULL UNIQUE COLLATE NOCASE,\n    total DECIMAL(10, 2)\n)";
        db.execute_batch(create).unwrap();
        let table = catalog::table(&db, "orders").unwrap().unwrap();
        let mut out = format!(
            "-- What Crossfade installs beside sqlite-control.sql for one table, here with number 1 in _crossfade_table:\n--\n{}\n\
             --\n-- Entries of the log are observations of the table, not copies of NEW and OLD; connectors/sqlite/src/triggers.rs\n\
             -- says why, and what the touched tables are for.\n\n",
            create.lines().map(|l| format!("-- {l}")).collect::<Vec<_>>().join("\n")
        );
        let script = script(&table, 1);
        for (_, sql) in script.helpers.iter().chain(&script.triggers) {
            out.push_str(&format!("{sql};\n\n"));
        }
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../schemas/sqlite-triggers.sql");
        if std::env::var_os("UPDATE_SCHEMAS").is_some() {
            std::fs::write(path, &out).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap_or_default(), out, "run the test with UPDATE_SCHEMAS=1");
        // And it is SQL that SQLite takes.
        db.execute_batch(include_str!("../../../schemas/sqlite-control.sql")).unwrap();
        db.execute_batch("ALTER TABLE _crossfade_change ADD COLUMN c2").unwrap();
        db.execute_batch(&out).unwrap();
        db.execute_batch("INSERT INTO orders VALUES (1, 'A-1', 9.99); REPLACE INTO orders VALUES (2, 'a-1', 5)")
            .unwrap();
        let log: Vec<(i64, i64)> = db
            .prepare("SELECT op, c0 FROM _crossfade_change ORDER BY seq")
            .unwrap()
            .query_map([], |r| Ok((r.get(0)?, r.get(1)?)))
            .unwrap()
            .collect::<rusqlite::Result<_>>()
            .unwrap();
        assert_eq!(log, [(op::INSERT, 1), (op::DELETE, 1), (op::INSERT, 2)]);
    }
}
