//! Public errors: a short code that names a page of `docs/errors`, mapped once to a gRPC status.

use marquee_domain::pipeline::FieldError;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// `ErrorInfo.domain` of every error of ours.
pub const DOMAIN: &str = "marquee";

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
    /// An upload's size or digest does not fit what was announced.
    BlobMismatch,
    /// Postgres or the artifact folder cannot be reached just now.
    StorageUnavailable,
    /// A written limit was reached.
    LimitReached,
    /// A fault of Marquee's own.
    Internal,
}

impl ErrorCode {
    /// Every code, for the check that each has its page.
    pub const ALL: [Self; 17] = [
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
        Self::BlobMismatch,
        Self::StorageUnavailable,
        Self::LimitReached,
        Self::Internal,
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
            Self::BlobMismatch => "MQ0401",
            Self::StorageUnavailable => "MQ0501",
            Self::LimitReached => "MQ0502",
            Self::Internal => "MQ0503",
        }
    }

    /// The gRPC code. Clients retry on UNAVAILABLE alone.
    #[must_use]
    pub fn grpc(self) -> Code {
        match self {
            Self::InvalidDocument | Self::InvalidRequest => Code::InvalidArgument,
            Self::RequestIdReused => Code::AlreadyExists,
            Self::JobNotFound
            | Self::PipelineNotFound
            | Self::ArtifactNotFound
            | Self::BlobNotFound => Code::NotFound,
            Self::JobHasEnded
            | Self::JobNotRetryable
            | Self::WorkerNameTaken
            | Self::OtherCluster
            | Self::CannotRescue => Code::FailedPrecondition,
            Self::WorkerOwned => Code::PermissionDenied,
            Self::BlobMismatch => Code::DataLoss,
            Self::StorageUnavailable => Code::Unavailable,
            Self::LimitReached => Code::ResourceExhausted,
            Self::Internal => Code::Internal,
        }
    }

    /// A status of this code.
    #[must_use]
    pub fn status(self, message: impl Into<String>) -> Status {
        Status::with_error_details(self.grpc(), message, self.details())
    }

    fn details(self) -> ErrorDetails {
        ErrorDetails::with_error_info(self.as_str(), DOMAIN, [])
    }
}

/// The status that refuses a document, with one violation a wrong field.
#[must_use]
pub fn invalid_document(errors: &[FieldError]) -> Status {
    let code = ErrorCode::InvalidDocument;
    let mut details = code.details();
    for error in errors {
        details.add_bad_request_violation(&error.field, &error.message);
    }
    let noun = if errors.len() == 1 { "error" } else { "errors" };
    Status::with_error_details(
        code.grpc(),
        format!(
            "the document has {} {noun}; nothing was stored",
            errors.len()
        ),
        details,
    )
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
