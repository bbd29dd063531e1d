//! What projects use and may have, counted from the devices that their ranks hold.
//!
//! Invariant: what a rank holds is counted from when its placement is known here until it is proven free, to the
//! device and the second. It is stored once a minute: a coordinator that is killed forgets the last minute of jobs
//! that had ended in it, and counts those that go on from where it was stored.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, TimeDelta, Utc};
use marquee_domain::project::{
    CPU_SLOT_SHARE, FORESIGHT_S, Hours, Quotas, Usage, WEEK_HOURS, hour_of,
};
use marquee_domain::resources::Device;
use marquee_store::projects::{Project, Used};

use crate::scheduler::{AtOnce, ProjectId, ProjectShare, Spent};

/// Longest stretch without a count that is made up for: after a longer one the jobs of then are not those of now.
const CATCH_UP_MAX: TimeDelta = TimeDelta::hours(WEEK_HOURS);

/// All projects.
#[derive(Debug, Default)]
pub struct Accounts {
    list: Vec<Account>,
    ids: HashMap<String, ProjectId>,
    counted_to: Option<DateTime<Utc>>,
    is_loaded: bool,
}

/// One project.
#[derive(Debug, Clone)]
pub struct Account {
    pub name: String,
    pub weight: f64,
    pub quotas: Quotas,
    /// Minutes after which its idle jobs are stopped. None: never.
    pub idle_stop_min: Option<u32>,
    /// Devices that its ranks hold now.
    pub gpus: u32,
    pub cpu_slots: u32,
    /// It is stored: jobs may name it.
    pub is_stored: bool,
    usage: Usage,
    hours: Hours,
    /// GPU-seconds of each hour, as stored.
    stored: BTreeMap<i64, f64>,
}

impl Account {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            weight: 1.0,
            quotas: Quotas::default(),
            idle_stop_min: None,
            gpus: 0,
            cpu_slots: 0,
            is_stored: false,
            usage: Usage::new(0.0, DateTime::UNIX_EPOCH),
            hours: Hours::default(),
            stored: BTreeMap::new(),
        }
    }

    /// Decayed GPU-seconds.
    #[must_use]
    pub fn used(&self, now: DateTime<Utc>) -> f64 {
        self.usage.at(now)
    }

    /// GPU-hours of its week.
    #[must_use]
    pub fn week_hours(&self, now: DateTime<Utc>) -> f64 {
        self.hours.used(self.quotas.reset, now)
    }

    /// The hours of its week, where they are used up.
    #[must_use]
    pub fn spent(&self, now: DateTime<Utc>) -> Option<Spent> {
        let quota_hours = self.quotas.gpu_hours_week?;
        let used_hours = self.week_hours(now);
        let reset = self.quotas.reset;
        (used_hours >= quota_hours).then(|| Spent {
            used_hours,
            quota_hours,
            frees_at: self.hours.frees_at(quota_hours, reset, now),
        })
    }

    fn share(&self, now: DateTime<Utc>) -> ProjectShare {
        let at_once = |used: u32, quota: Option<u32>| {
            quota.map(|quota| AtOnce {
                used,
                quota,
                frees_at: None,
            })
        };
        let held = f64::from(self.gpus) + CPU_SLOT_SHARE * f64::from(self.cpu_slots);
        ProjectShare {
            // Charged in advance, as a round charges what it starts (`Purses::charge`): else the
            // next round would forget it.
            used: self.used(now) + held * FORESIGHT_S,
            weight: self.weight,
            gpus: at_once(self.gpus, self.quotas.gpus),
            cpu_slots: at_once(self.cpu_slots, self.quotas.cpu_slots),
            spent: self.spent(now),
        }
    }
}

impl Accounts {
    /// The number of a project, which stays the same for as long as this process lives.
    pub fn id(&mut self, name: &str) -> ProjectId {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        let id = ProjectId(u32::try_from(self.list.len()).unwrap_or(u32::MAX));
        self.list.push(Account::new(name));
        self.ids.insert(name.to_owned(), id);
        id
    }

    /// The number of a project that was met before.
    #[must_use]
    pub fn known_id(&self, name: &str) -> Option<ProjectId> {
        self.ids.get(name).copied()
    }

