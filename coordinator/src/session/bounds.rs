//! What a report may say: every number fits its column, every name its key. A report beyond that ends its
//! rank with the reason, before anything of it is stored.

use std::collections::BTreeSet;

use marquee_domain::limits::{COUNT_MAX, METRIC_NAME_MAX_BYTES, METRICS_PER_REPORT_MAX};
use marquee_proto::convert::BadField;
use marquee_proto::v1;

type Judged = Result<(), BadField>;

/// A step, a size or whatever else is counted: Postgres' integers are signed.
pub(super) fn count(field: &'static str, value: u64) -> Judged {
    if value <= COUNT_MAX {
        return Ok(());
    }
    let why = format!("{value}, at most {COUNT_MAX}");
    Err(BadField::invalid(field, why))
}

pub(super) fn progress(new: &v1::RankProgress) -> Judged {
    count("progress.done", new.done)?;
    count("progress.total", new.total.unwrap_or(0))?;
    count("progress.bytes", new.bytes.unwrap_or(0))?;
    let mut problems = new.problems.values();
    problems.try_for_each(|many| count("progress.problems", *many))
}

/// Metrics with their names as they are stored, each once.
pub(super) fn metrics(step: u64, names: &[String]) -> Judged {
    count("metrics.step", step)?;
    if names.len() > METRICS_PER_REPORT_MAX {
        let why = format!("{} values, at most {METRICS_PER_REPORT_MAX}", names.len());
        return Err(BadField::invalid("metrics.values", why));
    }
    let mut seen = BTreeSet::new();
    for name in names {
        if name.is_empty() || name.len() > METRIC_NAME_MAX_BYTES {
            let start = &name[..name.floor_char_boundary(40)];
            let why = format!(
                "the name {start:?} has {} bytes; 1 to {METRIC_NAME_MAX_BYTES} are allowed",
                name.len()
            );
            return Err(BadField::invalid("metrics.values", why));
        }
        if !seen.insert(name) {
            let why =
                format!("{name:?} stands for two values, once what cannot be stored is replaced");
            return Err(BadField::invalid("metrics.values", why));
        }
    }
    Ok(())
}

pub(super) fn regrouped(report: &v1::RankRegrouped) -> Judged {
    count("regrouped.step", report.step)?;
    count("regrouped.steps_lost", report.steps_lost)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(judged: Judged) -> String {
        judged.unwrap_err().to_string()
    }

    #[test]
    fn what_fits_passes_up_to_the_last() {
        let name = "x".repeat(METRIC_NAME_MAX_BYTES);
        let names: Vec<String> = (1..METRICS_PER_REPORT_MAX).map(|n| n.to_string()).collect();
        let names: Vec<String> = names.into_iter().chain([name]).collect();
        metrics(COUNT_MAX, &names).unwrap();
        count("done", COUNT_MAX).unwrap();
    }

    #[test]
    fn each_bound_is_named_with_its_field() {
        assert!(why(metrics(COUNT_MAX + 1, &[])).contains("metrics.step"));
        let many: Vec<String> = (0..=METRICS_PER_REPORT_MAX)
            .map(|n| n.to_string())
            .collect();
        assert!(why(metrics(0, &many)).contains("4097 values, at most 4096"));
        // A letter of two bytes across the place where the name is cut for the message.
        let long = format!("{}é{}", "x".repeat(39), "y".repeat(METRIC_NAME_MAX_BYTES));
        assert!(why(metrics(0, &[long])).contains("has 297 bytes"));
        assert!(why(metrics(0, &[String::new()])).contains("0 bytes"));
        assert!(why(metrics(0, &["a".into(), "a".into()])).contains("two values"));
        let far = v1::RankProgress {
            problems: [("x".into(), u64::MAX)].into(),
            ..Default::default()
        };
        assert!(why(progress(&far)).contains("progress.problems"));
        let lost = v1::RankRegrouped {
            steps_lost: u64::MAX,
            ..Default::default()
        };
        assert!(why(regrouped(&lost)).contains("regrouped.steps_lost"));
    }
}
