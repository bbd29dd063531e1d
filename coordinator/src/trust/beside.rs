//! What the coordinators beside this one show and accept: seen in the handshake that every client gets, so that it takes
//! no right there and no word of theirs.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use marquee_proto::certificate::bundle::{self, Authority};
use rustls::client::ResolvesClientCert;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::authority::{COORDINATOR_NAME, Files};
use super::succession;
use crate::blocking::blocking;

/// How long one of them may take, from dialling to the end of the handshake.
const WITHIN: Duration = Duration::from_secs(3);
/// Looked at at once.
const AT_ONCE: usize = 8;

/// A coordinator.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) address: String,
    /// What was seen, or why nothing was.
    pub(crate) found: Result<Found, String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    /// It accepts certificates of the next authority.
    pub(crate) believes_next: bool,
    /// Its own is of the next authority.
    pub(crate) shows_next: bool,
}

/// Looks at those with these addresses.
pub(super) async fn look(files: &Files, next: &str, addresses: Vec<String>) -> Vec<Seen> {
    if addresses.is_empty() {
        return Vec::new();
    }
    let files = files.clone();
    let believed = blocking(move || succession::believed(&files)).await;
    let believed = match believed {
        Ok(Ok(believed)) => believed,
        // Nobody can be judged then, and the reason is this coordinator's own.
        Ok(Err(_)) | Err(_) => Vec::new(),
    };
    let seen = futures::stream::iter(addresses).map(|address| {
        let (believed, next) = (&believed, next);
        async move {
            let looked = tokio::time::timeout(WITHIN, shake_hands(&address, believed, next)).await;
            let late = || Err(format!("no answer in {} s", WITHIN.as_secs()));
            let found = looked.unwrap_or_else(|_| late());
            Seen { address, found }
        }
    });
    seen.buffered(AT_ONCE).collect().await
}

async fn shake_hands(address: &str, believed: &[Authority], next: &str) -> Result<Found, String> {
    let next = believed
        .iter()
        .find(|one| one.pin == next)
        .ok_or("this coordinator does not believe the next authority itself yet")?;
    let at = address.strip_prefix("https://").ok_or("it speaks no TLS")?;
    let hints = Arc::new(Hints::default());
    let config = config(believed, hints.clone())?;
    let stream = TcpStream::connect(at)
        .await
        .map_err(|error| error.to_string())?;
    // The name in every coordinator's certificate, under whatever address it is dialled.
    let name = ServerName::try_from(COORDINATOR_NAME).map_err(|error| error.to_string())?;
    let connector = TlsConnector::from(Arc::new(config));
    let stream = connector.connect(name, stream).await;
    let stream = stream.map_err(|error| error.to_string())?;
    let (_, connection) = stream.get_ref();
    let own = connection.peer_certificates().and_then(|all| all.first());
    let own = own.ok_or("it showed no certificate")?;
    Ok(Found {
        believes_next: hints.have(next.subject()),
        shows_next: next.has_signed(own),
    })
}

fn config(believed: &[Authority], hints: Arc<Hints>) -> Result<ClientConfig, String> {
    use rustls::pki_types::pem::PemObject as _;

    let mut roots = RootCertStore::empty();
    let pem = bundle::text(believed);
    for der in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let der = der.map_err(|error| error.to_string())?;
        roots.add(der).map_err(|error| error.to_string())?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(builder
        .with_root_certificates(roots)
        .with_client_cert_resolver(hints))
}

/// Shows no certificate, and keeps of which authorities one was asked for.
#[derive(Debug, Default)]
struct Hints(Mutex<Vec<Vec<u8>>>);

impl Hints {
    fn have(&self, subject: &[u8]) -> bool {
        let hints = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        hints.iter().any(|hint| hint == subject)
    }
}

impl ResolvesClientCert for Hints {
    fn resolve(&self, hints: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *kept = hints.iter().map(|hint| hint.to_vec()).collect();
        None
    }

    fn has_certs(&self) -> bool {
        // Else nobody would be asked.
        true
    }
}
