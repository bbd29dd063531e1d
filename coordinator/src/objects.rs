//! Where artifacts lie, by the settings: a folder, or a bucket of an object store.
//!
//! A coordinator that was built without object stores says so where the settings name one: what would it do instead?

use std::path::Path;

use marquee_domain::doctor::Check;
use uuid::Uuid;

use crate::blobs::BlobStore;
use crate::config::{Config, ObjectStore};

/// Opens the store, and gives its id: `fresh` if it has none yet.
pub async fn open(config: &Config, fresh: Uuid) -> anyhow::Result<(BlobStore, Uuid)> {
    let blobs = match &config.object_store {
        None => BlobStore::open(config.artifacts_dir.clone()).await?,
        Some(store) => built::blobs(store)?,
    };
    let storage = blobs.storage(fresh).await?;
    if config.object_store.is_some() {
        built::is_moved(&blobs, config).await?;
    }
    Ok((blobs, storage))
}

/// The bucket of the settings, to be read, and its id. None: artifacts lie in a folder.
pub async fn source(config: &Config) -> anyhow::Result<Option<(BlobStore, Option<Uuid>)>> {
    match &config.object_store {
        None => Ok(None),
        Some(store) => Ok(Some(built::source(store).await?)),
    }
}

/// Whether the bucket of the settings does all that is asked of it. None: artifacts lie in a folder.
pub async fn probe(config: &Config) -> Option<Check> {
    Some(built::probe(config.object_store.as_ref()?).await)
}

/// What a copy of a folder's files came to.
#[derive(Debug, Default)]
pub struct Copied {
    pub files: u64,
    pub bytes: u64,
    /// Files of the folder that were in the bucket already.
    pub were_there: u64,
    /// Files that are not what their name says, which nobody could use any more.
    pub damaged: u64,
}

/// Copies the files of `artifacts_dir` to the bucket of the settings. What is there already is not copied again. Says now
/// and then how far it is.
pub async fn copy(config: &Config, say: impl Fn(&str)) -> anyhow::Result<Copied> {
    anyhow::ensure!(
        config.object_store.is_some(),
        "the settings name no bucket to copy to; set s3.bucket and s3.credentials (docs/object-stores.md)"
    );
    built::copy(config, say).await
}

/// The id of a folder of blobs that has any; None: there are none, so nothing has to be copied.
#[cfg_attr(
    not(feature = "s3"),
    expect(dead_code, reason = "asked only where there are buckets")
)]
fn folder_with_files(folder: &Path) -> Option<Uuid> {
    let id = std::fs::read_to_string(folder.join("storage-id")).ok()?;
    let mut entries = std::fs::read_dir(folder).ok()?.flatten();
    // Those of blobs have two digits.
    let has_any = entries.any(|entry| {
        entry.file_name().len() == 2
            && std::fs::read_dir(entry.path()).is_ok_and(|mut files| files.next().is_some())
    });
    has_any.then(|| id.trim().parse().ok()).flatten()
}

#[cfg(not(feature = "s3"))]
mod built {
    use super::{BlobStore, Check, Config, Copied, ObjectStore};

    const NOT_BUILT: &str = "the settings name a bucket (s3.bucket), and this marquee-coordinator was built without object stores";
    const CURE: &str = "install the one of the packages, which has them, or build it: cargo build --release --package marquee-coordinator --features s3";

    fn not_built<T>() -> anyhow::Result<T> {
        anyhow::bail!("{NOT_BUILT}; {CURE}")
    }

    pub(super) fn blobs(_: &ObjectStore) -> anyhow::Result<BlobStore> {
        not_built()
    }

    pub(super) async fn is_moved(_: &BlobStore, _: &Config) -> anyhow::Result<()> {
        not_built()
    }

    pub(super) async fn source(_: &ObjectStore) -> anyhow::Result<(BlobStore, Option<uuid::Uuid>)> {
        not_built()
    }

    pub(super) async fn probe(_: &ObjectStore) -> Check {
        Check::failed("bucket", NOT_BUILT, CURE)
    }

