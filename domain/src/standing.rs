//! What was decided about a host, by an operator or by evidence: whether it is drained, and what of it is in quarantine.
//!
//! Invariant: a GPU that is known by its UUID keeps its quarantine whatever number it has, and nobody else gets it. Which
//! evidence was seen is kept beyond the quarantine, so that the same piece never brings a GPU back into one.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::evidence::{self, Evidence};
use crate::ids::JobId;
use crate::limits::HOST_GPUS_MAX;
use crate::resources::Inventory;

/// Maintenance windows of one host that are not over: each is looked at in every round.
pub const WINDOWS_MAX: usize = 50;

/// A piece of evidence that comes again and again is written down this often: it says nothing new, and each writing is a row
/// and a line of the audit.
pub const EVIDENCE_AGAIN_EVERY: TimeDelta = TimeDelta::minutes(10);
/// GPUs of one host of which it is kept what was seen of them last.
const SETTLED_MAX: usize = HOST_GPUS_MAX;

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
    pub gpus: BTreeMap<u32, GpuQuarantine>,
    /// GPUs, by UUID, that were in quarantine by evidence before.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub settled: BTreeMap<String, Settled>,
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

/// Why a GPU is not used. Versions before 0.2 read of it what a [`Decision`] has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuQuarantine {
    #[serde(flatten)]
    pub decision: Decision,
    /// Which GPU it is, whatever its number. None: the one of the number, as versions before 0.2 wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Evidence put it there, and nobody has decided about it since.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_automatic: bool,
    /// What speaks against it, at most [`evidence::EVIDENCE_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<Evidence>,
    /// When evidence came last, by the coordinator's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence_at: Option<DateTime<Utc>>,
    /// The newest burn-in job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burn_in: Option<BurnIn>,
}

/// A burn-in of a GPU that is in quarantine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BurnIn {
    pub job: JobId,
    pub at: DateTime<Utc>,
    /// The newest evidence that was known as it was submitted, by the worker's clock. What is newer came during it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence_until: Option<DateTime<Utc>>,
    /// Why the GPU stays in quarantine. None: the job has not ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// How a quarantine by evidence ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    /// The newest evidence that was seen, by the worker's clock: what is not newer says nothing new.
    pub evidence_until: DateTime<Utc>,
    /// When the quarantine ended, by the coordinator's clock.
    pub at: DateTime<Utc>,
    /// The burn-in that the GPU passed. None: somebody lifted the quarantine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burn_in: Option<JobId>,
}

