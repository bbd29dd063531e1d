//! Files of this machine that a source names: read up to a limit, with the same misses as what comes
//! over the network.

use std::io::{self, Read};
use std::path::Path;

use super::miss::{Miss, MissClass};

/// A file's or folder's name without its extension.
pub(super) fn name_of(path: &Path) -> String {
    path.file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// Reads at most `limit` bytes, whatever size the file claims to have.
pub(super) fn read_up_to(file: impl Read, limit: usize) -> Result<Vec<u8>, Miss> {
    let mut bytes = Vec::new();
    // One more byte than is allowed tells a file that is too large from one that just fits.
    file.take(limit as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| miss_of_io(&error))?;
    if bytes.len() > limit {
        let detail = format!("it has more than {limit} bytes");
        return Err(Miss::rejected(MissClass::TooLarge, detail));
    }
    Ok(bytes)
}

/// Why a file cannot be read.
pub(super) fn miss_of_io(error: &io::Error) -> Miss {
    if error.kind() == io::ErrorKind::NotFound {
        return no_such_file();
    }
    Miss::failed(MissClass::Unreadable, error.to_string())
}

pub(super) fn no_such_file() -> Miss {
    Miss::Gone {
        detail: "there is no such file".to_owned(),
    }
}
