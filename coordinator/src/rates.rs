//! One rate for each host over the whole cluster: which fetch ranks ask whom, and the share that
//! each of them was given (`marquee_domain::rate`).
//!
//! The limit of a host is the lowest that the settings of those who ask it name. Shares are dealt by
//! `divide`; what one is to get is first taken from another.
//!
//! Invariant: at no host do the shares that ranks may act on add up to more than its limit. A share
//! counts until its rank says that it keeps to a later one, or it has run out: it runs out for the
//! rank first, since that counts from the heartbeat it sent, and this side from when it came.
//! Nothing here is stored: a coordinator that starts raises nobody before the shares that its
//! predecessor gave have run out, or their ranks have said what they have.

mod divide;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use marquee_domain::ids::WorkerId;
use marquee_domain::rate::{HOSTS_MAX, SHARE_FOR};
use marquee_store::Conn;
use marquee_store::open::{self, Which};
use marquee_store::ranks::RankKey;
use tokio::time::Instant;

use self::divide::{Asker, divide};

/// Shares are dealt anew at most this often, unless ranks come or go.
const DEAL_EVERY: Duration = Duration::from_millis(500);
/// A worker is told outside of its heartbeats at most this often.
const NUDGE_EVERY: Duration = Duration::from_millis(250);
/// A change of a rank's share by this part of the limit is told at once.
const WORTH_TELLING: f64 = 0.05;
/// A smaller share is rounded down to nothing: it would be one request in minutes.
const LEAST_PER_SECOND: f64 = 0.01;
/// Bytes of a host's name with its port.
const HOST_MAX_BYTES: usize = 300;
/// A rank that was not held up is expected to use this many times what it used of late.
const GROWTH: f64 = 1.5;

/// What a rank says of its requests.
#[derive(Debug, Clone, PartialEq)]
pub struct Asks {
    /// Requests a second, and in flight, that its settings allow.
    pub limit: f64,
    pub in_flight: u32,
    pub hosts: Vec<String>,
    /// Number of the share it keeps to.
    pub taken: u64,
    /// Requests a second of late.
    pub used: f64,
    /// It waits for its share rather than for anything else.
    pub hungry: bool,
    /// What it may act on now, in requests a second.
    pub held: f64,
}

impl Asks {
    /// What a rank says, if it makes sense.
    pub fn new(rate: marquee_proto::v1::RateUse) -> Option<Self> {
        let is_sound = |value: f64| value.is_finite() && value >= 0.0;
        let hosts: BTreeSet<String> = rate.hosts.into_iter().collect();
        let makes_sense = [rate.limit, rate.used, rate.held].into_iter().all(is_sound)
            && rate.limit > 0.0
            // One more, which stands for all others (`OTHER_HOSTS`).
            && hosts.len() <= HOSTS_MAX + 1
            && hosts.iter().all(|host| host.len() <= HOST_MAX_BYTES);
        makes_sense.then(|| Self {
            limit: rate.limit,
            in_flight: rate.in_flight.max(1),
            hosts: hosts.into_iter().collect(),
            taken: rate.taken,
            used: rate.used,
            hungry: rate.hungry,
            held: rate.held,
        })
    }

    fn wish(&self) -> f64 {
        if self.hungry {
            self.limit
        } else {
            self.used * GROWTH
        }
    }
}

/// A share to send.
#[derive(Debug, Clone, PartialEq)]
pub struct Share {
    pub key: RankKey,
    pub number: u64,
    pub per_second: f64,
    pub in_flight: u32,
    pub hosts: Vec<String>,
}

/// Who asks whom, and who was given what.
#[derive(Debug, Clone, Default)]
pub struct Rates(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    ranks: BTreeMap<RankKey, RateEntry>,
    /// Number of the newest share.
    number: u64,
    /// Nobody is raised before then while `unheard` is not empty.
    quiet_until: Option<Instant>,
    /// Workers that held ranks when this process began, and have not said since what they have.
    unheard: BTreeSet<WorkerId>,
    dealt: Option<(Instant, BTreeMap<RankKey, f64>)>,
    nudged: BTreeMap<WorkerId, Instant>,
}

impl State {
    fn starting(unheard: BTreeSet<WorkerId>, number: u64, now: Instant) -> Self {
        Self {
            quiet_until: Some(now + SHARE_FOR),
            unheard,
            number,
            ..Self::default()
        }
    }
}

#[derive(Debug)]
struct RateEntry {
    worker: WorkerId,
    asks: Asks,
    heard: Instant,
    /// What it may still act on, oldest first.
    given: Vec<Given>,
}

#[derive(Debug, Clone)]
struct Given {
    number: u64,
    per_second: f64,
    hosts: Vec<String>,
    until: Instant,
}

impl RateEntry {
    /// The most that it may ask `host` for now.
    fn most_at(&self, host: &str, now: Instant) -> f64 {
        let live = self.given.iter().filter(|given| given.until > now);
        // The largest and not the sum: it keeps to one of them, and nobody knows yet to which.
        live.filter(|given| given.hosts.iter().any(|named| named == host))
            .map(|given| given.per_second)
            .fold(0.0, f64::max)
    }

