//! A rank's life, from its assignment to its last report. The same path is walked again after a
//! restart of the daemon: each step looks at what is on the disk first.

use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use marquee_domain::artifact::Manifest;
use marquee_domain::failure::Failure;
use marquee_domain::job::RankState;
use marquee_domain::spec::{JobKind, JobSpec};
use marquee_domain::{FailureClass, Rendezvous};
use marquee_proto::v1;
use marquee_proto::v1::report::Body;
use serde_json::Value;
use tracing::{info, warn};

use super::classify::{Ending, judge};
use super::environment::ChildPlan;
use super::furnish;
use super::prepare::Inputs;
use super::pump::{Stdout, own_line};
use super::stall::Watched;
use super::task::{DISK_LOW_BYTES, Interrupt, RankTask, Unsaid, local_fault, program};
use super::walls::Walls;
use super::{StartOrder, StopCause, StopOrder};
use crate::blocking::blocking;
use crate::durable;
use crate::process::fence;
use crate::process::launcher::{Child, Exit, Launch};

/// How a rank's task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// The last report is spooled.
    Reported,
    /// Nothing of the rank is left and nobody wants to hear of it.
    Forget,
}

/// What a rank that did its work has to show.
struct Done {
    summary: Value,
    output: Option<Manifest>,
}

impl RankTask {
    /// Walks the rank to its end.
    pub async fn run(self) -> Closed {
        if self.rank.state().has_ended() {
            self.rank.release_inputs();
            return Closed::Reported;
        }
        let mut unsaid = Unsaid::default();
        let end = self.live(&mut unsaid).await;
        self.close(end, unsaid).await
    }

    async fn live(&self, unsaid: &mut Unsaid) -> Result<Done, Interrupt> {
        let spec = self.spec()?;
        let child = match self.find_child()? {
            Some(child) => child,
            None => {
                let inputs = self.unless_stopped(self.prepare(&spec)).await?;
                let start = self.unless_stopped(async {
                    let start = self.start_ordered().await;
                    let devices = &self.rank.assignment.devices;
                    self.host.occupied.enter(self.rank.key, devices).await;
                    Ok(start)
                });
                let start = start.await?;
                self.launch(&spec, inputs, start).await?
            }
        };
        let stdout = match spec.work.kind() {
            JobKind::Command => Stdout::Log,
            JobKind::Fetch | JobKind::Preprocess | JobKind::Train | JobKind::Eval => Stdout::Events,
        };
        let watched = Watched::new(spec.watch, Some(spec.work.kind()));
        let followed = self.follow(child, stdout, watched, unsaid).await;
        self.rank.set_stalled(None);
        // Now, as the child left it: room that comes from here on would hide what it failed for.
        let disk_room = self.disk_room();
        let exit = match followed {
            // An order that came meanwhile goes before what it died of.
            Err(_) if self.rank.orders().borrow().stop.is_some() => return Err(Interrupt::Stopped),
            followed => followed?,
        };
        if self.rank.orders().borrow().stop.is_some() {
            return Err(Interrupt::Stopped);
        }
        let cursor = match &unsaid.cursor {
            Some(cursor) => cursor.clone(),
            None => self.rank.spool().cursor().clone(),
        };
        if cursor.dropped_bytes > 0 {
            let dropped = cursor.dropped_bytes;
            let note = own_line(&format!("{dropped} bytes of this rank's log were dropped"));
            unsaid.bodies.push(note);
        }
        if let Some(why) = &cursor.breach {
            return Err(self.broken(why));
        }
        let hint = match exit {
            Some(Exit::Code(0)) => None,
            Some(_) | None => self.hint(spec.work.kind()),
        };
        let ending = Ending {
            kind: spec.work.kind(),
            program: program(&spec.work),
            exit,
            word: cursor.word.clone(),
            stderr_tail: &self.stderr_tail(),
            full_disk: disk_room
                .filter(|bytes| *bytes < DISK_LOW_BYTES)
                .map(|_| self.host.config.data_dir.as_path()),
            hint,
        };
        let summary = judge(&ending).map_err(Interrupt::Failed)?;
        let is_first = cursor.is_first(self.rank.key.rank);
        let output = if is_first && !self.has_nothing_to_store(spec.work.kind()) {
            // An upload may take long, and what the child said is not to wait for it.
            unsaid.cursor.get_or_insert(cursor);
            self.say(unsaid).await;
            match self.unless_stopped(self.store_output()).await {
                Ok(output) => Some(output),
                Err(interrupt) => return Err(self.keep_output(interrupt).await),
            }
        } else {
            None
        };
        Ok(Done { summary, output })
    }

