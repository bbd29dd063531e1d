//! Takes messages off a worker's stream as they come.

use marquee_proto::v1;
use marquee_proto::v1::coordinator_message::Body as Out;
use marquee_proto::v1::worker_message::Body as In;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::registry::Seat;
use crate::app::App;

/// Reads the stream: every message is a sign of life, however long the ones before it take to be
/// stored.
pub(super) async fn read(
    app: App,
    seat: Seat,
    mut inbound: Streaming<v1::WorkerMessage>,
    inbox: mpsc::Sender<v1::WorkerMessage>,
    answers: Option<mpsc::Sender<Result<v1::CoordinatorMessage, Status>>>,
) {
    loop {
        match inbound.message().await {
            Ok(Some(message)) => {
                app.sessions.seen(&seat);
                if let (Some(answers), Some(In::Heartbeat(heartbeat))) = (&answers, &message.body) {
                    let seen = Out::HeartbeatSeen(v1::HeartbeatSeen {
                        sequence: heartbeat.sequence,
                    });
                    // One that is full is of a worker that does not read, and has its own end.
                    let _sent = answers.try_send(Ok(v1::CoordinatorMessage {
                        body: Some(seen),
                        epoch: app.role.epoch(),
                    }));
                }
                if inbox.send(message).await.is_err() {
                    return;
                }
            }
            Ok(None) => return,
            Err(status) => {
                tracing::debug!(worker = %seat.worker, %status, "stream broke");
                return;
            }
        }
    }
}
