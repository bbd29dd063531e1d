//! What joining left in the data folder: this worker's certificate with its key, the authorities to believe, and where
//! the coordinator is. With it the daemon needs no other setting to find its cluster.
//!
//! | file of `tls/` | holds |
//! |---|---|
//! | `identity.pem` | certificate and key in one, so that the two are replaced together |
//! | `ca.pem` | the authorities to believe |
//! | `joined.json` | the coordinators; written last, so that it is there only when all the rest is |
//! | `joining.key` | the key of a join that is under way: asked again with it, a token is not used twice |

use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use marquee_domain::join_token::COORDINATOR_NAME;
use marquee_proto::certificate::bundle::{self, Authority};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use serde::{Deserialize, Serialize};

use crate::{durable, files};

/// Contents of PEM files by which TLS is spoken: those of `[tls]`, or those that joining left.
#[derive(Clone, PartialEq, Eq)]
pub struct Tls {
    pub ca: String,
    /// Certificate and key of this worker.
    pub identity: Option<(String, String)>,
    /// The name that the coordinator's certificate must have; None: that of its address.
    pub server_name: Option<String>,
    /// Where the files lie, if joining left them there: they are renewed.
    pub member: Option<Folder>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls")
            .field("identity", &self.identity.is_some())
            .field("member", &self.member)
            .finish_non_exhaustive()
    }
}

/// Who adds to what is believed does so after the other: a certificate that is renewed brings authorities too, and of two
/// at once one would be forgotten.
static BELIEVING: Mutex<()> = Mutex::new(());

/// The files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder(PathBuf);

/// Where a worker that joined finds its cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// URLs.
    pub coordinators: Vec<String>,
    /// The name that it joined by. The coordinator may know it by another one since.
    pub name: String,
}

/// Why what is there cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    #[error("{path:?} cannot be read: {source}; join again (\"marquee-worker join\")")]
    Unreadable { path: PathBuf, source: io::Error },
    #[error(
        "other accounts of this host can read {path:?}, which holds this worker's key (mode {mode:04o}); close it with \"chmod 600 {}\", and if somebody may have read it, revoke this worker and join again", path.display()
    )]
    Open { path: PathBuf, mode: u32 },
}

impl Folder {
    #[must_use]
    pub fn of(data_dir: &Path) -> Self {
        Self(data_dir.join("tls"))
    }

    /// The file with the key.
    #[must_use]
    pub fn identity(&self) -> PathBuf {
        self.0.join("identity.pem")
    }

    fn ca(&self) -> PathBuf {
        self.0.join("ca.pem")
    }

    fn joined(&self) -> PathBuf {
        self.0.join("joined.json")
    }

    fn joining_key(&self) -> PathBuf {
        self.0.join("joining.key")
    }

    /// What joining left; None: this worker has not joined.
    pub fn read(&self) -> Result<Option<(Joined, Tls)>, MemberError> {
        let unreadable = |path: PathBuf| |source| MemberError::Unreadable { path, source };
        let path = self.joined();
        let joined = files::read_json::<Joined>(&path);
        let Some(joined) = joined.map_err(unreadable(path))? else {
            return Ok(None);
        };
        if joined.coordinators.is_empty() {
            let source = io::Error::other("it names no coordinator");
            return Err(unreadable(self.joined())(source));
        }
        Ok(Some((joined, self.tls()?)))
    }

    /// Certificate, key and authorities as they are now.
    pub fn tls(&self) -> Result<Tls, MemberError> {
        let text = |path: PathBuf| {
            let bytes = files::read(&path);
            let text = bytes.and_then(|bytes| String::from_utf8(bytes).map_err(io::Error::other));
            text.map_err(|source| MemberError::Unreadable { path, source })
        };
        let identity = self.identity();
        // Metadata of what is opened below: a link would be refused there.
        if let Ok(found) = std::fs::symlink_metadata(&identity)
            && found.mode() & 0o077 != 0
        {
            let mode = found.mode() & 0o7777;
            return Err(MemberError::Open {
                path: identity,
                mode,
            });
        }
        let identity = text(identity)?;
        Ok(Tls {
            ca: text(self.ca())?,
            identity: Some((identity.clone(), identity)),
            server_name: Some(COORDINATOR_NAME.to_owned()),
            member: Some(self.clone()),
        })
    }

