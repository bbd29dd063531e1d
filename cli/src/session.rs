//! What every command is given.

use crate::client::Remote;
use crate::context::{self, Place};
use crate::error::Result;
use crate::output::Output;
use crate::tokens::{self, Given};

/// Where the coordinator is and where answers go.
#[derive(Debug)]
pub(crate) struct Session {
    /// As `--addr` says.
    pub addr: Option<String>,
    pub output: Output,
}

impl Session {
    /// Where the coordinator is, and the user's token for it.
    pub(crate) fn place(&self) -> Result<Place> {
        // Tokens are kept beside the user's own file, also where the address comes from the host's:
        // that folder is not his to write.
        let context = context::default_path();
        let place = self.bare_place()?;
        let token = tokens::find(&place, &Given::from_environment(), context.as_deref())?;
        Ok(Place { token, ..place })
    }

    /// Where the coordinator is; without a token.
    pub(crate) fn bare_place(&self) -> Result<Place> {
        let env = std::env::var("MARQUEE_ADDR").ok();
        let context = context::path_to_read();
        context::find(self.addr.as_deref(), env.as_deref(), context.as_deref())
    }

    /// A handle on the coordinator.
    pub(crate) fn remote(&self) -> Result<Remote> {
        Remote::new(self.place()?)
    }
}
