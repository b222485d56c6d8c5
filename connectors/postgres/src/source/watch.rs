//! What the log does not tell: looked at every few seconds while it is read.
//!
//! Three statements take rows out of a carried table's log, or put rows into the table past it, without a message:
//! - a table leaves the publication: its changes are no longer sent (`get_rel_sync_entry` in
//!   `src/backend/replication/pgoutput/pgoutput.c`);
//! - `ATTACH PARTITION` of a table that has rows: they stand in the root, and were never inserted into it;
//! - `DETACH PARTITION`, or `DROP TABLE` of a partition: its rows are gone from the root, and nobody deleted them.
//!
//! Each ends the stream with the way on. A partition that was made as such, empty, is daily business and passes. Between two looks
//! a table may leave and come back: its entry has another object id then, so that this is noticed, too. What happened while
//! nobody read the log is not noticed here; `verify` finds it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crossfade_core::{Batch, Error, Limit, Position, Result, Stream, TableName};
use tokio_postgres::Client;

use super::prepared::Prepared;
use super::publication::{self, Publication};
use super::stream::PgStream;
use crate::classify::classify;
use crate::quote;

/// Looks are so far apart.
const EVERY: Duration = Duration::from_secs(5);

/// The leaves of partitioned tables: root (by its place in the lists of names), object id, name, the youngest transaction that
/// attached the leaf, or a table between, to its parent, and whether each was made as a partition: its row type is then as old
/// as its place in the tree.
const LEAVES: &str = "\
    WITH RECURSIVE tree (root, oid, attached, made) AS ( \
        SELECT u.n, c.oid, NULL::xid, true \
        FROM ROWS FROM (pg_catalog.unnest($1::text[]), pg_catalog.unnest($2::text[])) WITH ORDINALITY AS u (s, t, n) \
        JOIN pg_catalog.pg_namespace s ON s.nspname = u.s \
        JOIN pg_catalog.pg_class c ON c.relnamespace = s.oid AND c.relname = u.t AND c.relkind = 'p' \
        UNION ALL SELECT t.root, i.inhrelid, \
            CASE WHEN pg_catalog.age(t.attached) < pg_catalog.age(i.xmin) THEN t.attached ELSE i.xmin END, \
            t.made AND y.xmin = i.xmin \
        FROM tree t JOIN pg_catalog.pg_inherits i ON i.inhparent = t.oid \
        JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid JOIN pg_catalog.pg_type y ON y.oid = c.reltype) \
    SELECT t.root, t.oid, n.nspname::text, c.relname::text, t.attached::text, t.made \
    FROM tree t JOIN pg_catalog.pg_class c ON c.oid = t.oid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.relkind <> 'p'";

/// A leaf of a partitioned table.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Leaf {
    root: TableName,
    name: TableName,
    /// The transaction that put it there.
    attached: String,
    /// Whether it never stood for itself.
    made: bool,
}

/// What is looked at.
#[derive(Debug, Clone)]
pub struct Picture {
    publication: Publication,
    leaves: BTreeMap<u32, Leaf>,
}

/// Reads the picture of these tables.
pub async fn look(client: &Prepared, publication: &str, tables: &[TableName]) -> Result<Picture> {
    let found = publication::read(client, publication).await?.ok_or_else(|| Publication::gone(publication))?;
    let schemas: Vec<&str> = tables.iter().map(|t| t.schema.as_str()).collect();
    let names: Vec<&str> = tables.iter().map(|t| t.name.as_str()).collect();
    let mut leaves = BTreeMap::new();
    for row in client.query(LEAVES, &[&schemas, &names]).await.map_err(classify)? {
        let root: i64 = row.try_get(0).map_err(classify)?;
        let root = usize::try_from(root - 1).ok().and_then(|n| tables.get(n)).cloned();
        let root = root.ok_or_else(|| Error::corrupt("the server's answer about partitions cannot be read"))?;
        let read = || {
            let name = TableName::new(row.try_get::<_, String>(2)?, row.try_get::<_, String>(3)?);
            Ok((row.try_get(1)?, Leaf { root, name, attached: row.try_get(4)?, made: row.try_get(5)? }))
        };
        let (oid, leaf) = read().map_err(classify)?;
        leaves.insert(oid, leaf);
    }
    Ok(Picture { publication: found, leaves })
}

