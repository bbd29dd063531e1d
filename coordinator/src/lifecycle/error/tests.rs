use marquee_domain::ids::{AttemptNumber, Rank};
use marquee_proto::error::PublicError;

use super::*;

fn digest() -> Digest {
    Digest::of(b"x")
}

/// One of each, with the code that its page in docs/errors has.
fn all() -> Vec<(LifecycleError, ErrorCode)> {
    let job = JobId(7);
    let state = JobStateName::Running;
    let user = || "anna".parse::<UserName>().unwrap();
    let word = || "why".to_owned();
    use ErrorCode as Code;
    use LifecycleError as E;
    vec![
        (E::RequestIdReused(word()), Code::RequestIdReused),
        (E::CannotBurnIn(word()), Code::CannotBurnIn),
        (
            E::BurnInAtWork {
                gpu: "host-1/0".to_owned(),
                job,
            },
            Code::BurnInAtWork,
        ),
        (E::JobHasEnded { job, state }, Code::JobHasEnded),
        (E::JobHasNotEnded { job, state }, Code::JobNotRetryable),
        (
            E::CannotBeMadeAgain { job, why: word() },
            Code::JobNotRetryable,
        ),
        (
            E::NeedHasNotSucceeded {
                job,
                needs: JobId(6),
                name: "fetch".into(),
            },
            Code::JobNotRetryable,
        ),
        (
            E::NotNeeded {
                job,
                needs: JobId(6),
                name: "fetch".into(),
                ended: "succeeded",
            },
            Code::JobNotRetryable,
        ),
        (
            E::FollowerAtWork { job, by: JobId(8) },
            Code::JobNotRetryable,
        ),
        (E::ElementsStop { job, elements: 3 }, Code::JobNotRetryable),
        (
            E::ArrayIsCommitted {
                job,
                array: JobId(5),
            },
            Code::JobNotRetryable,
        ),
        (E::JobCannotBeHeld { job, state }, Code::JobNotHoldable),
        (E::JobCannotBeMoved { job, state }, Code::JobNotMovable),
        (E::ProjectNotFound(word()), Code::ProjectNotFound),
        (E::NoSecretKey(word()), Code::NoSecretKey),
        (E::SecretUnreadable(word()), Code::SecretUnreadable),
        (E::SecretNotFound(word()), Code::SecretNotFound),
        (E::SecretRefused(word()), Code::SecretRefused),
        (E::ScheduleNotFound(word()), Code::ScheduleNotFound),
        (E::ScheduleExists(word()), Code::ScheduleExists),
        (E::OverQuota(word()), Code::OverQuota),
        (E::WorkerNotFound(word()), Code::WorkerNotFound),
        (E::NoMember(word()), Code::WorkerNotFound),
        (E::StillHere(word()), Code::StillNeeded),
        (E::BadSetting(word()), Code::InvalidRequest),
        (E::Unstored(word()), Code::StorageUnavailable),
        (E::ArtifactNotFound(digest()), Code::ArtifactNotFound),
        (
            E::Needed {
                what: "artifact x".into(),
                by: "7, 8".into(),
                how: "run on it",
            },
            Code::StillNeeded,
        ),
        (
            E::Kept {
                pipeline: PipelineId(3),
                by: "anna".into(),
            },
            Code::StillNeeded,
        ),
        (E::NotAged(PipelineId(3)), Code::StillNeeded),
        (E::UserNotFound(user()), Code::UserNotFound),
        (E::UserExists(user()), Code::UserExists),
        (E::TokenNotFound(word()), Code::TokenNotFound),
        (E::RoleTooLow(word()), Code::RoleTooLow),
        (E::CannotRehearse(word()), Code::CannotRehearse),
        (E::Stopping, Code::StorageUnavailable),
        (E::Panicked(Panicked::from_panic(&"boom")), Code::Internal),
        (E::Store(StoreError::JobNotFound(job)), Code::JobNotFound),
        (
            E::Store(StoreError::PipelineNotFound(PipelineId(3))),
            Code::PipelineNotFound,
        ),
        (
            E::Store(StoreError::WorkerNameTaken(word())),
            Code::WorkerNameTaken,
        ),
        (
            E::Store(StoreError::WorkerOwned {
                what: "id",
                name: word(),
                owner: word(),
                identity: word(),
            }),
            Code::WorkerOwned,
        ),
        (
            E::Store(StoreError::StaleAttempt { job, attempt: 2 }),
            Code::Internal,
        ),
        (
            E::Store(StoreError::StaleRank {
                job,
                attempt: AttemptNumber(2),
                rank: Rank(0),
            }),
            Code::Internal,
        ),
        (
            E::Store(StoreError::Unreadable {
                column: "spec",
                value: word(),
            }),
            Code::Internal,
        ),
        (
            E::Store(StoreError::OutOfRange {
                what: "step",
                value: word(),
            }),
            Code::Internal,
        ),
        (E::Store(StoreError::Vanished("job")), Code::Internal),
        (
            E::Store(StoreError::NotLeading {
                mine: Some(4),
                leader: "http://head-2:7700".into(),
            }),
            Code::NotLeading,
        ),
        (
            E::Store(StoreError::NotLeading {
                mine: None,
                leader: String::new(),
            }),
            Code::NotLeading,
        ),
        (
            E::Blobs(objects(ObjectTrouble::Away)),
            Code::ObjectStoreAway,
        ),
        (
            E::Blobs(objects(ObjectTrouble::Refused)),
            Code::ObjectStoreRefuses,
        ),
        (E::Blobs(objects(ObjectTrouble::Full)), Code::LimitReached),
        (
            E::Blobs(BlobError::NotFound(digest())),
            Code::StorageUnavailable,
        ),
    ]
}

