//! When pending jobs will start, as far as one can tell: the planner played forward over the ends of what runs.
//!
//! Nothing is promised by it: jobs come and go, and what nobody knows the length of is taken to run for ever. Jobs that
//! make room for others, and quotas that free, are not played.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use marquee_domain::ids::JobId;

use super::{Held, Host, Limits, Queue, plan};

/// Starts that are looked for: who comes later hears that so many come before.
pub const STARTS_MAX: usize = 200;
/// Lines times hosts that all rounds of a play may look at together: half a second of one core.
const LOOKS_MAX: usize = 2_000_000;
/// Rounds of a play, whatever they cost.
const ROUNDS: std::ops::RangeInclusive<usize> = 4..=1_000;

/// When those of `queue` start that do not start at once, at most [`STARTS_MAX`] of them. `length` is how long a job
/// runs once it has started; None: nobody knows. What runs already says itself when it ends.
#[must_use]
pub fn starts(
    queue: Queue,
    hosts: Vec<Host>,
    limits: Limits,
    now: DateTime<Utc>,
    length: impl Fn(JobId) -> Option<TimeDelta>,
) -> BTreeMap<JobId, DateTime<Utc>> {
    let mut found = BTreeMap::new();
    play(queue, hosts, limits, now, length, |job, at| {
        if at > now {
            found.insert(job, at);
        }
        found.len() >= STARTS_MAX
    });
    found
}

/// When one of `queue` starts, at once included. None: nobody can tell.
#[must_use]
pub fn start_of(
    job: JobId,
    queue: Queue,
    hosts: Vec<Host>,
    limits: Limits,
    now: DateTime<Utc>,
    length: impl Fn(JobId) -> Option<TimeDelta>,
) -> Option<DateTime<Utc>> {
    let mut found = None;
    play(queue, hosts, limits, now, length, |started, at| {
        if started == job {
            found = Some(at);
        }
        found.is_some()
    });
    found
}

/// Plays the planner forward. `is_enough` is told each start, and says whether that is all.
fn play(
    mut queue: Queue,
    mut hosts: Vec<Host>,
    mut limits: Limits,
    now: DateTime<Utc>,
    length: impl Fn(JobId) -> Option<TimeDelta>,
    mut is_enough: impl FnMut(JobId, DateTime<Utc>) -> bool,
) {
    // Whom a job would ask to make room is decided by what is saved and lost then, which nobody knows now.
    limits.preemptible.clear();
    let looks = (queue.lines() * hosts.len()).max(1);
    let rounds = (LOOKS_MAX / looks).clamp(*ROUNDS.start(), *ROUNDS.end());
    let mut at = now;
    for _ in 0..rounds {
        let wakes = queue.wake(at);
        let mut ends_here = false;
        for placement in plan(&queue, &hosts, &limits, at).placements {
            queue.remove(placement.job);
            ends_here |= is_enough(placement.job, at);
            let ends_at = length(placement.job).and_then(|length| at.checked_add_signed(length));
            for rank in placement.ranks {
                if let Some(host) = hosts.iter_mut().find(|host| host.worker == rank.worker) {
                    host.running.push(Held {
                        job: placement.job,
                        devices: rank.devices,
                        ends_at,
                        // In the play each job ends when it is said to: no promise that rests on
                        // one is broken.
                        is_measured: false,
                    });
                }
            }
        }
        if queue.is_empty() || ends_here {
            break;
        }
        let ends = hosts.iter().flat_map(|host| &host.running);
        let ends = ends.filter_map(|held| held.ends_at).filter(|end| *end > at);
        // Straight to the next end or wake-up: between two of them nothing comes free.
        let windows = hosts.iter().filter_map(|host| host.window.as_ref());
        let opens = windows.map(|window| window.until).filter(|end| *end > at);
        let Some(next) = ends.chain(wakes).chain(opens).min() else {
            break;
        };
        at = next;
        for host in &mut hosts {
            host.running
                .retain(|held| held.ends_at.is_none_or(|end| end > at));
            host.window.take_if(|window| window.until <= at);
        }
    }
}
