//! Labels that look like several labels in one: "scab rust" beside "scab" and "rust".

use std::collections::{BTreeMap, BTreeSet};

/// What may join labels.
const SEPARATORS: [&str; 9] = [" ", ",", ";", "|", "/", "+", "&", "_", "-"];
/// Beyond so many different labels they are no classes, and nobody looks at this warning first.
const LABELS_MAX: usize = 10_000;
/// Fewer labels than these may share a word by chance.
const FAMILY_MIN: usize = 8;

/// Labels with the number of their pictures.
#[derive(Debug, Default)]
pub(in crate::fetch) struct LabelCounts(BTreeMap<String, u64>);

impl LabelCounts {
    pub(in crate::fetch) fn add(&mut self, label: &str) {
        if let Some(count) = self.0.get_mut(label) {
            *count += 1;
        // One more than the most is kept: by that `warning` knows that there were too many.
        } else if self.0.len() <= LABELS_MAX {
            self.0.insert(label.to_owned(), 1);
        }
    }

    /// What to warn of, if labels are made of other labels. `cure` says what to do, for a separator.
    pub(in crate::fetch) fn warning(&self, cure: impl Fn(&str) -> String) -> Option<String> {
        if self.0.len() > LABELS_MAX {
            return None;
        }
        let of_others = SEPARATORS
            .iter()
            .map(|separator| (self.made_of_others(separator), *separator));
        let most = of_others.max_by_key(|(made, _)| made.len());
        if let Some((made, separator)) = most.filter(|(made, _)| !made.is_empty()) {
            let pictures: u64 = made.iter().map(|label| self.0[*label]).sum();
            let first = made[0];
            let parts: Vec<String> = parts_of(first, separator)
                .map(|part| format!("{part:?}"))
                .collect();
            return Some(format!(
                "{} made of other labels, such as {first:?} of {} ({}); {}",
                count(made.len() as u64, "label is", "labels are"),
                parts.join(" and "),
                count(pictures, "picture", "pictures"),
                cure(separator)
            ));
        }
        let (words, separator) = SEPARATORS[..5]
            .iter()
            .filter_map(|separator| Some((self.words(separator)?, *separator)))
            .min()?;
        Some(format!(
            "the {} different labels are made of {words} words joined by {separator:?}; {}",
            self.0.len(),
            cure(separator)
        ))
    }

    /// Labels all of whose parts are labels too.
    fn made_of_others(&self, separator: &str) -> Vec<&str> {
        let labels = self.0.keys().map(String::as_str);
        labels
            .filter(|label| {
                let parts: Vec<&str> = parts_of(label, separator).collect();
                parts.len() > 1 && parts.iter().all(|part| self.0.contains_key(*part))
            })
            .collect()
    }

    /// How many words the labels consist of, where most are joined and the words are far fewer.
    fn words(&self, separator: &str) -> Option<usize> {
        let all = self.0.len();
        let joined = self
            .0
            .keys()
            .filter(|label| parts_of(label, separator).count() > 1);
        if all < FAMILY_MIN || joined.count() * 2 < all {
            return None;
        }
        let words: BTreeSet<&str> = self
            .0
            .keys()
            .flat_map(|label| parts_of(label, separator))
            .collect();
        (words.len() * 2 <= all).then_some(words.len())
    }
}

fn parts_of<'a>(label: &'a str, separator: &'a str) -> impl Iterator<Item = &'a str> {
    label
        .split(separator)
        .map(str::trim)
        .filter(|part| !part.is_empty())
}

fn count(number: u64, one: &str, more: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { more })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warning(labels: &[&str]) -> Option<String> {
        let mut counts = LabelCounts::default();
        labels.iter().for_each(|label| counts.add(label));
        counts.warning(|separator| format!("set separator = {separator:?}"))
    }

    #[test]
    fn labels_made_of_labels_are_told_and_others_are_not() {
        insta::assert_snapshot!(warning(&["scab", "rust", "scab rust", "healthy", "scab rust"]).unwrap(), @r#"1 label is made of other labels, such as "scab rust" of "scab" and "rust" (2 pictures); set separator = " ""#);
        insta::assert_snapshot!(warning(&["a", "b", "c", "a,b", "b, c"]).unwrap(), @r#"2 labels are made of other labels, such as "a,b" of "a" and "b" (2 pictures); set separator = ",""#);
        // No word stands alone, but eight labels of four words tell all the same.
        let family = [
            "clear road",
            "clear water",
            "haze road",
            "haze water",
            "clear road water",
            "haze road water",
            "road clear",
            "water clear",
        ];
        insta::assert_snapshot!(warning(&family).unwrap(), @r#"the 8 different labels are made of 4 words joined by " "; set separator = " ""#);
        for labels in [
            &["Action", "Science Fiction", "TV Movie", "Drama"][..],
            &["sci-fi", "fi"],
            &["a", "b"],
            &[],
        ] {
            assert_eq!(warning(labels), None, "{labels:?}");
        }
    }
}
