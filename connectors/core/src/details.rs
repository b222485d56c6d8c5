//! What a table has besides rows and the means to find them: defaults, comments, checks, and what of it no target gets.
//!
//! A [`TableSchema`](crate::TableSchema) belongs to a position of the log, and decides how rows are read and written. Details
//! decide nothing of the kind: they matter once an application writes to the target. So they stand apart, are read from the
//! source's present catalog when they are needed, and reach a target at the end of the initial copy, never before: a default
//! would hide that a value is missing.
//!
//! A source says in [`Details`] only what is certain to mean the same elsewhere. Everything else it names in
//! [`Details::left_out`], with the reason: nothing is guessed, and nothing is left out in silence.

/// The details of one table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Details {
    /// What people wrote about the table.
    pub comment: Option<String>,
    /// Columns of which there is something to say.
    pub columns: Vec<ColumnDetails>,
    /// Conditions that every row meets.
    pub checks: Vec<Check>,
    /// What the table has at the source and no target gets: `check` warns of it.
    pub left_out: Vec<LeftOut>,
    /// What else is not the same at a target, and is no finding of its own: it is so in almost every database, or
    /// [`Source::check`](crate::Source::check) names it in its own words.
    pub notes: Vec<LeftOut>,
}

/// The details of one column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnDetails {
    /// Unquoted.
    pub name: String,
    /// What people wrote about it.
    pub comment: Option<String>,
    /// What a row holds that does not name the column.
    pub default: Option<DefaultValue>,
}

/// What a row holds that does not name a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DefaultValue {
    /// A constant, as text that is a value of the column's logical type.
    Text(String),
    /// A constant of a binary column.
    Bytes(Vec<u8>),
    /// The time of the statement or transaction, cut (not rounded) to so many digits after the second: an instant, or where
    /// the column knows no zone, what the session's clock shows.
    Now {
        /// 0 to 6.
        digits: u8,
    },
    /// As `Now`, but what a clock in UTC shows.
    NowUtc,
    /// An expression in Postgres' words, of the server's own functions and of no column.
    Postgres(String),
}

/// A condition that every row meets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// As the source names it.
    pub name: String,
    /// The columns that it names.
    pub columns: Vec<String>,
    /// The condition, in words that Postgres reads as the source does.
    pub condition: String,
}

/// Something that is not carried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// `index by_mood`, `default of column id`.
    pub what: String,
    /// Why.
    pub why: String,
}

impl Details {
    /// Names something that is not carried, and that `check` must warn of.
    pub fn leave_out(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.left_out.push(LeftOut { what: what.into(), why: why.into() });
    }

    /// Names something else that is not the same.
    pub fn note(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.notes.push(LeftOut { what: what.into(), why: why.into() });
    }

    /// The details of a column, made when first asked for.
    pub fn column(&mut self, name: &str) -> &mut ColumnDetails {
        let at = self.columns.iter().position(|c| c.name == name).unwrap_or_else(|| {
            self.columns.push(ColumnDetails { name: name.to_owned(), comment: None, default: None });
            self.columns.len() - 1
        });
        &mut self.columns[at]
    }
}
