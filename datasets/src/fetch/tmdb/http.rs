//! Requests that are polite and do not give up too soon: one rate, a limit on those in flight,
//! retries with back-off and jitter, `Retry-After` obeyed, and no secret in any message.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, DATE, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, Url};
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;

use super::answers::{Verdict, judge, judge_status, retry_after};
use super::credential::Credential;
use super::pace::Pace;
use crate::clock::Clock;
use crate::dice::Dice;
use crate::job::JobError;
use crate::sniff::is_text_answer;

/// First wait before another try; doubled by each further one.
const BACKOFF_FIRST: Duration = Duration::from_millis(500);
/// Longest wait that we choose ourselves.
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// Longest wait that a service may choose for us; whatever it says, it is asked again after this.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(600);
/// How often one request may meet 429. These waits are the service's will rather than its failure,
/// so they do not count as attempts, but they have an end too.
const RATE_LIMITED_MAX: u32 = 30;
/// Redirects followed for images and exports; the API has none.
const REDIRECTS_MAX: usize = 5;
/// Bytes of one answer of the API. A film's details are some 5 KB.
const JSON_MAX_BYTES: usize = 8 * 1024 * 1024;

/// Why a request has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NoAnswer {
    Unauthorized { detail: String },
    Gone { detail: String },
    Failed { class: String, detail: String },
}

/// How requests are made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manners {
    pub(super) requests_per_second: u32,
    pub(super) concurrency: u32,
    /// For one request, connect to last byte.
    pub(super) timeout: Duration,
    /// Tries for one request, the first included.
    pub(super) attempts: u32,
}

/// A client of one service.
#[derive(Debug)]
pub(super) struct PoliteClient {
    api: Client,
    files: Client,
    credential: Option<Credential>,
    pace: Pace,
    in_flight: Semaphore,
    attempts: u32,
    clock: Clock,
    jitter: Mutex<Dice>,
}

/// What one try came to.
enum Try<T> {
    Done(T),
    Over(NoAnswer),
    Again {
        class: String,
        detail: String,
    },
    TooMany {
        detail: String,
        wait: Option<Duration>,
    },
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Api,
    Image,
    Export,
}

impl PoliteClient {
    pub(super) fn new(
        manners: Manners,
        credential: Option<Credential>,
        is_loopback: bool,
        jitter: Dice,
        clock: Clock,
    ) -> Result<Self, JobError> {
        let build = |redirects: Policy| {
            let mut builder = Client::builder()
                .user_agent(concat!("marquee-prep/", env!("CARGO_PKG_VERSION")))
                .timeout(manners.timeout)
                .redirect(redirects)
                // A referer would carry the URL, and with it a key in the query, to others.
                .referer(false);
            if is_loopback {
                // A proxy could not reach this machine's own server.
                builder = builder.no_proxy();
            }
            builder
                .build()
                .map_err(|error| JobError::crash(format!("no HTTP client can be made: {error}")))
        };
        Ok(Self {
            // A redirect of the API would take the credential elsewhere.
            api: build(Policy::none())?,
            files: build(Policy::limited(REDIRECTS_MAX))?,
            credential,
            pace: Pace::new(manners.requests_per_second),
            in_flight: Semaphore::new(manners.concurrency.max(1) as usize),
            attempts: manners.attempts.max(1),
            clock,
            jitter: Mutex::new(jitter),
        })
    }

    pub(super) fn credential(&self) -> Option<&Credential> {
        self.credential.as_ref()
    }

    /// Asks the API.
    pub(super) async fn json<T: DeserializeOwned>(&self, url: Url) -> Result<T, NoAnswer> {
        self.retrying(url, Kind::Api, JSON_MAX_BYTES, |body| {
            serde_json::from_slice(&body)
                .map_err(|error| format!("it is not what was asked for: {error}"))
        })
        .await
    }

    /// Gets an image. What is plainly no image counts as a passing fault.
    pub(super) async fn image(&self, url: Url, limit: usize) -> Result<Vec<u8>, NoAnswer> {
        self.retrying(url, Kind::Image, limit, |body| {
            if is_text_answer(&body) {
                Err("a page came instead of an image".to_owned())
            } else {
                Ok(body)
            }
        })
        .await
    }

    /// Gets an export file.
    pub(super) async fn export(&self, url: Url, limit: usize) -> Result<Vec<u8>, NoAnswer> {
        self.retrying(url, Kind::Export, limit, |body| {
            if is_text_answer(&body) {
                Err("a page came instead of a file".to_owned())
            } else {
                Ok(body)
            }
        })
        .await
    }

