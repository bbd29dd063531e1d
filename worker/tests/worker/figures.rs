//! Figures for Prometheus: asked for by the settings alone, complete, and by its rules.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};

use crate::daemon::{Assigned, Daemon, shell, until};
use crate::fake::Fake;
use crate::nvml::{FakeNvml, K80};

const KEY: (i64, u32, u32) = (5, 1, 0);

/// An address on which nobody listens.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

fn ask(address: SocketAddr, question: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "{question} HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_gives_its_figures_where_the_settings_say_and_nothing_else() {
    let fake = Fake::start().await;
    let nvml = FakeNvml::new(K80);
    let address = free();
    let mut env = nvml.env();
    env.push(("MARQUEE_WORKER__METRICS_LISTEN".into(), address.to_string()));
    let _daemon = Daemon::start_in(&fake, &[], env);
    Assigned::new(KEY, shell("echo said; sleep 600"))
        .started()
        .tell(&fake)
        .await;
    fake.until_running(KEY).await;
    let text = || ask(address, "GET /metrics");
    until("the GPU's first reading", || {
        text().contains("marquee_worker_gpu_power_watts{gpu=\"0\"")
    })
    .await;
    let answer = text();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    for line in [
        "marquee_worker_build_info{version=",
        "marquee_worker_ranks{state=\"running\"} 1",
        "marquee_worker_cache_max_bytes 6",
        "marquee_worker_disk_available_bytes ",
        "marquee_worker_gpu_healthy{gpu=\"0\",uuid=",
    ] {
        assert!(body.contains(line), "{line} is not in\n{body}");
    }
    let spool = body
        .lines()
        .find_map(|line| line.strip_prefix("marquee_worker_spool_bytes "));
    assert!(spool.unwrap().parse::<f64>().unwrap() > 0.0, "{body}");
    let size: usize = head
        .lines()
        .find_map(|line| line.strip_prefix("Content-Length: "))
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(size, body.len());
    assert!(ask(address, "GET /").starts_with("HTTP/1.1 404"));
    assert!(ask(address, "POST /metrics").starts_with("HTTP/1.1 405"));
    by_the_rules(body);
    // One that never ends its question holds up nobody.
    let mut endless = TcpStream::connect(address).unwrap();
    endless.write_all(b"GET /metrics HTTP/1.1\r\nX: ").unwrap();
    assert!(text().contains("marquee_worker_ranks"));
    // One that is too long is given up.
    endless.write_all(&vec![b'x'; 16 * 1024]).unwrap();
    let mut rest = Vec::new();
    let _reset = endless.read_to_end(&mut rest);
    assert_eq!(rest, b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_taken_is_named_with_its_setting() {
    let fake = Fake::start().await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let env = vec![("MARQUEE_WORKER__METRICS_LISTEN".into(), address.clone())];
    let mut daemon = Daemon::start_in(&fake, &[], env);
    assert!(!daemon.wait().success());
    let log = daemon.log_text();
    assert!(
        log.contains("metrics_listen") && log.contains(&address),
        "{log}"
    );
}

/// By Prometheus' own judge, where it is installed.
fn by_the_rules(text: &str) {
    let judge = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut judge) = judge else {
        eprintln!(
            "SKIPPED  promtool check metrics: promtool is not on PATH (Debian's package prometheus has it)"
        );
        return;
    };
    judge
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let said = judge.wait_with_output().unwrap();
    assert!(said.status.success(), "{said:?}\n{text}");
}
