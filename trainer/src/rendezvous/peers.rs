//! The group that the ranks of an attempt form, and what it does for one of them.
//!
//! Invariant: ranks meet under a prefix of their own attempt, so that an old attempt's rank never
//! meets a new one's.

use std::time::Instant;

use marquee_domain::child::ChildSpec;
use marquee_domain::pulse::Phase;
use tch::Tensor;

use super::arrive::{RENDEZVOUS_TIMEOUT, connect, own_address, wait_for_all};
use super::carry::Carrier;
use super::exchange::Exchange;
use super::gathering::Gathering;
use super::place::Place;
use crate::error::RunError;
use crate::ffi::{self, Group};
use crate::stop::Stop;

/// A rank among its peers. With one rank every operation does nothing.
#[derive(Debug)]
pub(crate) struct Peers {
    pub(crate) rank: u32,
    pub(crate) world_size: u32,
    pub(super) group: Option<Group>,
    pub(super) carrier: Option<Carrier>,
    pub(super) gathering: Option<Gathering>,
}

impl Peers {
    /// A rank without any.
    pub(crate) fn alone() -> Self {
        Self {
            rank: 0,
            world_size: 1,
            group: None,
            carrier: None,
            gathering: None,
        }
    }

    /// Joins the peers of `spec`'s attempt; None if asked to stop before all were there.
    pub(crate) fn join(
        spec: &ChildSpec,
        place: &Place,
        exchange: Exchange,
        stop: &Stop,
    ) -> Result<Option<Self>, RunError> {
        let Place {
            rank,
            world_size,
            ref store,
            min_ranks,
            ref standby,
            ref lost_ranks,
        } = *place;
        let Some((host, port)) = store else {
            return Ok(Some(Self {
                rank,
                world_size,
                ..Self::alone()
            }));
        };
        ffi::stand(Phase::Joining);
        let deadline = Instant::now() + RENDEZVOUS_TIMEOUT;
        let Some(store) = connect(host, *port, deadline, stop)? else {
            return Ok(None);
        };
        let prefix = format!("job/{}/attempt/{}", spec.job, spec.attempt);
        let store = store.prefixed(&prefix)?;
        // Before the group is formed, for Gloo's own waiting for its peers hears of no stop.
        if !wait_for_all(&store, rank, world_size, deadline, stop)? {
            return Ok(None);
        }
        let address = own_address(host, *port)?;
        let (group, carrier) = exchange
            .joining(rank, world_size, &address)
            .form(&store)
            .map_err(|error| error.during("joining the other ranks"))?;
        let backend = carrier.name;
        tracing::info!(rank, world_size, %address, backend, "joined the other ranks");
        Ok(Some(Self {
            rank,
            world_size,
            group: Some(group),
            carrier: Some(carrier),
            gathering: Some(Gathering {
                store,
                prefix,
                standby: standby.clone(),
                is_at_standby: false,
                lost_ranks: lost_ranks.clone(),
                looked_at: Instant::now(),
                address,
                exchange,
                min_ranks,
                generation: 0,
                tries: 0,
                members: (0..world_size).collect(),
                me: rank,
            }),
        }))
    }

    /// Whether this is the rank that writes what all have in common.
    pub(crate) fn is_first(&self) -> bool {
        self.rank == 0
    }

    /// Name of what carries the all-reduce.
    pub(crate) fn backend(&self) -> &'static str {
        let carrier = self.carrier.as_ref().filter(|_| self.group.is_some());
        carrier.map_or("none", |carrier| carrier.name)
    }

    /// What the job's summary should warn of: why the exchange is slower than it could be.
    pub(crate) fn warning(&self) -> Option<&str> {
        self.carrier.as_ref()?.warning.as_deref()
    }

    /// Whether an exchange may fail without an error and the run go on with wrong sums. NCCL's does so
    /// where a group is aborted because a rank was lost; Gloo's calls return an error.
    pub(crate) fn may_lose_an_exchange(&self) -> bool {
        self.backend() == "nccl" && self.may_regroup()
    }

    /// An error if an exchange between GPUs has failed.
    pub(crate) fn check(&self) -> Result<(), RunError> {
        match &self.group {
            Some(group) => Ok(group.check()?),
            None => Ok(()),
        }
    }

    /// The group; None for one rank.
    pub(crate) fn group(&self) -> Option<&Group> {
        self.group.as_ref()
    }

    /// Sums numbers over all ranks, in f64.
    pub(crate) fn sum<const N: usize>(&self, values: [f64; N]) -> Result<[f64; N], RunError> {
        let Some(group) = &self.group else {
            return Ok(values);
        };
        let tensor = Tensor::f_from_slice(&values)?;
        group.all_reduce_sum(&tensor)?;
        let mut summed = [0.0; N];
        tensor.f_copy_data(&mut summed, N)?;
        Ok(summed)
    }

    /// Overwrites `tensors` with those of rank 0.
    pub(crate) fn copy_from_first(&self, tensors: &[Tensor]) -> Result<(), RunError> {
        self.copy_from(0, tensors)
    }

    /// Overwrites `tensors` with those of rank `source`.
    pub(crate) fn copy_from(&self, source: u32, tensors: &[Tensor]) -> Result<(), RunError> {
        match &self.group {
            // libtorch refuses an empty list, such as the buffers of a network without batch-norm.
            Some(group) if !tensors.is_empty() => Ok(group.broadcast(tensors, source)?),
            Some(_) | None => Ok(()),
        }
    }

    /// Returns when every rank has come here.
    pub(crate) fn meet(&self) -> Result<(), RunError> {
        match &self.group {
            Some(group) => Ok(group.barrier()?),
            None => Ok(()),
        }
    }

    /// Leaves in order, after all ranks have met: nobody needs anybody any more.
    pub(crate) fn leave(self) {
        if let Some(group) = self.group {
            group.close();
        }
    }
}
