//! Files by digest, in a folder: `<root>/<aa>/<digest>`, where `aa` are the digest's first digits.
//!
//! Invariant: a file under its digest is complete and holds what the digest says. It is written
//! aside in the same file system, hashed on the way, fsynced, renamed into place, and its folder
//! fsynced before anybody is told. A writer that is dropped leaves nothing; what a killed process
//! leaves lies in `<root>/tmp`, which is emptied at start (the data folder's lock keeps a second
//! process from doing that to a living one).
//! Not here: who may refer to a blob (the artifacts table), and removal.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use marquee_domain::artifact::Digest;
use marquee_domain::limits::CHUNK_BYTES;
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

/// Free bytes that an upload must leave on the blobs' file system: Postgres usually shares it, and
/// a full disk stops that too.
pub const FREE_FLOOR_BYTES: u64 = 256 * 1024 * 1024;

/// Why a blob could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    #[error("there is no blob {}", .0.short())]
    NotFound(Digest),
    #[error("offset {offset} lies behind the end of blob {}, which has {size_bytes} bytes", .digest.short())]
    OffsetTooLarge {
        digest: Digest,
        offset: u64,
        size_bytes: u64,
    },
    #[error("blob {} was announced with {announced} bytes, but {got} arrived; send the file again", .digest.short())]
    WrongSize {
        digest: Digest,
        announced: u64,
        got: u64,
    },
    #[error(
        "what was sent as blob {announced} has digest {got}; the file changed while it was sent, or the connection damaged it"
    )]
    WrongDigest { announced: Digest, got: Digest },
    #[error(
        "blob of {size_bytes} bytes does not fit: {free_bytes} bytes are free in {folder:?}, and {FREE_FLOOR_BYTES} of them must stay free; make room there"
    )]
    DiskFull {
        size_bytes: u64,
        free_bytes: u64,
        folder: PathBuf,
    },
    #[error("could not {doing} {path:?}: {error}")]
    Io {
        doing: &'static str,
        path: PathBuf,
        error: io::Error,
    },
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BlobError + use<> {
    let path = path.to_owned();
    move |error| BlobError::Io { doing, path, error }
}

/// The folder of blobs.
#[derive(Debug, Clone)]
pub struct BlobStore {
    root: Arc<Path>,
}

impl BlobStore {
    /// Opens the store at `root`, makes its folders, and removes what unfinished uploads left.
    pub async fn open(root: PathBuf) -> Result<Self, BlobError> {
        blocking(move || {
            let tmp = root.join("tmp");
            // Results are for those whom the coordinator gives them to.
            let mut private = fs::DirBuilder::new();
            let private = private.recursive(true).mode(0o700);
            private.create(&tmp).map_err(io_error("create", &tmp))?;
            for entry in fs::read_dir(&tmp).map_err(io_error("list", &tmp))? {
                let leftover = entry.map_err(io_error("list", &tmp))?.path();
                fs::remove_file(&leftover).map_err(io_error("remove", &leftover))?;
            }
            sync_folder(&root)?;
            Ok(Self { root: root.into() })
        })
        .await
    }

    /// Which of `digests` are not here, in the same order.
    pub async fn missing(&self, digests: Vec<Digest>) -> Result<Vec<Digest>, BlobError> {
        let store = self.clone();
        blocking(move || {
            let mut missing = Vec::new();
            for digest in digests {
                let path = store.path(&digest);
                if !path.try_exists().map_err(io_error("look for", &path))? {
                    missing.push(digest);
                }
            }
            Ok(missing)
        })
        .await
    }

    /// Begins to store a blob whose digest and size are announced.
    pub async fn write(&self, digest: Digest, size_bytes: u64) -> Result<BlobWriter, BlobError> {
        let store = self.clone();
        blocking(move || {
            let free_bytes = free_bytes(&store.root)?;
            if free_bytes < size_bytes.saturating_add(FREE_FLOOR_BYTES) {
                let folder = store.root.to_path_buf();
                return Err(BlobError::DiskFull {
                    size_bytes,
                    free_bytes,
                    folder,
                });
            }
            let tmp = store.root.join("tmp");
            let file = NamedTempFile::new_in(&tmp).map_err(io_error("create a file in", &tmp))?;
            let hash = Sha256::new();
            Ok(BlobWriter {
                store,
                digest,
                size_bytes,
                open: Some(Open { file, hash, got: 0 }),
            })
        })
        .await
    }

    /// Opens a blob for reading from `offset` on.
    pub async fn read(&self, digest: Digest, offset: u64) -> Result<BlobReader, BlobError> {
        let path = self.path(&digest);
        blocking(move || {
            let mut file = match File::open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(BlobError::NotFound(digest));
                }
                Err(error) => return Err(io_error("open", &path)(error)),
            };
            let size_bytes = file.metadata().map_err(io_error("look at", &path))?.len();
            if offset > size_bytes {
                return Err(BlobError::OffsetTooLarge {
                    digest,
                    offset,
                    size_bytes,
                });
            }
            file.seek(SeekFrom::Start(offset))
                .map_err(io_error("seek in", &path))?;
            Ok(BlobReader {
                path,
                file: Some(file),
            })
        })
        .await
    }

    /// Where a blob lies, or would lie.
    #[must_use]
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.root.join(&digest.as_str()[..2]).join(digest.as_str())
    }
}