    pub(super) async fn copy(_: &Config, _: impl Fn(&str)) -> anyhow::Result<Copied> {
        not_built()
    }
}

#[cfg(feature = "s3")]
mod built {
    use std::time::{Duration, Instant};

    use anyhow::{Context as _, bail};
    use chrono::{DateTime, Utc};
    use futures::{StreamExt as _, TryStreamExt as _, stream};
    use marquee_domain::artifact::Digest;
    use marquee_domain::env::Random as _;
    use marquee_objects::{Addressing, Place, Store};
    use uuid::Uuid;

    use super::{BlobStore, Check, Config, Copied, ObjectStore, folder_with_files};
    use crate::blobs::{BlobError, Bucket, LEAST_PART_BYTES, Marks};
    use crate::env::SystemRandom;
    use crate::lock;

    /// Files that are copied at once.
    const AT_ONCE: usize = 8;
    /// Files that are asked for at once.
    const ASKED_AT_ONCE: usize = 10_000;
    const SAY_EVERY: Duration = Duration::from_secs(5);

    fn bucket(store: &ObjectStore) -> anyhow::Result<Bucket> {
        let opened = Store::open(&place(store)?)?;
        Ok(Bucket::new(opened, LEAST_PART_BYTES))
    }

    fn place(store: &ObjectStore) -> anyhow::Result<Place> {
        let text = store.credentials.to_string_lossy();
        if let Some(name) = text.strip_prefix("credential:") {
            bail!(
                "s3.credentials is the credential {name:?}, which only the service has; for this command name its file: MARQUEE_COORDINATOR__S3__CREDENTIALS=/PATH"
            );
        }
        Ok(Place {
            bucket: store.bucket.clone(),
            region: store.region.clone(),
            endpoint: store.endpoint.clone(),
            prefix: store.prefix.clone(),
            addressing: match store.is_virtual {
                true => Addressing::Virtual,
                false => Addressing::Path,
            },
            credentials: store.credentials.clone(),
            ca: store.ca.clone(),
        })
    }

    pub(super) fn blobs(store: &ObjectStore) -> anyhow::Result<BlobStore> {
        Ok(BlobStore::in_bucket(bucket(store)?))
    }

    pub(super) async fn source(store: &ObjectStore) -> anyhow::Result<(BlobStore, Option<Uuid>)> {
        let bucket = bucket(store)?;
        let storage = Marks(&bucket).storage().await?;
        Ok((BlobStore::in_bucket(bucket), storage))
    }

    /// Refuses to begin with a bucket while the files of before lie in a folder: every artifact would count as lost.
    pub(super) async fn is_moved(_: &BlobStore, config: &Config) -> anyhow::Result<()> {
        let (Some(folder), Some(store)) = (
            folder_with_files(&config.artifacts_dir),
            &config.object_store,
        ) else {
            return Ok(());
        };
        if Marks(&bucket(store)?).has_copied(folder).await? {
            return Ok(());
        }
        bail!(
            "artifacts of before lie in {:?} and were not copied to the bucket of the settings: run \"marquee-coordinator copy-artifacts\" (docs/object-stores.md), or move that folder away if nothing in it is wanted any more",
            config.artifacts_dir
        )
    }

    pub(super) async fn probe(store: &ObjectStore) -> Check {
        let name = "bucket";
        let opened = match place(store) {
            Ok(place) => Store::open(&place),
            Err(error) => return Check::skipped(name, error.to_string()),
        };
        let probed = match &opened {
            Ok(opened) => opened.probe().await,
            Err(trouble) => Err(trouble.clone()),
        };
        match probed {
            Ok(probed) if probed.warnings.is_empty() => {
                let found = format!("{}: written, read, listed and deleted", shown(store));
                Check::ok(name, found)
            }
            Ok(probed) => Check::warning(
                name,
                probed.warnings.join("; "),
                "docs/object-stores.md says what that costs",
            ),
            Err(trouble) => {
                // The errors of that crate end with their cure.
                let text = trouble.to_string();
                let (found, cure) = text
                    .rsplit_once("; ")
                    .unwrap_or((&text, "see docs/object-stores.md"));
                Check::failed(name, found, cure)
            }
        }
    }

