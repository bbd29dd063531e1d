//! The report of an eval job, or of a preprocess job on its pictures, shown within the page. It is a file that a job
//! wrote, so it comes with walls of its own ([`headers::of_report`]).

use bytes::{Bytes, BytesMut};
use marquee_domain::artifact::FileEntry;
use marquee_domain::ids::JobId;
use marquee_domain::users::Role;
use marquee_store::{artifacts, jobs};
use tonic::body::Body;
use tonic::codegen::http::{Response, StatusCode, header};

use super::{headers, text, whole};
use crate::app::App;
use crate::users::Who;

/// The file within the artifact: of an eval job, and of a preprocess job.
const FILES: [&str; 2] = ["report.html", "quality.html"];
/// Bytes of a report that are shown: it is held in memory. Ours have a few megabytes; a larger one is fetched as a file.
const SHOWN_MAX_BYTES: u64 = 32 * 1024 * 1024;

/// The report in the artifact that a job committed.
pub(super) async fn serve(app: &App, job: &str, who: &Who) -> Response<Body> {
    let Ok(job) = job.parse::<i64>().map(JobId) else {
        return text(
            StatusCode::NOT_FOUND,
            "a report's address ends in the number of its job",
        );
    };
    match find(app, job, who).await {
        Ok(Some(file)) if file.size_bytes > SHOWN_MAX_BYTES => text(
            StatusCode::PAYLOAD_TOO_LARGE,
            &format!(
                "the report has {} bytes, and up to {SHOWN_MAX_BYTES} are shown here; fetch it: marquee artifacts get {job} {}",
                file.size_bytes, file.path
            ),
        ),
        Ok(Some(file)) => match load(app, &file).await {
            Ok(bytes) => document(bytes),
            Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, &why),
        },
        Ok(None) => text(
            StatusCode::NOT_FOUND,
            &format!(
                "job {job} has committed no artifact with a {}",
                FILES.join(" or a ")
            ),
        ),
        Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, &why),
    }
}

/// None where there is none, or its project is none that may be looked at.
async fn find(app: &App, job: JobId, who: &Who) -> Result<Option<FileEntry>, String> {
    let read = async {
        let mut conn = app.db.read().await?;
        let of = jobs::list_job_projects(&mut conn, &[job]).await?;
        // None, and not forbidden: whether there is such a job is nobody's business whose project it is not.
        if !of.iter().all(|(_, project)| who.may(Role::Viewer, project)) {
            return Ok(None);
        }
        artifacts::find_manifest_of_job(&mut conn, job).await
    };
    let manifest = read.await.map_err(|error| {
        tracing::warn!(%job, %error, "a report could not be looked up");
        "the report could not be looked up; try again".to_owned()
    })?;
    let files = manifest.into_iter().flat_map(|manifest| manifest.files);
    let files: Vec<FileEntry> = files.collect();
    let named = |name: &str| files.iter().find(|file| file.path == name).cloned();
    Ok(FILES.into_iter().find_map(named))
}

async fn load(app: &App, file: &FileEntry) -> Result<Bytes, String> {
    let read = async {
        let size = Some(file.size_bytes);
        let mut reader = app.blobs.read(file.digest.clone(), 0, size).await?;
        let mut bytes = BytesMut::new();
        while let Some(chunk) = reader.next().await? {
            bytes.extend_from_slice(&chunk);
        }
        Ok::<_, crate::blobs::BlobError>(bytes.freeze())
    };
    read.await.map_err(|error| error.to_string())
}

fn document(bytes: Bytes) -> Response<Body> {
    let mut answer = Response::new(whole(bytes));
    let headers = answer.headers_mut();
    headers::of_report(headers);
    headers::set(headers, header::CONTENT_TYPE, "text/html; charset=utf-8");
    answer
}
