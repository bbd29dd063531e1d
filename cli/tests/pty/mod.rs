//! A program on a terminal of its own, by `script` of util-linux; used by several tests.

#![allow(
    clippy::unwrap_used,
    dead_code,
    reason = "a panic is how a test fails; not every test uses all of it"
)]

use std::io::{Read as _, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(60);
/// The program has the terminal.
pub(crate) const ENTERED: &str = "\u{1b}[?1049h";
/// The user's own screen is back, and so is the cursor.
pub(crate) const LEFT: &str = "\u{1b}[?1049l";
pub(crate) const CURSOR: &str = "\u{1b}[?25h";

/// A terminal of 80 columns and 24 lines on which a shell runs one program, with the terminal's settings printed
/// before and after.
#[derive(Debug)]
pub(crate) struct Pty {
    child: Child,
    input: Option<ChildStdin>,
    output: Arc<Mutex<String>>,
}

impl Pty {
    /// `line` is a line of a shell; `set` are variables of its environment.
    pub(crate) fn run(line: &str, set: &[(&str, &str)]) -> Self {
        let shell = format!(
            "stty rows 24 cols 80; echo before=$(stty -g); {line}; echo code=$?; echo after=$(stty -g)"
        );
        let mut child = Command::new("script")
            .args(["-qefc", &shell, "/dev/null"])
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("SHELL", "/bin/sh")
            .env("TERM", "xterm-256color")
            .env("LANG", "C.UTF-8")
            .envs(set.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let output = Arc::new(Mutex::new(String::new()));
        let (seen, mut source) = (Arc::clone(&output), child.stdout.take().unwrap());
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // Half a character at the end of a read is nothing that a test looks for.
            while let Ok(count @ 1..) = source.read(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
                seen.lock().unwrap().push_str(&text);
            }
        });
        Self {
            input: child.stdin.take(),
            child,
            output,
        }
    }

    /// All that the terminal was sent.
    pub(crate) fn sent(&self) -> String {
        self.output.lock().unwrap().clone()
    }

    /// Waits until the terminal has been sent a text, from the place `from` on.
    pub(crate) fn wait_for(&self, text: &str, from: usize) {
        let begun = Instant::now();
        while !self.sent().get(from..).unwrap_or_default().contains(text) {
            assert!(begun.elapsed() < SOON, "no {text:?} in {:?}", self.sent());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn press(&mut self, keys: &str) {
        let input = self.input.as_mut().unwrap();
        input.write_all(keys.as_bytes()).unwrap();
        input.flush().unwrap();
    }

    /// Waits until the shell has ended, and gives all that was sent.
    pub(crate) fn end(mut self) -> String {
        self.wait_for("after=", 0);
        self.input = None;
        self.child.wait().unwrap();
        // The reader sees the end a moment after us.
        let begun = Instant::now();
        while !self
            .sent()
            .trim_end()
            .rsplit("after=")
            .next()
            .unwrap()
            .contains(':')
        {
            assert!(begun.elapsed() < SOON, "{:?}", self.sent());
            std::thread::sleep(Duration::from_millis(20));
        }
        self.sent()
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a shell printed behind `name=`.
pub(crate) fn printed<'a>(sent: &'a str, name: &str) -> &'a str {
    let (_, behind) = sent.split_once(&format!("{name}=")).unwrap();
    behind.split(['\r', '\n']).next().unwrap()
}

/// The terminal is as it was: its settings, its screen and its cursor.
pub(crate) fn assert_clean(sent: &str) {
    assert_eq!(printed(sent, "before"), printed(sent, "after"), "{sent:?}");
    let entered = sent.rfind(ENTERED).expect("the screen was never taken");
    let behind = &sent[entered..];
    let left = behind.find(LEFT).expect("the screen was not given back");
    assert!(behind[left..].contains(CURSOR), "{sent:?}");
    // What is printed from then on stands on the user's own screen.
    assert!(behind[left..].contains("code="), "{sent:?}");
}
