//! What the kernel shows in `/proc`, through the crate `procfs`: the only place of this crate that
//! reads there.

use std::collections::BTreeMap;
use std::io;

use procfs::process::{ProcState, all_processes};
use procfs::{Current as _, FromRead as _};

/// What `/proc/<pid>/stat` says, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) parent: i32,
    pub(crate) session: i32,
    /// Clock ticks since boot.
    pub(crate) start: u64,
    /// It ended, and is listed until its parent takes notice. It holds no device and no memory.
    pub(crate) is_zombie: bool,
    /// A signal holds it up until another one lets it go on.
    pub(crate) is_stopped: bool,
}

impl From<procfs::process::Stat> for Stat {
    fn from(stat: procfs::process::Stat) -> Self {
        let is_zombie = matches!(stat.state(), Ok(ProcState::Zombie | ProcState::Dead));
        let is_stopped = matches!(stat.state(), Ok(ProcState::Stopped | ProcState::Tracing));
        Self {
            parent: stat.ppid,
            session: stat.session,
            start: stat.starttime,
            is_zombie,
            is_stopped,
        }
    }
}

/// One process; None where there is none. Opens one file, since it is asked often.
pub(crate) fn stat(pid: i32) -> Option<Stat> {
    let stat = procfs::process::Stat::from_file(format!("/proc/{pid}/stat"));
    stat.ok().map(Stat::from)
}

/// Every process that runs.
pub(crate) fn running() -> Vec<(i32, Stat)> {
    let Ok(all) = all_processes() else {
        return Vec::new();
    };
    // One that ends while the list is read is not in it.
    all.flatten()
        .filter_map(|process| Some((process.pid, Stat::from(process.stat().ok()?))))
        .filter(|(_, stat)| !stat.is_zombie)
        .collect()
}

/// All processes below one of `tops`, without these themselves.
pub(crate) fn below(tops: &[i32], all: &[(i32, Stat)]) -> Vec<i32> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for (pid, stat) in all {
        children.entry(stat.parent).or_default().push(*pid);
    }
    let mut family = tops.to_vec();
    let mut next = 0;
    // A list and not a function that calls itself: how deep processes lie is for the job to say.
    while let Some(parent) = family.get(next) {
        family.extend(children.remove(parent).unwrap_or_default());
        next += 1;
    }
    family.split_off(tops.len())
}

/// The children of this process, those that have ended and wait for its notice among them. None where the
/// kernel does not say.
pub(crate) fn own_children() -> Option<Vec<i32>> {
    let mut children = Vec::new();
    for task in std::fs::read_dir("/proc/self/task").ok()?.flatten() {
        let text = std::fs::read_to_string(task.path().join("children")).ok()?;
        children.extend(
            text.split_whitespace()
                .filter_map(|pid| pid.parse::<i32>().ok()),
        );
    }
    Some(children)
}

/// One thread of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Thread {
    pub(crate) id: i32,
    pub(crate) name: String,
    /// As the kernel writes it: R, S, D, T, ...
    pub(crate) state: char,
    /// The kernel's function that it waits in. None where it runs, or the kernel does not say.
    pub(crate) wchan: Option<String>,
    /// Its stack in the kernel, the innermost function first. Empty where only root may see it.
    pub(crate) stack: Vec<String>,
}

/// The threads of a process, the main one first. None are left of one that is gone.
pub(crate) fn threads(pid: i32) -> Vec<Thread> {
    let folder = format!("/proc/{pid}/task");
    let ids = std::fs::read_dir(&folder).into_iter().flatten().flatten();
    let mut ids: Vec<i32> = ids
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    ids.sort_by_key(|id| (*id != pid, *id));
    let thread = |id: i32| {
        let read = |name: &str| std::fs::read_to_string(format!("{folder}/{id}/{name}")).ok();
        let stat = read("stat")?;
        // The name stands in brackets and may hold any character.
        let state = stat[stat.rfind(')')? + 1..].trim_start().chars().next()?;
        let wchan = read("wchan").unwrap_or_default();
        let wchan = wchan.trim();
        let stack = read("stack").unwrap_or_default();
        Some(Thread {
            id,
            name: read("comm")?.trim_end().to_owned(),
            state,
            wchan: (!wchan.is_empty() && wchan != "0").then(|| wchan.to_owned()),
            stack: stack.lines().map(frame).collect(),
        })
    };
    ids.into_iter().filter_map(thread).collect()
}

/// `[<0>] futex_wait_queue+0x60/0x90` without the address, which the kernel hides.
fn frame(line: &str) -> String {
    let text = line.trim();
    let name = text.split_once("] ").map_or(text, |(_, name)| name);
    name.to_owned()
}

/// The name of a process's program; empty where it is gone.
pub(crate) fn command(pid: i32) -> String {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
    name.unwrap_or_default().trim_end().to_owned()
}

