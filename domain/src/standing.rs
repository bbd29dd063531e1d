//! What an operator decided about a host: whether it is drained, and what of it is in quarantine.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// Maintenance windows of one host that are not over: each is looked at in every round.
pub const WINDOWS_MAX: usize = 50;

/// A host's standing. What says nothing is a host that takes work.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Standing {
    /// It takes no new work. None: it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain: Option<Drain>,
    /// Nothing of it is used. None: all that is well is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quarantine: Option<Decision>,
    /// GPUs, by index, that are not used.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub gpus: BTreeMap<u32, Decision>,
    /// Times at which it is to be empty, the earliest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<Window>,
}

/// Who decided, when, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    pub by: String,
    pub at: DateTime<Utc>,
    /// In the operator's words; empty: none were given.
    #[serde(default)]
    pub reason: String,
}

/// A host that is being emptied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    #[serde(flatten)]
    pub decision: Decision,
    /// What runs by then is checkpointed and moved. None: it may finish.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<DateTime<Utc>>,
}

/// A time at which a host is to be empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// What it is named by, among those of its host.
    pub number: u32,
    #[serde(flatten)]
    pub decision: Decision,
    pub from: DateTime<Utc>,
    /// After `from`.
    pub until: DateTime<Utc>,
}

impl Window {
    /// Whether the host is to be empty now.
    #[must_use]
    pub fn is_in_force(&self, now: DateTime<Utc>) -> bool {
        self.from <= now && now < self.until
    }

    /// "has maintenance window 2 from 2027-01-15 08:00 to 2027-01-15 10:00 UTC, set by local: new power supply"; to be
    /// read after the host's name.
    #[must_use]
    pub fn words(&self, now: DateTime<Utc>) -> String {
        let clock = |at: DateTime<Utc>| at.format("%Y-%m-%d %H:%M").to_string();
        let (from, until) = (clock(self.from), clock(self.until));
        let number = self.number;
        let when = if self.is_in_force(now) {
            format!("is in maintenance window {number} until {until} UTC")
        } else {
            format!("has maintenance window {number} from {from} to {until} UTC")
        };
        let Decision { by, reason, .. } = &self.decision;
        match reason.as_str() {
            "" => format!("{when}, set by {by}"),
            reason => format!("{when}, set by {by}: {reason}"),
        }
    }
}

impl Standing {
    /// The window that is in force or comes next.
    #[must_use]
    pub fn window(&self, now: DateTime<Utc>) -> Option<&Window> {
        self.windows.iter().find(|window| window.until > now)
    }

    /// Adds a window, unless there is one at these very times, and forgets those that are over.
    ///
    /// # Errors
    /// Why there is no room for it.
    pub fn add_window(
        &mut self,
        decision: Decision,
        (from, until): (DateTime<Utc>, DateTime<Utc>),
    ) -> Result<(), String> {
        // Those that are over make room first, and hold up no new one.
        self.windows.retain(|window| window.until > decision.at);
        if self
            .windows
            .iter()
            .any(|window| (window.from, window.until) == (from, until))
        {
            return Ok(());
        }
        if self.windows.len() >= WINDOWS_MAX {
            return Err(format!(
                "it has {WINDOWS_MAX} maintenance windows, the most that fit; remove some first"
            ));
        }
        let numbers = self.windows.iter().map(|window| window.number);
        let window = Window {
            // Above all that are there: a number that was told to somebody must not come to mean
            // another window meanwhile.
            number: numbers.max().unwrap_or_default().saturating_add(1),
            decision,
            from,
            until,
        };
        self.windows.push(window);
        self.windows
            // In order of time, which `window` relies on: the first that is not over is the next.
            .sort_by_key(|window| (window.from, window.number));
        Ok(())
    }

    /// Why the host takes no new work, in words; None: it does.
    #[must_use]
    pub fn closed(&self) -> Option<String> {
        // The stricter of the two is what is told: to end a drain would open nothing.
        if let Some(decision) = &self.quarantine {
            return Some(format!("is in quarantine{}", decision.words()));
        }
        let drain = self.drain.as_ref()?;
        let until = match drain.deadline {
            Some(at) => format!(
                "; what runs at {} UTC is moved",
                at.format("%Y-%m-%d %H:%M")
            ),
            None => String::new(),
        };
        Some(format!("is drained{}{until}", drain.decision.words()))
    }

