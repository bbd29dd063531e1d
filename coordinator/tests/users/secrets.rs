//! Secrets for jobs: who may set them, which jobs and workers get them, and what becomes of them when the key changes.

mod edges;

use marquee_coordinator::secrets::new_key;
use marquee_proto::error::PublicError;
use marquee_proto::v1;
use tonic::{Code, Status};

use super::{Person, ROLE_TOO_LOW, refused};
use crate::support::Cluster;
use crate::support::worker::{Key, key_of};

/// What no answer and no row may have in clear.
const VALUE: &[u8] = b"hunter2-of-all-the-project";
const OF_JOB: &[u8] = b"hunter2-of-one-job";

fn secret(project: &str, job: &str, name: &str, value: &[u8]) -> v1::SetSecretRequest {
    v1::SetSecretRequest {
        project: project.into(),
        job: job.into(),
        name: name.into(),
        value: value.to_vec(),
    }
}

impl Person {
    async fn set(&mut self, secret: v1::SetSecretRequest) -> Result<v1::Secret, Status> {
        self.secrets
            .set_secret(secret)
            .await
            .map(|set| set.into_inner())
    }

    async fn secrets_of(&mut self, project: &str) -> Vec<v1::Secret> {
        let request = v1::ListSecretsRequest {
            project: project.into(),
        };
        let listed = self.secrets.list_secrets(request).await.unwrap();
        listed.into_inner().secrets
    }

    async fn take(
        &mut self,
        (job_id, attempt, rank): Key,
        worker: &str,
    ) -> Result<Vec<(String, Vec<u8>)>, Status> {
        let request = v1::TakeSecretsRequest {
            job_id,
            attempt,
            rank,
            worker_id: worker.into(),
        };
        let taken = self.secrets.take_secrets(request).await?.into_inner();
        let pair = |secret: v1::SecretValue| (secret.name, secret.value);
        Ok(taken.secrets.into_iter().map(pair).collect())
    }
}

#[track_caller]
fn refused_as<T: std::fmt::Debug>(answer: Result<T, Status>, code: &str) -> Status {
    let status = answer.expect_err("it was let through");
    let public = PublicError::from(&status);
    assert_eq!(public.code.as_deref(), Some(code), "{status}");
    let text = format!("{status:?}");
    assert!(!text.contains("hunter2"), "{text}");
    status
}

