//! What an operator decided about a host: whether it is drained, and what of it is in quarantine.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// A host's standing. What says nothing is a host that takes work.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Standing {
    /// It takes no new work. None: it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain: Option<Drain>,
    /// Nothing of it is used. None: all that is well is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quarantine: Option<Decision>,
    /// GPUs, by index, that are not used.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub gpus: BTreeMap<u32, Decision>,
}

/// Who decided, when, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    pub by: String,
    pub at: DateTime<Utc>,
    /// In the operator's words; empty: none were given.
    #[serde(default)]
    pub reason: String,
}

/// A host that is being emptied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    #[serde(flatten)]
    pub decision: Decision,
    /// What runs by then is checkpointed and moved. None: it may finish.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<DateTime<Utc>>,
}

impl Standing {
    /// Why the host takes no new work, in words; None: it does.
    #[must_use]
    pub fn closed(&self) -> Option<String> {
        if let Some(decision) = &self.quarantine {
            return Some(format!("is in quarantine{}", decision.words()));
        }
        let drain = self.drain.as_ref()?;
        let until = match drain.deadline {
            Some(at) => format!(
                "; what runs at {} UTC is moved",
                at.format("%Y-%m-%d %H:%M")
            ),
            None => String::new(),
        };
        Some(format!("is drained{}{until}", drain.decision.words()))
    }

    /// Why a GPU is not used, in words; None: it is.
    #[must_use]
    pub fn gpu(&self, index: u32) -> Option<String> {
        let decision = self.gpus.get(&index)?;
        Some(format!("in quarantine{}", decision.words()))
    }
}

impl Decision {
    /// " since 2027-01-15 08:00 UTC: fan is loud".
    fn words(&self) -> String {
        let since = self.at.format("%Y-%m-%d %H:%M");
        match self.reason.as_str() {
            "" => format!(" since {since} UTC"),
            reason => format!(" since {since} UTC: {reason}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decision(reason: &str) -> Decision {
        Decision {
            by: "local".into(),
            at: "2027-01-15T08:00:00Z".parse().unwrap(),
            reason: reason.into(),
        }
    }

    #[test]
    fn a_standing_says_why_and_is_read_as_it_was_stored() {
        assert_eq!(Standing::default().closed(), None);
        let empty: Standing = serde_json::from_str("{}").unwrap();
        assert_eq!(empty, Standing::default());
        let standing = Standing {
            drain: Some(Drain {
                decision: decision(""),
                deadline: Some("2027-01-15T09:00:00Z".parse().unwrap()),
            }),
            quarantine: None,
            gpus: BTreeMap::from([(3, decision("fan is loud"))]),
        };
        assert_eq!(
            standing.closed().unwrap(),
            "is drained since 2027-01-15 08:00 UTC; what runs at 2027-01-15 09:00 UTC is moved"
        );
        assert_eq!(
            standing.gpu(3).unwrap(),
            "in quarantine since 2027-01-15 08:00 UTC: fan is loud"
        );
        assert_eq!(standing.gpu(0), None);
        let stored = serde_json::to_value(&standing).unwrap();
        assert_eq!(
            serde_json::from_value::<Standing>(stored).unwrap(),
            standing
        );
    }
}
