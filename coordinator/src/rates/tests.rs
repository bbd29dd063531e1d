//! Workers, children and their clocks, played: whatever is late, lost or killed, no host is asked for
//! more than its limit.

use marquee_domain::ids::{AttemptNumber, JobId, Rank};
use uuid::Uuid;

use super::*;

const API: &str = "api:443";

fn worker(number: u128) -> WorkerId {
    WorkerId(Uuid::from_u128(number))
}

fn key(job: i64) -> RankKey {
    RankKey {
        job: JobId(job),
        attempt: AttemptNumber(1),
        rank: Rank(0),
    }
}

fn asks(limit: f64) -> Asks {
    Asks {
        limit,
        in_flight: 8,
        hosts: vec![API.to_owned()],
        taken: 0,
        used: 0.0,
        hungry: true,
        held: 0.0,
    }
}

/// What `share` answers, as its rank says it in the next heartbeat.
fn keeping(limit: f64, share: &Share) -> Asks {
    Asks {
        taken: share.number,
        held: share.per_second,
        ..asks(limit)
    }
}

#[test]
fn a_share_is_taken_away_before_it_is_given_to_another() {
    let rates = Rates::default();
    let now = Instant::now();
    let (one, two) = (worker(1), worker(2));
    rates.heard(one, vec![(key(1), asks(40.0))], now);
    let first = rates.shares(one, now, now).remove(0);
    assert_eq!((first.per_second, first.in_flight), (40.0, 8));

    // The second comes: nothing is free, and the first is to hear of it.
    assert_eq!(rates.heard(two, vec![(key(2), asks(40.0))], now), [one]);
    assert_eq!(rates.shares(two, now, now)[0].per_second, 0.0);
    let lowered = rates.shares(one, now, now).remove(0);
    assert_eq!((lowered.per_second, lowered.in_flight), (20.0, 4));
    // Told is not taken.
    assert_eq!(rates.shares(two, now, now)[0].per_second, 0.0);
    rates.heard(one, vec![(key(1), keeping(40.0, &lowered))], now);
    assert_eq!(rates.shares(two, now, now)[0].per_second, 20.0);

    // The first one ends: the second has all at once.
    rates.heard(one, Vec::new(), now);
    assert_eq!(rates.shares(two, now, now)[0].per_second, 40.0);
}

#[test]
fn the_lowest_limit_that_anybody_names_is_the_hosts() {
    let rates = Rates::default();
    let now = Instant::now();
    let ranks = vec![(key(1), asks(40.0)), (key(2), asks(10.0))];
    rates.heard(worker(1), ranks, now);
    let shares = rates.shares(worker(1), now, now);
    let sum: f64 = shares.iter().map(|share| share.per_second).sum();
    assert!((sum - 10.0).abs() < 1e-6, "{shares:?}");
}

#[test]
fn an_idle_rank_lends_its_share_to_a_busy_one() {
    let rates = Rates::default();
    let now = Instant::now();
    let idle = Asks {
        hungry: false,
        ..asks(40.0)
    };
    rates.heard(worker(1), vec![(key(1), idle), (key(2), asks(40.0))], now);
    let shares = rates.shares(worker(1), now, now);
    assert!((shares[0].per_second - 2.0).abs() < 1e-6, "{shares:?}");
    assert!((shares[1].per_second - 38.0).abs() < 1e-6, "{shares:?}");
}

#[test]
fn a_worker_that_falls_silent_keeps_its_share_until_it_has_run_out() {
    let rates = Rates::default();
    let start = Instant::now();
    rates.heard(worker(1), vec![(key(1), asks(40.0))], start);
    rates.shares(worker(1), start, start);
    let just_before = start + SHARE_FOR - Duration::from_millis(1);
    rates.heard(worker(2), vec![(key(2), asks(40.0))], just_before);
    assert_eq!(
        rates.shares(worker(2), just_before, just_before)[0].per_second,
        0.0
    );
    let after = start + SHARE_FOR + Duration::from_millis(1);
    rates.heard(worker(2), vec![(key(2), asks(40.0))], after);
    assert_eq!(rates.shares(worker(2), after, after)[0].per_second, 40.0);
}

