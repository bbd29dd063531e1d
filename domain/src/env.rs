//! What a daemon takes from the world around it that a simulation must be able to give instead: the
//! time and chance. The traits stand here since coordinator and worker share them; what asks the
//! real machine is theirs, since this crate does no I/O.
//!
//! Waiting is not here: both daemons wait with tokio's clock, which a simulation drives itself.

use std::cell::Cell;
use std::fmt::Debug;
use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

thread_local! {
    static IS_PLAYED: Cell<bool> = const { Cell::new(false) };
}

/// Declares this thread a simulation's: all daemons in it are played by this one thread, and what they do must
/// not depend on how fast the machine is. From now on they do no work in threads of their own, and judge
/// nothing by real time that their [`Clock`] and tokio's do not give them.
pub fn play() {
    // For this thread and not the process: tests of other threads of the same program go on in real
    // time.
    IS_PLAYED.set(true);
}

/// Whether this thread is a simulation's.
#[must_use]
pub fn is_played() -> bool {
    IS_PLAYED.get()
}

/// Where a daemon takes the time from.
pub trait Clock: Debug + Send + Sync {
    /// The time of day: for people, and for rows that outlive the process. It may jump either way,
    /// so no two readings are subtracted to see how much time has passed.
    fn now(&self) -> DateTime<Utc>;

    /// Time since a fixed moment of this clock's own. It never goes back and, other than the clock
    /// that measures sleeps, it goes on while the machine is suspended.
    fn monotonic(&self) -> Duration;

    /// Postgres' clock, where a simulation plays it: the real one then stands still, and whatever it would judge has
    /// to be told this one's. It is the same for all hosts, however wrong their own time of day.
    fn of_postgres(&self) -> Option<DateTime<Utc>> {
        None
    }
}

/// Where a daemon takes chance from.
pub trait Random: Debug + Send + Sync {
    /// A name that nobody else draws.
    fn uuid(&self) -> Uuid;

    /// A number from 0 up to, but not including, 1: to spread retries.
    fn unit(&self) -> f64 {
        // 53 bits are what an f64 holds exactly. The low half is taken, since a UUID's version stands
        // in the high one; the variant is in the two highest bits of this half, which are shifted out.
        let (_, low) = self.uuid().as_u64_pair();
        let bits = (low << 2) >> 11;
        #[allow(
            clippy::cast_precision_loss,
            reason = "53 bits fit an f64 without rounding"
        )]
        let fraction = bits as f64 / (1_u64 << 53) as f64;
        fraction
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Fixed(u64);

    impl Random for Fixed {
        fn uuid(&self) -> Uuid {
            uuid::Builder::from_random_bytes(Uuid::from_u64_pair(self.0, self.0).into_bytes())
                .into_uuid()
        }
    }

    #[test]
    fn a_fraction_reaches_from_0_to_just_below_1() {
        assert_eq!(Fixed(0).unit(), 0.0);
        let highest = Fixed(u64::MAX).unit();
        assert!(highest < 1.0 && highest > 0.999_999_999, "{highest}");
        let middle = Fixed(1 << 61).unit();
        assert!((middle - 0.5).abs() < 1e-9, "{middle}");
    }
}
