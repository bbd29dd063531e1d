//! The slow look: what is in memory beside what was read of everything.

use std::collections::{BTreeSet, HashMap};

use marquee_domain::ids::JobId;
use marquee_store::open::{HeldRank, OpenJob};
use marquee_store::ranks::RankKey;

use super::Open;

impl Open {
    /// Names each difference between what is here and what was read of everything, leaving out jobs in
    /// `unread`: those changed meanwhile. Then takes over what was read.
    pub fn reconcile(
        &mut self,
        read: Vec<OpenJob>,
        held: Vec<HeldRank>,
        unread: &BTreeSet<JobId>,
    ) -> Vec<String> {
        let is_unread = |job: JobId, element: Option<(JobId, u32)>| {
            unread.contains(&job) || element.is_some_and(|(array, _)| unread.contains(&array))
        };
        let mut differences = Vec::new();
        let known: HashMap<JobId, (u32, bool)> = read
            .iter()
            .map(|job| (job.id, (job.attempt, job.is_running)))
            .collect();
        for (job, here) in &self.jobs {
            if is_unread(*job, here.element) {
                continue;
            }
            let words = |running| if running { "running" } else { "queued" };
            match known.get(job) {
                None => differences.push(format!(
                    "job {job} is {} here and not open",
                    words(here.is_running)
                )),
                Some(stored) if *stored != (here.attempt, here.is_running) => {
                    differences.push(format!(
                        "job {job} is {} at attempt {} here and {} at attempt {} in Postgres",
                        words(here.is_running),
                        here.attempt,
                        words(stored.1),
                        stored.0
                    ));
                }
                Some(_) => {}
            }
        }
        for job in &self.running {
            if !self.jobs.contains_key(job) && !known.contains_key(job) && !is_unread(*job, None) {
                differences.push(format!("job {job} is running here and not open"));
            }
        }
        for job in &read {
            let is_known = self.jobs.contains_key(&job.id) || self.running.contains(&job.id);
            if !is_known && !is_unread(job.id, job.element) {
                differences.push(format!("job {} is open and not known here", job.id));
            }
        }
        let held_now: BTreeSet<RankKey> = held.iter().map(|rank| rank.key).collect();
        let held_here: BTreeSet<RankKey> = self
            .held
            .values()
            .flat_map(|ranks| ranks.keys().copied())
            .collect();
        for key in held_now.symmetric_difference(&held_here) {
            let element = self.jobs.get(&key.job).and_then(|known| known.element);
            if !is_unread(key.job, element) {
                let place = if held_now.contains(key) {
                    "in Postgres"
                } else {
                    "here"
                };
                differences.push(format!(
                    "rank {} of job {} attempt {} holds devices {place} alone",
                    key.rank, key.job, key.attempt
                ));
            }
        }
        // Maps give them in any order; sorted, the log of a seed is the same each time.
        differences.sort_unstable();
        // Only where something differs: to take everything in anew costs as much as a start.
        if !differences.is_empty() {
            let all: BTreeSet<JobId> = self.jobs.keys().chain(&self.running).copied().collect();
            self.replace(&all, read);
            let holders: BTreeSet<JobId> = self.held_by.keys().copied().collect();
            self.replace_held(&holders, held);
        }
        differences
    }
}
