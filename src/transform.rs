//! The transform stage: where tables go, under which names, with which columns.
//!
//! It works on shapes and column references only: no value is touched, a batch is re-labelled and projected, not
//! copied. The same function serves the stream and the snapshots that verification reads, so that both sides of a
//! comparison went through the same rules.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow_array::RecordBatch;
use crossfade_core::policy::is_same_but_for_policies;
use crossfade_core::selection::glob_matches;
use crossfade_core::unfit::{Changed, settle};
use crossfade_core::{
    Batch, Column, ColumnDetails, Details, Error, ForeignKey, Index, Item, Logical, Omissions, PolicyRules, Result,
    Rows, SchemaChange, TableName, TableSchema, batch::SchemaStep,
};

/// Rules in the order of the configuration; for routes the first that matches wins, column rules add up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// Where tables go.
    pub routes: Vec<Route>,
    /// What becomes of columns.
    pub columns: Vec<ColumnRule>,
    /// What may become of values that no target can hold.
    pub policies: PolicyRules,
}

/// Sends the tables that match `from` to `to`; a `*` in `to` keeps the source's name in that place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// A glob over `schema.table`.
    pub from: String,
    /// `schema.table`, either part may be `*`.
    pub to: TableName,
}

/// Leaves out or renames columns of the tables that match.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ColumnRule {
    /// A glob over `schema.table`.
    pub tables: String,
    /// Columns that are not carried.
    pub exclude: Vec<String>,
    /// Source name to target name.
    pub rename: BTreeMap<String, String>,
}

impl Rules {
    fn route(&self, table: &TableName) -> TableName {
        let keep = |part: &str, name: &str| if part == "*" { name.to_owned() } else { part.to_owned() };
        match self.routes.iter().find(|r| glob_matches(&r.from, table)) {
            Some(r) => TableName::new(keep(&r.to.schema, &table.schema), keep(&r.to.name, &table.name)),
            None => table.clone(),
        }
    }

    /// What a source has to know: the columns that no rule carries, and the policies of the others.
    pub fn omissions(&self) -> Omissions {
        let excluded = self.columns.iter().map(|r| (r.tables.clone(), r.exclude.clone()));
        Omissions::new(excluded).with_policies(self.policies.clone())
    }

    /// The name of a column at the target; `None` if it is not carried.
    fn column(&self, table: &TableName, column: &str) -> Option<String> {
        let rules = || self.columns.iter().filter(|r| glob_matches(&r.tables, table));
        if rules().any(|r| r.exclude.iter().any(|c| c == column)) {
            return None;
        }
        Some(rules().find_map(|r| r.rename.get(column)).map_or(column, String::as_str).to_owned())
    }
}

/// A table on its way: its shape at the source, at the target, and which columns go over.
#[derive(Debug, Clone)]
pub struct Mapped {
    /// At the source.
    pub source: Arc<TableSchema>,
    /// At the target.
    pub target: Arc<TableSchema>,
    keep: Vec<usize>,
}

impl Mapped {
    /// A batch of the source's shape as the target holds it, for comparisons: in its shape, and with what policies make of values.
    /// `changed` is told each of these.
    pub fn arrives(&self, batch: &RecordBatch, changed: &mut dyn FnMut(&Changed)) -> Result<RecordBatch> {
        let batch = self.project(batch)?;
        Ok(match settle(&self.target, &batch)? {
            Some((settled, all)) => {
                all.iter().for_each(changed);
                settled
            }
            None => batch,
        })
    }

    /// A batch of the source's shape in the target's.
    pub fn project(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let columns = self.keep.iter().map(|&i| Arc::clone(batch.column(i))).collect();
        RecordBatch::try_new(self.target.arrow(), columns)
            .map_err(|e| Error::corrupt(format!("table {}: projecting its columns", self.source.name)).caused_by(e))
    }

    /// For each of the target's columns the source's that goes there.
    pub fn kept(&self) -> &[usize] {
        &self.keep
    }

