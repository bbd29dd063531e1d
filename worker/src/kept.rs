//! Outputs that could not be stored, kept for a while: the work is done, and only the way to the coordinator
//! was barred.
//!
//! `kept/<job>-<attempt>-<rank>/` holds `output/`, moved there as it was, and `until`, when it is removed.
//! Without that file it is counted from when the folder was made.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, SubsecRound as _, Utc};
use marquee_domain::RankKey;
use marquee_proto::convert::timestamp;
use marquee_proto::v1;
use tracing::{info, warn};

use crate::durable;
use crate::files;

/// How long an output is kept: over a weekend, and a few days to read about it.
pub const KEPT_FOR: Duration = Duration::from_secs(7 * 24 * 3_600);
/// Outputs kept at once. Of more, those go first that would go first.
pub const KEPT_MAX: usize = 16;

/// The outputs that this worker keeps.
#[derive(Debug, Clone)]
pub struct Kept {
    root: PathBuf,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptOutput {
    pub key: RankKey,
    pub until: DateTime<Utc>,
}

impl Kept {
    /// Those under the worker's data folder.
    #[must_use]
    pub fn new(data_dir: &Path) -> Self {
        Self {
            root: data_dir.join("kept"),
        }
    }

    /// Where the output of a rank is, if it is kept.
    #[must_use]
    pub fn find(&self, key: RankKey) -> Option<PathBuf> {
        let output = self.folder(key).join("output");
        output.is_dir().then_some(output)
    }

    /// Moves an output here. Where it is from now on, and until when.
    pub fn keep(
        &self,
        key: RankKey,
        output: &Path,
        now: DateTime<Utc>,
    ) -> io::Result<(PathBuf, DateTime<Utc>)> {
        let until = (now + KEPT_FOR).trunc_subsecs(0);
        let folder = self.folder(key);
        let place = folder.join("output");
        // It may have been moved by a daemon that was killed before it could say so.
        if !place.is_dir() {
            files::make_folder(&folder)?;
            // A job may have taken that right from itself, and a folder that moves is written to.
            let _ = fs::set_permissions(output, fs::Permissions::from_mode(0o700));
            fs::rename(output, &place)?;
            // On a full disk it has no note, and is kept from the time it came.
            if let Err(error) = self.note(&folder, until) {
                warn!(rank = %key, %error, "until when an output is kept cannot be written down");
            }
        }
        self.sweep(now);
        Ok((place, self.until(&folder).unwrap_or(until)))
    }

    /// Keeps an output no longer.
    pub fn drop_output(&self, key: RankKey) -> io::Result<()> {
        durable::remove_folder(&self.folder(key))
    }

    /// All of them, the first to go first.
    #[must_use]
    pub fn list(&self) -> Vec<KeptOutput> {
        let Ok(entries) = fs::read_dir(&self.root) else {
            // Nothing was ever kept.
            return Vec::new();
        };
        let kept = entries.flatten().filter_map(|entry| {
            let key = entry.file_name().to_str()?.parse().ok()?;
            let until = self.until(&entry.path())?;
            Some(KeptOutput { key, until })
        });
        let mut kept: Vec<KeptOutput> = kept.collect();
        kept.sort_by_key(|kept| (kept.until, kept.key));
        kept
    }

    /// Removes what was kept for long enough, and what is too many.
    pub fn sweep(&self, now: DateTime<Utc>) {
        let kept = self.list();
        let too_many = kept.len().saturating_sub(KEPT_MAX);
        for (index, KeptOutput { key, until }) in kept.into_iter().enumerate() {
            if index >= too_many && until > now {
                continue;
            }
            match self.drop_output(key) {
                Ok(()) => info!(rank = %key, "an output is kept no longer"),
                Err(error) => warn!(rank = %key, %error, "a kept output cannot be removed"),
            }
        }
    }

