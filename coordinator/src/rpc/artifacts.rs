//! Artifacts and their blobs.

mod files;
mod page;

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use marquee_domain::artifact::{Digest, Manifest};
use marquee_domain::ids::JobId;
use marquee_domain::limits::CHUNK_BYTES;
use marquee_domain::users::Role;
use marquee_proto::convert::{BadField, timestamp};
use marquee_proto::error::ErrorCode;
use marquee_proto::v1::artifacts_server::Artifacts;
use marquee_proto::v1::get_artifact_request::Which;
use marquee_proto::v1::upload_blob_request::Part;
use marquee_proto::v1::{
    Artifact, BegunBlob, DownloadBlobRequest, DownloadBlobResponse, FindMissingBlobsRequest,
    FindMissingBlobsResponse, GetArtifactRequest, ListArtifactsRequest, ListArtifactsResponse,
    RemoveArtifactRequest, Removed, RescueOutputRequest, UploadBlobHeader, UploadBlobRequest,
    UploadBlobResponse, remove_artifact_request,
};
use marquee_store::Conn;
use marquee_store::{artifacts as table, jobs};
use tonic::{Request, Response, Status, Streaming};

use super::jobs::encode;
use super::scope;
use crate::app::App;
use crate::blobs::{BlobError, BlobStore, ObjectTrouble};
use crate::caller::Caller;
use crate::lifecycle::{self, LifecycleError, object_store_code};
use files::Files;
use page::Page;

/// Digits of a digest that name an artifact, at least: what listings show.
const PREFIX_MIN_DIGITS: usize = 12;
/// Digests in one question for missing blobs; 10,000 take 0.7 MB.
const DIGESTS_MAX: usize = 10_000;
/// How long the next part of an upload may take: longer means that the sender is gone.
const NEXT_PART_WITHIN: Duration = Duration::from_secs(60);
/// The slowest upload, beside that time: one that drips would keep its room on the disk from others for ever.
const SLOWEST_BYTES_PER_S: u64 = 64 * 1024;

/// The service.
#[derive(Debug)]
pub(super) struct ArtifactsService {
    app: App,
    files: Files,
}

impl ArtifactsService {
    pub(super) fn new(app: App) -> Self {
        let files = Files::default();
        Self { app, files }
    }

    async fn connection(&self) -> Result<Conn, Status> {
        self.app
            .db
            .read()
            .await
            .map_err(|error| LifecycleError::from(error).into())
    }
}

#[tonic::async_trait]
impl Artifacts for ArtifactsService {
    async fn list_artifacts(
        &self,
        request: Request<ListArtifactsRequest>,
    ) -> Result<Response<ListArtifactsResponse>, Status> {
        let seen = Caller::of(&request).projects(Role::Viewer);
        let page = Page::try_from(request.into_inner())?;
        let mut conn = self.connection().await?;
        let rows = page.read(&mut conn, seen.as_deref()).await?;
        let mut answer = page.answer(rows);
        // Asked only while anything is set aside: else each listing would read the list of files of every
        // row.
        if self.app.blobs.has_damaged() {
            for artifact in &mut answer.artifacts {
                let job = JobId(artifact.job_id);
                artifact.damaged = damaged(&mut conn, &self.app.blobs, job).await;
            }
        }
        Ok(Response::new(answer))
    }

    async fn get_artifact(
        &self,
        request: Request<GetArtifactRequest>,
    ) -> Result<Response<Artifact>, Status> {
        let caller = Caller::of(&request);
        let which = request
            .into_inner()
            .which
            .ok_or_else(|| BadField::missing("which"))?;
        let (artifact, manifest) = find(&mut self.connection().await?, which, &caller).await?;
        // Of one artifact the files themselves are looked at, which a listing could not afford.
        let checked = self.app.blobs.check(&manifest).await;
        let wrong = checked.map_err(blob_status)?.wrong;
        let damaged = wrong.first().map(|first| {
            format!(
                "{} of its files cannot be had, among them {first}",
                wrong.len()
            )
        });
        Ok(Response::new(Artifact {
            manifest: Some((&manifest).into()),
            damaged: damaged.unwrap_or_default(),
            ..to_wire(artifact)
        }))
    }

