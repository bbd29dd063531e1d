//! The coordinator's orders, followed in a task of their own: they are written to the disk, and neither
//! reports nor heartbeats are to wait for that.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use marquee_domain::RankKey;
use marquee_proto::v1::coordinator_message::Body as FromCoordinator;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tracing::{error, warn};

use crate::blocking::blocking;
use crate::supervisor::Supervisor;

/// Orders that wait to be followed. While there are so many, no more are read from the stream, and
/// the coordinator waits.
const AHEAD: usize = 256;
/// Orders followed in one turn: a turn is a change of threads.
const TURN: usize = 64;

/// An order.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) body: FromCoordinator,
    /// Of shares of rates: when they run out.
    pub(super) until_ms: u64,
}

/// Where a session's orders go.
#[derive(Debug)]
pub(super) struct Orders {
    queue: mpsc::Sender<Order>,
    task: JoinHandle<()>,
    /// Assignments that were followed.
    assignments: Arc<AtomicU64>,
}

impl Orders {
    pub(super) fn follow(supervisor: Arc<Supervisor>) -> Self {
        let (queue, orders) = mpsc::channel(AHEAD);
        let assignments = Arc::<AtomicU64>::default();
        Self {
            queue,
            task: tokio::spawn(follow(supervisor, orders, assignments.clone())),
            assignments,
        }
    }

    /// How many assignments were followed so far. Their ranks are held, or were not taken.
    pub(super) fn assignments(&self) -> u64 {
        self.assignments.load(Ordering::SeqCst)
    }

    /// Room for one more order; None when nobody follows them any more.
    pub(super) async fn room(&self) -> Option<mpsc::Permit<'_, Order>> {
        self.queue.reserve().await.ok()
    }

    /// Ends when what was given is followed, so that the next session's Hello lists all of it.
    pub(super) async fn finish(self) {
        drop(self.queue);
        if let Err(join) = self.task.await {
            error!(error = %join, "following orders failed");
        }
    }
}

async fn follow(
    supervisor: Arc<Supervisor>,
    mut queue: mpsc::Receiver<Order>,
    assignments: Arc<AtomicU64>,
) {
    let mut turn = Vec::new();
    while queue.recv_many(&mut turn, TURN).await > 0 {
        // Those of one rank in their order; ranks side by side, since disks take many syncs in the
        // time of one.
        let mut chains: BTreeMap<Option<RankKey>, Vec<Order>> = BTreeMap::new();
        let is_assignment = |order: &&Order| matches!(order.body, FromCoordinator::Assign(_));
        let assigned = turn.iter().filter(is_assignment).count() as u64;
        for order in turn.drain(..) {
            chains.entry(chain(&order.body)).or_default().push(order);
        }
        let mut following = JoinSet::new();
        for orders in chains.into_values() {
            let supervisor = Arc::clone(&supervisor);
            following.spawn(blocking(move || {
                orders.into_iter().for_each(|order| one(&supervisor, order));
            }));
        }
        while let Some(followed) = following.join_next().await {
            if let Err(join) = followed.flatten() {
                error!(error = %join, "following an order failed");
            }
        }
        // When all of the turn are followed, not before: by this number the coordinator knows which
        // assignments a list of held ranks accounts for.
        assignments.fetch_add(assigned, Ordering::SeqCst);
    }
}

/// The rank whose orders this one keeps its place among. None for what seldom touches the disk.
fn chain(body: &FromCoordinator) -> Option<RankKey> {
    match body {
        FromCoordinator::Assign(to) => Some(RankKey::new(to.job_id, to.attempt, to.rank)),
        FromCoordinator::Start(to) => Some(RankKey::new(to.job_id, to.attempt, to.rank)),
        FromCoordinator::RanksLost(to) => Some(RankKey::new(to.job_id, to.attempt, to.rank)),
        FromCoordinator::Stop(to) => Some(RankKey::new(to.job_id, to.attempt, to.rank)),
        FromCoordinator::Rescue(to) => Some(RankKey::new(to.job_id, to.attempt, to.rank)),
        FromCoordinator::Ack(_)
        | FromCoordinator::RateShares(_)
        | FromCoordinator::Welcome(_)
        | FromCoordinator::HeartbeatSeen(_)
        | FromCoordinator::Notice(_) => None,
    }
}

/// Follows one. It is repeated with the next heartbeat, so one that cannot be followed ends nothing.
fn one(supervisor: &Arc<Supervisor>, Order { body, until_ms }: Order) {
    let followed: io::Result<()> = match body {
        FromCoordinator::Assign(assign) => supervisor.assign(assign),
        FromCoordinator::Start(start) => supervisor.start(start),
        FromCoordinator::RanksLost(lost) => supervisor.ranks_lost(&lost),
        FromCoordinator::Stop(stop) => {
            supervisor.stop(stop);
            Ok(())
        }
        FromCoordinator::Ack(ack) => {
            let key = RankKey::new(ack.job_id, ack.attempt, ack.rank);
            supervisor.ack(key, ack.sequence);
            Ok(())
        }
        FromCoordinator::RateShares(shares) => supervisor.share_rates(shares.shares, until_ms),
        FromCoordinator::Rescue(rescue) => supervisor.rescue(&rescue),
        // The session's own.
        FromCoordinator::HeartbeatSeen(_) => Ok(()),
        FromCoordinator::Welcome(_) => {
            warn!("a second Welcome was ignored");
            Ok(())
        }
        FromCoordinator::Notice(notice) => {
            warn!(text = ?notice.text, "the coordinator says");
            Ok(())
        }
    };
    if let Err(fault) = followed {
        error!(%fault, "an order of the coordinator cannot be followed");
    }
}
