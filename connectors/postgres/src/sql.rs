//! The statements that write rows, as text.
//!
//! Rows reach the server in one of two feeds: as one array parameter per column (few rows, one round trip) or through a
//! temporary staging table (many rows). Both present themselves as a relation `s` with columns `c0, c1, ..`, so each
//! statement is written once and works over either.
//!
//! Feed columns have the bare type of what is encoded, without length or precision: the target's own column applies its
//! limits once, on assignment, where exceeding them is an error (never an explicit cast, which would cut or round).

use crossfade_core::{Column, TableSchema};

use crate::quote::{ident, table as quoted};
use crate::types::PgType;

/// Where a statement reads its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Feed {
    /// Array parameters `$1, $2, ..`, one per column.
    Arrays,
    /// A staging table of this session, by its number.
    Stage(usize),
}

/// Columns of one table that a feed carries.
#[derive(Debug, Clone, Copy)]
pub struct Fed<'a> {
    /// The table.
    pub table: &'a TableSchema,
    /// Ordinals of the columns, in feed order; the key's are among them.
    pub columns: &'a [usize],
    /// Where they come from.
    pub feed: &'a Feed,
}

/// How the names of staging tables begin.
pub const STAGES: &str = "pg_temp.crossfade_stage_";

/// A staging table's name.
pub fn stage_name(number: usize) -> String {
    format!("{STAGES}{number}")
}

/// A type without length or precision: quoting the name keeps the grammar from adding `(1)` to `bit`.
pub fn bare_type(kind: &PgType) -> String {
    format!("pg_catalog.\"{}\"", kind.typname())
}

impl Fed<'_> {
    /// `unnest(...) AS s(c0, c1)`, or the staging table.
    fn from(&self) -> String {
        match self.feed {
            Feed::Stage(number) => format!("{} AS s", stage_name(*number)),
            Feed::Arrays => {
                let arrays =
                    self.columns.iter().enumerate().map(|(n, &i)| {
                        format!("${}::{}[]", n + 1, bare_type(&PgType::of(&self.table.columns[i].logical)))
                    });
                let arrays: Vec<String> = arrays.collect();
                // Unqualified: only so does the grammar take several arrays.
                format!("unnest({}) AS s({})", arrays.join(", "), feed_columns(self.columns.len(), ""))
            }
        }
    }

    /// `t."id" = s.c0 AND ..`
    fn same_key(&self, target: &str) -> String {
        let terms: Vec<String> = self
            .table
            .key
            .iter()
            .map(|&i| format!("{target}.{} = {}", ident(&self.table.columns[i].name), self.value(i)))
            .collect();
        terms.join(" AND ")
    }

    /// The value of a table's column in the feed, as the column's type.
    fn value(&self, ordinal: usize) -> String {
        let place = self.place(ordinal);
        match PgType::of(&self.table.columns[ordinal].logical) {
            // No assignment from text: the server must be told to read it.
            PgType::Other(name) => format!("s.c{place}::{name}"),
            _ => format!("s.c{place}"),
        }
    }

    /// Place of a table's column in the feed.
    fn place(&self, ordinal: usize) -> usize {
        let place = self.columns.iter().position(|&i| i == ordinal);
        place.expect("a feed carries every column that a statement names")
    }

    fn names(&self) -> String {
        names(self.table, self.columns)
    }

    fn beyond_key(&self) -> impl Iterator<Item = usize> + '_ {
        self.columns.iter().copied().filter(|i| !self.table.key.contains(i))
    }

    /// Removes the rows whose keys are in the feed.
    pub fn delete(&self) -> String {
        format!("DELETE FROM {} AS t USING {} WHERE {}", quoted(&self.table.name), self.from(), self.same_key("t"))
    }

    /// Removes one row for each row of the feed, equal in every value; `types` are those of the target's columns.
    ///
    /// Rows are compared by their printed form, as the target's own columns hold them: that tells apart what `=` does not
    /// (`0` and `-0`, `1.0` and `1.00`), knows types without `=` (json), and NULL. Columns without NULLs are compared by `=`
    /// as well, so that an index on them serves.
    pub fn delete_rows(&self, types: &[String]) -> String {
        let columns = || self.columns.iter().zip(types).map(|(&i, kind)| (i, &self.table.columns[i], kind));
        let cast = |(i, _, kind): (usize, &Column, &String)| format!("({})::{kind}", self.value(i));
        let ours: Vec<String> = columns().map(cast).collect();
        let theirs: Vec<String> = columns().map(|(_, c, _)| format!("t.{}", ident(&c.name))).collect();
        let plain: Vec<_> = columns().filter(|(_, c, _)| !c.nullable && compares(&PgType::of(&c.logical))).collect();
        let keys =
            plain.iter().enumerate().map(|(n, &column)| format!(", {} AS k{n}", cast(column))).collect::<String>();
        let groups = (0..plain.len()).map(|n| format!(", k{n}")).collect::<String>();
        let joins = plain.iter().enumerate().map(|(n, (_, c, _))| format!(" AND t.{} = g.k{n}", ident(&c.name)));
        format!(
            "WITH gone AS (SELECT image, pg_catalog.count(*) AS n{groups} FROM \
                (SELECT ROW({})::pg_catalog.text COLLATE \"C\" AS image{keys} FROM {}) AS f GROUP BY image{groups}), \
             found AS (SELECT t.tableoid AS relation, t.ctid AS place, g.n, \
                pg_catalog.row_number() OVER (PARTITION BY g.image) AS nth FROM {table} AS t JOIN gone AS g \
                ON ROW({})::pg_catalog.text COLLATE \"C\" = g.image{}) \
             DELETE FROM {table} AS t USING found AS f \
             WHERE f.nth <= f.n AND t.ctid = f.place AND t.tableoid = f.relation",
            ours.join(", "),
            self.from(),
            theirs.join(", "),
            joins.collect::<String>(),
            table = quoted(&self.table.name),
        )
    }

    /// Adds rows; one that is there already is an error.
    pub fn insert(&self) -> String {
        format!(
            "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {}",
            quoted(&self.table.name),
            self.names(),
            self.columns.iter().map(|&i| self.value(i)).collect::<Vec<_>>().join(", "),
            self.from()
        )
    }

    /// Adds rows, or gives those that are there the feed's values.
    pub fn upsert(&self) -> String {
        let sets: Vec<String> = self
            .beyond_key()
            .map(|i| ident(&self.table.columns[i].name))
            .map(|name| format!("{name} = EXCLUDED.{name}"))
            .collect();
        let action = if sets.is_empty() { "NOTHING".into() } else { format!("UPDATE SET {}", sets.join(", ")) };
        format!("{} ON CONFLICT ({}) DO {action}", self.insert(), names(self.table, &self.table.key))
    }

    /// Gives rows that are there the feed's values. `None` if the feed carries nothing but the key.
    pub fn update(&self) -> Option<String> {
        let sets: Vec<String> =
            self.beyond_key().map(|i| format!("{} = {}", ident(&self.table.columns[i].name), self.value(i))).collect();
        if sets.is_empty() {
            return None;
        }
        let (table, from) = (quoted(&self.table.name), self.from());
        Some(format!("UPDATE {table} AS t SET {} FROM {from} WHERE {}", sets.join(", "), self.same_key("t")))
    }

    /// The key, as text, of a row of the feed that the table lacks.
    pub fn missing(&self) -> String {
        let key: Vec<String> = self.table.key.iter().map(|&i| format!("s.c{}::text", self.place(i))).collect();
        format!(
            "SELECT {} FROM {} WHERE NOT EXISTS (SELECT FROM {} AS t WHERE {}) LIMIT 1",
            key.join(", "),
            self.from(),
            quoted(&self.table.name),
            self.same_key("t")
        )
    }

    /// Copies the values of `absent` columns from the table into the staged rows with this tag.
    pub fn fill(&self, absent: &[usize], tag: i16) -> Option<String> {
        let sets: Vec<String> = absent
            .iter()
            .map(|&i| format!("c{} = {}", self.place(i), feed_value("t", &self.table.columns[i])))
            .collect();
        let Feed::Stage(number) = self.feed else { return None };
        Some(format!(
            "UPDATE {} AS s SET {} FROM {} AS t WHERE s.c{} = {tag} AND {}",
            stage_name(*number),
            sets.join(", "),
            quoted(&self.table.name),
            self.columns.len(),
            self.same_key("t")
        ))
    }

    /// Removes from the staging table the tagged rows (tag above 0) that the table lacks.
    pub fn forget_missing(&self) -> Option<String> {
        let Feed::Stage(number) = self.feed else { return None };
        Some(format!(
            "DELETE FROM {} AS s WHERE s.c{} > 0 AND NOT EXISTS (SELECT FROM {} AS t WHERE {})",
            stage_name(*number),
            self.columns.len(),
            quoted(&self.table.name),
            self.same_key("t")
        ))
    }
}

