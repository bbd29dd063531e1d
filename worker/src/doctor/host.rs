//! Limits, shared memory, disks and the clock.

use std::path::{Path, PathBuf};

use marquee_domain::doctor::Check;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::sys::statvfs::statvfs;

use super::{ask, bytes};
use crate::cages;
use crate::config::{Caging, Config};
use crate::process::fence;
use crate::rank::walls::Walls;

/// Open files below which a loader with shards, sockets and logs runs out.
const FILES_MIN: u64 = 4_096;
/// Memory to be locked below which NCCL and pinned copies fail on GPU hosts.
const MEMLOCK_MIN_BYTES: u64 = 1 << 30;
/// /dev/shm: below the first NCCL's rings do not fit, below the second large gangs are tight.
const SHM_MIN_BYTES: u64 = 64 << 20;
const SHM_GOOD_BYTES: u64 = 1 << 30;
/// Free disk: below the first a checkpoint of a large model does not fit.
const DISK_MIN_BYTES: u64 = 1 << 30;
const DISK_GOOD_BYTES: u64 = 10 << 30;

/// Looks at all of it.
pub(super) async fn look(config: &Config, has_gpus: bool, checks: &mut Vec<Check>) {
    let (files, files_hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((0, 0));
    checks.push(open_files(files, files_hard));
    let (memlock, _) = getrlimit(Resource::RLIMIT_MEMLOCK).unwrap_or((0, 0));
    checks.push(memory_lock(memlock, has_gpus));
    checks.push(shared_memory(Path::new("/dev/shm")));
    checks.push(disk("data folder", &config.data_dir));
    let cache = config.data_dir.join("cache");
    checks.push(cache_room(&cache, config.cache_max_bytes));
    checks.push(disk("temporary folder", &std::env::temp_dir()));
    checks.push(sandbox(config));
    checks.push(cage(config));
    checks.push(clock().await);
}

/// Whether command jobs are kept from the worker's own files and from other jobs'.
fn sandbox(config: &Config) -> Check {
    let name = "sandbox";
    let home = std::env::var_os("HOME");
    let around = match Walls::of(config, home.as_deref()) {
        Walls::None(why) => {
            let found = format!("command jobs can read and change each other's files: {why}");
            return Check::skipped(name, found);
        }
        Walls::Up(around) => around,
    };
    let Some(version) = fence::version() else {
        return Check::warning(
            name,
            "this kernel has no Landlock: command jobs can read and change each other's files, and the worker's",
            "a kernel of 5.13 or newer with CONFIG_SECURITY_LANDLOCK, and \"landlock\" in lsm= where its command line has that",
        );
    };
    let key = config.tls_key.as_ref();
    let is_hidden = |key: &&PathBuf| around.hidden.iter().any(|hidden| key.starts_with(hidden));
    if let Some(key) = key.filter(|key| !is_hidden(key)) {
        return Check::warning(
            name,
            format!(
                "command jobs can read {}: what lies in /etc cannot be hidden from them",
                key.display()
            ),
            "move the key, such as to /var/lib/marquee/tls, and name it there in [tls]",
        );
    }
    let missing = around.writable.iter().flatten().find(|path| !path.exists());
    if let Some(missing) = missing {
        return Check::warning(
            name,
            format!(
                "writable_paths names {}, which is not there: jobs cannot write to it",
                missing.display()
            ),
            "make it, or take it out of writable_paths",
        );
    }
    let named = |paths: &[PathBuf]| -> String {
        let names: Vec<String> = paths
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        names.join(", ")
    };
    let writable = match around.writable.as_deref() {
        None => "write where the account may".to_owned(),
        Some([]) => "write to their own folders".to_owned(),
        Some(writable) => format!("write to their own folders and to {}", named(writable)),
    };
    let names = match &around.lists_all {
        Some(why) => format!("; they can list the names of all files there: {why}"),
        None => String::new(),
    };
    let found = format!(
        "Landlock {version}: command jobs read nothing of {} but their own, and {writable}{names}",
        named(&around.hidden)
    );
    Check::ok(name, found)
}

/// Under whose account jobs run. Asked by whoever looks, who need not be the worker's account.
fn cage(config: &Config) -> Check {
    let name = "cage";
    let own = "jobs run under this worker's account";
    if config.cage == Caging::Off {
        return Check::skipped(name, format!("{own}: cage is \"off\""));
    }
    let Err(why) = cages::accounts(config) else {
        let whose = match config.cage {
            Caging::Commands => "command jobs",
            Caging::Auto | Caging::On | Caging::Off => "jobs",
        };
        let found = format!(
            "each project's {whose} run under an account of their own, where the worker runs as its unit says"
        );
        return match cages::closed_to_others(&config.bin_dir) {
            Some(closed) if config.cage != Caging::Commands => Check::failed(
                name,
                format!("but for command jobs, none will start: {closed}"),
                "open the folder and the programs to everybody (chmod o+rx), or set bin_dir",
            ),
            Some(_) | None => Check::ok(name, found),
        };
    };
    let cure = "the package or install.sh brings all that it takes; then \"systemctl enable --now marquee-cage.socket\" and restart marquee-worker";
    match config.cage {
        Caging::On => Check::failed(name, format!("the worker will not start: {why}"), cure),
        Caging::Auto | Caging::Commands | Caging::Off => {
            Check::skipped(name, format!("{own}: {why}"))
        }
    }
}

/// The limits are this process's own: those of a service stand in its unit.
const THIS_SHELL: &str = "here; the service has what its unit says";

fn open_files(soft: u64, hard: u64) -> Check {
    if soft >= FILES_MIN {
        return Check::ok("open files", format!("{} {THIS_SHELL}", limit(soft)));
    }
    Check::warning(
        "open files",
        format!("{soft} {THIS_SHELL} (at most {})", limit(hard)),
        "\"LimitNOFILE=524288\" in marquee-worker.service; in a shell \"ulimit -n 65536\"",
    )
}

fn memory_lock(bytes_allowed: u64, has_gpus: bool) -> Check {
    let found = if bytes_allowed == RLIM_INFINITY {
        "unlimited".to_owned()
    } else {
        bytes(bytes_allowed)
    };
    if bytes_allowed >= MEMLOCK_MIN_BYTES {
        return Check::ok("locked memory", format!("{found} {THIS_SHELL}"));
    }
    if !has_gpus {
        return Check::skipped("locked memory", format!("{found}; only GPUs need more"));
    }
    Check::warning(
        "locked memory",
        format!("{found} {THIS_SHELL}: pinned copies and NCCL need more"),
        "\"LimitMEMLOCK=infinity\" in marquee-worker.service; in a shell \"ulimit -l unlimited\"",
    )
}

fn limit(value: u64) -> String {
    if value == RLIM_INFINITY {
        "unlimited".into()
    } else {
        value.to_string()
    }
}

fn shared_memory(path: &Path) -> Check {
    let name = "shared memory";
    let Ok(found) = statvfs(path) else {
        let found = format!("{} is not there", path.display());
        let cure = format!("mount -t tmpfs -o size=2G tmpfs {}", path.display());
        return Check::failed(name, found, cure);
    };
    let size = found.blocks() * found.fragment_size();
    let free = found.blocks_available() * found.fragment_size();
    let text = format!("{}: {}, {} free", path.display(), bytes(size), bytes(free));
    let cure = format!("mount -o remount,size=2G {}", path.display());
    if size < SHM_MIN_BYTES || free < SHM_MIN_BYTES {
        Check::failed(
            name,
            format!("{text}: ranks of one host cannot share memory"),
            cure,
        )
    } else if size < SHM_GOOD_BYTES {
        Check::warning(name, format!("{text}: little for many ranks"), cure)
    } else {
        Check::ok(name, text)
    }
}

/// The nearest folder above that is there: a data folder is made at the first start.
fn existing(path: &Path) -> PathBuf {
    let found = path.ancestors().find(|folder| folder.is_dir());
    found.unwrap_or(Path::new("/")).to_owned()
}

fn free_bytes(path: &Path) -> Option<u64> {
    let found = statvfs(&existing(path)).ok()?;
    // Not `blocks_free`: what the file system keeps for root is no room for the worker.
    Some(found.blocks_available() * found.fragment_size())
}

fn disk(name: &'static str, path: &Path) -> Check {
    let shown = path.display();
    let folder = existing(path);
    if nix::unistd::access(&folder, nix::unistd::AccessFlags::W_OK).is_err() {
        let found = format!("{} cannot be written by this user", folder.display());
        let cure = format!("run this as the worker's user, or \"chown marquee-worker: {shown}\"");
        return Check::failed(name, found, cure);
    }
    let Some(free) = free_bytes(path) else {
        return Check::skipped(name, format!("the room in {shown} cannot be told"));
    };
    let found = format!("{shown}: {} free", bytes(free));
    let cure = format!(
        "make room (\"du -xh --max-depth=2 {}\"), or move it",
        folder.display()
    );
    if free < DISK_MIN_BYTES {
        Check::failed(name, found, cure)
    } else if free < DISK_GOOD_BYTES {
        Check::warning(name, found, cure)
    } else {
        Check::ok(name, found)
    }
}

/// Whether the cache can grow to its limit without filling the disk.
fn cache_room(path: &Path, most: u64) -> Check {
    let name = "artifact cache";
    let Some(free) = free_bytes(path) else {
        return Check::skipped(
            name,
            format!("the room in {} cannot be told", path.display()),
        );
    };
    let used = used_bytes(path);
    let found = format!(
        "{} of {} used, {} free",
        bytes(used),
        bytes(most),
        bytes(free)
    );
    if used + free >= most {
        return Check::ok(name, found);
    }
    Check::warning(
        name,
        format!("{found}: the disk is full before the cache has its size"),
        format!("cache_max_bytes = {} in worker.toml", (used + free) / 2),
    )
}

/// Bytes of all files below a folder; what cannot be read counts as none.
fn used_bytes(path: &Path) -> u64 {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    // An entry's metadata are its own, not those of what a link leads to: a loop of links has no
    // end.
    let of = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => used_bytes(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    };
    entries.map(of).sum()
}

/// Whether the kernel's clock is kept in step with others, as systemd tells it.
async fn clock() -> Check {
    let arguments = ["show", "--property=NTPSynchronized", "--value"];
    let answer = ask(Path::new("timedatectl"), &arguments).await;
    let answer = answer.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    match answer.as_deref() {
        Ok("yes") => Check::ok("clock", "synchronised"),
        Ok("no") => Check::warning(
            "clock",
            "not synchronised: times of logs and metrics drift apart between hosts",
            "\"timedatectl set-ntp true\", or install chrony",
        ),
        Ok(_) | Err(_) => Check::skipped(
            "clock",
            "timedatectl does not tell whether it is synchronised",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use marquee_domain::doctor::Verdict;

    #[test]
    fn limits_are_judged_by_what_runs_here() {
        assert_eq!(open_files(1_024, 4_096).verdict, Verdict::Warning);
        assert_eq!(
            open_files(RLIM_INFINITY, RLIM_INFINITY).verdict,
            Verdict::Ok
        );
        assert_eq!(memory_lock(8 << 20, false).verdict, Verdict::Skipped);
        assert_eq!(memory_lock(8 << 20, true).verdict, Verdict::Warning);
        assert_eq!(memory_lock(RLIM_INFINITY, true).verdict, Verdict::Ok);
    }

    #[test]
    fn a_folder_that_is_not_made_yet_is_judged_by_the_one_above() {
        let dir = tempfile::tempdir().unwrap();
        let check = disk("data folder", &dir.path().join("a/b/c"));
        assert_ne!(check.verdict, Verdict::Skipped, "{check:?}");
        let missing = shared_memory(&dir.path().join("shm"));
        assert_eq!(missing.verdict, Verdict::Failed);
        std::fs::write(dir.path().join("file"), [0; 1000]).unwrap();
        assert_eq!(used_bytes(dir.path()), 1000);
        assert_eq!(
            cache_room(dir.path(), u64::MAX / 2).verdict,
            Verdict::Warning
        );
    }
}
