//! One try of a request: what is sent, and how what comes back is read and judged.
//!
//! Invariant: no error and no message holds the credential, and memory is bounded by the number of
//! requests in flight: large files come two at a time, and each keeps its turn until whoever asked for
//! it lets go of it.
//! Not here: when a request may go and whether it goes again (`client`).

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{
    AUTHORIZATION, DATE, ETAG, HeaderName, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED,
    LOCATION, RETRY_AFTER,
};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, Url};
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::answer::{Body, Conditional, NoAnswer, Validators};
use super::credential::Credential;
use super::judge::{Judged, Refusal, judge, judge_status, retry_after};
use super::miss::MissClass;
use super::redirect::{Scope, target, without};
use super::tolerant;
use crate::clock::Clock;
use crate::job::JobError;
use crate::sniff::is_text_answer;

/// Longest time that a download may take in all.
const DOWNLOAD_MAX: Duration = Duration::from_secs(3_600);
/// The key's name in the query.
const KEY_NAME: &str = "api_key";
/// Bytes of one answer of the API. A film's details are some 5 KB.
const JSON_MAX_BYTES: usize = 8 * 1024 * 1024;
/// Bytes from which on a file counts as large.
const LARGE_FROM_BYTES: usize = 2 * 1024 * 1024;
/// Large files that come at once.
const LARGE_MAX: usize = 2;
/// Characters of a validator that is kept: an `ETag` is a hash, not a text.
const VALIDATOR_MAX_CHARS: usize = 256;
/// The status of an answer whose body is what was asked for.
const OK: u16 = 200;

/// What one try came to.
#[derive(Debug)]
pub(super) enum Try<T> {
    Done(T),
    Over(NoAnswer),
    /// It may pass. `wait`: as long as the service asked for, which is never no time at all.
    Again {
        class: MissClass,
        detail: String,
        wait: Option<Duration>,
    },
    TooMany {
        detail: String,
        wait: Option<Duration>,
    },
    /// It is elsewhere. `wait`: before it may be asked for there.
    Moved {
        to: Url,
        wait: Option<Duration>,
    },
}

impl<T> Try<T> {
    pub(super) fn again(class: MissClass, detail: impl Into<String>) -> Self {
        Self::Again {
            class,
            detail: detail.into(),
            wait: None,
        }
    }

    fn failed(class: MissClass, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self::Over(NoAnswer::Failed { class, detail })
    }
}

/// The connections to a service.
#[derive(Debug)]
pub(super) struct Transport {
    http: Client,
    credential: Option<Credential>,
    large: Arc<Semaphore>,
    timeout: Duration,
    clock: Clock,
}

/// What the first lines of an answer say.
struct Head {
    status: u16,
    /// How long the service wants to be left alone.
    wait: Option<Duration>,
    validators: Validators,
}

enum Unread {
    TooLarge,
    Broken(reqwest::Error),
}

impl Transport {
    pub(super) fn new(
        timeout: Duration,
        credential: Option<Credential>,
        is_loopback: bool,
        clock: Clock,
    ) -> Result<Self, JobError> {
        let mut builder = Client::builder()
            .user_agent(concat!("marquee-prep/", env!("CARGO_PKG_VERSION")))
            .timeout(timeout)
            // Redirects come back to whoever asks: where they may lead depends on what is asked for, and
            // a host that sends us on may want us to wait before.
            .redirect(Policy::none())
            // A referer would carry the URL, and with it a key in the query, to others.
            .referer(false);
        if is_loopback {
            // A proxy could not reach this machine's own server.
            builder = builder.no_proxy();
        }
        let http = builder
            .build()
            .map_err(|error| JobError::crash(format!("no HTTP client can be made: {error}")))?;
        Ok(Self {
            http,
            credential,
            large: Arc::new(Semaphore::new(LARGE_MAX)),
            timeout,
            clock,
        })
    }

    pub(super) fn credential(&self) -> Option<&Credential> {
        self.credential.as_ref()
    }

    /// Asks the API once.
    pub(super) async fn json<T: DeserializeOwned>(
        &self,
        url: &Url,
        known: &Validators,
    ) -> Try<Conditional<T>> {
        let url = without(url, KEY_NAME);
        let mut with_key = url.clone();
        let key = self.credential.as_ref().and_then(Credential::query);
        if let Some(key) = key {
            with_key.query_pairs_mut().append_pair(KEY_NAME, key);
        }
        let mut request = self.http.get(with_key);
        if let Some(value) = self.credential.as_ref().and_then(Credential::header) {
            request = request.header(AUTHORIZATION, value);
        }
        let way = (&url, Scope::SameOrigin);
        let (head, body) = match self.answer(request, way, known, JSON_MAX_BYTES).await {
            Ok(answer) => answer,
            Err(tried) => return tried,
        };
        let judged = judge(head.status, &body.bytes);
        self.accept(judged, head, known, body, |body| {
            tolerant::read(&body.bytes)
                .map_err(|error| format!("it is not what was asked for: {error}"))
        })
    }

