//! The two flavours side by side: the same weights and pictures through every model of the zoo.
//!
//! The current flavour draws weights and computes (`marquee-trainer write-vectors`), the other one
//! says how far its own results are from that (`marquee-trainer check-model`).

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use marquee_xtask::setup::Setup;
use marquee_xtask::workspace::Workspace;
use marquee_xtask::{process, report};

/// Results of a forward pass, and the gradient of the pictures after a backward pass.
const RESULTS: [&str; 4] = ["features", "logits", "logits_small", "grad_x"];
/// The largest difference that passes, as a share of the largest number of its result, where that is
/// more than 1: untrained networks without scaling in between have outputs and gradients of any size.
const TOLERANCE: f64 = 1e-5;

/// Compares all models, prints a line for each, and says whether all of them passed.
#[allow(clippy::print_stdout, reason = "the result is data")]
pub(super) fn run(workspace: &Workspace, other: &Path) -> Result<bool> {
    let setup = Setup::ensure()?;
    report::step("build: the current trainer", || {
        let mut command = workspace.cargo("build");
        // All of the workspace, so that dependencies have the features that tests built them with.
        process::run(setup.apply(&mut command).args(["--workspace", "--bins"]))
    })?;
    let current = workspace.bin_dir.join("marquee-trainer");
    let models = process::read(Command::new(&current).arg("models"))?;
    let scratch = workspace.bin_dir.join("flavours");
    let mut largest = 0.0_f64;
    let mut failed = Vec::new();
    for model in models.lines() {
        // For each model again, since it was removed after the one before.
        fs::create_dir_all(&scratch)?;
        let found = compare(model, &current, other, &scratch);
        // The weights of VGG-16 alone are half a gigabyte.
        fs::remove_dir_all(&scratch).ok();
        let apart = found?;
        let worst = apart.iter().fold(
            0.0,
            |most: f64, (_, d)| {
                if d.is_nan() { *d } else { most.max(*d) }
            },
        );
        // Not "is larger": what is no number must not pass.
        let passes = worst <= TOLERANCE;
        let each: Vec<String> = apart
            .iter()
            .map(|(what, d)| format!("{what} {d:.1e}"))
            .collect();
        println!(
            "{:<6} {model:<22} {}",
            if passes { "ok" } else { "FAILED" },
            each.join(", ")
        );
        largest = largest.max(worst);
        if !passes {
            failed.push(model);
        }
    }
    println!("largest difference {largest:.1e}, {TOLERANCE:.0e} allowed");
    if !failed.is_empty() {
        eprintln!("the flavours differ in {}", failed.join(", "));
    }
    Ok(failed.is_empty())
}

fn compare(
    model: &str,
    current: &Path,
    other: &Path,
    folder: &Path,
) -> Result<Vec<(&'static str, f64)>> {
    process::read(
        Command::new(current)
            .args(["write-vectors", model])
            .arg(folder),
    )?;
    let text = process::read(
        Command::new(other)
            .args(["check-model", model])
            .arg(folder.join("weights.safetensors"))
            .arg(folder.join("io.safetensors"))
            // The verdict is ours.
            .args(["--tolerance", "inf"]),
    )?;
    let found: Value = serde_json::from_str(text.trim())
        .with_context(|| format!("check-model of {model} printed no JSON object: {text:?}"))?;
    // What is missing is NaN, which passes nowhere.
    let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    let share = |what: &str| {
        let largest = number(&found["largest"][what]);
        // `max` would take 1 for what is missing.
        number(&found[what]) / if largest < 1.0 { 1.0 } else { largest }
    };
    Ok(RESULTS.map(|what| (what, share(what))).to_vec())
}
