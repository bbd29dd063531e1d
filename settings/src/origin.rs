//! Where a value was written.

use std::fmt;
use std::path::PathBuf;

/// The place where a value was written, in the words of an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere: it is the program's own.
    Default,
    File(PathBuf),
    /// The variable's name.
    Variable(String),
    CommandLine,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("by default"),
            Self::File(path) => write!(f, "in {}", path.display()),
            Self::Variable(name) => write!(f, "in the variable {name} of the environment"),
            Self::CommandLine => f.write_str("on the command line"),
        }
    }
}
