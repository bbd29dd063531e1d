//! Stores what projects used, once a minute: for a restart, and for whoever looks at the tables.

use std::time::Duration;

use marquee_store::projects;

use super::Pace;
use crate::app::App;
use crate::index::Accounts;
use crate::lifecycle::Result;

/// A write a minute, however many jobs run; a killed coordinator forgets as much of what had ended.
const EVERY: Duration = Duration::from_secs(60);

pub(super) async fn run(app: App) {
    let mut pace = Pace::new("accounts", EVERY);
    loop {
        tokio::select! {
            () = app.shutdown.cancelled() => {
                // What is lost now nobody counts again. Postgres may be gone already, which is no error.
                let _ = round(&app).await;
                return;
            }
            () = tokio::time::sleep(pace.every) => {}
        }
        let pause = pace.after(&round(&app).await);
        if pause < EVERY {
            tokio::time::sleep(pause).await;
        }
    }
}

pub(super) async fn round(app: &App) -> Result<()> {
    let now = app.clock.now();
    // The index is let go before anything is written: rounds are planned under its lock.
    let unsaved = {
        let mut open = app.index.open();
        open.accounts.count_to(now);
        open.accounts.unsaved()
    };
    let Some((used, counted_to)) = unsaved else {
        return Ok(());
    };
    let mut tx = app.db.write("accounts").await?;
    projects::mark_used(&mut tx, &used, Accounts::keep_from(now), counted_to).await?;
    tx.commit().await?;
    // After the commit: what could not be stored is written again next time.
    app.index.open().accounts.saved(&used);
    Ok(())
}
