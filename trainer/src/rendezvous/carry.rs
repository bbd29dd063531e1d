//! What carries tensors of GPUs between ranks: NCCL where it works on all of them, else Gloo.
//!
//! Tensors on CPUs always go by Gloo, also beside NCCL: Gloo notices a lost peer within milliseconds, and
//! what ranks agree on is only a few numbers. Invariant: all ranks use the same. They vote over Gloo; a
//! rank that cannot use NCCL says why, and the others report its reason.

use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use marquee_domain::FailureClass;
use marquee_domain::spec::Backend;
use tch::{Device, Kind, Tensor};

use crate::error::RunError;
use crate::ffi::{self, Group, Nccl, Store};

/// How much longer than an exchange NCCL may take to connect: it tests every link between the GPUs.
const CONNECT_TIME: Duration = Duration::from_secs(60);

/// What carries tensors of this rank's device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Carrier {
    /// As summaries name it.
    pub(crate) name: &'static str,
    /// Why it is not what one would expect.
    pub(crate) warning: Option<String>,
}

impl Carrier {
    const GLOO: Self = Self {
        name: "gloo",
        warning: None,
    };
}

/// A rank that is about to join a group.
#[derive(Debug, Clone)]
pub(super) struct Joining {
    pub(super) rank: u32,
    pub(super) size: u32,
    /// This rank's own.
    pub(super) address: String,
    /// Of each operation.
    pub(super) timeout: Duration,
    pub(super) device: Device,
    pub(super) wanted: Backend,
}

impl Joining {
    /// Forms the group that meets in `store`.
    pub(super) fn form(&self, store: &Store) -> Result<(Group, Carrier), RunError> {
        let group = self.gloo(store)?;
        if ffi::gpu_index(self.device).is_none() {
            if self.wanted == Backend::Nccl {
                return Err(RunError::user(
                    "backend = \"nccl\" is for ranks on GPUs; leave it out, or submit with device = \"gpu\"",
                ));
            }
            return Ok((group, Carrier::GLOO));
        }
        if self.wanted == Backend::Gloo {
            group.carry_gpus_by_gloo()?;
            return Ok((group, Carrier::GLOO));
        }
        match self.nccl(store, &group)? {
            Ok(by_nccl) => {
                // The one with NCCL has a Gloo of its own.
                group.close();
                let name = "nccl";
                Ok((
                    by_nccl,
                    Carrier {
                        name,
                        warning: None,
                    },
                ))
            }
            Err(why) => self.without(group, &why),
        }
    }

    fn gloo(&self, store: &Store) -> Result<Group, RunError> {
        Ok(Group::gloo(
            store,
            self.rank,
            self.size,
            &self.address,
            self.timeout,
        )?)
    }

    /// What the job says to do where NCCL cannot be used.
    fn without(&self, group: Group, why: &str) -> Result<(Group, Carrier), RunError> {
        if self.wanted == Backend::Nccl {
            return Err(RunError::new(
                FailureClass::DeviceFault,
                format!(
                    "backend = \"nccl\", but NCCL cannot be used: {why}; \"marquee-trainer nccl-check\" on the \
                     host says more, backend = \"auto\" would go on with Gloo"
                ),
            ));
        }
        group.carry_gpus_by_gloo()?;
        let warning = format!(
            "NCCL cannot be used: {why}. Gradients go by Gloo through the CPUs' memory, which may take many \
             times as long; \"marquee-trainer nccl-check\" on the host says more"
        );
        tracing::warn!(rank = self.rank, "{warning}");
        Ok((
            group,
            Carrier {
                warning: Some(warning),
                ..Carrier::GLOO
            },
        ))
    }

    /// A group with NCCL that has exchanged something, if all ranks have one; else why not.
    fn nccl(&self, store: &Store, votes: &Group) -> Result<Result<Group, String>, RunError> {
        let nccl = Nccl::load();
        // Before anybody connects: a rank that cannot load it would not come to the first exchange.
        if let Some(why) = self.vote(store, votes, "load", nccl.as_ref().err())? {
            return Ok(Err(why));
        }
        let nccl = nccl.map_err(RunError::host)?;
        let tried = self.tried(store, &nccl);
        match self.vote(store, votes, "connect", tried.as_ref().err())? {
            None => tried.map(Ok).map_err(RunError::host),
            Some(why) => {
                // Not just dropped: a peer that formed it would wait for this rank in its first exchange.
                if let Ok(group) = tried
                    && let Err(error) = group.abort()
                {
                    tracing::warn!(%error, "NCCL's group cannot be ended");
                }
                Ok(Err(why))
            }
        }
    }