fn objects(trouble: ObjectTrouble) -> BlobError {
    let text = "could not read an object: it is away".to_owned();
    BlobError::Objects { trouble, text }
}

#[test]
fn each_error_has_its_code_and_words_that_say_what_is_meant() {
    for (error, code) in all() {
        let text = error.to_string();
        assert!(!text.is_empty());
        assert!(!text.ends_with('.'), "no full stop: {text}");
        let status = Status::from(error);
        let said = PublicError::from(&status).code;
        assert_eq!(said.as_deref(), Some(code.as_str()), "{text}");
        assert_eq!(status.message(), text);
    }
}

#[test]
fn only_what_may_work_later_is_tried_again_by_itself() {
    for (error, code) in all() {
        // A loop that tried one of the others again would do so for ever; one that gave these up would lose work.
        let passes = matches!(
            error,
            LifecycleError::Unstored(_) | LifecycleError::Blobs(_)
        );
        assert_eq!(error.may_pass(), passes, "{code:?}: {error}");
        assert!(!error.is_conflict(), "{error}");
        let stale = matches!(
            error,
            LifecycleError::Store(StoreError::StaleAttempt { .. } | StoreError::StaleRank { .. })
        );
        assert_eq!(error.is_stale(), stale, "{error}");
    }
}

#[test]
fn a_wrong_document_comes_with_each_of_its_fields() {
    let field = |path: &str| FieldError {
        field: path.into(),
        message: "is missing".into(),
    };
    let error = LifecycleError::InvalidDocument(vec![field("jobs.a.argv"), field("name")]);
    assert!(!error.may_pass());
    let status = Status::from(error);
    let public = PublicError::from(&status);
    assert_eq!(
        public.code.as_deref(),
        Some(ErrorCode::InvalidDocument.as_str())
    );
    let fields: Vec<&str> = public
        .fields
        .iter()
        .map(|field| field.field.as_str())
        .collect();
    assert_eq!(fields, ["jobs.a.argv", "name"]);
}

#[test]
fn whom_to_ask_instead_is_said_where_it_is_known() {
    let of = |leader: &str| {
        let error = StoreError::NotLeading {
            mine: Some(4),
            leader: leader.into(),
        };
        Status::from(LifecycleError::from(error))
    };
    assert!(
        of("http://head-2:7700")
            .message()
            .contains("http://head-2:7700")
    );
    let unknown = of("");
    assert!(!unknown.message().contains("()"), "{unknown}");
    assert_eq!(unknown.code(), of("http://head-2:7700").code());
}
