//! The steps of a rotation, on a coordinator in this process: each from each state, twice, at once, and given up wherever
//! one can be.

use std::collections::BTreeMap;

use marquee_coordinator::env::{Clock as _, Env, SystemClock};
use marquee_coordinator::trust::authority::{Authority, Files};
use marquee_coordinator::trust::init;
use marquee_proto::certificate::bundle;
use marquee_proto::v1::RotationStep::{self, Abandon, Begin, Finish, Switch};
use marquee_store::When;
use marquee_store::testing::TestDatabase;
use tonic::Status;
use tonic::transport::Channel;

use super::*;
use crate::support::{Cluster, Ground, channel};

const REFUSED: ErrorCode = ErrorCode::RotationNotReady;
const STEPS: [RotationStep; 4] = [Begin, Switch, Finish, Abandon];

/// An authority in a folder of its own, as `init` makes it.
fn authority(folder: &tempfile::TempDir) -> Files {
    let place = init::Place {
        data_dir: folder.path().to_owned(),
        listen: "127.0.0.1:7700".parse().unwrap(),
        address: Some("head:7700".to_owned()),
        has_other_certificates: false,
        certificate_life: chrono::TimeDelta::days(90),
    };
    init::init(&place, &[], SystemClock.now()).unwrap();
    Files::of(folder.path())
}

/// A coordinator with an authority, in this process.
struct Inside {
    _folder: tempfile::TempDir,
    files: Files,
    cluster: Cluster,
    client: TrustClient<Channel>,
}

impl Inside {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let files = authority(&folder);
        let ground = Ground {
            authority: Some(files.clone()),
            ..Ground::default()
        };
        let database = TestDatabase::create().await;
        let cluster = Cluster::start_with(database, Env::system(), ground).await;
        let client = TrustClient::new(channel(&cluster.running.address).await);
        Self {
            _folder: folder,
            files,
            cluster,
            client,
        }
    }

    async fn ask(
        &self,
        step: RotationStep,
        force: bool,
        dry_run: bool,
    ) -> Result<v1::Rotation, Status> {
        let request = v1::RotateAuthorityRequest {
            step: step.into(),
            force,
            dry_run,
        };
        let mut client = self.client.clone();
        Ok(client.rotate_authority(request).await?.into_inner())
    }

    async fn take(&self, step: RotationStep) -> Result<v1::Rotation, Status> {
        self.ask(step, false, false).await
    }

    async fn status(&self) -> v1::Rotation {
        let mut client = self.client.clone();
        let request = v1::GetRotationRequest {};
        client.get_rotation(request).await.unwrap().into_inner()
    }

    /// Everything in the folder of certificates and keys.
    fn all_files(&self) -> BTreeMap<String, Vec<u8>> {
        let entries = std::fs::read_dir(&self.files.folder).unwrap();
        let read = entries.map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().to_string_lossy().into_owned();
            (name, std::fs::read(entry.path()).unwrap())
        });
        read.collect()
    }

    /// The pins that are believed, the one that signs first.
    fn believed(&self) -> Vec<String> {
        let pem = std::fs::read_to_string(self.files.ca()).unwrap();
        bundle::pins(&bundle::read(&pem).unwrap())
    }

    async fn audit(&self) -> Vec<String> {
        let query = "SELECT concat_ws(' ', kind, detail->>'next') FROM audit
                     WHERE kind LIKE 'authority_%' ORDER BY id";
        self.cluster.database.words(query).await
    }

    async fn fail_next(&self, operation: &'static str, when: When) {
        self.cluster.database.db.fail_next(operation, when);
    }
}

