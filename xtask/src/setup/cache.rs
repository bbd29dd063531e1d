//! The user's cache folder: its place, its lock, its free space.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{process, report};

/// How long to wait for another set-up: a slow line takes half an hour for the largest wheel.
const LOCK_LIMIT: Duration = Duration::from_secs(45 * 60);
const LOCK_POLL: Duration = Duration::from_millis(200);

/// `$XDG_CACHE_HOME/marquee` or `~/.cache/marquee`; not created here.
pub fn folder() -> Result<PathBuf> {
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    match (absolute("XDG_CACHE_HOME"), absolute("HOME")) {
        (Some(cache), _) => Ok(cache.join("marquee")),
        (None, Some(home)) => Ok(home.join(".cache/marquee")),
        (None, None) => {
            bail!("neither XDG_CACHE_HOME nor HOME is set; set one of them, or LIBTORCH")
        }
    }
}

/// Keeps a second set-up out for as long as it, or a child that was given a share, lives; the kernel
/// releases it if all of them are killed.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
}

impl Lock {
    /// A share for a child's stdin: should we be killed, the lock stays until that child is gone
    /// and writes no more.
    pub(super) fn share(&self) -> Result<Stdio> {
        Ok(self.file.try_clone()?.into())
    }
}

/// Creates the cache folder and takes its lock, waiting for another set-up that holds it.
pub(super) fn lock(cache: &Path) -> Result<Lock> {
    std::fs::create_dir_all(cache).with_context(|| format!("cannot create {}", cache.display()))?;
    let path = cache.join(".setup.lock");
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    let start = Instant::now();
    let mut announced = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Lock { file }),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
            Err(TryLockError::WouldBlock) if start.elapsed() > LOCK_LIMIT => bail!(
                "another set-up has held {} for {}; end it (fuser {} names it) and try again",
                path.display(),
                report::duration(LOCK_LIMIT),
                path.display()
            ),
            Err(TryLockError::WouldBlock) => {
                if !announced {
                    report::note("another set-up is at work in the cache folder; waiting for it");
                    announced = true;
                }
                std::thread::sleep(LOCK_POLL);
            }
        }
    }
}

/// Refuses early when the disk cannot hold what is about to be fetched.
pub(super) fn require_space(folder: &Path, needed_bytes: u64) -> Result<()> {
    let mut df = Command::new("df");
    df.args(["--output=avail", "--block-size=1"]).arg(folder);
    // Without a df that knows these options the download itself will tell.
    let Ok(text) = process::read(&mut df) else {
        return Ok(());
    };
    let available = text
        .lines()
        .last()
        .and_then(|line| line.trim().parse::<u64>().ok());
    match available {
        Some(bytes) if bytes < needed_bytes => bail!(
            "{} has {} free but {} are needed; free some, or set XDG_CACHE_HOME to a folder on a larger disk",
            folder.display(),
            report::megabytes(bytes),
            report::megabytes(needed_bytes)
        ),
        Some(_) | None => Ok(()),
    }
}

/// Bytes of all files below a folder; what vanishes while we look counts as nothing.
pub(super) fn bytes_below(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => bytes_below(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}
