//! Public errors: a short code that names a page of `docs/errors`, mapped once to a gRPC status.

use std::collections::HashMap;

use marquee_domain::pipeline::FieldError;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// `ErrorInfo.domain` of every error of ours.
pub const DOMAIN: &str = "marquee";

// A status travels in headers, and clients give up on more than 16 KiB of them: with an error that repeats what
// somebody sent, they would see a broken connection instead. Details are sent in base64, a third longer.

/// Bytes of a message. In headers a character that is none of ASCII's takes up to three times as many.
const MESSAGE_MAX_BYTES: usize = 2_000;
/// Bytes of a field's name and of what is wrong with it.
const FIELD_MAX_BYTES: usize = 300;
const FIELD_MESSAGE_MAX_BYTES: usize = 1_000;
/// Bytes of all fields that are told, and of what stands around each.
const FIELDS_MAX_BYTES: usize = 6_000;
const FIELD_FRAME_BYTES: usize = 12;
/// What stands in place of what was cut off.
const CUT: &str = " [...]";

/// Every public error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorCode {
    /// A pipeline or job document is wrong.
    InvalidDocument,
    /// A request's own fields are wrong.
    InvalidRequest,
    /// `request_id` was used for another document.
    RequestIdReused,
    JobNotFound,
    PipelineNotFound,
    ArtifactNotFound,
    BlobNotFound,
    /// The job has ended and cannot be cancelled.
    JobHasEnded,
    /// Only failed and cancelled jobs can be retried.
    JobNotRetryable,
    /// Another worker with this name is online.
    WorkerNameTaken,
    /// The worker's id or name belongs to another certificate.
    WorkerOwned,
    /// The worker belongs to another cluster.
    OtherCluster,
    /// No output of the job is kept that could become its artifact.
    CannotRescue,
    /// What is to be removed is still needed.
    StillNeeded,
    /// The account that asks may not use this coordinator.
    NotAllowed,
    /// Who asks has shown neither a certificate nor anything else.
    NotIdentified,
    /// A worker's certificate was shown for what workers may not do.
    NotForWorkers,
    /// A join token, or what was asked for with it, is not good.
    JoinRefused,
    /// The coordinator cannot sign certificates.
    NoAuthority,
    /// The worker was revoked or forgotten.
    WorkerRevoked,
    /// Another coordinator leads, or none does just now; this one may change nothing.
    NotLeading,
    /// Nobody that is known asks: a token is missing, or not valid.
    NotLoggedIn,
    /// Who asks has a role that is not enough.
    RoleTooLow,
    UserNotFound,
    TokenNotFound,
    /// There is a user of this name already.
    UserExists,
    /// Only a job that waits or is queued can be held and released.
    JobNotHoldable,
    /// Only what runs can be moved to another host.
    JobNotMovable,
    ProjectNotFound,
    /// The project has as much as it may have.
    OverQuota,
    WorkerNotFound,
    ScheduleNotFound,
    /// Another schedule has the name.
    ScheduleExists,
    /// Another daemon with the worker's id is connected.
    WorkerIdInUse,
    /// An upload's size or digest does not fit what was announced.
    BlobMismatch,
    /// A stored file is not what its digest says, or what was asked for.
    BlobDamaged,
    /// Postgres or the artifact folder cannot be reached just now.
    StorageUnavailable,
    /// The object store with the artifacts does not answer just now.
    ObjectStoreAway,
    /// The object store with the artifacts refuses: a person has to change something.
    ObjectStoreRefuses,
    /// A written limit was reached.
    LimitReached,
    /// A fault of Marquee's own.
    Internal,
    /// The coordinator died again and again of the same thing, and only reads are served.
    SafeMode,
    /// A rehearsal would do harm that does not mend by itself, or finds nothing to break.
    CannotRehearse,
    /// The coordinator has no key for secrets.
    NoSecretKey,
    /// A secret cannot be read by any key that the coordinator has.
    SecretUnreadable,
    SecretNotFound,
    /// Secrets are not handed to who asks.
    SecretRefused,
    /// A step from one authority to the next would shut somebody out, or is not the next one.
    RotationNotReady,
    /// The GPU is not in quarantine, or cannot be tested where it is.
    CannotBurnIn,
    /// A burn-in of the GPU is under way.
    BurnInAtWork,
    /// The coordinator's host cannot dump its database.
    CannotDump,
}

