//! Join tokens: made, told once, and ended.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use marquee_domain::join_token::{self, JoinToken, SECRET_BYTES};
use marquee_proto::error::ErrorCode;
use marquee_store::{audit, trust};
use sha2::{Digest as _, Sha256};
use tonic::Status;
use uuid::Uuid;

use super::authority::{Authority, Bundle, Files};
use crate::app::App;
use crate::blocking::blocking;
use crate::lifecycle::LifecycleError;

/// The role of a token that lets workers join; there is no other.
pub(crate) const WORKER: &str = "worker";
/// Tokens that are kept, and for how long after they ended: who asks why a worker could not join finds it.
const TOKENS_MAX: u32 = 1_000;
const KEPT_FOR: TimeDelta = TimeDelta::days(30);
/// Characters of an id that name a token, at least.
const PREFIX_MIN: usize = 8;

/// What a token is to be.
#[derive(Debug)]
pub(crate) struct NewToken {
    pub(crate) name: Option<String>,
    pub(crate) ttl: Duration,
    pub(crate) uses: u32,
}

/// Makes a token. Its text is in this answer alone.
pub(crate) async fn create_token(
    app: &App,
    new: NewToken,
    caller: &str,
) -> Result<(trust::JoinToken, String), Status> {
    let pin = bundle(app).await?.pin;
    let now = app.clock.now();
    let secret = secret(app);
    let token = JoinToken {
        pin,
        id: app.random.uuid(),
        secret,
    };
    let stored = trust::JoinToken {
        id: token.id,
        secret_sha256: JoinToken::secret_sha256(&secret).to_vec(),
        role: WORKER.to_owned(),
        name: new.name,
        uses: new.uses,
        used: 0,
        created_at: now,
        created_by: caller.to_owned(),
        expires_at: now + new.ttl,
        revoked_at: None,
    };
    let store = async {
        let mut tx = app.db.write("join token").await?;
        audit::act_as(&mut tx, caller).await?;
        let is_stored =
            trust::insert_join_token(&mut tx, &stored, now - KEPT_FOR, TOKENS_MAX).await?;
        tx.commit().await?;
        Ok::<_, LifecycleError>(is_stored)
    };
    if !store.await? {
        return Err(ErrorCode::LimitReached.status(format!(
            "there are {TOKENS_MAX} tokens that have not ended more than 30 days ago; make one with more uses instead of many"
        )));
    }
    tracing::info!(token = %stored.id, name = stored.name, uses = stored.uses, expires_at = %stored.expires_at, caller, "a join token was made");
    Ok((stored, token.reveal()))
}

/// The authorities that are believed.
pub(super) async fn bundle(app: &App) -> Result<Bundle, Status> {
    let files = files(app)?;
    match blocking(move || Bundle::read(&files)).await {
        Ok(Ok(bundle)) => Ok(bundle),
        Ok(Err(error)) => Err(ErrorCode::NoAuthority.status(format!("{error:#}"))),
        Err(error) => Err(ErrorCode::Internal.status(error.to_string())),
    }
}

/// The same, and whether its key is here to sign with.
pub(crate) async fn look(app: &App) -> Result<(Bundle, bool), Status> {
    let bundle = bundle(app).await?;
    let files = files(app)?;
    let can_sign = blocking(move || Authority::open(&files).is_ok()).await;
    Ok((bundle, can_sign.unwrap_or(false)))
}

/// Where the authority's files lie.
pub(super) fn files(app: &App) -> Result<Files, Status> {
    app.walls.authority.clone().ok_or_else(|| {
        ErrorCode::NoAuthority.status(
            "this coordinator has no authority of its own, so that nobody can join it by a token; make one with \"marquee-coordinator init\" on its host and start it again",
        )
    })
}

fn secret(app: &App) -> [u8; SECRET_BYTES] {
    // Two of them have 244 random bits between them.
    let drawn = [app.random.uuid(), app.random.uuid()].map(Uuid::into_bytes);
    let digest = Sha256::digest(drawn.concat());
    let mut secret = [0; SECRET_BYTES];
    secret.copy_from_slice(&digest[..SECRET_BYTES]);
    secret
}

/// Ends the token of this id, or of an id that begins so.
pub(crate) async fn revoke_token(
    app: &App,
    id: &str,
    caller: &str,
) -> Result<trust::JoinToken, Status> {
    let id = id.trim().to_ascii_lowercase();
    if join_token::is_token(&id) {
        return Err(ErrorCode::InvalidRequest.status(
            "that is the token itself, which nobody else should see; give its id, as the list of tokens shows it",
        ));
    }
    if id.len() < PREFIX_MIN {
        return Err(ErrorCode::InvalidRequest.status(format!(
            "give at least {PREFIX_MIN} characters of the token's id"
        )));
    }
    let now = app.clock.now();
    let revoke = async {
        let mut tx = app.db.write("revoke token").await?;
        audit::act_as(&mut tx, caller).await?;
        let all = trust::list_join_tokens(&mut tx).await?;
        let mut found = all
            .into_iter()
            .filter(|token| token.id.to_string().starts_with(&id));
        let (first, more) = (found.next(), found.next());
        let Some(first) = first.filter(|_| more.is_none()) else {
            return Ok(None);
        };
        trust::revoke_join_token(&mut tx, first.id, caller, now).await?;
        tx.commit().await?;
        Ok::<_, LifecycleError>(Some(trust::JoinToken {
            // One that was revoked before keeps its time, here as in the table
            // (`revoke_join_token`).
            revoked_at: first.revoked_at.or(Some(now)),
            ..first
        }))
    };
    let revoked = revoke.await?.ok_or_else(|| {
        ErrorCode::InvalidRequest.status(format!(
            "{:?} begins the id of no token, or of several; the list of tokens has them",
            &id[..id.floor_char_boundary(40)]
        ))
    })?;
    tracing::info!(token = %revoked.id, caller, "a join token was revoked");
    Ok(revoked)
}

/// What a token is good for at a time, in a word.
pub(crate) fn state_of(token: &trust::JoinToken, now: DateTime<Utc>) -> &'static str {
    if token.revoked_at.is_some() {
        "revoked"
    } else if token.used >= token.uses {
        "used"
    } else if token.expires_at <= now {
        "expired"
    } else {
        "usable"
    }
}
