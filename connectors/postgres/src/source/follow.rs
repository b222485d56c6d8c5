//! A table's shape changed: follows added, dropped and renamed columns, wider types and NULL that is admitted, and refuses everything
//! else.
//!
//! The log names columns and types only. What was renamed, and what was dropped and made again under the same name, is told
//! by the number that a column keeps for life (`pg_attribute.attnum`), which the catalog has: but the catalog is as it is now,
//! and may be ahead of the log. So it is believed only where it agrees with the log, and a number that came and went since the
//! known shape (a dropped column above its highest) means that something lies between that nobody can tell.
//!
//! Old rows of an added column hold what the server keeps for them (`attmissingval`): the default at the time of the ALTER.
//! Where it keeps nothing and the column has a default, the rows were rewritten, and the log does not carry that.
//!
//! A column's type may change by any expression (`USING`), of which the log has neither words nor rows. But where rows are rewritten the
//! table gets another file. One that still has its first (`relfilenode` is its OID, `heap_create` in `src/backend/catalog/heap.c`) was
//! never rewritten, so a change of type has left every value as it was (`ATColumnChangeRequiresRewrite` in
//! `src/backend/commands/tablecmds.c`): longer text, more digits in front of the point or of a second.

use std::sync::Arc;

use crossfade_core::batch::SchemaStep;
use crossfade_core::selection::leave_out;
use crossfade_core::{Column, Error, ForeignKey, Index, Logical, Result, SchemaChange, TableSchema};

use super::pgoutput::Relation;

const AGAIN: &str =
    "such a change is not followed: copy the table again with `crossfade snapshot TABLE`, or exclude it";

/// What rows that were there before a column hold in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fill {
    /// This value, or NULL.
    Known(Option<String>),
    /// Not to be told from the catalog.
    Unknown,
    /// Computed from other columns.
    Generated,
}

/// A row of `pg_attribute`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribute {
    /// Its name now.
    pub name: String,
    /// Its number.
    pub number: u32,
    /// Whether it is gone.
    pub dropped: bool,
    /// See [`Fill`].
    pub fill: Fill,
    /// Whether it admits NULL.
    pub nullable: bool,
    /// Whether its table has never been rewritten.
    pub untouched: bool,
}

/// What the log says of a table's columns, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    /// The name.
    pub name: String,
    /// The type as `format_type` prints it.
    pub source_type: String,
}

/// The columns of a relation, with its types' names.
pub fn logged(relation: &Relation, types: Vec<String>) -> Vec<Logged> {
    let names = relation.columns.iter().map(|c| c.name.clone());
    names.zip(types).map(|(name, source_type)| Logged { name, source_type }).collect()
}

