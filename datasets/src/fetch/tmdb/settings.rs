//! The settings of a source of TMDb's kind, checked: an error here costs no request.

use std::time::Duration;

use marquee_domain::artifact::Digest;
use marquee_domain::spec::{FetchSettings, FilmList, Rights, Source};

use crate::fetch::address::Base;
use crate::fetch::credential::Credential;
use crate::fetch::manners::Manners;
use crate::fetch::place::Workplace;
use crate::job::JobError;

/// The settings of a `tmdb` source, checked.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) api: Base,
    pub(super) exports: Base,
    pub(super) images: Option<Base>,
    pub(super) poster_size: String,
    pub(super) credential: Option<Credential>,
    pub(super) limit: Option<u64>,
    pub(super) manners: Manners,
    pub(super) films: FilmList,
    pub(super) from: Option<String>,
    pub(super) to: Option<String>,
    pub(super) rights: Option<Rights>,
}

impl Settings {
    /// Reads the settings of a source, and its credential.
    pub(super) fn from_source(source: &Source) -> Result<Self, JobError> {
        let Source::Tmdb {
            api_url,
            export_url,
            image_url,
            poster_size,
            credential_env,
            credential_file,
            limit,
            requests_per_second,
            concurrency,
            request_timeout_s,
            request_attempts,
            outage_s,
            films,
            from,
            to,
            rights,
        } = source
        else {
            return Err(JobError::crash("the source is no TMDb-compatible API"));
        };
        let api = Base::parse("api_url", api_url)?;
        let exports = match export_url {
            Some(url) => Base::parse("export_url", url)?,
            None => api.sibling("/p/exports"),
        };
        let images = image_url
            .as_ref()
            .map(|url| Base::parse("image_url", url))
            .transpose()?;
        let credential = Credential::load(
            credential_env.as_deref(),
            credential_file.as_deref(),
            |name| std::env::var(name).ok(),
        )?;
        // To this machine itself nobody listens on the way.
        if credential.is_some() && !api.is_https() && !api.is_loopback() {
            return Err(JobError::user(format!(
                "api_url {api} would send the credential unencrypted; use https"
            )));
        }
        Ok(Self {
            api,
            exports,
            images,
            poster_size: poster_size.clone(),
            credential,
            limit: *limit,
            manners: Manners {
                requests_per_second: *requests_per_second,
                concurrency: *concurrency,
                timeout: Duration::from_secs(u64::from(*request_timeout_s)),
                attempts: *request_attempts,
                outage: Duration::from_secs(u64::from(*outage_s)),
            },
            films: *films,
            from: from.clone(),
            to: to.clone(),
            rights: rights.clone(),
        })
    }
}

/// Of all that decides which ids are asked for and what is kept of them; how fast is no part of it.
pub(super) fn fingerprint(fetch: &FetchSettings, place: &Workplace<'_>) -> Digest {
    let mut asked = fetch.clone();
    if let Source::Tmdb {
        credential_env,
        credential_file,
        requests_per_second,
        concurrency,
        request_timeout_s,
        request_attempts,
        outage_s,
        ..
    } = &mut asked.source
    {
        // Whoever changes the key or slows the job down after a failure goes on with what there is.
        (*credential_env, *credential_file) = (None, None);
        (*requests_per_second, *concurrency) = (0, 0);
        (*request_timeout_s, *request_attempts, *outage_s) = (0, 0, 0);
    }
    // The earlier dataset decides too: a plan names rows of it, which another one may not have.
    let earlier = place.previous.as_ref().map(|dataset| dataset.books());
    Digest::of(&serde_json::to_vec(&(asked, earlier)).unwrap_or_default())
}
