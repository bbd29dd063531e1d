//! Secrets that the coordinator keeps for jobs: names, and what a value may be. A value is never part of a spec.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::child::env;

/// Bytes of a secret's name.
pub const NAME_MAX_BYTES: usize = 128;
/// Bytes of a secret: a kernel takes no longer variable than 128 KiB.
pub const VALUE_MAX_BYTES: usize = 64 * 1024;
/// Secrets that one job may name.
pub const OF_JOB_MAX: usize = 32;
/// Secrets of a cluster.
pub const SECRETS_MAX: usize = 1_000;

/// Variables that every child is given, over whatever a secret of that name would be.
const OURS: [&str; 8] = [
    env::RANK,
    env::WORLD_SIZE,
    env::LOCAL_RANK,
    env::MASTER_ADDR,
    env::MASTER_PORT,
    env::CUDA_VISIBLE_DEVICES,
    env::OMP_NUM_THREADS,
    "TMPDIR",
];
const OUR_PREFIX: &str = "MARQUEE_";

/// A secret's name, which is the variable that a job finds it in: 1 to 128 of `A-Z`, `a-z`, `0-9` and `_`, no digit first,
/// and none that Marquee sets itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretName(String);

/// Why a text is no name of a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSecretName {
    #[error(
        "must be 1 to 128 of A-Z, a-z, 0-9 and \"_\", no digit first: it is the variable that a job reads"
    )]
    Odd,
    #[error("is a variable that Marquee sets for every job; choose another name")]
    Ours,
}

impl SecretName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for SecretName {
    type Error = InvalidSecretName;
    fn try_from(text: String) -> Result<Self, InvalidSecretName> {
        let is_fine = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let starts_well = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !starts_well || !text.bytes().all(is_fine) || text.len() > NAME_MAX_BYTES {
            return Err(InvalidSecretName::Odd);
        }
        // What Marquee sets stands over it: the program would find another value than the one that
        // is kept.
        if text.starts_with(OUR_PREFIX) || OURS.contains(&text.as_str()) {
            return Err(InvalidSecretName::Ours);
        }
        Ok(Self(text))
    }
}

impl FromStr for SecretName {
    type Err = InvalidSecretName;
    fn from_str(text: &str) -> Result<Self, InvalidSecretName> {
        Self::try_from(text.to_owned())
    }
}

impl From<SecretName> for String {
    fn from(name: SecretName) -> Self {
        name.0
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why bytes can be no secret. None: they can.
#[must_use]
pub fn wrong_value(bytes: &[u8]) -> Option<&'static str> {
    // All other bytes may stand in it: a value need not be text.
    if bytes.is_empty() {
        Some("is empty; \"marquee secret remove\" takes a secret away")
    } else if bytes.len() > VALUE_MAX_BYTES {
        Some("is longer than 64 KiB")
    } else if bytes.contains(&0) {
        Some("holds a zero byte, which no variable can")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_variable_that_nobody_else_sets() {
        for good in ["A", "_", "HF_TOKEN", "token2", &"x".repeat(128)] {
            assert!(good.parse::<SecretName>().is_ok(), "{good}");
        }
        for odd in [
            "",
            "2A",
            "A-B",
            "A=b",
            "A B",
            "é",
            "A\0",
            "A/B",
            &"x".repeat(129),
        ] {
            let refused = odd.parse::<SecretName>();
            assert_eq!(refused, Err(InvalidSecretName::Odd), "{odd:?}");
        }
        for ours in ["RANK", "MARQUEE_OUTPUT", "TMPDIR", "MASTER_ADDR"] {
            let refused = ours.parse::<SecretName>();
            assert_eq!(refused, Err(InvalidSecretName::Ours), "{ours}");
        }
        assert!(serde_json::from_str::<SecretName>("\"A=b\"").is_err());
    }

    #[test]
    fn a_value_is_some_bytes_that_a_variable_can_hold() {
        assert_eq!(wrong_value(&[0xff; VALUE_MAX_BYTES]), None);
        for wrong in [&b""[..], b"a\0b", &[b'x'; VALUE_MAX_BYTES + 1]] {
            assert!(wrong_value(wrong).is_some());
        }
    }
}
