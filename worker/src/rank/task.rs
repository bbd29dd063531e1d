//! A rank's life, from its assignment to its last report. The same path is walked again after a
//! restart of the daemon: each step looks at what is on the disk first.

use std::sync::Arc;

use marquee_domain::artifact::Manifest;
use marquee_domain::failure::Failure;
use marquee_domain::job::RankState;
use marquee_domain::spec::{JobKind, JobSpec, Work};
use marquee_domain::{FailureClass, Rendezvous};
use marquee_proto::v1;
use marquee_proto::v1::report::Body;
use serde_json::Value;
use tracing::{info, warn};

use super::environment::ChildPlan;
use super::held::{HeldRank, Host};
use super::prepare::{Inputs, free_port};
use super::pump::Stdout;
use super::verdict::{Ending, judge};
use super::{StartOrder, StopCause, StopOrder};
use crate::durable;
use crate::process::kept::{Kept, Launch};
use crate::transfer::{TransferError, is_disk_full};

/// Works for one rank.
#[derive(Debug, Clone)]
pub struct RankTask {
    pub host: Arc<Host>,
    pub rank: Arc<HeldRank>,
}

/// How a rank's task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// The last report is spooled.
    Reported,
    /// Nothing of the rank is left and nobody wants to hear of it.
    Forget,
}

/// Why a rank's work ended before its time.
#[derive(Debug)]
pub(super) enum Interrupt {
    Stopped,
    Failed(Failure),
}

/// What a rank that did its work has to show.
struct Done {
    summary: Value,
    output: Option<Manifest>,
}

/// A fault of this host rather than of the job: another try may fare better.
pub(super) fn local_fault(message: &str) -> Interrupt {
    Interrupt::Failed(Failure {
        class: FailureClass::Crash,
        message: message.to_owned(),
    })
}

impl RankTask {
    /// Walks the rank to its end.
    pub async fn run(self) -> Closed {
        if self.rank.state().has_ended() {
            self.rank.release_inputs();
            return Closed::Reported;
        }
        let end = self.live().await;
        self.close(end).await
    }

    async fn live(&self) -> Result<Done, Interrupt> {
        let spec = self.spec()?;
        let kept = match self.find_child()? {
            Some(kept) => kept,
            None => {
                let inputs = self.unless_stopped(self.prepare(&spec)).await?;
                let start = self
                    .unless_stopped(async { Ok(self.start_ordered().await) })
                    .await?;
                self.launch(&spec, inputs, start)?
            }
        };
        let stdout = match spec.work.kind() {
            JobKind::Command => Stdout::Log,
            JobKind::Fetch | JobKind::Preprocess | JobKind::Train | JobKind::Eval => Stdout::Events,
        };
        let exit = self.follow(kept, stdout).await?;
        if self.rank.orders().borrow().stop.is_some() {
            return Err(Interrupt::Stopped);
        }
        let cursor = self.rank.spool().cursor().clone();
        if cursor.dropped_bytes > 0 {
            self.note(&format!(
                "{} bytes of this rank's log were dropped",
                cursor.dropped_bytes
            ))
            .await;
        }
        let ending = Ending {
            kind: spec.work.kind(),
            program: program(&spec.work),
            exit,
            word: cursor.word,
            stderr_tail: &self.stderr_tail(),
        };
        let summary = judge(&ending).map_err(Interrupt::Failed)?;
        let output = self.unless_stopped(self.store_output()).await?;
        Ok(Done { summary, output })
    }

    pub(super) fn spec(&self) -> Result<JobSpec, Interrupt> {
        let cannot = |why: &str| {
            let version = env!("CARGO_PKG_VERSION");
            local_fault(&format!(
                "worker version {version} cannot read the assignment: {why}; give all hosts the coordinator's version"
            ))
        };
        if let Some(problem) = &self.rank.assignment.problem {
            return Err(cannot(problem));
        }
        serde_json::from_str(&self.rank.assignment.spec_json).map_err(|e| cannot(&e.to_string()))
    }

    /// The child that an earlier daemon started, if it did.
    fn find_child(&self) -> Result<Option<Kept>, Interrupt> {
        if self.rank.boot != self.host.boot {
            let message = format!(
                "host {} was restarted while it held the rank",
                self.host.inventory.hostname
            );
            return Err(Interrupt::Failed(Failure {
                class: FailureClass::LostWorker,
                message,
            }));
        }
        if self.rank.is_new || self.rank.orders().borrow().start.is_none() {
            return Ok(None);
        }
        let found = Kept::find(self.rank.dir.path());
        let found =
            found.map_err(|e| local_fault(&format!("the rank's child cannot be found: {e}")))?;
        if found.is_some() {
            info!(rank = %self.rank.key, "taking over a child that an earlier daemon started");
        }
        Ok(found)
    }

    async fn prepare(&self, spec: &JobSpec) -> Result<Inputs, Interrupt> {
        let inputs = self.fetch_inputs().await?;
        if self.rank.state() >= RankState::Prepared {
            return Ok(inputs);
        }
        self.make_folders(spec.work.kind())?;
        if self.rank.assignment.start {
            // Nobody waits to hear that it is prepared.
            return Ok(inputs);
        }
        let rendezvous = self
            .host_rendezvous(spec.work.kind())
            .await?
            .map(v1::Rendezvous::from);
        self.spool_surely(
            vec![Body::Prepared(v1::RankPrepared { rendezvous })],
            |_| {},
        )
        .await;
        Ok(inputs)
    }