    /// The table's details as they arrive: under the columns' names there, without those of columns that are left out.
    pub fn details(&self, of: &Details) -> Details {
        let name = |column: &str| {
            let at = self.keep.iter().position(|k| self.source.columns[*k].name == column)?;
            Some(self.target.columns[at].name.as_str())
        };
        let columns =
            of.columns.iter().filter_map(|c| Some(ColumnDetails { name: name(&c.name)?.into(), ..c.clone() }));
        let mut details = Details { columns: columns.collect(), checks: vec![], ..of.clone() };
        for check in &of.checks {
            match check.columns.iter().all(|c| name(c) == Some(c)) {
                true => details.checks.push(check.clone()),
                false => details.leave_out(format!("check {}", check.name), "a column of it is left out or renamed"),
            }
        }
        details
    }

    fn rows(&self, rows: Rows) -> Result<Rows> {
        let batch = self.project(&rows.batch)?;
        let mut absent: Vec<_> = match rows.absent.is_empty() {
            true => Vec::new(),
            false => self.keep.iter().map(|&i| rows.absent[i].clone()).collect(),
        };
        if absent.iter().all(Option::is_none) {
            absent.clear();
        }
        Ok(Rows { table: Arc::clone(&self.target), batch, absent, ..rows })
    }
}

/// Applies [`Rules`] to batches, remembering the shapes it has seen.
#[derive(Debug)]
pub struct Transform {
    rules: Rules,
    seen: HashMap<TableName, Mapped>,
}

impl Transform {
    /// A stage with these rules.
    pub fn new(rules: Rules) -> Self {
        Transform { rules, seen: HashMap::new() }
    }

    /// How these tables arrive. An error names every rule that cannot hold: a key column left out, two tables or two
    /// columns under one name.
    pub fn map_all(&mut self, tables: &[Arc<TableSchema>]) -> Result<Vec<Mapped>> {
        let (mapped, mut wrong) = self.map_each(tables);
        let last = wrong.pop();
        let join = |e: Error| {
            let others: Vec<String> = wrong.iter().map(Error::to_string).collect();
            if others.is_empty() { e } else { e.context(others.join("; ")) }
        };
        last.map_or(Ok(mapped), |e| Err(join(e)))
    }

    /// How these tables arrive, and what is wrong with each of those that cannot.
    pub fn map_each(&mut self, tables: &[Arc<TableSchema>]) -> (Vec<Mapped>, Vec<Error>) {
        let (mut mapped, mut wrong): (Vec<Mapped>, Vec<Error>) = (Vec::new(), Vec::new());
        let mut names: HashMap<TableName, TableName> = HashMap::new();
        for table in tables {
            match self.map(table) {
                Err(e) => wrong.push(e),
                Ok(m) => match names.insert(m.target.name.clone(), m.source.name.clone()) {
                    None => mapped.push(m),
                    Some(other) => wrong.push(
                        Error::config(format!(
                            "tables {other} and {} would both become {}",
                            m.source.name, m.target.name
                        ))
                        .hint("give one of them a [[route]] of its own, or exclude it"),
                    ),
                },
            }
        }
        (mapped, wrong)
    }

    /// How tables that a target remembers arrived: from the shapes that they had at the source then. An error if the rules
    /// would now make something else of them.
    pub fn restore(&mut self, arrived: &[Arc<TableSchema>]) -> Result<Vec<Mapped>> {
        let restore = |table: &Arc<TableSchema>| {
            let Some(origin) = &table.origin else {
                return Err(Error::corrupt(format!(
                    "table {}: the target does not know its shape at the source",
                    table.name
                )));
            };
            // What was read when the target began, and is left out now, need not be read any more.
            let mut source = (**origin).clone();
            self.rules.omissions().mark(&mut source);
            let mapped = self.map(&Arc::new(source))?;
            let now = &mapped.target;
            if !is_same_but_for_policies(now, table) {
                return Err(Error::config(format!(
                    "the rules now make another table of {} than {}, which is what the target holds",
                    origin.name, table.name
                ))
                .hint(
                    "take the changed [[route]] or [[column]] rules back; where only columns changed, \
                     `crossfade snapshot TABLE` copies the table again; else begin anew under another pipeline name",
                ));
            }
            Ok(mapped)
        };
        arrived.iter().map(restore).collect()
    }

