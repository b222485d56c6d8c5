//! A table's columns between its last row and the next: the known ones, carried through the ALTER statements seen since.
//!
//! Clauses of one statement name columns as they were before it, so a swap of two names is one statement. Names of columns
//! are compared without regard to case, as the servers do.

use crossfade_core::TableSchema;

use super::alter::AlterStep;
use super::definition::Definition;

/// A column as the statements left it.
#[derive(Debug, Clone)]
pub struct Live {
    /// Its name now.
    pub name: String,
    /// Where it comes from.
    pub origin: Origin,
    /// The last MODIFY or CHANGE of it.
    pub retyped: Option<Definition>,
}

/// Where a column comes from.
#[derive(Debug, Clone)]
pub enum Origin {
    /// It is this column of the known shape.
    Known(usize),
    /// A statement added it.
    Added(Definition),
}

/// Whether two names are one column's.
pub fn same(a: &str, b: &str) -> bool {
    a == b || a.to_lowercase() == b.to_lowercase()
}

/// The columns after these statements, in no particular order.
pub fn after(table: &TableSchema, statements: &[Vec<AlterStep>]) -> Vec<Live> {
    let known = |(i, c): (usize, &crossfade_core::Column)| Live {
        name: c.name.clone(),
        origin: Origin::Known(i),
        retyped: None,
    };
    let mut live: Vec<Live> = table.columns.iter().enumerate().map(known).collect();
    for steps in statements {
        live = apply(live, steps);
    }
    live
}

/// The name that a column has after a statement, and the definition that the statement gives it; `None`: it is dropped.
pub fn through<'a>(name: &str, steps: &'a [AlterStep]) -> Option<(String, Option<&'a Definition>)> {
    let mut after = name.to_owned();
    let mut definition = None;
    for step in steps {
        match step {
            AlterStep::Drop(column) if same(column, name) => return None,
            AlterStep::Rename(from, to) if same(from, name) => after.clone_from(to),
            AlterStep::Retype(column, given) if same(column, name) => definition = Some(given),
            AlterStep::Drop(_)
            | AlterStep::Rename(..)
            | AlterStep::Retype(..)
            | AlterStep::Add(..)
            | AlterStep::Move(_)
            | AlterStep::Unread(_)
            | AlterStep::Convert(_)
            | AlterStep::Key
            | AlterStep::DropIndex
            | AlterStep::RenameTable
            | AlterStep::Rows(_) => {}
        }
    }
    Some((after, definition))
}

fn apply(live: Vec<Live>, steps: &[AlterStep]) -> Vec<Live> {
    let one = |l: Live| {
        let (name, definition) = through(&l.name, steps)?;
        Some(Live { name, retyped: definition.cloned().or(l.retyped), origin: l.origin })
    };
    let mut live: Vec<Live> = live.into_iter().filter_map(one).collect();
    for step in steps {
        let AlterStep::Add(name, definition) = step else { continue };
        // The statement succeeded: a column that was there means IF NOT EXISTS.
        if !live.iter().any(|l| same(&l.name, name)) {
            live.push(Live { name: name.clone(), origin: Origin::Added(definition.clone()), retyped: None });
        }
    }
    live
}
