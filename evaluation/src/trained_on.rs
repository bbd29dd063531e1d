//! What a model was trained and tuned on, picture by picture, so that an evaluation can tell a test from
//! a repetition.
//!
//! A model carries the record in its folder as [`RECORD_FILE`]. A picture is known by the SHA-256 of its
//! file, cut to 16 bytes: preprocessing the same pictures again in another size, encoding or split changes
//! nothing of that. Pictures that were trained on by the models whose weights a job started from are on
//! record too.
//!
//! Invariants: the lists are exact (each picture of the split, none left out by chance), ascending and
//! without repeats, so that equal training gives equal bytes; a damaged record is an error, never an empty
//! one.

use std::collections::BTreeSet;

use marquee_domain::artifact::Digest;
use marquee_domain::report::Overlap;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

mod file;

/// The record's name in the folder of a model.
pub const RECORD_FILE: &str = "trained_on.bin";
const KEY_BYTES: usize = 16;
/// Weights without a record that are named. A chain of trainings adds one at a time.
const UNRECORDED_MAX: usize = 100;

/// What a picture or a group is known by: the first half of a SHA-256. Two of a billion pictures share
/// one with a chance of 10^-21.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key([u8; KEY_BYTES]);

/// What the pictures of a record are known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KnownBy {
    /// Their files, as they were fetched.
    File,
    /// Their bytes in the shards, where nothing is known of their files: shards made by hand.
    Stored,
}

impl Key {
    /// Of a picture, by the digest of its file.
    #[must_use]
    pub fn of_file(digest: &Digest) -> Self {
        let hex = digest.as_str().as_bytes();
        let nibble = |at: usize| {
            let digit = hex.get(at).copied().map(char::from);
            digit.and_then(|digit| digit.to_digit(16)).unwrap_or(0)
        };
        let byte = |at: usize| u8::try_from(nibble(2 * at) << 4 | nibble(2 * at + 1)).unwrap_or(0);
        Self(std::array::from_fn(byte))
    }

    /// Of a picture, by what shards hold of it; `layout` says how to read that, such as "raw 48x72".
    #[must_use]
    pub fn of_stored(layout: &str, bytes: &[u8]) -> Self {
        Self::of_parts(&[b"stored", layout.as_bytes(), bytes])
    }

    /// Of a group: its name means something within its source alone.
    #[must_use]
    pub fn of_group(source: &str, group: &str) -> Self {
        Self::of_parts(&[b"group", source.as_bytes(), group.as_bytes()])
    }

    fn of_parts(parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            // With its length, so that no two lists of parts run into the same bytes.
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let sum = hash.finalize();
        Self(std::array::from_fn(|at| sum[at]))
    }
}

/// The pictures of one split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SplitKeys {
    pub known_by: KnownBy,
    pub pictures: Vec<Key>,
    /// Of each picture; None: it belongs to no group.
    pub groups: Vec<Option<Key>>,
}

impl Default for SplitKeys {
    /// A split without pictures.
    fn default() -> Self {
        Self {
            known_by: KnownBy::File,
            pictures: Vec::new(),
            groups: Vec::new(),
        }
    }
}

/// What a model was trained and tuned on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TrainingRecord {
    about: About,
    trained: Known,
    tuned: Known,
}

/// The header of the file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct About {
    known_by: BTreeSet<KnownBy>,
    /// Weights that the model started from without a record of theirs.
    #[serde(default)]
    unrecorded: BTreeSet<String>,
    /// The same of models of an earlier version.
    #[serde(default)]
    unrecorded_models: BTreeSet<String>,
    #[serde(default)]
    counts: Counts,
}

/// Keys in each of the file's lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Counts {
    trained: usize,
    trained_groups: usize,
    tuned: usize,
    tuned_groups: usize,
}

/// Sorted, each once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Known {
    pictures: Vec<Key>,
    groups: Vec<Key>,
}

impl Known {
    fn of(split: &SplitKeys) -> Self {
        Self {
            pictures: sorted(split.pictures.clone()),
            groups: sorted(split.groups.iter().flatten().copied().collect()),
        }
    }

    fn add(&mut self, other: &Self) {
        for (mine, theirs) in [
            (&mut self.pictures, &other.pictures),
            (&mut self.groups, &other.groups),
        ] {
            let mut all = std::mem::take(mine);
            all.extend(theirs);
            *mine = sorted(all);
        }
    }

    fn has_picture(&self, key: &Key) -> bool {
        self.pictures.binary_search(key).is_ok()
    }

    fn has_group(&self, key: Option<&Key>) -> bool {
        key.is_some_and(|key| self.groups.binary_search(key).is_ok())
    }
}

fn sorted(mut keys: Vec<Key>) -> Vec<Key> {
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// The splits of the shards that an evaluation is over.
#[derive(Debug, Clone, Copy)]
pub struct Evaluated<'a> {
    /// Scored by nobody here; it tells whether these shards are of the pictures on record at all.
    pub train: &'a SplitKeys,
    pub validation: &'a SplitKeys,
    pub test: &'a SplitKeys,
}

