//! One rate for all requests of a job: each takes the next slot in the order of asking, and a host that
//! asks to be left alone for a while is.
//!
//! The rate is that of the job's settings, or a share of each host's rate that the coordinator gives
//! and takes away while the job runs (`marquee_domain::rate`).
//!
//! Invariant: between two requests lies the gap of the rate that holds when the second one goes; with
//! shares, none goes to a host that the share does not name, or after the share has run out. None goes to
//! a host before the time that it asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use marquee_domain::rate::{HOSTS_MAX, OTHER_HOSTS, RateShare};
use nix::time::{ClockId, clock_gettime};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

/// How late a request may go without the next ones being late too: a timer's own coarseness must not
/// lower the rate.
const SLACK: Duration = Duration::from_millis(10);
/// How long who waits for a share waits before it looks again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Hands out the times at which requests may be sent.
#[derive(Debug)]
pub(super) struct Pace {
    /// Who waits for the next slot holds it; the others queue behind.
    queue: tokio::sync::Mutex<()>,
    state: Mutex<State>,
    /// The rule has changed.
    changed: Notify,
}

#[derive(Debug)]
struct State {
    rule: Rule,
    /// The slot that was handed out last.
    last: Option<Instant>,
    /// By host: nothing goes to it before this.
    holds: BTreeMap<String, Instant>,
    /// Whom the job asks.
    hosts: BTreeSet<String>,
    turns: Turns,
}

/// What the gap between requests is.
#[derive(Debug)]
enum Rule {
    /// Requests a second of the job's own settings.
    Own(f64),
    /// The share that the coordinator gave last.
    Shared(Option<RateShare>),
}

/// How requests fared since somebody asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Turns {
    pub(super) all: u32,
    /// Those that had to wait for the rate.
    pub(super) waited: u32,
    /// Somebody waits just now.
    pub(super) waiting: bool,
}

/// Why a request cannot go yet.
#[derive(Debug, PartialEq, Eq)]
enum NotYet {
    /// Its slot comes so much later.
    For(Duration),
    /// Its host asked to be left alone for so much longer.
    Held(Duration),
    /// There is no share for it.
    NoShare,
}

impl Pace {
    /// At most `per_second` requests a second, evenly spread.
    pub(super) fn new(per_second: u32) -> Self {
        Self::of(Rule::Own(f64::from(per_second.max(1))))
    }

    /// As fast as the shares say that [`Pace::take`] brings; none before the first.
    pub(super) fn shared() -> Self {
        Self::of(Rule::Shared(None))
    }

    fn of(rule: Rule) -> Self {
        Self {
            queue: tokio::sync::Mutex::const_new(()),
            state: Mutex::new(State {
                rule,
                last: None,
                holds: BTreeMap::new(),
                hosts: BTreeSet::new(),
                turns: Turns::default(),
            }),
            changed: Notify::new(),
        }
    }

    /// Waits for a slot for a request to `host`.
    pub(super) async fn turn(&self, host: &str) {
        loop {
            self.until_open(host).await;
            if self.take_slot(host).await {
                return;
            }
        }
    }

    /// Queues for a slot. False if `host` asked to be left alone meanwhile.
    async fn take_slot(&self, host: &str) -> bool {
        // Tokio's mutex lets its waiters in by the order of asking, which that of std does not
        // promise.
        let _first = self.queue.lock().await;
        let mut waited = false;
        loop {
            // Made before the look: a share that comes in between is not missed.
            let changed = self.changed.notified();
            let wait = match self.reserve(host, Instant::now(), boot_ms(), waited) {
                Ok(()) => return true,
                Err(NotYet::For(wait)) => {
                    waited = true;
                    wait
                }
                Err(NotYet::Held(_)) => return false,
                Err(NotYet::NoShare) => {
                    waited = true;
                    LOOK_AGAIN
                }
            };
            self.state().turns.waiting = waited;
            tokio::select! {
                () = sleep(wait) => {}
                () = changed => {}
            }
        }
    }

    /// Waits until there is a share for `host` and its hold is over: outside the queue, so that one
    /// host that has no share, or wants to be left alone, does not hold up requests to others.
    pub(super) async fn until_open(&self, host: &str) {
        self.declare([host]);
        loop {
            // Made before the look, as above.
            let changed = self.changed.notified();
            let wait = {
                let state = self.state();
                match state.held(host, Instant::now()) {
                    None if state.has_share_of(host) => return,
                    None => LOOK_AGAIN,
                    Some(held) => held,
                }
            };
            tokio::select! {
                () = sleep(wait) => {}
                () = changed => {}
            }
        }
    }

