//! Who joins, and who of those that joined is trusted still.

use std::sync::Arc;
use std::time::Duration;

use marquee_domain::ids::WorkerId;
use marquee_domain::join_token::SECRET_BYTES;
use marquee_domain::limits::{NAME_MAX_BYTES, REASON_MAX_BYTES};
use marquee_proto::certificate::bundle::AUTHORITIES_MAX;
use marquee_proto::convert::{self, BadField, timestamp};
use marquee_proto::error::ErrorCode;
use marquee_proto::v1;
use marquee_store::rotation::Standing;
use marquee_store::trust as table;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

use crate::app::App;
use crate::caller::Caller;
use crate::lifecycle::LifecycleError;
use crate::trust::authority::{self, BadRequest};
use crate::trust::beside::Seen;
use crate::trust::rotate::{self, Hindrance, Progress, Step};
use crate::trust::{self, Ask, Certified, Known, NewToken, Says, state_of};

/// How long a token is good, in seconds: an hour where nothing is said.
const TTL_S: std::ops::RangeInclusive<u32> = 60..=30 * 24 * 3_600;
const TTL_DEFAULT_S: u32 = 3_600;
/// Workers that one token lets in, at most.
const USES_MAX: u32 = 1_000;
/// How long a worker may wait for news of the authorities.
const NEWS_WAIT_MAX: Duration = Duration::from_secs(25);
/// Strangers that are looked at at once: checking what they bring takes time and a connection of the database.
const JOINS_AT_ONCE: usize = 4;

/// The service.
#[derive(Debug)]
pub(super) struct TrustService {
    app: App,
    joins: Arc<Semaphore>,
}

impl TrustService {
    pub(super) fn new(app: App) -> Self {
        Self {
            app,
            joins: Arc::new(Semaphore::new(JOINS_AT_ONCE)),
        }
    }
}

#[tonic::async_trait]
impl v1::trust_server::Trust for TrustService {
    async fn join(
        &self,
        request: Request<v1::JoinRequest>,
    ) -> Result<Response<v1::JoinResponse>, Status> {
        let caller = Caller::of(&request);
        let from = caller.address().map(|address| address.ip().to_string());
        // Read before it waits for a place: nonsense takes none from those that bring a token.
        let ask = read_ask(request.into_inner(), from.unwrap_or_default())?;
        let _place = self
            .joins
            .acquire()
            .await
            .map_err(|error| ErrorCode::Internal.status(error.to_string()))?;
        let cluster_id = self.app.cluster.to_string();
        let certified = trust::join(&self.app, ask).await?;
        Ok(Response::new(v1::JoinResponse {
            worker_id: certified.worker.to_string(),
            name: certified.name,
            certificate: certified.certificate,
            authority: certified.authority,
            cluster_id,
        }))
    }

    async fn renew(
        &self,
        request: Request<v1::RenewRequest>,
    ) -> Result<Response<v1::RenewResponse>, Status> {
        let Some(worker) = Caller::of(&request).worker() else {
            return Err(ErrorCode::NotIdentified.status(
                "only a worker that shows its certificate can renew it; one that has none joins by a token",
            ));
        };
        // Without a place among the strangers (`JOINS_AT_ONCE`): this one has shown who he is.
        let csr = read_csr(&request.into_inner().csr)?;
        let Certified {
            certificate,
            authority,
            ..
        } = trust::renew(&self.app, worker, &csr).await?;
        Ok(Response::new(v1::RenewResponse {
            certificate,
            authority,
        }))
    }

    async fn create_join_token(
        &self,
        request: Request<v1::CreateJoinTokenRequest>,
    ) -> Result<Response<v1::CreateJoinTokenResponse>, Status> {
        let caller = Caller::of(&request).to_string();
        let new = read_new_token(request.into_inner())?;
        let (token, text) = trust::create_token(&self.app, new, &caller).await?;
        Ok(Response::new(v1::CreateJoinTokenResponse {
            token: Some(self.encode(token)),
            text,
        }))
    }

