//! The trainer's second build, for GPUs that the current libtorch has left behind: where it is, and whether
//! its sources and lockfile fit. What builds and tests it is the lab's (`cargo xtask trainer`).

use std::path::Path;

use anyhow::{Context, Result};

use crate::process;
use crate::workspace::Workspace;

/// The package, seen from the checkout's root.
pub const MANIFEST: &str = "trainer/flavours/kepler/Cargo.toml";

/// Whether the sources fit the flavour's tch and its lockfile the sources' dependencies, without a
/// libtorch: `cargo xtask check`'s part.
pub fn check_sources(workspace: &Workspace) -> Result<()> {
    let mut command = workspace.cargo("check");
    command
        .args(["--locked", "--manifest-path", MANIFEST])
        .args(["--features", "headerless", "--all-targets"])
        // With the workspace's own profile: how a dependency is optimised is part of its name in the target
        // folder, so by the flavour's profile all 410 crates would be checked again instead of some 130.
        .arg("--config")
        .arg(workspace.root.join("Cargo.toml"))
        .env("CARGO_TARGET_DIR", target_of(workspace));
    process::run(&mut command).context(
        "the trainer's sources no longer fit its flavour for Kepler GPUs; a dependency that is new or \
         changed belongs into trainer/flavours/kepler/Cargo.toml too, and \"cargo xtask trainer --flavour \
         kepler --lock\" mends its lockfile",
    )
}

/// The workspace's own target folder: what clippy has checked already is not checked again.
fn target_of(workspace: &Workspace) -> &Path {
    workspace.bin_dir.parent().unwrap_or(&workspace.bin_dir)
}
