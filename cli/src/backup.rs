//! A copy of the cluster in a folder here, as `marquee-coordinator restore` reads it.
//!
//! The database comes as one dump of one moment, down a stream that begins anew where it breaks. Files come by their
//! digests, each once: what a try has fetched, the next one finds. What was removed meanwhile is missing, and a later
//! moment is taken.
//! Invariant: the manifest is written last (`marquee-backups`). Whenever this ends, the backup of before can be restored.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context as _, anyhow, bail};
use marquee_backups::{
    ARTIFACTS, Absent, DUMP_PARTIAL, Dump, Files, Hashed, MOMENTS_MAX, Manifest, dump_name,
    files_name, is_free_for, path_of, private_folder, tidy,
};
use marquee_domain::artifact::Digest;
use marquee_proto::v1::MomentEnd;
use marquee_proto::v1::moment_part::Part;
use marquee_view::units;
use tempfile::NamedTempFile;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::client::Remote;
use crate::clock;
use crate::error::{CliError, Result};
use crate::requests::backup::moment;
use crate::requests::download;
use crate::requests::resume::Patience;
use crate::say::say;

/// Files that are fetched at once: the answer to one is on its way while another one is written.
const FILES_AT_ONCE: usize = 4;
/// How often each part is begun anew: some minutes in all, with what each try waits by itself.
const TRIES_MAX: u32 = 30;
/// What the coordinator says of a file that it does not have, and of one that it has and that is another one.
const NOT_FOUND: &str = "MQ0204";
const DAMAGED: [&str; 2] = ["MQ0401", "MQ0402"];
/// Refusals that pass by themselves: nobody leads, the database or the object store is away.
const PASSING: [&str; 3] = ["MQ0320", "MQ0501", "MQ0395"];
/// Somebody takes a moment: after a broken connection it may have been this very command.
const TAKEN: &str = "MQ0502";

/// How far a backup is, for whoever shows it.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// The coordinator has answered.
    has_begun: AtomicBool,
    /// Bytes of the dump that came.
    pub(crate) dump: AtomicU64,
    /// Bytes of files that came, and that are to come in all; 0: not known yet.
    pub(crate) files: AtomicU64,
    pub(crate) files_of: AtomicU64,
}

impl Progress {
    pub(crate) fn text(&self) -> String {
        let read = |figure: &AtomicU64| units::bytes(figure.load(Ordering::Relaxed));
        if self.files_of.load(Ordering::Relaxed) == 0 {
            return format!("the database: {} have come", read(&self.dump));
        }
        format!(
            "files: {} of {} have come",
            read(&self.files),
            read(&self.files_of)
        )
    }
}

/// What the coordinator says of a moment before its dump.
#[derive(Debug, Default)]
pub(crate) struct Moment {
    pub(crate) cluster: Uuid,
    storage: Option<Uuid>,
    pub(crate) version: String,
    pub(crate) database_bytes: u64,
    /// With their sizes; 0: not known.
    pub(crate) files: BTreeMap<Digest, u64>,
}

impl Moment {
    fn take(&mut self, part: Part) -> anyhow::Result<()> {
        match part {
            Part::Head(head) => {
                let wrong = "the coordinator names no cluster";
                self.cluster = head.cluster_id.parse().context(wrong)?;
                self.storage = head.storage_id.parse().ok();
                self.version = head.version;
                self.database_bytes = head.database_bytes;
            }
            Part::Files(part) => {
                for file in part.files {
                    let wrong = || format!("the coordinator names a file {:?}", file.digest);
                    let digest = Digest::try_from(file.digest.clone()).with_context(wrong)?;
                    let size = self.files.entry(digest).or_default();
                    *size = (*size).max(file.size_bytes);
                }
            }
            Part::Dump(_) | Part::End(_) => {}
        }
        Ok(())
    }

    /// Those that the folder lacks, and their bytes as far as they are known.
    pub(crate) fn missing(&self, folder: &Path) -> (BTreeMap<Digest, u64>, u64) {
        let root = folder.join(ARTIFACTS);
        let is_missing = |digest: &Digest| !path_of(&root, digest).exists();
        let missing: BTreeMap<Digest, u64> = self
            .files
            .iter()
            .filter(|(digest, _)| is_missing(digest))
            .map(|(digest, size)| (digest.clone(), *size))
            .collect();
        let bytes = units::total(missing.values().copied());
        (missing, bytes)
    }
}

/// What a backup would be made of; nothing is written.
pub(crate) async fn look(remote: &Remote, folder: &Path) -> Result<Moment> {
    let mut found = Moment::default();
    moment(remote, true, |part| Ok(found.take(part)?)).await?;
    is_free_for(folder, found.cluster)?;
    Ok(found)
}