impl TrainingRecord {
    /// Of a model that was trained on `train`, and whose thresholds were tuned on `validation`.
    #[must_use]
    pub fn new(train: &SplitKeys, validation: &SplitKeys) -> Self {
        let splits = [train, validation];
        // An empty split has no pictures to be known by; its default must not make the record look
        // like one of both kinds.
        let filled = splits.iter().filter(|split| !split.pictures.is_empty());
        Self {
            about: About {
                known_by: filled.map(|split| split.known_by).collect(),
                ..About::default()
            },
            trained: Known::of(train),
            tuned: Known::of(validation),
        }
    }

    /// Adds what an earlier model, whose weights this one started from, was trained and tuned on.
    pub fn add(&mut self, earlier: &Self) {
        self.about.known_by.extend(&earlier.about.known_by);
        for weights in &earlier.about.unrecorded {
            self.add_unrecorded(weights);
        }
        for model in &earlier.about.unrecorded_models {
            self.add_unrecorded_model(model);
        }
        self.trained.add(&earlier.trained);
        self.tuned.add(&earlier.tuned);
    }

    /// Adds that the model started from `weights`, of whose pictures there is no record.
    pub fn add_unrecorded(&mut self, weights: &str) {
        insert(&mut self.about.unrecorded, weights);
    }

    /// Adds that the model started from `model`, which an earlier version trained without a record.
    pub fn add_unrecorded_model(&mut self, model: &str) {
        insert(&mut self.about.unrecorded_models, model);
    }

    /// What of these splits the model has learned from. Each test picture is counted once.
    #[must_use]
    pub fn overlap(&self, shards: Evaluated<'_>) -> Overlap {
        let Evaluated {
            train,
            validation,
            test,
        } = shards;
        let mut found = Overlap {
            recorded: true,
            comparable: [validation, test]
                .iter()
                .filter(|split| !split.pictures.is_empty())
                // The same picture has two different keys, by its file and by its stored bytes:
                // between the two kinds nothing can be found.
                .all(|split| self.about.known_by.iter().all(|by| *by == split.known_by)),
            trained_pictures: self.trained.pictures.len() as u64,
            tuned_pictures: self.tuned.pictures.len() as u64,
            test_pictures: test.pictures.len() as u64,
            validation_pictures: validation.pictures.len() as u64,
            unrecorded: self.about.unrecorded.iter().cloned().collect(),
            unrecorded_models: self.about.unrecorded_models.iter().cloned().collect(),
            ..Overlap::default()
        };
        let pictures = |split: &SplitKeys| {
            let groups = split.groups.iter().map(Option::as_ref);
            let groups = groups.chain(std::iter::repeat(None));
            let pairs = split
                .pictures
                .iter()
                .copied()
                .zip(groups.map(Option::<&Key>::copied));
            pairs.collect::<Vec<(Key, Option<Key>)>>()
        };
        for (picture, group) in pictures(test) {
            // The gravest first, for each picture is counted once: one that was trained on is no less so for
            // having been tuned on.
            let count = if self.trained.has_picture(&picture) {
                &mut found.test_trained
            } else if self.trained.has_group(group.as_ref()) {
                &mut found.test_trained_group
            } else if self.tuned.has_picture(&picture) {
                &mut found.test_tuned
            } else if self.tuned.has_group(group.as_ref()) {
                &mut found.test_tuned_group
            } else {
                continue;
            };
            *count += 1;
        }
        for (picture, group) in pictures(validation) {
            let count = if self.trained.has_picture(&picture) {
                &mut found.validation_trained
            } else if self.trained.has_group(group.as_ref()) {
                &mut found.validation_trained_group
            } else {
                continue;
            };
            *count += 1;
        }
        // Another data set may call its groups by the same names ("1", "2") under a source of the same
        // name. Groups prove something only where the data sets have pictures in common.
        let is_kin = [train, validation, test]
            .iter()
            .flat_map(|split| &split.pictures)
            .any(|key| self.trained.has_picture(key) || self.tuned.has_picture(key));
        if !is_kin {
            found.namesakes = found.in_test() + found.in_validation();
            found.test_trained_group = 0;
            found.test_tuned_group = 0;
            found.validation_trained_group = 0;
        }
        found
    }
}

