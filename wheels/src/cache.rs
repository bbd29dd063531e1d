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
            // A relative XDG_CACHE_HOME is to be ignored, says its specification.
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

/// Keeps a second set-up out of a folder for as long as it, or a child that was given a share, lives; the kernel
/// releases it if all of them are killed.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Lock {
    /// A share for a child's stdin: should we be killed, the lock stays until that child is gone
    /// and writes no more.
    pub(crate) fn share(&self) -> Result<Stdio> {
        Ok(self.file.try_clone()?.into())
    }
}

/// Creates the cache folder and takes its lock, waiting for another set-up that holds it.
pub fn lock(cache: &Path) -> Result<Lock> {
    std::fs::create_dir_all(cache).with_context(|| format!("cannot create {}", cache.display()))?;
    let path = cache.join(".setup.lock");
    // The file stays when the lock is given back: removed, it could be locked by two under one name.
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    let start = Instant::now();
    let mut announced = false;
    loop {
        // Tried again and again, for a lock that is waited for has no time limit.
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
                    report::note(&format!(
                        "another set-up is at work in {}; waiting for it",
                        cache.display()
                    ));
                    announced = true;
                }
                std::thread::sleep(LOCK_POLL);
            }
        }
    }
}

/// Refuses early when the disk cannot hold what is about to be fetched.
pub(crate) fn require_space(folder: &Path, needed_bytes: u64) -> Result<()> {
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
            "{} has {} free but {} are needed; free some, or choose a folder on a larger disk (XDG_CACHE_HOME names that of the cache)",
            folder.display(),
            report::megabytes(bytes),
            report::megabytes(needed_bytes)
        ),
        Some(_) | None => Ok(()),
    }
}

/// Bytes of all files below a folder; what vanishes while we look counts as nothing.
pub(crate) fn bytes_below(folder: &Path) -> u64 {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// A folder of this test's own, gone at its end.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("marquee-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _best_effort = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_second_set_up_waits_until_the_first_and_its_downloads_are_gone() {
        let cache = Scratch::new("lock");
        let first = lock(&cache.0.join("not/there/yet")).unwrap();
        let mut download = Command::new("sleep")
            .arg("600")
            .stdin(first.share().unwrap())
            .spawn()
            .unwrap();
        drop(first);
        let (told, tells) = mpsc::channel();
        let folder = cache.0.join("not/there/yet");
        let second = std::thread::spawn(move || {
            let lock = lock(&folder).unwrap();
            told.send(()).unwrap();
            drop(lock);
        });
        // The one that took it is gone, and what it had started still writes.
        let early = tells.recv_timeout(Duration::from_millis(600));
        assert!(early.is_err(), "two at once");
        download.kill().unwrap();
        download.wait().unwrap();
        tells.recv_timeout(Duration::from_secs(60)).unwrap();
        second.join().unwrap();
    }

    #[test]
    fn what_the_disk_cannot_hold_is_refused_with_both_figures_and_the_way_out() {
        let cache = Scratch::new("space");
        require_space(&cache.0, 1).unwrap();
        let refused = require_space(&cache.0, u64::MAX).unwrap_err().to_string();
        for said in ["free but", "are needed", "XDG_CACHE_HOME", "marquee-space"] {
            assert!(refused.contains(said), "{refused}");
        }
        // Where nothing can be asked, the download itself will tell.
        require_space(&cache.0.join("nowhere"), 1).unwrap();
    }

    #[test]
    fn bytes_are_counted_through_folders_and_nothing_is_nothing() {
        let folder = Scratch::new("bytes");
        std::fs::create_dir_all(folder.0.join("a/b")).unwrap();
        std::fs::write(folder.0.join("a/b/c"), [0; 100]).unwrap();
        std::fs::write(folder.0.join("d"), [0; 11]).unwrap();
        assert_eq!(bytes_below(&folder.0), 111);
        assert_eq!(bytes_below(&folder.0.join("nowhere")), 0);
    }
}