    async fn remove_artifact(
        &self,
        request: Request<RemoveArtifactRequest>,
    ) -> Result<Response<Removed>, Status> {
        let caller = Caller::of(&request);
        let RemoveArtifactRequest { which, dry_run } = request.into_inner();
        let which = match which.ok_or_else(|| BadField::missing("which"))? {
            remove_artifact_request::Which::Digest(digest) => Which::Digest(digest),
            remove_artifact_request::Which::JobId(id) => Which::JobId(id),
        };
        let mut conn = self.connection().await?;
        let digest = find_row(&mut conn, which, &caller).await?.digest;
        scope::artifact(&mut conn, &caller, Role::Submitter, &digest).await?;
        // Handed back: the removal takes one of its own, and with two a request the pool may run dry.
        drop(conn);
        let caller = caller.to_string();
        let why = "its artifact was removed";
        let removed = lifecycle::remove_artifact(&self.app, &digest, dry_run, &caller, why).await?;
        Ok(Response::new(encode::removed(&removed)))
    }

    async fn find_missing_blobs(
        &self,
        request: Request<FindMissingBlobsRequest>,
    ) -> Result<Response<FindMissingBlobsResponse>, Status> {
        let FindMissingBlobsRequest {
            digests,
            with_begun,
        } = request.into_inner();
        let digests = parse_digests(&digests)?;
        let missing = self.app.blobs.missing(digests).await.map_err(blob_status)?;
        let mut begun = Vec::new();
        // A worker of before does not ask for it: it sends each file from its beginning.
        for digest in missing.iter().filter(|_| with_begun) {
            let received_bytes = self.app.blobs.begun(digest).await.map_err(blob_status)?;
            if received_bytes > 0 {
                let digest = digest.to_string();
                begun.push(BegunBlob {
                    digest,
                    received_bytes,
                });
            }
        }
        let digests = missing.into_iter().map(String::from).collect();
        Ok(Response::new(FindMissingBlobsResponse { digests, begun }))
    }

    async fn upload_blob(
        &self,
        request: Request<Streaming<UploadBlobRequest>>,
    ) -> Result<Response<UploadBlobResponse>, Status> {
        receive(&self.app.blobs, request.into_inner()).await?;
        Ok(Response::new(UploadBlobResponse {}))
    }

    async fn rescue_output(
        &self,
        request: Request<RescueOutputRequest>,
    ) -> Result<Response<Artifact>, Status> {
        let caller = Caller::of(&request);
        let job = JobId(request.into_inner().job_id);
        scope::job(&self.app, &caller, Role::Submitter, job).await?;
        let mut conn = self.connection().await?;
        let store = |error| Status::from(LifecycleError::from(error));
        // A request that is repeated since its answer was lost finds what it asked for.
        let committed = table::find_artifact_of_job(&mut conn, job)
            .await
            .map_err(store)?;
        if committed.is_none() {
            // Of a job that is not there that is said, and not that no worker keeps its output.
            jobs::get_job(&mut conn, job).await.map_err(store)?;
            drop(conn);
            rescue(&self.app, job).await?;
            conn = self.connection().await?;
        }
        let (artifact, manifest) = find(&mut conn, Which::JobId(job.0), &caller).await?;
        Ok(Response::new(Artifact {
            manifest: Some((&manifest).into()),
            ..to_wire(artifact)
        }))
    }

    type DownloadBlobStream = BoxStream<'static, Result<DownloadBlobResponse, Status>>;

    async fn download_blob(
        &self,
        request: Request<DownloadBlobRequest>,
    ) -> Result<Response<Self::DownloadBlobStream>, Status> {
        let caller = Caller::of(&request);
        let DownloadBlobRequest {
            digest,
            offset,
            size_bytes,
            job_id,
        } = request.into_inner();
        let digest = parse_digest(&digest)?;
        self.files
            .check(&self.app, &caller, JobId(job_id), &digest)
            .await?;
        let reader = self.app.blobs.read(digest, offset, size_bytes).await;
        let chunks = stream::try_unfold(reader.map_err(blob_status)?, |mut reader| async move {
            let chunk = reader.next().await.map_err(blob_status)?;
            Ok(chunk.map(|chunk| (DownloadBlobResponse { chunk }, reader)))
        });
        Ok(Response::new(chunks.boxed()))
    }
}

