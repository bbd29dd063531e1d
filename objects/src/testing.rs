//! For tests: a real server of S3, where Python and moto are there, and a door before it (or before nothing) that does to
//! requests what networks and servers do.

use std::collections::VecDeque;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::place::{Addressing, Place};

/// Until the server answers: Python reads a lot before.
const START_WITHIN: Duration = Duration::from_secs(60);
/// The interpreter that has moto; "cargo xtask test" sets it.
const PYTHON: &str = "MARQUEE_TEST_MOTO_PYTHON";

/// moto, a server of S3 in memory. It ends with this.
#[derive(Debug)]
pub struct Server {
    child: Child,
    pub address: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _is_over = self.child.kill();
        let _is_over = self.child.wait();
    }
}

impl Server {
    /// Starts it. None, said by name: there is no moto here.
    pub async fn start(test: &str) -> Option<Self> {
        // Not whatever moto a machine may have: versions differ in what they take for a right signature.
        let Ok(python) = std::env::var(PYTHON) else {
            eprintln!(
                "SKIPPED {test}: {PYTHON} names no Python with moto (\"cargo xtask test\" gets one and sets it)"
            );
            return None;
        };
        // Taken and given back: somebody else may take it in between, and then it is tried again.
        for _ in 0..3 {
            let port = free_port().ok()?;
            let mut child = Command::new(&python)
                .args(["-m", "moto.server", "-H", "127.0.0.1", "-p"])
                .arg(port.to_string())
                // A pipe that nobody reads would hold it up once it is full.
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .ok()?;
            let began = Instant::now();
            let address = format!("127.0.0.1:{port}");
            loop {
                if TcpStream::connect(&address).await.is_ok() {
                    return Some(Self { child, address });
                }
                if child.try_wait().ok()?.is_some() || began.elapsed() > START_WITHIN {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            let _is_over = child.kill();
            let _is_over = child.wait();
            if began.elapsed() < Duration::from_secs(1) {
                // It ended at once: there is no moto.
                break;
            }
        }
        eprintln!("SKIPPED {test}: moto does not start by {python}, which {PYTHON} names");
        None
    }

    /// Makes a bucket.
    pub async fn make_bucket(&self, name: &str) -> io::Result<()> {
        let answer = ask(&self.address, "PUT", &format!("/{name}"), "").await?;
        match answer.starts_with("HTTP/1.1 200") {
            true => Ok(()),
            false => Err(io::Error::other(answer)),
        }
    }
}

/// Sends a request that nobody signed, and gives the answer as text.
pub async fn ask(address: &str, method: &str, path: &str, body: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\nConnection: close\r\n\
         Authorization: AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn free_port() -> io::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .port())
}

/// What happens to a request.
#[derive(Debug, Clone)]
pub enum Fault {
    /// It is answered so, and goes nowhere.
    Answer(u16, String),
    /// So with a header, such as `Location: ...`.
    AnswerWith(u16, String, String),
    /// Nobody ever answers.
    Freeze,
    /// It is done, and the connection breaks before the answer.
    DoneAndCut,
    /// Of the answer's body so many bytes come, and then the connection breaks.
    Half(usize),
    /// The answer is shorter than it should be, and says so in order.
    Shorter(usize),
    /// The first byte of the answer's body is another one.
    Altered,
}

/// Which requests a fault is for, how many of them, and what then.
#[derive(Debug)]
struct Rule {
    method: &'static str,
    part: String,
    left: usize,
    fault: Fault,
}

/// A server that hands requests on, and does to some what was asked for.
#[derive(Debug, Clone)]
pub struct Door {
    pub address: String,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    behind: Option<String>,
    rules: Mutex<VecDeque<Rule>>,
    seen: Mutex<Vec<String>>,
}

impl Door {
    /// Opens it before a server; None: whatever has no rule is answered 404.
    pub async fn open(behind: Option<&Server>) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let door = Self {
            address: listener.local_addr()?.to_string(),
            shared: Arc::new(Shared {
                behind: behind.map(|server| server.address.clone()),
                ..Shared::default()
            }),
        };
        let shared = Arc::clone(&door.shared);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&shared);
                tokio::spawn(async move { serve(&shared, stream).await });
            }
        });
        Ok(door)
    }

    /// The next `count` requests of this method whose line has `part` in it meet a fault. Of several rules the first fits.
    pub fn rule(&self, method: &'static str, part: &str, count: usize, fault: Fault) {
        let rule = Rule {
            method,
            part: part.to_owned(),
            left: count,
            fault,
        };
        lock(&self.shared.rules).push_back(rule);
    }

    pub fn no_rules(&self) {
        lock(&self.shared.rules).clear();
    }

    /// The lines of all requests so far, such as `PUT /bucket/key?partNumber=1`.
    #[must_use]
    pub fn seen(&self) -> Vec<String> {
        lock(&self.shared.seen).clone()
    }

    pub fn forget_seen(&self) {
        lock(&self.shared.seen).clear();
    }

    #[must_use]
    pub fn count(&self, method: &str, part: &str) -> usize {
        let seen = self.seen();
        let fits = |line: &&String| line.starts_with(method) && line.contains(part);
        seen.iter().filter(fits).count()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(shared: &Shared, mut stream: TcpStream) {
    // One request a connection.
    let Ok(Some((line, request))) = read_request(&mut stream).await else {
        return;
    };
    // Noted before any fault: tests count tries, also those that were never answered.
    lock(&shared.seen).push(line.clone());
    let fault = {
        let mut rules = lock(&shared.rules);
        let rule = rules.iter_mut().find(|rule| {
            rule.left > 0 && line.starts_with(rule.method) && line.contains(&rule.part)
        });
        rule.map(|rule| {
            rule.left -= 1;
            rule.fault.clone()
        })
    };
    let answer = match fault {
        Some(Fault::Freeze) => {
            tokio::time::sleep(Duration::from_secs(3_600)).await;
            return;
        }
        Some(Fault::Answer(status, body)) => plain(&line, status, "", &body),
        Some(Fault::AnswerWith(status, header, body)) => {
            plain(&line, status, &format!("{header}\r\n"), &body)
        }
        fault => {
            let Some(answer) = hand_on(shared, &line, &request).await else {
                return;
            };
            altered(answer, fault)
        }
    };
    let _is_gone = stream.write_all(&answer).await;
    let _is_gone = stream.shutdown().await;
}

fn plain(line: &str, status: u16, header: &str, body: &str) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status} X\r\n{header}Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    // An answer to a HEAD has no body, whatever its length says.
    let body = if line.starts_with("HEAD") { "" } else { body };
    format!("{head}{body}").into_bytes()
}

