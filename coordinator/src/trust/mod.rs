//! Trust between this coordinator and its workers: an authority of its own (`authority`), made once (`init`), which
//! signs what workers that join bring (`join`), and who of them is trusted still (`manage`).
//!
//! Invariant: a worker is known by its certificate alone, and is a worker for as long as its row says so. Not here:
//! what it may ask for (`rpc::guard`), and how connections are encrypted (`tls`).

pub mod authority;
pub mod enable;
pub mod init;
mod join;
pub mod local;
mod manage;
mod tokens;
pub(crate) mod verdict;

use std::time::Duration;

use chrono::TimeDelta;
use marquee_domain::env::Clock;
use tokio_util::sync::CancellationToken;

pub(crate) use join::{Ask, Certified, join, renew};
pub(crate) use manage::{forget, rename, revoke};
pub(crate) use tokens::{NewToken, create_token, look, revoke_token, state_of};

use crate::blocking::blocking;
use authority::{Files, Look};

/// How long this coordinator leaves its own certificate alone at most, before it looks whether it is to be made anew, and
/// at least.
const LOOK_EVERY: Duration = Duration::from_secs(3_600);
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Keeps this coordinator's own certificate good until `shutdown`.
pub async fn keep(
    files: Files,
    life: TimeDelta,
    clock: std::sync::Arc<dyn Clock>,
    shutdown: CancellationToken,
) {
    loop {
        let (files, now) = (files.clone(), clock.now());
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
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(wait.clamp(LOOK_AGAIN, LOOK_EVERY)) => {}
        }
    }
}