/// Whether a table is still there, under whatever name.
async fn present(client: &Prepared, oid: u32) -> Result<Option<TableName>> {
    let sql = "SELECT n.nspname::text, c.relname::text FROM pg_catalog.pg_class c \
               JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1";
    let row = client.query_opt(sql, &[&oid]).await.map_err(classify)?;
    let name =
        |row: tokio_postgres::Row| Ok(TableName::new(row.try_get::<_, String>(0)?, row.try_get::<_, String>(1)?));
    row.map(name).transpose().map_err(classify)
}

/// Compares two looks. An error if rows are missing from the log in between.
async fn compare(client: &Prepared, tables: &[TableName], before: &Picture, now: &Picture) -> Result<()> {
    let mut still = Vec::with_capacity(tables.len());
    for table in tables {
        let Some(oid) = before.publication.oid(table).filter(|_| !now.publication.has(table)) else {
            still.push(table);
            continue;
        };
        match present(client, oid).await? {
            Some(name) if name == *table => still.push(table),
            Some(name) => {
                return Err(Error::data(table, format!("the table was renamed to {name}"))
                    .hint("exclude the table, or give it its name back and copy it again"));
            }
            // A table that was dropped has no more changes.
            None => tracing::debug!(%table, "dropped at the source"),
        }
    }
    now.publication.verify(still.iter().copied())?;
    if let Some(table) = still.iter().find(|t| !now.publication.kept(&before.publication, t)) {
        let message = "it left the publication for a while, or was made again: changes may be missing from the log";
        return Err(Error::data(table, message).hint(format!("copy it again: crossfade snapshot {table}")));
    }
    for (_, leaf) in now.leaves.iter().filter(|(oid, _)| !before.leaves.contains_key(oid)) {
        if !leaf.made && held_rows(client, leaf).await? {
            let message = format!("partition {} was attached with rows in it, which the log does not hold", leaf.name);
            return Err(again(&leaf.root, message));
        }
    }
    let gone = |(oid, leaf): &(&u32, &Leaf)| !now.leaves.contains_key(oid) && still.contains(&&leaf.root);
    if let Some((oid, leaf)) = before.leaves.iter().find(gone) {
        let what = if present(client, *oid).await?.is_some() { "detached" } else { "dropped" };
        let message =
            format!("partition {} was {what}: its rows are gone, and the log has no deletes of them", leaf.name);
        return Err(again(&leaf.root, message));
    }
    Ok(())
}

fn again(root: &TableName, message: String) -> Error {
    Error::data(root, message).hint(format!(
        "copy it again: crossfade snapshot {root}; or carry partitions as tables of their own: partitions=leaf in the source's URL"
    ))
}

/// Rows that are older than the partition's place in the tree.
async fn held_rows(client: &Prepared, leaf: &Leaf) -> Result<bool> {
    let from = quote::table(&leaf.name);
    let older = "pg_catalog.age(l.xmin) > pg_catalog.age($1::text::xid)";
    let sql = format!("SELECT EXISTS (SELECT FROM ONLY {from} l WHERE {older})");
    // Not kept: its text names a table.
    let row = Client::query_one(client, &sql, &[&leaf.attached]).await.map_err(classify)?;
    row.try_get(0).map_err(classify)
}

/// Looks again, and compares.
pub async fn look_again(
    client: &Prepared,
    publication: &str,
    tables: &[TableName],
    before: &Picture,
) -> Result<Picture> {
    let now = look(client, publication, tables).await?;
    compare(client, tables, before, &now).await?;
    Ok(now)
}

/// Looks, given the last picture.
pub type Look = Box<dyn Fn(&Picture) -> Result<Picture> + Send>;

/// A stream beside which is looked.
pub struct Watched {
    stream: PgStream,
    look: Look,
    picture: Picture,
    looked: Instant,
}

impl Watched {
    /// `picture` was taken when the stream had started.
    pub fn new(stream: PgStream, picture: Picture, look: Look) -> Self {
        Watched { stream, look, picture, looked: Instant::now() }
    }
}

impl Stream for Watched {
    fn next(&mut self, limit: &Limit) -> Result<Option<Batch>> {
        self.stream.next(limit)
    }

    fn ack(&mut self, durable: &Position) -> Result<()> {
        self.stream.ack(durable)?;
        if self.looked.elapsed() >= EVERY {
            self.picture = (self.look)(&self.picture)?;
            self.looked = Instant::now();
        }
        Ok(())
    }
}
