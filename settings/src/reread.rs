//! Settings that were read anew while the daemon runs: which of them are in force now, and which wait for a restart.

use crate::Setting;

/// What another reading of the settings found changed, by key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reread {
    /// In force from now on.
    pub in_force: Vec<&'static str>,
    /// Written, and in force only after a restart.
    pub after_restart: Vec<&'static str>,
}

impl Reread {
    /// Compares what is in force with what was read now, and takes over the keys of `live`. Others stay as they are: the
    /// listing says what is in force.
    #[must_use]
    pub fn take(in_force: &mut [Setting], now: Vec<Setting>, live: &[&str]) -> Self {
        let mut changed = Self::default();
        // Both listings have the program's keys in the program's order (`Values::listing`).
        for (before, now) in in_force.iter_mut().zip(now) {
            if live.contains(&before.key) {
                if before.value != now.value {
                    changed.in_force.push(before.key);
                }
                // Where it was written may be new, too.
                *before = now;
            } else if before.value != now.value {
                changed.after_restart.push(before.key);
            }
        }
        changed
    }

    /// For a log: what came of it.
    #[must_use]
    pub fn text(&self) -> String {
        let list = |keys: &[&str]| keys.join(", ");
        match (self.in_force.is_empty(), self.after_restart.is_empty()) {
            (true, true) => "the settings are as they were".to_owned(),
            (false, true) => format!("in force now: {}", list(&self.in_force)),
            (true, false) => format!(
                "nothing is in force yet: {} wait for a restart",
                list(&self.after_restart)
            ),
            (false, false) => format!(
                "in force now: {}; these wait for a restart: {}",
                list(&self.in_force),
                list(&self.after_restart)
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(values: [Option<&str>; 3]) -> Vec<Setting> {
        let keys = ["listen", "access.group", "access.accounts"];
        let setting = |(key, value): (&'static str, Option<&str>)| Setting {
            key,
            value: value.map(str::to_owned),
            origin: value.map_or("default", |_| "file").to_owned(),
        };
        keys.into_iter().zip(values).map(setting).collect()
    }

    #[test]
    fn what_can_be_is_taken_over_and_the_rest_is_named() {
        let live = ["access.group", "access.accounts"];
        let mut in_force = listing([Some("a"), None, Some("x")]);
        let same = Reread::take(&mut in_force, listing([Some("a"), None, Some("x")]), &live);
        assert_eq!(same, Reread::default());
        assert_eq!(same.text(), "the settings are as they were");

        let now = listing([Some("b"), Some("staff"), Some("x")]);
        let changed = Reread::take(&mut in_force, now, &live);
        assert_eq!(
            changed.text(),
            "in force now: access.group; these wait for a restart: listen"
        );
        // The listing has what is in force: what waits is told again the next time.
        assert_eq!(in_force[0].value.as_deref(), Some("a"));
        assert_eq!(in_force[1].value.as_deref(), Some("staff"));
        assert_eq!(in_force[1].origin, "file");
        let now = listing([Some("b"), None, Some("x")]);
        let changed = Reread::take(&mut in_force, now, &live);
        assert_eq!(changed.after_restart, ["listen"]);
        assert_eq!(changed.in_force, ["access.group"]);
    }
}
