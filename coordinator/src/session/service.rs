//! The gRPC service: admits a worker and starts its session.

use std::sync::Arc;
use std::time::Duration;

use marquee_proto::convert::BadField;
use marquee_proto::error::ErrorCode;
use marquee_proto::v1;
use marquee_proto::v1::worker_message::Body;
use marquee_store::StoreError;
use marquee_store::trust;
use marquee_store::workers::{self, WorkerHello};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::assign::Knows;
use super::registry::Daemon;
use super::run::{OUTBOX_MAX, Session};
use super::{gpus, hello, kept};
use crate::app::App;
use crate::caller::Caller;
use crate::lifecycle::LifecycleError;
use crate::trust::belonging::verdict;

/// How long a worker may take for its first message once its stream is open.
const HELLO_MAX: Duration = Duration::from_secs(10);
/// How long a new session waits until the worker's older one has stored what it is at.
const TURN_MAX: Duration = Duration::from_secs(10);

/// `marquee.v1.WorkerSession`.
#[derive(Debug, Clone)]
pub struct SessionService {
    app: App,
}

impl SessionService {
    /// The service over the shared handles.
    #[must_use]
    pub fn new(app: App) -> Self {
        Self { app }
    }

    async fn store_online(&self, worker: &WorkerHello) -> Result<(), StoreError> {
        let now = self.app.clock.now();
        let mut tx = self.app.db.write("worker online").await?;
        workers::mark_worker_online(&mut tx, worker, now).await?;
        tx.commit().await
    }

    /// Where workers join this coordinator: the certificate says who it is. What Hello says of that must be the same,
    /// and the name is the one that the coordinator knows it by.
    async fn identify(&self, hello: &mut v1::Hello, caller: &Caller) -> Result<(), Status> {
        if !self.app.walls.access.is_own_authority() {
            return Ok(());
        }
        let Some(worker) = caller.worker() else {
            // One with a certificate of another authority that the settings name is known by that, as ever.
            return if caller.identity().is_some() {
                Ok(())
            } else {
                Err(ErrorCode::NotIdentified.status(
                    "a worker of this coordinator shows a certificate; get one with \"marquee-worker join\" (docs/deploy.md, \"Start, many hosts\")",
                ))
            };
        };
        if hello.worker_id.parse() != Ok(worker) {
            tracing::warn!(certified = %worker, said = hello.worker_id, "a worker came with another one's id");
            return Err(ErrorCode::WorkerOwned.status(format!(
                "the certificate that was shown is worker {worker}'s, and the id that came with it is another one; was a part of a data directory copied? Join again with a new token"
            )));
        }
        let mut conn = self.app.db.read().await.map_err(LifecycleError::from)?;
        let member = trust::find_member(&mut conn, worker)
            .await
            .map_err(LifecycleError::from)?;
        verdict(member.as_ref())?;
        if let Some(member) = member {
            hello.name = member.name;
        }
        Ok(())
    }

    async fn check_owner(&self, worker: &WorkerHello) -> Result<(), StoreError> {
        let mut conn = self.app.db.read().await?;
        workers::check_owner(&mut conn, worker).await
    }
}

#[tonic::async_trait]
impl v1::worker_session_server::WorkerSession for SessionService {
    type ConnectStream = ReceiverStream<Result<v1::CoordinatorMessage, Status>>;

