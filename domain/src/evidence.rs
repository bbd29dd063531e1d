//! What speaks against a GPU: seen by its worker, kept with its quarantine, shown to whoever looks at it.
//!
//! What an Xid means for the device it names stands in one table ([`XIDS`]), which `docs/gpu-health.md` repeats.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// Pieces of evidence kept of one GPU: one of each kind and code. More would say nothing new to who decides about it.
pub const EVIDENCE_MAX: usize = 8;
/// Bytes of the words of one piece: a line of the kernel's log.
pub const EVIDENCE_TEXT_MAX_BYTES: usize = 300;

/// Where a piece of evidence comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EvidenceKind {
    /// The driver reported an Xid error.
    Xid,
    /// An error in its memory that ECC could not correct.
    Ecc,
    /// Rows of its memory that wait to be remapped, pages that wait to be retired, or a remap that failed.
    Memory,
    /// It did not answer, or was not there any more.
    Vanished,
    /// Ranks of several jobs failed on it with a device fault, one after the other.
    DeviceFaults,
}

impl EvidenceKind {
    pub const ALL: [Self; 5] = [
        Self::Xid,
        Self::Ecc,
        Self::Memory,
        Self::Vanished,
        Self::DeviceFaults,
    ];

    /// The word used on the wire, in JSON and as a label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Xid => "xid",
            Self::Ecc => "ecc",
            Self::Memory => "memory",
            Self::Vanished => "vanished",
            Self::DeviceFaults => "device_faults",
        }
    }

    /// The kind that a word names.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

/// A piece of evidence: what, how often, from when to when. Times are of the clock of who saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    pub kind: EvidenceKind,
    /// Of an Xid: its number; else 0.
    #[serde(default)]
    pub code: u64,
    pub first_at: DateTime<Utc>,
    /// Of one GPU and one worker it grows with each piece that is new.
    pub last_at: DateTime<Utc>,
    /// How often it was seen.
    pub count: u64,
    /// What was seen last, in words.
    pub text: String,
}

impl Evidence {
    /// "Xid 79 (the GPU has fallen off the bus), 3 times, last at 2027-01-15 08:10 UTC: NVRM: Xid ...".
    #[must_use]
    pub fn words(&self) -> String {
        let what = match self.kind {
            EvidenceKind::Xid => match xid(self.code) {
                Some(Xid { meaning, .. }) => format!("Xid {} ({meaning})", self.code),
                None => format!("Xid {}", self.code),
            },
            EvidenceKind::Ecc => "uncorrectable ECC errors".to_owned(),
            EvidenceKind::Memory => "damaged memory".to_owned(),
            EvidenceKind::Vanished => "vanished".to_owned(),
            EvidenceKind::DeviceFaults => "device faults".to_owned(),
        };
        let often = match self.count {
            0 | 1 => String::new(),
            count => format!(", {count} times"),
        };
        let last = self.last_at.format("%Y-%m-%d %H:%M");
        match self.text.as_str() {
            "" => format!("{what}{often}, last at {last} UTC"),
            text => format!("{what}{often}, last at {last} UTC: {text}"),
        }
    }

    /// Whether both speak of the same thing.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        (self.kind, self.code) == (other.kind, other.code)
    }
}

/// Adds a piece to those that are kept: to the one that is like it, or in the place of the oldest where there are too
/// many.
pub fn add(kept: &mut Vec<Evidence>, new: Evidence) {
    if let Some(like) = kept.iter_mut().find(|like| like.is_like(&new)) {
        like.last_at = new.last_at.max(like.last_at);
        like.count = like.count.saturating_add(new.count);
        like.text = new.text;
        return;
    }
    if kept.len() >= EVIDENCE_MAX {
        let oldest = (0..kept.len()).min_by_key(|at| kept[*at].last_at);
        oldest.map(|at| kept.remove(at));
    }
    kept.push(new);
}

/// The words of a piece as they may be kept: no line breaks, and not too long.
#[must_use]
pub fn clean(text: &str) -> String {
    let mut text: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    text.truncate(text.floor_char_boundary(EVIDENCE_TEXT_MAX_BYTES));
    text
}

/// What follows from an Xid for the device that it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follows {
    /// Quarantine: the device, or its memory, is broken until it was reset and has passed a test.
    Quarantine,
    /// It takes no new ranks for a while: a program, or another device, may have caused it.
    Hold,
}

impl Follows {
    /// In one word, for the documents.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Quarantine => "quarantine",
            Self::Hold => "hold",
        }
    }
}

/// A row of [`XIDS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Xid {
    pub code: u64,
    pub meaning: &'static str,
    pub follows: Follows,
}

