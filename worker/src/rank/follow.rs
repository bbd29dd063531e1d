//! While a rank's child runs: its output becomes reports, its checkpoints are stored, orders to
//! stop are carried out. Ends when nothing of the child is left and all it said is spooled.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use marquee_domain::artifact::Manifest;
use marquee_domain::job::RankState;
use marquee_proto::v1;
use marquee_proto::v1::report::Body;
use nix::fcntl::{FallocateFlags, fallocate};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::lines::Position;
use super::pump::{self, Cursor, LocalCheckpoint, Stdout, own_line};
use super::task::{Interrupt, RankTask, local_fault};
use super::verdict::STDERR_TAIL_BYTES;
use super::{StopCause, StopOrder};
use crate::process::keeper::Exit;
use crate::process::kept::{Kept, Status, stderr_path, stdout_path};
use crate::rank::prepare::KEEPER_KILL_MAX;
use crate::transfer::TransferError;

/// How often a child's output is read. Short enough for a live log, long enough that the sync of
/// the spool costs nothing.
const TICK: Duration = Duration::from_millis(100);
/// Wait before the next try when the spool cannot be written, as on a full disk.
const DISK_RETRY: Duration = Duration::from_secs(1);
/// How long checkpoints may still be stored after an order to stop.
const STOP_UPLOAD_MAX: Duration = Duration::from_secs(30);
/// The same when the daemon itself is being stopped, and someone waits for it.
const SHUTDOWN_UPLOAD_MAX: Duration = Duration::from_secs(10);
/// Read output is given back to the file system in steps of this size.
const PUNCH_BYTES: u64 = 16 * 1024 * 1024;
/// After this long a child that cannot be killed is worth a line in the daemon's log.
const UNKILLABLE_AFTER: Duration = Duration::from_secs(10);

type Upload = BoxFuture<'static, (LocalCheckpoint, Result<Manifest, TransferError>)>;

/// The files a child writes.
#[derive(Debug)]
struct Output {
    stdout: File,
    stderr: File,
}

impl Output {
    fn open(dir: &Path) -> io::Result<Arc<Self>> {
        let open = |path| OpenOptions::new().read(true).write(true).open(path);
        Ok(Arc::new(Self {
            stdout: open(stdout_path(dir))?,
            stderr: open(stderr_path(dir))?,
        }))
    }

    /// Whether the child wrote nothing beyond `cursor`.
    fn ends_at(&self, cursor: &Cursor) -> bool {
        let ends = |file: &File, read: &Position| {
            file.metadata()
                .is_ok_and(|metadata| metadata.len() == read.offset)
        };
        ends(&self.stdout, &cursor.stdout) && ends(&self.stderr, &cursor.stderr)
    }
}

impl RankTask {
    /// Follows a child to its end, and says how that was.
    pub(super) async fn follow(
        &self,
        mut kept: Kept,
        kind: Stdout,
    ) -> Result<Option<Exit>, Interrupt> {
        let output = Output::open(self.rank.dir.path())
            .map_err(|e| local_fault(&format!("the child's output cannot be read: {e}")))?;
        let mut orders = self.rank.orders();
        let mut upload: Option<Upload> = None;
        let mut stopping = None;
        loop {
            let status = kept.status().unwrap_or_else(|error| {
                warn!(rank = %self.rank.key, %error, "the child's state cannot be read");
                Status::Running
            });
            let gone = matches!(status, Status::Gone(_));
            if gone {
                self.bury(&kept).await;
            }
            let at_end = self.pump(&output, kind, gone, kept.pid()).await;
            if upload.is_none() {
                upload = self.next_upload().await;
            }
            match status {
                Status::Gone(exit) if at_end => {
                    self.finish_uploads(upload).await;
                    return Ok(exit);
                }
                Status::Gone(_) => continue,
                Status::Starting | Status::Running if !at_end => continue,
                Status::Starting | Status::Running => {}
            }
            let stop = orders.borrow_and_update().stop.clone();
            if let Some(stop) = stop {
                self.press(&kept, &status, &stop, &mut stopping).await;
            }
            tokio::select! {
                () = tokio::time::sleep(TICK) => {}
                _ = orders.changed() => {}
                done = async { upload.as_mut().expect("guarded by the branch's condition").await }, if upload.is_some() => {
                    upload = None;
                    self.checkpoint_done(done).await;
                }
            }
        }
    }

