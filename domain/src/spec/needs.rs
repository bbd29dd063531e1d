//! What a job waits for of another one: how that one must have ended for this one to run.

use serde::{Deserialize, Serialize};

/// The end of another job on which a job waits.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum NeedOn {
    #[default]
    Succeeded,
    /// Any end: what cleans up runs whatever became of the work.
    Finished,
    /// An end without success that nobody asked for: what tells of it, or mends it.
    Failed,
}

/// How a job ended, as those that wait for it ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ended {
    Succeeded,
    /// It failed, or was cancelled because something that it needs failed.
    Failed,
    /// A user cancelled it or something that it needs, or it was not needed.
    Cancelled,
}

impl NeedOn {
    /// Every one of them.
    pub const ALL: [Self; 3] = [Self::Succeeded, Self::Finished, Self::Failed];

    /// The word used in documents, SQL and messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Finished => "finished",
            Self::Failed => "failed",
        }
    }

    /// What a word means.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|on| on.as_str() == word)
    }

    /// What the other job has to do, to be read after "waits for it to".
    #[must_use]
    pub fn verb(self) -> &'static str {
        match self {
            Self::Succeeded => "succeed",
            Self::Finished => "end",
            Self::Failed => "fail",
        }
    }

    /// Whether a job that ended so is what was waited for.
    #[must_use]
    pub fn is_met_by(self, ended: Ended) -> bool {
        match self {
            Self::Finished => true,
            Self::Succeeded => ended == Ended::Succeeded,
            Self::Failed => ended == Ended::Failed,
        }
    }
}

impl Ended {
    /// The word used in SQL.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// What a word means.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        let all = [Self::Succeeded, Self::Failed, Self::Cancelled];
        all.into_iter().find(|ended| ended.as_str() == word)
    }

    /// How a job ends that can never run because another one ended so: those that wait for the failure of a chain of
    /// jobs need not care which of them failed.
    #[must_use]
    pub fn of_what_is_lost_by_it(self) -> Self {
        match self {
            Self::Failed => Self::Failed,
            Self::Succeeded | Self::Cancelled => Self::Cancelled,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_need_is_met_by_its_own_ends() {
        use Ended as E;
        let met = |on: NeedOn| {
            let all = [E::Succeeded, E::Failed, E::Cancelled];
            all.map(|ended| on.is_met_by(ended))
        };
        assert_eq!(met(NeedOn::Succeeded), [true, false, false]);
        assert_eq!(met(NeedOn::Finished), [true, true, true]);
        assert_eq!(met(NeedOn::Failed), [false, true, false]);
        for on in NeedOn::ALL {
            assert_eq!(NeedOn::from_word(on.as_str()), Some(on));
            assert_eq!(
                serde_json::json!(on),
                on.as_str(),
                "SQL reads what is stored"
            );
        }
        assert_eq!(NeedOn::from_word("always"), None);
    }
}
