//! Which keys a configuration may have, and where each one stands in the text.
//!
//! The keys come from the JSON Schema of [`RawConfig`], so that there is one list of them. Every unknown key is
//! reported, with the nearest known one by edit distance.

use crossfade_core::{Error, Result};
use serde_json::Value;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Problem;
use super::raw::RawConfig;

/// A parsed configuration that remembers where its keys are.
pub struct Spans<'a> {
    text: &'a str,
    root: Spanned<DeTable<'a>>,
}

/// The JSON Schema of the configuration.
pub fn schema() -> Value {
    schemars::schema_for!(RawConfig).to_value()
}

impl<'a> Spans<'a> {
    /// Parses; an error is one of TOML's grammar.
    pub fn new(text: &'a str) -> Result<Self> {
        match DeTable::parse(text) {
            Ok(root) => Ok(Spans { text, root }),
            Err(e) => {
                let (line, column) = place(text, e.span().map_or(0, |s| s.start));
                let problem = Problem { line, column, message: e.message().to_owned() };
                Err(Error::config(format!("not valid TOML: {problem}")))
            }
        }
    }

    /// Every key that the schema does not know.
    pub fn unknown_keys(&self) -> Vec<Problem> {
        let schema = schema();
        let mut out = Vec::new();
        self.walk(self.root.get_ref(), &schema, &schema, &mut out);
        out
    }

    fn walk(&self, table: &DeTable<'_>, node: &Value, root: &Value, out: &mut Vec<Problem>) {
        let node = follow(node, root);
        let Some(known) = node.get("properties").and_then(Value::as_object) else { return };
        for (key, value) in table.iter() {
            let name = key.get_ref().as_ref();
            let Some(child) = known.get(name) else {
                let nearest = nearest(name, known.keys().map(String::as_str));
                let help = nearest.map_or_else(String::new, |n| format!(", did you mean {n}?"));
                out.push(self.problem_at(key.span().start, format!("unknown key {name}{help}")));
                continue;
            };
            match value.get_ref() {
                DeValue::Table(inner) => self.walk(inner, child, root, out),
                DeValue::Array(items) => {
                    let Some(each) = follow(child, root).get("items") else { continue };
                    for item in items.iter() {
                        if let DeValue::Table(inner) = item.get_ref() {
                            self.walk(inner, each, root, out);
                        }
                    }
                }
                _ => {}
            }
        }
    }

    /// A problem at a key; at its nearest ancestor if the key is not there.
    pub fn problem(&self, path: &[&str], message: String) -> Problem {
        let mut at = 0;
        let mut table = Some(self.root.get_ref());
        let mut array: Option<&toml::de::DeArray<'_>> = None;
        for part in path {
            let value = match (table, array) {
                (Some(t), _) => t.iter().find(|(k, _)| k.get_ref() == part).map(|(k, v)| (k.span().start, v)),
                (None, Some(a)) => part.parse().ok().and_then(|i: usize| a.get(i)).map(|v| (v.span().start, v)),
                (None, None) => None,
            };
            let Some((start, value)) = value else { break };
            at = start;
            (table, array) = match value.get_ref() {
                DeValue::Table(t) => (Some(t), None),
                DeValue::Array(a) => (None, Some(a)),
                _ => (None, None),
            };
        }
        self.problem_at(at, message)
    }

    /// A problem at a byte of the text.
    pub fn problem_at(&self, at: usize, message: String) -> Problem {
        let (line, column) = place(self.text, at);
        Problem { line, column, message }
    }
}

/// A schema node behind its `$ref`, if it is one.
fn follow<'v>(node: &'v Value, root: &'v Value) -> &'v Value {
    match node.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix('#')) {
        Some(pointer) => root.pointer(pointer).unwrap_or(node),
        None => node,
    }
}

fn place(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |l| l.chars().count()) + 1;
    (line, column)
}

/// The known word that is closest, unless none is close.
pub fn nearest<'k>(word: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    known.map(|k| (distance(word, k), k)).filter(|(d, k)| *d <= k.len().max(word.len()) / 2).min().map(|(_, k)| k)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let next = (row[j] + 1).min(row[j + 1] + 1).min(diagonal + usize::from(ca != *cb));
            diagonal = std::mem::replace(&mut row[j + 1], next);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use crossfade_core::Policy;

    use super::*;

    const GOOD: &str = r#"
