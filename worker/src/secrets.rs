//! Secrets that this host has for jobs, and whose they are. Documents, specs, reports and listings have their names; a
//! value is read from systemd's credentials or the daemon's environment when a child is started, and goes into its
//! environment and nowhere else.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;
use std::str::FromStr;

use marquee_domain::JobName;
use marquee_domain::project::ProjectName;
use marquee_domain::spec::JobSpec;

use crate::files;

/// Where systemd says that a service's credentials are (`LoadCredential=`).
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";
/// A kernel takes no longer variable than 128 KiB.
pub const SECRET_MAX_BYTES: usize = 64 * 1024;

/// A secret and who may name it: every job, those of a project, or those of one name in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    name: String,
    to: Option<(ProjectName, Option<JobName>)>,
}

/// Why a text is no grant. Its text is the settings'.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidGrant;

impl FromStr for Grant {
    type Err = InvalidGrant;

    /// `NAME`, `NAME@project` or `NAME@project/job`.
    fn from_str(text: &str) -> Result<Self, InvalidGrant> {
        let (name, to) = match text.split_once('@') {
            None => (text, None),
            Some((name, to)) => (name, Some(to)),
        };
        let is_fine = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        if name.is_empty() || !name.bytes().all(is_fine) {
            return Err(InvalidGrant);
        }
        let to = to.map(|to| {
            let (project, job) = match to.split_once('/') {
                None => (to, None),
                Some((project, job)) => (project, Some(job)),
            };
            let job = job.map(|job| job.parse().map_err(|_| InvalidGrant));
            Ok((project.parse().map_err(|_| InvalidGrant)?, job.transpose()?))
        });
        Ok(Self {
            name: name.to_owned(),
            to: to.transpose()?,
        })
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)?;
        match &self.to {
            None => Ok(()),
            Some((project, None)) => write!(f, "@{}", project.as_str()),
            Some((project, Some(job))) => write!(f, "@{}/{}", project.as_str(), job.as_str()),
        }
    }
}

impl Grant {
    /// The secret's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether a job that names the secret gets it.
    #[must_use]
    pub fn is_for(&self, spec: &JobSpec) -> bool {
        match &self.to {
            None => true,
            Some((project, job)) => {
                *project == spec.sharing.project && job.as_ref().is_none_or(|job| *job == spec.name)
            }
        }
    }

    /// Whether it is for the jobs of every project.
    #[must_use]
    pub fn is_for_all(&self) -> bool {
        self.to.is_none()
    }

    /// The value: the credential `NAME@project` where it is for a project, else the credential `NAME`, else the
    /// variable. None: there is none.
    pub fn value(&self, env: &BTreeMap<OsString, OsString>) -> io::Result<Option<OsString>> {
        let folder = env.get(OsStr::new(CREDENTIALS)).map(Path::new);
        if let Some(folder) = folder {
            let of_project = self.to.as_ref();
            let of_project =
                of_project.map(|(project, _)| format!("{}@{}", self.name, project.as_str()));
            for credential in of_project.iter().chain([&self.name]) {
                if let Some(value) = credential_of(folder, credential)? {
                    return Ok(Some(value));
                }
            }
        }
        Ok(env.get(OsStr::new(&self.name)).cloned())
    }
}

fn credential_of(folder: &Path, name: &str) -> io::Result<Option<OsString>> {
    let wrong = |why: &str| {
        let text = format!("the credential {name:?} {why}");
        Err(io::Error::new(io::ErrorKind::InvalidData, text))
    };
    let mut bytes = match files::read(&folder.join(name)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    // As an editor leaves it.
    if bytes.ends_with(b"\n") {
        bytes.pop();
    }
    if bytes.len() > SECRET_MAX_BYTES {
        return wrong("is longer than 64 KiB");
    }
    if bytes.contains(&0) {
        return wrong("holds a zero byte, which no variable can");
    }
    Ok(Some(OsString::from_vec(bytes)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn grant(text: &str) -> Grant {
        text.parse().unwrap()
    }

    #[test]
    fn a_grant_is_read_as_it_is_written_and_nonsense_is_none() {
        for text in ["KEY", "KEY_2@vision", "KEY@vision/train-1"] {
            assert_eq!(grant(text).to_string(), text);
        }
        for wrong in [
            "",
            "@",
            "KEY@",
            "@vision",
            "KEY@vision/",
            "KEY@/train",
            "KEY@Vision",
            "KEY@a@b",
            "K-Y",
            "../KEY",
            "KEY@a/b/c",
            "KEY@../a",
        ] {
            assert_eq!(wrong.parse::<Grant>(), Err(InvalidGrant), "{wrong:?}");
        }
    }

    #[test]
    fn a_projects_own_value_goes_before_the_one_of_all_and_that_before_the_variable() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &[u8]| fs::write(dir.path().join(name), text).unwrap();
        let mut env: BTreeMap<OsString, OsString> = BTreeMap::from([
            (CREDENTIALS.into(), dir.path().into()),
            ("KEY".into(), "variable".into()),
        ]);
        let value = |text: &str, env: &BTreeMap<OsString, OsString>| {
            grant(text)
                .value(env)
                .unwrap()
                .map(|value| value.into_string().unwrap())
        };
        assert_eq!(value("KEY@a", &env).as_deref(), Some("variable"));
        put("KEY", b"all\n");
        put("KEY@a", b"a's");
        assert_eq!(value("KEY@a/train", &env).as_deref(), Some("a's"));
        assert_eq!(value("KEY@b", &env).as_deref(), Some("all"));
        assert_eq!(value("KEY", &env).as_deref(), Some("all"));
        assert_eq!(value("OTHER", &env), None);
        for wrong in [vec![b'x'; SECRET_MAX_BYTES + 1], b"a\0b".to_vec()] {
            put("KEY", &wrong);
            assert!(grant("KEY").value(&env).is_err());
        }
        env.remove(OsStr::new(CREDENTIALS));
        assert_eq!(value("KEY@a", &env).as_deref(), Some("variable"));
    }
}
