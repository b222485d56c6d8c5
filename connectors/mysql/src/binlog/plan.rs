//! What to do with each column of a table's rows, worked out once for each table map.

use std::collections::HashMap;
use std::sync::Arc;

use crossfade_core::{Error, Logical, Result, TableSchema};

use super::charset::Charset;
use super::decode::{Decode, Traits};
use super::facts::Fact;
use super::table_map::{LogColumn, TableMap, Wire};

/// A column of the log.
#[derive(Debug, Clone)]
pub struct PlanColumn {
    /// How its values lie in a row.
    pub wire: Wire,
    /// The column of the table it goes to, and how; `None`: a column that is not carried.
    pub target: Option<(usize, Decode)>,
}

/// How rows of one table map become columns. Every column of the table has exactly one source.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The table, in the shape it has here.
    pub table: Arc<TableSchema>,
    /// In the log's order.
    pub columns: Vec<PlanColumn>,
    /// The log's ordinals of the key's columns, in key order.
    pub key: Vec<usize>,
}

/// Ids of collations and their character sets, as the server has them.
pub type Collations = HashMap<u64, String>;

/// What knows the character sets of a server by name.
pub type CharsetOf<'a> = &'a dyn Fn(&str) -> Result<Option<Charset>>;

/// The hint for a log that does not name its columns.
pub const METADATA_HINT: &str = "SET GLOBAL binlog_row_metadata = FULL on the source, then copy the table anew with `crossfade snapshot TABLE`: names of columns stand in the log from then on";

impl Plan {
    /// The plan for `map`, whose columns are those of `table` (see [`super::follow`] for what happens if they are not).
    pub fn new(
        map: &TableMap,
        table: &Arc<TableSchema>,
        facts: &[Fact],
        collations: &Collations,
        charset: CharsetOf<'_>,
    ) -> Result<Plan> {
        let ordinals = match_columns(map, table)?;
        let mut columns = Vec::with_capacity(map.columns.len());
        for (column, ordinal) in map.columns.iter().zip(&ordinals) {
            let target = match ordinal {
                Some(i) => Some((*i, choose(column, table, *i, facts, collations, charset)?)),
                None => None,
            };
            columns.push(PlanColumn { wire: column.wire, target });
        }
        let place = |want: usize| {
            ordinals.iter().position(|o| *o == Some(want)).ok_or_else(|| {
                let name = &table.columns[want].name;
                Error::data(&table.name, "the log does not carry this column").column(name).hint(METADATA_HINT)
            })
        };
        for i in 0..table.columns.len() {
            place(i)?;
        }
        let key = table.key.iter().map(|&k| place(k)).collect::<Result<_>>()?;
        Ok(Plan { table: Arc::clone(table), columns, key })
    }
}

/// For each column of the log its ordinal in the table.
fn match_columns(map: &TableMap, table: &TableSchema) -> Result<Vec<Option<usize>>> {
    if map.columns.iter().all(|c| c.name.is_some()) {
        return Ok(map.columns.iter().map(|c| table.ordinal(c.name.as_deref().unwrap_or_default())).collect());
    }
    if map.columns.len() == table.columns.len() {
        return Ok((0..table.columns.len()).map(Some).collect());
    }
    Err(Error::data(
        &table.name,
        format!("the log has {} columns where the table has {}", map.columns.len(), table.columns.len()),
    )
    .hint(METADATA_HINT))
}

fn choose(
    column: &LogColumn,
    table: &TableSchema,
    ordinal: usize,
    facts: &[Fact],
    collations: &Collations,
    charset: CharsetOf<'_>,
) -> Result<Decode> {
    let known = &table.columns[ordinal];
    let fact = facts.iter().find(|f| f.name == known.name);
    let charset_name = match column.collation {
        Some(id) => collations.get(&id).map(String::as_str),
        None => fact.and_then(|f| f.charset.as_deref()),
    };
    let unsigned = column
        .unsigned
        .unwrap_or(matches!(known.logical, Logical::UInt8 | Logical::UInt16 | Logical::UInt32 | Logical::UInt64));
    let charset = charset_name.map(charset).transpose()?.flatten();
    let traits = Traits { unsigned, charset, source_type: &known.source_type };
    let decode = Decode::choose(column.wire, &known.logical, &traits).ok_or_else(|| changed(column, table, ordinal))?;
    if let (Some(raw), Decode::Enum(labels) | Decode::Set(labels)) = (&column.labels, &decode) {
        let charset = traits.charset.as_ref().unwrap_or(&Charset::Utf8);
        let same = raw.len() == labels.len()
            && raw.iter().zip(labels).all(|(r, l)| super::charset::text(charset, r).is_ok_and(|t| t == *l));
        if !same {
            return Err(changed(column, table, ordinal));
        }
    }
    Ok(decode)
}

