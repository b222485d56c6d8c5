//! What is refused: types by `check`, values by the run, each with its place and the way out.

/// The page's part on them.
pub fn section() -> String {
    String::new()
}