    /// Why a GPU is not used, in words; None: it is.
    #[must_use]
    pub fn gpu(&self, index: u32) -> Option<String> {
        let decision = self.gpus.get(&index)?;
        Some(format!("in quarantine{}", decision.words()))
    }
}

impl Decision {
    /// " since 2027-01-15 08:00 UTC: fan is loud".
    fn words(&self) -> String {
        let since = self.at.format("%Y-%m-%d %H:%M");
        match self.reason.as_str() {
            "" => format!(" since {since} UTC"),
            reason => format!(" since {since} UTC: {reason}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decision(reason: &str) -> Decision {
        Decision {
            by: "local".into(),
            at: "2027-01-15T08:00:00Z".parse().unwrap(),
            reason: reason.into(),
        }
    }

    #[test]
    fn a_standing_says_why_and_is_read_as_it_was_stored() {
        assert_eq!(Standing::default().closed(), None);
        let empty: Standing = serde_json::from_str("{}").unwrap();
        assert_eq!(empty, Standing::default());
        let standing = Standing {
            drain: Some(Drain {
                decision: decision(""),
                deadline: Some("2027-01-15T09:00:00Z".parse().unwrap()),
            }),
            quarantine: None,
            gpus: BTreeMap::from([(3, decision("fan is loud"))]),
            windows: Vec::new(),
        };
        assert_eq!(
            standing.closed().unwrap(),
            "is drained since 2027-01-15 08:00 UTC; what runs at 2027-01-15 09:00 UTC is moved"
        );
        assert_eq!(
            standing.gpu(3).unwrap(),
            "in quarantine since 2027-01-15 08:00 UTC: fan is loud"
        );
        assert_eq!(standing.gpu(0), None);
        let stored = serde_json::to_value(&standing).unwrap();
        assert_eq!(
            serde_json::from_value::<Standing>(stored).unwrap(),
            standing
        );
    }

    #[test]
    fn windows_stand_in_order_and_those_that_are_over_are_forgotten() {
        let at = |hour: u32| {
            let text = format!("2027-01-15T{hour:02}:00:00Z");
            text.parse::<DateTime<Utc>>().unwrap()
        };
        let mut standing = Standing::default();
        let mut add = |from, until| {
            let decision = decision("new power supply");
            standing
                .add_window(decision, (at(from), at(until)))
                .unwrap();
        };
        add(12, 14);
        add(9, 10);
        add(1, 2);
        // The third one was over before it was set, and the next one has its number.
        add(13, 15);
        let numbers: Vec<u32> = standing
            .windows
            .iter()
            .map(|window| window.number)
            .collect();
        assert_eq!(numbers, [2, 1, 3]);
        let said = |now| standing.window(at(now)).map(|window| window.words(at(now)));
        assert_eq!(
            said(8).unwrap(),
            "has maintenance window 2 from 2027-01-15 09:00 to 2027-01-15 10:00 UTC, set by local: new power supply"
        );
        assert!(
            said(9)
                .unwrap()
                .starts_with("is in maintenance window 2 until 2027-01-15 10:00 UTC")
        );
        // Of two at once the one that began first.
        assert!(said(13).unwrap().starts_with("is in maintenance window 1"));
        assert!(said(14).unwrap().starts_with("is in maintenance window 3"));
        assert_eq!(said(15), None);
        let stored = serde_json::to_value(&standing).unwrap();
        assert_eq!(
            serde_json::from_value::<Standing>(stored).unwrap(),
            standing
        );

        // Sent once more, it is there once.
        standing.add_window(decision(""), (at(9), at(10))).unwrap();
        assert_eq!(standing.windows.len(), 3);
        let until =
            |minute: usize| at(20) + chrono::TimeDelta::minutes(i64::try_from(minute).unwrap());
        for minute in standing.windows.len()..WINDOWS_MAX {
            standing
                .add_window(decision(""), (at(20), until(minute)))
                .unwrap();
        }
        let full = standing.add_window(decision(""), (at(20), until(99)));
        assert!(full.unwrap_err().contains("50 maintenance windows"));
    }
}
