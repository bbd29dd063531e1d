//! `marquee-coordinator backup FOLDER` and `restore FOLDER`: the database and the files that it names, as one. The same for
//! `marquee admin backup`, which asks for it from elsewhere ([`moment`]).
//!
//! The backup is of one moment: what the database was when the copy began, and every file that it named then. A cluster
//! at work goes on meanwhile; a file that it removed in between is found missing, and a later moment is taken. Files are
//! copied once: a second backup into the same folder adds what is new.
//!
//! Not here: the folder itself (`marquee-backups`), and settings, keys and certificates (`/etc/marquee`), which are no part
//! of the jobs.

mod dump;
pub mod dumps;
mod fetch;
pub mod moment;
mod restore;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use marquee_backups::{
    ARTIFACTS, Absent, Dump, Files, Hashed, MOMENTS_MAX, Manifest, dump_name, files_name,
    is_free_for, path_of, private_folder, take, tidy,
};
use marquee_domain::artifact::Digest;
use marquee_domain::env::{Clock as _, Random as _};
use marquee_domain::ids::PipelineId;
use marquee_store::{Db, backup as store};

use self::dump::{Place, Tools};
use self::dumps::Dumps;
pub use self::restore::{check, restore};
use crate::config::Config;
use crate::database::Database;
use crate::env::{SystemClock, SystemRandom};
use crate::{lock, objects};

/// Pipelines whose files are listed at once.
const PIPELINES_AT_ONCE: u32 = 100;

/// What a backup came to.
#[derive(Debug)]
pub struct Backup {
    pub manifest: Manifest,
    pub copied: usize,
}

impl Backup {
    /// For people.
    #[must_use]
    pub fn text(&self, folder: &Path) -> String {
        let Manifest { files, dump, .. } = &self.manifest;
        format!(
            "backed up to {}: a database of {} bytes and {} files of {} bytes, {} of which were copied now\n",
            folder.display(),
            dump.bytes,
            files.count,
            files.bytes,
            self.copied
        )
    }
}

/// The database to be read, and what keeps it there.
pub(crate) struct Source {
    url: String,
    /// A private Postgres that we started, with the lock of its folder.
    own: Option<(Database, File)>,
}

/// What moments for `marquee admin backup` are made of; `url` is of the database that the coordinator works with.
#[must_use]
pub fn dumps(config: &Config, url: &str) -> Dumps {
    Dumps::of(url, place_of(config))
}

fn place_of(config: &Config) -> Place {
    Place {
        data_dir: config.data_dir.clone(),
        postgres_bin: config.postgres_bin.clone(),
        is_elsewhere: config.database_url.is_some(),
    }
}

/// Makes or renews the backup in `to`.
pub async fn backup(config: &Config, to: &Path) -> anyhow::Result<Backup> {
    let to = std::path::absolute(to)?;
    private_folder(&to)?;
    let _taken = take(&to)?;
    let source = Source::open(config).await?;
    let made = copy(config, &source.url, &to).await;
    source.close().await;
    made
}

impl Source {
    pub(crate) async fn open(config: &Config) -> anyhow::Result<Self> {
        if let Some(url) = &config.database_url {
            return Ok(Self {
                url: url.get()?.to_owned(),
                own: None,
            });
        }
        let data_dir = &config.data_dir;
        if !marquee_postgres::is_made(data_dir) {
            bail!(
                "there are no jobs in data_dir {data_dir:?} (or this account may not look there); name the settings of the coordinator with --config, or its folder with --data-dir"
            );
        }
        let owner = fs::metadata(data_dir)?.uid();
        let is_ours = nix::unistd::geteuid().as_raw() == owner;
        // Without its lock a coordinator may begin any time; with it none does.
        match is_ours.then(|| lock::data_folder(data_dir)) {
            Some(Ok(lock)) => {
                let database = Database::start(config).await?;
                Ok(Self {
                    url: database.url.clone(),
                    own: Some((database, lock)),
                })
            }
            Some(Err(_)) | None => match marquee_postgres::running(data_dir) {
                Some(url) => Ok(Self { url, own: None }),
                None => bail!(
                    "no Postgres runs in data_dir {data_dir:?}; start the coordinator, or run this as the account that the folder belongs to (user id {owner})"
                ),
            },
        }
    }

    /// Holds a password: not for logs.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) async fn close(self) {
        if let Some((database, lock)) = self.own {
            database.stop().await;
            drop(lock);
        }
    }
}

