//! Whether a rank that runs makes progress: a pure decision by what it does and how long that takes.
//!
//! Not here: what its processes are at ([`crate::process::inside`]), and what is done about it
//! ([`super::stall`]).

use std::collections::VecDeque;
use std::time::Duration;

use marquee_domain::spec::Watch;
use tokio::time::Instant;

/// Pauses between steps that the usual one is found among.
const REMEMBERED: usize = 15;
/// Pauses that must be known before anything is usual.
const FIRST_STEPS: usize = 3;
/// Until then a rank is given so many times `hang_after`: a first step compiles, and fills caches.
const FIRST_STEPS_TAKE: u32 = 6;
/// A pause so many times as long as usual is more than a slow step.
const MORE_THAN_USUAL: u32 = 8;
/// A process that a signal holds up for so long was not meant to be, where the job names no time.
const HELD_UP_AFTER: Duration = Duration::from_secs(45);
/// A gap between two looks that is longer than this was a pause of this daemon, or of the whole host. It tells
/// nothing of the rank.
const OWN_PAUSE: Duration = Duration::from_secs(5);
/// How much later than its `step_timeout` one is ended that only waits for other ranks: whoever it waits for is
/// to be named first.
pub(super) const WAITING_ENDS_LATER: Duration = Duration::from_secs(30);

/// What changes when a rank makes progress.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Mark {
    /// Steps, phases and checkpoints that it reported.
    pub(super) moves: u64,
    /// What it wrote down of where it stands.
    pub(super) beats: u64,
    /// Bytes that it printed, where nothing else is heard of it.
    pub(super) printed: u64,
}

/// What a look at a rank found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finding {
    Fine,
    /// It makes no progress. For the first time.
    Hangs,
    /// The same as at the last look.
    StillHangs,
    /// It did hang, and goes on after so long.
    GoesOn(Duration),
    /// Its time is up.
    Overdue,
}

/// What is remembered of a rank between two looks.
#[derive(Debug)]
pub(super) struct Vigil {
    watch: Watch,
    mark: Mark,
    /// When its mark last changed.
    since: Instant,
    looked: Instant,
    pauses: VecDeque<Duration>,
    held_up_since: Option<Instant>,
    is_told: bool,
}

impl Vigil {
    pub(super) fn new(watch: Watch, now: Instant) -> Self {
        Self {
            watch,
            mark: Mark::default(),
            since: now,
            looked: now,
            pauses: VecDeque::new(),
            held_up_since: None,
            is_told: false,
        }
    }

    /// Since its last progress, or since a signal holds it up.
    pub(super) fn idle(&self, now: Instant) -> Duration {
        now.duration_since(self.since)
    }

    /// Whether it is known to hang.
    pub(super) fn is_told(&self) -> bool {
        self.is_told
    }

    /// Looks at a rank that runs. `waits` for other ranks.
    pub(super) fn look(
        &mut self,
        mark: Mark,
        is_held_up: bool,
        waits: bool,
        now: Instant,
    ) -> Finding {
        let pause = now.duration_since(self.looked);
        self.looked = now;
        if mark != self.mark {
            return self.moved(mark, now);
        }
        if pause > OWN_PAUSE {
            self.since += pause;
            self.held_up_since = self.held_up_since.map(|since| since + pause);
        }
        self.held_up_since = is_held_up.then(|| self.held_up_since.unwrap_or(now));
        let idle = self.idle(now);
        if !self.hangs(idle, waits, now) {
            if self.is_told {
                self.is_told = false;
                return Finding::GoesOn(idle);
            }
            return Finding::Fine;
        }
        let later = if waits {
            WAITING_ENDS_LATER
        } else {
            Duration::ZERO
        };
        let is_over = |limit: u32| {
            idle >= Duration::from_secs(limit.into()).max(self.patience().unwrap_or_default())
                + later
        };
        // Told first and ended at a later look, so that its log says what it was doing.
        if self.is_told && self.watch.step_timeout_s.is_some_and(is_over) {
            return Finding::Overdue;
        }
        if self.is_told {
            return Finding::StillHangs;
        }
        self.is_told = true;
        Finding::Hangs
    }

    fn moved(&mut self, mark: Mark, now: Instant) -> Finding {
        let pause = self.idle(now);
        self.mark = mark;
        self.since = now;
        self.held_up_since = None;
        // A pause that counted as a hang is no measure of what is usual.
        if self.is_told {
            self.is_told = false;
            return Finding::GoesOn(pause);
        }
        self.pauses.push_back(pause);
        if self.pauses.len() > REMEMBERED {
            self.pauses.pop_front();
        }
        Finding::Fine
    }

    fn hangs(&self, idle: Duration, waits: bool, now: Instant) -> bool {
        let held_up_after = self
            .hang_after()
            .unwrap_or(HELD_UP_AFTER)
            .min(HELD_UP_AFTER);
        let is_held_up = self
            .held_up_since
            .is_some_and(|since| now.duration_since(since) >= held_up_after);
        // One that waits does nothing that its first steps could make slow. Who it waits for says so by itself.
        let patience = if waits {
            self.usual_patience()
        } else {
            self.patience()
        };
        is_held_up || patience.is_some_and(|patience| idle >= patience)
    }

