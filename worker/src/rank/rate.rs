//! A fetch rank's share of hosts' rates, between its child's folder and the session: the worker's side
//! of `marquee_domain::rate`.

use std::io;
use std::path::Path;

use marquee_domain::env::Clock;
use marquee_domain::rate::{RateShare, RateUse, SHARE_FILE, USE_FILE};
use marquee_proto::v1;
use serde::de::DeserializeOwned;

use crate::{durable, files};

/// A child that said nothing for so long wants nothing: it says something every second.
const QUIET_FROM_MS: u64 = 4_000;

/// What the child in `folder` says of its requests. None before its first word. `now_ms` is that of
/// [`now_ms`].
pub fn of(folder: &Path, now_ms: u64) -> Option<v1::RateUse> {
    let said: RateUse = read(&folder.join(USE_FILE))?;
    let is_quiet = now_ms.saturating_sub(said.at_ms) > QUIET_FROM_MS;
    let share: Option<RateShare> = read(&folder.join(SHARE_FILE));
    let share = share.filter(|share| now_ms < share.until_ms);
    Some(v1::RateUse {
        // It may not have taken the newest yet, and it may be about to.
        held: share.map_or(0.0, |share| share.per_second.max(said.per_second)),
        limit: said.limit,
        in_flight: said.in_flight,
        hosts: said.hosts,
        taken: said.taken,
        used: if is_quiet { 0.0 } else { said.used },
        hungry: said.hungry && !is_quiet,
    })
}

/// Puts a share where the child finds it, whole. It need not survive the machine.
pub fn give(folder: &Path, share: &RateShare) -> io::Result<()> {
    let file = folder.join(SHARE_FILE);
    durable::replace_json_for_child(&file, share)
}

/// Milliseconds of the clock that shares run out by: the child reads it too.
pub fn now_ms(clock: &dyn Clock) -> u64 {
    u64::try_from(clock.monotonic().as_millis()).unwrap_or(u64::MAX)
}

/// A file that is not there, or cannot be understood, says nothing.
fn read<T: DeserializeOwned>(file: &Path) -> Option<T> {
    files::read_json(file).ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const NOW: u64 = 500_000;

    #[test]
    fn what_a_rank_holds_is_the_most_it_may_act_on() {
        let folder = tempfile::tempdir().unwrap();
        assert!(of(folder.path(), NOW).is_none());
        let said = RateUse {
            limit: 40.0,
            in_flight: 8,
            hosts: vec!["a:80".into()],
            taken: 3,
            per_second: 20.0,
            used: 4.0,
            hungry: true,
            at_ms: NOW,
        };
        let text = serde_json::to_vec(&said).unwrap();
        fs::write(folder.path().join(USE_FILE), text).unwrap();
        assert_eq!(of(folder.path(), NOW).unwrap().held, 0.0);
        let share = |per_second, until_ms| RateShare {
            number: 4,
            per_second,
            in_flight: 2,
            hosts: vec!["a:80".into()],
            until_ms,
        };
        give(folder.path(), &share(5.0, NOW + 60_000)).unwrap();
        let now = of(folder.path(), NOW).unwrap();
        assert_eq!((now.held, now.taken, now.hungry), (20.0, 3, true));
        give(folder.path(), &share(30.0, NOW + 60_000)).unwrap();
        assert_eq!(of(folder.path(), NOW).unwrap().held, 30.0);
        give(folder.path(), &share(30.0, NOW)).unwrap();
        assert_eq!(of(folder.path(), NOW).unwrap().held, 0.0);
    }
}
