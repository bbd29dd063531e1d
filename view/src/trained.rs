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

/// `computed once for 2,000 pictures, 310 ms each; training then went 38 times as fast ..`.
fn features(report: &FeaturesReport) -> String {
    let how = if report.from_cache {
        "kept by an earlier job"
    } else {
        "computed once"
    };
    format!(
        "{how} for {} pictures, {:.1} ms each; training then went {} times as fast as with the \
         frozen networks in every step",
        units::count(report.pictures),
        report.seconds_per_picture * 1e3,
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
        features computed once for 2,000 pictures, 310.4 ms each; training then went 38 times as fast as with the frozen networks in every step
        ");
        assert!(lines(&TrainSummary::default()).is_empty());
    }
}
