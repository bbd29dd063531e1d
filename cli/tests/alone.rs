//! The command line where there is no coordinator: exit codes, and what goes to which stream.
//!
//! With one: `e2e/tests/cli.rs`.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod everyone;
mod pty;
mod strangers;

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// What a command came to.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    signal: Option<i32>,
    out: String,
    err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            signal: output.status.signal(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// A user's home with nothing in it.
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_marquee"));
        command
            .args(arguments)
            .env_clear()
            .env("HOME", self.path())
            .current_dir(self.path())
            .stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        self.command(arguments).output().unwrap().into()
    }
}

/// An address at which nobody listens.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[test]
fn help_is_an_answer_and_a_wrong_command_line_an_error_of_code_2() {
    let home = Home::new();
    for asked in ["--help", "--version"] {
        let ran = home.run(&[asked]);
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{ran:?}");
        assert!(ran.out.contains("marquee"), "{ran:?}");
    }
    for (wrong, named) in [
        (&["sumbit", "x"][..], "submit"),
        (&["submit"], "<FILE>"),
        (&["jobs", "--state", "done"], "succeeded"),
        (&["jobs", "--output", "yaml"], "quiet"),
        (&["submit", "f", "--set", "epochs"], "KEY=VALUE"),
        (&["show", "Train"], "p3/train"),
        (&["models", "resnet5"], "resnet50"),
        (&["jobs", "--addr", "no address"], "127.0.0.1:7700"),
        (&["jobs", "--addr", "https://head:7700"], "[tls]"),
    ] {
        let ran = home.run(wrong);
        assert_eq!(
            (ran.code, ran.out.as_str()),
            (Some(2), ""),
            "{wrong:?}: {ran:?}"
        );
        assert!(ran.err.contains(named), "{wrong:?}: {ran:?}");
    }
}

#[test]
fn what_needs_no_coordinator_answers_without_one() {
    let home = Home::new();
    let ran = home.run(&["models", "--output", "json"]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{ran:?}");
    let models: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert!(models.as_array().unwrap().len() > 10);
    let ran = home.run(&["models", "resnet50", "--output", "quiet"]);
    assert_eq!(ran.out, "resnet50\n");
    let ran = home.run(&["completions", "bash"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.out.contains("marquee"));
}

#[test]
fn no_coordinator_is_code_3_with_the_address_who_said_it_and_the_way_out() {
    let home = Home::new();
    let addr = nobody();
    let pipeline = home.file(
        "p.toml",
        "name = \"p\"\n[jobs.a]\nkind = \"command\"\nargv = [\"true\"]\n",
    );
    // Each is tried for some seconds: they wait side by side.
    let asked: Vec<Vec<&str>> = vec![
        vec!["jobs"],
        vec!["jobs", "--output", "json"],
        vec!["workers", "--output", "quiet"],
        vec!["submit", &pipeline, "--wait"],
        vec!["logs", "-f", "17"],
        vec!["wait", "p3"],
    ];
    let running: Vec<_> = asked
        .iter()
        .map(|arguments| {
            let mut command = home.command(arguments);
            command.env("MARQUEE_ADDR", &addr);
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            command.spawn().unwrap()
        })
        .collect();
    for (arguments, child) in asked.iter().zip(running) {
        let ran = Ran::from(child.wait_with_output().unwrap());
        assert_eq!(
            (ran.code, ran.out.as_str()),
            (Some(3), ""),
            "{arguments:?}: {ran:?}"
        );
        for said in [
            &addr,
            "from MARQUEE_ADDR",
            "Connection refused",
            "marquee up",
        ] {
            assert!(ran.err.contains(said), "{arguments:?} says {said}: {ran:?}");
        }
    }
}

#[test]
fn a_context_file_that_is_wrong_is_named() {
    let home = Home::new();
    let context = home.file("context.toml", "adr = \"x\"\n");
    let ran: Ran = home
        .command(&["jobs"])
        .env("MARQUEE_CONTEXT", &context)
        .output()
        .unwrap()
        .into();
    assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "{ran:?}");
    assert!(
        ran.err.contains(&context) && ran.err.contains("addr ="),
        "{ran:?}"
    );
}

#[test]
fn a_pipeline_that_cannot_be_read_is_refused_before_anybody_is_asked() {
    let home = Home::new();
    let ran = home.run(&["submit", "/nowhere/p.toml", "--addr", &nobody()]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""), "{ran:?}");
    assert!(ran.err.contains("/nowhere/p.toml"), "{ran:?}");
    let large = home.file("large.toml", &"#".repeat((1 << 20) + 1));
    let ran = home.run(&["submit", &large, "--addr", &nobody()]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "{ran:?}");
    assert!(ran.err.contains("1.0 MiB"), "{ran:?}");
}