#[tokio::test]
async fn each_step_is_refused_from_each_wrong_state_and_changes_nothing() {
    let inside = Inside::start().await;
    let mut rows = 0;
    // The step that leads on, and all that can be taken in the state after it.
    for (step, phase, may) in [
        (None, "", &[Begin][..]),
        (Some(Begin), "begun", &[Switch, Abandon]),
        (Some(Abandon), "abandoned", &[Begin]),
        (Some(Begin), "begun", &[Switch, Abandon]),
        (Some(Switch), "switched", &[Finish]),
        (Some(Finish), "finished", &[Begin]),
        (Some(Begin), "begun", &[Switch, Abandon]),
    ] {
        if let Some(step) = step {
            let taken = inside.take(step).await.unwrap();
            assert_eq!(taken.phase, phase, "{step:?}");
            rows += 1;
        }
        let (files, audit) = (inside.all_files(), inside.audit().await);
        assert_eq!(audit.len(), rows, "{audit:?}");
        for step in STEPS {
            // A try says how far it is where the step may follow, and refuses as the step would.
            let tried = inside.ask(step, true, true).await;
            if may.contains(&step) {
                assert_eq!(tried.unwrap().phase, phase, "{phase}: {step:?}");
                continue;
            }
            let why = tried.unwrap_err();
            code(&why, REFUSED);
            for force in [false, true] {
                let status = inside.ask(step, force, false).await.unwrap_err();
                code(&status, REFUSED);
                assert_eq!(status.message(), why.message(), "{phase}: {step:?}");
            }
        }
        assert_eq!(inside.status().await.phase, phase);
        assert_eq!(inside.all_files(), files, "{phase}");
        assert_eq!(inside.audit().await, audit, "{phase}");
    }
    let nonsense = v1::RotateAuthorityRequest::default();
    let mut client = inside.client.clone();
    let status = client.rotate_authority(nonsense).await.unwrap_err();
    code(&status, ErrorCode::InvalidRequest);
}

#[tokio::test]
async fn of_two_that_take_a_step_at_once_one_takes_it() {
    let inside = Inside::start().await;
    let first = inside.believed();
    for (step, phase) in [(Begin, "begun"), (Switch, "switched"), (Finish, "finished")] {
        let (one, two) = tokio::join!(inside.take(step), inside.take(step));
        let (taken, status) = match (one, two) {
            (Ok(taken), Err(status)) | (Err(status), Ok(taken)) => (taken, status),
            (Ok(_), Ok(_)) => panic!("both took {step:?}"),
            (Err(one), Err(two)) => panic!("neither took {step:?}: {one}, {two}"),
        };
        code(&status, REFUSED);
        assert_eq!(taken.phase, phase);
        // The key that is kept is the one of the authority that was told to everybody.
        Authority::open(&inside.files).unwrap();
        assert!(inside.believed().contains(&taken.next));
        assert_eq!(
            inside.audit().await.last().unwrap(),
            &format!("authority_{phase} {}", taken.next)
        );
    }
    assert_eq!(inside.audit().await.len(), 3);
    assert_ne!(inside.believed(), first);
    assert_eq!(inside.believed().len(), 1);
    assert!(!inside.files.next_key().exists());
}

#[tokio::test]
async fn a_rotation_is_given_up_wherever_it_stands_and_leaves_the_authority_as_it_was() {
    let inside = Inside::start().await;
    let before = inside.all_files();
    let begin = async || inside.take(Begin).await.unwrap().next;
    // At once.
    let one = begin().await;
    inside.take(Abandon).await.unwrap();
    assert_eq!(inside.all_files(), before);
    // With its key lost, without which it cannot go on; no word makes it.
    let two = begin().await;
    std::fs::remove_file(inside.files.next_key()).unwrap();
    for force in [false, true] {
        let status = inside.ask(Switch, force, false).await.unwrap_err();
        code(&status, REFUSED);
        assert!(status.message().contains("is not on the host"), "{status}");
    }
    let status = inside.status().await;
    assert!(
        status.hindrances.len() == 1 && !status.hindrances[0].can_be_forced,
        "{status:?}"
    );
    inside.take(Abandon).await.unwrap();
    assert_eq!(inside.all_files(), before);
    // With a key of something else in its place, which is nobody's to remove.
    let three = begin().await;
    std::fs::copy(inside.files.ca_key(), inside.files.next_key()).unwrap();
    let status = inside.ask(Switch, true, false).await.unwrap_err();
    assert!(status.message().contains("is not on the host"), "{status}");
    inside.take(Abandon).await.unwrap();
    assert!(inside.files.next_key().exists());
    // With what it believes beside put back by hand, as from a backup.
    let four = begin().await;
    std::fs::write(inside.files.ca(), &before["ca.pem"]).unwrap();
    inside.take(Abandon).await.unwrap();
    assert_eq!(inside.all_files(), before);
    let pins = [&one, &two, &three, &four];
    let rows: Vec<String> = pins
        .iter()
        .flat_map(|pin| ["begun", "abandoned"].map(|phase| format!("authority_{phase} {pin}")))
        .collect();
    assert_eq!(inside.audit().await, rows, "each has a key of its own");
    // And another one goes through.
    begin().await;
    inside.take(Switch).await.unwrap();
    inside.take(Finish).await.unwrap();
    assert_eq!(inside.believed(), [inside.status().await.next]);
}

