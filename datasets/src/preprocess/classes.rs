//! Which labels are classes, and an example's labels as bytes.

use std::collections::HashMap;

use crate::dataset::{Example, Problem};
use crate::job::JobError;

/// The classes, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Classes {
    names: Vec<String>,
    places: HashMap<String, usize>,
}

impl Classes {
    fn new(names: Vec<String>) -> Self {
        let places = names
            .iter()
            .enumerate()
            .map(|(at, name)| (name.clone(), at))
            .collect();
        Self { names, places }
    }

    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// One byte a class: 1 if the example has it.
    pub(super) fn bytes_of(&self, example: &Example) -> Vec<u8> {
        let mut bytes = vec![0; self.names.len()];
        for at in self.of(example) {
            bytes[at] = 1;
        }
        bytes
    }

    /// The classes that the example has, as places.
    pub(super) fn of(&self, example: &Example) -> impl Iterator<Item = usize> {
        example
            .labels
            .iter()
            .filter_map(|label| self.places.get(label).copied())
    }
}

/// Chooses the classes: those that were asked for, or all labels of the dataset, without those that
/// have fewer than `min_count` pictures. The latter come back as problems.
pub(super) fn choose(
    labels: &[String],
    examples: &[Example],
    asked: Option<&[String]>,
    min_count: u32,
) -> Result<(Classes, Vec<Problem>), JobError> {
    if let Some(asked) = asked {
        check_known(labels, asked)?;
    }
    let mut counts: HashMap<&str, u64> = HashMap::new();
    for label in examples.iter().flat_map(|example| &example.labels) {
        *counts.entry(label).or_default() += 1;
    }
    let (mut kept, mut dropped) = (Vec::new(), Vec::new());
    for label in asked.unwrap_or(labels) {
        let count = counts.get(label.as_str()).copied().unwrap_or(0);
        // A class without any picture cannot be learned, whatever the settings say.
        if count >= u64::from(min_count.max(1)) {
            kept.push(label.clone());
        } else {
            let detail = format!("{count} pictures have it, min_label_count is {min_count}");
            tracing::info!(label, count, min_count, "label dropped");
            dropped.push(Problem {
                id: label.clone(),
                class: "label_dropped".into(),
                detail,
            });
        }
    }
    if kept.is_empty() {
        let most = counts.values().max().copied().unwrap_or(0);
        return Err(JobError::user(format!(
            "no label has {min_count} pictures, the most common has {most}; lower min_label_count"
        )));
    }
    Ok((Classes::new(kept), dropped))
}

/// The classes that each of these examples has; none, where there is no example.
pub(super) fn always<'a>(
    classes: &Classes,
    examples: impl Iterator<Item = &'a Example>,
) -> Vec<String> {
    let mut counts = vec![0_u64; classes.names.len()];
    let mut all = 0;
    for example in examples {
        all += 1;
        // By set: a label that stands there twice is one.
        for (count, is_there) in counts.iter_mut().zip(classes.bytes_of(example)) {
            *count += u64::from(is_there);
        }
    }
    let named = classes.names.iter().zip(counts);
    named
        .filter(|(_, count)| all > 0 && *count == all)
        .map(|(name, _)| name.clone())
        .collect()
}

/// Refuses classes of which none can be learned, because each picture has all of them.
pub(super) fn check_learnable<'a>(
    classes: &Classes,
    examples: impl Iterator<Item = &'a Example>,
) -> Result<(), JobError> {
    let always = always(classes, examples);
    if always.len() == classes.names.len() {
        return Err(nothing_to_learn(&always));
    }
    Ok(())
}

pub(super) fn nothing_to_learn(always: &[String]) -> JobError {
    JobError::bad_input(format!(
        "every picture has {}: there is nothing to tell apart; bring pictures without it (a row of zeros in a \
         table of 0 and 1, or [] in a column of labels), or name other classes in labels",
        quoted(always)
    ))
}

