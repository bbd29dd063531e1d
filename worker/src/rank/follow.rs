//! While a rank's child runs: its output becomes reports, its checkpoints are stored, orders to
//! stop are carried out. Ends when nothing of the child is left and all it said is spooled.
//!
//! Orders come before everything that needs the disk: a full one holds up reports, and no order to stop.

use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Duration;

use marquee_domain::FailureClass;
use marquee_domain::failure::Failure;
use marquee_domain::job::RankState;
use marquee_domain::spec::{OnDisconnect, Watch};
use marquee_proto::v1;
use marquee_proto::v1::report::Body;
use tokio::time::Instant;
use tracing::warn;

use super::checkpoints::Upload;
use super::classify::STDERR_TAIL_BYTES;
use super::events;
use super::output::{Output, Read};
use super::pump::{Cursor, Stdout};
use super::stall::Watched;
use super::task::{DISK_RETRY, Interrupt, RankTask, Unsaid, program};
use super::{StopCause, StopOrder};
use crate::blocking::blocking;
use crate::files;
use crate::process::launcher::{Child, Exit, News, Status, stderr_path};

/// The least time between two readings of a child that lives. The first line after a silence is read
/// at once, and one that never stops costs ten syncs of the spool a second.
const TICK: Duration = Duration::from_millis(100);
/// How long a child that has just been started may go unreported. Most quick ones end sooner: all of
/// such a one goes in one write to the disk and one message.
const FIRST_WORD: Duration = Duration::from_millis(25);
/// How often a line is shown that is written over and over, such as a progress bar.
const SHOW_EVERY: Duration = Duration::from_secs(5);
/// Time for a rank that hangs to leave by itself: most cannot.
const OVERDUE_GRACE: Duration = Duration::from_secs(2);

