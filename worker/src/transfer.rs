//! Files to and from the coordinator, by digest.
//!
//! While the coordinator is away a transfer waits and goes on where it was; everything else ends
//! it. What arrives is verified before anyone sees it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use marquee_domain::artifact::{Digest, FileEntry, InvalidManifest, Manifest};
use marquee_domain::backoff::Backoff;
use marquee_domain::env::Random;
use marquee_domain::limits::{CHUNK_BYTES, MESSAGE_MAX_BYTES};
use marquee_proto::v1::artifacts_client::ArtifactsClient;
use marquee_proto::v1::{self, DownloadBlobRequest, FindMissingBlobsRequest, UploadBlobHeader};
use prost::Message as _;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tracing::{debug, warn};

use crate::blocking;
use crate::connect;
use crate::coordinators::Coordinators;
use crate::files;

mod send;
mod tree;

pub use tree::{Problems, digest_tree};

/// Files in flight at once: enough to hide a round trip, few enough not to thrash a disk.
const CONCURRENT_FILES: usize = 4;
/// A stream that moves nothing for this long is broken, whatever the connection says.
const STALL: Duration = Duration::from_secs(30);
/// Times a file may arrive damaged before it counts as damaged at its source.
const DAMAGED_MAX: u32 = 3;
/// Digests in one question of what the coordinator lacks.
const DIGESTS_PER_QUESTION: usize = 10_000;
/// Waits for a coordinator whose disk is full: each try costs it a look at the disk, and people who make room
/// are not that quick.
const ROOM_RETRY_FIRST: Duration = Duration::from_secs(1);
const ROOM_RETRY_CEILING: Duration = Duration::from_secs(30);
/// Of a file of so many bytes it is asked, before each try, how much of it is there already.
const ASK_FROM_BYTES: u64 = 16 * 1024 * 1024;
/// Chunks of an upload that wait to be sent.
const CHUNKS_AHEAD: usize = 4;

/// The coordinator's files.
#[derive(Debug, Clone)]
pub struct Transfers {
    coordinators: Coordinators,
    random: Arc<dyn Random>,
}

/// Why files did not get through.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    #[error(
        "file {path:?} (blob {digest}) arrived damaged {DAMAGED_MAX} times; the coordinator's copy is broken, run the job that made it again"
    )]
    Damaged { path: String, digest: Digest },
    #[error("the coordinator refused {what}: {message}", message = .status.message())]
    Refused { what: String, status: Status },
    #[error("{path:?}: {source}")]
    Disk { path: PathBuf, source: io::Error },
    #[error("{0}")]
    Unstorable(Problems),
    #[error("the coordinator's disk is full: {0}")]
    NoRoom(String),
    #[error(transparent)]
    Manifest(#[from] InvalidManifest),
    #[error("the list of the artifact's {count} files takes {bytes} bytes, and {max} is the limit; pack them into shards", max = MANIFEST_MAX_BYTES)]
    TooLong { count: usize, bytes: usize },
}

/// What to do while the coordinator has no room for a file.
#[derive(Debug, Clone, Copy)]
pub enum NoRoom<'a> {
    /// Wait and try again, as while it is away; it is said here why.
    Wait(&'a watch::Sender<Option<String>>),
    /// Give up: something newer comes, or somebody waits for the answer.
    Fail,
}

/// A manifest travels in one message, with room for what stands around it.
const MANIFEST_MAX_BYTES: usize = MESSAGE_MAX_BYTES - 64 * 1024;

/// One try that did not succeed.
enum Failed {
    /// Worth another try when the coordinator is back.
    Away(Status),
    /// Worth another try when somebody has made room.
    NoRoom(Status),
    Damaged,
    For(TransferError),
}

/// A file of an artifact that is to be brought here.
#[derive(Debug)]
struct Wanted {
    file: FileEntry,
    executable: bool,
}