/// What to say of classes that every picture of `split` has.
pub(super) fn warning(always: &[String], split: &str) -> Option<String> {
    (!always.is_empty()).then(|| {
        format!(
            "every picture of split {split} has {}: it cannot be learned or measured there; bring pictures \
             without it, or name the classes in labels without it",
            quoted(always)
        )
    })
}

fn quoted(names: &[String]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    names.join(" and ")
}

fn check_known(labels: &[String], asked: &[String]) -> Result<(), JobError> {
    let unknown: Vec<_> = asked
        .iter()
        .enumerate()
        .filter(|(_, label)| !labels.contains(label))
        .map(|(at, label)| {
            format!(
                "labels[{at}] {label:?} is no label of the dataset; {}",
                hint(label, labels)
            )
        })
        .collect();
    if !unknown.is_empty() {
        return Err(JobError::user(unknown.join("\n")));
    }
    let twice = (1..asked.len()).find(|at| asked[..*at].contains(&asked[*at]));
    match twice {
        Some(at) => Err(JobError::user(format!(
            "labels[{at}] {:?} stands there twice; remove one",
            asked[at]
        ))),
        None => Ok(()),
    }
}

/// The label that was probably meant, or all there are.
fn hint(word: &str, labels: &[String]) -> String {
    // Capitals alone are no typing error: "drama" is as near to "Drama" as a word can be.
    let lower = word.to_lowercase();
    let closest = labels
        .iter()
        .map(|label| {
            (
                strsim::damerau_levenshtein(&lower, &label.to_lowercase()),
                label,
            )
        })
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, _)| *distance <= (word.chars().count() / 3).max(1));
    match closest {
        Some((_, label)) => format!("did you mean {label:?}?"),
        None => format!("it has {}", labels.join(", ")),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use marquee_domain::artifact::Digest;

    use super::*;

    /// An example with these labels, separated by blanks.
    pub(in crate::preprocess) fn example(id: usize, labels: &str, group: Option<&str>) -> Example {
        Example {
            id: id.to_string(),
            labels: labels.split_whitespace().map(str::to_owned).collect(),
            group: group.map(str::to_owned),
            title: None,
            release_date: None,
            popularity: None,
            language: None,
            label_ids: Vec::new(),
            picture_bytes: 8,
            picture_digest: Digest::of(&id.to_le_bytes()),
            picture_etag: None,
            picture_modified: None,
            details_etag: None,
            licence: None,
            source: "test".to_owned(),
        }
    }

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn chosen(asked: Option<&str>, min_count: u32) -> Result<(Vec<String>, usize), String> {
        let examples = [
            example(0, "Drama War", None),
            example(1, "Drama", None),
            example(2, "War Music", None),
        ];
        let labels = words("Comedy Drama Music War");
        match choose(&labels, &examples, asked.map(words).as_deref(), min_count) {
            Ok((classes, dropped)) => Ok((classes.names().to_vec(), dropped.len())),
            Err(JobError::Failed(failure)) => Err(failure.message),
            Err(JobError::Stopped) => Err("stopped".to_owned()),
        }
    }

    #[test]
    fn classes_keep_the_order_asked_for_or_the_sources_own() {
        assert_eq!(chosen(None, 1), Ok((words("Drama Music War"), 1)));
        assert_eq!(chosen(None, 2), Ok((words("Drama War"), 2)));
        assert_eq!(chosen(Some("War Drama"), 1), Ok((words("War Drama"), 0)));
    }

    #[test]
    fn an_unknown_label_is_named_with_the_one_that_was_meant() {
        insta::assert_snapshot!(chosen(Some("War Darma Foo"), 1).unwrap_err(), @r#"
        labels[1] "Darma" is no label of the dataset; did you mean "Drama"?
        labels[2] "Foo" is no label of the dataset; it has Comedy, Drama, Music, War
        "#);
        insta::assert_snapshot!(chosen(Some("War War"), 1).unwrap_err(), @r#"labels[1] "War" stands there twice; remove one"#);
        insta::assert_snapshot!(chosen(None, 9).unwrap_err(), @"no label has 9 pictures, the most common has 2; lower min_label_count");
    }
}