/// The change from `table` to the shape that the log shows, or `None` if it is the same. `attributes` are the catalog's,
/// `highest` is the greatest number of a column that this table is known to have had; `describe` reads its present columns.
pub fn follow(
    table: &Arc<TableSchema>,
    log: &[Logged],
    attributes: &[Attribute],
    highest: u32,
    describe: impl FnOnce() -> Result<Option<Vec<Column>>>,
) -> Result<Option<SchemaChange>> {
    let refuse = |what: String, column: &str| Error::data(&table.name, what).column(column).hint(AGAIN);
    if table.columns.iter().all(|c| log.iter().any(|l| l.name == c.name))
        && !log.iter().any(|l| table.ordinal(&l.name).is_none() && !is_generated(attributes, &l.name))
    {
        same_columns(table, log, attributes)?;
        if !log.iter().any(|l| table.columns.iter().any(|c| c.name == l.name && is_changed(table, c, l, attributes))) {
            return Ok(None);
        }
    }
    let mut columns = Vec::new();
    let mut present = Present { describe: Some(describe), columns: None };
    for l in log {
        let Some(attribute) = attributes.iter().find(|a| !a.dropped && a.name == l.name) else {
            let what = "the column is in the log, and the catalog no longer has it: the table changed again since";
            return Err(refuse(what.to_owned(), &l.name));
        };
        if let Some(old) = table.columns.iter().find(|c| c.number == attribute.number) {
            columns.push((kept(table, old, l, (attribute, attributes), &mut present)?, None));
            continue;
        }
        if attribute.fill == Fill::Generated {
            continue;
        }
        let Some(new) = present.find(&l.name)? else {
            let e = Error::data(
                &table.name,
                format!("the column was added, and its type {} cannot be carried", l.source_type),
            );
            return Err(e.column(&l.name).hint(leave_out(&table.name, &l.name)));
        };
        let fill = match &attribute.fill {
            Fill::Known(fill) => fill.clone(),
            // What older rows hold in it, nobody asks.
            Fill::Unknown | Fill::Generated if new.logical == Logical::Omitted => None,
            Fill::Unknown | Fill::Generated => {
                let what = "the column was added, and what older rows hold in it is not to be told: they were rewritten, \
                            or its default came later";
                return Err(refuse(what.to_owned(), &l.name));
            }
        };
        if new.source_type != l.source_type && new.logical != Logical::Omitted {
            return Err(refuse(
                format!("its type is {} in the log, and {} now", l.source_type, new.source_type),
                &l.name,
            ));
        }
        columns.push((Column { number: attribute.number, ..new.clone() }, Some(fill)));
    }
    // Columns are numbered as they are added: one that lies between must be in the log, or the names have moved since.
    let newest = columns.iter().map(|(c, _)| c.number).max().unwrap_or_default();
    let here = |a: &Attribute| a.fill == Fill::Generated || columns.iter().any(|(c, _)| c.number == a.number);
    if attributes.iter().any(|a| a.number > highest && a.number < newest && (a.dropped || !here(a))) {
        let what = "a column came and went, or was renamed, since the table's known shape, so that added ones cannot be told apart";
        return Err(Error::data(&table.name, what).hint(AGAIN));
    }
    assemble(table, columns, attributes).map(Some)
}

/// A column that was there, as it is in the log.
fn kept<F: FnOnce() -> Result<Option<Vec<Column>>>>(
    table: &TableSchema,
    old: &Column,
    log: &Logged,
    (attribute, attributes): (&Attribute, &[Attribute]),
    present: &mut Present<F>,
) -> Result<Column> {
    let mut now = Column { name: log.name.clone(), ..old.clone() };
    now.nullable |= attribute.nullable && !is_key(table, old);
    if same_type(table, old, log, attributes)? == Type::Wider {
        let found = present.find(&log.name)?.filter(|c| c.source_type == log.source_type).ok_or_else(|| {
            Error::data(&table.name, "its type was changed, and changed again since").column(&log.name).hint(AGAIN)
        })?;
        now.source_type.clone_from(&found.source_type);
        now.logical = found.logical.clone();
    }
    Ok(now)
}

/// The table's columns as the catalog has them now, once they are needed.
struct Present<F> {
    describe: Option<F>,
    columns: Option<Vec<Column>>,
}

impl<F: FnOnce() -> Result<Option<Vec<Column>>>> Present<F> {
    fn find(&mut self, name: &str) -> Result<Option<&Column>> {
        if let Some(describe) = self.describe.take() {
            self.columns = describe()?;
        }
        Ok(self.columns.as_ref().and_then(|all| all.iter().find(|c| c.name == name)))
    }
}

fn is_generated(attributes: &[Attribute], name: &str) -> bool {
    attributes.iter().any(|a| !a.dropped && a.name == name && a.fill == Fill::Generated)
}

/// All names are known: they must mean the same columns, of the same types.
fn same_columns(table: &TableSchema, log: &[Logged], attributes: &[Attribute]) -> Result<()> {
    for (column, l) in table.columns.iter().filter_map(|c| Some((c, log.iter().find(|l| l.name == c.name)?))) {
        same_type(table, column, l, attributes)?;
        let other = |a: &&Attribute| !a.dropped && a.name == column.name && a.number != column.number;
        if attributes.iter().any(|a| other(&a)) {
            return Err(taken(table, &column.name));
        }
    }
    Ok(())
}

fn taken(table: &TableSchema, column: &str) -> Error {
    let what = "the column was dropped or renamed, and another took its name";
    Error::data(&table.name, what).column(column).hint(AGAIN)
}

