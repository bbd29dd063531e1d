//! Which form a summary is in, so that a reader of another release says that instead of guessing.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The newest form that this release writes and reads. Raised when an older reader would take a summary for
/// something that it is not; a key that older readers may pass over needs no new one.
pub const SUMMARY_VERSION: u64 = 1;
/// The key that says it, beside those of the summary. Summaries of releases before 0.2 say none, and are of form 1.
const VERSION_KEY: &str = "summary_version";

/// Why a summary cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnreadableSummary {
    #[error(
        "it is of form {0}, written by a newer release than this one, which reads up to form {SUMMARY_VERSION}; use that release"
    )]
    Newer(u64),
    #[error("it is no summary that this release knows: {0}")]
    Other(String),
}

/// A summary as a child hands it back, with the form that it is in.
#[must_use]
pub fn summary(value: &impl Serialize) -> Value {
    // A summary is a struct of plain fields, which always has a JSON form.
    let mut json = serde_json::to_value(value).unwrap_or_default();
    if let Some(fields) = json.as_object_mut() {
        fields.insert(VERSION_KEY.to_owned(), SUMMARY_VERSION.into());
    }
    json
}

/// Reads a summary.
///
/// # Errors
/// It is of a later form, or none of this kind of job.
pub fn read_summary<T: DeserializeOwned>(json: &str) -> Result<T, UnreadableSummary> {
    let other = |error: serde_json::Error| UnreadableSummary::Other(error.to_string());
    let value: Value = serde_json::from_str(json).map_err(other)?;
    // Looked at before the fields: a newer form may fail to read for a reason that would only
    // mislead.
    let version = value.get(VERSION_KEY).and_then(Value::as_u64);
    if let Some(version) = version.filter(|version| *version > SUMMARY_VERSION) {
        return Err(UnreadableSummary::Newer(version));
    }
    T::deserialize(value).map_err(other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::FetchSummary;

    #[test]
    fn a_summary_says_its_form_and_is_read_in_every_form_up_to_ours() {
        let fetched = FetchSummary {
            asked: 3,
            ..FetchSummary::default()
        };
        let written = summary(&fetched);
        assert_eq!(written[VERSION_KEY], SUMMARY_VERSION);
        assert_eq!(read_summary(&written.to_string()), Ok(fetched.clone()));
        // As releases before 0.2 wrote it.
        let plain = serde_json::to_string(&fetched).unwrap();
        assert_eq!(read_summary(&plain), Ok(fetched));
    }

    #[test]
    fn a_later_form_is_not_guessed_at_even_where_every_field_fits() {
        let mut later = summary(&FetchSummary::default());
        later[VERSION_KEY] = (SUMMARY_VERSION + 1).into();
        let read = read_summary::<FetchSummary>(&later.to_string());
        assert_eq!(read, Err(UnreadableSummary::Newer(SUMMARY_VERSION + 1)));
        assert!(read.unwrap_err().to_string().contains("newer release"));
    }

    #[test]
    fn what_is_no_summary_says_so_and_does_no_harm() {
        for odd in [
            "",
            "{",
            "null",
            "[]",
            "7",
            "{\"summary_version\":\"x\"}",
            "{\"summary_version\":-1}",
        ] {
            let read = read_summary::<FetchSummary>(odd);
            assert!(
                matches!(read, Err(UnreadableSummary::Other(_))),
                "{odd}: {read:?}"
            );
        }
        // A child without a summary: nothing is put beside a value that has no keys.
        assert_eq!(summary(&Value::Null), Value::Null);
    }
}
