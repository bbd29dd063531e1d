//! What the end of a job means for those that wait for it, directly or through others.

use std::collections::BTreeMap;

use crate::ids::JobId;
use crate::spec::{Ended, NeedOn};

/// A job that waits for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    pub job: JobId,
    pub of: JobId,
    pub on: NeedOn,
}

/// The jobs that can never run once `root` has ended so, in the order of `needs`, in which each job's own needs come
/// after those of the jobs that it needs. Whoever waits for a lost job learns of its end too: what cleans up after it
/// runs.
///
/// `needs` are those of jobs that wait, and of no others.
#[must_use]
pub fn lost(root: JobId, ended: Ended, needs: &[Need]) -> Vec<JobId> {
    let mut ends: BTreeMap<JobId, Ended> = BTreeMap::from([(root, ended)]);
    let mut lost = Vec::new();
    for need in needs {
        let Some(end) = ends.get(&need.of) else {
            continue;
        };
        if !need.on.is_met_by(*end) && !ends.contains_key(&need.job) {
            lost.push(need.job);
            // Seen as it will be stored: the next in the chain asks how this one ended, not how the
            // root did.
            ends.insert(need.job, ended.of_what_is_lost_by_it());
        }
    }
    lost
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn need((job, on, of): (i64, NeedOn, i64)) -> Need {
        Need {
            job: JobId(job),
            of: JobId(of),
            on,
        }
    }

    fn lost_of(ended: Ended, needs: &[(i64, NeedOn, i64)]) -> Vec<i64> {
        let needs: Vec<Need> = needs.iter().copied().map(need).collect();
        lost(JobId(0), ended, &needs)
            .iter()
            .map(|job| job.0)
            .collect()
    }

    #[test]
    fn what_cleans_up_runs_and_what_needs_success_does_not() {
        use NeedOn::{Failed, Finished, Succeeded};
        // fetch (0) -> train (1) -> eval (2); clean (3) after train; tell (4) if eval fails; done (5) after clean.
        let pipeline = [
            (1, Succeeded, 0),
            (2, Succeeded, 1),
            (3, Finished, 1),
            (4, Failed, 2),
            (5, Succeeded, 3),
        ];
        assert_eq!(lost_of(Ended::Failed, &pipeline), [1, 2]);
        // Nobody is told of a failure that was none.
        assert_eq!(lost_of(Ended::Cancelled, &pipeline), [1, 2, 4]);
        assert_eq!(lost_of(Ended::Succeeded, &pipeline), Vec::<i64>::new());
        // Jobs that wait for a failure are lost by a success, and with them the jobs that wait for those.
        let only = [(1, Failed, 0), (2, Succeeded, 1), (3, Finished, 1)];
        assert_eq!(lost_of(Ended::Succeeded, &only), [1, 2]);
        assert_eq!(lost_of(Ended::Failed, &only), Vec::<i64>::new());
    }

    /// Drawn graphs: a job is lost exactly if a need of it can never be met.
    #[test]
    fn a_job_is_lost_if_and_only_if_something_that_it_needs_ended_otherwise() {
        let mut dice = 0x2545_f491_4f6c_dd1d_u64;
        let mut draw = |below: i64| {
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            i64::try_from(dice % below.unsigned_abs()).unwrap()
        };
        let ends = [Ended::Succeeded, Ended::Failed, Ended::Cancelled];
        let mut lost_in_all = 0;
        for round in 0..2_000 {
            let ended = ends[usize::try_from(draw(3)).unwrap()];
            let mut needs = Vec::new();
            for _ in 0..draw(60) {
                let job = 1 + draw(25);
                let on = NeedOn::ALL[usize::try_from(draw(3)).unwrap()];
                needs.push(need((job, on, draw(job))));
            }
            needs.sort_by_key(|need| need.job);
            let lost = lost(JobId(0), ended, &needs);
            lost_in_all += lost.len();
            let set: BTreeSet<JobId> = lost.iter().copied().collect();
            assert_eq!(set.len(), lost.len(), "each once");
            let end_of = |job: JobId| match job {
                JobId(0) => Some(ended),
                job => set.contains(&job).then(|| ended.of_what_is_lost_by_it()),
            };
            for job in (1..=25).map(JobId) {
                let mut own = needs.iter().filter(|need| need.job == job);
                let is_hopeless =
                    own.any(|need| end_of(need.of).is_some_and(|end| !need.on.is_met_by(end)));
                assert_eq!(
                    is_hopeless,
                    set.contains(&job),
                    "round {round}, job {job}: {needs:?}"
                );
            }
        }
        assert!(
            lost_in_all > 1_000,
            "the draws are worth something: {lost_in_all}"
        );
    }
}
