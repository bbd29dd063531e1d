//! What ends a command early, as a person reads it and as an exit code.
//!
//! Invariant: every error goes to stderr once, here, and names the way out.

use std::fmt::Write as _;
use std::io::{ErrorKind, IsTerminal as _};
use std::process::ExitCode;

use marquee_proto::error::PublicError;
use marquee_view::harmless;

use crate::say::say;

/// Exit codes; `marquee --help` and docs/cli.md list them.
pub(crate) mod exit {
    /// A job failed, or the request did.
    pub(crate) const FAILED: u8 = 1;
    /// The command line was wrong (clap uses the same).
    pub(crate) const USAGE: u8 = 2;
    /// No coordinator answered.
    pub(crate) const UNREACHABLE: u8 = 3;
    /// The cluster's history breaks a rule.
    pub(crate) const RULES_BROKEN: u8 = 4;
    /// Ctrl-C, as shells report it.
    pub(crate) const INTERRUPTED: u8 = 130;
}

/// Why a command ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The arguments do not fit together, in a way that clap cannot see.
    #[error("{0}")]
    Usage(String),
    /// Nobody answered at the coordinator's address.
    #[error("cannot reach the coordinator at {addr} ({origin})")]
    Unreachable {
        addr: String,
        origin: String,
        tried: String,
        hints: Vec<String>,
    },
    /// The coordinator said no.
    #[error("{}", .0.message)]
    Refused(PublicError),
    /// Jobs failed or were cancelled; the text names them.
    #[error("{0}")]
    JobsFailed(String),
    /// The history of the cluster breaks its rules.
    #[error("{0}")]
    RulesBroken(String),
    /// Ctrl-C or SIGTERM. The hint says what goes on without us.
    #[error("interrupted")]
    Interrupted { hint: Option<String> },
    #[error("{0:#}")]
    Other(#[from] anyhow::Error),
}

/// Result of everything that may end a command.
pub(crate) type Result<T, E = CliError> = std::result::Result<T, E>;

impl From<std::io::Error> for CliError {
    fn from(error: std::io::Error) -> Self {
        Self::Other(error.into())
    }
}

impl CliError {
    /// The exit code that scripts see.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Refused(_) | Self::JobsFailed(_) | Self::Other(_) => exit::FAILED,
            Self::Usage(_) => exit::USAGE,
            Self::Unreachable { .. } => exit::UNREACHABLE,
            Self::RulesBroken(_) => exit::RULES_BROKEN,
            Self::Interrupted { .. } => exit::INTERRUPTED,
        }
    }

    /// Whether stdout was closed by its reader, as in `marquee jobs | head`. That is not an error.
    fn is_closed_pipe(&self) -> bool {
        match self {
            Self::Other(error) => error
                .downcast_ref::<std::io::Error>()
                .is_some_and(|error| error.kind() == ErrorKind::BrokenPipe),
            Self::Usage(_)
            | Self::Unreachable { .. }
            | Self::Refused(_)
            | Self::JobsFailed(_)
            | Self::RulesBroken(_)
            | Self::Interrupted { .. } => false,
        }
    }

    /// The text for stderr.
    pub(crate) fn render(&self, colour: bool) -> String {
        let mut text = String::new();
        match self {
            Self::Interrupted { hint } => {
                // No "error:" before it: the user did it on purpose.
                text.push_str("interrupted");
                if let Some(hint) = hint {
                    // Writing to a String cannot fail, here and below.
                    let _ = write!(text, "; {hint}");
                }
            }
            Self::Refused(refused) => render_refused(&mut text, refused, colour),
            Self::Unreachable { tried, hints, .. } => {
                let _ = write!(text, "{} {}", label("error:", colour), said(self));
                for line in std::iter::once(tried).chain(hints) {
                    let _ = write!(text, "\n  {}", harmless(line));
                }
            }
            Self::Usage(_) | Self::JobsFailed(_) | Self::RulesBroken(_) | Self::Other(_) => {
                let _ = write!(text, "{} {}", label("error:", colour), said(self));
            }
        }
        text
    }
}