    async fn list_join_tokens(
        &self,
        _: Request<v1::ListJoinTokensRequest>,
    ) -> Result<Response<v1::ListJoinTokensResponse>, Status> {
        let mut conn = self.app.db.read().await.map_err(LifecycleError::from)?;
        let tokens = table::list_join_tokens(&mut conn)
            .await
            .map_err(LifecycleError::from)?;
        let tokens = tokens.into_iter().map(|token| self.encode(token)).collect();
        Ok(Response::new(v1::ListJoinTokensResponse { tokens }))
    }

    async fn revoke_join_token(
        &self,
        request: Request<v1::RevokeJoinTokenRequest>,
    ) -> Result<Response<v1::JoinToken>, Status> {
        let caller = Caller::of(&request).to_string();
        let id = request.into_inner().id;
        let token = trust::revoke_token(&self.app, &id, &caller).await?;
        Ok(Response::new(self.encode(token)))
    }

    async fn list_members(
        &self,
        _: Request<v1::ListMembersRequest>,
    ) -> Result<Response<v1::ListMembersResponse>, Status> {
        let mut conn = self.app.db.read().await.map_err(LifecycleError::from)?;
        let members = table::list_members(&mut conn)
            .await
            .map_err(LifecycleError::from)?;
        let members = members.into_iter().map(encode_member).collect();
        Ok(Response::new(v1::ListMembersResponse { members }))
    }

    async fn revoke_member(
        &self,
        request: Request<v1::RevokeMemberRequest>,
    ) -> Result<Response<v1::Member>, Status> {
        let caller = Caller::of(&request).to_string();
        let v1::RevokeMemberRequest { name, reason } = request.into_inner();
        let reason = convert::text("reason", reason, REASON_MAX_BYTES)?;
        let member = trust::revoke(&self.app, &name, reason, &caller).await?;
        Ok(Response::new(encode_member(member)))
    }

    async fn rename_member(
        &self,
        request: Request<v1::RenameMemberRequest>,
    ) -> Result<Response<v1::Member>, Status> {
        let caller = Caller::of(&request).to_string();
        let v1::RenameMemberRequest { name, new_name } = request.into_inner();
        let new_name = worker_name("new_name", new_name)?;
        let member = trust::rename(&self.app, &name, new_name, &caller).await?;
        Ok(Response::new(encode_member(member)))
    }

    async fn forget_member(
        &self,
        request: Request<v1::ForgetMemberRequest>,
    ) -> Result<Response<v1::Member>, Status> {
        let caller = Caller::of(&request).to_string();
        let name = request.into_inner().name;
        let member = trust::forget(&self.app, &name, &caller).await?;
        Ok(Response::new(encode_member(member)))
    }

    async fn get_authority(
        &self,
        request: Request<v1::GetAuthorityRequest>,
    ) -> Result<Response<v1::Authority>, Status> {
        let worker = Caller::of(&request).worker();
        let shown = request.peer_certs().and_then(|all| all.first().cloned());
        let v1::GetAuthorityRequest {
            believes,
            known,
            wait_ms,
        } = request.into_inner();
        let wait = read_wait(wait_ms)?;
        // A worker of before says nothing, which is no news of it.
        let says = match (worker, shown) {
            (Some(worker), Some(shown)) if !believes.is_empty() => Some(Says {
                worker,
                believes: read_pins(believes)?,
                shown: shown.to_vec(),
            }),
            _ => None,
        };
        let Known {
            bundle,
            can_sign,
            dropped,
            state,
        } = trust::await_news(&self.app, says, &known, wait).await?;
        Ok(Response::new(v1::Authority {
            pin: bundle.fingerprint(),
            not_after: Some(timestamp(bundle.not_after)),
            certificates: bundle.pem,
            can_sign,
            dropped,
            state,
        }))
    }

    async fn rotate_authority(
        &self,
        request: Request<v1::RotateAuthorityRequest>,
    ) -> Result<Response<v1::Rotation>, Status> {
        let caller = Caller::of(&request).to_string();
        let request = request.into_inner();
        // A step that only a newer client knows arrives as none.
        let step = read_step(request.step())?;
        let v1::RotateAuthorityRequest { force, dry_run, .. } = request;
        let progress = rotate::take(&self.app, step, force, dry_run, &caller).await?;
        Ok(Response::new(encode_progress(progress)))
    }