    fn last_given(&self) -> f64 {
        self.given.last().map_or(0.0, |given| given.per_second)
    }
}

impl Rates {
    /// What a coordinator that starts at `now` has to reckon with: ranks that hold shares of its
    /// predecessor's.
    pub async fn load(
        conn: &mut Conn,
        now: DateTime<Utc>,
    ) -> Result<Self, marquee_store::StoreError> {
        let rates = Self::default();
        rates.begin(conn, now).await?;
        Ok(rates)
    }

    /// Begins anew, as a process does that has just taken the lead.
    pub async fn begin(
        &self,
        conn: &mut Conn,
        now: DateTime<Utc>,
    ) -> Result<(), marquee_store::StoreError> {
        let held = open::list_held_ranks(conn, Which::All).await?;
        let unheard = held.into_iter().map(|rank| rank.worker).collect();
        // Larger than any number of an earlier process, as long as clocks go forward.
        let number = u64::try_from(now.timestamp_micros()).unwrap_or(0);
        *self.state() = State::starting(unheard, number, Instant::now());
        Ok(())
    }

    #[cfg(test)]
    fn starting(unheard: BTreeSet<WorkerId>, number: u64, now: Instant) -> Self {
        Self(Arc::new(Mutex::new(State::starting(unheard, number, now))))
    }

    /// Takes what a worker's heartbeat, which came at `now`, says of its fetch ranks. Returns the
    /// workers for which something has changed.
    pub fn heard(
        &self,
        worker: WorkerId,
        ranks: Vec<(RankKey, Asks)>,
        now: Instant,
    ) -> Vec<WorkerId> {
        self.state().heard(worker, ranks, now)
    }

