//! What a world's rules make of its tables: as the configuration would have them, and, for the oracle, told a second time
//! in as few words as a world of tables `(id, n, t)` needs.

use std::collections::BTreeMap;

use crossfade::transform::{ColumnRule, Route, Rules};
use crossfade_core::TableName;

use super::random::Random;
use super::source::SCHEMA;

/// Which columns arrive, and under which names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lens {
    /// Whether `n` and `t` are left out; never both.
    without: [bool; 2],
    /// `n` arrives as `number`, `t` as `label`.
    renamed: bool,
    /// So does `text`, which is another name of `t`: the log's change of name is none at the target.
    steady: bool,
    /// Tables arrive in the schema `out`.
    routed: bool,
}

/// The schema of tables that are routed.
const ROUTED: &str = "out";

impl Lens {
    /// None at all, in half of the worlds.
    pub fn random(mut random: Random) -> Self {
        if random.one_in(2) {
            return Lens::default();
        }
        let without = [[false, false], [false, false], [true, false], [false, true]][random.between(0, 4) as usize];
        Lens { without, renamed: random.one_in(2), steady: random.one_in(2), routed: random.one_in(2) }
    }

    /// The rules.
    pub fn rules(&self) -> Rules {
        let mut rules = Rules::default();
        if self.routed {
            rules.routes.push(Route { from: format!("{SCHEMA}.*"), to: TableName::new(ROUTED, "*") });
        }
        let mut rename = BTreeMap::new();
        if self.renamed {
            rename.extend([("n".to_owned(), "number".to_owned()), ("t".to_owned(), "label".to_owned())]);
            if self.steady {
                rename.insert("text".to_owned(), "label".to_owned());
            }
        }
        let left_out = [(self.without[0], vec!["n"]), (self.without[1], vec!["t", "text"])];
        let exclude = left_out.into_iter().filter(|(out, _)| *out).flat_map(|(_, names)| names).map(str::to_owned);
        rules.columns.push(ColumnRule { tables: format!("{SCHEMA}.*"), exclude: exclude.collect(), rename });
        rules
    }

    /// The name of a table at the targets.
    pub fn table(&self, name: &str) -> TableName {
        TableName::new(if self.routed { ROUTED } else { SCHEMA }, name)
    }

    /// The name of a column at the targets.
    pub fn column(&self, name: &str) -> Option<&'static str> {
        let [n, t] = self.without;
        Some(match name {
            "id" => "id",
            "n" if n => return None,
            "t" | "text" if t => return None,
            "n" => ["n", "number"][usize::from(self.renamed)],
            "t" => ["t", "label"][usize::from(self.renamed)],
            "text" => ["text", "label"][usize::from(self.renamed && self.steady)],
            other => panic!("no table has a column {other}"),
        })
    }

    /// Of something for `n` and something for `t`, what arrives.
    pub fn carried<T>(&self, [n, t]: [T; 2]) -> impl Iterator<Item = T> {
        let [without_n, without_t] = self.without;
        [(n, without_n), (t, without_t)].into_iter().filter(|(_, out)| !out).map(|(value, _)| value)
    }
}