/// All processes below one, zombies left out, by the kernel's lists of children: cheaper than a look at all
/// processes of the host. Where there are no such lists, that is what it takes.
pub(crate) fn family(top: i32) -> Vec<i32> {
    let children = |pid: i32| -> Option<Vec<i32>> {
        let mut found = Vec::new();
        for task in std::fs::read_dir(format!("/proc/{pid}/task"))
            .ok()?
            .flatten()
        {
            let text = std::fs::read_to_string(task.path().join("children")).ok()?;
            found.extend(
                text.split_whitespace()
                    .filter_map(|pid| pid.parse::<i32>().ok()),
            );
        }
        Some(found)
    };
    let Some(first) = children(top) else {
        return below(&[top], &running());
    };
    let mut family = first;
    let mut next = 0;
    while let Some(pid) = family.get(next).copied() {
        family.extend(children(pid).unwrap_or_default());
        next += 1;
    }
    family.retain(|pid| stat(*pid).is_some_and(|stat| !stat.is_zombie));
    family
}

/// Whether a process was started with this among its environment (`NAME=value`). False where the process
/// cannot be asked.
pub(crate) fn has_variable(pid: i32, variable: &[u8]) -> bool {
    std::fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|all| all.split(|byte| *byte == 0).any(|one| one == variable))
}

/// How often the kernel's out-of-memory killer has struck on this host since it was booted.
pub(crate) fn oom_kills() -> u64 {
    // One of some two hundred counters, asked for each child: the others need not be read as numbers.
    let all = std::fs::read_to_string("/proc/vmstat").unwrap_or_default();
    let count = all.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count
        .and_then(|count| count.trim().parse().ok())
        .unwrap_or(0)
}

/// The host's memory.
pub(crate) fn memory_bytes() -> u64 {
    procfs::Meminfo::current().map_or(0, |memory| memory.mem_total)
}

/// The cgroups of this process: their controllers (none in version 2) and their path.
pub(crate) fn own_cgroups() -> Vec<(Vec<String>, String)> {
    let groups = procfs::process::Process::myself().and_then(|own| own.cgroups());
    let groups = groups.map_or_else(|_| Vec::new(), |groups| groups.0);
    groups
        .into_iter()
        .map(|group| (group.controllers, group.pathname))
        .collect()
}

/// For how long the kernel has run; None: it does not say.
pub(crate) fn uptime() -> Option<std::time::Duration> {
    use procfs::Current as _;
    let uptime = procfs::Uptime::current().ok()?;
    std::time::Duration::try_from_secs_f64(uptime.uptime).ok()
}

/// The kernel's boot id: when it changed, no process of the old boot lives.
pub(crate) fn boot_id() -> io::Result<String> {
    procfs::sys::kernel::random::boot_id().map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_listed_with_its_parent_until_it_ends() {
        let mut child = std::process::Command::new("sleep")
            .arg("100")
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        let listed = || running().into_iter().find(|(found, _)| *found == pid);
        let (_, stat) = listed().unwrap();
        assert_eq!((stat.parent, stat.is_zombie), (own, false));
        child.kill().unwrap();
        while !super::stat(pid).unwrap().is_zombie {
            std::thread::yield_now();
        }
        assert!(listed().is_none(), "a zombie does not run");
        child.wait().unwrap();
        assert_eq!(super::stat(pid), None);
    }

    #[test]
    fn a_family_is_told_from_its_neighbours() {
        let of = |pid, parent| {
            let stat = Stat {
                parent,
                session: 1,
                start: 1,
                is_zombie: false,
                is_stopped: false,
            };
            (pid, stat)
        };
        let all = [of(2, 1), of(3, 2), of(4, 3), of(5, 1), of(6, 5), of(7, 99)];
        assert_eq!(below(&[2], &all), [3, 4]);
        assert_eq!(below(&[2, 99], &all), [3, 7, 4]);
        // A parent of itself, as nobody is, ends nothing.
        assert_eq!(below(&[8], &[of(8, 8)]), [8]);
    }

    #[test]
    fn an_environment_is_looked_into_and_own_children_are_known() {
        let mut child = std::process::Command::new("sleep")
            .arg("100")
            .env("MARQUEE_TEST_MARK", "x")
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        // For a moment after exec a process has no environment yet.
        while !has_variable(pid, b"MARQUEE_TEST_MARK=x") {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert!(!has_variable(pid, b"MARQUEE_TEST_MARK="));
        if let Some(children) = own_children() {
            assert!(children.contains(&pid));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn this_host_has_memory_and_a_boot_id() {
        assert!(memory_bytes() > 64 * 1024 * 1024);
        assert_eq!(boot_id().unwrap().trim().len(), 36);
    }
}
