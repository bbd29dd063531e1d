//! Requests in, answers out: each handler decodes, makes one call, and encodes. This file puts the
//! services together into a server with its limits.
//!
//! Not here: what a request does (`lifecycle`, `session`, `blobs`, the store).

mod artifacts;
mod audit;
mod backups;
mod chaos;
mod cluster;
mod deadline;
mod guard;
mod inflow;
mod jobs;
mod members;
mod methods;
mod projects;
mod schedules;
mod scope;
mod secrets;
mod trust;
mod until;
mod users;
mod workers;

use std::time::Duration;

use marquee_domain::limits::{FRAME_BYTES, MESSAGE_MAX_BYTES};
use marquee_proto::FILE_DESCRIPTOR_SET;
use marquee_proto::v1::artifacts_server::ArtifactsServer;
use marquee_proto::v1::audit_server::AuditServer;
use marquee_proto::v1::backups_server::BackupsServer;
use marquee_proto::v1::chaos_server::ChaosServer;
use marquee_proto::v1::cluster_server::ClusterServer;
use marquee_proto::v1::jobs_server::JobsServer;
use marquee_proto::v1::projects_server::ProjectsServer;
use marquee_proto::v1::schedules_server::SchedulesServer;
use marquee_proto::v1::secrets_server::SecretsServer;
use marquee_proto::v1::trust_server::TrustServer;
use marquee_proto::v1::users_server::UsersServer;
use marquee_proto::v1::worker_session_server::WorkerSessionServer;
use marquee_proto::v1::workers_server::WorkersServer;
use tonic::transport::server::{Router, Server};
use tower::layer::util::{Identity, Stack};

use crate::app::App;
use crate::session::SessionService;
use crate::web::WebLayer;
pub(crate) use cluster::devices;
use deadline::DeadlineLayer;
use guard::GuardLayer;
use inflow::Inflow;
use members::Members;

/// How often a quiet connection is asked whether the other end lives, and how long it may take to
/// answer. Together below the lease: a host that vanished must not keep a half-open connection
/// longer than its lease.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(4);
const KEEPALIVE_WITHIN: Duration = Duration::from_secs(4);
/// Requests at once on one connection: a worker's session, its uploads, and a person's watches
/// with room to spare.
const STREAMS_MAX: u32 = 256;
/// Bytes that may be on their way in one upload, and in all of a connection: enough to fill a
/// 10 Gbit/s link at 1 ms.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// Bytes of one message to services that are sent small ones alone: a chunk, 10,000 digests, a question.
const SMALL_MESSAGE_MAX_BYTES: usize = 1024 * 1024;

/// The same where strangers may ask: a signing request of a few hundred bytes, with room.
const TRUST_MESSAGE_MAX_BYTES: usize = 64 * 1024;

/// What stands around every request, the outermost last.
pub type Layers = Stack<GuardLayer, Stack<DeadlineLayer, Stack<WebLayer, Identity>>>;