/// Whether a column that is there under this name is another in some way that is followed.
fn is_changed(table: &TableSchema, column: &Column, log: &Logged, attributes: &[Attribute]) -> bool {
    let attribute = attributes.iter().find(|a| !a.dropped && a.number == column.number);
    let admits = attribute.is_some_and(|a| a.nullable) && !column.nullable && !is_key(table, column);
    admits || column.source_type != log.source_type && column.logical != Logical::Omitted
}

fn is_key(table: &TableSchema, column: &Column) -> bool {
    table.key_columns().any(|k| k.number == column.number)
}

/// What became of a column's type.
#[derive(Debug, PartialEq, Eq)]
enum Type {
    Same,
    /// It holds more, and each value that was there stays.
    Wider,
}

fn same_type(table: &TableSchema, column: &Column, log: &Logged, attributes: &[Attribute]) -> Result<Type> {
    if column.source_type == log.source_type || column.logical == Logical::Omitted {
        return Ok(Type::Same);
    }
    if attributes.iter().all(|a| a.untouched) && is_wider(&column.source_type, &log.source_type) {
        return Ok(Type::Wider);
    }
    let what = format!("its type is {} in the log, and was {}", log.source_type, column.source_type);
    Err(Error::data(&table.name, what).column(&log.name).hint(AGAIN))
}

/// Whether a type holds all values of another, in the same bytes; both as `format_type` prints them.
fn is_wider(old: &str, new: &str) -> bool {
    // `timestamp(3) without time zone`: what stands around the parentheses must be the same.
    let read = |t: &str| -> Option<(String, Vec<u32>)> {
        let Some((before, rest)) = t.split_once('(') else { return Some((t.to_owned(), Vec::new())) };
        let (inside, behind) = rest.split_once(')')?;
        let numbers = inside.split(',').map(|n| n.trim().parse().ok()).collect::<Option<_>>()?;
        Some((format!("{before}{behind}"), numbers))
    };
    let (Some((was, had)), Some((is, has))) = (read(old), read(new)) else { return false };
    let text = ["character varying", "text"];
    if text.contains(&was.as_str()) && text.contains(&is.as_str()) {
        return match (had.as_slice(), has.as_slice()) {
            (_, []) => true,
            ([n], [m]) => n <= m,
            _ => false,
        };
    }
    let clocks = ["timestamp without time zone", "timestamp with time zone", "time without time zone"];
    match (was == is, had.as_slice(), has.as_slice()) {
        (true, [precision, scale], [more, same]) => was == "numeric" && precision <= more && scale == same,
        (true, [n], [m]) => clocks.contains(&was.as_str()) && n <= m,
        // Without a number they have all six digits.
        (true, [_], []) => clocks.contains(&was.as_str()),
        _ => false,
    }
}

fn assemble(
    table: &Arc<TableSchema>,
    now: Vec<(Column, Option<Option<String>>)>,
    attributes: &[Attribute],
) -> Result<SchemaChange> {
    let mut steps = Vec::new();
    let place = |old: usize| {
        let number = table.columns.get(old)?.number;
        now.iter().position(|(c, added)| added.is_none() && c.number == number)
    };
    for (i, column) in table.columns.iter().enumerate().filter(|(i, _)| place(*i).is_none()) {
        if attributes.iter().any(|a| !a.dropped && a.number == column.number) {
            let what = "the column is there, and its values no longer come with the log";
            return Err(Error::data(&table.name, what)
                .column(&column.name)
                .hint("ALTER PUBLICATION ... so that it publishes all columns, then copy the table again with `crossfade snapshot TABLE`"));
        }
        if table.key.contains(&i) {
            return Err(Error::data(&table.name, "a column of its key was dropped").column(&column.name).hint(AGAIN));
        }
        steps.push(SchemaStep::Drop { column: column.name.clone() });
    }
    for (column, added) in &now {
        // Under a name that was known stand other values now.
        if table.columns.iter().any(|c| c.name == column.name && c.number != column.number) {
            return Err(taken(table, &column.name));
        }
        match added {
            Some(fill) => steps.push(SchemaStep::Add { column: column.name.clone(), fill: fill.clone() }),
            None => {
                let before = table.columns.iter().find(|c| c.number == column.number);
                if let Some(before) = before.filter(|b| b.name != column.name) {
                    steps.push(SchemaStep::Rename { from: before.name.clone(), to: column.name.clone() });
                }
            }
        }
    }
    let all = |ordinals: &[usize]| ordinals.iter().map(|&i| place(i)).collect::<Option<Vec<_>>>();
    let key = all(&table.key).ok_or_else(|| Error::data(&table.name, "its key changed").hint(AGAIN))?;
    let index = |i: &Index| all(&i.columns).map(|columns| Index { columns, ..i.clone() });
    let reference = |f: &ForeignKey| all(&f.columns).map(|columns| ForeignKey { columns, ..f.clone() });
    let (indexes, foreign_keys) =
        (table.indexes.iter().filter_map(index).collect(), table.foreign_keys.iter().filter_map(reference).collect());
    let to = TableSchema {
        name: table.name.clone(),
        version: table.version + 1,
        columns: now.into_iter().map(|(column, _)| column).collect(),
        key,
        indexes,
        foreign_keys,
        origin: None,
        pending: vec![],
        number: table.number,
    };
    Ok(SchemaChange { from: Arc::clone(table), to: Arc::new(to), steps })
}

