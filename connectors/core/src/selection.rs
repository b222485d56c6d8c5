//! Which tables a pipeline carries, and which of their columns it does not: globs over `schema.table`, and names.

use serde::{Deserialize, Serialize};

use crate::policy::PolicyRules;
use crate::schema::{Logical, TableName, TableSchema};

/// Globs of tables to carry and tables to leave. `*` stands for any run of characters, `?` for one. A glob without a
/// dot means the table's name in any schema.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Selection {
    /// Empty: all tables of the source's database.
    pub include: Vec<String>,
    /// Taken away from what `include` admits.
    pub exclude: Vec<String>,
}

impl Selection {
    /// Whether the table is carried.
    pub fn admits(&self, table: &TableName) -> bool {
        let full = table.to_string();
        let any = |globs: &[String]| globs.iter().any(|g| names(g, &full, table));
        (self.include.is_empty() || any(&self.include)) && !any(&self.exclude)
    }
}

/// Columns that no target wants. A source is opened with them and does not read their values, so that a value or a type that
/// cannot be carried stops nobody who has left it out: a SELECT does not name such a column, and a log's bytes of it are passed
/// over. Columns that are added later are among them, too.
///
/// With them come the policies of the columns that are read: what may be omitted of values, so to speak.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Omissions {
    rules: Vec<(String, Vec<String>)>,
    policies: PolicyRules,
}

impl Omissions {
    /// Globs of tables, each with the columns that are left out of them.
    pub fn new(rules: impl IntoIterator<Item = (String, Vec<String>)>) -> Self {
        Omissions { rules: rules.into_iter().collect(), policies: PolicyRules::default() }
    }

    /// With the policies of the columns that are read.
    #[must_use]
    pub fn with_policies(self, policies: PolicyRules) -> Self {
        Omissions { policies, ..self }
    }

    /// Gives a table's columns their policies, and leaves out none.
    pub fn mark_policies(&self, table: &mut TableSchema) {
        self.policies.mark(table);
    }

    /// Whether the column is left out.
    pub fn cover(&self, table: &TableName, column: &str) -> bool {
        self.rules.iter().any(|(glob, columns)| columns.iter().any(|c| c == column) && glob_matches(glob, table))
    }

    /// Makes the columns that are left out [`Logical::Omitted`]; those of the key stay, since they tell rows apart. The others get
    /// their policies.
    pub fn mark(&self, table: &mut TableSchema) {
        for (i, column) in table.columns.iter_mut().enumerate() {
            if !table.key.contains(&i) && self.cover(&table.name, &column.name) {
                column.logical = Logical::Omitted;
            }
        }
        self.policies.mark(table);
    }
}

/// What lets a table be carried whose column cannot be: for hints. Not for columns of the key.
pub fn leave_out(table: &TableName, column: &str) -> String {
    format!("leave the column out: [[column]] with tables = {:?} and exclude = [{column:?}]", table.to_string())
}

/// Whether a glob such as `shop.*` or `order_*` names the table.
pub fn glob_matches(glob: &str, table: &TableName) -> bool {
    names(glob, &table.to_string(), table)
}

fn names(glob: &str, full: &str, table: &TableName) -> bool {
    if glob.contains('.') {
        matches(glob.as_bytes(), full.as_bytes())
    } else {
        matches(glob.as_bytes(), table.name.as_bytes())
    }
}

/// Glob matching in linear space and quadratic time at worst: on a mismatch only the last `*` is widened.
fn matches(glob: &[u8], text: &[u8]) -> bool {
    let (mut g, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match glob.get(g) {
            Some(b'*') => {
                star = Some((g, t));
                g += 1;
            }
            Some(&c) if c == b'?' || c == text[t] => {
                g += 1;
                t += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    g = at + 1;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    glob[g..].iter().all(|&c| c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        let t = TableName::new("shop", "orders");
        for yes in ["shop.orders", "shop.*", "*", "orders", "ord*", "*.ord?rs", "o*s", "*o*r*"] {
            assert!(glob_matches(yes, &t), "{yes}");
        }
        for no in ["shop", "shop.order", "sho?.order", "x*", "*.x", ""] {
            assert!(!glob_matches(no, &t), "{no}");
        }
    }

    #[test]
    fn columns_are_left_out_but_for_the_key() {
        let o = Omissions::new([("shop.*".to_owned(), vec!["a".to_owned(), "id".to_owned()])]);
        let column = |name: &str| crate::Column {
            name: name.into(),
            source_type: "int".into(),
            logical: Logical::Int32,
            nullable: true,
            auto_increment: false,
            number: 0,
            policies: Default::default(),
        };
        let mut table = TableSchema {
            name: TableName::new("shop", "t"),
            version: 1,
            columns: vec![column("id"), column("a"), column("b")],
            key: vec![0],
            indexes: vec![],
            foreign_keys: vec![],
            origin: None,
            pending: vec![],
            number: 0,
        };
        o.mark(&mut table);
        let logical: Vec<_> = table.columns.iter().map(|c| &c.logical).collect();
        assert_eq!(logical, [&Logical::Int32, &Logical::Omitted, &Logical::Int32]);
        assert!(!o.cover(&TableName::new("blog", "t"), "a"));
        let hint = leave_out(&table.name, "a");
        assert_eq!(hint, r#"leave the column out: [[column]] with tables = "shop.t" and exclude = ["a"]"#);
    }

    #[test]
    fn exclusion_wins() {
        let s = Selection { include: vec!["shop.*".into()], exclude: vec!["tmp_*".into()] };
        assert!(s.admits(&TableName::new("shop", "orders")));
        assert!(!s.admits(&TableName::new("shop", "tmp_1")));
        assert!(!s.admits(&TableName::new("blog", "posts")));
    }
}