impl Transfers {
    /// Transfers to and from the coordinator that leads.
    #[must_use]
    pub fn new(coordinators: Coordinators, random: Arc<dyn Random>) -> Self {
        Self {
            coordinators,
            random,
        }
    }

    /// A client of the coordinator that is asked now: the session may find another one between two tries.
    fn client(&self) -> Result<ArtifactsClient<Channel>, Status> {
        let channel = self.coordinators.channel();
        let channel = channel.map_err(|error| Status::unavailable(connect::with_causes(&error)))?;
        Ok(ArtifactsClient::new(channel)
            .max_decoding_message_size(MESSAGE_MAX_BYTES)
            .max_encoding_message_size(MESSAGE_MAX_BYTES))
    }

    /// Brings the files of `manifest` into `folder`, going on with what is there already.
    pub async fn download(&self, manifest: &Manifest, folder: &Path) -> Result<(), TransferError> {
        // By digest: what stands under several names is sent once.
        let mut by_digest: BTreeMap<&Digest, Vec<Wanted>> = BTreeMap::new();
        for file in &manifest.files {
            by_digest.entry(&file.digest).or_default().push(Wanted {
                file: file.clone(),
                executable: manifest.is_executable(&file.path),
            });
        }
        futures::stream::iter(
            by_digest
                .into_values()
                .map(|files| self.download_files(files, folder)),
        )
        .buffer_unordered(CONCURRENT_FILES)
        .try_collect::<Vec<()>>()
        .await?;
        let (folder, empty) = (folder.to_owned(), manifest.empty_folders.clone());
        blocking(move || {
            for path in empty {
                let path = folder.join(path);
                fs::create_dir_all(&path).map_err(disk(&path))?;
            }
            sync_tree(&folder)
        })
        .await
    }

    /// Brings one blob to all the paths that hold it. A path exists only when it is verified.
    async fn download_files(&self, files: Vec<Wanted>, folder: &Path) -> Result<(), TransferError> {
        let Some((first, others)) = files.split_first() else {
            return Ok(());
        };
        let target = folder.join(&first.file.path);
        if !target.exists() {
            make_parent(&target)?;
            let part = part_path(folder, &first.file.digest);
            make_parent(&part)?;
            self.download_blob(&first.file, &part).await?;
            // Before it has its name: nobody can open it to write.
            fs::set_permissions(&part, mode(first.executable)).map_err(disk(&part))?;
            fs::rename(&part, &target).map_err(disk(&target))?;
        }
        for other in others {
            let path = folder.join(&other.file.path);
            if path.exists() {
                continue;
            }
            make_parent(&path)?;
            if other.executable == first.executable {
                fs::hard_link(&target, &path).map_err(disk(&path))?;
            } else {
                // One file has one mode, under all its names.
                copy_aside(&target, &path, other.executable).map_err(disk(&path))?;
            }
        }
        Ok(())
    }

    async fn download_blob(&self, file: &FileEntry, part: &Path) -> Result<(), TransferError> {
        let (mut backoff, mut damaged) = (connect::backoff(), 0);
        loop {
            match self.try_download(file, part).await {
                Ok(()) => return Ok(()),
                Err(Failed::For(error)) => return Err(error),
                Err(Failed::Damaged) => {
                    damaged += 1;
                    warn!(blob = %file.digest, damaged, "a blob arrived damaged");
                    // From the start: where the damage lies, a digest of the whole does not say.
                    fs::remove_file(part).map_err(disk(part))?;
                    if damaged == DAMAGED_MAX {
                        return Err(TransferError::Damaged {
                            path: file.path.clone(),
                            digest: file.digest.clone(),
                        });
                    }
                }
                Err(Failed::Away(status) | Failed::NoRoom(status)) => {
                    self.wait_out(&mut backoff, &status).await;
                }
            }
        }
    }