    /// Forms a group of its own with NCCL and sums a number in it. In a thread, which is left behind
    /// where NCCL hangs.
    fn tried(&self, store: &Store, nccl: &Nccl) -> Result<Group, String> {
        let (sender, result) = channel();
        let (this, nccl) = (self.clone(), nccl.clone());
        let store = store
            .prefixed("with-nccl")
            .map_err(|error| error.to_string())?;
        thread::spawn(move || {
            let form = || -> Result<Group, RunError> {
                // Names of its own in the store: this group meets beside the one that votes.
                let group = this.gloo(&store)?;
                group.carry_gpus_by_nccl(&nccl, &store, this.rank, this.size)?;
                let one = Tensor::f_ones([1], (Kind::Float, this.device))?;
                group.all_reduce_sum(&one)?;
                let sum = one.f_double_value(&[0])?;
                // That it connected does not say that it carries.
                if sum.to_bits() == f64::from(this.size).to_bits() {
                    Ok(group)
                } else {
                    Err(RunError::host(format!(
                        "{} ranks that count 1 each came to {sum}",
                        this.size
                    )))
                }
            };
            // Nobody listens once the time is up.
            let _ = sender.send(form().map_err(|error| error.message));
        });
        let limit = self.timeout + CONNECT_TIME;
        result
            .recv_timeout(limit)
            .unwrap_or_else(|_| Err(format!("it did not connect within {} s", limit.as_secs())))
    }

    /// Asks all ranks whether they have a `problem`; returns those they have, in words.
    fn vote(
        &self,
        store: &Store,
        votes: &Group,
        about: &str,
        problem: Option<&String>,
    ) -> Result<Option<String>, RunError> {
        let key = |rank: u32| format!("nccl/{about}/{rank}");
        // Before the sum: once all know that somebody has a problem, its words are there to be read.
        if let Some(problem) = problem {
            store.set(&key(self.rank), problem.as_bytes())?;
        }
        let count = Tensor::f_from_slice(&[f64::from(u8::from(problem.is_some()))])?;
        votes.all_reduce_sum(&count)?;
        if count.f_double_value(&[0])? == 0.0 {
            return Ok(None);
        }
        let mut words = Vec::new();
        for rank in 0..self.size {
            if store.has(&key(rank))? {
                let text = String::from_utf8_lossy(&store.get(&key(rank))?).into_owned();
                words.push(format!("rank {rank}: {text}"));
            }
        }
        Ok(Some(words.join("; ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rendezvous::StoreServer;

    fn joining(rank: u32, size: u32, device: Device, wanted: Backend) -> Joining {
        Joining {
            rank,
            size,
            address: "127.0.0.1".to_owned(),
            timeout: Duration::from_secs(20),
            device,
            wanted,
        }
    }

    /// Two ranks that were given GPUs, on a host where NCCL cannot be loaded.
    fn form(wanted: Backend) -> Vec<Result<Carrier, RunError>> {
        let server = StoreServer::start("127.0.0.1", 0).unwrap();
        let ranks: Vec<_> = (0..2)
            .map(|rank| {
                let port = server.port;
                thread::spawn(move || {
                    let store = Store::connect("127.0.0.1", port, Duration::from_secs(20)).unwrap();
                    let joining = joining(rank, 2, Device::Cuda(0), wanted);
                    joining.form(&store).map(|(_, carrier)| carrier)
                })
            })
            .collect();
        let results = ranks.into_iter().map(|rank| rank.join().unwrap());
        results.collect()
    }

    #[test]
    fn where_nccl_cannot_be_used_gloo_carries_gpus_with_a_warning_on_every_rank() {
        for carrier in form(Backend::Auto) {
            let carrier = carrier.unwrap();
            assert_eq!(carrier.name, "gloo");
            let warning = carrier.warning.unwrap();
            for rank in ["rank 0: ", "rank 1: ", "libmarquee_nccl.so"] {
                assert!(warning.contains(rank), "{warning}");
            }
        }
    }

    #[test]
    fn where_the_job_insists_on_nccl_it_is_refused_with_the_reason() {
        for refused in form(Backend::Nccl) {
            let error = refused.unwrap_err();
            assert_eq!(error.class, FailureClass::DeviceFault);
            assert!(
                error.message.contains("libmarquee_nccl.so"),
                "{}",
                error.message
            );
        }
    }

    #[test]
    fn gloo_by_wish_is_no_reason_to_warn_and_nccl_on_cpus_is_refused() {
        assert!(
            form(Backend::Gloo)
                .into_iter()
                .all(|carrier| carrier.unwrap() == Carrier::GLOO)
        );
        let server = StoreServer::start("127.0.0.1", 0).unwrap();
        let store = Store::connect("127.0.0.1", server.port, Duration::from_secs(20)).unwrap();
        let alone = joining(0, 1, Device::Cpu, Backend::Nccl);
        let error = alone.form(&store).unwrap_err();
        assert_eq!(error.class, FailureClass::UserError);
    }
}
