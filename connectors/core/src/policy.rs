//! What may become of a value that a target cannot hold: by default the pipeline stops.
//!
//! A policy is asked for by name, for columns, and changes nothing but the values that would be refused. Whoever decodes a value
//! that has no equal lets it travel as a stand-in ([`crate::unfit`]) if its column's policies admit that; the target's writer, and
//! the proof, put in its place what the policy says. So the original comes through the whole pipeline, by copy and by stream, and
//! is kept beside the row.
//!
//! Columns of a key have no policies, nor have tables without a key: originals are kept by the row's key.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::schema::{Column, Logical, TableName, TableSchema};
use crate::selection::glob_matches;

/// A class of values that somebody's types hold and others' do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// MySQL's dates that no calendar has: `0000-00-00`, `2024-00-10`, `2023-02-31`.
    ZeroDate,
    /// U+0000 in text, which Postgres' text cannot hold.
    NulByte,
    /// Text whose bytes are not characters of its encoding.
    InvalidText,
    /// MySQL's error value of an enum: index 0, none of its labels.
    InvalidEnum,
    /// NaN in a decimal that has digits only.
    Nan,
    /// A time beyond what microseconds from 1970 reach: after the year 294246.
    OutOfRange,
}

impl Policy {
    /// All of them.
    pub const ALL: [Policy; 6] =
        [Policy::ZeroDate, Policy::NulByte, Policy::InvalidText, Policy::InvalidEnum, Policy::Nan, Policy::OutOfRange];

    /// Its key in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Policy::ZeroDate => "zero_date",
            Policy::NulByte => "nul_byte",
            Policy::InvalidText => "invalid_text",
            Policy::InvalidEnum => "invalid_enum",
            Policy::Nan => "nan",
            Policy::OutOfRange => "out_of_range",
        }
    }

    /// The word that lets such values pass, and says how.
    pub fn action(self) -> &'static str {
        match self {
            Policy::ZeroDate | Policy::InvalidEnum | Policy::Nan | Policy::OutOfRange => "null",
            Policy::NulByte => "remove",
            Policy::InvalidText => "replace",
        }
    }

    /// Whether the type has such values.
    fn concerns(self, logical: &Logical) -> bool {
        match self {
            Policy::ZeroDate => matches!(logical, Logical::Date | Logical::Timestamp | Logical::TimestampTz),
            Policy::NulByte => matches!(logical, Logical::Text | Logical::Json | Logical::Literal),
            Policy::InvalidText => *logical == Logical::Text,
            Policy::InvalidEnum => matches!(logical, Logical::Enum { .. }),
            Policy::Nan => matches!(logical, Logical::Decimal { .. }),
            Policy::OutOfRange => matches!(logical, Logical::Timestamp | Logical::TimestampTz),
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {:?}", self.name(), self.action())
    }
}

/// The policies of a column under which values pass; without one they stop the pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "Vec<Policy>", into = "Vec<Policy>")]
pub struct Policies(u8);

impl Policies {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0 == 0
    }

    /// Whether the policy lets its values pass.
    pub fn has(self, policy: Policy) -> bool {
        self.0 & policy.bit() != 0
    }

    /// Those that are set, in the order of [`Policy::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Policy> {
        Policy::ALL.into_iter().filter(move |p| self.has(*p))
    }

    /// Whether a value may become NULL, whatever the source admits.
    pub fn make_null(self) -> bool {
        self.iter().any(|p| p.action() == "null")
    }
}

impl From<Vec<Policy>> for Policies {
    fn from(policies: Vec<Policy>) -> Self {
        Policies(policies.into_iter().fold(0, |bits, p| bits | p.bit()))
    }
}

impl From<Policies> for Vec<Policy> {
    fn from(policies: Policies) -> Self {
        policies.iter().collect()
    }
}

/// What the configuration says of some columns.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PolicyRule {
    /// A glob over `schema.table` at the source; `None`: all tables.
    pub tables: Option<String>,
    /// Columns by their names at the source; none: all columns.
    pub columns: Vec<String>,
    /// What the rule decides: whether values of each of these policies pass.
    pub decides: Vec<(Policy, bool)>,
}

impl PolicyRule {
    fn matches(&self, table: &TableName, column: &str) -> bool {
        self.tables.as_deref().is_none_or(|glob| glob_matches(glob, table))
            && (self.columns.is_empty() || self.columns.iter().any(|c| c == column))
    }
}

/// Rules in the order of the configuration: of those that match a column, the first that names a policy decides on it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PolicyRules(pub Vec<PolicyRule>);

impl PolicyRules {
    /// The policies under which values of a column pass.
    fn of(&self, table: &TableName, column: &str, logical: &Logical) -> Policies {
        let decides = |policy: Policy| {
            let mut named = self.0.iter().filter(|r| r.matches(table, column)).flat_map(|r| &r.decides);
            named.find(|(p, _)| *p == policy).is_some_and(|(_, passes)| *passes)
        };
        Policy::ALL.into_iter().filter(|p| p.concerns(logical) && decides(*p)).collect::<Vec<_>>().into()
    }