async fn find(
    conn: &mut Conn,
    which: Which,
    caller: &Caller,
) -> Result<(table::Artifact, Manifest), Status> {
    let artifact = find_row(conn, which, caller).await?;
    let manifest = table::find_manifest_of_job(conn, artifact.job)
        .await
        .map_err(LifecycleError::from)?;
    let manifest = manifest.ok_or_else(|| {
        ErrorCode::Internal.status(format!("the artifact of job {} has vanished", artifact.job))
    })?;
    Ok((artifact, manifest))
}

/// The artifact that is named, among those that the caller may look at.
async fn find_row(
    conn: &mut Conn,
    which: Which,
    caller: &Caller,
) -> Result<table::Artifact, Status> {
    let store = |error| Status::from(LifecycleError::from(error));
    Ok(match which {
        Which::JobId(id) => {
            let found = table::find_artifact_of_job(&mut *conn, JobId(id))
                .await
                .map_err(store)?;
            let found = found.ok_or_else(|| {
                let text = format!("job {id} has committed no artifact; run \"marquee show {id}\"");
                ErrorCode::ArtifactNotFound.status(text)
            })?;
            scope::project(caller, Role::Viewer, &found.project, &format!("job {id}"))?;
            found
        }
        Which::Digest(prefix) => {
            check_prefix(&prefix)?;
            let seen = caller.projects(Role::Viewer);
            let mut found = table::list_artifacts_by_digest(&mut *conn, &prefix, seen.as_deref())
                .await
                .map_err(store)?;
            if found.len() > 1 {
                let text =
                    format!("{prefix:?} starts the digests of several artifacts; give more digits");
                return Err(ErrorCode::InvalidRequest.status(text));
            }
            found.pop().ok_or_else(|| {
                let text = format!("there is no artifact {prefix}; run \"marquee artifacts ls\"");
                ErrorCode::ArtifactNotFound.status(text)
            })?
        }
    })
}

/// Which file of a job's artifact was set aside; empty: none.
async fn damaged(conn: &mut Conn, blobs: &BlobStore, job: JobId) -> String {
    match table::find_manifest_of_job(conn, job).await {
        Ok(None) => String::new(),
        Ok(Some(manifest)) => match blobs.damaged_among(&manifest) {
            Some(path) => format!("its file {path:?} is damaged here and was set aside"),
            None => String::new(),
        },
        // The listing goes on without it.
        Err(error) => error.to_string(),
    }
}

fn check_prefix(prefix: &str) -> Result<(), BadField> {
    let is_hex = prefix
        .bytes()
        .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if is_hex && (PREFIX_MIN_DIGITS..=64).contains(&prefix.len()) {
        return Ok(());
    }
    let problem = format!(
        "{prefix:?} is not {PREFIX_MIN_DIGITS} to 64 lowercase hexadecimal digits of a digest"
    );
    Err(BadField::invalid("digest", problem))
}

fn to_wire(artifact: table::Artifact) -> Artifact {
    Artifact {
        digest: artifact.digest.into(),
        name: artifact.name,
        job_id: artifact.job.0,
        job_name: artifact.job_name.into(),
        pipeline_id: artifact.pipeline.0,
        attempt: artifact.attempt.0,
        size_bytes: artifact.size_bytes,
        committed_at: Some(timestamp(artifact.committed_at)),
        file_count: artifact.file_count,
        manifest: None,
        damaged: String::new(),
    }
}

fn parse_digest(text: &str) -> Result<Digest, BadField> {
    text.parse()
        .map_err(|error| BadField::invalid("digest", format!("{text:?}: {error}")))
}

fn parse_digests(texts: &[String]) -> Result<Vec<Digest>, BadField> {
    if texts.len() > DIGESTS_MAX {
        let problem = format!("{} are more than {DIGESTS_MAX}; ask in parts", texts.len());
        return Err(BadField::invalid("digests", problem));
    }
    texts.iter().map(|text| parse_digest(text)).collect()
}

/// Lets the worker that keeps an output of the job store it, and waits until it is the job's artifact.
async fn rescue(app: &App, job: JobId) -> Result<(), Status> {
    let (worker, kept) = app.sessions.kept_of(job).ok_or_else(|| {
        ErrorCode::CannotRescue.status(format!(
            "no connected worker keeps an output of job {job}; \"marquee explain {job}\" says whether one was kept, where, and until when: start that worker, or run \"marquee retry {job}\""
        ))
    })?;
    let gone = || {
        ErrorCode::StorageUnavailable.status(format!(
            "the worker that keeps the output of job {job} went away; run this again when it is back"
        ))
    };
    let answer = app.sessions.rescue(worker, kept.key).ok_or_else(gone)?;
    match answer.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(failure)) => Err(ErrorCode::CannotRescue.status(format!(
            "job {job}: {}; it is kept in {:?} on its worker: mend that there and run this again",
            failure.message, kept.path
        ))),
        Err(_) => Err(gone()),
    }
}