/// Every line of the audit, as text.
async fn rows(cluster: &Cluster) -> String {
    let mut owner = Person::owner(&cluster.running.address).await;
    let audit = owner.audit.list(v1::ListAuditRequest::default()).await;
    let mut audit = audit.unwrap().into_inner();
    let mut text = String::new();
    while let Some(page) = audit.message().await.unwrap() {
        text += &format!("{page:?}");
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_set_by_an_administrator_of_its_project_and_shown_to_nobody() {
    let cluster = Cluster::start().await;
    let address = &cluster.running.address;
    let mut owner = Person::owner(address).await;
    owner.project("vision").await;
    owner.project("audio").await;
    let mut admin = owner.user(address, "ada", &[("vision", "admin")]).await;
    let mut submitter = owner.user(address, "bob", &[("vision", "submitter")]).await;
    let mut stranger = owner.user(address, "eve", &[("audio", "admin")]).await;
    let token = || secret("vision", "", "HF_TOKEN", VALUE);
    // Without a key there is nothing to keep it by, and the way out is said.
    let status = refused_as(admin.set(token()).await, "MQ0386");
    assert_eq!(status.code(), Code::FailedPrecondition);
    cluster.write_keys(&[&new_key().unwrap()]);
    let set = admin.set(token()).await.unwrap();
    assert!(
        set.has_current_key && set.set_by.starts_with("ada via token"),
        "{set:?}"
    );
    for person in [&mut submitter, &mut stranger] {
        refused_as(person.set(token()).await, ROLE_TOO_LOW);
        let remove = v1::RemoveSecretRequest {
            project: "vision".into(),
            name: "HF_TOKEN".into(),
            ..v1::RemoveSecretRequest::default()
        };
        refused(person.secrets.remove_secret(remove).await, ROLE_TOO_LOW);
        refused(
            person
                .secrets
                .rekey_secrets(v1::RekeySecretsRequest {})
                .await,
            ROLE_TOO_LOW,
        );
        // Whoever may submit is no worker.
        refused_as(person.take((1, 1, 0), "").await, ROLE_TOO_LOW);
    }
    assert_eq!(submitter.secrets_of("").await.len(), 1);
    assert!(stranger.secrets_of("").await.is_empty());
    // Odd ones, each with its field named.
    for (odd, field) in [
        (secret("vision", "", "2A", VALUE), "name"),
        (secret("vision", "", "RANK", VALUE), "name"),
        (secret("vision", "", "A=B", VALUE), "name"),
        (secret("vision", "Job", "A", VALUE), "job"),
        (secret("Vision", "", "A", VALUE), "project"),
        (secret("vision", "", "A", b""), "value"),
        (secret("vision", "", "A", b"hunter2\0"), "value"),
        (secret("vision", "", "A", &[b'x'; 65 * 1024]), "value"),
    ] {
        let status = refused_as(owner.set(odd).await, "MQ0102");
        let fields = PublicError::from(&status).fields;
        assert!(
            fields.iter().any(|wrong| wrong.field == field) || status.message().contains(field),
            "{field}: {status}"
        );
    }
    refused_as(owner.set(secret("nowhere", "", "A", VALUE)).await, "MQ0331");
    // Set anew and removed; the audit has who and what, and not what it holds.
    admin
        .set(secret("vision", "", "HF_TOKEN", OF_JOB))
        .await
        .unwrap();
    let remove = |job: &str| v1::RemoveSecretRequest {
        project: "vision".into(),
        job: job.into(),
        name: "HF_TOKEN".into(),
    };
    refused(admin.secrets.remove_secret(remove("train")).await, "MQ0388");
    admin.secrets.remove_secret(remove("")).await.unwrap();
    refused(admin.secrets.remove_secret(remove("")).await, "MQ0388");
    let audit = rows(&cluster).await;
    for said in ["secret_set", "secret_removed", "ada via token", "HF_TOKEN"] {
        assert!(audit.contains(said), "{said}: {audit}");
    }
    assert!(!audit.contains("hunter2"), "{audit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_worker_that_holds_a_rank_gets_what_its_job_names() {
    let cluster = Cluster::start().await;
    let address = &cluster.running.address;
    let mut owner = Person::owner(address).await;
    owner.project("vision").await;
    let (old, new) = (new_key().unwrap(), new_key().unwrap());
    cluster.write_keys(&[&old]);
    for (project, job, name) in [
        ("vision", "", "HF_TOKEN"),
        ("vision", "other", "OF_OTHER"),
        ("default", "", "OF_DEFAULT"),
    ] {
        owner.set(secret(project, job, name, VALUE)).await.unwrap();
    }
    // Names that are not there for the job are refused before anything runs, with the way out.
    for name in ["OF_OTHER", "OF_DEFAULT", "NONE"] {
        let keys = format!("project = \"vision\"\nsecrets = [\"HF_TOKEN\", \"{name}\"]");
        let status = refused_as(owner.submit(&keys).await, "MQ0101");
        let wrong = &PublicError::from(&status).fields[0];
        assert_eq!(wrong.field, "jobs.one.secrets");
        assert!(
            wrong
                .message
                .contains(&format!("marquee secret set {name}")),
            "{wrong:?}"
        );
    }
    let mut worker = cluster.worker("w1").await;
    let job = owner
        .submit("project = \"vision\"\nsecrets = [\"HF_TOKEN\"]")
        .await
        .unwrap();
    let assign = worker.take().await;
    assert_eq!(assign.job_id, job.id);
    let own = worker.id().to_string();
    let others = cluster.worker("w2").await.id().to_string();
    let key = key_of(&assign);
    let spec = format!("{assign:?}");
    assert!(
        spec.contains("HF_TOKEN") && !spec.contains("hunter2"),
        "{spec}"
    );
    assert_eq!(
        owner.take(key, &own).await.unwrap(),
        [("HF_TOKEN".to_owned(), VALUE.to_vec())]
    );
    // The job's own goes before the project's.
    owner
        .set(secret("vision", "one", "HF_TOKEN", OF_JOB))
        .await
        .unwrap();
    let taken = owner.take(key, &own).await.unwrap();
    assert_eq!(taken, [("HF_TOKEN".to_owned(), OF_JOB.to_vec())]);
    // Another worker, another attempt, another rank, another job.
    let (id, attempt, rank) = key;
    refused_as(owner.take(key, &others).await, "MQ0389");
    for wrong in [
        (id, attempt + 1, rank),
        (id, attempt, 1),
        (id + 1, attempt, rank),
    ] {
        refused_as(owner.take(wrong, &own).await, "MQ0389");
    }
    refused_as(owner.take(key, "nobody").await, "MQ0102");
    // A key that is not the one, none, and the new one before the old.
    cluster.write_keys(&[&new]);
    let status = refused_as(owner.take(key, &own).await, "MQ0387");
    assert!(status.message().contains("add that key"), "{status}");
    cluster.write_keys(&["not a key"]);
    refused_as(owner.take(key, &own).await, "MQ0386");
    cluster.write_keys(&[&new, &old]);
    assert_eq!(owner.take(key, &own).await.unwrap()[0].1, OF_JOB);
    assert!(
        owner
            .secrets_of("vision")
            .await
            .iter()
            .all(|secret| !secret.has_current_key)
    );
    let rekey = v1::RekeySecretsRequest {};
    let done = owner
        .secrets
        .rekey_secrets(rekey)
        .await
        .unwrap()
        .into_inner();
    assert_eq!((done.changed, done.secrets), (4, 4));
    let again = owner
        .secrets
        .rekey_secrets(rekey)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(again.changed, 0);
    cluster.write_keys(&[&new]);
    assert_eq!(owner.take(key, &own).await.unwrap()[0].1, OF_JOB);
    assert!(
        owner
            .secrets_of("")
            .await
            .iter()
            .all(|secret| secret.has_current_key)
    );
    // Removed meanwhile: the rank fails for it.
    for job in ["", "one"] {
        let remove = v1::RemoveSecretRequest {
            project: "vision".into(),
            job: job.into(),
            name: "HF_TOKEN".into(),
        };
        owner.secrets.remove_secret(remove).await.unwrap();
    }
    refused_as(owner.take(key, &own).await, "MQ0388");
    let audit = rows(&cluster).await;
    assert!(
        audit.contains("secret_rekeyed") && !audit.contains("hunter2"),
        "{audit}"
    );
}
