//! What the catalog adds to a log that says less than it could: character sets of columns and of collations.

use std::collections::HashMap;

use crossfade_core::{Error, Result, TableName};

use super::definition::of_collation;
use super::plan::Collations;
use super::retype::Charsets;
use crate::catalog::literal;
use crate::session::Session;

/// A column of the present catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// Its name.
    pub name: String,
    /// Its character set, if it is text.
    pub charset: Option<String>,
}

/// The columns of a table as they are now, in order.
pub fn columns(session: &mut Session, table: &TableName) -> Result<Vec<Fact>> {
    let rows = session.rows(&format!(
        "SELECT COLUMN_NAME, CHARACTER_SET_NAME FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = {} AND TABLE_NAME = {} \
         ORDER BY ORDINAL_POSITION",
        literal(&table.schema),
        literal(&table.name)
    ))?;
    let fact = |row: Vec<Option<String>>| match <[Option<String>; 2]>::try_from(row) {
        Ok([Some(name), charset]) => Ok(Fact { name, charset }),
        _ => Err(Error::corrupt(format!("the catalog's columns of table {table} cannot be read"))),
    };
    rows.into_iter().map(fact).collect()
}

/// The present character sets of a table's columns, and its default.
pub fn charsets(session: &mut Session, table: &TableName) -> Result<Charsets> {
    let columns = columns(session, table)?.into_iter();
    let default = session.value(&format!(
        "SELECT TABLE_COLLATION FROM information_schema.TABLES WHERE TABLE_SCHEMA = {} AND TABLE_NAME = {}",
        literal(&table.schema),
        literal(&table.name)
    ))?;
    Ok(Charsets {
        logged: HashMap::new(),
        present: columns.filter_map(|f| Some((f.name, f.charset?))).collect(),
        default: default.map(|c| of_collation(&c).to_owned()),
    })
}

/// Which character set a collation belongs to, for every collation the server knows.
pub fn collations(session: &mut Session, mariadb: bool) -> Result<Collations> {
    let mut sources = vec!["SELECT ID, CHARACTER_SET_NAME FROM information_schema.COLLATIONS WHERE ID IS NOT NULL"];
    if mariadb {
        // Collations for several character sets (uca1400) have one row per set here, since 10.10.
        let knows = "SELECT COUNT(*) FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = 'information_schema' AND \
                     TABLE_NAME = 'COLLATION_CHARACTER_SET_APPLICABILITY' AND COLUMN_NAME = 'ID'";
        if session.value(knows)?.as_deref() == Some("1") {
            sources.push("SELECT ID, CHARACTER_SET_NAME FROM information_schema.COLLATION_CHARACTER_SET_APPLICABILITY");
        }
    }
    let mut found = HashMap::new();
    for query in sources {
        for row in session.rows(query)? {
            if let [Some(id), Some(charset)] = row.as_slice() {
                let id = id.parse().map_err(|_| Error::corrupt(format!("collation id {id} is not a number")))?;
                found.insert(id, charset.clone());
            }
        }
    }
    Ok(found)
}
