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

/// What a scripted server was asked, and when.
type Heard = Arc<Mutex<Vec<(String, Instant)>>>;

/// A server that says, word for word, what a script has for the nth request.
struct Scripted {
    url: Url,
    heard: Heard,
}

impl Scripted {
    async fn start(script: impl Fn(usize, &str) -> String + Send + Sync + 'static) -> Self {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/3/movie/11", listener.local_addr().unwrap());
        let heard = Heard::default();
        let log = heard.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (mut request, mut part) = (Vec::new(), [0; 4_096]);
                while !request.ends_with(b"\r\n\r\n") {
                    match stream.read(&mut part).await {
                        Ok(0) | Err(_) => break,
                        Ok(length) => request.extend_from_slice(&part[..length]),
                    }
                }
                let request = String::from_utf8(request).unwrap();
                let answer = {
                    let mut log = log.lock().unwrap();
                    log.push((request.clone(), Instant::now()));
                    script(log.len(), &request)
                };
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        });
        let url = Url::parse(&url).unwrap();
        Self { url, heard }
    }

    fn heard(&self) -> Vec<(String, Instant)> {
        self.heard.lock().unwrap().clone()
    }

    /// The paths that were asked for, in order.
    fn paths(&self) -> Vec<String> {
        let path = |(request, _): &(String, Instant)| {
            let line = request.lines().next().unwrap_or_default();
            line.split(' ').nth(1).unwrap_or_default().to_owned()
        };
        self.heard().iter().map(path).collect()
    }
}

