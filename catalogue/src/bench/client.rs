//! The plainest client that there can be, to learn how fast a server answers: connections that stay
//! open, one request after the other on each, answers thrown away.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Time for one answer.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// What a server answered.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Load {
    pub answers: usize,
    pub bytes: u64,
    pub seconds: f64,
}

/// Asks the server at `address` for each of `paths` once, over `connections` connections.
pub fn load(address: SocketAddr, paths: &[String], connections: usize) -> anyhow::Result<Load> {
    let (next, began) = (AtomicUsize::new(0), Instant::now());
    let bytes: anyhow::Result<Vec<u64>> = thread::scope(|scope| {
        let ask = || ask_in_turn(address, paths, &next);
        let asking: Vec<_> = (0..connections).map(|_| scope.spawn(ask)).collect();
        let ended = asking.into_iter().map(|thread| thread.join());
        ended
            .map(|ended| ended.unwrap_or_else(|_| anyhow::bail!("a connection gave up")))
            .collect()
    });
    Ok(Load {
        answers: paths.len(),
        bytes: bytes?.iter().sum(),
        seconds: began.elapsed().as_secs_f64(),
    })
}

fn ask_in_turn(address: SocketAddr, paths: &[String], next: &AtomicUsize) -> anyhow::Result<u64> {
    let stream = TcpStream::connect(address)?;
    // Each request is one small write that is waited for: held back to be sent with a next one, it
    // would only be late.
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    // Larger than a poster, so that reading costs few calls, and the server is what is measured.
    let mut answers = BufReader::with_capacity(128 * 1024, stream.try_clone()?);
    let (mut requests, mut bytes, mut body) = (stream, 0, Vec::new());
    while let Some(path) = paths.get(next.fetch_add(1, Ordering::Relaxed)) {
        write!(requests, "GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n")?;
        let length = read_head(&mut answers)?;
        body.resize(length, 0);
        answers.read_exact(&mut body)?;
        bytes += length as u64;
    }
    Ok(bytes)
}

/// The length of the body that follows.
fn read_head(answers: &mut impl BufRead) -> anyhow::Result<usize> {
    let (mut line, mut length) = (String::new(), None);
    loop {
        line.clear();
        anyhow::ensure!(answers.read_line(&mut line)? > 0, "the server hung up");
        let field = line.trim_end().to_ascii_lowercase();
        if field.is_empty() {
            return length.ok_or_else(|| anyhow::anyhow!("an answer without content-length"));
        }
        if let Some(value) = field.strip_prefix("content-length:") {
            length = Some(value.trim().parse()?);
        }
    }
}
