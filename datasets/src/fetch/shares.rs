//! The folder through which a fetch job says how it stands with its requests, and is told its share
//! of each host's rate: the child's side of `marquee_domain::rate`.
//!
//! Invariant: what is said of the share taken is said after it was taken.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use marquee_domain::rate::{LOOK_EVERY, RateShare, RateUse, SHARE_FILE, USE_FILE};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::in_flight::InFlight;
use super::manners::Manners;
use super::pace::{Pace, boot_ms};

/// What is said of late is said of so long.
const WINDOW: Duration = Duration::from_secs(1);

/// Keeps `pace` and `in_flight` to the shares that come into `folder`, for as long as they are used.
pub(super) fn attend(
    folder: PathBuf,
    manners: Manners,
    pace: &Arc<Pace>,
    in_flight: &Arc<InFlight>,
) {
    let mut attendant = Attendant {
        folder,
        manners,
        pace: Arc::downgrade(pace),
        in_flight: Arc::downgrade(in_flight),
        share: None,
        since: Instant::now(),
        looks: 0,
        tight: 0,
        said: None,
        said_at: Instant::now(),
        warned: false,
    };
    tokio::spawn(async move {
        let mut ticks = interval(LOOK_EVERY);
        // After a pause one look is enough: both files say how things stand now, not what happened
        // meanwhile.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            match attendant.look() {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => attendant.warn(&error),
            }
        }
    });
}

#[derive(Debug)]
struct Attendant {
    folder: PathBuf,
    manners: Manners,
    pace: Weak<Pace>,
    in_flight: Weak<InFlight>,
    share: Option<RateShare>,
    /// Start of the window, looks in it, and those that found every request in flight.
    since: Instant,
    looks: u32,
    tight: u32,
    said: Option<RateUse>,
    said_at: Instant,
    warned: bool,
}

impl Attendant {
    /// Takes a new share and says how the job stands. False when nobody asks any more.
    fn look(&mut self) -> io::Result<bool> {
        let (Some(pace), Some(in_flight)) = (self.pace.upgrade(), self.in_flight.upgrade()) else {
            return Ok(false);
        };
        // Looked for, not waited for: a file needs no connection that could break.
        let share = read_share(&self.folder.join(SHARE_FILE))?;
        if let Some(share) = share.filter(|share| self.share.as_ref() != Some(share)) {
            pace.take(share.clone());
            self.share = Some(share);
        }
        // Without a share that still holds, one request may wait for the next: it is what goes first when
        // a share comes.
        let allowed = self
            .share
            .as_ref()
            .filter(|share| boot_ms() < share.until_ms)
            .map_or(1, |share| share.in_flight);
        in_flight.limit(allowed.min(self.manners.concurrency));
        self.looks += 1;
        self.tight += u32::from(in_flight.is_exhausted() && allowed < self.manners.concurrency);
        let mut news = self.use_now(&pace);
        // Said again although nothing is new, it is a sign of life.
        if self.said.as_ref() != Some(&news) || self.said_at.elapsed() >= WINDOW {
            news.at_ms = boot_ms();
            let text = serde_json::to_vec(&news)?;
            replace(&self.folder.join(USE_FILE), &text)?;
            self.said = Some(news);
            self.said_at = Instant::now();
        }
        Ok(true)
    }

    /// How the job stands: whom it asks and what it took at once, how fast it went once a window.
    fn use_now(&mut self, pace: &Pace) -> RateUse {
        let before = self.said.as_ref();
        // Until the first window is over it counts as hungry: the coordinator then plans with its
        // whole limit, and not with a use of nothing.
        let (mut used, mut hungry) = before.map_or((0.0, true), |said| (said.used, said.hungry));
        let passed = self.since.elapsed();
        if passed >= WINDOW {
            let turns = pace.turns();
            used = f64::from(turns.all) / passed.as_secs_f64();
            // The most of its requests: a few that wait are there at any rate.
            let by_rate = turns.waited * 2 > turns.all || (turns.all == 0 && turns.waiting);
            hungry = by_rate || self.tight * 2 > self.looks;
            (self.since, self.looks, self.tight) = (Instant::now(), 0, 0);
        }
        RateUse {
            limit: f64::from(self.manners.requests_per_second),
            in_flight: self.manners.concurrency,
            hosts: pace.hosts(),
            taken: self.share.as_ref().map_or(0, |share| share.number),
            per_second: self.share.as_ref().map_or(0.0, |share| share.per_second),
            used,
            hungry,
            at_ms: before.map_or(0, |said| said.at_ms),
        }
    }

    /// Once is enough: what keeps a share from being read keeps the job from asking, too.
    fn warn(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.warned, true) {
            tracing::warn!(
                folder = %self.folder.display(),
                "shares of the rate cannot be read or told: {error}"
            );
        }
    }
}

/// The share that is there. A file that cannot be understood is of a newer version: no share.
fn read_share(file: &Path) -> io::Result<Option<RateShare>> {
    match fs::read(file) {
        Ok(text) => Ok(serde_json::from_slice(&text)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Puts a whole new file in the place of the old one. It need not survive the machine.
fn replace(file: &Path, text: &[u8]) -> io::Result<()> {
    let aside = file.with_extension("partial");
    fs::write(&aside, text)?;
    fs::rename(&aside, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manners() -> Manners {
        Manners {
            requests_per_second: 40,
            concurrency: 8,
            timeout: Duration::from_secs(1),
            attempts: 1,
            outage: Duration::from_secs(1),
        }
    }

    fn said(folder: &Path) -> Option<RateUse> {
        let text = fs::read(folder.join(USE_FILE)).ok()?;
        Some(serde_json::from_slice(&text).unwrap())
    }

    async fn until<T>(mut look: impl FnMut() -> Option<T>) -> T {
        for _ in 0..200 {
            if let Some(found) = look() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("it did not come");
    }

    #[tokio::test]
    async fn a_job_says_whom_it_asks_and_keeps_to_what_it_is_given() {
        let folder = tempfile::tempdir().unwrap();
        let (pace, in_flight) = (Arc::new(Pace::shared()), Arc::new(InFlight::new(1)));
        pace.declare(["a:80"]);
        attend(folder.path().to_owned(), manners(), &pace, &in_flight);
        let first = until(|| said(folder.path())).await;
        assert_eq!((first.limit, first.in_flight, first.taken), (40.0, 8, 0));
        assert_eq!(first.hosts, ["a:80"]);
        assert!(first.hungry);

        let share = RateShare {
            number: 17,
            per_second: 20.0,
            in_flight: 3,
            hosts: vec!["a:80".into()],
            until_ms: boot_ms() + 60_000,
        };
        let text = serde_json::to_vec(&share).unwrap();
        replace(&folder.path().join(SHARE_FILE), &text).unwrap();
        until(|| said(folder.path()).filter(|said| said.taken == 17)).await;
        assert_eq!(in_flight.free(), 3);
        let start = std::time::Instant::now();
        for _ in 0..11 {
            pace.turn("a:80").await;
        }
        assert!(start.elapsed() >= Duration::from_millis(480));
        // Nobody asks for a while: its share may go to others.
        until(|| said(folder.path()).filter(|said| !said.hungry && said.used == 0.0)).await;
    }
}
