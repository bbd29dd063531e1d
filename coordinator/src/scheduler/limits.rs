//! What bounds a plan besides devices: the projects' shares and quotas, how many of a group may run, which hosts
//! a job wants, and which running jobs may be asked to make room.
//!
//! Not here: where these figures come from (`index`).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use chrono::{DateTime, Utc};
use marquee_domain::ids::{JobId, WorkerId};
use marquee_domain::project::{CPU_SLOT_SHARE, FORESIGHT_S};
use marquee_domain::spec::HostRules;
use serde::{Deserialize, Serialize};

use super::shape::{Group, ProjectId, RulesId, Shape};
use super::wanted::{Kind, Portion};

/// What bounds a plan besides devices. With none of it every job is of one project without quotas.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Limits {
    /// By [`ProjectId`]. A project that is not there has used nothing, has weight 1 and no quota.
    pub projects: Vec<ProjectShare>,
    /// How many more jobs of a group may start. A group that is not there has no limit.
    pub groups: HashMap<Group, u32>,
    /// By [`RulesId`], from 1.
    pub rules: HashMap<RulesId, HostRules>,
    /// Jobs that run and may be asked to make room.
    pub preemptible: Vec<Preemptible>,
    /// Jobs that are leaving already, whoever asked.
    pub leaving: HashSet<JobId>,
    /// What was taken from others for jobs that have not started yet, or is kept for gangs that grow.
    pub claims: BTreeMap<JobId, Claim>,
    /// When jobs for which devices are held back were first told that they start.
    pub promised: BTreeMap<JobId, DateTime<Utc>>,
    /// Gangs that go on with fewer ranks than they asked for, and may be asked to take new ones now.
    pub short: Vec<Short>,
    /// Of those that have a claim, the ones that run still and are leaving to grow.
    pub growing: BTreeMap<JobId, Shape>,
}

/// What a project used and may have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProjectShare {
    /// Decayed GPU-seconds, what runs charged in advance.
    pub used: f64,
    /// Above 0.
    pub weight: f64,
    pub gpus: Option<AtOnce>,
    pub cpu_slots: Option<AtOnce>,
    /// Set where the GPU-hours of its week are used up.
    pub spent: Option<Spent>,
}

impl Default for ProjectShare {
    fn default() -> Self {
        Self {
            used: 0.0,
            weight: 1.0,
            gpus: None,
            cpu_slots: None,
            spent: None,
        }
    }
}

/// A quota of devices at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AtOnce {
    pub used: u32,
    pub quota: u32,
    /// When devices come back at the latest, as far as time limits tell.
    pub frees_at: Option<DateTime<Utc>>,
}

/// GPU-hours that are used up.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spent {
    pub used_hours: f64,
    pub quota_hours: f64,
    /// When there are some again, if nothing more is used.
    pub frees_at: Option<DateTime<Utc>>,
}

/// Which quota keeps a job from being placed, with its figures.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "of", rename_all = "snake_case")]
pub enum QuotaHit {
    Gpus(AtOnce),
    CpuSlots(AtOnce),
    GpuHours(Spent),
}

/// A running job that gives way to a higher priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preemptible {
    pub job: JobId,
    pub priority: i32,
    /// What an end now would lose: from its newest checkpoint on, or from its start.
    pub saved_at: DateTime<Utc>,
    pub started_at: DateTime<Utc>,
    /// How often it made room today.
    pub times_today: u32,
}

/// A running gang that goes on with fewer ranks than its shape has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Short {
    pub job: JobId,
    pub shape: Shape,
    pub priority: i32,
    pub project: ProjectId,
    /// Workers that have not proven yet that nothing is left of the ranks that it lost there.
    pub unproven: BTreeSet<WorkerId>,
}

/// Devices that were taken from others for a job, or that it takes itself to grow: kept for it until it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub(super) kind: Kind,
    /// The flavour of libtorch that its hosts have; None: it needs none.
    pub(super) flavour: Option<String>,
    pub(super) portion: Portion,
    /// Devices by host.
    pub(super) devices: BTreeMap<WorkerId, u32>,
    /// Nobody made room: it is a gang that grows.
    pub(super) is_growth: bool,
}

impl Claim {
    pub(super) fn of_growth(self) -> Self {
        Self {
            is_growth: true,
            ..self
        }
    }

    /// Whether it is kept for a gang that grows.
    #[must_use]
    pub fn is_growth(&self) -> bool {
        self.is_growth
    }
}

/// What is left to the projects during one round.
#[derive(Debug)]
pub(super) struct Purses {
    projects: Vec<ProjectShare>,
}

impl Purses {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            // A copy that this round charges: what the projects really use comes with the next
            // one's limits.
            projects: limits.projects.clone(),
        }
    }

    fn share(&self, project: ProjectId) -> ProjectShare {
        let index = project.0 as usize;
        self.projects.get(index).copied().unwrap_or_default()
    }

    /// The less, the earlier its jobs are tried.
    pub(super) fn rank(&self, project: ProjectId) -> f64 {
        let share = self.share(project);
        share.used / share.weight
    }

    /// Whether so many devices of a kind may be taken, or which quota says no.
    pub(super) fn allows(
        &self,
        project: ProjectId,
        kind: Kind,
        devices: u32,
    ) -> Result<(), QuotaHit> {
        let share = self.share(project);
        let over = |quota: Option<AtOnce>| {
            quota.filter(|quota| quota.used.saturating_add(devices) > quota.quota)
        };
        let hit = match kind {
            Kind::Cpu => over(share.cpu_slots).map(QuotaHit::CpuSlots),
            Kind::Gpu => over(share.gpus)
                .map(QuotaHit::Gpus)
                // Devices in use come back when a job ends, hours of the week as they age: what frees sooner is named.
                .or(share.spent.map(QuotaHit::GpuHours)),
        };
        hit.map_or(Ok(()), Err)
    }

    /// Takes down that devices were given to a job of the project.
    pub(super) fn charge(&mut self, project: ProjectId, kind: Kind, devices: u32) {
        let index = project.0 as usize;
        // A project that was not named has used nothing so far (`Limits::projects`), and does so
        // from now on.
        if self.projects.len() <= index {
            self.projects.resize(index + 1, ProjectShare::default());
        }
        let share = &mut self.projects[index];
        let (quota, worth) = match kind {
            Kind::Cpu => (&mut share.cpu_slots, CPU_SLOT_SHARE),
            Kind::Gpu => (&mut share.gpus, 1.0),
        };
        if let Some(quota) = quota {
            quota.used = quota.used.saturating_add(devices);
        }
        // Charged at once for what it is about to use: else one project would get every free device of a round.
        share.used += worth * FORESIGHT_S * f64::from(devices);
    }
}

/// How many more of each group may start during one round.
#[derive(Debug)]
pub(super) struct Turns {
    left: HashMap<Group, u32>,
}

impl Turns {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            left: limits.groups.clone(),
        }
    }

    pub(super) fn allows(&self, group: Group) -> bool {
        self.left.get(&group).is_none_or(|left| *left > 0)
    }

    pub(super) fn take(&mut self, group: Group) {
        if let Some(left) = self.left.get_mut(&group) {
            *left = left.saturating_sub(1);
        }
    }
}
