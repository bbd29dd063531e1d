//! The connection to the coordinator: deadlines, whom to ask of several, and asking again.
//!
//! Invariant: a request that may change something is repeated only when it cannot have been
//! carried out, or when it carries a `request_id` that makes the repetition the same request.

mod badge;
mod dial;
mod ends;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use marquee_domain::backoff::Backoff;
use marquee_domain::limits;
use marquee_proto::error::leader_elsewhere;
use marquee_proto::v1::artifacts_client::ArtifactsClient;
use marquee_proto::v1::audit_client::AuditClient;
use marquee_proto::v1::backups_client::BackupsClient;
use marquee_proto::v1::chaos_client::ChaosClient;
use marquee_proto::v1::cluster_client::ClusterClient;
use marquee_proto::v1::jobs_client::JobsClient;
use marquee_proto::v1::projects_client::ProjectsClient;
use marquee_proto::v1::schedules_client::SchedulesClient;
use marquee_proto::v1::secrets_client::SecretsClient;
use marquee_proto::v1::trust_client::TrustClient;
use marquee_proto::v1::users_client::UsersClient;
use marquee_proto::v1::workers_client::WorkersClient;
use tokio::time::{Instant, sleep};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::context::Place;
use crate::error::{CliError, Result};
use crate::say::say;
use badge::{Badge, Wire};
use dial::endpoint;
use ends::{hints, is_passing, may_repeat, refusal};

pub(crate) use ends::{Repeat, cause, is_transport};

/// How long an unreachable coordinator is tried: a restart takes it at most 3 s.
const RETRY_FOR: Duration = Duration::from_secs(5);
/// The same where there are several, or one says that it does not lead: another one takes over within 5 s.
const TAKE_OVER_FOR: Duration = Duration::from_secs(12);
/// Coordinators that are known at once, those that others name included.
const KNOWN_MAX: usize = 16;
/// Pauses between two tries.
const PAUSE: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
/// After this long without an answer the user is told what we wait for.
const SAY_WAITING_AFTER: Duration = Duration::from_secs(1);
/// For one request with one answer. Storing a pipeline of 1,000 jobs takes far less.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long what deletes many things may take; asked again, it goes on.
const PATIENCE: Duration = Duration::from_secs(600);
/// The coordinator, wherever it is: of several, the one that is asked now.
#[derive(Debug, Clone)]
pub(crate) struct Remote {
    place: Place,
    known: Arc<Mutex<Known>>,
    /// [`RETRY_FOR`], less in tests.
    retry_for: Duration,
    /// Nothing is said on stderr while it is waited.
    is_quiet: bool,
}

/// The coordinators that are known, by address.
#[derive(Debug)]
struct Known {
    all: Vec<(String, Channel)>,
    /// The one that is asked.
    at: usize,
}

impl Remote {
    /// A handle; the first request connects.
    pub(crate) fn new(place: Place) -> Result<Self> {
        let all = std::iter::once(&place.addr).chain(&place.others);
        let all: Result<Vec<_>> = all
            // Not connected yet: of several coordinators one may be down, and that matters only
            // once it is asked.
            .map(|addr| Ok((addr.clone(), endpoint(&place, addr)?.connect_lazy())))
            .collect();
        let retry_for = if place.others.is_empty() {
            RETRY_FOR
        } else {
            TAKE_OVER_FOR
        };
        Ok(Self {
            // Shared by all clones: whoever finds the leader has found it for every later request
            // of this command.
            known: Arc::new(Mutex::new(Known { all: all?, at: 0 })),
            place,
            retry_for,
            is_quiet: false,
        })
    }

    /// The same for whoever has the whole terminal, and says himself how the connection is.
    pub(crate) fn quietly(self) -> Self {
        Self {
            is_quiet: true,
            ..self
        }
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.is_quiet
    }

    /// The address that is asked, as shown to people.
    pub(crate) fn addr(&self) -> String {
        let known = self.known();
        known.all[known.at].0.clone()
    }

    pub(crate) fn jobs(&self) -> JobsClient<Wire> {
        JobsClient::new(self.wire()).max_decoding_message_size(limits::MESSAGE_MAX_BYTES)
    }

    pub(crate) fn artifacts(&self) -> ArtifactsClient<Wire> {
        ArtifactsClient::new(self.wire()).max_decoding_message_size(limits::MESSAGE_MAX_BYTES)
    }

    pub(crate) fn audit(&self) -> AuditClient<Wire> {
        AuditClient::new(self.wire()).max_decoding_message_size(limits::MESSAGE_MAX_BYTES)
    }

    pub(crate) fn backups(&self) -> BackupsClient<Wire> {
        BackupsClient::new(self.wire()).max_decoding_message_size(limits::MESSAGE_MAX_BYTES)
    }

