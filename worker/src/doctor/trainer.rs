//! The programs that do the work: there, startable, of one version; what the trainer can run on; NCCL.

use std::path::Path;

use marquee_domain::doctor::Check;
use marquee_domain::flavour::Capability;
use serde::Deserialize;

use super::{ask, last_line};
use crate::config::Config;

/// What `marquee-trainer facts --json` says.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Trainer {
    pub(super) flavour: String,
    /// Compute capabilities with machine code in its libtorch.
    pub(super) kernels: Vec<Capability>,
    /// The CUDA that its libtorch was built for, as NVML writes it: 13000 is 13.0.
    pub(super) cuda: Option<u32>,
    /// Why `libtorch_cuda.so` and what it needs do not load; None: they do.
    pub(super) cuda_missing: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Nccl {
    usable: bool,
    reason: Option<String>,
    cure: Option<String>,
}

/// Seconds that NCCL's trial may take; below the time that any program has here.
const NCCL_MAX_S: &str = "45";

const INSTALL: &str =
    "install all programs of one build into one folder (docs/deploy.md, \"Install on a host\")";

/// Looks at the programs. Gives what the trainer says of itself, if it starts.
pub(super) async fn look(config: &Config, checks: &mut Vec<Check>) -> Option<Trainer> {
    let folder = &config.bin_dir;
    checks.push(program(folder, "marquee-prep").await);
    let trainer = program(folder, "marquee-trainer").await;
    // One of another build is not asked either: what it says of itself may mean something else here.
    let starts = trainer.cure.is_none();
    checks.push(trainer);
    if !starts {
        return None;
    }
    let asked = ask(&folder.join("marquee-trainer"), &["facts", "--json"]).await;
    let facts = asked
        .and_then(|output| serde_json::from_slice(&output.stdout).map_err(|_| last_line(&output)));
    match facts {
        Ok(facts) => Some(facts),
        Err(why) => {
            let cure = format!("it is older than this marquee-worker: {INSTALL}");
            checks.push(Check::warning(
                "trainer facts",
                format!("marquee-trainer facts --json: {why}"),
                cure,
            ));
            None
        }
    }
}

async fn program(folder: &Path, name: &'static str) -> Check {
    let path = folder.join(name);
    if !path.exists() {
        let found = format!("there is none in {}", folder.display());
        let cure = format!("{INSTALL}, or name its folder with bin_dir");
        return Check::failed(name, found, cure);
    }
    let output = match ask(&path, &["--version"]).await {
        Ok(output) if output.status.success() => output,
        Ok(output) => {
            let found = format!("does not start: {}", last_line(&output));
            return Check::failed(name, found, cure_of_start(name, &path));
        }
        Err(why) => return Check::failed(name, why, cure_of_start(name, &path)),
    };
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let version = text.split_whitespace().nth(1).unwrap_or_default();
    let ours = env!("CARGO_PKG_VERSION");
    // Equal, not "new enough": nobody has tried programs of two builds with each other.
    if version == ours {
        return Check::ok(name, text);
    }
    let found = format!("{text}, but marquee-worker is {ours}");
    Check::failed(name, found, INSTALL)
}

fn cure_of_start(name: &str, path: &Path) -> String {
    let path = path.display();
    if name == "marquee-trainer" {
        format!(
            "put libtorch where it looks (docs/deploy.md), then try \"{path} --version\"; \"ldd {path}\" names what is missing"
        )
    } else {
        format!("try \"{path} --version\"; \"ldd {path}\" names what is missing")
    }
}

/// Whether the ranks of a gang can speak over NCCL, by the trainer's own test.
pub(super) async fn nccl(
    config: &Config,
    trainer: &Option<Trainer>,
    gpus: usize,
    checks: &mut Vec<Check>,
) {
    if gpus == 0 {
        checks.push(Check::skipped("nccl", "no GPU: ranks speak over Gloo"));
        return;
    }
    if trainer.is_none() {
        checks.push(Check::skipped("nccl", "no trainer that could be asked"));
        return;
    }
    let path = config.bin_dir.join("marquee-trainer");
    let asked = ask(&path, &["nccl-check", "--json", "--timeout-s", NCCL_MAX_S]).await;
    let answer = asked.and_then(|output| {
        serde_json::from_slice::<Nccl>(&output.stdout).map_err(|_| last_line(&output))
    });
    let or = |text: Option<String>, otherwise: &str| {
        text.filter(|text| !text.is_empty())
            .unwrap_or_else(|| otherwise.to_owned())
    };
    checks.push(match answer {
        Ok(answer) if answer.usable => Check::ok("nccl", or(answer.reason, "its self-test passed")),
        // A warning: over Gloo the same jobs run, only slower.
        Ok(answer) => Check::warning(
            "nccl",
            or(answer.reason, "not usable"),
            or(
                answer.cure,
                "see docs/training.md; gangs on GPUs have Gloo alone",
            ),
        ),
        Err(why) => Check::warning(
            "nccl",
            format!("not built into this marquee-trainer ({why}): gangs on GPUs have Gloo alone"),
            "build the trainer with its NCCL shim (docs/deploy.md), and install it",
        ),
    });
}
