//! A file on its way to the coordinator.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use marquee_domain::env::is_played;
use marquee_domain::limits::CHUNK_BYTES;
use marquee_proto::v1::upload_blob_request::Part;
use marquee_proto::v1::{UploadBlobHeader, UploadBlobRequest};
use tokio::task::spawn_blocking;

/// Reads a file for an upload, from a thread of its own: by turns with the sending it would take a
/// change of threads for each read.
pub(super) async fn parts_of(
    source: PathBuf,
    header: UploadBlobHeader,
    to: tokio::sync::mpsc::Sender<UploadBlobRequest>,
) -> io::Result<()> {
    // A receiver that left has an answer to give; that one counts.
    if is_played() {
        for part in parts(&source, header)? {
            if to.send(part?).await.is_err() {
                break;
            }
        }
        return Ok(());
    }
    let read = spawn_blocking(move || {
        for part in parts(&source, header)? {
            if to.blocking_send(part?).is_err() {
                break;
            }
        }
        Ok(())
    });
    read.await.map_err(io::Error::other).flatten()
}

/// What an upload sends: its header, then the file chunk by chunk.
fn parts(
    source: &Path,
    header: UploadBlobHeader,
) -> io::Result<impl Iterator<Item = io::Result<UploadBlobRequest>> + use<>> {
    let mut source = fs::File::open(source)?;
    // What the coordinator has of it is not sent again.
    io::Seek::seek(&mut source, io::SeekFrom::Start(header.offset))?;
    let chunks = std::iter::from_fn(move || {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        let mut some = io::Read::take(&mut source, CHUNK_BYTES as u64);
        match io::Read::read_to_end(&mut some, &mut chunk) {
            Ok(0) => None,
            Ok(_) => Some(Ok(Part::Chunk(Bytes::from(chunk)))),
            Err(error) => Some(Err(error)),
        }
    });
    let parts = std::iter::once(Ok(Part::Header(header))).chain(chunks);
    Ok(parts.map(|part| part.map(|part| UploadBlobRequest { part: Some(part) })))
}