#[test]
fn a_reader_of_stdout_that_leaves_is_nobodys_error() {
    let home = Home::new();
    let mut child = home
        .command(&["completions", "zsh"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The pipe holds less than what is written, so the write fails when the reader is gone.
    let mut first = String::new();
    let mut stdout = BufReader::with_capacity(16, child.stdout.take().unwrap());
    stdout.read_line(&mut first).unwrap();
    drop(stdout);
    let status = child.wait().unwrap();
    let mut err = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut err)
        .unwrap();
    assert_eq!((status.code(), err.as_str()), (Some(0), ""), "{first}");
}

#[test]
fn a_reader_of_stderr_that_leaves_changes_no_exit_code() {
    let home = Home::new();
    let mut child = home
        .command(&["jobs", "--addr", &nobody()])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stderr.take());
    // A panic on the way would be code 101.
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(3), "{status}");
}

#[test]
fn ctrl_c_ends_a_command_that_waits_for_an_answer_at_once() {
    let home = Home::new();
    // Somebody who takes connections and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = silent.local_addr().unwrap().to_string();
    let child = home
        .command(&["jobs", "--addr", &addr])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (connection, _) = silent.accept().unwrap();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let ran = Ran::from(child.wait_with_output().unwrap());
    drop(connection);
    assert_eq!((ran.code, ran.signal), (None, Some(2)), "{ran:?}");
    assert_eq!(ran.out, "");
}

#[test]
fn a_full_screen_says_that_nobody_answers_and_leaves_the_terminal_as_it_was() {
    let home = Home::new();
    // Bound and dropped: nobody listens there now.
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let top = format!(
        "{} top --addr 127.0.0.1:{port}",
        env!("CARGO_BIN_EXE_marquee")
    );
    // The shell that becomes the program says which process it is.
    let line = format!("sh -c 'echo pid=$$; exec {top}'");
    let set = [("HOME", home.path().to_str().unwrap())];
    let quit = |terminal: &mut pty::Pty, keys: &str| terminal.press(keys);
    let terminate = |terminal: &mut pty::Pty, _: &str| {
        let pid = pty::printed(&terminal.sent(), "pid").parse().unwrap();
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(pid),
            nix::sys::signal::Signal::SIGTERM,
        )
        .unwrap();
    };
    type End<'a> = (&'a str, &'a dyn Fn(&mut pty::Pty, &str), &'a str);
    let ends: [End<'_>; 3] = [
        ("q", &quit, "0"),
        ("\u{3}", &quit, "0"),
        ("", &terminate, "130"),
    ];
    for (keys, end, code) in ends {
        let mut terminal = pty::Pty::run(&line, &set);
        terminal.wait_for("refused", 0);
        end(&mut terminal, keys);
        let sent = terminal.end();
        pty::assert_clean(&sent);
        assert_eq!(pty::printed(&sent, "code"), code, "{keys:?}: {sent:?}");
    }
}

#[test]
fn a_full_screen_where_there_is_none_names_the_way_out() {
    let home = Home::new();
    for arguments in [&["top"][..], &["top", "-o", "json"]] {
        let ran = home.run(arguments);
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(ran.err.contains("--once"), "{ran:?}");
        assert_eq!(ran.out, "");
    }
    let terminal = pty::Pty::run(
        &format!("{} top", env!("CARGO_BIN_EXE_marquee")),
        &[("TERM", "dumb"), ("HOME", home.path().to_str().unwrap())],
    );
    let sent = terminal.end();
    assert!(
        sent.contains("--once") && !sent.contains(pty::ENTERED),
        "{sent:?}"
    );
    assert_eq!(pty::printed(&sent, "code"), "2");
}