const fn row(code: u64, meaning: &'static str, follows: Follows) -> Xid {
    Xid {
        code,
        meaning,
        follows,
    }
}

/// The Xids that say something about the device. All others, such as 13, 31, 43, 45 and 69, are a program's own: the
/// next one finds the device as good as new.
///
/// Source: NVIDIA, "Xid Errors", <https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html>, column
/// "Resolution Bucket (Immediate Action)". In quarantine are those whose bucket is a reset of the GPU, a restart of the
/// host or the workflow for uncorrectable ECC errors (48). Of these, the ones that a program (109, 110) or the other end of a link
/// (74) may cause only hold the device. 63 and 94 are left out: what they leave behind is read from NVML (rows that wait to be
/// remapped, uncorrectable errors).
pub const XIDS: [Xid; 14] = [
    row(46, "the GPU stopped processing", Follows::Quarantine),
    row(48, "uncorrectable ECC error", Follows::Quarantine),
    row(62, "its micro-controller halted", Follows::Quarantine),
    row(64, "memory could not be remapped", Follows::Quarantine),
    row(74, "NVLink error", Follows::Hold),
    row(79, "the GPU has fallen off the bus", Follows::Quarantine),
    row(95, "uncontained ECC error", Follows::Quarantine),
    row(109, "time-out of a context switch", Follows::Hold),
    row(110, "security fault", Follows::Hold),
    row(
        119,
        "its system processor does not answer",
        Follows::Quarantine,
    ),
    row(120, "error of its system processor", Follows::Quarantine),
    row(140, "unrecovered ECC error", Follows::Quarantine),
    row(143, "the GPU could not be initialised", Follows::Quarantine),
    row(158, "fatal time-out", Follows::Quarantine),
];

/// What is known of an Xid; None: it says nothing about the device.
#[must_use]
pub fn xid(code: u64) -> Option<Xid> {
    XIDS.into_iter().find(|xid| xid.code == code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(code: u64, second: i64) -> Evidence {
        let at = DateTime::from_timestamp(1_800_000_000 + second, 0).unwrap();
        Evidence {
            kind: EvidenceKind::Xid,
            code,
            first_at: at,
            last_at: at,
            count: 1,
            text: format!("at {second}"),
        }
    }

    #[test]
    fn a_storm_of_one_error_is_one_piece_with_its_count() {
        let mut kept = Vec::new();
        for second in 0..100_000 {
            add(&mut kept, piece(79, second));
        }
        assert_eq!(kept.len(), 1);
        assert_eq!(kept[0].count, 100_000);
        assert_eq!(kept[0].text, "at 99999");
        assert!(kept[0].first_at < kept[0].last_at);
        let words = kept[0].words();
        assert!(
            words.starts_with("Xid 79 (the GPU has fallen off the bus), 100000 times, last at "),
            "{words}"
        );
        // Many of different numbers take the place of the oldest.
        for code in 0..100 {
            add(
                &mut kept,
                piece(1_000 + code, 200_000 + i64::try_from(code).unwrap()),
            );
        }
        assert_eq!(kept.len(), EVIDENCE_MAX);
        assert!(kept.iter().all(|piece| piece.code >= 1_092));
    }

    #[test]
    fn what_programs_cause_says_nothing_about_the_device() {
        for code in [13, 31, 32, 43, 45, 63, 69, 94] {
            assert_eq!(xid(code), None, "{code}");
        }
        assert_eq!(xid(79).map(|xid| xid.follows), Some(Follows::Quarantine));
        assert_eq!(xid(74).map(|xid| xid.follows), Some(Follows::Hold));
        assert!(XIDS.windows(2).all(|pair| pair[0].code < pair[1].code));
    }

    #[test]
    fn words_go_both_ways_and_have_no_line_breaks() {
        for kind in EvidenceKind::ALL {
            assert_eq!(EvidenceKind::from_word(kind.as_str()), Some(kind));
            let json = serde_json::to_value(kind).unwrap();
            assert_eq!(json, kind.as_str());
        }
        assert_eq!(EvidenceKind::from_word("heat"), None);
        assert_eq!(clean("a\nb\u{1b}[2Jc"), "a b [2Jc");
        assert!(clean(&"é".repeat(1_000)).len() <= EVIDENCE_TEXT_MAX_BYTES);
    }

    /// The documents show the table as it is.
    #[test]
    fn the_documents_have_the_table_of_xids() {
        const DOCS: &str = include_str!("../../docs/gpu-health.md");
        for xid in XIDS {
            let row = format!(
                "| {} | {} | {} |",
                xid.code,
                xid.meaning,
                xid.follows.as_str()
            );
            assert!(
                DOCS.contains(&row),
                "docs/gpu-health.md lacks this row:\n{row}"
            );
        }
    }
}
