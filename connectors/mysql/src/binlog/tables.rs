//! The carried tables as the log knows them: their shape here, their table maps, the ALTERs seen since.

use std::collections::HashMap;
use std::sync::Arc;

use crossfade_core::{Batcher, Column, Error, Item, Logical, Result, SchemaChange, Selection, TableName, TableSchema};

use super::alter::AlterStep;
use super::facts::{self, Fact};
use super::follow::{follow, unfollowed};
use super::live;
use super::log::Place;
use super::plan::{Collations, Plan};
use super::retype::retyped;
use super::statement::{self, Statement, mentions};
use super::table_map::{self, TableMap};
use crate::catalog;
use crate::connect::Server;
use crate::session::Session;
use crate::types;

/// A carried table.
#[derive(Debug)]
struct Carried {
    schema: Arc<TableSchema>,
    facts: Vec<Fact>,
    /// Clauses of the shape's pending statements, one list each.
    statements: Vec<Vec<AlterStep>>,
    /// Character sets of its columns, as the last table map named them.
    logged: HashMap<String, String>,
}

/// What a table id stands for.
#[derive(Debug)]
enum Mapped {
    /// A table that is not carried.
    Other,
    /// A carried one: its number, and the plan for its rows.
    Carried(usize, Arc<Plan>),
}

/// All carried tables.
#[derive(Debug)]
pub struct Tables {
    server: Server,
    collations: Collations,
    carried: Vec<Carried>,
    by_name: HashMap<TableName, usize>,
    /// By table id, with the bytes of the map: a repeated one is not read again.
    maps: HashMap<u64, (Vec<u8>, Mapped)>,
}

impl Tables {
    /// Reads what the catalog adds to the tables.
    pub fn new(server: &Server, tables: &[Arc<TableSchema>]) -> Result<Self> {
        let mut session = server.session()?;
        let collations = facts::collations(&mut session, server.is_mariadb())?;
        let mut carried = Vec::new();
        let mut by_name = HashMap::new();
        for schema in tables {
            by_name.insert(schema.name.clone(), carried.len());
            let facts = facts::columns(&mut session, &schema.name)?;
            let statements = schema.pending.iter().map(|sql| pending(schema, sql)).collect::<Result<_>>()?;
            carried.push(Carried { schema: Arc::clone(schema), facts, statements, logged: HashMap::new() });
        }
        Ok(Tables { server: server.clone(), collations, carried, by_name, maps: HashMap::new() })
    }

    /// Forgets table maps: ids are a server process's own.
    pub fn forget_maps(&mut self) {
        self.maps.clear();
    }

    /// Reads a TABLE_MAP. A carried table of another shape than known becomes an item of `batcher`, or an error.
    pub fn map(&mut self, body: &[u8], batcher: &mut Batcher, place: &Place) -> Result<()> {
        let (id, schema, name) = table_map::parse_name(body).map_err(|f| f.at(place))?;
        if self.maps.get(&id).is_some_and(|(known, _)| known == body) {
            return Ok(());
        }
        let mapped = match self.by_name.get(&TableName { schema, name }) {
            Some(&i) => Mapped::Carried(i, self.plan(i, body, batcher, place)?),
            None => Mapped::Other,
        };
        self.maps.insert(id, (body.to_vec(), mapped));
        Ok(())
    }

    fn plan(&mut self, i: usize, body: &[u8], batcher: &mut Batcher, place: &Place) -> Result<Arc<Plan>> {
        let schema = Arc::clone(&self.carried[i].schema);
        let parsed = table_map::parse(body, self.server.flavor);
        let map = parsed.map_err(|f| place.blame(f.at(place), &schema.name))?;
        let omissions = self.server.omissions();
        let fresh = || Ok(self.fresh(&schema.name)?.0);
        let change = follow(&map, &schema, &self.carried[i].statements, omissions, fresh)?;
        let charsets = charsets(&map, &self.collations);
        if let Some(mut change) = change {
            self.carried[i].facts = self.fresh(&schema.name)?.1;
            recharge(Arc::make_mut(&mut change.to), &charsets);
            self.reshape(i, change, batcher)?;
            self.carried[i].statements.clear();
        }
        let carried = &mut self.carried[i];
        carried.logged = charsets;
        let charset = |name: &str| self.server.charset(name);
        Plan::new(&map, &carried.schema, &carried.facts, &self.collations, &charset).map(Arc::new)
    }

