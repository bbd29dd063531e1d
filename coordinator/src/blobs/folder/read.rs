//! A blob on its way out. Read from its beginning, it is verified on the way: who gets its last byte got what the
//! digest says.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};

use bytes::{Bytes, BytesMut};
use marquee_domain::artifact::Digest;
use marquee_domain::limits::CHUNK_BYTES;
use sha2::{Digest as _, Sha256};

use super::damaged::problem;
use super::{BlobError, Folder, blocking, io_error};

/// A blob on its way out.
#[derive(Debug)]
pub(in crate::blobs) struct Reader {
    store: Folder,
    digest: Digest,
    /// None only while a blocking thread has it, after the end, or after an error.
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    /// The bytes so far; None where the reader began in the middle.
    hash: Option<Sha256>,
    /// Bytes read so far, those before the offset included.
    position: u64,
}

impl Folder {
    /// Opens a blob for reading from `offset` on. Where the reader says how many bytes it expects in all, a blob of
    /// another size is refused at once.
    pub(in crate::blobs) async fn read(
        &self,
        digest: Digest,
        offset: u64,
        expected_bytes: Option<u64>,
    ) -> Result<Reader, BlobError> {
        let store = self.clone();
        blocking(move || {
            let path = store.path(&digest);
            let mut file = loop {
                match File::open(&path) {
                    Ok(file) => break file,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(io_error("open", &path)(error)),
                }
                if !store.recall(&digest)? {
                    return Err(store.absent(digest));
                }
            };
            let size_bytes = file.metadata().map_err(io_error("look at", &path))?.len();
            if let Some(asked) = expected_bytes.filter(|asked| *asked != size_bytes) {
                // Either the file is damaged or the list that names it is wrong. The bytes decide.
                return Err(match store.verify(&digest)? {
                    Some(problem) => BlobError::Damaged { digest, problem },
                    None => BlobError::OtherSize {
                        digest,
                        size_bytes,
                        asked,
                    },
                });
            }
            if offset > size_bytes {
                // The reader has had more of it than there is: either of the two is wrong.
                return Err(match store.verify(&digest)? {
                    Some(problem) => BlobError::Damaged { digest, problem },
                    None => BlobError::OffsetTooLarge {
                        digest,
                        offset,
                        size_bytes,
                    },
                });
            }
            file.seek(SeekFrom::Start(offset))
                .map_err(io_error("seek in", &path))?;
            let open = Open {
                file,
                // Only from the beginning is there a digest to compare with.
                hash: (offset == 0).then(Sha256::new),
                position: offset,
            };
            Ok(Reader {
                store,
                digest,
                open: Some(open),
            })
        })
        .await
    }

    /// Why a blob is not here.
    fn absent(&self, digest: Digest) -> BlobError {
        if self.is_damaged(&digest) {
            let problem = "it was not what its digest says".to_owned();
            BlobError::Damaged { digest, problem }
        } else {
            BlobError::NotFound(digest)
        }
    }
}

impl Reader {
    /// The next chunk, at most [`CHUNK_BYTES`]; None at the end. A blob that is not what its digest says ends with
    /// an error instead, and is set aside.
    pub(in crate::blobs) async fn next(&mut self) -> Result<Option<Bytes>, BlobError> {
        let Some(mut open) = self.open.take() else {
            return Ok(None);
        };
        let (store, digest) = (self.store.clone(), self.digest.clone());
        let (open, chunk) = blocking(move || {
            let path = store.path(&digest);
            let mut chunk = BytesMut::zeroed(CHUNK_BYTES);
            let mut filled = 0;
            while filled < chunk.len() {
                match open.file.read(&mut chunk[filled..]) {
                    Ok(0) => break,
                    Ok(count) => filled += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(io_error("read", &path)(error)),
                }
            }
            chunk.truncate(filled);
            open.position += filled as u64;
            if let Some(hash) = &mut open.hash {
                hash.update(&chunk);
            }
            if !chunk.is_empty() {
                return Ok((Some(open), Some(chunk.freeze())));
            }
            let Some(hash) = open.hash else {
                return Ok((None, None));
            };
            let found = Digest::from_hash(&hash.finalize());
            if found == digest {
                return Ok((None, None));
            }
            let problem = problem(open.position, &found);
            store.set_aside(&digest, &problem)?;
            Err(BlobError::Damaged { digest, problem })
        })
        .await?;
        self.open = open;
        Ok(chunk)
    }
}