    /// A project by its name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Account> {
        let id = self.ids.get(name)?;
        self.list.get(id.0 as usize)
    }

    /// A project by its number.
    #[must_use]
    pub fn of(&self, id: ProjectId) -> Option<&Account> {
        self.list.get(id.0 as usize)
    }

    /// Whether the stored projects were read.
    #[must_use]
    pub fn is_loaded(&self) -> bool {
        self.is_loaded
    }

    /// Takes in what is stored. What was used is counted here; the stored figures are taken where they are newer:
    /// at the start, or where another coordinator counted meanwhile.
    pub fn load(
        &mut self,
        projects: Vec<Project>,
        hours: Vec<(String, Hours)>,
        counted_to: Option<DateTime<Utc>>,
    ) {
        // Figures that this process has counted itself are newer than what it has stored of them.
        let is_newer = !self.is_loaded || counted_to > self.counted_to;
        self.is_loaded = true;
        for account in &mut self.list {
            account.is_stored = false;
        }
        for project in projects {
            let id = self.id(project.name.as_str());
            let account = &mut self.list[id.0 as usize];
            account.is_stored = true;
            account.weight = project.weight;
            account.quotas = project.quotas;
            account.idle_stop_min = project.idle_stop_min;
            if is_newer {
                account.usage = project.usage;
                account.hours = Hours::default();
                account.stored.clear();
            }
        }
        if !is_newer {
            return;
        }
        for (name, hours) in hours {
            let id = self.id(&name);
            let account = &mut self.list[id.0 as usize];
            account.stored = hours.iter().collect();
            account.hours = hours;
        }
        self.counted_to = counted_to;
    }

    /// Counts what was held up to `now`.
    pub fn count_to(&mut self, now: DateTime<Utc>) {
        if !self.is_loaded {
            return;
        }
        // Where the time went back nothing is counted until it is where it was: those seconds are
        // charged already.
        let Some(from) = self.counted_to.filter(|from| *from < now) else {
            self.counted_to = self.counted_to.or(Some(now));
            return;
        };
        // What was held before that is not known any more: to charge all of it to whoever holds devices now would be
        // wrong.
        let from = from.max(now - CATCH_UP_MAX);
        #[allow(clippy::cast_precision_loss, reason = "at most a week of milliseconds")]
        let seconds = (now - from).num_milliseconds() as f64 / 1e3;
        for account in &mut self.list {
            let Account {
                gpus, cpu_slots, ..
            } = *account;
            if gpus == 0 && cpu_slots == 0 {
                continue;
            }
            let devices = f64::from(gpus) + CPU_SLOT_SHARE * f64::from(cpu_slots);
            account.usage = account.usage.with(devices * seconds, now);
            if gpus > 0 {
                account.hours.add(gpus, from, now);
                account.hours.trim(now);
            }
        }
        self.counted_to = Some(now);
    }

    /// Takes down that a rank of a project holds these devices.
    pub fn hold(&mut self, project: ProjectId, devices: &[Device]) {
        if let Some(account) = self.list.get_mut(project.0 as usize) {
            let (gpus, cpu_slots) = count(devices);
            account.gpus = account.gpus.saturating_add(gpus);
            account.cpu_slots = account.cpu_slots.saturating_add(cpu_slots);
        }
    }

    /// The same of devices that are free again.
    pub fn let_go(&mut self, project: ProjectId, devices: &[Device]) {
        if let Some(account) = self.list.get_mut(project.0 as usize) {
            let (gpus, cpu_slots) = count(devices);
            account.gpus = account.gpus.saturating_sub(gpus);
            account.cpu_slots = account.cpu_slots.saturating_sub(cpu_slots);
        }
    }

    /// Every project's share, by number.
    #[must_use]
    pub fn shares(&self, now: DateTime<Utc>) -> Vec<ProjectShare> {
        self.list.iter().map(|account| account.share(now)).collect()
    }

    /// What is to be stored, with the time up to which it is counted. None: nothing changed.
    #[must_use]
    pub fn unsaved(&self) -> Option<(Vec<Used>, DateTime<Utc>)> {
        let now = self.counted_to?;
        let used: Vec<Used> = self
            .list
            .iter()
            // Jobs may name a project that was never set: what it used is counted here, and has no row to go to.
            .filter(|account| account.is_stored)
            .filter_map(|account| {
                let is_new = |(hour, seconds): &(i64, f64)| {
                    account
                        .stored
                        .get(hour)
                        .is_none_or(|stored| stored != seconds)
                };
                let hours: Vec<(i64, f64)> = account.hours.iter().filter(is_new).collect();
                // One that holds nothing and has no new hour only decays, which follows from what is stored.
                let is_counted = account.gpus > 0 || account.cpu_slots > 0 || !hours.is_empty();
                is_counted.then(|| Used {
                    name: account.name.clone(),
                    usage: account.used(now),
                    hours,
                })
            })
            .collect();
        (!used.is_empty()).then_some((used, now))
    }

    /// Takes down that this was stored.
    pub fn saved(&mut self, used: &[Used]) {
        for Used { name, hours, .. } in used {
            let id = self.id(name);
            self.list[id.0 as usize]
                .stored
                .extend(hours.iter().copied());
        }
    }

    /// The first hour that any quota looks back on.
    #[must_use]
    pub fn keep_from(now: DateTime<Utc>) -> i64 {
        hour_of(now) - WEEK_HOURS
    }
}