    /// The table has this shape from here on. Plans for the former one are forgotten.
    fn reshape(&mut self, i: usize, change: SchemaChange, batcher: &mut Batcher) -> Result<()> {
        self.maps.retain(|_, (_, mapped)| !matches!(mapped, Mapped::Carried(of, _) if *of == i));
        self.carried[i].schema = Arc::clone(&change.to);
        batcher.push(Item::Schema(change), i)
    }

    /// An ALTER takes effect with the table's next row; until then it is part of the shape, so that it outlives a restart.
    fn alter(
        &mut self,
        i: usize,
        mut steps: Vec<AlterStep>,
        sql: &str,
        batcher: &mut Batcher,
        place: &Place,
    ) -> Result<()> {
        let from = Arc::clone(&self.carried[i].schema);
        // What a later table map cannot show stops at once: rows may never come.
        if let Some(what) = steps.iter().find_map(unfollowed) {
            let e = Error::data(&from.name, format!("{place}: ALTER TABLE: {what}"));
            return Err(e.hint(
                "such a change is not followed: copy the table anew with `crossfade snapshot TABLE`, or exclude it",
            ));
        }
        if steps.iter().any(|s| matches!(s, AlterStep::Retype(..) | AlterStep::Convert(_))) {
            let mut charsets = facts::charsets(&mut self.server.session()?, &from.name)?;
            charsets.logged.clone_from(&self.carried[i].logged);
            retyped(&from, &live::after(&from, &self.carried[i].statements), &steps, &charsets)
                .map_err(|e| e.context(place.to_string()))?;
        }
        if steps.contains(&AlterStep::DropIndex) {
            self.demand_key(i, &steps).map_err(|e| e.context(place.to_string()))?;
            steps.retain(|s| *s != AlterStep::DropIndex);
        }
        if steps.is_empty() {
            return Ok(());
        }
        let mut to = (*from).clone();
        to.version += 1;
        // A NUL, which not every target can keep, reads the same when it is escaped.
        to.pending.push(sql.replace('\0', "\\0"));
        self.carried[i].statements.push(steps);
        self.reshape(i, SchemaChange { from, to: Arc::new(to), steps: Vec::new() }, batcher)
    }

    /// The table's columns as the catalog has them now.
    fn fresh(&self, name: &TableName) -> Result<(Vec<Column>, Vec<Fact>)> {
        let mut session = self.server.session()?;
        let found = self.present(&mut session, name)?;
        Ok((found.map(|t| t.columns).unwrap_or_default(), facts::columns(&mut session, name)?))
    }

    fn present(&self, session: &mut Session, name: &TableName) -> Result<Option<TableSchema>> {
        let selection = Selection { include: vec![name.to_string()], exclude: vec![] };
        let all = catalog::inventory(&self.server, session, &selection)?;
        Ok(all.into_iter().map(|t| t.schema).find(|t| t.name == *name))
    }

    /// After an index was dropped: an error if it was the one that tells rows apart. Its name is not part of a shape, so the
    /// catalog is asked for the present key. Two rows of one key would be one at a target.
    fn demand_key(&self, i: usize, steps: &[AlterStep]) -> Result<()> {
        let Carried { schema, statements, .. } = &self.carried[i];
        if schema.key.is_empty() {
            return Ok(());
        }
        let all: Vec<Vec<AlterStep>> = statements.iter().cloned().chain([steps.to_vec()]).collect();
        let live = live::after(schema, &all);
        let is_key = |l: &&live::Live| matches!(l.origin, live::Origin::Known(at) if schema.key.contains(&at));
        let key: Vec<&str> = live.iter().filter(is_key).map(|l| l.name.as_str()).collect();
        // One that is gone by now is told of by the log.
        let Some(now) = self.present(&mut self.server.session()?, &schema.name)? else { return Ok(()) };
        let now: Vec<&str> = now.key_columns().map(|c| c.name.as_str()).collect();
        if key.len() == now.len() && key.iter().all(|k| now.iter().any(|n| live::same(k, n))) {
            return Ok(());
        }
        let (key, now) = (key.join(", "), if now.is_empty() { "none".to_owned() } else { now.join(", ") });
        let what = format!("an index was dropped, and its key was ({key}) and is ({now}) now");
        Err(Error::data(&schema.name, what)
            .hint("a changed key is not followed: copy the table anew with `crossfade snapshot TABLE`, or exclude it"))
    }