#[test]
fn a_coordinator_that_starts_raises_nobody_before_it_knows_who_holds_what() {
    let start = Instant::now();
    let (one, two) = (worker(1), worker(2));
    let rates = Rates::starting(BTreeSet::from([one, two]), 1_000, start);
    let held = Asks {
        held: 15.0,
        taken: 77,
        ..asks(40.0)
    };
    rates.heard(one, vec![(key(1), held.clone())], start);
    // It goes on with what it has.
    assert_eq!(rates.shares(one, start, start)[0].per_second, 15.0);
    let other = Asks {
        held: 25.0,
        ..held.clone()
    };
    rates.heard(two, vec![(key(2), other)], start);
    // All are heard: what the second has is more than its part, and the first waits for it.
    assert_eq!(rates.shares(one, start, start)[0].per_second, 15.0);
    let lowered = rates.shares(two, start, start).remove(0);
    assert_eq!(lowered.per_second, 20.0);
    rates.heard(two, vec![(key(2), keeping(40.0, &lowered))], start);
    assert_eq!(rates.shares(one, start, start)[0].per_second, 20.0);

    // Where the other one does not come back, its share runs out.
    let rates = Rates::starting(BTreeSet::from([one, two]), 1_000, start);
    rates.heard(one, vec![(key(1), held)], start);
    rates.shares(one, start, start);
    let later = start + SHARE_FOR;
    rates.heard(
        one,
        vec![(key(1), keeping(40.0, &rates.shares(one, later, later)[0]))],
        later,
    );
    assert_eq!(rates.shares(one, later, later)[0].per_second, 40.0);
}

#[test]
fn what_makes_no_sense_is_no_word_of_a_rank() {
    let rate = |limit: f64, hosts: usize| marquee_proto::v1::RateUse {
        limit,
        hosts: (0..hosts).map(|n| format!("h{n}:80")).collect(),
        ..Default::default()
    };
    assert!(Asks::new(rate(40.0, 2)).is_some());
    assert!(Asks::new(rate(f64::NAN, 2)).is_none());
    assert!(Asks::new(rate(0.0, 2)).is_none());
    assert!(Asks::new(rate(40.0, HOSTS_MAX + 2)).is_none());
}

/// A rank with its child, as its worker has it.
#[derive(Debug, Clone)]
struct Played {
    worker: usize,
    asks: Asks,
    /// In its file: the rate and when it runs out.
    file: Option<(u64, f64, Instant)>,
    /// What the child goes by.
    taken: Option<(u64, f64, Instant)>,
    /// When it looks next.
    looks: Instant,
}

/// A message on its way: when it comes, and to whom.
#[derive(Debug)]
enum Mail {
    Beat {
        worker: usize,
        sent: Instant,
        ranks: Vec<(RankKey, Asks)>,
    },
    Shares {
        worker: usize,
        sent: Instant,
        shares: Vec<Share>,
    },
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    fn place(&mut self, places: usize) -> usize {
        usize::try_from(self.below(places as u64)).unwrap()
    }

    fn ms(&mut self, limit: u64) -> Duration {
        Duration::from_millis(self.below(limit))
    }
}

/// A cluster on a clock of its own.
struct Play {
    dice: Dice,
    rates: Rates,
    ranks: BTreeMap<RankKey, Played>,
    mail: Vec<(Instant, Mail)>,
    beats: Vec<Instant>,
    /// Until when each worker is cut off.
    cut: Vec<Instant>,
    next_job: i64,
    now: Instant,
    /// Seconds that limits allowed, and requests that could have been made in them.
    allowed: f64,
    possible: f64,
}

const WORKERS: usize = 4;
const TICK: Duration = Duration::from_millis(20);
const LIMIT: f64 = 40.0;

impl Play {
    fn new(seed: u64) -> Self {
        let now = Instant::now();
        Self {
            dice: Dice(seed),
            rates: Rates::default(),
            ranks: BTreeMap::new(),
            mail: Vec::new(),
            beats: vec![now; WORKERS],
            cut: vec![now; WORKERS],
            next_job: 1,
            now,
            allowed: 0.0,
            possible: 0.0,
        }
    }

    fn step(&mut self) {
        self.now += TICK;
        if self.dice.below(100) == 0 && self.ranks.len() < 12 {
            self.start_rank();
        }
        if self.dice.below(150) == 0 {
            // One ends, or is killed; its worker will not name it any more.
            let at = self.dice.place(12);
            if let Some(key) = self.ranks.keys().nth(at).copied() {
                self.ranks.remove(&key);
            }
        }
        if self.dice.below(500) == 0 {
            let worker = self.dice.place(WORKERS);
            self.cut[worker] = self.now + self.dice.ms(25_000);
        }
        if self.dice.below(1_500) == 0 {
            self.restart_coordinator();
        }
        self.beat();
        self.deliver();
        self.children();
        self.judge();
    }

