//! Children behind keepers: how the daemon starts them and finds them again.
//!
//! What is true of a child stands in its folder (claim and exit file) and in the kernel. The daemon
//! hears of changes from the keeper's end and from inotify; where the kernel does not tell, it looks.
//!
//! A child can kill or stop its keeper where both run under one account. What is left of it is then found
//! by four signs: its cgroup, its session, the mark in its environment, and that it became a child of the
//! daemon when its parents died. See `docs/limits.md` for what none of them catches.

use std::collections::BTreeSet;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tracing::warn;

use super::cgroup::{self, Cgroups};
use super::departure::Departure;
use super::inside::{self, Inside};
use super::keeper::{self, ChildOrder, Claim, KILL_REQUEST, Keep, LOOK_REQUEST, STACKS_REQUEST};
use super::launcher::{
    Child, Launch, Launcher, News, Status, events_path, stderr_path, stdout_path,
};
use super::program::Program;
use super::strays::{self, Strays};
use super::watch::{FolderWatch, Watches};
use super::{ProcessId, signal};
use crate::{files, proc};

/// How often to look where the kernel tells of ends and output: only for what it may have missed.
const LOOK_WHEN_TOLD: Duration = Duration::from_secs(1);
/// How often to look where it does not: short enough for a live log.
const LOOK_WHEN_NOT: Duration = Duration::from_millis(100);
/// How long a look into a child of another account may take, and how often it is asked whether it is done.
const ANSWER_MAX: Duration = Duration::from_secs(3);
const ANSWER_LOOK: Duration = Duration::from_millis(50);

/// Starts each child behind a keeper, a process that outlives the daemon.
#[derive(Debug)]
pub struct Keepers {
    program: Program,
    /// Made with the first child; None where the kernel gives none.
    watches: OnceLock<Option<Arc<Watches>>>,
    /// The same; None where the daemon owns no part of the tree.
    cgroups: OnceLock<Option<Cgroups>>,
    strays: OnceLock<Arc<Strays>>,
}

impl Default for Keepers {
    fn default() -> Self {
        Self {
            program: Program::find(),
            watches: OnceLock::new(),
            cgroups: OnceLock::new(),
            strays: OnceLock::new(),
        }
    }
}

impl Keepers {
    fn watch(&self, dir: &Path) -> Option<FolderWatch> {
        let watches = self.watches.get_or_init(Watches::new);
        watches.as_ref().and_then(|watches| watches.watch(dir))
    }

    fn strays(&self) -> &Arc<Strays> {
        self.strays.get_or_init(Strays::watch_over)
    }

    fn cgroup(&self, dir: &Path, launch: u32, tasks_max: u32) -> Option<PathBuf> {
        let cgroups = self.cgroups(home(dir))?;
        cgroups.make(&cgroup_name(dir, launch), tasks_max)
    }

    fn cgroups(&self, home: &Path) -> Option<&Cgroups> {
        let find = || {
            let name = crc32c::crc32c(home.as_os_str().as_bytes());
            Cgroups::find(&format!("{name:08x}"))
        };
        self.cgroups.get_or_init(find).as_ref()
    }
}

/// The folder above those of all children: it tells daemons of one host apart.
fn home(dir: &Path) -> &Path {
    let attempts = dir.ancestors().find(|above| above.ends_with("attempts"));
    attempts.unwrap_or(dir)
}

fn cgroup_name(dir: &Path, launch: u32) -> String {
    let inside = dir.strip_prefix(home(dir)).unwrap_or(dir);
    let words = inside
        .iter()
        .map(|part| part.to_string_lossy().into_owned());
    let name = words.collect::<Vec<_>>().join("-");
    format!("{name}-{launch}")
}

