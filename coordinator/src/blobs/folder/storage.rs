//! Which folder of blobs this is: an id that lies in it, by which a coordinator that stands by knows whether it has
//! the same one as the coordinator that leads.

use std::fs;
use std::io::{self, Write as _};

use tempfile::NamedTempFile;
use uuid::Uuid;

use super::{BlobError, Folder, blocking, io_error, sync_folder};

impl Folder {
    /// The folder's id. The first who asks gives it `fresh`, and whoever asks at the same time takes over that.
    pub(in crate::blobs) async fn storage(&self, fresh: Uuid) -> Result<Uuid, BlobError> {
        let root = self.root.clone();
        blocking(move || {
            let path = root.join("storage-id");
            loop {
                match fs::read_to_string(&path) {
                    Ok(text) => {
                        let id = text.trim().parse();
                        return id.map_err(|error| {
                            io_error("read the id in", &path)(io::Error::other(error))
                        });
                    }
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(io_error("read", &path)(error)),
                }
                let tmp = root.join("tmp");
                let mut aside = NamedTempFile::new_in(&tmp).map_err(io_error("write in", &tmp))?;
                writeln!(aside, "{fresh}")
                    .and_then(|()| aside.as_file().sync_all())
                    .map_err(io_error("write in", &tmp))?;
                match aside.persist_noclobber(&path) {
                    Ok(_) => sync_folder(&root)?,
                    // Somebody was faster: theirs is read.
                    Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {}
                    Err(error) => return Err(io_error("write", &path)(error.error)),
                }
            }
        })
        .await
    }
}
