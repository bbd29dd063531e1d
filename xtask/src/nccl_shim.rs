//! `cargo xtask nccl-shim`: builds `libmarquee_nccl.so` from the headers of pinned wheels.
//!
//! It is no part of the trainer's own build: that needs no CUDA headers, and must stay quick. No CUDA
//! compiler and no GPU is needed; what it takes from libtorch's CUDA half and from NCCL is left
//! undefined, and found when the trainer loads it after them.
//!
//! Invariant: a file in the cache belongs to the text of its sources, the compiler and libtorch's
//! version, which its folder's name is made from, and is whole: it is renamed into place.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::workspace::Workspace;
use crate::{process, report, setup};

/// Name of the file.
pub const FILE: &str = "libmarquee_nccl.so";
/// Its sources, below the checkout; the first is what is compiled.
const SOURCES: [&str; 7] = [
    "trainer/shim/nccl/nccl.cpp",
    "trainer/shim/guard.hpp",
    "trainer/shim/nccl/include/cublas_v2.h",
    "trainer/shim/nccl/include/cublasLt.h",
    "trainer/shim/nccl/include/cusolverDn.h",
    "trainer/shim/nccl/include/cusolver_common.h",
    "trainer/shim/nccl/include/cusparse.h",
];
/// Only the functions that say so are seen from outside; where libtorch lies is not in the file.
const FLAGS: [&str; 9] = [
    "-std=c++17",
    "-O2",
    "-fPIC",
    "-shared",
    "-fvisibility=hidden",
    "-fvisibility-inlines-hidden",
    "-DUSE_C10D_NCCL",
    "-DUSE_DISTRIBUTED",
    "-s",
];
/// What it needs of libtorch's CPU half; the rest is loaded before it.
const LIBRARIES: [&str; 3] = ["-Wl,--no-as-needed", "-ltorch_cpu", "-lc10"];

/// Builds it, or finds it in the cache, and puts a copy into `to`, or beside the debug binaries.
pub fn run(workspace: &Workspace, to: Option<&Path>) -> Result<ExitCode> {
    let built = build(workspace)?;
    let folder = to.unwrap_or(&workspace.bin_dir);
    let copy = folder.join(FILE);
    fs::create_dir_all(folder)
        .and_then(|()| fs::copy(&built, &copy))
        .with_context(|| format!("cannot write {}", copy.display()))?;
    writeln!(std::io::stdout(), "{}", copy.display())?;
    Ok(ExitCode::SUCCESS)
}

/// The file in the cache, built first if it is not there.
pub fn build(workspace: &Workspace) -> Result<PathBuf> {
    let libtorch = setup::libtorch()?;
    let headers = setup::nccl_headers()?;
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    // The name of the folder is all that tells whether the file in it fits.
    let key = key(workspace, &compiler, &libtorch)?;
    let folder = setup::cache_folder()?.join(format!("nccl-shim-{key:016x}"));
    let file = folder.join(FILE);
    if file.exists() {
        return Ok(file);
    }
    report::step(&format!("build: {FILE}"), || {
        fs::create_dir_all(&folder)?;
        // Two builds at once write two files, and the rename makes either of them the whole one.
        let partial = folder.join(format!("{FILE}.{}.partial", std::process::id()));
        let mut command = Command::new(&compiler);
        command
            .current_dir(&workspace.root)
            .args(FLAGS)
            .arg("-Itrainer/shim/nccl/include")
            .arg("-isystem")
            .arg(headers.join("nvidia/cu13/include"))
            .arg("-isystem")
            .arg(headers.join("nvidia/nccl/include"))
            .arg("-isystem")
            .arg(libtorch.join("include"))
            .arg("-isystem")
            .arg(libtorch.join("include/torch/csrc/api/include"))
            .arg(SOURCES[0])
            .arg("-o")
            .arg(&partial)
            .arg(format!("-L{}", libtorch.join("lib").display()))
            .args(LIBRARIES);
        let built = process::read(&mut command);
        if built.is_err() {
            // A compiler that failed may leave nothing, or something.
            let _ = fs::remove_file(&partial);
        }
        built?;
        fs::rename(&partial, &file)?;
        Ok(())
    })?;
    Ok(file)
}

/// Names a folder, protects nothing.
fn key(workspace: &Workspace, compiler: &str, libtorch: &Path) -> Result<u64> {
    let mut hasher = DefaultHasher::new();
    for source in SOURCES {
        let path = workspace.root.join(source);
        fs::read(&path)
            .with_context(|| format!("cannot read {}", path.display()))?
            .hash(&mut hasher);
    }
    (FLAGS, LIBRARIES).hash(&mut hasher);
    // By its version, too: an upgraded compiler has the same name.
    process::read(Command::new(compiler).arg("--version"))?.hash(&mut hasher);
    fs::read(libtorch.join("include/torch/headeronly/version.h"))?.hash(&mut hasher);
    Ok(hasher.finish())
}
