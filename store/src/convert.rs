//! Between columns and domain values. Postgres has no unsigned integers and no enums of ours: what
//! comes out is checked, and a value that cannot be read names its column.

use marquee_domain::artifact::{Digest, Manifest};
use marquee_domain::failure::{Failure, FailureClass};
use marquee_domain::ids::{JobId, JobName};
use marquee_domain::job::{AttemptStateName, JobStateName, RankState};
use marquee_domain::project::ProjectName;
use marquee_domain::spec::{Ended, JobKind, NeedOn};

use crate::{Result, StoreError};

/// An unsigned number for an `int` column.
pub(crate) fn int(what: &'static str, value: u32) -> Result<i32> {
    i32::try_from(value).map_err(|_| StoreError::OutOfRange {
        what,
        value: value.to_string(),
    })
}

/// As [`int`], where there may be none.
pub(crate) fn optional_int(what: &'static str, value: Option<u32>) -> Result<Option<i32>> {
    value.map(|value| int(what, value)).transpose()
}

/// An unsigned number for a `bigint` column.
pub(crate) fn bigint(what: &'static str, value: u64) -> Result<i64> {
    i64::try_from(value).map_err(|_| StoreError::OutOfRange {
        what,
        value: value.to_string(),
    })
}

/// An `int` column that is never negative.
pub(crate) fn u32_of(column: &'static str, value: i32) -> Result<u32> {
    u32::try_from(value).map_err(|_| unreadable(column, value))
}

/// A `bigint` column that is never negative.
pub(crate) fn u64_of(column: &'static str, value: i64) -> Result<u64> {
    u64::try_from(value).map_err(|_| unreadable(column, value))
}

pub(crate) fn unreadable(column: &'static str, value: impl ToString) -> StoreError {
    let mut value = value.to_string();
    // At a boundary: half a character would panic.
    if value.len() > SHOWN_MAX_BYTES {
        value.truncate(value.floor_char_boundary(SHOWN_MAX_BYTES));
        value.push_str(" [...]");
    }
    StoreError::Unreadable { column, value }
}

/// Bytes of a value that an error shows: a document may have megabytes, and the error is stored with its job.
const SHOWN_MAX_BYTES: usize = 500;

/// Version of the documents in `jsonb` columns (specs, inventories, progress, summaries, manifests): raised when an
/// older reader would take one for something that it is not. Those of 0.1 say none, and are version 1.
const DOCUMENT_VERSION: u64 = 1;
/// The key that says it, beside those of the value.
const VERSION_KEY: &str = "document_version";

/// A `jsonb` column holding a value of ours. A document of a later version is not guessed at.
pub(crate) fn json<T: serde::de::DeserializeOwned>(
    column: &'static str,
    value: serde_json::Value,
) -> Result<T> {
    // Before the value is read: a document of a later version may well parse, and mean something else.
    let version = value.get(VERSION_KEY).and_then(serde_json::Value::as_u64);
    if let Some(version) = version.filter(|version| *version > DOCUMENT_VERSION) {
        return Err(unreadable(
            column,
            format!(
                "a document of version {version}, of which this program reads up to {DOCUMENT_VERSION}"
            ),
        ));
    }
    // By reference, so that the error can show what was there.
    T::deserialize(&value).map_err(|error| unreadable(column, format!("{error}, in {value}")))
}

/// A document of ours for a `jsonb` column, with its version.
pub(crate) fn to_document<T: serde::Serialize>(
    what: &'static str,
    value: &T,
) -> Result<serde_json::Value> {
    let mut document = to_json(what, value)?;
    // A list or a bare number has no room for it. Without it it is version 1, as all of those are.
    if let Some(fields) = document.as_object_mut() {
        fields.insert(VERSION_KEY.to_owned(), DOCUMENT_VERSION.into());
    }
    Ok(document)
}

/// A stored summary as the rank said it, without its version. One of a later version says nothing here.
pub(crate) fn summary(job: JobId, value: Option<serde_json::Value>) -> Option<serde_json::Value> {
    // It says how a rank ended, and never whether it did: a job is judged without it, and nothing of it is reused.
    let read = json::<serde_json::Value>("attempt_ranks.summary", value?);
    let mut summary = read
        .inspect_err(|error| tracing::error!(%job, %error, "a rank's summary cannot be read"))
        .ok()?;
    if let Some(fields) = summary.as_object_mut() {
        fields.remove(VERSION_KEY);
    }
    Some(summary)
}