fn changed(column: &LogColumn, table: &TableSchema, ordinal: usize) -> Error {
    let known = &table.columns[ordinal];
    if let Wire::VarcharCompressed { .. } | Wire::BlobCompressed(_) = column.wire {
        return Error::data(&table.name, "a COMPRESSED column cannot be read from the log")
            .column(&known.name)
            .hint("ALTER TABLE ... MODIFY the column without COMPRESSED, then copy the table anew with `crossfade snapshot TABLE`; or exclude the column or the table");
    }
    Error::data(&table.name, format!("the log has {:?} where {} was known", column.wire, known.source_type))
        .column(&known.name)
        .hint("the column's type was changed: such a change is not followed; copy the table anew with `crossfade snapshot TABLE`, or exclude the column or the table")
}

#[cfg(test)]
mod tests {
    use crossfade_core::{Column, TableName};

    use super::*;

    fn table() -> Arc<TableSchema> {
        let column = |name: &str, logical, source_type: &str| Column {
            name: name.into(),
            source_type: source_type.into(),
            logical,
            nullable: true,
            auto_increment: false,
            number: 0,
            policies: Default::default(),
        };
        Arc::new(TableSchema {
            name: TableName::new("s", "t"),
            version: 1,
            columns: vec![column("id", Logical::Int32, "int"), column("n", Logical::UInt32, "int unsigned")],
            key: vec![0],
            indexes: vec![],
            foreign_keys: vec![],
            origin: None,
            pending: vec![],
            number: 0,
        })
    }

    fn map(columns: &[(Option<&str>, Wire, Option<bool>)]) -> TableMap {
        let column = |&(name, wire, unsigned): &(Option<&str>, Wire, Option<bool>)| LogColumn {
            name: name.map(str::to_owned),
            wire,
            nullable: true,
            unsigned,
            collation: None,
            labels: None,
        };
        TableMap { id: 1, schema: "s".into(), name: "t".into(), columns: columns.iter().map(column).collect() }
    }

    #[test]
    fn by_name_or_by_place() {
        let named = map(&[(Some("n"), Wire::Long, Some(true)), (Some("id"), Wire::Long, Some(false))]);
        let plan = Plan::new(&named, &table(), &[], &Collations::new(), &|name| Ok(Charset::by_name(name))).unwrap();
        assert_eq!(plan.key, [1]);
        let unnamed = map(&[(None, Wire::Long, None), (None, Wire::Long, None)]);
        assert_eq!(
            Plan::new(&unnamed, &table(), &[], &Collations::new(), &|name| Ok(Charset::by_name(name))).unwrap().key,
            [0]
        );
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let refuse = |columns: &[_]| {
            Plan::new(&map(columns), &table(), &[], &Collations::new(), &|name| Ok(Charset::by_name(name))).unwrap_err()
        };
        let e = refuse(&[(None, Wire::Long, None)]);
        assert!(e.hint_text().unwrap().contains("binlog_row_metadata"), "{e}");
        let e = refuse(&[(Some("id"), Wire::LongLong, Some(false)), (Some("n"), Wire::Long, Some(true))]);
        assert!(e.to_string().contains("column id"), "{e}");
        let e = refuse(&[(Some("id"), Wire::Long, Some(false)), (Some("n"), Wire::Long, Some(false))]);
        assert!(e.to_string().contains("column n"), "{e}");
        refuse(&[(Some("id"), Wire::Long, Some(false)), (Some("m"), Wire::Long, Some(true))]);
    }
}
