//! Figures that an operator wants to hold on both sides: `[[aggregate]]` of the configuration.
//!
//! A proof of rows says that nothing was changed on the way. A figure says that what the business counts by came over: revenue, open
//! orders, a balance. Each side is asked in its own SQL, in the snapshots that are compared, so at the same position. What a figure
//! covers beyond the carried tables is read there too, but nobody holds it still: it belongs to no position.
//!
//! Texts are compared as numbers where both are, exactly (`decimal.rs`), and as they stand where they are not: a date, a name. NULL is a
//! difference unless both sides have it.

use crossfade_core::{Error, Result, Snapshot};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::beyond::Outcome;
use super::decimal::Decimal;

/// A figure that is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aggregate {
    /// What people call it.
    pub name: String,
    /// The statement for the source.
    pub source: String,
    /// The statement for the target.
    pub target: String,
    /// How far the sides may be apart before it is told.
    pub warning: Decimal,
    /// How far before it is wrong.
    pub critical: Decimal,
}

/// A figure as it was compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AggregateProof {
    /// What people call it.
    pub name: String,
    /// Where the target is, if there are several.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub to: Option<String>,
    /// What it came to.
    pub outcome: Outcome,
    /// The source's answer; none: NULL, or there was none.
    pub source: Option<String>,
    /// The target's.
    pub target: Option<String>,
    /// How far they are apart, if both are numbers.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub difference: Option<String>,
    /// How far they may be apart before it is told.
    pub warning: String,
    /// How far before it is wrong.
    pub critical: String,
    /// Why it is unknown.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
}

/// The answers of one side, by figure.
pub type Answers = Vec<Result<Option<String>>>;

/// Asks one side.
pub fn ask(snapshot: &mut dyn Snapshot, aggregates: &[Aggregate], is_source: bool) -> Answers {
    aggregates.iter().map(|a| snapshot.ask(if is_source { &a.source } else { &a.target })).collect()
}

/// Compares the answers of both sides.
pub fn judge(
    aggregate: &Aggregate,
    to: Option<String>,
    ours: &Result<Option<String>>,
    theirs: &Result<Option<String>>,
) -> AggregateProof {
    let mut proof = AggregateProof {
        name: aggregate.name.clone(),
        to,
        outcome: Outcome::Unknown,
        source: ours.as_ref().ok().cloned().flatten(),
        target: theirs.as_ref().ok().cloned().flatten(),
        difference: None,
        warning: aggregate.warning.to_string(),
        critical: aggregate.critical.to_string(),
        error: None,
    };
    let said = |side: &str, e: &Error| match e.hint_text() {
        Some(hint) => format!("{side}: {e}; {hint}"),
        None => format!("{side}: {e}"),
    };
    let errors = [("source", ours), ("target", theirs)];
    let errors: Vec<String> = errors.iter().filter_map(|(side, r)| r.as_ref().err().map(|e| said(side, e))).collect();
    if !errors.is_empty() {
        proof.error = Some(errors.join("\n"));
        return proof;
    }
    let (outcome, difference) = compare(aggregate, proof.source.as_deref(), proof.target.as_deref());
    (proof.outcome, proof.difference) = (outcome, difference.map(|d| d.to_string()));
    proof
}

fn compare(aggregate: &Aggregate, ours: Option<&str>, theirs: Option<&str>) -> (Outcome, Option<Decimal>) {
    let (Some(ours), Some(theirs)) = (ours, theirs) else {
        // No bound says how far nothing is from something.
        return (if ours == theirs { Outcome::Holds } else { Outcome::Critical }, None);
    };
    let (Ok(a), Ok(b)) = (ours.parse::<Decimal>(), theirs.parse::<Decimal>()) else {
        return (if ours == theirs { Outcome::Holds } else { Outcome::Critical }, None);
    };
    let apart = a.distance(&b);
    let outcome = match (apart > aggregate.critical, apart > aggregate.warning) {
        (true, _) => Outcome::Critical,
        (false, true) => Outcome::Warning,
        (false, false) => Outcome::Holds,
    };
    (outcome, Some(apart))
}

