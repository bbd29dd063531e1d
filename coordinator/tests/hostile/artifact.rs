//! Hostile and damaged artifacts: what jobs put forward, and what the disk has made of what they stored.

use bytes::Bytes;
use marquee_domain::artifact::Digest;
use marquee_domain::limits::CHUNK_BYTES;
use marquee_proto::v1;
use marquee_proto::v1::artifacts_client::ArtifactsClient;
use marquee_proto::v1::get_artifact_request::Which;
use marquee_proto::v1::upload_blob_request::Part;
use marquee_proto::v1::{FailureClass, JobState};
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::{ONE, all_is_well};
use crate::support::{Cluster, SOON, channel};

type Client = ArtifactsClient<Channel>;

async fn client(cluster: &Cluster) -> Client {
    Client::new(channel(&cluster.running.address).await)
}

/// Reads a blob as a worker does; the error that ends it.
async fn download(
    client: &mut Client,
    digest: &Digest,
    offset: u64,
    size_bytes: Option<u64>,
) -> Result<usize, Status> {
    let request = v1::DownloadBlobRequest {
        digest: digest.to_string(),
        offset,
        size_bytes,
        job_id: 0,
    };
    let mut chunks = client.download_blob(request).await?.into_inner();
    let mut bytes = 0;
    while let Some(part) = chunks.message().await? {
        bytes += part.chunk.len();
    }
    Ok(bytes)
}

async fn upload(client: &mut Client, contents: &'static [u8]) {
    let header = v1::UploadBlobHeader {
        digest: Digest::of(contents).to_string(),
        size_bytes: contents.len() as u64,
        ..Default::default()
    };
    let chunks = contents.chunks(CHUNK_BYTES).map(Bytes::from_static);
    let parts: Vec<v1::UploadBlobRequest> = std::iter::once(Part::Header(header))
        .chain(chunks.map(Part::Chunk))
        .map(|part| v1::UploadBlobRequest { part: Some(part) })
        .collect();
    client
        .upload_blob(futures::stream::iter(parts))
        .await
        .unwrap();
}

/// A rank that lies about what it uploaded ends its own job, and costs nobody a file.
#[tokio::test(flavor = "multi_thread")]
async fn sizes_of_a_manifest_are_held_against_the_files() {
    let cluster = Cluster::start().await;
    let mut worker = cluster.worker("w").await;
    let honest = cluster.output("model.bin", b"weights").await;
    for size_bytes in [0, 6, 8, 1 << 40] {
        let id = cluster.submit(ONE).await[0].id;
        let key = worker.take_and_start().await;
        let mut lie = honest.clone();
        lie.files[0].size_bytes = size_bytes;
        worker.finish(key, Some(lie)).await;
        let job = cluster
            .wait_until(id, "failed", |job| job.failure.is_some())
            .await;
        let failure = job.failure.unwrap();
        let said = format!("has 7 bytes here, not {size_bytes}");
        assert!(failure.message.contains(&said), "{failure:?}");
        let mut jobs = cluster.jobs().await;
        let _ = jobs.cancel_job(v1::CancelJobRequest { id }).await;
        cluster
            .wait_until(id, "over", |job| job.finished_at.is_some())
            .await;
    }
    let id = cluster.submit(ONE).await[0].id;
    let key = worker.take_and_start().await;
    worker.finish(key, Some(honest)).await;
    cluster.wait_for(id, JobState::Succeeded).await;
    all_is_well(&cluster, &mut worker).await;
}

