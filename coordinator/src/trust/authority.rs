//! The cluster's own authority: a key that signs certificates, in a folder of the coordinator's data.
//!
//! | file | holds |
//! |---|---|
//! | `ca.pem` | the authorities to believe; the first one signs |
//! | `ca.key` | its key; without it nobody joins or renews, and everything else goes on |
//! | `next.key` | the key of the authority that is to follow, until it signs (`succession`) |
//! | `server.pem`, `server.key` | what this coordinator shows, with the authority behind it |
//!
//! Invariant: names in certificates are ours. Of what somebody sends to be signed only the public key is taken.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Context as _;
use chrono::{DateTime, TimeDelta, Utc};
use marquee_domain::join_token::hex;
use marquee_proto::certificate;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use sha2::{Digest as _, Sha256};

/// The name of every coordinator in its certificate: by it workers know one, under whatever address they dial.
pub use marquee_domain::join_token::COORDINATOR_NAME;

/// How long certificates are good: the authority's, a coordinator's and a worker's.
const AUTHORITY_LIFE: TimeDelta = TimeDelta::days(3_650);
pub const SERVER_LIFE: TimeDelta = TimeDelta::days(90);
pub const WORKER_LIFE: TimeDelta = TimeDelta::days(30);
/// Clocks of two hosts may differ by so much: a certificate is good from before it was made.
const SKEW: TimeDelta = TimeDelta::minutes(10);
/// Bytes of a signing request: one of P-256 with a few names has some hundreds.
const REQUEST_MAX_BYTES: usize = 8 * 1024;

/// Bytes of a public key of P-256: a mark, and two numbers.
const P256_KEY_BYTES: usize = 65;

/// Files of the folder.
const CA: &str = "ca.pem";
const CA_KEY: &str = "ca.key";
const NEXT_KEY: &str = "next.key";
pub(crate) const SERVER: &str = "server.pem";
const SERVER_KEY: &str = "server.key";

/// Where the files lie.
#[derive(Debug, Clone)]
pub struct Files {
    pub folder: PathBuf,
}

impl Files {
    /// Those of a coordinator's data folder.
    #[must_use]
    pub fn of(data_dir: &Path) -> Self {
        Self {
            folder: data_dir.join("tls"),
        }
    }

    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.folder.join(CA)
    }

    #[must_use]
    pub fn ca_key(&self) -> PathBuf {
        self.folder.join(CA_KEY)
    }

    #[must_use]
    pub fn next_key(&self) -> PathBuf {
        self.folder.join(NEXT_KEY)
    }

    #[must_use]
    pub fn server(&self) -> PathBuf {
        self.folder.join(SERVER)
    }

    #[must_use]
    pub fn server_key(&self) -> PathBuf {
        self.folder.join(SERVER_KEY)
    }

    /// Whether `init` has been here.
    #[must_use]
    pub fn are_there(&self) -> bool {
        self.server().exists()
    }
}

/// The authorities that are believed, without the key.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// As it stands in the file.
    pub pem: String,
    /// The one that signs.
    pub signing: CertificateDer<'static>,
    /// SHA-256 of its public key.
    pub pin: [u8; 32],
    pub not_after: DateTime<Utc>,
}

impl Bundle {
    pub fn read(files: &Files) -> anyhow::Result<Self> {
        let file = files.ca();
        let pem = fs::read_to_string(&file).with_context(|| format!("could not read {file:?}"))?;
        let signing = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| anyhow::anyhow!("{file:?} holds no certificate: {error}"))?;
        let all = certificate::read(&pem).map_err(|why| anyhow::anyhow!("{file:?} {why}"))?;
        let first = all.first().with_context(|| format!("{file:?} is empty"))?;
        let pin = certificate::pin(&signing)
            .with_context(|| format!("{file:?} holds a certificate that cannot be read"))?;
        Ok(Self {
            not_after: first.not_after,
            signing: signing.into_owned(),
            pin,
            pem,
        })
    }

    /// The pin as people compare it.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        hex(&self.pin)
    }
}

/// An authority with its key.
#[derive(Debug)]
pub struct Authority {
    pub bundle: Bundle,
    issuer: Issuer<'static, KeyPair>,
}

/// Why a signing request is not signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    #[error("it has {0} bytes, at most {REQUEST_MAX_BYTES} are read")]
    Long(usize),
    #[error("it is no signing request, or its signature is not that of its key: {0}")]
    Unreadable(String),
    #[error("its key is {0}; make one of P-256 (ECDSA)")]
    Key(String),
}

impl Authority {
    /// Makes a new one and writes it down. What is there is not touched.
    pub fn create(files: &Files, now: DateTime<Utc>) -> anyhow::Result<Self> {
        let (key, certificate) = new_authority(now)?;
        write_new(&files.ca_key(), &key)?;
        write_new(&files.ca(), &certificate)?;
        Self::open(files)
    }

