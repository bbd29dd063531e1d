//! The quality report: what is odd about the pictures, how examples spread over years, classes and
//! numbers of labels, and which pictures look the same but have other labels.
//!
//! Invariant: the report is a function of the dataset and the settings; it holds no time and no path.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::Datelike;
use serde::Serialize;

use super::look::{Look, limit};
use super::similar::{Clusters, PLACEHOLDER_MIN};
use crate::dataset::Example;
use crate::sniff::Format;

/// Examples of each kind of oddity that are shown.
const SAMPLES: usize = 12;
/// Pairs and clusters that are listed.
const LISTED_MAX: usize = 200;
/// A size is odd beyond this many interquartile ranges.
const IQR_FACTOR: f64 = 3.0;
/// The least interquartile range, as a share of the median: where all pictures have one size, one
/// of nearly that size is not odd.
const IQR_MIN_SHARE: f64 = 0.05;

/// Every flag, with what it means.
pub(super) const FLAGS: [(&str, &str); 13] = [
    ("tiny", "the shorter side is under 50 pixels"),
    (
        "odd_aspect",
        "the shorter side is under 0.35 of the longer one",
    ),
    (
        "odd_size",
        "its size is far from that of the others (3 interquartile ranges)",
    ),
    (
        "dark",
        "even its brightest parts are dark (99th percentile under 0.32)",
    ),
    (
        "light",
        "even its darkest parts are light (5th percentile above 0.95)",
    ),
    ("blank", "it is of one plain colour"),
    (
        "low_information",
        "it has few grey values (entropy under 3 bits), and edges in under 5 % of it",
    ),
    ("blurry", "it has no sharp edges (score under 0.29)"),
    ("greyscale", "it has no colours"),
    ("format_mismatch", "its name promises another format"),
    (
        "exact_duplicate",
        "an earlier picture is the very same file",
    ),
    (
        "near_duplicate",
        "an earlier picture shows the same, perhaps mirrored, turned, cropped or in other colours",
    ),
    (
        "placeholder",
        "five or more that do not belong together show the same",
    ),
];

/// Flags of pictures that are fit for a test set all the same.
pub(super) const HARMLESS: [&str; 2] = ["greyscale", "format_mismatch"];

/// The flags of every example, in the order of [`FLAGS`].
pub(super) fn flags(
    examples: &[Example],
    looks: &[Option<Look>],
    clusters: &Clusters,
) -> Vec<Vec<&'static str>> {
    let mut flags: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); examples.len()];
    let place = |name: &str| {
        FLAGS
            .iter()
            .position(|(flag, _)| *flag == name)
            .unwrap_or(0)
    };
    let sizes = odd_sizes(looks);
    let mut files = HashMap::new();
    for (at, example) in examples.iter().enumerate() {
        let Some(look) = &looks[at] else { continue };
        // An API's posters have no name of their own; their URLs end in .jpg.
        let promised = Format::of_name(&example.id).unwrap_or(Format::Jpeg);
        let is_copy = *files.entry(&example.picture_digest).or_insert(at) != at;
        for (name, is_so) in [
            ("tiny", look.width.min(look.height) < limit::TINY),
            ("odd_aspect", look.aspect() < limit::ODD_ASPECT),
            ("odd_size", sizes(look)),
            ("dark", look.brightest < limit::DARK),
            ("light", look.darkest < limit::LIGHT),
            ("blank", look.contrast <= limit::BLANK),
            ("low_information", look.is_of_low_information()),
            ("blurry", look.sharpness < limit::BLURRY),
            ("greyscale", look.is_grey),
            ("format_mismatch", look.format != promised),
            ("exact_duplicate", is_copy),
        ] {
            if is_so {
                flags[at].insert(place(name));
            }
        }
    }
    // A picture that many strangers share says nothing of any of them. The very picture: what merely shows
    // the same may be a motif.
    for cluster in clusters
        .strict
        .iter()
        .filter(|cluster| is_placeholder(examples, cluster))
    {
        for example in cluster {
            flags[*example].insert(place("placeholder"));
        }
    }
    for cluster in &clusters.all {
        for (nth, example) in cluster.iter().enumerate() {
            // A copy of the file is that, and nothing near.
            if nth > 0 && !flags[*example].contains(&place("exact_duplicate")) {
                flags[*example].insert(place("near_duplicate"));
            }
        }
    }
    let names = |set: BTreeSet<usize>| set.into_iter().map(|at| FLAGS[at].0).collect();
    flags.into_iter().map(names).collect()
}

/// Whether so many of the examples do not belong to one group that their picture is what a service shows
/// for none.
fn is_placeholder(examples: &[Example], cluster: &[usize]) -> bool {
    strangers(examples, cluster) >= PLACEHOLDER_MIN
}

/// How many of the examples do not belong to one group.
fn strangers(examples: &[Example], cluster: &[usize]) -> usize {
    let groups: BTreeSet<&str> = cluster
        .iter()
        .map(|example| {
            examples[*example]
                .group
                .as_deref()
                .unwrap_or(&examples[*example].id)
        })
        .collect();
    groups.len()
}