    /// Gets an image once. What is plainly no image counts as a passing fault.
    pub(super) async fn image(
        &self,
        url: &Url,
        limit: usize,
        known: &Validators,
    ) -> Try<Conditional<Body>> {
        let request = self.http.get(url.clone());
        let way = (url, Scope::Anywhere);
        let (head, body) = match self.answer(request, way, known, limit).await {
            Ok(answer) => answer,
            Err(tried) => return tried,
        };
        let judged = judge_status(head.status, format!("HTTP {}", head.status));
        self.accept(judged, head, known, body, |body| {
            if is_text_answer(&body.bytes) {
                Err("a page came instead of an image".to_owned())
            } else {
                Ok(body)
            }
        })
    }

    /// Gets a file of at most `limit` bytes into the file `to` once. What an earlier try left there is
    /// written over.
    pub(super) async fn download(&self, url: &Url, limit: u64, to: &Path) -> Try<()> {
        let stalled = || Try::again(MissClass::Timeout, "the file stopped coming");
        // The time limit of a request is for small answers. A file takes as long as it takes, as long
        // as something comes: each part has that limit anew.
        let request = self.http.get(url.clone()).timeout(DOWNLOAD_MAX);
        let mut response = match timeout(self.timeout, request.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return self.broken(&error, MissClass::Truncated),
            Err(_) => return stalled(),
        };
        let head = self.head_of(&response);
        if let Some(moved) = self.moved(&response, &head, (url, Scope::Anywhere)) {
            return moved;
        }
        match judge_status(head.status, format!("HTTP {}", head.status)) {
            Judged::Good => {}
            Judged::Unchanged => return Try::again(MissClass::Nonsense, "HTTP 304"),
            Judged::Refused(refusal) => return self.refused(refusal, head.wait),
        }
        let on_disk = |error: std::io::Error| {
            let detail = format!("{} cannot be written: {error}", to.display());
            Try::failed(MissClass::Disk, detail)
        };
        let mut file = match File::create(to) {
            Ok(file) => file,
            Err(error) => return on_disk(error),
        };
        let mut written = 0;
        loop {
            let chunk = match timeout(self.timeout, response.chunk()).await {
                Ok(Ok(Some(chunk))) => chunk,
                Ok(Ok(None)) => break,
                Ok(Err(error)) => return self.broken(&error, MissClass::Truncated),
                Err(_) => return stalled(),
            };
            // A page of a proxy or a portal comes with 200, too.
            if written == 0 && is_text_answer(&chunk) {
                return Try::again(MissClass::Nonsense, "a page came instead of a file");
            }
            written += chunk.len() as u64;
            if written > limit {
                let detail = format!("it has more than {limit} bytes");
                return Try::failed(MissClass::TooLarge, detail);
            }
            if let Err(error) = file.write_all(&chunk) {
                return on_disk(error);
            }
        }
        if written == 0 {
            return Try::again(MissClass::Empty, "the answer is empty");
        }
        Try::Done(())
    }

    /// Sends a request for what is at `way`, and reads its whole answer.
    async fn answer<T>(
        &self,
        mut request: reqwest::RequestBuilder,
        way: (&Url, Scope),
        known: &Validators,
        limit: usize,
    ) -> Result<(Head, Body), Try<T>> {
        if let Some(etag) = &known.etag {
            request = request.header(IF_NONE_MATCH, etag);
        }
        if let Some(date) = &known.last_modified {
            request = request.header(IF_MODIFIED_SINCE, date);
        }
        let response = request.send().await;
        let response = response.map_err(|error| self.broken(&error, MissClass::Network))?;
        let head = self.head_of(&response);
        if let Some(moved) = self.moved(&response, &head, way) {
            return Err(moved);
        }
        match self.read_body(response, limit).await {
            Ok(body) => Ok((head, body)),
            // The page that goes with a refusal may be cut or endless: its status, and the wait that it
            // asks for, were said before.
            Err(_) if head.status != OK => Ok((head, Body::default())),
            Err(Unread::TooLarge) => {
                let detail = format!("it has more than {limit} bytes");
                Err(Try::failed(MissClass::TooLarge, detail))
            }
            Err(Unread::Broken(error)) => Err(self.broken(&error, MissClass::Truncated)),
        }
    }