    pub(crate) fn chaos(&self) -> ChaosClient<Wire> {
        ChaosClient::new(self.wire())
    }

    pub(crate) fn cluster(&self) -> ClusterClient<Wire> {
        ClusterClient::new(self.wire()).max_decoding_message_size(limits::MESSAGE_MAX_BYTES)
    }

    pub(crate) fn projects(&self) -> ProjectsClient<Wire> {
        ProjectsClient::new(self.wire()).max_decoding_message_size(limits::MESSAGE_MAX_BYTES)
    }

    pub(crate) fn trust(&self) -> TrustClient<Wire> {
        TrustClient::new(self.wire()).max_decoding_message_size(limits::MESSAGE_MAX_BYTES)
    }

    pub(crate) fn secrets(&self) -> SecretsClient<Wire> {
        SecretsClient::new(self.wire()).max_decoding_message_size(limits::MESSAGE_MAX_BYTES)
    }

    pub(crate) fn schedules(&self) -> SchedulesClient<Wire> {
        SchedulesClient::new(self.wire()).max_decoding_message_size(limits::MESSAGE_MAX_BYTES)
    }

    pub(crate) fn workers(&self) -> WorkersClient<Wire> {
        WorkersClient::new(self.wire()).max_decoding_message_size(limits::MESSAGE_MAX_BYTES)
    }

    pub(crate) fn users(&self) -> UsersClient<Wire> {
        UsersClient::new(self.wire()).max_decoding_message_size(limits::MESSAGE_MAX_BYTES)
    }

    fn wire(&self) -> Wire {
        let known = self.known();
        let (addr, channel) = known.all[known.at].clone();
        InterceptedService::new(channel, Badge::of(self.place.token.as_ref(), &addr))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // A list that only grows and a place in it: whatever panicked meanwhile left both as they
        // should be.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the same request may succeed when it is sent again later; it then goes to another coordinator, where
    /// there is one: the one that was named as the one that leads, or the next.
    pub(crate) fn may_pass(&self, status: &Status) -> bool {
        if !is_passing(status) {
            return false;
        }
        self.turn(leader_elsewhere(status).flatten());
        true
    }

    /// Asks the coordinator of this address from now on, where it is another one and may be asked.
    pub(crate) fn turn_to(&self, leader: &str) -> bool {
        let before = self.addr();
        if before == leader {
            return false;
        }
        self.turn(Some(leader.to_owned()));
        self.addr() != before
    }

    fn turn(&self, leader: Option<String>) {
        let mut known = self.known();
        if let Some(leader) = leader {
            let found = known.all.iter().position(|(addr, _)| *addr == leader);
            if let Some(found) = found {
                known.at = found;
                return;
            }
            // One that somebody else names is dialled as safely as those that the user named, or not at all.
            let is_secure = |addr: &str| addr.starts_with("https://");
            let is_address = is_secure(&leader) || leader.starts_with("http://");
            let may_follow = is_address
                && is_secure(&leader) == is_secure(&self.place.addr)
                && known.all.len() < KNOWN_MAX;
            if may_follow && let Ok(endpoint) = endpoint(&self.place, &leader) {
                known.all.push((leader, endpoint.connect_lazy()));
                known.at = known.all.len() - 1;
                return;
            }
        }
        // Nobody was named, or one that may not be followed. Each that stands by names the leader,
        // so going through them ends.
        known.at = (known.at + 1) % known.all.len();
    }

    /// Sends a request until it is answered or [`RETRY_FOR`] is over. `send` builds the request
    /// anew for each try.
    pub(crate) async fn call<T>(
        &self,
        repeat: Repeat,
        mut send: impl AsyncFnMut() -> Result<Response<T>, Status>,
    ) -> Result<T> {
        // From the first try on: what is waited counts, however long each of them takes.
        let started = Instant::now();
        let mut backoff = PAUSE;
        let mut pause = backoff.next_whole();
        let mut tries = 1;
        let mut said = false;
        loop {
            let status = match send().await {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) => status,
            };
            let retry_for = match leader_elsewhere(&status) {
                // Whoever says "not me" tells of several coordinators, also to a user who named one
                // alone: a take-over is worth waiting for.
                Some(_) => self.retry_for.max(TAKE_OVER_FOR),
                None => self.retry_for,
            };
            // The pause counts: a wait with no try behind it helps nobody.
            if !may_repeat(&status, repeat) || started.elapsed() + pause > retry_for {
                return Err(self.error(&status, tries, started.elapsed()));
            }
            self.turn(leader_elsewhere(&status).flatten());
            if !said && !self.is_quiet && started.elapsed() > SAY_WAITING_AFTER {
                say!(
                    "no answer from {} yet ({}); trying on",
                    self.addr(),
                    cause(&status)
                );
                said = true;
            }
            sleep(pause).await;
            pause = backoff.next_whole();
            tries += 1;
        }
    }

