//! `cargo xtask weights-check`: published weights in, trained weights out, against PyTorch.
//!
//! torchvision's models with random weights and the published EfficientNet-Lite0 go through
//! `marquee weights import` and must give PyTorch's logits; the top 5 of real photographs follow from
//! logits that are closer than the fifth and sixth best class. A model that Marquee trained must
//! load in timm by all its names and give the same logits there.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use marquee_xtask::setup::{Setup, python};
use marquee_xtask::workspace::Workspace;
use marquee_xtask::{process, report};

const REQUIREMENTS: &str = include_str!("../../python/zoo.txt");
/// How far logits may be apart.
const TOLERANCE: &str = "1e-4";

pub(crate) fn run(workspace: &Workspace, trained: Option<&Path>) -> Result<ExitCode> {
    let setup = Setup::ensure()?;
    let interpreter = python::ensure("zoo", REQUIREMENTS)?;
    report::step("build: CLI and trainer", || {
        let mut command = workspace.cargo("build");
        process::run(setup.apply(command.args(["--workspace", "--bins"])))
    })?;
    let folder = workspace.bin_dir.join("../weights-check");
    // Made first, for only a folder that is there has a canonical path, and Python runs elsewhere.
    fs::create_dir_all(&folder)?;
    let folder = fs::canonicalize(folder)?;
    let script = workspace.root.join("xtask/python/weights_check.py");
    let python = |task: &str, folder: &Path| -> Result<Value> {
        let mut command = Command::new(&interpreter);
        let text = process::read(command.arg(&script).arg(task).arg(folder))?;
        serde_json::from_str(&text).context("the script printed no JSON")
    };
    report::step("import: torchvision's and published weights", || {
        let cases = python("prepare", &folder)?;
        for case in cases.as_array().context("the script printed no list")? {
            check(workspace, case, &folder)?;
        }
        Ok(())
    })?;
    if let Some(trained) = trained {
        report::step("export: a trained model in timm", || {
            let case = python("trained", trained)?;
            let weights = trained.join("model.safetensors");
            compare(
                workspace,
                text(&case, "model")?,
                &weights,
                text(&case, "io")?,
            )
        })?;
    }
    Ok(ExitCode::SUCCESS)
}

fn text<'a>(case: &'a Value, key: &str) -> Result<&'a str> {
    case[key].as_str().with_context(|| format!("no {key}"))
}

fn check(workspace: &Workspace, case: &Value, folder: &Path) -> Result<()> {
    let (model, checkpoint) = (text(case, "model")?, text(case, "checkpoint")?);
    let mut import = Command::new(workspace.bin_dir.join("marquee"));
    let imported = process::read(
        import
            .args(["weights", "import", "--output", "json", checkpoint, "--to"])
            .arg(folder.join("imported")),
    )?;
    let imported: Value = serde_json::from_str(&imported)?;
    // ResNet's names are the same everywhere, so they tell of no one model.
    let told = &imported["note"]["model"];
    if !told.is_null() && told != model {
        bail!("{checkpoint} was taken for {told}, but it is of {model}");
    }
    compare(
        workspace,
        model,
        Path::new(text(&imported, "weights")?),
        text(case, "io")?,
    )?;
    if let Some(top) = case.get("top5") {
        report::note(&format!("top 5 as PyTorch's: {top}"));
    }
    Ok(())
}

fn compare(workspace: &Workspace, model: &str, weights: &Path, io: &str) -> Result<()> {
    let mut command = Command::new(workspace.bin_dir.join("marquee-trainer"));
    let told = process::read(command.arg("check-model").arg(model).arg(weights).args([
        io,
        "--tolerance",
        TOLERANCE,
    ]))?;
    report::note(&format!("{model}: {}", told.trim()));
    Ok(())
}
