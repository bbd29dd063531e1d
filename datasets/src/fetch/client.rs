//! Requests that are polite and do not give up too soon: one rate, a limit on those in flight,
//! retries with back-off and jitter, `Retry-After` obeyed, and hosts that are down left alone.
//!
//! Invariant: every request, whatever it is for, goes through [`PoliteClient::retrying`] and so past
//! the time that its host asked for, the limit in flight, the host's breaker and the rate, in this order.
//! Not here: what a request and its answer look like (`transport`).

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::Url;
use serde::de::DeserializeOwned;

use super::answer::{Body, Conditional, NoAnswer, Validators};
use super::breaker::Breakers;
use super::credential::Credential;
use super::in_flight::InFlight;
use super::manners::Manners;
use super::miss::MissClass;
use super::pace::Pace;
use super::redirect::REDIRECTS_MAX;
use super::shares;
use super::transport::{Transport, Try};
use crate::clock::Clock;
use crate::dice::Dice;
use crate::job::JobError;

#[cfg(test)]
mod tests;

/// First wait before another try; doubled by each further one.
const BACKOFF_FIRST: Duration = Duration::from_millis(500);
/// Longest wait that we choose ourselves.
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// Longest wait that a service may choose for us; whatever it says, it is asked again after this.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(600);
/// How often a service may make one request wait: by 429, or by a `Retry-After` with any other status.
/// These waits are the service's will rather than its failure, so they do not count as attempts, but
/// they have an end too.
const WAITS_MAX: u32 = 30;

/// A client of the hosts that one job asks.
#[derive(Debug)]
pub(super) struct PoliteClient {
    transport: Transport,
    pace: Arc<Pace>,
    breakers: Breakers,
    in_flight: Arc<InFlight>,
    attempts: u32,
    jitter: Mutex<Dice>,
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
        Ok(Self {
            transport: Transport::new(manners.timeout, credential, is_loopback, clock)?,
            pace,
            breakers: Breakers::new(manners.outage),
            in_flight,
            attempts: manners.attempts.max(1),
            jitter: Mutex::new(jitter),
        })
    }

    /// Says whom the job will ask, so that it has a share of them in time.
    pub(super) fn declare(&self, urls: impl IntoIterator<Item = Url>) {
        let hosts: BTreeSet<String> = urls.into_iter().map(|url| service_of(&url)).collect();
        self.pace.declare(hosts.iter().map(String::as_str));
    }

    pub(super) fn credential(&self) -> Option<&Credential> {
        self.transport.credential()
    }

    /// Asks the API.
    pub(super) async fn json<T: DeserializeOwned>(
        &self,
        url: Url,
        known: &Validators,
    ) -> Result<Conditional<T>, NoAnswer> {
        self.retrying(&url, async |url| self.transport.json(url, known).await)
            .await
    }

    /// Gets an image of at most `limit` bytes.
    pub(super) async fn image(
        &self,
        url: Url,
        limit: usize,
        known: &Validators,
    ) -> Result<Conditional<Body>, NoAnswer> {
        self.retrying(&url, async |url| {
            self.transport.image(url, limit, known).await
        })
        .await
    }

    /// Gets an export file of at most `limit` bytes into the file `to`.
    pub(super) async fn download(&self, url: Url, limit: u64, to: &Path) -> Result<(), NoAnswer> {
        self.retrying(&url, async |url| {
            self.transport.download(url, limit, to).await
        })
        .await
    }

    /// Tries until there is an answer, or no try is left.
    async fn retrying<T>(
        &self,
        url: &Url,
        try_once: impl AsyncFn(&Url) -> Try<T>,
    ) -> Result<T, NoAnswer> {
        let (mut attempt, mut waits) = (0, 0);
        // Where it is asked for: a redirect holds until something goes wrong.
        let (mut place, mut redirects) = (url.clone(), 0);
        loop {
            let (class, detail, asked_for) = match self.once(url, &place, &try_once).await {
                Try::Done(answer) => return Ok(answer),
                Try::Over(answer) => return Err(answer),
                Try::Moved { to, wait } if redirects < REDIRECTS_MAX => {
                    (place, redirects) = (to, redirects + 1);
                    if let Some(wait) = wait {
                        tokio::time::sleep(self.obey(url, wait)).await;
                    }
                    continue;
                }
                Try::Moved { .. } => {
                    let detail = format!("it was sent on more than {REDIRECTS_MAX} times");
                    (MissClass::Redirects, detail, None)
                }
                Try::Again {
                    class,
                    detail,
                    wait,
                } => (class, detail, wait),
                Try::TooMany { detail, wait } => {
                    let wait = wait.unwrap_or_else(|| self.back_off(waits + 1));
                    (MissClass::Http(429), detail, Some(wait))
                }
            };
            let wait = if let Some(wait) = asked_for {
                waits += 1;
                if waits >= WAITS_MAX {
                    let detail = format!("{detail} (it was made to wait {waits} times)");
                    return Err(NoAnswer::Failed { class, detail });
                }
                self.obey(url, wait)
            } else {
                attempt += 1;
                if attempt >= self.attempts {
                    let detail = format!("{detail} ({attempt} attempts)");
                    return Err(NoAnswer::Failed { class, detail });
                }
                self.back_off(attempt)
            };
            tokio::time::sleep(wait).await;
            // A redirect may have led to the server that failed: the next try asks where it was
            // told to.
            (place, redirects) = (url.clone(), 0);
        }
    }

    /// Leaves the host of `url` alone for as long as it asked for. The limit is the service's, not this
    /// request's: all requests to it wait.
    fn obey(&self, url: &Url, wait: Duration) -> Duration {
        let wait = wait.min(RETRY_AFTER_MAX);
        self.pace.hold(&service_of(url), wait);
        wait
    }

    /// One try of what is asked of `url` and lies at `place`, when its turn has come.
    async fn once<T>(
        &self,
        url: &Url,
        place: &Url,
        try_once: impl AsyncFn(&Url) -> Try<T>,
    ) -> Try<T> {
        let (host, service) = (url.host_str().unwrap_or_default(), service_of(url));
        // A host that asked to be left alone is not down, and who waits for it is not in flight: neither its
        // breaker's patience nor other hosts' turns are used up meanwhile.
        self.pace.until_open(&service).await;
        let Ok(_permit) = self.in_flight.acquire().await else {
            return Try::again(MissClass::Closed, "the job ends");
        };
        // The breaker before the rate: who waits for a host that is down must not use up slots of the
        // rate that requests to other hosts could have.
        let turn = match self.breakers.turn(host).await {
            Ok(turn) => turn,
            Err(given_up) => {
                return Try::Over(NoAnswer::Down {
                    detail: format!("{host} has answered nothing for {:.0?}", given_up.after),
                });
            }
        };
        // A redirect counts for the host that was asked, unless it asks that host again.
        if url == place || service_of(place) == service {
            self.pace.turn(&service).await;
        }
        let tried = try_once(place).await;
        match &tried {
            // Nothing came, or the host said that it is in trouble, and not for how long.
            Try::Again {
                class, wait: None, ..
            } if is_trouble(class) => self.breakers.failed(host, turn),
            // A refusal is an answer, too: the host is there.
            Try::Again { .. }
            | Try::Done(_)
            | Try::Over(_)
            | Try::TooMany { .. }
            | Try::Moved { .. } => self.breakers.answered(host),
        }
        tried
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
}

