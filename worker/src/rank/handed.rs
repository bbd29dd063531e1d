//! Secrets that a rank's job was given: they go into its child's environment, and are kept nowhere.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt as _;

use marquee_domain::secret::{SecretName, wrong_value};
use marquee_domain::spec::JobSpec;
use marquee_proto::v1;

/// Values by their names.
#[derive(Clone, Default)]
pub struct Handed(BTreeMap<SecretName, OsString>);

/// Names alone.
impl fmt::Debug for Handed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Handed {
    /// A value by its name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&OsString> {
        let found = self.0.iter().find(|(known, _)| known.as_str() == name);
        found.map(|(_, value)| value)
    }

    /// All of them, as variables.
    pub fn variables(&self) -> impl Iterator<Item = (OsString, OsString)> {
        self.0
            .iter()
            .map(|(name, value)| (OsString::from(name.as_str()), value.clone()))
    }

    /// What was answered, where it is all that the spec names.
    pub(super) fn read(spec: &JobSpec, answer: v1::TakeSecretsResponse) -> Result<Self, String> {
        let mut handed = BTreeMap::new();
        for secret in answer.secrets {
            let Ok(name) = secret.name.parse::<SecretName>() else {
                continue;
            };
            if let Some(why) = wrong_value(&secret.value) {
                return Err(format!("secret {name} {why}"));
            }
            // Nothing that it did not name.
            if spec.sharing.secrets.contains(&name) {
                handed.insert(name, OsString::from_vec(secret.value));
            }
        }
        let lacks = |name: &&SecretName| !handed.contains_key(*name);
        match spec.sharing.secrets.iter().find(lacks) {
            Some(name) => Err(format!("the coordinator does not hand out secret {name}")),
            None => Ok(Self(handed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(names: &[&str]) -> JobSpec {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let spec = serde_json::json!({
            "name": "job", "needs": [], "inputs": {}, "priority": 0, "max_attempts": 1, "timeout_s": null,
            "work": {"kind": "command", "settings": {"argv": ["true"], "env": {}}},
            "resources": {"ranks": 1, "min_ranks": null, "device": "any", "devices_per_rank": 1},
            "sharing": {"secrets": names},
        });
        serde_json::from_value(spec).unwrap()
    }

    fn answer(secrets: &[(&str, &[u8])]) -> v1::TakeSecretsResponse {
        let secret = |(name, value): &(&str, &[u8])| v1::SecretValue {
            name: (*name).to_owned(),
            value: value.to_vec(),
        };
        v1::TakeSecretsResponse {
            secrets: secrets.iter().map(secret).collect(),
        }
    }

    #[test]
    fn a_child_gets_all_that_its_spec_names_and_nothing_else_or_is_not_started() {
        let read = |secrets: &[(&str, &[u8])]| Handed::read(&spec(&["A", "B"]), answer(secrets));
        let handed = read(&[("A", b"one"), ("B", b"\xff"), ("C", b"not asked for")]).unwrap();
        assert_eq!(handed.variables().count(), 2);
        assert_eq!(handed.get("A"), Some(&OsString::from("one")));
        assert_eq!(handed.get("C"), None);
        assert!(!format!("{handed:?}").contains("one"));
        for (short, why) in [
            (&[("A", &b"one"[..])][..], "secret B"),
            (&[("A", b"one"), ("B", b"a\0b")], "zero byte"),
            (&[("A", b"one"), ("B", b"")], "is empty"),
        ] {
            let refused = read(short).unwrap_err();
            assert!(
                refused.contains(why) && !refused.contains("one"),
                "{refused}"
            );
        }
    }
}