    fn hang_after(&self) -> Option<Duration> {
        let seconds = self.watch.hang_after_s?;
        Some(Duration::from_secs(seconds.into()))
    }

    /// How long it may make no progress. None: for ever.
    fn patience(&self) -> Option<Duration> {
        if self.pauses.len() < FIRST_STEPS {
            return Some(self.hang_after()? * FIRST_STEPS_TAKE);
        }
        self.usual_patience()
    }

    /// The same without the room for first steps.
    fn usual_patience(&self) -> Option<Duration> {
        let hang_after = self.hang_after()?;
        let mut pauses: Vec<Duration> = self.pauses.iter().copied().collect();
        pauses.sort_unstable();
        // The middle one: a checkpoint among the steps does not change it.
        let usual = pauses.get(pauses.len() / 2).copied().unwrap_or_default();
        Some(hang_after.max(usual * MORE_THAN_USUAL))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WATCH: Watch = Watch {
        hang_after_s: Some(45),
        step_timeout_s: Some(600),
        on_disconnect: marquee_domain::spec::OnDisconnect::Keep,
    };

    /// A rank that is looked at every second.
    struct Played {
        vigil: Vigil,
        now: Instant,
        mark: Mark,
    }

    impl Played {
        fn new(watch: Watch) -> Self {
            let now = Instant::now();
            Self {
                vigil: Vigil::new(watch, now),
                now,
                mark: Mark::default(),
            }
        }

        /// Steps of so many seconds each.
        fn steps(&mut self, count: u32, seconds: u32) -> Vec<Finding> {
            let mut found = Vec::new();
            for _ in 0..count {
                found.extend(self.wait(seconds - 1, false));
                self.mark.moves += 1;
                found.extend(self.wait(1, false));
            }
            found
        }

        fn wait(&mut self, seconds: u32, is_held_up: bool) -> Vec<Finding> {
            let look = |_| {
                self.now += Duration::from_secs(1);
                self.vigil.look(self.mark, is_held_up, false, self.now)
            };
            (0..seconds).map(look).collect()
        }
    }

    fn first(found: &[Finding], what: Finding) -> Option<usize> {
        found.iter().position(|one| *one == what).map(|at| at + 1)
    }

    #[test]
    fn no_step_for_long_is_a_hang_once_and_at_last_too_long() {
        let mut rank = Played::new(WATCH);
        assert_eq!(first(&rank.steps(5, 1), Finding::Hangs), None);
        let found = rank.wait(700, false);
        assert_eq!(first(&found, Finding::Hangs), Some(45));
        assert_eq!(
            found.iter().filter(|one| **one == Finding::Hangs).count(),
            1
        );
        assert_eq!(first(&found, Finding::Overdue), Some(600));
    }

    #[test]
    fn slow_steps_and_a_slow_beginning_are_none() {
        let mut rank = Played::new(WATCH);
        // The first step compiles for four minutes.
        assert_eq!(first(&rank.steps(1, 240), Finding::Hangs), None);
        // Steps of twenty seconds may take two minutes and a half at times.
        assert_eq!(first(&rank.steps(5, 20), Finding::Hangs), None);
        assert_eq!(first(&rank.steps(1, 150), Finding::Hangs), None);
        assert_eq!(first(&rank.wait(300, false), Finding::Hangs), Some(160));
    }

    #[test]
    fn one_that_goes_on_says_so_and_may_hang_again() {
        let mut rank = Played::new(WATCH);
        rank.steps(5, 1);
        assert!(rank.wait(60, false).contains(&Finding::Hangs));
        rank.mark.beats += 1;
        assert!(
            matches!(rank.wait(1, false)[..], [Finding::GoesOn(after)] if after.as_secs() == 61)
        );
        assert_eq!(first(&rank.wait(60, false), Finding::Hangs), Some(45));
    }

    #[test]
    fn what_a_signal_holds_up_hangs_also_where_nobody_counts_its_steps() {
        let mut rank = Played::new(Watch::default());
        assert_eq!(first(&rank.wait(10_000, false), Finding::Hangs), None);
        let found = rank.wait(10_000, true);
        assert_eq!(first(&found, Finding::Hangs), Some(46));
        assert_eq!(first(&found, Finding::Overdue), None, "nobody set a time");
        assert!(matches!(rank.wait(1, false)[..], [Finding::GoesOn(_)]));
        // Within its first step, too.
        let mut rank = Played::new(WATCH);
        assert_eq!(first(&rank.wait(100, true), Finding::Hangs), Some(46));
    }

    #[test]
    fn a_pause_of_the_daemon_is_not_the_ranks() {
        let mut rank = Played::new(WATCH);
        rank.steps(5, 1);
        rank.now += Duration::from_secs(3_600);
        let found = rank.wait(60, false);
        // From the first look after it.
        assert_eq!(first(&found, Finding::Hangs), Some(46));
    }

    #[test]
    fn whoever_only_waits_is_ended_after_whom_it_waits_for() {
        let mut rank = Played::new(WATCH);
        rank.steps(5, 1);
        let mut found = Vec::new();
        for _ in 0..640 {
            rank.now += Duration::from_secs(1);
            found.push(rank.vigil.look(rank.mark, false, true, rank.now));
        }
        assert_eq!(first(&found, Finding::Overdue), Some(630));
    }
}