/// What came of evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It says nothing that is not written down.
    Nothing,
    /// It stands beside what was there.
    Noted,
    /// It put the GPU into quarantine.
    Quarantined,
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

    /// The quarantine of a GPU, with the number by which it is written down. `uuid` is empty where nobody knows it.
    #[must_use]
    pub fn quarantine_of(&self, index: u32, uuid: &str) -> Option<(u32, &GpuQuarantine)> {
        let by_number = self.gpus.get(&index).filter(|of| of.may_be(uuid));
        let by_uuid = || {
            let mut all = self.gpus.iter();
            all.find(|(_, of)| !uuid.is_empty() && of.uuid.as_deref() == Some(uuid))
        };
        by_number
            .map(|of| (index, of))
            .or_else(|| by_uuid().map(|(index, of)| (*index, of)))
    }

    /// Why a GPU is not used, in words; None: it is.
    #[must_use]
    pub fn gpu(&self, index: u32, uuid: &str) -> Option<String> {
        Some(self.quarantine_of(index, uuid)?.1.words())
    }

    /// Puts a GPU into quarantine by hand. One that is there by evidence keeps that.
    pub fn quarantine_gpu(&mut self, index: u32, uuid: Option<&str>, decision: Decision) {
        let before = self
            .quarantine_of(index, uuid.unwrap_or_default())
            .map(|(number, _)| number);
        if let Some(of) = before.and_then(|number| self.gpus.get_mut(&number)) {
            of.decision = decision;
            of.is_automatic = false;
            return;
        }
        self.make_room(index);
        let new = GpuQuarantine {
            decision,
            uuid: uuid.map(str::to_owned),
            is_automatic: false,
            evidence: Vec::new(),
            evidence_at: None,
            burn_in: None,
        };
        self.gpus.insert(index, new);
    }

    /// Ends the quarantine of a GPU: by hand, or by the burn-in that it passed. What is known to speak against it is not
    /// held against it again; `seen` is the newest evidence that its worker has told of, by the worker's clock.
    pub fn lift_gpu(
        &mut self,
        (index, uuid): (u32, &str),
        seen: Option<DateTime<Utc>>,
        burn_in: Option<JobId>,
        now: DateTime<Utc>,
    ) {
        let Some((number, _)) = self.quarantine_of(index, uuid) else {
            return;
        };
        let Some(of) = self.gpus.remove(&number) else {
            return;
        };
        let newest = of.newest_evidence().max(seen);
        if let (Some(uuid), Some(evidence_until)) = (of.uuid, newest) {
            let settled = Settled {
                evidence_until,
                at: now,
                burn_in,
            };
            self.settled.insert(uuid, settled);
        }
        while self.settled.len() > SETTLED_MAX {
            let oldest = self.settled.iter().min_by_key(|(_, settled)| settled.at);
            let Some(oldest) = oldest.map(|(uuid, _)| uuid.clone()) else {
                break;
            };
            self.settled.remove(&oldest);
        }
    }

    /// Takes in what speaks against a GPU. Evidence that is known, or that is not newer than the end of an earlier
    /// quarantine, changes nothing; a piece that comes again is written down now and then.
    pub fn take_evidence(
        &mut self,
        (index, uuid): (u32, &str),
        found: &[Evidence],
        by: &str,
        now: DateTime<Utc>,
    ) -> Taken {
        if uuid.is_empty() {
            return Taken::Nothing;
        }
        let settled = self.settled.get(uuid).map(|settled| settled.evidence_until);
        let new: Vec<&Evidence> = found
            .iter()
            .filter(|piece| settled.is_none_or(|until| piece.last_at > until))
            .take(evidence::EVIDENCE_MAX)
            .collect();
        if new.is_empty() {
            return Taken::Nothing;
        }
        let before = self.quarantine_of(index, uuid).map(|(number, _)| number);
        if let Some(of) = before.and_then(|number| self.gpus.get_mut(&number)) {
            return of.add_evidence(uuid, &new, now);
        }
        self.make_room(index);
        let words: Vec<String> = new.iter().map(|piece| piece.words()).collect();
        let quarantine = GpuQuarantine {
            decision: Decision {
                by: by.to_owned(),
                at: now,
                // For versions that do not know of evidence.
                reason: words.join("; "),
            },
            uuid: Some(uuid.to_owned()),
            is_automatic: true,
            evidence: new.into_iter().cloned().collect(),
            evidence_at: Some(now),
            burn_in: None,
        };
        self.gpus.insert(index, quarantine);
        Taken::Quarantined
    }

    /// Gives each quarantine the number that its GPU has now: a reset of the driver, or a card that is gone, numbers the
    /// others anew. Whether anything changed.
    pub fn renumber(&mut self, inventory: &Inventory) -> bool {
        let uuid_at = |index: u32| {
            let mut gpus = inventory.gpus.iter();
            gpus.find(|gpu| gpu.index == index).map(|gpu| &gpu.uuid)
        };
        let number_now = |uuid: &String| {
            let mut gpus = inventory.gpus.iter();
            gpus.find(|gpu| gpu.uuid == *uuid).map(|gpu| gpu.index)
        };
        // Of shares several have one UUID: where the number fits, it stays.
        let is_misplaced = |(index, of): &(&u32, &GpuQuarantine)| {
            let Some(uuid) = &of.uuid else { return false };
            uuid_at(**index) != Some(uuid)
                && (uuid_at(**index).is_some() || number_now(uuid).is_some())
        };
        let misplaced: Vec<u32> = self
            .gpus
            .iter()
            .filter(is_misplaced)
            .map(|(index, _)| *index)
            .collect();
        let moved: Vec<GpuQuarantine> = misplaced
            .iter()
            .filter_map(|index| self.gpus.remove(index))
            .collect();
        let mut has_changed = false;
        for (before, of) in misplaced.into_iter().zip(moved) {
            let now = of.uuid.as_ref().and_then(number_now);
            let number = now.filter(|number| !self.gpus.contains_key(number));
            // One that is gone for the time being waits where nobody is.
            let number = number.or_else(|| self.free_number()).unwrap_or(before);
            has_changed |= number != before;
            self.gpus.insert(number, of);
        }
        has_changed
    }

    /// Moves a quarantine of another GPU away from a number that is wanted.
    fn make_room(&mut self, index: u32) {
        let Some(other) = self.gpus.remove(&index) else {
            return;
        };
        if let Some(number) = self.free_number() {
            self.gpus.insert(number, other);
        }
    }

    /// A number that no quarantine has: the highest that a GPU can have, so that it is one that a request may name.
    fn free_number(&self) -> Option<u32> {
        let possible = u32::try_from(HOST_GPUS_MAX).unwrap_or(u32::MAX);
        let mut numbers = (0..possible).rev().chain(possible..u32::MAX);
        numbers.find(|number| !self.gpus.contains_key(number))
    }
}

