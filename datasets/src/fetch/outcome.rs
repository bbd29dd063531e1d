//! What became of one entry of the plan, as the journal keeps it.

use marquee_domain::artifact::Digest;
use serde::{Deserialize, Serialize};

use super::answer::{Body, Validators};
use super::labels::Label;
use super::miss::{Miss, MissClass};
use crate::dataset::Example;
use crate::job::JobError;

/// What became of an entry.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub(super) enum Outcome {
    Fetched(Box<Fetched>),
    Gone { detail: String },
    Rejected { class: MissClass, detail: String },
    Failed { class: MissClass, detail: String },
}

impl From<Miss> for Outcome {
    fn from(miss: Miss) -> Self {
        match miss {
            Miss::Gone { detail } => Self::Gone { detail },
            Miss::Rejected { class, detail } => Self::Rejected { class, detail },
            Miss::Failed { class, detail } => Self::Failed { class, detail },
        }
    }
}

impl Outcome {
    /// Why there is no picture, if there is none.
    pub(super) fn miss(&self) -> Option<Miss> {
        match self {
            Self::Fetched(_) => None,
            Self::Gone { detail } => Some(Miss::Gone {
                detail: detail.clone(),
            }),
            Self::Rejected { class, detail } => Some(Miss::rejected(class.clone(), detail)),
            Self::Failed { class, detail } => Some(Miss::failed(class.clone(), detail)),
        }
    }

    /// The picture, or why there is none.
    pub(super) fn into_fetched(self) -> Result<Fetched, Miss> {
        match self {
            Self::Fetched(fetched) => Ok(*fetched),
            Self::Gone { detail } => Err(Miss::Gone { detail }),
            Self::Rejected { class, detail } => Err(Miss::Rejected { class, detail }),
            Self::Failed { class, detail } => Err(Miss::Failed { class, detail }),
        }
    }
}

/// A picture and what is known of it. Its bytes are the frame's body, unless they are `earlier`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Fetched {
    pub(super) labels: Vec<Label>,
    pub(super) group: Option<String>,
    pub(super) title: Option<String>,
    pub(super) release_date: Option<chrono::NaiveDate>,
    pub(super) popularity: Option<f64>,
    pub(super) language: Option<String>,
    pub(super) digest: Digest,
    pub(super) details: Validators,
    pub(super) picture: Validators,
    /// The picture is that of the earlier dataset.
    pub(super) earlier: bool,
}

impl Fetched {
    /// The example of the earlier dataset's row, with its picture.
    pub(super) fn earlier(row: &Example) -> Self {
        let ids = row.label_ids.iter().map(|id| Some(*id));
        Self {
            labels: ids
                .chain(std::iter::repeat(None))
                .zip(row.labels.iter().cloned())
                .collect(),
            group: row.group.clone(),
            title: row.title.clone(),
            release_date: row.release_date,
            popularity: row.popularity,
            language: row.language.clone(),
            digest: row.picture_digest.clone(),
            details: Validators {
                etag: row.details_etag.clone(),
                last_modified: None,
            },
            picture: Validators::of_picture(row),
            earlier: true,
        }
    }
}

/// An answer to one entry.
pub(super) enum Settled {
    As(Outcome, Body),
    /// Nothing more will come: the job ends.
    Over(JobError),
}

impl Settled {
    pub(super) fn missed(miss: Miss) -> Self {
        Self::As(miss.into(), Body::default())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// Headers of a journal of version 0.1.0, without the entry's number.
    const STORED: [&str; 4] = [
        r#"{"outcome":"fetched","labels":[[28,"Action"],[null,"cat"]],"group":null,"title":"Northern Meadow","release_date":"1944-04-15","popularity":1.478,"language":"en","digest":"48bdd3661078af3fb2c60b687b5fa5d9649c4cff1d79d02b97086e60bc46bc92","details":{"etag":"\"1-1-film-1\""},"picture":{"etag":"\"1-1-1-92\""},"earlier":false}"#,
        r#"{"outcome":"gone","detail":"HTTP 404, code 34: The resource you requested could not be found."}"#,
        r#"{"outcome":"rejected","class":"no_poster","detail":"it has no poster"}"#,
        r#"{"outcome":"failed","class":"http_503","detail":"HTTP 503, code 11: Internal error: Something went wrong. (1 attempts)"}"#,
    ];

    #[test]
    fn a_journal_of_an_earlier_version_is_read_and_would_be_written_alike() {
        for text in STORED {
            let outcome: Outcome = serde_json::from_str(text).unwrap();
            let written = serde_json::to_value(&outcome).unwrap();
            assert_eq!(written, serde_json::from_str::<Value>(text).unwrap());
        }
    }
}
