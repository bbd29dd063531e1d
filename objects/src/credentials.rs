//! The credentials for a bucket: a file, read anew when it changes, so that new ones need no restart.

use std::fmt;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;

/// Bytes of the file: a session's token has some kilobytes.
const FILE_MAX_BYTES: u64 = 64 * 1024;

/// The file, and what it held when it was read last.
pub(crate) struct Credentials {
    path: PathBuf,
    held: Mutex<Option<(Stamp, Arc<AwsCredential>)>>,
}

/// By what a file is known to be the same: a new one has another time or number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: (i64, i64),
    inode: u64,
    bytes: u64,
}

/// What a path and never a secret says.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({:?})", self.path)
    }
}

impl Credentials {
    pub(crate) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            held: Mutex::default(),
        }
    }

    /// What the file holds now, or why that cannot be used.
    pub(crate) fn get(&self) -> Result<Arc<AwsCredential>, String> {
        // The lock is held while a small file is read: whoever waits for it wants the same.
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let path = &self.path;
        let unreadable = |error: io::Error| {
            format!(
                "the credentials file {path:?} cannot be read: {error}; write it, or name another one with s3.credentials"
            )
        };
        // Stamped before it is read: a file that is replaced in between is kept under the earlier
        // stamp, and so read again at the next request.
        let found = fs::metadata(path).map_err(unreadable)?;
        let stamp = Stamp::of(&found);
        if let Some((known, credential)) = &*held
            && *known == stamp
        {
            return Ok(Arc::clone(credential));
        }
        // Refused also where earlier ones are held: going on with those would hide that everybody
        // may read the new ones.
        if found.permissions().mode() & 0o007 != 0 {
            return Err(format!(
                "every account of this host may read the credentials file {path:?}; chmod 0400 it"
            ));
        }
        if found.len() > FILE_MAX_BYTES {
            return Err(format!(
                "the credentials file {path:?} has {} bytes, and {FILE_MAX_BYTES} are the most",
                found.len()
            ));
        }
        let text = fs::read_to_string(path).map_err(unreadable)?;
        let read = parse(&text).map_err(|why| format!("the credentials file {path:?} {why}"));
        match read {
            Ok(credential) => {
                let credential = Arc::new(credential);
                *held = Some((stamp, Arc::clone(&credential)));
                Ok(credential)
            }
            // Somebody writes it just now, most likely: the earlier ones may be good still.
            Err(why) => match &*held {
                Some((_, earlier)) => {
                    tracing::warn!(%why, "going on with the credentials from before");
                    Ok(Arc::clone(earlier))
                }
                None => Err(why),
            },
        }
    }
}

impl Stamp {
    fn of(found: &Metadata) -> Self {
        Self {
            modified: (found.mtime(), found.mtime_nsec()),
            inode: found.ino(),
            bytes: found.len(),
        }
    }
}

#[async_trait]
impl CredentialProvider for Credentials {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        self.get().map_err(|why| object_store::Error::Generic {
            store: CREDENTIALS,
            source: why.into(),
        })
    }
}

/// By this errors about the file are known among those of requests.
pub(crate) const CREDENTIALS: &str = "credentials";

