//! Which bugs of [`marquee_domain::planted`] no world can find.

/// Those whose harm a second guard keeps out, with that guard. What each refuses itself is tried by tests of its own.
const KEPT_OUT: [(&str, &str); 1] = [(
    "lower-epoch-followed",
    "the write under the fence with which each session begins, before Welcome; \
     what the worker refuses itself is tried by worker/tests/worker/leaders.rs",
)];

/// The guard that keeps this bug's harm out.
#[must_use]
pub fn kept_out_by(name: &str) -> Option<&'static str> {
    let mut kept_out = KEPT_OUT.iter();
    let found = kept_out.find(|(bug, _)| *bug == name);
    found.map(|(_, guard)| *guard)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_out_is_a_bug_that_there_is() {
        for (name, _) in KEPT_OUT {
            assert!(marquee_domain::planted::NAMES.contains(&name), "{name}");
            assert!(kept_out_by(name).is_some());
        }
        assert_eq!(kept_out_by("verdict-at-once"), None);
    }
}
