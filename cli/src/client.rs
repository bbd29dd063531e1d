//! The connection to the coordinator: TLS, keepalive, deadlines, and which failures are tried
//! again.
//!
//! Invariant: a request that may change something is repeated only when it cannot have been
//! carried out, or when it carries a `request_id` that makes the repetition the same request.

mod badge;

use std::error::Error as _;
use std::fs;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use marquee_domain::backoff::Backoff;
use marquee_domain::limits;
use marquee_proto::error::{PublicError, leader_elsewhere};
use marquee_proto::v1::artifacts_client::ArtifactsClient;
use marquee_proto::v1::audit_client::AuditClient;
use marquee_proto::v1::chaos_client::ChaosClient;
use marquee_proto::v1::cluster_client::ClusterClient;
use marquee_proto::v1::jobs_client::JobsClient;
use marquee_proto::v1::projects_client::ProjectsClient;
use marquee_proto::v1::schedules_client::SchedulesClient;
use marquee_proto::v1::trust_client::TrustClient;
use marquee_proto::v1::users_client::UsersClient;
use marquee_proto::v1::workers_client::WorkersClient;
use tokio::time::{Instant, sleep};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Response, Status};

use crate::context::{Place, Tls};
use crate::error::{CliError, Result};
use crate::say::say;
use badge::{Badge, Wire};

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
/// For one TCP and TLS handshake, which takes less than a second even across the world.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For one request with one answer. Storing a pipeline of 1,000 jobs takes far less.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long what deletes many things may take; asked again, it goes on.
const PATIENCE: Duration = Duration::from_secs(600);
/// A silent connection is asked for a sign of life this often ...
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
/// ... and given up when none comes for this long.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// What a request may do to the coordinator when it is sent twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// It only reads, or carries a `request_id`: sent twice it does the same as sent once.
    Safe,
    /// Sent twice it might act twice: it is sent again only when it cannot have arrived.
    Unsafe,
}

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
            .map(|addr| Ok((addr.clone(), endpoint(&place, addr)?.connect_lazy())))
            .collect();
        let retry_for = if place.others.is_empty() {
            RETRY_FOR
        } else {
            TAKE_OVER_FOR
        };
        Ok(Self {
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
            let may_follow =
                is_secure(&leader) == is_secure(&self.place.addr) && known.all.len() < KNOWN_MAX;
            if may_follow && let Ok(endpoint) = endpoint(&self.place, &leader) {
                known.all.push((leader, endpoint.connect_lazy()));
                known.at = known.all.len() - 1;
                return;
            }
        }
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

/// What the coordinator at `addr` refused, in words. One that does not know a request says nothing at all.
fn refusal(status: &Status, addr: &str) -> PublicError {
    let mut refused = PublicError::from(status);
    if refused.code.is_none() && status.code() == Code::Unimplemented {
        refused.message = format!(
            "{addr} does not know this request: the coordinator there is older than this command line ({}), or \
             something else listens there; update it, or use the marquee that came with it",
            env!("CARGO_PKG_VERSION")
        );
    } else if refused.message.is_empty() {
        refused.message = format!("{addr} refused and did not say why ({})", status.code());
    }
    refused
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

/// Whether a status is about the connection and not about the request: it was made on our side of the
/// connection, or it is a plain "unavailable" without one of Marquee's codes.
pub(crate) fn is_transport(status: &Status) -> bool {
    let is_ours = PublicError::from(status).code.is_some();
    !is_ours && (status.source().is_some() || status.code() == Code::Unavailable)
}

/// Whether the same request may succeed when it is sent again later.
fn is_passing(status: &Status) -> bool {
    status.code() == Code::Unavailable || is_transport(status)
}

fn may_repeat(status: &Status, repeat: Repeat) -> bool {
    match repeat {
        Repeat::Safe => is_passing(status),
        // What broke on its way has other codes, and may have been carried out.
        Repeat::Unsafe => status.code() == Code::Unavailable,
    }
}

/// The innermost cause: "Connection refused", rather than the layers that pass it on.
pub(crate) fn cause(status: &Status) -> String {
    let mut source = status.source();
    let mut text = status.message().to_owned();
    while let Some(error) = source {
        let inner = error.to_string();
        if !inner.is_empty() {
            text = inner;
        }
        source = error.source();
    }
    text
}

fn hints(place: &Place, status: &Status) -> Vec<String> {
    let mut hints = Vec::new();
    if place.stale {
        hints.push(
            "the \"marquee up\" that wrote this context does not run any more; start it again"
                .to_owned(),
        );
    }
    // Where nobody listens it is "unavailable"; a port with TLS answers with something that is no HTTP/2.
    if place.addr.starts_with("http://") && status.code() != Code::Unavailable {
        hints.push("does it expect TLS? then write https:// and give [tls] in the context".into());
    }
    hints.push(
        "start everything on this machine with \"marquee up\", or say where the coordinator is: \
         --addr, MARQUEE_ADDR or the context file"
            .to_owned(),
    );
    hints
}

/// How to speak to the coordinator at `addr`, one of a place's.
fn endpoint(place: &Place, addr: &str) -> Result<Endpoint> {
    let endpoint = Endpoint::from_shared(addr.to_owned()).map_err(|error| {
        CliError::Usage(format!(
            "\"{addr}\" ({}) is no address: {error}; write host:port, as in 127.0.0.1:7700",
            place.origin
        ))
    })?;
    let endpoint = endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .max_frame_size(limits::FRAME_BYTES)
        .http2_keep_alive_interval(KEEPALIVE_EVERY)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        // A watch is silent for hours while a job queues, and a dead connection would look the same.
        .keep_alive_while_idle(true);
    if !addr.starts_with("https://") {
        return Ok(endpoint);
    }
    let Some(tls) = &place.tls else {
        return Err(CliError::Usage(format!(
            "{addr} needs a table [tls] with `ca` in the context file: without it nothing says whom \
             to trust"
        )));
    };
    Ok(endpoint
        .tls_config(tls_config(tls)?)
        .context("the certificates in [tls] do not work")?)
}

fn tls_config(tls: &Tls) -> Result<ClientTlsConfig> {
    let read = |path: &std::path::Path| {
        fs::read(path).with_context(|| format!("cannot read {} of [tls]", path.display()))
    };
    let mut config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(&tls.ca)?));
    match (&tls.cert, &tls.key) {
        (Some(cert), Some(key)) => {
            config = config.identity(Identity::from_pem(read(cert)?, read(key)?));
        }
        (None, None) => {}
        (Some(_), None) | (None, Some(_)) => {
            return Err(CliError::Usage(
                "[tls] has `cert` or `key` alone; give both".into(),
            ));
        }
    }
    if let Some(domain) = &tls.domain {
        config = config.domain_name(domain);
    }
    Ok(config)
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

    #[test]
    fn a_refusal_without_words_is_given_some() {
        let older = refusal(&Status::unimplemented(""), "http://head:7700");
        assert!(
            older.message.contains("http://head:7700") && older.message.contains("older"),
            "{older:?}"
        );
        let silent = refusal(&Status::internal(""), "http://head:7700");
        assert!(silent.message.contains("did not say why"), "{silent:?}");
        let said = ErrorCode::JobNotFound.status("there is no job 7");
        assert_eq!(refusal(&said, "x").message, "there is no job 7");
    }

    #[test]
    fn a_request_that_may_have_arrived_is_repeated_only_where_that_is_safe() {
        let lost = Status::from_error(Box::new(std::io::Error::other("connection reset")));
        assert!(may_repeat(&lost, Repeat::Safe));
        assert!(!may_repeat(&lost, Repeat::Unsafe));
        let refused = ErrorCode::JobNotFound.status("there is no job 7");
        assert!(!may_repeat(&refused, Repeat::Safe));
        let down = ErrorCode::StorageUnavailable.status("postgres is away");
        assert!(may_repeat(&down, Repeat::Unsafe));
        assert!(!is_transport(&down));
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

    #[test]
    fn https_without_certificates_is_refused_with_the_way_out() {
        let place = Place {
            addr: "https://head:1".into(),
            others: Vec::new(),
            origin: "x".into(),
            tls: None,
            stale: false,
            token: None,
        };
        let error = Remote::new(place).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("[tls]"));
    }
}
