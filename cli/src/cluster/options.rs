//! What a cluster on one machine consists of.

use std::net::SocketAddr;

/// Which daemons to run, and how large.
#[derive(Debug, Clone)]
pub(crate) struct ClusterOptions {
    pub listen: SocketAddr,
    pub workers: u32,
    pub slots_per_worker: u32,
    pub threads_per_slot: u32,
}
