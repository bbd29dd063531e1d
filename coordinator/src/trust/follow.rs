//! What one coordinator does by itself for trust, whether it leads or stands by: it keeps its own certificate good, and
//! its files in line with the cluster's authority.

use std::time::Duration;

use anyhow::Context as _;
use marquee_store::StoreError;
use marquee_store::rotation::{self, Rotation};

use super::authority::{self, Files, Look};
use super::succession;
use crate::app::App;
use crate::blocking::blocking;

/// How long this coordinator leaves its own certificate alone at most, before it looks whether it is to be made anew, and
/// at least.
const LOOK_EVERY: Duration = Duration::from_secs(3_600);
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How often it is looked whether the cluster's authority is followed by another one: files of a coordinator that stands
/// by are in line so soon.
const FOLLOW_EVERY: Duration = Duration::from_secs(2);

/// Keeps this coordinator's own certificate good until the coordinator is asked to stop.
pub async fn keep(app: App, files: Files) {
    let life = app.settings.server_certificate;
    loop {
        let (files, now) = (files.clone(), app.clock.now());
        let mut wait = LOOK_EVERY;
        match blocking(move || authority::renew_server(&files, now, life)).await {
            Ok(Ok(Look { is_new, due })) => {
                if is_new {
                    tracing::info!("this coordinator's certificate was made anew");
                }
                wait = (due - now).to_std().unwrap_or_default();
            }
            Err(_) => {}
            Ok(Err(error)) => tracing::error!(
                error = format!("{error:#}"),
                "this coordinator's certificate ends soon, and no new one can be made"
            ),
        }
        tokio::select! {
            () = app.shutdown.cancelled() => return,
            () = tokio::time::sleep(wait.clamp(LOOK_AGAIN, LOOK_EVERY)) => {}
        }
    }
}

/// Keeps the files of this coordinator in line with the rotation of the cluster's authority, whether it leads or stands
/// by, until it is asked to stop.
pub async fn follow(app: App) {
    let mut said = String::new();
    loop {
        let text = match find(&app).await {
            Ok(None) => String::new(),
            Ok(Some(found)) => match settle(&app, &found).await {
                Ok(()) => String::new(),
                Err(error) => format!("{error:#}"),
            },
            // Postgres is away, or its tables are older than this one that stands by: there is nothing to follow.
            Err(error) => {
                tracing::debug!(%error, "it is not known whether another authority follows");
                said.clone()
            }
        };
        // The same fault is said once.
        if !text.is_empty() && text != said {
            tracing::warn!(
                error = text,
                "the cluster's authority is followed by another one, and this coordinator does not come along"
            );
        }
        said = text;
        tokio::select! {
            () = app.shutdown.cancelled() => return,
            () = tokio::time::sleep(FOLLOW_EVERY) => {}
        }
    }
}

async fn find(app: &App) -> Result<Option<Rotation>, StoreError> {
    let mut conn = app.db.read().await?;
    rotation::find_rotation(&mut conn).await
}

/// Brings the files of this coordinator in line with a rotation, and tells whoever waits for news of it. The error says
/// what a person has to do.
pub(super) async fn settle(app: &App, rotation: &Rotation) -> anyhow::Result<()> {
    let files = app
        .walls
        .authority
        .clone()
        .context("there is no authority")?;
    let (rotation, now) = (rotation.clone(), app.clock.now());
    let life = app.settings.server_certificate;
    // One after the other: a step that was just asked for, and the loop, write the same files.
    let _turn = app.walls.trust_news.turn.lock().await;
    let settled = blocking(move || succession::settle(&files, &rotation, now, life)).await??;
    // Their certificates are refused in each new handshake; these are on connections that stand.
    app.walls.access.disbelieve(settled.dropped);
    if settled.is_new {
        app.walls.trust_news.ring();
    }
    match settled.behind {
        Some(why) => Err(anyhow::anyhow!(why)),
        None => Ok(()),
    }
}