    fn shown(store: &ObjectStore) -> String {
        place(store).map_or_else(|_| store.bucket.clone(), |place| place.to_string())
    }

    pub(super) async fn copy(config: &Config, say: impl Fn(&str)) -> anyhow::Result<Copied> {
        let Some(store) = &config.object_store else {
            return Ok(Copied::default());
        };
        let Some(folder) = folder_with_files(&config.artifacts_dir) else {
            bail!(
                "there are no artifacts in {:?} (or this account may not look there); artifacts_dir names the folder of before",
                config.artifacts_dir
            );
        };
        // Nothing may come to the folder between the last look and the mark that all of it is there.
        let alone = lock::data_folder(&config.data_dir);
        let bucket = bucket(store)?;
        let to = BlobStore::in_bucket(bucket.clone());
        to.storage(SystemRandom.uuid()).await?;
        let from = BlobStore::open(config.artifacts_dir.clone()).await?;
        let all = from.list_older(DateTime::<Utc>::MAX_UTC).await?;
        let mut copied = Copied::default();
        let mut said = Instant::now();
        let count = all.len();
        for some in all.chunks(ASKED_AT_ONCE) {
            let missing = to.missing(some.to_vec()).await?;
            copied.were_there += (some.len() - missing.len()) as u64;
            let mut files = stream::iter(missing)
                .map(|digest| one(&from, &to, digest))
                .buffer_unordered(AT_ONCE);
            while let Some(bytes) = files.try_next().await? {
                match bytes {
                    Some(bytes) => {
                        copied.files += 1;
                        copied.bytes += bytes;
                    }
                    None => copied.damaged += 1,
                }
                if said.elapsed() > SAY_EVERY {
                    said = Instant::now();
                    let done = copied.files + copied.were_there + copied.damaged;
                    say(&format!("{done} of {count} files are there"));
                }
            }
        }
        // Only now: what was copied while a coordinator was at work is there when it is stopped,
        // and the second run is short.
        if let Err(error) = alone {
            return Err(error).with_context(|| {
                format!(
                    "{} files were copied, and {} were there; while a coordinator is at work more may come: stop it and run this once more, which copies what is new",
                    copied.files, copied.were_there
                )
            });
        }
        // Last, and only while no coordinator is at work on this host: by this mark a start believes
        // that it needs nothing of the folder any more.
        Marks(&bucket).note_copied(folder).await?;
        Ok(copied)
    }

    /// Copies a file, and gives its bytes. None: it is damaged, and stays.
    async fn one(from: &BlobStore, to: &BlobStore, digest: Digest) -> anyhow::Result<Option<u64>> {
        let bytes = from.bytes_of(vec![digest.clone()]).await?;
        let mut offset = to.begun(&digest).await?;
        loop {
            let mut writer = match to.write_from(digest.clone(), bytes, offset).await {
                Ok(writer) => writer,
                // What is there of it is no use any more.
                Err(BlobError::Moved(_)) if offset > 0 => {
                    offset = 0;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let mut reader = from.read(digest.clone(), offset, None).await?;
            loop {
                match reader.next().await {
                    Ok(Some(chunk)) => writer.push(chunk).await?,
                    Ok(None) => break,
                    Err(BlobError::Damaged { .. }) => return Ok(None),
                    Err(error) => return Err(error.into()),
                }
            }
            return match writer.finish().await {
                Ok(()) => Ok(Some(bytes)),
                Err(BlobError::WrongDigest { .. }) => Ok(None),
                // From the beginning, where it went on with something that was not this file.
                Err(BlobError::Moved(_)) if offset > 0 => {
                    offset = 0;
                    continue;
                }
                Err(error) => Err(error.into()),
            };
        }
    }
}
