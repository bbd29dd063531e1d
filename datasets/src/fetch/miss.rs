//! Why an id has no picture in the dataset, and the one place for the words of it: journals, tables,
//! books, progress and metrics hold these words, so that they never change.

use std::fmt;

use serde::de::{Deserialize, Deserializer};
use serde::{Serialize, Serializer};

/// Declares the classes that have a fixed word: a class cannot be without its word, nor have two.
macro_rules! miss_classes {
    ($($(#[$doc:meta])* $name:ident => $word:literal,)*) => {
        /// Why an id has no picture, as what is counted alike.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub(super) enum MissClass {
            $($(#[$doc])* $name,)*
            /// `http_503`: HTTP's own status.
            Http(u16),
            /// `code_9`: the code that a TMDb-compatible service adds to its answer.
            Code(u32),
            /// The word of another version, read from its journal: kept as it is.
            Other(String),
        }

        impl MissClass {
            fn of_fixed_word(word: &str) -> Option<Self> {
                match word {
                    $($word => Some(Self::$name),)*
                    _ => None,
                }
            }
        }

        impl fmt::Display for MissClass {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$name => f.write_str($word),)*
                    Self::Http(status) => write!(f, "http_{status}"),
                    Self::Code(code) => write!(f, "code_{code}"),
                    Self::Other(word) => f.write_str(word),
                }
            }
        }

        #[cfg(test)]
        const FIXED_WORDS: &[&str] = &[$($word),*];
    };
}

miss_classes! {
    // No whole answer came.
    /// No connection to the host.
    Connect => "connect",
    Timeout => "timeout",
    /// The connection broke before the answer.
    Network => "network",
    /// The connection broke within the answer.
    Truncated => "truncated",
    Redirects => "redirects",
    /// The job ends.
    Closed => "closed",
    HostDown => "host_down",

    // An answer came, and it is none that can be used.
    Empty => "empty",
    /// It is not what was asked for.
    Nonsense => "nonsense",
    TooLarge => "too_large",
    Refused => "refused",
    WrongFilm => "wrong_film",
    UnknownFormat => "unknown_format",
    PosterMissing => "poster_missing",

    // The source itself says, or shows, that there is nothing to fetch.
    Adult => "adult",
    NoLabels => "no_labels",
    NoPoster => "no_poster",
    OddPosterPath => "odd_poster_path",
    DuplicateId => "duplicate_id",
    UnreadableLine => "unreadable_line",
    NoUrl => "no_url",
    OddUrl => "odd_url",
    OddPath => "odd_path",
    /// The table is not sure of its labels.
    Uncertain => "uncertain",
    /// A plan holds what its source never lists.
    NoFilm => "no_film",
    NoEarlierRow => "no_earlier_row",

    // This machine.
    Disk => "disk",
    Unreadable => "unreadable",
    /// A folder, pipe, socket or device.
    NotAFile => "not_a_file",
}

impl MissClass {
    /// The class of a stored word.
    fn of_word(word: &str) -> Self {
        let number = |prefix: &str| word.strip_prefix(prefix)?.parse::<u32>().ok();
        let of_number = || {
            let status = number("http_").and_then(|number| u16::try_from(number).ok());
            let class = status.map(Self::Http).or(number("code_").map(Self::Code));
            // Only what would be written in the same way: a word must survive being read.
            class.filter(|class| class.to_string() == word)
        };
        Self::of_fixed_word(word)
            .or_else(of_number)
            .unwrap_or_else(|| Self::Other(word.to_owned()))
    }
}

impl Serialize for MissClass {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MissClass {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::of_word(&String::deserialize(deserializer)?))
    }
}

/// Why an id has no picture in the dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Miss {
    /// Listed, but no longer there.
    Gone { detail: String },
    /// There, but not usable.
    Rejected { class: MissClass, detail: String },
    /// Not had in spite of retries.
    Failed { class: MissClass, detail: String },
}

impl Miss {
    pub(super) fn rejected(class: MissClass, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self::Rejected { class, detail }
    }

    pub(super) fn failed(class: MissClass, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self::Failed { class, detail }
    }

    /// The word of the outcome.
    pub(super) fn outcome(&self) -> &'static str {
        match self {
            Self::Gone { .. } => "gone",
            Self::Rejected { .. } => "rejected",
            Self::Failed { .. } => "failed",
        }
    }

    /// The word of the class. What is gone needs none but that.
    pub(super) fn class(&self) -> String {
        match self {
            Self::Gone { .. } => "gone".to_owned(),
            Self::Rejected { class, .. } | Self::Failed { class, .. } => class.to_string(),
        }
    }

    /// What it is counted as in progress and metrics: outcome and class.
    pub(super) fn counted_as(&self) -> String {
        match self {
            Self::Gone { .. } => "gone".to_owned(),
            Self::Rejected { class, .. } => format!("rejected_{class}"),
            Self::Failed { class, .. } => format!("failed_{class}"),
        }
    }

    pub(super) fn detail(&self) -> &str {
        match self {
            Self::Gone { detail } | Self::Rejected { detail, .. } | Self::Failed { detail, .. } => {
                detail
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read_as_its_class_and_written_again_as_it_was() {
        for word in FIXED_WORDS {
            let class = MissClass::of_word(word);
            assert!(!matches!(class, MissClass::Other(_)), "{word}");
            assert_eq!(class.to_string(), *word);
        }
        for (word, class) in [
            ("http_503", MissClass::Http(503)),
            ("code_9", MissClass::Code(9)),
        ] {
            assert_eq!(MissClass::of_word(word), class);
            assert_eq!(class.to_string(), word);
        }
    }

    #[test]
    fn a_word_of_another_version_is_kept_as_it_is() {
        for word in [
            "http_teapot",
            "http_0503",
            "http_70000",
            "code_-1",
            "novel",
            "",
        ] {
            let class = MissClass::of_word(word);
            assert_eq!(class, MissClass::Other(word.to_owned()));
            let text = serde_json::to_string(&class).unwrap();
            assert_eq!(serde_json::from_str::<MissClass>(&text).unwrap(), class);
        }
    }

    #[test]
    fn the_words_are_those_that_are_stored() {
        // Journals and tables of every earlier version hold these: a word that is missing here was lost.
        insta::assert_snapshot!(FIXED_WORDS.join(" "), @"connect timeout network truncated redirects closed host_down empty nonsense too_large refused wrong_film unknown_format poster_missing adult no_labels no_poster odd_poster_path duplicate_id unreadable_line no_url odd_url odd_path uncertain no_film no_earlier_row disk unreadable not_a_file");
    }
}
