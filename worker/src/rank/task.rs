//! What every stage of a rank's life works with: its rank, its way to report, and what interrupts it.
//! The stages themselves are `life`, `prepare` and `follow` beside this file.

use std::sync::Arc;
use std::time::Duration;

use marquee_domain::FailureClass;
use marquee_domain::failure::Failure;
use marquee_domain::spec::JobSpec;
use marquee_proto::v1::report::Body;
use tracing::warn;

use super::held::{HeldRank, Host};
use super::pump::{Cursor, own_line};
use super::{StartOrder, StopOrder};

/// Wait before the next try when the spool cannot be written, as on a full disk.
pub(super) const DISK_RETRY: Duration = Duration::from_secs(1);

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

/// The last that a child said, read and not yet spooled: it goes with the rank's last report, in one
/// write to the disk and one message. A daemon that is killed before reads it again.
#[derive(Debug, Default)]
pub(super) struct Unsaid {
    pub(super) bodies: Vec<Body>,
    /// Where reading goes on behind it.
    pub(super) cursor: Option<Cursor>,
}

impl RankTask {
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

    /// A line of the worker's own in the rank's log.
    pub(super) async fn note(&self, text: &str) {
        self.spool_surely(vec![own_line(text)], |_| {}).await;
    }

    /// Spools what was read of a child before something that takes its time.
    pub(super) async fn say(&self, unsaid: &mut Unsaid) {
        let Unsaid { bodies, cursor } = std::mem::take(unsaid);
        let Some(cursor) = cursor else { return };
        if !bodies.is_empty() || *self.rank.spool().cursor() != cursor {
            self.spool_surely(bodies, move |current| current.clone_from(&cursor))
                .await;
        }
    }

    /// Spools, and waits for as long as the disk refuses.
    pub(super) async fn spool_surely(
        &self,
        bodies: Vec<Body>,
        change: impl Fn(&mut Cursor) + Clone + Send + 'static,
    ) {
        loop {
            let (rank, host) = (Arc::clone(&self.rank), Arc::clone(&self.host));
            let (bodies, change) = (bodies.clone(), change.clone());
            match tokio::task::spawn_blocking(move || rank.report(&host, bodies, change)).await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => {
                    warn!(rank = %self.rank.key, %error, "a report cannot be spooled; trying again");
                }
                Err(join) => warn!(rank = %self.rank.key, error = %join, "spooling failed"),
            }
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
            biased;
            _ = self.stop_ordered() => Err(Interrupt::Stopped),
            result = work => result,
        }
    }
}
