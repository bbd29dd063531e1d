//! Files of an artifact, from the coordinator to a folder.
//!
//! Invariant: a file under its own name is complete and has its digest; what is on the way has
//! another name. After a broken connection the download continues at the byte where it stopped.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use marquee_domain::artifact::{Digest, FileEntry, Manifest};
use marquee_proto::v1;
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;
use tokio::time::sleep;
use tonic::Status;

use crate::client::Remote;
use crate::error::Result;

/// How often one file is tried without receiving a single new byte.
const TRIES_MAX: u32 = 10;
/// Pause between two tries.
const PAUSE: Duration = Duration::from_millis(500);
/// Bytes of a file that is read into memory: the figures of a report have some hundred kilobytes.
const CONTENTS_MAX_BYTES: u64 = 64 * 1024 * 1024;

/// Writes what the manifest of a job's artifact lists under `folder` and returns the files' paths, in the same order.
pub(crate) async fn files(
    remote: &Remote,
    job: i64,
    wire: v1::Manifest,
    folder: &Path,
) -> Result<Vec<PathBuf>> {
    // The conversion refuses paths that leave the folder, whoever sent them.
    let manifest = Manifest::try_from(wire).context("the coordinator sent a wrong manifest")?;
    let mut written = Vec::with_capacity(manifest.files.len());
    for file in &manifest.files {
        let path = folder.join(&file.path);
        let parent = path.parent().unwrap_or(folder);
        fs::create_dir_all(parent)
            .with_context(|| format!("cannot make the folder {}", parent.display()))?;
        let executable = manifest.is_executable(&file.path);
        one(remote, job, file, executable, &path).await?;
        written.push(path);
    }
    // A program may look for a folder that it made and left empty: files alone would not bring it
    // back.
    for empty in &manifest.empty_folders {
        let path = folder.join(empty);
        fs::create_dir_all(&path)
            .with_context(|| format!("cannot make the folder {}", path.display()))?;
    }
    Ok(written)
}

/// One file's contents, in memory: for the small ones that the CLI reads itself.
pub(crate) async fn contents(remote: &Remote, job: i64, digest: &Digest) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = Wanted {
        job,
        digest,
        size: None,
    };
    receive(remote, file, &mut |chunk| {
        within((bytes.len() + chunk.len()) as u64, CONTENTS_MAX_BYTES)?;
        bytes.extend_from_slice(chunk);
        Ok(())
    })
    .await?;
    Ok(bytes)
}

/// Whether so many bytes are no more than were announced.
fn within(bytes: u64, max: u64) -> std::io::Result<()> {
    if bytes <= max {
        return Ok(());
    }
    let text = format!("more than its {max} bytes came; is that the coordinator?");
    Err(std::io::Error::other(text))
}

async fn one(
    remote: &Remote,
    job: i64,
    file: &FileEntry,
    executable: bool,
    path: &Path,
) -> Result<()> {
    let wanted = Wanted {
        job,
        digest: &file.digest,
        size: Some(file.size_bytes),
    };
    let write = || format!("cannot write {}", path.display());
    let aside = aside(remote, wanted, path, &AtomicU64::new(0)).await?;
    // Renamed last: under its own name a file is whole, whenever this process was killed.
    let file: File = aside
        .persist(path)
        .map_err(|error| error.error)
        .with_context(write)?;
    make_readable(&file, executable).with_context(write)?;
    Ok(())
}

/// A file of whatever artifact by its digest, for whoever may look at all projects; on the disk when this is done, and for
/// its owner alone. `size`: where it is known. What comes is counted as it comes.
pub(crate) async fn blob(
    remote: &Remote,
    (digest, size): (&Digest, Option<u64>),
    path: &Path,
    received: &AtomicU64,
) -> Result<()> {
    let wanted = Wanted {
        job: 0,
        digest,
        size,
    };
    let aside = aside(remote, wanted, path, received).await?;
    let write = || format!("cannot write {}", path.display());
    aside.as_file().sync_all().with_context(write)?;
    aside
        .persist(path)
        .map_err(|error| error.error)
        .with_context(write)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .with_context(write)?;
    Ok(())
}

