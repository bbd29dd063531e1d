//! `cargo xtask bench GROUP [--json]`: figures beside a reference that ran in the same run.
//!
//! Each group is one file here; it runs its pieces and gives a `figure::Figure` of each to the `figure::Sheet`.
//!
//! Invariant: a figure's reference was measured in the same run on the same machine, and what could not
//! run is a line that says why. No goal is met by a figure that is not there.

mod agent;
mod data;
mod dispatch;
mod figure;
mod input;
mod page;
mod program;
mod train;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use marquee_xtask::workspace::Workspace;

/// The groups of benchmarks, by the word on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Group {
    Data,
    Train,
    Input,
    Dispatch,
    Page,
}

impl Group {
    pub(crate) const ALL: [(&'static str, Self); 5] = [
        ("data", Self::Data),
        ("train", Self::Train),
        ("input", Self::Input),
        ("dispatch", Self::Dispatch),
        ("page", Self::Page),
    ];

    pub(crate) fn named(word: &str) -> Option<Self> {
        let found = Self::ALL.iter().find(|(name, _)| *name == word);
        found.map(|(_, group)| *group)
    }

    fn parts(self) -> &'static [&'static str] {
        match self {
            Self::Data => data::PARTS,
            Self::Train => train::PARTS,
            Self::Input => input::PARTS,
            Self::Dispatch => dispatch::PARTS,
            Self::Page => page::PARTS,
        }
    }
}

/// The options of `bench`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub group: Group,
    pub json: bool,
    /// A `marquee-prep` to measure, with the `marquee-catalogue` beside it, instead of those that are built
    /// first.
    pub prep: Option<PathBuf>,
    /// A build whose daemons are measured instead of this checkout's.
    pub bin_dir: Option<PathBuf>,
    /// Fewer rounds: for a look, not for a figure.
    pub quick: bool,
    /// Only these parts of the group; none: all.
    pub parts: Vec<String>,
}

impl Options {
    /// Whether the part `name` of the group is to run.
    fn wants(&self, name: &str) -> bool {
        self.parts.is_empty() || self.parts.iter().any(|part| part == name)
    }
}

/// Runs a group. It fails where a goal is missed.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    let known = options.group.parts();
    // Before anything is built: a word that is wrong must not be told after minutes.
    if let Some(unknown) = options.parts.iter().find(|p| !known.contains(&p.as_str())) {
        anyhow::bail!(
            r#"there is no part "{unknown}"; the parts are {}"#,
            known.join(", ")
        );
    }
    let mut sheet = figure::Sheet::new(options.json);
    match options.group {
        Group::Data => data::run(workspace, options, &mut sheet)?,
        Group::Train => train::run(workspace, options, &mut sheet)?,
        Group::Input => input::run(workspace, options, &mut sheet)?,
        Group::Dispatch => dispatch::run(workspace, options, &mut sheet)?,
        Group::Page => page::run(workspace, options, &mut sheet)?,
    }
    sheet.finish()
}
