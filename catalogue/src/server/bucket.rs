//! The rate that a service keeps its clients to.

/// Requests of the current second.
#[derive(Debug)]
pub(super) struct Bucket {
    pub(super) limit: u32,
    second: i64,
    pub(super) count: u32,
}

impl Bucket {
    pub(super) fn new(limit: u32) -> Self {
        Self {
            limit,
            second: 0,
            count: 0,
        }
    }

    /// Whether one more is served in this second.
    pub(super) fn takes(&mut self, second: i64) -> bool {
        // Whole seconds of the clock, not a sliding window: at their border twice the limit may
        // pass, which does no harm here.
        if self.second != second {
            (self.second, self.count) = (second, 0);
        }
        self.count += 1;
        self.count <= self.limit
    }
}