    /// Reads it. The error says what is missing, and the way out.
    pub fn open(files: &Files) -> anyhow::Result<Self> {
        let bundle = Bundle::read(files)?;
        let file = files.ca_key();
        let pem = match read_secret(&file) {
            Ok(pem) => pem,
            Err(error) if is_missing(&error) => anyhow::bail!(
                "the authority's key {file:?} is not there: workers go on, and none can join or renew its certificate; put it back from a backup"
            ),
            Err(error) => return Err(error),
        };
        let key = KeyPair::from_pem(&pem)
            .with_context(|| format!("{file:?} holds no private key that can be used"))?;
        let issuer = Issuer::from_ca_cert_der(&bundle.signing, key)
            .with_context(|| format!("{:?} cannot be used", files.ca()))?;
        let authority = Self { bundle, issuer };
        authority.check_key(files)?;
        Ok(authority)
    }

    /// Whether the key is the certificate's: one that is not would sign what nobody believes.
    fn check_key(&self, files: &Files) -> anyhow::Result<()> {
        anyhow::ensure!(
            sha256_of(self.issuer.key()) == self.bundle.pin,
            "{:?} is not the key of the first certificate in {:?}",
            files.ca_key(),
            files.ca()
        );
        Ok(())
    }

    /// A certificate for a coordinator under these names, and its key, as PEM. Behind it the authority's own, by which
    /// a worker that joins knows it.
    pub fn certify_server(
        &self,
        names: &[String],
        now: DateTime<Utc>,
        life: TimeDelta,
    ) -> anyhow::Result<(String, String)> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = params(COORDINATOR_NAME, now, life)?;
        params.subject_alt_names = alternatives(names)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let own = params.signed_by(&key, &self.issuer)?;
        let authority = pem_of_first(&self.bundle.pem);
        Ok((format!("{}{authority}", own.pem()), key.serialize_pem()))
    }

    /// A certificate for a worker's key. Whatever the request asks for beside, it gets the worker's name (`uri`, and for
    /// people the one that it is called by) and the right to show it to coordinators, and nothing else.
    pub fn certify_worker(
        &self,
        request: &Request,
        uri: String,
        name: &str,
        now: DateTime<Utc>,
        life: TimeDelta,
    ) -> anyhow::Result<(String, DateTime<Utc>)> {
        let mut params = params(name, now, life)?;
        params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let mut request = request.0.clone();
        request.params = params;
        let certificate = request.signed_by(&self.issuer)?;
        Ok((certificate.pem(), now + life))
    }
}

/// A key and a certificate of an authority, as PEM.
pub(super) fn new_authority(now: DateTime<Utc>) -> anyhow::Result<(String, String)> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    // Named by its key: one that follows it has another name.
    let digest = hex(&sha256_of(&key));
    let name = format!("Marquee authority {}", &digest[..8]);
    let mut params = params(&name, now, AUTHORITY_LIFE)?;
    // It signs those who come and go, and no further authority.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key)?;
    Ok((key.serialize_pem(), certificate.pem()))
}