    fn map(&mut self, table: &Arc<TableSchema>) -> Result<Mapped> {
        if let Some(known) = self.seen.get(&table.name)
            && (Arc::ptr_eq(&known.source, table) || known.source == *table)
        {
            return Ok(known.clone());
        }
        let mapped = map_table(&self.rules, table)?;
        self.seen.insert(table.name.clone(), mapped.clone());
        Ok(mapped)
    }

    /// Every table it has seen, in its last shape.
    pub fn seen(&self) -> Vec<Mapped> {
        let mut all: Vec<Mapped> = self.seen.values().cloned().collect();
        all.sort_by(|a, b| a.source.name.cmp(&b.source.name));
        all
    }

    /// The batch as it arrives.
    pub fn apply(&mut self, batch: Batch) -> Result<Batch> {
        let items = batch.items.into_iter().map(|i| self.item(i)).collect::<Result<Vec<_>>>()?;
        Ok(Batch { items, ..batch })
    }

    fn item(&mut self, item: Item) -> Result<Item> {
        Ok(match item {
            Item::Rows(rows) => Item::Rows(self.map(&rows.table.clone())?.rows(rows)?),
            Item::Truncate(table) => Item::Truncate(self.map(&table)?.target),
            Item::Schema(change) => {
                let steps = change.steps.iter().map(|s| self.step(&change, s));
                let steps = steps.filter_map(Result::transpose).collect::<Result<_>>()?;
                let from = self.map(&change.from)?.target;
                // Rules that have no place for its new shape stop this table alone.
                let to = self.map(&change.to).map_err(|e| e.concerning(&change.to.name))?.target;
                Item::Schema(SchemaChange { from, to, steps })
            }
        })
    }

    /// What a step at the source means at the target; `None`: nothing.
    fn step(&self, change: &SchemaChange, step: &SchemaStep) -> Result<Option<SchemaStep>> {
        let name = |column: &str| self.rules.column(&change.from.name, column);
        Ok(match step {
            SchemaStep::Add { column, fill } => {
                name(column).map(|column| SchemaStep::Add { column, fill: fill.clone() })
            }
            SchemaStep::Drop { column } => name(column).map(|column| SchemaStep::Drop { column }),
            SchemaStep::Rename { from, to } => match (name(from), name(to)) {
                (Some(from), Some(to)) if from == to => None,
                (Some(from), Some(to)) => Some(SchemaStep::Rename { from, to }),
                (Some(from), None) => Some(SchemaStep::Drop { column: from }),
                (None, Some(_)) => {
                    return Err(Error::data(
                        &change.from.name,
                        "an excluded column was renamed to one that is carried",
                    )
                    .column(to)
                    .hint(
                        "its values were never carried: exclude the new name too, or begin anew under another name",
                    ));
                }
                (None, None) => None,
            },
        })
    }
}

fn map_table(rules: &Rules, table: &Arc<TableSchema>) -> Result<Mapped> {
    let mut keep = Vec::new();
    let mut columns = Vec::new();
    for (i, column) in table.columns.iter().enumerate() {
        match rules.column(&table.name, &column.name) {
            // It was left out when the pipeline began, and its values were never read.
            Some(_) if column.logical == Logical::Omitted => {
                let what = format!("table {}: column {} was left out, and now no rule does", table.name, column.name);
                return Err(Error::config(what).hint(format!(
                    "take the [[column]] rule back, or copy the table again with `crossfade snapshot {}`",
                    table.name
                )));
            }
            Some(name) => {
                keep.push(i);
                let nullable = column.nullable || column.policies.make_null();
                columns.push(Column { name, nullable, ..column.clone() });
            }
            None if table.key.contains(&i) => {
                return Err(Error::config(format!("table {}: key column {} is excluded", table.name, column.name))
                    .hint("keep the key's columns: without them a row cannot be told from another"));
            }
            None => {}
        }
    }
    for (i, column) in columns.iter().enumerate() {
        if columns[..i].iter().any(|c| c.name == column.name) {
            return Err(Error::config(format!("table {}: two columns would be named {}", table.name, column.name))
                .hint("change the rename rule"));
        }
    }
    // An ordinal at the source as one at the target; none if any of the columns is left out.
    let remap = |ordinals: &[usize]| -> Option<Vec<usize>> {
        ordinals.iter().map(|o| keep.iter().position(|k| k == o)).collect()
    };
    let key = remap(&table.key).unwrap_or_default();
    let indexes = table.indexes.iter().filter_map(|i| Some(Index { columns: remap(&i.columns)?, ..i.clone() }));
    let foreign_keys = table.foreign_keys.iter().filter_map(|f| {
        let to_columns = f.to_columns.iter().map(|c| rules.column(&f.to, c)).collect::<Option<Vec<_>>>()?;
        Some(ForeignKey { columns: remap(&f.columns)?, to: rules.route(&f.to), to_columns, ..f.clone() })
    });
    let target = TableSchema {
        name: rules.route(&table.name),
        version: table.version,
        key,
        indexes: indexes.collect(),
        foreign_keys: foreign_keys.collect(),
        origin: Some(Box::new((**table).clone())),
        pending: vec![],
        number: 0,
        columns,
    };
    Ok(Mapped { source: Arc::clone(table), target: Arc::new(target), keep })
}

