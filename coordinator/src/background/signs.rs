//! Stores the signs of life that workers' heartbeats have left, all together.
//!
//! What is stored is for people to read. Who is lost is judged by what sessions have heard (`leases`).

use marquee_domain::ids::WorkerId;
use marquee_store::StoreError;
use marquee_store::workers;

use super::Pace;
use crate::app::App;
use crate::lifecycle::Result;

pub(super) async fn run(app: App) {
    // Each worker has one sign in this time: more rounds would write more rows and tell nobody more.
    let every = app.settings.heartbeat_every;
    let mut pace = Pace::new("signs of life", every);
    loop {
        let pause = pace.after(&round(&app).await);
        let next = async {
            // The pause first: what is heard during it is stored by the same statement.
            tokio::time::sleep(pause).await;
            app.sessions.signs.some().await;
        };
        tokio::select! {
            () = app.shutdown.cancelled() => return,
            () = next => {}
        }
    }
}

pub(super) async fn round(app: &App) -> Result<()> {
    let heard = app.sessions.signs.take();
    if heard.is_empty() {
        return Ok(());
    }
    match store(app, &heard).await {
        Ok(missing) => {
            for worker in missing {
                // Its row says that it is not here. Its next heartbeat brings it back by itself
                // (`SessionEntry::is_missed`).
                app.sessions.miss(worker);
            }
            Ok(())
        }
        Err(error) => {
            app.sessions.signs.give_back(heard);
            Err(error.into())
        }
    }
}

async fn store(
    app: &App,
    heard: &[(WorkerId, chrono::DateTime<chrono::Utc>)],
) -> std::result::Result<Vec<WorkerId>, StoreError> {
    let mut tx = app.db.write("worker heartbeats").await?;
    let missing = workers::mark_workers_seen(&mut tx, heard).await?;
    tx.commit().await?;
    Ok(missing)
}
