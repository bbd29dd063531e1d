//! The API key or token: read when the job starts, sent with requests, shown to nobody.

use std::fmt;
use std::fs;

use reqwest::header::{HeaderValue, InvalidHeaderValue};

use crate::job::JobError;

/// Digits of a version 3 API key.
const KEY_DIGITS: usize = 32;

/// An API key or bearer token, and where it came from.
pub(super) struct Credential {
    secret: String,
    form: Form,
    /// Such as `environment variable TMDB_TOKEN`.
    origin: String,
}

enum Form {
    /// A version 3 key, which goes into the query.
    Key,
    /// Everything else goes into the Authorization header.
    Bearer(HeaderValue),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

impl Credential {
    /// The credential that the settings name, if they name one.
    pub(super) fn load(
        variable: Option<&str>,
        file: Option<&str>,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, JobError> {
        match (variable, file) {
            (None, None) => Ok(None),
            (Some(variable), _) => {
                let origin = format!("environment variable {variable}");
                let secret = environment(variable).ok_or_else(|| {
                    JobError::user(format!(
                        "{origin} is not set on this worker; set it to the API key or token"
                    ))
                })?;
                Self::new(&secret, origin).map(Some)
            }
            (None, Some(file)) => {
                let origin = format!("credential file {file}");
                let secret = fs::read_to_string(file).map_err(|error| {
                    JobError::user(format!("{origin} cannot be read on this worker: {error}"))
                })?;
                Self::new(&secret, origin).map(Some)
            }
        }
    }

    fn new(secret: &str, origin: String) -> Result<Self, JobError> {
        // Files, and variables that were read from files, end in a newline.
        let secret = secret.trim().to_owned();
        if secret.is_empty() {
            return Err(JobError::user(format!(
                "{origin} is empty; put the API key or token there"
            )));
        }
        let is_key =
            secret.len() == KEY_DIGITS && secret.bytes().all(|byte| byte.is_ascii_hexdigit());
        let form = if is_key {
            Form::Key
        } else {
            Form::Bearer(bearer(&secret).map_err(|_| {
                JobError::user(format!("{origin} holds characters that no token has"))
            })?)
        };
        Ok(Self {
            secret,
            form,
            origin,
        })
    }

    /// Where the secret came from, for messages.
    pub(super) fn origin(&self) -> &str {
        &self.origin
    }

    /// The header that carries the secret, if it travels in one.
    pub(super) fn header(&self) -> Option<HeaderValue> {
        match &self.form {
            Form::Key => None,
            Form::Bearer(value) => Some(value.clone()),
        }
    }

    /// The value of the query's `api_key`, if the secret travels there.
    pub(super) fn query(&self) -> Option<&str> {
        match &self.form {
            Form::Key => Some(&self.secret),
            Form::Bearer(_) => None,
        }
    }

    /// `text` without the secret, should a server have echoed it.
    pub(super) fn redact(&self, text: &str) -> String {
        text.replace(&self.secret, "[secret]")
    }
}

fn bearer(secret: &str) -> Result<HeaderValue, InvalidHeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {secret}"))?;
    // So it is shown by no debug output of the HTTP library.
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0123456789abcdef0123456789abcdef";

    fn load(secret: Option<&str>) -> Result<Option<Credential>, JobError> {
        Credential::load(Some("TOKEN"), None, |_| secret.map(str::to_owned))
    }

    #[test]
    fn a_key_travels_in_the_query_and_a_token_in_the_header() {
        let key = load(Some(&format!(" {KEY}\n"))).unwrap().unwrap();
        assert_eq!((key.query(), key.header()), (Some(KEY), None));
        let token = load(Some("eyJ.a.b")).unwrap().unwrap();
        assert_eq!(token.query(), None);
        assert_eq!(token.header().unwrap(), "Bearer eyJ.a.b");
    }

    #[test]
    fn the_secret_is_in_no_text() {
        let token = load(Some("eyJ.a.b")).unwrap().unwrap();
        let shown = format!(
            "{token:?} {:?} {}",
            token.header(),
            token.redact("got eyJ.a.b")
        );
        assert!(!shown.contains("eyJ"), "{shown}");
    }

    #[test]
    fn a_missing_or_empty_variable_is_named() {
        for secret in [None, Some("  ")] {
            let Err(JobError::Failed(failure)) = load(secret) else {
                panic!("it was taken")
            };
            assert!(
                failure.message.contains("environment variable TOKEN"),
                "{failure:?}"
            );
        }
        assert!(matches!(Credential::load(None, None, |_| None), Ok(None)));
    }
}