impl GpuQuarantine {
    /// Whether it is about the GPU of this UUID, as far as anybody knows.
    fn may_be(&self, uuid: &str) -> bool {
        let own = self.uuid.as_deref();
        uuid.is_empty() || own.is_none_or(|own| own == uuid)
    }

    fn add_evidence(&mut self, uuid: &str, new: &[&Evidence], now: DateTime<Utc>) -> Taken {
        let is_due = self
            .evidence_at
            .is_none_or(|at| now - at >= EVIDENCE_AGAIN_EVERY);
        let mut taken = Taken::Nothing;
        for piece in new {
            match self.evidence.iter_mut().find(|known| known.is_like(piece)) {
                Some(known) if piece.last_at > known.last_at && is_due => {
                    known.clone_from(piece);
                    taken = Taken::Noted;
                }
                Some(_) => {}
                None => {
                    evidence::add(&mut self.evidence, (*piece).clone());
                    taken = Taken::Noted;
                }
            }
        }
        if taken == Taken::Noted {
            self.evidence_at = Some(now);
            // By hand it was given a number alone; from now on it is this GPU's.
            self.uuid.get_or_insert_with(|| uuid.to_owned());
        }
        taken
    }

    /// When the newest of its evidence was seen, by the worker's clock.
    #[must_use]
    pub fn newest_evidence(&self) -> Option<DateTime<Utc>> {
        self.evidence.iter().map(|piece| piece.last_at).max()
    }

    /// The burn-in that has not ended.
    #[must_use]
    pub fn burn_in_at_work(&self) -> Option<&BurnIn> {
        self.burn_in
            .as_ref()
            .filter(|burn_in| burn_in.failure.is_none())
    }

