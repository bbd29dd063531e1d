//! What became of one entry of the plan, as the journal keeps it.

use marquee_domain::artifact::Digest;
use serde::{Deserialize, Serialize};

use super::answer::{Body, Validators};
use super::labels::Label;
use super::miss::{Miss, MissClass};
use crate::dataset::Example;
use crate::job::{FETCHED, JobError};

/// Bytes of all texts of one picture, at most: titles and labels have some hundreds. A frame of the
/// journal, in which each byte may take six, has room for that.
const TEXTS_MAX_BYTES: usize = 128 * 1024;
/// Characters of a reason that are kept.
const DETAIL_MAX_CHARS: usize = 1_000;

/// As much of a text as is kept.
pub(super) fn clipped(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(DETAIL_MAX_CHARS) {
        text.truncate(end);
        text.push('…');
    }
    text
}

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

    /// What it is counted as in progress and metrics.
    pub(super) fn counted_as(&self) -> String {
        self.miss()
            .map_or_else(|| FETCHED.to_owned(), |miss| miss.counted_as())
    }

    /// The same, if it is not too long to be written down. What a source says may have any length.
    pub(super) fn bounded(self) -> Self {
        match self {
            Self::Fetched(fetched) => {
                let labels = fetched.labels.iter().map(|(_, name)| name.len());
                let others = [&fetched.group, &fetched.title, &fetched.language];
                let others = others.into_iter().flatten().map(String::len);
                let length: usize = labels.chain(others).sum();
                if length <= TEXTS_MAX_BYTES {
                    return Self::Fetched(fetched);
                }
                let detail =
                    format!("its labels and texts have {length} bytes, {TEXTS_MAX_BYTES} are kept");
                Miss::rejected(MissClass::TooLarge, detail).into()
            }
            Self::Gone { detail } => Self::Gone {
                detail: clipped(detail),
            },
            Self::Rejected { class, detail } => Self::Rejected {
                class,
                detail: clipped(detail),
            },
            Self::Failed { class, detail } => Self::Failed {
                class,
                detail: clipped(detail),
            },
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
    /// Its texts had characters that could not be read.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) replaced_text: bool,
}

/// What is known of a picture before it has come itself: kept, so that an attempt that goes on asks for
/// the picture alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Details {
    /// Tells it apart from an outcome in the journal.
    pub(super) outcome: NotYet,
    /// Where the picture is, as the source says it.
    pub(super) place: String,
    pub(super) labels: Vec<Label>,
    pub(super) group: Option<String>,
    pub(super) title: Option<String>,
    pub(super) release_date: Option<chrono::NaiveDate>,
    pub(super) popularity: Option<f64>,
    pub(super) language: Option<String>,
    pub(super) details: Validators,
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) replaced_text: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) enum NotYet {
    #[default]
    #[serde(rename = "known")]
    Known,
}

impl Details {
    /// Details of the picture at `place`, with nothing else known.
    pub(super) fn at(place: String) -> Self {
        Self {
            outcome: NotYet::Known,
            place,
            labels: Vec::new(),
            group: None,
            title: None,
            release_date: None,
            popularity: None,
            language: None,
            details: Validators::default(),
            replaced_text: false,
        }
    }

    /// The picture, now that it has come.
    pub(super) fn with_picture(
        self,
        digest: Digest,
        picture: Validators,
        earlier: bool,
    ) -> Fetched {
        Fetched {
            labels: self.labels,
            group: self.group,
            title: self.title,
            release_date: self.release_date,
            popularity: self.popularity,
            language: self.language,
            digest,
            details: self.details,
            picture,
            earlier,
            replaced_text: self.replaced_text,
        }
    }
}

/// What the journal says of an entry.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
// Told apart by the words of `outcome`: none of an outcome's is "known", so that the order of the
// two decides nothing.
#[serde(untagged)]
pub(super) enum Noted {
    Settled(Outcome),
    Known(Box<Details>),
}

fn is_false(flag: &bool) -> bool {
    !*flag
}

impl Fetched {
    /// The example of the earlier dataset's row, with its picture.
    pub(super) fn earlier(row: &Example) -> Self {
        let ids = row.label_ids.iter().map(|id| Some(*id));
        Self {
            labels: ids
                // Sources such as lists have labels without ids: with the ids alone, `zip` would
                // drop all of these labels.
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
            replaced_text: false,
        }
    }
}

/// An answer to one entry.
pub(super) enum Settled {
    As(Outcome, Body),
    /// Its details have come, and its picture is to be asked for.
    Known(Box<Details>),
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
            let noted: Noted = serde_json::from_str(text).unwrap();
            assert_eq!(noted, Noted::Settled(outcome));
        }
    }

    #[test]
    fn details_are_told_apart_from_outcomes() {
        let details = Details {
            title: Some("A".to_owned()),
            labels: vec![(Some(28), "Action".to_owned()), (None, "cat".to_owned())],
            ..Details::at("a.jpg".to_owned())
        };
        let text = serde_json::to_string(&details).unwrap();
        assert!(
            text.starts_with(r#"{"outcome":"known","place":"a.jpg""#),
            "{text}"
        );
        // Neither is taken for the other, and an earlier version takes it for nothing.
        assert!(serde_json::from_str::<Outcome>(&text).is_err());
        let noted: Noted = serde_json::from_str(&text).unwrap();
        assert_eq!(noted, Noted::Known(Box::new(details)));
    }

    #[test]
    fn what_is_too_long_to_be_written_down_is_rejected_or_clipped() {
        let long = "ü".repeat(100_000);
        let fetched = Details {
            title: Some(long.clone()),
            ..Details::at(String::new())
        }
        .with_picture(Digest::of(b""), Validators::default(), false);
        let outcome = Outcome::Fetched(Box::new(fetched)).bounded();
        assert_eq!(outcome.counted_as(), "rejected_too_large");
        let Outcome::Gone { detail } = (Outcome::Gone { detail: long }).bounded() else {
            panic!("it is gone");
        };
        assert_eq!(detail.chars().count(), DETAIL_MAX_CHARS + 1);
    }
}
