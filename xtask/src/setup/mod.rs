//! What must be on the machine before the workspace builds and runs: libtorch, a C++ compiler and
//! Postgres' server binaries. Whatever is fetched goes to the user's cache folder, never into the
//! checkout or the system.
//!
//! Invariant: nothing that Marquee is built, tested or run with is fetched unless it is pinned by name,
//! version and SHA-256 in `marquee_wheels::pins`. (The packages that it is compared with are pinned by version.)

mod libtorch;
mod node;
mod postgres;
pub mod python;

pub use marquee_wheels::cache::folder as cache_folder;
pub use node::Node;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::Result;
use marquee_wheels::{bundle, cache, pins, tools};

use crate::report;

/// Where the things are that a build or a test run needs.
#[derive(Debug)]
pub struct Setup {
    /// A folder with `include/` and `lib/`, for the variable LIBTORCH.
    pub libtorch: PathBuf,
    /// The folder with `postgres` and `initdb`, for MARQUEE_POSTGRES_BIN.
    pub postgres_bin: PathBuf,
}

impl Setup {
    /// Finds everything, fetching what is missing.
    pub fn ensure() -> Result<Self> {
        report::step("set-up: C++ compiler, libtorch, Postgres", || {
            tools::require_cxx()?;
            let libtorch = libtorch::CURRENT.ensure()?;
            report::note(&format!("libtorch: {}", libtorch.display()));
            let postgres_bin = postgres::ensure()?;
            report::note(&format!("Postgres: {}", postgres_bin.display()));
            Ok(Self {
                libtorch,
                postgres_bin,
            })
        })
    }

    /// Gives a command the variables that builds and tests read.
    pub fn apply<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command
            .env("LIBTORCH", &self.libtorch)
            .env("MARQUEE_POSTGRES_BIN", &self.postgres_bin)
    }
}

/// The folder for the variable LIBTORCH.
pub fn libtorch() -> Result<PathBuf> {
    libtorch::CURRENT.ensure()
}

/// The folder with `nvidia/nccl/include` and `nvidia/cu13/include`.
pub fn nccl_headers() -> Result<PathBuf> {
    bundle::ensure(&pins::NCCL_HEADERS)
}

/// The libtorch for Kepler GPUs, fetched if it is missing: a folder for the variable LIBTORCH.
pub fn kepler_libtorch() -> Result<PathBuf> {
    report::step("set-up: C++ compiler, libtorch for Kepler GPUs", || {
        tools::require_cxx()?;
        let libtorch = libtorch::KEPLER.ensure()?;
        report::note(&format!("libtorch: {}", libtorch.display()));
        Ok(libtorch)
    })
}

/// What a host with Kepler GPUs needs to run: a folder with `torch/lib` and `nvidia/*/lib`.
pub fn kepler_runtime() -> Result<PathBuf> {
    report::step(
        "set-up: libtorch and CUDA libraries for Kepler GPUs",
        || bundle::ensure(&pins::LIBTORCH_KEPLER_GPU),
    )
}

/// Postgres alone, for what needs nothing else: the folder for MARQUEE_POSTGRES_BIN.
pub fn postgres_bin() -> Result<PathBuf> {
    postgres::ensure()
}

/// Says before anything is done what a set-up would fetch, one sentence for each thing.
pub fn plan() -> Vec<String> {
    vec![libtorch::CURRENT.plan(), postgres::plan(), node::plan()]
}

/// `cargo xtask setup`: the variables as lines that a shell can evaluate.
pub fn print_environment() -> Result<ExitCode> {
    let setup = Setup::ensure()?;
    let mut stdout = std::io::stdout();
    for (name, path) in [
        ("LIBTORCH", &setup.libtorch),
        ("MARQUEE_POSTGRES_BIN", &setup.postgres_bin),
    ] {
        writeln!(stdout, "{}", export(name, path))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A line that sets a variable in any shell, whatever the path holds.
fn export(name: &str, path: &Path) -> String {
    let quoted = path.display().to_string().replace('\'', r"'\''");
    format!("export {name}='{quoted}'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_back_the_path_that_was_exported() {
        for path in ["/opt/libtorch", "/home/o'brien/my libs/$HOME", "/a;b\\"] {
            let script = format!(
                "{}; printf %s \"$LIBTORCH\"",
                export("LIBTORCH", Path::new(path))
            );
            let read = Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&read.stdout), path);
        }
    }

    #[test]
    fn what_a_set_up_will_do_is_said_in_one_sentence_for_each_thing() {
        let plan = plan();
        let [libtorch, postgres, node] = plan.as_slice() else {
            panic!("three sentences, not {plan:?}");
        };
        // What it fetches it says with its size, what is there with its place.
        assert!(libtorch.contains("libtorch"), "{libtorch}");
        assert!(
            libtorch.contains(" MB") || libtorch.contains('/'),
            "{libtorch}"
        );
        assert!(
            node.contains("Node.js") && node.contains("web page"),
            "{node}"
        );
        assert!(
            postgres.contains("Postgres") && (postgres.contains(" MB") || postgres.contains('/')),
            "{postgres}"
        );
    }
}