name = "shop"
[source]
url = "mysql://repl@db/shop"
tables = ["shop.*"]
[[target]]
url = "postgres://app@new/shop"
[[target]]
url = "file:///lake"
commit_interval = "1m"
[[route]]
from = "shop.*"
to = "sales.*"
"#;

    #[test]
    fn a_good_one_resolves() {
        let c = parse(GOOD).unwrap();
        assert_eq!(c.targets[0].policy.interval.as_secs(), 0, "Postgres commits at once");
        assert_eq!(c.targets[1].policy.interval.as_secs(), 60);
        assert_eq!(c.rules.routes.len(), 1);
    }

    #[test]
    fn all_problems_are_told_at_once_with_their_place() {
        let text = GOOD.replace("tables =", "tabels =").replace("commit_interval", "comit_interval");
        let e = parse(&text).unwrap_err().to_string();
        assert!(e.contains("line 5, column 1: unknown key tabels, did you mean tables?"), "{e}");
        assert!(e.contains("line 10, column 1: unknown key comit_interval, did you mean commit_interval?"), "{e}");

        let text = GOOD.replace("1m", "1 moon").replace("sales.*", "sales").replace("\"shop\"", "\"a b\"");
        let e = parse(&text).unwrap_err().to_string();
        assert!(e.starts_with("3 problems"), "{e}");
        assert!(e.contains("line 10, column 1: \"1 moon\" is not a length of time"), "{e}");
    }

    #[test]
    fn secrets_are_read_and_not_shown() {
        let text = GOOD.replace("tables =", "password_env = \"PATH\"\ntables =");
        let c = parse(&text).unwrap();
        assert_eq!(c.source.password.as_ref().unwrap().expose(), std::env::var("PATH").unwrap());
        assert!(!format!("{c:?}").contains(&std::env::var("PATH").unwrap()));
        let e = parse(&text.replace("PATH", "CROSSFADE_NOT_SET")).unwrap_err().to_string();
        assert!(e.contains("CROSSFADE_NOT_SET (password_env) is not set"), "{e}");
    }

    #[test]
    fn policies_need_a_place_for_originals() {
        let with = |target: &str, policy: &str| {
            parse(&format!(
                "name = \"a\"\n[source]\nurl = \"mysql://u@h/shop\"\n[[target]]\nurl = {target:?}\n[[policy]]\n{policy}\n"
            ))
        };
        let postgres = "postgres://u@h/shop";
        let config = with(postgres, "tables = \"shop.*\"\nzero_date = \"null\"\nnul_byte = \"stop\"").unwrap();
        let rule = &config.rules.policies.0[0];
        assert_eq!(rule.decides, [(Policy::ZeroDate, true), (Policy::NulByte, false)]);
        assert_eq!((rule.tables.as_deref(), rule.columns.len()), (Some("shop.*"), 0));
        for (target, policy, says) in [
            (
                "file:///lake",
                "zero_date = \"null\"",
                "line 7, column 1: zero_date = \"null\": a Parquet target keeps no",
            ),
            (postgres, "columns = [\"a\"]", "the rule names no policy"),
            (postgres, "zero_date = \"text\"", "unknown variant `text`, expected `stop` or `null`"),
            (postgres, "zero_dat = \"null\"", "unknown key zero_dat, did you mean zero_date?"),
        ] {
            let e = with(target, policy).unwrap_err().to_string();
            assert!(e.contains(says), "{e}");
        }
        assert!(with("file:///lake", "zero_date = \"stop\"").is_ok(), "nothing passes");
    }

    #[test]
    fn the_stored_schema_is_the_generated_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/schemas/config.schema.json");
        let generated = format!("{}\n", serde_json::to_string_pretty(&schema()).unwrap());
        if std::env::var_os("CROSSFADE_BLESS").is_some() {
            std::fs::write(path, &generated).unwrap();
        }
        let stored = std::fs::read_to_string(path).unwrap();
        assert_eq!(stored, generated, "run this test with CROSSFADE_BLESS=1 to write it anew");
    }

    #[test]
    fn nearest_word() {
        assert_eq!(nearest("tabels", ["tables", "url"].into_iter()), Some("tables"));
        assert_eq!(nearest("xyz", ["tables", "url"].into_iter()), None);
    }
}
