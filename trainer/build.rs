//! Compiles the C++ shim against the libtorch that torch-sys found, and tells the linker where the
//! binaries and tests of this crate find libtorch at run time, so that nobody needs
//! `LD_LIBRARY_PATH`.
//!
//! Two packages share these sources, each with a lockfile and a tch of its own: see [`FLAVOURS`].

use std::path::{Path, PathBuf};
use std::{env, fs};

/// One libtorch that the trainer is built with.
struct Flavour {
    /// The package that builds it.
    package: &'static str,
    /// The version whose headers the shim is written for, and that the package's tch expects. tch's
    /// own check reads a file that PyPI's wheel does not carry, so it has to be made here.
    libtorch: (u32, u32),
    /// What follows the version in `--version`.
    suffix: &'static str,
    /// The trainer's folder, seen from that of the package.
    sources: &'static str,
    /// The header with the version, below `include`.
    version_header: &'static str,
    /// The folder of the shim whose files stand in for headers that the wheel does not carry.
    stand_ins: &'static [&'static str],
    /// Whether this libtorch's strings are those of GCC 5 and later.
    cxx11_abi: bool,
}

const FLAVOURS: [Flavour; 2] = [
    Flavour {
        package: "marquee-trainer",
        libtorch: (2, 11),
        suffix: "",
        sources: "",
        version_header: "torch/headeronly/version.h",
        stand_ins: &["shim/include"],
        cxx11_abi: true,
    },
    Flavour {
        package: "marquee-trainer-kepler",
        libtorch: (2, 0),
        suffix: "-kepler",
        sources: "../..",
        version_header: "torch/csrc/api/include/torch/version.h",
        stand_ins: &["shim/include", "shim/include-2.0"],
        cxx11_abi: false,
    },
];

/// Where an installed tree keeps libtorch, seen from the folder of the binary.
const INSTALLED_LIB: &str = "$ORIGIN/../lib/marquee/torch/lib";

const SOURCES: &[&str] = &[
    "shim/collective.cpp",
    "shim/device.cpp",
    "shim/optimizer.cpp",
    "shim/runtime.cpp",
    "shim/script.cpp",
    "shim/standing.cpp",
];

const HEADERS: &[&str] = &[
    "shim/address_filter.hpp",
    "shim/guard.hpp",
    "shim/plain_steps.hpp",
    "shim/standing.hpp",
    "shim/versions.hpp",
];

fn main() {
    let package = env::var("CARGO_PKG_NAME").expect("cargo names the package");
    let flavour = FLAVOURS
        .iter()
        .find(|flavour| flavour.package == package)
        .expect("every package with this build script is one of FLAVOURS");
    let sources = Path::new(flavour.sources);
    // Not shim/nccl: "cargo xtask nccl-shim" builds that.
    for part in SOURCES.iter().chain(HEADERS).chain(flavour.stand_ins) {
        println!("cargo:rerun-if-changed={}", sources.join(part).display());
    }
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    // Where tests of either package find their data, seen from CARGO_MANIFEST_DIR.
    println!(
        "cargo:rustc-env=MARQUEE_TRAINER_SOURCES={}",
        flavour.sources
    );
    // What `src/compat.rs` tells tch's versions apart by.
    println!("cargo:rustc-check-cfg=cfg(libtorch_2_0)");
    if flavour.libtorch == (2, 0) {
        println!("cargo:rustc-cfg=libtorch_2_0");
    }
    if env::var_os("CARGO_FEATURE_HEADERLESS").is_some() {
        // Only `cargo check` comes here: there is nothing to link with.
        println!("cargo:rustc-env=MARQUEE_FLAVOUR=none{}", flavour.suffix);
        return;
    }

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
        "cargo:rustc-env=MARQUEE_FLAVOUR=libtorch-{}{}",
        checked_version(&include, flavour),
        flavour.suffix
    );
    compile_shim(sources, &include, flavour);
    // The static archive comes after torch-sys on the linker's line and needs these itself.
    println!("cargo:rustc-link-lib=torch_cpu");
    println!("cargo:rustc-link-lib=c10");

    // The installed place before the one of the build: a binary that is shipped must not look into
    // a developer's folder first.
    println!("cargo:rustc-link-arg=-Wl,-rpath,{INSTALLED_LIB}");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
}

fn compile_shim(sources: &Path, include: &Path, flavour: &Flavour) {
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17");
    // Ours go first: the wheel ships no gloo headers, see shim/include/gloo.
    for folder in flavour.stand_ins {
        build.include(sources.join(folder));
    }
    build
        .include(sources.join("shim"))
        .flag("-isystem")
        .flag(include)
        .flag("-isystem")
        .flag(include.join("torch/csrc/api/include"))
        // As the wheel's libtorch was built: without these two its headers leave out the classes
        // that ranks meet by.
        .define("USE_C10D_GLOO", None)
        .define("USE_DISTRIBUTED", None);
    if !flavour.cxx11_abi {
        build.define("_GLIBCXX_USE_CXX11_ABI", "0");
    }
    // All in one: libtorch's headers take nearly all of a compiler's time, and are read once this way. Without
    // what a debugger wants of them, which would take as long again.
    build
        .debug(false)
        .file(together(sources))
        .compile("marquee_shim");
}

/// One file that includes all of the shim's.
fn together(sources: &Path) -> PathBuf {
    let package =
        PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo says where we are"));
    let include = |file: &&str| format!("#include {:?}\n", package.join(sources).join(file));
    let text: String = SOURCES.iter().map(include).collect();
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo gives us a folder"));
    let file = out.join("shim.cpp");
    fs::write(&file, text)
        .unwrap_or_else(|error| panic!("cannot write {}: {error}", file.display()));
    file
}

/// The version of the headers, such as "2.11.0". Stops the build with a clear word when it is not
/// one that the shim is written for.
fn checked_version(include: &Path, flavour: &Flavour) -> String {
    let (major, minor) = flavour.libtorch;
    let header = include.join(flavour.version_header);
    println!("cargo:rerun-if-changed={}", header.display());
    let text = fs::read_to_string(&header).unwrap_or_else(|error| {
        panic!(
            "no headers of libtorch {major}.{minor} at {} ({error}); set LIBTORCH to its torch folder, or \
             let \"cargo xtask\" do so, which fetches it",
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
        Some((version, patch)) if version == flavour.libtorch => {
            format!("{major}.{minor}.{patch}")
        }
        other => panic!(
            "libtorch at {} is version {other:?}, but {} needs {major}.{minor}; point LIBTORCH at one",
            include.display(),
            flavour.package
        ),
    }
}