fn count(devices: &[Device]) -> (u32, u32) {
    let is_gpu = |device: &&Device| match device {
        Device::Gpu { .. } => true,
        Device::Cpu { .. } => false,
    };
    let gpus = devices.iter().filter(is_gpu).count();
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    (number(gpus), number(devices.len() - gpus))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    fn gpus(count: u32) -> Vec<Device> {
        (0..count).map(|index| Device::Gpu { index }).collect()
    }

    fn project(name: &str, quotas: Quotas) -> Project {
        Project {
            name: name.parse().unwrap(),
            weight: 2.0,
            quotas,
            retention: Default::default(),
            idle_stop_min: None,
            usage: Usage::new(0.0, at(0)),
        }
    }

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-3 * b.abs().max(1.0)
    }

    #[test]
    fn what_is_held_is_counted_to_the_device_and_the_second() {
        let mut accounts = Accounts::default();
        let quotas = Quotas {
            gpus: Some(4),
            gpu_hours_week: Some(1.0),
            ..Quotas::default()
        };
        accounts.load(vec![project("vision", quotas)], Vec::new(), None);
        accounts.count_to(at(0));
        let vision = accounts.id("vision");
        accounts.hold(vision, &gpus(3));
        accounts.count_to(at(600));
        accounts.let_go(vision, &gpus(1));
        accounts.count_to(at(1200));
        let account = accounts.get("vision").unwrap();
        assert!(near(account.used(at(1200)), 3_000.0));
        assert!(near(account.week_hours(at(1200)), 3_000.0 / 3600.0));
        let share = accounts.shares(at(1200))[vision.0 as usize];
        assert_eq!(share.weight, 2.0);
        assert_eq!(share.gpus.unwrap().used, 2);
        assert!(near(share.used, 3_000.0 + 2.0 * FORESIGHT_S));
        assert_eq!(share.spent, None);
        // One more third of an hour, and the week's hour is used up.
        accounts.count_to(at(2400));
        let spent = accounts.get("vision").unwrap().spent(at(2400)).unwrap();
        assert!(spent.used_hours > 1.0 && spent.frees_at.unwrap() > at(6 * 86_400));
    }

    #[test]
    fn what_was_stored_is_gone_on_from_and_counted_over_a_pause() {
        let mut first = Accounts::default();
        first.load(vec![project("vision", Quotas::default())], Vec::new(), None);
        first.count_to(at(0));
        let id = first.id("vision");
        first.hold(id, &gpus(2));
        first.count_to(at(100));
        let (used, counted_to) = first.unsaved().unwrap();
        assert_eq!(counted_to, at(100));
        first.saved(&used);
        // Nothing new of its hours, and still it holds devices: its usage is stored again.
        assert_eq!(first.unsaved().unwrap().0[0].hours, []);

        let mut second = Accounts::default();
        second.hold(ProjectId(9), &gpus(1));
        let stored = Project {
            usage: Usage::new(used[0].usage, counted_to),
            ..project("vision", Quotas::default())
        };
        let hours = Hours::new(used[0].hours.clone());
        second.load(
            vec![stored],
            vec![("vision".into(), hours)],
            Some(counted_to),
        );
        let id = second.id("vision");
        second.hold(id, &gpus(2));
        // It was away for 50 s, in which the job ran on.
        second.count_to(at(150));
        assert!(near(second.get("vision").unwrap().used(at(150)), 300.0));
        // A clock that was set back counts nothing twice.
        second.count_to(at(120));
        second.count_to(at(150));
        assert!(near(second.get("vision").unwrap().used(at(150)), 300.0));
    }
}