fn odd_sizes(looks: &[Option<Look>]) -> impl Fn(&Look) -> bool {
    let size = |look: &Look| (f64::from(look.width) * f64::from(look.height)).sqrt();
    let mut sizes: Vec<f64> = looks.iter().flatten().map(size).collect();
    sizes.sort_by(f64::total_cmp);
    let quantile = |share: f64| {
        let at = (sizes.len().saturating_sub(1)) as f64 * share;
        sizes.get(at.round() as usize).copied().unwrap_or(0.0)
    };
    // Quartiles instead of mean and deviation: a few huge scans must not widen what counts as
    // usual.
    let (low, middle, high) = (quantile(0.25), quantile(0.5), quantile(0.75));
    let spread = IQR_FACTOR * (high - low).max(middle * IQR_MIN_SHARE);
    move |look| {
        let size = size(look);
        size < low - spread || size > high + spread
    }
}

/// Two pictures that look the same and whose labels differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Disagreement {
    pub(super) pictures: [String; 2],
    pub(super) labels: [Vec<String>; 2],
}

/// Pictures that look the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct LookAlikes {
    pub(super) pictures: u64,
    /// The first of them.
    pub(super) first: Vec<String>,
    pub(super) is_placeholder: bool,
}

/// `quality.json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Report {
    pub(super) pictures: u64,
    /// Examples by flag.
    pub(super) flags: BTreeMap<&'static str, u64>,
    /// Examples that are in no split, by why.
    pub(super) skipped: BTreeMap<String, u64>,
    /// Ids of some examples of each flag and each reason.
    pub(super) samples: BTreeMap<String, Vec<String>>,
    /// Examples by year of release; "unknown" without a date.
    pub(super) years: BTreeMap<String, u64>,
    /// By split, examples of each class.
    pub(super) classes: BTreeMap<&'static str, BTreeMap<String, u64>>,
    /// By split, examples by their number of classes.
    pub(super) label_counts: BTreeMap<&'static str, BTreeMap<u32, u64>>,
    /// The largest clusters of pictures that look the same, largest first.
    pub(super) clusters: Vec<LookAlikes>,
    /// How many clusters there are.
    pub(super) clusters_in_all: u64,
    /// Pictures that look the same with other labels: an estimate of how often labels are wrong.
    pub(super) disagreements: Vec<Disagreement>,
    /// Pairs with other labels, and the clusters that they are of.
    pub(super) disagreements_in_all: u64,
    pub(super) clusters_that_disagree: u64,
    /// Flags that would have left out more than half of the pictures, and so left out none.
    pub(super) flags_of_most: Vec<&'static str>,
}

/// One example as the report sees it.
#[derive(Debug)]
pub(super) struct Seen<'a> {
    pub(super) example: &'a Example,
    pub(super) flags: &'a [&'static str],
    /// The split, or why the example is in none.
    pub(super) place: Result<&'static str, &'a str>,
    /// The example's classes.
    pub(super) classes: Vec<&'a str>,
}

