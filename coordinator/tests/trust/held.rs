//! Connections that are held and say nothing, at each place where one can fall silent: a worker and an administrator go
//! on meanwhile, and the places are free again.

use std::io;
use std::sync::Arc;

use futures::StreamExt as _;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::*;
use marquee_domain::join_token::COORDINATOR_NAME;
use std::time::Duration;

/// All from one address, of which 1,024 are let in.
const HELD: usize = 1_000;
/// Opened at once.
const AT_ONCE: usize = 32;
/// Within this time each of them is closed: the longest limit is 10 s, on a machine that is busy.
const CLOSED_WITHIN: Duration = Duration::from_secs(60);
/// What a client of HTTP/2 says first, with settings that set nothing.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// The beginning of a record of TLS that says it has 512 bytes, and 60 of them.
const HALF_A_RECORD: [u8; 65] = {
    let mut bytes = [0; 65];
    (bytes[0], bytes[1], bytes[2], bytes[3]) = (0x16, 0x03, 0x01, 0x02);
    bytes
};

type Held = Box<dyn AsyncRead + Unpin + Send>;

fn config(ca: &str) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap();
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols.push(b"h2".to_vec());
    Arc::new(config)
}

/// Opens a connection that says as much as its kind does, and no more. An error: it was closed meanwhile, as a busy machine
/// may come to say its part only when its time is over.
async fn hold(address: &str, kind: usize, config: &Arc<ClientConfig>) -> io::Result<Held> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from(COORDINATOR_NAME).unwrap();
    Ok(match kind {
        0 => Box::new(stream),
        1 => {
            stream.write_all(&HALF_A_RECORD).await?;
            Box::new(stream)
        }
        2 => {
            let mut client = ClientConnection::new(config.clone(), name).unwrap();
            let mut hello = Vec::new();
            client.write_tls(&mut hello).unwrap();
            stream.write_all(&hello).await?;
            Box::new(stream)
        }
        kind => {
            let connector = TlsConnector::from(config.clone());
            let mut stream = connector.connect(name, stream).await?;
            if kind == 4 {
                stream.write_all(PREFACE).await?;
            }
            stream.flush().await?;
            Box::new(stream)
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_that_fall_silent_anywhere_hold_nobody_up_and_are_closed() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(8_192), hard).unwrap();
    let head = Head::start();
    let one = head.member("gpu-01").await;
    let worker = head.channel(Some(one.identity.clone())).await;
    let mut session = hello(worker.clone(), &one.id, "gpu-01").await.unwrap();

    let config = config(&head.tls("ca.pem"));
    let address = &head.coordinator.address;
    let opening = futures::stream::iter(0..HELD).map(|number| {
        let (kind, config) = (number % 5, &config);
        async move { (kind, hold(address, kind, config).await) }
    });
    let opened: Vec<(usize, io::Result<Held>)> = opening.buffer_unordered(AT_ONCE).collect().await;
    let held: Vec<(usize, Held)> = opened
        .into_iter()
        .filter_map(|(kind, held)| Some((kind, held.ok()?)))
        .collect();
    for kind in 0..5 {
        assert!(
            held.iter().any(|(of, _)| *of == kind),
            "none is held at {kind}"
        );
    }
    // Those who are here go on, and who comes now is let in.
    assert_eq!(worker_names(&head).await[0].0, "gpu-01");
    let two = head.member("gpu-02").await;
    let second = head.channel(Some(two.identity.clone())).await;
    hello(second, &two.id, "gpu-02").await.unwrap();
    for (kind, mut stream) in held {
        let mut rest = Vec::new();
        // Closed or reset: it is over.
        let over = tokio::time::timeout(CLOSED_WITHIN, stream.read_to_end(&mut rest)).await;
        assert!(over.is_ok(), "one that fell silent at {kind} is held still");
    }
    // The worker's session was alive all the time.
    let quiet = tokio::time::timeout(Duration::from_millis(100), session.1.message()).await;
    assert!(
        quiet.is_err() || matches!(quiet, Ok(Ok(Some(_)))),
        "{quiet:?}"
    );
    assert_eq!(worker_names(&head).await.len(), 2);
}