fn render_refused(text: &mut String, refused: &PublicError, colour: bool) {
    let title = match &refused.code {
        Some(code) => format!("error[{code}]:"),
        None => "error:".to_owned(),
    };
    let message = harmless(&refused.message);
    let _ = write!(text, "{} {message}", label(&title, colour));
    for error in &refused.fields {
        let _ = write!(text, "\n  {}", harmless(&error.to_string()));
    }
    if let Some(code) = &refused.code {
        let _ = write!(text, "\n  docs/errors/{code}.md says more");
    }
}

/// An error's words, without what a terminal would obey: it may repeat what somebody sent or printed.
fn said(error: &CliError) -> String {
    harmless(&error.to_string()).into_owned()
}

fn label(word: &str, colour: bool) -> String {
    if colour {
        format!("\x1b[1;31m{word}\x1b[0m")
    } else {
        word.to_owned()
    }
}

/// Tells the user, and returns the exit code.
pub(crate) fn report(error: &CliError) -> ExitCode {
    if error.is_closed_pipe() {
        return ExitCode::SUCCESS;
    }
    let colour = crate::output::colour_wanted(std::io::stderr().is_terminal());
    say!("{}", error.render(colour));
    ExitCode::from(error.exit_code())
}

#[cfg(test)]
mod tests {
    use marquee_domain::pipeline::FieldError;

    use super::*;

    #[test]
    fn a_refused_document_shows_its_code_each_field_and_the_page() {
        let error = CliError::Refused(PublicError {
            code: Some("MQ0101".into()),
            message: "the document has 2 errors; nothing was stored".into(),
            fields: vec![
                FieldError {
                    field: "jobs.train.epochs".into(),
                    message: "is 0; must be 1 or more".into(),
                },
                FieldError {
                    field: "jobs.eval.kidn".into(),
                    message: r#"unknown key; did you mean "kind"?"#.into(),
                },
            ],
        });
        insta::assert_snapshot!(error.render(false), @r#"
        error[MQ0101]: the document has 2 errors; nothing was stored
          jobs.train.epochs: is 0; must be 1 or more
          jobs.eval.kidn: unknown key; did you mean "kind"?
          docs/errors/MQ0101.md says more
        "#);
        assert_eq!(error.exit_code(), 1);
    }

    #[test]
    fn no_error_steers_the_terminal() {
        let attack = "\u{1b}]52;c;ZXZpbA==\u{7}\u{9b}2J".to_owned();
        let field = FieldError {
            field: attack.clone(),
            message: attack.clone(),
        };
        for error in [
            CliError::Usage(attack.clone()),
            CliError::JobsFailed(attack.clone()),
            CliError::Other(anyhow::anyhow!("{attack}")),
            CliError::Refused(PublicError {
                code: None,
                message: attack.clone(),
                fields: vec![field],
            }),
            CliError::Unreachable {
                addr: attack.clone(),
                origin: String::new(),
                tried: attack.clone(),
                hints: vec![attack],
            },
        ] {
            let text = error.render(false);
            assert!(
                !text.contains(|c: char| c.is_control() && c != '\n'),
                "{text:?}"
            );
        }
    }

    #[test]
    fn a_closed_pipe_is_nobodys_error() {
        let closed = CliError::from(std::io::Error::from(ErrorKind::BrokenPipe));
        assert!(closed.is_closed_pipe());
        let other = CliError::from(std::io::Error::from(ErrorKind::PermissionDenied));
        assert!(!other.is_closed_pipe());
    }

    #[test]
    fn colour_adds_nothing_but_colour() {
        let error = CliError::Usage("say which job".into());
        let coloured = error
            .render(true)
            .replace("\x1b[1;31m", "")
            .replace("\x1b[0m", "");
        assert_eq!(coloured, error.render(false));
    }
}
