//! What every stage of a rank's life works with: its rank, its way to report, and what interrupts it.
//! The stages themselves are `life`, `prepare` and `follow` beside this file.

use std::sync::Arc;
use std::time::Duration;

use marquee_domain::FailureClass;
use marquee_domain::failure::Failure;
use marquee_domain::spec::{JobSpec, Work};
use marquee_proto::v1::report::Body;
use tracing::warn;

use super::held::{HeldRank, Host};
use super::pump::{Cursor, own_line};
use super::{StartOrder, StopOrder};
use crate::blocking::blocking;
use crate::fault::is_full;

/// Wait before the next try when the spool cannot be written, as on a full disk.
pub(super) const DISK_RETRY: Duration = Duration::from_secs(1);

/// A disk with less than this left counts as full.
pub(super) const DISK_LOW_BYTES: u64 = 8 * 1024 * 1024;

/// Works for one rank.
#[derive(Debug, Clone)]
pub struct RankTask {
    pub host: Arc<Host>,
    pub rank: Arc<HeldRank>,
}

/// Why a rank's work ended before its time.
#[derive(Debug)]
pub(super) enum Interrupt {
    Stopped,
    Failed(Failure),
}

/// A fault of this host rather than of the job: another try may fare better.
pub(super) fn local_fault(message: &str) -> Interrupt {
    Interrupt::Failed(Failure {
        class: FailureClass::Crash,
        message: message.to_owned(),
    })
}

/// A fault of this host's disk.
pub(super) fn disk_fault(what: &str, error: &std::io::Error) -> Interrupt {
    if is_full(error) {
        return Interrupt::Failed(Failure {
            class: FailureClass::DiskFull,
            message: format!("{what}: {error}; make room on the worker's disk"),
        });
    }
    local_fault(&format!("{what}: {error}"))
}

/// The last that a child said, read and not yet spooled: it goes with the rank's last report, in one
/// write to the disk and one message. A daemon that is killed before reads it again.
#[derive(Debug, Default)]
pub(super) struct Unsaid {
    pub(super) bodies: Vec<Body>,
    /// Where reading goes on behind it.
    pub(super) cursor: Option<Cursor>,
}

/// The program that does a work, for messages.
pub(super) fn program(work: &Work) -> &str {
    match work {
        Work::Fetch(_) | Work::Preprocess(_) => "marquee-prep",
        Work::Train(_) | Work::Eval(_) => "marquee-trainer",
        Work::Command(command) => command.argv.first().map_or("", String::as_str),
    }
}

impl RankTask {
    pub(super) fn spec(&self) -> Result<Arc<JobSpec>, Interrupt> {
        let cannot = |why: &str| {
            let version = env!("CARGO_PKG_VERSION");
            local_fault(&format!(
                "worker version {version} cannot read the assignment: {why}; give all hosts the coordinator's version"
            ))
        };
        if let Some(refusal) = &self.rank.refusal {
            return Err(Interrupt::Failed(refusal.clone()));
        }
        if let Some(problem) = &self.rank.assignment.problem {
            return Err(cannot(problem));
        }
        self.rank.spec.clone().map_err(|why| cannot(&why))
    }

    /// Bytes that the disk of the data folder has left. None where it does not say.
    pub(super) fn disk_room(&self) -> Option<u64> {
        let disk = rustix::fs::statvfs(&self.host.config.data_dir).ok()?;
        Some(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    /// A line of the worker's own in the rank's log, where the disk has room for it.
    pub(super) async fn note(&self, text: &str) {
        let _said = self.try_spool(vec![own_line(text)], |_| {}).await;
    }

    /// Spools what was read of a child before something that takes its time. Where the disk has no room, it
    /// waits for the rank's last report, which has room of its own.
    pub(super) async fn say(&self, unsaid: &mut Unsaid) {
        let Some(cursor) = unsaid.cursor.clone() else {
            return;
        };
        // Without anything new there is nothing to write: a write to the spool waits for the disk.
        let is_new = !unsaid.bodies.is_empty() || *self.rank.spool().cursor() != cursor;
        let said = !is_new
            || self
                .try_spool(unsaid.bodies.clone(), move |current| {
                    current.clone_from(&cursor)
                })
                .await;
        if said {
            *unsaid = Unsaid::default();
        }
    }

    /// Spools, or not: whether it did.
    pub(super) async fn try_spool(
        &self,
        bodies: Vec<Body>,
        change: impl FnOnce(&mut Cursor) + Send + 'static,
    ) -> bool {
        let (rank, host) = (Arc::clone(&self.rank), Arc::clone(&self.host));
        match blocking(move || rank.report(&host, bodies, change)).await {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => {
                warn!(rank = %self.rank.key, %error, "a report cannot be spooled");
            }
            Err(join) => warn!(rank = %self.rank.key, error = %join, "spooling failed"),
        }
        false
    }

    /// Spools, and waits for as long as the disk refuses.
    pub(super) async fn spool_surely(
        &self,
        bodies: Vec<Body>,
        change: impl Fn(&mut Cursor) + Clone + Send + 'static,
    ) {
        while !self.try_spool(bodies.clone(), change.clone()).await {
            tokio::time::sleep(DISK_RETRY).await;
        }
    }

    /// Waits until the rank is told to start.
    pub(super) async fn start_ordered(&self) -> StartOrder {
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

    pub(super) async fn unless_stopped<T>(
        &self,
        work: impl Future<Output = Result<T, Interrupt>>,
    ) -> Result<T, Interrupt> {
        tokio::select! {
            // An order goes before work that is done in the same moment.
            biased;
            _ = self.stop_ordered() => Err(Interrupt::Stopped),
            result = work => result,
        }
    }
}
