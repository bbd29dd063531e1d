//! All of Marquee on one machine: a coordinator and workers as child processes of this one.
//!
//! Invariant: whatever ends this process, nothing of it stays. In order: workers get TERM (and stop
//! what they run), then the coordinator (and its Postgres), each KILL after a written limit. Ended
//! with KILL itself, it cannot send TERM any more: the kernel does (`launch`). Processes whose parent
//! crashed become children of this one, and it ends them too (`orphans`).

pub(crate) mod launch;
mod layout;
mod options;
mod orphans;
mod program;
mod ready;

use std::time::Duration;

use anyhow::anyhow;
use marquee_domain::limits;
use tokio::signal::unix::{SignalKind, signal};

use crate::context::Place;
use crate::error::Result;
use crate::say::say;
use crate::signals::Signals;

pub(crate) use layout::{Layout, free_port};
pub(crate) use options::ClusterOptions;
pub(crate) use program::{Program, beside_us};

/// A worker first stops its children, who may write a checkpoint; then it says goodbye.
const WORKER_STOP: Duration = limits::STOP_GRACE.saturating_add(Duration::from_secs(10));
/// The coordinator ends its streams and then its Postgres (a shutdown checkpoint on a slow disk).
const COORDINATOR_STOP: Duration = Duration::from_secs(30);
/// A daemon that ends by itself is started again, but not more often than this ...
const RESTARTS_MAX: usize = 5;
/// ... within this time: then something is wrong that starting again does not mend.
const RESTARTS_WITHIN: Duration = Duration::from_secs(60);
/// Before each new start.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// The processes.
#[derive(Debug)]
pub(crate) struct LocalCluster {
    layout: Layout,
    options: ClusterOptions,
    coordinator: Program,
    workers: Vec<Program>,
    /// Other programs that stop with the cluster, before the coordinator.
    helpers: Vec<Program>,
}

impl LocalCluster {
    /// Prepares folders and command lines; starts nothing.
    pub(crate) fn new(layout: Layout, options: ClusterOptions) -> Result<Self> {
        // Before the first program is started: one that dies at once may already have children.
        orphans::adopt()?;
        let coordinator = layout.coordinator(&options)?;
        let workers = (1..=options.workers).map(|number| layout.worker(&options, number));
        let workers = workers.collect::<Result<_>>()?;
        Ok(Self {
            layout,
            options,
            coordinator,
            workers,
            helpers: Vec::new(),
        })
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(crate) fn options(&self) -> &ClusterOptions {
        &self.options
    }

    /// Where clients on this machine find the coordinator.
    pub(crate) fn addr(&self) -> String {
        let mut addr = self.options.listen;
        if addr.ip().is_unspecified() {
            addr.set_ip(if addr.is_ipv4() {
                std::net::Ipv4Addr::LOCALHOST.into()
            } else {
                std::net::Ipv6Addr::LOCALHOST.into()
            });
        }
        addr.to_string()
    }

    /// The same for [`crate::client::Remote`].
    pub(crate) fn place(&self) -> Place {
        Place::local(&self.addr())
    }

    /// Starts the coordinator, waits until it answers, starts the workers, waits until they are
    /// online. Call [`LocalCluster::stop`] whatever becomes of it.
    pub(crate) async fn start(&mut self) -> Result<()> {
        let place = self.place();
        self.coordinator.start()?;
        let data_dir = self.layout.coordinator_data();
        let cluster = ready::coordinator(&mut self.coordinator, &place, &data_dir).await?;
        for number in 1..=self.options.workers {
            // Before a worker is started: once it runs, it would join whoever answers on the port.
            self.layout.belong(number, &cluster)?;
        }
        for worker in &mut self.workers {
            worker.start()?;
        }
        ready::workers(&mut self.workers, &place).await
    }

    /// Takes over a running program: it will be stopped together with the daemons.
    pub(crate) fn keep(&mut self, helper: Program) {
        self.helpers.push(helper);
    }

    /// Restarts daemons that end by themselves. Returns only with an error: one of them ended too
    /// often. Safe to drop and call again.
    pub(crate) async fn supervise(&mut self) -> Result<std::convert::Infallible> {
        // Before the first look: a daemon that ends between a look and the wait has left its signal
        // here.
        let mut child_ended = signal(SignalKind::child())?;
        loop {
            for program in std::iter::once(&mut self.coordinator).chain(&mut self.workers) {
                let Some(status) = program.ended()? else {
                    continue;
                };
                // Restarting without end would hide what is wrong behind a cluster that looks alive.
                if !program.may_restart(RESTARTS_MAX, RESTARTS_WITHIN) {
                    return Err(anyhow!(
                        "{} ended {RESTARTS_MAX} times within {} s, last with {status}\n{}",
                        program.name(),
                        RESTARTS_WITHIN.as_secs(),
                        program.last_words()
                    )
                    .into());
                }
                say!("{} ended with {status}; starting it again", program.name());
                tokio::time::sleep(RESTART_PAUSE).await;
                program.start()?;
            }
            // The same signal tells of orphans, which nobody else waits for.
            orphans::reap(&self.pids());
            child_ended.recv().await;
        }
    }

    /// Stops everything in order; a second signal kills what is left at once.
    pub(crate) async fn stop(&mut self, signals: &mut Signals) {
        let hurried = tokio::select! {
            () = self.stop_in_order() => false,
            () = signals.next() => true,
        };
        if hurried {
            say!("killing what is left");
            for program in self.all() {
                program.kill().await;
            }
        }
        let pids = self.pids();
        // Those of programs that crashed: they are children of this process by now.
        orphans::end(&pids).await;
        // Last: whoever gets the folder next must find nothing of ours at work in it.
        self.layout.unlock();
    }

    async fn stop_in_order(&mut self) {
        // TERM to all of them first, so that they stop at the same time.
        for program in self.workers.iter_mut().chain(&mut self.helpers) {
            program.terminate();
        }
        for program in self.workers.iter_mut().chain(&mut self.helpers) {
            program.wait_or_kill(WORKER_STOP).await;
        }
        // Last: the workers' goodbyes must be stored, or their jobs would pay for an orderly stop.
        self.coordinator.terminate();
        self.coordinator.wait_or_kill(COORDINATOR_STOP).await;
    }

    fn all(&mut self) -> impl Iterator<Item = &mut Program> {
        self.workers
            .iter_mut()
            .chain(&mut self.helpers)
            .chain(std::iter::once(&mut self.coordinator))
    }

    /// Ids of the child processes that a [`Program`] here waits for.
    fn pids(&self) -> Vec<u32> {
        let all = self
            .workers
            .iter()
            .chain(&self.helpers)
            .chain(std::iter::once(&self.coordinator));
        all.filter_map(Program::pid).collect()
    }
}