    /// Says whom the job will ask, so that it has a share of them in time.
    pub(super) fn declare<'a>(&self, hosts: impl IntoIterator<Item = &'a str>) {
        let mut state = self.state();
        for host in hosts {
            let name = state.name_of(host).to_owned();
            state.hosts.insert(name);
        }
    }

    /// Whom the job asks, or will.
    pub(super) fn hosts(&self) -> Vec<String> {
        self.state().hosts.iter().cloned().collect()
    }

    /// Keeps to this share from now on.
    pub(super) fn take(&self, share: RateShare) {
        self.state().rule = Rule::Shared(Some(share));
        self.changed.notify_waiters();
    }

    /// How requests fared since the last time this was asked.
    pub(super) fn turns(&self) -> Turns {
        let mut state = self.state();
        let waiting = state.turns.waiting;
        std::mem::replace(
            &mut state.turns,
            Turns {
                waiting,
                ..Turns::default()
            },
        )
    }

    /// Takes the next slot, if it has come.
    fn reserve(&self, host: &str, now: Instant, boot_ms: u64, waited: bool) -> Result<(), NotYet> {
        let mut state = self.state();
        let per_second = match &state.rule {
            Rule::Own(per_second) => *per_second,
            Rule::Shared(share) => share
                .as_ref()
                .filter(|share| boot_ms < share.until_ms && state.is_named(share, host))
                .map_or(0.0, |share| share.per_second),
        };
        // No share, one that ran out, one of nothing: nothing goes in any of these cases.
        if per_second <= 0.0 {
            return Err(NotYet::NoShare);
        }
        if let Some(held) = state.held(host, now) {
            return Err(NotYet::Held(held));
        }
        // A rate of next to nothing has a gap that no clock can hold.
        let gap = Duration::try_from_secs_f64(1.0 / per_second).unwrap_or(Duration::MAX);
        let earliest = now.checked_sub(SLACK).unwrap_or(now);
        let slot = match state.last.map(|last| last.checked_add(gap)) {
            None => earliest.max(now),
            Some(None) => return Err(NotYet::For(LOOK_AGAIN)),
            Some(Some(slot)) => slot.max(earliest),
        };
        if slot > now {
            return Err(NotYet::For(slot - now));
        }
        // The slot, not the time of day: what a timer was late by is not added to every gap that follows.
        state.last = Some(slot);
        state.turns.all += 1;
        state.turns.waited += u32::from(waited);
        state.turns.waiting = false;
        Ok(())
    }

    /// Sends nothing to `host` for this long from now.
    pub(super) fn hold(&self, host: &str, duration: Duration) {
        self.hold_until(host, Instant::now() + duration);
    }

    fn hold_until(&self, host: &str, end: Instant) {
        let mut state = self.state();
        let name = state.name_of(host).to_owned();
        let hold = state.holds.entry(name).or_insert(end);
        *hold = (*hold).max(end);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// What a host goes by: beyond so many, all others are one.
    fn name_of<'a>(&self, host: &'a str) -> &'a str {
        if self.hosts.contains(host) || self.hosts.len() < HOSTS_MAX {
            host
        } else {
            OTHER_HOSTS
        }
    }

    /// How much longer `host` wants to be left alone.
    fn held(&self, host: &str, now: Instant) -> Option<Duration> {
        let until = self.holds.get(self.name_of(host))?;
        (*until > now).then(|| *until - now)
    }

    fn is_named(&self, share: &RateShare, host: &str) -> bool {
        let name = self.name_of(host);
        share.hosts.iter().any(|named| named == name)
    }

    fn has_share_of(&self, host: &str) -> bool {
        match &self.rule {
            Rule::Own(_) => true,
            Rule::Shared(share) => share
                .as_ref()
                .is_some_and(|share| self.is_named(share, host)),
        }
    }
}

