//! From a document to a [`PipelineSpec`], or to every error in it at once.

/// One wrong field of a document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct FieldError {
    /// Keys joined by dots, such as `jobs.train.epochs`.
    pub field: String,
    /// The value, what is wrong with it, and the way out.
    pub message: String,
}