    /// Reads on in the child's output and spools what it says. Whether all was read.
    async fn pump(&self, output: &Arc<Output>, kind: Stdout, gone: bool, pid: Option<u32>) -> bool {
        {
            // Most looks find nothing, and each that reads takes a thread away from the child's cores.
            let spool = self.rank.spool();
            let is_started = spool.state() >= RankState::Running;
            if !gone && is_started && output.ends_at(spool.cursor()) {
                return true;
            }
        }
        let (rank, host, output) = (
            Arc::clone(&self.rank),
            Arc::clone(&self.host),
            Arc::clone(output),
        );
        let step = move || -> io::Result<bool> {
            let spool = rank.spool();
            let before = spool.cursor().clone();
            let is_new = spool.state() < RankState::Running;
            drop(spool);
            let mut cursor = before.clone();
            let pumped = pump::step((&output.stdout, &output.stderr), &mut cursor, kind, gone)?;
            let started = pid
                .filter(|_| is_new)
                .map(|pid| Body::Started(v1::RankStarted { pid }));
            let bodies: Vec<Body> = started.into_iter().chain(pumped.bodies).collect();
            if !bodies.is_empty() || cursor != before {
                give_back(&output.stdout, before.stdout.offset, cursor.stdout.offset);
                give_back(&output.stderr, before.stderr.offset, cursor.stderr.offset);
                rank.report(&host, bodies, |current| *current = cursor)?;
            }
            Ok(pumped.at_end)
        };
        match tokio::task::spawn_blocking(step).await {
            Ok(Ok(at_end)) => at_end,
            Ok(Err(error)) => {
                warn!(rank = %self.rank.key, %error, "reports cannot be spooled; trying again");
                tokio::time::sleep(DISK_RETRY).await;
                false
            }
            Err(join) => {
                warn!(rank = %self.rank.key, error = %join, "reading a child's output failed");
                tokio::time::sleep(DISK_RETRY).await;
                false
            }
        }
    }

    /// Carries out an order to stop: TERM, after the grace KILL, and at last the keeper too.
    async fn press(
        &self,
        kept: &Kept,
        status: &Status,
        stop: &StopOrder,
        since: &mut Option<Instant>,
    ) {
        let grace = Duration::from_millis(u64::from(stop.grace_ms));
        match *since {
            None if *status == Status::Starting => {}
            // Its peers are not to stop with it, which is what one that leaves in order asks them to.
            None if grace.is_zero() || self.is_to_be_left_behind(stop) => {
                info!(rank = %self.rank.key, reason = %stop.reason, "ending the child");
                *since = Some(Instant::now());
                self.note(&format!("ended at once: {}", stop.reason)).await;
                kept.kill();
            }
            None => {
                info!(rank = %self.rank.key, reason = %stop.reason, ?grace, "stopping the child");
                *since = Some(Instant::now());
                self.note(&format!("stopping: {}", stop.reason)).await;
                kept.terminate();
            }
            Some(since) if since.elapsed() >= grace + KEEPER_KILL_MAX => kept.kill_session(),
            Some(since) if since.elapsed() >= grace => kept.kill(),
            Some(_) => {}
        }
    }

    /// Whether this daemon leaves while others of a gang go on without its rank.
    fn is_to_be_left_behind(&self, stop: &StopOrder) -> bool {
        let is_elastic = || {
            self.spec()
                .is_ok_and(|spec| spec.resources.min_ranks.is_some())
        };
        stop.cause == StopCause::Shutdown && is_elastic()
    }

    /// Waits until no process of the child's session is left, and sees to it.
    async fn bury(&self, kept: &Kept) {
        let since = Instant::now();
        let mut warned = false;
        loop {
            let left = kept.survivors();
            if left.is_empty() {
                return;
            }
            kept.kill_session();
            if since.elapsed() >= UNKILLABLE_AFTER && !warned {
                warned = true;
                warn!(rank = %self.rank.key, pids = ?left, "processes of the rank do not die; its devices stay taken");
            }
            tokio::time::sleep(TICK / 5).await;
        }
    }

