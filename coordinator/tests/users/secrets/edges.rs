//! Secrets at their edges: keys that change at the wrong moment, limits met exactly, ranks that are over, and people who
//! stand beside the project.

use std::fmt::Write as _;

use marquee_coordinator::secrets::{Keyring, SecretKeys};
use marquee_domain::secret::{NAME_MAX_BYTES, OF_JOB_MAX, SECRETS_MAX, VALUE_MAX_BYTES};
use marquee_proto::v1::{FailureClass, JobState};
use marquee_store::secrets::SecretPlace;

use super::*;
use crate::support::worker::FakeWorker;

const UNREADABLE: &str = "MQ0387";
const NOT_FOUND: &str = "MQ0388";
const NOT_FOR_IT: &str = "MQ0389";
const BAD_FIELD: &str = "MQ0102";
const BAD_DOCUMENT: &str = "MQ0101";
const OF_TOKEN: &str = "secrets = [\"TOKEN\"]";

/// A coordinator with a key, one secret of the project "default", and a worker.
struct Scene {
    cluster: Cluster,
    owner: Person,
    worker: FakeWorker,
    key: String,
}

impl Scene {
    async fn start() -> Self {
        let cluster = Cluster::start().await;
        let mut owner = Person::owner(&cluster.running.address).await;
        let key = new_key().unwrap();
        cluster.write_keys(&[&key]);
        owner.set(token(VALUE)).await.unwrap();
        let worker = cluster.worker("w1").await;
        Self {
            cluster,
            owner,
            worker,
            key,
        }
    }

    /// The rank of a new job that names the secret, held by the worker.
    async fn rank(&mut self) -> Key {
        let keys = format!("{OF_TOKEN}\nmax_attempts = 1");
        let job = self.owner.submit(&keys).await.unwrap();
        let key = self.worker.take_and_start().await;
        assert_eq!(key.0, job.id);
        key
    }

    async fn taken(&mut self, key: Key) -> Result<Vec<u8>, Status> {
        let worker = self.worker.id().to_string();
        let mut taken = self.owner.take(key, &worker).await?;
        assert_eq!(taken.len(), 1);
        Ok(taken.remove(0).1)
    }
}

async fn remove(owner: &mut Person) {
    let token = v1::RemoveSecretRequest {
        project: "default".into(),
        name: "TOKEN".into(),
        ..v1::RemoveSecretRequest::default()
    };
    owner.secrets.remove_secret(token).await.unwrap();
}

