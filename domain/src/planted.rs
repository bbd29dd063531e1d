//! Bugs on purpose: each is what a guard of ours keeps out, put back by name in a build with the feature `planted`,
//! so that the simulation can show that it would be found. No other build has any of them.

/// What there is. The names are those of the places that ask for them.
pub const NAMES: [&str; 15] = [
    // No hold-off of one lease after a start, an outage of Postgres or a pause.
    "verdict-at-once",
    // A rank is given again with each look at it until its worker is heard to hold it, and the worker takes it as a new
    // one each time. Neither does harm without the other: two guards, and both are gone.
    "assignment-taken-twice",
    // A rank whose attempt has ended or was replaced is not stopped: a gang's survivors live on.
    "old-attempts-kept",
    // A rank that a live attempt has lost, as with its host's power, is never noticed.
    "absent-rank-ignored",
    // A device is free as soon as its rank is told to stop.
    "free-when-told",
    // Reports are acknowledged though their transaction may not be committed.
    "acknowledged-before-commit",
    // A retry by hand makes an attempt with the number of the one before.
    "attempt-number-again",
    // A submission that is sent again is stored again.
    "submit-without-request-id",
    // Jobs that wait for one that succeeded are queued in a transaction of their own.
    "dependents-apart",
    // The ranks of a cancelled job are not told.
    "cancel-not-sent",
    // A child that does not leave within its grace is not killed.
    "no-kill-after-grace",
    // A daemon does not look for the children of the one before it.
    "children-not-adopted",
    // A coordinator that does not lead any more writes on.
    "epoch-unchecked",
    // A worker follows a coordinator that another one has taken over from.
    "lower-epoch-followed",
    // What a daemon held before its host's restart counts as if it still ran.
    "boot-not-compared",
];

#[cfg(feature = "planted")]
static CHOSEN: std::sync::OnceLock<String> = std::sync::OnceLock::new();

/// Plants a bug in this process. The first one counts.
#[cfg(feature = "planted")]
pub fn plant(name: String) {
    let _ = CHOSEN.set(name);
}

/// Whether this bug is planted.
#[cfg(feature = "planted")]
#[must_use]
pub fn is(name: &str) -> bool {
    debug_assert!(NAMES.contains(&name), "{name}");
    CHOSEN.get().is_some_and(|chosen| chosen == name)
}