pub(super) fn report(
    seen: &[Seen<'_>],
    clusters: &Clusters,
    examples: &[Example],
    flags_of_most: &[&'static str],
) -> Report {
    let mut report = Report {
        pictures: seen.len() as u64,
        flags: FLAGS.iter().map(|(flag, _)| (*flag, 0)).collect(),
        skipped: BTreeMap::new(),
        samples: BTreeMap::new(),
        years: BTreeMap::new(),
        classes: BTreeMap::new(),
        label_counts: BTreeMap::new(),
        clusters: Vec::new(),
        clusters_in_all: clusters.all.len() as u64,
        disagreements: Vec::new(),
        disagreements_in_all: 0,
        clusters_that_disagree: 0,
        flags_of_most: flags_of_most.to_vec(),
    };
    for one in seen {
        report.add(one);
    }
    let placeholders: BTreeSet<usize> = clusters
        .strict
        .iter()
        .filter(|cluster| is_placeholder(examples, cluster))
        .flatten()
        .copied()
        .collect();
    let of_none = |cluster: &[usize]| cluster.iter().all(|at| placeholders.contains(at));
    let mut by_size: Vec<&Vec<usize>> = clusters.all.iter().collect();
    by_size.sort_by_key(|cluster| (std::cmp::Reverse(cluster.len()), cluster[0]));
    for cluster in by_size.into_iter().take(LISTED_MAX) {
        report.clusters.push(LookAlikes {
            pictures: cluster.len() as u64,
            first: cluster
                .iter()
                .take(SAMPLES)
                .map(|example| examples[*example].id.clone())
                .collect(),
            is_placeholder: of_none(cluster),
        });
    }
    // A placeholder says nothing about labels.
    for cluster in clusters.all.iter().filter(|cluster| !of_none(cluster)) {
        report.compare_labels(examples, cluster);
    }
    report
}

impl Report {
    fn add(&mut self, one: &Seen<'_>) {
        let year = one
            .example
            .release_date
            .map_or("unknown".to_owned(), |date| format!("{:04}", date.year()));
        *self.years.entry(year).or_default() += 1;
        let mut sample = |kind: &str| {
            let ids = self.samples.entry(kind.to_owned()).or_default();
            if ids.len() < SAMPLES {
                ids.push(one.example.id.clone());
            }
        };
        for flag in one.flags {
            sample(flag);
            *self.flags.entry(flag).or_default() += 1;
        }
        match one.place {
            Err(why) => {
                sample(why);
                *self.skipped.entry(why.to_owned()).or_default() += 1;
            }
            Ok(split) => {
                let counts = self.label_counts.entry(split).or_default();
                *counts.entry(one.classes.len() as u32).or_default() += 1;
                for class in &one.classes {
                    let counts = self.classes.entry(split).or_default();
                    *counts.entry((*class).to_owned()).or_default() += 1;
                }
            }
        }
    }

    /// Every other example of a cluster is set beside the first.
    fn compare_labels(&mut self, examples: &[Example], cluster: &[usize]) {
        let set = |example: usize| examples[example].labels.iter().collect::<BTreeSet<_>>();
        // With the first alone: of a set of a thousand, all pairs would be half a million.
        let first = cluster[0];
        let others = cluster[1..]
            .iter()
            .filter(|other| set(first) != set(**other));
        let mut pairs = 0;
        for other in others {
            pairs += 1;
            if self.disagreements.len() < LISTED_MAX {
                self.disagreements.push(Disagreement {
                    pictures: [examples[first].id.clone(), examples[*other].id.clone()],
                    labels: [
                        examples[first].labels.clone(),
                        examples[*other].labels.clone(),
                    ],
                });
            }
        }
        self.disagreements_in_all += pairs;
        self.clusters_that_disagree += u64::from(pairs > 0);
    }
}

/// Flags that say how a picture stands to others. Every other one says what it is by itself: where most pictures
/// have that, it is what the set is like.
const OF_SEVERAL: [&str; 3] = ["exact_duplicate", "near_duplicate", "placeholder"];

/// Which of the flags to leave out by leave out pictures, and which would leave out more than half of them.
pub(super) fn flags_that_leave_out(
    asked: &[String],
    flags: &[Vec<&'static str>],
    usable: &[usize],
) -> (Vec<&'static str>, Vec<&'static str>) {
    let named = FLAGS.iter().map(|(flag, _)| *flag);
    let named = named.filter(|flag| asked.iter().any(|asked| asked == flag));
    named.partition(|flag| {
        let with = usable
            .iter()
            .filter(|at| flags[**at].contains(flag))
            .count();
        OF_SEVERAL.contains(flag) || with * 2 <= usable.len()
    })
}

#[cfg(test)]
mod tests {
    use marquee_domain::spec::QUALITY_FLAGS;

    use super::super::classes::tests::example;
    use super::*;

    #[test]
    fn the_flags_are_those_that_documents_may_name() {
        assert_eq!(FLAGS.map(|(flag, _)| flag), QUALITY_FLAGS);
        assert!(OF_SEVERAL.iter().all(|flag| QUALITY_FLAGS.contains(flag)));
    }

    #[test]
    fn a_flag_that_most_have_leaves_out_none_but_a_placeholder_always() {
        let asked = ["placeholder", "tiny", "blank"].map(str::to_owned);
        let with = |flags: &[&'static str], count: usize| vec![flags.to_vec(); count];
        let mut flags = with(&["tiny", "placeholder"], 60);
        flags.extend(with(&["blank"], 30));
        flags.extend(with(&[], 10));
        let usable: Vec<usize> = (0..100).collect();
        let (leave, most) = flags_that_leave_out(&asked, &flags, &usable);
        assert_eq!((leave, most), (vec!["blank", "placeholder"], vec!["tiny"]));
        // Of the usable ones it may be the few.
        let (leave, _) = flags_that_leave_out(&asked, &flags, &usable[30..]);
        assert_eq!(leave, ["tiny", "blank", "placeholder"]);
        assert_eq!(flags_that_leave_out(&[], &flags, &usable).0, [""; 0]);
    }

    #[test]
    fn sets_with_other_labels_are_counted_as_sets_and_pairs_as_pairs() {
        let examples: Vec<_> = (0..9)
            .map(|at| example(at, if at % 4 == 0 { "a" } else { "b" }, None))
            .collect();
        let all = vec![vec![0, 1, 2, 3], vec![4, 5], vec![6, 7]];
        let clusters = Clusters {
            strict: Vec::new(),
            all,
        };
        let report = report(&[], &clusters, &examples, &[]);
        assert_eq!(report.clusters_in_all, 3);
        assert_eq!(report.clusters_that_disagree, 2);
        assert_eq!(report.disagreements_in_all, 4);
    }
}