    /// What a job should know whose program was refused a file.
    fn hint(&self, kind: JobKind) -> Option<&'static str> {
        let env = self.host.base_env.own();
        let home = env.get(OsStr::new("HOME")).map(OsString::as_os_str);
        let of_walls = Walls::of(&self.host.config, home).hint();
        let is_caged = self.host.cages_for(kind).is_some();
        of_walls
            .filter(|_| fence::version().is_some())
            .or_else(|| is_caged.then_some(furnish::HINT))
    }

    /// The child that an earlier daemon started, if it did.
    fn find_child(&self) -> Result<Option<Box<dyn Child>>, Interrupt> {
        // Of another boot nothing can run any more, and who has its process's number now is somebody else.
        let is_of_this_boot = self.rank.boot == self.host.boot;
        #[cfg(feature = "planted")]
        let is_of_this_boot = is_of_this_boot || marquee_domain::planted::is("boot-not-compared");
        if !is_of_this_boot && self.host.host_was_stopped {
            self.rank.order_stop(StopOrder {
                grace_ms: 0,
                reason: format!(
                    "host {} was stopped in order and booted again",
                    self.host.inventory.hostname
                ),
                cause: StopCause::HostUpgraded,
            });
            return Err(Interrupt::Stopped);
        }
        if !is_of_this_boot {
            let message = format!(
                "host {} was restarted while it held the rank",
                self.host.inventory.hostname
            );
            return Err(Interrupt::Failed(Failure {
                class: FailureClass::LostWorker,
                message,
            }));
        }
        // The order to start is on the disk before it is followed: without one nothing was launched.
        if self.rank.is_new || self.rank.orders().borrow().start.is_none() {
            return Ok(None);
        }
        #[cfg(feature = "planted")]
        if marquee_domain::planted::is("children-not-adopted") {
            return Ok(None);
        }
        let found = self.host.env.launcher.adopt(self.rank.dir.path());
        let found =
            found.map_err(|e| local_fault(&format!("the rank's child cannot be found: {e}")))?;
        if found.is_some() {
            info!(rank = %self.rank.key, "taking over a child that an earlier daemon started");
            let devices = &self.rank.assignment.devices;
            self.host.occupied.take_over(self.rank.key, devices);
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

    async fn launch(
        &self,
        spec: &JobSpec,
        inputs: Inputs,
        start: StartOrder,
    ) -> Result<Box<dyn Child>, Interrupt> {
        let fault = |e: std::io::Error| local_fault(&format!("the child cannot be started: {e}"));
        let rendezvous = match start.rendezvous {
            Some(rendezvous) => rendezvous,
            None => self.alone().map_err(fault)?,
        };
        let kind = spec.work.kind();
        let (cached, cached_resume) = (inputs.folders, inputs.resume);
        let (folders, resume) = match self.host.cages_for(kind) {
            Some(_) => (
                furnish::places(&self.rank.dir, &cached),
                cached_resume
                    .is_some()
                    .then(|| furnish::checkpoint(&self.rank.dir)),
            ),
            None => (cached.clone(), cached_resume.clone()),
        };
        let plan = ChildPlan {
            assignment: &self.rank.assignment,
            spec,
            inventory: &self.host.inventory,
            dir: &self.rank.dir,
            bin_dir: &self.host.config.bin_dir,
            inputs: folders.clone(),
            resume,
            rendezvous,
            standby: start.standby,
        };
        let (child_spec, argv) = (plan.child_spec(), plan.argv());
        let has_channel = child_spec.is_some();
        let handed = self.unless_stopped(self.take_secrets(spec)).await?;
        let env = self
            .host
            .base_env
            .for_child(spec, &handed, plan.variables());
        let mut env = env.map_err(Interrupt::Failed)?;
        info!(rank = %self.rank.key, job = %spec.name, program = program(&spec.work), "starting the child");
        let (rank, host) = (Arc::clone(&self.rank), Arc::clone(&self.host));
        let project = spec.sharing.project.clone();
        let start = move || {
            let caged = host
                .cages_for(kind)
                .map(|cages| {
                    furnish::furnish(cages, &project, &rank.dir, kind, rank.assignment.key)
                })
                .transpose()?;
            if let Some(caged) = &caged {
                durable::replace_json(&rank.dir.cage(), &caged.cage)?;
                let resume = cached_resume.as_deref();
                furnish::link(&rank.dir, &rank.assignment, &cached, resume)?;
                caged.name(&host.base_env.own(), &mut env);
            }
            // Whose code it is: ours runs as ever, unless it shares an account with strangers'.
            let fence = if kind == JobKind::Command || caged.is_some() {
                let home = env.get(OsStr::new("HOME")).map(OsString::as_os_str);
                let walls = Walls::of(&host.config, home);
                let own_home = caged.as_ref().map(|caged| caged.home.as_path());
                walls.fence(
                    &host.config.data_dir,
                    &rank.dir,
                    &folders,
                    caged.as_ref().map(|caged| &caged.cage),
                    own_home,
                    &mut env,
                )?
            } else {
                None
            };
            if let Some(child_spec) = child_spec {
                durable::replace_json_for_child(&rank.dir.spec(), &child_spec)?;
            }
            host.env.launcher.start(&Launch {
                dir: rank.dir.path(),
                work_dir: &rank.dir.work(),
                argv,
                env,
                events: has_channel,
                fence,
                cage: caged.map(|caged| caged.cage),
                tasks_max: host.config.tasks_max,
            })
        };
        let started = blocking(start).await;
        started
            .map_err(std::io::Error::other)
            .flatten()
            .map_err(fault)
    }

    /// A rendezvous for a world of one: scripts for torchrun want it all the same.
    fn alone(&self) -> std::io::Result<Rendezvous> {
        const LOOPBACK: &str = "127.0.0.1";
        Ok(Rendezvous {
            host: LOOPBACK.to_owned(),
            port: self.host.env.machine.free_port(LOOPBACK)?,
        })
    }

    /// The rank's last report, when nothing of it runs any more.
    async fn close(&self, end: Result<Done, Interrupt>, unsaid: Unsaid) -> Closed {
        // Its peers would wait at this store for a rank that does not come. One that did its work leaves it
        // to them for a while.
        if end.is_err() {
            self.stop_store().await;
        }
        self.rank.release_inputs();
        // Before its last report, which the next rank on these devices may follow at once.
        self.host.occupied.leave(self.rank.key);
        let stop = self.rank.orders().borrow().stop.clone();
        let body = match (stop, end) {
            (Some(stop), _) if stop.cause == StopCause::Forget => return Closed::Forget,
            // Nothing went wrong with it.
            (Some(stop), _) => stopped(stop),
            (None, Ok(done)) => Body::Finished(v1::RankFinished {
                summary_json: done.summary.to_string(),
                output: done.output.as_ref().map(v1::Manifest::from),
            }),
            (None, Err(Interrupt::Failed(failure))) => {
                warn!(rank = %self.rank.key, class = failure.class.as_str(), cause = %failure.message, "the rank failed");
                failed(failure)
            }
            // Only an order interrupts, and orders are not taken back.
            (None, Err(Interrupt::Stopped)) => Body::Stopped(v1::RankStopped::default()),
        };
        let Unsaid { mut bodies, cursor } = unsaid;
        bodies.push(body);
        let change = move |current: &mut _| {
            if let Some(cursor) = &cursor {
                Clone::clone_from(current, cursor);
            }
        };
        self.spool_surely(bodies, change).await;
        info!(rank = %self.rank.key, state = self.rank.state().as_str(), "the rank has ended");
        Closed::Reported
    }
}

/// The last report of a rank that was told to stop.
fn stopped(stop: StopOrder) -> Body {
    let interruption = stop.cause.interruption();
    Body::Stopped(v1::RankStopped {
        cause: interruption.map_or_else(String::new, |cause| cause.as_str().to_owned()),
        reason: interruption.map_or_else(String::new, |_| stop.reason),
    })
}

fn failed(failure: Failure) -> Body {
    Body::Failed(v1::RankFailed {
        failure: Some(failure.into()),
    })
}