    /// One try: goes on behind what `part` holds, and verifies the whole.
    async fn try_download(&self, file: &FileEntry, part: &Path) -> Result<(), Failed> {
        let io = |e| Failed::For(disk(part)(e));
        let out = Arc::new(files::open_to_go_on(part).map_err(io)?);
        let begun = Arc::clone(&out);
        // Read again, not remembered: what counts is what is on the disk.
        let read = blocking::blocking(move || {
            let (mut hash, mut size) = (Sha256::new(), 0);
            let mut buffer = vec![0; CHUNK_BYTES];
            loop {
                match (&*begun).read(&mut buffer)? {
                    0 => return io::Result::Ok((hash, size)),
                    n => {
                        hash.update(&buffer[..n]);
                        size += n as u64;
                    }
                }
            }
        });
        let (mut hash, mut offset) = read.await.map_err(io::Error::other).flatten().map_err(io)?;
        if offset < file.size_bytes {
            // Before the first byte is asked for: a disk that is too full says so now.
            let whole = fallocate(&out, FallocateFlags::KEEP_SIZE, 0, file.size_bytes);
            if let Err(error) = whole
                && error != Errno::OPNOTSUPP
            {
                return Err(io(error.into()));
            }
            let request = DownloadBlobRequest {
                digest: file.digest.to_string(),
                offset,
                size_bytes: Some(file.size_bytes),
                job_id: 0,
            };
            let mut client = self.client().map_err(Failed::Away)?;
            let mut chunks = in_time(async move { client.download_blob(request).await })
                .await
                .map_err(|status| failed(&format!("to send blob {}", file.digest), status))?
                .into_inner();
            while let Some(message) = in_time(chunks.message())
                .await
                .map_err(|status| failed(&format!("to send blob {}", file.digest), status))?
            {
                offset += message.chunk.len() as u64;
                if offset > file.size_bytes {
                    return Err(Failed::Damaged);
                }
                hash.update(&message.chunk);
                let out = Arc::clone(&out);
                let write = blocking::blocking(move || (&*out).write_all(&message.chunk));
                write
                    .await
                    .map_err(io::Error::other)
                    .flatten()
                    .map_err(io)?;
            }
        }
        // On the disk before it counts as whole: after a power cut its name could stand for zeros.
        let sync = blocking::blocking(move || out.sync_all());
        sync.await.map_err(io::Error::other).flatten().map_err(io)?;
        // A stream that broke is an error. One that ends in order before all has come was all there is: the blob is
        // short, and waiting for the rest would be waiting for ever.
        if offset == file.size_bytes && Digest::from_hash(&hash.finalize()) == file.digest {
            Ok(())
        } else {
            Err(Failed::Damaged)
        }
    }

    /// Stores all files of `folder` at the coordinator, and says what they are.
    pub async fn upload(
        &self,
        folder: &Path,
        no_room: NoRoom<'_>,
    ) -> Result<Manifest, TransferError> {
        let root = folder.to_owned();
        let manifest = blocking(move || digest_tree(&root)).await?;
        // Before the first byte goes up: after hours of it the coordinator would refuse the list.
        let bytes = v1::Manifest::from(&manifest).encoded_len();
        if bytes > MANIFEST_MAX_BYTES {
            return Err(TransferError::TooLong {
                count: manifest.files.len(),
                bytes,
            });
        }
        let mut by_digest: BTreeMap<&Digest, &FileEntry> = BTreeMap::new();
        for file in &manifest.files {
            by_digest.insert(&file.digest, file);
        }
        let missing = self.missing(by_digest.keys().copied()).await?;
        let files: Vec<FileEntry> = missing
            .iter()
            .filter_map(|digest| by_digest.get(digest).copied().cloned())
            .collect();
        debug!(
            files = manifest.files.len(),
            missing = files.len(),
            ?folder,
            "uploading"
        );
        futures::stream::iter(
            files
                .into_iter()
                .map(|file| self.upload_blob(file, folder, no_room)),
        )
        .buffer_unordered(CONCURRENT_FILES)
        .try_collect::<Vec<()>>()
        .await?;
        Ok(manifest)
    }