    fn start_rank(&mut self) {
        let worker = self.dice.place(WORKERS);
        let hosts = match self.dice.below(3) {
            0 => vec![API.to_owned()],
            1 => vec!["images:443".to_owned()],
            _ => vec![API.to_owned(), "images:443".to_owned()],
        };
        let played = Played {
            worker,
            asks: Asks {
                hosts,
                ..asks(LIMIT)
            },
            file: None,
            taken: None,
            looks: self.now,
        };
        self.ranks.insert(key(self.next_job), played);
        self.next_job += 1;
    }

    /// A new one takes the place of one that was killed; what was on its way is lost.
    fn restart_coordinator(&mut self) {
        self.mail.clear();
        let unheard = self.ranks.values().map(|rank| worker(rank.worker as u128));
        let number = 1_000_000 * u64::try_from(self.next_job).unwrap();
        self.rates = Rates::starting(unheard.collect(), number, self.now);
    }

    fn beat(&mut self) {
        for at in 0..WORKERS {
            if self.now < self.beats[at] {
                continue;
            }
            self.beats[at] = self.now + Duration::from_millis(500) + self.dice.ms(1_500);
            if self.now < self.cut[at] {
                continue;
            }
            let now = self.now;
            let own = self.ranks.iter_mut().filter(|(_, rank)| rank.worker == at);
            let ranks = own
                .map(|(key, rank)| {
                    let file = rank.file.filter(|(.., until)| now < *until);
                    let taken = rank.taken.filter(|(.., until)| now < *until);
                    let rates = [file, taken].into_iter().flatten().map(|(_, rate, _)| rate);
                    rank.asks.held = rates.fold(0.0, f64::max);
                    rank.asks.taken = rank.taken.map_or(0, |(number, ..)| number);
                    (*key, rank.asks.clone())
                })
                .collect();
            let beat = Mail::Beat {
                worker: at,
                sent: now,
                ranks,
            };
            let comes = now + self.dice.ms(300);
            self.mail.push((comes, beat));
        }
    }

    fn deliver(&mut self) {
        let now = self.now;
        // A stream keeps its order: what comes late holds up what was sent after it.
        let mail = std::mem::take(&mut self.mail);
        let (due, later) = mail.into_iter().partition(|(comes, _)| *comes <= now);
        self.mail = later;
        for (_, mail) in due {
            match mail {
                Mail::Beat {
                    worker: at,
                    sent,
                    ranks,
                } => {
                    let id = worker(at as u128);
                    self.rates.heard(id, ranks, now);
                    let shares = self.rates.shares(id, now, now);
                    let comes = now + self.dice.ms(300);
                    self.mail.push((
                        comes,
                        Mail::Shares {
                            worker: at,
                            sent,
                            shares,
                        },
                    ));
                }
                Mail::Shares {
                    worker: at,
                    sent,
                    shares,
                } if now >= self.cut[at] => {
                    for share in shares {
                        let Some(rank) = self.ranks.get_mut(&share.key) else {
                            continue;
                        };
                        rank.file = Some((share.number, share.per_second, sent + SHARE_FOR));
                    }
                }
                Mail::Shares { .. } => {}
            }
        }
    }

    fn children(&mut self) {
        for rank in self.ranks.values_mut() {
            if self.now >= rank.looks {
                rank.taken = rank.file;
                rank.looks = self.now + Duration::from_millis(100) + self.dice.ms(400);
                rank.asks.hungry = self.dice.below(4) > 0;
                rank.asks.used = self.dice.below(20) as f64;
            }
        }
    }

    /// What all could do together at this moment, by their own clocks.
    fn judge(&mut self) {
        for host in [API, "images:443"] {
            let at = self
                .ranks
                .values()
                .filter(|rank| rank.asks.hosts.iter().any(|named| named == host));
            let rates = at.filter_map(|rank| rank.taken.filter(|(.., until)| self.now < *until));
            let sum: f64 = rates.map(|(_, rate, _)| rate).sum();
            assert!(sum <= LIMIT * (1.0 + 1e-6), "{sum} at {host}");
            if self
                .ranks
                .values()
                .any(|rank| rank.asks.hosts.iter().any(|named| named == host))
            {
                self.allowed += LIMIT;
                self.possible += sum;
            }
        }
    }
}

#[test]
fn whatever_is_late_lost_or_killed_no_host_is_asked_for_more_than_its_limit() {
    let (mut allowed, mut possible) = (0.0, 0.0);
    for seed in 1..=20 {
        let mut play = Play::new(seed);
        // Five minutes each.
        for _ in 0..15_000 {
            play.step();
        }
        allowed += play.allowed;
        possible += play.possible;
    }
    // And most of what they may ask, they can.
    assert!(possible > 0.6 * allowed, "{:.2}", possible / allowed);
}