/// The order to end a rank whose `step_timeout` is over.
fn end_of_patience(failure: &Failure) -> StopOrder {
    StopOrder {
        grace_ms: u32::try_from(OVERDUE_GRACE.as_millis()).unwrap_or(u32::MAX),
        reason: failure.message.clone(),
        cause: StopCause::Coordinator,
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

impl Pace {
    fn at(due: Instant) -> Self {
        Self { due, earliest: due }
    }
}

impl RankTask {
    /// Follows a child to its end, and says how that was. What it said last is left in `unsaid`.
    pub(super) async fn follow(
        &self,
        mut child: Box<dyn Child>,
        kind: Stdout,
        mut watched: Watched,
        unsaid: &mut Unsaid,
    ) -> Result<Option<Exit>, Interrupt> {
        let opened = Output::open(self.rank.dir.path());
        // It is ended for it, and only then its rank fails: a device is free on proof.
        let unreadable = opened
            .as_ref()
            .err()
            .map(|e| format!("its output cannot be read: {e}"));
        let output = opened.ok();
        let mut orders = self.rank.orders();
        let mut upload: Option<Upload> = None;
        let mut upload_from = Instant::now();
        let (mut stopping, mut first_word, mut stuck) = (None, None, None);
        let mut is_buried = false;
        let mut overdue: Option<Failure> = None;
        let mut shown = Instant::now();
        loop {
            let mut is_known = true;
            let status = child.status().unwrap_or_else(|error| {
                // What cannot be seen counts as running: no device is given away on a guess.
                warn!(rank = %self.rank.key, %error, "the child's state cannot be read");
                is_known = false;
                Status::Running
            });
            let gone = matches!(status, Status::Gone(_));
            if gone && !is_buried && !child.is_buried() {
                self.bury(child.as_ref()).await;
            }
            is_buried |= gone;
            self.end_with_lease(watched.watch());
            let ordered = orders.borrow_and_update().stop.clone();
            // The coordinator's first: its reason is the one that people look for.
            let stop = ordered
                .or_else(|| overdue.as_ref().map(end_of_patience))
                .or_else(|| self.end_of_contract(unreadable.as_deref()));
            let again = match &stop {
                Some(stop) if !gone => {
                    if stopping.is_none() && status == Status::Running {
                        self.look_before_end(child.as_ref(), &mut watched).await;
                    }
                    self.press(child.as_ref(), &status, stop, &mut stopping)
                        .await
                }
                Some(_) | None => None,
            };
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
                let show = shown.elapsed() >= SHOW_EVERY;
                if show {
                    shown = Instant::now();
                }
                let pid = child.pid();
                let read = match &output {
                    Some(output) => self.pump(output, kind, (gone, show), pid, unsaid).await,
                    None => Read::All,
                };
                if upload.is_none() && Instant::now() >= upload_from {
                    upload = self.next_upload().await;
                }
                let read = match (read, &output) {
                    (Read::Nothing, Some(output)) if gone => {
                        let since = *stuck.get_or_insert_with(Instant::now);
                        self.make_room_for_the_end(since, stop.is_some(), output, kind, unsaid)
                            .await
                    }
                    (read, _) => read,
                };
                match (status, read) {
                    (Status::Gone(exit), Read::All) => {
                        self.finish_uploads(upload).await;
                        return match (unreadable, overdue) {
                            (Some(why), _) => Err(self.broken(&why)),
                            (None, Some(failure)) => Err(Interrupt::Failed(failure)),
                            (None, None) => Ok(exit),
                        };
                    }
                    // Read on at once, but by way of the loop's head: a child that floods its log must not
                    // put off an order.
                    (_, Read::Some) => continue,
                    (Status::Gone(_), Read::Nothing) => Pace::at(Instant::now() + DISK_RETRY),
                    (Status::Starting | Status::Running, Read::Nothing) => {
                        Pace::at(Instant::now() + DISK_RETRY)
                    }
                    (status @ (Status::Starting | Status::Running), Read::All) => {
                        if status == Status::Running && stop.is_none() {
                            overdue = self.watch_over(child.as_ref(), &mut watched).await;
                            if overdue.is_some() {
                                continue;
                            }
                        }
                        let now = Instant::now();
                        Pace {
                            due: now + child.look_every(),
                            earliest: now + TICK,
                        }
                    }
                }
            };
            pace.due = pace.due.min(again.unwrap_or(pace.due));
            if !is_known {
                pace.due = Instant::now() + DISK_RETRY;
            }
            loop {
                tokio::select! {
                    biased;
                    _ = orders.changed() => break,
                    done = async { upload.as_mut().expect("guarded by the branch's condition").await }, if upload.is_some() => {
                        upload = None;
                        if !self.checkpoint_done(done).await {
                            upload_from = Instant::now() + DISK_RETRY;
                        }
                        break;
                    }
                    news = child.news(), if is_known && !gone => match news {
                        News::State => break,
                        News::Output => pace.due = pace.due.min(pace.earliest),
                    },
                    () = tokio::time::sleep_until(pace.due) => break,
                }
            }
        }
    }

    /// Ends a rank whose worker has not heard of the coordinator for its lease, where the job wants that: told to
    /// leave in the lease's last part, and killed with its end.
    fn end_with_lease(&self, watch: Watch) {
        if watch.on_disconnect == OnDisconnect::Keep {
            return;
        }
        let Some(left) = self.host.lease.ends_in(self.host.env.clock.monotonic()) else {
            return;
        };
        self.rank.order_stop(StopOrder {
            grace_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX),
            reason: "nothing was heard of the coordinator for a whole lease, and the job stops then (on_disconnect)"
                .to_owned(),
            cause: StopCause::Disconnected,
        });
    }

    /// The order to end a child that broke the contract, or whose output nobody can read.
    fn end_of_contract(&self, unreadable: Option<&str>) -> Option<StopOrder> {
        let reason = match unreadable {
            Some(why) => why.to_owned(),
            None => self.rank.spool().cursor().breach.clone()?,
        };
        Some(StopOrder {
            grace_ms: 0,
            reason,
            cause: StopCause::Coordinator,
        })
    }

    /// The failure of a child that broke the contract.
    pub(super) fn broken(&self, why: &str) -> Interrupt {
        let program = self.spec().map(|spec| program(&spec.work).to_owned());
        let program = program.unwrap_or_default();
        Interrupt::Failed(Failure {
            class: FailureClass::Crash,
            message: events::breach(self.rank.key, &program, why),
        })
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
    /// `unsaid`.
    async fn pump(
        &self,
        output: &Arc<Output>,
        kind: Stdout,
        (gone, show): (bool, bool),
        pid: Option<u32>,
        unsaid: &mut Unsaid,
    ) -> Read {
        {
            // Most looks find nothing, and each that reads takes a thread away from the child's cores.
            let spool = self.rank.spool();
            let is_started = spool.state() >= RankState::Running;
            if !gone && is_started && output.ends_at(spool.cursor()) {
                return Read::All;
            }
            // One that has ended without a word: there is nothing to read.
            let silent = Cursor::default();
            if gone && *spool.cursor() == silent && output.ends_at(&silent) {
                let started = pid
                    .filter(|_| !is_started)
                    .map(|pid| Body::Started(v1::RankStarted { pid }));
                *unsaid = Unsaid {
                    bodies: started.into_iter().collect(),
                    cursor: Some(silent),
                };
                return Read::All;
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
            // Not held while the files are read: each heartbeat asks the spool for the rank's state.
            drop(spool);
            let mut cursor = before.clone();
            let pumped = output.step(&mut cursor, kind, gone, show)?;
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
                let now = cursor.clone();
                rank.report(&host, bodies, |current| *current = cursor)?;
                // What is given back cannot be read again.
                output.give_back(&before, &now);
            }
            Ok((pumped.at_end, Unsaid::default()))
        };
        match blocking(step).await {
            Ok(Ok((at_end, last))) => {
                *unsaid = last;
                if at_end { Read::All } else { Read::Some }
            }
            Ok(Err(error)) => {
                warn!(rank = %self.rank.key, %error, "reports cannot be spooled; trying again");
                Read::Nothing
            }
            Err(join) => {
                warn!(rank = %self.rank.key, error = %join, "reading a child's output failed");
                Read::Nothing
            }
        }
    }

    /// The last lines of the child's stderr.
    pub(super) fn stderr_tail(&self) -> String {
        let read = || -> io::Result<Vec<u8>> {
            let file = files::open(&stderr_path(self.rank.dir.path()))?;
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
