//! What a keeper is told, on its command line and its stdin, and what it leaves in the folder of its launch.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::files;
use crate::process::ProcessId;
use crate::process::cage::Cage;
use crate::process::fence::Fence;

/// The claim on launch number N, `claim-N.json`: made once, by the keeper, or by a daemon that
/// wants to be sure that no late keeper starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// None where a daemon fenced this launch off.
    pub keeper: Option<ProcessId>,
    /// The child, once it is started.
    pub child: Option<i32>,
    /// The cgroup that it was started in.
    #[serde(default)]
    pub cgroup: Option<PathBuf>,
    /// The child runs under another account, and its keeper has it looked at.
    #[serde(default)]
    pub is_caged: bool,
}

/// The first word of the command line where the daemon's own program is the keeper.
pub const COMMAND: &str = "keep";

/// What to keep: the rest of the keeper's command line.
#[derive(Debug, PartialEq, Eq)]
pub struct Keep {
    /// Folder of the launch.
    pub dir: PathBuf,
    /// Number of the launch.
    pub launch: u32,
    /// The child gets a channel for its events.
    pub events: bool,
    /// The child's cgroup; it is gone when the keeper is.
    pub cgroup: Option<PathBuf>,
    pub argv: Vec<OsString>,
}

impl Keep {
    /// Reads what [`Keep::words`] wrote. By hand: a keeper is started for every child, and a parser for all that the
    /// daemon can be told costs it more than its own work.
    pub fn read(words: impl IntoIterator<Item = OsString>) -> anyhow::Result<Self> {
        let mut words = words.into_iter();
        let mut next = || words.next().context("a keeper's command line ends early");
        let dir = PathBuf::from(next()?);
        let launch = next()?;
        let launch = launch.to_str().and_then(|launch| launch.parse().ok());
        let launch = launch.context("a keeper's launch is no number")?;
        let (mut events, mut cgroup) = (false, None);
        loop {
            let word = next()?;
            match word.to_str() {
                Some("--events") => events = true,
                Some("--cgroup") => cgroup = Some(PathBuf::from(next()?)),
                Some("--") => break,
                _ => anyhow::bail!("a keeper does not know {word:?}"),
            }
        }
        let argv: Vec<OsString> = words.collect();
        anyhow::ensure!(!argv.is_empty(), "a keeper was given no program");
        Ok(Self {
            dir,
            launch,
            events,
            cgroup,
            argv,
        })
    }

    /// The command line behind the program's name.
    #[must_use]
    pub fn words(&self) -> Vec<OsString> {
        let mut words = vec![self.dir.clone().into(), self.launch.to_string().into()];
        if self.events {
            words.push("--events".into());
        }
        if let Some(cgroup) = &self.cgroup {
            words.extend(["--cgroup".into(), cgroup.clone().into()]);
        }
        words.push("--".into());
        words.extend(self.argv.iter().cloned());
        words
    }
}

/// What is the child's alone, on its way to the keeper: its environment, since a job's own `LD_PRELOAD` is nothing for
/// the keeper, and its fence, behind which the keeper could not work.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::process) struct ChildOrder {
    pub(super) env: Vec<(Word, Word)>,
    pub(super) fence: Option<Fence>,
    /// Under whose account it runs. None: under the keeper's.
    #[serde(default)]
    pub(super) cage: Option<Cage>,
}

impl ChildOrder {
    pub(in crate::process) fn new(
        env: &BTreeMap<OsString, OsString>,
        fence: Option<Fence>,
        cage: Option<Cage>,
    ) -> Self {
        let pairs = env.iter();
        Self {
            env: pairs
                .map(|(name, value)| (name.clone().into(), value.clone().into()))
                .collect(),
            fence,
            cage,
        }
    }

    /// One variable more for the child.
    pub(crate) fn add(&mut self, name: &str, value: String) {
        self.env
            .push((OsString::from(name).into(), OsString::from(value).into()));
    }

    /// Reads what the daemon wrote. Whole, or the daemon died over it and will start another keeper.
    pub(super) fn read(mut from: impl io::Read) -> io::Result<Self> {
        // At once: a reader that is asked for each byte costs a keeper more than starting its child.
        let mut all = Vec::new();
        from.read_to_end(&mut all)?;
        Ok(serde_json::from_slice(&all)?)
    }

    pub(super) fn env(&self) -> Vec<(OsString, OsString)> {
        let pairs = self.env.iter().cloned();
        pairs
            .map(|(name, value)| (name.into(), value.into()))
            .collect()
    }
}

