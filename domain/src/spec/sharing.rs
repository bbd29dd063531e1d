//! How a job shares the cluster with others: for whom it runs, when, where, and what may interrupt it.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::ids::WorkerId;
use crate::project::ProjectName;
use crate::secret::SecretName;

/// How a job shares the cluster. What a document does not say is as it was before these keys existed, and stored
/// specs without them are read so.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Sharing {
    #[serde(skip_serializing_if = "ProjectName::is_default")]
    pub project: ProjectName,
    /// Whether a job of a higher priority may take its devices.
    #[serde(skip_serializing_if = "is_false")]
    pub preemptible: bool,
    /// Whether it may hold GPUs that do nothing.
    #[serde(skip_serializing_if = "is_false")]
    pub idle_ok: bool,
    /// Not to be placed before. Stored as seconds since 1970.
    #[serde(
        with = "chrono::serde::ts_seconds_option",
        skip_serializing_if = "Option::is_none"
    )]
    pub start_after: Option<DateTime<Utc>>,
    /// It fails when it has not ended by then. Stored as seconds since 1970.
    #[serde(
        with = "chrono::serde::ts_seconds_option",
        skip_serializing_if = "Option::is_none"
    )]
    pub deadline: Option<DateTime<Utc>>,
    /// Of the jobs of a project that have the same key, one runs at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency_key: Option<String>,
    /// Of an array: elements that may run at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_once: Option<u32>,
    /// What each of its GPUs must have, and all that it uses of one, in MiB: it may then have a share of a GPU. None: it
    /// does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_memory_mib: Option<u32>,
    #[serde(skip_serializing_if = "HostRules::is_empty")]
    pub hosts: HostRules,
    /// Secrets that the coordinator keeps for its project, which it gets as variables of these names.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub secrets: BTreeSet<SecretName>,
}

fn is_false(value: &bool) -> bool {
    !*value
}

/// On which hosts a job may run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HostRules {
    /// Labels that a host must have, all of them.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub labels: BTreeSet<String>,
    /// Hosts, by name, and labels that it must not have.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub avoid: BTreeSet<String>,
    /// The one GPU that it is for, in quarantine or not. No document says this: burn-ins alone have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu: Option<OneGpu>,
}

/// A GPU that a burn-in is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OneGpu {
    pub worker: WorkerId,
    pub uuid: String,
}

impl HostRules {
    /// Whether any host will do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.avoid.is_empty() && self.gpu.is_none()
    }

    /// Whether a host of this name with these labels will do.
    #[must_use]
    pub fn allow(&self, name: &str, labels: &BTreeSet<String>) -> bool {
        // All of the wanted labels, and none of the avoided: two labels narrow a choice down, as
        // people expect of filters.
        self.labels.is_subset(labels)
            && !self.avoid.contains(name)
            && self.avoid.is_disjoint(labels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_says_nothing_is_stored_as_nothing() {
        let plain = serde_json::to_value(Sharing::default()).unwrap();
        assert_eq!(plain, serde_json::json!({}));
        assert_eq!(
            serde_json::from_value::<Sharing>(plain).unwrap(),
            Sharing::default()
        );
        let full = Sharing {
            project: "vision".parse().unwrap(),
            preemptible: true,
            idle_ok: true,
            start_after: DateTime::from_timestamp(1_800_000_000, 0),
            deadline: DateTime::from_timestamp(1_800_000_001, 0),
            concurrency_key: Some("nightly".into()),
            at_once: Some(3),
            gpu_memory_mib: Some(8_192),
            hosts: HostRules {
                labels: BTreeSet::from(["switch=a".into()]),
                avoid: BTreeSet::from(["gpu-3".into()]),
                gpu: Some(OneGpu {
                    worker: WorkerId(uuid::Uuid::from_u128(7)),
                    uuid: "GPU-a".into(),
                }),
            },
            secrets: BTreeSet::from(["HF_TOKEN".parse().unwrap()]),
        };
        let stored = serde_json::to_value(&full).unwrap();
        // The store reads it in SQL.
        assert_eq!(stored["deadline"], 1_800_000_001);
        assert_eq!(serde_json::from_value::<Sharing>(stored).unwrap(), full);
    }

    #[test]
    fn a_host_must_have_all_labels_and_none_that_is_avoided() {
        let set = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let rules = HostRules {
            labels: set(&["a", "b"]),
            avoid: set(&["slow", "gpu-3"]),
            gpu: None,
        };
        assert!(rules.allow("gpu-1", &set(&["a", "b", "c"])));
        assert!(!rules.allow("gpu-1", &set(&["a"])));
        assert!(!rules.allow("gpu-3", &set(&["a", "b"])));
        assert!(!rules.allow("gpu-1", &set(&["a", "b", "slow"])));
        assert!(HostRules::default().allow("any", &set(&[])));
    }
}
