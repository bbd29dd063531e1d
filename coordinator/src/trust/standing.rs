//! What each worker believes and shows, as it says when it asks for the authorities; and what there is to tell it.

use std::time::Duration;

use marquee_domain::ids::WorkerId;
use marquee_proto::certificate::bundle;
use marquee_proto::error::ErrorCode;
use marquee_store::rotation;
use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, timeout_at};
use tonic::Status;

use super::authority::Bundle;
use super::tokens;
use crate::app::App;
use crate::lifecycle::LifecycleError;
use marquee_domain::join_token::hex;

/// What a worker says of itself when it asks.
#[derive(Debug)]
pub(crate) struct Says {
    pub(crate) worker: WorkerId,
    /// Pins of the authorities that it believes.
    pub(crate) believes: Vec<String>,
    /// The certificate that it has shown, DER.
    pub(crate) shown: Vec<u8>,
}

/// What is believed here, for whoever asks.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) bundle: Bundle,
    pub(crate) can_sign: bool,
    /// Pins of those that are believed no more.
    pub(crate) dropped: Vec<String>,
    /// Another one where anything of this is another.
    pub(crate) state: String,
}

/// Gives what is believed here, once it is something else than `known` or `wait` is over; and notes what a worker says.
pub(crate) async fn await_news(
    app: &App,
    says: Option<Says>,
    known: &str,
    wait: Duration,
) -> Result<Known, Status> {
    let until = Instant::now() + wait;
    let mut says = says;
    loop {
        // Before the look: what changes meanwhile is not slept over.
        let news = app.walls.trust_news.next();
        tokio::pin!(news);
        news.as_mut().enable();
        let now = look(app).await?;
        if let Some(says) = says.take() {
            note(app, says, &now.bundle.pem).await?;
        }
        if now.state != known || Instant::now() >= until {
            return Ok(now);
        }
        tokio::select! {
            _ = timeout_at(until, news) => {}
            () = app.shutdown.cancelled() => return Ok(now),
        }
    }
}

async fn look(app: &App) -> Result<Known, Status> {
    let (bundle, can_sign) = tokens::look(app).await?;
    let mut conn = app.db.read().await.map_err(LifecycleError::from)?;
    let dropped = rotation::list_dropped(&mut conn).await;
    let dropped = dropped.map_err(LifecycleError::from)?;
    // Of all that is told and no number: what somebody changed by hand is news as well, and a
    // restart is none.
    let text = format!("{}{can_sign}{}", bundle.pem, dropped.join(" "));
    Ok(Known {
        state: hex(&Sha256::digest(text)),
        bundle,
        can_sign,
        dropped,
    })
}

/// Writes down what a worker believes and shows, where that is news. One that stands by writes nothing.
async fn note(app: &App, says: Says, pem: &str) -> Result<(), Status> {
    if app.role.leads_as().is_none() || app.walls.safe_mode.is_some() {
        return Ok(());
    }
    let believed = bundle::read(pem).map_err(|why| {
        ErrorCode::NoAuthority.status(format!("the file of this coordinator's authorities {why}"))
    })?;
    let signer = believed.iter().find(|one| one.has_signed(&says.shown));
    let certified_by = signer.map(|one| one.pin.clone()).unwrap_or_default();
    let store = async {
        let mut conn = app.db.read().await?;
        let before = rotation::find_standing(&mut conn, says.worker).await?;
        drop(conn);
        // Every worker asks again and again, and is nearly always as it was: then nothing is
        // written.
        if before.is_some_and(|before| before == (says.believes.clone(), certified_by.clone())) {
            return Ok(());
        }
        let mut tx = app.db.write("what a worker believes").await?;
        rotation::mark_standing(&mut tx, says.worker, &says.believes, &certified_by).await?;
        tx.commit().await?;
        Ok::<_, LifecycleError>(())
    };
    Ok(store.await?)
}