    /// Turns the status of the last try into the error that the user sees.
    pub(crate) fn error(&self, status: &Status, tries: u32, waited: Duration) -> CliError {
        if !is_transport(status) {
            return CliError::Refused(refusal(status, &self.addr()));
        }
        let times = if tries == 1 {
            "once".to_owned()
        } else {
            format!("{tries} times")
        };
        let all = std::iter::once(&self.place.addr).chain(&self.place.others);
        // All that were tried are named. With one of them alone the user would look for the fault
        // on the wrong host.
        let all: Vec<&str> = all.map(String::as_str).collect();
        CliError::Unreachable {
            addr: all.join(" and "),
            origin: self.place.origin.clone(),
            tried: format!(
                "tried {times} in {:.1} s: {}",
                waited.as_secs_f64(),
                cause(status)
            ),
            hints: hints(&self.place, status),
        }
    }
}

/// A request with the deadline of everything that is answered at once.
pub(crate) fn quick<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(DEADLINE);
    request
}

/// A request that may take as long as many rows and files take to be deleted.
pub(crate) fn patient<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(PATIENCE);
    request
}

#[cfg(test)]
mod tests {
    use marquee_proto::error::{ErrorCode, not_leading};
    use marquee_proto::v1::ListWorkersRequest;

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn an_unreachable_coordinator_is_tried_for_a_while_and_then_named_with_the_way_out() {
        // Bound and dropped: nobody listens there now.
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let place = Place {
            addr: format!("http://127.0.0.1:{port}"),
            others: Vec::new(),
            origin: "from MARQUEE_ADDR".into(),
            tls: None,
            stale: false,
            token: None,
        };
        let retry_for = Duration::from_millis(400);
        let remote = Remote {
            retry_for,
            ..Remote::new(place).unwrap()
        };
        let error = remote
            .call(Repeat::Safe, async || {
                remote
                    .workers()
                    .list_workers(quick(ListWorkersRequest {}))
                    .await
            })
            .await
            .unwrap_err();
        assert_eq!(error.exit_code(), 3);
        let text = error.render(false);
        assert!(text.contains("from MARQUEE_ADDR"), "{text}");
        assert!(text.contains("Connection refused"), "{text}");
        assert!(text.contains("marquee up"), "{text}");
        assert!(!text.contains("tried once"), "{text}");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_one_that_leads_is_asked_next_and_else_the_next_one() {
        let place = Place {
            others: vec!["http://b:2".into()],
            ..Place::local("a:1")
        };
        let remote = Remote::new(place).unwrap();
        let away = Status::unavailable("away");
        let leads = |addr: &str| not_leading("no", Some(addr));
        assert_eq!(remote.addr(), "http://a:1");
        assert!(remote.may_pass(&away));
        assert_eq!(remote.addr(), "http://b:2");
        assert!(remote.may_pass(&leads("http://b:2")));
        assert_eq!(remote.addr(), "http://b:2");
        assert!(remote.may_pass(&leads("http://c:3")));
        assert_eq!(remote.addr(), "http://c:3", "one that nobody knew");
        assert!(remote.may_pass(&away));
        assert_eq!(remote.addr(), "http://a:1");
        assert!(remote.may_pass(&leads("https://elsewhere:4")));
        assert_eq!(
            remote.addr(),
            "http://b:2",
            "with TLS or without, as before"
        );
        assert!(remote.may_pass(&not_leading("nobody does", None)));
        assert_eq!(remote.addr(), "http://c:3");
        let refused = ErrorCode::JobNotFound.status("there is no job 7");
        assert!(!remote.may_pass(&refused));
        assert_eq!(remote.addr(), "http://c:3");
        for number in 0..100 {
            remote.may_pass(&leads(&format!("http://x:{}", number + 1)));
        }
        assert_eq!(remote.known().all.len(), KNOWN_MAX);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_leader_whose_address_is_none_is_not_dialled() {
        let place = Place {
            others: vec!["http://b:2".into()],
            ..Place::local("a:1")
        };
        let remote = Remote::new(place).unwrap();
        for odd in [
            "",
            "http://",
            "c:3",
            "http://c:3 d",
            "\u{1b}[2J",
            "http://\u{202e}c:3",
        ] {
            let before = remote.addr();
            assert!(remote.may_pass(&not_leading("no", Some(odd))), "{odd:?}");
            assert_ne!(remote.addr(), before, "the next one: {odd:?}");
            assert_ne!(remote.addr(), odd);
        }
        assert_eq!(remote.known().all.len(), 2);
        assert!(!remote.turn_to("http://a:1") || remote.addr() == "http://a:1");
        assert!(!remote.turn_to(&remote.addr()), "it is the one already");
    }
}