impl Launcher for Keepers {
    fn start(&self, launch: &Launch<'_>) -> io::Result<Box<dyn Child>> {
        // A number that was never used: a keeper that is late must not find its claim free.
        let number = newest_claim(launch.dir)?.map_or(1, |(newest, _)| newest + 1);
        let cgroup = self.cgroup(launch.dir, number, launch.tasks_max);
        if launch.cage.is_some() && cgroup.is_none() {
            return Err(io::Error::other(
                "there is no cgroup for it, without which what runs under another account could not be ended",
            ));
        }
        let mut env = launch.env.clone();
        env.insert(strays::MARK.into(), launch.dir.into());
        let own = serde_json::to_vec(&ChildOrder::new(
            &env,
            launch.fence.clone(),
            launch.cage.clone(),
        ))?;
        let (env_out, mut env_in) = io::pipe()?;
        let mut command = self.program.command();
        let order = Keep {
            dir: launch.dir.to_owned(),
            launch: number,
            events: launch.events,
            cgroup,
            argv: launch.argv.clone(),
        };
        command
            .args(order.words())
            .current_dir(launch.work_dir)
            .env_clear()
            .stdin(env_out)
            .stdout(files::open_append(&stdout_path(launch.dir))?)
            .stderr(files::open_append(&stderr_path(launch.dir))?);
        if launch.events {
            files::open_append(&events_path(launch.dir))?;
        }
        // Before there is anything to miss.
        let watch = self.watch(launch.dir);
        // From here on the claim is what counts.
        let child = self.strays().spawn(&mut command)?;
        // Its own end of the pipe, too: a keeper that died is to be noticed here, not waited for.
        drop(command);
        if let Err(error) = env_in.write_all(&own) {
            warn!(dir = ?launch.dir, %error, "a keeper does not take the environment of its child");
        }
        drop(env_in);
        Ok(Box::new(Kept {
            dir: launch.dir.to_owned(),
            launch: number,
            keeper: None,
            spawned: child.id().and_then(|pid| i32::try_from(pid).ok()),
            child: None,
            is_caged: launch.cage.is_some(),
            cgroup: order.cgroup,
            departure: Departure::Own(Box::new(child)),
            watch,
            strays: Arc::clone(self.strays()),
        }))
    }

    fn can_cage(&self, attempts: &Path) -> bool {
        self.cgroups(attempts).is_some_and(Cgroups::can_kill)
    }

    fn adopt(&self, dir: &Path) -> io::Result<Option<Box<dyn Child>>> {
        let Some(found) = find(dir)? else {
            return Ok(None);
        };
        Ok(Some(Box::new(Kept {
            dir: dir.to_owned(),
            launch: found.launch,
            keeper: found.keeper,
            spawned: None,
            child: None,
            is_caged: found.is_caged,
            cgroup: found.cgroup,
            departure: found.keeper.map_or(Departure::Past, Departure::of),
            watch: self.watch(dir),
            strays: Arc::clone(self.strays()),
        })))
    }
}

/// One child behind its keeper.
#[derive(Debug)]
struct Kept {
    dir: PathBuf,
    launch: u32,
    /// None while the keeper has not made its claim yet.
    keeper: Option<ProcessId>,
    /// The keeper's id as the parent knows it, until the claim says it with the start time.
    spawned: Option<i32>,
    child: Option<i32>,
    /// It runs under another account: the kernel shows nothing of it to this one, and passes on no signal.
    is_caged: bool,
    cgroup: Option<PathBuf>,
    /// Of the keeper: to leave an exit file is the last thing it does.
    departure: Departure,
    /// Of the folder, for the child's start and its output.
    watch: Option<FolderWatch>,
    strays: Arc<Strays>,
}