impl ErrorCode {
    /// Every code, for the check that each has its page.
    pub const ALL: [Self; 51] = [
        Self::InvalidDocument,
        Self::InvalidRequest,
        Self::RequestIdReused,
        Self::JobNotFound,
        Self::PipelineNotFound,
        Self::ArtifactNotFound,
        Self::BlobNotFound,
        Self::JobHasEnded,
        Self::JobNotRetryable,
        Self::WorkerNameTaken,
        Self::WorkerOwned,
        Self::OtherCluster,
        Self::CannotRescue,
        Self::WorkerIdInUse,
        Self::StillNeeded,
        Self::NotLeading,
        Self::JobNotHoldable,
        Self::ProjectNotFound,
        Self::OverQuota,
        Self::WorkerNotFound,
        Self::NotAllowed,
        Self::JobNotMovable,
        Self::NotLoggedIn,
        Self::RoleTooLow,
        Self::UserNotFound,
        Self::TokenNotFound,
        Self::UserExists,
        Self::NotIdentified,
        Self::NotForWorkers,
        Self::JoinRefused,
        Self::NoAuthority,
        Self::WorkerRevoked,
        Self::ScheduleNotFound,
        Self::ScheduleExists,
        Self::CannotRehearse,
        Self::NoSecretKey,
        Self::SecretUnreadable,
        Self::SecretNotFound,
        Self::SecretRefused,
        Self::RotationNotReady,
        Self::ObjectStoreAway,
        Self::ObjectStoreRefuses,
        Self::CannotBurnIn,
        Self::BurnInAtWork,
        Self::CannotDump,
        Self::BlobMismatch,
        Self::BlobDamaged,
        Self::StorageUnavailable,
        Self::LimitReached,
        Self::Internal,
        Self::SafeMode,
    ];

    /// The code as users see it; its page is `docs/errors/<code>.md`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidDocument => "MQ0101",
            Self::InvalidRequest => "MQ0102",
            Self::RequestIdReused => "MQ0103",
            Self::JobNotFound => "MQ0201",
            Self::PipelineNotFound => "MQ0202",
            Self::ArtifactNotFound => "MQ0203",
            Self::BlobNotFound => "MQ0204",
            Self::JobHasEnded => "MQ0301",
            Self::JobNotRetryable => "MQ0302",
            Self::WorkerNameTaken => "MQ0303",
            Self::WorkerOwned => "MQ0304",
            Self::OtherCluster => "MQ0305",
            Self::CannotRescue => "MQ0306",
            Self::WorkerIdInUse => "MQ0307",
            Self::StillNeeded => "MQ0308",
            Self::NotAllowed => "MQ0340",
            Self::NotIdentified => "MQ0375",
            Self::NotForWorkers => "MQ0376",
            Self::JoinRefused => "MQ0377",
            Self::NoAuthority => "MQ0378",
            Self::WorkerRevoked => "MQ0379",
            Self::NotLeading => "MQ0320",
            Self::JobNotHoldable => "MQ0330",
            Self::JobNotMovable => "MQ0365",
            Self::NotLoggedIn => "MQ0370",
            Self::RoleTooLow => "MQ0371",
            Self::UserNotFound => "MQ0372",
            Self::TokenNotFound => "MQ0373",
            Self::UserExists => "MQ0374",
            Self::ProjectNotFound => "MQ0331",
            Self::OverQuota => "MQ0332",
            Self::WorkerNotFound => "MQ0333",
            Self::ScheduleNotFound => "MQ0380",
            Self::ScheduleExists => "MQ0381",
            Self::ObjectStoreAway => "MQ0395",
            Self::ObjectStoreRefuses => "MQ0396",
            Self::BlobMismatch => "MQ0401",
            Self::BlobDamaged => "MQ0402",
            Self::StorageUnavailable => "MQ0501",
            Self::LimitReached => "MQ0502",
            Self::Internal => "MQ0503",
            Self::SafeMode => "MQ0504",
            Self::CannotRehearse => "MQ0385",
            Self::NoSecretKey => "MQ0386",
            Self::SecretUnreadable => "MQ0387",
            Self::SecretNotFound => "MQ0388",
            Self::SecretRefused => "MQ0389",
            Self::RotationNotReady => "MQ0390",
            Self::CannotBurnIn => "MQ0397",
            Self::BurnInAtWork => "MQ0398",
            Self::CannotDump => "MQ0399",
        }
    }

    /// The gRPC code. Clients retry on UNAVAILABLE alone.
    #[must_use]
    pub fn grpc(self) -> Code {
        match self {
            Self::InvalidDocument | Self::InvalidRequest => Code::InvalidArgument,
            Self::RequestIdReused
            | Self::UserExists
            | Self::ScheduleExists
            | Self::BurnInAtWork => Code::AlreadyExists,
            Self::JobNotFound
            | Self::PipelineNotFound
            | Self::ArtifactNotFound
            | Self::ProjectNotFound
            | Self::WorkerNotFound
            | Self::UserNotFound
            | Self::TokenNotFound
            | Self::ScheduleNotFound
            | Self::SecretNotFound
            | Self::BlobNotFound => Code::NotFound,
            Self::JobHasEnded
            | Self::JobNotRetryable
            | Self::JobNotHoldable
            | Self::JobNotMovable
            | Self::WorkerNameTaken
            | Self::OtherCluster
            | Self::CannotRescue
            | Self::WorkerIdInUse
            | Self::StillNeeded
            | Self::NoAuthority
            | Self::NoSecretKey
            | Self::CannotRehearse
            | Self::RotationNotReady
            | Self::CannotBurnIn
            | Self::CannotDump
            | Self::SafeMode => Code::FailedPrecondition,
            Self::NotIdentified | Self::NotLoggedIn => Code::Unauthenticated,
            Self::WorkerOwned
            | Self::NotAllowed
            | Self::NotForWorkers
            | Self::JoinRefused
            | Self::WorkerRevoked
            | Self::SecretRefused
            | Self::RoleTooLow => Code::PermissionDenied,
            Self::BlobMismatch | Self::BlobDamaged | Self::SecretUnreadable => Code::DataLoss,
            // All pass, and nothing was stored: workers and the command line send the same request again. What a person has
            // to change, he changes meanwhile.
            Self::StorageUnavailable
            | Self::ObjectStoreAway
            | Self::ObjectStoreRefuses
            | Self::NotLeading => Code::Unavailable,
            Self::LimitReached | Self::OverQuota => Code::ResourceExhausted,
            Self::Internal => Code::Internal,
        }
    }

    /// A status of this code.
    #[must_use]
    pub fn status(self, message: impl Into<String>) -> Status {
        let message = start_of(message.into(), MESSAGE_MAX_BYTES);
        Status::with_error_details(self.grpc(), message, self.details())
    }

    fn details(self) -> ErrorDetails {
        ErrorDetails::with_error_info(self.as_str(), DOMAIN, [])
    }
}

