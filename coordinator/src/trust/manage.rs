//! Workers that joined, as whoever runs the cluster wants them: out, under another name, or gone.

use marquee_proto::error::ErrorCode;
use marquee_store::audit;
use marquee_store::trust::{self, Member, Revoked};
use marquee_store::workers::{self, WorkerState};
use marquee_store::{StoreError, Tx};
use tonic::Status;

use super::belonging::revocation;
use crate::app::App;
use crate::lifecycle::{self, LifecycleError};

async fn locked(tx: &mut Tx, name: &str) -> Result<Member, LifecycleError> {
    let member = trust::lock_member(tx, name).await?;
    member.ok_or_else(|| LifecycleError::NoMember(name.to_owned()))
}

/// Shuts a worker out: its session ends, and what it ran is placed elsewhere, as with one that was lost.
pub(crate) async fn revoke(
    app: &App,
    name: &str,
    reason: String,
    caller: &str,
) -> Result<Member, LifecycleError> {
    let revoked = Revoked {
        at: app.clock.now(),
        by: caller.to_owned(),
        reason,
    };
    let mut tx = app.db.write("revoke worker").await?;
    // Said before anything is changed: the triggers write it beside each line.
    audit::act_as(&mut tx, caller).await?;
    let member = locked(&mut tx, name).await?;
    trust::mark_member_revoked(&mut tx, member.worker, &revoked).await?;
    let was_here = workers::mark_worker_gone(&mut tx, member.worker, WorkerState::Lost).await?;
    let jobs = workers::list_worker_jobs(&mut tx, member.worker).await?;
    tx.commit().await?;
    let why = revocation(name, &revoked.reason);
    // Out of the tables first and then out of its session: it cannot come back in between.
    app.sessions
        .expel(member.worker, ErrorCode::WorkerRevoked.status(why));
    tracing::warn!(worker = %member.worker, name, caller, was_here, jobs = jobs.len(), "a worker was revoked");
    app.workers_changed();
    // What this does not reach, the attempts loop will.
    lifecycle::advance(app, &jobs).await?;
    Ok(Member {
        revoked: member.revoked.or(Some(revoked)),
        ..member
    })
}

/// Gives a worker another name. Its daemon comes back at once, under that one.
pub(crate) async fn rename(
    app: &App,
    name: &str,
    new_name: String,
    caller: &str,
) -> Result<Member, LifecycleError> {
    let mut tx = app.db.write("rename worker").await?;
    audit::act_as(&mut tx, caller).await?;
    let member = locked(&mut tx, name).await?;
    let others = trust::list_known(&mut tx, None, &new_name).await?;
    if others
        .iter()
        .any(|other| other.is_owned && other.worker != member.worker)
    {
        return Err(StoreError::WorkerNameTaken(new_name).into());
    }
    trust::rename_member(&mut tx, member.worker, &new_name).await?;
    tx.commit().await?;
    let again = format!("this worker is called {new_name:?} from now on; connect again");
    app.sessions.expel(member.worker, Status::aborted(again));
    tracing::info!(worker = %member.worker, name, new_name, caller, "a worker was renamed");
    app.workers_changed();
    Ok(Member {
        name: new_name,
        ..member
    })
}

/// Removes a worker that is revoked or not here.
pub(crate) async fn forget(app: &App, name: &str, caller: &str) -> Result<Member, LifecycleError> {
    let mut tx = app.db.write("forget worker").await?;
    audit::act_as(&mut tx, caller).await?;
    let member = locked(&mut tx, name).await?;
    let online = workers::list_online_workers(&mut tx).await?;
    if online.iter().any(|(worker, _)| *worker == member.worker) {
        // By the rows, not by the sessions of this process: a worker may be at another coordinator's until
        // its lease is over.
        return Err(LifecycleError::StillHere(name.to_owned()));
    }
    let jobs = workers::list_worker_jobs(&mut tx, member.worker).await?;
    trust::delete_member(&mut tx, member.worker).await?;
    tx.commit().await?;
    tracing::info!(worker = %member.worker, name, caller, "a worker was forgotten");
    app.workers_changed();
    lifecycle::advance(app, &jobs).await?;
    Ok(member)
}