const GOOD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n{\"id\":1}";

fn with_credential(secret: Option<&str>) -> PoliteClient {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let credential = Credential::load(secret.map(|_| "KEY"), None, |_| secret.map(str::to_owned));
    let (credential, dice) = (credential.unwrap(), Dice::keyed(&[1]));
    PoliteClient::new(MANNERS, credential, true, dice, clock, None).unwrap()
}

async fn ask(client: &PoliteClient, url: &Url) -> Result<serde_json::Value, NoAnswer> {
    let answer = client.json(url.clone(), &Validators::default()).await;
    match answer? {
        Conditional::New { value, .. } => Ok(value),
        Conditional::Unchanged => panic!("nothing was known"),
    }
}

#[tokio::test]
async fn every_status_that_says_when_to_come_back_is_obeyed_and_no_attempt() {
    for (refusal, seconds) in [
        ("503 Away\r\nRetry-After: 1\r\nContent-Length: 0", 1),
        ("500 Oh\r\nretry-after: 1\r\nContent-Length: 0", 1),
        ("429 Slow\r\nRetry-After: 1\r\nContent-Length: 0", 1),
        ("403 Limit\r\nRetry-After: 1\r\nContent-Length: 0", 1),
        ("413 Large\r\nRetry-After: 0.5\r\nContent-Length: 0", 1),
        // The page that goes with it is cut: what was said before it holds.
        ("503 Away\r\nRetry-After: 1\r\nContent-Length: 900", 1),
        (
            "503 Away\r\nDate: Fri, 20 Nov 2026 12:00:00 GMT\r\nRetry-After: Friday, 20-Nov-26 12:00:02 GMT\r\n\
             Content-Length: 0",
            2,
        ),
        (
            "302 There\r\nLocation: /3/movie/12\r\nRetry-After: 1\r\nContent-Length: 0",
            1,
        ),
    ] {
        // More often than there are attempts.
        let times = if refusal.starts_with("302") { 1 } else { 3 };
        let server = Scripted::start(move |nth, _| match nth {
            _ if nth <= times => format!("HTTP/1.1 {refusal}\r\n\r\n"),
            _ => GOOD.to_owned(),
        })
        .await;
        let client = client(Manners {
            attempts: 1,
            ..MANNERS
        });
        let answer = ask(&client, &server.url).await;
        assert!(answer.is_ok(), "{refusal}: {answer:?}");
        let heard = server.heard();
        assert_eq!(heard.len(), times + 1, "{refusal}");
        for pair in heard.windows(2) {
            let waited = pair[1].1.duration_since(pair[0].1);
            assert!(
                waited >= Duration::from_secs(seconds),
                "{refusal}: {waited:?}"
            );
        }
    }
}

#[tokio::test]
async fn no_service_chooses_a_wait_without_end() {
    let client = client(MANNERS);
    let url = Url::parse("http://h/").unwrap();
    assert_eq!(client.obey(&url, Duration::MAX), RETRY_AFTER_MAX);
    assert_eq!(
        client.obey(&url, Duration::from_secs(21)),
        Duration::from_secs(21)
    );
}

#[tokio::test]
async fn the_api_is_followed_within_its_origin_with_the_credential() {
    for secret in [
        None,
        Some("0123456789abcdef0123456789abcdef"),
        Some("eyJ.a.b"),
    ] {
        let server = Scripted::start(move |nth, request| match nth {
            // The service repeats the key, as some do.
            1 => format!(
                "HTTP/1.1 301 Moved\r\nLocation: /4/movie/11?page=2&api_key={}\r\nContent-Length: 0\r\n\r\n",
                secret.unwrap_or_default()
            ),
            2 => "HTTP/1.1 307 On\r\nLocation: there?page=3\r\nContent-Length: 0\r\n\r\n".to_owned(),
            _ => {
                let key = format!("api_key={}", secret.unwrap_or_default());
                let bearer = format!("authorization: Bearer {}", secret.unwrap_or_default());
                let is_there = request.matches(&key).count() == 1 || request.contains(&bearer);
                assert!(secret.is_none() || is_there, "{request}");
                GOOD.to_owned()
            }
        })
        .await;
        let client = with_credential(secret);
        assert_eq!(ask(&client, &server.url).await.unwrap()["id"], 1);
        let paths = server.paths();
        assert_eq!(paths.len(), 3, "{paths:?}");
        assert!(paths[1].starts_with("/4/movie/11?page=2"), "{paths:?}");
        assert!(paths[2].starts_with("/4/movie/there?page=3"), "{paths:?}");
    }
}

#[tokio::test]
async fn the_api_is_not_followed_elsewhere_and_the_reason_is_said() {
    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    let other = Scripted::start(|_, _| GOOD.to_owned()).await;
    let elsewhere = other.url.to_string();
    let server = Scripted::start(move |_, _| {
        format!("HTTP/1.1 302 Found\r\nLocation: {elsewhere}?api_key={SECRET}\r\nContent-Length: 0\r\n\r\n")
    })
    .await;
    let client = with_credential(Some(SECRET));
    let Err(NoAnswer::Failed { class, detail }) = ask(&client, &server.url).await else {
        panic!("it was followed");
    };
    assert_eq!(class, MissClass::Redirects);
    assert!(
        detail.contains("another origin would get the credential"),
        "{detail}"
    );
    assert!(!detail.contains(SECRET), "{detail}");
    // Once: it will not pass.
    assert_eq!((server.heard().len(), other.heard().len()), (1, 0));
    // A picture carries no credential: its store may send us on.
    let nothing = Validators::default();
    let image = client.image(server.url.clone(), 1_000, &nothing).await;
    assert!(
        matches!(image, Err(NoAnswer::Failed { .. })),
        "JSON is no image"
    );
    let asked = other.heard();
    assert!(!asked.is_empty());
    assert!(
        asked
            .iter()
            .all(|(request, _)| !request.contains("uthorization"))
    );
}

#[tokio::test]
async fn redirects_without_end_are_a_failure_after_a_few() {
    let server = Scripted::start(|nth, _| {
        format!("HTTP/1.1 302 Found\r\nLocation: /3/movie/{nth}\r\nContent-Length: 0\r\n\r\n")
    })
    .await;
    let client = client(Manners {
        attempts: 2,
        ..MANNERS
    });
    let Err(NoAnswer::Failed { class, detail }) = ask(&client, &server.url).await else {
        panic!("there is no end");
    };
    assert_eq!(class, MissClass::Redirects);
    assert!(detail.contains("sent on more than 5 times"), "{detail}");
    // Two tries, each of a first request and five redirects.
    assert_eq!(server.heard().len(), 12);
    assert_eq!(
        server
            .paths()
            .iter()
            .filter(|path| *path == "/3/movie/11")
            .count(),
        3
    );
}

#[tokio::test]
async fn a_title_with_half_a_surrogate_pair_is_an_answer() {
    let body = r#"{"id":1,"title":"Half \ud83d"}"#;
    let server = Scripted::start(move |_, _| {
        format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    })
    .await;
    let answer = ask(&client(MANNERS), &server.url).await.unwrap();
    assert_eq!(answer["title"], "Half \u{fffd}");
    assert_eq!(server.heard().len(), 1);
}