    /// As the coordinator hears of them.
    #[must_use]
    pub fn to_wire(&self) -> Vec<v1::KeptOutput> {
        let kept = self.list().into_iter().map(|kept| v1::KeptOutput {
            job_id: kept.key.job.0,
            attempt: kept.key.attempt.0,
            rank: kept.key.rank.0,
            path: self.folder(kept.key).join("output").display().to_string(),
            until: Some(timestamp(kept.until)),
        });
        kept.collect()
    }

    fn folder(&self, key: RankKey) -> PathBuf {
        self.root.join(key.to_string())
    }

    fn note(&self, folder: &Path, until: DateTime<Utc>) -> io::Result<()> {
        durable::write(&folder.join("until"), until.to_rfc3339().as_bytes())?;
        durable::sync_parent(folder)
    }

    fn until(&self, folder: &Path) -> Option<DateTime<Utc>> {
        let noted = files::read(&folder.join("until")).ok();
        let noted = noted.and_then(|text| String::from_utf8(text).ok());
        let noted = noted.and_then(|text| DateTime::parse_from_rfc3339(text.trim()).ok());
        match noted {
            Some(until) => Some(until.to_utc()),
            None => {
                let came = fs::metadata(folder).and_then(|found| found.modified());
                came.ok().map(|came| DateTime::<Utc>::from(came) + KEPT_FOR)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(days: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + days * 86_400, 0).unwrap()
    }

    fn keep(kept: &Kept, data: &Path, job: i64, now: DateTime<Utc>) -> PathBuf {
        let output = data.join(format!("attempts-{job}"));
        fs::create_dir(&output).unwrap();
        fs::write(output.join("weights"), "w").unwrap();
        let key = RankKey::new(job, 1, 0);
        let (place, until) = kept.keep(key, &output, now).unwrap();
        assert!(!output.exists() && until == now + KEPT_FOR);
        place
    }

    #[test]
    fn an_output_is_kept_for_seven_days_and_no_longer() {
        let data = tempfile::tempdir().unwrap();
        let kept = Kept::new(data.path());
        assert_eq!(kept.to_wire(), []);
        let place = keep(&kept, data.path(), 7, at(0));
        assert_eq!(fs::read(place.join("weights")).unwrap(), b"w");
        assert_eq!(kept.find(RankKey::new(7, 1, 0)).as_ref(), Some(&place));
        // A daemon that was killed behind the move finds it as it is.
        let again = kept.keep(RankKey::new(7, 1, 0), Path::new("/gone"), at(3));
        assert_eq!(again.unwrap(), (place.clone(), at(0) + KEPT_FOR));
        kept.sweep(at(6));
        assert!(place.exists());
        kept.sweep(at(8));
        assert!(!place.exists() && kept.list().is_empty());
    }

    #[test]
    fn without_its_note_and_read_only_it_is_kept_all_the_same() {
        let data = tempfile::tempdir().unwrap();
        let kept = Kept::new(data.path());
        let output = data.path().join("output");
        fs::create_dir(&output).unwrap();
        fs::set_permissions(&output, fs::Permissions::from_mode(0o500)).unwrap();
        let key = RankKey::new(7, 1, 0);
        kept.keep(key, &output, at(0)).unwrap();
        fs::remove_file(data.path().join("kept/7-1-0/until")).unwrap();
        let made = fs::metadata(data.path().join("kept/7-1-0")).unwrap();
        let made = DateTime::<Utc>::from(made.modified().unwrap());
        assert_eq!(kept.list()[0].until, made + KEPT_FOR);
        kept.sweep(made + KEPT_FOR + Duration::from_secs(1));
        assert_eq!(kept.list(), []);
    }

    #[test]
    fn of_too_many_the_oldest_go() {
        let data = tempfile::tempdir().unwrap();
        let kept = Kept::new(data.path());
        for job in 0..20 {
            keep(
                &kept,
                data.path(),
                job,
                at(0) + Duration::from_secs(job.unsigned_abs()),
            );
        }
        let left: Vec<i64> = kept.list().iter().map(|kept| kept.key.job.0).collect();
        assert_eq!(left, (4..20).collect::<Vec<_>>());
    }
}
