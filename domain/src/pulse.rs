//! Where a rank of `marquee-trainer` stands, in a small file that it keeps mapped and its worker reads.
//!
//! A rank that hangs answers nothing, and one that a signal holds up cannot even try. So it writes down what
//! it is about to do before it does it: eight words of eight bytes, in the machine's byte order, at the path
//! that [`crate::child::env::PULSE`] names. A word is written whole; two that are read may be a moment
//! apart, which changes no verdict.
//!
//! ```text
//! 0 MAGIC   1 beats   2 steps done   3 phase   4 since_ms   5 answers   6, 7 zero
//! ```
//!
//! On SIGUSR2 a rank whose `answers` is 1 writes the stacks of its threads to the same path with
//! [`STACKS_SUFFIX`], and [`STACKS_END`] as the last line.

/// Bytes of the file.
pub const FILE_BYTES: usize = 64;
/// The first word.
pub const MAGIC: u64 = u64::from_le_bytes(*b"MQPULSE1");
/// The file of the stacks has the pulse file's path with this behind it.
pub const STACKS_SUFFIX: &str = ".stacks";
/// Last line of whole stacks.
pub const STACKS_END: &str = "-- end --";
/// Bytes of stacks that a rank writes at most.
pub const STACKS_MAX_BYTES: u64 = 256 * 1024;

/// What a rank is at. Numbers are the file's, and only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Phase {
    /// It reads its inputs and builds its model.
    Preparing = 0,
    /// It waits for the other ranks to come.
    Joining = 1,
    /// It waits for its next batch.
    Input = 2,
    Forward = 3,
    Backward = 4,
    /// It waits in an exchange for the other ranks.
    AllReduce = 5,
    Optimizer = 6,
    Validation = 7,
    Checkpoint = 8,
    /// It scores pictures, without learning from them.
    Scoring = 9,
    /// It writes its results.
    Writing = 10,
    /// It waits for its GPU, which may itself wait in an exchange for other ranks.
    Device = 11,
}

impl Phase {
    /// Every phase.
    pub const ALL: [Self; 12] = [
        Self::Preparing,
        Self::Joining,
        Self::Input,
        Self::Forward,
        Self::Backward,
        Self::AllReduce,
        Self::Optimizer,
        Self::Validation,
        Self::Checkpoint,
        Self::Scoring,
        Self::Writing,
        Self::Device,
    ];

    /// The word for people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Preparing => "preparing",
            Self::Joining => "joining the others",
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Backward => "backward",
            Self::AllReduce => "all-reduce",
            Self::Optimizer => "optimizer",
            Self::Validation => "validation",
            Self::Checkpoint => "checkpoint",
            Self::Scoring => "scoring",
            Self::Writing => "writing results",
            Self::Device => "waiting for the GPU",
        }
    }

    /// Whether a rank in it waits for what other ranks do.
    #[must_use]
    pub const fn waits_for_peers(self) -> bool {
        match self {
            Self::Joining | Self::AllReduce | Self::Device => true,
            Self::Preparing
            | Self::Input
            | Self::Forward
            | Self::Backward
            | Self::Optimizer
            | Self::Validation
            | Self::Checkpoint
            | Self::Scoring
            | Self::Writing => false,
        }
    }

    fn of(number: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| *phase as u64 == number)
    }
}

/// Where a rank stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pulse {
    /// Grows whenever it comes to something new.
    pub beats: u64,
    /// Steps done.
    pub step: u64,
    /// None: of a later version.
    pub phase: Option<Phase>,
    /// When it came there, in milliseconds of the machine's clock since its boot (`CLOCK_BOOTTIME`).
    pub since_ms: u64,
    /// It writes its stacks on SIGUSR2.
    pub answers: bool,
}

/// Reads a pulse file's contents. None: they are something else.
#[must_use]
pub fn read(bytes: &[u8]) -> Option<Pulse> {
    let mut words = [0; FILE_BYTES / 8];
    let (chunks, _) = bytes.as_chunks::<8>();
    if chunks.len() < words.len() {
        return None;
    }
    for (word, chunk) in words.iter_mut().zip(chunks) {
        // The machine's own order: writer and reader share the memory, so they share the machine.
        *word = u64::from_ne_bytes(*chunk);
    }
    let [magic, beats, step, phase, since_ms, answers, ..] = words;
    // A file that its rank has made and not begun to write holds zeros: that is no pulse, and no
    // rank at step 0.
    (magic == MAGIC).then_some(Pulse {
        beats,
        step,
        phase: Phase::of(phase),
        since_ms,
        answers: answers == 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(words: [u64; 8]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    #[test]
    fn what_is_written_is_read_and_anything_else_is_nothing() {
        let pulse = read(&file([MAGIC, 9, 12, 5, 40_000, 1, 0, 0])).unwrap();
        assert_eq!(pulse.phase, Some(Phase::AllReduce));
        assert_eq!((pulse.beats, pulse.step, pulse.since_ms), (9, 12, 40_000));
        assert!(pulse.answers && pulse.phase.unwrap().waits_for_peers());
        let later = read(&file([MAGIC, 9, 12, 99, 1, 0, 0, 0])).unwrap();
        assert_eq!((later.phase, later.answers), (None, false));
        for odd in [
            file([1, 9, 12, 5, 4, 1, 0, 0]),
            vec![],
            file([MAGIC; 8])[..63].to_vec(),
        ] {
            assert_eq!(read(&odd), None);
        }
    }

    #[test]
    fn numbers_and_words_of_phases_are_told_apart() {
        for (place, phase) in (0..).zip(Phase::ALL) {
            assert_eq!(phase as u64, place);
            assert_eq!(Phase::of(place), Some(phase));
        }
        let mut words = Phase::ALL.map(Phase::as_str);
        words.sort_unstable();
        assert!(words.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
