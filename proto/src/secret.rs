//! Messages that hold secrets, as a log may show them: without.

use std::fmt;

use crate::v1::{SecretValue, SetSecretRequest};

impl fmt::Debug for SetSecretRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SetSecretRequest")
            .field("project", &self.project)
            .field("job", &self.job)
            .field("name", &self.name)
            // Nor how long the value is: that tells of what kind it may be.
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretValue")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::TakeSecretsResponse;

    #[test]
    fn what_is_logged_of_a_secret_is_its_name() {
        let value = b"hunter2".to_vec();
        let name = "TOKEN".to_owned();
        let set = SetSecretRequest {
            name: name.clone(),
            value: value.clone(),
            ..SetSecretRequest::default()
        };
        let taken = TakeSecretsResponse {
            secrets: vec![SecretValue {
                name,
                value: value.clone(),
            }],
        };
        for shown in [format!("{set:?}"), format!("{taken:?}")] {
            let is_shown = shown.contains("hunter2") || shown.contains(&format!("{value:?}"));
            assert!(shown.contains("TOKEN") && !is_shown, "{shown}");
        }
    }
}
