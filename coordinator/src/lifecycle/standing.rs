//! What an operator decides about a host: a drain, its end, a quarantine, a maintenance window.

use marquee_domain::ids::WorkerId;
use marquee_domain::standing::Standing;
use marquee_store::{events, steering};

use super::{LifecycleError, Result};
use crate::app::App;

/// Changes the standing of the worker of this name that is here or may come back, as `change` says. A standing that
/// cannot be read is replaced. Returns the worker.
pub async fn set_standing(
    app: &App,
    name: &str,
    text: &str,
    caller: &str,
    change: impl FnOnce(&mut Standing) -> std::result::Result<(), String>,
) -> Result<WorkerId> {
    let now = app.clock.now();
    let mut tx = app.db.write_as("standing", caller).await?;
    let named = steering::list_workers_named(&mut tx, name).await?;
    let Some((worker, standing)) = named.into_iter().next() else {
        return Err(LifecycleError::WorkerNotFound(name.to_owned()));
    };
    let mut standing = standing.unwrap_or_default();
    change(&mut standing)
        .map_err(|why| LifecycleError::BadSetting(format!("worker {name}: {why}")))?;
    steering::mark_standing(&mut tx, worker, &standing).await?;
    let jobs = app.index.open().staying_on(worker);
    for job in jobs {
        // Whoever asks why the job moved, or why it alone still runs there, finds it in its history.
        let attempt = app.index.open().job(job).map_or(0, |known| known.attempt);
        let text = format!("worker {name} {text}");
        events::insert_event_by(&mut tx, job, attempt, &text, caller, now).await?;
    }
    tx.commit().await?;
    tracing::info!(%worker, name, caller, "worker {text}");
    app.workers_changed();
    Ok(worker)
}