#[cfg(test)]
mod tests {
    use arrow_array::{ArrayRef, Int64Array};
    use crossfade_core::{Boundary, Check, Logical, Op, Policy, PolicyRule, Position};

    use super::*;

    fn table(name: &str) -> Arc<TableSchema> {
        let column = |name: &str| Column {
            name: name.into(),
            source_type: "bigint".into(),
            logical: Logical::Int64,
            nullable: false,
            auto_increment: false,
            number: 0,
            policies: Default::default(),
        };
        Arc::new(TableSchema {
            name: TableName::new("shop", name),
            version: 1,
            columns: vec![column("secret"), column("id"), column("total")],
            key: vec![1],
            indexes: vec![
                Index { name: "t".into(), columns: vec![2, 1], unique: false },
                Index { name: "s".into(), columns: vec![0], unique: false },
            ],
            foreign_keys: vec![ForeignKey {
                name: "f".into(),
                columns: vec![2],
                to: TableName::new("shop", "totals"),
                to_columns: vec!["total".into()],
                on_delete: "NO ACTION".into(),
                on_update: "NO ACTION".into(),
            }],
            origin: None,
            pending: vec![],
            number: 0,
        })
    }

    fn rules() -> Rules {
        Rules {
            routes: vec![
                Route { from: "shop.orders".into(), to: TableName::new("sales", "purchases") },
                Route { from: "shop.*".into(), to: TableName::new("sales", "*") },
            ],
            columns: vec![ColumnRule {
                tables: "shop.*".into(),
                exclude: vec!["secret".into()],
                rename: BTreeMap::from([("total".into(), "amount".into())]),
            }],
            policies: PolicyRules::default(),
        }
    }

    #[test]
    fn shapes_are_routed_projected_and_renamed() {
        let mapped = Transform::new(rules()).map_all(&[table("orders"), table("items")]).unwrap();
        let t = &mapped[0].target;
        assert_eq!(t.name, TableName::new("sales", "purchases"));
        assert_eq!(mapped[1].target.name, TableName::new("sales", "items"));
        assert_eq!(t.columns.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["id", "amount"]);
        assert_eq!(t.key, [0]);
        assert_eq!(t.indexes.len(), 1, "an index over an excluded column is left out");
        assert_eq!(t.indexes[0].columns, [1, 0]);
        assert_eq!(t.foreign_keys[0].to, TableName::new("sales", "totals"));
        assert_eq!(t.foreign_keys[0].to_columns, ["amount"]);
    }

    #[test]
    fn details_follow_their_columns() {
        let mapped = Transform::new(rules()).map_all(&[table("orders")]).unwrap();
        let mut details = Details { comment: Some("sold".into()), ..Details::default() };
        for column in ["secret", "id", "total", "gone"] {
            details.column(column).comment = Some(column.into());
        }
        for columns in [["id"], ["total"], ["secret"]] {
            let columns: Vec<String> = columns.map(String::from).into();
            details.checks.push(Check { name: columns[0].clone(), columns, condition: "x".into() });
        }
        let arrived = mapped[0].details(&details);
        assert_eq!(arrived.comment.as_deref(), Some("sold"));
        let columns: Vec<(&str, Option<&str>)> =
            arrived.columns.iter().map(|c| (c.name.as_str(), c.comment.as_deref())).collect();
        assert_eq!(columns, [("id", Some("id")), ("amount", Some("total"))]);
        assert_eq!(arrived.checks.len(), 1);
        let left_out: Vec<&str> = arrived.left_out.iter().map(|l| l.what.as_str()).collect();
        assert_eq!(left_out, ["check total", "check secret"]);
    }