#[cfg(test)]
mod tests {
    use crossfade_core::TableName;

    use super::*;

    fn column(name: &str, number: u32) -> Column {
        Column {
            name: name.into(),
            source_type: "integer".into(),
            logical: Logical::Int32,
            nullable: true,
            auto_increment: false,
            number,
            policies: Default::default(),
        }
    }

    fn table(columns: &[(&str, u32)]) -> TableSchema {
        TableSchema {
            name: TableName::new("s", "t"),
            version: 3,
            columns: columns.iter().map(|(n, i)| column(n, *i)).collect(),
            key: vec![0],
            indexes: vec![Index { name: "i".into(), columns: vec![1], unique: false }],
            foreign_keys: vec![],
            origin: None,
            pending: vec![],
            number: 0,
        }
    }

    /// Of the shape id 1, a 2, b 3; the catalog as `name`, number, `-` in front of the dropped.
    fn go(log: &[&str], catalog: &[(&str, u32)]) -> Result<Option<SchemaChange>> {
        let before = Arc::new(table(&[("id", 1), ("a", 2), ("b", 3)]));
        let log: Vec<Logged> =
            log.iter().map(|n| Logged { name: (*n).into(), source_type: "integer".into() }).collect();
        let attribute = |(name, number): &(&str, u32)| Attribute {
            name: name.trim_start_matches('-').into(),
            number: *number,
            dropped: name.starts_with('-'),
            fill: if name.starts_with('d') { Fill::Unknown } else { Fill::Known(Some("7".into())) },
            nullable: true,
            untouched: true,
        };
        let attributes: Vec<Attribute> = catalog.iter().map(attribute).collect();
        follow(&before, &log, &attributes, 3, || Ok(Some(table(catalog).columns)))
    }

    #[test]
    fn followed() {
        let known = [("id", 1), ("a", 2), ("b", 3)];
        assert!(go(&["id", "a", "b"], &known).unwrap().is_none());
        // The catalog may be ahead.
        assert!(go(&["id", "a", "b"], &[("id", 1), ("x", 2), ("-b", 3), ("c", 4)]).unwrap().is_none());
        let added = go(&["id", "a", "b", "c"], &[known[0], known[1], known[2], ("c", 4), ("e", 5)]).unwrap().unwrap();
        assert_eq!(added.steps, [SchemaStep::Add { column: "c".into(), fill: Some("7".into()) }]);
        assert_eq!((added.to.version, added.to.columns[3].number), (4, 4));
        let c = go(&["pk", "b"], &[("pk", 1), ("-a", 2), ("b", 3)]).unwrap().unwrap();
        let want = [SchemaStep::Drop { column: "a".into() }, SchemaStep::Rename { from: "id".into(), to: "pk".into() }];
        assert_eq!(c.steps, want);
        assert_eq!((c.to.key.as_slice(), c.to.indexes.len()), (&[0][..], 0));
    }

