//! What is known of a rank that does not get on.

use marquee_proto::v1;
use tokio::time::Instant;

/// A rank that does not get on.
#[derive(Debug, Clone, PartialEq)]
pub struct Stalled {
    /// Since its last progress.
    pub since: Instant,
    pub step: Option<u64>,
    /// What it is at; empty where it does not say.
    pub phase: String,
    pub is_stopped: bool,
    pub waits_for_peers: bool,
    /// What its main thread does, by the kernel.
    pub process: String,
}

impl Stalled {
    /// As heartbeats tell it.
    #[must_use]
    pub fn to_wire(&self) -> v1::Stall {
        v1::Stall {
            idle_ms: u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX),
            step: self.step,
            phase: self.phase.clone(),
            is_stopped: self.is_stopped,
            waits_for_peers: self.waits_for_peers,
            process: self.process.clone(),
        }
    }

    /// To be read after "it".
    pub(super) fn words(&self) -> String {
        let mut words = format!(
            "has made no progress for {} s",
            self.since.elapsed().as_secs()
        );
        if let Some(step) = self.step {
            words += &format!(", after step {step}");
        }
        if !self.phase.is_empty() {
            words += &format!(", in {}", self.phase);
        }
        if !self.process.is_empty() {
            words += &format!("; its main thread {}", self.process);
        }
        words
    }
}