    async fn connect(
        &self,
        request: Request<Streaming<v1::WorkerMessage>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        if let Some(doubt) = self.app.role.doubt() {
            return Err(doubt);
        }
        let caller = Caller::of(&request);
        let mut inbound = request.into_inner();
        let mut hello = first(&mut inbound).await?;
        let gpus = gpus::bounded(std::mem::take(&mut hello.gpus));
        let has = |wanted| hello.features().any(|feature| feature == wanted);
        // A worker of before names no features, and is asked for nothing that it does not know.
        let knows = Knows {
            start: has(v1::WorkerFeature::StartWithAssign),
            secrets: has(v1::WorkerFeature::Secrets),
            burn_in: has(v1::WorkerFeature::BurnIn),
        };
        let keeps_lease = has(v1::WorkerFeature::Lease);
        if !hello.cluster_id.is_empty() && hello.cluster_id != self.app.cluster.to_string() {
            return Err(other_cluster(&hello, &self.app.cluster.to_string()));
        }
        let leaving = hello.leaving;
        let kept = kept::read(std::mem::take(&mut hello.kept));
        self.identify(&mut hello, &caller).await?;
        let (worker, held) = hello::read(hello, &caller)?;
        // Before it may take the seat: a worker that is cut off on purpose changes nothing.
        if let Some(left) = self.app.sessions.is_cut_off_for(worker.id) {
            return Err(Status::unavailable(format!(
                "this worker is cut off on purpose for another {:.1} s (marquee chaos)",
                left.as_secs_f64()
            )));
        }
        // Before it takes the seat: that ends the session of the worker whose id it names.
        self.check_owner(&worker).await.map_err(refused)?;

        let in_histories: Arc<str> = format!("worker {}: {caller}", worker.name).into();
        let daemon = Daemon {
            instance: worker.instance_id,
            who: format!(
                "worker {:?} (instance {}, {caller})",
                worker.name, worker.instance_id
            ),
        };
        let lease = self.app.settings.lease;
        let seat = self
            .app
            .sessions
            .admit(worker.id, daemon, lease)
            .map_err(|error| ErrorCode::WorkerIdInUse.status(error.to_string()))?;
        let turn = tokio::time::timeout(TURN_MAX, seat.turn.clone().lock_owned())
            .await
            .map_err(|_| busy())?;
        // In its turn and not before: the older session may still be storing what it has.
        self.store_online(&worker).await.map_err(refused)?;
        // Before the scheduler may use it: an ill GPU is to be known as one.
        self.app.sessions.set_gpus(&seat, gpus);
        self.app.sessions.set_leaving(&seat, leaving);
        self.app.sessions.set_kept(&seat, kept);
        self.app.sessions.begin(&seat);
        self.app.workers_changed();

        let (outbox, outbound) = mpsc::channel(OUTBOX_MAX);
        let session = Session::new(
            self.app.clone(),
            seat,
            (worker.name, in_histories),
            held,
            (knows, keeps_lease),
            outbox,
        );
        tokio::spawn(session.run(inbound, turn));
        Ok(Response::new(ReceiverStream::new(outbound)))
    }
}

async fn first(inbound: &mut Streaming<v1::WorkerMessage>) -> Result<v1::Hello, Status> {
    let first = tokio::time::timeout(HELLO_MAX, inbound.message())
        .await
        .map_err(|_| {
            let text = format!(
                "no Hello came within {} s of the stream's start",
                HELLO_MAX.as_secs()
            );
            ErrorCode::InvalidRequest.status(text)
        })??;
    match first.and_then(|message| message.body) {
        Some(Body::Hello(hello)) => Ok(hello),
        Some(
            Body::Heartbeat(_)
            | Body::Reports(_)
            | Body::Goodbye(_)
            | Body::Gpus(_)
            | Body::Rescued(_),
        )
        | None => Err(BadField::invalid("body", "the first message must be a Hello").into()),
    }
}

/// What its ranks are called here are other ranks there: it would report for them.
fn other_cluster(hello: &v1::Hello, ours: &str) -> Status {
    tracing::warn!(
        name = hello.name,
        theirs = hello.cluster_id,
        "worker refused: it belongs to another cluster"
    );
    ErrorCode::OtherCluster.status(format!(
        "worker {:?} belongs to cluster {}, and this is cluster {ours}; give it the address of its own coordinator, or another data folder; if its cluster is gone for good, delete cluster-id in its data folder",
        hello.name, hello.cluster_id
    ))
}

fn busy() -> Status {
    ErrorCode::StorageUnavailable
        .status("this worker's last session is still storing its reports; connect again")
}

fn refused(error: StoreError) -> Status {
    if let StoreError::WorkerNameTaken(name) = &error {
        tracing::warn!(name, "worker refused: its name is taken");
        return ErrorCode::WorkerNameTaken.status(format!(
            "another worker named {name:?} is online; give this one another name, or stop that one and wait until its lease ends"
        ));
    }
    if let StoreError::WorkerOwned { what, .. } = &error {
        tracing::warn!(%error, "worker refused: another certificate owns it");
        let way_out = match *what {
            "name" => "give this one another name",
            _ => "delete worker-id in its data directory if that was copied from another host",
        };
        return ErrorCode::WorkerOwned.status(format!(
            "{error}; show the owner's certificate, or {way_out}"
        ));
    }
    LifecycleError::from(error).into()
}
