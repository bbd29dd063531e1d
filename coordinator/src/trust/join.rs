//! A worker joins by a token, and later renews its certificate by showing it.

use chrono::{DateTime, Utc};
use marquee_domain::ids::WorkerId;
use marquee_domain::join_token::JoinToken;
use marquee_proto::certificate::bundle;
use marquee_proto::error::ErrorCode;
use marquee_store::trust::{self, Known, Member};
use marquee_store::{StoreError, Tx, audit, rotation};
use tonic::Status;
use uuid::Uuid;

use super::authority::{Authority, Request};
use super::belonging::verdict;
use super::tokens::{self, WORKER, state_of};
use crate::app::App;
use crate::blocking::blocking;
use crate::certificate::name_of_worker;
use crate::lifecycle::LifecycleError;

/// What a worker asks for.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) token: Uuid,
    pub(crate) secret: Vec<u8>,
    pub(crate) request: Request,
    /// Checked to be one.
    pub(crate) name: String,
    /// Its id, where its data folder has one.
    pub(crate) worker: Option<WorkerId>,
    /// Where it calls from.
    pub(crate) from: String,
}

/// What a worker gets.
#[derive(Debug)]
pub(crate) struct Certified {
    pub(crate) worker: WorkerId,
    pub(crate) name: String,
    pub(crate) certificate: String,
    pub(crate) authority: String,
}

/// Why a join does not come about.
enum Refusal {
    /// What the worker is told.
    Told(String),
    Failed(LifecycleError),
    Status(Status),
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        // Somebody else took the name since it was looked up.
        if let StoreError::WorkerNameTaken(name) = &error {
            return Self::Told(known(name));
        }
        Self::Failed(error.into())
    }
}

/// Lets a worker join: the use of its token, its row and its certificate come about together or not at all.
pub(crate) async fn join(app: &App, ask: Ask) -> Result<Certified, Status> {
    let authority = authority(app).await?;
    let from = ask.from.clone();
    let id = ask.token;
    match admit(app, &authority, ask).await {
        Ok(certified) => {
            tracing::info!(worker = %certified.worker, name = certified.name, token = %id, from, "a worker joined");
            Ok(certified)
        }
        Err(Refusal::Told(why)) => {
            // Whoever runs the cluster sees that somebody tries.
            tracing::warn!(token = %id, from, why, "a worker was not let in");
            Err(ErrorCode::JoinRefused.status(why))
        }
        Err(Refusal::Failed(error)) => Err(error.into()),
        Err(Refusal::Status(status)) => Err(status),
    }
}

async fn admit(app: &App, authority: &Authority, ask: Ask) -> Result<Certified, Refusal> {
    let now = app.clock.now();
    let key = ask.request.key_sha256();
    let mut tx = app.db.write("join").await?;
    audit::act_as(&mut tx, &format!("token {} from {}", ask.token, ask.from)).await?;
    let token = trust::lock_join_token(&mut tx, ask.token).await?;
    let token = usable(token, &ask, now)?;
    // The answer to an earlier try may have been lost: the same key is the same worker.
    let before = trust::find_join_use(&mut tx, token.id, &key).await?;
    let worker = match before {
        // One that was revoked since does not come back by what it was let in with.
        Some(worker) => {
            let member = trust::find_member(&mut tx, worker).await?;
            verdict(member.as_ref()).map_err(Refusal::Status)?;
            worker
        }
        None if token.used >= token.uses => {
            let times = if token.uses == 1 {
                "once"
            } else {
                "as often as it could be"
            };
            return Err(Refusal::Told(format!(
                "the token was used {times} already; make another one"
            )));
        }
        None => {
            let worker = settle_id(app, &mut tx, &token, &ask).await?;
            trust::use_join_token(&mut tx, token.id, &key, worker, now).await?;
            worker
        }
    };
    let identity = name_of_worker(app.cluster, worker);
    let life = app.settings.worker_certificate;
    // Before the commit: a token is not used up for a certificate that could not be made.
    let signed = authority.certify_worker(&ask.request, identity.clone(), &ask.name, now, life);
    let (certificate, certified_until) = signed.map_err(unsigned)?;
    let member = Member {
        worker,
        name: ask.name,
        joined_at: now,
        joined_by: format!("token {} from {}", token.id, ask.from),
        certified_until,
        revoked: None,
    };
    trust::upsert_member(&mut tx, &member, &identity).await?;
    // What it is given now is what it believes, also where it believed more before.
    let believed = bundle::read(&authority.bundle.pem).map(|all| bundle::pins(&all));
    let signer = authority.bundle.fingerprint();
    let believed = believed.unwrap_or_default();
    rotation::mark_standing(&mut tx, worker, &believed, &signer).await?;
    tx.commit().await?;
    Ok(Certified {
        worker,
        name: member.name,
        certificate,
        authority: authority.bundle.pem.clone(),
    })
}