#[tokio::test]
async fn a_step_whose_commit_failed_is_taken_again_and_one_whose_answer_was_lost_was_taken() {
    let inside = Inside::start().await;
    let before = inside.believed();
    let named = |status: Status| code(&status, ErrorCode::StorageUnavailable);
    // Nothing is stored, and what is left of the try is in nobody's way.
    inside.fail_next("begin rotation", When::BeforeCommit).await;
    named(inside.take(Begin).await.unwrap_err());
    assert_eq!(inside.status().await.phase, "");
    assert_eq!(inside.believed(), before);
    // Stored, and nobody heard so: it goes on from there with the key that it has.
    inside.fail_next("begin rotation", When::AfterCommit).await;
    named(inside.take(Begin).await.unwrap_err());
    let begun = inside.status().await;
    assert_eq!(begun.phase, "begun");
    told(inside.take(Begin).await, REFUSED, "has begun already");
    inside.fail_next("rotation", When::BeforeCommit).await;
    named(inside.take(Switch).await.unwrap_err());
    assert_eq!(inside.status().await.phase, "begun");
    inside.fail_next("rotation", When::AfterCommit).await;
    named(inside.take(Switch).await.unwrap_err());
    let switched = inside.status().await;
    assert_eq!(
        (&switched.phase[..], &switched.next),
        ("switched", &begun.next)
    );
    // The files come along with the next step, whatever they missed.
    inside.take(Finish).await.unwrap();
    assert_eq!(inside.believed(), [begun.next]);
    Authority::open(&inside.files).unwrap();
    let shown = std::fs::read_to_string(inside.files.server()).unwrap();
    assert_eq!(bundle::read(&shown).unwrap()[1].pin, inside.believed()[0]);
    assert!(!inside.files.next_key().exists());
    assert_eq!(inside.audit().await.len(), 3);
}

#[tokio::test]
async fn more_authorities_than_anybody_reads_are_not_begun() {
    let inside = Inside::start().await;
    let mut pem = std::fs::read_to_string(inside.files.ca()).unwrap();
    for _ in 1..bundle::AUTHORITIES_MAX {
        let folder = tempfile::tempdir().unwrap();
        pem += &std::fs::read_to_string(authority(&folder).ca()).unwrap();
    }
    std::fs::write(inside.files.ca(), &pem).unwrap();
    told(
        inside.take(Begin).await,
        ErrorCode::LimitReached,
        "8 authorities are believed already",
    );
    assert!(inside.audit().await.is_empty() && !inside.files.next_key().exists());
    // One less, and it fits; those beside it stay believed to the end.
    let mut fewer = bundle::read(&pem).unwrap();
    let gone = fewer.pop().unwrap().pin;
    std::fs::write(inside.files.ca(), bundle::text(&fewer)).unwrap();
    for step in [Begin, Switch, Finish] {
        inside.take(step).await.unwrap();
    }
    let believed = inside.believed();
    assert_eq!(believed.len(), bundle::AUTHORITIES_MAX - 1);
    assert_eq!(believed[1..], bundle::pins(&fewer)[1..]);
    assert!(!believed.contains(&gone));
}

#[tokio::test]
async fn where_there_is_no_authority_nothing_is_begun_and_the_way_out_is_said() {
    let cluster = Cluster::start().await;
    let mut client = TrustClient::new(channel(&cluster.running.address).await);
    for step in STEPS {
        let request = v1::RotateAuthorityRequest {
            step: step.into(),
            force: true,
            dry_run: false,
        };
        told(
            client.rotate_authority(request).await,
            ErrorCode::NoAuthority,
            "marquee-coordinator init",
        );
    }
    told(
        client.get_rotation(v1::GetRotationRequest {}).await,
        ErrorCode::NoAuthority,
        "has no authority of its own",
    );
}