    /// The key to join with: that of an earlier try, or a new one, which is on the disk before anybody hears of it.
    pub fn key_to_join(&self) -> anyhow::Result<KeyPair> {
        files::make_folder(&self.0)?;
        let closed = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(&self.0, closed)?;
        let path = self.joining_key();
        match files::read(&path) {
            Ok(pem) => {
                if let Ok(key) = KeyPair::from_pem(&String::from_utf8_lossy(&pem)) {
                    return Ok(key);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        let key = new_key()?;
        durable::write(&path, key.serialize_pem().as_bytes())?;
        Ok(key)
    }

    /// Stores what a join brought. Whatever happens half-way, the next try finds its key.
    pub fn store(
        &self,
        joined: &Joined,
        certificate: &str,
        key: &KeyPair,
        authority: &str,
    ) -> io::Result<()> {
        // In this order: `joined` says that the rest is there. The key of the try goes last, since until then
        // it is needed again.
        // Only those that the token's coordinator named: what was believed before may be another cluster's.
        durable::write(&self.ca(), authority.as_bytes())?;
        self.store_identity(certificate, key, authority)?;
        durable::write_json(&self.joined(), joined)?;
        durable::remove_or_leave(&self.joining_key());
        Ok(())
    }

    /// Stores where the coordinators are, so that the next daemon finds one of them, whichever is gone.
    pub fn store_coordinators(&self, coordinators: Vec<String>) -> io::Result<()> {
        let path = self.joined();
        let Some(joined) = files::read_json::<Joined>(&path)? else {
            return Ok(());
        };
        let joined = Joined {
            coordinators,
            ..joined
        };
        durable::write_json(&path, &joined)
    }

    /// The authorities that this worker believes.
    pub(crate) fn believed(&self) -> io::Result<Vec<Authority>> {
        let bytes = files::read(&self.ca())?;
        let text = String::from_utf8(bytes).map_err(io::Error::other)?;
        bundle::read(&text).map_err(io::Error::other)
    }

    /// Believes these too from now on, and those no more whose pins are `dropped`. All that are believed
    /// then, where that is news.
    pub(crate) fn believe(
        &self,
        authorities: &str,
        dropped: &[String],
    ) -> io::Result<Option<String>> {
        let _turn = BELIEVING.lock().unwrap_or_else(PoisonError::into_inner);
        let news = bundle::read(authorities).map_err(io::Error::other)?;
        // One that cannot be read is replaced: there is nothing in it to keep.
        let before = self.believed().unwrap_or_default();
        let now = bundle::merged(before.clone(), news, dropped);
        if now == before {
            return Ok(None);
        }
        let text = bundle::text(&now);
        durable::write(&self.ca(), text.as_bytes())?;
        Ok(Some(text))
    }

    /// Stores a renewed certificate.
    pub fn store_identity(
        &self,
        certificate: &str,
        key: &KeyPair,
        authority: &str,
    ) -> io::Result<()> {
        // Those to believe first: the new certificate may be of an authority that joined them.
        self.believe(authority, &[])?;
        let identity = format!("{certificate}{}", key.serialize_pem());
        durable::write(&self.identity(), identity.as_bytes())
    }
}

/// A key for a certificate of this worker. It never leaves this host.
pub(crate) fn new_key() -> Result<KeyPair, rcgen::Error> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
}

/// Asks for a certificate for a key. It names nobody: who this is, the coordinator writes.
pub(crate) fn request(key: &KeyPair) -> Result<Vec<u8>, rcgen::Error> {
    let mut params = CertificateParams::new([])?;
    params.distinguished_name = DistinguishedName::new();
    Ok(params.serialize_request(key)?.der().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority(name: &str) -> String {
        let mut params = CertificateParams::new([]).unwrap();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        params.self_signed(&new_key().unwrap()).unwrap().pem()
    }

    #[test]
    fn what_is_believed_grows_by_news_and_shrinks_by_names_alone() {
        let data = tempfile::tempdir().unwrap();
        let folder = Folder::of(data.path());
        let key = folder.key_to_join().unwrap();
        let (old, new) = (authority("old"), authority("new"));
        let joined = Joined {
            coordinators: vec!["https://head:7700".into()],
            name: "gpu-01".into(),
        };
        folder.store(&joined, "", &key, &old).unwrap();
        let pins = || bundle::pins(&folder.believed().unwrap());
        let before = pins();
        assert_eq!(folder.believe(&old, &[]).unwrap(), None, "it is no news");
        let both = folder
            .believe(&format!("{old}{new}"), &[])
            .unwrap()
            .unwrap();
        assert_eq!(bundle::read(&both).unwrap().len(), 2);
        // A coordinator that is behind the times takes nothing away.
        assert_eq!(folder.believe(&format!("{old}{new}"), &[]).unwrap(), None);
        folder.believe(&old, &[]).unwrap();
        assert_eq!(pins().len(), 2);
        folder.believe(&new, &before).unwrap().unwrap();
        assert_eq!(pins().len(), 1);
        assert_ne!(pins(), before);
        // What cannot be read adds nothing.
        folder.believe("no certificate", &[]).unwrap_err();
        assert_eq!(pins().len(), 1);
        // A join begins anew: what was believed may be another cluster's.
        folder.store(&joined, "", &key, &old).unwrap();
        assert_eq!(pins(), before);
    }
}