    /// Gives a table's columns the policies of these rules, and no others.
    pub fn mark(&self, table: &mut TableSchema) {
        let keyed = !table.key.is_empty();
        for (i, column) in table.columns.iter_mut().enumerate() {
            let may = keyed && !table.key.contains(&i);
            column.policies =
                if may { self.of(&table.name, &column.name, &column.logical) } else { Policies::default() };
        }
    }
}

/// The setting that lets a value of this column pass, for hints; `None` where no policy can: in a key, or where there is none.
/// `table` may be the shape at the source or at the target, the setting names the source's table.
pub fn way_out(policy: Policy, table: &TableSchema, column: usize) -> Option<String> {
    if table.key.is_empty() || table.key.contains(&column) {
        return None;
    }
    let (name, column) = (table.origin.as_ref().map_or(&table.name, |o| &o.name), &table.columns.get(column)?.name);
    Some(format!(
        "let such values pass, and keep the originals: [[policy]] with tables = {:?}, columns = [{column:?}] and {policy}",
        name.to_string()
    ))
}

/// Whether one shape's table holds the rows of the other. What policies made of values stays what it is, and whether NULL is admitted
/// for their sake is no matter of shape.
pub fn is_same_but_for_policies(a: &TableSchema, b: &TableSchema) -> bool {
    let same = |(a, b): (&Column, &Column)| {
        let null = a.nullable == b.nullable || a.policies.make_null() || b.policies.make_null();
        null && Column { nullable: b.nullable, policies: b.policies, ..a.clone() } == *b
    };
    let columns = a.columns.len() == b.columns.len() && a.columns.iter().zip(&b.columns).all(same);
    columns && a.name == b.name && a.key == b.key
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> TableSchema {
        let column = |name: &str, logical| Column {
            name: name.into(),
            source_type: String::new(),
            logical,
            nullable: false,
            auto_increment: false,
            number: 0,
            policies: Policies::default(),
        };
        TableSchema {
            name: TableName::new("shop", "orders"),
            version: 1,
            columns: vec![
                column("day", Logical::Date),
                column("created", Logical::Timestamp),
                column("paid", Logical::Date),
                column("note", Logical::Text),
            ],
            key: vec![0],
            indexes: vec![],
            foreign_keys: vec![],
            origin: None,
            pending: vec![],
            number: 0,
        }
    }

    fn rule(tables: Option<&str>, columns: &[&str], decides: &[(Policy, bool)]) -> PolicyRule {
        let columns = columns.iter().map(|c| (*c).to_owned()).collect();
        PolicyRule { tables: tables.map(str::to_owned), columns, decides: decides.to_vec() }
    }

    fn marked(rules: Vec<PolicyRule>) -> Vec<Vec<Policy>> {
        let mut table = table();
        PolicyRules(rules).mark(&mut table);
        table.columns.iter().map(|c| c.policies.into()).collect()
    }

    #[test]
    fn the_first_rule_that_names_a_policy_decides_on_it() {
        let zero = Policy::ZeroDate;
        let all = rule(None, &[], &[(zero, true), (Policy::NulByte, true)]);
        let set = marked(vec![all.clone()]);
        assert_eq!(set, [vec![], vec![zero], vec![zero], vec![Policy::NulByte]], "not the key, and by type");
        let stop = rule(Some("shop.*"), &["paid"], &[(zero, false)]);
        assert_eq!(marked(vec![stop.clone(), all.clone()])[1..3], [vec![zero], vec![]]);
        assert_eq!(marked(vec![all, stop])[2], [zero]);
        assert_eq!(marked(vec![rule(Some("blog.*"), &[], &[(zero, true)])])[1], []);
        let mut keyless = TableSchema { key: vec![], ..table() };
        PolicyRules(vec![rule(None, &[], &[(zero, true)])]).mark(&mut keyless);
        assert!(keyless.columns.iter().all(|c| c.policies.is_empty()));
    }

    #[test]
    fn policies_are_stored_by_name() {
        let set = Policies::from(vec![Policy::OutOfRange, Policy::ZeroDate]);
        let json = serde_json::to_string(&set).unwrap();
        assert_eq!(json, r#"["zero_date","out_of_range"]"#);
        assert_eq!(serde_json::from_str::<Policies>(&json).unwrap(), set);
        assert!(set.make_null() && !Policies::from(vec![Policy::NulByte]).make_null());
        for policy in Policy::ALL {
            assert_eq!(serde_json::to_value(policy).unwrap(), policy.name());
        }
    }

    #[test]
    fn a_hint_names_the_rule_where_there_can_be_one() {
        let t = table();
        let hint = way_out(Policy::ZeroDate, &t, 1).unwrap();
        let rule = r#"[[policy]] with tables = "shop.orders", columns = ["created"] and zero_date = "null""#;
        assert!(hint.ends_with(rule), "{hint}");
        assert_eq!(way_out(Policy::ZeroDate, &t, 0), None);
        let routed = TableSchema { name: TableName::new("public", "o"), origin: Some(Box::new(t)), ..table() };
        assert!(way_out(Policy::ZeroDate, &routed, 1).unwrap().contains("\"shop.orders\""));
    }
}
