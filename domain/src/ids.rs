//! Identifiers. A job, a pipeline and an attempt are numbers a person can type; a worker and a
//! boot are UUIDs, because they are made on hosts that have not met the coordinator yet.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = std::num::ParseIntError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

number_id!(
    /// A job, numbered by Postgres.
    JobId(i64)
);
number_id!(
    /// One submitted pipeline, numbered by Postgres.
    PipelineId(i64)
);
number_id!(
    /// The number of an attempt within its job, from 1. It only grows: it is the fence that keeps
    /// an old attempt from committing.
    AttemptNumber(u32)
);
number_id!(
    /// One process of an attempt, from 0 to the world size less one.
    Rank(u32)
);

uuid_id!(
    /// A worker, stable over restarts and reboots: kept in the worker's data directory.
    WorkerId
);
uuid_id!(
    /// One start of a host's kernel. A changed boot id proves that no child of the old boot lives.
    BootId
);

impl AttemptNumber {
    /// The attempt after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// The name of a job within its pipeline: 1 to 63 of `a-z`, `0-9`, `-` and `_`, a letter first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct JobName(String);

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to 63 of a-z, 0-9, \"-\" and \"_\", starting with a letter")]
pub struct InvalidName;

impl JobName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for JobName {
    type Error = InvalidName;
    fn try_from(text: String) -> Result<Self, InvalidName> {
        // A letter first: a name of digits could not be told from a number on the command line.
        let starts_well = text.starts_with(|c: char| c.is_ascii_lowercase());
        let rest_is_fine = text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_');
        if starts_well && rest_is_fine && text.len() <= crate::limits::NAME_MAX_BYTES {
            Ok(Self(text))
        } else {
            Err(InvalidName)
        }
    }
}

impl FromStr for JobName {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        Self::try_from(text.to_owned())
    }
}

impl From<JobName> for String {
    fn from(name: JobName) -> Self {
        name.0
    }
}

impl fmt::Display for JobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_lowercase_and_start_with_a_letter() {
        for good in ["a", "train", "train-2", "fetch_all", &"x".repeat(63)] {
            assert!(good.parse::<JobName>().is_ok(), "{good}");
        }
        for bad in ["", "2nd", "Train", "a b", "a.b", "é", &"x".repeat(64)] {
            assert_eq!(bad.parse::<JobName>(), Err(InvalidName), "{bad}");
        }
    }
}