    /// What rows of this id belong to: `None` for a table that is not carried.
    pub fn by_id(&self, id: u64, place: &Place) -> Result<Option<(usize, Arc<Plan>)>> {
        match self.maps.get(&id) {
            Some((_, Mapped::Carried(i, plan))) => Ok(Some((*i, Arc::clone(plan)))),
            Some((_, Mapped::Other)) => Ok(None),
            None => Err(Error::corrupt(format!("{place}: rows of table id {id}, which no table map announced"))),
        }
    }

    /// The name of a carried table.
    pub fn name(&self, i: usize) -> &TableName {
        &self.carried[i].schema.name
    }

    /// What a statement does to carried tables.
    pub fn statement(&mut self, statement: Statement, sql: &str, batcher: &mut Batcher, place: &Place) -> Result<()> {
        let gone = |table: &TableName, how: &str| {
            Error::data(table, format!("{place}: the table was {how}"))
                .hint("exclude the table, or bring it back and copy it anew")
        };
        match statement {
            Statement::Truncate(name) => {
                if let Some(i) = self.find(&name) {
                    let schema = Arc::clone(&self.carried[i].schema);
                    batcher.push(Item::Truncate(schema), i)?;
                }
            }
            Statement::Alter(name, steps) => {
                if let Some(i) = self.find(&name) {
                    self.alter(i, steps, sql, batcher, place)?;
                }
            }
            Statement::Rename(names) => {
                if let Some(name) = names.iter().find(|n| self.find(n).is_some()) {
                    return Err(gone(name, "renamed"));
                }
            }
            Statement::Drop(names) => {
                if let Some(name) = names.iter().find(|n| self.find(n).is_some()) {
                    return Err(gone(name, "dropped or replaced"));
                }
            }
            Statement::DropDatabase(database) => {
                if let Some(c) = self.carried.iter().find(|c| c.schema.name.schema.eq_ignore_ascii_case(&database)) {
                    return Err(gone(&c.schema.name, "dropped with its database"));
                }
            }
            Statement::Dml => {
                if let Some(c) = self.carried.iter().find(|c| mentions(sql, &c.schema.name.name)) {
                    let start: String = sql.chars().take(80).collect();
                    let e = Error::data(
                        &c.schema.name,
                        format!("{place}: the log has a statement instead of rows: {start}"),
                    );
                    return Err(
                        e.hint("SET GLOBAL binlog_format = ROW on the source, reconnect its clients, and copy the table anew with `crossfade snapshot TABLE`")
                    );
                }
            }
            Statement::Begin
            | Statement::Commit
            | Statement::Rollback
            | Statement::RollbackTo
            | Statement::Savepoint
            | Statement::Xa
            | Statement::Harmless => {}
        }
        Ok(())
    }

    /// By name; a server that folds names to lower case may write them either way.
    fn find(&self, name: &TableName) -> Option<usize> {
        self.by_name.get(name).copied().or_else(|| {
            self.carried.iter().position(|c| {
                c.schema.name.name.eq_ignore_ascii_case(&name.name)
                    && c.schema.name.schema.eq_ignore_ascii_case(&name.schema)
            })
        })
    }
}

/// The clauses of a statement that a shape has kept.
fn pending(table: &TableSchema, sql: &str) -> Result<Vec<AlterStep>> {
    match statement::read(sql, &table.name.schema) {
        Statement::Alter(_, steps) => Ok(steps),
        _ => Err(Error::data(&table.name, format!("its shape holds a statement that is no ALTER TABLE: {sql}"))
            .hint("copy the table anew with `crossfade snapshot TABLE`")),
    }
}

/// Text is selected by the character set that its column's type names ([`types::source_type`]): from here on by the log's.
fn recharge(table: &mut TableSchema, charsets: &HashMap<String, String>) {
    for column in table.columns.iter_mut().filter(|c| matches!(c.logical, Logical::Text | Logical::Json)) {
        if let Some(charset) = charsets.get(&column.name) {
            column.source_type = types::with_charset(&column.source_type, charset);
        }
    }
}

/// Character sets of columns, as far as a table map names them.
fn charsets(map: &TableMap, collations: &Collations) -> HashMap<String, String> {
    let one = |c: &table_map::LogColumn| Some((c.name.clone()?, collations.get(&c.collation?)?.clone()));
    map.columns.iter().filter_map(one).collect()
}
