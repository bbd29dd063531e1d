//! What every command is given.

use crate::client::Remote;
use crate::context::{self, Place};
use crate::error::Result;
use crate::output::Output;

/// Where the coordinator is and where answers go.
#[derive(Debug)]
pub(crate) struct Session {
    /// As `--addr` says.
    pub addr: Option<String>,
    pub output: Output,
}

impl Session {
    /// Where the coordinator is.
    pub(crate) fn place(&self) -> Result<Place> {
        let env = std::env::var("MARQUEE_ADDR").ok();
        context::find(
            self.addr.as_deref(),
            env.as_deref(),
            context::default_path().as_deref(),
        )
    }

    /// A handle on the coordinator.
    pub(crate) fn remote(&self) -> Result<Remote> {
        Remote::new(self.place()?)
    }
}
