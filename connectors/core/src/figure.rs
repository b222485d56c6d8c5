//! Figures: the answers of a database's own SQL to an operator's statement, [`crate::Snapshot::ask`].
//!
//! A figure is one row of one column, as the server's text. The statement is an operator's, and is asked in a transaction that a proof
//! goes on to read from; so it stands inside of a query of ours, where it can only be read from: a `DELETE` or a `COMMIT` there
//! is an error of grammar. A second row is asked for and no more, so that a statement over all rows of a table costs no memory.

use crate::error::{Error, Result};

/// What is sent: the statement as a table of its own. It stands on lines of its own, since it may end in a comment.
pub fn wrapped(statement: &str) -> String {
    format!("SELECT * FROM (\n{}\n) AS figure LIMIT 2", bare(statement))
}

/// A statement without the end that its client would want.
fn bare(statement: &str) -> &str {
    statement.trim().trim_end_matches(';').trim_end()
}

/// The one value of an answer: of rows of text, NULL is `None`.
pub fn only(statement: &str, rows: Vec<Vec<Option<String>>>) -> Result<Option<String>> {
    let mut rows = rows.into_iter();
    match (rows.next(), rows.next()) {
        (Some(row), None) => match <[Option<String>; 1]>::try_from(row) {
            Ok([value]) => Ok(value),
            Err(row) => Err(odd(statement, &format!("gives {} columns", row.len()))),
        },
        (None, _) => Err(odd(statement, "gives no row")),
        (Some(_), Some(_)) => Err(odd(statement, "gives more than one row")),
    }
}

/// The server refuses the statement.
pub fn refused(statement: &str, error: Error) -> Error {
    let hint = error.hint_text().unwrap_or(HINT).to_owned();
    error.context(format!("the statement `{}`", bare(statement))).hint(hint)
}

/// There is nobody who could answer it.
pub fn mute(what: &str) -> Error {
    Error::config(format!("{what} has no SQL that a statement of [[aggregate]] could be asked in"))
        .hint("take [[aggregate]] out of the configuration, or this target out of the pipeline")
}

fn odd(statement: &str, what: &str) -> Error {
    Error::config(format!("the statement `{}` {what}, and a figure is one row of one column", bare(statement)))
        .hint(HINT)
}

const HINT: &str = "correct `source` or `target` of [[aggregate]], such as SELECT sum(value) FROM shop.deal; tables are named with \
                    their schema, columns by the names that this side has for them; `crossfade check` tries it";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_may_end_as_its_client_has_it() {
        assert_eq!(wrapped(" SELECT 1 ;\n"), "SELECT * FROM (\nSELECT 1\n) AS figure LIMIT 2");
        assert_eq!(wrapped("SELECT 1 -- one"), "SELECT * FROM (\nSELECT 1 -- one\n) AS figure LIMIT 2");
    }

    #[test]
    fn a_figure_is_one_row_of_one_column() {
        let some = |s: &str| Some(s.to_owned());
        assert_eq!(only("q", vec![vec![some("7")]]).unwrap(), some("7"));
        assert_eq!(only("q", vec![vec![None]]).unwrap(), None);
        for (rows, said) in [
            (vec![], "gives no row"),
            (vec![vec![some("1")], vec![some("2")]], "gives more than one row"),
            (vec![vec![some("1"), None]], "gives 2 columns"),
            (vec![vec![]], "gives 0 columns"),
        ] {
            let e = only("SELECT q;", rows).unwrap_err();
            assert!(e.to_string().contains("`SELECT q`") && e.to_string().contains(said), "{e}");
            assert!(e.hint_text().is_some_and(|h| h.contains("[[aggregate]]")));
        }
    }
}