/// The limits of the job's settings, or such as its shares will say.
fn limits_of(manners: Manners, shares: Option<&Path>) -> (Arc<Pace>, Arc<InFlight>) {
    let Some(folder) = shares else {
        let pace = Pace::new(manners.requests_per_second);
        return (Arc::new(pace), Arc::new(InFlight::new(manners.concurrency)));
    };
    // Nothing goes before the first share is there; one in flight is the least that there can be.
    let (pace, in_flight) = (Arc::new(Pace::shared()), Arc::new(InFlight::new(1)));
    shares::attend(folder.to_owned(), manners, &pace, &in_flight);
    (pace, in_flight)
}

/// Whom a request asks: a host's port, since another one is another service.
pub(super) fn service_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    format!("{host}:{}", url.port_or_known_default().unwrap_or(0))
}

/// Whether a failure of this class says that the host, not the one file, is in trouble.
fn is_trouble(class: &MissClass) -> bool {
    match class {
        MissClass::Connect | MissClass::Timeout | MissClass::Network | MissClass::Truncated => true,
        MissClass::Http(status) => (500..600).contains(status),
        MissClass::Redirects
        | MissClass::Closed
        | MissClass::HostDown
        | MissClass::Empty
        | MissClass::Nonsense
        | MissClass::TooLarge
        | MissClass::Refused
        | MissClass::WrongFilm
        | MissClass::UnknownFormat
        | MissClass::PosterMissing
        | MissClass::Adult
        | MissClass::NoLabels
        | MissClass::NoPoster
        | MissClass::OddPosterPath
        | MissClass::DuplicateId
        | MissClass::UnreadableLine
        | MissClass::NoUrl
        | MissClass::OddUrl
        | MissClass::OddPath
        | MissClass::NoFilm
        | MissClass::NoEarlierRow
        | MissClass::Disk
        | MissClass::Unreadable
        | MissClass::Code(_)
        | MissClass::Uncertain
        | MissClass::NotAFile
        | MissClass::Other(_) => false,
    }
}
