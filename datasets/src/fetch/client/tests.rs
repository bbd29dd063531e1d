//! The manners of downloads, against the local catalogue over real HTTP: what the server saw counts.

use std::sync::Arc;
use std::time::Instant;

use marquee_catalogue::{CatalogueOptions, CatalogueServer, FaultRule, RequestLog};

use super::*;

/// A catalogue in this process, and when it was asked for its export.
struct Server {
    url: Url,
    asked: Arc<Mutex<Vec<Instant>>>,
}

impl Server {
    async fn start(faults: &[&str]) -> Self {
        let asked = Arc::<Mutex<Vec<Instant>>>::default();
        let log = RequestLog::new({
            let asked = asked.clone();
            move |_| asked.lock().unwrap().push(Instant::now())
        });
        let options = CatalogueOptions {
            films: 20,
            seed: 1,
            key: None,
            faults: faults
                .iter()
                .map(|rule| rule.parse::<FaultRule>().unwrap())
                .collect(),
            storm: None,
            sketches: true,
            rate_limit: None,
            log: Some(log),
            painters: 1,
        };
        let address = "127.0.0.1:0".parse().unwrap();
        let server = CatalogueServer::bind(address, options, clock)
            .await
            .unwrap();
        let url = server
            .api_url()
            .replace("/3", "/p/exports/movie_ids_01_31_2026.json.gz");
        tokio::spawn(server.serve(std::future::pending()));
        Self {
            url: Url::parse(&url).unwrap(),
            asked,
        }
    }

    fn asked(&self) -> Vec<Instant> {
        self.asked.lock().unwrap().clone()
    }
}

#[allow(clippy::disallowed_methods, reason = "the server needs a clock")]
fn clock() -> chrono::DateTime<chrono::Utc> {
    chrono::Utc::now()
}

fn client(manners: Manners) -> PoliteClient {
    // As the program does at its start.
    let _ = rustls::crypto::ring::default_provider().install_default();
    PoliteClient::new(manners, None, true, Dice::keyed(&[1]), clock, None).unwrap()
}

const MANNERS: Manners = Manners {
    requests_per_second: 1_000,
    concurrency: 1,
    timeout: Duration::from_secs(20),
    attempts: 3,
    outage: Duration::from_secs(60),
};
const LIMIT_BYTES: u64 = 1_000_000;

#[tokio::test]
async fn a_download_is_not_asked_for_again_before_the_host_wants_it() {
    // The longest wait that we would choose ourselves before a second try is half a second.
    const WANTED: Duration = Duration::from_secs(2);
    for fault in [
        "export=429,times=1,retry_after=2",
        "export=503,times=1,retry_after=2",
        "export=503,times=1,retry_after=date:3",
    ] {
        let server = Server::start(&[fault]).await;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("export");
        let client = client(MANNERS);
        let got = client
            .download(server.url.clone(), LIMIT_BYTES, &file)
            .await;
        assert_eq!(got, Ok(()), "{fault}");
        assert!(std::fs::metadata(&file).unwrap().len() > 0);
        let asked = server.asked();
        assert_eq!(asked.len(), 2, "{fault}");
        let waited = asked[1].duration_since(asked[0]);
        assert!(waited >= WANTED, "{fault}: {waited:?}");
    }
}

#[tokio::test]
async fn a_host_that_is_in_trouble_for_downloads_counts_as_down_and_is_given_up() {
    let server = Server::start(&["export=503"]).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("export");
    let client = client(Manners {
        attempts: 1,
        outage: Duration::from_secs(1),
        ..MANNERS
    });
    let mut failed = 0;
    let down = loop {
        match client
            .download(server.url.clone(), LIMIT_BYTES, &file)
            .await
        {
            Err(NoAnswer::Failed { class, .. }) => {
                assert_eq!(class, MissClass::Http(503));
                failed += 1;
                assert!(failed < 100, "nobody gives up");
            }
            other => break other,
        }
    };
    let Err(NoAnswer::Down { detail }) = down else {
        panic!("{down:?}");
    };
    assert!(detail.contains("has answered nothing for"), "{detail}");
    // Twenty failures open the breaker; of those that follow each one tried a host that was down.
    assert!((20..=23).contains(&failed), "{failed}");
    assert_eq!(server.asked().len(), failed, "who is given up is not asked");
}

#[tokio::test]
async fn a_download_counts_among_the_requests_in_flight() {
    let server = Server::start(&[]).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("export");
    let client = client(MANNERS);
    let only_one = client.in_flight.acquire().await.unwrap();
    let download = client.download(server.url.clone(), LIMIT_BYTES, &file);
    tokio::pin!(download);
    let soon = tokio::time::timeout(Duration::from_millis(300), &mut download).await;
    assert!(soon.is_err() && server.asked().is_empty());
    drop(only_one);
    assert_eq!(download.await, Ok(()));
    assert_eq!(server.asked().len(), 1);
}
