//! A type and the values it is tried with.

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;

use crate::class::Class;

/// A type of a source.
pub struct Kind {
    /// As it is declared.
    pub declared: &'static str,
    /// How its values are compared.
    pub class: Class,
    /// Values as expressions in the source's SQL. NULL is tried with every type.
    pub values: Vec<String>,
    /// What happens with values that do not fit, in words.
    pub note: &'static str,
}

/// A type whose every value arrives.
pub fn kind(declared: &'static str, class: Class, values: &[&str]) -> Kind {
    Kind { declared, class, values: values.iter().map(|v| (*v).to_owned()).collect(), note: "" }
}

impl Kind {
    /// Says what does not fit, or how values arrive where the types do not tell.
    pub fn note(mut self, note: &'static str) -> Kind {
        self.note = note;
        self
    }

    /// Adds values.
    pub fn and(mut self, values: impl IntoIterator<Item = String>) -> Kind {
        self.values.extend(values);
        self
    }
}

/// So many generated values, the same in every run: a failure can be run again as it was.
pub fn some<V: std::fmt::Debug>(
    n: usize,
    strategy: impl Strategy<Value = V>,
    sql: impl Fn(V) -> String,
) -> Vec<String> {
    let mut runner = TestRunner::deterministic();
    let mut one = || strategy.new_tree(&mut runner).expect("a bounded strategy has values").current();
    (0..n).map(|_| sql(one())).collect()
}

/// Bytes in hexadecimal.
pub fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|b| format!("{b:02X}")).collect()
}