/// Milliseconds since the machine's boot: the clock that shares run out by.
pub(super) fn boot_ms() -> u64 {
    // This clock goes on while the machine sleeps, as `Instant` does not: a share that ran out
    // meanwhile is over when it wakes up.
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from);
    // A clock that cannot be read ends every share.
    now.map_or(u64::MAX, |now| {
        u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "a:80";

    fn ms(duration: Duration) -> u128 {
        duration.as_millis()
    }

    /// The slots that are handed out to somebody who always waits for the next.
    fn slots(pace: &Pace, mut now: Instant, count: usize) -> Vec<Instant> {
        let mut slots = Vec::new();
        while slots.len() < count {
            match pace.reserve(HOST, now, 0, false) {
                Ok(()) => slots.push(now),
                Err(NotYet::For(wait) | NotYet::Held(wait)) => now += wait,
                Err(NotYet::NoShare) => panic!("there is a share"),
            }
        }
        slots
    }

    fn share(per_second: f64, hosts: &[&str], until_ms: u64) -> RateShare {
        RateShare {
            number: 1,
            per_second,
            in_flight: 1,
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            until_ms,
        }
    }

    #[test]
    fn requests_are_spread_and_a_hold_keeps_the_next_back() {
        let pace = Pace::new(10);
        let start = Instant::now() + Duration::from_secs(1);
        let since = |slot: &Instant| ms(slot.duration_since(start));
        let first: Vec<_> = slots(&pace, start, 4).iter().map(since).collect();
        assert_eq!(first, [0, 100, 200, 300]);
        pace.hold_until(HOST, start + Duration::from_secs(5));
        assert_eq!(since(&slots(&pace, start, 1)[0]), 5_000);
        // Who comes late does not make up for it, but for a timer's coarseness.
        let late = start + Duration::from_secs(9);
        let after: Vec<_> = slots(&pace, late, 3).iter().map(since).collect();
        assert_eq!(after, [9_000, 9_090, 9_190]);
    }

    #[test]
    fn a_host_that_wants_to_be_left_alone_holds_up_no_other() {
        let pace = Pace::new(1_000);
        let now = Instant::now();
        pace.declare([HOST, "b:80"]);
        pace.hold_until(HOST, now + Duration::from_secs(600));
        // A shorter wait that is asked for later takes nothing back.
        pace.hold_until(HOST, now + Duration::from_secs(1));
        let later = now + Duration::from_secs(2);
        assert_eq!(
            pace.reserve(HOST, later, 0, false),
            Err(NotYet::Held(Duration::from_secs(598)))
        );
        assert_eq!(pace.reserve("b:80", later, 0, false), Ok(()));
    }

    #[tokio::test]
    async fn who_waits_for_a_held_host_stands_in_nobodys_way() {
        let pace = std::sync::Arc::new(Pace::new(1_000));
        pace.declare([HOST, "b:80"]);
        pace.hold(HOST, Duration::from_secs(600));
        let waiting = tokio::spawn({
            let pace = pace.clone();
            async move { pace.turn(HOST).await }
        });
        for _ in 0..3 {
            tokio::time::timeout(Duration::from_secs(60), pace.turn("b:80"))
                .await
                .unwrap();
        }
        assert!(!waiting.is_finished());
        waiting.abort();
    }

    #[test]
    fn a_timer_that_is_late_does_not_lower_the_rate() {
        let pace = Pace::new(500);
        let start = Instant::now();
        let mut now = start;
        let mut sent = 0;
        while now < start + Duration::from_secs(10) {
            match pace.reserve(HOST, now, 0, false) {
                Ok(()) => sent += 1,
                // Two milliseconds late, each time.
                Err(NotYet::For(wait)) => now += wait + Duration::from_millis(2),
                Err(other) => panic!("{other:?}"),
            }
        }
        assert!((4_950..=5_010).contains(&sent), "{sent}");
    }

    #[test]
    fn without_a_share_of_the_host_nothing_goes() {
        let pace = Pace::shared();
        let now = Instant::now();
        let ask = |host: &str, boot_ms: u64| pace.reserve(host, now, boot_ms, false);
        assert_eq!(ask(HOST, 0), Err(NotYet::NoShare));
        pace.take(share(5.0, &[HOST], 1_000));
        assert_eq!(ask("b:80", 0), Err(NotYet::NoShare));
        assert_eq!(ask(HOST, 999), Ok(()));
        assert_eq!(ask(HOST, 1_000), Err(NotYet::NoShare));
        pace.take(share(0.0, &[HOST], 2_000));
        assert_eq!(ask(HOST, 1_000), Err(NotYet::NoShare));
    }

    #[test]
    fn another_share_holds_for_the_very_next_request() {
        let pace = Pace::shared();
        let start = Instant::now();
        pace.take(share(0.1, &[HOST], u64::MAX));
        assert_eq!(slots(&pace, start, 1), [start]);
        assert_eq!(
            pace.reserve(HOST, start, 0, false),
            Err(NotYet::For(Duration::from_secs(10)))
        );
        pace.take(share(20.0, &[HOST], u64::MAX));
        let next = slots(&pace, start, 1)[0];
        assert_eq!(ms(next.duration_since(start)), 50);
        pace.take(share(2.0, &[HOST], u64::MAX));
        let next = slots(&pace, start, 1)[0];
        assert_eq!(ms(next.duration_since(start)), 550);
    }

    #[test]
    fn hosts_beyond_the_limit_count_as_one() {
        let pace = Pace::shared();
        let names: Vec<String> = (0..HOSTS_MAX + 5).map(|n| format!("h{n}:80")).collect();
        pace.declare(names.iter().map(String::as_str));
        let hosts = pace.hosts();
        assert_eq!(hosts.len(), HOSTS_MAX + 1);
        assert!(hosts.iter().any(|host| host == OTHER_HOSTS));
        pace.take(share(5.0, &[OTHER_HOSTS], u64::MAX));
        let now = Instant::now();
        assert_eq!(pace.reserve("h0:80", now, 0, false), Err(NotYet::NoShare));
        assert_eq!(pace.reserve("h66:80", now, 0, false), Ok(()));
    }

    #[tokio::test]
    async fn who_waits_for_a_share_goes_when_it_comes() {
        let pace = std::sync::Arc::new(Pace::shared());
        let waiting = tokio::spawn({
            let pace = pace.clone();
            async move { pace.turn(HOST).await }
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!waiting.is_finished());
        assert_eq!(pace.hosts(), [HOST]);
        pace.take(share(50.0, &[HOST], u64::MAX));
        tokio::time::timeout(Duration::from_secs(5), waiting)
            .await
            .unwrap()
            .unwrap();
    }
}