impl AggregateProof {
    /// What is wrong with it, without the values: for places where those are hidden. `None`: it holds.
    pub fn wrong(&self) -> Option<String> {
        let to = self.to.as_ref().map_or_else(String::new, |to| format!(" -> {to}"));
        let name = format!("aggregate {}{to}", self.name);
        let beyond = |bound: &str| match (&self.difference, bound) {
            (None, _) => format!("{name} is not the same on both sides"),
            (Some(_), "0") => format!("{name} differs"),
            (Some(_), bound) => format!("{name} is apart by more than {bound}"),
        };
        match self.outcome {
            Outcome::Holds => None,
            Outcome::Warning => Some(beyond(&self.warning)),
            Outcome::Critical => Some(beyond(&self.critical)),
            Outcome::Unknown => {
                let why = self.error.as_deref().unwrap_or("it was not asked for");
                Some(format!("{name} is not known: {}", why.replace('\n', "; ")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revenue(warning: &str, critical: &str) -> Aggregate {
        let bound = |text: &str| text.parse().expect("a number");
        let (source, target) = ("SELECT 1".to_owned(), "SELECT 2".to_owned());
        Aggregate { name: "revenue".into(), source, target, warning: bound(warning), critical: bound(critical) }
    }

    fn outcome(aggregate: &Aggregate, ours: Option<&str>, theirs: Option<&str>) -> (Outcome, Option<String>) {
        let answer = |text: Option<&str>| Ok(text.map(str::to_owned));
        let proof = judge(aggregate, None, &answer(ours), &answer(theirs));
        (proof.outcome, proof.difference)
    }

    #[test]
    fn bounds_are_what_is_still_allowed() {
        let some = |text: &str| Some(text.to_owned());
        let deals = revenue("1.00", "1000");
        for (theirs, expected, apart) in [
            ("10", Outcome::Holds, "0"),
            ("11.000", Outcome::Holds, "1"),
            ("11.001", Outcome::Warning, "1.001"),
            ("-990", Outcome::Warning, "1000"),
            ("-990.01", Outcome::Critical, "1000.01"),
        ] {
            assert_eq!(outcome(&deals, Some("10.00"), Some(theirs)), (expected, some(apart)), "{theirs}");
        }
        let exact = revenue("0", "0");
        assert_eq!(outcome(&exact, Some("1.50"), Some("1.5")), (Outcome::Holds, some("0")));
        assert_eq!(outcome(&exact, Some("1.50"), Some("1.51")), (Outcome::Critical, some("0.01")));
    }

    #[test]
    fn null_and_text_are_the_same_or_not() {
        let wide = revenue("1000000", "1000000");
        assert_eq!(outcome(&wide, None, None), (Outcome::Holds, None));
        for (ours, theirs) in [(None, Some("0")), (Some("0"), None), (Some("a"), Some("A")), (Some("1"), Some("NaN"))] {
            assert_eq!(outcome(&wide, ours, theirs), (Outcome::Critical, None), "{ours:?} {theirs:?}");
        }
        assert_eq!(outcome(&wide, Some("2024-02-29"), Some("2024-02-29")), (Outcome::Holds, None));
    }

    #[test]
    fn what_was_not_answered_is_unknown_and_says_where() {
        let broken = Err(Error::config("no such table").hint("make it"));
        let proof = judge(&revenue("1", "1"), Some("new".into()), &Ok(Some("7".into())), &broken);
        assert_eq!((proof.outcome, proof.source.as_deref()), (Outcome::Unknown, Some("7")));
        assert_eq!(proof.wrong().unwrap(), "aggregate revenue -> new is not known: target: no such table; make it");
    }

    #[test]
    fn words_have_no_values_in_them() {
        let answer = |text: &str| Ok(Some(text.to_owned()));
        let said = |warning, critical, ours, theirs| {
            judge(&revenue(warning, critical), None, &answer(ours), &answer(theirs)).wrong()
        };
        assert_eq!(said("1.00", "1000", "5", "7").unwrap(), "aggregate revenue is apart by more than 1");
        assert_eq!(said("0", "0", "5", "7").unwrap(), "aggregate revenue differs");
        assert_eq!(said("0", "0", "x", "y").unwrap(), "aggregate revenue is not the same on both sides");
        assert_eq!(said("2", "2", "5", "7"), None);
    }
}
