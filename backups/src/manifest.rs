//! What a backup says of itself, in `manifest.json`, and its list of files.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use chrono::{DateTime, Utc};
use marquee_domain::artifact::Digest;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{ARTIFACTS, digest_of, path_of};

const FILE: &str = "manifest.json";
/// Of this layout. A newer one is refused; what this one does not know of it could be lost.
const FORMAT: u32 = 1;

/// What every layout says, read before anything else of it: a later one may have changed all the rest.
#[derive(Debug, Deserialize)]
struct Head {
    format: u32,
    #[serde(default)]
    version: String,
}

/// A backup.
#[derive(Debug, Serialize, Deserialize)]
pub struct Manifest {
    format: u32,
    pub made_at: DateTime<Utc>,
    /// The version of the coordinator's program.
    pub version: String,
    pub cluster_id: Uuid,
    /// The id of the folder of artifacts, by which coordinators know it.
    pub storage_id: Option<Uuid>,
    pub dump: Dump,
    pub files: Files,
    /// Files that jobs name and that the coordinator itself did not have.
    pub absent: Vec<Absent>,
}

/// The database, as `pg_dump --format=custom` wrote it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Dump {
    pub file: String,
    pub bytes: u64,
    sha256: String,
}

/// The list of files: a digest a line.
#[derive(Debug, Serialize, Deserialize)]
pub struct Files {
    pub file: String,
    pub count: u64,
    /// Of the files that it lists.
    pub bytes: u64,
    sha256: String,
}

/// A file that could not be taken along.
#[derive(Debug, Serialize, Deserialize)]
pub struct Absent {
    pub digest: Digest,
    pub why: String,
}

impl Absent {
    #[must_use]
    pub fn new(digest: &Digest, why: &str) -> Self {
        Self {
            digest: digest.clone(),
            why: why.to_owned(),
        }
    }
}

impl Manifest {
    /// `of`: the cluster and its folder of artifacts; `made`: when, and by which version.
    #[must_use]
    pub fn new(
        of: (Uuid, Option<Uuid>),
        made: (DateTime<Utc>, &str),
        dump: Dump,
        files: Files,
        absent: Vec<Absent>,
    ) -> Self {
        Self {
            format: FORMAT,
            made_at: made.0,
            version: made.1.to_owned(),
            cluster_id: of.0,
            storage_id: of.1,
            dump,
            files,
            absent,
        }
    }

    /// What it is of, for people.
    #[must_use]
    pub fn text(&self) -> String {
        format!(
            "backup of cluster {} from {}: {} files, all as the manifest says; ",
            self.cluster_id, self.made_at, self.files.count
        )
    }

    /// In place of an earlier one, in one step.
    pub fn write(&self, folder: &Path) -> anyhow::Result<()> {
        write_durably(folder, FILE, &serde_json::to_vec_pretty(self)?)
    }

    /// That of a folder which may have none.
    pub fn find(folder: &Path) -> anyhow::Result<Option<Self>> {
        let path = folder.join(FILE);
        match path.try_exists() {
            Ok(false) => Ok(None),
            Ok(true) => Self::read(folder).map(Some),
            Err(error) => Err(error).with_context(|| format!("could not look at {path:?}")),
        }
    }

    /// That of a folder which has one.
    pub fn read(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join(FILE);
        let text = fs::read_to_string(&path).with_context(|| {
            format!("{folder:?} holds no finished backup: could not read {path:?}")
        })?;
        let is_none = || format!("{path:?} is no manifest of a backup");
        let head: Head = serde_json::from_str(&text).with_context(is_none)?;
        if head.format > FORMAT {
            bail!(
                "{path:?} was written by marquee-coordinator {}, in a form that this one does not know; restore with that version or a newer one",
                head.version
            );
        }
        let manifest: Self = serde_json::from_str(&text).with_context(is_none)?;
        for file in [&manifest.dump.file, &manifest.files.file] {
            // What lies elsewhere is no part of the backup, whoever wrote its name here.
            if Path::new(file).file_name() != Some(file.as_ref()) {
                bail!(
                    "{path:?} names {file:?}, which is no file of this folder; use another backup"
                );
            }
        }
        Ok(manifest)
    }

    /// Reads all of it: what is not what it says is an error.
    pub fn verify(&self, folder: &Path) -> anyhow::Result<Vec<Digest>> {
        for (file, sha256) in [
            (&self.dump.file, &self.dump.sha256),
            (&self.files.file, &self.files.sha256),
        ] {
            let path = folder.join(file);
            let (digest, _) =
                digest_of(&path).with_context(|| format!("could not read {path:?}"))?;
            if digest.as_str() != sha256 {
                bail!(
                    "{path:?} is not what the manifest says: it was changed, or the disk damaged it; use another backup"
                );
            }
        }
        // Each file is read: a backup that only looks whole is found out now and not when it is needed.
        let files = self.files.read(folder)?;
        for digest in &files {
            let path = path_of(&folder.join(ARTIFACTS), digest);
            let (found, _) =
                digest_of(&path).with_context(|| format!("could not read {path:?}"))?;
            if found != *digest {
                bail!(
                    "{path:?} is damaged; remove it and make the backup anew, or use another backup"
                );
            }
        }
        Ok(files)
    }
}

impl Dump {
    /// A dump that lies in the folder of its backup.
    pub fn of(path: &Path) -> anyhow::Result<Self> {
        File::open(path)?.sync_all()?;
        let (digest, bytes) = digest_of(path)?;
        let name = path.file_name().context("a dump has a name")?;
        Ok(Self {
            file: name.to_string_lossy().into_owned(),
            bytes,
            sha256: digest.to_string(),
        })
    }
}

impl Files {
    /// Writes the list of files, all of which lie in the folder.
    pub fn write<'a>(
        folder: &Path,
        file: &str,
        digests: impl Iterator<Item = &'a Digest>,
    ) -> anyhow::Result<Self> {
        let (mut text, mut count, mut bytes) = (String::new(), 0, 0);
        for digest in digests {
            let path = path_of(&folder.join(ARTIFACTS), digest);
            bytes += fs::metadata(&path)
                .with_context(|| format!("could not look at {path:?}"))?
                .len();
            count += 1;
            writeln!(text, "{digest}")?;
        }
        write_durably(folder, file, text.as_bytes())?;
        Ok(Self {
            file: file.to_owned(),
            count,
            bytes,
            sha256: Digest::of(text.as_bytes()).to_string(),
        })
    }

    /// The files that it lists.
    pub fn read(&self, folder: &Path) -> anyhow::Result<Vec<Digest>> {
        let path = folder.join(&self.file);
        let text = fs::read_to_string(&path).with_context(|| format!("could not read {path:?}"))?;
        text.lines()
            .map(|line| {
                let digest = Digest::try_from(line.to_owned());
                digest.with_context(|| format!("{path:?} holds {line:?}"))
            })
            .collect()
    }
}

fn write_durably(folder: &Path, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
    // In the same folder: only within one file system does a rename replace a file in one step.
    let (path, aside) = (folder.join(name), folder.join(format!(".{name}.new")));
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&aside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&aside, &path)?;
        File::open(folder)?.sync_all()
    };
    let written = write();
    if written.is_err() {
        // Of a full disk it would keep what there was left.
        let _ = fs::remove_file(&aside);
    }
    written.with_context(|| format!("could not write {path:?}"))
}

#[cfg(test)]
mod tests;
