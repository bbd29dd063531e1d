//! Compiles the C++ shim against the libtorch that torch-sys found, and tells the linker where the
//! binaries and tests of this crate find libtorch at run time, so that nobody needs
//! `LD_LIBRARY_PATH`.

use std::path::{Path, PathBuf};
use std::{env, fs};

/// The version whose headers the shim is written for, and that tch 0.24 expects. tch's own check
/// reads a file that PyPI's wheel does not carry, so it has to be made here.
const LIBTORCH_VERSION: (u32, u32) = (2, 11);

/// Where an installed tree keeps libtorch, seen from the folder of the binary.
const INSTALLED_LIB: &str = "$ORIGIN/../lib/marquee/torch/lib";

const SOURCES: &[&str] = &[
    "shim/collective.cpp",
    "shim/device.cpp",
    "shim/optimizer.cpp",
    "shim/runtime.cpp",
    "shim/script.cpp",
];

fn main() {
    // Not shim/nccl: "cargo xtask nccl-shim" builds that.
    for part in SOURCES.iter().chain(&["shim/guard.hpp", "shim/include"]) {
        println!("cargo:rerun-if-changed={part}");
    }
    println!("cargo:rerun-if-env-changed=LIBTORCH");

    // Set by torch-sys for those that depend on it directly.
    let lib = PathBuf::from(
        env::var("DEP_TCH_LIBTORCH_LIB")
            .expect("torch-sys names its libtorch to direct dependents"),
    );
    let torch = lib
        .parent()
        .expect("libtorch's lib folder lies in libtorch's own folder");
    let include = torch.join("include");
    // Workers tell the coordinator what their trainer links; `--version` tells the worker.
    println!(
        "cargo:rustc-env=MARQUEE_FLAVOUR=libtorch-{}",
        checked_version(&include)
    );

    cc::Build::new()
        .cpp(true)
        .std("c++17")
        // Ours go first: the wheel ships no gloo headers, see shim/include/gloo.
        .include("shim/include")
        .include("shim")
        .flag("-isystem")
        .flag(&include)
        .flag("-isystem")
        .flag(include.join("torch/csrc/api/include"))
        .define("USE_C10D_GLOO", None)
        .define("USE_DISTRIBUTED", None)
        .files(SOURCES)
        .compile("marquee_shim");
    // The static archive comes after torch-sys on the linker's line and needs these itself.
    println!("cargo:rustc-link-lib=torch_cpu");
    println!("cargo:rustc-link-lib=c10");

    println!("cargo:rustc-link-arg=-Wl,-rpath,{INSTALLED_LIB}");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
}

/// The version of the headers, such as "2.11.0". Stops the build with a clear word when it is not
/// one that the shim is written for.
fn checked_version(include: &Path) -> String {
    let header = include.join("torch/headeronly/version.h");
    println!("cargo:rerun-if-changed={}", header.display());
    let text = fs::read_to_string(&header).unwrap_or_else(|error| {
        panic!(
            "no libtorch headers at {} ({error}); set LIBTORCH to the torch folder of libtorch 2.11, \
             or run \"cargo xtask demo\" once, which fetches it",
            header.display()
        )
    });
    let number = |name: &str| -> Option<u32> {
        let prefix = format!("#define TORCH_VERSION_{name} ");
        text.lines()
            .find_map(|line| line.strip_prefix(&prefix)?.trim().parse().ok())
    };
    let found = number("MAJOR").zip(number("MINOR")).zip(number("PATCH"));
    match found {
        Some(((major, minor), patch)) if (major, minor) == LIBTORCH_VERSION => {
            format!("{major}.{minor}.{patch}")
        }
        other => panic!(
            "libtorch at {} is version {other:?}, but the trainer needs {LIBTORCH_VERSION:?}; \
             point LIBTORCH at libtorch 2.11",
            include.display()
        ),
    }
}
