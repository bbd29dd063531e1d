//! `cargo xtask zoo-check`: every model of the zoo against timm, at full size, with random weights.
//!
//! For each model `xtask/python/zoo_vectors.py full` draws weights and computes results in f32 and in
//! f64; `marquee-trainer check-model` computes them too. In eval mode a model passes when it is no
//! further from PyTorch's f32 than four times what that itself is from f64, or 1e-5; in train mode
//! when one step of SGD leaves the same weights and statistics within 1e-4 of each tensor's largest.
//!
//! Not here: small vectors without Python; they are tests of the trainer.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use marquee_xtask::setup::{Setup, python};
use marquee_xtask::workspace::Workspace;
use marquee_xtask::{process, report};

const REQUIREMENTS: &str = include_str!("../../python/zoo.txt");
/// Results that are compared in eval mode.
const RESULTS: [&str; 4] = ["features", "logits", "logits_small", "grad_x"];
/// A difference that passes whatever PyTorch's own noise is.
const TOLERANCE: f64 = 1e-5;
const TIMES_NOISE: f64 = 4.0;
/// Of each tensor's largest number, after one step.
const STEP_TOLERANCE: f64 = 1e-4;

/// The options of `zoo-check`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// None: all.
    pub names: Vec<String>,
    pub json: bool,
}