/// A blob on its way in. Dropped before [`finish`](Self::finish), it leaves nothing.
#[derive(Debug)]
pub struct BlobWriter {
    store: BlobStore,
    digest: Digest,
    size_bytes: u64,
    /// None only while a blocking thread has it, or after an error.
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: NamedTempFile,
    hash: Sha256,
    got: u64,
}

impl BlobWriter {
    /// Adds bytes. More than were announced are refused at once.
    pub async fn push(&mut self, chunk: Bytes) -> Result<(), BlobError> {
        let mut open = self.take()?;
        open.got += chunk.len() as u64;
        if open.got > self.size_bytes {
            return Err(self.wrong_size(open.got));
        }
        let open = blocking(move || {
            let path = open.file.path().to_owned();
            open.file
                .write_all(&chunk)
                .map_err(io_error("write", &path))?;
            open.hash.update(&chunk);
            Ok(open)
        })
        .await?;
        self.open = Some(open);
        Ok(())
    }

    /// Makes the blob visible, durably, if it is what was announced.
    pub async fn finish(mut self) -> Result<(), BlobError> {
        let open = self.take()?;
        if open.got != self.size_bytes {
            return Err(self.wrong_size(open.got));
        }
        blocking(move || {
            let got = Digest::from_hash(&open.hash.finalize());
            if got != self.digest {
                return Err(BlobError::WrongDigest {
                    announced: self.digest,
                    got,
                });
            }
            let place = self.store.path(&self.digest);
            put_in_place(open.file, &place)
        })
        .await
    }

    fn take(&mut self) -> Result<Open, BlobError> {
        // Reached only by a caller that goes on after an error.
        self.open.take().ok_or_else(|| {
            io_error("go on with", &self.store.path(&self.digest))(io::ErrorKind::BrokenPipe.into())
        })
    }

    fn wrong_size(&self, got: u64) -> BlobError {
        BlobError::WrongSize {
            digest: self.digest.clone(),
            announced: self.size_bytes,
            got,
        }
    }
}

/// Renames a complete file to `place`. Two uploads of one blob may both come here: each holds the
/// same bytes, and a rename replaces the name in one step.
fn put_in_place(file: NamedTempFile, place: &Path) -> Result<(), BlobError> {
    let folder = place.parent().expect("a blob's path has a folder");
    file.as_file()
        .sync_all()
        .map_err(io_error("fsync", file.path()))?;
    if !folder.is_dir() {
        fs::create_dir_all(folder).map_err(io_error("create", folder))?;
        sync_folder(folder.parent().expect("a blob's folder lies in the root"))?;
    }
    file.persist(place)
        .map_err(|e| io_error("rename a blob to", place)(e.error))?;
    sync_folder(folder)
}

/// A blob on its way out.
#[derive(Debug)]
pub struct BlobReader {
    path: PathBuf,
    /// None only while a blocking thread has it, or after an error.
    file: Option<File>,
}

impl BlobReader {
    /// The next chunk, at most [`CHUNK_BYTES`]; None at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, BlobError> {
        let Some(mut file) = self.file.take() else {
            return Ok(None);
        };
        let path = self.path.clone();
        let (file, chunk) = blocking(move || {
            let mut chunk = BytesMut::zeroed(CHUNK_BYTES);
            let mut filled = 0;
            while filled < chunk.len() {
                match file.read(&mut chunk[filled..]) {
                    Ok(0) => break,
                    Ok(count) => filled += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(io_error("read", &path)(error)),
                }
            }
            chunk.truncate(filled);
            Ok((file, chunk.freeze()))
        })
        .await?;
        self.file = Some(file);
        Ok((!chunk.is_empty()).then_some(chunk))
    }
}

fn sync_folder(folder: &Path) -> Result<(), BlobError> {
    File::open(folder)
        .and_then(|f| f.sync_all())
        .map_err(io_error("fsync", folder))
}

fn free_bytes(folder: &Path) -> Result<u64, BlobError> {
    let stat = nix::sys::statvfs::statvfs(folder)
        .map_err(|errno| io_error("measure the free space of", folder)(errno.into()))?;
    Ok(stat.blocks_available() * stat.fragment_size())
}

