//! The name of a rank, and where the ranks of an attempt meet.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::{AttemptNumber, JobId, Rank};

/// Which rank of which attempt at which job: the fence that every message about it carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RankKey {
    pub job: JobId,
    pub attempt: AttemptNumber,
    pub rank: Rank,
}

impl RankKey {
    /// The key from the numbers of a message.
    #[must_use]
    pub fn new(job: i64, attempt: u32, rank: u32) -> Self {
        Self {
            job: JobId(job),
            attempt: AttemptNumber(attempt),
            rank: Rank(rank),
        }
    }
}

impl fmt::Display for RankKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.job, self.attempt, self.rank)
    }
}

impl FromStr for RankKey {
    type Err = ParseIntError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // A third dash stays in the last part, which then is no number: "17-2-1-4" is refused.
        let mut parts = text.splitn(3, '-');
        let mut part = || parts.next().unwrap_or("");
        let (job, attempt, rank) = (part().parse()?, part().parse()?, part().parse()?);
        Ok(Self::new(job, attempt, rank))
    }
}

/// Where the ranks of an attempt find each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rendezvous {
    pub host: String,
    pub port: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_it_is_written() {
        let key = RankKey::new(17, 2, 1);
        assert_eq!(key.to_string(), "17-2-1");
        assert_eq!("17-2-1".parse(), Ok(key));
        assert!(".gone-17-2-1".parse::<RankKey>().is_err());
        assert!("17-2".parse::<RankKey>().is_err());
    }
}
