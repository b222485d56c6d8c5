//! Unique indexes that the source has dropped are dropped here, too: they would refuse rows that it admits.
//!
//! An index of the source's columns is the source's, whoever made it here. One that something at the target needs, a constraint or
//! somebody's foreign key, stays, and is named with the statement: what depends on it is not ours to drop.

use std::sync::Arc;

use crossfade_core::{Error, Result, TableName, TableSchema};
use tokio_postgres::Client;

use crate::finish::at_a_quiet_moment;
use crate::quote::{self, ident};
use crate::{catalog, shape};

/// Drops the indexes of these names at the source. Returns the table's shape without them; `None` if it had none of them. Runs
/// statements of its own, outside of any transaction.
pub async fn release(client: &Client, table: &TableSchema, names: &[String]) -> Result<Option<Arc<TableSchema>>> {
    let existing = catalog::table(client, &table.name).await?.ok_or_else(|| shape::gone(&table.name))?;
    let set = |mut columns: Vec<String>| {
        columns.sort_unstable();
        columns
    };
    let mut any = false;
    for index in table.indexes.iter().filter(|i| i.unique && names.contains(&i.name)) {
        let columns = set(index.columns.iter().map(|&i| table.columns[i].name.clone()).collect());
        for there in shape::secondary_unique(table, &existing).filter(|e| set(e.columns.clone()) == columns) {
            drop(client, table, &there.name).await?;
        }
        any = true;
    }
    Ok(any.then(|| Arc::new(without(table, names))))
}

async fn drop(client: &Client, table: &TableSchema, index: &str) -> Result<()> {
    let statement = format!("DROP INDEX IF EXISTS {}.{}", ident(&table.name.schema), ident(index));
    let refuses = "the source has dropped this unique index, and here it refuses the source's rows";
    match at_a_quiet_moment(client, table, &statement).await {
        Ok(true) => Ok(()),
        Ok(false) => {
            let busy = format!("{refuses}: {index}, and somebody uses the table all the time");
            Err(Error::data(&table.name, busy).index(index).hint(by_hand(&table.name, index)))
        }
        Err(e) => Err(e.concerning(&table.name).context(refuses).hint(by_hand(&table.name, index))),
    }
}

fn by_hand(table: &TableName, index: &str) -> String {
    let (name, place) = (ident(index), quote::table(table));
    format!(
        "at the target, drop what depends on it, then DROP INDEX {}.{name} (where it is a constraint's: ALTER TABLE {place} DROP \
         CONSTRAINT {name}); then `crossfade snapshot TABLE`",
        ident(&table.schema)
    )
}

/// The shape without these indexes, here and at the source: a restart derives the one from the other.
fn without(table: &TableSchema, names: &[String]) -> TableSchema {
    let mut shape = table.clone();
    let stays = |i: &crossfade_core::Index| !(i.unique && names.contains(&i.name));
    shape.indexes.retain(stays);
    if let Some(origin) = &mut shape.origin {
        origin.indexes.retain(stays);
    }
    shape
}