/// Runs file work off the async threads: an fsync may take seconds on a busy disk.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BlobError> + Send + 'static,
) -> Result<T, BlobError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        // Only a panic in `work` or the runtime's end comes here.
        Err(error) => Err(io_error("work in", Path::new("the blob folder"))(
            io::Error::other(error),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn store() -> (tempfile::TempDir, BlobStore) {
        let folder = tempfile::tempdir().unwrap();
        let store = BlobStore::open(folder.path().join("blobs")).await.unwrap();
        (folder, store)
    }

    async fn put(store: &BlobStore, announced: &Digest, bytes: &[u8]) -> Result<(), BlobError> {
        let mut writer = store.write(announced.clone(), bytes.len() as u64).await?;
        for chunk in bytes.chunks(1000) {
            writer.push(Bytes::copy_from_slice(chunk)).await?;
        }
        writer.finish().await
    }

    async fn read_all(store: &BlobStore, digest: &Digest, offset: u64) -> Vec<u8> {
        let mut reader = store.read(digest.clone(), offset).await.unwrap();
        let mut all = Vec::new();
        while let Some(chunk) = reader.next().await.unwrap() {
            all.extend_from_slice(&chunk);
        }
        all
    }

    fn files_under(folder: &Path) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                files.extend(files_under(&path))
            } else {
                files.push(path)
            }
        }
        files
    }

    #[tokio::test]
    async fn a_blob_comes_back_whole_and_from_an_offset() {
        let (_folder, store) = store().await;
        let bytes: Vec<u8> = (0..=250).cycle().take(CHUNK_BYTES + 777).collect();
        let digest = Digest::of(&bytes);
        let missing = store.missing(vec![digest.clone()]).await.unwrap();
        assert_eq!(missing, std::slice::from_ref(&digest));
        put(&store, &digest, &bytes).await.unwrap();
        assert!(
            store
                .missing(vec![digest.clone()])
                .await
                .unwrap()
                .is_empty()
        );
        assert_eq!(read_all(&store, &digest, 0).await, bytes);
        assert_eq!(read_all(&store, &digest, 5000).await, bytes[5000..]);
        assert_eq!(read_all(&store, &digest, bytes.len() as u64).await, b"");
        let behind = store.read(digest, bytes.len() as u64 + 1).await;
        assert!(matches!(behind, Err(BlobError::OffsetTooLarge { .. })));
    }

    #[tokio::test]
    async fn the_empty_file_is_a_blob_too() {
        let (_folder, store) = store().await;
        put(&store, &Digest::of(b""), b"").await.unwrap();
        assert_eq!(read_all(&store, &Digest::of(b""), 0).await, b"");
    }

    #[tokio::test]
    async fn what_is_not_as_announced_is_refused_and_leaves_nothing() {
        let (folder, store) = store().await;
        let digest = Digest::of(b"poster");
        let wrong = put(&store, &digest, b"posted").await;
        assert!(
            matches!(wrong, Err(BlobError::WrongDigest { .. })),
            "{wrong:?}"
        );

        let mut short = store.write(digest.clone(), 6).await.unwrap();
        short.push(Bytes::from_static(b"post")).await.unwrap();
        let short = short.finish().await;
        assert!(
            matches!(short, Err(BlobError::WrongSize { got: 4, .. })),
            "{short:?}"
        );

        let mut long = store.write(digest.clone(), 3).await.unwrap();
        let long = long.push(Bytes::from_static(b"poster")).await;
        assert!(
            matches!(long, Err(BlobError::WrongSize { got: 6, .. })),
            "{long:?}"
        );

        assert_eq!(files_under(folder.path()), Vec::<PathBuf>::new());
    }

    #[tokio::test]
    async fn an_upload_that_breaks_off_leaves_nothing() {
        let (folder, store) = store().await;
        let mut writer = store.write(Digest::of(b"poster"), 6).await.unwrap();
        writer.push(Bytes::from_static(b"pos")).await.unwrap();
        assert_eq!(files_under(folder.path()).len(), 1, "it is written aside");
        assert_eq!(
            store
                .missing(vec![Digest::of(b"poster")])
                .await
                .unwrap()
                .len(),
            1
        );
        drop(writer);
        assert_eq!(files_under(folder.path()), Vec::<PathBuf>::new());
    }

    #[tokio::test]
    async fn what_a_killed_process_left_is_removed_at_start() {
        let (folder, store) = store().await;
        put(&store, &Digest::of(b"kept"), b"kept").await.unwrap();
        fs::write(folder.path().join("blobs/tmp/half"), b"half a pos").unwrap();
        let store = BlobStore::open(folder.path().join("blobs")).await.unwrap();
        assert_eq!(
            files_under(folder.path()),
            [store.path(&Digest::of(b"kept"))]
        );
    }

    #[tokio::test]
    async fn one_blob_may_be_uploaded_by_many_at_once() {
        let (folder, store) = store().await;
        let bytes = vec![7_u8; 50_000];
        let digest = Digest::of(&bytes);
        let uploads = (0..8).map(|_| put(&store, &digest, &bytes));
        for result in futures::future::join_all(uploads).await {
            result.unwrap();
        }
        assert_eq!(read_all(&store, &digest, 0).await, bytes);
        assert_eq!(files_under(folder.path()).len(), 1);
    }

    #[tokio::test]
    async fn an_upload_that_would_fill_the_disk_is_refused_at_the_door() {
        let (_folder, store) = store().await;
        let refused = store.write(Digest::of(b"x"), u64::MAX / 2).await;
        assert!(
            matches!(refused, Err(BlobError::DiskFull { .. })),
            "{refused:?}"
        );
    }
}