fn insert(names: &mut BTreeSet<String>, name: &str) {
    if names.len() < UNRECORDED_MAX {
        names.insert(name.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn split(
        pictures: impl IntoIterator<Item = (u32, Option<&'static str>)>,
    ) -> SplitKeys {
        let (pictures, groups) = pictures
            .into_iter()
            .map(|(picture, group)| {
                let key = Key::of_file(&Digest::of(&picture.to_le_bytes()));
                (key, group.map(|group| Key::of_group("films", group)))
            })
            .unzip();
        SplitKeys {
            known_by: KnownBy::File,
            pictures,
            groups,
        }
    }

    pub(super) fn plain(pictures: impl IntoIterator<Item = u32>) -> SplitKeys {
        split(pictures.into_iter().map(|picture| (picture, None)))
    }

    fn seen(
        record: &TrainingRecord,
        train: &SplitKeys,
        validation: &SplitKeys,
        test: &SplitKeys,
    ) -> Overlap {
        record.overlap(Evaluated {
            train,
            validation,
            test,
        })
    }

    #[test]
    fn a_key_is_the_start_of_the_files_sha_256() {
        // printf abc | sha256sum
        let key = Key::of_file(&Digest::of(b"abc"));
        assert_eq!(key.0[..4], [0xba, 0x78, 0x16, 0xbf]);
        assert_eq!(key.0[15], 0x23);
        assert_ne!(Key::of_group("a", "bc"), Key::of_group("ab", "c"));
    }

    #[test]
    fn the_shards_of_its_own_training_are_clean_and_others_of_the_same_pictures_are_not() {
        let (train, validation, test) = (plain(0..60), plain(60..80), plain(80..100));
        let record = TrainingRecord::new(&train, &validation);
        let own = seen(&record, &train, &validation, &test);
        assert!(own.recorded && own.comparable && !own.is_leak(), "{own:?}");

        // The same pictures dealt anew: 20 of the test were trained on, 5 tuned on, 5 are new.
        let again = (
            plain(20..70),
            plain(70..90),
            plain((0..20).chain(75..80).chain(95..100)),
        );
        let found = seen(&record, &again.0, &again.1, &again.2);
        assert_eq!(
            (
                found.test_trained,
                found.test_tuned,
                found.validation_trained
            ),
            (20, 5, 0)
        );
        assert!(found.is_leak());
        let other = seen(
            &record,
            &plain(200..260),
            &plain(260..280),
            &plain(280..300),
        );
        assert!(!other.is_leak());
    }

    #[test]
    fn a_group_that_training_knew_is_a_leak_only_where_the_data_sets_are_kin() {
        let train = split([(1, Some("alien")), (2, Some("brazil")), (3, None)]);
        let record = TrainingRecord::new(&train, &plain([9]));
        let (again, test) = (
            plain([3]),
            split([(10, Some("alien")), (11, Some("casablanca")), (12, None)]),
        );
        let kin = seen(&record, &again, &SplitKeys::default(), &test);
        assert_eq!(
            (kin.test_trained_group, kin.in_test(), kin.namesakes),
            (1, 1, 0)
        );
        let stranger = seen(&record, &plain([77]), &SplitKeys::default(), &test);
        assert!(!stranger.is_leak());
        assert_eq!(stranger.namesakes, 1, "said, but no proof");
    }

    #[test]
    fn what_earlier_models_learned_from_stays_on_record() {
        let mut record = TrainingRecord::new(&plain(0..5), &plain(5..8));
        let mut first = TrainingRecord::new(&plain(100..110), &plain(110..112));
        first.add_unrecorded("resnet50.safetensors");
        first.add_unrecorded_model("artifact 0123456789ab");
        record.add(&first);
        record.add(&first);
        let read = TrainingRecord::decode(&record.encode().unwrap()).unwrap();
        assert_eq!(read, record);
        let found = seen(
            &read,
            &SplitKeys::default(),
            &plain([105]),
            &plain([3, 109, 111, 500]),
        );
        assert_eq!(
            (
                found.test_trained,
                found.test_tuned,
                found.validation_trained
            ),
            (2, 1, 1)
        );
        assert_eq!((found.trained_pictures, found.tuned_pictures), (15, 5));
        assert_eq!(found.unrecorded, ["resnet50.safetensors"]);
        assert_eq!(found.unrecorded_models, ["artifact 0123456789ab"]);
    }

    #[test]
    fn pictures_known_by_other_means_are_not_compared_in_silence() {
        let record = TrainingRecord::new(&plain(0..5), &plain(5..8));
        let by_hand = SplitKeys {
            known_by: KnownBy::Stored,
            ..plain(0..5)
        };
        let found = seen(
            &record,
            &SplitKeys::default(),
            &SplitKeys::default(),
            &by_hand,
        );
        assert!(!found.comparable);
    }

    #[test]
    fn a_record_costs_sixteen_bytes_a_picture_and_equal_training_gives_equal_bytes() {
        let record = TrainingRecord::new(&plain(0..10_000), &plain(10_000..11_000));
        let backwards = TrainingRecord::new(&plain((0..10_000).rev()), &plain(10_000..11_000));
        let bytes = record.encode().unwrap();
        assert_eq!(bytes, backwards.encode().unwrap());
        assert!(bytes.len() < 11_000 * 16 + 300, "{}", bytes.len());
        // The same file twice in a split is one picture.
        let twice = plain((0..10_000).chain(0..10_000));
        assert_eq!(
            TrainingRecord::new(&twice, &plain(10_000..11_000))
                .encode()
                .unwrap(),
            bytes
        );
    }
}
