//! A network that loses what it carries without a word: connections that look alive and are not.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use marquee_proto::v1::report::Body;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use crate::daemon::{Daemon, run, shell};
use crate::fake::{Fake, Key};

const KEY: Key = (31, 1, 0);

/// Carries connections to the coordinator. Those before the newest loss carry nothing any more, and nobody is
/// told: as when a firewall forgets them.
struct Relay {
    address: SocketAddr,
    losses: Arc<AtomicU64>,
}

impl Relay {
    async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let losses = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&losses);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(target).await.unwrap();
                let ((near_in, near_out), (far_in, far_out)) =
                    (near.into_split(), far.into_split());
                let born = seen.load(Ordering::Relaxed);
                tokio::spawn(carry(near_in, far_out, born, Arc::clone(&seen)));
                tokio::spawn(carry(far_in, near_out, born, Arc::clone(&seen)));
            }
        });
        Self { address, losses }
    }

    fn lose_all(&self) {
        self.losses.fetch_add(1, Ordering::Relaxed);
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, born: u64, losses: Arc<AtomicU64>) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        if losses.load(Ordering::Relaxed) > born {
            // Neither closed nor carried on.
            continue;
        }
        if to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
    if losses.load(Ordering::Relaxed) > born {
        std::future::pending::<()>().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_carries_nothing_any_more_is_replaced_and_nothing_is_lost() {
    let fake = Fake::start().await;
    let relay = Relay::to(fake.address).await;
    let daemon = Daemon::start_towards(relay.address);
    let go = daemon.dir.path().join("go");
    let script = format!(
        "echo before; while [ ! -e {} ]; do sleep 0.1; done; echo after",
        go.display()
    );
    run(&fake, KEY, shell(&script)).await;
    fake.until("its first word", |s| {
        format!("{:?}", s.reports.get(&KEY)).contains("before")
    })
    .await;
    let hellos = fake.state().hellos.len();
    relay.lose_all();
    std::fs::write(&go, "").unwrap();
    // No FIN and no RST comes: the worker finds out by itself.
    fake.until("a new session", |state| state.hellos.len() > hellos)
        .await;
    assert!(matches!(fake.until_ended(KEY).await, Body::Finished(_)));
    assert_eq!(fake.log(KEY), ["before", "after"]);
    assert_eq!(fake.state().gaps, 0);
}
