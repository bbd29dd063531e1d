//! Requests that are polite and do not give up too soon: one rate, a limit on those in flight,
//! retries with back-off and jitter, `Retry-After` obeyed, hosts that are down left alone, and no
//! secret in any message.
//!
//! Invariant: memory is bounded by the number of requests in flight. Large files come two at a
//! time, and each keeps its turn until whoever asked for it lets go of it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use marquee_domain::spec::ArrayElement;
use reqwest::header::{
    AUTHORIZATION, DATE, ETAG, HeaderName, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED,
    RETRY_AFTER,
};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, Url};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::breaker::Breakers;
use super::credential::Credential;
use super::pace::Pace;
use super::shares::{self, InFlight};
use super::verdict::{Verdict, judge, judge_status, retry_after};
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
/// Longest time that a download may take in all.
const DOWNLOAD_MAX: Duration = Duration::from_secs(3_600);
/// Redirects followed for images and exports; the API has none.
const REDIRECTS_MAX: usize = 5;
/// Bytes of one answer of the API. A film's details are some 5 KB.
const JSON_MAX_BYTES: usize = 8 * 1024 * 1024;
/// Bytes from which on a file counts as large.
const LARGE_FROM_BYTES: usize = 2 * 1024 * 1024;
/// Large files that come at once.
const LARGE_MAX: usize = 2;
/// Characters of a validator that is kept: an `ETag` is a hash, not a text.
const VALIDATOR_MAX_CHARS: usize = 256;

/// Why a request has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NoAnswer {
    Unauthorized {
        detail: String,
    },
    Gone {
        detail: String,
    },
    Failed {
        class: String,
        detail: String,
    },
    /// The host has answered nothing for as long as the settings allow.
    Down {
        detail: String,
    },
}

/// By what a server knows whether a file has changed since.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Validators {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) etag: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) last_modified: Option<String>,
}

/// An answer to a request that said what is known already.
#[derive(Debug)]
pub(super) enum Answer<T> {
    New { value: T, validators: Validators },
    Unchanged,
}

/// A file in memory. While a large one is held, at most one other is.
#[derive(Debug, Default)]
pub(super) struct Body {
    pub(super) bytes: Vec<u8>,
    large: Option<OwnedSemaphorePermit>,
}

impl Body {
    /// Bytes that came from elsewhere.
    pub(super) fn of(bytes: Vec<u8>) -> Self {
        Self { bytes, large: None }
    }
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
    /// A host that answers nothing for this long is given up.
    pub(super) outage: Duration,
}

impl Manners {
    /// Those of one element of an array that no coordinator shares rates out to: all of them together
    /// keep to what one job would.
    pub(super) fn share_of(self, element: Option<ArrayElement>) -> Self {
        let Some(element) = element else { return self };
        Self {
            requests_per_second: element.share_of(self.requests_per_second),
            concurrency: element.share_of(self.concurrency),
            ..self
        }
    }
}

/// A client of one service.
#[derive(Debug)]
pub(super) struct PoliteClient {
    api: Client,
    files: Client,
    credential: Option<Credential>,
    pace: Arc<Pace>,
    breakers: Breakers,
    in_flight: Arc<InFlight>,
    large: Arc<Semaphore>,
    attempts: u32,
    timeout: Duration,
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
}

struct Request<'a> {
    url: Url,
    kind: Kind,
    /// Bytes of the answer, at most.
    limit: usize,
    known: &'a Validators,
}