/// Whether equal values of a type are always `=`, and cheaply so.
fn compares(kind: &PgType) -> bool {
    match kind {
        PgType::SmallInt | PgType::Integer | PgType::BigInt | PgType::Decimal { .. } | PgType::Numeric => true,
        other => matches!(other.typname(), "uuid" | "date" | "timestamp" | "timestamptz" | "bool"),
    }
}

/// For the one statement that has to read a whole table, and back: see the session's own settings.
pub const SCAN: &str = "SET LOCAL enable_seqscan = on; SET LOCAL enable_hashjoin = on";
/// See [`SCAN`].
pub const PROBE: &str = "SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off";

/// Quoted names of columns.
pub fn names(table: &TableSchema, columns: &[usize]) -> String {
    let names: Vec<String> = columns.iter().map(|&i| ident(&table.columns[i].name)).collect();
    names.join(", ")
}

/// A table's value as it travels, `relation` being the table's alias. Not by a cast to text, which prints some types in
/// another way than their output function (`inet` gets its netmask): what comes from the log is what that function prints.
pub fn feed_value(relation: &str, column: &Column) -> String {
    let name = format!("{relation}.{}", ident(&column.name));
    match PgType::of(&column.logical) {
        PgType::Other(_) => format!("CASE WHEN {name} IS DISTINCT FROM NULL THEN pg_catalog.format('%s', {name}) END"),
        _ => name,
    }
}

/// `s.c0, s.c1, ..`
fn feed_columns(count: usize, prefix: &str) -> String {
    let names: Vec<String> = (0..count).map(|n| format!("{prefix}c{n}")).collect();
    names.join(", ")
}

/// A COPY straight into a table.
pub fn copy_table(table: &TableSchema, columns: &[usize]) -> String {
    format!("COPY {} ({}) FROM STDIN (FORMAT binary)", quoted(&table.name), names(table, columns))
}

/// A COPY into a staging table.
pub fn copy_stage(number: usize) -> String {
    format!("COPY {} FROM STDIN (FORMAT binary)", stage_name(number))
}

/// A staging table for columns of these types. It empties itself at each commit.
pub fn create_stage(number: usize, types: &[PgType]) -> String {
    let columns: Vec<String> = types.iter().enumerate().map(|(n, kind)| format!("c{n} {}", bare_type(kind))).collect();
    format!("CREATE TEMP TABLE {} ({}) ON COMMIT DELETE ROWS", stage_name(number), columns.join(", "))
}
