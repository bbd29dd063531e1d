//! Faults that wait for a COMMIT.

/// What is done to a COMMIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// It never reaches the server: nothing is stored.
    Before,
    /// It is stored, and nobody hears so.
    After,
    /// It is stored, and whoever asked for it is killed before the answer.
    Killed,
}

/// A fault that waits for a COMMIT, whosever it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ambush {
    pub cut: Cut,
    /// Only the one of a transaction that has ended jobs.
    pub of_an_end: bool,
}