    async fn missing(
        &self,
        digests: impl Iterator<Item = &Digest>,
    ) -> Result<Vec<Digest>, TransferError> {
        let all: Vec<String> = digests.map(Digest::to_string).collect();
        let mut missing = Vec::new();
        for some in all.chunks(DIGESTS_PER_QUESTION) {
            let mut backoff = connect::backoff();
            let answer = loop {
                let request = FindMissingBlobsRequest {
                    digests: some.to_vec(),
                    with_begun: false,
                };
                let asked = async { self.client()?.find_missing_blobs(request).await };
                match in_time(asked).await {
                    Ok(answer) => break answer.into_inner(),
                    Err(status) => match failed("to say which blobs it lacks", status) {
                        Failed::Away(status) | Failed::NoRoom(status) => {
                            self.wait_out(&mut backoff, &status).await;
                        }
                        Failed::For(error) => return Err(error),
                        Failed::Damaged => {}
                    },
                }
            };
            missing.extend(
                answer
                    .digests
                    .into_iter()
                    .filter_map(|digest| digest.parse().ok()),
            );
        }
        Ok(missing)
    }

    async fn upload_blob(
        &self,
        file: FileEntry,
        folder: &Path,
        no_room: NoRoom<'_>,
    ) -> Result<(), TransferError> {
        // Two of them: a coordinator that restarts is back sooner than people have emptied a disk.
        let (mut backoff, mut until_room) = (connect::backoff(), room_backoff());
        let path = folder.join(&file.path);
        loop {
            match self.try_upload(&file, &path).await {
                Ok(()) => return Ok(()),
                Err(Failed::Away(status)) => self.wait_out(&mut backoff, &status).await,
                Err(Failed::NoRoom(status)) => match no_room {
                    NoRoom::Wait(said) => {
                        said.send_replace(Some(status.message().to_owned()));
                        self.wait_out(&mut until_room, &status).await;
                    }
                    NoRoom::Fail => return Err(TransferError::NoRoom(status.message().to_owned())),
                },
                Err(Failed::For(error)) => return Err(error),
                Err(Failed::Damaged) => {}
            }
        }
    }

    async fn wait_out(&self, backoff: &mut Backoff, status: &Status) {
        let wait = backoff.next_spread(self.random.unit());
        debug!(%status, ?wait, "the coordinator is away or full; the transfer waits");
        tokio::time::sleep(wait).await;
    }

    async fn try_upload(&self, file: &FileEntry, path: &Path) -> Result<(), Failed> {
        let offset = match file.size_bytes >= ASK_FROM_BYTES {
            false => 0,
            true => match self.begun(file).await? {
                Some(offset) => offset,
                // Somebody else has stored it meanwhile, or an earlier try of which the answer was lost.
                None => return Ok(()),
            },
        };
        let header = UploadBlobHeader {
            digest: file.digest.to_string(),
            size_bytes: file.size_bytes,
            offset,
        };
        let (sender, chunks) = tokio::sync::mpsc::channel(CHUNKS_AHEAD);
        let reader = send::parts_of(path.to_owned(), header, sender);
        let mut client = self.client().map_err(Failed::Away)?;
        let stream = tokio_stream::wrappers::ReceiverStream::new(chunks);
        let (read, answer) = tokio::join!(reader, client.upload_blob(stream));
        // A file that cannot be read comes first: the refusal that followed is only its echo.
        read.map_err(|e| Failed::For(disk(path)(e)))?;
        answer.map_err(|status| failed(&format!("to store {path:?}"), status))?;
        Ok(())
    }
}

impl Transfers {
    /// Bytes that the coordinator has of a file from an upload that broke. None: it has all of it.
    async fn begun(&self, file: &FileEntry) -> Result<Option<u64>, Failed> {
        let digest = file.digest.to_string();
        let request = FindMissingBlobsRequest {
            digests: vec![digest.clone()],
            with_begun: true,
        };
        let asked = async { self.client()?.find_missing_blobs(request).await };
        let answer = in_time(asked)
            .await
            .map_err(|status| failed("to say how much it has of a file", status))?
            .into_inner();
        if !answer.digests.contains(&digest) {
            return Ok(None);
        }
        let begun = answer.begun.iter().find(|begun| begun.digest == digest);
        // More than there is cannot be of this file.
        let received = begun.map_or(0, |begun| begun.received_bytes);
        Ok(Some(received).map(|bytes| if bytes <= file.size_bytes { bytes } else { 0 }))
    }
}

