//! Rows about a picture that an earlier row was about.

use std::collections::HashMap;

use sha2::{Digest, Sha256};

/// Half a hash is enough to tell some million texts apart, and takes a fixed room.
type Short = [u8; 16];

/// What was said of which picture, and where.
#[derive(Debug, Default)]
pub(in crate::fetch) struct Repeats {
    /// By picture: the row that was about it first, and what that said.
    seen: HashMap<Short, (u64, Short)>,
    same: u64,
    first_same: Option<(u64, u64)>,
}

/// What a row is to the rows before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::fetch) enum Repeat {
    /// The first about its picture.
    No,
    /// Says what an earlier row said: it counts once.
    Same,
    /// Says something else than this earlier row.
    Other { earlier: u64 },
}

impl Repeats {
    /// Takes note of row `number`, which says `said` of `picture`.
    pub(in crate::fetch) fn see(&mut self, number: u64, picture: &str, said: &str) -> Repeat {
        let said = short(said);
        let (earlier, before) = *self.seen.entry(short(picture)).or_insert((number, said));
        // Numbers of rows differ, so an equal one is what this very row has just put there.
        if earlier == number {
            return Repeat::No;
        }
        if before != said {
            return Repeat::Other { earlier };
        }
        self.same += 1;
        self.first_same.get_or_insert((earlier, number));
        Repeat::Same
    }

    /// What to say of rows that stood there again.
    pub(in crate::fetch) fn note(&self, unit: &str) -> Option<String> {
        let (earlier, later) = self.first_same?;
        Some(format!(
            "{} repeated and counted once, the first in {unit}s {earlier} and {later}",
            match self.same {
                1 => "1 row is".to_owned(),
                more => format!("{more} rows are"),
            }
        ))
    }
}

fn short(text: &str) -> Short {
    Sha256::digest(text.as_bytes())[..16]
        .try_into()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_rows_count_once_and_others_are_told_with_the_first() {
        let mut repeats = Repeats::default();
        assert_eq!(repeats.note("line"), None);
        assert_eq!(repeats.see(2, "a", "cat"), Repeat::No);
        assert_eq!(repeats.see(3, "b", "cat"), Repeat::No);
        assert_eq!(repeats.see(4, "a", "cat"), Repeat::Same);
        assert_eq!(repeats.see(9, "a", "dog"), Repeat::Other { earlier: 2 });
        assert_eq!(repeats.see(10, "b", "cat"), Repeat::Same);
        insta::assert_snapshot!(repeats.note("line").unwrap(), @"2 rows are repeated and counted once, the first in lines 2 and 4");
    }
}
