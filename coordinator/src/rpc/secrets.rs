//! Secrets for jobs: who may set them, and which worker gets them.

use marquee_domain::ids::{AttemptNumber, JobId, JobName, Rank};
use marquee_domain::project::ProjectName;
use marquee_domain::rank::RankKey;
use marquee_domain::secret::{SecretName, wrong_value};
use marquee_domain::users::Role;
use marquee_proto::convert::{BadField, timestamp};
use marquee_proto::v1;
use marquee_store::secrets::{SecretPlace, StoredSecret, list_secrets};
use tonic::{Extensions, Request, Response, Status};

use super::scope;
use crate::app::App;
use crate::caller::Caller;
use crate::lifecycle::{self, LifecycleError};
use crate::users::is_private;

/// Bytes of a name that an error repeats.
const SHOWN_MAX_BYTES: usize = 100;

/// The service.
#[derive(Debug)]
pub(super) struct SecretsService {
    app: App,
}

impl SecretsService {
    pub(super) fn new(app: App) -> Self {
        Self { app }
    }

    /// What its current key is known by; empty: it has none.
    fn current_key(&self) -> String {
        // A list needs no key: without one it only says of no secret that its key is the current
        // one.
        let keyring = self.app.secret_keys.read();
        keyring.map_or_else(|_| String::new(), |keyring| keyring.current_id().to_owned())
    }
}

#[tonic::async_trait]
impl v1::secrets_server::Secrets for SecretsService {
    async fn set_secret(
        &self,
        request: Request<v1::SetSecretRequest>,
    ) -> Result<Response<v1::Secret>, Status> {
        in_private(request.extensions(), "a secret is set")?;
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let place = place(&request.project, &request.job, &request.name)?;
        let what = format!("secret {}", place.name);
        scope::project(&caller, Role::Admin, place.project.as_str(), &what)?;
        if let Some(why) = wrong_value(&request.value) {
            return Err(BadField::invalid("value", why).into());
        }
        let set = lifecycle::set_secret(&self.app, place, &request.value, &caller).await?;
        Ok(Response::new(encode(set, &self.current_key())))
    }

    async fn list_secrets(
        &self,
        request: Request<v1::ListSecretsRequest>,
    ) -> Result<Response<v1::ListSecretsResponse>, Status> {
        let caller = Caller::of(&request);
        let project = request.into_inner().project;
        let project = match project.as_str() {
            "" => None,
            name => {
                let name = project_name(name)?;
                scope::project(&caller, Role::Viewer, name.as_str(), &format!("\"{name}\""))?;
                Some(name)
            }
        };
        let mut conn = self.app.db.read().await.map_err(LifecycleError::from)?;
        let all = list_secrets(&mut conn, project.as_ref()).await;
        drop(conn);
        let current = self.current_key();
        let secrets = all.map_err(LifecycleError::from)?;
        // Without a project nothing is refused: who may see some projects is shown what those have.
        let seen = secrets
            .into_iter()
            .filter(|secret| caller.may(Role::Viewer, secret.place.project.as_str()));
        Ok(Response::new(v1::ListSecretsResponse {
            secrets: seen.map(|secret| encode(secret, &current)).collect(),
        }))
    }

    async fn remove_secret(
        &self,
        request: Request<v1::RemoveSecretRequest>,
    ) -> Result<Response<v1::RemoveSecretResponse>, Status> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let place = place(&request.project, &request.job, &request.name)?;
        let what = format!("secret {}", place.name);
        scope::project(&caller, Role::Admin, place.project.as_str(), &what)?;
        lifecycle::remove_secret(&self.app, &place, &caller).await?;
        Ok(Response::new(v1::RemoveSecretResponse {}))
    }

    async fn rekey_secrets(
        &self,
        request: Request<v1::RekeySecretsRequest>,
    ) -> Result<Response<v1::RekeySecretsResponse>, Status> {
        let caller = Caller::of(&request);
        let done = lifecycle::rekey_secrets(&self.app, &caller).await?;
        Ok(Response::new(v1::RekeySecretsResponse {
            key_id: done.key_id,
            changed: done.changed,
            secrets: done.secrets,
        }))
    }

    async fn take_secrets(
        &self,
        request: Request<v1::TakeSecretsRequest>,
    ) -> Result<Response<v1::TakeSecretsResponse>, Status> {
        in_private(request.extensions(), "a secret is handed to a worker")?;
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let key = RankKey {
            job: JobId(request.job_id),
            attempt: AttemptNumber(request.attempt),
            rank: Rank(request.rank),
        };
        // Its certificate says who it is, whatever it writes; one without is believed as its Hello is.
        let worker = match caller.worker() {
            Some(worker) => worker,
            None => request
                .worker_id
                .parse()
                .map_err(|_| BadField::invalid("worker_id", "is no id of a worker"))?,
        };
        let taken = lifecycle::take_secrets(&self.app, key, worker, &caller).await?;
        let secrets = taken.into_iter().map(|(name, value)| v1::SecretValue {
            name: name.to_string(),
            value,
        });
        Ok(Response::new(v1::TakeSecretsResponse {
            secrets: secrets.collect(),
        }))
    }
}

/// Refuses where others could read what is sent.
fn in_private(extensions: &Extensions, what: &str) -> Result<(), LifecycleError> {
    if is_private(extensions) {
        return Ok(());
    }
    Err(LifecycleError::SecretRefused(format!(
        "{what} over TLS or on the coordinator's own host alone; give the coordinator certificates (\"marquee-coordinator init\")"
    )))
}

fn place(project: &str, job: &str, name: &str) -> Result<SecretPlace, BadField> {
    let shown = |text: &str| text[..text.floor_char_boundary(SHOWN_MAX_BYTES)].to_owned();
    let job = match job {
        "" => None,
        job => {
            let parsed = job.parse::<JobName>();
            let wrong = |why| BadField::invalid("job", format!("{:?} {why}", shown(job)));
            Some(parsed.map_err(wrong)?)
        }
    };
    let wrong = |why| BadField::invalid("name", format!("{:?} {why}", shown(name)));
    Ok(SecretPlace {
        project: project_name(project)?,
        job,
        name: name.parse::<SecretName>().map_err(wrong)?,
    })
}

fn project_name(text: &str) -> Result<ProjectName, BadField> {
    text.parse().map_err(|why| {
        let shown = &text[..text.floor_char_boundary(SHOWN_MAX_BYTES)];
        BadField::invalid("project", format!("{shown:?} {why}"))
    })
}

fn encode(secret: StoredSecret, current: &str) -> v1::Secret {
    let StoredSecret {
        place,
        key_id,
        set_at,
        set_by,
    } = secret;
    v1::Secret {
        project: place.project.to_string(),
        job: place.job.map(String::from).unwrap_or_default(),
        name: place.name.to_string(),
        set_at: Some(timestamp(set_at)),
        set_by,
        has_current_key: key_id == current,
        key_id,
    }
}
