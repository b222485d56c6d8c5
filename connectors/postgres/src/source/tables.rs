//! The carried tables as the log knows them: their shape here, and what its relation ids stand for.

use std::collections::HashMap;
use std::sync::Arc;

use crossfade_core::{Batcher, Column, Error, Item, Omissions, Result, TableName, TableSchema};
use tokio_postgres::Client;

use super::follow::{Attribute, Fill, follow, logged};
use super::pgoutput::Relation;
use super::rows::Plan;
use crate::classify::classify;
use crate::connect::Server;

/// Reads the present columns of a table that can be carried from the catalog; `None` if it is not there.
pub type Describe = Box<dyn Fn(&TableName) -> Result<Option<Vec<Column>>> + Send>;

/// A carried table.
#[derive(Debug)]
struct Carried {
    schema: Arc<TableSchema>,
    /// The greatest number of a column that it is known to have had.
    highest: u32,
    /// Its id (`pg_class.oid`), if it is known: from the catalog at first, else once the log has named it.
    relation: Option<u32>,
}

/// What a relation id stands for.
#[derive(Debug)]
enum Known {
    /// A table that is not carried.
    Other,
    /// A carried one.
    Carried(Plan),
}

/// The error of a name under which another table stands than the carried one, however much it resembles it.
pub fn replaced(name: &TableName) -> Error {
    Error::data(name, "the table was dropped or renamed, and another took its name")
        .hint(format!("copy it again: crossfade snapshot {name}; or exclude it"))
}

/// All carried tables.
pub struct Tables {
    server: Server,
    describe: Describe,
    /// The policies of columns, by their names.
    omissions: Omissions,
    /// A session for the catalog, made when first needed.
    catalog: Option<Client>,
    carried: Vec<Carried>,
    by_name: HashMap<TableName, usize>,
    relations: HashMap<u32, Known>,
}

/// Columns, with what older rows hold in them. The array has one element, printed with the type's own delimiter.
const ATTRIBUTES: &str = "\
    SELECT a.attname::text, a.attnum::int4, a.attisdropped, a.attgenerated <> '', \
        a.atthasmissing AND t.typdelim IS NOT DISTINCT FROM ',', \
        a.atthasdef OR a.atthasmissing OR a.attidentity <> '', \
        CASE WHEN a.atthasmissing AND t.typdelim = ',' THEN (a.attmissingval::text::text[])[1] END, \
        NOT (a.attnotnull OR COALESCE(t.typnotnull, false)), c.relkind = 'r' AND c.relfilenode = c.oid \
    FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid \
    LEFT JOIN pg_catalog.pg_type t ON t.oid = a.atttypid \
    WHERE a.attrelid = $1 AND a.attnum > 0 ORDER BY a.attnum";

const TYPES: &str = "\
    SELECT pg_catalog.format_type(u.t, u.m) \
    FROM ROWS FROM (pg_catalog.unnest($1::oid[]), pg_catalog.unnest($2::int4[])) WITH ORDINALITY AS u (t, m, n) \
    ORDER BY u.n";

impl Tables {
    /// In the shape that they have where the stream starts.
    pub fn new(server: &Server, tables: &[Arc<TableSchema>], describe: Describe, omissions: Omissions) -> Self {
        let highest = |t: &TableSchema| t.columns.iter().map(|c| c.number).max().unwrap_or_default();
        let id = |t: &TableSchema| (t.number != 0).then_some(t.number);
        let carried = |t: &Arc<TableSchema>| Carried { schema: Arc::clone(t), highest: highest(t), relation: id(t) };
        Tables {
            server: server.clone(),
            describe,
            omissions,
            catalog: None,
            carried: tables.iter().map(carried).collect(),
            by_name: tables.iter().enumerate().map(|(i, t)| (t.name.clone(), i)).collect(),
            relations: HashMap::new(),
        }
    }

    /// How to read rows of this relation: `None` for a table that is not carried.
    pub fn plan(&self, relation: u32) -> Result<Option<&Plan>> {
        match self.relations.get(&relation) {
            Some(Known::Carried(plan)) => Ok(Some(plan)),
            Some(Known::Other) => Ok(None),
            None => Err(Error::corrupt(format!("the log has rows of relation {relation}, which it did not describe"))),
        }
    }