    async fn retrying<T>(
        &self,
        url: Url,
        kind: Kind,
        limit: usize,
        accept: impl Fn(Vec<u8>) -> Result<T, String>,
    ) -> Result<T, NoAnswer> {
        let (mut attempt, mut rate_limited) = (0, 0);
        loop {
            let wait = match self.once(&url, kind, limit, &accept).await {
                Try::Done(value) => return Ok(value),
                Try::Over(answer) => return Err(answer),
                Try::Again { class, detail } => {
                    attempt += 1;
                    if attempt >= self.attempts {
                        let detail = format!("{detail} ({attempt} attempts)");
                        return Err(NoAnswer::Failed { class, detail });
                    }
                    self.back_off(attempt)
                }
                Try::TooMany { detail, wait } => {
                    rate_limited += 1;
                    if rate_limited >= RATE_LIMITED_MAX {
                        return Err(NoAnswer::Failed {
                            class: "http_429".to_owned(),
                            detail,
                        });
                    }
                    let wait = wait.unwrap_or_else(|| self.back_off(rate_limited));
                    let wait = wait.min(RETRY_AFTER_MAX);
                    // The limit is the service's, not this request's: everyone waits.
                    self.pace.pause(wait);
                    wait
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    async fn once<T>(
        &self,
        url: &Url,
        kind: Kind,
        limit: usize,
        accept: impl Fn(Vec<u8>) -> Result<T, String>,
    ) -> Try<T> {
        let Ok(_permit) = self.in_flight.acquire().await else {
            return Try::Again {
                class: "closed".to_owned(),
                detail: "the job ends".to_owned(),
            };
        };
        self.pace.turn().await;
        let response = match self.request(url, kind).send().await {
            Ok(response) => response,
            Err(error) => return self.broken(&error, "network"),
        };
        let status = response.status().as_u16();
        let header = |name| {
            response
                .headers()
                .get(name)
                .and_then(|value| value.to_str().ok())
        };
        let wait = retry_after(header(RETRY_AFTER), header(DATE), (self.clock)());
        let body = match read_body(response, limit).await {
            Ok(body) => body,
            Err(Unread::TooLarge) => {
                let detail = format!("it has more than {limit} bytes");
                return Try::Over(NoAnswer::Failed {
                    class: "too_large".to_owned(),
                    detail,
                });
            }
            Err(Unread::Broken(error)) => return self.broken(&error, "truncated"),
        };
        let verdict = match kind {
            Kind::Api => judge(status, &body),
            Kind::Image | Kind::Export => judge_status(status, format!("HTTP {status}")),
        };
        match verdict {
            Verdict::Good if body.is_empty() => Try::Again {
                class: "empty".to_owned(),
                detail: "the answer is empty".to_owned(),
            },
            Verdict::Good => match accept(body) {
                Ok(value) => Try::Done(value),
                Err(detail) => Try::Again {
                    class: "nonsense".to_owned(),
                    detail,
                },
            },
            Verdict::Unauthorized { detail } => Try::Over(NoAnswer::Unauthorized {
                detail: self.redact(&detail),
            }),
            Verdict::Gone { detail } => Try::Over(NoAnswer::Gone {
                detail: self.redact(&detail),
            }),
            Verdict::Failed { class, detail } => Try::Over(NoAnswer::Failed {
                class,
                detail: self.redact(&detail),
            }),
            Verdict::Again { class, detail } => Try::Again {
                class,
                detail: self.redact(&detail),
            },
            Verdict::TooMany { detail } => Try::TooMany {
                detail: self.redact(&detail),
                wait,
            },
        }
    }

    fn request(&self, url: &Url, kind: Kind) -> reqwest::RequestBuilder {
        match (kind, &self.credential) {
            (Kind::Image | Kind::Export, _) => self.files.get(url.clone()),
            (Kind::Api, None) => self.api.get(url.clone()),
            (Kind::Api, Some(credential)) => {
                let mut url = url.clone();
                if let Some(key) = credential.query() {
                    url.query_pairs_mut().append_pair("api_key", key);
                }
                let request = self.api.get(url);
                match credential.header() {
                    Some(value) => request.header(AUTHORIZATION, value),
                    None => request,
                }
            }
        }
    }

    /// A request that had no complete answer, of the class `otherwise` if the error says no more.
    /// The error's own text names the URL, which may hold the key, so only its causes are shown.
    fn broken<T>(&self, error: &reqwest::Error, otherwise: &str) -> Try<T> {
        let class = if error.is_timeout() {
            "timeout"
        } else if error.is_connect() {
            "connect"
        } else {
            otherwise
        };
        let mut detail = class.to_owned();
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            detail = format!("{detail}: {error}");
            cause = error.source();
        }
        Try::Again {
            class: class.to_owned(),
            detail: self.redact(&detail),
        }
    }

    /// The wait before try `attempt + 1`: half of it is fixed, half is chance, so that requests
    /// that failed together do not come back together.
    fn back_off(&self, attempt: u32) -> Duration {
        let full = BACKOFF_FIRST
            .saturating_mul(1 << (attempt - 1).min(10))
            .min(BACKOFF_MAX);
        let chance = self
            .jitter
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .unit();
        full.mul_f64(0.5 + 0.5 * chance)
    }

    fn redact(&self, text: &str) -> String {
        match &self.credential {
            Some(credential) => credential.redact(text),
            None => text.to_owned(),
        }
    }
}

enum Unread {
    TooLarge,
    Broken(reqwest::Error),
}

async fn read_body(mut response: Response, limit: usize) -> Result<Vec<u8>, Unread> {
    if response
        .content_length()
        .is_some_and(|length| length > limit as u64)
    {
        return Err(Unread::TooLarge);
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(Unread::Broken)? {
        if body.len() + chunk.len() > limit {
            return Err(Unread::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
