//! What is done about a rank that makes no progress: it is looked at, and what is seen goes into its log and
//! to the coordinator, before anything is killed.

use std::io::{self, Read as _};
use std::time::Duration;

use marquee_domain::FailureClass;
use marquee_domain::failure::Failure;
use marquee_domain::pulse::{self, FILE_BYTES, STACKS_END, STACKS_MAX_BYTES, STACKS_SUFFIX};
use marquee_domain::spec::{JobKind, Watch};
use marquee_proto::v1::RankLog;
use marquee_proto::v1::log_line::Stream;
use marquee_proto::v1::report::Body;
use tokio::time::Instant;
use tracing::{info, warn};

use super::pump::OWN_LINE;
use super::stalled::Stalled;
use super::task::RankTask;
use super::vigil::{Finding, Mark, Vigil};
use crate::files;
use crate::process::launcher::Child;

/// How often a rank that runs is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often it is looked whether a signal holds it up.
const LOOK_DEEPER: Duration = Duration::from_secs(3);
/// How long a rank may take to write its stacks. One that cannot is told by what the kernel shows.
const STACKS_MAX: Duration = Duration::from_secs(3);
const STACKS_LOOK: Duration = Duration::from_millis(50);
/// Looks inside that go into a rank's log: one that hangs again and again has said enough by then.
const TOLD_MAX: u32 = 5;
/// Lines of stacks in the log for one look.
const LINES_MAX: usize = 1_500;
/// Lines of one report, far below its limit in bytes.
const LINES_IN_REPORT: usize = 200;
/// Bytes of one line.
const LINE_MAX_BYTES: usize = 300;

/// What is remembered of a rank while it runs.
#[derive(Debug)]
pub(super) struct Watched {
    vigil: Vigil,
    watch: Watch,
    kind: Option<JobKind>,
    looked: Option<Instant>,
    told: u32,
    process: String,
    /// Whether a signal held it up, and when that was looked at.
    held_up: (bool, Instant),
}

impl Watched {
    pub(super) fn new(watch: Watch, kind: Option<JobKind>) -> Self {
        Self {
            vigil: Vigil::new(watch, Instant::now()),
            watch,
            kind,
            looked: None,
            told: 0,
            process: String::new(),
            held_up: (false, Instant::now()),
        }
    }

    /// Whether a signal holds it up. Seldom looked at: it takes a look at each of its threads, and one that has
    /// just done something is not.
    fn is_held_up(&mut self, child: &dyn Child, now: Instant) -> bool {
        let (was, looked) = self.held_up;
        if now.duration_since(looked) >= LOOK_DEEPER || was {
            let is_idle = self.vigil.idle(now) >= LOOK_EVERY * 2;
            self.held_up = (is_idle && child.is_held_up(), now);
        }
        self.held_up.0
    }

    pub(super) fn watch(&self) -> Watch {
        self.watch
    }
}

impl RankTask {
    /// Looks whether a rank that runs gets on. The failure of one that is to be ended because it does not.
    pub(super) async fn watch_over(
        &self,
        child: &dyn Child,
        watched: &mut Watched,
    ) -> Option<Failure> {
        let now = Instant::now();
        if watched
            .looked
            .is_some_and(|at| now.duration_since(at) < LOOK_EVERY)
        {
            return None;
        }
        watched.looked = Some(now);
        let is_held_up = watched.is_held_up(child, now);
        let (mark, stalled) = self.standing(watched, is_held_up);
        // One that a signal holds up is itself what others wait for.
        let waits = stalled.waits_for_peers && !is_held_up;
        match watched.vigil.look(mark, is_held_up, waits, now) {
            Finding::Fine => None,
            Finding::GoesOn(after) => {
                self.rank.set_stalled(None);
                info!(rank = %self.rank.key, ?after, "the rank goes on");
                let text = format!("hang: it goes on, after {} s", after.as_secs());
                self.note(&text).await;
                None
            }
            Finding::Hangs => {
                self.look_inside(child, watched, stalled).await;
                None
            }
            Finding::StillHangs => {
                self.rank.set_stalled(Some(stalled));
                None
            }
            Finding::Overdue => Some(self.too_late(watched, &stalled)),
        }
    }

    /// Before a rank is told to stop: one that hangs, and has not been looked at yet, says why here or never.
    pub(super) async fn look_before_end(&self, child: &dyn Child, watched: &mut Watched) {
        if watched.vigil.is_told() || !child.is_held_up() {
            return;
        }
        let (_, stalled) = self.standing(watched, true);
        self.look_inside(child, watched, stalled).await;
    }

