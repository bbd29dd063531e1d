//! TLS as this coordinator serves it: the certificate that it shows, the authorities of those it accepts, and a word
//! for clients that speak none.
//!
//! Both are read anew while it runs: a new connection gets the files as they are now, one that stands keeps what it was
//! made with. Files that do not work together are said, and the ones before stay in force.

mod plain;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::Context as _;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use marquee_proto::certificate;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::blocking::blocking;
use crate::config::TlsFiles;
use crate::doorman::Admitted;
use crate::env::Connection;
use crate::walls::TrustNews;

/// How long a client may take for its handshake: one that sends nothing must not hold a place.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);
/// Handshakes at once; the doorman lets no more connections in.
const HANDSHAKES_MAX: usize = 2_048;
/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// What begins every connection of TLS: a record that holds a handshake.
const HANDSHAKE_RECORD: u8 = 0x16;
/// The one protocol that is spoken within.
const HTTP_2: &[u8] = b"h2";

/// What connections are answered with. A cheap handle.
#[derive(Debug, Clone)]
pub struct Tls {
    files: TlsFiles,
    current: Arc<RwLock<Current>>,
}

#[derive(Debug)]
struct Current {
    config: Arc<ServerConfig>,
    /// What the files held, in their order.
    read: Vec<String>,
}

impl Tls {
    /// Reads the files that the settings name, and looks whether they work together.
    pub fn open(files: &TlsFiles) -> anyhow::Result<Self> {
        let read = read_all(files)?;
        Ok(Self {
            files: files.clone(),
            current: Arc::new(RwLock::new(Current {
                config: server_config(files, &read)?,
                read,
            })),
        })
    }

    /// Looks at the files until `shutdown`, and takes what is new in them.
    /// At each ring of `news` at once.
    pub async fn follow(self, news: TrustNews, shutdown: CancellationToken) {
        let mut said = String::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = news.next() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            let tls = self.clone();
            match blocking(move || tls.reload()).await {
                Ok(Ok(true)) => {
                    tracing::info!("certificates were read anew; new connections get them");
                    said.clear();
                }
                Ok(Ok(false)) | Err(_) => {}
                Ok(Err(error)) => {
                    // Half of a new pair may lie there for a moment, and the same fault is said once.
                    let text = format!("{error:#}");
                    if said != text {
                        tracing::warn!(
                            error = text,
                            "certificates as they lie there cannot be used; those before stay in force"
                        );
                        said = text;
                    }
                }
            }
        }
    }

    /// Whether the files have changed, and are in force now.
    fn reload(&self) -> anyhow::Result<bool> {
        let read = read_all(&self.files)?;
        let is_known = {
            let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
            current.read == read
        };
        if is_known {
            return Ok(false);
        }
        // Made before the old one is given up: files that do not fit together never come into force.
        let config = server_config(&self.files, &read)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Current { config, read };
        Ok(true)
    }

    /// The connections that speak TLS as they should. The others are told why not, where they can understand it.
    pub(crate) fn accept(
        &self,
        connections: BoxStream<'static, io::Result<Connection>>,
    ) -> BoxStream<'static, io::Result<Admitted<TlsStream<Connection>>>> {
        let tls = self.clone();
        connections
            .map(move |connection| {
                let tls = tls.clone();
                async move {
                    match connection {
                        Ok(connection) => {
                            let stream = tls.shake_hands(connection).await?;
                            Some(Ok(Admitted::within(stream)))
                        }
                        Err(error) => Some(Err(error)),
                    }
                }
            })
            // Beside each other: a client that takes its time holds up nobody else's handshake.
            .buffer_unordered(HANDSHAKES_MAX)
            .filter_map(std::future::ready)
            .boxed()
    }

    async fn shake_hands(&self, mut connection: Connection) -> Option<TlsStream<Connection>> {
        let remote = connection.remote_addr();
        let config = {
            let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
            current.config.clone()
        };
        let shaking = async {
            let begin = connection.peek().await?;
            if begin.first() != Some(&HANDSHAKE_RECORD) {
                plain::answer(connection).await?;
                return Err(io::Error::other("it speaks no TLS, and was told to"));
            }
            TlsAcceptor::from(config).accept(connection).await
        };
        match tokio::time::timeout(HANDSHAKE_WITHIN, shaking).await {
            Ok(Ok(stream)) => Some(stream),
            // The client hears little of it, so that whoever looks for the cause finds it here.
            Ok(Err(error)) => {
                let text = error.to_string();
                match certificate::clock_hint(&text) {
                    Some(dates) => {
                        tracing::info!(
                            ?remote,
                            error = text,
                            "a connection was refused by TLS: {dates}"
                        );
                    }
                    None => {
                        tracing::info!(?remote, error = text, "a connection was refused by TLS")
                    }
                }
                None
            }
            Err(_) => {
                tracing::debug!(?remote, "a handshake was not finished in time");
                None
            }
        }
    }
}

