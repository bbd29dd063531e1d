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