/// The token, where this worker may use it. Who has not its secret learns nothing of it.
fn usable(
    token: Option<trust::JoinToken>,
    ask: &Ask,
    now: DateTime<Utc>,
) -> Result<trust::JoinToken, Refusal> {
    // Digests are compared: how long that takes says nothing of the secret.
    let shown = JoinToken::secret_sha256(&ask.secret);
    let token = token.filter(|token| token.secret_sha256 == shown);
    let refuse = |why: String| Err(Refusal::Told(why));
    let Some(token) = token else {
        return refuse(
            "no such token is known here: it ended more than 30 days ago, or is another cluster's; make one on the coordinator's host (\"marquee-coordinator token create\")".to_owned(),
        );
    };
    if token.role != WORKER {
        return refuse(format!(
            "the token is for the role {:?}, and a worker asks; make one for a worker",
            token.role
        ));
    }
    match state_of(&token, now) {
        "revoked" => return refuse("the token was revoked; make another one".to_owned()),
        "expired" => {
            let at = token.expires_at.format("%Y-%m-%d %H:%M:%S UTC");
            return refuse(format!("the token expired on {at}; make another one"));
        }
        // One that was used may have been used by this very worker.
        _ => {}
    }
    if let Some(name) = &token.name
        && *name != ask.name
    {
        return refuse(format!(
            "the token is for worker {name:?}, and {:?} asks; join with --name {name}, or make a token for it",
            ask.name
        ));
    }
    Ok(token)
}

/// Which id a worker gets: its own, that of the one that it replaces, or a new one. Only a token that names a worker
/// lets one take the place of a worker that is known.
async fn settle_id(
    app: &App,
    tx: &mut Tx,
    token: &trust::JoinToken,
    ask: &Ask,
) -> Result<WorkerId, Refusal> {
    let found = trust::list_known(tx, ask.worker, &ask.name).await?;
    let replaces = token.name.is_some();
    let by_id = found.iter().find(|known| Some(known.worker) == ask.worker);
    if let Some(own) = by_id {
        return if (replaces && own.name == ask.name) || !own.is_owned {
            Ok(own.worker)
        } else {
            Err(Refusal::Told(known(&own.name)))
        };
    }
    let named: Vec<&Known> = found
        .iter()
        .filter(|known| known.name == ask.name)
        .collect();
    match named.first() {
        Some(named) if replaces => Ok(named.worker),
        Some(_) if named.iter().any(|named| named.is_owned) => Err(Refusal::Told(known(&ask.name))),
        Some(_) | None => Ok(ask.worker.unwrap_or_else(|| WorkerId(app.random.uuid()))),
    }
}

fn known(name: &str) -> String {
    format!(
        "a worker {name:?} is known here; to put this host in its place make a token for it (\"marquee-coordinator token create --name {name}\"), or give this one another name (--name)"
    )
}

fn unsigned(error: anyhow::Error) -> Refusal {
    Refusal::Status(
        ErrorCode::Internal.status(format!("a certificate could not be made: {error:#}")),
    )
}

/// Another certificate for a worker that has shown its own.
pub(crate) async fn renew(
    app: &App,
    worker: WorkerId,
    request: &Request,
) -> Result<Certified, Status> {
    let authority = authority(app).await?;
    let now = app.clock.now();
    let renewed = async {
        let mut tx = app.db.write("renew certificate").await?;
        let member = trust::find_member(&mut tx, worker).await?;
        verdict(member.as_ref()).map_err(Refusal::Status)?;
        let name = member.map(|member| member.name).unwrap_or_default();
        let identity = name_of_worker(app.cluster, worker);
        let life = app.settings.worker_certificate;
        let signed = authority.certify_worker(request, identity, &name, now, life);
        let (certificate, until) = signed.map_err(unsigned)?;
        if !trust::mark_member_certified(&mut tx, worker, until).await? {
            // Revoked between the two.
            verdict(None).map_err(Refusal::Status)?;
        }
        tx.commit().await?;
        Ok(Certified {
            worker,
            name,
            certificate,
            authority: authority.bundle.pem.clone(),
        })
    };
    match renewed.await {
        Ok(certified) => {
            tracing::info!(%worker, name = certified.name, "a worker's certificate was renewed");
            Ok(certified)
        }
        Err(Refusal::Told(why)) => Err(ErrorCode::JoinRefused.status(why)),
        Err(Refusal::Failed(error)) => Err(error.into()),
        Err(Refusal::Status(status)) => Err(status),
    }
}

async fn authority(app: &App) -> Result<Authority, Status> {
    let files = tokens::files(app)?;
    match blocking(move || Authority::open(&files)).await {
        Ok(Ok(authority)) => Ok(authority),
        Ok(Err(error)) => {
            tracing::error!(error = format!("{error:#}"), "the authority cannot sign");
            Err(ErrorCode::NoAuthority.status(
                "this coordinator's authority cannot sign certificates just now: its key is not there or cannot be used; the coordinator's log says why",
            ))
        }
        Err(error) => Err(ErrorCode::Internal.status(error.to_string())),
    }
}

#[cfg(test)]
mod tests;