/// Reads the form of `~/.aws/credentials`: the profile `default`, or the only one, or keys without one. No error repeats
/// what stands there.
fn parse(text: &str) -> Result<AwsCredential, String> {
    let (mut profiles, mut names) = (Vec::<Profile>::new(), Vec::<String>::new());
    for (line, number) in text.lines().map(str::trim).zip(1..) {
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = line
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            names.push(name.trim().to_owned());
            profiles.push(Profile::default());
            continue;
        }
        let Some((key, value)) = line.split_once('=') else {
            return Err(format!("has no \"key = value\" in line {number}"));
        };
        if profiles.is_empty() {
            names.push(String::new());
            profiles.push(Profile::default());
        }
        let Some(profile) = profiles.last_mut() else {
            continue;
        };
        let value = value.trim();
        // The crate makes headers of these, and panics over a byte that no header may have.
        if !value.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(format!(
                "has a value with spaces or other than ASCII in line {number}"
            ));
        }
        let value = Some(value.to_owned()).filter(|value| !value.is_empty());
        match key.trim().to_ascii_lowercase().as_str() {
            "aws_access_key_id" => profile.id = value,
            "aws_secret_access_key" => profile.secret = value,
            "aws_session_token" => profile.token = value,
            // Others have more in it, such as a region.
            _ => {}
        }
    }
    let wanted = names.iter().position(|name| name == "default");
    // Of several profiles none is guessed: another one may be of another account.
    let wanted = match (wanted, profiles.len()) {
        (Some(at), _) => at,
        (None, 1) => 0,
        (None, 0) => return Err("is empty".to_owned()),
        (None, _) => return Err("has several profiles, and none is [default]".to_owned()),
    };
    let missing = |key: &str| format!("has no {key}");
    let Profile { id, secret, token } = profiles.swap_remove(wanted);
    Ok(AwsCredential {
        key_id: id.ok_or_else(|| missing("aws_access_key_id"))?,
        secret_key: secret.ok_or_else(|| missing("aws_secret_access_key"))?,
        token,
    })
}

#[derive(Default)]
struct Profile {
    id: Option<String>,
    secret: Option<String>,
    token: Option<String>,
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn the_default_profile_or_the_only_one_is_taken() {
        let only = "aws_access_key_id = A\naws_secret_access_key=s3cret/+=\n";
        let read = parse(only).unwrap();
        assert_eq!(
            (read.key_id.as_str(), read.secret_key.as_str()),
            ("A", "s3cret/+=")
        );
        let named = format!("# ours\n[x]\n{only}\naws_session_token = t\nregion = eu\n");
        assert_eq!(parse(&named).unwrap().token.as_deref(), Some("t"));
        let two = format!("[other]\naws_access_key_id = B\n[ default ]\n{only}");
        assert_eq!(parse(&two).unwrap().key_id, "A");
    }

    #[test]
    fn what_cannot_be_used_is_said_without_repeating_it() {
        for (text, says) in [
            ("", "is empty"),
            ("[a]\n", "no aws_access_key_id"),
            ("aws_access_key_id = A", "no aws_secret_access_key"),
            (
                "aws_access_key_id = A\naws_secret_access_key =",
                "no aws_secret_access_key",
            ),
            ("s3cret", "line 1"),
            ("aws_secret_access_key = s3cret s3cret", "line 1"),
            (
                "[a]\naws_access_key_id=s3cret\n[b]\naws_access_key_id=s3cret",
                "several profiles",
            ),
        ] {
            let Err(why) = parse(text) else {
                panic!("{text:?} was taken");
            };
            assert!(why.contains(says) && !why.contains("s3cret"), "{why}");
        }
    }

    #[test]
    fn new_ones_are_read_when_the_file_changes_and_half_a_file_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s3");
        let write = |text: &str| {
            let aside = folder.path().join("aside");
            fs::write(&aside, text).unwrap();
            fs::set_permissions(&aside, fs::Permissions::from_mode(0o400)).unwrap();
            fs::rename(&aside, &path).unwrap();
        };
        let credentials = Credentials::new(&path);
        assert!(credentials.get().unwrap_err().contains("cannot be read"));
        write("aws_access_key_id = A\naws_secret_access_key = s3cret");
        assert_eq!(credentials.get().unwrap().key_id, "A");
        write("aws_access_key_id = B\naws_secret_access_key = s3cret");
        assert_eq!(credentials.get().unwrap().key_id, "B");
        write("aws_access_key_id = C");
        assert_eq!(credentials.get().unwrap().key_id, "B");
        assert!(!format!("{credentials:?}").contains("s3cret"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
        let open = Credentials::new(&path);
        assert!(open.get().unwrap_err().contains("every account"));
    }
}
