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
use super::prepare::KEEPER_KILL_MAX;
use super::pump::{self, Cursor, LocalCheckpoint, Stdout, own_line};
use super::task::{DISK_RETRY, Interrupt, RankTask, Unsaid, local_fault};
use super::verdict::STDERR_TAIL_BYTES;
use super::{StopCause, StopOrder};
use crate::process::launcher::{Child, Exit, News, Status, stderr_path, stdout_path};
use crate::transfer::TransferError;

/// The least time between two readings of a child that lives. The first line after a silence is read
/// at once, and one that never stops costs ten syncs of the spool a second.
const TICK: Duration = Duration::from_millis(100);
/// How long a child that has just been started may go unreported. Most quick ones end sooner: all of
/// such a one goes in one write to the disk and one message.
const FIRST_WORD: Duration = Duration::from_millis(25);
/// How long checkpoints may still be stored after an order to stop.
const STOP_UPLOAD_MAX: Duration = Duration::from_secs(30);
/// The same when the daemon itself is being stopped, and someone waits for it.
const SHUTDOWN_UPLOAD_MAX: Duration = Duration::from_secs(10);
/// Read output is given back to the file system in steps of this size.
const PUNCH_BYTES: u64 = 16 * 1024 * 1024;
/// After this long a child that cannot be killed is worth a line in the daemon's log.
const UNKILLABLE_AFTER: Duration = Duration::from_secs(10);
/// How often a child that does not leave is told again, and what does not die is looked for.
const PRESS_EVERY: Duration = Duration::from_millis(100);
const BURY_EVERY: Duration = Duration::from_millis(20);

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

/// When a child is looked at next.
#[derive(Debug)]
struct Pace {
    /// Without a cause.
    due: Instant,
    /// At the earliest, where it has written something.
    earliest: Instant,
}

impl RankTask {
    /// Follows a child to its end, and says how that was. What it said last is left in `unsaid`.
    pub(super) async fn follow(
        &self,
        mut child: Box<dyn Child>,
        kind: Stdout,
        unsaid: &mut Unsaid,
    ) -> Result<Option<Exit>, Interrupt> {
        let output = Output::open(self.rank.dir.path())
            .map_err(|e| local_fault(&format!("the child's output cannot be read: {e}")))?;
        let mut orders = self.rank.orders();
        let mut upload: Option<Upload> = None;
        let (mut stopping, mut first_word) = (None, None);
        loop {
            let mut is_known = true;
            let status = child.status().unwrap_or_else(|error| {
                warn!(rank = %self.rank.key, %error, "the child's state cannot be read");
                is_known = false;
                Status::Running
            });
            let gone = matches!(status, Status::Gone(_));
            if status == Status::Gone(None) {
                self.bury(child.as_ref()).await;
            }
            let stop = orders.borrow_and_update().stop.clone();
            let hold = match &status {
                Status::Starting => Some(Instant::now() + child.look_every()),
                Status::Running if stop.is_none() => self.hold(&mut first_word),
                Status::Running | Status::Gone(_) => None,
            };
            let mut pace = if let Some(until) = hold {
                Pace {
                    due: until,
                    earliest: until,
                }
            } else {
                let at_end = self.pump(&output, kind, gone, child.pid(), unsaid).await;
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
                let now = Instant::now();
                Pace {
                    due: now + child.look_every(),
                    earliest: now + TICK,
                }
            };
            if let Some(stop) = stop {
                let again = self
                    .press(child.as_ref(), &status, &stop, &mut stopping)
                    .await;
                pace.due = pace.due.min(again.unwrap_or(pace.due));
            }
            if !is_known {
                pace.due = Instant::now() + DISK_RETRY;
            }
            loop {
                tokio::select! {
                    biased;
                    _ = orders.changed() => break,
                    done = async { upload.as_mut().expect("guarded by the branch's condition").await }, if upload.is_some() => {
                        upload = None;
                        self.checkpoint_done(done).await;
                        break;
                    }
                    news = child.news(), if is_known => match news {
                        News::State => break,
                        News::Output => pace.due = pace.due.min(pace.earliest),
                    },
                    () = tokio::time::sleep_until(pace.due) => break,
                }
            }
        }
    }

