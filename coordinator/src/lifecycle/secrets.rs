//! Secrets for jobs: kept, removed, encrypted anew, and handed to the worker that starts a rank.
//!
//! Invariant: a value is in a request that sets it, in the answer to the worker that holds the rank, and nowhere else: no
//! event, log, error or row has it in clear.

use std::collections::BTreeSet;

use marquee_domain::ids::WorkerId;
use marquee_domain::pipeline::FieldError;
use marquee_domain::project::ProjectName;
use marquee_domain::rank::RankKey;
use marquee_domain::secret::{SECRETS_MAX, SecretName};
use marquee_domain::spec::PipelineSpec;
use marquee_store::secrets::{self, SecretPlace, StoredSecret};

use super::{LifecycleError, Result};
use crate::app::App;
use crate::caller::Caller;
use crate::secrets::{KeyError, Keyring, OpenError};

/// Secrets that one transaction encrypts anew.
const REKEYED_AT_ONCE: u32 = 50;

/// What became of secrets when the key changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rekeyed {
    pub(crate) key_id: String,
    pub(crate) changed: u32,
    pub(crate) secrets: u32,
}

fn keyring(app: &App) -> Result<Keyring> {
    app.secret_keys.read().map_err(|error| match error {
        KeyError::None | KeyError::Unusable { .. } => {
            LifecycleError::NoSecretKey(error.to_string())
        }
    })
}

/// How a secret is called in messages.
fn called(place: &SecretPlace) -> String {
    let of_job = place.job.as_ref();
    let of_job = of_job.map_or_else(String::new, |job| format!(", job {job}"));
    format!("{} (project {}{of_job})", place.name, place.project)
}

fn unreadable(place: &SecretPlace, error: &OpenError) -> LifecycleError {
    let called = called(place);
    LifecycleError::SecretUnreadable(format!("secret {called} cannot be read: {error}"))
}

/// Keeps a secret, in place of the one that is there.
pub(crate) async fn set_secret(
    app: &App,
    place: SecretPlace,
    value: &[u8],
    caller: &Caller,
) -> Result<StoredSecret> {
    // Before the transaction begins: nobody waits for a file with a lock in hand.
    let sealed = keyring(app)?.seal(&place, value);
    let sealed = sealed.map_err(LifecycleError::NoSecretKey)?;
    let who = caller.to_string();
    let secret = StoredSecret {
        place,
        key_id: sealed.key_id,
        set_at: app.clock.now(),
        set_by: who.clone(),
    };
    let mut tx = app.db.write_as("set secret", &who).await?;
    let known = secrets::list_secrets(&mut tx, None).await?;
    let is_new = !known.iter().any(|known| known.place == secret.place);
    // One that is set anew takes no further place.
    if is_new && known.len() >= SECRETS_MAX {
        return Err(LifecycleError::BadSetting(format!(
            "there are {SECRETS_MAX} secrets, which is the most; remove some (\"marquee secret list\")"
        )));
    }
    if !secrets::upsert_secret(&mut tx, &secret, &sealed.bytes).await? {
        let project = secret.place.project.to_string();
        return Err(LifecycleError::ProjectNotFound(project));
    }
    tx.commit().await?;
    tracing::info!(secret = called(&secret.place), "secret set");
    Ok(secret)
}

/// Removes a secret. What runs keeps what it was given.
pub(crate) async fn remove_secret(app: &App, place: &SecretPlace, caller: &Caller) -> Result<()> {
    let mut tx = app
        .db
        .write_as("remove secret", &caller.to_string())
        .await?;
    if !secrets::delete_secret(&mut tx, place).await? {
        return Err(LifecycleError::SecretNotFound(format!(
            "there is no secret {}; \"marquee secret list\" shows those there are",
            called(place)
        )));
    }
    tx.commit().await?;
    tracing::info!(secret = called(place), "secret removed");
    Ok(())
}