    /// Takes a relation's columns. A carried table of another shape than known becomes an item of `batcher`, or an error.
    pub fn relation(&mut self, relation: &Relation, batcher: &mut Batcher) -> Result<()> {
        let name = TableName::new(&relation.schema, &relation.name);
        if let Some(c) = self.carried.iter().find(|c| c.relation == Some(relation.id) && c.schema.name != name) {
            return Err(Error::data(&c.schema.name, format!("the table was renamed to {name}")).hint(
                "exclude the table, or give it its name back and copy it again with `crossfade snapshot TABLE`",
            ));
        }
        let Some(&i) = self.by_name.get(&name) else {
            self.relations.insert(relation.id, Known::Other);
            return Ok(());
        };
        let Some(carried) = self.carried.get_mut(i) else { return Ok(()) };
        if carried.relation.replace(relation.id).is_some_and(|id| id != relation.id) {
            return Err(replaced(&name));
        }
        let (attributes, types) = self.catalog(relation)?;
        let Some(carried) = self.carried.get_mut(i) else { return Ok(()) };
        let log = logged(relation, types);
        let change = follow(&carried.schema, &log, &attributes, carried.highest, || (self.describe)(&name))?;
        if let Some(mut change) = change {
            // A column of another name may have other policies.
            self.omissions.mark_policies(Arc::make_mut(&mut change.to));
            carried.schema = Arc::clone(&change.to);
            let newest = change.to.columns.iter().map(|c| c.number).max().unwrap_or_default();
            carried.highest = carried.highest.max(newest);
            batcher.push(Item::Schema(change), i)?;
        }
        let plan = plan(i, &carried.schema, relation)?;
        if !plan.covers_key && !carried.schema.key.is_empty() {
            return Err(plan.lost_key());
        }
        self.relations.insert(relation.id, Known::Carried(plan));
        Ok(())
    }

    /// The relation's attributes as the catalog has them now, and the names of its types in the log.
    fn catalog(&mut self, relation: &Relation) -> Result<(Vec<Attribute>, Vec<String>)> {
        let Tables { server, catalog, .. } = self;
        let (oids, modifiers): (Vec<u32>, Vec<i32>) = relation.columns.iter().map(|c| (c.type_oid, c.modifier)).unzip();
        let (attributes, types) = server.block_on(async {
            let client = match catalog.take().filter(|c| !c.is_closed()) {
                Some(client) => client,
                None => server.client().await?,
            };
            let attributes = client.query(ATTRIBUTES, &[&relation.id]).await.map_err(classify)?;
            let types = client.query(TYPES, &[&oids, &modifiers]).await.map_err(classify)?;
            *catalog = Some(client);
            Ok::<_, Error>((attributes, types))
        })?;
        let attributes = attributes.iter().map(attribute).collect::<Result<_, _>>().map_err(classify)?;
        let types = types.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(classify)?;
        Ok((attributes, types))
    }
}

fn attribute(row: &tokio_postgres::Row) -> Result<Attribute, tokio_postgres::Error> {
    let number: i32 = row.try_get(1)?;
    let (generated, kept, has_default): (bool, bool, bool) = (row.try_get(3)?, row.try_get(4)?, row.try_get(5)?);
    let fill = match (generated, kept, has_default) {
        (true, ..) => Fill::Generated,
        (false, true, _) => Fill::Known(row.try_get(6)?),
        (false, false, true) => Fill::Unknown,
        (false, false, false) => Fill::Known(None),
    };
    let number = u32::try_from(number).unwrap_or_default();
    let (nullable, untouched) = (row.try_get(7)?, row.try_get(8)?);
    Ok(Attribute { name: row.try_get(0)?, number, dropped: row.try_get(2)?, fill, nullable, untouched })
}

fn plan(table: usize, schema: &Arc<TableSchema>, relation: &Relation) -> Result<Plan> {
    let ordinal = |name: &str| {
        relation.columns.iter().position(|c| c.name == name).ok_or_else(|| {
            Error::data(&schema.name, "the log does not carry this column")
                .column(name)
                .hint("ALTER PUBLICATION ... so that it publishes all columns, then copy the table again with `crossfade snapshot TABLE`")
        })
    };
    let ordinals = schema.columns.iter().map(|c| ordinal(&c.name)).collect::<Result<Vec<_>>>()?;
    let is_identity = |i: &usize| {
        let at = ordinals.get(*i).and_then(|at| relation.columns.get(*at));
        relation.identity == b'f' || at.is_some_and(|c| c.key)
    };
    let covers_key = schema.key.iter().all(is_identity);
    Ok(Plan { table, schema: Arc::clone(schema), ordinals, width: relation.columns.len(), covers_key })
}