/// Where a refusal names the address of the coordinator that leads.
const LEADER: &str = "leader";
/// Bytes of such an address that are believed.
const ADDRESS_MAX_BYTES: usize = 300;

/// The status of a coordinator that does not lead. `leader` is the address of the one that does, where it is known.
#[must_use]
pub fn not_leading(message: impl Into<String>, leader: Option<&str>) -> Status {
    let code = ErrorCode::NotLeading;
    let metadata: HashMap<String, String> = leader
        .map(|address| (LEADER.to_owned(), address.to_owned()))
        .into_iter()
        .collect();
    let details = ErrorDetails::with_error_info(code.as_str(), DOMAIN, metadata);
    Status::with_error_details(
        code.grpc(),
        start_of(message.into(), MESSAGE_MAX_BYTES),
        details,
    )
}

/// Whether the coordinator that was asked does not lead; with the address that it names, if it names one.
#[must_use]
pub fn leader_elsewhere(status: &Status) -> Option<Option<String>> {
    let details = status.get_error_details();
    let info = details.error_info()?;
    let is_it = info.domain == DOMAIN && info.reason == ErrorCode::NotLeading.as_str();
    let named = info.metadata.get(LEADER);
    is_it.then(|| {
        named
            // One that is too long is no address, and the coordinator does not lead all the same:
            // the client goes on through those it knows.
            .filter(|named| named.len() <= ADDRESS_MAX_BYTES)
            .cloned()
    })
}

