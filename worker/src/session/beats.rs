//! Heartbeats of one session: their numbers, when each was sent, and what they said of rates.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use marquee_domain::env::Clock;
use marquee_proto::convert::timestamp;
use marquee_proto::v1;
use marquee_proto::v1::worker_message::Body as ToCoordinator;

use crate::rank::rate::now_ms;

/// Heartbeats that an answer may still come to.
const REMEMBERED: usize = 64;

/// The heartbeats of one session.
#[derive(Debug)]
pub(super) struct Beats {
    clock: Arc<dyn Clock>,
    sequence: u64,
    /// Number, and milliseconds of the clock that shares run out by.
    sent: VecDeque<(u64, u64)>,
    said: Vec<Word>,
    said_leaving: bool,
}

/// What a heartbeat says beside the ranks that are held.
#[derive(Debug, Default)]
pub(super) struct More {
    pub(super) leaving: bool,
    pub(super) kept: Vec<v1::KeptOutput>,
    /// How long nothing may be heard of this worker.
    pub(super) away: Duration,
    /// Assignments that had been followed before the list of held ranks was made.
    pub(super) assignments: u64,
    pub(super) cache: v1::CacheUse,
}

/// What the coordinator should hear of a rank's requests at once, not with the next heartbeat.
type Word = (i64, u32, u32, u64, usize);

impl Beats {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            sequence: 0,
            sent: VecDeque::new(),
            said: Vec::new(),
            said_leaving: false,
        }
    }

    /// The next heartbeat, to be sent now.
    pub(super) fn next(&mut self, held: Vec<v1::HeldRank>, more: More) -> ToCoordinator {
        self.sequence += 1;
        // Before it is on its way: what the answer allows counts from here.
        self.sent
            .push_back((self.sequence, now_ms(self.clock.as_ref())));
        if self.sent.len() > REMEMBERED {
            self.sent.pop_front();
        }
        self.said = words(&held);
        self.said_leaving = more.leaving;
        ToCoordinator::Heartbeat(v1::Heartbeat {
            sequence: self.sequence,
            held,
            leaving: more.leaving,
            kept: more.kept,
            away_ms: u32::try_from(more.away.as_millis()).unwrap_or(u32::MAX),
            assignments: Some(more.assignments),
            cache: Some(more.cache),
            now: Some(timestamp(self.clock.now())),
        })
    }

    /// Whether the coordinator was told that the daemon is being stopped.
    pub(super) fn have_said_leaving(&self) -> bool {
        self.said_leaving
    }

    /// Whether ranks began or ceased to ask, ask others, or took another share since the last one.
    pub(super) fn has_news(&self, held: &[v1::HeldRank]) -> bool {
        // The first comes with the session's own clock.
        self.sequence > 0 && words(held) != self.said
    }

    /// When a heartbeat was sent, by the clock that leases count by. None for one that is not remembered.
    pub(super) fn sent_at(&self, sequence: u64) -> Option<Duration> {
        let found = self.sent.iter().find(|(number, _)| *number == sequence);
        found.map(|(_, at)| Duration::from_millis(*at))
    }

    /// When shares run out that answer a heartbeat; at once for one that is not remembered.
    pub(super) fn end_of(&self, shares: &v1::RateShares) -> u64 {
        let answered = self
            .sent
            .iter()
            .find(|(number, _)| *number == shares.heartbeat);
        answered.map_or(0, |(_, at)| at + u64::from(shares.valid_ms))
    }
}

fn words(held: &[v1::HeldRank]) -> Vec<Word> {
    let asking = held.iter().filter_map(|rank| {
        let rate = rank.rate.as_ref()?;
        let (job, attempt) = (rank.job_id, rank.attempt);
        Some((job, attempt, rank.rank, rate.taken, rate.hosts.len()))
    });
    asking.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    fn beats() -> Beats {
        Beats::new(Arc::new(SystemClock))
    }

    fn asking(taken: u64) -> Vec<v1::HeldRank> {
        let rate = v1::RateUse {
            taken,
            ..v1::RateUse::default()
        };
        vec![v1::HeldRank {
            job_id: 1,
            attempt: 1,
            rate: Some(rate),
            ..v1::HeldRank::default()
        }]
    }

    #[test]
    fn shares_count_from_the_heartbeat_that_they_answer() {
        let mut beats = beats();
        let before = now_ms(&SystemClock);
        beats.next(Vec::new(), More::default());
        let shares = |heartbeat| v1::RateShares {
            shares: Vec::new(),
            heartbeat,
            valid_ms: 10_000,
        };
        let end = beats.end_of(&shares(1));
        assert!(
            (before + 10_000..=now_ms(&SystemClock) + 10_000).contains(&end),
            "{end}"
        );
        assert_eq!(beats.end_of(&shares(2)), 0);
        for _ in 0..REMEMBERED {
            beats.next(Vec::new(), More::default());
        }
        assert_eq!(beats.end_of(&shares(1)), 0);
    }

    #[test]
    fn a_share_that_was_taken_is_told_at_once() {
        let mut beats = beats();
        assert!(!beats.has_news(&asking(0)));
        beats.next(Vec::new(), More::default());
        assert!(beats.has_news(&asking(0)));
        beats.next(asking(0), More::default());
        assert!(!beats.has_news(&asking(0)));
        assert!(beats.has_news(&asking(1)));
        assert!(beats.has_news(&[]));
    }
}
