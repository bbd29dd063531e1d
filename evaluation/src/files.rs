//! Files of the report: written aside, synced, renamed.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use crate::error::EvalError;

/// Put `bytes` at `dir/name` so that a reader, and a power cut, sees all of it or none.
pub(crate) fn write(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), EvalError> {
    let path = dir.join(name);
    let aside = dir.join(format!(".{name}.partial"));
    let written = (|| {
        let mut file = File::create(&aside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&aside, &path)?;
        // The rename is an entry of the folder: without this a power cut could leave a report without its files.
        File::open(dir)?.sync_all()
    })();
    written.map_err(|source| EvalError::Write { path, source })
}