    /// The shares of a worker's ranks, good until [`SHARE_FOR`] after its heartbeat came at `heard`.
    pub fn shares(&self, worker: WorkerId, heard: Instant, now: Instant) -> Vec<Share> {
        self.state().shares(worker, heard, now)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn heard(
        &mut self,
        worker: WorkerId,
        ranks: Vec<(RankKey, Asks)>,
        now: Instant,
    ) -> Vec<WorkerId> {
        // Known from now on: nobody else is kept down for what its ranks might have.
        self.unheard.remove(&worker);
        let named: BTreeSet<RankKey> = ranks.iter().map(|(key, _)| *key).collect();
        let before = self.ranks.len();
        // A rank of its that it does not name any more asks nobody; one of a worker that fell silent
        // asks nobody when its shares have run out.
        self.ranks.retain(|key, entry| {
            let is_silent = now.duration_since(entry.heard) > SHARE_FOR;
            let may_ask = entry.given.iter().any(|given| given.until > now);
            if entry.worker == worker {
                named.contains(key)
            } else {
                may_ask || !is_silent
            }
        });
        let mut has_news = self.ranks.len() != before;
        for (key, asks) in ranks {
            has_news |= self.hear_rank(worker, key, asks, now);
        }
        if has_news {
            self.dealt = None;
        }
        self.deal(now);
        self.due_nudges(worker, now)
    }

    /// True when ranks, hosts or what may be given has changed.
    fn hear_rank(&mut self, worker: WorkerId, key: RankKey, asks: Asks, now: Instant) -> bool {
        let Some(entry) = self
            .ranks
            .get_mut(&key)
            .filter(|entry| entry.worker == worker)
        else {
            // What it holds already, it has from before this process.
            let held = Given {
                number: 0,
                per_second: asks.held,
                hosts: asks.hosts.clone(),
                until: now + SHARE_FOR,
            };
            let given = if asks.held > 0.0 {
                vec![held]
            } else {
                Vec::new()
            };
            let entry = RateEntry {
                worker,
                asks,
                heard: now,
                given,
            };
            self.ranks.insert(key, entry);
            return true;
        };
        entry.heard = now;
        let was_hungry = entry.asks.hungry;
        let had_hosts = entry.asks.hosts.len();
        // What came before the share that it keeps to counts no more.
        if let Some(at) = entry
            .given
            .iter()
            .position(|given| given.number == asks.taken)
        {
            entry.given.drain(..at);
        }
        entry.given.retain(|given| given.until > now);
        entry.asks = asks;
        // What it used is no news by itself: it is another number in each heartbeat, and is dealt by every
        // half second.
        was_hungry != entry.asks.hungry || had_hosts != entry.asks.hosts.len()
    }

    /// Deals the limits of all hosts out to all who ask them.
    fn deal(&mut self, now: Instant) {
        let is_fresh = |(at, _): &(Instant, _)| now.duration_since(*at) < DEAL_EVERY;
        if self.dealt.as_ref().is_some_and(is_fresh) {
            return;
        }
        let limits = self.limits();
        let places: BTreeMap<&str, usize> = limits.keys().copied().zip(0..).collect();
        let askers: Vec<Asker> = self
            .ranks
            .values()
            .map(|entry| Asker {
                hosts: entry
                    .asks
                    .hosts
                    .iter()
                    .filter_map(|host| places.get(host.as_str()).copied())
                    .collect(),
                limit: entry.asks.limit,
                wish: entry.asks.wish(),
            })
            .collect();
        let limits: Vec<f64> = limits.into_values().collect();
        let shares = divide(&askers, &limits);
        let dealt = self.ranks.keys().copied().zip(shares).collect();
        self.dealt = Some((now, dealt));
    }

    /// Each host's limit: the lowest that those who ask it name.
    fn limits(&self) -> BTreeMap<&str, f64> {
        let mut limits: BTreeMap<&str, f64> = BTreeMap::new();
        for entry in self.ranks.values() {
            for host in &entry.asks.hosts {
                let limit = limits.entry(host).or_insert(f64::INFINITY);
                *limit = limit.min(entry.asks.limit);
            }
        }
        limits
    }

    fn goal_of(&self, key: &RankKey) -> f64 {
        let dealt = self.dealt.as_ref().and_then(|(_, dealt)| dealt.get(key));
        dealt.copied().unwrap_or(0.0)
    }

    /// Other workers whose ranks should soon hear of another share.
    fn due_nudges(&mut self, but: WorkerId, now: Instant) -> Vec<WorkerId> {
        let changed = self.ranks.iter().filter(|(key, entry)| {
            let change = (self.goal_of(key) - entry.last_given()).abs();
            // A nudge is a message outside of the heartbeats: a rank whose share wobbles must not make a
            // flood of them.
            entry.worker != but && change > entry.asks.limit * WORTH_TELLING
        });
        let workers: BTreeSet<WorkerId> = changed.map(|(_, entry)| entry.worker).collect();
        let nudged = &mut self.nudged;
        nudged.retain(|_, at| now.duration_since(*at) < NUDGE_EVERY);
        let due: Vec<WorkerId> = workers
            .into_iter()
            .filter(|worker| !nudged.contains_key(worker))
            .collect();
        nudged.extend(due.iter().map(|worker| (*worker, now)));
        due
    }

    fn shares(&mut self, worker: WorkerId, heard: Instant, now: Instant) -> Vec<Share> {
        self.deal(now);
        let own: Vec<RankKey> = self
            .ranks
            .iter()
            .filter(|(_, entry)| entry.worker == worker)
            .map(|(key, _)| *key)
            .collect();
        let until = heard + SHARE_FOR;
        own.into_iter()
            .filter_map(|key| self.give(key, until, now))
            .collect()
    }

    /// Gives a rank its share: what was dealt to it, as far as others have let go of it.
    fn give(&mut self, key: RankKey, until: Instant, now: Instant) -> Option<Share> {
        // Rounded down to none: what is left over is given to those who can use it.
        let goal = self.goal_of(&key).min(self.free_for(&key, now));
        let per_second = if goal < LEAST_PER_SECOND { 0.0 } else { goal };
        self.number += 1;
        let number = self.number;
        let entry = self.ranks.get_mut(&key)?;
        let hosts = entry.asks.hosts.clone();
        let in_flight = part_of(entry.asks.in_flight, per_second / entry.asks.limit);
        entry.given.push(Given {
            number,
            per_second,
            hosts: hosts.clone(),
            until,
        });
        Some(Share {
            key,
            number,
            per_second,
            // One at least, also without a rate: it is the request that goes first when there is
            // one.
            in_flight: in_flight.clamp(1, entry.asks.in_flight),
            hosts,
        })
    }

    /// What a rank can have at most: at each of its hosts, what no other one may act on.
    fn free_for(&self, key: &RankKey, now: Instant) -> f64 {
        let Some(entry) = self.ranks.get(key) else {
            return 0.0;
        };
        let is_quiet =
            self.quiet_until.is_some_and(|until| now < until) && !self.unheard.is_empty();
        let limits = self.limits();
        let most = if is_quiet {
            // No more than it has: others may have what we do not know of.
            entry.asks.held.min(entry.asks.limit)
        } else {
            entry.asks.limit
        };
        entry.asks.hosts.iter().fold(most, |most, host| {
            let others = self.ranks.iter().filter(|(other, _)| *other != key);
            let taken: f64 = others.map(|(_, other)| other.most_at(host, now)).sum();
            let limit = limits.get(host.as_str()).copied().unwrap_or(0.0);
            most.min(limit - taken).max(0.0)
        })
    }
}

/// So much of a whole number, rounded down.
#[allow(
    clippy::cast_possible_truncation,
    reason = "the part is at most 1, so it is no larger than the whole"
)]
fn part_of(whole: u32, part: f64) -> u32 {
    (f64::from(whole) * part.min(1.0)).floor() as u32
}

#[cfg(test)]
mod tests;