    #[test]
    fn rows_follow_their_shape() {
        let table = table("orders");
        let columns: Vec<ArrayRef> = (0..3).map(|i| Arc::new(Int64Array::from(vec![i * 10])) as ArrayRef).collect();
        let rows = Rows {
            batch: RecordBatch::try_new(table.arrow(), columns).unwrap(),
            table,
            ops: vec![Op::Update],
            absent: vec![None, None, Some(arrow_buffer::BooleanBuffer::new_set(1))],
            commit_micros: vec![0],
            order: vec![0],
        };
        let end = Boundary::Commit(Position::new("x"));
        let batch = Batch { items: vec![Item::Rows(rows)], end, commit_micros: None };
        let out = Transform::new(rules()).apply(batch).unwrap();
        let Item::Rows(r) = &out.items[0] else { unreachable!() };
        assert_eq!(r.batch.schema().field(1).name(), "amount");
        assert!(r.is_absent(1, 0) && !r.is_absent(0, 0));
    }

    #[test]
    fn what_is_left_out_is_not_read_again() {
        let mapped = Transform::new(rules()).map_all(&[table("orders")]).unwrap().remove(0);
        let restored = Transform::new(rules()).restore(&[mapped.target]).unwrap().remove(0);
        let logical: Vec<_> = restored.source.columns.iter().map(|c| &c.logical).collect();
        assert_eq!(logical, [&Logical::Omitted, &Logical::Int64, &Logical::Int64], "the target knew it as a number");
        // Without its rule the column would arrive without values.
        let mut r = rules();
        r.columns[0].exclude.clear();
        let e = Transform::new(r).restore(&[restored.target]).unwrap_err();
        assert!(e.to_string().contains("column secret was left out, and now no rule does"), "{e}");
        assert!(e.hint_text().unwrap().contains("crossfade snapshot shop.orders"), "{e}");
    }

    #[test]
    fn a_policy_may_come_and_go() {
        let mut dated = (*table("orders")).clone();
        dated.columns[2].logical = Logical::Date;
        let mut with = rules();
        let passes = PolicyRule { decides: vec![(Policy::ZeroDate, true)], ..PolicyRule::default() };
        with.policies = PolicyRules(vec![passes]);
        let strict = Transform::new(rules()).map_all(&[Arc::new(dated.clone())]).unwrap().remove(0).target;
        assert!(!strict.columns[1].nullable && strict.columns[1].policies.is_empty());
        let lax = Transform::new(with.clone()).restore(&[Arc::clone(&strict)]).unwrap().remove(0);
        assert!(lax.target.columns[1].nullable && lax.source.columns[2].policies.has(Policy::ZeroDate));
        assert!(!lax.target.origin.as_ref().unwrap().columns[2].nullable, "the source's shape is what it is");
        let back = Transform::new(rules()).restore(&[lax.target]).unwrap().remove(0);
        assert_eq!(back.target.columns, strict.columns);
    }

    #[test]
    fn rules_that_cannot_hold_are_refused() {
        let mut r = rules();
        r.columns[0].exclude.push("id".into());
        let e = Transform::new(r).map_all(&[table("orders")]).unwrap_err();
        assert!(e.to_string().contains("key column id is excluded"), "{e}");

        let mut r = rules();
        r.columns[0].rename.insert("total".into(), "id".into());
        let e = Transform::new(r).map_all(&[table("orders")]).unwrap_err();
        assert!(e.to_string().contains("two columns would be named id"), "{e}");

        let mut r = rules();
        r.routes = vec![Route { from: "*".into(), to: TableName::new("a", "b") }];
        let e = Transform::new(r).map_all(&[table("orders"), table("items")]).unwrap_err();
        assert!(e.to_string().contains("would both become a.b"), "{e}");
    }
}
