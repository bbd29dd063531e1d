//! One thing that a bench measures, and the name of its job.

use std::str::FromStr;

use super::devices::Devices;

/// What training reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Input {
    Original,
    Jpeg,
    Raw,
}

impl Input {
    pub(crate) const ALL: [Self; 3] = [Self::Original, Self::Jpeg, Self::Raw];

    /// The preprocess job's `encoding`, and its name.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Original => "original",
            Self::Jpeg => "jpeg",
            Self::Raw => "raw",
        }
    }

    pub(crate) fn meaning(self) -> &'static str {
        match self {
            Self::Original => "files decoded and resized each time",
            Self::Jpeg => "jpeg shards",
            Self::Raw => "raw shards",
        }
    }
}

impl FromStr for Input {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|input| input.word() == text)
            .ok_or_else(|| format!("{text:?}: write original, jpeg or raw"))
    }
}

/// One thing that is measured.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Case {
    pub devices: Devices,
    pub input: Input,
    pub tensorboard: bool,
}

impl Case {
    /// The name of its train job in a round, counted from 1: `gpu-2-raw`, `gpu-2-raw-tb-r3`.
    pub(super) fn job_name(&self, round: u32) -> String {
        let Devices { kind, ranks } = &self.devices;
        let mut name = format!("{}-{ranks}-{}", kind.word(), self.input.word());
        if self.tensorboard {
            name.push_str("-tb");
        }
        if round > 1 {
            name.push_str(&format!("-r{round}"));
        }
        name
    }

    /// What a job's name says that it measures; None for other jobs.
    pub(crate) fn of_job(name: &str) -> Option<Self> {
        let mut parts = name.split('-');
        let (kind, ranks) = (parts.next()?, parts.next()?);
        let devices = format!("{kind}:{ranks}").parse().ok()?;
        let input = parts.next()?.parse().ok()?;
        let mut tensorboard = false;
        for part in parts {
            match part.strip_prefix('r') {
                Some(round) if round.parse::<u32>().is_ok() => {}
                Some(_) | None if part == "tb" => tensorboard = true,
                // Any other part makes it somebody else's job: read wrongly, it would stand in the
                // table with a figure that it never measured.
                Some(_) | None => return None,
            }
        }
        Some(Self {
            devices,
            input,
            tensorboard,
        })
    }
}