/// A plain value of ours for a `jsonb` column.
pub(crate) fn to_json<T: serde::Serialize>(
    what: &'static str,
    value: &T,
) -> Result<serde_json::Value> {
    serde_json::to_value(value).map_err(|error| StoreError::OutOfRange {
        what,
        value: error.to_string(),
    })
}

pub(crate) fn job_state(word: &str) -> Result<JobStateName> {
    JobStateName::from_word(word).ok_or_else(|| unreadable("jobs.state", word))
}

pub(crate) fn attempt_state(word: &str) -> Result<AttemptStateName> {
    AttemptStateName::from_word(word).ok_or_else(|| unreadable("attempts.state", word))
}

pub(crate) fn rank_state(word: &str) -> Result<RankState> {
    RankState::from_word(word).ok_or_else(|| unreadable("attempt_ranks.state", word))
}

pub(crate) fn kind(word: &str) -> Result<JobKind> {
    JobKind::from_word(word).ok_or_else(|| unreadable("jobs.kind", word))
}

pub(crate) fn need_on(word: &str) -> Result<NeedOn> {
    NeedOn::from_word(word).ok_or_else(|| unreadable("job_needs.wanted", word))
}

pub(crate) fn ended(word: &str) -> Result<Ended> {
    Ended::from_word(word).ok_or_else(|| unreadable("need_states.ended", word))
}

pub(crate) fn job_name(text: String) -> Result<JobName> {
    text.parse().map_err(|_| unreadable("jobs.name", text))
}

pub(crate) fn project(text: String) -> Result<ProjectName> {
    text.parse().map_err(|_| unreadable("project", text))
}

pub(crate) fn digest(text: String) -> Result<Digest> {
    text.parse().map_err(|_| unreadable("digest", text))
}

/// A stored manifest. One that an earlier version took though no folder can hold it, or whose names could pass
/// for other files, is given to nobody.
pub(crate) fn manifest(value: serde_json::Value) -> Result<Manifest> {
    let manifest: Manifest = json("manifest", value)?;
    manifest
        .check()
        .map_err(|error| unreadable("manifest", error))?;
    Ok(manifest)
}

/// The two columns of a failure; both are null where there is none.
pub(crate) fn failure(class: Option<String>, message: Option<String>) -> Result<Option<Failure>> {
    let (Some(class), Some(message)) = (class, message) else {
        return Ok(None);
    };
    let class =
        FailureClass::from_word(&class).ok_or_else(|| unreadable("failure_class", class))?;
    Ok(Some(Failure { class, message }))
}

#[cfg(test)]
mod tests {
    use marquee_domain::resources::Inventory;
    use serde_json::json;

    use super::*;

    fn inventory() -> Inventory {
        Inventory {
            hostname: "a".into(),
            cpu_threads: 2,
            memory_bytes: 1,
            cpu_slots: 2,
            threads_per_slot: 1,
            gpus: vec![],
            address: "127.0.0.1".into(),
            flavour: String::new(),
            labels: Default::default(),
        }
    }

    #[test]
    fn a_document_says_its_version_and_one_without_is_of_the_first() {
        let document = to_document("inventory", &inventory()).unwrap();
        assert_eq!(document[VERSION_KEY], DOCUMENT_VERSION);
        assert_eq!(
            json::<Inventory>("c", document.clone()).unwrap(),
            inventory()
        );
        let mut first = document;
        first.as_object_mut().unwrap().remove(VERSION_KEY);
        assert_eq!(json::<Inventory>("c", first).unwrap(), inventory());
    }

    #[test]
    fn a_document_of_a_later_version_is_not_guessed_at() {
        let mut document = to_document("inventory", &inventory()).unwrap();
        document[VERSION_KEY] = json!(DOCUMENT_VERSION + 1);
        let error = json::<Inventory>("workers.inventory", document).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("workers.inventory") && text.contains("version 2"),
            "{text}"
        );
    }
}