impl Child for Kept {
    fn status(&mut self) -> io::Result<Status> {
        // Before the exit file, so that one written in between is seen.
        let stat = match (self.keeper, self.spawned) {
            (Some(keeper), _) => proc::stat(keeper.pid).filter(|stat| stat.start == keeper.start),
            (None, Some(pid)) => proc::stat(pid),
            (None, None) => None,
        };
        let keeper_lives = match stat {
            Some(stat) => !stat.is_zombie,
            // For a moment of its start a keeper is as hidden as the daemon, whose memory nobody may look into: where the
            // unit says ProtectProc=invisible the kernel then denies that there is such a process.
            None => self.keeper.is_none() && self.departure.is_still_ours(),
        };
        if stat.is_some_and(|stat| stat.is_stopped)
            && let Some(pid) = self.keeper_pid()
        {
            // Nobody but its child would stop a keeper, and a stopped one sees no end.
            signal(pid, Signal::SIGCONT);
        }
        // To leave an exit file is the last that a keeper does: while it lives, nothing else is to be read.
        if keeper_lives && self.keeper.is_some() && self.child.is_some() {
            return Ok(Status::Running);
        }
        let claim = files::read_json::<Claim>(&keeper::claim_path(&self.dir, self.launch));
        if !keeper_lives {
            // Nobody will write them any more: what cannot be read says nothing.
            self.learn(claim.ok().flatten());
            let exit = files::read_json(&keeper::exit_path(&self.dir, self.launch));
            return Ok(Status::Gone(exit.ok().flatten()));
        }
        // An exit file beside a living keeper is a quick child's, a moment before the keeper is gone too, or a
        // forged one. Only a keeper that left can be asked whether it left in order: taken for gone before, a look
        // at every process of the host would have to answer that.
        self.learn(claim?);
        Ok(if self.child.is_some() {
            Status::Running
        } else {
            Status::Starting
        })
    }

    fn pid(&self) -> Option<u32> {
        self.child.and_then(|pid| u32::try_from(pid).ok())
    }

    fn news(&mut self) -> BoxFuture<'_, News> {
        let (departure, watch) = (&mut self.departure, &mut self.watch);
        async move {
            let change = async {
                match watch {
                    Some(watch) => watch.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = departure.wait() => News::State,
                news = change => news,
            }
        }
        .boxed()
    }

    fn look_every(&self) -> Duration {
        if self.watch.is_some() && self.departure.is_told() {
            LOOK_WHEN_TOLD
        } else {
            LOOK_WHEN_NOT
        }
    }

    fn terminate(&self) {
        if let Some(pid) = self.keeper_pid() {
            let _gone_already = killpg(Pid::from_raw(pid), Signal::SIGTERM);
        }
    }

    fn kill(&self) {
        if let Some(pid) = self.keeper_pid() {
            signal(pid, KILL_REQUEST);
            // One that its child stopped hears nothing.
            signal(pid, Signal::SIGCONT);
        }
    }

    fn kill_session(&self) {
        if let Some(cgroup) = &self.cgroup {
            cgroup::kill(cgroup);
        }
        self.survivors()
            .into_iter()
            .for_each(|pid| signal(pid, Signal::SIGKILL));
    }

    fn is_buried(&mut self) -> bool {
        // A keeper leaves in order when it has buried all; one that was killed may have left anything, and an
        // exit file beside it may be the child's own work.
        self.departure.was_in_order()
    }

    fn is_held_up(&self) -> bool {
        let Some(child) = self.living() else {
            return false;
        };
        if !self.is_caged {
            return inside::is_held_up(child);
        }
        // As of the last question; this one is answered by the next.
        let was_held_up = self.answer().is_some_and(|inside| inside.is_held_up);
        self.ask(LOOK_REQUEST);
        was_held_up
    }