async fn hand_on(shared: &Shared, line: &str, request: &[u8]) -> Option<Vec<u8>> {
    let Some(behind) = &shared.behind else {
        return Some(plain(line, 404, "", ""));
    };
    let mut upstream = TcpStream::connect(behind).await.ok()?;
    upstream.write_all(request).await.ok()?;
    let mut answer = Vec::new();
    upstream.read_to_end(&mut answer).await.ok()?;
    Some(answer)
}

fn altered(answer: Vec<u8>, fault: Option<Fault>) -> Vec<u8> {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
        return answer;
    };
    let (head, body) = answer.split_at(end + 4);
    match fault {
        Some(Fault::DoneAndCut) => Vec::new(),
        Some(Fault::Half(bytes)) => [head, &body[..bytes.min(body.len())]].concat(),
        Some(Fault::Shorter(bytes)) => {
            let bytes = bytes.min(body.len());
            let lines = String::from_utf8_lossy(head).into_owned();
            let lines = lines.split("\r\n").filter(|line| {
                !line.is_empty() && !line.to_lowercase().starts_with("content-length")
            });
            let head = lines.collect::<Vec<_>>().join("\r\n");
            let head = format!("{head}\r\nContent-Length: {bytes}\r\n\r\n");
            [head.as_bytes(), &body[..bytes]].concat()
        }
        Some(Fault::Altered) => {
            let mut body = body.to_vec();
            if let Some(first) = body.first_mut() {
                *first ^= 1;
            }
            [head, &body].concat()
        }
        Some(Fault::Answer(..) | Fault::AnswerWith(..) | Fault::Freeze) | None => answer,
    }
}

/// The first line without the version, and the request as it is handed on.
async fn read_request(stream: &mut TcpStream) -> io::Result<Option<(String, Vec<u8>)>> {
    let mut all = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    let end = loop {
        if let Some(end) = all.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        let got = stream.read(&mut buffer).await?;
        if got == 0 {
            return Ok(None);
        }
        all.extend_from_slice(&buffer[..got]);
    };
    let head = String::from_utf8_lossy(&all[..end]).into_owned();
    let mut lines = head.split("\r\n").filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default().to_owned();
    let mut length = 0;
    let mut out = format!("{first}\r\n");
    for line in lines {
        let lower = line.to_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        if !lower.starts_with("connection:") {
            out.push_str(&format!("{line}\r\n"));
        }
    }
    // So the end of the stream is the end of the answer (`hand_on`).
    out.push_str("Connection: close\r\n\r\n");
    let mut body = all.split_off(end);
    while body.len() < length {
        let got = stream.read(&mut buffer).await?;
        if got == 0 {
            return Ok(None);
        }
        body.extend_from_slice(&buffer[..got]);
    }
    let mut request = out.into_bytes();
    request.extend_from_slice(&body);
    let line = first.trim_end_matches(" HTTP/1.1").to_owned();
    Ok(Some((line, request)))
}

/// A bucket there, with credentials in a file of `folder`.
///
/// # Panics
/// When the file cannot be written.
#[must_use]
pub fn place(address: &str, bucket: &str, folder: &Path) -> Place {
    Place {
        bucket: bucket.to_owned(),
        region: "us-east-1".to_owned(),
        endpoint: Some(format!("http://{address}")),
        prefix: "team-a/run.1".to_owned(),
        addressing: Addressing::Path,
        credentials: write_credentials(folder, "AKIDEXAMPLE", SECRET),
        ca: None,
    }
}

/// The secret of tests, which stands in no log and no error.
pub const SECRET: &str = "wJalrXUtnFEMIbPxRfiCYsecret";

/// Writes a credentials file, in place of one that is there.
///
/// # Panics
/// When it cannot be written.
#[must_use]
pub fn write_credentials(folder: &Path, id: &str, secret: &str) -> PathBuf {
    let path = folder.join("s3-credentials");
    let aside = folder.join("s3-credentials.new");
    let text = format!("[default]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\n");
    std::fs::write(&aside, text).expect("a test's folder can be written");
    std::fs::set_permissions(&aside, std::fs::Permissions::from_mode(0o600))
        .expect("a test's file is its own");
    // As whatever renews real ones does it: nobody reads half a file.
    std::fs::rename(&aside, &path).expect("a test's folder can be written");
    path
}
