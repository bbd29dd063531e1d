//! Copies of everything, for administrators.

use futures::StreamExt as _;
use futures::stream::BoxStream;
use marquee_proto::error::ErrorCode;
use marquee_proto::v1;
use marquee_proto::v1::moment_part::Part as Wire;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::app::App;
use crate::backup::dumps::Turn;
use crate::backup::moment::{self, End, Head, MomentError, Part, Parts, WAITING_MAX};
use crate::caller::Caller;

/// The service.
#[derive(Debug)]
pub(super) struct BackupsService {
    app: App,
}

impl BackupsService {
    pub(super) fn new(app: App) -> Self {
        Self { app }
    }
}

#[tonic::async_trait]
impl v1::backups_server::Backups for BackupsService {
    type TakeMomentStream = BoxStream<'static, Result<v1::MomentPart, Status>>;

    async fn take_moment(
        &self,
        request: Request<v1::TakeMomentRequest>,
    ) -> Result<Response<Self::TakeMomentStream>, Status> {
        let caller = Caller::of(&request).to_string();
        let v1::TakeMomentRequest { dry_run } = request.into_inner();
        let turn = self.app.dumps.begin(&caller, self.app.clock.now());
        // Refused and not queued: one takes long, and who waits without a word asks again.
        let turn = turn.map_err(|taken| ErrorCode::LimitReached.status(taken.to_string()))?;
        let (to, parts) = mpsc::channel(WAITING_MAX);
        tokio::spawn(tell(self.app.clone(), turn, dry_run, caller, to));
        let parts = ReceiverStream::new(parts).map(|part| match part {
            Ok(part) => Ok(encode(part)),
            Err(error) => Err(error.into()),
        });
        Ok(Response::new(parts.boxed()))
    }
}

async fn tell(app: App, turn: Turn, is_dry: bool, caller: String, to: Parts) {
    let ended = tokio::select! {
        // A reader that leaves ends it: a dump for nobody keeps old rows.
        () = to.closed() => return,
        () = app.shutdown.cancelled() => Err(MomentError::Stopping),
        sent = moment::send(&app, is_dry, &caller, &to) => sent,
    };
    // Before the reader is waited for: somebody else may begin.
    drop(turn);
    match ended {
        Ok(()) | Err(MomentError::Gone) => {}
        Err(error) => {
            tracing::warn!(%caller, %error, "a backup was not taken to its end");
            let _ = to.send(Err(error)).await;
        }
    }
}

impl From<MomentError> for Status {
    fn from(error: MomentError) -> Self {
        let code = match error {
            MomentError::Lifecycle(error) => return error.into(),
            MomentError::Stopping | MomentError::Gone => {
                return Status::unavailable(error.to_string());
            }
            MomentError::Tools(_) => ErrorCode::CannotDump,
            MomentError::SlowReader | MomentError::TooLong => ErrorCode::LimitReached,
        };
        code.status(error.to_string())
    }
}

fn encode(part: Part) -> v1::MomentPart {
    let part = match part {
        Part::Head(Head {
            cluster,
            storage,
            database_bytes,
        }) => Wire::Head(v1::MomentHead {
            cluster_id: cluster.to_string(),
            storage_id: storage.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            database_bytes,
        }),
        Part::Files(files) => {
            let files = files.into_iter().map(|file| v1::MomentFile {
                digest: file.digest.to_string(),
                size_bytes: file.size_bytes,
            });
            Wire::Files(v1::MomentFiles {
                files: files.collect(),
            })
        }
        Part::Dump(bytes) => Wire::Dump(bytes),
        Part::End(End { dump_bytes, digest }) => Wire::End(v1::MomentEnd {
            dump_bytes,
            dump_sha256: digest.map(|digest| digest.to_string()).unwrap_or_default(),
        }),
    };
    v1::MomentPart { part: Some(part) }
}
