//! The program `marquee-catalogue`, as the demo, `cargo xtask` and people start it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use serde_json::Value;

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_marquee-catalogue"));
    command.args(arguments).stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    program(arguments).output().unwrap()
}

/// What a program said on stderr when it refused.
fn refusal(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(!output.status.success(), "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// A server, killed when it is dropped.
struct Server {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
    /// `127.0.0.1:PORT`.
    address: String,
}

impl Server {
    fn start(arguments: &[&str]) -> Self {
        let mut child = program(&[&["serve"], arguments].concat())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let listening: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(listening["event"], "listening");
        let url = listening["api_url"].as_str().unwrap();
        let address = url
            .trim_start_matches("http://")
            .trim_end_matches("/3")
            .to_owned();
        Self {
            child,
            lines,
            address,
        }
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let host = &self.address;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn it_says_where_it_listens_serves_logs_each_request_and_leaves_in_order() {
    let mut server = Server::start(&["--films", "20", "--sketches", "--log-requests"]);
    assert!(
        server
            .get("/3/configuration")
            .contains("\"synthetic\":true")
    );
    assert!(server.get("/3/movie/0").starts_with("HTTP/1.1 404"));
    assert!(server.get("/requests").contains("\"requests\":2"));
    let stopped = Command::new("kill")
        .arg(server.child.id().to_string())
        .status();
    assert!(stopped.unwrap().success());
    let logged: Vec<String> = server.lines.by_ref().map(Result::unwrap).collect();
    assert_eq!(logged, ["/3/configuration", "/3/movie/0", "/requests"]);
    assert!(server.child.wait().unwrap().success());
}

#[test]
fn what_it_cannot_do_it_refuses_with_the_way_out() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    assert!(refusal(&["serve", "--port", &port]).contains("choose another --port"));
    assert!(refusal(&["serve", "--fault", "movie=418"]).contains("write ROUTE=KIND"));
    assert!(refusal(&["fuzz", "video"]).contains("use json, image, shard, table, list, archive"));
    assert!(refusal(&["bench", "rounds", "coffee", "."]).contains("use decode, loader"));
}

#[test]
fn a_finding_of_the_fuzzer_can_be_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("finding");
    std::fs::write(&file, b"{\"id\":11}").unwrap();
    let output = run(&["fuzz", "json", "--input", file.to_str().unwrap()]);
    assert!(output.status.success());
    let judged: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(judged["verdict"], "film true line true");
}

#[test]
fn the_benchmarks_make_what_they_work_on_and_tell_what_a_round_cost() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().to_str().unwrap();
    let made = run(&["bench", "make", at, "--pictures", "3", "--rows", "50"]);
    assert!(made.status.success(), "{made:?}");
    // The rows of a table are what a round of it is checked by.
    for (task, rounds, rows) in [
        ("decode", 4, None),
        ("loader", 3, None),
        ("raw", 5, None),
        ("mapped", 5, None),
        ("table", 1, Some(50.0)),
        ("rows", 2, Some(100.0)),
    ] {
        let mut child = program(&["bench", "rounds", task, at])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        writeln!(child.stdin.take().unwrap(), "{rounds}").unwrap();
        let output = child.wait_with_output().unwrap();
        let cost: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(cost["items"], rounds, "{task}: {cost}");
        if let Some(rows) = rows {
            assert_eq!(cost["check"], rows, "{task}: {cost}");
        }
    }

    let server = Server::start(&["--films", "20", "--sketches"]);
    let mut child = program(&["bench", "load", &server.address, "--connections", "2"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let paths = "/3/configuration\n/3/genre/movie/list\n/3/configuration\n";
    let mut asked = child.stdin.take().unwrap();
    asked.write_all(paths.as_bytes()).unwrap();
    drop(asked);
    let output = child.wait_with_output().unwrap();
    let load: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(load["answers"], 3, "{load}");
}
