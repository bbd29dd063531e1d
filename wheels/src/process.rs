//! Starting other programs, with errors that name the command as the user could type it.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, bail};

/// Runs a command that talks to the user itself; anything but success is an error.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot start {}", line(command)))?;
    if !status.success() {
        bail!("{} failed with {status}", line(command));
    }
    Ok(())
}

/// Runs a quiet command and returns its stdout; on failure the error holds its stderr.
pub fn read(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("cannot start {}", line(command)))?;
    if !output.status.success() {
        bail!(
            "{} failed with {}\n{}",
            line(command),
            output.status,
            said(&output)
        );
    }
    // Strictly, unlike `said`: a program reads on in it, and a replaced byte would be another
    // value.
    String::from_utf8(output.stdout)
        .with_context(|| format!("{} printed something that is not text", line(command)))
}

/// All that a finished command printed.
pub fn said(output: &Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    text.trim_end().to_owned()
}

/// The command as a line to read; quoting is for the eye only.
pub fn line(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|word| {
        let word = word.to_string_lossy();
        if word.contains(char::is_whitespace) {
            format!("{word:?}")
        } else {
            word.into_owned()
        }
    }));
    words.join(" ")
}

/// The first executable of this name on PATH.
pub fn on_path(name: &str) -> Option<PathBuf> {
    find_in_path(name, &std::env::var_os("PATH")?)
}

fn find_in_path(name: &str, path: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(path)
        .map(|folder| folder.join(name))
        .find(|file| is_executable(file))
}

pub fn is_executable(file: &Path) -> bool {
    file.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Whether this process runs as root, which Postgres refuses to.
pub fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    // Without a crate for system calls, of which this would be the only one here.
    std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_failure_names_the_command_and_what_it_said() {
        let error = read(&mut shell("echo half; echo why >&2; exit 3")).unwrap_err();
        let text = error.to_string();
        for said in ["sh -c", "exit status: 3", "half", "why"] {
            assert!(text.contains(said), "{said}: {text}");
        }
        assert!(run(&mut shell("exit 1")).is_err());
        // One that a signal ends has no exit code, and has failed all the same.
        let killed = run(&mut shell("kill -9 $$")).unwrap_err().to_string();
        assert!(killed.contains("signal: 9"), "{killed}");
        let absent = read(&mut Command::new("/nowhere/program")).unwrap_err();
        assert!(
            format!("{absent:#}").contains("cannot start /nowhere/program"),
            "{absent:#}"
        );
        let binary = read(&mut shell("printf '\\377'")).unwrap_err().to_string();
        assert!(binary.contains("not text"), "{binary}");
        assert_eq!(read(&mut shell("echo out; echo err >&2")).unwrap(), "out\n");
    }

    #[test]
    fn a_command_is_a_line_to_read() {
        let mut command = Command::new("cargo");
        command.args(["run", "--", "two words", "-x"]);
        assert_eq!(line(&command), r#"cargo run -- "two words" -x"#);
    }

    #[test]
    fn the_first_program_on_the_path_that_may_run_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for (name, mode) in [("one", 0o644), ("two", 0o755), ("three", 0o755)] {
            std::fs::create_dir(at(name)).unwrap();
            let file = at(name).join("tool");
            std::fs::write(&file, "").unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        std::fs::create_dir_all(at("four").join("tool")).unwrap();
        let path =
            |names: &[&str]| std::env::join_paths(names.iter().map(|name| at(name))).unwrap();
        let found = find_in_path("tool", &path(&["none", "one", "two", "three"]));
        assert_eq!(found, Some(at("two").join("tool")));
        // A folder may be entered, and is no program.
        assert_eq!(find_in_path("tool", &path(&["four", "one"])), None);
    }
}