/// Bytes that are free where the folder is, or will be.
pub(crate) fn free_bytes(folder: &Path) -> Option<u64> {
    let existing = folder.ancestors().find(|folder| folder.exists())?;
    let found = nix::sys::statvfs::statvfs(existing).ok()?;
    Some(found.blocks_available() * found.fragment_size())
}

/// A backup that was made.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) manifest: Manifest,
    pub(crate) copied: u64,
    pub(crate) copied_bytes: u64,
}

/// Makes or renews the backup in `folder`.
pub(crate) async fn make(remote: &Remote, folder: &Path, progress: &Arc<Progress>) -> Result<Made> {
    private_folder(folder)?;
    let _taken = marquee_backups::take(folder)?;
    let (mut copied, mut copied_bytes) = (0, 0);
    let mut before = BTreeSet::new();
    let mut number = 0;
    let (taken, dump, absent) = loop {
        number += 1;
        let took = patiently(progress, async || {
            take(remote, folder, number, progress).await
        });
        let (taken, dump) = took.await?;
        let fetch = patiently(progress, async || {
            fetch(remote, folder, &taken, progress).await
        });
        let fetched = fetch.await?;
        copied += fetched.copied;
        copied_bytes += fetched.bytes;
        let gone: BTreeSet<Digest> = fetched
            .absent
            .iter()
            .map(|one| one.digest.clone())
            .collect();
        // What is missing twice was not removed in between: it is missing there, too. After some tries the rest is named as
        // absent: a cluster that removes without end must get a backup too.
        if gone.is_subset(&before) || number == MOMENTS_MAX {
            break (taken, dump, fetched.absent);
        }
        before = gone;
        std::fs::remove_file(folder.join(&dump.file))?;
    };
    let is_there = |digest: &&Digest| absent.iter().all(|one| one.digest != **digest);
    let kept = taken.files.keys().filter(is_there);
    let now = clock::now();
    let files = Files::write(folder, &files_name(now), kept)?;
    let of = (taken.cluster, taken.storage);
    let manifest = Manifest::new(of, (now, &taken.version), dump, files, absent);
    manifest.write(folder)?;
    tidy(folder, &manifest)?;
    Ok(Made {
        manifest,
        copied,
        copied_bytes,
    })
}

/// Does `work` again where what ended it may pass: a coordinator that is started anew, or another one that takes over.
async fn patiently<T>(progress: &Progress, mut work: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let mut patience = Patience::new(false);
    loop {
        let error = match work().await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        // Where nothing has ever come, whoever typed it is told at once.
        if !progress.has_begun.load(Ordering::Relaxed)
            || !may_pass(&error)
            || patience.tries() >= TRIES_MAX
            || patience.is_over()
        {
            return Err(error);
        }
        if patience.tries() == 1 {
            patience.renew();
        }
        patience.pause().await;
    }
}

fn may_pass(error: &CliError) -> bool {
    match error {
        CliError::Unreachable { .. } => true,
        CliError::Refused(refused) => {
            let code = refused.code.as_deref();
            code.is_some_and(|code| PASSING.contains(&code) || code == TAKEN)
        }
        CliError::Usage(_)
        | CliError::JobsFailed(_)
        | CliError::RulesBroken(_)
        | CliError::Interrupted { .. }
        | CliError::Other(_) => false,
    }
}

/// A dump on its way to the folder.
struct Coming<'a> {
    folder: &'a Path,
    moment: Moment,
    /// Made when the first of it comes: what is said before must leave nothing here.
    dump: Option<Hashed<NamedTempFile>>,
    bytes: u64,
}

impl Coming<'_> {
    fn take(&mut self, part: Part) -> anyhow::Result<()> {
        let bytes = match part {
            Part::Dump(bytes) => bytes,
            Part::Head(_) | Part::Files(_) | Part::End(_) => {
                let is_head = matches!(part, Part::Head(_));
                self.moment.take(part)?;
                if is_head {
                    is_free_for(self.folder, self.moment.cluster)?;
                }
                return Ok(());
            }
        };
        let folder = self.folder;
        let writing = || format!("could not write to {}", folder.display());
        let dump = match &mut self.dump {
            Some(dump) => dump,
            None => {
                has_room(&self.moment, folder)?;
                let aside = tempfile::Builder::new()
                    .prefix(DUMP_PARTIAL.0)
                    .suffix(DUMP_PARTIAL.1)
                    .tempfile_in(folder)
                    .with_context(writing)?;
                self.dump.insert(Hashed::new(aside))
            }
        };
        dump.write_all(&bytes).with_context(writing)?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Under its own name, if it is what the coordinator sent.
    fn finish(self, end: &MomentEnd, name: &str) -> anyhow::Result<(Moment, Dump)> {
        let Some(dump) = self.dump else {
            bail!("the coordinator sent no dump of its database");
        };
        let (mut aside, digest) = dump.finish();
        if self.bytes != end.dump_bytes || digest.as_str() != end.dump_sha256 {
            bail!(
                "the dump arrived damaged: {} of {} bytes, and not with the digest that was sent; run this again",
                self.bytes,
                end.dump_bytes
            );
        }
        aside.flush()?;
        let path = self.folder.join(name);
        aside
            .persist(&path)
            .map_err(|error| error.error)
            .with_context(|| format!("could not write {}", path.display()))?;
        // Synced there, and read as it lies on the disk.
        let dump = Dump::of(&path)?;
        Ok((self.moment, dump))
    }
}

