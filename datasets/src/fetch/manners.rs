//! How requests are made, as the settings of a job say.

use std::time::Duration;

use marquee_domain::spec::ArrayElement;

/// How requests are made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manners {
    pub(super) requests_per_second: u32,
    pub(super) concurrency: u32,
    /// For one request, connect to last byte.
    pub(super) timeout: Duration,
    /// Tries for one request, the first included.
    pub(super) attempts: u32,
    /// A host that answers nothing for this long is given up.
    pub(super) outage: Duration,
}

impl Manners {
    /// Those of one element of an array that no coordinator shares rates out to: all of them together
    /// keep to what one job would.
    pub(super) fn share_of(self, element: Option<ArrayElement>) -> Self {
        let Some(element) = element else { return self };
        Self {
            requests_per_second: element.share_of(self.requests_per_second),
            concurrency: element.share_of(self.concurrency),
            ..self
        }
    }
}