/// How one model did.
struct Verdict {
    name: String,
    /// Result, difference, what is allowed.
    results: Vec<(&'static str, f64, f64)>,
    /// Relative difference after one step.
    step: f64,
    /// How far the step moved the weights, in the same measure.
    moved: f64,
}

impl Verdict {
    /// Not "nothing is larger": what is not a number must not pass.
    fn passes(&self) -> bool {
        let eval = self.results.iter().all(|(_, apart, most)| apart <= most);
        // A step that moved nothing would agree with any other that moved nothing.
        eval && self.step <= STEP_TOLERANCE && self.moved > STEP_TOLERANCE
    }
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    let setup = Setup::ensure()?;
    let interpreter = python::ensure("zoo", REQUIREMENTS)?;
    report::step("build: the trainer", || {
        let mut command = workspace.cargo("build");
        // All of the workspace, so that dependencies have the features that tests built them with.
        process::run(setup.apply(&mut command).args(["--workspace", "--bins"]))
    })?;
    let trainer = workspace.bin_dir.join("marquee-trainer");
    let names = chosen(&trainer, &options.names)?;
    let scratch = workspace.bin_dir.join("zoo-check");
    let mut verdicts = Vec::with_capacity(names.len());
    for name in &names {
        let verdict = report::step(&format!("zoo-check: {name}"), || {
            let folder = scratch.join(name);
            // Not with "?" yet: the folder is removed in any case.
            let verdict = check(workspace, &interpreter, &trainer, name, &folder);
            // The weights of VGG-16 alone are half a gigabyte.
            fs::remove_dir_all(&folder).ok();
            verdict
        })?;
        report::note(&line(&verdict));
        verdicts.push(verdict);
    }
    conclude(&verdicts, options.json)
}

/// The models to check: those named, which must exist, or all.
fn chosen(trainer: &Path, names: &[String]) -> Result<Vec<String>> {
    let listed = process::read(Command::new(trainer).arg("models"))?;
    let listed: Vec<String> = listed.lines().map(str::to_owned).collect();
    match names.iter().find(|name| !listed.contains(name)) {
        Some(unknown) => bail!(
            r#"there is no model "{unknown}"; the models are {}"#,
            listed.join(", ")
        ),
        None if names.is_empty() => Ok(listed),
        None => Ok(names.to_vec()),
    }
}

fn check(
    workspace: &Workspace,
    interpreter: &Path,
    trainer: &Path,
    name: &str,
    folder: &Path,
) -> Result<Verdict> {
    let script = workspace.root.join("xtask/python/zoo_vectors.py");
    let mut python = Command::new(interpreter);
    python.arg(script).args(["full", name]).arg(folder);
    let told: Value = parse(&process::read(&mut python)?)?;

    let file = |name: &str| -> PathBuf { folder.join(name) };
    let mut check = Command::new(trainer);
    check
        .args(["check-model", name])
        .args([file("weights.safetensors"), file("io.safetensors")])
        .arg("--stepped")
        .arg(file("stepped.safetensors"))
        // The verdict is ours: it knows PyTorch's noise.
        .args(["--tolerance", "inf"]);
    let found: Value = parse(&process::read(&mut check)?)?;
    let results = RESULTS
        .iter()
        .map(|result| {
            let noise = number(&told["noise"][result]);
            (
                *result,
                number(&found[result]),
                TOLERANCE.max(TIMES_NOISE * noise),
            )
        })
        .collect();
    Ok(Verdict {
        name: name.to_owned(),
        results,
        step: number(&found["step_relative"]),
        moved: number(&told["moved"]),
    })
}

fn parse(text: &str) -> Result<Value> {
    // The last line: libraries print warnings before it.
    let last = text.lines().last().unwrap_or_default();
    serde_json::from_str(last).with_context(|| format!("this is no JSON object: {last:?}"))
}

/// A number of a report; what is missing or none is NaN, which passes nowhere.
fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

fn line(verdict: &Verdict) -> String {
    let word = if verdict.passes() { "ok" } else { "FAILED" };
    let results: Vec<String> = verdict
        .results
        .iter()
        .map(|(what, apart, most)| format!("{what} {apart:.1e} of {most:.1e}"))
        .collect();
    format!(
        "{word:<6} {:<22} {}, step {:.1e} of {STEP_TOLERANCE:.0e} (moved {:.1e})",
        verdict.name,
        results.join(", "),
        verdict.step,
        verdict.moved
    )
}

#[allow(clippy::print_stdout, reason = "the result is data")]
fn conclude(verdicts: &[Verdict], as_json: bool) -> Result<ExitCode> {
    let failed: Vec<&str> = verdicts
        .iter()
        .filter(|verdict| !verdict.passes())
        .map(|verdict| verdict.name.as_str())
        .collect();
    if as_json {
        let models: Vec<Value> = verdicts.iter().map(as_value).collect();
        let all = json!({ "ok": failed.is_empty(), "models": models });
        println!("{}", serde_json::to_string(&all)?);
    } else {
        for verdict in verdicts {
            println!("{}", line(verdict));
        }
    }
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("not as PyTorch computes: {}", failed.join(", "));
    Ok(ExitCode::FAILURE)
}

fn as_value(verdict: &Verdict) -> Value {
    let mut value = json!({
        "name": verdict.name,
        "ok": verdict.passes(),
        "step_relative": verdict.step,
        "step_tolerance": STEP_TOLERANCE,
        "moved": verdict.moved,
    });
    for (what, apart, most) in &verdict.results {
        value[*what] = json!({ "difference": apart, "tolerance": most });
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(apart: f64, step: f64, moved: f64) -> Verdict {
        Verdict {
            name: "n".to_owned(),
            results: vec![("logits", apart, 1e-5)],
            step,
            moved,
        }
    }

    #[test]
    fn a_model_passes_only_with_numbers_within_the_tolerances_and_a_step_that_moved() {
        assert!(verdict(9e-6, 9e-5, 0.1).passes());
        assert!(!verdict(2e-5, 0.0, 0.1).passes());
        assert!(!verdict(0.0, 2e-4, 0.1).passes());
        assert!(!verdict(f64::NAN, 0.0, 0.1).passes());
        assert!(!verdict(0.0, f64::NAN, 0.1).passes());
        assert!(!verdict(0.0, 0.0, 0.0).passes());
        assert!(number(&json!({})["missing"]).is_nan());
    }
}
