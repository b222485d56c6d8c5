//! Unique indexes that the source has dropped.
//!
//! No log tells of it in a way that all sources share, and nothing goes wrong as long as no rows meet in such an index. So it is found
//! out when a target refuses a row by a unique index: then the source is asked which it has now. Where it no longer has one that
//! it had, every target lets go of that one ([`Writer::drop_indexes`]), its shape forgets it, and the next session writes the
//! row: nobody is suspended. That the source may have dropped it later than the row came is no matter: a promise that is no longer
//! given is not asked for. One that a target cannot let go of suspends the table, with the statement that does it.
//!
//! Each turn takes an index out of the shapes, so that it ends.

use crossfade_core::{Error, Result, Selection, TableName, TableSchema, Writer};

use super::{Opened, Pipeline};

/// Lets every target go of the unique indexes of this table that the source no longer has; false if there is none of these.
pub(super) fn release(
    pipeline: &Pipeline,
    opened: &mut [Opened<'_>],
    table: &TableName,
    source: &TableName,
) -> Result<bool> {
    let Some(now) = present(pipeline, source)? else { return Ok(false) };
    let mut any = false;
    for o in opened.iter_mut() {
        let gone = gone(o.writer.as_mut(), table, &now)?;
        if !gone.is_empty() && o.writer.drop_indexes(table, &gone)? {
            let (indexes, target) = (gone.join(", "), &pipeline.targets[o.index].name);
            tracing::warn!(%table, indexes, target, "unique indexes that the source has dropped are dropped at the target");
            any = true;
        }
    }
    Ok(any)
}

/// The source's table as it is now; `None` where it is gone, or cannot be carried any more, which is another trouble.
fn present(pipeline: &Pipeline, source: &TableName) -> Result<Option<std::sync::Arc<TableSchema>>> {
    let selection = Selection { include: vec![source.to_string()], exclude: Vec::new() };
    match pipeline.source.tables(&selection) {
        Ok(found) => Ok(found.into_iter().find(|t| t.name == *source)),
        Err(e) if e.is_transient() => Err(e),
        Err(e) => {
            tracing::warn!(table = %source, error = %e, "its present indexes could not be read");
            Ok(None)
        }
    }
}

/// Unique indexes that a target remembers, and the source no longer promises.
fn gone(writer: &mut dyn Writer, table: &TableName, now: &TableSchema) -> Result<Vec<String>> {
    let known = writer.tables()?.into_iter().find(|t| t.name == *table);
    let known = known.ok_or_else(|| Error::corrupt(format!("table {table} is not carried any more")))?;
    Ok(known.origin.as_deref().map(|before| promises(before, now)).unwrap_or_default())
}

/// Names of the unique indexes of one shape whose columns another, of later, lets be equal. Columns that are not there under their
/// names tell nothing yet: a change of shape is to come.
fn promises(before: &TableSchema, now: &TableSchema) -> Vec<String> {
    let unique =
        now.indexes.iter().filter(|i| i.unique).map(|i| &i.columns).chain([&now.key]).filter(|c| !c.is_empty());
    let unique: Vec<&Vec<usize>> = unique.collect();
    let broken = |columns: &[usize]| {
        let here: Option<Vec<usize>> = columns.iter().map(|&i| now.ordinal(&before.columns[i].name)).collect();
        here.is_some_and(|here| !unique.iter().any(|u| u.iter().all(|c| here.contains(c))))
    };
    before.indexes.iter().filter(|i| i.unique && broken(&i.columns)).map(|i| i.name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use crossfade_core::{Column, Index, Logical};

    use super::*;

    fn table(columns: &[&str], key: &[usize], unique: &[(&str, &[usize])]) -> TableSchema {
        let column = |name: &&str| Column {
            name: (*name).to_owned(),
            source_type: "int".into(),
            logical: Logical::Int32,
            nullable: false,
            auto_increment: false,
            number: 0,
            policies: Default::default(),
        };
        let index = |(name, columns): &(&str, &[usize])| Index {
            name: (*name).to_owned(),
            columns: columns.to_vec(),
            unique: true,
        };
        TableSchema {
            name: TableName::new("s", "t"),
            version: 1,
            columns: columns.iter().map(column).collect(),
            key: key.to_vec(),
            indexes: unique.iter().map(index).collect(),
            foreign_keys: vec![],
            origin: None,
            pending: vec![],
            number: 0,
        }
    }

    #[test]
    fn what_the_source_no_longer_promises() {
        let before = table(&["id", "a", "b"], &[0], &[("ua", &[1]), ("uab", &[1, 2])]);
        let now = |columns: &[&str], key: &[usize], unique| promises(&before, &table(columns, key, unique));
        assert_eq!(now(&["id", "a", "b"], &[0], &[]), ["ua", "uab"]);
        assert_eq!(now(&["id", "a", "b"], &[0], &[("uab", &[1, 2])]), ["ua"]);
        let none: [&str; 0] = [];
        assert_eq!(now(&["id", "a", "b"], &[0], &[("other", &[1])]), none, "narrower, under another name");
        assert_eq!(now(&["b", "a", "id"], &[1], &[]), none, "it is the key now");
        assert_eq!(now(&["id", "c", "b"], &[0], &[]), none, "renamed: not to be told yet");
    }
}
