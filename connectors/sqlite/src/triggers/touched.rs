//! Notes of rows that a statement may replace in silence: where they are kept, how they are made and settled.
//!
//! A before-trigger notes the rows in conflict with the incoming one, constraint by constraint, because only it still sees them;
//! whoever comes after looks which of them are gone. The page above says why, and when.

use super::{CHANGE, Writer, join};
use crate::catalog::{PREFIX, Term, Unique};

impl Writer<'_> {
    fn touched(&self, n: usize) -> String {
        format!("{PREFIX}touched_{}_{n}", self.id)
    }

    /// Whether the constraint's values are the key of a rowid table: then one column does.
    fn is_alias(&self, unique: &Unique) -> bool {
        matches!(unique.terms.as_slice(), [(Term::Column(i), _)] if self.table.alias == Some(*i))
    }

    /// The table that notes conflicts of constraint `n`, and its index.
    pub(super) fn touched_table(&self, n: usize, unique: &Unique) -> Vec<(String, String)> {
        let name = self.touched(n);
        let indexed = |suffix: &str, columns: &str| {
            let index = format!("{name}_{suffix}");
            (index.clone(), format!("CREATE INDEX {index} ON {name} ({columns})"))
        };
        let owner = join(0..self.table.key.len(), ", ", |i| format!("b{i}"));
        if self.is_alias(unique) {
            let table = (name.clone(), format!("CREATE TABLE {name} (k0 INTEGER, b0 INTEGER)"));
            return vec![table, indexed("u", "k0"), indexed("b", "b0")];
        }
        let terms = join(0..unique.terms.len(), ", ", |i| {
            let (term, collation) = &unique.terms[i];
            let affinity = match term {
                Term::Column(c) => affinity(&self.table.columns[*c].declared),
                Term::Rowid => "INTEGER",
                Term::Expression(_) => "",
            };
            format!("u{i} {affinity} COLLATE {collation}")
        });
        let keys = join(0..self.table.key.len(), ", ", |i| format!("k{i}"));
        let columns = join(0..unique.terms.len(), ", ", |i| format!("u{i}"));
        let table = (name.clone(), format!("CREATE TABLE {name} ({terms}, {keys}, {owner})"));
        vec![table, indexed("u", &columns), indexed("b", &owner)]
    }

    /// Notes the rows that conflict with the incoming one on each constraint. `of`: on behalf of which row.
    pub(super) fn note(&self, and: &str, of: Option<&str>) -> Vec<String> {
        let mut out = self.probe();
        let owners = join(0..self.table.key.len(), ", ", |i| format!("b{i}"));
        let owner = match of {
            Some(of) => self.key_of(of),
            None => join(0..self.table.key.len(), ", ", |_| "NULL".into()),
        };
        let own = join(0..self.table.key.len(), "", |i| {
            let ordinal = self.table.key[i].0;
            match of {
                Some(of) => format!(
                    " AND {}",
                    self.identical_to(ordinal, &format!("_x.b{i}"), &format!("{of}.{}", self.column(ordinal)))
                ),
                None => format!(" AND _x.b{i} IS NULL"),
            }
        });
        for (n, unique) in self.table.uniques.iter().enumerate() {
            let touched = self.touched(n);
            let count = unique.terms.len();
            let pairs: Vec<(String, String)> = unique.terms.iter().map(|(t, _)| self.term(t)).collect();
            let conflict =
                join(0..count, " AND ", |i| format!("{} = {} COLLATE {}", pairs[i].0, pairs[i].1, unique.terms[i].1));
            let filter = unique.filter.as_ref().map(|f| format!(" AND ({f})")).unwrap_or_default();
            if self.is_alias(unique) {
                out.push(format!(
                    "INSERT INTO {touched}(k0, b0) SELECT {0}, {owner} FROM {1} AS _r WHERE {conflict}{and} AND NOT EXISTS (SELECT 1 FROM {touched} AS _x WHERE _x.k0 = {0}{own})",
                    pairs[0].0, self.name
                ));
                continue;
            }
            let columns = join(0..count, ", ", |i| format!("u{i}"));
            let keys = join(0..self.table.key.len(), ", ", |i| format!("k{i}"));
            let values = join(0..count, ", ", |i| pairs[i].0.clone());
            let noted = join(0..count, " AND ", |i| format!("_x.u{i} = {} COLLATE {}", pairs[i].1, unique.terms[i].1));
            let same = join(0..self.table.key.len(), " AND ", |i| {
                let ordinal = self.table.key[i].0;
                self.identical_to(ordinal, &format!("_x.k{i}"), &format!("_r.{}", self.column(ordinal)))
            });
            out.push(format!(
                "INSERT INTO {touched}({columns}, {keys}, {owners}) SELECT {values}, {}, {owner} FROM {} AS _r WHERE {conflict}{filter}{and} AND NOT EXISTS (SELECT 1 FROM {touched} AS _x WHERE {noted} AND {same}{own})",
                self.key_of("_r"),
                self.name
            ));
        }
        out
    }

    /// Notes the row that `NEW` became, if any note is open: then it may have come by a trigger in the middle of a statement that
    /// replaces rows, behind that statement's look for conflicts, and be replaced by it.
    pub(super) fn note_itself(&self) -> Vec<String> {
        let open = join(0..self.table.uniques.len(), " OR ", |n| format!("EXISTS (SELECT 1 FROM {})", self.touched(n)));
        let each = |(n, unique): (usize, &Unique)| {
            let (touched, row) = (self.touched(n), self.is_new());
            if self.is_alias(unique) {
                return format!(
                    "INSERT INTO {touched}(k0) SELECT {} FROM {} AS _r WHERE {row} AND ({open})",
                    self.key_of("_r"),
                    self.name
                );
            }
            let columns = join(0..unique.terms.len(), ", ", |i| format!("u{i}"));
            let keys = join(0..self.table.key.len(), ", ", |i| format!("k{i}"));
            let values = join(0..unique.terms.len(), ", ", |i| self.term(&unique.terms[i].0).0);
            let filter = unique.filter.as_ref().map(|f| format!(" AND ({f})")).unwrap_or_default();
            format!(
                "INSERT INTO {touched}({columns}, {keys}) SELECT {values}, {} FROM {} AS _r WHERE {row}{filter} AND ({open})",
                self.key_of("_r"),
                self.name
            )
        };
        self.table.uniques.iter().enumerate().map(each).collect()
    }

    /// Logs the noted rows that are gone, and forgets them. `same` says when a row noted under the very key of the row now
    /// written counts as gone: it was replaced by it.
    pub(super) fn settle(&self, same: &str) -> Vec<String> {
        let mut out = self.probe();
        let gone: Vec<String> = self
            .table
            .uniques
            .iter()
            .enumerate()
            .map(|(n, unique)| {
                let noted = join(0..unique.terms.len(), " AND ", |i| {
                    let (term, collation) = &unique.terms[i];
                    let slot = if self.is_alias(unique) { "k" } else { "u" };
                    let value = match term {
                        Term::Column(c) => format!("NEW.{}", self.column(*c)),
                        _ => self.term(term).1,
                    };
                    format!("{slot}{i} = {value} COLLATE {collation}")
                });
                let touched = self.touched(n);
                let replaced = join(0..self.table.key.len(), " AND ", |i| {
                    let ordinal = self.table.key[i].0;
                    self.identical_to(ordinal, &format!("{touched}.k{i}"), &format!("NEW.{}", self.column(ordinal)))
                });
                let own = if same == "1" { replaced } else { format!("{same} AND {replaced}") };
                format!("{noted} AND (({own}) OR {})", self.is_gone(n))
            })
            .collect();
        out.push(self.log_noted(&gone));
        for (n, gone) in gone.iter().enumerate() {
            out.push(format!("DELETE FROM {} WHERE {gone}", self.touched(n)));
        }
        out
    }

    /// Settles what was noted on behalf of the row `OLD`, whose update will never be finished.
    pub(super) fn settle_owned(&self) -> Vec<String> {
        let owned = |n: usize| {
            let touched = self.touched(n);
            join(0..self.table.key.len(), " AND ", |i| {
                let ordinal = self.table.key[i].0;
                self.identical_to(ordinal, &format!("{touched}.b{i}"), &format!("OLD.{}", self.column(ordinal)))
            })
        };
        let owned: Vec<String> = (0..self.table.uniques.len()).map(owned).collect();
        let gone = owned.iter().enumerate().map(|(n, owned)| format!("{owned} AND {}", self.is_gone(n)));
        let mut out = vec![self.log_noted(&gone.collect::<Vec<_>>())];
        out.extend(owned.iter().enumerate().map(|(n, owned)| format!("DELETE FROM {} WHERE {owned}", self.touched(n))));
        out
    }

    /// That a noted row is not there.
    fn is_gone(&self, n: usize) -> String {
        self.is_gone_of(&self.touched(n))
    }

    fn is_gone_of(&self, notes: &str) -> String {
        let here = self.same_key("_e", |i| format!("{notes}.k{i}"));
        format!("NOT EXISTS (SELECT 1 FROM {} AS _e WHERE {here})", self.name)
    }

    fn noted_keys(&self) -> String {
        join(0..self.table.key.len(), ", ", |i| format!("k{i}"))
    }

    /// Selects the keys that these tables note and that are gone, each once.
    pub(super) fn gone(&self, notes: &[String]) -> String {
        join(0..notes.len(), " UNION ", |n| {
            format!("SELECT {} FROM {} WHERE {}", self.noted_keys(), notes[n], self.is_gone_of(&notes[n]))
        })
    }

    /// Logs noted rows as gone, each once: those for which the constraint's condition holds.
    fn log_noted(&self, conditions: &[String]) -> String {
        let union = join(0..conditions.len(), " UNION ", |n| {
            format!("SELECT {} FROM {} WHERE {}", self.noted_keys(), self.touched(n), conditions[n])
        });
        self.log_keys(&union)
    }

    /// Logs the rows whose keys a query selects as gone.
    pub(super) fn log_keys(&self, keys: &str) -> String {
        format!(
            "INSERT INTO {CHANGE}(t, op, at, {}) SELECT {}, 3, julianday('now'), {} FROM ({keys})",
            self.key_slots(),
            self.id,
            self.noted_keys()
        )
    }
}

/// A type name of the same affinity.
fn affinity(declared: &str) -> &'static str {
    let upper = declared.to_ascii_uppercase();
    let has = |part: &str| upper.contains(part);
    if has("INT") {
        "INTEGER"
    } else if has("CHAR") || has("CLOB") || has("TEXT") {
        "TEXT"
    } else if has("BLOB") || upper.is_empty() || upper == "ANY" {
        ""
    } else if has("REAL") || has("FLOA") || has("DOUB") {
        "REAL"
    } else {
        "NUMERIC"
    }
}
