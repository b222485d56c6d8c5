//! What is wrong with values that are there: found by reading them all before the copy would.
//!
//! A copy ends at the first value that it cannot carry. Whoever prepares a migration wants to know all of them at once, so a
//! survey ([`Snapshot::survey`](crate::Snapshot::survey), [`Surveyor`](crate::Surveyor)) goes on behind such a value and tells
//! of each as a [`Trouble`]. Both go through the decoders and encoders of the copy: what stops the one is found by the other.

use crate::error::{Class, Error, Place, Result};
use crate::finding::Level;

/// Something that is wrong with values of one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// Critical is what a copy would stop at; a warning what arrives, and not as people expect.
    pub level: Level,
    /// The column, if one is to blame.
    pub column: Option<String>,
    /// What it is. Digits may differ from row to row without making another kind of it.
    pub what: String,
    /// In how many rows.
    pub rows: u64,
    /// The keys of some of them, `a=1, b=x`.
    pub keys: Vec<String>,
    /// What mends it.
    pub mend: String,
}

impl Trouble {
    /// What a copy would stop at; any error that is not about a value of a table is given back.
    pub fn of(error: Error) -> Result<Trouble> {
        let Class::Data(Place { column, key, .. }) = error.class().clone() else { return Err(error) };
        let (what, mend) = (error.message().to_owned(), error.hint_text().unwrap_or_default().to_owned());
        Ok(Trouble { level: Level::Critical, column, what, rows: 1, keys: key.into_iter().collect(), mend })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_values_are_troubles() {
        let e = Error::data("s.t", "a zero date").column("c").key("id=7").hint("mend it");
        let trouble = Trouble::of(e).unwrap();
        assert_eq!((trouble.column.as_deref(), trouble.what.as_str()), (Some("c"), "a zero date"));
        assert_eq!((trouble.rows, trouble.keys, trouble.mend.as_str()), (1, vec!["id=7".to_owned()], "mend it"));
        assert!(Trouble::of(Error::transient("lost")).unwrap_err().is_transient());
    }
}