impl PoliteClient {
    pub(super) fn new(
        manners: Manners,
        credential: Option<Credential>,
        is_loopback: bool,
        jitter: Dice,
        clock: Clock,
        shares: Option<&Path>,
    ) -> Result<Self, JobError> {
        let (pace, in_flight) = limits_of(manners, shares);
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
            pace,
            breakers: Breakers::new(manners.outage),
            large: Arc::new(Semaphore::new(LARGE_MAX)),
            in_flight,
            attempts: manners.attempts.max(1),
            timeout: manners.timeout,
            clock,
            jitter: Mutex::new(jitter),
        })
    }

    /// Says whom the job will ask, so that it has a share of them in time.
    pub(super) fn declare(&self, urls: impl IntoIterator<Item = Url>) {
        let hosts: BTreeSet<String> = urls.into_iter().map(|url| service_of(&url)).collect();
        self.pace.declare(hosts.iter().map(String::as_str));
    }

    pub(super) fn credential(&self) -> Option<&Credential> {
        self.credential.as_ref()
    }

    /// Asks the API.
    pub(super) async fn json<T: DeserializeOwned>(
        &self,
        url: Url,
        known: &Validators,
    ) -> Result<Answer<T>, NoAnswer> {
        let request = Request {
            url,
            kind: Kind::Api,
            limit: JSON_MAX_BYTES,
            known,
        };
        self.retrying(&request, |body| {
            serde_json::from_slice(&body.bytes)
                .map_err(|error| format!("it is not what was asked for: {error}"))
        })
        .await
    }

    /// Gets an image. What is plainly no image counts as a passing fault.
    pub(super) async fn image(
        &self,
        url: Url,
        limit: usize,
        known: &Validators,
    ) -> Result<Answer<Body>, NoAnswer> {
        let request = Request {
            url,
            kind: Kind::Image,
            limit,
            known,
        };
        self.retrying(&request, |body| {
            if is_text_answer(&body.bytes) {
                Err("a page came instead of an image".to_owned())
            } else {
                Ok(body)
            }
        })
        .await
    }

    /// Gets an export file of at most `limit` bytes into the file `to`.
    pub(super) async fn download(&self, url: Url, limit: u64, to: &Path) -> Result<(), NoAnswer> {
        let mut attempt = 0;
        loop {
            let Err(again) = self.download_once(&url, limit, to).await? else {
                return Ok(());
            };
            attempt += 1;
            if attempt >= self.attempts {
                let (class, detail) = again;
                let detail = format!("{detail} ({attempt} attempts)");
                return Err(NoAnswer::Failed { class, detail });
            }
            tokio::time::sleep(self.back_off(attempt)).await;
        }
    }

    /// One try. The inner error is one that may pass.
    async fn download_once(
        &self,
        url: &Url,
        limit: u64,
        to: &Path,
    ) -> Result<Result<(), (String, String)>, NoAnswer> {
        self.pace.turn(&service_of(url)).await;
        let broken = |error: &reqwest::Error| match self.broken::<()>(error, "truncated") {
            Try::Again { class, detail } => (class, detail),
            Try::Done(()) | Try::Over(_) | Try::TooMany { .. } => Default::default(),
        };
        // The limit in time of one request is for small answers; this one takes as long as it takes,
        // as long as something comes.
        let stalled = || ("timeout".to_owned(), "the file stopped coming".to_owned());
        let request = self.files.get(url.clone()).timeout(DOWNLOAD_MAX);
        let mut response = match tokio::time::timeout(self.timeout, request.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Ok(Err(broken(&error))),
            Err(_) => return Ok(Err(stalled())),
        };
        let status = response.status().as_u16();
        match judge_status(status, format!("HTTP {status}")) {
            Verdict::Good => {}
            Verdict::Unauthorized { detail } => return Err(NoAnswer::Unauthorized { detail }),
            Verdict::Gone { detail } => return Err(NoAnswer::Gone { detail }),
            Verdict::Failed { class, detail } => return Err(NoAnswer::Failed { class, detail }),
            Verdict::Again { class, detail } => return Ok(Err((class, detail))),
            Verdict::TooMany { detail } => return Ok(Err(("http_429".to_owned(), detail))),
            Verdict::Unchanged => return Ok(Err(("nonsense".to_owned(), "HTTP 304".to_owned()))),
        }
        let on_disk = |error: std::io::Error| NoAnswer::Failed {
            class: "disk".to_owned(),
            detail: format!("{} cannot be written: {error}", to.display()),
        };
        let mut file = File::create(to).map_err(on_disk)?;
        let mut written = 0;
        loop {
            let chunk = match tokio::time::timeout(self.timeout, response.chunk()).await {
                Ok(Ok(Some(chunk))) => chunk,
                Ok(Ok(None)) => break,
                Ok(Err(error)) => return Ok(Err(broken(&error))),
                Err(_) => return Ok(Err(stalled())),
            };
            if written == 0 && is_text_answer(&chunk) {
                let detail = "a page came instead of a file".to_owned();
                return Ok(Err(("nonsense".to_owned(), detail)));
            }
            written += chunk.len() as u64;
            if written > limit {
                let detail = format!("it has more than {limit} bytes");
                let class = "too_large".to_owned();
                return Err(NoAnswer::Failed { class, detail });
            }
            file.write_all(&chunk).map_err(on_disk)?;
        }
        if written == 0 {
            return Ok(Err(("empty".to_owned(), "the answer is empty".to_owned())));
        }
        Ok(Ok(()))
    }

    async fn retrying<T>(
        &self,
        request: &Request<'_>,
        accept: impl Fn(Body) -> Result<T, String>,
    ) -> Result<Answer<T>, NoAnswer> {
        let (mut attempt, mut rate_limited) = (0, 0);
        loop {
            let wait = match self.once(request, &accept).await {
                Try::Done(answer) => return Ok(answer),
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
        request: &Request<'_>,
        accept: impl Fn(Body) -> Result<T, String>,
    ) -> Try<Answer<T>> {
        let Ok(_permit) = self.in_flight.acquire().await else {
            return Try::Again {
                class: "closed".to_owned(),
                detail: "the job ends".to_owned(),
            };
        };
        let host = request.url.host_str().unwrap_or_default();
        let turn = match self.breakers.turn(host).await {
            Ok(turn) => turn,
            Err(given_up) => {
                return Try::Over(NoAnswer::Down {
                    detail: format!("{host} has answered nothing for {:.0?}", given_up.after),
                });
            }
        };
        self.pace.turn(&service_of(&request.url)).await;
        let tried = self.try_once(request, accept).await;
        match &tried {
            // Nothing came, or the host said that it is in trouble.
            Try::Again { class, .. } if is_trouble(class) => self.breakers.failed(host, turn),
            Try::Again { .. } | Try::Done(_) | Try::Over(_) | Try::TooMany { .. } => {
                self.breakers.answered(host);
            }
        }
        tried
    }

    async fn try_once<T>(
        &self,
        request: &Request<'_>,
        accept: impl Fn(Body) -> Result<T, String>,
    ) -> Try<Answer<T>> {
        let response = match self.request(request).send().await {
            Ok(response) => response,
            Err(error) => return self.broken(&error, "network"),
        };
        let status = response.status().as_u16();
        let wait = retry_after(
            text_of(&response, RETRY_AFTER),
            text_of(&response, DATE),
            (self.clock)(),
        );
        let validators = Validators {
            etag: validator(&response, ETAG),
            last_modified: validator(&response, LAST_MODIFIED),
        };
        let body = match self.read_body(response, request.limit).await {
            Ok(body) => body,
            Err(Unread::TooLarge) => {
                let detail = format!("it has more than {} bytes", request.limit);
                return Try::Over(NoAnswer::Failed {
                    class: "too_large".to_owned(),
                    detail,
                });
            }
            Err(Unread::Broken(error)) => return self.broken(&error, "truncated"),
        };
        let verdict = match request.kind {
            Kind::Api => judge(status, &body.bytes),
            Kind::Image => judge_status(status, format!("HTTP {status}")),
        };
        match verdict {
            Verdict::Good if body.bytes.is_empty() => Try::Again {
                class: "empty".to_owned(),
                detail: "the answer is empty".to_owned(),
            },
            Verdict::Good => match accept(body) {
                Ok(value) => Try::Done(Answer::New { value, validators }),
                Err(detail) => Try::Again {
                    class: "nonsense".to_owned(),
                    detail,
                },
            },
            Verdict::Unchanged if *request.known != Validators::default() => {
                Try::Done(Answer::Unchanged)
            }
            Verdict::Unchanged => Try::Again {
                class: "nonsense".to_owned(),
                detail: "HTTP 304 to a request without a condition".to_owned(),
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

    fn request(&self, request: &Request<'_>) -> reqwest::RequestBuilder {
        let url = request.url.clone();
        let mut builder = match (request.kind, &self.credential) {
            (Kind::Image, _) => self.files.get(url),
            (Kind::Api, None) => self.api.get(url),
            (Kind::Api, Some(credential)) => {
                let mut url = url;
                if let Some(key) = credential.query() {
                    url.query_pairs_mut().append_pair("api_key", key);
                }
                let builder = self.api.get(url);
                match credential.header() {
                    Some(value) => builder.header(AUTHORIZATION, value),
                    None => builder,
                }
            }
        };
        if let Some(etag) = &request.known.etag {
            builder = builder.header(IF_NONE_MATCH, etag);
        }
        if let Some(date) = &request.known.last_modified {
            builder = builder.header(IF_MODIFIED_SINCE, date);
        }
        builder
    }

    /// A request that had no complete answer, of the class `otherwise` if the error says no more.
    /// The error's own text names the URL, which may hold the key, so only its causes are shown.
    fn broken<T>(&self, error: &reqwest::Error, otherwise: &str) -> Try<T> {
        let class = if error.is_redirect() {
            "redirects"
        } else if error.is_timeout() {
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

/// The limits of the job's settings, or such as its shares will say.
fn limits_of(manners: Manners, shares: Option<&Path>) -> (Arc<Pace>, Arc<InFlight>) {
    let Some(folder) = shares else {
        let pace = Pace::new(manners.requests_per_second);
        return (Arc::new(pace), Arc::new(InFlight::new(manners.concurrency)));
    };
    let (pace, in_flight) = (Arc::new(Pace::shared()), Arc::new(InFlight::new(1)));
    shares::attend(folder.to_owned(), manners, &pace, &in_flight);
    (pace, in_flight)
}

/// Whom a request asks: a host's port, since another one is another service.
pub(super) fn service_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    format!("{host}:{}", url.port_or_known_default().unwrap_or(0))
}

enum Unread {
    TooLarge,
    Broken(reqwest::Error),
}

fn text_of(response: &Response, name: HeaderName) -> Option<&str> {
    response
        .headers()
        .get(name)
        .and_then(|value| value.to_str().ok())
}

fn validator(response: &Response, name: HeaderName) -> Option<String> {
    text_of(response, name)
        .filter(|text| text.len() <= VALIDATOR_MAX_CHARS)
        .map(str::to_owned)
}

/// Whether a failure of this class says that the host, not the one file, is in trouble.
fn is_trouble(class: &str) -> bool {
    matches!(class, "connect" | "timeout" | "network" | "truncated") || class.starts_with("http_5")
}

impl PoliteClient {
    async fn read_body(&self, mut response: Response, limit: usize) -> Result<Body, Unread> {
        let announced = response.content_length();
        if announced.is_some_and(|length| length > limit as u64) {
            return Err(Unread::TooLarge);
        }
        let mut body = Body::default();
        while let Some(chunk) = response.chunk().await.map_err(Unread::Broken)? {
            let length = body.bytes.len() + chunk.len();
            if length > limit {
                return Err(Unread::TooLarge);
            }
            if length > LARGE_FROM_BYTES && body.large.is_none() {
                // The semaphore is never closed.
                body.large = self.large.clone().acquire_owned().await.ok();
            }
            body.bytes.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}
