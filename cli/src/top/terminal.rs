//! The terminal while the screen has it.
//!
//! Invariant: whatever ends us, the terminal is as it was: the guard gives it back when it is dropped, and a panic
//! gives it back before its words are printed. `kill -9` alone can leave it: then "reset" helps.

use std::io::{self, Stdout, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{Signal, raise};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};

/// Whether the terminal is ours now. Static, since the hook of a panic can be given nothing.
static HELD: AtomicBool = AtomicBool::new(false);
/// A task of the program panicked: its words stand on the user's own screen, which must not be drawn over.
static PANICKED: AtomicBool = AtomicBool::new(false);

/// The terminal, for as long as it lives.
#[derive(Debug)]
pub(super) struct Screen {
    pub terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl Screen {
    pub(super) fn take() -> io::Result<Self> {
        // Set before the terminal is taken: there is no moment at which a panic prints into a raw
        // one.
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICKED.store(true, Ordering::SeqCst);
            give_back();
            before(panic);
        }));
        hold()?;
        let terminal = Terminal::new(CrosstermBackend::new(io::stdout()));
        if terminal.is_err() {
            // Before the panic's words: on the other screen they would go with it.
            give_back();
        }
        Ok(Self {
            terminal: terminal?,
        })
    }

    /// Gives the terminal to the shell until it brings us back.
    pub(super) fn suspend(&mut self) -> io::Result<()> {
        give_back();
        raise(Signal::SIGTSTP).map_err(io::Error::from)?;
        hold()?;
        self.terminal.clear()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

/// Whether a part of the program has panicked.
pub(super) fn has_panicked() -> bool {
    PANICKED.load(Ordering::SeqCst)
}

fn hold() -> io::Result<()> {
    enable_raw_mode()?;
    // Before the second step: where that fails, the first is undone by whoever gives back.
    HELD.store(true, Ordering::SeqCst);
    execute!(io::stdout(), EnterAlternateScreen, Hide).inspect_err(|_| give_back())
}

/// Does it once, whoever calls first; what fails here cannot be helped, and the rest is tried all the same.
fn give_back() {
    if !HELD.swap(false, Ordering::SeqCst) {
        return;
    }
    let _ = execute!(io::stdout(), LeaveAlternateScreen, Show);
    let _ = disable_raw_mode();
    let _ = io::stdout().flush();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::pty;

    /// What the test below runs on a terminal of its own.
    #[test]
    #[ignore = "takes the terminal; run by a_panic_gives_the_terminal_back_before_it_is_told"]
    fn panics_while_it_has_the_terminal() {
        let _screen = Screen::take().unwrap();
        panic!("on purpose");
    }

    #[test]
    fn a_panic_gives_the_terminal_back_before_it_is_told() {
        let program = std::env::current_exe().unwrap();
        let test = "top::terminal::tests::panics_while_it_has_the_terminal";
        let line = format!("{} --exact {test} --ignored --nocapture", program.display());
        let sent = pty::Pty::run(&line, &[]).end();
        pty::assert_clean(&sent);
        let (before, after) = sent.split_once(pty::LEFT).unwrap();
        assert!(
            !before.contains("on purpose") && after.contains("on purpose"),
            "{sent:?}"
        );
    }
}