/// Takes an upload: a header, then chunks.
async fn receive(blobs: &BlobStore, mut parts: Streaming<UploadBlobRequest>) -> Result<(), Status> {
    let header = match next_part(&mut parts).await? {
        Some(Part::Header(header)) => header,
        Some(Part::Chunk(_)) | None => return Err(BadField::missing("header").into()),
    };
    let UploadBlobHeader {
        digest,
        size_bytes,
        offset,
    } = header;
    let mut writer = blobs
        .write_from(parse_digest(&digest)?, size_bytes, offset)
        .await
        .map_err(blob_status)?;
    // By its size: a large file over a slow line is no fault, and one that drips is.
    let longest = NEXT_PART_WITHIN + Duration::from_secs(size_bytes / SLOWEST_BYTES_PER_S);
    let all = async {
        while let Some(part) = next_part(&mut parts).await? {
            let chunk = match part {
                Part::Chunk(chunk) => checked_chunk(chunk)?,
                Part::Header(_) => return Err(BadField::invalid("header", "it came twice").into()),
            };
            writer.push(chunk).await.map_err(blob_status)?;
        }
        Ok::<(), Status>(())
    };
    match tokio::time::timeout(longest, all).await {
        Ok(done) => done?,
        Err(_) => {
            let seconds = longest.as_secs();
            return Err(Status::deadline_exceeded(format!(
                "an upload of {size_bytes} bytes may take {seconds} s; send it again"
            )));
        }
    }
    writer.finish().await.map_err(blob_status)
}

fn checked_chunk(chunk: Bytes) -> Result<Bytes, BadField> {
    if chunk.len() <= CHUNK_BYTES {
        return Ok(chunk);
    }
    let problem = format!(
        "{} bytes are more than the {CHUNK_BYTES} of one chunk",
        chunk.len()
    );
    Err(BadField::invalid("chunk", problem))
}

async fn next_part(parts: &mut Streaming<UploadBlobRequest>) -> Result<Option<Part>, Status> {
    let next = tokio::time::timeout(NEXT_PART_WITHIN, parts.message()).await;
    let next = next.map_err(|_| {
        let seconds = NEXT_PART_WITHIN.as_secs();
        Status::deadline_exceeded(format!(
            "nothing of the upload came for {seconds} s; send it again"
        ))
    })?;
    match next? {
        None => Ok(None),
        Some(request) => Ok(Some(request.part.ok_or_else(|| BadField::missing("part"))?)),
    }
}

fn blob_status(error: BlobError) -> Status {
    let code = match &error {
        BlobError::NotFound(_) => ErrorCode::BlobNotFound,
        BlobError::OffsetTooLarge { .. } => ErrorCode::InvalidRequest,
        BlobError::Damaged { .. } | BlobError::OtherSize { .. } => ErrorCode::BlobDamaged,
        // What is promised to others is free again when they are through.
        BlobError::Promised { .. } | BlobError::Moved(_) => ErrorCode::StorageUnavailable,
        BlobError::Objects { trouble, .. } => {
            // Of what only a person can mend somebody has to hear, however often the worker asks.
            match trouble {
                ObjectTrouble::Away => tracing::warn!("{error}"),
                ObjectTrouble::Refused | ObjectTrouble::Full => tracing::error!("{error}"),
            }
            object_store_code(*trouble)
        }
        BlobError::WrongSize { .. } | BlobError::WrongDigest { .. } => ErrorCode::BlobMismatch,
        BlobError::DiskFull { .. } => ErrorCode::LimitReached,
        BlobError::Io { .. } => {
            tracing::error!(%error, "the blob folder failed");
            ErrorCode::StorageUnavailable
        }
    };
    code.status(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_named_by_12_digits_or_more() {
        assert!(check_prefix("0123456789ab").is_ok());
        assert!(check_prefix(&"a".repeat(64)).is_ok());
        for bad in [
            "0123456789a",
            "0123456789AB",
            "0123456789a%",
            &"a".repeat(65),
        ] {
            assert!(check_prefix(bad).is_err(), "{bad}");
        }
    }
}