    /// What a redirect comes to; None: the answer is none.
    fn moved<T>(&self, response: &Response, head: &Head, way: (&Url, Scope)) -> Option<Try<T>> {
        let (from, scope) = way;
        let location = text_of(response, LOCATION);
        Some(match target(head.status, location, from, scope)? {
            Ok(to) => Try::Moved {
                to,
                wait: head.wait,
            },
            Err(detail) => Try::failed(MissClass::Redirects, self.redact(&detail)),
        })
    }

    /// What a whole answer comes to; `read` makes of its body what was asked for.
    fn accept<T>(
        &self,
        judged: Judged,
        head: Head,
        known: &Validators,
        body: Body,
        read: impl FnOnce(Body) -> Result<T, String>,
    ) -> Try<Conditional<T>> {
        match judged {
            Judged::Good if body.bytes.is_empty() => {
                Try::again(MissClass::Empty, "the answer is empty")
            }
            Judged::Good => match read(body) {
                Ok(value) => Try::Done(Conditional::New {
                    value,
                    validators: head.validators,
                }),
                Err(detail) => Try::again(MissClass::Nonsense, detail),
            },
            Judged::Unchanged if *known != Validators::default() => {
                Try::Done(Conditional::Unchanged)
            }
            Judged::Unchanged => {
                let detail = "HTTP 304 to a request without a condition";
                Try::again(MissClass::Nonsense, detail)
            }
            Judged::Refused(refusal) => self.refused(refusal, head.wait),
        }
    }

    /// What a refusal comes to. Services repeat in their messages what they were sent.
    fn refused<T>(&self, refusal: Refusal, wait: Option<Duration>) -> Try<T> {
        match refusal {
            Refusal::Unauthorized { detail } => Try::Over(NoAnswer::Unauthorized {
                detail: self.redact(&detail),
            }),
            Refusal::Gone { detail } => Try::Over(NoAnswer::Gone {
                detail: self.redact(&detail),
            }),
            // Whoever says when to come back says that it will pass, whatever the status: limits come as
            // 403 and 413, too.
            Refusal::Failed { class, detail } if wait.is_some() => Try::Again {
                class,
                detail: self.redact(&detail),
                wait,
            },
            Refusal::Failed { class, detail } => Try::failed(class, self.redact(&detail)),
            Refusal::Again { class, detail } => Try::Again {
                class,
                detail: self.redact(&detail),
                wait,
            },
            Refusal::TooMany { detail } => Try::TooMany {
                detail: self.redact(&detail),
                wait,
            },
        }
    }

    /// A request that had no complete answer, of the class `otherwise` if the error says no more.
    /// The error's own text names the URL, which may hold the key, so only its causes are shown.
    fn broken<T>(&self, error: &reqwest::Error, otherwise: MissClass) -> Try<T> {
        let class = if error.is_timeout() {
            MissClass::Timeout
        } else if error.is_connect() {
            MissClass::Connect
        } else {
            otherwise
        };
        let mut detail = class.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            detail = format!("{detail}: {error}");
            cause = error.source();
        }
        Try::again(class, self.redact(&detail))
    }

    fn head_of(&self, response: &Response) -> Head {
        Head {
            status: response.status().as_u16(),
            // "At once" says nothing that we would not do anyway.
            wait: retry_after(
                text_of(response, RETRY_AFTER),
                text_of(response, DATE),
                (self.clock)(),
            )
            .filter(|wait| !wait.is_zero()),
            validators: Validators {
                etag: validator(response, ETAG),
                last_modified: validator(response, LAST_MODIFIED),
            },
        }
    }

    async fn read_body(&self, mut response: Response, limit: usize) -> Result<Body, Unread> {
        // What a server announces costs nothing to refuse, but it may announce nothing, or lie: the bytes
        // are counted all the same.
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
            // Only now, and not by the length that was announced: nearly all files are small and
            // never wait, and some servers announce nothing.
            if length > LARGE_FROM_BYTES && body.large.is_none() {
                // The semaphore is never closed.
                body.large = self.large.clone().acquire_owned().await.ok();
            }
            body.bytes.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn redact(&self, text: &str) -> String {
        match &self.credential {
            Some(credential) => credential.redact(text),
            None => text.to_owned(),
        }
    }
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