async fn copy(config: &Config, url: &str, to: &Path) -> anyhow::Result<Backup> {
    let tools = Tools::find(&place_of(config))?;
    let db = Db::connect(url, SystemRandom.uuid())
        .await
        .context("could not connect to the database")?;
    let mut conn = db.read().await?;
    let cluster = marquee_store::cluster::get_cluster_id(&mut conn).await?;
    tools.can_read(store::get_server_major(&mut conn).await?)?;
    drop(conn);
    is_free_for(to, cluster)?;
    // Looked at and not opened as at a start: a backup gives no id to a bucket that has none.
    let bucket = objects::source(config).await?;
    let storage = match &bucket {
        Some((_, storage)) => *storage,
        None => fs::read_to_string(config.artifacts_dir.join("storage-id"))
            .ok()
            .and_then(|text| text.trim().parse().ok()),
    };
    let mut before = BTreeSet::new();
    let mut moment = 0;
    let mut copied = 0;
    let (dump, named, absent) = loop {
        moment += 1;
        let name = dump_name(SystemClock.now(), moment);
        let (dump, named) = dump_and_list(&db, url, &tools, &to.join(name)).await?;
        let (from, place) = (config.artifacts_dir.clone(), to.join(ARTIFACTS));
        let files = named.clone();
        let done = match &bucket {
            Some((blobs, _)) => fetch::files(blobs, &place, &files).await?,
            None => {
                tokio::task::spawn_blocking(move || copy_files(&from, &place, &files)).await??
            }
        };
        copied += done.copied;
        let gone: BTreeSet<Digest> = done.absent.iter().map(|one| one.digest.clone()).collect();
        // What is missing twice was not removed in between: it is missing there, too.
        // After some tries the rest is named as absent: a cluster that removes without end must get a backup
        // too.
        if gone.is_subset(&before) || moment == MOMENTS_MAX {
            break (dump, named, done.absent);
        }
        before = gone;
        fs::remove_file(to.join(&dump.file))?;
    };
    db.close().await;
    let absent_names: BTreeSet<&Digest> = absent.iter().map(|one| &one.digest).collect();
    let kept = named.iter().filter(|digest| !absent_names.contains(digest));
    let files = Files::write(to, &files_name(SystemClock.now()), kept)?;
    let made = (SystemClock.now(), env!("CARGO_PKG_VERSION"));
    let manifest = Manifest::new((cluster, storage), made, dump, files, absent);
    manifest.write(to)?;
    tidy(to, &manifest)?;
    Ok(Backup { manifest, copied })
}

/// A dump and the files that it names, both of one moment.
async fn dump_and_list(
    db: &Db,
    url: &str,
    tools: &Tools,
    file: &Path,
) -> anyhow::Result<(Dump, Vec<Digest>)> {
    let mut snapshot = db.snapshot().await?;
    let name = store::export_snapshot(&mut snapshot).await?;
    let mut dumping = tools.dump(url, &name, file)?;
    let mut named = BTreeSet::new();
    let mut after = PipelineId(0);
    // While pg_dump is at work, on the snapshot that it reads as well.
    while let Some((last, files)) =
        store::list_named_files(&mut snapshot, after, PIPELINES_AT_ONCE).await?
    {
        named.extend(files.into_iter().map(|file| file.digest));
        after = last;
    }
    // The dump has the moment for its own only once it has begun.
    while !dumping.has_ended()? {
        store::keep_snapshot(&mut snapshot).await?;
        tokio::time::sleep(dump::LOOK_EVERY).await;
    }
    drop(snapshot);
    dumping.finish()?;
    Ok((Dump::of(file)?, named.into_iter().collect()))
}

/// What a copy of files came to.
struct Copied {
    copied: usize,
    absent: Vec<Absent>,
}

/// Copies what is not there yet. A file that is missing or damaged is told, and ends nothing.
fn copy_files(from: &Path, to: &Path, digests: &[Digest]) -> anyhow::Result<Copied> {
    let mut done = Copied {
        copied: 0,
        absent: Vec::new(),
    };
    let mut folders = BTreeSet::new();
    for digest in digests {
        let place = path_of(to, digest);
        // It was checked when it was copied, and is read as a whole before a restore.
        if place.exists() {
            continue;
        }
        let source = path_of(from, digest);
        let folder = place.parent().context("a file lies in a folder")?;
        private_folder(folder)?;
        let aside = folder.join(".partial");
        match copy_checked(&source, &aside) {
            Ok(found) if found == *digest => {
                fs::rename(&aside, &place).with_context(|| format!("could not write {place:?}"))?;
                folders.insert(folder.to_owned());
                done.copied += 1;
            }
            Ok(_) => {
                fs::remove_file(&aside)?;
                done.absent.push(Absent::new(digest, "damaged"));
            }
            // Asked of the source itself: what was not found may have been the place to write to.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !source.exists() => {
                done.absent.push(Absent::new(digest, "missing"));
            }
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("could not copy {source:?} to {place:?}"));
            }
        }
    }
    // Once a folder, not once a file: a sync is what takes long here.
    for folder in folders {
        File::open(folder)?.sync_all()?;
    }
    Ok(done)
}

/// Copies a file durably, and gives the digest of what was written.
fn copy_checked(from: &Path, to: &Path) -> io::Result<Digest> {
    let mut from = File::open(from)?;
    let mut hashed = Hashed::new(File::create(to)?);
    io::copy(&mut from, &mut hashed)?;
    let (file, digest) = hashed.finish();
    file.sync_all()?;
    Ok(digest)
}

#[cfg(test)]
mod tests;