    async fn get_rotation(
        &self,
        _: Request<v1::GetRotationRequest>,
    ) -> Result<Response<v1::Rotation>, Status> {
        let progress = rotate::look(&self.app).await?;
        Ok(Response::new(encode_progress(progress)))
    }
}

impl TrustService {
    fn encode(&self, token: table::JoinToken) -> v1::JoinToken {
        let state = state_of(&token, self.app.clock.now()).to_owned();
        v1::JoinToken {
            id: token.id.to_string(),
            role: token.role,
            name: token.name.unwrap_or_default(),
            uses: token.uses,
            used: token.used,
            created_at: Some(timestamp(token.created_at)),
            created_by: token.created_by,
            expires_at: Some(timestamp(token.expires_at)),
            revoked_at: token.revoked_at.map(timestamp),
            state,
        }
    }
}

fn encode_member(member: table::Member) -> v1::Member {
    let revoked = member.revoked;
    v1::Member {
        worker_id: member.worker.to_string(),
        name: member.name,
        joined_at: Some(timestamp(member.joined_at)),
        joined_by: member.joined_by,
        certified_until: Some(timestamp(member.certified_until)),
        revoked_at: revoked.as_ref().map(|revoked| timestamp(revoked.at)),
        revoked_by: revoked
            .as_ref()
            .map(|revoked| revoked.by.clone())
            .unwrap_or_default(),
        revoked_reason: revoked.map(|revoked| revoked.reason).unwrap_or_default(),
    }
}

/// How long an answer may be waited for.
fn read_wait(wait_ms: u32) -> Result<Duration, BadField> {
    let wait = Duration::from_millis(wait_ms.into());
    if wait > NEWS_WAIT_MAX {
        let why = format!("{wait_ms}; at most {}", NEWS_WAIT_MAX.as_millis());
        return Err(BadField::invalid("wait_ms", why));
    }
    Ok(wait)
}

/// Pins as a worker names them: so many, each of 64 digits.
fn read_pins(pins: Vec<String>) -> Result<Vec<String>, BadField> {
    // They are stored as they are: nothing else may get into a row this way.
    let is_pin = |pin: &String| pin.len() == 64 && pin.bytes().all(|b| b.is_ascii_hexdigit());
    if pins.len() > AUTHORITIES_MAX || !pins.iter().all(is_pin) {
        let why = format!(
            "{} pins; give at most {AUTHORITIES_MAX}, each of 64 hexadecimal digits",
            pins.len()
        );
        return Err(BadField::invalid("believes", why));
    }
    Ok(pins)
}

fn read_step(step: v1::RotationStep) -> Result<Step, BadField> {
    match step {
        v1::RotationStep::Begin => Ok(Step::Begin),
        v1::RotationStep::Switch => Ok(Step::Switch),
        v1::RotationStep::Finish => Ok(Step::Finish),
        v1::RotationStep::Abandon => Ok(Step::Abandon),
        v1::RotationStep::Unspecified => Err(BadField::invalid(
            "step",
            "it names none of begin, switch, finish and abandon",
        )),
    }
}

fn encode_progress(progress: Progress) -> v1::Rotation {
    let Progress {
        rotation: Some(rotation),
        workers,
        coordinators,
        usable_tokens,
        hindrances,
    } = progress
    else {
        return v1::Rotation::default();
    };
    let next = &rotation.next;
    let worker = |worker: Standing| v1::RotationWorker {
        online: worker.is_online,
        believes_next: worker.believes.contains(next),
        shows_next: worker.certified_by == *next,
        name: worker.name,
    };
    let coordinator = |seen: Seen| match seen.found {
        Ok(found) => v1::RotationCoordinator {
            address: seen.address,
            believes_next: found.believes_next,
            shows_next: found.shows_next,
            error: String::new(),
        },
        Err(error) => v1::RotationCoordinator {
            address: seen.address,
            error,
            ..v1::RotationCoordinator::default()
        },
    };
    let hindrance = |hindrance: Hindrance| v1::Hindrance {
        text: hindrance.text,
        can_be_forced: hindrance.can_be_forced,
    };
    v1::Rotation {
        phase: rotation.phase.as_str().to_owned(),
        workers: workers.into_iter().map(worker).collect(),
        coordinators: coordinators.into_iter().map(coordinator).collect(),
        usable_tokens,
        hindrances: hindrances.into_iter().map(hindrance).collect(),
        begun_at: Some(timestamp(rotation.begun_at)),
        switched_at: rotation.switched_at.map(timestamp),
        ended_at: rotation.ended_at.map(timestamp),
        before: rotation.before,
        next: rotation.next,
        begun_by: rotation.begun_by,
    }
}

