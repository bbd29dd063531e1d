//! Why a blob could not be stored or read.

use std::io;
use std::path::{Path, PathBuf};

use marquee_domain::artifact::Digest;

use super::FREE_FLOOR_BYTES;

/// Bytes as people who look at a disk count them.
#[allow(
    clippy::cast_precision_loss,
    reason = "a tenth of a MiB is all that is shown"
)]
fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / (1024.0 * 1024.0))
}

/// What kind of trouble an object store gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectTrouble {
    /// It may pass by itself.
    Away,
    /// A person has to change something: credentials, the bucket, the settings, the clock.
    Refused,
    Full,
}

/// Why a blob could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    #[error("there is no blob {}", .0.short())]
    NotFound(Digest),
    #[error("offset {offset} lies behind the end of blob {}, which has {size_bytes} bytes", .digest.short())]
    OffsetTooLarge {
        digest: Digest,
        offset: u64,
        size_bytes: u64,
    },
    #[error("blob {} was announced with {announced} bytes, but {got} arrived; send the file again", .digest.short())]
    WrongSize {
        digest: Digest,
        announced: u64,
        got: u64,
    },
    #[error(
        "what was sent as blob {announced} has digest {got}; the file changed while it was sent, or the connection damaged it"
    )]
    WrongDigest { announced: Digest, got: Digest },
    #[error(
        "blob {} has {size_bytes} bytes, and {asked} were asked for; the list of files that names it is wrong", .digest.short()
    )]
    OtherSize {
        digest: Digest,
        size_bytes: u64,
        asked: u64,
    },
    #[error(
        "blob {} is damaged here: {problem}; it was set aside, and is whole again when it is stored once more: retry the job that made it, or send the file again",
        .digest.short()
    )]
    Damaged { digest: Digest, problem: String },
    #[error(
        "a file of {} does not fit: {} are free in {folder:?}, and {} of them must stay free; make room there, such as with \"marquee rm\"",
        mib(*size_bytes), mib(*free_bytes), mib(FREE_FLOOR_BYTES)
    )]
    DiskFull {
        size_bytes: u64,
        free_bytes: u64,
        folder: PathBuf,
    },
    #[error(
        "a file of {} does not fit now: of {} free in {folder:?}, {} are promised to uploads under way, and {} must stay free; try again",
        mib(*size_bytes), mib(*free_bytes), mib(*promised_bytes), mib(FREE_FLOOR_BYTES)
    )]
    Promised {
        size_bytes: u64,
        free_bytes: u64,
        promised_bytes: u64,
        folder: PathBuf,
    },
    /// What an object store did, in words that hold no secret.
    #[error("{text}")]
    Objects {
        trouble: ObjectTrouble,
        text: String,
    },
    #[error(
        "the upload of blob {} does not stand where this one goes on; ask how much of it is here, and send the rest", .0.short()
    )]
    Moved(Digest),
    #[error("could not {doing} {path:?}: {error}")]
    Io {
        doing: &'static str,
        path: PathBuf,
        error: io::Error,
    },
}

pub(super) fn io_error(
    doing: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> BlobError + use<> {
    let path = path.to_owned();
    move |error| BlobError::Io { doing, path, error }
}