    /// Begins to store the newest checkpoint; older ones that wait are of no use any more.
    async fn next_upload(&self) -> Option<Upload> {
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
            self.drop_checkpoint(old, None).await;
        }
        let is_in_place = newest.path.parent() == Some(&self.rank.dir.checkpoints());
        if !is_first || !is_in_place {
            let why =
                "only the first rank makes checkpoints, in a folder of its own in \"checkpoints\"";
            let line = format!("checkpoint {:?} is not kept: {why}", newest.path);
            self.drop_checkpoint(newest, Some(own_line(&line))).await;
            return None;
        }
        let (transfers, checkpoint) = (self.host.transfers.clone(), newest.clone());
        let upload = async move {
            let stored = transfers.upload(&checkpoint.path).await;
            (checkpoint, stored)
        };
        Some(upload.boxed())
    }

    async fn checkpoint_done(
        &self,
        (checkpoint, stored): (LocalCheckpoint, Result<Manifest, TransferError>),
    ) {
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
        self.drop_checkpoint(&checkpoint, Some(body)).await;
    }

    /// Forgets a checkpoint, with the report that says why, and then removes its folder.
    async fn drop_checkpoint(&self, checkpoint: &LocalCheckpoint, body: Option<Body>) {
        let gone = checkpoint.clone();
        self.spool_surely(body.into_iter().collect(), move |cursor| {
            cursor.checkpoints.retain(|waiting| *waiting != gone);
        })
        .await;
        if checkpoint.path.parent() == Some(&self.rank.dir.checkpoints())
            && let Err(error) = fs::remove_dir_all(&checkpoint.path)
        {
            debug!(rank = %self.rank.key, %error, "a checkpoint's folder cannot be removed");
        }
    }

    /// Stores what checkpoints are left when the child is gone: the next attempt wants them.
    async fn finish_uploads(&self, mut upload: Option<Upload>) {
        let all = async {
            loop {
                if upload.is_none() {
                    upload = self.next_upload().await;
                }
                match upload.take() {
                    Some(current) => self.checkpoint_done(current.await).await,
                    None => return,
                }
            }
        };
        let out_of_time = async {
            let limit = match self.stop_ordered().await.cause {
                StopCause::Forget => Duration::ZERO,
                StopCause::Coordinator => STOP_UPLOAD_MAX,
                StopCause::Shutdown => SHUTDOWN_UPLOAD_MAX,
            };
            tokio::time::sleep(limit).await;
        };
        tokio::select! {
            () = all => {}
            () = out_of_time => warn!(rank = %self.rank.key, "stopped before all checkpoints were stored"),
        }
    }

    /// A line of the worker's own in the rank's log.
    pub(super) async fn note(&self, text: &str) {
        self.spool_surely(vec![own_line(text)], |_| {}).await;
    }

    /// Spools, and waits for as long as the disk refuses.
    pub(super) async fn spool_surely(
        &self,
        bodies: Vec<Body>,
        change: impl Fn(&mut pump::Cursor) + Clone + Send + 'static,
    ) {
        loop {
            let (rank, host) = (Arc::clone(&self.rank), Arc::clone(&self.host));
            let (bodies, change) = (bodies.clone(), change.clone());
            match tokio::task::spawn_blocking(move || rank.report(&host, bodies, change)).await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => {
                    warn!(rank = %self.rank.key, %error, "a report cannot be spooled; trying again");
                }
                Err(join) => warn!(rank = %self.rank.key, error = %join, "spooling failed"),
            }
            tokio::time::sleep(DISK_RETRY).await;
        }
    }

    /// The last lines of the child's stderr.
    pub(super) fn stderr_tail(&self) -> String {
        let read = || -> io::Result<Vec<u8>> {
            let file = File::open(stderr_path(self.rank.dir.path()))?;
            let length = file.metadata()?.len();
            let mut tail =
                vec![0; STDERR_TAIL_BYTES.min(usize::try_from(length).unwrap_or(usize::MAX))];
            let start = length - tail.len() as u64;
            file.read_exact_at(&mut tail, start)?;
            Ok(tail)
        };
        String::from_utf8_lossy(&read().unwrap_or_default()).replace('\0', "\u{fffd}")
    }
}

/// Frees the disk blocks of output that was read. Best effort: not every file system can.
fn give_back(file: &File, before: u64, now: u64) {
    if before / PUNCH_BYTES == now / PUNCH_BYTES {
        return;
    }
    // All but the newest step, so that the tail for a failure's message stays.
    let Ok(end) = i64::try_from((now / PUNCH_BYTES - 1) * PUNCH_BYTES) else {
        return;
    };
    if end > 0 {
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let _best_effort = fallocate(file, flags, 0, end);
    }
}
