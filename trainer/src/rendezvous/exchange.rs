//! How ranks exchange tensors.

use std::time::Duration;

use marquee_domain::spec::Backend;
use tch::Device;

use super::carry::Joining;

/// How ranks exchange tensors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Exchange {
    /// Where the tensors lie.
    pub(crate) device: Device,
    /// What carries those of GPUs.
    pub(crate) backend: Backend,
    /// Of each operation.
    pub(crate) timeout: Duration,
}

impl Exchange {
    pub(super) fn joining(self, rank: u32, size: u32, address: &str) -> Joining {
        Joining {
            rank,
            size,
            address: address.to_owned(),
            timeout: self.timeout,
            device: self.device,
            wanted: self.backend,
        }
    }
}