/// Whether the files that are to come can fit at all: what is known of that is said before hours are spent.
fn has_room(moment: &Moment, folder: &Path) -> anyhow::Result<()> {
    let (missing, bytes) = moment.missing(folder);
    match free_bytes(folder) {
        Some(free) if free < bytes => Err(anyhow!(
            "{} has no room: {} new files take {}, and {} are free; make room, or name another folder",
            folder.display(),
            missing.len(),
            units::bytes(bytes),
            units::bytes(free)
        )),
        Some(_) | None => Ok(()),
    }
}

async fn take(
    remote: &Remote,
    folder: &Path,
    number: u32,
    progress: &Progress,
) -> Result<(Moment, Dump)> {
    progress.files_of.store(0, Ordering::Relaxed);
    let mut coming = Coming {
        folder,
        moment: Moment::default(),
        dump: None,
        bytes: 0,
    };
    let end = moment(remote, false, |part| {
        coming.take(part)?;
        progress.has_begun.store(true, Ordering::Relaxed);
        progress.dump.store(coming.bytes, Ordering::Relaxed);
        Ok(())
    })
    .await?;
    Ok(coming.finish(&end, &dump_name(clock::now(), number))?)
}

/// What fetching files came to.
#[derive(Default)]
struct Fetched {
    copied: u64,
    bytes: u64,
    absent: Vec<Absent>,
}

/// Fetches what is not there yet. A file that is missing or damaged is told, and ends nothing.
async fn fetch(
    remote: &Remote,
    folder: &Path,
    moment: &Moment,
    progress: &Arc<Progress>,
) -> Result<Fetched> {
    let (missing, bytes) = moment.missing(folder);
    progress.files.store(0, Ordering::Relaxed);
    // One at least: by it is known that the dump is through.
    progress.files_of.store(bytes.max(1), Ordering::Relaxed);
    let root = folder.join(ARTIFACTS);
    let mut waiting = missing.into_iter();
    let mut running = JoinSet::new();
    let mut done = Fetched::default();
    loop {
        while running.len() < FILES_AT_ONCE {
            let Some((digest, size)) = waiting.next() else {
                break;
            };
            let path = path_of(&root, &digest);
            private_folder(path.parent().context("a file lies in a folder")?)?;
            running.spawn(one(remote.clone(), digest, size, path, progress.clone()));
        }
        let Some(ended) = running.join_next().await else {
            return Ok(done);
        };
        let (digest, ended) = ended.context("a download ended without a word")?;
        match ended {
            Ok(bytes) => {
                done.copied += 1;
                done.bytes += bytes;
            }
            Err(error) => match why_absent(&error) {
                Some(why) => done.absent.push(Absent::new(&digest, why)),
                None => return Err(error),
            },
        }
    }
}

async fn one(
    remote: Remote,
    digest: Digest,
    size: u64,
    path: PathBuf,
    progress: Arc<Progress>,
) -> (Digest, Result<u64>) {
    // A file of no bytes and one of which nothing is known are both said to have none.
    let known = Some(size).filter(|size| *size > 0);
    let fetched = download::blob(&remote, (&digest, known), &path, &progress.files).await;
    let bytes = fetched.and_then(|()| Ok(std::fs::metadata(&path)?.len()));
    (digest, bytes)
}

fn why_absent(error: &CliError) -> Option<&'static str> {
    let CliError::Refused(refused) = error else {
        return None;
    };
    match refused.code.as_deref()? {
        NOT_FOUND => Some("missing"),
        code if DAMAGED.contains(&code) => Some("damaged"),
        _ => None,
    }
}

/// Says on stderr what is left where no backup came of it.
pub(crate) fn say_what_stands(folder: &Path) {
    if !folder.exists() {
        return;
    }
    match Manifest::find(folder) {
        Ok(Some(there)) => say!(
            "the backup of {} in {} can be restored as before; the next try goes on with the files that have come",
            there.made_at.format("%Y-%m-%d %H:%M UTC"),
            folder.display()
        ),
        Ok(None) => say!(
            "{} holds no backup yet; the next try goes on with the files that have come",
            folder.display()
        ),
        Err(error) => say!("{error:#}"),
    }
}

#[cfg(test)]
mod tests;