/// Encrypts all by the current key. Those that no key opens stay as they are, and the first is told when the others are
/// done.
pub(crate) async fn rekey_secrets(app: &App, caller: &Caller) -> Result<Rekeyed> {
    let keyring = keyring(app)?;
    // Read once for all: a file that changes meanwhile must not make two keys the current one.
    let (mut after, mut changed, mut first_error) = (None, 0, None);
    loop {
        let mut tx = app
            .db
            .write_as("rekey secrets", &caller.to_string())
            .await?;
        // A transaction for some and not for all: where it breaks off these are done, and asked
        // again it goes on with the others.
        let mut looked_at = 0;
        while looked_at < REKEYED_AT_ONCE {
            let id = keyring.current_id();
            let next = secrets::lock_other_key(&mut tx, id, after.as_ref()).await?;
            let Some(sealed) = next else { break };
            looked_at += 1;
            match keyring.open(&sealed) {
                Ok(value) => {
                    let anew = keyring.seal(&sealed.place, &value);
                    let anew = anew.map_err(LifecycleError::NoSecretKey)?;
                    secrets::mark_rekeyed(&mut tx, &anew).await?;
                    changed += 1;
                }
                Err(error) => {
                    first_error.get_or_insert(unreadable(&sealed.place, &error));
                }
            }
            after = Some(sealed.place);
        }
        tx.commit().await?;
        if looked_at < REKEYED_AT_ONCE {
            break;
        }
    }
    if let Some(error) = first_error {
        return Err(error);
    }
    let mut conn = app.db.read().await?;
    let all = secrets::list_secrets(&mut conn, None).await?.len();
    Ok(Rekeyed {
        key_id: keyring.current_id().to_owned(),
        changed,
        secrets: u32::try_from(all).unwrap_or(u32::MAX),
    })
}

/// The secrets that a rank's job names, for the worker that holds the rank.
pub(crate) async fn take_secrets(
    app: &App,
    key: RankKey,
    worker: WorkerId,
    caller: &Caller,
) -> Result<Vec<(SecretName, Vec<u8>)>> {
    let refuse = |why: String| LifecycleError::SecretRefused(why);
    let mut conn = app.db.read().await?;
    let taker = secrets::find_taker(&mut conn, key).await?;
    // Of another certificate than the one that owns its id: as in a Hello.
    let is_owner = |owner: &str| {
        caller.worker() == Some(worker)
            || caller
                .identity()
                .is_none_or(|shown| owner.is_empty() || owner == shown)
    };
    let taker = taker.filter(|taker| taker.worker == worker && is_owner(&taker.identity));
    // One text, whether there is such a rank or not: who has no right to it learns nothing of it.
    let taker = taker.ok_or_else(|| {
        refuse(format!(
            "rank {key} is not held by worker {worker}, or is to stop: its secrets are not for it"
        ))
    })?;
    let spec = taker.spec.map_err(|why| {
        refuse(format!(
            "what is stored of job {} cannot be read: {why}",
            key.job
        ))
    })?;
    let wanted = &spec.sharing.secrets;
    // Before the keys are read: a cluster without any runs such jobs all the same.
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let keyring = keyring(app)?;
    let project = &spec.sharing.project;
    let names: Vec<String> = wanted.iter().map(ToString::to_string).collect();
    let found = secrets::find_sealed(&mut conn, project, &spec.name, &names).await?;
    drop(conn);
    let has = |name: &&SecretName| !found.iter().any(|sealed| sealed.place.name == **name);
    // There when the job was submitted (`missing_secrets`), and removed since.
    if let Some(missing) = wanted.iter().find(has) {
        return Err(LifecycleError::SecretNotFound(missing_text(
            missing, project,
        )));
    }
    let open = |sealed: secrets::Sealed| {
        let value = keyring.open(&sealed);
        let value = value.map_err(|error| unreadable(&sealed.place, &error))?;
        Ok((sealed.place.name, value))
    };
    found.into_iter().map(open).collect()
}

fn missing_text(name: &SecretName, project: &ProjectName) -> String {
    format!(
        "project {project} has no secret {name} for this job; an administrator of it sets one: \"marquee secret set {name} --project {project}\""
    )
}

/// Secrets that jobs name and that are not there for them.
pub(super) async fn missing_secrets(app: &App, spec: &PipelineSpec) -> Result<Vec<FieldError>> {
    let wants: Vec<_> = spec
        .jobs
        .iter()
        .filter(|job| !job.sharing.secrets.is_empty())
        .collect();
    if wants.is_empty() {
        return Ok(Vec::new());
    }
    let mut conn = app.db.read().await?;
    let there = secrets::list_secrets(&mut conn, None).await?;
    let mut missing = Vec::new();
    for job in wants {
        let project = &job.sharing.project;
        let is_for = |place: &SecretPlace| {
            place.project == *project && place.job.as_ref().is_none_or(|only| *only == job.name)
        };
        let has: BTreeSet<&SecretName> = there
            .iter()
            .filter(|secret| is_for(&secret.place))
            .map(|secret| &secret.place.name)
            .collect();
        let lacks = job
            .sharing
            .secrets
            .iter()
            .filter(|name| !has.contains(name));
        missing.extend(lacks.map(|name| FieldError {
            field: format!("jobs.{}.secrets", job.name),
            message: missing_text(name, project),
        }));
    }
    Ok(missing)
}