    /// Until when a child that was started a moment ago is left alone; None when it is time to look.
    fn hold(&self, first_word: &mut Option<Instant>) -> Option<Instant> {
        if self.rank.state() >= RankState::Running {
            return None;
        }
        let until = *first_word.get_or_insert_with(|| Instant::now() + FIRST_WORD);
        (Instant::now() < until).then_some(until)
    }

    /// Reads on in the child's output and spools what it says; the last of one that is gone stays
    /// `unsaid`. Whether all was read.
    async fn pump(
        &self,
        output: &Arc<Output>,
        kind: Stdout,
        gone: bool,
        pid: Option<u32>,
        unsaid: &mut Unsaid,
    ) -> bool {
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
        let step = move || -> io::Result<(bool, Unsaid)> {
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
            // A checkpoint has to be stored first: it is known by the spool's cursor.
            if gone && pumped.at_end && cursor.checkpoints.is_empty() {
                let cursor = Some(cursor);
                return Ok((true, Unsaid { bodies, cursor }));
            }
            if !bodies.is_empty() || cursor != before {
                give_back(&output.stdout, before.stdout.offset, cursor.stdout.offset);
                give_back(&output.stderr, before.stderr.offset, cursor.stderr.offset);
                rank.report(&host, bodies, |current| *current = cursor)?;
            }
            Ok((pumped.at_end, Unsaid::default()))
        };
        match tokio::task::spawn_blocking(step).await {
            Ok(Ok((at_end, last))) => {
                *unsaid = last;
                at_end
            }
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

    /// Carries out an order to stop: TERM, after the grace KILL, and at last the keeper too. When to
    /// press again; None where the child's next news will tell.
    async fn press(
        &self,
        child: &dyn Child,
        status: &Status,
        stop: &StopOrder,
        since: &mut Option<Instant>,
    ) -> Option<Instant> {
        let grace = Duration::from_millis(u64::from(stop.grace_ms));
        let again = Instant::now() + PRESS_EVERY;
        match *since {
            None if *status == Status::Starting => None,
            // Its peers are not to stop with it, which is what one that leaves in order asks them to.
            None if grace.is_zero() || self.is_to_be_left_behind(stop) => {
                info!(rank = %self.rank.key, reason = %stop.reason, "ending the child");
                *since = Some(Instant::now());
                self.note(&format!("ended at once: {}", stop.reason)).await;
                child.kill();
                Some(again)
            }
            None => {
                info!(rank = %self.rank.key, reason = %stop.reason, ?grace, "stopping the child");
                let begin = Instant::now();
                *since = Some(begin);
                self.note(&format!("stopping: {}", stop.reason)).await;
                child.terminate();
                Some(begin + grace)
            }
            Some(since) if since.elapsed() >= grace => {
                if since.elapsed() >= grace + KEEPER_KILL_MAX {
                    child.kill_session();
                } else {
                    child.kill();
                }
                Some(again)
            }
            Some(since) => Some(since + grace),
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

    /// Waits until no process of the child's session is left, and sees to it. Only where the keeper
    /// could not: one that left an exit file had nothing left to wait for.
    async fn bury(&self, child: &dyn Child) {
        let since = Instant::now();
        let mut warned = false;
        loop {
            let left = child.survivors();
            if left.is_empty() {
                return;
            }
            child.kill_session();
            if since.elapsed() >= UNKILLABLE_AFTER && !warned {
                warned = true;
                warn!(rank = %self.rank.key, pids = ?left, "processes of the rank do not die; its devices stay taken");
            }
            tokio::time::sleep(BURY_EVERY).await;
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