    /// Of `id integer, v varchar(9) not null`, where the log has `v` as `source_type`.
    fn retype(source_type: &str, nullable: bool, untouched: bool) -> Result<Option<SchemaChange>> {
        let mut before = table(&[("id", 1), ("v", 2)]);
        before.columns[1] = Column {
            source_type: "character varying(9)".into(),
            logical: Logical::Text,
            nullable: false,
            ..before.columns[1].clone()
        };
        let of = |name: &str, number| Attribute {
            name: name.into(),
            number,
            dropped: false,
            fill: Fill::Known(None),
            nullable: nullable && number == 2,
            untouched,
        };
        let log = [("id", "integer"), ("v", source_type)]
            .map(|(name, source_type)| Logged { name: name.into(), source_type: source_type.into() });
        let mut now = before.columns.clone();
        now[1].source_type = source_type.into();
        follow(&Arc::new(before), &log, &[of("id", 1), of("v", 2)], 2, || Ok(Some(now)))
    }

    #[test]
    fn wider_types_of_rows_that_stayed() {
        assert!(retype("character varying(9)", false, false).unwrap().is_none());
        for longer in ["character varying(10)", "character varying", "text"] {
            let change = retype(longer, false, true).unwrap().unwrap();
            assert_eq!((change.steps.len(), change.to.columns[1].source_type.as_str()), (0, longer));
            let e = retype(longer, false, false).unwrap_err();
            assert!(e.to_string().contains("column v"), "rows may be others: {e}");
        }
        for other in ["character varying(8)", "character(20)", "integer", "text[]"] {
            assert!(retype(other, false, true).is_err(), "{other}");
        }
        let change = retype("character varying(9)", true, false).unwrap().unwrap();
        assert!(change.to.columns[1].nullable && !change.from.columns[1].nullable);
    }

    #[test]
    fn types_that_hold_all_values_of_others() {
        for (old, new, wider) in [
            ("numeric(10,2)", "numeric(12,2)", true),
            ("numeric(10,2)", "numeric(12,3)", false),
            ("numeric(10,2)", "numeric", false),
            ("numeric(12,2)", "numeric(10,2)", false),
            ("timestamp(3) without time zone", "timestamp(6) without time zone", true),
            ("timestamp(3) without time zone", "timestamp without time zone", true),
            ("timestamp(3) without time zone", "timestamp(3) with time zone", false),
            ("integer", "bigint", false),
            ("text", "character varying(9)", false),
            ("text", "character varying", true),
            ("character varying(9)[]", "character varying(10)[]", false),
            ("bit(3)", "bit(4)", false),
        ] {
            assert_eq!(is_wider(old, new), wider, "{old} {new}");
        }
    }

    #[test]
    fn refused() {
        for (log, catalog) in [
            // Dropped and made again.
            (&["id", "a", "b"][..], &[("id", 1), ("-a", 2), ("b", 3), ("a", 4)][..]),
            // Something came and went.
            (&["id", "a", "b", "c"], &[("id", 1), ("a", 2), ("b", 3), ("-x", 4), ("c", 5)]),
            // The added one was renamed, and another took its name.
            (&["id", "a", "b", "c"], &[("id", 1), ("a", 2), ("b", 3), ("x", 4), ("c", 5)]),
            // The catalog has gone on.
            (&["id", "a", "b", "c"], &[("id", 1), ("a", 2), ("b", 3), ("x", 4)]),
            // Names that swapped.
            (&["id", "b", "a"], &[("id", 1), ("b", 2), ("a", 3)]),
            (&["id", "b"], &[("id", 1), ("b", 2), ("-b", 3)]),
            // The key.
            (&["a", "b"], &[("-id", 1), ("a", 2), ("b", 3)]),
            // Not published.
            (&["id", "a"], &[("id", 1), ("a", 2), ("b", 3)]),
            // Rewritten.
            (&["id", "a", "b", "d"], &[("id", 1), ("a", 2), ("b", 3), ("d", 4)]),
        ] {
            let e = go(log, catalog).unwrap_err();
            assert!(e.to_string().contains("s.t") && e.hint_text().is_some(), "{log:?}: {e}");
        }
    }
}
