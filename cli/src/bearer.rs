//! A user's token in memory.

use marquee_domain::users::Token;

use crate::error::{CliError, Result};

/// A token, shown by nothing but [`reveal`](Self::reveal).
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Bearer(Token);

impl std::fmt::Debug for Bearer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl Bearer {
    /// The token of a text; `origin` says in words where that is from.
    pub(crate) fn of(text: &str, origin: &str) -> Result<Self> {
        let token = text.trim().parse().map(Self);
        token.map_err(|why| CliError::Usage(format!("the token {origin} cannot be read: {why}")))
    }

    pub(crate) fn reveal(&self) -> String {
        self.0.reveal()
    }
}
