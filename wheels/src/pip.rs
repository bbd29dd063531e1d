//! pip as a downloader that verifies, and Python's zipfile as the unpacker.
//!
//! pip is asked for because it knows the user's index, mirror, proxy and certificates, and refuses
//! what does not have the pinned hash. Where pip runs there is a Python, whose zip reader saves this
//! crate a dependency.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cache::{self, Lock};
use crate::pins::{PYTHON_ABI, PYTHON_VERSION, Wheel};
use crate::process;
use crate::report::Progress;

const UNPACK: &str = include_str!("unpack.py");

/// How often the bytes on disk are counted.
const POLL: Duration = Duration::from_millis(100);

/// How much of pip's output an error shows.
const LOG_TAIL_LINES: usize = 15;

/// Where wheels come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source<'a> {
    /// The package index that pip knows.
    Index,
    /// A folder that holds them, for hosts without a way to an index.
    Folder(&'a Path),
}

/// Fetches one wheel below `folder` and returns its path; pip has verified its hash.
pub(crate) fn download(
    wheel: &Wheel,
    source: Source<'_>,
    folder: &Path,
    lock: &Lock,
) -> Result<PathBuf> {
    let requirements = folder.join("requirements.txt");
    fs::write(&requirements, requirement(wheel))?;
    let scratch = folder.join("scratch");
    let arrived = folder.join("arrived");
    let log_path = folder.join("pip.log");
    let log = File::create(&log_path)?;
    for path in [&scratch, &arrived] {
        fs::create_dir_all(path)?;
    }

    let mut command = Command::new("python3");
    command
        .args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:"])
        // No cache: pip would keep a second copy of half a gigabyte that nobody uses again.
        .args(["--require-hashes", "--no-cache-dir", "--no-input"])
        .args(["--disable-pip-version-check", "--progress-bar=off"])
        // The wheel's Python and not the user's: nothing in it is run, so that any Python may fetch it.
        .args(["--implementation=cp", "--platform", wheel.platform])
        .args(["--python-version", PYTHON_VERSION, "--abi", PYTHON_ABI]);
    if let Source::Folder(wheels) = source {
        command.arg("--no-index").arg("--find-links").arg(wheels);
    }
    command
        .arg("--dest")
        .arg(&arrived)
        .arg("--requirement")
        .arg(&requirements)
        // pip downloads into TMPDIR first: /tmp may be too small for it, and here it can be watched.
        .env("TMPDIR", &scratch)
        // So the lock outlives this process, should it be killed while pip still writes.
        .stdin(lock.share()?)
        .stdout(log.try_clone()?)
        .stderr(log);
    let child = command.spawn().context("cannot start python3 -m pip")?;
    let status = watch(child, wheel, || {
        cache::bytes_below(&scratch) + cache::bytes_below(&arrived)
    })?;
    if !status.success() {
        bail!(
            "pip could not fetch {} {} ({status}); it says:\n{}",
            wheel.package,
            wheel.version,
            tail(&fs::read_to_string(&log_path).unwrap_or_default())
        );
    }
    only_file(&arrived)
}

/// Shows progress until pip ends.
fn watch(mut child: Child, wheel: &Wheel, bytes: impl Fn() -> u64) -> Result<ExitStatus> {
    let mut progress = Progress::new(wheel.package, wheel.bytes);
    loop {
        if let Some(status) = child.try_wait()? {
            progress.finish();
            return Ok(status);
        }
        progress.show(bytes());
        std::thread::sleep(POLL);
    }
}

/// Copies the kept members of a wheel to `folder`; returns the stamp's lines for its libraries.
pub(crate) fn unpack(wheel: &Wheel, archive: &Path, folder: &Path) -> Result<String> {
    process::read(
        Command::new("python3")
            .args(["-c", UNPACK])
            .arg(archive)
            .arg(folder)
            .args(wheel.keep),
    )
    .with_context(|| format!("cannot unpack {}", archive.display()))
}

fn requirement(wheel: &Wheel) -> String {
    let Wheel {
        package,
        version,
        sha256,
        ..
    } = wheel;
    format!("{package}=={version} --hash=sha256:{sha256}\n")
}

fn only_file(folder: &Path) -> Result<PathBuf> {
    let files: Vec<_> = fs::read_dir(folder)?.collect::<Result<_, _>>()?;
    match files.as_slice() {
        [file] => Ok(file.path()),
        _ => bail!(
            "pip left {} files in {}, not one",
            files.len(),
            folder.display()
        ),
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pins::LIBTORCH;

    #[test]
    fn pip_is_given_one_version_and_one_hash() {
        let wheel = &LIBTORCH.wheels[0];
        let line = requirement(wheel);
        assert_eq!(
            line,
            format!("torch=={} --hash=sha256:{}\n", wheel.version, wheel.sha256)
        );
        assert_eq!(line.lines().count(), 1);
    }

    #[test]
    fn the_end_of_a_long_log_is_shown_and_a_short_one_whole() {
        let long: String = (1..=40).map(|n| format!("line {n}\n")).collect();
        let shown = tail(&long);
        assert_eq!(shown.lines().count(), LOG_TAIL_LINES);
        assert!(
            shown.starts_with("line 26") && shown.ends_with("line 40"),
            "{shown}"
        );
        assert_eq!(tail("one\n\n"), "one");
        assert_eq!(tail(""), "");
    }

    #[test]
    fn a_download_that_left_none_or_several_files_is_no_download() {
        let folder = std::env::temp_dir().join(format!("marquee-pip-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let none = only_file(&folder).unwrap_err().to_string();
        assert!(none.contains("0 files"), "{none}");
        fs::write(folder.join("a.whl"), "").unwrap();
        assert_eq!(only_file(&folder).unwrap(), folder.join("a.whl"));
        fs::write(folder.join("b.whl"), "").unwrap();
        assert!(only_file(&folder).is_err());
        fs::remove_dir_all(&folder).unwrap();
    }
}
