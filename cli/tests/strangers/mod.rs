//! The command line where what answers is no coordinator, or one of another time.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Stdio};
use std::thread;

use super::{Home, Ran};

/// Answers each connection with these bytes once something was said, and hangs up.
fn stranger(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    // It goes with the test's process.
    thread::spawn(move || {
        for connection in listener.incoming() {
            let Ok(mut connection) = connection else {
                return;
            };
            let mut heard = [0; 1024];
            let _ = connection.read(&mut heard);
            let _ = connection.write_all(answer);
        }
    });
    addr
}

/// Somebody who speaks gRPC and knows none of our requests.
fn older() -> SocketAddr {
    let (tell, told) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            tell.send(listener.local_addr().unwrap()).unwrap();
            let incoming = tonic::transport::server::TcpIncoming::from(listener);
            let routes = tonic::service::Routes::default();
            let server = tonic::transport::Server::builder().add_routes(routes);
            let _ = server.serve_with_incoming(incoming).await;
        });
    });
    told.recv().unwrap()
}

fn ask(home: &Home, words: &[&str], addr: SocketAddr) -> Child {
    let mut command = home.command(words);
    command.env("MARQUEE_ADDR", addr.to_string());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

#[test]
fn what_is_no_coordinator_is_told_as_nobody_with_the_way_out() {
    let home = Home::new();
    let answers: [(&str, &'static [u8]); 5] = [
        ("hangs up", b""),
        (
            "a web server",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        ),
        ("a mail server", b"220 mail ESMTP\r\n"),
        // An alert, as a port with TLS answers to whoever speaks without.
        ("a port with TLS", b"\x15\x03\x03\x00\x02\x02\x46"),
        ("noise", &[0xff; 512]),
    ];
    let asked: Vec<_> = answers
        .into_iter()
        .flat_map(|(what, answer)| {
            let addr = stranger(answer);
            let ways: [&'static [&'static str]; 3] = [
                &["jobs"],
                &["cancel", "17"],
                &["logs", "-f", "17", "--output", "json"],
            ];
            ways.map(|words| (what, words, addr))
        })
        .collect();
    let running: Vec<Child> = asked
        .iter()
        .map(|(_, words, addr)| ask(&home, words, *addr))
        .collect();
    for ((what, words, addr), child) in asked.into_iter().zip(running) {
        let ran = Ran::from(child.wait_with_output().unwrap());
        assert_eq!(
            (ran.code, ran.out.as_str()),
            (Some(3), ""),
            "{what}, {words:?}: {ran:?}"
        );
        for said in [addr.to_string().as_str(), "from MARQUEE_ADDR", "marquee up"] {
            assert!(
                ran.err.contains(said),
                "{what}, {words:?} says {said}: {ran:?}"
            );
        }
        // What it said is not ours to show to a terminal as it is.
        let harmless = |c: char| !c.is_control() || c == '\n';
        assert!(ran.err.chars().all(harmless), "{what}: {ran:?}");
    }
}

#[test]
fn a_coordinator_that_does_not_know_a_request_is_told_to_be_older() {
    let home = Home::new();
    let addr = older();
    let pipeline = home.file(
        "p.toml",
        "name = \"p\"\n[jobs.a]\nkind = \"command\"\nargv = [\"true\"]\n",
    );
    for words in [
        &["jobs"][..],
        &["jobs", "-o", "json"],
        &["workers"],
        &["submit", &pipeline],
        &["cancel", "17"],
        &["logs", "-f", "17"],
        &["wait", "17"],
        &["artifacts", "ls"],
        &["audit", "log"],
        &["quota"],
        &["explain", "17"],
    ] {
        let ran = Ran::from(ask(&home, words, addr).wait_with_output().unwrap());
        assert_eq!(
            (ran.code, ran.out.as_str()),
            (Some(1), ""),
            "{words:?}: {ran:?}"
        );
        for said in [&addr.to_string(), "does not know this request", "older"] {
            assert!(ran.err.contains(said), "{words:?} says {said}: {ran:?}");
        }
    }
}
