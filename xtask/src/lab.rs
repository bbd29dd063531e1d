//! The way into the lab: this process is replaced by cargo, which builds the lab's program and becomes it,
//! so that a Ctrl-C reaches it and nobody else, and its exit code is ours.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::process;
use crate::workspace::Workspace;

const PACKAGE: &str = "marquee-xtask-lab";

/// Runs a task of the lab; `words` are the task and what follows it.
pub fn run(workspace: &Workspace, words: &[String]) -> Result<ExitCode> {
    let mut command = command(workspace, words);
    // Returns only if it could not be started.
    let error = command.exec();
    Err(error).with_context(|| format!("cannot start {}", process::line(&command)))
}

fn command(workspace: &Workspace, words: &[String]) -> Command {
    // Where the user stands, for paths among the words start there.
    let mut command = workspace.cargo_here("run");
    command
        .args(["--quiet", "--package", PACKAGE, "--manifest-path"])
        .arg(workspace.root.join("Cargo.toml"))
        .arg("--")
        .args(words);
    command
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn the_words_go_on_as_they_are_and_paths_start_where_the_user_stands() {
        let workspace = Workspace {
            root: PathBuf::from("/checkout"),
            bin_dir: PathBuf::from("/checkout/target/debug"),
            packages: Vec::new(),
        };
        let words = ["bench", "data", "--prep", "./my prep"].map(str::to_owned);
        let command = command(&workspace, &words);
        let args: Vec<_> = command
            .get_args()
            .map(|word| word.to_string_lossy())
            .collect();
        let dashes = args.iter().position(|word| word == "--").unwrap();
        assert_eq!(args[dashes + 1..], words);
        assert!(args.contains(&"/checkout/Cargo.toml".into()), "{args:?}");
        assert_eq!(command.get_current_dir(), None);
    }
}
