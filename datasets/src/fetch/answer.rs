//! What a request can come back with.

use serde::{Deserialize, Serialize};
use tokio::sync::OwnedSemaphorePermit;

use super::miss::MissClass;
use crate::dataset::Example;

/// Why a request has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NoAnswer {
    Unauthorized {
        detail: String,
    },
    Gone {
        detail: String,
    },
    Failed {
        class: MissClass,
        detail: String,
    },
    /// The host has answered nothing for as long as the settings allow.
    Down {
        detail: String,
    },
}

/// By what a server knows whether a file has changed since.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Validators {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) etag: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) last_modified: Option<String>,
}

impl Validators {
    /// Those of the picture of an earlier dataset's row.
    pub(super) fn of_picture(row: &Example) -> Self {
        Self {
            etag: row.picture_etag.clone(),
            last_modified: row.picture_modified.clone(),
        }
    }
}

/// What came of a request that said what is known already (a conditional request, in HTTP's words).
#[derive(Debug)]
pub(super) enum Conditional<T> {
    New { value: T, validators: Validators },
    Unchanged,
}

/// A file in memory. While a large one is held, at most one other is.
#[derive(Debug, Default)]
pub(super) struct Body {
    pub(super) bytes: Vec<u8>,
    /// The turn of a large file: given back when whoever asked for it lets go of the bytes, since it
    /// is the memory that is limited, not the reading.
    pub(super) large: Option<OwnedSemaphorePermit>,
}

impl Body {
    /// Bytes that came from elsewhere.
    pub(super) fn of(bytes: Vec<u8>) -> Self {
        Self { bytes, large: None }
    }
}