    /// "in quarantine since 2027-01-15 08:00 UTC: Xid 79 (...), last at ...; burn-in job 17 failed: ...".
    #[must_use]
    pub fn words(&self) -> String {
        let since = self.decision.at.format("%Y-%m-%d %H:%M");
        let mut text = format!("in quarantine since {since} UTC");
        // Made of the evidence, it would say that twice, and as it was at first.
        let is_said_below = self.is_automatic && !self.evidence.is_empty();
        let reason =
            Some(&self.decision.reason).filter(|reason| !reason.is_empty() && !is_said_below);
        let evidence = self.evidence.iter().map(Evidence::words);
        let why: Vec<String> = reason.cloned().into_iter().chain(evidence).collect();
        if !why.is_empty() {
            text = format!("{text}: {}", why.join("; "));
        }
        match &self.burn_in {
            None => text,
            Some(BurnIn { job, failure, .. }) => match failure {
                None => format!("{text}; burn-in job {job} is under way"),
                Some(failure) => format!("{text}; burn-in job {job}: {failure}"),
            },
        }
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
            gpus: BTreeMap::new(),
            settled: BTreeMap::new(),
            windows: Vec::new(),
        };
        let mut standing = standing;
        standing.quarantine_gpu(3, None, decision("fan is loud"));
        assert_eq!(
            standing.closed().unwrap(),
            "is drained since 2027-01-15 08:00 UTC; what runs at 2027-01-15 09:00 UTC is moved"
        );
        assert_eq!(
            standing.gpu(3, "GPU-d").unwrap(),
            "in quarantine since 2027-01-15 08:00 UTC: fan is loud"
        );
        assert_eq!(standing.gpu(0, "GPU-a"), None);
        let stored = serde_json::to_value(&standing).unwrap();
        assert_eq!(
            serde_json::from_value::<Standing>(stored).unwrap(),
            standing
        );
    }

    const GPU: (u32, &str) = (1, "GPU-b");

    fn at(minute: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + 60 * minute, 0).unwrap()
    }

    fn xid(code: u64, minute: i64) -> Evidence {
        Evidence {
            kind: evidence::EvidenceKind::Xid,
            code,
            first_at: at(minute),
            last_at: at(minute),
            count: 1,
            text: String::new(),
        }
    }

    fn inventory(uuids: &[&str]) -> Inventory {
        let gpus = (0..)
            .zip(uuids)
            .map(|(index, uuid)| crate::resources::GpuInfo {
                index,
                uuid: (*uuid).to_owned(),
                name: "NVIDIA H200".into(),
                memory_bytes: 141 << 30,
                compute_capability: (9, 0),
                part: None,
            });
        Inventory {
            hostname: "h".into(),
            cpu_threads: 1,
            memory_bytes: 1,
            cpu_slots: 0,
            threads_per_slot: 1,
            gpus: gpus.collect(),
            address: "h".into(),
            flavour: String::new(),
            labels: std::collections::BTreeSet::new(),
        }
    }

    #[test]
    fn evidence_puts_a_gpu_away_once_and_the_same_again_is_written_down_rarely() {
        let mut standing = Standing::default();
        let mut writes = 0;
        // A GPU that throws the same error every second for an hour.
        for second in 0..3_600 {
            let now = at(0) + TimeDelta::seconds(second);
            let piece = Evidence {
                last_at: now,
                count: u64::try_from(second).unwrap() + 1,
                ..xid(79, 0)
            };
            match standing.take_evidence(GPU, &[piece], "worker w1", now) {
                Taken::Nothing => {}
                Taken::Noted | Taken::Quarantined => writes += 1,
            }
        }
        assert_eq!(writes, 6, "one every ten minutes");
        assert_eq!(standing.gpus.len(), 1);
        let words = standing.gpu(1, "GPU-b").unwrap();
        assert!(
            words.starts_with("in quarantine since 2027-01-15 08:00 UTC: Xid 79 (the GPU has fallen off the bus), 3"),
            "{words}"
        );
        assert_eq!(words.matches("Xid 79").count(), 1, "{words}");
        // Another error is new at once.
        let taken = standing.take_evidence(GPU, &[xid(48, 61)], "worker w1", at(61));
        assert_eq!(taken, Taken::Noted);
        assert!(standing.gpu(1, "GPU-b").unwrap().contains("Xid 48"));
        let stored = serde_json::to_value(&standing).unwrap();
        assert_eq!(
            serde_json::from_value::<Standing>(stored).unwrap(),
            standing
        );
    }

    #[test]
    fn what_ended_a_quarantine_is_not_held_against_the_gpu_again() {
        let mut standing = Standing::default();
        let seen = [xid(79, 0)];
        let take = |standing: &mut Standing, found: &[Evidence], minute| {
            standing.take_evidence(GPU, found, "worker w1", at(minute))
        };
        assert_eq!(take(&mut standing, &seen, 0), Taken::Quarantined);
        // It came again a minute ago, which is not written down yet.
        standing.lift_gpu(GPU, Some(at(4)), Some(JobId(17)), at(5));
        assert!(standing.gpus.is_empty());
        assert_eq!(standing.settled["GPU-b"].burn_in, Some(JobId(17)));
        // The worker goes on saying what it saw, also after it was started again.
        assert_eq!(take(&mut standing, &seen, 6), Taken::Nothing);
        assert_eq!(take(&mut standing, &[xid(79, 4)], 6), Taken::Nothing);
        assert_eq!(take(&mut standing, &[xid(79, 7)], 7), Taken::Quarantined);
        // Another GPU that takes the number over is not meant.
        assert_eq!(standing.gpu(1, "GPU-z"), None);
    }

    #[test]
    fn a_quarantine_goes_with_its_gpu_when_the_driver_numbers_them_anew() {
        let mut standing = Standing::default();
        standing.take_evidence(GPU, &[xid(79, 0)], "worker w1", at(0));
        standing.quarantine_gpu(2, Some("GPU-c"), decision("fan is loud"));
        standing.quarantine_gpu(3, None, decision("as versions before wrote it"));
        // "a" is gone: all others have moved up.
        let now = inventory(&["GPU-b", "GPU-c", "GPU-d"]);
        assert!(standing.gpu(0, "GPU-b").unwrap().contains("Xid 79"));
        assert_eq!(standing.gpu(2, "GPU-d"), None);
        assert!(standing.renumber(&now));
        assert_eq!(standing.gpus.keys().copied().collect::<Vec<_>>(), [0, 1, 3]);
        assert!(standing.gpus[&0].evidence.len() == 1 && standing.gpus[&1].evidence.is_empty());
        assert!(!standing.renumber(&now), "once");
        // "b" is gone now, and its number is another one's.
        let now = inventory(&["GPU-a", "GPU-c", "GPU-d"]);
        assert!(standing.renumber(&now));
        assert_eq!(standing.gpu(0, "GPU-a"), None);
        assert!(standing.gpu(0, "GPU-b").is_some());
        assert_eq!(standing.gpus.len(), 3);
        assert!(!standing.renumber(&now));
        // It is back.
        let now = inventory(&["GPU-a", "GPU-b", "GPU-c", "GPU-d"]);
        assert!(standing.renumber(&now));
        assert_eq!(standing.gpus[&1].uuid.as_deref(), Some("GPU-b"));
    }

    #[test]
    fn a_version_that_knows_no_evidence_reads_a_quarantine_with_its_reason() {
        #[derive(Deserialize)]
        struct Before {
            gpus: BTreeMap<u32, Decision>,
        }
        let mut standing = Standing::default();
        standing.take_evidence(GPU, &[xid(48, 0)], "worker w1", at(0));
        let stored = serde_json::to_value(&standing).unwrap();
        let before: Before = serde_json::from_value(stored).unwrap();
        assert!(
            before.gpus[&1]
                .reason
                .starts_with("Xid 48 (uncorrectable ECC error)")
        );
        // What it writes back has lost the evidence, and the GPU stays where it is.
        let back = serde_json::json!({ "gpus": before.gpus });
        let standing: Standing = serde_json::from_value(back).unwrap();
        assert!(standing.gpu(1, "GPU-b").unwrap().contains("Xid 48"));
    }

    #[test]
    fn a_burn_in_that_failed_is_told_with_the_quarantine() {
        let mut standing = Standing::default();
        standing.take_evidence(GPU, &[xid(48, 0)], "worker w1", at(0));
        let of = standing.gpus.get_mut(&1).unwrap();
        let (job, at) = (JobId(17), at(1));
        let burn_in = |failure: Option<&str>| BurnIn {
            job,
            at,
            evidence_until: None,
            failure: failure.map(str::to_owned),
        };
        of.burn_in = Some(burn_in(None));
        assert!(of.burn_in_at_work().is_some());
        assert!(of.words().ends_with("burn-in job 17 is under way"));
        of.burn_in = Some(burn_in(Some("3 of 500 products differ")));
        assert!(of.burn_in_at_work().is_none());
        assert!(
            of.words()
                .ends_with("; burn-in job 17: 3 of 500 products differ")
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
