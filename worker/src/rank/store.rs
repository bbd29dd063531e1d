//! When a rank's child has done its work: its output is stored, or kept where that cannot be.

use std::fs;
use std::path::PathBuf;

use marquee_domain::FailureClass;
use marquee_domain::artifact::Manifest;
use marquee_domain::failure::Failure;
use marquee_domain::spec::JobKind;
use marquee_proto::v1;
use marquee_proto::v1::report::Body;
use tokio::sync::watch;
use tracing::{info, warn};

use super::pump::own_line;
use super::task::{Interrupt, RankTask};
use crate::blocking::blocking;
use crate::transfer::{NoRoom, TransferError, is_disk_full};

/// What a rank says it is at while the coordinator has no room for its output.
const WAITING_FOR_ROOM: &str = "waiting for room on the coordinator's disk";

impl RankTask {
    /// Whether the rank need not put forward an output: a command's that left its folder empty. The
    /// other kinds always have one, even if it is empty: none from them means that it got lost.
    pub(super) fn has_nothing_to_store(&self, kind: JobKind) -> bool {
        match kind {
            JobKind::Command => {
                // One that cannot be read does not count as empty: storing it will say what is wrong.
                fs::read_dir(self.output()).is_ok_and(|mut entries| entries.next().is_none())
            }
            JobKind::Fetch | JobKind::Preprocess | JobKind::Train | JobKind::Eval => false,
        }
    }

    /// The folder of its output; one that was kept already, where a daemon was killed before it said so.
    fn output(&self) -> PathBuf {
        let kept = self.host.kept.find(self.rank.key);
        kept.unwrap_or_else(|| self.rank.dir.output())
    }

    /// Stores the job's output. The first rank's alone counts.
    pub(super) async fn store_output(&self) -> Result<Manifest, Interrupt> {
        let folder = self.output();
        let (why, mut waits) = watch::channel(None);
        let stored = {
            let upload = self.host.transfers.upload(&folder, NoRoom::Wait(&why));
            tokio::pin!(upload);
            let mut is_told = false;
            loop {
                tokio::select! {
                    stored = &mut upload => break stored,
                    _ = waits.changed() => {
                        let message = waits.borrow_and_update().clone().unwrap_or_default();
                        // Once: a wait of hours would fill the log with one line.
                        if !std::mem::replace(&mut is_told, true) {
                            self.say_that_it_waits(&message).await;
                        }
                    }
                }
            }
        };
        let output = stored.map_err(|error| Interrupt::Failed(failure(&error)))?;
        if folder != self.rank.dir.output()
            && let Err(error) = self.host.kept.drop_output(self.rank.key)
        {
            warn!(rank = %self.rank.key, %error, "a kept output cannot be removed");
        }
        Ok(output)
    }

    /// A full disk is mended by people: they have to see it, and the output waits for them.
    async fn say_that_it_waits(&self, message: &str) {
        warn!(rank = %self.rank.key, message, "the coordinator has no room for the output; it waits");
        let progress = Body::Progress(v1::RankProgress {
            phase: WAITING_FOR_ROOM.to_owned(),
            ..v1::RankProgress::default()
        });
        let note = own_line(&format!(
            "the work is done, and the output waits, since the coordinator's disk is full: {message}; it is tried again until there is room"
        ));
        self.spool_surely(vec![progress, note], |_| {}).await;
    }

    /// Keeps the output of a child that did its work, and adds to what went wrong where it is.
    pub(super) async fn keep_output(&self, interrupt: Interrupt) -> Interrupt {
        let (kept, key) = (self.host.kept.clone(), self.rank.key);
        let (output, now) = (self.rank.dir.output(), self.host.env.clock.now());
        // Moved, not copied: the disk may be what is full, and the rank's folder goes with its last report.
        let moved = blocking(move || kept.keep(key, &output, now)).await;
        let text = match moved.map_err(std::io::Error::other).flatten() {
            Ok((place, until)) => {
                info!(rank = %key, ?place, %until, "the output is kept");
                self.host.news.notify_one();
                format!(
                    "it is kept until {} in {place:?} on worker {:?}, and once the cause is gone \"marquee artifacts rescue {}\" stores it",
                    until.format("%Y-%m-%d %H:%M UTC"),
                    self.host.config.name,
                    key.job,
                )
            }
            Err(error) => {
                warn!(rank = %key, %error, "the output cannot be kept");
                format!("it could not be kept either: {error}")
            }
        };
        match interrupt {
            Interrupt::Failed(failure) => Interrupt::Failed(Failure {
                class: failure.class,
                message: format!("{}; {text}", failure.message),
            }),
            Interrupt::Stopped => {
                self.note(&format!("stopped before the output was stored; {text}"))
                    .await;
                Interrupt::Stopped
            }
        }
    }
}

/// What it means for the job that its output cannot be stored.
pub(crate) fn failure(error: &TransferError) -> Failure {
    let class = match error {
        TransferError::Unstorable(_)
        | TransferError::Manifest(_)
        | TransferError::TooLong { .. } => FailureClass::UserError,
        TransferError::NoRoom(_) => FailureClass::DiskFull,
        TransferError::Disk { .. } if is_disk_full(error) => FailureClass::DiskFull,
        // The job's own files: it may not read them itself.
        TransferError::Disk { source, .. }
            if source.kind() == std::io::ErrorKind::PermissionDenied =>
        {
            FailureClass::UserError
        }
        TransferError::Disk { .. } | TransferError::Damaged { .. } => FailureClass::Crash,
        TransferError::Refused { .. } => FailureClass::Network,
    };
    Failure {
        class,
        message: format!("the output cannot be stored: {error}"),
    }
}
