//! Which coordinators the settings name, and how these are spoken to: in the clear, or with which certificates.

use std::fs;
use std::path::Path;

use marquee_settings::Values;

use super::{ConfigError, DEFAULT_COORDINATOR, value};
use crate::member::{Joined, Tls};

/// Coordinators that may be named: each further one makes finding the one that leads slower.
const COORDINATORS_MAX: usize = 8;

/// At least one.
pub(super) fn coordinators(
    values: &Values,
    joined: Option<&Joined>,
) -> Result<Vec<String>, ConfigError> {
    if let (None, Some(joined)) = (values.text("coordinator"), joined) {
        return Ok(joined.coordinators.clone());
    }
    let text = values.text("coordinator").unwrap_or(DEFAULT_COORDINATOR);
    let urls = text.split([',', ' ']).filter(|url| !url.is_empty());
    let urls: Vec<String> = urls.map(str::to_owned).collect();
    match urls.len() {
        1..=COORDINATORS_MAX => Ok(urls),
        count => Err(value(
            "coordinator",
            format!("= {text:?} names {count} coordinators; name 1 to {COORDINATORS_MAX}"),
        )),
    }
}

pub(super) fn tls(
    coordinators: &[String],
    values: &Values,
    joined: Option<Tls>,
) -> Result<Option<Tls>, ConfigError> {
    let coordinator = &coordinators[0];
    let read = |key: &'static str, path: &Path| {
        fs::read_to_string(path).map_err(|e| value(key, format!("= {path:?} cannot be read: {e}")))
    };
    let scheme_of = |url: &String| Some(url.split_once("://")?.0.to_owned());
    let scheme = scheme_of(coordinator);
    // A coordinator that is named later is dialled as these are: with both, nobody could say whether in the
    // clear.
    if let Some(other) = coordinators.iter().find(|url| scheme_of(url) != scheme) {
        return Err(value(
            "coordinator",
            format!(
                "= {coordinator:?}, {other:?}: write http:// before all of them, or https:// before all"
            ),
        ));
    }
    match (scheme.as_deref(), values.path("tls.ca")) {
        (Some("http"), None) => Ok(None),
        (Some("http"), Some(_)) => Err(value(
            "coordinator",
            format!("= {coordinator:?} has no TLS, but tls.ca is set; write https://"),
        )),
        (Some("https"), None) => match joined {
            Some(joined) => Ok(Some(joined)),
            None => Err(value(
                "tls.ca",
                "is missing, and this worker has not joined; run \"marquee-worker join\" with a token, or name the PEM file of the coordinator's CA",
            )),
        },
        (Some("https"), Some(ca)) => {
            let identity = match (values.path("tls.cert"), values.path("tls.key")) {
                (Some(cert), Some(key)) => Some((read("tls.cert", &cert)?, read("tls.key", &key)?)),
                (None, None) => None,
                (Some(_), None) => return Err(value("tls.key", "is missing beside tls.cert")),
                (None, Some(_)) => return Err(value("tls.cert", "is missing beside tls.key")),
            };
            Ok(Some(Tls {
                ca: read("tls.ca", &ca)?,
                identity,
                server_name: None,
                member: None,
            }))
        }
        (Some(_) | None, _) => Err(value(
            "coordinator",
            format!("= {coordinator:?} is no URL; write it as {DEFAULT_COORDINATOR:?}"),
        )),
    }
}
