//! How wrong forecasts of starts were, looked up once a minute for whoever reads one.

use std::time::Duration;

use marquee_store::forecasts;

use super::Pace;
use crate::app::App;
use crate::lifecycle::Result;

/// Forecasts become true or wrong in minutes and hours.
const EVERY: Duration = Duration::from_secs(60);
/// The newest forecasts that are looked at.
const FORECASTS_MAX: u32 = 500;

pub(super) async fn run(app: App) {
    let mut pace = Pace::new("foresight", EVERY);
    loop {
        let pause = pace.after(&round(&app).await);
        tokio::select! {
            () = app.shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn round(app: &App) -> Result<()> {
    let mut conn = app.db.read().await?;
    let accuracy = forecasts::find_accuracy(&mut conn, FORECASTS_MAX, app.clock.now()).await?;
    drop(conn);
    app.index.plays.keep_accuracy(accuracy);
    Ok(())
}
