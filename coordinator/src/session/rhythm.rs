//! Whether jobs end all the time, so that those which are about to end are worth waiting for.
//!
//! Elements of an array that were started together end within a few milliseconds of each other. Stored together they are
//! placed and started together again; each by itself they cost twice as many transactions for as long as the array runs.
//! A job that is alone at work, or that ends once in a while, is stored at once.

use std::collections::BTreeSet;
use std::time::Duration;

use marquee_proto::v1;
use marquee_proto::v1::report::Body;
use tokio::time::Instant;

/// So long an end waits for others.
pub(super) const GATHER: Duration = Duration::from_millis(3);
/// Jobs that end further apart than this gain nothing by it.
const LATELY: Duration = Duration::from_millis(50);

/// When jobs ended of late.
#[derive(Debug, Default)]
pub(super) struct Rhythm {
    /// The newest end, and the one before.
    newest: Option<Instant>,
    before: Option<Instant>,
}

impl Rhythm {
    /// So many jobs ended.
    pub(super) fn ended(&mut self, jobs: usize, now: Instant) {
        if jobs > 0 {
            self.before = if jobs > 1 { Some(now) } else { self.newest };
            self.newest = Some(now);
        }
    }

    /// Whether two and more have ended a moment ago.
    pub(super) fn is_quick(&self, now: Instant) -> bool {
        self.before.is_some_and(|before| now - before <= LATELY)
    }
}

/// How many jobs have a last report among these.
pub(super) fn ends<'a>(reports: impl Iterator<Item = &'a v1::Report>) -> usize {
    let ends = reports.filter(|report| match &report.body {
        Some(Body::Finished(_) | Body::Failed(_) | Body::Stopped(_)) => true,
        Some(
            Body::Prepared(_)
            | Body::Started(_)
            | Body::Progress(_)
            | Body::Metrics(_)
            | Body::Log(_)
            | Body::Checkpoint(_)
            | Body::Regrouped(_),
        )
        | None => false,
    });
    ends.map(|report| report.job_id)
        .collect::<BTreeSet<_>>()
        .len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_ends_within_a_moment_are_a_rhythm_and_one_is_none() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut rhythm = Rhythm::default();
        assert!(!rhythm.is_quick(start));
        rhythm.ended(1, at(0));
        assert!(!rhythm.is_quick(at(1)), "the first");
        // What reports that nothing ended is no end.
        rhythm.ended(0, at(5));
        assert!(!rhythm.is_quick(at(6)));
        rhythm.ended(1, at(40));
        assert!(rhythm.is_quick(at(50)));
        assert!(!rhythm.is_quick(at(51)), "the older of the two is over");
        rhythm.ended(1, at(1_000));
        assert!(!rhythm.is_quick(at(1_000)), "one once in a while");
        rhythm.ended(2, at(2_000));
        assert!(rhythm.is_quick(at(2_050)));
        assert!(!rhythm.is_quick(at(2_051)));
    }

    #[test]
    fn a_job_ends_once_however_many_of_its_ranks_say_so() {
        let report = |job_id, rank, body| v1::Report {
            job_id,
            rank,
            body: Some(body),
            ..v1::Report::default()
        };
        let finished = || Body::Finished(v1::RankFinished::default());
        let all = [
            report(1, 0, Body::Started(v1::RankStarted { pid: 1 })),
            report(1, 0, finished()),
            report(1, 1, finished()),
            report(2, 0, Body::Failed(v1::RankFailed::default())),
            report(3, 0, Body::Stopped(v1::RankStopped::default())),
            report(4, 0, Body::Log(v1::RankLog::default())),
        ];
        assert_eq!(ends(all.iter()), 3);
    }

    /// The numbers that follow from `seed`, below `limit` each.
    fn numbers(seed: u64, limit: u64) -> impl Iterator<Item = u64> {
        let next = |state: &u64| {
            let next = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            Some(next)
        };
        let all = std::iter::successors(Some(seed), next).skip(1);
        all.map(move |state| (state >> 33) % limit)
    }

    /// What is kept is two times. It must say the same as a look at all ends there ever were.
    #[test]
    fn over_any_ends_it_is_quick_when_two_of_them_were_within_a_moment() {
        let start = Instant::now();
        let mut seen = [0, 0];
        for seed in 0..200 {
            let mut rhythm = Rhythm::default();
            let mut ends: Vec<u64> = Vec::new();
            let mut now = 0;
            let steps = numbers(seed, 60).zip(numbers(seed + 1_000, 4));
            for (pause, jobs) in steps.take(100) {
                now += pause;
                let at = start + Duration::from_millis(now);
                let lately = ends.iter().filter(|end| now - **end <= 50).count();
                let is_quick = rhythm.is_quick(at);
                assert_eq!(is_quick, lately >= 2, "seed {seed}, {now} ms: {ends:?}");
                seen[usize::from(is_quick)] += 1;
                // Looking changes nothing.
                assert_eq!(rhythm.is_quick(at), is_quick);
                rhythm.ended(usize::try_from(jobs).unwrap(), at);
                ends.extend((0..jobs).map(|_| now));
            }
        }
        assert!(seen.iter().all(|count| *count > 1_000), "both: {seen:?}");
    }

    #[test]
    fn jobs_that_end_seldom_wait_for_nobody_and_an_array_is_gathered_from_its_second_end() {
        let start = Instant::now();
        // Ends this far apart: how many of a hundred find a rhythm when they come.
        for (every, gathered) in [(0, 98), (3, 98), (25, 98), (26, 0), (50, 0), (1_000, 0)] {
            let mut rhythm = Rhythm::default();
            let found = (0..100).filter(|number| {
                let at = start + Duration::from_millis(every * number);
                let is_quick = rhythm.is_quick(at);
                rhythm.ended(1, at);
                is_quick
            });
            assert_eq!(found.count(), gathered, "each {every} ms");
        }
        // So long a wait that is shorter than the moment keeps the rhythm.
        assert!(GATHER < LATELY);
    }

    #[test]
    fn what_is_no_end_counts_as_none_and_ends_of_ranks_as_one_of_their_job() {
        assert_eq!(ends(std::iter::empty()), 0);
        let report = |job_id, rank, body| v1::Report {
            job_id,
            rank,
            body,
            ..v1::Report::default()
        };
        let none = [
            None,
            Some(Body::Prepared(v1::RankPrepared::default())),
            Some(Body::Started(v1::RankStarted::default())),
            Some(Body::Progress(v1::RankProgress::default())),
            Some(Body::Metrics(v1::RankMetrics::default())),
            Some(Body::Log(v1::RankLog::default())),
            Some(Body::Checkpoint(v1::CheckpointSaved::default())),
            Some(Body::Regrouped(v1::RankRegrouped::default())),
        ];
        let mut all: Vec<v1::Report> = (1..)
            .zip(none)
            .map(|(job, body)| report(job, 0, body))
            .collect();
        assert_eq!(ends(all.iter()), 0);
        // A gang of many ranks, reported twice; and the ends of others.
        for rank in (0..64).chain(0..64) {
            all.push(report(
                1,
                rank,
                Some(Body::Finished(v1::RankFinished::default())),
            ));
        }
        assert_eq!(ends(all.iter()), 1);
        all.push(report(1, 0, Some(Body::Failed(v1::RankFailed::default()))));
        all.push(report(2, 0, Some(Body::Failed(v1::RankFailed::default()))));
        all.push(report(
            3,
            0,
            Some(Body::Stopped(v1::RankStopped::default())),
        ));
        assert_eq!(ends(all.iter()), 3);
    }
}