/// The status that refuses a document, with one violation a wrong field, as far as they fit.
#[must_use]
pub fn invalid_document(errors: &[FieldError]) -> Status {
    let code = ErrorCode::InvalidDocument;
    let mut details = code.details();
    let (mut told, mut room) = (0, FIELDS_MAX_BYTES);
    for FieldError { field, message } in errors {
        let field = start_of(field.clone(), FIELD_MAX_BYTES);
        let message = start_of(message.clone(), FIELD_MESSAGE_MAX_BYTES);
        let bytes = field.len() + message.len() + FIELD_FRAME_BYTES;
        // The first that does not fit is the end, though a later one may be shorter: what is told
        // are the first errors, in order.
        if bytes > room {
            break;
        }
        room -= bytes;
        told += 1;
        details.add_bad_request_violation(field, message);
    }
    let count = errors.len();
    let noun = if count == 1 { "error" } else { "errors" };
    let which = if told < count {
        format!(", the first {told} of which are told")
    } else {
        String::new()
    };
    let text = format!("the document has {count} {noun}{which}; nothing was stored");
    Status::with_error_details(code.grpc(), text, details)
}

/// As much of a text as fits; what was cut off is marked.
fn start_of(mut text: String, max_bytes: usize) -> String {
    if text.len() > max_bytes {
        // `truncate` panics within a character.
        text.truncate(text.floor_char_boundary(max_bytes - CUT.len()));
        text.push_str(CUT);
    }
    text
}

/// What a client can read out of a status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicError {
    /// Such as "MQ0101"; None when the error is not Marquee's own (a broken connection).
    pub code: Option<String>,
    pub message: String,
    pub fields: Vec<FieldError>,
}

impl From<&Status> for PublicError {
    fn from(status: &Status) -> Self {
        let details = status.get_error_details();
        let code = details
            .error_info()
            .filter(|info| info.domain == DOMAIN)
            .map(|info| info.reason.clone());
        let fields = details
            .bad_request()
            .map(|bad| {
                let violations = bad.field_violations.iter();
                violations
                    .map(|v| FieldError {
                        field: v.field.clone(),
                        message: v.description.clone(),
                    })
                    .collect()
            })
            .unwrap_or_default();
        Self {
            code,
            message: status.message().to_owned(),
            fields,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique() {
        let mut codes: Vec<_> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
        codes.dedup();
        assert_eq!(codes.len(), ErrorCode::ALL.len());
        assert!(codes.is_sorted());
    }

    /// Bytes of a status in HTTP headers, and what clients take.
    fn header_bytes(status: &Status) -> usize {
        let headers = status.clone().into_http::<()>();
        let headers = headers.headers().iter();
        headers
            .map(|(name, value)| name.as_str().len() + value.len() + 32)
            .sum()
    }

    #[test]
    fn whatever_is_repeated_in_an_error_a_client_can_read_it() {
        let large = "\u{1b}\u{20ac}\n".repeat(1_000_000);
        let errors = vec![
            FieldError {
                field: large.clone(),
                message: large.clone(),
            };
            100
        ];
        let document = invalid_document(&errors);
        assert!(
            header_bytes(&document) < 15_000,
            "{}",
            header_bytes(&document)
        );
        let told = PublicError::from(&document).fields.len();
        assert!(
            document
                .message()
                .contains(&format!("100 errors, the first {told} of which")),
            "{}",
            document.message()
        );
        let status = ErrorCode::InvalidRequest.status(large);
        assert!(header_bytes(&status) < 15_000, "{}", header_bytes(&status));
        assert!(status.message().ends_with(CUT));
    }

    #[test]
    fn who_does_not_lead_names_who_does_over_the_wire() {
        let read = |status: Status| {
            let headers = status.into_http::<()>();
            leader_elsewhere(&Status::from_header_map(headers.headers()).unwrap())
        };
        let named = not_leading("b leads", Some("https://b:7700"));
        assert_eq!(read(named), Some(Some("https://b:7700".to_owned())));
        assert_eq!(read(not_leading("nobody leads", None)), Some(None));
        let long = "x".repeat(ADDRESS_MAX_BYTES + 1);
        assert_eq!(read(not_leading("strange", Some(&long))), Some(None));
        assert_eq!(read(ErrorCode::SafeMode.status("no")), None);
        assert_eq!(read(Status::unavailable("no")), None);
    }

    #[test]
    fn a_refused_document_names_each_field_over_the_wire() {
        let errors = [
            FieldError {
                field: "jobs.train.epochs".into(),
                message: "must be 1 or more".into(),
            },
            FieldError {
                field: "jobs.eval.kidn".into(),
                message: "unknown key".into(),
            },
        ];
        let status = invalid_document(&errors);
        assert_eq!(status.code(), Code::InvalidArgument);
        let read = PublicError::from(&status);
        assert_eq!(read.code.as_deref(), Some("MQ0101"));
        assert_eq!(read.fields, errors);
    }
}