    fn look_inside(&self) -> BoxFuture<'_, Option<Inside>> {
        async {
            let child = self.living()?;
            if !self.is_caged {
                return inside::look(child);
            }
            // An earlier answer would be taken for this one.
            let _not_there = std::fs::remove_file(self.answer_path());
            self.ask(LOOK_REQUEST);
            let answered = async {
                loop {
                    tokio::time::sleep(ANSWER_LOOK).await;
                    if let Some(inside) = self.answer() {
                        return inside;
                    }
                }
            };
            tokio::time::timeout(ANSWER_MAX, answered).await.ok()
        }
        .boxed()
    }

    fn ask_for_stacks(&self) {
        match self.living() {
            Some(_) if self.is_caged => self.ask(STACKS_REQUEST),
            Some(pid) => signal(pid, Signal::SIGUSR2),
            None => {}
        }
    }

    fn survivors(&self) -> Vec<i32> {
        let all = proc::running();
        let mut found: BTreeSet<i32> = self.strays.among(&all).into_iter().collect();
        if let Some(cgroup) = &self.cgroup {
            found.extend(cgroup::processes(cgroup).unwrap_or_default());
        }
        let since = self.keeper.map_or(0, |keeper| keeper.start);
        if let Some(keeper) = self.keeper {
            let own = all
                .iter()
                .filter(|(_, stat)| stat.session == keeper.pid && stat.start >= since);
            found.extend(own.map(|(pid, _)| *pid));
        }
        let mark = strays::mark_of(&self.dir);
        let later = all.iter().filter(|(_, stat)| stat.start >= since);
        found.extend(
            later
                .map(|(pid, _)| *pid)
                .filter(|pid| proc::has_variable(*pid, &mark)),
        );
        let tops: Vec<i32> = found.iter().copied().collect();
        found.extend(proc::below(&tops, &all));
        // This process is below nobody of these, whatever they did.
        found.remove(&Pid::this().as_raw());
        let runs = |pid: &i32| proc::stat(*pid).is_some_and(|stat| !stat.is_zombie);
        found.retain(runs);
        if let Some(cgroup) = &self.cgroup {
            // Of another account's processes the kernel may show nothing but this.
            found.extend(cgroup::processes(cgroup).unwrap_or_default());
        }
        let left: Vec<i32> = found.into_iter().collect();
        if left.is_empty()
            && let Some(cgroup) = &self.cgroup
        {
            cgroup::remove(cgroup);
        }
        left
    }
}

impl Kept {
    /// What runs, as long as its keeper has not buried it.
    fn living(&self) -> Option<i32> {
        self.keeper.filter(|keeper| keeper.is_alive())?;
        self.child
    }

    fn ask(&self, request: Signal) {
        if let Some(keeper) = self.keeper_pid() {
            signal(keeper, request);
        }
    }

    fn answer_path(&self) -> PathBuf {
        keeper::look_path(&self.dir, self.launch)
    }

    /// What the keeper was told last of a child under another account.
    fn answer(&self) -> Option<Inside> {
        files::read_json::<Option<Inside>>(&self.answer_path())
            .ok()
            .flatten()
            .flatten()
    }

    /// What a claim says first stands.
    fn learn(&mut self, claim: Option<Claim>) {
        let Some(claim) = claim else { return };
        self.keeper = self.keeper.or(claim.keeper);
        self.child = self.child.or(claim.child);
    }

    fn keeper_pid(&self) -> Option<i32> {
        match self.keeper {
            Some(keeper) => keeper.is_alive().then_some(keeper.pid),
            None => self.spawned,
        }
    }
}

/// A launch that was claimed.
struct Found {
    launch: u32,
    /// Living or not; None where the claim cannot be read any more.
    keeper: Option<ProcessId>,
    cgroup: Option<PathBuf>,
    is_caged: bool,
}

/// The launch in `dir`; one without a claim is fenced off.
fn find(dir: &Path) -> io::Result<Option<Found>> {
    let next = match newest_claim(dir) {
        Ok(Some((
            launch,
            Claim {
                keeper: Some(keeper),
                cgroup,
                is_caged,
                ..
            },
        ))) => {
            return Ok(Some(Found {
                launch,
                keeper: Some(keeper),
                cgroup,
                is_caged,
            }));
        }
        Ok(Some((launch, Claim { keeper: None, .. }))) => launch + 1,
        Ok(None) => 1,
        // Something was launched, and spoiled its own claim. It is found by its mark, and ended.
        Err(error) => {
            warn!(?dir, %error, "a child's claim cannot be read; it is looked for and ended");
            return Ok(Some(Found {
                launch: 1,
                keeper: None,
                cgroup: None,
                is_caged: false,
            }));
        }
    };
    let fence = Claim {
        keeper: None,
        child: None,
        cgroup: None,
        is_caged: false,
    };
    if keeper::try_claim(dir, next, &fence)? {
        return Ok(None);
    }
    find(dir)
}

pub(crate) fn newest_claim(dir: &Path) -> io::Result<Option<(u32, Claim)>> {
    let mut newest = None;
    for launch in 1.. {
        match files::read_json(&keeper::claim_path(dir, launch))? {
            Some(claim) => newest = Some((launch, claim)),
            None => break,
        }
    }
    Ok(newest)
}
