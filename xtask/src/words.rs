//! What the command lines of xtask and its lab have in common, read by hand: a few tasks with a handful of
//! options do not pay for a parser crate that every new user would have to compile first.
//!
//! Invariant: a word that is not understood is an error that names it; nothing is ignored.

use std::path::PathBuf;

use anyhow::{Result, bail};

/// The task that the first word names, the words for it, and whether its help is asked for. None: no word.
#[must_use]
pub fn split(words: impl IntoIterator<Item = String>) -> Option<(String, Vec<String>, bool)> {
    let mut words = words.into_iter();
    let task = words.next()?;
    let rest: Vec<String> = words.collect();
    // What follows the dashes is for another program.
    // Anywhere among the words: whoever asks for help has often typed half a command by then.
    let wants_help = rest
        .iter()
        .take_while(|word| *word != "--")
        .any(|word| word == "--help" || word == "-h");
    Some((task, rest, wants_help))
}

/// For a task that takes no words.
pub fn none(task: &str, words: &[String]) -> Result<()> {
    match words.first() {
        None => Ok(()),
        Some(word) => Err(unknown(task, word)),
    }
}

/// For a task that takes one option, `flag` with a path.
pub fn path_option(task: &str, flag: &str, words: &[String]) -> Result<Option<PathBuf>> {
    match words {
        [] => Ok(None),
        [word] if word == flag => bail!(r#""cargo xtask {task} {flag}" needs a path"#),
        // The next option is not the path that was forgotten.
        [word, path, ..] if word == flag && path.starts_with("--") => {
            bail!(r#""cargo xtask {task} {flag}" needs a path"#)
        }
        [word, path] if word == flag => Ok(Some(path.into())),
        [word, _, more, ..] if word == flag => Err(unknown(task, more)),
        [other, ..] => Err(unknown(task, other)),
    }
}

/// The error for a word that `task` does not know.
#[must_use]
pub fn unknown(task: &str, word: &str) -> anyhow::Error {
    anyhow::anyhow!(
        r#""cargo xtask {task}" does not know "{word}"; see "cargo xtask {task} --help""#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn help_is_asked_for_before_the_dashes_only() {
        let asked = |line: &str| split(words(line)).map(|(_, _, wants_help)| wants_help);
        assert_eq!(asked("test --help"), Some(true));
        assert_eq!(asked("test x -h -- y"), Some(true));
        assert_eq!(asked("test -- --help"), Some(false));
        assert_eq!(asked(""), None);
    }

    #[test]
    fn one_option_with_a_path_is_read_and_all_else_named() {
        let read = |line: &str| path_option("transfer", "--to", &words(line));
        assert_eq!(read("").unwrap(), None);
        assert_eq!(read("--to /x").unwrap(), Some(PathBuf::from("/x")));
        for (line, named) in [
            ("--to", "needs a path"),
            ("--to --fast", "needs a path"),
            ("--too /x", r#""--too""#),
            ("/x", r#""/x""#),
            ("--to /x --fast", r#""--fast""#),
        ] {
            let message = read(line).unwrap_err().to_string();
            assert!(message.contains(named), "{line}: {message}");
        }
    }

    #[test]
    fn a_task_without_words_refuses_the_first_of_them() {
        assert!(none("web", &[]).is_ok());
        let message = none("web", &words("now then")).unwrap_err().to_string();
        assert!(
            message.contains(r#"does not know "now""#) && message.contains("web --help"),
            "{message}"
        );
    }

    #[test]
    fn a_words_place_and_number_do_not_matter_to_how_it_is_split() {
        let (task, rest, wants_help) = split(words("bench data --json")).unwrap();
        assert_eq!((task.as_str(), rest.len(), wants_help), ("bench", 2, false));
        let (task, rest, _) = split(words("--help")).unwrap();
        assert_eq!((task.as_str(), rest.len()), ("--help", 0));
        let odd = vec![String::new(), "-".to_owned()];
        let (task, rest, wants_help) = split(odd).unwrap();
        assert_eq!(
            (task.as_str(), rest.as_slice(), wants_help),
            ("", &["-".to_owned()][..], false)
        );
    }
}