fn token(value: &[u8]) -> v1::SetSecretRequest {
    secret("default", "", "TOKEN", value)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_changed_while_ranks_start_keeps_none_of_them_waiting() {
    let mut scene = Scene::start().await;
    let key = scene.rank().await;
    let new = new_key().unwrap();
    scene.cluster.write_keys(&[&new, &scene.key]);
    let mut asking = tokio::task::JoinSet::new();
    let worker = scene.worker.id().to_string();
    for _ in 0..30 {
        let mut client = scene.owner.secrets.clone();
        let request = v1::TakeSecretsRequest {
            job_id: key.0,
            attempt: key.1,
            rank: key.2,
            worker_id: worker.clone(),
        };
        asking.spawn(async move { client.take_secrets(request).await });
    }
    // By two at once, as two administrators would.
    let mut other = scene.owner.secrets.clone();
    let rekey = v1::RekeySecretsRequest {};
    let (one, two) = tokio::join!(
        scene.owner.secrets.rekey_secrets(rekey),
        other.rekey_secrets(rekey)
    );
    let [one, two] = [one, two].map(|done| done.unwrap().into_inner().changed);
    assert_eq!(one + two, 1, "encrypted anew once");
    while let Some(answer) = asking.join_next().await {
        let taken = answer.unwrap().unwrap().into_inner().secrets;
        assert_eq!(taken[0].value, VALUE);
    }
    // The old key is needed no more.
    scene.cluster.write_keys(&[&new]);
    assert_eq!(scene.taken(key).await.unwrap(), VALUE);
}

#[tokio::test(flavor = "multi_thread")]
async fn under_a_key_that_is_another_one_nothing_is_given_and_all_can_be_set_anew() {
    let mut scene = Scene::start().await;
    let key = scene.rank().await;
    let wrong = new_key().unwrap();
    scene.cluster.write_keys(&[&wrong]);
    for _ in 0..2 {
        let status = refused_as(scene.taken(key).await, UNREADABLE);
        assert!(status.message().contains("TOKEN"), "{status}");
    }
    let rekey = v1::RekeySecretsRequest {};
    refused_as(scene.owner.secrets.rekey_secrets(rekey).await, UNREADABLE);
    let listed = scene.owner.secrets_of("default").await;
    assert!(!listed[0].has_current_key);
    // The one that it takes is named by both, and is none of the key itself.
    let key_id = &listed[0].key_id;
    assert!(!scene.key.contains(key_id.as_str()) && !key_id.is_empty());
    let set = scene.owner.set(token(OF_JOB)).await.unwrap();
    assert!(set.has_current_key && set.key_id != *key_id);
    assert_eq!(scene.taken(key).await.unwrap(), OF_JOB);
    // Put back, the old key reads nothing of the new one's.
    let old = scene.key.clone();
    scene.cluster.write_keys(&[&old]);
    refused_as(scene.taken(key).await, UNREADABLE);
    scene.cluster.write_keys(&[&old, &wrong]);
    assert_eq!(scene.taken(key).await.unwrap(), OF_JOB);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_goes_while_its_job_is_queued_is_missed_by_its_rank_and_by_nothing_else() {
    // No worker yet: jobs wait.
    let cluster = Cluster::start().await;
    let mut owner = Person::owner(&cluster.running.address).await;
    cluster.write_keys(&[&new_key().unwrap()]);
    owner.set(token(VALUE)).await.unwrap();
    let queued = owner.submit(OF_TOKEN).await.unwrap();
    let free = owner.submit("").await.unwrap();
    remove(&mut owner).await;
    refused_as(owner.submit(OF_TOKEN).await, BAD_DOCUMENT);
    let mut worker = cluster.worker("w1").await;
    let (one, other) = (worker.take().await, worker.take().await);
    let given = if one.job_id == queued.id {
        [&one, &other]
    } else {
        [&other, &one]
    };
    assert_eq!(given.map(|assign| assign.job_id), [queued.id, free.id]);
    let own = worker.id().to_string();
    let key = key_of(given[0]);
    let status = refused_as(owner.take(key, &own).await, NOT_FOUND);
    assert!(
        status.message().contains("marquee secret set TOKEN"),
        "{status}"
    );
    // The other one names none, and asks for none.
    assert!(owner.take(key_of(given[1]), &own).await.unwrap().is_empty());
    // Set again, the same rank gets it.
    owner.set(token(OF_JOB)).await.unwrap();
    assert_eq!(owner.take(key, &own).await.unwrap()[0].1, OF_JOB);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rank_that_is_over_or_is_to_stop_gets_nothing_more() {
    let mut scene = Scene::start().await;
    // It is not begun again, so that nothing waits for its next try.
    let first = scene.rank().await;
    assert_eq!(scene.taken(first).await.unwrap(), VALUE);
    scene
        .worker
        .fail(first, FailureClass::Network, "connection reset")
        .await;
    refused_as(scene.taken(first).await, NOT_FOR_IT);
    scene.cluster.wait_for(first.0, JobState::Failed).await;
    refused_as(scene.taken(first).await, NOT_FOR_IT);
    let second = scene.rank().await;
    // It finished.
    scene.worker.finish(second, None).await;
    refused_as(scene.taken(second).await, NOT_FOR_IT);
    scene.cluster.wait_for(second.0, JobState::Succeeded).await;
    refused_as(scene.taken(second).await, NOT_FOR_IT);
    // It is to stop, and its worker has not heard so.
    let third = scene.rank().await;
    let cancel = v1::CancelJobRequest { id: third.0 };
    scene.owner.jobs.cancel_job(cancel).await.unwrap();
    refused_as(scene.taken(third).await, NOT_FOR_IT);
    // Numbers that nobody has are no way round.
    for odd in [(i64::MAX, 1, 0), (-1, 1, 0), (third.0, u32::MAX, 0)] {
        let status = scene.taken(odd).await.unwrap_err();
        assert!(!format!("{status:?}").contains("hunter2"), "{status:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stands_beside_the_project_sees_names_at_most() {
    let mut scene = Scene::start().await;
    let address = scene.cluster.running.address.clone();
    let owner = &mut scene.owner;
    owner.project("vision").await;
    owner.project("audio").await;
    let of_vision = || secret("vision", "", "TOKEN_OF_VISION", VALUE);
    owner.set(of_vision()).await.unwrap();
    let mut viewer = owner.user(&address, "vera", &[("vision", "viewer")]).await;
    let mut beside = owner.user(&address, "bob", &[("audio", "submitter")]).await;
    // Names, and never what they hold.
    let seen = viewer.secrets_of("").await;
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].name, "TOKEN_OF_VISION");
    assert!(beside.secrets_of("").await.is_empty());
    let of = |project: &str| v1::ListSecretsRequest {
        project: project.into(),
    };
    for project in ["vision", "default"] {
        refused(beside.secrets.list_secrets(of(project)).await, ROLE_TOO_LOW);
    }
    let keys = |project: &str| format!("project = \"{project}\"\nsecrets = [\"TOKEN_OF_VISION\"]");
    for person in [&mut viewer, &mut beside] {
        refused_as(person.set(of_vision()).await, ROLE_TOO_LOW);
        // Nobody gets it by a job in the project that he may not submit to ...
        refused_as(person.submit(&keys("vision")).await, ROLE_TOO_LOW);
    }
    // ... nor by one in his own.
    let status = refused_as(beside.submit(&keys("audio")).await, BAD_DOCUMENT);
    let wrong = &PublicError::from(&status).fields[0];
    assert!(
        wrong.message.contains("project audio has no secret"),
        "{wrong:?}"
    );
    // One who loses his role sees nothing more.
    let role = v1::SetRoleRequest {
        name: "vera".into(),
        grants: vec![v1::Grant {
            project: "vision".into(),
            role: String::new(),
        }],
        dry_run: false,
    };
    scene.owner.users.set_role(role).await.unwrap();
    refused(viewer.secrets.list_secrets(of("")).await, ROLE_TOO_LOW);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_values_are_taken_up_to_their_limits() {
    let mut scene = Scene::start().await;
    let long = "N".repeat(NAME_MAX_BYTES);
    // Every byte but zero, up to the limit.
    let all: Vec<u8> = (1..=255).cycle().take(VALUE_MAX_BYTES).collect();
    let owner = &mut scene.owner;
    owner.set(secret("default", "", &long, &all)).await.unwrap();
    owner.set(secret("default", "", "_", b"x")).await.unwrap();
    for odd in [
        secret("default", "", &format!("{long}N"), VALUE),
        secret("default", "", &"\u{e9}".repeat(100), VALUE),
        secret("default", "", "", VALUE),
        secret("default", "", "MARQUEE_", VALUE),
        secret("default", "", "TMPDIR", VALUE),
        secret("default", &"j".repeat(10_000), "A", VALUE),
        secret(&"p".repeat(10_000), "", "A", VALUE),
        secret("default", "", "A", &[&all[..], b"x"].concat()),
    ] {
        let status = refused_as(owner.set(odd).await, BAD_FIELD);
        assert!(status.message().len() < 1_000, "{status}");
    }
    let job = owner
        .submit(&format!("secrets = [\"{long}\", \"_\"]"))
        .await
        .unwrap();
    let key = scene.worker.take_and_start().await;
    assert_eq!(key.0, job.id);
    let worker = scene.worker.id().to_string();
    let mut taken = scene.owner.take(key, &worker).await.unwrap();
    taken.sort();
    assert!(taken == [(long, all), ("_".to_owned(), b"x".to_vec())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_secrets_are_encrypted_anew_past_one_that_cannot_be_and_no_more_are_kept_than_may_be()
{
    let mut scene = Scene::start().await;
    let old = keyring(&scene.cluster, &[&scene.key]);
    // More than one transaction's, put there as they would be stored.
    let places: Vec<SecretPlace> = (0..120)
        .map(|number| SecretPlace {
            project: "default".parse().unwrap(),
            job: (number % 2 == 0).then(|| "one".parse().unwrap()),
            name: format!("S{number:03}").parse().unwrap(),
        })
        .collect();
    let mut insert = String::new();
    for place in &places {
        let sealed = old.seal(place, VALUE).unwrap();
        let bytes = sealed.bytes.iter().fold(String::new(), |mut digits, byte| {
            let _ = write!(digits, "{byte:02x}");
            digits
        });
        let job = place.job.as_ref().map_or("", |job| job.as_str());
        let (name, key_id) = (&place.name, &sealed.key_id);
        let _ = writeln!(
            insert,
            "INSERT INTO secrets VALUES ('default', '{job}', '{name}', '{key_id}', '\\x{bytes}', now(), 'a test');"
        );
    }
    // One is another's, moved: it opens nowhere.
    insert += "UPDATE secrets SET sealed = (SELECT sealed FROM secrets WHERE name = 'S001') WHERE name = 'S060';";
    scene.cluster.database.execute(&insert).await;
    let new = new_key().unwrap();
    scene.cluster.write_keys(&[&new, &scene.key]);
    let rekey = v1::RekeySecretsRequest {};
    let status = refused_as(scene.owner.secrets.rekey_secrets(rekey).await, UNREADABLE);
    assert!(status.message().contains("S060"), "{status}");
    let mut others = scene.owner.secrets_of("default").await;
    others.retain(|secret| !secret.has_current_key);
    assert_eq!(others.len(), 1, "{others:?}");
    assert_eq!(others[0].name, "S060");
    // Names of a job: so many and not one more.
    let names = |count: usize| {
        let names: Vec<String> = (0..count).map(|at| format!("\"S{at:03}\"")).collect();
        format!("secrets = [{}]", names.join(", "))
    };
    let job = scene.owner.submit(&names(OF_JOB_MAX)).await.unwrap();
    refused_as(
        scene.owner.submit(&names(OF_JOB_MAX + 1)).await,
        BAD_DOCUMENT,
    );
    let key = scene.worker.take_and_start().await;
    assert_eq!(key.0, job.id);
    let worker = scene.worker.id().to_string();
    let taken = scene.owner.take(key, &worker).await.unwrap();
    assert_eq!(taken.len(), OF_JOB_MAX);
    assert!(taken.iter().all(|(_, value)| value == VALUE));
    // Of the cluster, too. What is there is set anew, and one that goes makes room.
    let there = scene.owner.secrets_of("").await.len();
    let more = SECRETS_MAX - there;
    let fill = format!(
        "INSERT INTO secrets SELECT 'default', '', 'F' || n, 'none', '\\x00', now(), 'a test'
         FROM generate_series(1, {more}) n"
    );
    scene.cluster.database.execute(&fill).await;
    let another = || secret("default", "", "ANOTHER", VALUE);
    let status = refused_as(scene.owner.set(another()).await, BAD_FIELD);
    assert!(status.message().contains("1000 secrets"), "{status}");
    scene.owner.set(token(OF_JOB)).await.unwrap();
    remove(&mut scene.owner).await;
    scene.owner.set(another()).await.unwrap();
}

fn keyring(cluster: &Cluster, lines: &[&str]) -> Keyring {
    cluster.write_keys(lines);
    let keys: &SecretKeys = &cluster.app().secret_keys;
    keys.read().unwrap()
}