    /// What the rank itself tells of where it stands.
    fn standing(&self, watched: &Watched, is_held_up: bool) -> (Mark, Stalled) {
        let spool = self.rank.spool();
        let cursor = spool.cursor();
        // Our own programs tell of each step, and what they print besides is no progress. A command has
        // nothing else to show.
        let is_silent = match watched.kind {
            Some(JobKind::Command) | None => true,
            Some(JobKind::Fetch | JobKind::Preprocess | JobKind::Train | JobKind::Eval) => false,
        };
        let printed = cursor.stdout.offset + cursor.stderr.offset;
        let reached = cursor.reached.as_ref();
        let mut mark = Mark {
            moves: cursor.moves,
            beats: 0,
            printed: if is_silent { printed } else { 0 },
        };
        let mut stalled = Stalled {
            since: Instant::now() - watched.vigil.idle(Instant::now()),
            step: (cursor.step > 0).then_some(cursor.step),
            phase: reached.map(|at| at.phase.clone()).unwrap_or_default(),
            is_stopped: is_held_up,
            waits_for_peers: false,
            process: watched.process.clone(),
        };
        drop(spool);
        if let Some(own) = self.own_word() {
            mark.beats = own.beats;
            stalled.step = Some(own.step);
            if let Some(phase) = own.phase {
                stalled.phase = phase.as_str().to_owned();
                // A gang of one waits for nobody.
                stalled.waits_for_peers =
                    phase.waits_for_peers() && self.rank.assignment.world_size > 1;
            }
        }
        (mark, stalled)
    }

    fn own_word(&self) -> Option<pulse::Pulse> {
        let mut file = files::open(&self.rank.dir.standing()).ok()?;
        let mut bytes = [0; FILE_BYTES];
        file.read_exact(&mut bytes).ok()?;
        pulse::read(&bytes)
    }

    /// Says of a rank that it hangs: to the coordinator where it stands, and to its log what its threads do.
    async fn look_inside(&self, child: &dyn Child, watched: &mut Watched, mut stalled: Stalled) {
        let inside = child.look_inside().await;
        if let Some(inside) = &inside {
            watched.process.clone_from(&inside.words);
            stalled.process.clone_from(&inside.words);
        }
        warn!(rank = %self.rank.key, "the rank {}", stalled.words());
        self.rank.set_stalled(Some(stalled.clone()));
        if watched.told >= TOLD_MAX {
            return;
        }
        watched.told += 1;
        let mut lines = vec![format!("hang: it {}", stalled.words())];
        lines.extend(inside.into_iter().flat_map(|inside| inside.lines));
        // Only one that says so: the signal ends a program that does not expect it.
        if !stalled.is_stopped && self.own_word().is_some_and(|own| own.answers) {
            lines.push("its stacks:".to_owned());
            match self.stacks(child).await {
                Ok(stacks) => lines.extend(stacks),
                Err(error) => lines.push(format!("cannot be had: {error}")),
            }
        }
        let left_out = lines.len().saturating_sub(LINES_MAX);
        lines.truncate(LINES_MAX);
        if left_out > 0 {
            lines.push(format!(".. and {left_out} lines more"));
        }
        let reports = lines.chunks(LINES_IN_REPORT).map(|lines| {
            Body::Log(RankLog {
                stream: Stream::Stderr.into(),
                lines: lines.iter().map(|line| own(line)).collect(),
            })
        });
        let _said = self.try_spool(reports.collect(), |_| {}).await;
        self.host.news.notify_one();
    }

    /// The stacks that the rank writes when it is asked.
    async fn stacks(&self, child: &dyn Child) -> io::Result<Vec<String>> {
        let mut path = self.rank.dir.standing().into_os_string();
        path.push(STACKS_SUFFIX);
        let path = std::path::PathBuf::from(path);
        // That of an earlier look would be taken for the answer.
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        child.ask_for_stacks();
        let since = Instant::now();
        loop {
            tokio::time::sleep(STACKS_LOOK).await;
            let text = read_some(&path);
            if text.trim_end().ends_with(STACKS_END) || since.elapsed() >= STACKS_MAX {
                let lines = text.lines().filter(|line| *line != STACKS_END);
                let lines: Vec<String> = lines.map(str::to_owned).collect();
                if lines.is_empty() {
                    return Err(io::Error::other("the rank did not write them in time"));
                }
                return Ok(lines);
            }
        }
    }

    /// The failure of a rank whose `step_timeout` is over.
    fn too_late(&self, watched: &Watched, stalled: &Stalled) -> Failure {
        let limit = watched.watch.step_timeout_s.unwrap_or(0);
        // Whoever holds up the others fails by itself; this one is a victim, and its host is not to blame.
        let class = if stalled.waits_for_peers && !stalled.is_stopped {
            FailureClass::Collective
        } else {
            FailureClass::Hang
        };
        let (job, rank) = (self.rank.key.job, self.rank.key.rank);
        Failure {
            class,
            message: format!(
                "it {}, longer than step_timeout ({limit} s); what its threads did then: marquee logs {job} --rank {rank}",
                stalled.words()
            ),
        }
    }
}

/// A line of the worker's own, within its limit.
fn own(line: &str) -> String {
    let end = line.floor_char_boundary(LINE_MAX_BYTES);
    // A zero byte is what the coordinator's text cannot hold, and names of threads are the
    // program's own words.
    format!("{OWN_LINE} {}", line[..end].replace('\0', "\u{fffd}"))
}

/// What a file that the job can reach holds, up to its limit.
fn read_some(path: &std::path::Path) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        files::open(path)?
            .take(STACKS_MAX_BYTES + 1)
            .read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}
