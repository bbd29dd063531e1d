//! Checkpoints of a running child on their way to the coordinator: the newest is stored, and reported when
//! it is.

use std::io;
use std::path::Path;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use marquee_domain::artifact::Manifest;
use marquee_proto::v1;
use marquee_proto::v1::report::Body;
use tracing::{debug, warn};

use super::StopCause;
use super::ending::PATIENCE;
use super::pump::{Cursor, LocalCheckpoint, own_line};
use super::task::{DISK_LOW_BYTES, DISK_RETRY, RankTask};
use crate::blocking::blocking;
use crate::remove;
use crate::transfer::{NoRoom, TransferError};

/// How long checkpoints may still be stored after an order to stop.
const STOP_UPLOAD_MAX: Duration = Duration::from_secs(30);
/// The same when the daemon itself is being stopped, and someone waits for it.
const SHUTDOWN_UPLOAD_MAX: Duration = Duration::from_secs(10);

/// A checkpoint that is being stored.
pub(super) type Upload = BoxFuture<'static, (LocalCheckpoint, Result<Manifest, TransferError>)>;

impl RankTask {
    /// Begins to store the newest checkpoint; older ones that wait are of no use any more.
    pub(super) async fn next_upload(&self) -> Option<Upload> {
        let (waiting, is_first) = {
            let spool = self.rank.spool();
            let cursor = spool.cursor();
            (
                cursor.checkpoints.clone(),
                cursor.is_first(self.rank.key.rank),
            )
        };
        let (newest, superseded) = waiting.split_last()?;
        for old in superseded {
            debug!(rank = %self.rank.key, step = old.step, "a newer checkpoint is there");
            if !self.drop_checkpoint(old, None).await {
                return None;
            }
        }
        // The path is the child's word: nothing is stored or removed for it that lies elsewhere.
        let is_in_place = is_folder_of(&self.rank.dir.checkpoints(), &newest.path);
        if !is_first || !is_in_place {
            let why =
                "only the first rank makes checkpoints, in a folder of its own in \"checkpoints\"";
            let line = format!("checkpoint {:?} is not kept: {why}", newest.path);
            self.drop_checkpoint(newest, Some(own_line(&line))).await;
            return None;
        }
        let (transfers, checkpoint) = (self.host.transfers.clone(), newest.clone());
        let upload = async move {
            let stored = transfers.upload(&checkpoint.path, NoRoom::Fail).await;
            (checkpoint, stored)
        };
        Some(upload.boxed())
    }

    /// Reports a checkpoint that was stored, or why it was not. Whether that could be spooled.
    pub(super) async fn checkpoint_done(
        &self,
        (checkpoint, stored): (LocalCheckpoint, Result<Manifest, TransferError>),
    ) -> bool {
        let body = match stored {
            Ok(manifest) => Body::Checkpoint(v1::CheckpointSaved {
                step: checkpoint.step,
                manifest: Some(v1::Manifest::from(&manifest)),
            }),
            Err(error) => {
                warn!(rank = %self.rank.key, step = checkpoint.step, %error, "a checkpoint was not stored");
                own_line(&format!(
                    "checkpoint of step {} was not stored: {error}",
                    checkpoint.step
                ))
            }
        };
        self.drop_checkpoint(&checkpoint, Some(body)).await
    }

    /// Forgets a checkpoint, with the report that says why, and then removes its folder. Whether it could
    /// be spooled; the disk may be full.
    async fn drop_checkpoint(&self, checkpoint: &LocalCheckpoint, body: Option<Body>) -> bool {
        let gone = checkpoint.clone();
        let change =
            move |cursor: &mut Cursor| cursor.checkpoints.retain(|waiting| *waiting != gone);
        if !self.try_spool(body.into_iter().collect(), change).await {
            return false;
        }
        if is_folder_of(&self.rank.dir.checkpoints(), &checkpoint.path) {
            let path = checkpoint.path.clone();
            let removed = blocking(move || remove::all(&path)).await;
            if let Err(error) = removed.map_err(io::Error::other).flatten() {
                debug!(rank = %self.rank.key, %error, "a checkpoint's folder cannot be removed");
            }
        }
        true
    }

    /// Stores what checkpoints are left when the child is gone: the next attempt wants them.
    pub(super) async fn finish_uploads(&self, mut upload: Option<Upload>) {
        let all = async {
            loop {
                if upload.is_none() {
                    upload = self.next_upload().await;
                }
                let is_stored = match upload.take() {
                    Some(current) => self.checkpoint_done(current.await).await,
                    None => self.rank.spool().cursor().checkpoints.is_empty(),
                };
                if !is_stored {
                    tokio::time::sleep(DISK_RETRY).await;
                } else if self.rank.spool().cursor().checkpoints.is_empty() {
                    return;
                }
            }
        };
        let out_of_time = async {
            let limit = match self.stop_ordered().await.cause {
                StopCause::Forget => Duration::ZERO,
                StopCause::Coordinator => STOP_UPLOAD_MAX,
                StopCause::Shutdown | StopCause::Disconnected | StopCause::HostUpgraded => {
                    SHUTDOWN_UPLOAD_MAX
                }
            };
            tokio::time::sleep(limit).await;
        };
        let all = async {
            // A disk that stays full must not keep the rank from its end.
            let room = async {
                while !matches!(self.disk_room(), Some(bytes) if bytes < DISK_LOW_BYTES) {
                    tokio::time::sleep(DISK_RETRY).await;
                }
                tokio::time::sleep(PATIENCE).await;
            };
            tokio::select! {
                () = all => {}
                () = room => warn!(rank = %self.rank.key, "the disk is full: a checkpoint is not stored"),
            }
        };
        tokio::select! {
            () = all => {}
            () = out_of_time => warn!(rank = %self.rank.key, "stopped before all checkpoints were stored"),
        }
    }
}

/// Whether `path` names a folder of its own right below `checkpoints`.
fn is_folder_of(checkpoints: &Path, path: &Path) -> bool {
    // Of `checkpoints/..`, too, the parent is `checkpoints`; it has no name of its own.
    path.parent() == Some(checkpoints) && path.file_name().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_a_folder_right_below_that_of_checkpoints() {
        let checkpoints = Path::new("/data/attempts/1-1-0/checkpoints");
        let is_one = |path: &str| is_folder_of(checkpoints, &checkpoints.join(path));
        assert!(is_one("step-5"));
        assert!(is_one("step-5/"));
        for other in [
            "",
            ".",
            "..",
            "step-5/..",
            "a/b",
            "../checkpoints/..",
            "/etc",
        ] {
            assert!(!is_one(other), "{other}");
        }
    }
}