/// A name or a value of an environment. As text where it is text: as a list of its bytes, the usual form of such a word
/// in JSON, an environment grew fivefold, and reading it was a third of a keeper's work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(in crate::process) enum Word {
    Text(String),
    /// What is no text, and whatever an older keeper wrote.
    Bytes(OsString),
}

impl From<OsString> for Word {
    fn from(word: OsString) -> Self {
        word.into_string().map_or_else(Self::Bytes, Self::Text)
    }
}

impl From<Word> for OsString {
    fn from(word: Word) -> Self {
        match word {
            Word::Text(text) => text.into(),
            Word::Bytes(bytes) => bytes,
        }
    }
}

/// A child that is to run under another account, as its warden is told.
#[derive(Debug, Serialize, Deserialize)]
pub struct Born {
    pub(in crate::process) argv: Vec<OsString>,
    pub(in crate::process) own: ChildOrder,
    pub(in crate::process) work_dir: PathBuf,
    /// Where it and its warden are.
    pub(in crate::process) cgroup: PathBuf,
    /// Its channel for events, which goes to the warden as an open file.
    #[serde(skip)]
    pub(in crate::process) events: Option<File>,
    /// See [`look_path`].
    #[serde(skip)]
    pub(in crate::process) answer: PathBuf,
}

pub(crate) fn claim_path(dir: &Path, launch: u32) -> PathBuf {
    dir.join(format!("claim-{launch}.json"))
}

pub(crate) fn exit_path(dir: &Path, launch: u32) -> PathBuf {
    dir.join(format!("exit-{launch}.json"))
}

/// Where a keeper puts what was seen of a child under another account: an `Option<Inside>` as JSON.
pub(crate) fn look_path(dir: &Path, launch: u32) -> PathBuf {
    dir.join(format!("look-{launch}.json"))
}

/// Writes a claim if there is none yet: whole, and only one of several that try.
pub(crate) fn try_claim(dir: &Path, launch: u32, claim: &Claim) -> io::Result<bool> {
    use std::io::Write as _;
    let aside = dir.join(format!("claim-{launch}.{}", std::process::id()));
    files::make(&aside)?.write_all(&serde_json::to_vec(claim)?)?;
    let linked = fs::hard_link(&aside, claim_path(dir, launch));
    fs::remove_file(&aside)?;
    match linked {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    #[test]
    fn an_environment_reaches_the_child_whatever_is_in_it_and_also_as_older_keepers_wrote_it() {
        let env: BTreeMap<OsString, OsString> = [
            ("PLAIN", OsStr::new("text")),
            ("EMPTY", OsStr::new("")),
            ("ODD", OsStr::from_bytes(b"\xff\"\n")),
        ]
        .map(|(name, value)| (name.into(), value.to_owned()))
        .into();
        let order = ChildOrder::new(&env, None, None);
        let written = serde_json::to_vec(&order).unwrap();
        let read = ChildOrder::read(&written[..]).unwrap();
        assert_eq!(read.env(), env.clone().into_iter().collect::<Vec<_>>());
        let pairs: Vec<(OsString, OsString)> = env.into_iter().collect();
        let older = serde_json::json!({ "env": pairs, "fence": null });
        let read = ChildOrder::read(older.to_string().as_bytes()).unwrap();
        assert_eq!(read.env(), pairs);
        assert!(
            ChildOrder::read(&written[..written.len() - 1]).is_err(),
            "cut short"
        );
    }

    #[test]
    fn a_keeper_reads_the_order_that_the_daemon_wrote_whatever_is_in_it() {
        let plain = Keep {
            dir: "/d/17-1-0".into(),
            launch: 3,
            events: false,
            cgroup: None,
            argv: vec!["true".into()],
        };
        let odd = Keep {
            dir: OsStr::from_bytes(b"/d\xff/--").into(),
            launch: u32::MAX,
            events: true,
            cgroup: Some("--events".into()),
            argv: ["--", "--cgroup", "", "keep"].map(OsString::from).into(),
        };
        for order in [plain, odd] {
            assert_eq!(Keep::read(order.words()).unwrap(), order);
        }
        let wrong = [
            "",
            "/d",
            "/d x -- true",
            "/d 1 --events",
            "/d 1 --cgroup",
            "/d 1 --",
            "/d 1 --wrong -- true",
        ];
        for line in wrong {
            let words = line.split_whitespace().map(OsString::from);
            assert!(Keep::read(words).is_err(), "{line}");
        }
    }
}