    fn launch(&self, spec: &JobSpec, inputs: Inputs, start: StartOrder) -> Result<Kept, Interrupt> {
        let fault = |e: std::io::Error| local_fault(&format!("the child cannot be started: {e}"));
        let rendezvous = match start.rendezvous {
            Some(rendezvous) => rendezvous,
            None => alone().map_err(fault)?,
        };
        let plan = ChildPlan {
            assignment: &self.rank.assignment,
            spec,
            inventory: &self.host.inventory,
            dir: &self.rank.dir,
            bin_dir: &self.host.config.bin_dir,
            inputs: inputs.folders,
            resume: inputs.resume,
            rendezvous,
            standby: start.standby,
        };
        if let Some(child_spec) = plan.child_spec() {
            durable::write_json(&self.rank.dir.spec(), &child_spec).map_err(fault)?;
        }
        info!(rank = %self.rank.key, job = %spec.name, program = program(&spec.work), "starting the child");
        Kept::start(&Launch {
            dir: self.rank.dir.path(),
            work_dir: &self.rank.dir.work(),
            argv: plan.argv(),
            env: plan.variables(),
        })
        .map_err(fault)
    }

    /// Stores the job's output. The first rank's alone counts.
    async fn store_output(&self) -> Result<Option<Manifest>, Interrupt> {
        if !self.rank.spool().cursor().is_first(self.rank.key.rank) {
            return Ok(None);
        }
        let stored = self.host.transfers.upload(&self.rank.dir.output()).await;
        stored.map(Some).map_err(|error| {
            let class = match &error {
                TransferError::NotAFile { .. }
                | TransferError::Name { .. }
                | TransferError::Manifest(_)
                | TransferError::TooLong { .. } => FailureClass::UserError,
                TransferError::Disk { .. } if is_disk_full(&error) => FailureClass::OutOfMemory,
                TransferError::Disk { .. } | TransferError::Damaged { .. } => FailureClass::Crash,
                TransferError::Refused { .. } => FailureClass::Network,
            };
            Interrupt::Failed(Failure {
                class,
                message: format!("the output cannot be stored: {error}"),
            })
        })
    }

    /// The rank's last report, when nothing of it runs any more.
    async fn close(&self, end: Result<Done, Interrupt>) -> Closed {
        if end.is_err() {
            self.stop_store().await;
        }
        self.rank.release_inputs();
        let cause = self
            .rank
            .orders()
            .borrow()
            .stop
            .as_ref()
            .map(|stop| stop.cause);
        let body = match (cause, end) {
            (Some(StopCause::Forget), _) => return Closed::Forget,
            (Some(StopCause::Coordinator), _) => Body::Stopped(v1::RankStopped {}),
            (Some(StopCause::Shutdown), _) => {
                let message = format!("worker {:?} was shut down", self.host.config.name);
                failed(Failure {
                    class: FailureClass::LostWorker,
                    message,
                })
            }
            (None, Ok(done)) => Body::Finished(v1::RankFinished {
                summary_json: done.summary.to_string(),
                output: done.output.as_ref().map(v1::Manifest::from),
            }),
            (None, Err(Interrupt::Failed(failure))) => {
                warn!(rank = %self.rank.key, class = failure.class.as_str(), cause = %failure.message, "the rank failed");
                failed(failure)
            }
            // Only an order interrupts, and orders are not taken back.
            (None, Err(Interrupt::Stopped)) => Body::Stopped(v1::RankStopped {}),
        };
        self.spool_surely(vec![body], |_| {}).await;
        info!(rank = %self.rank.key, state = self.rank.state().as_str(), "the rank has ended");
        Closed::Reported
    }

    /// Waits until the rank is told to start.
    async fn start_ordered(&self) -> StartOrder {
        let mut orders = self.rank.orders();
        loop {
            if let Some(start) = &orders.borrow_and_update().start {
                return start.clone();
            }
            if orders.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until the rank is told to stop.
    pub(super) async fn stop_ordered(&self) -> StopOrder {
        let mut orders = self.rank.orders();
        loop {
            if let Some(stop) = &orders.borrow_and_update().stop {
                return stop.clone();
            }
            if orders.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    async fn unless_stopped<T>(
        &self,
        work: impl Future<Output = Result<T, Interrupt>>,
    ) -> Result<T, Interrupt> {
        tokio::select! {
            biased;
            _ = self.stop_ordered() => Err(Interrupt::Stopped),
            result = work => result,
        }
    }
}

/// A rendezvous for a world of one: scripts for torchrun want it all the same.
fn alone() -> std::io::Result<Rendezvous> {
    const LOOPBACK: &str = "127.0.0.1";
    Ok(Rendezvous {
        host: LOOPBACK.to_owned(),
        port: free_port(LOOPBACK)?,
    })
}

fn failed(failure: Failure) -> Body {
    Body::Failed(v1::RankFailed {
        failure: Some(failure.into()),
    })
}

fn program(work: &Work) -> &str {
    match work {
        Work::Fetch(_) | Work::Preprocess(_) => "marquee-prep",
        Work::Train(_) | Work::Eval(_) => "marquee-trainer",
        Work::Command(command) => command.argv.first().map_or("", String::as_str),
    }
}
