//! What a train job says of itself once it has ended: the weights that it started from, and
//! features of frozen networks that it computed once. Pure.

use marquee_domain::report::{FeaturesReport, TrainSummary, WeightsReport};

use crate::units;

/// Both as labelled lines, of the rank that tells for all.
#[must_use]
pub fn lines(rank: &TrainSummary) -> Vec<(&'static str, String)> {
    let given = rank
        .weights
        .iter()
        .map(|report| ("weights", weights(report)));
    let computed = rank
        .features
        .iter()
        .map(|report| ("features", features(report)));
    given.chain(computed).collect()
}

/// `xception: 276 tensors of legacy_xception.safetensors; not taken: 2, missing: 1`.
fn weights(report: &WeightsReport) -> String {
    let mut line = String::new();
    if !report.network.is_empty() {
        line.push_str(&format!("{}: ", report.network));
    }
    // The name alone: the folder is one of the worker's, and means nothing to who reads this
    // elsewhere.
    let file = report.file.rsplit('/').next().unwrap_or(&report.file);
    let loaded = usize::try_from(report.loaded).unwrap_or(usize::MAX);
    line.push_str(&format!("{} of {file}", units::plural(loaded, "tensor")));
    for (what, names) in [
        ("classifier", &report.head),
        ("not taken", &report.skipped),
        ("missing", &report.missing),
    ] {
        if let [first, others @ ..] = names.as_slice() {
            line.push_str(&format!("; {what}: {first}"));
            if !others.is_empty() {
                line.push_str(&format!(" and {} more", others.len()));
            }
        }
    }
    line
}

/// `computed once: 3,921 passes over 2,145 pictures in 45.0 s, 11.5 ms each; steps were then 38 times ..`.
fn features(report: &FeaturesReport) -> String {
    let pictures = units::count(report.pictures);
    let how = if report.from_cache {
        format!(
            "those of {pictures} pictures were kept by an earlier job and read in {:.1} s",
            report.seconds
        )
    } else if report.passes == 0 {
        // An earlier version did not count passes.
        format!(
            "computed once for {pictures} pictures, {:.1} ms a pass",
            report.seconds_per_picture * 1e3
        )
    } else {
        format!(
            "computed once: {} passes over {pictures} pictures in {:.1} s, {:.1} ms each",
            units::count(report.passes),
            report.seconds,
            report.seconds_per_picture * 1e3
        )
    };
    format!(
        "{how}; steps were then {} times as fast as with the frozen networks in them",
        times(report.speedup)
    )
}

/// Two digits say enough of a ratio.
fn times(ratio: f64) -> String {
    if ratio < 10.0 {
        format!("{ratio:.1}")
    } else {
        format!("{ratio:.0}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_loaded_and_how_much_faster_it_went_is_one_line_each() {
        let rank = TrainSummary {
            weights: vec![WeightsReport {
                file: "/data/weights/legacy_xception.safetensors".into(),
                network: "xception".into(),
                loaded: 234,
                head: vec!["fc.weight is for 1000 classes".into(), "fc.bias".into()],
                ..WeightsReport::default()
            }],
            features: Some(FeaturesReport {
                pictures: 2_000,
                passes: 3_700,
                seconds: 1_148.5,
                width: 3_584,
                from_cache: false,
                seconds_per_picture: 0.3104,
                speedup: 38.4,
            }),
            ..TrainSummary::default()
        };
        let text: Vec<String> = lines(&rank)
            .into_iter()
            .map(|(label, line)| format!("{label} {line}"))
            .collect();
        insta::assert_snapshot!(text.join("\n"), @"
        weights xception: 234 tensors of legacy_xception.safetensors; classifier: fc.weight is for 1000 classes and 1 more
        features computed once: 3,700 passes over 2,000 pictures in 1148.5 s, 310.4 ms each; steps were then 38 times as fast as with the frozen networks in them
        ");
        assert!(lines(&TrainSummary::default()).is_empty());
    }
}