/// The files with the keys that name them: certificate, key, authorities.
fn named(files: &TlsFiles) -> Vec<(&'static str, &PathBuf)> {
    let mut named = vec![("tls.cert", &files.cert), ("tls.key", &files.key)];
    named.extend(files.client_cas.iter().map(|file| ("tls.client_ca", file)));
    named
}

fn read_all(files: &TlsFiles) -> anyhow::Result<Vec<String>> {
    let named = named(files).into_iter();
    named.map(|(key, file)| read(key, file)).collect()
}

fn read(key: &str, file: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("could not read {file:?}, which key {key:?} names"))?;
    anyhow::ensure!(
        text.contains("-----BEGIN "),
        "{file:?}, which key {key:?} names, is no PEM file: it has no line \"-----BEGIN ...\""
    );
    Ok(text)
}

fn server_config(files: &TlsFiles, read: &[String]) -> anyhow::Result<Arc<ServerConfig>> {
    let [cert, key, authorities @ ..] = read else {
        anyhow::bail!("[tls] names no certificate with its key");
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .context("this build speaks no version of TLS")?;
    let builder = if authorities.is_empty() {
        builder.with_no_client_auth()
    } else {
        let mut roots = RootCertStore::empty();
        for (pem, file) in authorities.iter().zip(&files.client_cas) {
            for authority in certificates(pem, file)? {
                roots.add(authority).with_context(|| {
                    format!("{file:?} holds a certificate that is no authority's")
                })?;
            }
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
        // With an authority of our own a worker that joins has no certificate yet; what else comes without one is
        // refused by `access`.
        let verifier = if files.is_own() {
            verifier.allow_unauthenticated()
        } else {
            verifier
        };
        let verifier = verifier
            .build()
            .context("the authorities of tls.client_ca cannot be used")?;
        builder.with_client_cert_verifier(verifier)
    };
    let chain = certificates(cert, &files.cert)?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| {
        anyhow::anyhow!(
            "{:?}, which key \"tls.key\" names, holds no private key: {error}",
            files.key
        )
    })?;
    // Whether the key is the certificate's is found out here, before anything is started.
    let mut config = builder
        .with_single_cert(chain, key)
        .context("the certificate files of [tls] do not work together")?;
    config.alpn_protocols.push(HTTP_2.to_vec());
    Ok(Arc::new(config))
}

fn certificates(pem: &str, file: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let all = all.map_err(|error| anyhow::anyhow!("{file:?} cannot be read: {error}"))?;
    anyhow::ensure!(!all.is_empty(), "{file:?} holds no certificate");
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_or_wrong_file_is_named_with_its_key() {
        let folder = tempfile::tempdir().unwrap();
        let cert = folder.path().join("cert.pem");
        std::fs::write(&cert, "-----BEGIN CERTIFICATE-----\n").unwrap();
        let key = folder.path().join("key.der");
        let files = TlsFiles {
            cert,
            key: key.clone(),
            client_cas: vec![],
            authority: None,
        };
        let error = format!("{:#}", Tls::open(&files).unwrap_err());
        assert!(
            error.contains("key.der") && error.contains("\"tls.key\""),
            "{error}"
        );
        std::fs::write(&key, "not pem").unwrap();
        let error = format!("{:#}", Tls::open(&files).unwrap_err());
        assert!(error.contains("is no PEM file"), "{error}");
    }

    #[test]
    fn what_is_new_in_the_files_is_taken_and_what_cannot_be_used_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let pair = || {
            let key = rcgen::KeyPair::generate().unwrap();
            let params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
            let cert = params.self_signed(&key).unwrap();
            (cert.pem(), key.serialize_pem())
        };
        let files = TlsFiles {
            cert: folder.path().join("cert.pem"),
            key: folder.path().join("key.pem"),
            client_cas: vec![],
            authority: None,
        };
        let write = |(cert, key): &(String, String)| {
            std::fs::write(&files.cert, cert).unwrap();
            std::fs::write(&files.key, key).unwrap();
        };
        let (old, new) = (pair(), pair());
        write(&old);
        let tls = Tls::open(&files).unwrap();
        let in_force = || tls.current.read().unwrap().config.clone();
        let before = in_force();
        assert!(!tls.reload().unwrap());
        std::fs::write(&files.cert, &new.0).unwrap();
        let error = format!("{:#}", tls.reload().unwrap_err());
        assert!(error.contains("do not work together"), "{error}");
        assert!(Arc::ptr_eq(&before, &in_force()));
        write(&new);
        assert!(tls.reload().unwrap());
        assert!(!Arc::ptr_eq(&before, &in_force()));
    }
}
