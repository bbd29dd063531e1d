//! The record as a file.
//!
//! Invariant: a file that was cut, altered or written by a newer version is an error with the reason.

use sha2::{Digest as _, Sha256};

use super::{About, Counts, KEY_BYTES, Key, Known, TrainingRecord};

/// Version of the file's layout.
const VERSION: u32 = 1;
const MAGIC: &[u8; 8] = b"MARQSEEN";
/// Of the SHA-256 at the file's end.
const SUM_BYTES: usize = 32;
/// Bytes of the header's JSON; it names a few files.
const HEADER_MAX_BYTES: usize = 1 << 20;

impl TrainingRecord {
    /// The file's bytes: magic, version, the header's length and JSON, the keys of trained pictures and
    /// groups and of tuned pictures and groups, and the SHA-256 of all of that. Numbers are u32, little
    /// endian.
    ///
    /// # Errors
    /// The header has no JSON, which no header does.
    pub fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        let lists = [
            &self.trained.pictures,
            &self.trained.groups,
            &self.tuned.pictures,
            &self.tuned.groups,
        ];
        let about = About {
            counts: Counts {
                trained: lists[0].len(),
                trained_groups: lists[1].len(),
                tuned: lists[2].len(),
                tuned_groups: lists[3].len(),
            },
            ..self.about.clone()
        };
        let header = serde_json::to_vec(&about)?;
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(
            u32::try_from(header.len())
                .unwrap_or(u32::MAX)
                .to_le_bytes(),
        );
        bytes.extend(header);
        for key in lists.into_iter().flatten() {
            bytes.extend(key.0);
        }
        let sum = Sha256::digest(&bytes);
        bytes.extend(sum);
        Ok(bytes)
    }

    /// Reads a file's bytes.
    ///
    /// # Errors
    /// In words, what is wrong with them.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let cut = || "it ends too early".to_owned();
        let (magic, rest) = bytes.split_at_checked(MAGIC.len()).ok_or_else(cut)?;
        if magic != MAGIC {
            return Err("it is no record of a training".to_owned());
        }
        let (version, rest) = number(rest).ok_or_else(cut)?;
        if version != VERSION {
            return Err(format!(
                "it has version {version}, this program reads {VERSION}; use the program that wrote it, or \
                 a newer one"
            ));
        }
        let (length, rest) = number(rest).ok_or_else(cut)?;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > HEADER_MAX_BYTES {
            return Err(format!("its header says that it has {length} bytes"));
        }
        let (header, rest) = rest.split_at_checked(length).ok_or_else(cut)?;
        let about: About = serde_json::from_slice(header).map_err(|error| error.to_string())?;
        let counts = about.counts;
        let lengths = [
            counts.trained,
            counts.trained_groups,
            counts.tuned,
            counts.tuned_groups,
        ];
        let keys = lengths
            .iter()
            .try_fold(0_usize, |sum, count| sum.checked_add(*count));
        let expected = keys
            .and_then(|keys| keys.checked_mul(KEY_BYTES))
            .and_then(|bytes| bytes.checked_add(SUM_BYTES));
        // The counts are the file's word, and `list` below cuts by them without looking again.
        if expected != Some(rest.len()) {
            return Err(format!(
                "its header counts {lengths:?} keys, which {} bytes are not",
                rest.len()
            ));
        }
        // After the counts: of a file that was cut short or is of another kind, what is found
        // before says more than a wrong sum.
        let body = bytes.len() - SUM_BYTES;
        if Sha256::digest(&bytes[..body])[..] != bytes[body..] {
            return Err("its bytes were altered".to_owned());
        }
        let mut rest = &rest[..rest.len() - SUM_BYTES];
        let mut list = |count: usize| {
            let (mine, after) = rest.split_at(count * KEY_BYTES);
            rest = after;
            let keys: Vec<Key> = mine
                .chunks_exact(KEY_BYTES)
                .map(|key| Key(std::array::from_fn(|at| key[at])))
                .collect();
            // Keys are found by halving, which would miss them in any other order.
            if keys.is_sorted_by(|a, b| a < b) {
                Ok(keys)
            } else {
                Err("its keys are not in order".to_owned())
            }
        };
        let trained = Known {
            pictures: list(lengths[0])?,
            groups: list(lengths[1])?,
        };
        let tuned = Known {
            pictures: list(lengths[2])?,
            groups: list(lengths[3])?,
        };
        Ok(Self {
            about: About {
                // They were for reading the lists. Kept, they would be wrong after the first `add`;
                // `encode` counts anew.
                counts: Counts::default(),
                ..about
            },
            trained,
            tuned,
        })
    }
}

fn number(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_le_bytes(*number), rest))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{plain, split};
    use super::*;

    #[test]
    fn a_damaged_record_is_an_error_wherever_it_is_damaged() {
        let mut record = TrainingRecord::new(
            &split([(1, Some("a")), (2, None)]),
            &split([(3, Some("b"))]),
        );
        record.add_unrecorded("w");
        let good = record.encode().unwrap();
        for length in 0..good.len() {
            assert!(TrainingRecord::decode(&good[..length]).is_err(), "{length}");
        }
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(TrainingRecord::decode(&bad).is_err(), "{at}");
        }
        let mut newer = good;
        newer[8] = 2;
        let problem = TrainingRecord::decode(&newer).unwrap_err();
        assert!(
            problem.contains("version 2") && problem.contains("newer"),
            "{problem}"
        );
    }

    #[test]
    fn a_header_that_counts_beyond_all_memory_is_refused() {
        let record = TrainingRecord::new(&plain([1]), &plain([2]));
        let good = record.encode().unwrap();
        let text = String::from_utf8_lossy(&good).into_owned();
        let header = text.find("\"trained\":1").unwrap();
        let mut bad = good.clone();
        let json_length = 16 + u32::from_le_bytes(good[12..16].try_into().unwrap()) as usize;
        let mut json = String::from_utf8(good[16..json_length].to_vec()).unwrap();
        json = json.replace("\"trained\":1", "\"trained\":18446744073709551615");
        bad.truncate(12);
        bad.extend(u32::try_from(json.len()).unwrap().to_le_bytes());
        bad.extend(json.as_bytes());
        bad.extend(&good[json_length..]);
        assert!(header > 0 && TrainingRecord::decode(&bad).is_err());
    }
}