/// The pin of the key in a file, in hex. None: there is no such file.
pub(super) fn pin_of_key(file: &Path) -> anyhow::Result<Option<String>> {
    let pem = match read_secret(file) {
        Ok(pem) => pem,
        Err(error) if is_missing(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let key = KeyPair::from_pem(&pem)
        .with_context(|| format!("{file:?} holds no private key that can be used"))?;
    Ok(Some(hex(&sha256_of(&key))))
}

/// A signing request whose key may be signed.
#[derive(Debug, Clone)]
pub struct Request(CertificateSigningRequestParams);

impl Request {
    /// Reads one, in DER.
    pub fn read(der: &[u8]) -> Result<Self, BadRequest> {
        if der.len() > REQUEST_MAX_BYTES {
            return Err(BadRequest::Long(der.len()));
        }
        let request = CertificateSigningRequestParams::from_der(&der.into())
            .map_err(|error| BadRequest::Unreadable(error.to_string()))?;
        let key = &request.public_key;
        let algorithm = PublicKeyData::algorithm(key);
        // What signed the request does not say by itself on which curve its key is; the key's length does.
        if *algorithm != PKCS_ECDSA_P256_SHA256 || key.der_bytes().len() != P256_KEY_BYTES {
            let bits = 8 * key.der_bytes().len();
            return Err(BadRequest::Key(format!(
                "of {algorithm:?}, {bits} bits as it is sent"
            )));
        }
        Ok(Self(request))
    }

    /// What tells its key from others.
    #[must_use]
    pub fn key_sha256(&self) -> [u8; 32] {
        sha256_of(&self.0.public_key)
    }
}

fn sha256_of(key: &impl PublicKeyData) -> [u8; 32] {
    Sha256::digest(key.subject_public_key_info()).into()
}

/// Writes a coordinator's certificate with its key; both are replaced whole.
pub fn write_server(files: &Files, certificate: &str, key: &str) -> anyhow::Result<()> {
    // Between the two they do not fit, and whoever reads then keeps what was before.
    write_secret(&files.server_key(), key)?;
    write_secret(&files.server(), certificate)
}

/// The names and addresses in a coordinator's certificate. Empty: there is none that can be read.
#[must_use]
pub fn names_of(files: &Files) -> Vec<String> {
    let read = || {
        let pem = fs::read_to_string(files.server()).ok()?;
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
        Some(crate::certificate::alternatives(&der))
    };
    read().unwrap_or_default()
}

/// What a look at a coordinator's own certificate came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// It was due, and is another one now.
    pub is_new: bool,
    /// When the one that is there is to be made anew.
    pub due: DateTime<Utc>,
}

/// Makes a coordinator a new certificate under the names of its old one, where a third of that one's time is left, or
/// less.
pub fn renew_server(files: &Files, now: DateTime<Utc>, life: TimeDelta) -> anyhow::Result<Look> {
    let look = |is_new| -> anyhow::Result<Look> {
        let pem = fs::read_to_string(files.server())?;
        let own = certificate::read(&pem);
        let own = own.map_err(|why| anyhow::anyhow!("{:?} {why}", files.server()))?;
        let own = own.first().context("there is no certificate")?;
        let due = own.not_after - (own.not_after - own.not_before) / 3;
        Ok(Look { is_new, due })
    };
    let found = look(false)?;
    if now < found.due {
        return Ok(found);
    }
    let authority = Authority::open(files)?;
    let (certificate, key) = authority.certify_server(&names_of(files), now, life)?;
    write_server(files, &certificate, &key)?;
    look(true)
}

fn params(
    name: &str,
    now: DateTime<Utc>,
    life: TimeDelta,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new([])?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    // Of one that is good for minutes, in a test, most of its time would be over when it is made.
    let skew = SKEW.min(life / 3);
    params.not_before = SystemTime::from(now - skew).into();
    params.not_after = SystemTime::from(now + life).into();
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn alternatives(names: &[String]) -> anyhow::Result<Vec<SanType>> {
    let alternative = |name: &String| match name.parse::<IpAddr>() {
        Ok(address) => Ok(SanType::IpAddress(address)),
        Err(_) => name
            .as_str()
            .try_into()
            .map(SanType::DnsName)
            .with_context(|| format!("{name:?} is neither a host's name nor an IP address")),
    };
    names.iter().map(alternative).collect()
}

/// The first certificate of a PEM text, with its lines.
fn pem_of_first(pem: &str) -> &str {
    const END: &str = "-----END CERTIFICATE-----";
    let end = pem.find(END).map_or(pem.len(), |at| at + END.len());
    let begin = pem.find("-----BEGIN CERTIFICATE-----").unwrap_or(0);
    &pem[begin.min(end)..end]
}

/// Reads a file that is nobody else's business, and refuses one that others can read: it may have been read already.
pub(super) fn read_secret(file: &Path) -> anyhow::Result<String> {
    let mode = fs::metadata(file)
        .with_context(|| format!("could not look at {file:?}"))?
        .permissions()
        .mode();
    anyhow::ensure!(
        mode & 0o077 == 0,
        "other accounts of this host can read the key {file:?} (mode {:04o}); close it with \"chmod 600 {}\", and if somebody may have read it, begin anew with another authority",
        mode & 0o7777,
        file.display()
    );
    fs::read_to_string(file).with_context(|| format!("could not read {file:?}"))
}

/// Looks at the keys of the folder before anything is served with them.
pub fn check_modes(files: &Files) -> anyhow::Result<()> {
    for key in [files.ca_key(), files.next_key(), files.server_key()] {
        match read_secret(&key) {
            Ok(_) => {}
            // The authority's key may be kept elsewhere: what is not here needs no guard.
            Err(error) if is_missing(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn is_missing(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// Writes a file for this account alone, which must not be there yet.
fn write_new(file: &Path, text: &str) -> anyhow::Result<()> {
    let write = || {
        let mut made = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(file)?;
        made.write_all(text.as_bytes())?;
        made.sync_all()
    };
    write().with_context(|| format!("could not write {file:?}"))
}

/// Replaces a file for this account alone.
pub(super) fn write_secret(file: &Path, text: &str) -> anyhow::Result<()> {
    // Aside and renamed: who reads meanwhile finds the old text or the new one, never half of it.
    let aside = file.with_extension("new");
    // A write that was cut short may have left one, and a new file must not be there yet.
    match fs::remove_file(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("could not remove {aside:?}"));
        }
        Ok(()) | Err(_) => {}
    }
    write_new(&aside, text)?;
    fs::rename(&aside, file).with_context(|| format!("could not write {file:?}"))
}

#[cfg(test)]
#[path = "authority_tests.rs"]
mod tests;
