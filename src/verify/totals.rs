//! Control totals beside the fingerprints: what both servers count and sum by their own SQL, see [`crossfade_core::totals`].
//!
//! They are read in the same snapshots, so at the same position. A table whose fingerprints agree and whose totals do not was read wrongly
//! by us, on both sides alike: it is *different*. Totals that could not be had leave the table *unknown*. A side that has no SQL
//! of its own (files) has none, and the proof says so by their absence.

use crossfade_core::totals::{Total, Totals};
use crossfade_core::{Error, Result, Snapshot};
use serde::{Deserialize, Serialize};

use super::{Fenced, TableProof, Verdict};
use crate::transform::Mapped;

/// The comparison of a table's totals.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TotalsProof {
    /// Figures compared: the rows, and for each column its values that are not NULL and their sum, where there is one.
    pub compared: usize,
    /// Those that are not the same.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub differing: Vec<Figure>,
}

/// A figure that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figure {
    /// `rows`, `values` or `sum`.
    pub what: String,
    /// As the target names it; none for `rows`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub column: Option<String>,
    /// At the source.
    pub source: String,
    /// At the target.
    pub target: String,
}

/// The totals of one side, by table.
pub type Side = Vec<Result<Option<Totals>>>;

/// Asks one side for the totals of all tables.
pub fn read(snapshot: &mut dyn Snapshot, tables: &[Mapped], is_source: bool) -> Side {
    tables.iter().map(|m| snapshot.totals(if is_source { &m.source } else { &m.target })).collect()
}

impl Fenced {
    /// The totals of all tables, of the source and of each target; all sides are asked at once.
    pub(super) fn total_all(&mut self) -> (Side, Vec<Side>) {
        let tables = &self.tables;
        std::thread::scope(|scope| {
            let theirs = self.targets.iter_mut();
            let theirs = theirs.map(|(_, snapshot)| scope.spawn(|| read(snapshot.as_mut(), tables, false)));
            let theirs: Vec<_> = theirs.collect();
            let ours = read(self.source.as_mut(), tables, true);
            let panicked =
                |_| tables.iter().map(|_| Err(Error::corrupt("a thread that asked the target panicked"))).collect();
            (ours, theirs.into_iter().map(|t| t.join().unwrap_or_else(panicked)).collect())
        })
    }
}

/// Notes in a table's proof what the totals say.
pub fn judge(proof: &mut TableProof, mapped: &Mapped, ours: &Result<Option<Totals>>, theirs: &Result<Option<Totals>>) {
    let (ours, theirs) = match (ours, theirs) {
        (Ok(Some(ours)), Ok(Some(theirs))) => (ours, theirs),
        (Err(e), _) | (_, Err(e)) => {
            if proof.verdict == Verdict::Equal {
                proof.verdict = Verdict::Unknown;
            }
            proof.error.get_or_insert(e.to_string());
            return;
        }
        (Ok(None), _) | (_, Ok(None)) => return,
    };
    let found = compare(mapped, ours, theirs);
    if !found.differing.is_empty() && proof.verdict == Verdict::Equal {
        proof.verdict = Verdict::Different;
    }
    proof.totals = Some(found);
}