/// All of a file beside its place, as its digest says.
async fn aside(
    remote: &Remote,
    wanted: Wanted<'_>,
    path: &Path,
    received: &AtomicU64,
) -> Result<NamedTempFile> {
    let (digest, size) = (wanted.digest, wanted.size);
    let folder = path.parent().unwrap_or(Path::new("."));
    // In the same folder: a rename cannot cross file systems.
    let mut aside = tempfile::Builder::new()
        .prefix(".marquee-")
        .suffix(".part")
        .tempfile_in(folder)
        .with_context(|| format!("cannot write {}", path.display()))?;
    let mut hash = Sha256::new();
    let mut length = 0;
    receive(remote, wanted, &mut |chunk| {
        length += chunk.len() as u64;
        // At once, and not at an end that may never come: the disk is others' too.
        within(length, size.unwrap_or(u64::MAX))?;
        hash.update(chunk);
        received.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        aside.write_all(chunk)
    })
    .await?;
    if size.is_some_and(|size| size != length) || Digest::from_hash(&hash.finalize()) != *digest {
        let announced = size.map_or("an unknown number".to_owned(), |size| size.to_string());
        return Err(anyhow!(
            "{} arrived damaged: {length} of {announced} bytes, and not with digest {digest}; fetch it \
             again, and look at the coordinator's disk if this stays",
            path.display()
        )
        .into());
    }
    Ok(aside)
}

/// Gives a fetched file the mode that the user's other new files have: a temporary file is for its
/// owner alone.
fn make_readable(file: &File, executable: bool) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    // The kernel tells the mask only to somebody who sets another.
    let mask = nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    nix::sys::stat::umask(mask);
    let all = if executable { 0o777 } else { 0o666 };
    file.set_permissions(fs::Permissions::from_mode(all & !mask.bits()))
}

/// A file that is asked for.
#[derive(Debug, Clone, Copy)]
struct Wanted<'a> {
    /// The job whose artifact it is of.
    job: i64,
    digest: &'a Digest,
    /// What its manifest says, where one does.
    size: Option<u64>,
}

/// Passes a blob to `take` chunk by chunk; after a broken connection it continues at the same byte.
async fn receive(
    remote: &Remote,
    wanted: Wanted<'_>,
    take: &mut impl FnMut(&[u8]) -> std::io::Result<()>,
) -> Result<()> {
    let mut offset = 0;
    let mut tries = 0;
    loop {
        let before = offset;
        let status = match stream(remote, wanted, &mut offset, take).await? {
            Ok(()) => return Ok(()),
            Err(status) => status,
        };
        // Whatever comes is progress: a line that breaks every minute still gets a large file there in the end.
        tries = if offset > before { 0 } else { tries + 1 };
        if !remote.may_pass(&status) || tries >= TRIES_MAX {
            return Err(remote.error(&status, tries.max(1), PAUSE * tries));
        }
        sleep(PAUSE).await;
    }
}

async fn stream(
    remote: &Remote,
    wanted: Wanted<'_>,
    offset: &mut u64,
    take: &mut impl FnMut(&[u8]) -> std::io::Result<()>,
) -> Result<Result<(), Status>> {
    let request = v1::DownloadBlobRequest {
        digest: wanted.digest.to_string(),
        offset: *offset,
        size_bytes: wanted.size,
        job_id: wanted.job,
    };
    let mut chunks = match remote.artifacts().download_blob(request).await {
        Ok(response) => response.into_inner(),
        Err(status) => return Ok(Err(status)),
    };
    loop {
        match chunks.message().await {
            Ok(Some(part)) => {
                take(&part.chunk).context("cannot take what arrived")?;
                *offset += part.chunk.len() as u64;
            }
            Ok(None) => return Ok(Ok(())),
            Err(status) => return Ok(Err(status)),
        }
    }
}