/// Sorts a refusal from a coordinator that is away.
#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "every other code is a refusal, also those to come"
)]
fn failed(what: &str, status: Status) -> Failed {
    match status.code() {
        // What tonic says of a connection that broke, beside UNAVAILABLE.
        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded => {
            Failed::Away(status)
        }
        Code::ResourceExhausted => Failed::NoRoom(status),
        _ => Failed::For(TransferError::Refused {
            what: what.to_owned(),
            status,
        }),
    }
}

async fn in_time<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let stalled = |_| Err(Status::unavailable(format!("nothing came for {STALL:?}")));
    tokio::time::timeout(STALL, call)
        .await
        .unwrap_or_else(stalled)
}

fn disk(path: &Path) -> impl FnOnce(io::Error) -> TransferError {
    let path = path.to_owned();
    move |source| TransferError::Disk { path, source }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TransferError> + Send + 'static,
) -> Result<T, TransferError> {
    match blocking::blocking(work).await {
        Ok(result) => result,
        Err(join) => Err(TransferError::Disk {
            path: PathBuf::new(),
            source: io::Error::other(join),
        }),
    }
}

/// Where a blob grows until it is whole, beside the folder it will be in.
fn part_path(folder: &Path, digest: &Digest) -> PathBuf {
    folder.with_extension("parts").join(digest.as_str())
}

/// The folder of the parts of [`Transfers::download`] into `folder`.
#[must_use]
pub fn parts_folder(folder: &Path) -> PathBuf {
    folder.with_extension("parts")
}

const fn room_backoff() -> Backoff {
    Backoff::new(ROOM_RETRY_FIRST, ROOM_RETRY_CEILING)
}

/// Mode of a file that many ranks share: nobody may write to it.
fn mode(executable: bool) -> fs::Permissions {
    fs::Permissions::from_mode(if executable { 0o555 } else { 0o444 })
}

/// First letters of the name of a copy that is being made.
const COPY_PREFIX: &str = ".copy-";

/// Copies a verified file; under its own name it is whole.
fn copy_aside(from: &Path, to: &Path, executable: bool) -> io::Result<()> {
    let mut name = std::ffi::OsString::from(COPY_PREFIX);
    name.push(to.file_name().unwrap_or_default());
    let aside = to.with_file_name(name);
    // One that an earlier daemon left half-way is read-only.
    let _ = fs::remove_file(&aside);
    fs::copy(from, &aside)?;
    fs::set_permissions(&aside, mode(executable))?;
    fs::File::open(&aside)?.sync_all()?;
    fs::rename(&aside, to)
}

fn make_parent(path: &Path) -> Result<(), TransferError> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).map_err(disk(parent))
}

/// Makes every entry of a tree durable; the files' contents are so already.
fn sync_tree(folder: &Path) -> Result<(), TransferError> {
    fs::create_dir_all(folder).map_err(disk(folder))?;
    for entry in fs::read_dir(folder).map_err(disk(folder))? {
        let entry = entry.map_err(disk(folder))?;
        if entry.file_type().map_err(disk(&entry.path()))?.is_dir() {
            sync_tree(&entry.path())?;
        }
    }
    fs::File::open(folder)
        .and_then(|f| f.sync_all())
        .map_err(disk(folder))
}

/// Whether a folder cannot take what a transfer brings, because the disk is full.
#[must_use]
pub fn is_disk_full(error: &TransferError) -> bool {
    matches!(error, TransferError::Disk { source, .. } if source.kind() == io::ErrorKind::StorageFull)
}
