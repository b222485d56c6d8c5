//! The part of the configuration that names figures which must hold on both sides: `[[aggregate]]`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Resolver;
use super::raw::RawConfig;
use crate::registry::{TargetKind, target_scheme};
use crate::verify::aggregates::Aggregate;
use crate::verify::decimal::Decimal;

/// A figure that must hold on both sides, by a statement for each. Both are asked at the position where all tables are compared.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawAggregate {
    /// What it is called in reports, such as `revenue`.
    pub name: String,
    /// The statement for the source: one row of one column, such as `SELECT sum(total) FROM shop.orders`.
    pub source: String,
    /// The statement for the target, by the names that tables and columns have there.
    pub target: String,
    /// How far both numbers may be apart, such as `"1.00"`: beyond it is a warning, which is told. `"0"` if left out.
    pub warning: Option<String>,
    /// How far they may be apart before the figure is wrong, and the hour not clean. As `warning` if left out: whatever is beyond that is
    /// wrong.
    pub critical: Option<String>,
}

impl Resolver<'_> {
    /// `[[aggregate]]`.
    pub fn aggregates(&mut self, raw: &RawConfig) -> Vec<Aggregate> {
        let is_parquet = |url: &str| matches!(target_scheme(url), Ok(TargetKind::Parquet));
        if !raw.aggregate.is_empty()
            && let Some(lake) = raw.target.iter().position(|t| is_parquet(&t.url))
        {
            let wrong = format!(
                "[[aggregate]]: a Parquet target (target {}) has no SQL that its `target` could be asked in",
                lake + 1
            );
            self.problem(&["aggregate", "0"], wrong);
        }
        raw.aggregate.iter().enumerate().filter_map(|(i, one)| self.aggregate(i, one, &raw.aggregate[..i])).collect()
    }

    fn aggregate(&mut self, i: usize, raw: &RawAggregate, before: &[RawAggregate]) -> Option<Aggregate> {
        let at = i.to_string();
        let mut wrong = |key: &str, what: String| self.problem(&["aggregate", &at, key], what);
        if before.iter().any(|b| b.name == raw.name) {
            wrong("name", format!("two aggregates are called {:?}", raw.name));
        }
        for (key, text) in [("name", &raw.name), ("source", &raw.source), ("target", &raw.target)] {
            if text.trim().is_empty() {
                wrong(key, format!("{key} must not be empty"));
            }
        }
        let mut bound = |key: &str, text: &Option<String>| match text.as_deref().map(str::parse::<Decimal>) {
            None => Some(None),
            Some(Ok(bound)) if !bound.is_negative() => Some(Some(bound)),
            Some(_) => {
                let text = text.as_deref().unwrap_or_default();
                wrong(key, format!("{key}: {text:?} is no amount such as \"1.00\" or \"0\""));
                None
            }
        };
        let (warning, critical) = (bound("warning", &raw.warning), bound("critical", &raw.critical));
        let warning = warning?.unwrap_or_default();
        let critical = critical?.unwrap_or_else(|| warning.clone());
        if critical < warning {
            wrong("critical", format!("critical ({critical}) must not be less than warning ({warning})"));
        }
        let (name, source, target) = (raw.name.clone(), raw.source.clone(), raw.target.clone());
        Some(Aggregate { name, source, target, warning, critical })
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;

    const HEAD: &str =
        "name = \"shop\"\n[source]\nurl = \"mysql://r@db/shop\"\n[[target]]\nurl = \"postgres://a@new/shop\"\n";
    const REVENUE: &str = "[[aggregate]]\nname = \"revenue\"\nsource = \"SELECT 1\"\ntarget = \"SELECT 2\"\n";

    #[test]
    fn bounds_are_exact_and_nothing_is_allowed_by_default() {
        let bounds = |more: &str| {
            let config = parse(&format!("{HEAD}{REVENUE}{more}")).unwrap();
            let one = &config.aggregates[0];
            (one.warning.to_string(), one.critical.to_string())
        };
        let told = |warning: &str, critical: &str| (warning.to_owned(), critical.to_owned());
        assert_eq!(bounds(""), told("0", "0"));
        assert_eq!(bounds("warning = \"1.00\"\ncritical = \"1000\"\n"), told("1", "1000"));
        assert_eq!(bounds("warning = \"1.00\"\n"), told("1", "1"), "all beyond it is wrong");
        assert_eq!(bounds("critical = \"0.005\"\n"), told("0", "0.005"));
        assert_eq!(parse(HEAD).unwrap().aggregates, []);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let wrong = |more: &str| parse(&format!("{HEAD}{more}")).unwrap_err().to_string();
        let revenue = |more: &str| wrong(&format!("{REVENUE}{more}"));
        assert!(revenue("warning = \"-1\"").contains("line 10, column 1: warning: \"-1\" is no amount"));
        assert!(revenue("critical = \"much\"").contains("critical: \"much\" is no amount"));
        assert!(
            revenue("warning = \"2\"\ncritical = \"1\"").contains("critical (1) must not be less than warning (2)")
        );
        assert!(revenue(REVENUE).contains("two aggregates are called \"revenue\""));
        assert!(wrong(&REVENUE.replace("SELECT 2", " ")).contains("line 9, column 1: target must not be empty"));
        let lake = parse(&format!("{HEAD}[[target]]\nurl = \"file:///tmp/lake\"\n{REVENUE}")).unwrap_err().to_string();
        assert!(lake.contains("[[aggregate]]: a Parquet target (target 2) has no SQL"), "{lake}");
    }
}