/// A reader waited for hours for bytes that were not there.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_blob_is_an_error_at_once_and_its_artifact_is_named() {
    static CONTENTS: [u8; CHUNK_BYTES + 99] = [7; CHUNK_BYTES + 99];
    let cluster = Cluster::start().await;
    let mut worker = cluster.worker("w").await;
    let id = cluster.submit(ONE).await[0].id;
    let key = worker.take_and_start().await;
    let output = cluster.output("model.bin", &CONTENTS).await;
    worker.finish(key, Some(output)).await;
    cluster.wait_for(id, JobState::Succeeded).await;

    let mut client = client(&cluster).await;
    let (digest, size) = (Digest::of(&CONTENTS), CONTENTS.len() as u64);
    let place = cluster.blob(&CONTENTS);
    for (what, stored) in [
        ("short", CONTENTS[..1000].to_vec()),
        ("empty", Vec::new()),
        ("changed", [&CONTENTS[1..], b"x"].concat()),
    ] {
        assert_eq!(
            download(&mut client, &digest, 0, Some(size)).await.unwrap(),
            CONTENTS.len()
        );
        std::fs::write(&place, &stored).unwrap();
        // Also for one that was interrupted and goes on: what it lacks does not come.
        let offset = if what == "short" { 2_000 } else { 0 };
        let told = timeout(SOON, download(&mut client, &digest, offset, Some(size)));
        let status = told.await.expect("nobody waits").unwrap_err();
        assert_eq!(status.code(), Code::DataLoss, "{what}: {status}");
        let public = marquee_proto::error::PublicError::from(&status);
        assert_eq!(public.code.as_deref(), Some("MQ0402"), "{what}");

        let which = Some(Which::JobId(id));
        let request = v1::GetArtifactRequest { which };
        let artifact = client.get_artifact(request).await.unwrap().into_inner();
        assert!(artifact.damaged.contains("model.bin"), "{artifact:?}");
        let listed = client
            .list_artifacts(v1::ListArtifactsRequest::default())
            .await
            .unwrap()
            .into_inner();
        assert!(listed.artifacts[0].damaged.contains("model.bin"));
        // Whoever has the file may bring it again, and all is well.
        upload(&mut client, &CONTENTS).await;
        let artifact = client.get_artifact(request_of(id)).await.unwrap();
        assert_eq!(artifact.into_inner().damaged, "");
    }
    all_is_well(&cluster, &mut worker).await;
}

fn request_of(job: i64) -> v1::GetArtifactRequest {
    v1::GetArtifactRequest {
        which: Some(Which::JobId(job)),
    }
}

const CHAIN: &str = "[jobs.make]\nkind = \"command\"\nargv = [\"true\"]\n\
    [jobs.take]\nkind = \"command\"\nargv = [\"true\"]\ninputs = { data = \"make.output\" }\n";

/// A file name with a line feed made the digest of another folder, and an honest consumer was given the evil files.
#[tokio::test(flavor = "multi_thread")]
async fn a_stored_manifest_that_could_pass_for_another_is_given_to_nobody() {
    let cluster = Cluster::start().await;
    let mut worker = cluster.worker("w").await;
    let jobs = cluster.submit(CHAIN).await;
    let key = worker.take_and_start().await;
    let output = cluster.output("data", b"data").await;
    worker.finish(key, Some(output)).await;
    cluster.wait_for(jobs[0].id, JobState::Succeeded).await;
    let take = worker.take().await;
    assert_eq!(
        take.inputs[0].manifest.as_ref().unwrap().files[0].path,
        "data"
    );
    worker.prepare(&take).await;
    let key = crate::support::worker::key_of(&take);
    worker.started(key).await;
    worker.finish(key, None).await;
    cluster.wait_for(jobs[1].id, JobState::Succeeded).await;

    // As a version stored it that took any name and any size.
    for (field, value) in [
        ("path", "\"a\\n00  b\""),
        ("path", "\"../../x\""),
        ("size_bytes", "18446744073709551615"),
        ("digest", "\"\""),
    ] {
        let jobs = cluster.submit(CHAIN).await;
        let key = worker.take_and_start().await;
        let output = cluster.output("data", b"data").await;
        cluster
            .database
            .execute(&format!(
                "CREATE OR REPLACE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                   NEW.manifest := jsonb_set(NEW.manifest, '{{files,0,{field}}}', '{value}');
                   RETURN NEW; END $$;
                 CREATE OR REPLACE TRIGGER poison BEFORE INSERT ON artifacts
                   FOR EACH ROW EXECUTE FUNCTION poison()"
            ))
            .await;
        worker.finish(key, Some(output)).await;
        cluster.wait_for(jobs[0].id, JobState::Succeeded).await;
        cluster
            .database
            .execute("DROP TRIGGER poison ON artifacts")
            .await;
        let failed = cluster.wait_for(jobs[1].id, JobState::Failed).await;
        let failure = failed.failure.unwrap();
        assert_eq!(
            failure.class(),
            FailureClass::BadInput,
            "{field}: {failure:?}"
        );
        assert!(failure.message.contains("manifest"), "{field}: {failure:?}");
    }
    all_is_well(&cluster, &mut worker).await;
}
