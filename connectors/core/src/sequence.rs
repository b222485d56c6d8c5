//! Sequences of a target that would hand out values that are taken, see [`crate::Snapshot::sequences`].

/// A sequence behind the values of its column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Behind {
    /// The column that it fills.
    pub column: String,
    /// Its name, as a statement has it.
    pub sequence: String,
    /// What it would hand out.
    pub next: String,
    /// The furthest value there is: the greatest, or of a descending sequence the least.
    pub furthest: String,
    /// The statement that sets it.
    pub fix: String,
}