fn read_ask(request: v1::JoinRequest, from: String) -> Result<Ask, Status> {
    let token = request
        .token_id
        .parse()
        .map_err(|_| BadField::invalid("token_id", "it is no UUID"))?;
    // It cannot be the right one: that is said without asking the database.
    if request.secret.len() != SECRET_BYTES {
        let why = format!("it has {} bytes, not {SECRET_BYTES}", request.secret.len());
        return Err(BadField::invalid("secret", why).into());
    }
    let worker = match request.worker_id.as_str() {
        "" => None,
        id => Some(
            id.parse::<WorkerId>()
                .map_err(|error| BadField::invalid("worker_id", error))?,
        ),
    };
    Ok(Ask {
        token,
        secret: request.secret,
        request: read_csr(&request.csr)?,
        name: worker_name("name", request.name)?,
        worker,
        from,
    })
}

fn read_csr(der: &[u8]) -> Result<authority::Request, Status> {
    authority::Request::read(der).map_err(|bad: BadRequest| {
        ErrorCode::JoinRefused.status(format!("the signing request (csr) cannot be used: {bad}"))
    })
}

fn read_new_token(request: v1::CreateJoinTokenRequest) -> Result<NewToken, BadField> {
    if !matches!(request.role.as_str(), "" | "worker") {
        let why = format!(
            "{:?} is no role of a join token; \"worker\" is. For people make a user's token",
            start_of(&request.role)
        );
        return Err(BadField::invalid("role", why));
    }
    let name = match request.name.as_str() {
        "" => None,
        _ => Some(worker_name("name", request.name)?),
    };
    let ttl_s = match request.ttl_s {
        0 => TTL_DEFAULT_S,
        ttl_s if TTL_S.contains(&ttl_s) => ttl_s,
        ttl_s => {
            let why = format!(
                "{ttl_s} s; give {} s (1 min) to {} s (30 days)",
                TTL_S.start(),
                TTL_S.end()
            );
            return Err(BadField::invalid("ttl_s", why));
        }
    };
    let uses = match request.uses {
        0 => 1,
        uses @ 2.. if name.is_some() => {
            let why = format!(
                "{uses}, and a token for one name lets one worker in; leave out name or uses"
            );
            return Err(BadField::invalid("uses", why));
        }
        uses if uses <= USES_MAX => uses,
        uses => {
            return Err(BadField::invalid(
                "uses",
                format!("{uses}; at most {USES_MAX}"),
            ));
        }
    };
    Ok(NewToken {
        name,
        ttl: Duration::from_secs(ttl_s.into()),
        uses,
    })
}

/// A name that a worker may have.
pub(crate) fn worker_name(field: &'static str, name: String) -> Result<String, BadField> {
    // Names stand in certificates, commands and labels of figures: nothing in one needs quoting.
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
    if name.is_empty() || name.len() > NAME_MAX_BYTES || !name.bytes().all(plain) {
        let why = format!(
            "{:?} is not 1 to {NAME_MAX_BYTES} of a-z, 0-9, \"-\", \"_\" and \".\"",
            start_of(&name)
        );
        return Err(BadField::invalid(field, why));
    }
    Ok(name)
}

/// As much of a name as an error repeats.
fn start_of(text: &str) -> &str {
    &text[..text.floor_char_boundary(100)]
}

#[cfg(test)]
mod tests;
