//! The comparisons that answer a bench's questions.
//!
//! Invariant: a comparison is between two cases that differ in one thing alone, both measured here.

use super::case::{Case, Input};
use super::devices::{DeviceKind, Devices};
use super::results::{Results, Row};

/// One case against another that differs in one thing.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Finding {
    /// Such as "ranks", for programs.
    pub name: &'static str,
    pub what: String,
    /// Images a second.
    pub value: f64,
    pub reference: f64,
}

impl Finding {
    pub(super) fn ratio(&self) -> f64 {
        self.value / self.reference
    }
}

/// In which comparisons are told.
const ORDER: [&str; 3] = ["ranks", "input", "tensorboard"];

/// The comparisons, each in one thing: ranks, input, TensorBoard, GPUs against CPUs.
pub(super) fn findings(results: &Results) -> Vec<Finding> {
    let mut found = Vec::new();
    for row in &results.rows {
        found.extend(of_ranks(results, row));
        found.extend(of_input(results, row));
        found.extend(of_tensorboard(results, row));
    }
    found.sort_by_key(|finding: &Finding| ORDER.iter().position(|name| *name == finding.name));
    found.extend(of_gpus(results));
    found
}

fn of_ranks(results: &Results, row: &Row) -> Option<Finding> {
    let base = results.base_of(&row.case)?;
    // What TensorBoard costs has a comparison of its own: told with it on as well, this one would
    // stand there twice.
    if base.case == row.case || row.case.tensorboard {
        return None;
    }
    Some(Finding {
        name: "ranks",
        what: format!(
            "{} against {}, {}",
            row.case.devices,
            base.case.devices.ranks,
            row.case.input.meaning()
        ),
        value: row.rate.median,
        reference: base.rate.median,
    })
}

fn of_input(results: &Results, row: &Row) -> Option<Finding> {
    if row.case.input == Input::Original || row.case.tensorboard {
        return None;
    }
    let reference = Case {
        input: Input::Original,
        ..row.case.clone()
    };
    Some(Finding {
        name: "input",
        what: format!(
            "{} against {}, {}",
            row.case.input.meaning(),
            Input::Original.meaning(),
            row.case.devices
        ),
        value: row.rate.median,
        reference: results.rate(&reference)?,
    })
}

fn of_tensorboard(results: &Results, row: &Row) -> Option<Finding> {
    if !row.case.tensorboard {
        return None;
    }
    let reference = Case {
        tensorboard: false,
        ..row.case.clone()
    };
    Some(Finding {
        name: "tensorboard",
        what: format!(
            "TensorBoard on against off, {}, {}",
            row.case.devices,
            row.case.input.meaning()
        ),
        value: row.rate.median,
        reference: results.rate(&reference)?,
    })
}

/// The most GPUs against the most CPU ranks, each with its best input.
fn of_gpus(results: &Results) -> Option<Finding> {
    let best = |kind: DeviceKind| {
        let of_kind = |row: &&Row| row.case.devices.kind == kind;
        let ranks = results.rows.iter().filter(of_kind);
        let most = ranks.map(|row| row.case.devices.ranks).max()?;
        let devices = Devices { kind, ranks: most };
        results
            .rows
            .iter()
            .filter(|row| row.case.devices == devices)
            // Each with the input that suits it best: CPUs that decode and train at once would make
            // GPUs look better than they are.
            .max_by(|a, b| a.rate.median.total_cmp(&b.rate.median))
    };
    let (gpu, cpu) = (best(DeviceKind::Gpu)?, best(DeviceKind::Cpu)?);
    Some(Finding {
        name: "gpu",
        what: format!("{} against {}", gpu.case.devices, cpu.case.devices),
        value: gpu.rate.median,
        reference: cpu.rate.median,
    })
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::{results, run};
    use super::*;

    #[test]
    fn every_comparison_differs_in_one_thing() {
        let found = results(&[
            run("cpu-1-original", 10.0),
            run("cpu-1-raw", 15.0),
            run("cpu-1-raw-tb", 14.7),
            run("cpu-2-original", 16.0),
            run("cpu-2-raw", 27.0),
            run("gpu-1-raw", 270.0),
        ]);
        let lines: Vec<String> = findings(&found)
            .iter()
            .map(|finding| {
                format!(
                    "{}: {} = {:.2}",
                    finding.name,
                    finding.what,
                    finding.ratio()
                )
            })
            .collect();
        insta::assert_snapshot!(lines.join("\n"), @r"
        ranks: 2 cpu ranks against 1, files decoded and resized each time = 1.60
        ranks: 2 cpu ranks against 1, raw shards = 1.80
        input: raw shards against files decoded and resized each time, 1 cpu rank = 1.50
        input: raw shards against files decoded and resized each time, 2 cpu ranks = 1.69
        tensorboard: TensorBoard on against off, 1 cpu rank, raw shards = 0.98
        gpu: 1 gpu rank against 2 cpu ranks = 10.00
        ");
    }

    #[test]
    fn one_case_alone_is_compared_with_nothing() {
        assert!(findings(&results(&[run("cpu-1-raw", 2.0)])).is_empty());
    }
}
