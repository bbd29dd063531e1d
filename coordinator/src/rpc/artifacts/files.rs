//! Whose files may be fetched. A digest alone says nothing of a project, so that who may not look at every project names
//! the job whose artifact the file is of.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use marquee_domain::artifact::Digest;
use marquee_domain::ids::JobId;
use marquee_domain::users::Role;
use marquee_proto::error::ErrorCode;
use marquee_store::artifacts;
use tokio::time::Instant;
use tonic::Status;

use crate::app::App;
use crate::caller::Caller;
use crate::lifecycle::LifecycleError;
use crate::rpc::scope;
use crate::users::Who;

/// Artifacts whose files are remembered: each is fetched file by file, and its list may have megabytes.
const REMEMBERED_MAX: usize = 32;
/// An artifact may be made again, with other files.
const REMEMBERED_FOR: Duration = Duration::from_secs(60);

type Digests = Arc<HashSet<Digest>>;

/// The files of artifacts that were asked for last.
#[derive(Debug, Default)]
pub(super) struct Files(Mutex<VecDeque<(JobId, Instant, Digests)>>);

impl Files {
    /// Refuses a file that the caller may not look at.
    pub(super) async fn check(
        &self,
        app: &App,
        caller: &Caller,
        job: JobId,
        digest: &Digest,
    ) -> Result<(), Status> {
        let is_worker = match caller.who() {
            Who::Machine => true,
            Who::User { is_machine, .. } => *is_machine,
            Who::Open | Who::Owner | Who::Nobody => false,
        };
        // Workers fetch by digest what their assignments name. People who may see everything need not say
        // where from.
        if is_worker || caller.projects(Role::Viewer).is_none() {
            return Ok(());
        }
        if job == JobId(0) {
            return Err(LifecycleError::RoleTooLow(
                "job_id: name the job whose artifact the file is of; without it a file is served to those alone who may \
                 look at every project (an older \"marquee\" does not say it)"
                    .to_owned(),
            )
            .into());
        }
        scope::job(app, caller, Role::Viewer, job).await?;
        if self.of(app, job).await?.contains(digest) {
            return Ok(());
        }
        let text = format!("the artifact of job {job} has no file {digest}");
        Err(ErrorCode::BlobNotFound.status(text))
    }

    async fn of(&self, app: &App, job: JobId) -> Result<Digests, LifecycleError> {
        // The newest first: it is the one that is being fetched.
        let known = self.kept().iter().find_map(|(of, _, digests)| {
            let is_it = *of == job;
            is_it.then(|| digests.clone())
        });
        if let Some(known) = known {
            return Ok(known);
        }
        let mut conn = app.db.read().await?;
        let manifest = artifacts::find_manifest_of_job(&mut conn, job).await?;
        drop(conn);
        let files = manifest.into_iter().flat_map(|manifest| manifest.files);
        let digests: Digests = Arc::new(files.map(|file| file.digest).collect());
        let mut kept = self.kept();
        kept.truncate(REMEMBERED_MAX - 1);
        kept.push_front((job, Instant::now(), digests.clone()));
        Ok(digests)
    }

    /// Those that still hold.
    fn kept(&self) -> MutexGuard<'_, VecDeque<(JobId, Instant, Digests)>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(_, at, _)| at.elapsed() < REMEMBERED_FOR);
        kept
    }
}