fn compare(mapped: &Mapped, ours: &Totals, theirs: &Totals) -> TotalsProof {
    let mut proof = TotalsProof::default();
    let mut same = |what: &str, column: Option<&str>, source: &str, target: &str| {
        proof.compared += 1;
        if source != target {
            let (source, target) = (source.to_owned(), target.to_owned());
            proof.differing.push(Figure { what: what.into(), column: column.map(Into::into), source, target });
        }
    };
    same("rows", None, &ours.rows.to_string(), &theirs.rows.to_string());
    for ((&from, column), theirs) in mapped.kept().iter().zip(&mapped.target.columns).zip(&theirs.columns) {
        // Of values that a policy changed the source's server knows nothing.
        if !column.policies.is_empty() {
            continue;
        }
        let (Some(ours), Some(theirs)) = (ours.columns.get(from).and_then(Option::as_ref), theirs) else { continue };
        same("values", Some(&column.name), &ours.values.to_string(), &theirs.values.to_string());
        if let (Total { sum: Some(ours), .. }, Total { sum: Some(theirs), .. }) = (ours, theirs) {
            same("sum", Some(&column.name), ours, theirs);
        }
    }
    proof
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crossfade_core::{Column, Fingerprint, Logical, TableName, TableSchema};

    use super::*;
    use crate::transform::{ColumnRule, Rules, Transform};

    /// A table of which the first column stays behind.
    fn mapped() -> Mapped {
        let column = |name: &str| Column {
            name: name.into(),
            source_type: "bigint".into(),
            logical: Logical::Int64,
            nullable: true,
            auto_increment: false,
            number: 0,
            policies: Default::default(),
        };
        let table = TableSchema {
            name: TableName::new("shop", "orders"),
            version: 1,
            columns: vec![column("secret"), column("id"), column("total")],
            key: vec![1],
            indexes: vec![],
            foreign_keys: vec![],
            origin: None,
            pending: vec![],
            number: 0,
        };
        let rule = ColumnRule { tables: "*.*".into(), exclude: vec!["secret".into()], ..ColumnRule::default() };
        let rules = Rules { columns: vec![rule], ..Rules::default() };
        Transform::new(rules).map_all(&[Arc::new(table)]).unwrap().remove(0)
    }

    fn side(rows: u64, columns: &[Option<(u64, Option<&str>)>]) -> Result<Option<Totals>> {
        let total = |c: &Option<(u64, Option<&str>)>| c.map(|(values, sum)| Total { values, sum: sum.map(Into::into) });
        Ok(Some(Totals { rows, columns: columns.iter().map(total).collect() }))
    }

    fn judged(ours: &Result<Option<Totals>>, theirs: &Result<Option<Totals>>) -> TableProof {
        let mapped = mapped();
        let same = Ok(Fingerprint { rows: 2, sum: 7 });
        let mut proof = super::super::proof(&mapped.source.name, None, &same, &same);
        judge(&mut proof, &mapped, ours, theirs);
        proof
    }

    #[test]
    fn figures_are_those_of_the_columns_that_go_over() {
        let ours = side(2, &[None, Some((2, Some("3"))), Some((1, Some("9")))]);
        let proof = judged(&ours, &side(2, &[Some((2, Some("3"))), Some((1, Some("9")))]));
        assert_eq!(proof.verdict, Verdict::Equal);
        assert_eq!(proof.totals.unwrap().compared, 5);
    }

    #[test]
    fn equal_fingerprints_of_different_figures_are_different() {
        let ours = side(2, &[None, Some((2, Some("3"))), Some((1, Some("9")))]);
        let proof = judged(&ours, &side(2, &[Some((2, Some("3"))), Some((2, Some("10")))]));
        assert_eq!(proof.verdict, Verdict::Different);
        let differing = proof.totals.unwrap().differing;
        let shown: Vec<_> =
            differing.iter().map(|f| (f.what.as_str(), f.column.as_deref(), f.target.as_str())).collect();
        assert_eq!(shown, [("values", Some("total"), "2"), ("sum", Some("total"), "10")]);
        assert_eq!(judged(&side(3, &[None, None, None]), &side(2, &[None, None])).verdict, Verdict::Different);
    }

    #[test]
    fn what_could_not_be_asked_is_unknown_and_what_nobody_has_is_absent() {
        let ours = side(2, &[None, None, None]);
        let proof = judged(&ours, &Err(Error::transient("gone")));
        assert_eq!((proof.verdict, proof.error.as_deref()), (Verdict::Unknown, Some("gone")));
        let proof = judged(&ours, &Ok(None));
        assert_eq!((proof.verdict, proof.totals), (Verdict::Equal, None));
    }

    #[test]
    fn a_sum_that_one_side_lacks_is_not_compared() {
        let ours = side(2, &[None, Some((2, None)), None]);
        assert_eq!(judged(&ours, &side(2, &[Some((2, Some("3"))), None])).verdict, Verdict::Equal);
    }
}
