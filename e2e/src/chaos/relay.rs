//! A TCP relay between a worker, or a client, and a coordinator: what a network between them may do.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Bytes that are passed on at once.
const CHUNK_BYTES: usize = 16 * 1024;

/// How the link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// As it should be.
    Up,
    /// Connections break, and new ones are refused.
    Cut,
    /// Nothing passes, and nobody is told: a cable that was pulled. What was sent meanwhile arrives in a bunch.
    Silent,
    /// The same from the coordinator to the other side alone.
    Deaf,
    /// Each chunk waits for so long.
    Slow(Duration),
}

/// A relay that listens for as long as it lives.
#[derive(Debug)]
pub struct Relay {
    pub address: SocketAddr,
    link: Arc<watch::Sender<Link>>,
    accepting: tokio::task::JoinHandle<()>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    ToCoordinator,
    FromCoordinator,
}

impl Relay {
    /// Passes what comes on to `target`.
    pub async fn start(target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let link = Arc::new(watch::Sender::new(Link::Up));
        let state = link.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = state.clone();
                // A connection that fails is what a relay is for.
                tokio::spawn(async move { drop(serve(stream, target, state).await) });
            }
        });
        Ok(Self {
            address,
            link,
            accepting,
        })
    }

    pub fn set(&self, link: Link) {
        self.link.send_replace(link);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
        self.link.send_replace(Link::Cut);
    }
}

async fn serve(
    stream: TcpStream,
    target: SocketAddr,
    link: Arc<watch::Sender<Link>>,
) -> Result<()> {
    if *link.borrow() == Link::Cut {
        return Ok(());
    }
    let upstream = TcpStream::connect(target).await?;
    stream.set_nodelay(true)?;
    upstream.set_nodelay(true)?;
    let (near_read, near_write) = stream.into_split();
    let (far_read, far_write) = upstream.into_split();
    let mut broken = link.subscribe();
    let out = pass(near_read, far_write, link.subscribe(), Way::ToCoordinator);
    let back = pass(far_read, near_write, link.subscribe(), Way::FromCoordinator);
    tokio::select! {
        both = async { tokio::join!(out, back) } => { both.0?; both.1 }
        _ = broken.wait_for(|link| *link == Link::Cut) => Ok(()),
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut link: watch::Receiver<Link>,
    way: Way,
) -> Result<()> {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let count = from.read(&mut buffer).await?;
        let held = |link: &Link| match link {
            Link::Silent => true,
            Link::Deaf => way == Way::FromCoordinator,
            Link::Up | Link::Cut | Link::Slow(_) => false,
        };
        let now = *link.wait_for(|link| !held(link)).await?;
        if count == 0 {
            return Ok(to.shutdown().await?);
        }
        if let Link::Slow(delay) = now {
            tokio::time::sleep(delay).await;
        }
        to.write_all(&buffer[..count]).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    drop(tokio::io::copy(&mut read, &mut write).await);
                });
            }
        });
        address
    }

    async fn answer(stream: &mut TcpStream) -> Option<[u8; 4]> {
        let mut bytes = [0; 4];
        let read = stream.read_exact(&mut bytes);
        match tokio::time::timeout(Duration::from_millis(300), read).await {
            Ok(Ok(_)) => Some(bytes),
            Ok(Err(_)) | Err(_) => None,
        }
    }

    #[tokio::test]
    async fn a_link_passes_holds_and_breaks() {
        let relay = Relay::start(echo().await).await.unwrap();
        let mut stream = TcpStream::connect(relay.address).await.unwrap();
        stream.write_all(b"ping").await.unwrap();
        assert_eq!(answer(&mut stream).await, Some(*b"ping"));
        for link in [Link::Silent, Link::Deaf] {
            relay.set(link);
            stream.write_all(b"held").await.unwrap();
            assert_eq!(answer(&mut stream).await, None, "{link:?}");
            relay.set(Link::Up);
            assert_eq!(answer(&mut stream).await, Some(*b"held"), "{link:?}");
        }
        relay.set(Link::Cut);
        let mut end = [0; 1];
        assert!(matches!(stream.read(&mut end).await, Ok(0) | Err(_)));
        let mut refused = TcpStream::connect(relay.address).await.unwrap();
        assert!(matches!(refused.read(&mut end).await, Ok(0) | Err(_)));
    }
}