/// The server with every service, ready to be given connections. `is_tls`: those are encrypted.
pub async fn server(app: &App, is_tls: bool) -> anyhow::Result<Router<Layers>> {
    let jobs = JobsServer::new(jobs::JobsService::new(app.clone()))
        .max_decoding_message_size(MESSAGE_MAX_BYTES)
        .max_encoding_message_size(MESSAGE_MAX_BYTES);
    let artifacts = ArtifactsServer::new(artifacts::ArtifactsService::new(app.clone()))
        .max_decoding_message_size(SMALL_MESSAGE_MAX_BYTES)
        .max_encoding_message_size(MESSAGE_MAX_BYTES);
    let workers = WorkersServer::new(workers::WorkersService::new(app.clone()))
        .max_decoding_message_size(SMALL_MESSAGE_MAX_BYTES)
        .max_encoding_message_size(MESSAGE_MAX_BYTES);
    let audit = AuditServer::new(audit::AuditService::new(app.clone()))
        .max_decoding_message_size(SMALL_MESSAGE_MAX_BYTES);
    let backups = BackupsServer::new(backups::BackupsService::new(app.clone()))
        .max_decoding_message_size(SMALL_MESSAGE_MAX_BYTES)
        .max_encoding_message_size(MESSAGE_MAX_BYTES);
    let chaos = ChaosServer::new(chaos::ChaosService::new(app.clone()))
        .max_decoding_message_size(SMALL_MESSAGE_MAX_BYTES);
    let projects = ProjectsServer::new(projects::ProjectsService::new(app.clone()))
        .max_decoding_message_size(SMALL_MESSAGE_MAX_BYTES)
        .max_encoding_message_size(MESSAGE_MAX_BYTES);
    let schedules = SchedulesServer::new(schedules::SchedulesService::new(app.clone()))
        .max_decoding_message_size(MESSAGE_MAX_BYTES)
        .max_encoding_message_size(MESSAGE_MAX_BYTES);
    let session = WorkerSessionServer::new(SessionService::new(app.clone()))
        .max_decoding_message_size(MESSAGE_MAX_BYTES)
        .max_encoding_message_size(MESSAGE_MAX_BYTES);

    let users = UsersServer::new(users::UsersService::new(app.clone()))
        .max_decoding_message_size(SMALL_MESSAGE_MAX_BYTES)
        .max_encoding_message_size(MESSAGE_MAX_BYTES);
    let cluster = ClusterServer::new(cluster::ClusterService::new(app.clone()))
        .max_decoding_message_size(SMALL_MESSAGE_MAX_BYTES)
        .max_encoding_message_size(MESSAGE_MAX_BYTES);

    let trust = TrustServer::new(trust::TrustService::new(app.clone()))
        .max_decoding_message_size(TRUST_MESSAGE_MAX_BYTES)
        .max_encoding_message_size(MESSAGE_MAX_BYTES);

    let secrets = SecretsServer::new(secrets::SecretsService::new(app.clone()))
        .max_decoding_message_size(SMALL_MESSAGE_MAX_BYTES)
        .max_encoding_message_size(MESSAGE_MAX_BYTES);

    let (reporter, health) = tonic_health::server::health_reporter();
    reporter
        .set_serving::<JobsServer<jobs::JobsService>>()
        .await;
    reporter
        .set_serving::<ArtifactsServer<artifacts::ArtifactsService>>()
        .await;
    reporter
        .set_serving::<WorkersServer<workers::WorkersService>>()
        .await;
    reporter
        .set_serving::<AuditServer<audit::AuditService>>()
        .await;
    reporter
        .set_serving::<BackupsServer<backups::BackupsService>>()
        .await;
    reporter
        .set_serving::<ChaosServer<chaos::ChaosService>>()
        .await;
    reporter
        .set_serving::<ProjectsServer<projects::ProjectsService>>()
        .await;
    reporter
        .set_serving::<SchedulesServer<schedules::SchedulesService>>()
        .await;
    reporter
        .set_serving::<WorkerSessionServer<SessionService>>()
        .await;
    reporter
        .set_serving::<ClusterServer<cluster::ClusterService>>()
        .await;
    reporter
        .set_serving::<TrustServer<trust::TrustService>>()
        .await;
    reporter
        .set_serving::<UsersServer<users::UsersService>>()
        .await;
    reporter
        .set_serving::<SecretsServer<secrets::SecretsService>>()
        .await;
    // So that the first requests need no look; where it cannot be read now, each of them tries.
    let known = &app.walls.users;
    if let Err(error) = known.ready(&app.db, &app.role, &*app.clock).await {
        tracing::debug!(%error, "the users could not be read yet");
    }
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };

    let mut server = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_EVERY))
        .http2_keepalive_timeout(Some(KEEPALIVE_WITHIN))
        .max_concurrent_streams(STREAMS_MAX)
        .max_frame_size(FRAME_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        // For browsers: what they do not send as gRPC-Web ends in the layer of the page.
        .accept_http1(true)
        .layer(WebLayer::new(app, is_tls))
        .layer(DeadlineLayer {
            limit: deadline::ANSWER_WITHIN,
        })
        .layer(GuardLayer {
            walls: app.walls.clone(),
            role: app.role.clone(),
            inflow: Inflow::default(),
            members: Members::new(app.db.clone()),
            clock: app.clock.clone(),
            db: Some(app.db.clone()),
        });
    Ok(server
        .add_service(jobs)
        .add_service(artifacts)
        .add_service(workers)
        .add_service(audit)
        .add_service(backups)
        .add_service(chaos)
        .add_service(cluster)
        .add_service(projects)
        .add_service(schedules)
        .add_service(secrets)
        .add_service(trust)
        .add_service(users)
        .add_service(session)
        .add_service(health)
        .add_service(reflection().build_v1()?)
        // What older clients, such as most libraries', still ask for.
        .add_service(reflection().build_v1alpha()?))
}
