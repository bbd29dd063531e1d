//! A backup into an empty place. All of it is read and checked before anything is written.

use std::path::Path;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use marquee_backups::{ARTIFACTS, Manifest, path_of};
use marquee_domain::artifact::Digest;
use marquee_domain::env::Random as _;
use marquee_domain::limits::CHUNK_BYTES;
use marquee_store::{Db, Schema};
use tokio::io::AsyncReadExt as _;

use super::dump::Tools;
use super::place_of;
use crate::blobs::BlobStore;
use crate::config::Config;
use crate::database::Database;
use crate::env::SystemRandom;
use crate::{lock, objects};

/// Reads a backup as a restore would, and writes nothing.
pub async fn check(from: &Path) -> anyhow::Result<Manifest> {
    let from = std::path::absolute(from)?;
    tokio::task::spawn_blocking(move || {
        let manifest = Manifest::read(&from)?;
        manifest.verify(&from)?;
        Ok(manifest)
    })
    .await?
}

/// Restores a backup to where the settings say that jobs and artifacts are. Both must be empty.
pub async fn restore(config: &Config, from: &Path) -> anyhow::Result<Manifest> {
    let from = std::path::absolute(from)?;
    let manifest = check(&from).await?;
    let files = manifest.files.read(&from)?;
    // No coordinator may begin here meanwhile.
    let _lock = lock::data_folder(&config.data_dir)?;
    // Its id is that of the backup only where an earlier restore ended half-way, which this one finishes.
    let fresh = manifest.storage_id.unwrap_or_else(|| SystemRandom.uuid());
    let (blobs, storage) = objects::open(config, fresh).await?;
    // It had an id, so somebody keeps files there, or did: a restore mixes with nobody's.
    if storage != fresh {
        match &config.object_store {
            None => bail!(
                "artifacts_dir {:?} is a coordinator's already; a restore is into an empty folder",
                config.artifacts_dir
            ),
            Some(store) => bail!(
                "bucket {:?} is a coordinator's already under this prefix ({:?}); a restore is into an empty one: set another s3.prefix",
                store.bucket,
                store.prefix
            ),
        }
    }
    let database = Database::start(config).await?;
    let done = fill(config, &database.url, &from, &manifest, &files, &blobs).await;
    database.stop().await;
    done?;
    Ok(manifest)
}

async fn fill(
    config: &Config,
    url: &str,
    from: &Path,
    manifest: &Manifest,
    files: &[Digest],
    blobs: &BlobStore,
) -> anyhow::Result<()> {
    let db = Db::connect(url, SystemRandom.uuid())
        .await
        .context("could not connect to the database")?;
    if !db.is_empty().await? {
        bail!("the database has tables already; a restore is into an empty one");
    }
    // Files first: a database without its files would be taken for whole.
    for digest in files {
        store(blobs, digest, &path_of(&from.join(ARTIFACTS), digest)).await?;
    }
    let (tools, dump) = (
        Tools::find(&place_of(config))?,
        from.join(&manifest.dump.file),
    );
    let url = url.to_owned();
    tokio::task::spawn_blocking(move || tools.restore(&url, &dump)).await??;
    if db.schema().await? == Schema::BeforeLeaders {
        bail!("the dump has no tables of Marquee");
    }
    db.close().await;
    Ok(())
}

async fn store(blobs: &BlobStore, digest: &Digest, path: &Path) -> anyhow::Result<()> {
    let reading = || format!("could not read {path:?}");
    let mut file = tokio::fs::File::open(path).await.with_context(reading)?;
    let bytes = file.metadata().await.with_context(reading)?.len();
    let mut blob = blobs.write(digest.clone(), bytes).await?;
    loop {
        let mut chunk = vec![0; CHUNK_BYTES];
        let got = file.read(&mut chunk).await.with_context(reading)?;
        if got == 0 {
            break;
        }
        chunk.truncate(got);
        blob.push(Bytes::from(chunk)).await?;
    }
    Ok(blob.finish().await?)
}
