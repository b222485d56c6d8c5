//! Which tables a pipeline carries: globs over `schema.table`.

use serde::{Deserialize, Serialize};

use crate::schema::TableName;

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
    fn exclusion_wins() {
        let s = Selection { include: vec!["shop.*".into()], exclude: vec!["tmp_*".into()] };
        assert!(s.admits(&TableName::new("shop", "orders")));
        assert!(!s.admits(&TableName::new("shop", "tmp_1")));
        assert!(!s.admits(&TableName::new("blog", "posts")));
    }
}
