//! Files of a backup out of an object store.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;
use marquee_backups::{Absent, path_of, private_folder};
use marquee_domain::artifact::Digest;

use super::Copied;
use crate::blobs::{BlobError, BlobStore};

/// Copies what is not there yet. A file that is missing or damaged is told, and ends nothing.
pub(super) async fn files(
    from: &BlobStore,
    to: &Path,
    digests: &[Digest],
) -> anyhow::Result<Copied> {
    let mut done = Copied {
        copied: 0,
        absent: Vec::new(),
    };
    for digest in digests {
        let place = path_of(to, digest);
        // It was checked when it was copied, and is read as a whole before a restore.
        if place.exists() {
            continue;
        }
        let folder = place.parent().context("a file lies in a folder")?;
        private_folder(folder)?;
        let aside = folder.join(".partial");
        match one(from, digest, &aside).await {
            Ok(()) => {
                fs::rename(&aside, &place).with_context(|| format!("could not write {place:?}"))?;
                // One by one: what comes over a network takes longer than a sync.
                File::open(folder)?.sync_all()?;
                done.copied += 1;
            }
            Err(error) => {
                let why = match error.downcast_ref::<BlobError>() {
                    Some(BlobError::NotFound(_)) => "missing",
                    Some(BlobError::Damaged { .. }) => "damaged",
                    Some(_) | None => return Err(error),
                };
                done.absent.push(Absent::new(digest, why));
                // What came of it before its end was found to be wrong.
                let _is_there = fs::remove_file(&aside);
            }
        }
    }
    Ok(done)
}

/// Verified on the way: who gets its last byte got what the digest says.
async fn one(from: &BlobStore, digest: &Digest, to: &Path) -> anyhow::Result<()> {
    let mut reader = from.read(digest.clone(), 0, None).await?;
    let mut file = File::create(to).with_context(|| format!("could not write {to:?}"))?;
    while let Some(chunk) = reader.next().await? {
        file.write_all(&chunk)
            .with_context(|| format!("could not write {to:?}"))?;
    }
    file.sync_all()
        .with_context(|| format!("could not write {to:?}"))
}
